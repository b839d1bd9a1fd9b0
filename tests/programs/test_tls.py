"""TLS against other implementations and through other people's programs: openssl's
client and server, curl, nginx on both sides, PostgreSQL, SMTP, WebSockets.

Everything runs both ways: straight on OpenSSL, and over ssl.MemoryBIO.
"""

import asyncio
import contextlib
import json
import os
import ssl
import subprocess
import textwrap

import aiohttp
import aiosmtplib
import asyncpg
import pytest
import websockets.asyncio.client
import websockets.asyncio.server
from aiohttp import web
from aiosmtpd.handlers import Sink
from aiosmtpd.smtp import SMTP

import uvtulip
from aiosupport import free_port, run
from procsupport import python
from programsupport import find
from tlssupport import authority, certificate, client_context, server_context
from uvtulip import _transports

LIMIT = 20.0


@pytest.fixture(params=["openssl", "memory-bio"])
def backend(request):
    """Chosen for the test; the programs that it starts take it as an argument."""
    _transports._tls_backend(request.param == "memory-bio")
    assert uvtulip.tls_backend() == request.param
    yield request.param
    _transports._tls_backend(False)


@pytest.fixture(scope="module")
def pem(tmp_path_factory):
    """A folder with ca.pem, server.pem, client.pem: certificates with their keys."""
    folder = tmp_path_factory.mktemp("pem")
    folder.chmod(0o755)
    authority().cert_pem.write_to_path(folder / "ca.pem")
    for file, name in (("server.pem", "localhost"), ("client.pem", "client@tulip")):
        certificate(name).private_key_and_cert_chain_pem.write_to_path(folder / file)
    return folder


class Echo(asyncio.Protocol):
    """Sends back what comes, in capitals; remembers the transport."""

    def connection_made(self, transport):
        self.transport = transport
        self.lost = asyncio.get_running_loop().create_future()

    def data_received(self, data):
        self.transport.write(data.upper())

    def connection_lost(self, exc):
        self.lost.set_result(exc)


async def echo_server(context, made):
    def factory():
        made.append(Echo())
        return made[-1]

    loop = asyncio.get_running_loop()
    server = await loop.create_server(factory, "127.0.0.1", 0, ssl=context)
    return server, server.sockets[0].getsockname()[1]


async def openssl(*args, data=b""):
    """Run an openssl command with this input; its output."""
    process = await asyncio.create_subprocess_exec(
        find("openssl"),
        *map(str, args),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await asyncio.wait_for(process.communicate(data), LIMIT)
    return out.decode(errors="replace")


# ---- openssl s_client: we are the server ----


@pytest.mark.parametrize("version", ["tls1_2", "tls1_3"])
def test_s_client(backend, pem, version):
    async def main():
        made = []
        server, port = await echo_server(server_context(), made)
        async with server:
            process = await asyncio.create_subprocess_exec(
                *(find("openssl"), "s_client", "-quiet", f"-{version}"),
                *("-verify_return_error", "-CAfile", pem / "ca.pem"),
                *("-verify_hostname", "localhost", "-connect", f"127.0.0.1:{port}"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            process.stdin.write(b"tulip\n" * 30000)
            received = await asyncio.wait_for(
                process.stdout.readexactly(6 * 30000), LIMIT
            )
            assert received == b"TULIP\n" * 30000
            transport = made[0].transport
            names = {"tls1_2": "TLSv1.2", "tls1_3": "TLSv1.3"}
            assert transport.get_extra_info("tls_version") == names[version]
            assert transport.get_extra_info("tls_backend") == backend
            process.kill()
            await process.wait()
            process._transport.close()
            await made[0].lost

    run(main())


@pytest.mark.parametrize("version", ["tls1_2", "tls1_3"])
def test_s_client_resumes_its_session(backend, pem, tmp_path, version):
    async def main():
        made = []
        server, port = await echo_server(server_context(), made)
        args = (
            *("s_client", f"-{version}", "-CAfile", pem / "ca.pem"),
            *("-connect", f"127.0.0.1:{port}", "-ign_eof"),
        )
        session = tmp_path / "session"

        async def connect(*more):
            process = await asyncio.create_subprocess_exec(
                find("openssl"),
                *map(str, (*args, *more)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
            process.stdin.write(b"tulip\n")
            out = await asyncio.wait_for(process.stdout.readuntil(b"TULIP\n"), LIMIT)
            made[-1].transport.close()
            rest, _ = await asyncio.wait_for(process.communicate(), LIMIT)
            return (out + rest).decode()

        async with server:
            assert "\nNew, TLSv1" in await connect("-sess_out", session)
            assert "\nReused, TLSv1" in await connect("-sess_in", session)
        infos = [echo.transport.get_extra_info("session_reused") for echo in made]
        assert infos == [False, True]

    run(main())


def test_s_client_with_certificate_and_alpn(backend, pem):
    async def main():
        made = []
        context = server_context(verify_mode=ssl.CERT_REQUIRED)
        context.set_alpn_protocols(["h2", "tulip"])
        server, port = await echo_server(context, made)
        asyncio.get_running_loop().set_exception_handler(lambda *args: None)
        async with server:
            args = ("s_client", "-CAfile", pem / "ca.pem", "-alpn", "rose,tulip")
            args += ("-connect", f"127.0.0.1:{port}")
            out = await openssl(
                *args, "-cert", pem / "client.pem", "-key", pem / "client.pem"
            )
            assert "ALPN protocol: tulip" in out
            assert "Verify return code: 0 (ok)" in out
            transport = made[0].transport
            assert transport.get_extra_info("alpn_protocol") == "tulip"
            names = transport.get_extra_info("peercert")["subjectAltName"]
            assert names == (("email", "client@tulip"),)
            out = await openssl(*args, "-tls1_2")
            assert "alert" in out

    run(main())


def test_s_client_updates_its_keys(backend, pem):
    """K in a line of its own has s_client ask for new keys of both sides."""

    async def main():
        made = []
        server, port = await echo_server(server_context(), made)
        async with server:
            process = await asyncio.create_subprocess_exec(
                *(find("openssl"), "s_client", "-tls1_3", "-CAfile", pem / "ca.pem"),
                *("-connect", f"127.0.0.1:{port}"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            for n in range(20):
                process.stdin.write(b"K\n")
                await asyncio.wait_for(
                    process.stdout.readuntil(b"KEYUPDATE\n"), LIMIT
                )
                process.stdin.write(b"tulip %d\n" % n)
                await asyncio.wait_for(
                    process.stdout.readuntil(b"TULIP %d\n" % n), LIMIT
                )
            process.stdin.write(b"Q\n")
            await asyncio.wait_for(process.communicate(), LIMIT)
            assert await made[0].lost is None

    run(main())


# ---- openssl s_server: we are the client ----


@contextlib.asynccontextmanager
async def s_server(pem, *more):
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *(find("openssl"), "s_server", "-accept", f"127.0.0.1:{port}", "-quiet"),
        *("-cert", pem / "server.pem", "-key", pem / "server.pem"),
        *("-rev", *more),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                assert process.returncode is None
                await asyncio.sleep(0.05)
            else:
                writer.close()
                break
        yield port
    finally:
        process.kill()
        await process.communicate()


@pytest.mark.parametrize("version", ["tls1_2", "tls1_3"])
def test_s_server(backend, pem, version):
    async def main():
        async with s_server(
            pem, f"-{version}", "-Verify", "1", "-CAfile", pem / "ca.pem"
        ) as port:
            context = client_context()
            certificate("client@tulip").configure_cert(context)
            for _ in range(3):
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", port, ssl=context, server_hostname="localhost"
                )
                writer.write(b"tulip\n")
                assert await reader.readline() == b"pilut\n"
                assert writer.get_extra_info("tls_backend") == backend
                writer.close()
                await writer.wait_closed()
            with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
                await asyncio.open_connection(
                    "127.0.0.1", port, ssl=context, server_hostname="rose.example"
                )

    run(main())


# ---- HTTP servers with TLS, and curl ----

FILES = {
    "uvi.py": """
        import sys
        import uvicorn, uvtulip

        uvtulip._transports._tls_backend(sys.argv[3] == "memory-bio")
        uvicorn.run("app:app", loop="uvtulip:new_event_loop", port=int(sys.argv[1]),
                    ssl_certfile=sys.argv[2])
        """,
    "app.py": """
        import json, os

        async def app(scope, receive, send):
            if scope["type"] == "lifespan":
                while True:
                    message = await receive()
                    kind = message["type"].removeprefix("lifespan.")
                    await send({"type": f"lifespan.{kind}.complete"})
                    if kind == "shutdown":
                        return
            size, more = 0, True
            while more:
                message = await receive()
                size += len(message.get("body", b""))
                more = message.get("more_body", False)
            body = json.dumps({"size": size, "version": scope["http_version"],
                               "scheme": scope["scheme"]}).encode()
            await send({"type": "http.response.start", "status": 200,
                        "headers": [(b"content-length", str(len(body)).encode())]})
            await send({"type": "http.response.body", "body": body})
        """,
    "hyper.py": """
        import asyncio, sys
        import hypercorn.asyncio, hypercorn.config
        import uvtulip
        from app import app

        uvtulip._transports._tls_backend(sys.argv[3] == "memory-bio")
        config = hypercorn.config.Config()
        config.bind = [f"127.0.0.1:{sys.argv[1]}"]
        config.certfile = config.keyfile = sys.argv[2]
        with asyncio.Runner(loop_factory=uvtulip.new_event_loop) as runner:
            runner.run(hypercorn.asyncio.serve(app, config))
        """,
}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    site = tmp_path_factory.mktemp("tls")
    for name, text in FILES.items():
        (site / name).write_text(textwrap.dedent(text))
    (site / "upload").write_bytes(os.urandom(5_000_000))
    return site


def curl(pem, port, *args):
    done = subprocess.run(
        [
            *("curl", "-sS", "--fail", "--max-time", "20", "--retry", "40"),
            *("--retry-delay", "1", "--retry-connrefused", "--cacert", pem / "ca.pem"),
            *(*args, f"https://localhost:{port}/path"),
        ],
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def test_uvicorn_and_curl(backend, pem, site):
    port = free_port()
    with python(
        *("uvi.py", str(port), str(pem / "server.pem"), backend),
        cwd=site,
        merge=True,
    ) as server:
        answer = json.loads(curl(pem, port, "--ipv4"))
        assert answer == {"size": 0, "version": "1.1", "scheme": "https"}
        upload = f"@{site / 'upload'}"
        answer = curl(pem, port, "--ipv4", "--data-binary", upload, "-H", "Expect:")
        assert json.loads(answer)["size"] == 5_000_000
        server.interrupt()
        assert "Traceback" not in server.finish()[1]


def test_hypercorn_and_curl_http2(backend, pem, site):
    port = free_port()
    with python(
        *("hyper.py", str(port), str(pem / "server.pem"), backend),
        cwd=site,
        merge=True,
    ) as server:
        answer = json.loads(curl(pem, port, "--ipv4", "--http2"))
        assert answer == {"size": 0, "version": "2", "scheme": "https"}
        upload = f"@{site / 'upload'}"
        answer = json.loads(curl(pem, port, "--ipv4", "--data-binary", upload))
        assert (answer["size"], answer["version"]) == (5_000_000, "2")
        server.interrupt()
        assert "Traceback" not in server.finish()[1]


# ---- nginx ----


@contextlib.contextmanager
def nginx(folder, body):
    (folder / "nginx.conf").write_text(
        f"""
        daemon off; master_process off; pid {folder}/pid; error_log stderr;
        events {{}}
        http {{
            access_log off; client_max_body_size 0;
            client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
            fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u;
            scgi_temp_path {folder}/s;
            {body}
        }}
        """
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [find_nginx(), "-p", folder, "-c", folder / "nginx.conf"], stderr=log
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait(LIMIT)


def find_nginx():
    return "/usr/sbin/nginx" if os.path.exists("/usr/sbin/nginx") else find("nginx")


async def aiohttp_site(context):
    async def answer(request):
        body = await request.read()
        return web.json_response({"size": len(body), "scheme": request.scheme})

    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    return runner, runner.addresses[0][1]


def test_behind_nginx(backend, pem, site, tmp_path):
    """curl speaks TLS to nginx, which speaks TLS to aiohttp's server on our loop."""

    async def main():
        runner, port = await aiohttp_site(server_context())
        front = free_port()
        body = f"""server {{
            listen 127.0.0.1:{front} ssl;
            ssl_certificate {pem}/server.pem; ssl_certificate_key {pem}/server.pem;
            location / {{
                proxy_pass https://127.0.0.1:{port};
                proxy_ssl_trusted_certificate {pem}/ca.pem; proxy_ssl_verify on;
                proxy_ssl_name localhost; proxy_http_version 1.1;
            }}
        }}"""
        with nginx(tmp_path, body):
            for data in ((), ("--data-binary", f"@{site / 'upload'}")):
                answer = await asyncio.to_thread(curl, pem, front, "--ipv4", *data)
                size = 5_000_000 if data else 0
                assert json.loads(answer) == {"size": size, "scheme": "https"}
        await runner.cleanup()

    run(main())


def test_in_front_of_nginx(backend, pem, site, tmp_path):
    """aiohttp's client on our loop fetches from nginx over TLS."""
    content = (site / "upload").read_bytes()

    async def main():
        port = free_port()
        body = f"""server {{
            listen 127.0.0.1:{port} ssl;
            ssl_certificate {pem}/server.pem; ssl_certificate_key {pem}/server.pem;
            location / {{ root {site}; }}
        }}"""
        site.chmod(0o755)
        with nginx(tmp_path, body):
            connector = aiohttp.TCPConnector(ssl=client_context())
            async with aiohttp.ClientSession(connector=connector) as session:
                while True:
                    try:
                        page = await session.get(f"https://localhost:{port}/app.py")
                        break
                    except aiohttp.ClientConnectorError:
                        await asyncio.sleep(0.05)
                page.release()

                async def fetch():
                    url = f"https://localhost:{port}/upload"
                    async with session.get(url) as page:
                        assert await page.read() == content

                await asyncio.gather(*(fetch() for _ in range(8)))
            await asyncio.sleep(0.05)

    run(main())


# ---- PostgreSQL ----


def test_asyncpg_verify_full(backend, pem, postgres):
    """It asks for TLS in plain text, then gives its socket's transport to start_tls."""

    async def main():
        plain = await asyncpg.connect(
            host=str(postgres.folder),
            port=postgres.port,
            user="tulip",
            password="tulip",
            database="tulip",
        )
        data = str(await plain.fetchval("show data_directory"))
        owner = os.stat(data)
        for name in ("server.crt", "server.key"):
            path = os.path.join(data, name)
            with open(path, "wb") as file:
                file.write((pem / "server.pem").read_bytes())
            os.chmod(path, 0o600)
            os.chown(path, owner.st_uid, owner.st_gid)
        await plain.execute("alter system set ssl = on")
        await plain.execute("select pg_reload_conf()")
        while await plain.fetchval("show ssl") != "on":
            await asyncio.sleep(0.02)
        await plain.close()
        connection = await asyncpg.connect(
            f"postgresql://tulip:tulip@localhost:{postgres.port}/tulip"
            f"?sslmode=verify-full&sslrootcert={pem / 'ca.pem'}"
        )
        used = await connection.fetchval(
            "select ssl from pg_stat_ssl where pid = pg_backend_pid()"
        )
        assert used is True
        rows = await connection.fetch(
            "select repeat('x', 1000) from generate_series(1, 5000)"
        )
        assert sum(len(row[0]) for row in rows) == 5_000_000
        assert connection._transport.get_extra_info("tls_backend") == backend
        await connection.close()

    run(main())


# ---- SMTP and WebSockets ----


def test_smtp_starttls(backend):
    """aiosmtpd puts asyncio's own TLS protocol on our transport; aiosmtplib calls
    start_tls()."""

    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: SMTP(
                Sink(),
                hostname="localhost",
                loop=loop,
                tls_context=server_context(),
                require_starttls=True,
            ),
            "127.0.0.1",
            0,
        )
        async with server:
            port = server.sockets[0].getsockname()[1]
            client = aiosmtplib.SMTP(
                hostname="localhost",
                port=port,
                tls_context=client_context(),
                start_tls=True,
            )
            async with client:
                text = "Subject: tulip\r\n\r\n" + "line\r\n" * 50000
                errors, _ = await client.sendmail("a@b.example", ["c@d.example"], text)
                assert errors == {}
                assert client.transport.get_extra_info("tls_backend") == backend

    run(main())


def test_websockets_over_tls(backend):
    async def echo(connection):
        async for message in connection:
            await connection.send(message)

    async def main():
        async with websockets.asyncio.server.serve(
            echo, "127.0.0.1", 0, ssl=server_context(), max_size=None
        ) as server:
            port = server.sockets[0].getsockname()[1]

            async def talk(n):
                async with websockets.asyncio.client.connect(
                    f"wss://localhost:{port}",
                    ssl=client_context(),
                    max_size=None,
                    proxy=None,
                ) as client:
                    for message in (f"client {n}", b"", os.urandom(700_000)):
                        await client.send(message)
                        assert await client.recv() == message

            await asyncio.gather(*(talk(n) for n in range(10)))

    run(main())
