"""What the tests of the Python half share: running a coroutine, counting
descriptors, protocols that remember, scripts in a fresh interpreter."""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

import limits
import uvtulip
from network import has_ipv6 as has_ipv6

T = TypeVar("T")
LIMIT = limits.WAIT


def run(main: Coroutine[Any, Any, T], *, debug: bool | None = None) -> T:
    """Run it on a new loop; errors that nobody caught fail the test."""
    unhandled: list[dict[str, Any]] = []

    async def limited() -> T:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: unhandled.append(context))
        async with asyncio.timeout(LIMIT):
            return await main

    factory = uvtulip.new_event_loop
    with asyncio.Runner(loop_factory=factory, debug=debug) as runner:
        result = runner.run(limited())
    assert unhandled == []
    return result


# libuv keeps a pipe for signals from its first loop to the end of the process.
uvtulip.new_event_loop().close()


def open_descriptors() -> set[int]:
    return {int(name) for name in os.listdir("/proc/self/fd")}


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition: Any) -> None:
    """Wait until condition() is true."""
    while not condition():
        await asyncio.sleep(0.001)


class Recorder(asyncio.Protocol):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.data = bytearray()
        self.eof = False
        self.lost = False
        self.error: BaseException | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert self.transport is None
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data

    def eof_received(self) -> None:
        self.eof = True

    def connection_lost(self, exc: BaseException | None) -> None:
        assert not self.lost
        self.lost = True
        self.error = exc


class Echo(Recorder):
    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as sock:
        sock.bind((host, 0))
        return int(sock.getsockname()[1])


@contextlib.contextmanager
def refusing_port() -> Iterator[int]:
    """A port of every address where connecting is refused: nobody listens, and as it
    is bound nobody else gets it meanwhile, nor is it connected to itself."""
    with socket.socket(socket.AF_INET6 if has_ipv6() else socket.AF_INET) as sock:
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(("", 0))
        yield int(sock.getsockname()[1])


def script(
    source: str, *options: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run Python source in a fresh interpreter; it has to end by itself."""
    return subprocess.run(
        [sys.executable, *options, "-c", textwrap.dedent(source)],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        env={**os.environ, **(env or {})},
    )


def check_script(source: str, *options: str, env: dict[str, str] | None = None) -> str:
    """script() that has to succeed silently on stderr; its output."""
    done = script(source, *options, env=env)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout
