"""What a loop has counted about itself: Loop.metrics()."""

from __future__ import annotations

import asyncio
from asyncio import format_helpers
from typing import NamedTuple


class LoopMetrics(NamedTuple):
    """A loop's counters at one moment; they are kept always, and cost next to
    nothing.

    Times are in seconds and are sums of whole milliseconds, so that short spans are
    exact on average only.  All but `ready` and `timers` begin with the loop; since()
    tells of the time between two moments.
    """

    run_time: float
    """Time spent in run_forever() and the like."""
    idle_time: float
    """The part of it in which the loop waited for something to do."""
    longest_turn: float
    """The longest time between two looks for events: what a new event may have had
    to wait.  Callbacks that are slow show here."""
    turns: int
    """Looks for events."""
    callbacks: int
    """Callbacks taken from the queue: those of call_soon() and timers, steps of tasks
    and done futures.  What transports call in protocols is not among them."""
    ready: int
    """Callbacks that are in the queue now."""
    most_ready: int
    """The most callbacks that were in the queue at the begin of a turn's callbacks."""
    timers: int
    """Timers that run, and cancelled ones that are not taken out yet."""
    events: int | None
    """I/O events; None before libuv 1.45."""
    events_waiting: int | None
    """Those of them that were there before the loop asked; None before libuv 1.45."""
    slowest_callback: float | None
    """The longest time that a callback took; None unless they are timed, which is in
    debug mode or after time_callbacks(True)."""
    slowest_callback_name: str | None
    """Which one it was, and where it is defined."""

    @property
    def utilisation(self) -> float:
        """The share of the run time in which the loop did not wait, from 0.0 to 1.0;
        0.0 for no time at all."""
        if self.run_time <= 0.0:
            return 0.0
        return min(1.0, max(0.0, 1.0 - self.idle_time / self.run_time))

    def since(self, earlier: LoopMetrics) -> LoopMetrics:
        """What was counted since an earlier call of metrics().  The longest and the
        most of something stay those of the loop's whole life."""
        counted = {
            name: getattr(self, name) - getattr(earlier, name)
            for name in ("run_time", "idle_time", "turns", "callbacks")
        }
        for name in ("events", "events_waiting"):
            now, then = getattr(self, name), getattr(earlier, name)
            counted[name] = None if now is None or then is None else now - then
        return self._replace(**counted)


def callback_name(callback: object) -> str:
    """What a callback is known by: a step of a task by the task, another by its name
    and its place in the source."""
    owner = getattr(callback, "__self__", None)
    if isinstance(owner, asyncio.Task):
        return repr(owner)
    name: str = format_helpers._format_callback_source(callback, ())
    return name
