"""Descriptors that vanish under a handle: libuv would abort the process."""

import os
import signal
import socket
import subprocess
import sys
import textwrap

import pytest

from uvtulip import uv


def stream(loop):
    a, b = socket.socketpair()
    handle = uv.TCP(loop)
    handle.open(a.detach())
    return handle, b


def test_closed_before_the_first_poll(loop):
    handle, peer = stream(loop)
    with peer:
        handle.start_read(lambda *args: None)
        os.close(handle.fileno())
        loop.run_checked()
        assert handle.closed


def test_closed_and_reused_by_a_file(loop, tmp_path):
    handle, peer = stream(loop)
    with peer:
        handle.start_read(lambda *args: None)
        fd = handle.fileno()
        os.close(fd)
        file = os.open(tmp_path / "f", os.O_CREAT | os.O_RDWR)
        if file != fd:
            os.dup2(file, fd)
            os.close(file)
        loop.run_checked()
        assert handle.closed


def test_poll_hears_ebadf(loop):
    a, b = socket.socketpair()
    with b:
        poll = uv.Poll(loop, a)
        seen = []
        poll.start(uv.UV_READABLE, lambda h, events, error: seen.append(
            (events, error)))
        a.close()
        loop.run_checked()
        assert seen == [(None, uv.errno.UV_EBADF)]
        assert not poll.active
        poll.close()


def test_descriptor_closed_under_a_watching_poll_and_reused(loop):
    a, b = socket.socketpair()
    with b:
        poll = uv.Poll(loop, a)
        seen = []
        poll.start(uv.UV_READABLE, lambda h, events, error: seen.append(error))
        loop.run(uv.UV_RUN_NOWAIT)
        fd = a.fileno()
        a.close()
        client = uv.TCP(loop, socket.AF_INET)
        if client.fileno() == fd:
            assert seen == [uv.errno.UV_EBADF] and not poll.active
        server = socket.create_server(("127.0.0.1", 0))
        with server:
            done = []
            client.connect(server.getsockname(),
                           lambda h, error: (done.append(error), h.close()))
            while not done:
                loop.run(uv.UV_RUN_ONCE)
        poll.close()
        loop.run_checked()
        assert done == [None]


@pytest.mark.parametrize(
    "kind", ["write", "reused", "poll", "udp", "listen", "connect"]
)
def test_close_everything_behind_libuv(kind):
    """In a process of its own: an abort would take the test run along."""
    code = textwrap.dedent("""
        import os, socket
        from uvtulip import uv
        kind = %r
        loop = uv.Loop()
        a, b = socket.socketpair()
        if kind == "write":
            handle = uv.TCP(loop)
            handle.open(a.detach())
            handle.start_read(lambda *args: None)
            loop.run(uv.UV_RUN_NOWAIT)
            for _ in range(100):
                handle.write(b"x" * 100000, lambda h, e: None)
            os.close(handle.fileno())
        elif kind == "reused":
            handle = uv.TCP(loop)
            handle.open(a.detach())
            handle.start_read(lambda *args: None)
            loop.run(uv.UV_RUN_NOWAIT)
            c, d = socket.socketpair()
            c.setblocking(False)
            os.dup2(c.fileno(), handle.fileno())
            for _ in range(100):
                handle.write(b"x" * 100000, lambda h, e: None)
        elif kind == "poll":
            handle = uv.Poll(loop, a)
            handle.start(uv.UV_READABLE, lambda *args: None)
            loop.run(uv.UV_RUN_NOWAIT)
            a.close()
            try:
                handle.start(uv.UV_WRITABLE, lambda *args: None)
            except uv.error.PollError:
                pass
        elif kind == "udp":
            handle = uv.UDP(loop)
            handle.bind(("127.0.0.1", 0))
            handle.start_recv(lambda *args: None)
            os.close(handle.fileno())
        elif kind == "listen":
            handle = uv.TCP(loop)
            handle.bind(("127.0.0.1", 0))
            handle.listen(lambda *args: None)
            os.close(handle.fileno())
        else:
            handle = uv.TCP(loop, socket.AF_INET)
            os.close(handle.fileno())
            try:
                handle.connect(("127.0.0.1", 1), lambda *args: None)
            except OSError:
                pass
        for _ in range(5):
            loop.run(uv.UV_RUN_NOWAIT)
        if not handle.closed:
            handle.close()
        loop.run(uv.UV_RUN_NOWAIT)
        print("alive")
    """) % kind
    done = subprocess.run([sys.executable, "-c", code], capture_output=True,
                          text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "alive\n"


def test_a_handle_does_not_evict_itself(loop):
    """bind() makes a socket, or finds the one that connect() has made."""
    handle = uv.TCP(loop)
    done = []
    handle.connect(("127.0.0.1", 0), lambda h, error: done.append(error))
    handle.bind(("127.0.0.1", 0))
    assert not handle.closed
    loop.run_checked()
    assert len(done) == 1 and not handle.closed
    handle.close()


@pytest.mark.parametrize("reused", [False, True])
def test_signals_wake_after_the_wakeup_descriptor_was_closed(loop, tmp_path, reused):
    seen = []

    def on_alarm(*args):
        seen.append(args)
        loop.stop()

    before = signal.signal(signal.SIGALRM, on_alarm)

    def find(check):
        fd = signal.set_wakeup_fd(-1)
        signal.set_wakeup_fd(fd)
        seen.append(fd)
        check.close()

    try:
        uv.Check(loop).start(find)
        loop.run(uv.UV_RUN_NOWAIT)
        os.close(seen[0])
        if reused:
            file = os.open(tmp_path / "f", os.O_CREAT | os.O_RDWR)
            if file != seen[0]:
                os.dup2(file, seen[0])
                os.close(file)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        timer = uv.Timer(loop)
        timer.start(lambda timer: loop.stop(), 20, 0)
        loop.run()
        assert len(seen) == 2
        assert timer.active
        timer.close()
        if reused:
            assert os.fstat(seen[0]).st_size == 0  # It is still there.
            os.close(seen[0])
    finally:
        signal.signal(signal.SIGALRM, before)


OWN = {
    "epoll": "os.close(loop.fileno())",
    "eventfd": "close('eventfd')",
    "pipes": "close('pipe')",
    "all": "os.closerange(3, 1000)",
}


@pytest.mark.parametrize("how", ["close", "collect"])
@pytest.mark.parametrize("ran", [False, True])
@pytest.mark.parametrize("what", OWN)
def test_descriptors_of_the_loop_itself(what, ran, how):
    """As programs do that become daemons: an exception, and other loops go on."""
    code = textwrap.dedent("""
        import gc, os, socket
        from uvtulip import uv

        def close(kind):
            for fd in map(int, os.listdir("/proc/self/fd")):
                try:
                    if fd > 2 and kind in os.readlink(f"/proc/self/fd/{fd}"):
                        os.close(fd)
                except FileNotFoundError:
                    pass

        loop = uv.Loop()
        server = uv.TCP(loop)
        server.bind(("127.0.0.1", 0))
        server.listen(print)
        event = uv.FSEvent(loop)
        event.start("/", 0, print)
        uv.Timer(loop).start(lambda timer: loop.stop(), 0.01, 0.01)
        if RAN:
            loop.run()
        WHAT
        try:
            loop.run()
        except uv.error.UVError as exc:
            assert exc.name == "EBADF", exc
        else:
            raise AssertionError("it ran")
        # Its numbers may be the next one's.
        other = uv.Loop()
        uv.Timer(other).start(lambda timer: print("ticked"), 0.01, 0)
        if HOW == "close":
            for handle in loop.handles:
                handle.close()
            loop.close()
        del loop, server, event
        gc.collect()
        other.run()
        other.close()
    """).replace("RAN", str(ran)).replace("WHAT", OWN[what]).replace("HOW", repr(how))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True,
                          text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ticked\n", "")


def inotify_fds():
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            if "inotify" in os.readlink(f"/proc/self/fd/{fd}"):
                found.add(fd)
        except FileNotFoundError:  # That of listdir().
            continue
    return found


def test_the_descriptor_of_inotify(loop, tmp_path):
    """All who watch files hear that it is gone, and may start again."""
    told = []
    watchers = [uv.FSEvent(loop) for _ in range(3)]
    before = inotify_fds()
    for watcher in watchers:
        watcher.start(str(tmp_path), 0, lambda *args: told.append(args))
    [fd] = inotify_fds() - before
    os.close(int(fd))
    ticks = []
    timer = uv.Timer(loop)
    timer.start(ticks.append, 0.01)
    loop.run_checked()
    assert ticks == [timer]
    assert {args[0] for args in told} == set(watchers)
    assert {args[3] for args in told} == {uv.errno.UV_EBADF}
    watchers[0].start(str(tmp_path), 0, lambda watcher, *_: watcher.close())
    (tmp_path / "new").touch()
    loop.run_checked()
    for watcher in watchers[1:]:
        watcher.close()
    loop.run_checked()
