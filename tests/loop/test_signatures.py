"""Whatever asyncio's own loop, server and transports can be called with on this
Python, ours can be called with too.

A keyword that a new Python brings is a failure here until it is there: one of ours
may take more than asyncio's, never less.  The signatures are asyncio's own; that a
keyword also does something is for the tests of the method.
"""

import asyncio
import contextvars
import inspect
from asyncio import base_events, selector_events, unix_events
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import uvtulip
from aiosupport import run, turns
from streamsupport import tcp_pair
from uvtulip._transports import (
    DatagramTransport,
    Handle,
    ReadPipeTransport,
    SSLTransport,
    StreamTransport,
    TimerHandle,
    WritePipeTransport,
)
from uvtulip.subprocesses import SubprocessTransport

Parameter = inspect.Parameter

# Where asyncio's loop calls a parameter something else than its documentation does.
DOCUMENTED = {"sock_recv": {"n": "nbytes"}}

PAIRS: list[tuple[type, type]] = [
    # Not AbstractEventLoop: asyncio's own loop does not do as it says.
    (asyncio.SelectorEventLoop, uvtulip.Loop),
    (base_events.Server, uvtulip.Server),
    (asyncio.Handle, Handle),
    (asyncio.TimerHandle, TimerHandle),
    (asyncio.Transport, StreamTransport),
    (selector_events._SelectorSocketTransport, StreamTransport),
    (unix_events._UnixReadPipeTransport, ReadPipeTransport),
    (asyncio.WriteTransport, WritePipeTransport),
    (asyncio.Transport, SSLTransport),
    (asyncio.DatagramTransport, DatagramTransport),
    (selector_events._SelectorDatagramTransport, DatagramTransport),
    (asyncio.SubprocessTransport, SubprocessTransport),
    (unix_events._DefaultEventLoopPolicy, uvtulip.EventLoopPolicy)
    if hasattr(unix_events, "_DefaultEventLoopPolicy")
    else (asyncio.DefaultEventLoopPolicy, uvtulip.EventLoopPolicy),
]


def methods(cls: type) -> Iterator[tuple[str, Callable[..., Any]]]:
    for name in dir(cls):
        value = getattr(cls, name)
        if not name.startswith("_") and callable(value):
            yield name, value


ROWS = [
    pytest.param(
        theirs, ours, name, id=f"{theirs.__name__}.{name}-{ours.__name__}"
    )
    for theirs, ours in PAIRS
    for name, _ in methods(theirs)
]


def complaint(theirs: inspect.Signature, ours: inspect.Signature) -> str:
    """What a call by the first signature may not find in the second; "": nothing."""
    left = dict(ours.parameters)
    takes_any = any(p.kind is Parameter.VAR_KEYWORD for p in left.values())
    position = list(left)
    for index, (name, wanted) in enumerate(theirs.parameters.items()):
        if wanted.kind is Parameter.KEYWORD_ONLY and name not in left and takes_any:
            continue
        found = left.pop(name, None)
        if found is None:
            return f"no parameter {name!r}"
        if name == "self":
            continue  # By position only where it is C.
        if found.kind is not wanted.kind:
            return f"{name!r} is {found.kind.description}"
        if found.default != wanted.default:
            return f"{name!r} is {found.default!r} by default, not {wanted.default!r}"
        if (
            wanted.kind is Parameter.POSITIONAL_OR_KEYWORD
            and position.index(name) != index
        ):
            return f"{name!r} stands elsewhere"
    for name, more in left.items():
        if more.default is Parameter.empty and more.kind not in (
            Parameter.VAR_KEYWORD,
            Parameter.VAR_POSITIONAL,
        ):
            return f"{name!r} is asked for"
    return ""


@pytest.mark.parametrize(("theirs", "ours", "name"), ROWS)
def test_same_signature(theirs: type, ours: type, name: str) -> None:
    wanted = inspect.signature(getattr(theirs, name))
    renamed = DOCUMENTED.get(name, {})
    wanted = wanted.replace(
        parameters=[
            p.replace(name=renamed.get(p.name, p.name))
            for p in wanted.parameters.values()
        ]
    )
    found = inspect.signature(getattr(ours, name))
    assert complaint(wanted, found) == "", f"{wanted} is not {found}"


@pytest.mark.parametrize(("theirs", "ours", "name"), ROWS)
def test_coroutine_where_asyncio_has_one(theirs: type, ours: type, name: str) -> None:
    method = getattr(theirs, name)
    assert inspect.iscoroutinefunction(method) == inspect.iscoroutinefunction(
        getattr(ours, name)
    )


def test_the_comparison_finds_what_is_missing() -> None:
    def wanted(a, b=1, *args, c=None, d=2, **more): ...

    def fewer(a, b=1, *args, c=None, **more): ...
    def other(a, b=2, *args, c=None, d=2, **more): ...
    def swapped(b=1, a=0, *args, c=None, d=2, **more): ...
    def closed(a, b=1, *args, c=None, d=2): ...
    def greedy(a, b=1, *args, c=None, d=2, e, **more): ...

    signature = inspect.signature
    assert complaint(signature(wanted), signature(wanted)) == ""
    assert complaint(signature(wanted), signature(fewer)) == ""
    for function in (other, swapped, closed, greedy):
        assert complaint(signature(wanted), signature(function))
    assert complaint(signature(closed), signature(lambda a, b=1, *args, c=None: 0))


# ---- arguments by name where the method is written in C ----


def test_callbacks_by_keyword() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        seen: list[str] = []
        context = contextvars.copy_context()
        loop.call_soon(callback=lambda: seen.append("soon"), context=context)
        loop.call_soon_threadsafe(callback=lambda: seen.append("threadsafe"))
        loop.call_later(0, callback=lambda: seen.append("later"))
        loop.call_at(when=0, callback=lambda: seen.append("at"))
        await asyncio.sleep(0.01)
        assert sorted(seen) == ["at", "later", "soon", "threadsafe"]

    run(main())


def test_readers_and_transports_by_keyword() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = tcp_pair()
        transport, protocol = await loop.connect_accepted_socket(
            protocol_factory=asyncio.Protocol, sock=ours
        )
        readable = loop.create_future()
        loop.add_reader(
            fd=theirs, callback=lambda: readable.done() or readable.set_result(None)
        )
        loop.add_writer(theirs, callback=lambda: None)
        transport.write(data=b"a")
        transport.writelines(list_of_data=[b"b", b"c"])
        await readable
        assert loop.remove_reader(fd=theirs) and loop.remove_writer(fd=theirs)
        await turns()
        assert theirs.recv(10) == b"abc"
        other = asyncio.Protocol()
        transport.set_protocol(protocol=other)
        assert transport.get_protocol() is other
        transport.close()
        theirs.close()
        await turns()

    run(main())


def test_task_factory_by_keyword() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(factory=asyncio.Task)
        loop.set_task_factory(factory=None)
        assert loop.get_task_factory() is None

    run(main())


@pytest.mark.parametrize(
    ("name", "args", "kwargs", "message"),
    [
        ("call_soon", (), {}, "missing required argument: 'callback'"),
        ("call_soon", (print,), {"callback": print}, "multiple values"),
        ("call_soon", (print,), {"delay": 1}, "unexpected keyword argument 'delay'"),
        ("call_later", (), {"callback": print}, "missing required argument: 'delay'"),
        ("add_reader", (0,), {}, "missing required argument: 'callback'"),
        ("add_reader", (), {"callback": print}, "missing required argument: 'fd'"),
        ("remove_reader", (), {}, "exactly one argument"),
        ("remove_writer", (0,), {"fd": 0}, "exactly one argument"),
        ("remove_writer", (), {"file": 0}, "unexpected keyword argument 'file'"),
        ("set_task_factory", (), {"f": None}, "unexpected keyword argument 'f'"),
    ],
)
def test_wrong_arguments(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any], message: str
) -> None:
    loop = uvtulip.new_event_loop()
    with pytest.raises(TypeError, match=message):
        getattr(loop, name)(*args, **kwargs)
    loop.close()
