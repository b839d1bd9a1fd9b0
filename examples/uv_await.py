"""Raw handles awaited: a callback that sets the result of a future is all it takes.

    python examples/uv_await.py --count 5

A raw UDP handle answers on a loop of asyncio, beside an ordinary protocol.  The client
is a coroutine that sends with another raw handle, awaits each answer, and asks a raw
Poll when a plain pipe can be read.
"""

import argparse
import asyncio
import os

import uvtulip
from uvtulip import uv

Address = tuple[str, int] | tuple[str, int, int, int]


class Echo(asyncio.Protocol):
    """An asyncio protocol on the same loop."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


def udp_echo(loop: uvtulip.Loop) -> uv.UDP:
    def on_datagram(
        handle: uv.UDP,
        address: Address | None,
        flags: int,
        data: bytes | None,
        error: int | None,
    ) -> None:
        if address is not None and data is not None:
            handle.try_send(address, data.upper())

    server = uv.UDP(loop.uv_loop)
    server.bind(("127.0.0.1", 0))
    server.start_recv(on_datagram)
    return server


async def ask(loop: uvtulip.Loop, address: Address, data: bytes) -> bytes:
    """Send one datagram and wait for the answer."""
    answer: asyncio.Future[bytes] = loop.create_future()
    handle = uv.UDP(loop.uv_loop)

    def on_answer(
        handle: uv.UDP,
        sender: Address | None,
        flags: int,
        data: bytes | None,
        error: int | None,
    ) -> None:
        # The future can be done already: somebody may have cancelled us.
        if not answer.done():
            if data is None:
                answer.set_exception(OSError(error))
            else:
                answer.set_result(data)

    try:
        handle.start_recv(on_answer)
        handle.send(address, data)
        return await answer
    finally:
        handle.close()


async def readable(loop: uvtulip.Loop, fd: int) -> None:
    """Wait until a descriptor can be read from."""
    ready: asyncio.Future[None] = loop.create_future()
    poll = uv.Poll(loop.uv_loop, fd)

    def on_ready(poll: uv.Poll, events: int | None, error: int | None) -> None:
        poll.stop()
        if not ready.done():
            ready.set_result(None)

    try:
        poll.start(uv.UV_READABLE, on_ready)
        await ready
    finally:
        poll.close()


async def main(count: int) -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, uvtulip.Loop)
    udp = udp_echo(loop)
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        for number in range(count):
            answer = await ask(loop, udp.getsockname(), b"datagram %d" % number)
            writer.write(answer + b"\n")
            print((await reader.readline()).decode().rstrip())
        writer.close()
        await writer.wait_closed()

    read_fd, write_fd = os.pipe()
    loop.call_later(0.01, os.write, write_fd, b"from a pipe")
    await readable(loop, read_fd)
    print(os.read(read_fd, 100).decode())
    os.close(read_fd)
    os.close(write_fd)
    udp.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Raw handles in coroutines.")
    parser.add_argument("--count", type=int, default=3)
    uvtulip.run(main(parser.parse_args().count))
