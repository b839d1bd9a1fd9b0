"""What a child of Process.spawn() has as descriptors that are ignored or not named."""

import os
import sys

import pytest

from uvtulip import uv

HIGHEST = 20
CODE = f"""
import os
for fd in range({HIGHEST}):
    try:
        name = os.readlink(f"/proc/self/fd/{{fd}}")
    except OSError:
        name = "closed"
    print(name)
"""


@pytest.fixture
def inheritable():
    """Descriptors of this process, of every low number, that a child would inherit."""
    made = set()
    secret = os.open(__file__, os.O_RDONLY)
    for fd in range(3, HIGHEST):
        try:
            os.fstat(fd)
        except OSError:
            os.dup2(secret, fd, inheritable=True)
            made.add(fd)
    os.close(secret)
    yield made
    for fd in made:
        os.close(fd)


def names(loop, stdio, **options):
    """What the child's descriptors are; its 1 is a pipe."""
    pipe, got, ends = uv.Pipe(loop), [], []

    def on_read(handle, data, error):
        if error is None:
            got.append(data)
        else:
            handle.close()

    stdio[1] = uv.StdIO(pipe, flags=uv.UV_CREATE_PIPE | uv.UV_WRITABLE_PIPE)
    before = set(os.listdir("/proc/self/fd"))
    process = uv.Process.spawn(
        loop, [sys.executable, "-I", "-S", "-c", CODE], stdio=stdio,
        exit_callback=lambda process, *end: ends.append(end), **options)
    # The parent has the pipe's end, what it watches the child with, and no more.
    assert len(set(os.listdir("/proc/self/fd")) - before) <= 4
    pipe.start_read(on_read)
    loop.run_checked(30)
    process.close()
    assert ends == [(0, 0)]
    return b"".join(got).decode().splitlines()


@pytest.mark.parametrize("ignored", [lambda: None, lambda: uv.StdIO(),
                                     lambda: uv.StdIO(flags=uv.UV_IGNORE)])
@pytest.mark.parametrize("count", [3, 4, 6, 9, 15])
def test_ignored_is_dev_null(loop, inheritable, ignored, count):
    found = names(loop, [ignored() for _ in range(count)])
    assert found[0] == found[2] == "/dev/null"
    assert found[3:count] == ["/dev/null"] * (count - 3)
    for fd in range(count, HIGHEST):
        assert (found[fd] == __file__) is (fd in inheritable)


def test_ignored_between_others(loop, inheritable, tmp_path):
    (tmp_path / "file").touch()
    with open(tmp_path / "file") as file:
        stdio = [None] * 12
        for fd in (3, 5, 8, 10):
            stdio[fd] = uv.StdIO(fd=file.fileno(), flags=uv.UV_INHERIT_FD)
        found = names(loop, stdio)
    for fd in range(3, 12):
        assert found[fd] == (file.name if fd in (3, 5, 8, 10) else "/dev/null")


def test_ignored_can_be_read_and_written(loop):
    code = ("import os\n"
            "assert os.read(3, 9) == b'' and os.write(3, b'x') == 1\n"
            "assert os.read(4, 9) == b'' and os.write(4, b'x') == 1\n")
    ends = []
    process = uv.Process.spawn(
        loop, [sys.executable, "-I", "-S", "-c", code], stdio=[None] * 5,
        exit_callback=lambda process, *end: ends.append(end))
    loop.run_checked(30)
    process.close()
    assert ends == [(0, 0)]


def test_nothing_is_left_when_it_fails(loop):
    before = len(os.listdir("/proc/self/fd"))
    for args, stdio in [(["/no/such/program"], [None] * 6), (["x"], [None] * 4 + [1])]:
        with pytest.raises((uv.error.ProcessError, TypeError)):
            uv.Process.spawn(loop, args, stdio=stdio)
    loop.run_checked()
    assert len(os.listdir("/proc/self/fd")) <= before + 2
