"""uv.TLS with a peer that speaks no TLS, or wrongly: the error that the ssl module has
for it comes at once, to whom asked; what fails first is what is told."""

import contextlib
import os
import ssl

import pytest

from rawtls import End, connected, ends, run_until, stream, streams
from tlssupport import client_context, renegotiate, server_context, tls12
from uvtulip import uv

pytestmark = pytest.mark.usefixtures("raw_tls_backend")

SIDES = pytest.mark.parametrize("server_side", [False, True], ids=["client", "server"])
VERSIONS = pytest.mark.parametrize("version", ["1.2", "1.3"])
NOT_TLS = {
    "http": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "smtp": b"220 mail.example ESMTP ready\r\n",
    "zeros": bytes(64),
    "version": b"\x16\x09\x09\x00\x05\x01\x00\x00\x01\x00",
    "message": b"\x16\x03\x01\x00\x05\x63\x00\x00\x01\x00",
    "data": b"\x17\x03\x03\x00\x05hello",
    "alert": b"\x15\x03\x01\x00\x02\x02\x28",
}
NOISE = pytest.mark.parametrize("noise", NOT_TLS.values(), ids=NOT_TLS)


def told_apart(exc):
    text = str(exc).partition(" (_ssl.c")[0]
    names = "errno", "reason", "library", "verify_code", "verify_message"
    return type(exc), text, *(getattr(exc, name, None) for name in names)


def expected(noise, server_side):
    incoming = ssl.MemoryBIO()
    end = (server_context() if server_side else client_context()).wrap_bio(
        incoming,
        ssl.MemoryBIO(),
        server_side=server_side,
        server_hostname=None if server_side else "localhost",
    )
    if not server_side:
        with pytest.raises(ssl.SSLWantReadError):
            end.do_handshake()
    incoming.write(noise)
    with pytest.raises(ssl.SSLError) as caught:
        end.do_handshake()
    return told_apart(caught.value)


def end_of(handle, server_side, read=True):
    if server_side:
        return End(uv.TLS(handle, server_context(), server_side=True), read)
    return End(uv.TLS(handle, client_context(), server_hostname="localhost"), read)


@NOISE
@SIDES
@pytest.mark.parametrize("pieces", [1, 1000])
def test_noise_instead_of_a_handshake(loop, noise, server_side, pieces):
    handle, peer = stream(loop)
    with peer:
        end = end_of(handle, server_side)
        written = []
        end.tls.write(b"never sent", lambda tls, error: written.append(error))
        step = len(noise) // pieces or 1
        for i in range(0, len(noise), step):
            if not end.events:
                peer.sendall(noise[i : i + step])
                loop.run(uv.UV_RUN_NOWAIT)
        run_until(loop, lambda: end.events and written)
        assert [name for name, _ in end.events] == ["handshake"]
        assert told_apart(end.error) == expected(noise, server_side)
        assert written == [uv.errno.UV_ECANCELED]
        with pytest.raises(uv.error.TLSError):
            end.tls.write(b"more")
        end.tls.close()
    loop.run()


@pytest.mark.parametrize("noise", ["http", "zeros", "data"])
@VERSIONS
@SIDES
def test_noise_after_the_handshake(loop, noise, version, server_side):
    """From below the other end's TLS, whose engine knows nothing of it."""
    server = server_context()
    if version == "1.2":
        tls12(server)
    one, two = ends(loop, server)
    connected(loop, one, two)
    end, other = (one, two) if server_side else (two, one)
    error = garbage_error(NOT_TLS[noise], version, server_side)
    inject(loop, other, NOT_TLS[noise])
    run_until(loop, lambda: len(end.events) > 1)
    assert end.events[-1][0] == "end"
    assert told_apart(end.error) == error
    with pytest.raises(uv.error.TLSError):
        end.tls.write(b"more")


def garbage_error(garbage, version, server_side):
    server = server_context()
    if version == "1.2":
        tls12(server)
    pairs = []
    for is_server, context in ((True, server), (False, client_context())):
        bios = ssl.MemoryBIO(), ssl.MemoryBIO()
        name = None if is_server else "localhost"
        end = context.wrap_bio(*bios, server_side=is_server, server_hostname=name)
        pairs.append((end, *bios))
    for _ in range(4):
        for one, other in (pairs, pairs[::-1]):
            with contextlib.suppress(ssl.SSLWantReadError):
                one[0].do_handshake()
            other[1].write(one[2].read())
    end, incoming, _ = pairs[0 if server_side else 1]
    with pytest.raises(ssl.SSLWantReadError):
        end.read()
    incoming.write(garbage)
    with pytest.raises(ssl.SSLError) as caught:
        end.read()
    return told_apart(caught.value)


def inject(loop, end, data):
    """Write to the stream behind its TLS's back."""
    for _ in range(3):
        loop.run(uv.UV_RUN_NOWAIT)  # Session tickets are on their way first.
    assert os.write(end.tls.stream.fileno(), data) == len(data)


@VERSIONS
@SIDES
def test_after_a_failure_nothing_waits(loop, version, server_side):
    """Reading fails; who reads or writes later is told, and nothing hangs."""
    server = server_context()
    if version == "1.2":
        tls12(server)
    one, two = ends(loop, server, read=False)
    connected(loop, one, two)
    end, other = (one, two) if server_side else (two, one)
    inject(loop, other, NOT_TLS["zeros"])
    end.tls.start_read(end.on_read)
    run_until(loop, lambda: len(end.events) > 1)
    assert isinstance(end.error, ssl.SSLError)
    with pytest.raises(uv.error.TLSError):
        end.tls.start_read(end.on_read)
    with pytest.raises(uv.error.TLSError):
        end.tls.try_write(b"x")
    with pytest.raises(uv.error.TLSError):
        end.tls.shutdown()


class Raised(Exception):
    pass


@VERSIONS
@SIDES
@pytest.mark.parametrize("count", [1, 3, 8, 15])
def test_a_message_callback_that_raises(loop, version, server_side, count):
    server, client = server_context(), client_context()
    if version == "1.2":
        tls12(server)
    calls = []

    def raises(*args):
        calls.append(args)
        if len(calls) >= count:
            raise Raised

    (server if server_side else client)._msg_callback = raises
    one, two = streams(loop)
    tls = [
        uv.TLS(one, server, server_side=True),
        uv.TLS(two, client, server_hostname="localhost"),
    ]
    told = []
    for each in tls:
        try:
            each.handshake(lambda tls, error: told.append((tls, error)))
        except Raised as exc:
            told.append((each, exc))
    ours = tls[0 if server_side else 1]
    run_until(loop, lambda: any(each is ours for each, _ in told))
    error = next(error for each, error in told if each is ours)
    if error is None:

        def on_read(tls, data, error):
            told.append((tls, error))

        try:
            ours.start_read(on_read)
            for _ in range(20):
                ours.write(b"x")
                loop.run(uv.UV_RUN_NOWAIT)
        except Raised as exc:
            error = exc
        except uv.error.TLSError:
            error = next(e for each, e in told if each is ours and e is not None)
    assert isinstance(error, Raised)


def test_a_patched_sslobject(loop, monkeypatch):
    calls = []
    for name in ("do_handshake", "read", "write"):
        own = getattr(ssl.SSLObject, name)

        def method(self, *args, own=own, name=name):
            calls.append(name)
            return own(self, *args)

        monkeypatch.setattr(ssl.SSLObject, name, method)
    one, two = ends(loop)
    connected(loop, one, two)
    one.tls.write(b"ping")
    run_until(loop, lambda: two.data == b"ping")
    assert set(calls) == {"do_handshake", "read", "write"}


def pump(loop, peer, incoming, outgoing):
    """Bytes between the loop and the end in memory, in both directions."""
    loop.run(uv.UV_RUN_NOWAIT)
    if outgoing.pending:
        peer.sendall(outgoing.read())
    with contextlib.suppress(BlockingIOError):
        incoming.write(peer.recv(1 << 20))


@pytest.mark.parametrize("end", ["write", "shutdown"])
@pytest.mark.parametrize("size", [1000, 3_000_000])
def test_a_write_in_the_middle_of_another_handshake(loop, size, end):
    """TLS 1.2: the server asks for it, and the write waits until it is done."""
    handle, peer = stream(loop)
    peer.setblocking(False)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = tls12(server_context()).wrap_bio(incoming, outgoing, server_side=True)
    client = end_of(handle, False)
    data = bytes(range(250)) * (size // 250)
    got, told = bytearray(), []

    def until(condition, step):
        for _ in range(100_000):
            if condition():
                return
            with contextlib.suppress(ssl.SSLWantReadError):
                step()
            pump(loop, peer, incoming, outgoing)
        raise AssertionError("it took too long")

    def read():
        got.extend(server.read(1 << 16))

    with peer:
        until(lambda: client.events, server.do_handshake)
        assert client.events == [("handshake", None)]
        until(lambda: server.version() and not outgoing.pending, server.do_handshake)
        renegotiate(server)
        peer.sendall(outgoing.read())
        hello = ssl.MemoryBIO()
        while not hello.pending:
            pump(loop, peer, hello, outgoing)
        client.tls.write(data, lambda tls, error: told.append(error))
        if end == "shutdown":
            client.tls.shutdown(lambda tls, error: told.append(error))
        loop.run(uv.UV_RUN_NOWAIT)
        assert told == []
        incoming.write(hello.read())
        until(lambda: len(got) == size, read)
        assert got == data
        until(lambda: len(told) == (2 if end == "shutdown" else 1), lambda: None)
        assert set(told) == {None}
