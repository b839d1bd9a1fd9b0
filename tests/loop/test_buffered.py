"""BufferedProtocol: reads straight into the protocol's memory."""

import asyncio
import gc
import os
import sys

import pytest

from aiosupport import run, turns
from streamsupport import Events, connect


class Buffered(asyncio.BufferedProtocol):
    """Collects what comes, through a buffer of the given size."""

    def __init__(self, size=100):
        self.buffer = bytearray(size)
        self.data = bytearray()
        self.events = []
        self.hints = []
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport

    def get_buffer(self, sizehint):
        self.hints.append(sizehint)
        return self.buffer

    def buffer_updated(self, nbytes):
        assert 0 < nbytes <= len(self.buffer)
        self.data += self.buffer[:nbytes]

    def eof_received(self):
        self.events.append("eof")

    def connection_lost(self, exc):
        self.events.append("lost")
        self.lost.set_result(exc)

    async def until(self, count):
        while len(self.data) < count:
            assert not self.lost.done()
            await asyncio.sleep(0.001)


def collecting():
    contexts = []
    asyncio.get_running_loop().set_exception_handler(
        lambda loop, context: contexts.append(context)
    )
    return contexts


@pytest.mark.parametrize("size", [1, 100, 65536, 1 << 20])
def test_receives(size):
    async def main():
        protocol = Buffered(size)
        _, peer = await connect(protocol)
        data = os.urandom(2000 if size == 1 else 1 << 20)
        with peer:
            await peer.send(data)
            await protocol.until(len(data))
            assert protocol.data == data
            assert all(hint == -1 for hint in protocol.hints)
        assert await protocol.lost is None
        assert protocol.events == ["eof", "lost"]

    run(main())


def test_buffer_is_free_between_reads():
    """No export is held inside buffer_updated() or while nothing comes."""

    class Resizes(Buffered):
        def buffer_updated(self, nbytes):
            super().buffer_updated(nbytes)
            self.buffer.extend(b"\0")
            del self.buffer[-1:]

    async def main():
        protocol = Resizes(10)
        _, peer = await connect(protocol)
        with peer:
            # Exactly full: libuv tries to read again, in vain.
            for count in range(1, 6):
                await peer.send(b"x" * 10)
                await protocol.until(10 * count)
                await turns()
                protocol.buffer.extend(b"\0")
                del protocol.buffer[-1:]
        await protocol.lost
        protocol.buffer.clear()

    run(main())


def test_memoryview_and_released_references():
    class Views(Buffered):
        def get_buffer(self, sizehint):
            return memoryview(self.buffer)[10:20]

        def buffer_updated(self, nbytes):
            self.data += self.buffer[10 : 10 + nbytes]

    async def main():
        protocol = Views()
        _, peer = await connect(protocol)
        with peer:
            await peer.send(b"y" * 1000)
            await protocol.until(1000)
        await protocol.lost
        gc.collect()
        count = sys.getrefcount(protocol.buffer)
        assert count == 2

    run(main())


@pytest.mark.parametrize(
    ("buffer", "error"),
    [
        (bytearray(), RuntimeError),
        (b"read only", BufferError),
        (None, TypeError),
        (memoryview(bytearray(100))[::2], BufferError),
    ],
)
def test_unusable_buffer(buffer, error):
    class Bad(Buffered):
        def get_buffer(self, sizehint):
            return buffer

    async def main():
        contexts = collecting()
        protocol = Bad()
        _, peer = await connect(protocol)
        with peer:
            await peer.send(b"x")
            lost = await protocol.lost
            assert type(lost) is error
            (context,) = contexts
            assert context["message"] == (
                "Fatal error: protocol.get_buffer() call failed."
            )
            assert context["exception"] is lost
            if error is RuntimeError:
                assert str(lost) == "get_buffer() returned an empty buffer"

    run(main())


@pytest.mark.parametrize("name", ["get_buffer", "buffer_updated"])
def test_raises(name):
    async def main():
        contexts = collecting()
        protocol = Buffered()

        def fail(arg):
            protocol.transport.write(b"sorry")
            raise ZeroDivisionError

        setattr(protocol, name, fail)
        transport, peer = await connect(protocol)
        with peer:
            await peer.send(b"x")
            assert type(await protocol.lost) is ZeroDivisionError
            assert contexts[0]["message"] == (
                f"Fatal error: protocol.{name}() call failed."
            )

    run(main())


@pytest.mark.parametrize("where", ["get_buffer", "buffer_updated"])
@pytest.mark.parametrize("action", ["pause_reading", "close", "abort", "raw_close"])
def test_inside(where, action):
    async def main():
        protocol = Buffered()

        def act():
            transport = protocol.transport
            if action == "raw_close":
                transport.get_extra_info("uv_handle").close()
            else:
                getattr(transport, action)()

        def get_buffer(sizehint):
            if where == "get_buffer":
                act()
            return protocol.buffer

        def buffer_updated(nbytes):
            protocol.data += protocol.buffer[:nbytes]
            if where == "buffer_updated":
                act()

        protocol.get_buffer = get_buffer
        protocol.buffer_updated = buffer_updated
        transport, peer = await connect(protocol)
        with peer:
            await peer.send(b"x" * 1000)
            if action == "pause_reading":
                await protocol.until(100)
                await asyncio.sleep(0.02)
                assert len(protocol.data) == 100
                transport.resume_reading()
                await protocol.until(200)
                transport.abort()
            error = await protocol.lost
            assert len(protocol.data) <= 200
            if action == "raw_close":
                assert isinstance(error, ConnectionAbortedError)
            else:
                assert error is None
        gc.collect()
        protocol.buffer.clear()

    run(main())


def test_written_inside_get_buffer_is_sent():
    class Writes(Buffered):
        def get_buffer(self, sizehint):
            self.transport.write(b"w")
            return self.buffer

    async def main():
        protocol = Writes()
        _, peer = await connect(protocol)
        with peer:
            await peer.send(b"x")
            assert await peer.exactly(1) == b"w"
        await protocol.lost

    run(main())


def test_from_protocol_to_buffered_and_back():
    async def main():
        buffered = Buffered(3)
        last = Events()

        class First(Events):
            def data_received(self, data):
                super().data_received(data)
                self.transport.set_protocol(buffered)

        def buffer_updated(nbytes):
            buffered.data += buffered.buffer[:nbytes]
            if len(buffered.data) >= 6:
                transport.set_protocol(last)

        buffered.buffer_updated = buffer_updated
        first = First()
        transport, peer = await connect(first)
        with peer:
            await peer.send(b"one")
            await first.until(3)
            await peer.send(b"two456789")
            await last.until(3)
            assert buffered.data == b"two456"
            assert last.data == b"789"
            # And outside of any callback, also while paused.
            transport.pause_reading()
            transport.set_protocol(buffered)
            buffered.data.clear()
            await peer.send(b"abc")
            await asyncio.sleep(0.02)
            assert not buffered.data
            transport.resume_reading()
            await buffered.until(3)
            transport.set_protocol(last)
        assert await last.lost is None

    run(main())


class Leaves(Buffered):
    """Puts another protocol in its place when it is asked for its memory."""

    def __init__(self, other):
        super().__init__()
        self.other = other

    def get_buffer(self, sizehint):
        self.transport.set_protocol(self.other)
        return self.buffer


def test_protocol_changed_inside_get_buffer():
    async def main():
        last = Events()
        _, peer = await connect(Leaves(last))
        with peer:
            await peer.send(b"x" * 250)
            assert await last.until(250) == b"x" * 250
        await last.lost

    run(main())


def test_another_buffered_protocol_inside_get_buffer():
    async def main():
        last = Buffered(100)
        _, peer = await connect(Leaves(last))
        with peer:
            await peer.send(b"x" * 250)
            await last.until(250)
            assert last.data == b"x" * 250
        await last.lost

    run(main())


def test_recognised_through_a_proxy():
    class Proxy:
        def __init__(self, protocol):
            self.protocol = protocol

        def __getattr__(self, name):
            return getattr(self.protocol, name)

    async def main():
        protocol = Buffered()
        _, peer = await connect(Proxy(protocol))
        with peer:
            await peer.send(b"x")
            await protocol.until(1)
        await protocol.lost

    run(main())


def test_recognised_by_get_buffer_alone():
    class Duck:
        connection_made = Buffered.connection_made
        get_buffer = Buffered.get_buffer
        buffer_updated = Buffered.buffer_updated
        eof_received = Buffered.eof_received
        connection_lost = Buffered.connection_lost
        until = Buffered.until
        __init__ = Buffered.__init__

    async def main():
        protocol = Duck()
        _, peer = await connect(protocol)
        with peer:
            await peer.send(b"x")
            await protocol.until(1)
        await protocol.lost

    run(main())
