"""Look through ThreadSanitizer's reports: which of them are about uvtulip's code?

    thread_reports.py LOG...

One is when a frame of uvtulip's modules is among the innermost of either thread.  What
is left out: reports about descriptors, as libuv closes them by system calls that the
sanitizer does not see, those of an interpreter that ends, as it takes the states of
daemon threads away while they run, and those inside of Python alone.
"""

import pathlib
import re
import sys
from collections.abc import Iterator

INNERMOST = 8
FRAME = re.compile(r"\s*#(\d+) .*")
MAKES_A_DESCRIPTOR = re.compile(
    r"\s*#0 (accept4?|close|dup3?|epoll_create1|eventfd|pipe2?|socket|socketpair) "
)
ENDS = re.compile(r"\s*#\d+ _Py_Finalize ")
OURS = re.compile(r"\((?:_uv|_transports)\.cpython")


def reports(text: str) -> Iterator[str]:
    yield from (part for part in text.split("=" * 18) if "WARNING:" in part)


def is_ours(report: str) -> bool:
    if "Location is file descriptor" in report:
        return False
    accesses = report.split("\n\n")[:2]
    lines = [line for access in accesses for line in access.splitlines()]
    if any(MAKES_A_DESCRIPTOR.match(line) or ENDS.match(line) for line in lines):
        return False
    return any(
        OURS.search(line)
        for line in lines
        if (frame := FRAME.match(line)) and int(frame[1]) < INNERMOST
    )


def main() -> int:
    found = 0
    others = 0
    for name in sys.argv[1:]:
        path = pathlib.Path(name)
        if not path.exists():
            continue  # Nothing was reported, and the shell's pattern is left.
        for report in reports(path.read_text(encoding="utf-8", errors="replace")):
            if is_ours(report):
                found += 1
                print(report.strip(), "", sep="\n")
            else:
                others += 1
    print(f"{found} reports of data races, {others} about descriptors or Python")
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main())
