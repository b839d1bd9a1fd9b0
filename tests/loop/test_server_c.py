"""The C half of Server: listening, accepting, counting, stopping."""

import asyncio
import contextvars
import errno
import gc
import os
import socket
import weakref

import pytest

import uvtulip
from aiosupport import LIMIT, Echo, check_script, run, turns, until
from streamsupport import Events, Peer, reset
from uvtulip import uv
from uvtulip._transports import Server


class Counting(Server):
    """Says when its last connection has ended."""

    woken = 0

    def _wakeup(self):
        self.woken += 1


def bound(loop=None, host="127.0.0.1", **options):
    handle = uv.TCP((loop or asyncio.get_running_loop()).uv_loop)
    handle.bind((host, 0), **options)
    return handle


def make(factory, handles=None, backlog=100):
    loop = asyncio.get_running_loop()
    handles = [bound()] if handles is None else handles
    return Counting(loop, factory, handles, backlog)


def collecting():
    contexts = []
    asyncio.get_running_loop().set_exception_handler(
        lambda loop, context: contexts.append(context)
    )
    return contexts


async def client(server, index=0):
    sock = socket.socket()
    sock.setblocking(False)
    name = server._handles[index].getsockname()
    await asyncio.get_running_loop().sock_connect(sock, name)
    return Peer(sock)


async def echo(peer, data=b"hello"):
    await peer.send(data)
    assert await peer.exactly(len(data)) == data


def test_serves_and_counts(no_leak):
    async def main():
        server = make(Echo)
        loop = asyncio.get_running_loop()
        assert (server._serving, server._active, server._loop) == (False, 0, loop)
        assert server._clients() == []
        server._start()
        server._start()
        assert server._serving
        peers = [await client(server) for _ in range(5)]
        for peer in peers:
            await echo(peer)
        assert server._active == 5
        clients = server._clients()
        assert len(set(clients)) == 5
        assert all(not transport.is_closing() for transport in clients)
        peers.pop().close()
        await until(lambda: server._active == 4)
        server._stop()
        server._stop()
        assert not server._serving
        assert server._handles == []
        assert server.woken == 0
        await echo(peers[0])
        for peer in peers:
            peer.close()
        await until(lambda: server.woken)
        await turns()
        assert (server.woken, server._active, server._clients()) == (1, 0, [])

    run(main())


def test_several_handles(no_leak):
    async def main():
        server = make(Echo, [bound(), bound(), bound()])
        server._start()
        assert len(server._handles) == 3
        for index in range(3):
            with await client(server, index) as peer:
                await echo(peer)
        server._stop()
        await until(lambda: server._active == 0)

    run(main())


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_names_of_accepted_connections(host, no_leak):
    async def main():
        protocols = []

        def factory():
            protocols.append(Events())
            return protocols[-1]

        handle = bound(host=host)
        server = make(factory, [handle])
        server._start()
        port = handle.getsockname()[1]
        sock = socket.create_connection(("127.0.0.1", port))
        with Peer(sock):
            await until(lambda: server._active)
            (transport,) = server._clients()
            assert transport.get_extra_info("sockname") == ("127.0.0.1", port)
            assert transport.get_extra_info("peername") == sock.getsockname()
            option = transport.get_extra_info("socket").getsockopt(
                socket.IPPROTO_TCP, socket.TCP_NODELAY
            )
            assert option == 1
        await protocols[0].lost
        server._stop()

    run(main())


def test_made_before_data_and_write_in_connection_made(no_leak):
    class Greets(Events):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.write(b"hello ")
            transport.write(b"there")

    async def main():
        protocols = []

        def factory():
            protocols.append(Greets())
            return protocols[-1]

        server = make(factory)
        server._start()
        with await client(server) as peer:
            assert await peer.recv() == b"hello there"
        await until(lambda: protocols[0].lost.done())
        assert protocols[0].events == ["made", "eof", "lost"]
        server._stop()

    run(main())


@pytest.mark.parametrize("action", ["close", "abort"])
def test_closed_in_connection_made(action, no_leak):
    class Rejects(Events):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.write(b"no")
            getattr(transport, action)()

    async def main():
        protocols = []

        def factory():
            protocols.append(Rejects())
            return protocols[-1]

        server = make(factory)
        server._start()
        with await client(server) as peer:
            assert await peer.rest() == b"no"
        assert protocols[0].events == ["made", "lost"]
        server._stop()

    run(main())


def test_failing_factory(no_leak):
    async def main():
        contexts = collecting()
        made = []

        def factory():
            made.append(1)
            if len(made) % 2:
                raise ZeroDivisionError
            return Echo()

        server = make(factory)
        server._start()
        for _ in range(3):
            with await client(server) as peer:
                assert await peer.rest() == b""
            with await client(server) as peer:
                await echo(peer)
        assert [type(c["exception"]) for c in contexts] == [ZeroDivisionError] * 3
        assert {c["message"] for c in contexts} == {
            "Error on transport creation for incoming connection"
        }
        server._stop()
        await until(lambda: server._active == 0)

    run(main())


def test_failing_connection_made(no_leak):
    class Bad(Echo):
        def connection_made(self, transport):
            super().connection_made(transport)
            raise ZeroDivisionError

    async def main():
        contexts = collecting()
        server = make(Bad)
        server._start()
        with await client(server) as peer:
            await echo(peer)
        assert [type(c["exception"]) for c in contexts] == [ZeroDivisionError]
        assert isinstance(contexts[0]["protocol"], Bad)
        server._stop()
        await until(lambda: server._active == 0)

    run(main())


def test_contexts(no_leak):
    """Each connection starts from the server's context and keeps its own."""
    variable = contextvars.ContextVar("variable", default="unset")
    seen = []

    class Looks(Echo):
        def connection_made(self, transport):
            super().connection_made(transport)
            seen.append(variable.get())
            variable.set(f"connection {len(seen)}")

        def data_received(self, data):
            seen.append(variable.get())
            super().data_received(data)

    async def main():
        variable.set("server")
        server = make(Looks)
        variable.set("later")
        server._start()
        with await client(server) as one:
            await echo(one)
            with await client(server) as two:
                await echo(two)
                await echo(one)
        assert seen[:2] == ["server", "connection 1"]
        assert seen[2:] == ["server", "connection 3", "connection 1"]
        server._stop()
        await until(lambda: server._active == 0)

    run(main())


def test_stopped_inside_the_factory(no_leak):
    async def main():
        def factory():
            server._stop()
            return Echo()

        server = make(factory)
        server._start()
        name = server._handles[0].getsockname()
        socks = [socket.create_connection(name, LIMIT) for _ in range(3)]
        await until(lambda: server.woken)
        assert server._active == 0
        # The first one was accepted, and is dropped as asyncio drops it.
        assert socks[0].recv(1) == b""
        socks[0].close()
        for sock in socks[1:]:
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
            sock.close()

    run(main())


def test_attach_and_detach():
    async def main():
        server = make(Echo)
        server._attach()
        server._attach(object())
        assert server._active == 2
        server._detach(object())
        server._stop()
        assert server.woken == 0
        server._detach()
        assert server.woken == 1
        with pytest.raises(RuntimeError):
            server._detach()

    run(main())


def test_bad_arguments():
    async def main():
        loop = asyncio.get_running_loop()
        handle = bound()
        with pytest.raises(TypeError):
            Server()
        with pytest.raises(TypeError):
            Server(object(), Echo, [handle], 1)
        with pytest.raises(TypeError, match="callable"):
            Server(loop, 1, [handle], 1)
        with pytest.raises(TypeError):
            Server(loop, Echo, [object()], 1)
        with pytest.raises(TypeError):
            Server(loop, Echo, [uv.Timer(loop.uv_loop)], 1)
        with pytest.raises(TypeError):
            Server(loop, Echo, [handle], "1")
        server = Server(loop, Echo, [handle], 1)
        for bad in (1, -1):
            with pytest.raises(IndexError):
                server._listen_again(bad)
        server._stop()
        with pytest.raises(RuntimeError, match="closed"):
            server._start()

    run(main())


def test_address_in_use(no_leak):
    async def main():
        first, second = bound(), uv.TCP(asyncio.get_running_loop().uv_loop)
        server = make(Echo, [first])
        server._start()
        second.bind(first.getsockname())  # libuv tells when it listens.
        other = make(Echo, [bound(), second])
        with pytest.raises(OSError) as caught:
            other._start()
        assert caught.value.errno == errno.EADDRINUSE
        assert other._handles == []
        assert not other._serving
        with await client(server) as peer:
            await echo(peer)
        server._stop()
        await until(lambda: server._active == 0)

    run(main())


def test_listening_handle_closed_by_others(no_leak):
    async def main():
        server = make(Echo, [bound(), bound()])
        server._start()
        name = server._handles[0].getsockname()
        server._handles[0].close()
        await until(lambda: len(server._handles) == 1)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(name, LIMIT)
        with await client(server) as peer:
            await echo(peer)
        server._stop()
        await until(lambda: server._active == 0)

    run(main())


def test_many_at_once(no_leak):
    """More than are accepted in one go."""

    async def main():
        server = make(Echo, backlog=1000)
        server._start()
        name = server._handles[0].getsockname()
        socks = [socket.create_connection(name, LIMIT) for _ in range(400)]
        await until(lambda: server._active == 400)
        for sock in socks:
            reset(sock)
        await until(lambda: server._active == 0)
        server._stop()

    run(main())


def test_freed_in_any_order(no_leak):
    async def main():
        # The server is dropped while it listens: it goes on.
        server = make(Echo)
        server._start()
        ref = weakref.ref(server)
        peer = await client(server)
        await echo(peer)
        del server
        gc.collect()
        await echo(peer)
        # Stopped: its connection keeps it.
        ref()._stop()
        await turns()
        gc.collect()
        assert ref() is not None
        await echo(peer)
        transport = ref()._clients()[0]
        peer.close()
        await until(transport.is_closing)
        await turns()
        assert ref() is None
        # Never started.
        server = make(Echo)
        ref = weakref.ref(server)
        del server
        gc.collect()
        assert ref() is None

    run(main())


def test_loop_closed_while_serving(no_leak):
    async def main():
        server = make(asyncio.Protocol)
        server._start()
        return server, await client(server)

    loop = uvtulip.new_event_loop()
    server, peer = loop.run_until_complete(main())
    loop.run_until_complete(turns())
    transports = server._clients()
    assert len(transports) == 1
    loop.close()
    assert server._handles == []
    with pytest.warns(ResourceWarning, match="unclosed transport"):
        del transports, server, loop
        gc.collect()
    peer.close()


def test_out_of_descriptors():
    """No connection is lost and nothing spins; it is reported once."""
    check_script(
        """
        import asyncio, resource, socket, time, uvtulip

        class Echo(asyncio.Protocol):
            def connection_made(self, transport):
                self.transport = transport
            def data_received(self, data):
                self.transport.write(data)

        async def main():
            loop = asyncio.get_running_loop()
            contexts = []
            loop.set_exception_handler(lambda loop, c: contexts.append(c))
            server = await loop.create_server(Echo, "127.0.0.1", 0, backlog=50)
            name = server.sockets[0].getsockname()
            socks = [socket.socket() for _ in range(20)]
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            limit = socks[-1].fileno() + 6
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            for sock in socks:
                sock.setblocking(False)
                await loop.sock_connect(sock, name)
                await loop.sock_sendall(sock, b"x")
            cpu = time.process_time()
            while not contexts:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.5)
            assert time.process_time() - cpu < 0.4
            (context,) = contexts
            assert context["message"] == "socket.accept() out of system resource"
            assert context["exception"].errno == 24, context
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for sock in socks:
                assert await loop.sock_recv(sock, 1) == b"x"
            assert len(contexts) == 1
            for sock in socks:
                sock.close()
            server.close()
            await server.wait_closed()

        with asyncio.Runner(loop_factory=uvtulip.new_event_loop) as runner:
            runner.run(asyncio.wait_for(main(), 15))
        """
    )


def test_somebody_shuts_the_listening_socket_down():
    """It is told once, not at each poll; the server can still be closed."""

    async def main():
        loop = asyncio.get_running_loop()
        contexts = []
        loop.set_exception_handler(lambda loop, context: contexts.append(context))
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        with socket.socket(fileno=os.dup(server.sockets[0].fileno())) as sock:
            sock.shutdown(socket.SHUT_RDWR)
        await until(lambda: contexts)
        await turns(20)
        (context,) = contexts
        assert context["message"] == "A server cannot accept any more"
        assert context["exception"].errno == errno.EINVAL
        server.close()
        await server.wait_closed()

    run(main())
