"""What happens in a turn of the loop, and how another thread ends it.

    python examples/uv_watchers.py --turns 3

Idle is called before the poll and keeps it from waiting, Prepare just before it and
Check just after it.  An Async is the one handle that other threads may use.
"""

import argparse
import threading

from uvtulip import uv


def main(turns: int) -> None:
    loop = uv.Loop()
    left = turns

    def on_idle(idle: uv.Idle) -> None:
        nonlocal left
        print("idle", end=" ")
        left -= 1
        if left == 0:
            idle.close()

    def on_wakeup(wakeup: uv.Async) -> None:
        print("woken by another thread")
        for handle in loop.handles:
            if not handle.closed:
                handle.close()

    uv.Idle(loop).start(on_idle)
    prepare = uv.Prepare(loop)
    prepare.start(lambda handle: print("prepare", end=" "))
    check = uv.Check(loop)
    check.start(lambda handle: print("check"))
    # These two watch, but are no reason to go on.
    prepare.ref = check.ref = False

    wakeup = uv.Async(loop, on_wakeup)
    sender = threading.Timer(0.05, wakeup.send)
    sender.start()
    loop.run()
    sender.join()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A turn of the loop.")
    parser.add_argument("--turns", type=int, default=3)
    main(parser.parse_args().turns)
