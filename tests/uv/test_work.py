"""Loop.queue_work(): Python functions in libuv's pool; Request, their base."""

import gc
import os
import subprocess
import sys
import threading
import time
import weakref

import pytest

from uvtulip import uv

UV = uv.errno


class Gate:
    """Work that says that it has begun, and ends when it is let through."""

    def __init__(self):
        self.begun = threading.Event()
        self.open = threading.Event()

    def __call__(self):
        self.begun.set()
        assert self.open.wait(30)


@pytest.fixture
def full_pool():
    """All threads of the pool are busy until the gates are opened."""
    other = uv.Loop()
    gates = [Gate() for _ in range(int(os.environ.get("UV_THREADPOOL_SIZE", 4)))]
    for gate in gates:
        other.queue_work(gate)
    for gate in gates:
        assert gate.begun.wait(30)
    yield gates
    for gate in gates:
        gate.open.set()
    other.run()
    other.close()


def test_work_and_done(loop):
    seen = []

    def work():
        seen.append(("work", threading.get_ident()))
        return "result"

    def done(error):
        seen.append(("done", threading.get_ident(), error))
        assert request.done is True and request.result == "result"

    request = loop.queue_work(work, done)
    assert type(request) is uv.WorkRequest and isinstance(request, uv.Request)
    assert request.loop is loop and request.done is False
    assert request.result is None and request.exception is None
    assert "WorkRequest pending" in repr(request)
    assert loop.alive
    loop.run_checked()
    assert [event[0] for event in seen] == ["work", "done"]
    assert seen[0][1] != threading.get_ident() == seen[1][1]
    assert seen[1][2] is None
    assert "WorkRequest done" in repr(request)
    assert request.cancel() is False


def test_without_done(loop):
    seen = []
    for args in ((), (None,)):
        loop.queue_work(lambda: seen.append(1), *args)
    loop.run_checked()
    assert seen == [1, 1]


def test_attributes(loop):
    request = loop.queue_work(int)
    request.note = 5
    assert request.note == 5 and weakref.ref(request)() is request
    for name in ("result", "exception", "loop", "done"):
        with pytest.raises(AttributeError):
            setattr(request, name, 1)
    loop.run_checked()
    for kind in (uv.Request, uv.WorkRequest):
        with pytest.raises(TypeError):
            kind()
    with pytest.raises(TypeError):
        type("Sub", (uv.WorkRequest,), {})


def test_many(loop):
    done = []
    for i in range(500):
        loop.queue_work(lambda i=i: done.append(i), lambda error: done.append(error))
    loop.run_checked()
    assert sorted(i for i in done if i is not None) == list(range(500))
    assert done.count(None) == 500


def test_exception_goes_to_the_hook_and_done_is_called(loop):
    seen = []
    loop.excepthook = lambda kind, value, traceback: seen.append((value, traceback))

    def work():
        raise ZeroDivisionError("in work")

    request = loop.queue_work(work, seen.append)
    loop.run_checked()
    (value, traceback), error = seen
    assert isinstance(value, ZeroDivisionError) and error is None
    assert traceback is value.__traceback__
    assert request.exception is value and request.result is None


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_exceptions_that_leave_run(error):
    loop = uv.Loop()
    seen = []

    def work():
        raise error("out")

    request = loop.queue_work(work, seen.append)
    with pytest.raises(error, match="out"):
        loop.run()
    assert isinstance(request.exception, error) and seen == [None]
    loop.close()


def test_exception_in_done(loop):
    def done(error):
        raise ZeroDivisionError

    loop.queue_work(int, done)
    with pytest.raises(ZeroDivisionError):
        loop.run_checked()


def test_cancel(loop, full_pool):
    seen = []

    def never():
        raise AssertionError

    request = loop.queue_work(never, seen.append)
    assert request.cancel() is True and seen == []
    loop.run_checked()
    assert seen == [UV.UV_ECANCELED]
    assert request.done and request.exception is None
    assert request.cancel() is False


def test_cancel_when_it_runs(loop):
    gate = Gate()
    seen = []
    request = loop.queue_work(gate, seen.append)
    assert gate.begun.wait(30)
    assert request.cancel() is False
    gate.open.set()
    loop.run_checked()
    assert seen == [None]


def test_cancel_in_another_thread(loop, full_pool):
    request = loop.queue_work(int)
    seen = []

    def other():
        try:
            request.cancel()
        except RuntimeError as error:
            seen.append(str(error))

    def on_timer(timer):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(30)
        request.cancel()
        timer.close()

    uv.Timer(loop).start(on_timer, 0)
    loop.run_checked()
    assert len(seen) == 1 and "another thread" in seen[0]


@pytest.mark.parametrize("args", [(), (5,), (None,), (int, 5), (int, int, int)])
def test_bad_arguments(loop, args):
    with pytest.raises(TypeError):
        loop.queue_work(*args)
    assert not loop.alive


def test_wrong_states():
    with pytest.raises(RuntimeError):
        uv.Loop.__new__(uv.Loop).queue_work(int)
    loop = uv.Loop()
    loop.close()
    with pytest.raises(RuntimeError):
        loop.queue_work(int)


def test_close_with_work_under_way():
    loop = uv.Loop()
    request = loop.queue_work(int)
    with pytest.raises(uv.error.UVError) as caught:
        loop.close()
    assert caught.value.args[0] == UV.UV_EBUSY
    loop.run()
    loop.close()
    assert request.cancel() is False and request.result == 0


def test_callables_are_released(loop, full_pool):
    class Callback:
        def __call__(self, *args):
            pass

    work, done = Callback(), Callback()
    refs = [weakref.ref(work), weakref.ref(done)]
    request = loop.queue_work(work, done)
    del work, done
    gc.collect()
    assert None not in [ref() for ref in refs]
    full_pool[0].open.set()
    loop.run_checked()
    gc.collect()
    assert [ref() for ref in refs] == [None, None]
    assert request.done


def test_loop_dropped_with_work_that_waits(full_pool):
    """A loop that nobody can run any more is garbage with all its work."""
    class Work:
        def __init__(self, loop):
            self.loop = loop

        def __call__(self, *args):
            raise AssertionError

    def drop():
        loop = uv.Loop()
        work = Work(loop)
        request = loop.queue_work(work, work)
        return [weakref.ref(thing) for thing in (loop, request, work)]

    refs = drop()
    gc.collect()
    assert [ref() for ref in refs] == [None] * 3


def test_loop_dropped_with_work_that_runs():
    gate = Gate()
    loop = uv.Loop()
    ended = threading.Event()

    def work():
        gate()
        ended.set()

    loop.queue_work(work)
    assert gate.begun.wait(30)
    del loop
    gc.collect()
    gate.open.set()
    assert ended.wait(30)


def test_work_uses_thread_locals_and_current_thread(loop):
    local = threading.local()

    def work():
        local.value = threading.current_thread().name
        return local.value

    request = loop.queue_work(work)
    loop.run_checked()
    assert isinstance(request.result, str) and not hasattr(local, "value")


def run(code, **env):
    return subprocess.run([sys.executable, "-X", "faulthandler", "-c", code],
                          capture_output=True, text=True, timeout=60,
                          env={**os.environ, **env})


def test_interpreter_waits_for_work_that_runs():
    child = run("""if True:
        import sys, threading, time
        from uvtulip import uv
        begun = threading.Event()
        def work():
            begun.set()
            time.sleep(0.3)
            print("worked", flush=True)
        def never():
            print("never", flush=True)
        loop = uv.Loop()
        loop.queue_work(work)
        loop.queue_work(never)
        begun.wait()
        """, UV_THREADPOOL_SIZE="1")
    assert (child.returncode, child.stdout, child.stderr) == (0, "worked\n", "")


def test_no_work_when_the_interpreter_ends():
    child = run("""if True:
        import atexit
        def late():                 # registered first, it runs last
            try:
                loop.queue_work(int)
            except RuntimeError as error:
                print(error)
        atexit.register(late)
        from uvtulip import uv
        loop = uv.Loop()
        loop.queue_work(int)
        loop.run()
        """)
    assert (child.returncode, child.stderr) == (0, "")
    assert "interpreter is ending" in child.stdout


@pytest.mark.parametrize("use", [
    "loop.queue_work(int)", "fs.stat(loop, '.', lambda request: None)",
    "dns.getaddrinfo(loop, '127.0.0.1', 1, callback=print)",
    "uv.FSPoll(loop).start('.', 1, print)"])
def test_child_that_ends_in_good_order(use):
    """At its end libuv would wait for the threads of its parent."""
    child = run(f"""if True:
        import os, sys
        from uvtulip import uv
        from uvtulip.uv import dns, fs
        loop = uv.Loop()
        {use}
        loop.run(uv.UV_RUN_ONCE)
        pid = os.fork()
        if pid == 0:
            sys.exit(3)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
        """)
    assert child.returncode == 0, child.stderr


def test_after_a_fork():
    """The child has no pool threads; it makes its own."""
    child = run("""if True:
        import os, threading
        from uvtulip import uv
        loop = uv.Loop()
        begun, go = threading.Event(), threading.Event()
        def work():
            begun.set()
            go.wait()
        loop.queue_work(work)
        begun.wait()
        pid = os.fork()
        if pid == 0:
            other = uv.Loop()
            other.queue_work(lambda: os.write(1, b"child "))
            other.run()
            other.close()
            raise SystemExit(7)     # and its interpreter ends
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        go.set()
        loop.run()
        print("parent")
        """)
    assert (child.returncode, child.stdout) == (0, "child parent\n"), child.stderr


@pytest.mark.skipif(sys.version_info < (3, 13), reason="own GIL since 3.13")
def test_in_a_subinterpreter():
    child = run("""if True:
        import _interpreters, os
        interp = _interpreters.create()
        _interpreters.exec(interp, '''if True:
            import threading, time
            from uvtulip import uv
            loop = uv.Loop()
            seen = []
            main = threading.get_ident()
            loop.queue_work(lambda: seen.append(threading.get_ident() != main),
                            seen.append)
            loop.run()
            assert seen == [True, None], seen
            # CPython 3.13.0 aborts when the last thread state of an interpreter is
            # deleted while a new one is made: the work has to have begun.
            begun = threading.Event()
            loop.queue_work(lambda: (begun.set(), time.sleep(0.2)))
            begun.wait()
            ''')
        _interpreters.destroy(interp)
        print("gone")
        """)
    assert (child.returncode, child.stdout, child.stderr) == (0, "gone\n", "")


def test_signal_while_the_interpreter_waits():
    """Ctrl-C ends the waiting for work that never ends."""
    code = """if True:
        import signal, threading, time
        from uvtulip import uv
        def work():
            time.sleep(0.2)
            signal.raise_signal(signal.SIGINT)
            while True:
                time.sleep(0.01)
        loop = uv.Loop()
        loop.queue_work(work)
        time.sleep(0.1)
        """
    begin = time.monotonic()
    child = run(code)
    assert "KeyboardInterrupt" in child.stderr
    assert time.monotonic() - begin < 50
