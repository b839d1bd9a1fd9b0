"""Frameworks and test tools that are told which loop to use, or find it running."""

import asyncio
import os
import socket
import subprocess
import sys
import textwrap

import anyio
import pytest
import tornado.httpclient
import tornado.httpserver
import tornado.ioloop
import tornado.process
import tornado.testing
import tornado.web

import uvtulip
from aiosupport import run

BACKEND = {"backend_options": {"loop_factory": uvtulip.new_event_loop}}


# ---- anyio ----


def test_anyio_runs_on_it():
    async def main():
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep, 0)
        with anyio.move_on_after(0.01) as scope:
            await anyio.sleep(20)
        assert scope.cancelled_caught
        assert await anyio.to_thread.run_sync(anyio.from_thread.run, answer) == 42
        return type(asyncio.get_running_loop())

    async def answer():
        return 42

    assert anyio.run(main, **BACKEND) is uvtulip.Loop


def test_anyio_tcp(tmp_path):
    async def echo(stream):
        async with stream:
            async for data in stream:
                await stream.send(data)

    async def talk(stream):
        payload = os.urandom(500_000)
        received = bytearray()
        async with anyio.create_task_group() as group:

            async def send():
                await stream.send(payload)
                await stream.send_eof()

            group.start_soon(send)
            async for data in stream:
                received += data
        await stream.aclose()
        assert received == payload

    async def main():
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        local = await anyio.create_unix_listener(tmp_path / "socket")
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with anyio.create_task_group() as group:
            group.start_soon(listener.serve, echo)
            group.start_soon(local.serve, echo)
            for _ in range(5):
                await talk(await anyio.connect_tcp("127.0.0.1", port))
                await talk(await anyio.connect_unix(tmp_path / "socket"))
            group.cancel_scope.cancel()
        await listener.aclose()
        await local.aclose()

    anyio.run(main, **BACKEND)


def test_anyio_udp():
    async def main():
        async with (
            await anyio.create_udp_socket(
                family=socket.AF_INET, local_host="127.0.0.1"
            ) as server,
            await anyio.create_connected_udp_socket(
                "127.0.0.1", server.extra(anyio.abc.SocketAttribute.local_port)
            ) as client,
        ):
            for n in range(100):
                await client.send(b"%d" % n)
                data, address = await server.receive()
                await server.sendto(data[::-1], *address)
                assert await client.receive() == (b"%d" % n)[::-1]

    anyio.run(main, **BACKEND)


def test_anyio_process():
    async def main():
        done = await anyio.run_process(
            [sys.executable, "-c", "print(input()[::-1])"], input=b"tulip\n"
        )
        assert done.stdout == b"pilut\n"
        with anyio.move_on_after(0.05):
            await anyio.run_process(["sleep", "20"])

    anyio.run(main, **BACKEND)


# ---- pytest plugins ----

PLUGINS = {
    "pytest-asyncio": (
        ["-p", "pytest_asyncio.plugin"],
        {
            "pytest.ini": """
                [pytest]
                asyncio_mode = auto
                asyncio_default_fixture_loop_scope = function
                """,
            "conftest.py": """
                import pytest, uvtulip

                @pytest.fixture(scope="session")
                def event_loop_policy():
                    return uvtulip.EventLoopPolicy()
                """,
            "test_it.py": """
                import asyncio
                import pytest_asyncio

                @pytest_asyncio.fixture
                async def loop_type():
                    await asyncio.sleep(0)
                    yield type(asyncio.get_running_loop()).__module__

                async def test_it(loop_type):
                    await asyncio.sleep(0)
                    assert loop_type == "uvtulip.loop"
                """,
        },
    ),
    "pytest-asyncio by factory": (
        ["-p", "pytest_asyncio.plugin"],
        {
            "pytest.ini": """
                [pytest]
                asyncio_mode = auto
                asyncio_default_fixture_loop_scope = function
                """,
            "conftest.py": """
                import uvtulip

                def pytest_asyncio_loop_factories(config, item):
                    return {"uvtulip": uvtulip.new_event_loop}
                """,
            "test_it.py": """
                import asyncio

                async def test_it():
                    await asyncio.sleep(0)
                    assert type(asyncio.get_running_loop()).__module__ == "uvtulip.loop"
                """,
        },
    ),
    "anyio": (
        ["-p", "anyio.pytest_plugin"],
        {
            "pytest.ini": "[pytest]",
            "conftest.py": """
                import pytest, uvtulip

                @pytest.fixture
                def anyio_backend():
                    return "asyncio", {"loop_factory": uvtulip.new_event_loop}
                """,
            "test_it.py": """
                import asyncio
                import pytest

                pytestmark = pytest.mark.anyio

                @pytest.fixture
                async def loop_type():
                    await asyncio.sleep(0)
                    yield type(asyncio.get_running_loop()).__module__

                async def test_it(loop_type):
                    assert loop_type == "uvtulip.loop"
                """,
        },
    ),
}


@pytest.mark.parametrize("name", PLUGINS)
def test_pytest_plugin(name, tmp_path):
    options, files = PLUGINS[name]
    for file, text in files.items():
        (tmp_path / file).write_text(textwrap.dedent(text))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *options],
        cwd=tmp_path,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


# ---- Starlette ----


def test_starlette_client():
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route, WebSocketRoute
    from starlette.testclient import TestClient

    async def page(request):
        return PlainTextResponse(type(asyncio.get_running_loop()).__module__)

    async def echo(websocket):
        await websocket.accept()
        await websocket.send_text((await websocket.receive_text())[::-1])
        await websocket.close()

    app = Starlette(routes=[Route("/", page), WebSocketRoute("/ws", echo)])
    with TestClient(app, **BACKEND) as client:
        assert client.get("/").text == "uvtulip.loop"
        with client.websocket_connect("/ws") as websocket:
            websocket.send_text("tulip")
            assert websocket.receive_text() == "pilut"


# ---- Tornado ----


class Page(tornado.web.RequestHandler):
    async def get(self):
        process = tornado.process.Subprocess(["true"])
        await process.wait_for_exit()
        self.write(type(asyncio.get_running_loop()).__module__)

    def put(self):
        self.write(str(len(self.request.body)))


def test_tornado():
    """Its sockets are its own: readers and writers of the loop."""

    async def main():
        server = tornado.httpserver.HTTPServer(tornado.web.Application([("/", Page)]))
        sock, port = tornado.testing.bind_unused_port()
        server.add_socket(sock)
        client = tornado.httpclient.AsyncHTTPClient(force_instance=True)
        url = f"http://127.0.0.1:{port}/"
        pages = await asyncio.gather(*(client.fetch(url) for _ in range(20)))
        assert {page.body for page in pages} == {b"uvtulip.loop"}
        body = os.urandom(3_000_000)
        done = await client.fetch(url, method="PUT", body=body)
        assert done.body == b"3000000"
        client.close()
        server.stop()
        await server.close_all_connections()
        await asyncio.sleep(0)

    run(main())


# ---- Twisted ----

TWISTED = """
import uvtulip
from twisted.internet import asyncioreactor

asyncioreactor.install(uvtulip.new_event_loop())
from twisted.internet import defer, endpoints, protocol, reactor, task, threads

class Echo(protocol.Protocol):
    def dataReceived(self, data):
        self.transport.write(data)

class Client(protocol.Protocol):
    def connectionMade(self):
        self.data, self.done = b"", defer.Deferred()
        self.transport.write(b"x" * 300000)

    def dataReceived(self, data):
        self.data += data
        if len(self.data) == 300000:
            self.transport.loseConnection()

    def connectionLost(self, reason):
        self.done.callback(len(self.data))

async def main(reactor):
    factory = protocol.Factory.forProtocol(Echo)
    port = reactor.listenTCP(0, factory, interface="127.0.0.1")
    point = endpoints.TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
    client = await endpoints.connectProtocol(point, Client())
    print(await client.done)
    print(await threads.deferToThread(lambda: 42))
    await task.deferLater(reactor, 0.01, lambda: None)
    await port.stopListening()

task.react(lambda reactor: defer.ensureDeferred(main(reactor)))
"""


def test_twisted():
    done = subprocess.run(
        [sys.executable, "-c", TWISTED], capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stdout) == (0, "300000\n42\n"), done.stderr
