"""Signal."""

import gc
import os
import signal
import threading
import weakref

import pytest

from uvtulip import uv

SIGNUM = signal.SIGUSR1


def fail(*args):
    raise AssertionError("called")


@pytest.fixture(autouse=True)
def default_action():
    """libuv leaves the default action behind: a signal that comes after a
    test's last handle has stopped must not end the process."""
    old = signal.signal(SIGNUM, signal.SIG_DFL)
    yield
    signal.signal(SIGNUM, old)


def kill(signum=SIGNUM):
    os.kill(os.getpid(), signum)


def test_receives(loop):
    calls = []

    def on_signal(handle, signum):
        calls.append((handle, signum))
        if len(calls) == 2:
            handle.close()
        else:
            kill()

    handle = uv.Signal(loop)
    assert handle.start(on_signal, SIGNUM) is None
    assert handle.active
    kill()
    loop.run_checked()
    assert calls == [(handle, SIGNUM)] * 2
    assert type(calls[0][1]) is int


def test_from_another_thread_into_a_blocked_loop(loop):
    calls = []
    handle = uv.Signal(loop)
    handle.start(lambda h, signum: (calls.append(signum), h.close()), SIGNUM)
    thread = threading.Timer(0.05, kill)
    thread.start()
    loop.run_checked()
    thread.join()
    assert calls == [SIGNUM]


def test_signum(loop):
    handle = uv.Signal(loop)
    assert handle.signum == 0
    handle.start(fail, SIGNUM)
    assert handle.signum == SIGNUM
    handle.start(fail, signal.SIGUSR2)
    assert handle.signum == signal.SIGUSR2
    handle.stop()
    assert handle.signum == 0
    handle.start(fail, SIGNUM)
    handle.close()
    assert handle.signum == 0
    loop.run_checked()
    assert handle.signum == 0
    with pytest.raises(AttributeError):
        handle.signum = 1


def test_changes_over_to_another_signal(loop):
    calls = []
    handle = uv.Signal(loop)
    handle.start(fail, SIGNUM)
    handle.start(lambda h, signum: (calls.append(signum), h.close()),
                 signal.SIGUSR2)
    kill(signal.SIGUSR2)
    loop.run_checked()
    assert calls == [signal.SIGUSR2]


def test_same_signal_again_swaps_the_callback(loop):
    calls = []
    handle = uv.Signal(loop)
    handle.start(fail, SIGNUM)
    handle.start(lambda h, signum: (calls.append(signum), h.close()), SIGNUM)
    kill()
    loop.run_checked()
    assert calls == [SIGNUM]


def test_stop(loop):
    handle = uv.Signal(loop)
    handle.stop()
    handle.start(fail, SIGNUM)
    handle.stop()
    handle.stop()
    assert not handle.active
    loop.run_checked()


def test_oneshot(loop):
    calls = []
    handle = uv.Signal(loop)

    def on_signal(h, signum):
        calls.append((signum, h.active))

    handle.start_oneshot(on_signal, SIGNUM)
    assert handle.active and handle.signum == SIGNUM
    kill()
    loop.run_checked()
    assert calls == [(SIGNUM, False)]
    assert not handle.active and not handle.closed


def test_oneshot_survives_two_signals_in_a_row(loop):
    # Otherwise the second would meet the default action and end the process.
    calls = []
    handle = uv.Signal(loop)
    handle.start_oneshot(lambda h, signum: calls.append(signum), SIGNUM)
    kill()
    kill()
    loop.run_checked()
    assert calls == [SIGNUM]


def test_lasting_after_oneshot_and_back(loop):
    calls = []

    def lasting(h, signum):
        calls.append("lasting")
        if calls.count("lasting") == 2:
            h.start_oneshot(once, SIGNUM)
        kill()

    def once(h, signum):
        calls.append("once")
        if calls.count("once") == 1:
            h.start(lasting, SIGNUM)
            kill()

    handle = uv.Signal(loop)
    handle.start_oneshot(fail, SIGNUM)
    handle.start_oneshot(once, SIGNUM)
    kill()
    loop.run_checked()
    assert calls == ["once", "lasting", "lasting", "once"]
    assert not handle.active


def test_oneshot_over_a_running_lasting_one(loop):
    calls = []
    handle = uv.Signal(loop)
    handle.start(fail, SIGNUM)
    handle.start_oneshot(lambda h, signum: calls.append(signum), SIGNUM)
    kill()
    loop.run_checked()
    assert calls == [SIGNUM] and not handle.active


@pytest.mark.parametrize("method", ["start", "start_oneshot"])
@pytest.mark.parametrize("signum", [0, -1, signal.SIGKILL, signal.SIGSTOP,
                                    12345, 2**31 - 1, -2**31])
def test_signals_that_cannot_be_watched(loop, method, signum):
    handle = uv.Signal(loop)
    with pytest.raises(uv.error.SignalError) as info:
        getattr(handle, method)(fail, signum)
    assert info.value.args[0] == uv.errno.UV_EINVAL
    assert info.value.call == "uv_signal_start"
    assert not handle.active and handle.signum == 0


def test_bad_signal_on_a_started_handle_stops_it(loop):
    handle = uv.Signal(loop)
    handle.start(fail, SIGNUM)
    ref = weakref.ref(handle)
    with pytest.raises(uv.error.SignalError):
        handle.start(fail, signal.SIGKILL)
    assert not handle.active
    del handle
    gc.collect()
    assert ref() is None
    loop.run_checked()


@pytest.mark.parametrize("method", ["start", "start_oneshot"])
def test_bad_arguments(loop, method):
    handle = uv.Signal(loop)
    start = getattr(handle, method)
    for args in ((), (fail,), (fail, SIGNUM, 1), (None, SIGNUM), (SIGNUM, fail),
                 (fail, "1"), (fail, None), (fail, 10.0)):
        with pytest.raises(TypeError, match=r"Signal\." + method):
            start(*args)
    with pytest.raises(TypeError):
        start(callback=fail, signum=SIGNUM)
    with pytest.raises(ValueError, match="signum"):
        start(fail, 2**31)
    assert not handle.active


def test_many_handles_and_loops():
    seen = []
    lock = threading.Lock()
    ready = threading.Semaphore(0)

    def one():
        loop = uv.Loop()

        def on_signal(handle, signum):
            with lock:
                seen.append(signum)
            handle.close()

        for _ in range(3):
            uv.Signal(loop).start(on_signal, SIGNUM)
        timer = uv.Timer(loop)
        timer.start(lambda t: (t.close(), ready.release()), 0)
        loop.run()
        loop.close()

    threads = [threading.Thread(target=one) for _ in range(5)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert ready.acquire(timeout=20)
    kill()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert seen == [SIGNUM] * 15


def test_exception_in_a_callback(loop):
    handle = uv.Signal(loop)

    def broken(h, signum):
        h.close()
        raise ValueError("in signal")

    handle.start(broken, SIGNUM)
    kill()
    with pytest.raises(ValueError, match="in signal"):
        loop.run_checked()
    loop.run_checked()


def test_closed(loop):
    handle = uv.Signal(loop)
    handle.start(fail, SIGNUM)
    handle.close()
    for _ in range(2):
        for call in (lambda: handle.start(fail, SIGNUM), handle.stop,
                     lambda: handle.start_oneshot(fail, SIGNUM)):
            with pytest.raises(uv.error.HandleClosedError):
                call()
        loop.run_checked()


def test_closed_while_a_signal_is_under_way(loop):
    handle = uv.Signal(loop)
    handle.start(fail, SIGNUM)
    kill()
    closed = []
    handle.close(closed.append)
    loop.run_checked()
    assert closed == [handle]


def test_uninitialised_and_second_init(loop):
    bare = uv.Signal.__new__(uv.Signal)
    for call in (lambda: bare.start(fail, SIGNUM), bare.stop,
                 lambda: bare.start_oneshot(fail, SIGNUM), lambda: bare.signum):
        with pytest.raises(RuntimeError, match="not initialised"):
            call()
    handle = uv.Signal(loop)
    with pytest.raises(RuntimeError, match="already"):
        handle.__init__(loop)


def test_wrong_thread_while_running(loop):
    handle = uv.Signal(loop)
    seen = []

    def other():
        for call in (lambda: handle.start(fail, SIGNUM), handle.stop,
                     lambda: handle.start_oneshot(fail, SIGNUM),
                     lambda: handle.signum):
            with pytest.raises(RuntimeError, match="thread"):
                call()
            seen.append(True)

    def on_signal(h, signum):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        h.close()

    handle.start(on_signal, SIGNUM)
    kill()
    loop.run_checked()
    assert len(seen) == 4


def test_lifetime(loop):
    class Mine(uv.Signal):
        pass

    calls = []
    handle = Mine(loop)
    handle.me = handle
    handle.start_oneshot(lambda h, signum: calls.append(signum), SIGNUM)
    ref = weakref.ref(handle)
    del handle
    gc.collect()
    assert ref() is not None
    kill()
    loop.run_checked()
    gc.collect()
    assert calls == [SIGNUM]
    assert ref() is None
    loop.run_checked()
    loop.run(uv.UV_RUN_NOWAIT)
    assert loop.handles == []


def test_loop_dropped_with_a_started_signal():
    loop = uv.Loop()
    uv.Signal(loop).start(fail, SIGNUM)
    ref = weakref.ref(loop)
    del loop
    gc.collect()
    assert ref() is None
    # The last handle is gone: the action is the default one again.
    assert signal.getsignal(SIGNUM) == signal.SIG_DFL
