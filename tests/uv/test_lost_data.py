"""Reads that stop short of the end: nothing behind them is lost when the other side
has hung up meanwhile."""

import os
import socket

import pytest

from ptysupport import hung_up_terminal
from uvtulip import uv

CODES = uv.errno.errorcode


def read_all(loop, stream, into):
    """All that comes, and the error at its end."""
    data, ends = [], []

    def end(handle, errorno):
        ends.append(CODES[errorno])
        handle.close()

    if into:
        buffer = bytearray(300_000)

        def on_updated(handle, count, errorno):
            if errorno is None:
                data.append(bytes(buffer[:count]))
            else:
                end(handle, errorno)

        stream.start_read_into(lambda handle, size: buffer, on_updated)
    else:

        def on_read(handle, chunk, errorno):
            if errorno is None:
                data.append(chunk)
            else:
                end(handle, errorno)

        stream.start_read(on_read)
    loop.run_checked()
    return data, ends


def open_descriptors():
    """How many there are; the one that lists them counts each time."""
    return len(os.listdir("/proc/self/fd"))


into_or_not = pytest.mark.parametrize("into", [False, True])


def written_terminal(size):
    """The master's side of a terminal that was written to and is closed."""
    data = bytes(range(250)) * (size // 250)
    return hung_up_terminal(data), data


@into_or_not
@pytest.mark.parametrize("size", [250, 4000, 5000, 9000])
def test_terminal_as_a_pipe(loop, into, size):
    master, sent = written_terminal(size)
    pipe = uv.Pipe(loop)
    pipe.open(master)
    data, ends = read_all(loop, pipe, into)
    assert b"".join(data) == sent
    assert ends == ["UV_EIO"]


@into_or_not
def test_terminal(loop, into):
    master, sent = written_terminal(9000)
    terminal = uv.TTY(loop, master)
    os.close(master)
    data, ends = read_all(loop, terminal, into)
    assert b"".join(data) == sent
    assert ends == ["UV_EIO"]


def test_terminal_with_a_write_under_way(loop):
    """Room for more to be written is told together with the hang-up."""
    master, sent = written_terminal(9000)
    pipe = uv.Pipe(loop)
    pipe.open(master)
    written = []
    pipe.write(bytes(100_000), lambda handle, errorno: written.append(errorno))
    data, ends = read_all(loop, pipe, False)
    assert b"".join(data) == sent
    assert ends == ["UV_EIO"]
    assert len(written) == 1


@into_or_not
@pytest.mark.parametrize("ipc", [False, True])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_messages_with_descriptors(loop, into, ipc, count):
    uv.Pipe(loop).close()  # What the loop itself opens comes first.
    loop.run(uv.UV_RUN_NOWAIT)
    before = open_descriptors()
    ours, theirs = socket.socketpair()
    for number in range(5):
        socket.send_fds(theirs, [b"message %d\n" % number], [0] * count)
    theirs.close()
    pipe = uv.Pipe(loop, ipc)
    pipe.open(ours.detach())
    data, ends = read_all(loop, pipe, into)
    assert b"".join(data) == b"".join(b"message %d\n" % n for n in range(5))
    assert ends == ["UV_EOF"]
    assert open_descriptors() == before


def test_each_descriptor_can_be_accepted(loop):
    ours, theirs = socket.socketpair()
    for number in range(4):
        socket.send_fds(theirs, [b"%d" % number], [0, 1])
    theirs.close()
    pipe = uv.Pipe(loop, True)
    pipe.open(ours.detach())
    accepted, data, ends = [], [], []

    def on_read(handle, chunk, errorno):
        while handle.pending_count():
            accepted.append(handle.accept_fd())
        if errorno is None:
            data.append(chunk)
        else:
            ends.append(CODES[errorno])
            handle.close()

    pipe.start_read(on_read)
    loop.run_checked()
    for fd in accepted:
        os.close(fd)
    assert (data, ends, len(accepted)) == ([b"0", b"1", b"2", b"3"], ["UV_EOF"], 8)


def connected():
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        return ours, server.accept()[0]


@into_or_not
@pytest.mark.parametrize("inline", [False, True])
@pytest.mark.parametrize("half_closed", [False, True])
def test_urgent_byte(loop, into, inline, half_closed):
    ours, theirs = connected()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, inline)
    if half_closed:
        ours.shutdown(socket.SHUT_WR)
    theirs.sendall(b"before")
    theirs.send(b"!", socket.MSG_OOB)
    theirs.sendall(b"behind")
    theirs.close()
    handle = uv.TCP(loop)
    handle.open(ours.detach())
    data, ends = read_all(loop, handle, into)
    assert b"".join(data) == (b"before!behind" if inline else b"beforebehind")
    assert ends == ["UV_EOF"]


@into_or_not
def test_plain_pipe(loop, into):
    reader, writer = os.pipe()
    os.write(writer, b"x" * 60_000)
    os.close(writer)
    pipe = uv.Pipe(loop)
    pipe.open(reader)
    data, ends = read_all(loop, pipe, into)
    assert (len(b"".join(data)), ends) == (60_000, ["UV_EOF"])


def test_reading_stopped_at_each_piece(loop):
    """Who stops in the middle finds the rest when it goes on."""
    master, sent = written_terminal(9000)
    pipe = uv.Pipe(loop)
    pipe.open(master)
    data, ends = [], []
    timer = uv.Timer(loop)

    def on_read(handle, chunk, errorno):
        if errorno is None:
            data.append(chunk)
            handle.stop_read()
            timer.start(lambda timer: handle.start_read(on_read), 0.001)
        else:
            ends.append(CODES[errorno])
            handle.close()
            timer.close()

    pipe.start_read(on_read)
    loop.run_checked()
    assert b"".join(data) == sent
    assert ends == ["UV_EIO"]


def test_closed_at_the_first_piece(loop):
    master, sent = written_terminal(9000)
    pipe = uv.Pipe(loop)
    pipe.open(master)
    data = []

    def on_read(handle, chunk, errorno):
        data.append(chunk)
        handle.close()

    pipe.start_read(on_read)
    loop.run_checked()
    assert len(data) == 1
    assert sent.startswith(data[0])


def test_descriptor_that_blocks(loop):
    """A read that fills the whole buffer is not followed by one that waits."""
    ours, theirs = socket.socketpair()
    for sock in ours, theirs:
        for option in socket.SO_SNDBUF, socket.SO_RCVBUF:
            sock.setsockopt(socket.SOL_SOCKET, option, 1 << 20)
    pipe = uv.Pipe(loop)
    pipe.open(ours.detach())
    pipe.set_blocking(True)
    buffer = bytearray(1000)
    counts = []

    def on_updated(handle, count, errorno):
        counts.append(count)
        if sum(counts) == 3000:
            handle.close()

    theirs.sendall(bytes(3000))
    pipe.start_read_into(lambda handle, size: buffer, on_updated)
    loop.run_checked()
    assert counts == [1000, 1000, 1000]
    theirs.close()


def test_descriptor_that_blocks_and_has_no_more(loop):
    ours, theirs = socket.socketpair()
    pipe = uv.Pipe(loop)
    pipe.open(ours.detach())
    pipe.set_blocking(True)
    buffer = bytearray(1000)
    counts = []
    timer = uv.Timer(loop)
    timer.start(lambda timer: (pipe.close(), timer.close()), 0.05)
    theirs.sendall(bytes(1000))
    pipe.start_read_into(
        lambda handle, size: buffer, lambda handle, count, errorno: counts.append(count)
    )
    loop.run_checked()
    assert counts == [1000]
    theirs.close()


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_times_of_sending_that_nobody_takes(loop, kind):
    """They leave a socket in an error that reading does not end."""
    if kind == "unix":
        ours, theirs = socket.socketpair()
        handle = uv.Pipe(loop)
    else:
        ours, theirs = connected()
        handle = uv.TCP(loop)
    so_timestamping = 37
    ours.setsockopt(socket.SOL_SOCKET, so_timestamping, 1 << 1 | 1 << 4 | 1 << 7)
    handle.open(ours.detach())
    data = []

    def on_read(handle, chunk, errorno):
        data.append((chunk, errorno))
        handle.close()
        timer.close()

    handle.start_read(on_read)
    handle.write(b"hello")
    timer = uv.Timer(loop)
    timer.start(lambda timer: theirs.sendall(b"answer"), 0.2)
    turns = loop.metrics().loop_count
    loop.run_checked()
    assert data == [(b"answer", None)]
    assert loop.metrics().loop_count - turns < 50
    theirs.close()
