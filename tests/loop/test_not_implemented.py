"""There is nothing that the loop does not have."""

import asyncio
import inspect

import uvtulip


def test_every_method_of_asyncio_is_there():
    """Nothing is inherited from AbstractEventLoop, whose methods only raise."""
    for name, method in vars(asyncio.AbstractEventLoop).items():
        if not inspect.isfunction(method) or name == "_timer_handle_cancelled":
            continue
        assert getattr(uvtulip.Loop, name) is not method, name
