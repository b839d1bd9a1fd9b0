"""How sock_*() waits: who is woken, for how long the loop watches, and what
happens when sockets are closed, replaced or not quite sockets."""

import asyncio
import errno
import gc
import inspect
import os
import random
import resource
import socket
import warnings
import weakref

import pytest

import uvtulip
from aiosupport import open_descriptors, run, turns, until
from forksupport import in_child
from streamsupport import reset, tcp_pair
from uvtulip import uv


@pytest.fixture
def pair():
    one, two = socket.socketpair()
    with one, two:
        one.setblocking(False)
        two.setblocking(False)
        yield one, two


class Sub(socket.socket):
    """A subclass may do anything in recv(): it has to be asked."""

    calls = 0

    def recv(self, *args):
        self.calls += 1
        return super().recv(*args)

    def send(self, *args):
        self.calls += 1
        return super().send(*args)


class Wrapper:
    """No socket at all, but behaves like one; what it wraps may change."""

    def __init__(self, sock):
        self.sock = sock

    def __getattr__(self, name):
        return getattr(self.sock, name)


def of_kind(kind, sock):
    if kind is Sub:
        sub = Sub(fileno=sock.detach())
        sub.setblocking(False)
        return sub
    return sock if kind is socket.socket else kind(sock)


KINDS = pytest.mark.parametrize("kind", [socket.socket, Sub, Wrapper])


# ---- what is awaited ----


@KINDS
def test_usable_as_asyncio_users_do(kind):
    async def main():
        loop = asyncio.get_running_loop()
        a, b = socket.socketpair()
        a.setblocking(False)
        b.setblocking(False)
        one, two = of_kind(kind, a), of_kind(kind, b)
        assert inspect.iscoroutinefunction(loop.sock_recv)
        coroutine = loop.sock_recv(one, 10)
        assert asyncio.iscoroutine(coroutine)
        task = asyncio.create_task(coroutine)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(loop.sock_recv(two, 10), 0.01)
        _, got = await asyncio.gather(
            loop.sock_sendall(one, b"to two"), loop.sock_recv(two, 10)
        )
        assert got == b"to two"
        await loop.sock_sendall(two, b"to one")
        assert await task == b"to one"
        one.close()
        two.close()

    run(main())


@KINDS
def test_many_messages_both_ways(kind):
    async def main():
        loop = asyncio.get_running_loop()
        a, b = tcp_pair()
        a.setblocking(False)
        b.setblocking(False)
        one, two = of_kind(kind, a), of_kind(kind, b)

        async def echo():
            while data := await loop.sock_recv(two, 100):
                await loop.sock_sendall(two, data)

        task = asyncio.create_task(echo())
        for i in range(200):
            await loop.sock_sendall(one, b"%d" % i)
            assert await loop.sock_recv(one, 100) == b"%d" % i
        one.close()
        await task
        two.close()
        if kind is Sub:
            assert one.calls >= 400

    run(main())


def test_much_data_both_ways_through_one_socket():
    """Reading and writing wait for the same descriptor at the same time."""
    size = 4_000_000

    async def main(family):
        loop = asyncio.get_running_loop()
        one, two = tcp_pair() if family else socket.socketpair()

        async def read(sock):
            count = 0
            buffer = bytearray(50_000)
            while count < size:
                got = await loop.sock_recv_into(sock, buffer)
                assert got
                count += got
            return count

        with one, two:
            one.setblocking(False)
            two.setblocking(False)
            got = await asyncio.gather(
                *(loop.sock_sendall(sock, bytes(size)) for sock in (one, two)),
                *(read(sock) for sock in (one, two)),
            )
        assert got == [None, None, size, size]

    run(main(True))
    run(main(False))


def test_more_than_the_loops_own_room(pair):
    one, two = pair
    one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)

    async def main():
        loop = asyncio.get_running_loop()
        data = os.urandom(150_000)
        sending = asyncio.create_task(loop.sock_sendall(one, data))
        await turns()
        got = b""
        while len(got) < len(data):
            got += await loop.sock_recv(two, 1 << 20)
        await sending
        assert got == data
        await loop.sock_sendall(one, b"little")
        assert await loop.sock_recv(two, 1 << 20) == b"little"

    run(main())


# ---- reads that are not tried ----


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("end", ["close", "shutdown", "reset"])
def test_the_end_comes_at_any_time(seed, end):
    """All data is received, then the end, wherever it falls between the reads."""
    chance = random.Random(seed)
    pieces = [os.urandom(chance.choice([1, 10, 100, 5000])) for _ in range(20)]

    async def send(sock):
        for piece in pieces:
            sock.send(piece)
            await turns(chance.choice([0, 0, 1, 2, 5]))
        if end == "shutdown":
            sock.shutdown(socket.SHUT_WR)
        elif end == "close":
            sock.close()
        else:
            # Once it has arrived, as the reset throws away what was not read.
            await until(lambda: len(got) == len(data))
            reset(sock)

    async def main():
        loop = asyncio.get_running_loop()
        one, two = tcp_pair()
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with one, two:
            two.setblocking(False)
            sending = asyncio.create_task(send(one))
            buffer = bytearray(3000)
            while True:
                if chance.random() < 0.5:
                    piece = await loop.sock_recv(two, chance.choice([1, 50, 65536]))
                else:
                    piece = buffer[: await loop.sock_recv_into(two, buffer)]
                if not piece:
                    break
                got.extend(piece)
                if chance.random() < 0.2:
                    await asyncio.sleep(0.001)
            await sending

    got = bytearray()
    data = b"".join(pieces)
    if end == "reset":
        with pytest.raises(ConnectionResetError):
            run(main())
    else:
        run(main())
    assert got == data


def test_urgent_data_stops_a_read():
    async def main():
        loop = asyncio.get_running_loop()
        one, two = tcp_pair()
        with one, two:
            two.setblocking(False)
            two.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
            for _ in range(5):
                got = b""
                reading = asyncio.create_task(loop.sock_recv(two, 100))
                await turns()
                one.send(b"abc")
                one.send(b"!", socket.MSG_OOB)
                one.send(b"def")
                got += await reading
                while len(got) < 7:
                    got += await loop.sock_recv(two, 100)
                assert got == b"abc!def"

    run(main())


def test_read_by_the_program_itself_in_between():
    async def main():
        loop = asyncio.get_running_loop()
        one, two = tcp_pair()
        with one, two:
            two.setblocking(False)
            for i in range(20):
                reading = asyncio.create_task(loop.sock_recv(two, 100))
                await turns()
                one.send(b"a")
                assert await reading == b"a"
                one.send(b"b")
                if i % 2:
                    await asyncio.sleep(0.001)
                    assert two.recv(100) == b"b"
                else:
                    assert await loop.sock_recv(two, 100) == b"b"

    run(main())


def test_shut_down_by_the_program_itself():
    async def main():
        loop = asyncio.get_running_loop()
        one, two = tcp_pair()
        with one, two:
            two.setblocking(False)
            one.send(b"a")
            assert await loop.sock_recv(two, 100) == b"a"
            reading = asyncio.create_task(loop.sock_recv(two, 100))
            await turns()
            one.send(b"b")
            assert await reading == b"b"
            two.shutdown(socket.SHUT_RD)
            assert await loop.sock_recv(two, 100) == b""

    run(main())


def test_messages_with_descriptors():
    """A read from a UNIX socket ends after each: that it is short does not mean that
    nothing is left."""

    async def main():
        loop = asyncio.get_running_loop()
        one, two = socket.socketpair()
        with one, two:
            two.setblocking(False)
            for _ in range(3):
                reading = asyncio.create_task(loop.sock_recv(two, 100))
                await turns()
                with open(os.devnull) as file:
                    socket.send_fds(one, [b"with one"], [file.fileno()])
                one.send(b"without")
                got = await reading
                while len(got) < 15:
                    got += await loop.sock_recv(two, 100)
                assert got == b"with onewithout"

    run(main())


# ---- how long ----


async def polls_while_idle():
    """How often the loop polls when there is nothing to do but to wait."""
    count = 0

    def counted(handle):
        nonlocal count
        count += 1

    check = uv.Check(asyncio.get_running_loop().uv_loop)
    check.start(counted)
    await asyncio.sleep(0.05)
    check.close()
    return count


def test_nobody_waits_and_much_comes(pair):
    """Data that nobody waits for neither wakes the loop nor is forgotten."""
    one, two = pair

    async def main():
        loop = asyncio.get_running_loop()
        task = asyncio.create_task(loop.sock_recv(one, 10))
        await turns()
        two.send(b"a")
        assert await task == b"a"
        two.send(b"b")
        assert await loop.sock_recv(one, 10) == b"b"
        two.send(b"c")
        assert await polls_while_idle() < 10
        assert await loop.sock_recv(one, 10) == b"c"

    run(main())


@pytest.mark.parametrize("alive", [True, False])
def test_closed_under_a_wait(pair, alive):
    """It stays open until the wait ends; and the loop does not spin, even when the
    file lives on in a duplicate."""
    one, two = pair

    async def main():
        loop = asyncio.get_running_loop()
        reading = asyncio.create_task(loop.sock_recv(one, 10))
        await turns()
        duplicate = one.dup() if alive else None
        one.close()
        assert await polls_while_idle() < 10
        two.send(b"read")
        assert await reading == b"read"
        assert one.fileno() == -1
        if duplicate is not None:
            two.send(b"unread")
            assert await polls_while_idle() < 10
            duplicate.close()

    run(main())


@KINDS
@pytest.mark.parametrize("alive", [True, False])
def test_a_number_that_is_used_again(kind, alive):
    async def main():
        loop = asyncio.get_running_loop()
        numbers = set()
        kept = []
        for i in range(20):
            a, b = socket.socketpair()
            a.setblocking(False)
            one = of_kind(kind, a)
            numbers.add(one.fileno())
            task = asyncio.create_task(loop.sock_recv(one, 10))
            await turns(2)
            if i % 3 == 0:
                task.cancel()
                await turns(2)
                task = asyncio.create_task(loop.sock_recv(one, 10))
                await turns(2)
            b.send(b"%d" % i)
            assert await task == b"%d" % i
            if alive:
                kept.append(one.dup())
            one.close()
            if alive:
                b.send(b"to the duplicate")
            b.close()
            a = one = None
        assert alive or len(numbers) < 20
        for sock in kept:
            sock.close()

    run(main())


def test_a_wrapper_whose_socket_is_replaced():
    async def main():
        loop = asyncio.get_running_loop()
        wrapper = Wrapper(None)
        for i in range(5):
            one, two = socket.socketpair()
            with one, two:
                one.setblocking(False)
                wrapper.sock = one
                task = asyncio.create_task(loop.sock_recv(wrapper, 10))
                await turns()
                two.send(b"%d" % i)
                assert await task == b"%d" % i

    run(main())


def test_two_objects_for_one_descriptor(pair):
    one, two = pair

    async def main():
        loop = asyncio.get_running_loop()
        twin = socket.socket(fileno=one.fileno())
        twin.setblocking(False)
        try:
            for i in range(6):
                sock = (one, twin)[i % 2]
                reading = asyncio.create_task(loop.sock_recv(sock, 10))
                await turns()
                two.send(b"%d" % i)
                assert await reading == b"%d" % i
        finally:
            twin.detach()

    run(main())


def test_reading_and_writing_through_two_objects(pair):
    """The registration of one does not take that of the other away."""
    one, two = pair

    async def main():
        loop = asyncio.get_running_loop()
        twin = socket.socket(fileno=one.fileno())
        twin.setblocking(False)
        try:
            reading = asyncio.create_task(loop.sock_recv(one, 10))
            await turns()
            writing = asyncio.create_task(loop.sock_sendall(twin, bytes(2_000_000)))
            await turns()
            two.send(b"x")
            assert await reading == b"x"
            left = 2_000_000
            while left:
                left -= len(await loop.sock_recv(two, 1 << 20))
            await writing
        finally:
            twin.detach()

    run(main())


def test_the_socket_is_kept_while_it_is_waited_for():
    async def main():
        loop = asyncio.get_running_loop()
        one, two = socket.socketpair()
        one.setblocking(False)
        gone = weakref.ref(one)
        task = asyncio.create_task(loop.sock_recv(one, 10))
        await turns()
        one = None
        gc.collect()
        one = gone()
        assert one is not None
        two.send(b"x")
        assert await task == b"x"
        two.close()
        one.close()
        task = one = None
        await turns()
        gc.collect()
        assert gone() is None

    run(main())


def test_a_reader_beside_it(pair):
    """add_reader() and sock_recv() have nothing to do with each other."""
    one, two = pair

    async def main():
        loop = asyncio.get_running_loop()
        called = asyncio.Event()
        task = asyncio.create_task(loop.sock_recv(one, 10))
        await turns()
        loop.add_reader(one, called.set)
        two.send(b"x")
        await called.wait()
        assert await task == b"x"
        assert loop.remove_reader(one) is True
        assert loop.remove_reader(one) is False

    run(main())


def test_descriptors_of_transports_are_refused():
    async def main():
        loop = asyncio.get_running_loop()
        one, two = tcp_pair()
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=one)
        await turns()
        fd = transport.get_extra_info("uv_handle").fileno()
        other = socket.socket(fileno=fd)
        other.setblocking(False)
        try:
            with pytest.raises(
                RuntimeError, match=f"File descriptor {fd} is used by transport"
            ):
                await loop.sock_recv(other, 10)
        finally:
            other.detach()
        transport.close()
        two.close()
        await turns()

    run(main())


# ---- errors ----


def test_what_cannot_be_waited_for(tmp_path):
    class File:
        """What a careless program might pass."""

        def __init__(self, file):
            self.fileno = file.fileno

        def gettimeout(self):
            return 0

        def recv(self, size):
            raise BlockingIOError

    async def main():
        loop = asyncio.get_running_loop()
        with (tmp_path / "file").open("wb") as file:
            sock = File(file)
            with pytest.raises(PermissionError):
                await loop.sock_recv(sock, 10)
        sock.fileno = lambda: -1
        with pytest.raises(ValueError, match="Invalid file descriptor: -1"):
            await loop.sock_recv(sock, 10)
        sock.fileno = lambda: "one"
        with pytest.raises(TypeError):
            await loop.sock_recv(sock, 10)

    run(main())


def test_a_reset_wakes_reader_and_writer():
    async def main():
        loop = asyncio.get_running_loop()
        one, two = tcp_pair()
        with one:
            one.setblocking(False)
            reading = asyncio.create_task(loop.sock_recv(one, 10))
            await turns()
            writing = asyncio.create_task(loop.sock_sendall(one, bytes(20_000_000)))
            await turns()
            assert not writing.done()
            reset(two)
            results = await asyncio.gather(reading, writing, return_exceptions=True)
            assert all(isinstance(result, OSError) for result in results), results
            assert ConnectionResetError in {type(result) for result in results}

    run(main())


def test_no_descriptors_left(pair):
    one, _ = pair
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def main():
        loop = asyncio.get_running_loop()
        highest = max(open_descriptors())
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest, limits[1]))
        taken = []
        try:
            while True:
                taken.append(os.dup(0))
        except OSError:
            pass
        try:
            with pytest.raises(OSError) as caught:
                await loop.sock_recv(one, 10)
            assert caught.value.errno == errno.EMFILE
        finally:
            for fd in taken:
                os.close(fd)
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        task = asyncio.create_task(loop.sock_recv(one, 10))
        await turns()
        assert not task.done()
        task.cancel()

    run(main())


def polls(loop):
    return [handle for handle in loop.uv_loop.handles if isinstance(handle, uv.Poll)]


def test_poll_closed_behind_our_back(pair):
    one, two = pair

    async def main():
        loop = asyncio.get_running_loop()
        for i in range(3):
            task = asyncio.create_task(loop.sock_recv(one, 10))
            await turns()
            (poll,) = polls(loop)
            poll.close()
            await turns()
            two.send(b"%d" % i)
            assert await task == b"%d" % i

    run(main())


def test_epoll_replaced_behind_our_back(pair):
    """Not with the loop's promise, but nothing hangs or dies."""
    one, two = pair

    async def main():
        loop = asyncio.get_running_loop()
        task = asyncio.create_task(loop.sock_recv(one, 10))
        await turns()
        (poll,) = polls(loop)
        fd = poll.fileno()
        os.close(fd)
        other, peer = socket.socketpair()
        with peer:
            os.dup2(other.detach(), fd)
            poll.close()
            await turns()
            two.send(b"x")
            task.cancel()
            with pytest.raises((asyncio.CancelledError, OSError)):
                await task
            os.close(fd)

    run(main())


# ---- the end ----


def test_waiting_when_the_loop_is_closed(pair):
    one, _ = pair
    before = open_descriptors()
    loop = uvtulip.new_event_loop()
    loop.set_exception_handler(lambda loop, context: None)
    task = loop.create_task(loop.sock_recv(one, 10))
    loop.call_later(0.01, loop.stop)
    loop.run_forever()
    assert not task.done()
    loop.close()
    coroutine = loop.sock_recv(one, 10)
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        coroutine.send(None)
    task._log_destroy_pending = False
    task = None
    gc.collect()
    assert open_descriptors() == before


def test_a_loop_that_is_dropped_with_waits(pair):
    one, _ = pair
    before = open_descriptors()

    class Loop(uvtulip.Loop):
        def __del__(self):
            pass

    loop = Loop()
    gone = weakref.ref(loop)
    task = loop.create_task(loop.sock_recv(one, 10))
    task._log_destroy_pending = False
    loop.call_later(0.01, loop.stop)
    loop.run_forever()
    loop = task = None
    gc.collect()
    gc.collect()
    assert gone() is None
    assert open_descriptors() == before


@pytest.mark.parametrize("how", ["collect", "close the sockets"])
def test_a_forked_child_does_not_disturb(pair, how):
    """It has the same open epoll, and the same open sockets."""
    one, two = pair

    async def start(loop):
        task = loop.create_task(loop.sock_recv(one, 10))
        await turns()
        return task

    with warnings.catch_warnings():
        # The tests may have left threads.
        warnings.simplefilter("ignore", DeprecationWarning)
        loop = uvtulip.new_event_loop()
        task = loop.run_until_complete(start(loop))

        def child():
            nonlocal loop, task
            if how == "collect":
                task._log_destroy_pending = False
                loop = task = None
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", ResourceWarning)
                    gc.collect()
            else:
                one.close()
                two.close()

        in_child(child)
    two.send(b"x")
    assert loop.run_until_complete(task) == b"x"
    task = loop.run_until_complete(start(loop))
    two.send(b"y")
    assert loop.run_until_complete(task) == b"y"
    loop.close()


def test_many_sockets_at_once():
    """More than one call of epoll_wait() can report."""

    async def main():
        loop = asyncio.get_running_loop()
        pairs = [socket.socketpair() for _ in range(300)]
        tasks = []
        for one, two in pairs:
            one.setblocking(False)
            two.setblocking(False)
            tasks.append(asyncio.create_task(loop.sock_recv(one, 10)))
        await turns()
        for i, (_, two) in enumerate(pairs):
            two.send(b"%d" % i)
        assert await asyncio.gather(*tasks) == [b"%d" % i for i in range(300)]
        for one, two in pairs:
            one.close()
            two.close()

    run(main())
