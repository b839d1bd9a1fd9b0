"""How long things may take that could hang; UVTULIP_TEST_LIMIT sets it, for builds or
machines that are slow."""

import os

TEST = float(os.environ.get("UVTULIP_TEST_LIMIT", "60"))  # a whole test
WAIT = TEST / 3  # a part of one
