"""Loop.random() and util.random()."""

import gc
import weakref

import pytest

from uvtulip import uv
from uvtulip.uv import util


@pytest.mark.parametrize("length", [0, 1, 32, 100_000])
def test_at_once(loop, length):
    for get in util.random, loop.random:
        data = get(length)
        assert type(data) is bytes and len(data) == length
        if length >= 32:
            assert data != get(length)


def test_with_a_callback(loop):
    calls = []
    request = loop.random(64, lambda *args: calls.append(args))
    assert type(request) is uv.RandomRequest and isinstance(request, uv.Request)
    assert request.loop is loop and not request.done and calls == []
    loop.run_checked()
    ((data, error),) = calls
    assert len(set(data)) > 1 and len(data) == 64 and error is None
    assert request.done and request.cancel() is False


def test_cancel(loop):
    calls = []
    requests = [loop.random(1 << 22, lambda *args: calls.append(args))
                for _ in range(50)]
    cancelled = [request for request in reversed(requests) if request.cancel()]
    loop.run_checked()
    assert len(calls) == 50
    assert calls.count((None, uv.errno.UV_ECANCELED)) == len(cancelled) > 0


@pytest.mark.parametrize("length", [-1, 1 << 31, 1 << 70])
def test_length_out_of_range(loop, length):
    for get in util.random, loop.random:
        with pytest.raises(ValueError):
            get(length)


def test_arguments(loop):
    with pytest.raises(TypeError):
        loop.random()
    with pytest.raises(TypeError):
        loop.random("1")
    with pytest.raises(TypeError):
        loop.random(1, 2)
    with pytest.raises(TypeError):
        uv.RandomRequest()


def test_closed_loop():
    loop = uv.Loop()
    loop.close()
    for args in (1,), (1, print):
        with pytest.raises(RuntimeError):
            loop.random(*args)


def test_dropped_loop(recwarn):
    loop = uv.Loop()
    gone = weakref.ref(loop)
    calls = []
    loop.random(1 << 20, lambda *args, loop=loop: calls.append(args))
    del loop
    gc.collect()
    assert gone() is None and calls == []


def test_exception_of_the_callback(loop):
    def on_random(data, error):
        raise ZeroDivisionError

    loop.random(1, on_random)
    with pytest.raises(ZeroDivisionError):
        loop.run_checked()
