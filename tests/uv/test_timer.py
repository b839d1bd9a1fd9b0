"""Timer."""

import gc
import os
import signal
import threading
import time
import weakref

import pytest

from uvtulip import uv


def fail(*args):
    raise AssertionError("called")


def test_fires_once(loop):
    calls = []
    timer = uv.Timer(loop)
    assert timer.start(calls.append, 0.001) is None
    assert timer.active
    loop.run_checked()
    assert calls == [timer]
    assert not timer.active and not timer.closed


def test_never_early_by_the_time_of_the_loop(loop):
    loop.update_time()
    begin = loop.now()
    seen = []
    for ms in (3, 1, 7, 5):
        uv.Timer(loop).start(lambda t, ms=ms: seen.append((ms, loop.now())),
                             ms / 1000)
    loop.run_checked()
    assert [ms for ms, _ in seen] == [1, 3, 5, 7]
    assert all(now - begin >= ms for ms, now in seen)


@pytest.mark.parametrize("how", ["start", "again"])
def test_time_between_two_runs_does_not_count(loop, how):
    """libuv's time stands still there; a timer counts from the call all the same."""
    timer, ends = uv.Timer(loop), []
    timer.start(fail, 100, 0.02)
    loop.run(uv.UV_RUN_NOWAIT)
    time.sleep(0.03)
    begin = time.monotonic()
    if how == "start":
        timer.start(lambda t: (ends.append(time.monotonic()), t.close()), 0.02)
    else:
        timer.stop()
        timer.start(lambda t: (ends.append(time.monotonic()), t.close()), 100, 0.02)
        time.sleep(0.03)
        begin = time.monotonic()
        timer.again()
    loop.run_checked()
    assert ends[0] - begin > 0.018  # libuv counts whole milliseconds


def test_repeats_until_stopped(loop):
    calls = []

    def on_timer(t):
        calls.append(t.repeat)
        if len(calls) == 3:
            t.stop()

    timer = uv.Timer(loop)
    timer.start(on_timer, 0, 0.001)
    loop.run_checked()
    assert calls == [0.001] * 3
    assert not timer.active


def test_start_again_replaces(loop):
    calls = []
    timer = uv.Timer(loop)
    timer.start(fail, 100)
    timer.start(calls.append, 0)
    loop.run_checked()
    assert calls == [timer]


def test_start_inside_the_callback(loop):
    calls = []

    def first(t):
        calls.append("first")
        t.start(second, 0)

    def second(t):
        calls.append("second")

    timer = uv.Timer(loop)
    timer.start(first, 0)
    loop.run_checked()
    assert calls == ["first", "second"]


def test_stop_is_harmless_and_keeps_the_callback(loop):
    calls = []
    timer = uv.Timer(loop)
    timer.stop()
    timer.start(lambda t: (calls.append(t), t.stop()), 100, 0.001)
    timer.stop()
    timer.stop()
    assert not timer.active
    timer.again()
    assert timer.active
    loop.run_checked()
    assert calls == [timer]


def test_again(loop):
    timer = uv.Timer(loop)
    with pytest.raises(uv.error.TimerError) as info:
        timer.again()
    assert info.value.name == "EINVAL" and info.value.call == "uv_timer_again"
    timer.start(fail, 100)
    timer.stop()
    timer.again()
    assert not timer.active     # no repeat: nothing to do
    timer.repeat = 200
    timer.again()
    assert timer.active and timer.get_due_in() > 150
    timer.close()
    loop.run_checked()


def test_repeat(loop):
    timer = uv.Timer(loop)
    assert timer.repeat == 0.0 and type(timer.repeat) is float
    timer.repeat = 1.5
    assert timer.repeat == 1.5
    with pytest.raises(ValueError):
        timer.repeat = -1
    with pytest.raises(TypeError):
        timer.repeat = "1"
    with pytest.raises(AttributeError):
        del timer.repeat
    assert timer.repeat == 1.5


def test_get_due_in(loop):
    timer = uv.Timer(loop)
    assert timer.get_due_in() == 0.0
    timer.start(fail, 50)
    assert 49 < timer.get_due_in() <= 50
    assert timer.due_in == timer.get_due_in()
    timer.stop()
    timer.close()
    loop.run_checked()


def test_huge_times(loop):
    timer = uv.Timer(loop)
    for seconds in (1e15, 1e18, 1e300):
        timer.start(fail, seconds, seconds)
        loop.run(uv.UV_RUN_NOWAIT)
        assert timer.active
    timer.close()
    loop.run_checked()


def test_close_inside_the_callback(loop):
    calls = []
    timer = uv.Timer(loop)
    timer.start(lambda t: t.close(calls.append), 0, 0.001)
    loop.run_checked()
    assert calls == [timer] and timer.loop is None


def test_close_of_another_that_is_due(loop):
    timers = [uv.Timer(loop), uv.Timer(loop)]
    calls = []

    def close_both(t):
        calls.append(t)
        for timer in timers:
            timer.close()

    for timer in timers:
        timer.start(close_both, 0)
    loop.run_checked()
    assert calls == timers[:1]


def test_exception_in_a_callback(loop):
    def broken(t):
        raise ValueError("in timer")

    timer = uv.Timer(loop)
    timer.start(broken, 0)
    with pytest.raises(ValueError, match="in timer"):
        loop.run_checked()
    assert not timer.active
    timer.start(lambda t: None, 0)
    loop.run_checked()


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_other_exceptions_end_the_run(kind):
    loop = uv.Loop()
    timer = uv.Timer(loop)

    def leave(t):
        raise kind

    timer.start(leave, 0, 0.001)
    with pytest.raises(kind):
        loop.run()
    assert timer.active
    timer.close()
    loop.run()
    loop.close()


def test_many_timers_in_order(loop):
    seen = []

    def start_all(idle):
        # Inside of a run: the loop's time is one for all.
        for i in range(1000):
            uv.Timer(loop).start(lambda t, i=i: seen.append(i % 10), (i % 10) / 1000)
        idle.close()

    uv.Idle(loop).start(start_all)
    loop.run_checked()
    assert seen == sorted(seen) and len(seen) == 1000


def test_closed(loop):
    timer = uv.Timer(loop)
    timer.start(fail, 1)
    timer.close()
    for _ in range(2):
        for call in (lambda: timer.start(fail, 1), timer.stop, timer.again,
                     timer.get_due_in):
            with pytest.raises(uv.error.HandleClosedError):
                call()
        loop.run_checked()


def test_uninitialised():
    bare = uv.Timer.__new__(uv.Timer)
    for call in (lambda: bare.start(fail, 1), bare.stop, bare.again,
                 bare.get_due_in, lambda: bare.repeat,
                 lambda: setattr(bare, "repeat", 1)):
        with pytest.raises(RuntimeError, match="not initialised"):
            call()


def test_second_init(loop):
    timer = uv.Timer(loop)
    timer.start(fail, 100)
    with pytest.raises(RuntimeError, match="already"):
        timer.__init__(loop)
    assert timer.active
    timer.close()
    loop.run_checked()


def test_wrong_thread_while_running(loop):
    timer = uv.Timer(loop)
    seen = []

    def other():
        for call in (lambda: timer.start(fail, 1), timer.stop, timer.again,
                     timer.get_due_in, timer.close, lambda: timer.repeat):
            with pytest.raises(RuntimeError, match="thread"):
                call()
            seen.append(True)

    def on_timer(t):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()

    timer.start(on_timer, 0)
    loop.run_checked()
    assert len(seen) == 6


def test_any_thread_may_use_it_while_nobody_runs_the_loop(loop):
    calls = []
    thread = threading.Thread(
        target=lambda: uv.Timer(loop).start(calls.append, 0))
    thread.start()
    thread.join()
    loop.run_checked()
    assert len(calls) == 1


def test_ticking_one_lives_without_a_name(loop):
    calls = []
    timer = uv.Timer(loop)
    timer.start(lambda t: calls.append(True), 0.001)
    ref = weakref.ref(timer)
    del timer
    gc.collect()
    assert ref() is not None
    loop.run_checked()
    assert calls == [True]
    assert ref() is None        # it fired and nobody has it


def test_cycle_is_collected_when_it_does_not_tick(loop):
    class Mine(uv.Timer):
        pass

    timer = Mine(loop)
    timer.callback = lambda t, timer=timer: timer
    timer.start(timer.callback, 100)
    ref = weakref.ref(timer)
    timer.stop()
    del timer
    gc.collect()
    assert ref() is None
    loop.run_checked()
    loop.run(uv.UV_RUN_NOWAIT)
    assert loop.handles == []


def test_collected_with_its_loop_while_it_ticks():
    loop = uv.Loop()
    timer = uv.Timer(loop)
    timer.start(lambda t, timer=timer: timer, 100)
    refs = [weakref.ref(timer), weakref.ref(loop)]
    del timer, loop
    gc.collect()
    assert [ref() for ref in refs] == [None, None]


def test_subclass_with_attributes(loop):
    class Mine(uv.Timer):
        def __init__(self, loop, word):
            super().__init__(loop)
            self.word = word

    timer = Mine(loop, "x")
    said = []
    timer.start(lambda t: said.append(t.word), 0)
    loop.run_checked()
    assert said == ["x"]


def test_unreferenced_timer_does_not_keep_the_loop(loop):
    timer = uv.Timer(loop)
    timer.start(fail, 100)
    timer.ref = False
    begin = time.monotonic()
    assert loop.run() is False
    assert time.monotonic() - begin < 50


# ---- a callback that always makes more to do ----


def start_itself(loop, turn):
    timer = uv.Timer(loop)

    def on_timer(handle):
        if turn():
            handle.start(on_timer, 0)

    timer.start(on_timer, 0)


def start_each_other(loop, turn):
    first, second = uv.Timer(loop), uv.Timer(loop)

    def on_first(handle):
        if turn():
            second.start(on_second, 0)

    def on_second(handle):
        if turn():
            first.start(on_first, 0)

    first.start(on_first, 0)


def start_a_new_one(loop, turn):
    def on_timer(handle):
        handle.close()
        if turn():
            uv.Timer(loop).start(on_timer, 0)

    uv.Timer(loop).start(on_timer, 0)


def repeat_slower_than_its_time(loop, turn):
    def on_timer(handle):
        time.sleep(0.002)
        loop.update_time()
        if not turn():
            handle.stop()

    uv.Timer(loop).start(on_timer, 0, 0.001)


def start_again_behind_its_time(loop, turn):
    def on_timer(handle):
        handle.again()
        time.sleep(0.002)
        loop.update_time()
        if not turn():
            handle.stop()

    uv.Timer(loop).start(on_timer, 0, 0.001)


def send_to_itself(loop, turn):
    def on_async(handle):
        handle.send() if turn() else handle.close()

    loop.kept = uv.Async(loop, on_async)
    loop.kept.send()


def queue_more_work(loop, turn):
    def done(error):
        if turn():
            loop.queue_work(lambda: None, done)

    loop.queue_work(lambda: None, done)


def always_idle(loop, turn):
    idle = uv.Idle(loop)

    def on_idle(handle):
        handle.stop()
        if turn():
            handle.start(on_idle)

    idle.start(on_idle)


def prepare_and_check(loop, turn):
    prepare, check, idle = uv.Prepare(loop), uv.Check(loop), uv.Idle(loop)
    idle.start(lambda handle: None)

    def on_check(handle):
        check.stop()
        if turn():
            prepare.start(on_prepare)
        else:
            idle.stop()

    def on_prepare(handle):
        prepare.stop()
        check.start(on_check)

    prepare.start(on_prepare)


BUSY = [start_itself, start_each_other, start_a_new_one, repeat_slower_than_its_time,
        start_again_behind_its_time, send_to_itself, queue_more_work, always_idle,
        prepare_and_check]
MOST = 20000


@pytest.mark.parametrize("busy", BUSY)
def test_busy_callbacks_let_io_and_timers_in(loop, busy):
    """A pipe that is ready and a timer are heard of while callbacks make more."""
    count, heard = [0], []
    reading, writing = os.pipe()
    os.write(writing, b"x")
    poll = uv.Poll(loop, reading)

    def hear(what):
        assert count[0] < MOST
        heard.append(what)
        if set(heard) == {"pipe", "timer"}:
            count[0] = MOST

    def on_poll(handle, events, error):
        handle.close()
        hear("pipe")

    def on_timer(handle):
        handle.close()
        hear("timer")

    def turn():
        count[0] += 1
        return count[0] < MOST

    busy(loop, turn)
    poll.start(uv.UV_READABLE, on_poll)
    uv.Timer(loop).start(on_timer, 0.001)
    loop.run_checked(30)
    assert sorted(heard) == ["pipe", "timer"]
    for fd in (reading, writing):
        os.close(fd)


@pytest.mark.parametrize("busy", BUSY)
def test_busy_callbacks_can_stop_the_loop(loop, busy):
    count = [0]

    def turn():
        count[0] += 1
        if count[0] == 10:
            loop.stop()
        return count[0] < MOST

    busy(loop, turn)
    loop.run()
    assert 10 <= count[0] < 200
    count[0] = MOST
    loop.run_checked()


@pytest.mark.parametrize("busy", BUSY)
def test_ctrl_c_reaches_busy_callbacks(busy):
    loop, count = uv.Loop(), [0]

    def turn():
        count[0] += 1
        if count[0] == 10:
            signal.raise_signal(signal.SIGINT)
        return count[0] < MOST

    busy(loop, turn)
    with pytest.raises(KeyboardInterrupt):
        loop.run()
    assert 10 <= count[0] < 200
    count[0] = MOST
    for handle in loop.handles:
        if not handle.closed:
            handle.close()
    loop.run()
    loop.close()


@pytest.mark.parametrize("mode", [uv.UV_RUN_ONCE, uv.UV_RUN_NOWAIT])
def test_a_timer_of_zero_has_one_call_in_each_pass(loop, mode):
    calls = []

    def on_timer(handle):
        calls.append(handle.due_in)
        handle.start(on_timer, 0)

    timer = uv.Timer(loop)
    timer.start(on_timer, 0)
    for _ in range(20):
        assert loop.run(mode)
        assert timer.active and timer.due_in == 0
    assert 18 <= len(calls) <= 40
    timer.stop()
    assert not loop.run(mode)
    assert len(calls) <= 40
