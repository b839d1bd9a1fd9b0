"""Descriptors that are taken away from asyncio's loop: closed, or another file's by
now."""

import pathlib
import subprocess
import sys

import pytest

WALK = pathlib.Path(__file__).with_name("taken_loop.py")


@pytest.mark.parametrize(
    "moment", ["between", "in_callback", "in_io", "in_flight", "before_loop"]
)
def test_all_of_them(moment):
    """An exception or the right result: no abort, no wait without an end."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(WALK), moment],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout == "walked\n", done.stdout
    assert (done.returncode, done.stderr) == (0, "")
