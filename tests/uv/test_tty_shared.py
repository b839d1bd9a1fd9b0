"""Several uv.TTY of one terminal: it ends in the mode that it began with."""

import itertools
import os
import pty
import subprocess
import sys
import termios

import pytest

from forksupport import in_child
from uvtulip import uv

RAW, IO, NORMAL = uv.UV_TTY_MODE_RAW, uv.UV_TTY_MODE_IO, uv.UV_TTY_MODE_NORMAL


@pytest.fixture
def terminal():
    master, slave = pty.openpty()
    # A mode that is nobody's default, so that only giving it back can bring it.
    odd = termios.tcgetattr(slave)
    odd[3] &= ~termios.ECHO
    odd[6][termios.VERASE] = b"\x05"
    termios.tcsetattr(slave, termios.TCSANOW, odd)
    yield master, slave
    os.close(master)
    os.close(slave)


def mode_of(fd):
    iflag, oflag, cflag, lflag, _, _, chars = termios.tcgetattr(fd)
    return iflag, oflag, cflag, lflag, chars


def kind_of(fd):
    lflag = termios.tcgetattr(fd)[3]
    if lflag & termios.ICANON:
        return NORMAL
    return RAW if termios.tcgetattr(fd)[1] & termios.OPOST else IO


def end(loop, *handles):
    for handle in handles:
        handle.close()
    loop.run()


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("modes", [(RAW, RAW, RAW), (RAW, IO, RAW), (IO, RAW, IO)])
@pytest.mark.parametrize("how", ["close", "normal", "drop"])
def test_any_order(loop, terminal, order, modes, how):
    before = mode_of(terminal[1])
    handles = [uv.TTY(loop, terminal[1]) for _ in range(3)]
    for handle, mode in zip(handles, modes, strict=True):
        handle.set_mode(mode)
        assert handle.mode == mode and kind_of(terminal[1]) == mode
    del handle
    left = [0, 1, 2]
    for number in order:
        left.remove(number)
        if how == "close":
            end(loop, handles[number])
        elif how == "normal":
            handles[number].set_mode(NORMAL)
            assert handles[number].mode == NORMAL
        else:
            handles[number] = None
            loop.run(uv.UV_RUN_NOWAIT)
        if left:
            assert kind_of(terminal[1]) == modes[left[-1]]
    assert mode_of(terminal[1]) == before


def test_across_loops(terminal):
    before = mode_of(terminal[1])
    first, second = uv.Loop(), uv.Loop()
    one, other = uv.TTY(first, terminal[1]), uv.TTY(second, terminal[1])
    one.set_mode(RAW)
    other.set_mode(RAW)
    end(first, one)
    assert kind_of(terminal[1]) == RAW
    first.close()
    end(second, other)
    second.close()
    assert mode_of(terminal[1]) == before


def test_loop_dropped(terminal):
    before = mode_of(terminal[1])
    for _ in range(2):
        loop = uv.Loop()
        uv.TTY(loop, terminal[1]).set_mode(RAW)
        handle = uv.TTY(loop, terminal[1])
        handle.set_mode(IO)
        del loop, handle
    assert mode_of(terminal[1]) == before


def test_both_ends_and_other_terminals(loop, terminal):
    other_master, other = pty.openpty()
    before, others = mode_of(terminal[1]), mode_of(other)
    ours, masters = uv.TTY(loop, terminal[1]), uv.TTY(loop, terminal[0])
    theirs = uv.TTY(loop, other)
    ours.set_mode(RAW)
    masters.set_mode(RAW)
    theirs.set_mode(RAW)
    end(loop, ours, theirs)
    assert kind_of(terminal[1]) == RAW and mode_of(other) == others
    end(loop, masters)
    assert mode_of(terminal[1]) == before
    os.close(other)
    os.close(other_master)


def test_changes_back_and_forth(loop, terminal):
    before = mode_of(terminal[1])
    one, other = uv.TTY(loop, terminal[1]), uv.TTY(loop, terminal[1])
    for _ in range(3):
        one.set_mode(RAW)
        other.set_mode(IO)
        one.set_mode(IO)
        other.set_mode(RAW)
        assert kind_of(terminal[1]) == RAW
        one.set_mode(NORMAL)
        assert kind_of(terminal[1]) == RAW
        one.set_mode(NORMAL)
        other.set_mode(NORMAL)
        assert mode_of(terminal[1]) == before
    end(loop, one, other)
    assert mode_of(terminal[1]) == before


def test_reset_mode(loop, terminal):
    other_master, other = pty.openpty()
    before, others = mode_of(terminal[1]), mode_of(other)
    handles = [uv.TTY(loop, fd) for fd in (terminal[1], other, terminal[1])]
    for handle in handles:
        handle.set_mode(RAW)
    uv.TTY.reset_mode()
    assert mode_of(terminal[1]) == before and mode_of(other) == others
    handles[0].set_mode(RAW)
    assert kind_of(terminal[1]) == RAW
    end(loop, handles[1])
    uv.TTY.reset_mode()
    assert mode_of(terminal[1]) == before
    end(loop, handles[0], handles[2])
    uv.TTY.reset_mode()
    assert mode_of(terminal[1]) == before
    os.close(other)
    os.close(other_master)


def test_descriptors_are_given_back(loop, terminal):
    end(loop, uv.TTY(loop, terminal[1]))
    count = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        one, other = uv.TTY(loop, terminal[1]), uv.TTY(loop, terminal[1])
        one.set_mode(RAW)
        other.set_mode(RAW)
        end(loop, one, other)
    assert len(os.listdir("/proc/self/fd")) == count


ENDS = {
    "kept": "",
    "exit": "sys.exit(3)",
    "exception": "raise KeyError",
    "ctrl-c": "signal.raise_signal(signal.SIGINT)",
    "dropped": "del loop, one, other",
    "one closed": "one.close(); loop.run()",
    "loop closed by itself": "loop.close = None",
    "in a handler": "import atexit; atexit.register(lambda: one.set_mode(2))",
}


@pytest.mark.parametrize("how", ENDS)
def test_at_the_end_of_the_program(terminal, how):
    before = mode_of(terminal[1])
    code = f"""
import os, signal, sys
from uvtulip import uv
loop = uv.Loop()
one, other = uv.TTY(loop, 0), uv.TTY(loop, 0)
one.set_mode(uv.UV_TTY_MODE_RAW)
other.set_mode(uv.UV_TTY_MODE_RAW)
{ENDS[how]}
"""
    subprocess.run([sys.executable, "-c", code], stdin=terminal[1], timeout=30,
                   stderr=subprocess.DEVNULL, start_new_session=True)
    assert mode_of(terminal[1]) == before


@pytest.mark.parametrize("adopt", [False, True])
def test_a_forked_child_leaves_it_to_its_parent(terminal, adopt):
    before, loop = mode_of(terminal[1]), uv.Loop()
    handle = uv.TTY(loop, terminal[1])
    handle.set_mode(RAW)

    def child():
        if adopt:
            loop.fork()
            handle.close()
            loop.run()
            loop.close()
        uv.TTY.reset_mode()

    in_child(child)
    assert kind_of(terminal[1]) == RAW
    end(loop, handle)
    loop.close()
    assert mode_of(terminal[1]) == before


def test_a_forked_child_has_its_own(terminal):
    def child():
        before, loop = mode_of(terminal[1]), uv.Loop()
        handle = uv.TTY(loop, terminal[1])
        handle.set_mode(RAW)
        assert kind_of(terminal[1]) == RAW
        end(loop, handle)
        assert mode_of(terminal[1]) == before

    in_child(child)


def test_errors_change_nothing(loop, terminal):
    before = mode_of(terminal[1])
    read, write = os.pipe()
    handle = uv.TTY(loop, read)
    with pytest.raises(uv.error.TTYError):
        handle.set_mode(RAW)
    assert handle.mode == NORMAL
    handle.set_mode(NORMAL)
    end(loop, handle)
    os.close(write)
    assert mode_of(terminal[1]) == before
