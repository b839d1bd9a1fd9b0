"""Scripts whose process has a bad day: tests run them in children of their own, since
what is tested is that they are not aborted."""

import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import textwrap

import pytest

SOURCE = pathlib.Path(__file__).with_name("uv") / "faults.c"

# What a script begins with when it is run with faults.c: `faults` has its functions.
PRELUDE = """
import ctypes, os
faults = ctypes.PyDLL(os.environ["LD_PRELOAD"].split()[-1])
"""


def build(folder: pathlib.Path) -> pathlib.Path:
    """faults.c as a library that can be preloaded."""
    compiler = shlex.split(os.environ.get("CC", "cc"))
    if shutil.which(compiler[0]) is None:
        pytest.skip("there is no C compiler to build what makes calls fail")
    if not os.confstr("CS_GNU_LIBC_VERSION"):
        pytest.skip("only glibc lets its allocator be replaced in this way")
    target = folder / "faults.so"
    subprocess.run(
        [
            *(*compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Werror"),
            *(str(SOURCE), "-ldl", "-o", str(target)),
        ],
        check=True,
    )
    return target


def run(script: str, *args: str, preload: pathlib.Path | None = None) -> str:
    """What the script has printed; it has to end by itself, with 0."""
    env = dict(os.environ)
    if preload is not None:
        before = env.get("LD_PRELOAD", "")
        env["LD_PRELOAD"] = f"{before} {preload}".strip()
        script = PRELUDE + textwrap.dedent(script)
    child = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *args],
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )
    assert child.returncode == 0, (child.returncode, child.stdout, child.stderr)
    return child.stdout


# Each is done with a loop of its own.  What they return is kept until the end.
WORLD = """
import os, signal, socket, sys, tempfile, time
from uvtulip import uv

told = []

def note(*args):
    told.append(args[1:])

class Loop(uv.Loop):
    def excepthook(self, kind, value, traceback):
        assert isinstance(value, (OSError, MemoryError)), value
        told.append(value)

def reading(loop):
    a, b = socket.socketpair()
    handle = uv.TCP(loop)
    handle.open(a.detach())
    handle.start_read(note)
    return handle, b

def connecting(loop):
    server = socket.create_server(("127.0.0.1", 0))
    handle = uv.TCP(loop)
    handle.connect(server.getsockname(), note)
    return handle, server

def accepting(loop):
    kept = []
    def on_connection(server, errorno):
        note(server, errorno)
        if errorno is None:
            client = uv.TCP(loop)
            kept.append(client)
            server.accept(client)
            client.start_read(note)
            client.write(b"x", note)
    server = uv.TCP(loop)
    server.bind(("127.0.0.1", 0))
    server.listen(on_connection)
    client = uv.TCP(loop)
    client.connect(server.getsockname(), note)
    return kept, server, client

def listening_unbound(loop):
    server = uv.TCP(loop)
    server.listen(note)
    return server

def datagrams(loop):
    handle = uv.UDP(loop)
    handle.bind(("127.0.0.1", 0))
    handle.start_recv(note)
    handle.send(handle.getsockname(), b"x", note)
    return handle

def pipes(loop):
    path = os.path.join(tempfile.mkdtemp(), "s")
    server, client = uv.Pipe(loop), uv.Pipe(loop)
    server.bind(path)
    server.listen(note)
    client.connect(path, note)
    return server, client

def writing(loop):
    r, w = os.pipe()
    handle = uv.Pipe(loop)
    handle.open(w)
    handle.write(bytes(300000), note)
    return handle, r

def polling(loop):
    a, b = socket.socketpair()
    poll = uv.Poll(loop, a)
    poll.start(uv.UV_READABLE, note)
    b.send(b"x")
    return poll, a, b

def child(loop):
    out = uv.Pipe(loop)
    flags = uv.UV_CREATE_PIPE | uv.UV_WRITABLE_PIPE
    stdio = [None, uv.StdIO(stream=out, flags=flags)]
    process = uv.Process.spawn(loop, ["/bin/echo", "x"], exit_callback=note,
                               stdio=stdio)
    out.start_read(note)
    return process, out

def signals(loop):
    handle = uv.Signal(loop)
    handle.start(note, signal.SIGUSR1)
    os.kill(os.getpid(), signal.SIGUSR1)
    return handle

def files_watched(loop):
    folder = tempfile.mkdtemp()
    event, poll = uv.FSEvent(loop), uv.FSPoll(loop)
    event.start(folder, 0, note)
    poll.start(folder, 0.005, note)
    open(folder + "/f", "w").close()
    return event, poll

def work(loop):
    return loop.queue_work(lambda: None, note)

def stat(loop):
    return uv.fs.stat(loop, "/", note)

def names(loop):
    return uv.dns.getnameinfo(loop, ("127.0.0.1", 80), callback=note)

def addresses(loop):
    return uv.dns.getaddrinfo(loop, "127.0.0.1", 80, callback=note)

def random(loop):
    return loop.random(8, note)

def waking(loop):
    handle = uv.Async(loop, note)
    handle.send()
    return handle

def interfaces(loop):
    return uv.util.interface_addresses()

def another_loop(loop):
    other = uv.Loop()
    other.run()
    other.close()

def turns(loop):
    until = time.monotonic() + 0.03
    while time.monotonic() < until:
        loop.run(uv.UV_RUN_NOWAIT)
        time.sleep(0.001)

def finish(loop):
    for handle in loop.handles:
        if not handle.closed:
            handle.close()
    turns(loop)
    loop.close()
"""

OPERATIONS = [
    line[4:].partition("(")[0]
    for line in WORLD.splitlines()
    if line.startswith("def ") and line.endswith("(loop):")
]
OPERATIONS = [name for name in OPERATIONS if name not in ("turns", "finish")]
