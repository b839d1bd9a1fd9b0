"""Many datagrams, and thousands of endpoints ended in every order: nothing stays.

    python leak_datagrams.py [DATAGRAMS]        # 100,000; a million takes a minute
"""

import asyncio
import os
import socket
import sys

from leakcheck import check

import uvtulip

DATAGRAMS = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
HOST = "127.0.0.1"
WINDOW = 50  # No more than a socket's buffer takes.


class Echo(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, addr):
        self.transport.sendto(data, addr)


class Client(asyncio.DatagramProtocol):
    """Sends until so many have come back."""

    def __init__(self, count):
        self.left = count
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport
        for number in range(WINDOW):
            transport.sendto(b"%d" % number)

    def datagram_received(self, data, addr):
        self.left -= 1
        if self.left > 0:
            self.transport.sendto(bytearray(data) if self.left % 2 else data)
        elif not self.done.done():
            self.done.set_result(None)


class End(asyncio.DatagramProtocol):
    def __init__(self):
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport

    def pause_writing(self):
        self.paused = True

    def datagram_received(self, data, addr):
        if data == b"abort":
            self.transport.abort()
        elif data == b"pause":
            self.transport.pause_reading()
        elif data == b"raise":
            raise ValueError(data)

    def connection_lost(self, exc):
        self.transport = None
        self.lost.set_result(None)


def run(main):
    def factory():
        loop = uvtulip.new_event_loop()
        loop.set_exception_handler(lambda loop, context: None)
        return loop

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main)


# ---- datagrams ----


async def echo(count, server_options, client_options):
    loop = asyncio.get_running_loop()
    server, _ = await loop.create_datagram_endpoint(Echo, **server_options)
    client, protocol = await loop.create_datagram_endpoint(
        lambda: Client(count),
        remote_addr=server.get_extra_info("sockname"),
        **client_options,
    )
    await protocol.done
    server.close()
    client.close()
    await asyncio.sleep(0)


def udp(count):
    run(echo(count, {"local_addr": (HOST, 0)}, {}))


def unix(count):
    names = [f"/tmp/uvtulip-leak-{os.getpid()}-{end}" for end in "ab"]
    options = [{"family": socket.AF_UNIX, "local_addr": name} for name in names]
    try:
        run(echo(count, *options))
    finally:
        for name in names:
            os.unlink(name)


async def senders(count):
    """More of them than are remembered, and errors of every kind."""
    loop = asyncio.get_running_loop()
    server, _ = await loop.create_datagram_endpoint(Echo, local_addr=(HOST, 0))
    name = server.get_extra_info("sockname")
    peers = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(300)]
    for peer in peers:
        peer.connect(name)
        peer.setblocking(False)
    for _ in range(count // len(peers)):
        for number, peer in enumerate(peers):
            peer.send(b"x")
            if number % WINDOW == 0:
                await loop.sock_recv(peer, 10)
        await loop.sock_recv(peer, 10)
        server.sendto(b"x" * 70_000, name)
        server.sendto(b"x", (HOST, 1))
        for bad in ((HOST, "x"), ("localhost", 1), None, (HOST, 1 << 20)):
            try:
                server.sendto(b"x", bad)
            except (TypeError, ValueError, OverflowError):
                pass
    for peer in peers:
        peer.close()
    server.abort()
    await asyncio.sleep(0)


# ---- endpoints ----


async def one(order):
    loop = asyncio.get_running_loop()
    make = loop.create_datagram_endpoint
    if order == "cancelled":
        task = asyncio.ensure_future(make(End, local_addr=(HOST, 0)))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        return
    if order == "refused":
        for factory, options in (
            (object, {"local_addr": (HOST, 0)}),
            (End, {"local_addr": ("192.0.2.1", 0)}),
            (End, {"family": socket.AF_UNIX, "remote_addr": "/nobody/here"}),
        ):
            try:
                await make(factory, **options)
            except (OSError, AttributeError):
                continue
            raise AssertionError(options)
        return
    if order == "full":
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        with theirs:
            transport, protocol = await make(End, sock=ours)
            while transport.get_write_buffer_size() == 0:
                transport.sendto(b"x" * 2000)
            transport.set_write_buffer_limits(0)
            transport.sendto(b"x")
            transport.abort()
            await protocol.lost
        return
    transport, protocol = await make(End, local_addr=(HOST, 0))
    name = transport.get_extra_info("sockname")
    if order == "handle":
        transport.get_extra_info("uv_handle").close()
    elif order == "socket":
        with transport.get_extra_info("socket").dup() as own:
            own.sendto(b"abort", name)
    elif order in ("abort", "pause", "raise"):
        for _ in range(3):
            transport.sendto(order.encode(), name)
        await asyncio.sleep(0)
        if order != "abort":
            await asyncio.sleep(0)
            transport.close()
    else:
        transport.sendto(b"last", name)
        transport.close()
        transport.sendto(b"too late", name)
    await protocol.lost


ORDERS = ["close", "abort", "pause", "raise", "handle", "socket", "full", "cancelled",
          "refused"]


async def all_orders(count):
    for number in range(count):
        await one(ORDERS[number % len(ORDERS)])


def endpoints(count):
    run(all_orders(count))


def loops(count):
    """The loop goes first, or together with the transport."""

    async def make():
        loop = asyncio.get_running_loop()
        return await loop.create_datagram_endpoint(End, local_addr=(HOST, 0))

    for number in range(count):
        loop = uvtulip.new_event_loop()
        transport, protocol = loop.run_until_complete(make())
        transport.sendto(b"x", transport.get_extra_info("sockname"))
        if number % 2:
            loop.close()
            transport.sendto(b"x")
        else:
            transport.close()
            loop.run_until_complete(protocol.lost)
            loop.close()
        transport._force_close(None)


check("UDP", udp, DATAGRAMS, 300, soak=1_000_000)
check("UNIX", unix, DATAGRAMS // 2, 300, soak=1_000_000)
check("senders", lambda count: run(senders(count)), DATAGRAMS // 5, 300)
check("endpoints", endpoints, 3000, 300)
check("loops", loops, 200, 300)
