"""Raw loops and handles in a forked child: they stay the parent's."""

import gc
import os
import signal
import socket
import threading

import pytest

from forksupport import end_child, finish_child, in_child
from uvtulip import uv

FORKED = "belongs to the parent process.*fork"


def connected(loop):
    """A TCP handle of the loop and a socket that it is connected with."""
    listening = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(listening.getsockname())
    accepted, _ = listening.accept()
    listening.close()
    handle = uv.TCP(loop)
    handle.open(accepted.detach())
    client.settimeout(10)
    return handle, client


def close_all(loop):
    for handle in loop.handles:
        if not handle.closed:
            handle.close()
    while loop.run(uv.UV_RUN_NOWAIT):
        pass
    loop.close()


def open_descriptors():
    return set(os.listdir("/proc/self/fd"))


def test_every_use_names_the_fork():
    loop = uv.Loop()
    timer = uv.Timer(loop)
    wake = uv.Async(loop, lambda handle: None)
    reading, writing = os.pipe()
    poll = uv.Poll(loop, reading)
    handle, client = connected(loop)
    handle.start_read(lambda *args: None)
    loop.run(uv.UV_RUN_NOWAIT)

    uses = [
        loop.run,
        loop.stop,
        loop.now,
        loop.update_time,
        loop.fileno,
        loop.get_timeout,
        lambda: loop.walk(print),
        lambda: loop.alive,
        lambda: uv.TCP(loop),
        lambda: uv.Timer(loop),
        lambda: timer.start(print, 1, 0),
        timer.stop,
        timer.close,
        wake.send,
        wake.close,
        lambda: poll.start(uv.UV_READABLE, print),
        poll.stop,
        poll.close,
        lambda: handle.write(b"x"),
        lambda: handle.try_write(b"x"),
        handle.shutdown,
        handle.stop_read,
        handle.close,
        lambda: loop.queue_work(print),
    ]

    def child():
        for use in uses:
            with pytest.raises(RuntimeError, match=FORKED):
                use()
        handle.__exit__(None, None, None)
        assert "forked" in repr(loop)
        assert not loop.running and not loop.closed

    in_child(child)
    client.send(b"still here")
    got = []
    handle.stop_read()
    handle.start_read(lambda handle, data, error: (got.append(data), handle.close()))
    while not got:
        loop.run(uv.UV_RUN_ONCE)
    assert got == [b"still here"]
    client.close()
    poll.close()
    os.close(reading)
    os.close(writing)
    close_all(loop)


@pytest.mark.parametrize("how", ["close", "collect", "exit"])
def test_the_end_of_the_childs_copy_does_not_disturb_the_parent(how):
    loop = uv.Loop()
    got = []
    handle, client = connected(loop)
    handle.start_read(lambda handle, data, error: got.append(data))
    server = uv.TCP(loop)
    server.bind(("127.0.0.1", 0))
    server.listen(lambda handle, error: got.append("connection"))
    udp = uv.UDP(loop)
    udp.bind(("127.0.0.1", 0))
    udp.start_recv(lambda handle, address, flags, data, error: got.append(data))
    a, b = socket.socketpair()
    b.setblocking(True)
    poll = uv.Poll(loop, b)
    poll.start(uv.UV_READABLE, lambda handle, events, error: got.append(b.recv(9)))
    timer = uv.Timer(loop)
    timer.start(lambda handle: None, 3600, 0)
    wake = uv.Async(loop, lambda handle: got.append("async"))
    loop.run(uv.UV_RUN_NOWAIT)

    def child():
        nonlocal loop, handle, server, udp, poll, timer, wake
        if how == "close":
            before = open_descriptors()
            loop.close()
            assert loop.closed
            loop.close()
            assert handle.closed and server.closed and timer.closed
            assert len(before - open_descriptors()) >= 6
        elif how == "collect":
            loop = handle = server = udp = poll = timer = wake = None
            gc.collect()
        assert b.getblocking() is True or os.get_blocking(b.fileno()) is False

    in_child(child)
    # All descriptors are watched as before.
    sender = socket.socket(type=socket.SOCK_DGRAM)
    late = socket.socket()
    assert os.get_blocking(b.fileno()) is False
    for send, expected in (
        (lambda: client.send(b"tcp"), b"tcp"),
        (lambda: a.send(b"poll"), b"poll"),
        (lambda: wake.send(), "async"),
        (lambda: sender.sendto(b"udp", udp.getsockname()), b"udp"),
        (lambda: late.connect(server.getsockname()), "connection"),
    ):
        got.clear()
        send()
        while not got:
            loop.run(uv.UV_RUN_ONCE)
        assert got == [expected]
    # Nothing was shut down: the connection still works in both directions.
    handle.write(b"answer")
    assert client.recv(10) == b"answer"
    close_all(loop)
    for sock in (client, a, b, sender, late):
        sock.close()


@pytest.mark.parametrize("kind", ["timer", "idle", "async", "read", "connection"])
def test_fork_inside_of_a_callback(kind):
    """The child's run ends with RuntimeError after the callback that forked; what
    else was due is the parent's."""
    loop = uv.Loop()
    reading, writing = os.pipe()
    log = []
    forked = []
    handle, client = connected(loop)
    second, second_client = connected(loop)
    server = uv.TCP(loop)
    server.bind(("127.0.0.1", 0))

    def fork(*args):
        if not forked:
            forked.append(os.fork())

    def on_read(handle, data, error):
        log.append(data)
        if kind == "read":
            fork()

    def on_connection(handle, error):
        accepted = uv.TCP(loop)
        handle.accept(accepted)
        accepted.close()
        log.append("connection")
        fork()

    handle.start_read(on_read)
    second.start_read(on_read)
    loop.run(uv.UV_RUN_NOWAIT)
    sockets = []
    idle = uv.Idle(loop)
    if kind == "timer":
        for _ in range(3):
            uv.Timer(loop).start(fork, 0, 0)
    elif kind == "idle":
        idle.start(fork)
    elif kind == "async":
        wake = uv.Async(loop, fork)
        wake.send()
    elif kind == "connection":
        server.listen(on_connection)
        loop.run(uv.UV_RUN_NOWAIT)
        sockets = [socket.create_connection(server.getsockname()) for _ in range(3)]
    client.send(b"first")
    second_client.send(b"second")

    def child():
        with pytest.raises(RuntimeError, match=FORKED):
            raise error
        seen = list(log)
        with pytest.raises(RuntimeError, match=FORKED):
            loop.run(uv.UV_RUN_NOWAIT)
        assert log == seen
        loop.close()
        loop2 = uv.Loop()
        uv.Timer(loop2).start(lambda handle: log.append("of the child"), 0, 0)
        loop2.run()
        assert log[-1] == "of the child"

    error = None
    try:
        while not forked:
            loop.run(uv.UV_RUN_ONCE)
    except RuntimeError as exc:
        error = exc
    if forked == [0]:
        os.close(reading)
        end_child(writing, child)
    assert error is None
    os.close(writing)
    finish_child(forked[0], reading)
    idle.stop()
    while set(log) < {b"first", b"second"} or log.count("connection") < len(sockets):
        loop.run(uv.UV_RUN_ONCE)
    assert sorted(map(str, log)) == sorted(
        map(str, [b"first", b"second", *["connection"] * len(sockets)])
    )
    for sock in (client, second_client, *sockets):
        sock.close()
    close_all(loop)


@pytest.mark.parametrize("kind", ["write", "shutdown", "send"])
def test_fork_inside_of_a_callback_of_a_request(kind):
    """Others are done at the same moment, of the same handle and of another one."""
    loop = uv.Loop()
    log = []
    forked = []
    reading, writing = os.pipe()
    pairs = [connected(loop) for _ in range(3)]
    udp = [uv.UDP(loop) for _ in range(3)]
    receiver = uv.UDP(loop)
    receiver.bind(("127.0.0.1", 0))

    def done(handle, error):
        log.append(error)
        if not forked:
            forked.append(os.fork())

    for handle, _ in pairs:
        if kind == "write":
            handle.write(b"a", done)
            handle.write(b"b", done)
        elif kind == "shutdown":
            handle.shutdown(done)
    for handle in udp:
        if kind == "send":
            handle.send(receiver.getsockname(), b"c", done)

    def child():
        with pytest.raises(RuntimeError, match=FORKED):
            raise error
        assert log == [None]
        loop.close()

    error = None
    try:
        while not forked:
            loop.run(uv.UV_RUN_ONCE)
    except RuntimeError as exc:
        error = exc
    if forked == [0]:
        os.close(reading)
        end_child(writing, child)
    assert error is None
    os.close(writing)
    finish_child(forked[0], reading)
    while len(log) < (6 if kind == "write" else 3):
        loop.run(uv.UV_RUN_ONCE)
    assert set(log) == {None}
    for _, client in pairs:
        client.close()
    close_all(loop)


def test_what_was_queued_is_sent_once():
    """The child does not send a second time what waits in the parent."""
    loop = uv.Loop()
    handle, client = connected(loop)
    total = 30_000_000
    done = []
    handle.write(b"x" * total, lambda handle, error: done.append(error))

    def child():
        loop.close()

    in_child(child)
    got = 0

    def read_all():
        nonlocal got
        while got < total:
            got += len(client.recv(65536))

    reader = threading.Thread(target=read_all)
    reader.start()
    while not done:
        loop.run(uv.UV_RUN_ONCE)
    reader.join()
    assert (got, done) == (total, [None])
    client.setblocking(False)
    with pytest.raises(BlockingIOError):
        client.recv(1)
    client.close()
    close_all(loop)


def test_fork_while_another_thread_runs_the_loop():
    loop = uv.Loop()
    wake = uv.Async(loop, lambda handle: handle.close())
    runner = threading.Thread(target=loop.run)
    runner.start()
    while not loop.running:
        pass

    def child():
        assert not loop.running
        with pytest.raises(RuntimeError, match=FORKED):
            loop.run()
        with pytest.raises(RuntimeError, match=FORKED):
            wake.send()
        loop.close()
        assert loop.closed

    in_child(child)
    wake.send()
    runner.join()
    loop.close()


def test_default_loop_of_a_child_is_its_own():
    mine = uv.Loop.default_loop()

    def child():
        theirs = uv.Loop.default_loop()
        assert theirs is not mine and theirs.default
        theirs.run()

    in_child(child)
    assert uv.Loop.default_loop() is mine


def test_closing_spares_what_the_child_has_opened_since():
    loop = uv.Loop()
    handle, client = connected(loop)

    def child():
        numbers = [int(name) for name in open_descriptors()]
        mine = os.open("/etc/hostname", os.O_RDONLY)
        for fd in numbers:
            if fd > 2 and fd not in (mine, *keep):
                os.dup2(mine, fd)
        loop.close()
        for fd in numbers:
            if fd > 2 and fd not in (mine, *keep):
                os.fstat(fd)

    keep = set()
    reading, writing = os.pipe()
    keep.update((reading, writing))
    pid = os.fork()
    if pid == 0:
        end_child(writing, child)
    os.close(writing)
    finish_child(pid, reading)
    client.close()
    close_all(loop)


def test_signals_of_the_child_do_not_reach_the_parents_loop():
    """The wake-up descriptor of a running loop is taken from the child."""
    loop = uv.Loop()
    reading, writing = os.pipe()

    def fork(handle):
        handle.close()
        pid = os.fork()
        if pid == 0:
            end_child(writing, check)
        os.close(writing)
        finish_child(pid, reading)

    def check():
        assert signal.set_wakeup_fd(-1) == -1

    uv.Timer(loop).start(fork, 0, 0)
    loop.run()
    loop.close()
