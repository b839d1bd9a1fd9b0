"""What stands in asyncio.all_tasks() for the tasks that accept a server's connections.

asyncio has a task for each connection, from accept() until the protocol has it, with
TLS until the handshake is done.  A program that cancels all tasks, to end, has that
connection closed by it, even if the task that was to serve it is cancelled before it
has begun.  uvtulip has no such tasks; one object for each server is a pending future
whenever asyncio would have one of them.  It costs nothing until somebody looks.
"""

from __future__ import annotations

import asyncio
import weakref
from asyncio import tasks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Context
    from typing import Any

    from .serve import Server

# Seconds between two looks whether all is accepted, while somebody waits for it.
_LOOK_AGAIN = 0.005


class Accepting(asyncio.Future[None]):
    """Pending while connections are being accepted; cancel() closes them."""

    def __init__(self, server: Server) -> None:
        super().__init__(loop=server.get_loop())
        super().set_result(None)
        self._server = weakref.ref(server)
        tasks._register_task(self)  # type: ignore[arg-type]

    def _transports(self) -> list[asyncio.Transport]:
        server = self._server()
        if server is None or self.get_loop().is_closed():
            return []
        return [each for each in server._accepting() if not each.is_closing()]

    def _update(self) -> list[asyncio.Transport]:
        transports = self._transports()
        if transports and super().done():
            super().__init__(loop=self.get_loop())
        elif not transports and not super().done():
            super().set_result(None)
        return transports

    def done(self) -> bool:
        self._update()
        return super().done()

    def cancel(self, msg: Any | None = None) -> bool:
        transports = self._update()
        if not transports:
            return False
        for transport in transports:
            transport.close()
        return super().cancel(msg)

    def add_done_callback(
        self, callback: Callable[[Any], object], /, *, context: Context | None = None
    ) -> None:
        self._update()
        super().add_done_callback(callback, context=context)
        self._look()

    def _look(self) -> None:
        if self._update():
            self.get_loop().call_later(_LOOK_AGAIN, self._look)

    # ---- what a task has beside ----

    def get_coro(self) -> None:
        """There is none."""

    def get_context(self) -> None:
        """There is none."""

    def get_name(self) -> str:
        return "uvtulip-accept"

    def set_name(self, name: object) -> None:
        """Without effect."""

    def get_stack(self, *, limit: int | None = None) -> list[Any]:
        return []

    def print_stack(self, *, limit: int | None = None, file: Any = None) -> None:
        print(f"{self!r} accepts connections", file=file)

    def cancelling(self) -> int:
        return int(self.cancelled())

    def uncancel(self) -> int:
        return 0
