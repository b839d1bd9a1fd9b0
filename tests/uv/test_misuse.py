"""Each handle type, misused: from one table of what makes it call back.

Whatever a program does, there is an exception that says so, and the loop goes on.
"""

import gc
import itertools
import os
import pty
import signal
import socket
import threading
import weakref

import pytest

from tlssupport import client_context, server_context
from uvtulip import uv

CONTEXT = server_context()

# ---- the table: a started handle whose callback will be called ----


class Kept:
    """What is needed as long as the handle is; closed after the test."""

    def __init__(self, path):
        self.path = path
        self.fds = []
        self.sockets = []
        self.threads = []

    def pair(self):
        ours, theirs = socket.socketpair()
        self.sockets.append(theirs)
        theirs.send(b"x")
        return ours

    def close(self):
        gc.collect()        # a peer may wait for the end of what was dropped
        for thread in self.threads:
            thread.join(30)
        for sock in self.sockets:
            sock.close()
        for fd in self.fds:
            os.close(fd)


def tcp(loop, kept, callback):
    handle = uv.TCP(loop)
    handle.open(kept.pair().detach())
    handle.start_read(callback)
    return handle


def pipe(loop, kept, callback):
    handle = uv.Pipe(loop)
    handle.open(kept.pair().detach())
    handle.start_read(callback)
    return handle


def into(loop, kept, callback):
    handle = uv.Pipe(loop)
    handle.open(kept.pair().detach())
    handle.start_read_into(lambda handle, size: bytearray(10), callback)
    return handle


def tty(loop, kept, callback):
    master, slave = pty.openpty()
    kept.fds += [master, slave]
    handle = uv.TTY(loop, slave)
    handle.start_read(callback)
    os.write(master, b"x\n")
    return handle


def udp(loop, kept, callback):
    handle = uv.UDP(loop)
    handle.bind(("127.0.0.1", 0))
    handle.start_recv(callback)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"x", handle.getsockname())
    return handle


def poll(loop, kept, callback):
    sock = kept.pair()
    kept.sockets.append(sock)
    handle = uv.Poll(loop, sock)
    handle.start(uv.UV_READABLE, callback)
    return handle


def timer(loop, kept, callback):
    handle = uv.Timer(loop)
    handle.start(callback, 0.001, 0.001)
    return handle


def signal_handle(loop, kept, callback):
    handle = uv.Signal(loop)
    handle.start(callback, signal.SIGUSR1)
    signal.raise_signal(signal.SIGUSR1)
    return handle


def async_handle(loop, kept, callback):
    handle = uv.Async(loop, callback)
    handle.send()
    return handle


def watcher(cls):
    def make(loop, kept, callback):
        handle = cls(loop)
        handle.start(callback)
        # A Check is called after a poll, which has to end some time.
        uv.Timer(loop).start(lambda timer: handle.closed and timer.close(),
                             0.001, 0.001)
        return handle
    return make


def process(loop, kept, callback):
    return uv.Process.spawn(loop, ["true"], exit_callback=callback)


def fsevent(loop, kept, callback):
    handle = uv.FSEvent(loop)
    handle.start(kept.path, 0, callback)
    (kept.path / f"file{len(list(kept.path.iterdir()))}").touch()
    return handle


def fspoll(loop, kept, callback):
    handle = uv.FSPoll(loop)
    handle.start(kept.path / "missing", 0.01, callback)
    return handle


def listen(loop, kept, callback):
    handle = uv.TCP(loop)
    handle.bind(("127.0.0.1", 0))
    handle.listen(callback)
    kept.sockets.append(socket.create_connection(handle.getsockname()))
    return handle


def connect(loop, kept, callback):
    server = socket.create_server(("127.0.0.1", 0))
    kept.sockets.append(server)
    handle = uv.TCP(loop)
    handle.connect(server.getsockname(), callback)
    return handle


def tls(loop, kept, callback):
    """One whose peer, in a thread, sends something."""
    handle = uv.TCP(loop)
    ours, theirs = socket.socketpair()
    handle.open(ours.detach())
    layer = uv.TLS(handle, server_context(), True)
    layer.handshake(lambda layer, error: error or layer.start_read(callback))
    kept.threads.append(threading.Thread(target=talk, args=(theirs,)))
    kept.threads[-1].start()
    return layer


def talk(sock):
    try:
        with client_context().wrap_socket(sock, server_hostname="localhost") as tls:
            tls.sendall(b"x")
            tls.recv(1)
    except OSError:
        sock.close()


def handshake(loop, kept, callback):
    handle = uv.Pipe(loop)
    sock = kept.pair()
    kept.sockets[-1].send(b"x" * 100)
    handle.open(sock.detach())
    layer = uv.TLS(handle, server_context(), True)
    layer.handshake(callback)
    return layer


def write(loop, kept, callback):
    handle = uv.TCP(loop)
    handle.open(kept.pair().detach())
    handle.write(b"x", callback)
    return handle


def send(loop, kept, callback):
    handle = uv.UDP(loop)
    handle.send(("127.0.0.1", 9), b"x", callback)
    return handle


def shutdown(loop, kept, callback):
    handle = uv.Pipe(loop)
    handle.open(kept.pair().detach())
    handle.shutdown(callback)
    return handle


START = {
    "TCP": tcp, "Pipe": pipe, "TTY": tty, "UDP": udp, "Poll": poll, "Timer": timer,
    "Signal": signal_handle, "Async": async_handle, "Idle": watcher(uv.Idle),
    "Prepare": watcher(uv.Prepare), "Check": watcher(uv.Check), "Process": process,
    "FSEvent": fsevent, "FSPoll": fspoll,
    "read into": into, "listen": listen, "connect": connect, "write": write,
    "send": send, "shutdown": shutdown, "TLS": tls, "handshake": handshake,
}


@pytest.fixture
def kept(tmp_path):
    kept = Kept(tmp_path)
    yield kept
    kept.close()


@pytest.fixture(params=list(START))
def start(request, kept):
    def start(loop, callback):
        return START[request.param](loop, kept, callback)

    start.kind = request.param
    return start


# ---- callbacks ----


def test_closes_its_own_handle(loop, start):
    seen = []

    def callback(handle, *args):
        seen.append(handle)
        handle.close(lambda h: seen.append("closed"))
        with pytest.raises(uv.error.HandleClosedError):
            handle.close()

    handle = start(loop, callback)
    loop.run_checked()
    assert seen == [handle, "closed"]


def test_closes_the_other_ones(loop, start):
    """Of several that are ready at once the first callback closes all."""
    seen = []
    handles = []

    def callback(handle, *args):
        seen.append(handle)
        for each in handles:
            if not each.closed:
                each.close()

    handles += [start(loop, callback) for _ in range(3)]
    loop.run_checked()
    # Requests that were over, or are cancelled, are told of nevertheless.
    requests = start.kind in ("connect", "write", "send", "shutdown",
                              "handshake")
    assert len(seen) == (3 if requests else 1) and loop.handles == []


def test_drops_the_last_reference(loop, start):
    seen = []

    def callback(handle, *args):
        seen.append(handle.closed)
        handles.clear()
        handle.close()
        del handle
        gc.collect()

    handles = [start(loop, callback)]
    ref = weakref.ref(handles[0])
    loop.run_checked()
    gc.collect()
    assert seen == [False] and ref() is None


def test_raises(loop, start):
    def callback(handle, *args):
        if not handle.closed:
            handle.close()
        raise ZeroDivisionError

    handle = start(loop, callback)      # nobody else keeps an Async
    with pytest.raises(ZeroDivisionError):
        loop.run_checked()
    loop.run_checked()
    assert handle.closed and loop.raised == [] and loop.handles == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_ends_the_run(start, error):
    loop = uv.Loop()

    def callback(handle, *args):
        handle.close()
        raise error("out")

    handle = start(loop, callback)
    with pytest.raises(error, match="out"):
        loop.run()
    assert handle.closed
    loop.run()
    loop.close()


def test_does_to_the_loop_what_it_must_not(start):
    loop = uv.Loop()
    seen = []

    def callback(handle, *args):
        for call in (loop.close, loop.run, loop.fork, loop.__init__):
            with pytest.raises(RuntimeError):
                call()
            seen.append(call)
        handle.close()

    handle = start(loop, callback)
    loop.run()
    assert handle.closed and len(seen) == 4
    loop.close()


def test_stops_the_loop(loop, start):
    def callback(handle, *args):
        loop.stop()

    handle = start(loop, callback)
    loop.run()
    if not handle.closed:
        handle.close()
    loop.run_checked()


def test_in_another_thread_than_the_loop(loop, start):
    """Nothing of the handle but what is allowed everywhere."""
    refused = []

    def other(handle):
        for call in (handle.close, lambda: setattr(handle, "ref", False)):
            try:
                call()
            except RuntimeError as error:
                refused.append(str(error))

    def callback(handle, *args):
        thread = threading.Thread(target=other, args=(handle,))
        thread.start()
        thread.join(30)
        handle.close()

    handle = start(loop, callback)
    loop.run_checked()
    assert handle.closed and len(refused) == 2
    assert all("another thread" in text for text in refused)


def test_close_callback_that_raises(loop, start):
    def on_closed(handle):
        raise ZeroDivisionError

    start(loop, lambda handle, *args: None).close(on_closed)
    with pytest.raises(ZeroDivisionError):
        loop.run_checked()
    loop.run_checked()


def test_loop_that_is_dropped(start):
    def drop():
        loop = uv.Loop()
        handle = start(loop, lambda *args: loop)
        return weakref.ref(loop), weakref.ref(handle)

    refs = drop()
    gc.collect()
    assert [ref() for ref in refs] == [None, None]


def test_handle_after_its_loop(start):
    """The handle lives on when the loop has been closed."""
    loop = uv.Loop()
    handle = start(loop, lambda *args: None)
    handle.close()
    loop.run()
    loop.close()
    assert handle.closed and not handle.active and handle.loop is None
    for call in uses(handle):
        with pytest.raises((uv.error.HandleClosedError, TypeError, ValueError)):
            call()


# ---- every method with every kind of nonsense ----

TYPES = [uv.TCP, uv.Pipe, uv.TTY, uv.UDP, uv.Poll, uv.Timer, uv.Signal, uv.Async,
         uv.Idle, uv.Prepare, uv.Check, uv.Process, uv.FSEvent, uv.FSPoll,
         uv.TLS]


class Hostile:
    """Answers every protocol with an exception."""

    def fail(self, *args):
        raise ZeroDivisionError

    __index__ = __bool__ = __len__ = __getitem__ = __iter__ = __fspath__ = fail
    __float__ = __call__ = __eq__ = fail
    __hash__ = None

    def fileno(self):
        raise ZeroDivisionError


NONSENSE = [None, "x", b"x", -1, 1 << 70, 1.5, float("nan"), (), [], object, Hostile(),
            ("127.0.0.1",), ("127.0.0.1", 1 << 20)]
EXPECTED = (TypeError, ValueError, OverflowError, ZeroDivisionError, RuntimeError,
            BufferError, uv.error.UVError)


def fresh(cls, loop, kept):
    if cls is uv.Poll:
        sock = kept.pair()
        kept.sockets.append(sock)
        return uv.Poll(loop, sock)
    if cls is uv.TTY:
        return tty(loop, kept, lambda *args: None)
    if cls is uv.Process:
        return process(loop, kept, None)
    if cls is uv.TLS:
        handle = uv.Pipe(loop)
        handle.open(kept.pair().detach())
        return uv.TLS(handle, CONTEXT, True)
    return cls(loop)


def methods(cls):
    names = [name for name in dir(cls) if not name.startswith("_")]
    return [name for name in names
            if callable(getattr(cls, name)) and name not in ("spawn", "reset_mode")]


def uses(handle):
    """Each method that needs an open handle, called with what may suit it."""
    for name in methods(type(handle)):
        if name not in ("disable_stdio_inheritance", "set_vterm_state",
                        "get_vterm_state"):
            for count in range(4):
                yield lambda name=name, count=count: getattr(handle, name)(
                    *[print] * count)


@pytest.mark.parametrize("cls", TYPES)
@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_nonsense(cls, count, loop, kept, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    calls = refused = 0
    values = NONSENSE if count < 3 else NONSENSE[::3]
    for name in methods(cls):
        if name == "disable_stdio_inheritance":
            continue
        handle = fresh(cls, loop, kept)
        for args in itertools.product(values, repeat=count):
            calls += 1
            try:
                getattr(handle, name)(*args)
            except EXPECTED:
                refused += 1
            if handle.closed:
                loop.run(uv.UV_RUN_NOWAIT)
                handle = fresh(cls, loop, kept)
        if not handle.closed:
            handle.close()
        loop.raised.clear()
        loop.run(uv.UV_RUN_NOWAIT)
    loop.raised.clear()
    assert refused > calls * 0.5 or count == 0


@pytest.mark.parametrize("cls", TYPES)
def test_nonsense_for_attributes_and_constructors(cls, loop, kept):
    handle = fresh(cls, loop, kept)
    for name in dir(cls):
        if not name.startswith("_") and not callable(getattr(cls, name)):
            for value in NONSENSE:
                try:
                    setattr(handle, name, value)
                except (AttributeError, *EXPECTED):
                    pass
            with pytest.raises((AttributeError, TypeError)):
                delattr(handle, name)
    for count in (0, 1, 2, 3):
        for args in itertools.product(NONSENSE[:6], repeat=count):
            if cls is not uv.Process:
                with pytest.raises(EXPECTED):
                    cls(*args)
    for args in itertools.product(NONSENSE, repeat=1):
        if cls is not uv.Process:
            with pytest.raises(EXPECTED):
                cls(loop, *args, 1, 2, 3)


@pytest.mark.parametrize("cls", TYPES)
def test_uninitialised_and_closed(cls, loop, kept):
    bare = cls.__new__(cls)
    handle = fresh(cls, loop, kept)
    handle.close()
    for each, error in ((bare, RuntimeError), (handle, uv.error.HandleClosedError)):
        outcomes = {}
        for call in uses(each):
            try:
                call()
            except (error, TypeError, ValueError) as caught:
                outcomes[type(caught)] = True
            else:
                raise AssertionError(call.__defaults__)
        assert error in outcomes


def test_loop_methods_with_nonsense(loop):
    for name in methods(uv.Loop):
        if name in ("close", "run", "stop", "default_loop"):
            continue
        for count in (0, 1, 2):
            for args in itertools.product(NONSENSE, repeat=count):
                try:
                    getattr(loop, name)(*args)
                except EXPECTED:
                    pass
    loop.raised.clear()
    for value in NONSENSE:
        if value is not None:
            with pytest.raises(EXPECTED):
                loop.run(value)
    while loop.run():       # an exception of work() stops the run
        loop.raised.clear()
    loop.raised.clear()
