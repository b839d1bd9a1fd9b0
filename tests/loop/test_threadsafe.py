"""call_soon_threadsafe(): other threads, and signal handlers."""

import os
import signal
import threading
import time

import pytest

import limits
import uvtulip

LIMIT = limits.WAIT


@pytest.fixture
def loop():
    loop = uvtulip.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture
def start():
    """Starts a thread; the test fails if it does not end or raises."""
    threads, errors = [], []

    def start(target, *args):
        def run():
            try:
                target(*args)
            except BaseException as exc:
                errors.append(exc)

        thread = threading.Thread(target=run, daemon=True)
        threads.append(thread)
        thread.start()
        return thread

    yield start
    for thread in threads:
        thread.join(LIMIT)
        assert not thread.is_alive()
    assert errors == []


def test_wakes_a_blocked_loop(loop, start):
    def worker():
        # Long enough for the loop to block in its poll.
        time.sleep(0.05)
        loop.call_soon_threadsafe(seen.append, threading.get_ident())
        loop.call_soon_threadsafe(loop.stop)

    seen = []
    guard = loop.call_later(LIMIT, loop.stop)
    thread = start(worker)
    loop.run_forever()
    assert not guard.cancelled()
    assert seen == [thread.ident]


def test_before_the_loop_runs(loop, start):
    seen = []
    start(lambda: loop.call_soon_threadsafe(seen.append, 1)).join(LIMIT)
    loop.call_soon_threadsafe(loop.stop)
    loop.run_forever()
    assert seen == [1]


def test_order_of_each_thread(loop, start):
    def worker(name):
        for i in range(2000):
            loop.call_soon_threadsafe(seen.append, (name, i))
        loop.call_soon_threadsafe(done)

    def done():
        left.pop()
        if not left:
            loop.stop()

    seen, left = [], list(range(4))
    for name in "abcd":
        start(worker, name)
    loop.call_later(LIMIT, loop.stop)
    loop.run_forever()
    assert len(seen) == 8000
    for name in "abcd":
        assert [i for n, i in seen if n == name] == list(range(2000))


def test_pingpong_never_sleeps_through_a_wakeup(loop, start):
    count = 3000
    asked, answered = threading.Semaphore(0), []

    def worker():
        for i in range(count):
            assert asked.acquire(timeout=LIMIT)
            loop.call_soon_threadsafe(answer, i)

    def answer(i):
        answered.append(i)
        if i + 1 < count:
            asked.release()
        else:
            loop.stop()

    start(worker)
    asked.release()
    # No other timer or descriptor could end a poll that missed one.
    watchdog = threading.Timer(LIMIT, lambda: loop.call_soon_threadsafe(loop.stop))
    watchdog.start()
    loop.run_forever()
    watchdog.cancel()
    watchdog.join()
    assert answered == list(range(count))


def test_from_the_loops_own_thread(loop):
    seen = []

    def callback():
        loop.call_soon_threadsafe(seen.append, 1)
        loop.call_soon_threadsafe(loop.stop)

    loop.call_later(0.001, callback)
    loop.run_forever()
    assert seen == [1]


def test_the_handle_can_be_cancelled(loop):
    seen = []
    handle = loop.call_soon_threadsafe(seen.append, 1)
    handle.cancel()
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert seen == []


def test_cancelled_by_other_threads_while_it_may_be_called(loop, start):
    """With and without a lock of the interpreter: no callback is emptied in use."""
    seen = []
    keep = [object() for _ in range(5)]  # More than a handle has room for inside.

    def callback(*args):
        seen.append(len(args))

    def worker():
        for _ in range(3000):
            handle = loop.call_soon_threadsafe(callback, *keep)
            repr(handle)
            handle.cancel()
            assert handle.cancelled() and handle._callback is handle._args is None
        loop.call_soon_threadsafe(ended.append, True)

    ended = []
    for _ in range(3):
        start(worker)

    def look():
        if len(ended) == 3:
            loop.stop()
        else:
            loop.call_soon(look)

    loop.call_soon(look)
    loop.run_forever()
    assert set(seen) <= {5}


def test_closed_while_threads_go_on_calling(start):
    loop = uvtulip.new_event_loop()
    refused = []

    def worker():
        end = time.monotonic() + LIMIT
        while time.monotonic() < end:
            try:
                loop.call_soon_threadsafe(int)
            except RuntimeError as exc:
                refused.append(str(exc))
                return

    for _ in range(3):
        start(worker)
    loop.call_later(0.02, loop.stop)
    loop.run_forever()
    loop.close()
    end = time.monotonic() + LIMIT
    while len(refused) < 3 and time.monotonic() < end:
        time.sleep(0.001)
    assert refused == ["Event loop is closed"] * 3


def test_from_a_signal_handler(loop):
    seen = []

    def handler(signum, frame):
        loop.call_soon_threadsafe(seen.append, signum)
        loop.call_soon_threadsafe(loop.stop)

    old = signal.signal(signal.SIGUSR1, handler)
    try:
        watchdog = threading.Timer(0.05, os.kill, args=(os.getpid(), signal.SIGUSR1))
        watchdog.start()
        loop.call_later(LIMIT, loop.stop)
        loop.run_forever()
        watchdog.join()
    finally:
        signal.signal(signal.SIGUSR1, old)
    assert seen == [signal.SIGUSR1]


def test_stop_from_a_signal_handler(loop):
    old = signal.signal(signal.SIGUSR1, lambda signum, frame: loop.stop())
    try:
        timer = threading.Timer(0.05, os.kill, args=(os.getpid(), signal.SIGUSR1))
        timer.start()
        guard = []
        loop.call_later(LIMIT, lambda: (guard.append(1), loop.stop()))
        loop.run_forever()
        timer.join()
    finally:
        signal.signal(signal.SIGUSR1, old)
    assert guard == []


def test_keyboard_interrupt_in_a_blocked_poll(loop):
    old = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        timer = threading.Timer(0.05, os.kill, args=(os.getpid(), signal.SIGINT))
        timer.start()
        loop.call_later(LIMIT, loop.stop)
        with pytest.raises(KeyboardInterrupt):
            loop.run_forever()
        timer.join()
    finally:
        signal.signal(signal.SIGINT, old)
    assert not loop.is_running()


def test_signal_hook(loop):
    order = []

    def hook(signums):
        order.append(signums)
        loop.stop()

    old = signal.signal(signal.SIGUSR1, lambda *args: order.append("handler"))
    loop._set_signal_hook(hook)
    try:
        timer = threading.Timer(0.05, os.kill, args=(os.getpid(), signal.SIGUSR1))
        timer.start()
        loop.call_later(LIMIT, loop.stop)
        loop.run_forever()
        timer.join()
    finally:
        loop._set_signal_hook(None)
        signal.signal(signal.SIGUSR1, old)
    # Between two bytecodes Python may have run its handler already.
    assert sorted(order, key=str) == sorted(
        [bytes([signal.SIGUSR1]), "handler"], key=str
    )


def test_an_exception_of_the_signal_hook_is_reported(loop):
    errors = []

    def hook(signums):
        loop.stop()
        raise ValueError("hook")

    loop.set_exception_handler(lambda loop, context: errors.append(context))
    old = signal.signal(signal.SIGUSR1, lambda *args: None)
    loop._set_signal_hook(hook)
    try:
        loop.call_soon(os.kill, os.getpid(), signal.SIGUSR1)
        loop.call_later(LIMIT, loop.stop)
        loop.run_forever()
    finally:
        signal.signal(signal.SIGUSR1, old)
    assert str(errors[0]["exception"]) == "hook"


def test_two_loops_call_each_other(start):
    first, second = uvtulip.new_event_loop(), uvtulip.new_event_loop()
    count, seen = 500, []

    def play(here, there, i):
        seen.append(i)
        if i == count:
            first.call_soon_threadsafe(first.stop)
            second.call_soon_threadsafe(second.stop)
        else:
            there.call_soon_threadsafe(play, there, here, i + 1)

    for loop in (first, second):
        loop.call_later(LIMIT, loop.stop)
    first.call_soon(play, first, second, 0)
    thread = start(second.run_forever)
    first.run_forever()
    thread.join(LIMIT)
    first.close()
    second.close()
    assert seen == list(range(count + 1))


def test_executor(loop):
    async def main():
        return [await loop.run_in_executor(None, lambda i=i: i * i) for i in range(50)]

    assert loop.run_until_complete(main()) == [i * i for i in range(50)]
    loop.run_until_complete(loop.shutdown_default_executor())
