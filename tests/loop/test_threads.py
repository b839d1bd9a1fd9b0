"""Loops in threads, nested runs, the interactive interpreter."""

import asyncio
import os
import signal
import subprocess
import sys
import threading

import pytest

import uvtulip
from aiosupport import LIMIT, check_script, run, turns, until
from threadsupport import together


def in_thread(function):
    """Call it in a thread; its result, or its exception."""
    return together(function)[0]


# ---- nested runs ----


def run_nested(factory, how):
    """The message of the RuntimeError of a run inside of a run."""
    message = None
    other = factory()

    async def main():
        nonlocal message
        loop = asyncio.get_running_loop()
        coroutine = asyncio.sleep(0)
        try:
            if how == "same":
                loop.run_until_complete(coroutine)
            elif how == "same forever":
                loop.run_forever()
            elif how == "other":
                other.run_until_complete(coroutine)
            elif how == "other forever":
                other.run_forever()
            else:
                asyncio.run(coroutine)
        except RuntimeError as exc:
            message = str(exc)
        finally:
            coroutine.close()
        if factory is uvtulip.new_event_loop:  # 3.13.0's own forgets it.
            assert asyncio.get_running_loop() is loop
            assert await asyncio.sleep(0, 5) == 5

    loop = factory()
    try:
        loop.run_until_complete(main())
        assert asyncio._get_running_loop() is None
    finally:
        loop.close()
        other.close()
    return message


@pytest.mark.parametrize(
    "how",
    ["same", "same forever", "other", "other forever", "asyncio.run"],
)
def test_nested_runs_are_refused_as_in_asyncio(how):
    expected = run_nested(asyncio.SelectorEventLoop, how)
    assert expected is not None
    assert run_nested(uvtulip.new_event_loop, how) == expected


def test_mixed_with_asyncios_own_loop():
    mine, theirs = uvtulip.new_event_loop(), asyncio.SelectorEventLoop()

    async def inside(other):
        coroutine = asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="while another loop is running"):
            other.run_until_complete(coroutine)
        coroutine.close()

    mine.run_until_complete(inside(theirs))
    theirs.run_until_complete(inside(mine))
    mine.close()
    theirs.close()


# ---- threads ----


def test_a_loop_in_a_thread_has_everything():
    async def main():
        loop = asyncio.get_running_loop()
        server = await asyncio.start_server(
            lambda reader, writer: writer.close(), "127.0.0.1", 0
        )
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        assert await reader.read() == b""
        writer.close()
        server.close()
        assert await loop.run_in_executor(None, int, "3") == 3
        assert await loop.getaddrinfo("localhost", 1)
        process = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
        assert await process.communicate(b"x") == (b"x", None)
        with pytest.raises(RuntimeError, match="main thread"):
            loop.add_signal_handler(signal.SIGUSR1, print)
        return "done"

    assert in_thread(lambda: run(main())) == "done"


def test_made_in_one_thread_and_run_in_another():
    loop = uvtulip.new_event_loop()
    assert in_thread(lambda: loop.run_until_complete(asyncio.sleep(0.001, 1))) == 1
    assert loop.run_until_complete(asyncio.sleep(0.001, 2)) == 2
    in_thread(loop.close)
    assert loop.is_closed()


def test_the_running_loop_is_the_threads():
    loops = {}
    barrier = threading.Barrier(3)

    def work(name):
        async def main():
            loop = loops[name] = asyncio.get_running_loop()
            barrier.wait(LIMIT)
            assert asyncio.get_running_loop() is loop
            await asyncio.sleep(0)
            assert asyncio.get_running_loop() is loop
            assert asyncio.get_event_loop() is loop
            barrier.wait(LIMIT)

        run(main())

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    work("main")
    for thread in threads:
        thread.join()
    assert len(set(loops.values())) == 3
    assert all(loop.is_closed() for loop in loops.values())


def test_loops_that_call_each_other():
    """Futures of one loop are awaited in another, by run_coroutine_threadsafe."""

    async def main():
        here = asyncio.get_running_loop()
        ready = asyncio.Event()
        there = None

        def work():
            async def inner():
                nonlocal there
                there = asyncio.get_running_loop()
                stop = asyncio.Event()
                here.call_soon_threadsafe(ready.set)
                for i in range(20):
                    done = asyncio.run_coroutine_threadsafe(
                        asyncio.sleep(0.0001, i), here
                    )
                    assert await asyncio.wrap_future(done) == i
                here.call_soon_threadsafe(finished.set_result, stop)
                await stop.wait()

            run(inner())

        finished = here.create_future()
        thread = threading.Thread(target=work)
        thread.start()
        await ready.wait()
        for i in range(20):
            done = asyncio.run_coroutine_threadsafe(asyncio.sleep(0.0001, i), there)
            assert await asyncio.wrap_future(done) == i
        there.call_soon_threadsafe((await finished).set)
        await asyncio.to_thread(thread.join)

    run(main())


def test_signals_come_to_the_main_threads_loop():
    """Whatever loops the other threads run."""

    async def main():
        loop = asyncio.get_running_loop()
        calls = []
        loop.add_signal_handler(signal.SIGUSR1, calls.append, 1)
        stops = []

        def work():
            async def inner():
                event = asyncio.Event()
                stops.append((asyncio.get_running_loop(), event))
                await event.wait()

            run(inner())

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        await until(lambda: len(stops) == 3)
        for _ in range(5):
            calls.clear()
            os.kill(os.getpid(), signal.SIGUSR1)
            await until(lambda: calls)
        for other, event in stops:
            other.call_soon_threadsafe(event.set)
        for thread in threads:
            thread.join()
        await turns()

    run(main())


def test_daemon_thread_with_a_loop_at_the_exit():
    """The interpreter ends while a loop runs, with a child process, elsewhere."""
    check_script(
        """
        import asyncio, threading, uvtulip
        ready = threading.Event()
        async def main():
            process = await asyncio.create_subprocess_exec("cat", stdin=-1)
            ready.set()
            await process.wait()
        thread = threading.Thread(target=uvtulip.run, args=(main(),), daemon=True)
        thread.start()
        ready.wait()
        """
    )


# ---- the interactive interpreter ----


def test_asyncio_repl():
    """python -m asyncio, whose loop runs in the main thread and code in another."""
    lines = [
        "import asyncio, uvtulip",
        "await asyncio.sleep(0.001, 'slept')",
        "type(asyncio.get_running_loop()) is uvtulip.Loop",
        "process = await asyncio.create_subprocess_exec('cat', stdin=-1, stdout=-1)",
        "await process.communicate(b'through a child')",
        "await asyncio.to_thread(lambda: 6 * 7)",
        "1 // 0",
        "'still here'",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "uvtulip", "-m", "asyncio"],
        input="\n".join(lines) + "\n",
        capture_output=True,
        text=True,
        timeout=LIMIT,
        env={**os.environ, "PYTHON_BASIC_REPL": "1", "PYTHON_COLORS": "0"},
    )
    assert done.returncode == 0, done.stderr
    for expected in ("'slept'", "True", "b'through a child'", "42", "'still here'"):
        assert expected in done.stdout, (expected, done.stdout, done.stderr)
    assert "ZeroDivisionError" in done.stderr
