"""Stream.start_read_into(): reading into buffers of the program's."""

import array
import gc
import socket
import weakref

import pytest

from uvtulip import uv

UV = uv.errno


@pytest.fixture
def pair(loop):
    """A raw handle and the stdlib socket at its other end."""
    a, b = socket.socketpair()
    handle = uv.TCP(loop)
    handle.open(a.detach())
    b.settimeout(10)
    with b:
        yield handle, b


class Reader:
    """One buffer for all reads."""

    def __init__(self, handle, buffer=None, until=None):
        self.buffer = bytearray(10) if buffer is None else buffer
        self.got = []
        self.asked = []
        self.until = until
        handle.start_read_into(self.get_buffer, self.updated)

    def get_buffer(self, handle, size):
        self.asked.append(size)
        return self.buffer

    def updated(self, handle, nbytes, error):
        if error is None:
            self.got.append(bytes(memoryview(self.buffer).cast("B")[:nbytes]))
        else:
            assert nbytes is None
            self.got.append(error)
            handle.close()
        if self.got[-1] == self.until:
            handle.close()


def test_reads_into_the_buffer(loop, pair):
    handle, sock = pair
    reader = Reader(handle)
    assert handle.active and reader.asked == [65536]
    sock.sendall(b"0123456789abc")
    sock.close()
    loop.run_checked()
    assert reader.got == [b"0123456789", b"abc", UV.UV_EOF]
    assert len(reader.asked) == 3
    reader.buffer.append(0)             # held no more


@pytest.mark.parametrize("buffer", [
    bytearray(7), memoryview(bytearray(20))[3:9], array.array("i", [0] * 4)])
def test_kinds_of_buffers(loop, pair, buffer):
    handle, sock = pair
    reader = Reader(handle, buffer, until=b"abc")
    sock.sendall(b"abc")
    loop.run_checked()
    assert reader.got == [b"abc"]


@pytest.mark.parametrize("bad, error", [
    (b"constant", BufferError), (None, TypeError), (5, TypeError), ("x", TypeError),
    (bytearray(), ValueError), (memoryview(bytearray(8))[::2], BufferError)])
def test_bad_buffers(loop, pair, bad, error):
    handle, sock = pair
    with pytest.raises(error):
        handle.start_read_into(lambda h, size: bad, print)
    assert not handle.active
    # and later on
    buffers = [bytearray(4), bad]
    got = []

    def updated(handle, nbytes, error):
        got.append((nbytes, error))

    handle.start_read_into(lambda h, size: buffers.pop(0), updated)
    sock.sendall(b"123456")
    with pytest.raises(error):
        loop.run_checked()
    assert got == [(4, None), (None, UV.UV_ENOBUFS)] and not handle.active
    handle.start_read(lambda h, data, error: (got.append(data), h.close()))
    loop.run_checked()
    assert got[2:] == [b"56"]


def test_get_buffer_raises(loop, pair):
    handle, sock = pair

    def get_buffer(handle, size):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        handle.start_read_into(get_buffer, print)
    assert not handle.active


def test_get_buffer_closes(loop, pair):
    handle, sock = pair

    def get_buffer(handle, size):
        handle.close()
        return bytearray(5)

    with pytest.raises(uv.error.HandleClosedError):
        handle.start_read_into(get_buffer, print)
    loop.run_checked()


@pytest.mark.parametrize("what", ["close", "stop_read", "start_read"])
@pytest.mark.parametrize("where", ["get_buffer", "updated"])
def test_callbacks_that_stop(loop, pair, what, where):
    handle, sock = pair
    got = []
    buffers = []

    def act():
        if what == "start_read":
            handle.start_read(lambda h, data, error: (got.append(data), h.close()))
        else:
            getattr(handle, what)()

    def get_buffer(handle, size):
        buffers.append(bytearray(3))
        if where == "get_buffer" and len(buffers) == 2:
            act()
        return buffers[-1]

    def updated(handle, nbytes, error):
        got.append((nbytes, error))
        if where == "updated":
            act()

    handle.start_read_into(get_buffer, updated)
    sock.sendall(b"abcdef")
    loop.run_checked()
    assert got == [(3, None)] + ([b"def"] if what == "start_read" else [])
    if what == "stop_read":
        handle.start_read(lambda h, data, error: (got.append(data), h.close()))
        loop.run_checked()
        assert got[1:] == [b"def"]
    gc.collect()
    for buffer in buffers:
        buffer.append(1)                # held no more


def test_changes_over_from_start_read(loop, pair):
    handle, sock = pair
    got = []

    def on_read(handle, data, error):
        got.append(data)
        reader.append(Reader(handle, until=b"two"))
        sock.sendall(b"two")

    reader = []
    handle.start_read(on_read)
    sock.sendall(b"one")
    loop.run_checked()
    assert got == [b"one"] and reader[0].got == [b"two"]


def test_exception_in_updated(loop, pair):
    handle, sock = pair
    seen = []

    def updated(handle, nbytes, error):
        seen.append(nbytes)
        if len(seen) == 1:
            raise ZeroDivisionError
        handle.close()

    handle.start_read_into(lambda h, size: bytearray(1), updated)
    sock.sendall(b"ab")
    with pytest.raises(ZeroDivisionError):
        loop.run_checked()
    loop.run_checked()
    assert seen == [1, 1]


def test_empty_reads_are_not_delivered(loop, pair):
    handle, sock = pair
    reader = Reader(handle, until=b"x")
    with socket.socket(fileno=socket.dup(handle.fileno())) as other:
        other.setblocking(False)
        prepare = uv.Prepare(loop)
        sock.sendall(b"stolen")

        def steal(handle):
            handle.close()
            assert other.recv(10) == b"stolen"
            timer.start(lambda timer: (sock.sendall(b"x"), timer.close()), 0.05)

        timer = uv.Timer(loop)
        prepare.start(steal)
        loop.run_checked()
    assert reader.got == [b"x"]


def test_kept_and_collected(loop, pair):
    """The handle owns the callbacks; a cycle through them is garbage."""
    handle, sock = pair

    class Callback:
        def __call__(self, *args):
            return bytearray(5)

    callback = Callback()
    callback.handle = handle
    ref = weakref.ref(callback)
    handle.start_read_into(callback, callback)
    handle.stop_read()
    del callback
    gc.collect()
    assert ref() is None


def test_dropped_loop():
    def drop():
        loop = uv.Loop()
        a, b = socket.socketpair()
        handle = uv.TCP(loop)
        handle.open(a.detach())
        buffer = bytearray(5)
        handle.start_read_into(lambda h, size: buffer, lambda *args: loop)
        b.close()
        return weakref.ref(loop), weakref.ref(handle), buffer

    loop_ref, handle_ref, buffer = drop()
    gc.collect()
    assert loop_ref() is None and handle_ref() is None
    buffer.append(1)


def test_bad_arguments(loop, pair):
    handle, _ = pair
    for args in ((), (print,), (print, 5), (5, print), (print, print, print)):
        with pytest.raises(TypeError):
            handle.start_read_into(*args)
    with pytest.raises(uv.error.TCPError) as caught:
        uv.TCP(loop).start_read_into(lambda h, size: bytearray(1), print)
    assert caught.value.args[0] == UV.UV_ENOTCONN
    closed = uv.TCP(loop)
    closed.close()
    for bare, error in ((closed, uv.error.HandleClosedError),
                        (uv.TCP.__new__(uv.TCP), RuntimeError)):
        with pytest.raises(error):
            bare.start_read_into(print, print)
