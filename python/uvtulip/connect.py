"""Connecting: addresses in their order, happy eyeballs, sockets taken over.

An attempt is a raw TCP handle that connects; it is closed by whoever finds that
it is not wanted, so that no descriptor is left behind wherever a caller is
cancelled.  Everything runs on the loop's thread.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import functools
import os
import socket
import sys
from asyncio.log import logger

from ._transports import SSLTransport, StreamTransport
from ._uv import TCP, Pipe
from .cleanup import close_descriptor, close_quietly
from .guards import guarded
from .resolve import ResolvingLoop, interleaved, lacks_zone, literal_info

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl as ssl_module
    from collections.abc import Callable, Coroutine
    from typing import Any, TypeVar

    from ._uv import Loop as RawLoop
    from .resolve import _AddrInfo, _SockAddr
    from .secure import TLS

    _P = TypeVar("_P", bound=asyncio.BaseProtocol)
    _SSL = ssl_module.SSLContext | bool | None
    # A handle that is connected; a socket, where somebody looks at those.
    _Connected = TCP | socket.socket
    _Attempt = Callable[[], Coroutine[Any, Any, _Connected]]

_INTERNET = (socket.AF_INET, socket.AF_INET6)


def check_stream_socket(sock: socket.socket) -> None:
    """Refuse what cannot become a transport of a stream."""
    check_no_ssl_socket(sock)
    if sock.type != socket.SOCK_STREAM:
        raise ValueError(f"A Stream Socket was expected, got {sock!r}")


def check_no_ssl_socket(sock: object) -> None:
    ssl = sys.modules.get("ssl")
    if ssl is not None and isinstance(sock, ssl.SSLSocket):
        raise TypeError("Socket cannot be of type SSLSocket")


def handle_for(uv_loop: RawLoop, sock: socket.socket) -> TCP | Pipe:
    """A new handle of the kind that the socket needs.

    That goes by what the descriptor is: the object may have been made from an
    inherited one with a guess, as socket.fromfd() allows.  To libuv, any stream
    that is not TCP is a pipe.
    """
    family: int = sock.family
    if hasattr(socket, "SO_DOMAIN"):
        family = sock.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN)
    return TCP(uv_loop) if family in _INTERNET else Pipe(uv_loop)


def open_detached(handle: TCP | Pipe, sock: socket.socket) -> None:
    """Move the socket's descriptor into the handle."""
    handle.open(sock.fileno())
    sock.detach()


def open_duplicate(handle: TCP | Pipe, sock: socket.socket) -> None:
    """Give the handle a duplicate of the socket's descriptor."""
    # Not by the socket's dup(), which makes another object of its class.
    fd = duplicate(sock.fileno())
    try:
        handle.open(fd)
    except BaseException:
        close_descriptor(fd)
        raise


def duplicate(fd: int) -> int:
    """A duplicate that is none of the standard streams' numbers."""
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)


def client_tls(
    ssl: _SSL,
    server_hostname: str | None,
    handshake_timeout: float | None,
    shutdown_timeout: float | None,
) -> TLS | None:
    """What a client's arguments come to; None: no TLS."""
    if not ssl:
        _refuse(
            server_hostname=server_hostname,
            ssl_handshake_timeout=handshake_timeout,
            ssl_shutdown_timeout=shutdown_timeout,
        )
        return None
    from .secure import TLS

    return TLS(ssl, False, server_hostname, handshake_timeout, shutdown_timeout)


def server_tls(
    ssl: _SSL, handshake_timeout: float | None, shutdown_timeout: float | None
) -> TLS | None:
    """What a server's arguments come to; None: no TLS."""
    if not ssl:
        _refuse(
            ssl_handshake_timeout=handshake_timeout,
            ssl_shutdown_timeout=shutdown_timeout,
        )
        return None
    from .secure import TLS

    return TLS(ssl, True, None, handshake_timeout, shutdown_timeout)


def _refuse(**only_with_tls: object) -> None:
    for name, value in only_with_tls.items():
        if value is not None:
            raise ValueError(f"{name} is only meaningful with ssl")


def _close_result(task: asyncio.Task[_Connected]) -> None:
    if not task.cancelled() and task.exception() is None:
        close_quietly(task.result())


class ConnectingLoop(ResolvingLoop):
    """create_connection() and connect_accepted_socket()."""

    async def create_connection(
        self,
        protocol_factory: Callable[[], _P],
        host: str | bytes | None = None,
        port: int | str | bytes | None = None,
        *,
        ssl: _SSL = None,
        family: int = 0,
        proto: int = 0,
        flags: int = 0,
        sock: socket.socket | None = None,
        local_addr: tuple[str, int] | None = None,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        happy_eyeballs_delay: float | None = None,
        interleave: int | None = None,
        all_errors: bool = False,
    ) -> tuple[asyncio.Transport, _P]:
        """Connect by TCP to a host, or take over a connected socket.

        Returns (transport, protocol).  With `sock` the transport works on that
        socket, and closes it at its own end.  It is closed as well when this fails
        or is cancelled, unless the arguments are wrong.
        """
        if ssl and server_hostname is None:
            if not host:
                raise ValueError(
                    "You must set server_hostname when using ssl without a host"
                )
            server_hostname = os.fsdecode(host)
        tls = client_tls(
            ssl, server_hostname, ssl_handshake_timeout, ssl_shutdown_timeout
        )
        self._check_closed()
        if sock is not None:
            if host is not None or port is not None:
                raise ValueError(
                    "host/port and sock can not be specified at the same time"
                )
            check_stream_socket(sock)
            made = await self._adopt(protocol_factory, sock, tls)
        elif host is None and port is None:
            raise ValueError("host and port was not specified and no sock specified")
        else:
            info = literal_info(host, port, family, socket.SOCK_STREAM, proto)
            infos = (
                [info]
                if info is not None
                else await self._resolve(
                    (host, port), family=family, proto=proto, flags=flags
                )
            )
            local = None
            if local_addr is not None:
                local = await self._resolve(
                    local_addr, family=family, proto=proto, flags=flags
                )
            if interleave is None and happy_eyeballs_delay is not None:
                interleave = 1
            if interleave:
                infos = interleaved(infos, interleave)
            if len(infos) > 1 or local is not None or all_errors:
                connected = await self._connect(
                    infos, local, happy_eyeballs_delay, all_errors
                )
            else:
                connected = await self._attempt(infos[0])
            if isinstance(connected, TCP):
                try:
                    protocol = protocol_factory()
                except BaseException:
                    close_quietly(connected)
                    raise
                made = await self._start_transport(connected, protocol, None, tls)
            else:
                made = await self._adopt(protocol_factory, connected, tls)
        if self.get_debug():
            shown = made[0].get_extra_info("socket")
            logger.debug("%r connected to %s:%r: (%r, %r)", shown, host, port, *made)
        return made

    async def connect_accepted_socket(
        self,
        protocol_factory: Callable[[], _P],
        sock: socket.socket,
        *,
        ssl: _SSL = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> tuple[asyncio.Transport, _P]:
        """Serve a connection that was accepted elsewhere.

        Returns (transport, protocol), as create_connection(sock=...).
        """
        tls = server_tls(ssl, ssl_handshake_timeout, ssl_shutdown_timeout)
        self._check_closed()
        check_stream_socket(sock)
        made = await self._adopt(protocol_factory, sock, tls)
        if self.get_debug():
            logger.debug(
                "%r handled: (%r, %r)", made[0].get_extra_info("socket"), *made
            )
        return made

    async def connect_uv_handle(
        self, protocol_factory: Callable[[], _P], handle: TCP | Pipe
    ) -> tuple[asyncio.Transport, _P]:
        """Make a transport of a raw handle that is connected.

        The handle is a TCP or a Pipe of `uv_loop`: one that was accepted, that has
        connected, that was opened with a descriptor, or that came over a pipe.  It
        must not be reading.  What was written to it leaves before what the transport
        writes.  From now on it belongs to the transport, which closes it.

        Returns (transport, protocol).  Raises TypeError, ValueError (of another loop;
        not connected), HandleClosedError, RuntimeError (it is reading or listening,
        or another transport's); then the handle stays as it was.
        """
        self._check_closed()
        self._check_uv_handle(handle)
        protocol = protocol_factory()
        waiter = self.create_future()
        transport = StreamTransport(self, handle, protocol, waiter)
        try:
            await waiter
        except BaseException:
            close_quietly(transport)
            raise
        finally:
            del waiter  # It has the exception, and that this frame.
        return transport, protocol

    def _check_uv_handle(self, handle: TCP | Pipe) -> None:
        """Refuse what cannot become a transport, before a protocol is made."""
        if not isinstance(handle, (TCP, Pipe)):
            raise TypeError(f"a TCP or Pipe handle was expected, got {handle!r}")
        if handle.closed:
            from ._uv import error

            raise error.HandleClosedError(f"{handle!r} is closed")
        if handle.loop is not self.uv_loop:
            raise ValueError(f"{handle!r} is of another loop")
        if not (handle.readable or handle.writable):
            raise ValueError(f"{handle!r} is not connected")

    # ---- from a handle or a socket to a transport ----

    async def _start_transport(
        self,
        handle: TCP | Pipe,
        protocol: _P,
        given: socket.socket | None = None,
        tls: TLS | None = None,
    ) -> tuple[asyncio.Transport, _P]:
        waiter = self.create_future()
        transport: StreamTransport | SSLTransport
        try:
            if tls is None:
                transport = below = StreamTransport(self, handle, protocol, waiter)
            else:
                transport = tls.transport(self, protocol, waiter)
                below = StreamTransport(self, handle, transport._link())
        except BaseException:
            close_quietly(handle)
            if given is not None:
                close_quietly(given)
            raise
        if given is not None:
            from .sockets import GivenSocket

            below._show_socket(GivenSocket(given))
        try:
            await waiter
        except BaseException:
            close_quietly(transport)
            raise
        finally:
            del waiter  # It has the exception, and that this frame.
        return transport, protocol

    async def _adopt(
        self,
        protocol_factory: Callable[[], _P],
        sock: socket.socket,
        tls: TLS | None = None,
    ) -> tuple[asyncio.Transport, _P]:
        """Make a transport of a socket, which is closed when this fails.

        The handle gets a descriptor of its own, since the caller may go on
        asking the socket.
        """
        try:
            sock.setblocking(False)
            protocol = protocol_factory()
            handle = handle_for(self.uv_loop, sock)
            try:
                open_duplicate(handle, sock)
            except BaseException:
                close_quietly(handle)
                raise
        except BaseException:
            close_quietly(sock)
            raise
        return await self._start_transport(handle, protocol, sock, tls)

    # ---- attempts ----

    async def _connect(
        self,
        infos: list[_AddrInfo],
        local: list[_AddrInfo] | None,
        delay: float | None,
        all_errors: bool,
    ) -> _Connected:
        """Connect to one of the addresses, or raise what kept us from it."""
        errors: list[list[OSError]] = []
        attempts: list[_Attempt] = [
            functools.partial(self._note_errors, info, local, errors) for info in infos
        ]
        found: list[OSError] = []
        connected = None
        try:
            if delay is not None:
                connected = await self._race(attempts, delay)
            else:
                for attempt in attempts:
                    try:
                        connected = await attempt()
                        break
                    except OSError:
                        continue
            if connected is not None:
                return connected
            found = [exc for mine in errors for exc in mine]
            if all_errors:
                raise ExceptionGroup("create_connection failed", found)
            if len({str(exc) for exc in found}) == 1:
                raise found[0]
            texts = ", ".join(str(exc) for exc in found)
            raise OSError(f"Multiple exceptions: {texts}")
        finally:
            # The errors' tracebacks hold this frame and those of the attempts.
            errors.clear()
            found.clear()

    async def _note_errors(
        self,
        info: _AddrInfo,
        local: list[_AddrInfo] | None,
        errors: list[list[OSError]],
    ) -> _Connected:
        """As _attempt().  What goes wrong is added to `errors`, as one list for
        each attempt, in the order in which they begin."""
        mine: list[OSError] = []
        errors.append(mine)
        try:
            return await self._attempt(info, local, mine)
        except OSError as exc:
            mine.append(exc)
            raise
        finally:
            mine = []  # An error's traceback holds this frame.

    async def _attempt(
        self,
        info: _AddrInfo,
        local: list[_AddrInfo] | None = None,
        errors: list[OSError] | None = None,
    ) -> _Connected:
        """What is connected.  With several local addresses, `errors` gets why
        those that were tried before could not be had."""
        family, kind, proto, _, address = info
        try:
            if guarded():
                return await self._connect_socket(info, local, errors)
            handle = TCP(self.uv_loop)
            try:
                if family == socket.AF_INET6 and lacks_zone(address):
                    # The kernel refuses; newer versions of libuv choose an interface.
                    raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
                if (
                    local is not None
                    or proto not in (0, socket.IPPROTO_TCP)
                    or family not in _INTERNET
                ):
                    # libuv can neither choose a protocol nor bind exclusively.
                    sock = socket.socket(family, kind, proto)
                    try:
                        _bind_local(sock, local, errors)
                        open_detached(handle, sock)
                    except BaseException:
                        close_quietly(sock)
                        raise
                await self._connect_handle(handle, address)
            except BaseException:
                close_quietly(handle)
                raise
            return handle
        finally:
            errors = None  # An error's traceback holds this frame.

    async def _connect_socket(
        self,
        info: _AddrInfo,
        local: list[_AddrInfo] | None,
        errors: list[OSError] | None,
    ) -> socket.socket:
        """The same by the socket module alone, for those who look at sockets."""
        family, kind, proto, _, address = info
        try:
            sock = socket.socket(family=family, type=kind, proto=proto)
            try:
                sock.setblocking(False)
                _bind_local(sock, local, errors)
                await self.sock_connect(sock, address)
            except BaseException:
                close_quietly(sock)
                raise
            return sock
        finally:
            errors = None  # An error's traceback holds this frame.

    async def _connect_handle(self, handle: TCP, address: _SockAddr) -> None:
        connected = self.create_future()

        def on_connect(_: TCP, error: int | None) -> None:
            if not connected.done():
                connected.set_result(error)

        try:
            handle.connect(address, on_connect)  # type: ignore[arg-type]
        except OSError as exc:
            # The kernel refuses to try.
            code = exc.errno or errno.EINVAL
            raise OSError(code, os.strerror(code)) from None
        code = await connected
        if code is not None:
            raise OSError(-code, f"Connect call failed {address}")

    async def _race(self, attempts: list[_Attempt], delay: float) -> _Connected | None:
        """Start an attempt every `delay` seconds, or as soon as the one before
        it has failed; the first to connect wins and the others are undone."""
        running: set[asyncio.Task[_Connected]] = set()
        winner: _Connected | None = None
        waiting = list(reversed(attempts))
        newest: asyncio.Task[_Connected] | None = None
        due = 0.0
        try:
            while winner is None and (waiting or running):
                if waiting and (newest is None or newest.done() or self.time() >= due):
                    newest = self.create_task(waiting.pop()())
                    running.add(newest)
                    due = self.time() + delay
                await asyncio.wait(
                    running,
                    timeout=max(0.0, due - self.time()) if waiting else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for task in [task for task in running if task.done()]:
                    if task.cancelled() or task.exception() is not None:
                        running.discard(task)
                        _raise_unless_oserror(task)
                    elif winner is None:
                        running.discard(task)
                        winner = task.result()
            for task in running:
                task.cancel()
            if running:
                await asyncio.wait(running)
        except BaseException:
            if winner is not None:
                close_quietly(winner)
            raise
        finally:
            for task in running:
                task.cancel()
                task.add_done_callback(_close_result)
        return winner


def _raise_unless_oserror(task: asyncio.Task[_Connected]) -> None:
    """Let a bug in an attempt be seen, not taken for a failed connection."""
    if not task.cancelled():
        exc = task.exception()
        if exc is not None and not isinstance(exc, OSError):
            raise exc


def _bind_local(
    sock: socket.socket,
    local: list[_AddrInfo] | None,
    errors: list[OSError] | None,
) -> None:
    if local is None or errors is None:
        return
    try:
        if not _bind_first(sock, local, errors):
            raise errors.pop()
    finally:
        errors = None  # An error's traceback holds this frame.


def _bind_first(
    sock: socket.socket, local: list[_AddrInfo], errors: list[OSError]
) -> bool:
    """Bind to the first address that is to be had; `errors` gets why those before
    could not be had, so at least one when this returns False."""
    for family, _, _, _, address in local:
        if family != sock.family:
            continue
        try:
            sock.bind(address)
        except OSError as exc:
            reason = str(exc).lower()
            text = f"error while attempting to bind on address {address!r}: {reason}"
            errors.append(OSError(exc.errno, text))
        else:
            return True
    if not errors:
        family = sock.family
        errors.append(OSError(f"no matching local address with {family=} found"))
    return False
