"""User-space instructions per request of the echo servers, under callgrind.

    python instructions.py [--loops uvloop,uvtulip] [--kind protocol]
                           [--connections 64] [--size 1024]

Unlike times, instruction counts do not change with what else the machine does.
Each server runs twice, for two numbers of requests; the difference leaves out
start-up.  Needs valgrind, and `make` first.  "limit" is the C server.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))


def count(loop, kind, connections, size, requests):
    """Instructions of a server that answers about `requests` requests; both."""
    transport = "udp" if kind == "udp" else "tcp"
    if loop == "limit":
        command = [os.path.join(HERE, "limit"), "echo", transport, "0", "65536"]
    else:
        command = [sys.executable, os.path.join(HERE, "servers.py"),
                   "--loop", loop, "--kind", kind]
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(
            ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null",
             *command], cwd=HERE, stdout=subprocess.PIPE, stderr=log)
        try:
            line = server.stdout.readline().decode()
            if not line.startswith("READY"):
                sys.exit("%s: no server" % loop)
            load = subprocess.run(
                [os.path.join(HERE, "load"), "echo", transport, line.split()[1],
                 "-c", str(connections), "-s", str(size), "-w", "0",
                 "-n", str(requests)], stdout=subprocess.PIPE, check=True)
            done = int(re.search(rb'"requests": (\d+)', load.stdout)[1])
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait()
            server.stdout.close()
        log.seek(0)
        found = re.search(rb"Collected : (\d+)", log.read())
    if not found:
        sys.exit("%s: callgrind gave no count" % loop)
    return int(found[1]), done


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loops", default="limit,uvloop,uvtulip")
    parser.add_argument("--kind", default="protocol")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--requests", type=int, default=10000)
    args = parser.parse_args()
    for loop in args.loops.split(","):
        few, n_few = count(loop, args.kind, args.connections, args.size,
                           args.requests)
        many, n_many = count(loop, args.kind, args.connections, args.size,
                             args.requests * 4)
        print("%-12s %6.0f instructions per request"
              % (loop, (many - few) / (n_many - n_few)), flush=True)


if __name__ == "__main__":
    main()
