"""Closing what is left of something that has failed.

There is an exception already, which is what the caller has to see: a close() that
fails as well, as somebody has closed the descriptor or the handle before, must not put
another one in its place.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class _Closable(Protocol):
        def close(self) -> object: ...


def close_quietly(*things: _Closable) -> None:
    """Close each of them, whatever comes of it."""
    for thing in things:
        try:
            thing.close()
        except Exception:
            continue


def close_descriptor(fd: int) -> None:
    try:
        os.close(fd)
    except OSError:
        pass  # Somebody has closed it.
