"""subprocess_exec() and subprocess_shell(): arguments, pipes, what the child gets."""

import asyncio
import asyncio.subprocess
import contextvars
import inspect
import os
import pathlib
import resource
import signal
import subprocess
import sys

import pytest

import uvtulip
from aiosupport import open_descriptors, run, until

PIPE = subprocess.PIPE
DEVNULL = subprocess.DEVNULL
STDOUT = subprocess.STDOUT


async def python(source, *args, **kwargs):
    """Run Python source in a child; (return code, stdout)."""
    kwargs.setdefault("stdout", PIPE)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", source, *args, **kwargs
    )
    out, _ = await process.communicate()
    return process.returncode, out


async def shell(command, **kwargs):
    kwargs.setdefault("stdout", PIPE)
    process = await asyncio.create_subprocess_shell(command, **kwargs)
    out, _ = await process.communicate()
    return process.returncode, out


class Recorder(asyncio.SubprocessProtocol):
    """Remembers the calls, in their order."""

    def __init__(self):
        self.calls = []
        self.transport = None
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport
        self.calls.append("connection_made")

    def pipe_data_received(self, fd, data):
        self.calls.append(("pipe_data_received", fd, data))

    def pipe_connection_lost(self, fd, exc):
        self.calls.append(("pipe_connection_lost", fd, exc))

    def process_exited(self):
        self.calls.append("process_exited")

    def connection_lost(self, exc):
        self.calls.append(("connection_lost", exc))
        self.lost.set_result(None)


# ---- programs ----


def test_cat_gives_back_what_it_is_sent():
    data = os.urandom(1_000_000)

    async def main():
        process = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
        out, err = await process.communicate(data)
        assert (out, err, process.returncode) == (data, None, 0)

    run(main())


def test_a_conversation_line_by_line():
    async def main():
        process = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
        for i in range(50):
            process.stdin.write(b"%d\n" % i)
            await process.stdin.drain()
            assert await process.stdout.readline() == b"%d\n" % i
        process.stdin.close()
        assert await process.stdout.read() == b""
        assert await process.wait() == 0

    run(main())


def test_shell_with_all_three_pipes():
    async def main():
        process = await asyncio.create_subprocess_shell(
            "read line; echo out $line; echo err $line >&2; exit 7",
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
        )
        assert await process.communicate(b"x\n") == (b"out x\n", b"err x\n")
        assert process.returncode == 7

    run(main())


def test_many_at_once():
    async def main():
        results = await asyncio.gather(
            *(shell(f"echo {i}; exit {i}") for i in range(20))
        )
        assert results == [(i, b"%d\n" % i) for i in range(20)]

    run(main())


def test_much_output_is_read_to_the_end():
    """More than fits into the pipe, still unread when the child has ended."""

    async def main():
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", "print('x' * 3_000_000)", stdout=PIPE
        )
        await asyncio.sleep(0.05)
        got = bytearray()
        while chunk := await process.stdout.read(10_000):
            got += chunk
        assert len(got) == 3_000_001
        assert await process.wait() == 0

    run(main())


def test_killed_by_a_signal():
    async def main():
        for send, sig in (
            (lambda p: p.kill(), signal.SIGKILL),
            (lambda p: p.terminate(), signal.SIGTERM),
            (lambda p: p.send_signal(signal.SIGHUP), signal.SIGHUP),
        ):
            process = await asyncio.create_subprocess_exec("sleep", "100")
            send(process)
            assert await process.wait() == -sig
            assert process.returncode == -sig

    run(main())


# ---- stdio ----


def test_pipes_are_real_ones():
    """So a child can open /dev/stdin and /dev/stdout, as shell scripts do."""
    source = """
import os, stat
for fd in range(3):
    assert stat.S_ISFIFO(os.fstat(fd).st_mode), fd
with open("/dev/stdin", "rb") as f, open("/dev/stdout", "wb") as g:
    g.write(f.read())
with open("/dev/stderr", "w") as g:
    g.write("complaint")
"""

    async def main():
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", source, stdin=PIPE, stdout=PIPE, stderr=PIPE
        )
        assert await process.communicate(b"abc") == (b"abc", b"complaint")
        assert process.returncode == 0
        process = await asyncio.create_subprocess_exec(
            "cat", "/dev/stdin", stdin=PIPE, stdout=PIPE
        )
        assert await process.communicate(b"abc") == (b"abc", None)

    run(main())


def test_the_childs_descriptors_are_blocking():
    source = """
import os, sys
sys.stdout.write(str([os.get_blocking(fd) for fd in range(3)]))
"""

    async def main():
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", source, stdin=PIPE, stdout=PIPE, stderr=PIPE
        )
        out, err = await process.communicate()
        assert (out, err) == (b"[True, True, True]", b"")

    run(main())


def test_devnull():
    async def main():
        process = await asyncio.create_subprocess_exec(
            "cat", stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL
        )
        assert process.stdin is None and process.stderr is None
        assert await process.communicate() == (b"", None)

    run(main())


def test_stderr_to_stdout():
    async def main():
        code, out = await shell("echo one; echo two >&2", stderr=STDOUT)
        assert (code, out) == (0, b"one\ntwo\n")

    run(main())


def test_files_and_descriptors(tmp_path):
    source = tmp_path / "in"
    source.write_bytes(b"from a file")
    target = tmp_path / "out"

    async def main():
        with open(source, "rb") as stdin, open(target, "wb") as stdout:
            process = await asyncio.create_subprocess_exec(
                "cat", stdin=stdin, stdout=stdout.fileno()
            )
            assert (process.stdin, process.stdout) == (None, None)
            assert await process.wait() == 0

    run(main())
    assert target.read_bytes() == b"from a file"


def test_none_inherits(tmp_path):
    async def main():
        with open(tmp_path / "out", "wb") as stream:
            saved = os.dup(1)
            os.dup2(stream.fileno(), 1)
            try:
                process = await asyncio.create_subprocess_exec("echo", "inherited")
                assert await process.wait() == 0
            finally:
                os.dup2(saved, 1)
                os.close(saved)

    run(main())
    assert (tmp_path / "out").read_bytes() == b"inherited\n"


def test_loop_method_makes_three_pipes_by_default():
    async def main():
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.subprocess_exec(Recorder, "cat")
        assert all(transport.get_pipe_transport(fd) for fd in range(3))
        assert transport.get_pipe_transport(3) is None
        transport.get_pipe_transport(0).close()
        await protocol.lost
        transport.close()

    run(main())


def test_nothing_else_is_inherited():
    async def main():
        reading, writing = os.pipe()
        os.set_inheritable(writing, True)
        try:
            code, out = await shell("ls -1 /proc/$$/fd", stdin=DEVNULL, stderr=DEVNULL)
            assert code == 0
            assert writing not in {int(n) for n in out.split()}
            assert {int(n) for n in out.split()} <= set(range(writing))
        finally:
            os.close(reading)
            os.close(writing)

    run(main())


# ---- writing to a child that does not read ----


def test_lost_stdin_does_not_raise_out_of_communicate():
    async def main():
        process = await asyncio.create_subprocess_exec("true", stdin=PIPE)
        assert await process.communicate(b"x" * 1_000_000) == (None, None)
        assert process.returncode == 0

    run(main())


def test_drain_of_a_lost_stdin():
    """A connection error or nothing, as on asyncio; writing goes on silently."""

    async def main():
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", "import os; os.close(0); input", stdin=PIPE
        )
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            while True:
                process.stdin.write(b"x" * 100_000)
                await process.stdin.drain()
        process.stdin.write(b"more")
        process.stdin.close()
        assert await process.wait() == 0

    run(main())


def test_flow_control_of_stdin():
    async def main():
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            "import sys, time; time.sleep(.2); print(len(sys.stdin.buffer.read()))",
            stdin=PIPE,
            stdout=PIPE,
        )
        process.stdin.write(b"x" * 2_000_000)
        draining = asyncio.ensure_future(process.stdin.drain())
        await asyncio.sleep(0)
        assert not draining.done()
        await draining
        process.stdin.write_eof()
        assert await process.stdout.read() == b"2000000\n"
        assert await process.wait() == 0

    run(main())


# ---- keywords of Popen ----


def test_every_keyword_of_popen_is_accepted():
    """What Popen can be given, by the signature of this Python's Popen."""
    refused = {"universal_newlines", "text", "encoding", "errors", "bufsize", "shell"}
    windows = {"startupinfo"}
    names = set(inspect.signature(subprocess.Popen).parameters) - {"args"}
    defaults = {
        name: inspect.signature(subprocess.Popen).parameters[name].default
        for name in names - refused - windows
    }

    async def main():
        process = await asyncio.create_subprocess_exec("true", **defaults)
        assert await process.wait() == 0

    run(main())


def test_process_group():
    async def main():
        process = await asyncio.create_subprocess_exec("sleep", "100", process_group=0)
        assert os.getpgid(process.pid) == process.pid != os.getpgid(0)
        process.kill()
        await process.wait()

    run(main())


def test_start_new_session():
    async def main():
        process = await asyncio.create_subprocess_exec(
            "sleep", "100", start_new_session=True
        )
        assert os.getsid(process.pid) == process.pid != os.getsid(0)
        process.kill()
        await process.wait()

    run(main())


def test_umask():
    async def main():
        assert await shell("umask", umask=0o027) == (0, b"0027\n")

    run(main())


def test_cwd_and_env(tmp_path):
    async def main():
        code, out = await shell(
            "pwd; echo $COLOUR", cwd=tmp_path, env={"COLOUR": "red"}
        )
        assert (code, out) == (0, os.fsencode(os.path.realpath(tmp_path)) + b"\nred\n")

    run(main())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may change the user")
def test_user_group_and_extra_groups():
    async def main():
        code, out = await shell(
            "id -u; id -g; id -G", user=65534, group=65534, extra_groups=[7, 8]
        )
        assert code == 0
        user, group, groups = out.split(b"\n")[:3]
        assert (user, group) == (b"65534", b"65534")
        assert {int(n) for n in groups.split()} == {65534, 7, 8}

    run(main())


def test_pass_fds():
    async def main():
        reading, writing = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                "import os, sys; os.write(int(sys.argv[1]), b'passed')",
                str(writing),
                pass_fds=[writing],
            )
            os.close(writing)
            assert await process.wait() == 0
            assert os.read(reading, 100) == b"passed"
        finally:
            os.close(reading)

    run(main())


def test_preexec_fn():
    async def main():
        code, out = await shell(
            "ulimit -n; echo $PPID",
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (77, 77)),
        )
        assert (code, out) == (0, b"77\n%d\n" % os.getpid())

    run(main())


def test_preexec_fn_that_raises():
    async def main():
        with pytest.raises(subprocess.SubprocessError, match="preexec_fn"):
            await asyncio.create_subprocess_exec("true", preexec_fn=lambda: 1 // 0)

    before = open_descriptors()
    run(main())
    assert open_descriptors() == before


def test_pipesize():
    import fcntl

    async def main():
        process = await asyncio.create_subprocess_exec(
            "cat", stdin=PIPE, stdout=PIPE, pipesize=8192
        )
        popen = process._transport.get_extra_info("subprocess")
        size = fcntl.fcntl(popen.stdin, fcntl.F_GETPIPE_SZ)
        assert size == 8192
        await process.communicate(b"")

    run(main())


def test_executable_and_path_objects():
    async def main():
        process = await asyncio.create_subprocess_exec(
            "named otherwise",
            "-c",
            "echo $0",
            executable=pathlib.Path("/bin/sh"),
            stdout=PIPE,
        )
        assert await process.communicate() == (b"named otherwise\n", None)
        process = await asyncio.create_subprocess_exec(
            pathlib.Path(sys.executable), b"-c", "print(1)", stdout=PIPE
        )
        assert await process.communicate() == (b"1\n", None)

    run(main())


def test_restore_signals():
    """Signals that Python ignores are not ignored in the child, unless asked for."""

    async def main():
        # Python itself ignores SIGPIPE: ask a program that does not.
        for restore, ignored in ((True, False), (False, True)):
            code, out = await shell(
                "grep SigIgn /proc/self/status", restore_signals=restore
            )
            mask = int(out.split()[1], 16)
            assert bool(mask & (1 << signal.SIGPIPE - 1)) is ignored

    run(main())


def test_no_signal_is_blocked_in_the_child():
    async def main():
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, print)
        loop.add_signal_handler(signal.SIGTERM, print)
        code, out = await shell("grep -E 'Sig(Blk|Ign|Cgt)' /proc/self/status")
        lines = [line.split(b":") for line in out.splitlines()]
        masks = {name: int(mask, 16) for name, mask in lines}
        assert masks[b"SigBlk"] == 0
        handled = 1 << signal.SIGUSR1 - 1 | 1 << signal.SIGTERM - 1
        assert (masks[b"SigIgn"] | masks[b"SigCgt"]) & handled == 0

    run(main())


# ---- what is refused ----


def message_of(error):
    return type(error), str(error)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"universal_newlines": True},
        {"shell": None},
        {"bufsize": 4096},
        {"bufsize": -1},
        {"text": True},
        {"encoding": "utf-8"},
        {"errors": "strict"},
        {"no_such_keyword": 1},
        {"stdin": "no file"},
        {"cwd": "/no/such/folder"},
        {"env": {"A=B": "C"}},
        {"umask": "x"},
        {"process_group": "x"},
    ],
    ids=lambda kwargs: next(iter(kwargs)),
)
@pytest.mark.parametrize("method", ["exec", "shell"])
def test_errors_are_those_of_asyncio(kwargs, method):
    if "shell" in kwargs:
        kwargs = {"shell": method == "exec"}

    async def main():
        loop = asyncio.get_running_loop()
        start = getattr(loop, f"subprocess_{method}")
        made = []
        with pytest.raises((ValueError, TypeError, OSError, AttributeError)) as caught:
            await start(lambda: made.append(1), "true", **kwargs)
        return message_of(caught.value), made

    before = open_descriptors()
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        expected = runner.run(main())
    assert run(main()) == expected
    assert open_descriptors() == before


def test_shell_takes_only_strings():
    async def main():
        loop = asyncio.get_running_loop()
        for command in (["true"], 123, pathlib.Path("true")):
            with pytest.raises(ValueError, match="cmd must be a string"):
                await loop.subprocess_shell(asyncio.SubprocessProtocol, command)

    run(main())


def test_missing_program():
    async def main():
        for fd in (None, PIPE):
            with pytest.raises(FileNotFoundError) as caught:
                await asyncio.create_subprocess_exec(
                    "/no/such/program", stdin=fd, stdout=fd, stderr=fd
                )
            assert caught.value.filename == "/no/such/program"

    before = open_descriptors()
    run(main())
    assert open_descriptors() == before


def test_program_without_permission(tmp_path):
    target = tmp_path / "program"
    target.write_text("#!/bin/sh\n")

    async def main():
        with pytest.raises(PermissionError):
            await asyncio.create_subprocess_exec(target)

    run(main())


def test_factory_that_raises():
    async def main():
        loop = asyncio.get_running_loop()
        with pytest.raises(ZeroDivisionError):
            await loop.subprocess_exec(lambda: 1 // 0, "true")

    run(main())


def test_closed_loop_is_refused():
    loop = uvtulip.new_event_loop()
    loop.close()
    start = loop.subprocess_exec(lambda: 1 // 0, "true")
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        start.send(None)


# ---- the protocol ----


def test_order_of_the_calls():
    async def main():
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.subprocess_shell(
            Recorder, "cat; echo error >&2", stderr=PIPE
        )
        assert protocol.calls == ["connection_made"]
        assert protocol.transport is transport
        stdin = transport.get_pipe_transport(0)
        stdin.write(b"data")
        stdin.close()
        await protocol.lost
        calls = protocol.calls
        assert calls[-1] == ("connection_lost", None)
        assert calls.count("process_exited") == 1
        for fd, data in ((1, b"data"), (2, b"error\n")):
            received = calls.index(("pipe_data_received", fd, data))
            assert received < calls.index(("pipe_connection_lost", fd, None))
        assert ("pipe_connection_lost", 0, None) in calls
        assert len(calls) == 8
        transport.close()

    run(main())


def test_calls_run_in_the_context_of_the_creating_call():
    variable = contextvars.ContextVar("variable", default="unset")
    seen = {}

    class Protocol(Recorder):
        def note(self, name):
            seen.setdefault(name, variable.get())

        def connection_made(self, transport):
            super().connection_made(transport)
            self.note("connection_made")
            variable.set("changed by the protocol")
            seen["set"] = True

        def pipe_data_received(self, fd, data):
            self.note("pipe_data_received")

        def pipe_connection_lost(self, fd, exc):
            self.note("pipe_connection_lost")

        def process_exited(self):
            self.note("process_exited")

        def connection_lost(self, exc):
            self.note("connection_lost")
            super().connection_lost(exc)

    async def main():
        loop = asyncio.get_running_loop()
        variable.set("at creation")
        transport, protocol = await loop.subprocess_exec(Protocol, "cat")
        variable.set("later")

        async def other():
            variable.set("of another task")
            stdin = transport.get_pipe_transport(0)
            stdin.write(b"x")
            stdin.close()

        await asyncio.create_task(other())
        await protocol.lost
        assert variable.get() == "later"
        transport.close()

    run(main())
    assert seen.pop("connection_made") == "at creation"
    assert seen.pop("set")
    assert set(seen.values()) == {"changed by the protocol"}
    assert len(seen) == 4


def test_protocol_that_raises_is_reported_and_goes_on():
    async def main():
        loop = asyncio.get_running_loop()
        reported = []
        loop.set_exception_handler(lambda loop, context: reported.append(context))

        class Failing(Recorder):
            def pipe_data_received(self, fd, data):
                super().pipe_data_received(fd, data)
                raise ZeroDivisionError

            def process_exited(self):
                super().process_exited()
                raise ZeroDivisionError

        transport, protocol = await loop.subprocess_shell(
            Failing, "echo 1; read x; echo 2"
        )
        await until(lambda: reported)
        transport.get_pipe_transport(0).write(b"\n")
        await protocol.lost
        data = [c[2] for c in protocol.calls if c[0] == "pipe_data_received"]
        assert data == [b"1\n", b"2\n"]
        assert len(reported) == 3
        assert all(isinstance(c["exception"], ZeroDivisionError) for c in reported)
        transport.close()

    run(main())


def test_set_protocol_in_mid_run():
    async def main():
        loop = asyncio.get_running_loop()
        transport, first = await loop.subprocess_exec(Recorder, "cat")
        assert transport.get_protocol() is first
        second = Recorder()
        transport.set_protocol(second)
        assert transport.get_protocol() is second
        stdin = transport.get_pipe_transport(0)
        stdin.write(b"x")
        stdin.close()
        await second.lost
        assert first.calls == ["connection_made"]
        assert ("pipe_data_received", 1, b"x") in second.calls
        first.lost.cancel()
        transport.close()

    run(main())
