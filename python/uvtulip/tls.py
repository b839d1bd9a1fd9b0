"""TLS on top of a transport."""

from __future__ import annotations

from .sendfile import SendfileLoop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn


class TLSLoop(SendfileLoop):
    """TLS on top of a transport."""

    async def start_tls(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError("start_tls()")
