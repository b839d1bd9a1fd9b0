"""An echo server on sockets of the standard library, watched by Poll handles.

    python examples/uv_poll_echo.py --port 8007

A Poll handle tells when a descriptor can be read or written, and does nothing
else: it suits sockets that belong to other code.  Ctrl-C ends it.
"""

import argparse
import socket

from uvtulip import uv


class Client:
    """Echoes for one socket; what the socket does not take yet waits here."""

    def __init__(self, loop: uv.Loop, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.unsent = bytearray()
        self.ended = False
        self.poll = uv.Poll(loop, sock.fileno())
        self.poll.start(uv.UV_READABLE, self.on_ready)

    def on_ready(self, poll: uv.Poll, events: int | None, error: int | None) -> None:
        try:
            if error is not None:
                raise OSError(-error, uv.errno.strerror(error))
            assert events is not None
            if events & uv.UV_READABLE and not self.ended:
                data = self.sock.recv(65536)
                self.ended = not data
                self.unsent += data
            if self.unsent:
                del self.unsent[: self.sock.send(self.unsent)]
        except BlockingIOError:
            pass  # It was ready when we were told.
        except OSError as exc:
            print(f"client lost: {exc}")
            self.unsent.clear()
            self.ended = True
        if self.unsent:
            poll.start(uv.UV_WRITABLE, self.on_ready)
        elif self.ended:
            poll.close()  # First the handle, then its descriptor.
            self.sock.close()
        else:
            poll.start(uv.UV_READABLE, self.on_ready)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="An echo server on Poll handles.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8007)
    options = parser.parse_args()
    loop = uv.Loop()

    def on_listener(poll: uv.Poll, events: int | None, error: int | None) -> None:
        try:
            sock, _ = listener.accept()
        except BlockingIOError:
            return
        Client(loop, sock)

    with socket.create_server((options.host, options.port)) as listener:
        listener.setblocking(False)
        watcher = uv.Poll(loop, listener.fileno())
        watcher.start(uv.UV_READABLE, on_listener)
        print("listening on {}:{}".format(*listener.getsockname()), flush=True)
        try:
            loop.run()
        except KeyboardInterrupt:
            print("stopped")
        watcher.close()
