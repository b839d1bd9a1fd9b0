"""TLS in several threads at once: the contexts are shared, the loops are not, or
others get at the objects of one."""

import uvtulip
from aiosupport import run
from threadsupport import (
    THREADS,
    echo_by_streams,
    look_from_threads,
    meddle_from_threads,
    together,
)
from tlssupport import client_context, server_context


def test_the_backend_is_looked_for_by_all_at_once():
    """The backend is looked for once, by whoever is first."""
    assert len(set(together(*[uvtulip.tls_backend] * THREADS))) == 1


def test_each_has_tls_by_the_same_contexts():
    server, client = server_context(), client_context()

    def work():
        return run(echo_by_streams(8, server, client))

    assert together(*[work] * THREADS) == [36_000] * THREADS


def test_others_look_at_what_a_running_loop_has():
    look_from_threads(server_context(), client_context())


def test_others_meddle_with_what_a_running_loop_has():
    meddle_from_threads(server_context(), client_context())
