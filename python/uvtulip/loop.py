"""The event loop class that users see.

Its methods live in classes, one for each subject.  Its bases have what any program
needs: core (run, errors, debug), resolve (executor, names), connect, signals, serve.
The others' modules are imported when one of their methods is asked for, as that is
time which most programs need not spend: sockops, unix, datagram, pipes, subprocesses,
sendfile, tls.
"""

from __future__ import annotations

from asyncio import SelectorEventLoop

from .serve import ServingLoop

_CO_COROUTINE = 0x80

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .datagram import DatagramLoop
    from .sendfile import SendfileLoop
    from .subprocesses import SubprocessLoop
    from .tls import TLSLoop
    from .unix import UnixLoop

    class _Base(TLSLoop, SendfileLoop, SubprocessLoop, DatagramLoop, UnixLoop):
        """All of them."""

else:
    _Base = ServingLoop


class Loop(_Base):
    """An asyncio event loop on libuv.

    `uv_loop` is the raw loop under it: handles of uvtulip.uv made on that one
    live beside the transports of this one.
    """


def _name_as_asyncio(*classes: type) -> None:
    """Have coroutines called as asyncio's: filters of warnings go by the name."""
    for cls in classes:
        for name, value in vars(cls).items():
            flags = getattr(getattr(value, "__code__", None), "co_flags", 0)
            home = getattr(SelectorEventLoop, name, None)
            if flags & _CO_COROUTINE and home is not None:
                value.__qualname__ = home.__qualname__


Loop._own_methods()
_name_as_asyncio(*(c for c in Loop.__mro__ if c.__module__.startswith(__package__)))

# module and class: all methods, as asyncio's own tests call private ones, too.
_LATER = {
    ("sockops", "SocketLoop"): (
        "_sock_connect",
        "sock_accept",
        "sock_connect",
        "sock_recv",
        "sock_recv_into",
        "sock_recvfrom",
        "sock_recvfrom_into",
        "sock_sendall",
        "sock_sendto",
    ),
    ("unix", "UnixLoop"): (
        "_connect_unix",
        "create_unix_connection",
        "create_unix_server",
    ),
    ("datagram", "DatagramLoop"): (
        "_adopt_datagrams",
        "_first_endpoint",
        "_resolve_pair",
        "_start_datagrams",
        "create_datagram_endpoint",
    ),
    ("pipes", "PipeLoop"): (
        "_pipe_handle",
        "connect_read_pipe",
        "connect_write_pipe",
    ),
    ("subprocesses", "SubprocessLoop"): (
        "_log_subprocess",
        "_make_subprocess_transport",
        "subprocess_exec",
        "subprocess_shell",
    ),
    ("sendfile", "SendfileLoop"): (
        "_copy",
        "_sendfile_fallback",
        "_sendfile_native",
        "_sock_sendfile_fallback",
        "_sock_sendfile_native",
        "sendfile",
        "sock_sendfile",
    ),
    ("tls", "TLSLoop"): ("start_tls",),
}


class _Later:
    """A method of Loop's whose class is to be imported when somebody asks for it."""

    def __init__(self, module: str, home: str, name: str) -> None:
        self._home = module, home
        self._name = name

    def __get__(self, loop: Loop | None, cls: type) -> Any:
        _move_in(*self._home)
        return vars(Loop)[self._name].__get__(loop, cls)


def _move_in(module: str, home: str) -> None:
    """Give Loop the methods of that class; what somebody has put there stays."""
    from importlib import import_module

    source = getattr(import_module(f".{module}", __package__), home)
    _name_as_asyncio(source)
    for name, value in vars(source).items():
        if isinstance(vars(Loop).get(name), _Later):
            setattr(Loop, name, value)


for (_module, _home), _names in _LATER.items():
    for _name in _names:
        setattr(Loop, _name, _Later(_module, _home, _name))


def new_event_loop() -> Loop:
    """A new loop; made to be given as a loop_factory."""
    return Loop()
