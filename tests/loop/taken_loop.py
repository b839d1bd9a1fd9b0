"""The points of test_taken.py: descriptors are taken away from asyncio's loop.  The
arguments name the moments to walk."""

import asyncio
import os
import pathlib
import signal
import socket
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import uvtulip
from takensupport import EXPECTED, HOW, Strangers, numbers, take, walk

kept = []


def quiet(loop, context):
    """What a callback raises has to be one of the errors that are expected."""
    exc = context.get("exception")
    assert exc is None or isinstance(exc, (*EXPECTED, asyncio.CancelledError)), context


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)


class Datagrams(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        kept.append(transport)


async def world(loop):
    """Some of everything, so that each has a descriptor to lose."""
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    client, _ = await loop.create_connection(Echo, *address)
    await loop.create_datagram_endpoint(Datagrams, ("127.0.0.1", 0))
    a, b = socket.socketpair()
    loop.add_reader(a, print, "readable")
    c, d = socket.socketpair()
    c.setblocking(False)
    waiter = asyncio.ensure_future(loop.sock_recv(c, 10))
    loop.add_signal_handler(signal.SIGUSR1, kept.append, "signal")
    await asyncio.sleep(0)
    kept.extend([server, client, a, b, c, d, waiter])
    return client


# ---- what is done next ----


async def sleep(loop):
    await asyncio.sleep(0.005)


async def spin(loop):
    for _ in range(200):
        await asyncio.sleep(0)


async def threadsafe(loop):
    done = asyncio.Event()
    thread = threading.Thread(target=tell, args=(loop, done.set))
    thread.start()
    await asyncio.wait_for(done.wait(), 0.05)
    thread.join()


def tell(loop, function):
    try:
        loop.call_soon_threadsafe(function)
    except EXPECTED:
        kept.append("refused")


async def executor(loop):
    await asyncio.wait_for(loop.run_in_executor(None, time.sleep, 0.005), 0.05)


async def names(loop):
    await loop.getaddrinfo("localhost", 80)


async def child(loop):
    process = await asyncio.create_subprocess_exec("/bin/true")
    await process.wait()


async def signals(loop):
    os.kill(os.getpid(), signal.SIGUSR1)
    await asyncio.sleep(0.005)


async def new_signal(loop):
    loop.add_signal_handler(signal.SIGUSR2, kept.append, "signal")
    os.kill(os.getpid(), signal.SIGUSR2)
    await asyncio.sleep(0.005)


async def serve(loop):
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"x")
    assert await reader.readexactly(1) == b"x"
    writer.close()
    server.close()


async def unix(loop):
    path = os.path.join(tempfile.mkdtemp(), "s")
    kept.append(await loop.create_unix_server(Echo, path))
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(b"x")
    assert await reader.readexactly(1) == b"x"


async def datagram(loop):
    transport, _ = await loop.create_datagram_endpoint(Datagrams, ("127.0.0.1", 0))
    transport.sendto(b"x", transport.get_extra_info("sockname"))
    await asyncio.sleep(0.005)


async def sockets(loop):
    a, b = socket.socketpair()
    a.setblocking(False)
    reading = asyncio.ensure_future(loop.sock_recv(a, 10))
    await asyncio.sleep(0)
    b.send(b"x")
    assert await reading == b"x"


async def shutdown(loop):
    await loop.shutdown_asyncgens()
    await loop.shutdown_default_executor()


NEXT = {
    function.__name__: function
    for function in (
        *(sleep, spin, threadsafe, executor, names, child, signals, new_signal, serve),
        *(unix, datagram, sockets, shutdown),
    )
}


async def attempt(function, *args):
    try:
        await function(*args)
    except (TimeoutError, *EXPECTED):
        kept.append("refused")


def run(loop, coroutine):
    try:
        return loop.run_until_complete(coroutine)
    except EXPECTED:
        return None


# ---- when ----


def between(loop, go, then):
    go()
    run(loop, attempt(then, loop))


def in_callback(loop, go, then):
    async def main():
        await asyncio.sleep(0.001)
        go()
        await attempt(then, loop)

    run(loop, main())


def in_io(loop, go, then):
    """In a protocol's callback, while others are ready in the same poll."""

    class First(asyncio.Protocol):
        def data_received(self, data):
            if not kept.count("gone"):
                kept.append("gone")
                go()
                kept.append(asyncio.ensure_future(attempt(then, loop)))

    async def main():
        writers = []
        for _ in range(4):
            a, b = socket.socketpair()
            await loop.create_connection(First, sock=a)
            writers.append(b)
        for writer in writers:
            writer.send(b"x")
        tell(loop, lambda: None)
        os.kill(os.getpid(), signal.SIGUSR1)
        await asyncio.sleep(0.01)

    run(loop, main())


def in_flight(loop, go, then):
    """A name is not looked up: glibc aborts when its own descriptor is taken."""

    async def main():
        numeric = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
        waiting = [
            loop.run_in_executor(None, time.sleep, 0.005),
            loop.getnameinfo(("127.0.0.1", 80), numeric),
        ]
        waiting = [asyncio.ensure_future(one) for one in waiting]
        await asyncio.sleep(0)
        go()
        time.sleep(0.01)
        await attempt(then, loop)
        await asyncio.wait(waiting, timeout=0.02)

    run(loop, main())


def before_loop(loop, go, then):
    finish(loop)
    signal.signal(signal.SIGUSR1, lambda *args: kept.append(args))
    go()
    loop = uvtulip.new_event_loop()
    loop.set_exception_handler(quiet)
    run(loop, attempt(then, loop))
    finish(loop)


WHEN = {
    function.__name__: function
    for function in (between, in_callback, in_io, in_flight, before_loop)
}


def finish(loop):
    for one in kept:
        if isinstance(one, (asyncio.BaseTransport, asyncio.AbstractServer)):
            try:
                one.close()
            except EXPECTED:
                pass
    for task in asyncio.all_tasks(loop):
        task.cancel()
    run(loop, asyncio.sleep(0))
    try:
        loop.close()
    except EXPECTED:
        kept.append("refused")
    assert loop.is_closed()


def another():
    async def main():
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(None, len, "abc") == 3
        await asyncio.sleep(0.002)
        return "done"

    assert uvtulip.run(main()) == "done"


def point(when, how, then):
    strangers = Strangers()
    loop = uvtulip.new_event_loop()
    loop.set_exception_handler(quiet)
    loop.run_until_complete(world(loop))
    blocking = when != "in_io"
    WHEN[when](loop, lambda: take(how, numbers(), strangers, blocking), NEXT[then])
    if not loop.is_closed():
        finish(loop)
    # Python's own handler writes to what signal.set_wakeup_fd() was given.
    python = {signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD}
    strangers.check(closed_too=False, allowed=python)
    another()


if __name__ == "__main__":
    moments = sys.argv[1].split(",")
    hows = sys.argv[2].split(",") if len(sys.argv) > 2 else HOW
    thens = sys.argv[3].split(",") if len(sys.argv) > 3 else list(NEXT)
    walk(((w, h, t) for w in moments for h in hows for t in thens), point)
