"""Descriptors that are taken away from raw loops: closed, or another file's by now."""

import pathlib
import subprocess
import sys

import pytest

WALK = pathlib.Path(__file__).with_name("taken_raw.py")
MOMENTS = [
    "between",
    "never_ran",
    "in_timer",
    "in_io",
    "in_flight",
    "in_flight_in_a_run",
    "at_close",
    "before_loop",
]


def walk(*args):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(WALK), *args],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout == "walked\n", done.stdout
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("how", ["closed", "null", "file"])
def test_one_of_them(how):
    walk("one", how)


@pytest.mark.parametrize("moment", MOMENTS)
def test_all_of_them(moment):
    """An exception or the right result: no abort, no wait without an end."""
    walk(moment)
