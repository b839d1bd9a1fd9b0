"""What the ssl arguments of a method come to, and the transports made of them.

Everything runs on the loop's thread.
"""

from __future__ import annotations

from asyncio import constants

from ._transports import SSLFactory, SSLTransport

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    import ssl as ssl_module
    from collections.abc import Callable

    from ._transports import EventLoop


def _timeout(name: str, value: float | None, default: float) -> float:
    if value is None:
        return default
    if value <= 0:
        raise ValueError(f"{name} should be a positive number, got {value}")
    return value


def _default_context(server_side: bool, hostname: str | None) -> ssl_module.SSLContext:
    import ssl

    if server_side:
        raise ValueError("Server side SSL needs a valid SSLContext")
    context = ssl.create_default_context()
    if not hostname:
        context.check_hostname = False
    return context


class TLS:
    """How to secure a connection."""

    __slots__ = ("context", "handshake", "hostname", "server_side", "shutdown")

    def __init__(
        self,
        context: ssl_module.SSLContext | bool | None,
        server_side: bool,
        hostname: str | None = None,
        handshake_timeout: float | None = None,
        shutdown_timeout: float | None = None,
    ) -> None:
        self.handshake = _timeout(
            "ssl_handshake_timeout", handshake_timeout, constants.SSL_HANDSHAKE_TIMEOUT
        )
        self.shutdown = _timeout(
            "ssl_shutdown_timeout", shutdown_timeout, constants.SSL_SHUTDOWN_TIMEOUT
        )
        self.server_side = server_side
        self.hostname = (not server_side and hostname) or None
        if context is None or isinstance(context, bool):
            context = _default_context(server_side, hostname)
        elif not hasattr(context, "wrap_bio"):
            raise TypeError(f"ssl argument must be an SSLContext, got {context!r}")
        self.context = context

    def transport(
        self,
        loop: EventLoop,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[None] | None = None,
        call_connection_made: bool = True,
    ) -> SSLTransport:
        """A transport that waits to be put on another one."""
        return SSLTransport(
            loop,
            protocol,
            self.context,
            waiter,
            self.server_side,
            self.hostname,
            call_connection_made,
            self.handshake,
            self.shutdown,
            None,
        )

    def factory(
        self, loop: EventLoop, protocol_factory: Callable[[], asyncio.BaseProtocol]
    ) -> Callable[[], asyncio.BaseProtocol]:
        """A factory of the protocols that stand between a server's transports and
        those of protocol_factory."""
        return SSLFactory(
            loop, protocol_factory, self.context, self.handshake, self.shutdown
        )
