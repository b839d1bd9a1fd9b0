"""Files sent to sockets and transports."""

from __future__ import annotations

from .subprocesses import SubprocessLoop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn


class SendfileLoop(SubprocessLoop):
    """Files sent to sockets and transports."""

    async def sendfile(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError("sendfile()")

    async def sock_sendfile(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError("sock_sendfile()")
