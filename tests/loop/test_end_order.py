"""The end of a connection is told in asyncio's order and at its pace: each case runs on
asyncio's loop and on ours, and the protocol has to hear of the same things, as many
turns apart."""

import asyncio
import os
import socket
import ssl

import pytest

import uvtulip
from aiosupport import LIMIT
from streamsupport import reset, tcp_pair
from tlssupport import TLSPeer, client_context, server_context, tls12

LOOPS = [asyncio.SelectorEventLoop, uvtulip.new_event_loop]
TLS = ["tls1.2", "tls1.3"]
KINDS = ["tcp", "unix", *TLS]


class Told(asyncio.Protocol):
    """What it hears, each with the number of turns since the first that counts."""

    def __init__(self, answer=None):
        self.answer = answer
        self.events = []
        self.loop = asyncio.get_running_loop()
        self.lost = self.loop.create_future()
        self.turn = None

    def tell(self, *event):
        if self.turn is None and event[0] != "made":
            self.turn = 0
            self.loop.call_soon(self.tick)
        self.events.append((*event, self.turn))

    def tick(self):
        self.turn += 1
        if not self.lost.done():
            self.loop.call_soon(self.tick)

    def connection_made(self, transport):
        self.transport = transport
        self.tell("made")

    def data_received(self, data):
        self.tell("data", data)

    def eof_received(self):
        self.tell("eof")
        self.loop.call_soon(self.after_eof)
        return self.answer

    def after_eof(self):
        self.tell("after eof")
        self.transport.write(b"the end")
        self.transport.close()

    def connection_lost(self, exc):
        self.tell("lost", type(exc))
        if not self.lost.done():
            self.lost.set_result(None)


def on_both(case, *args):
    """The results of case(*args) on both loops; they are equal."""

    async def limited():
        async with asyncio.timeout(LIMIT):
            return await case(*args)

    results = []
    for factory in LOOPS:
        with asyncio.Runner(loop_factory=factory) as runner:
            results.append(runner.run(limited()))
    assert results[0] == results[1]
    return results[1]


def contexts(kind):
    server, client = server_context(), client_context()
    if kind == "tls1.2":
        tls12(server)
    return server, client


async def connect(protocol, kind, server_side):
    """A transport of the protocol, and its peer: a TLSPeer or a socket."""
    loop = asyncio.get_running_loop()
    ours, theirs = tcp_pair(socket.AF_UNIX if kind == "unix" else socket.AF_INET)
    ours.setblocking(False)
    theirs.setblocking(False)
    if kind not in TLS:
        if kind == "unix":
            await loop.create_unix_connection(lambda: protocol, sock=ours)
        else:
            await loop.create_connection(lambda: protocol, sock=ours)
        return theirs
    server, client = contexts(kind)
    peer = TLSPeer(theirs, client if server_side else server, not server_side)
    if server_side:
        making = loop.connect_accepted_socket(lambda: protocol, ours, ssl=server)
    else:
        making = loop.create_connection(
            lambda: protocol, sock=ours, ssl=client, server_hostname="localhost"
        )
    await asyncio.gather(making, peer.handshake())
    return peer


async def end(peer, how):
    sock = getattr(peer, "sock", peer)
    if how == "reset":
        reset(sock)
        return
    if how == "close" and isinstance(peer, TLSPeer):
        await peer.send_close()
    sock.shutdown(socket.SHUT_WR)


async def told(kind, server_side, how, answer, data):
    protocol = Told(answer)
    peer = await connect(protocol, kind, server_side)
    loop = asyncio.get_running_loop()
    if data:
        if isinstance(peer, TLSPeer):
            await peer.send(data)
        else:
            await loop.sock_sendall(peer, data)
        while not protocol.events[-1][:1] == ("data",):
            await asyncio.sleep(0)
        protocol.turn = None
    await end(peer, how)
    await protocol.lost
    await asyncio.sleep(0)
    getattr(peer, "sock", peer).close()
    return [event for event in protocol.events if event[0] != "data"]


@pytest.mark.parametrize("answer", [None, True])
@pytest.mark.parametrize("how", ["close", "eof", "reset"])
@pytest.mark.parametrize("server_side", [False, True], ids=["client", "server"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_a_protocol_hears(tls_backend, kind, server_side, how, answer):
    if kind == "unix" and how == "reset":
        how = "close"  # The kernel has no other end for them.
    # What libuv does when the last bytes and a reset come together is not the matter.
    data = b"some" if how == "reset" else b""
    events = on_both(told, kind, server_side, how, answer, data)
    names = [event[0] for event in events]
    if how == "reset":
        assert names == ["made", "lost"]
        assert events[-1][1] is ConnectionResetError
    else:
        assert names == ["made", "eof", "after eof", "lost"]
        assert events[-1][1] is type(None)


@pytest.mark.parametrize("server_side", [False, True], ids=["client", "server"])
@pytest.mark.parametrize("kind", KINDS)
def test_after_data(tls_backend, kind, server_side):
    events = on_both(told, kind, server_side, "close", None, b"some")
    assert [event[0] for event in events] == ["made", "eof", "after eof", "lost"]


async def abort_or_close(kind, server_side, method):
    protocol = Told()
    peer = await connect(protocol, kind, server_side)
    protocol.tell("calls")
    getattr(protocol.transport, method)()
    if method == "close" and isinstance(peer, TLSPeer):
        await peer.unwrap()
        await protocol.lost
        protocol.events = [(*event[:-1], None) for event in protocol.events]
    await protocol.lost
    getattr(peer, "sock", peer).close()
    return [event for event in protocol.events if "eof" not in event[0]]


@pytest.mark.parametrize("method", ["abort", "close"])
@pytest.mark.parametrize("server_side", [False, True], ids=["client", "server"])
@pytest.mark.parametrize("kind", KINDS)
def test_our_own_end(tls_backend, kind, server_side, method):
    events = on_both(abort_or_close, kind, server_side, method)
    assert [event[0] for event in events] == ["made", "calls", "lost"]


async def answer_at_the_end(kind, how, sleeps):
    """What the handler meets that answers when the stream has ended."""
    loop = asyncio.get_running_loop()
    outcome = loop.create_future()

    async def handle(reader, writer):
        try:
            await reader.read()
            for _ in range(sleeps):
                await asyncio.sleep(0)
            writer.write(b"answer")
            await writer.drain()
        except OSError as exc:
            outcome.set_result(repr(exc))
        else:
            outcome.set_result("fine")
        writer.close()

    server_tls, client_tls = contexts(kind) if kind in TLS else (None, None)
    ours, theirs = tcp_pair(socket.AF_UNIX if kind == "unix" else socket.AF_INET)
    theirs.setblocking(False)
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader, handle)
    making = loop.connect_accepted_socket(lambda: protocol, ours, ssl=server_tls)
    if server_tls is None:
        await making
        peer = theirs
    else:
        peer = TLSPeer(theirs, client_tls, False)
        await asyncio.gather(making, peer.handshake())
    await end(peer, how)
    result = await outcome
    theirs.close()
    return result


@pytest.mark.parametrize("sleeps", [0, 1, 2])
@pytest.mark.parametrize("how", ["close", "eof"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_handler_that_answers_the_end(tls_backend, kind, how, sleeps):
    result = on_both(answer_at_the_end, kind, how, sleeps)
    if sleeps == 0:
        assert result == "fine"


async def pipe_ends(reads):
    loop = asyncio.get_running_loop()
    protocol = Told()
    reader, writer = os.pipe()
    if reads:
        await loop.connect_read_pipe(lambda: protocol, os.fdopen(reader, "rb", 0))
        os.close(writer)
    else:
        await loop.connect_write_pipe(lambda: protocol, os.fdopen(writer, "wb", 0))
        os.close(reader)
    await protocol.lost
    await asyncio.sleep(0)
    return [event[:-1] for event in protocol.events if event[0] != "after eof"]


@pytest.mark.parametrize("reads", [True, False], ids=["read", "write"])
def test_pipes(reads):
    events = on_both(pipe_ends, reads)
    assert [event[0] for event in events] == (
        ["made", "eof", "lost"] if reads else ["made", "lost"]
    )


def test_tls_in_tls(tls_backend):
    """The inner connection ends, and with it the outer one: both in their order."""

    async def main():
        loop = asyncio.get_running_loop()
        told, inner = [], Told()

        async def serve(reader, writer):
            await writer.start_tls(server_context())
            writer.close()
            told.append(await reader.read())

        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_context())
        host, port = server.sockets[0].getsockname()
        transport, _ = await loop.create_connection(
            lambda: inner, host, port, ssl=client_context(), server_hostname="localhost"
        )
        await loop.start_tls(
            transport, inner, client_context(), server_hostname="localhost"
        )
        await inner.lost
        server.close()
        return [event[0] for event in inner.events if event[0] != "after eof"]

    assert on_both(main) == ["made", "eof", "lost"]


def test_set_protocol_does_not_redirect_the_end(tls_backend):
    """Who was the protocol when the connection was lost hears of it, nobody else."""

    async def main():
        protocol, other = Told(), Told()
        peer = await connect(protocol, "tls1.3", True)
        loop = asyncio.get_running_loop()

        def set_other(turns):
            if turns and not protocol.lost.done():
                loop.call_soon(set_other, turns - 1)
            elif not protocol.lost.done():
                protocol.transport.set_protocol(other)

        protocol.transport.abort()
        loop.call_soon(set_other, 0)
        await protocol.lost
        peer.close()
        return [e[0] for e in protocol.events], [e[0] for e in other.events]

    assert on_both(main) == (["made", "lost"], [])


def test_the_peers_data_is_not_lost_at_the_end(tls_backend):
    """Data and close_notify in one piece."""

    async def main():
        protocol = Told()
        peer = await connect(protocol, "tls1.3", False)
        peer.object.write(b"last words")
        with pytest.raises(ssl.SSLWantReadError):
            peer.object.unwrap()
        await peer.flush()
        await protocol.lost
        peer.close()
        return [event for event in protocol.events if event[0] == "data"]

    assert on_both(main) == [("data", b"last words", 0)]
