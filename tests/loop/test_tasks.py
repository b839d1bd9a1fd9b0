"""create_task(), task factories, eager tasks.

The tests that take `loop` are run on asyncio's own loop, too: the rules, which
are others in each Python, are asyncio's.
"""

import asyncio
import contextvars
import gc
import sys
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

import uvtulip

# Python 3.13.3 tried what 3.14 does; 3.13.4 went back, but for other keywords.
FACTORY_GETS_ALL = sys.version_info >= (3, 14) or sys.version_info[:3] == (3, 13, 3)
KEYWORDS_FORWARDED = sys.version_info >= (3, 13, 3)
needs_eager = pytest.mark.skipif(
    sys.version_info < (3, 12), reason="eager tasks came with Python 3.12"
)

variable = contextvars.ContextVar("variable", default="outside")


@pytest.fixture(params=[uvtulip.new_event_loop, asyncio.SelectorEventLoop])
def loop(request: pytest.FixtureRequest) -> Iterator[asyncio.AbstractEventLoop]:
    loop = request.param()
    yield loop
    loop.close()


@pytest.fixture
def ours() -> Iterator[uvtulip.Loop]:
    loop = uvtulip.new_event_loop()
    yield loop
    loop.close()


async def nothing() -> None:
    pass


async def read_variable() -> str:
    return variable.get()


def test_name_and_context(loop: asyncio.AbstractEventLoop) -> None:
    context = contextvars.copy_context()
    context.run(variable.set, "inside")
    task = loop.create_task(read_variable(), name="a name", context=context)
    assert type(task) is asyncio.Task and task.get_name() == "a name"
    assert loop.run_until_complete(task) == "inside"
    other = loop.create_task(nothing(), name=None, context=None)
    assert other.get_name().startswith("Task-")
    loop.run_until_complete(other)


class Factory:
    """Remembers what it was called with."""

    def __init__(self, **more: Any) -> None:
        self.seen: list[dict[str, Any]] = []
        self.more = more

    def __call__(self, loop: Any, coro: Any, **kwargs: Any) -> asyncio.Task[Any]:
        self.seen.append(kwargs)
        return asyncio.Task(coro, loop=loop, **kwargs, **self.more)


def test_what_the_factory_is_told(loop: asyncio.AbstractEventLoop) -> None:
    factory = Factory()
    loop.set_task_factory(factory)
    context = contextvars.copy_context()
    tasks = [
        loop.create_task(nothing()),
        loop.create_task(nothing(), name="n"),
        loop.create_task(nothing(), name="n", context=context),
        loop.create_task(nothing(), context=None),
    ]
    if FACTORY_GETS_ALL:
        expected = [{}, {"name": "n"}, {"name": "n", "context": context}]
        expected.append({"context": None})
    else:
        expected = [{}, {}, {"context": context}, {}]
    assert factory.seen == expected
    assert tasks[1].get_name() == tasks[2].get_name() == "n"
    for task in tasks:
        loop.run_until_complete(task)


def test_other_keywords_reach_the_factory(loop: asyncio.AbstractEventLoop) -> None:
    if not KEYWORDS_FORWARDED and not isinstance(loop, uvtulip.Loop):
        pytest.skip("asyncio forwards since 3.13.3, uvtulip always")
    seen = []

    def factory(loop: Any, coro: Any, *, more: int, **kwargs: Any) -> Any:
        seen.append(more)
        return asyncio.Task(coro, loop=loop, **kwargs)

    loop.set_task_factory(factory)
    task = loop.create_task(nothing(), name="n", more=1)  # type: ignore[call-arg]
    loop.run_until_complete(task)
    assert seen == [1] and task.get_name() == "n"


def test_other_keywords_reach_the_task(ours: uvtulip.Loop) -> None:
    coro = nothing()
    with pytest.raises(TypeError, match="more"):
        ours.create_task(coro, more=1)
    with pytest.raises(TypeError, match="'loop'"):
        ours.create_task(coro, loop=ours)
    with pytest.raises(TypeError, match="coro"):
        ours.create_task(coro, coro=coro)
    coro.close()


def test_factory_that_raises(loop: asyncio.AbstractEventLoop) -> None:
    def factory(loop: Any, coro: Any, **kwargs: Any) -> Any:
        raise LookupError("no")

    loop.set_task_factory(factory)
    coro = nothing()
    with pytest.raises(LookupError):
        loop.create_task(coro, name="n")
    coro.close()


def test_factory_that_replaces_itself(loop: asyncio.AbstractEventLoop) -> None:
    class Once:
        def __call__(self, loop: Any, coro: Any, **kwargs: Any) -> Any:
            loop.set_task_factory(None)
            gc.collect()
            return asyncio.Task(coro, loop=loop, **kwargs)

    factory = Once()
    ref = weakref.ref(factory)
    loop.set_task_factory(factory)  # type: ignore[arg-type]
    del factory
    loop.run_until_complete(loop.create_task(nothing()))
    assert loop.get_task_factory() is None
    gc.collect()
    assert ref() is None


def test_closed_loop_makes_no_task(loop: asyncio.AbstractEventLoop) -> None:
    loop.close()
    coro = nothing()
    with pytest.raises(RuntimeError, match="closed"):
        loop.create_task(coro)
    coro.close()


def test_debug_mode_says_where_the_task_was_made(
    loop: asyncio.AbstractEventLoop,
) -> None:
    loop.set_debug(True)
    task = loop.create_task(nothing())
    last = task._source_traceback[-1]  # type: ignore[attr-defined]
    assert (last.filename, last.name) == (
        __file__,
        "test_debug_mode_says_where_the_task_was_made",
    )
    loop.run_until_complete(task)


# ---- eager tasks ----


@needs_eager
def test_eager_factory_runs_up_to_the_first_wait(
    loop: asyncio.AbstractEventLoop,
) -> None:
    seen: list[str] = []

    async def quick() -> str:
        seen.append("quick")
        return "result"

    async def slow() -> None:
        seen.append("begun")
        await asyncio.sleep(0)
        seen.append("ended")

    async def main() -> None:
        done = loop.create_task(quick(), name="n")
        assert done.done() and done.result() == "result" and done.get_name() == "n"
        waiting = asyncio.create_task(slow())
        assert seen == ["quick", "begun"] and not waiting.done()
        assert asyncio.current_task() is not waiting
        await waiting
        assert seen == ["quick", "begun", "ended"]

    loop.set_task_factory(asyncio.eager_task_factory)
    loop.run_until_complete(main())


@needs_eager
def test_eager_factory_with_a_constructor(loop: asyncio.AbstractEventLoop) -> None:
    class Mine(asyncio.Task):  # type: ignore[type-arg]
        pass

    async def main() -> None:
        task = asyncio.create_task(nothing())
        assert type(task) is Mine and task.done()
        context = contextvars.copy_context()
        context.run(variable.set, "inside")
        inside = loop.create_task(read_variable(), context=context)
        assert inside.result() == "inside"

    loop.set_task_factory(asyncio.create_eager_task_factory(Mine))
    loop.run_until_complete(main())


@needs_eager
def test_eager_failure_and_cancellation(loop: asyncio.AbstractEventLoop) -> None:
    async def fails() -> None:
        raise LookupError("eager")

    async def main() -> None:
        failed = asyncio.create_task(fails())
        assert failed.done() and isinstance(failed.exception(), LookupError)
        waiting = asyncio.create_task(asyncio.sleep(60))
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        async with asyncio.TaskGroup() as group:
            inner = group.create_task(nothing())
        assert inner.done()

    loop.set_task_factory(asyncio.eager_task_factory)
    loop.run_until_complete(main())


@needs_eager
def test_eager_start_for_one_task(ours: uvtulip.Loop) -> None:
    seen: list[str] = []

    async def quick() -> None:
        seen.append("quick")

    async def main() -> None:
        task = ours.create_task(quick(), eager_start=True)
        assert seen == ["quick"] and task.done()
        later = ours.create_task(quick(), eager_start=False, name="n")
        assert seen == ["quick"]
        await later
        assert seen == ["quick", "quick"] and later.get_name() == "n"

    ours.run_until_complete(main())


@pytest.mark.skipif(sys.version_info < (3, 14), reason="Python 3.14 forwards it")
def test_eager_start_by_asyncio(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        assert asyncio.create_task(nothing(), eager_start=True).done()
        loop.set_task_factory(asyncio.eager_task_factory)
        assert asyncio.create_task(nothing()).done()
        later = asyncio.create_task(nothing(), eager_start=False)
        assert not later.done()
        await later
        async with asyncio.TaskGroup() as group:
            assert group.create_task(nothing(), eager_start=True).done()

    loop.run_until_complete(main())
