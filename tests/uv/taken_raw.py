"""The points of test_taken.py: descriptors are taken away from raw loops.  The
arguments name the moments to walk."""

import os
import pathlib
import signal
import socket
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from takensupport import HOW, Strangers, attempt, numbers, take, walk
from uvtulip import uv

told = []
kept = []


def note(*args):
    told.append(args)


class Loop(uv.Loop):
    def excepthook(self, kind, value, traceback):
        assert isinstance(value, (OSError, MemoryError, RuntimeError)), value
        told.append(value)


# ---- what a loop has when its descriptors go ----


def world(loop):
    """Some of everything, so that each has a descriptor to lose."""
    a, b = socket.socketpair()
    stream = uv.TCP(loop)
    stream.open(a.detach())
    stream.start_read(note)
    server = uv.TCP(loop)
    server.bind(("127.0.0.1", 0))
    server.listen(note)
    udp = uv.UDP(loop)
    udp.bind(("127.0.0.1", 0))
    udp.start_recv(note)
    c, d = socket.socketpair()
    poll = uv.Poll(loop, c)
    poll.start(uv.UV_READABLE, note)
    event = uv.FSEvent(loop)
    event.start("/tmp", 0, note)
    usr1 = uv.Signal(loop)
    usr1.start(note, signal.SIGUSR1)
    waker = uv.Async(loop, note)
    kept.extend([stream, b.detach(), server, udp, poll, c.detach(), d.detach(), event])
    kept.extend([usr1, waker])
    return stream, udp, waker


# ---- what is done next ----


def run(loop):
    timer = uv.Timer(loop)
    timer.start(lambda timer: loop.stop(), 0.01, 0)
    loop.run()


def turn(loop):
    loop.run(uv.UV_RUN_NOWAIT)


def send(loop):
    for handle in kept:
        if isinstance(handle, uv.Async):
            attempt(handle.send)
    turn(loop)


def send_from_thread(loop):
    for handle in kept:
        if isinstance(handle, uv.Async):
            thread = threading.Thread(target=attempt, args=(handle.send,))
            thread.start()
            thread.join()
    turn(loop)


def deliver(loop):
    os.kill(os.getpid(), signal.SIGUSR1)
    turn(loop)


def files(loop):
    uv.fs.stat(loop, "/", note)
    run(loop)


def names(loop):
    uv.dns.getaddrinfo(loop, "127.0.0.1", 80, callback=note)
    run(loop)


def work(loop):
    loop.queue_work(lambda: None, note)
    run(loop)


def child(loop):
    uv.Process.spawn(loop, ["/bin/true"], exit_callback=note)
    run(loop)


def watch_signal(loop):
    handle = uv.Signal(loop)
    kept.append(handle)
    handle.start(note, signal.SIGUSR2)
    os.kill(os.getpid(), signal.SIGUSR2)
    run(loop)


def watch_files(loop):
    handle, other = uv.FSEvent(loop), uv.FSPoll(loop)
    kept.extend([handle, other])
    attempt(handle.start, "/usr", 0, note)
    attempt(other.start, "/usr", 0.005, note)
    run(loop)


def serve(loop):
    server, client = uv.TCP(loop), uv.TCP(loop)
    kept.extend([server, client])
    server.bind(("127.0.0.1", 0))
    server.listen(note)
    client.connect(server.getsockname(), note)
    client.write(b"x", note)
    run(loop)


def datagrams(loop):
    handle = uv.UDP(loop)
    kept.append(handle)
    handle.bind(("127.0.0.1", 0))
    handle.start_recv(note)
    handle.send(handle.getsockname(), b"x", note)
    run(loop)


def pipes(loop):
    path = os.path.join(tempfile.mkdtemp(), "s")
    server, client = uv.Pipe(loop), uv.Pipe(loop)
    kept.extend([server, client])
    server.bind(path)
    server.listen(note)
    client.connect(path, note)
    run(loop)


def fork(loop):
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    assert os.waitpid(pid, 0) == (pid, 0)
    run(loop)


def adopt_later(loop):
    """The child takes the descriptors away once more, and then the loop over."""
    pid = os.fork()
    if pid == 0:
        strangers = Strangers()
        take("file", numbers(), strangers)
        attempt(loop.fork)
        attempt(run, loop)
        strangers.check(closed_too=True)
        os._exit(0)
    assert os.waitpid(pid, 0) == (pid, 0)


def adopt(loop):
    pid = os.fork()
    if pid == 0:
        attempt(loop.fork)
        attempt(run, loop)
        os._exit(0)
    assert os.waitpid(pid, 0) == (pid, 0)


NEXT = {
    function.__name__: function
    for function in (
        *(run, turn, send, send_from_thread, deliver, files, names, work, child),
        *(watch_signal, watch_files, serve, datagrams, pipes, fork, adopt, adopt_later),
    )
}


def finish(loop):
    for handle in loop.handles:
        if not handle.closed:
            attempt(handle.close)
    for _ in range(5):
        attempt(turn, loop)
        time.sleep(0.002)
    attempt(loop.close)


def another(strangers):
    """A loop that is made afterwards is whole."""
    loop, ticks = uv.Loop(), []
    timer = uv.Timer(loop)
    timer.start(lambda timer: (ticks.append(timer), timer.close()), 0.005, 0)
    waker = uv.Async(loop, lambda waker: (ticks.append(waker), waker.close()))
    thread = threading.Thread(target=waker.send)
    thread.start()
    request = uv.fs.stat(loop, "/", lambda *args: ticks.append(args))
    loop.run()
    thread.join()
    assert len(ticks) == 3, ticks
    assert request.done
    loop.close()


# ---- when ----


def between(loop, go, then):
    run(loop)
    go()
    attempt(then, loop)


def never_ran(loop, go, then):
    go()
    attempt(then, loop)


def in_timer(loop, go, then):
    def on_timer(timer):
        go()
        if then is not NEXT["run"] and then is not NEXT["turn"]:
            attempt(then, loop)

    timer = uv.Timer(loop)
    timer.start(on_timer, 0.001, 0)
    attempt(run, loop)
    attempt(run, loop)



def in_io(loop, go, then):
    """Everything is ready in the poll in whose first callback they go."""
    gone = []

    def first(*args):
        note(*args)
        if not gone:
            gone.append(True)
            go()
            attempt(then, loop)

    pairs = []
    for _ in range(3):
        a, b = socket.socketpair()
        b.send(b"x")
        stream = uv.TCP(loop)
        stream.open(a.detach())
        stream.start_read(first)
        pairs.append(b.detach())
        kept.append(stream)
    polled, other = socket.socketpair()
    other.send(b"x")
    poll = uv.Poll(loop, polled)
    poll.start(uv.UV_READABLE, first)
    kept.extend([poll, polled.detach(), other.detach()])
    for handle in kept:
        if isinstance(handle, uv.UDP):
            to = handle.getsockname()
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.sendto(b"x", to)
            handle.start_recv(first)
        if isinstance(handle, uv.Async):
            handle.send()
    with tempfile.NamedTemporaryFile():
        os.kill(os.getpid(), signal.SIGUSR1)
    uv.Process.spawn(loop, ["/bin/true"], exit_callback=first)
    time.sleep(0.002)
    attempt(run, loop)
    attempt(run, loop)


def in_flight(loop, go, then):
    """Requests are with the threads of the pool, and end afterwards."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        time.sleep(0.02)
        os._exit(0)
    os.close(write)
    uv.fs.read(loop, read, 1, -1, note)
    loop.queue_work(lambda: time.sleep(0.02), note)
    loop.queue_work(lambda: time.sleep(0.01), note)
    turn(loop)
    go()
    assert os.waitpid(pid, 0) == (pid, 0)
    time.sleep(0.01)
    attempt(then, loop)


def in_flight_in_a_run(loop, go, then):
    def on_timer(timer):
        loop.queue_work(lambda: time.sleep(0.01), note)
        uv.fs.stat(loop, "/", note)
        go()
        time.sleep(0.02)
        attempt(then, loop)

    timer = uv.Timer(loop)
    timer.start(on_timer, 0.001, 0)
    attempt(run, loop)


def at_close(loop, go, then):
    run(loop)
    for handle in loop.handles:
        handle.close()
    signal.signal(signal.SIGUSR1, note)
    go()
    attempt(then, loop)


def before_loop(loop, go, then):
    """The first loop is closed before."""
    for handle in loop.handles:
        handle.close()
    loop.run()
    loop.close()
    signal.signal(signal.SIGUSR1, note)
    go()
    attempt(then, Loop())


WHEN = {
    function.__name__: function
    for function in (
        *(between, never_ran, in_timer, in_io, in_flight, in_flight_in_a_run),
        *(at_close, before_loop),
    )
}


def point(when, how, then):
    strangers = Strangers()
    loop = Loop()
    world(loop)
    # The rest of a poll goes on with the numbers, as sockets of Python's would.
    blocking = when != "in_io"
    WHEN[when](loop, lambda: take(how, numbers(), strangers, blocking), NEXT[then])
    finish(loop)
    strangers.check(closed_too=when != "in_io")
    del loop
    kept.clear()
    another(strangers)


def own_numbers():
    """What a loop has for itself, by the order in which it is made."""
    before = set(numbers())
    loop = Loop()
    own = [fd for fd in numbers() if fd not in before]
    return loop, own


def point_of_one(when, how, then, index):
    """Only one of the loop's own descriptors, or of those that it makes later."""
    strangers = Strangers()
    loop, own = own_numbers()
    before = set(numbers())
    world(loop)
    run(loop)
    handles = {handle.fileno() for handle in kept if hasattr(handle, "fileno")}
    handles.update(fd for fd in kept if isinstance(fd, int))
    own.extend(fd for fd in numbers() if fd not in before | handles)
    assert len(own) <= MOST_OWN
    if index >= len(own):
        return
    WHEN[when](loop, lambda: take(how, [own[index]], strangers, False), NEXT[then])
    finish(loop)
    strangers.check(closed_too=True)
    del loop
    kept.clear()
    another(strangers)


ONE = ["run", "deliver", "files", "child", "serve"]
MOST_OWN = 11

if __name__ == "__main__":
    whens = sys.argv[1].split(",")
    hows = sys.argv[2].split(",") if len(sys.argv) > 2 else HOW
    if whens[0] == "one":
        thens = sys.argv[3].split(",") if len(sys.argv) > 3 else ONE
        walk(
            (
                (when, how, then, index)
                for when in ("between", "in_timer")
                for how in hows
                for then in thens
                for index in range(MOST_OWN)
            ),
            point_of_one,
        )
    else:
        thens = sys.argv[3].split(",") if len(sys.argv) > 3 else list(NEXT)
        walk(((w, h, t) for w in whens for h in hows for t in thens), point)
