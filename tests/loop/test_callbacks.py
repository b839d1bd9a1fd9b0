"""call_soon(), the handles it returns, and what becomes of their exceptions."""

import asyncio
import contextvars
import functools
import gc
import sys
import weakref

import pytest

import uvtulip


class Loop(uvtulip.Loop):
    """Keeps what would go to the exception handler."""

    errors = None

    def call_exception_handler(self, context):
        if self.errors is None:
            super().call_exception_handler(context)
        else:
            self.errors.append(context)


@pytest.fixture
def loop():
    loop = Loop()
    loop.set_debug(False)
    yield loop
    loop.close()


def turn(loop):
    """Run what is ready now, and nothing of what that makes ready."""
    loop.stop()
    loop.run_forever()


def collect_errors(loop):
    loop.errors = []
    return loop.errors


# ---- order and arguments ----


def test_order_is_the_order_of_the_calls(loop):
    seen = []
    for i in range(1000):
        loop.call_soon(seen.append, i)
    turn(loop)
    assert seen == list(range(1000))


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 50])
def test_any_number_of_arguments(loop, count):
    seen = []
    args = tuple(object() for _ in range(count))
    handle = loop.call_soon(lambda *given: seen.append(given), *args)
    assert handle._args == args
    turn(loop)
    assert seen == [args]


def test_only_what_is_ready_at_the_beginning_of_a_turn_runs(loop):
    seen = []

    def first():
        seen.append("first")
        loop.call_soon(seen.append, "later")

    loop.call_soon(first)
    turn(loop)
    assert seen == ["first"]
    turn(loop)
    assert seen == ["first", "later"]


def test_callbacks_survive_between_runs(loop):
    seen = []
    turn(loop)
    loop.call_soon(seen.append, 1)
    turn(loop)
    turn(loop)
    assert seen == [1]


def test_keywords(loop):
    seen = []
    context = contextvars.copy_context()
    loop.call_soon(callback=functools.partial(seen.append, 1), context=context)
    loop.call_soon(seen.append, 2, context=None)
    turn(loop)
    assert seen == [1, 2]


@pytest.mark.parametrize("method", ["call_soon", "call_soon_threadsafe"])
def test_wrong_calls_are_type_errors(loop, method):
    call = getattr(loop, method)
    with pytest.raises(TypeError, match=f"{method}.*callback"):
        call()
    with pytest.raises(TypeError, match="unexpected keyword argument 'what'"):
        call(print, what=1)
    with pytest.raises(TypeError, match="multiple values"):
        call(print, callback=print)
    assert loop._ready == []


def test_a_callable_that_cannot_be_called_is_reported(loop):
    errors = collect_errors(loop)
    loop.call_soon(42)
    turn(loop)
    assert isinstance(errors[0]["exception"], TypeError)


def test_refuses_when_closed():
    loop = uvtulip.new_event_loop()
    loop.call_soon(print)
    loop.close()
    for call in (
        lambda: loop.call_soon(print),
        lambda: loop.call_soon_threadsafe(print),
        lambda: loop.call_later(0, print),
        lambda: loop.call_at(0, print),
    ):
        with pytest.raises(RuntimeError, match="Event loop is closed"):
            call()
    assert loop._ready == []


# ---- context ----


def test_runs_in_a_copy_of_the_current_context(loop):
    var = contextvars.ContextVar("var", default="unset")
    seen = []

    def look_and_set():
        seen.append(var.get())
        var.set("changed")

    var.set("outer")
    loop.call_soon(look_and_set)
    loop.call_soon(look_and_set)
    var.set("too late")
    turn(loop)
    assert seen == ["outer", "outer"]
    assert var.get() == "too late"


def test_runs_in_the_given_context(loop):
    var = contextvars.ContextVar("var", default=0)
    context = contextvars.copy_context()
    for _ in range(3):
        loop.call_soon(lambda: var.set(var.get() + 1), context=context)
    turn(loop)
    assert context[var] == 3
    assert var.get() == 0


def test_an_entered_context_is_an_error_of_the_callback(loop):
    errors = collect_errors(loop)
    context = contextvars.copy_context()
    loop.call_soon(print, context=context)
    context.run(turn, loop)
    assert isinstance(errors[0]["exception"], RuntimeError)
    assert "cannot enter context" in str(errors[0]["exception"])


def test_a_context_may_be_any_object_with_run(loop):
    class Context:
        def run(self, callback, *args):
            return callback(*args, "extra")

    seen = []
    loop.call_soon(lambda *args: seen.append(args), 1, 2, context=Context())
    turn(loop)
    assert seen == [(1, 2, "extra")]


# ---- handles ----


def test_a_handle_is_asyncios(loop):
    def callback():
        pass

    context = contextvars.copy_context()
    handle = loop.call_soon(callback, context=context)
    timer = loop.call_later(10, callback)
    assert isinstance(handle, asyncio.Handle)
    assert not isinstance(handle, asyncio.TimerHandle)
    assert isinstance(timer, asyncio.TimerHandle)
    assert handle.get_context() is context
    assert handle._context is context
    assert handle._callback is callback
    assert handle._args == ()
    assert handle._loop is loop
    assert handle._source_traceback is None
    assert handle._cancelled is False


def test_reprs_are_asyncios(loop):
    def callback(*args):
        pass

    reference = asyncio.Handle(callback, (1,), loop, None)
    handle = loop.call_soon(callback, 1)
    assert repr(handle) == repr(reference)
    handle.cancel()
    reference.cancel()
    assert repr(handle) == repr(reference) == "<Handle cancelled>"


def test_cancelled_handles_are_not_called(loop):
    seen = []
    handles = [loop.call_soon(seen.append, i) for i in range(5)]
    handles[1].cancel()
    handles[1].cancel()
    handles[4].cancel()
    assert [i for i, handle in enumerate(handles) if handle.cancelled()] == [1, 4]
    assert handles[1]._callback is None
    assert handles[1]._args is None
    turn(loop)
    assert seen == [0, 2, 3]


def test_cancelling_lets_go_at_once(loop):
    class Thing:
        pass

    thing = Thing()
    gone = weakref.ref(thing)
    handle = loop.call_soon(print, thing, 1, 2, 3, 4, 5)
    del thing
    handle.cancel()
    assert gone() is None


def test_cancelling_another_one_in_the_same_batch(loop):
    seen = []
    loop.call_soon(lambda: second.cancel())
    second = loop.call_soon(seen.append, "second")
    third = loop.call_soon(lambda: seen.append("third"))
    turn(loop)
    assert seen == ["third"]
    assert not third.cancelled()


def test_a_callback_may_cancel_its_own_handle(loop):
    class Thing:
        pass

    seen = []

    def callback(*things):
        handle.cancel()
        gc.collect()
        assert handle._callback is None
        seen.append([type(thing) for thing in things])

    handle = loop.call_soon(callback, Thing(), Thing(), Thing(), Thing())
    turn(loop)
    assert seen == [[Thing] * 4]
    assert handle.cancelled()


def test_run_by_hand(loop):
    errors = collect_errors(loop)
    seen = []
    handle = loop.call_soon(seen.append, 1)
    handle._run()
    handle._run()
    assert seen == [1, 1]
    handle.cancel()
    handle._run()
    assert seen == [1, 1]
    failing = loop.call_soon(lambda: 1 / 0)
    failing._run()
    assert isinstance(errors[0]["exception"], ZeroDivisionError)
    failing.cancel()


def test_a_handle_that_runs_itself(loop):
    depth = []

    def callback():
        depth.append(1)
        if len(depth) == 2:
            handle.cancel()
        elif len(depth) < 3:
            context.run(handle._run)

    context = contextvars.copy_context()
    handle = loop.call_soon(callback)
    errors = collect_errors(loop)
    turn(loop)
    # asyncio's rule: a context is entered once at a time.
    assert len(depth) == 1
    assert isinstance(errors[0]["exception"], RuntimeError)


def test_handles_can_be_referred_to_weakly(loop):
    # More than once, as the memory of handles is used again.
    for _ in range(3):
        calls = []
        handle = loop.call_soon(print)
        handle.cancel()
        first = weakref.ref(handle, calls.append)
        second = weakref.ref(handle, calls.append)
        assert first() is handle
        del handle
        turn(loop)
        assert first() is None
        assert second() is None
        assert len(calls) == 2


def test_handles_cannot_be_made_or_written_to(loop):
    handle = loop.call_soon(print)
    timer = loop.call_later(10, print)
    with pytest.raises(AttributeError):
        handle.__init__(print, (), loop)
    with pytest.raises(AttributeError):
        timer.__init__(1, print, (), loop)
    for thing in (handle, timer):
        with pytest.raises(TypeError):
            type(thing)(print, (), loop)
        with pytest.raises(TypeError):
            object.__new__(type(thing))
        with pytest.raises(TypeError):
            type("Derived", (type(thing),), {})
        with pytest.raises(AttributeError):
            thing._callback = print
        with pytest.raises(AttributeError):
            thing.anything = 1


def test_handles_and_their_types_do_not_leak(loop):
    def burst():
        for i in range(5000):
            loop.call_soon(str, i)
        for _ in range(100):
            loop.call_soon(max, 1, 2, 3, 4, 5).cancel()
        turn(loop)
        gc.collect()

    kind = type(loop.call_soon(str))
    burst()
    references, blocks = sys.getrefcount(kind), sys.getallocatedblocks()
    for _ in range(5):
        burst()
    assert sys.getrefcount(kind) == references
    assert sys.getallocatedblocks() - blocks < 500


def test_a_long_chain_of_handles_is_freed(loop):
    handle = None
    for _ in range(100_000):
        handle = loop.call_soon(print, handle)
        handle_before = handle
    # Only the last one is left to hold all the others.
    loop.close()
    del handle_before
    del handle


# ---- exceptions ----


def test_exceptions_go_to_the_handler_and_the_rest_runs(loop):
    errors = collect_errors(loop)
    seen = []

    def fail(*args):
        raise ValueError("oops")

    handle = loop.call_soon(fail, 1)
    loop.call_soon(seen.append, "after")
    turn(loop)
    assert seen == ["after"]
    (context,) = errors
    assert set(context) == {"message", "exception", "handle"}
    assert context["handle"] is handle
    assert str(context["exception"]) == "oops"
    assert context["message"].startswith("Exception in callback ")
    assert "fail" in context["message"]
    assert f"{__file__}:{fail.__code__.co_firstlineno}" in context["message"]


def test_the_message_is_asyncios(loop):
    def fail():
        raise ValueError("oops")

    def message_of(loop):
        errors = []
        loop.set_exception_handler(lambda loop, context: errors.append(context))
        loop.call_soon(fail)
        turn(loop)
        return errors[0]["message"]

    reference = asyncio.SelectorEventLoop()
    reference.set_debug(False)
    try:
        assert message_of(loop) == message_of(reference)
    finally:
        reference.close()


@pytest.mark.parametrize("kind", [GeneratorExit, asyncio.CancelledError, BaseException])
def test_other_base_exceptions_are_reported_too(loop, kind):
    errors = collect_errors(loop)

    def fail():
        raise kind

    loop.call_soon(fail)
    turn(loop)
    assert isinstance(errors[0]["exception"], kind)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_exits_leave_the_loop_and_the_rest_stays_queued(loop, kind):
    errors = collect_errors(loop)
    seen = []

    def leave():
        raise kind

    loop.call_soon(seen.append, 1)
    loop.call_soon(leave)
    loop.call_soon(seen.append, 2)
    with pytest.raises(kind):
        loop.run_forever()
    assert seen == [1]
    assert not loop.is_running()
    turn(loop)
    assert seen == [1, 2]
    assert errors == []


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_an_exception_handler_may_leave_the_loop(loop, kind):
    def handler(loop, context):
        raise kind

    loop.set_exception_handler(handler)
    loop.call_soon(lambda: 1 / 0)
    with pytest.raises(kind):
        turn(loop)


# ---- futures and tasks ----


def test_create_future(loop):
    future = loop.create_future()
    assert type(future) is asyncio.Future
    assert future.get_loop() is loop
    closed = uvtulip.new_event_loop()
    closed.close()
    assert closed.create_future().get_loop() is closed


def test_create_task(loop):
    async def main(value):
        return value, var.get(None), asyncio.current_task().get_name()

    var = contextvars.ContextVar("var")
    context = contextvars.copy_context()
    context.run(var.set, "there")
    for task in (
        loop.create_task(main(1), name="x"),
        loop.create_task(coro=main(1), name="x", context=None),
    ):
        assert type(task) is asyncio.Task
        assert loop.run_until_complete(task) == (1, None, "x")
    task = loop.create_task(main(2), name="y", context=context)
    assert loop.run_until_complete(task) == (2, "there", "y")
    task = loop.create_task(main(3), name=None)
    assert loop.run_until_complete(task)[2].startswith("Task-")


def test_create_task_refuses(loop):
    with pytest.raises(TypeError, match="a coroutine was expected"):
        loop.create_task(42)
    with pytest.raises(TypeError):
        loop.create_task()
    with pytest.raises(TypeError):
        loop.create_task(1, 2)

    async def main():
        pass

    coro = main()
    with pytest.raises(TypeError):
        loop.create_task(coro, what=1)
    closed = uvtulip.new_event_loop()
    closed.close()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        closed.create_task(coro)
    coro.close()


def test_task_factory(loop):
    seen = []

    def factory(loop, coro, **kwargs):
        seen.append(kwargs)
        return asyncio.Task(coro, loop=loop, **kwargs)

    async def main():
        return asyncio.current_task().get_name()

    assert loop.get_task_factory() is None
    with pytest.raises(TypeError, match="task factory must be a callable or None"):
        loop.set_task_factory(1)
    loop.set_task_factory(factory)
    assert loop.get_task_factory() is factory
    context = contextvars.copy_context()
    assert loop.run_until_complete(loop.create_task(main(), name="n")) == "n"
    task = loop.create_task(main(), name="m", context=context)
    assert loop.run_until_complete(task) == "m"
    assert seen[1]["context"] is context
    loop.set_task_factory(None)
    assert loop.get_task_factory() is None


def test_task_factory_that_makes_futures(loop):
    def factory(loop, coro, **kwargs):
        coro.close()
        future = loop.create_future()
        future.set_result("made")
        return future

    async def main():
        pass

    loop.set_task_factory(factory)
    assert loop.run_until_complete(loop.create_task(main(), name="n")) == "made"


def test_ready_is_a_list_of_handles(loop):
    first = loop.call_soon(print)
    second = loop.call_soon(print)
    assert loop._ready == [first, second]
    first.cancel()
    second.cancel()
    turn(loop)
    assert loop._ready == []
