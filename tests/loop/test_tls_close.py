"""How TLS connections end: in order, at once, by error, at every step."""

import asyncio
import gc
import socket
import ssl
import weakref

import pytest

import uvtulip
from aiosupport import Recorder, open_descriptors, run, turns, until
from streamsupport import Events, reset
from tlssupport import (
    TLSPeer,
    client_context,
    client_side,
    serve_one,
    server_context,
    server_side,
)

pytestmark = pytest.mark.usefixtures("tls_backend")


@pytest.fixture(autouse=True)
def nothing_stays():
    gc.collect()
    before = open_descriptors()
    yield
    gc.collect()
    assert open_descriptors() == before


def recording(protocols, cls=Events):
    def factory():
        protocols.append(cls())
        return protocols[-1]

    return factory


# ---- our side closes ----


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_close(version):
    async def main():
        protocol = Events()
        transport, peer = await client_side(
            protocol, client_context(maximum_version=version)
        )
        with peer:
            transport.write(b"last words")
            transport.close()
            assert transport.is_closing()
            transport.close()
            assert await peer.rest() == b"last words"
            assert not protocol.lost.done()
            await peer.unwrap()
            assert await protocol.lost is None
            # The end of TLS comes before the end of TCP.
            assert await peer.fill() is False

    run(main())


@pytest.mark.parametrize("again", [False, True])
def test_a_second_close_lets_the_context_go(again):
    """With the connection, though the protocol keeps the transport, as asyncio does."""

    async def main():
        protocol = Events()
        context = client_context()
        left = weakref.ref(context)
        transport, peer = await client_side(protocol, context)
        del context
        with peer:
            transport.close()
            if again:
                transport.close()
            assert transport.get_extra_info("ssl_object") is not None
            await peer.unwrap()
            assert await protocol.lost is None
        gc.collect()
        assert (left() is None) is again
        assert (transport.get_extra_info("sslcontext") is None) is again
        assert (transport.get_extra_info("cipher") is None) is again
        transport.close()
        gc.collect()
        assert left() is None
        for name in ("ssl_object", "sslcontext", "peercert", "peer_certificate"):
            assert transport.get_extra_info(name, name) == name
        assert transport.get_extra_info("tls_backend") is not None

    run(main())


def test_close_sends_what_a_slow_peer_has_not_read():
    async def main():
        protocol = Events()
        transport, peer = await client_side(protocol)
        data = bytes(range(256)) * 40_000  # 10 MB
        with peer:
            transport.write(data)
            transport.close()
            await turns(20)
            assert not protocol.lost.done()
            assert await peer.rest() == data
            await peer.unwrap()
            assert await protocol.lost is None

    run(main())


def test_close_drops_what_still_comes():
    """A peer that goes on sending is no error, and is not told to us."""

    async def main():
        protocol = Events()
        transport, peer = await client_side(protocol)
        with peer:
            await peer.send(b"before")
            await protocol.until(6)
            transport.close()
            for _ in range(20):
                await peer.send(b"x" * 50_000)
            assert await peer.rest() == b""
            await peer.unwrap()
            assert await protocol.lost is None
            assert protocol.data == b"before"

    run(main())


def test_close_while_reading_is_paused():
    async def main():
        protocol = Events()
        transport, peer = await client_side(protocol)
        with peer:
            transport.pause_reading()
            await peer.send(b"x" * 100_000)
            await turns(10)
            transport.close()
            assert await peer.rest() == b""
            await peer.unwrap()
            assert await protocol.lost is None
            assert protocol.data == b""

    run(main())


def test_close_when_the_peer_ends_without_an_answer():
    async def main():
        protocol = Events()
        transport, peer = await client_side(protocol)
        with peer:
            transport.close()
            assert await peer.rest() == b""
        assert await protocol.lost is None

    run(main())


def test_shutdown_timeout():
    async def main():
        protocol = Events()
        transport, peer = await client_side(protocol, ssl_shutdown_timeout=0.05)
        with peer:
            transport.close()
            error = await protocol.lost
            assert type(error) is TimeoutError
            assert str(error) == "SSL shutdown timed out"
            assert await peer.rest() == b""

    run(main())


def test_shutdown_timeout_with_a_peer_that_reads_nothing():
    async def main():
        protocol = Events()
        transport, peer = await client_side(protocol, ssl_shutdown_timeout=0.05)
        with peer:
            transport.write(b"x" * 20_000_000)
            transport.close()
            assert type(await protocol.lost) is TimeoutError

    run(main())


def test_write_after_close(caplog):
    async def main():
        protocol = Events()
        transport, peer = await client_side(protocol)
        with peer:
            transport.close()
            for _ in range(6):
                transport.write(b"too late")
            transport.writelines([b"too", b"late"])
            transport.pause_reading()
            transport.resume_reading()
            assert not transport.is_reading()
            assert await peer.rest() == b""
            await peer.unwrap()
            await protocol.lost
            transport.write(b"too late")
            transport.close()
            transport.abort()
            assert transport.get_write_buffer_size() == 0

    run(main())
    assert "SSL connection is closed" in caplog.text


def test_abort():
    async def main():
        protocol = Events()
        transport, peer = await client_side(protocol)
        with peer:
            transport.write(b"x" * 20_000_000)
            transport.abort()
            assert transport.is_closing()
            assert not protocol.lost.done()
            assert await protocol.lost is None
            assert protocol.events[-1] == "lost"

    run(main())


def test_abort_sends_what_the_kernel_takes_now():
    async def main():
        protocol = Events()
        transport, peer = await client_side(protocol)
        with peer:
            transport.write(b"short")
            transport.abort()
            assert await peer.exactly(5) == b"short"
            with pytest.raises((ssl.SSLEOFError, ConnectionResetError)):
                await peer.recv()
            assert await protocol.lost is None

    run(main())


def test_abort_after_close():
    async def main():
        protocol = Events()
        transport, peer = await client_side(protocol)
        with peer:
            transport.close()
            await turns()
            assert not protocol.lost.done()
            transport.abort()
            assert await protocol.lost is None

    run(main())


def test_force_close():
    async def main():
        protocol = Events()
        transport, peer = await client_side(protocol)
        error = OSError("mine")
        with peer:
            transport._force_close(error)
            assert await protocol.lost is error

    run(main())


@pytest.mark.parametrize("method", ["close", "abort"])
@pytest.mark.parametrize("where", ["connection_made", "data_received", "eof_received"])
def test_ending_inside_of_a_callback(where, method):
    class Ending(Events):
        pass

    def end(self, *args):
        if where == "connection_made":
            Events.connection_made(self, *args)
        self.transport.write(b"bye")
        getattr(self.transport, method)()

    setattr(Ending, where, end)

    async def main():
        protocols = []
        server, peer = await server_side(recording(protocols, Ending))
        with peer:
            if where == "data_received":
                await peer.send(b"x" * 100_000)
            elif where == "eof_received":
                await peer.send_close()
            assert await peer.exactly(3) == b"bye"
            if method == "close":
                assert await peer.recv() == b""
                await peer.unwrap()
        assert await protocols[0].lost is None
        server.close()
        await server.wait_closed()

    run(main())


# ---- the peer closes ----


def test_peer_closes():
    """Data, then eof_received(), then our close_notify, then connection_lost()."""

    async def main():
        protocol = Events()
        _, peer = await client_side(protocol)
        with peer:
            await peer.send(b"last words")
            await peer.unwrap()
            assert await protocol.lost is None
            assert protocol.data == b"last words"
            assert protocol.events == ["made", "data", "eof", "lost"]

    run(main())


def test_data_and_end_in_one_read():
    async def main():
        protocol = Events()
        _, peer = await client_side(protocol)
        with peer:
            peer.object.write(b"x" * 50_000)
            with pytest.raises(ssl.SSLWantReadError):
                peer.object.unwrap()
            await peer.flush()
            peer.sock.shutdown(socket.SHUT_WR)
            assert await protocol.lost is None
            assert protocol.data == b"x" * 50_000
            assert protocol.events == ["made", "data", "eof", "lost"]

    run(main())


@pytest.mark.parametrize("notify", [True, False])
def test_peer_closes_while_reading_is_paused(notify):
    async def main():
        protocol = Events()
        transport, peer = await client_side(protocol)
        with peer:
            transport.pause_reading()
            await peer.send(b"x" * 300_000)
            if notify:
                await peer.send_close()
            peer.sock.shutdown(socket.SHUT_WR)
            await turns(20)
            assert protocol.events == ["made"]
            transport.resume_reading()
            assert await protocol.lost is None
            assert protocol.data == b"x" * 300_000
            assert protocol.events[-2:] == ["eof", "lost"]

    run(main())


def test_peer_ends_without_close_notify():
    """Reported as asyncio does: an end like any other."""

    async def main():
        protocol = Events()
        _, peer = await client_side(protocol)
        with peer:
            await peer.send(b"last words")
            peer.sock.shutdown(socket.SHUT_WR)
            assert await protocol.lost is None
            assert protocol.events == ["made", "data", "eof", "lost"]

    run(main())


def test_what_was_written_is_sent_after_the_peers_end():
    """Both with close_notify and without, to a peer that reads slowly."""

    async def main(notify):
        protocol = Events()
        transport, peer = await client_side(protocol)
        data = b"y" * 10_000_000
        with peer:
            transport.write(data)
            if notify:
                await peer.send_close()
            else:
                peer.sock.shutdown(socket.SHUT_WR)
            await until(lambda: "eof" in protocol.events)
            assert await peer.exactly(len(data)) == data
            if notify:
                await peer.unwrap()
        assert await protocol.lost is None

    run(main(True))
    run(main(False))


def test_eof_received_may_still_write():
    class Answering(Events):
        def eof_received(self):
            super().eof_received()
            self.transport.write(b"goodbye")

    async def main():
        protocol = Answering()
        _, peer = await client_side(protocol)
        with peer:
            await peer.send_close()
            assert await peer.rest() == b"goodbye"
            assert await protocol.lost is None

    run(main())


def test_eof_received_cannot_keep_it_open(caplog):
    class Keeping(Events):
        def eof_received(self):
            return True

    async def main():
        protocol = Keeping()
        _, peer = await client_side(protocol)
        with peer:
            await peer.unwrap()
            assert await protocol.lost is None

    run(main())
    assert "has no effect when using ssl" in caplog.text


def test_reset():
    async def main():
        protocol = Events()
        _, peer = await client_side(protocol)
        await peer.send(b"data")
        await protocol.until(4)
        reset(peer.sock)
        assert isinstance(await protocol.lost, ConnectionResetError)
        assert protocol.events == ["made", "data", "lost"]

    run(main())


def test_reset_while_closing():
    async def main():
        protocol = Events()
        transport, peer = await client_side(protocol)
        transport.write(b"x" * 10_000_000)
        transport.close()
        await turns()
        reset(peer.sock)
        assert isinstance(await protocol.lost, ConnectionError)

    run(main())


@pytest.mark.parametrize("garbage", [b"\0" * 100, b"GET / HTTP/1.1\r\n\r\n" * 5])
def test_garbage(garbage):
    async def main():
        protocol = Events()
        _, peer = await client_side(protocol)
        with peer:
            await peer.send(b"data")
            await peer.loop.sock_sendall(peer.sock, garbage)
            error = await protocol.lost
            assert isinstance(error, ssl.SSLError)
            # The newer OpenSSL, the less it tells.
            assert error.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE")
            assert protocol.data == b"data"
            with pytest.raises((ssl.SSLError, ConnectionResetError)):
                await peer.recv()

    run(main())


def test_a_record_that_was_tampered_with():
    async def main():
        protocol = Events()
        _, peer = await client_side(protocol)
        with peer:
            peer.object.write(b"data")
            record = bytearray(peer.outgoing.read())
            record[-1] ^= 1
            await peer.loop.sock_sendall(peer.sock, record)
            error = await protocol.lost
            assert isinstance(error, ssl.SSLError)
            reasons = ("BAD_RECORD_MAC", "RECORD_LAYER_FAILURE")
            assert any(reason in error.reason for reason in reasons)
            assert error.library == "SSL"

    run(main())


def test_half_a_record_and_the_end():
    async def main():
        protocol = Events()
        _, peer = await client_side(protocol)
        with peer:
            peer.object.write(b"data" * 100)
            await peer.loop.sock_sendall(peer.sock, peer.outgoing.read()[:50])
            peer.sock.shutdown(socket.SHUT_WR)
            assert await protocol.lost is None
            assert protocol.events == ["made", "eof", "lost"]

    run(main())


# ---- handshakes that fail ----


def test_untrusted_certificate():
    async def main():
        server, sock = await serve_one(Recorder)
        sock.close()
        loop = asyncio.get_running_loop()
        strict = ssl.create_default_context()
        protocol = Recorder()
        with pytest.raises(ssl.SSLCertVerificationError) as caught:
            await loop.create_connection(
                lambda: protocol,
                *server.sockets[0].getsockname(),
                ssl=strict,
                server_hostname="localhost",
            )
        assert caught.value.verify_code != 0
        assert "certificate" in caught.value.verify_message
        assert caught.value.reason == "CERTIFICATE_VERIFY_FAILED"
        assert protocol.transport is None
        server.close()
        await server.wait_closed()

    run(main())


def test_the_peer_hears_why():
    """An alert leaves before the connection is closed."""

    async def main():
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setblocking(False)
            connecting = asyncio.ensure_future(
                loop.create_connection(
                    Recorder,
                    *listener.getsockname(),
                    ssl=client_context(),
                    server_hostname="other",
                )
            )
            sock, _ = await loop.sock_accept(listener)
        with TLSPeer(sock, server_context(), True) as peer:
            with pytest.raises(ssl.SSLError) as caught:
                await peer.handshake()
                await peer.recv()
            assert "ALERT" in caught.value.reason
            with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
                await connecting

    run(main())


def test_plain_http_on_a_tls_port():
    async def main():
        protocols = []
        server, sock = await serve_one(recording(protocols))
        with sock:
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(sock, b"GET / HTTP/1.1\r\n\r\n")
            answer = await loop.sock_recv(sock, 100)
            assert answer[:1] in (b"", b"\x15")  # An alert, or the end.
        server.close()
        await server.wait_closed()
        assert protocols[0].events == []

    run(main())


def test_a_server_that_does_not_speak_tls():
    async def main():
        loop = asyncio.get_running_loop()

        class Plain(asyncio.Protocol):
            def connection_made(self, transport):
                transport.write(b"220 ready\r\n")

        server = await loop.create_server(Plain, "127.0.0.1", 0)
        with pytest.raises(ssl.SSLError) as caught:
            await loop.create_connection(
                Recorder,
                *server.sockets[0].getsockname(),
                ssl=client_context(),
                server_hostname="localhost",
            )
        assert caught.value.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE")
        server.close()
        await server.wait_closed()

    run(main())


async def listening():
    loop = asyncio.get_running_loop()
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    return loop, listener


def connecting_to(loop, listener, **options):
    return asyncio.ensure_future(
        loop.create_connection(
            Recorder,
            *listener.getsockname(),
            ssl=client_context(),
            server_hostname="localhost",
            **options,
        )
    )


def test_handshake_timeout_of_a_client():
    async def main():
        loop, listener = await listening()
        with listener:
            connecting = connecting_to(loop, listener, ssl_handshake_timeout=0.05)
            sock, _ = await loop.sock_accept(listener)
            with sock, pytest.raises(ConnectionAbortedError) as caught:
                await connecting
            assert str(caught.value) == (
                "SSL handshake is taking longer than 0.05 seconds: "
                "aborting the connection"
            )

    run(main())


def test_handshake_timeout_of_a_server():
    async def main():
        protocols = []
        server, sock = await serve_one(
            recording(protocols), ssl_handshake_timeout=0.05
        )
        with sock:
            assert await asyncio.get_running_loop().sock_recv(sock, 100) == b""
        server.close()
        await server.wait_closed()
        assert protocols[0].events == []

    run(main())


@pytest.mark.parametrize("end", ["close", "reset", "shutdown"])
@pytest.mark.parametrize("after", [0, 1, 100, 400])
def test_the_peer_gives_up_in_the_handshake_of_a_server(after, end):
    async def main():
        protocols = []
        server, sock = await serve_one(recording(protocols))
        with TLSPeer(sock, client_context(), False) as peer:
            with pytest.raises(ssl.SSLWantReadError):
                peer.object.do_handshake()
            hello = peer.outgoing.read()
            await peer.loop.sock_sendall(sock, hello[:after])
            await turns(3)
            if end == "reset":
                reset(sock)
            elif end == "shutdown":
                sock.shutdown(socket.SHUT_WR)
                server.close()
                await server.wait_closed()
        server.close()
        await server.wait_closed()
        assert [p.events for p in protocols] in ([], [[]])

    run(main())


@pytest.mark.parametrize("end", ["close", "reset"])
@pytest.mark.parametrize("after", [0, 100, 700])
def test_the_peer_gives_up_in_the_handshake_of_a_client(after, end):
    async def main():
        loop, listener = await listening()
        with listener:
            connecting = connecting_to(loop, listener)
            sock, _ = await loop.sock_accept(listener)
        with TLSPeer(sock, server_context(), True) as peer:
            await peer.fill()
            with pytest.raises(ssl.SSLWantReadError):
                peer.object.do_handshake()
            await loop.sock_sendall(sock, peer.outgoing.read()[:after])
            await turns(3)
            if end == "reset":
                reset(sock)
        with pytest.raises(ConnectionResetError):
            await connecting

    run(main())


def test_connecting_is_cancelled_in_the_handshake():
    async def main():
        loop, listener = await listening()
        with listener:
            connecting = connecting_to(loop, listener)
            sock, _ = await loop.sock_accept(listener)
        with sock:
            assert await loop.sock_recv(sock, 10)
            connecting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await connecting
            while await loop.sock_recv(sock, 10_000):
                pass

    run(main())


def test_a_server_is_closed_in_the_handshake():
    async def main():
        protocols = []
        server, sock = await serve_one(recording(protocols))
        with sock:
            await until(lambda: protocols)
            server.close()
            server.close_clients()
            await server.wait_closed()
            assert protocols[0].events == []
            assert await asyncio.get_running_loop().sock_recv(sock, 10) == b""

    run(main())


def test_writes_during_the_handshake_wait():
    """start_tls() leaves the protocol the transport while the handshake goes on."""

    class Early(Events):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.write(b"early")
            transport.write(b" bird")

    async def main():
        protocols = []
        server, peer = await server_side(recording(protocols, Early))
        with peer:
            assert await peer.exactly(10) == b"early bird"
            await peer.unwrap()
        server.close()
        await server.wait_closed()

    run(main())


# ---- what stays ----


def test_ssl_object_outlives_the_connection():
    async def main():
        protocol = Events()
        transport, peer = await client_side(protocol)
        kept = transport.get_extra_info("ssl_object")
        with peer:
            transport.abort()
            await protocol.lost
        del transport, protocol
        gc.collect()
        return kept

    kept = run(main())
    assert kept.version() == "TLSv1.3"
    assert kept.cipher()
    with pytest.raises(ssl.SSLError):
        kept.read(10)
    with pytest.raises(ssl.SSLError):
        kept.write(b"x")
        kept.unwrap()
    kept.session
    del kept
    gc.collect()


def test_a_loop_that_is_closed_with_open_connections():
    async def main():
        protocols = []
        server, peer = await server_side(recording(protocols))
        await until(lambda: protocols and protocols[0].transport)
        protocols[0].transport.write(b"x" * 10_000_000)
        return server, peer.sock

    with asyncio.Runner(loop_factory=uvtulip.new_event_loop) as runner:
        server, sock = runner.run(main())
        server.close()
    sock.close()
    with pytest.warns(ResourceWarning, match="unclosed transport"):
        del runner, server
        gc.collect()
