"""Holes that were measured in other loops, each a test that passes here.

Measured in November 2026 on CPython 3.13, Linux: uvloop 0.23.0, rloop 0.5.0 and
asyncio's own loop, each in a fresh process.  The docstring of a test says what they
did.  Everything runs by asyncio.Runner with uvtulip.new_event_loop.
"""

import asyncio
import os
import socket
import subprocess
import sys
import textwrap
import time

import pytest

from aiosupport import LIMIT, Recorder, check_script, run, turns, until
from streamsupport import tcp_pair

# ---- time ----


def test_sleep_is_never_early():
    """sleep(10.5 ms): uvloop early 36 to 38 times of 40."""

    async def main():
        for _ in range(40):
            begin = time.monotonic()
            await asyncio.sleep(0.0105)
            assert time.monotonic() - begin >= 0.0105

    run(main())


def test_time_is_live_and_monotonic():
    """uvloop's stands still in a turn, rloop's has another beginning."""

    async def main():
        loop = asyncio.get_running_loop()
        for _ in range(200):
            before = time.monotonic()
            assert before <= loop.time() <= time.monotonic()

    run(main())


# ---- is it what asyncio has? ----


def test_instances_of_asyncios_classes():
    """uvloop: no transport is an asyncio.Transport, no handle an asyncio.Handle,
    no server an asyncio.AbstractServer."""

    async def main():
        loop = asyncio.get_running_loop()
        handle = loop.call_soon(lambda: None)
        timer = loop.call_later(0, lambda: None)
        assert isinstance(handle, asyncio.Handle)
        assert isinstance(timer, asyncio.TimerHandle)
        server = await loop.create_server(Recorder, "127.0.0.1", 0)
        assert isinstance(server, asyncio.AbstractServer)
        transport, protocol = await loop.create_connection(
            Recorder, *server.sockets[0].getsockname()
        )
        assert isinstance(transport, asyncio.Transport)
        transport.close()
        server.close()
        server.close_clients()
        await server.wait_closed()
        datagrams, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
        )
        assert isinstance(datagrams, asyncio.DatagramTransport)
        datagrams.close()
        await until(lambda: protocol.lost)
        process = await asyncio.create_subprocess_exec("true")
        assert isinstance(process._transport, asyncio.SubprocessTransport)
        assert isinstance(loop.create_future(), asyncio.Future)
        await process.wait()

    run(main())


def test_keywords_of_create_task():
    """uvloop refuses what it does not know."""

    async def nothing():
        pass

    async def main():
        loop = asyncio.get_running_loop()
        seen = []

        def factory(loop, coro, *, more=None, **kwargs):
            seen.append(more)
            return asyncio.Task(coro, loop=loop, **kwargs)

        loop.set_task_factory(factory)
        await loop.create_task(nothing(), more="more")
        assert seen == ["more"]

    run(main())


# ---- writing ----


@pytest.mark.parametrize("resize", [False, True])
def test_bytearray_changed_after_write(resize):
    """asyncio and uvloop send what it was changed to; resizing it is a BufferError."""

    async def main():
        loop = asyncio.get_running_loop()
        ours, theirs = tcp_pair()
        transport, protocol = await loop.create_connection(Recorder, sock=ours)
        size = 4 << 20  # More than the kernel takes.
        data = bytearray(b"a" * size)
        transport.write(data)
        if resize:
            data.clear()
        else:
            data[:] = b"b" * size
        theirs.settimeout(LIMIT)

        def read():
            received = bytearray()
            while len(received) < size:
                received += theirs.recv(1 << 20)
            return received

        assert await loop.run_in_executor(None, read) == b"a" * size
        transport.close()
        await until(lambda: protocol.lost)
        theirs.close()

    run(main())


# ---- connections ----


@pytest.mark.parametrize(
    "keywords",
    [{"happy_eyeballs_delay": 0.25}, {"interleave": 1}, {"all_errors": True}],
)
def test_keywords_of_create_connection(keywords):
    """uvloop: TypeError."""

    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Recorder, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        transport, protocol = await loop.create_connection(
            Recorder, "127.0.0.1", port, **keywords
        )
        transport.close()
        server.close()
        server.close_clients()
        await server.wait_closed()
        await until(lambda: protocol.lost)
        if "all_errors" in keywords:
            with pytest.raises(ExceptionGroup):
                await loop.create_connection(Recorder, "127.0.0.1", port, **keywords)

    run(main())


def test_scope_of_an_address_is_kept():
    """fe80::1%lo: uvloop loses the scope."""

    async def main():
        loop = asyncio.get_running_loop()
        index = socket.if_nametoindex("lo")
        ((*_, address),) = await loop.getaddrinfo(
            "fe80::1%lo", 80, type=socket.SOCK_STREAM
        )
        assert address == ("fe80::1", 80, 0, index)

    run(main())


def test_reset_while_reading_is_paused():
    """uvloop tells of it at once; asyncio and rloop when reading is resumed or
    something is written.  uvtulip does as asyncio: nothing is lost by it."""

    async def main():
        loop = asyncio.get_running_loop()
        ours, theirs = tcp_pair()
        transport, protocol = await loop.create_connection(Recorder, sock=ours)
        transport.pause_reading()
        linger = b"\1\0\0\0\0\0\0\0"
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        theirs.close()
        await turns(20)
        assert not protocol.lost
        transport.resume_reading()
        await until(lambda: protocol.lost)
        assert isinstance(protocol.error, ConnectionResetError)

    run(main())


# ---- servers ----


@pytest.mark.parametrize("how", ["close_clients", "abort_clients"])
def test_closing_clients(how):
    """uvloop has no such method."""

    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Recorder, "127.0.0.1", 0, keep_alive=True)
        transport, protocol = await loop.create_connection(
            Recorder, *server.sockets[0].getsockname()
        )
        await until(lambda: server._active)
        getattr(server, how)()
        await until(lambda: protocol.lost)
        server.close()
        await server.wait_closed()

    run(main())


def test_serve_forever_of_a_closed_server():
    """uvloop's waits for ever."""

    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Recorder, "127.0.0.1", 0)
        server.close()
        with pytest.raises(RuntimeError, match="is closed"):
            await server.serve_forever()

    run(main())


# ---- descriptors ----


def test_blocking_flag_is_restored():
    """uvloop's add_reader() leaves O_NONBLOCK set."""

    async def main():
        loop = asyncio.get_running_loop()
        read_end, write_end = os.pipe()
        assert os.get_blocking(read_end)
        loop.add_reader(read_end, lambda: None)
        await turns()
        loop.remove_reader(read_end)
        await turns()
        assert os.get_blocking(read_end)
        os.close(read_end)
        os.close(write_end)

    run(main())


def test_regular_file_is_no_abort(tmp_path):
    """connect_read_pipe(): uvloop aborts the process."""

    async def main():
        loop = asyncio.get_running_loop()
        with (tmp_path / "file").open("w+b") as file:
            with pytest.raises(ValueError):
                await loop.connect_read_pipe(asyncio.Protocol, file)
            with pytest.raises(ValueError):
                await loop.connect_write_pipe(asyncio.BaseProtocol, file)
            with pytest.raises(PermissionError):
                loop.add_reader(file, print)

    run(main())


def test_sock_sendto_and_recvfrom():
    """uvloop and rloop: NotImplementedError."""

    async def main():
        loop = asyncio.get_running_loop()
        one, two = (socket.socket(type=socket.SOCK_DGRAM) for _ in range(2))
        with one, two:
            for sock in (one, two):
                sock.bind(("127.0.0.1", 0))
                sock.setblocking(False)
            await loop.sock_sendto(one, b"data", two.getsockname())
            assert await loop.sock_recvfrom(two, 10) == (b"data", one.getsockname())
            await loop.sock_sendto(one, b"more", two.getsockname())
            buffer = bytearray(10)
            count, sender = await loop.sock_recvfrom_into(two, buffer)
            assert (bytes(buffer[:count]), sender) == (b"more", one.getsockname())

    run(main())


def test_sendfile(tmp_path):
    """uvloop and rloop: NotImplementedError for both."""
    (tmp_path / "file").write_bytes(b"content")

    async def main():
        loop = asyncio.get_running_loop()
        with (tmp_path / "file").open("rb") as file:
            ours, theirs = tcp_pair()
            transport, protocol = await loop.create_connection(Recorder, sock=ours)
            assert await loop.sendfile(transport, file) == 7
            theirs.settimeout(LIMIT)
            assert theirs.recv(100) == b"content"
            transport.close()
            await until(lambda: protocol.lost)
            theirs.close()
            ours, theirs = tcp_pair()
            ours.setblocking(False)
            with ours, theirs:
                assert await loop.sock_sendfile(ours, file) == 7
                assert theirs.recv(100) == b"content"

    run(main())


# ---- UNIX sockets ----


def test_abstract_names():
    """uvloop: EINVAL; rloop has no UNIX sockets."""

    async def main():
        loop = asyncio.get_running_loop()
        name = f"\0uvtulip-peers-{os.getpid()}"
        server = await loop.create_unix_server(Recorder, name)
        transport, protocol = await loop.create_unix_connection(Recorder, name)
        assert transport.get_extra_info("peername") in (name, name.encode())
        transport.close()
        server.close()
        server.close_clients()
        await server.wait_closed()
        await until(lambda: protocol.lost)

    run(main())


def test_unix_datagrams(tmp_path):
    """uvloop: TypeError."""

    class Datagrams(asyncio.DatagramProtocol):
        seen = b""

        def datagram_received(self, data, addr):
            self.seen += data

    async def main():
        loop = asyncio.get_running_loop()
        path = str(tmp_path / "socket")
        server, received = await loop.create_datagram_endpoint(
            Datagrams, local_addr=path, family=socket.AF_UNIX
        )
        client, _ = await loop.create_datagram_endpoint(
            Datagrams, remote_addr=path, family=socket.AF_UNIX
        )
        client.sendto(b"data")
        await until(lambda: received.seen == b"data")
        client.close()
        server.close()
        await turns()

    run(main())


# ---- subprocesses ----


def test_process_group_and_umask():
    """uvloop: ValueError."""

    async def main():
        source = "import os; print(os.getpgrp() == os.getpid(), oct(os.umask(0)))"
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", source),
            process_group=0,
            umask=0o27,
            stdout=subprocess.PIPE,
        )
        out, _ = await process.communicate()
        assert out == b"True 0o27\n"

    run(main())


def test_child_can_open_its_stdin():
    """/dev/stdin: not with uvloop, whose children get socket pairs."""

    async def main():
        process = await asyncio.create_subprocess_exec(
            "cat", "/dev/stdin", stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert (await process.communicate(b"text"))[0] == b"text"
        pipe = await asyncio.create_subprocess_exec("true", stdout=subprocess.PIPE)
        transport = pipe._transport.get_pipe_transport(1)
        assert transport.get_extra_info("pipe") is not None  # uvloop: None
        await pipe.communicate()

    run(main())


# ---- the interpreter ----


def test_dev_mode_is_honoured():
    """rloop does not look."""
    source = """
        import asyncio, uvtulip
        async def main():
            print(asyncio.get_running_loop().get_debug())
        with asyncio.Runner(loop_factory=uvtulip.new_event_loop) as runner:
            runner.run(main())
    """
    assert check_script(source, "-X", "dev") == "True\n"
    assert check_script(source, env={"PYTHONASYNCIODEBUG": "1"}) == "True\n"
    assert check_script(source) == "False\n"


@pytest.mark.skipif(sys.version_info < (3, 13), reason="3.12's own library is not safe")
def test_import_in_a_sub_interpreter():
    """uvloop and rloop: ImportError; each interpreter has a lock of its own here."""
    inner = textwrap.dedent(
        """
        import asyncio, uvtulip
        async def main():
            await asyncio.sleep(0)
            print(type(asyncio.get_running_loop()).__name__)
        uvtulip.run(main())
        """
    )
    source = f"""
        import _interpreters as interpreters
        id = interpreters.create("isolated")
        assert interpreters.exec(id, {inner!r}) is None
        interpreters.destroy(id)
    """
    assert check_script(source) == "Loop\n"


@pytest.mark.skipif(sys.version_info < (3, 14), reason="came with Python 3.14")
@pytest.mark.parametrize("tool", ["ps", "pstree"])
def test_asyncio_ps(tool):
    """python -m asyncio ps and pstree see the tasks of another process."""
    source = """
        import asyncio, sys, uvtulip
        async def inner():
            print("ready", flush=True)
            await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        async def main():
            await asyncio.create_task(inner(), name="the inner one")
        uvtulip.run(main())
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(source)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdout.readline() == b"ready\n"
        done = subprocess.run(
            [sys.executable, "-m", "asyncio", tool, str(process.pid)],
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
        process.stdin.close()
    assert done.returncode == 0, done.stderr
    assert "the inner one" in done.stdout and "main" in done.stdout
