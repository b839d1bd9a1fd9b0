"""Loop.metrics(): what a raw loop counts about itself."""

import threading
import time

import pytest

from uvtulip import uv

COUNTS_EVENTS = uv.LIBUV_VERSION_INFO >= (1, 45, 0)


def test_fresh_loop(loop):
    found = loop.metrics()
    assert type(found) is uv.LoopMetrics and len(found) == 7
    assert found[:5] == (0, 0.0, 0.0, 0.0, None)
    assert (found.events is None) == (not COUNTS_EVENTS)
    assert (found.events_waiting is None) == (not COUNTS_EVENTS)


def test_waiting_and_working(loop):
    def on_timer(timer):
        time.sleep(0.03)

    uv.Timer(loop).start(on_timer, 0.05)
    loop.run_checked()
    found = loop.metrics()
    assert found.loop_count >= 1
    assert found.wait_time >= 0.048
    assert found.longest_turn >= 0.028
    assert found.run_time >= 0.078
    assert found.wait_time <= found.run_time - 0.028


def test_every_turn_counts(loop):
    before = loop.metrics().loop_count
    idle = uv.Idle(loop)
    idle.start(lambda handle: None)
    for _ in range(5):
        loop.run(uv.UV_RUN_NOWAIT)
    assert loop.metrics().loop_count == before + 5
    if COUNTS_EVENTS:
        assert loop.metrics_info()[0] == before + 5


def test_inside_of_a_run(loop):
    seen = []

    def on_timer(timer):
        time.sleep(0.01)
        seen.append(loop.metrics())

    uv.Timer(loop).start(on_timer, 0.01)
    loop.run_checked()
    assert seen[0].run_time >= 0.018
    assert seen[0].wait_time >= 0.008


def test_time_between_runs_does_not_count(loop):
    loop.run(uv.UV_RUN_NOWAIT)
    time.sleep(0.05)
    loop.run(uv.UV_RUN_NOWAIT)
    found = loop.metrics()
    assert found.run_time < 0.04 and found.longest_turn < 0.04


def test_idle_time_of_libuv(loop):
    loop.configure(uv.UV_METRICS_IDLE_TIME)
    assert loop.metrics().idle_time == 0
    uv.Timer(loop).start(lambda timer: None, 0.02)
    began = time.monotonic_ns()
    loop.run_checked()
    assert 0 < loop.metrics().idle_time <= time.monotonic_ns() - began
    assert loop.metrics().idle_time == loop.metrics_idle_time()


def test_closed_loop_and_other_threads(loop):
    other = uv.Loop()
    other.close()
    with pytest.raises(RuntimeError):
        other.metrics()
    seen = []

    def ask():
        try:
            loop.metrics()
        except RuntimeError as exc:
            seen.append(exc)

    def on_timer(timer):
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()

    uv.Timer(loop).start(on_timer, 0)
    loop.run_checked()
    assert len(seen) == 1


def test_arguments(loop):
    with pytest.raises(TypeError):
        loop.metrics(1)
