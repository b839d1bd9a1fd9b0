"""sock_*() on many sockets, finished, failed and cancelled: nothing stays behind."""

import asyncio
import socket

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


check("sockets", work, 2_000, 300)
check("loops closed while a socket is waited for", closed_while_waiting, 2_000, 300)
