"""Children whose Popen is not CPython's: gevent's, eventlet's, a subclass, a fake."""

import asyncio
import os
import signal
import subprocess
import sys
import threading

import pytest

import uvtulip
from aiosupport import check_script, run

CODE = [sys.executable, "-I", "-S", "-c", "import sys; sys.exit(len(sys.stdin.read()))"]


async def child_of(text: bytes = b"four") -> tuple[int, int | None]:
    process = await asyncio.create_subprocess_exec(
        *CODE, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    await process.communicate(text)
    return await asyncio.wait_for(process.wait(), 10), process.returncode


async def ended(transport: asyncio.SubprocessTransport) -> int:
    code: int = await asyncio.wait_for(
        transport._wait(), 10  # type: ignore[attr-defined]
    )
    transport.close()
    return code


class WithoutLock(subprocess.Popen[bytes]):
    """As gevent's, it has nothing of what CPython's keeps private."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[call-overload]
        del self._waitpid_lock  # type: ignore[attr-defined]

    def __del__(self) -> None:
        """CPython's wants the lock."""


class OddLock(subprocess.Popen[bytes]):
    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[call-overload]
        self._waitpid_lock = object()

    def __del__(self) -> None:
        """CPython's wants the lock."""


class FixedReturncode(subprocess.Popen[bytes]):
    """Whose returncode cannot be set, and is not known."""

    _child_created = False

    @property
    def returncode(self) -> None:  # type: ignore[override]
        return None

    @returncode.setter
    def returncode(self, value: int | None) -> None:
        if value is not None:
            raise AttributeError("it cannot be set")

    def __del__(self) -> None:
        """CPython's wants to set it."""


class Wrapper:
    """No Popen at all, but with what it has in public."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        self._inner = subprocess_popen(*args, **kwargs)  # type: ignore[call-overload]
        self.stdin, self.stdout = self._inner.stdin, self._inner.stdout
        self.stderr, self.pid = self._inner.stderr, self._inner.pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        return self._inner.poll()

    def kill(self) -> None:
        self._inner.kill()

    def __del__(self) -> None:
        self._inner.returncode = 0  # Somebody else has waited.


subprocess_popen = subprocess.Popen
KINDS = [WithoutLock, OddLock, FixedReturncode, Wrapper]


@pytest.fixture(params=["pidfd", "asked"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "asked":
        monkeypatch.delattr(os, "pidfd_open", raising=False)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("way")
def test_wait_returns(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", kind)
    assert run(child_of()) == (4, 4)
    assert run(child_of(b"")) == (0, 0)


@pytest.mark.parametrize("kind", [FixedReturncode, Wrapper])
@pytest.mark.usefixtures("way")
def test_closing_kills(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", kind)

    async def main() -> int:
        process = await asyncio.create_subprocess_exec("sleep", "30")
        process._transport.close()  # type: ignore[attr-defined]
        return await asyncio.wait_for(process.wait(), 10)

    assert run(main()) == -signal.SIGKILL


@pytest.mark.usefixtures("way")
def test_its_own_poll_may_have_the_status(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for any child, as gevent's loop does, tells by poll()."""

    class Told(Wrapper):
        def poll(self) -> int | None:
            return self._inner.wait()

    monkeypatch.setattr(subprocess, "Popen", Told)

    async def main() -> int:
        transport, _ = await asyncio.get_running_loop().subprocess_exec(
            asyncio.SubprocessProtocol, "sh", "-c", "exit 5",
            stdin=None, stdout=None, stderr=None,
        )
        transport.get_extra_info("subprocess").poll()
        return await ended(transport)

    assert run(main()) == 5


@pytest.mark.usefixtures("way")
def test_a_status_that_somebody_took_is_255(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> int:
        process = await asyncio.create_subprocess_exec("sh", "-c", "sleep 0.1; exit 5")
        os.waitpid(process.pid, 0)
        return await asyncio.wait_for(process.wait(), 10)

    assert run(main()) == 255
    assert "exit status already read" in caplog.text


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("handler", ["function", "default", "ignored", "any"])
def test_sigchld_of_the_program(handler: str) -> None:
    def wait_for_any(*args: object) -> None:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return

    action = {
        "function": lambda *args: None, "default": signal.SIG_DFL,
        "ignored": signal.SIG_IGN, "any": wait_for_any,
    }[handler]
    before = signal.getsignal(signal.SIGCHLD)

    async def main() -> int:
        process = await asyncio.create_subprocess_exec("sh", "-c", "sleep 0.05; exit 5")
        signal.signal(signal.SIGCHLD, action)  # type: ignore[arg-type]
        return await asyncio.wait_for(process.wait(), 10)

    try:
        assert run(main()) in ((5,) if handler in ("function", "default") else (5, 255))
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_popen_waited_for_in_another_thread() -> None:
    async def main() -> int:
        transport, _ = await asyncio.get_running_loop().subprocess_exec(
            asyncio.SubprocessProtocol, "sh", "-c", "sleep 0.1; exit 5",
            stdin=None, stdout=None, stderr=None,
        )
        waiter = threading.Thread(target=transport.get_extra_info("subprocess").wait)
        waiter.start()
        status = await ended(transport)
        waiter.join()
        return status

    assert run(main()) == 5


@pytest.mark.parametrize("library", ["gevent", "eventlet"])
def test_patched_by(library: str) -> None:
    pytest.importorskip(library)
    patch = {
        "gevent": "import gevent.monkey; gevent.monkey.patch_all()",
        "eventlet": "import warnings; warnings.simplefilter('ignore')\n"
                    "import eventlet; eventlet.monkey_patch()",
    }[library]
    source = patch + f"""
import asyncio, subprocess, uvtulip
async def main():
    process = await asyncio.create_subprocess_exec(
        *{CODE!r}, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    await process.communicate(b"four")
    code = await asyncio.wait_for(process.wait(), 10)
    other = await asyncio.create_subprocess_exec("sleep", "30")
    other.terminate()
    return code, await asyncio.wait_for(other.wait(), 10)
print(uvtulip.run(main()))
"""
    assert check_script(source) == "(4, -15)\n"
    assert uvtulip.Loop is not None
