"""Libraries that lean on the loop in ways of their own: SSH, WebSockets, gRPC, ZeroMQ,
SMTP.  Client and server run on the same loop."""

import asyncio
import email.message
import os
import threading
import urllib.request

import aiohttp
import aiosmtplib
import asyncssh
import grpc
import pytest
import websockets.asyncio.client
import websockets.asyncio.server
import zmq
import zmq.asyncio
from aiohttp import web
from aiosmtpd.handlers import Message
from aiosmtpd.smtp import SMTP

from aiosupport import run

# ---- asyncssh ----


class AnyPassword(asyncssh.SSHServer):
    def begin_auth(self, username):
        return True

    def password_auth_supported(self):
        return True

    def validate_password(self, username, password):
        return password == "tulip"

    def connection_requested(self, *args):
        return True


async def answer_process(process):
    """`upper` answers; `cat` runs the real program, its streams redirected."""
    if process.command == "cat":
        child = await asyncio.create_subprocess_exec(
            "cat",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        await process.redirect(stdin=child.stdin, stdout=child.stdout)
        process.exit(await child.wait())
        await process.wait_closed()
    else:
        process.stdout.write((await process.stdin.read()).upper())
        process.exit(3)


async def ssh_pair(folder):
    server = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_factory=AnyPassword,
        server_host_keys=[asyncssh.generate_private_key("ssh-ed25519")],
        process_factory=answer_process,
        sftp_factory=lambda channel: asyncssh.SFTPServer(channel, chroot=folder),
    )
    port = server.sockets[0].getsockname()[1]
    client = await asyncssh.connect(
        "127.0.0.1", port, username="u", password="tulip", known_hosts=None, config=None
    )
    return server, client


def test_asyncssh(tmp_path):
    async def main():
        server, client = await ssh_pair(tmp_path)
        async with server, client:
            done = await client.run("upper", input="tulip" * 1000)
            assert (done.stdout, done.exit_status) == ("TULIP" * 1000, 3)

            source = tmp_path / "source"
            source.write_bytes(os.urandom(1_000_000))
            async with client.start_sftp_client() as sftp:
                await sftp.get("/source", tmp_path / "copy")
            assert (tmp_path / "copy").read_bytes() == source.read_bytes()

            # Through the tunnel, a stream in the stream: to its own port.
            port = server.sockets[0].getsockname()[1]
            async with client.connect_ssh(
                "127.0.0.1", port, username="u", password="tulip", known_hosts=None
            ) as inner:
                done = await inner.run("upper", input="inside")
                assert done.stdout == "INSIDE"
            listener = await client.forward_local_port(
                "127.0.0.1", 0, "127.0.0.1", port
            )
            async with listener:
                async with asyncssh.connect(
                    "127.0.0.1",
                    listener.get_port(),
                    username="u",
                    password="tulip",
                    known_hosts=None,
                    config=None,
                ) as inner:
                    assert (await inner.run("upper", input="x")).stdout == "X"
        with pytest.raises(asyncssh.PermissionDenied):
            server, client = await ssh_pair(tmp_path)
            async with server, client:
                await asyncssh.connect(
                    "127.0.0.1",
                    server.sockets[0].getsockname()[1],
                    username="u",
                    password="rose",
                    known_hosts=None,
                    config=None,
                )

    run(main())


def test_asyncssh_redirects_to_a_process(tmp_path):
    async def main():
        server, client = await ssh_pair(tmp_path)
        async with server, client:
            done = await client.run("cat", input="tulip\n" * 20000)
            assert (done.stdout, done.exit_status) == ("tulip\n" * 20000, 0)

    run(main())


# ---- websockets ----


def test_websockets():
    async def echo(connection):
        async for message in connection:
            await connection.send(message)

    async def main():
        async with websockets.asyncio.server.serve(echo, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]

            async def talk(n):
                async with websockets.asyncio.client.connect(
                    f"ws://127.0.0.1:{port}", max_size=None, proxy=None
                ) as client:
                    big = os.urandom(700_000)
                    for message in (f"client {n}", b"", big):
                        await client.send(message)
                        assert await client.recv() == message
                    await (await client.ping())

            await asyncio.gather(*(talk(n) for n in range(10)))

    run(main())


# ---- gRPC ----


def test_grpc():
    """Its own threads wake the loop through a descriptor that it watches."""

    async def reverse(request, context):
        return request[::-1]

    async def count(request, context):
        for n in range(int(request)):
            yield b"%d" % n

    async def main():
        server = grpc.aio.server()
        handlers = {
            "Reverse": grpc.unary_unary_rpc_method_handler(reverse),
            "Count": grpc.unary_stream_rpc_method_handler(count),
        }
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("tulip.Test", handlers),)
        )
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_unary("/tulip.Test/Reverse")
            answers = await asyncio.gather(*(call(b"%d" % n) for n in range(200)))
            assert answers == [(b"%d" % n)[::-1] for n in range(200)]
            stream = channel.unary_stream("/tulip.Test/Count")(b"500")
            assert [int(n) async for n in stream] == list(range(500))
        await server.stop(None)

    run(main())


# ---- ZeroMQ ----


def test_zmq():
    """Edge-triggered descriptors under add_reader(); it also patches loop.close."""

    async def main():
        with zmq.asyncio.Context() as context:
            with context.socket(zmq.REP) as rep, context.socket(zmq.REQ) as req:
                port = rep.bind_to_random_port("tcp://127.0.0.1")
                req.connect(f"tcp://127.0.0.1:{port}")
                for n in range(300):
                    _, received = await asyncio.gather(
                        req.send(b"%d" % n), rep.recv_multipart()
                    )
                    await rep.send_multipart(received)
                    assert await req.recv() == b"%d" % n
            with context.socket(zmq.PUSH) as push, context.socket(zmq.PULL) as pull:
                pull.bind("inproc://tulip")
                push.connect("inproc://tulip")

                async def send():
                    for n in range(3000):
                        await push.send(b"%d" % n)

                task = asyncio.create_task(send())
                for n in range(3000):
                    assert await pull.recv() == b"%d" % n
                await task
                assert await pull.poll(timeout=10) == 0

    run(main())


# ---- SMTP ----


class Keep(Message):
    def __init__(self):
        super().__init__()
        self.kept = []

    def handle_message(self, message):
        self.kept.append(message)


def test_smtp():
    async def main():
        loop = asyncio.get_running_loop()
        keep = Keep()
        server = await loop.create_server(
            lambda: SMTP(keep, hostname="localhost", loop=loop), "127.0.0.1", 0
        )
        async with server:
            port = server.sockets[0].getsockname()[1]
            message = email.message.EmailMessage()
            message["From"], message["To"] = "a@example.org", "b@example.org"
            message["Subject"] = "tulip"
            message.set_content("line\n" * 5000)
            for _ in range(3):
                async with aiosmtplib.SMTP(
                    hostname="127.0.0.1", port=port, start_tls=False
                ) as client:
                    await client.send_message(message)
        assert [kept["Subject"] for kept in keep.kept] == ["tulip"] * 3

    run(main())


# ---- aiohttp as server and client ----


def test_aiohttp_static_file(tmp_path):
    """Goes through loop.sendfile(); the client is the standard library's."""
    content = os.urandom(4_000_000)
    (tmp_path / "file.bin").write_bytes(content)

    async def main():
        app = web.Application()
        app.router.add_static("/static", tmp_path)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        url = f"http://127.0.0.1:{port}/static/file.bin"
        assert await asyncio.to_thread(fetch, url) == content
        async with aiohttp.ClientSession() as session:
            async with session.get(url, headers={"Range": "bytes=5-1000004"}) as page:
                assert await page.read() == content[5:1000005]
            async with session.get(url) as page:
                await page.content.read(10)  # and goes away in the middle
        await runner.cleanup()

    run(main())


def fetch(url):
    assert threading.current_thread() is not threading.main_thread()
    with urllib.request.urlopen(url, timeout=20) as page:
        return page.read()
