"""Private or undocumented behaviour of asyncio that real libraries lean on.

One test for each such behaviour of the loop and of TCP transports; the docstring
names who needs it.  Sockets and processes are real.
"""

import asyncio
import errno
import gc
import os
import signal
import socket
import ssl
import threading
import time
import unittest.mock
import weakref
from asyncio import base_events

import pytest

import uvtulip
from aiosupport import LIMIT, Recorder, run, turns, until
from streamsupport import tcp_pair
from tlssupport import client_context, client_side


async def connected(protocol_factory=Recorder):
    """A transport, its protocol, and the socket at the other end."""
    ours, theirs = tcp_pair()
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_connection(protocol_factory, sock=ours)
    theirs.settimeout(LIMIT)
    return transport, protocol, theirs


# ---- running ----


def test_the_task_of_a_run_has_asyncios_own_callback():
    """anyio: find_root_task() looks for it."""

    async def main():
        task = asyncio.current_task()
        return [callback for callback, _ in task._callbacks]

    loop = uvtulip.new_event_loop()
    assert base_events._run_until_complete_cb in loop.run_until_complete(main())
    loop.close()


def test_it_is_no_base_event_loop():
    """aiohttp takes its other branch for eager tasks, nest_asyncio2 does not patch."""
    assert not issubclass(uvtulip.Loop, asyncio.BaseEventLoop)
    assert issubclass(uvtulip.Loop, asyncio.AbstractEventLoop)


def test_attributes_weak_references_and_subclasses():
    """zmq, curl_cffi, ipykernel, anyio, prompt_toolkit, tools for tests."""
    closed = []

    class Mine(uvtulip.Loop):
        def call_soon(self, callback, *args, context=None):
            closed.append(callback)
            return super().call_soon(callback, *args, context=context)

    loop = Mine()
    loop._anything = 1

    def close():
        closed.append("close")
        Mine.close(loop)

    loop.close = close
    marks = weakref.WeakKeyDictionary({loop: "here"})
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
    assert closed == [loop.stop, "close"] and marks[loop] == "here"
    assert loop.is_closed() and loop._anything == 1
    ref = weakref.ref(loop)
    loop = close = None
    closed.clear()
    gc.collect()
    assert ref() is None


def test_what_is_ready_can_be_looked_at():
    """prompt_toolkit reads loop._ready; twisted tries loop._selector."""
    loop = uvtulip.new_event_loop()
    handle = loop.call_soon(print)
    assert list(loop._ready) == [handle]
    with pytest.raises(AttributeError):
        _ = loop._selector
    handle.cancel()
    loop.close()


def test_what_a_callback_schedules_waits_for_the_next_turn():
    """tornado's selector thread: never in this turn, never after stop()."""
    loop = uvtulip.new_event_loop()
    seen = []

    def first():
        seen.append("first")
        loop.call_soon(seen.append, "next")
        loop.stop()

    loop.call_soon(first)
    loop.call_soon(seen.append, "second")
    loop.run_forever()
    assert seen == ["first", "second"]
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert seen == ["first", "second", "next"]
    loop.close()


# ---- time ----


def test_time_is_fresh_and_fine():
    """aioquic, aiohttp, tornado."""

    async def main():
        loop = asyncio.get_running_loop()
        times = [loop.time() for _ in range(1000)]
        assert times == sorted(times) and times[-1] - times[0] < 1
        assert len(set(times)) > 100  # One callback, and yet it moves on.
        before = time.monotonic()
        assert before <= loop.time() <= time.monotonic()

    run(main())


def test_timers_come_in_order_and_never_early():
    """aioquic, aiohttp, tornado."""

    async def main():
        loop = asyncio.get_running_loop()
        base = loop.time() + 0.005
        seen = []
        done = loop.create_future()

        def due(when):
            seen.append((when, loop.time()))

        whens = [base + n * 0.0003 for n in range(30)]
        for when in whens[::-1]:
            loop.call_at(when, due, when)
        loop.call_at(whens[-1], done.set_result, None)
        await done
        await turns()
        assert [when for when, _ in seen] == whens
        assert all(now >= when for when, now in seen)

    run(main())


# ---- descriptors ----


def test_readers_of_files_descriptors_and_their_reuse(tmp_path):
    """twisted, psycopg, curl_cffi, paho, pyzmq."""

    async def main():
        loop = asyncio.get_running_loop()
        with (tmp_path / "file").open("w") as file:
            with pytest.raises(OSError) as caught:
                loop.add_reader(file, print)
            assert caught.value.errno == errno.EPERM
        assert loop.remove_reader(0) is False
        for _ in range(3):  # The kernel gives out the same numbers again.
            await check_pair(loop)

    async def check_pair(loop):
        seen = []
        ours, theirs = socket.socketpair()
        loop.add_reader(ours, seen.append, "read")
        loop.add_writer(ours.fileno(), seen.append, "write")
        await until(lambda: "write" in seen)
        assert "read" not in seen
        assert loop.remove_writer(ours) is True
        theirs.send(b"x")
        await until(lambda: "read" in seen)
        assert loop.remove_reader(ours) is True
        assert loop.remove_reader(ours) is False
        ours.close()
        theirs.close()

    run(main())


# ---- signals ----


def test_python_signal_handlers_run_while_the_loop_sleeps():
    """tornado.process, twisted, uvicorn."""

    async def main():
        loop = asyncio.get_running_loop()
        seen = loop.create_future()
        old = signal.signal(signal.SIGUSR1, lambda number, _: seen.set_result(number))
        try:
            threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGUSR1)).start()
            assert await seen == signal.SIGUSR1
        finally:
            signal.signal(signal.SIGUSR1, old)

    run(main())


def test_handler_and_wakeup_descriptor_are_given_back():
    """asyncio.Runner, uvicorn."""
    before = signal.getsignal(signal.SIGINT)
    descriptor = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(descriptor)
    run(asyncio.sleep(0))
    assert signal.getsignal(signal.SIGINT) is before
    assert signal.set_wakeup_fd(descriptor) == descriptor


# ---- transports ----


def test_a_connection_is_given_before_its_data():
    """asyncssh's tunnels hang otherwise."""

    async def main():
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listener:

            def greet():
                peer, _ = listener.accept()
                peer.sendall(b"hello")
                return peer

            greeter = loop.run_in_executor(None, greet)
            transport, protocol = await loop.create_connection(
                Recorder, *listener.getsockname()
            )
            assert protocol.data == b""
            peer = await greeter
            await until(lambda: protocol.data == b"hello")
            transport.close()
            peer.close()
            await until(lambda: protocol.lost)

    run(main())


@pytest.mark.parametrize("how", ["close", "abort", "peer"])
def test_writing_to_what_is_closed_raises_nothing(how):
    """asyncssh, hypercorn, anyio, websockets."""

    async def main():
        transport, protocol, peer = await connected()
        if how == "peer":
            peer.close()
        else:
            getattr(transport, how)()
        for _ in range(3):
            transport.write(b"x")
            await turns()
        await until(lambda: protocol.lost)
        transport.write(b"x")
        transport.writelines([b"x", b"y"])
        transport.write_eof()
        transport.close()
        transport.abort()
        peer.close()

    run(main())


@pytest.mark.parametrize("factory", [uvtulip.new_event_loop, asyncio.SelectorEventLoop])
def test_drain_of_a_closed_stream(factory):
    """hypercorn, anyio, websockets catch uvloop's RuntimeError; asyncio has none."""

    async def main():
        ours, theirs = tcp_pair()
        _, writer = await asyncio.open_connection(sock=ours)
        writer.close()
        writer.write(b"x")
        with pytest.raises(ConnectionResetError, match="Connection lost"):
            for _ in range(3):
                await writer.drain()
        await writer.wait_closed()
        theirs.close()

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())


def test_force_close_and_another_protocol():
    """aiosmtpd puts another protocol, a buffered one, on a running transport."""

    class Buffered(asyncio.BufferedProtocol):
        def __init__(self):
            self.buffer = bytearray(100)
            self.seen = b""
            self.error = None

        def get_buffer(self, hint):
            return self.buffer

        def buffer_updated(self, count):
            self.seen += bytes(self.buffer[:count])

        def connection_lost(self, exc):
            self.error = exc

    async def main():
        transport, protocol, peer = await connected()
        peer.sendall(b"first")
        await until(lambda: protocol.data == b"first")
        other = Buffered()
        transport.set_protocol(other)
        peer.sendall(b"second")
        await until(lambda: other.seen == b"second")
        assert protocol.data == b"first"
        transport._force_close(OSError("forced"))
        await until(lambda: other.error is not None)
        assert str(other.error) == "forced" and not protocol.lost
        assert peer.recv(1) == b""
        peer.close()

    run(main())


def test_the_socket_is_never_none():
    """asyncpg raises without it; aiohttp, redis, aiomysql, uvicorn, anyio, asyncssh."""

    async def main():
        transport, protocol, peer = await connected()
        sock = transport.get_extra_info("socket")
        assert (sock.family, sock.type) == (socket.AF_INET, socket.SOCK_STREAM)
        assert sock.proto in (0, socket.IPPROTO_TCP) and sock.fileno() >= 0
        assert sock.getpeername() == peer.getsockname()
        assert sock.getsockname() == peer.getpeername()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        transport.close()
        await until(lambda: protocol.lost)
        peer.close()

    run(main())


def test_attributes_of_a_transport():
    """aiohttp's tests patch its methods."""

    async def main():
        transport, protocol, peer = await connected()
        transport.mark = 1
        with unittest.mock.patch.object(transport, "write") as write:
            transport.write(b"not sent")
        write.assert_called_once_with(b"not sent")
        transport.write(b"sent")
        await turns()
        assert peer.recv(10) == b"sent" and transport.mark == 1
        transport.close()
        await until(lambda: protocol.lost)
        peer.close()

    run(main())


def test_module_of_a_transport_is_not_uvloops():
    """aiohttp allows TLS in TLS on uvloop by this name, on Python 3.10."""

    async def main():
        transport, protocol, peer = await connected()
        assert not type(transport).__module__.startswith("uvloop")
        transport.close()
        await until(lambda: protocol.lost)
        peer.close()

    run(main())


# ---- servers ----


def test_sockets_of_a_server():
    """uvicorn, websockets, aiohttp, asyncssh."""

    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Recorder, "127.0.0.1", 0)
        (sock,) = server.sockets
        assert sock.getsockname()[0] == "127.0.0.1" and sock.getsockname()[1] > 0
        assert (sock.family, sock.type) == (socket.AF_INET, socket.SOCK_STREAM)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
        server.close()
        assert server.sockets == ()
        await server.wait_closed()

    run(main())


@pytest.mark.parametrize("kind", ["TCP", "UNIX"])
def test_servers_tell_whether_they_serve_tls(kind, tmp_path):
    """Suites of clients make an address of it: ws:// or wss://."""

    async def main():
        loop = asyncio.get_running_loop()
        for context in (None, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)):
            if kind == "TCP":
                server = await loop.create_server(
                    asyncio.Protocol, "127.0.0.1", 0, ssl=context
                )
            else:
                server = await loop.create_unix_server(
                    asyncio.Protocol, tmp_path / "socket", ssl=context
                )
            assert server._ssl_context is context
            server.close()
            await server.wait_closed()
            (tmp_path / "socket").unlink(missing_ok=True)

    run(main())


@pytest.mark.parametrize("how", ["close_clients", "abort_clients"])
def test_wait_closed_waits_for_connections(how):
    """hypercorn, websockets."""

    async def main():
        loop = asyncio.get_running_loop()
        protocols = []

        def factory():
            protocols.append(Recorder())
            return protocols[-1]

        server = await loop.create_server(factory, "127.0.0.1", 0)
        with socket.create_connection(server.sockets[0].getsockname()) as peer:
            await until(lambda: protocols and protocols[0].transport is not None)
            server.close()
            waiter = loop.create_task(server.wait_closed())
            await turns(20)
            assert not waiter.done()
            getattr(server, how)()
            await waiter
            assert protocols[0].lost
            peer.settimeout(LIMIT)
            try:
                assert peer.recv(1) == b""
            except ConnectionResetError:
                assert how == "abort_clients"

    run(main())


def test_the_context_of_a_tls_transport():
    """aiohttp."""

    async def main():
        context = client_context()
        transport, peer = await client_side(Recorder(), context)
        with peer:
            assert transport._sslcontext is context
            assert transport.get_extra_info("sslcontext") is context
            transport.abort()

    run(main())
