"""A million timers, all alive at once: made and started, stopped, closed.

    python timers.py [--loops uvloop,uvtulip,uvtulip.uv] [--count 1000000]
                     [--rounds 5]

"limit" is timers.c; "uvtulip.uv" has a Timer handle for each; the asyncio loops
schedule by call_later() and cancel.  Each run is a process of its own, the loops
take turns.  Printed are medians of nanoseconds per timer, and the median, lowest
and highest ratio to "limit" of what making, starting and stopping take together.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

import loops

HERE = os.path.dirname(os.path.abspath(__file__))
KEYS = "start_ns", "stop_ns", "close_ns", "bytes"


def resident():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def noop(*args):
    pass


def run_raw(n):
    from uvtulip import uv
    loop = uv.Loop()
    kept = [None] * n
    before = resident()
    times = [time.perf_counter()]
    for i in range(n):
        kept[i] = timer = uv.Timer(loop)
        timer.start(noop, 100 + i * 7919 % n / 1000, 0)
    times.append(time.perf_counter())
    memory = resident() - before
    for timer in kept:
        timer.stop()
    times.append(time.perf_counter())
    for timer in kept:
        timer.close()
    loop.run()
    return times + [time.perf_counter()], memory


def run_asyncio(name, n):
    loop = loops.factory(name)()
    kept = [None] * n
    before = resident()
    times = [time.perf_counter()]
    for i in range(n):
        kept[i] = loop.call_later(100 + i * 7919 % n / 1000, noop)
    times.append(time.perf_counter())
    memory = resident() - before
    for timer in kept:
        timer.cancel()
    loop.call_soon(loop.stop)
    loop.run_forever()
    times.append(time.perf_counter())
    del kept, timer
    loop.close()
    return times + [time.perf_counter()], memory


def run(name, n):
    times, memory = (run_raw(n) if name == "uvtulip.uv" else run_asyncio(name, n))
    values = [(b - a) / n * 1e9 for a, b in zip(times, times[1:])]
    print(json.dumps(dict(zip(KEYS, [*values, memory / n]))))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loops", default="uvloop,uvtulip,uvtulip.uv")
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--run", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        run(args.run, args.count)
        return
    names = ["limit", *args.loops.split(",")]
    results = {name: [] for name in names}
    for _ in range(args.rounds):
        for name in names:
            command = ([os.path.join(HERE, "timers"), str(args.count)]
                       if name == "limit" else
                       [sys.executable, os.path.abspath(__file__), "--run", name,
                        "--count", str(args.count)])
            results[name].append(json.loads(subprocess.check_output(command)))
    print("%-12s %9s %9s %9s %7s  of limit" % ("", "start ns", "stop ns",
                                                "close ns", "bytes"))
    for name in names:
        values = [statistics.median(r[key] for r in results[name]) for key in KEYS]
        ratios = [(a["start_ns"] + a["stop_ns"]) / (b["start_ns"] + b["stop_ns"])
                  for a, b in zip(results[name], results["limit"])]
        print("%-12s %9.1f %9.1f %9.1f %7.0f  x%.2f [%.2f..%.2f]" % (
            name, *values, statistics.median(ratios), min(ratios), max(ratios)))


if __name__ == "__main__":
    main()
