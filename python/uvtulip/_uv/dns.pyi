"""Names of hosts and services, at once or with a callback."""

from collections.abc import Callable
from typing import Any, Final, final, overload

from _typeshed import structseq

from . import Loop, Request, _Address

@final
class addrinfo(structseq[Any], tuple[int, int, int, str, Any]):
    __match_args__: Final = ("family", "socktype", "proto", "canonname", "sockaddr")
    @property
    def family(self) -> int: ...
    @property
    def socktype(self) -> int: ...
    @property
    def proto(self) -> int: ...
    @property
    def canonname(self) -> str: ...
    @property
    def sockaddr(self) -> Any: ...

@final
class nameinfo(structseq[str], tuple[str, str]):
    __match_args__: Final = ("host", "service")
    @property
    def host(self) -> str: ...
    @property
    def service(self) -> str: ...

@final
class GAIRequest(Request): ...

@final
class GNIRequest(Request): ...

@overload
def getaddrinfo(
    loop: Loop,
    host: str | bytes | None,
    port: int | str | bytes | None = None,
    family: int = 0,
    socktype: int = 0,
    protocol: int = 0,
    flags: int = 0,
    callback: None = None,
) -> list[addrinfo]: ...
@overload
def getaddrinfo(
    loop: Loop,
    host: str | bytes | None,
    port: int | str | bytes | None = None,
    family: int = 0,
    socktype: int = 0,
    protocol: int = 0,
    flags: int = 0,
    *,
    callback: Callable[[list[addrinfo] | None, int | None], object],
) -> GAIRequest: ...
@overload
def getnameinfo(
    loop: Loop, address: _Address, flags: int = 0, callback: None = None
) -> nameinfo: ...
@overload
def getnameinfo(
    loop: Loop,
    address: _Address,
    flags: int = 0,
    *,
    callback: Callable[[nameinfo | None, int | None], object],
) -> GNIRequest: ...
