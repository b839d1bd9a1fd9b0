"""A socket that is closed while a sock_* call waits for it stays open until the call
ends, as in uvloop: the call has its result, then the descriptor is closed."""

import asyncio
import gc
import os
import socket
import weakref

import pytest

from aiosupport import open_descriptors, run, turns

BIG = 8 << 20


def pair(kind=socket.SOCK_STREAM):
    ours, theirs = socket.socketpair(type=kind)
    ours.setblocking(False)
    theirs.setblocking(False)
    return ours, theirs


def receive(method, *args):
    return lambda loop, sock: getattr(loop, method)(sock, *args)


RECEIVING = {
    "sock_recv": receive("sock_recv", 10),
    "sock_recv_into": lambda loop, sock: loop.sock_recv_into(sock, bytearray(10)),
    "sock_recvfrom": receive("sock_recvfrom", 10),
    "sock_recvfrom_into": lambda loop, sock: loop.sock_recvfrom_into(
        sock, bytearray(10)
    ),
}


class Other(socket.socket):
    """Whose methods are called."""


@pytest.mark.parametrize("kind", [socket.socket, Other])
@pytest.mark.parametrize("end", ["data", "the end"])
@pytest.mark.parametrize("name", RECEIVING)
def test_receiving(name, end, kind, no_leak):
    async def main():
        loop = asyncio.get_running_loop()
        ours, theirs = pair()
        ours = kind(fileno=ours.detach())
        ours.setblocking(False)
        task = asyncio.ensure_future(RECEIVING[name](loop, ours))
        await turns()
        ours.close()
        await turns()
        assert not task.done()
        if end == "data":
            theirs.send(b"data")
        else:
            theirs.shutdown(socket.SHUT_WR)
        got = await task
        got = got[0] if isinstance(got, tuple) else got
        wanted = b"data" if end == "data" else b""
        assert got == (wanted if isinstance(got, bytes) else len(wanted))
        assert ours.fileno() == -1
        with pytest.raises((BlockingIOError, BrokenPipeError)):
            while True:
                theirs.send(b"x")
        theirs.close()

    run(main())


@pytest.mark.parametrize("name", RECEIVING)
def test_cancelled(name, no_leak):
    """Then it is closed at once."""

    async def main():
        loop = asyncio.get_running_loop()
        ours, theirs = pair()
        task = asyncio.ensure_future(RECEIVING[name](loop, ours))
        await turns()
        ours.close()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ours.fileno() == -1
        assert theirs.recv(1) == b""
        theirs.close()

    run(main())


@pytest.mark.parametrize("name", RECEIVING)
def test_cancelled_and_used_again(name, no_leak):
    async def main():
        loop = asyncio.get_running_loop()
        ours, theirs = pair()
        for _ in range(3):
            task = asyncio.ensure_future(RECEIVING[name](loop, ours))
            await turns()
            task.cancel()
            await asyncio.wait([task])
            task = asyncio.ensure_future(RECEIVING[name](loop, ours))
            await turns()
            theirs.send(b"x")
            await task
        assert ours._io_refs == 0
        ours.close()
        assert ours.fileno() == -1
        theirs.close()

    run(main())


def test_accept(no_leak):
    async def main():
        loop = asyncio.get_running_loop()
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        address = listener.getsockname()
        task = asyncio.ensure_future(loop.sock_accept(listener))
        await turns()
        listener.close()
        client = socket.create_connection(address)
        conn, _ = await task
        assert listener.fileno() == -1
        client.sendall(b"x")
        assert await loop.sock_recv(conn, 1) == b"x"
        client.close()
        conn.close()

    run(main())


def test_sendall(no_leak):
    async def main():
        loop = asyncio.get_running_loop()
        ours, theirs = pair()
        task = asyncio.ensure_future(loop.sock_sendall(ours, bytes(BIG)))
        await turns()
        ours.close()
        got = 0
        while data := await loop.sock_recv(theirs, 1 << 16):
            got += len(data)
        await task
        assert got == BIG
        assert ours.fileno() == -1
        theirs.close()

    run(main())


def test_sendfile(tmp_path, no_leak):
    async def main():
        loop = asyncio.get_running_loop()
        path = tmp_path / "file"
        path.write_bytes(bytes(BIG))
        ours, theirs = pair()
        with path.open("rb") as file:
            task = asyncio.ensure_future(loop.sock_sendfile(ours, file))
            await turns()
            ours.close()
            got = 0
            while data := await loop.sock_recv(theirs, 1 << 16):
                got += len(data)
            assert await task == got == BIG
        assert ours.fileno() == -1
        theirs.close()

    run(main())


def test_sendto(no_leak):
    """The receiver's queue is full."""

    async def main():
        loop = asyncio.get_running_loop()
        ours, theirs = pair(socket.SOCK_DGRAM)
        name = f"\0uvtulip-kept-{os.getpid()}-{id(ours)}"
        other = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        other.bind(name)
        other.setblocking(False)
        sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        sender.setblocking(False)
        sender.connect(name)
        with pytest.raises(BlockingIOError):
            while True:
                sender.send(b"x")
        task = asyncio.ensure_future(loop.sock_sendall(sender, b"last"))
        await turns()
        sender.close()
        while await loop.sock_recv(other, 10) != b"last":
            pass
        await task
        assert sender.fileno() == -1
        for sock in (ours, theirs, other):
            sock.close()

    run(main())


def test_connect(no_leak):
    """A UNIX server whose queue is full."""

    async def main():
        loop = asyncio.get_running_loop()
        listener = socket.socket(socket.AF_UNIX)
        name = f"\0uvtulip-kept-{os.getpid()}-{id(listener)}"
        listener.bind(name)
        listener.listen(0)
        first = socket.socket(socket.AF_UNIX)
        first.connect(name)
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        task = asyncio.ensure_future(loop.sock_connect(sock, name))
        await asyncio.sleep(0.01)
        sock.close()
        listener.accept()[0].close()
        await task
        assert sock.fileno() == -1
        first.close()
        listener.close()

    run(main())


@pytest.mark.parametrize("name", RECEIVING)
def test_last_reference(name, no_leak):
    """Who waits keeps the socket."""

    async def main():
        loop = asyncio.get_running_loop()
        ours, theirs = pair()
        alive = weakref.ref(ours)
        task = asyncio.ensure_future(RECEIVING[name](loop, ours))
        await turns()
        del ours
        gc.collect()
        again = alive()
        assert again is not None
        theirs.send(b"data")
        await task
        theirs.close()
        again.close()

    run(main())


def test_two_that_wait(no_leak):
    """The last of them closes."""

    async def main():
        loop = asyncio.get_running_loop()
        ours, theirs = pair()
        sending = asyncio.ensure_future(loop.sock_sendall(ours, bytes(BIG)))
        receiving = asyncio.ensure_future(loop.sock_recv(ours, 10))
        await turns()
        ours.close()
        theirs.send(b"data")
        assert await receiving == b"data"
        assert ours.fileno() >= 0
        got = 0
        while data := await loop.sock_recv(theirs, 1 << 16):
            got += len(data)
        await sending
        assert got == BIG
        assert ours.fileno() == -1
        theirs.close()

    run(main())


def test_error_lets_go(no_leak):
    async def main():
        loop = asyncio.get_running_loop()
        ours, theirs = pair()
        with pytest.raises(TypeError):
            await loop.sock_recv(ours, "x")
        task = asyncio.ensure_future(loop.sock_recv(ours, 10))
        await turns()
        ours.detach()
        assert ours._io_refs == 1
        theirs.send(b"x")
        with pytest.raises(OSError):
            await task
        assert ours._io_refs == 0
        theirs.close()

    before = open_descriptors()
    run(main())
    for fd in open_descriptors() - before:
        socket.socket(fileno=fd).close()  # What was detached.


def test_loop_that_is_closed(no_leak):
    """Who waited is dropped with the loop, and the socket is closed."""
    import uvtulip

    loop = uvtulip.new_event_loop()
    ours, theirs = pair()
    task = loop.create_task(loop.sock_recv(ours, 10))
    loop.run_until_complete(asyncio.sleep(0.001))
    ours.close()
    task.cancel()
    loop.run_until_complete(asyncio.wait([task]))
    loop.close()
    assert ours.fileno() == -1
    theirs.close()
