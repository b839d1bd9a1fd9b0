"""Tools that look for blocking calls, as blockbuster does, find none that asyncio's own
loop does not make: functions in `os` are replaced by others that refuse what comes
from neither the test nor a function of asyncio's that such tools except."""

import asyncio
import contextlib
import os
import socket
import sys
from unittest import mock

import pytest

from aiosupport import Recorder, check_script, run

# What such tools replace, and where they let asyncio call it.
EXCEPTED = {
    "stat": {("unix_events.py", "create_unix_server"), ("unix_events.py", "_stop")},
    "unlink": {("unix_events.py", "_stop_serving")},
    "remove": {("unix_events.py", "create_unix_server")},
    "sendfile": {("unix_events.py", "_sock_sendfile_native_impl")},
    "read": {
        ("base_events.py", "subprocess_exec"),
        ("base_events.py", "subprocess_shell"),
    },
    "write": set(),
    "rename": set(),
    "replace": set(),
    "mkdir": set(),
    "rmdir": set(),
    "link": set(),
    "symlink": set(),
    "listdir": set(),
    "access": set(),
    "statvfs": set(),
    "readlink": set(),
    "getcwd": set(),
    "open": set(),
    "chmod": set(),
}


class Blocking(Exception):
    pass


def refusing(name):
    genuine = getattr(os, name)

    def function(*args, **kwargs):
        frame = sys._getframe(1)
        while frame is not None:
            code = frame.f_code
            place = os.path.basename(code.co_filename), code.co_name
            in_import = code.co_filename.startswith("<frozen importlib")
            if place in EXCEPTED[name] or in_import:
                return genuine(*args, **kwargs)
            frame = frame.f_back
        raise Blocking(name)

    return function


@pytest.fixture
def watched():
    """A context in which each of them refuses."""

    @contextlib.contextmanager
    def watching():
        with contextlib.ExitStack() as stack:
            for name in EXCEPTED:
                stack.enter_context(mock.patch.object(os, name, refusing(name)))
            yield

    return watching


def test_sendfile(watched, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 10_000)

    async def main():
        loop = asyncio.get_running_loop()
        one, two = socket.socketpair()
        three, four = socket.socketpair()
        one.setblocking(False)
        transport, _ = await loop.create_connection(Recorder, sock=three)
        with path.open("rb") as file, watched():
            assert await loop.sock_sendfile(one, file) == 10_000
            assert await loop.sendfile(transport, file) == 10_000
        transport.close()
        await asyncio.sleep(0.001)
        for sock in (one, two, four):
            sock.close()

    run(main())


def test_unix_sockets(watched, tmp_path):
    path = str(tmp_path / "socket")

    async def main():
        loop = asyncio.get_running_loop()
        with watched():
            for _ in range(2):  # The second finds what the first has left.
                server = await loop.create_unix_server(
                    Recorder, path, cleanup_socket=False, mode=0o600
                )
                transport, _ = await loop.create_unix_connection(Recorder, path)
                transport.abort()
                server.close()
            server = await loop.create_unix_server(Recorder, path, cleanup_socket=True)
            server.close()
            for _ in range(2):
                transport, _ = await loop.create_datagram_endpoint(
                    Recorder, local_addr=path, family=socket.AF_UNIX
                )
                transport.abort()
                await asyncio.sleep(0.001)

    run(main())


def test_tcp_and_names(watched):
    async def main():
        loop = asyncio.get_running_loop()
        with watched():
            server = await loop.create_server(Recorder, "localhost", 0)
            port = server.sockets[0].getsockname()[1]
            transport, _ = await loop.create_connection(Recorder, "localhost", port)
            await loop.getnameinfo(("127.0.0.1", port))
            transport.abort()
            server.close()
            await server.wait_closed()

    run(main())


def test_pipes(watched):
    async def main():
        loop = asyncio.get_running_loop()
        reading, writing = os.pipe()
        with watched(), open(os.devnull, "rb", buffering=0) as null:
            source, _ = await loop.connect_read_pipe(
                Recorder, os.fdopen(reading, "rb", 0)
            )
            drain, _ = await loop.connect_write_pipe(
                Recorder, os.fdopen(writing, "wb", 0)
            )
            empty, _ = await loop.connect_read_pipe(Recorder, null)
            drain.write(b"x")
            await asyncio.sleep(0.001)
            for transport in (source, drain, empty):
                transport.close()
            await asyncio.sleep(0.001)

    run(main())


@pytest.mark.parametrize("shell", [True, False])
def test_subprocess(watched, shell):
    async def main():
        with watched():
            if shell:
                process = await asyncio.create_subprocess_shell(
                    "cat", stdin=-1, stdout=-1
                )
            else:
                process = await asyncio.create_subprocess_exec(
                    "cat", stdin=-1, stdout=-1
                )
            assert await process.communicate(b"x") == (b"x", None)
            with pytest.raises(FileNotFoundError):
                await asyncio.create_subprocess_exec("/does/not/exist")

    run(main())


def test_imported_after_they_were_replaced():
    """Modules that are imported at need, and uvtulip itself."""
    check_script(
        """
        import os
        def refuse(*args, **kwargs):
            raise AssertionError("called")
        os.unlink = os.sendfile = refuse
        import asyncio, socket, uvtulip
        async def main():
            loop = asyncio.get_running_loop()
            with open(socket.__file__, "rb") as file:
                one, two = socket.socketpair()
                one.setblocking(False)
                assert await loop.sock_sendfile(one, file, count=1) == 1
                one.close()
                two.close()
        uvtulip.run(main())
        """
    )
