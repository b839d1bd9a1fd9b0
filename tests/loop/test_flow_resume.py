"""After each pause_writing() somebody looks whether writing may go on: nobody waits in
drain() while nothing is to be sent, whatever has called pause_writing() and wherever
the limits were set."""

import asyncio
import contextlib
import os
import socket
import threading

import pytest

from aiosupport import run, turns, until
from streamsupport import Events, tcp_pair
from tlssupport import TLSPeer, client_context, server_context, tls12

KINDS = ["tcp", "unix", "tls1.2", "tls1.3", "tls in tls", "tls over a stranger"]
SOME = b"x" * 3000


class Flow(Events):
    """Writes, sets limits, or both, in one of its methods."""

    def __init__(self, where, steps):
        super().__init__()
        self.where = where
        self.steps = steps

    def act(self, here):
        if here == self.where:
            for step in self.steps:
                if step == "limit":
                    self.transport.set_write_buffer_limits(100)
                elif step == "zero":
                    self.transport.set_write_buffer_limits(0)
                elif step == "more":
                    self.transport.set_write_buffer_limits(1 << 20)
                else:
                    self.transport.write(SOME)

    def connection_made(self, transport):
        super().connection_made(transport)
        self.act("connection_made")

    def data_received(self, data):
        super().data_received(data)
        self.act("data_received")

    def pause_writing(self):
        super().pause_writing()
        self.act("pause_writing")

    def resume_writing(self):
        super().resume_writing()
        if self.events.count("resume") < 3:
            self.act("resume_writing")

    @property
    def waits(self):
        return self.events.count("pause") - self.events.count("resume")


class Relay(asyncio.Transport):
    """A transport that is none of ours, over one of ours."""

    _start_tls_compatible = True

    def __init__(self, below):
        super().__init__()
        self.below = below

    def set_protocol(self, protocol):
        self.below.set_protocol(Passing(protocol))

    def __getattr__(self, name):
        return getattr(self.below, name)

    for _name in "write", "close", "abort", "pause_reading", "resume_reading":
        exec(f"def {_name}(self, *args): return self.below.{_name}(*args)")


class Passing(asyncio.Protocol):
    def __init__(self, protocol):
        self.protocol = protocol

    for _name in (
        "connection_lost data_received eof_received pause_writing resume_writing"
    ).split():
        exec(f"def {_name}(self, *args): return self.protocol.{_name}(*args)")


async def connect(protocol, kind):
    """A transport of the protocol and a function that reads all that it writes."""
    loop = asyncio.get_running_loop()
    ours, theirs = tcp_pair(socket.AF_UNIX if kind == "unix" else socket.AF_INET)
    for sock in ours, theirs:
        sock.setblocking(False)
    if not kind.startswith("tls"):
        make = loop.create_unix_connection if kind == "unix" else loop.create_connection
        transport, _ = await make(lambda: protocol, sock=ours)
        return transport, theirs, reader_of(theirs)
    context = server_context()
    if kind == "tls1.2":
        tls12(context)
    if kind in ("tls1.2", "tls1.3"):
        peer = TLSPeer(theirs, client_context(), False)
        (transport, _), _ = await asyncio.gather(
            loop.connect_accepted_socket(lambda: protocol, ours, ssl=context),
            peer.handshake(),
        )
        return transport, peer, peer.recv
    options = {} if kind == "tls over a stranger" else {"ssl": server_context()}
    connecting = asyncio.ensure_future(
        loop.connect_accepted_socket(Events, ours, **options)
    )
    reader, writer = await asyncio.open_connection(sock=theirs)
    if options:
        await writer.start_tls(client_context(), server_hostname="localhost")
    below, _ = await connecting
    if kind == "tls over a stranger":
        below = Relay(below)
    securing = asyncio.ensure_future(
        loop.start_tls(below, protocol, context, server_side=True)
    )
    await writer.start_tls(client_context(), server_hostname="localhost")
    transport = await securing
    protocol.connection_made(transport)
    return transport, writer, lambda: reader.read(1 << 16)


def reader_of(sock):
    loop = asyncio.get_running_loop()
    return lambda: loop.sock_recv(sock, 1 << 16)


@contextlib.asynccontextmanager
async def reading(read):
    """All that comes is read, and forgotten."""

    async def forget():
        with contextlib.suppress(OSError):
            while await read():
                pass

    task = asyncio.ensure_future(forget())
    yield
    task.cancel()
    await asyncio.wait([task])


async def finish(transport, peer):
    transport.abort()
    if isinstance(peer, asyncio.StreamWriter):
        peer.transport.abort()
    else:
        peer.close()
    await turns(10)


async def settled(transport, protocol):
    """Everything is sent, and the protocol has been told so."""
    await until(lambda: transport.get_write_buffer_size() == 0)
    await until(lambda: protocol.waits == 0)
    assert not transport._protocol_paused


STEPS = [
    ["limit", "write"],
    ["write", "limit"],
    ["write", "zero"],
    ["limit"],
    ["zero", "write", "write", "limit", "more"],
    ["write"] * 30 + ["limit"],
    ["write", "limit", "write", "zero", "write"],
]


@pytest.mark.parametrize("steps", STEPS, ids=" ".join)
@pytest.mark.parametrize(
    "where", ["connection_made", "data_received", "pause_writing", "resume_writing"]
)
@pytest.mark.parametrize("kind", KINDS)
def test_limits_in_a_callback(tls_backend, kind, where, steps):
    async def main():
        protocol = Flow(where, steps)
        transport, peer, read = await connect(protocol, kind)
        async with reading(read):
            if isinstance(peer, TLSPeer):
                await peer.send(b"go")
            elif isinstance(peer, socket.socket):
                await asyncio.get_running_loop().sock_sendall(peer, b"go")
            else:
                peer.write(b"go")
            await protocol.until(2)
            await settled(transport, protocol)
            transport.write(b"y" * 3_000_000)  # More than is sent at once.
            await settled(transport, protocol)
            transport.write(SOME)
            transport.set_write_buffer_limits(1000)
            await settled(transport, protocol)
        await finish(transport, peer)

    run(main())


@pytest.mark.parametrize("kind", KINDS)
def test_drain_after_limits(tls_backend, kind):
    """The way of StreamWriter."""

    async def main():
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        protocol.__class__ = Draining
        transport, peer, read = await connect(protocol, kind)
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        async with reading(read):
            for size in (1, 1000, 100_000, 5_000_000):
                writer.write(b"d" * size)
                transport.set_write_buffer_limits(100)
                await writer.drain()
                assert transport.get_write_buffer_size() <= 25
                transport.set_write_buffer_limits(0)
                await writer.drain()
        await finish(transport, peer)

    run(main())


class Draining(asyncio.StreamReaderProtocol):
    """connection_made() a second time, by a test, is nothing new."""

    def connection_made(self, transport):
        if self._transport is None:
            super().connection_made(transport)


@pytest.mark.parametrize("kind", KINDS)
def test_limits_that_another_thread_sets(tls_backend, kind):
    """asyncio lets it, when it does not debug; nothing is to hang then."""

    async def main():
        protocol = Flow("", [])
        transport, peer, read = await connect(protocol, kind)

        def foreign():
            with contextlib.suppress(RuntimeError):  # TLS refuses.
                transport.set_write_buffer_limits(100)

        async with reading(read):
            transport.write(SOME)
            thread = threading.Thread(target=foreign)
            thread.start()
            thread.join()
            await settled(transport, protocol)
        await finish(transport, peer)

    run(main())


@pytest.mark.parametrize("fails", [False, True], ids=["secured", "fails"])
@pytest.mark.parametrize("outer", [False, True], ids=["tcp", "tls"])
def test_start_tls_while_writing_is_paused(tls_backend, outer, fails):
    """The protocol is told to go on by who sends the last of it; when TLS fails, it is
    told that the connection is lost."""

    async def main():
        loop = asyncio.get_running_loop()
        ours, theirs = tcp_pair()
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        options = {"ssl": server_context()} if outer else {}
        connecting = asyncio.ensure_future(
            loop.connect_accepted_socket(lambda: protocol, ours, **options)
        )
        theirs.setblocking(False)
        their_reader, their_writer = await asyncio.open_connection(sock=theirs)
        if outer:
            await their_writer.start_tls(client_context(), server_hostname="localhost")
        transport, _ = await connecting
        data = b"p" * 6_000_000
        transport.write(data)
        draining = asyncio.ensure_future(protocol._drain_helper())
        await asyncio.sleep(0)
        assert not draining.done()
        securing = asyncio.ensure_future(
            loop.start_tls(transport, protocol, server_context(), server_side=True)
        )
        assert await their_reader.readexactly(len(data)) == data
        if fails:
            their_writer.write(b"no TLS at all\r\n")
            with pytest.raises(OSError):
                await securing
            with pytest.raises(OSError):
                await draining
        else:
            await their_writer.start_tls(client_context(), server_hostname="localhost")
            secured = await securing
            await draining
            secured.write(b"done")
            assert await their_reader.readexactly(4) == b"done"
            await finish(secured, their_writer)
        await finish(transport, their_writer)

    run(main())


@pytest.mark.parametrize("kind", KINDS)
def test_set_protocol_while_writing_is_paused(tls_backend, kind):
    async def main():
        first, second = Flow("", []), Flow("", [])
        transport, peer, read = await connect(first, kind)
        transport.write(b"y" * 6_000_000)
        assert first.waits == 1
        transport.set_protocol(second)
        async with reading(read):
            await until(lambda: transport.get_write_buffer_size() == 0)
            await until(lambda: not transport._protocol_paused)
            transport.write(SOME)
            transport.set_write_buffer_limits(0)
            await until(lambda: second.events.count("resume"))
            await until(lambda: not transport._protocol_paused)
        await finish(transport, peer)

    run(main())


def test_write_pipes():
    async def main():
        loop = asyncio.get_running_loop()
        protocol = Flow("connection_made", ["write", "limit", "write"])
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        transport, _ = await loop.connect_write_pipe(
            lambda: protocol, os.fdopen(writer, "wb", 0)
        )
        await settled(transport, protocol)
        transport.write(b"z" * 1_000_000)
        transport.set_write_buffer_limits(10)
        assert protocol.waits == 1
        got = 0
        while got < 1_006_000:
            with contextlib.suppress(BlockingIOError):
                got += len(os.read(reader, 1 << 16))
            await asyncio.sleep(0)
        await settled(transport, protocol)
        transport.close()
        await protocol.lost
        os.close(reader)

    run(main())


@pytest.mark.parametrize("limit", [0, 10, 5000])
def test_datagrams(limit):
    class Datagrams(asyncio.DatagramProtocol):
        waits = got = 0

        def connection_made(self, transport):
            self.transport = transport

        def datagram_received(self, data, addr):
            self.got += 1

        def pause_writing(self):
            self.waits += 1
            self.transport.set_write_buffer_limits(limit)

        def resume_writing(self):
            self.waits -= 1
            self.transport.set_write_buffer_limits(limit)

    async def main():
        loop = asyncio.get_running_loop()
        receiver, there = await loop.create_datagram_endpoint(
            Datagrams, local_addr=("127.0.0.1", 0)
        )
        sender, here = await loop.create_datagram_endpoint(
            Datagrams, remote_addr=receiver.get_extra_info("sockname")
        )
        for _ in range(20):
            for _ in range(3):
                sender.sendto(b"d" * 500)
            sender.set_write_buffer_limits(limit)
            sender.sendto(b"d" * 500)
            await until(lambda: sender.get_write_buffer_size() == 0)
            await until(lambda: here.waits == 0)
        await until(lambda: there.got > 0)
        sender.close()
        receiver.close()
        await asyncio.sleep(0)

    run(main())
