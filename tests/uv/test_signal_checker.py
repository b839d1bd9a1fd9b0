"""util.SignalChecker, as programs for pyuv use it."""

import os
import signal
import socket

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
