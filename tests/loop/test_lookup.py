"""The threads that look names up: how many there are, what becomes of answers that
nobody wants, and who is asked instead of them."""

import asyncio
import os
import socket
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import uvtulip
from aiosupport import LIMIT, run, turns
from uvtulip import uv

# What the scripts below begin with: LOOP has a `held` name's lookup under way when
# begun() has returned as often, and release() lets so many answers come.
PRELUDE = """
import asyncio, gc, os, socket, uvtulip
begun_r, begun_w = os.pipe()
release_r, release_w = os.pipe()
os.environ.update(HELD_BEGUN=str(begun_w), HELD_RELEASE=str(release_r))

def begun(count=1):
    while count:
        count -= len(os.read(begun_r, count))

def release(count=1):
    os.write(release_w, bytes(count))

def lookup(loop, name):
    return asyncio.ensure_future(
        loop.getaddrinfo(name, 80, type=socket.SOCK_STREAM), loop=loop
    )

ANSWER = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 80))]

def threads():
    return len(os.listdir("/proc/self/task"))

def run(main):
    with asyncio.Runner(loop_factory=uvtulip.new_event_loop) as runner:
        runner.run(main())
"""


@pytest.fixture
def script(held_names):
    """Run a script that has to succeed and to say nothing."""

    def run_script(source):
        preload = os.environ.get("LD_PRELOAD", "").split()
        done = subprocess.run(
            [sys.executable, "-c", PRELUDE + textwrap.dedent(source)],
            env={**os.environ, "LD_PRELOAD": " ".join([*preload, str(held_names)])},
            capture_output=True,
            text=True,
            timeout=LIMIT * 2,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    return run_script


def test_many_at_once(script):
    """More than libuv's pool would do: nobody waits for another one's server."""
    script("""
    async def main():
        loop = asyncio.get_running_loop()
        tasks = [lookup(loop, f"held{i}") for i in range(20)]
        await asyncio.sleep(0)
        begun(20)
        release(20)
        assert await asyncio.gather(*tasks) == [ANSWER] * 20

    run(main)
    """)


def test_but_not_too_many(script):
    script("""
    async def main():
        loop = asyncio.get_running_loop()
        before = threads()
        tasks = [lookup(loop, f"held{i}") for i in range(100)]
        await asyncio.sleep(0)
        begun(32)
        assert threads() - before == 32
        release(100)
        assert await asyncio.gather(*tasks) == [ANSWER] * 100

    run(main)
    """)


def test_threads_are_used_again(script):
    script("""
    async def main():
        loop = asyncio.get_running_loop()
        before = threads()
        for i in range(50):
            task = lookup(loop, "held")
            await asyncio.sleep(0)
            begun()
            release()
            assert await task == ANSWER
        # The second one may find the first thread not idle yet.
        assert threads() - before <= 2

    run(main)
    """)


def test_cancelling_returns_at_once(script):
    """The answer is dropped, and what was not begun is never asked."""
    script("""
    async def main():
        loop = asyncio.get_running_loop()
        tasks = [lookup(loop, f"held{i}") for i in range(100)]
        await asyncio.sleep(0)
        begun(32)
        for task in tasks:
            task.cancel()
        for task in tasks:
            try:
                await task
            except asyncio.CancelledError:
                pass
            else:
                raise AssertionError("not cancelled")
        release(32)
        last = lookup(loop, "held")
        await asyncio.sleep(0)
        begun()
        release()
        assert await last == ANSWER
        # Nobody else has begun: nothing to read.
        os.set_blocking(begun_r, False)
        try:
            begun()
        except BlockingIOError:
            pass
        else:
            raise AssertionError("a cancelled name was looked up")

    run(main)
    """)


def test_errors(script):
    script("""
    async def main():
        loop = asyncio.get_running_loop()
        for name in "broken", "again":
            try:
                socket.getaddrinfo(name, 80)
            except OSError as exc:
                wanted = type(exc), exc.args
            try:
                await loop.getaddrinfo(name, 80)
            except OSError as exc:
                assert (type(exc), exc.args) == wanted
            else:
                raise AssertionError("no error")

    run(main)
    """)


def test_the_loop_is_closed_meanwhile(script):
    script("""
    async def main():
        loop = asyncio.get_running_loop()
        tasks.extend(lookup(loop, f"held{i}") for i in range(40))
        await asyncio.sleep(0)
        begun(32)

    for _ in range(5):
        tasks = []
        loop = uvtulip.new_event_loop()
        loop.run_until_complete(main())
        loop.close()
        for task in tasks:
            task._log_destroy_pending = False
        del tasks, loop, task
        gc.collect()
        before = threads()
        release(32)
        # The threads end, whenever they notice.
        while threads() > 1:
            pass
    """)


def test_the_process_ends_meanwhile(script):
    script("""
    async def main():
        loop = asyncio.get_running_loop()
        task = lookup(loop, "held")
        await asyncio.sleep(0)
        begun()

    run(main)
    """)


def test_a_loop_dropped_meanwhile(script):
    script("""
    class Loop(uvtulip.Loop):
        def __del__(self):
            pass

    async def main():
        task = lookup(asyncio.get_running_loop(), "held")
        task._log_destroy_pending = False
        await asyncio.sleep(0)
        begun()

    loop = Loop()
    loop.run_until_complete(main())
    del loop
    gc.collect()
    release()
    while threads() > 1:
        pass
    """)


def test_a_forked_child_drops_the_loop(script):
    """It has none of the threads."""
    script("""
    import warnings
    warnings.simplefilter("ignore", DeprecationWarning)

    class Loop(uvtulip.Loop):
        def __del__(self):
            pass

    async def main():
        task = lookup(asyncio.get_running_loop(), "held")
        task._log_destroy_pending = False
        await asyncio.sleep(0)
        begun()
        return task

    loop = Loop()
    task = loop.run_until_complete(main())
    pid = os.fork()
    if pid == 0:
        del loop, task
        gc.collect()
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert status == 0
    release()
    assert loop.run_until_complete(task) == ANSWER
    loop.close()
    """)


# ---- who is asked ----


def test_the_handle_closed_behind_our_back():
    async def main():
        loop = asyncio.get_running_loop()
        before = set(loop.uv_loop.handles)
        for _ in range(2):
            assert await loop.getaddrinfo("localhost", 80)
            (handle,) = [
                handle
                for handle in loop.uv_loop.handles
                if isinstance(handle, uv.Async) and handle not in before
            ]
            handle.close()
            lookup = asyncio.create_task(loop.getaddrinfo("localhost", 80))
            try:
                assert await lookup
            except RuntimeError as exc:
                assert "was closed" in str(exc)
            await turns()
            await asyncio.sleep(0.001)

    run(main(), debug=False)


def fake(host, port, *args, **kwargs):
    return [("fake", host, port, threading.current_thread())]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_replaced_getaddrinfo_is_called(monkeypatch, host):
    monkeypatch.setattr(socket, "getaddrinfo", fake)

    async def main():
        loop = asyncio.get_running_loop()
        ((*got, thread),) = await loop.getaddrinfo(host, 80)
        assert got == ["fake", host, 80]
        assert thread is not threading.main_thread()

    run(main())


def test_an_executor_of_the_programs_own_is_used():
    class Executor(ThreadPoolExecutor):
        calls = 0

        def submit(self, *args, **kwargs):
            self.calls += 1
            return super().submit(*args, **kwargs)

    async def main():
        loop = asyncio.get_running_loop()
        with Executor(1) as executor:
            loop.set_default_executor(executor)
            assert await loop.getaddrinfo("localhost", 80)
            assert executor.calls == 1

    run(main())


def test_an_overridden_run_in_executor_is_used():
    class Loop(uvtulip.Loop):
        calls = 0

        def run_in_executor(self, executor, func, *args):
            self.calls += 1
            future = self.create_future()
            future.set_result(func(*args))
            return future

    with asyncio.Runner(loop_factory=Loop) as runner:
        loop = runner.get_loop()
        wanted = socket.getaddrinfo("localhost", 80)
        assert runner.run(loop.getaddrinfo("localhost", 80)) == wanted
        assert loop.calls == 1


def test_audited(held_names):
    source = """
    import asyncio, sys, uvtulip
    seen = []
    sys.addaudithook(lambda event, args:
        seen.append(args) if event == "socket.getaddrinfo" else None)

    async def main():
        loop = asyncio.get_running_loop()
        await loop.getaddrinfo("localhost", 80, type=1)
        await loop.getaddrinfo("127.0.0.1", 81, family=2, type=1, proto=6)

    with asyncio.Runner(loop_factory=uvtulip.new_event_loop) as runner:
        runner.run(main())
    assert seen == [("localhost", 80, 0, 1, 0), ("127.0.0.1", 81, 2, 1, 6)], seen
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(source)], check=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_on_a_closed_loop(host):
    loop = uvtulip.new_event_loop()
    loop.close()
    coroutine = loop.getaddrinfo(host, 80, type=socket.SOCK_STREAM)
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        coroutine.send(None)
