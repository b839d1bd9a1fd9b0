"""Poll, on descriptors that behave and on those that do not."""

import gc
import os
import select
import socket
import subprocess
import sys
import textwrap
import threading
import weakref

import pytest

from uvtulip import uv


def fail(*args):
    raise AssertionError(f"called with {args}")


@pytest.fixture
def pair():
    a, b = socket.socketpair()
    with a, b:
        yield a, b


@pytest.fixture
def pipe():
    """A list of two descriptors; a test that closes one takes it out."""
    fds = list(os.pipe())
    yield fds
    for fd in fds:
        os.close(fd)


# ---- readiness ----

def test_readable(loop, pair):
    a, b = pair
    calls = []

    def on_ready(handle, events, errorno):
        calls.append((handle, events, errorno, a.recv(10)))
        handle.close()

    poll = uv.Poll(loop, a)
    assert not poll.active and poll.events == 0
    assert poll.start(uv.UV_READABLE, on_ready) is None
    assert poll.active and poll.events == uv.UV_READABLE
    b.send(b"x")
    loop.run_checked()
    assert calls == [(poll, uv.UV_READABLE, None, b"x")]


def test_level_triggered(loop, pair):
    a, b = pair
    calls = []

    def on_ready(handle, events, errorno):
        calls.append(events)
        if len(calls) == 3:
            handle.close()

    uv.Poll(loop, a).start(uv.UV_READABLE, on_ready)
    b.send(b"x")
    loop.run_checked()
    assert calls == [uv.UV_READABLE] * 3


def test_writable_and_both(loop, pair):
    a, b = pair
    calls = []

    def on_ready(handle, events, errorno):
        calls.append(events)
        if events & uv.UV_READABLE:
            handle.close()
        else:
            b.send(b"x")

    poll = uv.Poll(loop, a)
    poll.start(uv.UV_READABLE | uv.UV_WRITABLE, on_ready)
    loop.run_checked()
    assert calls[0] == uv.UV_WRITABLE
    assert calls[-1] == uv.UV_READABLE | uv.UV_WRITABLE


def test_disconnect(loop, pair):
    a, b = pair
    calls = []

    def on_ready(handle, events, errorno):
        calls.append((events, errorno))
        handle.close()

    uv.Poll(loop, a).start(uv.UV_DISCONNECT, on_ready)
    b.shutdown(socket.SHUT_WR)
    loop.run_checked()
    assert calls == [(uv.UV_DISCONNECT, None)]


def test_prioritized(loop):
    server = socket.create_server(("127.0.0.1", 0))
    with server, socket.create_connection(server.getsockname()) as client:
        accepted, _ = server.accept()
        with accepted:
            calls = []

            def on_ready(handle, events, errorno):
                calls.append((events, errorno))
                handle.close()

            uv.Poll(loop, accepted).start(uv.UV_PRIORITIZED, on_ready)
            client.send(b"!", socket.MSG_OOB)
            loop.run_checked()
            assert calls == [(uv.UV_PRIORITIZED, None)]


def test_pipe_descriptors(loop, pipe):
    got = []
    poll = uv.Poll(loop, pipe[0])
    poll.start(uv.UV_READABLE, lambda h, e, err: (
        got.append(os.read(pipe[0], 10)), h.close()))
    os.write(pipe[1], b"abc")
    loop.run_checked()
    assert got == [b"abc"]


def test_start_again_changes_mask_and_callback(loop, pair):
    a, _b = pair
    calls = []

    def on_ready(handle, events, errorno):
        calls.append(events)
        handle.close()

    poll = uv.Poll(loop, a)
    poll.start(uv.UV_READABLE, fail)
    poll.start(uv.UV_WRITABLE, on_ready)
    assert poll.events == uv.UV_WRITABLE
    loop.run_checked()
    assert calls == [uv.UV_WRITABLE]


def test_change_the_mask_inside_the_callback(loop, pair):
    a, b = pair
    calls = []

    def on_writable(handle, events, errorno):
        calls.append(events)
        handle.start(uv.UV_READABLE, on_readable)
        b.send(b"x")

    def on_readable(handle, events, errorno):
        calls.append(events)
        handle.stop()

    poll = uv.Poll(loop, a)
    poll.start(uv.UV_WRITABLE, on_writable)
    loop.run_checked()
    assert calls == [uv.UV_WRITABLE, uv.UV_READABLE]
    assert not poll.active and poll.events == 0


def test_no_events_stop_it(loop, pair):
    poll = uv.Poll(loop, pair[0])
    poll.start(uv.UV_WRITABLE, fail)
    poll.start(0, fail)
    assert not poll.active and poll.events == 0
    loop.run_checked()


def test_stop(loop, pair):
    poll = uv.Poll(loop, pair[0])
    poll.stop()
    poll.start(uv.UV_WRITABLE, fail)
    poll.stop()
    poll.stop()
    assert not poll.active
    loop.run_checked()


def test_one_stops_another_that_is_ready_too(loop):
    pairs = [socket.socketpair() for _ in range(4)]
    polls = []
    calls = []

    def on_ready(handle, events, errorno):
        calls.append(handle)
        for poll in polls:
            poll.stop()

    for a, b in pairs:
        poll = uv.Poll(loop, a)
        poll.start(uv.UV_READABLE, on_ready)
        polls.append(poll)
        b.send(b"x")
    loop.run_checked()
    assert len(calls) == 1
    for poll in polls:
        poll.close()
    loop.run_checked()
    for a, b in pairs:
        a.close()
        b.close()


def test_fileno(loop, pair):
    poll = uv.Poll(loop, pair[0])
    assert poll.fileno() == pair[0].fileno()
    poll.close()
    with pytest.raises(uv.error.HandleClosedError):
        poll.fileno()
    loop.run_checked()


# ---- arguments and state ----

def test_bad_arguments(loop, pair):
    poll = uv.Poll(loop, pair[0])
    for args in ((), (1,), (1, fail, 2), (fail, 1), ("1", fail), (None, fail),
                 (1.0, fail), (1, None), (1, "x")):
        with pytest.raises(TypeError, match=r"Poll\.start"):
            poll.start(*args)
    for events in (-1, 16, 255, 2**31, 2**70, 17):
        with pytest.raises(ValueError, match=r"Poll\.start\(\): 'events'"):
            poll.start(events, fail)
    with pytest.raises(TypeError):
        poll.stop(1)
    assert not poll.active
    for args in ((), (loop,), (loop, 0, 0), (0, loop), (None, 0)):
        with pytest.raises(TypeError):
            uv.Poll(*args)
    with pytest.raises(TypeError):
        uv.Poll(loop, 0, surplus=1)
    with pytest.raises(AttributeError):
        poll.events = 1


def test_closed_handle(loop, pair):
    poll = uv.Poll(loop, pair[0])
    poll.start(uv.UV_READABLE, fail)
    poll.close()
    for _ in range(2):
        for call in (lambda: poll.start(1, fail), poll.stop, poll.fileno):
            with pytest.raises(uv.error.HandleClosedError):
                call()
        assert poll.events == 0
        loop.run_checked()


def test_uninitialised():
    bare = uv.Poll.__new__(uv.Poll)
    for call in (lambda: bare.start(1, fail), bare.stop, bare.fileno,
                 lambda: bare.events):
        with pytest.raises(RuntimeError, match="not initialised"):
            call()


def test_second_init(loop, pair):
    poll = uv.Poll(loop, pair[0])
    with pytest.raises(RuntimeError, match="already"):
        poll.__init__(loop, pair[1])
    assert poll.fileno() == pair[0].fileno()


def test_wrong_thread_while_running(loop, pair):
    seen = []

    def other():
        for call in (lambda: poll.start(1, fail), poll.stop, poll.fileno,
                     lambda: poll.events, poll.close):
            with pytest.raises(RuntimeError, match="thread"):
                call()
            seen.append(True)

    def on_ready(handle, events, errorno):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        handle.close()

    poll = uv.Poll(loop, pair[0])
    poll.start(uv.UV_WRITABLE, on_ready)
    loop.run_checked()
    assert len(seen) == 5


def test_exception_in_the_callback(loop, pair):
    def broken(handle, events, errorno):
        handle.stop()
        raise ValueError("in poll")

    poll = uv.Poll(loop, pair[0])
    poll.start(uv.UV_WRITABLE, broken)
    with pytest.raises(ValueError, match="in poll"):
        loop.run_checked()
    loop.run_checked()


# ---- lifetime ----

def test_started_one_lives_without_a_name(loop, pair):
    a, b = pair
    calls = []

    class Mine(uv.Poll):
        pass

    poll = Mine(loop, a)
    poll.me = poll
    poll.start(uv.UV_READABLE, lambda h, e, err: (calls.append(e), h.stop()))
    ref = weakref.ref(poll)
    del poll
    gc.collect()
    assert ref() is not None
    b.send(b"x")
    loop.run_checked()
    gc.collect()
    assert calls == [uv.UV_READABLE]
    assert ref() is None
    loop.run_checked()
    loop.run(uv.UV_RUN_NOWAIT)
    assert loop.handles == []


def test_callback_is_released_by_stop(loop, pair):
    class Callback:
        def __call__(self, *args):
            fail()

    callback = Callback()
    ref = weakref.ref(callback)
    poll = uv.Poll(loop, pair[0])
    poll.start(uv.UV_READABLE, callback)
    del callback
    gc.collect()
    assert ref() is not None
    poll.stop()
    gc.collect()
    assert ref() is None


# ---- descriptors that cannot be watched ----

def status(info):
    return info.value.name, info.value.call


def test_closed_descriptor(loop, pair):
    fd = pair[0].fileno()
    pair[0].close()
    with pytest.raises(uv.error.PollError) as info:
        uv.Poll(loop, fd)
    assert status(info) == ("EBADF", "uv_poll_init")
    with pytest.raises(uv.error.PollError) as info:
        uv.Poll(loop, 2**31 - 1)
    assert status(info) == ("EBADF", "uv_poll_init")
    assert loop.handles == []


def test_regular_file(loop, tmp_path):
    with open(tmp_path / "file", "w") as file:
        with pytest.raises(uv.error.PollError) as info:
            uv.Poll(loop, file)
        assert status(info) == ("EPERM", "uv_poll_init")
        assert os.get_blocking(file.fileno())
    with open("/dev/null") as file, pytest.raises(uv.error.PollError):
        uv.Poll(loop, file)


def test_descriptor_of_the_loop_itself(loop):
    with pytest.raises(uv.error.PollError):
        uv.Poll(loop, loop.fileno())


def test_descriptor_of_another_loop(loop):
    other = uv.Loop()
    poll = uv.Poll(loop, other.fileno())
    calls = []

    def on_ready(handle, events, errorno):
        other.run(uv.UV_RUN_NOWAIT)

    poll.start(uv.UV_READABLE, on_ready)
    handle = uv.Async(other, lambda h: (calls.append(h), h.close(), poll.close()))
    handle.send()
    other.run(uv.UV_RUN_NOWAIT)
    assert len(calls) == 1
    loop.run_checked()
    other.close()


def test_in_use_by_another_poll(loop, pair):
    a, b = pair
    first = uv.Poll(loop, a)
    second = uv.Poll(loop, a)
    first.start(uv.UV_READABLE, lambda h, e, err: h.stop())
    with pytest.raises(uv.error.PollError) as info:
        second.start(uv.UV_WRITABLE, fail)
    assert status(info) == ("EEXIST", "uv_poll_start")
    assert not second.active and first.active
    with pytest.raises(uv.error.PollError) as info:
        uv.Poll(loop, a)
    assert status(info) == ("EEXIST", "uv_poll_init")
    first.stop()
    calls = []
    second.start(uv.UV_WRITABLE, lambda h, e, err: (calls.append(e), h.stop()))
    loop.run_checked()
    assert calls == [uv.UV_WRITABLE]


@pytest.mark.parametrize("end", ["stop", "close", "drop"])
def test_end_of_an_idle_one_leaves_the_other_alone(loop, pair, end):
    a, b = pair
    calls = []
    first = uv.Poll(loop, a)
    second = uv.Poll(loop, a)
    first.start(uv.UV_READABLE, lambda h, e, err: (calls.append(e), h.close()))
    loop.run(uv.UV_RUN_NOWAIT)      # epoll has it now
    if end == "stop":
        second.stop()
    elif end == "close":
        second.close()
    else:
        del second
        gc.collect()
    b.send(b"x")
    loop.run_checked()
    assert calls == [uv.UV_READABLE]


def test_in_use_by_a_stream(loop):
    server = socket.create_server(("127.0.0.1", 0))
    with server:
        tcp = uv.TCP(loop)
        seen = []

        def on_connect(handle, errorno):
            assert errorno is None
            handle.start_read(lambda h, data, err: None)
            with pytest.raises(uv.error.PollError) as info:
                uv.Poll(loop, handle.fileno())
            seen.append(info.value.name)
            handle.close()

        tcp.connect(server.getsockname(), on_connect)
        loop.run_checked()
        assert seen == ["EEXIST"]


def test_two_loops_may_share_a_descriptor(loop, pair):
    a, _b = pair
    other = uv.Loop()
    calls = []
    for each in (loop, other):
        uv.Poll(each, a).start(
            uv.UV_WRITABLE, lambda h, e, err: (calls.append(e), h.close()))
    loop.run_checked()
    other.run()
    other.close()
    assert calls == [uv.UV_WRITABLE] * 2


# ---- descriptors closed under the handle ----

def has_events(loop):
    """Whether a poll of the loop would come back at once: what is ready and has
    no handle any more would come back again and again."""
    return select.select([loop.fileno()], [], [], 0)[0] != []


def test_closed_before_start(loop, pipe):
    poll = uv.Poll(loop, pipe[0])
    os.close(pipe.pop(0))
    with pytest.raises(uv.error.PollError) as info:
        poll.start(uv.UV_READABLE, fail)
    assert status(info) == ("EBADF", "uv_poll_start")
    assert not poll.active
    poll.stop()
    poll.close()
    loop.run_checked()


def test_closed_between_start_and_run(loop, pipe):
    calls = []
    poll = uv.Poll(loop, pipe[0])
    poll.start(uv.UV_READABLE, lambda h, e, err: calls.append((h, e, err)))
    os.close(pipe.pop(0))
    loop.run_checked()
    assert calls == [(poll, None, uv.errno.UV_EBADF)]
    assert not poll.active and poll.events == 0
    poll.close()
    loop.run_checked()


def test_closed_between_start_and_run_with_an_idle_twin(loop, pipe):
    calls = []
    polls = [uv.Poll(loop, pipe[0]) for _ in range(3)]
    polls[1].start(uv.UV_READABLE, lambda h, e, err: calls.append((h, e, err)))
    os.close(pipe.pop(0))
    loop.run_checked()
    assert calls == [(polls[1], None, uv.errno.UV_EBADF)]


def test_closed_and_the_handle_closed_in_the_callback(loop, pipe):
    closed = []
    uv.Poll(loop, pipe[0]).start(
        uv.UV_READABLE, lambda h, e, err: h.close(closed.append))
    os.close(pipe.pop(0))
    loop.run_checked()
    assert len(closed) == 1


def test_closed_and_reused_for_a_file_before_run(loop, pipe, tmp_path):
    calls = []
    poll = uv.Poll(loop, pipe[0])
    poll.start(uv.UV_READABLE, lambda h, e, err: calls.append((e, err)))
    with open(tmp_path / "file", "wb") as file:
        os.dup2(file.fileno(), pipe[0])
    loop.run_checked()
    assert calls == [(None, uv.errno.UV_EBADF)]
    assert not poll.active


def test_closed_while_watched(loop, pipe):
    """epoll forgets it: no events, and stop, start, close stay harmless."""
    poll = uv.Poll(loop, pipe[0])
    poll.start(uv.UV_READABLE, fail)
    loop.run(uv.UV_RUN_NOWAIT)
    os.close(pipe.pop(0))
    os.close(pipe.pop())
    loop.run(uv.UV_RUN_NOWAIT)
    assert poll.active
    with pytest.raises(uv.error.PollError) as info:
        poll.start(uv.UV_READABLE, fail)
    assert status(info) == ("EBADF", "uv_poll_start")
    assert not poll.active
    poll.stop()
    poll.close()
    loop.run_checked()


@pytest.mark.parametrize("how", ["stop", "start", "close", "drop", "reported"])
@pytest.mark.parametrize("reuse", [False, True])
def test_closed_while_its_file_lives_on(loop, how, reuse):
    """epoll goes on reporting the number that nobody can take out: the loop
    must not spin on it, and must still serve the others."""
    read_fd, write_fd = os.pipe()
    twin = os.dup(read_fd)
    a, b = socket.socketpair()
    other_calls = []

    def on_other(handle, events, errorno):
        other_calls.append(a.recv(10))
        if len(other_calls) == 2:
            handle.close()

    other = uv.Poll(loop, a)
    other.start(uv.UV_READABLE, on_other)
    calls = []
    poll = uv.Poll(loop, read_fd)
    poll.start(uv.UV_READABLE, lambda h, e, err: calls.append((e, err)))
    loop.run(uv.UV_RUN_NOWAIT)
    assert calls == []
    if reuse:
        null = os.open("/dev/null", os.O_RDONLY)
        os.dup2(null, read_fd)
        os.close(null)
    else:
        os.close(read_fd)
    os.write(write_fd, b"x")
    if how == "stop":
        poll.stop()
    elif how == "start":
        with pytest.raises(uv.error.PollError):
            poll.start(uv.UV_READABLE, fail)
    elif how == "close":
        poll.close()
    elif how == "drop":
        poll.close()
        del poll
        gc.collect()
    elif not reuse:
        for _ in range(100):
            loop.run(uv.UV_RUN_NOWAIT)
        assert calls[-1] == (None, uv.errno.UV_EBADF)
        assert len(calls) < 50
        poll.close()
    else:
        poll.close()
    loop.run(uv.UV_RUN_NOWAIT)
    assert not has_events(loop)
    b.send(b"1")
    uv.Timer(loop).start(lambda t: b.send(b"2"), 0.02)
    loop.run_checked()
    assert b"".join(other_calls) == b"12"
    assert not has_events(loop)
    loop.run_checked()
    for fd in (twin, write_fd):
        os.close(fd)
    if reuse:
        os.close(read_fd)
    a.close()
    b.close()


def test_started_again_after_the_number_was_reused(loop, pair):
    a, b = pair
    fd = a.fileno()
    poll = uv.Poll(loop, fd)
    poll.start(uv.UV_READABLE, fail)
    loop.run(uv.UV_RUN_NOWAIT)
    c, d = socket.socketpair()
    with c, d:
        os.dup2(c.fileno(), fd)
        calls = []
        poll.start(uv.UV_READABLE, lambda h, e, err: (calls.append(e), h.close()))
        d.send(b"x")
        loop.run_checked()
        assert calls == [uv.UV_READABLE]


def test_number_reused_by_an_accepted_connection(loop):
    """The Poll hears of it, and the connection gets its own events."""
    server = uv.TCP(loop)
    server.bind(("127.0.0.1", 0))
    client = socket.socket()
    read_fd, write_fd = os.pipe()
    twin = os.dup(read_fd)
    lost = []
    poll = uv.Poll(loop, read_fd)
    poll.start(uv.UV_READABLE, lambda h, e, err: lost.append((e, err)))
    got = []

    def on_read(handle, data, errorno):
        got.append((handle.fileno(), data))
        handle.close()
        server.close()

    def on_connection(handle, errorno):
        connection = uv.TCP(loop)
        handle.accept(connection)
        connection.start_read(on_read)

    server.listen(on_connection)
    loop.run(uv.UV_RUN_NOWAIT)
    # Fill all gaps below, so that the next new descriptor gets the number.
    fillers = [os.open("/dev/null", os.O_RDONLY)]
    while fillers[-1] < read_fd:
        fillers.append(os.open("/dev/null", os.O_RDONLY))
    os.close(read_fd)
    client.connect(server.getsockname())
    client.send(b"x")
    os.write(write_fd, b"x")
    loop.run_checked()
    assert got == [(read_fd, b"x")]
    assert lost[-1] == (None, uv.errno.UV_EBADF)
    assert not poll.active
    loop.run(uv.UV_RUN_NOWAIT)
    assert not has_events(loop)
    client.close()
    for fd in (twin, write_fd, *fillers):
        os.close(fd)


def test_closed_in_a_callback_of_its_own(loop, pair):
    a, b = pair
    calls = []

    def on_ready(handle, events, errorno):
        calls.append(events)
        a.close()
        handle.close()

    uv.Poll(loop, a).start(uv.UV_READABLE, on_ready)
    b.send(b"x")
    loop.run_checked()
    assert calls == [uv.UV_READABLE]


def test_a_fork_that_keeps_the_descriptor(tmp_path):
    """The child holds the open file; the parent closes the number only."""
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent("""
        import os, select, subprocess
        from uvtulip import uv
        loop = uv.Loop()
        read_fd, write_fd = os.pipe()
        child = subprocess.Popen(["sleep", "60"], pass_fds=[read_fd])
        poll = uv.Poll(loop, read_fd)
        poll.start(uv.UV_READABLE, lambda *args: None)
        loop.run(uv.UV_RUN_NOWAIT)
        os.write(write_fd, b"x")
        os.close(read_fd)
        poll.close()
        loop.run(uv.UV_RUN_NOWAIT)
        print(select.select([loop.fileno()], [], [], 0)[0])
        uv.Timer(loop).start(lambda t: print("fired", flush=True), 0.05)
        loop.run()
        child.kill()
        child.wait()
    """))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True,
                          timeout=30, check=False)
    assert (done.returncode, done.stdout) == (0, "[]\nfired\n"), done.stderr


# ---- blocking mode ----

@pytest.mark.parametrize("end", ["close", "drop", "closed in callback"])
def test_blocking_descriptor_is_given_back_blocking(loop, pipe, end):
    fd = pipe[0]
    assert os.get_blocking(fd)
    poll = uv.Poll(loop, fd)
    assert not os.get_blocking(fd)
    if end == "close":
        poll.start(uv.UV_READABLE, fail)
        poll.close()
    elif end == "drop":
        del poll
        gc.collect()
    else:
        poll.start(uv.UV_READABLE, lambda h, e, err: h.close())
        os.write(pipe[1], b"x")
    loop.run_checked()
    assert os.get_blocking(fd)


def test_non_blocking_descriptor_stays_so(loop, pipe):
    os.set_blocking(pipe[0], False)
    poll = uv.Poll(loop, pipe[0])
    poll.close()
    loop.run_checked()
    assert not os.get_blocking(pipe[0])


def test_reused_number_keeps_its_mode(loop, pipe):
    fd = pipe[0]
    poll = uv.Poll(loop, fd)
    other = os.pipe()
    os.set_blocking(other[0], False)
    os.dup2(other[0], fd)
    poll.close()
    loop.run_checked()
    assert not os.get_blocking(fd)
    for each in other:
        os.close(each)


def test_failed_poll_leaves_the_mode(loop, pipe):
    fd = pipe[0]
    uv.Poll(loop, fd).start(uv.UV_READABLE, fail)
    os.set_blocking(fd, True)
    with pytest.raises(uv.error.PollError):
        uv.Poll(loop, fd)
    assert os.get_blocking(fd)
