"""A few of the programs of tests/apifuzz.py; `make fuzz` runs many."""

import apifuzz


def test_programs_that_do_anything():
    assert list(apifuzz.batches(range(40))) == []
