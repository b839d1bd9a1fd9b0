"""Handlers of add_signal_handler() that somebody has put another one over, and those
of a loop that nobody closes.  asyncio's loop is the measure of the first."""

import asyncio
import gc
import os
import signal
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import uvtulip
from aiosupport import open_descriptors, script

SIGNUM = signal.SIGUSR1


@pytest.fixture(autouse=True)
def action() -> Iterator[None]:
    before = signal.getsignal(SIGNUM)
    yield
    signal.signal(SIGNUM, before)


async def settle() -> None:
    for _ in range(3):
        await asyncio.sleep(0.01)


async def replaced(got: list[str]) -> None:
    signal.signal(SIGNUM, lambda *args: got.append("theirs"))
    signal.raise_signal(SIGNUM)
    await settle()


async def put_back_and_raised_again(got: list[str]) -> None:
    """As uvicorn does at its end: the handler has been called before that."""
    before = signal.signal(SIGNUM, lambda *args: got.append("theirs"))
    asyncio.get_running_loop().call_later(0.01, signal.raise_signal, SIGNUM)
    while not got:
        await asyncio.sleep(0.01)
    await settle()
    signal.signal(SIGNUM, before)
    signal.raise_signal(SIGNUM)
    got.append("end of the server")
    await settle()


async def put_back_at_once(got: list[str]) -> None:
    before = signal.signal(SIGNUM, lambda *args: got.append("theirs"))
    signal.raise_signal(SIGNUM)
    signal.signal(SIGNUM, before)
    await settle()


async def called_on(got: list[str]) -> None:
    before: Any = signal.getsignal(SIGNUM)

    def handler(number: int, frame: Any) -> None:
        got.append("theirs")
        before(number, frame)

    signal.signal(SIGNUM, handler)
    signal.raise_signal(SIGNUM)
    await settle()
    signal.raise_signal(SIGNUM)
    await settle()


async def called_later(got: list[str]) -> None:
    before: Any = signal.getsignal(SIGNUM)
    signal.signal(SIGNUM, lambda *args: got.append("theirs"))
    signal.raise_signal(SIGNUM)
    await settle()
    before(SIGNUM, None)
    await settle()


async def in_the_poll(got: list[str]) -> None:
    signal.signal(SIGNUM, lambda *args: got.append("theirs"))
    killer = threading.Timer(0.02, os.kill, (os.getpid(), SIGNUM))
    killer.start()
    while "loop's" not in got:
        await asyncio.sleep(5 if not got else 0.01)
    killer.join()


async def twice(got: list[str]) -> None:
    signal.signal(SIGNUM, lambda *args: got.append("theirs"))
    for _ in range(2):
        signal.raise_signal(SIGNUM)
        await settle()


async def plain(got: list[str]) -> None:
    for _ in range(3):
        signal.raise_signal(SIGNUM)
        await settle()
    killer = threading.Timer(0.02, os.kill, (os.getpid(), SIGNUM))
    killer.start()
    while len(got) < 4:
        await asyncio.sleep(0.01)
    killer.join()
    await settle()


async def default_and_ignored(got: list[str]) -> None:
    signal.signal(SIGNUM, signal.SIG_IGN)
    signal.raise_signal(SIGNUM)
    await settle()


async def removed_under_it(got: list[str]) -> None:
    signal.signal(SIGNUM, lambda *args: got.append("theirs"))
    asyncio.get_running_loop().remove_signal_handler(SIGNUM)
    signal.signal(SIGNUM, lambda *args: got.append("theirs"))
    signal.raise_signal(SIGNUM)
    await settle()


STORIES = [replaced, put_back_and_raised_again, put_back_at_once, called_on,
           called_later, in_the_poll, twice, plain, default_and_ignored,
           removed_under_it]


def tell(
    new: Callable[[], asyncio.AbstractEventLoop], story: Callable[[list[str]], Any]
) -> list[str]:
    got: list[str] = []
    signal.signal(SIGNUM, signal.SIG_DFL)
    loop = new()
    loop.add_signal_handler(SIGNUM, got.append, "loop's")
    loop.run_until_complete(story(got))
    loop.close()
    return got


@pytest.mark.parametrize("story", STORIES)
def test_as_asyncio(story: Callable[[list[str]], Any]) -> None:
    assert tell(uvtulip.new_event_loop, story) == tell(asyncio.SelectorEventLoop, story)


def test_at_the_end_of_a_run() -> None:
    """What comes in the last callback is told by the next run, once."""
    got: list[str] = []
    loop = uvtulip.new_event_loop()
    loop.add_signal_handler(SIGNUM, got.append, "loop's")
    for replace in (False, True):

        async def main(replace: bool = replace) -> None:
            if replace:
                signal.signal(SIGNUM, lambda *args: got.append("theirs"))
            loop.stop()
            signal.raise_signal(SIGNUM)

        loop.create_task(main())
        loop.run_forever()
        loop.run_until_complete(settle())
    loop.close()
    assert got == ["loop's", "theirs", "loop's"]


def test_full_wakeup_pipe_is_no_error(capfd: pytest.CaptureFixture[str]) -> None:
    got: list[int] = []
    loop = uvtulip.new_event_loop()
    loop.add_signal_handler(SIGNUM, got.append, 1)
    loop.add_signal_handler(signal.SIGUSR2, got.append, 2)

    async def main() -> None:
        for _ in range(70_000):
            os.kill(os.getpid(), SIGNUM)
        os.kill(os.getpid(), signal.SIGUSR2)
        while 2 not in got:
            await asyncio.sleep(0)

    loop.run_until_complete(main())
    loop.close()
    assert got.count(2) == 1 and 0 < got.count(1) <= 70_001
    assert capfd.readouterr().err == ""


# ---- loops that nobody closes ----


@pytest.mark.parametrize("ran", [False, True])
@pytest.mark.parametrize("signums", [[SIGNUM], [SIGNUM, signal.SIGUSR2, signal.SIGINT]])
def test_unclosed_loop_is_collected(ran: bool, signums: list[signal.Signals]) -> None:
    gc.collect()
    before, sigint = open_descriptors(), signal.getsignal(signal.SIGINT)
    loop = uvtulip.new_event_loop()
    for number in signums:
        loop.add_signal_handler(number, print)
    if ran:
        loop.run_until_complete(asyncio.sleep(0))
    ref = weakref.ref(loop)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del loop
        gc.collect()
    assert ref() is None
    assert [w.category for w in caught] == [ResourceWarning]
    assert "unclosed event loop" in str(caught[0].message)
    assert open_descriptors() == before
    for number in signums:
        expected = sigint if number == signal.SIGINT else signal.SIG_DFL
        assert signal.getsignal(number) == expected


def test_unclosed_loop_collected_in_another_thread() -> None:
    """That may not set handlers: the signal has its default at the next one."""
    loops = [uvtulip.new_event_loop()]
    ref = weakref.ref(loops[0])
    loops[0].add_signal_handler(signal.SIGWINCH, print)

    def drop() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loops.clear()
            gc.collect()

    thread = threading.Thread(target=drop)
    thread.start()
    thread.join()
    assert ref() is None
    signal.raise_signal(signal.SIGWINCH)
    assert signal.getsignal(signal.SIGWINCH) == signal.SIG_DFL


def test_signal_of_a_collected_loop_kills_again() -> None:
    done = script(
        """
        import asyncio, gc, os, signal, uvtulip
        loop = uvtulip.new_event_loop()
        loop.add_signal_handler(signal.SIGTERM, print)
        loop.run_until_complete(asyncio.sleep(0))
        del loop
        gc.collect()
        os.kill(os.getpid(), signal.SIGTERM)
        """
    )
    assert (done.returncode, done.stderr) == (-signal.SIGTERM, "")
