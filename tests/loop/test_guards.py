"""Programs that put another class in the place of socket.socket, or a function in the
place of one of its methods: the loop goes by them as asyncio's own does."""

import asyncio
import contextlib
import os
import socket
import sys
from typing import ClassVar
from unittest import mock

import pytest

import uvtulip
from aiosupport import LIMIT, Echo, Recorder, turns
from uvtulip.guards import guarded

LOOPS = (asyncio.SelectorEventLoop, uvtulip.new_event_loop)


class Refused(RuntimeError):
    pass


def on_both(main):
    outcomes = []

    async def limited():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda *_: None)
        async with asyncio.timeout(LIMIT):
            return await main(loop)

    for factory in LOOPS:
        with asyncio.Runner(loop_factory=factory) as runner:
            outcomes.append(runner.run(limited()))
    return outcomes


def check(main):
    theirs, ours = on_both(main)
    assert ours == theirs
    return ours


class Remembering(socket.socket):
    """What is called of it; a subclass, as of pytest-socket and PySocks."""

    called: ClassVar[list[str]] = []

    def __init__(self, *args, **kwargs):
        self.called.append("__init__")
        super().__init__(*args, **kwargs)

    def setblocking(self, flag):
        self.called.append(f"setblocking {flag}")
        super().setblocking(flag)

    def bind(self, address):
        self.called.append("bind")
        return super().bind(address)

    def connect(self, address):
        self.called.append("connect")
        return super().connect(address)

    def listen(self, *args):
        self.called.append("listen")
        return super().listen(*args)

    def close(self):
        self.called.append("close")
        super().close()


def tcp(loop, address, path):
    return loop.create_connection(Recorder, *address)


def tcp_local(loop, address, path):
    return loop.create_connection(Recorder, *address, local_addr=("127.0.0.1", 0))


def tcp_eyeballs(loop, address, path):
    return loop.create_connection(Recorder, *address, happy_eyeballs_delay=1)


def unix(loop, address, path):
    return loop.create_unix_connection(Recorder, path)


def udp(loop, address, path):
    return loop.create_datagram_endpoint(Recorder, remote_addr=address)


def udp_bound(loop, address, path):
    return loop.create_datagram_endpoint(Recorder, local_addr=("127.0.0.1", 0))


def server(loop, address, path):
    return loop.create_server(Recorder, "127.0.0.1", 0)


def unix_server(loop, address, path):
    return loop.create_unix_server(Recorder, path + "-other")


def later_server(loop, address, path):
    return loop.create_server(Recorder, "127.0.0.1", 0, start_serving=False)


WAYS = [tcp, tcp_local, tcp_eyeballs, unix, udp, udp_bound, server, unix_server]


@contextlib.contextmanager
def listening(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as there:
        with socket.socket(socket.AF_UNIX) as beside:
            path = str(tmp_path / "socket")
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            beside.bind(path)
            beside.listen()
            yield there.getsockname(), path


async def end(made):
    if isinstance(made, tuple):
        made[0].abort()
    else:
        made.close()
    await turns()


@pytest.mark.parametrize("way", [*WAYS, later_server])
def test_another_class(way, tmp_path):
    async def main(loop):
        with listening(tmp_path) as (address, path):
            Remembering.called.clear()
            with mock.patch("socket.socket", Remembering):
                made = await way(loop, address, path)
                called = list(Remembering.called)
                await end(made)
        # How often it is set is of no interest, and asyncio closes later.
        kept = [name for name in called if name != "setblocking False"]
        return kept, "setblocking False" in called, "close" in Remembering.called

    called, nonblocking, closed = check(main)
    assert called[0] == "__init__" and nonblocking and closed


@pytest.mark.parametrize("method", ["__init__", "setblocking", "bind", "connect"])
@pytest.mark.parametrize("way", WAYS)
def test_a_method_that_refuses(way, method, tmp_path):
    """Nothing is set up past it."""
    if method == "setblocking" and way in (server, unix_server):
        method = "bind"  # asyncio leaves sockets open that warn.

    def refuse(self, *args, **kwargs):
        raise Refused(method)

    async def main(loop):
        with listening(tmp_path) as (address, path):
            with mock.patch.object(socket.socket, method, refuse, create=True):
                try:
                    made = await way(loop, address, path)
                except (Refused, IndexError, AttributeError, TimeoutError):
                    return "refused"  # asyncio's race has no error to raise.
            await end(made)
            return "made"

    check(main)


@pytest.mark.parametrize("way", [server, unix_server])
def test_listen_that_refuses(way, tmp_path):
    def refuse(self, *args):
        raise Refused

    async def main(loop):
        with listening(tmp_path) as (address, path):
            with mock.patch.object(socket.socket, "listen", refuse, create=True):
                with pytest.raises(Refused):
                    await way(loop, address, path)
        return True

    with asyncio.Runner(loop_factory=uvtulip.new_event_loop) as runner:
        assert runner.run(main(runner.get_loop()))
    if sys.version_info >= (3, 13):  # Before, the file stays unless asked for.
        assert not os.path.exists(tmp_path / "socket-other")


def test_a_class_that_refuses(tmp_path):
    def refuse(*args, **kwargs):
        raise Refused

    async def main(loop):
        with listening(tmp_path) as (address, path):
            got = []
            with mock.patch("socket.socket", refuse):
                for way in WAYS:
                    if way is tcp_eyeballs:
                        continue
                    with pytest.raises(Refused):
                        await way(loop, address, path)
                    got.append(way.__name__)
            return got

    check(main)


@pytest.mark.parametrize("way", [tcp, unix])
def test_data_over_another_class(way, tmp_path):
    """What comes of it is a transport like any other."""

    async def main(loop):
        path = str(tmp_path / "echo")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        with mock.patch("socket.socket", Remembering):
            first = await loop.create_server(Echo, "127.0.0.1", 0)
            second = await loop.create_unix_server(Echo, path)
            address = first.sockets[0].getsockname()
            transport, protocol = await way(loop, address, path)
        transport.write(b"x" * 100_000)
        while len(protocol.data) < 100_000:
            await asyncio.sleep(0.001)
        sock = transport.get_extra_info("socket")
        family = sock.family
        transport.close()
        first.close()
        second.close()
        for _ in range(5):
            await asyncio.sleep(0.001)
        return bytes(protocol.data), protocol.lost, family

    check(main)


def test_nothing_is_left_open(tmp_path, no_leak):
    async def main():
        loop = asyncio.get_running_loop()
        with listening(tmp_path) as (address, path):
            for way in WAYS:
                with mock.patch("socket.socket", Remembering):
                    await end(await way(loop, address, path))
                with mock.patch("socket.socket", Remembering):
                    task = asyncio.ensure_future(way(loop, address, path))
                    await asyncio.sleep(0)
                    task.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await end(await task)
                await turns(10)

    with asyncio.Runner(loop_factory=uvtulip.new_event_loop) as runner:
        runner.run(main())


def test_what_is_a_guard():
    assert not guarded()
    with mock.patch("socket.socket", Remembering):
        assert guarded()
    for name in ("connect", "bind", "setblocking", "close", "__init__", "listen"):
        with mock.patch.object(socket.socket, name, lambda *_: None, create=True):
            assert guarded(), name
        assert not guarded()
    with mock.patch("socket.socket"):
        assert guarded()
    assert not guarded()
