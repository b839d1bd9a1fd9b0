"""User-space instructions per request of the echo servers, under callgrind.

    python instructions.py [--loops uvloop,uvtulip] [--kinds tcp-100,streams]
                           [--connections 64] [--size 1024] [--requests 10000]

The kinds are the workloads of compare.py that answer requests; "protocol" is another
name of tcp-100.  Unlike times, instruction counts do not change with what else the
machine does.  Each server runs twice, for two numbers of requests; the difference leaves out start-up.  Needs
valgrind, and `make` first.  "limit" is the C server.
"""

import argparse
import re
import signal
import subprocess
import sys
import tempfile

import compare

CALLGRIND = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]
# What takes longer is done less often.
SHARE = {"churn": 0.2, "tls": 0.25}


def count(loop, workload, requests):
    """Instructions of a server that answers about `requests` requests; both."""
    _, kind, transport, mode, options, _ = workload
    server = compare.Server(loop, kind, transport, mode, under=CALLGRIND)
    try:
        load = subprocess.run(
            [compare.HERE + "/load", mode, transport, server.address,
             "-w", "0", "-n", str(requests), *options.split()],
            stdout=subprocess.PIPE, check=True)
        done = int(re.search(rb'"requests": (\d+)', load.stdout)[1])
        server.process.send_signal(signal.SIGTERM)
        server.process.wait()
        server.errors.seek(0)
        found = re.search(rb"Collected : (\d+)", server.errors.read())
    finally:
        server.stop()
    if not found:
        sys.exit("%s: callgrind gave no count" % loop)
    return int(found[1]), done


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loops", default="limit,uvloop,uvtulip")
    parser.add_argument("--kinds", default="tcp-100,buffered,streams,udp,churn")
    parser.add_argument("--connections", type=int)
    parser.add_argument("--size", type=int)
    parser.add_argument("--requests", type=int, default=10000)
    args = parser.parse_args()
    workloads = {w[0]: w for w in compare.NET if w[3] in ("echo", "churn")}
    workloads["protocol"] = workloads["tcp-100"]
    unknown = [k for k in args.kinds.split(",") if k not in workloads]
    if unknown:
        parser.error("no such kind: %s" % ", ".join(unknown))
    with tempfile.TemporaryDirectory() as compare.SCRATCH:
        compare.make_certificate()
        for name in args.kinds.split(","):
            workload = list(workloads[name])
            if args.connections:
                workload[4] += " -c %d" % args.connections
            if args.size:
                workload[4] += " -s %d" % args.size
            requests = int(args.requests * SHARE.get(workload[3], 1)
                           * SHARE.get(workload[2], 1))
            for loop in args.loops.split(","):
                few, n_few = count(loop, workload, requests)
                many, n_many = count(loop, workload, requests * 4)
                print("%-12s %-10s %9.0f instructions per request"
                      % (name, loop, (many - few) / (n_many - n_few)), flush=True)


if __name__ == "__main__":
    main()
