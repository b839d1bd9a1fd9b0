"""Two copies of OpenSSL of one version in a process, as by a package that brings its
own: TLS notices that what it would call is not what the ssl module uses."""

import os
import pathlib
import re

import pytest

import uvtulip
from aiosupport import check_script

LIBRARIES = "libssl", "libcrypto"

SCRIPT = """
import asyncio, ssl, sys
sys.path.insert(0, {tests!r})
import uvtulip
from tlssupport import client_context, server_context
from uvtulip import _uv

async def main():
    async def serve(reader, writer):
        writer.write(await reader.readexactly(4))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_context())
    reader, writer = await asyncio.open_connection(
        *server.sockets[0].getsockname(), ssl=client_context(),
        server_hostname="localhost")
    writer.write(b"ping")
    assert await reader.read() == b"ping"
    print(writer.get_extra_info("tls_backend"))
    writer.close()
    await writer.wait_closed()
    server.close()

print(uvtulip.tls_backend(), _uv._tls_backend(None))
uvtulip.run(main())
"""


def loaded():
    """The files of both libraries in this process."""
    import ssl

    assert ssl.OPENSSL_VERSION
    found = {}
    for line in pathlib.Path("/proc/self/maps").read_text().splitlines():
        path = line.rpartition(" ")[2]
        name = os.path.basename(path)
        for library in LIBRARIES:
            if re.fullmatch(rf"{library}\.so\.\d+", name):
                found[library] = path
    return found


def copy(path, folder):
    """Another library to the loader: its name in it is another one."""
    name = os.path.basename(path).encode() + b"\0"
    other = name.replace(b"lib", b"lub", 1)
    target = folder / other[:-1].decode()
    content = pathlib.Path(path).read_bytes()
    assert name in content
    target.write_bytes(content.replace(name, other))
    return str(target)


def backends(*preload):
    known = os.environ.get("LD_PRELOAD", "").split()
    env = {"LD_PRELOAD": " ".join([*known, *preload])}
    tests = str(pathlib.Path(__file__).parent.parent)
    return check_script(SCRIPT.format(tests=tests), env=env).split()


@pytest.mark.skipif(
    len(loaded()) < 2,
    reason="OpenSSL is a part of this Python, not libraries of its own",
)
@pytest.mark.parametrize("which", [["libssl"], ["libcrypto"], ["libssl", "libcrypto"]])
def test_another_copy_comes_first(tmp_path, which):
    paths = loaded()
    copies = [copy(paths[library], tmp_path) for library in which]
    assert backends(*copies) == ["memory-bio"] * 3


def test_one_copy():
    assert backends() == [uvtulip.tls_backend()] * 3
