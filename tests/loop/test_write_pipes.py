"""connect_write_pipe(): flow control, the end, and the reader that goes away."""

import asyncio
import errno
import logging
import os
import socket

import pytest

from aiosupport import open_descriptors, run, turns, until
from pipesupport import pipe_objects, reader, writer

BIG = 4 << 20


pytestmark = pytest.mark.usefixtures("no_leak")


async def drain(fd, count):
    """That many bytes of a descriptor, read as they come."""
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(None, read_exactly, fd, count)


def read_exactly(fd, count):
    data = bytearray()
    os.set_blocking(fd, True)
    while len(data) < count:
        more = os.read(fd, count - len(data))
        assert more, f"the end after {len(data)} of {count} bytes"
        data += more
    return bytes(data)


# ---- writing ----


def test_writes():
    async def main():
        theirs, file = pipe_objects()
        transport, protocol = await writer(file)
        assert isinstance(transport, asyncio.WriteTransport)
        assert isinstance(transport, asyncio.Transport)
        assert transport.get_extra_info("pipe") is file
        assert transport.can_write_eof()
        transport.write(b"bytes ")
        transport.write(bytearray(b"array "))
        transport.write(memoryview(b"view "))
        transport.write(b"")
        transport.writelines([b"li", bytearray(b"ne"), memoryview(b"s")])
        with theirs:
            assert await drain(theirs.fileno(), 22) == b"bytes array view lines"
            assert transport.get_write_buffer_size() == 0
            transport.close()
            assert transport.is_closing()
            assert await protocol.lost is None
            assert protocol.events == ["made", "lost"]
            assert theirs.read() == b""
        assert file.closed
        assert "closed" in repr(transport)

    run(main())


@pytest.mark.parametrize("way", ["close", "write_eof"])
def test_the_rest_is_sent_before_the_end(way):
    async def main():
        theirs, file = pipe_objects()
        transport, protocol = await writer(file)
        data = os.urandom(BIG)
        transport.write(data)
        assert 0 < transport.get_write_buffer_size() < BIG
        getattr(transport, way)()
        assert transport.is_closing()
        getattr(transport, way)()
        transport.write(b"lost")
        transport.writelines([b"lost", b"too"])
        with theirs:
            assert await drain(theirs.fileno(), BIG) == data
            assert theirs.read() == b""
        assert await protocol.lost is None
        assert protocol.events == ["made", "pause", "resume", "lost"]

    run(main())


def test_abort_drops_the_rest():
    async def main():
        theirs, file = pipe_objects()
        with theirs:
            transport, protocol = await writer(file)
            transport.write(bytes(BIG))
            size = BIG - transport.get_write_buffer_size()
            transport.abort()
            transport.abort()
            assert await protocol.lost is None
            await turns()
            assert len(theirs.readall()) == size

    run(main())


def test_flow_control():
    async def main():
        theirs, file = pipe_objects()
        transport, protocol = await writer(file)
        transport.set_write_buffer_limits(high=100, low=10)
        assert transport.get_write_buffer_limits() == (10, 100)
        with theirs:
            total = 0
            while "pause" not in protocol.events:
                transport.write(bytes(1000))
                total += 1000
            await drain(theirs.fileno(), total)
            await until(lambda: "resume" in protocol.events)
            assert transport.get_write_buffer_size() == 0
            transport.close()
            await protocol.lost

    run(main())


def test_buffers_may_change_after_the_write():
    async def main():
        theirs, file = pipe_objects()
        transport, protocol = await writer(file)
        data = bytearray(os.urandom(BIG))
        expected = bytes(data)
        transport.write(data)
        data[:] = bytes(len(data))
        data.clear()
        small = bytearray(b"small")
        transport.write(small)
        small.extend(b" no more")
        with theirs:
            got = await drain(theirs.fileno(), BIG + 5)
            assert got == expected + b"small"
            transport.close()
            await protocol.lost

    run(main())


def test_one_write_for_many_pieces():
    """What a callback writes leaves together: a reader of the other end gets it
    in one piece."""

    async def main():
        theirs, file = pipe_objects()
        transport, protocol = await writer(file)
        with theirs:
            for i in range(50):
                transport.write(b"%02d" % i)
            assert transport.get_write_buffer_size() == 0
            assert theirs.read(1000) == b"".join(b"%02d" % i for i in range(50))
            transport.close()
            await protocol.lost

    run(main())


@pytest.mark.parametrize("data", ["text", None, 1, [b"x"]])
def test_wrong_data(data):
    async def main():
        theirs, file = pipe_objects()
        with theirs:
            transport, protocol = await writer(file)
            with pytest.raises(TypeError):
                transport.write(data)
            transport.close()
            await protocol.lost

    run(main())


def test_lost_writes_are_logged(caplog):
    async def main():
        theirs, file = pipe_objects()
        transport, protocol = await writer(file)
        with theirs:
            transport.abort()
            for _ in range(4):
                transport.write(b"x")
            assert caplog.text == ""
            for _ in range(2):
                transport.write(b"x")
            assert "pipe closed by peer or os.write(pipe, data) raised" in caplog.text
            await protocol.lost

    run(main())


# ---- the reader goes away ----


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_reader_closes_while_idle(kind, caplog):
    async def main():
        asyncio.get_running_loop().set_debug(True)
        if kind == "pipe":
            theirs, file = pipe_objects()
        else:
            file, theirs = socket.socketpair()
        transport, protocol = await writer(file)
        transport.write(b"x")
        await asyncio.sleep(0.01)
        assert protocol.events == ["made"]
        theirs.close()
        assert await protocol.lost is None
        await turns()
        assert "was closed by peer" in caplog.text

    caplog.set_level(logging.DEBUG, "asyncio")
    run(main())


def test_reader_closes_while_data_waits():
    async def main():
        theirs, file = pipe_objects()
        transport, protocol = await writer(file)
        transport.write(bytes(BIG))
        theirs.close()
        assert isinstance(await protocol.lost, BrokenPipeError)
        assert transport.get_write_buffer_size() == 0

    run(main())


def test_reader_is_gone_already():
    async def main():
        theirs, file = pipe_objects()
        theirs.close()
        transport, protocol = await writer(file)
        assert await protocol.lost is None
        transport.write(b"silent")

    run(main())


def test_write_error():
    async def main():
        theirs, file = pipe_objects()
        transport, protocol = await writer(file)
        theirs.close()
        transport.write(b"x")
        assert transport.get_write_buffer_size() == 0
        assert isinstance(await protocol.lost, BrokenPipeError)

    run(main())


def test_no_descriptor_left_to_watch_the_reader():
    """It is told; the transport works, and notices by its writes."""
    import resource

    async def main():
        contexts = []
        asyncio.get_running_loop().set_exception_handler(
            lambda loop, context: contexts.append(context)
        )
        theirs, file = pipe_objects()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(open_descriptors()) + 1, hard))
        holes = []
        try:
            with pytest.raises(OSError) as caught:
                while True:
                    holes.append(os.open(os.devnull, os.O_RDONLY))
            assert caught.value.errno == errno.EMFILE
            with pytest.raises(OSError) as caught:
                await writer(file)
            assert caught.value.errno == errno.EMFILE
            os.close(holes.pop())
            transport, protocol = await writer(file)
            await turns()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for fd in holes:
                os.close(fd)
        assert [c["message"] for c in contexts] == [
            "A pipe cannot notice that its reader is gone"
        ]
        assert contexts[0]["exception"].errno == errno.EMFILE
        transport.write(b"x")
        assert await drain(theirs.fileno(), 1) == b"x"
        theirs.close()
        transport.write(b"y")
        assert isinstance(await protocol.lost, BrokenPipeError)

    run(main())


def test_what_a_socket_gets_is_no_end():
    async def main():
        file, theirs = socket.socketpair()
        with theirs:
            transport, protocol = await writer(file)
            theirs.sendall(b"chatter")
            await asyncio.sleep(0.02)
            assert protocol.events == ["made"]
            transport.write(b"still here")
            assert transport.get_write_buffer_size() == 0
            assert theirs.recv(100) == b"still here"
            transport.close()
            await protocol.lost

    run(main())


def test_fifo_open_both_ways_is_not_closed_by_its_own_data(tmp_path):
    path = tmp_path / "fifo"
    os.mkfifo(path)

    async def main():
        file = open(os.open(path, os.O_RDWR), "r+b", 0)
        transport, protocol = await writer(file)
        transport.write(b"own data")
        await asyncio.sleep(0.02)
        assert protocol.events == ["made"]
        reading, other = await reader(open(path, "rb", 0))
        assert await other.until(8) == b"own data"
        transport.close()
        assert await protocol.lost is None
        assert await other.lost is None

    run(main())
