"""create_connection() and connect_accepted_socket()."""

import asyncio
import contextlib
import errno
import gc
import os
import socket
import threading

import pytest

import aiosupport
import uvtulip
from aiosupport import Echo, Recorder, run, turns, until

ipv6 = pytest.mark.skipif(not aiosupport.has_ipv6(), reason="no IPv6 here")


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.settimeout(aiosupport.LIMIT)
        yield sock


async def echo_once(transport, protocol, data=b"ping"):
    transport.write(data)
    await until(lambda: len(protocol.data) >= len(data))
    assert protocol.data == data


def serve_echo(listener):
    """Echo for one client in a thread; returns the thread."""

    def work():
        conn, _ = listener.accept()
        with conn:
            conn.settimeout(aiosupport.LIMIT)
            while data := conn.recv(65536):
                conn.sendall(data)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", b"127.0.0.1"])
def test_connects_and_talks(listener, host, no_leak):
    async def main():
        loop = asyncio.get_running_loop()
        port = listener.getsockname()[1]
        thread = serve_echo(listener)
        transport, protocol = await loop.create_connection(
            Recorder, host, port, family=socket.AF_INET
        )
        assert isinstance(transport, asyncio.Transport)
        assert protocol.transport is transport
        assert transport.get_extra_info("peername") == ("127.0.0.1", port)
        await echo_once(transport, protocol)
        transport.close()
        await until(lambda: protocol.lost)
        assert protocol.error is None
        thread.join()

    run(main())


@ipv6
def test_connects_by_ipv6(no_leak):
    async def main():
        loop = asyncio.get_running_loop()
        with socket.create_server(("::1", 0), family=socket.AF_INET6) as sock:
            port = sock.getsockname()[1]
            transport, protocol = await loop.create_connection(Recorder, "::1", port)
            assert transport.get_extra_info("peername") == ("::1", port, 0, 0)
            transport.close()
            await until(lambda: protocol.lost)

    run(main())


@ipv6
def test_a_zone_gets_through(no_leak):
    async def main():
        loop = asyncio.get_running_loop()
        scope = socket.if_nametoindex("lo")
        infos = await loop.getaddrinfo("fe80::1%lo", 80, type=socket.SOCK_STREAM)
        assert [info[4][3] for info in infos] == [scope]
        with pytest.raises(OSError) as caught:
            await loop.create_connection(Recorder, "fe80::1%lo", 1)
        assert str(scope) in str(caught.value)

    run(main())


def test_returns_before_the_first_data():
    """Data that is there already is not delivered to a protocol that its maker
    has not seen yet."""

    async def main():
        loop = asyncio.get_running_loop()

        class Chatty(asyncio.Protocol):
            def connection_made(self, transport):
                transport.write(b"early")

        server = await loop.create_server(Chatty, "127.0.0.1", 0)
        async with server:
            for _ in range(20):
                transport, protocol = await loop.create_connection(
                    Recorder, *server.getsockname()
                )
                assert protocol.data == b""
                await until(lambda protocol=protocol: protocol.data == b"early")
                transport.close()
                await until(lambda protocol=protocol: protocol.lost)

    run(main())


def test_refused(refusing_port, no_leak):
    async def main():
        loop = asyncio.get_running_loop()
        port = refusing_port
        with pytest.raises(ConnectionRefusedError) as caught:
            await loop.create_connection(Recorder, "127.0.0.1", port)
        assert caught.value.errno == errno.ECONNREFUSED
        assert caught.value.strerror == f"Connect call failed ('127.0.0.1', {port})"

    run(main())


def test_an_error_leaves_no_cycles(refusing_port):
    """Neither the error nor its traceback has to wait for the collector."""

    def errors():
        return [o for o in gc.get_objects() if isinstance(o, OSError)]

    async def main():
        loop = asyncio.get_running_loop()
        port = refusing_port
        for kwargs in (
            {},
            {"happy_eyeballs_delay": 0.01},
            {"local_addr": ("127.0.0.1", 0)},
            {"local_addr": ("192.0.2.7", 0), "happy_eyeballs_delay": 0.01},
            {"local_addr": ("192.0.2.7", 0)},
        ):
            with pytest.raises(OSError):
                await loop.create_connection(Recorder, "127.0.0.1", port, **kwargs)
            await turns()
            gc.collect()
            gc.disable()
            # A class of another test, which CPython 3.13t never frees, may keep some.
            before = errors()
            try:
                with contextlib.suppress(OSError):
                    await loop.create_connection(Recorder, "127.0.0.1", port, **kwargs)
                await turns()
                assert [o for o in errors() if not any(o is b for b in before)] == []
            finally:
                gc.enable()

    run(main())


class SeveralAddresses(uvtulip.Loop):
    """Resolves every name to the addresses it was given."""

    addresses: tuple = ()

    async def getaddrinfo(self, host, port, **kwargs):
        return [
            (
                socket.AF_INET6 if ":" in address else socket.AF_INET,
                socket.SOCK_STREAM,
                socket.IPPROTO_TCP,
                "",
                (address, port, 0, 0) if ":" in address else (address, port),
            )
            for address in self.addresses
        ]


def run_resolving(addresses, main):
    def factory():
        loop = SeveralAddresses()
        loop.addresses = addresses
        return loop

    async def limited():
        async with asyncio.timeout(aiosupport.LIMIT):
            return await main()

    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(limited())


def test_all_failed_is_one_error(refusing_port, no_leak):
    async def main():
        loop = asyncio.get_running_loop()
        port = refusing_port
        with pytest.raises(OSError) as caught:
            await loop.create_connection(Recorder, "host", port)
        assert str(caught.value) == (
            f"Multiple exceptions: "
            f"[Errno 111] Connect call failed ('127.0.0.1', {port}), "
            f"[Errno 111] Connect call failed ('127.0.0.2', {port})"
        )
        assert caught.value.errno is None

    run_resolving(["127.0.0.1", "127.0.0.2"], main)


def test_the_same_error_twice_is_that_error(refusing_port, no_leak):
    async def main():
        loop = asyncio.get_running_loop()
        port = refusing_port
        with pytest.raises(ConnectionRefusedError, match="Connect call failed"):
            await loop.create_connection(Recorder, "host", port)

    run_resolving(["127.0.0.1", "127.0.0.1"], main)


@pytest.mark.parametrize("delay", [None, 0.01])
def test_all_errors_is_a_group(delay, refusing_port, no_leak):
    async def main():
        loop = asyncio.get_running_loop()
        with pytest.raises(ExceptionGroup) as caught:
            await loop.create_connection(
                Recorder,
                "host",
                refusing_port,
                all_errors=True,
                happy_eyeballs_delay=delay,
            )
        assert caught.value.message == "create_connection failed"
        kinds = [type(exc) for exc in caught.value.exceptions]
        assert kinds == [ConnectionRefusedError] * 2

    run_resolving(["127.0.0.1", "127.0.0.2"], main)


@pytest.mark.parametrize("delay", [None, 0.0, 0.01, 5.0])
def test_goes_on_to_the_next_address(listener, delay, no_leak):
    async def main():
        loop = asyncio.get_running_loop()
        port = listener.getsockname()[1]
        transport, protocol = await loop.create_connection(
            Recorder, "host", port, happy_eyeballs_delay=delay
        )
        assert transport.get_extra_info("peername") == ("127.0.0.1", port)
        transport.close()
        await until(lambda: protocol.lost)

    run_resolving(["127.0.0.2", "127.0.0.3", "127.0.0.1"], main)


@pytest.fixture
def silent():
    """The address of a listener whose queue is full: connecting hangs there."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as sock:
        address = sock.getsockname()
        clients = []
        for _ in range(4):
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex(address)
            clients.append(client)
        yield address
        for client in clients:
            client.close()


def test_happy_eyeballs_do_not_wait_for_the_first(silent, no_leak):
    host, port = silent

    async def main():
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.2", port)):
            transport, protocol = await loop.create_connection(
                Recorder, "host", port, happy_eyeballs_delay=0.02
            )
            assert transport.get_extra_info("peername") == ("127.0.0.2", port)
            transport.close()
            await until(lambda: protocol.lost)
        assert len(asyncio.all_tasks()) == 1

    run_resolving(["127.0.0.1", "127.0.0.2"], main)


def test_both_connect_and_one_is_closed(no_leak):
    """With no delay all attempts may succeed at once: one is used."""

    async def main():
        loop = asyncio.get_running_loop()
        with socket.create_server(("0.0.0.0", 0)) as sock:
            for _ in range(20):
                transport, protocol = await loop.create_connection(
                    Recorder, "host", sock.getsockname()[1], happy_eyeballs_delay=0.0
                )
                assert protocol.transport is transport
                transport.close()
                await until(lambda protocol=protocol: protocol.lost)

    run_resolving([f"127.0.0.{n}" for n in range(1, 6)], main)


@pytest.mark.parametrize("delay", [None, 0.01])
@pytest.mark.parametrize("wait", [0, 1, 2, 3, 5])
def test_cancelled_while_connecting(silent, delay, wait, no_leak):
    host, port = silent

    async def main():
        loop = asyncio.get_running_loop()
        task = loop.create_task(
            loop.create_connection(Recorder, "host", port, happy_eyeballs_delay=delay)
        )
        await turns(wait)
        if wait == 5:
            await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run_resolving(["127.0.0.1", "127.0.0.1", "127.0.0.1"], main)


@pytest.mark.parametrize("wait", range(12))
@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"happy_eyeballs_delay": 0},
        {"happy_eyeballs_delay": 0.001, "local_addr": ("name", 0)},
        {"local_addr": ("127.0.0.1", 0), "proto": socket.IPPROTO_TCP},
        {"ssl": True, "server_hostname": "localhost"},
    ],
    ids=str,
)
def test_cancelled_at_any_turn(listener, kwargs, wait, no_leak):
    async def main():
        loop = asyncio.get_running_loop()
        made = []

        def factory():
            made.append(Recorder())
            return made[-1]

        task = loop.create_task(
            loop.create_connection(factory, "name", listener.getsockname()[1], **kwargs)
        )
        await turns(wait)
        task.cancel()
        try:
            transport, _ = await task
        except asyncio.CancelledError:
            pass
        else:
            transport.close()
        await turns()
        for protocol in made:
            if protocol.transport is not None:
                await until(lambda protocol=protocol: protocol.lost)

    run_resolving(["127.0.0.1", "127.0.0.2"], main)


def test_interleave(no_leak):
    info = uvtulip.connect.interleaved
    six = [(socket.AF_INET6, 1, 6, "", (str(n), 0, 0, 0)) for n in range(3)]
    four = [(socket.AF_INET, 1, 6, "", (str(n), 0)) for n in range(2)]
    assert info(six + four, 1) == [six[0], four[0], six[1], four[1], six[2]]
    assert info(six + four, 2) == [six[0], six[1], four[0], six[2], four[1]]
    assert info(four, 1) == four


# ---- local_addr, proto ----


def test_local_addr(listener, no_leak):
    async def main():
        loop = asyncio.get_running_loop()
        port = aiosupport.free_port()
        transport, protocol = await loop.create_connection(
            Recorder, *listener.getsockname(), local_addr=("127.0.0.1", port)
        )
        assert transport.get_extra_info("sockname") == ("127.0.0.1", port)
        conn, peer = listener.accept()
        conn.close()
        assert peer == ("127.0.0.1", port)
        await until(lambda: protocol.lost)

    run(main())


def test_local_addr_in_use(listener, no_leak):
    async def main():
        loop = asyncio.get_running_loop()
        address = listener.getsockname()
        with pytest.raises(OSError) as caught:
            await loop.create_connection(Recorder, *address, local_addr=address)
        assert caught.value.errno == errno.EADDRINUSE
        assert caught.value.strerror.startswith(
            f"error while attempting to bind on address {address!r}: "
        )

    run(main())


@ipv6
def test_local_addr_of_another_family(listener, no_leak):
    async def main():
        loop = asyncio.get_running_loop()
        with pytest.raises(OSError, match="no matching local address with"):
            await loop.create_connection(
                Recorder, *listener.getsockname(), local_addr=("::1", 0)
            )

    run(main())


# ---- arguments ----


@pytest.mark.parametrize(
    ("kwargs", "error", "text"),
    [
        ({}, ValueError, "host and port was not specified and no sock specified"),
        (
            {"host": "h", "sock": "s"},
            ValueError,
            "host/port and sock can not be specified at the same time",
        ),
        ({"server_hostname": "h", "host": "h"}, ValueError, "server_hostname"),
        ({"ssl_handshake_timeout": 1, "host": "h"}, ValueError, "ssl_handshake"),
        ({"ssl_shutdown_timeout": 1, "host": "h"}, ValueError, "ssl_shutdown"),
    ],
)
def test_bad_arguments(kwargs, error, text):
    def factory():
        raise AssertionError("the factory must not be called")

    async def main():
        loop = asyncio.get_running_loop()
        with pytest.raises(error, match=text):
            await loop.create_connection(factory, **kwargs)

    run(main())


def test_port_out_of_range(no_leak):
    async def main():
        loop = asyncio.get_running_loop()
        with pytest.raises(OverflowError):
            await loop.create_connection(Recorder, "127.0.0.1", 65536)

    run(main())


def test_factory_raises(listener, no_leak):
    async def main():
        loop = asyncio.get_running_loop()
        with pytest.raises(ZeroDivisionError):
            await loop.create_connection(lambda: 1 // 0, *listener.getsockname())
        conn, _ = listener.accept()
        with conn:
            assert conn.recv(1) == b""

    run(main())


def test_closed_loop():
    loop = uvtulip.new_event_loop()
    loop.close()
    coro = loop.create_connection(Recorder, "127.0.0.1", 1)
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        coro.send(None)


# ---- sock= ----


@pytest.mark.parametrize("method", ["create_connection", "connect_accepted_socket"])
def test_socket_is_taken_over(method, listener, no_leak):
    async def main():
        loop = asyncio.get_running_loop()
        sock = socket.create_connection(listener.getsockname())
        conn, _ = listener.accept()
        name = sock.getsockname()
        transport, protocol = await getattr(loop, method)(Recorder, sock=sock)
        assert sock.getsockname() == name
        assert transport.get_extra_info("sockname") == name
        assert transport.get_extra_info("socket").fileno() == sock.fileno()
        conn.sendall(b"abc")
        await until(lambda: protocol.data == b"abc")
        transport.write(b"def")
        conn.settimeout(aiosupport.LIMIT)
        assert await loop.run_in_executor(None, conn.recv, 10) == b"def"
        transport.close()
        await until(lambda: protocol.lost)
        assert conn.recv(1) == b""
        assert sock.fileno() == -1
        conn.close()

    run(main())


def test_wrong_kind_of_socket(no_leak):
    async def main():
        loop = asyncio.get_running_loop()
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            for method in loop.create_connection, loop.connect_accepted_socket:
                with pytest.raises(ValueError, match="A Stream Socket was expected"):
                    await method(Recorder, sock=sock)

    run(main())


def usable(sock, conn):
    sock.sendall(b"still")
    conn.settimeout(aiosupport.LIMIT)
    return conn.recv(10) == b"still"


def test_socket_already_used_by_a_transport(listener, no_leak):
    """A descriptor of a transport cannot be taken over again by its number."""

    async def main():
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.create_connection(
            Recorder, *listener.getsockname()
        )
        fd = transport.get_extra_info("socket").fileno()
        await until(transport.is_reading)
        await turns()
        with pytest.raises(OSError) as caught:
            uvtulip.uv.TCP(loop.uv_loop).open(fd)
        assert caught.value.errno == errno.EEXIST
        with pytest.raises(RuntimeError, match="is used by transport"):
            loop.add_reader(fd, print)
        transport.close()
        await until(lambda: protocol.lost)

    run(main())


def test_connected_to_our_own_server(no_leak):
    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        async with server:
            made = await asyncio.gather(
                *(
                    loop.create_connection(Recorder, *server.getsockname())
                    for _ in range(50)
                )
            )
            for transport, protocol in made:
                await echo_once(transport, protocol, os.urandom(100))
                transport.close()
        for _, protocol in made:
            await until(lambda protocol=protocol: protocol.lost)

    run(main())
