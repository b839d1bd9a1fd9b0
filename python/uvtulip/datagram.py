"""Datagrams."""

from __future__ import annotations

from .unix import UnixLoop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn


class DatagramLoop(UnixLoop):
    """Datagrams."""

    async def create_datagram_endpoint(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError("create_datagram_endpoint()")
