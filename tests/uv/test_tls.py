"""uv.TLS, a layer over a stream handle: data, contexts, other implementations."""

import os
import shutil
import socket
import ssl
import subprocess
import time

import pytest

from rawtls import End, Peer, connected, ends, run_until, stream, streams
from tlssupport import authority, certificate, client_context, server_context, tls12
from uvtulip import uv

pytestmark = pytest.mark.usefixtures("raw_tls_backend")

EOF = uv.errno.UV_EOF
CANCELED = uv.errno.UV_ECANCELED


# ---- the way through ----


@pytest.mark.parametrize("kind", [uv.Pipe, uv.TCP])
@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_there_and_back(loop, raw_tls_backend, kind, version):
    change = tls12 if version == "TLSv1.2" else lambda context: context
    server, client = ends(loop, client=change(client_context()), kind=kind)
    assert server.tls.active and client.tls.active
    assert not client.tls.readable and not client.tls.writable
    connected(loop, server, client)
    for end in (server, client):
        tls = end.tls
        assert (tls.version(), tls.backend) == (version, raw_tls_backend)
        assert tls.cipher()[2] >= 128 and tls.readable and tls.writable
        assert isinstance(tls.ssl_object, ssl.SSLObject)
        assert isinstance(tls.context, ssl.SSLContext)
        assert tls.loop is loop and isinstance(tls.stream, kind)
    assert (server.tls.server_side, client.tls.server_side) == (True, False)
    assert client.tls.server_hostname == "localhost"
    assert client.tls.getpeercert()["subjectAltName"] == (("DNS", "localhost"),)
    assert client.tls.getpeercert(binary_form=True)[:1] == b"\x30"
    assert server.tls.getpeercert() is None
    client.tls.write(b"hello", client.done("written"))
    assert client.events == [("handshake", None)]       # comes from the loop
    run_until(loop, lambda: server.data == b"hello")
    server.tls.write([b"a", b"", bytearray(b"b"), memoryview(b"c")])
    run_until(loop, lambda: client.data == b"abc")
    assert client.events[1:] == [("written", None)]
    client.tls.shutdown(client.done("shut"))
    assert not client.tls.writable
    run_until(loop, lambda: server.events[1:] and client.events[2:])
    assert server.events[1:] == [("end", EOF)] and not server.tls.readable
    assert client.events[2:] == [("shut", None)]
    server.tls.write(b"still")          # only the other direction has ended
    server.tls.shutdown(server.done("shut"))
    run_until(loop, lambda: len(client.events) == 4)
    assert client.data == b"abcstill" and client.events[3] == ("end", EOF)
    assert not server.tls.active
    for end in (server, client):
        end.tls.close(lambda tls, end=end: end.events.append("closed"))
        assert end.tls.closed and end.tls.stream.closed
        loop.run_checked()
        assert end.events[-1] == "closed" and end.tls.loop is None
        assert end.tls.ssl_object.version() == version


@pytest.mark.parametrize("pieces", [1, 1000])
def test_megabytes_both_ways(loop, pieces):
    data = os.urandom(5_000_000)
    size = len(data) // pieces
    server, client = ends(loop)
    for end in (server, client):
        for start in range(0, len(data), size):
            end.tls.write(data[start : start + size], end.done(start))
        assert end.tls.write_queue_size >= len(data)
    run_until(loop, lambda: len(server.data) + len(client.data) == 2 * len(data))
    run_until(loop, lambda: len(server.events) == len(client.events) == pieces + 1)
    assert server.data == client.data == data
    order = [(start, None) for start in range(0, len(data), size)]
    assert server.events[1:] == client.events[1:] == order
    assert server.tls.write_queue_size == 0


def test_pieces_that_share_records(loop):
    server, client = ends(loop)
    sizes = [n % 40_000 * (n % 3 == 0) + n % 7 for n in range(0, 90_000, 997)]
    pieces = [os.urandom(size) for size in sizes]
    client.tls.writelines(iter(pieces))
    run_until(loop, lambda: len(server.data) == sum(map(len, pieces)))
    assert server.data == b"".join(pieces)


def test_slow_reader(loop):
    """What is not read waits on the other side, and not as ciphertext."""
    server, client = ends(loop, read=False)
    connected(loop, server, client)
    client.tls.write(bytes(20_000_000), client.done("written"))
    for _ in range(50):
        loop.run(uv.UV_RUN_NOWAIT)
    assert client.tls.write_queue_size > 15_000_000
    assert client.tls.stream.write_queue_size < 1_000_000
    assert not server.tls.stream.active
    server.tls.start_read(server.on_read)
    run_until(loop, lambda: len(server.data) == 20_000_000)
    run_until(loop, lambda: client.events[-1] == ("written", None))


def test_stop_and_go_on(loop):
    """One read at a time; the rest waits though it has come already."""
    server, client = ends(loop, read=False)
    connected(loop, server, client)
    got = []

    def on_read(tls, data, error):
        got.append(data)
        tls.stop_read()

    client.tls.write(bytes(1_000_000))
    client.tls.shutdown()
    turns = 0
    while None not in got:
        before = len(got)
        server.tls.start_read(on_read)
        assert len(got) == before       # never from inside of the call
        run_until(loop, lambda before=before: len(got) > before)
        assert len(got) == before + 1
        for _ in range(3):
            loop.run(uv.UV_RUN_NOWAIT)
        assert len(got) == before + 1
        turns += 1
    assert b"".join(got[:-1]) == bytes(1_000_000) and turns > 8
    again = []
    server.tls.start_read(lambda tls, data, error: again.append((data, error)))
    run_until(loop, lambda: again)
    assert again == [(None, EOF)]


def test_data_with_the_last_of_the_handshake(loop):
    """It is there before anybody reads, and comes when somebody does."""
    server, client = ends(loop, read=False)
    client.tls.write(b"early", client.done("written"))
    run_until(loop, lambda: server.events and len(client.events) == 2)
    assert client.events == [("handshake", None), ("written", None)]
    server.tls.start_read(server.on_read)
    run_until(loop, lambda: server.data == b"early")


def test_start_read_before_the_handshake(loop):
    one, two = streams(loop)
    data = []
    server = uv.TLS(one, server_context(), True)
    server.handshake(lambda tls, error: data.append(error))
    server.start_read(lambda tls, more, error: data.append(more))
    client = End(uv.TLS(two, client_context(), server_hostname="localhost"))
    client.tls.write(b"x")
    run_until(loop, lambda: len(data) == 2)
    assert data == [None, b"x"]


def test_empty_writes(loop):
    server, client = ends(loop)
    client.tls.write(b"", client.done("empty"))
    client.tls.write([b"", b""], client.done("more"))
    client.tls.write(b"")
    client.tls.write(b"x")
    run_until(loop, lambda: server.data == b"x" and len(client.events) == 3)
    assert client.events[1:] == [("empty", None), ("more", None)]


def test_shutdown_with_unread_data_on_both_sides(loop):
    """close_notify passes what the other side has sent meanwhile."""
    server, client = ends(loop, read=False)
    connected(loop, server, client)
    got = []
    for end in (server, client):
        end.tls.write(bytes(200_000))

    def on_read(tls, data, error):
        got.append(len(data))
        tls.stop_read()
        tls.shutdown()

    server.tls.start_read(on_read)
    run_until(loop, lambda: got)
    client.tls.start_read(client.on_read)
    server.tls.start_read(server.on_read)
    run_until(loop, lambda: len(client.data) + got[0] + len(server.data) == 400_000)
    run_until(loop, lambda: client.events[-1] == ("end", EOF))
    client.tls.shutdown()
    run_until(loop, lambda: server.events[-1] == ("end", EOF))


def test_try_write(loop):
    server, client = ends(loop)
    with pytest.raises(uv.error.TLSError) as info:
        client.tls.try_write(b"x")
    assert info.value.name == "EAGAIN"
    connected(loop, server, client)
    assert client.tls.try_write(b"abc") == 3
    assert client.tls.try_write(b"") == 0
    assert client.tls.try_write([b"x" * 10_000, b"y" * 20_000]) == 16384
    assert client.tls.try_write(bytes(20_000)) == 16384
    run_until(loop, lambda: len(server.data) == 3 + 2 * 16384)
    server.tls.stop_read()
    with pytest.raises(uv.error.TLSError) as info:
        while True:
            client.tls.try_write(bytes(16384))
    assert info.value.name == "EAGAIN"


# ---- what the context decides ----


def test_client_certificates(loop):
    context = client_context()
    certificate("someone@example.org").configure_cert(context)
    server, client = ends(loop, server_context(verify_mode=ssl.CERT_REQUIRED), context)
    connected(loop, server, client)
    cert = server.tls.getpeercert()
    assert cert["subjectAltName"] == (("email", "someone@example.org"),)


@pytest.mark.parametrize("change", [tls12, lambda context: context])
def test_no_client_certificate(loop, change):
    """With TLS 1.3 the client hears of it when it reads."""
    server, client = ends(
        loop,
        server_context(verify_mode=ssl.CERT_REQUIRED),
        change(client_context()),
    )
    run_until(
        loop,
        lambda: server.events and client.events and client.error is not None,
    )
    assert isinstance(server.error, ssl.SSLError)
    assert isinstance(client.error, ssl.SSLError)
    assert client.error.reason.endswith("ALERT_CERTIFICATE_REQUIRED") or (
        change is tls12 and "ALERT" in client.error.reason
    )


def test_alpn(loop):
    contexts = server_context(), client_context()
    contexts[0].set_alpn_protocols(["h2", "http/1.1"])
    contexts[1].set_alpn_protocols(["http/1.1", "other"])
    server, client = ends(loop, *contexts)
    connected(loop, server, client)
    assert server.tls.selected_alpn_protocol() == "http/1.1"
    assert client.tls.selected_alpn_protocol() == "http/1.1"


def test_sni(loop):
    """The server's context is chosen by name, and the callback may use the handle."""
    other = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate("other.example").configure_cert(other)
    context = server_context()
    seen = []

    def on_name(obj, name, original):
        seen.append(name)
        assert obj is server.tls.ssl_object
        server.tls.write(b"from inside", server.done("written"))
        with pytest.raises(uv.error.TLSError):
            server.tls.handshake(print)
        with pytest.raises(uv.error.TLSError):
            server.tls.try_write(b"x")
        obj.context = other

    context.sni_callback = on_name
    server, client = ends(loop, context, server_hostname="other.example")
    run_until(loop, lambda: client.data == b"from inside")
    assert seen == ["other.example"] and server.events[0] == ("handshake", None)
    assert client.tls.getpeercert()["subjectAltName"] == (("DNS", "other.example"),)


@pytest.mark.parametrize("close", ["tls", "stream"])
def test_sni_callback_that_closes(loop, close):
    context = server_context()
    context.sni_callback = lambda *args: (
        server.tls if close == "tls" else server.tls.stream
    ).close()
    server, client = ends(loop, context)
    run_until(loop, lambda: server.events and client.events)
    assert server.events == [("handshake", CANCELED)] and server.tls.closed
    assert client.error == EOF or client.error == uv.errno.UV_ECONNRESET


@pytest.mark.parametrize("change", [tls12, lambda context: context])
def test_session(loop, change):
    contexts = server_context(), change(client_context())
    server, client = ends(loop, *contexts)
    connected(loop, server, client)
    server.tls.write(b"x")
    run_until(loop, lambda: client.data)
    session = client.tls.session
    assert session.has_ticket and not client.tls.session_reused
    server, client = ends(loop, *contexts, session=session)
    connected(loop, server, client)
    assert client.tls.session_reused and server.tls.session_reused


# ---- other implementations ----


@pytest.mark.parametrize("change", [tls12, lambda context: context])
def test_against_a_python_server(loop, change):
    data = os.urandom(2_000_000)

    def serve(tls):
        got = bytearray()
        while len(got) < len(data):
            got += tls.recv(1 << 16)
        tls.sendall(got)
        assert tls.recv(1) == b""
        return tls.version()

    handle, sock = stream(loop)
    peer = Peer(sock, serve, change(server_context()))
    client = End(uv.TLS(handle, client_context(), server_hostname="localhost"))
    client.tls.write(data)
    run_until(loop, lambda: len(client.data) == len(data))
    client.tls.shutdown()
    run_until(loop, lambda: len(client.events) == 2)
    assert peer.finish() == client.tls.version() and client.data == data


def test_against_a_python_client(loop):
    def talk(tls):
        tls.sendall(b"hello")
        assert tls.recv(100) == b"HELLO"
        return tls.unwrap()

    handle, sock = stream(loop)
    server = End(uv.TLS(handle, server_context(), True))
    peer = Peer(sock, talk, client_context(), False, server_hostname="localhost")
    run_until(loop, lambda: server.data == b"hello")
    server.tls.write(b"HELLO")
    run_until(loop, lambda: len(server.events) == 2)
    assert server.error == EOF
    server.tls.shutdown()
    loop.run(uv.UV_RUN_NOWAIT)
    peer.finish().close()


openssl = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="there is no openssl program"
)


@openssl
def test_s_client(loop, tmp_path):
    authority().cert_pem.write_to_path(tmp_path / "ca")
    listener = uv.TCP(loop)
    listener.bind(("127.0.0.1", 0))
    servers = []

    def on_connection(listener, error):
        tcp = uv.TCP(loop)
        listener.accept(tcp)
        servers.append(End(uv.TLS(tcp, server_context(), True)))

    listener.listen(on_connection)
    with subprocess.Popen(
        ["openssl", "s_client", "-quiet", "-connect",
         f"127.0.0.1:{listener.getsockname()[1]}", "-CAfile", tmp_path / "ca",
         "-servername", "localhost", "-verify_return_error"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    ) as program:
        program.stdin.write(b"hello\n")
        program.stdin.flush()
        run_until(loop, lambda: servers and servers[0].data == b"hello\n")
        servers[0].tls.write(b"bye\n")
        servers[0].tls.shutdown()
        # Turns of the loop while the program reads.
        run_until(loop, lambda: servers[0].tls.write_queue_size == 0)
        assert program.stdout.readline() == b"bye\n"
        program.stdin.close()
        run_until(loop, lambda: len(servers[0].events) == 2)


@openssl
def test_s_server(loop, tmp_path):
    """Its keys change in the middle, by "K" and "k"."""
    certificate("localhost").private_key_and_cert_chain_pem.write_to_path(
        tmp_path / "leaf"
    )
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with subprocess.Popen(
        ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-cert",
         tmp_path / "leaf", "-naccept", "1"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as program:
        while b"ACCEPT" not in program.stdout.readline():
            assert program.poll() is None
        tcp = uv.TCP(loop)
        up = []
        tcp.connect(("127.0.0.1", port), lambda tcp, error: up.append(error))
        run_until(loop, lambda: up)
        client = End(uv.TLS(tcp, client_context(), server_hostname="localhost"))
        run_until(loop, lambda: client.events)
        for letter in b"Kk":
            # A letter is a command at the begin of what the program reads at once.
            program.stdin.write(b"%c\n" % letter)
            program.stdin.flush()
            client.data.clear()
            while not client.data:
                program.stdin.write(b"text\n")
                program.stdin.flush()
                for _ in range(10):
                    loop.run(uv.UV_RUN_NOWAIT)
                    time.sleep(0.001)
            assert set(bytes(client.data).split()) == {b"text"}
            client.tls.write(b"answer\n")
            while program.stdout.readline() != b"answer\n":
                assert program.poll() is None
        program.stdin.write(b"Q\n")
        program.stdin.flush()
        run_until(loop, lambda: len(client.events) == 2)
        assert client.error == EOF or type(client.error) is ssl.SSLEOFError
        client.tls.close()
        loop.run(uv.UV_RUN_NOWAIT)
