"""The tests of test.test_asyncio that do not pass on uvtulip, each with its reason.

FAILING are run and have to fail.  EXCLUDED are not run, because they would hang or
harm the tests after them.  A test that some version of Python lacks is no matter.
"""

INTERNALS = "uses internals of the selector loop (_selector, _run_once, _stop_serving)"
SSL_INTERNALS = "uses internals of asyncio.sslproto (_ssl_protocol, _write_backlog)"
MOCKS = "mocks the signal module that asyncio.unix_events uses, or uses internals of it"
WATCHER = "about the child watcher of the policy or loop, which uvtulip has not"
PATCHES = "patches the socket module that asyncio.base_events uses"

FAILING: dict[str, str] = {
    "test_ssl.TestSSL.test_flush_before_shutdown": SSL_INTERNALS,
    "test_ssl.TestSSL.test_remote_shutdown_receives_trailing_data": SSL_INTERNALS,
    "test_ssl.TestSSL"
    ".test_remote_shutdown_receives_trailing_data_on_slow_socket": SSL_INTERNALS,
    "test_sslproto.SelectorStartTLSTests"
    ".test_create_connection_ssl_failed_certificate_no_cycles": SSL_INTERNALS,
    "test_sslproto.SslProtoHandshakeTests.test_connection_lost_when_busy": INTERNALS,
    "test_events.SelectEventLoopTests.test_create_server_multiple_hosts_ipv4": PATCHES,
    "test_events.SelectEventLoopTests.test_create_server_multiple_hosts_ipv6": PATCHES,
    "test_events.SelectEventLoopTests.test_prompt_cancellation": INTERNALS,
    "test_events.SelectEventLoopTests.test_timeout_rounding": INTERNALS,
    "test_subprocess.GenericWatcherTests"
    ".test_create_subprocess_fails_with_inactive_watcher": WATCHER,
    "test_subprocess.SubprocessPidfdWatcherTests.test_watcher_implementation": WATCHER,
    "test_subprocess.SubprocessThreadedWatcherTests"
    ".test_pid_not_reaped_before_exit_published": WATCHER,
    "test_subprocess.SubprocessThreadedWatcherTests"
    ".test_watcher_implementation": WATCHER,
    "test_unix_events.PidfdChildWatcherTests"
    ".test_pidfd_closed_when_waitpid_raises": "counts descriptors: libuv has one more"
    " from a loop's first stream on",
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
    ".test_sock_sendfile_not_available": INTERNALS,
    "test_unix_events.SelectorEventLoopUnixSockSendfileTests"
    ".test_sock_sendfile_os_error_first_call": INTERNALS,
    "test_unix_events.SelectorEventLoopUnixSockSendfileTests"
    ".test_sock_sendfile_os_error_next_call": INTERNALS,
    "test_unix_events.SelectorEventLoopUnixSocketTests"
    ".test_create_unix_server_bind_error": PATCHES,
}

BASE = "test_base_events.BaseEventLoopTests.test_"
BASE_SELECTOR = "test_base_events.BaseEventLoopWithSelectorTests.test_"
THREADSAFE = "test_events.SelectEventLoopTests.test_call_soon_threadsafe_handle_"
AFTER_CLOSE = "sends a datagram after close(), which uvtulip drops without a word"
GIVEN_BACK = "wants a socket closed that uvtulip gives back to the caller"
PRIVATE_HANDLE = "asks for the private asyncio.events._ThreadSafeHandle"


def listed(prefix: str, reason: str, names: str) -> None:
    FAILING.update((prefix + name, reason) for name in names.split())


listed(
    BASE,
    INTERNALS,
    """
    _add_callback_cancelled_handle _add_callback_handle _run_once
    _run_once_cancelled_event_cleanup _run_once_schedule_handle call_later
    custom_run_forever_integration default_exc_handler_broken not_implemented
    run_forever_pre_stopped set_exc_handler_broken set_exc_handler_custom
    single_selecter_event_callback_after_stopping
    """,
)
listed(
    BASE_SELECTOR,
    INTERNALS,
    """
    accept_connection_exception accept_connection_retry
    create_datagram_endpoint_sock_unix
    """,
)
listed(
    BASE_SELECTOR,
    PATCHES,
    """
    create_connection_bluetooth create_connection_connect_err
    create_connection_connect_non_os_err_close_err
    create_connection_happy_eyeballs_empty_exceptions create_connection_ip_addr
    create_connection_ipv6_scope create_connection_multiple
    create_connection_multiple_errors create_connection_multiple_errors_local_addr
    create_connection_no_inet_pton create_connection_service_name
    create_connection_ssl_server_hostname_default create_connection_timeout
    create_connection_transport_error_closes_sock
    create_datagram_endpoint_cant_bind create_datagram_endpoint_ip_addr
    create_datagram_endpoint_no_addrinfo create_datagram_endpoint_nosoreuseport
    create_datagram_endpoint_setblk_err create_datagram_endpoint_socket_err
    create_server_cant_bind create_server_nosoreuseport
    create_server_soreuseport_only_defined
    """,
)
listed(
    "test_events.SelectEventLoopTests.test_",
    AFTER_CLOSE,
    "datagram_write_error_close_from_callback",
)
listed(BASE_SELECTOR, GIVEN_BACK, "create_connection_sock_transport_error_closes_sock")

# A class stands for all its tests.
EXCLUDED: dict[str, str] = {
    "test_subprocess.SubprocessFastWatcherTests": "FastChildWatcher, a child watcher of"
    " the policy that uvtulip does not ask, waits for any child and so takes its own",
    # They wait for ever for a thread that fails.
    THREADSAFE + "block_cancellation": PRIVATE_HANDLE,
    THREADSAFE + "block_check_cancelled": PRIVATE_HANDLE,
    THREADSAFE + "cancel_other_thread": PRIVATE_HANDLE,
}


def failing(loop: str) -> dict[str, str]:
    """What is known to fail on this loop: asyncio's own passes everything."""
    return FAILING if loop == "uvtulip" else {}


def excluded(loop: str) -> set[str]:
    """What is not run on this loop."""
    return set(EXCLUDED) if loop == "uvtulip" else set()
