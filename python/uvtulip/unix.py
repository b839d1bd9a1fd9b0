"""UNIX sockets: connections and servers.

Paths and errors are those of the standard library's sockets, which are set up here
and then move into raw handles.  Everything runs on the loop's thread.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
import sys
from asyncio.log import logger

from . import syscalls
from .cleanup import close_quietly
from .connect import (
    check_no_ssl_socket,
    client_tls,
    handle_for,
    open_detached,
    server_tls,
)
from .guards import guarded
from .serve import SocketFile
from .sockops import SocketLoop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from _typeshed import StrOrBytesPath

    from .connect import _SSL
    from .serve import Server

    _P = TypeVar("_P", bound=asyncio.BaseProtocol)


def _check_unix_socket(sock: socket.socket) -> None:
    check_no_ssl_socket(sock)
    if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM:
        raise ValueError(f"A UNIX Domain Stream Socket was expected, got {sock!r}")


def has_file(name: str | bytes) -> bool:
    """Whether it is a path: not a name of the abstract kind, nor none at all."""
    return name[:1] not in ("", b"", "\0", b"\0")


def remove_stale(path: str | bytes) -> None:
    """Remove what a server that ended without cleaning up has left."""
    try:
        if stat.S_ISSOCK(syscalls.stat(path).st_mode):
            syscalls.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as exc:
        # The directory may let us make files only; bind() decides.
        logger.error("Unable to check or remove stale UNIX socket %r: %r", path, exc)


def _listening_socket(path: str | bytes) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if has_file(path):
            remove_stale(path)
        sock.bind(path)
    except OSError as exc:
        close_quietly(sock)
        if exc.errno != errno.EADDRINUSE:
            raise
        text = f"Address {path!r} is already in use"
        raise OSError(errno.EADDRINUSE, text) from None
    except BaseException:
        close_quietly(sock)
        raise
    return sock


def _set_mode(path: str | bytes, mode: int) -> None:
    """Set the permissions of a socket that nobody listens on yet; when this fails,
    nothing is left of it."""
    try:
        syscalls.chmod(path, mode)
    except BaseException:
        try:
            syscalls.unlink(path)
        except OSError:
            pass  # Somebody has removed it.
        raise


def _file_of(sock: socket.socket) -> SocketFile | None:
    """The file that the socket is bound to."""
    path = sock.getsockname()
    if not has_file(path):
        return None
    try:
        return SocketFile(path)
    except FileNotFoundError:
        return None


class UnixLoop(SocketLoop):
    """create_unix_connection() and create_unix_server()."""

    async def create_unix_connection(
        self,
        protocol_factory: Callable[[], _P],
        path: StrOrBytesPath | None = None,
        *,
        ssl: _SSL = None,
        sock: socket.socket | None = None,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> tuple[asyncio.Transport, _P]:
        """Connect to a UNIX socket, or take over a connected one.

        Returns (transport, protocol).  A path that begins with NUL is a name of
        Linux's abstract kind.  With `sock` the transport works on that socket,
        and closes it at its own end.  It is closed as well when this fails or is
        cancelled, unless the arguments are wrong.
        """
        if ssl and server_hostname is None:
            raise ValueError("you have to pass server_hostname when using ssl")
        tls = client_tls(
            ssl, server_hostname, ssl_handshake_timeout, ssl_shutdown_timeout
        )
        self._check_closed()
        if path is None:
            if sock is None:
                raise ValueError("no path and sock were specified")
            _check_unix_socket(sock)
            return await self._adopt(protocol_factory, sock, tls)
        if sock is not None:
            raise ValueError("path and sock can not be specified at the same time")
        ours = await self._connect_unix(os.fspath(path))
        if guarded():
            return await self._adopt(protocol_factory, ours, tls)
        try:
            handle = handle_for(self.uv_loop, ours)
            try:
                open_detached(handle, ours)
                protocol = protocol_factory()
            except BaseException:
                close_quietly(handle)
                raise
        except BaseException:
            close_quietly(ours)
            raise
        return await self._start_transport(handle, protocol, None, tls)

    async def _connect_unix(self, path: str | bytes) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            await self.sock_connect(sock, path)
        except BaseException:
            close_quietly(sock)
            raise
        return sock

    async def create_unix_server(  # type: ignore[override]
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        path: StrOrBytesPath | None = None,
        *,
        sock: socket.socket | None = None,
        backlog: int = 100,
        ssl: _SSL = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        start_serving: bool = True,
        cleanup_socket: bool = sys.version_info >= (3, 13),
        mode: int | None = None,
    ) -> Server:
        """Listen on a UNIX socket.

        A socket that a server has left at the path is removed first; with
        `cleanup_socket` (the default since Python 3.13) the server removes its own
        when it is closed.  `mode` is what the file's permissions are changed to
        before anybody can connect.  A path that begins with NUL is a name of
        Linux's abstract kind, which has no permissions.  With `sock` the server
        listens on that socket, and closes it at its own end; when this fails, the
        socket stays the caller's.
        """
        if isinstance(ssl, bool):
            raise TypeError("ssl argument must be an SSLContext or None")
        tls = server_tls(ssl, ssl_handshake_timeout, ssl_shutdown_timeout)
        if tls is not None:
            protocol_factory = tls.factory(self, protocol_factory)
        self._check_closed()
        if path is None:
            if sock is None:
                raise ValueError("path was not specified, and no sock specified")
            _check_unix_socket(sock)
            if mode is not None:
                raise ValueError("mode can not be used with sock")
            file = _file_of(sock) if cleanup_socket else None
            server = self._serve_beside(
                protocol_factory, [sock], backlog, start_serving
            )
        else:
            if sock is not None:
                raise ValueError("path and sock can not be specified at the same time")
            path = os.fspath(path)
            if mode is not None and not has_file(path):
                raise ValueError("mode can not be used with an abstract UNIX socket")
            ours = _listening_socket(path)
            try:
                if mode is not None:
                    _set_mode(path, mode)
                file = _file_of(ours) if cleanup_socket else None
            except BaseException:
                close_quietly(ours)
                raise
            try:
                server = self._serve(protocol_factory, [ours], backlog, start_serving)
            except BaseException:
                if file is not None:
                    file.remove()
                raise
        server._path = file
        server._ssl_context = ssl
        if self.get_debug():
            logger.info("%r is serving", server)
        return server
