"""Programs written for pyuv 1.4 run after `import uvtulip.uv as pyuv`: every public
name is there, and the calling conventions hold.
"""

import importlib
import inspect
import signal
import socket
import sys

import pytest

import uvtulip.uv as pyuv

# Every public name of pyuv 1.4, by module and class.
ERRORS = """
    UVError ThreadError FSError HandleError HandleClosedError AsyncError CheckError
    FSEventError FSPollError IdleError PollError PrepareError ProcessError SignalError
    TimerError UDPError StreamError TCPError PipeError TTYError
""".split()

CONSTANTS = {
    "": """
        UV_RUN_DEFAULT UV_RUN_ONCE UV_RUN_NOWAIT UV_TCP_IPV6ONLY UV_UDP_IPV6ONLY
        UV_UDP_PARTIAL UV_UDP_REUSEADDR UV_JOIN_GROUP UV_LEAVE_GROUP UV_READABLE
        UV_WRITABLE UV_DISCONNECT UV_UNKNOWN_HANDLE UV_ASYNC UV_CHECK UV_FS_EVENT
        UV_FS_POLL UV_HANDLE UV_IDLE UV_NAMED_PIPE UV_POLL UV_PREPARE UV_PROCESS
        UV_STREAM UV_TCP UV_TIMER UV_TTY UV_UDP UV_SIGNAL UV_PROCESS_SETUID
        UV_PROCESS_SETGID UV_PROCESS_WINDOWS_VERBATIM_ARGUMENTS UV_PROCESS_DETACHED
        UV_PROCESS_WINDOWS_HIDE UV_IGNORE UV_CREATE_PIPE UV_INHERIT_FD
        UV_INHERIT_STREAM UV_READABLE_PIPE UV_WRITABLE_PIPE
    """.split(),
    "fs": """
        UV_RENAME UV_CHANGE UV_FS_EVENT_WATCH_ENTRY UV_FS_EVENT_STAT UV_FS_SYMLINK_DIR
        UV_FS_SYMLINK_JUNCTION UV_DIRENT_UNKNOWN UV_DIRENT_FILE UV_DIRENT_DIR
        UV_DIRENT_LINK UV_DIRENT_FIFO UV_DIRENT_SOCKET UV_DIRENT_CHAR UV_DIRENT_BLOCK
    """.split(),
}

FUNCTIONS = {
    "errno": ["strerror"],
    "dns": ["getaddrinfo", "getnameinfo"],
    "fs": """
        stat lstat fstat unlink rmdir mkdir chmod fchmod rename link symlink chown
        fchown readlink realpath access open close read write fsync fdatasync ftruncate
        scandir sendfile utime futime stat_float_times
    """.split(),
    "util": """
        hrtime get_free_memory get_total_memory loadavg uptime resident_set_memory
        interface_addresses cpu_info getrusage guess_handle_type
    """.split(),
}

HANDLE = "close active closed ref loop"
STREAM = HANDLE + """
    start_read stop_read write try_write shutdown set_blocking fileno readable writable
    write_queue_size listen accept
"""
REQUEST = "cancel loop"
CLASSES = {
    "Loop": """
        default_loop run stop now update_time fileno get_timeout queue_work excepthook
        handles alive default
    """,
    "Handle": HANDLE,
    "Stream": STREAM,
    "TCP": STREAM + """
        bind connect open getsockname getpeername nodelay keepalive simultaneous_accepts
        family send_buffer_size receive_buffer_size
    """,
    "UDP": HANDLE + """
        bind open start_recv stop_recv send try_send getsockname set_membership
        set_multicast_interface set_multicast_ttl set_ttl set_multicast_loop
        set_broadcast fileno family send_buffer_size receive_buffer_size send_queue_size
    """,
    "Pipe": STREAM + """
        bind connect open getsockname getpeername pending_instances pending_handle_type
        ipc send_buffer_size receive_buffer_size
    """,
    "TTY": STREAM + "set_mode get_winsize reset_mode",
    "Poll": HANDLE + " start stop fileno",
    "Timer": HANDLE + " start stop again repeat",
    "Signal": HANDLE + " start stop",
    "Async": HANDLE + " send",
    "Idle": HANDLE + " start stop",
    "Prepare": HANDLE + " start stop",
    "Check": HANDLE + " start stop",
    "Process": HANDLE + " spawn pid kill disable_stdio_inheritance",
    "StdIO": "stream fd flags",
    "fs.FSEvent": HANDLE + " start stop path",
    "fs.FSPoll": HANDLE + " start stop path",
    "fs.FSRequest": REQUEST + " path result error",
    "fs.stat_result": """
        st_mode st_ino st_dev st_nlink st_uid st_gid st_size st_atime st_mtime st_ctime
        st_blksize st_blocks st_rdev st_flags st_gen st_birthtime
    """,
    "fs.DirEnt": "name type",
    "dns.GAIRequest": REQUEST,
    "dns.GNIRequest": REQUEST,
    "thread.Barrier": "wait",
    "thread.Mutex": "lock unlock trylock __enter__ __exit__",
    "thread.RWLock": "rdlock rdunlock tryrdlock wrlock wrunlock trywrlock",
    "thread.Condition": "signal broadcast wait timedwait",
    "thread.Semaphore": "post wait trywait __enter__ __exit__",
    "util.SignalChecker": HANDLE + " start stop",
}

SUBMODULES = ["errno", "error", "fs", "dns", "util", "thread"]


def find(path):
    found = pyuv
    for name in path.split("."):
        found = getattr(found, name)
    return found


@pytest.mark.parametrize("name", SUBMODULES)
def test_submodules_are_real_modules(name):
    module = getattr(pyuv, name)
    assert inspect.ismodule(module)
    assert sys.modules["uvtulip.uv." + name] is module
    assert importlib.import_module("uvtulip.uv." + name) is module


def test_errors():
    for name in ERRORS:
        assert issubclass(getattr(pyuv.error, name), pyuv.error.UVError)
    for name in ("HandleError", "FSError", "ThreadError"):
        assert getattr(pyuv.error, name).__base__ is pyuv.error.UVError
    for name in ("TCPError", "PipeError", "TTYError"):
        assert getattr(pyuv.error, name).__base__ is pyuv.error.StreamError


def test_error_numbers():
    numbers = [name for name in dir(pyuv.errno) if name.startswith("UV_")]
    assert len(numbers) >= 75
    for name in numbers:
        value = getattr(pyuv.errno, name)
        assert value < 0 and pyuv.errno.errorcode[value] == name
    assert pyuv.errno.strerror(pyuv.errno.UV_EOF) == "end of file"


def test_constants():
    for module, names in CONSTANTS.items():
        where = getattr(pyuv, module) if module else pyuv
        for name in names:
            assert type(getattr(where, name)) is int, name
    assert type(pyuv.LIBUV_VERSION) is type(pyuv.__version__) is str


def test_functions():
    for module, names in FUNCTIONS.items():
        for name in names:
            assert callable(getattr(getattr(pyuv, module), name)), name


@pytest.mark.parametrize("path", CLASSES)
def test_classes(path):
    cls = find(path)
    assert isinstance(cls, type)
    missing = [name for name in CLASSES[path].split() if not hasattr(cls, name)]
    assert missing == []


@pytest.mark.parametrize("path", CLASSES)
def test_which_can_be_derived_from(path):
    cls = find(path)
    fixed = ("Handle", "Stream", "StdIO", "fs.FSRequest", "dns.GAIRequest",
             "dns.GNIRequest", "fs.stat_result", "fs.DirEnt")
    if path in fixed:
        return
    assert type("Derived", (cls,), {}).__mro__[1] is cls


# ---- conventions ----


def test_errorno_is_none_or_a_negative_int():
    loop = pyuv.Loop()
    seen = []
    pyuv.TCP(loop).connect(("127.0.0.1", 1), lambda tcp, error: (
        seen.append(error), tcp.close()))
    server = pyuv.TCP(loop)
    server.bind(("127.0.0.1", 0))
    server.listen(lambda server, error: (seen.append(error), server.close()))
    pyuv.TCP(loop).connect(server.getsockname(), lambda tcp, error: (
        seen.append(error), tcp.close()))
    loop.run()
    assert sorted(seen, key=str) == [pyuv.errno.UV_ECONNREFUSED, None, None]
    loop.close()


def test_immediate_failures():
    loop = pyuv.Loop()
    with pytest.raises(pyuv.error.TCPError) as caught:
        pyuv.TCP(loop).getpeername()
    assert caught.value.args == (pyuv.errno.UV_EBADF, "bad file descriptor")


def test_a_program_of_pyuv(capsys):
    """The echo server of its documentation, with what a test needs to end it."""
    clients = []

    def on_read(client, data, error):
        if data is None:
            client.close()
            clients.remove(client)
            return
        client.write(data)

    def on_connection(server, error):
        client = pyuv.TCP(server.loop)
        server.accept(client)
        clients.append(client)
        client.start_read(on_read)

    def signal_cb(handle, signum):
        [c.close() for c in clients]
        signal_h.close()
        server.close()

    loop = pyuv.Loop.default_loop()
    server = pyuv.TCP(loop)
    server.bind(("127.0.0.1", 0))
    server.listen(on_connection)
    signal_h = pyuv.Signal(loop)
    signal_h.start(signal_cb, signal.SIGUSR2)
    got = []
    address = server.getsockname()

    def talk():
        with socket.create_connection(address, timeout=30) as sock:
            sock.sendall(b"PING\n")
            got.append(sock.recv(100))

    loop.queue_work(talk, lambda error: signal.raise_signal(signal.SIGUSR2))
    loop.run()
    assert got == [b"PING\n"] and capsys.readouterr().err == ""


def test_work_that_raises_still_has_done_called_with_none():
    class TestLoop(pyuv.Loop):
        def excepthook(self, kind, value, traceback):
            seen.append(kind)

    loop = TestLoop()
    seen = []
    loop.queue_work(lambda: 1 / 0, lambda errorno: seen.append(errorno))
    loop.run()
    assert seen == [ZeroDivisionError, None]


def test_process_of_pyuv():
    loop = pyuv.Loop()
    seen = []

    def proc_exit_cb(proc, exit_status, term_signal):
        seen.append((exit_status, term_signal))
        proc.close()

    stdout_pipe = pyuv.Pipe(loop)
    stdio = [
        pyuv.StdIO(flags=pyuv.UV_IGNORE),
        pyuv.StdIO(stream=stdout_pipe,
                   flags=pyuv.UV_CREATE_PIPE | pyuv.UV_WRITABLE_PIPE),
    ]
    proc = pyuv.Process.spawn(loop, args=[b"/bin/echo", b"TEST"], stdio=stdio,
                              exit_callback=proc_exit_cb)
    assert proc.pid
    stdout_pipe.start_read(lambda handle, data, error: (
        seen.append(data), handle.close()) if data else handle.closed or handle.close())
    loop.run()
    assert sorted(seen, key=str) == [(0, 0), b"TEST\n"]


def test_fs_of_pyuv(tmp_path):
    loop = pyuv.Loop()
    name = str(tmp_path / "file")
    fd = pyuv.fs.open(loop, name, 0o101, 0o644)
    assert pyuv.fs.write(loop, fd, b"data", 0) == 4
    pyuv.fs.close(loop, fd)
    seen = []

    def stat_cb(req):
        seen.append((req.path, req.result.st_size, req.error))

    pyuv.fs.stat(loop, name, callback=stat_cb)
    loop.run()
    assert seen == [(name, 4, None)]
    with pytest.raises(pyuv.error.FSError):
        pyuv.fs.stat(loop, name + "x")


def test_dns_of_pyuv():
    loop = pyuv.Loop()
    seen = []
    pyuv.dns.getaddrinfo(loop, "127.0.0.1", 80, socket.AF_INET, socket.SOCK_STREAM,
                         callback=lambda result, errorno: seen.append(
                             (result[0].sockaddr, errorno)))
    loop.run()
    assert seen == [(("127.0.0.1", 80), None)]
