"""Idle, Prepare and Check."""

import gc
import threading
import weakref

import pytest

from uvtulip import uv

KINDS = [uv.Idle, uv.Prepare, uv.Check]


@pytest.fixture(params=KINDS, ids=lambda cls: cls.__name__)
def cls(request):
    return request.param


def keep_going(loop):
    """An Idle: without one, a loop with only a Prepare or Check blocks."""
    idle = uv.Idle(loop)
    idle.start(lambda handle: None)
    return idle


def test_called_once_per_turn(loop, cls):
    idle = keep_going(loop)
    handle = cls(loop)
    calls = []
    assert handle.start(calls.append) is None
    assert handle.active
    for turn in range(1, 4):
        loop.run(uv.UV_RUN_NOWAIT)
        assert calls == [handle] * turn
    assert handle.stop() is None
    assert not handle.active
    loop.run(uv.UV_RUN_NOWAIT)
    assert calls == [handle] * 3
    idle.close()
    handle.close()
    loop.run_checked()


def test_order_within_a_turn(loop):
    order = []
    handles = []
    for kind in reversed(KINDS):
        handle = kind(loop)
        handle.start(lambda h: order.append(type(h)))
        handles.append(handle)
    loop.run(uv.UV_RUN_NOWAIT)
    loop.run(uv.UV_RUN_NOWAIT)
    assert order == KINDS * 2
    for handle in handles:
        handle.close()
    loop.run_checked()


def test_start_again_swaps_the_callback(loop, cls):
    idle = keep_going(loop)
    handle = cls(loop)
    first, second = [], []
    handle.start(first.append)
    handle.start(second.append)
    loop.run(uv.UV_RUN_NOWAIT)
    assert (first, second) == ([], [handle])
    handle.close()
    idle.close()
    loop.run_checked()


def test_swap_and_stop_inside_the_callback(loop, cls):
    idle = keep_going(loop)
    handle = cls(loop)
    calls = []

    def first(h):
        calls.append("first")
        h.start(second)

    def second(h):
        calls.append("second")
        h.stop()
        idle.close()
        h.close()

    handle.start(first)
    loop.run_checked()
    assert calls == ["first", "second"]


def test_callback_is_released_by_stop(loop, cls):
    class Callback:
        def __call__(self, handle):
            raise AssertionError("called")

    callback = Callback()
    ref = weakref.ref(callback)
    handle = cls(loop)
    handle.start(callback)
    del callback
    gc.collect()
    assert ref() is not None
    handle.stop()
    gc.collect()
    assert ref() is None
    handle.stop()
    handle.close()
    loop.run_checked()


def test_exception_is_reported_and_the_loop_goes_on(loop, cls):
    idle = keep_going(loop)
    handle = cls(loop)

    def fail(h):
        h.close()
        idle.close()
        raise ValueError("in callback")

    handle.start(fail)
    with pytest.raises(ValueError, match="in callback"):
        loop.run_checked()
    loop.run_checked()
    assert handle.closed


def test_bad_arguments(loop, cls):
    handle = cls(loop)
    for bad in (None, 1, "x"):
        with pytest.raises(TypeError, match=cls.__name__ + r"\.start\(\)"):
            handle.start(bad)
    for args in ((), (print, print)):
        with pytest.raises(TypeError):
            handle.start(*args)
    with pytest.raises(TypeError):
        handle.start(callback=print)
    with pytest.raises(TypeError):
        handle.stop(1)
    assert not handle.active
    for args in ((), (1,), (loop, 1)):
        with pytest.raises(TypeError):
            cls(*args)
    with pytest.raises(TypeError):
        cls(loop, surplus=1)


def test_closed(loop, cls):
    handle = cls(loop)
    handle.start(print)
    handle.close()
    for again in range(2):
        with pytest.raises(uv.error.HandleClosedError):
            handle.start(print)
        with pytest.raises(uv.error.HandleClosedError):
            handle.stop()
        loop.run_checked()
        assert not handle.active, again


def test_uninitialised(loop, cls):
    bare = cls.__new__(cls)
    with pytest.raises(RuntimeError, match="not initialised"):
        bare.start(print)
    with pytest.raises(RuntimeError, match="not initialised"):
        bare.stop()

    class Forgetful(cls):
        def __init__(self, loop):
            self.mine = loop

    with pytest.raises(RuntimeError, match="not initialised"):
        Forgetful(loop).start(print)


def test_second_init(loop, cls):
    handle = cls(loop)
    handle.start(print)
    with pytest.raises(RuntimeError, match="already"):
        handle.__init__(loop)
    assert handle.active
    handle.close()
    with pytest.raises(RuntimeError, match="already"):
        handle.__init__(loop)
    loop.run_checked()
    with pytest.raises(RuntimeError, match="already"):
        handle.__init__(loop)


def test_wrong_thread_while_running(loop, cls):
    idle = keep_going(loop)
    handle = cls(loop)
    seen = []

    def other():
        for call in (lambda: handle.start(print), handle.stop):
            with pytest.raises(RuntimeError, match="thread"):
                call()
            seen.append(True)

    def on_turn(h):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        h.close()
        idle.close()

    handle.start(on_turn)
    loop.run_checked()
    assert seen == [True, True]


def test_started_one_lives_without_a_name(loop, cls):
    idle = keep_going(loop)
    calls = []

    def on_turn(h):
        calls.append(True)
        if len(calls) == 2:
            h.close()
            idle.close()

    handle = cls(loop)
    handle.start(on_turn)
    ref = weakref.ref(handle)
    del handle, on_turn
    gc.collect()
    loop.run_checked()
    gc.collect()
    assert calls == [True, True]
    assert ref() is None


def test_idle_one_is_collected(loop, cls):
    handle = cls(loop)
    handle.start(print)
    handle.stop()
    handle.me = handle
    ref = weakref.ref(handle)
    del handle
    gc.collect()
    assert ref() is None
    loop.run_checked()
    loop.run(uv.UV_RUN_NOWAIT)
    assert loop.handles == []


def test_subclass(loop, cls):
    class Mine(cls):
        def __init__(self, loop, extra):
            super().__init__(loop)
            self.extra = extra

        def on_turn(self, handle):
            self.extra.append(handle)
            self.close()

    idle = keep_going(loop)
    extra = []
    handle = Mine(loop, extra)
    handle.start(handle.on_turn)
    loop.run(uv.UV_RUN_NOWAIT)
    idle.close()
    loop.run_checked()
    assert extra == [handle]
    assert handle.__dict__ == {"extra": extra}


def test_unreferenced_ones_do_not_keep_the_loop(loop, cls):
    handle = cls(loop)
    calls = []
    handle.start(calls.append)
    handle.ref = False
    assert loop.run() is False
    handle.close()
    loop.run_checked()


def test_active_idle_makes_the_poll_not_block(loop):
    calls = []
    timer = uv.Timer(loop)
    timer.start(lambda t: (idle.close(), t.close()), 0.02)

    idle = uv.Idle(loop)
    idle.start(lambda h: calls.append(h))
    loop.run_checked()
    assert len(calls) > 5


def test_one_closes_another_in_the_same_turn(loop):
    calls = []
    handles = [uv.Prepare(loop) for _ in range(3)]

    def close_others(h):
        calls.append(h)
        for other in handles:
            other.close()

    for handle in handles:
        handle.start(close_others)
    with keep_alive(loop):
        loop.run(uv.UV_RUN_NOWAIT)
    assert len(calls) == 1
    loop.run_checked()


class keep_alive:
    def __init__(self, loop):
        self.idle = keep_going(loop)

    def __enter__(self):
        return self.idle

    def __exit__(self, *exc):
        self.idle.close()
