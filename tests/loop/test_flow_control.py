"""Water marks, pause_writing and resume_writing."""

import asyncio
import sys

import pytest

from aiosupport import run
from streamsupport import Events, connect, fill


def test_pause_and_resume():
    async def main():
        protocol = Events()
        transport, peer = await connect(protocol)
        with peer:
            total = fill(transport)
            if "pause" not in protocol.events:
                transport.write(b"y" * 200000)
                total += 200000
            assert protocol.events == ["made", "pause"]
            size = transport.get_write_buffer_size()
            assert size > 65536
            transport.write(b"z")
            assert transport.get_write_buffer_size() == size + 1
            assert len(await peer.exactly(total + 1)) == total + 1
            while "resume" not in protocol.events:
                await asyncio.sleep(0.001)
            assert protocol.events == ["made", "pause", "resume"]
            assert transport.get_write_buffer_size() == 0
            transport.close()
            await protocol.lost

    run(main())


def test_small_writes_do_not_pause():
    async def main():
        protocol = Events()
        transport, peer = await connect(protocol)
        with peer:
            for _ in range(100):
                transport.write(b"x" * 1000)
            assert await peer.exactly(100000)
            assert protocol.events == ["made"]
            transport.close()
            await protocol.lost

    run(main())


def test_limits():
    async def main():
        transport, peer = await connect(Events())
        with peer:
            limits = transport.get_write_buffer_limits
            assert limits() == (16384, 65536)
            transport.set_write_buffer_limits(high=1000)
            assert limits() == (250, 1000)
            transport.set_write_buffer_limits(low=1000)
            assert limits() == (1000, 4000)
            transport.set_write_buffer_limits(5, 5)
            assert limits() == (5, 5)
            transport.set_write_buffer_limits(high=0)
            assert limits() == (0, 0)
            transport.set_write_buffer_limits(low=sys.maxsize)
            assert limits() == (sys.maxsize, sys.maxsize)
            transport.set_write_buffer_limits(high=1 << 100, low=1)
            assert limits() == (1, sys.maxsize)
            transport.set_write_buffer_limits()
            assert limits() == (16384, 65536)
            for high, low in [(1, 2), (-1, None), (10, -1), (None, -1)]:
                with pytest.raises(ValueError, match="must be >="):
                    transport.set_write_buffer_limits(high, low)
            for bad in ("x", 1.5, b""):
                with pytest.raises(TypeError):
                    transport.set_write_buffer_limits(high=bad)
                with pytest.raises(TypeError):
                    transport.set_write_buffer_limits(low=bad)
            with pytest.raises(TypeError):
                transport.set_write_buffer_limits(height=1)
            assert limits() == (16384, 65536)
            transport.close()
            await transport.get_protocol().lost

    run(main())


def test_zero_limit_does_not_pause_when_all_is_sent():
    async def main():
        protocol = Events()
        transport, peer = await connect(protocol)
        with peer:
            transport.set_write_buffer_limits(high=0)
            transport.write(b"x")
            assert protocol.events == ["made"]
            assert await peer.exactly(1) == b"x"
            fill(transport)
            assert protocol.events == ["made", "pause"]
            transport.abort()
            await protocol.lost

    run(main())


def test_lowering_the_limits_pauses():
    async def main():
        protocol = Events()
        transport, peer = await connect(protocol)
        with peer:
            transport.set_write_buffer_limits(high=1 << 30)
            total = fill(transport)
            assert protocol.events == ["made"]
            transport.set_write_buffer_limits(high=0)
            assert protocol.events == ["made", "pause"]
            await peer.exactly(total)
            while "resume" not in protocol.events:
                await asyncio.sleep(0.001)
            transport.close()
            await protocol.lost

    run(main())


def test_resume_writes_more():
    """What is written inside resume_writing leaves too."""

    class Refills(Events):
        rounds = 0

        def resume_writing(self):
            super().resume_writing()
            if self.rounds < 3:
                self.rounds += 1
                self.total += fill(self.transport)
            else:
                self.transport.write(b"end")
                self.transport.close()

    async def main():
        protocol = Refills()
        transport, peer = await connect(protocol)
        transport.set_write_buffer_limits(high=0)
        with peer:
            protocol.total = fill(transport)
            data = await peer.rest()
            assert len(data) == protocol.total + 3
            assert data.endswith(b"end")
            assert await protocol.lost is None

    run(main())


@pytest.mark.parametrize("name", ["pause_writing", "resume_writing"])
def test_failures_are_reported(name):
    async def main():
        contexts = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: contexts.append(context))
        protocol = Events()

        def fail():
            raise ZeroDivisionError

        setattr(protocol, name, fail)
        transport, peer = await connect(protocol)
        with peer:
            transport.set_write_buffer_limits(high=0)
            total = fill(transport)
            await peer.exactly(total)
            while not contexts:
                await asyncio.sleep(0.001)
            (context,) = contexts
            assert context["message"] == f"protocol.{name}() failed"
            assert type(context["exception"]) is ZeroDivisionError
            assert context["transport"] is transport
            assert context["protocol"] is protocol
            assert not transport.is_closing()
            transport.close()
            await protocol.lost

    run(main())


@pytest.mark.parametrize("action", ["close", "abort"])
@pytest.mark.parametrize("name", ["pause_writing", "resume_writing"])
def test_closed_inside(name, action):
    async def main():
        protocol = Events()
        setattr(protocol, name, lambda: getattr(transport, action)())
        transport, peer = await connect(protocol)
        with peer:
            transport.set_write_buffer_limits(high=0)
            transport.write(b"x" * (8 << 20))
            await peer.rest()
            assert await protocol.lost is None

    run(main())


def test_streams_drain():
    async def serve(reader, writer):
        data = await reader.readexactly(4 << 20)
        writer.write(data)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def main():
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        reader, writer = await asyncio.open_connection(*address)
        for _ in range(64):
            writer.write(b"q" * 65536)
            await writer.drain()
        assert await reader.read(-1) == b"q" * (4 << 20)
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()

    run(main())
