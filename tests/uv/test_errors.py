"""The exceptions of the raw handles: their classes, and what they tell."""

import copy
import errno
import gc
import os
import pickle
import sys
import weakref

import pytest

from uvtulip import uv

PARENTS = {
    "ThreadError": "UVError",
    "FSError": "UVError",
    "HandleError": "UVError",
    "HandleClosedError": "HandleError",
    "AsyncError": "HandleError",
    "CheckError": "HandleError",
    "FSEventError": "HandleError",
    "FSPollError": "HandleError",
    "IdleError": "HandleError",
    "PollError": "HandleError",
    "PrepareError": "HandleError",
    "ProcessError": "HandleError",
    "SignalError": "HandleError",
    "TimerError": "HandleError",
    "UDPError": "HandleError",
    "StreamError": "HandleError",
    "TCPError": "StreamError",
    "PipeError": "StreamError",
    "TTYError": "StreamError",
    "TLSError": "StreamError",
}


def closed_fd():
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    os.close(write_fd)
    return read_fd


@pytest.fixture
def raised(loop):
    """What Poll(loop, fd) raises for a closed descriptor."""
    with pytest.raises(uv.error.PollError) as info:
        uv.Poll(loop, closed_fd())
    return info.value


def test_root_is_an_oserror():
    assert uv.error.UVError.__bases__ == (OSError,)


@pytest.mark.parametrize("name", PARENTS)
def test_class(name):
    cls = getattr(uv.error, name)
    assert cls.__bases__ == (getattr(uv.error, PARENTS[name]),)
    assert cls.__doc__
    assert cls.__name__ == name and cls.__module__ == "uvtulip._uv.error"


def test_there_are_no_other_classes():
    names = {name for name in dir(uv.error) if not name.startswith("_")}
    assert names == {"UVError", *PARENTS}


def test_submodules_are_real():
    for name in ("error", "errno"):
        module = getattr(uv, name)
        assert type(module) is type(os)
        assert sys.modules["uvtulip._uv." + name] is module
        assert module.__doc__


def test_raised_exception(raised):
    assert raised.args == (uv.errno.UV_EBADF, "bad file descriptor")
    assert raised.errno == errno.EBADF
    assert raised.strerror == "bad file descriptor"
    assert raised.name == "EBADF"
    assert raised.call == "uv_poll_init"
    assert str(raised) == "uv_poll_init: bad file descriptor (EBADF)"


@pytest.mark.parametrize("cls", [OSError, uv.error.UVError, uv.error.HandleError])
def test_caught_by_its_bases(loop, cls):
    with pytest.raises(cls):
        uv.Poll(loop, closed_fd())


def test_copies_tell_the_same(raised):
    for twin in (pickle.loads(pickle.dumps(raised)), copy.copy(raised)):
        assert type(twin) is type(raised)
        assert twin.args == raised.args
        assert twin.errno == raised.errno
        assert twin.name == raised.name
        assert twin.call == raised.call
        assert str(twin) == str(raised)


@pytest.mark.parametrize("name", ["UV_EOF", "UV_EAI_NONAME", "UV_UNKNOWN"])
def test_numbers_that_no_system_has(name):
    code = getattr(uv.errno, name)
    exc = uv.error.UVError(code, uv.errno.strerror(code))
    assert exc.errno == code < 0
    assert exc.name == name[3:]
    assert str(exc) == f"{uv.errno.strerror(code)} ({name[3:]})"


def test_every_number_of_the_system_is_positive_in_errno():
    for code, name in uv.errno.errorcode.items():
        exc = uv.error.TCPError(code, "text")
        assert exc.args == (code, "text")
        if hasattr(errno, name[3:]):
            assert exc.errno == getattr(errno, name[3:])
        else:
            assert exc.errno == code


def test_unknown_number():
    exc = uv.error.UVError(-999, "something")
    assert exc.errno == 999
    assert exc.name is None
    assert str(exc) == "something"


@pytest.mark.parametrize("args", [(), ("text",), (1, "text"), ("a", "b"),
                                  (None, None), (-10**30, "text")])
def test_made_by_hand_without_a_status(args):
    exc = uv.error.UVError(*args)
    assert exc.errno is None
    assert exc.name is None
    assert exc.call is None
    assert exc.args == args
    assert isinstance(str(exc), str)


def test_errno_cannot_be_set(raised):
    with pytest.raises(AttributeError):
        raised.errno = 5
    with pytest.raises(AttributeError):
        raised.name = "EIO"


def test_closed_handle_has_no_errno(loop):
    timer = uv.Timer(loop)
    timer.close()
    with pytest.raises(uv.error.HandleClosedError) as info:
        timer.stop()
    assert info.value.errno is None
    assert "closed" in str(info.value)


def test_class_with_other_bases(raised):
    """The classes have OSError's layout, so that both can be had."""

    class Both(uv.error.TCPError, ConnectionResetError):
        pass

    exc = Both(uv.errno.UV_ECONNRESET, "reset")
    assert exc.errno == errno.ECONNRESET
    assert exc.name == "ECONNRESET"


def test_subclass():
    class MyError(uv.error.TCPError):
        pass

    exc = MyError(uv.errno.UV_ECONNREFUSED, "no")
    assert exc.errno == errno.ECONNREFUSED
    assert isinstance(exc, OSError)
    exc.extra = 1
    assert exc.extra == 1


def test_cycle_through_an_exception_is_collected(raised):
    class Canary:
        pass

    canary = Canary()
    exc = uv.error.UVError(-1, "x")
    exc.me = exc
    exc.canary = canary
    ref = weakref.ref(canary)
    del exc, canary
    gc.collect()
    assert ref() is None


def test_raising_does_not_grow(loop):
    fd = closed_fd()

    def many():
        for _ in range(300):
            try:
                uv.Poll(loop, fd)
            except uv.error.PollError as e:
                str(e)

    def grown():
        before = sys.getallocatedblocks()
        many()
        gc.collect()
        return sys.getallocatedblocks() - before

    # What grows by itself, memory that is kept for later, does so once.
    assert min(grown() for _ in range(4)) < 100
