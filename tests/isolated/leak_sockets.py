"""sock_*(), sendfile() and getaddrinfo(), finished, failed and cancelled: nothing
stays behind."""

import asyncio
import socket
import tempfile

from leakcheck import check

import uvtulip


async def talk(loop, listener):
    with socket.socket() as client:
        client.setblocking(False)
        accepting = loop.create_task(loop.sock_accept(listener))
        await loop.sock_connect(client, listener.getsockname())
        conn, _ = await accepting
        with conn:
            receiving = loop.create_task(loop.sock_recv(conn, 100))
            await asyncio.sleep(0)
            await loop.sock_sendall(client, b"request")
            await receiving
            await loop.sock_sendall(conn, bytes(100_000))
            buffer = bytearray(1 << 20)
            await loop.sock_recv_into(client, buffer)


async def fail(loop):
    with socket.socket() as client, socket.socket() as closed:
        client.setblocking(False)
        closed.bind(("127.0.0.1", 0))
        try:
            await loop.sock_connect(client, closed.getsockname())
        except ConnectionRefusedError:
            pass
        else:
            raise AssertionError("somebody listens on a port that is ours")


async def cancel(loop):
    one, two = socket.socketpair()
    with one, two:
        one.setblocking(False)
        tasks = [
            loop.create_task(loop.sock_recv(one, 10)),
            loop.create_task(loop.sock_sendall(one, bytes(1 << 20))),
        ]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def datagrams(loop):
    with (
        socket.socket(type=socket.SOCK_DGRAM) as one,
        socket.socket(type=socket.SOCK_DGRAM) as two,
    ):
        for sock in one, two:
            sock.setblocking(False)
            sock.bind(("127.0.0.1", 0))
        receiving = loop.create_task(loop.sock_recvfrom(one, 100))
        await asyncio.sleep(0)
        await loop.sock_sendto(two, b"x", one.getsockname())
        await receiving
        await loop.sock_sendto(two, b"x", one.getsockname())
        await loop.sock_recvfrom_into(one, bytearray(10))


async def rounds(count):
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        for _ in range(count):
            await talk(loop, listener)
            await fail(loop)
            await cancel(loop)
            await datagrams(loop)


def work(count):
    with asyncio.Runner(loop_factory=uvtulip.new_event_loop) as runner:
        runner.run(rounds(count))


def closed_while_waiting(count):
    for _ in range(count // 10):
        one, two = socket.socketpair()
        one.setblocking(False)
        loop = uvtulip.new_event_loop()
        task = loop.create_task(loop.sock_recv(one, 10))
        task._log_destroy_pending = False
        loop.call_soon(loop.stop)
        loop.run_forever()
        loop.close()
        one.close()
        two.close()


async def send_files(count):
    loop = asyncio.get_running_loop()
    server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    with tempfile.TemporaryFile() as file:
        file.write(bytes(3_000_000))
        file.flush()
        for i in range(count):
            transport, _ = await loop.create_connection(asyncio.Protocol, *address)
            sending = loop.create_task(loop.sendfile(transport, file))
            await asyncio.sleep(0)
            if i % 3 == 0:
                transport.abort()
            elif i % 3 == 1:
                sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            transport.close()
    server.close()
    await server.wait_closed()


def files(count):
    with asyncio.Runner(loop_factory=uvtulip.new_event_loop) as runner:
        runner.run(send_files(count))


async def look_up(count):
    loop = asyncio.get_running_loop()
    for i in range(count):
        await loop.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)
        task = loop.create_task(loop.getaddrinfo("localhost", 80))
        await asyncio.sleep(0)
        if i % 2:
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        failing = loop.getaddrinfo("no-number", 80, flags=socket.AI_NUMERICHOST)
        await asyncio.gather(failing, return_exceptions=True)


def lookups(count):
    with asyncio.Runner(loop_factory=uvtulip.new_event_loop) as runner:
        runner.run(look_up(count))


check("sockets", work, 2_000, 300)
check("files", files, 600, 300)
check("lookups", lookups, 2_000, 300)
check("loops closed while a socket is waited for", closed_while_waiting, 2_000, 300)
