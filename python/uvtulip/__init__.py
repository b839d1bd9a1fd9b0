"""uvtulip: asyncio on libuv, and libuv's own handles, on one loop.

    asyncio.run(main(), loop_factory=uvtulip.new_event_loop)

runs an asyncio program; uvtulip.uv has the raw handles, which work on the
`uv_loop` of a running Loop as well as on a loop of their own.
"""

from __future__ import annotations

from ._uv import __version__
from .loop import Loop, new_event_loop
from .serve import Server

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from . import uv
    from .certificate import Certificate
    from .metrics import LoopMetrics
    from .policy import EventLoopPolicy, install
    from .runner import run
    from .sessions import ResumingContext
    from .tls import tls_backend

__all__ = (
    "Certificate",
    "EventLoopPolicy",
    "Loop",
    "LoopMetrics",
    "ResumingContext",
    "Server",
    "__version__",
    "get_include",
    "install",
    "new_event_loop",
    "run",
    "tls_backend",
    "uv",
)


def get_include() -> str:
    """The folder of uv_capi.h, for C extensions that drive handles."""
    import os

    return os.path.join(os.path.dirname(os.path.abspath(__file__)), "include")


# Where to find what is loaded when somebody asks for it: what few programs need,
# and the policy, whose base classes Python 3.14 warns about.
_LATER = {
    "Certificate": "certificate",
    "EventLoopPolicy": "policy",
    "LoopMetrics": "metrics",
    "ResumingContext": "sessions",
    "install": "policy",
    "run": "runner",
    "tls_backend": "tls",
    "uv": "uv",
}


def __getattr__(name: str) -> Any:
    module_name = _LATER.get(name)
    if module_name is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    module = importlib.import_module(f".{module_name}", __name__)
    value = module if name == module_name else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
