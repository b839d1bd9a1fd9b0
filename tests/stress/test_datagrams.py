"""Endpoints whose protocols do at random what protocols can do, in every callback:
nothing crashes, hangs, or stays behind, and every endpoint comes to its end once."""

import asyncio
import contextlib
import gc
import random
import socket
import warnings

import pytest

import uvtulip
from aiosupport import open_descriptors, turns, until

ENDPOINTS = 400
AT_ONCE = 20
STEPS = 200
HOST = "127.0.0.1"


class Wild(asyncio.DatagramProtocol):
    def __init__(self, world):
        self.world = world
        self.ends = 0
        self.left = STEPS
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport
        self.act()

    def datagram_received(self, data, addr):
        assert type(data) is bytes
        assert self.ends == 0
        if addr is not None:
            self.world.addresses.append(addr)
        self.act()

    def error_received(self, exc):
        assert isinstance(exc, OSError)
        self.act()

    def pause_writing(self):
        self.act()

    def resume_writing(self):
        self.act()

    def connection_lost(self, exc):
        self.ends += 1
        self.lost.set_result(None)
        self.act()

    def act(self):
        self.left -= 1
        if self.left > 0:
            self.world.act(self.transport, self)


class World:
    def __init__(self, seed, folder):
        self.random = random.Random(seed)
        self.folder = folder
        self.loop = asyncio.get_running_loop()
        self.addresses = [(HOST, 9), "/nobody", "\0nobody", ("::1", 9)]
        self.transports = []
        self.made = 0

    def act(self, transport, protocol):
        choice = self.random.choice
        for _ in range(self.random.randrange(3)):
            getattr(self, choice(ACTIONS))(transport, protocol)
            if self.transports and self.random.random() < 0.3:
                transport = choice(self.transports)

    def send(self, transport, protocol):
        size = self.random.choice([0, 1, 100, 2000, 9000, 65507, 70000])
        data = self.random.choice([bytes, bytearray])(size)
        addr = self.random.choice([None, self.random.choice(self.addresses)])
        for _ in range(self.random.choice([1, 1, 1, 3, 100])):
            try:
                transport.sendto(data, addr)
            except (TypeError, ValueError):
                break

    def close(self, transport, protocol):
        if self.random.random() < 0.2:
            transport.close()

    def abort(self, transport, protocol):
        if self.random.random() < 0.2:
            transport.abort()

    def raw_close(self, transport, protocol):
        handle = transport.get_extra_info("uv_handle")
        if handle is not None and not handle.closed and self.random.random() < 0.1:
            handle.close()

    def pause(self, transport, protocol):
        transport.pause_reading()
        self.loop.call_later(0.001, transport.resume_reading)

    def resume(self, transport, protocol):
        transport.resume_reading()

    def limits(self, transport, protocol):
        transport.set_write_buffer_limits(self.random.choice([0, 10, 100_000]))
        assert transport.get_write_buffer_size() >= 0

    def change(self, transport, protocol):
        other = transport.get_protocol()
        if other is not None:
            transport.set_protocol(other)

    def look(self, transport, protocol):
        assert "DatagramTransport" in repr(transport)
        transport.get_extra_info("socket")

    def collect(self, transport, protocol):
        gc.collect(0)

    def fail(self, transport, protocol):
        raise ValueError("as it is meant to be")

    async def one(self):
        self.made += 1
        name = self.random.choice(
            [f"{self.folder}/{self.made}", f"\0{self.folder}/{self.made}"]
        )
        options = self.random.choice(
            [
                {"local_addr": (HOST, 0)},
                {"remote_addr": (HOST, 9)},
                {"remote_addr": (HOST, 9), "allow_broadcast": True},
                {"family": socket.AF_INET},
                {"family": socket.AF_UNIX, "local_addr": name},
                {"family": socket.AF_UNIX},
            ]
        )
        peer = None
        if options == {"family": socket.AF_UNIX}:
            ours, peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
            options = {"sock": ours}
        transport, protocol = await self.loop.create_datagram_endpoint(
            lambda: Wild(self), **options
        )
        self.transports.append(transport)
        name = transport.get_extra_info("sockname")
        self.addresses.append(name)
        for _ in range(10):
            with contextlib.suppress(ValueError):
                self.act(transport, protocol)
            await asyncio.sleep(self.random.choice([0, 0.001]))
        transport.close()
        self.loop.call_later(0.2, transport.abort)  # Somebody may not read.
        await protocol.lost
        assert protocol.ends == 1
        self.transports.remove(transport)
        if peer is not None:
            peer.close()


ACTIONS = [name for name in vars(World) if name not in ("act", "one", "__init__")
           and not name.startswith("__")]


@pytest.mark.parametrize("seed", range(4))
def test_wild_protocols(seed, tmp_path):
    async def main():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(unexpected)
        world = World(seed, str(tmp_path))
        for _ in range(ENDPOINTS // AT_ONCE):
            await asyncio.gather(*(world.one() for _ in range(AT_ONCE)))
            del world.addresses[:-50]
        await turns()
        await until(lambda: not world.transports)

    caught = []

    def unexpected(loop, context):
        if not isinstance(context.get("exception"), ValueError):
            caught.append(context)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = open_descriptors()
        with asyncio.Runner(loop_factory=uvtulip.new_event_loop) as runner:
            runner.run(main())
        gc.collect()
        assert open_descriptors() == before
    assert caught == []
