"""create_datagram_endpoint().

Sockets are set up as the standard library's, whose errors they share, and then
move into raw handles: UDP where libuv can take them, else Poll, whose descriptor
the transport owns.  Whoever finds that a socket is not wanted closes it, so that no
descriptor is left behind wherever a caller is cancelled.  Everything runs on the
loop's thread.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from asyncio.log import logger

from ._transports import DatagramTransport
from ._uv import UDP, Poll
from .cleanup import close_descriptor, close_quietly
from .connect import duplicate
from .guards import guarded
from .resolve import literal_info
from .serve import set_reuse_port
from .sockops import SocketLoop
from .unix import has_file, remove_stale

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    _P = TypeVar("_P", bound=asyncio.BaseProtocol)
    _Address = Any
    # family and protocol; where to bind to and where to send to
    _Candidate = tuple[tuple[int, int], tuple[_Address | None, _Address | None]]


def _refuse_with_socket(sock: socket.socket, **options: object) -> None:
    """What cannot be said of a socket that is there already."""
    if sys.version_info < (3, 13):
        if sock.type != socket.SOCK_DGRAM:
            raise ValueError(f"A UDP Socket was expected, got {sock!r}")
    elif sock.type == socket.SOCK_STREAM:
        raise ValueError(f"A datagram socket was expected, got {sock!r}")
    given = ", ".join(f"{name}={value}" for name, value in options.items() if value)
    if given:
        raise ValueError(
            "socket modifier keyword arguments can not be used when sock is "
            f"specified. ({given})"
        )


def _is_for_libuv(sock: socket.socket) -> bool:
    """Whether a UDP handle can take it, by what the descriptor is."""
    if not hasattr(socket, "SO_DOMAIN"):
        return sock.family in (socket.AF_INET, socket.AF_INET6)
    family = sock.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN)
    kind = sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)
    return family in (socket.AF_INET, socket.AF_INET6) and kind == socket.SOCK_DGRAM


_REUSE = socket.SOL_SOCKET, socket.SO_REUSEADDR


class DatagramLoop(SocketLoop):
    """create_datagram_endpoint()."""

    async def create_datagram_endpoint(  # type: ignore[override]
        self,
        protocol_factory: Callable[[], _P],
        local_addr: tuple[str, int] | str | None = None,
        remote_addr: tuple[str, int] | str | None = None,
        *,
        family: int = 0,
        proto: int = 0,
        flags: int = 0,
        reuse_port: bool | None = None,
        allow_broadcast: bool | None = None,
        sock: socket.socket | None = None,
    ) -> tuple[DatagramTransport, _P]:
        """Bind a datagram socket, connect it, or both; or take one over.

        Returns (transport, protocol).  For UNIX sockets the addresses are paths
        or, beginning with NUL, names of Linux's abstract kind; a socket that is
        found at local_addr is removed.  With `sock` the transport works on that
        socket, and closes it at its own end, also when this is cancelled after the
        protocol was made.
        """
        self._check_closed()
        if sock is not None:
            _refuse_with_socket(
                sock,
                local_addr=local_addr,
                remote_addr=remote_addr,
                family=family,
                proto=proto,
                flags=flags,
                reuse_port=reuse_port,
                allow_broadcast=allow_broadcast,
            )
            made = await self._adopt_datagrams(protocol_factory, sock)
        else:
            if not (local_addr or remote_addr):
                if family == 0:
                    raise ValueError("unexpected address family")
                candidates = [((family, proto), (None, None))]
            elif family == socket.AF_UNIX:
                candidates = [((family, proto), _unix_pair(local_addr, remote_addr))]
            else:
                candidates = await self._resolve_pair(
                    (local_addr, remote_addr), family, proto, flags
                )
            ours, address = await self._first_endpoint(
                candidates, reuse_port, allow_broadcast
            )
            try:
                protocol = protocol_factory()
                made = await self._start_datagrams(
                    ours, protocol, address, keep=guarded()
                )
            except BaseException:
                close_quietly(ours)
                raise
        if self.get_debug():
            if local_addr:
                logger.info(
                    "Datagram endpoint local_addr=%r remote_addr=%r created: (%r, %r)",
                    local_addr,
                    remote_addr,
                    *made,
                )
            else:
                logger.debug(
                    "Datagram endpoint remote_addr=%r created: (%r, %r)",
                    remote_addr,
                    *made,
                )
        return made

    # ---- addresses ----

    async def _resolve_pair(
        self, pair: tuple[_Address, _Address], family: int, proto: int, flags: int
    ) -> list[_Candidate]:
        """The local and remote addresses that go together."""
        found: dict[tuple[int, int], list[_Address | None]] = {}
        for index, address in enumerate(pair):
            if address is None:
                continue
            if not (isinstance(address, tuple) and len(address) == 2):
                raise TypeError("2-tuple is expected")
            info = literal_info(*address, family, socket.SOCK_DGRAM, proto)
            infos = (
                [info]
                if info is not None
                else await self.getaddrinfo(
                    *address,
                    family=family,
                    type=socket.SOCK_DGRAM,
                    proto=proto,
                    flags=flags,
                )
            )
            if not infos:
                raise OSError("getaddrinfo() returned empty list")
            for its_family, _, its_proto, _, resolved in infos:
                both = found.setdefault((its_family, its_proto), [None, None])
                both[index] = resolved
        candidates = [
            (key, (local, remote))
            for key, (local, remote) in found.items()
            if not ((pair[0] and local is None) or (pair[1] and remote is None))
        ]
        if not candidates:
            raise ValueError("can not get address information")
        return candidates

    async def _first_endpoint(
        self,
        candidates: list[_Candidate],
        reuse_port: bool | None,
        allow_broadcast: bool | None,
    ) -> tuple[socket.socket, _Address | None]:
        """The first socket that can be had, and where it is to send to."""
        errors: list[OSError] = []
        try:
            for (family, proto), (local, remote) in candidates:
                sock = None
                try:
                    sock = socket.socket(family, socket.SOCK_DGRAM, proto)
                    if reuse_port:
                        set_reuse_port(sock)
                    if allow_broadcast:
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                    sock.setblocking(False)
                    if local:
                        sock.bind(local)
                    if remote and not allow_broadcast:
                        await self.sock_connect(sock, remote)
                except OSError as exc:
                    if sock is not None:
                        close_quietly(sock)
                    errors.append(exc)
                except BaseException:
                    if sock is not None:
                        close_quietly(sock)
                    raise
                else:
                    return sock, remote
            raise errors[0]
        finally:
            errors.clear()  # Their tracebacks hold this frame.

    # ---- from a socket to a transport ----

    async def _start_datagrams(
        self,
        sock: socket.socket,
        protocol: _P,
        address: _Address | None = None,
        keep: bool = False,
    ) -> tuple[DatagramTransport, _P]:
        """Make a transport, which then has the descriptor of `sock`.

        With `keep` it has a duplicate and the socket too, as others may go on asking
        that.  When this fails before there is a transport, the socket is as it was.
        """
        waiter = self.create_future()
        fd = duplicate(sock.fileno()) if keep else sock.fileno()
        handle: UDP | Poll | None = None
        owned = not keep  # By somebody who will close it.
        try:
            if _is_for_libuv(sock):
                handle = UDP(self.uv_loop)
                reuse = sock.getsockopt(*_REUSE)
                handle.open(fd)
                owned = True
                try:
                    # libuv sets it, which would let any process bind to the same
                    # port and take its datagrams.
                    sock.setsockopt(*_REUSE, reuse)
                finally:
                    if not keep:
                        sock.detach()
            else:
                handle = Poll(self.uv_loop, fd)
            transport = DatagramTransport(self, handle, protocol, address, waiter)
        except BaseException:
            if handle is not None:
                close_quietly(handle)
            if not owned:
                close_descriptor(fd)
            raise
        if keep:
            from .sockets import GivenSocket

            transport._show_socket(GivenSocket(sock))
        else:
            sock.detach()  # Also of a Poll the transport owns the descriptor now.
        try:
            await waiter
        except BaseException:
            close_quietly(transport)
            raise
        finally:
            del waiter  # It has the exception, and that this frame.
        return transport, protocol

    async def _adopt_datagrams(
        self, protocol_factory: Callable[[], _P], sock: socket.socket
    ) -> tuple[DatagramTransport, _P]:
        """Make a transport of the caller's socket."""
        sock.setblocking(False)
        return await self._start_datagrams(sock, protocol_factory(), keep=True)


def _unix_pair(local: _Address, remote: _Address) -> tuple[_Address, _Address]:
    for path in (local, remote):
        if path is not None and not isinstance(path, str):
            raise TypeError("string is expected")
    if local and has_file(local):
        remove_stale(local)
    return local, remote
