"""uv.Stream: reading, writing and ending streams, over socket pairs."""

import gc
import socket
import sys
import weakref

import pytest

from uvtulip import uv


@pytest.fixture(params=["TCP", "Pipe"])
def pair(request, loop):
    """A raw handle and the stdlib socket at its other end."""
    a, b = socket.socketpair()
    handle = getattr(uv, request.param)(loop)
    handle.open(a.detach())
    b.settimeout(10)
    with b:
        yield handle, b
        if not handle.closed:
            handle.close()
        loop.run(uv.UV_RUN_NOWAIT)


def test_read(loop, pair):
    handle, sock = pair
    got = []

    def on_read(h, data, error):
        assert h is handle
        got.append((data, error))
        if error is not None:
            handle.close()

    handle.start_read(on_read)
    assert handle.active
    sock.sendall(b"one")
    loop.run(uv.UV_RUN_ONCE)
    sock.shutdown(socket.SHUT_WR)
    loop.run_checked()
    assert got == [(b"one", None), (None, uv.errno.UV_EOF)]


def test_eof_stops_reading_but_does_not_close(loop, pair):
    handle, sock = pair
    sock.shutdown(socket.SHUT_WR)
    handle.start_read(lambda h, data, error: None)
    loop.run_checked()
    assert not handle.active and not handle.closed
    handle.write(b"still open")
    assert sock.recv(100) == b"still open"


def test_empty_reads_are_not_delivered(loop, pair):
    """A second reader of the same socket takes the bytes first: EAGAIN."""
    handle, sock = pair
    got = []
    other = socket.socket(fileno=socket.dup(handle.fileno()))
    prepare = uv.Check(loop)
    prepare.start(lambda h: None)
    handle.start_read(lambda h, data, error: got.append(data))
    with other:
        sock.sendall(b"x")
        assert other.recv(1) == b"x"
        loop.run(uv.UV_RUN_NOWAIT)
        loop.run(uv.UV_RUN_NOWAIT)
    assert got == []
    prepare.close()


def test_start_read_twice_swaps_the_callback(loop, pair):
    handle, sock = pair
    first, second = [], []
    handle.start_read(lambda h, data, error: first.append(data))
    handle.start_read(lambda h, data, error: (second.append(data),
                                              handle.stop_read()))
    sock.sendall(b"x")
    loop.run_checked()
    assert first == [] and second == [b"x"]


def test_stop_read_inside_the_callback(loop, pair):
    handle, sock = pair
    got = []

    def on_read(h, data, error):
        got.append(len(data))
        h.stop_read()
        h.stop_read()

    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    sock.setblocking(False)
    sent = sock.send(b"x" * 700_000)
    handle.start_read(on_read)
    loop.run_checked()
    assert len(got) == 1
    while sum(got) < sent:
        handle.start_read(on_read)
        loop.run_checked()
    assert sum(got) == sent


def test_close_inside_the_read_callback(loop, pair):
    handle, sock = pair
    got = []
    handle.start_read(lambda h, data, error: (got.append(data), h.close()))
    sock.sendall(b"x")
    loop.run_checked()
    assert got == [b"x"] and handle.loop is None


def test_reading_handle_without_a_name_stays_alive(loop, pair):
    a, b = socket.socketpair()
    with b:
        handle = uv.TCP(loop)
        handle.open(a.detach())
        got = []
        handle.start_read(lambda h, data, error: (got.append(data), h.close()))
        ref = weakref.ref(handle)
        del handle
        gc.collect()
        assert ref() is not None
        b.sendall(b"x")
        loop.run_checked()
        gc.collect()
        assert got == [b"x"] and ref() is None


def test_exception_in_the_read_callback_is_reported_and_reading_goes_on(loop,
                                                                        pair):
    handle, sock = pair
    got = []

    def on_read(h, data, error):
        got.append(data)
        if len(got) == 1:
            raise ValueError("from read")
        h.close()

    handle.start_read(on_read)
    sock.sendall(b"1")
    with pytest.raises(ValueError, match="from read"):
        loop.run_checked()
    sock.sendall(b"2")
    loop.run_checked()
    assert got == [b"1", b"2"]


@pytest.mark.parametrize("data, expected", [
    (b"bytes", b"bytes"), (bytearray(b"array"), b"array"),
    (memoryview(b"xviewx")[1:5], b"view"), ([b"a", b"", b"b"], b"ab"),
    ((b"a", bytearray(b"b"), memoryview(b"c")), b"abc"),
    ([b"%d," % i for i in range(2000)],
     b"".join(b"%d," % i for i in range(2000)))])
@pytest.mark.parametrize("with_callback", [False, True])
def test_write(loop, pair, data, expected, with_callback):
    handle, sock = pair
    seen = []
    if with_callback:
        handle.write(data, lambda h, error: seen.append((h, error)))
        assert seen == []
        loop.run_checked()
        assert seen == [(handle, None)]
    else:
        handle.write(data)
        loop.run_checked()
    handle.close()
    loop.run_checked()
    got = b""
    while chunk := sock.recv(65536):
        got += chunk
    assert got == expected


@pytest.mark.parametrize("data, kind", [
    ("text", TypeError), (1, TypeError), (None, TypeError), ([], ValueError),
    ([b"x", "y"], TypeError), ([b"x", 1], TypeError), ({1: 2}, TypeError),
    ((), ValueError)])
def test_bad_data(loop, pair, data, kind):
    handle, sock = pair
    for call in (handle.write, handle.try_write,
                 lambda data: handle.write(data, lambda h, e: None)):
        with pytest.raises(kind):
            call(data)
    handle.close()
    loop.run_checked()
    assert sock.recv(10) == b""


@pytest.mark.parametrize("pieces", [[b"a", b"bc"], (b"abc",), [b"ab", b"", b"c"]])
def test_writelines(loop, pair, pieces):
    handle, sock = pair
    seen = []
    handle.writelines(iter(pieces), lambda h, error: seen.append(error))
    handle.writelines(pieces)
    handle.writelines(pieces, None)
    loop.run(uv.UV_RUN_NOWAIT)
    assert sock.recv(100) == b"abc" * 3 and seen == [None]
    for bad, error in (([], ValueError), (5, TypeError), (b"abc", TypeError),
                       ("abc", TypeError), ([b"a", 5], TypeError)):
        with pytest.raises(error):
            handle.writelines(bad)
    for args in ((), (pieces, 5), (pieces, None, None)):
        with pytest.raises(TypeError):
            handle.writelines(*args)


def test_try_write_of_a_list(loop, pair):
    handle, sock = pair
    assert handle.try_write([b"ab", bytearray(b"c"), memoryview(b"xdx")[1:2]]) == 4
    assert sock.recv(100) == b"abcd"


def fill(handle):
    """Write until the kernel takes no more; how many bytes it took."""
    total = 0
    while True:
        try:
            total += handle.try_write(b"x" * 65536)
        except uv.error.StreamError as e:
            assert e.args[0] == uv.errno.UV_EAGAIN
            return total


def test_write_that_has_to_wait(loop, pair):
    handle, sock = pair
    size = fill(handle)
    order = []
    payload = [bytes([65 + i]) * 100_000 for i in range(5)]
    for i, piece in enumerate(payload):
        handle.write(piece, lambda h, error, i=i: order.append((i, error)))
    handle.write(b"end")
    assert handle.write_queue_size == 500_003
    with pytest.raises(uv.error.StreamError):
        handle.try_write(b"y")
    got = bytearray()
    sock.setblocking(False)

    def on_idle(idle):
        try:
            got.extend(sock.recv(1 << 20))
        except BlockingIOError:
            pass
        if len(got) == size + 500_003:
            idle.close()
            handle.close()

    uv.Idle(loop).start(on_idle)
    loop.run_checked()
    assert order == [(i, None) for i in range(5)]
    assert bytes(got[size:]) == b"".join(payload) + b"end"


def test_pending_writes_are_cancelled_by_close(loop, pair):
    handle, sock = pair
    fill(handle)
    order = []
    data = bytearray(b"x" * 1000)
    for i in range(3):
        handle.write(data, lambda h, error: order.append(error))
    with pytest.raises(BufferError):
        data.append(1)
    handle.close(lambda h: order.append("closed"))
    loop.run_checked()
    assert order == [uv.errno.UV_ECANCELED] * 3 + ["closed"]
    data.append(1)


def test_pending_write_of_a_dropped_loop_is_released():
    loop = uv.Loop()
    a, b = socket.socketpair()
    with b:
        handle = uv.TCP(loop)
        handle.open(a.detach())
        fill(handle)
        data = bytearray(b"x" * 1000)
        called = []
        handle.write(data, lambda h, e: called.append(e))
        ref = weakref.ref(loop)
        del handle, loop
        gc.collect()
        assert ref() is None
        data.append(1)
        assert called == []


def test_exception_in_the_write_callback(loop, pair):
    handle, sock = pair

    def fail(h, error):
        raise ValueError("from write")

    handle.write(b"x", fail)
    with pytest.raises(ValueError, match="from write"):
        loop.run_checked()
    handle.write(b"y")
    assert sock.recv(10) in (b"xy", b"x")


def test_write_to_a_closed_peer(loop, pair):
    handle, sock = pair
    sock.close()
    seen = []
    handle.write(b"1", lambda h, error: seen.append(error))
    handle.write(b"2", lambda h, error: seen.append(error))
    loop.run_checked()
    assert seen[-1] in (uv.errno.UV_EPIPE, uv.errno.UV_ECONNRESET)
    handle.write(b"without a callback")
    loop.run_checked()


def test_shutdown(loop, pair):
    handle, sock = pair
    order = []
    handle.write(b"last", lambda h, error: order.append("write"))
    handle.shutdown(lambda h, error: order.append((h, error)))
    with pytest.raises(uv.error.StreamError) as caught:
        handle.shutdown()
    assert caught.value.args[0] == uv.errno.UV_ENOTCONN
    loop.run_checked()
    assert order == ["write", (handle, None)]
    assert sock.recv(10) == b"last" and sock.recv(10) == b""
    with pytest.raises(uv.error.StreamError) as caught:
        handle.write(b"more")
    assert caught.value.args[0] == uv.errno.UV_EPIPE


def opened(loop, kind, path):
    sock = socket.socket(socket.AF_UNIX if kind is uv.Pipe else socket.AF_INET)
    sock.bind(str(path) if kind is uv.Pipe else ("127.0.0.1", 0))
    handle = kind(loop)
    handle.open(sock.detach())
    return handle


def failed_to_connect(loop, kind, path):
    handle = kind(loop)
    with pytest.raises(uv.error.StreamError):
        handle.connect(("255.255.255.255", 1), print)   # at once
    return handle


@pytest.mark.parametrize(
    ("make", "kind"),
    [(opened, uv.TCP), (opened, uv.Pipe), (failed_to_connect, uv.TCP)],
)
@pytest.mark.parametrize("how", ["write", "writelines", "try_write", "shutdown"])
def test_sending_on_a_listening_handle(loop, tmp_path, make, kind, how):
    """It can count as writable, and libuv takes what is told of it for connections:
    it aborted."""
    accepted = []
    handle = make(loop, kind, tmp_path / "socket")
    handle.listen(lambda h, error: accepted.append(error))
    with pytest.raises(uv.error.StreamError) as caught:
        getattr(handle, how)(*([] if how == "shutdown" else [[b"x"]]))
    assert caught.value.args[0] in (uv.errno.UV_EPIPE, uv.errno.UV_ENOTCONN)
    loop.run(uv.UV_RUN_NOWAIT)
    with socket.socket(socket.AF_UNIX if kind is uv.Pipe else socket.AF_INET) as sock:
        sock.connect(handle.getsockname())
        loop.run(uv.UV_RUN_ONCE)
    assert accepted == [None]
    handle.close()
    loop.run_checked()


def test_attributes(loop, pair):
    handle, sock = pair
    assert handle.readable is True and handle.writable is True
    assert handle.write_queue_size == 0
    handle.set_blocking(True)
    handle.set_blocking(False)
    assert handle.fileno() >= 0


def test_buffer_that_closes_the_handle(loop, pair):
    """Code that runs while the data is looked at must not outsmart us."""
    handle, sock = pair

    class Evil(list):
        def __iter__(self):
            handle.close()
            return iter([b"x"])

        def __len__(self):
            handle.close()
            return 1

    if sys.version_info >= (3, 12):
        class Exporter:
            def __buffer__(self, flags):
                if not handle.closed:
                    handle.close()
                return memoryview(b"x")

        data = [Exporter()]
    else:
        data = Evil([b"x"])
    for call in (handle.write, handle.try_write):
        try:
            call(data)
        except uv.error.HandleClosedError:
            assert handle.closed
    loop.run_checked()


def test_wrong_type_of_self():
    with pytest.raises(TypeError):
        uv.Stream.write(object(), b"x")
