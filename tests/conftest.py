"""A limit on the time of each test, enforced from outside the tested code.

A test that hangs in C, or with the interpreter's lock held, cannot be stopped by
an exception.  A watchdog thread of faulthandler, which needs no lock, prints the
stack of every thread and ends the process.
"""

import faulthandler
import gc
import os
import pathlib
import shlex
import subprocess
import sys
from collections.abc import Iterator

import pytest

import signaldefaults
from limits import TEST as LIMIT

stderr = pytest.StashKey[int]()


# What a Python ignores by itself, unless it was configured with --with-pydebug.
IGNORED = ("Deprecation", "PendingDeprecation", "Import", "Resource")


def pytest_configure(config: pytest.Config) -> None:
    signaldefaults.restore()
    if hasattr(sys, "gettotalrefcount"):
        os.environ.setdefault(
            "PYTHONWARNINGS", ",".join(f"ignore::{name}Warning" for name in IGNORED)
        )
    # Output is not being captured at this moment: keep the real stderr.
    config.stash[stderr] = os.dup(2)


def pytest_unconfigure(config: pytest.Config) -> None:
    os.close(config.stash[stderr])
    del config.stash[stderr]


def pytest_collection_finish() -> None:
    """What a test collects is its own garbage: thousands of tests do, and pytest's
    objects are many."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    faulthandler.dump_traceback_later(
        LIMIT, exit=True, file=item.config.stash[stderr]
    )
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="session")
def held_names(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A library in whose names a script can wait: loop/heldnames.c."""
    target = tmp_path_factory.mktemp("heldnames") / "heldnames.so"
    source = pathlib.Path(__file__).parent / "loop" / "heldnames.c"
    subprocess.run(
        [
            *shlex.split(os.environ.get("CC", "cc")),
            *("-shared", "-fPIC", "-Wall", "-Werror", str(source), "-ldl"),
            *("-o", str(target)),
        ],
        check=True,
    )
    return target


@pytest.fixture(params=["openssl", "memory-bio"])
def tls_backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Both ways to encrypt, one after the other."""
    from uvtulip import _transports

    before = _transports._tls_backend(None)
    assert _transports._tls_backend(request.param == "memory-bio") == request.param
    yield request.param
    _transports._tls_backend(before == "memory-bio")
