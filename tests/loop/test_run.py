"""Running and stopping, and how often the poll gets its turn."""

import asyncio
import socket
import threading
import time

import pytest

import limits
import uvtulip
from uvtulip import _transports, uv

LIMIT = limits.WAIT


@pytest.fixture
def loop():
    loop = uvtulip.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture
def pair():
    a, b = socket.socketpair()
    a.setblocking(False)
    b.setblocking(False)
    with a, b:
        yield a, b


def turn(loop):
    loop.stop()
    loop.run_forever()


# ---- states ----


def test_states(loop):
    seen = []

    def look():
        seen.append((loop.is_running(), loop._thread_id))
        loop._check_thread()

    assert not loop.is_running()
    assert not loop.is_closed()
    assert loop._thread_id is None
    loop.call_soon(look)
    turn(loop)
    assert seen == [(True, threading.get_ident())]
    assert (loop.is_running(), loop._thread_id) == (False, None)
    loop._check_closed()
    loop.close()
    loop.close()
    assert loop.is_closed()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        loop._check_closed()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        loop._run()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        loop.run_forever()


def test_no_run_inside_of_a_run(loop):
    errors = []

    def nested():
        for run in (loop.run_forever, loop._run):
            try:
                run()
            except RuntimeError as exc:
                errors.append(str(exc))

    loop.call_soon(nested)
    turn(loop)
    assert errors == ["This event loop is already running"] * 2


def test_no_closing_while_it_runs(loop):
    errors = []

    def close():
        for method in (loop.close, loop._close):
            try:
                method()
            except RuntimeError as exc:
                errors.append(str(exc))

    loop.call_soon(close)
    turn(loop)
    assert errors == ["Cannot close a running event loop"] * 2
    assert not loop.is_closed()


def test_no_run_in_two_threads(loop):
    errors = []

    def other():
        try:
            loop._run()
        except RuntimeError as exc:
            errors.append(str(exc))

    def callback():
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(LIMIT)

    loop.call_soon(callback)
    turn(loop)
    assert errors == ["This event loop is already running"]


def test_it_may_run_in_one_thread_after_another(loop):
    idents = []
    for _ in range(3):
        loop.call_soon(lambda: idents.append(threading.get_ident()))
        thread = threading.Thread(target=turn, args=(loop,))
        thread.start()
        thread.join(LIMIT)
        assert not thread.is_alive()
    turn(loop)
    assert len(idents) == 3


def test_the_constructor_takes_nothing():
    with pytest.raises(TypeError):
        uvtulip.Loop(1)
    with pytest.raises(TypeError):
        _transports.EventLoop(1)
    with pytest.raises(TypeError):
        _transports.EventLoop(what=1)


def test_init_is_called_once():
    loop = _transports.EventLoop.__new__(_transports.EventLoop)
    assert loop.is_closed()
    for call in (
        lambda: loop.call_soon(print),
        lambda: loop.call_later(1, print),
        lambda: loop.add_reader(0, print),
        loop._run,
    ):
        with pytest.raises(RuntimeError, match="not initialised"):
            call()
    assert loop.remove_reader(0) is False
    loop.create_future()
    loop.stop()
    loop._close()
    loop.__init__()
    assert not loop.is_closed()
    with pytest.raises(RuntimeError, match="initialised already"):
        loop.__init__()
    loop._close()


def test_the_bare_c_loop_runs():
    loop = _transports.EventLoop()
    seen = []
    loop.call_soon(seen.append, 1)
    loop.call_soon(loop.stop)
    loop._run()
    loop._close()
    assert seen == [1]
    assert loop.is_closed()


def test_attributes(loop):
    loop.anything = 1
    assert loop.__dict__["anything"] == 1
    assert loop._clock_resolution == 1e-9
    assert loop.slow_callback_duration == 0.1
    loop.slow_callback_duration = 5
    assert loop.slow_callback_duration == 5.0
    with pytest.raises(TypeError):
        loop.slow_callback_duration = "1"
    assert isinstance(loop.uv_loop, uv.Loop)
    loop.close()
    assert isinstance(loop.uv_loop, uv.Loop)
    assert loop.uv_loop.closed


# ---- stopping ----


def test_stop_before_a_run_gives_one_turn(loop):
    seen = []

    def again():
        seen.append(1)
        loop.call_soon(again)

    loop.call_soon(again)
    turn(loop)
    assert seen == [1]
    turn(loop)
    assert seen == [1, 1]


def test_stop_finishes_the_batch(loop):
    seen = []
    loop.call_soon(loop.stop)
    loop.call_soon(seen.append, 1)
    loop.call_soon(loop.call_soon, seen.append, 2)
    loop.run_forever()
    assert seen == [1]


def test_stop_deep_in_a_chain(loop):
    seen = []

    def step(left):
        seen.append(left)
        if left == 0:
            loop.stop()
        loop.call_soon(step, left - 1)

    loop.call_soon(step, 500)
    loop.run_forever()
    assert seen[-1] == 0
    assert len(loop._ready) == 1


def test_run_until_complete_stopped_early(loop):
    loop.call_soon(loop.stop)
    with pytest.raises(RuntimeError, match="stopped before Future completed"):
        loop.run_until_complete(loop.create_future())


# ---- turns ----


def test_a_run_polls_before_it_calls(loop, pair):
    a, b = pair
    seen = []
    loop.add_reader(a, lambda: (seen.append("reader"), a.recv(10)))
    b.send(b"x")
    turn(loop)
    assert seen == ["reader"]


def test_a_chain_of_callbacks_does_not_starve_the_poll(loop, pair):
    a, b = pair
    seen, steps = [], []

    def chain():
        steps.append(1)
        if len(steps) == 10:
            b.send(b"x")
        if len(steps) < 100_000 and not seen:
            loop.call_soon(chain)
        else:
            loop.stop()

    loop.add_reader(a, lambda: seen.append(a.recv(10)))
    loop.call_soon(chain)
    loop.run_forever()
    assert seen == [b"x"]
    assert len(steps) < 1000


def test_slow_callbacks_do_not_starve_the_poll(loop, pair):
    a, b = pair
    seen, steps = [], []

    def chain():
        steps.append(1)
        if len(steps) == 10:
            b.send(b"x")
        time.sleep(0.001)
        if len(steps) < 1000 and not seen:
            loop.call_soon(chain)
        else:
            loop.stop()

    loop.add_reader(a, lambda: seen.append(a.recv(10)))
    loop.call_soon(chain)
    loop.run_forever()
    assert seen == [b"x"]
    assert len(steps) <= 20


def test_a_chain_of_callbacks_does_not_starve_timers(loop):
    fired = []

    def chain():
        if fired:
            loop.stop()
        else:
            loop.call_soon(chain)

    loop.call_later(0.005, fired.append, 1)
    watchdog = threading.Timer(LIMIT, lambda: loop.call_soon_threadsafe(loop.stop))
    watchdog.start()
    loop.call_soon(chain)
    loop.run_forever()
    watchdog.cancel()
    watchdog.join()
    assert fired == [1]


def test_the_poll_gets_its_turn_before_the_loop_stops(loop, pair):
    a, b = pair
    seen = []

    class Reader(asyncio.Protocol):
        def data_received(self, data):
            seen.append(data)

    async def connect():
        server = await loop.create_server(Reader, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        client = socket.create_connection(("127.0.0.1", port))
        while not server._clients():
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)
        return server, client

    server, client = loop.run_until_complete(connect())
    with client:
        loop.call_soon(lambda: (client.sendall(b"x"), loop.call_soon(loop.stop)))
        loop.run_forever()
        assert seen == [b"x"]
        server.close()
        server.close_clients()
        loop.run_until_complete(asyncio.sleep(0.01))


def test_it_blocks_when_there_is_nothing_to_do(loop):
    polls = []
    counter = uv.Prepare(loop.uv_loop)
    counter.start(polls.append)
    loop.call_later(0.1, loop.stop)
    loop.run_forever()
    counter.close()
    assert 1 <= len(polls) <= 5


def test_recursion_depth_is_left_alone(loop):
    async def deep(n):
        if n:
            await deep(n - 1)
        else:
            await asyncio.sleep(0)

    loop.run_until_complete(deep(200))


# ---- beside the raw loop ----


def test_raw_handles_run_with_it(loop):
    seen = []
    timer = uv.Timer(loop.uv_loop)
    timer.start(lambda handle: loop.call_soon(done), 0.001)

    def done():
        seen.append(1)
        timer.close()
        loop.stop()

    loop.run_forever()
    assert seen == [1]


def test_the_raw_loop_by_itself(loop):
    seen = []
    turn(loop)
    loop.call_later(100, print)
    loop.call_later(0.001, loop.stop)
    loop.run_forever()
    loop.call_soon(seen.append, "asyncio")
    timer = uv.Timer(loop.uv_loop)
    timer.start(lambda handle: seen.append("raw"), 0.001)
    loop.uv_loop.run()
    assert seen == ["raw"]
    timer.close()
    turn(loop)
    assert seen == ["raw", "asyncio"]


def test_an_exception_of_a_raw_callback_is_reported(loop):
    errors = []
    loop.set_exception_handler(lambda loop, context: errors.append(context))

    def fail(handle):
        handle.close()
        loop.stop()
        raise ValueError("raw")

    timer = uv.Timer(loop.uv_loop)
    timer.start(fail, 0.001)
    loop.run_forever()
    assert str(errors[0]["exception"]) == "raw"
    assert errors[0]["uv_handle"] is timer


def test_an_exit_of_a_raw_callback_leaves_the_run(loop):
    def leave(handle):
        handle.close()
        raise SystemExit(3)

    timer = uv.Timer(loop.uv_loop)
    timer.start(leave, 0.001)
    with pytest.raises(SystemExit) as info:
        loop.run_forever()
    assert info.value.code == 3
    turn(loop)


def test_stopping_the_raw_loop_does_not_stop_this_one(loop):
    timer = uv.Timer(loop.uv_loop)
    timer.start(lambda handle: (loop.uv_loop.stop(), handle.close()), 0.001)
    loop.call_later(0.01, loop.stop)
    begin = loop.time()
    loop.run_forever()
    assert loop.time() - begin >= 0.01


# ---- the first turn ----


def test_what_was_ready_before_a_run_comes_before_what_the_poll_finds(loop):
    """The first step of a task above all: it may set up what I/O needs."""
    events = []

    class Noting(asyncio.DatagramProtocol):
        def datagram_received(self, data, addr):
            events.append(data)

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with theirs:
        transport, _ = loop.run_until_complete(
            loop.create_datagram_endpoint(Noting, sock=ours)
        )
        loop.run_until_complete(asyncio.sleep(0))
        theirs.send(b"data")

        async def step():
            events.append("step")
            while len(events) < 3:
                await asyncio.sleep(0)

        loop.call_later(0, events.append, "timer")
        loop.run_until_complete(step())
        assert events == ["step", b"data", "timer"]
        transport.close()
        loop.run_until_complete(asyncio.sleep(0))


def test_a_run_that_is_stopped_in_its_first_turn(loop):
    """The turn is finished: what the poll finds belongs to it, what its callbacks
    have scheduled does not."""
    events = []

    def first():
        loop.call_soon(events.append, "later")
        loop.call_soon(events.append, "and later")
        loop.stop()

    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.send(b"x")

        def readable():
            events.append("readable")
            loop.call_soon(events.append, "at last")
            loop.remove_reader(ours)

        loop.add_reader(ours, readable)
        loop.call_soon(first)
        loop.call_soon(events.append, "second")
        loop.call_later(0, events.append, "timer")
        loop.run_forever()
        assert events == ["second", "readable", "timer"]
        loop.call_soon(loop.stop)
        loop.run_forever()
        assert events[3:] == ["later", "and later", "at last"]
