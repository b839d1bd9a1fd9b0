"""Raw libuv handles and an asyncio program on one loop.

    python examples/mixed_loop.py --port 8007 --status-port 8008

An asyncio protocol echoes on the first port.  On the same loop, raw handles serve
the second one: whoever connects is told how many bytes were echoed, without a task,
a future or a transport.  A raw timer reports, too.  Ctrl-C ends it.
"""

import argparse
import asyncio

import uvtulip
from uvtulip import uv


class Echo(asyncio.Protocol):
    echoed = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        Echo.echoed += len(data)
        self.transport.write(data)


def on_status(server: uv.TCP, error: int | None) -> None:
    if error is not None:
        return
    client = uv.TCP(server.loop)
    server.accept(client)
    text = f"{Echo.echoed} bytes echoed\n".encode()
    client.write(text, lambda tcp, error: tcp.closed or tcp.close())


async def main(host: str, port: int, status_port: int) -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, uvtulip.Loop)

    status = uv.TCP(loop.uv_loop)
    status.bind((host, status_port))
    status.listen(on_status)

    timer = uv.Timer(loop.uv_loop)
    timer.start(lambda timer: print(Echo.echoed, "bytes echoed", flush=True), 5, 5)

    server = await loop.create_server(Echo, host, port)
    async with server:
        print("listening on {}:{}".format(*server.getsockname()), flush=True)
        print("status on {}:{}".format(*status.getsockname()), flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Raw handles beside asyncio.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8007)
    parser.add_argument("--status-port", type=int, default=8008)
    options = parser.parse_args()
    try:
        uvtulip.run(main(options.host, options.port, options.status_port))
    except KeyboardInterrupt:
        print("stopped")
