"""connect_read_pipe(), and what pipes, FIFOs, terminals and sockets have in common."""

import asyncio
import contextvars
import errno
import logging
import os
import pty
import socket
import tty

import pytest

from aiosupport import run, turns, until
from pipesupport import pipe_objects, reader, writer
from streamsupport import Events
from uvtulip import uv

BIG = 4 << 20


pytestmark = pytest.mark.usefixtures("no_leak")


def collecting():
    contexts = []
    asyncio.get_running_loop().set_exception_handler(
        lambda loop, context: contexts.append(context)
    )
    return contexts


# ---- reading ----


def test_reads_until_the_end():
    async def main():
        file, theirs = pipe_objects()
        os.write(theirs.fileno(), b"early")
        transport, protocol = await reader(file)
        assert isinstance(transport, asyncio.ReadTransport)
        assert not isinstance(transport, asyncio.WriteTransport)
        assert transport.get_extra_info("pipe") is file
        assert transport.get_extra_info("peername", "none") == "none"
        assert transport.get_extra_info("socket") is None
        assert type(transport.get_extra_info("uv_handle")) is uv.Pipe
        assert await protocol.until(5) == b"early"
        os.write(theirs.fileno(), b" late")
        assert await protocol.until(10) == b"early late"
        theirs.close()
        assert await protocol.lost is None
        await turns()
        assert [e for e in protocol.events if e != "data"] == ["made", "eof", "lost"]
        assert file.closed
        assert transport.get_extra_info("pipe") is file
        assert transport.get_protocol() is None
        assert "closed" in repr(transport)

    run(main())


def test_the_end_closes_whatever_eof_received_says():
    class Keeping(Events):
        def eof_received(self):
            super().eof_received()
            return True

    async def main():
        file, theirs = pipe_objects()
        _, protocol = await reader(file, Keeping())
        theirs.close()
        assert await protocol.lost is None

    run(main())


def test_much_data():
    async def main():
        file, theirs = pipe_objects()
        _, protocol = await reader(file)
        data = os.urandom(BIG)
        loop = asyncio.get_running_loop()

        def send():
            with theirs:
                view = memoryview(data)
                while view:
                    view = view[theirs.write(view) :]

        await loop.run_in_executor(None, send)
        assert await protocol.lost is None
        assert protocol.data == data

    run(main())


def test_pausing():
    async def main():
        file, theirs = pipe_objects()
        transport, protocol = await reader(file)
        with theirs:
            assert transport.is_reading()
            transport.pause_reading()
            transport.pause_reading()
            assert not transport.is_reading()
            theirs.write(b"waits")
            await asyncio.sleep(0.02)
            assert protocol.data == b""
            transport.resume_reading()
            transport.resume_reading()
            assert transport.is_reading()
            assert await protocol.until(5) == b"waits"
            transport.close()
            assert transport.is_closing()
            assert not transport.is_reading()
            transport.resume_reading()
            transport.pause_reading()
            transport.close()
            assert await protocol.lost is None
            await turns()

    run(main())


def test_paused_in_connection_made():
    class Paused(Events):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.pause_reading()

    async def main():
        file, theirs = pipe_objects()
        theirs.write(b"x")
        transport, protocol = await reader(file, Paused())
        await asyncio.sleep(0.02)
        assert protocol.data == b""
        transport.resume_reading()
        await protocol.until(1)
        theirs.close()
        await protocol.lost

    run(main())


def test_stream_reader():
    async def main():
        loop = asyncio.get_running_loop()
        file, theirs = pipe_objects()
        stream = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), file)
        theirs.write(b"line\nrest")
        theirs.close()
        assert await stream.readline() == b"line\n"
        assert await stream.read() == b"rest"

    run(main())


def test_buffered_protocol():
    class Buffered(asyncio.BufferedProtocol):
        def __init__(self):
            self.buffer = bytearray(10)
            self.data = b""
            self.lost = asyncio.get_running_loop().create_future()

        def get_buffer(self, sizehint):
            return self.buffer

        def buffer_updated(self, nbytes):
            self.data += self.buffer[:nbytes]

        def connection_lost(self, exc):
            self.lost.set_result(exc)

    async def main():
        file, theirs = pipe_objects()
        _, protocol = await reader(file, Buffered())
        theirs.write(b"0123456789" * 10)
        theirs.close()
        assert await protocol.lost is None
        assert protocol.data == b"0123456789" * 10

    run(main())


def test_data_received_raises():
    """As with asyncio, that is reported and reading goes on."""

    class Bad(Events):
        def data_received(self, data):
            super().data_received(data)
            if len(self.data) == 1:
                raise ZeroDivisionError

    async def main():
        contexts = collecting()
        file, theirs = pipe_objects()
        transport, protocol = await reader(file, Bad())
        theirs.write(b"x")
        await until(lambda: contexts)
        assert type(contexts[0]["exception"]) is ZeroDivisionError
        assert contexts[0]["transport"] is transport
        theirs.write(b"y")
        assert await protocol.until(2) == b"xy"
        theirs.close()
        assert await protocol.lost is None

    run(main())


def test_read_error_is_reported():
    async def main():
        contexts = collecting()
        reading, writing = os.pipe()
        os.close(reading)
        transport, protocol = await reader(open(writing, "wb", 0))
        error = await protocol.lost
        assert isinstance(error, OSError)
        assert [c["message"] for c in contexts] == [
            "Fatal read error on pipe transport"
        ]
        assert contexts[0]["exception"] is error
        assert contexts[0]["transport"] is transport
        await turns()

    run(main())


# ---- kinds of descriptors ----


def test_fifo(tmp_path):
    path = tmp_path / "fifo"
    os.mkfifo(path)

    async def main():
        reading = open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb", 0)
        read_end, received = await reader(reading)
        write_end, sent = await writer(open(path, "wb", 0))
        write_end.write(b"through the file system")
        assert await received.until(23) == b"through the file system"
        write_end.close()
        assert await received.lost is None
        assert await sent.lost is None

    run(main())


def test_terminal():
    async def main():
        master, slave = pty.openpty()
        tty.setraw(slave)
        slave_in, typed = await reader(open(slave, "rb", 0))
        slave_out, shown = await writer(open(os.dup(slave), "wb", 0))
        master_in, screen = await reader(open(os.dup(master), "rb", 0))
        master_out, keyboard = await writer(open(master, "wb", 0))
        master_out.write(b"typed")
        assert await typed.until(5) == b"typed"
        slave_out.write(b"shown")
        assert await screen.until(5) == b"shown"
        # The last user of the slave's side goes: the master gets EIO.
        slave_in.close()
        slave_out.close()
        error = await screen.lost
        # Newer libuvs make an end of it.
        assert error is None or error.errno == errno.EIO
        master_out.close()
        for protocol in typed, shown, keyboard:
            assert await protocol.lost is None

    run(main())


def test_sockets():
    async def main():
        one, two = socket.socketpair()
        write_end, sent = await writer(one)
        read_end, received = await reader(two)
        write_end.write(b"x" * 100_000)
        await received.until(100_000)
        write_end.close()
        assert await received.lost is None
        assert await sent.lost is None
        assert one.fileno() == two.fileno() == -1

    run(main())


def test_null_device():
    async def main():
        transport, protocol = await writer(open(os.devnull, "wb", 0))
        transport.write(bytes(BIG))
        assert transport.get_write_buffer_size() == 0
        transport.close()
        assert await protocol.lost is None
        file = open(os.devnull, "rb", 0)
        transport, protocol = await reader(file)
        assert await protocol.lost is None
        assert protocol.events == ["made", "eof", "lost"]
        assert file.closed

    run(main())


def test_device_that_cannot_be_waited_for():
    async def main():
        with open("/dev/zero", "rb", 0) as file:
            with pytest.raises(OSError, match="uv_pipe_open"):
                await reader(file)
            assert not file.closed
        contexts = collecting()
        _, protocol = await reader(open("/dev/zero", "r+b", 0))
        assert isinstance(await protocol.lost, PermissionError)
        assert len(contexts) == 1
        await turns()

    run(main())


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_files_are_refused_before_anything(kind, tmp_path):
    def never():
        raise AssertionError("the factory must not be called")

    async def main():
        loop = asyncio.get_running_loop()
        if kind == "file":
            path = tmp_path / "file"
            path.write_bytes(b"content")
            flags = os.O_RDWR
        else:
            path, flags = tmp_path, os.O_RDONLY

        class Holder:
            def __init__(self):
                self.fd = os.open(path, flags)

            def fileno(self):
                return self.fd

        holder = Holder()
        blocking = os.get_blocking(holder.fd)
        with pytest.raises(
            ValueError, match=r"^Pipe transport is for pipes/sockets only\.$"
        ):
            await loop.connect_read_pipe(never, holder)
        with pytest.raises(
            ValueError,
            match=r"^Pipe transport is only for pipes, sockets and character devices$",
        ):
            await loop.connect_write_pipe(never, holder)
        assert os.get_blocking(holder.fd) == blocking
        os.close(holder.fd)

    run(main())


def test_datagram_socket_is_refused():
    async def main():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for make in reader, writer:
                with pytest.raises(OSError):
                    await make(sock)
            assert sock.fileno() >= 0

    run(main())


def test_closed_file():
    async def main():
        file, theirs = pipe_objects()
        file.close()
        theirs.close()
        for make in reader, writer:
            with pytest.raises(ValueError, match="closed file"):
                await make(file)

    run(main())


# ---- the rest ----


def test_context_of_callbacks():
    variable = contextvars.ContextVar("variable", default="outside")
    seen = []

    class Looking(Events):
        def connection_made(self, transport):
            super().connection_made(transport)
            seen.append(variable.get())

        def data_received(self, data):
            super().data_received(data)
            seen.append(variable.get())

        def connection_lost(self, exc):
            super().connection_lost(exc)
            seen.append(variable.get())

    async def main():
        file, theirs = pipe_objects()
        variable.set("here")
        _, protocol = await reader(file, Looking())
        variable.set("there")
        theirs.write(b"x")
        await protocol.until(1)
        theirs.close()
        await protocol.lost
        assert seen == ["here"] * 3

    run(main())


def test_set_protocol():
    async def main():
        file, theirs = pipe_objects()
        transport, first = await reader(file)
        second = Events()
        transport.set_protocol(second)
        assert transport.get_protocol() is second
        theirs.write(b"x")
        assert await second.until(1) == b"x"
        theirs.close()
        await second.lost
        assert first.events == ["made"]

    run(main())


def test_repr():
    async def main():
        reading, writing = pipe_objects()
        read_end, received = await reader(reading)
        write_end, sent = await writer(writing)
        fd = read_end.get_extra_info("uv_handle").fileno()
        await turns()
        assert repr(read_end) == f"<ReadPipeTransport fd={fd} read=polling>"
        fd = write_end.get_extra_info("uv_handle").fileno()
        assert (
            repr(write_end) == f"<WritePipeTransport fd={fd} write=<idle, bufsize=0>>"
        )
        write_end.close()
        assert "closing" in repr(write_end)
        await received.lost
        await sent.lost

    run(main())


def test_other_thread():
    async def main():
        loop = asyncio.get_running_loop()
        theirs, file = pipe_objects()
        transport, protocol = await writer(file)
        with theirs:
            await loop.run_in_executor(None, transport.close)
            await protocol.lost

    run(main())


def test_debug_log(caplog):
    async def main():
        file, theirs = pipe_objects()
        fd = file.fileno()
        transport, protocol = await reader(file)
        assert f"Read pipe {fd} connected: (<ReadPipeTransport" in caplog.text
        fd = theirs.fileno()
        other, sent = await writer(theirs)
        assert f"Write pipe {fd} connected: (<WritePipeTransport" in caplog.text
        other.close()
        await protocol.lost
        await sent.lost

    caplog.set_level(logging.DEBUG, "asyncio")
    run(main(), debug=True)


def test_no_uninitialised_transports():
    from uvtulip._transports import ReadPipeTransport, WritePipeTransport

    for cls in ReadPipeTransport, WritePipeTransport:
        with pytest.raises(TypeError):
            cls()

    async def main():
        loop = asyncio.get_running_loop()
        handle = uv.Pipe(loop.uv_loop)
        for cls in ReadPipeTransport, WritePipeTransport:
            with pytest.raises(ValueError, match="not connected"):
                cls(loop, handle, Events())
            with pytest.raises(TypeError, match="extra must be a dict"):
                cls(loop, handle, Events(), extra=1)
        handle.close()

    run(main())
