"""Ends of raw Processes, whatever becomes of SIGCHLD and of their statuses."""

import errno
import gc
import os
import pathlib
import signal
import threading
import time

import pytest

from aiosupport import check_script
from forksupport import in_child
from uvtulip import uv

ECHILD = -errno.ECHILD


@pytest.fixture(autouse=True)
def sigchld():
    before = signal.getsignal(signal.SIGCHLD)
    yield
    signal.signal(signal.SIGCHLD, before)


def spawn(loop, ends, text="sleep 0.05; exit 4", **options):
    return uv.Process.spawn(
        loop, ["/bin/sh", "-c", text],
        exit_callback=lambda process, *end: ends.append(end), **options)


def wait_for_any(number, frame):
    """A library's handler, which takes every status."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


def nothing(number, frame):
    return


def libuv_signal(loop):
    handle = uv.Signal(loop)
    handle.start(lambda handle, number: None, signal.SIGCHLD)
    handle.ref = False


def set_handler(handler):
    return lambda loop: signal.signal(signal.SIGCHLD, handler)


TAKE_OVER = {
    "nobody": lambda loop: None,
    "function": set_handler(nothing),
    "default": set_handler(signal.SIG_DFL),
    "ignored": set_handler(signal.SIG_IGN),
    "waits for any": set_handler(wait_for_any),
    "Signal": libuv_signal,
}


@pytest.mark.parametrize("who", TAKE_OVER)
@pytest.mark.parametrize("when", ["before", "after", "both"])
def test_the_end_is_told(loop, who, when):
    ends = []
    if when != "after":
        TAKE_OVER[who](loop)
    process = spawn(loop, ends)
    if when != "before":
        TAKE_OVER[who](loop)
    loop.run_checked()
    lost = who == "waits for any" or (who == "ignored" and when != "before")
    assert ends == [(4, 0)] or (lost and ends == [(ECHILD, 0)])
    # And the next children of the same loop.
    more = []
    for code in range(5):
        spawn(loop, more, f"exit {code}")
    loop.run_checked()
    assert len(more) == 5
    if not lost and who != "ignored":
        assert sorted(more) == [(code, 0) for code in range(5)]
    process.close()


@pytest.mark.parametrize("who", ["function", "ignored", "default"])
def test_the_programs_action_is_there_afterwards(loop, who):
    ends = []
    TAKE_OVER[who](loop)
    before = signal.getsignal(signal.SIGCHLD)
    for close in (False, True):
        process = spawn(loop, ends, "sleep 0.02")
        if close:
            process.close()
        loop.run_checked()
    status = pathlib.Path("/proc/self/status").read_text()
    bit = 1 << (signal.SIGCHLD - 1)
    ignored = int(status.split("SigIgn:")[1].split()[0], 16) & bit
    caught = int(status.split("SigCgt:")[1].split()[0], 16) & bit
    assert signal.getsignal(signal.SIGCHLD) is before
    assert bool(ignored) is (who == "ignored")
    assert bool(caught) is (who == "function")


def test_the_programs_handler_hears_of_all_children(loop):
    seen, ends = [], []
    signal.signal(signal.SIGCHLD, lambda number, frame: seen.append(number))
    for _ in range(20):
        spawn(loop, ends, "exit 0")
        loop.run_checked()
    assert len(ends) == 20 and len(seen) >= 20


def test_a_handler_set_over_a_signal_stays(loop):
    """As with children: what libuv does at its end is undone."""
    seen = []
    handle = uv.Signal(loop)
    before = signal.getsignal(signal.SIGUSR1)
    handle.start(lambda handle, number: None, signal.SIGUSR1)
    try:
        signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number))
        handle.stop()
        signal.raise_signal(signal.SIGUSR1)
        handle.start(lambda handle, number: None, signal.SIGUSR1)
        signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number))
        handle.close()
        loop.run_checked()
        signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert seen == [signal.SIGUSR1] * 2


def test_killed(loop):
    ends = []
    process = spawn(loop, ends, "kill -9 $$")
    loop.run_checked()
    assert ends == [(0, signal.SIGKILL)] and process.term_signal == signal.SIGKILL
    other = spawn(loop, ends, "sleep 20")
    other.kill(signal.SIGTERM)
    loop.run_checked()
    assert ends[1:] == [(0, signal.SIGTERM)]


def state_of(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")")[1].split()[0]
    except FileNotFoundError:
        return None


def run_until(loop, condition):
    limit = time.monotonic() + 10
    timer = uv.Timer(loop)
    timer.start(lambda timer: (condition() or time.monotonic() > limit)
                and timer.close(), 0.001, 0.001)
    loop.run()
    assert condition()


@pytest.mark.parametrize("who", ["nobody", "function", "default"])
@pytest.mark.parametrize("drop", [False, True])
def test_closed_early_leaves_no_zombie(loop, who, drop):
    ends, pids = [], []
    for _ in range(5):
        process = spawn(loop, ends, "sleep 0.05")
        pids.append(process.pid)
        process.close()
        if drop:
            del process
    TAKE_OVER[who](loop)
    run_until(loop, lambda: all(state_of(pid) is None for pid in pids))
    assert ends == []
    spawn(loop, ends)
    loop.run_checked()
    assert ends == [(4, 0)]


def test_closed_early_does_not_keep_the_loop(loop):
    ends = []
    process = spawn(loop, ends, "sleep 30")
    process.close()
    begin = time.monotonic()
    loop.run()
    assert time.monotonic() - begin < 20
    os.kill(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("drop", [False, True])
def test_children_outlive_their_loop(drop):
    """They are waited for when another loop begins or ends."""
    first, ends = uv.Loop(), []
    process = spawn(first, ends, "sleep 0.05")
    pid = process.pid
    if drop:
        del first, process
        gc.collect()
    else:
        process.close()
        first.run()
        first.close()
    limit = time.monotonic() + 10
    while state_of(pid) not in (None, "Z") and time.monotonic() < limit:
        time.sleep(0.005)
    uv.Loop().close()
    assert state_of(pid) is None
    assert ends == []


def test_told_and_closed_leaves_no_zombie(loop):
    pids = []
    signal.signal(signal.SIGCHLD, nothing)
    for _ in range(5):
        process = uv.Process.spawn(loop, ["/bin/true"],
                                   exit_callback=lambda process, *end: process.close())
        pids.append(process.pid)
    loop.run_checked()
    assert [state_of(pid) for pid in pids] == [None] * 5


def test_many_at_once(loop):
    ends = []
    for code in range(60):
        spawn(loop, ends, f"exit {code}")
    loop.run_checked(30)
    assert sorted(ends) == [(code, 0) for code in range(60)]


def descriptors_of_children():
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            name = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            continue
        if "pidfd" in name:
            found.append(int(fd))
    return found


@pytest.mark.parametrize("reuse", [False, True])
def test_descriptor_taken_away(loop, reuse, tmp_path):
    """Somebody closes what the child is watched by: it is asked for."""
    ends = []
    signal.signal(signal.SIGCHLD, nothing)
    before = set(descriptors_of_children())
    spawn(loop, ends, "sleep 0.1; exit 4")
    mine = set(descriptors_of_children()) - before
    if not mine:
        pytest.skip("this kernel has no descriptors for processes")
    for fd in mine:
        os.close(fd)
    kept = os.open(tmp_path, os.O_RDONLY) if reuse else None
    loop.run_checked()
    assert ends == [(4, 0)]
    if kept is not None:
        os.fstat(kept)
        os.close(kept)


def test_no_descriptor_left():
    """libuv needs some for the start; then there is none for the child."""
    assert check_script("""
import os, resource, signal
from uvtulip import uv
loop, ends = uv.Loop(), []
signal.signal(signal.SIGCHLD, lambda *args: None)
def spawn(code):
    return uv.Process.spawn(loop, ["/bin/sh", "-c", f"sleep 0.05; exit {code}"],
                            exit_callback=lambda p, *end: ends.append(end))
spawn(1)
loop.run()
limit = resource.getrlimit(resource.RLIMIT_NOFILE)
real = os.open("/dev/null", os.O_RDONLY)
started = 0
for room in range(0, 8):
    resource.setrlimit(resource.RLIMIT_NOFILE, (real + room, limit[1]))
    try:
        spawn(7)
        started += 1
    except OSError:
        pass
    resource.setrlimit(resource.RLIMIT_NOFILE, limit)
loop.run()
assert ends == [(1, 0)] + [(7, 0)] * started and started, ends
print("well")
""") == "well\n"


def test_in_a_thread_beside_others():
    results = []

    def work():
        loop, ends = uv.Loop(), []
        for code in range(10):
            spawn(loop, ends, f"exit {code}")
        loop.run()
        results.append(sorted(ends))
        loop.close()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    signal.signal(signal.SIGCHLD, nothing)
    for thread in threads:
        thread.join(30)
    assert results == [[(code, 0) for code in range(10)]] * 4


def test_a_forked_child_that_goes_on_with_the_loop():
    """They are its parent's children: it is told that nobody knows their status."""
    loop, ends = uv.Loop(), []
    spawn(loop, ends, "sleep 0.2")

    def child():
        loop.fork()
        loop.run()
        assert ends == [(ECHILD, 0)]

    in_child(child)
    loop.run()
    assert ends == [(0, 0)]
    for handle in loop.handles:
        handle.close()
    loop.run()
    loop.close()
