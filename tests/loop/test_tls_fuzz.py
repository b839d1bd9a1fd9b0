"""A few of the connections of tests/tlsfuzz.py; `make fuzz` runs many."""

import pytest

import tlsfuzz
from uvtulip import _transports


@pytest.mark.parametrize("portable", [False, True], ids=["openssl", "memory-bio"])
def test_false_data_is_never_delivered(portable):
    _transports._tls_backend(portable)
    try:
        # These have found something once.
        for seed in (557, 638, 1533, 1921):
            tlsfuzz.fuzz(range(seed, seed + 1))
        falsified = tlsfuzz.fuzz(range(60))
    finally:
        _transports._tls_backend(False)
    assert 10 < falsified < 50
