"""A web page with a WebSocket echo: a plain aiohttp program.

    python -m uvtulip examples/aiohttp_app.py --port 8080

It knows nothing of uvtulip; the launcher has it run on uvtulip's loop.  The page
shows which loop serves it.  Ctrl-C ends it.
"""

import argparse
import asyncio
import hashlib
import sys

from aiohttp import WSMsgType, web

PAGE = """\
<!doctype html>
<meta charset="utf-8">
<title>uvtulip</title>
<h1>Hello from {loop}</h1>
<p>What you send comes back over a WebSocket:</p>
<form><input id="text" value="tulip" autofocus> <button>Send</button></form>
<ul id="answers"></ul>
<script>
const socket = new WebSocket(location.href.replace(/^http/, "ws") + "ws");
const text = document.getElementById("text");
socket.onmessage = event => {{
  const item = document.createElement("li");
  item.textContent = event.data;
  document.getElementById("answers").prepend(item);
}};
document.querySelector("form").onsubmit = () => {{
  socket.send(text.value);
  return false;
}};
</script>
"""


async def page(request: web.Request) -> web.Response:
    loop = type(asyncio.get_running_loop())
    text = PAGE.format(loop=f"{loop.__module__}.{loop.__qualname__}")
    return web.Response(text=text, content_type="text/html")


async def echo(request: web.Request) -> web.WebSocketResponse:
    answers = web.WebSocketResponse()
    await answers.prepare(request)
    async for message in answers:
        if message.type is WSMsgType.TEXT:
            await answers.send_str(message.data)
        elif message.type is WSMsgType.BINARY:
            await answers.send_bytes(message.data)
    return answers


async def upload(request: web.Request) -> web.Response:
    """How many bytes came in, and what they hash to."""
    size = 0
    digest = hashlib.sha256()
    async for chunk in request.content.iter_any():
        size += len(chunk)
        digest.update(chunk)
    return web.json_response({"size": size, "sha256": digest.hexdigest()})


async def main(host: str, port: int) -> None:
    app = web.Application()
    app.add_routes(
        [web.get("/", page), web.get("/ws", echo), web.post("/upload", upload)]
    )
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        host, port = runner.addresses[0][:2]
        print(f"Open http://{host}:{port}/ (Ctrl-C ends the server)", flush=True)
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A page and a WebSocket echo.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    options = parser.parse_args()
    try:
        asyncio.run(main(options.host, options.port))
    except KeyboardInterrupt:
        sys.exit(130)  # As a shell reports a program that Ctrl-C has ended.
