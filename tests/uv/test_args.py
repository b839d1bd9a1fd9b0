"""How the raw handles' functions take their arguments, by Timer, Poll & co."""

import math
import os
import socket

import pytest

from uvtulip import uv


def nothing(*args):
    return None


class Index:
    def __init__(self, value):
        self.value = value

    def __index__(self):
        return self.value


class BadIndex:
    def __index__(self):
        raise ZeroDivisionError("index")


class Seconds:
    def __float__(self):
        return 0.5


class BadSeconds:
    def __float__(self):
        raise ZeroDivisionError("float")


@pytest.fixture
def timer(loop):
    return uv.Timer(loop)


# ---- positions and names ----

def test_by_position_and_by_name(timer):
    timer.start(nothing, 1, 2)
    assert timer.repeat == 2
    timer.start(nothing, 1, repeat=3)
    assert timer.repeat == 3
    timer.start(repeat=4, timeout=1, callback=nothing)
    assert timer.repeat == 4
    timer.start(nothing, timeout=1)
    assert timer.repeat == 0


@pytest.mark.parametrize("args, kwargs, text", [
    ((), {}, r"Timer\.start\(\) missing required argument: 'callback'"),
    ((nothing,), {}, r"Timer\.start\(\) missing required argument: 'timeout'"),
    ((nothing,), {"repeat": 1}, r"missing required argument: 'timeout'"),
    ((), {"timeout": 1}, r"missing required argument: 'callback'"),
    ((nothing, 1, 2, 3), {}, r"takes at most 3 positional arguments \(4 given\)"),
    ((nothing, 1), {"x": 1}, r"got an unexpected keyword argument 'x'"),
    ((nothing, 1), {"timeou": 1}, r"unexpected keyword argument 'timeou'"),
    ((nothing, 1), {"timeout2": 1}, r"unexpected keyword argument 'timeout2'"),
    ((nothing, 1), {"tïmeout": 1}, r"unexpected keyword argument 'tïmeout'"),
    ((nothing, 1), {"timeout": 1}, r"multiple values for argument 'timeout'"),
    ((nothing, 1), {"callback": 1}, r"multiple values for argument 'callback'"),
])
def test_wrong_shape(timer, args, kwargs, text):
    with pytest.raises(TypeError, match=text):
        timer.start(*args, **kwargs)
    assert not timer.active


def test_names_made_at_run_time(timer):
    timer.start(**{"".join(["call", "back"]): nothing, "time" + "out": 1})
    assert timer.active


@pytest.mark.parametrize("count", [0, 1, 3, 4])
def test_wrong_count_where_it_is_fixed(loop, count):
    handle = uv.Signal(loop)
    with pytest.raises(TypeError, match=r"Signal\.start\(\) takes exactly 2 positional "
                                        rf"arguments \({count} given\)"):
        handle.start(*[nothing] * count)


def test_count_of_close(loop, timer):
    with pytest.raises(TypeError, match=r"at most 1 positional argument \(2 given\)"):
        timer.close(None, None)
    assert not timer.closed


# ---- callbacks ----

@pytest.mark.parametrize("bad", [None, 1, "x", object()])
def test_callback_has_to_be_callable(timer, bad):
    with pytest.raises(TypeError, match=r"Timer\.start\(\).*callable"):
        timer.start(bad, 1)
    if bad is not None:
        with pytest.raises(TypeError, match="callable or None"):
            timer.close(bad)
    assert not timer.active and not timer.closed


# ---- seconds ----

@pytest.mark.parametrize("seconds, ms", [
    (0, 0), (0.0, 0), (-0.0, 0), (1, 1000), (True, 1000),
    (0.001, 1), (0.0011, 2), (0.0019, 2), (1e-12, 1), (1e-300, 1),
    (0.0301, 31), (0.03, 30), (1.1, 1100), (4.35, 4350), (8.2, 8200),
    (1.001, 1001), (2.3, 2300), (0.57, 570), (1e9, 10**12),
    (Index(2), 2000), (Seconds(), 500), (10**15, 10**18),
])
def test_seconds_are_rounded_up_to_milliseconds(timer, seconds, ms):
    timer.repeat = seconds
    assert timer.repeat == ms / 1000


def test_whole_milliseconds_stay(timer):
    for ms in range(0, 20_000, 7):
        timer.repeat = ms / 1000
        assert timer.repeat == ms / 1000


@pytest.mark.parametrize("bad", ["1", None, b"1", [1], 1j, object()])
def test_seconds_of_a_wrong_type(timer, bad):
    with pytest.raises(TypeError, match=r"Timer\.start\(\): 'timeout'"):
        timer.start(nothing, bad)
    with pytest.raises(TypeError, match=r"'repeat'"):
        timer.start(nothing, 1, bad)
    with pytest.raises(TypeError, match=r"Timer\.repeat"):
        timer.repeat = bad


@pytest.mark.parametrize("bad", [-1, -1e-9, math.nan, math.inf, -math.inf,
                                 10**400, -10**400])
def test_seconds_of_a_wrong_value(timer, bad):
    with pytest.raises(ValueError, match=r"Timer\.start\(\): 'timeout'"):
        timer.start(nothing, bad)
    with pytest.raises(ValueError, match=r"'repeat'"):
        timer.start(nothing, 1, bad)
    assert not timer.active


def test_exception_of_a_number_comes_through(loop, timer):
    with pytest.raises(ZeroDivisionError, match="float"):
        timer.start(nothing, BadSeconds())
    with pytest.raises(ZeroDivisionError, match="index"):
        uv.Signal(loop).start(nothing, BadIndex())


# ---- whole numbers ----

@pytest.mark.parametrize("bad", ["1", None, 1.0, [1]])
def test_int_of_a_wrong_type(loop, bad):
    with pytest.raises(TypeError, match=r"Signal\.start\(\): 'signum' must be an int"):
        uv.Signal(loop).start(nothing, bad)


@pytest.mark.parametrize("bad", [2**31, 2**63, 10**50, -2**31 - 1, -10**50])
def test_int_out_of_range(loop, bad):
    with pytest.raises(ValueError, match=r"'signum' must be between"):
        uv.Signal(loop).start(nothing, bad)


# ---- descriptors ----

def test_descriptors(loop):
    a, b = socket.socketpair()
    with a, b:
        for given in (a, a.fileno()):
            poll = uv.Poll(loop, given)
            assert poll.fileno() == a.fileno()
            poll.close()
        loop.run_checked()


class Fileno:
    def __init__(self, value):
        self.value = value

    def fileno(self):
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


@pytest.mark.parametrize("bad, error", [
    (None, TypeError), ("0", TypeError), (1.0, TypeError), (object(), TypeError),
    (-1, ValueError), (-2**70, ValueError), (2**31, ValueError),
    (2**70, ValueError),
    (Fileno(-1), ValueError), (Fileno("x"), TypeError), (Fileno(None), TypeError),
    (Fileno(2**40), ValueError), (Fileno(ZeroDivisionError()), ZeroDivisionError),
])
def test_bad_descriptors(loop, bad, error):
    with pytest.raises(error):
        uv.Poll(loop, bad)
    assert loop.handles == []


def test_descriptor_of_a_closed_socket(loop):
    a, b = socket.socketpair()
    a.close()
    b.close()
    with pytest.raises(ValueError, match=r"Poll\(\): 'fd'"):
        uv.Poll(loop, a)


def test_fileno_that_initialises_the_handle(loop):
    read_fd, write_fd = os.pipe()
    try:
        poll = uv.Poll.__new__(uv.Poll)

        class Sly:
            def fileno(self):
                poll.__init__(loop, read_fd)
                return read_fd

        with pytest.raises(RuntimeError, match="already"):
            poll.__init__(loop, Sly())
        assert poll.fileno() == read_fd
        poll.close()
        loop.run_checked()
    finally:
        os.close(read_fd)
        os.close(write_fd)


# ---- truth values ----

def test_truth_value_may_raise(timer):
    class Undecided:
        def __bool__(self):
            raise ZeroDivisionError("bool")

    with pytest.raises(ZeroDivisionError, match="bool"):
        timer.ref = Undecided()
    assert timer.ref is True
