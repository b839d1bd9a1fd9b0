"""Programs as subprocesses: started, read line by line, interrupted, ended."""

import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import limits

ROOT = pathlib.Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
LIMIT = limits.WAIT


class Program:
    """A running program; `merge` makes one output of its two."""

    def __init__(
        self,
        *args: str,
        cwd: str | os.PathLike[str] | None = None,
        merge: bool = False,
    ) -> None:
        self.process = subprocess.Popen(
            args,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if merge else subprocess.PIPE,
            text=True,
            cwd=cwd,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )

    def line(self, pattern: str) -> re.Match[str]:
        """The next line of its output that the pattern is found in."""
        assert self.process.stdout is not None
        seen = []
        for line in self.process.stdout:
            seen.append(line)
            if found := re.search(pattern, line):
                return found
        self.process.kill()
        raise AssertionError(f"ended without {pattern!r}: {seen} {self.finish()}")

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def finish(self) -> tuple[int, str, str]:
        """Wait for its end: (status, rest of its output, errors)."""
        try:
            out, err = self.process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)
            out, err = self.process.communicate(timeout=LIMIT)
            raise AssertionError(f"it does not end: {out} {err}") from None
        return self.process.returncode, out, err or ""


@contextlib.contextmanager
def program(*args: str, **kwargs: Any) -> Iterator[Program]:
    """A program that is killed if it is still there at the end."""
    running = Program(*args, **kwargs)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.process.kill()
        for pipe in (running.process.stdout, running.process.stderr):
            if pipe is not None and not pipe.closed:
                pipe.close()
        running.process.wait(LIMIT)


def python(*args: str, **kwargs: Any) -> contextlib.AbstractContextManager[Program]:
    return program(sys.executable, *args, **kwargs)


def launch(*args: str, **kwargs: Any) -> contextlib.AbstractContextManager[Program]:
    return python("-m", "uvtulip", *args, **kwargs)
