"""run(): asyncio.run() on a loop of uvtulip.

It runs on the thread that calls it and owns the loop it makes.
"""

from __future__ import annotations

import asyncio

from .loop import Loop, new_event_loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any, TypeVar

    _T = TypeVar("_T")


def run(
    main: Coroutine[Any, Any, _T],
    *,
    loop_factory: Callable[[], Loop] = new_event_loop,
    debug: bool | None = None,
) -> _T:
    """Run a coroutine on a new loop, close the loop, return the result.

    `loop_factory` has to make a uvtulip.Loop, or one derived from it; any other
    loop is a TypeError.
    """

    def make_loop() -> Loop:
        loop = loop_factory()
        if not isinstance(loop, Loop):
            loop.close()
            raise TypeError(
                f"uvtulip.run() needs a loop of uvtulip, loop_factory made {loop!r}"
            )
        return loop

    if asyncio._get_running_loop() is not None:
        raise RuntimeError("uvtulip.run() cannot be called from a running event loop")
    with asyncio.Runner(loop_factory=make_loop, debug=debug) as runner:
        return runner.run(main)
