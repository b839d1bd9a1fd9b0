"""loop.metrics(): what the asyncio loop counts about itself."""

import asyncio
import gc
import threading
import time
import weakref

import uvtulip
from aiosupport import run


def test_fresh_loop():
    loop = uvtulip.new_event_loop()
    found = loop.metrics()
    assert type(found) is uvtulip.LoopMetrics
    assert found[:8] == (0.0, 0.0, 0.0, 0, 0, 0, 0, 0)
    assert found.slowest_callback is None and found.slowest_callback_name is None
    assert found.utilisation == 0.0
    loop.close()
    assert loop.metrics()[:8] == found[:8]


def test_callbacks():
    async def main():
        loop = asyncio.get_running_loop()
        before = loop.metrics()
        for _ in range(500):
            loop.call_soon(int)
        cancelled = loop.call_soon(int)
        cancelled.cancel()
        assert loop.metrics().ready == 501
        await asyncio.sleep(0)
        counted = loop.metrics().since(before)
        # Those, and the step of this task that has just begun.
        assert counted.callbacks == 502
        assert counted.ready == 0
        assert counted.most_ready == 502
        for _ in range(1000):
            await asyncio.sleep(0)
        assert loop.metrics().since(before).callbacks == 1502

    run(main())


def test_timers():
    async def main():
        loop = asyncio.get_running_loop()
        before = loop.metrics().timers
        timers = [loop.call_later(100, int) for _ in range(7)]
        assert loop.metrics().timers == before + 7
        for timer in timers:
            timer.cancel()
        assert loop.metrics().timers <= before + 7

    run(main())


def test_utilisation():
    async def main():
        loop = asyncio.get_running_loop()
        begin = loop.metrics()
        await asyncio.sleep(0.1)
        idle = loop.metrics().since(begin)
        assert idle.idle_time >= 0.09 and idle.utilisation < 0.4
        begin = loop.metrics()
        end = time.monotonic() + 0.1
        while time.monotonic() < end:
            await asyncio.sleep(0)
        busy = loop.metrics().since(begin)
        assert busy.turns >= 1
        assert busy.utilisation > 0.9
        assert 0.09 <= busy.run_time

    run(main())


def test_longest_turn():
    async def main():
        loop = asyncio.get_running_loop()
        await asyncio.sleep(0)
        loop.call_soon(time.sleep, 0.05)
        await asyncio.sleep(0.01)
        await asyncio.sleep(0.001)      # that turn is over
        assert loop.metrics().longest_turn >= 0.048

    run(main())


def test_work_in_a_transport_is_not_idle():
    class Slow(asyncio.Protocol):
        def data_received(self, data):
            time.sleep(0.05)
            self.done.set_result(None)

    async def main():
        loop = asyncio.get_running_loop()
        slow = Slow()
        slow.done = loop.create_future()
        server = await loop.create_server(lambda: slow, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        begin = loop.metrics()
        writer.write(b"x")
        await slow.done
        await asyncio.sleep(0.001)      # the turn is over
        counted = loop.metrics().since(begin)
        assert counted.run_time - counted.idle_time >= 0.047
        assert counted.longest_turn >= 0.047
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()

    run(main())


def test_slowest_callback():
    async def main():
        loop = asyncio.get_running_loop()
        loop.call_soon(time.sleep, 0.01)
        await asyncio.sleep(0.001)
        assert loop.metrics().slowest_callback is None
        loop.time_callbacks(True)
        loop.call_soon(time.sleep, 0.02)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        found = loop.metrics()
        assert 0.02 <= found.slowest_callback < 5
        assert "sleep" in found.slowest_callback_name
        loop.time_callbacks(False)
        loop.call_soon(time.sleep, 0.04)
        await asyncio.sleep(0.001)
        assert loop.metrics().slowest_callback == found.slowest_callback
        loop.time_callbacks(True)
        assert loop.metrics().slowest_callback_name is None

    run(main(), debug=False)


def test_slowest_callback_in_debug_mode():
    async def main():
        loop = asyncio.get_running_loop()
        await asyncio.sleep(0)
        assert loop.metrics().slowest_callback > 0
        assert type(loop.metrics().slowest_callback_name) is str
        loop.set_debug(False)

    run(main(), debug=True)


def test_the_slowest_callback_is_not_kept_alive():
    class Work:
        def __call__(self):
            time.sleep(0.01)

        def __repr__(self):
            raise ZeroDivisionError

    async def main():
        loop = asyncio.get_running_loop()
        loop.time_callbacks(True)
        work = Work()
        gone = weakref.ref(work)
        loop.call_soon(work)
        del work
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        gc.collect()
        assert gone() is None
        assert loop.metrics().slowest_callback >= 0.01
        assert loop.metrics().slowest_callback_name is None

    run(main())


def test_from_another_thread():
    async def main():
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(None, loop.metrics)

    before = threading.active_count()
    assert run(main()).callbacks > 0
    assert threading.active_count() <= before


def test_since():
    one = uvtulip.LoopMetrics(1.0, 0.5, 0.1, 10, 100, 1, 5, 2, 7, 3, None, None)
    two = uvtulip.LoopMetrics(3.0, 1.0, 0.2, 25, 160, 0, 6, 1, 9, 3, 0.1, "f()")
    assert two.since(one) == (2.0, 0.5, 0.2, 15, 60, 0, 6, 1, 2, 0, 0.1, "f()")
    assert two.since(one).utilisation == 0.75
    assert two.since(one._replace(events=None)).events is None
