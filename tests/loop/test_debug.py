"""Debug mode: what is checked, logged and remembered in it."""

import asyncio
import functools
import logging
import threading
import time

import pytest

import uvtulip


@pytest.fixture
def loop():
    loop = uvtulip.new_event_loop()
    loop.set_debug(True)
    yield loop
    loop.close()


def turn(loop):
    loop.stop()
    loop.run_forever()


def test_switching():
    loop = uvtulip.new_event_loop()
    try:
        for value in (True, False, 1, 0, "yes", ""):
            loop.set_debug(value)
            assert loop.get_debug() is bool(value)
            assert loop._debug is bool(value)
    finally:
        loop.close()


METHODS = {
    "call_soon": lambda loop, what: loop.call_soon(what),
    "call_soon_threadsafe": lambda loop, what: loop.call_soon_threadsafe(what),
    "call_later": lambda loop, what: loop.call_later(1, what),
    "call_at": lambda loop, what: loop.call_at(1, what),
}


@pytest.mark.parametrize("name", METHODS)
def test_coroutines_are_refused(loop, name):
    async def function():
        pass

    coro = function()
    try:
        for what in (function, coro):
            with pytest.raises(
                TypeError, match=rf"coroutines cannot be used with {name}\(\)"
            ):
                METHODS[name](loop, what)
    finally:
        coro.close()


@pytest.mark.parametrize("name", METHODS)
def test_what_cannot_be_called_is_refused(loop, name):
    with pytest.raises(
        TypeError, match=rf"a callable object was expected by {name}\(\), got 42"
    ):
        METHODS[name](loop, 42)


def test_other_threads_are_refused(loop):
    refused = []

    def other():
        for call in (
            lambda: loop.call_soon(print),
            lambda: loop.call_later(1, print),
            lambda: loop.call_at(1, print),
            lambda: loop.add_reader(0, print),
            lambda: loop.remove_reader(0),
            loop._check_thread,
        ):
            try:
                call()
            except RuntimeError as exc:
                refused.append(str(exc))
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=other)
    loop.call_soon(thread.start)
    loop.run_forever()
    thread.join(30)
    text = (
        "Non-thread-safe operation invoked on an event loop other than the current one"
    )
    assert refused == [text] * 6


def test_other_threads_may_while_nobody_runs_it(loop):
    seen = []
    thread = threading.Thread(target=loop.call_soon, args=(seen.append, 1))
    thread.start()
    thread.join(30)
    turn(loop)
    assert seen == [1]


# ---- source tracebacks ----


def here():
    """The file and the line of the caller's caller."""
    import sys

    frame = sys._getframe(1)
    return frame.f_code.co_filename, frame.f_lineno


@pytest.mark.parametrize("name", METHODS)
def test_handles_know_where_they_were_made(loop, name):
    handle = loop.call_soon(print)
    assert handle._source_traceback is not None
    file, line = here()
    if name == "call_soon":
        handle = loop.call_soon(print)
        line += 2
    elif name == "call_soon_threadsafe":
        handle = loop.call_soon_threadsafe(print)
        line += 5
    elif name == "call_later":
        handle = loop.call_later(10, print)
        line += 8
    else:
        handle = loop.call_at(10, print)
        line += 11
    frame = handle._source_traceback[-1]
    assert (frame.filename, frame.lineno) == (file, line)
    assert repr(handle).endswith(f"created at {file}:{line}>")
    turn(loop)


def test_exceptions_say_where_the_handle_was_made(loop):
    errors = []
    loop.set_exception_handler(lambda loop, context: errors.append(context))
    handle = loop.call_soon(lambda: 1 / 0)
    turn(loop)
    assert errors[0]["source_traceback"] is handle._source_traceback
    assert errors[0]["source_traceback"][-1].filename == __file__


def test_reprs_are_asyncios(loop):
    def callback(*args):
        pass

    # Of one line, as the repr names it.
    handle, reference = (
        make(callback, ("x" * 100,))
        for make in (
            lambda callback, args: loop.call_soon(callback, *args),
            lambda callback, args: asyncio.Handle(callback, args, loop),
        )
    )
    reference._source_traceback[-1] = handle._source_traceback[-1]
    assert repr(handle) == repr(reference)
    handle.cancel()
    reference.cancel()
    assert repr(handle) == repr(reference)
    assert "callback" in repr(handle)
    turn(loop)


def test_a_repr_that_fails_does_not_cancel(loop):
    class Bad:
        def __repr__(self):
            raise ValueError("no repr")

        def __call__(self):
            seen.append(1)

    seen = []
    handle = loop.call_soon(Bad())
    with pytest.raises(ValueError, match="no repr"):
        handle.cancel()
    assert not handle.cancelled()
    turn(loop)
    assert seen == [1]


# ---- slow callbacks ----


def messages(caplog):
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "asyncio" and record.levelno == logging.WARNING
    ]


def test_slow_callbacks_are_logged(loop, caplog):
    def slow(arg):
        time.sleep(0.02)

    loop.slow_callback_duration = 0.01
    loop.call_soon(print)
    handle = loop.call_soon(slow, "argument")
    text = str(handle)
    turn(loop)
    (message,) = messages(caplog)
    begin, took, seconds = message.rpartition(" took ")
    assert begin == f"Executing {text}"
    assert took and seconds.endswith(" seconds")
    assert float(seconds.split()[0]) >= 0.02


def test_slow_timers_and_cancelled_ones_are_logged(loop, caplog):
    def slow():
        timer.cancel()
        time.sleep(0.02)
        loop.stop()

    loop.slow_callback_duration = 0.01
    timer = loop.call_later(0, slow)
    loop.run_forever()
    (message,) = messages(caplog)
    assert message.startswith("Executing <TimerHandle cancelled when=")
    assert "slow" in message


def test_slow_tasks_are_logged_by_their_own_repr(loop, caplog):
    async def main():
        time.sleep(0.02)

    loop.slow_callback_duration = 0.01
    task = loop.create_task(main(), name="the slow one")
    loop.run_until_complete(task)
    (message,) = messages(caplog)
    assert message.startswith("Executing <Task finished name='the slow one'")


def test_quick_ones_are_not_logged(loop, caplog):
    loop.slow_callback_duration = 10
    loop.call_soon(print)
    turn(loop)
    assert messages(caplog) == []
    loop.set_debug(False)
    loop.slow_callback_duration = 0
    loop.call_soon(print)
    turn(loop)
    assert messages(caplog) == []


def test_the_current_handle(loop):
    seen = []
    handle = loop.call_soon(lambda: seen.append(loop._current_handle))
    assert loop._current_handle is None
    turn(loop)
    assert seen == [handle]
    assert loop._current_handle is None


def test_partial_and_method_callbacks(loop):
    errors = []
    loop.set_exception_handler(lambda loop, context: errors.append(context["message"]))

    class Thing:
        def fail(self, *args):
            raise ValueError

    loop.call_soon(functools.partial(Thing().fail, 1), 2)
    turn(loop)
    assert "fail" in errors[0]
    assert "(1)" in errors[0] and "(2)" in errors[0]


def test_a_whole_program_in_debug_mode():
    async def main():
        loop = asyncio.get_running_loop()
        assert loop.get_debug()
        a = await asyncio.gather(*[asyncio.sleep(0.001, i) for i in range(20)])
        b = await loop.run_in_executor(None, lambda: 5)
        return a, b

    with asyncio.Runner(loop_factory=uvtulip.new_event_loop, debug=True) as runner:
        assert runner.run(main()) == (list(range(20)), 5)
