"""What all handles have in common, tried on each type from one table."""

import gc
import socket
import threading
import weakref

import pytest

from uvtulip import uv


def make_poll(loop):
    a, b = socket.socketpair()
    poll = uv.Poll(loop, a)
    poll.keep = (a, b)
    return poll


MAKE = {
    "TCP": uv.TCP,
    "UDP": uv.UDP,
    "Pipe": uv.Pipe,
    "Poll": make_poll,
    "Timer": uv.Timer,
    "Signal": uv.Signal,
    "Async": uv.Async,
    "Idle": uv.Idle,
    "Prepare": uv.Prepare,
    "Check": uv.Check,
}

START = {
    "Timer": lambda handle, callback: handle.start(
        lambda timer: callback(timer), 0, 0),
    "Idle": lambda handle, callback: handle.start(callback),
    "Async": lambda handle, callback: None,
}


@pytest.fixture(params=list(MAKE))
def handle(request, loop):
    handle = MAKE[request.param](loop)
    handle.kind = request.param
    yield handle
    for sock in getattr(handle, "keep", ()):
        sock.close()


def test_attributes(loop, handle):
    assert handle.loop is loop
    assert handle.closed is False
    assert handle.ref is True
    assert handle.active is (handle.kind == "Async")
    assert handle.type == getattr(uv, {
        "Pipe": "UV_NAMED_PIPE"}.get(handle.kind, "UV_" + handle.kind.upper()))
    assert handle.kind in repr(handle)
    assert weakref.ref(handle)() is handle


def test_type_name(handle):
    names = {"Pipe": "pipe"}
    assert handle.type_name == names.get(handle.kind, handle.kind.lower())


def test_with(loop, handle):
    with handle as same:
        assert same is handle and not handle.closed
    assert handle.closed
    with pytest.raises(uv.error.HandleClosedError):
        handle.__enter__()
    assert handle.__exit__(None, None, None) is None


def test_with_a_handle_that_is_closed_inside(handle):
    with pytest.raises(ZeroDivisionError), handle:
        handle.close()
        raise ZeroDivisionError


def test_close(loop, handle):
    seen = []
    handle.close(seen.append)
    assert handle.closed is True and handle.active is False
    assert handle.loop is loop and seen == []
    with pytest.raises(uv.error.HandleClosedError):
        handle.close()
    loop.run_checked()
    assert seen == [handle]
    assert handle.loop is None and handle.closed is True
    assert "closed" in repr(handle)
    with pytest.raises(uv.error.HandleClosedError):
        handle.close()
    with pytest.raises(uv.error.HandleClosedError):
        handle.ref = False


@pytest.mark.parametrize("args", [(1,), ("x",), (print, print)])
def test_bad_close_arguments(handle, args):
    with pytest.raises(TypeError):
        handle.close(*args)
    assert handle.closed is False


def test_ref_can_be_set_but_not_deleted(handle):
    handle.ref = False
    assert handle.ref is False
    handle.ref = 1
    assert handle.ref is True
    with pytest.raises(AttributeError):
        del handle.ref


def test_second_init_raises(loop, handle):
    with pytest.raises(RuntimeError, match="already"):
        if handle.kind == "Poll":
            handle.__init__(loop, 0)
        else:
            handle.__init__(loop)


def test_exception_in_close_callback(loop, handle):
    def fail(handle):
        raise ValueError("in close")

    handle.close(fail)
    with pytest.raises(ValueError, match="in close"):
        loop.run_checked()
    loop.run_checked()
    assert handle.loop is None


def test_wrong_thread_while_running(loop, handle):
    seen = []

    def other():
        try:
            handle.close()
        except RuntimeError as e:
            seen.append(str(e))

    def on_timer(timer):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        handle.close()

    uv.Timer(loop).start(on_timer, 0, 0)
    loop.run_checked()
    assert len(seen) == 1 and "another thread" in seen[0]


@pytest.mark.parametrize("name", list(MAKE))
def test_uninitialised(name):
    cls = getattr(uv, name)
    bare = cls.__new__(cls)
    for attribute in ("active", "closed", "loop", "ref", "type"):
        with pytest.raises(RuntimeError, match="not initialised"):
            getattr(bare, attribute)
    with pytest.raises(RuntimeError, match="not initialised"):
        bare.close()
    assert "uninitialised" in repr(bare)


@pytest.mark.parametrize("name", list(MAKE))
@pytest.mark.parametrize("bad", [None, 1, "loop", object()])
def test_loop_of_a_wrong_type(name, bad):
    args = (bad, 0) if name == "Poll" else (bad,)
    with pytest.raises(TypeError):
        getattr(uv, name)(*args)


@pytest.mark.parametrize("name", list(MAKE))
def test_subclass_that_forgets_init(name, loop):
    cls = getattr(uv, name)

    class Forgetful(cls):
        def __init__(self, loop):
            self.loop_argument = loop

    handle = Forgetful(loop)
    with pytest.raises(RuntimeError, match="not initialised"):
        handle.close()


@pytest.mark.parametrize("name", list(MAKE))
def test_collected_in_a_cycle(name, loop):
    handle = MAKE[name](loop)
    sockets = getattr(handle, "keep", ())
    handle.me = handle
    ref = weakref.ref(handle)
    del handle
    gc.collect()
    assert ref() is None
    loop.run(uv.UV_RUN_NOWAIT)
    assert loop.handles == []
    for sock in sockets:
        sock.close()


@pytest.mark.parametrize("cls", [uv.Handle, uv.Stream])
def test_abstract_types(cls, loop):
    with pytest.raises(TypeError):
        cls()
    with pytest.raises(TypeError):
        cls(loop)


@pytest.mark.parametrize("name", list(START))
def test_callback_that_closes_its_own_handle(name, loop):
    seen = []

    def callback(handle):
        seen.append(handle)
        handle.close()

    if name == "Async":
        handle = uv.Async(loop, callback)
        handle.send()
    else:
        handle = MAKE[name](loop)
        START[name](handle, callback)
    loop.run_checked()
    assert seen == [handle] and handle.closed


def test_types_do_not_gain_references(loop):
    import sys
    for name in MAKE:
        cls = getattr(uv, name)
        gc.collect()
        before = sys.getrefcount(cls)
        for _ in range(100):
            handle = MAKE[name](loop)
            handle.close()
            loop.run(uv.UV_RUN_NOWAIT)
            for sock in getattr(handle, "keep", ()):
                sock.close()
            del handle
        loop.run(uv.UV_RUN_NOWAIT)
        gc.collect()
        assert sys.getrefcount(cls) <= before + 2, name
