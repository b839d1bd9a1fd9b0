"""Writes on descriptors that block: other threads run meanwhile, and nobody else
touches the loop."""

import os
import select
import signal
import socket
import threading
import tty

import pytest

from uvtulip import uv

SIZE = 3_000_000


class Reader(threading.Thread):
    """Reads the other side until there is nothing more."""

    def __init__(self, fd):
        super().__init__(daemon=True)
        self.fd = fd
        self.parts = []
        self.start()

    def run(self):
        while True:
            try:
                part = os.read(self.fd, 65536)
            except OSError:
                break  # The terminal is closed.
            if not part:
                break
            self.parts.append(part)
        os.close(self.fd)

    def data(self):
        self.join(20)
        assert not self.is_alive()
        return b"".join(self.parts)


def open_pipe(loop):
    reader, writer = os.pipe()
    handle = uv.Pipe(loop)
    handle.open(writer)
    return handle, reader


def open_socket(loop):
    ours, theirs = socket.socketpair()
    handle = uv.Pipe(loop)
    handle.open(ours.detach())
    return handle, theirs.detach()


def open_tcp(loop):
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
    handle = uv.TCP(loop)
    handle.open(ours.detach())
    return handle, theirs.detach()


def open_terminal(loop):
    master, slave = os.openpty()
    tty.setraw(slave)
    handle = uv.TTY(loop, slave)
    os.close(slave)
    return handle, master


OPENERS = [open_pipe, open_socket, open_tcp, open_terminal]


@pytest.fixture(params=OPENERS, ids=lambda opener: opener.__name__)
def stream(request, loop):
    handle, fd = request.param(loop)
    handle.set_blocking(True)
    assert os.get_blocking(handle.fileno())
    return handle, Reader(fd)


DATA = bytes(range(250)) * (SIZE // 250)


@pytest.mark.parametrize("shape", ["bytes", "view", "pieces", "many pieces"])
def test_write(loop, stream, shape):
    handle, reader = stream
    size = {"pieces": 100_000, "many pieces": 1000}.get(shape)
    data = memoryview(DATA) if shape == "view" else DATA
    if size:
        data = [DATA[i : i + size] for i in range(0, SIZE, size)]
    done = []
    handle.write(data, lambda handle, errorno: done.append(errorno))
    assert handle.write_queue_size == 0
    assert done == []
    loop.run_checked()
    assert done == [None]
    handle.close()
    loop.run_checked()
    assert reader.data() == DATA


def test_write_without_a_callback(loop, stream):
    handle, reader = stream
    handle.write(DATA)
    handle.writelines([DATA, b"end"])
    loop.run_checked()
    handle.close()
    loop.run_checked()
    assert reader.data() == DATA + DATA + b"end"


def test_try_write(loop, stream):
    handle, reader = stream
    sent = 0
    while sent < SIZE:
        sent += handle.try_write(memoryview(DATA)[sent:])
    handle.close()
    loop.run_checked()
    assert reader.data() == DATA


def test_write_in_a_callback(loop, stream):
    handle, reader = stream
    timer = uv.Timer(loop)

    def on_timer(timer):
        handle.write(DATA)
        handle.close()
        timer.close()

    timer.start(on_timer, 0)
    loop.run_checked()
    assert reader.data() == DATA


def test_reader_goes_away(loop):
    handle, fd = open_socket(loop)
    handle.set_blocking(True)
    results = []

    def close_later():
        os.read(fd, 1000)
        os.close(fd)

    thread = threading.Thread(target=close_later)
    thread.start()
    handle.write(DATA, lambda handle, errorno: results.append(errorno))
    thread.join()
    loop.run_checked()
    assert results[0] in (uv.errno.UV_EPIPE, uv.errno.UV_ECONNRESET)
    handle.close()


def test_handle_sent_along(loop):
    ours, theirs = socket.socketpair()
    handle = uv.Pipe(loop, True)
    handle.open(ours.detach())
    handle.set_blocking(True)
    given = uv.UDP(loop, socket.AF_INET)
    got = []

    def receive():
        count = 0
        while count < 2 * SIZE:
            data, fds, _, _ = socket.recv_fds(theirs, 65536, 4)
            count += len(data)
            got.extend(fds)
        theirs.close()

    thread = threading.Thread(target=receive)
    thread.start()
    sent = 0
    while sent < SIZE:
        sent += handle.try_write2(memoryview(DATA)[sent:], given)
    done = []
    handle.write(DATA, lambda handle, errorno: done.append(errorno), given)
    loop.run_checked()
    thread.join()
    assert done == [None]
    assert got
    for fd in got:
        os.close(fd)
    handle.close()
    given.close()


def test_others_may_not_touch_the_loop(loop):
    handle, fd = open_pipe(loop)
    handle.set_blocking(True)
    refused = []

    def meddle():
        select.select([fd], [], [])  # It writes.
        try:
            handle.close()
        except RuntimeError as exc:
            refused.append(exc)
        refused.append(Reader(fd))

    thread = threading.Thread(target=meddle)
    thread.start()
    handle.write(DATA)
    thread.join()
    assert len(refused) == 2
    assert not handle.closed
    handle.close()
    loop.run_checked()
    assert refused[1].data() == DATA


def test_signal_handler_ends_it(loop):
    class Stop(Exception):
        pass

    def on_alarm(signum, frame):
        raise Stop

    handle, fd = open_pipe(loop)
    handle.set_blocking(True)
    before = signal.signal(signal.SIGALRM, on_alarm)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(Stop):
            handle.write(DATA)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    os.close(fd)
    handle.close()
    loop.run_checked()


def test_signal_handler_that_returns(loop):
    """The rest is sent after it."""
    handle, fd = open_pipe(loop)
    handle.set_blocking(True)
    readers = []
    before = signal.signal(signal.SIGALRM, lambda *args: readers.append(Reader(fd)))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        handle.write(DATA)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    handle.close()
    loop.run_checked()
    assert readers[0].data() == DATA


def test_made_non_blocking_by_somebody_else(loop):
    handle, fd = open_pipe(loop)
    handle.set_blocking(True)
    os.set_blocking(handle.fileno(), False)
    reader = Reader(fd)
    handle.write(DATA)
    assert handle.write_queue_size == 0
    handle.close()
    loop.run_checked()
    assert reader.data() == DATA


def test_switched_off(loop):
    handle, fd = open_pipe(loop)
    handle.set_blocking(True)
    handle.set_blocking(False)
    handle.write(DATA)
    assert handle.write_queue_size > 0
    reader = Reader(fd)
    loop.run_checked()
    handle.close()
    loop.run_checked()
    assert reader.data() == DATA


def test_fs_lets_others_run():
    reader, writer = os.pipe()
    thread = Reader(reader)
    assert uv.fs.write(None, writer, DATA) == SIZE
    os.close(writer)
    assert thread.data() == DATA
