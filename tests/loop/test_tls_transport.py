"""TLS transports: data both ways, flow control, what they tell, protocol errors."""

import asyncio
import contextvars
import socket
import ssl

import pytest

import uvtulip
from aiosupport import Echo, Recorder, has_ipv6, run, turns, until
from streamsupport import Events
from tlssupport import (
    TLSPeer,
    certificate,
    client_context,
    client_side,
    serve_one,
    server_context,
    server_side,
    tls12,
)

pytestmark = pytest.mark.usefixtures("tls_backend")
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


def made_by(protocols, cls=Recorder):
    def factory():
        protocols.append(cls())
        return protocols[-1]

    return factory


# ---- data ----


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("size", [1, 1000, 16384, 16385, 65536, 1_000_000])
def test_echo(size, version):
    async def main():
        server, peer = await server_side(
            Echo, client=client_context(maximum_version=version)
        )
        data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
        with peer:
            assert peer.object.version() == version.name.replace("v1_", "v1.")
            sending = asyncio.ensure_future(peer.send(data))
            assert await peer.exactly(size) == data
            await sending
            await peer.unwrap()
        server.close()
        await server.wait_closed()

    run(main())


def test_streams():
    async def main():
        async def serve(reader, writer):
            while line := await reader.readline():
                writer.write(line.upper())
                await writer.drain()
            writer.close()
            await writer.wait_closed()

        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_context())
        reader, writer = await asyncio.open_connection(
            *server.sockets[0].getsockname(),
            ssl=client_context(),
            server_hostname="localhost",
        )
        for i in range(200):
            writer.write(b"line %d\n" % i)
        for i in range(200):
            assert await reader.readline() == b"LINE %d\n" % i
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()

    run(main())


def test_records_that_come_in_pieces():
    async def main():
        protocols = []
        server, peer = await server_side(made_by(protocols))
        loop = asyncio.get_running_loop()
        with peer:
            await until(lambda: protocols and protocols[0].transport)
            for size in (1, 100, 16384):
                protocols[0].data.clear()
                peer.object.write(b"a" * size)
                peer.object.write(b"b" * size)
                record = peer.outgoing.read()
                cut = range(0, len(record), max(1, len(record) // 50))
                for start in cut:
                    piece = record[start : start + cut.step]
                    await loop.sock_sendall(peer.sock, piece)
                    await asyncio.sleep(0)
                await until(lambda: len(protocols[0].data) == 2 * size)  # noqa: B023
                assert protocols[0].data == b"a" * size + b"b" * size
            await peer.unwrap()
        server.close()
        await server.wait_closed()

    run(main())


def test_one_read_is_one_call():
    """All records that a read brings are delivered together."""

    async def main():
        protocol = Events()
        transport, peer = await client_side(protocol)
        with peer:
            for _ in range(20):
                peer.object.write(b"0123456789")
            await peer.flush()
            await protocol.until(200)
            assert protocol.events == ["made", "data"]
            transport.abort()
            await protocol.lost

    run(main())


def test_what_may_be_written():
    async def main():
        protocol = Events()
        transport, peer = await client_side(protocol)
        with peer:
            changing = bytearray(b"bytearray")
            transport.write(b"bytes")
            transport.write(changing)
            changing[:] = b"#########"
            transport.write(memoryview(b"xxpartxx")[2:6])
            transport.write(memoryview(bytearray(b"view")))
            transport.write(b"")
            transport.writelines([b"one", bytearray(b"two"), memoryview(b"three")])
            transport.writelines(piece for piece in (b"four", b"five"))
            transport.write(data=b"named")
            expected = b"bytesbytearraypartviewonetwothreefourfivenamed"
            assert await peer.exactly(len(expected)) == expected
            for wrong in ("text", None, 5, [b"list"]):
                with pytest.raises(TypeError, match="bytes-like"):
                    transport.write(wrong)
            with pytest.raises(TypeError):
                transport.writelines([b"a", "b"])
            with pytest.raises(BufferError):
                transport.write(memoryview(b"abcdef")[::2])
            with pytest.raises(NotImplementedError):
                transport.write_eof()
            assert transport.can_write_eof() is False
            transport.write(b"end")
            assert await peer.exactly(3) == b"end"
            transport.abort()
            await protocol.lost

    run(main())


def test_small_writes_share_a_record():
    async def main():
        protocol = Events()
        transport, peer = await client_side(protocol)
        with peer:
            for _ in range(100):
                transport.write(b"x" * 100)
            await until(lambda: True)
            data = await peer.recv()
            assert data == b"x" * 10_000
            transport.abort()
            await protocol.lost

    run(main())


def test_large_writes_of_both_sides_at_once():
    async def main():
        mine, theirs = Events(), []
        server = await asyncio.get_running_loop().create_server(
            made_by(theirs, Events), "127.0.0.1", 0, ssl=server_context()
        )
        transport, _ = await asyncio.get_running_loop().create_connection(
            lambda: mine,
            *server.sockets[0].getsockname(),
            ssl=client_context(),
            server_hostname="localhost",
        )
        await until(lambda: theirs and theirs[0].transport)
        size = 5_000_000
        transport.write(b"c" * size)
        theirs[0].transport.write(b"s" * size)
        assert await theirs[0].until(size) == b"c" * size
        assert await mine.until(size) == b"s" * size
        transport.close()
        assert await mine.lost is None
        assert await theirs[0].lost is None
        server.close()
        await server.wait_closed()

    run(main())


# ---- reading is paused, writing is paused ----


def test_pause_reading():
    async def main():
        protocol = Events()
        transport, peer = await client_side(protocol)
        with peer:
            transport.pause_reading()
            transport.pause_reading()
            assert not transport.is_reading()
            await peer.send(b"x" * 100_000)
            await turns(20)
            assert protocol.data == b""
            transport.resume_reading()
            assert transport.is_reading()
            assert protocol.data == b""  # Not from inside of the call.
            await protocol.until(100_000)
            transport.abort()
            await protocol.lost

    run(main())


def test_pause_while_data_comes():
    """What has been decrypted is delivered, the rest waits: nothing is lost."""

    class Slow(Events):
        def data_received(self, data):
            super().data_received(data)
            self.transport.pause_reading()
            asyncio.get_running_loop().call_later(0.001, self.transport.resume_reading)

    async def main():
        protocol = Slow()
        transport, peer = await client_side(protocol)
        data = bytes(range(256)) * 4000
        with peer:
            sending = asyncio.ensure_future(peer.send(data))
            assert await protocol.until(len(data)) == data
            await sending
            await peer.send_close()
            assert await protocol.lost is None
            assert protocol.events[-2:] == ["eof", "lost"]

    run(main())


def test_read_buffer():
    """The limits are kept; what waits while reading pauses is counted."""

    async def main():
        protocol = Events()
        transport, peer = await client_side(protocol)
        assert transport.get_read_buffer_limits() == (64 * 1024, 256 * 1024)
        transport.set_read_buffer_limits(high=100, low=10)
        assert transport.get_read_buffer_limits() == (10, 100)
        with pytest.raises(ValueError, match="must be >="):
            transport.set_read_buffer_limits(high=1, low=2)
        transport.set_read_buffer_limits()
        assert transport.get_read_buffer_limits() == (64 * 1024, 256 * 1024)

        sizes = []

        class Small(asyncio.BufferedProtocol):
            def get_buffer(self, hint):
                return bytearray(1000)

            def buffer_updated(self, count):
                transport.pause_reading()
                sizes.append(transport.get_read_buffer_size())

        transport.set_protocol(Small())
        with peer:
            await peer.send(bytes(60_000))
            await until(lambda: sizes)
            await turns(10)
            assert len(sizes) == 1 and sizes[0] > 10_000
            assert transport.get_read_buffer_size() == sizes[0]
            transport.set_protocol(protocol)
            transport.abort()
            await protocol.lost
            assert transport.get_read_buffer_size() == 0

    run(main())


def test_flow_control():
    async def main():
        protocol = Events()
        transport, peer = await client_side(protocol)
        assert transport.get_write_buffer_limits() == (128 * 1024, 512 * 1024)
        transport.set_write_buffer_limits(high=100_000, low=1000)
        assert transport.get_write_buffer_limits() == (1000, 100_000)
        with pytest.raises(ValueError, match="must be >="):
            transport.set_write_buffer_limits(high=1, low=2)
        transport.set_write_buffer_limits()
        assert transport.get_write_buffer_limits() == (128 * 1024, 512 * 1024)
        transport.set_write_buffer_limits(100_000, 1000)
        with peer:
            total = 0
            while "pause" not in protocol.events:
                transport.write(b"x" * 65536)
                total += 65536
            assert transport.get_write_buffer_size() > 100_000
            await turns(10)
            assert "resume" not in protocol.events
            assert await peer.exactly(total) == b"x" * total
            await until(lambda: "resume" in protocol.events)
            assert transport.get_write_buffer_size() <= 1000
            assert protocol.events == ["made", "pause", "resume"]
            transport.abort()
            await protocol.lost

    run(main())


def test_a_high_water_mark_of_nothing():
    async def main():
        protocol = Events()
        transport, peer = await client_side(protocol)
        transport.set_write_buffer_limits(0)
        with peer:
            total = 0
            while "pause" not in protocol.events:
                transport.write(b"x" * 100_000)
                total += 100_000
            await peer.exactly(total)
            await until(lambda: "resume" in protocol.events)
            transport.abort()
            await protocol.lost

    run(main())


# ---- protocols ----


class Buffered(asyncio.BufferedProtocol):
    def __init__(self, size):
        self.buffer = bytearray(size)
        self.data = bytearray()
        self.transport = None
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport

    def get_buffer(self, sizehint):
        assert sizehint > 0
        return self.buffer

    def buffer_updated(self, nbytes):
        assert 0 < nbytes <= len(self.buffer)
        self.data += self.buffer[:nbytes]

    def connection_lost(self, exc):
        self.lost.set_result(exc)


@pytest.mark.parametrize("size", [1, 100, 16384, 200_000])
def test_buffered_protocol(size):
    async def main():
        protocol = Buffered(size)
        _, peer = await client_side(protocol)
        total = 1000 if size == 1 else 150_000
        with peer:
            await peer.send(b"x" * total)
            await until(lambda: len(protocol.data) == total)
            await peer.send_close()
            assert await protocol.lost is None

    run(main())


def test_set_protocol():
    async def main():
        first, second = Events(), Recorder()
        transport, peer = await client_side(first)
        with peer:
            await peer.send(b"one")
            await first.until(3)
            transport.set_protocol(second)
            assert transport.get_protocol() is second
            await peer.send(b"two")
            await until(lambda: second.data == b"two")
            third = Buffered(10)
            transport.set_protocol(protocol=third)
            await peer.send(b"three")
            await until(lambda: third.data == b"three")
            transport.abort()
            assert await third.lost is None
            assert transport.get_protocol() is None
            assert first.events == ["made", "data"]

    run(main())


@pytest.mark.parametrize("kind", [Recorder, lambda: Buffered(10)])
def test_set_protocol_inside_get_buffer(kind):
    async def main():
        last = kind()

        class Changes(Buffered):
            def get_buffer(self, hint):
                if sending:  # It is asked at the end of the handshake, too.
                    self.transport.set_protocol(last)
                return super().get_buffer(hint)

        sending = False
        first = Changes(10)
        server, peer = await server_side(lambda: first)
        server.close()
        with peer:
            await until(lambda: first.transport is not None)
            sending = True
            await peer.send(b"x" * 250)
            await until(lambda: len(last.data) >= 250)
            assert last.data == b"x" * 250
            first.transport.abort()
            await turns()

    run(main())


variable = contextvars.ContextVar("variable", default="unset")


def test_context():
    seen = {}

    class Watching(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            seen["made"] = variable.get()
            variable.set("mine")

        def data_received(self, data):
            super().data_received(data)
            seen["data"] = variable.get()

        def connection_lost(self, exc):
            super().connection_lost(exc)
            seen["lost"] = variable.get()

    async def main():
        variable.set("outer")
        protocol = Watching()
        transport, peer = await client_side(protocol)
        with peer:
            await peer.send(b"x")
            await until(lambda: protocol.data)
            transport.abort()
            await until(lambda: protocol.lost)
        assert seen == {"made": "outer", "data": "mine", "lost": "mine"}
        assert variable.get() == "outer"

    run(main())


async def failing_protocol(method, message):
    loop = asyncio.get_running_loop()
    error = ZeroDivisionError("mine")
    contexts = []
    loop.set_exception_handler(lambda _, context: contexts.append(context))

    class Failing(Events):
        pass

    def fail(self, *args):
        raise error

    protocol = Failing()
    if method == "connection_lost":
        protocol.lost.set_result(None)
    transport, peer = await client_side(protocol)
    setattr(Failing, method, fail)
    transport.set_protocol(protocol)
    with peer:
        if method == "pause_writing":
            while transport.get_write_buffer_size() < 600_000:
                transport.write(b"x" * 100_000)
            transport.abort()
        elif method == "eof_received":
            await peer.send_close()
        elif method == "connection_lost":
            transport.abort()
        else:
            await peer.send(b"data")
        await until(lambda: contexts)
        if method != "connection_lost":
            lost = await protocol.lost
            assert lost is (None if method == "pause_writing" else error)
    assert [c["exception"] for c in contexts] == [error]
    assert message in contexts[0]["message"]
    assert contexts[0]["protocol"] is protocol
    assert contexts[0]["transport"] is transport


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("data_received", "Fatal error on SSL protocol"),
        ("eof_received", "Error calling eof_received()"),
        ("pause_writing", "protocol.pause_writing() failed"),
        ("connection_lost", "protocol.connection_lost()"),
    ],
)
def test_a_protocol_that_raises(method, message):
    run(failing_protocol(method, message))


def test_connection_made_that_raises():
    error = ZeroDivisionError("mine")

    class Failing(asyncio.Protocol):
        lost = None

        def connection_made(self, transport):
            raise error

        def connection_lost(self, exc):
            self.lost = exc

    async def main():
        loop = asyncio.get_running_loop()
        contexts = []
        loop.set_exception_handler(lambda _, context: contexts.append(context))
        protocol = Failing()
        with pytest.raises(ZeroDivisionError):
            await client_side(protocol)
        assert protocol.lost is error
        assert [c["exception"] for c in contexts] == [error]

    run(main())


# ---- what they tell ----


def test_extra_info(tls_backend):
    class Asking(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            ask = transport.get_extra_info
            self.version = ask("ssl_object").version()
            self.cert = ask("peercert")

    async def main():
        protocol = Asking()
        context = client_context()
        context.set_alpn_protocols(["h2", "http/1.1"])
        server = server_context()
        server.set_alpn_protocols(["http/1.1"])
        transport, peer = await client_side(protocol, context, server)
        with peer:
            ask = transport.get_extra_info
            assert ask("sslcontext") is context
            assert isinstance(ask("ssl_object"), ssl.SSLObject)
            assert ask("ssl_object") is ask("ssl_object")
            assert protocol.version == ask("tls_version") == "TLSv1.3"
            assert protocol.cert == ask("peercert")
            assert ("DNS", "localhost") in ask("peercert")["subjectAltName"]
            assert ask("cipher") == peer.object.cipher()
            assert ask("compression", "default") is None
            assert ask("alpn_protocol") == "http/1.1"
            assert ask("session_reused") is False
            assert ask("tls_backend") == tls_backend
            assert ask("peername") == peer.sock.getsockname()
            assert ask("sockname") == peer.sock.getpeername()
            assert ask("socket").fileno() > 0
            assert ask("nothing") is None
            assert ask("nothing", 5) == 5
            binding = ask("ssl_object").get_channel_binding("tls-unique")
            assert binding == peer.object.get_channel_binding("tls-unique")
            assert "open" in repr(transport)
            transport.close()
            assert "closing" in repr(transport)
            await peer.unwrap()
            await until(lambda: protocol.lost)
        # The connection is gone, its properties are not.
        assert ask("tls_version") == "TLSv1.3"
        assert ask("peercert") == protocol.cert
        assert ask("ssl_object") is not None
        assert "closed" in repr(transport)

    run(main())


def test_backend_of_the_module(tls_backend):
    assert uvtulip.tls_backend() == tls_backend


def test_client_certificate():
    async def main():
        context = server_context(verify_mode=ssl.CERT_REQUIRED)
        client = client_context()
        certificate("a.client").configure_cert(client)
        protocols = []
        server, peer = await server_side(made_by(protocols), context, client)
        with peer:
            await until(lambda: protocols and protocols[0].transport)
            cert = protocols[0].transport.get_extra_info("peercert")
            assert ("DNS", "a.client") in cert["subjectAltName"]
            await peer.unwrap()
        server.close()
        await server.wait_closed()

    run(main())


def test_post_handshake_authentication():
    """The server asks for the certificate of a client that is connected."""

    class Asking(Recorder):
        def data_received(self, data):
            super().data_received(data)
            if data == b"ask":
                self.transport.get_extra_info("ssl_object").verify_client_post_handshake()
                self.transport.write(b"asked")

    async def main():
        context = server_context(verify_mode=ssl.CERT_OPTIONAL)
        context.post_handshake_auth = True
        client = client_context(post_handshake_auth=True)
        certificate("a.client").configure_cert(client)
        protocols = []
        server, peer = await server_side(made_by(protocols, Asking), context, client)
        with peer:
            await peer.send(b"ask")
            assert await peer.exactly(5) == b"asked"
            await peer.flush()
            await peer.send(b"more")
            await until(lambda: protocols[0].data == b"askmore")
            cert = protocols[0].transport.get_extra_info("peercert")
            assert ("DNS", "a.client") in cert["subjectAltName"]
            await peer.unwrap()
        server.close()
        await server.wait_closed()

    run(main())


def test_sni_callback_and_keylog(tmp_path):
    names = []

    def choose(sslobject, name, context):
        names.append(name)
        sslobject.context = other

    async def main():
        nonlocal other
        other = server_context()
        other.set_alpn_protocols(["other"])
        other.keylog_filename = str(tmp_path / "keys")
        context = server_context()
        context.sni_callback = choose
        client = client_context()
        client.set_alpn_protocols(["other"])
        protocols = []
        server, peer = await server_side(made_by(protocols), context, client)
        with peer:
            await until(lambda: protocols and protocols[0].transport)
            assert names == ["localhost"]
            ask = protocols[0].transport.get_extra_info
            assert ask("ssl_object").context is other
            assert peer.object.selected_alpn_protocol() == "other"
            assert ask("alpn_protocol") == "other"
            await peer.unwrap()
        server.close()
        await server.wait_closed()

    other = None
    run(main())
    assert "SECRET" in (tmp_path / "keys").read_text()


def test_callbacks_that_use_the_transport():
    """Debug messages of OpenSSL come in the middle of its reads and writes."""

    async def main():
        context = server_context()
        protocols = []

        def on_message(conn, direction, version, content_type, msg_type, data):
            if protocols and protocols[0].transport:
                protocols[0].transport.get_write_buffer_size()
                if not protocols[0].transport.is_closing():
                    protocols[0].transport.write(b"")

        context._msg_callback = on_message
        server, peer = await server_side(made_by(protocols, Echo), context)
        with peer:
            data = b"x" * 200_000
            sending = asyncio.ensure_future(peer.send(data))
            assert await peer.exactly(len(data)) == data
            await sending
            await peer.unwrap()
        server.close()
        await server.wait_closed()

    run(main())


def test_abort_from_inside_of_openssl():
    async def main():
        context = server_context()
        protocols = []

        def on_message(conn, direction, version, content_type, msg_type, data):
            if protocols and protocols[0].data:
                protocols[0].transport.abort()

        class Answering(Recorder):
            def data_received(self, data):
                super().data_received(data)
                self.transport.write(b"y" * 100)
                self.transport.write(data)

        context._msg_callback = on_message
        server, peer = await server_side(made_by(protocols, Answering), context)
        with peer:
            await peer.send(b"x" * 20_000)
            await until(lambda: protocols[0].lost)
        server.close()
        await server.wait_closed()

    run(main())


# ---- kinds of connections ----


def test_ipv6_and_hostname():
    if not has_ipv6():
        pytest.skip("no IPv6 here")

    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, "::1", 0, ssl=server_context())
        port = server.sockets[0].getsockname()[1]
        protocol = Recorder()
        transport, _ = await loop.create_connection(
            lambda: protocol,
            "::1",
            port,
            ssl=client_context(),
            server_hostname="localhost",
        )
        transport.write(b"x")
        await until(lambda: protocol.data)
        transport.close()
        await until(lambda: protocol.lost)
        with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
            await loop.create_connection(
                Recorder, "::1", port, ssl=client_context(), server_hostname="other"
            )
        server.close()
        await server.wait_closed()

    run(main())


def test_unix_socket(tmp_path):
    async def main():
        loop = asyncio.get_running_loop()
        path = str(tmp_path / "socket")
        server = await loop.create_unix_server(Echo, path, ssl=server_context())
        protocol = Recorder()
        with pytest.raises(ValueError, match="server_hostname"):
            await loop.create_unix_connection(Recorder, path, ssl=client_context())
        transport, _ = await loop.create_unix_connection(
            lambda: protocol, path, ssl=client_context(), server_hostname="localhost"
        )
        transport.write(b"x" * 100_000)
        await until(lambda: len(protocol.data) == 100_000)
        assert transport.get_extra_info("peername") == path
        transport.close()
        await until(lambda: protocol.lost)
        server.close()
        await server.wait_closed()

    run(main())


def test_sockets_that_are_given():
    async def main():
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        accepted, client = Echo(), Recorder()
        serving = asyncio.ensure_future(
            loop.connect_accepted_socket(lambda: accepted, ours, ssl=server_context())
        )
        with pytest.raises(ValueError, match="You must set server_hostname"):
            await loop.create_connection(Recorder, sock=theirs, ssl=client_context())
        transport, _ = await loop.create_connection(
            lambda: client,
            sock=theirs,
            ssl=client_context(),
            server_hostname="localhost",
        )
        await serving
        transport.write(b"hello")
        await until(lambda: client.data == b"hello")
        transport.close()
        await until(lambda: client.lost and accepted.lost)
        await turns()
        assert ours.fileno() == theirs.fileno() == -1

    run(main())


def test_arguments():
    async def main():
        loop = asyncio.get_running_loop()
        where = "127.0.0.1", 1
        for name, value in [
            ("server_hostname", "x"),
            ("ssl_handshake_timeout", 1),
            ("ssl_shutdown_timeout", 1),
        ]:
            with pytest.raises(ValueError, match=f"{name} is only meaningful with ssl"):
                await loop.create_connection(Recorder, *where, **{name: value})
        for name in ("ssl_handshake_timeout", "ssl_shutdown_timeout"):
            with pytest.raises(ValueError, match=f"{name} is only meaningful with ssl"):
                await loop.create_server(Recorder, *where, **{name: 1})
            for value in (0, -1):
                with pytest.raises(ValueError, match="should be a positive number"):
                    await loop.create_connection(
                        Recorder, *where, ssl=client_context(), **{name: value}
                    )
        for ssl_argument in (True, False):
            with pytest.raises(TypeError, match="ssl argument must be an SSLContext"):
                await loop.create_server(Recorder, *where, ssl=ssl_argument)
        with pytest.raises(ValueError, match="needs a valid SSLContext"):
            await loop.connect_accepted_socket(Recorder, None, ssl=True)

    run(main())


def test_tls12_session_and_renegotiation_info():
    async def main():
        protocol = Recorder()
        transport, peer = await client_side(protocol, tls12(client_context()))
        with peer:
            assert transport.get_extra_info("tls_version") == "TLSv1.2"
            session = transport.get_extra_info("ssl_object").session
            assert session is not None
            transport.abort()
            await until(lambda: protocol.lost)

    run(main())


def test_server_knows_its_secured_transports():
    async def main():
        protocols = []
        server, peer = await server_side(made_by(protocols))
        with peer:
            await until(lambda: protocols and protocols[0].transport)
            server.close()
            server.close_clients()
            assert protocols[0].transport.is_closing()
            assert await peer.rest() == b""  # close_notify, not just the end
            await peer.unwrap()
            await server.wait_closed()

    run(main())


def test_plain_socket_that_waits_for_nothing():
    """A handshake whose last flight comes together with data."""

    async def main():
        protocols = []
        server, sock = await serve_one(made_by(protocols, Echo))
        peer = TLSPeer(sock, client_context(), False)
        with peer:
            while True:
                try:
                    peer.object.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    await peer.flush()
                    await peer.fill()
            peer.object.write(b"at once")
            await peer.flush()
            assert await peer.exactly(7) == b"at once"
            await peer.unwrap()
        server.close()
        await server.wait_closed()

    run(main())


def test_other_threads():
    """In debug mode all but writing is refused."""

    async def main():
        loop = asyncio.get_running_loop()
        protocol = Events()
        transport, peer = await client_side(protocol)

        def elsewhere():
            for method in (
                transport.close,
                transport.abort,
                transport.pause_reading,
                transport.resume_reading,
                transport.set_write_buffer_limits,
            ):
                with pytest.raises(RuntimeError, match="call_soon_threadsafe"):
                    method()
            with pytest.raises(RuntimeError, match="call_soon_threadsafe"):
                transport.set_protocol(protocol)
            transport.write(b"from another thread")

        with peer:
            await loop.run_in_executor(None, elsewhere)
            assert await peer.exactly(19) == b"from another thread"
            assert not transport.is_closing()
            transport.abort()
            assert await protocol.lost is None

    run(main(), debug=True)
