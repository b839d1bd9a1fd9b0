"""Raw handles on loop.uv_loop live beside the tasks of asyncio."""

import asyncio
import os
import signal
import socket

import pytest

import uvtulip
from aiosupport import Echo, Recorder, run, turns, until
from uvtulip import uv

pytestmark = pytest.mark.usefixtures("no_leak")


def test_timer():
    async def main():
        loop = asyncio.get_running_loop()
        ticks = []
        timer = uv.Timer(loop.uv_loop)
        timer.start(ticks.append, 0.01, 0.01)
        await asyncio.sleep(0)
        await until(lambda: len(ticks) >= 3)
        timer.close()
        count = len(ticks)
        await asyncio.sleep(0.03)
        assert len(ticks) == count
        assert set(ticks) == {timer}

    run(main())


def test_raw_callback_wakes_a_task():
    async def main():
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        timer = uv.Timer(loop.uv_loop)
        timer.start(lambda timer: done.set_result(timer), 0.01)
        assert await done is timer
        timer.close()

    run(main())


def test_raw_callback_schedules_a_callback():
    """What a raw callback puts into the queue runs without another event."""

    async def main():
        loop = asyncio.get_running_loop()
        order = []
        done = asyncio.Event()

        def on_timer(timer):
            order.append("timer")
            loop.call_soon(order.append, "soon")
            loop.call_soon(done.set)

        timer = uv.Timer(loop.uv_loop)
        timer.start(on_timer, 0.01)
        await done.wait()
        assert order == ["timer", "soon"]
        timer.close()

    run(main())


def test_raw_server_and_asyncio_client():
    async def main():
        loop = asyncio.get_running_loop()

        def on_connection(server, error):
            assert error is None
            client = uv.TCP(server.loop)
            server.accept(client)
            client.start_read(on_read)

        def on_read(client, data, error):
            if error is not None:
                client.close()
            else:
                client.write(data.upper())

        server = uv.TCP(loop.uv_loop)
        server.bind(("127.0.0.1", 0))
        server.listen(on_connection)
        reader, writer = await asyncio.open_connection(*server.getsockname())
        writer.write(b"tulip")
        assert await reader.readexactly(5) == b"TULIP"
        writer.close()
        await writer.wait_closed()
        server.close()

    run(main())


def test_asyncio_server_and_raw_client():
    async def main():
        loop = asyncio.get_running_loop()
        async with await loop.create_server(Echo, "127.0.0.1", 0) as server:
            answer = loop.create_future()

            def on_connect(client, error):
                assert error is None
                client.start_read(on_read)
                client.write([b"raw", b" ", b"bytes"])

            def on_read(client, data, error):
                if error is None:
                    answer.set_result(data)
                client.close()

            client = uv.TCP(loop.uv_loop)
            client.connect(server.getsockname(), on_connect)
            assert await answer == b"raw bytes"

    run(main())


def test_async_from_a_thread():
    async def main():
        loop = asyncio.get_running_loop()
        called = asyncio.Event()
        handle = uv.Async(loop.uv_loop, lambda handle: called.set())
        await asyncio.to_thread(handle.send)
        await called.wait()
        handle.close()

    run(main())


def test_raw_signal():
    async def main():
        loop = asyncio.get_running_loop()
        got = loop.create_future()
        watcher = uv.Signal(loop.uv_loop)
        watcher.start(lambda watcher, signum: got.set_result(signum), signal.SIGUSR2)
        os.kill(os.getpid(), signal.SIGUSR2)
        assert await got == signal.SIGUSR2
        watcher.close()

    run(main())


def test_raw_poll_and_add_reader_keep_apart():
    async def main():
        loop = asyncio.get_running_loop()
        one, two = socket.socketpair()
        with one, two:
            events = []
            poll = uv.Poll(loop.uv_loop, one.fileno())
            poll.start(uv.UV_READABLE, lambda *args: events.append(one.recv(10)))
            loop.add_reader(two, lambda: events.append(two.recv(10)))
            two.send(b"raw")
            one.send(b"asyncio")
            await until(lambda: len(events) == 2)
            assert set(events) == {b"raw", b"asyncio"}
            loop.remove_reader(two)
            poll.close()

    run(main())


def test_errors_of_raw_callbacks_go_to_the_exception_handler():
    async def main():
        loop = asyncio.get_running_loop()
        contexts = []
        loop.set_exception_handler(lambda loop, context: contexts.append(context))
        timer = uv.Timer(loop.uv_loop)
        timer.start(lambda timer: 1 // 0, 0.001)
        await until(lambda: contexts)
        (context,) = contexts
        assert isinstance(context["exception"], ZeroDivisionError)
        timer.close()

    run(main())


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_exits_of_raw_callbacks_end_the_run(error):
    loop = uvtulip.new_event_loop()

    def raise_it(timer):
        timer.close()
        raise error

    uv.Timer(loop.uv_loop).start(raise_it, 0.001)
    with pytest.raises(error):
        loop.run_forever()
    loop.run_until_complete(turns())
    loop.close()


def test_the_handle_of_a_transport():
    async def main():
        loop = asyncio.get_running_loop()
        async with await loop.create_server(Echo, "127.0.0.1", 0) as server:
            transport, protocol = await loop.create_connection(
                Recorder, *server.getsockname()
            )
            handle = transport.get_extra_info("uv_handle")
            assert isinstance(handle, uv.TCP)
            assert handle.loop is loop.uv_loop
            assert handle in loop.uv_loop.handles
            assert handle.getpeername() == server.getsockname()
            with pytest.raises(RuntimeError):
                handle.start_read(print)
            transport.close()
            await until(lambda: protocol.lost)

    run(main())


def test_the_raw_loop_cannot_be_run_or_closed_by_itself():
    async def main():
        loop = asyncio.get_running_loop()
        with pytest.raises(RuntimeError):
            loop.uv_loop.run()
        with pytest.raises((RuntimeError, OSError)):
            loop.uv_loop.close()

    run(main())


def test_open_handles_are_closed_with_the_loop():
    async def main():
        loop = asyncio.get_running_loop()
        server = uv.TCP(loop.uv_loop)
        server.bind(("127.0.0.1", 0))
        server.listen(print)
        timer = uv.Timer(loop.uv_loop)
        timer.start(print, 1000)
        return loop, server, timer

    loop, server, timer = run(main())
    assert server.closed
    assert timer.closed
    assert loop.uv_loop.closed
    with pytest.raises(RuntimeError):
        uv.Timer(loop.uv_loop)
