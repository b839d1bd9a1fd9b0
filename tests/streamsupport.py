"""What the tests of the C transports share: a transport over one end of a plain
TCP connection, the other end as a socket, protocols that remember."""

import asyncio
import socket
import struct
from typing import Any

from uvtulip import uv
from uvtulip._transports import StreamTransport


def tcp_pair(family: int = socket.AF_INET) -> tuple[socket.socket, socket.socket]:
    """Both ends of a connection: TCP, or of UNIX sockets."""
    if family == socket.AF_UNIX:
        return socket.socketpair()
    host = "::1" if family == socket.AF_INET6 else "127.0.0.1"
    with socket.socket(family) as listener:
        listener.bind((host, 0))
        listener.listen()
        client = socket.socket(family)
        client.connect(listener.getsockname())
        accepted, _ = listener.accept()
    return accepted, client


def reset(sock: socket.socket) -> None:
    """Close it so that the other side sees a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


class Peer:
    """The other end: a plain socket, used through the running loop."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.loop = asyncio.get_running_loop()

    async def send(self, data: bytes) -> None:
        await self.loop.sock_sendall(self.sock, data)

    async def recv(self, limit: int = 1 << 20) -> bytes:
        return await self.loop.sock_recv(self.sock, limit)

    async def exactly(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            more = await self.recv(count - len(data))
            assert more, f"the stream ended after {len(data)} of {count} bytes"
            data += more
        return bytes(data)

    async def rest(self) -> bytes:
        data = bytearray()
        while more := await self.recv():
            data += more
        return bytes(data)

    def reset(self) -> None:
        reset(self.sock)

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *unused: object) -> None:
        self.sock.close()


class Events(asyncio.Protocol):
    """Writes down what happens to it, in order."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.events: list[Any] = []
        self.data = bytearray()
        self.lost: asyncio.Future[BaseException | None] = (
            asyncio.get_running_loop().create_future()
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.events.append("made")

    def data_received(self, data: bytes) -> None:
        assert type(data) is bytes
        assert data
        self.data += data
        self.events.append("data")

    def eof_received(self) -> bool | None:
        self.events.append("eof")
        return None

    def pause_writing(self) -> None:
        self.events.append("pause")

    def resume_writing(self) -> None:
        self.events.append("resume")

    def connection_lost(self, exc: BaseException | None) -> None:
        self.events.append("lost")
        self.lost.set_result(exc)

    async def until(self, count: int) -> bytes:
        """Until that many bytes have come."""
        while len(self.data) < count:
            assert not self.lost.done(), "the connection is lost"
            await asyncio.sleep(0.001)
        return bytes(self.data)


def handle_of(sock: socket.socket, loop: Any = None) -> uv.TCP | uv.Pipe:
    """A raw handle that owns the socket's descriptor."""
    loop = loop or asyncio.get_running_loop()
    handle: uv.TCP | uv.Pipe
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        handle = uv.TCP(loop.uv_loop)
    else:
        handle = uv.Pipe(loop.uv_loop)
    handle.open(sock.fileno())
    sock.detach()
    return handle


async def connect(protocol: Any, **options: Any) -> tuple[StreamTransport, Peer]:
    """A transport of the protocol, and its peer."""
    loop = asyncio.get_running_loop()
    ours, theirs = tcp_pair(options.pop("family", socket.AF_INET))
    waiter = loop.create_future()
    transport = StreamTransport(loop, handle_of(ours), protocol, waiter, **options)
    await waiter
    return transport, Peer(theirs)


def fill(transport: Any, chunk: bytes = b"x" * 65536) -> int:
    """Write until the kernel takes no more; how many bytes those were."""
    total = 0
    while transport.get_write_buffer_size() == 0:
        transport.write(chunk)
        total += len(chunk)
    return total
