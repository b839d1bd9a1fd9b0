"""The raw libuv handles: Loop, TCP, UDP, Pipe, Poll, Timer, Signal and the others,
with `error` (exceptions) and `errno` (libuv's error numbers).

A handle belongs to the thread that runs its loop; only Async.send() may be called
from any thread.
"""

import sys as _sys

from ._uv import *  # noqa: F403
from ._uv import __version__ as __version__
from ._uv import dns as dns
from ._uv import errno as errno
from ._uv import error as error
from ._uv import fs as fs
from ._uv import thread as thread
from ._uv import util as util

# So that "import uvtulip.uv.errno" works, too.
for _module in (dns, errno, error, fs, thread, util):
    _sys.modules[__name__ + "." + _module.__name__.rpartition(".")[2]] = _module
