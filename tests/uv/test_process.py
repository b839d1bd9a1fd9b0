"""uv.Process and uv.StdIO against real children; kill()."""

import errno
import gc
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref

import pytest

from uvtulip import uv

UV = uv.errno
SH = "/bin/sh"


def script(text):
    return [SH, "-c", text]


def spawn(loop, args, **options):
    ends = []
    options.setdefault("exit_callback", lambda *end: ends.append(end))
    process = uv.Process.spawn(loop, args, **options)
    process.ends = ends
    return process


def output(loop, args, **options):
    """What a child writes to its stdout, when it has ended well."""
    pipe = uv.Pipe(loop)
    got = []

    def on_read(handle, data, error):
        if error is None:
            got.append(data)
        else:
            assert error == UV.UV_EOF
            handle.close()

    stdio = [None, uv.StdIO(pipe, flags=uv.UV_CREATE_PIPE | uv.UV_WRITABLE_PIPE),
             uv.StdIO(fd=2, flags=uv.UV_INHERIT_FD)]
    process = spawn(loop, args, stdio=stdio, **options)
    pipe.start_read(on_read)
    loop.run_checked(30)
    assert process.exit_status == 0 and process.term_signal == 0
    process.close()
    return b"".join(got)


def code_of(call, *args, **kwargs):
    with pytest.raises(uv.error.ProcessError) as caught:
        call(*args, **kwargs)
    return caught.value.args[0]


# ---- start and end ----


@pytest.mark.parametrize("code", [0, 1, 7, 255])
def test_exit_status(loop, code):
    process = spawn(loop, script(f"exit {code}"))
    assert type(process) is uv.Process and process.loop is loop
    assert process.active and process.type == uv.UV_PROCESS
    assert process.pid > 0 and process.pid != os.getpid()
    assert process.exit_status is None and process.term_signal is None
    assert process.ends == []
    loop.run_checked()
    assert process.ends == [(process, code, 0)]
    assert (process.exit_status, process.term_signal) == (code, 0)
    assert not process.active and not process.closed
    assert process.pid > 0
    process.close()
    loop.run_checked()
    assert process.exit_status == code


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_kill(loop, signum):
    process = spawn(loop, ["sleep", "60"])
    process.kill(0)
    process.kill(signum)
    loop.run_checked()
    assert process.ends == [(process, 0, signum)]
    assert code_of(process.kill, signum) == UV.UV_ESRCH
    for bad in ("9", None, 1.5):
        with pytest.raises(TypeError):
            process.kill(bad)


def test_kill_with_no_such_signal(loop):
    process = spawn(loop, ["sleep", "60"])
    for bad in (-1, 1000):
        assert code_of(process.kill, bad) == UV.UV_EINVAL
    process.kill(signal.SIGKILL)
    loop.run_checked()


@pytest.mark.parametrize("callback", [{}, {"exit_callback": None}])
def test_without_exit_callback(loop, callback):
    process = uv.Process.spawn(loop, script("exit 3"), **callback)
    loop.run_checked()
    assert process.exit_status == 3


def test_kept_alive_while_it_runs(loop):
    seen = []
    process = uv.Process.spawn(loop, script("exit 4"),
                               exit_callback=lambda *end: seen.append(end[1:]))
    ref = weakref.ref(process)
    del process
    gc.collect()
    assert ref() is not None
    loop.run_checked()
    gc.collect()
    assert seen == [(4, 0)] and ref() is None


def test_close_before_the_end(loop):
    """No exit callback, and the loop waits for it no more."""
    process = spawn(loop, ["sleep", "60"])
    pid = process.pid
    closed = []
    process.close(closed.append)
    loop.run_checked()
    assert closed == [process] and process.ends == []
    assert process.exit_status is None and process.pid == pid
    with pytest.raises(uv.error.HandleClosedError):
        process.kill(9)
    uv.kill(pid, signal.SIGKILL)
    assert os.waitpid(pid, 0) == (pid, signal.SIGKILL)


def test_many_that_end_together(loop):
    ends = []
    processes = [spawn(loop, script(f"exit {i}"),
                       exit_callback=lambda *end: ends.append(end)) for i in range(20)]
    time.sleep(0.2)
    loop.run_checked()
    assert sorted(end[1] for end in ends) == list(range(20))
    assert all(process.exit_status == status for process, status, _ in ends)
    assert {id(end[0]) for end in ends} == set(map(id, processes))


def test_exit_callback_that_closes_the_others(loop):
    """All have ended at once; those that are closed do not hear of it."""
    ends = []

    def on_exit(process, status, signum):
        ends.append(process)
        for other in processes:
            if not other.closed:
                other.close()

    processes = [uv.Process.spawn(loop, script("exit 1"), exit_callback=on_exit)
                 for _ in range(5)]
    time.sleep(0.3)
    loop.run_checked()
    assert len(ends) == 1 and loop.handles == []


def test_exit_callback_that_raises(loop):
    def on_exit(process, status, signum):
        process.close()
        raise ZeroDivisionError

    for _ in range(3):
        uv.Process.spawn(loop, script("exit 1"), exit_callback=on_exit)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            loop.run_checked()
    loop.run_checked()


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_exit_callback_that_ends_the_run(error):
    loop = uv.Loop()

    def on_exit(process, status, signum):
        process.close()
        raise error

    uv.Process.spawn(loop, ["true"], exit_callback=on_exit)
    with pytest.raises(error):
        loop.run()
    loop.run()
    loop.close()


def test_exit_callback_that_spawns(loop):
    statuses = []

    def on_exit(process, status, signum):
        statuses.append(status)
        process.close()
        if status < 4:
            uv.Process.spawn(loop, script(f"exit {status + 1}"),
                             exit_callback=on_exit)

    uv.Process.spawn(loop, script("exit 1"), exit_callback=on_exit)
    loop.run_checked()
    assert statuses == [1, 2, 3, 4]


def test_run_once_hears_of_the_end(loop):
    process = spawn(loop, ["true"])
    for _ in range(20):
        if process.ends:
            break
        loop.run(uv.UV_RUN_ONCE)
    assert process.ends == [(process, 0, 0)]


# ---- other waiters in the process ----


def test_other_children_are_left_alone(loop):
    other = subprocess.Popen(script("exit 9"))
    forked = os.fork()
    if forked == 0:
        os._exit(8)
    process = spawn(loop, script("exit 7"))
    loop.run_checked()
    assert process.exit_status == 7
    assert other.wait(10) == 9
    assert os.waitpid(forked, 0) == (forked, 8 << 8)


def test_somebody_else_waits_for_it(loop):
    """The end is known, the status is not; and the loop does not hang."""
    process = spawn(loop, ["true"])
    assert os.waitpid(process.pid, 0) == (process.pid, 0)
    loop.run_checked()
    assert process.ends == [(process, -errno.ECHILD, 0)]
    assert not process.active and process.exit_status == -errno.ECHILD
    assert code_of(process.kill, 0) == UV.UV_ESRCH
    # Another child's end does not touch it again.
    second = spawn(loop, script("exit 2"))
    loop.run_checked()
    assert second.exit_status == 2 and len(process.ends) == 1
    process.close()
    second.close()
    loop.run_checked()


def test_a_thread_that_waits_for_everything(loop):
    stop = threading.Event()

    def reap():
        while not stop.is_set():
            try:
                os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                pass
            time.sleep(0.001)

    thread = threading.Thread(target=reap)
    thread.start()
    try:
        processes = [spawn(loop, ["true"]) for _ in range(10)]
        loop.run_checked()
        statuses = {process.exit_status for process in processes}
        assert statuses <= {0, -errno.ECHILD}
    finally:
        stop.set()
        thread.join(30)


def test_python_handles_sigchld_again_afterwards(loop):
    seen = []
    before = signal.signal(signal.SIGCHLD, lambda *args: seen.append(args))
    try:
        for close in (False, True):
            process = spawn(loop, ["true"])
            if close:
                process.close()
            loop.run_checked()
        # Its handler was there all the time, and still is.
        seen.clear()
        subprocess.run(["true"], check=True)
        assert len(seen) >= 1
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_in_a_thread():
    """A loop of another thread than the main one has children, too."""
    result = []

    def work():
        loop = uv.Loop()
        process = uv.Process.spawn(loop, script("exit 6"))
        loop.run()
        result.append(process.exit_status)
        process.close()
        loop.run()
        loop.close()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert result == [6] * 4


def test_other_threads_run_while_it_forks():
    """They run, but may not touch the loop meanwhile."""
    loop = uv.Loop()
    count = 0
    done = threading.Event()

    def work():
        nonlocal count
        while not done.is_set():
            count += 1
            time.sleep(0)       # gives the interpreter away

    thread = threading.Thread(target=work)
    thread.start()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(100)
    try:
        while count == 0:
            time.sleep(0.001)
        begin = count
        process = uv.Process.spawn(loop, ["true"])
        assert count > begin
    finally:
        sys.setswitchinterval(interval)
        done.set()
        thread.join(30)
    loop.run()
    process.close()
    loop.run()
    loop.close()


# ---- arguments ----


def test_args_of_all_kinds(loop):
    text = "import sys; sys.stdout.write(repr(sys.argv[1:]))"
    args = [sys.executable, "-S", "-c", text, "str", b"bytes\xff",
            pathlib.Path("path"), "é", ""]
    assert output(loop, args) == repr(["str", "bytes\udcff", "path", "é", ""]).encode()
    assert output(loop, tuple(args)) != b""


@pytest.mark.parametrize("args", ["true", b"true", ("true",)])
def test_a_single_argument(loop, args):
    process = spawn(loop, args)
    loop.run_checked()
    assert process.exit_status == 0


@pytest.mark.parametrize("executable", [SH, SH.encode(), pathlib.Path(SH)])
def test_executable(loop, executable):
    args = ["myname", "-c", "echo $0"]
    assert output(loop, args, executable=executable) == b"myname\n"


def test_env(loop):
    env = {"A": "1", b"B": b"\xff", "C": pathlib.Path("p")}
    lines = output(loop, ["/usr/bin/env"], env=env).splitlines()
    assert sorted(lines) == [b"A=1", b"B=\xff", b"C=p"]


def test_env_none_and_empty(loop, monkeypatch):
    monkeypatch.setenv("UVTULIP_TEST", "inherited")
    assert b"UVTULIP_TEST=inherited" in output(loop, ["/usr/bin/env"], env=None)
    assert b"UVTULIP_TEST=inherited" in output(loop, ["/usr/bin/env"])
    assert b"UVTULIP_TEST=inherited" in output(loop, ["/usr/bin/env"], env=os.environ)
    assert output(loop, ["/usr/bin/env"], env={}) == b""


@pytest.mark.parametrize("kind", [str, os.fsencode, pathlib.Path])
def test_cwd(loop, tmp_path, kind):
    found = output(loop, ["/bin/pwd"], cwd=kind(str(tmp_path)))
    assert os.path.realpath(found.decode().strip()) == os.path.realpath(tmp_path)


def test_detached(loop):
    text = "import os; print(os.getsid(0) == os.getpid())"
    python = [sys.executable, "-S", "-c", text]
    assert output(loop, python) == b"False\n"
    assert output(loop, python, flags=uv.UV_PROCESS_DETACHED) == b"True\n"


@pytest.mark.skipif(os.getuid() != 0, reason="changes the user")
def test_uid_and_gid(loop):
    text = "id -u; id -g"
    flags = uv.UV_PROCESS_SETUID | uv.UV_PROCESS_SETGID
    assert output(loop, script(text), uid=65534, gid=65533, flags=flags) == (
        b"65534\n65533\n")
    assert output(loop, script(text), uid=65534) == (
        f"{os.getuid()}\n{os.getgid()}\n".encode())


@pytest.mark.parametrize("options, code", [
    ({"args": ["/no/such/program"]}, "UV_ENOENT"),
    ({"args": ["no-such-program-in-the-path"]}, "UV_ENOENT"),
    ({"args": ["/etc/passwd"]}, "UV_EACCES"),
    ({"args": ["true"], "cwd": "/no/such/folder"}, "UV_ENOENT"),
    ({"args": ["true"], "env": {"PATH": "/nowhere"}}, "UV_ENOENT"),
    ({"args": ["true"], "stdio": [uv.StdIO(fd=987654, flags=uv.UV_INHERIT_FD)]},
     "UV_EBADF"),
])
def test_spawn_fails(loop, options, code):
    assert code_of(uv.Process.spawn, loop, **options) == getattr(UV, code)
    loop.run_checked()
    assert loop.handles == [] and not loop.alive


@pytest.mark.parametrize("options, error", [
    ({}, TypeError),
    ({"args": None}, TypeError),
    ({"args": 5}, TypeError),
    ({"args": [5]}, TypeError),
    ({"args": ["a", None]}, TypeError),
    ({"args": []}, ValueError),
    ({"args": ["a\0b"]}, ValueError),
    ({"args": b"a\0b"}, ValueError),
    ({"args": ["true"], "executable": 5}, TypeError),
    ({"args": ["true"], "executable": "a\0"}, ValueError),
    ({"args": ["true"], "env": 5}, TypeError),
    ({"args": ["true"], "env": [("A", "B")]}, TypeError),
    ({"args": ["true"], "env": "A=B"}, TypeError),
    ({"args": ["true"], "env": {"A": 5}}, TypeError),
    ({"args": ["true"], "env": {5: "A"}}, TypeError),
    ({"args": ["true"], "env": {"": "A"}}, ValueError),
    ({"args": ["true"], "env": {"A=B": "C"}}, ValueError),
    ({"args": ["true"], "env": {"A": "\0"}}, ValueError),
    ({"args": ["true"], "env": {"A\0": "B"}}, ValueError),
    ({"args": ["true"], "cwd": 5}, TypeError),
    ({"args": ["true"], "cwd": "\0"}, ValueError),
    ({"args": ["true"], "uid": "root"}, TypeError),
    ({"args": ["true"], "uid": -1}, ValueError),
    ({"args": ["true"], "gid": 1 << 32}, ValueError),
    ({"args": ["true"], "gid": (1 << 32) - 1}, ValueError),
    ({"args": ["true"], "flags": "x"}, TypeError),
    ({"args": ["true"], "flags": -1}, ValueError),
    ({"args": ["true"], "flags": 1 << 20}, ValueError),
    ({"args": ["true"], "stdio": 5}, TypeError),
    ({"args": ["true"], "stdio": [5]}, TypeError),
    ({"args": ["true"], "exit_callback": 5}, TypeError),
    ({"args": ["true"], "unknown": 5}, TypeError),
])
def test_bad_arguments(loop, options, error):
    with pytest.raises(error, match="spawn"):
        uv.Process.spawn(loop, **options)
    assert loop.handles == []


def test_objects_that_raise(loop):
    class Path:
        def __fspath__(self):
            raise ZeroDivisionError

    class Mapping:
        def items(self):
            raise ZeroDivisionError

        def __getitem__(self, name):
            raise ZeroDivisionError

    class Sequence:
        def __len__(self):
            return 1

        def __getitem__(self, i):
            raise ZeroDivisionError

    for options in ({"args": [Path()]}, {"args": Sequence()},
                    {"args": ["true"], "env": Mapping()},
                    {"args": ["true"], "cwd": Path()},
                    {"args": ["true"], "stdio": Sequence()}):
        with pytest.raises(ZeroDivisionError):
            uv.Process.spawn(loop, **options)
    assert loop.handles == []


def test_arguments_that_close_the_loop():
    loop = uv.Loop()

    class Path:
        def __fspath__(self):
            loop.close()
            return "true"

    with pytest.raises(RuntimeError):
        uv.Process.spawn(loop, [Path()])


def test_wrong_loop():
    for bad in (None, 5):
        with pytest.raises(TypeError):
            uv.Process.spawn(bad, ["true"])
    with pytest.raises(TypeError):
        uv.Process.spawn()
    loop = uv.Loop()
    loop.close()
    with pytest.raises(RuntimeError):
        uv.Process.spawn(loop, ["true"])


# ---- the class ----


def test_constructor_does_nothing(loop):
    """As pyuv's, it takes anything."""
    for process in (uv.Process(), uv.Process(loop), uv.Process(1, a=2)):
        assert process.pid is None and process.exit_status is None
        assert process.term_signal is None
        for call in (process.close, lambda p=process: p.kill(0)):
            with pytest.raises(RuntimeError):
                call()
    assert loop.handles == []


def test_subclass(loop):
    class Child(uv.Process):
        def __init__(self, loop):
            self.note = "made"

    child = Child.spawn(loop, ["true"])
    assert type(child) is Child and child.note == "made"
    loop.run_checked()

    class Bad(uv.Process):
        def __new__(cls, *args):
            return 5

    class Again(uv.Process):
        def __new__(cls, *args):
            return child

    for cls in (Bad, Again):
        with pytest.raises(TypeError, match="fresh Process"):
            cls.spawn(loop, ["true"])


# ---- stdio ----


def test_stdin_and_stdout(loop):
    to, back = uv.Pipe(loop), uv.Pipe(loop)
    stdio = [uv.StdIO(stream=to, flags=uv.UV_CREATE_PIPE | uv.UV_READABLE_PIPE),
             uv.StdIO(stream=back, flags=uv.UV_CREATE_PIPE | uv.UV_WRITABLE_PIPE)]
    process = spawn(loop, ["tr", "a-z", "A-Z"], stdio=stdio)
    assert (to.readable, to.writable) == (False, True)
    assert (back.readable, back.writable) == (True, False)
    got = []

    def on_read(handle, data, error):
        if error is None:
            got.append(data)
        else:
            handle.close()

    back.start_read(on_read)
    to.write(b"hello", lambda handle, error: handle.close())
    loop.run_checked()
    assert b"".join(got) == b"HELLO" and process.exit_status == 0


def test_one_pipe_in_both_directions(loop):
    pipe = uv.Pipe(loop)
    both = uv.UV_CREATE_PIPE | uv.UV_READABLE_PIPE | uv.UV_WRITABLE_PIPE
    spawn(loop, script("read x <&3; echo $x$x >&3"),
          stdio=[None, None, None, uv.StdIO(pipe, flags=both)])
    got = []

    def on_read(handle, data, error):
        if error is None:
            got.append(data)
        else:
            handle.close()

    pipe.start_read(on_read)
    pipe.write(b"ab\n")
    loop.run_checked()
    assert b"".join(got) == b"abab\n"


def test_descriptors_of_its_own(loop, tmp_path):
    with open(tmp_path / "out", "wb") as file:
        stdio = [uv.StdIO(), uv.StdIO(fd=file, flags=uv.UV_INHERIT_FD),
                 uv.StdIO(fd=file.fileno(), flags=uv.UV_INHERIT_FD)]
        process = spawn(loop, script("echo out; echo err >&2; cat"), stdio=stdio)
        loop.run_checked()
    assert process.exit_status == 0
    assert (tmp_path / "out").read_bytes() == b"out\nerr\n"


def test_inherited_stream(loop):
    a, b = socket.socketpair()
    pipe = uv.Pipe(loop)
    pipe.open(a.detach())
    with b:
        process = spawn(loop, script("echo through"), stdio=[
            None, uv.StdIO(pipe, flags=uv.UV_INHERIT_STREAM)])
        loop.run_checked()
        assert process.exit_status == 0
        assert b.recv(100) == b"through\n"
    pipe.close()


def test_without_stdio_all_is_null(loop):
    text = "import os; print([os.path.realpath(f'/proc/self/fd/{i}') for i in (0, 2)])"
    python = [sys.executable, "-S", "-c", text]
    pipe_out = output(loop, python)
    assert pipe_out.startswith(b"['/dev/null', ")
    process = spawn(loop, script("test $(readlink /proc/self/fd/1) && exit 5; exit 6"))
    loop.run_checked()
    assert process.exit_status in (5, 6)


def test_stdio_streams_that_cannot_be_used(loop):
    create = uv.UV_CREATE_PIPE | uv.UV_WRITABLE_PIPE
    other = uv.Loop()
    a, b = socket.socketpair()
    used, foreign, fresh, closed = (uv.Pipe(loop), uv.Pipe(other), uv.Pipe(loop),
                                    uv.Pipe(loop))
    used.open(a.detach())
    closed.close()
    with b:
        for stdio, error in (
            ([uv.StdIO(used, flags=create)], ValueError),
            ([uv.StdIO(foreign, flags=create)], ValueError),
            ([uv.StdIO(fresh, flags=create)] * 2, ValueError),
            ([uv.StdIO(fresh, flags=uv.UV_INHERIT_STREAM)], ValueError),
            ([uv.StdIO(closed, flags=create)], uv.error.HandleClosedError),
            ([uv.StdIO(closed, flags=uv.UV_INHERIT_STREAM)],
             uv.error.HandleClosedError),
            ([uv.StdIO(uv.Pipe.__new__(uv.Pipe), flags=create)], RuntimeError),
        ):
            with pytest.raises(error):
                uv.Process.spawn(loop, ["true"], stdio=stdio)
        assert not [h for h in loop.handles if isinstance(h, uv.Process)]
        foreign.close()
        other.run()
        other.close()


def test_stdio_attributes(loop):
    pipe = uv.Pipe(loop)
    stdio = uv.StdIO(pipe, flags=uv.UV_CREATE_PIPE)
    assert (stdio.stream, stdio.fd, stdio.flags) == (pipe, -1, uv.UV_CREATE_PIPE)
    plain = uv.StdIO()
    assert (plain.stream, plain.fd, plain.flags) == (None, -1, uv.UV_IGNORE)
    inherited = uv.StdIO(None, 5, uv.UV_INHERIT_FD)
    assert (inherited.stream, inherited.fd) == (None, 5)
    for name in ("stream", "fd", "flags"):
        with pytest.raises(AttributeError):
            setattr(stdio, name, None)
    with pytest.raises(TypeError):
        type("Sub", (uv.StdIO,), {})


@pytest.mark.parametrize("make, error", [
    (lambda p: uv.StdIO(p, 1, uv.UV_CREATE_PIPE), ValueError),
    (lambda p: uv.StdIO(p), ValueError),
    (lambda p: uv.StdIO(p, flags=uv.UV_INHERIT_FD), ValueError),
    (lambda p: uv.StdIO(fd=1), ValueError),
    (lambda p: uv.StdIO(fd=1, flags=uv.UV_CREATE_PIPE), ValueError),
    (lambda p: uv.StdIO(flags=uv.UV_CREATE_PIPE), ValueError),
    (lambda p: uv.StdIO(flags=uv.UV_INHERIT_FD), ValueError),
    (lambda p: uv.StdIO(flags=uv.UV_WRITABLE_PIPE), ValueError),
    (lambda p: uv.StdIO(p, flags=uv.UV_CREATE_PIPE | uv.UV_INHERIT_STREAM), ValueError),
    (lambda p: uv.StdIO(p, flags=uv.UV_CREATE_PIPE | 1 << 10), ValueError),
    (lambda p: uv.StdIO(flags=-1), ValueError),
    (lambda p: uv.StdIO(fd=-2), ValueError),
    (lambda p: uv.StdIO(fd="1", flags=uv.UV_INHERIT_FD), TypeError),
    (lambda p: uv.StdIO(flags="1"), TypeError),
    (lambda p: uv.StdIO(5, flags=uv.UV_CREATE_PIPE), TypeError),
    (lambda p: uv.StdIO(uv.TCP(p.loop), flags=uv.UV_CREATE_PIPE), TypeError),
    (lambda p: uv.StdIO(uv.UDP(p.loop), flags=uv.UV_INHERIT_STREAM), TypeError),
    (lambda p: uv.StdIO(stream=p, flag=1), TypeError),
])
def test_bad_stdio(loop, make, error):
    with pytest.raises(error):
        make(uv.Pipe(loop))


# ---- descriptors ----


def test_no_descriptor_is_left(loop):
    output(loop, ["true"])
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        output(loop, ["echo", "x"])
        with pytest.raises(uv.error.ProcessError):
            output(loop, ["/no/such/program"])
        for handle in loop.handles:
            if not handle.closed:
                handle.close()
        loop.run_checked()
    assert len(os.listdir("/proc/self/fd")) == before


def test_descriptors_that_the_child_gets(loop):
    # Only what is open still after the listing: not the listing's own descriptor.
    text = """if True:
        import os
        fds = os.listdir('/proc/self/fd')
        print([int(fd) for fd in fds if os.path.exists(f'/proc/self/fd/{fd}')])
    """
    read, write = os.pipe()

    def given():
        return set(map(int, output(loop, [sys.executable, "-S", "-c", text])
                       .strip(b"[]\n").split(b",")))

    try:
        before = given()        # what the test runner lets through is among it
        assert {0, 1, 2} <= before and not {read, write} & before
        os.set_inheritable(read, True)
        assert given() - before == {read}
    finally:
        os.close(read)
        os.close(write)


def test_disable_stdio_inheritance():
    code = """if True:
        import os
        from uvtulip import uv
        os.dup2(0, 3, inheritable=True)
        uv.Process.disable_stdio_inheritance()
        print([os.get_inheritable(fd) for fd in range(4)])
        """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True,
                          text=True, timeout=30)
    assert done.stdout == f"{[False] * 4}\n", done.stderr


def test_loop_dropped_with_a_child_that_runs():
    def drop():
        loop = uv.Loop()
        process = uv.Process.spawn(loop, ["sleep", "60"],
                                   exit_callback=lambda *end: loop.stop())
        return process.pid, weakref.ref(loop)

    pid, ref = drop()
    gc.collect()
    assert ref() is None
    uv.kill(pid, signal.SIGKILL)
    assert os.waitpid(pid, 0)[0] == pid


# ---- kill() ----


def test_module_kill():
    child = subprocess.Popen(["sleep", "60"])
    assert uv.kill(child.pid, 0) is None
    uv.kill(child.pid, signal.SIGTERM)
    assert child.wait(30) == -signal.SIGTERM
    for args, code in (((child.pid, 0), UV.UV_ESRCH),
                       ((os.getpid(), 999), UV.UV_EINVAL)):
        with pytest.raises(uv.error.UVError) as caught:
            uv.kill(*args)
        assert caught.value.args[0] == code
    for args in ((), (1,), ("1", 0), (1, "0"), (1, 0, 0)):
        with pytest.raises(TypeError):
            uv.kill(*args)
    with pytest.raises(ValueError):
        uv.kill(1 << 40, 0)
