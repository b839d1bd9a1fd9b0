"""Names, addresses and the thread pool that looks them up.

Results are those of the socket module, since it is what answers; but a numeric
host needs no name server and so no thread.  Everything here runs on the loop's
thread, except what is handed to the executor, which the loop owns once it has
made or been given it.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import warnings
from asyncio.log import logger

from .core import CoreLoop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from concurrent.futures import Executor, ThreadPoolExecutor
    from typing import Any, TypeVar, TypeVarTuple, Unpack

    _T = TypeVar("_T")
    _Ts = TypeVarTuple("_Ts")
    _Host = bytes | str | None
    _Port = bytes | str | int | None
    _SockAddr = tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]
    # family, type, protocol, canonical name, address
    _AddrInfo = tuple[int, int, int, str, _SockAddr]

# To notice that a program has put another function in its place.
_getaddrinfo = socket.getaddrinfo

_STREAM_PROTOCOLS = (0, socket.IPPROTO_TCP, socket.IPPROTO_UDP)


def _family_of(host: str) -> int:
    """The family of a numeric host without a zone; 0: it is a name."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except (OSError, ValueError):  # ValueError: a NUL in it
            continue
        return family
    return 0


def numeric_port(port: _Port) -> int | None:
    """The port as a number, 0 for none; None for a service name."""
    if port is None or port == "" or port == b"":
        return 0
    try:
        return int(port)
    except (TypeError, ValueError):
        return None


def needs_no_lookup(host: _Host, port: _Port) -> bool:
    """Whether getaddrinfo() will answer without asking anybody."""
    if numeric_port(port) is None:
        return False
    if host is None:
        return True
    if isinstance(host, bytes):
        try:
            host = host.decode("ascii")
        except UnicodeDecodeError:
            return False
    if not isinstance(host, str):
        return False
    literal, zone, _ = host.partition("%")
    family = _family_of(literal)
    return family == socket.AF_INET6 or (family == socket.AF_INET and not zone)


def literal_info(
    host: _Host,
    port: _Port,
    family: int,
    kind: int,
    proto: int,
    flowinfo: int = 0,
    scope_id: int = 0,
) -> _AddrInfo | None:
    """What getaddrinfo() says of a numeric host, without calling it.

    None when it has to be called: for names, for zones ("fe80::1%eth0"), for
    service names, or when host and family do not fit.
    """
    number = numeric_port(port)
    if not isinstance(host, (str, bytes)) or number is None:
        return None
    if proto not in _STREAM_PROTOCOLS:
        return None
    if kind == socket.SOCK_STREAM:
        proto = socket.IPPROTO_TCP
    elif kind == socket.SOCK_DGRAM:
        proto = socket.IPPROTO_UDP
    else:
        return None
    name = host.decode("idna") if isinstance(host, bytes) else host
    found = _family_of(name)
    if not found or family not in (found, socket.AF_UNSPEC):
        return None
    if found == socket.AF_INET6:
        return found, kind, proto, "", (name, number, flowinfo, scope_id)
    return found, kind, proto, "", (name, number)


def lacks_zone(address: _SockAddr) -> bool:
    """Whether an IPv6 address is one of an interface that it does not name."""
    host = address[0]
    return (
        isinstance(host, str)
        and host[:3].lower() in ("fe8", "fe9", "fea", "feb")
        and host[4:5] == ":"
        and "%" not in host
        and not any(address[3:])
    )


def interleaved(infos: Iterable[_AddrInfo], first: int) -> list[_AddrInfo]:
    """Take the families in turn, after `first` addresses of the first one."""
    queues: dict[int, list[_AddrInfo]] = {}
    for info in infos:
        queues.setdefault(info[0], []).append(info)
    lists = list(queues.values())
    before = max(first - 1, 0)
    result = lists[0][:before]
    del lists[0][:before]
    while any(lists):
        result += [queue.pop(0) for queue in lists if queue]
    return result


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class ResolvingLoop(CoreLoop):
    """The executor and name resolution."""

    def run_in_executor(
        self,
        executor: Executor | None,
        func: Callable[[Unpack[_Ts]], _T],
        *args: *_Ts,
    ) -> asyncio.Future[_T]:
        """Call func(*args) in a thread; return a future of its result."""
        self._check_closed()
        if self.get_debug():
            self._check_callable(func, "run_in_executor")
        if executor is None:
            if self._executor_shutdown_called:
                raise RuntimeError("Executor shutdown has been called")
            executor = self._default_executor
            if executor is None:
                from concurrent.futures import ThreadPoolExecutor

                executor = ThreadPoolExecutor(thread_name_prefix="asyncio")
                self._default_executor = executor
        return asyncio.wrap_future(executor.submit(func, *args), loop=self)

    def set_default_executor(
        self,
        executor: ThreadPoolExecutor,  # type: ignore[override]
    ) -> None:
        """Use this thread pool in run_in_executor(None, ...)."""
        from concurrent.futures import ThreadPoolExecutor

        if not isinstance(executor, ThreadPoolExecutor):
            raise TypeError("executor must be ThreadPoolExecutor instance")
        self._default_executor = executor
        self._executor_given = True

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Wait until the default executor's threads have ended.

        After `timeout` seconds: a RuntimeWarning, and no more waiting.
        """
        self._executor_shutdown_called = True
        executor = self._default_executor
        if executor is None:
            return
        ended = self.create_future()
        thread = threading.Thread(target=self._end_executor, args=(executor, ended))
        thread.start()
        try:
            async with asyncio.timeout(timeout):
                await ended
        except TimeoutError:
            warnings.warn(
                f"The executor did not finishing joining its threads within "
                f"{timeout} seconds.",
                RuntimeWarning,
                stacklevel=2,
            )
            executor.shutdown(wait=False)
        else:
            thread.join()

    def _end_executor(
        self, executor: ThreadPoolExecutor, ended: asyncio.Future[None]
    ) -> None:
        # In a thread of its own, which may outlive the loop.
        try:
            executor.shutdown(wait=True)
        except Exception as exc:
            if not self.is_closed() and not ended.cancelled():
                self.call_soon_threadsafe(ended.set_exception, exc)
        else:
            if not self.is_closed():
                self.call_soon_threadsafe(_settle, ended)

    async def getaddrinfo(
        self,
        host: _Host,
        port: _Port,
        *,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> list[Any]:
        """socket.getaddrinfo(), in a thread when somebody has to be asked.

        Cancelling returns at once; the answer is then dropped.
        """
        if socket.getaddrinfo is not _getaddrinfo or self._debug:
            query = self._getaddrinfo_debug if self._debug else socket.getaddrinfo
            return await self.run_in_executor(
                None, query, host, port, family, type, proto, flags
            )
        infos = self._literal_addrinfo(host, port, family, type, proto, flags)
        if infos is not None:
            return infos
        if needs_no_lookup(host, port):
            return _getaddrinfo(host, port, family, type, proto, flags)
        if not self._executor_is_theirs():
            answer = self._lookup(host, port, family, type, proto, flags)
            if answer is not None:
                try:
                    return await answer
                finally:
                    if answer.cancelled():
                        self._forget_lookup(answer)
                    del answer  # It has the exception, and that this frame.
        return await self.run_in_executor(
            None, _getaddrinfo, host, port, family, type, proto, flags
        )

    def _executor_is_theirs(self) -> bool:
        """Whether the program has said which threads are to be used."""
        if self._executor_given:
            return True
        function = getattr(self.run_in_executor, "__func__", None)
        return function is not ResolvingLoop.run_in_executor

    def _getaddrinfo_debug(
        self, host: _Host, port: _Port, family: int, type: int, proto: int, flags: int
    ) -> list[Any]:
        words = [f"{host!s}:{port!r}"]
        given = {"family": family, "type": type, "proto": proto, "flags": flags}
        words += [f"{name}={value!r}" for name, value in given.items() if value]
        what = ", ".join(words)
        logger.debug("Get address info %s", what)
        began = self.time()
        infos = socket.getaddrinfo(host, port, family, type, proto, flags)
        took = self.time() - began
        report = f"Getting address info {what} took {took * 1e3:.3f}ms: {infos!r}"
        if took >= self.slow_callback_duration:
            logger.info(report)
        else:
            logger.debug(report)
        return infos

    async def getnameinfo(
        self,
        sockaddr: tuple[str, int] | tuple[str, int, int, int],
        flags: int = 0,
    ) -> tuple[str, str]:
        """socket.getnameinfo(), in a thread unless both answers are numeric."""
        self._check_closed()
        numeric = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
        if (
            isinstance(flags, int)
            and flags & numeric == numeric
            and isinstance(sockaddr, tuple)
            and sockaddr
            and isinstance(sockaddr[0], str)
            and _family_of(sockaddr[0].partition("%")[0])
        ):
            return socket.getnameinfo(sockaddr, flags)
        return await self.run_in_executor(None, socket.getnameinfo, sockaddr, flags)

    async def _resolve(
        self,
        address: tuple[Any, ...],
        *,
        family: int = 0,
        kind: int = socket.SOCK_STREAM,
        proto: int = 0,
        flags: int = 0,
    ) -> list[_AddrInfo]:
        """The addresses behind (host, port, ...)."""
        host, port = address[:2]
        info = literal_info(host, port, family, kind, proto, *address[2:4])
        if info is not None:
            return [info]
        infos = await self.getaddrinfo(
            host, port, family=family, type=kind, proto=proto, flags=flags
        )
        if not infos:
            raise OSError("getaddrinfo() returned empty list")
        return infos
