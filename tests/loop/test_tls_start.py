"""start_tls(): both sides, streams, nothing lost, TLS in TLS, strange transports."""

import asyncio
import asyncio.sslproto
import socket
import ssl

import pytest

from aiosupport import Echo, Recorder, run, turns, until
from streamsupport import Events
from tlssupport import TLSPeer, client_context, client_side, server_context
from uvtulip._transports import SSLTransport

pytestmark = pytest.mark.usefixtures("tls_backend")


async def plain_pair(protocol):
    """A plain transport that is connected to a plain socket."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        transport, _ = await loop.create_connection(
            lambda: protocol, *listener.getsockname()
        )
        sock, _ = await loop.sock_accept(listener)
    sock.setblocking(False)
    return transport, sock


@pytest.mark.parametrize("server_side", [False, True])
def test_both_sides(server_side):
    async def main():
        loop = asyncio.get_running_loop()
        protocol = Events()
        plain, sock = await plain_pair(protocol)
        await loop.sock_sendall(sock, b"plain")
        await protocol.until(5)
        plain.write(b"go ahead")
        assert await loop.sock_recv(sock, 100) == b"go ahead"
        ours, theirs = (server_context(), client_context())
        if not server_side:
            ours, theirs = client_context(), server_context()
        with TLSPeer(sock, theirs, not server_side) as peer:
            shaking = asyncio.ensure_future(peer.handshake())
            secured = await loop.start_tls(
                plain,
                protocol,
                ours,
                server_side=server_side,
                server_hostname=None if server_side else "localhost",
            )
            await shaking
            assert isinstance(secured, SSLTransport)
            assert secured.get_protocol() is protocol
            assert secured.get_extra_info("peername") == sock.getsockname()
            assert protocol.events == ["made", "data"]  # Made only once.
            assert protocol.transport is plain
            secured.write(b"secret")
            assert await peer.exactly(6) == b"secret"
            await peer.send(b"answer")
            assert await protocol.until(11) == b"plainanswer"
            await peer.unwrap()
            assert await protocol.lost is None
            assert protocol.events[-2:] == ["eof", "lost"]

    run(main())


def test_data_behind_the_handshake_waits_for_the_caller():
    """Who awaits start_tls() has the new transport before data comes."""

    async def main():
        loop = asyncio.get_running_loop()
        protocol = Events()
        plain, sock = await plain_pair(protocol)
        with TLSPeer(sock, server_context(), True) as peer:

            async def shake():
                await peer.handshake()
                await peer.send(b"at once" * 1000)
                await peer.send_close()

            shaking = asyncio.ensure_future(shake())
            await loop.start_tls(
                plain, protocol, client_context(), server_hostname="localhost"
            )
            assert protocol.data == b""
            await shaking
            assert await protocol.lost is None
            assert protocol.data == b"at once" * 1000

    run(main())


class Buffered(asyncio.BufferedProtocol):
    def __init__(self):
        self.buffer = bytearray(100)
        self.data = bytearray()
        self.lost = asyncio.get_running_loop().create_future()

    def get_buffer(self, sizehint):
        return self.buffer

    def buffer_updated(self, nbytes):
        self.data += self.buffer[:nbytes]

    def connection_lost(self, exc):
        self.lost.set_result(exc)


def test_buffered_protocol():
    async def main():
        loop = asyncio.get_running_loop()
        protocol = Buffered()
        plain, sock = await plain_pair(protocol)
        with TLSPeer(sock, server_context(), True) as peer:
            await loop.sock_sendall(sock, b"plain")
            await until(lambda: protocol.data == b"plain")
            shaking = asyncio.ensure_future(peer.handshake())
            secured = await loop.start_tls(
                plain, protocol, client_context(), server_hostname="localhost"
            )
            await shaking
            await peer.send(b"x" * 1000)
            await until(lambda: len(protocol.data) == 1005)
            secured.abort()
            assert await protocol.lost is None

    run(main())


def test_streams():
    async def serve(reader, writer):
        assert await reader.readline() == b"STARTTLS\n"
        writer.write(b"go ahead\n")
        await writer.start_tls(server_context())
        while line := await reader.readline():
            writer.write(line.upper())
        writer.close()
        await writer.wait_closed()

    async def main():
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(
            *server.sockets[0].getsockname()
        )
        writer.write(b"STARTTLS\n")
        assert await reader.readline() == b"go ahead\n"
        await writer.start_tls(client_context(), server_hostname="localhost")
        assert writer.get_extra_info("tls_version") == "TLSv1.3"
        for i in range(100):
            writer.write(b"line %d\n" % i)
        for i in range(100):
            assert await reader.readline() == b"LINE %d\n" % i
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()

    run(main())


def test_hello_that_the_stream_reader_has_already():
    """A client that does not wait for the answer to STARTTLS."""
    done = []

    async def serve(reader, writer):
        assert await reader.readline() == b"STARTTLS\n"
        await asyncio.sleep(0.01)
        assert reader._buffer  # The hello.
        await writer.start_tls(server_context())
        done.append(await reader.readline())
        writer.write(b"secret\n")
        writer.close()
        await writer.wait_closed()

    async def main():
        loop = asyncio.get_running_loop()
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        sock = socket.create_connection(server.sockets[0].getsockname())
        with TLSPeer(sock, client_context(), False) as peer:
            with pytest.raises(ssl.SSLWantReadError):
                peer.object.do_handshake()
            await loop.sock_sendall(sock, b"STARTTLS\n" + peer.outgoing.read())
            await peer.handshake()
            await peer.send(b"hello\n")
            assert await peer.rest() == b"secret\n"
            await peer.unwrap()
        server.close()
        await server.wait_closed()
        assert done == [b"hello\n"]

    run(main())


def test_wrong_arguments():
    async def main():
        loop = asyncio.get_running_loop()
        protocol = Events()
        plain, sock = await plain_pair(protocol)
        with sock:
            with pytest.raises(TypeError, match=r"instance of ssl\.SSLContext"):
                await loop.start_tls(plain, protocol, None)
            with pytest.raises(TypeError, match="not supported by start_tls"):
                await loop.start_tls(None, protocol, client_context())
            for name in ("ssl_handshake_timeout", "ssl_shutdown_timeout"):
                with pytest.raises(ValueError, match="positive number"):
                    await loop.start_tls(plain, protocol, client_context(), **{name: 0})
            assert plain.get_protocol() is protocol
            plain.abort()
            await protocol.lost

    run(main())


def test_failure():
    async def main():
        loop = asyncio.get_running_loop()
        protocol = Events()
        plain, sock = await plain_pair(protocol)
        with TLSPeer(sock, server_context(), True) as peer:
            shaking = asyncio.ensure_future(peer.handshake())
            with pytest.raises(ssl.SSLCertVerificationError):
                await loop.start_tls(
                    plain, protocol, client_context(), server_hostname="other"
                )
            assert isinstance(await protocol.lost, ssl.SSLCertVerificationError)
            await asyncio.wait([shaking])
            shaking.exception()

    run(main())


@pytest.mark.parametrize("how", ["end", "reset", "timeout", "cancel", "abort"])
def test_no_handshake(how):
    """The protocol, which was connected, always hears that it is no more."""

    async def main():
        loop = asyncio.get_running_loop()
        protocol = Events()
        plain, sock = await plain_pair(protocol)
        starting = asyncio.ensure_future(
            loop.start_tls(
                plain,
                protocol,
                client_context(),
                server_hostname="localhost",
                ssl_handshake_timeout=0.05 if how == "timeout" else 10,
            )
        )
        with sock:
            assert await loop.sock_recv(sock, 10_000)
            if how == "end":
                sock.shutdown(socket.SHUT_WR)
            elif how == "reset":
                from streamsupport import reset

                reset(sock)
            elif how == "cancel":
                starting.cancel()
            elif how == "abort":
                plain.abort()
            expected = {
                "end": ConnectionResetError,
                "reset": ConnectionResetError,
                "timeout": ConnectionAbortedError,
                "cancel": asyncio.CancelledError,
                "abort": ConnectionAbortedError,
            }[how]
            with pytest.raises(expected):
                await starting
            await protocol.lost
            assert protocol.events == ["made", "lost"]

    run(main())


def test_on_a_transport_that_is_closed():
    async def main():
        loop = asyncio.get_running_loop()
        protocol = Events()
        plain, sock = await plain_pair(protocol)
        with sock:
            plain.abort()
            await protocol.lost
            with pytest.raises(ConnectionAbortedError):
                await loop.start_tls(
                    plain, Recorder(), client_context(), server_hostname="localhost"
                )

    run(main())


# ---- TLS in TLS ----


def test_on_a_tls_transport_that_is_closed():
    async def main():
        loop = asyncio.get_running_loop()
        protocol = Events()
        transport, peer = await client_side(protocol)
        with peer:
            transport.abort()
            await protocol.lost
            with pytest.raises(ConnectionAbortedError, match="closed during"):
                await loop.start_tls(
                    transport,
                    Recorder(),
                    client_context(),
                    server_hostname="localhost",
                    ssl_handshake_timeout=1,
                )

    run(main())


def test_tls_in_tls():
    async def main():
        loop = asyncio.get_running_loop()
        protocol = Events()
        outer, outer_peer = await client_side(protocol)
        with outer_peer:
            inner_peer = server_context()
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            inner = inner_peer.wrap_bio(incoming, outgoing, server_side=True)

            async def shake():
                while True:
                    try:
                        inner.do_handshake()
                    except ssl.SSLWantReadError:
                        if outgoing.pending:
                            await outer_peer.send(outgoing.read())
                        incoming.write(await outer_peer.recv())
                    else:
                        await outer_peer.send(outgoing.read())
                        return

            shaking = asyncio.ensure_future(shake())
            secured = await loop.start_tls(
                outer, protocol, client_context(), server_hostname="localhost"
            )
            await shaking
            secured.write(b"x" * 100_000)
            data = bytearray()
            while len(data) < 100_000:
                try:
                    data += inner.read(100_000)
                except ssl.SSLWantReadError:
                    incoming.write(await outer_peer.recv())
            assert data == b"x" * 100_000
            view = memoryview(bytes(200_000))
            while view:
                view = view[inner.write(view) :]
            await outer_peer.send(outgoing.read())
            await protocol.until(200_000)
            assert secured.get_extra_info("ssl_object").version() == "TLSv1.3"
            assert secured.get_extra_info("peername") == outer_peer.sock.getsockname()
            with pytest.raises(ssl.SSLWantReadError):
                inner.unwrap()
            await outer_peer.send(outgoing.read())
            with pytest.raises(ssl.SSLZeroReturnError):
                while True:
                    try:
                        inner.read(100)
                    except ssl.SSLWantReadError:
                        incoming.write(await outer_peer.recv())
            assert await outer_peer.recv() == b""
            await outer_peer.unwrap()
            assert await protocol.lost is None
            assert protocol.events[-2:] == ["eof", "lost"]

    run(main())


def test_tls_in_tls_of_ours_on_both_sides():
    async def main():
        loop = asyncio.get_running_loop()
        servers = []

        class Upgrading(Echo):
            def connection_made(self, transport):
                super().connection_made(transport)
                servers.append(self)
                transport.pause_reading()

                async def upgrade():
                    self.transport = await loop.start_tls(
                        transport, self, server_context(), server_side=True
                    )

                self.task = loop.create_task(upgrade())

        server = await loop.create_server(
            Upgrading, "127.0.0.1", 0, ssl=server_context()
        )
        protocol = Events()
        outer, _ = await loop.create_connection(
            lambda: protocol,
            *server.sockets[0].getsockname(),
            ssl=client_context(),
            server_hostname="localhost",
        )
        inner = await loop.start_tls(
            outer, protocol, client_context(), server_hostname="localhost"
        )
        await servers[0].task
        inner.write(b"x" * 3_000_000)
        assert await protocol.until(3_000_000) == b"x" * 3_000_000
        inner.close()
        assert await protocol.lost is None
        await until(lambda: servers[0].lost)
        server.close()
        await server.wait_closed()

    run(main())


# ---- other transports ----


class Memory(asyncio.Transport):
    """Half a pipe in memory, which calls its protocol at once."""

    _start_tls_compatible = True

    def __init__(self, protocol):
        super().__init__()
        self.protocol = protocol
        self.other = None
        self.ended = False
        self.paused = False
        self.waiting = bytearray()
        self.full = False

    def get_protocol(self):
        return self.protocol

    def set_protocol(self, protocol):
        self.protocol = protocol

    def write(self, data):
        assert type(data) is bytes
        if not self.other.ended:
            self.other.waiting += data
            self.other.deliver()

    def deliver(self):
        if not self.paused and self.waiting:
            data, self.waiting = bytes(self.waiting), bytearray()
            self.protocol.data_received(data)

    def pause_reading(self):
        self.paused = True

    def resume_reading(self):
        self.paused = False
        self.deliver()

    def is_closing(self):
        return self.ended

    def close(self):
        self.finish(None)
        self.other.finish(None)

    def abort(self):
        self.close()

    def finish(self, exc):
        if not self.ended:
            self.ended = True
            self.protocol.connection_lost(exc)


def memory_pair(first, second):
    one, two = Memory(first), Memory(second)
    one.other, two.other = two, one
    first.connection_made(one)
    second.connection_made(two)
    return one, two


@pytest.mark.parametrize("aborts", [False, True])
def test_over_a_transport_that_calls_back_at_once(aborts):
    async def main():
        loop = asyncio.get_running_loop()
        left, right = Events(), Echo()
        one, two = memory_pair(left, right)
        client, server = await asyncio.gather(
            loop.start_tls(one, left, client_context(), server_hostname="localhost"),
            loop.start_tls(two, right, server_context(), server_side=True),
        )
        right.transport = server
        client.write(b"x" * 500_000)
        assert await left.until(500_000) == b"x" * 500_000
        client.pause_reading()
        client.write(b"y" * 100_000)
        await turns()
        assert len(left.data) == 500_000
        client.resume_reading()
        await left.until(600_000)
        if aborts:
            client.abort()
        else:
            client.close()
        assert await left.lost is None
        await until(lambda: right.lost)

    run(main())


@pytest.mark.parametrize("method", ["close", "abort"])
def test_ending_one_that_calls_back_at_once_inside_of_a_callback(method):
    class Ending(Events):
        def data_received(self, data):
            super().data_received(data)
            if len(self.data) > 100_000:
                getattr(self.secured, method)()

    async def main():
        loop = asyncio.get_running_loop()
        left, right = Ending(), Echo()
        one, two = memory_pair(left, right)
        left.secured, right.transport = await asyncio.gather(
            loop.start_tls(one, left, client_context(), server_hostname="localhost"),
            loop.start_tls(two, right, server_context(), server_side=True),
        )
        left.secured.write(b"x" * 500_000)
        assert await left.lost is None
        assert left.events[-1] == "lost"
        await until(lambda: right.lost)

    run(main())


def test_flow_control_of_another_transport():
    async def main():
        loop = asyncio.get_running_loop()
        left, right = Events(), Recorder()
        one, two = memory_pair(left, right)
        client, _ = await asyncio.gather(
            loop.start_tls(one, left, client_context(), server_hostname="localhost"),
            loop.start_tls(two, right, server_context(), server_side=True),
        )
        one.get_protocol().pause_writing()
        client.write(b"x" * 1_000_000)
        assert client.get_write_buffer_size() == 1_000_000
        assert left.events[-1] == "pause"
        await turns()
        assert right.data == b""
        one.get_protocol().resume_writing()
        await until(lambda: len(right.data) == 1_000_000)
        assert left.events[-1] == "resume"
        client.abort()
        await left.lost

    run(main())


def test_asyncios_own_protocol_on_our_transport():
    """As servers do that bring their own STARTTLS."""

    async def main():
        loop = asyncio.get_running_loop()
        protocol = Events()
        plain, sock = await plain_pair(Recorder())
        with TLSPeer(sock, server_context(), True) as peer:
            shaking = asyncio.ensure_future(peer.handshake())
            waiter = loop.create_future()
            tls = asyncio.sslproto.SSLProtocol(
                loop,
                protocol,
                client_context(),
                waiter,
                server_hostname="localhost",
            )
            plain.set_protocol(tls)
            tls.connection_made(plain)
            await waiter
            await shaking
            protocol.transport.write(b"x" * 200_000)
            assert await peer.exactly(200_000) == b"x" * 200_000
            await peer.send(b"y" * 100_000)
            await protocol.until(100_000)
            await peer.unwrap()
            await protocol.lost

    run(main())


def test_ours_on_a_transport_of_asyncio_is_for_this_loop_only():
    async def main():
        loop = asyncio.get_running_loop()
        with pytest.raises(TypeError):
            await loop.start_tls(object(), Recorder(), client_context())

    run(main())


# ---- contexts and objects that the direct way does not know ----


class Object(ssl.SSLObject):
    """A class of the user's own."""

    calls = 0

    def read(self, len=1024, buffer=None):
        type(self).calls += 1
        return super().read(len, buffer) if buffer is not None else super().read(len)


def test_subclassed_ssl_object():
    async def main():
        context = client_context()
        context.sslobject_class = Object
        protocol = Events()
        transport, peer = await client_side(protocol, context)
        with peer:
            assert transport.get_extra_info("tls_backend") == "memory-bio"
            assert isinstance(transport.get_extra_info("ssl_object"), Object)
            transport.write(b"x" * 100_000)
            assert await peer.exactly(100_000) == b"x" * 100_000
            await peer.send(b"y" * 100_000)
            await protocol.until(100_000)
            assert Object.calls > 0
            transport.close()
            assert await peer.rest() == b""
            await peer.unwrap()
            assert await protocol.lost is None

    run(main())


def test_wrap_bio_that_fails():
    class Failing(ssl.SSLContext):
        def wrap_bio(self, *args, **kwargs):
            raise ZeroDivisionError

    async def main():
        loop = asyncio.get_running_loop()
        contexts = []
        loop.set_exception_handler(lambda _, context: contexts.append(context))
        server = await loop.create_server(
            Recorder, "127.0.0.1", 0, ssl=Failing(ssl.PROTOCOL_TLS_SERVER)
        )
        with pytest.raises(ZeroDivisionError):
            await loop.create_connection(
                Recorder,
                *server.sockets[0].getsockname(),
                ssl=Failing(ssl.PROTOCOL_TLS_CLIENT),
                server_hostname="localhost",
            )
        await until(lambda: contexts)
        assert isinstance(contexts[0]["exception"], ZeroDivisionError)
        server.close()
        await server.wait_closed()

    run(main())
