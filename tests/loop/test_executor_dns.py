"""run_in_executor(), its executor's end, getaddrinfo() and getnameinfo()."""

import asyncio
import itertools
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

import uvtulip
from aiosupport import run, turns
from uvtulip import resolve


def test_runs_in_a_thread():
    async def main():
        loop = asyncio.get_running_loop()
        result = await loop.run_in_executor(
            None, lambda a: (a, threading.get_ident()), 7
        )
        assert result[0] == 7
        assert result[1] != threading.get_ident()
        with pytest.raises(ZeroDivisionError):
            await loop.run_in_executor(None, lambda: 1 // 0)

    run(main())


def test_given_executor():
    async def main():
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, thread_name_prefix="mine") as executor:
            name = await loop.run_in_executor(
                executor, lambda: threading.current_thread().name
            )
        assert name.startswith("mine")

    run(main())


def test_default_executor():
    async def main():
        loop = asyncio.get_running_loop()
        with pytest.raises(TypeError, match="executor must be ThreadPoolExecutor"):
            loop.set_default_executor(object())
        executor = ThreadPoolExecutor(1, thread_name_prefix="chosen")
        loop.set_default_executor(executor)
        name = await asyncio.to_thread(lambda: threading.current_thread().name)
        assert name.startswith("chosen")

    run(main())


def test_many_at_once():
    async def main():
        results = await asyncio.gather(
            *(asyncio.to_thread(lambda n=n: n * n) for n in range(200))
        )
        assert results == [n * n for n in range(200)]

    run(main())


def test_cancelled_future_drops_the_result():
    async def main():
        loop = asyncio.get_running_loop()
        release = threading.Event()
        future = loop.run_in_executor(None, release.wait)
        await turns()
        future.cancel()
        with pytest.raises(asyncio.CancelledError):
            await future
        release.set()

    run(main())


def test_debug_mode_refuses_coroutines():
    async def main():
        loop = asyncio.get_running_loop()

        async def coroutine():
            raise AssertionError("never run")

        with pytest.raises(TypeError, match="coroutines cannot be used"):
            loop.run_in_executor(None, coroutine)
        with pytest.raises(TypeError, match="a callable object was expected by run_in"):
            loop.run_in_executor(None, 1)

    run(main(), debug=True)


def test_after_shutdown():
    async def main():
        loop = asyncio.get_running_loop()
        await asyncio.to_thread(int)
        await loop.shutdown_default_executor()
        with pytest.raises(RuntimeError, match="Executor shutdown has been called"):
            loop.run_in_executor(None, int)

    run(main())


def test_shutdown_waits_for_the_threads():
    async def main():
        loop = asyncio.get_running_loop()
        done = []
        future = loop.run_in_executor(None, lambda: (time.sleep(0.1), done.append(1)))
        await loop.shutdown_default_executor()
        assert done == [1]
        await future

    run(main())


def test_shutdown_without_an_executor():
    async def main():
        await asyncio.get_running_loop().shutdown_default_executor()

    run(main())


def test_shutdown_gives_up():
    async def main():
        loop = asyncio.get_running_loop()
        release = threading.Event()
        future = loop.run_in_executor(None, release.wait)
        with pytest.warns(RuntimeWarning, match="did not finishing joining"):
            await loop.shutdown_default_executor(timeout=0.05)
        release.set()
        await future

    run(main())


def test_close_does_not_wait():
    loop = uvtulip.new_event_loop()
    release = threading.Event()
    future = loop.run_in_executor(None, release.wait)
    loop.close()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        loop.run_in_executor(None, int)
    release.set()
    del future


# ---- names ----


FAMILIES = [socket.AF_UNSPEC, socket.AF_INET, socket.AF_INET6, socket.AF_UNIX]
HOSTS = [
    None,
    "",
    "127.0.0.1",
    b"127.0.0.1",
    "::1",
    "fe80::1%lo",
    "fe80::1%nosuchif",
    "0x7f.1",
    "127.1",
    "010.0.0.1",
    "1.2.3.4.",
    "256.1.1.1",
    "1.2.3",
    " 127.0.0.1",
    "127.0.0.1 ",
    "127.0.0.1%lo",
    "0:0:0:0:0:0:0:1",
    "FE80::ABCD",
    "::ffff:1.2.3.4",
    "::1%0",
    "[::1]",
    "\u0661.2.3.4",
]
PORTS = [None, 0, 80, "80", b"80", "", 65535, 65536, -1, "080", "+80", " 80", "99999"]
PORTS += ["http", b"http", "no-such-service", True, 80.0, 1 << 40, "80\0", "\u0668"]


def asks_a_server(host, flags):
    """Whether a name server would be asked; there may be none."""
    if flags & socket.AI_NUMERICHOST or host in (None, ""):
        return False
    try:
        socket.getaddrinfo(host, None, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        return True
    return False


@pytest.mark.parametrize("kind", [0, socket.SOCK_STREAM, socket.SOCK_DGRAM, 3, 99])
@pytest.mark.parametrize("host", HOSTS)
def test_same_answer_as_the_socket_module(host, kind):
    async def main():
        flags = [0, socket.AI_PASSIVE, socket.AI_NUMERICHOST, socket.AI_CANONNAME]
        flags += [socket.AI_NUMERICSERV, socket.AI_ADDRCONFIG]
        for port in PORTS:
            # Where each combination would have to open /etc/services.
            few = not isinstance(port, int) and port is not None
            for combination in itertools.product(
                [socket.AF_UNSPEC] if few else FAMILIES,
                [port],
                flags[:2] if few else flags,
                [0] if few else [0, 6, 17],
            ):
                if not asks_a_server(host, combination[2]):
                    await compare(host, kind, *combination)

    run(main())


NAMES = ["localhost", b"localhost", "LOCALHOST", "localhost.", "loc\u0430lhost"]
NAMES += ["a..b", ".a", "x" * 64, "x." * 200, "a\0b", b"a\0b", "\udc80", 7, b"\xff"]


@pytest.mark.parametrize("host", NAMES)
def test_same_answer_for_a_name(host):
    """With AI_NUMERICHOST nobody is asked, and the name is checked all the same."""
    flags = [socket.AI_NUMERICHOST]
    if isinstance(host, (str, bytes)) and host[:5].lower() in ("local", b"local"):
        flags += [0, socket.AI_CANONNAME, socket.AI_PASSIVE]

    async def main():
        for kind, port, flag in itertools.product(
            [0, socket.SOCK_STREAM], [80, "http", 65536], flags
        ):
            await compare(host, kind, socket.AF_INET, port, flag, 0)

    run(main())


async def compare(host, kind, family, port, flags, proto):
    loop = asyncio.get_running_loop()
    args = host, port, family, kind, proto, flags
    try:
        got = await loop.getaddrinfo(
            host, port, family=family, type=kind, proto=proto, flags=flags
        )
    except Exception as exc:
        got = type(exc), str(exc)
    assert got == outcome(partial(socket.getaddrinfo, *args)), args


def outcome(call):
    try:
        return call()
    except Exception as exc:
        return type(exc), str(exc)


@pytest.mark.parametrize("family", [0, socket.AF_INET, socket.AF_INET6])
@pytest.mark.parametrize("host", ["127.0.0.1", b"127.0.0.1", "::1", "::ffff:1.2.3.4"])
def test_a_literal_is_what_getaddrinfo_makes_of_it(host, family):
    for kind, proto, port in itertools.product(
        (socket.SOCK_STREAM, socket.SOCK_DGRAM),
        (0, socket.IPPROTO_TCP, socket.IPPROTO_UDP),
        (None, 0, 80, "80", b"80"),
    ):
        info = resolve.literal_info(host, port, family, kind, proto)
        want = outcome(partial(socket.getaddrinfo, host, port, family, kind))
        if info is not None:
            assert [info[:3] + info[4:]] == [i[:3] + i[4:] for i in want]


@pytest.mark.parametrize("host", ["name", "fe80::1%lo", "1.2.3", "", None, "a\0b"])
def test_what_is_no_literal(host):
    assert resolve.literal_info(host, 80, 0, socket.SOCK_STREAM, 0) is None
    assert resolve.literal_info("::1", "http", 0, socket.SOCK_STREAM, 0) is None
    assert resolve.literal_info("::1", 1, 0, socket.SOCK_RAW, 0) is None


def test_who_needs_no_lookup():
    for host in (None, "::1", b"::1", "fe80::1%lo", "10.0.0.1"):
        assert resolve.needs_no_lookup(host, 80)
        assert resolve.needs_no_lookup(host, "80")
        assert not resolve.needs_no_lookup(host, "http")
    for host in ("", "name", "127.0.0.1%lo", "\xe9", b"\xe9", 7, "a\0b"):
        assert not resolve.needs_no_lookup(host, 80)


def test_lookups_start_no_thread_of_python():
    async def main():
        loop = asyncio.get_running_loop()
        before = threading.active_count()
        for host in ("127.0.0.1", "::1", "fe80::1%lo", None):
            await loop.getaddrinfo(host, 80)
        numeric = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
        assert await loop.getnameinfo(("127.0.0.1", 80), numeric) == ("127.0.0.1", "80")
        assert threading.active_count() == before
        await loop.getaddrinfo("localhost", 80)
        assert threading.active_count() == before

    run(main(), debug=False)


@pytest.mark.parametrize("flags", [0, socket.NI_NUMERICHOST, socket.NI_NUMERICSERV, 3])
@pytest.mark.parametrize(
    "address",
    [("127.0.0.1", 80), ("::1", 80, 0, 0), ("fe80::1%lo", 80), ("name", 1), (), None],
)
def test_getnameinfo(address, flags):
    async def main():
        loop = asyncio.get_running_loop()
        try:
            got = await loop.getnameinfo(address, flags)
        except Exception as exc:
            got = type(exc), str(exc)
        assert got == outcome(lambda: socket.getnameinfo(address, flags))

    run(main())


def test_debug_mode_logs_lookups(caplog):
    async def main():
        loop = asyncio.get_running_loop()
        loop.slow_callback_duration = 0.0
        await loop.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)

    with caplog.at_level("DEBUG", "asyncio"):
        run(main(), debug=True)
    lines = [record.getMessage() for record in caplog.records]
    assert f"Get address info 127.0.0.1:80, type={socket.SOCK_STREAM!r}" in lines
    assert any("took" in line for line in lines)
