"""What takes a program of tests/loopfuzz.py a while: a coroutine is a job, registered
with its weight; it runs as a task that may be cancelled anywhere.
"""

import asyncio
import functools
import io
import os
import pty
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Callable
from typing import Any

from fuzzworld import (
    SIZES,
    Buffered,
    Child,
    Datagrams,
    Dice,
    Flow,
    Line,
    Plain,
    Sock,
    World,
    job,
)
from tlssupport import client_context, server_context, tls12

# ---- what takes a while ----


def connected(dice: Dice) -> list[socket.socket]:
    """Both ends of a connection, which do not block: whoever has lost a descriptor
    to them must not wait for ever.
    """
    if dice.chance(0.5):
        socks = list(socket.socketpair())
    else:
        with socket.create_server(("127.0.0.1", 0)) as server:
            client = socket.create_connection(server.getsockname())
            socks = [server.accept()[0], client]
    for sock in socks:
        sock.setblocking(False)
    return socks


@functools.cache
def contexts(old: bool) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    client = client_context()
    return server_context(), tls12(client) if old else client


def factory(dice: Dice, line: Line) -> Callable[[], Any]:
    """Of a protocol for the line, or of none."""

    def make() -> Any:
        protocol = dice.odd(dice.choice([Plain, Buffered])(line), 0.02)
        line.world.gave_junk |= dice.junk
        return protocol

    return make


async def adopt(
    world: World, dice: Dice, sock: socket.socket, line: Line, tls: Any, server: bool
) -> None:
    options = {"ssl": tls} if tls else {}
    if server:
        connect = world.loop.connect_accepted_socket
    else:
        connect = world.loop.create_connection
        if tls:
            options["server_hostname"] = "localhost"
    if tls and dice.chance(0.1):
        options["ssl_handshake_timeout"] = dice.odd(0.001, 0.5)
    await connect(factory(dice, line), sock=sock, **options)


@job(4)
async def pair(world: World, dice: Dice) -> None:
    """Two ends: transports, with TLS or without, or sockets."""
    flows = Flow(True), Flow(True)
    socks = connected(dice)
    tls = contexts(dice.chance(0.3)) if dice.chance(0.4) else (None, None)
    plain = tls[0] is None
    lines = []
    for number, sock in enumerate(socks):
        into, out = flows[number], flows[1 - number]
        if plain and dice.chance(0.4):
            world.socks.append(Sock(sock, into, out))
            continue
        line = Line(world, into, out)
        lines.append(line)
        work = functools.partial(
            adopt, sock=sock, line=line, tls=tls[number], server=number == 0
        )
        world.spawn(work, dice)
    if len(lines) == 2:
        lines[0].other, lines[1].other = lines[1], lines[0]


@job(2)
async def serve(world: World, dice: Dice) -> None:
    tls = contexts(False)[0] if dice.chance(0.3) else None
    options = {"ssl": tls, "start_serving": dice.chance(0.8)}
    if dice.chance(0.3):
        options["backlog"] = dice.odd(dice.choice([1, 100]))

    def make() -> Any:
        return factory(dice, Line(world))()

    if dice.chance(0.4):
        path = f"\0loopfuzz-{os.getpid()}-{dice.random()}"
        server = await world.loop.create_unix_server(make, dice.odd(path), **options)
    else:
        host = dice.odd(dice.choice(["127.0.0.1", "localhost", None]))
        server = await world.loop.create_server(make, host, dice.odd(0), **options)
    server.with_tls = tls is not None
    world.servers.append(server)


@job(5)
async def connect(world: World, dice: Dice) -> None:
    server = world.pick(world.servers, dice)
    sock = world.pick(list(server.sockets or ()), dice)
    options: dict[str, Any] = {}
    line = Line(world)
    if server.with_tls and dice.chance(0.95):
        options = {"ssl": contexts(dice.chance(0.3))[1], "server_hostname": "localhost"}
    else:
        line.into.trusted = not server.with_tls  # There may be an alert.
    loop = world.loop
    make = factory(dice, line)
    if sock.family == socket.AF_UNIX:
        path = dice.odd(sock.getsockname())
        if dice.chance(0.2):
            return await streams(line, asyncio.open_unix_connection(path, **options))
        await loop.create_unix_connection(make, path, **options)
        return None
    host, port = dice.odd("localhost"), dice.odd(sock.getsockname()[1])
    if dice.chance(0.3):
        return await streams(line, asyncio.open_connection(host, port, **options))
    if dice.chance(0.3):
        options["happy_eyeballs_delay"] = dice.odd(0.001)
    if dice.chance(0.2):
        options["local_addr"] = dice.odd(("127.0.0.1", 0))
    await loop.create_connection(make, host, port, **options)
    return None


async def streams(line: Line, opening: Any) -> None:
    reader, writer = await opening
    line.world.born.add(writer.transport)
    line.world.writers.append((line, reader, writer))


@job(4)
async def use_streams(world: World, dice: Dice) -> None:
    line, reader, writer = world.pick(world.writers, dice)
    for _ in range(dice.randrange(1, 10)):
        what = dice.randrange(8)
        if what < 3 and line.out.usable():
            data = line.out.piece(dice.choice(SIZES))
            line.out.wrote += len(data)
            writer.write(data)
        elif what == 3:
            await writer.drain()
        elif what < 6:
            line.into.check(await reader.read(dice.choice([1, 100, 100_000])))
        elif what == 6:
            line.into.check(await reader.readexactly(dice.choice([1, 3000])))
        elif dice.chance(0.3):
            dice.choice([writer.close, writer.write_eof])()
            await writer.wait_closed()


@job(4)
async def start_tls(world: World, dice: Dice) -> None:
    line = world.line(dice)
    if line.other is None or line.other.transport is None or line.secured:
        return
    flows = Flow(True), Flow(True)
    tls = contexts(dice.chance(0.3))
    for number, old in enumerate((line, line.other)):
        old.into.trusted = old.out.trusted = False
        new = Line(world, flows[number], flows[1 - number])

        async def upgrade(
            world: World, dice: Dice, old: Line = old, new: Line = new, n: int = number
        ) -> None:
            protocol = dice.choice([Plain, Buffered])(new)
            options = {} if n == 0 else {"server_hostname": "localhost"}
            if old.transport is None:
                return
            new.made = 1
            secured = await world.loop.start_tls(
                old.transport, protocol, dice.odd(tls[n]), server_side=n == 0, **options
            )
            new.keep(secured)

        old.secured = True
        world.spawn(upgrade, dice)


@job(3)
async def sendfile(world: World, dice: Dice) -> None:
    line = world.line(dice)
    out = line.out
    target: Any = line.transport
    send = world.loop.sendfile
    if world.socks and dice.chance(0.4):
        sock = world.pick(world.socks, dice)
        out, target, send = sock.out, sock.sock, world.loop.sock_sendfile
    if not out.usable():
        return
    count = dice.choice([None, 1, 100_000])
    out.trusted = False  # Nobody knows how much went, until it is over.
    with tempfile.TemporaryFile() as real:
        file: Any = real if dice.chance(0.7) else io.BytesIO()
        file.write(out.piece(300_000))
        file.flush()
        await send(target, dice.odd(file), dice.odd(0), dice.odd(count))


@job(6)
async def use_sock(world: World, dice: Dice) -> None:
    sock = world.pick(world.socks, dice)
    loop, name = world.loop, dice.choice(["recv", "recv_into", "sendall", "sendall"])
    for _ in range(dice.randrange(1, 5)):
        if name == "recv":
            got = await loop.sock_recv(sock.sock, dice.odd(dice.choice([1, 100_000])))
            sock.take(got)
        elif name == "recv_into":
            buffer = bytearray(dice.choice([1, 70_000]))
            count = await loop.sock_recv_into(sock.sock, dice.odd(buffer))
            sock.take(buffer[:count])
        elif sock.out.usable():
            data = sock.out.piece(dice.choice(SIZES))
            if sock.sending or dice.chance(0.1):
                sock.out.trusted = False  # One between the pieces of the other.
            sock.out.wrote += len(data)
            sock.sending = True
            await loop.sock_sendall(sock.sock, dice.odd(data, 0))
            sock.sending = False


@job(1)
async def accept(world: World, dice: Dice) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        client = socket.socket()
        flows = Flow(True), Flow(True)
        world.socks.append(Sock(client, *flows))
        accepting = world.loop.sock_accept(dice.odd(server))
        address = dice.odd(server.getsockname())
        made = await asyncio.gather(accepting, world.loop.sock_connect(client, address))
        world.socks.append(Sock(made[0][0], flows[1], flows[0]))


@job(2)
async def datagrams(world: World, dice: Dice) -> None:
    def make() -> Any:
        return Datagrams(Line(world))

    options: dict[str, Any] = {"local_addr": dice.odd(("127.0.0.1", 0))}
    what = dice.randrange(4)
    if what == 0:
        address = world.line(dice).transport.get_extra_info("sockname")
        dice.junk = not isinstance(address, tuple)
        options = {"remote_addr": dice.odd(address)}
    elif what == 1:
        for sock in socket.socketpair(type=socket.SOCK_DGRAM):
            await world.loop.create_datagram_endpoint(make, sock=sock)
        return
    elif what == 2:
        options["allow_broadcast"] = dice.odd(True)
    await world.loop.create_datagram_endpoint(make, **options)


@job(3)
async def pipes(world: World, dice: Dice) -> None:
    loop, flow = world.loop, Flow(True)
    files: list[Any]
    what = dice.randrange(4)
    if what == 0:
        files = list(socket.socketpair())
    else:
        make = pty.openpty if what == 1 else os.pipe
        reading, writing = make()
        files = [open(reading, "rb", 0), open(writing, "wb", 0)]
        flow.trusted = what != 1  # A terminal changes the ends of lines.
    for file in files:
        os.set_blocking(file.fileno(), False)
    for number, file in enumerate(files):
        flows = (flow, None) if number == 0 else (None, flow)
        connect = loop.connect_write_pipe if number else loop.connect_read_pipe
        if dice.chance(0.9):
            await connect(factory(dice, Line(world, *flows)), dice.odd(file))
        else:
            world.others.append(file)


@job(1)
async def process(world: World, dice: Dice) -> None:
    if world.hostile:
        return  # Who has lost its descriptor may close that which tells of the end.
    loop = world.loop
    line = Line(world)
    command = dice.odd(dice.choice(["cat", "true", "/nonexistent"]))
    options: dict[str, Any] = {}
    for name in ("stdin", "stdout", "stderr"):
        if dice.chance(0.3):
            given = dice.choice([subprocess.DEVNULL, None, subprocess.STDOUT])
            options[name] = dice.odd(given if name == "stderr" else subprocess.DEVNULL)
            line.into.trusted = name != "stderr"
    if dice.chance(0.3):
        options |= {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        child = await asyncio.create_subprocess_exec(command, **options)
        out, _ = await child.communicate(dice.odd(b"text"))
        assert dice.junk or out in (b"text", b"")
    elif dice.chance(0.3):
        await loop.subprocess_shell(lambda: Child(line), command, **options)
    else:
        await loop.subprocess_exec(lambda: Child(line), command, **options)


@job(1)
async def names(world: World, dice: Dice) -> None:
    host = dice.odd(dice.choice(["127.0.0.1", "localhost", "::1"]))
    await world.loop.getaddrinfo(host, dice.odd(80), family=dice.odd(0))
    await world.loop.getnameinfo(dice.odd(("127.0.0.1", 80)), dice.odd(0))


@job(1)
async def thread(world: World, dice: Dice) -> None:
    if not world.hostile:  # It might have taken the descriptor that wakes the loop.
        callback = world.callback(dice)
        await world.loop.run_in_executor(
            None, world.loop.call_soon_threadsafe, callback
        )
