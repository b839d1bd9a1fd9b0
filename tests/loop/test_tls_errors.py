"""A peer that speaks no TLS, or wrongly, ends the connection at once, with the error
that the ssl module has for it; and what fails first is what the caller gets."""

import asyncio
import contextlib
import socket
import ssl

import pytest

from aiosupport import run, turns
from streamsupport import Events, reset, tcp_pair
from tlssupport import TLSPeer, client_context, server_context, tls12

pytestmark = pytest.mark.usefixtures("tls_backend")

SIDES = pytest.mark.parametrize("server_side", [False, True], ids=["client", "server"])
VERSIONS = pytest.mark.parametrize("version", ["1.2", "1.3"])

NOT_TLS = {
    "http": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "http-proxy": b"CONNECT localhost:443 HTTP/1.1\r\n\r\n",
    "smtp": b"220 mail.example ESMTP ready\r\n",
    "ssh": b"SSH-2.0-OpenSSH_9.2\r\n",
    "zeros": bytes(64),
    "ones": b"\xff" * 64,
    "version": b"\x16\x09\x09\x00\x05\x01\x00\x00\x01\x00",
    "message": b"\x16\x03\x01\x00\x05\x63\x00\x00\x01\x00",
    "data": b"\x17\x03\x03\x00\x05hello",
    "alert": b"\x15\x03\x01\x00\x02\x02\x28",
    "huge": b"\x16\x03\x01\xff\xff" + bytes(100),
}
NOISE = pytest.mark.parametrize("noise", NOT_TLS.values(), ids=NOT_TLS)


def contexts(version="1.3"):
    server, client = server_context(), client_context()
    return (tls12(server) if version == "1.2" else server), client


class Memory:
    """An end of a connection in memory, of the ssl module alone."""

    def __init__(self, context, server_side):
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.object = context.wrap_bio(
            self.incoming,
            self.outgoing,
            server_side=server_side,
            server_hostname=None if server_side else "localhost",
        )

    def step(self, function, *args):
        with contextlib.suppress(ssl.SSLWantReadError):
            return function(*args)


def told_apart(exc):
    """What a program can see of an error of ssl's, but for the line of _ssl.c."""
    text = str(exc).partition(" (_ssl.c")[0]
    names = "errno", "reason", "library", "verify_code", "verify_message"
    return type(exc), text, *(getattr(exc, name, None) for name in names)


def error_of_noise(noise, server_side):
    end = Memory(contexts()[0 if server_side else 1], server_side)
    if not server_side:
        end.step(end.object.do_handshake)
    end.incoming.write(noise)
    with pytest.raises(ssl.SSLError) as caught:
        end.object.do_handshake()
    return told_apart(caught.value)


def error_of_garbage(garbage, version, server_side):
    """What read() raises after the handshake."""
    server, client = contexts(version)
    ends = [Memory(server, True), Memory(client, False)]
    for _ in range(4):
        for one, other in (ends, ends[::-1]):
            one.step(one.object.do_handshake)
            other.incoming.write(one.outgoing.read())
    end = ends[0 if server_side else 1]
    end.step(end.object.read)
    end.incoming.write(garbage)
    with pytest.raises(ssl.SSLError) as caught:
        end.object.read()
    return told_apart(caught.value)


async def making(protocol, sock, server_side, version="1.3"):
    loop = asyncio.get_running_loop()
    server, client = contexts(version)
    try:
        if server_side:
            return await loop.connect_accepted_socket(
                lambda: protocol, sock, ssl=server
            )
        return await loop.create_connection(
            lambda: protocol, sock=sock, ssl=client, server_hostname="localhost"
        )
    except BaseException:
        sock.close()
        raise


@NOISE
@SIDES
def test_noise_instead_of_a_handshake(noise, server_side):
    async def main():
        ours, theirs = tcp_pair()
        with theirs:
            theirs.sendall(noise)
            with pytest.raises(ssl.SSLError) as caught:
                await making(Events(), ours, server_side)
            assert told_apart(caught.value) == error_of_noise(noise, server_side)

    run(main())


@NOISE
def test_noise_in_pieces(noise):
    async def main():
        ours, theirs = tcp_pair()
        theirs.setblocking(False)
        theirs.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with theirs:
            connecting = asyncio.ensure_future(making(Events(), ours, True))
            for i in range(len(noise)):
                with contextlib.suppress(OSError):
                    theirs.send(noise[i : i + 1])
                await asyncio.sleep(0.001)
            with pytest.raises(ssl.SSLError) as caught:
                await connecting
            assert told_apart(caught.value) == error_of_noise(noise, True)

    run(main())


@NOISE
def test_a_server_gives_the_connection_up(noise):
    async def main():
        loop = asyncio.get_running_loop()
        made = []
        server = await loop.create_server(
            lambda: made.append(0) or Events(), "127.0.0.1", 0, ssl=server_context()
        )
        with socket.socket() as sock:
            sock.setblocking(False)
            await loop.sock_connect(sock, server.sockets[0].getsockname())
            await loop.sock_sendall(sock, noise)
            with contextlib.suppress(ConnectionResetError):
                while await loop.sock_recv(sock, 100):
                    pass  # An alert.
        assert made == [0]
        server.close()
        await server.wait_closed()

    run(main())


@NOISE
@SIDES
def test_noise_after_start_tls(noise, server_side):
    async def main():
        loop = asyncio.get_running_loop()
        ours, theirs = tcp_pair()
        protocol = Events()
        transport, _ = await loop.create_connection(lambda: protocol, sock=ours)
        with theirs:
            theirs.sendall(noise)
            server, client = contexts()
            with pytest.raises(ssl.SSLError) as caught:
                await loop.start_tls(
                    transport,
                    protocol,
                    server if server_side else client,
                    server_side=server_side,
                    server_hostname=None if server_side else "localhost",
                )
            assert told_apart(caught.value) == error_of_noise(noise, server_side)
            assert told_apart(await protocol.lost) == told_apart(caught.value)

    run(main())


@pytest.mark.parametrize("noise", ["http", "zeros", "data", "alert"])
@VERSIONS
@SIDES
def test_noise_after_the_handshake(noise, version, server_side):
    garbage = NOT_TLS[noise]

    async def main():
        ours, theirs = tcp_pair()
        protocol = Events()
        server, client = contexts(version)
        with TLSPeer(theirs, client if server_side else server, not server_side) as p:
            await asyncio.gather(
                making(protocol, ours, server_side, version), p.handshake()
            )
            await p.loop.sock_sendall(theirs, garbage)
            exc = await protocol.lost
            assert told_apart(exc) == error_of_garbage(garbage, version, server_side)

    run(main())


@VERSIONS
def test_a_client_without_the_certificate_that_is_wanted(version):
    """With TLS 1.3 the server refuses when the client is done already."""

    async def main():
        loop = asyncio.get_running_loop()
        strict, client = contexts(version)
        strict.verify_mode = ssl.CERT_REQUIRED
        server = await loop.create_server(Events, "127.0.0.1", 0, ssl=strict)
        protocol = Events()
        try:
            await loop.create_connection(
                lambda: protocol,
                *server.sockets[0].getsockname(),
                ssl=client,
                server_hostname="localhost",
            )
        except ssl.SSLError as exc:
            error = exc
        else:
            error = await protocol.lost
        assert isinstance(error, ssl.SSLError)
        assert error.library == "SSL"
        assert "ALERT" in error.reason
        server.close()

    run(main())


def bad_client():
    return ssl.create_default_context()  # Trusts nobody that the tests know.


@pytest.mark.parametrize("name", ["localhost", "elsewhere.example", "127.0.0.1"])
@pytest.mark.parametrize("trusting", [True, False])
def test_the_certificate_is_not_right(name, trusting, no_leak):
    """Each way to connect raises what the handshake of the ssl module raises."""
    if trusting and name == "localhost":
        name = "other"
    context = client_context if trusting else bad_client

    def reference():
        ends = [Memory(server_context(), True), Memory(context(), False)]
        ends[1].object = context().wrap_bio(
            ends[1].incoming, ends[1].outgoing, server_hostname=name
        )
        ends[1].step(ends[1].object.do_handshake)
        ends[0].incoming.write(ends[1].outgoing.read())
        ends[0].step(ends[0].object.do_handshake)
        ends[1].incoming.write(ends[0].outgoing.read())
        with pytest.raises(ssl.SSLCertVerificationError) as caught:
            ends[1].object.do_handshake()
        return told_apart(caught.value)

    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Events, "127.0.0.1", 0, ssl=server_context())
        address = server.sockets[0].getsockname()
        options = {"ssl": context(), "server_hostname": name}
        expected = reference()

        async def to_address():
            await loop.create_connection(Events, *address, **options)

        async def with_socket():
            sock = socket.create_connection(address)
            with sock:
                await loop.create_connection(Events, sock=sock, **options)

        async def with_streams():
            await asyncio.open_connection(*address, **options)

        async def upgraded():
            plain = await loop.create_server(Upgrading, "127.0.0.1", 0)
            reader, writer = await asyncio.open_connection(
                *plain.sockets[0].getsockname()
            )
            plain.close()
            await writer.start_tls(options["ssl"], server_hostname=name)

        for connect in (to_address, with_socket, with_streams, upgraded):
            with pytest.raises(ssl.SSLCertVerificationError) as caught:
                await connect()
            assert told_apart(caught.value) == expected, connect
        server.close()
        await server.wait_closed()

    run(main())


class Upgrading(Events):
    """Speaks TLS from the beginning, by start_tls()."""

    def connection_made(self, transport):
        super().connection_made(transport)
        self.task = asyncio.ensure_future(self.upgrade())

    async def upgrade(self):
        with contextlib.suppress(OSError):
            await asyncio.get_running_loop().start_tls(
                self.transport, self, server_context(), server_side=True
            )


class Awkward(asyncio.Transport):
    """A transport of somebody's that fails in everything."""

    _start_tls_compatible = True

    def __init__(self, broken):
        super().__init__()
        self.broken = broken
        self.calls = []

    def call(self, name):
        self.calls.append(name)
        if name in self.broken:
            raise OSError(name)

    def set_protocol(self, protocol):
        self.protocol = protocol

    def pause_reading(self):
        pass

    def resume_reading(self):
        self.protocol.data_received(NOT_TLS["http"])

    def write(self, data):
        self.call("write")

    def abort(self):
        self.call("abort")
        self.protocol.connection_lost(None)

    def close(self):
        self.call("close")


@pytest.mark.parametrize(
    "broken", [["close"], ["abort"], ["write"], ["close", "write"]]
)
def test_a_transport_below_that_fails_while_cleaning_up(broken):
    async def main():
        loop = asyncio.get_running_loop()
        reported = []
        loop.set_exception_handler(lambda _, context: reported.append(context))
        below = Awkward(broken)
        with pytest.raises(ssl.SSLError) as caught:
            await loop.start_tls(below, Events(), server_context(), server_side=True)
        assert told_apart(caught.value) == error_of_noise(NOT_TLS["http"], True)
        assert below.calls[-1] == "close"
        told = [str(context["exception"]) for context in reported]
        assert told == [name for name in broken if name == "abort"]

    run(main())


@SIDES
def test_a_peer_that_is_gone_when_the_alert_is_sent(server_side):
    """The error is that of the handshake, not that of the alert."""

    async def main():
        ours, theirs = tcp_pair()
        connecting = asyncio.ensure_future(making(Events(), ours, server_side))
        await turns(10)
        theirs.sendall(NOT_TLS["message"])
        reset(theirs)
        with pytest.raises(ssl.SSLError) as caught:
            await connecting
        assert told_apart(caught.value) == error_of_noise(
            NOT_TLS["message"], server_side
        )

    run(main())


def test_a_factory_that_closes_the_handle(no_leak):
    """What it raises is what the caller gets."""

    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Events, "127.0.0.1", 0)

        def factory():
            for handle in list(loop.uv_loop.handles):
                if type(handle).__name__ == "TCP" and handle not in listening:
                    handle.close()
            raise ZeroDivisionError

        listening = [h for h in loop.uv_loop.handles if type(h).__name__ == "TCP"]
        loop.set_exception_handler(lambda *unused: None)
        with pytest.raises(ZeroDivisionError):
            await loop.create_connection(factory, *server.sockets[0].getsockname())
        server.close()
        await server.wait_closed()

    run(main())
