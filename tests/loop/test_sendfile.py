"""sendfile() and sock_sendfile()."""

import asyncio
import io
import itertools
import os
import socket
import ssl

import pytest

import tlssupport
from aiosupport import Echo, Recorder, open_descriptors, run, turns, until
from streamsupport import Peer, reset, tcp_pair

# Not a multiple of anything, and more than the kernel's buffers take.
DATA = os.urandom(1 << 20) * 7 + b"end"


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "data"
    path.write_bytes(DATA)
    return path


@pytest.fixture
def file(path):
    with path.open("rb") as file:
        yield file


def socket_pair(kind):
    one, two = tcp_pair() if kind == "tcp" else socket.socketpair()
    one.setblocking(False)
    two.setblocking(False)
    return one, two


async def read_all(sock):
    loop = asyncio.get_running_loop()
    got = bytearray()
    while piece := await loop.sock_recv(sock, 1 << 20):
        got += piece
    return bytes(got)


async def flowing(sock):
    """Wait until something has come."""

    def has_data():
        try:
            return sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False

    await until(has_data)


class Memory(io.BytesIO):
    """Has a fileno() that raises."""


class Bare:
    """The least that a file has to be."""

    def __init__(self, file):
        self.fileno = file.fileno
        self.readinto = file.readinto


# ---- sock_sendfile() ----


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest.mark.parametrize(
    ("offset", "count"),
    [(0, None), (5, None), (0, 10), (1000, 3_000_000), (7, 1 << 40), (0, 1)],
)
@pytest.mark.parametrize("how", ["native", "fallback"])
def test_to_a_socket(file, kind, offset, count, how):
    async def main():
        loop = asyncio.get_running_loop()
        source = file if how == "native" else Memory(DATA)
        one, two = socket_pair(kind)
        with one, two:
            reading = asyncio.create_task(read_all(two))
            sent = await loop.sock_sendfile(
                one, source, offset, count, fallback=how == "fallback"
            )
            one.close()
            wanted = DATA[offset:] if count is None else DATA[offset : offset + count]
            assert await reading == wanted
            assert sent == len(wanted)
            assert source.tell() == offset + len(wanted)

    run(main())


def test_what_the_file_has_read_ahead_is_forgotten(file):
    async def main():
        loop = asyncio.get_running_loop()
        one, two = socket_pair("tcp")
        with one, two:
            assert file.read(10) == DATA[:10]
            assert await loop.sock_sendfile(one, file, 10, 20) == 20
            assert await loop.sock_recv(two, 100) == DATA[10:30]
            assert file.tell() == 30
            assert file.read(5) == DATA[30:35]

    run(main())


def test_a_file_that_is_hardly_one(file):
    async def main():
        loop = asyncio.get_running_loop()
        one, two = socket_pair("tcp")
        with one, two:
            assert await loop.sock_sendfile(one, Bare(file), 3, 7) == 7
            assert await loop.sock_recv(two, 100) == DATA[3:10]
            assert os.lseek(file.fileno(), 0, os.SEEK_CUR) == 10

    run(main())


def test_empty_files(tmp_path):
    async def main():
        loop = asyncio.get_running_loop()
        one, two = socket_pair("tcp")
        (tmp_path / "empty").touch()
        with one, two, (tmp_path / "empty").open("rb") as file:
            assert await loop.sock_sendfile(one, file) == 0
            assert await loop.sock_sendfile(one, Memory(b"")) == 0
            assert file.tell() == 0
            assert await loop.sock_sendfile(one, file, 10) == 0
            assert await loop.sock_sendfile(one, file, 10, 10) == 0

    run(main())


@pytest.mark.parametrize("how", ["native", "fallback"])
def test_from_the_end_of_the_file(file, how):
    """Nothing is sent, and the position is where it began."""

    async def main():
        loop = asyncio.get_running_loop()
        source = file if how == "native" else Memory(DATA)
        one, two = socket_pair("tcp")
        with one, two:
            source.seek(123)
            assert await loop.sock_sendfile(one, source, len(DATA)) == 0
            assert source.tell() == len(DATA)

    run(main())


def test_a_pipe_is_read():
    async def main():
        loop = asyncio.get_running_loop()
        one, two = socket_pair("tcp")
        reader, writer = os.pipe()
        with one, two, os.fdopen(reader, "rb", 0) as source, os.fdopen(writer, "wb", 0):
            os.write(writer, b"from a pipe")
            with pytest.raises(asyncio.SendfileNotAvailableError):
                await loop.sock_sendfile(one, source, 0, 11, fallback=False)
            assert await loop.sock_sendfile(one, source, 0, 11) == 11
            assert await loop.sock_recv(two, 100) == b"from a pipe"

    run(main())


BAD_CALLS = [
    ({"offset": -1}, ValueError, r"offset must be a non-negative integer \(got -1\)"),
    ({"offset": 1.5}, TypeError, r"offset must be a non-negative integer \(got 1.5\)"),
    ({"count": 0}, ValueError, r"count must be a positive integer \(got 0\)"),
    ({"count": -5}, ValueError, r"count must be a positive integer \(got -5\)"),
    ({"count": "1"}, TypeError, r"count must be a positive integer \(got '1'\)"),
]


@pytest.mark.parametrize(("kwargs", "error", "match"), BAD_CALLS)
def test_bad_arguments(file, kwargs, error, match):
    async def main():
        loop = asyncio.get_running_loop()
        one, two = socket_pair("tcp")
        with one, two:
            with pytest.raises(error, match=match):
                await loop.sock_sendfile(one, file, **kwargs)
            async with connected() as (transport, _):
                with pytest.raises(error, match=match):
                    await loop.sendfile(transport, file, **kwargs)

    run(main())


def test_bad_files_and_sockets(path, file):
    async def main():
        loop = asyncio.get_running_loop()
        one, two = socket_pair("tcp")
        with one, two, path.open(encoding="latin-1") as text:
            with pytest.raises(ValueError, match="opened in binary mode"):
                await loop.sock_sendfile(one, text)
            async with connected() as (transport, _):
                with pytest.raises(ValueError, match="opened in binary mode"):
                    await loop.sendfile(transport, text)
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            with pytest.raises(ValueError, match="only SOCK_STREAM type sockets"):
                await loop.sock_sendfile(sock, file)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        with context.wrap_socket(socket.socket(), server_hostname="h") as sock:
            with pytest.raises(TypeError, match="Socket cannot be of type SSLSocket"):
                await loop.sock_sendfile(sock, file)

    run(main())


def test_debug_mode_refuses_blocking_sockets(file):
    async def main():
        with socket.socket() as sock:
            with pytest.raises(ValueError, match="the socket must be non-blocking"):
                await asyncio.get_running_loop().sock_sendfile(sock, file)

    run(main(), debug=True)


def test_without_a_fallback():
    async def main():
        loop = asyncio.get_running_loop()
        one, two = socket_pair("tcp")
        with one, two:
            with pytest.raises(asyncio.SendfileNotAvailableError, match="regular file"):
                await loop.sock_sendfile(one, Memory(DATA), fallback=False)
            async with connected() as (transport, _):
                with pytest.raises(asyncio.SendfileNotAvailableError):
                    await loop.sendfile(transport, Memory(DATA), fallback=False)

    run(main())


@pytest.mark.parametrize("how", ["native", "fallback"])
def test_cancelled(file, how):
    """The position says how much went, and the socket is as usable as before."""

    async def main():
        loop = asyncio.get_running_loop()
        source = file if how == "native" else Memory(DATA)
        one, two = socket_pair("tcp")
        with one, two:
            sending = asyncio.create_task(loop.sock_sendfile(one, source))
            await flowing(two)
            assert not sending.done()
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            position = source.tell()
            assert 0 < position < len(DATA)
            one.shutdown(socket.SHUT_WR)
            got = await read_all(two)
            assert DATA.startswith(got)
            if how == "native":
                assert len(got) == position

    run(main())


@pytest.mark.parametrize("how", ["native", "fallback"])
def test_the_peer_resets_the_connection(file, how):
    async def main():
        loop = asyncio.get_running_loop()
        source = file if how == "native" else Memory(DATA)
        one, two = socket_pair("tcp")
        with one:
            sending = asyncio.create_task(loop.sock_sendfile(one, source))
            await flowing(two)
            reset(two)
            with pytest.raises(ConnectionError):
                await sending

    run(main())


@pytest.mark.parametrize("what", ["socket", "file"])
def test_closed_meanwhile(path, what):
    async def main():
        loop = asyncio.get_running_loop()
        one, two = socket_pair("tcp")
        with one, two, path.open("rb") as file:
            sending = asyncio.create_task(loop.sock_sendfile(one, file))
            await flowing(two)
            (one if what == "socket" else file).close()
            if what == "socket":
                sending.cancel()  # As asyncio, it is not told.
            else:
                while not sending.done():
                    two.recv(1 << 20)
                    await asyncio.sleep(0)
            with pytest.raises((asyncio.CancelledError, OSError, ValueError)):
                await sending

    run(main())


# ---- sendfile() ----


class connected:
    """async with: a transport over TCP, and the other end as a Peer."""

    def __init__(self, protocol=Recorder, limit=None):
        self.protocol = protocol
        self.limit = limit

    async def __aenter__(self):
        one, two = tcp_pair()
        loop = asyncio.get_running_loop()
        self.transport, _ = await loop.connect_accepted_socket(self.protocol, one)
        if self.limit is not None:
            self.transport.set_write_buffer_limits(self.limit)
        self.peer = Peer(two)
        return self.transport, self.peer

    async def __aexit__(self, *unused):
        self.peer.close()
        self.transport.abort()
        await turns()


@pytest.mark.parametrize("how", ["native", "fallback"])
@pytest.mark.parametrize(
    ("offset", "count"), [(0, None), (5, None), (0, 10), (1000, 3_000_000)]
)
def test_through_a_transport(file, offset, count, how):
    async def main():
        loop = asyncio.get_running_loop()
        source = file if how == "native" else Memory(DATA)
        async with connected() as (transport, peer):
            reading = asyncio.create_task(peer.rest())
            sent = await loop.sendfile(
                transport, source, offset, count, fallback=how == "fallback"
            )
            transport.close()
            wanted = DATA[offset:] if count is None else DATA[offset : offset + count]
            assert await reading == wanted
            assert sent == len(wanted)
            assert source.tell() == offset + len(wanted)

    run(main())


@pytest.mark.parametrize("how", ["native", "fallback"])
@pytest.mark.parametrize("size", [10, 5_000_000])
def test_what_was_written_before_goes_first(file, how, size):
    async def main():
        loop = asyncio.get_running_loop()
        source = file if how == "native" else Memory(DATA)
        before, after = os.urandom(size), os.urandom(size)
        async with connected() as (transport, peer):
            reading = asyncio.create_task(peer.rest())
            transport.write(before)
            assert await loop.sendfile(transport, source) == len(DATA)
            transport.write(after)
            transport.close()
            assert await reading == before + DATA + after

    run(main())


def test_no_writes_in_between(file):
    async def main():
        loop = asyncio.get_running_loop()
        async with connected() as (transport, peer):
            sending = asyncio.create_task(loop.sendfile(transport, file))
            await turns(2)
            for _ in range(2):
                with pytest.raises(RuntimeError, match="sendfile is in progress"):
                    transport.write(b"x")
                with pytest.raises(RuntimeError, match="sendfile is in progress"):
                    transport.writelines([b"x"])
                with pytest.raises(RuntimeError, match="sendfile is in progress"):
                    await loop.sendfile(transport, file)
            assert await peer.exactly(len(DATA)) == DATA
            assert await sending == len(DATA)
            transport.write(b"x")
            assert await peer.recv() == b"x"

    run(main())


@pytest.mark.parametrize("how", ["native", "fallback"])
def test_reading_is_paused_meanwhile(file, how):
    async def main():
        loop = asyncio.get_running_loop()
        source = file if how == "native" else Memory(DATA)
        async with connected() as (transport, peer):
            protocol = transport.get_protocol()
            await turns()
            sending = asyncio.create_task(loop.sendfile(transport, source))
            await turns(2)
            await peer.send(b"question")
            await asyncio.sleep(0.02)
            assert not transport.is_reading()
            assert protocol.data == b""
            await peer.exactly(len(DATA))
            await sending
            assert transport.is_reading()
            assert transport.get_protocol() is protocol
            await until(lambda: protocol.data == b"question")
            # And it stays paused when it was before.
            transport.pause_reading()
            assert await loop.sendfile(transport, source, 0, 5) == 5
            assert not transport.is_reading()

    run(main())


@pytest.mark.parametrize("end", [False, True])
def test_what_comes_is_not_dropped_when_somebody_resumes_reading(end):
    async def main():
        loop = asyncio.get_running_loop()
        errors = []
        loop.set_exception_handler(lambda loop, context: errors.append(context))
        async with connected() as (transport, peer):
            await turns()
            sending = asyncio.create_task(loop.sendfile(transport, Memory(DATA)))
            await turns(2)
            transport.resume_reading()
            if end:
                peer.sock.shutdown(socket.SHUT_WR)
            else:
                await peer.send(b"question")
            with pytest.raises((RuntimeError, ConnectionError)):
                await sending
            assert transport.is_closing()
            (context,) = errors
            assert "reading should be paused" in str(context["exception"])

    run(main())


def test_a_protocol_that_is_set_meanwhile_stays():
    async def main():
        loop = asyncio.get_running_loop()
        async with connected() as (transport, peer):
            await turns()
            sending = asyncio.create_task(loop.sendfile(transport, Memory(DATA)))
            await turns(2)
            protocol = Recorder()
            protocol.connection_made(transport)
            transport.set_protocol(protocol)
            sending.cancel()
            await asyncio.wait([sending])
            assert transport.get_protocol() is protocol
            await peer.send(b"question")
            await until(lambda: protocol.data == b"question")

    run(main())


@pytest.mark.parametrize("how", ["native", "fallback"])
def test_the_peer_resets_a_transport(file, how):
    async def main():
        loop = asyncio.get_running_loop()
        source = file if how == "native" else Memory(DATA)
        async with connected() as (transport, peer):
            protocol = transport.get_protocol()
            sending = asyncio.create_task(loop.sendfile(transport, source))
            await peer.exactly(1000)
            peer.reset()
            with pytest.raises(ConnectionError):
                await sending
            await until(lambda: protocol.lost)
            assert transport.is_closing()
            if how == "native":
                assert 1000 <= source.tell() < len(DATA)

    run(main())


@pytest.mark.parametrize("how", ["close", "abort"])
@pytest.mark.parametrize("what", ["native", "fallback"])
def test_closed_by_somebody_else(file, how, what):
    """The number of the descriptor may be another connection's right after."""

    async def main():
        loop = asyncio.get_running_loop()
        source = file if what == "native" else Memory(DATA)
        async with connected() as (transport, peer):
            protocol = transport.get_protocol()
            sending = asyncio.create_task(loop.sendfile(transport, source))
            await flowing(peer.sock)
            getattr(transport, how)()
            if how == "close" and what == "fallback":
                got = await peer.rest()
                assert DATA.startswith(got)
            with pytest.raises(ConnectionError):
                await sending
            await until(lambda: protocol.lost)
            others = [socket_pair("tcp") for _ in range(3)]
            await turns()
            for sock in itertools.chain(*others):
                with pytest.raises(BlockingIOError):
                    sock.recv(1)
            for sock in itertools.chain(*others):
                sock.close()

    run(main())


@pytest.mark.parametrize("how", ["native", "fallback"])
def test_cancelled_on_a_transport(file, how):
    async def main():
        loop = asyncio.get_running_loop()
        source = file if how == "native" else Memory(DATA)
        async with connected() as (transport, peer):
            transport.write(b"before")
            sending = asyncio.create_task(loop.sendfile(transport, source))
            await flowing(peer.sock)
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            position = source.tell()
            transport.write(b"after")
            transport.close()
            got = await peer.rest()
            assert got.startswith(b"before")
            assert got.endswith(b"after")
            if how == "native":
                assert got == b"before" + DATA[:position] + b"after"

    run(main())


def test_cancelled_before_its_turn(file):
    """While what was written before is still being sent."""

    async def main():
        loop = asyncio.get_running_loop()
        async with connected() as (transport, peer):
            transport.write(DATA)
            sending = asyncio.create_task(loop.sendfile(transport, file))
            await turns()
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            transport.write(b"after")
            transport.close()
            assert await peer.rest() == DATA + b"after"
            assert file.tell() == 0

    run(main())


@pytest.mark.parametrize("how", ["reset", "abort"])
def test_lost_before_its_turn(file, how):
    async def main():
        loop = asyncio.get_running_loop()
        async with connected() as (transport, peer):
            transport.write(DATA)
            sending = asyncio.create_task(loop.sendfile(transport, file))
            await turns()
            if how == "reset":
                peer.reset()
            else:
                transport.abort()
            with pytest.raises(ConnectionError):
                await sending
            assert file.tell() == 0

    run(main())


def test_closing_transports_are_refused(file):
    async def main():
        loop = asyncio.get_running_loop()
        async with connected() as (transport, _):
            transport.close()
            with pytest.raises(RuntimeError, match="Transport is closing"):
                await loop.sendfile(transport, file)

    run(main())


class Stranger(asyncio.Transport):
    def is_closing(self):
        return False


def test_transports_without_sendfile_are_refused(file):
    async def main():
        loop = asyncio.get_running_loop()
        datagrams, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
        )
        for transport in (Stranger(), datagrams):
            with pytest.raises(RuntimeError, match="sendfile is not supported for tr"):
                await loop.sendfile(transport, file)
        datagrams.close()

    run(main())


class Flow(Recorder):
    """Its methods have to be called in turns."""

    def __init__(self):
        super().__init__()
        self.paused = False
        self.calls = 0

    def pause_writing(self):
        assert not self.paused
        self.paused = True
        self.calls += 1

    def resume_writing(self):
        assert self.paused
        self.paused = False


def test_native_leaves_flow_control_alone(file):
    async def main():
        loop = asyncio.get_running_loop()
        async with connected(Flow) as (transport, peer):
            reading = asyncio.create_task(peer.rest())
            await loop.sendfile(transport, file)
            assert transport.get_protocol().calls == 0
            transport.close()
            await reading

    run(main())


@pytest.mark.parametrize("cancel", [True, False])
def test_a_paused_protocol_is_resumed(file, cancel):
    """Whoever was in its place when the room came back."""

    async def main():
        loop = asyncio.get_running_loop()
        async with connected(Flow) as (transport, peer):
            protocol = transport.get_protocol()
            transport.write(DATA)
            assert protocol.paused
            sending = asyncio.create_task(loop.sendfile(transport, Memory(DATA)))
            await turns()
            if cancel:
                sending.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await sending
                assert protocol.paused
            reading = asyncio.create_task(peer.rest())
            if not cancel:
                assert await sending == len(DATA)
            transport.close()
            assert await reading == DATA * (1 if cancel else 2)
            assert not protocol.paused

    run(main())


def test_a_protocol_is_paused_when_the_filler_leaves(file):
    async def main():
        loop = asyncio.get_running_loop()
        async with connected(Flow) as (transport, peer):
            protocol = transport.get_protocol()
            sending = asyncio.create_task(loop.sendfile(transport, Memory(DATA)))
            await until(lambda: transport._protocol_paused)
            assert not protocol.paused
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            assert protocol.paused
            transport.close()
            await peer.rest()
            assert not protocol.paused

    run(main())


def test_no_descriptor_is_left(path):
    before = open_descriptors()

    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        for i in range(10):
            transport, protocol = await loop.create_connection(
                Recorder, *server.sockets[0].getsockname()
            )
            with path.open("rb") as file:
                sending = asyncio.create_task(loop.sendfile(transport, file))
                await turns(i)
                if i % 2:
                    sending.cancel()
                else:
                    transport.abort()
                await asyncio.gather(sending, return_exceptions=True)
            transport.abort()
            await until(lambda protocol=protocol: protocol.lost)
        server.close()
        await server.wait_closed()

    run(main())
    assert open_descriptors() == before


# ---- TLS ----


@pytest.mark.parametrize("size", [0, 10, 2_000_000])
def test_through_tls(file, size):
    """By reading and writing, whatever was written before and after."""

    async def main():
        loop = asyncio.get_running_loop()
        sink = Recorder()
        server = await loop.create_server(
            lambda: sink, "127.0.0.1", 0, ssl=tlssupport.server_context()
        )
        transport, protocol = await loop.create_connection(
            Flow,
            *server.sockets[0].getsockname(),
            ssl=tlssupport.client_context(),
            server_hostname="localhost",
        )
        before, after = os.urandom(size), os.urandom(size)
        transport.write(before)
        with pytest.raises(RuntimeError, match="fallback is disabled"):
            await loop.sendfile(transport, file, fallback=False)
        assert await loop.sendfile(transport, file) == len(DATA)
        assert file.tell() == len(DATA)
        assert await loop.sendfile(transport, file, 10, 20) == 20
        assert file.tell() == 30
        transport.write(after)
        transport.close()
        await until(lambda: sink.lost and protocol.lost)
        assert sink.data == before + DATA + DATA[10:30] + after
        server.close()
        await server.wait_closed()

    run(main())
