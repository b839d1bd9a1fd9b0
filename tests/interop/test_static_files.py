"""Files of several megabytes, served by aiohttp through loop.sendfile()."""

import concurrent.futures
import os
import ssl
import subprocess
import urllib.request

import pytest

from aiosupport import free_port
from procsupport import LIMIT, launch
from tlssupport import certificate

SERVER = """
import ssl, sys
from aiohttp import web
from uvtulip import syscalls

calls = 0
sendfile = syscalls.sendfile

def counted(*args):
    global calls
    calls += 1
    return sendfile(*args)

syscalls.sendfile = counted

async def count(request):
    return web.Response(text=str(calls))

app = web.Application()
app.add_routes([web.get("/calls", count), web.static("/", "files")])
context = None
if len(sys.argv) > 2:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[2])
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), ssl_context=context)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("static")
    (folder / "files").mkdir()
    (folder / "files" / "large").write_bytes(os.urandom(9_999_999))
    (folder / "files" / "small").write_bytes(b"little")
    (folder / "files" / "empty").touch()
    (folder / "server.py").write_text(SERVER)
    cert = certificate("localhost")
    (folder / "cert.pem").write_bytes(
        cert.private_key_pem.bytes() + cert.cert_chain_pems[0].bytes()
    )
    return folder


@pytest.fixture(params=["http", "https"])
def url(request, folder):
    port = free_port()
    args = ["server.py", str(port)]
    if request.param == "https":
        args.append("cert.pem")
    with launch(*args, cwd=folder) as program:
        program.line("CTRL")
        yield f"{request.param}://127.0.0.1:{port}"
        program.interrupt()
        assert program.finish() == (0, "", "")


def curl(*args, status=0):
    done = subprocess.run(
        ["curl", "--silent", "--fail", "--insecure", "--max-time", str(LIMIT), *args],
        capture_output=True,
        timeout=2 * LIMIT,
    )
    assert done.returncode == status, done.stderr
    return done.stdout


def test_whole_files(url, folder):
    for name in ("large", "small", "empty"):
        assert curl(f"{url}/{name}") == (folder / "files" / name).read_bytes()
    calls = int(curl(f"{url}/calls"))
    assert calls > 0 if url.startswith("http:") else calls == 0


def test_ranges(url, folder):
    data = (folder / "files" / "large").read_bytes()
    for begin, end in ((0, 0), (100, 5_000_000), (9_999_000, 9_999_998)):
        got = curl("--range", f"{begin}-{end}", f"{url}/large")
        assert got == data[begin : end + 1]


def test_several_on_one_connection(url, folder):
    large = (folder / "files" / "large").read_bytes()
    names = ["small", "large", "empty", "small", "large"]
    got = curl(*[f"{url}/{name}" for name in names])
    assert got == b"little" + large + b"little" + large


def test_several_clients_of_different_speed(url, folder):
    large = (folder / "files" / "large").read_bytes()
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        results = [
            pool.submit(curl, "--limit-rate", rate, f"{url}/large")
            for rate in ("20M", "50M", "100M", "1G", "1G", "1G")
        ]
        assert all(result.result() == large for result in results)


def test_clients_that_leave(url, folder):
    """The server goes on, and says nothing."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    large = (folder / "files" / "large").read_bytes()
    for _ in range(3):
        with urllib.request.urlopen(
            f"{url}/large", timeout=LIMIT, context=context
        ) as answer:
            assert answer.read(1000) == large[:1000]
    assert curl(f"{url}/small") == b"little"
