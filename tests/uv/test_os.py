"""util: what libuv tells of the process and its system."""

import inspect
import ipaddress
import os
import platform
import pwd
import resource
import signal
import socket
import sys
import threading
import time

import pytest

from aiosupport import check_script
from uvtulip import uv
from uvtulip.uv import util

NEWER = {
    "get_available_memory": (1, 45, 0),
    "cpumask_size": (1, 45, 0),
    "get_group": (1, 45, 0),
    "clock_gettime": (1, 45, 0),
    "getrusage_thread": (1, 50, 0),
}

# What each needs, for the test of arguments.
ONE = """chdir unsetenv sleep random guess_handle_type handle_type_name req_type_name
    translate_sys_error if_indextoname if_indextoiid ip_name set_process_title
    get_group clock_gettime""".split()
OPTIONAL = ["getpriority", "get_passwd"]
SOME = ["getenv", "setenv", "setpriority"]

FUNCTIONS = [name for name, value in vars(util).items() if inspect.isbuiltin(value)]


def test_module():
    assert sys.modules["uvtulip.uv.util"] is uv.util is util
    for name, version in NEWER.items():
        assert (name in FUNCTIONS) == (version <= uv.LIBUV_VERSION_INFO)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_documented(name):
    function = getattr(util, name)
    assert function.__module__ == "uvtulip._uv.util"
    assert len(function.__doc__) > 20
    inspect.signature(function)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_arguments(name):
    function = getattr(util, name)
    with pytest.raises(TypeError):
        function(1, 2, 3, 4)
    if name in ONE + SOME:
        with pytest.raises(TypeError):
            function()
        with pytest.raises(TypeError):
            function(*[object()] * (2 if name in SOME else 1))
    elif name in OPTIONAL:
        with pytest.raises(TypeError):
            function("x")
    else:
        with pytest.raises(TypeError):
            function(1)


# ---- numbers ----


def test_hrtime():
    begin = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    now = util.hrtime()
    assert begin <= now <= time.clock_gettime_ns(time.CLOCK_MONOTONIC)


def test_memory():
    total = util.get_total_memory()
    assert 0 < util.get_free_memory() <= total
    assert util.get_constrained_memory() >= 0
    assert 1 << 20 < util.resident_set_memory() < total
    if hasattr(util, "get_available_memory"):
        assert 0 < util.get_available_memory() <= total


def test_load_and_uptime():
    load = util.loadavg()
    assert len(load) == 3 and all(type(x) is float and x >= 0 for x in load)
    uptime = util.uptime()
    assert type(uptime) is float and uptime > 0


def test_parallelism():
    assert util.available_parallelism() == len(os.sched_getaffinity(0))


def test_process_numbers():
    assert (util.getpid(), util.getppid()) == (os.getpid(), os.getppid())


def test_priority():
    before = util.getpriority()
    assert before == util.getpriority(os.getpid()) == os.getpriority(0, 0)
    check_script(
        f"""
        from uvtulip.uv import util
        util.setpriority(0, util.UV_PRIORITY_BELOW_NORMAL)
        assert util.getpriority() == {10 if os.geteuid() == 0 else max(10, before)}
        """
    )
    for bad in 20, -21, 1 << 20:
        with pytest.raises(uv.error.UVError) as info:
            util.setpriority(0, bad)
        assert info.value.name == "EINVAL"
    with pytest.raises(uv.error.UVError) as info:
        util.getpriority(2**22 + 1)
    assert info.value.name == "ESRCH"
    with pytest.raises(ValueError):
        util.getpriority(-1)


def test_clocks():
    before = time.time()
    now = util.gettimeofday()
    assert type(now) is util.timeval
    assert before - 0.001 <= now.sec + now.usec / 1e6 <= time.time() + 0.001
    if hasattr(util, "clock_gettime"):
        now = util.clock_gettime(util.UV_CLOCK_MONOTONIC)
        assert now.sec * 10**9 + now.nsec <= util.hrtime()
        with pytest.raises(uv.error.UVError):
            util.clock_gettime(99)


# ---- records ----


def test_cpu_info():
    cpus = util.cpu_info()
    assert len(cpus) == os.cpu_count()
    for cpu in cpus:
        assert type(cpu) is util.cpu_info_result and len(cpu) == 3
        assert type(cpu.model) is str and cpu.speed >= 0
        assert cpu.times == (
            cpu.times.sys,
            cpu.times.user,
            cpu.times.idle,
            cpu.times.irq,
            cpu.times.nice,
        )
        assert sum(cpu.times) > 0


def test_interface_addresses():
    found = util.interface_addresses()
    names = {name for _, name in socket.if_nameindex()}
    assert {entry.name for entry in found} <= names
    loopback = [entry for entry in found if entry.address == "127.0.0.1"]
    assert loopback[0] == (
        loopback[0].name, True, "127.0.0.1", "255.0.0.0", "00:00:00:00:00:00"
    )
    for entry in found:
        address = ipaddress.ip_address(entry.address)
        assert ipaddress.ip_address(entry.netmask).version == address.version
        assert len(bytes.fromhex(entry.mac.replace(":", ""))) == 6


def test_getrusage():
    before = resource.getrusage(resource.RUSAGE_SELF)
    used = util.getrusage()
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert type(used) is util.rusage and len(used) == 16
    for ours, name in (
        (used.ru_utime, "ru_utime"),
        (used.ru_stime, "ru_stime"),
        (used.ru_maxrss, "ru_maxrss"),
        (used.ru_minflt, "ru_minflt"),
        (used.ru_nvcsw, "ru_nvcsw"),
    ):
        assert getattr(before, name) <= ours <= getattr(after, name), name
    if hasattr(util, "getrusage_thread"):
        assert util.getrusage_thread().ru_utime <= util.getrusage().ru_utime


def test_uname():
    system = util.uname()
    known = os.uname()
    assert system == (known.sysname, known.release, known.version, known.machine)
    assert system.machine == platform.machine()


def test_passwd():
    user = util.get_passwd()
    known = pwd.getpwuid(os.geteuid())
    assert user == (
        known.pw_name, known.pw_uid, known.pw_gid, known.pw_shell, known.pw_dir
    )
    assert user.username == known.pw_name and user.homedir == known.pw_dir
    assert util.get_passwd(None) == user
    if uv.LIBUV_VERSION_INFO >= (1, 45, 0):
        assert util.get_passwd(os.geteuid()) == user
        assert util.get_group(0).groupname == "root"
        with pytest.raises(uv.error.UVError):
            util.get_group(2**31 - 5)
    else:
        with pytest.raises(uv.error.UVError) as info:
            util.get_passwd(0)
        assert info.value.name == "ENOSYS"
    with pytest.raises(ValueError):
        util.get_passwd(-1)


# ---- strings ----


def test_paths(monkeypatch):
    assert util.cwd() == os.getcwd()
    assert util.exepath() == os.path.realpath(sys.executable)
    assert util.gethostname() == socket.gethostname()


def test_chdir(tmp_path):
    before = os.getcwd()
    deep = tmp_path
    for _ in range(15):
        deep = deep / ("d" * 200)
    try:
        for kind in str, os.fsencode, lambda path: path:
            assert util.chdir(kind(tmp_path)) is None
            assert os.getcwd() == str(tmp_path) == util.cwd()
            os.chdir(before)
        # Longer than what is tried first.
        os.chdir(tmp_path)
        for _ in range(15):
            os.mkdir("d" * 200)
            util.chdir("d" * 200)
        assert util.cwd() == str(deep)
    finally:
        os.chdir(before)
    with pytest.raises(uv.error.UVError) as info:
        util.chdir(tmp_path / "missing")
    assert info.value.errno == 2 and info.value.call == "uv_chdir"
    with pytest.raises(ValueError):
        util.chdir("a\0b")


def test_folders():
    check_script(
        """
        import os
        from uvtulip.uv import util
        assert util.homedir() == "/some/home", util.homedir()
        assert util.tmpdir() == "/some/tmp", util.tmpdir()
        os.environ["HOME"] = "/" + "x" * 10000
        assert util.homedir() == os.environ["HOME"]
        for name in "TMPDIR", "TMP", "TEMP", "TEMPDIR":
            os.environ.pop(name, None)
        assert util.tmpdir() == "/tmp"
        """,
        env={**os.environ, "HOME": "/some/home", "TMPDIR": "/some/tmp/"},
    )


def test_environment():
    name = "UVTULIP_TEST"
    assert util.getenv(name) is None
    assert util.getenv(name, 5) == 5
    for value in "plain", "", "ümlaut", "odd\udcff", "x" * 100_000:
        util.setenv(name, value)
        assert util.getenv(name) == util.getenv(name.encode(), 5) == value
        assert util.environ()[name] == value
    assert name not in os.environ
    util.unsetenv(name)
    util.unsetenv(name)
    assert util.getenv(name) is None and name not in util.environ()
    assert os.environ.items() <= util.environ().items()
    for bad in "", "a=b":
        with pytest.raises(uv.error.UVError) as info:
            util.setenv(bad, "x")
        assert info.value.name == "EINVAL"
        with pytest.raises(uv.error.UVError):
            util.unsetenv(bad)
    for bad in "a\0b", b"a\0b":
        for call in util.getenv, util.unsetenv:
            with pytest.raises(ValueError):
                call(bad)
        with pytest.raises(ValueError):
            util.setenv("name", bad)


def test_environment_that_is_not_there():
    check_script(
        """
        import ctypes
        from uvtulip.uv import util
        ctypes.CDLL(None).clearenv()
        assert util.environ() == {}
        assert util.getenv("PATH") is None
        """
    )


def test_process_title():
    out = check_script(
        """
        from uvtulip.uv import util

        def shown():
            with open("/proc/self/cmdline", "rb") as file:
                return file.read().rstrip(b"\\0")

        first = shown().split(b"\\0")[0]
        assert util.get_process_title().encode() == first
        util.set_process_title("a title")
        assert util.get_process_title() == "a title"
        assert shown() == b"a title"
        util.set_process_title("x" * 100_000)
        assert set(util.get_process_title()) == {"x"}
        assert shown() == util.get_process_title().encode()
        util.set_process_title("")
        assert util.get_process_title() == ""
        for bad in ["a\\0b"]:
            try:
                util.set_process_title(bad)
            except ValueError:
                print("refused")
        """
    )
    assert out == "refused\n"


# ---- names ----


def test_type_names():
    assert util.handle_type_name(uv.UV_TCP) == "tcp"
    assert util.handle_type_name(uv.UV_NAMED_PIPE) == "pipe"
    assert util.req_type_name(util.UV_FS) == "fs"
    assert util.req_type_name(util.UV_GETADDRINFO) == "getaddrinfo"
    for bad in -1, 0, 999, -(2**31), 2**31 - 1:
        assert util.handle_type_name(bad) is None
        assert util.req_type_name(bad) is None


def test_guess_handle_type(tmp_path):
    with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        assert util.guess_handle_type(tcp.fileno()) == uv.UV_TCP
        assert util.guess_handle_type(udp) == uv.UV_UDP
    for end in socket.socketpair():
        with end:
            assert util.guess_handle_type(end) == uv.UV_NAMED_PIPE
    with open(tmp_path / "file", "w") as file:
        assert util.guess_handle_type(file) == util.UV_FILE
    master, slave = os.openpty()
    assert util.guess_handle_type(slave) == uv.UV_TTY
    os.close(master)
    os.close(slave)
    for bad in -1, 4000:
        assert util.guess_handle_type(bad) == uv.UV_UNKNOWN_HANDLE


def test_errors():
    assert util.translate_sys_error(2) == uv.errno.UV_ENOENT
    assert util.translate_sys_error(uv.errno.UV_ENOENT) == uv.errno.UV_ENOENT


def test_interface_names():
    for index, name in socket.if_nameindex():
        assert util.if_indextoname(index) == name
        assert util.if_indextoiid(index) == name
    with pytest.raises(uv.error.UVError) as info:
        util.if_indextoname(2**30)
    assert info.value.name == "ENXIO"


def test_ip_name():
    assert util.ip_name(("127.0.0.1", 80)) == "127.0.0.1"
    assert util.ip_name(("0:0::1", 80)) == "::1"
    with pytest.raises(ValueError):
        util.ip_name(("localhost", 80))


# ---- sleep ----


def test_sleep():
    begin = time.monotonic()
    assert util.sleep(0.002) is None
    assert time.monotonic() - begin >= 0.002
    assert util.sleep(0) is None
    for bad in -1, float("nan"), float("inf"):
        with pytest.raises(ValueError):
            util.sleep(bad)


def test_other_threads_run_while_it_sleeps():
    woken = threading.Event()
    threading.Timer(0.01, woken.set).start()
    while not woken.is_set():
        util.sleep(0.05)


def test_signals_interrupt_a_sleep():
    def handler(number, frame):
        raise ZeroDivisionError

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        with pytest.raises(ZeroDivisionError):
            util.sleep(30)
    finally:
        signal.signal(signal.SIGALRM, before)
