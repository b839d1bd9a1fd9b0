"""Every callback of a protocol runs in the context in which its transport was made,
whoever caused it."""

import asyncio
import contextvars
import os
import socket

import pytest

import tlssupport
from aiosupport import run, turns

where = contextvars.ContextVar("where", default="nowhere")
BIG = 1 << 22


class Noting:
    """Notes where each of its methods is called."""

    def __init__(self):
        self.heard = []
        self.transport = None

    def note(self, name):
        self.heard.append((name, where.get()))

    def connection_made(self, transport):
        self.transport = transport
        self.note("connection_made")

    def connection_lost(self, exc):
        self.note("connection_lost")

    def pause_writing(self):
        self.note("pause_writing")

    def resume_writing(self):
        self.note("resume_writing")


class Stream(Noting, asyncio.Protocol):
    def data_received(self, data):
        self.note("data_received")

    def eof_received(self):
        self.note("eof_received")


class Buffered(Noting, asyncio.BufferedProtocol):
    def __init__(self):
        super().__init__()
        self.buffer = bytearray(1 << 16)

    def get_buffer(self, sizehint):
        self.note("get_buffer")
        return self.buffer

    def buffer_updated(self, nbytes):
        self.note("buffer_updated")

    def eof_received(self):
        self.note("eof_received")


class Datagrams(Noting, asyncio.DatagramProtocol):
    def datagram_received(self, data, addr):
        self.note("datagram_received")

    def error_received(self, exc):
        self.note("error_received")


class Child(asyncio.SubprocessProtocol):
    def __init__(self):
        self.heard = []

    def note(self, name):
        self.heard.append((name, where.get()))

    def connection_made(self, transport):
        self.note("connection_made")

    def pipe_data_received(self, fd, data):
        self.note("pipe_data_received")

    def pipe_connection_lost(self, fd, exc):
        self.note("pipe_connection_lost")

    def process_exited(self):
        self.note("process_exited")

    def connection_lost(self, exc):
        self.note("connection_lost")

    def pause_writing(self):
        self.note("pause_writing")

    def resume_writing(self):
        self.note("resume_writing")


def wrong(protocol, wanted):
    """What has been called elsewhere; and that all that was wanted was called."""
    names = {name for name, _ in protocol.heard}
    assert wanted <= names, wanted - names
    return [each for each in protocol.heard if each[1] != "there"]


async def made_there(coroutine):
    """The transport is made in a context of its own."""

    async def inner():
        where.set("there")
        return await coroutine

    return await asyncio.create_task(inner())


async def until_heard(protocol, name):
    while name not in {heard for heard, _ in protocol.heard}:
        await asyncio.sleep(0.001)


async def drive(transport, protocol, theirs):
    """Whatever may be called: data, a pause and its end, the end."""
    theirs.setblocking(False)
    theirs.send(b"data")
    await asyncio.sleep(0.005)
    where.set("elsewhere")
    transport.write(bytes(BIG))
    await turns()
    loop = asyncio.get_running_loop()
    got = 0
    while got < BIG:
        got += len(await loop.sock_recv(theirs, 1 << 16))
    await until_heard(protocol, "resume_writing")
    transport.set_write_buffer_limits(0)
    theirs.shutdown(socket.SHUT_WR)
    await until_heard(protocol, "connection_lost")
    theirs.close()


@pytest.mark.parametrize("kind", [Stream, Buffered])
def test_streams(kind):
    async def main():
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        protocol = kind()
        transport, _ = await made_there(
            loop.create_connection(lambda: protocol, sock=ours)
        )
        await drive(transport, protocol, theirs)
        received = (
            {"data_received"} if kind is Stream else {"get_buffer", "buffer_updated"}
        )
        assert not wrong(
            protocol,
            received
            | {
                "connection_made",
                "pause_writing",
                "resume_writing",
                "eof_received",
                "connection_lost",
            },
        )

    run(main())


@pytest.mark.parametrize("kind", [Stream, Buffered])
def test_servers(kind):
    async def main():
        loop = asyncio.get_running_loop()
        protocol = kind()

        def factory():
            protocol.note("factory")
            return protocol

        server = await made_there(loop.create_server(factory, "127.0.0.1", 0))
        theirs = socket.create_connection(server.sockets[0].getsockname())
        await until_heard(protocol, "connection_made")
        await drive(protocol.transport, protocol, theirs)
        server.close()
        assert not wrong(protocol, {"factory", "pause_writing", "resume_writing"})

    run(main())


def test_pause_by_limits():
    """set_write_buffer_limits() may call it as well."""

    async def main():
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        protocol = Stream()
        transport, _ = await made_there(
            loop.create_connection(lambda: protocol, sock=ours)
        )
        transport.set_write_buffer_limits(1 << 30)
        transport.write(bytes(BIG))
        where.set("elsewhere")
        transport.set_write_buffer_limits(0)
        assert not wrong(protocol, {"pause_writing"})
        transport.abort()
        await until_heard(protocol, "connection_lost")
        theirs.close()

    run(main())


def test_tls():
    async def main():
        loop = asyncio.get_running_loop()
        protocol, peer = Stream(), Stream()
        server = await loop.create_server(
            lambda: peer, "127.0.0.1", 0, ssl=tlssupport.server_context()
        )
        transport, _ = await made_there(
            loop.create_connection(
                lambda: protocol,
                *server.sockets[0].getsockname(),
                ssl=tlssupport.client_context(),
                server_hostname="localhost",
            )
        )
        await until_heard(peer, "connection_made")
        peer.transport.pause_reading()
        peer.transport.write(b"data")
        await until_heard(protocol, "data_received")
        where.set("elsewhere")
        transport.write(bytes(2 * BIG))
        await turns()
        peer.transport.resume_reading()
        await until_heard(protocol, "resume_writing")
        peer.transport.close()
        await until_heard(protocol, "connection_lost")
        server.close()
        assert not wrong(
            protocol, {"connection_made", "pause_writing", "connection_lost"}
        )

    run(main())


def test_datagrams():
    async def main():
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair(type=socket.SOCK_DGRAM)
        theirs.setblocking(False)
        protocol = Datagrams()
        transport, _ = await made_there(
            loop.create_datagram_endpoint(lambda: protocol, sock=ours)
        )
        theirs.send(b"data")
        await until_heard(protocol, "datagram_received")
        where.set("elsewhere")
        transport.set_write_buffer_limits(100)
        while "pause_writing" not in dict(protocol.heard):
            transport.sendto(bytes(1000))
        while "resume_writing" not in dict(protocol.heard):
            await loop.sock_recv(theirs, 2000)
        theirs.close()
        transport.sendto(b"refused")
        await until_heard(protocol, "error_received")
        transport.abort()
        await until_heard(protocol, "connection_lost")
        assert not wrong(protocol, {"connection_made"})

    run(main())


def test_pipes():
    async def main():
        loop = asyncio.get_running_loop()
        reading, writing = os.pipe()
        source, drain = Stream(), Stream()
        await made_there(
            loop.connect_read_pipe(lambda: source, os.fdopen(reading, "rb", 0))
        )
        transport, _ = await made_there(
            loop.connect_write_pipe(lambda: drain, os.fdopen(writing, "wb", 0))
        )
        where.set("elsewhere")
        transport.write(bytes(BIG))
        await until_heard(drain, "resume_writing")
        transport.close()
        await until_heard(source, "connection_lost")
        await until_heard(drain, "connection_lost")
        assert not wrong(source, {"connection_made", "data_received", "eof_received"})
        assert not wrong(drain, {"connection_made", "pause_writing"})

    run(main())


def test_subprocess():
    async def main():
        loop = asyncio.get_running_loop()
        protocol = Child()
        transport, _ = await made_there(
            loop.subprocess_exec(lambda: protocol, "cat", stderr=None)
        )
        where.set("elsewhere")
        stdin = transport.get_pipe_transport(0)
        stdin.write(bytes(BIG))
        await until_heard(protocol, "resume_writing")
        stdin.close()
        await until_heard(protocol, "connection_lost")
        transport.close()
        assert not wrong(
            protocol,
            {
                "connection_made",
                "pipe_data_received",
                "pipe_connection_lost",
                "process_exited",
                "pause_writing",
            },
        )

    run(main())


def test_sendfile_by_reading(tmp_path):
    """What the protocol has missed meanwhile is told in its context."""
    path = tmp_path / "file"
    path.write_bytes(bytes(BIG))

    async def main():
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        protocol = Stream()
        transport, _ = await made_there(
            loop.create_connection(lambda: protocol, sock=ours)
        )
        where.set("elsewhere")

        class NoFile:
            """Without a descriptor."""

            def __init__(self, file):
                self.readinto = file.readinto
                self.seek = file.seek

        with path.open("rb") as file:
            sending = asyncio.create_task(loop.sendfile(transport, NoFile(file)))
            while (
                transport.get_protocol() is protocol or not transport._protocol_paused
            ):
                await asyncio.sleep(0.001)
            sending.cancel()
            await asyncio.wait([sending])
        theirs.setblocking(False)
        while "resume_writing" not in dict(protocol.heard):
            await loop.sock_recv(theirs, 1 << 16)
        transport.abort()
        await until_heard(protocol, "connection_lost")
        theirs.close()
        assert not wrong(protocol, {"pause_writing"})

    run(main())
