"""call_later(), call_at() and TimerHandle."""

import asyncio
import gc
import itertools
import random
import sys
import time
import weakref

import pytest

import uvtulip


@pytest.fixture
def loop():
    loop = uvtulip.new_event_loop()
    loop.set_debug(False)
    yield loop
    loop.close()


def run_for(loop, seconds):
    loop.call_later(seconds, loop.stop)
    loop.run_forever()


def test_time_is_monotonic_and_alive(loop):
    before = time.monotonic()
    now = loop.time()
    after = time.monotonic()
    assert before <= now <= after
    assert loop.time() >= now


@pytest.mark.parametrize("delay", [0, 0.0, 0.0004, 0.001, 0.0015, 0.01, 0.0501])
def test_never_early(loop, delay):
    seen = []
    begin = loop.time()
    timer = loop.call_later(delay, lambda: (seen.append(loop.time()), loop.stop()))
    assert timer.when() >= begin + delay
    loop.run_forever()
    assert seen[0] >= timer.when()


def test_call_at_keeps_when(loop):
    when = loop.time() + 0.005
    seen = []
    timer = loop.call_at(when, lambda: (seen.append(loop.time()), loop.stop()))
    assert timer.when() == when
    loop.run_forever()
    assert seen[0] >= when


def test_order_is_by_time_then_by_age(loop):
    rng = random.Random(1)
    now = loop.time()
    delays = [rng.randrange(20) / 10000 for _ in range(2000)]
    seen = []
    for i, delay in enumerate(delays):
        loop.call_at(now + delay, seen.append, i)
    run_for(loop, 0.01)
    assert seen == sorted(range(2000), key=lambda i: (delays[i], i))


def test_a_timer_and_callbacks_of_the_same_turn(loop):
    seen = []
    loop.call_later(0, seen.append, "timer")
    loop.call_soon(seen.append, "soon")
    run_for(loop, 0.001)
    assert seen == ["soon", "timer"]


def test_the_past_is_now(loop):
    seen = []
    loop.call_at(0, seen.append, 1)
    loop.call_later(-5, seen.append, 2)
    loop.call_at(float("-inf"), seen.append, 3)
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert seen == [3, 1, 2]


def test_the_far_future(loop):
    for timer in (
        loop.call_later(float("inf"), print),
        loop.call_at(1e300, print),
        loop.call_later(10**9, print),
    ):
        assert not timer.cancelled()
    run_for(loop, 0.002)


def test_wrong_times(loop):
    with pytest.raises(TypeError, match="delay must not be None"):
        loop.call_later(None, print)
    with pytest.raises(TypeError, match="when cannot be None"):
        loop.call_at(None, print)
    for method in (loop.call_later, loop.call_at):
        with pytest.raises(TypeError):
            method("1", print)
        with pytest.raises(TypeError):
            method(1)
        with pytest.raises(TypeError):
            method()
        with pytest.raises(TypeError, match="unexpected keyword"):
            method(1, print, what=2)
        with pytest.raises(ValueError, match="NaN"):
            method(float("nan"), print)
        with pytest.raises(OverflowError):
            method(10**400, print)


def test_keywords(loop):
    timer = loop.call_later(delay=10, callback=print)
    assert timer._callback is print
    timer = loop.call_at(when=10, callback=print, context=None)
    assert timer.when() == 10
    timer.cancel()


def test_cancelling_takes_it_out_at_once(loop):
    class Thing:
        pass

    thing = Thing()
    gone = weakref.ref(thing)
    timer = loop.call_later(1000, print, thing)
    timer_gone = weakref.ref(timer)
    assert timer._scheduled
    del thing
    timer.cancel()
    assert timer.cancelled()
    assert not timer._scheduled
    assert gone() is None
    del timer
    assert timer_gone() is None


def test_cancelling_in_any_order(loop):
    rng = random.Random(2)
    for _ in range(20):
        now = loop.time()
        seen = []
        timers = {}
        for i in range(500):
            delay = rng.random() / 200
            timers[i] = (delay, loop.call_at(now + delay, seen.append, i))
        for i in rng.sample(range(500), rng.randrange(500)):
            timers.pop(i)[1].cancel()
        run_for(loop, 0.006)
        assert seen == sorted(timers, key=lambda i: timers[i][0])


def test_cancelling_one_that_is_due_already(loop):
    seen = []
    now = loop.time()

    def first():
        seen.append(1)
        second.cancel()

    loop.call_at(now, first)
    second = loop.call_at(now, seen.append, 2)
    run_for(loop, 0.001)
    assert seen == [1]


def test_an_earlier_timer_set_by_a_callback(loop):
    seen = []
    loop.call_later(5, seen.append, "late")
    loop.call_later(0.002, lambda: loop.call_later(0.001, loop.stop))
    loop.run_forever()
    assert seen == []


def test_the_first_timer_cancelled_while_the_second_waits(loop):
    seen = []
    first = loop.call_later(0.005, seen.append, "first")
    loop.call_later(0.001, first.cancel)
    loop.call_later(0.01, lambda: (seen.append("second"), loop.stop()))
    loop.run_forever()
    assert seen == ["second"]


def test_rescheduling_from_its_own_callback(loop):
    ticks = []

    def tick():
        ticks.append(loop.time())
        if len(ticks) == 20:
            loop.stop()
        else:
            loop.call_later(0.0003, tick)

    loop.call_soon(tick)
    loop.run_forever()
    assert all(b - a >= 0.0003 for a, b in itertools.pairwise(ticks))


def test_a_lone_timer_does_not_leave_the_poll_blocked(loop):
    # On libuv before 1.45 it fires right before the poll.
    for _ in range(20):
        loop.call_later(0.001, loop.stop)
        loop.run_forever()
        time.sleep(0.002)
    loop.call_later(0.001, loop.stop)
    time.sleep(0.005)
    loop.run_forever()


def test_many_live_timers_and_their_memory(loop):
    def burst():
        timers = [loop.call_later(100 + i % 77, print, i) for i in range(20000)]
        for timer in timers:
            timer.cancel()

    burst()
    gc.collect()
    before = sys.getallocatedblocks()
    for _ in range(3):
        burst()
    gc.collect()
    assert sys.getallocatedblocks() - before < 500


def test_timer_handles_compare_and_hash_as_asyncios(loop):
    def callback():
        pass

    now = loop.time() + 100
    first = loop.call_at(now, callback)
    same = loop.call_at(now, callback)
    other = loop.call_at(now, print)
    later = loop.call_at(now + 1, callback)
    assert first == same
    assert first != other
    assert hash(first) == hash(same) == hash(now)
    assert first < later and first <= later and first <= same
    assert later > first and later >= first
    assert not first < same
    assert first != 1
    with pytest.raises(TypeError):
        assert first < 1
    reference = asyncio.TimerHandle(now, callback, (), loop)
    assert first == reference
    assert first < asyncio.TimerHandle(now + 1, callback, (), loop)
    same.cancel()
    assert first != same


def test_reprs_are_asyncios(loop):
    def callback(*args):
        pass

    timer = loop.call_later(100, callback, 1)
    reference = asyncio.TimerHandle(timer.when(), callback, (1,), loop)
    assert repr(timer) == repr(reference)
    timer.cancel()
    assert repr(timer) == f"<TimerHandle cancelled when={timer.when()}>"


def test_closing_drops_timers():
    loop = uvtulip.new_event_loop()
    timers = [loop.call_later(i, print) for i in range(100)]
    loop.close()
    assert not any(timer._scheduled for timer in timers)
    for timer in timers:
        timer.cancel()


def test_timeouts_of_asyncio(loop):
    async def main():
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(loop.create_future(), 0.002)
        assert await asyncio.wait_for(asyncio.sleep(0.001, "done"), 30) == "done"

    loop.run_until_complete(asyncio.wait_for(main(), 30))


def test_sleeping_tasks_wake_in_order(loop):
    async def nap(seconds):
        await asyncio.sleep(seconds)
        seen.append(seconds)

    async def main():
        await asyncio.gather(*[nap(i / 500) for i in (5, 3, 1, 4, 2)])

    seen = []
    loop.run_until_complete(main())
    assert seen == sorted(seen)
