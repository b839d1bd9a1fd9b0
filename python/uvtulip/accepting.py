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
    from collections.abc import Callable, Generator
    from contextvars import Context
    from typing import Any

    from .serve import Server

# Seconds between two looks whether all is accepted, while somebody waits for it.
_LOOK_AGAIN = 0.005


class Accepting:
    """Pending while connections are being accepted; cancel() closes them.

    What asyncio asks of a future is asked of the present one: there is another each
    time that the server accepts again.
    """

    _asyncio_future_blocking = False

    def __init__(self, server: Server) -> None:
        self._loop = server.get_loop()
        self._future: asyncio.Future[None] = asyncio.Future(loop=self._loop)
        self._future.set_result(None)
        self._server = weakref.ref(server)
        tasks._register_task(self)  # type: ignore[arg-type]

    def __repr__(self) -> str:
        state = "done" if self._future.done() else "pending"
        return f"<{type(self).__name__} {state} server={self._server()!r}>"

    def __await__(self) -> Generator[Any, None, None]:
        self._look()
        return self._future.__await__()

    def __getattr__(self, name: str) -> Any:
        if name == "_future":
            raise AttributeError(name)
        self._update()
        return getattr(self._future, name)

    def _transports(self) -> list[asyncio.Transport]:
        server = self._server()
        if server is None or self._loop.is_closed():
            return []
        return [each for each in server._accepting() if not each.is_closing()]

    def _update(self) -> list[asyncio.Transport]:
        transports = self._transports()
        if transports and self._future.done():
            self._future = asyncio.Future(loop=self._loop)
        elif not transports and not self._future.done():
            self._future.set_result(None)
        return transports

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def done(self) -> bool:
        self._update()
        return self._future.done()

    def cancel(self, msg: Any | None = None) -> bool:
        transports = self._update()
        if not transports:
            return False
        for transport in transports:
            transport.close()
        return self._future.cancel(msg)

    def add_done_callback(
        self, callback: Callable[[Any], object], /, *, context: Context | None = None
    ) -> None:
        self._look()
        self._future.add_done_callback(callback, context=context)

    def _look(self) -> None:
        if self._update():
            self._loop.call_later(_LOOK_AGAIN, self._look)

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
        return int(self._future.cancelled())

    def uncancel(self) -> int:
        return 0
