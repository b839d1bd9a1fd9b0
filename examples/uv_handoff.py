"""Connections are accepted by one process and served by others, in asyncio.

    python examples/uv_handoff.py --port 8009 --workers 2

The parent accepts on raw handles and gives each connection to a worker in turn, over
a pipe.  A worker runs asyncio; the handle that it receives becomes a transport with
an ordinary protocol, by loop.connect_uv_handle().  Ctrl-C ends all.
"""

import argparse
import asyncio
import itertools
import os
import signal
import sys

import uvtulip
from uvtulip import uv

CHANNEL = 3  # the worker's end of the pipe


def parent(options: argparse.Namespace) -> None:
    loop = uv.Loop()
    channels = []
    for _ in range(options.workers):
        channel = uv.Pipe(loop, ipc=True)
        flags = uv.UV_CREATE_PIPE | uv.UV_READABLE_PIPE | uv.UV_WRITABLE_PIPE
        uv.Process.spawn(
            loop,
            [sys.executable, __file__, "--worker"],
            stdio=[
                None,
                None,
                uv.StdIO(fd=2, flags=uv.UV_INHERIT_FD),
                uv.StdIO(channel, flags=flags),
            ],
            exit_callback=lambda process, status, signum: process.close(),
        )
        channels.append(channel)
    turns = itertools.cycle(channels)

    def on_connection(server: uv.TCP, error: int | None) -> None:
        client = uv.TCP(loop)
        server.accept(client)
        # Sent once the write is done; then the worker has the only descriptor.
        next(turns).write(b"+", lambda pipe, error: client.close(), client)

    server = uv.TCP(loop)
    server.bind((options.host, options.port))
    server.listen(on_connection)
    print("listening on {}:{}".format(*server.getsockname()), flush=True)

    def on_signal(watcher: uv.Signal, signum: int) -> None:
        for handle in loop.handles:
            # The workers end when their channels do.
            if not isinstance(handle, uv.Process) and not handle.closed:
                handle.close()

    uv.Signal(loop).start(on_signal, signal.SIGINT)
    loop.run()
    print("stopped")


class Greeter(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(f"process {os.getpid()} listens\n".encode())

    def data_received(self, data: bytes) -> None:
        self.transport.write(data.upper())


async def worker() -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, uvtulip.Loop)
    # Ctrl-C reaches all; it is the parent that decides.
    loop.add_signal_handler(signal.SIGINT, lambda: None)
    ended = loop.create_future()
    tasks = set()
    channel = uv.Pipe(loop.uv_loop, ipc=True)
    channel.open(CHANNEL)

    def on_read(channel: uv.Pipe, data: bytes | None, error: int | None) -> None:
        if error is not None:
            ended.set_result(None)
        while channel.pending_count():
            client = uv.TCP(loop.uv_loop)
            channel.accept(client)
            task = loop.create_task(loop.connect_uv_handle(Greeter, client))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    channel.start_read(on_read)
    await ended


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Accepted here, served there.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8009)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        uvtulip.run(worker())
    else:
        parent(options)
