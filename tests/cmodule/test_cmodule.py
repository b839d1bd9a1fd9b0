"""The C API, by an extension built out of tree against the installed header."""

import gc
import importlib.util
import os
import pathlib
import shlex
import socket
import subprocess
import sysconfig
import weakref

import pytest

import uvtulip
from uvtulip import uv


@pytest.fixture(scope="session")
def linecount(tmp_path_factory):
    source = pathlib.Path(__file__).with_name("linecount.c")
    target = tmp_path_factory.mktemp("cmodule") / (
        "linecount" + sysconfig.get_config_var("EXT_SUFFIX"))
    libuv = subprocess.run(["pkg-config", "--cflags", "--libs", "libuv"],
                           check=True, capture_output=True, text=True).stdout
    subprocess.run(
        [*shlex.split(os.environ.get("CC", "cc")), "-shared", "-fPIC", "-O1",
         "-Wall", "-Werror", "-I", sysconfig.get_path("include"),
         "-I", uvtulip.get_include(), str(source), *shlex.split(libuv),
         "-o", str(target)], check=True)
    spec = importlib.util.spec_from_file_location("linecount", target)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
    assert "uv_read_start" in str(caught.value)
    handle, peer = connected(loop)
    with peer:
        handle.start_read(lambda *args: None)
        with pytest.raises(RuntimeError, match="active"):
            linecount.count(handle, print)
