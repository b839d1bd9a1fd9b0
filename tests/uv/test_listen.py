"""Listening while descriptors run out: nobody is turned away, and the program hears
of it."""

import os
import resource
import socket

import pytest

from uvtulip import uv

CODES = uv.errno.errorcode


class Full:
    """As good as no descriptor is left inside of it."""

    def __init__(self, room):
        self.room = room
        self.fillers = []

    def __enter__(self):
        self.limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        top = max(int(name) for name in os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (top + 20, self.limits[1]))
        while True:
            try:
                self.fillers.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                break
        for _ in range(self.room):
            os.close(self.fillers.pop())
        return self

    def empty(self):
        while self.fillers:
            os.close(self.fillers.pop())

    def __exit__(self, *unused):
        self.empty()
        resource.setrlimit(resource.RLIMIT_NOFILE, self.limits)


@pytest.fixture(params=["tcp", "pipe", "abstract"])
def place(request, tmp_path):
    """How to make a server, a client for it, and a handle for what it accepts."""
    if request.param == "tcp":

        def bind(server):
            server.bind(("127.0.0.1", 0))
            return socket.AF_INET, server.getsockname()

        return uv.TCP, bind
    name = str(tmp_path / "socket")
    if request.param == "abstract":
        name = f"\0uvtulip-listen-{os.getpid()}"

    def bind(server):
        server.bind(name)
        return socket.AF_UNIX, name

    return uv.Pipe, bind


class Server:
    def __init__(self, loop, place):
        self.kind, bind = place
        self.loop = loop
        self.handle = self.kind(loop)
        family, self.address = bind(self.handle)
        self.accepted, self.errors = [], []
        self.clients = [socket.socket(family) for _ in range(12)]
        self.handle.listen(self.on_connection)
        loop.run(uv.UV_RUN_NOWAIT)

    def on_connection(self, server, errorno):
        if errorno is not None:
            self.errors.append(CODES[errorno])
            return
        client = self.kind(self.loop)
        server.accept(client)
        self.accepted.append(client)

    def connect(self):
        for client in self.clients:
            client.connect(self.address)

    def run(self, seconds):
        timer = uv.Timer(self.loop)
        timer.start(lambda timer: (self.loop.stop(), timer.close()), seconds)
        before = self.loop.metrics().loop_count
        self.loop.run()
        return self.loop.metrics().loop_count - before

    def check_all_are_served(self):
        for client in self.accepted:
            client.try_write(b"hello")
        for client in self.clients:
            client.settimeout(10)
            assert client.recv(10) == b"hello"

    def close(self):
        for handle in [self.handle, *self.accepted]:
            if not handle.closed:
                handle.close()
        for client in self.clients:
            client.close()
        self.loop.run_checked()


@pytest.mark.parametrize("room", [0, 3])
def test_clients_wait(loop, place, room):
    server = Server(loop, place)
    with Full(room) as full:
        server.connect()
        turns = server.run(0.3)
        assert len(server.accepted) == room
        assert set(server.errors) == {"UV_EMFILE"}
        assert turns < 60
        full.empty()
        while len(server.accepted) < 12:
            server.run(0.05)
    server.check_all_are_served()
    server.close()


def test_each_rest_is_told(loop, place):
    """So a program can make room, again and again."""
    server = Server(loop, place)
    with Full(0) as full:

        def on_connection(handle, errorno):
            if errorno is not None and full.fillers:
                os.close(full.fillers.pop())
            server.on_connection(handle, errorno)

        server.handle.close()
        loop.run(uv.UV_RUN_NOWAIT)
        server.handle = server.kind(loop)
        full.empty()
        _, server.address = place[1](server.handle)
        server.handle.listen(on_connection)
        server.connect()
        while True:
            try:
                full.fillers.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                break
        while len(server.accepted) < 4:
            server.run(0.05)
        assert len(server.errors) >= 4
        full.empty()
        while len(server.accepted) < 12:
            server.run(0.05)
    server.check_all_are_served()
    server.close()


def test_closed_while_it_rests(loop, place):
    server = Server(loop, place)
    with Full(0):
        server.connect()
        server.run(0.05)
        assert server.errors
        server.close()
    assert server.accepted == []


def test_closed_when_it_is_told(loop, place):
    server = Server(loop, place)
    with Full(0):
        told = []

        def on_connection(handle, errorno):
            told.append(CODES[errorno])
            handle.close()

        server.handle.listen(on_connection)
        server.connect()
        loop.run_checked()
        assert told == ["UV_EMFILE"]
    server.close()


def test_not_accepted_at_once(loop, place):
    """One connection waits for accept(), and the next ones behind it."""
    server = Server(loop, place)
    told = []
    server.handle.listen(lambda handle, errorno: told.append(errorno))
    server.connect()
    assert server.run(0.1) < 30
    assert told == [None]
    while len(server.accepted) < 12:
        client = server.kind(loop)
        server.handle.accept(client)
        server.accepted.append(client)
        server.run(0.01)
    assert told == [None] * 12
    with pytest.raises(uv.error.UVError) as caught:
        server.handle.accept(server.kind(loop))
    assert caught.value.name == "EAGAIN"
    server.check_all_are_served()
    server.close()


def test_several_accepted_in_a_callback(loop, place):
    """accept() gives one for each call of the callback."""
    server = Server(loop, place)
    codes = []

    def on_connection(handle, errorno):
        server.on_connection(handle, errorno)
        extra = server.kind(loop)
        try:
            handle.accept(extra)
        except OSError as exc:
            codes.append(exc.name)
        extra.close()

    server.handle.listen(on_connection)
    server.connect()
    while len(server.accepted) < 12:
        server.run(0.01)
    assert codes == ["EAGAIN"] * 12
    server.check_all_are_served()
    server.close()


def test_listening_twice(loop, place):
    server = Server(loop, place)
    server.handle.listen(server.on_connection, 100)
    server.connect()
    while len(server.accepted) < 12:
        server.run(0.01)
    server.close()


def test_not_referenced(loop, place):
    server = Server(loop, place)
    assert server.handle.active
    server.handle.ref = False
    assert not loop.run()
    server.handle.ref = True
    assert loop.run(uv.UV_RUN_NOWAIT)
    server.close()


def test_shut_down_by_somebody(loop, place):
    server = Server(loop, place)
    with socket.socket(fileno=os.dup(server.handle.fileno())) as sock:
        sock.shutdown(socket.SHUT_RDWR)
    loop.run_checked()
    assert server.errors == ["UV_EINVAL"]
    assert server.handle.closed
    server.close()


def test_aborted_connections_are_passed_over(loop):
    server = Server(
        loop,
        (
            uv.TCP,
            lambda server: (
                server.bind(("127.0.0.1", 0)),
                (socket.AF_INET, server.getsockname()),
            )[1],
        ),
    )
    server.connect()
    for client in server.clients[::2]:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
    server.clients = server.clients[1::2]
    while len(server.accepted) < 6:
        server.run(0.05)
    server.run(0.05)
    assert server.errors == []
    for client in server.accepted:
        try:
            client.try_write(b"hello")
        except OSError as exc:
            assert exc.name in ("EPIPE", "ECONNRESET")
    for client in server.clients:
        client.settimeout(10)
        assert client.recv(10) == b"hello"
    server.close()


def test_descriptors_sent_along_wait(loop):
    """Received with none left they would be lost: reading ends with an error, and
    goes on when it is begun again."""
    ours, theirs = socket.socketpair()
    pipe = uv.Pipe(loop, True)
    pipe.open(ours.detach())
    data, codes, fds = [], [], []

    def on_read(pipe, chunk, errorno):
        if errorno is not None:
            codes.append(CODES[errorno])
            return
        data.append(chunk)
        while pipe.pending_count():
            fds.append(pipe.accept_fd())

    pipe.start_read(on_read)
    loop.run(uv.UV_RUN_NOWAIT)
    socket.send_fds(theirs, [b"first"], [0])
    socket.send_fds(theirs, [b"second"], [0])
    theirs.close()
    with Full(0):
        loop.run_checked()
        assert (data, codes) == ([], ["UV_EMFILE"])
        pipe.start_read(on_read)
        loop.run_checked()
        assert codes == ["UV_EMFILE"] * 2
    pipe.start_read(on_read)
    loop.run_checked()
    assert data == [b"first", b"second"]
    assert codes == ["UV_EMFILE"] * 2 + ["UV_EOF"]
    assert len(fds) == 2
    for fd in fds:
        os.close(fd)
    pipe.close()
    loop.run_checked()
