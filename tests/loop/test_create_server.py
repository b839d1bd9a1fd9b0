"""create_server() and Server."""

import asyncio
import errno
import gc
import os
import socket

import pytest

import aiosupport
import uvtulip
from aiosupport import Echo, Recorder, open_descriptors, run, turns, until

ipv6 = pytest.mark.skipif(not aiosupport.has_ipv6(), reason="no IPv6 here")


async def talk(address, data=b"ping"):
    """Echo once through the server at the address."""
    reader, writer = await asyncio.open_connection(*address[:2])
    writer.write(data)
    assert await reader.readexactly(len(data)) == data
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", ["127.0.0.1"]])
def test_serves(host, no_leak):
    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, host, 0, family=socket.AF_INET)
        assert isinstance(server, uvtulip.Server)
        assert isinstance(server, asyncio.AbstractServer)
        assert server.get_loop() is loop
        assert server.is_serving()
        address = server.getsockname()
        assert address[0] == "127.0.0.1"
        await asyncio.gather(*(talk(address, os.urandom(10)) for _ in range(20)))
        server.close()
        await server.wait_closed()
        assert not server.is_serving()
        with pytest.raises(ConnectionRefusedError):
            await talk(address)

    run(main())


@ipv6
@pytest.mark.parametrize("host", [None, ""])
def test_every_interface(host, no_leak):
    async def main():
        loop = asyncio.get_running_loop()
        port = aiosupport.free_port()
        async with await loop.create_server(Echo, host, port) as server:
            families = {sock.family for sock in server.sockets}
            assert families == {socket.AF_INET, socket.AF_INET6}
            await talk(("127.0.0.1", port))
            await talk(("::1", port))

    run(main())


@ipv6
def test_ipv6_listens_to_ipv6_only(no_leak):
    async def main():
        loop = asyncio.get_running_loop()
        async with await loop.create_server(Echo, "::", 0) as server:
            (sock,) = server.sockets
            assert sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1
            with pytest.raises(ConnectionRefusedError):
                await talk(("127.0.0.1", sock.getsockname()[1]))
            await talk(("::1", sock.getsockname()[1]))

    run(main())


def test_several_hosts_each_once(no_leak):
    async def main():
        loop = asyncio.get_running_loop()
        port = aiosupport.free_port()
        hosts = ["127.0.0.1", "127.0.0.2", "127.0.0.1"]
        async with await loop.create_server(Echo, hosts, port) as server:
            names = [sock.getsockname() for sock in server.sockets]
            assert names == [("127.0.0.1", port), ("127.0.0.2", port)]
            for name in names:
                await talk(name)

    run(main())


def test_address_in_use(no_leak):
    async def main():
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as sock:
            address = sock.getsockname()
            with pytest.raises(OSError) as caught:
                await loop.create_server(Echo, ["127.0.0.2", "127.0.0.1"], address[1])
            assert caught.value.errno == errno.EADDRINUSE
            assert caught.value.strerror.startswith(
                f"error while attempting to bind on address {address!r}: "
            )

    run(main())


def test_no_address_available(no_leak):
    async def main():
        loop = asyncio.get_running_loop()
        with pytest.raises(OSError, match="could not bind on any address out of"):
            await loop.create_server(Echo, "192.0.2.1", 0)

    run(main())


def test_unknown_host(no_leak):
    async def main():
        loop = asyncio.get_running_loop()
        with pytest.raises(socket.gaierror):
            await loop.create_server(Echo, "no-such-host.invalid", 0)

    run(main())


def test_options(no_leak):
    async def main():
        loop = asyncio.get_running_loop()

        async def option(name, **kwargs):
            server = await loop.create_server(Echo, "127.0.0.1", 0, **kwargs)
            async with server:
                (sock,) = server.sockets
                return sock.getsockopt(socket.SOL_SOCKET, name) != 0

        assert await option(socket.SO_REUSEADDR)
        assert not await option(socket.SO_REUSEADDR, reuse_address=False)
        assert not await option(socket.SO_REUSEPORT)
        assert await option(socket.SO_REUSEPORT, reuse_port=True)
        assert not await option(socket.SO_KEEPALIVE)
        assert await option(socket.SO_KEEPALIVE, keep_alive=True)

    run(main())


def test_reuse_port_shares_a_port(no_leak):
    async def main():
        loop = asyncio.get_running_loop()
        one = await loop.create_server(Echo, "127.0.0.1", 0, reuse_port=True)
        async with one:
            port = one.getsockname()[1]
            two = await loop.create_server(Echo, "127.0.0.1", port, reuse_port=True)
            async with two:
                for _ in range(10):
                    await talk(("127.0.0.1", port))

    run(main())


@pytest.mark.parametrize(
    ("kwargs", "error", "text"),
    [
        ({}, ValueError, "Neither host/port nor sock were specified"),
        ({"host": "h", "sock": "s"}, ValueError, "can not be specified at the same"),
        ({"ssl": True, "port": 0}, TypeError, "ssl argument must be an SSLContext"),
        ({"ssl_handshake_timeout": 1, "port": 0}, ValueError, "ssl_handshake_timeout"),
        ({"ssl_shutdown_timeout": 1, "port": 0}, ValueError, "ssl_shutdown_timeout"),
    ],
)
def test_bad_arguments(kwargs, error, text):
    async def main():
        loop = asyncio.get_running_loop()
        with pytest.raises(error, match=text):
            await loop.create_server(Echo, **kwargs)

    run(main())


# ---- sock= ----


def test_socket_is_taken_over(no_leak):
    async def main():
        loop = asyncio.get_running_loop()
        sock = socket.create_server(("127.0.0.1", 0))
        address = sock.getsockname()
        async with await loop.create_server(Echo, sock=sock) as server:
            assert server.sockets[0].fileno() == sock.fileno()
            assert server.getsockname() == sock.getsockname() == address
            assert not sock.getblocking()
            await talk(address)
        assert sock.fileno() == -1
        with pytest.raises(ConnectionRefusedError):
            await talk(address)

    run(main())


def test_socket_with_a_wrong_family(no_leak):
    """As uvicorn makes it from an inherited descriptor."""

    async def main():
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as inherited:
            sock = socket.fromfd(inherited.fileno(), socket.AF_UNIX, socket.SOCK_STREAM)
        async with await loop.create_server(Echo, sock=sock) as server:
            await talk(server.getsockname())

    run(main())


def test_socket_closed_by_the_caller(no_leak):
    """The server does not depend on it."""

    async def main():
        loop = asyncio.get_running_loop()
        sock = socket.create_server(("127.0.0.1", 0))
        address = sock.getsockname()
        async with await loop.create_server(Echo, sock=sock):
            sock.close()
            await talk(address)
        with pytest.raises(ConnectionRefusedError):
            await talk(address)

    run(main())


def test_socket_stays_when_it_cannot_listen(no_leak):
    async def main():
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as sock, sock.dup() as same:
            client = socket.create_connection(sock.getsockname())
            conn, _ = sock.accept()
            with client, conn:
                with pytest.raises(OSError):
                    await loop.create_server(Echo, sock=conn)
                conn.setblocking(True)  # It is the caller's as before.
                client.sendall(b"x")
                assert conn.recv(1) == b"x"
            assert same.getsockname() == sock.getsockname()

    run(main())


def test_wrong_socket(no_leak):
    async def main():
        loop = asyncio.get_running_loop()
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            with pytest.raises(ValueError, match="A Stream Socket was expected"):
                await loop.create_server(Echo, sock=sock)
        with socket.socket(socket.AF_UNIX) as sock:
            with pytest.raises(OSError) as caught:  # It has no name.
                await loop.create_server(Echo, sock=sock)
            assert str(caught.value) == f"[Errno 22] {os.strerror(22)}"
            assert sock.fileno() >= 0

    run(main())


# ---- Server ----


def test_start_serving_later(no_leak):
    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, "127.0.0.1", 0, start_serving=False)
        address = server.getsockname()
        assert not server.is_serving()
        with pytest.raises(ConnectionRefusedError):
            await talk(address)
        await server.start_serving()
        await server.start_serving()
        assert server.is_serving()
        await talk(address)
        server.close()
        server.close()
        await server.wait_closed()
        with pytest.raises(RuntimeError, match="is closed"):
            await server.start_serving()

    run(main())


def test_sockets(no_leak):
    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        assert isinstance(server.sockets, tuple)
        (sock,) = server.sockets
        assert sock is server.sockets[0]
        assert isinstance(sock, asyncio.trsock.TransportSocket)
        assert sock.family == socket.AF_INET
        assert sock.type == socket.SOCK_STREAM
        assert sock.getsockname() == server.getsockname()
        assert repr(sock) in repr(server)
        with pytest.raises(AttributeError, match=r"accept\(\)"):
            sock.accept()
        with pytest.raises(AttributeError, match=r"close\(\)"):
            sock.close()
        with sock.dup() as twin:
            assert twin.getsockname() == sock.getsockname()
        await talk(sock.getsockname())
        server.close()
        assert server.sockets == ()
        assert sock.fileno() == -1
        assert repr(server) == "<Server sockets=()>"
        with pytest.raises(RuntimeError, match="is closed"):
            server.getsockname()

    run(main())


def test_wait_closed_waits_for_connections(no_leak):
    async def main():
        loop = asyncio.get_running_loop()
        protocols = []

        def factory():
            protocols.append(Echo())
            return protocols[-1]

        server = await loop.create_server(factory, "127.0.0.1", 0)
        waiting = loop.create_task(server.wait_closed())
        transport, _ = await loop.create_connection(Recorder, *server.getsockname())
        await until(lambda: protocols)
        server.close()
        await turns()
        assert not waiting.done()
        also = loop.create_task(server.wait_closed())
        await turns()
        assert not also.done()
        transport.close()
        await waiting
        await also
        assert protocols[0].lost
        await server.wait_closed()

    run(main())


def test_wait_closed_waits_for_close(no_leak):
    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        waiting = loop.create_task(server.wait_closed())
        await turns()
        assert not waiting.done()
        server.close()
        await waiting

    run(main())


@pytest.mark.parametrize("method", ["close_clients", "abort_clients"])
def test_ending_the_clients(method, no_leak):
    async def main():
        loop = asyncio.get_running_loop()
        protocols = []

        def factory():
            protocols.append(Recorder())
            return protocols[-1]

        server = await loop.create_server(factory, "127.0.0.1", 0)
        clients = [
            (await loop.create_connection(Recorder, *server.getsockname()))[1]
            for _ in range(5)
        ]
        await until(lambda: len(protocols) == 5)
        server.close()
        getattr(server, method)()
        await server.wait_closed()
        for protocol in [*protocols, *clients]:
            await until(lambda protocol=protocol: protocol.lost)
            assert protocol.error is None

    run(main())


def test_close_clients_sends_what_waits(no_leak):
    data = bytes(4_000_000)

    class Talker(asyncio.Protocol):
        def connection_made(self, transport):
            transport.write(data)
            server.close()
            server.close_clients()

    async def main():
        global server
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Talker, "127.0.0.1", 0)
        _, protocol = await loop.create_connection(Recorder, *server.getsockname())
        await server.wait_closed()
        await until(lambda: protocol.lost)
        assert len(protocol.data) == len(data)

    run(main())


def test_serve_forever(no_leak):
    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, "127.0.0.1", 0, start_serving=False)
        task = loop.create_task(server.serve_forever())
        await turns()
        assert server.is_serving()
        await talk(server.getsockname())
        with pytest.raises(RuntimeError, match="already being awaited"):
            await server.serve_forever()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert server.sockets == ()
        with pytest.raises(RuntimeError, match="is closed"):
            await server.serve_forever()

    run(main())


def test_close_ends_serve_forever(no_leak):
    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        task = loop.create_task(server.serve_forever())
        await turns()
        server.close()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())


def test_closed_by_its_own_connection(no_leak):
    async def main():
        loop = asyncio.get_running_loop()

        class Closer(Recorder):
            def connection_made(self, transport):
                super().connection_made(transport)
                server.close()
                transport.close()

        server = await loop.create_server(Closer, "127.0.0.1", 0)
        _, protocol = await loop.create_connection(Recorder, *server.getsockname())
        await server.wait_closed()
        await until(lambda: protocol.lost)

    run(main())


def test_dropped_server_goes_on(no_leak):
    """Nobody has to keep the Server; the loop's end closes it."""

    async def main():
        loop = asyncio.get_running_loop()
        address = (await loop.create_server(Echo, "127.0.0.1", 0)).getsockname()
        gc.collect()
        await talk(address)

    run(main())


def test_failing_factory_is_reported_and_the_server_lives(no_leak):
    async def main():
        loop = asyncio.get_running_loop()
        reported = []
        loop.set_exception_handler(lambda loop, context: reported.append(context))
        fail = True

        def factory():
            if fail:
                raise ZeroDivisionError
            return Echo()

        async with await loop.create_server(factory, "127.0.0.1", 0) as server:
            reader, writer = await asyncio.open_connection(*server.getsockname())
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()
            await until(lambda: reported)
            assert isinstance(reported[0]["exception"], ZeroDivisionError)
            fail = False
            await talk(server.getsockname())
        assert len(reported) == 1

    run(main())


def test_context_of_callbacks(no_leak):
    import contextvars

    variable = contextvars.ContextVar("variable", default="outside")

    async def main():
        loop = asyncio.get_running_loop()
        seen = []

        class Looker(asyncio.Protocol):
            def connection_made(self, transport):
                seen.append(variable.get())
                transport.close()

            def connection_lost(self, exc):
                seen.append(variable.get())

        variable.set("server")
        async with await loop.create_server(Looker, "127.0.0.1", 0) as server:
            variable.set("later")
            _, protocol = await loop.create_connection(Recorder, *server.getsockname())
            await until(lambda: protocol.lost)
            await until(lambda: len(seen) == 2)
        assert seen == ["server", "server"]

    run(main())


def test_out_of_descriptors(no_leak):
    """Accepting pauses and resumes; no connection is lost."""
    import resource

    async def main():
        loop = asyncio.get_running_loop()
        reported = []
        loop.set_exception_handler(lambda loop, context: reported.append(context))
        async with await loop.create_server(Echo, "127.0.0.1", 0) as server:
            clients = [socket.socket() for _ in range(3)]
            address = server.getsockname()
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            highest = max(open_descriptors())
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
            holes = []
            try:
                while True:
                    try:
                        holes.append(os.open("/dev/null", os.O_RDONLY))
                    except OSError as exc:
                        assert exc.errno == errno.EMFILE
                        break
                for client in clients:
                    client.connect(address)
                    client.setblocking(False)
                await until(lambda: reported)
                await asyncio.sleep(0.1)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                for fd in holes:
                    os.close(fd)
            assert len(reported) == 1
            assert "system resource" in reported[0]["message"]
            for client in clients:
                await loop.sock_sendall(client, b"hello")
                assert await loop.sock_recv(client, 10) == b"hello"
                client.close()
        await server.wait_closed()

    run(main())
