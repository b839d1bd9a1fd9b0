"""Who owns the file objects and descriptors of pipe transports."""

import asyncio
import gc
import os
import weakref

import pytest

import uvtulip
from aiosupport import run, turns, until
from pipesupport import pipe_objects, reader, writer

pytestmark = pytest.mark.usefixtures("no_leak")


def test_descriptor_is_made_non_blocking():
    async def main():
        file, theirs = pipe_objects()
        assert os.get_blocking(file.fileno())
        transport, protocol = await reader(file)
        assert not os.get_blocking(file.fileno())
        assert os.get_blocking(theirs.fileno())
        transport.close()
        theirs.close()
        await protocol.lost

    run(main())


def test_file_closed_by_somebody_else():
    """Harmless: the handle has a descriptor of its own."""

    async def main():
        reading, writing = pipe_objects()
        read_end, received = await reader(reading)
        write_end, sent = await writer(writing)
        reading.close()
        writing.close()
        others = [os.open(os.devnull, os.O_RDONLY) for _ in range(2)]
        write_end.write(b"still connected")
        assert await received.until(15) == b"still connected"
        write_end.close()
        assert await received.lost is None
        await sent.lost
        await turns()
        for fd in others:
            os.close(fd)  # Nobody else has closed them.

    run(main())


def test_handle_closed_by_somebody_else():
    async def main():
        for make, index in (reader, 0), (writer, 1):
            pair = pipe_objects()
            transport, protocol = await make(pair[index])
            transport.get_extra_info("uv_handle").close()
            assert isinstance(await protocol.lost, ConnectionAbortedError)
            await turns()
            assert pair[index].closed
            pair[1 - index].close()

    run(main())


def test_factory_raises():
    def factory():
        raise ZeroDivisionError

    async def main():
        loop = asyncio.get_running_loop()
        reading, writing = pipe_objects()
        with reading, writing:
            with pytest.raises(ZeroDivisionError):
                await loop.connect_read_pipe(factory, reading)
            with pytest.raises(ZeroDivisionError):
                await loop.connect_write_pipe(factory, writing)
            writing.write(b"untouched")
            assert reading.read(100) == b"untouched"

    run(main())


@pytest.mark.parametrize("wait", range(3))
@pytest.mark.parametrize("make", [reader, writer])
def test_cancelled(make, wait):
    async def main():
        loop = asyncio.get_running_loop()
        pair = pipe_objects()
        file = pair[make is writer]
        task = loop.create_task(make(file))
        await turns(wait)
        if task.cancel():
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            task.result()[0].close()
        await turns(8)
        if wait:
            assert file.closed
        for each in pair:
            each.close()

    run(main())


def test_close_that_fails_is_told(monkeypatch):
    told = []
    monkeypatch.setattr("sys.unraisablehook", told.append)

    class Wrapper:
        def __init__(self, file):
            self.file = file
            self.fileno = file.fileno

        def close(self):
            self.file.close()
            raise ZeroDivisionError

    async def main():
        file, theirs = pipe_objects()
        transport, protocol = await reader(Wrapper(file))
        theirs.close()
        await protocol.lost
        await turns()
        assert file.closed
        assert [t.exc_type for t in told] == [ZeroDivisionError]
        told.clear()

    run(main())


@pytest.mark.parametrize("index", [0, 1])
def test_unclosed(index):
    loop = uvtulip.new_event_loop()
    pair = pipe_objects()
    connect = [loop.connect_read_pipe, loop.connect_write_pipe][index]
    transport, protocol = loop.run_until_complete(
        connect(asyncio.Protocol, pair[index])
    )
    loop.close()
    assert "open" in repr(transport)
    assert pair[index].closed
    pair[1 - index].close()
    with pytest.warns(ResourceWarning, match="unclosed transport <.*PipeTransport"):
        del transport
        gc.collect()


def test_garbage():
    async def main():
        file, theirs = pipe_objects()
        transport, protocol = await writer(file)
        gone = weakref.ref(transport), weakref.ref(protocol), weakref.ref(file)
        handle = transport.get_extra_info("uv_handle")
        transport.close()
        await protocol.lost
        theirs.close()
        del transport, protocol, file
        uv_loop = asyncio.get_running_loop().uv_loop
        await until(lambda: handle not in uv_loop.handles)
        gc.collect()
        assert [ref() for ref in gone] == [None, None, None]

    run(main())
