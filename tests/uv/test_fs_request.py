"""FSRequest as a request to the thread pool: cancelled, abandoned, collected."""

import contextlib
import gc
import itertools
import os
import threading
import time
import weakref

import pytest

from aiosupport import check_script
from uvtulip import uv
from uvtulip.uv import fs

# More than the pool has threads.
MANY = 12


@contextlib.contextmanager
def busy_pool(loop, done):
    """Reads of empty pipes keep every thread of the pool until the end."""
    pipes = [os.pipe() for _ in range(MANY)]
    requests = [fs.read(loop, pipe[0], 10, -1, done.append) for pipe in pipes]
    try:
        yield requests
    finally:
        for read_fd, write_fd in pipes:
            os.write(write_fd, b"data")
        for read_fd, write_fd in pipes:
            os.close(write_fd)
        settle()
        for read_fd, write_fd in pipes:
            os.close(read_fd)


def settle():
    """All that was asked of the pool before is done after this, or blocks."""
    other = uv.Loop()
    fs.stat(other, ".", lambda request: None)
    other.run()
    other.close()


def test_cancel(loop):
    seen, late = [], []
    begun, end = threading.Event(), threading.Event()
    work = loop.queue_work(lambda: begun.set() or end.wait(60), lambda *args: None)
    assert begun.wait(60)
    with busy_pool(loop, seen) as requests:
        request = fs.stat(loop, ".", late.append)
        assert request.cancel() is True
        assert request.cancel() is True
        loop.run(uv.UV_RUN_ONCE)
        assert late == [request]
        assert request.error == uv.errno.UV_ECANCELED
        assert request.result is None
        assert request.cancel() is False
        # The work has begun, and they are more than the pool has threads.
        cancelled = [request for request in reversed(requests) if request.cancel()]
        assert cancelled and work.cancel() is False
        end.set()
    loop.run_checked()
    assert len(seen) == MANY
    for request in seen:
        if request in cancelled:
            assert request.error == uv.errno.UV_ECANCELED
        else:
            assert request.result == b"data"


def test_cancelled_write_lets_go_of_its_data(loop):
    data = bytearray(b"abc")
    done = []
    with busy_pool(loop, []):
        assert fs.write(loop, 1, data, -1, done.append).cancel()
        loop.run(uv.UV_RUN_ONCE)
        assert done[0].error == uv.errno.UV_ECANCELED
        data.append(1)
    loop.run_checked()


def test_cancelled_closedir_leaves_it_open(loop, tmp_path):
    opened = fs.opendir(loop, tmp_path)
    with busy_pool(loop, []):
        assert fs.closedir(loop, opened, lambda request: None).cancel()
        loop.run(uv.UV_RUN_ONCE)
        assert not opened.closed
        assert fs.readdir(loop, opened) == []
        fs.closedir(loop, opened)
    loop.run_checked()


def test_close_with_a_request_pending():
    loop = uv.Loop()
    fs.stat(loop, ".", lambda request: None)
    with pytest.raises(uv.error.UVError) as info:
        loop.close()
    assert info.value.name == "EBUSY"
    loop.run()
    loop.close()


def test_pending_requests_keep_the_loop_running(loop):
    done = []
    fs.stat(loop, ".", done.append)
    assert loop.alive
    assert loop.run(uv.UV_RUN_NOWAIT) is True or done
    loop.run_checked()
    assert len(done) == 1 and not loop.alive


def test_callback_that_closes_the_loop_is_refused(loop):
    seen = []

    def on_stat(request):
        with pytest.raises(RuntimeError):
            loop.close()
        seen.append(request)

    fs.stat(loop, ".", on_stat)
    loop.run_checked()
    assert len(seen) == 1


def test_base_cannot_be_made():
    with pytest.raises(TypeError):
        uv.Request()
    with pytest.raises(TypeError):
        object.__new__(fs.FSRequest)
    assert fs.FSRequest.__base__ is uv.Request


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def test_dropped_loop_is_collected_with_its_requests(tmp_path):
    settle()
    gc.collect()
    before = descriptors()
    loop = uv.Loop()
    data = bytearray(b"abc")
    calls = []

    def callback(request, loop=loop):
        calls.append(request)

    with open(tmp_path / "file", "wb") as file:
        alive = [
            weakref.ref(fs.write(loop, file.fileno(), data, 0, callback)),
            weakref.ref(fs.opendir(loop, tmp_path, callback)),
            weakref.ref(fs.open(loop, tmp_path / "file", os.O_RDONLY, 0, callback)),
            weakref.ref(loop),
        ]
        del loop, callback
        gc.collect()
        assert [ref() for ref in alive] == [None] * 4
        settle()
    settle()
    assert calls == []
    data.append(1)
    assert descriptors() == before


def drop_loop_that_reads(room, wait):
    """Drop a loop with three requests that read, `wait` seconds after they were made;
    whether a thread of the pool has begun with one by then."""
    pipes = [os.pipe() for _ in range(3)]
    loop = uv.Loop()
    for read_fd, _ in pipes:
        fs.readv(loop, read_fd, room, -1, print)
    time.sleep(wait)
    del loop
    gc.collect()
    begun = False
    try:
        room.append(1)
    except BufferError:
        begun = True
    for _, write_fd in pipes:
        os.write(write_fd, b"late")
        os.close(write_fd)
    return begun, [read_fd for read_fd, _ in pipes]


def test_dropped_loop_whose_requests_are_being_worked_on():
    """While a thread has the memory, nobody else may change its size."""
    settle()
    gc.collect()
    before = descriptors()
    for attempt in itertools.count():
        room = bytearray(10)
        begun, ends = drop_loop_that_reads(room, attempt / 1000)
        while descriptors() > before + len(ends):
            settle()
        room.append(1)
        for read_fd in ends:
            os.close(read_fd)
        if begun:
            break


def test_asyncio_loop_closes_over_pending_requests():
    """Those that no thread has begun are cancelled, the others finished."""
    check_script(
        """
        import asyncio, os, threading, uvtulip
        from uvtulip.uv import fs

        read_fd, write_fd = os.pipe()
        ends = []

        def on_read(request):
            ends.append(request.error or request.result)

        async def main():
            loop = asyncio.get_running_loop().uv_loop
            for _ in range(20):
                fs.read(loop, read_fd, 1, -1, on_read)
            threading.Timer(0.05, os.write, (write_fd, b"x" * 20)).start()

        uvtulip.run(main())
        assert len(ends) == 20 and set(ends) <= {-125, b"x"}, ends
        assert -125 in ends
        """
    )
