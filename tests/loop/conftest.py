"""What tests of the loop ask for by name."""

import gc
from collections.abc import Iterator

import pytest

import aiosupport
import uvtulip
from aiosupport import open_descriptors


@pytest.fixture
def no_leak() -> Iterator[None]:
    """No more descriptors are open after the test than before."""
    uvtulip.new_event_loop().close()  # libuv keeps two from the first one on.
    gc.collect()
    before = open_descriptors()
    yield
    gc.collect()
    assert open_descriptors() == before


@pytest.fixture
def refusing_port() -> Iterator[int]:
    with aiosupport.refusing_port() as port:
        yield port
