"""Errors of sockets: each reaches the program with its reason, and none makes the loop
turn without a pause."""

import errno
import os
import select
import socket

import pytest

from uvtulip import uv

CODES = uv.errno.errorcode
LOCAL = "127.0.0.1"
IP_RECVERR = getattr(socket, "IP_RECVERR", 11)
IPV6_RECVERR = getattr(socket, "IPV6_RECVERR", 25)


def nobody():
    """An address where nobody receives datagrams."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((LOCAL, 0))
        return sock.getsockname()


def stop_later(loop, *handles, seconds=0.3):
    """Closes the handles after a while; how often the loop turns until then."""
    timer = uv.Timer(loop)

    def on_end(timer):
        for handle in handles:
            if not handle.closed:
                handle.close()
        timer.close()
        loop.stop()

    timer.start(on_end, seconds)
    before = loop.metrics().loop_count
    loop.run_checked()
    turns = loop.metrics().loop_count - before
    loop.run(uv.UV_RUN_NOWAIT)
    return turns


def connected():
    with socket.create_server((LOCAL, 0)) as server:
        ours = socket.create_connection(server.getsockname())
        return ours, server.accept()[0]


def reset(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.close()


# ---- Poll ----


@pytest.mark.parametrize("events", [uv.UV_READABLE, uv.UV_WRITABLE, 3])
def test_poll_of_a_refused_connection(loop, events):
    keeper = socket.socket()
    keeper.bind((LOCAL, 0))
    address = keeper.getsockname()
    sock = socket.socket()
    sock.setblocking(False)
    sock.connect_ex(address)
    calls = []

    def on_ready(poll, ready, errorno):
        calls.append((ready, errorno))
        calls.append(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
        poll.close()

    uv.Poll(loop, sock).start(events, on_ready)
    loop.run_checked()
    assert calls == [(events, None), errno.ECONNREFUSED]
    sock.close()
    keeper.close()


def test_poll_reads_what_came_before_a_reset(loop):
    ours, theirs = connected()
    theirs.sendall(b"last words")
    ours.setblocking(False)
    ours.sendall(b"unread")
    select.select([theirs], [], [], 5)
    reset(theirs)
    got = []

    def on_ready(poll, ready, errorno):
        assert (ready, errorno) == (uv.UV_READABLE, None)
        try:
            got.append(ours.recv(100))
        except OSError as exc:
            got.append(exc.errno)
            poll.close()

    uv.Poll(loop, ours).start(uv.UV_READABLE, on_ready)
    loop.run_checked()
    assert got == [b"last words", errno.ECONNRESET]
    ours.close()


def test_poll_goes_on_after_an_error(loop):
    address = nobody()
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((LOCAL, 0))
    sock.setblocking(False)
    sock.connect(address)
    sock.send(b"x")
    got = []

    def on_ready(poll, ready, errorno):
        assert (ready, errorno) == (uv.UV_READABLE, None)
        try:
            got.append(sock.recv(100))
            poll.close()
        except OSError as exc:
            got.append(exc.errno)
            other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            other.bind(address)
            other.sendto(b"answer", sock.getsockname())
            other.close()

    uv.Poll(loop, sock).start(uv.UV_READABLE, on_ready)
    loop.run_checked()
    assert got == [errno.ECONNREFUSED, b"answer"]
    sock.close()


def error_queue_socket(count=1):
    address = nobody()
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((LOCAL, 0))
    sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
    sock.setblocking(False)
    for _ in range(count):
        while True:
            try:
                sock.sendto(b"x", address)
                break
            except ConnectionRefusedError:
                continue
    return sock


def test_poll_of_an_error_that_stays(loop):
    """Nobody takes the details of the error; datagrams still come."""
    sock = error_queue_socket()
    got = []

    def on_ready(poll, ready, errorno):
        try:
            got.append(sock.recv(100))
        except OSError as exc:
            got.append(exc.errno)

    poll = uv.Poll(loop, sock)
    poll.start(uv.UV_READABLE, on_ready)
    assert stop_later(loop) < 50
    assert poll.active
    assert got[0] == errno.ECONNREFUSED
    del got[:]
    for _ in range(3):
        sock.sendto(b"one", sock.getsockname())
        sock.sendto(b"two", sock.getsockname())
        assert stop_later(loop, seconds=0.1) < 50
        assert [item for item in got if item != errno.EAGAIN] == [b"one", b"two"]
        del got[:]
    # Another error is a change.
    sock.sendto(b"x", nobody())
    assert stop_later(loop, seconds=0.1) < 50
    assert errno.ECONNREFUSED in got
    poll.close()
    loop.run_checked()
    sock.close()


def test_poll_of_an_error_queue_that_is_taken_one_by_one(loop):
    sock = error_queue_socket(40)
    sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    taken = []

    def on_ready(poll, ready, errorno):
        try:
            taken.append(sock.recvmsg(10, 500, socket.MSG_ERRQUEUE))
        except BlockingIOError:
            taken.append(None)
        if len(taken) == 40:
            poll.close()

    uv.Poll(loop, sock).start(uv.UV_READABLE, on_ready)
    loop.run_checked()
    assert None not in taken
    sock.close()


def test_poll_of_a_pipe_without_a_reader(loop):
    reader, writer = os.pipe()
    os.close(reader)
    calls = []
    poll = uv.Poll(loop, writer)
    poll.start(uv.UV_DISCONNECT, lambda poll, *args: calls.append(args))
    assert stop_later(loop, poll) < 50
    assert set(calls) == {(uv.UV_DISCONNECT, None)}
    os.close(writer)


def test_poll_of_a_full_pipe_without_a_reader(loop):
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with pytest.raises(BlockingIOError):
        while True:
            os.write(writer, bytes(4096))
    codes = []

    def on_ready(poll, ready, errorno):
        assert (ready, errorno) == (uv.UV_WRITABLE, None)
        with pytest.raises(BrokenPipeError):
            os.write(writer, b"x")
        codes.append("EPIPE")
        poll.close()

    uv.Poll(loop, writer).start(uv.UV_WRITABLE, on_ready)
    loop.run(uv.UV_RUN_NOWAIT)
    assert codes == []
    os.close(reader)
    loop.run_checked()
    assert codes == ["EPIPE"]
    os.close(writer)


@pytest.mark.parametrize("restart", [False, True])
def test_poll_stopped_while_the_error_stays(loop, restart):
    sock = error_queue_socket()
    calls = []
    poll = uv.Poll(loop, sock)
    poll.start(uv.UV_READABLE, lambda poll, *args: calls.append(args))
    assert stop_later(loop, seconds=0.1) < 50
    poll.stop()
    assert not poll.active
    del calls[:]
    if restart:
        poll.start(uv.UV_READABLE, lambda poll, *args: calls.append(args))
    assert stop_later(loop, seconds=0.1) < 50
    assert bool(calls) is restart
    poll.close()
    loop.run_checked()
    sock.close()


# ---- UDP ----


def bound(loop, flags=0, family=socket.AF_INET):
    udp = uv.UDP(loop)
    host = LOCAL if family == socket.AF_INET else "::1"
    udp.bind((host, 0), flags)
    return udp


@pytest.mark.parametrize("how", ["bind", "option", "option with batches"])
def test_queue_of_errors_is_told_and_emptied(loop, how):
    if how == "bind":
        udp = bound(loop, uv.UV_UDP_LINUX_RECVERR)
        fd = udp.fileno()
    else:
        udp = uv.UDP(loop, uv.UV_UDP_RECVMMSG if "batches" in how else 0)
        udp.open(error_queue_socket(0).detach())
        fd = udp.fileno()
    told = []

    def on_recv(udp, addr, flags, data, errorno):
        told.append((data, errorno and CODES[errorno]))

    udp.start_recv(on_recv)
    for _ in range(3):
        udp.send(nobody(), b"x")
    peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    peer.sendto(b"hello", udp.getsockname())
    keeper = os.dup(fd)
    assert stop_later(loop, udp) < 60
    assert set(told) == {(None, "UV_ECONNREFUSED"), (b"hello", None)}
    assert [data for data, _ in told].count(b"hello") == 1
    sock = socket.socket(fileno=keeper)
    with pytest.raises(BlockingIOError):
        sock.recvmsg(10, 500, socket.MSG_ERRQUEUE)
    sock.close()
    peer.close()


def test_queue_of_errors_of_ipv6(loop):
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind(("::1", 0))
        except OSError:
            pytest.skip("this system has no IPv6")
        address = sock.getsockname()
    udp = bound(loop, uv.UV_UDP_LINUX_RECVERR, socket.AF_INET6)
    told = []
    udp.start_recv(lambda *args: told.append(CODES[args[4]]))
    udp.send(address, b"x")
    assert stop_later(loop, udp) < 50
    assert set(told) == {"UV_ECONNREFUSED"}


def test_closed_while_errors_are_told(loop):
    udp = uv.UDP(loop)
    udp.open(error_queue_socket(5).detach())
    told = []

    def on_recv(udp, addr, flags, data, errorno):
        told.append(errorno)
        if len(told) == 3:
            udp.close()

    udp.start_recv(on_recv)
    loop.run_checked()
    assert told == [uv.errno.UV_ECONNREFUSED] * 3


@pytest.fixture
def receiver():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((LOCAL, 0))
        sock.settimeout(10)
        yield sock


BAD = {
    "too large": (bytes(70000), "UV_EMSGSIZE"),
    "no port": (b"x", "UV_EINVAL"),
    "no broadcast": (b"x", "UV_EACCES"),
}


def target(name, receiver):
    return {
        "no port": (LOCAL, 0),
        "no broadcast": ("255.255.255.255", 9),
    }.get(name, receiver.getsockname())


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("places", [[0], [1], [0, 1], [0, 3, 25], [24, 44]])
def test_bad_datagram_fails_alone(loop, receiver, name, places):
    """Among others in libuv's queue: sent in a callback, they leave together."""
    data, code = BAD[name]
    udp = bound(loop)
    good = receiver.getsockname()
    results = []

    def on_sent(number):
        return lambda udp, errorno: results.append((number, errorno and CODES[errorno]))

    def on_first(udp, errorno):
        for number in range(50):
            if number in places:
                udp.send(target(name, receiver), data, on_sent(number))
            else:
                udp.send(good, b"%d" % number, on_sent(number))

    udp.send(good, b"first", on_first)
    stop_later(loop, udp, seconds=0.2)
    wanted = [(n, code if n in places else None) for n in range(50)]
    if name != "too large":
        # What a system says to an address where nothing goes differs.
        results = [(n, code if error else None) for n, error in results]
        wanted = wanted if any(error for _, error in results) else results
    assert results == wanted
    assert receiver.recv(100) == b"first"
    got = [int(receiver.recv(100)) for _, error in wanted if error is None][
        : 50 - len(places)
    ]
    assert got == [n for n, error in wanted if error is None]


def test_several_errors_in_a_row(loop, receiver):
    """What fails at once and what fails in a batch behind it, in one turn."""
    udp = bound(loop)
    good = receiver.getsockname()
    results = []

    def on_sent(udp, errorno):
        results.append(errorno)

    udp.send(good, bytes(70000), on_sent)
    udp.send(good, bytes(70000), on_sent)
    udp.send(good, bytes(70000), on_sent)
    udp.send(good, b"good", on_sent)
    udp.send(good, bytes(70000), on_sent)
    stop_later(loop, udp, seconds=0.1)
    large = uv.errno.UV_EMSGSIZE
    assert results == [large, large, large, None, large]
    assert receiver.recv(100) == b"good"


def test_error_of_an_earlier_datagram(loop):
    """An ICMP answer fails the next datagram, not those behind it."""
    address = nobody()
    udp = bound(loop)
    udp.connect(address)
    results = []

    def on_sent(udp, errorno):
        results.append(errorno)

    def on_first(udp, errorno):
        receiver.bind(address)
        for _ in range(5):
            udp.send(None, b"x", on_sent)

    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.settimeout(10)
    udp.send(None, b"lost", on_first)
    stop_later(loop, udp, seconds=0.1)
    assert results == [uv.errno.UV_ECONNREFUSED, None, None, None, None]
    assert [receiver.recv(10) for _ in range(4)] == [b"x"] * 4
    receiver.close()


@pytest.mark.parametrize("received", [False, True])
def test_error_while_it_only_sends(loop, received):
    """Nobody receives, and what is queued waits for the socket."""
    address = nobody()
    udp = bound(loop)
    udp.connect(address)
    if received:
        udp.start_recv(lambda *args: None)
        udp.stop_recv()
    results = []

    def on_sent(udp, errorno):
        results.append(errorno)
        if len(results) < 20:
            udp.send(None, b"x", on_sent)

    udp.send(None, b"x", on_sent)
    stop_later(loop, udp, seconds=0.1)
    assert len(results) == 20
    assert set(results) == {None, uv.errno.UV_ECONNREFUSED}


def test_try_send2_stops_at_the_bad_one(loop, receiver):
    udp = bound(loop)
    good = receiver.getsockname()
    messages = [(good, b"1"), (good, b"2"), (good, bytes(70000)), (good, b"3")]
    assert udp.try_send2(messages) == 2
    with pytest.raises(uv.error.UDPError) as caught:
        udp.try_send2(messages[2:])
    assert caught.value.name == "EMSGSIZE"
    assert udp.try_send2(messages[3:]) == 1
    assert [receiver.recv(10) for _ in range(3)] == [b"1", b"2", b"3"]


def test_closed_in_the_callback_of_a_bad_one(loop, receiver):
    udp = bound(loop)
    good = receiver.getsockname()
    results = []

    def on_bad(udp, errorno):
        results.append(CODES[errorno])
        udp.close()

    def on_first(udp, errorno):
        udp.send(good, bytes(70000), on_bad)
        for _ in range(30):
            udp.send(good, b"x", lambda udp, errorno: results.append(CODES[errorno]))

    udp.send(good, b"first", on_first)
    loop.run_checked()
    assert results == ["UV_EMSGSIZE"] + ["UV_ECANCELED"] * 30
