"""Raw handles in the hands of a program that does anything at any time: any method
with any argument, from any callback, on descriptors that somebody else closes.

    python tests/apifuzz.py [--first SEED] [--count N] [--jobs N]

No crash, no hang, no exception but the documented kinds, no descriptor left over.
A seed determines what a program does, though not when the kernel answers.  Programs
run in batches, each in a process of its own; the seed that ends one is named.
"""

import argparse
import concurrent.futures
import faulthandler
import gc
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from tlssupport import client_context, server_context
from uvtulip import uv

STEPS = 80
DEPTH = 3  # of callbacks whose steps call callbacks
HANDLES = 24  # that a program has at most
EVENTS = 1000  # callbacks that do anything
BATCH = 50  # programs per process
LIMIT = 60  # seconds that one program has

# What a call may raise.
REFUSALS = (OSError, RuntimeError, TypeError, ValueError, OverflowError, BufferError)
# What may come from a callback: what it does itself, and what get_buffer() returns.
ACCIDENTS = (TypeError, ValueError, BufferError)


class Boom(Exception):
    """What callbacks raise now and then."""


# ---- what can be called ----

# A kind of argument with "?" may be left out, and all after it.
STREAM = {
    "start_read": "callback",
    "start_read_into": "get_buffer callback",
    "stop_read": "",
    "listen": "callback number?",
    "accept": "handle",
    "write": "data callback?",
    "writelines": "pieces callback?",
    "try_write": "data",
    "shutdown": "callback?",
    "set_blocking": "false",
    "fileno": "",
}
METHODS: dict[type, dict[str, str]] = {
    uv.TCP: {
        **STREAM,
        "bind": "address number?",
        "open": "fd",
        "connect": "address callback",
        "getsockname": "",
        "getpeername": "",
        "close_reset": "callback?",
        "nodelay": "bool",
        "keepalive": "bool number?",
        "keepalive_ex": "bool number? number? number?",
        "simultaneous_accepts": "bool",
    },
    uv.Pipe: {
        **STREAM,
        "bind": "name",
        "connect": "name callback",
        "open": "fd",
        "getsockname": "",
        "getpeername": "",
        "chmod": "number",
        "write": "data callback? handle?",
        "try_write2": "data handle",
        "accept_fd": "",
        "pending_instances": "number",
        "pending_count": "",
        "pending_handle_type": "",
    },
    uv.TTY: {**STREAM, "set_mode": "number", "get_winsize": ""},
    uv.UDP: {
        "bind": "address number?",
        "open": "fd",
        "connect": "address",
        "getsockname": "",
        "getpeername": "",
        "start_recv": "callback",
        "stop_recv": "",
        "send": "address data callback?",
        "try_send": "address data",
        "try_send2": "messages",
        "set_membership": "group number host?",
        "set_source_membership": "group host host number",
        "set_multicast_interface": "host?",
        "set_multicast_ttl": "number",
        "set_multicast_loop": "bool",
        "set_broadcast": "bool",
        "set_ttl": "number",
        "fileno": "",
    },
    uv.Timer: {
        "start": "callback seconds seconds?",
        "stop": "",
        "again": "",
        "get_due_in": "",
    },
    uv.Poll: {"start": "number callback", "stop": "", "fileno": ""},
    uv.Signal: {
        "start": "callback signal",
        "start_oneshot": "callback signal",
        "stop": "",
    },
    uv.FSEvent: {"start": "name number callback", "stop": ""},
    uv.FSPoll: {"start": "name seconds callback", "stop": ""},
    uv.Process: {"kill": "death"},
    uv.Async: {"send": ""},
    uv.Idle: {"start": "callback", "stop": ""},
    uv.Prepare: {"start": "callback", "stop": ""},
    uv.Check: {"start": "callback", "stop": ""},
    uv.TLS: {
        "handshake": "callback",
        "start_read": "callback",
        "stop_read": "",
        "write": "data callback?",
        "writelines": "pieces callback?",
        "try_write": "data",
        "shutdown": "callback?",
        "getpeercert": "bool?",
        "cipher": "",
        "version": "",
        "selected_alpn_protocol": "",
    },
    uv.Request: {"cancel": ""},
}
for _kind, _methods in METHODS.items():
    if _kind is not uv.Request:
        _methods["close"] = "callback?"

JUNK = [
    None,
    -1,
    0,
    2**31,
    2**70,
    1.5,
    float("nan"),
    "",
    b"",
    "text",
    (),
    [],
    {},
    ...,
]
HOSTS = ["127.0.0.1", "::1", "0.0.0.0", "::", "localhost", "300.0.0.1", "fe80::1%lo"]
NUMBERS = [0, 1, 2, 3, 4, 5, 7, 8, 15, 255, 511, -1, 65535, 2**31 - 1]


class Loop(uv.Loop):
    """Tells the program what its callbacks raised."""

    program: "Program"

    def excepthook(self, kind: type, value: BaseException, tb: Any) -> None:
        self.program.check(value, (Boom, KeyboardInterrupt, *ACCIDENTS))


class Program:
    """What one seed does."""

    def __init__(self, seed: int, folder: str) -> None:
        self.rnd = random.Random(seed)
        self.folder = folder
        self.fds: list[int] = []  # ours to close
        self.things: list[Any] = []  # handles, layers of TLS, requests
        self.taken: list[Any] = []  # those that lost their descriptors
        self.ports = [0]
        self.errors: list[BaseException] = []
        self.depth = 0
        self.events = EVENTS
        self.contexts = server_context(), client_context()
        # Descriptors are closed under their handles; whose number is whose is then
        # nobody's to say, so that none are counted.
        self.adversary = self.rnd.random() < 0.3
        self.loops = [Loop(), Loop()]
        for loop in self.loops:
            loop.program = self

    def check(self, exc: BaseException, allowed: tuple[type, ...]) -> None:
        if not isinstance(exc, allowed):
            self.errors.append(exc)

    # ---- arguments ----

    def argument(self, kind: str) -> Any:
        if self.rnd.random() < 0.03:
            return self.rnd.choice(JUNK)
        return getattr(self, f"a_{kind}")()

    def a_callback(self) -> Any:
        return self.rnd.choice([self.on_event, self.new_callback()])

    def a_get_buffer(self) -> Any:
        def get_buffer(handle: Any, size: int) -> Any:
            self.on_event()
            return self.rnd.choice(
                [
                    bytearray(100),
                    memoryview(bytearray(70000)),
                    b"fixed",
                    bytearray(),
                    None,
                ]
            )

        return get_buffer

    def a_data(self) -> Any:
        piece = self.rnd.randbytes(self.rnd.choice([0, 1, 10, 1000, 100_000]))
        return self.rnd.choice(
            [piece, bytearray(piece), memoryview(piece)[::2], [piece, b"", piece]]
        )

    def a_pieces(self) -> Any:
        return [self.a_data() for _ in range(self.rnd.randrange(4))]

    def a_messages(self) -> Any:
        return [(self.a_address(), b"data") for _ in range(self.rnd.randrange(4))]

    def a_address(self) -> Any:
        address = self.rnd.choice(HOSTS[:2] * 4 + HOSTS), self.rnd.choice(self.ports)
        return self.rnd.choice([address] * 6 + [None, (*address, 0, 0)])

    def a_host(self) -> Any:
        return self.rnd.choice([*HOSTS, None])

    def a_group(self) -> Any:
        return self.rnd.choice(["239.1.2.3", "ff02::1234", "127.0.0.1"])

    def a_handle(self) -> Any:
        return self.rnd.choice(self.things) if self.things else None

    def a_fd(self) -> Any:
        if self.fds and self.rnd.random() < 0.9:
            return self.rnd.choice(self.fds)
        return self.rnd.choice([-1, 10_000, 2**40])

    def a_name(self) -> Any:
        name = self.rnd.choice(["a", "b", "", "no/such", "x" * 200, "with\0zero"])
        path = os.path.join(self.folder, name)
        return self.rnd.choice(
            [path, path, path.encode(), f"\0uvtulip{os.getpid()}{name}", self.folder]
        )

    def a_number(self) -> int:
        return self.rnd.choice(NUMBERS)

    def a_seconds(self) -> float:
        return self.rnd.choice([0, 0, 0.001, 0.005, 3, 1e300, -1, float("inf")])

    def a_bool(self) -> bool:
        return self.rnd.random() < 0.5

    def a_false(self) -> bool:
        return False  # Else writing waits for a reader that is this thread.

    def a_signal(self) -> int:
        return self.rnd.choice(
            [signal.SIGURG, signal.SIGWINCH, 0, signal.SIGKILL, 1000]
        )

    def a_death(self) -> int:
        return self.rnd.choice([0, signal.SIGTERM, signal.SIGKILL, 1000, -1])

    # ---- callbacks ----

    def on_event(self, *args: Any) -> Any:
        if self.depth >= DEPTH or self.events <= 0:
            return
        self.depth += 1
        self.events -= 1
        try:
            for _ in range(self.rnd.choice([0, 0, 0, 1, 1, 2])):
                self.step()
            chance = self.rnd.random()
            if chance < 0.04:
                raise Boom
            if chance < 0.05:
                raise KeyboardInterrupt
        finally:
            self.depth -= 1

    def new_callback(self) -> Callable[..., Any]:
        """One whose life is the handle's, and that keeps another one."""
        other = self.a_handle()

        def callback(*args: Any) -> Any:
            if other is not None and self.rnd.random() < 0.2:
                self.attempt(self.call, other)
            return self.on_event(*args)

        return self.rnd.choice(
            [callback, lambda: None] if other is None else [callback]
        )

    # ---- steps ----

    def step(self) -> None:
        rnd = self.rnd
        steps: list[tuple[float, Callable[[], None]]] = [
            (4, self.make),
            (12, self.call_any),
            (2, self.look),
            (1, self.forget),
            (2, self.new_descriptor),
            (0.3, self.close_descriptor),
            (1, self.loop_call),
            (0.4, self.raise_signal),
            (0.2, self.in_thread),
            (0.2, self.collect),
            (1 if self.depth == 0 else 0.1, self.run),
            (0.4 if self.adversary else 0, self.take_away),
        ]
        weights, functions = zip(*steps, strict=True)
        self.attempt(rnd.choices(functions, weights)[0])

    def attempt(self, function: Callable[..., Any], *args: Any) -> Any:
        try:
            return function(*args)
        except (*REFUSALS, Boom, KeyboardInterrupt):
            return None  # All others end the program.

    def make(self) -> None:
        if len(self.things) >= HANDLES:
            self.things.pop(self.rnd.randrange(HANDLES))
        loop = self.rnd.choice(self.loops)
        made = self.rnd.choice(
            [
                self.make_plain,
                self.make_plain,
                self.make_on_descriptor,
                self.make_pair,
                self.make_server,
                self.make_process,
                self.make_tls,
                self.make_request,
            ]
        )(loop)
        self.things += made

    def make_plain(self, loop: Loop) -> list[Any]:
        kind: Any = self.rnd.choice(list(METHODS))
        match kind:
            case uv.Async:
                return [uv.Async(loop, self.argument("callback"))]
            case uv.Pipe:
                return [uv.Pipe(loop, self.argument("bool"))]
            case uv.TCP | uv.UDP:
                families = [socket.AF_INET, socket.AF_INET6, socket.AF_UNSPEC, 77]
                return [kind(loop, self.rnd.choice(families))]
            case uv.Process | uv.Request | uv.TLS:
                return [kind()]  # Refused, or not initialised.
            case uv.Poll | uv.TTY:
                fd = self.argument("fd")
                handle = kind(loop, fd)
                if kind is uv.TTY and handle.fileno() == fd:
                    self.fds.remove(fd)  # No terminal: it was taken over.
                return [handle]
        return [kind(loop)]

    def make_on_descriptor(self, loop: Loop) -> list[Any]:
        handle: Any = self.rnd.choice([uv.TCP, uv.Pipe, uv.UDP])(loop)
        fd = self.argument("fd")
        handle.open(fd)
        self.fds.remove(fd)
        return [handle]

    def make_pair(self, loop: Loop) -> list[Any]:
        pair = [uv.Pipe(loop, self.rnd.random() < 0.3) for _ in range(2)]
        self.fds += uv.socketpair(nonblock=True)
        for handle in pair:
            handle.open(self.fds[-1])  # Refused where another handle watches it.
            self.fds.pop()
        for handle in pair:
            handle.start_read(self.argument("callback"))
        return pair

    def make_server(self, loop: Loop) -> list[Any]:
        server = uv.TCP(loop)
        server.bind(("127.0.0.1", 0))
        server.listen(self.argument("callback"))
        self.ports.append(server.getsockname()[1])
        return [server]

    def make_process(self, loop: Loop) -> list[Any]:
        stream = uv.Pipe(loop)
        flags = uv.UV_CREATE_PIPE | self.rnd.choice([0, uv.UV_READABLE_PIPE, 15])
        stdio: list[Any] = [uv.StdIO(stream=stream, flags=flags), None]
        if self.rnd.random() < 0.3:
            stdio.append(uv.StdIO(fd=self.argument("fd"), flags=uv.UV_INHERIT_FD))
        self.rnd.shuffle(stdio)
        program = self.rnd.choice(["true", "cat", "/no/such", ""])
        callback = self.argument("callback")
        process = uv.Process.spawn(loop, [program], stdio=stdio, exit_callback=callback)
        for fd in self.fds:
            os.set_blocking(fd, False)  # libuv makes what a child inherits blocking.
        return [process, stream]

    def make_tls(self, loop: Loop) -> list[Any]:
        server, client = self.contexts
        pair = self.make_pair(loop)
        for handle in pair:
            handle.stop_read()
        layers = [
            uv.TLS(pair[0], server, True),
            uv.TLS(pair[1], client, False, "localhost"),
        ]
        for layer in layers:
            layer.handshake(self.argument("callback"))
        return layers + pair[:1]

    def make_request(self, loop: Loop) -> list[Any]:
        callback = self.argument("callback")
        name = self.argument("name")
        return [
            self.rnd.choice(
                [
                    lambda: loop.queue_work(lambda: None, callback),
                    lambda: loop.random(self.a_number() % 1000, callback),
                    lambda: uv.fs.stat(loop, name, callback),
                    lambda: uv.fs.scandir(loop, name, callback),
                    lambda: uv.fs.mkdir(loop, name, 0o700, callback),
                    lambda: uv.dns.getaddrinfo(loop, "127.0.0.1", 1, callback=callback),
                ]
            )()
        ]

    def call_any(self) -> None:
        if self.things:
            self.call(self.rnd.choice(self.things))

    def call(self, thing: Any) -> None:
        """Any method of it."""
        for kind, methods in METHODS.items():
            if isinstance(thing, kind):
                name = self.rnd.choice(list(methods))
                if name == "close" and self.rnd.random() < 0.6:
                    continue
                kinds = methods[name].split()
                optional = [i for i, k in enumerate(kinds) if k.endswith("?")]
                count = self.rnd.choice([*optional, len(kinds)])
                args = [self.argument(k.rstrip("?")) for k in kinds[:count]]
                result = getattr(thing, name)(*args)
                if name == "open":
                    self.fds.remove(args[0])
                elif name == "accept_fd":
                    self.fds.append(result)
                return

    def look(self) -> None:
        """All that a handle tells, and some of what can be set."""
        if not self.things:
            return
        thing = self.rnd.choice(self.things)
        repr(thing)
        for name in dir(type(thing)):
            if isinstance(getattr(type(thing), name), type(uv.Handle.ref)):
                self.attempt(getattr, thing, name)
        name = self.rnd.choice(["ref", "repeat", "send_buffer_size"])
        if hasattr(type(thing), name):
            setattr(thing, name, self.argument(self.rnd.choice(["bool", "number"])))

    def forget(self) -> None:
        if self.things:
            del self.things[self.rnd.randrange(len(self.things))]

    def collect(self) -> None:
        gc.collect()

    def new_descriptor(self) -> None:
        fds: tuple[int, ...]
        match self.rnd.randrange(6):
            case 0:
                fds = uv.socketpair()
            case 1:
                fds = uv.pipe()
            case 2:
                fds = (os.open(os.devnull, os.O_RDWR),)
            case 3:
                fds = os.openpty()
            case 4:
                with socket.socket(type=socket.SOCK_DGRAM) as sock:
                    fds = (sock.detach(),)
            case _:
                fds = (os.open(self.folder, os.O_RDONLY),)
        for fd in fds:  # One may come to stand where a handle writes.
            os.set_blocking(fd, False)
        self.fds += fds

    def close_descriptor(self) -> None:
        if self.fds:
            os.close(self.fds.pop(self.rnd.randrange(len(self.fds))))

    def take_away(self) -> None:
        """Close a handle's descriptor, or put another file in its place."""
        handle = self.a_handle()
        if handle in self.taken or not hasattr(handle, "fileno"):
            return  # Its number may be that of what the loop itself has.
        fd = handle.fileno()
        if fd > 2:
            self.taken.append(handle)
            if self.fds and self.a_bool():
                other = self.rnd.choice(self.fds)
                os.set_blocking(other, False)
                os.dup2(other, fd)
            else:
                os.close(fd)

    def loop_call(self) -> None:
        loop = self.rnd.choice(self.loops)
        self.rnd.choice(
            [
                loop.stop,
                loop.update_time,
                loop.now,
                loop.fileno,
                loop.get_timeout,
                loop.metrics,
                loop.metrics_idle_time,
                loop.close,
                lambda: loop.walk(self.on_event),
                lambda: loop.configure(self.a_number(), self.a_number()),
                lambda: repr(
                    (loop, loop.handles, loop.alive, loop.running, loop.closed)
                ),
            ]
        )()

    def raise_signal(self) -> None:
        os.kill(os.getpid(), self.rnd.choice([signal.SIGURG, signal.SIGWINCH]))

    def in_thread(self) -> None:
        """A step on a thread that is not the loop's."""
        failures: list[BaseException] = []

        def run() -> None:
            try:
                self.step()
            except BaseException as exc:
                failures.append(exc)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        for exc in failures:
            raise exc

    def run(self) -> None:
        loop = self.rnd.choice(self.loops)
        mode = self.rnd.choice([uv.UV_RUN_NOWAIT, uv.UV_RUN_ONCE, uv.UV_RUN_DEFAULT])
        self.run_for(loop, mode, 0.005)

    def run_for(self, loop: Loop, mode: int, seconds: float) -> None:
        guard = uv.Timer(loop)

        def end(timer: uv.Timer) -> None:
            timer.close()
            loop.stop()

        guard.start(end, seconds, seconds)
        try:
            loop.run(mode)
        except (KeyboardInterrupt, Boom):
            pass  # A callback's; Boom where something has replaced the hook.
        except uv.error.UVError:
            assert self.adversary  # The loop has lost descriptors of its own.
        finally:
            if not guard.closed:
                guard.close()

    # ---- all of it ----

    def main(self) -> None:
        try:
            for _ in range(STEPS):
                self.step()
        finally:
            self.end()
        if self.errors:
            raise self.errors[0]

    def end(self) -> None:
        self.depth = DEPTH  # Callbacks do nothing any more.
        for loop in self.loops:
            if not loop.closed:
                self.close(loop)
        self.things.clear()
        self.taken.clear()
        for fd in self.fds:
            try:
                os.close(fd)
            except OSError:
                assert self.adversary

    def close(self, loop: Loop) -> None:
        for handle in loop.handles:
            if isinstance(handle, uv.Process) and handle.active:
                handle.kill(signal.SIGKILL)
        for _ in range(100):
            for handle in loop.handles:
                if not handle.closed:
                    handle.close()
            self.run_for(loop, uv.UV_RUN_DEFAULT, 0.05)
            try:
                loop.close()
                return
            except OSError as exc:
                assert exc.errno == 16, exc  # Busy: requests of the thread pool.
        raise AssertionError(f"never closed: {loop.handles}")


def open_descriptors() -> set[str]:
    return {
        name
        for name in os.listdir("/proc/self/fd")
        if os.path.exists(f"/proc/self/fd/{name}")
    }


def warm_up() -> None:
    """What libuv and the interpreter open once and for all."""
    loop = uv.Loop()
    loop.queue_work(lambda: None)
    with uv.Signal(loop) as handle:
        handle.start(lambda handle, signum: None, signal.SIGURG)
    loop.run()
    loop.close()
    os.urandom(1)


def one(seed: int) -> None:
    before = open_descriptors()
    unraisable: list[Any] = []
    sys.unraisablehook = unraisable.append
    with tempfile.TemporaryDirectory() as folder:
        program = Program(seed, folder)
        program.main()
        adversary = program.adversary
        for loop in program.loops:
            del loop.program
        del program
    gc.collect()
    sys.unraisablehook = sys.__unraisablehook__
    for told in unraisable:
        if not isinstance(told.exc_value, Boom | KeyboardInterrupt):
            raise told.exc_value
    if not adversary:
        left = open_descriptors() - before
        assert not left, f"descriptors left: {left}"


# ---- batches ----


def work(seeds: range) -> None:
    """In the batch's own process."""
    faulthandler.enable()
    warm_up()
    for seed in seeds:
        print(seed, flush=True)
        faulthandler.dump_traceback_later(LIMIT, exit=True)
        try:
            one(seed)
        except BaseException:
            traceback.print_exc()
            sys.exit(1)
    faulthandler.cancel_dump_traceback_later()


def batch(seeds: range) -> str:
    """Empty, or how its process ended."""
    command = [sys.executable, __file__, "--work", str(seeds.start), str(len(seeds))]
    done = subprocess.run(
        command, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    if done.returncode == 0:
        return ""
    last = done.stdout.split()[-1:] or ["none"]
    return f"seed {last[0]}: exit status {done.returncode}\n{done.stderr[-6000:]}"


def batches(seeds: range, jobs: int = 1) -> Iterator[str]:
    """How those ended that did not end well."""
    parts = [seeds[i : i + BATCH] for i in range(0, len(seeds), BATCH)]
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        yield from filter(None, pool.map(batch, parts))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--work", nargs=2, type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        first, count = arguments.work
        work(range(first, first + count))
    else:
        seeds = range(arguments.first, arguments.first + arguments.count)
        failed = False
        for failure in batches(seeds, arguments.jobs):
            failed = True
            print(failure, flush=True)
        print(f"{len(seeds)} programs")
        sys.exit(failed)
