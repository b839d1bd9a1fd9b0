"""Resuming TLS sessions: a client that has been connected to a server before saves
itself most of the handshake."""

from __future__ import annotations

import ssl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class ResumingContext(ssl.SSLContext):
    """An SSLContext for clients that resumes sessions.

    It works wherever an SSLContext does and is for many connections: when one of
    this package's transports ends, its session is kept, and offered in the next
    connection to a server of the same name.  A server that does not accept it
    makes a handshake as ever.  As with ssl.SSLContext(PROTOCOL_TLS_CLIENT),
    certificates are verified, and the trusted ones have to be loaded.
    """

    max_sessions = 1000
    """How many servers to remember; the oldest is forgotten first."""

    _sessions: dict[str, ssl.SSLSession]

    def __new__(cls, protocol: int = ssl.PROTOCOL_TLS_CLIENT) -> ResumingContext:
        self = super().__new__(cls, protocol)
        self._sessions = {}
        return self

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """As ssl.SSLContext.wrap_bio(), with the session that is known."""
        if session is None and isinstance(server_hostname, str):
            session = self._sessions.get(server_hostname)
        return super().wrap_bio(
            incoming, outgoing, server_side, server_hostname, session
        )

    def keep_session(self, ssl_object: ssl.SSLObject) -> None:
        """Remember the session of a connection, if it can be resumed.

        Transports of this package call it when they end; a program that uses other
        ones may do it itself, once data has come: with TLS 1.3 the session comes
        after the handshake.
        """
        session: Any = ssl_object.session
        name = ssl_object.server_hostname
        if session is None or name is None:
            return
        if not session.has_ticket and not session.id:
            return
        self._sessions.pop(name, None)
        self._sessions[name] = session
        while len(self._sessions) > self.max_sessions:
            del self._sessions[next(iter(self._sessions))]

    def forget_sessions(self) -> None:
        """Make whole handshakes from now on."""
        self._sessions.clear()
