"""What a program puts between itself and its sockets.

Audit hooks (PEP 578) log or refuse what sockets do, and so do tools that put another
class in the place of socket.socket, or another function in the place of one of its
methods.  asyncio's loop passes by all of them, since its sockets are of that class.
While there is a guard, this loop does the same: sockets are made, bound and connected
by the socket module, and the transport then works on a duplicate of the descriptor.

Everything may be called from any thread.
"""

from __future__ import annotations

import _socket
import socket

from ._transports import _audited

# The methods of a socket that is set up, where CPython has them from.
_OWN = ("__init__", "__new__", "close", "detach")
_INHERITED = ("bind", "connect", "fileno", "getsockopt", "listen", "setblocking")


def _is_genuine(cls: type) -> bool:
    """Whether it is CPython's own class."""
    return cls.__module__ == "socket" and cls.__bases__ == (_socket.socket,)


_class = socket.socket
_methods = [(name, getattr(_class, name)) for name in _OWN]
if not _is_genuine(_class):
    _methods.append(("__module__", None))  # It was replaced before: never equal.
_methods += [(name, getattr(_socket.socket, name)) for name in _INHERITED]


def replaced() -> bool:
    """Whether socket.socket or one of its methods is not CPython's own."""
    cls = socket.socket
    if cls is not _class:
        return True
    for name, method in _methods:
        if getattr(cls, name) is not method:
            return True
    return False


def guarded() -> bool:
    """Whether anybody looks at the program's sockets."""
    return _audited() or replaced()
