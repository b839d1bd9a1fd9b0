"""Waits until a file changes, by looking at it again and again.

    python examples/uv_fspoll.py notes.txt --interval 0.5

FSPoll works where FSEvent does not: on network file systems, and in /proc.
"""

import argparse

from uvtulip import uv
from uvtulip.uv import fs


def main(path: str, interval: float) -> None:
    loop = uv.Loop()

    def on_change(
        handle: fs.FSPoll,
        before: fs.stat_result | None,
        now: fs.stat_result | None,
        error: int | None,
    ) -> None:
        if error is not None:
            print(f"{path}: {uv.errno.strerror(error)}")
        elif before is not None and now is not None:
            print(f"{path}: {before.st_size} bytes, now {now.st_size}")
        handle.close()

    fs.FSPoll(loop).start(path, interval, on_change)
    print(f"looking at {path}", flush=True)
    loop.run()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Waits until a file changes.")
    parser.add_argument("path")
    parser.add_argument("--interval", type=float, default=0.5)
    options = parser.parse_args()
    try:
        main(options.path, options.interval)
    except KeyboardInterrupt:
        print("stopped")
