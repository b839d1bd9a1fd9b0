"""Real web servers, unchanged, on uvtulip; real clients against them."""

import asyncio
import hashlib
import json
import os
import subprocess
import textwrap

import pytest
from websockets.asyncio import client as websockets

from aiosupport import free_port
from procsupport import EXAMPLES, LIMIT, launch, python

ASGI = """
import asyncio, hashlib, json

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            kind = message["type"].removeprefix("lifespan.")
            await send({"type": f"lifespan.{kind}.complete"})
            if kind == "shutdown":
                return
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while True:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                return
            answer = {k: v for k, v in message.items() if k in ("text", "bytes")}
            await send({"type": "websocket.send", **answer})
    digest = hashlib.sha256()
    size = 0
    more = True
    while more:
        message = await receive()
        digest.update(message.get("body", b""))
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    if scope["path"] == "/upload":
        body = json.dumps({"size": size, "sha256": digest.hexdigest()}).encode()
    else:
        body = type(asyncio.get_running_loop()).__module__.encode()
    await send({
        "type": "http.response.start",
        "status": 200,
        "headers": [(b"content-length", str(len(body)).encode())],
    })
    await send({"type": "http.response.body", "body": body})
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("web")
    (folder / "asgi_app.py").write_text(textwrap.dedent(ASGI))
    (folder / "upload").write_bytes(os.urandom(10_000_000))
    return folder


def aiohttp_server(folder):
    return launch(str(EXAMPLES / "aiohttp_app.py"), "--port", "0")


def uvicorn_server(folder):
    return launch(
        *("-m", "uvicorn", "asgi_app:app", "--port", "0", "--http", "httptools"),
        *("--ws", "websockets-sansio", "--loop", "none", "--no-use-colors"),
        cwd=folder,
        merge=True,
    )


def uvicorn_by_import_string(folder):
    return launch(
        *("-m", "uvicorn", "asgi_app:app", "--port", "0", "--http", "httptools"),
        *("--loop", "uvtulip:new_event_loop", "--no-use-colors"),
        cwd=folder,
        merge=True,
    )


SERVERS = [aiohttp_server, uvicorn_server, uvicorn_by_import_string]
OPEN = r"http://(127\.0\.0\.1:\d+)"


@pytest.fixture(params=SERVERS, ids=lambda server: server.__name__)
def server(request, folder):
    """A running server; its address."""
    with request.param(folder) as program:
        yield program.line(OPEN)[1]
        program.interrupt()
        status, out, err = program.finish()
        assert "Traceback" not in out + err
        assert status in (0, 130)


def curl(*args):
    done = subprocess.run(
        ["curl", "--silent", "--show-error", "--fail", "--max-time", str(LIMIT), *args],
        capture_output=True,
        timeout=2 * LIMIT,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_pages(server):
    for _ in range(5):
        assert b"uvtulip.loop" in curl(f"http://{server}/")
    # Several requests on one connection.
    out = curl(*[f"http://{server}/?{n}" for n in range(20)])
    assert out.count(b"uvtulip.loop") == 20


@pytest.mark.parametrize("how", ["whole", "chunked", "slow"])
def test_uploads(server, folder, how):
    options = {
        "whole": [],
        "chunked": ["--header", "Transfer-Encoding: chunked"],
        "slow": ["--limit-rate", "20M"],
    }[how]
    path = folder / "upload"
    answer = json.loads(
        curl(*options, "--data-binary", f"@{path}", f"http://{server}/upload")
    )
    data = path.read_bytes()
    assert answer == {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def test_websockets(server):
    async def one(number):
        async with websockets.connect(f"ws://{server}/ws", proxy=None) as socket:
            for size in (0, 1, 125, 126, 70_000, 500_000):
                await socket.send("x" * size)
                assert await socket.recv() == "x" * size
                await socket.send(data := os.urandom(size))
                assert await socket.recv() == data

    async def main():
        async with asyncio.timeout(LIMIT):
            await asyncio.gather(*(one(n) for n in range(5)))

    asyncio.run(main())


RUN_APP = """
import asyncio
from aiohttp import web

async def page(request):
    return web.Response(text=type(asyncio.get_running_loop()).__module__)

app = web.Application()
app.add_routes([web.get("/", page)])
web.run_app(app, host="127.0.0.1", port={port})
"""


def test_run_app_of_aiohttp():
    """It handles SIGINT itself, and returns."""
    port = free_port()
    with launch("-c", RUN_APP.format(port=port)) as program:
        program.line("CTRL")
        assert curl(f"http://127.0.0.1:{port}/") == b"uvtulip.loop"
        program.interrupt()
        assert program.finish() == (0, "", "")


GIVEN_SOCKET = """
import asyncio, socket, uvicorn, uvtulip
from asgi_app import app

sock = socket.create_server(("127.0.0.1", 0))
config = uvicorn.Config(app, loop="uvtulip:new_event_loop", log_level="error")
server = uvicorn.Server(config)
print("http://127.0.0.1:%d" % sock.getsockname()[1], flush=True)
server.run(sockets=[sock])
print(sock.fileno())
"""


def test_uvicorn_with_a_socket_of_its_own(folder):
    with python("-c", GIVEN_SOCKET, cwd=folder) as program:
        address = program.line(OPEN)[1]
        assert curl("--retry", "3", f"http://{address}/") == b"uvtulip.loop"
        program.interrupt()
        _, out, err = program.finish()
        assert "Traceback" not in err or "KeyboardInterrupt" in err


def test_ctrl_c_ends_the_example(folder):
    with aiohttp_server(folder) as program:
        program.line(OPEN)
        program.interrupt()
        assert program.finish() == (130, "", "")
