"""uv.UDP against real sockets: datagrams, batches, connecting, multicast, misuse."""

import errno
import gc
import os
import socket
import threading
import weakref

import pytest

from network import needs_ipv6, needs_multicast
from uvtulip import uv

UV = uv.errno
FLAGS = [0, uv.UV_UDP_RECVMMSG]
LOCAL = ("127.0.0.1", 0)


@pytest.fixture
def sock():
    """A plain socket to talk to the handle."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(LOCAL)
        sock.settimeout(10)
        yield sock


def receiver(loop, callback, flags=0, address=LOCAL):
    handle = uv.UDP(loop, flags)
    handle.bind(address)
    handle.start_recv(callback)
    return handle


def collect(loop, count, flags=0, address=LOCAL):
    """A receiver that closes after `count` datagrams, and the list of them."""
    got = []

    def on_recv(handle, addr, flags, data, error):
        assert error is None
        got.append((addr, flags, data))
        if len(got) == count:
            handle.close()

    return receiver(loop, on_recv, flags, address), got


def nothing(*args):
    raise AssertionError(f"called with {args}")


def code_of(call, *args):
    with pytest.raises(uv.error.UDPError) as caught:
        call(*args)
    assert caught.value.args[0] < 0
    return caught.value.args[0]


# ---- receiving ----


@pytest.mark.parametrize("flags", FLAGS)
def test_receive(loop, sock, flags):
    handle, got = collect(loop, 2, flags)
    sock.sendto(b"one", handle.getsockname())
    sock.sendto(b"two", handle.getsockname())
    loop.run_checked()
    assert got == [(sock.getsockname(), 0, b"one"), (sock.getsockname(), 0, b"two")]


@pytest.mark.parametrize("flags", FLAGS)
def test_empty_datagram(loop, sock, flags):
    handle, got = collect(loop, 2, flags)
    sock.sendto(b"", handle.getsockname())
    sock.sendto(b"x", handle.getsockname())
    loop.run_checked()
    assert [data for _, _, data in got] == [b"", b"x"]


@pytest.mark.parametrize("flags", FLAGS)
@pytest.mark.parametrize("count", [1, 19, 20, 21, 100])
def test_burst_in_order(loop, sock, flags, count):
    handle, got = collect(loop, count, flags)
    for i in range(count):
        sock.sendto(b"%d" % i, handle.getsockname())
    loop.run_checked()
    assert [data for _, _, data in got] == [b"%d" % i for i in range(count)]
    assert {flags for _, flags, _ in got} == {0}


@pytest.mark.parametrize("flags", FLAGS)
def test_largest_datagram(loop, sock, flags):
    data = os.urandom(65507)
    handle, got = collect(loop, 2, flags)
    sock.sendto(data, handle.getsockname())
    sock.sendto(data[::-1], handle.getsockname())
    loop.run_checked()
    assert [data for _, _, data in got] == [data, data[::-1]]


@pytest.mark.parametrize("flags", FLAGS)
def test_many_senders(loop, flags):
    """More of them than the handle remembers, each several times."""
    senders = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(80)]
    handle, got = collect(loop, 160, flags)
    try:
        for _ in range(2):
            for sender in senders:
                sender.sendto(b"x", handle.getsockname())
        loop.run_checked()
        port = [sender.getsockname()[1] for sender in senders]
        assert [addr for addr, _, _ in got] == [("127.0.0.1", p) for p in port] * 2
    finally:
        for sender in senders:
            sender.close()


def test_address_of_one_sender_is_one_object(loop, sock):
    handle, got = collect(loop, 2)
    sock.sendto(b"1", handle.getsockname())
    sock.sendto(b"2", handle.getsockname())
    loop.run_checked()
    assert got[0][0] is got[1][0]


@needs_ipv6
@pytest.mark.parametrize("flags", FLAGS)
def test_ipv6(loop, flags):
    handle, got = collect(loop, 1, socket.AF_INET6 | flags, ("::1", 0))
    name = handle.getsockname()
    assert name[0] == "::1" and len(name) == 4
    assert handle.family == socket.AF_INET6
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.bind(("::1", 0))
        sock.sendto(b"six", name)
        loop.run_checked()
        assert got == [(sock.getsockname(), 0, b"six")]


def test_start_recv_binds(loop, sock):
    for family in (socket.AF_UNSPEC, socket.AF_INET):
        handle = uv.UDP(loop, family)
        got = []
        handle.start_recv(lambda h, *rest, got=got: (got.append(rest), h.close()))
        host, port = handle.getsockname()
        assert host == "0.0.0.0" and port > 0
        sock.sendto(b"x", ("127.0.0.1", port))
        loop.run_checked()
        assert got == [(sock.getsockname(), 0, b"x", None)]


def test_start_recv_again_changes_the_callback(loop, sock):
    handle = receiver(loop, nothing)
    got = []
    handle.start_recv(lambda h, addr, flags, data, error: (got.append(data), h.close()))
    sock.sendto(b"x", handle.getsockname())
    loop.run_checked()
    assert got == [b"x"]


@pytest.mark.parametrize("flags", FLAGS)
def test_stop_recv_in_a_burst(loop, sock, flags):
    """What comes after stop_recv() waits for the next start_recv()."""
    got = []

    def on_recv(handle, addr, flags, data, error):
        got.append(data)
        handle.stop_recv()
        handle.stop_recv()

    handle = receiver(loop, on_recv, flags)
    for _ in range(5):
        sock.sendto(b"x", handle.getsockname())
    loop.run_checked()
    assert got == [b"x"] and not handle.active
    if not flags:       # a batch is lost
        handle.start_recv(on_recv)
        loop.run_checked()
        assert got == [b"x", b"x"]
    handle.close()


@pytest.mark.parametrize("flags", FLAGS)
def test_restart_in_callback(loop, sock, flags):
    got = []

    def on_recv(handle, addr, flags, data, error):
        got.append(data)
        handle.stop_recv()
        handle.start_recv(on_recv)
        if len(got) == 30:
            handle.close()

    handle = receiver(loop, on_recv, flags)
    for i in range(30):
        sock.sendto(b"%d" % i, handle.getsockname())
    loop.run_checked()
    assert got == [b"%d" % i for i in range(30)]


@pytest.mark.parametrize("flags", FLAGS)
def test_close_in_a_burst(loop, sock, flags):
    got = []

    def on_recv(handle, addr, flags, data, error):
        got.append(data)
        handle.close(got.append)

    handle = receiver(loop, on_recv, flags)
    for _ in range(5):
        sock.sendto(b"x", handle.getsockname())
    loop.run_checked()
    assert got == [b"x", handle]


@pytest.mark.parametrize("flags", FLAGS)
def test_callback_raises(loop, sock, flags):
    got = []

    def on_recv(handle, addr, flags, data, error):
        got.append(data)
        if data == b"0":
            raise ZeroDivisionError("in the callback")
        if data == b"4":
            handle.close()

    handle = receiver(loop, on_recv, flags)
    for i in range(5):
        sock.sendto(b"%d" % i, handle.getsockname())
    with pytest.raises(ZeroDivisionError, match="in the callback"):
        loop.run_checked()
    loop.run_checked()
    assert got == [b"0", b"1", b"2", b"3", b"4"]


@pytest.mark.parametrize("flags", FLAGS)
def test_collected_while_active(loop, sock, flags):
    """A handle that nobody names goes on receiving; closed, it goes away."""
    got = []
    handle = receiver(loop, lambda h, addr, flags, data, error:
                      (got.append(data), h.close()), flags)
    address = handle.getsockname()
    ref = weakref.ref(handle)
    del handle
    gc.collect()
    assert ref() is not None
    sock.sendto(b"x", address)
    loop.run_checked()
    assert got == [b"x"]
    gc.collect()
    assert ref() is None


@pytest.mark.parametrize("flags", FLAGS)
def test_dropped_in_its_callback(loop, sock, flags):
    """The last reference goes while libuv is still in the batch."""
    handles = []
    handle = receiver(loop, lambda h, *rest: (h.stop_recv(), handles.clear()), flags)
    handles.append(handle)
    ref = weakref.ref(handle)
    for _ in range(5):
        sock.sendto(b"x", handle.getsockname())
    del handle
    loop.run_checked()
    assert ref() is None


def test_collected_in_a_cycle(loop):
    handle = uv.UDP(loop)
    handle.bind(LOCAL)
    handle.me = handle
    ref = weakref.ref(handle)
    del handle
    gc.collect()
    assert ref() is None


def test_receive_error_of_a_connected_socket(loop):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gone:
        gone.bind(LOCAL)
        address = gone.getsockname()
    got = []
    handle = uv.UDP(loop)
    handle.connect(address)
    handle.start_recv(lambda h, *rest: (got.append(rest), h.close()))
    handle.send(None, b"anybody there?")
    loop.run_checked()
    assert got == [(None, 0, None, UV.UV_ECONNREFUSED)]


# ---- sending ----


@pytest.mark.parametrize("data", [
    b"hello", bytearray(b"hello"), memoryview(b"-hello-")[1:6], [b"hello"],
    (b"he", bytearray(b"ll"), memoryview(b"o")), [b"h", b"e", b"l", b"l", b"o", b""],
])
def test_send(loop, sock, data):
    handle = uv.UDP(loop)
    done = []
    handle.send(sock.getsockname(), data, lambda *args: done.append(args))
    assert done == []
    assert handle.send_queue_count == 1 and handle.send_queue_size == 5
    loop.run_checked()
    assert done == [(handle, None)]
    assert handle.send_queue_count == handle.send_queue_size == 0
    assert sock.recv(100) == b"hello"
    assert not handle.active
    handle.close()


def test_send_without_callback(loop, sock):
    handle = uv.UDP(loop)
    handle.send(sock.getsockname(), b"a")
    handle.send(sock.getsockname(), b"b", None)
    loop.run_checked()
    assert sock.recv(100) + sock.recv(100) == b"ab"
    handle.close()


def test_send_empty(loop, sock):
    handle = uv.UDP(loop)
    handle.send(sock.getsockname(), b"")
    assert handle.send_queue_count == 1
    loop.run_checked()
    assert sock.recv(100) == b""
    assert handle.try_send(sock.getsockname(), b"") == 0
    assert sock.recv(100) == b""
    handle.close()


@needs_ipv6
def test_send_ipv6_and_back(loop):
    """The address of a datagram is where an answer goes, as it is or made anew."""
    server = receiver(loop, lambda h, addr, flags, data, error: (
        h.send(addr, data + b"1"), h.send((*addr,), data + b"2")),
        address=("::1", 0))
    got = []
    client = uv.UDP(loop)

    def on_answer(handle, addr, flags, data, error):
        assert addr == server.getsockname()
        got.append(data)
        if len(got) == 2:
            handle.close()
            server.close()

    client.send(server.getsockname(), b"x")
    client.start_recv(on_answer)
    assert client.family == socket.AF_INET6
    loop.run_checked()
    assert sorted(got) == [b"x1", b"x2"]


def test_data_is_kept_and_pinned(loop, sock):
    handle = uv.UDP(loop)
    data = bytearray(b"pinned")
    handle.send(sock.getsockname(), data)
    with pytest.raises(BufferError):
        data.append(1)
    loop.run_checked()
    data.append(1)
    assert sock.recv(100) == b"pinned"
    handle.close()


def test_too_large_is_reported_to_the_callback(loop, sock):
    handle = uv.UDP(loop)
    done = []
    handle.send(sock.getsockname(), b"x" * 70000, lambda h, error: done.append(error))
    loop.run_checked()
    assert done == [UV.UV_EMSGSIZE]
    assert code_of(handle.try_send, sock.getsockname(), b"x" * 70000) \
        == UV.UV_EMSGSIZE
    handle.close()


def test_too_many_pieces(loop, sock):
    handle = uv.UDP(loop)
    done = []
    handle.send(sock.getsockname(), [b""] * 5000, lambda h, error: done.append(error))
    loop.run_checked()
    assert done == [UV.UV_EMSGSIZE]
    pieces = [b""] * (1024 * 1024 + 1)
    assert code_of(handle.send, sock.getsockname(), pieces) == UV.UV_EINVAL
    assert code_of(handle.try_send, sock.getsockname(), pieces) == UV.UV_EINVAL
    handle.close()


def test_try_send(loop, sock):
    handle = uv.UDP(loop)
    assert handle.try_send(sock.getsockname(), b"now") == 3
    assert handle.try_send(sock.getsockname(), [b"a", b"b"]) == 2
    assert sock.recv(100) == b"now"
    assert sock.recv(100) == b"ab"
    handle.send(sock.getsockname(), b"queued")
    assert code_of(handle.try_send, sock.getsockname(), b"x") == UV.UV_EAGAIN
    loop.run_checked()
    handle.close()


def test_send_in_send_callback(loop, sock):
    handle = uv.UDP(loop)
    left = list(range(50))

    def on_send(handle, error):
        assert error is None
        if left:
            handle.send(sock.getsockname(), b"%d" % left.pop(), on_send)
        else:
            handle.close()

    on_send(handle, None)
    loop.run_checked()
    assert [sock.recv(9) for _ in range(50)] == [b"%d" % i for i in range(49, -1, -1)]


def test_pending_sends_are_cancelled_before_the_close_callback(loop, sock):
    handle = uv.UDP(loop)
    events = []
    for i in range(3):
        handle.send(sock.getsockname(), b"%d" % i,
                    lambda h, error, i=i: events.append((i, error)))
    handle.close(lambda h: events.append("closed"))
    assert events == []
    loop.run_checked()
    # The first was sent at once, the others waited for it.
    assert events == [(0, None), (1, UV.UV_ECANCELED), (2, UV.UV_ECANCELED), "closed"]


def test_close_in_a_receive_callback_with_sends_queued(loop, sock):
    """Readable and writable at once, and the first event closes the handle."""
    events = []

    def on_recv(handle, addr, flags, data, error):
        handle.close(lambda h: events.append("closed"))

    handle = receiver(loop, on_recv)
    sock.sendto(b"x", handle.getsockname())
    idle = uv.Idle(loop)

    def on_idle(idle):
        for i in range(3):
            handle.send(sock.getsockname(), b"%d" % i,
                        lambda h, error, i=i: events.append((i, error)))
        idle.close()

    idle.start(on_idle)
    loop.run_checked()
    assert events == [(0, None), (1, UV.UV_ECANCELED), (2, UV.UV_ECANCELED), "closed"]
    # libuv must have forgotten it.
    for _ in range(3):
        other, got = collect(loop, 1)
        sock.sendto(b"y", other.getsockname())
        loop.run_checked()
        assert len(got) == 1


def test_send_callback_raises_and_closes(loop, sock):
    handle = uv.UDP(loop)

    def on_send(handle, error):
        handle.close()
        raise ZeroDivisionError

    handle.send(sock.getsockname(), b"x", on_send)
    with pytest.raises(ZeroDivisionError):
        loop.run_checked()
    loop.run_checked()
    assert handle.closed


def test_handle_lives_while_it_sends(loop, sock):
    handle = uv.UDP(loop)
    ref = weakref.ref(handle)
    done = []
    handle.send(sock.getsockname(), b"x", lambda h, error: done.append(error))
    del handle
    gc.collect()
    assert ref() is not None
    loop.run_checked()
    gc.collect()
    assert done == [None] and ref() is None


def test_loop_dropped_with_a_send_pending(sock):
    """The cycle loop, handle, callback, loop is seen by the collector."""
    before = len(os.listdir("/proc/self/fd"))
    loop = uv.Loop()
    refs = [weakref.ref(loop)]
    handle = uv.UDP(loop)
    refs.append(weakref.ref(handle))
    handle.start_recv(nothing)
    data = bytearray(b"x")
    for _ in range(3):
        handle.send(sock.getsockname(), data, lambda *args, keep=(loop, handle): None)
    del loop, handle
    gc.collect()
    assert [ref() for ref in refs] == [None, None]
    data.append(1)      # nobody holds it any more
    assert len(os.listdir("/proc/self/fd")) == before


def test_buffer_whose_export_closes_the_handle(loop, sock):
    handle = uv.UDP(loop)

    class Pieces:
        def __len__(self):
            return 1

        def __getitem__(self, i):
            if not handle.closed:
                handle.close()
            if i:
                raise IndexError
            return b"x"

    with pytest.raises((uv.error.HandleClosedError, TypeError)):
        handle.send(sock.getsockname(), Pieces())


# ---- connecting ----


def test_connected(loop, sock):
    handle = uv.UDP(loop)
    assert code_of(handle.getpeername) == UV.UV_EBADF
    handle.connect(sock.getsockname())
    assert handle.getpeername() == sock.getsockname()
    assert handle.try_send(None, b"try") == 3
    handle.send(None, b"sent")
    loop.run_checked()
    assert sock.recv(100) == b"try"
    assert sock.recv(100) == b"sent"
    assert code_of(handle.send, sock.getsockname(), b"x") == UV.UV_EISCONN
    assert code_of(handle.try_send, sock.getsockname(), b"x") == UV.UV_EISCONN
    assert code_of(handle.connect, sock.getsockname()) == UV.UV_EISCONN
    handle.connect(None)
    assert code_of(handle.getpeername) == UV.UV_ENOTCONN
    assert code_of(handle.connect, None) == UV.UV_ENOTCONN
    assert code_of(handle.send, None, b"x") == UV.UV_EDESTADDRREQ
    assert code_of(handle.try_send, None, b"x") == UV.UV_EDESTADDRREQ
    assert handle.try_send(sock.getsockname(), b"again") == 5
    handle.close()


def test_connected_receives_from_its_peer_only(loop, sock):
    handle, got = collect(loop, 1)
    handle.connect(sock.getsockname())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.sendto(b"stranger", handle.getsockname())
    sock.sendto(b"friend", handle.getsockname())
    loop.run_checked()
    assert got == [(sock.getsockname(), 0, b"friend")]


def test_nothing_connected(loop):
    handle = uv.UDP(loop)
    assert code_of(handle.connect, None) == UV.UV_ENOTCONN
    assert code_of(handle.send, None, b"x") == UV.UV_EDESTADDRREQ
    assert code_of(handle.try_send, None, b"x") == UV.UV_EDESTADDRREQ
    handle.close()


def test_unix_datagrams(loop):
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with b:
        b.settimeout(10)
        handle = uv.UDP(loop)
        handle.open(a.detach())
        got = []
        handle.start_recv(lambda h, *rest: (got.append(rest), h.close()))
        handle.try_send(None, b"to b")
        assert b.recv(100) == b"to b"
        b.send(b"to a")
        loop.run_checked()
        assert got == [(None, 0, b"to a", None)]


def test_unix_datagram_with_a_name(loop, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as a, \
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as b:
        a.bind(str(tmp_path / "a"))
        b.bind(str(tmp_path / "b"))
        handle = uv.UDP(loop)
        handle.open(a.detach())
        assert handle.getsockname() == str(tmp_path / "a")
        got = []
        handle.start_recv(lambda h, *rest: (got.append(rest), h.close()))
        b.sendto(b"x", str(tmp_path / "a"))
        loop.run_checked()
        assert got == [(str(tmp_path / "b"), 0, b"x", None)]


# ---- bind, open, options ----


def test_bind(loop):
    handle = uv.UDP(loop)
    handle.bind(LOCAL)
    address = handle.getsockname()
    assert address[0] == "127.0.0.1" and address[1] > 0
    assert handle.fileno() >= 0
    assert handle.family == socket.AF_INET
    assert code_of(handle.bind, LOCAL) == UV.UV_EINVAL
    other = uv.UDP(loop)
    assert code_of(other.bind, address) == UV.UV_EADDRINUSE
    other.bind(LOCAL)       # still usable
    assert code_of(uv.UDP(loop).bind, ("192.0.2.1", 1)) == UV.UV_EADDRNOTAVAIL
    assert code_of(uv.UDP(loop).bind, LOCAL, 0x4000) == UV.UV_EINVAL
    assert code_of(uv.UDP(loop).bind, LOCAL, uv.UV_UDP_IPV6ONLY) == UV.UV_EINVAL
    six = uv.UDP(loop)
    six.bind(("::", 0), uv.UV_UDP_IPV6ONLY)
    assert six.getsockname()[:1] == ("::",)


def test_reuseaddr(loop):
    first = uv.UDP(loop)
    first.bind(LOCAL, uv.UV_UDP_REUSEADDR)
    second = uv.UDP(loop)
    second.bind(first.getsockname(), uv.UV_UDP_REUSEADDR)
    assert second.getsockname() == first.getsockname()


def test_error_is_an_oserror_like_exception(loop):
    with pytest.raises(uv.error.UDPError) as caught:
        uv.UDP(loop).getsockname()
    assert caught.value.args[0] == UV.UV_EBADF
    assert caught.value.errno == errno.EBADF
    assert "uv_udp_getsockname" in str(caught.value) \
        or caught.value.call == "uv_udp_getsockname"


def test_family_and_flags(loop):
    assert uv.UDP(loop, socket.AF_INET).family == socket.AF_INET
    assert uv.UDP(loop, family=socket.AF_INET6).family == socket.AF_INET6
    assert uv.UDP(loop, socket.AF_INET | uv.UV_UDP_RECVMMSG).family == socket.AF_INET
    assert code_of(lambda: uv.UDP(loop).family) == UV.UV_EBADF
    for bad in (200, socket.AF_UNIX, uv.UV_UDP_RECVMMSG << 1):
        assert code_of(uv.UDP, loop, bad) == UV.UV_EINVAL
    with pytest.raises(TypeError):
        uv.UDP(loop, "inet")
    with pytest.raises(ValueError):
        uv.UDP(loop, -1)
    with pytest.raises(TypeError):
        uv.UDP()
    with pytest.raises(TypeError):
        uv.UDP(loop, flavour=1)
    with pytest.raises(TypeError):
        uv.UDP("no loop")


@pytest.mark.parametrize("flags", FLAGS)
def test_open(loop, sock, flags):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mine:
        mine.bind(LOCAL)
        handle = uv.UDP(loop, flags)
        handle.open(mine)
        address = mine.getsockname()
        assert handle.fileno() == mine.detach()
    assert handle.getsockname() == address
    got = []
    handle.start_recv(lambda h, *rest: (got.append(rest), h.close()))
    sock.sendto(b"x", address)
    loop.run_checked()
    assert got == [(sock.getsockname(), 0, b"x", None)]


def test_open_connected(loop, sock):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mine:
        mine.connect(sock.getsockname())
        handle = uv.UDP(loop)
        handle.open(mine.detach())
    assert code_of(handle.connect, sock.getsockname()) == UV.UV_EISCONN
    assert handle.try_send(None, b"x") == 1
    assert sock.recv(100) == b"x"


def closed_fd():
    read, write = os.pipe()
    os.close(read)
    os.close(write)
    return read


def test_open_refuses(loop, sock, tmp_path):
    handle = uv.UDP(loop)
    assert code_of(handle.open, closed_fd()) == UV.UV_EBADF
    with open(tmp_path / "file", "w") as file:
        assert code_of(handle.open, file) == UV.UV_ENOTSOCK
        assert not file.closed
        file.write("still mine")
    with socket.socket() as stream:
        assert code_of(handle.open, stream) == UV.UV_EPROTOTYPE
    for bad in ("3", None, 1.5, object()):
        with pytest.raises(TypeError):
            handle.open(bad)
    with pytest.raises(ValueError):
        handle.open(-1)
    handle.open(os.dup(sock.fileno()))
    assert code_of(handle.open, sock.fileno()) == UV.UV_EBUSY
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as unix:
        batch = uv.UDP(loop, uv.UV_UDP_RECVMMSG)
        assert code_of(batch.open, unix) == UV.UV_EAFNOSUPPORT


def test_open_in_use_twice(loop, sock):
    first = uv.UDP(loop)
    first.open(os.dup(sock.fileno()))
    for start in (False, True):
        if start:
            first.start_recv(nothing)
        second = uv.UDP(loop)
        assert code_of(second.open, first.fileno()) == UV.UV_EEXIST
    poll = uv.Poll(loop, sock.fileno())
    poll.start(uv.UV_READABLE, nothing)
    assert code_of(uv.UDP(loop).open, sock.fileno()) == UV.UV_EEXIST
    poll.close()


@pytest.mark.parametrize(
    "family",
    [socket.AF_INET, pytest.param(socket.AF_INET6, marks=needs_ipv6)])
@pytest.mark.parametrize("bound", [False, True])
def test_options(loop, family, bound):
    handle = uv.UDP(loop, family)
    if bound:
        handle.bind(LOCAL if family == socket.AF_INET else ("::1", 0))
    handle.set_ttl(17)
    handle.set_multicast_ttl(18)
    handle.set_multicast_loop(False)
    handle.set_broadcast(True)
    handle.set_multicast_interface(None)
    handle.set_multicast_interface()
    with socket.socket(fileno=os.dup(handle.fileno())) as sock:
        if family == socket.AF_INET:
            level = socket.IPPROTO_IP
            options = socket.IP_TTL, socket.IP_MULTICAST_TTL, socket.IP_MULTICAST_LOOP
        else:
            level = socket.IPPROTO_IPV6
            options = (socket.IPV6_UNICAST_HOPS, socket.IPV6_MULTICAST_HOPS,
                       socket.IPV6_MULTICAST_LOOP)
        assert [sock.getsockopt(level, option) for option in options] == [17, 18, 0]
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST) == 1
    for setter in (handle.set_ttl, handle.set_multicast_ttl):
        for bad in (-1, 256, 10 ** 30):
            with pytest.raises(ValueError):
                setter(bad)
        with pytest.raises(TypeError):
            setter("1")
    assert code_of(handle.set_ttl, 0) == UV.UV_EINVAL
    handle.set_multicast_ttl(0)


def test_options_before_a_socket(loop):
    handle = uv.UDP(loop)
    calls = [(handle.set_ttl, 1), (handle.set_multicast_ttl, 1),
             (handle.set_multicast_loop, True), (handle.set_broadcast, True),
             (handle.set_multicast_interface, None), (handle.fileno,),
             (handle.getsockname,), (handle.getpeername,)]
    for call, *args in calls:
        assert code_of(call, *args) == UV.UV_EBADF
    for name in ("send_buffer_size", "receive_buffer_size", "family"):
        assert code_of(getattr, handle, name) == UV.UV_EBADF
    handle.stop_recv()
    assert handle.send_queue_size == handle.send_queue_count == 0


def test_buffer_sizes(loop):
    handle = uv.UDP(loop, socket.AF_INET)
    for name in ("send_buffer_size", "receive_buffer_size"):
        setattr(handle, name, 20000)
        assert getattr(handle, name) in (20000, 40000)
        with pytest.raises(TypeError):
            setattr(handle, name, "1")
        with pytest.raises(TypeError):
            delattr(handle, name)


# ---- multicast ----

GROUP = "239.255.0.77"


def multicast_pair(loop, join):
    """A joined receiver of one datagram, and a sender by the loopback device."""
    receiver_, got = collect(loop, 1, address=("0.0.0.0", 0))
    join(receiver_)
    sender = uv.UDP(loop)
    sender.bind(LOCAL)
    sender.set_multicast_interface("127.0.0.1")
    sender.set_multicast_loop(True)
    sender.send((GROUP, receiver_.getsockname()[1]), b"to all")
    return receiver_, sender, got


@needs_multicast
def test_multicast(loop):
    receiver_, sender, got = multicast_pair(
        loop, lambda h: h.set_membership(GROUP, uv.UV_JOIN_GROUP, "127.0.0.1"))
    loop.run_checked()
    assert got == [(sender.getsockname(), 0, b"to all")]
    sender.close()


@needs_multicast
def test_source_membership(loop):
    receiver_, sender, got = multicast_pair(
        loop, lambda h: h.set_source_membership(GROUP, "127.0.0.1", "127.0.0.1",
                                                uv.UV_JOIN_GROUP))
    loop.run_checked()
    assert [data for _, _, data in got] == [b"to all"]
    sender.close()


@needs_multicast
def test_membership_makes_a_socket(loop):
    handle = uv.UDP(loop)
    handle.set_membership(GROUP, uv.UV_JOIN_GROUP, "127.0.0.1")
    assert handle.family == socket.AF_INET
    handle.set_membership(GROUP, uv.UV_LEAVE_GROUP, "127.0.0.1")
    assert code_of(handle.set_membership, GROUP, uv.UV_LEAVE_GROUP, "127.0.0.1") \
        == UV.UV_EADDRNOTAVAIL


def test_membership_refuses(loop):
    handle = uv.UDP(loop, socket.AF_INET)
    join = uv.UV_JOIN_GROUP
    for group in ("", "nonsense", "1.2.3", "x" * 500, "::zz", "a:b%" + "c" * 200):
        assert code_of(handle.set_membership, group, join) == UV.UV_EINVAL
        assert code_of(handle.set_source_membership, group, None, "127.0.0.1", join) \
            == UV.UV_EINVAL
    assert code_of(handle.set_membership, GROUP, join, "nonsense") == UV.UV_EINVAL
    assert code_of(handle.set_source_membership, GROUP, None, "nonsense", join) \
        == UV.UV_EINVAL
    assert code_of(handle.set_multicast_interface, "nonsense") == UV.UV_EINVAL
    for args in ((GROUP,), (1, join), (GROUP, "join"), (GROUP, join, 1),
                 (GROUP, join, None, None)):
        with pytest.raises(TypeError):
            handle.set_membership(*args)
    for args in ((GROUP, 2), (GROUP, -1), ("a\0b", join), (GROUP, join, "1\0")):
        with pytest.raises(ValueError):
            handle.set_membership(*args)
    with pytest.raises(TypeError):
        handle.set_source_membership(GROUP, None, None, join)
    with pytest.raises(TypeError):
        handle.set_multicast_interface(7)
    six = uv.UDP(loop, socket.AF_INET6)
    with pytest.raises(uv.error.UDPError):
        six.set_membership("ff02::1:99%nodevice", join, "nonsense")


# ---- bad input ----

BAD_ADDRESSES = [
    (("127.0.0.1",), TypeError), ("127.0.0.1:1", TypeError),
    (["127.0.0.1", 1], TypeError), (5, TypeError), ((5, 5), TypeError),
    (("127.0.0.1", "1"), TypeError),
    (("localhost", 1), ValueError), (("127.0.0.1\0", 1), ValueError),
    (("127.0.0.1", 65536), OverflowError), (("127.0.0.1", -1), OverflowError),
]


@pytest.mark.parametrize("address, error", BAD_ADDRESSES)
def test_bad_address(loop, address, error):
    handle = uv.UDP(loop)
    for call in (handle.bind, handle.connect, lambda a: handle.send(a, b"x"),
                 lambda a: handle.try_send(a, b"x")):
        with pytest.raises(error):
            call(address)
    assert code_of(handle.fileno) == UV.UV_EBADF        # nothing was begun
    with pytest.raises(TypeError):
        handle.bind(None)


def test_bad_arguments(loop, sock):
    handle = uv.UDP(loop)
    address = sock.getsockname()
    for bad in ("str", 5, None, ["str"], [b"x", 5], object()):
        for call in (handle.send, handle.try_send):
            with pytest.raises(TypeError):
                call(address, bad)
    for call in (handle.send, handle.try_send):
        with pytest.raises(ValueError):
            call(address, [])
        with pytest.raises(TypeError):
            call(address)
        with pytest.raises(TypeError):
            call(address, b"x", None, None)
    with pytest.raises(TypeError):
        handle.send(address, b"x", 5)
    for bad in (None, 5, "x"):
        with pytest.raises(TypeError):
            handle.start_recv(bad)
    with pytest.raises(TypeError):
        handle.bind(LOCAL, "flags")
    with pytest.raises(ValueError):
        handle.bind(LOCAL, -1)
    assert not handle.active


METHODS = [
    ("bind", LOCAL), ("open", 0), ("connect", LOCAL), ("getsockname",),
    ("getpeername",), ("start_recv", print), ("stop_recv",), ("send", LOCAL, b"x"),
    ("try_send", LOCAL, b"x"), ("set_membership", GROUP, 1),
    ("set_source_membership", GROUP, None, "127.0.0.1", 1),
    ("set_multicast_interface",), ("set_multicast_ttl", 1), ("set_multicast_loop", 1),
    ("set_broadcast", 1), ("set_ttl", 1), ("fileno",), ("close",),
    ("try_send2", [(("127.0.0.1", 1), b"x")]),
]
PROPERTIES = ["family", "send_buffer_size", "receive_buffer_size", "send_queue_size",
              "send_queue_count"]


def each_use(handle):
    for name, *args in METHODS:
        yield name, lambda name=name, args=args: getattr(handle, name)(*args)
    for name in PROPERTIES:
        yield name, lambda name=name: getattr(handle, name)


def test_every_method_is_tried_below(loop):
    names = {name for name in vars(uv.UDP) if not name.startswith("_")}
    assert names == {name for name, _ in each_use(None)} - {"close"}


def test_closed(loop):
    handle = uv.UDP(loop, socket.AF_INET)
    handle.close()
    for name, use in each_use(handle):
        with pytest.raises(uv.error.HandleClosedError):
            use()
    loop.run_checked()
    for name, use in each_use(handle):
        with pytest.raises(uv.error.HandleClosedError):
            use()


def test_uninitialised(loop):
    class Forgetful(uv.UDP):
        def __init__(self):
            pass

    for handle in (uv.UDP.__new__(uv.UDP), Forgetful()):
        for name, use in each_use(handle):
            with pytest.raises(RuntimeError):
                use()


def test_second_init(loop):
    handle = uv.UDP(loop, socket.AF_INET)
    fd = handle.fileno()
    with pytest.raises(RuntimeError):
        handle.__init__(loop)
    assert handle.fileno() == fd


def test_init_after_a_failed_one(loop):
    handle = uv.UDP.__new__(uv.UDP)
    assert code_of(handle.__init__, loop, 99) == UV.UV_EINVAL
    handle.__init__(loop)
    handle.bind(LOCAL)


def test_closed_loop():
    loop = uv.Loop()
    loop.close()
    with pytest.raises(RuntimeError):
        uv.UDP(loop)


def test_wrong_thread(loop):
    handle = uv.UDP(loop, socket.AF_INET)
    wrong = []

    def in_thread():
        for name, use in each_use(handle):
            try:
                use()
            except RuntimeError:
                continue
            wrong.append(name)

    def on_timer(timer):
        thread = threading.Thread(target=in_thread)
        thread.start()
        thread.join(30)
        assert not thread.is_alive()
        timer.close()

    uv.Timer(loop).start(on_timer, 0, 0)
    loop.run_checked()
    assert wrong == []
    assert not handle.closed


def test_subclass(loop, sock):
    class Mine(uv.UDP):
        def __init__(self, loop):
            super().__init__(loop)
            self.note = "kept"

    handle = Mine(loop)
    done = []
    handle.send(sock.getsockname(), b"x", lambda h, error: done.append(h.note))
    loop.run_checked()
    assert done == ["kept"]


def test_socket_with_the_number_of_one_that_is_still_watched(loop, sock):
    """The Poll whose descriptor was closed is told, the new handle works."""
    first = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    fd = first.fileno()
    told = []
    poll = uv.Poll(loop, fd)
    poll.start(uv.UV_READABLE, lambda h, events, error: told.append(error))
    loop.run(uv.UV_RUN_NOWAIT)
    first.close()
    handle, got = collect(loop, 1)
    assert handle.fileno() == fd
    sock.sendto(b"x", handle.getsockname())
    loop.run_checked()
    assert told == [UV.UV_EBADF] and [data for _, _, data in got] == [b"x"]


def test_no_growth(loop, sock):
    """Descriptors and handles go away again."""
    def round_trip(flags):
        handle, got = collect(loop, 1, flags)
        uv.UDP(loop).send(handle.getsockname(), b"x")
        loop.run_checked()
        assert got[0][2] == b"x"

    round_trip(0)
    gc.collect()
    loop.run(uv.UV_RUN_NOWAIT)
    before = len(os.listdir("/proc/self/fd"))
    for flags in FLAGS * 50:
        round_trip(flags)
    gc.collect()
    loop.run(uv.UV_RUN_NOWAIT)
    assert len(os.listdir("/proc/self/fd")) == before
    assert loop.handles == []


def test_try_send2(loop, sock):
    handle = uv.UDP(loop)
    assert handle.try_send2([]) == 0
    assert handle.try_send2([(sock.getsockname(), b"a"),
                             (sock.getsockname(), [b"b", b"c"])]) == 2
    assert [sock.recv(9), sock.recv(9)] == [b"a", b"bc"]
    for bad in (5, [5], [(sock.getsockname(),)], [(sock.getsockname(), 5)]):
        with pytest.raises(TypeError):
            handle.try_send2(bad)
    handle.close()
    with pytest.raises(uv.error.HandleClosedError):
        handle.try_send2([(sock.getsockname(), b"a")])


def test_try_send2_many(loop, sock):
    """More than go by one system call."""
    handle = uv.UDP(loop)
    name = sock.getsockname()
    assert handle.try_send2([(name, b"%d" % i) for i in range(150)]) == 150
    assert [sock.recv(9) for _ in range(150)] == [b"%d" % i for i in range(150)]


def test_try_send2_connected(loop, sock):
    handle = uv.UDP(loop)
    with pytest.raises(uv.error.UDPError) as caught:
        handle.try_send2([(None, b"x")])
    assert caught.value.args[0] in (UV.UV_EDESTADDRREQ, UV.UV_EBADF)
    handle.connect(sock.getsockname())
    assert handle.try_send2([(None, b"a"), (None, b"b")]) == 2
    assert [sock.recv(9), sock.recv(9)] == [b"a", b"b"]
    with pytest.raises(uv.error.UDPError) as caught:
        handle.try_send2([(sock.getsockname(), b"x")])
    assert caught.value.args[0] == UV.UV_EISCONN


@pytest.mark.parametrize("data", [bytes, bytearray], ids=["bytes", "bytearray"])
def test_answers_to_more_senders_than_are_remembered(loop, data):
    """Each gets its own answer, also to an address tuple of long ago."""
    socks = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(100)]
    try:
        handle, got = collect(loop, 2 * len(socks), uv.UV_UDP_RECVMMSG)
        answerer = uv.UDP(loop)
        sent = []

        def answer(check):
            waiting = [(addr, data(text)) for addr, _, text in got[len(sent):]]
            sent.extend(waiting)
            if waiting:
                server = answerer if handle.closed else handle
                assert server.try_send2(waiting) == len(waiting)
            if len(sent) == 2 * len(socks):
                check.close()
                answerer.close()

        uv.Check(loop).start(answer)
        for letter in b"ab":
            for i, sock in enumerate(socks):
                sock.settimeout(10)
                sock.sendto(b"%c%d" % (letter, i), handle.getsockname())
        loop.run_checked()
        assert {addr for addr, _, _ in got} == {
            ("127.0.0.1", sock.getsockname()[1]) for sock in socks}
        for i, sock in enumerate(socks):
            assert {sock.recv(9), sock.recv(9)} == {b"a%d" % i, b"b%d" % i}
    finally:
        for sock in socks:
            sock.close()


def test_try_send2_too_big(loop, sock):
    handle = uv.UDP(loop)
    name = sock.getsockname()
    with pytest.raises(uv.error.UDPError) as caught:
        handle.try_send2([(name, bytes(70_000)), (name, b"x")])
    assert caught.value.args[0] == UV.UV_EMSGSIZE
    assert handle.try_send2([(name, b"a"), (name, bytes(70_000))]) == 1
    assert sock.recv(9) == b"a"
