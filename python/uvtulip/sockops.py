"""sock_*: coroutines that work on the caller's own non-blocking socket.

Each tries its call at once, in C, and waits only when it would block; the call is
then made by the coroutine itself, so that cancelling it loses no data and no
connection.  Everything runs on the loop's thread; the socket is kept by the
coroutine, and its descriptor open until the call ends, whoever closes the socket.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from asyncio import Future

from .serve import ServingLoop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from _typeshed import ReadableBuffer, WriteableBuffer

_INTERNET = (socket.AF_INET, socket.AF_INET6)
# Seconds between two attempts while the queue of a UNIX server is full: the kernel
# tells nobody when there is room again.
_FIRST_PAUSE = 0.001
_LONGEST_PAUSE = 0.05


class SocketLoop(ServingLoop):
    """The sock_* methods."""

    async def sock_recv(self, sock: socket.socket, nbytes: int) -> bytes:
        """Receive up to `nbytes` bytes."""
        got = self._sock_recv(sock, nbytes)
        while isinstance(got, Future):
            try:
                await got
            except BaseException:
                self._sock_let_go(sock)
                raise
            got = self._sock_recv(sock, nbytes, got)
        return got

    async def sock_recv_into(self, sock: socket.socket, buf: WriteableBuffer) -> int:
        """Receive into the buffer; return the number of bytes."""
        got = self._sock_recv_into(sock, buf)
        while isinstance(got, Future):
            try:
                await got
            except BaseException:
                self._sock_let_go(sock)
                raise
            got = self._sock_recv_into(sock, buf, got)
        return got

    async def sock_recvfrom(self, sock: socket.socket, bufsize: int) -> tuple[Any, Any]:
        """Receive a datagram: (data, address)."""
        got = self._sock_recvfrom(sock, bufsize)
        while isinstance(got, Future):
            try:
                await got
            except BaseException:
                self._sock_let_go(sock)
                raise
            got = self._sock_recvfrom(sock, bufsize, got)
        return got

    async def sock_recvfrom_into(
        self, sock: socket.socket, buf: WriteableBuffer, nbytes: int = 0
    ) -> tuple[int, Any]:
        """Receive a datagram into the buffer: (number of bytes, address)."""
        if not nbytes:
            nbytes = memoryview(buf).nbytes
        got = self._sock_recvfrom_into(sock, buf, nbytes)
        while isinstance(got, Future):
            try:
                await got
            except BaseException:
                self._sock_let_go(sock)
                raise
            got = self._sock_recvfrom_into(sock, buf, nbytes, got)
        return got

    async def sock_sendall(self, sock: socket.socket, data: ReadableBuffer) -> None:
        """Send all of the data.  After an error nobody knows how much went."""
        sent = self._sock_send(sock, data, 0)
        if sent is None:
            return
        self._sock_keep(sock)
        try:
            with memoryview(data) as given, given.cast("B") as view:
                while sent is not None:
                    await self._sock_wait(sock, True)
                    sent = self._sock_send(sock, view, sent)
        finally:
            self._sock_let_go(sock)

    async def sock_sendto(
        self, sock: socket.socket, data: ReadableBuffer, address: Any
    ) -> int:
        """Send a datagram to the address; return the number of bytes."""
        sent = self._sock_sendto(sock, data, address)
        while isinstance(sent, Future):
            try:
                await sent
            except BaseException:
                self._sock_let_go(sock)
                raise
            sent = self._sock_sendto(sock, data, address, sent)
        return sent

    async def sock_accept(self, sock: socket.socket) -> tuple[socket.socket, Any]:
        """Accept a connection: (non-blocking socket, its address)."""
        made = self._sock_accept(sock)
        while isinstance(made, Future):
            try:
                await made
            except BaseException:
                self._sock_let_go(sock)
                raise
            made = self._sock_accept(sock, made)
        return made

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        """Connect the socket; a host name is resolved."""
        self._sock_check(sock)
        self._sock_keep(sock)
        try:
            if sock.family in _INTERNET:
                infos = await self._resolve(
                    address, family=sock.family, kind=sock.type, proto=sock.proto
                )
                address = infos[0][4]
            await self._sock_connect(sock, address)
        finally:
            self._sock_let_go(sock)

    async def _sock_connect(self, sock: socket.socket, address: Any) -> None:
        pause = _FIRST_PAUSE
        while True:
            try:
                sock.connect(address)
                return
            except InterruptedError:
                break  # It goes on connecting; when writable it is done or failed.
            except BlockingIOError as exc:
                if exc.errno != errno.EAGAIN or sock.family != socket.AF_UNIX:
                    break
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        await self._sock_wait(sock, True)
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, f"Connect call failed {address}")
