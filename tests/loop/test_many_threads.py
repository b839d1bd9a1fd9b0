"""Several threads at the same loops, with a GIL and without.

A loop belongs to the thread that runs it.  What others do to its objects is refused
or harmless, whenever it comes; and loops of several threads have nothing to do with
each other.
"""

import asyncio
import gc
import queue
import threading
import time

import uvtulip
from aiosupport import LIMIT, run, until
from threadsupport import (
    THREADS,
    Running,
    echo_by_streams,
    look_from_threads,
    meddle_from_threads,
    together,
)
from uvtulip import uv

# ---- a loop in each thread ----


def test_each_has_a_server_and_clients():
    def work():
        return run(echo_by_streams(20))

    assert together(*[work] * THREADS) == [210_000] * THREADS


def test_each_uses_all_that_loops_share():
    """The thread pool, names, files, subprocesses, datagrams, timers."""

    class Echo(asyncio.DatagramProtocol):
        def connection_made(self, transport):
            self.transport = transport

        def datagram_received(self, data, addr):
            self.transport.sendto(data, addr)

    class Asker(asyncio.DatagramProtocol):
        def __init__(self):
            self.got = []

        def datagram_received(self, data, addr):
            self.got.append(data)

    async def main():
        loop = asyncio.get_running_loop()
        done = []
        for i in range(20):
            loop.uv_loop.queue_work(lambda i=i: done.append(i))
            uv.dns.getaddrinfo(
                loop.uv_loop, "localhost", callback=lambda r, e: done.append(e)
            )
            uv.fs.stat(loop.uv_loop, "/", callback=lambda r: done.append(r.error))
            loop.uv_loop.random(8, lambda data, error: done.append(error))
        assert await loop.run_in_executor(None, sum, (1, 2, 3)) == 6
        await loop.getaddrinfo("localhost", 80)
        process = await asyncio.create_subprocess_exec(
            "cat", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        assert await process.communicate(b"abc") == (b"abc", None)
        echo, _ = await loop.create_datagram_endpoint(Echo, local_addr=("127.0.0.1", 0))
        asker, protocol = await loop.create_datagram_endpoint(
            Asker, remote_addr=echo.get_extra_info("sockname")
        )
        for i in range(50):
            asker.sendto(b"%d" % i)
            await asyncio.sleep(0.0001)
        await until(lambda: len(protocol.got) == 50 and len(done) == 80)
        asker.close()
        echo.close()
        return sorted(done, key=str)

    expected = sorted([*range(20), *[None] * 60], key=str)
    assert together(*[lambda: run(main())] * THREADS) == [expected] * THREADS


def test_loops_are_made_and_closed_all_the_time():
    def raw():
        for _ in range(100):
            loop = uv.Loop()
            timer = uv.Timer(loop)
            fired = []
            timer.start(lambda timer, fired=fired: (fired.append(1), timer.close()), 0)
            loop.run()
            assert fired == [1]
            loop.close()

    def dropped():
        for i in range(100):
            loop = uv.Loop()
            uv.Timer(loop).start(print, 100)
            uv.Async(loop, print)
            if i % 20 == 0:
                gc.collect()  # Each one has descriptors until it is collected.

    def asyncios():
        for _ in range(50):
            loop = uvtulip.new_event_loop()
            assert loop.run_until_complete(asyncio.sleep(0, "x")) == "x"
            loop.close()

    together(raw, raw, dropped, dropped, asyncios, asyncios)


def test_the_default_loop_is_one():
    loops = together(*[uv.Loop.default_loop] * THREADS)
    assert [loop is uv.Loop.default_loop() for loop in loops] == [True] * THREADS


# ---- one loop for all, which nobody runs ----


def test_handles_are_made_on_an_idle_loop():
    loop = uv.Loop()
    fired, closed = [], []

    def work():
        for _ in range(200):
            timer = uv.Timer(loop)
            timer.start(lambda timer: (fired.append(1), timer.close()), 0)
            pipe = uv.Pipe(loop)
            pipe.close(lambda pipe: closed.append(1))
            uv.UDP(loop)
            uv.Async(loop, print).close()

    together(*[work] * THREADS)
    loop.run()
    assert len(fired) == len(closed) == 200 * THREADS
    for handle in loop.handles:
        if not handle.closed:
            handle.close()
    loop.run()
    loop.close()


def test_callbacks_are_queued_on_an_idle_loop():
    loop = uvtulip.new_event_loop()
    called = []

    def work():
        for i in range(500):
            loop.call_soon_threadsafe(called.append, i)
            handle = loop.call_later(0, called.append, "never")
            handle.cancel()
            loop.call_soon(called.append, i)

    together(*[work] * THREADS)
    loop.call_later(0.01, loop.stop)
    loop.run_forever()
    loop.close()
    assert sorted(called) == sorted([*range(500)] * 2 * THREADS)


def test_who_runs_it_first_has_it():
    loop = uvtulip.new_event_loop()
    refused, held = [], []

    def hold():
        """The loop goes on until all others have tried."""
        held.append(threading.get_ident())
        end = time.monotonic() + LIMIT
        while len(refused) < THREADS - 1 and time.monotonic() < end:
            time.sleep(0.001)
        loop.stop()

    def work():
        try:
            loop.run_forever()
        except RuntimeError as exc:
            refused.append(str(exc))

    loop.call_soon(hold)
    together(*[work] * THREADS)
    loop.close()
    assert len(held) == 1
    assert len(refused) == THREADS - 1
    assert all("running" in message or "runs" in message for message in refused)


# ---- one loop, which another thread runs ----


def test_others_look_at_what_a_running_loop_has():
    look_from_threads()


def test_others_meddle_with_what_a_running_loop_has():
    meddle_from_threads()


def test_what_a_running_loop_has_is_dropped_by_others():
    """Handles, transports, timers and futures end in the thread that has the last
    reference, while the loop goes on with the rest."""
    handed = queue.SimpleQueue()
    count = 600

    class Silent(asyncio.Protocol):
        pass

    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Silent, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        for i in range(count):
            uv_loop = loop.uv_loop
            handed.put(uv.Timer(uv_loop))
            handed.put(uv.Async(uv_loop, print))
            handed.put([uv.Pipe(uv_loop), uv.UDP(uv_loop)])
            handed.put(loop.call_later(0.001, int))
            handed.put(loop.call_soon(int))
            handed.put(loop.create_future())
            if i % 20 == 0:
                transport, _ = await loop.create_connection(Silent, *address)
                transport.close()
                handed.put(transport)
                del transport
            await asyncio.sleep(0)
        for _ in range(THREADS):
            handed.put(None)
        server.close()
        await server.wait_closed()
        await until(lambda: len(loop.uv_loop.handles) < 50)
        return True

    def drop():
        dropped = 0
        while (thing := handed.get(timeout=LIMIT)) is not None:
            cycle = [thing]
            cycle.append(cycle)
            del thing, cycle
            dropped += 1
            if dropped % 200 == 0:
                gc.collect()
        gc.collect()
        return dropped

    dropped = together(lambda: run(main()), *[drop] * THREADS)
    assert dropped[0] is True
    assert sum(dropped[1:]) == count * 6 + count // 20


def test_futures_and_tasks_from_all_threads():
    with Running() as running:

        async def double(i):
            await asyncio.sleep(0)
            return 2 * i

        def work():
            futures = [
                asyncio.run_coroutine_threadsafe(double(i), running.loop)
                for i in range(200)
            ]
            return [future.result(LIMIT) for future in futures]

        assert together(*[work] * THREADS) == [[2 * i for i in range(200)]] * THREADS


def test_an_async_handle_is_sent_by_all_and_closed_in_between():
    loop = uv.Loop()
    woken = []
    handles = [uv.Async(loop, woken.append) for _ in range(50)]
    keep = uv.Timer(loop)
    done = []

    def send():
        for _ in range(20):
            for handle in handles:
                try:
                    handle.send()
                except uv.error.HandleClosedError:
                    pass
        done.append(1)

    def tick(timer):
        left = [handle for handle in handles if not handle.closed]
        if len(done) == THREADS:
            timer.close()
        else:
            del left[1:]
        for handle in left:
            handle.close()

    keep.start(tick, 0.001, 0.001)
    together(loop.run, *[send] * THREADS)
    loop.close()
    assert all(handle.closed for handle in handles)
    assert set(woken) <= set(handles)
