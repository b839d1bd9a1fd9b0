"""What is behind a short read, and what a socket's end or error says, reaches the
protocol; nothing of it makes the loop turn without a pause."""

import asyncio
import errno
import os
import socket

import pytest

import aiosupport
from aiosupport import run
from datagramsupport import Datagrams
from ptysupport import hung_up_terminal
from streamsupport import tcp_pair

IP_RECVERR = getattr(socket, "IP_RECVERR", 11)


class Plain(asyncio.Protocol):
    def __init__(self):
        self.data = b""
        self.events = []
        self.lost = asyncio.get_running_loop().create_future()

    def data_received(self, data):
        self.data += data

    def eof_received(self):
        self.events.append("eof")

    def connection_lost(self, exc):
        self.lost.set_result(exc)


class Buffered(Plain, asyncio.BufferedProtocol):
    def get_buffer(self, sizehint):
        self.buffer = bytearray(3000)
        return self.buffer

    def buffer_updated(self, nbytes):
        self.data += self.buffer[:nbytes]


protocols = pytest.mark.parametrize("factory", [Plain, Buffered])


@protocols
@pytest.mark.parametrize("pauses", [False, True])
def test_terminal(factory, pauses):
    async def main():
        loop = asyncio.get_running_loop()
        sent = bytes(range(250)) * 36
        file = os.fdopen(hung_up_terminal(sent), "rb", 0)
        transport, protocol = await loop.connect_read_pipe(factory, file)
        if pauses:
            while not protocol.lost.done():
                transport.pause_reading()
                await aiosupport.turns()
                transport.resume_reading()
                await aiosupport.turns()
        exc = await protocol.lost
        assert protocol.data == sent
        assert exc.errno == errno.EIO

    run(main())


def test_terminal_through_a_stream_reader():
    async def main():
        loop = asyncio.get_running_loop()
        master = hung_up_terminal(bytes(9000))
        reader = asyncio.StreamReader()
        await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(master, "rb", 0)
        )
        assert await reader.readexactly(9000) == bytes(9000)
        with pytest.raises(OSError) as caught:
            await reader.read()
        assert caught.value.errno == errno.EIO

    run(main())


@protocols
def test_descriptors_sent_along(factory):
    async def main():
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        for number in range(5):
            socket.send_fds(theirs, [b"%d" % number], [0])
        theirs.close()
        _, protocol = await loop.create_unix_connection(factory, sock=ours)
        assert await protocol.lost is None
        assert (protocol.data, protocol.events) == (b"01234", ["eof"])

    run(main())


@protocols
@pytest.mark.parametrize("inline", [False, True])
def test_urgent_byte(factory, inline):
    async def main():
        loop = asyncio.get_running_loop()
        ours, theirs = tcp_pair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, inline)
        ours.shutdown(socket.SHUT_WR)
        theirs.sendall(b"before")
        theirs.send(b"!", socket.MSG_OOB)
        theirs.sendall(b"behind")
        theirs.close()
        _, protocol = await loop.create_connection(factory, sock=ours)
        assert await protocol.lost is None
        assert protocol.data == (b"before!behind" if inline else b"beforebehind")
        assert protocol.events == ["eof"]

    run(main())


def unconnected():
    return socket.socket()


def ended():
    ours, theirs = tcp_pair()
    ours.shutdown(socket.SHUT_RDWR)
    theirs.close()
    return ours


def with_a_rest():
    ours, theirs = socket.socketpair()
    theirs.sendall(b"rest")
    theirs.close()
    return ours


@pytest.mark.parametrize(
    ("make", "data", "code"),
    [
        (unconnected, b"", errno.ENOTCONN),
        (ended, b"", None),
        (with_a_rest, b"rest", None),
    ],
)
def test_socket_that_is_over(make, data, code):
    async def main():
        loop = asyncio.get_running_loop()
        methods = [loop.connect_accepted_socket]
        methods += [
            loop.create_unix_connection
            if make is with_a_rest
            else loop.create_connection
        ]
        for method in methods:
            transport, protocol = await method(Plain, sock=make())
            exc = await protocol.lost
            assert protocol.data == data
            assert (exc and exc.errno) == code
            assert protocol.events == ([] if code else ["eof"])
            assert transport.is_closing()

    run(main())


@pytest.mark.parametrize("given", ["path", "socket"])
def test_server_removes_its_own_file_only(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkdir("elsewhere")
    (tmp_path / "elsewhere" / "s").write_text("a stranger's")

    async def serve():
        loop = asyncio.get_running_loop()
        if given == "path":
            return await loop.create_unix_server(Plain, "s", cleanup_socket=True)
        sock = socket.socket(socket.AF_UNIX)
        sock.bind("s")
        return await loop.create_unix_server(Plain, sock=sock, cleanup_socket=True)

    async def main():
        server = await serve()
        os.chdir("elsewhere")
        server.close()
        await server.wait_closed()
        assert (tmp_path / "elsewhere" / "s").exists()
        assert not (tmp_path / "s").exists()
        os.chdir(tmp_path)
        server = await serve()
        os.unlink("s")
        other = await serve()
        server.close()
        await server.wait_closed()
        assert (tmp_path / "s").exists()
        other.close()
        await other.wait_closed()
        assert not (tmp_path / "s").exists()

    run(main())


def test_unix_listener_that_is_shut_down(tmp_path):
    async def main():
        loop = asyncio.get_running_loop()
        contexts = []
        loop.set_exception_handler(lambda loop, context: contexts.append(context))
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(tmp_path / "s"))
        server = await loop.create_unix_server(Plain, sock=sock)
        sock.shutdown(socket.SHUT_RDWR)
        while not contexts:
            await asyncio.sleep(0.001)
        turns = loop.uv_loop.metrics().loop_count
        await asyncio.sleep(0.1)
        assert loop.uv_loop.metrics().loop_count - turns < 50
        assert len(contexts) == 1
        assert contexts[0]["exception"].errno == errno.EINVAL
        server.close()

    run(main())


def error_queue_socket():
    """A socket with an error of a datagram and its details."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gone:
        gone.bind(("127.0.0.1", 0))
        address = gone.getsockname()
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
    sock.setblocking(False)
    sock.sendto(b"x", address)
    return sock


def test_endpoint_with_a_queue_of_errors():
    async def main():
        loop = asyncio.get_running_loop()
        sock = error_queue_socket()
        transport, protocol = await loop.create_datagram_endpoint(Datagrams, sock=sock)
        assert isinstance(await protocol.error(), ConnectionRefusedError)
        turns = loop.uv_loop.metrics().loop_count
        await asyncio.sleep(0.1)
        assert loop.uv_loop.metrics().loop_count - turns < 50
        transport.sendto(b"hello", transport.get_extra_info("sockname"))
        assert await protocol.until(1) == [b"hello"]
        transport.close()

    run(main())


def test_reader_of_a_queue_of_errors():
    """Nobody takes the details of the error; what comes is still told."""

    async def main():
        loop = asyncio.get_running_loop()
        sock = error_queue_socket()
        got = []

        def on_readable():
            try:
                got.append(sock.recv(100))
            except OSError as exc:
                got.append(exc.errno)

        loop.add_reader(sock, on_readable)
        await asyncio.sleep(0.1)
        assert got[0] == errno.ECONNREFUSED
        assert len(got) < 50
        sock.sendto(b"hello", sock.getsockname())
        while b"hello" not in got:
            await asyncio.sleep(0.001)
        loop.remove_reader(sock)
        sock.close()

    run(main())
