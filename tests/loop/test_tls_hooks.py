"""What programs hang into the ssl module: callbacks of the context that raise, and
classes and methods that somebody has put in the place of ssl's own."""

import asyncio
import contextlib
import functools
import ssl
import sys
import types
from typing import ClassVar

import pytest

import uvtulip
from aiosupport import run
from streamsupport import Events
from tlssupport import client_context, client_side, server_context, tls12

pytestmark = pytest.mark.usefixtures("tls_backend")

SIDES = pytest.mark.parametrize("server_side", [False, True], ids=["client", "server"])
VERSIONS = pytest.mark.parametrize("version", ["1.2", "1.3"])


class Raised(Exception):
    pass


def contexts(version, server_side):
    """Ours and the other side's."""
    server, client = server_context(), client_context()
    if version == "1.2":
        tls12(server)
    return (server, client) if server_side else (client, server)


async def outcome(ours, theirs, server_side, data=b"ping"):
    """How a connection of ours ends, and what the loop heard of it."""
    loop = asyncio.get_running_loop()
    reported = []
    loop.set_exception_handler(lambda _, context: reported.append(context))
    protocol = Events()
    options = {"server_hostname": "localhost"}
    exc = peer = None

    async def serve(reader, writer):
        with contextlib.suppress(OSError):
            writer.write(await reader.read(100))
            await writer.drain()
        with contextlib.suppress(OSError):
            await reader.read()
        writer.close()

    if server_side:
        server = await loop.create_server(lambda: protocol, "127.0.0.1", 0, ssl=ours)
        with contextlib.suppress(OSError):
            peer, _ = await loop.create_connection(
                Events, *server.sockets[0].getsockname(), ssl=theirs, **options
            )
            peer.write(data)
    else:
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=theirs)
        try:
            transport, _ = await loop.create_connection(
                lambda: protocol, *server.sockets[0].getsockname(), ssl=ours, **options
            )
            transport.write(data)
        except Exception as error:
            exc = error
    if "made" in protocol.events:
        exc = await protocol.lost
    while server_side and "made" not in protocol.events and not reported:
        await asyncio.sleep(0)
    if server_side and peer is not None:
        peer.abort()
    server.close()
    await asyncio.sleep(0)
    seen = [context["exception"] for context in reported]
    return exc, [error for error in seen if isinstance(error, Raised)]


@VERSIONS
@SIDES
@pytest.mark.parametrize("count", [1, 2, 5, 9, 14, 20])
def test_message_callback_that_raises(version, server_side, count):
    """In the n-th call: in a step of the handshake, or when data comes."""

    async def main():
        ours, theirs = contexts(version, server_side)
        calls = []

        def raises(*args):
            calls.append(args)
            if len(calls) >= count:
                raise Raised(len(calls))

        ours._msg_callback = raises
        connected = asyncio.ensure_future(outcome(ours, theirs, server_side))
        while not connected.done():
            await asyncio.sleep(0)
            assert sys.exception() is None
        exc, reported = connected.result()
        assert reported or isinstance(exc, Raised)
        assert exc is None or isinstance(exc, Raised)

    asyncio_run(main())


def asyncio_run(main):
    async def limited():
        async with asyncio.timeout(20):
            await main

    with asyncio.Runner(loop_factory=uvtulip.new_event_loop) as runner:
        runner.run(limited())


@VERSIONS
def test_key_log_that_cannot_be_written(version):
    """It ends as on asyncio's loop, by the error of ssl or not at all."""

    async def main():
        ours, theirs = contexts(version, False)
        ours.keylog_filename = "/dev/full"
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Events, "127.0.0.1", 0, ssl=theirs)
        try:
            transport, _ = await loop.create_connection(
                Events,
                *server.sockets[0].getsockname(),
                ssl=ours,
                server_hostname="localhost",
            )
        except OSError as exc:
            return type(exc), exc.errno, getattr(exc, "reason", None)
        else:
            transport.abort()
            await asyncio.sleep(0)
            return None
        finally:
            server.close()
            await server.wait_closed()

    results = []
    for factory in (asyncio.SelectorEventLoop, uvtulip.new_event_loop):
        with asyncio.Runner(loop_factory=factory) as runner:
            results.append(runner.run(main()))
    assert results[0] == results[1]


@VERSIONS
def test_server_name_callback_that_raises(version, monkeypatch):
    """ssl tells the hook for what nobody can catch, and the peer gets an alert."""
    told = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: told.append(args.exc_value))

    async def main():
        ours, theirs = contexts(version, True)

        def raises(*args):
            raise Raised

        ours.sni_callback = raises
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Events, "127.0.0.1", 0, ssl=ours)
        with pytest.raises(ssl.SSLError) as caught:
            await loop.create_connection(
                Events,
                *server.sockets[0].getsockname(),
                ssl=theirs,
                server_hostname="localhost",
            )
        assert "ALERT" in caught.value.reason
        assert [type(exc) for exc in told] == [Raised]
        server.close()

    run(main())


METHODS = ["do_handshake", "read", "write", "unwrap"]


@contextlib.contextmanager
def patched(monkeypatch, name, calls):
    own = getattr(ssl.SSLObject, name)

    @functools.wraps(own)
    def method(self, *args, **kwargs):
        calls.append(name)
        return own(self, *args, **kwargs)

    monkeypatch.setattr(ssl.SSLObject, name, method)
    yield
    monkeypatch.undo()


async def talk(ours, theirs, server_side):
    """A connection with data in both directions and an end in order."""
    loop = asyncio.get_running_loop()
    protocol = Events()
    if server_side:
        server = await loop.create_server(lambda: protocol, "127.0.0.1", 0, ssl=ours)
        reader, writer = await asyncio.open_connection(
            *server.sockets[0].getsockname(), ssl=theirs, server_hostname="localhost"
        )
        writer.write(b"ping")
        await protocol.until(4)
        transport = protocol.transport
        transport.write(b"pong")
        assert await reader.readexactly(4) == b"pong"
        transport.close()
        assert await reader.read() == b""
        writer.close()
        server.close()
    else:
        transport, peer = await client_side(protocol, ours, theirs)
        with peer:
            transport.write(b"pong")
            assert await peer.exactly(4) == b"pong"
            await peer.send(b"ping")
            await protocol.until(4)
            transport.close()
            await peer.unwrap()
            await protocol.lost
    await protocol.lost
    return transport


@SIDES
@pytest.mark.parametrize("name", METHODS)
def test_a_patched_method_of_sslobject(monkeypatch, name, server_side):
    calls = []

    async def main():
        with patched(monkeypatch, name, calls):
            transport = await talk(*contexts("1.3", server_side), server_side)
        assert transport.get_extra_info("tls_backend") == "memory-bio"
        assert name in calls
        # Without it, all is as before.
        transport = await talk(*contexts("1.3", server_side), server_side)
        assert transport.get_extra_info("tls_backend") == uvtulip.tls_backend()

    run(main())


class Counting(ssl.SSLObject):
    calls: ClassVar[list[str]] = []


for _name in METHODS:

    def _counting(self, *args, _name=_name):
        self.calls.append(_name)
        return getattr(ssl.SSLObject, _name)(self, *args)

    setattr(Counting, _name, _counting)


class Subclass(ssl.SSLContext):
    sslobject_class = Counting


@SIDES
@pytest.mark.parametrize("how", ["class", "object", "wrap_bio", "subclass"])
def test_another_class_of_sslobject(monkeypatch, how, server_side):
    Counting.calls = []

    async def main():
        ours, theirs = contexts("1.3", server_side)
        if how == "class":
            monkeypatch.setattr(ssl.SSLContext, "sslobject_class", Counting)
        elif how == "object":
            ours.sslobject_class = Counting
        elif how == "subclass":
            kind = ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT
            ours = with_certificates(Subclass(kind), server_side)
        else:

            def wrap_bio(self, *args, **kwargs):
                self.sslobject_class = Counting
                return ssl.SSLContext.wrap_bio(self, *args, **kwargs)

            ours.wrap_bio = types.MethodType(wrap_bio, ours)
        transport = await talk(ours, theirs, server_side)
        assert type(transport.get_extra_info("ssl_object")) is Counting
        assert set(Counting.calls) >= {"do_handshake", "read", "write", "unwrap"}

    run(main())


def with_certificates(context, server_side):
    from tlssupport import authority, certificate

    if server_side:
        certificate("localhost").configure_cert(context)
    authority().configure_trust(context)
    return context


def test_a_context_that_checks_after_the_handshake():
    """As truststore's does: in do_handshake() of its SSLObject."""

    class Checks(ssl.SSLObject):
        def do_handshake(self):
            super().do_handshake()
            raise ssl.SSLCertVerificationError("I do not like it")

    async def main():
        ours, theirs = contexts("1.3", False)
        ours.sslobject_class = Checks
        exc, _ = await outcome(ours, theirs, False)
        assert isinstance(exc, ssl.SSLCertVerificationError)
        assert "I do not like it" in str(exc)

    asyncio_run(main())


def test_both_ends_in_one_process_do_not_mix_up(monkeypatch):
    """The exception of one connection's callback is never another one's."""

    async def main():
        ours, theirs = contexts("1.3", True)
        plain, _ = contexts("1.3", True)

        def raises(*args):
            raise Raised

        ours._msg_callback = raises
        loop = asyncio.get_running_loop()
        reported = []
        loop.set_exception_handler(lambda _, context: reported.append(context))
        bad = await loop.create_server(Events, "127.0.0.1", 0, ssl=ours)
        good = await loop.create_server(Events, "127.0.0.1", 0, ssl=plain)

        async def attempt(server):
            transport, _ = await loop.create_connection(
                Events,
                *server.sockets[0].getsockname(),
                ssl=theirs,
                server_hostname="localhost",
            )
            transport.abort()

        results = await asyncio.gather(
            *(attempt(server) for server in [bad, good] * 5), return_exceptions=True
        )
        assert results[1::2] == [None] * 5
        assert not any(isinstance(result, Raised) for result in results)
        assert {type(context["exception"]) for context in reported} == {Raised}
        bad.close()
        good.close()

    asyncio_run(main())
