"""uv.TLS: a layer over a stream handle, by both backends."""

import gc
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
import weakref

import pytest

from tlssupport import authority, certificate, client_context, server_context, tls12
from uvtulip import _uv, uv

EOF = uv.errno.UV_EOF
CANCELED = uv.errno.UV_ECANCELED


@pytest.fixture(params=["openssl", "memory-bio"], autouse=True)
def backend(request):
    before = _uv._tls_backend(None)
    assert _uv._tls_backend(request.param == "memory-bio") == request.param
    yield request.param
    _uv._tls_backend(before == "memory-bio")


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


# ---- the way through ----


@pytest.mark.parametrize("kind", [uv.Pipe, uv.TCP])
@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_there_and_back(loop, backend, kind, version):
    change = tls12 if version == "TLSv1.2" else lambda context: context
    server, client = ends(loop, client=change(client_context()), kind=kind)
    assert server.tls.active and client.tls.active
    assert not client.tls.readable and not client.tls.writable
    connected(loop, server, client)
    for end in (server, client):
        tls = end.tls
        assert (tls.version(), tls.backend) == (version, backend)
        assert tls.cipher()[2] >= 128 and tls.readable and tls.writable
        assert isinstance(tls.ssl_object, ssl.SSLObject)
        assert isinstance(tls.context, ssl.SSLContext)
        assert tls.loop is loop and isinstance(tls.stream, kind)
    assert (server.tls.server_side, client.tls.server_side) == (True, False)
    assert client.tls.server_hostname == "localhost"
    assert client.tls.getpeercert()["subjectAltName"] == (("DNS", "localhost"),)
    assert client.tls.getpeercert(binary_form=True)[:1] == b"\x30"
    assert server.tls.getpeercert() is None
    client.tls.write(b"hello", client.done("written"))
    assert client.events == [("handshake", None)]       # comes from the loop
    run_until(loop, lambda: server.data == b"hello")
    server.tls.write([b"a", b"", bytearray(b"b"), memoryview(b"c")])
    run_until(loop, lambda: client.data == b"abc")
    assert client.events[1:] == [("written", None)]
    client.tls.shutdown(client.done("shut"))
    assert not client.tls.writable
    run_until(loop, lambda: server.events[1:] and client.events[2:])
    assert server.events[1:] == [("end", EOF)] and not server.tls.readable
    assert client.events[2:] == [("shut", None)]
    server.tls.write(b"still")          # only the other direction has ended
    server.tls.shutdown(server.done("shut"))
    run_until(loop, lambda: len(client.events) == 4)
    assert client.data == b"abcstill" and client.events[3] == ("end", EOF)
    assert not server.tls.active
    for end in (server, client):
        end.tls.close(lambda tls, end=end: end.events.append("closed"))
        assert end.tls.closed and end.tls.stream.closed
        loop.run_checked()
        assert end.events[-1] == "closed" and end.tls.loop is None
        assert end.tls.ssl_object.version() == version


@pytest.mark.parametrize("pieces", [1, 1000])
def test_megabytes_both_ways(loop, pieces):
    data = os.urandom(5_000_000)
    size = len(data) // pieces
    server, client = ends(loop)
    for end in (server, client):
        for start in range(0, len(data), size):
            end.tls.write(data[start : start + size], end.done(start))
        assert end.tls.write_queue_size >= len(data)
    run_until(loop, lambda: len(server.data) + len(client.data) == 2 * len(data))
    run_until(loop, lambda: len(server.events) == len(client.events) == pieces + 1)
    assert server.data == client.data == data
    order = [(start, None) for start in range(0, len(data), size)]
    assert server.events[1:] == client.events[1:] == order
    assert server.tls.write_queue_size == 0


def test_pieces_that_share_records(loop):
    server, client = ends(loop)
    sizes = [n % 40_000 * (n % 3 == 0) + n % 7 for n in range(0, 90_000, 997)]
    pieces = [os.urandom(size) for size in sizes]
    client.tls.writelines(iter(pieces))
    run_until(loop, lambda: len(server.data) == sum(map(len, pieces)))
    assert server.data == b"".join(pieces)


def test_slow_reader(loop):
    """What is not read waits on the other side, and not as ciphertext."""
    server, client = ends(loop, read=False)
    connected(loop, server, client)
    client.tls.write(bytes(20_000_000), client.done("written"))
    for _ in range(50):
        loop.run(uv.UV_RUN_NOWAIT)
    assert client.tls.write_queue_size > 15_000_000
    assert client.tls.stream.write_queue_size < 1_000_000
    assert not server.tls.stream.active
    server.tls.start_read(server.on_read)
    run_until(loop, lambda: len(server.data) == 20_000_000)
    run_until(loop, lambda: client.events[-1] == ("written", None))


def test_stop_and_go_on(loop):
    """One read at a time; the rest waits though it has come already."""
    server, client = ends(loop, read=False)
    connected(loop, server, client)
    got = []

    def on_read(tls, data, error):
        got.append(data)
        tls.stop_read()

    client.tls.write(bytes(1_000_000))
    client.tls.shutdown()
    turns = 0
    while None not in got:
        before = len(got)
        server.tls.start_read(on_read)
        assert len(got) == before       # never from inside of the call
        run_until(loop, lambda before=before: len(got) > before)
        assert len(got) == before + 1
        for _ in range(3):
            loop.run(uv.UV_RUN_NOWAIT)
        assert len(got) == before + 1
        turns += 1
    assert b"".join(got[:-1]) == bytes(1_000_000) and turns > 8
    again = []
    server.tls.start_read(lambda tls, data, error: again.append((data, error)))
    run_until(loop, lambda: again)
    assert again == [(None, EOF)]


def test_data_with_the_last_of_the_handshake(loop):
    """It is there before anybody reads, and comes when somebody does."""
    server, client = ends(loop, read=False)
    client.tls.write(b"early", client.done("written"))
    run_until(loop, lambda: server.events and len(client.events) == 2)
    assert client.events == [("handshake", None), ("written", None)]
    server.tls.start_read(server.on_read)
    run_until(loop, lambda: server.data == b"early")


def test_start_read_before_the_handshake(loop):
    one, two = streams(loop)
    data = []
    server = uv.TLS(one, server_context(), True)
    server.handshake(lambda tls, error: data.append(error))
    server.start_read(lambda tls, more, error: data.append(more))
    client = End(uv.TLS(two, client_context(), server_hostname="localhost"))
    client.tls.write(b"x")
    run_until(loop, lambda: len(data) == 2)
    assert data == [None, b"x"]


def test_empty_writes(loop):
    server, client = ends(loop)
    client.tls.write(b"", client.done("empty"))
    client.tls.write([b"", b""], client.done("more"))
    client.tls.write(b"")
    client.tls.write(b"x")
    run_until(loop, lambda: server.data == b"x" and len(client.events) == 3)
    assert client.events[1:] == [("empty", None), ("more", None)]


def test_shutdown_with_unread_data_on_both_sides(loop):
    """close_notify passes what the other side has sent meanwhile."""
    server, client = ends(loop, read=False)
    connected(loop, server, client)
    got = []
    for end in (server, client):
        end.tls.write(bytes(200_000))

    def on_read(tls, data, error):
        got.append(len(data))
        tls.stop_read()
        tls.shutdown()

    server.tls.start_read(on_read)
    run_until(loop, lambda: got)
    client.tls.start_read(client.on_read)
    server.tls.start_read(server.on_read)
    run_until(loop, lambda: len(client.data) + got[0] + len(server.data) == 400_000)
    run_until(loop, lambda: client.events[-1] == ("end", EOF))
    client.tls.shutdown()
    run_until(loop, lambda: server.events[-1] == ("end", EOF))


def test_try_write(loop):
    server, client = ends(loop)
    with pytest.raises(uv.error.TLSError) as info:
        client.tls.try_write(b"x")
    assert info.value.name == "EAGAIN"
    connected(loop, server, client)
    assert client.tls.try_write(b"abc") == 3
    assert client.tls.try_write(b"") == 0
    assert client.tls.try_write([b"x" * 10_000, b"y" * 20_000]) == 16384
    assert client.tls.try_write(bytes(20_000)) == 16384
    run_until(loop, lambda: len(server.data) == 3 + 2 * 16384)
    server.tls.stop_read()
    with pytest.raises(uv.error.TLSError) as info:
        while True:
            client.tls.try_write(bytes(16384))
    assert info.value.name == "EAGAIN"


# ---- what the context decides ----


def test_client_certificates(loop):
    context = client_context()
    certificate("someone@example.org").configure_cert(context)
    server, client = ends(loop, server_context(verify_mode=ssl.CERT_REQUIRED), context)
    connected(loop, server, client)
    cert = server.tls.getpeercert()
    assert cert["subjectAltName"] == (("email", "someone@example.org"),)


@pytest.mark.parametrize("change", [tls12, lambda context: context])
def test_no_client_certificate(loop, change):
    """With TLS 1.3 the client hears of it when it reads."""
    server, client = ends(
        loop,
        server_context(verify_mode=ssl.CERT_REQUIRED),
        change(client_context()),
    )
    run_until(
        loop,
        lambda: server.events and client.events and client.error is not None,
    )
    assert isinstance(server.error, ssl.SSLError)
    assert isinstance(client.error, ssl.SSLError)
    assert client.error.reason.endswith("ALERT_CERTIFICATE_REQUIRED") or (
        change is tls12 and "ALERT" in client.error.reason
    )


def test_alpn(loop):
    contexts = server_context(), client_context()
    contexts[0].set_alpn_protocols(["h2", "http/1.1"])
    contexts[1].set_alpn_protocols(["http/1.1", "other"])
    server, client = ends(loop, *contexts)
    connected(loop, server, client)
    assert server.tls.selected_alpn_protocol() == "http/1.1"
    assert client.tls.selected_alpn_protocol() == "http/1.1"


def test_sni(loop):
    """The server's context is chosen by name, and the callback may use the handle."""
    other = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate("other.example").configure_cert(other)
    context = server_context()
    seen = []

    def on_name(obj, name, original):
        seen.append(name)
        assert obj is server.tls.ssl_object
        server.tls.write(b"from inside", server.done("written"))
        with pytest.raises(uv.error.TLSError):
            server.tls.handshake(print)
        with pytest.raises(uv.error.TLSError):
            server.tls.try_write(b"x")
        obj.context = other

    context.sni_callback = on_name
    server, client = ends(loop, context, server_hostname="other.example")
    run_until(loop, lambda: client.data == b"from inside")
    assert seen == ["other.example"] and server.events[0] == ("handshake", None)
    assert client.tls.getpeercert()["subjectAltName"] == (("DNS", "other.example"),)


@pytest.mark.parametrize("close", ["tls", "stream"])
def test_sni_callback_that_closes(loop, close):
    context = server_context()
    context.sni_callback = lambda *args: (
        server.tls if close == "tls" else server.tls.stream
    ).close()
    server, client = ends(loop, context)
    run_until(loop, lambda: server.events and client.events)
    assert server.events == [("handshake", CANCELED)] and server.tls.closed
    assert client.error == EOF or client.error == uv.errno.UV_ECONNRESET


@pytest.mark.parametrize("change", [tls12, lambda context: context])
def test_session(loop, change):
    contexts = server_context(), change(client_context())
    server, client = ends(loop, *contexts)
    connected(loop, server, client)
    server.tls.write(b"x")
    run_until(loop, lambda: client.data)
    session = client.tls.session
    assert session.has_ticket and not client.tls.session_reused
    server, client = ends(loop, *contexts, session=session)
    connected(loop, server, client)
    assert client.tls.session_reused and server.tls.session_reused


# ---- failures ----


def test_verification(loop):
    server, client = ends(loop, server_hostname="elsewhere")
    run_until(loop, lambda: server.events and client.events)
    error = client.error
    assert type(error) is ssl.SSLCertVerificationError
    assert "Hostname mismatch" in error.verify_message
    assert isinstance(server.error, ssl.SSLError) or server.error is None
    assert not client.tls.closed and not client.tls.active
    for call in (lambda: client.tls.write(b"x"), lambda: client.tls.start_read(print),
                 client.tls.shutdown):
        with pytest.raises(uv.error.TLSError) as info:
            call()
        assert info.value.errno == 107      # ENOTCONN
    with pytest.raises(uv.error.TLSError) as info:
        client.tls.handshake(print)
    assert info.value.name == "EALREADY"


def test_plain_http(loop):
    handle, sock = stream(loop)
    with sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        server = End(uv.TLS(handle, server_context(), True))
        server.tls.write(b"never", server.done("written"))
        server.tls.shutdown(server.done("shut"))
        run_until(loop, lambda: len(server.events) == 3)
        assert server.events[0][1].reason == "HTTP_REQUEST"
        assert server.events[1:] == [("written", CANCELED), ("shut", CANCELED)]
        server.tls.close()
        loop.run_checked()
        assert sock.recv(1000)[:1] in (b"", b"\x15")    # at most an alert


@pytest.mark.parametrize("server_side", [True, False])
def test_garbage(loop, server_side):
    handle, sock = stream(loop)
    with sock:
        sock.sendall(os.urandom(1000).replace(b"\x16", b"\x17"))
        context = server_context() if server_side else client_context()
        name = None if server_side else "localhost"
        end = End(uv.TLS(handle, context, server_side, name))
        run_until(loop, lambda: end.events)
        assert type(end.error) is ssl.SSLError


@pytest.mark.parametrize("sent", [0, 1, 5, 40])
def test_end_in_the_handshake(loop, sent):
    hello = ssl.MemoryBIO()
    try:
        client_context().wrap_bio(
            ssl.MemoryBIO(), hello, server_hostname="localhost"
        ).do_handshake()
    except ssl.SSLWantReadError:
        pass
    handle, sock = stream(loop)
    server = End(uv.TLS(handle, server_context(), True))
    sock.sendall(hello.read(sent))
    loop.run(uv.UV_RUN_NOWAIT)
    sock.close()
    run_until(loop, lambda: server.events)
    assert server.events == [("handshake", EOF)]


def test_reset_in_the_handshake(loop):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        handle = uv.TCP(loop)
        tcp = []
        handle.connect(listener.getsockname(), lambda tcp_, error: tcp.append(error))
        with pytest.raises(uv.error.TLSError) as info:
            uv.TLS(handle, client_context(), server_hostname="localhost")
        assert info.value.name == "ENOTCONN"
        sock, _ = listener.accept()
        run_until(loop, lambda: tcp == [None])
    client = End(uv.TLS(handle, client_context(), server_hostname="localhost"))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.close()
    run_until(loop, lambda: client.events)
    assert client.events == [("handshake", uv.errno.UV_ECONNRESET)]


def test_truncation(loop):
    """The stream's end without close_notify is no UV_EOF."""
    server, client = ends(loop)
    connected(loop, server, client)
    client.tls.write(b"some", client.done("written"))
    run_until(loop, lambda: len(client.events) == 2)
    client.tls.close()
    run_until(loop, lambda: len(server.events) == 2)
    assert server.data == b"some" and type(server.error) is ssl.SSLEOFError
    again = []
    server.tls.start_read(lambda tls, data, error: again.append(type(error)))
    run_until(loop, lambda: again)
    assert again == [ssl.SSLEOFError]


def test_reset_while_reading(loop):
    server, client = ends(loop, kind=uv.TCP)
    connected(loop, server, client)
    client.tls.stream.close_reset()
    run_until(loop, lambda: len(server.events) == 2)
    assert server.events[1] == ("end", uv.errno.UV_ECONNRESET)
    # Closed through its stream, and so told.
    assert client.tls.closed
    with pytest.raises(uv.error.HandleClosedError):
        client.tls.close()


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


@pytest.fixture
def wire(loop):
    wire = Wire(loop)
    yield wire
    wire.close()


def test_byte_by_byte(loop, wire):
    wire.connect(lambda data: [data[i : i + 1] for i in range(len(data))])
    wire.client.tls.write(b"x" * 1000)
    wire.client.tls.shutdown()
    while len(wire.server.events) < 2:
        loop.run(uv.UV_RUN_NOWAIT)
        wire.carry(lambda data: [data[i : i + 1] for i in range(len(data))])
    assert wire.server.data == b"x" * 1000
    assert wire.server.events == [("handshake", None), ("end", EOF)]


def test_falsified_record(loop, wire):
    """What was right before it is delivered, then the error, once."""
    wire.connect(lambda data: [data])
    wire.carry(lambda data: [data])
    wire.client.tls.write(b"good")
    wire.client.tls.write(b"bad")
    wire.server.tls.write(b"waits", wire.server.done("written"))
    loop.run(uv.UV_RUN_NOWAIT)
    data = wire.client_sock.recv(1 << 20)
    wire.server_sock.sendall(data[:-1] + bytes([data[-1] ^ 1]))
    run_until(loop, lambda: len(wire.server.events) == 3)
    assert wire.server.data == b"good"
    kinds = dict(wire.server.events)
    assert kinds["written"] is None and type(kinds["end"]) is ssl.SSLError
    assert "BAD_RECORD_MAC" in kinds["end"].reason
    with pytest.raises(uv.error.TLSError):
        wire.server.tls.write(b"x")
    # And the other side learns why.
    wire.carry(lambda data: [data])
    run_until(loop, lambda: len(wire.client.events) == 2)
    assert "ALERT" in wire.client.error.reason


def test_failure_while_nobody_reads(loop):
    """It waits for start_read()."""
    wire = Wire(loop)
    wire.connect(lambda data: [data])
    wire.carry(lambda data: [data])
    server = wire.server
    stopped = []

    def on_read(tls, data, error):
        stopped.append(data)
        tls.stop_read()

    server.tls.start_read(on_read)
    wire.client.tls.write(b"good")
    wire.client.tls.write(b"bad")
    loop.run(uv.UV_RUN_NOWAIT)
    data = wire.client_sock.recv(1 << 20)
    wire.server_sock.sendall(data[:-1] + bytes([data[-1] ^ 1]))
    run_until(loop, lambda: stopped)
    assert stopped == [b"good"]
    for _ in range(3):
        loop.run(uv.UV_RUN_NOWAIT)
    server.tls.start_read(server.on_read)
    run_until(loop, lambda: len(server.events) == 2)
    assert "BAD_RECORD_MAC" in server.error.reason
    wire.close()


def test_write_to_a_peer_that_is_gone(loop):
    server, client = ends(loop, read=False)
    connected(loop, server, client)
    server.tls.close()
    loop.run(uv.UV_RUN_NOWAIT)
    client.tls.write(bytes(1_000_000), client.done("one"))
    client.tls.write(bytes(1_000_000), client.done("two"))
    client.tls.shutdown(client.done("shut"))
    run_until(loop, lambda: len(client.events) == 4)
    epipe = uv.errno.UV_EPIPE
    assert client.events[1:] == [("one", epipe), ("two", epipe), ("shut", epipe)]


# ---- closing ----


def test_close_cancels(loop):
    one, two = streams(loop)
    tls = uv.TLS(one, server_context(), True)
    events = []

    def note(name):
        return lambda tls, *args: events.append((name, *args))

    tls.handshake(note("handshake"))
    tls.start_read(note("read"))
    tls.write(b"x", note("write"))
    tls.write(b"y", note("write"))
    tls.shutdown(note("shutdown"))
    tls.close(note("closed"))
    assert tls.closed and not tls.active and events == []
    loop.run_checked() if two.close() is None else None
    assert events == [
        ("handshake", CANCELED), ("write", CANCELED), ("write", CANCELED),
        ("shutdown", CANCELED), ("closed",),
    ]


def test_close_while_writing(loop):
    server, client = ends(loop, read=False)
    connected(loop, server, client)
    for name in range(3):
        client.tls.write(bytes(3_000_000), client.done(name))
    loop.run(uv.UV_RUN_NOWAIT)
    client.tls.close(lambda tls: client.events.append("closed"))
    server.tls.close()
    loop.run_checked()
    assert client.events[1:] == [*((name, CANCELED) for name in range(3)), "closed"]


@pytest.mark.parametrize("what", ["tls", "stream", "both"])
@pytest.mark.parametrize("when", ["handshake", "read", "write", "shutdown"])
def test_close_in_a_callback(loop, when, what):
    server, client = ends(loop, read=False)
    seen = []

    def closing(tls, *args):
        seen.append(args)
        if what != "stream":
            tls.close()
        if what != "tls" and not tls.stream.closed:
            tls.stream.close()
        for call in (tls.close, tls.stop_read, tls.version, lambda: tls.write(b"x")):
            with pytest.raises(uv.error.HandleClosedError):
                call()

    if when == "handshake":
        client.on_handshake = closing
        end = End.__new__(End)
        one, two = streams(loop)
        End(uv.TLS(one, server_context(), True))
        end.tls = uv.TLS(two, client_context(), server_hostname="localhost")
        end.tls.handshake(closing)
    else:
        connected(loop, server, client)
        if when == "read":
            client.tls.start_read(closing)
            server.tls.write(bytes(500_000))
        elif when == "write":
            client.tls.write(b"x", closing)
        else:
            client.tls.shutdown(closing)
    run_until(loop, lambda: seen)
    for _ in range(5):
        loop.run(uv.UV_RUN_NOWAIT)
    assert len(seen) == 1


def test_with(loop):
    one, two = streams(loop)
    with uv.TLS(one, server_context(), True) as tls:
        assert "idle" in repr(tls) and "Pipe" in repr(tls)
    assert tls.closed and "closing" in repr(tls)
    two.close()
    loop.run_checked()
    assert "closed" in repr(tls)
    with pytest.raises(uv.error.HandleClosedError):
        tls.__enter__()
    assert "uninitialised" in repr(uv.TLS.__new__(uv.TLS))


def test_reentered_from_callbacks(loop):
    """A callback writes, reads and shuts down; nothing is lost or turned round."""
    server, client = ends(loop, read=False)
    connected(loop, server, client)
    total = bytearray()

    def echo(tls, data, error):
        if data is None:
            tls.shutdown()
            return
        tls.write(data, lambda tls, error: tls.start_read(echo))
        tls.stop_read()
        tls.start_read(echo)

    def collect(tls, data, error):
        if data:
            total.extend(data)

    server.tls.start_read(echo)
    client.tls.start_read(collect)
    data = os.urandom(600_000)
    client.tls.write(data)
    run_until(loop, lambda: len(total) == len(data))
    assert total == data


# ---- rules ----


def test_stream_is_taken(loop):
    one, two = streams(loop)
    tls = uv.TLS(one, server_context(), True)
    for call in (lambda: one.start_read(print), lambda: one.write(b"x"),
                 lambda: one.shutdown(), lambda: one.try_write(b"x"),
                 lambda: uv.TLS(one, server_context(), True)):
        with pytest.raises(RuntimeError, match="belongs to a transport, a TLS"):
            call()
    two.start_read(print)
    with pytest.raises(RuntimeError, match="active"):
        uv.TLS(two, client_context(), server_hostname="localhost")
    with pytest.raises(RuntimeError, match="already"):
        tls.__init__(one, server_context(), True)


def test_wrong_streams(loop):
    context = server_context()
    for args in ((), (1, context), (loop, context), (uv.Timer(loop), context)):
        with pytest.raises(TypeError):
            uv.TLS(*args)
    with pytest.raises(uv.error.TLSError) as info:
        uv.TLS(uv.TCP(loop), context)
    assert info.value.name == "ENOTCONN"
    listener = uv.TCP(loop)
    listener.bind(("127.0.0.1", 0))
    listener.listen(print)
    with pytest.raises(uv.error.TLSError) as info:
        uv.TLS(listener, context)
    assert info.value.name == "EINVAL"
    listener.close()
    with pytest.raises(uv.error.HandleClosedError):
        uv.TLS(listener, context)
    with pytest.raises(RuntimeError, match="not initialised"):
        uv.TLS(uv.TCP.__new__(uv.TCP), context)


def test_wrong_contexts(loop):
    one, _ = streams(loop)
    for context in (None, 1, ssl.SSLContext, object()):
        with pytest.raises(TypeError):
            uv.TLS(one, context)
    with pytest.raises(ValueError, match="hostname"):
        uv.TLS(one, client_context())
    with pytest.raises((ValueError, TypeError)):
        uv.TLS(one, client_context(), session=1, server_hostname="localhost")
    with pytest.raises(ssl.SSLError):
        uv.TLS(one, server_context(), server_hostname="localhost")
    # Nothing of this has taken the stream.
    one.write(b"x")


class Greedy(ssl.SSLContext):
    """Does something in the middle of __init__."""

    action = None

    def wrap_bio(self, *args, **kwargs):
        result = super().wrap_bio(*args, **kwargs)
        if self.action is not None:
            action, self.action = self.action, None
            action()
        return result


def test_init_in_init(loop):
    context = Greedy(ssl.PROTOCOL_TLS_SERVER)
    one, two = streams(loop)
    tls = uv.TLS.__new__(uv.TLS)
    context.action = lambda: tls.__init__(one, context, True)
    with pytest.raises(RuntimeError, match="already"):
        tls.__init__(one, context, True)
    context.action = two.close
    with pytest.raises(uv.error.HandleClosedError):
        uv.TLS(two, context, True)


def test_buffers_that_close(loop):
    server, client = ends(loop)
    connected(loop, server, client)

    class Closing(list):
        def __iter__(self):
            client.tls.close()
            return iter([b"x"])

    with pytest.raises(uv.error.HandleClosedError):
        client.tls.write(Closing([b"x"]))


def test_not_before_the_handshake(loop):
    one, _ = streams(loop)
    tls = uv.TLS(one, server_context(), True)
    assert not tls.active and tls.write_queue_size == 0
    assert tls.version() is None and tls.cipher() is None
    with pytest.raises(ValueError):
        tls.getpeercert()
    for call in (lambda: tls.write(b"x"), lambda: tls.start_read(print), tls.shutdown,
                 lambda: tls.try_write(b"x")):
        with pytest.raises(uv.error.TLSError) as info:
            call()
        assert info.value.name == "ENOTCONN" and info.value.call.startswith("TLS.")
    tls.stop_read()


def test_after_shutdown(loop):
    server, client = ends(loop)
    connected(loop, server, client)
    client.tls.shutdown()
    with pytest.raises(uv.error.TLSError) as info:
        client.tls.write(b"x")
    assert info.value.name == "EPIPE"
    with pytest.raises(uv.error.TLSError) as info:
        client.tls.shutdown()
    assert info.value.name == "ENOTCONN"


def test_another_thread(loop):
    server, client = ends(loop)
    refused = []

    def other():
        for call in (lambda: client.tls.write(b"x"), client.tls.close,
                     client.tls.version, client.tls.stop_read):
            try:
                call()
            except RuntimeError as error:
                refused.append("another thread" in str(error))

    def on_timer(timer):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(30)

    uv.Timer(loop).start(on_timer, 0)
    run_until(loop, lambda: refused)
    assert refused == [True] * 4


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_out_of_a_callback(error):
    loop = uv.Loop()
    loop.raised = []
    server, client = ends(loop, read=False)
    connected(loop, server, client)

    def on_read(tls, data, errorno):
        raise error("out")

    server.tls.start_read(on_read)
    client.tls.write(b"x")
    with pytest.raises(error, match="out"):
        loop.run()
    client.tls.close()
    server.tls.close()
    loop.run()
    loop.close()


def test_ref(loop):
    one, two = streams(loop)
    tls = uv.TLS(one, server_context(), True)
    tls.handshake(print)
    tls.ref = False
    assert not tls.ref and not one.ref
    assert loop.run() is False
    tls.ref = True
    assert one.ref


# ---- references ----


def test_dropped_while_idle(loop):
    one, two = streams(loop)
    ref = weakref.ref(uv.TLS(one, server_context(), True))
    assert ref() is not None        # the stream keeps it
    del one
    gc.collect()
    assert ref() is None
    told = []
    two.start_read(lambda two, data, error: told.append(error))
    run_until(loop, lambda: told)
    assert told == [EOF]


def test_dropped_after_the_handshake(loop):
    server, client = ends(loop, read=False)
    connected(loop, server, client)
    ref = weakref.ref(client.tls)
    del client
    gc.collect()
    assert ref() is None
    server.tls.start_read(server.on_read)
    run_until(loop, lambda: len(server.events) == 2)
    # It had not read the server's tickets.
    assert server.events[1] == ("end", uv.errno.UV_ECONNRESET)


def test_dropped_while_busy(loop):
    """The loop keeps what has something to do."""
    server, client = ends(loop)
    connected(loop, server, client)
    events = client.events
    client.tls.write(bytes(3_000_000), client.done("written"))
    ref = weakref.ref(client.tls)
    del client
    gc.collect()
    run_until(loop, lambda: len(events) == 2)
    assert ref() is not None and len(server.data) == 3_000_000


def test_dropped_with_its_loop():
    def drop():
        loop = uv.Loop()
        loop.raised = []
        server, client = ends(loop, read=False)
        connected(loop, server, client)
        client.tls.write(bytes(3_000_000), client.done("written"))
        server.tls.start_read(lambda *args: loop)
        return [weakref.ref(each) for each in (loop, server.tls, client.tls)]

    refs = drop()
    gc.collect()
    assert [ref() for ref in refs] == [None] * 3


def test_attributes_and_subclasses(loop):
    class Mine(uv.TLS):
        def __init__(self, *args):
            super().__init__(*args)
            self.more = 1

    one, _ = streams(loop)
    tls = Mine(one, server_context(), True)
    tls.other = 2
    assert (tls.more, tls.other) == (1, 2)
    with pytest.raises(TypeError):
        uv.TLS.write = None


# ---- other implementations ----


@pytest.mark.parametrize("change", [tls12, lambda context: context])
def test_against_a_python_server(loop, change):
    data = os.urandom(2_000_000)

    def serve(tls):
        got = bytearray()
        while len(got) < len(data):
            got += tls.recv(1 << 16)
        tls.sendall(got)
        assert tls.recv(1) == b""
        return tls.version()

    handle, sock = stream(loop)
    peer = Peer(sock, serve, change(server_context()))
    client = End(uv.TLS(handle, client_context(), server_hostname="localhost"))
    client.tls.write(data)
    run_until(loop, lambda: len(client.data) == len(data))
    client.tls.shutdown()
    run_until(loop, lambda: len(client.events) == 2)
    assert peer.finish() == client.tls.version() and client.data == data


def test_against_a_python_client(loop):
    def talk(tls):
        tls.sendall(b"hello")
        assert tls.recv(100) == b"HELLO"
        return tls.unwrap()

    handle, sock = stream(loop)
    server = End(uv.TLS(handle, server_context(), True))
    peer = Peer(sock, talk, client_context(), False, server_hostname="localhost")
    run_until(loop, lambda: server.data == b"hello")
    server.tls.write(b"HELLO")
    run_until(loop, lambda: len(server.events) == 2)
    assert server.error == EOF
    server.tls.shutdown()
    loop.run(uv.UV_RUN_NOWAIT)
    peer.finish().close()


openssl = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="there is no openssl program"
)


@openssl
def test_s_client(loop, tmp_path):
    authority().cert_pem.write_to_path(tmp_path / "ca")
    listener = uv.TCP(loop)
    listener.bind(("127.0.0.1", 0))
    servers = []

    def on_connection(listener, error):
        tcp = uv.TCP(loop)
        listener.accept(tcp)
        servers.append(End(uv.TLS(tcp, server_context(), True)))

    listener.listen(on_connection)
    with subprocess.Popen(
        ["openssl", "s_client", "-quiet", "-connect",
         f"127.0.0.1:{listener.getsockname()[1]}", "-CAfile", tmp_path / "ca",
         "-servername", "localhost", "-verify_return_error"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    ) as program:
        program.stdin.write(b"hello\n")
        program.stdin.flush()
        run_until(loop, lambda: servers and servers[0].data == b"hello\n")
        servers[0].tls.write(b"bye\n")
        servers[0].tls.shutdown()
        # Turns of the loop while the program reads.
        run_until(loop, lambda: servers[0].tls.write_queue_size == 0)
        assert program.stdout.readline() == b"bye\n"
        program.stdin.close()
        run_until(loop, lambda: len(servers[0].events) == 2)


@openssl
def test_s_server(loop, tmp_path):
    """Its keys change in the middle, by "K" and "k"."""
    certificate("localhost").private_key_and_cert_chain_pem.write_to_path(
        tmp_path / "leaf"
    )
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with subprocess.Popen(
        ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-cert",
         tmp_path / "leaf", "-naccept", "1"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as program:
        while b"ACCEPT" not in program.stdout.readline():
            assert program.poll() is None
        tcp = uv.TCP(loop)
        up = []
        tcp.connect(("127.0.0.1", port), lambda tcp, error: up.append(error))
        run_until(loop, lambda: up)
        client = End(uv.TLS(tcp, client_context(), server_hostname="localhost"))
        run_until(loop, lambda: client.events)
        for letter in b"Kk":
            # A letter is a command at the begin of what the program reads at once.
            program.stdin.write(b"%c\n" % letter)
            program.stdin.flush()
            client.data.clear()
            while not client.data:
                program.stdin.write(b"text\n")
                program.stdin.flush()
                for _ in range(10):
                    loop.run(uv.UV_RUN_NOWAIT)
                    time.sleep(0.001)
            assert set(bytes(client.data).split()) == {b"text"}
            client.tls.write(b"answer\n")
            while program.stdout.readline() != b"answer\n":
                assert program.poll() is None
        program.stdin.write(b"Q\n")
        program.stdin.flush()
        run_until(loop, lambda: len(client.events) == 2)
        assert client.error == EOF or type(client.error) is ssl.SSLEOFError
        client.tls.close()
        loop.run(uv.UV_RUN_NOWAIT)
