"""The end of child processes, which a loop hears of without a thread.

Linux has a descriptor for a process, readable when it has ended; the loop's own
poll watches it.  Where none is to be had, the loop asks after each SIGCHLD and now
and then, the more so in a thread that gets no signals.  A child is waited for by
its own number, so that nobody else loses one.  The loop keeps what waits; all of
it belongs to the thread that runs the loop.
"""

from __future__ import annotations

import os
import posix
import signal
import subprocess
import threading
from asyncio.log import logger

from ._uv import UV_READABLE, Poll

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from types import FrameType

    from .subprocesses import SubprocessLoop

    _Popen = subprocess.Popen[bytes]

# Seconds between two questions: they double, from the first up to the second, or
# to the third where SIGCHLD tells.
_FIRST, _LONGEST, _LONGEST_TOLD = 0.001, 0.05, 1.0


def set_returncode(proc: _Popen, returncode: int) -> None:
    """What was found out by us, for those who ask proc."""
    try:
        proc.returncode = returncode
    except AttributeError:
        pass  # A class of somebody's, which finds out by itself.


def _known(proc: _Popen) -> int | None:
    """What proc says of its end; only a number is an answer."""
    returncode = proc.returncode
    return returncode if isinstance(returncode, int) else None


def _told_by(proc: _Popen) -> int | None:
    """What a class that is not CPython's may know, if it waits for any child.
    CPython's knows nothing while its lock is taken."""
    try:
        returncode = proc.poll()
    except Exception:
        logger.exception("%r.poll() failed", proc)
        return None
    return returncode if isinstance(returncode, int) else None


def _ask(proc: _Popen) -> int | None:
    try:
        # Not os.waitpid(), which gevent replaces by one that waits for its own loop.
        pid, status = posix.waitpid(proc.pid, os.WNOHANG)
    except ChildProcessError:
        pass
    else:
        return os.waitstatus_to_exitcode(status) if pid != 0 else None
    returncode = _told_by(proc)
    if returncode is not None:
        return returncode
    logger.warning(
        "child process pid %d exit status already read: "
        " will report returncode 255",
        proc.pid,
    )
    return 255


def _lock_of(proc: _Popen) -> threading.Lock | None:
    """What CPython's Popen has while it waits; another one's may have none."""
    lock = getattr(proc, "_waitpid_lock", None)
    return lock if hasattr(lock, "acquire") and hasattr(lock, "release") else None


def reap(proc: _Popen) -> int | None:
    """The returncode of a child that has ended, which proc gets too.  Never waits."""
    lock = _lock_of(proc)
    if lock is not None and not lock.acquire(blocking=False):
        return None  # Another thread is in proc.wait() and will know.
    try:
        returncode = _known(proc)
        if returncode is None:
            returncode = _ask(proc)
            if returncode is not None:
                set_returncode(proc, returncode)
    finally:
        if lock is not None:
            lock.release()
    return returncode


class _ChildPoll(Poll):
    """Watches a child; tells that when it is closed by somebody else."""

    child: Child | None = None

    def close(
        self, callback: Callable[[_ChildPoll], object] | None = None
    ) -> None:
        super().close(callback)
        child, self.child = self.child, None
        if child is not None:
            child.lost_poll()


class Child:
    """One child that a loop waits for: calls exited(returncode) from the poll."""

    __slots__ = ("_exited", "_fd", "_loop", "_poll", "proc")

    def __init__(
        self, loop: SubprocessLoop, proc: _Popen, exited: Callable[[int], object]
    ) -> None:
        self.proc = proc
        self._loop = loop
        self._exited = exited
        self._fd = -1
        self._poll: _ChildPoll | None = None
        if loop._children is None:
            loop._children = set()
        loop._children.add(self)
        if not self._watch_descriptor():
            self._ask_for_it()

    def _watch_descriptor(self) -> bool:
        try:
            self._fd = os.pidfd_open(self.proc.pid)
        except (AttributeError, OSError):
            return False  # An old kernel, a sandbox, no descriptor left.
        try:
            self._poll = _ChildPoll(self._loop.uv_loop, self._fd)
            self._poll.child = self
            self._poll.start(UV_READABLE, self._on_readable)
        except OSError:
            self._close()
            return False
        return True

    def _on_readable(self, poll: Poll, events: int | None, error: int | None) -> None:
        if error is not None:
            self._fd = -1  # Somebody has closed it: the number is not ours now.
        if not self.check() and error is not None:
            self._close()
            self._ask_for_it()

    def lost_poll(self) -> None:
        """Somebody who found it among the raw loop's handles has closed the poll."""
        self._close()
        self._ask_for_it()

    def _ask_for_it(self) -> None:
        if self._loop._silent_children is None:
            self._loop._silent_children = SilentChildren(self._loop)
        self._loop._silent_children.add(self)

    def check(self) -> bool:
        """If the child has ended, tell, and wait no more."""
        try:
            returncode = reap(self.proc)
        except BaseException:
            self.forget()  # It would be asked again at once, for ever.
            raise
        if returncode is None:
            return False
        self.forget()
        self._exited(returncode)
        return True

    def forget(self) -> None:
        """Wait no more."""
        if self._loop._children is not None:
            self._loop._children.discard(self)
        if self._loop._silent_children is not None:
            self._loop._silent_children.discard(self)
        self._close()

    def _close(self) -> None:
        if self._poll is not None:
            poll, self._poll = self._poll, None
            poll.child = None
            if not self._loop._forked and not poll.closed:
                poll.close()
        fd, self._fd = self._fd, -1
        if fd >= 0:
            try:
                os.close(fd)
            except OSError:
                pass  # Somebody has closed it, and nobody has noticed yet.


def _wake_up(sig: int, frame: FrameType | None) -> None:
    """A handler, so that Python hears of the signal and ends a poll."""


class SilentChildren:
    """The children of a loop that have no descriptor."""

    __slots__ = ("_children", "_delay", "_loop", "_ours", "_timer", "_told")

    def __init__(self, loop: SubprocessLoop) -> None:
        self._loop = loop
        self._children: set[Child] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._delay = _FIRST
        self._told = False  # Of SIGCHLD.
        self._ours = False  # The handler of SIGCHLD.

    def add(self, child: Child) -> None:
        if not self._children:
            self._listen()
        self._children.add(child)
        self._delay = _FIRST
        self._ask_later()

    def discard(self, child: Child) -> None:
        if child in self._children:
            self._children.discard(child)
            if not self._children:
                self._loop._silent_children = None
                self._listen_no_more()

    def _listen(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        try:
            if signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL:
                signal.signal(signal.SIGCHLD, _wake_up)
                self._ours = True
                signal.siginterrupt(signal.SIGCHLD, False)
        except ValueError:
            return  # A sub-interpreter: it gets no signals.
        self._loop._hear_of_children(self._on_signals)
        self._told = True

    def _listen_no_more(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._told:
            self._told = False
            if not self._loop.is_closed() and not self._loop._forked:
                self._loop._hear_of_children(None)
        if self._ours:
            self._ours = False
            try:
                if signal.getsignal(signal.SIGCHLD) is _wake_up:
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            except ValueError:
                pass  # The loop is closed by another thread.

    def _on_signals(self, signums: bytes) -> None:
        if signal.SIGCHLD in signums:
            self._ask()

    def _ask(self) -> None:
        for child in list(self._children):
            child.check()

    def _ask_later(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(self._delay, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._ask()
        if self._children:
            longest = _LONGEST_TOLD if self._told else _LONGEST
            self._delay = min(2 * self._delay, longest)
            self._ask_later()
