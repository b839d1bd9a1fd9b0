"""Loops and handles that are dropped: what is freed, and what is said."""

import asyncio
import gc
import os
import socket
import sys
import weakref

import pytest

import uvtulip
from uvtulip import _transports, uv


class Thing:
    def method(self, *args):
        pass


def turn(loop):
    loop.stop()
    loop.run_forever()


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def drop(make):
    """Calls make(loop) on a loop that nobody closes; everything must go."""
    gc.collect()
    before = descriptors()
    loop = uvtulip.new_event_loop()
    things = [weakref.ref(thing) for thing in make(loop) or ()]
    gone, raw_gone = weakref.ref(loop), weakref.ref(loop.uv_loop)
    with pytest.warns(ResourceWarning, match="unclosed event loop"):
        del loop
        gc.collect()
    gc.collect()
    assert gone() is None
    assert raw_gone() is None
    assert [thing() for thing in things] == [None] * len(things)
    assert descriptors() == before


def test_a_fresh_loop():
    drop(lambda loop: None)


def test_after_a_run():
    drop(lambda loop: turn(loop))


def test_with_callbacks():
    def make(loop):
        thing = Thing()
        thing.loop = loop
        loop.call_soon(thing.method, thing, 1, 2, 3, 4, 5)
        return [thing]

    drop(make)


def test_with_a_handle_that_its_own_callback_holds():
    def make(loop):
        thing = Thing()
        thing.handle = loop.call_soon(thing.method, thing)
        thing.timer = loop.call_later(100, thing.method, thing)
        return [thing]

    drop(make)


def test_with_callbacks_left_by_a_run():
    def make(loop):
        thing = Thing()

        def schedule():
            thing.handle = loop.call_soon(thing.method, thing)

        loop.call_soon(schedule)
        turn(loop)
        assert len(loop._ready) == 1
        return [thing]

    drop(make)


def test_with_a_handle_that_has_run():
    def make(loop):
        thing = Thing()
        thing.loop = loop
        thing.handle = loop.call_soon(thing.method, thing)
        thing.timer = loop.call_later(0, thing.method, thing)

        def schedule():
            thing.inner = loop.call_soon(thing.method, thing)

        loop.call_soon(schedule)
        loop.call_later(0.002, loop.stop)
        loop.run_forever()
        return [thing]

    drop(make)


def test_with_timers():
    def make(loop):
        thing = Thing()
        for i in range(100):
            loop.call_later(i, thing.method, loop)
        return [thing]

    drop(make)


def test_with_readers():
    def make(loop):
        thing = Thing()
        loop.add_reader(a, thing.method, loop)
        loop.add_writer(b, thing.method, thing)
        turn(loop)
        loop.remove_writer(b)
        return [thing]

    a, b = socket.socketpair()
    with a, b:
        drop(make)


def test_with_tasks_and_hooks():
    def make(loop):
        thing = Thing()
        thing.loop = loop
        loop.set_task_factory(thing.method)
        loop._set_signal_hook(thing.method)
        loop.set_exception_handler(thing.method)
        thing.future = loop.create_future()
        loop.thing = thing
        return [thing]

    drop(make)


def test_with_raw_handles():
    def make(loop):
        thing = Thing()
        timer = uv.Timer(loop.uv_loop)
        timer.start(thing.method, 1000)
        timer.loop_too = loop
        return [thing, timer]

    drop(make)


def test_a_bare_c_loop_warns_too():
    loop = _transports.EventLoop()
    gone = weakref.ref(loop)
    with pytest.warns(ResourceWarning, match="unclosed event loop"):
        del loop
        gc.collect()
    assert gone() is None


def test_a_closed_loop_needs_no_collector():
    gc.collect()
    gc.disable()
    try:
        loop = uvtulip.new_event_loop()
        gone, raw_gone = weakref.ref(loop), weakref.ref(loop.uv_loop)
        a, b = socket.socketpair()
        with a, b:
            loop.add_reader(a, print)
            loop.call_soon(print)
            loop.call_later(1, print)
            loop.create_future().cancel()
            loop.call_later(0.001, loop.stop)
            loop._ready[0].cancel()
            loop.run_forever()
            loop.close()
        del loop
        assert gone() is None
        assert raw_gone() is None
    finally:
        gc.enable()


def test_a_handle_held_in_a_cycle_after_it_has_run():
    loop = uvtulip.new_event_loop()
    try:
        gone = []

        def make(when):
            thing = Thing()
            if when == "timer":
                thing.handle = loop.call_later(0, thing.method, thing)
            elif when == "threadsafe":
                thing.handle = loop.call_soon_threadsafe(thing.method, thing)
            else:
                thing.handle = loop.call_soon(thing.method, thing)
            gone.append(weakref.ref(thing))

        for when in ("soon", "timer", "threadsafe"):
            make(when)
            loop.call_soon(make, when)
        loop.call_later(0.01, loop.stop)
        loop.run_forever()
        gc.collect()
        assert [thing() for thing in gone] == [None] * 6
    finally:
        loop.close()


def test_collecting_inside_of_a_run():
    loop = uvtulip.new_event_loop()
    try:
        seen = []

        def callback(i):
            gc.collect()
            seen.append(i)

        for i in range(20):
            kept = loop.call_soon(callback, i)
            loop.call_later(i / 10000, callback, i)
        loop.call_later(0.01, loop.stop)
        loop.run_forever()
        assert len(seen) == 40
        assert kept._args == (19,)
    finally:
        loop.close()


def test_finalizers_that_use_the_loop():
    loop = uvtulip.new_event_loop()
    ran = []

    class Late:
        def __del__(self):
            loop.call_soon(ran.append, 1)

    try:
        handles = [loop.call_soon(print, Late()) for _ in range(100)]
        timers = [loop.call_later(10, print, Late()) for _ in range(100)]
        for handle in handles + timers:
            handle.cancel()
        del handles, timers
        turn(loop)
        assert len(ran) == 200
    finally:
        loop.close()


def test_finalizers_that_meet_a_closed_loop():
    refused = []
    loop = uvtulip.new_event_loop()

    class Late:
        def __del__(self):
            for call in (loop.call_soon, loop.call_soon_threadsafe):
                try:
                    call(print)
                except RuntimeError as exc:
                    refused.append(str(exc))

    loop.call_soon(print, Late())
    loop.call_later(1, print, Late())
    loop.close()
    assert refused == ["Event loop is closed"] * 4


def test_loops_made_and_closed_leave_nothing():
    def cycle():
        loop = uvtulip.new_event_loop()
        loop.call_soon(print)
        loop.call_later(10, print)
        loop.run_until_complete(asyncio.sleep(0.0001))
        loop.close()

    print_was = sys.stdout
    with open(os.devnull, "w") as null:
        sys.stdout = null
        try:
            for _ in range(5):
                cycle()
            gc.collect()
            before = descriptors()
            blocks = sys.getallocatedblocks()
            for _ in range(50):
                cycle()
            gc.collect()
        finally:
            sys.stdout = print_was
        assert descriptors() == before
        assert sys.getallocatedblocks() - blocks < 200


def test_subclasses():
    class Loop(uvtulip.Loop):
        def __init__(self, value):
            self.before = self.time()
            super().__init__()
            self.value = value

    loop = Loop(5)
    assert loop.value == 5
    gone = weakref.ref(loop)
    loop.close()
    del loop
    gc.collect()
    assert gone() is None


def test_slotted_subclasses():
    class Loop(_transports.EventLoop):
        __slots__ = ("extra",)

    loop = Loop()
    loop.extra = loop
    gone = weakref.ref(loop)
    loop._close()
    del loop
    gc.collect()
    assert gone() is None
