"""Programs that live on datagrams, unchanged, on uvtulip: QUIC with HTTP/3, DNS,
CoAP, anyio."""

import asyncio
import datetime
import hashlib
import socket
import ssl

import aiocoap
import aiocoap.resource
import anyio
import dns.asyncquery
import dns.asyncresolver
import dns.message
import dns.rrset
import pytest
from aioquic.asyncio import QuicConnectionProtocol, connect, serve
from aioquic.h3.connection import H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

import uvtulip
from aiosupport import has_ipv6, run
from datagramsupport import HOST, close, endpoint
from uvtulip._transports import DatagramTransport

# ---- HTTP/3 ----


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    cert = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("quic")
    pem = serialization.Encoding.PEM
    (folder / "cert.pem").write_bytes(cert.public_bytes(pem))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return folder


class Server(QuicConnectionProtocol):
    """Answers a request with the digest of its body, and the body itself."""

    http = None

    def quic_event_received(self, event):
        if self.http is None:
            self.http = H3Connection(self._quic)
            self.bodies = {}
        for http_event in self.http.handle_event(event):
            stream = http_event.stream_id
            body = self.bodies.setdefault(stream, bytearray())
            if isinstance(http_event, DataReceived):
                body += http_event.data
            if http_event.stream_ended:
                digest = hashlib.sha256(body).hexdigest().encode()
                headers = [(b":status", b"200"), (b"x-sha256", digest)]
                self.http.send_headers(stream, headers)
                self.http.send_data(stream, bytes(body), end_stream=True)
                self.transmit()


class Client(QuicConnectionProtocol):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.http = H3Connection(self._quic)
        self.answers = {}

    def quic_event_received(self, event):
        for http_event in self.http.handle_event(event):
            headers, body, done = self.answers[http_event.stream_id]
            if isinstance(http_event, HeadersReceived):
                headers.update(http_event.headers)
            elif isinstance(http_event, DataReceived):
                body += http_event.data
            if http_event.stream_ended:
                done.set_result((dict(headers), bytes(body)))

    def post(self, body):
        stream = self._quic.get_next_available_stream_id()
        done = asyncio.get_running_loop().create_future()
        self.answers[stream] = {}, bytearray(), done
        self.http.send_headers(
            stream,
            [
                (b":method", b"POST"),
                (b":scheme", b"https"),
                (b":authority", b"localhost"),
                (b":path", b"/"),
            ],
        )
        self.http.send_data(stream, body, end_stream=True)
        self.transmit()
        return done


def test_http3(certificate):
    async def main():
        configuration = QuicConfiguration(alpn_protocols=["h3"], is_client=False)
        configuration.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
        server = await serve(
            HOST, 0, configuration=configuration, create_protocol=Server
        )
        transport = server._transport
        assert type(transport) is DatagramTransport
        configuration = QuicConfiguration(
            alpn_protocols=["h3"],
            server_name="localhost",
            cafile=certificate / "cert.pem",
        )
        configuration.verify_mode = ssl.CERT_REQUIRED
        async with connect(
            HOST,
            transport.get_extra_info("sockname")[1],
            configuration=configuration,
            create_protocol=Client,
        ) as client:
            bodies = [b"", b"hello", bytes(range(256)) * 4096]
            answers = await asyncio.gather(*(client.post(body) for body in bodies))
            for body, (headers, echoed) in zip(bodies, answers, strict=True):
                assert headers[b":status"] == b"200"
                digest = hashlib.sha256(body).hexdigest().encode()
                assert headers[b"x-sha256"] == digest
                assert echoed == body
        server.close()
        await asyncio.sleep(0)

    run(main())


# ---- DNS ----


class NameServer(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport
        self.lost = asyncio.get_running_loop().create_future()

    def datagram_received(self, data, addr):
        query = dns.message.from_wire(data)
        answer = dns.message.make_response(query)
        question = query.question[0]
        answer.answer.append(
            dns.rrset.from_text(question.name, 60, "IN", "A", "192.0.2.1", "192.0.2.2")
        )
        self.transport.sendto(answer.to_wire(), addr)

    def connection_lost(self, exc):
        self.lost.set_result(exc)


def test_dns():
    async def main():
        server, _ = await endpoint(NameServer)
        port = server.get_extra_info("sockname")[1]
        query = dns.message.make_query("example.com", "A")
        answer = await dns.asyncquery.udp(query, HOST, timeout=5, port=port)
        found = sorted(str(record) for record in answer.answer[0])
        assert found == ["192.0.2.1", "192.0.2.2"]
        resolver = dns.asyncresolver.Resolver(configure=False)
        resolver.nameservers, resolver.port = [HOST], port
        answers = await asyncio.gather(
            *(resolver.resolve(f"host{number}.example.com") for number in range(20))
        )
        for number, answer in enumerate(answers):
            assert str(answer.qname) == f"host{number}.example.com."
            assert len(answer.rrset) == 2
        await close(server)

    run(main())


def test_dns_server_that_is_not_there():
    async def main():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as nobody:
            nobody.bind((HOST, 0))
            port = nobody.getsockname()[1]
        query = dns.message.make_query("example.com", "A")
        with pytest.raises((OSError, dns.exception.Timeout)):
            await dns.asyncquery.udp(query, HOST, timeout=0.2, port=port)

    run(main())


# ---- CoAP ----


class Reverse(aiocoap.resource.Resource):
    async def render_post(self, request):
        return aiocoap.Message(payload=request.payload[::-1])


@pytest.mark.skipif(not has_ipv6(), reason="IPv6")
@pytest.mark.parametrize("transport", ["simple6", "udp6"])
def test_coap(transport):
    async def main():
        site = aiocoap.resource.Site()
        site.add_resource(["reverse"], Reverse())
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((HOST, 0))
            port = probe.getsockname()[1]
        server = await aiocoap.Context.create_server_context(
            site, bind=(HOST, port), transports=["simplesocketserver"]
        )
        client = await aiocoap.Context.create_client_context(transports=[transport])
        request = aiocoap.Message(
            code=aiocoap.POST,
            uri=f"coap://{HOST}:{port}/reverse",
            payload=b"0123456789" * 500,  # Needs several blocks.
        )
        answer = await client.request(request).response
        assert answer.payload == b"9876543210" * 500
        await client.shutdown()
        await server.shutdown()

    run(main())


# ---- anyio ----


@pytest.mark.parametrize("debug", [False, True])
def test_anyio(debug, tmp_path):
    async def echo(server):
        async for packet, address in server:
            await server.sendto(packet, *address)

    async def main():
        async with (
            await anyio.create_udp_socket(local_host=HOST) as server,
            anyio.create_task_group() as group,
        ):
            group.start_soon(echo, server)
            host, port = server.extra(anyio.abc.SocketAttribute.local_address)
            async with await anyio.create_connected_udp_socket(host, port) as client:
                for number in range(100):
                    await client.send(b"%d" % number)
                    assert await client.receive() == b"%d" % number
            group.cancel_scope.cancel()
        path = tmp_path / "socket"
        async with (
            await anyio.create_unix_datagram_socket(local_path=path) as ours,
            await anyio.create_connected_unix_datagram_socket(path) as theirs,
        ):
            await theirs.send(b"hello")
            assert (await ours.receive())[0] == b"hello"
        with pytest.raises(anyio.ClosedResourceError):
            await client.send(b"late")

    anyio.run(
        main,
        backend_options={"loop_factory": uvtulip.new_event_loop, "debug": debug},
    )
