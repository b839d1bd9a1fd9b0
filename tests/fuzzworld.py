"""What a program of tests/loopfuzz.py has: decisions, streams whose every byte is known
by its place, protocols that check what they are told and misbehave, the World.
"""

import asyncio
import os
import random
import socket
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

LIMIT = int(os.environ.get("UVTULIP_TEST_LIMIT", "30"))  # seconds for a program
MATERIAL = random.Random(0).randbytes(65521) * 8  # what every stream repeats
PERIOD = 65521
SIZES = [0, 1, 5, 100, 1400, 8192, 70_000, 400_000]
JUNK: list[Any] = [
    None, -1, 0, 1.5, 2**31, 2**70, object(), "", "text", b"", (), [None], {},
    float("nan"), memoryview(bytearray(8))[::2], type, repr, b"\0", "\0", ("", -1),
]  # fmt: skip


class Oops(Exception):
    """What the program itself raises, anywhere."""


class Dice(random.Random):
    """The decisions of one actor, and whether it has used nonsense."""

    junk = False

    def chance(self, probability: float) -> bool:
        return self.random() < probability

    def odd(self, value: Any, probability: float = 0.05) -> Any:
        """The value, or now and then something else."""
        if self.chance(probability):
            self.junk = True
            return self.choice(JUNK)
        return value


class Flow:
    """A direction of a stream: any part of it is known by its place."""

    certain = True

    def __init__(self, shared: bool = False) -> None:
        self.wrote = self.read = 0
        self.shared = shared  # by both ends
        self.trusted = True

    def piece(self, size: int) -> bytes:
        start = self.wrote % PERIOD
        return MATERIAL[start : start + size]

    def usable(self) -> bool:
        """Whether there may be more: who does not see our distrust is not misled."""
        return (self.trusted or self.shared) and self.wrote < 4_000_000

    def check(self, data: Any) -> None:
        if not (self.certain and self.trusted):
            return
        for start in range(0, len(data), PERIOD):
            part = bytes(data[start : start + PERIOD])
            place = self.read % PERIOD
            self.read += len(part)
            assert part == MATERIAL[place : place + len(part)], (
                f"{len(part)} bytes of {MATERIAL.find(part[:100])} at {place}: "
                f"{part[:20]!r}"
            )
        assert not self.shared or self.read <= self.wrote


class Line:
    """One end of a connection, whoever its protocol is at the moment."""

    def __init__(
        self, world: "World", into: Flow | None = None, out: Flow | None = None
    ) -> None:
        self.world = world
        self.into, self.out = into or Flow(), out or Flow()
        self.dice = Dice(world.dice.random())
        self.transport: Any = None
        self.other: Line | None = None
        self.made = self.lost = 0
        self.secured = False  # Another line has its transport now.
        world.lines.append(self)

    def begin(self, transport: Any) -> None:
        assert not self.made
        assert not self.lost
        self.made = 1
        self.keep(transport)
        self.heard("made")

    def keep(self, transport: Any) -> None:
        self.transport = transport
        self.world.born.add(transport)

    def heard(self, what: str) -> None:
        assert self.made, f"{what} before connection_made()"
        assert not self.lost, f"{what} after connection_lost()"
        self.world.mischief(self.dice)

    def end(self) -> None:
        assert self.made
        assert not self.lost
        self.lost = 1
        self.world.mischief(self.dice)


class Base:
    """What every protocol has."""

    def __init__(self, line: Line) -> None:
        self.line = line

    def connection_made(self, transport: Any) -> None:
        self.line.begin(transport)

    def pause_writing(self) -> None:
        self.line.heard("pause_writing")

    def resume_writing(self) -> None:
        self.line.heard("resume_writing")

    def connection_lost(self, exc: Any) -> None:
        if exc is not None:
            self.line.world.judge(exc, self.line.world.gave_junk)
        self.line.end()


class Plain(Base, asyncio.Protocol):
    def data_received(self, data: bytes) -> None:
        assert data
        assert type(data) is bytes
        self.line.into.check(data)
        self.line.heard("data")

    def eof_received(self) -> Any:
        self.line.heard("eof")
        return self.line.dice.choice([None, True, False, 1])


class Buffered(Base, asyncio.BufferedProtocol):
    buffer: Any = b""

    def get_buffer(self, sizehint: int) -> Any:
        dice = self.line.dice
        self.line.heard("get_buffer")
        if dice.chance(self.line.world.rowdy / 4):
            self.line.world.gave_junk = True
            return dice.choice([*JUNK, memoryview(b"text"), bytearray()])
        self.buffer = bytearray(dice.choice([1, 100, 65536]))
        return self.buffer if dice.chance(0.5) else memoryview(self.buffer)

    def buffer_updated(self, count: int) -> None:
        assert 0 < count <= len(self.buffer)
        self.line.into.check(self.buffer[:count])
        if self.line.dice.chance(0.1):
            self.line.world.gave_junk = True
            self.buffer.clear()  # BufferError while somebody holds it.
        self.line.heard("buffer_updated")

    def eof_received(self) -> Any:
        self.line.heard("eof")
        return self.line.dice.choice([None, True])


class Datagrams(Base, asyncio.DatagramProtocol):
    def datagram_received(self, data: bytes, addr: Any) -> None:
        assert self.line.world.hostile or data in MATERIAL or data in JUNK
        self.line.heard("datagram")

    def error_received(self, exc: Any) -> None:
        assert isinstance(exc, OSError)
        self.line.heard("error")


class Child(Base, asyncio.SubprocessProtocol):
    exited = False

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        assert data
        if fd == 1:
            self.line.into.check(data)
        self.line.heard("pipe data")

    def pipe_connection_lost(self, fd: int, exc: Any) -> None:
        self.line.heard("pipe lost")

    def process_exited(self) -> None:
        assert not self.exited
        self.exited = True
        self.line.heard("exit")


FAIR = (Oops, RuntimeError, ValueError, EOFError, asyncio.LimitOverrunError,
        asyncio.CancelledError, GeneratorExit)  # fmt: skip
FAIR_FOR_JUNK = (LookupError, TypeError, OverflowError, BufferError, MemoryError)
Step = Callable[["World", Dice], Any]
STEPS: list[Step] = []
JOBS: list[Callable[["World", Dice], Coroutine[Any, Any, Any]]] = []


def judge(wrong: list[BaseException], exc: BaseException, junk: bool) -> None:
    """Keep what should not have come out."""
    if isinstance(exc, (OSError, *FAIR)):
        return
    if junk and isinstance(exc, FAIR_FOR_JUNK):
        return
    if junk and isinstance(exc, AttributeError):
        if any(exc.obj is value for value in JUNK):
            return
    if exc not in wrong:
        wrong.append(exc)


class Sock:
    """One end of a connection, as a socket."""

    def __init__(self, sock: socket.socket, into: Flow, out: Flow) -> None:
        self.sock, self.into, self.out = sock, into, out
        self.sending = False
        sock.setblocking(False)

    def take(self, data: bytes) -> None:
        self.into.check(data)


class World:
    """One program: what it has, what it does, what went wrong."""

    def __init__(self, dice: Dice, loop: asyncio.AbstractEventLoop) -> None:
        self.dice = dice
        self.loop: Any = loop
        self.hostile = dice.chance(0.25)  # It closes descriptors of others.
        self.rowdy = dice.choice([0, 0.02, 0.2])  # How often a callback misbehaves.
        self.stops = dice.chance(0.3)
        self.calm = self.gave_junk = False
        self.depth = 0
        self.wrong: list[BaseException] = []
        self.lines: list[Line] = []
        self.born: weakref.WeakSet[Any] = weakref.WeakSet()
        self.socks: list[Sock] = []
        self.servers: list[Any] = []
        self.writers: list[tuple[Line, Any, Any]] = []
        self.handles: list[Any] = []
        self.tasks: list[asyncio.Task[Any]] = []
        self.others: list[Any] = []

    def judge(self, exc: BaseException, junk: bool) -> None:
        judge(self.wrong, exc, junk)

    def on_error(self, loop: Any, context: dict[str, Any]) -> None:
        exc = context.get("exception")
        if exc is not None:
            self.judge(exc, self.gave_junk)
        if self.dice.chance(self.rowdy):
            raise Oops

    def act(self, step: Step, dice: Dice) -> None:
        dice.junk = False
        self.depth += 1
        try:
            step(self, dice)
        except BaseException as exc:
            self.judge(exc, dice.junk)
        self.depth -= 1

    def mischief(self, dice: Dice) -> None:
        """Now and then something unexpected, from inside of a callback."""
        if self.calm or self.depth > 3 or not dice.chance(self.rowdy):
            return
        if dice.chance(0.2):
            raise Oops
        self.act(dice.choice(STEPS), dice)

    def callback(self, dice: Dice) -> Callable[..., None]:
        mine = Dice(dice.random())
        return lambda *args: self.mischief(mine)

    def spawn(self, job: Any, dice: Dice) -> None:
        self.tasks.append(self.loop.create_task(self.work(job, Dice(dice.random()))))

    async def work(self, job: Any, dice: Dice) -> None:
        try:
            await job(self, dice)
        except asyncio.CancelledError:
            raise
        except BaseException as exc:
            self.judge(exc, dice.junk or self.gave_junk)

    def line(self, dice: Dice) -> Line:
        """One that is connected."""
        lines = [line for line in self.lines if line.transport is not None]
        if not lines:
            raise Oops
        return dice.choice(lines[-8:])

    def pick(self, things: list[Any], dice: Dice) -> Any:
        if not things:
            raise Oops
        return dice.choice(things[-8:])

    async def main(self, *first: Any) -> None:
        """All that the program does: these jobs, then random steps."""
        dice = self.dice
        for function in first:
            self.spawn(function, dice)
        for _ in range(dice.randrange(50, 200)):
            self.act(dice.choice(STEPS), dice)
            if dice.chance(0.5):
                await asyncio.sleep(dice.choice([0, 0, 0, 0.001]))
            if self.wrong:
                break
        self.stops = False
        if dice.chance(0.7):
            self.calm = True
            await self.finish()

    async def finish(self) -> None:
        """Everything is ended and nothing hangs."""
        late: Any = True
        end = self.loop.time() + LIMIT / 3
        for task in self.tasks:
            task.cancel()
        while late and self.loop.time() < end:
            for server in self.servers:
                server.close()
            for transport in list(self.born):
                getattr(transport, "abort", transport.close)()
            await asyncio.sleep(0.001)
            late = [task for task in self.tasks if not task.done()] or [
                line.transport
                for line in self.lines
                if line.transport and not (line.lost or line.secured)
            ]
        assert not late, late


def step(weight: int) -> Callable[[Step], Step]:
    def register(function: Step) -> Step:
        STEPS.extend([function] * weight)
        return function

    return register


def job(weight: int) -> Any:
    def register(function: Any) -> Any:
        JOBS.extend([function] * weight)
        return function

    return register
