"""create_datagram_endpoint(): addresses, options, errors, cancelling."""

import asyncio
import os
import socket
import sys

import pytest

from aiosupport import has_ipv6, open_descriptors, run, turns, until
from datagramsupport import HOST, Datagrams, close, endpoint, received, udp_socket

ipv6 = pytest.mark.skipif(not has_ipv6(), reason="IPv6")


pytestmark = pytest.mark.usefixtures("no_leak")


def never():
    raise AssertionError("the factory must not be called")


# ---- addresses ----


def test_family_alone():
    async def main():
        transport, protocol = await endpoint(family=socket.AF_INET)
        assert transport.get_extra_info("sockname") == ("0.0.0.0", 0)
        assert transport.get_extra_info("peername") is None
        with udp_socket() as peer:
            transport.sendto(b"x", peer.getsockname())
            data, addr = await asyncio.get_running_loop().sock_recvfrom(peer, 10)
            assert data == b"x"
            peer.sendto(b"y", addr)
            assert await protocol.until(1) == [b"y"]
        await close(transport)

    run(main())


def test_nothing_said():
    async def main():
        loop = asyncio.get_running_loop()
        with pytest.raises(ValueError, match=r"^unexpected address family$"):
            await loop.create_datagram_endpoint(never)

    run(main())


@pytest.mark.parametrize("bad", ["127.0.0.1", 5, (HOST,), (HOST, 0, 0, 0), [HOST, 0]])
def test_addresses_have_to_be_pairs(bad):
    async def main():
        loop = asyncio.get_running_loop()
        for name in ("local_addr", "remote_addr"):
            with pytest.raises(TypeError, match=r"^2-tuple is expected$"):
                await loop.create_datagram_endpoint(never, **{name: bad})

    run(main())


def test_host_names_are_resolved():
    async def main():
        with udp_socket() as peer:
            transport, protocol = await endpoint(
                local_addr=("localhost", 0),
                remote_addr=("localhost", peer.getsockname()[1]),
                family=socket.AF_INET,
            )
            assert transport.get_extra_info("peername") == peer.getsockname()
            transport.sendto(b"x")
            assert await received(peer, 1) == [b"x"]
            peer.sendto(b"y", transport.get_extra_info("sockname"))
            assert await protocol.until(1) == [b"y"]
            await close(transport)

    run(main())


def test_addresses_of_two_families():
    async def main():
        loop = asyncio.get_running_loop()
        with pytest.raises(ValueError, match=r"^can not get address information$"):
            await loop.create_datagram_endpoint(
                never, local_addr=(HOST, 0), remote_addr=("::1", 9)
            )

    run(main())


def test_resolver_with_several_answers():
    """Those of one family and protocol go together; the first that works wins."""

    async def main():
        loop = asyncio.get_running_loop()
        answers = {
            "local": [("127.0.0.2", 0), (HOST, 0)],
            "remote": [(HOST, 9)],
        }

        async def getaddrinfo(host, port, **options):
            assert options["type"] == socket.SOCK_DGRAM
            return [
                (socket.AF_INET, socket.SOCK_DGRAM, proto, "", addr)
                for proto, addr in enumerate(answers[host], socket.IPPROTO_UDP)
            ]

        loop.getaddrinfo = getaddrinfo
        transport, _ = await endpoint(
            local_addr=("local", 0), remote_addr=("remote", 9)
        )
        assert transport.get_extra_info("sockname")[0] == "127.0.0.2"
        await close(transport)
        answers["local"] = [("192.0.2.1", 0)]
        with pytest.raises(OSError, match="Cannot assign requested address"):
            await endpoint(never, local_addr=("local", 0))
        answers["remote"] = []
        with pytest.raises(OSError, match=r"^getaddrinfo\(\) returned empty list$"):
            await endpoint(never, remote_addr=("remote", 0))

    run(main())


def test_unknown_host():
    async def main():
        with pytest.raises(socket.gaierror):
            await endpoint(never, remote_addr=("host.invalid", 9))

    run(main())


@ipv6
def test_scopes_are_kept():
    async def main():
        index = socket.if_nametoindex("lo")
        with udp_socket(host="::1") as peer:
            port = peer.getsockname()[1]
            transport, _ = await endpoint(
                remote_addr=(f"fe80::1%{index}", port), allow_broadcast=True
            )
            with pytest.raises(ValueError) as caught:
                transport.sendto(b"x", ("::1", port))
            assert str(caught.value).endswith(str(("fe80::1", port, 0, index))) or str(
                caught.value
            ).endswith(str(("fe80::1%lo", port, 0, index)))
            await close(transport)

    run(main())


@ipv6
def test_dual_stack():
    async def main():
        transport, protocol = await endpoint(local_addr=("::", 0))
        port = transport.get_extra_info("sockname")[1]
        with udp_socket() as four, udp_socket(host="::1") as six:
            four.sendto(b"four", (HOST, port))
            six.sendto(b"six", ("::1", port))
            assert sorted(await protocol.until(2)) == [b"four", b"six"]
            for addr in protocol.addresses:
                transport.sendto(b"back", addr)
            assert await received(four, 1) == await received(six, 1) == [b"back"]
        await close(transport)

    run(main())


# ---- options ----


def test_reuse_port():
    async def main():
        one, _ = await endpoint(local_addr=(HOST, 0), reuse_port=True)
        name = one.get_extra_info("sockname")
        two, _ = await endpoint(local_addr=name, reuse_port=True)
        assert two.get_extra_info("sockname") == name
        for transport in (one, two):
            sock = transport.get_extra_info("socket")
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
        with pytest.raises(OSError, match="in use"):
            await endpoint(never, local_addr=name)
        await close(one, two)

    run(main())


def test_no_reuse_by_default():
    async def main():
        transport, _ = await endpoint()
        sock = transport.get_extra_info("socket")
        for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT, socket.SO_BROADCAST):
            assert not sock.getsockopt(socket.SOL_SOCKET, option)
        with pytest.raises(OSError, match="in use"):
            await endpoint(never, local_addr=transport.get_extra_info("sockname"))
        await close(transport)

    run(main())


def test_reuse_port_where_there_is_none(monkeypatch):
    async def main():
        monkeypatch.delattr(socket, "SO_REUSEPORT")
        with pytest.raises(ValueError, match="reuse_port not supported"):
            await endpoint(never, local_addr=(HOST, 0), reuse_port=True)

    run(main())


def test_unknown_options():
    async def main():
        with pytest.raises(TypeError, match="reuse_address"):
            await endpoint(never, local_addr=(HOST, 0), reuse_address=True)

    run(main())


def test_proto():
    async def main():
        transport, _ = await endpoint(
            local_addr=(HOST, 0), proto=socket.IPPROTO_UDP, family=socket.AF_INET
        )
        assert transport.get_extra_info("socket").proto == socket.IPPROTO_UDP
        await close(transport)

    run(main())


# ---- a socket of the caller's ----


def test_sock():
    async def main():
        sock = udp_socket()
        sock.setblocking(True)
        name = sock.getsockname()
        transport, protocol = await endpoint(sock=sock)
        assert sock.gettimeout() == 0
        shown = transport.get_extra_info("socket")
        assert shown.fileno() == sock.fileno()
        assert transport.get_extra_info("sockname") == name == sock.getsockname()
        with udp_socket(transport) as peer:
            peer.send(b"x")
            assert await protocol.until(1) == [b"x"]
            transport.sendto(b"y", peer.getsockname())
            assert await received(peer, 1) == [b"y"]
        await close(transport)
        assert sock.fileno() == -1

    run(main())


def test_connected_sock():
    """As on asyncio, addresses are of no matter then."""

    async def main():
        with udp_socket() as peer:
            transport, _ = await endpoint(sock=udp_socket(peer.getsockname()))
            assert transport.get_extra_info("peername") == peer.getsockname()
            transport.sendto(b"1")
            transport.sendto(b"2", ("ignored", 5))
            assert await received(peer, 2) == [b"1", b"2"]
            await close(transport)

    run(main())


def test_sock_of_a_wrong_kind():
    async def main():
        loop = asyncio.get_running_loop()
        with socket.socket() as sock:
            what = "datagram socket" if sys.version_info >= (3, 13) else "UDP Socket"
            with pytest.raises(ValueError, match=f"^A {what} was expected, got <sock"):
                await loop.create_datagram_endpoint(never, sock=sock)
            assert sock.fileno() >= 0

    run(main())


@pytest.mark.parametrize(
    "options",
    [
        {"local_addr": (HOST, 0)},
        {"remote_addr": (HOST, 9)},
        {"family": 1},
        {"proto": 1, "flags": 1},
        {"reuse_port": True},
        {"allow_broadcast": True},
    ],
)
def test_sock_and_options(options):
    async def main():
        loop = asyncio.get_running_loop()
        with udp_socket() as sock:
            shown = ", ".join(f"{name}={value}" for name, value in options.items())
            with pytest.raises(ValueError) as caught:
                await loop.create_datagram_endpoint(never, sock=sock, **options)
            assert str(caught.value) == (
                "socket modifier keyword arguments can not be used when sock is "
                f"specified. ({shown})"
            )
            assert sock.fileno() >= 0

    run(main())


def test_sock_stays_when_the_factory_raises():
    async def main():
        with udp_socket() as sock:
            with pytest.raises(ZeroDivisionError):
                await endpoint(lambda: 1 / 0, sock=sock)
            with pytest.raises(AttributeError):
                await endpoint(object, sock=sock)
            assert not sock.getblocking()
            transport, protocol = await endpoint(sock=sock)
            await close(transport)

    run(main())


# ---- no descriptor is left behind ----


def test_factory_that_raises():
    async def main():
        for options in (
            {"local_addr": (HOST, 0)},
            {"remote_addr": (HOST, 9)},
            {"family": socket.AF_INET},
            {"family": socket.AF_UNIX, "local_addr": f"\0uvtulip-raises-{os.getpid()}"},
        ):
            before = open_descriptors()
            with pytest.raises(ZeroDivisionError):
                await endpoint(lambda: 1 / 0, **options)
            with pytest.raises(AttributeError):
                await endpoint(object, **options)
            await turns()
            assert open_descriptors() == before

    run(main())


@pytest.mark.parametrize("wait", range(6))
@pytest.mark.parametrize("family", ["inet", "unix"])
def test_cancelled_at_every_await(wait, family):
    async def main():
        loop = asyncio.get_running_loop()
        answer = loop.create_future()

        async def getaddrinfo(*args, **options):
            await answer
            return [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", (HOST, 9))]

        loop.getaddrinfo = getaddrinfo
        before = open_descriptors()
        protocols = []

        def factory():
            protocols.append(Datagrams())
            return protocols[-1]

        options = (
            {"remote_addr": ("host", 9)}
            if family == "inet"
            else {
                "family": socket.AF_UNIX,
                "local_addr": f"\0uvtulip-cancel-{os.getpid()}",
            }
        )
        task = asyncio.create_task(endpoint(factory, **options))
        for step in range(wait):
            await asyncio.sleep(0)
            if step == 1:
                answer.set_result(None)
        done = task.done()
        task.cancel()
        if done:
            await close((await task)[0])
        else:
            with pytest.raises(asyncio.CancelledError):
                await task
            await turns()
        assert open_descriptors() == before
        for protocol in protocols:
            assert protocol.events in (["made", "lost"], ["lost"], [])

    run(main())


def test_closed_loop():
    async def main():
        loop = asyncio.get_running_loop()
        return loop.create_datagram_endpoint(never, local_addr=(HOST, 0))

    coroutine = run(main())
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        coroutine.send(None)


def test_thousands_of_endpoints():
    async def main():
        before = open_descriptors()
        made = [await endpoint() for _ in range(500)]
        for first, second in zip(made, made[1:] + made[:1], strict=True):
            first[0].sendto(b"x", second[0].get_extra_info("sockname"))
        await until(lambda: all(protocol.data for _, protocol in made))
        for number, (transport, _) in enumerate(made):
            transport.close() if number % 2 else transport.abort()
        for _, protocol in made:
            assert await protocol.lost is None
        await turns()
        assert open_descriptors() == before

    run(main())
