"""write, writelines and write_eof: order, ownership, one flush per callback."""

import array
import asyncio
import gc
import os
import socket
import sys

import pytest

import uvtulip
from aiosupport import LIMIT, run, turns
from streamsupport import Events, connect, fill


async def ended(transport, peer):
    """Close both; nothing may be left over."""
    protocol = transport.get_protocol()
    transport.close()
    await protocol.lost
    assert await peer.rest() == b""
    peer.close()


def test_bytes_like():
    async def main():
        transport, peer = await connect(Events())
        transport.write(b"bytes ")
        transport.write(bytearray(b"bytearray "))
        transport.write(memoryview(b"-view of bytes-")[1:-1])
        transport.write(memoryview(bytearray(b" view")))
        transport.write(memoryview(array.array("H", [0x3131, 0x3232])))
        transport.write(b"")
        transport.write(bytearray())
        transport.write(memoryview(b""))
        expected = b"bytes bytearray view of bytes view1122"
        assert await peer.exactly(len(expected)) == expected
        await ended(transport, peer)

    run(main())


@pytest.mark.parametrize("bad", ["text", 1, None, [b"x"], array.array("B", b"x")])
def test_wrong_type(bad):
    async def main():
        transport, peer = await connect(Events())
        name = type(bad).__name__
        message = f"data argument must be a bytes-like object, not '{name}'"
        with pytest.raises(TypeError) as caught:
            transport.write(bad)
        assert str(caught.value) == message
        with pytest.raises(TypeError):
            transport.writelines([b"queued?", bad])
        await ended(transport, peer)

    run(main())


def test_not_contiguous():
    async def main():
        transport, peer = await connect(Events())
        with pytest.raises(BufferError):
            transport.write(memoryview(b"abcdef")[::2])
        await ended(transport, peer)

    run(main())


def test_bytes_subclass():
    class Odd(bytes):
        def __len__(self):
            return 0

    async def main():
        transport, peer = await connect(Events())
        transport.write(Odd(b"abc"))
        assert await peer.exactly(3) == b"abc"
        await ended(transport, peer)

    run(main())


def test_one_flush_per_callback():
    """All that one callback writes leaves together, so it arrives together."""

    class Answers(Events):
        def data_received(self, data):
            for i in range(20):
                self.transport.write(b"%d," % i)
            self.transport.writelines(b"%d," % i for i in range(20, 40))

    async def main():
        transport, peer = await connect(Answers())
        expected = b"".join(b"%d," % i for i in range(40))
        for _ in range(10):
            await peer.send(b"?")
            assert await peer.recv() == expected
        await ended(transport, peer)

    run(main())


def test_nothing_is_sent_before_the_callback_returns():
    async def main():
        transport, peer = await connect(Events())
        transport.write(b"later")
        with pytest.raises(BlockingIOError):
            peer.sock.recv(1)
        await asyncio.sleep(0)
        assert await peer.exactly(5) == b"later"
        # Asking how much waits sends it.
        transport.write(b"now")
        assert transport.get_write_buffer_size() == 0
        assert peer.sock.recv(10) == b"now"
        # So does more than the high-water mark.
        transport.write(b"x" * 65536)
        transport.write(b"y")
        assert peer.sock.recv(1) == b"x"
        assert await peer.exactly(65536) == b"x" * 65535 + b"y"
        await ended(transport, peer)

    run(main())


def test_written_for_another_transport():
    """From inside the callback of another one, as a proxy does."""

    async def main():
        other, other_peer = await connect(Events())

        class Proxy(Events):
            def data_received(self, data):
                other.write(data)
                other.write(data)

        transport, peer = await connect(Proxy())
        await peer.send(b"abc")
        assert await other_peer.exactly(6) == b"abcabc"
        await ended(transport, peer)
        await ended(other, other_peer)

    run(main())


def test_written_while_the_loop_does_not_run():
    loop = uvtulip.new_event_loop()

    async def start():
        return await connect(Events())

    transport, peer = loop.run_until_complete(start())
    transport.write(b"at once")
    peer.sock.settimeout(LIMIT)
    assert peer.sock.recv(100) == b"at once"

    async def finish():
        peer.sock.setblocking(False)
        await ended(transport, peer)

    loop.run_until_complete(finish())
    loop.close()


def test_written_before_the_loop_stops():
    loop = uvtulip.new_event_loop()

    async def start():
        transport, peer = await connect(asyncio.Protocol())
        transport.write(b"x")
        return transport, peer

    transport, peer = loop.run_until_complete(start())
    peer.sock.settimeout(LIMIT)
    assert peer.sock.recv(100) == b"x"
    loop.call_soon(transport.write, b"y")
    loop.call_soon(transport.close)
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert peer.sock.recv(100) == b"y"
    loop.run_until_complete(turns())
    loop.close()
    peer.close()


# ---- ownership ----


@pytest.mark.parametrize("size", [10, 16384, 16385, 100000, 4 << 20])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("view", [False, True])
def test_buffers_may_change_after_write(size, full, view):
    """Neither what is sent changes, nor does resizing raise BufferError."""

    async def main():
        transport, peer = await connect(Events())
        before = fill(transport) if full else 0
        data = bytearray(os.urandom(size))
        copy = bytes(data)
        if view:
            with memoryview(data) as exported:
                transport.write(exported)
                transport.writelines([exported])
        else:
            transport.write(data)
            transport.writelines([data])
        data[:] = b"changed"
        data.extend(b"!" * size)
        await peer.exactly(before)
        assert await peer.exactly(size) == copy
        assert await peer.exactly(size) == copy
        await ended(transport, peer)

    run(main())


def test_buffers_may_be_resized_in_pause_writing():
    async def main():
        protocol = Events()
        transport, peer = await connect(protocol)
        data = bytearray(8 << 20)
        protocol.pause_writing = data.clear
        transport.write(data)
        assert not data
        await peer.exactly(8 << 20)
        await ended(transport, peer)

    run(main())


def test_bytes_are_not_copied_and_let_go():
    async def main():
        transport, peer = await connect(Events())
        total = fill(transport)
        piece = os.urandom(1000)
        start = sys.getrefcount(piece)
        transport.write(piece)
        transport.write(memoryview(piece)[10:])
        transport.writelines([piece, piece])
        assert sys.getrefcount(piece) == start + 4
        await peer.exactly(total)
        assert await peer.exactly(3990) == piece + piece[10:] + piece + piece
        await turns()
        while sys.getrefcount(piece) != start:
            await asyncio.sleep(0.001)
        await ended(transport, peer)

    run(main())


def test_pieces_are_let_go_on_abort():
    async def main():
        protocol = Events()
        transport, peer = await connect(protocol)
        fill(transport)
        piece = os.urandom(1000)
        start = sys.getrefcount(piece)
        for _ in range(10):
            transport.write(piece)
        transport.abort()
        assert sys.getrefcount(piece) == start
        await protocol.lost
        peer.close()

    run(main())


# ---- much ----


def test_more_pieces_than_one_call_takes():
    async def main():
        transport, peer = await connect(Events())
        pieces = [b"%d;" % i for i in range(5000)]
        expected = b"".join(pieces)
        transport.writelines(pieces)
        assert await peer.exactly(len(expected)) == expected
        for piece in pieces:
            transport.write(piece)
        assert await peer.exactly(len(expected)) == expected
        # The same while something else is under way.
        total = fill(transport)
        transport.writelines(pieces)
        await peer.exactly(total)
        assert await peer.exactly(len(expected)) == expected
        await ended(transport, peer)

    run(main())


def test_pieces_larger_than_the_kernel_takes():
    async def main():
        transport, peer = await connect(Events())
        pieces = [os.urandom(300_000 + i) for i in range(40)]
        expected = b"".join(pieces)
        transport.writelines(pieces[:20])
        for piece in pieces[20:]:
            transport.write(piece)
        assert transport.get_write_buffer_size() > 0
        assert await peer.exactly(len(expected)) == expected
        await ended(transport, peer)

    run(main())


def test_order_of_small_and_large():
    async def main():
        transport, peer = await connect(Events())
        expected = bytearray()
        for i in range(300):
            data = bytes([i % 256]) * (i * i * 7 % 100_000)
            kind = (bytes, bytearray, memoryview)[i % 3]
            transport.write(kind(data))
            expected += data
            if i % 50 == 0:
                await asyncio.sleep(0)
        assert await peer.exactly(len(expected)) == expected
        await ended(transport, peer)

    run(main())


def test_many_small_pieces_among_others():
    """Small ones are copied together from the ninth on; the order stays."""

    async def main():
        transport, peer = await connect(Events())
        expected = bytearray()
        sizes = [1, 100, 256, 257, 3, 1000, 255, 20000, 16, 0, 90]
        for full in (False, True):
            if full:
                total = fill(transport)
            for i in range(1500):
                data = bytes([i % 251]) * sizes[i % len(sizes)]
                expected += data
                transport.write((bytes, bytearray, memoryview)[i % 3](data))
                if i % 100 == 50:
                    lines = [bytes([j]) * (j % 40) for j in range(200)]
                    transport.writelines(lines)
                    expected += b"".join(lines)
                    transport.writelines(map(bytearray, lines))
                    expected += b"".join(lines)
            if full:
                await peer.exactly(total)
            assert await peer.exactly(len(expected)) == expected
            expected.clear()
        await ended(transport, peer)

    run(main())


# ---- writelines ----


def test_writelines():
    async def main():
        transport, peer = await connect(Events())
        transport.writelines([])
        transport.writelines([b"a"])
        mixed = [b"b", bytearray(b"c"), memoryview(b"d"), b""]
        transport.writelines(mixed)
        mixed[1].extend(b"!")
        mixed.clear()
        transport.writelines(bytes([c]) for c in b"efg")
        transport.writelines([b"", b"h", b""])
        assert await peer.exactly(8) == b"abcdefgh"
        with pytest.raises(TypeError):
            transport.writelines(1)
        with pytest.raises(TypeError):
            transport.writelines(None)
        await ended(transport, peer)

    run(main())


# ---- write_eof ----


def test_write_eof():
    async def main():
        protocol = Events()
        transport, peer = await connect(protocol)
        assert transport.can_write_eof() is True
        transport.write(b"last")
        transport.write_eof()
        transport.write_eof()
        assert await peer.rest() == b"last"
        assert not transport.is_closing()
        with pytest.raises(RuntimeError) as caught:
            transport.write(b"more")
        assert str(caught.value) == "Cannot call write() after write_eof()"
        with pytest.raises(RuntimeError) as caught:
            transport.writelines([b"more"])
        assert str(caught.value) == "Cannot call writelines() after write_eof()"
        await peer.send(b"still reading")
        await protocol.until(13)
        peer.close()
        assert await protocol.lost is None

    run(main())


def test_write_eof_after_much_data():
    async def main():
        protocol = Events()
        transport, peer = await connect(protocol)
        data = os.urandom(8 << 20)
        transport.write(data)
        transport.write_eof()
        assert transport.get_write_buffer_size() > 0
        assert await peer.rest() == data
        assert not transport.is_closing()
        peer.close()
        assert await protocol.lost is None

    run(main())


def test_write_eof_then_close():
    async def main():
        protocol = Events()
        transport, peer = await connect(protocol)
        data = os.urandom(8 << 20)
        transport.write(data)
        transport.write_eof()
        transport.close()
        transport.write_eof()
        assert await peer.rest() == data
        assert await protocol.lost is None
        peer.close()

    run(main())


# ---- errors ----


def test_writing_to_a_lost_connection(caplog):
    async def main():
        protocol = Events()
        transport, peer = await connect(protocol)
        transport.abort()
        await protocol.lost
        for _ in range(4):
            transport.write(b"x")
            transport.write(b"")
        assert not caplog.records
        transport.write(bytearray(b"x"))
        transport.writelines([b"x"])
        assert [r.getMessage() for r in caplog.records] == [
            "socket.send() raised exception."
        ] * 2
        with pytest.raises(TypeError):
            transport.write("x")
        peer.close()

    run(main())


def test_write_error_is_not_reported():
    async def main():
        protocol = Events()
        transport, peer = await connect(protocol)
        transport.pause_reading()  # The write has to find out.
        peer.reset()
        await asyncio.sleep(0.01)
        transport.write(b"x")
        error = await protocol.lost
        assert isinstance(error, (ConnectionResetError, BrokenPipeError))
        assert protocol.events == ["made", "lost"]

    run(main())


def test_reset_while_data_waits():
    async def main():
        protocol = Events()
        transport, peer = await connect(protocol)
        fill(transport)
        transport.write(b"x" * 1000)
        peer.reset()
        assert isinstance(await protocol.lost, OSError)
        assert transport.get_write_buffer_size() == 0

    run(main())


def test_transport_dropped_with_a_request_under_way():
    """The loop is closed while libuv still owns memory of ours."""

    async def main():
        transport, peer = await connect(asyncio.Protocol())
        transport.write(b"x" * (16 << 20))
        transport.write(b"y" * 100)
        transport.write(b"z" * 100)
        return peer

    loop = uvtulip.new_event_loop()
    peer = loop.run_until_complete(main())
    with pytest.warns(ResourceWarning, match="unclosed transport"):
        loop.close()
        del loop
        gc.collect()
    peer.sock.settimeout(LIMIT)
    assert peer.sock.recv(1) in (b"x", b"")
    peer.close()


def test_shutdown_of_an_unread_connection():
    """write_eof on a connection that the peer has reset raises nothing."""

    async def main():
        protocol = Events()
        transport, peer = await connect(protocol)
        transport.pause_reading()
        peer.reset()
        await asyncio.sleep(0.01)
        transport.write_eof()
        await turns()
        transport.resume_reading()
        error = await protocol.lost
        assert error is None or isinstance(error, OSError)

    run(main())


def test_nothing_lingers_in_the_kernel():
    """Small answers are not held back for the client's acknowledgement."""

    async def main():
        transport, peer = await connect(Events())
        sock = transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        await ended(transport, peer)

    run(main())
