"""A server of TLS 1.2 asks for another handshake, to see a certificate for instance:
what is written meanwhile waits, and goes out when that is done, whatever is below."""

import asyncio
import contextlib
import ssl

import pytest

from aiosupport import run, turns, until
from streamsupport import Events, tcp_pair
from tlssupport import client_context, renegotiate, server_context, tls12

pytestmark = pytest.mark.usefixtures("tls_backend")


class Relay(asyncio.Transport):
    """A transport that is none of ours, over one of ours."""

    _start_tls_compatible = True

    def __init__(self, below):
        super().__init__()
        self.below = below

    def set_protocol(self, protocol):
        self.below.set_protocol(Passing(protocol))

    def get_extra_info(self, name, default=None):
        return self.below.get_extra_info(name, default)

    def write(self, data):
        self.below.write(data)

    def close(self):
        self.below.close()

    def abort(self):
        self.below.abort()

    def pause_reading(self):
        self.below.pause_reading()

    def resume_reading(self):
        self.below.resume_reading()


class Passing(asyncio.Protocol):
    def __init__(self, protocol):
        self.connection_lost = protocol.connection_lost
        self.data_received = protocol.data_received
        self.eof_received = protocol.eof_received
        self.pause_writing = protocol.pause_writing
        self.resume_writing = protocol.resume_writing


class Server:
    """The inner server, in memory; its bytes go over streams."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.object = tls12(server_context()).wrap_bio(
            self.incoming, self.outgoing, server_side=True
        )

    def flush(self):
        if self.outgoing.pending:
            self.writer.write(self.outgoing.read())

    async def step(self, function, *args):
        while True:
            try:
                return function(*args)
            except ssl.SSLWantReadError:
                self.flush()
                data = await self.reader.read(1 << 16)
                assert data, "the stream has ended"
                self.incoming.write(data)
            finally:
                self.flush()

    async def exactly(self, count):
        data = bytearray()
        while len(data) < count:
            more = await self.step(self.object.read, count - len(data))
            assert more, "the peer has closed"
            data += more
        return bytes(data)


async def connect(protocol, kind):
    """A transport of the protocol, over what `kind` says, and the server."""
    loop = asyncio.get_running_loop()
    ours, theirs = tcp_pair()
    options = {"ssl": server_context()} if kind == "tls" else {}
    making = asyncio.ensure_future(
        loop.connect_accepted_socket(lambda: protocol, ours, **options)
    )
    reader, writer = await asyncio.open_connection(sock=theirs)
    if kind == "tls":
        await writer.start_tls(client_context(), server_hostname="localhost")
    below, _ = await making
    if kind == "stranger":
        below = Relay(below)
    server = Server(reader, writer)
    transport, _ = await asyncio.gather(
        loop.start_tls(below, protocol, client_context(), server_hostname="localhost"),
        server.step(server.object.do_handshake),
    )
    return transport, server


@pytest.mark.parametrize("then", ["open", "close", "paused"])
@pytest.mark.parametrize("size", [1000, 3_000_000])
@pytest.mark.parametrize("kind", ["tcp", "tls", "stranger"])
def test_writing_in_the_middle_of_it(kind, size, then):
    async def main():
        protocol = Events()
        transport, server = await connect(protocol, kind)
        transport.write(b"before")
        assert await server.exactly(6) == b"before"
        renegotiate(server.object)
        server.flush()
        hello = await server.reader.read(1 << 16)  # Ours has begun.
        data = bytes(range(250)) * (size // 250)
        transport.write(data)
        await turns(3)
        assert transport.get_write_buffer_size() >= size
        if then == "close":
            transport.close()
        elif then == "paused":
            transport.set_write_buffer_limits(10)
            assert protocol.events[-1] == "pause"
        server.incoming.write(hello)
        assert await server.exactly(size) == data
        if then == "paused":
            await until(lambda: protocol.events[-1] == "resume")
        if then == "close":
            assert await server.step(server.object.read, 1) == b""
            with contextlib.suppress(ssl.SSLWantReadError):
                server.object.unwrap()
            server.flush()
        else:
            transport.abort()
        await protocol.lost
        server.writer.transport.abort()
        await turns(10)

    run(main())


@pytest.mark.parametrize("kind", ["tcp", "tls", "stranger"])
def test_data_of_the_server_in_the_middle_of_it(kind):
    async def main():
        protocol = Events()
        transport, server = await connect(protocol, kind)
        for number in range(3):
            renegotiate(server.object)
            server.flush()
            transport.write(b"%d" % number)
            server_data = await server.exactly(1)
            assert server_data == b"%d" % number
            server.object.write(server_data)
            server.flush()
            await protocol.until(number + 1)
        assert bytes(protocol.data) == b"012"
        transport.abort()
        await protocol.lost
        server.writer.transport.abort()
        await turns(10)

    run(main())
