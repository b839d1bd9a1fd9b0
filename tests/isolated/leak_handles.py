"""10,000 life cycles of each raw handle: no block, reference or descriptor more."""

import os
import pathlib
import pty
import socket
import sys

from leakcheck import check

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from tlssupport import client_context, server_context
from uvtulip import _uv, uv
from uvtulip.uv import dns

loop = uv.Loop()


def drain():
    while loop.run(uv.UV_RUN_NOWAIT):
        pass


def simple(make, start):
    def work(count):
        for i in range(count):
            handle = make()
            start(handle)
            if i % 3:
                handle.close(lambda handle: None)
            else:
                del handle
            if i % 50 == 0:
                for left in loop.handles:
                    if not left.closed:
                        left.close()
                drain()
        for left in loop.handles:
            if not left.closed:
                left.close()
        drain()
    return work


def poll(count):
    for _ in range(count):
        a, b = socket.socketpair()
        handle = uv.Poll(loop, a)
        handle.start(uv.UV_READABLE, lambda h, events, error: h.close())
        b.send(b"x")
        drain()
        a.close()
        b.close()


def tcp(count):
    def on_connection(server, error):
        client = uv.TCP(loop)
        server.accept(client)
        client.start_read(echo)

    def echo(handle, data, error):
        if data is None:
            handle.close()
        else:
            handle.write([data, bytearray(b"!")], lambda handle, error: None)

    server = uv.TCP(loop)
    server.bind(("127.0.0.1", 0))
    server.listen(on_connection)

    def on_connect(handle, error):
        handle.start_read(on_answer)
        handle.write(b"x")

    def on_answer(handle, data, error):
        if data is not None and data.endswith(b"!"):
            handle.close()
            server.left -= 1
            if server.left == 0:
                server.close()

    server.left = count
    started = 0
    while started < count:
        for _ in range(min(100, count - started)):
            uv.TCP(loop).connect(server.getsockname(), on_connect)
            started += 1
        while server.left > count - started:
            loop.run(uv.UV_RUN_ONCE)
    drain()


def pipe(count):
    for _ in range(count):
        a, b = socket.socketpair()
        handle = uv.Pipe(loop)
        handle.open(a.detach())
        handle.start_read(lambda h, data, error: h.close())
        b.send(b"x")
        drain()
        b.close()


def udp(count):
    receiver = uv.UDP(loop)
    receiver.bind(("127.0.0.1", 0))
    receiver.start_recv(lambda *args: None)
    for _ in range(count):
        sender = uv.UDP(loop)
        sender.send(receiver.getsockname(), b"x", lambda h, error: h.close())
        loop.run(uv.UV_RUN_NOWAIT)
        loop.run(uv.UV_RUN_NOWAIT)
    receiver.close()
    drain()


def ipc(count):
    """A handle sent over a pipe, and accepted."""
    for _ in range(count):
        one, two = uv.Pipe(loop, True), uv.Pipe(loop, True)
        for end, fd in zip((one, two), uv.socketpair(), strict=True):
            end.open(fd)
        sent = uv.UDP(loop)
        sent.bind(("127.0.0.1", 0))

        def on_read(handle, data, error, sent=sent, one=one):
            taker = uv.UDP(loop)
            handle.accept(taker)
            for each in (taker, handle, sent, one):
                each.close()

        two.start_read(on_read)
        one.write(b"x", lambda handle, error: None, sent)
        drain()


def read_into(count):
    for _ in range(count):
        a, b = socket.socketpair()
        handle = uv.Pipe(loop)
        handle.open(a.detach())
        handle.start_read_into(lambda h, size: bytearray(10),
                               lambda h, nbytes, error: h.close())
        b.send(b"x")
        drain()
        b.close()


def tty(count):
    master, slave = pty.openpty()
    for i in range(count):
        handle = uv.TTY(loop, slave)
        handle.start_read(lambda *args: None)
        if i % 10 == 0:
            handle.set_mode(uv.UV_TTY_MODE_RAW)
        handle.close()
        drain()
    os.close(master)
    os.close(slave)


def finish(tls):
    if not tls.closed:
        tls.close()


def tls(count):
    """By both backends: to the end, dropped, closed in the middle, refused."""
    contexts = server_context(), client_context()
    for i in range(count):
        _uv._tls_backend(i % 2 == 0)
        one, two = uv.Pipe(loop), uv.Pipe(loop)
        for end, fd in zip((one, two), uv.socketpair(), strict=True):
            end.open(fd)
        server = uv.TLS(one, contexts[0], server_side=True)
        name = "elsewhere" if i % 5 == 0 else "localhost"
        client = uv.TLS(two, contexts[1], server_hostname=name)
        server.handshake(lambda tls, error: error and finish(tls))
        client.handshake(lambda tls, error: error and finish(tls))
        server.start_read(lambda tls, data, error: data or finish(tls))
        client.write(bytes(100_000), lambda tls, error: None)
        if i % 3 == 0:
            client.shutdown(lambda tls, error: finish(tls))
        elif i % 3 == 1:
            client.write(b"x", lambda tls, error: finish(tls))
        else:
            loop.run(uv.UV_RUN_NOWAIT)
            client.close()
        del one, two, end, server, client
        drain()


def process(count):
    """A tenth of the rounds start a program, the rest fail to."""
    for i in range(count):
        pipe = uv.Pipe(loop)
        stdio = [None, uv.StdIO(pipe, flags=uv.UV_CREATE_PIPE | uv.UV_WRITABLE_PIPE)]
        program = "true" if i % 10 == 0 else "a\0b" if i % 10 == 1 else "/no/such"
        try:
            uv.Process.spawn(loop, [program], env={"A": "B"}, stdio=stdio,
                             exit_callback=lambda p, status, signum: p.close())
        except (ValueError, uv.error.ProcessError):
            pass
        pipe.close()
        loop.run()


def dropped(start):
    """Started on a loop that is then dropped."""
    def work(count):
        for _ in range(count // 20):
            start(uv.Loop())
    return work


def lookups(count):
    for _ in range(count):
        dns.getaddrinfo(loop, "127.0.0.1", 1)
        dns.getaddrinfo(loop, "127.0.0.1", 1, callback=lambda found, error: None)
        dns.getnameinfo(loop, ("127.0.0.1", 1), 3, lambda found, error: None).cancel()
        loop.run()


def pool(count):
    hook = loop.excepthook
    loop.excepthook = lambda *args: None
    for i in range(count):
        loop.queue_work([list, lambda: 1 / 0][i % 2], lambda error: None)
        if i % 50 == 0:
            loop.run()
    loop.run()
    loop.excepthook = hook


def abstract(count):
    for i in range(count // 2):
        handle = uv.Pipe(loop)
        handle.connect("\0nobody", lambda h, error: h.close())
        drain()


def loops(count):
    for _ in range(count // 20):
        other = uv.Loop()
        server = uv.TCP(other)
        server.bind(("127.0.0.1", 0))
        server.listen(lambda server, error: None)
        uv.Timer(other).start(lambda timer: None, 100, 100)
        other.run(uv.UV_RUN_NOWAIT)


def errors(count):
    for _ in range(count):
        handle = uv.TCP(loop)
        for call, args in ((handle.write, (b"x",)), (handle.bind, (1,)),
                           (handle.open, (999999,)), (handle.fileno, ()),
                           (handle.connect, (("::g", 1), print)),
                           (handle.start_read, (print,))):
            try:
                call(*args)
            except (OSError, TypeError, ValueError) as e:
                str(e)
            else:
                raise AssertionError(call)
        handle.close()
        drain()


ROUNDS = 10_000
check("Timer", simple(lambda: uv.Timer(loop),
                      lambda h: h.start(lambda t: None, 0, 0)), ROUNDS, 200)
check("Async", simple(lambda: uv.Async(loop, lambda h: None),
                      lambda h: h.send()), ROUNDS, 200)
check("Signal", simple(lambda: uv.Signal(loop),
                       lambda h: h.start(lambda h, n: None, 10)), ROUNDS, 200)
check("Idle", simple(lambda: uv.Idle(loop),
                     lambda h: h.start(lambda h: h.stop())), ROUNDS, 200)
check("Prepare", simple(lambda: uv.Prepare(loop),
                        lambda h: h.start(lambda h: None)), ROUNDS, 200)
check("Check", simple(lambda: uv.Check(loop),
                      lambda h: h.start(lambda h: None)), ROUNDS, 200)
check("FSEvent", simple(lambda: uv.FSEvent(loop),
                        lambda h: h.start(".", 0, print)), ROUNDS, 200)
check("FSPoll", simple(lambda: uv.FSPoll(loop),
                       lambda h: h.start(".", 100, print)), ROUNDS, 200)
check("dropped FSPoll", dropped(lambda loop: uv.FSPoll(loop).start(".", 1, print)),
      ROUNDS, 200)
check("dropped work", dropped(lambda loop: loop.queue_work(list, print)), ROUNDS, 200)
check("TTY", tty, ROUNDS, 200)
check("TLS", tls, ROUNDS // 10, 200, soak=ROUNDS)
check("Process", process, ROUNDS, 200)
check("dns", lookups, ROUNDS, 200)
check("queue_work", pool, ROUNDS, 200)
check("ipc", ipc, ROUNDS, 200)
check("read into", read_into, ROUNDS, 200)
check("abstract", abstract, ROUNDS, 200)
check("Poll", poll, ROUNDS, 200)
check("Pipe", pipe, ROUNDS, 200)
check("UDP", udp, ROUNDS, 200)
check("TCP", tcp, ROUNDS, 200)
check("Loop", loops, ROUNDS, 200)
check("errors", errors, ROUNDS, 200)
