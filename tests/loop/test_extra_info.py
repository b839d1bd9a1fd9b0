"""get_extra_info of a TCP transport."""

import asyncio
import gc
import os
import socket

import pytest

import aiosupport
from aiosupport import open_descriptors, run, turns, until
from streamsupport import Events, connect, handle_of, tcp_pair
from uvtulip import uv
from uvtulip._transports import StreamTransport

ipv6 = pytest.mark.skipif(not aiosupport.has_ipv6(), reason="no IPv6 here")


@pytest.mark.parametrize(
    "family", [socket.AF_INET, pytest.param(socket.AF_INET6, marks=ipv6)]
)
def test_names(family):
    async def main():
        protocol = Events()
        transport, peer = await connect(protocol, family=family)
        with peer:
            sockname = peer.sock.getpeername()
            peername = peer.sock.getsockname()
            for _ in range(2):
                assert transport.get_extra_info("sockname") == sockname
                assert transport.get_extra_info("peername") == peername
            transport.close()
            await protocol.lost
            await turns()
            assert transport.get_extra_info("sockname") == sockname
            assert transport.get_extra_info("peername", "gone") == peername

    run(main())


def test_names_after_a_reset():
    """Never asked for while the connection was there."""

    async def main():
        protocol = Events()
        transport, peer = await connect(protocol)
        peername = peer.sock.getsockname()
        peer.reset()
        assert isinstance(await protocol.lost, ConnectionResetError)
        assert transport.get_extra_info("peername") == peername

    run(main())


def test_names_of_a_dead_connection():
    """Reset before the transport is made: asking the kernel fails."""

    async def main():
        loop = asyncio.get_running_loop()
        ours, theirs = tcp_pair()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        theirs.close()
        sockname = ours.getsockname()
        protocol = Events()
        transport = StreamTransport(loop, handle_of(ours), protocol)
        assert transport.get_extra_info("sockname") == sockname
        assert transport.get_extra_info("peername") is None
        assert isinstance(await protocol.lost, OSError)

    run(main())


def test_unknown_names_and_arguments():
    async def main():
        protocol = Events()
        transport, peer = await connect(protocol)
        with peer:
            assert transport.get_extra_info("nothing") is None
            assert transport.get_extra_info("nothing", 1) == 1
            assert transport.get_extra_info("nothing", default=2) == 2
            assert transport.get_extra_info(name="nothing", default=3) == 3
            assert transport.get_extra_info(5, 4) == 4
            with pytest.raises(TypeError):
                transport.get_extra_info()
            with pytest.raises(TypeError):
                transport.get_extra_info("a", "b", "c")
            transport.close()
            await protocol.lost

    run(main())


def test_extra():
    async def main():
        protocol = Events()
        extra = {"mine": [1], "peername": "overridden"}
        transport, peer = await connect(protocol, extra=extra)
        with peer:
            assert transport.get_extra_info("mine") is extra["mine"]
            assert transport.get_extra_info("peername") == "overridden"
            assert transport.get_extra_info("sockname") == peer.sock.getpeername()
            del extra["mine"]
            assert transport.get_extra_info("mine") == [1]
            transport.close()
            await protocol.lost
            assert transport.get_extra_info("mine") == [1]

    run(main())


def test_uv_handle():
    async def main():
        protocol = Events()
        transport, peer = await connect(protocol)
        with peer:
            handle = transport.get_extra_info("uv_handle")
            assert type(handle) is uv.TCP
            assert handle.loop is asyncio.get_running_loop().uv_loop
            assert handle.getpeername() == transport.get_extra_info("peername")
            # It answers and takes options; its events belong to the transport.
            handle.nodelay(False)
            for call in (lambda: handle.start_read(print), handle.stop_read):
                with pytest.raises(RuntimeError, match="transport"):
                    call()
            transport.close()
            await protocol.lost
            await turns()
            assert handle.closed
            await until(lambda: transport.get_extra_info("uv_handle") is None)
            assert transport.get_extra_info("uv_handle", 1) == 1

    run(main())


def test_socket():
    async def main():
        protocol = Events()
        transport, peer = await connect(protocol)
        with peer:
            sock = transport.get_extra_info("socket")
            assert transport.get_extra_info("socket") is sock
            assert sock.fileno() == transport.get_extra_info("uv_handle").fileno()
            assert sock.getpeername() == transport.get_extra_info("peername")
            assert sock.family == socket.AF_INET
            transport.close()
            await protocol.lost
            await turns()
            assert sock.fileno() == -1
            assert transport.get_extra_info("socket").fileno() == -1

    run(main())


def test_descriptor_is_closed_once():
    """A socket object that outlives its transport closes nobody's descriptor."""
    gc.collect()
    before = open_descriptors()

    async def main():
        protocol = Events()
        transport, peer = await connect(protocol)
        with peer:
            sock = transport.get_extra_info("socket")
            fd = sock.fileno()
            transport.close()
            await protocol.lost
            await turns()
            reused = os.dup(0)
            assert reused == fd
            del sock
            gc.collect()
            os.fstat(reused)
            os.close(reused)

    run(main())
    gc.collect()
    assert open_descriptors() == before


def test_socket_when_the_handle_is_closed_by_others():
    async def main():
        protocol = Events()
        transport, peer = await connect(protocol)
        with peer:
            sock = transport.get_extra_info("socket")
            transport.get_extra_info("uv_handle").close()
            await protocol.lost
            assert sock.fileno() == -1

    run(main())
