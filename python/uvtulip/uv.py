"""The raw libuv handles: Loop, TCP, UDP, Pipe, Poll, Timer, Signal and the others,
with `error` (exceptions) and `errno` (libuv's error numbers).

A handle belongs to the thread that runs its loop; only Async.send() may be called
from any thread.
"""

import sys

from . import _uv
from ._uv import *  # noqa: F403
from ._uv import __version__, errno, error

__all__ = [name for name in dir(_uv) if not name.startswith("_")] + ["__version__"]

# So that "import uvtulip.uv.errno" works, too.
sys.modules[__name__ + ".errno"] = errno
sys.modules[__name__ + ".error"] = error
