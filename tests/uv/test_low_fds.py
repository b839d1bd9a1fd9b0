"""Programs that were started without some of their standard streams, or closed them.

The kernel gives the numbers 0 to 2 to what is opened next.  libuv never closes these
numbers for a stream, and aborts for anything else that it closes.
"""

import subprocess
import sys
import textwrap

import pytest

SCRIPT = """
import os, socket, sys, tempfile
from uvtulip import uv

late, closed, what = sys.argv[1] == "late", [int(n) for n in sys.argv[2]], sys.argv[3]
out = os.fdopen(os.dup(1), "w")
if late:
    loop = uv.Loop()
for fd in closed:
    os.close(fd)
if not late:
    loop = uv.Loop()
done = []


def end(*handles):
    for handle in handles:
        handle.close()


def tcp():
    server, client = uv.TCP(loop), uv.TCP(loop)
    server.bind(("127.0.0.1", 0))

    def on_connection(handle, error):
        accepted = uv.TCP(loop)
        handle.accept(accepted)
        done.append(error)
        end(server, client, accepted)

    server.listen(on_connection)
    client.connect(server.getsockname(), lambda handle, error: None)


def udp():
    one, other = uv.UDP(loop), uv.UDP(loop)
    one.bind(("127.0.0.1", 0))

    def on_recv(handle, address, flags, data, error):
        done.append(error)
        end(one, other)

    one.start_recv(on_recv)
    other.send(one.getsockname(), b"x")


def pipe():
    server, client = uv.Pipe(loop), uv.Pipe(loop)
    name = os.path.join(tempfile.mkdtemp(), "s")
    server.bind(name)

    def on_connection(handle, error):
        accepted = uv.Pipe(loop)
        handle.accept(accepted)
        done.append(error)
        end(server, client, accepted)

    server.listen(on_connection)
    client.connect(name, lambda handle, error: None)


def child():
    stdin = uv.Pipe(loop)
    io = uv.StdIO(stdin, flags=uv.UV_CREATE_PIPE | uv.UV_READABLE_PIPE)

    def on_exit(process, status, signum):
        done.append(status or None)
        end(process, stdin)

    uv.Process.spawn(loop, ["/bin/true"], stdio=[io], exit_callback=on_exit)


def files():
    fd = uv.fs.open(loop, "/dev/null", os.O_RDONLY, 0)
    uv.fs.close(loop, fd)
    watcher = uv.FSEvent(loop)
    folder = tempfile.mkdtemp()

    def on_event(handle, name, events, error):
        done.append(error)
        end(handle)

    watcher.start(folder, 0, on_event)
    open(os.path.join(folder, "new"), "w").close()


def others():
    signal, poll = uv.Signal(loop), uv.Poll(loop, socket.socketpair()[0].detach())
    signal.start(print, 10)
    poll.start(uv.UV_WRITABLE, lambda *args: (done.append(None), end(signal, poll)))
    uv.fs.stat(loop, "/", callback=lambda request: done.append(request.error))


globals()[what]()
loop.run()
loop.close()
assert done and set(done) == {None}, done
print("well", file=out, flush=True)
"""


@pytest.mark.parametrize("what", ["tcp", "udp", "pipe", "child", "files", "others"])
@pytest.mark.parametrize("closed", ["0", "2", "01", "012"])
@pytest.mark.parametrize("when", ["early", "late"])
def test_closed_standard_streams(when, closed, what):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), when, closed, what],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stdout) == (0, "well\n"), done.stderr
