"""add_signal_handler(): callbacks of the loop for Unix signals.

The handler that Python is given only queues the callback; Python runs it on the
main thread, which the raw loop wakes from its poll.  So a signal that comes while
the loop is not running is kept for the next run.  The loop owns the handlers
until it is closed.
"""

from __future__ import annotations

import asyncio
import errno
import signal
import sys
import warnings

from .core import is_coroutine_like
from .sockops import SocketLoop

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


class SignalLoop(SocketLoop):
    """Signal handlers."""

    # Made when the first handler is added.
    _signal_handlers: dict[int, asyncio.Handle] | None = None

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
            _install(sig, self._on_signal)
        except ValueError as exc:  # Not the main thread.
            raise RuntimeError(str(exc)) from exc
        # System calls that the signal interrupts are to be resumed.
        signal.siginterrupt(sig, False)
        if self._signal_handlers is None:
            self._signal_handlers = {}
        self._signal_handlers[sig] = handle

    def remove_signal_handler(self, sig: int) -> bool:
        """Go back to the signal's default; False: there was no handler."""
        _check_signal(sig)
        if not self._signal_handlers or self._signal_handlers.pop(sig, None) is None:
            return False
        if sig == signal.SIGINT:
            _install(sig, signal.default_int_handler)
        else:
            _install(sig, signal.SIG_DFL)
        return True

    def _on_signal(self, sig: int, frame: FrameType | None) -> None:
        # Between any two bytecodes of the main thread.
        if not self.is_closed():
            self.call_soon_threadsafe(self._run_signal_handler, sig)

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
            self.remove_signal_handler(sig)
