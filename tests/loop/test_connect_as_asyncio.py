"""create_connection() and sock_connect() fail and choose as they do on asyncio's own
loop: each case runs on both, and the outcomes have to be the same."""

import asyncio
import contextlib
import re
import socket
import sys

import pytest

import uvtulip
from aiosupport import LIMIT, has_ipv6, refusing_port

STREAM = socket.SOCK_STREAM
# Nobody has a route to this one.
UNREACHABLE = "192.0.2.1" if sys.platform != "linux" else "255.255.255.255"


def info(host, port, family=socket.AF_INET):
    address = (host, port) if family == socket.AF_INET else (host, port, 0, 0)
    return family, STREAM, socket.IPPROTO_TCP, "", address


def flat(exc):
    """What a program can tell apart."""
    if isinstance(exc, BaseExceptionGroup):
        return type(exc), exc.message, [flat(inner) for inner in exc.exceptions]
    # Until Python 3.12 the text for bind() has no number.
    text = re.sub(r"\[errno \d+\] ", "", str(exc))
    return type(exc), getattr(exc, "errno", None), text


def on_both(main, infos=None):
    """The outcomes of main(loop) on asyncio and on uvtulip; `infos` are what any
    name has as addresses."""
    outcomes = []

    async def getaddrinfo(host, port, **kwargs):
        found = infos(host) if callable(infos) else infos
        if isinstance(found, Exception):
            raise found
        return list(found)

    async def limited():
        loop = asyncio.get_running_loop()
        if infos is not None:
            loop.getaddrinfo = getaddrinfo
        async with asyncio.timeout(LIMIT):
            return await main(loop)

    for factory in (asyncio.SelectorEventLoop, uvtulip.new_event_loop):
        with asyncio.Runner(loop_factory=factory) as runner:
            try:
                outcomes.append(runner.run(limited()))
            except Exception as exc:
                outcomes.append(flat(exc))
    return outcomes


def check(main, infos=None):
    theirs, ours = on_both(main, infos)
    assert ours == theirs
    return ours


@pytest.fixture
def ports():
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(refusing_port()) for _ in range(3)]


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock.getsockname()


async def connect(loop, *args, **kwargs):
    """Which address it was."""
    transport, _ = await loop.create_connection(asyncio.Protocol, *args, **kwargs)
    name = transport.get_extra_info("peername")
    transport.abort()
    await asyncio.sleep(0)
    return name


DELAYS = pytest.mark.parametrize("delay", [None, 0, 0.01])
# all_errors came with Python 3.12.
ALL = pytest.mark.parametrize(
    "errors",
    [{}, {"all_errors": True}] if sys.version_info >= (3, 12) else [{}],
    ids=str,
)


@DELAYS
@ALL
@pytest.mark.parametrize("count", [1, 2, 3])
def test_refused(ports, delay, errors, count):
    check(
        lambda loop: connect(
            loop, "name", 1, happy_eyeballs_delay=delay, **errors
        ),
        [info("127.0.0.1", port) for port in ports[:count]],
    )


@DELAYS
@ALL
def test_the_same_error_twice(ports, delay, errors):
    check(
        lambda loop: connect(
            loop, "name", 1, happy_eyeballs_delay=delay, **errors
        ),
        [info("127.0.0.1", ports[0])] * 2,
    )


@ALL
def test_unreachable_at_once(ports, errors):
    """The kernel refuses without an attempt."""
    outcome = check(
        lambda loop: connect(loop, "name", 1, **errors),
        [info(UNREACHABLE, 1), info("127.0.0.1", ports[0])],
    )
    assert "Errno 1" in str(outcome)
    check(lambda loop: connect(loop, UNREACHABLE, 1, **errors))


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")
def test_ipv6_without_a_zone(ports):
    """The kernel wants to know which interface."""
    check(
        lambda loop: connect(loop, "name", 1),
        [info("fe80::1", 1, socket.AF_INET6), info("127.0.0.1", ports[0])],
    )


@ALL
def test_a_family_that_is_none(ports, errors):
    check(
        lambda loop: connect(loop, "name", 1, **errors),
        [(12345, STREAM, 0, "", ("127.0.0.1", 1)), info("127.0.0.1", ports[0])],
    )


@DELAYS
def test_goes_on_to_the_next(listener, ports, delay):
    outcome = check(
        lambda loop: connect(loop, "name", 1, happy_eyeballs_delay=delay),
        [info("127.0.0.1", ports[0]), info(*listener)],
    )
    assert outcome == listener


def test_no_addresses():
    check(lambda loop: connect(loop, "name", 1), [])
    check(lambda loop: connect(loop, "name", 1, happy_eyeballs_delay=1), [])
    check(
        lambda loop: connect(loop, "127.0.0.1", 1, local_addr=("name", 0)),
        lambda host: [],
    )


def test_errors_of_the_lookup():
    error = socket.gaierror(socket.EAI_NONAME, "no such name")
    check(lambda loop: connect(loop, "name", 1), error)
    check(lambda loop: connect(loop, "127.0.0.1", 1, local_addr=("name", 0)), error)
    check(lambda loop: connect(loop, "127.0.0.1", 1, family=socket.AF_INET6))
    check(lambda loop: connect(loop, "127.0.0.1", "no-such-service"))
    check(lambda loop: connect(loop, "::1", 1, family=socket.AF_INET))


# ---- local addresses ----


# Not ours, taken, of another family, wrong and good.
FOREIGN = info("192.0.2.7", 0)
OTHER_FAMILY = info("::1", 0, socket.AF_INET6)
GOOD = info("127.0.0.1", 0)


@ALL
@DELAYS
@pytest.mark.parametrize(
    "local",
    [
        [FOREIGN],
        [FOREIGN, FOREIGN],
        [OTHER_FAMILY],
        [OTHER_FAMILY, FOREIGN],
        [FOREIGN, GOOD],
        [GOOD],
        [OTHER_FAMILY, GOOD, FOREIGN],
    ],
)
def test_local_addresses(listener, ports, local, delay, errors):
    def infos(host):
        return {
            "local": local,
            "good": [info(*listener)],
            "bad": [info("127.0.0.1", port) for port in ports[:2]],
        }[host]

    for host in ("good", "bad"):
        check(
            lambda loop, host=host: connect(
                loop,
                host,
                1,
                local_addr=("local", 0),
                happy_eyeballs_delay=delay,
                **errors,
            ),
            infos,
        )


def test_a_local_address_that_is_taken(listener):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        check(
            lambda loop: connect(loop, *listener, local_addr=taken.getsockname()),
        )


# ---- the order of addresses ----


def addresses(pattern):
    return [
        info(f"::{i}", i, socket.AF_INET6)
        if letter == "6"
        else info(f"0.0.0.{i}", i, socket.AF_INET)
        for i, letter in enumerate(pattern)
    ]


@pytest.mark.parametrize("first", [1, 2, 3, 10, 0, -1, -5])
@pytest.mark.parametrize("pattern", ["4", "444", "446", "6446", "64466444", "46464646"])
def test_interleave(pattern, first):
    from asyncio import base_events

    from uvtulip.resolve import interleaved

    infos = addresses(pattern)
    if first:
        wanted = base_events._interleave_addrinfos(list(infos), first)
        assert interleaved(list(infos), first) == wanted
    assert infos == addresses(pattern)


# ---- sock_connect() ----


def sock_connect(address, **kwargs):
    async def main(loop):
        with socket.socket(**kwargs) as sock:
            sock.setblocking(False)
            await loop.sock_connect(sock, address)
            return sock.getpeername()

    return main


def test_sockets(listener, ports, tmp_path):
    check(sock_connect(listener))
    check(sock_connect(("127.0.0.1", ports[0])))
    check(sock_connect((UNREACHABLE, 1)))
    check(sock_connect(str(tmp_path / "none"), family=socket.AF_UNIX))
    check(sock_connect("\0no such name", family=socket.AF_UNIX))
    check(sock_connect(("::1", ports[0])))
    check(sock_connect(("127.0.0.1", ports[0]), family=socket.AF_INET6))
    check(sock_connect(("127.0.0.1", 65536)))
    check(sock_connect(("127.0.0.1", "no-such-service")))
    check(sock_connect(("127.0.0.1", 1), type=socket.SOCK_DGRAM))


@pytest.mark.parametrize("address", ["text", (), ("127.0.0.1",), None, 7])
def test_addresses_that_are_none(address):
    theirs, ours = on_both(sock_connect(address))
    assert ours[0] == theirs[0]
