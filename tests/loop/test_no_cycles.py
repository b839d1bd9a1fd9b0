"""What a failed call has made is gone at once, without the garbage collector.

An exception holds the frames that it came through: a frame that holds the exception,
or a future that it came from, would keep all of them.
"""

import asyncio
import gc
import os
import socket
import ssl
import weakref

import pytest

import uvtulip
from tlssupport import server_context


def unused_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class Held:
    """Is there as long as the frame that has it, and so its exception."""


async def refused(loop):
    await loop.create_connection(asyncio.Protocol, "127.0.0.1", unused_port())


async def refused_twice(loop):
    await loop.create_connection(
        asyncio.Protocol, "localhost", unused_port(), happy_eyeballs_delay=0.01
    )


async def refused_from_an_address(loop):
    await loop.create_connection(
        asyncio.Protocol, "127.0.0.1", unused_port(), local_addr=("127.0.0.1", 0)
    )


async def no_such_host(loop):
    await loop.getaddrinfo("127.0.0.1", "no such service")


async def no_such_path(loop):
    await loop.create_unix_connection(asyncio.Protocol, "/no/such/path")


async def sock_connect(loop):
    with socket.socket() as sock:
        sock.setblocking(False)
        await loop.sock_connect(sock, ("127.0.0.1", unused_port()))


async def sock_recv(loop):
    with socket.socket() as sock:
        sock.setblocking(False)
        await loop.sock_recv(sock, 1)


async def no_such_program(loop):
    await loop.subprocess_exec(asyncio.SubprocessProtocol, "/no/such/program")


async def address_in_use(loop):
    with socket.create_server(("127.0.0.1", 0)) as server:
        await loop.create_server(asyncio.Protocol, *server.getsockname())


async def datagrams_in_use(loop):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, local_addr=sock.getsockname()
        )



async def connected(loop, **options):
    server = await loop.create_server(
        asyncio.Protocol, "127.0.0.1", 0, ssl=server_context()
    )
    try:
        return await loop.create_connection(
            asyncio.Protocol, *server.sockets[0].getsockname(), **options
        )
    finally:
        server.close()


async def untrusted(loop):
    context = ssl.create_default_context()
    await connected(loop, ssl=context, server_hostname="localhost")


async def untrusted_start_tls(loop):
    context = ssl.create_default_context()
    transport, protocol = await connected(loop)
    await loop.start_tls(transport, protocol, context, server_hostname="localhost")


async def handshake_timeout(loop):
    with socket.create_server(("127.0.0.1", 0)) as server:
        await loop.create_connection(
            asyncio.Protocol,
            *server.getsockname(),
            ssl=ssl.create_default_context(),
            ssl_handshake_timeout=0.01,
        )


async def executor(loop):
    try:
        await loop.run_in_executor(None, os.stat, "/no/such/path")
    finally:
        # Without a GIL its thread has the last reference until it ends.
        await loop.shutdown_default_executor()


@pytest.mark.parametrize(
    "call",
    [
        refused,
        refused_twice,
        refused_from_an_address,
        no_such_host,
        no_such_path,
        sock_connect,
        sock_recv,
        no_such_program,
        address_in_use,
        datagrams_in_use,
        untrusted,
        untrusted_start_tls,
        handshake_timeout,
        executor,
    ],
)
def test_exception(call):
    async def through(held):
        await call(asyncio.get_running_loop())

    async def main():
        held = Held()
        ref = weakref.ref(held)
        try:
            await through(held)
        except OSError:
            del held
            return ref
        raise AssertionError("it did not fail")

    with asyncio.Runner(loop_factory=uvtulip.new_event_loop) as runner:
        # What reports an error that nobody waits for is not what is looked for.
        runner.get_loop().set_exception_handler(lambda loop, context: None)
        gc.collect()
        gc.disable()
        try:
            assert runner.run(main())() is None
        finally:
            gc.enable()
