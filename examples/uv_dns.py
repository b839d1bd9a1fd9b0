"""The addresses of names, all looked up at the same time.

    python examples/uv_dns.py localhost 127.0.0.1

Each request runs in a thread of libuv's pool; what has not been found after
`--timeout` seconds is cancelled if no thread works on it yet.
"""

import argparse
import functools
import socket

from uvtulip import uv
from uvtulip.uv import dns


def on_result(name: str, found: list[dns.addrinfo] | None, error: int | None) -> None:
    if found is None:
        print(f"{name}: {uv.errno.strerror(error or 0)}")
    else:
        print(f"{name}: {', '.join(str(item.sockaddr[0]) for item in found)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Look up names.")
    parser.add_argument("--timeout", type=float, default=10.0)
    parser.add_argument("names", nargs="+")
    options = parser.parse_args()

    loop = uv.Loop()
    requests = [
        dns.getaddrinfo(
            loop,
            name,
            socktype=socket.SOCK_STREAM,
            callback=functools.partial(on_result, name),
        )
        for name in options.names
    ]
    timer = uv.Timer(loop)
    timer.start(
        lambda timer: print("cancelled:", sum(r.cancel() for r in requests)),
        options.timeout,
    )
    timer.ref = False
    loop.run()
