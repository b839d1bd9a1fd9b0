"""uv.TTY on real pseudo-terminals."""

import fcntl
import gc
import os
import pty
import socket
import struct
import subprocess
import sys
import termios
import weakref

import pytest

from uvtulip import uv

UV = uv.errno


@pytest.fixture
def terminal():
    """(master, slave), of which the slave is the terminal of a program."""
    master, slave = pty.openpty()
    yield master, slave
    for fd in (master, slave):
        os.close(fd)


def nothing(*args):
    raise AssertionError(f"called with {args}")


def code_of(call, *args):
    with pytest.raises(uv.error.TTYError) as caught:
        call(*args)
    return caught.value.args[0]


def flags(fd):
    """What raw mode changes."""
    return termios.tcgetattr(fd)[3] & (termios.ICANON | termios.ECHO)


COOKED = termios.ICANON | termios.ECHO


def test_read_and_write(loop, terminal):
    master, slave = terminal
    tty = uv.TTY(loop, slave, True)
    assert tty.type == uv.UV_TTY and isinstance(tty, uv.Stream)
    assert tty.readable and tty.writable
    got = []

    def on_read(handle, data, error):
        got.append((handle, data, error))
        handle.write(b"answer", lambda handle, error: handle.close())

    tty.start_read(on_read)
    os.write(master, b"typed\n")
    loop.run_checked()
    assert got == [(tty, b"typed\n", None)]
    seen = b""
    while b"answer" not in seen:
        seen += os.read(master, 1000)
    assert seen == b"typed\r\nanswer"


@pytest.mark.parametrize("args", [(), (True,), (False,), (0,)])
def test_readable_makes_no_difference(loop, terminal, args):
    tty = uv.TTY(loop, terminal[1], *args)
    assert tty.readable and tty.writable


def test_one_direction(loop, terminal):
    name = os.ttyname(terminal[1])
    for mode, expected in ((os.O_RDONLY, (True, False)),
                           (os.O_WRONLY, (False, True))):
        fd = os.open(name, mode | os.O_NOCTTY)
        tty = uv.TTY(loop, fd)
        os.close(fd)
        assert (tty.readable, tty.writable) == expected


def test_the_descriptor_stays_the_callers(loop, terminal):
    master, slave = terminal
    fd = os.dup(slave)
    os.set_inheritable(fd, True)
    before = os.fstat(fd)
    tty = uv.TTY(loop, fd)
    assert tty.fileno() not in (fd, slave)
    assert os.get_blocking(fd) and os.get_inheritable(fd)
    assert not os.get_inheritable(tty.fileno())
    tty.close()
    loop.run_checked()
    assert os.fstat(fd) == before
    os.close(fd)


def test_two_on_one_terminal(loop, terminal):
    one, two = uv.TTY(loop, terminal[1]), uv.TTY(loop, terminal[1])
    assert one.fileno() != two.fileno()
    got = []
    one.start_read(lambda handle, data, error: (got.append(data), handle.close()))
    two.write(b"x", lambda handle, error: handle.close())
    os.write(terminal[0], b"y\n")
    loop.run_checked()
    assert got == [b"y\n"]


def test_the_other_side(loop, terminal):
    """The master of a pair cannot be opened again: a duplicate serves."""
    master, slave = terminal
    tty = uv.TTY(loop, master)
    got = []
    tty.start_read(lambda handle, data, error: (got.append(data), handle.close()))
    os.write(slave, b"screen")
    loop.run_checked()
    assert got == [b"screen"]
    os.write(slave, b"more")
    assert os.read(master, 100) == b"more"


def test_hang_up(loop):
    master, slave = pty.openpty()
    tty = uv.TTY(loop, slave)
    os.close(slave)
    got = []
    tty.start_read(lambda handle, data, error: (got.append((data, error)),
                                                handle.close()))
    os.close(master)
    loop.run_checked()
    assert got == [(None, UV.UV_EOF)] or got == [(None, UV.UV_EIO)]


def test_modes(loop, terminal):
    tty = uv.TTY(loop, terminal[1])
    assert tty.mode == uv.UV_TTY_MODE_NORMAL and flags(terminal[1]) == COOKED
    for mode in (uv.UV_TTY_MODE_RAW, uv.UV_TTY_MODE_IO):
        tty.set_mode(mode)
        assert tty.mode == mode and flags(terminal[1]) == 0
        tty.set_mode(mode)
        tty.set_mode(uv.UV_TTY_MODE_NORMAL)
        assert flags(terminal[1]) == COOKED
    tty.set_mode(uv.UV_TTY_MODE_RAW)
    tty.set_mode(uv.UV_TTY_MODE_IO)
    tty.set_mode(uv.UV_TTY_MODE_NORMAL)
    assert flags(terminal[1]) == COOKED


def test_a_key_at_once_in_raw_mode(loop, terminal):
    tty = uv.TTY(loop, terminal[1])
    got = []
    tty.start_read(lambda handle, data, error: (got.append(data), handle.close()))
    tty.set_mode(uv.UV_TTY_MODE_RAW)
    os.write(terminal[0], b"\x03")
    loop.run_checked()
    assert got == [b"\x03"]


@pytest.mark.parametrize("collected", [False, True])
def test_closing_gives_the_mode_back(loop, terminal, collected):
    tty = uv.TTY(loop, terminal[1])
    tty.set_mode(uv.UV_TTY_MODE_RAW)
    assert flags(terminal[1]) == 0
    if collected:
        del tty
        gc.collect()
    else:
        tty.close()
    assert flags(terminal[1]) == COOKED


def test_bad_modes(loop, terminal):
    tty = uv.TTY(loop, terminal[1])
    for bad in (-1, 4, 1 << 40):
        with pytest.raises(ValueError):
            tty.set_mode(bad)
    for bad in ("raw", None, 1.0):
        with pytest.raises(TypeError):
            tty.set_mode(bad)
    assert flags(terminal[1]) == COOKED


def test_reset_mode():
    """One for the process: tried in one of its own."""
    code = """if True:
        import os, pty, termios
        from uvtulip import uv
        master, slave = pty.openpty()
        def canonical():
            return bool(termios.tcgetattr(slave)[3] & termios.ICANON)
        loop = uv.Loop()
        uv.TTY.reset_mode()                 # nothing to do
        tty = uv.TTY(loop, slave, True)
        tty.set_mode(uv.UV_TTY_MODE_RAW)
        print(canonical())
        print(uv.TTY.reset_mode(), tty.reset_mode(), canonical())
        """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True,
                          text=True, timeout=30)
    assert (done.stdout, done.stderr) == ("False\nNone None True\n", "")


def test_winsize(loop, terminal):
    tty = uv.TTY(loop, terminal[1])
    fcntl.ioctl(terminal[1], termios.TIOCSWINSZ, struct.pack("HHHH", 33, 121, 0, 0))
    assert tty.get_winsize() == (121, 33)


def test_vterm_state():
    assert uv.TTY.set_vterm_state(uv.UV_TTY_SUPPORTED) is None
    assert code_of(uv.TTY.get_vterm_state) == UV.UV_ENOTSUP
    with pytest.raises(ValueError):
        uv.TTY.set_vterm_state(2)
    with pytest.raises(TypeError):
        uv.TTY.set_vterm_state("on")


def test_sockets_and_pipes_pass(loop):
    a, b = socket.socketpair()
    with b:
        tty = uv.TTY(loop, a.detach(), True)
        tty.write(b"x", lambda handle, error: handle.close())
        assert code_of(tty.get_winsize) == UV.UV_ENOTTY
        assert code_of(tty.set_mode, uv.UV_TTY_MODE_RAW) == UV.UV_ENOTTY
        loop.run_checked()
        assert b.recv(10) + b.recv(10) == b"x"
    read, write = os.pipe()
    tty = uv.TTY(loop, read, True)
    assert (tty.readable, tty.writable) == (True, False)
    assert code_of(uv.TTY, loop, read) == UV.UV_EEXIST
    os.close(write)


def test_refuses(loop, tmp_path):
    with open(tmp_path / "file", "w") as file:
        assert code_of(uv.TTY, loop, file) == UV.UV_EINVAL
        assert code_of(uv.TTY, loop, file.fileno(), True) == UV.UV_EINVAL
    for name in (os.devnull, "/dev/zero"):
        with open(name, "rb") as file:
            assert code_of(uv.TTY, loop, file) == UV.UV_EINVAL
    fd = os.open(".", os.O_RDONLY)
    assert code_of(uv.TTY, loop, fd) == UV.UV_EINVAL
    os.close(fd)
    assert code_of(uv.TTY, loop, fd) == UV.UV_EBADF
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        assert code_of(uv.TTY, loop, sock) == UV.UV_EPROTOTYPE
    for bad in (None, "0", 1.5):
        with pytest.raises(TypeError):
            uv.TTY(loop, bad, True)
    with pytest.raises(ValueError):
        uv.TTY(loop, -1)
    for args in ((), (loop,), (5, 0)):
        with pytest.raises(TypeError):
            uv.TTY(*args)
    assert loop.handles == []


def test_wrong_states(loop, terminal):
    tty = uv.TTY(loop, terminal[1])
    with pytest.raises(RuntimeError):
        tty.__init__(loop, terminal[1])
    assert code_of(tty.listen, nothing) == UV.UV_EINVAL
    tty.close()
    bare = uv.TTY.__new__(uv.TTY)
    for handle, error in ((tty, uv.error.HandleClosedError), (bare, RuntimeError)):
        for use in (lambda h=handle: h.set_mode(0), handle.get_winsize,
                    lambda h=handle: h.mode, handle.fileno,
                    lambda h=handle: h.write(b"x"),
                    lambda h=handle: h.start_read(nothing)):
            with pytest.raises(error):
                use()


def test_kept_alive_while_reading(loop, terminal):
    got = []
    tty = uv.TTY(loop, terminal[1])
    tty.start_read(lambda handle, data, error: (got.append(data), handle.close()))
    ref = weakref.ref(tty)
    del tty
    gc.collect()
    os.write(terminal[0], b"here\n")
    loop.run_checked()
    gc.collect()
    assert got == [b"here\n"] and ref() is None


def test_no_descriptor_is_left(loop, terminal):
    uv.TTY(loop, terminal[0]).close()   # the first stream opens what libuv keeps
    loop.run_checked()
    before = len(os.listdir("/proc/self/fd"))
    for fd in terminal:
        for _ in range(5):
            uv.TTY(loop, fd).close()
    loop.run_checked()
    assert len(os.listdir("/proc/self/fd")) == before
