"""Errors that nobody can catch: the handler trio, and what is logged."""

import asyncio
import contextvars
import gc
import logging

import pytest

import uvtulip
from aiosupport import turns


@pytest.fixture
def loop():
    loop = uvtulip.new_event_loop()
    yield loop
    loop.close()


def run_once(loop):
    loop.run_until_complete(turns())


def test_default_handler_logs(loop, caplog):
    loop.call_soon(lambda: 1 // 0)
    run_once(loop)
    (record,) = caplog.records
    assert record.name == "asyncio"
    assert record.levelno == logging.ERROR
    assert record.exc_info[0] is ZeroDivisionError
    lines = record.getMessage().split("\n")
    assert lines[0].startswith("Exception in callback ")
    assert lines[1].startswith("handle: <Handle ")


def test_default_handler_formats_its_context(loop, caplog):
    loop.call_exception_handler({"zebra": 1, "apple": "two"})
    (record,) = caplog.records
    assert not record.exc_info
    assert record.getMessage() == (
        "Unhandled exception in event loop\napple: 'two'\nzebra: 1"
    )


def test_where_it_was_made(loop, caplog):
    loop.set_debug(True)
    loop.call_soon(lambda: 1 // 0)
    run_once(loop)
    message = next(r.getMessage() for r in caplog.records if r.levelno == logging.ERROR)
    assert "\nsource_traceback: Object created at (most recent call last):\n" in message
    assert "test_where_it_was_made" in message


def test_own_handler(loop):
    calls = []
    handler = lambda *args: calls.append(args)  # noqa: E731
    assert loop.get_exception_handler() is None
    loop.set_exception_handler(handler)
    assert loop.get_exception_handler() is handler
    loop.call_soon(lambda: 1 // 0)
    run_once(loop)
    ((given, context),) = calls
    assert given is loop
    assert isinstance(context["exception"], ZeroDivisionError)
    assert isinstance(context["handle"], asyncio.Handle)
    loop.set_exception_handler(None)
    assert loop.get_exception_handler() is None


def test_what_is_no_handler(loop):
    with pytest.raises(TypeError, match="A callable object or None is expected, got 1"):
        loop.set_exception_handler(1)


def test_handler_that_raises(loop, caplog):
    def handler(loop, context):
        raise AttributeError("broken")

    loop.set_exception_handler(handler)
    loop.call_soon(lambda: 1 // 0)
    run_once(loop)
    (record,) = caplog.records
    assert record.getMessage().startswith("Unhandled error in exception handler")
    assert record.exc_info[0] is AttributeError


@pytest.mark.parametrize("custom", [False, True])
def test_default_handler_may_be_overridden_and_raise(custom, caplog):
    class Loop(uvtulip.Loop):
        def default_exception_handler(self, context):
            raise RuntimeError("worse")

    loop = Loop()
    if custom:
        loop.set_exception_handler(lambda loop, context: 1 // 0)
    loop.call_exception_handler({"message": "m"})
    (record,) = caplog.records
    assert record.getMessage().startswith("Exception in default exception handler")
    assert ("custom exception handler" in record.getMessage()) is custom
    assert record.exc_info[0] is RuntimeError
    loop.close()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("custom", [False, True])
def test_exits_come_through(error, custom):
    def raise_it(*args):
        raise error

    class Loop(uvtulip.Loop):
        default_exception_handler = raise_it

    loop = Loop()
    if custom:
        loop.set_exception_handler(raise_it)
    with pytest.raises(error):
        loop.call_exception_handler({"message": "m"})
    loop.close()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_exits_of_a_callback_end_the_run(loop, error):
    def raise_it():
        raise error

    called = []
    loop.call_soon(raise_it)
    loop.call_soon(called.append, 1)
    with pytest.raises(error):
        loop.run_forever()
    assert not loop.is_running()
    run_once(loop)
    assert called == [1]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_exits_of_the_main_task(loop, error, caplog):
    async def main():
        raise error

    with pytest.raises(error):
        loop.run_until_complete(main())
    gc.collect()
    assert caplog.records == []


def test_handler_sees_the_context_variables_of_the_task(loop):
    variable = contextvars.ContextVar("variable", default="outside")
    seen = []
    loop.set_exception_handler(lambda loop, context: seen.append(variable.get()))

    async def fails():
        variable.set("inside")
        raise ValueError

    async def main():
        task = asyncio.create_task(fails())
        await turns()
        loop.call_exception_handler({"message": "m", "task": task})
        task.exception()

    loop.run_until_complete(main())
    if hasattr(asyncio.Task, "get_context"):  # Since Python 3.12.
        assert seen == ["inside"]


def test_never_retrieved(loop):
    contexts = []
    loop.set_exception_handler(lambda loop, context: contexts.append(context))

    async def fails():
        raise ValueError("lost")

    async def main():
        task = asyncio.create_task(fails())
        await turns()
        del task
        gc.collect()

    loop.run_until_complete(main())
    assert [c["message"] for c in contexts] == ["Task exception was never retrieved"]


def test_stopped_before_done(loop):
    async def main():
        loop.stop()
        await asyncio.sleep(0.01)

    coro = main()
    with pytest.raises(RuntimeError, match="Event loop stopped before Future compl"):
        loop.run_until_complete(coro)
    run_once(loop)
    loop.run_until_complete(asyncio.sleep(0.02))


def test_run_until_complete_marks_its_task(loop):
    """Libraries find the outermost task by this callback."""
    from asyncio.base_events import _run_until_complete_cb

    async def main():
        task = asyncio.current_task()
        return [callback for callback, _ in task._callbacks]

    assert loop.run_until_complete(main()) == [_run_until_complete_cb]


def test_running_twice(loop):
    async def main():
        other = uvtulip.new_event_loop()
        with pytest.raises(RuntimeError, match="while another loop is running"):
            other.run_forever()
        other.close()
        with pytest.raises(RuntimeError, match="This event loop is already running"):
            loop.run_forever()
        with pytest.raises(RuntimeError, match="Cannot close a running event loop"):
            loop.close()
        assert asyncio.get_running_loop() is loop

    loop.run_until_complete(main())


def test_closed(loop):
    loop.set_debug(False)
    loop.close()
    loop.close()
    assert loop.is_closed()
    assert repr(loop) == "<uvtulip.Loop running=False closed=True debug=False>"
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        loop.run_forever()
    coro = turns()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        loop.run_until_complete(coro)
    coro.close()


def test_dropped_unclosed():
    loop = uvtulip.new_event_loop()
    text = repr(loop)
    with pytest.warns(ResourceWarning) as caught:
        del loop
        gc.collect()
    assert str(caught[0].message) == f"unclosed event loop {text}"
