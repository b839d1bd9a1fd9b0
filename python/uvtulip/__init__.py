"""uvtulip: asyncio on libuv, and libuv's own handles, on one loop.

    asyncio.run(main(), loop_factory=uvtulip.new_event_loop)

runs an asyncio program; uvtulip.uv has the raw handles, which work on the
`uv_loop` of a running Loop as well as on a loop of their own.
"""

from __future__ import annotations

from ._uv import __version__
from .loop import Loop, new_event_loop
from .runner import run
from .serve import Server

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from . import uv
    from .policy import EventLoopPolicy, install

__all__ = (
    "EventLoopPolicy",
    "Loop",
    "Server",
    "__version__",
    "get_include",
    "install",
    "new_event_loop",
    "run",
    "uv",
)


def get_include() -> str:
    """The folder of uv_capi.h, for C extensions that drive handles."""
    import os

    return os.path.join(os.path.dirname(os.path.abspath(__file__)), "include")


def __getattr__(name: str) -> Any:
    if name in ("EventLoopPolicy", "install"):
        # Not before they are wanted: see policy.py.
        from . import policy

        value = getattr(policy, name)
    elif name == "uv":
        import importlib

        value = importlib.import_module(".uv", __name__)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
