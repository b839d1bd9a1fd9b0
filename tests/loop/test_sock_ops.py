"""sock_recv() and its like."""

import asyncio
import errno
import os
import socket

import pytest

import aiosupport
from aiosupport import run, turns


@pytest.fixture
def pair():
    one, two = socket.socketpair()
    with one, two:
        one.setblocking(False)
        two.setblocking(False)
        yield one, two


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.setblocking(False)
        yield sock


def test_recv_what_is_there(pair):
    one, two = pair

    async def main():
        two.send(b"abc")
        assert await asyncio.get_running_loop().sock_recv(one, 2) == b"ab"
        buffer = bytearray(4)
        assert await asyncio.get_running_loop().sock_recv_into(one, buffer) == 1
        assert buffer == b"c\0\0\0"

    run(main())


def test_recv_waits(pair):
    one, two = pair

    async def main():
        loop = asyncio.get_running_loop()
        task = loop.create_task(loop.sock_recv(one, 100))
        await turns()
        assert not task.done()
        two.send(b"now")
        assert await task == b"now"
        buffer = bytearray(4)
        task = loop.create_task(loop.sock_recv_into(one, buffer))
        await turns()
        two.send(b"more")
        assert await task == 4
        assert buffer == b"more"
        assert not loop.remove_reader(one)

    run(main())


def test_recv_end_and_error(pair):
    one, two = pair

    async def main():
        loop = asyncio.get_running_loop()
        task = loop.create_task(loop.sock_recv(one, 100))
        await turns()
        two.close()
        assert await task == b""
        one.close()
        with pytest.raises(OSError) as caught:
            await loop.sock_recv(one, 1)
        assert caught.value.errno == errno.EBADF

    run(main())


def test_sendall_more_than_the_kernel_takes(pair):
    one, two = pair
    data = os.urandom(3_000_000)

    async def main():
        loop = asyncio.get_running_loop()
        task = loop.create_task(loop.sock_sendall(one, data))
        got = bytearray()
        while len(got) < len(data):
            got += await loop.sock_recv(two, 65536)
        await task
        assert got == data
        assert not loop.remove_writer(one)

    run(main())


@pytest.mark.parametrize(
    "data", [b"", b"x", bytearray(b"xy"), memoryview(b"wxyz")[::1]]
)
def test_sendall_kinds_of_data(pair, data):
    one, two = pair

    async def main():
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(one, data)
        one.close()
        assert await loop.sock_recv(two, 10) == bytes(data)

    run(main())


def test_sendall_of_wide_items(pair):
    one, two = pair

    async def main():
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(one, memoryview(b"12345678").cast("I"))
        assert await loop.sock_recv(two, 10) == b"12345678"
        with pytest.raises(TypeError):
            await loop.sock_sendall(one, "text")

    run(main())


def test_sendall_to_nobody(pair):
    one, two = pair
    two.close()

    async def main():
        with pytest.raises(BrokenPipeError):
            await asyncio.get_running_loop().sock_sendall(one, b"x")

    run(main())


@pytest.mark.parametrize("wait", range(5))
def test_cancelled_recv_loses_no_data(pair, wait):
    one, two = pair

    async def main():
        loop = asyncio.get_running_loop()
        task = loop.create_task(loop.sock_recv(one, 100))
        await turns(2)
        two.send(b"data")
        await turns(wait)
        task.cancel()
        try:
            got = await task
        except asyncio.CancelledError:
            got = await loop.sock_recv(one, 100)
        assert got == b"data"
        assert not loop.remove_reader(one)

    run(main())


@pytest.mark.parametrize("wait", range(5))
def test_cancelled_accept_loses_no_connection(listener, wait, no_leak):
    async def main():
        loop = asyncio.get_running_loop()
        task = loop.create_task(loop.sock_accept(listener))
        await turns(2)
        with socket.create_connection(listener.getsockname()) as client:
            await turns(wait)
            task.cancel()
            try:
                conn, address = await task
            except asyncio.CancelledError:
                conn, address = await loop.sock_accept(listener)
            assert address == client.getsockname()
            conn.close()

    run(main())


def test_connect_and_accept(listener, no_leak):
    async def main():
        loop = asyncio.get_running_loop()
        with socket.socket() as client:
            client.setblocking(False)
            accepting = loop.create_task(loop.sock_accept(listener))
            await loop.sock_connect(client, listener.getsockname())
            conn, address = await accepting
            with conn:
                assert conn.gettimeout() == 0
                assert address == client.getsockname()
                await loop.sock_sendall(client, b"hello")
                assert await loop.sock_recv(conn, 10) == b"hello"

    run(main())


def test_connect_resolves(listener):
    async def main():
        loop = asyncio.get_running_loop()
        with socket.socket() as client:
            client.setblocking(False)
            await loop.sock_connect(client, ("localhost", listener.getsockname()[1]))
            assert client.getpeername() == listener.getsockname()

    run(main())


def test_connect_refused(refusing_port):
    async def main():
        loop = asyncio.get_running_loop()
        port = refusing_port
        with socket.socket() as client:
            client.setblocking(False)
            with pytest.raises(ConnectionRefusedError) as caught:
                await loop.sock_connect(client, ("127.0.0.1", port))
            assert caught.value.strerror == (
                f"Connect call failed ('127.0.0.1', {port})"
            )
            assert not loop.remove_writer(client)

    run(main())


def test_connect_unix(tmp_path):
    async def main():
        loop = asyncio.get_running_loop()
        path = str(tmp_path / "socket")
        with (
            socket.socket(socket.AF_UNIX) as server,
            socket.socket(socket.AF_UNIX) as client,
        ):
            server.bind(path)
            server.listen()
            server.setblocking(False)
            client.setblocking(False)
            await loop.sock_connect(client, path)
            conn, _ = await loop.sock_accept(server)
            conn.close()

    run(main())


def test_accepted_sockets_are_as_asyncio_makes_them(tmp_path):
    async def main():
        loop = asyncio.get_running_loop()
        families = [(socket.AF_INET, ("127.0.0.1", 0))]
        families += [(socket.AF_UNIX, str(tmp_path / "socket"))]
        if aiosupport.has_ipv6():
            families += [(socket.AF_INET6, ("::1", 0))]
        for family, address in families:
            with socket.socket(family) as listener, socket.socket(family) as client:
                listener.bind(address)
                listener.listen()
                listener.setblocking(False)
                client.connect(listener.getsockname())
                conn, peer = await loop.sock_accept(listener)
                with conn:
                    assert type(conn) is socket.socket
                    assert conn.family == family
                    assert conn.type == socket.SOCK_STREAM
                    assert conn.proto == listener.proto
                    assert conn.gettimeout() == 0
                    assert not os.get_blocking(conn.fileno())
                    assert not os.get_inheritable(conn.fileno())
                    assert peer == client.getsockname()

    run(main())


class Listener(socket.socket):
    def accept(self):
        conn, _ = super().accept()
        return conn, "somebody"


def test_accept_of_a_subclass(no_leak):
    async def main():
        loop = asyncio.get_running_loop()
        with Listener() as listener, socket.socket() as client:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            listener.setblocking(False)
            accepting = asyncio.create_task(loop.sock_accept(listener))
            await turns()
            client.connect(listener.getsockname())
            conn, peer = await accepting
            with conn:
                assert peer == "somebody"
                assert conn.gettimeout() == 0

    run(main())


def test_connect_to_a_unix_socket_whose_queue_is_full(tmp_path):
    """It is not connected before there is room."""

    async def main():
        loop = asyncio.get_running_loop()
        path = str(tmp_path / "socket")
        clients = []
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path)
            server.listen(0)
            server.setblocking(False)
            while True:
                client = socket.socket(socket.AF_UNIX)
                client.setblocking(False)
                clients.append(client)
                connecting = asyncio.create_task(loop.sock_connect(client, path))
                await turns()
                if not connecting.done():
                    break
                await connecting
            conn, _ = await loop.sock_accept(server)
            await connecting
            await loop.sock_sendall(client, b"x")
            conn.close()
            for client in clients:
                client.close()

    run(main())


def test_connect_again_after_a_failure(listener, refusing_port):
    async def main():
        loop = asyncio.get_running_loop()
        with socket.socket() as client:
            client.setblocking(False)
            with pytest.raises(ConnectionRefusedError):
                await loop.sock_connect(client, ("127.0.0.1", refusing_port))
            # Linux wants a failed socket to be told twice.
            with pytest.raises(ConnectionAbortedError):
                await loop.sock_connect(client, listener.getsockname())
            await loop.sock_connect(client, listener.getsockname())
            conn, _ = await loop.sock_accept(listener)
            with conn:
                await loop.sock_sendall(conn, b"x")
                assert await loop.sock_recv(client, 10) == b"x"

    run(main())


def test_connect_cancelled(no_leak):
    """The handshake stays open, since nobody accepts and the queue is full."""

    async def main():
        loop = asyncio.get_running_loop()
        with socket.socket() as listener, socket.socket() as client:
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            fillers = [socket.socket() for _ in range(4)]
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(listener.getsockname())
            client.setblocking(False)
            connecting = asyncio.create_task(
                loop.sock_connect(client, listener.getsockname())
            )
            await turns()
            assert not connecting.done()
            connecting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await connecting
            for filler in fillers:
                filler.close()

    run(main())


def test_datagrams():
    async def main():
        loop = asyncio.get_running_loop()
        with (
            socket.socket(type=socket.SOCK_DGRAM) as one,
            socket.socket(type=socket.SOCK_DGRAM) as two,
        ):
            for sock in one, two:
                sock.bind(("127.0.0.1", 0))
                sock.setblocking(False)
            task = loop.create_task(loop.sock_recvfrom(two, 100))
            await turns()
            assert await loop.sock_sendto(one, b"abc", two.getsockname()) == 3
            assert await task == (b"abc", one.getsockname())
            buffer = bytearray(10)
            task = loop.create_task(loop.sock_recvfrom_into(two, buffer))
            await turns()
            await loop.sock_sendto(one, b"defg", two.getsockname())
            assert await task == (4, one.getsockname())
            assert buffer[:4] == b"defg"

    run(main())


@pytest.mark.parametrize("nbytes", [0, 1, 65536, 65537, True])
def test_recv_sizes(pair, nbytes):
    one, two = pair

    async def main():
        loop = asyncio.get_running_loop()
        two.send(b"abc")
        assert await loop.sock_recv(one, nbytes) == b"abc"[:nbytes]

    run(main())


def outcome(call):
    try:
        return call()
    except Exception as exc:
        return type(exc), str(exc)


@pytest.mark.parametrize("nbytes", [-1, "1", 1.0, None, 1 << 70])
def test_recv_of_a_size_that_is_none(pair, nbytes):
    """The error is the socket's own."""
    one, _ = pair

    async def main():
        loop = asyncio.get_running_loop()
        for mine, theirs in (
            (loop.sock_recv, one.recv),
            (loop.sock_recvfrom, one.recvfrom),
        ):
            wanted = outcome(lambda theirs=theirs: theirs(nbytes))
            with pytest.raises(wanted[0]) as caught:
                await mine(one, nbytes)
            assert str(caught.value) == wanted[1]

    run(main())


@pytest.mark.parametrize("buffer", [b"read-only", "text", None, 1])
def test_recv_into_what_is_no_buffer(pair, buffer):
    one, _ = pair

    async def main():
        loop = asyncio.get_running_loop()
        wanted = outcome(lambda: one.recv_into(buffer))
        with pytest.raises(wanted[0]) as caught:
            await loop.sock_recv_into(one, buffer)
        assert str(caught.value) == wanted[1]
        wanted = outcome(lambda: one.recvfrom_into(buffer, 3))
        with pytest.raises(wanted[0]) as caught:
            await loop.sock_recvfrom_into(one, buffer, 3)
        assert str(caught.value) == wanted[1]

    run(main())


def test_recv_into_buffers_of_all_kinds(pair):
    one, two = pair

    async def main():
        loop = asyncio.get_running_loop()
        assert await loop.sock_recv_into(one, bytearray()) == 0
        words = memoryview(bytearray(8)).cast("I")
        two.send(b"12345678")
        assert await loop.sock_recv_into(one, words) == 8
        assert words.tobytes() == b"12345678"
        buffer = bytearray(6)
        two.send(b"abcdef")
        assert await loop.sock_recv_into(one, memoryview(buffer)[2:4]) == 2
        assert buffer == b"\0\0ab\0\0"
        with pytest.raises(ValueError, match="nbytes is greater than the length"):
            await loop.sock_recvfrom_into(one, buffer, 7)
        assert await loop.sock_recvfrom_into(one, buffer, 3) == (3, None)
        assert buffer[:4] == b"cdeb"

    run(main())


def datagram_pair(family, folder):
    one = socket.socket(family, socket.SOCK_DGRAM)
    two = socket.socket(family, socket.SOCK_DGRAM)
    for sock, name in (one, "one"), (two, "two"):
        if family == socket.AF_UNIX:
            sock.bind(str(folder / name))
        else:
            sock.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
        sock.setblocking(False)
    return one, two


@pytest.mark.parametrize("family", ["AF_INET", "AF_INET6", "AF_UNIX"])
def test_datagrams_and_where_they_come_from(family, tmp_path):
    if family == "AF_INET6" and not aiosupport.has_ipv6():
        pytest.skip("no IPv6 here")

    async def main():
        loop = asyncio.get_running_loop()
        one, two = datagram_pair(getattr(socket, family), tmp_path)
        with one, two:
            for size in (0, 3, 9000):
                data = os.urandom(size)
                waiting = asyncio.create_task(loop.sock_recvfrom(two, 65536))
                await turns()
                assert await loop.sock_sendto(one, data, two.getsockname()) == size
                assert await waiting == (data, one.getsockname())
                await loop.sock_sendto(one, data, two.getsockname())
                assert await loop.sock_recvfrom(two, 1 << 20) == (
                    data,
                    one.getsockname(),
                )
                buffer = bytearray(10_000)
                await loop.sock_sendto(one, data, two.getsockname())
                got = await loop.sock_recvfrom_into(two, buffer)
                assert got == (size, one.getsockname())
                assert buffer[:size] == data

    run(main())


def test_datagrams_of_nobody(tmp_path):
    """A sender without an address, an abstract one, and a stream."""

    async def main():
        loop = asyncio.get_running_loop()
        two = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        path = str(tmp_path / "two")
        two.bind(path)
        two.setblocking(False)
        with two, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
            one.setblocking(False)
            await loop.sock_sendto(one, b"a", path)
            assert await loop.sock_recvfrom(two, 10) == (b"a", None)
            name = b"\0uvtulip-%d" % os.getpid()
            one.bind(name)
            await loop.sock_sendto(one, b"b", path)
            assert await loop.sock_recvfrom(two, 10) == (b"b", name)
        stream, peer = stream_pair()
        with stream, peer:
            peer.send(b"c")
            assert await loop.sock_recvfrom(stream, 10) == (b"c", None)

    run(main())


def stream_pair():
    one, two = socket.socketpair()
    one.setblocking(False)
    return one, two


def test_sendto_waits(tmp_path):
    async def main():
        loop = asyncio.get_running_loop()
        one, two = datagram_pair(socket.AF_UNIX, tmp_path)
        with one, two:

            async def send():
                for i in range(2000):
                    await loop.sock_sendto(one, b"%d" % i, two.getsockname())

            sending = asyncio.create_task(send())
            await turns()
            assert not sending.done()
            for i in range(2000):
                assert (await loop.sock_recvfrom(two, 10))[0] == b"%d" % i
            await sending

    run(main())


def test_a_socket_that_blocks_does_not_block_the_loop():
    """Outside of debug mode nobody is told; no harm is done either."""
    one, two = socket.socketpair()

    async def main():
        loop = asyncio.get_running_loop()
        reading = asyncio.create_task(loop.sock_recv(one, 10))
        sending = asyncio.create_task(loop.sock_sendall(one, bytes(2_000_000)))
        await turns()
        two.send(b"x")
        assert await reading == b"x"
        left = 2_000_000
        while left:
            left -= len(await loop.sock_recv(two, 1 << 20))
        await sending
        assert one.gettimeout() is None

    with one, two:
        run(main(), debug=False)


def test_read_and_write_at_once(pair):
    one, two = pair

    async def main():
        loop = asyncio.get_running_loop()
        reading = loop.create_task(loop.sock_recv(one, 10))
        writing = loop.create_task(loop.sock_sendall(one, bytes(3_000_000)))
        await turns()
        two.send(b"x")
        assert await reading == b"x"
        assert not writing.done()
        left = 3_000_000
        while left:
            left -= len(await loop.sock_recv(two, 1 << 20))
        await writing

    run(main())


def test_descriptor_used_again_after_cancel():
    """What a cancelled wait gives up is not taken from the next user."""

    async def main():
        loop = asyncio.get_running_loop()
        for _ in range(3):
            one, two = socket.socketpair()
            one.setblocking(False)
            task = loop.create_task(loop.sock_recv(one, 10))
            await turns()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            two.send(b"later")
            assert await loop.sock_recv(one, 10) == b"later"
            one.close()
            two.close()

    run(main())


def test_the_later_of_two_waits_counts(pair):
    """And cancelling the earlier one does not disturb it."""
    one, two = pair

    async def main():
        loop = asyncio.get_running_loop()
        earlier = loop.create_task(loop.sock_recv(one, 10))
        await turns()
        later = loop.create_task(loop.sock_recv(one, 10))
        await turns()
        earlier.cancel()
        await turns()
        two.send(b"data")
        assert await later == b"data"
        with pytest.raises(asyncio.CancelledError):
            await earlier

    run(main())


def test_cancelled_and_at_once_waited_for_again(pair):
    one, two = pair

    async def main():
        loop = asyncio.get_running_loop()
        earlier = loop.create_task(loop.sock_recv(one, 10))
        await turns()
        earlier.cancel()
        two.setblocking(False)
        loop.call_later(0.01, two.send, b"data")
        assert await loop.sock_recv(one, 10) == b"data"
        assert earlier.cancelled()

    run(main())


def test_cancelled_wait_and_a_reader_of_its_own(pair):
    one, two = pair

    async def main():
        loop = asyncio.get_running_loop()
        earlier = loop.create_task(loop.sock_recv(one, 10))
        await turns()
        earlier.cancel()
        got = loop.create_future()
        loop.add_reader(one, lambda: got.done() or got.set_result(one.recv(10)))
        await turns()
        two.send(b"data")
        assert await got == b"data"
        assert loop.remove_reader(one)

    run(main())


@pytest.mark.parametrize(
    "call",
    [
        lambda loop, sock: loop.sock_recv(sock, 1),
        lambda loop, sock: loop.sock_recv_into(sock, bytearray(1)),
        lambda loop, sock: loop.sock_recvfrom(sock, 1),
        lambda loop, sock: loop.sock_recvfrom_into(sock, bytearray(1)),
        lambda loop, sock: loop.sock_sendall(sock, b""),
        lambda loop, sock: loop.sock_sendto(sock, b"", ""),
        lambda loop, sock: loop.sock_connect(sock, ("127.0.0.1", 1)),
        lambda loop, sock: loop.sock_accept(sock),
    ],
)
def test_debug_mode_refuses_blocking_sockets(call):
    async def main():
        with socket.socket() as sock:
            with pytest.raises(ValueError, match="the socket must be non-blocking"):
                await call(asyncio.get_running_loop(), sock)

    run(main(), debug=True)


def test_ssl_sockets_are_refused():
    import ssl

    async def main():
        loop = asyncio.get_running_loop()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        with context.wrap_socket(socket.socket(), server_hostname="h") as sock:
            with pytest.raises(TypeError, match="Socket cannot be of type SSLSocket"):
                await loop.sock_recv(sock, 1)
            with pytest.raises(TypeError, match="Socket cannot be of type SSLSocket"):
                await loop.create_connection(asyncio.Protocol, sock=sock)

    run(main())
