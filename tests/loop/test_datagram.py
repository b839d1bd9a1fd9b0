"""Datagram transports over UDP: what comes in, what goes out, errors, the end."""

import asyncio
import contextvars
import errno
import gc
import logging
import socket
import threading
import weakref

import pytest

import uvtulip
from aiosupport import check_script, has_ipv6, open_descriptors, run, turns, until
from datagramsupport import (
    HOST,
    DatagramEcho,
    Datagrams,
    close,
    endpoint,
    received,
    udp_socket,
)
from uvtulip import uv
from uvtulip._transports import DatagramTransport

hosts = pytest.mark.parametrize(
    "host",
    [
        HOST,
        pytest.param("::1", marks=pytest.mark.skipif(not has_ipv6(), reason="IPv6")),
    ],
)


@pytest.fixture(autouse=True)
def no_leak():
    gc.collect()
    before = open_descriptors()
    yield
    gc.collect()
    assert open_descriptors() == before


# ---- in and out ----


@hosts
def test_echo(host):
    async def main():
        server, protocol = await endpoint(DatagramEcho, local_addr=(host, 0))
        name = server.get_extra_info("sockname")
        client, answers = await endpoint(remote_addr=name[:2])
        messages = [b"%d" % n for n in range(100)]
        for message in messages:
            client.sendto(message)
        assert await answers.until(100) == messages
        assert protocol.data == messages
        assert set(protocol.addresses) == {client.get_extra_info("sockname")}
        assert set(answers.addresses) == {name}
        assert (answers.errors, protocol.errors) == ([], [])
        await close(client, server)

    run(main())


@hosts
def test_addresses_are_those_of_the_socket_module(host):
    async def main():
        server, protocol = await endpoint(local_addr=(host, 0))
        with udp_socket(server, host) as peer:
            peer.send(b"x")
            await protocol.until(1)
            assert protocol.addresses == [peer.getsockname()]
            server.sendto(b"y", protocol.addresses[0])
            assert await received(peer, 1) == [b"y"]
            server.sendto(b"z", peer.getsockname()[:2])
            assert await received(peer, 1) == [b"z"]
        await close(server)

    run(main())


def test_many_senders_keep_their_addresses():
    """More of them than are remembered, in an order that mixes them."""

    async def main():
        server, protocol = await endpoint(DatagramEcho)
        peers = [udp_socket(server) for _ in range(300)]
        for round in range(3):
            for number, peer in enumerate(peers):
                peer.send(b"%d %d" % (round, number))
                if number % 50 == 49:  # No more than the socket's buffer takes.
                    await protocol.until(300 * round + number + 1)
            for number, peer in enumerate(peers):
                assert await received(peer, 1) == [b"%d %d" % (round, number)]
        assert len(set(protocol.addresses)) == 300
        by_number = dict(zip(protocol.data, protocol.addresses, strict=True))
        for number, peer in enumerate(peers):
            assert by_number[b"2 %d" % number] == peer.getsockname()
            peer.close()
        await close(server)

    run(main())


def test_the_same_sender_gives_the_same_object():
    async def main():
        server, protocol = await endpoint()
        with udp_socket(server) as one, udp_socket(server) as other:
            for sock in (one, other, one, other):
                sock.send(b"x")
            await protocol.until(4)
            first, second, third, fourth = protocol.addresses
        assert first is third
        assert second is fourth
        await close(server)

    run(main())


@pytest.mark.skipif("sys.version_info < (3, 13)", reason="dropped before 3.13")
def test_empty_datagrams():
    async def main():
        server, protocol = await endpoint(DatagramEcho)
        client, answers = await endpoint(
            remote_addr=server.get_extra_info("sockname")
        )
        client.sendto(b"")
        client.sendto(bytearray())
        client.sendto(b"end")
        assert await answers.until(3) == [b"", b"", b"end"]
        assert protocol.data == [b"", b"", b"end"]
        await close(client, server)

    run(main())


@pytest.mark.skipif("sys.version_info >= (3, 13)", reason="sent since 3.13")
def test_empty_datagrams_are_dropped():
    async def main():
        server, protocol = await endpoint()
        with udp_socket(server) as peer:
            server.sendto(b"", peer.getsockname())
            server.sendto(b"", "nonsense")
            server.sendto(b"end", peer.getsockname())
            assert await received(peer, 1) == [b"end"]
            peer.send(b"")
            assert await protocol.until(1) == [b""]
        await close(server)

    run(main())


def test_the_largest_datagrams():
    async def main():
        server, protocol = await endpoint(DatagramEcho)
        client, answers = await endpoint(
            remote_addr=server.get_extra_info("sockname")
        )
        for size in (65507, 1, 60000):
            data = bytes(range(256)) * (size // 256 + 1)
            client.sendto(data[:size])
            await answers.until(1)
            assert answers.data.pop() == data[:size]
        await close(client, server)

    run(main())


def test_connected_hears_nobody_else():
    async def main():
        with udp_socket() as friend, udp_socket() as stranger:
            transport, protocol = await endpoint(remote_addr=friend.getsockname())
            name = transport.get_extra_info("sockname")
            stranger.sendto(b"stranger", name)
            friend.sendto(b"friend", name)
            assert await protocol.until(1) == [b"friend"]
            assert protocol.addresses == [friend.getsockname()]
            transport.sendto(b"1")
            transport.sendto(b"2", None)
            transport.sendto(b"3", friend.getsockname())
            transport.sendto(data=b"4", addr=friend.getsockname())
            assert await received(friend, 4) == [b"1", b"2", b"3", b"4"]
            for bad in (stranger.getsockname(), ("localhost", 1), "x", 5):
                with pytest.raises(
                    ValueError, match=r"^Invalid address: must be None or \('127"
                ):
                    transport.sendto(b"x", bad)
            assert not transport.is_closing()
            await close(transport)

    run(main())


def test_broadcast():
    """With allow_broadcast the socket is not connected, but has an address."""

    async def main():
        server, protocol = await endpoint(
            local_addr=("0.0.0.0", 0), allow_broadcast=True
        )
        port = server.get_extra_info("sockname")[1]
        sock = server.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST)
        sender, _ = await endpoint(
            remote_addr=("127.255.255.255", port), allow_broadcast=True
        )
        assert sender.get_extra_info("peername") is None
        sender.sendto(b"to all")
        assert await protocol.until(1) == [b"to all"]
        with pytest.raises(ValueError, match="Invalid address"):
            sender.sendto(b"x", (HOST, port))
        await close(server, sender)

    run(main())


def test_broadcast_is_refused_by_default():
    async def main():
        transport, protocol = await endpoint(local_addr=("0.0.0.0", 0))
        transport.sendto(b"x", ("<broadcast>", 9))
        assert isinstance(await protocol.error(), PermissionError)
        assert not transport.is_closing()
        await close(transport)

    run(main())


def test_multicast_by_socket_options():
    async def main():
        transport, protocol = await endpoint(local_addr=("0.0.0.0", 0))
        sock = transport.get_extra_info("socket")
        group = socket.inet_aton("239.255.77.1")
        here = socket.inet_aton(HOST)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, here)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group + here)
        transport.sendto(b"hello", ("239.255.77.1", sock.getsockname()[1]))
        assert await protocol.until(1) == [b"hello"]
        await close(transport)

    run(main())


def test_multicast_by_the_raw_handle():
    async def main():
        transport, protocol = await endpoint(local_addr=("0.0.0.0", 0))
        handle = transport.get_extra_info("uv_handle")
        assert type(handle) is uv.UDP
        handle.set_multicast_interface(HOST)
        handle.set_membership("239.255.77.2", uv.UV_JOIN_GROUP, HOST)
        transport.sendto(b"hello", ("239.255.77.2", handle.getsockname()[1]))
        assert await protocol.until(1) == [b"hello"]
        with pytest.raises(RuntimeError, match="belongs to a transport"):
            handle.start_recv(print)
        with pytest.raises(RuntimeError, match="belongs to a transport"):
            handle.send(("127.0.0.1", 9), b"x")
        await close(transport)

    run(main())


def test_changed_buffers_are_sent_as_they_were():
    async def main():
        server, protocol = await endpoint()
        data = bytearray(b"before")
        with udp_socket() as peer:
            for view in (data, memoryview(data), memoryview(data)[::2]):
                server.sendto(view, peer.getsockname())
            del view
            data[:] = b"after!"
            data.extend(b" and longer")
            assert await received(peer, 3) == [b"before", b"before", b"bfr"]

            class Bytes(bytes):
                pass

            server.sendto(Bytes(b"subclass"), peer.getsockname())
            assert await received(peer, 1) == [b"subclass"]
        await close(server)

    run(main())


def test_bursts_keep_their_order():
    async def main():
        server, _ = await endpoint()
        with udp_socket() as one, udp_socket() as two:
            peers = [one.getsockname(), two.getsockname()]
            for number in range(200):
                server.sendto(b"%d" % number, peers[number % 2])
            assert await received(one, 100) == [b"%d" % n for n in range(0, 200, 2)]
            assert await received(two, 100) == [b"%d" % n for n in range(1, 200, 2)]
        await close(server)

    run(main())


def test_a_burst_leaves_when_the_callback_ends():
    async def main():
        with udp_socket() as peer:
            transport, _ = await endpoint(remote_addr=peer.getsockname())
            for _ in range(32):
                transport.sendto(b"x")
            with pytest.raises(BlockingIOError):
                peer.recv(10)
            await asyncio.sleep(0)
            assert [peer.recv(10) for _ in range(32)] == [b"x"] * 32
            # What asks for the size sends first.
            transport.sendto(b"y")
            assert transport.get_write_buffer_size() == 0
            assert peer.recv(10) == b"y"
            await close(transport)

    run(main())


def test_sent_at_once_when_the_loop_does_not_run():
    loop = uvtulip.new_event_loop()
    with udp_socket() as peer:
        transport, protocol = loop.run_until_complete(
            loop.create_datagram_endpoint(
                asyncio.DatagramProtocol, remote_addr=peer.getsockname()
            )
        )
        transport.sendto(b"x")
        assert peer.recv(10) == b"x"
        transport.sendto(b"y")
        transport.close()
        assert peer.recv(10) == b"y"
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


# ---- arguments ----


def test_arguments_of_sendto():
    async def main():
        transport, protocol = await endpoint()
        for data in ("text", 5, None, [b"x"], object()):
            with pytest.raises(
                TypeError,
                match="^data argument must be a bytes-like object, "
                f"not {type(data).__name__!r}$",
            ):
                transport.sendto(data, (HOST, 9))
        for call in (
            lambda: transport.sendto(),
            lambda: transport.sendto(addr=(HOST, 9)),
            lambda: transport.sendto(b"x", (HOST, 9), 1),
            lambda: transport.sendto(b"x", data=b"x"),
            lambda: transport.sendto(b"x", (HOST, 9), addr=(HOST, 9)),
            lambda: transport.sendto(b"x", address=(HOST, 9)),
        ):
            with pytest.raises(TypeError, match=r"^sendto\(\)"):
                call()
        with pytest.raises(TypeError, match="needs an address"):
            transport.sendto(b"x")
        with pytest.raises(TypeError, match="needs an address"):
            transport.sendto(b"x", None)
        for addr in ("127.0.0.1", 9, (HOST,), (HOST, 9, 0, 0, 0), (HOST, "9"), (1, 9)):
            with pytest.raises(TypeError, match=r"^sendto\(\)"):
                transport.sendto(b"x", addr)
        for port in (-1, 65536, 1 << 70):
            with pytest.raises(OverflowError, match="port must be 0-65535"):
                transport.sendto(b"x", (HOST, port))
        await turns()
        assert protocol.events == ["made"]
        await close(transport)

    run(main())


@pytest.mark.parametrize("host", ["localhost", "example.com", "1.2.3", "::1%nowhere"])
def test_host_names_are_not_looked_up(host):
    async def main():
        transport, protocol = await endpoint()
        with pytest.raises(ValueError, match=f"does not look up.*'{host}'.*resolved"):
            transport.sendto(b"x", (host, 9))
        assert not transport.is_closing()
        await close(transport)

    run(main())


def test_addresses_whose_members_run_code():
    async def main():
        transport, protocol = await endpoint()

        class Port:
            def __init__(self, action):
                self.action = action

            def __index__(self):
                self.action()
                return port

        with udp_socket() as peer:
            port = peer.getsockname()[1]
            addr = HOST, Port(lambda: transport.sendto(b"inside", peer.getsockname()))
            transport.sendto(b"outside", addr)
            assert await received(peer, 2) == [b"inside", b"outside"]
            with pytest.raises(ZeroDivisionError):
                transport.sendto(b"x", (HOST, Port(lambda: 1 / 0)))
            # It may change its mind, so it is asked again.
            changing = HOST, Port(int)
            transport.sendto(b"one", changing)
            port = 9
            transport.sendto(b"two", changing)
            port = peer.getsockname()[1]
            transport.sendto(b"three", changing)
            assert await received(peer, 2) == [b"one", b"three"]
            transport.sendto(b"x", (HOST, Port(transport.abort)))
        await protocol.lost

    run(main())


# ---- errors ----


def test_refused_connection():
    async def main():
        with udp_socket() as nobody:
            name = nobody.getsockname()
        transport, protocol = await endpoint(remote_addr=name)
        for number in range(3):
            transport.sendto(b"x")
            await until(lambda number=number: len(protocol.errors) > number)
        assert {type(exc) for exc in protocol.errors} == {ConnectionRefusedError}
        assert str(protocol.errors[0]) == "[Errno 111] Connection refused"
        assert not transport.is_closing()
        # Somebody comes: nothing has to be made anew.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.bind(name)
            peer.setblocking(False)
            transport.sendto(b"now")
            assert await received(peer, 1) == [b"now"]
        await close(transport)
        assert protocol.lost.result() is None

    run(main())


def test_too_large_datagrams():
    async def main():
        transport, protocol = await endpoint()
        with udp_socket() as peer:
            for data in (b"one", b"x" * 65508, b"two", b"x" * 100000, b"three"):
                transport.sendto(data, peer.getsockname())
            assert await received(peer, 3) == [b"one", b"two", b"three"]
        assert [exc.errno for exc in protocol.errors] == [errno.EMSGSIZE] * 2
        assert transport.get_write_buffer_size() == 0
        await close(transport)

    run(main())


@pytest.mark.skipif(not has_ipv6(), reason="IPv6")
def test_address_of_another_family():
    async def main():
        transport, protocol = await endpoint()
        transport.sendto(b"x", ("::1", 9))
        assert isinstance(await protocol.error(), OSError)
        await close(transport)

    run(main())


def test_error_details_of_the_kernel_do_not_keep_the_loop_busy():
    async def main():
        with udp_socket() as nobody:
            name = nobody.getsockname()
        transport, protocol = await endpoint()
        IP_RECVERR = 11
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        transport.sendto(b"x", name)
        assert isinstance(await protocol.error(), ConnectionRefusedError)
        await asyncio.sleep(0.01)
        with sock.dup() as own, pytest.raises(BlockingIOError):
            own.recv(1, socket.MSG_ERRQUEUE)
        await close(transport)

    run(main())


@pytest.mark.parametrize("size", [1, 70000])
def test_error_received_that_sends(size):
    """It always fails again: the loop must go on nevertheless."""

    async def main():
        class Stubborn(Datagrams):
            def error_received(self, exc):
                super().error_received(exc)
                if not self.lost.done():
                    self.transport.sendto(b"x" * size, ("<broadcast>", 9))

        transport, protocol = await endpoint(Stubborn, local_addr=("0.0.0.0", 0))
        transport.sendto(b"x" * size, ("<broadcast>", 9))
        await asyncio.sleep(0.01)
        assert len(protocol.errors) > 2
        transport.abort()
        await protocol.lost

    run(main())


# ---- protocols that do what they should not, or may ----


def collect_errors():
    caught = []
    asyncio.get_running_loop().set_exception_handler(
        lambda loop, context: caught.append(context)
    )
    return caught


def test_callbacks_that_raise():
    async def main():
        class Raising(Datagrams):
            def connection_made(self, transport):
                super().connection_made(transport)
                raise ValueError("made")

            def datagram_received(self, data, addr):
                super().datagram_received(data, addr)
                raise ValueError("data")

            def error_received(self, exc):
                super().error_received(exc)
                raise ValueError("error")

            def connection_lost(self, exc):
                super().connection_lost(exc)
                raise ValueError("lost")

        caught = collect_errors()
        transport, protocol = await endpoint(Raising)
        with udp_socket(transport) as peer:
            peer.send(b"one")
            peer.send(b"two")
            assert await protocol.until(2) == [b"one", b"two"]
            transport.sendto(b"x" * 70000, peer.getsockname())
            await protocol.error()
            transport.sendto(b"alive", peer.getsockname())
            assert await received(peer, 1) == [b"alive"]
        await close(transport)
        await turns()
        names = ["connection_made", "datagram_received", "datagram_received",
                 "error_received", "connection_lost"]
        assert [context["message"] for context in caught] == [
            f"Exception in callback protocol.{name}()" for name in names
        ]
        for context in caught:
            assert context["transport"] is transport
            assert type(context["exception"]) is ValueError
        assert caught[0]["protocol"] is protocol

    run(main())


def test_keyboard_interrupt_leaves_the_loop():
    class Interrupting(Datagrams):
        def datagram_received(self, data, addr):
            super().datagram_received(data, addr)
            raise KeyboardInterrupt

    async def make():
        return await endpoint(Interrupting)

    loop = uvtulip.new_event_loop()
    transport, protocol = loop.run_until_complete(make())
    with udp_socket(transport) as peer:
        peer.send(b"x")
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(asyncio.sleep(1))
    assert protocol.data == [b"x"]
    loop.run_until_complete(close(transport))
    loop.close()


@pytest.mark.parametrize("action", ["close", "abort"])
def test_end_inside_of_a_batch(action):
    async def main():
        class Ending(Datagrams):
            def datagram_received(self, data, addr):
                super().datagram_received(data, addr)
                self.transport.sendto(b"bye", addr)
                getattr(self.transport, action)()
                self.transport.sendto(b"too late", addr)

        transport, protocol = await endpoint(Ending)
        with udp_socket(transport) as peer:
            for _ in range(5):
                peer.send(b"x")
            assert await protocol.lost is None
            assert protocol.events == ["made", "data", "lost"]
            assert await received(peer, 1) == [b"bye"]
            with pytest.raises((BlockingIOError, ConnectionRefusedError)):
                peer.recv(10)

    run(main())


def test_handle_closed_by_somebody_else():
    async def main():
        transport, protocol = await endpoint()
        transport.sendto(b"x", (HOST, 9))
        transport.get_extra_info("uv_handle").close()
        transport.sendto(b"x", (HOST, 9))
        assert isinstance(await protocol.lost, ConnectionAbortedError)
        assert transport.is_closing()
        assert transport.get_extra_info("uv_handle") is None

    run(main())


def test_handle_closed_inside_of_a_batch():
    async def main():
        class Closing(Datagrams):
            def datagram_received(self, data, addr):
                super().datagram_received(data, addr)
                handle = self.transport.get_extra_info("uv_handle")
                if not handle.closed:
                    handle.close()
                self.transport.sendto(data, addr)

        transport, protocol = await endpoint(Closing)
        with udp_socket(transport) as peer:
            for _ in range(5):
                peer.send(b"x")
            assert isinstance(await protocol.lost, ConnectionAbortedError)

    run(main())


def test_descriptor_closed_by_somebody_else():
    """The loop must not abort; and the number is not the transport's any more."""

    async def main():
        transport, protocol = await endpoint()
        with udp_socket() as peer:
            peer.connect(transport.get_extra_info("sockname"))
            sock = transport.get_extra_info("socket")
            import os

            os.close(sock.fileno())
            transport.sendto(b"x", peer.getsockname())
            transport.close()
            await protocol.lost

    # The borrowed object that named the descriptor is detached, not closed.
    run(main())


def test_set_protocol():
    async def main():
        transport, first = await endpoint()
        second = Datagrams()
        assert transport.get_protocol() is first
        with udp_socket(transport) as peer:
            peer.send(b"one")
            await first.until(1)
            transport.set_protocol(protocol=second)
            assert transport.get_protocol() is second
            peer.send(b"two")
            assert await second.until(1) == [b"two"]
        transport.close()
        assert await second.lost is None
        assert transport.get_protocol() is None
        assert first.events == ["made", "data"]
        with pytest.raises(TypeError):
            transport.set_protocol()

    run(main())


def test_set_protocol_inside_of_a_batch():
    async def main():
        class Leaving(Datagrams):
            def datagram_received(self, data, addr):
                super().datagram_received(data, addr)
                self.transport.set_protocol(successor)

        successor = Datagrams()
        transport, protocol = await endpoint(Leaving)
        with udp_socket(transport) as peer:
            for data in (b"one", b"two", b"three"):
                peer.send(data)
            assert await successor.until(2) == [b"two", b"three"]
        assert protocol.data == [b"one"]
        transport.close()
        await successor.lost

    run(main())


def test_protocols_of_other_kinds():
    """A method that is no method, and none at all."""

    async def main():
        caught = collect_errors()
        transport, protocol = await endpoint()
        with udp_socket(transport) as peer:
            seen = []

            class Odd:
                datagram_received = staticmethod(lambda *args: seen.append(args))

            transport.set_protocol(Odd())
            peer.send(b"x")
            await until(lambda: seen)
            assert seen == [(b"x", peer.getsockname())]
            transport.set_protocol(object())
            peer.send(b"x")
            await until(lambda: caught)
            assert isinstance(caught[0]["exception"], AttributeError)
        transport.set_protocol(protocol)
        await close(transport)

    run(main())


# ---- reading on demand ----


def test_pause_reading_keeps_what_comes():
    async def main():
        class Pausing(Datagrams):
            def datagram_received(self, data, addr):
                super().datagram_received(data, addr)
                if data in (b"2", b"5"):
                    self.transport.pause_reading()
                    assert not self.transport.is_reading()

        transport, protocol = await endpoint(Pausing)
        assert transport.is_reading()
        with udp_socket(transport) as peer:
            for number in range(8):
                peer.send(b"%d" % number)
            await protocol.until(3)
            peer.send(b"8")
            await asyncio.sleep(0.01)
            assert protocol.data == [b"0", b"1", b"2"]
            transport.resume_reading()
            transport.resume_reading()
            await asyncio.sleep(0.01)
            assert protocol.data[3:] == [b"3", b"4", b"5"]
            transport.resume_reading()
            assert await protocol.until(9) == [b"%d" % n for n in range(9)]
            assert set(protocol.addresses) == {peer.getsockname()}
            transport.pause_reading()
            transport.pause_reading()
            peer.send(b"lost")
            await close(transport)
            transport.resume_reading()
            transport.pause_reading()
            assert not transport.is_reading()
        assert len(protocol.data) == 9

    run(main())


def test_pause_reading_in_connection_made():
    async def main():
        class Pausing(Datagrams):
            def connection_made(self, transport):
                super().connection_made(transport)
                transport.pause_reading()

        transport, protocol = await endpoint(Pausing)
        with udp_socket(transport) as peer:
            peer.send(b"x")
            await asyncio.sleep(0.01)
            assert protocol.data == []
            transport.resume_reading()
            assert await protocol.until(1) == [b"x"]
        await close(transport)

    run(main())


def test_close_drops_what_a_pause_has_kept():
    async def main():
        class Pausing(Datagrams):
            def datagram_received(self, data, addr):
                super().datagram_received(data, addr)
                self.transport.pause_reading()

        transport, protocol = await endpoint(Pausing)
        with udp_socket(transport) as peer:
            for _ in range(3):
                peer.send(b"x")
            await protocol.until(1)
            transport.resume_reading()
            await close(transport)
        assert protocol.data == [b"x"]

    run(main())


# ---- the end ----


@pytest.mark.parametrize("action", ["close", "abort"])
def test_sendto_after_the_end_is_silent(action, caplog):
    async def main():
        transport, protocol = await endpoint()
        with udp_socket() as peer:
            transport.sendto(b"before", peer.getsockname())
            getattr(transport, action)()
            assert transport.is_closing()
            transport.sendto(b"x", peer.getsockname())
            assert await protocol.lost is None
            for addr in (peer.getsockname(), None, ("localhost", 1), "nonsense"):
                transport.sendto(b"x", addr)
            assert await received(peer, 1) == [b"before"]
            with pytest.raises(BlockingIOError):
                peer.recv(10)
        with pytest.raises(TypeError):
            transport.sendto("text", None)
        getattr(transport, action)()
        assert protocol.events == ["made", "lost"]

    with caplog.at_level(logging.DEBUG, "asyncio"):
        run(main(), debug=False)
        assert [r.getMessage() for r in caplog.records] == [
            "socket.send() raised exception."
        ]


def test_lost_writes_are_logged_from_the_fifth_on(caplog):
    async def main():
        with udp_socket() as peer:
            transport, _ = await endpoint(remote_addr=peer.getsockname())
            await close(transport)
            with pytest.raises(ValueError, match="Invalid address"):
                transport.sendto(b"x", (HOST, 1))
            for _ in range(4):
                transport.sendto(b"x")
            assert caplog.records == []
            transport.sendto(b"x")
            transport.sendto(b"x")
            assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
                ("WARNING", "socket.send() raised exception.")
            ] * 2

    with caplog.at_level(logging.WARNING, "asyncio"):
        run(main())


def test_order_of_the_first_events():
    """connection_made(), then who waits for the endpoint, then datagrams."""

    async def main():
        events = []

        class Noting(Datagrams):
            def connection_made(self, transport):
                super().connection_made(transport)
                events.append("made")
                peer.connect(transport.get_extra_info("sockname"))
                peer.send(b"x")

            def datagram_received(self, data, addr):
                super().datagram_received(data, addr)
                events.append("data")

        with udp_socket() as peer:
            transport, protocol = await endpoint(Noting)
            events.append("awaited")
            await protocol.until(1)
        assert events == ["made", "awaited", "data"]
        await close(transport)

    run(main())


def test_force_close():
    async def main():
        transport, protocol = await endpoint()
        exc = ZeroDivisionError("why")
        transport._force_close(exc)
        transport._force_close(None)
        assert await protocol.lost is exc

    run(main())


def test_contexts():
    """Every call of the protocol is made in the context of the endpoint's maker,
    whoever caused it."""
    var = contextvars.ContextVar("var", default="nobody")

    async def main():
        seen = []

        class Noting(Datagrams):
            def note(self, name):
                seen.append((name, var.get()))
                var.set("the protocol")

            def connection_made(self, transport):
                super().connection_made(transport)
                self.note("made")
                transport.sendto(b"x" * 70000, (HOST, 9))
                transport.set_write_buffer_limits()

            def datagram_received(self, data, addr):
                self.note("data")

            def error_received(self, exc):
                self.note("error")

            def connection_lost(self, exc):
                super().connection_lost(exc)
                self.note("lost")

        var.set("the maker")
        transport, protocol = await endpoint(Noting)
        assert var.get() == "the maker"

        async def other():
            var.set("somebody else")
            transport.sendto(b"x" * 70000, (HOST, 9))
            transport.sendto(b"x", transport.get_extra_info("sockname"))
            transport.get_write_buffer_size()
            assert var.get() == "somebody else"
            await until(lambda: len(seen) > 3)
            transport.close()

        await asyncio.create_task(other())
        await protocol.lost
        assert [name for name, _ in seen] == ["made", "error", "error", "data", "lost"]
        assert [value for _, value in seen] == ["the maker"] + ["the protocol"] * 4

    run(main())


# ---- questions ----


def test_extra_info():
    async def main():
        with udp_socket() as peer:
            transport, protocol = await endpoint(
                local_addr=(HOST, 0), remote_addr=peer.getsockname()
            )
            info = transport.get_extra_info
            assert info("peername") == peer.getsockname()
            sock = info("socket")
            assert info("socket") is sock
            assert info("sockname") == sock.getsockname()
            assert sock.getpeername() == info("peername")
            assert (sock.family, sock.type) == (socket.AF_INET, socket.SOCK_DGRAM)
            for name in ("send", "sendto", "recv", "recvfrom", "close", "connect"):
                with pytest.raises(AttributeError, match=f"no {name}"):
                    getattr(sock, name)
            with sock.dup() as own:
                own.send(b"own")
                assert await received(peer, 1) == [b"own"]
            assert type(info("uv_handle")) is uv.UDP
            assert info("uv_handle").fileno() == sock.fileno()
            assert info("unknown") is None
            assert info("unknown", default=5) == 5
            assert info("unknown", 6) == 6
            name = info("sockname")
            await close(transport)
            assert sock.fileno() == -1
            assert (info("sockname"), info("peername")) == (name, peer.getsockname())
            assert info("uv_handle", 7) == 7 or info("uv_handle").closed

    run(main())


def test_classes():
    async def main():
        transport, _ = await endpoint()
        assert type(transport) is DatagramTransport
        assert isinstance(transport, asyncio.DatagramTransport)
        transport.attribute = 5
        assert transport.attribute == 5
        assert weakref.ref(transport)() is transport
        await close(transport)

    run(main())


def test_repr():
    async def main():
        transport, _ = await endpoint()
        await turns()
        fd = transport.get_extra_info("socket").fileno()
        assert repr(transport) == (
            f"<DatagramTransport fd={fd} read=polling write=<idle, bufsize=0>>"
        )
        transport.close()
        assert f"<DatagramTransport closing fd={fd} read=idle" in repr(transport)
        await turns()
        assert repr(transport).startswith("<DatagramTransport closed read=idle")

    run(main())


def test_unclosed_transports_warn():
    done = check_script(
        """
        import asyncio, gc, os, warnings
        import uvtulip

        async def main():
            loop = asyncio.get_running_loop()
            return await loop.create_datagram_endpoint(
                asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))

        loop = uvtulip.new_event_loop()
        transport, _ = loop.run_until_complete(main())
        fd = transport.get_extra_info("uv_handle").fileno()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            del transport, loop, _
            gc.collect()
        print(sorted(str(w.message).split(" fd=")[0] for w in caught
                     if w.category is ResourceWarning))
        try:
            os.fstat(fd)
        except OSError:
            print("closed")
        """
    )
    assert done.splitlines()[1:] == ["closed"]
    assert "unclosed transport <DatagramTransport" in done


def test_loop_closed_before_the_transport():
    loop = uvtulip.new_event_loop()
    transport, _ = loop.run_until_complete(
        loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, local_addr=(HOST, 0)
        )
    )
    loop.close()
    assert transport.is_closing()
    for addr in ((HOST, 9), None):
        transport.sendto(b"x", addr)
    assert transport.get_write_buffer_size() == 0
    assert "closed" in repr(transport)
    with pytest.warns(ResourceWarning, match="unclosed transport"):
        del transport, _
        gc.collect()


def test_descriptors_are_refused_to_others():
    async def main():
        loop = asyncio.get_running_loop()
        given = udp_socket()
        transport, _ = await endpoint(sock=given)
        transport.pause_reading()
        for fd in (given.fileno(), transport.get_extra_info("uv_handle").fileno()):
            for call, args in (
                (loop.add_reader, (fd, print)),
                (loop.remove_writer, (fd,)),
            ):
                with pytest.raises(
                    RuntimeError, match=rf"{fd} is used by transport <DatagramTransp"
                ):
                    call(*args)
        await close(transport)

    run(main())


# ---- threads and debug mode ----


def test_sendto_in_another_thread():
    async def main():
        transport, _ = await endpoint()
        with udp_socket() as peer:
            name = peer.getsockname()
            thread = threading.Thread(
                target=lambda: [transport.sendto(b"%d" % n, name) for n in range(200)]
            )
            thread.start()
            assert await received(peer, 200) == [b"%d" % n for n in range(200)]
            thread.join()
        await close(transport)

    run(main(), debug=False)


def call_in_thread(function, *args):
    caught = []

    def target():
        try:
            function(*args)
        except BaseException as exc:
            caught.append(exc)

    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    return caught


def test_wrong_thread():
    async def main(debug):
        transport, protocol = await endpoint()
        for name in ("close", "abort", "pause_reading"):
            caught = call_in_thread(getattr(transport, name))
            assert [type(exc) for exc in caught] == [RuntimeError]
            assert "Non-thread-safe" in str(caught[0])
        caught = call_in_thread(transport.sendto, b"x", (HOST, 9))
        assert [type(exc) for exc in caught] == [RuntimeError] * debug
        await close(transport)

    run(main(False), debug=False)
    run(main(True), debug=True)


def test_debug_mode(caplog):
    async def main():
        loop = asyncio.get_running_loop()
        loop.slow_callback_duration = 0.0

        class Slow(Datagrams):
            pass

        transport, protocol = await endpoint(Slow)
        with udp_socket(transport) as peer:
            peer.send(b"x")
            await protocol.until(1)
            loop.slow_callback_duration = 1.0
            transport.pause_reading()
            transport.resume_reading()
            client, _ = await endpoint(remote_addr=peer.getsockname())
        await close(transport, client)
        return transport

    with caplog.at_level(logging.DEBUG, "asyncio"):
        run(main(), debug=True)
        text = "\n".join(r.getMessage() for r in caplog.records)
    assert "Datagram endpoint local_addr=('127.0.0.1', 0) remote_addr=None cr" in text
    assert "Datagram endpoint remote_addr=('127.0.0.1', " in text
    assert "> pauses reading" in text
    assert "> resumes reading" in text
    assert "Executing datagram_received of <DatagramTransport" in text
