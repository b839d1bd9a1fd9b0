"""What the tests of uv.TLS share: connected ends, peers, a wire to lay hands on."""

import socket
import threading

from tlssupport import client_context, server_context
from uvtulip import uv


def streams(loop, kind=uv.Pipe):
    """Two handles that are connected to each other."""
    if kind is uv.Pipe:
        socks = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as server:
            one = socket.create_connection(server.getsockname())
            socks = one, server.accept()[0]
    handles = []
    for sock in socks:
        handle = kind(loop)
        handle.open(sock.detach())
        handles.append(handle)
    return handles[0], handles[1]


def stream(loop):
    """A handle and the socket of its peer."""
    ours, theirs = socket.socketpair()
    handle = uv.Pipe(loop)
    handle.open(ours.detach())
    theirs.settimeout(20)
    return handle, theirs


class End:
    """One end, with what it was told; reading begins with the handshake's end."""

    def __init__(self, tls, read=True):
        self.tls = tls
        self.events = []
        self.data = bytearray()
        self.read = read
        tls.handshake(self.on_handshake)

    def on_handshake(self, tls, error):
        assert tls is self.tls
        self.events.append(("handshake", error))
        if error is None and self.read and not tls.closed:
            tls.start_read(self.on_read)

    def on_read(self, tls, data, error):
        assert tls is self.tls
        if data is None:
            self.events.append(("end", error))
        else:
            assert error is None
            self.data += data

    def done(self, name):
        return lambda tls, error: self.events.append((name, error))

    @property
    def error(self):
        return self.events[-1][1]


def ends(loop, server=None, client=None, kind=uv.Pipe, read=True, **options):
    one, two = streams(loop, kind)
    options.setdefault("server_hostname", "localhost")
    return (
        End(uv.TLS(one, server or server_context(), server_side=True), read),
        End(uv.TLS(two, client or client_context(), **options), read),
    )


def run_until(loop, condition, seconds=20):
    """Turns of the loop, one at a time; raises what a callback raised.

    The timer ticks because a turn waits for more though a timer was due in it.
    """
    late = []
    ticks = uv.Timer(loop)
    ticks.start(lambda timer: late.append(timer), 0.01, 0.01)
    while not condition():
        assert len(late) < seconds * 100, "it took too long"
        loop.run(uv.UV_RUN_ONCE)
        if loop.raised:
            raise loop.raised.pop(0)
    ticks.close()
    loop.run(uv.UV_RUN_NOWAIT)


def connected(loop, *both):
    run_until(loop, lambda: all(end.events for end in both))
    assert [end.events for end in both] == [[("handshake", None)]] * 2


class Peer(threading.Thread):
    """Runs function(ssl socket) of the other side."""

    def __init__(self, sock, function, context=None, server_side=True, **options):
        super().__init__()
        self.sock = sock
        self.function = function
        self.context = context or server_context()
        self.options = {"server_side": server_side, **options}
        self.result = self.error = None
        self.start()

    def run(self):
        try:
            with self.context.wrap_socket(self.sock, **self.options) as tls:
                tls.settimeout(20)
                self.result = self.function(tls)
        except OSError as error:
            self.error = error

    def finish(self):
        self.join(30)
        assert not self.is_alive()
        if self.error is not None:
            raise self.error
        return self.result


class Wire:
    """Two layers, and between them sockets on which a test lays hands."""

    def __init__(self, loop, read=True):
        self.loop = loop
        server, self.server_sock = stream(loop)
        client, self.client_sock = stream(loop)
        self.client_sock.setblocking(True)
        self.server_sock.setblocking(True)
        self.server = End(uv.TLS(server, server_context(), True), read)
        self.client = End(
            uv.TLS(client, client_context(), server_hostname="localhost"), read
        )

    def carry(self, change=lambda data: data):
        for a, b in ((self.client_sock, self.server_sock),
                     (self.server_sock, self.client_sock)):
            try:
                data = a.recv(1 << 20, socket.MSG_DONTWAIT)
            except BlockingIOError:
                continue
            for piece in change(data):
                b.sendall(piece)
                self.loop.run(uv.UV_RUN_NOWAIT)

    def connect(self, change):
        while not (self.server.events and self.client.events):
            self.loop.run(uv.UV_RUN_NOWAIT)
            self.carry(change)

    def close(self):
        self.server_sock.close()
        self.client_sock.close()
