"""A loop in each of several interpreters that have a lock of their own."""

import sys
import textwrap
import threading

import pytest

from tlssupport import authority, certificate

pytestmark = pytest.mark.skipif(
    sys.version_info < (3, 13),
    reason="the standard library is not safe there before Python 3.13",
)

CODE = textwrap.dedent("""
    import asyncio
    import uvtulip
    from uvtulip import uv

    class Echo(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport

        def data_received(self, data):
            self.transport.write(data)

    async def main():
        loop = asyncio.get_running_loop()
        fired = loop.create_future()
        timer = uv.Timer(loop.uv_loop)
        timer.start(lambda timer: (timer.close(), fired.set_result(True)), 0.001)
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(
            *server.sockets[0].getsockname())
        for i in range(200):
            writer.write(b"%d\\n" % i)
            assert await reader.readline() == b"%d\\n" % i
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()
        assert await fired

    with asyncio.Runner(loop_factory=uvtulip.new_event_loop) as runner:
        runner.run(main())
""")

TLS = textwrap.dedent("""
    import asyncio
    import ssl
    import uvtulip

    async def echo(reader, writer):
        while line := await reader.readline():
            writer.write(line)
        writer.close()
        await writer.wait_closed()

    async def main():
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(r"%(certificate)s")
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.load_verify_locations(r"%(authority)s")
        server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=context)
        reader, writer = await asyncio.open_connection(
            *server.sockets[0].getsockname(),
            ssl=client,
            server_hostname="localhost",
        )
        for i in range(200):
            writer.write(b"%%d\\n" %% i)
            assert await reader.readline() == b"%%d\\n" %% i
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()

    with asyncio.Runner(loop_factory=uvtulip.new_event_loop) as runner:
        runner.run(main())
""")


def run_in_interpreter(failures, code=CODE):
    import _interpreters

    interpreter = _interpreters.create("isolated")
    try:
        error = _interpreters.exec(interpreter, code)
        if error is not None:
            failures.append(error)
    finally:
        _interpreters.destroy(interpreter)


def test_one_after_another():
    failures = []
    for _ in range(2):
        run_in_interpreter(failures)
    assert failures == []


def test_at_the_same_time():
    failures = []
    threads = [
        threading.Thread(target=run_in_interpreter, args=(failures,)) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_tls(tmp_path):
    leaf, ca = tmp_path / "leaf", tmp_path / "ca"
    certificate("localhost").private_key_and_cert_chain_pem.write_to_path(leaf)
    authority().cert_pem.write_to_path(ca)
    code = TLS % {"certificate": leaf, "authority": ca}
    failures = []
    threads = [
        threading.Thread(target=run_in_interpreter, args=(failures, code))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
