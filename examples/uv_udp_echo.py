"""A UDP echo server on raw handles, and a client that measures it.

    python examples/uv_udp_echo.py --port 8008
    python examples/uv_udp_echo.py --port 8008 --client --count 1000

The server takes up to 20 datagrams with one system call.  The client keeps a few
on their way, counts what comes back, and gives up on what is lost after a second.
"""

import argparse

from uvtulip import uv


def serve(loop: uv.Loop, address: tuple[str, int]) -> None:
    def on_datagram(
        udp: uv.UDP,
        addr: tuple[str, int],
        flags: int,
        data: bytes | None,
        error: int | None,
    ) -> None:
        if data is not None:
            try:
                udp.try_send(addr, data)
            except uv.error.UDPError as problem:
                print(f"not sent to {addr}: {problem}")

    server = uv.UDP(loop, uv.UV_UDP_RECVMMSG)
    server.bind(address)
    server.start_recv(on_datagram)
    print("listening on {}:{}".format(*server.getsockname()), flush=True)


class Client:
    def __init__(self, loop: uv.Loop, address: tuple[str, int], count: int) -> None:
        self.left = count
        self.back = 0
        self.error: int | None = None
        self.udp = uv.UDP(loop)
        self.udp.connect(address)
        self.udp.start_recv(self.on_datagram)
        self.timer = uv.Timer(loop)
        self.timer.start(self.on_silence, 1.0)
        for _ in range(min(count, 16)):
            self.send()

    def send(self) -> None:
        self.left -= 1
        self.udp.send(None, b"datagram %d" % self.left, self.on_sent)

    def on_sent(self, udp: uv.UDP, error: int | None) -> None:
        if error is not None and not udp.closed:
            self.fail(error)

    def fail(self, error: int) -> None:
        self.error = error
        self.on_silence(self.timer)

    def on_datagram(
        self,
        udp: uv.UDP,
        addr: tuple[str, int] | None,
        flags: int,
        data: bytes | None,
        error: int | None,
    ) -> None:
        if error is not None:
            self.fail(error)
            return
        self.back += 1
        if self.left > 0:
            self.send()
        self.timer.start(self.on_silence, 1.0 if self.back < options.count else 0.0)

    def on_silence(self, timer: uv.Timer) -> None:
        self.udp.close()
        timer.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="UDP echo on raw handles.")
    parser.add_argument("--host", default="127.0.0.1", help="numeric")
    parser.add_argument("--port", type=int, default=8008)
    parser.add_argument("--client", action="store_true")
    parser.add_argument("--count", type=int, default=1000, help="of the client")
    options = parser.parse_args()
    loop = uv.Loop()
    try:
        if options.client:
            client = Client(loop, (options.host, options.port), options.count)
            start = loop.now()
            loop.run()
            if client.error is not None:
                print(uv.errno.strerror(client.error))
            print(f"{client.back} of {options.count} came back "
                  f"in {loop.now() - start} ms")
        else:
            serve(loop, (options.host, options.port))
            loop.run()
    except KeyboardInterrupt:
        print("stopped")
