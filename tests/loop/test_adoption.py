"""Sockets that are given to the loop: whose they are when something fails or is
cancelled, as with asyncio's own loop.  Each case runs on both."""

import asyncio
import contextlib
import errno
import os
import socket
import struct

import pytest

import uvtulip
from aiosupport import LIMIT, Recorder, turns

LOOPS = (asyncio.SelectorEventLoop, uvtulip.new_event_loop)


def on_both(main):
    outcomes = []

    async def limited():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda *_: None)
        async with asyncio.timeout(LIMIT):
            return await main(loop)

    for factory in LOOPS:
        with asyncio.Runner(loop_factory=factory) as runner:
            outcomes.append(runner.run(limited()))
    return outcomes


def check(main):
    theirs, ours = on_both(main)
    assert ours == theirs
    return ours


def tcp_pair():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    return ours, theirs


def udp_pair():
    ours, theirs = (socket.socket(type=socket.SOCK_DGRAM) for _ in range(2))
    ours.bind(("127.0.0.1", 0))
    theirs.connect(ours.getsockname())
    ours.connect(theirs.getsockname())
    return ours, theirs


WAYS = {
    "create_connection": (
        tcp_pair,
        lambda loop, factory, sock: loop.create_connection(factory, sock=sock),
    ),
    "create_connection of a UNIX socket": (
        socket.socketpair,
        lambda loop, factory, sock: loop.create_connection(factory, sock=sock),
    ),
    "connect_accepted_socket": (
        tcp_pair,
        lambda loop, factory, sock: loop.connect_accepted_socket(factory, sock),
    ),
    "create_unix_connection": (
        socket.socketpair,
        lambda loop, factory, sock: loop.create_unix_connection(factory, sock=sock),
    ),
    "create_datagram_endpoint": (
        udp_pair,
        lambda loop, factory, sock: loop.create_datagram_endpoint(factory, sock=sock),
    ),
    "connect_read_pipe": (
        socket.socketpair,
        lambda loop, factory, sock: loop.connect_read_pipe(factory, sock),
    ),
    "connect_write_pipe": (
        socket.socketpair,
        lambda loop, factory, sock: loop.connect_write_pipe(factory, sock),
    ),
}


@pytest.mark.parametrize("wait", range(5))
@pytest.mark.parametrize("name", WAYS)
def test_cancelled(name, wait):
    """The peer sees the end, whenever the cancellation comes."""
    pair, way = WAYS[name]

    async def main(loop):
        ours, theirs = pair()
        protocol = Recorder()
        task = asyncio.ensure_future(way(loop, lambda: protocol, ours))
        await turns(wait)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            (await task)[0].close()  # It was made in time.
        for _ in range(10):
            await asyncio.sleep(0.001)
        fileno = ours.fileno()
        told = protocol.transport is not None, protocol.lost, protocol.error
        theirs.close()
        ours.close()
        return fileno == -1, told

    assert check(main)[0] is (wait > 0)


@pytest.mark.parametrize("name", ["create_connection", "connect_accepted_socket"])
def test_factory_that_raises(name):
    """The socket is closed, as the newest asyncio does; before, it was left open."""
    pair, way = WAYS[name]

    async def main():
        ours, theirs = pair()
        with theirs:
            with pytest.raises(ZeroDivisionError):
                await way(asyncio.get_running_loop(), lambda: 1 // 0, ours)
            assert ours.fileno() == -1
            assert theirs.recv(1) == b""

    with asyncio.Runner(loop_factory=uvtulip.new_event_loop) as runner:
        runner.run(main())


@pytest.mark.parametrize(
    "name", ["create_datagram_endpoint", "connect_read_pipe", "connect_write_pipe"]
)
def test_factory_that_raises_leaves_it(name):
    pair, way = WAYS[name]

    async def main(loop):
        ours, theirs = pair()
        with ours, theirs:
            with pytest.raises(ZeroDivisionError):
                await way(loop, lambda: 1 // 0, ours)
            return ours.fileno() >= 0

    assert check(main) is True


@pytest.mark.parametrize("name", [name for name in WAYS if "pipe" not in name])
def test_closed_socket(name):
    """What is wrong with it is the error, not what comes of cleaning up."""
    pair, way = WAYS[name]

    async def main(loop):
        ours, theirs = pair()
        theirs.close()
        ours.close()
        with pytest.raises(OSError) as caught:
            await way(loop, Recorder, ours)
        return type(caught.value), caught.value.errno, str(caught.value)

    assert check(main)[1] == errno.EBADF


@pytest.mark.parametrize("name", WAYS)
def test_descriptor_that_is_closed(name):
    """asyncio leaves transports behind that warn."""
    pair, way = WAYS[name]

    async def main():
        ours, theirs = pair()
        theirs.close()
        os.close(ours.fileno())
        with pytest.raises(OSError) as caught:
            await way(asyncio.get_running_loop(), Recorder, ours)
        ours.detach()
        assert caught.value.errno == errno.EBADF

    with asyncio.Runner(loop_factory=uvtulip.new_event_loop) as runner:
        runner.run(main())


@pytest.mark.parametrize("how", ["create_server", "create_unix_server"])
@pytest.mark.parametrize("wait", range(1, 4))
def test_cancelled_server(how, wait):
    async def main():
        loop = asyncio.get_running_loop()
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(f"\0uvtulip-cancelled-{os.getpid()}-{how}-{wait}")
        task = asyncio.ensure_future(getattr(loop, how)(Recorder, sock=sock))
        await turns(wait)
        task.cancel()
        try:
            server = await task
        except asyncio.CancelledError:
            assert sock.fileno() >= 0  # The caller's.
            sock.close()
        else:
            server.close()
            await server.wait_closed()
            assert sock.fileno() == -1

    with asyncio.Runner(loop_factory=uvtulip.new_event_loop) as runner:
        runner.run(main())


@pytest.mark.parametrize("how", ["create_connection", "connect_accepted_socket"])
@pytest.mark.parametrize(
    "family", [socket.AF_INET, socket.AF_UNIX], ids=["tcp", "unix"]
)
def test_socket_that_is_not_connected(how, family):
    """There is a transport, which then has the error of its first read."""

    async def main(loop):
        sock = socket.socket(family)
        protocol = Recorder()
        if how == "create_connection":
            transport, _ = await loop.create_connection(lambda: protocol, sock=sock)
        else:
            transport, _ = await loop.connect_accepted_socket(lambda: protocol, sock)
        peername = transport.get_extra_info("peername", "none")
        while not protocol.lost:
            await asyncio.sleep(0.001)
        await turns()
        error = protocol.error
        return peername, type(error), str(error), sock.fileno()

    check(main)


@pytest.mark.parametrize("wait", range(4))
def test_unconnected_and_cancelled(wait):
    async def main(loop):
        sock = socket.socket()
        task = asyncio.ensure_future(loop.create_connection(Recorder, sock=sock))
        await turns(wait)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            (await task)[0].abort()
        for _ in range(10):
            await asyncio.sleep(0.001)
        with sock:
            return sock.fileno() == -1

    assert check(main) is (wait > 0)


def reset(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@pytest.mark.parametrize(
    ("how", "sent"),
    [
        ("reset", b""),
        ("reset", b"last words"),
        ("ended", b""),
        ("ended", b"last words"),
        ("both ended", b""),
        ("both ended", b"last words"),
    ],
)
def test_connection_that_is_over(how, sent):
    """The transport tells what has come, and how it ended."""

    async def main(loop):
        ours, theirs = tcp_pair()
        theirs.sendall(sent)
        if how == "reset":
            reset(theirs)
        else:
            theirs.close()
        if how == "both ended":
            ours.shutdown(socket.SHUT_WR)
        await asyncio.sleep(0.01)
        protocol = Recorder()
        await loop.create_connection(lambda: protocol, sock=ours)
        while not protocol.lost:
            await asyncio.sleep(0.001)
        error = protocol.error
        return bytes(protocol.data), protocol.eof, type(error), str(error)

    check(main)


@pytest.mark.parametrize("keep", [True, False], ids=["closed", "open"])
def test_server_given_a_closed_descriptor(keep):
    """The error of closing it comes after all else is done."""

    async def main():
        loop = asyncio.get_running_loop()
        sock = socket.create_server(("127.0.0.1", 0))
        address = sock.getsockname()
        server = await loop.create_server(Recorder, sock=sock)
        waiter = asyncio.ensure_future(server.serve_forever())
        await turns()
        if keep:
            os.close(sock.fileno())
            with pytest.raises(OSError):
                server.close()
        else:
            server.close()
        await server.wait_closed()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)

    with asyncio.Runner(loop_factory=uvtulip.new_event_loop) as runner:
        runner.run(main())


@pytest.mark.parametrize("keep", [True, False], ids=["broken", "whole"])
def test_cancelled_serve_forever_stays_cancelled(keep):
    async def main():
        loop = asyncio.get_running_loop()
        sock = socket.create_server(("127.0.0.1", 0))
        server = await loop.create_server(Recorder, sock=sock)
        waiter = asyncio.ensure_future(server.serve_forever())
        await turns()
        reported = []
        loop.set_exception_handler(lambda loop, context: reported.append(context))
        if keep:
            os.close(sock.fileno())
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        assert [type(context["exception"]) for context in reported] == [OSError] * keep

    with asyncio.Runner(loop_factory=uvtulip.new_event_loop) as runner:
        runner.run(main())
