"""connect_uv_handle(): a raw handle that is connected becomes a transport."""

import asyncio
import socket

import pytest

import uvtulip
from aiosupport import Recorder, run, turns, until
from uvtulip import uv

pytestmark = pytest.mark.usefixtures("no_leak")


def opened(kind, loop):
    """A handle of the kind with a descriptor of its own, and its other end."""
    ours, peer = socket.socketpair()
    handle = kind(loop.uv_loop)
    handle.open(ours.detach())
    peer.setblocking(False)
    return handle, peer


async def converse(transport, protocol, peer):
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(peer, b"ping")
    await until(lambda: bytes(protocol.data) == b"ping")
    transport.write(b"pong")
    assert await loop.sock_recv(peer, 100) == b"pong"


@pytest.mark.parametrize("kind", [uv.TCP, uv.Pipe])
def test_opened_handle(kind):
    async def main():
        loop = asyncio.get_running_loop()
        handle, peer = opened(kind, loop)
        with peer:
            transport, protocol = await loop.connect_uv_handle(Recorder, handle)
            assert type(protocol) is Recorder and protocol.transport is transport
            assert transport.get_extra_info("uv_handle") is handle
            await converse(transport, protocol, peer)
            for call, args in (handle.start_read, [print]), (handle.write, [b"x"]):
                with pytest.raises(RuntimeError):
                    call(*args)
            transport.close()
            assert await loop.sock_recv(peer, 100) == b""
        await until(lambda: handle.closed)
        await turns()

    run(main())


@pytest.mark.parametrize("where", ["tcp", "pipe"])
def test_accepted_and_connected_handles(where, tmp_path):
    async def main():
        loop = asyncio.get_running_loop()
        kind = uv.TCP if where == "tcp" else uv.Pipe
        server, client = kind(loop.uv_loop), kind(loop.uv_loop)
        accepted, connected = loop.create_future(), loop.create_future()

        def on_connection(server, error):
            handle = kind(loop.uv_loop)
            server.accept(handle)
            accepted.set_result(handle)

        name = ("127.0.0.1", 0) if where == "tcp" else str(tmp_path / "sock")
        server.bind(name)
        server.listen(on_connection)
        client.connect(server.getsockname(), lambda _, rc: connected.set_result(rc))
        assert await connected is None
        one, left = await loop.connect_uv_handle(Recorder, await accepted)
        two, right = await loop.connect_uv_handle(Recorder, client)
        one.write(b"to the right")
        two.write(b"to the left")
        await until(lambda: left.data and right.data)
        assert (left.data, right.data) == (b"to the left", b"to the right")
        one.close()
        await until(lambda: right.lost)
        server.close()
        await turns()

    run(main())


def test_handle_that_came_over_a_pipe():
    async def main():
        loop = asyncio.get_running_loop()
        ends = socket.socketpair()
        sender, receiver = uv.Pipe(loop.uv_loop, True), uv.Pipe(loop.uv_loop, True)
        sender.open(ends[0].detach())
        receiver.open(ends[1].detach())
        arrived = loop.create_future()

        def on_read(pipe, data, error):
            handle = uv.TCP(loop.uv_loop)
            pipe.accept(handle)
            arrived.set_result(handle)

        with socket.create_server(("127.0.0.1", 0)) as listener:
            peer = socket.create_connection(listener.getsockname())
            peer.setblocking(False)
            sent = uv.TCP(loop.uv_loop)
            accepted, _ = listener.accept()
            sent.open(accepted.detach())
        receiver.start_read(on_read)
        sender.write(b"x", lambda pipe, error: sent.close(), sent)
        with peer:
            transport, protocol = await loop.connect_uv_handle(
                Recorder, await arrived
            )
            assert transport.get_extra_info("peername") == peer.getsockname()
            await converse(transport, protocol, peer)
            transport.close()
            await turns()
        sender.close()
        receiver.close()
        await turns()

    run(main())


def test_what_was_written_before_leaves_first():
    async def main():
        loop = asyncio.get_running_loop()
        handle, peer = opened(uv.TCP, loop)
        first = b"1" * 3_000_000
        done = []
        with peer:
            handle.write(first, lambda handle, error: done.append(error))
            transport, _ = await loop.connect_uv_handle(Recorder, handle)
            transport.write(b"2")
            transport.write_eof()
            seen = bytearray()
            while data := await loop.sock_recv(peer, 1 << 20):
                seen += data
            assert seen == first + b"2"
            assert done == [None]
            transport.close()
        await turns()

    run(main())


def test_refused_handles_stay_as_they_were():
    async def main():
        loop = asyncio.get_running_loop()
        made = []

        def factory():
            made.append(1)
            return Recorder()

        async def refused(kind, handle, match=None):
            with pytest.raises(kind, match=match):
                await loop.connect_uv_handle(factory, handle)

        for bad in None, 5, uv.Timer(loop.uv_loop), uv.UDP(loop.uv_loop):
            await refused(TypeError, bad)
        await refused(RuntimeError, uv.TCP.__new__(uv.TCP))

        fresh = uv.TCP(loop.uv_loop)
        await refused(ValueError, fresh, "not connected")
        fresh.bind(("127.0.0.1", 0))
        fresh.listen(print)
        await refused(ValueError, fresh, "not connected")
        assert fresh.active
        fresh.close()
        await refused(uv.error.HandleClosedError, fresh)
        await turns()
        await refused(uv.error.HandleClosedError, fresh)

        other = uv.Loop()
        foreign = uv.TCP(other)
        ours, peer = socket.socketpair()
        with peer:
            foreign.open(ours.detach())
            await refused(ValueError, foreign, "another loop")
            foreign.close()
            other.run()
        other.close()
        assert made == []

        handle, peer = opened(uv.TCP, loop)
        with peer:
            seen = []
            handle.start_read(lambda handle, data, error: seen.append(data))
            await refused(RuntimeError, handle)
            await loop.sock_sendall(peer, b"x")
            await until(lambda: seen == [b"x"])
            handle.stop_read()
            transport, _ = await loop.connect_uv_handle(Recorder, handle)
            await refused(RuntimeError, handle)
            transport.close()
            await until(lambda: handle.closed)
            await refused(uv.error.HandleClosedError, handle)
        await turns()

    run(main())


def test_factory_that_raises():
    def factory():
        raise ZeroDivisionError

    async def main():
        loop = asyncio.get_running_loop()
        handle, peer = opened(uv.Pipe, loop)
        with peer:
            with pytest.raises(ZeroDivisionError):
                await loop.connect_uv_handle(factory, handle)
            assert not handle.closed
            transport, _ = await loop.connect_uv_handle(Recorder, handle)
            transport.close()
        await turns()

    run(main())


def test_cancelled():
    async def main():
        loop = asyncio.get_running_loop()
        handle, peer = opened(uv.TCP, loop)
        with peer:
            task = asyncio.create_task(loop.connect_uv_handle(Recorder, handle))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await loop.sock_recv(peer, 1) == b""
        await until(lambda: handle.closed)
        await turns()

    run(main())


def test_closed_loop():
    loop = uvtulip.new_event_loop()
    handle = uv.TCP(loop.uv_loop)
    loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        loop.connect_uv_handle(Recorder, handle).send(None)


def test_streams_work_on_it():
    async def main():
        loop = asyncio.get_running_loop()
        handle, peer = opened(uv.TCP, loop)
        reader = asyncio.StreamReader()
        with peer:
            transport, protocol = await loop.connect_uv_handle(
                lambda: asyncio.StreamReaderProtocol(reader), handle
            )
            writer = asyncio.StreamWriter(transport, protocol, reader, loop)
            await loop.sock_sendall(peer, b"a line\n")
            assert await reader.readline() == b"a line\n"
            writer.write(b"answer")
            await writer.drain()
            assert await loop.sock_recv(peer, 100) == b"answer"
            writer.close()
            await writer.wait_closed()
        await turns()

    run(main())
