"""subprocess_exec() and subprocess_shell().

A child is started by subprocess.Popen, so that every keyword of that Python means
what it means there, and the quick way of starting one is taken.  Its pipes are
ends of real pipes, made into transports by connect_read_pipe() and
connect_write_pipe().  The transport owns both, and is kept by the loop until the
child has ended.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import signal
import subprocess
import warnings
from asyncio.log import logger

from .children import Child, reap, set_returncode
from .cleanup import close_quietly
from .core import base_event_loop
from .pipes import PipeLoop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import IO, Any, TypeVar

    _P = TypeVar("_P", bound=asyncio.BaseProtocol)
    _Args = str | bytes | tuple[Any, ...]
    _Connect = Callable[[Callable[[], asyncio.BaseProtocol], Any], Awaitable[object]]


# So many turns may pass between the end of a child and what its pipes still hold.
_POLLS_FOR_PIPES = 4


class _WriteProtocol(asyncio.BaseProtocol):
    """Of the child's stdin: tells the subprocess's protocol what goes on."""

    def __init__(self, process: SubprocessTransport, fd: int) -> None:
        self.process: SubprocessTransport | None = process
        self.fd = fd
        self.pipe: Any = None
        self.disconnected = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} fd={self.fd} pipe={self.pipe!r}>"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.pipe = transport

    def connection_lost(self, exc: BaseException | None) -> None:
        self.disconnected = True
        process, self.process = self.process, None
        if process is not None:
            process._pipe_connection_lost(self.fd, exc)

    def pause_writing(self) -> None:
        if self.process is not None and self.process._protocol is not None:
            self.process._protocol.pause_writing()

    def resume_writing(self) -> None:
        if self.process is not None and self.process._protocol is not None:
            self.process._protocol.resume_writing()


class _ReadProtocol(_WriteProtocol, asyncio.Protocol):
    """Of the child's stdout or stderr."""

    def data_received(self, data: bytes) -> None:
        if self.process is not None:
            self.process._pipe_data_received(self.fd, data)


class SubprocessTransport(asyncio.SubprocessTransport):
    """A running child process and the parent's ends of its pipes."""

    _loop: SubprocessLoop | None
    _proc: subprocess.Popen[bytes] | None = None
    _protocol: asyncio.SubprocessProtocol | None
    _pid: int | None = None
    _returncode: int | None = None
    _closed = False
    _finished = False

    def __init__(
        self,
        loop: SubprocessLoop,
        protocol: Any,
        args: _Args,
        shell: bool,
        stdin: Any,
        stdout: Any,
        stderr: Any,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        self._loop = loop
        self._protocol = protocol
        self._context = contextvars.copy_context()
        self._exit_waiters: list[asyncio.Future[int]] = []
        # What happens before connection_made(); None: that has been called.
        self._pending_calls: list[tuple[Any, ...]] | None = []
        # By the child's descriptor; None: not connected yet.
        self._pipes: dict[int, _WriteProtocol | None] = {
            fd: None
            for fd, given in enumerate((stdin, stdout, stderr))
            if given == subprocess.PIPE
        }
        try:
            proc = subprocess.Popen(
                args,
                shell=shell,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                universal_newlines=False,
                bufsize=0,
                **kwargs,
            )
        except BaseException:
            self._closed = True
            raise
        self._proc = proc
        self._pid = proc.pid
        self._extra: dict[str, Any] = {"subprocess": proc}
        if loop.get_debug():
            program = args if isinstance(args, (bytes, str)) else args[0]
            logger.debug("process %r created: pid %s", program, proc.pid)
        Child(loop, proc, self._child_exited)

    def __repr__(self) -> str:
        info = [type(self).__name__]
        if self._closed:
            info.append("closed")
        if self._pid is not None:
            info.append(f"pid={self._pid}")
        if self._returncode is not None:
            info.append(f"returncode={self._returncode}")
        else:
            info.append("not started" if self._pid is None else "running")
        stdin, stdout, stderr = (self._pipes.get(fd) for fd in range(3))
        if stdin is not None:
            info.append(f"stdin={stdin.pipe}")
        if stdout is not None and stderr is stdout:
            info.append(f"stdout=stderr={stdout.pipe}")
        else:
            if stdout is not None:
                info.append(f"stdout={stdout.pipe}")
            if stderr is not None:
                info.append(f"stderr={stderr.pipe}")
        return f"<{' '.join(info)}>"

    def __del__(self, _warn: Callable[..., None] = warnings.warn) -> None:
        if not self._closed and not (self._loop is not None and self._loop._forked):
            _warn(f"unclosed transport {self!r}", ResourceWarning, source=self)
            self.close()

    # ---- asking ----

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Have another protocol told from now on."""
        self._protocol = protocol  # type: ignore[assignment]

    def get_protocol(self) -> asyncio.BaseProtocol:
        """The protocol; None when connection_lost() has been called."""
        return self._protocol  # type: ignore[return-value]

    def is_closing(self) -> bool:
        """Whether close() was called."""
        return self._closed

    def get_pid(self) -> int | None:  # type: ignore[override]
        """The child's process id."""
        return self._pid

    def get_returncode(self) -> int | None:
        """How the child has ended; None: it has not."""
        return self._returncode

    def get_pipe_transport(self, fd: int) -> asyncio.BaseTransport | None:
        """The transport of the child's descriptor 0, 1 or 2; None: no pipe."""
        pipe = self._pipes.get(fd)
        return None if pipe is None else pipe.pipe

    async def _wait(self) -> int:
        """Wait until the child has ended."""
        if self._returncode is not None:
            return self._returncode
        assert self._loop is not None
        waiter: asyncio.Future[int] = self._loop.create_future()
        self._exit_waiters.append(waiter)
        return await waiter

    # ---- signals and the end ----

    def send_signal(self, signal: int) -> None:
        """Send a signal; nothing happens when the child has ended just now.

        Raises ProcessLookupError when that is known since connection_lost(), and
        PermissionError, for a child that has changed its user.
        """
        if self._proc is None:
            raise ProcessLookupError()
        assert self._loop is not None
        if self._loop._forked:
            self._loop._check_closed()  # Raises, and names the fork.
        # Once waited for, the number may be another process's.
        if self._proc.returncode is None:
            try:
                os.kill(self._proc.pid, signal)
            except ProcessLookupError:
                pass

    def terminate(self) -> None:
        """Send SIGTERM, as send_signal()."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL, as send_signal()."""
        self.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """Close the pipes, and kill the child if it still runs."""
        if self._closed:
            return
        self._closed = True
        if self._loop is not None and self._loop._forked:
            return  # The child process is the parent's, and so are the pipes.
        loop_is_open = self._loop is not None and not self._loop.is_closed()
        for pipe in self._pipes.values():
            if pipe is not None and pipe.pipe is not None and loop_is_open:
                pipe.pipe.close()
        proc = self._proc
        if proc is None or self._returncode is not None or reap(proc) is not None:
            return
        if loop_is_open and self._loop.get_debug():  # type: ignore[union-attr]
            logger.warning("Close running child process: kill %r", self)
        try:
            proc.kill()
        except (ProcessLookupError, PermissionError):
            pass  # It has ended, or has changed its user.

    # ---- the beginning ----

    async def _connect(self) -> None:
        """Make transports of the pipes, then call connection_made().

        When this fails or is cancelled, nothing is left but the child, which is
        killed and waited for, and the protocol is told nothing.
        """
        loop, proc = self._loop, self._proc
        assert loop is not None and proc is not None
        try:
            if proc.stdin is not None:
                await self._connect_pipe(
                    loop.connect_write_pipe, proc.stdin, _WriteProtocol(self, 0)
                )
            if proc.stdout is not None:
                await self._connect_pipe(
                    loop.connect_read_pipe, proc.stdout, _ReadProtocol(self, 1)
                )
            if proc.stderr is not None:
                await self._connect_pipe(
                    loop.connect_read_pipe, proc.stderr, _ReadProtocol(self, 2)
                )
            made = loop.create_future()
            self._tell_all(made)
            await made
        except BaseException as exc:
            self._give_up(proc)
            if not isinstance(exc, (SystemExit, KeyboardInterrupt)):
                await self._wait()
            raise

    async def _connect_pipe(
        self, connect: _Connect, file: IO[bytes], protocol: _WriteProtocol
    ) -> None:
        self._pipes[protocol.fd] = protocol
        try:
            await connect(lambda: protocol, file)
        except BaseException:
            protocol.process = None
            self._pipes[protocol.fd] = None
            raise

    def _tell_all(self, made: asyncio.Future[None]) -> None:
        """Call connection_made(), then what has come in between."""
        assert self._loop is not None and self._protocol is not None
        pending, self._pending_calls = self._pending_calls, None
        self._call(self._protocol.connection_made, self)
        for call in pending or ():
            self._call(*call)
        self._loop.call_soon(_wake, made)

    def _give_up(self, proc: subprocess.Popen[bytes]) -> None:
        self.close()
        if self._pending_calls is None:
            return  # The protocol has been told, and will hear of the end.
        self._pending_calls = None
        self._protocol = asyncio.SubprocessProtocol()  # It does nothing.
        for fd, file in enumerate((proc.stdin, proc.stdout, proc.stderr)):
            if file is not None and self._pipes[fd] is None:
                close_quietly(file)
                del self._pipes[fd]
        self._try_finish()

    # ---- what happens ----

    def _call(self, callback: Callable[..., object], *args: Any) -> None:
        if self._pending_calls is not None:
            self._pending_calls.append((callback, *args))
        else:
            assert self._loop is not None
            self._loop.call_soon(callback, *args, context=self._context)

    def _pipe_data_received(self, fd: int, data: bytes) -> None:
        assert self._protocol is not None
        self._call(self._protocol.pipe_data_received, fd, data)

    def _pipe_connection_lost(self, fd: int, exc: BaseException | None) -> None:
        assert self._protocol is not None
        self._call(self._protocol.pipe_connection_lost, fd, exc)
        self._try_finish()

    def _child_exited(self, returncode: int) -> None:
        assert self._loop is not None
        self._loop.call_soon(self._process_exited, returncode)

    def _process_exited(self, returncode: int) -> None:
        assert self._loop is not None and self._protocol is not None
        if self._loop.get_debug():
            logger.info("%r exited with return code %r", self, returncode)
        self._returncode = returncode
        if self._proc is not None and self._proc.returncode is None:
            set_returncode(self._proc, returncode)  # Told by somebody else.
        self._call(self._protocol.process_exited)
        self._try_finish()
        if not self._finished:
            self._loop.call_later(0, self._wake_waiters_after, _POLLS_FOR_PIPES)

    def _try_finish(self) -> None:
        if self._returncode is None or self._finished:
            return
        if all(pipe is not None and pipe.disconnected for pipe in self._pipes.values()):
            self._finished = True
            self._call(self._call_connection_lost)

    def _call_connection_lost(self) -> None:
        assert self._protocol is not None
        try:
            self._protocol.connection_lost(None)
        finally:
            self._wake_waiters()
            self._loop = self._proc = self._protocol = None

    def _wake_waiters(self) -> None:
        waiters, self._exit_waiters = self._exit_waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(self._returncode)  # type: ignore[arg-type]

    def _wake_waiters_after(self, polls: int) -> None:
        """Pipes may outlive the child: when nobody reads them, or in another
        process.  But mostly their ends come with its own, and wait() after them."""
        if polls == 0:
            self._wake_waiters()
        elif self._loop is not None:
            self._loop.call_later(0, self._wake_waiters_after, polls - 1)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


# asyncio's own functions look at the arguments.  They are also what tools that look
# for blocking calls know: Popen waits until the child has begun its program.
_base: Any = base_event_loop


class SubprocessLoop(PipeLoop):
    """Subprocesses."""

    async def subprocess_shell(
        self,
        protocol_factory: Callable[[], _P],
        cmd: str | bytes,
        *,
        stdin: Any = subprocess.PIPE,
        stdout: Any = subprocess.PIPE,
        stderr: Any = subprocess.PIPE,
        universal_newlines: bool = False,
        shell: bool = True,
        bufsize: int = 0,
        encoding: str | None = None,
        errors: str | None = None,
        text: bool | None = None,
        **kwargs: Any,
    ) -> tuple[asyncio.SubprocessTransport, _P]:
        """Have a shell run the command line; returns (transport, protocol).

        As subprocess_exec().
        """
        self._check_closed()
        made: tuple[SubprocessTransport, _P] = await _base.subprocess_shell(
            self,
            protocol_factory,
            cmd,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            universal_newlines=universal_newlines,
            shell=shell,
            bufsize=bufsize,
            encoding=encoding,
            errors=errors,
            text=text,
            **kwargs,
        )
        return made

    async def subprocess_exec(
        self,
        protocol_factory: Callable[[], _P],
        program: Any,
        *args: Any,
        stdin: Any = subprocess.PIPE,
        stdout: Any = subprocess.PIPE,
        stderr: Any = subprocess.PIPE,
        universal_newlines: bool = False,
        shell: bool = False,
        bufsize: int = 0,
        encoding: str | None = None,
        errors: str | None = None,
        text: bool | None = None,
        **kwargs: Any,
    ) -> tuple[asyncio.SubprocessTransport, _P]:
        """Run a program with arguments; returns (transport, protocol).

        All other keywords are those of subprocess.Popen on this Python; bytes only
        pass the pipes.  Raises ValueError for keywords that ask for more, and what
        Popen raises: FileNotFoundError, PermissionError and other OSErrors,
        subprocess.SubprocessError, TypeError.
        """
        self._check_closed()
        made: tuple[SubprocessTransport, _P] = await _base.subprocess_exec(
            self,
            protocol_factory,
            program,
            *args,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            universal_newlines=universal_newlines,
            shell=shell,
            bufsize=bufsize,
            encoding=encoding,
            errors=errors,
            text=text,
            **kwargs,
        )
        return made

    # ---- what asyncio's functions call ----

    _log_subprocess = _base._log_subprocess

    async def _make_subprocess_transport(
        self,
        protocol: asyncio.BaseProtocol,
        args: _Args,
        shell: bool,
        stdin: Any,
        stdout: Any,
        stderr: Any,
        bufsize: int,
        **kwargs: Any,
    ) -> SubprocessTransport:
        transport = SubprocessTransport(
            self, protocol, args, shell, stdin, stdout, stderr, **kwargs
        )
        await transport._connect()
        return transport
