"""A TLS echo server on raw handles, and a client.

    python examples/uv_tls_echo.py --certificate server.pem --port 8443
    python examples/uv_tls_echo.py --trust ca.pem --port 8443 --send hello

uv.TLS is a layer over a connected TCP handle, and is used as that would be.  The file
of the server has its certificate and private key.  Ctrl-C ends the server.
"""

import argparse
import ssl
import sys

from uvtulip import uv

ENOUGH = 1024 * 1024


class Client:
    """One connection of the server."""

    def __init__(self, server: uv.TCP, context: ssl.SSLContext) -> None:
        tcp = uv.TCP(server.loop)
        server.accept(tcp)
        self.tls = uv.TLS(tcp, context, server_side=True)
        self.tls.handshake(self.on_handshake)

    def on_handshake(self, tls: uv.TLS, error: int | Exception | None) -> None:
        if error is None:
            tls.start_read(self.on_read)
        else:
            self.close()

    def on_read(
        self, tls: uv.TLS, data: bytes | None, error: int | Exception | None
    ) -> None:
        if error == uv.errno.UV_EOF:
            tls.shutdown(lambda tls, error: self.close())  # Once all is written.
        elif data is None:
            self.close()
        else:
            tls.write(data, self.on_written)
            if tls.write_queue_size > ENOUGH:
                tls.stop_read()

    def on_written(self, tls: uv.TLS, error: int | Exception | None) -> None:
        if error is not None:
            self.close()
        elif not tls.closed and tls.write_queue_size == 0 and tls.readable:
            tls.start_read(self.on_read)

    def close(self) -> None:
        if not self.tls.closed:
            self.tls.close()


def serve(loop: uv.Loop, options: argparse.Namespace) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(options.certificate)
    server = uv.TCP(loop)
    server.bind((options.host, options.port))
    server.listen(lambda server, error: error or Client(server, context))
    print("listening on {}:{}".format(*server.getsockname()), flush=True)
    try:
        loop.run()
    except KeyboardInterrupt:
        print("stopped")


def send(loop: uv.Loop, options: argparse.Namespace) -> None:
    context = ssl.create_default_context(cafile=options.trust)
    received = bytearray()

    def on_connect(tcp: uv.TCP, error: int | None) -> None:
        if error is not None:
            sys.exit(f"cannot connect: {uv.errno.strerror(error)}")
        tls = uv.TLS(tcp, context, server_hostname=options.name)
        tls.handshake(on_handshake)

    def on_handshake(tls: uv.TLS, error: int | Exception | None) -> None:
        if isinstance(error, ssl.SSLCertVerificationError):
            sys.exit(f"the server is not trusted: {error.verify_message}")
        if error is not None:
            sys.exit(f"no handshake: {error}")
        tls.start_read(on_read)
        tls.write(options.send.encode())
        tls.shutdown()

    def on_read(
        tls: uv.TLS, data: bytes | None, error: int | Exception | None
    ) -> None:
        if data is not None:
            received.extend(data)
            return
        if error == uv.errno.UV_EOF:
            print(f"{received.decode()} ({tls.version()})")
        else:
            print(f"only {len(received)} bytes came: {error}")
        tls.close()

    uv.TCP(loop).connect((options.host, options.port), on_connect)
    loop.run()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A TLS echo server on raw handles.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8443)
    parser.add_argument("--certificate", help="of the server, with its key (PEM)")
    parser.add_argument("--trust", help="for the client: an authority (PEM)")
    parser.add_argument("--name", default="localhost", help="the server's name")
    parser.add_argument("--send", metavar="TEXT", help="be a client")
    given = parser.parse_args()
    if given.send is not None:
        send(uv.Loop(), given)
    elif given.certificate is None:
        parser.error("a server needs --certificate")
    else:
        serve(uv.Loop(), given)
