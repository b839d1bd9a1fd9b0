"""The tests of test.test_asyncio that do not pass on uvtulip, each with its reason.

FAILING are run and have to fail.  EXCLUDED are not run, because they would hang or
harm the tests after them.  A test that some version of Python lacks is no matter.
"""

SUBPROCESS = "subprocesses are not part of uvtulip yet"
INTERNALS = "uses internals of the selector loop (_selector, _run_once, _stop_serving)"
SSL_INTERNALS = "uses internals of asyncio.sslproto (_ssl_protocol, _write_backlog)"
PATCHES = "patches the socket module that asyncio.base_events uses"

FAILING: dict[str, str] = {
    "test_ssl.TestSSL.test_flush_before_shutdown": SSL_INTERNALS,
    "test_ssl.TestSSL.test_remote_shutdown_receives_trailing_data": SSL_INTERNALS,
    "test_events.SelectEventLoopTests"
    ".test_create_server_multiple_hosts_ipv4": PATCHES,
    "test_events.SelectEventLoopTests"
    ".test_create_server_multiple_hosts_ipv6": PATCHES,
    "test_events.SelectEventLoopTests.test_prompt_cancellation": INTERNALS,
    "test_events.SelectEventLoopTests.test_subprocess_close_after_finish": SUBPROCESS,
    "test_events.SelectEventLoopTests.test_subprocess_close_client_stream": SUBPROCESS,
    "test_events.SelectEventLoopTests.test_subprocess_exec": SUBPROCESS,
    "test_events.SelectEventLoopTests.test_subprocess_exec_invalid_args": SUBPROCESS,
    "test_events.SelectEventLoopTests.test_subprocess_exitcode": SUBPROCESS,
    "test_events.SelectEventLoopTests.test_subprocess_interactive": SUBPROCESS,
    "test_events.SelectEventLoopTests.test_subprocess_kill": SUBPROCESS,
    "test_events.SelectEventLoopTests.test_subprocess_send_signal": SUBPROCESS,
    "test_events.SelectEventLoopTests.test_subprocess_shell": SUBPROCESS,
    "test_events.SelectEventLoopTests.test_subprocess_shell_invalid_args": SUBPROCESS,
    "test_events.SelectEventLoopTests.test_subprocess_stderr": SUBPROCESS,
    "test_events.SelectEventLoopTests"
    ".test_subprocess_stderr_redirect_to_stdout": SUBPROCESS,
    "test_events.SelectEventLoopTests.test_subprocess_terminate": SUBPROCESS,
    "test_events.SelectEventLoopTests.test_subprocess_wait_no_same_group": SUBPROCESS,
    "test_events.SelectEventLoopTests.test_timeout_rounding": INTERNALS,
    "test_streams.StreamTests.test_read_all_from_pipe_reader": SUBPROCESS,
}

EXCLUDED: dict[str, str] = {}


def failing(loop: str) -> dict[str, str]:
    """What is known to fail on this loop: asyncio's own passes everything."""
    return FAILING if loop == "uvtulip" else {}


def excluded(loop: str) -> set[str]:
    """What is not run on this loop."""
    return set(EXCLUDED) if loop == "uvtulip" else set()
