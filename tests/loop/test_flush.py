"""What several connections write in one poll leaves together, and nobody waits for
long: the peers are looked at from inside the callbacks."""

import asyncio
import socket
import time

import pytest

from aiosupport import run, until
from streamsupport import tcp_pair

# src/_transports/flush.c: so many wait for each other, and so long.
TOGETHER = 32
TOGETHER_S = 100e-6


class Answering(asyncio.Protocol):
    """Notes whose turn it is and which peers have their answer by then."""

    def __init__(self, peer, work):
        self.peer = peer
        self.work = work

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)
        self.work(self.peer)


def has_answer(peer):
    try:
        return peer.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
    except BlockingIOError:
        return False


async def answers(count, data, work):
    """Answers to `count` peers whose data are all there before the poll."""
    loop = asyncio.get_running_loop()
    peers, transports = [], []
    for _ in range(count):
        sock, peer = tcp_pair()
        transport, _ = await loop.create_connection(
            lambda peer=peer: Answering(peer, work), sock=sock
        )
        peers.append(peer)
        transports.append(transport)
    await asyncio.sleep(0)
    for peer in peers:
        peer.sendall(data)
    await until(lambda: all(map(has_answer, peers)))
    for transport, peer in zip(transports, peers, strict=True):
        assert peer.recv(len(data), socket.MSG_WAITALL) == data
        transport.close()
        peer.close()
    await asyncio.sleep(0)


@pytest.mark.parametrize("size", [1, 1000])
def test_at_most_so_many_wait(size):
    turns = []

    def work(peer):
        turns.append(peer)
        if len(turns) > TOGETHER:
            assert has_answer(turns[len(turns) - TOGETHER - 1])

    run(answers(3 * TOGETHER, b"x" * size, work))
    assert len(turns) == 3 * TOGETHER


def test_slow_callbacks_are_not_waited_for():
    """The first has its answer when the one after a slow one is called."""
    turns = []

    def work(peer):
        if len(turns) >= 2:
            assert all(map(has_answer, turns[: len(turns) - 1]))
        turns.append(peer)
        end = time.monotonic() + 3 * TOGETHER_S
        while time.monotonic() < end:
            pass

    run(answers(10, b"x", work))
    assert len(turns) == 10


def test_much_does_not_wait():
    turns = []

    def work(peer):
        assert all(map(has_answer, turns))
        turns.append(peer)

    run(answers(10, b"x" * 9000, work))
    assert len(turns) == 10
