"""UNIX sockets: connections and servers."""

from __future__ import annotations

from .serve import ServingLoop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn


class UnixLoop(ServingLoop):
    """UNIX sockets: connections and servers."""

    async def create_unix_connection(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError("create_unix_connection()")

    async def create_unix_server(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError("create_unix_server()")
