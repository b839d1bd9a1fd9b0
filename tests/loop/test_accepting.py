"""From accept() to connection_made(): the order of the two, and who stops a server in
between."""

import asyncio
import contextlib
import gc
import socket
import threading
import weakref

import pytest

import uvtulip
from aiosupport import LIMIT, Recorder, run, turns, until
from tlssupport import client_context, server_context


async def start(kind, loop, factory, folder, **options):
    """A server of that kind, and what makes a connection to it."""
    if kind == "unix":
        path = str(folder / "socket")
        server = await loop.create_unix_server(factory, path, **options)
        return server, lambda: connected(socket.AF_UNIX, path)
    tls = server_context() if kind == "tls" else None
    server = await loop.create_server(factory, "127.0.0.1", 0, ssl=tls, **options)
    address = server.sockets[0].getsockname()
    return server, lambda: connected(socket.AF_INET, address)


def connected(family, address):
    sock = socket.socket(family)
    sock.connect(address)
    return sock


# ---- the order ----


@pytest.mark.parametrize("kind", ["tcp", "unix", "tls"])
def test_what_the_factory_schedules_comes_first(kind, tmp_path):
    async def main():
        loop = asyncio.get_running_loop()
        order = []

        class Protocol(Recorder):
            def connection_made(self, transport):
                super().connection_made(transport)
                order.append("made")
                loop.call_soon(order.append, "after")

            def data_received(self, data):
                order.append("data")
                self.transport.close()

        def factory():
            loop.call_soon(order.append, "soon")
            order.append("factory")
            return Protocol()

        server, connect = await start(kind, loop, factory, tmp_path)
        if kind == "tls":
            address = server.sockets[0].getsockname()
            _, writer = await asyncio.open_connection(
                *address, ssl=client_context(), server_hostname="localhost"
            )
            writer.write(b"x")
        else:
            client = connect()
            client.send(b"x")
        await until(lambda: "data" in order)
        writer.close() if kind == "tls" else client.close()
        server.close()
        await server.wait_closed()
        return order

    order = run(main())
    assert order[:3] == ["factory", "soon", "made"]
    if kind != "tls":  # With the end of the handshake there may come data.
        assert order[3:] == ["after", "data"]


def test_many_are_accepted_together():
    """Each factory's own callbacks come before its connection_made(), and the
    connections are made in the order of their accept()."""

    async def main():
        loop = asyncio.get_running_loop()
        protocols, soon, made = [], set(), []

        class Protocol(Recorder):
            def connection_made(self, transport):
                super().connection_made(transport)
                assert self in soon
                made.append(self)

        def factory():
            protocols.append(Protocol())
            loop.call_soon(soon.add, protocols[-1])
            return protocols[-1]

        server = await loop.create_server(factory, "127.0.0.1", 0, backlog=200)
        address = server.sockets[0].getsockname()
        clients = [socket.create_connection(address) for _ in range(100)]
        await until(lambda: len(made) == len(clients))
        assert made == protocols
        for client in clients:
            client.close()
        server.close()
        await server.wait_closed()
        assert all(protocol.lost for protocol in protocols)

    run(main())


def test_two_servers_at_once(tmp_path):
    async def main():
        loop = asyncio.get_running_loop()
        order = []

        def factory(name):
            class Protocol(Recorder):
                def connection_made(self, transport):
                    super().connection_made(transport)
                    order.append((name, "made"))

            loop.call_soon(order.append, (name, "soon"))
            return Protocol()

        servers = [
            await start(kind, loop, lambda kind=kind: factory(kind), tmp_path)
            for kind in ("tcp", "unix")
        ]
        clients = [connect() for _, connect in servers]
        await until(lambda: len(order) == 4)
        for client, (server, _) in zip(clients, servers, strict=True):
            client.close()
            server.close()
            await server.wait_closed()
        for kind in ("tcp", "unix"):
            assert order.index((kind, "soon")) < order.index((kind, "made"))

    run(main())


def test_an_exception_in_connection_made():
    async def main():
        loop = asyncio.get_running_loop()
        contexts, protocols = [], []
        loop.set_exception_handler(lambda loop, context: contexts.append(context))

        class Protocol(Recorder):
            def connection_made(self, transport):
                super().connection_made(transport)
                protocols.append(self)
                raise ZeroDivisionError

        server = await loop.create_server(Protocol, "127.0.0.1", 0)
        with socket.create_connection(server.sockets[0].getsockname()) as client:
            client.send(b"x")
            await until(lambda: protocols and protocols[0].data)
        server.close()
        await server.wait_closed()
        assert protocols[0].lost
        [context] = contexts
        assert isinstance(context["exception"], ZeroDivisionError)

    run(main())


# ---- closing in between ----


@pytest.mark.parametrize("kind", ["tcp", "unix", "tls"])
def test_a_server_that_is_closed_before_drops_the_connection(kind, tmp_path):
    """The factory was called, but the protocol never hears of a connection."""

    async def main():
        loop = asyncio.get_running_loop()
        told = []

        class Protocol(Recorder):
            def connection_made(self, transport):
                told.append("made")

            def connection_lost(self, exc):
                told.append("lost")

        def factory():
            loop.call_soon(server.close)
            return Protocol()

        server, connect = await start(kind, loop, factory, tmp_path)
        with connect() as client:
            await until(lambda: not server.is_serving())
            await server.wait_closed()
            client.settimeout(LIMIT)
            assert client.recv(1) == b""
        assert told == []

    run(main())


@pytest.mark.parametrize("how", ["close", "abort"])
def test_clients_that_are_closed_before(how):
    async def main():
        loop = asyncio.get_running_loop()
        protocols = []

        def factory():
            protocols.append(Recorder())
            loop.call_soon(getattr(server, how + "_clients"))
            return protocols[-1]

        server = await loop.create_server(factory, "127.0.0.1", 0)
        with socket.create_connection(server.sockets[0].getsockname()):
            await until(lambda: protocols and protocols[0].lost)
        assert protocols[0].transport is not None
        server.close()
        await server.wait_closed()

    run(main())


def test_a_handle_that_is_closed_before():
    """connection_lost() follows connection_made() all the same."""

    async def main():
        loop = asyncio.get_running_loop()
        told = []

        class Protocol(asyncio.Protocol):
            def connection_made(self, transport):
                told.append("made")

            def connection_lost(self, exc):
                told.append("lost")

        made = []

        def factory():
            protocol = Protocol()
            made.append(protocol)
            if len(made) > 1:  # Those of the first one's batch.
                server.close_clients()
            return protocol

        server = await loop.create_server(factory, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        clients = [socket.create_connection(address) for _ in range(8)]
        await until(lambda: len(made) == 8)
        for client in clients:
            client.close()
        server.close()
        await server.wait_closed()
        assert told.count("made") == told.count("lost") == 8
        assert told[0] == "made"

    run(main())


def test_the_loop_is_closed_before():
    loop = uvtulip.new_event_loop()
    told = []

    class Protocol(asyncio.Protocol):
        def connection_made(self, transport):
            told.append("made")

    def factory():
        loop.stop()
        return Protocol()

    server = loop.run_until_complete(loop.create_server(factory, "127.0.0.1", 0))
    with socket.create_connection(server.sockets[0].getsockname()):
        loop.run_forever()
        loop.close()
    del server
    gc.collect()


# ---- cancelling all tasks ----


class Serving(asyncio.Protocol):
    """Leaves all to a task, which closes the transport; as aiosmtpd does."""

    def __init__(self, loop):
        self.loop = loop

    def connection_made(self, transport):
        self.transport = transport
        self.task = self.loop.create_task(self.serve())

    async def serve(self):
        try:
            await self.loop.create_future()
        finally:
            self.transport.close()

    def connection_lost(self, exc):
        self.task.cancel()


@pytest.mark.parametrize("kind", ["tcp", "unix", "tls"])
@pytest.mark.parametrize("wait", range(6))
def test_stop_and_cancel_all(kind, wait, tmp_path):
    """At any moment of the acceptance: wait_closed() returns, though the client
    stays and says nothing."""
    loop = uvtulip.new_event_loop()
    server, connect = loop.run_until_complete(
        start(kind, loop, lambda: Serving(loop), tmp_path)
    )

    def cancel(left):
        if left > 0:
            loop.call_soon(cancel, left - 1)
            return
        loop.stop()
        for task in asyncio.all_tasks(loop):
            task.cancel()

    with connect() as client:
        loop.call_soon(cancel, wait)
        loop.run_forever()
        server.close()
        loop.run_until_complete(asyncio.wait_for(server.wait_closed(), LIMIT))
        client.settimeout(LIMIT)
    loop.close()


@pytest.mark.parametrize("kind", ["tcp", "tls"])
def test_stop_and_cancel_all_from_another_thread(kind, tmp_path):
    for _ in range(15):
        loop = uvtulip.new_event_loop()
        server, connect = loop.run_until_complete(
            start(kind, loop, lambda loop=loop: Serving(loop), tmp_path)
        )

        def cancel(loop=loop):
            loop.stop()
            for task in asyncio.all_tasks(loop):
                task.cancel()

        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        with connect():
            loop.call_soon_threadsafe(cancel)
            thread.join(LIMIT)
            server.close()
            loop.run_until_complete(asyncio.wait_for(server.wait_closed(), LIMIT))
        loop.close()


def test_cancelled_after_a_tls_handshake():
    """connection_made() is called by the end of the handshake, long after accept()."""
    loop = uvtulip.new_event_loop()
    made = []

    class Protocol(Serving):
        def connection_made(self, transport):
            super().connection_made(transport)
            made.append(self)
            for task in asyncio.all_tasks(loop):
                task.cancel()
            loop.stop()

    server = loop.run_until_complete(
        loop.create_server(lambda: Protocol(loop), "127.0.0.1", 0, ssl=server_context())
    )
    address = server.sockets[0].getsockname()

    def shake():
        with contextlib.suppress(OSError):
            client = client_context().wrap_socket(
                connected(socket.AF_INET, address), server_hostname="localhost"
            )
            with client:
                client.recv(1)

    thread = threading.Thread(target=shake)
    thread.start()
    loop.run_forever()
    assert made
    server.close()
    loop.run_until_complete(asyncio.wait_for(server.wait_closed(), LIMIT))
    thread.join(LIMIT)
    assert not thread.is_alive()
    loop.close()


def test_all_tasks_has_nothing_else():
    """Whoever waits for all others, or counts them, finds none when all is accepted."""

    async def main():
        loop = asyncio.get_running_loop()
        protocols, seen = [], []

        def factory():
            protocols.append(Recorder())
            loop.call_soon(look)
            return protocols[-1]

        def look():
            others = asyncio.all_tasks() - {task}
            assert len(others) == 1
            seen.extend(others)

        task = asyncio.current_task()
        server = await loop.create_server(factory, "127.0.0.1", 0)
        assert asyncio.all_tasks() == {task}
        with socket.create_connection(server.sockets[0].getsockname()):
            await until(lambda: seen)
            [other] = seen
            assert other.get_name() and not other.cancelled()
            await asyncio.wait_for(asyncio.gather(other, asyncio.sleep(0)), LIMIT)
            await asyncio.wait({other})
            await other
            assert asyncio.all_tasks() == {task}
            assert other.done() and other.result() is None
            assert not other.cancel()
            await turns()
            assert not protocols[0].lost
        server.close()
        await server.wait_closed()

    run(main())


def test_it_keeps_no_server_alive():
    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Recorder, "127.0.0.1", 0)
        server.close()
        await server.wait_closed()
        ref = weakref.ref(server)
        del server
        await until(lambda: ref() is None)

    gc.disable()
    try:
        run(main())
    finally:
        gc.enable()
