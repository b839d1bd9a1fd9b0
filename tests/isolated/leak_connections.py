"""10,000 asyncio connections, by TCP and by UNIX sockets, ended in every order:
nothing stays behind."""

import asyncio
import os
import socket
import struct
import tempfile

from leakcheck import check

import uvtulip

RESET = struct.pack("ii", 1, 0)


class Server(asyncio.Protocol):
    """What the server does is the first byte that the client sends."""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        order = data[:1]
        if order == b"c":
            self.transport.write(b"bye")
            self.transport.close()
        elif order == b"a":
            self.transport.write(b"x" * 300_000)
            self.transport.abort()
        elif order == b"h":
            self.transport.write_eof()
        elif order == b"w":
            self.transport.write(b"x" * 3_000_000)
        elif order == b"r":
            sock = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self.transport.abort()
        elif order == b"e":
            self.transport.write(data)

    def connection_lost(self, exc):
        self.transport = None


class Client(asyncio.Protocol):
    def __init__(self, loop):
        self.lost = loop.create_future()

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        if data[:1] in b"ex":
            self.transport.abort()

    def connection_lost(self, exc):
        self.transport = None
        self.lost.set_result(None)


async def connections(count, path=None):
    loop = asyncio.get_running_loop()
    if path is None:
        server = await loop.create_server(Server, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        connect = loop.create_connection
    else:
        server = await loop.create_unix_server(Server, path, cleanup_socket=True)
        address = [path]
        connect = loop.create_unix_connection

    async def one(order):
        transport, client = await connect(lambda: Client(loop), *address)
        if order == b"n":
            transport.close()
        elif order == b"R":
            sock = transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            transport.abort()
        elif order == b"W":
            transport.write(b"e" + b"y" * 3_000_000)
            transport.close()
        else:
            transport.write(order)
            if order == b"h":
                transport.write_eof()
        await client.lost

    orders = [b"n", b"c", b"a", b"h", b"w", b"r", b"e", b"R"]
    for start in range(0, count, 40):
        await asyncio.gather(*(one(orders[i % len(orders)])
                               for i in range(start, min(start + 40, count))))
    await asyncio.gather(*(one(b"W") for _ in range(10)))
    server.close()
    await server.wait_closed()


def work(count):
    with asyncio.Runner(loop_factory=uvtulip.new_event_loop) as runner:
        runner.run(connections(count))


def unix(count):
    with (
        tempfile.TemporaryDirectory() as folder,
        asyncio.Runner(loop_factory=uvtulip.new_event_loop) as runner,
    ):
        runner.run(connections(count, os.path.join(folder, "sock")))


def abstract(count):
    with asyncio.Runner(loop_factory=uvtulip.new_event_loop) as runner:
        runner.run(connections(count, f"\0uvtulip-leaks-{os.getpid()}"))


def loops(count):
    for _ in range(count // 10):
        uvtulip.new_event_loop().close()


def callbacks(count):
    loop = uvtulip.new_event_loop()
    loop.set_exception_handler(lambda loop, context: None)
    for i in range(count):
        loop.call_soon(int)
        loop.call_later(0, int, 1)
        loop.call_later(100, int).cancel()
        loop.call_soon_threadsafe(int)
        loop.call_soon(int, "no number")
        loop.call_soon(print, 1, 2, 3, 4, 5, 6).cancel()
        if i % 100 == 0:
            loop.call_soon(loop.stop)
            loop.run_forever()
    loop.close()


check("callbacks", callbacks, 10_000, 300)
check("loops", loops, 10_000, 300)
check("connections", work, 10_000, 300, soak=100_000)
check("UNIX connections", unix, 10_000, 300, soak=100_000)
check("connections by abstract names", abstract, 2_000, 300)
