"""Closing a handle, all handles and the loop in the middle of each kind of callback."""

import os
import signal
import socket

import pytest

from uvtulip import uv

KEPT = []


def kept(*objects):
    KEPT.extend(objects)
    return objects


@pytest.fixture
def loop():
    loop = uv.Loop()
    yield loop
    loop.close()
    assert loop.closed
    while KEPT:
        KEPT.pop().close()


def connected(loop):
    ours, theirs = socket.socketpair()
    handle = uv.Pipe(loop)
    handle.open(ours.detach())
    kept(theirs)
    return handle, theirs


def timer(loop, callback):
    uv.Timer(loop).start(callback, 0, 0.001)


def idle(loop, callback):
    uv.Idle(loop).start(callback)


def prepare(loop, callback):
    uv.Prepare(loop).start(callback)
    uv.Idle(loop).start(lambda handle: None)


def check(loop, callback):
    uv.Check(loop).start(callback)
    uv.Idle(loop).start(lambda handle: None)


def wakeup(loop, callback):
    handle = uv.Async(loop, lambda handle: callback(handle))
    handle.send()
    uv.Idle(loop).start(lambda idle, handle=handle: None)  # Keeps both.


def poll(loop, callback):
    ours, theirs = kept(*socket.socketpair())
    uv.Poll(loop, ours).start(uv.UV_READABLE | uv.UV_WRITABLE, callback)
    theirs.send(b"x")


def a_signal(loop, callback):
    uv.Signal(loop).start(callback, signal.SIGUSR1)
    os.kill(os.getpid(), signal.SIGUSR1)


def reading(loop, callback):
    handle, theirs = connected(loop)
    handle.start_read(callback)
    theirs.send(b"x" * 100_000)


def reading_into(loop, callback):
    handle, theirs = connected(loop)
    handle.start_read_into(lambda handle, size: bytearray(10), callback)
    theirs.send(b"x" * 100)


def at_the_end(loop, callback):
    handle, theirs = connected(loop)
    handle.start_read(callback)
    theirs.close()


def writing(loop, callback):
    handle, _ = connected(loop)
    handle.write(b"x", callback)
    handle.write(b"y" * 10_000_000, callback)


def shutting_down(loop, callback):
    handle, _ = connected(loop)
    handle.shutdown(callback)


def connecting(loop, callback):
    (listener,) = kept(socket.create_server(("127.0.0.1", 0)))
    uv.TCP(loop).connect(listener.getsockname(), callback)


def listening(loop, callback):
    handle = uv.TCP(loop)
    handle.bind(("127.0.0.1", 0))
    handle.listen(callback)
    kept(*(socket.create_connection(handle.getsockname()) for _ in range(3)))


def receiving(loop, callback, flags=0):
    handle = uv.UDP(loop, socket.AF_INET | flags)
    handle.bind(("127.0.0.1", 0))
    handle.start_recv(callback)
    (peer,) = kept(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    for _ in range(5):
        peer.sendto(b"x", handle.getsockname())


def receiving_batches(loop, callback):
    receiving(loop, callback, uv.UV_UDP_RECVMMSG)


def sending(loop, callback):
    (peer,) = kept(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    peer.bind(("127.0.0.1", 0))
    handle = uv.UDP(loop)
    for _ in range(3):
        handle.send(peer.getsockname(), b"x", callback)


def a_child(loop, callback):
    uv.Process.spawn(loop, ["/bin/true"], exit_callback=callback)


def closing(loop, callback):
    """The callback of close() itself."""
    uv.Timer(loop).close(callback)
    uv.Idle(loop).start(lambda handle: None)


KINDS = [
    timer,
    idle,
    prepare,
    check,
    wakeup,
    poll,
    a_signal,
    reading,
    reading_into,
    at_the_end,
    writing,
    shutting_down,
    connecting,
    listening,
    receiving,
    receiving_batches,
    sending,
    a_child,
    closing,
]


def close(handle):
    if not handle.closed:
        handle.close()


def close_itself(loop, handle):
    close(handle)


def close_all(loop, handle):
    for other in loop.handles:
        close(other)


def drop_itself(loop, handle):
    close(handle)
    del handle


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", [close_itself, close_all, drop_itself])
def test_inside_of_its_own_callback(loop, kind, what):
    called = []

    def callback(handle, *args):
        called.append(type(handle))
        what(loop, handle)
        for refused in (loop.close, loop.run):
            with pytest.raises(RuntimeError, match="running"):
                refused()
        loop.stop()

    kind(loop, callback)
    loop.run()
    assert called
    for handle in loop.handles:
        close(handle)
    loop.run()
    assert loop.handles == []
