"""Counts what a workload leaves behind, in a process of its own."""

import gc
import os
import sys


def measure():
    gc.collect()
    gc.collect()
    return {
        "blocks": sys.getallocatedblocks(),
        "references": getattr(sys, "gettotalrefcount", int)(),
        "objects": len(gc.get_objects()),
        "descriptors": len(os.listdir("/proc/self/fd")),
    }


# make soak: the long run of the same.
SOAK = bool(os.environ.get("UVTULIP_SOAK"))


def check(name, work, count, slack, *, soak=None):
    """Run work(count) until two runs in a row have left the same, at most five times.
    `soak` is the count of a long run.

    `slack` is how many blocks, references and objects may differ: caches that
    fill up, never something for each of the `count` rounds, which every run would
    leave.  A descriptor that is left once is too many.
    """
    if SOAK and soak is not None:
        count = soak
    work(count // 10 or 1)
    work(count)
    for _ in range(3):
        before = measure()
        work(count)
        after = measure()
        grown = {key: after[key] - before[key] for key in before}
        print(f"{name}: {count} rounds left {grown}", flush=True)
        if grown["descriptors"] != 0:
            sys.exit(f"{name} leaks descriptors: {grown}")
        if max(grown.values()) <= slack:
            return
    sys.exit(f"{name} leaks: {grown}")
