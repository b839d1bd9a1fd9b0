"""TLS on top of a transport that is there already."""

from __future__ import annotations

import asyncio

from . import _transports
from .cleanup import close_quietly
from .secure import TLS
from .serve import ServingLoop

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from typing import Any


def tls_backend() -> str:
    """How new TLS connections are encrypted: "openssl" directly, or "memory-bio",
    the slower way over ssl.MemoryBIO.

    The transport's get_extra_info("tls_backend") says what a connection has: some
    contexts need the slower way.
    """
    return _transports._tls_backend(None)


def _take_unread(protocol: Any) -> bytes:
    """What a stream reader has got and nobody has read: it is ciphertext, if the
    peer did not wait for us."""
    reader = getattr(protocol, "_stream_reader", None)
    buffer = getattr(reader, "_buffer", None)
    if not isinstance(reader, asyncio.StreamReader) or not buffer:
        return b""
    unread = bytes(buffer)
    buffer.clear()
    return unread


class TLSLoop(ServingLoop):
    """start_tls()."""

    async def start_tls(
        self,
        transport: asyncio.WriteTransport,
        protocol: asyncio.BaseProtocol,
        sslcontext: ssl.SSLContext,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> asyncio.Transport:
        """Secure a connection that is in use.

        Returns a new transport, which `protocol` has to use from now on.  Any
        transport of asyncio's will do, this loop's or not, TLS itself too.
        """
        import ssl

        if not isinstance(sslcontext, ssl.SSLContext):
            raise TypeError(
                "sslcontext is expected to be an instance of ssl.SSLContext, "
                f"got {sslcontext!r}"
            )
        if not getattr(transport, "_start_tls_compatible", False):
            raise TypeError(f"transport {transport!r} is not supported by start_tls()")
        options = TLS(
            sslcontext,
            server_side,
            server_hostname,
            ssl_handshake_timeout,
            ssl_shutdown_timeout,
        )
        below: Any = transport
        waiter = self.create_future()
        secured = options.transport(self, protocol, waiter, False)
        link: Any = secured._link()
        # Nothing may come before the link knows its transport.
        below.pause_reading()
        if getattr(below, "_protocol_paused", False) and (
            below.get_protocol() is protocol
        ):
            secured._take_pause()
        below.set_protocol(link)
        steps = [self.call_soon(link.connection_made, below)]
        if unread := _take_unread(protocol):
            steps.append(self.call_soon(secured._feed, unread))
        steps.append(self.call_soon(below.resume_reading))
        try:
            await waiter
        except BaseException:
            for step in steps:
                step.cancel()
            close_quietly(below)
            raise
        finally:
            del waiter  # It has the exception, and that this frame.
        return secured
