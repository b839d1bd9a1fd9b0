"""What asyncio's loop does when another thread calls it without
call_soon_threadsafe(): it is done, and the loop is woken for it."""

import asyncio
import os
import socket
import threading

import pytest

import uvtulip
from aiosupport import LIMIT, Recorder
from tlssupport import client_context, server_context


class Elsewhere:
    """A loop that another thread runs, and that has nothing else to do."""

    def __enter__(self):
        self.loop = uvtulip.new_event_loop()
        self.errors = []
        self.loop.set_exception_handler(
            lambda loop, context: self.errors.append(context)
        )
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.call(asyncio.sleep(0))
        return self

    def call(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(LIMIT)

    def __exit__(self, *exc):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(LIMIT)
        assert not self.thread.is_alive()
        self.loop.close()
        assert self.errors == []


def settle(there):
    """The loop waits in its poll again, most likely."""
    there.call(asyncio.sleep(0.01))


# ---- callbacks ----


@pytest.mark.parametrize("how", ["call_soon", "call_later", "call_at", "create_task"])
def test_callbacks(how):
    with Elsewhere() as there:
        settle(there)
        done = threading.Event()
        if how == "call_soon":
            there.loop.call_soon(done.set)
        elif how == "call_later":
            there.loop.call_later(0.001, done.set)
        elif how == "call_at":
            there.loop.call_at(there.loop.time() + 0.001, done.set)
        else:

            async def task():
                done.set()

            there.loop.create_task(task())
        assert done.wait(LIMIT)


def test_a_timer_is_cancelled():
    with Elsewhere() as there:
        fired, later = [], threading.Event()
        timer = there.loop.call_later(0.05, fired.append, 1)
        timer.cancel()
        there.loop.call_later(0.1, later.set)
        assert later.wait(LIMIT)
        assert fired == []


def test_debug_mode_refuses():
    with Elsewhere() as there:
        there.loop.set_debug(True)
        there.call(asyncio.sleep(0))
        a, b = socket.socketpair()
        with a, b:
            for call in (
                lambda: there.loop.call_soon(print),
                lambda: there.loop.call_later(0, print),
                lambda: there.loop.call_at(0, print),
                lambda: there.loop.add_reader(a, print),
                lambda: there.loop.remove_reader(a),
            ):
                with pytest.raises(RuntimeError, match="on-thread-safe"):
                    call()
        there.loop.set_debug(False)


# ---- readers and writers ----


def test_readers_and_writers():
    with Elsewhere() as there:
        loop = there.loop
        a, b = socket.socketpair()
        a.setblocking(False)
        with a, b:
            for _ in range(20):
                readable, writable = threading.Event(), threading.Event()
                loop.add_reader(a, lambda e=readable: (a.recv(1), e.set()))
                b.send(b"x")
                assert readable.wait(LIMIT)
                loop.add_writer(a, writable.set)
                assert writable.wait(LIMIT)
                assert loop.remove_writer(a)
                assert not loop.remove_writer(a)
                assert loop.remove_reader(a)
                assert not loop.remove_reader(a)


def test_a_reader_is_replaced_and_removed():
    with Elsewhere() as there:
        loop = there.loop
        a, b = socket.socketpair()
        with a, b:
            first, second = [], threading.Event()
            loop.add_reader(a, first.append, 1)
            loop.add_reader(a, lambda: (a.recv(1), second.set()))
            b.send(b"x")
            assert second.wait(LIMIT)
            assert first == []
            assert loop.remove_reader(a)
            b.send(b"x")
            settle(there)
        # And one that the loop's own thread has added.
        c, d = socket.socketpair()
        with c, d:

            async def add():
                loop.add_reader(c, first.append, 2)

            there.call(add())
            assert loop.remove_reader(c)
            d.send(b"x")
            settle(there)
            assert first == []


def test_a_descriptor_that_cannot_be_watched(tmp_path):
    with Elsewhere() as there, open(tmp_path / "file", "wb") as file:
        with pytest.raises(PermissionError):
            there.loop.add_reader(file, print)
        number = os.dup(file.fileno())
        os.close(number)
        with pytest.raises(OSError, match="Bad file descriptor"):
            there.loop.add_writer(number, print)
        with pytest.raises(ValueError, match="Invalid file descriptor"):
            there.loop.add_reader(-1, print)
        assert there.loop.remove_reader(file) is False


def test_it_is_closed_at_once():
    """Without remove_reader(), or right after it."""
    with Elsewhere() as there:
        for remove in (True, False):
            for _ in range(20):
                a, b = socket.socketpair()
                there.loop.add_reader(a, lambda: None)
                if remove:
                    assert there.loop.remove_reader(a)
                a.close()
                b.close()
        settle(there)
        there.errors.clear()  # Of the ones that were closed before they were watched.


# ---- transports ----


async def connect(kind):
    """A transport, and a blocking end of the same connection or what makes it."""
    loop = asyncio.get_running_loop()
    a, b = socket.socketpair()
    b.settimeout(LIMIT)
    if kind == "datagrams":
        a.close()
    if kind == "stream":
        return (await loop.create_connection(Recorder, sock=a))[0], b
    if kind == "pipe":
        transport, _ = await loop.connect_write_pipe(
            asyncio.BaseProtocol, os.fdopen(a.detach(), "wb", 0)
        )
        return transport, b
    transport, _ = await loop.create_datagram_endpoint(
        asyncio.DatagramProtocol, remote_addr=bind_datagrams(b)
    )
    return transport, b


def bind_datagrams(sock):
    sock.close()
    sock.__init__(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(LIMIT)
    sock.bind(("127.0.0.1", 0))
    return sock.getsockname()


def exactly(sock, count):
    """One with a time limit does not heed MSG_WAITALL: it is not blocking."""
    data = bytearray()
    while len(data) < count:
        more = sock.recv(count - len(data))
        assert more, f"the stream ended after {len(data)} of {count} bytes"
        data += more
    return bytes(data)


@pytest.mark.parametrize("kind", ["stream", "pipe", "datagrams"])
@pytest.mark.parametrize("size", [1, 60000])
def test_write(kind, size):
    with Elsewhere() as there:
        transport, peer = there.call(connect(kind))
        with peer:
            settle(there)
            for _ in range(10):
                data = os.urandom(size)
                if kind == "datagrams":
                    transport.sendto(data)
                    assert peer.recv(size) == data
                    continue
                transport.write(data[:10])
                transport.writelines([data[10:20], bytearray(data[20:])])
                assert exactly(peer, size) == data
            transport.close()
            settle(there)


def test_much_pauses_and_resumes():
    class Protocol(asyncio.Protocol):
        def __init__(self):
            self.told = []

        def pause_writing(self):
            self.told.append("pause")

        def resume_writing(self):
            self.told.append("resume")

    with Elsewhere() as there:
        a, b = socket.socketpair()
        transport, protocol = there.call(there.loop.create_connection(Protocol, sock=a))
        with b:
            settle(there)
            data = os.urandom(4_000_000)
            transport.write(data)
            got = bytearray()
            while len(got) < len(data):
                got += b.recv(1 << 20)
            assert got == data
            settle(there)
            assert protocol.told == ["pause", "resume"]
            transport.close()
            settle(there)


@pytest.mark.parametrize("how", ["close", "abort", "write_eof"])
@pytest.mark.parametrize("kind", ["stream", "pipe"])
def test_the_end(kind, how):
    with Elsewhere() as there:
        transport, peer = there.call(connect(kind))
        with peer:
            settle(there)
            transport.write(b"last")
            getattr(transport, how)()
            if how != "write_eof":
                assert transport.is_closing()
            got = b""
            while data := peer.recv(100):
                got += data
            assert got == b"last"
            transport.close()
            settle(there)


def test_datagrams_end():
    with Elsewhere() as there:
        for how in ("close", "abort"):
            transport, peer = there.call(connect("datagrams"))
            with peer:
                settle(there)
                getattr(transport, how)()
                settle(there)
                assert transport.is_closing()


def test_pause_and_resume_reading():
    with Elsewhere() as there:
        a, b = socket.socketpair()
        transport, protocol = there.call(there.loop.create_connection(Recorder, sock=a))
        with b:
            settle(there)
            transport.pause_reading()
            settle(there)
            b.send(b"x")
            settle(there)
            assert protocol.data == b"" and not transport.is_reading()
            transport.resume_reading()
            settle(there)
            assert protocol.data == b"x"
            transport.close()
            settle(there)


def test_tls():
    async def start(loop):
        made = loop.create_future()

        class Server(Recorder):
            def connection_made(self, transport):
                super().connection_made(transport)
                made.set_result(transport)

        server = await loop.create_server(Server, "127.0.0.1", 0, ssl=server_context())
        transport, protocol = await loop.create_connection(
            Recorder,
            *server.sockets[0].getsockname(),
            ssl=client_context(),
            server_hostname="localhost",
        )
        return server, await made, transport, protocol

    with Elsewhere() as there:
        server, theirs, ours, protocol = there.call(start(there.loop))
        settle(there)
        theirs.write(b"x" * 1000)
        settle(there)
        assert len(protocol.data) == 1000
        ours.pause_reading()
        theirs.writelines([b"y"])
        settle(there)
        assert len(protocol.data) == 1000
        ours.resume_reading()
        settle(there)
        assert len(protocol.data) == 1001
        theirs.close()
        server.close()
        there.call(asyncio.wait_for(server.wait_closed(), LIMIT))
        settle(there)
        assert protocol.lost


def test_a_server_is_closed():
    with Elsewhere() as there:
        server = there.call(there.loop.create_server(Recorder, "127.0.0.1", 0))
        address = server.sockets[0].getsockname()
        settle(there)
        server.close()
        assert not server.is_serving() and server.sockets == ()
        there.call(asyncio.wait_for(server.wait_closed(), LIMIT))
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
