"""Signals that come faster than a loop can tell of them, and around a fork."""

import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from forksupport import in_child
from uvtulip import uv

STORM, OTHERS = signal.SIGUSR1, [signal.SIGUSR2, signal.SIGALRM, signal.SIGWINCH]
PIPE = 4096  # Messages in libuv's pipe.


@pytest.fixture(autouse=True)
def actions():
    before = {number: signal.getsignal(number) for number in [STORM, *OTHERS]}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def watch(loop, number, seen, once=False):
    handle = uv.Signal(loop)
    start = handle.start_oneshot if once else handle.start
    start(lambda handle, number: seen.append(number), number)
    return handle


def storm(count=PIPE + 2000):
    for _ in range(count):
        os.kill(os.getpid(), STORM)


def turns(loop, count=4):
    for _ in range(count):
        loop.run(uv.UV_RUN_NOWAIT)


@pytest.mark.parametrize("once", [False, True])
def test_other_signals_are_not_lost(loop, once):
    seen, storms = [], []
    watch(loop, STORM, storms)
    for number in OTHERS:
        watch(loop, number, seen, once)
    storm()
    for number in OTHERS:
        os.kill(os.getpid(), number)
    turns(loop)
    assert sorted(seen) == sorted(OTHERS)
    assert 0 < len(storms) <= PIPE + 2000 + 2
    turns(loop)
    assert sorted(seen) == sorted(OTHERS)


def test_several_loops_and_handles_of_one_signal(loop):
    others = [uv.Loop() for _ in range(3)]
    seen = [[] for _ in others]
    watch(loop, STORM, [])
    for number, other in enumerate(others):
        watch(other, OTHERS[0], seen[number])
        watch(other, OTHERS[0], seen[number])
        watch(other, STORM, [])
    storm()
    os.kill(os.getpid(), OTHERS[0])
    for other in others:
        turns(other)
    assert seen == [[OTHERS[0]] * 2] * 3
    for other in others:
        for handle in other.handles:
            handle.close()
        other.run()
        other.close()


def test_a_signal_that_is_seen_is_seen_once(loop):
    seen = []
    watch(loop, OTHERS[0], seen)
    for count in range(1, 50):
        os.kill(os.getpid(), OTHERS[0])
        turns(loop)
        assert len(seen) == count
    turns(loop)
    assert len(seen) == 49


def test_stopped_and_changed_handles_hear_nothing_old(loop):
    seen = []
    stopped, changed = watch(loop, OTHERS[0], seen), watch(loop, OTHERS[1], seen)
    watch(loop, STORM, [])
    storm()
    os.kill(os.getpid(), OTHERS[0])
    os.kill(os.getpid(), OTHERS[1])
    stopped.stop()
    changed.start(lambda handle, number: seen.append(number), OTHERS[2])
    turns(loop)
    stopped.start(lambda handle, number: seen.append(number), OTHERS[0])
    turns(loop)
    assert seen == []


def test_a_child_that_ends_in_the_storm(loop):
    ends = []
    watch(loop, STORM, [])
    read, write = os.pipe()
    process = uv.Process.spawn(
        loop, ["/bin/sh", "-c", "read line; exit 3"],
        stdio=[uv.StdIO(fd=read, flags=uv.UV_INHERIT_FD)],
        exit_callback=lambda process, *end: (ends.append(end), loop.stop()))
    storm()
    os.write(write, b"go\n")
    limit = time.monotonic() + 10
    while " Z " not in pathlib.Path(f"/proc/{process.pid}/stat").read_text():
        assert time.monotonic() < limit
    loop.run()
    assert ends == [(3, 0)]
    os.close(read)
    os.close(write)


def test_storm_of_other_processes(loop):
    """They fill the pipe again and again while the loop runs; each other signal that
    is sent is followed by a call."""
    code = ("import os, sys\n"
            "for _ in range(30000): os.kill(int(sys.argv[1]), int(sys.argv[2]))\n")
    seen = []
    watch(loop, STORM, [])
    watch(loop, OTHERS[0], seen)
    stormers = [subprocess.Popen([sys.executable, "-c", code, str(os.getpid()),
                                  str(int(STORM))]) for _ in range(3)]
    limit = time.monotonic() + 40
    for _ in range(40):
        count = len(seen)
        time.sleep(0.005)
        os.kill(os.getpid(), OTHERS[0])
        while len(seen) == count:
            loop.run(uv.UV_RUN_ONCE)
            assert time.monotonic() < limit
    for stormer in stormers:
        stormer.wait(30)
    assert len(seen) >= 40


def test_a_handler_that_sends_its_own_signal(loop):
    """With so many under way that libuv itself would not come back to the poll."""
    count, heard = [0], []
    read, write = os.pipe()
    os.write(write, b"x")
    handle, poll = uv.Signal(loop), uv.Poll(loop, read)

    def on_signal(handle, number):
        count[0] += 1
        if not heard and count[0] < 100 * PIPE:
            os.kill(os.getpid(), number)
        else:
            handle.close()

    def on_poll(handle, events, error):
        heard.append(count[0])
        handle.close()

    handle.start(on_signal, STORM)
    for _ in range(200):
        os.kill(os.getpid(), STORM)
    poll.start(uv.UV_READABLE, on_poll)
    loop.run_checked(30)
    assert len(heard) == 1 and heard[0] <= 2 * PIPE
    os.close(read)
    os.close(write)


def test_from_threads_while_it_polls(loop):
    """A signal that finds the pipe full just as the loop empties it."""
    seen, stop = [], []
    watch(loop, STORM, [])
    watch(loop, OTHERS[0], seen)
    ident = threading.get_ident()

    def send():
        while not stop:
            for _ in range(500):
                signal.pthread_kill(ident, STORM)
            time.sleep(0)

    threads = [threading.Thread(target=send) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(100):
            count = len(seen)
            os.kill(os.getpid(), OTHERS[0])
            limit = time.monotonic() + 20
            while len(seen) == count:
                loop.run(uv.UV_RUN_ONCE)
                assert time.monotonic() < limit
    finally:
        stop.append(True)
        for thread in threads:
            thread.join()


# ---- fork ----


@pytest.mark.parametrize("pending", [0, 1, 50, PIPE + 1000])
@pytest.mark.parametrize("closing", [False, True])
def test_pending_at_a_fork(pending, closing):
    """The child's handle closes; what came before is told in the parent only."""
    loop, seen = uv.Loop(), []
    handle = watch(loop, STORM, seen)
    turns(loop)
    for _ in range(pending):
        os.kill(os.getpid(), STORM)
    if closing:
        handle.close()

    def child():
        loop.fork()
        turns(loop)
        assert seen == []
        if not closing:
            os.kill(os.getpid(), STORM)
            loop.run(uv.UV_RUN_ONCE)
            assert seen == [STORM]
            handle.close()
        loop.run()
        assert handle.closed and loop.handles == []
        loop.close()

    in_child(child)
    turns(loop)
    assert bool(seen) is (pending > 0 and not closing)
    if not closing:
        handle.close()
    loop.run()
    loop.close()


def test_a_signal_of_the_child_is_not_the_parents():
    """Before the child goes on with the loop it has its parent's pipe."""
    loop, seen = uv.Loop(), []
    handle = watch(loop, STORM, seen)
    turns(loop)

    def child():
        os.kill(os.getpid(), STORM)
        loop.fork()
        turns(loop)
        assert seen == [STORM]

    in_child(child)
    turns(loop)
    assert seen == []
    handle.close()
    loop.run()
    loop.close()
