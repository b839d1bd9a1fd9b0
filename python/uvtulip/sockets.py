"""The socket objects that transports and servers show.

Such an object borrows the descriptor: it answers questions and sets options, but
the handle below the transport owns the descriptor and closes it.  When that has
happened the owner calls detach(), and the object is without a descriptor.  Its
functions may be called from any thread while the transport is open.
"""

from __future__ import annotations

import os
import socket
from asyncio import trsock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

# What would disturb the transport, or bypass it.
_REFUSED = frozenset(
    "accept bind close connect connect_ex listen makefile recv recv_fds "
    "recv_into recvfrom recvfrom_into recvmsg recvmsg_into send send_fds sendall "
    "sendfile sendmsg sendmsg_afalg sendto set_inheritable share ioctl".split()
)

_Socket: Any = socket.socket


class _Borrowed(socket.socket):
    """A socket object that never closes its descriptor."""

    __slots__ = ()

    def close(self) -> None:
        self.detach()

    def __del__(self) -> None:
        # In place of the finaliser of socket.socket, which closes and warns.
        self.detach()


class TransportSocket(trsock.TransportSocket):
    """What get_extra_info('socket') and Server.sockets give."""

    __slots__ = ("__weakref__",)

    _sock: socket.socket

    def __repr__(self) -> str:
        return super().__repr__().replace("asyncio.", "uvtulip.", 1)

    def __getstate__(self) -> NoReturn:
        raise TypeError("Cannot serialize uvtulip.TransportSocket object")

    def __getattr__(self, name: str) -> Any:
        if name in _REFUSED:
            raise AttributeError(
                f"a transport socket has no {name}(): use the transport, or dup() "
                "for a socket of your own",
                name=name,
                obj=self,
            )
        raise AttributeError(
            f"{type(self).__name__!r} object has no attribute {name!r}",
            name=name,
            obj=self,
        )

    def dup(self) -> socket.socket:
        """A non-blocking socket of the caller's own for the same connection."""
        fd = os.dup(self._sock.fileno())
        try:
            sock = socket.socket(
                self._sock.family, self._sock.type, self._sock.proto, fileno=fd
            )
        except BaseException:
            os.close(fd)
            raise
        # The blocking mode belongs to both: the transport's must not change.
        sock.setblocking(False)
        return sock

    def detach(self) -> None:
        """Give the descriptor up; for the owner, once the handle is closed.  The
        collector may have emptied this object before its owner goes."""
        sock = getattr(self, "_sock", None)
        if sock is not None:
            sock.detach()


class GivenSocket(TransportSocket):
    """The same for a socket that the user gave: it is the transport's now, and is
    closed together with the handle, which has a descriptor of its own."""

    __slots__ = ()

    def detach(self, kind: Any = _Socket) -> None:
        sock = getattr(self, "_sock", None)
        if isinstance(sock, kind) and not hasattr(sock, "_io_refs"):
            sock._real_close()  # The collector has emptied this one, too.
        elif sock is not None:
            sock.close()


def plain(fd: int, family: int = -1, kind: int = -1, proto: int = -1) -> socket.socket:
    """A socket object that may send and receive with its handle's descriptor."""
    return _Borrowed(family, kind, proto, fileno=fd)


def borrow(fd: int) -> TransportSocket:
    """Show the socket behind `fd`, which stays the property of its handle; -1: one
    that is closed."""
    if fd < 0:
        with socket.socket() as gone:
            pass
        return TransportSocket(gone)
    sock = _Borrowed(fileno=fd)
    try:
        # Also says so to Python, whatever socket.setdefaulttimeout() was given.
        sock.setblocking(False)
    except BaseException:
        sock.detach()
        raise
    return TransportSocket(sock)
