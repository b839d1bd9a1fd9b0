"""An echo server with asyncio's streams, run by uvtulip.

    python examples/asyncio_echo.py --port 8007

Only the last lines know of uvtulip.  Ctrl-C ends it.
"""

import argparse
import asyncio

import uvtulip


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass  # The client went away: nobody to tell.
    finally:
        writer.close()


async def main(host: str, port: int) -> None:
    server = await asyncio.start_server(echo, host, port)
    async with server:
        name = server.sockets[0].getsockname()
        print(f"listening on {name[0]}:{name[1]}", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="An asyncio echo server.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8007)
    options = parser.parse_args()
    try:
        uvtulip.run(main(options.host, options.port))
    except KeyboardInterrupt:
        print("stopped")
