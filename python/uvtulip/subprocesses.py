"""Subprocesses."""

from __future__ import annotations

from .pipes import PipeLoop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn


class SubprocessLoop(PipeLoop):
    """Subprocesses."""

    async def subprocess_shell(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError("subprocess_shell()")

    async def subprocess_exec(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError("subprocess_exec()")
