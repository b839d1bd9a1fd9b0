"""Make uvtulip's loop the one that asyncio makes, in this process and in those
that multiprocessing starts from it.

It is what `python -m uvtulip` does before it runs a program.  All of it is done
once, on the main thread, before the program has begun.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

# What stands in the source that multiprocessing gives to the interpreters it starts.
_CHILDREN = (
    "from multiprocessing.spawn import ",
    "from multiprocessing.forkserver import ",
)


def take_over(as_uvloop: bool = False) -> None:
    """Have asyncio make loops of uvtulip; `as_uvloop`: be the module uvloop, too."""
    import asyncio

    from .loop import Loop
    from .policy import install

    install()
    names = vars(asyncio)
    if "EventLoop" in names:  # Since 3.13: the loop that suits the system best.
        names["EventLoop"] = Loop
    if as_uvloop:
        be_uvloop()
    _cover_children(as_uvloop)


def be_uvloop() -> None:
    """Have `import uvloop` give uvtulip, which has its documented names."""
    package = __name__.rpartition(".")[0]
    sys.modules["uvloop"] = sys.modules[package]
    sys.modules["uvloop.loop"] = sys.modules[package + ".loop"]


def _cover_children(as_uvloop: bool) -> None:
    """Have interpreters that multiprocessing starts begin with take_over()."""
    from multiprocessing import util

    start = getattr(util, "spawnv_passfds", None)
    if start is None:
        return
    first = f"from {__name__} import take_over; take_over({as_uvloop}); "

    def spawnv_passfds(path: Any, args: Sequence[Any], passfds: Any) -> int:
        args = list(args)
        if "-c" in args:
            place = args.index("-c") + 1
            if any(mark in args[place] for mark in _CHILDREN):
                args[place] = first + args[place]
        pid: int = start(path, args, passfds)
        return pid

    util.spawnv_passfds = spawnv_passfds
