"""What the tests with several threads share: functions that begin together, and a
loop that another thread runs."""

import asyncio
import queue
import random
import threading

import uvtulip
from aiosupport import LIMIT, until
from uvtulip import uv

THREADS = 4


def together(*functions):
    """Call each in a thread of its own, beginning at the same time."""
    barrier = threading.Barrier(len(functions))
    results, errors = [None] * len(functions), []

    def work(number, function):
        try:
            barrier.wait(LIMIT)
            results[number] = function()
        except BaseException as exc:
            errors.append(exc)

    threads = [
        threading.Thread(target=work, args=pair, daemon=True)
        for pair in enumerate(functions)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
        assert not thread.is_alive()
    if errors:
        raise errors[0]
    return results


async def echo_by_streams(rounds, server_tls=None, client_tls=None):
    async def serve(reader, writer):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_tls)
    port = server.sockets[0].getsockname()[1]
    got = 0
    for size in range(1, rounds + 1):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1",
            port,
            ssl=client_tls,
            server_hostname="localhost" if client_tls else None,
        )
        data = bytes([size]) * size * 1000
        writer.write(data)
        assert await reader.readexactly(len(data)) == data
        got += len(data)
        writer.close()
        await writer.wait_closed()
    server.close()
    await server.wait_closed()
    return got


class Running:
    """An asyncio loop with connections, which goes on for the block; others get at
    its objects, `things`."""

    def __init__(self, server_tls=None, client_tls=None):
        self.server_tls, self.client_tls = server_tls, client_tls
        self.things = []
        self.echoed = 0

    def __enter__(self):
        self.ready = threading.Event()
        self.result = queue.SimpleQueue()
        self.thread = threading.Thread(target=self.work, daemon=True)
        self.thread.start()
        assert self.ready.wait(LIMIT)
        if not self.things:
            raise self.result.get(timeout=LIMIT)
        return self

    def __exit__(self, *exc):
        self.loop.call_soon_threadsafe(self.end.set)
        self.thread.join(LIMIT)
        assert not self.thread.is_alive()
        outcome = self.result.get(timeout=LIMIT)
        if isinstance(outcome, BaseException):
            raise outcome

    def work(self):
        try:
            with asyncio.Runner(loop_factory=uvtulip.new_event_loop) as runner:
                runner.run(self.main())
            self.result.put(None)
        except BaseException as exc:
            self.ready.set()
            self.result.put(exc)

    async def main(self):
        self.loop = loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: None)
        self.end = asyncio.Event()
        made = []

        class Echo(asyncio.Protocol):
            def connection_made(self, transport):
                made.append(transport)
                self.transport = transport

            def data_received(self, data):
                self.transport.write(data)

        server = await loop.create_server(Echo, "127.0.0.1", 0, ssl=self.server_tls)
        host, port = server.sockets[0].getsockname()
        reader, writer = await asyncio.open_connection(
            host,
            port,
            ssl=self.client_tls,
            server_hostname="localhost" if self.client_tls else None,
        )
        await until(lambda: made)
        udp, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, local_addr=(host, 0)
        )
        timer = loop.call_later(1000, print)
        raw = uv.Timer(loop.uv_loop)
        raw.start(lambda timer: None, 0.001, 0.001)
        listener = uv.TCP(loop.uv_loop)
        listener.bind((host, 0))
        listener.listen(lambda handle, error: None)
        self.things = [server, writer.transport, made[0], udp, timer, raw, listener]
        self.ready.set()
        while not self.end.is_set():
            writer.write(b"x" * 1000)
            await reader.readexactly(1000)
            self.echoed += 1
            await asyncio.sleep(0)
        for thing in (server, writer, udp, raw, listener):
            if not (thing is raw or thing is listener) or not thing.closed:
                thing.close()


ASKED = """
    is_closing get_extra_info get_protocol is_reading get_write_buffer_size
    get_write_buffer_limits can_write_eof is_serving get_loop sockets when cancelled
    closed active ref type type_name loop readable writable write_queue_size
    due_in repeat getsockname fileno __repr__ __str__ __hash__ get_context
""".split()


def ask(thing, name, rng):
    """Look at it in any way that changes nothing; what it says may be an error."""
    value = getattr(thing, name, None)
    if not callable(value):
        return value
    arguments = [rng.choice(["peername", "socket", "cipher", "uv_handle"])]
    return value(*arguments if name == "get_extra_info" else ())


def look_from_threads(*contexts):
    """Others look at what a running loop has."""
    with Running(*contexts) as running:

        def work(seed):
            rng = random.Random(seed)
            asked = 0
            for _ in range(1500):
                try:
                    ask(rng.choice(running.things), rng.choice(ASKED), rng)
                    asked += 1
                except (RuntimeError, OSError):
                    pass  # Refused: it belongs to another thread.
            return asked

        counts = together(*[lambda seed=seed: work(seed) for seed in range(THREADS)])
        assert min(counts) > 0
    assert running.echoed > 0


def meddle_from_threads(*contexts):
    """They pause, write, close, ...: refused or not, the loop goes on."""

    def meddle(running, rng):
        server, client, accepted, udp, timer, raw, listener = running.things
        transport = rng.choice([client, accepted])
        loop = running.loop
        rng.choice(
            [
                lambda: transport.pause_reading(),
                lambda: transport.resume_reading(),
                lambda: transport.set_write_buffer_limits(rng.randrange(1000)),
                lambda: transport.set_protocol(transport.get_protocol()),
                lambda: udp.sendto(b"x", ("127.0.0.1", 9)),
                lambda: udp.pause_reading(),
                lambda: udp.resume_reading(),
                lambda: raw.stop(),
                lambda: raw.start(print, 1),
                lambda: raw.again(),
                lambda: listener.bind(("127.0.0.1", 0)),
                lambda: listener.close(),
                lambda: uv.Timer(loop.uv_loop),
                lambda: uv.Poll(loop.uv_loop, 0),
                lambda: loop.uv_loop.run(),
                lambda: loop.uv_loop.close(),
                lambda: loop.uv_loop.walk(repr),
                lambda: loop.uv_loop.queue_work(print),
                lambda: loop.run_forever(),
                lambda: loop.close(),
                lambda: loop.call_soon(int),
                lambda: loop.call_later(0.001, int).cancel(),
                lambda: loop.call_at(0, int),
                lambda: loop.add_reader(0, int),
                lambda: loop.remove_reader(0),
                lambda: loop.call_soon_threadsafe(int).cancel(),
                lambda: timer.cancel(),
                lambda: asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result(
                    LIMIT
                ),
            ]
        )()

    with Running(*contexts) as running:

        def work(seed):
            rng = random.Random(seed)
            for _ in range(500):
                try:
                    meddle(running, rng)
                except (RuntimeError, OSError, AttributeError):
                    pass  # Refused; or, of a lost connection, not there.

        together(*[lambda seed=seed: work(seed) for seed in range(THREADS)])
        for transport in running.things[1:3]:
            running.loop.call_soon_threadsafe(transport.resume_reading)
