"""util.SignalChecker, as programs for pyuv use it."""

import os
import signal
import socket
import threading

import pytest

from uvtulip import uv
from uvtulip.uv import util


@pytest.fixture
def pair():
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    with reader, writer:
        yield reader, writer


@pytest.fixture
def wakeup(pair):
    before = signal.set_wakeup_fd(pair[1].fileno())
    yield pair
    signal.set_wakeup_fd(before)


def on_signal(handler):
    return signal.signal(signal.SIGUSR1, handler)


def test_handlers_run(loop, wakeup):
    calls = []

    def handler(number, frame):
        calls.append(number)
        checker.close()

    before = on_signal(handler)
    checker = util.SignalChecker(loop, wakeup[0].fileno())
    assert isinstance(checker, uv.Handle) and not checker.active
    checker.start()
    assert checker.active
    uv.Timer(loop).start(lambda timer: os.kill(os.getpid(), signal.SIGUSR1), 0.001)
    loop.run_checked()
    on_signal(before)
    assert calls == [signal.SIGUSR1]


def test_exception_goes_to_excepthook(loop, wakeup):
    def handler(number, frame):
        checker.close()
        raise ZeroDivisionError

    before = on_signal(handler)
    checker = util.SignalChecker(loop, wakeup[0])
    checker.start()
    uv.Timer(loop).start(lambda timer: os.kill(os.getpid(), signal.SIGUSR1), 0.001)
    with pytest.raises(ZeroDivisionError):
        loop.run_checked()
    on_signal(before)


def test_empties_the_descriptor(loop, pair):
    reader, writer = pair
    checker = util.SignalChecker(loop, reader)
    checker.start()
    writer.send(b"x" * 5000)
    for _ in range(3):
        loop.run(uv.UV_RUN_NOWAIT)
    with pytest.raises(BlockingIOError):
        reader.recv(1)
    assert checker.active
    checker.stop()
    assert not checker.active
    checker.stop()


def test_end_of_the_other_side_stops_it(loop, pair):
    reader, writer = pair
    checker = util.SignalChecker(loop, reader)
    checker.start()
    writer.close()
    loop.run_checked()
    assert not checker.active


def test_bad_use(loop, pair):
    with pytest.raises(uv.error.PollError):
        util.SignalChecker(loop, 4000)
    checker = util.SignalChecker(loop, pair[0])
    with pytest.raises(TypeError):
        checker.start(1)
    checker.close()
    for call in checker.start, checker.stop, checker.close:
        with pytest.raises(uv.error.HandleClosedError):
            call()
    with pytest.raises(RuntimeError):
        util.SignalChecker.__new__(util.SignalChecker).start()


class Stop(Exception):
    """What a handler of the program's raises."""


def hooked_by_attribute(seen):
    loop = uv.Loop()

    def hook(kind, value, traceback):
        seen.append(kind)
        loop.stop()

    loop.excepthook = hook
    return loop


def hooked_by_class(seen):
    class Loop(uv.Loop):
        def excepthook(self, kind, value, traceback):
            seen.append(kind)
            self.stop()

    return Loop()


@pytest.mark.parametrize("make", [hooked_by_attribute, hooked_by_class])
@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, Stop])
@pytest.mark.parametrize("when", ["polling", "before", "calling"])
@pytest.mark.parametrize("checked", [False, True])
def test_what_a_handler_raises_goes_to_a_replaced_hook(
    wakeup, make, kind, when, checked
):
    """Wherever the signal comes: in the poll, before the run, in a callback."""
    seen = []

    def handler(number, frame):
        raise kind

    def send(*args):
        os.kill(os.getpid(), signal.SIGUSR1)

    before = on_signal(handler)
    loop = make(seen)
    checker = util.SignalChecker(loop, wakeup[0].fileno())
    if checked:
        checker.start()
    keeper = uv.Timer(loop)
    keeper.start(lambda timer: loop.stop(), 20)
    # From another thread, so that this one does not look before it runs.
    go, sent = threading.Event(), threading.Event()
    killer = threading.Thread(target=lambda: (go.wait(), send(), sent.set()))
    killer.start()
    try:
        if when == "before":
            go.set()
            sent.wait()
            loop.run()
        elif when == "polling":
            uv.Timer(loop).start(lambda timer: go.set(), 0)
            loop.run()
        else:
            uv.Timer(loop).start(send, 0)
            loop.run()
        assert seen == [kind]
    except kind:
        # Python ran the handler in this test itself, just before run().
        assert when == "before" and seen == []
    finally:
        on_signal(lambda *args: None)
        go.set()
        killer.join()
        on_signal(before)
        checker.close()
        keeper.close()
        loop.run()
        loop.close()


@pytest.mark.parametrize("hook", ["none", "default"])
@pytest.mark.parametrize("kind", [KeyboardInterrupt, Stop])
def test_what_a_handler_raises_leaves_run_without_a_hook(hook, kind):
    def handler(number, frame):
        raise kind

    before = on_signal(handler)
    loop = uv.Loop()
    if hook == "none":
        loop.excepthook = None
    keeper = uv.Timer(loop)
    keeper.start(lambda timer: loop.stop(), 20)
    killer = threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGUSR1))
    killer.start()
    try:
        with pytest.raises(kind):
            loop.run()
    finally:
        on_signal(before)
        killer.join()
        keeper.close()
        loop.run()
        loop.close()
