"""A forked child and its parent's event loop, and programs that fork."""

import asyncio
import concurrent.futures
import functools
import gc
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import threading
import time
import warnings

import pytest

import uvtulip
from aiosupport import Echo, Recorder, check_script, run, turns, until
from forksupport import end_child, finish_child, in_child

FORKED = "belongs to the parent process.*fork"


async def connection(factory=Recorder):
    """An Echo server, and a connection to it: (server, transport, protocol)."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    transport, protocol = await loop.create_connection(
        factory, *server.sockets[0].getsockname()
    )
    return server, transport, protocol


async def end(server, transport, protocol):
    """Whether the connection still works in both directions; then its end."""
    protocol.data.clear()
    transport.write(b"after the fork")
    await until(lambda: protocol.data)
    assert protocol.data == b"after the fork"
    assert not protocol.lost
    transport.close()
    server.close()
    await server.wait_closed()


# ---- what a child may not do ----


def test_every_use_of_the_loop_names_the_fork():
    async def main():
        loop = asyncio.get_running_loop()
        server, transport, protocol = await connection()
        future = loop.create_future()
        future.add_done_callback(print)
        event = asyncio.Event()
        waiting = loop.create_task(event.wait())
        await turns()
        datagrams, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
        )
        address = datagrams.get_extra_info("sockname")
        a, b = socket.socketpair()
        a.setblocking(False)
        reading, writing = os.pipe()
        pipe, _ = await loop.connect_write_pipe(
            asyncio.BaseProtocol, os.fdopen(writing, "wb", 0)
        )
        file = tempfile.TemporaryFile()
        file.write(b"x")
        file.flush()

        def start(coroutine):
            try:
                coroutine.send(None)
            finally:
                coroutine.close()

        uses = [
            lambda: loop.call_soon(print),
            lambda: loop.call_soon_threadsafe(print),
            lambda: loop.call_later(1, print),
            lambda: loop.call_at(1, print),
            lambda: loop.add_reader(a, print),
            lambda: loop.add_writer(a, print),
            lambda: loop.add_signal_handler(signal.SIGUSR1, print),
            lambda: loop.run_in_executor(None, print),
            lambda: future.set_result(1),
            event.set,
            lambda: transport.write(b"x"),
            lambda: transport.write(bytearray(100_000)),
            lambda: transport.writelines([b"x", b"y"]),
            transport.write_eof,
            transport.pause_reading,
            lambda: datagrams.sendto(b"x", address),
            lambda: pipe.write(b"x"),
            pipe.write_eof,
            lambda: start(loop.getaddrinfo("localhost", 1)),
            lambda: start(loop.create_datagram_endpoint(Recorder, ("127.0.0.1", 0))),
            lambda: start(loop.create_unix_connection(Recorder, "/no/such/socket")),
            lambda: start(loop.create_connection(Recorder, "127.0.0.1", 1)),
            lambda: start(loop.create_server(Recorder, "127.0.0.1", 0)),
            lambda: start(loop.sock_recv(a, 1)),
            lambda: start(loop.sock_sendall(a, b"x")),
            lambda: start(loop.sendfile(transport, file)),
            lambda: start(loop.sock_sendfile(a, file)),
            lambda: start(loop.subprocess_exec(asyncio.SubprocessProtocol, "true")),
        ]

        def child():
            for use in uses:
                with pytest.raises(RuntimeError, match=FORKED):
                    use()
            with pytest.raises(RuntimeError, match="no running event loop"):
                asyncio.get_running_loop()
            assert asyncio._get_running_loop() is None
            assert not loop.is_closed()
            # What cleans up may do so, to no effect.
            for each in (transport, datagrams, pipe):
                each.close()
                each.abort()
                assert not each.is_closing()
            server.close()

        in_child(child)
        assert asyncio.get_running_loop() is loop
        event.set()
        await waiting
        future.cancel()
        datagrams.close()
        pipe.write(b"of the parent")
        pipe.write_eof()
        assert os.read(reading, 100) == b"of the parent"
        os.close(reading)
        file.close()
        await end(server, transport, protocol)
        a.close()
        b.close()

    run(main())


def test_run_names_the_fork():
    loop = uvtulip.new_event_loop()
    loop.run_until_complete(turns())

    def child():
        for use in (loop.run_forever, lambda: loop.run_until_complete(turns())):
            with pytest.raises(RuntimeError, match=FORKED):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # The coroutine is not run.
                    use()
                    gc.collect()
        loop.stop()
        assert not loop.is_running()
        loop.close()
        assert loop.is_closed()
        with pytest.raises(RuntimeError, match="Event loop is closed"):
            loop.call_soon(print)

    in_child(child)
    loop.run_until_complete(turns())
    loop.close()


def test_a_child_that_goes_on_leaves_the_run():
    """The run raises RuntimeError; other callbacks that were due do not run."""
    loop = uvtulip.new_event_loop()
    reading, writing = os.pipe()
    log = []
    pid = None

    def fork():
        nonlocal pid
        pid = os.fork()
        log.append("forked")

    loop.call_soon(log.append, "before")
    loop.call_soon(fork)
    loop.call_soon(log.append, "after")
    loop.call_soon(loop.stop)
    error = None
    try:
        loop.run_forever()
    except RuntimeError as exc:
        error = exc

    def child():
        with pytest.raises(RuntimeError, match=FORKED):
            raise error
        assert log == ["before", "forked"]
        assert not loop.is_running()
        assert uvtulip.run(asyncio.sleep(0, "a new loop")) == "a new loop"
        loop.close()

    if pid == 0:
        os.close(reading)
        end_child(writing, child)
    assert error is None
    assert log == ["before", "forked", "after"]
    os.close(writing)
    finish_child(pid, reading)
    loop.close()


@pytest.mark.parametrize("where", ["task", "callback", "data_received"])
@pytest.mark.parametrize("how", ["exit", "raise", "return"])
def test_a_child_that_ends_itself(where, how):
    """SystemExit goes through, an error is the child's own, and a child that
    returns to the loop ends with RuntimeError.  The parent goes on."""
    source = """
import asyncio, os, signal, sys, uvtulip
where, how = sys.argv[1:]
statuses = []

def fork():
    pid = os.fork()
    if pid:
        statuses.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    elif how == "exit":
        sys.exit(7)
    elif how == "raise":
        raise KeyError

class Protocol(asyncio.Protocol):
    data = b""
    def connection_made(self, transport):
        self.transport = transport
    def data_received(self, data):
        self.data += data
        self.transport.write(data)
        if where == "data_received":
            fork()

async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Protocol, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    if where == "task":
        fork()
    elif where == "callback":
        loop.call_soon(fork)
    writer.write(b"data")
    assert await reader.readexactly(4) == b"data"
    server.close()
    writer.write_eof()
    assert await reader.read() == b""
    writer.close()

me = os.getpid()
uvtulip.run(main())
assert os.getpid() == me
print(statuses)
"""
    import subprocess

    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", source, where, how],
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ("[7]\n" if how == "exit" else "[1]\n"), done.stderr
    if how == "return":
        assert "RuntimeError" in done.stderr and "fork()" in done.stderr


# ---- what is left alone ----


@pytest.mark.parametrize("how", ["close", "collect", "exit"])
def test_the_parent_is_not_disturbed(how):
    async def main():
        loop = asyncio.get_running_loop()
        server, transport, protocol = await connection()
        a, b = socket.socketpair()
        calls = []
        loop.add_reader(b, calls.append, "readable")
        timer = loop.call_later(3600, print)
        woken = loop.create_future()

        def wake():
            loop.call_soon_threadsafe(woken.set_result, None)

        await turns()
        pid = os.fork()
        if pid == 0:
            child_of_parent.append(True)
            raise SystemExit
        assert os.waitpid(pid, 0)[1] == 0
        a.send(b"x")
        await until(lambda: calls)
        threading.Timer(0.02, wake).start()
        await woken
        loop.remove_reader(b)
        timer.cancel()
        a.close()
        b.close()
        await end(server, transport, protocol)

    child_of_parent = []
    loop = uvtulip.new_event_loop()
    loop.set_exception_handler(lambda loop, context: None)
    try:
        loop.run_until_complete(main())
    except SystemExit:
        assert child_of_parent
        try:
            if how == "close":
                loop.close()
                assert loop.is_closed()
            elif how == "collect":
                del loop, main
                gc.collect()
        except BaseException as exc:
            print(exc)
            os._exit(1)
        os._exit(0)
    loop.close()


def test_transports_of_the_parent_are_collected_silently_in_the_child():
    check_script(
        """
        import asyncio, gc, os, warnings, uvtulip
        warnings.simplefilter("error")
        async def main():
            loop = asyncio.get_running_loop()
            server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
            address = server.sockets[0].getsockname()
            transport, _ = await loop.create_connection(asyncio.Protocol, *address)
            return server, transport
        loop = uvtulip.new_event_loop()
        kept = loop.run_until_complete(main())
        pid = os.fork()
        if pid == 0:
            loop.close()
            del loop, kept
            gc.collect()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        server, transport = kept
        transport.close()
        server.close()
        async def finish():
            await server.wait_closed()
        loop.run_until_complete(finish())
        loop.close()
        """
    )


def test_subprocesses_of_the_parent_are_not_the_childs():
    async def main():
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.subprocess_exec(
            asyncio.SubprocessProtocol, "cat"
        )

        def child():
            for use in (transport.kill, transport.terminate):
                with pytest.raises(RuntimeError, match=FORKED):
                    use()
            transport.close()
            assert transport.is_closing()

        in_child(child)
        assert transport.get_returncode() is None
        assert not transport.is_closing()
        transport.get_pipe_transport(0).write_eof()
        assert await transport._wait() == 0
        transport.close()

    run(main())


# ---- a loop in the child ----


def test_a_new_loop_in_the_child():
    async def main():
        loop = asyncio.get_running_loop()
        server, transport, protocol = await connection()

        async def in_the_child():
            assert asyncio.get_running_loop() is not loop
            mine = await connection()
            await end(*mine)
            process = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
            assert await process.communicate(b"x") == (b"x", None)
            assert await asyncio.to_thread(lambda: 5) == 5
            return "done"

        in_child(lambda: run(in_the_child()) == "done" or 1 // 0)
        await end(server, transport, protocol)

    run(main())


def test_fork_while_another_thread_runs_a_loop():
    ready = threading.Event()
    loops = []

    def work():
        async def main():
            loops.extend((asyncio.get_running_loop(), asyncio.Event()))
            ready.set()
            await loops[1].wait()

        run(main())

    thread = threading.Thread(target=work)
    thread.start()
    ready.wait()
    time.sleep(0.02)

    def child():
        assert not loops[0].is_running()
        with pytest.raises(RuntimeError, match=FORKED):
            loops[0].call_soon_threadsafe(print)
        loops[0].close()
        assert loops[0].is_closed()
        assert run(asyncio.sleep(0, 1)) == 1

    in_child(child)
    loops[0].call_soon_threadsafe(loops[1].set)
    thread.join()


def test_grandchildren():
    async def main():
        loop = asyncio.get_running_loop()

        def child():
            async def inner():
                mine = asyncio.get_running_loop()

                def grandchild():
                    for theirs in (loop, mine):
                        with pytest.raises(RuntimeError, match=FORKED):
                            theirs.call_soon(print)
                    assert run(asyncio.sleep(0, 3)) == 3

                in_child(grandchild)
                return 2

            assert run(inner()) == 2

        in_child(child)

    run(main())


def test_preexec_fn_under_a_running_loop():
    """It runs in a forked child, which must not touch the loop; nor does it."""

    async def main():
        server, transport, protocol = await connection()
        processes = [
            await asyncio.create_subprocess_exec(
                "sh", "-c", "exit 4", preexec_fn=os.setsid
            )
            for _ in range(10)
        ]
        assert [await process.wait() for process in processes] == [4] * 10
        await end(server, transport, protocol)

    run(main())


# ---- multiprocessing ----


def square(x):
    return x * x


def run_a_loop(x):
    async def main():
        await asyncio.sleep(0.001)
        return x + 1

    return uvtulip.run(main())


def put(queue, x):
    queue.put(run_a_loop(x))


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(method):
    """Processes, a pool and an executor, from inside of a running loop."""
    context = multiprocessing.get_context(method)

    async def main():
        loop = asyncio.get_running_loop()
        server, transport, protocol = await connection()
        queue = context.Queue()
        process = context.Process(target=put, args=(queue, 1))
        process.start()
        assert await asyncio.to_thread(queue.get, True, 20) == 2
        await asyncio.to_thread(process.join)
        assert process.exitcode == 0
        with context.Pool(2) as pool:
            result = loop.create_future()
            pool.map_async(
                square,
                range(5),
                callback=functools.partial(
                    loop.call_soon_threadsafe, result.set_result
                ),
            )
            assert await result == [0, 1, 4, 9, 16]
        pool.join()
        with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as executor:
            got = await asyncio.gather(
                *(loop.run_in_executor(executor, run_a_loop, i) for i in range(5))
            )
        assert got == [1, 2, 3, 4, 5]
        await end(server, transport, protocol)
        queue.close()
        queue.join_thread()

    with warnings.catch_warnings():
        # fork() in a process with threads, which this test asks for.
        warnings.simplefilter("ignore", DeprecationWarning)
        run(main())


# ---- signals ----


def test_signal_handlers_of_the_loop_are_not_the_childs():
    """So a child can be terminated; its signals do not come to the parent."""

    async def main():
        loop = asyncio.get_running_loop()
        calls = []
        loop.add_signal_handler(signal.SIGTERM, calls.append, "SIGTERM")
        loop.add_signal_handler(signal.SIGINT, calls.append, "SIGINT")

        def child():
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
            assert signal.set_wakeup_fd(-1) == -1

        in_child(child)
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.write(writing, b"x")
            time.sleep(20)
            os._exit(1)
        assert os.read(reading, 1) == b"x"
        os.close(reading)
        os.close(writing)
        os.kill(pid, signal.SIGTERM)
        assert os.waitpid(pid, 0)[1] == signal.SIGTERM
        await asyncio.sleep(0.01)
        assert calls == []
        os.kill(os.getpid(), signal.SIGTERM)
        await until(lambda: calls)
        assert calls == ["SIGTERM"]

    run(main())


def test_ctrl_c_in_the_child_of_a_runner():
    async def main():
        assert isinstance(signal.getsignal(signal.SIGINT), functools.partial)

        def child():
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(5)

        in_child(child)

    run(main())


def test_handlers_of_the_program_stay_in_the_child():
    def handler(*args):
        pass

    async def main():
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, print)
        old = signal.signal(signal.SIGUSR2, handler)
        signal.signal(signal.SIGUSR1, handler)

        def child():
            assert signal.getsignal(signal.SIGUSR1) is handler
            assert signal.getsignal(signal.SIGUSR2) is handler

        in_child(child)
        signal.signal(signal.SIGUSR2, old)

    run(main())


def test_what_was_written_before_the_fork_is_sent_once():
    """It still waits for the end of the callback, in both processes."""
    check_script(
        """
        import asyncio, os, uvtulip
        async def main():
            server = await asyncio.start_server(echo, "127.0.0.1", 0)
            address = server.sockets[0].getsockname()
            reader, writer = await asyncio.open_connection(*address)
            loop = asyncio.get_running_loop()
            datagrams, _ = await loop.create_datagram_endpoint(
                asyncio.DatagramProtocol, remote_addr=receiver.getsockname())
            writer.write(b"once;")
            datagrams.sendto(b"once")
            pid = os.fork()
            if pid == 0:
                raise SystemExit(0)
            assert os.waitpid(pid, 0)[1] == 0
            writer.write(b"end")
            writer.write_eof()
            assert await reader.read() == b"once;end"
            writer.close()
            datagrams.close()
            server.close()
            assert await loop.sock_recv(receiver, 100) == b"once"
            receiver.setblocking(False)
            try:
                raise AssertionError(receiver.recv(100))
            except BlockingIOError:
                pass

        async def echo(reader, writer):
            writer.write(await reader.read())
            writer.close()

        import socket
        receiver = socket.socket(type=socket.SOCK_DGRAM)
        receiver.bind(("127.0.0.1", 0))
        receiver.setblocking(False)
        loop = uvtulip.new_event_loop()
        try:
            loop.run_until_complete(main())
        except SystemExit:
            os._exit(0)
        loop.close()
        receiver.close()
        """,
        "-W",
        "ignore",
    )


def test_tls_connection_of_the_parent():
    pytest.importorskip("trustme")
    from tlssupport import client_context, server_context

    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, "127.0.0.1", 0, ssl=server_context())
        host, port = server.sockets[0].getsockname()
        transport, protocol = await loop.create_connection(
            Recorder, host, port, ssl=client_context(), server_hostname="localhost"
        )

        def child():
            for use in (
                lambda: transport.write(b"of the child"),
                lambda: transport.writelines([b"of", b"the child"]),
                transport.pause_reading,
            ):
                with pytest.raises(RuntimeError, match=FORKED):
                    use()
            transport.close()
            transport.abort()

        in_child(child)
        await end(server, transport, protocol)

    run(main())
