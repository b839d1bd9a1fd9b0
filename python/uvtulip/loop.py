"""The event loop class that users see.

Its methods live in a chain of classes, one for each subject: core (run, errors,
debug), resolve (executor, names), connect, sockops, signals, serve, unix,
datagram, pipes, subprocesses, sendfile, tls.
"""

from __future__ import annotations

from .tls import TLSLoop


class Loop(TLSLoop):
    """An asyncio event loop on libuv.

    `uv_loop` is the raw loop under it: handles of uvtulip.uv made on that one
    live beside the transports of this one.
    """


Loop._own_methods()


def new_event_loop() -> Loop:
    """A new loop; made to be given as a loop_factory."""
    return Loop()
