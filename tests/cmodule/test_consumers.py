"""A C consumer that gives its handle up in the middle of an event: its owner lives
until the call returns.  And one that expects no event: none is called."""

import gc
import itertools
import os
import socket

import pytest

from cmodulesupport import build
from uvtulip import uv


@pytest.fixture(scope="session")
def consumers(tmp_path_factory):
    return build("consumers", tmp_path_factory.mktemp("consumers"))


@pytest.fixture
def loop(consumers):
    consumers.events(), consumers.freed()
    loop = uv.Loop()
    yield loop
    for handle in loop.handles:
        if not handle.closed:
            handle.close()
    loop.run()
    loop.close()
    while SOCKETS:
        SOCKETS.pop().close()


SOCKETS = []  # Until the test's end.


def kept(*sockets):
    SOCKETS.extend(sockets)
    return sockets


class Case:
    """A handle, what makes it hear of something, and of what."""

    def __init__(self, handle, poke=lambda: None, events=()):
        self.handle = handle
        self.poke = poke
        self.events = events


def stream(loop):
    ours, theirs = kept(*socket.socketpair())
    handle = uv.Pipe(loop)
    handle.open(ours.detach())
    return Case(handle, lambda: theirs.send(b"data"), ("read",))


def stream_at_its_end(loop):
    case = stream(loop)
    case.poke = SOCKETS[-1].close
    case.events = ("end",)
    return case


def tcp(loop):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        (theirs,) = kept(socket.create_connection(listener.getsockname()))
        ours, _ = listener.accept()
    handle = uv.TCP(loop)
    handle.open(ours.detach())
    return Case(handle, lambda: theirs.send(b"data"), ("read",))


def listening(loop):
    handle = uv.TCP(loop)
    handle.bind(("127.0.0.1", 0))

    def connect():
        kept(socket.create_connection(handle.getsockname()))

    return Case(handle, connect, ("connection",))


def datagrams(loop, flags=0):
    handle = uv.UDP(loop, socket.AF_INET | flags)
    handle.bind(("127.0.0.1", 0))
    (peer,) = kept(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    peer.connect(handle.getsockname())

    def send():
        peer.send(b"one")
        peer.send(b"two")

    return Case(handle, send, ("datagram",))


def batches(loop):
    return datagrams(loop, uv.UV_UDP_RECVMMSG)


def timer(loop):
    return Case(uv.Timer(loop), events=("fired",))


def wakeup(loop):
    return Case(uv.Async(loop), events=("fired",))


def poll(loop):
    ours, theirs = kept(*socket.socketpair())
    handle = uv.Poll(loop, ours)
    return Case(handle, lambda: theirs.send(b"x"), ("ready",))


def poll_of_a_lost_descriptor(loop):
    ours, theirs = kept(*socket.socketpair())
    handle = uv.Poll(loop, ours)
    return Case(handle, lambda: os.close(ours.detach()), ("ready",))


KINDS = [
    stream,
    stream_at_its_end,
    tcp,
    listening,
    datagrams,
    batches,
    timer,
    wakeup,
    poll,
    poll_of_a_lost_descriptor,
]
LENDING = [stream, stream_at_its_end, tcp, datagrams, batches]


def turns(loop, count=6):
    for _ in range(count):
        loop.run(uv.UV_RUN_NOWAIT)


def hear(consumers, loop, case, how, table="plain"):
    consumers.take(case.handle, how, table)
    assert consumers.start(case.handle) == 0
    case.poke()
    turns(loop)
    return consumers.events()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["release", "close"])
def test_gives_the_handle_up_inside(consumers, loop, kind, how):
    case = kind(loop)
    seen = hear(consumers, loop, case, how)
    for event in case.events:
        assert seen.pop(event) == 1
    assert seen == ({"closed": 1} if how == "close" else {})
    gc.collect()
    assert consumers.freed() == (1, 0)
    assert case.handle.closed == (how == "close")


@pytest.mark.parametrize("kind", LENDING)
@pytest.mark.parametrize("how", ["release", "close"])
def test_gives_the_handle_up_where_a_buffer_is_asked_for(consumers, loop, kind, how):
    case = kind(loop)
    seen = hear(consumers, loop, case, how, "lends")
    assert seen == ({"alloc": 1, "closed": 1} if how == "close" else {"alloc": 1})
    assert consumers.freed() == (1, 0)
    if how == "release":
        # The handle is Python's, and nothing of what came is lost.
        got = []
        if isinstance(case.handle, uv.UDP):
            case.handle.start_recv(lambda *args: got.append(args[3]))
        else:
            case.handle.start_read(lambda handle, data, error: got.append(data))
        turns(loop)
        assert got


@pytest.mark.parametrize("how", ["release", "close"])
@pytest.mark.parametrize("kind", [datagrams, batches])
def test_gives_the_handle_up_where_datagrams_are_announced(consumers, loop, kind, how):
    case = kind(loop)
    seen = hear(consumers, loop, case, how, "announced")
    assert seen == ({"readable": 1, "closed": 1} if how == "close" else {"readable": 1})
    assert consumers.freed() == (1, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_gives_the_handle_up_where_it_is_told_of_its_end(consumers, loop, kind):
    case = kind(loop)
    consumers.take(case.handle, "release")
    case.handle.close()
    turns(loop)
    assert consumers.events() == {"closed": 1}
    assert consumers.freed() == (1, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_expects_nothing(consumers, loop, kind):
    case = kind(loop)
    assert hear(consumers, loop, case, "none") == {}
    case.handle.close()
    turns(loop)
    assert consumers.events() == {}
    assert consumers.freed() == (1, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_keeps_the_handle(consumers, loop, kind):
    case = kind(loop)
    seen = hear(consumers, loop, case, "keep")
    assert set(case.events) <= set(seen)
    consumers.release(case.handle)
    assert consumers.freed() == (1, 0)
    case.poke = lambda: None
    turns(loop)
    assert consumers.events() == {}


def test_taken_again_and_again(consumers, loop):
    case = wakeup(loop)
    for _, how in zip(range(20), itertools.cycle(["keep", "release"]), strict=False):
        consumers.take(case.handle, how)
        assert consumers.start(case.handle) == 0
        turns(loop, 2)
        consumers.release(case.handle)
        assert consumers.events() == {"fired": 1}
    assert consumers.freed() == (20, 0)
