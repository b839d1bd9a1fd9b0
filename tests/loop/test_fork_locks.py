"""A fork while other threads have locks of the loop's: the child has none of these
threads, and must not wait for them."""

import asyncio
import gc
import threading

import pytest

from aiosupport import run
from forksupport import in_child
from uvtulip import uv


class Busy:
    """A thread that runs a loop which is in a callback all the time."""

    def __init__(self):
        self.ready = threading.Event()
        self.end = False
        self.thread = threading.Thread(target=self.work)
        self.thread.start()
        self.ready.wait()

    def work(self):
        async def main():
            self.loop = asyncio.get_running_loop()
            self.timer = uv.Timer(self.loop.uv_loop)
            self.ready.set()
            while not self.end:
                pass

        run(main())

    def join(self):
        self.end = True
        self.thread.join()


@pytest.fixture
def busy():
    busy = Busy()
    yield busy
    busy.join()


def test_the_child_closes_the_loop(busy):
    def child():
        assert not busy.loop.is_running()
        with pytest.raises(RuntimeError):
            busy.loop.call_soon(print)
        with pytest.raises(RuntimeError):
            busy.loop.call_soon_threadsafe(print)
        busy.loop.close()
        assert busy.loop.is_closed()
        assert run(asyncio.sleep(0, 1)) == 1

    in_child(child)


def test_the_child_drops_the_loop(busy):
    def child():
        busy.timer = None
        busy.loop = None
        gc.collect()
        assert run(asyncio.sleep(0, 1)) == 1

    in_child(child)


def test_from_inside_of_a_method():
    """Which has the lock of its own loop."""
    loop = uv.Loop()
    timer = uv.Timer(loop)

    def fork(handle):
        in_child(lambda: (loop.closed, uv.Loop().close()))

    loop.walk(fork)
    timer.close()
    loop.run()
    loop.close()


def test_while_threads_call_the_loop():
    """Which have its lock for calls, for moments."""

    async def main():
        loop = asyncio.get_running_loop()
        end = threading.Event()
        called = []

        def call():
            while not end.is_set():
                loop.call_soon_threadsafe(called.append, None)

        threads = [threading.Thread(target=call) for _ in range(2)]
        for thread in threads:
            thread.start()

        def child():
            with pytest.raises(RuntimeError):
                loop.call_soon_threadsafe(print)
            threading.Thread(target=lambda: run(asyncio.sleep(0))).start()

        for _ in range(5):
            in_child(child)
            called.clear()
            await asyncio.sleep(0.001)
        end.set()
        for thread in threads:
            thread.join()

    run(main())
