"""Both ends of TLS over a wire that cuts, delays and falsifies: what arrives is what
was sent, or the connection ends with an error; nothing hangs.

    python tests/tlsfuzz.py [--first SEED] [--count N] [--backend NAME]

A seed determines everything, so that a failure can be repeated.
"""

import argparse
import asyncio
import random
import ssl
from typing import Any

import uvtulip
from tlssupport import client_context, server_context, tls12
from uvtulip import _transports

TURNS = 3000
SHUTDOWN = 0.01  # seconds that an end waits for the other one's close_notify


class Wire(asyncio.Transport):
    """One end of the wire: a transport in Python, without a socket."""

    _start_tls_compatible = True

    def __init__(self, loop: Any, rnd: random.Random, damage: float) -> None:
        super().__init__()
        self.loop, self.rnd, self.damage = loop, rnd, damage
        self.other: Wire
        self.protocol: Any = None
        self.waiting = bytearray()  # on its way to the other end
        self.paused = self.closing = self.ended = self.damaged = False
        self.eof = False

    # What TLS calls.

    def write(self, data: Any) -> None:
        assert isinstance(data, (bytes, bytearray, memoryview))
        if not self.closing:
            self.waiting += data

    def writelines(self, pieces: Any) -> None:
        self.write(b"".join(pieces))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.eof = True

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def is_reading(self) -> bool:
        return not self.paused

    def get_write_buffer_size(self) -> int:
        return len(self.waiting)

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def get_protocol(self) -> Any:
        return self.protocol

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.end(None)

    def abort(self) -> None:
        self.waiting.clear()
        self.end(None)

    def _force_close(self, exc: BaseException | None) -> None:
        self.waiting.clear()
        self.end(exc)

    def end(self, exc: BaseException | None) -> None:
        if not self.closing:
            self.closing = True
            self.loop.call_soon(self.lose, exc)

    def lose(self, exc: BaseException | None) -> None:
        protocol, self.protocol = self.protocol, None
        if protocol is not None:
            protocol.connection_lost(exc)

    # What the wire does, a step in each turn of the loop.

    def carry(self) -> None:
        other = self.other
        if other.closing or other.paused:
            return
        if other.protocol is None:
            return  # Its start_tls() was cancelled before it began.
        if self.waiting:
            count = self.rnd.choice([1, 5, 100, 1400, 1 << 20])
            chunk = self.falsify(bytes(self.waiting[:count]))
            del self.waiting[:count]
            if chunk:
                other.protocol.data_received(chunk)
        elif (self.closing or self.eof) and not other.ended:
            other.ended = True
            if not other.protocol.eof_received():
                other.end(None)

    def falsify(self, chunk: bytes) -> bytes:
        rnd = self.rnd
        if rnd.random() >= self.damage:
            return chunk
        self.damaged = True
        data = bytearray(chunk)
        what = rnd.randrange(6)
        place = rnd.randrange(len(data))
        if what == 0:
            data[place] ^= 1 << rnd.randrange(8)
        elif what == 1:
            del data[place : place + rnd.randrange(1, 50)]
        elif what == 2:
            data[place:place] = rnd.randbytes(rnd.randrange(1, 50))
        elif what == 3:
            data += chunk
        elif what == 4:  # a record of its own
            data[place:place] = b"%c\3\3%c%c" % (rnd.randrange(20, 25), 0, 9) + bytes(9)
        else:
            self.waiting.clear()
            self.eof = True
        return bytes(data)


class End(asyncio.Protocol):
    """Sends what it is to send, in pieces; keeps what comes."""

    def __init__(self, rnd: random.Random, payload: bytes) -> None:
        self.rnd, self.rest = rnd, payload
        self.received = bytearray()
        self.transport: Any = None
        self.lost: list[Any] = []
        self.may_write = True

    def connection_made(self, transport: Any) -> None:
        assert self.transport is None
        self.transport = transport

    def pause_writing(self) -> None:
        self.may_write = False

    def resume_writing(self) -> None:
        self.may_write = True

    def data_received(self, data: bytes) -> None:
        assert not self.lost
        assert data
        self.received += data
        if self.transport is not None and self.rnd.random() < 0.01:
            self.rnd.choice([self.transport.close, self.transport.abort])()

    def connection_lost(self, exc: Any) -> None:
        self.lost.append(exc)

    def step(self) -> None:
        transport = self.transport
        if transport is None or self.lost:
            return
        chance = self.rnd.random()
        if self.rest and self.may_write and not transport.is_closing():
            count = self.rnd.choice([1, 100, 20_000, 70_000])
            transport.write(self.rest[:count])
            self.rest = self.rest[count:]
        elif chance < 0.05:
            transport.close()
        elif chance < 0.06:
            transport.abort()
        elif chance < 0.1:
            transport.pause_reading()
        elif chance < 0.3:
            transport.resume_reading()


class BufferedEnd(End, asyncio.BufferedProtocol):
    def get_buffer(self, sizehint: int) -> memoryview:
        self.buffer = bytearray(self.rnd.choice([1, 100, 65536]))
        return memoryview(self.buffer)

    def buffer_updated(self, count: int) -> None:
        End.data_received(self, bytes(self.buffer[:count]))

    data_received = None  # type: ignore[assignment]


def contexts(rnd: random.Random) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    server, client = server_context(), client_context()
    if rnd.random() < 0.3:
        tls12(client)
    return server, client


async def one(seed: int) -> bool:
    """False: the wire told no lie."""
    rnd = random.Random(seed)
    loop: Any = asyncio.get_running_loop()
    errors: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda loop, context: errors.append(context))
    damage = rnd.choice([0, 0, 0.02, 0.3])
    wires = Wire(loop, rnd, damage), Wire(loop, rnd, damage)
    wires[0].other, wires[1].other = wires[1], wires[0]
    sent = [rnd.randbytes(rnd.choice([0, 10, 50_000, 400_000])) for _ in wires]
    kinds = [rnd.choice([End, BufferedEnd]) for _ in wires]
    ends = [kind(rnd, payload) for kind, payload in zip(kinds, sent, strict=True)]
    tasks = []
    for number, (wire, end) in enumerate(zip(wires, ends, strict=True)):
        coroutine = loop.start_tls(
            wire,
            end,
            contexts(rnd)[number],
            server_side=number == 0,
            server_hostname="localhost" if number else None,
            ssl_handshake_timeout=10,
            ssl_shutdown_timeout=SHUTDOWN,
        )
        tasks.append(asyncio.create_task(coroutine))
    for turn in range(TURNS):
        for task, end in zip(tasks, ends, strict=True):
            if task.done() and not task.cancelled() and end.transport is None:
                if task.exception() is None:
                    end.connection_made(task.result())
        for wire in wires:
            wire.carry()
        for end in ends:
            end.step()
        if rnd.random() < 0.001:
            rnd.choice(tasks).cancel()
        await asyncio.sleep(0)
        if all(task.done() for task in tasks) and all(
            end.lost or end.transport is None for end in ends
        ):
            break
        if turn == TURNS - 200:
            for task in tasks:
                task.cancel()
            for end in ends:
                if end.transport is not None:
                    end.transport.abort()
    # The handshakes are over, and who had a connection has lost it, once.
    for task, end in zip(tasks, ends, strict=True):
        assert task.done(), "the handshake hangs"
        assert end.transport is None or len(end.lost) == 1, "the end is not told"
        if not task.cancelled():
            error = task.exception()
            assert error is None or isinstance(error, OSError), repr(error)
        for exc in end.lost:
            if exc is not None and not isinstance(exc, OSError):
                raise exc
    # Nothing is received that was not sent, whatever the wire did.
    for number, end in enumerate(ends):
        assert sent[1 - number].startswith(end.received), "false data"
    for context in errors:
        error = context.get("exception")
        assert isinstance(error, OSError), context
    for wire in wires:
        wire.end(None)
    return any(wire.damaged for wire in wires)


async def many(seeds: range) -> int:
    damaged = 0
    for seed in seeds:
        try:
            damaged += await one(seed)
        except BaseException as exc:
            exc.add_note(f"seed {seed}, {uvtulip.tls_backend()}")
            raise
    return damaged


def fuzz(seeds: range) -> int:
    with asyncio.Runner(loop_factory=uvtulip.new_event_loop) as runner:
        return runner.run(many(seeds))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--backend", choices=["openssl", "memory-bio"])
    arguments = parser.parse_args()
    _transports._tls_backend(arguments.backend == "memory-bio")
    seeds = range(arguments.first, arguments.first + arguments.count)
    print(f"{len(seeds)} connections by {uvtulip.tls_backend()},", end=" ", flush=True)
    print(fuzz(seeds), "of them falsified")
