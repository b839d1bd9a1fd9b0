"""Web servers with worker processes of their own, on uvtulip by each one's hook, and
curl as their client."""

import json
import os
import signal
import subprocess
import textwrap

import pytest

from aiosupport import free_port
from procsupport import python

APP = """
import asyncio, hashlib, json
%s

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            kind = message["type"].removeprefix("lifespan.")
            await send({"type": f"lifespan.{kind}.complete"})
            if kind == "shutdown":
                return
    digest, size, more = hashlib.sha256(), 0, True
    while more:
        message = await receive()
        digest.update(message.get("body", b""))
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    loop = type(asyncio.get_running_loop())
    body = json.dumps({
        "loop": f"{loop.__module__}.{loop.__qualname__}",
        "size": size,
        "sha256": digest.hexdigest(),
    }).encode()
    await send({
        "type": "http.response.start",
        "status": 200,
        "headers": [(b"content-length", str(len(body)).encode())],
    })
    await send({"type": "http.response.body", "body": body})
"""

# A policy is a choice that is made before the loop is.
BY_POLICY = """
import warnings
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import asyncio, uvtulip
    asyncio.set_event_loop_policy(uvtulip.EventLoopPolicy())
"""

FILES = {
    "app.py": APP % "",
    "app_policy.py": APP % BY_POLICY,
    "worker.py": """
        from uvicorn_worker import UvicornWorker

        class Worker(UvicornWorker):
            CONFIG_KWARGS = {"loop": "uvtulip:new_event_loop", "http": "auto"}
        """,
    "asgi_conf.py": """
        import asyncio, uvtulip

        def post_fork(server, worker):
            asyncio.set_event_loop_policy(uvtulip.EventLoopPolicy())
        """,
    "aiohttp_worker.py": """
        import asyncio, hashlib
        from aiohttp import web
        from aiohttp.worker import GunicornWebWorker
        import uvtulip

        class Worker(GunicornWebWorker):
            def init_process(self):
                asyncio.set_event_loop_policy(uvtulip.EventLoopPolicy())
                super().init_process()

        async def answer(request):
            body = await request.read()
            loop = type(asyncio.get_running_loop())
            return web.json_response({
                "loop": f"{loop.__module__}.{loop.__qualname__}",
                "size": len(body),
                "sha256": hashlib.sha256(body).hexdigest(),
            })

        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", answer)
        """,
    "hypercorn_embedded.py": """
        import asyncio, sys
        import hypercorn.asyncio, hypercorn.config
        import uvtulip
        from app import app

        config = hypercorn.config.Config()
        config.bind = [f"127.0.0.1:{sys.argv[1]}"]
        with asyncio.Runner(loop_factory=uvtulip.new_event_loop) as runner:
            runner.run(hypercorn.asyncio.serve(app, config))
        """,
    "granian_embedded.py": """
        import asyncio, sys
        from granian.server.embed import Server
        import uvtulip
        from app import app

        async def main():
            server = Server(app, address="127.0.0.1", port=int(sys.argv[1]),
                            interface="asgi")
            await server.serve()

        with asyncio.Runner(loop_factory=uvtulip.new_event_loop) as runner:
            runner.run(main())
        """,
}

GUNICORN = ("-m", "gunicorn", "--workers", "2", "--bind", "127.0.0.1:{port}")
SERVERS = {
    "uvicorn": (
        *("-m", "uvicorn", "app:app", "--loop", "uvtulip:new_event_loop"),
        *("--port", "{port}"),
    ),
    "uvicorn-workers": (
        *("-m", "uvicorn", "app:app", "--loop", "uvtulip:new_event_loop"),
        *("--port", "{port}", "--workers", "2"),
    ),
    "hypercorn": ("-m", "hypercorn", "app_policy:app", "-b", "127.0.0.1:{port}"),
    "hypercorn-workers": (
        *("-m", "hypercorn", "app_policy:app", "-b", "127.0.0.1:{port}", "-w", "2"),
    ),
    "hypercorn-embedded": ("hypercorn_embedded.py", "{port}"),
    "granian-embedded": ("granian_embedded.py", "{port}"),
    "gunicorn-uvicorn": (*GUNICORN, "-k", "worker.Worker", "app:app"),
    "gunicorn-asgi": (
        *(*GUNICORN, "-k", "asgi", "--asgi-loop", "asyncio"),
        *("-c", "asgi_conf.py", "app:app"),
    ),
    "gunicorn-aiohttp": (
        *(*GUNICORN, "-k", "aiohttp_worker.Worker"),
        "aiohttp_worker:app",
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("servers")
    for name, text in FILES.items():
        (folder / name).write_text(textwrap.dedent(text))
    (folder / "upload").write_bytes(os.urandom(5_000_000))
    return folder


def curl(port, *args):
    done = subprocess.run(
        [
            *("curl", "-sS", "--fail", "--max-time", "20", "--retry", "40"),
            *("--retry-delay", "1", "--retry-connrefused", *args),
            f"http://127.0.0.1:{port}/path",
        ],
        capture_output=True,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", SERVERS)
def test_server(folder, name):
    port = free_port()
    args = [word.format(port=port) for word in SERVERS[name]]
    with python(*args, cwd=folder, merge=True) as server:
        assert curl(port)["loop"] == "uvtulip.loop.Loop"
        upload = folder / "upload"
        answer = curl(port, "--data-binary", f"@{upload}", "-H", "Expect:")
        assert answer["size"] == 5_000_000
        digest = subprocess.run(
            ["sha256sum", upload], capture_output=True, check=True, text=True
        ).stdout.split()[0]
        assert answer["sha256"] == digest
        server.process.send_signal(signal.SIGTERM)
        status, out, _ = server.finish()
    assert "Traceback" not in out
    assert status in (0, -signal.SIGTERM, 128 + signal.SIGTERM)


def test_many_clients(folder):
    """wrk keeps 50 connections busy; nothing fails."""
    port = free_port()
    args = [word.format(port=port) for word in SERVERS["uvicorn"]]
    with python(*args, "--no-access-log", cwd=folder, merge=True) as server:
        curl(port)
        report = subprocess.run(
            ["wrk", "-t1", "-c50", "-d2", f"http://127.0.0.1:{port}/"],
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        server.process.send_signal(signal.SIGINT)
        server.finish()
    assert "Requests/sec" in report
    assert "Socket errors" not in report and "Non-2xx" not in report
