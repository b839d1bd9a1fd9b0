"""StreamTransport over TCP: life cycle, reading, errors."""

import asyncio
import contextvars
import gc
import logging
import os
import socket
import threading
import time
import warnings
import weakref

import pytest

import uvtulip
from aiosupport import LIMIT, run, turns, until
from streamsupport import Events, Peer, connect, fill, handle_of, tcp_pair
from uvtulip import uv
from uvtulip._transports import EventLoop, StreamTransport


def collecting():
    """An exception handler that remembers; the list of contexts."""
    contexts = []
    asyncio.get_running_loop().set_exception_handler(
        lambda loop, context: contexts.append(context)
    )
    return contexts


# ---- life cycle ----


def test_is_an_asyncio_transport():
    async def main():
        transport, peer = await connect(Events())
        with peer:
            assert isinstance(transport, asyncio.Transport)
            assert isinstance(asyncio.get_running_loop(), EventLoop)
            transport.attribute = 1
            assert weakref.ref(transport)() is transport
            transport.close()
            await transport.get_protocol().lost

    run(main())


def test_made_before_waiter_before_data():
    async def main():
        loop = asyncio.get_running_loop()
        ours, theirs = tcp_pair()
        theirs.sendall(b"early")
        protocol = Events()
        waiter = loop.create_future()
        transport = StreamTransport(loop, handle_of(ours), protocol, waiter)
        assert protocol.events == []
        await waiter
        assert protocol.events == ["made"]
        assert protocol.transport is transport
        assert await protocol.until(5) == b"early"
        theirs.close()
        assert await protocol.lost is None
        assert protocol.events == ["made", "data", "eof", "lost"]

    run(main())


def test_cancelled_waiter():
    async def main():
        loop = asyncio.get_running_loop()
        ours, theirs = tcp_pair()
        waiter = loop.create_future()
        waiter.cancel()
        protocol = Events()
        transport = StreamTransport(loop, handle_of(ours), protocol, waiter)
        theirs.sendall(b"x")
        await protocol.until(1)
        transport.abort()
        await protocol.lost
        theirs.close()

    run(main())


def test_connection_made_raises():
    class Bad(Events):
        def connection_made(self, transport):
            super().connection_made(transport)
            raise ZeroDivisionError

    async def main():
        contexts = collecting()
        protocol = Bad()
        transport, peer = await connect(protocol)
        with peer:
            assert [type(c["exception"]) for c in contexts] == [ZeroDivisionError]
            assert not transport.is_closing()
            await peer.send(b"still here")
            await protocol.until(10)
            transport.close()
            assert await protocol.lost is None

    run(main())


def test_close_is_not_synchronous_and_once():
    async def main():
        protocol = Events()
        transport, peer = await connect(protocol)
        with peer:
            assert not transport.is_closing()
            transport.write(b"goodbye")
            transport.close()
            assert transport.is_closing()
            assert protocol.events == ["made"]
            transport.close()
            transport.abort()
            assert await protocol.lost is None
            await turns()
            assert protocol.events == ["made", "lost"]
            assert transport.get_protocol() is None
            assert await peer.rest() == b"goodbye"
            transport.close()
            transport.abort()

    run(main())


def test_close_sends_everything():
    async def main():
        protocol = Events()
        transport, peer = await connect(protocol)
        with peer:
            data = os.urandom(8 << 20)
            transport.write(data)
            transport.write(b"end")
            transport.close()
            await turns()
            assert "lost" not in protocol.events
            assert await peer.rest() == data + b"end"
            assert await protocol.lost is None

    run(main())


def test_abort_drops():
    async def main():
        protocol = Events()
        transport, peer = await connect(protocol)
        with peer:
            total = fill(transport)
            transport.write(b"y" * 1000000)
            transport.abort()
            assert transport.is_closing()
            assert protocol.events[-1] != "lost"
            assert transport.get_write_buffer_size() <= total
            assert await protocol.lost is None
            assert len(await peer.rest()) < total + 1000000

    run(main())


def test_force_close_passes_the_exception():
    async def main():
        protocol = Events()
        transport, peer = await connect(protocol)
        with peer:
            exc = ValueError("why")
            transport._force_close(exc)
            assert await protocol.lost is exc

    run(main())


def test_connection_lost_raises():
    class Bad(Events):
        def connection_lost(self, exc):
            super().connection_lost(exc)
            raise ZeroDivisionError

    async def main():
        contexts = collecting()
        protocol = Bad()
        transport, peer = await connect(protocol)
        with peer:
            transport.close()
            await protocol.lost
            await turns()
            assert [type(c["exception"]) for c in contexts] == [ZeroDivisionError]
            assert await peer.rest() == b""

    run(main())


def test_extra_info_inside_connection_lost():
    class Asks(Events):
        def connection_lost(self, exc):
            fd = self.transport.get_extra_info("socket").fileno()
            self.answer = fd, self.transport.get_protocol()
            super().connection_lost(exc)

    async def main():
        protocol = Asks()
        transport, peer = await connect(protocol)
        with peer:
            fd = transport.get_extra_info("uv_handle").fileno()
            transport.close()
            await protocol.lost
            assert protocol.answer == (fd, protocol)

    run(main())


def test_references_are_given_up():
    async def main():
        protocol = Events()
        transport, peer = await connect(protocol)
        with peer:
            dead = [weakref.ref(transport), weakref.ref(protocol)]
            handle = transport.get_extra_info("uv_handle")
            dead.append(weakref.ref(handle))
            transport.close()
            await protocol.lost
            await turns()
            protocol.transport = None
            del transport, protocol, handle
            await until(lambda: all(ref() is None for ref in dead))

    run(main())


def test_open_transport_lives_by_itself():
    async def main():
        protocol = Events()
        transport, peer = await connect(protocol)
        protocol.transport = None
        del transport
        gc.collect()
        with peer:
            await peer.send(b"hello")
            await protocol.until(5)
        await protocol.lost

    run(main())


def test_unclosed_transport_warns():
    class Quiet(asyncio.Protocol):
        pass

    async def main():
        transport, peer = await connect(Quiet())
        return transport, peer.sock

    with asyncio.Runner(loop_factory=uvtulip.new_event_loop) as runner:
        transport, sock = runner.run(main())
    with pytest.warns(ResourceWarning, match="unclosed transport <StreamTransport"):
        del transport
        gc.collect()
    sock.settimeout(LIMIT)
    assert sock.recv(1) == b""
    sock.close()


def test_abandoned_loop_warns_and_frees():
    async def main():
        transport, peer = await connect(asyncio.Protocol())
        return weakref.ref(transport), peer.sock

    loop = uvtulip.new_event_loop()
    ref, sock = loop.run_until_complete(main())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del loop
        gc.collect()
    assert any("unclosed transport" in str(w.message) for w in caught)
    caught.clear()  # A warning keeps what it is about.
    gc.collect()
    assert ref() is None
    sock.settimeout(LIMIT)
    assert sock.recv(1) == b""
    sock.close()


def test_subclass():
    class Mine(StreamTransport):
        def write(self, data):
            super().write(data.upper())

    async def main():
        loop = asyncio.get_running_loop()
        ours, theirs = tcp_pair()
        protocol = Events()
        transport = Mine(loop, handle_of(ours), protocol)
        with Peer(theirs) as peer:
            transport.write(b"abc")
            assert await peer.exactly(3) == b"ABC"
            transport.close()
            await protocol.lost

    run(main())


def test_repr():
    async def main():
        protocol = Events()
        transport, peer = await connect(protocol)
        with peer:
            await turns()
            fd = transport.get_extra_info("uv_handle").fileno()
            assert repr(transport) == (
                f"<StreamTransport fd={fd} read=polling write=<idle, bufsize=0>>"
            )
            transport.pause_reading()
            assert "read=idle" in repr(transport)
            fill(transport)
            assert "write=<polling, bufsize=" in repr(transport)
            transport.close()
            assert " closing " in repr(transport)
            transport.abort()
            await protocol.lost
            await turns()
            assert " closed " in repr(transport)

    run(main())


# ---- construction ----


def test_bad_arguments():
    async def main():
        loop = asyncio.get_running_loop()
        protocol = Events()
        with pytest.raises(TypeError):
            StreamTransport()
        with pytest.raises(TypeError):
            StreamTransport(object(), uv.TCP(loop.uv_loop), protocol)
        with pytest.raises(TypeError):
            StreamTransport(loop, object(), protocol)
        with pytest.raises(TypeError, match="TCP or Pipe"):
            StreamTransport(loop, uv.Timer(loop.uv_loop), protocol)
        with pytest.raises(ValueError, match="not connected"):
            StreamTransport(loop, uv.TCP(loop.uv_loop), protocol)
        closed = uv.TCP(loop.uv_loop)
        closed.close()
        with pytest.raises(uv.error.HandleClosedError):
            StreamTransport(loop, closed, protocol)

        ours, theirs = tcp_pair()
        handle = handle_of(ours)
        with pytest.raises(TypeError, match="server"):
            StreamTransport(loop, handle, protocol, server=1)
        with pytest.raises(TypeError, match="extra"):
            StreamTransport(loop, handle, protocol, extra=1)
        transport = StreamTransport(loop, handle, protocol)
        with pytest.raises(RuntimeError, match="consumer"):
            StreamTransport(loop, handle, Events())
        with pytest.raises(RuntimeError, match="consumer"):
            handle.start_read(print)
        transport.abort()
        await protocol.lost
        theirs.close()

    run(main())


def test_handle_of_another_loop():
    async def main():
        other = uv.Loop()
        ours, theirs = tcp_pair()
        handle = uv.TCP(other)
        handle.open(ours.detach())
        with pytest.raises(ValueError, match="another loop"):
            StreamTransport(asyncio.get_running_loop(), handle, Events())
        handle.close()
        other.run()
        theirs.close()

    run(main())


def test_closed_loop():
    loop = uvtulip.new_event_loop()
    ours, theirs = tcp_pair()
    handle = handle_of(ours, loop)
    loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        StreamTransport(loop, handle, asyncio.Protocol())
    theirs.close()


# ---- reading ----


def test_nodelay_is_on():
    async def main():
        transport, peer = await connect(Events())
        with peer:
            sock = transport.get_extra_info("socket")
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
            transport.close()
            await transport.get_protocol().lost

    run(main())


def test_much_data_both_ways():
    class Echo(Events):
        def data_received(self, data):
            self.transport.write(data)

    async def main():
        protocol = Echo()
        _, peer = await connect(protocol)
        data = os.urandom(5 << 20)
        with peer:
            sending = asyncio.ensure_future(peer.send(data))
            assert await peer.exactly(len(data)) == data
            await sending
        await protocol.lost

    run(main())


def test_sizes_of_reads():
    """Much and little by turns: the transport changes its way of reading."""

    async def main():
        protocol = Events()
        transport, peer = await connect(protocol)
        with peer:
            expected = bytearray()
            for size in [1, 300_000, 300_000, 300_000, 2, 3, 4, 5, 6, 500_000, 7, 8]:
                data = os.urandom(size)
                expected += data
                await peer.send(data)
                await protocol.until(len(expected))
                if size == 4:
                    transport.pause_reading()
                    await turns()
                    transport.resume_reading()
            assert protocol.data == expected
            await peer.send(bytes(1 << 20))
            peer.close()
            assert await protocol.lost is None
            assert len(protocol.data) == len(expected) + (1 << 20)

    run(main())


@pytest.mark.parametrize("action", ["pause_reading", "close", "abort", "raise"])
def test_inside_a_large_read(action):
    class Acts(Events):
        def data_received(self, data):
            super().data_received(data)
            if len(self.data) > 400_000 and not self.transport.is_closing():
                if action == "raise":
                    raise OSError("not reported")
                getattr(self.transport, action)()

    async def main():
        protocol = Acts()
        transport, peer = await connect(protocol)
        with peer:
            sending = asyncio.ensure_future(peer.send(b"x" * (8 << 20)))
            while len(protocol.data) <= 400_000:
                await asyncio.sleep(0.001)
            count = len(protocol.data)
            await asyncio.sleep(0.02)
            assert len(protocol.data) == count
            transport.close()
            await protocol.lost
            sending.cancel()
            await asyncio.wait([sending])

    run(main())


def test_pause_and_resume_reading():
    async def main():
        protocol = Events()
        transport, peer = await connect(protocol)
        with peer:
            assert transport.is_reading()
            transport.pause_reading()
            transport.pause_reading()
            assert not transport.is_reading()
            await peer.send(b"x")
            await asyncio.sleep(0.02)
            assert protocol.events == ["made"]
            transport.resume_reading()
            transport.resume_reading()
            assert transport.is_reading()
            await protocol.until(1)
            transport.pause_reading()
            transport.close()
            transport.resume_reading()
            transport.pause_reading()
            assert not transport.is_reading()
            await protocol.lost

    run(main())


def test_pause_in_connection_made():
    class Paused(Events):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.pause_reading()

    async def main():
        protocol = Paused()
        transport, peer = await connect(protocol)
        with peer:
            await peer.send(b"x")
            await asyncio.sleep(0.02)
            assert not protocol.data
            transport.resume_reading()
            await protocol.until(1)
        await protocol.lost

    run(main())


@pytest.mark.parametrize("action", ["pause_reading", "close", "abort"])
def test_no_data_after(action):
    """Inside data_received, with more in the kernel than one read takes."""

    class Stops(Events):
        def data_received(self, data):
            super().data_received(data)
            getattr(self.transport, action)()

    async def main():
        loop = asyncio.get_running_loop()
        ours, theirs = tcp_pair()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        with Peer(theirs) as peer:
            assert theirs.send(b"z" * (2 << 20)) > 600_000
            protocol = Stops()
            transport = StreamTransport(loop, handle_of(ours), protocol)
            while not protocol.data:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.02)
            assert protocol.events.count("data") == 1
            if action == "pause_reading":
                transport.resume_reading()
                while protocol.events.count("data") < 2:
                    await asyncio.sleep(0.001)
                transport.abort()
            assert await protocol.lost is None
            del peer

    run(main())


def test_data_received_raises():
    class Bad(Events):
        def data_received(self, data):
            self.transport.write(b"last words")
            raise ZeroDivisionError

    async def main():
        contexts = collecting()
        protocol = Bad()
        transport, peer = await connect(protocol)
        with peer:
            await peer.send(b"x")
            assert type(await protocol.lost) is ZeroDivisionError
            assert await peer.rest() == b"last words"
            (context,) = contexts
            assert context["message"] == (
                "Fatal error: protocol.data_received() call failed."
            )
            assert context["transport"] is transport
            assert context["protocol"] is protocol

    run(main())


def test_oserror_of_the_protocol_is_not_reported():
    class Bad(Events):
        def data_received(self, data):
            raise OSError("mine")

    async def main():
        protocol = Bad()
        _, peer = await connect(protocol)
        with peer:
            await peer.send(b"x")
            assert str(await protocol.lost) == "mine"

    run(main())


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_interrupt_leaves_the_loop(kind):
    class Bad(Events):
        def data_received(self, data):
            super().data_received(data)
            if data == b"now":
                raise kind

    loop = uvtulip.new_event_loop()

    async def start():
        return await connect(Bad())

    async def finish():
        await peer.send(b"again")
        await protocol.until(8)
        transport.close()
        await protocol.lost

    transport, peer = loop.run_until_complete(start())
    protocol = transport.get_protocol()
    peer.sock.send(b"now")
    with pytest.raises(kind):
        loop.run_forever()
    loop.run_until_complete(finish())
    peer.close()
    loop.close()


def test_protocol_without_data_received():
    class Bare(asyncio.BaseProtocol):
        def connection_lost(self, exc):
            self.error = exc

        def eof_received(self):
            return False

    async def main():
        contexts = collecting()
        protocol = Bare()
        transport, peer = await connect(protocol)
        with peer:
            await peer.send(b"x")
            while not transport.is_closing():
                await asyncio.sleep(0.001)
            await turns()
            assert type(protocol.error) is AttributeError
            assert len(contexts) == 1

    run(main())


def test_callable_attribute_instead_of_method():
    async def main():
        protocol = Events()
        seen = []
        protocol.data_received = seen.append
        _, peer = await connect(protocol)
        with peer:
            await peer.send(b"x")
            while not seen:
                await asyncio.sleep(0.001)
        await protocol.lost
        assert seen == [b"x"]

    run(main())


def test_set_protocol_inside_data_received():
    async def main():
        second = Events()

        class First(Events):
            def data_received(self, data):
                super().data_received(data)
                self.transport.set_protocol(second)

        first = First()
        transport, peer = await connect(first)
        with peer:
            await peer.send(b"one")
            await first.until(3)
            assert transport.get_protocol() is second
            await peer.send(b"two")
            assert await second.until(3) == b"two"
            transport.close()
            await second.lost
            assert first.events == ["made", "data"]

    run(main())


def test_context():
    variable = contextvars.ContextVar("variable", default="unset")

    class Looks(Events):
        def connection_made(self, transport):
            super().connection_made(transport)
            self.seen = [variable.get()]
            variable.set("inside")

        def data_received(self, data):
            self.seen.append(variable.get())
            super().data_received(data)

        def eof_received(self):
            self.seen.append(variable.get())

        def connection_lost(self, exc):
            self.seen.append(variable.get())
            super().connection_lost(exc)

    async def main():
        variable.set("outside")
        protocol = Looks()
        _, peer = await connect(protocol)
        variable.set("later")
        with peer:
            await peer.send(b"x")
            await protocol.until(1)
        await protocol.lost
        assert protocol.seen == ["outside", "inside", "inside", "inside"]
        assert variable.get() == "later"

    run(main())


# ---- the end of the stream ----


def test_eof_closes():
    async def main():
        protocol = Events()
        transport, peer = await connect(protocol)
        with peer:
            peer.sock.shutdown(socket.SHUT_WR)
            assert await protocol.lost is None
            assert protocol.events == ["made", "eof", "lost"]
            assert await peer.rest() == b""

    run(main())


def test_eof_kept_open_for_writing():
    class Half(Events):
        def eof_received(self):
            super().eof_received()
            self.transport.write(b"one ")
            return True

    async def main():
        protocol = Half()
        transport, peer = await connect(protocol)
        with peer:
            peer.sock.shutdown(socket.SHUT_WR)
            assert await peer.exactly(4) == b"one "
            assert not transport.is_closing()
            transport.pause_reading()
            transport.resume_reading()
            transport.write(b"two")
            assert await peer.exactly(3) == b"two"
            await asyncio.sleep(0.02)
            transport.close()
            await protocol.lost
            assert protocol.events == ["made", "eof", "lost"]

    run(main())


def test_eof_received_raises():
    class Bad(Events):
        def eof_received(self):
            raise ZeroDivisionError

    async def main():
        contexts = collecting()
        protocol = Bad()
        _, peer = await connect(protocol)
        with peer:
            peer.sock.shutdown(socket.SHUT_WR)
            assert type(await protocol.lost) is ZeroDivisionError
            assert contexts[0]["message"] == (
                "Fatal error: protocol.eof_received() call failed."
            )

    run(main())


@pytest.mark.parametrize("debug", [False, True])
def test_reset_by_peer(debug, caplog):
    caplog.set_level(logging.DEBUG, "asyncio")

    async def main():
        protocol = Events()
        _, peer = await connect(protocol)
        peer.reset()
        error = await protocol.lost
        assert isinstance(error, ConnectionResetError)
        assert protocol.events == ["made", "lost"]

    run(main(), debug=debug)
    logged = [r for r in caplog.records if "Fatal read error" in r.getMessage()]
    assert len(logged) == debug
    assert all(r.levelno == logging.DEBUG and r.exc_info for r in logged)


def test_debug_messages(caplog):
    caplog.set_level(logging.DEBUG, "asyncio")

    async def main():
        protocol = Events()
        transport, peer = await connect(protocol)
        with peer:
            transport.pause_reading()
            transport.resume_reading()
        await protocol.lost

    run(main(), debug=True)
    text = "\n".join(record.getMessage() for record in caplog.records)
    for part in ("pauses reading", "resumes reading", "received EOF"):
        assert f"write=<idle, bufsize=0>> {part}" in text


def test_slow_callbacks_are_logged(caplog):
    class Slow(Events):
        def data_received(self, data):
            time.sleep(0.02)
            super().data_received(data)

        def eof_received(self):
            time.sleep(0.02)

    async def main():
        loop = asyncio.get_running_loop()
        _, peer = await connect(protocol := Slow())
        loop.slow_callback_duration = 0.02
        with peer:
            await peer.send(b"x")
            await protocol.until(1)
        await protocol.lost
        loop.slow_callback_duration = 10

    run(main(), debug=True)
    slow = [r.getMessage() for r in caplog.records if "Executing" in r.getMessage()]
    assert len(slow) >= 2
    assert "data_received" in slow[0] and " seconds" in slow[0]
    assert any("eof_received" in line for line in slow)


# ---- the handle below ----


@pytest.mark.parametrize("closing", [False, True])
def test_handle_closed_under_the_transport(closing):
    async def main():
        protocol = Events()
        transport, peer = await connect(protocol)
        with peer:
            handle = transport.get_extra_info("uv_handle")
            fill(transport)
            if closing:
                transport.close()
            handle.close()
            transport.write(b"more")
            if not closing:
                transport.write_eof()
            transport.pause_reading()
            transport.resume_reading()
            repr(transport)
            error = await protocol.lost
            if error is not None:
                assert isinstance(error, OSError)
            await until(lambda: transport.get_extra_info("uv_handle") is None)
            await turns()
            assert protocol.events.count("lost") == 1
            transport.close()
            await peer.rest()

    run(main())


def test_handle_closed_idle():
    async def main():
        protocol = Events()
        transport, peer = await connect(protocol)
        with peer:
            transport.get_extra_info("uv_handle").close()
            assert isinstance(await protocol.lost, ConnectionAbortedError)
            assert transport.is_closing()
            assert await peer.rest() == b""

    run(main())


def test_handle_closed_inside_data_received():
    class Closes(Events):
        def data_received(self, data):
            super().data_received(data)
            self.transport.get_extra_info("uv_handle").close()
            self.transport.write(b"never sent")

    async def main():
        protocol = Closes()
        _, peer = await connect(protocol)
        with peer:
            await peer.send(b"x")
            assert isinstance(await protocol.lost, OSError)

    run(main())


def test_loop_closed_inside_connection_lost_order():
    """Closing the loop with a transport that is half closed leaks nothing."""

    async def main():
        transport, peer = await connect(asyncio.Protocol())
        fill(transport)
        transport.close()
        return transport, peer

    loop = uvtulip.new_event_loop()
    transport, peer = loop.run_until_complete(main())
    loop.close()
    transport.close()
    transport.write(b"x")
    with pytest.warns(ResourceWarning):
        del transport
        gc.collect()
    peer.close()


# ---- threads ----


def in_thread(function):
    result = []

    def target():
        try:
            result.append(function())
        except RuntimeError as exc:
            result.append(exc)

    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    return result[0]


def test_other_threads():
    async def main():
        protocol = Events()
        transport, peer = await connect(protocol)
        with peer:
            loop = asyncio.get_running_loop()
            loop.set_debug(True)
            for name in ("close", "abort", "write_eof", "pause_reading"):
                error = in_thread(getattr(transport, name))
                assert isinstance(error, RuntimeError), name
            loop.set_debug(False)
            # These only queue.
            data = bytearray(b"b" * 100000)
            assert in_thread(lambda: transport.write(b"a" * 100000)) is None
            assert in_thread(lambda: transport.write(data)) is None
            data[:] = b""
            assert in_thread(lambda: transport.writelines([b"c"])) is None
            assert await peer.exactly(200001) == b"a" * 100000 + b"b" * 100000 + b"c"
            transport.close()
            await protocol.lost

    run(main())
