"""Thousands of connections, ended in every order: afterwards there are as many
references, memory blocks and descriptors as before."""

import asyncio
import gc
import random
import socket
import sys
import warnings

import uvtulip
from aiosupport import open_descriptors, until
from streamsupport import reset, tcp_pair
from uvtulip import uv
from uvtulip._transports import Server, StreamTransport

CONNECTIONS = 10_000
AT_ONCE = 50
LIMIT = 50.0

WAYS = [
    "client first",
    "server first",
    "server abort",
    "client half",
    "server half",
    "client reset",
    "server reset",
    "during write",
    "abort during write",
    "reset during write",
    "inside callback",
    "abort inside callback",
    "raise inside callback",
    "raw close",
    "pause then close",
    "buffered",
]


class Side(asyncio.Protocol):
    """The server's side: does what the first byte of the client says."""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        transport = self.transport
        way = WAYS[data[0]]
        if way == "server first":
            transport.write(data)
            transport.close()
        elif way == "server abort":
            transport.abort()
        elif way == "server half":
            transport.write(data)
            transport.write_eof()
        elif way == "server reset":
            sock = transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            transport.abort()
        elif way in ("during write", "abort during write", "reset during write"):
            transport.write(bytes(3 << 20))
            transport.write(bytearray(10))
            if way == "during write":
                transport.close()
            elif way == "abort during write":
                transport.abort()
        elif way == "inside callback":
            transport.close()
        elif way == "abort inside callback":
            transport.writelines([data, bytearray(data)])
            transport.abort()
        elif way == "raise inside callback":
            raise OSError("not reported")
        elif way == "raw close":
            transport.get_extra_info("uv_handle").close()
        elif way == "pause then close":
            transport.pause_reading()
            transport.resume_reading()
            transport.pause_reading()
            transport.write(data)
            asyncio.get_running_loop().call_soon(transport.close)
        elif way == "buffered":
            transport.set_protocol(Reads(transport))
            transport.write(data)
        else:
            transport.write(data)

    def eof_received(self):
        return None


class Reads(asyncio.BufferedProtocol):
    def __init__(self, transport):
        self.transport = transport
        self.buffer = bytearray(16)

    def get_buffer(self, sizehint):
        return self.buffer

    def buffer_updated(self, nbytes):
        self.transport.close()


async def one(address, index):
    loop = asyncio.get_running_loop()
    way = index % len(WAYS)
    name = WAYS[way]
    sock = socket.socket()
    sock.setblocking(False)
    try:
        await loop.sock_connect(sock, address)
        await loop.sock_sendall(sock, bytes([way]))
        if name == "reset during write":
            await loop.sock_recv(sock, 1000)
            reset(sock)
            return
        if name in ("client first", "client reset", "client half", "buffered"):
            assert await loop.sock_recv(sock, 10)
        if name == "client reset":
            reset(sock)
            return
        if name == "client half":
            sock.shutdown(socket.SHUT_WR)
        if name == "buffered":
            await loop.sock_sendall(sock, b"y" * 20)
        if name != "client first":
            try:
                while await loop.sock_recv(sock, 1 << 20):
                    pass
            except ConnectionError:
                pass
    finally:
        sock.close()


async def round_of(count):
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Side, "127.0.0.1", 0, backlog=AT_ONCE)
    address = server.sockets[0].getsockname()
    order = list(range(count))
    random.Random(1).shuffle(order)
    waiting = iter(order)

    async def some():
        for index in waiting:
            await one(address, index)

    async with asyncio.timeout(LIMIT):
        await asyncio.gather(*(some() for _ in range(AT_ONCE)))
        server.close()
        await server.wait_closed()


def measure():
    for _ in range(3):
        gc.collect()
    objects = gc.get_objects()
    ours = sum(isinstance(o, (StreamTransport, Server, uv.Handle)) for o in objects)
    count = len(objects)
    del objects
    references = [sys.getrefcount(t) for t in (StreamTransport, Server, uv.TCP, Side)]
    return ours, references, count, len(open_descriptors()), sys.getallocatedblocks()


def test_nothing_grows():
    unhandled = []
    loop = uvtulip.new_event_loop()
    loop.set_exception_handler(lambda loop, context: unhandled.append(context))
    measured = []
    try:
        for _ in range(4):
            loop.run_until_complete(round_of(CONNECTIONS // 4))
            loop.run_until_complete(asyncio.sleep(0.01))
            measured.append(measure())
    finally:
        loop.close()
    assert unhandled == []
    before, between, after = measured[1:]
    assert after[:2] == before[:2]
    assert after[3] == before[3]
    assert abs(after[2] - before[2]) < 50
    # A block lost in one of the ways would be more than this in each round; free
    # lists fill up more and more slowly.
    grown = min(after[4] - between[4], between[4] - before[4])
    assert grown < CONNECTIONS // 4 // len(WAYS)


def test_loops_with_open_connections():
    """Loops closed or dropped while connections are in every state."""

    def once(index):
        async def main():
            loop = asyncio.get_running_loop()
            transports, peers = [], []
            for state in range(6):
                ours, theirs = tcp_pair()
                handle = uv.TCP(loop.uv_loop)
                handle.open(ours.detach())
                waiter = loop.create_future()
                transport = StreamTransport(loop, handle, Side(), waiter)
                if state:
                    await waiter
                if state == 1:
                    transport.write(b"x")
                elif state == 2:
                    transport.write(bytes(8 << 20))
                    transport.write(b"y")
                elif state == 3:
                    transport.write_eof()
                elif state == 4:
                    transport.close()
                elif state == 5:
                    transport.abort()
                transports.append(transport)
                peers.append(theirs)
            return transports, peers

        loop = uvtulip.new_event_loop()
        transports, peers = loop.run_until_complete(main())
        if index % 3 == 0:
            loop.close()
        elif index % 3 == 1:
            loop.close()
            loop.close()
            for transport in transports[:3]:
                transport.write(b"z")
        del loop, transports
        gc.collect()
        for peer in peers:
            peer.close()

    def rounds(count):
        for index in range(count):
            once(index)

    with warnings.catch_warnings():
        # Recorded ones would keep the transports.
        warnings.simplefilter("ignore", ResourceWarning)
        rounds(30)
        before = measure()
        rounds(60)
        after = measure()
    assert after[:2] == before[:2]
    assert after[3] == before[3]
    assert abs(after[4] - before[4]) < 300


def test_server_aborts_all():
    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Side, "127.0.0.1", 0, backlog=500)
        address = server.sockets[0].getsockname()
        socks = [socket.create_connection(address, LIMIT) for _ in range(400)]
        await until(lambda: server._active == 400)
        server.close()
        server.abort_clients()
        await server.wait_closed()
        for sock in socks:
            assert sock.recv(1) == b""
            sock.close()

    async def limited():
        async with asyncio.timeout(LIMIT):
            await main()

    with asyncio.Runner(loop_factory=uvtulip.new_event_loop) as runner:
        runner.run(limited())
