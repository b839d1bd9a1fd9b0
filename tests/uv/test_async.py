"""Async."""

import gc
import threading
import weakref

import pytest

from uvtulip import uv


def fail(*args):
    raise AssertionError("called")


def test_send_from_the_own_thread(loop):
    calls = []

    def on_async(handle):
        calls.append(handle)
        handle.close()

    handle = uv.Async(loop, on_async)
    assert handle.active
    assert handle.send() is None
    assert calls == []
    loop.run_checked()
    assert calls == [handle]


def test_send_from_other_threads(loop):
    threads = []
    calls = []

    def on_async(handle):
        calls.append(threading.get_ident())
        if len(calls) == 3:
            handle.close()
        else:
            send()

    def send():
        thread = threading.Thread(target=handle.send)
        threads.append(thread)
        thread.start()

    handle = uv.Async(loop, on_async)
    send()
    loop.run_checked()
    for thread in threads:
        thread.join()
    assert calls == [threading.get_ident()] * 3


@pytest.mark.parametrize("mode", ["RUN_DEFAULT", "RUN_ONCE"])
def test_sent_between_runs(loop, mode):
    """libuv watches what wakes it by edges from 1.53 on: an event that somebody else
    has taken does not come again."""
    calls = []

    def on_async(handle):
        calls.append(handle)
        loop.stop()

    handle = uv.Async(loop, on_async)
    late = uv.Timer(loop)
    late.start(lambda timer: loop.stop(), 20, 0)
    for count in range(1, 4):
        loop.run(uv.UV_RUN_NOWAIT)
        thread = threading.Thread(target=handle.send)
        thread.start()
        thread.join()
        loop.run(getattr(uv, f"UV_{mode}"))
        assert calls == [handle] * count


def test_work_that_is_done_between_runs(loop):
    done = threading.Event()
    results = []
    late = uv.Timer(loop)
    late.start(lambda timer: loop.stop(), 20, 0)
    for count in range(1, 4):
        loop.queue_work(done.set, lambda *args: (results.append(args), loop.stop()))
        assert done.wait(20)
        done.clear()
        loop.run()
        assert len(results) == count


def test_sends_are_merged(loop):
    calls = []
    handle = uv.Async(loop, calls.append)
    for _ in range(100):
        handle.send()
    loop.run(uv.UV_RUN_NOWAIT)
    assert calls == [handle]
    loop.run(uv.UV_RUN_NOWAIT)
    assert calls == [handle]
    handle.close()
    loop.run_checked()


def test_send_inside_the_callback_comes_later(loop):
    depth = [0]
    calls = []

    def on_async(handle):
        assert depth[0] == 0
        depth[0] += 1
        calls.append(handle)
        if len(calls) < 3:
            handle.send()
        else:
            handle.close()
        depth[0] -= 1

    uv_async = uv.Async(loop, on_async)
    uv_async.send()
    loop.run_checked()
    assert len(calls) == 3


def test_hammered_from_several_threads(loop):
    goal = 4 * 500
    count = [0]
    items = []

    def on_async(handle):
        while items:
            items.pop()
            count[0] += 1
        if count[0] == goal:
            handle.close()

    handle = uv.Async(loop, on_async)

    def work():
        for i in range(500):
            items.append(i)
            handle.send()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    loop.run_checked(30)
    for thread in threads:
        thread.join()
    assert count[0] == goal


@pytest.mark.parametrize("args", [(), (None,)])
def test_without_a_callback(loop, args):
    handle = uv.Async(loop, *args)
    handle.send()
    loop.run(uv.UV_RUN_NOWAIT)
    handle.close()
    loop.run_checked()


def test_callback_by_name(loop):
    calls = []
    handle = uv.Async(loop=loop, callback=calls.append)
    handle.send()
    loop.run(uv.UV_RUN_NOWAIT)
    assert calls == [handle]
    handle.close()
    loop.run_checked()


def test_bad_arguments(loop):
    for args in ((), (None,), (1, fail), (loop, 1), (loop, "x"),
                 (loop, fail, 1)):
        with pytest.raises(TypeError):
            uv.Async(*args)
    with pytest.raises(TypeError):
        uv.Async(loop, surplus=1)
    assert loop.handles == []
    handle = uv.Async(loop)
    with pytest.raises(TypeError):
        handle.send(1)
    handle.close()


def test_closed(loop):
    handle = uv.Async(loop, fail)
    handle.send()
    handle.close()
    for _ in range(2):
        with pytest.raises(uv.error.HandleClosedError):
            handle.send()
        loop.run_checked()
        assert not handle.active


def test_send_races_with_close(loop):
    """Every send either works or raises HandleClosedError."""
    for _ in range(50):
        outcome = []
        handle = uv.Async(loop)
        started = threading.Event()

        def work(handle=handle, outcome=outcome, started=started):
            started.set()
            for _ in range(100_000_000):
                try:
                    handle.send()
                except uv.error.HandleClosedError:
                    outcome.append("closed")
                    return

        thread = threading.Thread(target=work)
        thread.start()
        started.wait()
        handle.close()
        loop.run_checked()
        thread.join()
        assert outcome == ["closed"]


def test_send_does_not_mind_the_thread_while_running(loop):
    calls = []
    handle = uv.Async(loop, lambda h: (calls.append(h), h.close()))

    def on_timer(timer):
        thread = threading.Thread(target=handle.send)
        thread.start()
        thread.join()

    uv.Timer(loop).start(on_timer, 0)
    loop.run_checked()
    assert calls == [handle]


def test_uninitialised_and_second_init(loop):
    with pytest.raises(RuntimeError, match="not initialised"):
        uv.Async.__new__(uv.Async).send()

    class Forgetful(uv.Async):
        def __init__(self):
            self.sent = 0

    with pytest.raises(RuntimeError, match="not initialised"):
        Forgetful().send()
    handle = uv.Async(loop, fail)
    with pytest.raises(RuntimeError, match="already"):
        handle.__init__(loop, print)
    handle.close()
    loop.run_checked()


def test_exception_in_the_callback(loop):
    def broken(handle):
        raise ValueError("in async")

    handle = uv.Async(loop, broken)
    handle.send()
    with pytest.raises(ValueError, match="in async"):
        loop.run_checked()
    handle.close()
    loop.run_checked()


def test_keeps_the_loop_running_until_closed(loop):
    handle = uv.Async(loop)
    assert loop.run(uv.UV_RUN_NOWAIT) is True
    handle.ref = False
    assert loop.run() is False
    handle.close()
    loop.run_checked()


def test_open_one_without_a_name_is_collected(loop):
    class Mine(uv.Async):
        pass

    handle = Mine(loop, fail)
    handle.me = handle
    ref = weakref.ref(handle)
    assert handle.active
    del handle
    gc.collect()
    assert ref() is None
    loop.run_checked()
    loop.run(uv.UV_RUN_NOWAIT)
    assert loop.handles == []


def test_closing_one_lives_until_its_callback(loop):
    calls = []
    handle = uv.Async(loop)
    handle.close(lambda h: calls.append(h.closed))
    ref = weakref.ref(handle)
    del handle
    gc.collect()
    assert ref() is not None
    loop.run_checked()
    gc.collect()
    assert calls == [True] and ref() is None


def test_dropped_inside_its_own_callback(loop):
    calls = []
    keep = {}

    def on_async(handle):
        calls.append(True)
        keep.clear()

    keep["handle"] = uv.Async(loop, on_async)
    keep["handle"].send()
    loop.run_checked()
    gc.collect()
    loop.run_checked()
    assert calls == [True]
    assert loop.handles == []
