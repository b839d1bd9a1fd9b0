"""Pipes, FIFOs, terminals: what is read or written in one direction.

The handle gets a duplicate of the descriptor, and the transport closes both it and
the file object.  Everything runs on the loop's thread.
"""

from __future__ import annotations

import os
import stat
from asyncio.log import logger

from . import syscalls
from ._transports import ReadPipeTransport, WritePipeTransport
from ._uv import Pipe
from .cleanup import close_descriptor, close_quietly
from .connect import duplicate
from .serve import ServingLoop

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from typing import Any, TypeVar

    _P = TypeVar("_P", bound=asyncio.BaseProtocol)


def _check_kind(pipe: Any, message: str) -> None:
    """Refuse files and directories, which are always ready and never wait."""
    mode = os.fstat(pipe.fileno()).st_mode
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISCHR(mode)):
        raise ValueError(message)


def _is_null(fd: int) -> bool:
    """Whether it is /dev/null, which no poll takes."""
    info = os.fstat(fd)
    if not stat.S_ISCHR(info.st_mode):
        return False
    return info.st_rdev == syscalls.stat(os.devnull).st_rdev


def _ended_pipe() -> int:
    """A descriptor that can be watched, and is at its end as /dev/null is."""
    reading, writing = os.pipe()
    os.close(writing)
    return reading


class PipeLoop(ServingLoop):
    """connect_read_pipe() and connect_write_pipe()."""

    async def connect_read_pipe(
        self, protocol_factory: Callable[[], _P], pipe: Any
    ) -> tuple[asyncio.ReadTransport, _P]:
        """Read from a file object: a pipe, a FIFO, a terminal, a stream socket.

        Returns (transport, protocol).  The transport owns the object from now on;
        the descriptor is made non-blocking.  Raises ValueError for files.
        """
        _check_kind(pipe, "Pipe transport is for pipes/sockets only.")
        protocol = protocol_factory()
        waiter = self.create_future()
        fd = pipe.fileno()
        handle = self._pipe_handle(_ended_pipe() if _is_null(fd) else duplicate(fd))
        try:
            transport = ReadPipeTransport(
                self, handle, protocol, waiter, {"pipe": pipe}, pipe
            )
        except BaseException:
            close_quietly(handle)
            raise
        try:
            await waiter
        except BaseException:
            close_quietly(transport)
            raise
        finally:
            del waiter  # It has the exception, and that this frame.
        if self.get_debug():
            logger.debug("Read pipe %r connected: (%r, %r)", fd, transport, protocol)
        return transport, protocol

    async def connect_write_pipe(
        self, protocol_factory: Callable[[], _P], pipe: Any
    ) -> tuple[asyncio.WriteTransport, _P]:
        """Write to a file object: a pipe, a FIFO, a character device, a socket.

        Returns (transport, protocol).  The transport owns the object from now on;
        the descriptor is made non-blocking.  When the reader of a pipe or a socket
        goes away, the connection is lost.  Raises ValueError for files.
        """
        _check_kind(
            pipe, "Pipe transport is only for pipes, sockets and character devices"
        )
        protocol = protocol_factory()
        waiter = self.create_future()
        fd = pipe.fileno()
        handle = self._pipe_handle(duplicate(fd))
        try:
            transport = WritePipeTransport(
                self, handle, protocol, waiter, {"pipe": pipe}, pipe
            )
        except BaseException:
            close_quietly(handle)
            raise
        try:
            await waiter
        except BaseException:
            close_quietly(transport)
            raise
        finally:
            del waiter  # It has the exception, and that this frame.
        if self.get_debug():
            logger.debug("Write pipe %r connected: (%r, %r)", fd, transport, protocol)
        return transport, protocol

    def _pipe_handle(self, fd: int) -> Pipe:
        """A handle that owns the descriptor, which is closed when this fails."""
        try:
            handle = Pipe(self.uv_loop)
            try:
                handle.open(fd)
            except BaseException:
                close_quietly(handle)
                raise
        except BaseException:
            close_descriptor(fd)
            raise
        return handle
