"""sock_*(), add_reader() and sendfile() on sockets that come and go, with tasks that
are cancelled at any time: what arrives is what was sent, and nothing is left."""

import asyncio
import contextlib
import gc
import random
import socket

import pytest

from aiosupport import open_descriptors, run
from streamsupport import tcp_pair

PAIRS = 30
ROUNDS = 40


class Stream:
    """One direction of a connection: bytes that go on counting."""

    def __init__(self, sender, receiver):
        self.sender = sender
        self.receiver = receiver
        self.sent = 0
        self.received = 0
        self.file = None

    def data(self, start, size):
        return bytes((start + i) % 251 for i in range(size))

    async def send(self, chance):
        """Some bytes; who is cancelled does not know how many went."""
        loop = asyncio.get_running_loop()
        piece = self.data(self.sent, chance.choice([1, 20, 3000]))
        if chance.random() < 0.2:
            self.file.seek(0)
            self.file.truncate()
            self.file.write(piece)
            self.file.flush()
            await loop.sock_sendfile(self.sender, self.file)
        else:
            await loop.sock_sendall(self.sender, piece)
        self.sent += len(piece)

    async def receive(self, chance):
        """All that was sent, in tries that are cancelled now and then."""
        loop = asyncio.get_running_loop()
        buffer = bytearray(2000)
        while self.received < self.sent:
            size = chance.choice([1, 100, 2000, 65536])
            if chance.random() < 0.5:
                trying = loop.create_task(loop.sock_recv(self.receiver, size))
            else:
                view = memoryview(buffer)[:size]
                trying = loop.create_task(loop.sock_recv_into(self.receiver, view))
            if chance.random() < 0.2:
                for _ in range(chance.randrange(4)):
                    await asyncio.sleep(0)
                trying.cancel()
            try:
                got = await trying
            except asyncio.CancelledError:
                continue
            if isinstance(got, int):
                got = bytes(buffer[:got])
            assert got == self.data(self.received, len(got))
            self.received += len(got)


async def converse(chance, file):
    """A connection with waits of every kind, then closed in some way."""
    loop = asyncio.get_running_loop()
    pair = tcp_pair() if chance.random() < 0.6 else socket.socketpair()
    one, two = pair
    for sock in pair:
        sock.setblocking(False)
        if sock.family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    streams = [Stream(one, two), Stream(two, one)]
    for stream in streams:
        stream.file = file
    for _ in range(chance.randrange(1, 12)):
        stream = chance.choice(streams)
        receiving = loop.create_task(loop.sock_recv(stream.receiver, 10))
        if chance.random() < 0.3:
            await asyncio.sleep(0)
        receiving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await receiving
            raise AssertionError("nothing was sent")
        if chance.random() < 0.2:
            seen = loop.create_future()
            loop.add_writer(stream.sender, seen.set_result, None)
            await seen
            loop.remove_writer(stream.sender)
        await asyncio.gather(stream.send(chance), asyncio.sleep(0))
        await stream.receive(chance)
    waiting = loop.create_task(loop.sock_recv(one, 10))
    await asyncio.sleep(0)
    kept = one.dup() if chance.random() < 0.3 else None
    if chance.random() < 0.5:
        one.close()
        waiting.cancel()
    two.close()
    with contextlib.suppress(asyncio.CancelledError, OSError):
        assert await waiting == b""
    one.close()
    if kept is not None:
        kept.close()


@pytest.mark.parametrize("seed", range(8))
def test_sockets_that_come_and_go(seed, tmp_path):
    chance = random.Random(seed)

    async def keep_going(number):
        with (tmp_path / str(number)).open("w+b") as file:
            for _ in range(ROUNDS):
                await converse(chance, file)

    async def main():
        await asyncio.gather(*(keep_going(n) for n in range(PAIRS)))

    gc.collect()
    before = open_descriptors()
    run(main())
    gc.collect()
    assert open_descriptors() == before
