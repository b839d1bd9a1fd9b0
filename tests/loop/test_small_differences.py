"""Small things that programs and other loops' suites look at."""

import asyncio
import gc
import os
import socket
import warnings

import pytest

import uvtulip
from aiosupport import check_script, run, turns, until
from tlssupport import client_context, server_context

# ---- drain() ----


async def tcp_writer():
    a, b = socket.socketpair()
    b.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=a)
    return writer, lambda: b.recv(100), b.close


async def pipe_writer():
    reader, descriptor = os.pipe()
    os.set_blocking(reader, False)
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.connect_write_pipe(
        lambda: asyncio.streams.FlowControlMixin(loop), os.fdopen(descriptor, "wb", 0)
    )
    writer = asyncio.StreamWriter(transport, protocol, None, loop)
    return writer, lambda: os.read(reader, 100), lambda: os.close(reader)


@pytest.mark.parametrize("make", [tcp_writer, pipe_writer])
@pytest.mark.parametrize("lines", [False, True])
def test_drained_is_with_the_kernel(make, lines):
    async def main():
        writer, receive, close = await make()
        for data in (b"one", b"two", b"three"):
            if lines:
                writer.writelines([data[:1], data[1:]])
            else:
                writer.write(data[:1])
                writer.write(data[1:])
            await writer.drain()
            assert receive() == data
        writer.close()
        await turns()
        close()

    run(main())


def test_drained_in_a_read_callback():
    """What is written there waits for what other connections write."""

    async def main():
        seen = []

        async def serve(reader, writer):
            while data := await reader.read(10):
                writer.write(data)
                await writer.drain()
                seen.append(client.recv(10))
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        client = socket.create_connection(server.sockets[0].getsockname())
        client.setblocking(False)
        with client:
            for _ in range(3):
                count = len(seen)
                client.send(b"x")
                await until(lambda count=count: len(seen) > count)
        server.close()
        await server.wait_closed()
        return seen

    assert run(main()) == [b"x"] * 3


def test_drained_tls():
    async def main():
        got = []

        async def serve(reader, writer):
            got.append(await reader.read(100))
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_context())
        _, writer = await asyncio.open_connection(
            *server.sockets[0].getsockname(),
            ssl=client_context(),
            server_hostname="localhost",
        )
        writer.write(b"BYE")
        await writer.drain()
        below = writer.get_extra_info("uv_handle")
        assert below.write_queue_size == 0
        assert writer.transport.get_write_buffer_size() == 0
        await until(lambda: got)
        writer.close()
        server.close()
        await server.wait_closed()
        return got

    assert run(main()) == [b"BYE"]


def test_a_child_gets_what_was_drained():
    text = check_script(
        """
        import asyncio, os, subprocess, sys, uvtulip
        async def main():
            child = await asyncio.create_subprocess_exec("cat", stdin=subprocess.PIPE)
            child.stdin.write(b"BYE")
            await child.stdin.drain()
            os._exit(0)
        uvtulip.run(main())
        """
    )
    assert text in ("BYE", "")  # cat may be later than we look.


def test_others_are_still_sent_together():
    """A protocol that cannot be drained asks is_closing() before each write."""

    async def main():
        loop = asyncio.get_running_loop()
        a, b = socket.socketpair()
        b.setblocking(False)
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=a)
        for data in (b"a", b"b"):
            assert not transport.is_closing()
            transport.write(data)
        with pytest.raises(BlockingIOError):
            b.recv(10)
        await turns()
        assert b.recv(10) == b"ab"
        transport.close()
        await turns()
        b.close()

    run(main())


# ---- names ----


@pytest.mark.parametrize(
    "name, args",
    [
        ("shutdown_asyncgens", ()),
        ("shutdown_default_executor", ()),
        ("create_connection", (asyncio.Protocol,)),
        ("create_server", (asyncio.Protocol,)),
        ("getaddrinfo", ("localhost", 1)),
        ("sock_recv", (None, 1)),
        ("create_unix_connection", (asyncio.Protocol,)),
        ("connect_read_pipe", (asyncio.Protocol, None)),
        ("subprocess_exec", (asyncio.Protocol, "x")),
        ("start_tls", (None, None, None)),
    ],
)
def test_coroutines_are_called_as_asyncios(name, args):
    loop = uvtulip.new_event_loop()
    expected = getattr(asyncio.SelectorEventLoop, name).__qualname__
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        getattr(loop, name)(*args)
        gc.collect()
    assert [str(warning.message) for warning in caught] == [
        f"coroutine '{expected}' was never awaited"
    ]
    assert asyncio.AbstractEventLoop.stop.__qualname__ == "AbstractEventLoop.stop"
    loop.close()


def test_the_loop_itself():
    loop = uvtulip.new_event_loop()
    assert repr(loop) == "<uvtulip.Loop running=False closed=False debug=False>"
    assert loop._closed is False
    loop.close()
    assert loop._closed is True

    class Mine(uvtulip.Loop):
        pass

    mine = Mine()
    assert repr(mine).startswith(f"<{__name__}.")
    mine.close()


# ---- the rest ----


@pytest.mark.parametrize("method", ["remove_reader", "remove_writer"])
def test_a_negative_number(method):
    loop = uvtulip.new_event_loop()
    with pytest.raises(ValueError, match="Invalid file descriptor: -1"):
        getattr(loop, method)(-1)
    loop.close()


@pytest.mark.parametrize("when", [2**31, 2**60, True, 1e9])
def test_when_is_what_was_given(when):
    loop = uvtulip.new_event_loop()
    timer = loop.call_at(when, print)
    assert timer.when() == timer._when == when
    assert type(timer.when()) is type(when)
    assert timer._scheduled is True
    timer.cancel()
    assert timer._scheduled is False
    assert type(loop.call_later(1, print).when()) is float
    loop.close()


@pytest.mark.parametrize("ask_before", [False, True])
def test_the_socket_after_close(ask_before):
    async def main():
        loop = asyncio.get_running_loop()
        a, b = socket.socketpair()
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=a)
        if ask_before:
            assert transport.get_extra_info("socket").fileno() >= 0
        transport.close()
        await turns()
        assert transport.get_extra_info("socket").fileno() == -1
        b.close()

    run(main())


def test_a_write_pipe_does_not_read():
    async def main():
        loop = asyncio.get_running_loop()
        reader, writer = os.pipe()
        transport, _ = await loop.connect_write_pipe(
            asyncio.BaseProtocol, os.fdopen(writer, "wb", 0)
        )
        assert isinstance(transport, asyncio.Transport)
        for call in (transport.pause_reading, transport.resume_reading):
            with pytest.raises(NotImplementedError):
                call()
        transport.close()
        await turns()
        os.close(reader)

    run(main())


def test_an_exception_in_eof_received_of_a_pipe():
    async def main():
        loop = asyncio.get_running_loop()
        contexts, lost = [], []
        loop.set_exception_handler(lambda loop, context: contexts.append(context))

        class Protocol(asyncio.Protocol):
            def eof_received(self):
                raise ZeroDivisionError

            def connection_lost(self, exc):
                lost.append(exc)

        reader, writer = os.pipe()
        await loop.connect_read_pipe(Protocol, os.fdopen(reader, "rb", 0))
        os.close(writer)
        await until(lambda: lost)
        assert lost == [None]
        assert [type(each["exception"]) for each in contexts] == [ZeroDivisionError]

    run(main())
