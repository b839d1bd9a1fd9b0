"""How a server's TLS connections are made: what a program has changed counts."""

import asyncio
import contextlib
import gc
import ssl
import weakref

import pytest

from aiosupport import Echo, run, until
from tlssupport import (
    TLSPeer,
    client_context,
    serve_one,
    server_context,
    server_side,
)
from uvtulip import _transports

pytestmark = pytest.mark.usefixtures("tls_backend")


def counted(calls, function):
    def wrapper(*args, **kwargs):
        calls.append(function)
        return function(*args, **kwargs)

    return wrapper


async def exchange(context):
    """One connection to a server with that context; its transport."""
    transports = []

    class Server(Echo):
        def connection_made(self, transport):
            super().connection_made(transport)
            transports.append(transport)

    server, peer = await server_side(Server, context)
    with peer:
        await peer.send(b"hello")
        assert await peer.exactly(5) == b"hello"
        await peer.unwrap()
    server.close()
    await server.wait_closed()
    return transports[0]


def test_wrap_bio_of_the_context():
    calls = []
    context = server_context()
    context.wrap_bio = counted(calls, context.wrap_bio)
    run(exchange(context))
    assert len(calls) == 1


def test_wrap_bio_of_the_class(monkeypatch):
    calls = []
    monkeypatch.setattr(
        ssl.SSLContext, "wrap_bio", counted(calls, ssl.SSLContext.wrap_bio)
    )
    run(exchange(server_context()))
    assert len(calls) == 2  # The peer's, too.


def test_sslobject_class():
    class Object(ssl.SSLObject):
        pass

    context = server_context()
    context.sslobject_class = Object

    async def main():
        transport = await exchange(context)
        assert type(transport.get_extra_info("ssl_object")) is Object
        assert transport.get_extra_info("tls_backend") == "memory-bio"

    run(main())


def test_what_ssl_knows_of_the_object(tls_backend):
    context = server_context()

    async def main():
        transport = await exchange(context)
        made = transport.get_extra_info("ssl_object")
        assert type(made) is ssl.SSLObject
        assert made.context is context
        assert made._sslobj.owner is made
        assert (made.server_side, made.server_hostname) == (True, None)
        assert (made.session_reused, made.version()) == (False, "TLSv1.3")
        assert transport.get_extra_info("tls_backend") == tls_backend

    run(main())


def test_connections_at_the_same_time():
    async def main():
        pairs = [await server_side(Echo) for _ in range(20)]
        for i, (_, peer) in enumerate(pairs):
            await peer.send(b"%d" % i * 1000)
        for i, (server, peer) in enumerate(pairs):
            text = b"%d" % i * 1000
            assert await peer.exactly(len(text)) == text
            await peer.unwrap()
            peer.sock.close()
            server.close()
            await server.wait_closed()

    run(main())


def test_a_callback_of_the_context_that_raises():
    """Inside of OpenSSL nothing can be raised: the call that it is in does, or the
    handshake when it is done."""

    async def main():
        contexts = []
        asyncio.get_running_loop().set_exception_handler(
            lambda loop, context: contexts.append(context)
        )

        def on_message(*args):
            raise ZeroDivisionError

        context = server_context()
        context._msg_callback = on_message
        made = []
        server, sock = await serve_one(lambda: made.append(Echo()) or made[-1], context)
        with TLSPeer(sock, client_context(), False) as peer:
            # In TLS 1.3 the client is done before the server is; some versions of
            # `ssl` take the end without a closing message for an error.
            with contextlib.suppress(ssl.SSLError, ConnectionError):
                await peer.handshake()
                assert await peer.rest() == b""
        await until(lambda: contexts)
        assert isinstance(contexts[0]["exception"], ZeroDivisionError)
        assert len(made) == 1
        assert made[0].transport is None  # It never was connected.
        server.close()
        await server.wait_closed()

    run(main())


# ---- the factory ----


def test_factory():
    async def main():
        loop = asyncio.get_running_loop()
        protocols = []

        def make():
            protocols.append(Echo())
            return protocols[-1]

        factory = _transports.SSLFactory(loop, make, server_context(), 1.0, 2.0)
        links = [factory(), factory()]
        assert [link.transport.get_protocol() for link in links] == protocols
        assert links[0].transport is not links[1].transport
        with pytest.raises(TypeError, match="no arguments"):
            factory(1)
        with pytest.raises(TypeError, match="no arguments"):
            factory(a=1)
        for arguments in [
            (),
            (None, make, server_context(), 1.0, 2.0),
            (loop, make, server_context(), "1", 2.0),
        ]:
            with pytest.raises(TypeError):
                _transports.SSLFactory(*arguments)
        with pytest.raises(ZeroDivisionError):
            _transports.SSLFactory(loop, lambda: 1 / 0, server_context(), 1.0, 2.0)()
        with pytest.raises((TypeError, AttributeError)):
            _transports.SSLFactory(loop, make, object(), 1.0, 2.0)()

    run(main())


def test_factory_of_a_closed_loop():
    loops = []

    async def main():
        loops.append(asyncio.get_running_loop())

    run(main())
    factory = _transports.SSLFactory(loops[0], Echo, server_context(), 1.0, 2.0)
    with pytest.raises(RuntimeError, match="closed"):
        factory()


def test_factory_in_a_ring():
    class Maker:
        def __call__(self):
            return Echo()

    async def main():
        make = Maker()
        make.factory = _transports.SSLFactory(
            asyncio.get_running_loop(), make, server_context(), 1.0, 2.0
        )
        return weakref.ref(make)

    ref = run(main())
    gc.collect()
    assert ref() is None
