"""Files sent to sockets and transports, by sendfile(2) where that works.

The kernel is given a piece at a time, so that a fast receiver does not keep the
loop from its other work.  Where sendfile(2) does not work (TLS, files that are no
files of the system's) the file is read in a thread and written as everything else.
Everything else runs on the loop's thread; file, socket and transport stay the
caller's.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import io
import os
import socket
import stat
from asyncio import SendfileNotAvailableError, constants

from ._transports import StreamTransport
from .sockops import SocketLoop
from .syscalls import sendfile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any

# Bytes for one call of sendfile(2).
_PIECE = 1 << 20

_Mode = constants._SendfileMode


def _check_file(file: object, offset: object, count: object) -> None:
    if "b" not in getattr(file, "mode", "b"):
        raise ValueError("file should be opened in binary mode")
    if count is not None:
        if not isinstance(count, int):
            raise TypeError(f"count must be a positive integer (got {count!r})")
        if count <= 0:
            raise ValueError(f"count must be a positive integer (got {count!r})")
    if not isinstance(offset, int):
        raise TypeError(f"offset must be a non-negative integer (got {offset!r})")
    if offset < 0:
        raise ValueError(f"offset must be a non-negative integer (got {offset!r})")


def _length(file: Any, count: int | None) -> int:
    """How many bytes to send at most; 0: the file is empty."""
    try:
        status = os.fstat(file.fileno())
    except (AttributeError, OSError):  # io.UnsupportedOperation is one of them.
        status = None
    if status is None or not stat.S_ISREG(status.st_mode):
        raise SendfileNotAvailableError("not a regular file")
    return count or status.st_size


def _set_position(file: Any, position: int) -> None:
    """Move the file, and what a buffered one has read ahead."""
    if getattr(file, "closed", False):
        return
    if isinstance(file, io.IOBase):
        file.seek(position)
    else:
        os.lseek(file.fileno(), position, os.SEEK_SET)


def _is_seekable(file: Any) -> bool:
    seekable = getattr(file, "seekable", None)
    return hasattr(file, "seek") if seekable is None else bool(seekable())


async def _send(
    file: Any,
    offset: int,
    count: int | None,
    target: Callable[[], int],
    wait: Callable[[], asyncio.Future[None]],
) -> int:
    """Send by sendfile(2) to the descriptor that target() returns.

    It is asked each time, and the file too: either may be closed meanwhile, and
    its number be somebody else's.
    """
    left = _length(file, count)
    sent = 0
    try:
        while left:
            fd = target()
            piece = min(left, _PIECE)
            try:
                piece = sendfile(fd, file.fileno(), offset + sent, piece)
            except (BlockingIOError, InterruptedError):
                piece = -1
            except OSError as exc:
                if sent == 0:
                    raise SendfileNotAvailableError("os.sendfile call failed") from exc
                if exc.errno == errno.ENOTCONN:
                    text = "socket is not connected"
                    raise ConnectionError(text, errno.ENOTCONN) from exc
                raise
            if piece == 0:
                _set_position(file, offset + sent)
                break  # The end of the file.
            if piece < 0:
                await wait()
                continue
            sent += piece
            if count is not None:
                left -= piece
            # Not wait(): only a call that sends nothing says that one has to.
            await asyncio.sleep(0)
    except BaseException:
        if sent > 0:
            with contextlib.suppress(Exception):
                _set_position(file, offset + sent)
        raise
    if sent > 0:
        _set_position(file, offset + sent)
    return sent


class _Filler(asyncio.Protocol):
    """In the protocol's place while a file is written to its transport."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._protocol = transport.get_protocol()
        self._loop = asyncio.get_running_loop()
        self._lost = False
        self._can_write: asyncio.Future[None] | None = None
        # How the protocol believes things to be.
        self._reading = transport.is_reading()
        self._paused: bool = transport._protocol_paused
        if self._paused:
            self.pause_writing()
        transport.pause_reading()
        transport.set_protocol(self)

    async def drain(self) -> None:
        """Wait until there is room; ConnectionError: never again."""
        if self._transport.is_closing():
            raise ConnectionError("Connection closed by peer")
        if self._can_write is not None:
            await self._can_write

    def restore(self) -> None:
        """Put the protocol back, and tell it what it has missed.

        Unless somebody, start_tls() for one, has set another meanwhile.
        """
        here = self._transport.get_protocol() is self
        if here:
            self._transport.set_protocol(self._protocol)
        if self._reading:
            self._transport.resume_reading()
        paused = self._can_write is not None
        if self._can_write is not None:
            self._can_write.cancel()
        if here and paused != self._paused and not self._lost:
            self._tell("pause_writing" if paused else "resume_writing")

    def _tell(self, name: str) -> None:
        """Call the protocol as the transport would have."""
        call = getattr(self._transport, "_call_protocol", None)
        try:
            if call is not None:
                call(name)  # In the transport's context.
            else:
                getattr(self._protocol, name)()
        except Exception as exc:
            self._loop.call_exception_handler(
                {
                    "message": f"protocol.{name}() failed",
                    "exception": exc,
                    "transport": self._transport,
                    "protocol": self._protocol,
                }
            )

    def data_received(self, data: bytes) -> None:
        # Somebody has resumed reading: what comes is not to be lost in silence.
        raise RuntimeError("sendfile() is in progress: reading should be paused")

    def eof_received(self) -> None:
        raise RuntimeError("sendfile() is in progress: reading should be paused")

    def connection_lost(self, exc: BaseException | None) -> None:
        self._lost = True
        if self._can_write is not None and not self._can_write.done():
            self._can_write.set_exception(
                exc or ConnectionError("Connection is closed by peer")
            )
        self._protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        if self._can_write is None:
            self._can_write = self._loop.create_future()

    def resume_writing(self) -> None:
        waiter, self._can_write = self._can_write, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


class SendfileLoop(SocketLoop):
    """sendfile() and sock_sendfile()."""

    async def sock_sendfile(
        self,
        sock: socket.socket,
        file: Any,
        offset: int = 0,
        count: int | None = None,
        *,
        fallback: bool | None = True,
    ) -> int:
        """Send a file, or `count` bytes of it, to a stream socket.

        Returns the number of bytes.  The file's position is then the end of what
        was sent, also after an error.  Where sendfile(2) does not work the file is
        read and sent, or without `fallback` SendfileNotAvailableError raised.
        """
        self._sock_check(sock)
        _check_file(file, offset, count)
        if sock.type != socket.SOCK_STREAM:
            raise ValueError("only SOCK_STREAM type sockets are supported")
        self._sock_keep(sock)
        try:
            try:
                return await self._sock_sendfile_native(sock, file, offset, count)
            except SendfileNotAvailableError:
                if not fallback:
                    raise
            return await self._sock_sendfile_fallback(sock, file, offset, count)
        finally:
            self._sock_let_go(sock)

    async def _sock_sendfile_native(
        self, sock: socket.socket, file: Any, offset: int, count: int | None
    ) -> int:
        wait = functools.partial(self._sock_wait, sock, True)
        return await _send(file, offset, count, sock.fileno, wait)

    async def _sock_sendfile_fallback(
        self, sock: socket.socket, file: Any, offset: int, count: int | None
    ) -> int:
        return await self._copy(
            file, offset, count, functools.partial(self.sock_sendall, sock)
        )

    async def sendfile(
        self,
        transport: asyncio.WriteTransport,
        file: Any,
        offset: int = 0,
        count: int | None = None,
        *,
        fallback: bool = True,
    ) -> int:
        """Send a file, or `count` bytes of it, through a transport.

        What was written before goes first; while it is in progress nothing is read
        or can be written.  Returns the number of bytes.  The file's position is
        then the end of what was sent, also after an error.  Where sendfile(2) does
        not work, as with TLS, the file is read and written, or without `fallback`
        an error raised: SendfileNotAvailableError or RuntimeError.
        """
        self._check_closed()
        if transport.is_closing():
            raise RuntimeError("Transport is closing")
        mode = getattr(transport, "_sendfile_compatible", _Mode.UNSUPPORTED)
        if mode is _Mode.UNSUPPORTED:
            raise RuntimeError(f"sendfile is not supported for transport {transport!r}")
        _check_file(file, offset, count)
        if mode is _Mode.TRY_NATIVE:
            try:
                return await self._sendfile_native(transport, file, offset, count)
            except SendfileNotAvailableError:
                if not fallback:
                    raise
        if not fallback:
            raise RuntimeError(
                "fallback is disabled and native sendfile is not supported for "
                f"transport {transport!r}"
            )
        return await self._sendfile_fallback(transport, file, offset, count)

    async def _sendfile_native(
        self,
        transport: asyncio.WriteTransport,
        file: Any,
        offset: int,
        count: int | None,
    ) -> int:
        if not isinstance(transport, StreamTransport):
            raise SendfileNotAvailableError("sendfile syscall is not supported")
        written = transport._sendfile_begin()
        reading = transport.is_reading()
        transport.pause_reading()
        try:
            await written
            return await _send(
                file,
                offset,
                count,
                transport._sendfile_fileno,
                transport._sendfile_wait,
            )
        finally:
            transport._sendfile_end()
            if reading:
                transport.resume_reading()

    async def _sendfile_fallback(
        self,
        transport: asyncio.WriteTransport,
        file: Any,
        offset: int,
        count: int | None,
    ) -> int:
        filler = _Filler(transport)

        async def write(data: memoryview) -> None:
            transport.write(data)
            await filler.drain()

        try:
            await filler.drain()
            return await self._copy(file, offset, count, write)
        finally:
            filler.restore()

    async def _copy(
        self,
        file: Any,
        offset: int,
        count: int | None,
        write: Callable[[memoryview], Awaitable[None]],
    ) -> int:
        """Read the file in a thread, and write it piece by piece."""
        size: int = constants.SENDFILE_FALLBACK_READBUFFER_SIZE
        seekable = _is_seekable(file)
        if offset or seekable:
            file.seek(offset)
        buffer = memoryview(bytearray(min(count, size) if count else size))
        sent = 0
        try:
            while count is None or sent < count:
                room = buffer if count is None else buffer[: count - sent]
                read = await self.run_in_executor(None, file.readinto, room)
                if not read:
                    break  # The end of the file.
                await write(room[:read])
                sent += read
        except BaseException:
            if sent > 0 and seekable:
                with contextlib.suppress(Exception):
                    file.seek(offset + sent)
            raise
        if sent > 0 and seekable:
            file.seek(offset + sent)
        return sent
