"""The tests of test.test_asyncio that do not pass on uvtulip, each with its reason.

FAILING are run and have to fail.  EXCLUDED are not run, because they would hang or
harm the tests after them.  A test that some version of Python lacks is no matter.
"""

INTERNALS = "uses internals of the selector loop (_selector, _run_once, _stop_serving)"
SSL_INTERNALS = "uses internals of asyncio.sslproto (_ssl_protocol, _write_backlog)"
MOCKS = "mocks the signal module that asyncio.unix_events uses, or uses internals of it"
WATCHER = "about the policy's child watcher, which uvtulip does not ask"
PATCHES = "patches the socket module that asyncio.base_events uses"

FAILING: dict[str, str] = {
    "test_ssl.TestSSL.test_flush_before_shutdown": SSL_INTERNALS,
    "test_ssl.TestSSL.test_remote_shutdown_receives_trailing_data": SSL_INTERNALS,
    "test_events.SelectEventLoopTests"
    ".test_create_server_multiple_hosts_ipv4": PATCHES,
    "test_events.SelectEventLoopTests"
    ".test_create_server_multiple_hosts_ipv6": PATCHES,
    "test_events.SelectEventLoopTests.test_prompt_cancellation": INTERNALS,
    "test_events.SelectEventLoopTests.test_timeout_rounding": INTERNALS,
    "test_subprocess.GenericWatcherTests"
    ".test_create_subprocess_fails_with_inactive_watcher": WATCHER,
    "test_unix_events.SelectorEventLoopSignalTests"
    ".test_add_signal_handler_install_error": MOCKS,
    "test_unix_events.SelectorEventLoopSignalTests"
    ".test_add_signal_handler_install_error2": MOCKS,
    "test_unix_events.SelectorEventLoopSignalTests"
    ".test_add_signal_handler_install_error3": MOCKS,
    "test_unix_events.SelectorEventLoopSignalTests"
    ".test_add_signal_handler_setup_error": MOCKS,
    "test_unix_events.SelectorEventLoopSignalTests.test_check_signal": MOCKS,
    "test_unix_events.SelectorEventLoopSignalTests.test_close": MOCKS,
    "test_unix_events.SelectorEventLoopSignalTests.test_close_on_finalizing": MOCKS,
    "test_unix_events.SelectorEventLoopSignalTests"
    ".test_handle_signal_cancelled_handler": MOCKS,
    "test_unix_events.SelectorEventLoopSignalTests"
    ".test_handle_signal_no_handler": MOCKS,
    "test_unix_events.SelectorEventLoopSignalTests.test_remove_signal_handler": MOCKS,
    "test_unix_events.SelectorEventLoopSignalTests.test_remove_signal_handler_2": MOCKS,
    "test_unix_events.SelectorEventLoopSignalTests"
    ".test_remove_signal_handler_error": MOCKS,
    "test_unix_events.SelectorEventLoopSignalTests"
    ".test_remove_signal_handler_error2": MOCKS,
    "test_unix_events.SelectorEventLoopUnixSockSendfileTests"
    ".test_sock_sendfile_blocking_error": INTERNALS,
    "test_unix_events.SelectorEventLoopUnixSockSendfileTests"
    ".test_sock_sendfile_cancel1": INTERNALS,
    "test_unix_events.SelectorEventLoopUnixSockSendfileTests"
    ".test_sock_sendfile_cancel2": INTERNALS,
    "test_unix_events.SelectorEventLoopUnixSockSendfileTests"
    ".test_sock_sendfile_exception": INTERNALS,
    "test_unix_events.SelectorEventLoopUnixSockSendfileTests"
    ".test_sock_sendfile_iobuffer": INTERNALS,
    "test_unix_events.SelectorEventLoopUnixSockSendfileTests"
    ".test_sock_sendfile_not_a_file": INTERNALS,
    "test_unix_events.SelectorEventLoopUnixSockSendfileTests"
    ".test_sock_sendfile_not_available": INTERNALS,
    "test_unix_events.SelectorEventLoopUnixSockSendfileTests"
    ".test_sock_sendfile_not_regular_file": INTERNALS,
    "test_unix_events.SelectorEventLoopUnixSockSendfileTests"
    ".test_sock_sendfile_os_error_first_call": INTERNALS,
    "test_unix_events.SelectorEventLoopUnixSockSendfileTests"
    ".test_sock_sendfile_os_error_next_call": INTERNALS,
    "test_unix_events.SelectorEventLoopUnixSocketTests"
    ".test_create_unix_server_bind_error": PATCHES,
}

# A class stands for all its tests.
EXCLUDED: dict[str, str] = {
    "test_subprocess.SubprocessFastWatcherTests": "FastChildWatcher, a child watcher of"
    " the policy that uvtulip does not ask, waits for any child and so takes its own",
}


def failing(loop: str) -> dict[str, str]:
    """What is known to fail on this loop: asyncio's own passes everything."""
    return FAILING if loop == "uvtulip" else {}


def excluded(loop: str) -> set[str]:
    """What is not run on this loop."""
    return set(EXCLUDED) if loop == "uvtulip" else set()
