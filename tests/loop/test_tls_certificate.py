"""Certificates as objects, and sessions that are resumed."""

import asyncio
import datetime
import hashlib
import ssl

import pytest

import uvtulip
from aiosupport import Echo, Recorder, run, until
from tlssupport import (
    authority,
    certificate,
    client_context,
    client_side,
    server_context,
)

pytestmark = pytest.mark.usefixtures("tls_backend")


async def peer_certificate(context, server=None):
    protocol = Recorder()
    transport, peer = await client_side(protocol, context, server)
    with peer:
        found = transport.get_extra_info("peer_certificate")
        transport.abort()
        await until(lambda: protocol.lost)
    return found


@pytest.mark.parametrize("verify", [True, False])
def test_certificate(verify):
    async def main():
        context = client_context()
        if not verify:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        cert = await peer_certificate(context)
        pem = certificate("localhost").cert_chain_pems[0].bytes().decode()
        assert isinstance(cert, uvtulip.Certificate)
        assert cert.der == ssl.PEM_cert_to_DER_cert(pem)
        assert cert.pem == pem
        assert cert.dns_names == ("localhost",)
        assert ("DNS", "localhost") in cert.subject_alt_names
        assert ("organizationName", cert.issuer[0][1]) == cert.issuer[0]
        assert dict(cert.subject)["organizationName"]
        assert cert.common_name is None
        now = datetime.datetime.now(datetime.UTC)
        assert cert.not_before < now < cert.not_after
        assert cert.serial_number > 0
        assert cert.fingerprint() == hashlib.sha256(cert.der).hexdigest()
        assert cert.fingerprint("sha1") == hashlib.sha1(cert.der).hexdigest()
        with pytest.raises(ValueError, match="nothing"):
            cert.fingerprint("nothing")
        assert cert.info["version"] == 3
        assert cert.chain[0] is cert
        assert cert == uvtulip.Certificate(cert.der, {})
        assert len({cert, uvtulip.Certificate(cert.der, {})}) == 1
        assert cert != cert.der
        assert "organizationName=" in repr(cert)

    run(main())


def test_chain():
    async def main():
        middle = authority().create_child_ca()
        leaf = middle.issue_cert("localhost")
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        leaf.configure_cert(server)
        cert = await peer_certificate(client_context(), server)
        assert [each.der for each in cert.chain] == [
            ssl.PEM_cert_to_DER_cert(pem.bytes().decode())
            for pem in leaf.cert_chain_pems
        ]
        assert cert.chain[1].chain == cert.chain[1:]
        assert cert.issuer == cert.chain[1].subject

    run(main())


def test_certificate_of_a_client():
    async def main():
        protocols = []

        def factory():
            protocols.append(Echo())
            return protocols[-1]

        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            factory, "127.0.0.1", 0, ssl=server_context(verify_mode=ssl.CERT_OPTIONAL)
        )
        for name in ("a.client", None):
            context = client_context()
            if name is not None:
                certificate(name).configure_cert(context)
            protocol = Recorder()
            transport, _ = await loop.create_connection(
                lambda p=protocol: p,
                *server.sockets[0].getsockname(),
                ssl=context,
                server_hostname="localhost",
            )
            transport.write(b"x")
            await until(lambda p=protocol: p.data)
            ask = protocols[-1].transport.get_extra_info
            cert = ask("peer_certificate")
            assert cert is None if name is None else cert.dns_names == (name,)
            transport.close()
            await until(lambda p=protocol: p.lost)
        server.close()
        await server.wait_closed()

    run(main())


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_sessions_are_resumed(version):
    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            Echo, "127.0.0.1", 0, ssl=server_context(maximum_version=version)
        )
        context = uvtulip.ResumingContext()
        authority().configure_trust(context)
        context.max_sessions = 1

        async def connect():
            protocol = Recorder()
            transport, _ = await loop.create_connection(
                lambda: protocol,
                *server.sockets[0].getsockname(),
                ssl=context,
                server_hostname="localhost",
            )
            transport.write(b"hello")
            await until(lambda: protocol.data == b"hello")
            reused = transport.get_extra_info("session_reused")
            assert reused is transport.get_extra_info("ssl_object").session_reused
            transport.close()
            await until(lambda: protocol.lost)
            return reused

        assert [await connect() for _ in range(3)] == [False, True, True]
        context.forget_sessions()
        assert [await connect() for _ in range(2)] == [False, True]
        context.max_sessions = 0
        assert [await connect() for _ in range(2)] == [True, False]
        server.close()
        await server.wait_closed()

    run(main())


def test_a_context_that_cannot_keep_sessions():
    class Failing(uvtulip.ResumingContext):
        def keep_session(self, ssl_object):
            raise ZeroDivisionError

    async def main():
        contexts = []
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: contexts.append(context)
        )
        context = Failing()
        authority().configure_trust(context)
        await peer_certificate(context)
        assert [type(c["exception"]) for c in contexts] == [ZeroDivisionError]

    run(main())
