"""The OSErrors of connections, servers and transports are those of asyncio's own loop,
with the text of os.strerror().  Each case runs on both."""

import asyncio
import contextlib
import errno
import os
import re
import socket
import struct

import pytest

import uvtulip
from aiosupport import LIMIT, Recorder, free_port, refusing_port, turns

LOOPS = (asyncio.SelectorEventLoop, uvtulip.new_event_loop)


def on_both(main):
    outcomes = []

    async def limited():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda *_: None)
        async with asyncio.timeout(LIMIT):
            return await main(loop)

    for factory in LOOPS:
        with asyncio.Runner(loop_factory=factory) as runner:
            outcomes.append(runner.run(limited()))
    return outcomes


def describe(exc):
    return type(exc), getattr(exc, "errno", None), str(exc)


async def caught(awaitable):
    try:
        made = await awaitable
    except Exception as exc:
        return describe(exc)
    (made[0].abort if isinstance(made, tuple) else made.close)()
    return "made"


def check(main, *, wanted=None):
    theirs, ours = on_both(main)
    assert ours == theirs
    if wanted is not None:
        code, text = wanted
        assert ours[1] == code
        assert text in ours[2]
    return ours


def is_strerror(outcome, code):
    assert outcome[1:] == (code, f"[Errno {code}] {os.strerror(code)}")


def test_connecting():
    async def main(loop):
        with refusing_port() as port:
            return await caught(
                loop.create_connection(Recorder, "127.0.0.1", port)
            ), await caught(
                loop.create_connection(
                    Recorder, "127.0.0.1", port, local_addr=("127.0.0.1", 0)
                )
            )

    def same_port(outcomes):
        return re.sub(r"\d{4,5}", "PORT", repr(outcomes))

    theirs, ours = on_both(main)
    assert same_port(ours) == same_port(theirs)
    assert "Connect call failed ('127.0.0.1', " in ours[0][2]


def test_unix_connecting(tmp_path):
    async def main(loop):
        path = str(tmp_path / "socket")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        missing = await caught(loop.create_unix_connection(Recorder, path))
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(path)
            refused = await caught(loop.create_unix_connection(Recorder, path))
        return missing, refused

    missing, refused = check(main)
    is_strerror(missing, errno.ENOENT)
    is_strerror(refused, errno.ECONNREFUSED)


def test_binding(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with socket.socket(type=socket.SOCK_DGRAM) as datagrams:
            datagrams.bind(("127.0.0.1", 0))
            udp_port = datagrams.getsockname()[1]
            path = str(tmp_path / "file")
            (tmp_path / "file").touch()

            async def main(loop):
                return [
                    await caught(loop.create_server(Recorder, "127.0.0.1", port)),
                    await caught(loop.create_server(Recorder, "192.0.2.1", 0)),
                    await caught(
                        loop.create_connection(
                            Recorder, "127.0.0.1", port, local_addr=("127.0.0.1", port)
                        )
                    ),
                    await caught(
                        loop.create_datagram_endpoint(
                            Recorder, local_addr=("127.0.0.1", udp_port)
                        )
                    ),
                    await caught(loop.create_unix_server(Recorder, path)),
                    await caught(
                        loop.create_datagram_endpoint(
                            Recorder, local_addr=path, family=socket.AF_UNIX
                        )
                    ),
                ]

            theirs, ours = on_both(main)

    def newer(outcome):
        # Until Python 3.12 the text for bind() has no number.
        return re.sub(r"\[errno \d+\] ", "", repr(outcome))

    assert [newer(each) for each in ours] == [
        newer(each) if index != 1 or "bind on any" in repr(each) else newer(ours[1])
        for index, each in enumerate(theirs)
    ]
    assert ours[0][1] == errno.EADDRINUSE
    assert "error while attempting to bind on address ('127.0.0.1', " in ours[0][2]
    is_strerror(ours[3], errno.EADDRINUSE)


def test_listening():
    async def main(loop):
        with socket.socket(socket.AF_UNIX) as sock:
            return await caught(loop.create_server(Recorder, sock=sock))

    is_strerror(check(main), errno.EINVAL)


def reset(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


async def lost(protocol):
    while not protocol.lost:
        await asyncio.sleep(0.001)
    return describe(protocol.error)


def tcp_pair():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    return ours, theirs


def test_reset_while_reading():
    async def main(loop):
        ours, theirs = tcp_pair()
        protocol = Recorder()
        await loop.create_connection(lambda: protocol, sock=ours)
        await turns()
        reset(theirs)
        return await lost(protocol)

    outcome = check(main)
    assert outcome[0] is ConnectionResetError
    is_strerror(outcome, errno.ECONNRESET)


@pytest.mark.parametrize("size", [1, 1 << 22])
def test_peer_that_is_gone_while_writing(size):
    async def main(loop):
        ours, theirs = tcp_pair()
        protocol = Recorder()
        transport, _ = await loop.create_connection(lambda: protocol, sock=ours)
        transport.pause_reading()
        await turns()
        reset(theirs)
        while not protocol.lost:
            transport.write(bytes(size))
            await asyncio.sleep(0.001)
        return describe(protocol.error)

    for outcome in on_both(main):
        assert outcome[1] in (errno.EPIPE, errno.ECONNRESET)
        is_strerror(outcome, outcome[1])
        assert issubclass(outcome[0], ConnectionError)


def test_write_pipe_whose_reader_is_gone():
    async def main(loop):
        reading, writing = os.pipe()
        protocol = Recorder()
        transport, _ = await loop.connect_write_pipe(
            lambda: protocol, os.fdopen(writing, "wb", 0)
        )
        await turns()
        os.close(reading)
        transport.write(b"x")
        return await lost(protocol)

    for outcome in on_both(main):
        assert outcome[0] in (BrokenPipeError, type(None))
        if outcome[1] is not None:
            is_strerror(outcome, errno.EPIPE)


def test_refused_datagram():
    async def main(loop):
        errors = []

        class Protocol(asyncio.DatagramProtocol):
            def error_received(self, exc):
                errors.append(exc)

        transport, _ = await loop.create_datagram_endpoint(
            Protocol, remote_addr=("127.0.0.1", free_port())
        )
        while not errors:
            transport.sendto(b"x")
            await asyncio.sleep(0.001)
        transport.abort()
        return describe(errors[0])

    is_strerror(check(main), errno.ECONNREFUSED)


def test_datagram_that_is_too_long():
    async def main(loop):
        errors = []

        class Protocol(asyncio.DatagramProtocol):
            def error_received(self, exc):
                errors.append(exc)

        transport, _ = await loop.create_datagram_endpoint(
            Protocol, remote_addr=("127.0.0.1", free_port())
        )
        transport.sendto(bytes(70_000))
        while not errors:
            await asyncio.sleep(0.001)
        transport.abort()
        return describe(errors[0])

    is_strerror(check(main), errno.EMSGSIZE)


def test_sock_methods():
    async def main(loop):
        ours, theirs = tcp_pair()
        ours.setblocking(False)
        reset(theirs)
        await asyncio.sleep(0.01)
        outcomes = [await caught(loop.sock_recv(ours, 10))]
        outcomes.append(await caught(loop.sock_sendall(ours, b"x")))
        ours.close()
        outcomes.append(await caught(loop.sock_recv(ours, 10)))
        return outcomes

    outcomes = check(main)
    is_strerror(outcomes[0], errno.ECONNRESET)
    is_strerror(outcomes[1], errno.EPIPE)


def test_eof_on_a_terminal_that_is_gone():
    async def main(loop):
        master, slave = os.openpty()
        protocol = Recorder()
        await loop.connect_read_pipe(lambda: protocol, os.fdopen(master, "rb", 0))
        await turns()
        os.close(slave)
        return await lost(protocol)

    for outcome in on_both(main):
        assert outcome[1] in (errno.EIO, None)
        if outcome[1] is not None:
            is_strerror(outcome, errno.EIO)


def test_raw_handles_keep_the_text_of_libuv():
    loop = uvtulip.uv.Loop()
    handle = uvtulip.uv.TCP(loop)
    with pytest.raises(uvtulip.uv.error.TCPError) as caught:
        handle.bind(("192.0.2.1", 0))
        handle.listen(lambda *_: None)
    assert str(caught.value).endswith("(EADDRNOTAVAIL)")
    handle.close()
    loop.run()
    loop.close()
