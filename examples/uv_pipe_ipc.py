"""One listening socket, served by several processes.

    python examples/uv_pipe_ipc.py --port 8008 --workers 3

The parent binds the socket and sends it to each worker over a pipe; the workers
accept from it on their own.  Every connection is told which process has it.
"""

import argparse
import os
import signal
import sys

from uvtulip import uv

CHANNEL = 3  # the worker's end of the pipe


def parent(options: argparse.Namespace) -> None:
    loop = uv.Loop()
    server = uv.TCP(loop)
    server.bind((options.host, options.port))
    workers = []
    ready = []

    def on_ready(channel: uv.Pipe, data: bytes | None, error: int | None) -> None:
        ready.append(data)
        channel.stop_read()
        if len(ready) == options.workers:
            print("listening on {}:{}".format(*server.getsockname()), flush=True)

    for _ in range(options.workers):
        channel = uv.Pipe(loop, ipc=True)
        flags = uv.UV_CREATE_PIPE | uv.UV_READABLE_PIPE | uv.UV_WRITABLE_PIPE
        stderr = uv.StdIO(fd=2, flags=uv.UV_INHERIT_FD)
        workers.append(
            uv.Process.spawn(
                loop,
                [sys.executable, __file__, "--worker"],
                stdio=[None, None, stderr, uv.StdIO(channel, flags=flags)],
                exit_callback=lambda process, status, signum: process.close(),
            )
        )
        channel.write(b"serve", None, server)
        channel.start_read(on_ready)

    def on_signal(watcher: uv.Signal, signum: int) -> None:
        for handle in loop.handles:
            # The workers end when their channels do.
            if not isinstance(handle, uv.Process) and not handle.closed:
                handle.close()

    uv.Signal(loop).start(on_signal, signal.SIGINT)
    loop.run()
    print(f"{len(workers)} workers ended, stopped")


def worker() -> None:
    loop = uv.Loop()
    # Ctrl-C reaches all; it is the parent that decides.
    uv.Signal(loop).start(lambda watcher, signum: None, signal.SIGINT)
    channel = uv.Pipe(loop, ipc=True)
    channel.open(CHANNEL)

    def on_read(channel: uv.Pipe, data: bytes | None, error: int | None) -> None:
        if error is not None:
            loop.stop()
        elif channel.pending_count():
            server = uv.TCP(loop)
            channel.accept(server)
            server.listen(on_connection)
            channel.write(b"ready")

    def on_connection(server: uv.TCP, error: int | None) -> None:
        client = uv.TCP(loop)
        try:
            server.accept(client)
        except uv.error.TCPError:  # another worker was faster
            return
        text = f"process {os.getpid()}\n".encode()
        client.write(text, lambda client, error: client.close())

    channel.start_read(on_read)
    loop.run()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A server of several processes.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8008)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker()
    else:
        parent(options)
