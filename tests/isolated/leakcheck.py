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


def check(name, work, count, slack):
    """Run work(count) three times; the last two must leave the same.

    `slack` is how many blocks, references and objects may differ: caches that
    fill up, never something for each of the `count` rounds.
    """
    work(count // 10 or 1)
    work(count)
    before = measure()
    work(count)
    after = measure()
    grown = {key: after[key] - before[key] for key in before}
    print(f"{name}: {count} rounds left {grown}", flush=True)
    if grown["descriptors"] != 0:
        sys.exit(f"{name} leaks descriptors: {grown}")
    if max(grown.values()) > slack:
        sys.exit(f"{name} leaks: {grown}")
