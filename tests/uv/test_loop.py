"""uv.Loop: running, stopping, closing, exceptions, and what it keeps alive."""

import gc
import os
import select
import signal
import subprocess
import sys
import threading
import time
import weakref

import pytest

from uvtulip import uv


def test_run_without_handles_returns_at_once(loop):
    assert loop.run() is False
    assert loop.run(uv.UV_RUN_ONCE) is False
    assert loop.run(uv.UV_RUN_NOWAIT) is False


def test_run_returns_whether_something_is_left(loop):
    timer = uv.Timer(loop)
    timer.start(lambda t: None, 100, 0)
    assert loop.run(uv.UV_RUN_NOWAIT) is True
    timer.stop()
    assert loop.run(uv.UV_RUN_NOWAIT) is False


@pytest.mark.parametrize("mode", [-1, 3, 10**30])
def test_bad_mode_is_a_value_error(loop, mode):
    with pytest.raises((ValueError, OverflowError)):
        loop.run(mode)


@pytest.mark.parametrize("args", [("x",), (None,), (0, 1)])
def test_bad_run_arguments(loop, args):
    with pytest.raises(TypeError):
        loop.run(*args)


def test_loop_takes_no_arguments():
    with pytest.raises(TypeError):
        uv.Loop(1)
    with pytest.raises(TypeError):
        uv.Loop(name=1)


def test_stop_before_run(loop):
    uv.Timer(loop).start(lambda t: None, 100, 0)
    loop.stop()
    assert loop.run() is True


def test_stop_in_a_callback(loop):
    calls = []

    def on_timer(timer):
        calls.append(1)
        loop.stop()

    timer = uv.Timer(loop)
    timer.start(on_timer, 0, 0.001)
    assert loop.run() is True
    assert calls == [1]


def test_nested_run_raises(loop):
    seen = []

    def on_timer(timer):
        with pytest.raises(RuntimeError, match="running already"):
            loop.run()
        seen.append(True)

    uv.Timer(loop).start(on_timer, 0, 0)
    loop.run_checked()
    assert seen == [True]


def test_run_from_another_thread_raises(loop):
    seen = []

    def other():
        try:
            loop.run(uv.UV_RUN_NOWAIT)
        except RuntimeError as e:
            seen.append(str(e))

    def on_timer(timer):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()

    uv.Timer(loop).start(on_timer, 0, 0)
    loop.run_checked()
    assert len(seen) == 1 and "another thread" in seen[0]


def test_other_threads_run_while_the_poll_waits(loop):
    done = threading.Event()
    wakeup = uv.Async(loop, lambda handle: handle.close())

    def other():
        done.set()
        wakeup.send()

    thread = threading.Thread(target=other)

    def on_timer(timer):
        thread.start()

    uv.Timer(loop).start(on_timer, 0, 0)
    loop.run_checked()
    thread.join()
    assert done.is_set()


def test_uninitialised_loop():
    bare = uv.Loop.__new__(uv.Loop)
    for call in (bare.run, bare.stop, bare.close, bare.now, bare.update_time,
                 bare.fileno, bare.get_timeout, bare.metrics_idle_time):
        with pytest.raises(RuntimeError, match="not initialised"):
            call()
    with pytest.raises(RuntimeError):
        bare.alive
    assert bare.handles == []
    assert bare.closed is False
    with pytest.raises(RuntimeError):
        uv.Timer(bare)


def test_second_init_raises(loop):
    with pytest.raises(RuntimeError, match="already"):
        loop.__init__()
        uv.Loop.__init__(loop)


def test_close_with_open_handles_is_ebusy():
    loop = uv.Loop()
    timer = uv.Timer(loop)
    with pytest.raises(uv.error.UVError) as caught:
        loop.close()
    assert caught.value.args[0] == uv.errno.UV_EBUSY
    timer.close()
    loop.close()
    assert loop.closed
    assert timer.loop is None
    loop.close()
    for call in (loop.run, loop.stop, loop.now, loop.fileno):
        with pytest.raises(RuntimeError, match="closed"):
            call()
    with pytest.raises(RuntimeError, match="closed"):
        uv.Timer(loop)


def test_close_while_running_raises(loop):
    seen = []

    def on_timer(timer):
        with pytest.raises(RuntimeError, match="running"):
            loop.close()
        seen.append(True)

    uv.Timer(loop).start(on_timer, 0, 0)
    loop.run_checked()
    assert seen


def test_close_runs_close_callbacks():
    loop = uv.Loop()
    seen = []
    uv.Timer(loop).close(seen.append)
    loop.close()
    assert len(seen) == 1


def test_close_frees_descriptors():
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        loop = uv.Loop()
        loop.run()
        loop.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_dropped_loop_with_open_handles_leaks_nothing():
    def once():
        loop = uv.Loop()
        tcp = uv.TCP(loop)
        tcp.bind(("127.0.0.1", 0))
        tcp.listen(lambda server, error: None)
        udp = uv.UDP(loop)
        udp.bind(("127.0.0.1", 0))
        udp.start_recv(lambda *args: None)
        uv.Timer(loop).start(lambda timer: None, 100, 100)
        client = uv.TCP(loop)
        client.connect(tcp.getsockname(), lambda handle, error: None)
        loop.run(uv.UV_RUN_NOWAIT)
        return weakref.ref(loop), weakref.ref(tcp)

    once()
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    refs = [once() for _ in range(10)]
    gc.collect()
    assert [(a(), b()) for a, b in refs] == [(None, None)] * 10
    assert len(os.listdir("/proc/self/fd")) == before


def test_handle_dropped_in_another_thread_while_the_loop_waits(loop):
    """The box is closed by the loop's own thread."""
    box = [uv.Timer(loop)]
    wakeup = uv.Async(loop, lambda handle: handle.close())
    entered = threading.Event()

    def other():
        entered.wait(10)
        box.clear()
        wakeup.send()

    thread = threading.Thread(target=other)
    thread.start()
    uv.Timer(loop).start(lambda timer: entered.set(), 0, 0)
    loop.run_checked()
    thread.join()
    loop.run(uv.UV_RUN_NOWAIT)
    assert all(handle.closed or not handle.active for handle in loop.handles)


def test_clock(loop):
    first = loop.now()
    assert isinstance(first, int)
    time.sleep(0.005)
    assert loop.now() == first
    loop.update_time()
    assert loop.now() >= first + 4


def test_timeout_and_fileno(loop):
    assert loop.get_timeout() == 0.0
    timer = uv.Timer(loop)
    timer.start(lambda t: None, 50, 0)
    loop.run(uv.UV_RUN_NOWAIT)
    assert 0 < loop.get_timeout() <= 50
    timer.stop()
    signal_handle = uv.Async(loop)
    loop.run(uv.UV_RUN_NOWAIT)
    assert loop.get_timeout() == -1.0
    signal_handle.close()
    assert select.select([loop.fileno()], [], [], 0) == ([], [], [])


def test_metrics():
    loop = uv.Loop()
    assert loop.metrics_idle_time() == 0
    loop.configure(uv.UV_METRICS_IDLE_TIME)
    uv.Timer(loop).start(lambda t: t.close(), 0.02, 0)
    loop.run()
    assert loop.metrics_idle_time() > 1_000_000
    loop.close()


@pytest.mark.parametrize("args", [(), ("x",), (0, "x"), (-1,), (0, 1, 2)])
def test_bad_configure(loop, args):
    with pytest.raises((TypeError, ValueError)):
        loop.configure(*args)


def test_unknown_option_is_an_uv_error(loop):
    with pytest.raises(uv.error.UVError) as caught:
        loop.configure(77)
    assert caught.value.args[0] == uv.errno.UV_ENOSYS


def test_handles_and_walk(loop):
    timer, tcp = uv.Timer(loop), uv.TCP(loop)
    assert set(loop.handles) == {timer, tcp}
    seen = []
    loop.walk(seen.append)
    assert set(seen) == {timer, tcp}
    with pytest.raises(TypeError):
        loop.walk(None)
    with pytest.raises(ZeroDivisionError):
        loop.walk(lambda handle: 1 / 0)
    tcp.close()
    assert tcp in loop.handles
    loop.run(uv.UV_RUN_NOWAIT)
    assert loop.handles == [timer]


def test_default_loop():
    code = ("from uvtulip import uv\n"
            "a = uv.Loop.default_loop(); b = uv.Loop.default_loop()\n"
            "assert a is b and a.default and not uv.Loop().default\n"
            "uv.Timer(a).start(lambda t: t.close(), 0, 0); a.run()\n"
            "print('ok')")
    out = subprocess.run([sys.executable, "-c", code], capture_output=True,
                         text=True, timeout=30)
    assert out.stdout == "ok\n" and out.returncode == 0, out.stderr


def test_subclass_with_attributes_and_weakref(loop):
    loop.name = "mine"
    assert loop.name == "mine"
    assert weakref.ref(loop)() is loop
    assert "CheckedLoop" in repr(loop) or "Loop" in repr(loop)


# ---- exceptions of callbacks ----

def run_with_failing_timer(loop, error):
    def on_timer(timer):
        timer.close()
        raise error

    uv.Timer(loop).start(on_timer, 0, 0)
    return loop.run()


def test_default_hook_prints_and_goes_on(capfd):
    loop = uv.Loop()
    later = []
    uv.Timer(loop).start(lambda timer: (later.append(1), timer.close()),
                         0.005, 0)
    run_with_failing_timer(loop, ValueError("from the callback"))
    err = capfd.readouterr().err
    assert "Unhandled exception in callback" in err
    assert "ValueError: from the callback" in err
    assert later == [1]
    loop.close()


def test_hook_gets_type_value_traceback():
    loop = uv.Loop()
    seen = []
    loop.excepthook = lambda *args: seen.append(args)
    error = ValueError("x")
    run_with_failing_timer(loop, error)
    assert seen == [(ValueError, error, error.__traceback__)]
    assert error.__traceback__ is not None
    loop.close()


def test_hook_none_prints(capfd):
    loop = uv.Loop()
    loop.excepthook = None
    run_with_failing_timer(loop, ValueError("x"))
    assert "Unhandled exception in callback" in capfd.readouterr().err
    loop.close()


def test_failing_hook_prints_both(capfd):
    loop = uv.Loop()
    loop.excepthook = lambda *args: 1 / 0
    run_with_failing_timer(loop, ValueError("first"))
    err = capfd.readouterr().err
    assert err.index("Unhandled exception in excepthook") \
        < err.index("ZeroDivisionError") \
        < err.index("Unhandled exception in callback") \
        < err.index("ValueError: first")
    loop.close()


def test_failing_lookup_of_the_hook(capfd):
    class Bad(uv.Loop):
        @property
        def excepthook(self):
            raise KeyError("lookup")

    loop = Bad()
    run_with_failing_timer(loop, ValueError("first"))
    err = capfd.readouterr().err
    assert "Exception while getting excepthook" in err and "KeyError" in err
    assert "ValueError: first" in err
    loop.close()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_exit_exceptions_leave_run(error):
    loop = uv.Loop()
    later = []
    uv.Timer(loop).start(lambda t: (later.append(1), t.close()), 0.01, 0)
    with pytest.raises(error):
        run_with_failing_timer(loop, error())
    assert later == []
    loop.run()
    assert later == [1]
    loop.close()


def test_installed_hook_wins_over_keyboard_interrupt():
    loop = uv.Loop()
    seen = []
    loop.excepthook = lambda kind, value, tb: seen.append(kind)
    run_with_failing_timer(loop, KeyboardInterrupt())
    assert seen == [KeyboardInterrupt]
    loop.close()


def test_excepthook_called_directly(loop, capfd):
    uv.Loop.excepthook(loop, ValueError, ValueError("direct"), None)
    assert "ValueError: direct" in capfd.readouterr().err
    with pytest.raises(TypeError):
        uv.Loop.excepthook(loop, 1, 2, 3)
    with pytest.raises(TypeError):
        uv.Loop.excepthook(loop)


# ---- signals and a blocked poll ----

def test_ctrl_c_interrupts_a_blocked_run():
    loop = uv.Loop()
    uv.Timer(loop).start(lambda t: None, 100, 0)
    killer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
    killer.start()
    with pytest.raises(KeyboardInterrupt):
        loop.run()
    killer.join()


def test_python_signal_handler_runs_while_blocked(loop):
    seen = []
    old = signal.signal(signal.SIGUSR1, lambda *args: seen.append(args[0]))
    killer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1))
    try:
        check = uv.Timer(loop)
        check.start(lambda t: seen and loop.stop(), 0.01, 0.01)
        killer.start()
        loop.run_checked()
    finally:
        killer.join()
        signal.signal(signal.SIGUSR1, old)
    assert seen == [signal.SIGUSR1]


def test_signals_around_the_beginning_of_a_run(loop):
    """None is lost between Python's last look and the loop's first."""
    seen = []
    spare = uv.Timer(loop)
    old = signal.signal(signal.SIGALRM, lambda *args: (seen.append(1), loop.stop()))
    try:
        for i in range(3000):
            spare.start(lambda t: loop.stop(), 5, 0)
            signal.setitimer(signal.ITIMER_REAL, (i % 60 + 1) * 2e-6)
            loop.run()
            assert len(seen) == i + 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
        spare.close()


def test_signal_handler_raises_at_the_beginning_of_a_run():
    def handler(*args):
        raise ZeroDivisionError

    loop = uv.Loop()
    spare = uv.Timer(loop)
    spare.start(lambda t: loop.stop(), 5, 0)
    old = signal.signal(signal.SIGALRM, handler)
    try:
        for i in range(300):
            with pytest.raises(ZeroDivisionError):
                signal.setitimer(signal.ITIMER_REAL, (i % 60 + 1) * 2e-6)
                loop.run()
            assert not loop.running
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
        spare.close()
        loop.run()
        loop.close()


def test_wakeup_fd_is_put_back_and_fed(loop):
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    old_handler = signal.signal(signal.SIGUSR1, lambda *args: loop.stop())
    old = signal.set_wakeup_fd(theirs)
    try:
        uv.Timer(loop).start(
            lambda t: os.kill(os.getpid(), signal.SIGUSR1), 0, 0.01)
        loop.run()
        assert signal.set_wakeup_fd(old) == theirs
        assert os.read(ours, 1) == bytes([signal.SIGUSR1])
    finally:
        signal.signal(signal.SIGUSR1, old_handler)
        os.close(ours)
        os.close(theirs)


def test_wakeup_fd_is_fed_by_a_run_that_a_signal_ends_before_a_poll(loop):
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    os.set_blocking(ours, False)
    old_handler = signal.signal(signal.SIGUSR1, lambda *args: loop.stop())
    old = signal.set_wakeup_fd(theirs)
    try:
        # One turn, without a poll that waits: the signal comes after its poll.
        uv.Check(loop).start(lambda c: os.kill(os.getpid(), signal.SIGUSR1))
        loop.run(uv.UV_RUN_NOWAIT)
        assert signal.set_wakeup_fd(old) == theirs
        assert os.read(ours, 2) == bytes([signal.SIGUSR1])
    finally:
        signal.signal(signal.SIGUSR1, old_handler)
        os.close(ours)
        os.close(theirs)


def test_run_in_a_thread_leaves_the_wakeup_fd_alone():
    seen = []

    def other():
        loop = uv.Loop()
        uv.Timer(loop).start(lambda t: t.close(), 0, 0)
        loop.run()
        loop.close()
        seen.append(True)

    before = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(before)
    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    after = signal.set_wakeup_fd(before)
    assert seen == [True] and after == before


def test_fork():
    """The child uses the parent's loop, with its handles, on its own."""
    code = """if True:
        import os, signal, socket, sys
        from uvtulip import uv
        loop = uv.Loop()
        server = uv.TCP(loop)
        server.bind(("127.0.0.1", 0))
        address = server.getsockname()

        def on_connection(server, error):
            client = uv.TCP(loop)
            server.accept(client)
            client.write(b"child %d" % os.getpid(), lambda c, error: c.close())
            server.close()

        server.listen(on_connection)
        loop.run(uv.UV_RUN_NOWAIT)
        loop.queue_work(int, print)     # the parent's
        pid = os.fork()
        if pid == 0:
            seen = []
            signal.signal(signal.SIGUSR1, lambda *args: seen.append(args))
            loop.fork()
            uv.Timer(loop).start(
                lambda t: (t.close(), signal.raise_signal(signal.SIGUSR1)), 0.01)
            loop.queue_work(int)
            loop.run()
            os._exit(0 if len(seen) == 1 else 9)
        server.close()
        loop.run()
        with socket.create_connection(address) as sock:
            assert sock.recv(100) == b"child %d" % pid
        assert os.waitpid(pid, 0) == (pid, 0)
        print("good")
        """
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code],
                          capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.stderr) == ("None\ngood\n", "")


def test_fork_of_a_loop_that_was_running():
    code = """if True:
        import asyncio, os
        from uvtulip import uv
        import uvtulip
        loop = uv.Loop()

        def fork(loop):
            pid = os.fork()
            if pid == 0:
                try:
                    loop.fork()
                except RuntimeError as error:
                    os.write(1, str(error).encode() + b"; ")
                os._exit(0)
            os.waitpid(pid, 0)

        uv.Timer(loop).start(lambda timer: (timer.close(), fork(loop)), 0)
        loop.run()
        other = uvtulip.new_event_loop()
        fork(other.uv_loop)
        other.close()
        """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True,
                          text=True, timeout=30)
    assert "was running" in done.stdout and "asyncio" in done.stdout
    assert done.stderr == ""


def test_fork_in_wrong_states(loop):
    seen = []

    def on_timer(timer):
        timer.close()
        with pytest.raises(RuntimeError):
            loop.fork()
        seen.append(1)

    uv.Timer(loop).start(on_timer, 0)
    loop.run_checked()
    assert seen == [1]
    with pytest.raises(RuntimeError, match="not a child"):
        loop.fork()
    with pytest.raises(RuntimeError):
        uv.Loop.__new__(uv.Loop).fork()
    closed = uv.Loop()
    closed.close()
    for call in (closed.fork, closed.print_handles):
        with pytest.raises(RuntimeError):
            call()


def test_print_handles(loop, capsys):
    timer = uv.Timer(loop)
    idle = uv.Idle(loop)
    timer.start(print, 100)
    loop.print_handles()
    text = capsys.readouterr().err
    assert "timer" in text and "idle" in text and "async" in text
    loop.print_handles(True)
    text = capsys.readouterr().err
    assert "timer" in text and "idle" not in text
    idle.close()
