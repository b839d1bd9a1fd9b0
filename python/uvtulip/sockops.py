"""sock_*: coroutines that work on the caller's own non-blocking socket.

Each tries its call at once and waits for the descriptor only when the call would
block; the call is then made by the coroutine itself, so that cancelling it loses
no data and no connection.  Everything runs on the loop's thread; the socket is
kept by the coroutine, the descriptor stays the caller's.
"""

from __future__ import annotations

import asyncio
import socket

from .connect import ConnectingLoop, check_no_ssl_socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar, TypeVarTuple, Unpack

    from _typeshed import ReadableBuffer, WriteableBuffer

    _T = TypeVar("_T")
    _Ts = TypeVarTuple("_Ts")

_WOULD_BLOCK = (BlockingIOError, InterruptedError)


class _Ready(asyncio.Future[None]):
    """Done when a descriptor is ready.

    The watching ends with it, at once, also when it is cancelled: its task
    hears of that one turn later, when the number may be somebody else's.
    """

    def __init__(self, loop: SocketLoop, fd: int, writable: bool) -> None:
        super().__init__(loop=loop)
        self._waits = loop._waits
        self._key = fd, writable
        self._remove = loop.remove_writer if writable else loop.remove_reader

    def unwatch(self) -> None:
        # Unless a later wait has taken the place of this one.
        if self._waits.get(self._key) is self:
            del self._waits[self._key]
            self._remove(self._key[0])

    def finish(self) -> None:
        self.unwatch()
        if not self.done():
            self.set_result(None)

    def cancel(self, msg: object = None) -> bool:
        self.unwatch()
        return super().cancel(msg)


class SocketLoop(ConnectingLoop):
    """The sock_* methods."""

    # A slot, not an entry of __dict__: as long as a loop has no __dict__, the
    # interpreter finds call_soon() and the like a tenth faster.
    __slots__ = ("_waits",)

    # Who waits for a descriptor: by number, and whether to write.
    _waits: dict[tuple[int, bool], _Ready]

    def __init__(self) -> None:
        super().__init__()
        self._waits = {}

    async def sock_recv(self, sock: socket.socket, nbytes: int) -> bytes:
        """Receive up to `nbytes` bytes."""
        self._check_socket(sock)
        return await self._when_readable(sock, sock.recv, nbytes)

    async def sock_recv_into(self, sock: socket.socket, buf: WriteableBuffer) -> int:
        """Receive into the buffer; return the number of bytes."""
        self._check_socket(sock)
        return await self._when_readable(sock, sock.recv_into, buf)

    async def sock_recvfrom(self, sock: socket.socket, bufsize: int) -> tuple[Any, Any]:
        """Receive a datagram: (data, address)."""
        self._check_socket(sock)
        return await self._when_readable(sock, sock.recvfrom, bufsize)

    async def sock_recvfrom_into(
        self, sock: socket.socket, buf: WriteableBuffer, nbytes: int = 0
    ) -> tuple[int, Any]:
        """Receive a datagram into the buffer: (number of bytes, address)."""
        self._check_socket(sock)
        if not nbytes:
            nbytes = memoryview(buf).nbytes
        return await self._when_readable(sock, sock.recvfrom_into, buf, nbytes)

    async def sock_sendall(self, sock: socket.socket, data: ReadableBuffer) -> None:
        """Send all of the data.  After an error nobody knows how much went."""
        self._check_socket(sock)
        with memoryview(data) as given, given.cast("B") as view:
            sent = 0
            while True:
                try:
                    sent += sock.send(view[sent:])
                except _WOULD_BLOCK:
                    pass
                if sent >= len(view):
                    return
                await self._until(sock, writable=True)

    async def sock_sendto(
        self, sock: socket.socket, data: ReadableBuffer, address: Any
    ) -> int:
        """Send a datagram to the address; return the number of bytes."""
        self._check_socket(sock)
        while True:
            try:
                return sock.sendto(data, address)
            except _WOULD_BLOCK:
                await self._until(sock, writable=True)

    async def sock_accept(self, sock: socket.socket) -> tuple[socket.socket, Any]:
        """Accept a connection: (non-blocking socket, its address)."""
        self._check_socket(sock)
        conn, address = await self._when_readable(sock, sock.accept)
        conn.setblocking(False)
        return conn, address

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        """Connect the socket; a host name is resolved."""
        self._check_socket(sock)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            infos = await self._resolve(
                address, family=sock.family, kind=sock.type, proto=sock.proto
            )
            address = infos[0][4]
        try:
            sock.connect(address)
            return
        except _WOULD_BLOCK:
            pass  # It goes on connecting; when writable it is done or failed.
        await self._until(sock, writable=True)
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, f"Connect call failed {address}")

    # ---- waiting ----

    def _check_socket(self, sock: socket.socket) -> None:
        check_no_ssl_socket(sock)
        if self.get_debug() and sock.gettimeout() != 0:
            raise ValueError("the socket must be non-blocking")

    async def _when_readable(
        self,
        sock: socket.socket,
        call: Callable[[Unpack[_Ts]], _T],
        *args: *_Ts,
    ) -> _T:
        while True:
            try:
                return call(*args)
            except _WOULD_BLOCK:
                await self._until(sock)

    async def _until(self, sock: socket.socket, *, writable: bool = False) -> None:
        """Wait until the socket can be read from, or written to."""
        fd = sock.fileno()
        ready = _Ready(self, fd, writable)
        if writable:
            self.add_writer(fd, ready.finish)
        else:
            self.add_reader(fd, ready.finish)
        self._waits[fd, writable] = ready
        try:
            await ready
        finally:
            ready.unwatch()
