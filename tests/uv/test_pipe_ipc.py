"""Handles sent over Pipe handles: between loops, and between processes."""

import gc
import os
import pty
import socket
import subprocess
import sys
import weakref

import pytest

from uvtulip import uv

UV = uv.errno


def nothing(*args):
    raise AssertionError(f"called with {args}")


def code_of(call, *args):
    with pytest.raises(uv.error.PipeError) as caught:
        call(*args)
    return caught.value.args[0]


@pytest.fixture
def ends(loop):
    """Two ipc pipes that are connected."""
    pipes = []
    for fd in uv.socketpair():
        pipe = uv.Pipe(loop, ipc=True)
        pipe.open(fd)
        pipes.append(pipe)
    return pipes


@pytest.fixture
def half(loop):
    """An ipc pipe and the socket at its other end."""
    ours, theirs = socket.socketpair()
    pipe = uv.Pipe(loop, ipc=True)
    pipe.open(ours.detach())
    with theirs:
        yield pipe, theirs


def tcp(loop):
    handle = uv.TCP(loop)
    handle.bind(("127.0.0.1", 0))
    return handle


def udp(loop):
    handle = uv.UDP(loop)
    handle.bind(("127.0.0.1", 0))
    return handle


def pipe(loop):
    a, b = socket.socketpair()
    handle = uv.Pipe(loop)
    handle.open(a.detach())
    handle.peer = b
    return handle


KINDS = {
    "TCP": (tcp, uv.TCP, uv.UV_TCP),
    "UDP": (udp, uv.UDP, uv.UV_UDP),
    "Pipe": (pipe, uv.Pipe, uv.UV_NAMED_PIPE),
}


def same_socket(one, other):
    return os.path.sameopenfile(one.fileno(), other.fileno())


@pytest.mark.parametrize("kind", list(KINDS))
def test_send_and_accept(loop, ends, kind):
    make, cls, number = KINDS[kind]
    sent = make(loop)
    events = []

    def on_read(handle, data, error):
        assert (data, error) == (b"take this", None)
        assert handle.pending_count() == 1
        assert handle.pending_handle_type() == number
        got = cls(loop)
        handle.accept(got)
        assert same_socket(got, sent) and got.fileno() != sent.fileno()
        assert handle.pending_count() == 0
        assert handle.pending_handle_type() == uv.UV_UNKNOWN_HANDLE
        for each in (got, sent, *ends):
            each.close()
        events.append("got")

    ends[1].start_read(on_read)
    ends[0].write(b"take this", lambda handle, error: events.append(error), sent)
    assert events == []
    loop.run_checked()
    assert sorted(map(str, events)) == ["None", "got"]
    if kind == "Pipe":
        sent.peer.close()


def test_received_connection_works(loop, ends):
    """A connected TCP socket, its first owner gone."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        peer = socket.create_connection(server.getsockname())
        connection, _ = server.accept()
    peer.settimeout(10)
    first = uv.TCP(loop)
    first.open(connection.detach())
    got = []

    def on_read(handle, data, error):
        client = uv.TCP(loop)
        handle.accept(client)
        client.start_read(lambda h, data, error: (got.append(data), h.write(data),
                                                  h.close()))
        handle.close()

    ends[1].start_read(on_read)
    ends[0].write([b"a", b"b"], lambda handle, error: (first.close(), handle.close()),
                  first)
    with peer:
        peer.send(b"to the second")
        loop.run_checked()
        assert got == [b"to the second"] == [peer.recv(100)]


def test_several_wait(loop, half):
    handle, sock = half
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(5)]
    for i, server in enumerate(servers):
        socket.send_fds(sock, [b"%d" % i], [server.fileno()])
    socket.send_fds(sock, [b"!"], [server.fileno() for server in servers])
    names = []

    def on_read(handle, data, error):
        if b"!" not in data:
            return
        assert handle.pending_count() == 10
        while handle.pending_count():
            client = uv.TCP(loop)
            handle.accept(client)
            names.append(client.getsockname())
            client.close()
        handle.close()

    handle.start_read(on_read)
    loop.run_checked()
    assert names == [server.getsockname() for server in servers] * 2
    for server in servers:
        server.close()


def test_accept_later_without_reading(loop, half):
    """A pipe that has stopped reading stays quiet after accept()."""
    handle, sock = half
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.send_fds(sock, [b"x"], [server.fileno()])
        got = []
        handle.start_read(lambda h, data, error: (got.append(data), h.stop_read()))
        loop.run_checked()
        sock.send(b"unread")
        client = uv.TCP(loop)
        handle.accept(client)
        assert client.getsockname() == server.getsockname()
        assert not handle.active
        turns = []
        check = uv.Check(loop)
        check.start(lambda h: turns.append(h))
        timer = uv.Timer(loop)
        timer.start(lambda h: loop.stop(), 0.2)
        loop.run()
        assert got == [b"x"] and len(turns) < 20
        handle.start_read(lambda h, data, error: (got.append(data), h.close()))
        loop.run(uv.UV_RUN_NOWAIT)
        assert got == [b"x", b"unread"]


def test_accept_of_another_type(loop, half):
    handle, sock = half
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        socket.send_fds(sock, [b"x"], [datagrams.fileno()])
        handle.start_read(lambda h, data, error: h.stop_read())
        loop.run_checked()
        for wrong in (uv.TCP(loop), uv.Pipe(loop), uv.Timer(loop),
                      uv.UDP(loop, socket.AF_INET)):
            with pytest.raises((TypeError, ValueError)):
                handle.accept(wrong)
        for wrong in (None, 5, sock):
            with pytest.raises(TypeError):
                handle.accept(wrong)
        assert handle.pending_count() == 1
        right = uv.UDP(loop)
        handle.accept(right)
        assert same_socket(right, datagrams)


def test_accept_nothing(loop, ends):
    assert code_of(ends[0].accept, uv.TCP(loop)) == UV.UV_EAGAIN
    assert code_of(ends[0].accept_fd) == UV.UV_EAGAIN
    plain = uv.Pipe(loop)
    assert code_of(plain.accept, uv.TCP(loop)) == UV.UV_EAGAIN
    assert code_of(plain.accept_fd) == UV.UV_EAGAIN


def test_accept_into_unfit_handles(loop, half):
    handle, sock = half
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.send_fds(sock, [b"x"], [server.fileno()])
        handle.start_read(lambda h, data, error: h.stop_read())
        loop.run_checked()
        other = uv.Loop()
        foreign = uv.TCP(other)
        with pytest.raises(ValueError, match="another loop"):
            handle.accept(foreign)
        foreign.close()
        other.run()
        other.close()
        used = tcp(loop)
        with pytest.raises(ValueError, match="in use"):
            handle.accept(used)
        used.close()
        with pytest.raises(uv.error.HandleClosedError):
            handle.accept(used)
        with pytest.raises(RuntimeError):
            handle.accept(uv.TCP.__new__(uv.TCP))
        fresh = uv.TCP(loop)
        handle.accept(fresh)
        assert fresh.getsockname() == server.getsockname()


def test_accept_fd(loop, half, tmp_path):
    """Files, which no handle can take."""
    handle, sock = half
    with open(tmp_path / "file", "wb") as file, open(os.devnull) as null:
        socket.send_fds(sock, [b"x"], [file.fileno(), null.fileno(), sock.fileno()])
        handle.start_read(lambda h, data, error: h.stop_read())
        loop.run_checked()
        assert handle.pending_handle_type() == uv.UV_FILE
        for cls in (uv.TCP, uv.Pipe, uv.UDP):
            with pytest.raises(TypeError, match="accept_fd"):
                handle.accept(cls(loop))
        for expected in (file, null, sock):
            fd = handle.accept_fd()
            assert os.path.sameopenfile(fd, expected.fileno())
            assert not os.get_inheritable(fd)
            os.close(fd)
        assert handle.pending_count() == 0


def test_terminal(loop, half):
    handle, sock = half
    master, slave = pty.openpty()
    socket.send_fds(sock, [b"x"], [slave])
    handle.start_read(lambda h, data, error: h.stop_read())
    loop.run_checked()
    assert handle.pending_handle_type() == uv.UV_TTY
    taker = uv.Pipe(loop)
    handle.accept(taker)
    assert os.isatty(taker.fileno())
    os.close(master)
    os.close(slave)


def test_pending_ones_are_closed_with_the_pipe(loop, half):
    handle, sock = half
    a, b = socket.socketpair()
    b.settimeout(10)
    socket.send_fds(sock, [b"x"], [a.fileno(), a.fileno()])
    a.close()
    handle.start_read(lambda h, data, error: h.close())
    loop.run_checked()
    with b:
        assert b.recv(1) == b""


# ---- sending ----


def test_send_refuses(loop, ends):
    handle = ends[0]
    other = uv.Loop()
    foreign = tcp(other)
    closed = tcp(loop)
    closed.close()
    plain = pipe(loop)
    for call in (lambda data, sent: handle.write(data, None, sent), handle.try_write2):
        for bad in (5, "handle", uv.Timer(loop), uv.Idle(loop)):
            with pytest.raises(TypeError):
                call(b"x", bad)
        with pytest.raises(ValueError, match="another loop"):
            call(b"x", foreign)
        with pytest.raises(uv.error.HandleClosedError):
            call(b"x", closed)
        with pytest.raises(RuntimeError):
            call(b"x", uv.TCP.__new__(uv.TCP))
        for empty in (b"", [b"", b""]):
            with pytest.raises(ValueError, match="needs data"):
                call(empty, tcp(loop))
        with pytest.raises(TypeError):
            call("text", tcp(loop))
        assert code_of(call, b"x", uv.TCP(loop)) == UV.UV_EBADF
    for call in (lambda: plain.write(b"x", None, tcp(loop)),
                 lambda: plain.try_write2(b"x", tcp(loop))):
        with pytest.raises(ValueError, match="ipc"):
            call()
    with pytest.raises(TypeError):
        handle.write(b"x", 5, tcp(loop))
    with pytest.raises(TypeError):
        handle.write(b"x", None, None, None)
    with pytest.raises(TypeError):
        handle.write()
    assert code_of(uv.Pipe(loop, True).write, b"x", None, tcp(loop)) == UV.UV_EBADF
    plain.peer.close()
    foreign.close()
    other.run()
    other.close()


def test_write_without_a_handle(loop, half):
    handle, sock = half
    seen = []
    handle.write(b"a")
    handle.write(b"b", None)
    handle.write(b"c", None, None)
    handle.write(b"d", lambda h, error: seen.append(error), None)
    loop.run_checked()
    assert sock.recv(100) == b"abcd" and seen == [None]


def test_try_write2(loop, half):
    handle, sock = half
    sent = tcp(loop)
    assert handle.try_write2([b"ab", b"c"], sent) == 3
    data, fds, _, _ = socket.recv_fds(sock, 100, 4)
    assert data == b"abc" and os.path.sameopenfile(fds[0], sent.fileno())
    os.close(fds[0])
    handle.write(bytes(1 << 20))
    assert code_of(handle.try_write2, b"x", sent) == UV.UV_EAGAIN
    with pytest.raises(TypeError):
        handle.try_write2(b"x")


def test_sent_handle_stays_alive_until_the_end_of_the_write(loop, half):
    handle, sock = half
    handle.write(bytes(1 << 20))        # more than the socket holds
    sent = tcp(loop)
    name = sent.getsockname()
    ref = weakref.ref(sent)
    handle.write(b"last", None, sent)
    del sent
    gc.collect()
    assert ref() is not None
    got, fds = b"", []
    sock.setblocking(False)
    while not got.endswith(b"last"):
        loop.run(uv.UV_RUN_NOWAIT)
        data, more, _, _ = socket.recv_fds(sock, 1 << 16, 4)
        got += data
        fds += more
    loop.run(uv.UV_RUN_NOWAIT)
    gc.collect()
    assert ref() is None and len(fds) == 1
    with socket.socket(fileno=fds[0]) as received:
        assert received.getsockname() == name


@pytest.mark.parametrize("collected", [False, True])
def test_sent_handle_is_closed_before_it_leaves(loop, half, collected):
    """libuv looks at it still: its memory has to stay."""
    handle, sock = half
    events = []
    handle.write(bytes(1 << 20), lambda h, error: events.append(error))
    sent = tcp(loop)
    handle.write(b"last", lambda h, error: events.append(error), sent)
    sent.close(lambda h: events.append("closed"))
    if collected:
        del sent
    loop.run(uv.UV_RUN_NOWAIT)
    gc.collect()
    assert events == ["closed"]
    sock.settimeout(10)
    left = 1 << 20
    while left:
        left -= len(sock.recv(left))
        loop.run(uv.UV_RUN_NOWAIT)
    loop.run(uv.UV_RUN_NOWAIT)
    assert events == ["closed", None, UV.UV_EBADF]


def test_pipe_is_closed_with_a_handle_under_way(loop, half):
    handle, sock = half
    events = []
    handle.write(bytes(1 << 20))
    sent = tcp(loop)
    handle.write(b"x", lambda h, error: events.append(error), sent)
    handle.close(lambda h: events.append("closed"))
    sent.close()
    loop.run_checked()
    assert events == [UV.UV_ECANCELED, "closed"]


def test_dropped_loop_with_a_handle_under_way():
    def drop():
        loop = uv.Loop()
        a, b = socket.socketpair()
        handle = uv.Pipe(loop, True)
        handle.open(a.detach())
        handle.write(bytes(1 << 20))
        sent = tcp(loop)
        handle.write(b"x", lambda h, error: loop, sent)
        b.close()
        return [weakref.ref(thing) for thing in (loop, handle, sent)]

    refs = drop()
    gc.collect()
    assert [ref() for ref in refs] == [None] * 3


# ---- between processes ----

CHILD = """
from uvtulip import uv

loop = uv.Loop()
channel = uv.Pipe(loop, ipc=True)
channel.open(3)

def on_read(channel, data, error):
    if error is not None:
        channel.close()
        return
    server = uv.TCP(loop)
    channel.accept(server)
    server.listen(on_connection)
    channel.write(b"ready")

def on_connection(server, error):
    client = uv.TCP(loop)
    server.accept(client)
    client.write(b"from the child", lambda client, error: client.close())
    server.close()

channel.start_read(on_read)
loop.run()
"""


def test_server_given_to_a_child(loop):
    """The listening socket goes to a child over the pipe of its stdio."""
    channel = uv.Pipe(loop, ipc=True)
    both = uv.UV_CREATE_PIPE | uv.UV_READABLE_PIPE | uv.UV_WRITABLE_PIPE
    process = uv.Process.spawn(
        loop, [sys.executable, "-c", CHILD],
        stdio=[None, None, uv.StdIO(fd=2, flags=uv.UV_INHERIT_FD),
               uv.StdIO(channel, flags=both)])
    server = tcp(loop)
    address = server.getsockname()
    got = []

    def on_ready(channel, data, error):
        assert data == b"ready"
        server.close()
        uv.TCP(loop).connect(address, on_connect)

    def on_connect(client, error):
        assert error is None
        client.start_read(on_read)

    def on_read(client, data, error):
        if data is not None:
            got.append(data)
        else:
            client.close()
            channel.close()

    channel.start_read(on_ready)
    channel.write(b"serve", None, server)
    loop.run_checked(30)
    assert got == [b"from the child"] and process.exit_status == 0


def test_with_another_program(loop, half):
    """Python's own send_fds and recv_fds in another process."""
    handle, sock = half
    code = """if True:
        import os, socket, sys
        with socket.socket(fileno=int(sys.argv[1])) as sock:
            data, fds, _, _ = socket.recv_fds(sock, 10, 1)
            socket.send_fds(sock, [data[::-1]], fds)
        """
    child = subprocess.Popen([sys.executable, "-S", "-c", code, str(sock.fileno())],
                             pass_fds=[sock.fileno()])
    sent = udp(loop)
    got = []

    def on_read(handle, data, error):
        taker = uv.UDP(loop)
        handle.accept(taker)
        got.append((data, same_socket(taker, sent)))
        for each in (taker, sent, handle):
            each.close()

    handle.start_read(on_read)
    handle.write(b"ab", None, sent)
    loop.run_checked(30)
    assert child.wait(30) == 0 and got == [(b"ba", True)]
