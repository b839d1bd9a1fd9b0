"""A few of the programs of tests/loopfuzz.py; `make fuzz` runs many."""

import os
import pathlib
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).resolve().parent.parent / "loopfuzz.py"


def fuzz(*arguments):
    """In an interpreter without threads: it forks for each program."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        capture_output=True,
        text=True,
        timeout=50,
        env={**os.environ, "UVTULIP_TEST_LIMIT": "20"},
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("backend", ["openssl", "memory-bio"])
def test_random_programs_end_well(backend):
    fuzz("--backend", backend, "--count", "40")
