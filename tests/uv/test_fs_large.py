"""Counts that an int of C does not hold.  The memory is never touched: nobody reads
what is written to /dev/null."""

import mmap
import os

import pytest

from uvtulip import uv
from uvtulip.uv import fs

pytestmark = pytest.mark.skipif(
    not hasattr(mmap, "MAP_NORESERVE"), reason="this Python cannot map without reserve"
)

SIZES = [2**31 - 4096, 2**31, 2**31 + 5, 2**32, 2**32 + 5]


@pytest.fixture(params=SIZES)
def data(request):
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_NORESERVE
    try:
        room = mmap.mmap(-1, request.param, flags=flags)
    except OSError:
        pytest.skip("this system gives no such address space")
    with room:
        yield room


@pytest.fixture
def sink():
    fd = os.open("/dev/null", os.O_WRONLY)
    yield fd
    os.close(fd)


def test_write(data, sink):
    assert fs.write(None, sink, data) == len(data)
    assert fs.write(None, sink, [data, b"12345"]) == len(data) + 5


def test_write_with_a_callback(loop, data, sink):
    done = []
    fs.write(loop, sink, data, callback=lambda r: done.append((r.result, r.error)))
    loop.run_checked()
    assert done == [(len(data), None)]


def test_errors_stay_errors(tmp_path):
    with pytest.raises(uv.error.FSError) as caught:
        fs.open(None, tmp_path / "none", 0)
    assert caught.value.name == "ENOENT"


def test_sendfile_of_a_sparse_file(tmp_path, sink):
    """As much as the kernel takes in one go, and never a wrong sign."""
    path = tmp_path / "sparse"
    with open(path, "wb+") as file:
        os.ftruncate(file.fileno(), 2**32 + 5)
        count = fs.sendfile(None, sink, file.fileno(), 0, 2**32 + 5)
        assert 2**30 < count <= 2**32 + 5
        count = fs.sendfile(None, sink, file.fileno(), 2**32, 100)
        assert count == 5


def test_stream_write(loop, data):
    """A stream takes what it can, and keeps the rest."""
    reader, writer = os.pipe()
    pipe = uv.Pipe(loop)
    pipe.open(writer)
    sent = pipe.try_write(data)
    assert 0 < sent <= 1 << 20
    os.close(reader)
    results = []
    pipe.write(data, lambda pipe, errorno: results.append(errorno))
    loop.run_checked()
    assert results == [uv.errno.UV_EPIPE]
    pipe.close()
    loop.run_checked()


def test_datagram(loop, data):
    udp = uv.UDP(loop)
    udp.bind(("127.0.0.1", 0))
    results = []
    udp.send(udp.getsockname(), data, lambda udp, errorno: results.append(errorno))
    loop.run_checked()
    assert results == [uv.errno.UV_EMSGSIZE]
    with pytest.raises(uv.error.UDPError) as caught:
        udp.try_send(udp.getsockname(), data)
    assert caught.value.name == "EMSGSIZE"
    udp.close()
    loop.run_checked()
