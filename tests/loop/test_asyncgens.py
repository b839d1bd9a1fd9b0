"""Async generators that are not run to their end; coroutine origins."""

import asyncio
import gc
import sys

import pytest

import uvtulip
from aiosupport import run, turns, until


def numbers(finished):
    async def generate():
        try:
            for n in range(10):
                yield n
        finally:
            await asyncio.sleep(0)
            finished.append(n)

    return generate()


async def start(agen):
    await anext(agen)


def test_dropped_generator_is_closed():
    async def main():
        finished = []
        agen = numbers(finished)
        assert await anext(agen) == 0
        del agen
        gc.collect()
        await until(lambda: finished)

    run(main())


def test_shutdown_closes_what_is_left():
    finished = []

    async def main():
        main.agens = [numbers(finished) for _ in range(3)]
        for agen in main.agens:
            await anext(agen)
            await anext(agen)

    run(main())
    assert finished == [1, 1, 1]


def test_shutdown_with_none():
    async def main():
        await asyncio.get_running_loop().shutdown_asyncgens()

    run(main())


def test_error_while_closing_is_reported():
    loop = uvtulip.new_event_loop()
    contexts = []
    loop.set_exception_handler(lambda loop, context: contexts.append(context))

    async def generate():
        try:
            yield
        finally:
            1 // 0

    agen = generate()
    loop.run_until_complete(start(agen))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
    (context,) = contexts
    assert context["message"] == (
        f"an error occurred during closing of asynchronous generator {agen!r}"
    )
    assert isinstance(context["exception"], ZeroDivisionError)
    assert context["asyncgen"] is agen


def test_started_after_the_shutdown():
    async def main():
        loop = asyncio.get_running_loop()
        await loop.shutdown_asyncgens()
        agen = numbers([])
        with pytest.warns(ResourceWarning, match=r"after loop\.shutdown_asyncgens"):
            await anext(agen)
        await agen.aclose()

    run(main())


def test_collected_after_the_loop_is_closed():
    loop = uvtulip.new_event_loop()
    finished = []
    agen = numbers(finished)
    loop.run_until_complete(start(agen))
    loop.close()
    del agen
    gc.collect()
    assert finished == []


def test_hooks_are_restored():
    hooks = sys.get_asyncgen_hooks()

    async def main():
        assert sys.get_asyncgen_hooks() != hooks
        raise KeyError

    with pytest.raises(KeyError):
        run(main())
    assert sys.get_asyncgen_hooks() == hooks


def test_origin_tracking():
    depth = sys.get_coroutine_origin_tracking_depth()

    async def main():
        loop = asyncio.get_running_loop()
        assert sys.get_coroutine_origin_tracking_depth() > 0
        loop.set_debug(False)
        await turns()
        assert sys.get_coroutine_origin_tracking_depth() == depth
        loop.set_debug(True)
        await turns()
        assert sys.get_coroutine_origin_tracking_depth() > 0

    run(main(), debug=True)
    assert sys.get_coroutine_origin_tracking_depth() == depth
