"""add_reader() and add_writer() on sockets, pipes and worse."""

import asyncio
import os
import socket
import tempfile

import pytest

import limits
import uvtulip
from uvtulip import uv

LIMIT = limits.WAIT


@pytest.fixture
def loop():
    loop = uvtulip.new_event_loop()
    guard = loop.call_later(LIMIT, loop.stop)
    yield loop
    assert guard.cancelled() or guard._scheduled, "the test hung"
    loop.close()


@pytest.fixture
def pair():
    a, b = socket.socketpair()
    a.setblocking(False)
    b.setblocking(False)
    with a, b:
        yield a, b


def turn(loop):
    loop.stop()
    loop.run_forever()


def turns(loop, count):
    for _ in range(count):
        turn(loop)


# ---- the usual ----


def test_reader_is_level_triggered(loop, pair):
    a, b = pair
    seen = []

    def read(*args):
        seen.append((args, a.recv(1)))
        if len(seen) == 3:
            loop.stop()

    assert loop.add_reader(a.fileno(), read, 1, 2) is None
    b.send(b"xyz")
    loop.run_forever()
    assert seen == [((1, 2), b"x"), ((1, 2), b"y"), ((1, 2), b"z")]


def test_writer(loop, pair):
    a, _ = pair
    seen = []
    loop.add_writer(a, lambda: (seen.append(1), loop.stop()))
    loop.run_forever()
    assert seen == [1]
    assert loop.remove_writer(a) is True
    turns(loop, 3)
    assert seen == [1]


def test_remove_says_whether_there_was_one(loop, pair):
    a, _ = pair
    for remove, add in (
        (loop.remove_reader, loop.add_reader),
        (loop.remove_writer, loop.add_writer),
    ):
        assert remove(a) is False
        add(a, print)
        assert remove(a.fileno()) is True
        assert remove(a) is False
    assert loop.remove_reader(12345) is False


def test_both_on_one_descriptor(loop, pair):
    a, b = pair
    seen = []
    loop.add_reader(a, lambda: seen.append(("r", a.recv(10))))
    loop.add_writer(a, seen.append, "w")
    turn(loop)
    assert seen == ["w"]
    b.send(b"x")
    turn(loop)
    assert seen == ["w", ("r", b"x"), "w"]
    loop.remove_writer(a)
    turn(loop)
    assert len(seen) == 3
    b.send(b"y")
    turn(loop)
    assert seen[3:] == [("r", b"y")]
    loop.remove_reader(a)
    b.send(b"z")
    turn(loop)
    assert len(seen) == 4


def test_the_new_callback_replaces_and_cancels_the_old(loop, pair):
    a, b = pair
    seen = []
    b.send(b"x")
    loop.add_reader(a, seen.append, "old")
    loop.add_reader(a, seen.append, "new")
    turn(loop)
    assert seen == ["new"]

    # Also when the old one is in the queue already.
    def replace():
        loop.remove_reader(a)
        loop.add_reader(b, seen.append, "newer")

    seen.clear()
    a.send(b"x")
    loop.add_reader(a, replace)
    loop.add_reader(b, seen.append, "older")
    turn(loop)
    assert seen in ([], ["older"])
    turn(loop)
    assert seen[-1] == "newer"


def test_removed_while_it_is_in_the_queue(loop, pair):
    a, b = pair
    seen = []
    a.send(b"x")
    b.send(b"x")

    def read(mine, other):
        seen.append(mine)
        loop.remove_reader(other)

    loop.add_reader(a, read, a, b)
    loop.add_reader(b, read, b, a)
    turn(loop)
    assert len(seen) == 1


def test_removing_itself(loop, pair):
    a, b = pair
    seen = []
    b.send(b"x")
    loop.add_reader(a, lambda: seen.append(loop.remove_reader(a)))
    turns(loop, 3)
    assert seen == [True]


def test_runs_in_the_context_of_add(loop, pair):
    import contextvars

    var = contextvars.ContextVar("var", default=0)
    a, b = pair
    b.send(b"x")
    var.set(1)
    seen = []
    loop.add_reader(a, lambda: seen.append(var.get()))
    var.set(2)
    turn(loop)
    assert seen == [1]


def test_exceptions_are_reported_and_it_stays(loop, pair):
    a, b = pair
    errors = []
    loop.set_exception_handler(lambda loop, context: errors.append(context))
    b.send(b"x")
    loop.add_reader(a, lambda: 1 / 0)
    turns(loop, 2)
    assert len(errors) == 2
    assert isinstance(errors[0]["exception"], ZeroDivisionError)
    assert isinstance(errors[0]["handle"], asyncio.Handle)


@pytest.mark.parametrize("other", [True, False])
def test_a_handle_that_was_cancelled(loop, pair, other):
    """By the exception handler, which is told of it: then it is watched no more."""
    a, b = pair
    errors = []

    def handler(loop, context):
        errors.append(context)
        context["handle"].cancel()

    loop.set_exception_handler(handler)
    b.send(b"x")
    writes = []
    loop.add_reader(a, lambda: 1 / 0)
    if other:
        loop.add_writer(a, writes.append, 1)
    turns(loop, 10)
    assert len(errors) == 1
    assert len(writes) == (10 if other else 0)
    poll = next(h for h in loop.uv_loop.handles if isinstance(h, uv.Poll))
    assert poll.events == (uv.UV_WRITABLE if other else 0)
    assert loop.remove_reader(a) is False
    assert loop.remove_writer(a) is other
    loop.add_reader(a, lambda: writes.append(a.recv(10)))
    turn(loop)
    assert writes[-1] == b"x"


def test_the_names_of_asyncio_with_an_underscore(loop, pair):
    """They return the handle."""
    a, b = pair
    seen = []
    reader = loop._add_reader(a.fileno(), seen.append, "r")
    writer = loop._add_writer(a, seen.append, "w")
    assert isinstance(reader, asyncio.Handle) and isinstance(writer, asyncio.Handle)
    b.send(b"x")
    turn(loop)
    assert sorted(seen) == ["r", "w"]
    reader.cancel()
    assert loop._remove_writer(a) is True
    assert writer.cancelled()
    turns(loop, 3)
    assert sorted(seen) == ["r", "w"]
    assert loop._remove_reader(a) is False


def test_pipes_and_hang_up(loop):
    reader, writer = os.pipe()
    seen = []

    def read():
        data = os.read(reader, 10)
        seen.append(data)
        if not data:
            loop.remove_reader(reader)
            loop.stop()

    try:
        os.set_blocking(reader, False)
        loop.add_reader(reader, read)
        os.write(writer, b"x")
        turn(loop)
        assert seen == [b"x"]
    finally:
        os.close(writer)
    loop.run_forever()
    os.close(reader)
    assert seen == [b"x", b""]


def test_the_other_end_of_a_pipe_is_gone(loop):
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    seen = []

    def write():
        try:
            os.write(writer, b"x" * 4096)
        except BlockingIOError:
            os.close(reader)
        except BrokenPipeError:
            seen.append("broken")
            loop.remove_writer(writer)
            loop.stop()

    loop.add_writer(writer, write)
    loop.call_soon(os.write, writer, b"y")
    for _ in range(100):
        try:
            os.write(writer, b"x" * 4096)
        except BlockingIOError:
            break
    loop.call_later(0.001, os.close, reader)
    loop.run_forever()
    os.close(writer)
    assert seen == ["broken"]


def test_a_failed_connect_calls_the_writer(loop):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        address = server.getsockname()
    with socket.socket() as sock:
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.connect(address)
        seen = []

        def on_writable():
            seen.append(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
            loop.remove_writer(sock)
            loop.stop()

        loop.add_writer(sock, on_writable)
        loop.run_forever()
    assert seen and seen[0] != 0


def test_a_udp_error_does_not_end_the_watching(loop):
    with socket.socket(type=socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", 0))
        address = peer.getsockname()
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.connect(address)
        seen = []

        def read():
            try:
                seen.append(sock.recv(100))
                loop.stop()
            except ConnectionRefusedError as exc:
                seen.append(type(exc))
                with socket.socket(type=socket.SOCK_DGRAM) as other:
                    other.bind(address)
                    other.sendto(b"still there", sock.getsockname())

        loop.add_reader(sock, read)
        sock.send(b"x")
        loop.run_forever()
    assert seen == [ConnectionRefusedError, b"still there"]


# ---- descriptors ----


def test_what_is_no_descriptor(loop):
    class Bad:
        def fileno(self):
            return "one"

    for what in (object(), None, "1", Bad()):
        for call in (
            lambda what=what: loop.add_reader(what, print),
            lambda what=what: loop.add_writer(what, print),
            lambda what=what: loop.remove_reader(what),
            lambda what=what: loop.remove_writer(what),
        ):
            with pytest.raises(ValueError, match="Invalid file object"):
                call()
    for number in (-1, -5, 10**10, -(10**10)):
        with pytest.raises(ValueError, match="Invalid file descriptor"):
            loop.add_reader(number, print)
    with pytest.raises(TypeError, match="callback"):
        loop.add_reader(0)
    with pytest.raises(TypeError):
        loop.add_writer()


def test_regular_files_are_refused_at_once(loop):
    with tempfile.TemporaryFile() as file:
        for _ in range(2):
            with pytest.raises(PermissionError):
                loop.add_reader(file, print)
            with pytest.raises(PermissionError):
                loop.add_writer(file, print)
        assert loop.remove_reader(file) is False
        turn(loop)


def test_closed_descriptors_are_refused_at_once(loop):
    a, b = socket.socketpair()
    fd = a.fileno()
    a.close()
    b.close()
    with pytest.raises(OSError):
        loop.add_reader(fd, print)
    with pytest.raises(ValueError):
        loop.add_reader(a, print)
    assert loop.remove_reader(fd) is False
    turn(loop)


def test_descriptors_of_transports_are_refused(loop):
    async def main():
        server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        transport, _ = await loop.create_connection(asyncio.Protocol, "127.0.0.1", port)
        await asyncio.sleep(0.01)
        fd = transport.get_extra_info("socket").fileno()
        with pytest.raises(
            RuntimeError, match=f"File descriptor {fd} is used by transport"
        ):
            loop.add_reader(fd, print)
        transport.close()
        server.close()
        server.close_clients()
        await asyncio.sleep(0.01)

    loop.run_until_complete(main())


def assert_refused(loop, fd):
    for call in (
        lambda: loop.add_reader(fd, print),
        lambda: loop.add_writer(fd, print),
        lambda: loop.remove_reader(fd),
        lambda: loop.remove_writer(fd),
    ):
        with pytest.raises(
            RuntimeError, match=r"File descriptor \d+ is used by transport <Stream"
        ):
            call()


def test_transports_that_read_nothing_keep_their_descriptors(loop, pair):
    """In the first turn, paused, and for the number of a given socket too."""
    a, b = pair

    class Protocol(asyncio.Protocol):
        def connection_made(self, transport):
            assert_refused(loop, transport.get_extra_info("uv_handle").fileno())

    async def main():
        transport, _ = await loop.create_connection(Protocol, sock=a)
        transport.pause_reading()
        await asyncio.sleep(0)
        assert_refused(loop, a)
        assert_refused(loop, a.fileno())
        assert_refused(loop, transport.get_extra_info("uv_handle").fileno())
        with pytest.raises(RuntimeError, match="is used by transport"):
            await loop.sock_recv(a, 1)
        number = a.fileno()
        transport.close()
        while a.fileno() >= 0:
            await asyncio.sleep(0)
        # It is free for others then.
        os.dup2(b.fileno(), number)
        ready = loop.create_future()
        loop.add_writer(number, ready.set_result, None)
        await ready
        assert loop.remove_writer(number)
        os.close(number)

    loop.run_until_complete(main())


def test_a_number_that_transports_and_watchers_have_in_turn(loop):
    fd, _ = spare = sockets()
    for _ in range(3):
        with socket.socket(fileno=fd) as sock, socket.socket(fileno=spare[1]) as peer:
            sock.setblocking(False)
            seen = []
            loop.add_reader(sock, seen.append, 1)
            peer.send(b"x")
            turns(loop, 2)
            assert seen
            assert loop.remove_reader(sock)
            assert loop.run_until_complete(loop.sock_recv(sock, 1)) == b"x"
            receiving = loop.create_task(loop.sock_recv(sock, 1))
            turns(loop, 2)
            peer.send(b"y")
            assert loop.run_until_complete(receiving) == b"y"
        a, b = sockets()
        with socket.socket(fileno=b):
            sock = socket.socket(fileno=a)
            transport, _ = loop.run_until_complete(
                loop.create_connection(asyncio.Protocol, sock=sock)
            )
            handle = transport.get_extra_info("uv_handle")
            assert fd in (a, handle.fileno())
            with pytest.raises(RuntimeError, match="is used by transport"):
                loop.add_reader(fd, print)
            transport.close()
            turns(loop, 3)
        spare = same_number(fd, sockets)
    os.close(spare[0])
    os.close(spare[1])


def test_raw_polls_and_watchers_exclude_each_other(loop, pair):
    a, _ = pair
    poll = uv.Poll(loop.uv_loop, a.fileno())
    poll.start(uv.UV_READABLE, print)
    with pytest.raises(RuntimeError, match="is used by transport"):
        loop.add_reader(a, print)
    poll.close()
    loop.add_reader(a, print)
    loop.remove_reader(a)


def test_the_blocking_mode_is_left_alone(loop):
    """It belongs to all who have the open file, other processes too."""
    reader, writer = os.pipe()
    try:
        for mode in (True, False, True):
            os.set_blocking(reader, mode)
            loop.add_reader(reader, print)
            assert os.get_blocking(reader) == mode
            turn(loop)
            assert os.get_blocking(reader) == mode
            # The program may change it meanwhile.
            os.set_blocking(reader, not mode)
            loop.remove_reader(reader)
            turn(loop)
            assert os.get_blocking(reader) == (not mode)
    finally:
        os.close(reader)
        os.close(writer)


def same_number(fd, make):
    """What make() returns, with `fd` as the number of its first end."""
    a, b = make()
    if b == fd:
        b = os.dup(b)
    if a != fd:
        os.dup2(a, fd)
        os.close(a)
    return fd, b


def sockets():
    a, b = socket.socketpair()
    a.setblocking(False)
    b.setblocking(False)
    return a.detach(), b.detach()


def pipes():
    a, b = os.pipe()
    os.set_blocking(a, False)
    return a, b


@pytest.mark.parametrize("make", [sockets, pipes])
@pytest.mark.parametrize("removed", [True, False])
@pytest.mark.parametrize("between", [True, False])
@pytest.mark.parametrize("alive", [True, False])
def test_a_number_that_is_used_again(loop, make, removed, between, alive):
    seen = []
    fd, other = make()
    loop.add_reader(fd, seen.append, "wrong")
    turn(loop)
    if removed:
        loop.remove_reader(fd)
    # A duplicate keeps the old file open, and epoll watching it.
    duplicate = os.dup(fd) if alive else None
    os.close(fd)
    if between:
        turn(loop)
    fd, new = same_number(fd, make)
    try:
        loop.add_reader(fd, lambda: (seen.append(os.read(fd, 10)), loop.stop()))
        os.write(new, b"right")
        loop.run_forever()
        assert seen == [b"right"]
        if alive:
            os.write(other, b"old")
        turns(loop, 3)
        assert seen == [b"right"]
        loop.remove_reader(fd)
    finally:
        for end in (fd, other, new, duplicate):
            if end is not None:
                os.close(end)


def test_closed_under_a_reader_neither_aborts_nor_spins(loop, pair):
    a, b = pair
    fd = a.fileno()
    calls = []
    loop.add_reader(fd, calls.append, 1)
    duplicate = os.dup(fd)
    os.close(a.detach())
    b.send(b"x")
    loop.call_later(0.05, loop.stop)
    loop.run_forever()
    # As long as libuv believes in it; but not for ever.
    assert len(calls) < 100
    assert loop.remove_reader(fd) is True
    os.close(duplicate)
    turn(loop)


def test_closed_before_the_first_poll(loop, pair):
    a, _ = pair
    fd = a.fileno()
    calls = []
    loop.add_reader(fd, calls.append, 1)
    loop.add_writer(fd, calls.append, 2)
    os.close(a.detach())
    turns(loop, 5)
    assert sorted(calls) == [1, 2]
    assert loop.remove_reader(fd) is True
    assert loop.remove_writer(fd) is True


def test_removing_by_a_closed_object(loop, pair):
    a, _ = pair
    loop.add_reader(a, print)
    a.close()
    assert loop.remove_reader(a) is True
    assert loop.remove_reader(a) is False
    turn(loop)


def test_many_descriptors(loop):
    pairs = [socket.socketpair() for _ in range(300)]
    seen = []

    def read(i, sock):
        seen.append((i, sock.recv(10)))
        loop.remove_reader(sock)

    for _ in range(3):
        seen.clear()
        for i, (a, b) in enumerate(pairs):
            a.setblocking(False)
            loop.add_reader(a, read, i, a)
            b.send(b"%d" % i)
        turns(loop, 3)
        assert sorted(seen) == [(i, b"%d" % i) for i in range(300)]
    # Polls that rest are kept, but not without a limit.
    assert len(loop.uv_loop.handles) < 300
    for a, b in pairs:
        a.close()
        b.close()


def test_after_closing_the_loop(pair):
    a, _ = pair
    loop = uvtulip.new_event_loop()
    loop.add_reader(a, print)
    loop.close()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        loop.add_reader(a, print)
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        loop.add_writer(a, print)
    assert loop.remove_reader(a) is False
    assert loop.remove_writer(a) is False


def test_poll_closed_behind_our_back(loop, pair):
    a, b = pair
    seen = []
    loop.add_reader(a, seen.append, 1)
    for handle in loop.uv_loop.handles:
        if isinstance(handle, uv.Poll):
            handle.close()
    turn(loop)
    b.send(b"x")
    loop.add_reader(a, lambda: (seen.append(a.recv(10)), loop.stop()))
    loop.run_forever()
    assert seen == [b"x"]
    assert loop.remove_reader(a) is True
