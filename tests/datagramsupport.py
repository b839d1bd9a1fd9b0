"""What the tests of datagrams share: protocols that remember, endpoints on the
loopback interface, plain sockets as their peers."""

import asyncio
import socket
from typing import Any

from aiosupport import until

HOST = "127.0.0.1"


class Datagrams(asyncio.DatagramProtocol):
    """Writes down what happens to it, in order."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.events: list[Any] = []
        self.data: list[bytes] = []
        self.addresses: list[Any] = []
        self.errors: list[Exception] = []
        self.lost: asyncio.Future[BaseException | None] = (
            asyncio.get_running_loop().create_future()
        )

    def connection_made(self, transport: Any) -> None:
        assert self.transport is None
        self.transport = transport
        self.events.append("made")

    def datagram_received(self, data: bytes, addr: Any) -> None:
        assert type(data) is bytes
        self.data.append(data)
        self.addresses.append(addr)
        self.events.append("data")

    def error_received(self, exc: Exception) -> None:
        self.errors.append(exc)
        self.events.append("error")

    def pause_writing(self) -> None:
        self.events.append("pause")

    def resume_writing(self) -> None:
        self.events.append("resume")

    def connection_lost(self, exc: BaseException | None) -> None:
        self.events.append("lost")
        self.lost.set_result(exc)

    async def until(self, count: int) -> list[bytes]:
        """Until that many datagrams have come."""
        await until(lambda: len(self.data) >= count or self.lost.done())
        return self.data

    async def error(self) -> Exception:
        """The first error, once there is one."""
        await until(lambda: self.errors)
        return self.errors[0]


class DatagramEcho(Datagrams):
    def datagram_received(self, data: bytes, addr: Any) -> None:
        super().datagram_received(data, addr)
        self.transport.sendto(data, addr)


async def endpoint(factory: Any = Datagrams, **options: Any) -> tuple[Any, Any]:
    """An endpoint, on a port of its own unless something else is said."""
    if not options:
        options = {"local_addr": (HOST, 0)}
    loop = asyncio.get_running_loop()
    return await loop.create_datagram_endpoint(factory, **options)


async def close(*transports: Any) -> None:
    """Close them and wait for their end."""
    for transport in transports:
        protocol = transport.get_protocol()
        transport.close()
        if protocol is not None:
            await protocol.lost


def udp_socket(connect: Any = None, host: str = HOST) -> socket.socket:
    """A bound non-blocking socket, connected to an address or a transport."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.bind((host, 0))
    sock.setblocking(False)
    if connect is not None:
        if not isinstance(connect, tuple):
            connect = connect.get_extra_info("sockname")
        sock.connect(connect)
    return sock


async def received(sock: socket.socket, count: int) -> list[bytes]:
    """So many datagrams from a plain socket."""
    loop = asyncio.get_running_loop()
    return [await loop.sock_recv(sock, 1 << 18) for _ in range(count)]
