"""The event loop policy, for Python up to 3.15, where asyncio has policies.

It is a module of its own, imported when somebody asks for it, because Python 3.14
warns about each touch of the public policy classes.  A policy belongs to the
process; the loops it makes belong to the threads that ask for them.
"""

from __future__ import annotations

import asyncio
from asyncio import events, unix_events

from .loop import Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    _Base = asyncio.DefaultEventLoopPolicy
else:
    # 3.14 renamed the class and kept the old name with a warning.
    _Base = getattr(unix_events, "_DefaultEventLoopPolicy", None)
    if _Base is None:
        _Base = asyncio.DefaultEventLoopPolicy


class EventLoopPolicy(_Base):
    """asyncio's own policy, with the loops of uvtulip."""

    def _loop_factory(self) -> Loop:
        return Loop()


def install() -> None:
    """Have asyncio.run(), asyncio.new_event_loop() and the like use uvtulip.

    asyncio.run(main(), loop_factory=uvtulip.new_event_loop) is the way that
    goes on working when policies are gone, in Python 3.16.
    """
    set_policy = getattr(events, "_set_event_loop_policy", None)
    if set_policy is None:
        set_policy = asyncio.set_event_loop_policy
    set_policy(EventLoopPolicy())
