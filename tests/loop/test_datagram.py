"""Datagram transports over UDP: what comes in, what goes out, arguments, errors."""

import asyncio
import errno
import socket

import pytest

import uvtulip
from aiosupport import has_ipv6, run, turns, until
from datagramsupport import (
    HOST,
    DatagramEcho,
    Datagrams,
    close,
    endpoint,
    received,
    udp_socket,
)
from network import needs_broadcast, needs_multicast
from uvtulip import uv

hosts = pytest.mark.parametrize(
    "host",
    [
        HOST,
        pytest.param("::1", marks=pytest.mark.skipif(not has_ipv6(), reason="IPv6")),
    ],
)


pytestmark = pytest.mark.usefixtures("no_leak")


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


@needs_broadcast
def test_broadcast_is_refused_by_default():
    async def main():
        transport, protocol = await endpoint(local_addr=("0.0.0.0", 0))
        transport.sendto(b"x", ("<broadcast>", 9))
        assert isinstance(await protocol.error(), PermissionError)
        assert not transport.is_closing()
        await close(transport)

    run(main())


@needs_multicast
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


@needs_multicast
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
