"""Every handle that a loop has for itself can be found among the raw loop's.  A program
that closes it, one or all, at whatever moment, has a loop that goes on: what waits
comes to an end, and what is begun afterwards works."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import threading

import pytest

import uvtulip
from aiosupport import LIMIT, Echo, Recorder, until
from uvtulip import uv

STEP = LIMIT / 2  # Seconds for each thing that waits.
KEPT = []  # Sockets, until the loop that has watched them is closed.


class World:
    """A loop with one of everything that makes handles, and each of it waits."""

    def __init__(self, loop):
        self.loop = loop
        self.unhandled = []
        self.read = []
        loop.set_exception_handler(lambda loop, context: self.unhandled.append(context))

    async def build(self):
        loop = self.loop
        self.server = await loop.create_server(Echo, "127.0.0.1", 0)
        self.client, self.protocol = await loop.create_connection(
            Recorder, *self.server.sockets[0].getsockname()
        )
        self.udp, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
        )
        self.watched, self.writer = socket.socketpair()
        loop.add_reader(self.watched, self.on_readable)
        self.ours, self.theirs = socket.socketpair()
        self.ours.setblocking(False)
        self.receiving = loop.create_task(loop.sock_recv(self.ours, 10))
        self.sleeping = loop.create_task(asyncio.sleep(0.3, "slept"))
        self.asking = loop.create_task(loop.getaddrinfo("localhost", 80))
        end, self.pipe_end = os.pipe()
        self.pipe, _ = await loop.connect_write_pipe(
            asyncio.BaseProtocol, os.fdopen(self.pipe_end, "wb")
        )
        self.pipe_reader = end
        self.child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", "input()", stdin=asyncio.subprocess.PIPE
        )

    def on_readable(self):
        self.read.append(self.watched.recv(10))

    async def finish(self):
        """What has waited since before comes to its end."""
        self.writer.send(b"seen")
        await until(lambda: self.read)
        assert self.read[0] == b"seen"
        self.theirs.send(b"received")
        assert await self.receiving == b"received"
        assert await self.sleeping == "slept"
        answers = await self.asking
        assert {answer[4][0] for answer in answers} <= {"127.0.0.1", "::1"}
        if self.child.returncode is None:
            self.child.stdin.close()
            with contextlib.suppress(ProcessLookupError):
                self.child.kill()
        assert await self.child.wait() in (-signal.SIGKILL, 0, 1)
        self.client.close()
        await until(lambda: self.protocol.lost)
        self.udp.close()
        os.close(self.pipe_reader)
        self.pipe.close()
        self.server.close()
        self.loop.remove_reader(self.watched)
        for sock in (self.watched, self.writer, self.ours, self.theirs):
            sock.close()


async def wake_from_thread(loop):
    """Another thread ends a poll that would wait."""
    woken = asyncio.Event()
    thread = threading.Timer(0.01, loop.call_soon_threadsafe, [woken.set])
    thread.start()
    await woken.wait()
    thread.join()


async def use_everything(loop):
    """All of it anew: sleeping, other threads, readers, names, signals, children,
    sockets, servers, datagrams, pipes."""
    await asyncio.sleep(0.001)
    await wake_from_thread(loop)
    assert await loop.run_in_executor(None, lambda: 7) == 7
    await use_sockets(loop)
    assert await loop.getaddrinfo("localhost", 80)
    if threading.current_thread() is threading.main_thread():
        hit = asyncio.Event()
        loop.add_signal_handler(signal.SIGUSR1, hit.set)
        os.kill(os.getpid(), signal.SIGUSR1)
        await hit.wait()
        loop.remove_signal_handler(signal.SIGUSR1)
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-S", "-c", "print('child')", stdout=asyncio.subprocess.PIPE
    )
    assert await child.communicate() == (b"child\n", None)
    async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
        reader, writer = await asyncio.open_connection(
            *server.sockets[0].getsockname()
        )
        writer.write(b"line\n")
        assert await reader.readline() == b"line\n"
        writer.close()
        await writer.wait_closed()
    await use_datagrams(loop)


async def use_sockets(loop):
    one, two = socket.socketpair()
    one.setblocking(False)
    seen = asyncio.Event()
    loop.add_reader(one, seen.set)
    two.send(b"x")
    await seen.wait()
    assert loop.remove_reader(one)
    assert await loop.sock_recv(one, 1) == b"x"
    waiting = loop.create_task(loop.sock_recv(one, 1))
    await asyncio.sleep(0)
    two.send(b"y")
    assert await waiting == b"y"
    two.close()
    KEPT.append(one)


async def echo(reader, writer):
    writer.write(await reader.readline())
    await writer.drain()
    writer.close()


async def use_datagrams(loop):
    got = loop.create_future()

    class Receiver(asyncio.DatagramProtocol):
        def datagram_received(self, data, addr):
            got.set_result(data)

    receiving, _ = await loop.create_datagram_endpoint(
        Receiver, local_addr=("127.0.0.1", 0)
    )
    sending, _ = await loop.create_datagram_endpoint(
        asyncio.DatagramProtocol, remote_addr=receiving.get_extra_info("sockname")
    )
    sending.sendto(b"datagram")
    assert await got == b"datagram"
    sending.close()
    receiving.close()


def own_handles(loop):
    return [handle for handle in loop.uv_loop.handles if not handle.closed]


def run(loop, main):
    async def limited():
        async with asyncio.timeout(STEP):
            return await main

    return loop.run_until_complete(limited())


def close(handles):
    for handle in handles:
        if not handle.closed:
            handle.close()


def close_between(loop, handles):
    close(handles)


def close_between_and_turn(loop, handles):
    close(handles)
    loop.uv_loop.run(uv.UV_RUN_NOWAIT)


def close_in_a_callback(loop, handles):
    async def inside():
        loop.call_soon(close, handles)
        await asyncio.sleep(0)

    run(loop, inside())


def close_in_a_poll(loop, handles):
    """From a callback that the poll itself calls, while the run goes on waiting."""

    async def inside():
        one, two = socket.socketpair()
        done = loop.create_future()

        class Closer(asyncio.Protocol):
            def data_received(self, data):
                close(handles)
                done.set_result(None)

        transport, _ = await loop.create_connection(Closer, sock=one)
        with two:
            two.send(b"x")
            await done
            transport.abort()
            await wake_from_thread(loop)

    run(loop, inside())


def close_in_a_raw_run(loop, handles):
    timer = uv.Timer(loop.uv_loop)

    def now(timer):
        close([*handles, timer])

    timer.start(now, 0)
    loop.uv_loop.run(uv.UV_RUN_NOWAIT)
    loop.uv_loop.run(uv.UV_RUN_NOWAIT)


MOMENTS = [
    close_between,
    close_between_and_turn,
    close_in_a_callback,
    close_in_a_poll,
    close_in_a_raw_run,
]


@pytest.fixture
def loop():
    loop = uvtulip.new_event_loop()
    asyncio.set_event_loop(loop)
    yield loop
    asyncio.set_event_loop(None)
    loop.close()
    assert loop.uv_loop.closed
    while KEPT:
        KEPT.pop().close()


@contextlib.contextmanager
def a_world():
    loop = uvtulip.new_event_loop()
    world = World(loop)
    try:
        run(loop, world.build())
        yield world
        run(loop, loop.shutdown_default_executor())
    finally:
        loop.close()
        while KEPT:
            KEPT.pop().close()
    assert loop.uv_loop.closed


def kinds_of_handles():
    with a_world() as world:
        names = [type(handle).__name__ for handle in own_handles(world.loop)]
        run(world.loop, world.finish())
    return names


@pytest.mark.parametrize("moment", MOMENTS)
def test_each_of_them(moment):
    names = kinds_of_handles()
    assert {"Async", "Timer", "Poll", "_ChildPoll", "TCP", "UDP", "Pipe"} <= set(names)
    for number, name in enumerate(names):
        with a_world() as world:
            handles = own_handles(world.loop)
            assert type(handles[number]).__name__ == name
            moment(world.loop, [handles[number]])
            run(world.loop, use_everything(world.loop))
            run(world.loop, world.finish())
            assert world.unhandled == []


@pytest.mark.parametrize("moment", MOMENTS)
def test_all_of_them(moment):
    with a_world() as world:
        moment(world.loop, own_handles(world.loop))
        run(world.loop, use_everything(world.loop))
        run(world.loop, world.finish())
        assert world.unhandled == []


def test_all_of_them_again_and_again(loop):
    async def main():
        for _ in range(3):
            close(own_handles(loop))
            await wake_from_thread(loop)
            await use_everything(loop)

    run(loop, main())
    for _ in range(3):
        close(own_handles(loop))
        run(loop, use_everything(loop))


def test_before_the_first_run(loop):
    close(own_handles(loop))
    loop.uv_loop.run(uv.UV_RUN_NOWAIT)
    run(loop, use_everything(loop))


def test_what_keeps_a_run_waiting_is_unreferenced(loop):
    """A run waits for other threads, whatever the program does to the handles."""

    async def main():
        for handle in own_handles(loop):
            handle.ref = False
        await wake_from_thread(loop)
        await use_everything(loop)

    run(loop, main())


def test_a_poll_that_waits_while_threads_wake_it(loop):
    """The handle is closed while other threads are about to send by it."""
    count = 300

    async def main():
        seen = []
        enough = asyncio.Event()

        def one():
            seen.append(None)
            if len(seen) == 4 * count:
                enough.set()

        def send():
            for _ in range(count):
                loop.call_soon_threadsafe(one)

        threads = [threading.Thread(target=send) for _ in range(4)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            close(h for h in own_handles(loop) if isinstance(h, uv.Async))
            await asyncio.sleep(0.001)
        await enough.wait()
        for thread in threads:
            thread.join()

    run(loop, main())
    assert loop.uv_loop.handles


def test_names_that_are_asked_for_meanwhile(loop):
    async def main():
        asked = [
            loop.create_task(loop.getaddrinfo("localhost", port)) for port in range(40)
        ]
        for _ in range(20):
            await asyncio.sleep(0)
            close(h for h in own_handles(loop) if isinstance(h, uv.Async))
        for answer in await asyncio.gather(*asked):
            assert answer

    run(loop, main())


def test_a_pipe_notices_its_reader_still(loop):
    async def main():
        end, ours = os.pipe()
        protocol = Recorder()
        await loop.connect_write_pipe(lambda: protocol, os.fdopen(ours, "wb"))
        await asyncio.sleep(0)
        close(h for h in own_handles(loop) if isinstance(h, uv.Poll))
        await asyncio.sleep(0.01)
        os.close(end)
        await until(lambda: protocol.lost)

    run(loop, main())


def test_a_server_accepts_still(loop):
    async def main():
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        async with server:
            close(h for h in own_handles(loop) if isinstance(h, uv.Poll))
            for _ in range(3):
                reader, writer = await asyncio.open_connection(
                    *server.sockets[0].getsockname()
                )
                writer.write(b"x")
                assert await reader.read(1) == b"x"
                writer.close()
                close(h for h in own_handles(loop) if isinstance(h, uv.Poll))

    run(loop, main())


def test_transports_over_a_closing_handle(loop):
    """Between close() of the handle and its end, the transport can be used."""

    async def main():
        one, two = socket.socketpair()
        stream, recorder = await loop.create_connection(Recorder, sock=one)
        udp, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
        )
        to = udp.get_extra_info("sockname")
        with two:
            close(own_handles(loop))
            stream.pause_reading()
            stream.resume_reading()
            for transport in (stream, udp):
                transport.get_write_buffer_size()
                transport.get_extra_info("peername")
            stream.write(b"x" * 1_000_000)
            stream.writelines([b"a", b"b"])
            stream.write_eof()
            for _ in range(3):
                udp.sendto(b"data", to)
            await until(lambda: recorder.lost)
            udp.sendto(b"data", to)
            with pytest.raises(RuntimeError, match="after write_eof"):
                stream.write(b"more")

    run(loop, main())
