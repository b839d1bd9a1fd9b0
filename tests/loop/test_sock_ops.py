"""sock_recv() and its like."""

import asyncio
import errno
import gc
import os
import socket

import pytest

import aiosupport
from aiosupport import open_descriptors, run, turns


@pytest.fixture
def no_leak():
    gc.collect()
    before = open_descriptors()
    yield
    gc.collect()
    assert open_descriptors() == before


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


def test_connect_refused():
    async def main():
        loop = asyncio.get_running_loop()
        port = aiosupport.free_port()
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
