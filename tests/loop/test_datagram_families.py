"""Datagram transports over UNIX sockets and other families: paths and abstract
names, sockets that libuv cannot take, and the C class made by hand."""

import asyncio
import errno
import os
import socket
import stat
import struct

import pytest

import uvtulip
from aiosupport import has_ipv6, run, turns, until
from datagramsupport import HOST, DatagramEcho, Datagrams, close, endpoint, received
from uvtulip import uv
from uvtulip._transports import DatagramTransport

UNIX = socket.AF_UNIX


pytestmark = pytest.mark.usefixtures("no_leak")


def abstract(number=0):
    return f"\0uvtulip-{os.getpid()}-{number}"


@pytest.fixture(params=["path", "abstract"])
def names(request, tmp_path):
    """Two names, as they are given."""
    if request.param == "path":
        return [str(tmp_path / name) for name in "ab"]
    return [abstract(number) for number in (1, 2)]


def as_asked(name):
    """The name as the socket module gives it."""
    return name.encode() if name.startswith("\0") else name


def unix_socket(*, bind=None, connect=None):
    sock = socket.socket(UNIX, socket.SOCK_DGRAM)
    sock.setblocking(False)
    if bind is not None:
        sock.bind(bind)
    if connect is not None:
        sock.connect(connect)
    return sock


# ---- UNIX sockets ----


def test_echo(names):
    async def main():
        server, protocol = await endpoint(
            DatagramEcho, family=UNIX, local_addr=names[0]
        )
        client, answers = await endpoint(
            family=UNIX, local_addr=names[1], remote_addr=names[0]
        )
        messages = [b"%d" % number for number in range(100)]
        for message in messages:
            client.sendto(message)
        assert await answers.until(100) == messages
        assert set(protocol.addresses) == {as_asked(names[1])}
        assert set(answers.addresses) == {as_asked(names[0])}
        assert server.get_extra_info("sockname") == as_asked(names[0])
        assert server.get_extra_info("peername") is None
        assert client.get_extra_info("peername") == as_asked(names[0])
        assert type(server.get_extra_info("uv_handle")) is uv.Poll
        assert server.get_extra_info("socket").family == UNIX
        assert (protocol.errors, answers.errors) == ([], [])
        await close(client, server)

    run(main())


@pytest.mark.parametrize("kind", [str, os.fsencode, bytearray, memoryview])
def test_names_of_every_kind(names, kind):
    async def main():
        with unix_socket(bind=names[0]) as peer:
            transport, _ = await endpoint(family=UNIX, local_addr=names[1])
            name = names[0] if kind is str else kind(os.fsencode(names[0]))
            for _ in range(2):
                transport.sendto(b"x", name)
            assert await received(peer, 2) == [b"x", b"x"]
            await close(transport)

    run(main())


def test_senders_without_a_name(tmp_path):
    async def main():
        path = str(tmp_path / "a")
        server, protocol = await endpoint(family=UNIX, local_addr=path)
        with unix_socket(connect=path) as peer:
            peer.send(b"one")
            peer.send(b"two")
            await protocol.until(2)
        assert protocol.addresses == [None, None]
        with pytest.raises(TypeError, match="needs an address"):
            server.sendto(b"x", protocol.addresses[0])
        await close(server)

    run(main())


def test_socketpair():
    """Connected to a socket without a name."""

    async def main():
        ours, theirs = socket.socketpair(UNIX, socket.SOCK_DGRAM)
        theirs.setblocking(False)
        with theirs:
            transport, protocol = await endpoint(sock=ours)
            assert transport.get_extra_info("peername") == ""
            transport.sendto(b"to them")
            assert await received(theirs, 1) == [b"to them"]
            theirs.send(b"to us")
            assert await protocol.until(1) == [b"to us"]
            assert protocol.addresses == [None]
            await close(transport)
            assert ours.fileno() == -1

    run(main())


def test_large_and_empty_datagrams():
    async def main():
        ours, theirs = socket.socketpair(UNIX, socket.SOCK_DGRAM)
        for sock in (ours, theirs):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            sock.setblocking(False)
        with theirs:
            transport, protocol = await endpoint(sock=ours)
            for size in (200_000, 0, 100_000):
                theirs.send(b"x" * size)
                await until(lambda: protocol.data)
                assert protocol.data.pop() == b"x" * size
            transport.sendto(b"y" * 200_000)
            assert await received(theirs, 1) == [b"y" * 200_000]
            # What does not fit into 256 KiB is cut, as asyncio does.
            theirs.send(b"z" * 300_000)
            await until(lambda: protocol.data)
            assert protocol.data.pop() == b"z" * (256 * 1024)
            await close(transport)

    run(main())


def test_nobody_at_the_path(tmp_path):
    async def main():
        path = str(tmp_path / "nobody")
        with pytest.raises(FileNotFoundError):
            await endpoint(family=UNIX, remote_addr=path)
        transport, protocol = await endpoint(family=UNIX, local_addr=abstract())
        transport.sendto(b"x", path)
        transport.sendto(b"x", "\0nobody")
        await until(lambda: len(protocol.errors) == 2)
        assert [type(exc) for exc in protocol.errors] == [
            FileNotFoundError,
            ConnectionRefusedError,
        ]
        for bad in (5, ("path", 1), [path]):
            with pytest.raises(TypeError):
                transport.sendto(b"x", bad)
        for long in ("/" + "x" * 108, "\0" + "x" * 108):
            with pytest.raises(OSError, match="AF_UNIX path too long"):
                transport.sendto(b"x", long)
        await close(transport)

    run(main())


def test_the_longest_names(tmp_path):
    longest = str(tmp_path / "x").ljust(107, "x")

    async def main():
        for name in (longest, "\0" + longest):
            with unix_socket(bind=name) as peer:
                transport, _ = await endpoint(family=UNIX, local_addr=abstract())
                transport.sendto(b"x", name)
                assert await received(peer, 1) == [b"x"]
                await close(transport)

    run(main())


def test_stale_sockets_are_removed(tmp_path, caplog):
    async def main():
        path = tmp_path / "a"
        unix_socket(bind=str(path)).close()
        assert stat.S_ISSOCK(path.stat().st_mode)
        transport, _ = await endpoint(family=UNIX, local_addr=str(path))
        await close(transport)
        path.unlink()
        path.write_text("no socket")
        with pytest.raises(OSError) as caught:
            await endpoint(family=UNIX, local_addr=str(path))
        assert caught.value.errno == errno.EADDRINUSE
        assert path.read_text() == "no socket"

    run(main())
    assert caplog.records == []


@pytest.mark.parametrize(
    "options", [{"local_addr": b"/x"}, {"remote_addr": ("h", 1)}, {"local_addr": 5}]
)
def test_paths_have_to_be_strings(options):
    async def main():
        with pytest.raises(TypeError, match=r"^string is expected$"):
            await endpoint(family=UNIX, **options)

    run(main())


# ---- other families, and other kinds of sockets ----


def test_netlink():
    """Its addresses are numbers, which only the socket module knows."""

    async def main():
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 0)
        sock.bind((0, 0))
        transport, protocol = await endpoint(sock=sock)
        sockname = transport.get_extra_info("sockname")
        assert sockname == sock.getsockname()
        # RTM_GETLINK: the kernel answers with the list of interfaces.
        request = struct.pack("=IHHII16x", 32, 18, 0x301, 7, 0)
        for addr in (None, (0, 0)):
            del protocol.data[:], protocol.addresses[:]
            transport.sendto(request, addr)
            await until(lambda: b"lo\0" in b"".join(protocol.data))
            assert set(protocol.addresses) == {(0, 0)}
            await until(
                lambda: struct.unpack_from("=IH", protocol.data[-1])[1] == 3
            )
        assert transport.get_write_buffer_size() == 0
        assert protocol.errors == []
        await close(transport)

    run(main())


def test_addresses_that_only_the_socket_module_knows():
    """The kernel's errors are told; as on asyncio, an address that is none is fatal,
    and not silent."""

    async def main():
        caught = []
        asyncio.get_running_loop().set_exception_handler(
            lambda loop, context: caught.append(context)
        )
        sock = packet_socket()
        transport, protocol = await endpoint(sock=sock)
        assert transport.get_extra_info("sockname") == sock.getsockname()
        for number in range(3):
            transport.sendto(b"%d" % number, ("no interface", 0))
        await until(lambda: len(protocol.errors) == 3)
        assert {exc.errno for exc in protocol.errors} == {errno.ENODEV}
        assert not transport.is_closing()
        assert caught == []
        transport.sendto(b"x", "nonsense")
        transport.sendto(b"x", "dropped")
        assert isinstance(await protocol.lost, TypeError)
        assert [type(context["exception"]) for context in caught] == [TypeError]

    def packet_socket():
        return socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)

    try:
        packet_socket().close()
    except PermissionError:
        pytest.skip("needs the right to make raw sockets")
    run(main())


@pytest.mark.skipif("sys.version_info < (3, 13)", reason="refused before 3.13")
def test_raw_sockets():
    async def main():
        try:
            sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        except PermissionError:
            pytest.skip("needs the right to make raw sockets")
        transport, protocol = await endpoint(sock=sock)
        assert type(transport.get_extra_info("uv_handle")) is uv.Poll
        body = struct.pack("!HH", 77, 1) + b"uvtulip!"
        words = struct.unpack(f"!{len(body) // 2}H", body)
        total = 0x0800 + sum(words)
        total = (total & 0xFFFF) + (total >> 16)
        packet = struct.pack("!BBH", 8, 0, ~total & 0xFFFF) + body
        transport.sendto(packet, (HOST, 0))
        await until(lambda: any(data.endswith(body) for data in protocol.data))
        assert set(protocol.addresses) == {(HOST, 0)}
        await close(transport)

    run(main())


@pytest.mark.skipif("sys.version_info < (3, 13)", reason="refused before 3.13")
def test_sequenced_packets_have_an_end():
    async def main():
        ours, theirs = socket.socketpair(UNIX, socket.SOCK_SEQPACKET)
        theirs.setblocking(False)
        transport, protocol = await endpoint(sock=ours)
        theirs.send(b"one")
        theirs.send(b"two")
        assert await protocol.until(2) == [b"one", b"two"]
        transport.sendto(b"answer")
        assert await received(theirs, 1) == [b"answer"]
        theirs.close()
        assert await protocol.lost is None
        assert protocol.data == [b"one", b"two"]

    run(main())


@pytest.mark.skipif(not has_ipv6(), reason="IPv6")
def test_pending_errors_of_a_polled_socket():
    """An error stops a Poll of libuv's; the transport goes on."""

    async def main():
        loop = asyncio.get_running_loop()
        sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        sock.bind(("::1", 0))
        sock.setblocking(False)
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as nobody:
            nobody.bind(("::1", 0))
            name = nobody.getsockname()
        sock.connect(name)
        protocol, waiter = Datagrams(), loop.create_future()
        transport = DatagramTransport(
            loop, uv.Poll(loop.uv_loop, sock), protocol, None, waiter
        )
        sock.detach()
        await waiter
        transport.sendto(b"x")
        assert isinstance(await protocol.error(), ConnectionRefusedError)
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as peer:
            peer.bind(name)
            peer.sendto(b"now", transport.get_extra_info("sockname"))
            assert await protocol.until(1) == [b"now"]
        await close(transport)

    run(main())


def test_descriptor_of_a_poll_closed_by_somebody_else():
    async def main():
        ours, theirs = socket.socketpair(UNIX, socket.SOCK_DGRAM)
        with theirs:
            transport, protocol = await endpoint(sock=ours)
            await turns()
            fd = transport.get_extra_info("uv_handle").fileno()
            keep = os.dup(fd)
            os.close(fd)
            theirs.send(b"x")
            exc = await protocol.lost
            os.close(keep)
            assert exc.errno == errno.EBADF

    run(main())


# ---- the class ----


def make(loop, handle=None, protocol=None, *args, **kwargs):
    return DatagramTransport(
        loop, handle or uv.UDP(loop.uv_loop), protocol or Datagrams(), *args, **kwargs
    )


def test_wrong_arguments():
    async def main():
        loop = asyncio.get_running_loop()
        bound = uv.UDP(loop.uv_loop)
        bound.bind((HOST, 0))
        with pytest.raises(TypeError):
            DatagramTransport()
        with pytest.raises(TypeError):
            make(object(), bound)
        with pytest.raises(TypeError, match=r"expected a uvtulip\.uv handle"):
            make(loop, object())
        with pytest.raises(TypeError, match="must be a UDP or a Poll"):
            make(loop, uv.Timer(loop.uv_loop))
        with pytest.raises(ValueError, match="no socket yet"):
            make(loop, uv.UDP(loop.uv_loop))
        with pytest.raises(TypeError, match="extra must be a dict"):
            make(loop, bound, extra=[])
        with pytest.raises(AttributeError, match="connection_made"):
            make(loop, bound, object())
        with pytest.raises(ValueError, match="host names"):
            make(loop, bound, None, ("localhost", 1))
        other = uv.Loop()
        foreign = uv.UDP(other)
        foreign.bind((HOST, 0))
        with pytest.raises(ValueError, match="of another loop"):
            make(loop, foreign)
        foreign.close()
        other.close()
        closed = uv.UDP(loop.uv_loop)
        closed.close()
        with pytest.raises(uv.error.HandleClosedError):
            make(loop, closed)
        # After all of that the handle is still Python's.
        assert not bound.closed
        bound.start_recv(print)
        with pytest.raises(RuntimeError, match="active"):
            make(loop, bound)
        bound.stop_recv()
        transport = make(loop, bound, extra={"mine": 5, "sockname": "other"})
        assert transport.get_extra_info("mine") == 5
        assert transport.get_extra_info("sockname") == "other"
        with pytest.raises(RuntimeError, match="consumer"):
            make(loop, bound)
        await close(transport)

    run(main())


def test_closed_loop():
    loop = uvtulip.new_event_loop()
    loop.close()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        DatagramTransport(loop, None, None)


def test_waiter_that_is_no_future():
    async def main():
        caught = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: caught.append(context))
        handle = uv.UDP(loop.uv_loop)
        handle.bind((HOST, 0))
        transport = DatagramTransport(loop, handle, Datagrams(), waiter=5)
        await turns()
        assert [type(context["exception"]) for context in caught] == [AttributeError]
        await close(transport)

    run(main())


def test_subclass():
    async def main():
        class Mine(DatagramTransport):
            def sendto(self, data, addr=None):
                super().sendto(data.upper(), addr)

        loop = asyncio.get_running_loop()
        handle = uv.UDP(loop.uv_loop)
        handle.bind((HOST, 0))
        protocol = DatagramEcho()
        transport = Mine(loop, handle, protocol)
        peer, answers = await endpoint(
            remote_addr=transport.get_extra_info("sockname")
        )
        peer.sendto(b"hello")
        assert await answers.until(1) == [b"HELLO"]
        assert repr(transport).startswith("<Mine fd=")
        await close(transport, peer)

    run(main())
