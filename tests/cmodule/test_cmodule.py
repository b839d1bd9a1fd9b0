"""The C API, by an extension built out of tree against the installed header."""

import errno
import gc
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tracemalloc
import weakref

import pytest

from cmodulesupport import build, load
from uvtulip import uv


@pytest.fixture(scope="session")
def linecount(tmp_path_factory):
    """A project of its own, built by pip outside of this tree."""
    folder = tmp_path_factory.mktemp("linecount")
    here = pathlib.Path(__file__).with_name("linecount")
    project = shutil.copytree(here, folder / "project")
    tools = {"PATH": os.pathsep.join([os.path.dirname(sys.executable),
                                      os.environ["PATH"]])}
    subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "install",
         "--quiet", "--no-build-isolation", "--no-deps", "--no-index",
         "--target", str(folder / "site"), str(project)],
        check=True, env={**os.environ, **tools})
    (target,) = (folder / "site").glob("linecount*.so")
    return load("linecount", target)


@pytest.fixture(scope="session")
def udpreader(tmp_path_factory):
    return build("udpreader", tmp_path_factory.mktemp("cmodule"))


@pytest.fixture
def loop():
    loop = uv.Loop()
    yield loop
    for handle in loop.handles:
        if not handle.closed:
            handle.close()
    loop.close()


def connected(loop):
    a, b = socket.socketpair()
    handle = uv.TCP(loop)
    handle.open(a.detach())
    return handle, b


def test_counts_without_python(linecount, loop):
    handle, peer = connected(loop)
    seen = []
    with peer:
        linecount.count(handle, lambda *args: seen.append(args))
        peer.sendall(b"one\ntwo\nthree")
        loop.run(uv.UV_RUN_ONCE)
        peer.sendall(b"\n\n")
    loop.run()
    assert seen == [(4, 15, uv.errno.UV_EOF)]
    assert handle.closed


def test_makes_no_object_for_what_is_read(linecount, loop):
    """The sender is another process, so all that this one does is read."""
    handle = uv.TCP(loop)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sender = subprocess.Popen([
            sys.executable, "-c",
            f"""if True:
                import socket
                with socket.create_connection(("127.0.0.1",
                                               {listener.getsockname()[1]})) as sock:
                    for _ in range(200):
                        sock.sendall(b"x" * 99_999 + b"\\n")
            """])
        accepted, _ = listener.accept()
        handle.open(accepted.detach())
    seen = []
    linecount.count(handle, lambda *args: seen.append(args))
    loop.run(uv.UV_RUN_ONCE)        # the loop has its buffer now
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        loop.run()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sender.wait() == 0
    assert seen == [(200, 20_000_000, uv.errno.UV_EOF)]
    # A single read as an object would be more.
    assert peak - before < 16_000


def test_consumed_handle_refuses_python(linecount, loop):
    handle, peer = connected(loop)
    seen = []
    with peer:
        linecount.count(handle, lambda *args: seen.append(args))
        for call, args in ((handle.start_read, (print,)),
                           (handle.stop_read, ()), (handle.write, (b"x",)),
                           (handle.shutdown, ()),
                           (linecount.count, (handle, print))):
            with pytest.raises(RuntimeError, match="consumer"):
                call(*args)
        handle.close()
        loop.run()
    assert seen == [(0, 0, 0)]


def test_loop_keeps_the_consumer(linecount, loop):
    handle, peer = connected(loop)
    seen = []
    with peer:
        linecount.count(handle, lambda *args: seen.append(args))
        del handle
        gc.collect()
        peer.sendall(b"\n")
    loop.run()
    assert seen == [(1, 1, uv.errno.UV_EOF)]


def test_dropped_loop_collects_the_consumer(linecount):
    loop = uv.Loop()
    handle, peer = connected(loop)
    called = []

    def done(*args):
        called.append(args)

    with peer:
        linecount.count(handle, done)
        refs = [weakref.ref(loop), weakref.ref(handle), weakref.ref(done)]
        del loop, handle, done
        gc.collect()
        assert [ref() for ref in refs] == [None] * 3
        assert called == []


@pytest.mark.parametrize("bad", [None, 1, object()])
def test_wrong_type(linecount, bad):
    with pytest.raises(TypeError):
        linecount.count(bad, print)


def test_wrong_handles(linecount, loop):
    with pytest.raises(TypeError, match="tcp"):
        linecount.count(uv.Timer(loop), print)
    with pytest.raises(RuntimeError, match="not initialised"):
        linecount.count(uv.TCP.__new__(uv.TCP), print)
    closed = uv.TCP(loop)
    closed.close()
    with pytest.raises(uv.error.HandleClosedError):
        linecount.count(closed, print)
    with pytest.raises(OSError) as caught:
        linecount.count(uv.TCP(loop), print)
    assert caught.value.errno == errno.ENOTCONN
    handle, peer = connected(loop)
    with peer:
        handle.start_read(lambda *args: None)
        with pytest.raises(RuntimeError, match="active"):
            linecount.count(handle, print)


# ---- receiving by itself ----


@pytest.fixture
def reader(udpreader, loop):
    """A bound handle, and a socket that is connected to it."""
    handle = udpreader.new(loop)
    handle.bind(("127.0.0.1", 0))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.connect(handle.getsockname())
        yield handle, peer


def turns(loop, count=5):
    for _ in range(count):
        loop.run(uv.UV_RUN_NOWAIT)


def test_announces_what_is_left(udpreader, loop, reader):
    handle, peer = reader
    seen = []
    assert udpreader.read(handle, seen.append) == 0
    for data in (b"one", b"", b"three"):
        peer.send(data)
    loop.run(uv.UV_RUN_NOWAIT)
    assert seen == [b"one"]
    turns(loop)
    assert seen == [b"one", b"", b"three"]


def test_stop_and_start_inside(udpreader, loop, reader):
    handle, peer = reader
    seen = []

    def callback(data):
        seen.append(data)
        udpreader.stop(handle)
        assert handle.active == (data == b"go on")
        if data == b"go on":
            assert udpreader.start(handle) == 0

    udpreader.read(handle, callback)
    for data in (b"go on", b"stop", b"more"):
        peer.send(data)
    turns(loop)
    assert seen == [b"go on", b"stop"]
    assert not handle.active
    assert udpreader.start(handle) == 0
    turns(loop)
    assert seen == [b"go on", b"stop", b"more"]


def test_close_inside(udpreader, loop, reader):
    handle, peer = reader
    seen = []

    def callback(data):
        seen.append(data)
        handle.close()

    udpreader.read(handle, callback)
    peer.send(b"one")
    peer.send(b"two")
    turns(loop)
    assert seen == [b"one"]
    assert udpreader.start(handle) == uv.errno.UV_EINVAL
    udpreader.stop(handle)


def test_release_inside_gives_it_to_python(udpreader, loop, reader):
    handle, peer = reader
    seen = []

    def callback(data):
        seen.append(data)
        udpreader.release(handle)
        handle.start_recv(lambda handle, addr, flags, data, error: seen.append(data))

    udpreader.read(handle, callback)
    peer.send(b"one")
    peer.send(b"two")
    turns(loop)
    assert seen == [b"one", b"two"]


def test_last_reference_goes_inside(udpreader, loop):
    handle = udpreader.new(loop)
    handle.bind(("127.0.0.1", 0))
    name = handle.getsockname()
    known = weakref.ref(handle)
    seen = []

    def callback(data):
        seen.append(data)
        udpreader.release(known())

    udpreader.read(handle, callback)
    del handle
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.connect(name)
        peer.send(b"one")
        peer.send(b"two")
        turns(loop)
        assert (seen, known()) == ([b"one"], None)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
        again.bind(name)


def test_exception_of_a_consumer(udpreader, loop, reader):
    handle, peer = reader
    seen = []
    loop.excepthook = lambda *args: seen.append(args[0])
    udpreader.read(handle, lambda data: 1 / 0)
    peer.send(b"one")
    turns(loop)
    assert seen == [ZeroDivisionError]
    assert handle.active


def test_unbound_handle_stays_unbound(udpreader, loop):
    handle = udpreader.new(loop)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        handle.open(sock.fileno())
        sock.detach()
    assert udpreader.read(handle, print) == 0
    assert handle.getsockname() == ("0.0.0.0", 0)
    with pytest.raises(RuntimeError, match="consumer"):
        handle.start_recv(print)


@pytest.mark.parametrize("bad", [None, 1, object()])
def test_new_handle_of_no_loop(udpreader, bad):
    with pytest.raises(TypeError):
        udpreader.new(bad)
