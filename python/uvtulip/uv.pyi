from ._uv import *  # noqa: F403
from ._uv import __version__ as __version__
from ._uv import dns as dns
from ._uv import errno as errno
from ._uv import error as error
from ._uv import fs as fs
from ._uv import thread as thread
from ._uv import util as util
