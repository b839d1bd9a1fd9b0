"""Pipes, FIFOs, terminals: what is read or written in one direction."""

from __future__ import annotations

from .datagram import DatagramLoop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn


class PipeLoop(DatagramLoop):
    """Pipes, FIFOs, terminals: what is read or written in one direction."""

    async def connect_read_pipe(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError("connect_read_pipe()")

    async def connect_write_pipe(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError("connect_write_pipe()")
