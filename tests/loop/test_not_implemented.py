"""What the loop does not have says so, and does nothing before."""

import asyncio
import gc
import inspect

import pytest

import uvtulip
from aiosupport import open_descriptors, run


def never(*args):
    raise AssertionError("the factory must not be called")


CALLS = {
    "sendfile": lambda loop: loop.sendfile(None, None),
    "sock_sendfile": lambda loop: loop.sock_sendfile(None, None),
}


@pytest.mark.parametrize("name", CALLS)
def test_names_itself(name):
    async def main():
        loop = asyncio.get_running_loop()
        gc.collect()
        before = open_descriptors(), len(loop.uv_loop.handles)
        with pytest.raises(NotImplementedError, match=rf"^{name}\("):
            await CALLS[name](loop)
        gc.collect()
        assert (open_descriptors(), len(loop.uv_loop.handles)) == before

    run(main())


def test_every_method_of_asyncio_is_there():
    """Nothing is inherited from AbstractEventLoop, whose methods only raise."""
    for name, method in vars(asyncio.AbstractEventLoop).items():
        if not inspect.isfunction(method) or name == "_timer_handle_cancelled":
            continue
        assert getattr(uvtulip.Loop, name) is not method, name
