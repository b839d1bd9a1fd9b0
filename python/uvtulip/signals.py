"""add_signal_handler(): callbacks of the loop for Unix signals.

The handler that Python is given only queues the callback; Python runs it on the
main thread, which the raw loop wakes from its poll.  So a signal that comes while
the loop is not running is kept for the next run.  When somebody has put another
handler in its place by signal.signal(), the callback is queued as asyncio does it:
while the loop runs it reads of each signal from the wake-up descriptor.

The loop owns the callbacks until it is closed.  Python's handler does not own the
loop: one that is dropped is collected, and closed by that.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import os
import signal
import sys
import warnings
import weakref
from asyncio import events

from .connect import ConnectingLoop
from .core import is_coroutine_like

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import TypeVarTuple, Unpack

    _Ts = TypeVarTuple("_Ts")


def _check_signal(sig: int) -> None:
    if not isinstance(sig, int):
        raise TypeError(f"sig must be an int, not {sig!r}")
    if sig not in signal.valid_signals():
        raise ValueError(f"invalid signal number {sig}")


def _install(
    sig: int, handler: Callable[[int, FrameType | None], object] | int
) -> None:
    try:
        signal.signal(sig, handler)
    except OSError as exc:
        if exc.errno == errno.EINVAL:
            raise RuntimeError(f"sig {sig} cannot be caught") from exc
        raise


def _to_default(sig: int) -> None:
    if sig == signal.SIGINT:
        _install(sig, signal.default_int_handler)
    else:
        _install(sig, signal.SIG_DFL)


class _Handler:
    """What signal.signal() gets, for all signals of a loop."""

    __slots__ = ("_loop",)

    def __init__(self, loop: SignalLoop) -> None:
        self._loop = weakref.ref(loop)

    def __call__(self, sig: int, frame: FrameType | None) -> None:
        # Between any two bytecodes of the main thread.
        loop = self._loop()
        if loop is not None and not loop.is_closed():
            loop._on_signal(sig)
        elif signal.getsignal(sig) is self:
            # The loop was dropped in another thread, which may not set handlers.
            _to_default(sig)
            signal.raise_signal(sig)


class SignalLoop(ConnectingLoop):
    """Signal handlers."""

    # Made when the first handler is added.
    _signal_handlers: dict[int, asyncio.Handle] | None = None
    _handler: _Handler | None = None
    # Signals that Python's handler has queued, and that are still to be read of.
    _signals_queued: set[int] | frozenset[int] = frozenset()
    # Called with the numbers of signals, for children.py.
    _children_hook: Callable[[bytes], object] | None = None

    def add_signal_handler(
        self,
        sig: int,
        callback: Callable[[Unpack[_Ts]], object],
        *args: *_Ts,
    ) -> None:
        """Have the loop call callback(*args) for each such signal.

        Works in the main thread only (RuntimeError elsewhere).  Raises
        ValueError for what is no signal, RuntimeError for what cannot be
        caught.
        """
        if is_coroutine_like(callback):
            raise TypeError("coroutines cannot be used with add_signal_handler()")
        _check_signal(sig)
        self._check_closed()
        handle = asyncio.Handle(callback, args, self, None)
        try:
            if self._handler is None:
                self._handler = _Handler(self)
            _install(sig, self._handler)
        except ValueError as exc:  # Not the main thread.
            raise RuntimeError(str(exc)) from exc
        # System calls that the signal interrupts are to be resumed.
        signal.siginterrupt(sig, False)
        if self._signal_handlers is None:
            self._signal_handlers = {}
            self._signals_queued = set()
            _with_handlers.add(self)
        self._signal_handlers[sig] = handle
        self._set_signal_hook(self._on_signals)

    def remove_signal_handler(self, sig: int) -> bool:
        """Go back to the signal's default; False: there was no handler."""
        _check_signal(sig)
        if not self._signal_handlers or self._signal_handlers.pop(sig, None) is None:
            return False
        if not self._signal_handlers and not self.is_closed():
            self._hear_of_children(self._children_hook)
        _to_default(sig)
        return True

    def _on_signal(self, sig: int) -> None:
        """Python's handler was called, by Python or by the one in its place."""
        if events._get_running_loop() is self:
            if signal.getsignal(sig) is not self._handler:
                return  # The loop is about to read of it, or has.
            self._signals_queued.add(sig)  # type: ignore[union-attr]
        self.call_soon_threadsafe(self._run_signal_handler, sig)

    def _on_signals(self, signums: bytes) -> None:
        """The loop has read of them; Python's handlers were called, but for those that
        come at the end of a run."""
        told = self._signals_queued.intersection(signums)
        self._signals_queued -= told
        for sig in signums:
            if (
                sig not in told
                and sig in (self._signal_handlers or ())
                and (self.is_running() or signal.getsignal(sig) is not self._handler)
            ):
                self.call_soon_threadsafe(self._run_signal_handler, sig)
        if self._children_hook is not None:
            self._children_hook(signums)

    def _hear_of_children(self, hook: Callable[[bytes], object] | None) -> None:
        self._children_hook = hook
        wanted = hook is not None or self._signal_handlers
        self._set_signal_hook(self._on_signals if wanted else None)

    def _run_signal_handler(self, sig: int) -> None:
        handle = self._signal_handlers and self._signal_handlers.get(sig)
        if not handle:
            return  # Removed since.
        if handle.cancelled():
            self.remove_signal_handler(sig)
        else:
            handle._run()

    def close(self) -> None:
        super().close()
        if not self._signal_handlers:
            return
        if sys.is_finalizing():
            warnings.warn(
                f"Closing the loop {self!r} on interpreter shutdown stage, "
                "skipping signal handlers removal",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )
            self._signal_handlers.clear()
            return
        for sig in list(self._signal_handlers):
            try:
                self.remove_signal_handler(sig)
            except ValueError:
                pass  # Not the main thread: the handler removes itself when called.


# ---- forked children ----

_with_handlers: weakref.WeakSet[SignalLoop] = weakref.WeakSet()


def _interrupts_runner(handler: object) -> bool:
    """Whether it is what asyncio.Runner does at Ctrl-C, for a loop of ours."""
    if not isinstance(handler, functools.partial):
        return False
    runner = getattr(handler.func, "__self__", None)
    return isinstance(runner, asyncio.Runner) and isinstance(
        getattr(runner, "_loop", None), SignalLoop
    )


def _after_fork() -> None:
    """Signals of a child are its own: what would call into the parent's loop goes
    back to the default."""
    for loop in list(_with_handlers):
        handlers, loop._signal_handlers = loop._signal_handlers or {}, None
        for sig in handlers:
            if signal.getsignal(sig) is loop._handler:
                _to_default(sig)
    _with_handlers.clear()
    if _interrupts_runner(signal.getsignal(signal.SIGINT)):
        _to_default(signal.SIGINT)


os.register_at_fork(after_in_child=_after_fork)
