"""time() of a loop that the program has replaced: timers go by it, as asyncio's do."""

import asyncio
import threading
import time
from unittest import mock

import pytest

import uvtulip

FACTORIES = {"asyncio": asyncio.SelectorEventLoop, "uvtulip": uvtulip.Loop}


@pytest.fixture(params=FACTORIES)
def kind(request):
    return FACTORIES[request.param]


@pytest.fixture
def loop(kind):
    loop = kind()
    yield loop
    loop.close()


def seen_in(loop, turns=2):
    """What call_later() and call_at() have called until so many turns later."""
    seen = []

    async def main():
        now = loop.time()
        loop.call_later(1000, seen.append, "later")
        loop.call_at(now + 500, seen.append, "at")
        for _ in range(turns):
            await asyncio.sleep(0)
        assert seen == []
        loop.time.return_value += 500
        for _ in range(turns):
            await asyncio.sleep(0)
        assert seen == ["at"]
        loop.time.return_value += 500
        for _ in range(turns):
            await asyncio.sleep(0)

    loop.run_until_complete(main())
    return seen


@pytest.mark.parametrize("start", [0.0, 1e6, -1e6])
def test_of_one_loop(loop, start):
    with mock.patch.object(loop, "time", return_value=start):
        assert seen_in(loop) == ["at", "later"]
    assert abs(loop.time() - time.monotonic()) < 10


def test_while_it_runs(loop):
    """It goes back to the clock itself, too."""
    seen = []

    async def main():
        loop.call_later(1000, seen.append, 1)
        with mock.patch.object(loop, "time", return_value=loop.time() + 1001):
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert seen == [1]
            loop.call_later(-1001, seen.append, 2)
            timer = loop.call_later(0, seen.append, 3)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert seen == [1, 2]
        timer.cancel()
        await asyncio.sleep(0.01)

    loop.run_until_complete(main())
    assert seen == [1, 2]


def test_of_a_class_between_runs(kind, loop):
    with mock.patch.object(kind, "time", return_value=5.0):
        assert seen_in(loop) == ["at", "later"]


def test_of_a_subclass(kind):
    class Ahead(kind):
        by = 0.0

        def time(self):
            return super().time() + self.by

    async def main():
        sleeping = asyncio.ensure_future(asyncio.sleep(10_000))
        await asyncio.sleep(0)
        loop.by = 10_001.0
        await sleeping
        return loop.call_later(0.0, print).when()

    loop = Ahead()
    try:
        assert loop.run_until_complete(main()) > time.monotonic() + 9_000
    finally:
        loop.close()


def test_a_clock_that_stands_still(loop):
    """The loop waits as long as that clock says, and then again."""
    seen = []
    with mock.patch.object(loop, "time", return_value=10.0) as clock:
        loop.call_later(0.05, seen.append, "never")
        timer = threading.Timer(0.3, loop.call_soon_threadsafe, (loop.stop,))
        timer.start()
        loop.run_forever()
        timer.join()
        assert seen == [] and clock.call_count < 200


def test_a_clock_that_moves_on_while_the_loop_waits(loop):
    with mock.patch.object(loop, "time", return_value=10.0) as clock:
        loop.call_later(0.02, loop.stop)
        timer = threading.Timer(0.1, setattr, (clock, "return_value", 11.0))
        timer.start()
        loop.run_forever()
        timer.join()
        assert loop.time() == 11.0


def test_what_it_raises_ends_the_run(loop):
    with mock.patch.object(loop, "time", return_value=1.0) as clock:
        loop.call_later(10, print)
        clock.side_effect = ZeroDivisionError
        with pytest.raises(ZeroDivisionError):
            loop.run_forever()
        with pytest.raises(ZeroDivisionError):
            loop.call_later(1, print)
        clock.side_effect = None
        clock.return_value = 11.0
        loop.call_soon(loop.call_soon, loop.stop)
        loop.run_forever()


def test_asyncio_timeouts_go_by_it(loop):
    async def main():
        with mock.patch.object(loop, "time", return_value=100.0) as clock:
            loop.call_soon(setattr, clock, "return_value", 200.0)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(50):
                    await loop.create_future()

    loop.run_until_complete(main())
