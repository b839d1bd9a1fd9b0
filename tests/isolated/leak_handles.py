"""10,000 life cycles of each raw handle: no block, reference or descriptor more."""

import socket

from leakcheck import check

from uvtulip import uv

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
check("Poll", poll, ROUNDS, 200)
check("Pipe", pipe, ROUNDS, 200)
check("UDP", udp, ROUNDS, 200)
check("TCP", tcp, ROUNDS, 200)
check("Loop", loops, ROUNDS, 200)
check("errors", errors, ROUNDS, 200)
