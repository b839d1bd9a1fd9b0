"""create_server() and the Server that it returns.

Listening sockets are set up as the standard library's, whose errors they share,
and then move into raw TCP handles, which the C half of the server listens on and
closes.  A server owns its handles and knows its transports weakly; everything
runs on the loop's thread.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import sys
import threading
from asyncio.log import logger

from . import _transports, syscalls
from .accepting import Accepting
from .cleanup import close_quietly
from .connect import (
    check_stream_socket,
    handle_for,
    open_detached,
    open_duplicate,
    server_tls,
)
from .guards import guarded
from .signals import SignalLoop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from ._uv import TCP, Pipe
    from .connect import _SSL
    from .sockets import TransportSocket


class Server(_transports.Server, asyncio.AbstractServer):
    """Listens, and has a transport made for each connection.

    It is an asynchronous context manager, which closes it at the end.
    """

    _forever: asyncio.Future[None] | None = None
    # Who waits in wait_closed(); None: nobody yet.
    _waiters: list[asyncio.Future[None]] | None = None
    # Of the listening handles; None: not asked for yet, or given up.
    _sockets: tuple[TransportSocket, ...] | None = None
    # Socket objects beside the handles, with descriptors of their own: what the
    # caller of create_server() gave, or what somebody looks at.  Ours to close.
    _given: tuple[socket.socket, ...] = ()
    _backlog = 100
    # A UNIX socket's path, to be removed at the end if the file is still the
    # one of that number.
    _path: SocketFile | None = None
    # For those who ask a server of asyncio's whether it serves TLS.
    _ssl_context: _SSL = None
    _closed = False
    # In asyncio.all_tasks(), from the first time that it serves on.
    _accepts: Accepting | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} sockets={self.sockets!r}>"

    # ---- asking ----

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """The loop that it serves on."""
        return self._loop

    def is_serving(self) -> bool:
        """Whether it accepts connections."""
        return self._serving

    @property
    def sockets(self) -> tuple[TransportSocket, ...]:
        """The listening sockets; () once it is closed."""
        if self._closed:
            return ()
        if self._sockets is None:
            from .sockets import TransportSocket, borrow

            if self._given:
                self._sockets = tuple(TransportSocket(sock) for sock in self._given)
            elif _runs_elsewhere(self._loop):
                return tuple(borrow(fd) for fd in self._filenos)
            else:
                self._sockets = tuple(borrow(h.fileno()) for h in self._handles)
        return self._sockets

    def getsockname(self) -> Any:
        """The address of the first listening socket.

        Raises RuntimeError once the server is closed.
        """
        if self._closed:
            raise RuntimeError(f"server {self!r} is closed")
        return self.sockets[0].getsockname()

    # ---- serving ----

    async def start_serving(self) -> None:
        """Begin to accept connections; harmless when it does already."""
        self._begin()
        await asyncio.sleep(0)

    async def serve_forever(self) -> None:
        """Accept until cancelled; then close, its connections too, and wait."""
        if self._forever is not None:
            raise RuntimeError(
                f"server {self!r} is already being awaited on serve_forever()"
            )
        self._begin()
        self._forever = self._loop.create_future()
        try:
            await self._forever
        except asyncio.CancelledError:
            try:
                self.close()
                self.close_clients()
                await self.wait_closed()
            except Exception as exc:
                self._loop.call_exception_handler(
                    {"message": f"Closing {self!r} failed", "exception": exc}
                )
            raise
        finally:
            self._forever = None

    def _begin(self) -> None:
        if self._closed:
            raise RuntimeError(f"server {self!r} is closed")
        if self._accepts is None:
            self._accepts = Accepting(self)
        if not self._serving:
            if guarded():
                for sock in self._given:
                    sock.listen(self._backlog)
            self._start()

    # ---- closing ----

    def close(self) -> None:
        """Stop listening.  Open connections stay open."""
        if self._closed:
            return
        self._closed = True
        sockets, self._sockets = self._sockets, None
        given, self._given = self._given, ()
        self._stop()
        if not given:
            for sock in sockets or ():
                sock.detach()
        if self._path is not None:
            self._path.remove()
            self._path = None
        forever = self._forever
        if forever is not None and not forever.done():
            self._forever = None
            forever.cancel()
        if not self._active:
            self._wakeup()
        # Last, as somebody may have closed such a descriptor: that is an error.
        for each in given:
            each.close()

    async def wait_closed(self) -> None:
        """Wait until the server is closed and its last connection has ended."""
        if self._closed and not self._active:
            return
        waiter = self._loop.create_future()
        if self._waiters is None:
            self._waiters = []
        self._waiters.append(waiter)
        await waiter

    def close_clients(self) -> None:
        """Close every open connection, once what it has to send is sent."""
        for transport in self._clients():
            transport.close()

    def abort_clients(self) -> None:
        """Close every open connection at once."""
        for transport in self._clients():
            transport.abort()

    def _wakeup(self) -> None:
        # Called by the C half too, when the last connection of a stopped
        # server has ended.
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)


class SocketFile:
    """The file of a bound UNIX socket, known by its full path, device and inode.

    Raises OSError when there is none."""

    __slots__ = ("_identity", "_path")

    def __init__(self, path: str | bytes) -> None:
        if isinstance(path, str):
            self._path: str | bytes = os.path.join(syscalls.getcwd(), path)
        else:
            self._path = os.path.join(syscalls.getcwdb(), path)
        self._identity = self._look()

    def _look(self) -> tuple[int, int]:
        found = syscalls.lstat(self._path)
        return found.st_dev, found.st_ino

    def remove(self) -> None:
        """Remove it unless another file has taken its place."""
        try:
            if self._look() == self._identity:
                syscalls.unlink(self._path)
        except FileNotFoundError:
            pass
        except OSError as exc:
            logger.error(
                "Unable to clean up listening UNIX socket %r: %r", self._path, exc
            )


def _runs_elsewhere(loop: Any) -> bool:
    """Whether another thread runs it."""
    return loop._thread_id not in (None, threading.get_ident())


def _listening_socket(
    info: tuple[Any, ...],
    reuse_address: bool,
    reuse_port: bool | None,
    keep_alive: bool | None,
) -> socket.socket | None:
    """A bound socket; None when the system does not have such a family or
    address, which another one of the host's may make up for."""
    family, kind, proto, _, address = info
    try:
        sock = socket.socket(family, kind, proto)
    except OSError:
        return None
    try:
        if reuse_address:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            set_reuse_port(sock)
        if keep_alive:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if family == socket.AF_INET6:
            # IPv4 gets a socket of its own.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            sock.bind(address)
        except OSError as exc:
            if exc.errno == errno.EADDRNOTAVAIL:
                close_quietly(sock)
                return None
            raise OSError(
                exc.errno,
                f"error while attempting to bind on address {address!r}: "
                f"{str(exc).lower()}",
            ) from None
    except BaseException:
        close_quietly(sock)
        raise
    return sock


def set_reuse_port(sock: socket.socket) -> None:
    if not hasattr(socket, "SO_REUSEPORT"):
        raise ValueError("reuse_port not supported by socket module")
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except OSError:
        raise ValueError(
            "reuse_port not supported by socket module, "
            "SO_REUSEPORT defined but not implemented."
        ) from None


class ServingLoop(SignalLoop):
    """create_server()."""

    async def create_server(  # type: ignore[override]
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: str | Iterable[str] | None = None,
        port: int | str | None = None,
        *,
        family: int = socket.AF_UNSPEC,
        flags: int = socket.AI_PASSIVE,
        sock: socket.socket | None = None,
        backlog: int = 100,
        ssl: _SSL = None,
        reuse_address: bool | None = None,
        reuse_port: bool | None = None,
        keep_alive: bool | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        start_serving: bool = True,
    ) -> Server:
        """Listen for TCP connections on all addresses of a host, or of several.

        A host of None or '' is every interface.  With `sock` the server listens
        on that socket, and closes it at its own end; when this fails, the socket
        stays the caller's.
        """
        if isinstance(ssl, bool):
            raise TypeError("ssl argument must be an SSLContext or None")
        tls = server_tls(ssl, ssl_handshake_timeout, ssl_shutdown_timeout)
        if tls is not None:
            protocol_factory = tls.factory(self, protocol_factory)
        self._check_closed()
        if sock is not None:
            if host is not None or port is not None:
                raise ValueError(
                    "host/port and sock can not be specified at the same time"
                )
            check_stream_socket(sock)
            await asyncio.sleep(0)
            server = self._serve_beside(
                protocol_factory, [sock], backlog, start_serving
            )
        elif host is None and port is None:
            raise ValueError("Neither host/port nor sock were specified")
        else:
            infos = await self._resolve_hosts(host, port, family, flags)
            if reuse_address is None:
                reuse_address = os.name == "posix" and sys.platform != "cygwin"
            sockets = self._bind_all(infos, reuse_address, reuse_port, keep_alive)
            server = self._serve(protocol_factory, sockets, backlog, start_serving)
        server._ssl_context = ssl
        if self.get_debug():
            logger.info("%r is serving", server)
        return server

    async def _resolve_hosts(
        self, host: Any, port: Any, family: int, flags: int
    ) -> list[Any]:
        """All addresses of all hosts, each once, in the order given."""
        if host == "":
            hosts = [None]
        elif isinstance(host, str) or not hasattr(host, "__iter__"):
            hosts = [host]
        else:
            hosts = list(host)
        found = await asyncio.gather(
            *(self._resolve((each, port), family=family, flags=flags) for each in hosts)
        )
        return list(dict.fromkeys(info for infos in found for info in infos))

    def _bind_all(
        self,
        infos: list[Any],
        reuse_address: bool,
        reuse_port: bool | None,
        keep_alive: bool | None,
    ) -> list[socket.socket]:
        sockets: list[socket.socket] = []
        try:
            for info in infos:
                sock = _listening_socket(info, reuse_address, reuse_port, keep_alive)
                if sock is not None:
                    sockets.append(sock)
                elif self.get_debug():
                    logger.warning("create_server() cannot listen on %r", info)
            if not sockets:
                addresses = [info[4] for info in infos]
                raise OSError(f"could not bind on any address out of {addresses!r}")
        except BaseException:
            close_quietly(*sockets)
            raise
        return sockets

    def _serve(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        sockets: list[socket.socket],
        backlog: int,
        start: bool,
    ) -> Server:
        """Make a server of sockets of our own; they are gone when this fails."""
        try:
            if guarded():
                return self._serve_beside(protocol_factory, sockets, backlog, start)
            return self._serve_handles(
                protocol_factory, sockets, open_detached, backlog, start
            )
        except BaseException:
            close_quietly(*sockets)
            raise

    def _serve_beside(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        sockets: list[socket.socket],
        backlog: int,
        start: bool,
    ) -> Server:
        """Make a server that listens on duplicates of the sockets, since others may
        go on asking the sockets themselves."""
        for sock in sockets:
            sock.setblocking(False)
        server = self._serve_handles(
            protocol_factory, sockets, open_duplicate, backlog, False
        )
        server._given = tuple(sockets)
        server._backlog = backlog
        if start:
            try:
                server._begin()
            except BaseException:
                server._given = ()  # Not ours.
                server._stop()
                raise
        return server

    def _serve_handles(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        sockets: Sequence[socket.socket],
        move: Callable[[TCP | Pipe, socket.socket], None],
        backlog: int,
        start: bool,
    ) -> Server:
        handles: list[TCP | Pipe] = []
        try:
            for sock in sockets:
                handle = handle_for(self.uv_loop, sock)
                handles.append(handle)
                move(handle, sock)
            server = Server(self, protocol_factory, handles, backlog)
            if start:
                server._begin()
        except BaseException:
            close_quietly(*handles)
            raise
        return server
