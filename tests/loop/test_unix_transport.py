"""StreamTransport over a uv.Pipe: UNIX sockets, and what listens for them."""

import asyncio
import os
import socket
import sys

import pytest

from aiosupport import Echo, run, turns, until
from streamsupport import Events, Peer, connect, fill
from uvtulip import uv
from uvtulip._transports import Server, StreamTransport

linux = pytest.mark.skipif(sys.platform != "linux", reason="abstract names")


def bound(name):
    """A raw handle for a listening socket of that name."""
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(name)
    handle = uv.Pipe(asyncio.get_running_loop().uv_loop)
    handle.open(sock.detach())
    return handle


async def dial(name, own=None):
    sock = socket.socket(socket.AF_UNIX)
    sock.setblocking(False)
    if own is not None:
        sock.bind(own)
    await asyncio.get_running_loop().sock_connect(sock, name)
    return Peer(sock)


def test_both_directions_and_the_end():
    async def main():
        protocol = Events()
        transport, peer = await connect(protocol, family=socket.AF_UNIX)
        assert isinstance(transport, asyncio.Transport)
        transport.write(b"there")
        transport.writelines([b" and", bytearray(b" "), memoryview(b"back")])
        assert await peer.exactly(14) == b"there and back"
        await peer.send(b"again")
        assert await protocol.until(5) == b"again"
        transport.write_eof()
        assert await peer.rest() == b""
        peer.close()
        assert await protocol.lost is None
        assert protocol.events == ["made", "data", "eof", "lost"]

    run(main())


def test_much_data_both_ways():
    async def main():
        protocol = Events()
        transport, peer = await connect(protocol, family=socket.AF_UNIX)
        with peer:
            total = fill(transport)
            data = os.urandom(1 << 20)
            transport.write(data)
            assert "pause" in protocol.events
            assert (await peer.exactly(total + len(data)))[total:] == data
            await until(lambda: "resume" in protocol.events)
            sending = asyncio.create_task(peer.send(data))
            assert await protocol.until(len(data)) == data
            await sending
            transport.close()
            await protocol.lost

    run(main())


def test_names_of_a_pair():
    async def main():
        transport, peer = await connect(Events(), family=socket.AF_UNIX)
        with peer:
            assert transport.get_extra_info("sockname") == ""
            assert transport.get_extra_info("peername") == ""
            shown = transport.get_extra_info("socket")
            assert (shown.family, shown.type) == (socket.AF_UNIX, socket.SOCK_STREAM)
            transport.close()
            await turns()
            assert transport.get_extra_info("sockname") == ""

    run(main())


@pytest.mark.parametrize("own", ["path", "abstract", None])
@pytest.mark.parametrize("listening", ["path", "abstract"])
@linux
def test_names_of_accepted_connections(listening, own, tmp_path, no_leak):
    def name(kind, number):
        if kind == "path":
            return str(tmp_path / number)
        return kind and b"\0uvtulip-%d-%s" % (os.getpid(), number.encode())

    async def main():
        server = Server(
            asyncio.get_running_loop(), Echo, [bound(name(listening, "1"))], 10
        )
        server._start()
        for _ in range(2):
            with await dial(name(listening, "1"), name(own, "2")) as peer:
                await peer.send(b"hello")
                assert await peer.exactly(5) == b"hello"
                (transport,) = server._clients()
                assert transport.get_extra_info("sockname") == name(listening, "1")
                assert transport.get_extra_info("peername") == (name(own, "2") or "")
                assert type(transport.get_extra_info("uv_handle")) is uv.Pipe
            await until(lambda: not server._active)
            if own == "path":
                os.unlink(name(own, "2"))
        server._stop()

    run(main())


def test_fifo_opened_by_hand(tmp_path, no_leak):
    """A stream in both directions that is no socket."""
    os.mkfifo(tmp_path / "fifo")

    async def main():
        loop = asyncio.get_running_loop()
        handle = uv.Pipe(loop.uv_loop)
        handle.open(os.open(tmp_path / "fifo", os.O_RDWR))
        protocol = Events()
        transport = StreamTransport(loop, handle, protocol)
        for name in "socket", "sockname", "peername":
            assert transport.get_extra_info(name) is None
        transport.write(b"to myself")
        assert await protocol.until(9) == b"to myself"
        transport.close()
        assert await protocol.lost is None

    run(main())


def test_other_handles_are_refused():
    async def main():
        loop = asyncio.get_running_loop()
        timer = uv.Timer(loop.uv_loop)
        with pytest.raises(TypeError, match="expected a TCP or Pipe handle, got"):
            StreamTransport(loop, timer, Events())
        with pytest.raises(TypeError, match="expected a TCP or Pipe handle, got"):
            Server(loop, Events, [timer], 1)
        timer.close()
        unconnected = uv.Pipe(loop.uv_loop)
        with pytest.raises(ValueError, match="not connected"):
            StreamTransport(loop, unconnected, Events())
        unconnected.close()

    run(main())
