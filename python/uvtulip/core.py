"""How the loop is run, stopped, closed and debugged, and where errors go.

CoreLoop is the C event loop with the asyncio methods around it that are called
once per run, per error or per async generator.  All of it belongs to the thread
that runs the loop, except call_exception_handler() and the hook for dropped
generators, which may be called by any.
"""

from __future__ import annotations

import asyncio
import sys
import traceback
import warnings
import weakref
from asyncio import base_events, constants, coroutines, events

from ._transports import EventLoop

# As it is now: a program may put its own in the place of it later.
base_event_loop = base_events.BaseEventLoop

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
    from concurrent.futures import ThreadPoolExecutor
    from typing import Any, TypeVar

    from .children import Child, SilentChildren
    from .metrics import LoopMetrics

    _T = TypeVar("_T")
    _Context = dict[str, Any]
    _ExceptionHandler = Callable[[asyncio.AbstractEventLoop, _Context], object]

# What a task of run_until_complete() carries as its done callback: libraries
# find the outermost task of a run by looking for this very function.
_stop_when_done: Callable[[asyncio.Future[Any]], None] = (
    base_events._run_until_complete_cb  # type: ignore[attr-defined]
)

_TRACEBACKS = {
    "source_traceback": "Object created at (most recent call last):\n",
    "handle_traceback": "Handle created at (most recent call last):\n",
}


def _logger() -> logging.Logger:
    # asyncio's, by the name under which programs' tests put another in its place.
    found: logging.Logger = base_events.logger  # type: ignore[attr-defined]
    return found


def is_coroutine_like(callback: Any) -> bool:
    """Whether calling it would only make a coroutine, or it is one."""
    import inspect

    return asyncio.iscoroutine(callback) or inspect.iscoroutinefunction(callback)


def _full_name(cls: type) -> str:
    package = __name__.rpartition(".")[0]
    module = package if cls.__module__ == package + ".loop" else cls.__module__
    return f"{module}.{cls.__qualname__}"


class CoreLoop(EventLoop, asyncio.AbstractEventLoop):
    """The C loop, made runnable."""

    _default_executor: ThreadPoolExecutor | None = None
    _executor_given = False  # By set_default_executor().
    _executor_shutdown_called = False
    _exception_handler: _ExceptionHandler | None = None
    _asyncgens: weakref.WeakSet[AsyncGenerator[Any, Any]] | None = None
    _asyncgens_shutdown_called = False
    # The tracking depth to go back to; None: tracking is not ours to end.
    _origin_depth: int | None = None

    # The subprocesses that are waited for, and those of them that are asked now and
    # then.  None when there are none, so that loop and object do not hold each other.
    _children: set[Child] | None = None
    _silent_children: SilentChildren | None = None

    def __init__(self) -> None:
        super().__init__()
        if coroutines._is_debug_mode():  # type: ignore[attr-defined]
            self.set_debug(True)

    def __repr__(self) -> str:
        return (
            f"<{_full_name(type(self))} running={self.is_running()} "
            f"closed={self.is_closed()} debug={self.get_debug()}>"
        )

    @property
    def _closed(self) -> bool:
        # Not documented, but looked at by many a test's fixture.
        return self.is_closed()

    def __del__(self, _warn: Callable[..., None] = warnings.warn) -> None:
        if self.is_closed() or self._forked:
            return
        # Where the source was made is only known while tracemalloc traces; who
        # records the warning keeps the source, and with it the loop.
        tracemalloc = sys.modules.get("tracemalloc")
        source = self if tracemalloc is not None and tracemalloc.is_tracing() else None
        _warn(f"unclosed event loop {self!r}", ResourceWarning, source=source)
        if not self.is_running():
            self.close()

    def metrics(self) -> LoopMetrics:
        """What the loop has counted so far.  May be called from any thread, and when
        the loop is closed."""
        from .metrics import LoopMetrics

        return LoopMetrics._make(self._metrics())

    # ---- running ----

    def _check_can_run(self) -> None:
        self._check_closed()
        if self.is_running():
            raise RuntimeError("This event loop is already running")
        if events._get_running_loop() is not None:
            raise RuntimeError(
                "Cannot run the event loop while another loop is running"
            )

    def run_forever(self) -> None:
        """Run until stop() is called."""
        self._check_can_run()
        hooks = sys.get_asyncgen_hooks()
        try:
            self._track_origins(self.get_debug())
            sys.set_asyncgen_hooks(self._asyncgen_started, self._asyncgen_dropped)
            events._set_running_loop(self)
            self._run()
        finally:
            events._set_running_loop(None)
            self._track_origins(False)
            sys.set_asyncgen_hooks(*hooks)

    def run_until_complete(
        self, future: Generator[Any, None, _T] | Awaitable[_T]
    ) -> _T:
        """Run until the awaitable is done; return its result or raise.

        A coroutine is wrapped in a task.
        """
        self._check_can_run()
        ours = not asyncio.isfuture(future)
        task: asyncio.Future[_T] = asyncio.ensure_future(
            future,  # type: ignore[arg-type]
            loop=self,
        )
        if ours:
            # If the run ends early, the RuntimeError below says so.
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        task.add_done_callback(_stop_when_done)
        try:
            self.run_forever()
        except BaseException:
            if (ours or self._forked) and task.done() and not task.cancelled():
                exc = task.exception()  # It is being raised: mark it as seen.
                if self._forked and isinstance(exc, (SystemExit, KeyboardInterrupt)):
                    raise exc from None  # The end of a child; could not tell us.
            raise
        finally:
            task.remove_done_callback(_stop_when_done)
        if not task.done():
            raise RuntimeError("Event loop stopped before Future completed.")
        return task.result()

    def close(self) -> None:
        """Close the loop and all its handles; it cannot be run any more.

        The default executor is told to end, but not waited for.
        """
        if self.is_running():
            raise RuntimeError("Cannot close a running event loop")
        if self.get_debug() and not self.is_closed():
            _logger().debug("Close %r", self)
        try:
            self._close()  # Refuses before anything is changed.
        finally:
            if self.is_closed():
                self._forget_others()

    def _forget_others(self) -> None:
        """What an open loop has besides handles and callbacks."""
        for child in list(self._children or ()):
            child.forget()
        self._executor_shutdown_called = True
        executor = self._default_executor
        if executor is not None:
            self._default_executor = None
            if not self._forked:  # Its threads are the parent's.
                executor.shutdown(wait=False)

    # ---- debug mode ----

    def set_debug(self, enabled: bool) -> None:
        super().set_debug(enabled)
        if self.is_running():
            self.call_soon_threadsafe(self._track_origins, enabled)

    def _track_origins(self, enabled: bool) -> None:
        """Have coroutines remember where they were made, or no longer."""
        if bool(enabled) == (self._origin_depth is not None):
            return
        if enabled:
            self._origin_depth = sys.get_coroutine_origin_tracking_depth()
            sys.set_coroutine_origin_tracking_depth(constants.DEBUG_STACK_DEPTH)
        elif self._origin_depth is not None:
            sys.set_coroutine_origin_tracking_depth(self._origin_depth)
            self._origin_depth = None

    def _check_callable(self, callback: Any, method: str) -> None:
        """Refuse what cannot be called, and coroutines and what makes them."""
        if is_coroutine_like(callback):
            raise TypeError(f"coroutines cannot be used with {method}()")
        if not callable(callback):
            raise TypeError(
                f"a callable object was expected by {method}(), got {callback!r}"
            )

    # ---- async generators ----

    def _asyncgen_started(self, agen: AsyncGenerator[Any, Any]) -> None:
        if self._asyncgens_shutdown_called:
            warnings.warn(
                f"asynchronous generator {agen!r} was scheduled after "
                f"loop.shutdown_asyncgens() call",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )
        if self._asyncgens is None:
            self._asyncgens = weakref.WeakSet()
        self._asyncgens.add(agen)

    def _asyncgen_dropped(self, agen: AsyncGenerator[Any, Any]) -> None:
        # Called by the collector, in whichever thread it runs.
        if self._asyncgens is not None:
            self._asyncgens.discard(agen)
        if not self.is_closed():
            self.call_soon_threadsafe(self.create_task, agen.aclose())

    async def shutdown_asyncgens(self) -> None:
        """Close every async generator that is still being iterated."""
        self._asyncgens_shutdown_called = True
        if not self._asyncgens:
            return
        agens = list(self._asyncgens)
        self._asyncgens.clear()
        results = await asyncio.gather(
            *(agen.aclose() for agen in agens), return_exceptions=True
        )
        for agen, result in zip(agens, results, strict=True):
            if isinstance(result, Exception):
                self.call_exception_handler(
                    {
                        "message": "an error occurred during closing of "
                        f"asynchronous generator {agen!r}",
                        "exception": result,
                        "asyncgen": agen,
                    }
                )

    # ---- errors nobody can catch ----

    def get_exception_handler(self) -> _ExceptionHandler | None:
        """The handler set by set_exception_handler(); None: the default one."""
        return self._exception_handler

    def set_exception_handler(self, handler: _ExceptionHandler | None) -> None:
        """Have handler(loop, context) called for errors; None: the default."""
        if handler is not None and not callable(handler):
            raise TypeError(f"A callable object or None is expected, got {handler!r}")
        self._exception_handler = handler

    def default_exception_handler(self, context: _Context) -> None:
        """Log an error with all that its context says, one line for each."""
        exception = context.get("exception")
        exc_info: Any = False
        if exception is not None:
            exc_info = type(exception), exception, exception.__traceback__
        if "source_traceback" not in context:
            created = getattr(self._current_handle, "_source_traceback", None)
            if created:
                context["handle_traceback"] = created
        lines = [context.get("message") or "Unhandled exception in event loop"]
        for key in sorted(context.keys() - {"message", "exception"}):
            value = context[key]
            if key in _TRACEBACKS:
                stack = "".join(traceback.format_list(value)).rstrip()
                lines.append(f"{key}: {_TRACEBACKS[key]}{stack}")
            else:
                lines.append(f"{key}: {value!r}")
        _logger().error("\n".join(lines), exc_info=exc_info)

    def call_exception_handler(self, context: _Context) -> None:
        """Hand an error to the handler that is set, or to the default one.

        The context has a 'message' and may have an 'exception', 'future',
        'task', 'handle', 'protocol', 'transport', 'socket' and 'asyncgen'.
        Whatever a handler raises is logged; only SystemExit and
        KeyboardInterrupt come out of here.
        """
        handler = self._exception_handler
        if handler is None:
            self._guarded_default(context, "Exception in default exception handler")
            return
        try:
            # The handler sees the context variables of what has failed.
            subject = None
            for key in ("task", "future", "handle"):
                subject = context.get(key)
                if subject is not None:
                    break
            get_context = getattr(subject, "get_context", None)
            run = getattr(get_context and get_context(), "run", None)
            if run is not None:
                run(handler, self, context)
            else:
                handler(self, context)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._guarded_default(
                {
                    "message": "Unhandled error in exception handler",
                    "exception": exc,
                    "context": context,
                },
                "Exception in default exception handler while handling an "
                "unexpected error in custom exception handler",
            )

    def _guarded_default(self, context: _Context, complaint: str) -> None:
        # A subclass may have replaced the default handler by one that raises.
        try:
            self.default_exception_handler(context)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException:
            _logger().error(complaint, exc_info=True)
