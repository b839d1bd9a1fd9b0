"""create_unix_connection(), create_unix_server(), and sockets of other families."""

import asyncio
import contextvars
import os
import pathlib
import socket
import stat
import sys

import pytest

import uvtulip
from aiosupport import Echo, Recorder, run, turns, until
from streamsupport import Peer

linux = pytest.mark.skipif(sys.platform != "linux", reason="abstract names")
OPTIONS = {"ssl_handshake_timeout": 1.0, "ssl_shutdown_timeout": 1.0}


pytestmark = pytest.mark.usefixtures("no_leak")


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "sock")


def abstract(number=0):
    return f"\0uvtulip-{os.getpid()}-{number}"


async def talk(path, data=b"hello"):
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_unix_connection(Recorder, path)
    transport.write(data)
    await until(lambda: len(protocol.data) >= len(data))
    assert protocol.data == data
    transport.close()
    await until(lambda: protocol.lost)
    assert protocol.error is None


# ---- serving and connecting ----


@pytest.mark.parametrize("kind", [str, os.fsencode, pathlib.Path])
def test_paths(path, kind):
    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_unix_server(Echo, kind(path))
        assert isinstance(server, asyncio.AbstractServer)
        assert server.is_serving()
        assert [sock.getsockname() for sock in server.sockets] == [path]
        assert server.sockets[0].family == socket.AF_UNIX
        assert server.getsockname() == path
        assert stat.S_ISSOCK(os.stat(path).st_mode)
        await talk(kind(path))
        server.close()
        await server.wait_closed()
        assert server.sockets == ()

    run(main())


@linux
@pytest.mark.parametrize("kind", [str, os.fsencode])
def test_abstract_names(kind):
    async def main():
        loop = asyncio.get_running_loop()
        async with await loop.create_unix_server(Echo, kind(abstract())) as server:
            assert server.getsockname() == abstract().encode()
            await talk(kind(abstract()))
            transport, protocol = await loop.create_unix_connection(
                Recorder, kind(abstract())
            )
            assert transport.get_extra_info("peername") == abstract().encode()
            assert transport.get_extra_info("sockname") == ""
            transport.close()
            await until(lambda: protocol.lost)

    run(main())


@linux
def test_the_longest_names(tmp_path):
    longest = str(tmp_path / "x").ljust(107, "x")

    async def main():
        loop = asyncio.get_running_loop()
        for name in longest, "\0" + longest:
            async with await loop.create_unix_server(Echo, name) as server:
                got = server.getsockname()
                assert os.fsdecode(got) == name
                await talk(name)
                transport, protocol = await loop.create_unix_connection(Recorder, name)
                assert transport.get_extra_info("peername") == got
                transport.close()
                await until(lambda protocol=protocol: protocol.lost)

    run(main())


@pytest.mark.parametrize("name", ["x" * 109, "\0" + "x" * 108, "/" + "x" * 200])
def test_too_long(name):
    async def main():
        loop = asyncio.get_running_loop()
        with pytest.raises(OSError, match="path too long"):
            await loop.create_unix_connection(Recorder, name)
        with pytest.raises(OSError, match="path too long"):
            await loop.create_unix_server(Recorder, name)

    run(main())


def test_names_and_socket_of_a_connection(path):
    async def main():
        loop = asyncio.get_running_loop()
        served = []

        class Serving(Echo):
            def connection_made(self, transport):
                super().connection_made(transport)
                served.append(transport)

        async with await loop.create_unix_server(Serving, path):
            transport, protocol = await loop.create_unix_connection(Recorder, path)
            await until(lambda: served)
            for each, own, peer in (transport, "", path), (served[0], path, ""):
                assert each.get_extra_info("sockname") == own
                assert each.get_extra_info("peername") == peer
                sock = each.get_extra_info("socket")
                assert sock.family == socket.AF_UNIX
                assert sock.type == socket.SOCK_STREAM
                assert sock.getsockname() == own
                assert sock.getpeername() == peer
                for name in "recv", "send", "sendall", "accept", "connect":
                    with pytest.raises(AttributeError, match=rf"no {name}\(\)"):
                        getattr(sock, name)
            with transport.get_extra_info("socket").dup() as twin:
                assert twin.getpeername() == path
                await loop.sock_sendall(twin, b"twin")
            await until(lambda: protocol.data == b"twin")
            if sys.platform == "linux":
                credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
                assert int.from_bytes(credentials[:4], sys.byteorder) == os.getpid()
            transport.close()
            await until(lambda: protocol.lost)
            assert transport.get_extra_info("peername") == path

    run(main())


def test_streams(path):
    async def main():
        async def answer(reader, writer):
            writer.write((await reader.readline()).upper())
            await writer.drain()
            writer.close()

        async with await asyncio.start_unix_server(answer, path):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b"hello\n")
            assert await reader.read() == b"HELLO\n"
            writer.close()
            await writer.wait_closed()

    run(main())


def test_many_connections_at_once(path):
    async def main():
        loop = asyncio.get_running_loop()
        async with await loop.create_unix_server(Echo, path) as server:
            await asyncio.gather(*(talk(path, b"%d" % i * 100) for i in range(300)))
            await until(lambda: not server._active)

    run(main())


def test_connecting_to_a_full_queue_waits(path):
    async def main():
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen(0)
            listener.setblocking(False)
            waiting = []
            while not any(not task.done() for task in waiting):
                connecting = loop.create_unix_connection(Recorder, path)
                waiting.append(loop.create_task(connecting))
                await turns()
            cancelled = loop.create_task(loop.create_unix_connection(Recorder, path))
            await turns()
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            for task in waiting:
                accepted, _ = await loop.sock_accept(listener)
                accepted.close()
            for task in waiting:
                transport, protocol = await task
                await until(lambda protocol=protocol: protocol.lost)

    run(main())


@pytest.mark.parametrize("wait", range(4))
def test_cancelled_while_connecting(path, wait):
    async def main():
        loop = asyncio.get_running_loop()
        made = []

        def factory():
            made.append(Recorder())
            return made[-1]

        async with await loop.create_unix_server(Echo, path) as server:
            task = loop.create_task(loop.create_unix_connection(factory, path))
            await turns(wait)
            if task.cancel():
                with pytest.raises(asyncio.CancelledError):
                    await task
            else:
                task.result()[0].close()
            await until(lambda: not server._active)
            for protocol in made:
                await until(lambda protocol=protocol: protocol.lost)

    run(main())


def test_connect_errors(path):
    async def main():
        loop = asyncio.get_running_loop()
        with pytest.raises(FileNotFoundError):
            await loop.create_unix_connection(Recorder, path)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(path)
            with pytest.raises(ConnectionRefusedError):
                await loop.create_unix_connection(Recorder, path)

    run(main())


def test_factory_raises(path):
    def factory():
        raise ZeroDivisionError

    async def main():
        loop = asyncio.get_running_loop()
        async with await loop.create_unix_server(Echo, path) as server:
            with pytest.raises(ZeroDivisionError):
                await loop.create_unix_connection(factory, path)
            await until(lambda: not server._active)

    run(main())


def test_context_of_callbacks(path):
    variable = contextvars.ContextVar("variable", default="outside")
    seen = []

    class Looking(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            seen.append(variable.get())

        def data_received(self, data):
            seen.append(variable.get())
            self.transport.write(data)

        def connection_lost(self, exc):
            super().connection_lost(exc)
            seen.append(variable.get())

    async def main():
        loop = asyncio.get_running_loop()
        variable.set("server")
        async with await loop.create_unix_server(Looking, path) as server:
            variable.set("client")
            await talk(path)
            await until(lambda: not server._active)
        assert seen == ["server"] * 3

    run(main())


# ---- sockets given ----


def test_given_pair():
    async def main():
        loop = asyncio.get_running_loop()
        for method in loop.create_unix_connection, loop.create_connection:
            ours, theirs = socket.socketpair()
            transport, protocol = await method(Recorder, sock=ours)
            peer = Peer(theirs)
            transport.write(b"hello")
            assert await peer.exactly(5) == b"hello"
            assert transport.get_extra_info("sockname") == ""
            assert transport.get_extra_info("socket").fileno() == ours.fileno()
            peer.close()
            await until(lambda protocol=protocol: protocol.lost)
            await turns()
            assert ours.fileno() == -1

    run(main())


def test_accepted_elsewhere(path):
    async def main():
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen()
            client = asyncio.create_task(talk(path))
            listener.setblocking(False)
            accepted, _ = await loop.sock_accept(listener)
            transport, protocol = await loop.connect_accepted_socket(Echo, accepted)
            assert transport.get_extra_info("sockname") == path
            await client
            await until(lambda: protocol.lost)

    run(main())


@pytest.mark.parametrize("method", ["create_unix_server", "create_server"])
def test_given_listener(path, method):
    async def main():
        loop = asyncio.get_running_loop()
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(path)
        async with await getattr(loop, method)(Echo, sock=sock) as server:
            assert server.getsockname() == path
            await talk(path)
        assert sock.fileno() == -1

    run(main())


# ---- arguments ----


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({}, ValueError, "no path and sock were specified"),
        (
            {"path": "x", "sock": "y"},
            ValueError,
            "path and sock can not be specified at the same time",
        ),
        ({"path": 3}, TypeError, "os.PathLike"),
        ({"path": "x", "ssl": True}, ValueError, "you have to pass server_hostname"),
        (
            {"path": "x", "server_hostname": "h"},
            ValueError,
            "server_hostname is only meaningful with ssl",
        ),
        *(
            ({"path": "x", name: value}, ValueError, f"{name} is only meaningful")
            for name, value in OPTIONS.items()
        ),
    ],
)
def test_bad_arguments_of_a_connection(arguments, error, text):
    async def main():
        loop = asyncio.get_running_loop()
        with pytest.raises(error, match=text):
            await loop.create_unix_connection(Recorder, **arguments)

    run(main())


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({}, ValueError, "path was not specified, and no sock specified"),
        (
            {"path": "x", "sock": "y"},
            ValueError,
            "path and sock can not be specified at the same time",
        ),
        ({"path": 3}, TypeError, "os.PathLike"),
        ({"path": "x", "ssl": True}, TypeError, "must be an SSLContext or None"),
        *(
            ({"path": "x", name: value}, ValueError, f"{name} is only meaningful")
            for name, value in OPTIONS.items()
        ),
    ],
)
def test_bad_arguments_of_a_server(arguments, error, text):
    async def main():
        loop = asyncio.get_running_loop()
        with pytest.raises(error, match=text):
            await loop.create_unix_server(Recorder, **arguments)

    run(main())


@pytest.mark.parametrize("kind", ["tcp", "dgram"])
@pytest.mark.parametrize("method", ["create_unix_connection", "create_unix_server"])
def test_wrong_kind_of_socket(method, kind):
    async def main():
        loop = asyncio.get_running_loop()
        family, type_ = (
            (socket.AF_INET, socket.SOCK_STREAM)
            if kind == "tcp"
            else (socket.AF_UNIX, socket.SOCK_DGRAM)
        )
        with (
            socket.socket(family, type_) as sock,
            pytest.raises(ValueError, match="A UNIX Domain Stream Socket was expected"),
        ):
            await getattr(loop, method)(Recorder, sock=sock)

    run(main())


def test_closed_loop(path):
    loop = uvtulip.new_event_loop()
    loop.close()
    for method in loop.create_unix_connection, loop.create_unix_server:
        call = method(Recorder, path)
        with pytest.raises(RuntimeError, match="closed"):
            call.send(None)


# ---- other families ----


def vsock():
    if not hasattr(socket, "AF_VSOCK"):
        pytest.skip("no AF_VSOCK")
    try:
        return socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    except OSError as exc:
        pytest.skip(f"AF_VSOCK: {exc}")


def test_vsock_server():
    async def main():
        loop = asyncio.get_running_loop()
        sock = vsock()
        sock.bind((socket.VMADDR_CID_ANY, socket.VMADDR_PORT_ANY))
        name = sock.getsockname()
        async with await loop.create_server(Echo, sock=sock) as server:
            assert server.getsockname() == name
            if not os.path.exists("/sys/module/vsock_loopback"):
                return  # There is nobody to connect.
            client = vsock()
            await loop.run_in_executor(None, client.connect, (1, name[1]))
            transport, protocol = await loop.create_connection(Recorder, sock=client)
            transport.write(b"hello")
            await until(lambda: protocol.data == b"hello")
            assert transport.get_extra_info("peername") == (1, name[1])
            (served,) = server._clients()
            assert served.get_extra_info("sockname")[1] == name[1]
            transport.close()
            await until(lambda: not server._active)

    run(main())


def test_names_of_a_vsock():
    """A socket that nobody connected, to look at its names."""

    async def main():
        from uvtulip import uv
        from uvtulip._transports import StreamTransport

        loop = asyncio.get_running_loop()
        sock = vsock()
        sock.bind((socket.VMADDR_CID_ANY, socket.VMADDR_PORT_ANY))
        name = sock.getsockname()
        handle = uv.Pipe(loop.uv_loop)
        handle.open(sock.detach())
        protocol = Recorder()
        transport = StreamTransport(loop, handle, protocol)
        assert transport.get_extra_info("sockname") == name
        assert transport.get_extra_info("peername") is None
        assert transport.get_extra_info("socket").family == socket.AF_VSOCK
        transport.close()
        await until(lambda: protocol.lost)

    run(main())
