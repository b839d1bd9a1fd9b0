"""What the tests of pipe transports share: both ends of a pipe as file objects,
and transports over them."""

import asyncio
import os
from typing import Any

from streamsupport import Events


def pipe_objects() -> tuple[Any, Any]:
    """The reading and the writing end, without buffers of their own."""
    reading, writing = os.pipe()
    return open(reading, "rb", 0), open(writing, "wb", 0)


async def reader(file: Any, protocol: Any = None) -> tuple[Any, Any]:
    """A transport that reads from the file, and its protocol."""
    protocol = protocol or Events()
    loop = asyncio.get_running_loop()
    transport, same = await loop.connect_read_pipe(lambda: protocol, file)
    assert same is protocol
    return transport, protocol


async def writer(file: Any, protocol: Any = None) -> tuple[Any, Any]:
    """A transport that writes to the file, and its protocol."""
    protocol = protocol or Events()
    loop = asyncio.get_running_loop()
    transport, same = await loop.connect_write_pipe(lambda: protocol, file)
    assert same is protocol
    return transport, protocol
