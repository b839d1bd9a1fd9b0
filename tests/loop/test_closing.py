"""close() in the wrong moment: it is refused before anything is changed, or it works;
it never leaves half of a loop."""

import asyncio
import gc
import signal
import socket
import sys
import threading

import pytest

import uvtulip
from aiosupport import LIMIT, Recorder, open_descriptors, until
from uvtulip import uv


@pytest.fixture
def loop():
    loop = uvtulip.new_event_loop()
    asyncio.set_event_loop(loop)
    yield loop
    asyncio.set_event_loop(None)
    loop.close()
    assert loop.is_closed()
    assert loop.uv_loop.closed


def run(loop, main):
    async def limited():
        async with asyncio.timeout(LIMIT / 2):
            return await main

    return loop.run_until_complete(limited())


def check_usable(loop):
    """Nothing of it has been taken away."""
    assert not loop.is_closed()
    assert not loop.uv_loop.closed

    async def main():
        called = asyncio.Event()
        threading.Timer(0.001, loop.call_soon_threadsafe, [called.set]).start()
        await called.wait()
        await asyncio.sleep(0.001)
        assert await loop.getaddrinfo("localhost", 80)
        one, two = socket.socketpair()
        with one, two:
            one.setblocking(False)
            two.send(b"x")
            assert await loop.sock_recv(one, 1) == b"x"

    run(loop, main())


def refused(loop):
    with pytest.raises(RuntimeError, match="running"):
        loop.close()
    return True


def raw_run(loop):
    """A run of the raw loop alone, until its callbacks stop it."""
    guard = uv.Timer(loop.uv_loop)
    guard.start(lambda timer: loop.uv_loop.stop(), LIMIT / 2)
    loop.uv_loop.run()
    guard.close()


# ---- while the raw loop runs ----


def test_in_a_callback_of_a_raw_handle(loop):
    run(loop, asyncio.sleep(0))
    seen = []

    def tick(timer):
        seen.append(refused(loop))
        timer.close()
        loop.uv_loop.stop()

    uv.Timer(loop.uv_loop).start(tick, 0)
    raw_run(loop)
    assert seen == [True]
    check_usable(loop)


def test_in_a_protocol_that_a_raw_run_calls(loop):
    seen = []

    class Stream(asyncio.Protocol):
        def data_received(self, data):
            seen.append(refused(loop))
            loop.uv_loop.stop()

    class Datagrams(asyncio.DatagramProtocol):
        def datagram_received(self, data, addr):
            seen.append(refused(loop))
            loop.uv_loop.stop()

    async def connect():
        stream, _ = await loop.create_connection(Stream, sock=one)
        datagrams, _ = await loop.create_datagram_endpoint(
            Datagrams, local_addr=("127.0.0.1", 0)
        )
        await asyncio.sleep(0.01)
        return stream, datagrams

    async def abort():
        stream.abort()
        datagrams.abort()

    one, two = socket.socketpair()
    with two, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        stream, datagrams = run(loop, connect())
        two.send(b"x")
        raw_run(loop)
        sender.sendto(b"x", datagrams.get_extra_info("sockname"))
        raw_run(loop)
        assert seen == [True, True]
        check_usable(loop)
        run(loop, abort())


def test_by_another_thread_than_the_raw_run(loop):
    run(loop, asyncio.sleep(0))
    seen = []

    def other():
        with pytest.raises(RuntimeError, match="another thread"):
            loop.close()
        seen.append(loop.is_closed())

    thread = threading.Thread(target=other)

    def tick(timer):
        if thread.ident is None:
            thread.start()
        elif not thread.is_alive():
            thread.join()
            timer.close()
            loop.uv_loop.stop()

    uv.Timer(loop.uv_loop).start(tick, 0, 0.001)
    raw_run(loop)
    assert seen == [False]
    check_usable(loop)


def test_by_a_finalizer_in_a_raw_run(loop):
    run(loop, asyncio.sleep(0))
    seen = []

    class Closes:
        def __del__(self):
            seen.append(refused(loop))

    def tick(timer):
        Closes()
        cycle = Closes()
        cycle.me = cycle
        del cycle
        gc.collect()
        timer.close()
        loop.uv_loop.stop()

    uv.Timer(loop.uv_loop).start(tick, 0)
    raw_run(loop)
    assert seen == [True, True]
    check_usable(loop)


def test_a_child_is_still_waited_for(loop):
    async def start():
        return await asyncio.create_subprocess_exec(
            sys.executable, "-S", "-c", "input()", stdin=asyncio.subprocess.PIPE
        )

    child = run(loop, start())
    uv.Timer(loop.uv_loop).start(
        lambda timer: (refused(loop), timer.close(), loop.uv_loop.stop()), 0
    )
    raw_run(loop)

    async def end():
        child.stdin.write(b"\n")
        return await child.wait()

    assert run(loop, end()) == 0


# ---- while it runs ----


def test_while_it_runs(loop):
    async def main():
        refused(loop)
        await loop.run_in_executor(None, refused, loop)
        await asyncio.sleep(0)

    run(loop, main())
    check_usable(loop)


# ---- while it is being closed ----


def test_by_what_the_close_drops():
    """Dropping a callback, a timer and a reader runs code that closes the loop again,
    runs it, and runs the raw loop."""
    loop = uvtulip.new_event_loop()
    seen = []

    class Closes:
        def __del__(self):
            loop.close()
            for again in (loop.run_forever, loop.uv_loop.run):
                with pytest.raises(RuntimeError):
                    again()
            seen.append(None)

        def __call__(self):
            raise AssertionError

    one, two = socket.socketpair()
    with one, two:
        loop.call_soon(Closes())
        loop.call_later(100, Closes())
        loop.add_reader(one, Closes())
        loop.close()
    assert seen == [None] * 3
    assert loop.uv_loop.closed


def test_by_what_the_close_calls():
    loop = uvtulip.new_event_loop()
    seen = []

    def closed(handle):
        loop.close()
        with pytest.raises(RuntimeError):
            loop.uv_loop.close()
        with pytest.raises(RuntimeError):
            loop.uv_loop.run()
        seen.append(None)

    handle = uv.TCP(loop.uv_loop)
    handle.close(closed)
    loop.close()
    assert seen == [None]
    assert loop.uv_loop.closed


def test_an_interrupt_of_a_close_callback():
    """It is raised, and the loop is closed."""
    before = open_descriptors()
    loop = uvtulip.new_event_loop()

    def interrupt(handle):
        raise KeyboardInterrupt

    handles = [uv.TCP(loop.uv_loop, socket.AF_INET) for _ in range(3)]
    handles[1].close(interrupt)
    with pytest.raises(KeyboardInterrupt):
        loop.close()
    assert loop.is_closed()
    assert loop.uv_loop.closed
    loop.close()
    assert open_descriptors() == before


def test_two_interrupts(monkeypatch):
    unraisable = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    loop = uvtulip.new_event_loop()

    def interrupt(handle):
        raise KeyboardInterrupt(1)

    def leave(handle):
        uv.Idle(loop.uv_loop).close(lambda handle: sys.exit(2))
        raise SystemExit(1)

    uv.Idle(loop.uv_loop).close(interrupt)
    uv.Idle(loop.uv_loop).close(leave)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        loop.close()
    assert loop.uv_loop.closed
    assert len(unraisable) == 2


def test_what_opens_handles_for_ever():
    """close() says so, and works when that has come to an end."""
    loop = uvtulip.new_event_loop()
    more = True

    def open_another(handle):
        if more:
            uv.Idle(loop.uv_loop).close(open_another)

    open_another(None)
    with pytest.raises(RuntimeError, match="100"):
        loop.close()
    assert loop.is_closed()
    assert not loop.uv_loop.closed
    more = False
    loop.close()
    assert loop.uv_loop.closed


def test_by_several_threads_at_once():
    for _ in range(20):
        loop = uvtulip.new_event_loop()
        loop.run_until_complete(asyncio.sleep(0))
        barrier = threading.Barrier(3)
        failed = []

        def close(loop=loop, barrier=barrier, failed=failed):
            barrier.wait()
            try:
                loop.close()
            except RuntimeError as exc:
                failed.append(exc)  # Another one is at it.

        threads = [threading.Thread(target=close) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert loop.uv_loop.closed
        assert len(failed) < 3


# ---- the raw loop of an asyncio loop ----


def test_the_raw_loop_is_not_closed_by_itself(loop):
    with pytest.raises(RuntimeError, match="asyncio"):
        loop.uv_loop.close()
    run(loop, asyncio.sleep(0))
    for handle in loop.uv_loop.handles:
        handle.close()
    loop.uv_loop.run(uv.UV_RUN_NOWAIT)
    with pytest.raises(RuntimeError, match="asyncio"):
        loop.uv_loop.close()
    check_usable(loop)


def test_a_loop_that_is_collected():
    loop = uvtulip.new_event_loop()
    seen = []
    uv.TCP(loop.uv_loop).close(seen.append)
    with pytest.warns(ResourceWarning, match="unclosed event loop"):
        del loop
        gc.collect()
    assert [handle.closed for handle in seen] == [True]


# ---- servers ----


def test_a_server_closed_while_it_accepts(loop):
    async def main():
        made = []

        class Closes(Recorder):
            def connection_made(self, transport):
                super().connection_made(transport)
                made.append(self)
                server.close()
                for handle in loop.uv_loop.handles:
                    if isinstance(handle, (uv.Poll, uv.TCP)) and not handle.closed:
                        handle.close()

        server = await loop.create_server(Closes, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        clients = [socket.create_connection(address) for _ in range(5)]
        await until(lambda: made)
        await asyncio.sleep(0.01)
        assert not server.is_serving()
        for client in clients:
            client.close()
        await until(lambda: all(protocol.lost for protocol in made))

    run(loop, main())
    check_usable(loop)


def test_a_factory_that_closes_its_server(loop):
    async def main():
        made = []

        def factory():
            server.close()
            made.append(Recorder())
            return made[-1]

        server = await loop.create_server(factory, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        reader, writer = await asyncio.open_connection(*address)
        assert await reader.read() == b""  # dropped, as asyncio does
        writer.close()
        await server.wait_closed()
        assert len(made) == 1 and made[0].transport is None

    run(loop, main())


def test_signals_after_a_refused_close(loop):
    """What add_signal_handler() has set up stays."""
    hit = []
    loop.add_signal_handler(signal.SIGUSR1, hit.append, None)

    async def main():
        with pytest.raises(RuntimeError):
            loop.close()
        signal.raise_signal(signal.SIGUSR1)
        await until(lambda: hit)

    run(loop, main())
