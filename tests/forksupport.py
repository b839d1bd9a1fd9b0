"""Running a piece of a test in a forked child."""

import os
import select
import signal
import traceback
from collections.abc import Callable

from limits import WAIT as LIMIT


def in_child(function: Callable[[], object]) -> None:
    """Fork, call the function in the child, end it; its exception fails the test.

    The child never comes back from here.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        end_child(writing, function)
    os.close(writing)
    finish_child(pid, reading)


def end_child(writing: int, function: Callable[[], object]) -> None:
    """In the child: what goes wrong is written into the pipe."""
    try:
        function()
        os.write(writing, b"well")
    except BaseException:
        os.write(writing, traceback.format_exc().encode())
    finally:
        os._exit(0)


def finish_child(pid: int, reading: int) -> None:
    """In the parent: wait for the child, which has to write "well"."""
    said = b""
    while True:
        ready, _, _ = select.select([reading], [], [], LIMIT)
        if not ready:
            os.kill(pid, signal.SIGKILL)
            said += b"\nit did not end"
        chunk = os.read(reading, 65536)
        if not chunk:
            break
        said += chunk
    os.close(reading)
    _, status = os.waitpid(pid, 0)
    assert (status, said.decode()) == (0, "well"), said.decode()
