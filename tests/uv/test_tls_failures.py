"""uv.TLS: handshakes and records that fail, and closing."""

import os
import socket
import ssl

import pytest

from rawtls import End, Wire, connected, ends, run_until, stream, streams
from tlssupport import client_context, server_context
from uvtulip import uv

pytestmark = pytest.mark.usefixtures("raw_tls_backend")

EOF = uv.errno.UV_EOF
CANCELED = uv.errno.UV_ECANCELED
# What OpenSSL says of a record that was changed on its way; the second since 3.6.
FALSIFIED = ("DECRYPTION_FAILED_OR_BAD_RECORD_MAC", "RECORD_LAYER_FAILURE")


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
        # No version begins so: one in 256 random ones may be a long record's header,
        # whose rest is waited for.
        sock.sendall(b"\x17\x17" + os.urandom(998))
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
    assert kinds["end"].reason in FALSIFIED
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
    assert server.error.reason in FALSIFIED
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
