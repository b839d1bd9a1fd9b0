"""What loops of several threads share without sharing an object: the process's
descriptors, signals, children, terminals, the thread pool, and the module's lists."""

import os
import pathlib
import signal
import subprocess
import sys
import termios
import threading

import pytest

from forksupport import in_child
from threadsupport import THREADS, together
from uvtulip import uv

ROUNDS = 15


def each_with_a_loop(work, rounds=ROUNDS):
    """Call work(loop) that often in each of some threads, each time with a new loop,
    which has to end by itself.  The results of a thread, for each thread."""

    def repeat():
        results = []
        for _ in range(rounds):
            loop = uv.Loop()
            results.append(work(loop))
            loop.run()
            loop.close()
        return results

    return together(*[repeat] * THREADS)


def test_children():
    def work(loop):
        ended = []
        for status in range(3):
            uv.Process.spawn(
                loop,
                ["sh", "-c", f"exit {status}"],
                exit_callback=lambda process, status, signum: (
                    ended.append(status),
                    process.close(),
                ),
            )
        return ended

    for results in each_with_a_loop(work):
        assert [sorted(ended) for ended in results] == [[0, 1, 2]] * ROUNDS


def test_signals():
    """Each is told to every loop that has a handle for it, however often other loops
    begin and end to watch it."""
    signum = signal.SIGUSR2

    def work():
        for _ in range(10 * ROUNDS):
            loop = uv.Loop()
            told = []
            handle = uv.Signal(loop)
            handle.start(
                lambda handle, signum, told=told: (told.append(signum), handle.close()),
                signum,
            )
            os.kill(os.getpid(), signum)
            loop.run()
            loop.close()
            assert told == [signum]
        return True

    before = signal.signal(signum, signal.SIG_IGN)
    keep = uv.Signal(uv.Loop())  # The signal never kills the process.
    keep.start(lambda handle, signum: None, signum)
    try:
        assert together(*[work] * THREADS) == [True] * THREADS
    finally:
        keep.close()
        keep.loop.run()
        signal.signal(signum, before)


def test_a_terminal():
    """Whichever handle is the last gives it the mode back that it had."""
    master, slave = os.openpty()
    before = termios.tcgetattr(slave)

    def work(loop):
        for _ in range(10):
            terminal = uv.TTY(loop, os.dup(slave), False)
            for mode in (uv.UV_TTY_MODE_RAW, uv.UV_TTY_MODE_NORMAL) * 2:
                terminal.set_mode(mode)
            terminal.set_mode(uv.UV_TTY_MODE_RAW)
            terminal.close()

    each_with_a_loop(work)
    assert termios.tcgetattr(slave) == before
    os.close(slave)
    os.close(master)


def test_files(tmp_path):
    source = tmp_path / "source"
    source.write_bytes(bytes(range(256)) * 400)

    def work(loop):
        folder = tmp_path / f"{threading.get_ident()}"
        folder.mkdir(exist_ok=True)
        seen = []
        watcher = uv.FSEvent(loop)

        def on_event(handle, name, events, error):
            seen.append(name)
            handle.close()

        def on_copied(request):
            seen.append(request.error)

        watcher.start(str(folder), 0, on_event)
        target = folder / f"{len(os.listdir(folder))}"
        uv.fs.copyfile(loop, str(source), str(target), 0, on_copied)
        return seen, target

    for results in each_with_a_loop(work):
        for seen, target in results:
            assert sorted(seen, key=str) == [target.name, None]
            assert target.read_bytes() == source.read_bytes()


def test_pipes(tmp_path):
    def work(loop):
        path = tmp_path / f"{threading.get_ident()}"
        server, client, got = uv.Pipe(loop), uv.Pipe(loop), []

        def on_read(handle, data, error):
            got.append(bytes(data))
            for one in (handle, client, server):
                one.close()

        def on_connection(handle, error):
            accepted = uv.Pipe(loop)
            handle.accept(accepted)
            accepted.start_read(on_read)

        server.bind(str(path))
        server.listen(on_connection)
        client.connect(str(path), lambda handle, error: handle.write(b"x"))
        return got

    assert each_with_a_loop(work) == [[[b"x"]] * ROUNDS] * THREADS
    assert list(pathlib.Path(tmp_path).iterdir()) == []


def test_forks_while_others_make_loops():
    """The child has none of the threads that may have had a lock."""
    stop = threading.Event()

    def work():
        while not stop.is_set():
            loop = uv.Loop()
            # CPython 3.11 waits for ever in a child that was forked while another
            # thread begins or ends; a thread of the pool does so for each work.
            if sys.version_info >= (3, 12):
                loop.queue_work(lambda: None)
            loop.run()
            loop.close()

    def child():
        loop = uv.Loop()
        timer = uv.Timer(loop)
        timer.start(lambda timer: timer.close(), 0)
        loop.run()
        loop.close()

    def fork():
        try:
            for _ in range(10 * ROUNDS):
                in_child(child)
        finally:
            stop.set()

    together(fork, work, work, work)


LOW = """
import os, sys, threading
sys.path.insert(0, sys.argv[1])
from uvtulip import uv

out = os.fdopen(os.dup(1), "w")
for fd in range(3):
    os.close(fd)
errors = []

def work(number):
    try:
        for i in range(400):
            loop = uv.Loop()
            if number % 2 == 0 and i % 10 == 0:
                uv.Process.spawn(
                    loop, ["/bin/true"],
                    exit_callback=lambda process, status, signum: process.close())
            uv.util.resident_set_memory()
            loop.run()
            loop.close()
    except BaseException as exc:
        errors.append(exc)

threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
left = [fd for fd in range(3) if os.path.exists(f"/proc/self/fd/{fd}")]
print(errors, left, file=out, flush=True)
"""


@pytest.mark.parametrize("attempt", range(3))
def test_descriptors_0_to_2(attempt):
    """libuv gets none of them, whichever thread keeps it from them, and they are
    closed in the end."""
    done = subprocess.run(
        [sys.executable, "-c", LOW, "."],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "[] []\n"), done.stderr
