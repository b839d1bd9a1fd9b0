"""How subprocesses end: exit statuses, who waits, close, cancellation, leaks."""

import asyncio
import asyncio.subprocess
import gc
import logging
import os
import posix
import signal
import subprocess
import sys
import threading
import warnings

import pytest

import uvtulip
from aiosupport import check_script, open_descriptors, run, turns, until

PIPE = subprocess.PIPE
BLOCKED = ("sleep", "100")


class Protocol(asyncio.SubprocessProtocol):
    def __init__(self):
        self.lost = asyncio.get_running_loop().create_future()
        self.made = False
        self.calls = 0

    def connection_made(self, transport):
        self.made = True

    def pipe_connection_lost(self, fd, exc):
        self.calls += 1

    def process_exited(self):
        self.calls += 1

    def connection_lost(self, exc):
        self.lost.set_result(None)


def children_of_this_process():
    task = f"/proc/self/task/{threading.get_native_id()}/children"
    with open(task) as stream:
        return stream.read().split()


@pytest.fixture(params=["pidfd", "missing", "refused"])
def pidfd(request, monkeypatch):
    """With descriptors of processes, without, and with a kernel that refuses."""

    def refuse(pid, flags=0):
        raise PermissionError(1, "refused")

    if request.param == "missing":
        monkeypatch.delattr(os, "pidfd_open")
    elif request.param == "refused":
        monkeypatch.setattr(os, "pidfd_open", refuse)
    return request.param


# ---- with and without pidfd ----


def test_exit_statuses(pidfd):
    async def one(code):
        process = await asyncio.create_subprocess_shell(f"exit {code}")
        return await process.wait()

    async def main():
        assert await one(3) == 3
        results = await asyncio.gather(*(one(code) for code in range(20)))
        assert results == list(range(20))

    before = open_descriptors(), children_of_this_process()
    run(main())
    assert (open_descriptors(), children_of_this_process()) == before
    assert signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL


def test_exit_while_the_loop_sleeps(pidfd):
    async def main():
        process = await asyncio.create_subprocess_exec("sleep", "0.1")
        assert await process.wait() == 0
        process = await asyncio.create_subprocess_exec(*BLOCKED)
        killer = threading.Timer(0.05, os.kill, (process.pid, signal.SIGKILL))
        killer.start()
        assert await process.wait() == -signal.SIGKILL
        killer.join()

    run(main())


def test_pipes_and_exit(pidfd):
    async def main():
        process = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
        assert await process.communicate(b"abc") == (b"abc", None)
        assert process.returncode == 0

    run(main())


def test_in_threads(pidfd):
    """Several loops in several threads, each with processes of its own."""
    results = []

    def work(index):
        async def one(code):
            process = await asyncio.create_subprocess_shell(
                f"read x; exit {code}", stdin=PIPE
            )
            await process.communicate(b"\n")
            return process.returncode

        async def main():
            codes = [index * 20 + i for i in range(5)]
            assert await asyncio.gather(*map(one, codes)) == codes
            return index

        results.append(run(main()))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [0, 1, 2, 3]


def test_other_children_are_not_stolen(pidfd):
    async def main():
        others = [subprocess.Popen(["sh", "-c", "exit 5"]) for _ in range(3)]
        pid = os.posix_spawn("/bin/sh", ["sh", "-c", "exit 6"], os.environ)
        process = await asyncio.create_subprocess_exec("sleep", "0.2")
        assert await process.wait() == 0
        assert [other.wait() for other in others] == [5, 5, 5]
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 6

    run(main())


def test_a_child_that_somebody_else_has_waited_for(pidfd, caplog):
    async def main():
        process = await asyncio.create_subprocess_exec(*BLOCKED)
        process.kill()
        os.waitpid(process.pid, 0)
        assert await process.wait() == 255
        return process.pid

    with caplog.at_level(logging.WARNING, "asyncio"):
        pid = run(main())
    assert [record.getMessage() for record in caplog.records] == [
        f"child process pid {pid} exit status already read:  will report returncode 255"
    ]


def test_sigchld_handler_of_the_program(pidfd):
    """add_signal_handler(SIGCHLD) works beside subprocesses."""

    async def main():
        loop = asyncio.get_running_loop()
        calls = []
        loop.add_signal_handler(signal.SIGCHLD, calls.append, 1)
        process = await asyncio.create_subprocess_shell("exit 3")
        assert await process.wait() == 3
        await until(lambda: calls)
        other = subprocess.Popen(["true"])
        await until(lambda: len(calls) >= 2)
        assert other.wait() == 0
        assert loop.remove_signal_handler(signal.SIGCHLD)
        process = await asyncio.create_subprocess_shell("exit 4")
        assert await process.wait() == 4

    run(main())
    assert signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL


def test_sigchld_handler_set_while_children_run(pidfd):
    """The program's own handler stays, whichever comes first."""
    calls = []

    def handler(*args):
        calls.append(1)

    async def main():
        process = await asyncio.create_subprocess_exec("sleep", "0.2")
        signal.signal(signal.SIGCHLD, handler)
        assert await process.wait() == 0
        await until(lambda: calls)

    try:
        run(main())
        assert signal.getsignal(signal.SIGCHLD) is handler
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def test_children_nobody_hears_of_are_asked(monkeypatch):
    """SIGCHLD may be taken away altogether: then asking now and then is enough."""
    monkeypatch.delattr(os, "pidfd_open")

    async def main():
        process = await asyncio.create_subprocess_shell("sleep 0.1; exit 9")
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        assert await process.wait() == 9

    run(main())


def test_no_thread_is_used(pidfd):
    async def main():
        before = threading.active_count()
        process = await asyncio.create_subprocess_exec("sleep", "0.1")
        assert threading.active_count() == before
        await process.wait()
        assert threading.active_count() == before

    run(main())


# ---- the transport ----


async def start(*args, **kwargs):
    loop = asyncio.get_running_loop()
    kwargs = {"stdin": None, "stdout": None, "stderr": None, **kwargs}
    return await loop.subprocess_exec(Protocol, *args, **kwargs)


def test_attributes_and_repr():
    async def main():
        transport, protocol = await start(*BLOCKED)
        pid = transport.get_pid()
        popen = transport.get_extra_info("subprocess")
        assert isinstance(transport, asyncio.SubprocessTransport)
        assert isinstance(popen, subprocess.Popen) and popen.pid == pid
        assert transport.get_extra_info("other", 5) == 5
        assert transport.get_returncode() is None
        assert transport.get_protocol() is protocol
        assert not transport.is_closing()
        assert repr(transport) == f"<SubprocessTransport pid={pid} running>"
        transport.kill()
        await protocol.lost
        assert transport.get_returncode() == popen.returncode == -signal.SIGKILL
        assert transport.get_pid() == pid
        assert repr(transport) == f"<SubprocessTransport pid={pid} returncode=-9>"
        transport.close()
        assert transport.is_closing()
        assert repr(transport).startswith(f"<SubprocessTransport closed pid={pid} ")

    run(main())


def test_repr_names_the_pipes():
    async def main():
        transport, protocol = await start("cat", stdin=PIPE, stdout=PIPE, stderr=PIPE)
        text = repr(transport)
        for fd, name in enumerate(("stdin", "stdout", "stderr")):
            assert f" {name}={transport.get_pipe_transport(fd)!r}" in text
        transport.close()
        await protocol.lost

    run(main())


def test_pipe_transports_have_their_pipes():
    async def main():
        transport, protocol = await start("cat", stdin=PIPE, stdout=PIPE)
        popen = transport.get_extra_info("subprocess")
        stdin, stdout = (transport.get_pipe_transport(fd) for fd in (0, 1))
        assert stdin.get_extra_info("pipe") is popen.stdin
        assert stdout.get_extra_info("pipe") is popen.stdout
        assert isinstance(stdin, asyncio.WriteTransport)
        assert isinstance(stdout, asyncio.ReadTransport)
        assert stdin.can_write_eof()
        stdin.write_eof()
        await protocol.lost
        transport.close()

    run(main())


def test_close_kills_a_running_child():
    async def main():
        transport, protocol = await start(*BLOCKED, stdin=PIPE, stdout=PIPE)
        transport.close()
        transport.close()
        await protocol.lost
        assert transport.get_returncode() == -signal.SIGKILL

    before = open_descriptors()
    run(main())
    assert open_descriptors() == before


def end_unnoticed(transport, sig):
    """Have the child end, and make sure of it, without the loop's knowing."""
    os.kill(transport.get_pid(), sig)
    os.waitid(os.P_PID, transport.get_pid(), os.WEXITED | os.WNOWAIT)


def test_close_keeps_the_status_of_a_child_that_has_ended():
    """Also when the loop has not heard of its end yet."""

    async def main():
        transport, protocol = await start(*BLOCKED)
        end_unnoticed(transport, signal.SIGTERM)
        transport.close()
        await protocol.lost
        assert transport.get_returncode() == -signal.SIGTERM
        transport, protocol = await start(*BLOCKED)
        end_unnoticed(transport, signal.SIGTERM)
        assert transport.get_extra_info("subprocess").wait() == -signal.SIGTERM
        await protocol.lost
        assert transport.get_returncode() == -signal.SIGTERM
        transport.close()

    run(main())


def test_popen_used_from_another_thread():
    """The Popen and the loop wait for the same child; neither loses its status."""

    async def main():
        for _ in range(20):
            transport, protocol = await start("sh", "-c", "exit 6")
            popen = transport.get_extra_info("subprocess")
            waited = await asyncio.to_thread(popen.wait)
            await protocol.lost
            assert waited == transport.get_returncode() == 6
            transport.close()

    run(main())


def test_signals_after_the_end():
    """Silent while the end is not known, then ProcessLookupError, as asyncio's."""

    async def main():
        transport, protocol = await start(*BLOCKED)
        end_unnoticed(transport, signal.SIGUSR1)
        transport.terminate()
        transport.kill()
        transport.send_signal(signal.SIGHUP)
        assert await transport._wait() == -signal.SIGUSR1
        await protocol.lost
        await turns()
        for send in (
            transport.terminate,
            transport.kill,
            lambda: transport.send_signal(signal.SIGHUP),
        ):
            with pytest.raises(ProcessLookupError):
                send()
        transport.close()

    run(main())


def test_signal_right_before_the_end_does_not_lose_the_status():
    async def main():
        for delay in range(10):
            process = await asyncio.create_subprocess_exec("sleep", "0.01")
            await asyncio.sleep(0.008 + delay * 0.001)
            try:
                process.send_signal(signal.SIGCONT)
            except ProcessLookupError:
                pass
            assert await process.wait() == 0

    run(main())


def refusing_kill(monkeypatch):
    """As for a child that runs as another user: a permission is missing."""
    calls = []

    def kill(pid, sig):
        calls.append(sig)
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "kill", kill)
    return calls


def test_signal_that_is_not_permitted(monkeypatch):
    async def main():
        transport, protocol = await start("cat", stdin=PIPE)
        with monkeypatch.context() as patch:
            calls = refusing_kill(patch)
            with pytest.raises(PermissionError):
                transport.terminate()
            # The child reads the end of its stdin, so it ends all the same.
            transport.close()
            assert calls == [signal.SIGTERM, signal.SIGKILL]
        await protocol.lost
        assert transport.get_returncode() == 0

    run(main())


def test_unclosed_transport_is_warned_about():
    async def main():
        transport, protocol = await start("true")
        await protocol.lost
        text = repr(transport)
        with pytest.warns(ResourceWarning) as caught:
            del transport
            gc.collect()
        assert [str(w.message) for w in caught] == [f"unclosed transport {text}"]

    run(main())


def test_a_running_child_keeps_its_transport():
    async def main():
        transport, protocol = await start("cat", stdin=PIPE)
        stdin = transport.get_pipe_transport(0)
        del transport
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            gc.collect()
            stdin.close()
        with pytest.warns(ResourceWarning, match="unclosed transport"):
            await protocol.lost
            del stdin
            await turns()
            gc.collect()

    run(main())


def test_loop_closed_before_the_child_has_ended():
    loop = uvtulip.new_event_loop()
    before = open_descriptors()

    async def main():
        return await start(*BLOCKED, stdin=PIPE)

    transport, protocol = loop.run_until_complete(main())
    popen = transport.get_extra_info("subprocess")
    loop.close()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transport.close()
        assert popen.wait() == -signal.SIGKILL
        del transport, popen, protocol, main
        gc.collect()
    assert not open_descriptors() - before


def test_loop_dropped_before_the_child_has_ended():
    check_script(
        """
        import asyncio, gc, os, signal, warnings, uvtulip
        uvtulip.new_event_loop().close()
        before = set(os.listdir("/proc/self/fd"))
        warnings.simplefilter("ignore")
        loop = uvtulip.new_event_loop()
        process = loop.run_until_complete(
            asyncio.create_subprocess_exec("sleep", "100", stdin=-1))
        pid = process.pid
        del loop, process
        for _ in range(3):
            gc.collect()
        try:
            assert os.waitpid(pid, 0)[1] == signal.SIGKILL
        except ChildProcessError:
            pass  # Its Popen has waited for it.
        assert not os.path.exists(f"/proc/{pid}")
        assert set(os.listdir("/proc/self/fd")) == before
        """
    )


def test_interpreter_exit_with_a_running_child():
    check_script(
        """
        import asyncio, uvtulip
        async def main():
            global process
            process = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
        uvtulip.run(main())
        """,
        "-W",
        "ignore",
    )


# ---- cancellation and failure ----


@pytest.mark.parametrize("pipes", [0, 1, 2, 3])
@pytest.mark.parametrize("after", range(8))
def test_cancelled_at_any_await(after, pipes):
    """The child is killed and waited for, and no descriptor stays."""
    protocols = []
    children = children_of_this_process()

    async def main():
        loop = asyncio.get_running_loop()

        def factory():
            protocols.append(Protocol())
            return protocols[-1]

        kwargs = {
            name: PIPE if i < pipes else None
            for i, name in enumerate(("stdin", "stdout", "stderr"))
        }
        task = loop.create_task(loop.subprocess_exec(factory, *BLOCKED, **kwargs))
        await turns(after)
        task.cancel()
        try:
            transport, protocol = await task
        except asyncio.CancelledError:
            assert children_of_this_process() == children
        else:
            transport.close()
            await protocol.lost
        await turns()
        for protocol in protocols:
            # Told of everything, or of nothing.
            assert protocol.lost.done() is protocol.made
            assert protocol.made or protocol.calls == 0
            protocol.lost.cancel()

    before = open_descriptors()
    run(main())
    assert open_descriptors() == before
    assert children_of_this_process() == children


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_pipe_that_cannot_be_connected(failing):
    children = children_of_this_process()

    async def main():
        loop = asyncio.get_running_loop()
        connected = []

        def patch(method):
            def connect(factory, pipe):
                connected.append(pipe)
                if len(connected) > failing:
                    raise ZeroDivisionError
                return method(factory, pipe)

            return connect

        loop.connect_read_pipe = patch(loop.connect_read_pipe)
        loop.connect_write_pipe = patch(loop.connect_write_pipe)
        protocol = None

        def factory():
            nonlocal protocol
            protocol = Protocol()
            return protocol

        with pytest.raises(ZeroDivisionError):
            await loop.subprocess_exec(factory, *BLOCKED)
        assert children_of_this_process() == children
        await turns()
        assert not protocol.made and protocol.calls == 0
        del loop.connect_read_pipe, loop.connect_write_pipe

    before = open_descriptors()
    run(main())
    assert open_descriptors() == before


@pytest.mark.skipif(
    sys.version_info[:3] <= (3, 11, 2),
    reason="subprocess.Popen of 3.11.2 does not close its pipes when it fails",
)
def test_running_out_of_descriptors():
    """Whichever of the pipes, of Popen's own or of ours is the last straw."""
    check_script(
        """
        import asyncio, os, resource, uvtulip
        async def main():
            loop = asyncio.get_running_loop()
            process = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
            await process.communicate(b"")
            used = len(os.listdir("/proc/self/fd")) - 1
            before = set(os.listdir("/proc/self/fd"))
            outcomes = set()
            for spare in range(16):
                resource.setrlimit(resource.RLIMIT_NOFILE, (used + spare, 4096))
                try:
                    process = await asyncio.create_subprocess_exec(
                        "cat", stdin=-1, stdout=-1, stderr=-1)
                    assert await process.communicate(b"abc") == (b"abc", b"")
                    assert process.returncode == 0
                    outcomes.add("worked")
                except OSError as exc:
                    assert exc.errno == 24, exc
                    outcomes.add("failed")
                finally:
                    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
                process = None
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                assert set(os.listdir("/proc/self/fd")) == before, spare
            assert outcomes == {"worked", "failed"}
            try:
                os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                print("no child is left")
        uvtulip.run(main())
        """
    )


def test_cancelled_wait_and_communicate():
    async def main():
        process = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
        for coroutine in (process.wait(), process.stdout.read()):
            task = asyncio.ensure_future(coroutine)
            await turns()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert await process.communicate(b"x") == (b"x", None)

    run(main())


def test_wait_does_not_wait_for_a_grandchild():
    """Which has the child's stdout, and keeps it open."""

    async def main():
        process = await asyncio.create_subprocess_shell(
            "sleep 100 & echo $!; wait", stdout=PIPE
        )
        waiting = asyncio.ensure_future(process.wait())
        grandchild = int(await process.stdout.readline())
        process.kill()
        assert await waiting == await process.wait() == -signal.SIGKILL
        os.kill(grandchild, signal.SIGKILL)
        assert await process.stdout.read() == b""

    run(main())


def test_wait_comes_after_the_ends_of_the_pipes():
    """Where they end with the child: then nothing is open after wait()."""

    async def main():
        for _ in range(20):
            process = await asyncio.create_subprocess_shell(
                "read x; echo out; echo error >&2", stdin=PIPE, stdout=PIPE, stderr=PIPE
            )
            waiting = asyncio.ensure_future(process.wait())
            await turns()
            process.stdin.write(b"\n")
            assert await waiting == 0
            transport = process._transport
            assert all(transport.get_pipe_transport(fd).is_closing() for fd in range(3))
            assert await process.stdout.read() == b"out\n"

    run(main())


def test_unexpected_error_of_waiting_is_reported_once(monkeypatch, pidfd):
    async def main():
        loop = asyncio.get_running_loop()
        reported = []
        loop.set_exception_handler(lambda loop, context: reported.append(context))
        process = await asyncio.create_subprocess_exec("sleep", "0.05")

        def fail(pid, options):
            raise OSError(5, "unexpected")

        with monkeypatch.context() as patch:
            patch.setattr(posix, "waitpid", fail)
            await until(lambda: reported)
            await asyncio.sleep(0.05)
        assert [context["exception"].errno for context in reported] == [5]
        os.waitpid(process.pid, 0)
        process._transport._process_exited(0)
        assert await process.wait() == 0

    before = open_descriptors()
    run(main())
    assert open_descriptors() == before


def test_several_waiters():
    async def main():
        process = await asyncio.create_subprocess_exec("cat", stdin=PIPE)
        waiters = [asyncio.ensure_future(process.wait()) for _ in range(5)]
        await turns()
        waiters[0].cancel()
        process.stdin.close()
        assert await asyncio.gather(*waiters[1:]) == [0] * 4
        assert await process.wait() == 0

    run(main())


def test_timeout_around_communicate():
    async def main():
        process = await asyncio.create_subprocess_exec(*BLOCKED, stdout=PIPE)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await process.communicate()
        process.kill()
        assert await process.wait() == -signal.SIGKILL

    run(main())


def test_debug_log(caplog):
    async def main():
        process = await asyncio.create_subprocess_exec(
            "true", "secret", stdin=PIPE, stdout=PIPE, stderr=subprocess.STDOUT
        )
        await process.communicate(b"")
        process = await asyncio.create_subprocess_shell("exit 3")
        await process.wait()

    with caplog.at_level(logging.DEBUG, "asyncio"):
        run(main(), debug=True)
    lines = [r.getMessage() for r in caplog.records if "poll" not in r.getMessage()]
    text = "\n".join(lines)
    assert "execute program 'true' stdin=<pipe> stdout=stderr=<pipe>" in lines
    assert "run shell command 'exit 3'" in lines
    assert "process 'true' created: pid " in text
    assert "exited with return code 3" in text
    assert "secret" not in text


def test_references_stay_flat():
    async def rounds(count):
        for _ in range(count):
            process = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=-1)
            assert await process.communicate(b"x") == (b"x", None)

    async def main():
        await rounds(20)
        gc.collect()
        before = len(gc.get_objects())
        await rounds(60)
        gc.collect()
        assert len(gc.get_objects()) - before < 40

    run(main())


def test_the_descriptor_of_the_process_is_closed_by_somebody():
    loop = uvtulip.new_event_loop()
    made = loop.subprocess_exec(
        asyncio.SubprocessProtocol, *BLOCKED, stdin=None, stdout=None, stderr=None
    )
    transport, _ = loop.run_until_complete(made)
    (child,) = loop._children
    os.close(child._fd)
    loop.close()
    assert loop.is_closed()
    transport.close()
    transport.get_extra_info("subprocess").wait()
