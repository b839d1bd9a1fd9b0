"""What the tests of TLS share: certificates, contexts, and a peer that does each
step of TLS when it is told to."""

import asyncio
import ctypes
import functools
import socket
import ssl
from typing import Any

import trustme


@functools.cache
def authority() -> trustme.CA:
    return trustme.CA(key_type=trustme.KeyType.ECDSA)


@functools.cache
def certificate(name: str) -> trustme.LeafCert:
    return authority().issue_cert(name, key_type=trustme.KeyType.ECDSA)


def server_context(**options: Any) -> ssl.SSLContext:
    """Of "localhost"; options are attributes."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate("localhost").configure_cert(context)
    authority().configure_trust(context)
    return _with_options(context, options)


def client_context(**options: Any) -> ssl.SSLContext:
    """One that trusts "localhost"; options are attributes."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority().configure_trust(context)
    return _with_options(context, options)


def _with_options(context: ssl.SSLContext, options: dict[str, Any]) -> ssl.SSLContext:
    for name, value in options.items():
        setattr(context, name, value)
    return context


def tls12(context: ssl.SSLContext) -> ssl.SSLContext:
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


class TLSPeer:
    """The other end: an SSLObject over a plain socket of the running loop."""

    def __init__(
        self, sock: socket.socket, context: ssl.SSLContext, server_side: bool
    ) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.loop = asyncio.get_running_loop()
        self.incoming = ssl.MemoryBIO()
        self.outgoing = ssl.MemoryBIO()
        self.object = context.wrap_bio(
            self.incoming,
            self.outgoing,
            server_side=server_side,
            server_hostname=None if server_side else "localhost",
        )

    async def flush(self) -> None:
        if self.outgoing.pending:
            await self.loop.sock_sendall(self.sock, self.outgoing.read())

    async def fill(self) -> bool:
        """Take what has come; False at the end of the stream."""
        data = await self.loop.sock_recv(self.sock, 1 << 16)
        if data:
            self.incoming.write(data)
        else:
            self.incoming.write_eof()
        return bool(data)

    async def call(self, function: Any, *args: Any) -> Any:
        """Repeat it until it has all that it needs of the other side."""
        while True:
            try:
                result = function(*args)
            except ssl.SSLWantReadError:
                await self.flush()
                await self.fill()
            else:
                await self.flush()
                return result

    async def handshake(self) -> None:
        await self.call(self.object.do_handshake)

    async def send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self.object.write(view) :]
        await self.flush()

    async def recv(self, limit: int = 1 << 16) -> bytes:
        """b"" after close_notify; ssl.SSLEOFError when the stream just ends."""
        try:
            return bytes(await self.call(self.object.read, limit))
        except ssl.SSLZeroReturnError:
            return b""

    async def exactly(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            more = await self.recv(count - len(data))
            assert more, f"the stream ended after {len(data)} of {count} bytes"
            data += more
        return bytes(data)

    async def rest(self) -> bytes:
        """What still comes, up to close_notify."""
        data = bytearray()
        while more := await self.recv():
            data += more
        return bytes(data)

    async def send_close(self) -> None:
        """Send close_notify and wait for nothing."""
        try:
            self.object.unwrap()
        except ssl.SSLWantReadError:
            pass
        await self.flush()

    async def unwrap(self) -> None:
        await self.call(self.object.unwrap)

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> "TLSPeer":
        return self

    def __exit__(self, *unused: object) -> None:
        self.sock.close()


async def serve_one(
    factory: Any, context: ssl.SSLContext | None = None, **options: Any
) -> tuple[Any, socket.socket]:
    """A server of ours and a plain socket that is connected to it."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        factory, "127.0.0.1", 0, ssl=context or server_context(), **options
    )
    sock = socket.socket()
    sock.setblocking(False)
    await loop.sock_connect(sock, server.sockets[0].getsockname())
    return server, sock


async def server_side(
    factory: Any,
    context: ssl.SSLContext | None = None,
    client: ssl.SSLContext | None = None,
    **options: Any,
) -> tuple[Any, TLSPeer]:
    """A server of ours and its client, after the handshake."""
    server, sock = await serve_one(factory, context, **options)
    peer = TLSPeer(sock, client or client_context(), False)
    await peer.handshake()
    return server, peer


async def client_side(
    protocol: Any,
    context: ssl.SSLContext | None = None,
    server: ssl.SSLContext | None = None,
    **options: Any,
) -> tuple[Any, TLSPeer]:
    """A transport of ours that is a client, and its server, after the handshake."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        connecting = asyncio.ensure_future(
            loop.create_connection(
                lambda: protocol,
                *listener.getsockname(),
                ssl=context or client_context(),
                server_hostname="localhost",
                **options,
            )
        )
        sock, _ = await loop.sock_accept(listener)
    peer = TLSPeer(sock, server or server_context(), True)
    try:
        await peer.handshake()
        transport, _ = await connecting
    except BaseException:
        peer.close()
        raise
    return transport, peer


def renegotiate(end: ssl.SSLObject) -> None:
    """Have a server of TLS 1.2 ask for another handshake, which ssl has no name for.

    It leaves with the next step of the handshake.
    """
    import _ssl

    library = ctypes.CDLL(_ssl.__file__)
    # After the head of the object and its socket: what `openssl.c` looks at, too.
    pointer = ctypes.cast(id(end._sslobj), ctypes.POINTER(ctypes.c_void_p))
    head = object.__basicsize__ // ctypes.sizeof(ctypes.c_void_p)
    library.SSL_renegotiate.argtypes = [ctypes.c_void_p]
    assert library.SSL_renegotiate(pointer[head + 1]) == 1
    library.SSL_do_handshake.argtypes = [ctypes.c_void_p]
    assert library.SSL_do_handshake(pointer[head + 1]) == 1
