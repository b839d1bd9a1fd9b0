"""A server that a signal ends in good order.

    python examples/uv_signal_stop.py --port 8007
    kill -TERM <pid>

Signal handles watch for SIGINT and SIGTERM.  Their callback closes all handles;
nothing is left to wait for then, and run() returns by itself.
"""

import argparse
import os
import signal

from uvtulip import uv


def on_connection(server: uv.TCP, error: int | None) -> None:
    if error is not None:
        return
    client = uv.TCP(server.loop)
    server.accept(client)
    client.write(b"hello\n", lambda tcp, error: tcp.closed or tcp.close())


def on_signal(watcher: uv.Signal, signum: int) -> None:
    print(f"got {signal.Signals(signum).name}")
    for handle in watcher.loop.handles:
        if not handle.closed:
            handle.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A server that signals end.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8007)
    options = parser.parse_args()
    loop = uv.Loop()
    server = uv.TCP(loop)
    server.bind((options.host, options.port))
    server.listen(on_connection)
    for signum in (signal.SIGINT, signal.SIGTERM):
        uv.Signal(loop).start(on_signal, signum)
    print(
        "listening on {}:{}, pid {}".format(*server.getsockname(), os.getpid()),
        flush=True,
    )
    loop.run()
    print("all closed")
