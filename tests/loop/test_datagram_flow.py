"""Datagrams that the kernel does not take at once: waiting, limits, the end."""

import asyncio
import contextvars
import errno
import gc
import os
import socket
import sys
import time

import pytest

import uvtulip
from aiosupport import run, turns, until
from datagramsupport import Datagrams, close, endpoint, received, udp_socket
from uvtulip import uv
from uvtulip._transports import DatagramTransport

HEADER = 8 if sys.version_info >= (3, 13) else 0


pytestmark = pytest.mark.usefixtures("no_leak")


def unix_peer(path):
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(path)
    sock.setblocking(False)
    return sock


async def over_udp_handle(factory, path):
    """Sockets of UDP hardly ever fill, those of UNIX do; to libuv they are alike."""
    loop = asyncio.get_running_loop()
    handle = uv.UDP(loop.uv_loop)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect(path)
        handle.open(sock.fileno())
        sock.detach()
    protocol, waiter = factory(), loop.create_future()
    transport = DatagramTransport(loop, handle, protocol, None, waiter)
    await waiter
    return transport, protocol


async def unconnected(factory, path):
    own = f"\0uvtulip-{os.getpid()}-full"
    transport, protocol = await endpoint(
        factory, family=socket.AF_UNIX, local_addr=own
    )
    sendto = transport.sendto
    transport.sendto = lambda data: sendto(data, path)
    return transport, protocol


async def connected(factory, path):
    return await endpoint(factory, family=socket.AF_UNIX, remote_addr=path)


@pytest.fixture(params=[connected, unconnected, over_udp_handle])
def full(request, tmp_path):
    """Makes an endpoint whose peer takes no more: (transport, protocol, how many
    datagrams that took)."""
    path = str(tmp_path / "peer")

    async def make(factory=Datagrams):
        transport, protocol = await request.param(factory, path)
        count = 0
        while transport.get_write_buffer_size() == 0:
            transport.sendto(b"%d" % count)
            count += 1
        return transport, protocol, count

    with unix_peer(path) as make.peer:
        yield make


def test_waits_in_order_and_goes_on(full):
    async def main():
        transport, protocol, count = await full()
        assert transport.get_write_buffer_size() == len(b"%d" % (count - 1)) + HEADER
        for number in range(count, count + 100):
            transport.sendto(b"%d" % number)
        assert protocol.events == ["made"]
        assert await received(full.peer, count + 100) == [
            b"%d" % number for number in range(count + 100)
        ]
        await until(lambda: transport.get_write_buffer_size() == 0)
        assert protocol.events == ["made"]
        await close(transport)

    run(main())


def test_pause_and_resume(full):
    async def main():
        transport, protocol, count = await full()
        data = b"x" * 1000
        while "pause" not in protocol.events:
            transport.sendto(data)
            count += 1
        assert protocol.events == ["made", "pause"]
        high = transport.get_write_buffer_limits()[1]
        size = transport.get_write_buffer_size()
        assert high < size <= high + 1000 + HEADER
        transport.sendto(data)
        assert transport.get_write_buffer_size() == size + 1000 + HEADER
        assert "write=<polling, bufsize=" in repr(transport)
        await received(full.peer, count + 1)
        await until(lambda: len(protocol.events) > 2)
        assert protocol.events == ["made", "pause", "resume"]
        await until(lambda: transport.get_write_buffer_size() == 0)
        await close(transport)

    run(main())


def test_limit_of_zero(full):
    """pause_writing() as soon as the kernel refuses one, resume_writing() when it
    has taken everything; what is taken at once never pauses."""

    async def main():
        transport, protocol, count = await full()
        transport.set_write_buffer_limits(0)
        assert transport.get_write_buffer_limits() == (0, 0)
        assert protocol.events == ["made", "pause"]
        await received(full.peer, count)
        await until(lambda: "resume" in protocol.events)
        assert transport.get_write_buffer_size() == 0
        transport.sendto(b"x")
        assert full.peer.recv(10) == b"x"
        assert protocol.events == ["made", "pause", "resume"]
        await close(transport)

    run(main())


def test_limits():
    async def main():
        transport, _ = await endpoint()
        assert transport.get_write_buffer_limits() == (16384, 65536)
        transport.set_write_buffer_limits(high=1000)
        assert transport.get_write_buffer_limits() == (250, 1000)
        transport.set_write_buffer_limits(low=1000)
        assert transport.get_write_buffer_limits() == (1000, 4000)
        for high, low in [(1, 2), (-1, None), (10, -1)]:
            with pytest.raises(ValueError, match="must be >="):
                transport.set_write_buffer_limits(high, low)
        assert transport.get_write_buffer_limits() == (1000, 4000)
        transport.set_write_buffer_limits()
        assert transport.get_write_buffer_limits() == (16384, 65536)
        with udp_socket() as peer:
            # One system call each, at the moment of sendto().
            transport.set_write_buffer_limits(0)
            transport.sendto(b"x", peer.getsockname())
            assert peer.recv(10) == b"x"
        await close(transport)

    run(main())


def test_close_sends_what_waits(full):
    async def main():
        transport, protocol, count = await full()
        transport.sendto(b"last")
        transport.close()
        transport.sendto(b"too late")
        await turns()
        assert protocol.events == ["made"]
        assert (await received(full.peer, count + 1))[-1] == b"last"
        assert await protocol.lost is None
        with pytest.raises(BlockingIOError):
            full.peer.recv(10)

    run(main())


def test_abort_drops_what_waits(full):
    async def main():
        transport, protocol, count = await full()
        transport.sendto(b"lost")
        transport.close()
        transport.abort()
        assert transport.get_write_buffer_size() == 0
        assert await protocol.lost is None
        assert len(await received(full.peer, count - 1)) == count - 1
        with pytest.raises(BlockingIOError):
            full.peer.recv(10)

    run(main())


def test_peer_goes_while_we_wait(full):
    async def main():
        transport, protocol, count = await full()
        for _ in range(5):
            transport.sendto(b"x")
        full.peer.close()
        await until(lambda: len(protocol.errors) == 6)
        # The kernel ends a connection to somebody who is gone.
        assert {exc.errno for exc in protocol.errors} <= {
            errno.ECONNREFUSED,
            errno.ENOTCONN,
        }
        assert transport.get_write_buffer_size() == 0
        assert not transport.is_closing()
        await close(transport)

    run(main())


def test_abort_in_error_received(full):
    async def main():
        class Aborting(Datagrams):
            def error_received(self, exc):
                super().error_received(exc)
                self.transport.abort()

        transport, protocol, count = await full(Aborting)
        for _ in range(5):
            transport.sendto(b"x")
        full.peer.close()
        assert await protocol.lost is None
        assert protocol.events == ["made", "error", "lost"]

    run(main())


def test_waiting_does_not_keep_the_processor_busy(full):
    async def main():
        transport, protocol, count = await full()
        transport.sendto(b"x")
        before, began = time.process_time(), time.monotonic()
        while time.monotonic() - began < 0.3:
            await asyncio.sleep(0.1)
        assert time.process_time() - before < 0.15
        transport.abort()
        await protocol.lost

    run(main())


def test_handle_closed_while_we_wait(full):
    async def main():
        transport, protocol, count = await full()
        transport.get_extra_info("uv_handle").close()
        assert isinstance(await protocol.lost, ConnectionAbortedError)

    run(main())


def test_loop_closed_while_we_wait(full):
    loop = uvtulip.new_event_loop()
    transport, protocol, count = loop.run_until_complete(full())
    loop.close()
    with pytest.warns(ResourceWarning):
        del transport, protocol
        gc.collect()


def test_resume_that_sends_again(full):
    async def main():
        class Refilling(Datagrams):
            def pause_writing(self):
                super().pause_writing()
                self.paused = True

            def resume_writing(self):
                super().resume_writing()
                self.paused = False
                if self.events.count("resume") < 3:
                    self.fill()

            def fill(self):
                self.paused = False
                while not self.paused:
                    self.transport.sendto(b"x" * 500)

        transport, protocol, count = await full(Refilling)
        protocol.fill()

        async def drain():
            loop = asyncio.get_running_loop()
            while True:
                await loop.sock_recv(full.peer, 1000)

        task = asyncio.create_task(drain())
        await until(lambda: protocol.events.count("resume") == 3)
        await until(lambda: transport.get_write_buffer_size() == 0)
        task.cancel()
        assert protocol.events[1:] == ["pause", "resume"] * 3
        await close(transport)

    run(main())


def test_flow_control_that_raises(full):
    async def main():
        class Raising(Datagrams):
            def pause_writing(self):
                super().pause_writing()
                raise ValueError("pause")

            def resume_writing(self):
                super().resume_writing()
                raise ValueError("resume")

        caught = []
        asyncio.get_running_loop().set_exception_handler(
            lambda loop, context: caught.append(context)
        )
        transport, protocol, count = await full(Raising)
        transport.set_write_buffer_limits(0)
        await received(full.peer, count)
        await until(lambda: len(caught) == 2)
        assert [context["message"] for context in caught] == [
            "protocol.pause_writing() failed",
            "protocol.resume_writing() failed",
        ]
        await close(transport)

    run(main())


def test_contexts_of_flow_control(full):
    var = contextvars.ContextVar("var", default="nobody")

    async def main():
        seen = []

        class Noting(Datagrams):
            def pause_writing(self):
                seen.append(var.get())

            def resume_writing(self):
                seen.append(var.get())

        var.set("the maker")
        transport, protocol, count = await full(Noting)

        async def other():
            var.set("somebody else")
            transport.set_write_buffer_limits(0)
            assert seen == ["the maker"]
            await received(full.peer, count)
            await until(lambda: len(seen) == 2)

        await asyncio.create_task(other())
        assert seen == ["the maker"] * 2
        await close(transport)

    run(main())


def test_a_pause_inside_of_a_flush_ends_with_it():
    async def main():
        class Sending(Datagrams):
            def error_received(self, exc):
                super().error_received(exc)
                while "pause" not in self.events:
                    self.transport.sendto(b"x" * 5000, peer.getsockname())

        with udp_socket() as peer:
            transport, protocol = await endpoint(Sending)
            transport.sendto(b"x" * 70000, peer.getsockname())
            assert await received(peer, 14) == [b"x" * 5000] * 14
            assert protocol.events == ["made", "error", "pause", "resume"]
            await close(transport)

    run(main())
