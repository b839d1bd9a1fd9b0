"""TLS connections, ended in every way and at every step: nothing stays behind, in
either way of encrypting."""

import asyncio
import pathlib
import random
import socket
import ssl
import struct
import sys

from leakcheck import SOAK, check

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import uvtulip
from tlssupport import client_context, server_context
from uvtulip import _transports

RESET = struct.pack("ii", 1, 0)
SERVER, CLIENT = server_context(), client_context()
# No time is measured: a peer that does not answer has this long, in seconds.
SHORT = 0.05
AT_ONCE = 200 if SOAK else 40


def bye(transport, how):
    """End a connection, or only what is sent."""
    if how == "close":
        transport.close()
    elif how == "abort":
        transport.abort()
    elif how == "write":
        transport.write(b"x" * 300_000)
        transport.close()
    elif how == "write and abort":
        transport.write(b"x" * 300_000)
        transport.abort()
    elif how == "reset":
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        transport.abort()


HOW = ["close", "abort", "write", "write and abort", "reset"]


class Server(asyncio.Protocol):
    """Ends as the first byte of the client says; another one ends by itself."""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        if data[0] < len(HOW):
            bye(self.transport, HOW[data[0]])

    def connection_lost(self, exc):
        self.transport = None


class Client(asyncio.Protocol):
    def __init__(self, loop):
        self.lost = loop.create_future()

    def connection_lost(self, exc):
        self.lost.set_result(None)


async def until_gone(reader):
    """Read what a peer of plain TCP still sends."""
    try:
        while await reader.read(65536):
            pass
    except OSError:
        return


class Ways:
    """Each method opens and ends one connection."""

    def __init__(self, server, quiet, rnd):
        self.loop = asyncio.get_running_loop()
        self.address = server.sockets[0].getsockname()
        self.quiet = quiet.sockets[0].getsockname()
        self.rnd = rnd
        self.cut_off = 0

    async def run(self, name):
        try:
            await getattr(self, name)()
        except OSError:
            # On a busy machine the server's time for the handshake runs out.
            self.cut_off += 1

    async def secure(self, address, **options):
        return await self.loop.create_connection(
            lambda: Client(self.loop),
            *address,
            ssl=CLIENT,
            server_hostname="localhost",
            ssl_shutdown_timeout=SHORT,
            **options,
        )

    async def server_ends(self):
        transport, client = await self.secure(self.address)
        transport.write(bytes([self.rnd.randrange(len(HOW))]))
        await client.lost

    async def client_ends(self):
        transport, client = await self.secure(self.address)
        bye(transport, self.rnd.choice(HOW))
        await client.lost

    async def both_end(self):
        transport, client = await self.secure(self.address)
        transport.write(bytes([self.rnd.randrange(len(HOW))]))
        bye(transport, self.rnd.choice(HOW))
        await client.lost

    async def plain(self, data, *, end):
        """A peer that speaks TCP to our server."""
        reader, writer = await asyncio.open_connection(*self.address)
        writer.write(data)
        if end == "eof":
            writer.write_eof()
            await until_gone(reader)
        elif end == "wait":
            await until_gone(reader)
        elif end == "reset":
            bye(writer.transport, "reset")
        writer.close()

    async def cut_hello(self):
        """The handshake ends after some of its first bytes, or is not gone on with."""
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        peer = CLIENT.wrap_bio(incoming, outgoing, server_hostname="localhost")
        try:
            peer.do_handshake()
        except ssl.SSLWantReadError:
            hello = outgoing.read()
        count = self.rnd.choice([0, 1, 5, self.rnd.randrange(len(hello)), len(hello)])
        ends = ["eof", "reset", "close"] + ["wait"] * (self.rnd.random() < 0.2)
        await self.plain(hello[:count], end=self.rnd.choice(ends))

    async def garbage(self):
        data = self.rnd.choice([b"GET / HTTP/1.0\r\n\r\n", self.rnd.randbytes(700)])
        await self.plain(data, end=self.rnd.choice(["eof", "reset", "wait"]))

    async def half_record(self):
        """A record that is cut, after a whole handshake."""
        reader, writer = await asyncio.open_connection(*self.address)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        peer = CLIENT.wrap_bio(incoming, outgoing, server_hostname="localhost")
        while True:
            try:
                peer.do_handshake()
                break
            except ssl.SSLWantReadError:
                writer.write(outgoing.read())
                incoming.write(await reader.read(65536))
        peer.write(b"tulip" * 100)
        record = outgoing.read()
        writer.write(record[: self.rnd.randrange(len(record))])
        if self.rnd.random() < 0.5:
            writer.write_eof()
            await until_gone(reader)
        else:
            bye(writer.transport, "reset")
        writer.close()

    async def cancelled(self):
        """Given up in the handshake, at any turn of the loop."""
        task = asyncio.create_task(self.secure(self.address))
        for _ in range(self.rnd.randrange(12)):
            await asyncio.sleep(0)
        task.cancel()
        done, _ = await asyncio.wait([task])
        if not done.pop().cancelled():
            transport, client = task.result()
            transport.abort()
            await client.lost

    async def server_is_quiet(self):
        """Our client meets one that accepts and answers nothing, or rubbish, or
        resets (see quiet_server)."""
        try:
            transport, client = await self.secure(
                self.quiet, ssl_handshake_timeout=SHORT
            )
        except (OSError, ConnectionError):
            return
        transport.abort()
        await client.lost

    async def no_answer_to_close(self):
        """The peer leaves our close_notify unanswered."""
        reader, writer = await asyncio.open_connection(*self.address)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        peer = CLIENT.wrap_bio(incoming, outgoing, server_hostname="localhost")
        while True:
            try:
                peer.do_handshake()
                break
            except ssl.SSLWantReadError:
                writer.write(outgoing.read())
                incoming.write(await reader.read(65536))
        peer.write(bytes([HOW.index("close")]))
        writer.write(outgoing.read())
        await until_gone(reader)
        writer.close()


COMMON = ["server_ends", "client_ends", "both_end", "cut_hello", "garbage"]
COMMON += ["half_record", "cancelled"]
SLOW = ["server_is_quiet", "no_answer_to_close"]


def quiet_server(rnd):
    async def serve(reader, writer):
        how = rnd.randrange(4)
        try:
            await reader.read(100)
            if how == 0:
                writer.write(rnd.randbytes(300))
            elif how == 1:
                bye(writer.transport, "reset")
            elif how == 2:
                writer.write(b"\x16\x03\x03\x00\x7a")  # the head of a record
            await until_gone(reader)
        finally:
            writer.close()

    return serve


async def connections(count):
    loop = asyncio.get_running_loop()
    # What a peer of a server does wrong is nobody's to await.
    loop.set_exception_handler(lambda loop, context: None)
    rnd = random.Random(42)
    server = await loop.create_server(
        Server,
        "127.0.0.1",
        0,
        ssl=SERVER,
        ssl_handshake_timeout=10 * SHORT,
        ssl_shutdown_timeout=SHORT,
    )
    quiet = await asyncio.start_server(quiet_server(rnd), "127.0.0.1", 0)
    ways = Ways(server, quiet, rnd)
    names = [SLOW[i // 10 % 2] if i % 10 == 0 else COMMON[i % 7] for i in range(count)]
    for start in range(0, count, AT_ONCE):
        chosen = names[start : start + AT_ONCE]
        async with asyncio.timeout(60):
            await asyncio.gather(*(ways.run(name) for name in chosen))
    assert ways.cut_off < count / 10, ways.cut_off
    for each in (server, quiet):
        each.close()
        async with asyncio.timeout(60):
            await each.wait_closed()
    while len(asyncio.all_tasks()) > 1:
        await asyncio.sleep(0.01)


def work(count):
    with asyncio.Runner(loop_factory=uvtulip.new_event_loop) as runner:
        runner.run(connections(count))


for portable in (False, True):
    _transports._tls_backend(portable)
    name = uvtulip.tls_backend()
    check(f"TLS by {name}", work, 1_000, 800, soak=100_000)
