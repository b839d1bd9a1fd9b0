"""TCP and libuv handles, completion style: an echo server and its client.

    python examples/mail_2013.py --port 8007
    python examples/mail_2013.py --port 8007 --send "hello"

This is how uv handles were proposed as the ground for tulip's transports, in a mail
of January 2013: start_read() takes a callback that gets the handle, the data and
an error; the end of the stream is the error UV_EOF, upon which one closes.  No
asyncio here: a loop, handles and callbacks.
"""

import argparse

from uvtulip import uv


def on_read(client: uv.TCP, data: bytes | None, error: int | None) -> None:
    if error is not None:
        if error != uv.errno.UV_EOF:
            print(f"read failed: {uv.errno.strerror(error)}")
        client.close()
        return
    assert data is not None
    client.write(data)


def on_connection(server: uv.TCP, error: int | None) -> None:
    if error is not None:
        print(f"accept failed: {uv.errno.strerror(error)}")
        return
    client = uv.TCP(server.loop)
    server.accept(client)
    client.start_read(on_read)


def serve(loop: uv.Loop, host: str, port: int) -> None:
    server = uv.TCP(loop)
    server.bind((host, port))
    server.listen(on_connection)
    print("listening on {}:{}".format(*server.getsockname()), flush=True)
    loop.run()


def send(loop: uv.Loop, host: str, port: int, text: str) -> None:
    """Send the text, end the sending side, print what comes until the end."""
    answer = bytearray()

    def on_answer(tcp: uv.TCP, data: bytes | None, error: int | None) -> None:
        if error == uv.errno.UV_EOF:
            print(answer.decode())
            tcp.close()
        elif error is not None:
            tcp.close()
            raise OSError(-error, uv.errno.strerror(error))
        elif data is not None:
            answer.extend(data)

    def on_connect(tcp: uv.TCP, error: int | None) -> None:
        if error is not None:
            tcp.close()
            raise OSError(-error, uv.errno.strerror(error))
        tcp.start_read(on_answer)
        tcp.write(text.encode())
        tcp.shutdown()

    client = uv.TCP(loop)
    client.connect((host, port), on_connect)
    loop.run()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A TCP echo server on raw handles.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8007)
    parser.add_argument("--send", metavar="TEXT", help="be the client")
    options = parser.parse_args()
    loop = uv.Loop()
    try:
        if options.send is None:
            serve(loop, options.host, options.port)
        else:
            send(loop, options.host, options.port, options.send)
    except KeyboardInterrupt:
        print("stopped")
