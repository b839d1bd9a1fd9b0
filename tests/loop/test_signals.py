"""add_signal_handler(), and signals that Python handles itself."""

import asyncio
import os
import signal
import threading

import pytest

import uvtulip
from aiosupport import check_script, run, script, turns, until


def test_handler_is_called():
    async def main():
        loop = asyncio.get_running_loop()
        calls = []
        loop.add_signal_handler(signal.SIGUSR1, calls.append, 1)
        loop.add_signal_handler(signal.SIGUSR2, calls.append, 2)
        os.kill(os.getpid(), signal.SIGUSR1)
        await until(lambda: calls)
        os.kill(os.getpid(), signal.SIGUSR2)
        os.kill(os.getpid(), signal.SIGUSR1)
        await until(lambda: len(calls) == 3)
        assert sorted(calls) == [1, 1, 2]
        assert loop.remove_signal_handler(signal.SIGUSR1)
        assert not loop.remove_signal_handler(signal.SIGUSR1)
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL

    run(main())
    assert signal.getsignal(signal.SIGUSR2) is signal.SIG_DFL


def test_wakes_a_sleeping_loop():
    async def main():
        loop = asyncio.get_running_loop()
        got = loop.create_future()
        loop.add_signal_handler(signal.SIGUSR1, got.set_result, None)
        killer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1))
        killer.start()
        await got
        killer.join()

    run(main())


def test_the_callback_may_be_replaced():
    async def main():
        loop = asyncio.get_running_loop()
        calls = []
        loop.add_signal_handler(signal.SIGUSR1, calls.append, "old")
        loop.add_signal_handler(signal.SIGUSR1, calls.append, "new")
        os.kill(os.getpid(), signal.SIGUSR1)
        await until(lambda: calls)
        assert calls == ["new"]

    run(main())


def test_failing_callback_goes_to_the_exception_handler():
    async def main():
        loop = asyncio.get_running_loop()
        reported = []
        loop.set_exception_handler(lambda loop, context: reported.append(context))
        loop.add_signal_handler(signal.SIGUSR1, lambda: 1 // 0)
        os.kill(os.getpid(), signal.SIGUSR1)
        await until(lambda: reported)
        assert isinstance(reported[0]["exception"], ZeroDivisionError)

    run(main())


def test_runs_in_the_context_of_its_making():
    import contextvars

    variable = contextvars.ContextVar("variable", default="none")

    async def main():
        loop = asyncio.get_running_loop()
        seen = []
        variable.set("then")
        loop.add_signal_handler(signal.SIGUSR1, lambda: seen.append(variable.get()))
        variable.set("now")
        os.kill(os.getpid(), signal.SIGUSR1)
        await until(lambda: seen)
        assert seen == ["then"]

    run(main())


def test_signal_between_two_runs_is_kept():
    loop = uvtulip.new_event_loop()
    calls = []
    loop.add_signal_handler(signal.SIGUSR1, calls.append, 1)
    os.kill(os.getpid(), signal.SIGUSR1)
    assert calls == []
    loop.run_until_complete(turns())
    assert calls == [1]
    loop.close()
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL


@pytest.mark.parametrize(
    ("sig", "error", "text"),
    [
        ("SIGINT", TypeError, "sig must be an int"),
        (12345, ValueError, "invalid signal number"),
        (0, ValueError, "invalid signal number"),
        (signal.SIGKILL, RuntimeError, "sig 9 cannot be caught"),
    ],
)
def test_bad_signals(sig, error, text):
    async def main():
        loop = asyncio.get_running_loop()
        with pytest.raises(error, match=text):
            loop.add_signal_handler(sig, print)
        if error is not RuntimeError:
            with pytest.raises(error, match=text):
                loop.remove_signal_handler(sig)

    run(main())


def test_coroutines_are_refused():
    async def coroutine():
        raise AssertionError("never run")

    async def main():
        loop = asyncio.get_running_loop()
        with pytest.raises(TypeError, match="coroutines cannot be used"):
            loop.add_signal_handler(signal.SIGUSR1, coroutine)

    run(main())


def test_only_in_the_main_thread():
    failures = []

    def work():
        async def main():
            loop = asyncio.get_running_loop()
            with pytest.raises(RuntimeError, match="main thread"):
                loop.add_signal_handler(signal.SIGUSR1, print)

        try:
            run(main())
        except BaseException as exc:
            failures.append(exc)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert failures == []


def test_handlers_of_signal_signal_run_while_the_loop_sleeps():
    check_script(
        """
        import asyncio, os, signal, threading, uvtulip
        async def main():
            event = asyncio.Event()
            loop = asyncio.get_running_loop()
            def handler(*args):
                loop.call_soon_threadsafe(event.set)
            signal.signal(signal.SIGUSR1, handler)
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1)).start()
            async with asyncio.timeout(10):
                await event.wait()
        uvtulip.run(main())
        """
    )


def test_handler_that_raises_ends_the_run():
    check_script(
        """
        import asyncio, os, signal, threading, uvtulip
        class Stop(Exception):
            pass
        def handler(*args):
            raise Stop
        signal.signal(signal.SIGUSR1, handler)
        loop = uvtulip.new_event_loop()
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        try:
            loop.run_forever()
        except Stop:
            print("stopped")
        loop.run_until_complete(asyncio.sleep(0.01))
        loop.close()
        """
    )


@pytest.mark.parametrize("how", ["sleep", "busy", "forever"])
def test_ctrl_c(how):
    """KeyboardInterrupt cancels the main task and leaves run(), as asyncio's."""
    done = script(
        f"""
        import asyncio, os, signal, threading, uvtulip
        how = {how!r}
        async def main():
            try:
                while True:
                    await asyncio.sleep(0 if how == "busy" else 30)
            finally:
                print("cleaned up")
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            if how == "forever":
                loop = uvtulip.new_event_loop()
                try:
                    loop.run_forever()
                finally:
                    loop.close()
            else:
                uvtulip.run(main())
        except KeyboardInterrupt:
            print("interrupted")
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        """
    )
    assert (done.returncode, done.stderr) == (0, "")
    expected = ["interrupted"] if how == "forever" else ["cleaned up", "interrupted"]
    assert done.stdout.split("\n")[:-1] == expected


def test_wakeup_descriptor_is_given_back():
    check_script(
        """
        import asyncio, signal, socket, uvtulip
        one, two = socket.socketpair()
        one.setblocking(False)
        signal.set_wakeup_fd(one.fileno())
        async def main():
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGUSR1, print)
            await asyncio.sleep(0)
        uvtulip.run(main())
        assert signal.set_wakeup_fd(-1) == one.fileno()
        """
    )


def test_removing_sigint_brings_keyboard_interrupt_back():
    check_script(
        """
        import asyncio, signal, uvtulip
        async def main():
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGINT, print)
            assert loop.remove_signal_handler(signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        uvtulip.run(main())
        """
    )


# ---- as on asyncio ----


async def coroutine_function():
    raise AssertionError("never run")


def outcome(call):
    try:
        return call()
    except Exception as exc:
        return type(exc), str(exc)


@pytest.mark.parametrize(
    "use",
    [
        lambda loop: loop.add_signal_handler("SIGUSR1", print),
        lambda loop: loop.add_signal_handler(-1, print),
        lambda loop: loop.add_signal_handler(signal.NSIG, print),
        lambda loop: loop.add_signal_handler(signal.SIGKILL, print),
        lambda loop: loop.add_signal_handler(signal.SIGSTOP, print),
        lambda loop: loop.add_signal_handler(signal.SIGUSR1, coroutine_function),
        lambda loop: loop.remove_signal_handler("SIGUSR1"),
        lambda loop: loop.remove_signal_handler(-1),
        lambda loop: loop.remove_signal_handler(signal.SIGUSR1),
        lambda loop: loop.remove_signal_handler(signal.SIGKILL),
        lambda loop: loop.add_signal_handler(signal.SIGUSR1, print),
    ],
)
def test_errors_are_those_of_asyncio(use):
    async def main():
        return outcome(lambda: use(asyncio.get_running_loop()))

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        expected = runner.run(main())
    assert run(main()) == expected
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL


def test_closed_loop_is_refused_as_in_asyncio():
    outcomes = []
    for factory in (asyncio.SelectorEventLoop, uvtulip.new_event_loop):
        loop = factory()
        loop.close()
        outcomes.append(
            outcome(lambda loop=loop: loop.add_signal_handler(signal.SIGUSR1, print))
        )
    assert outcomes[0] == outcomes[1] == (RuntimeError, "Event loop is closed")


# ---- the wake-up descriptor ----


@pytest.mark.parametrize("end", ["returns", "raises", "stops", "exits"])
def test_wakeup_descriptor_after_every_end_of_a_run(end):
    check_script(
        f"""
        import asyncio, signal, socket, uvtulip
        one, two = socket.socketpair()
        one.setblocking(False)
        signal.set_wakeup_fd(one.fileno())
        loop = uvtulip.new_event_loop()
        for _ in range(3):
            def check():
                fd = signal.set_wakeup_fd(-1)
                assert fd not in (-1, one.fileno())
                signal.set_wakeup_fd(fd)
                if {end!r} == "raises":
                    raise KeyboardInterrupt
                if {end!r} == "exits":
                    raise SystemExit
                if {end!r} == "stops":
                    loop.stop()
            loop.add_signal_handler(signal.SIGUSR1, print)
            loop.call_soon(check)
            try:
                if {end!r} == "returns":
                    loop.run_until_complete(asyncio.sleep(0.001))
                else:
                    loop.run_forever()
            except (KeyboardInterrupt, SystemExit):
                assert {end!r} in ("raises", "exits")
            fd = signal.set_wakeup_fd(-1)
            assert fd == one.fileno(), fd
            signal.set_wakeup_fd(fd)
        loop.close()
        assert signal.set_wakeup_fd(-1) == one.fileno()
        """
    )


def test_wakeup_descriptor_set_by_the_program_during_a_run_stays():
    check_script(
        """
        import asyncio, os, signal, socket, uvtulip
        one, two = socket.socketpair()
        one.setblocking(False)
        async def main():
            signal.set_wakeup_fd(one.fileno())
            # The loop has no wake-up now, but a turn still runs the handlers.
            asyncio.get_running_loop().add_signal_handler(
                signal.SIGUSR1, event.set)
            os.kill(os.getpid(), signal.SIGUSR1)
            async with asyncio.timeout(10):
                while not event.is_set():
                    await asyncio.sleep(0.001)
        event = asyncio.Event()
        uvtulip.run(main())
        assert signal.set_wakeup_fd(-1) == one.fileno()
        assert two.recv(10) == bytes([signal.SIGUSR1])
        """
    )


def test_former_owner_of_the_wakeup_descriptor_is_told():
    check_script(
        """
        import asyncio, os, signal, socket, uvtulip
        one, two = socket.socketpair()
        one.setblocking(False)
        signal.set_wakeup_fd(one.fileno())
        async def main():
            loop = asyncio.get_running_loop()
            done = loop.create_future()
            loop.add_signal_handler(signal.SIGUSR1, done.set_result, None)
            os.kill(os.getpid(), signal.SIGUSR1)
            await done
        uvtulip.run(main())
        assert two.recv(10) == bytes([signal.SIGUSR1])
        """
    )


# ---- Ctrl-C ----


def test_the_runners_handler_is_there_and_given_back():
    async def main():
        assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler

    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    run(main())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_programs_own_sigint_handler_stays():
    calls = []

    def handler(*args):
        calls.append(1)

    async def main():
        assert signal.getsignal(signal.SIGINT) is handler
        os.kill(os.getpid(), signal.SIGINT)
        await until(lambda: calls)

    old = signal.signal(signal.SIGINT, handler)
    try:
        run(main())
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, old)


def test_second_ctrl_c_does_not_wait_for_the_task():
    done = script(
        """
        import asyncio, os, signal, threading, time, uvtulip
        async def main():
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                print("first", flush=True)
                os.kill(os.getpid(), signal.SIGINT)
                await asyncio.sleep(30)
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            uvtulip.run(main())
        except KeyboardInterrupt:
            print("second")
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "first\nsecond\n", "")


def test_ctrl_c_with_children():
    """The child gets the signal, too, and is waited for."""
    done = script(
        """
        import asyncio, os, signal, sys, uvtulip
        os.setpgid(0, 0)
        child = "import time; print('up', flush=True); time.sleep(30)"
        async def main():
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", child, stdout=-1, stderr=-1)
            await process.stdout.readline()
            os.killpg(0, signal.SIGINT)
            try:
                await process.communicate()
            finally:
                print(await process.wait())
        try:
            uvtulip.run(main())
        except KeyboardInterrupt:
            print("interrupted")
        """
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{-signal.SIGINT}\ninterrupted\n"
