"""Who gets the number of a descriptor that was watched and then closed."""

import asyncio
import os
import socket

import pytest

import uvtulip
from aiosupport import Recorder, run, until
from uvtulip import uv


def tcp_pair():
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        return client, server.accept()[0]


def free_number(sock):
    """A number that the kernel gives out next: the socket's, which is closed."""
    number = sock.fileno()
    sock.close()
    return number


def watched(loop, how):
    """A socket pair, of which the loop has watched the first one."""
    a, b = socket.socketpair()
    a.setblocking(False)
    if how == "raw":
        poll = uv.Poll(loop.uv_loop, a)
        poll.start(uv.UV_READABLE, lambda *args: None)
        poll.stop()
        return a, b, poll
    if how == "raw, started":
        poll = uv.Poll(loop.uv_loop, a)
        poll.start(uv.UV_READABLE, lambda *args: None)
        return a, b, poll
    loop.add_reader(a, lambda: None)
    if how == "writer too":
        loop.add_writer(a, lambda: None)
        loop.remove_writer(a)
    if how != "not removed":
        loop.remove_reader(a)
    return a, b, None


HOW = ["removed", "writer too", "not removed", "raw", "raw, started"]


async def adopt_tcp(loop, sock):
    return (await loop.create_connection(asyncio.Protocol, sock=sock))[0]


async def adopt_accepted(loop, sock):
    return (await loop.connect_accepted_socket(asyncio.Protocol, sock))[0]


async def adopt_unix(loop, sock):
    return (await loop.create_unix_connection(asyncio.Protocol, sock=sock))[0]


async def adopt_reader(loop, sock):
    file = os.fdopen(sock.detach(), "rb", 0)
    return (await loop.connect_read_pipe(asyncio.Protocol, file))[0]


async def adopt_writer(loop, sock):
    file = os.fdopen(sock.detach(), "wb", 0)
    return (await loop.connect_write_pipe(asyncio.BaseProtocol, file))[0]


async def adopt_datagrams(loop, sock):
    sock.close()
    return (
        await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
        )
    )[0]


ADOPTERS = [
    (tcp_pair, adopt_tcp),
    (tcp_pair, adopt_accepted),
    (socket.socketpair, adopt_unix),
    (socket.socketpair, adopt_reader),
    (socket.socketpair, adopt_writer),
    (socket.socketpair, adopt_datagrams),
]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("pair, adopt", ADOPTERS)
def test_a_transport_gets_the_number(pair, adopt, how):
    async def main():
        loop = asyncio.get_running_loop()
        for _ in range(4):
            a, b, poll = watched(loop, how)
            one, other = pair()
            with b, other, one:
                await asyncio.sleep(0)
                free_number(a)
                transport = await adopt(loop, one)
                transport.close()
            if poll is not None:
                poll.close()
            await asyncio.sleep(0)

    run(main())


@pytest.mark.parametrize("how", HOW)
def test_an_accepted_connection_gets_the_number(how):
    async def main():
        loop = asyncio.get_running_loop()
        protocols = []

        def factory():
            protocols.append(Recorder())
            return protocols[-1]

        server = await loop.create_server(factory, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        for _ in range(3):
            protocols.clear()
            with socket.socket() as client:
                client.setblocking(False)
                a, b, poll = watched(loop, how)
                await asyncio.sleep(0)
                with b:
                    free_number(a)
                    await loop.sock_connect(client, address)
                    await loop.sock_sendall(client, b"hello")
                    await until(lambda: protocols and protocols[0].data)
                if poll is not None:
                    poll.close()
        server.close()
        return protocols[0].data

    assert run(main()) == b"hello"


@pytest.mark.parametrize("how", HOW)
def test_another_socket_is_watched_by_the_number(how):
    async def main():
        loop = asyncio.get_running_loop()
        a, b, poll = watched(loop, how)
        await asyncio.sleep(0)
        number = free_number(a)
        one, other = socket.socketpair()
        with b, one, other:
            assert one.fileno() == number
            one.setblocking(False)
            seen = asyncio.Event()
            loop.add_reader(one, seen.set)
            other.send(b"x")
            await seen.wait()
            assert loop.remove_reader(one)
            assert await loop.sock_recv(one, 10) == b"x"
        if poll is not None:
            poll.close()

    run(main())


@pytest.mark.parametrize("how", HOW)
def test_sock_calls_wait_for_another_socket(how):
    async def main():
        loop = asyncio.get_running_loop()
        a, b, poll = watched(loop, how)
        await asyncio.sleep(0)
        number = free_number(a)
        one, other = socket.socketpair()
        with b, one, other:
            assert one.fileno() == number
            one.setblocking(False)
            loop.call_later(0.001, other.send, b"x")
            assert await loop.sock_recv(one, 10) == b"x"
        if poll is not None:
            poll.close()

    run(main())


@pytest.mark.parametrize("started", [False, True])
@pytest.mark.parametrize("kind", [uv.TCP, uv.Pipe, uv.UDP, uv.Poll])
def test_raw_handles_get_the_number(kind, started):
    loop = uv.Loop()
    told = []
    a, b = socket.socketpair()
    poll = uv.Poll(loop, a)
    poll.start(uv.UV_READABLE, lambda handle, events, error: told.append(error))
    loop.run(uv.UV_RUN_NOWAIT)
    if not started:
        poll.stop()
    free_number(a)
    if kind is uv.UDP:
        new = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    elif kind is uv.TCP:
        new = socket.socket()
    else:
        new, peer = socket.socketpair()
        peer.close()
    number = new.fileno()
    if kind is uv.Poll:
        handle = uv.Poll(loop, number)
        handle.start(uv.UV_READABLE, lambda *args: None)
    else:
        handle = kind(loop)
        handle.open(number)
        new.detach()
    assert handle.fileno() == number
    assert told == [uv.errno.UV_EBADF] * started
    assert not poll.events
    handle.close()
    poll.close()
    loop.run()
    loop.close()
    b.close()
    new.close()


def test_a_number_that_is_watched_is_still_refused():
    """The very same file: two handles would take each other's events."""
    loop = uv.Loop()
    a, b = socket.socketpair()
    with a, b:
        poll = uv.Poll(loop, a)
        poll.start(uv.UV_READABLE, lambda *args: None)
        pipe = uv.Pipe(loop)
        with pytest.raises(uv.error.PipeError, match="EEXIST"):
            pipe.open(a.fileno())
        with pytest.raises(uv.error.PollError, match="EEXIST"):
            uv.Poll(loop, a)
        pipe.close()
        poll.close()
        loop.run()
    loop.close()


def test_who_is_told_may_close_everything():
    """The callback of the one that has lost its descriptor."""
    loop = uvtulip.new_event_loop()
    raw = loop.uv_loop
    a, b = socket.socketpair()
    pipe = uv.Pipe(raw)
    poll = uv.Poll(raw, a)
    poll.start(uv.UV_READABLE, lambda *args: (pipe.close(), poll.close()))
    raw.run(uv.UV_RUN_NOWAIT)
    number = free_number(a)
    new, peer = socket.socketpair()
    assert new.fileno() == number
    with b, new, peer:
        with pytest.raises(uv.error.UVError):
            pipe.open(number)
        loop.close()
