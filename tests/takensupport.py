"""Programs whose descriptors are taken away.  Each point is a child of one warmed
process, since what is tested is that it is not aborted, and neither hangs nor spins.

A child prints what is wrong to descriptor 2, which nobody takes away.  It ends with 0
when each step was right or has raised one of the errors that are expected.
"""

import contextlib
import errno
import fcntl
import os
import resource
import select
import signal
import socket
import sys
import tempfile
import time
import traceback

FIRST = 3
SECONDS = 10
CPU = 0.5  # seconds of it that a child may use
SIDE_BY_SIDE = 2


def numbers():
    """All open descriptors above 2."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            os.fstat(int(name))
            found.append(int(name))
    return sorted(fd for fd in found if fd >= FIRST)


class Strangers:
    """Files of the program's that have taken the numbers."""

    def __init__(self):
        self.ends = {}  # number: the inode of what is there
        self.peers = []  # what is written to one of them comes out here
        self.files = []

    def make(self, kind, taken, blocking=True):
        """One for each number, which is free."""
        high = max(taken) + 64
        for fd in taken:
            if kind == "socket":
                a, b = (end.detach() for end in socket.socketpair())
            elif kind == "pipe":
                b, a = os.pipe()  # The end that can be written to is at the number.
            elif kind == "reader":
                a, b = os.pipe()
            else:
                a, name = tempfile.mkstemp()
                os.unlink(name)
                b = -1
            # Both away from the numbers first.
            moved = fcntl.fcntl(a, fcntl.F_DUPFD, high)
            os.close(a)
            if b >= 0:
                peer = fcntl.fcntl(b, fcntl.F_DUPFD, high)
                os.close(b)
                if kind == "reader":
                    os.write(peer, b"bytes of the program's own")
                else:
                    self.peers.append(peer)
            os.set_blocking(moved, blocking)
            os.dup2(moved, fd)
            self.ends[fd] = os.fstat(fd).st_ino
            if kind == "file":
                self.files.append(moved)
            elif kind != "reader":
                os.close(moved)
            else:
                self.files.append(moved)

    def check(self, closed_too, allowed=()):
        """None was written to, unless with one of the bytes that are allowed."""
        for fd, inode in self.ends.items():
            try:
                now = os.fstat(fd).st_ino
            except OSError:
                now = None
            assert not closed_too or now == inode, f"descriptor {fd} was closed"
        for peer in self.peers:
            ready, _, _ = select.select([peer], [], [], 0)
            data = os.read(peer, 100) if ready else b""
            assert set(data) <= set(allowed), f"written into a stranger: {data}"
        for fd in self.files:
            info = os.fstat(fd)
            written = os.pread(fd, 100, 0) if info.st_size else b""
            assert set(written) <= set(allowed), f"written into a file: {written}"
            waiting = bytearray(4)
            with contextlib.suppress(OSError):
                fcntl.ioctl(fd, 0x541B, waiting)  # FIONREAD
                assert int.from_bytes(waiting, sys.byteorder) in (0, 26), "read from"


def take(how, taken, strangers, blocking=True):
    """Takes the descriptors away in that way."""
    if how == "null":
        null = os.open("/dev/null", os.O_RDWR)
        for fd in taken:
            os.dup2(null, fd)
        return
    for fd in taken:
        with contextlib.suppress(OSError):
            os.close(fd)
    if how != "closed":
        strangers.make(how, taken, blocking)


HOW = ["closed", "null", "socket", "pipe", "reader", "file"]

EXPECTED = (OSError, RuntimeError, MemoryError)


def attempt(function, *args):
    """What it returns; an expected error is as good."""
    try:
        return function(*args)
    except EXPECTED as exc:
        exc.__traceback__ = None
        return exc


def _child(function, args):
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    began = time.process_time()
    code = 1
    try:
        function(*args)
        used = time.process_time() - began
        assert used < CPU, f"{used:.2f} s of CPU time"
        code = 0
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)


def _wait(running):
    """The next child that has ended, by itself or since its time was over."""
    while True:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            return pid, status
        for pid, (_, _, began) in running.items():
            if time.monotonic() > began + SECONDS:
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.001)


def walk(points, function):
    """Calls function(*point) in a child for each; prints what went wrong."""
    points = list(points)
    running = {}
    bad = 0
    while points or running:
        while points and len(running) < SIDE_BY_SIDE:
            point = points.pop(0)
            read, write = os.pipe()
            pid = os.fork()
            if pid == 0:
                os.dup2(write, 2)
                os.close(read)
                os.close(write)
                _child(function, point)
            os.close(write)
            running[pid] = point, read, time.monotonic()
        pid, status = _wait(running)
        point, read, _ = running.pop(pid)
        with open(read, "rb") as output:
            text = output.read().decode()
        code = os.waitstatus_to_exitcode(status)
        if code != 0:
            bad += 1
            name = signal.Signals(-code).name if code < 0 else f"exit {code}"
            print("/".join(map(str, point)), name, text.strip().replace("\n", "\n    "))
    print("walked")
    sys.exit(bad > 0)


def is_lost(exc):
    """The error of a loop that has lost its own descriptors."""
    return isinstance(exc, OSError) and exc.errno == errno.EBADF
