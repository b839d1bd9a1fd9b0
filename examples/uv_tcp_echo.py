"""A TCP echo server on raw handles that does not outrun its clients.

    python examples/uv_tcp_echo.py --port 8007

Reading from a client stops while a lot waits to be written to it, so that a client
which never reads cannot fill the memory.  Ctrl-C ends it.
"""

import argparse

from uvtulip import uv

ENOUGH = 1024 * 1024


class Client:
    def __init__(self, server: uv.TCP) -> None:
        self.tcp = uv.TCP(server.loop)
        server.accept(self.tcp)
        self.tcp.nodelay(True)
        self.tcp.start_read(self.on_read)

    def on_read(self, tcp: uv.TCP, data: bytes | None, error: int | None) -> None:
        if error == uv.errno.UV_EOF:
            tcp.shutdown(self.on_shutdown)  # Once all is written.
        elif error is not None:
            tcp.close()
        elif data is not None:
            tcp.write(data, self.on_written)
            if tcp.write_queue_size > ENOUGH:
                tcp.stop_read()

    def on_written(self, tcp: uv.TCP, error: int | None) -> None:
        if tcp.closed:
            return
        if error is not None:
            tcp.close()
        elif tcp.write_queue_size == 0 and tcp.readable:
            tcp.start_read(self.on_read)

    def on_shutdown(self, tcp: uv.TCP, error: int | None) -> None:
        if not tcp.closed:
            tcp.close()


def on_connection(server: uv.TCP, error: int | None) -> None:
    if error is not None:
        print(f"accept failed: {uv.errno.strerror(error)}")
    else:
        Client(server)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A TCP echo server on raw handles.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8007)
    options = parser.parse_args()
    loop = uv.Loop()
    server = uv.TCP(loop)
    server.bind((options.host, options.port))
    server.listen(on_connection)
    print("listening on {}:{}".format(*server.getsockname()), flush=True)
    try:
        loop.run()
    except KeyboardInterrupt:
        print("stopped")
