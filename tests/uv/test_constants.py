"""Constants of the module, its versions, and the errno submodule."""

import errno
import os
import re
import subprocess
import sys

import pytest

import uvtulip
from uvtulip import uv

FIXED = {
    "UV_RUN_DEFAULT": 0, "UV_RUN_ONCE": 1, "UV_RUN_NOWAIT": 2,
    "UV_TCP_IPV6ONLY": 1,
    "UV_UDP_IPV6ONLY": 1, "UV_UDP_PARTIAL": 2, "UV_UDP_REUSEADDR": 4,
    "UV_UDP_MMSG_CHUNK": 8, "UV_UDP_MMSG_FREE": 16, "UV_UDP_LINUX_RECVERR": 32,
    "UV_UDP_RECVMMSG": 256,
    "UV_JOIN_GROUP": 1, "UV_LEAVE_GROUP": 0,
    "UV_READABLE": 1, "UV_WRITABLE": 2, "UV_DISCONNECT": 4, "UV_PRIORITIZED": 8,
    "UV_UNKNOWN_HANDLE": 0, "UV_ASYNC": 1, "UV_CHECK": 2, "UV_FS_EVENT": 3,
    "UV_FS_POLL": 4, "UV_HANDLE": 5, "UV_IDLE": 6, "UV_NAMED_PIPE": 7,
    "UV_POLL": 8, "UV_PREPARE": 9, "UV_PROCESS": 10, "UV_STREAM": 11,
    "UV_TCP": 12, "UV_TIMER": 13, "UV_TTY": 14, "UV_UDP": 15, "UV_SIGNAL": 16,
    "UV_FILE": 17,
    "UV_PROCESS_SETUID": 1, "UV_PROCESS_SETGID": 2,
    "UV_PROCESS_WINDOWS_VERBATIM_ARGUMENTS": 4, "UV_PROCESS_DETACHED": 8,
    "UV_PROCESS_WINDOWS_HIDE": 16, "UV_PROCESS_WINDOWS_HIDE_CONSOLE": 32,
    "UV_PROCESS_WINDOWS_HIDE_GUI": 64,
    "UV_IGNORE": 0, "UV_CREATE_PIPE": 1, "UV_INHERIT_FD": 2,
    "UV_INHERIT_STREAM": 4, "UV_READABLE_PIPE": 16, "UV_WRITABLE_PIPE": 32,
    "UV_NONBLOCK_PIPE": 64,
    "UV_TTY_MODE_NORMAL": 0, "UV_TTY_MODE_RAW": 1, "UV_TTY_MODE_IO": 2,
    "UV_TTY_SUPPORTED": 0, "UV_TTY_UNSUPPORTED": 1,
    "UV_LOOP_BLOCK_SIGNAL": 0, "UV_METRICS_IDLE_TIME": 1,
}

# Names that came after libuv 1.44, and their first version.
LATER = {
    "UV_PIPE_NO_TRUNCATE": (1, 46),
    "UV_PROCESS_WINDOWS_FILE_PATH_EXACT_NAME": (1, 48),
    "UV_LOOP_USE_IO_URING_SQPOLL": (1, 49),
    "UV_TCP_REUSEPORT": (1, 49),
    "UV_UDP_REUSEPORT": (1, 49),
    "UV_TTY_MODE_RAW_VT": (1, 51),
}


@pytest.mark.parametrize("name", FIXED)
def test_value(name):
    assert getattr(uv, name) == FIXED[name]
    assert type(getattr(uv, name)) is int


def test_nothing_but_known_names():
    names = {name for name in dir(uv) if name.startswith("UV_")}
    assert names - set(LATER) == set(FIXED)


@pytest.mark.parametrize("name", LATER)
def test_later_names_are_there_when_libuv_has_them(name):
    if uv.LIBUV_VERSION_INFO < LATER[name]:
        assert not hasattr(uv, name)
    else:
        assert isinstance(getattr(uv, name), int)


def test_versions():
    assert re.fullmatch(r"\d+\.\d+\.\d+(-dev)?", uv.LIBUV_VERSION)
    assert uv.LIBUV_VERSION_INFO >= (1, 44, 2)
    version = ".".join(map(str, uv.LIBUV_VERSION_INFO))
    assert uv.LIBUV_VERSION.split("-")[0] == version
    assert re.match(r"\d+\.\d+", uv.__version__)
    assert uvtulip.uv is uv


def test_errno_names_and_numbers():
    names = [name for name in dir(uv.errno) if name.startswith("UV_")]
    assert len(names) >= 82
    for name in names:
        code = getattr(uv.errno, name)
        assert code < 0
        assert uv.errno.errorcode[code] == name
        system = getattr(errno, name[3:], None)
        if system is not None:
            assert code == -system
            assert uv.errno.strerror(code)
    assert len(uv.errno.errorcode) == len(names)
    assert uv.errno.UV_EOF == -4095


def test_strerror_and_err_name():
    assert uv.errno.strerror(uv.errno.UV_EADDRINUSE) == "address already in use"
    assert uv.errno.err_name(uv.errno.UV_EADDRINUSE) == "EADDRINUSE"
    assert uv.errno.err_name(uv.errno.UV_EOF) == "EOF"
    for function in (uv.errno.strerror, uv.errno.err_name):
        assert function(-999) == "Unknown system error -999"
        assert function(0) == "Unknown system error 0"


@pytest.mark.parametrize("function", ["strerror", "err_name"])
def test_bad_codes(function):
    function = getattr(uv.errno, function)
    for bad in ("1", None, 1.0):
        with pytest.raises(TypeError, match="code"):
            function(bad)
    for bad in (2**31, -2**31 - 1, 10**40):
        with pytest.raises(ValueError, match="code"):
            function(bad)
    with pytest.raises(TypeError):
        function()
    with pytest.raises(TypeError):
        function(1, 2)


LEAK_SCRIPT = """
import os
from uvtulip import uv

def resident():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def many():
    for code in range(-300_000, -200_000):
        uv.errno.strerror(code)
        uv.errno.err_name(code)

many()
before = resident()
many()
print(resident() - before)
"""


def test_unknown_codes_leak_nothing():
    # A sanitizer keeps what was freed for a while; that is no growth.
    options = os.environ.get("ASAN_OPTIONS", "") + ":quarantine_size_mb=1"
    options += ":thread_local_quarantine_size_kb=64"
    done = subprocess.run(
        [sys.executable, "-c", LEAK_SCRIPT], capture_output=True, text=True,
        timeout=50, check=True, env={**os.environ, "ASAN_OPTIONS": options})
    assert int(done.stdout) < 4 << 20
