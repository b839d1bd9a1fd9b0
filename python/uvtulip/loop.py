"""The event loop class that users see.

Its methods live in a chain of classes, one for each subject: core (run, errors,
debug), resolve (executor, names), connect, sockops, signals, serve.  Here stand
those that the loop does not have: each says so, under its own name, before it
does anything.
"""

from __future__ import annotations

from .serve import ServingLoop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn


class Loop(ServingLoop):
    """An asyncio event loop on libuv.

    `uv_loop` is the raw loop under it: handles of uvtulip.uv made on that one
    live beside the transports of this one.
    """

    async def create_unix_connection(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError("create_unix_connection()")

    async def create_unix_server(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError("create_unix_server()")

    async def create_datagram_endpoint(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError("create_datagram_endpoint()")

    async def start_tls(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError("start_tls()")

    async def sendfile(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError("sendfile()")

    async def sock_sendfile(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError("sock_sendfile()")

    async def connect_read_pipe(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError("connect_read_pipe()")

    async def connect_write_pipe(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError("connect_write_pipe()")

    async def subprocess_shell(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError("subprocess_shell()")

    async def subprocess_exec(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError("subprocess_exec()")


Loop._own_methods()


def new_event_loop() -> Loop:
    """A new loop; made to be given as a loop_factory."""
    return Loop()
