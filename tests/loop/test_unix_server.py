"""create_unix_server(): serving, and the file that a server leaves or removes."""

import asyncio
import errno
import os
import pathlib
import socket
import stat
import sys

import pytest

from aiosupport import Echo, Recorder, open_descriptors, run, turns, until

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


# ---- servers ----


def test_start_later_and_serve_forever(path):
    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_unix_server(Echo, path, start_serving=False)
        assert not server.is_serving()
        with pytest.raises(ConnectionRefusedError):
            await loop.create_unix_connection(Recorder, path)
        await server.start_serving()
        await talk(path)
        forever = loop.create_task(server.serve_forever())
        await turns()
        server.close()
        with pytest.raises(asyncio.CancelledError):
            await forever

    run(main())


@pytest.mark.parametrize("way", ["close_clients", "abort_clients"])
def test_closing_the_clients(path, way):
    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_unix_server(Echo, path)
        made = [await loop.create_unix_connection(Recorder, path) for _ in range(5)]
        await until(lambda: server._active == 5)
        server.close()
        waiter = loop.create_task(server.wait_closed())
        await turns()
        assert not waiter.done()
        getattr(server, way)()
        await waiter
        for _, protocol in made:
            await until(lambda protocol=protocol: protocol.lost)

    run(main())


def test_out_of_descriptors(path):
    """Accepting pauses and resumes; no connection is lost."""
    import resource

    async def main():
        loop = asyncio.get_running_loop()
        reported = []
        loop.set_exception_handler(lambda loop, context: reported.append(context))
        async with await loop.create_unix_server(Echo, path) as server:
            clients = [socket.socket(socket.AF_UNIX) for _ in range(3)]
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
                    client.setblocking(False)
                    client.connect(path)
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
        await until(lambda: not server._active)

    run(main())


# ---- the file of a server ----


def test_stale_socket_is_removed(path):
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(path)

    async def main():
        loop = asyncio.get_running_loop()
        async with await loop.create_unix_server(Echo, path):
            await talk(path)

    run(main())


def test_other_files_are_not_removed(path):
    pathlib.Path(path).write_text("precious")

    async def main():
        loop = asyncio.get_running_loop()
        with pytest.raises(OSError) as caught:
            await loop.create_unix_server(Echo, path)
        assert caught.value.errno == errno.EADDRINUSE
        assert caught.value.strerror == f"Address {path!r} is already in use"

    run(main())
    assert pathlib.Path(path).read_text() == "precious"


@linux
def test_abstract_name_in_use():
    async def main():
        loop = asyncio.get_running_loop()
        async with await loop.create_unix_server(Echo, abstract()):
            with pytest.raises(OSError, match="is already in use"):
                await loop.create_unix_server(Echo, abstract())

    run(main())


def test_what_cannot_be_checked_is_logged(path, caplog):
    async def main():
        loop = asyncio.get_running_loop()
        with pytest.raises(NotADirectoryError):
            await loop.create_unix_server(Echo, path + "/below")
        assert "Unable to check or remove stale UNIX socket" in caplog.text

    pathlib.Path(path).write_text("a file")
    run(main())


@pytest.mark.parametrize("started", [True, False])
@pytest.mark.parametrize("cleanup", [True, False, None])
def test_cleanup(path, cleanup, started):
    options = {} if cleanup is None else {"cleanup_socket": cleanup}
    expected = sys.version_info >= (3, 13) if cleanup is None else cleanup

    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_unix_server(
            Echo, path, start_serving=started, **options
        )
        assert os.path.exists(path)
        server.close()
        server.close()
        assert os.path.exists(path) is not expected

    run(main())


@pytest.mark.parametrize("cleanup", [True, False])
def test_cleanup_of_a_given_socket(path, cleanup):
    async def main():
        loop = asyncio.get_running_loop()
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(path)
        server = await loop.create_unix_server(Echo, sock=sock, cleanup_socket=cleanup)
        await talk(path)
        server.close()
        assert os.path.exists(path) is not cleanup
        assert sock.fileno() == -1

    run(main())


def test_cleanup_when_gone_or_replaced(path, caplog):
    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_unix_server(Echo, path, cleanup_socket=True)
        os.unlink(path)
        server.close()
        server = await loop.create_unix_server(Echo, path, cleanup_socket=True)
        os.rename(path, path + ".old")
        pathlib.Path(path).write_text("precious")
        server.close()
        assert pathlib.Path(path).read_text() == "precious"
        assert caplog.text == ""

    run(main())


def test_cleanup_fails(tmp_path, caplog):
    directory = tmp_path / "directory"
    directory.mkdir()
    path = directory / "sock"

    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_unix_server(Echo, path, cleanup_socket=True)
        path.unlink()
        directory.rmdir()
        directory.write_text("no directory any more")
        server.close()
        assert "Unable to clean up listening UNIX socket" in caplog.text

    run(main())


# ---- mode ----


@pytest.mark.parametrize("mode", [0o600, 0o666, 0o777, 0])
@pytest.mark.parametrize("start", [True, False])
def test_mode(tmp_path, mode, start, no_leak):
    path = tmp_path / "socket"

    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_unix_server(
            Recorder, path, mode=mode, start_serving=start, cleanup_socket=True
        )
        assert stat.S_IMODE(path.stat().st_mode) == mode
        server.close()
        assert not path.exists()

    run(main())


@pytest.mark.parametrize("mode", ["rw", 1.5, b"6"])
def test_mode_that_is_none(tmp_path, mode, no_leak):
    """Nothing is left of a socket whose mode cannot be set."""
    path = tmp_path / "socket"

    async def main():
        with pytest.raises(TypeError):
            await asyncio.get_running_loop().create_unix_server(
                Recorder, path, mode=mode
            )
        assert not path.exists()

    run(main())


def test_mode_needs_a_path(no_leak):
    async def main():
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX) as sock:
            with pytest.raises(ValueError, match="mode"):
                await loop.create_unix_server(Recorder, sock=sock, mode=0o600)
        abstract = f"\0uvtulip-mode-{os.getpid()}"
        for name in (abstract, abstract.encode()):
            with pytest.raises(ValueError, match="abstract"):
                await loop.create_unix_server(Recorder, name, mode=0o600)

    run(main())
