"""The life of a datagram transport: what protocols do in their calls, reading on
demand, the end, what can be asked of it, threads."""

import asyncio
import contextvars
import gc
import logging
import os
import socket
import threading
import weakref

import pytest

import uvtulip
from aiosupport import check_script, run, turns, until
from datagramsupport import (
    HOST,
    Datagrams,
    close,
    endpoint,
    received,
    udp_socket,
)
from uvtulip import uv
from uvtulip._transports import DatagramTransport

pytestmark = pytest.mark.usefixtures("no_leak")


# ---- protocols that do what they should not, or may ----


def collect_errors():
    caught = []
    asyncio.get_running_loop().set_exception_handler(
        lambda loop, context: caught.append(context)
    )
    return caught


def test_callbacks_that_raise():
    async def main():
        class Raising(Datagrams):
            def connection_made(self, transport):
                super().connection_made(transport)
                raise ValueError("made")

            def datagram_received(self, data, addr):
                super().datagram_received(data, addr)
                raise ValueError("data")

            def error_received(self, exc):
                super().error_received(exc)
                raise ValueError("error")

            def connection_lost(self, exc):
                super().connection_lost(exc)
                raise ValueError("lost")

        caught = collect_errors()
        transport, protocol = await endpoint(Raising)
        with udp_socket(transport) as peer:
            peer.send(b"one")
            peer.send(b"two")
            assert await protocol.until(2) == [b"one", b"two"]
            transport.sendto(b"x" * 70000, peer.getsockname())
            await protocol.error()
            transport.sendto(b"alive", peer.getsockname())
            assert await received(peer, 1) == [b"alive"]
        await close(transport)
        await turns()
        names = ["connection_made", "datagram_received", "datagram_received",
                 "error_received", "connection_lost"]
        assert [context["message"] for context in caught] == [
            f"Exception in callback protocol.{name}()" for name in names
        ]
        for context in caught:
            assert context["transport"] is transport
            assert type(context["exception"]) is ValueError
        assert caught[0]["protocol"] is protocol

    run(main())


def test_keyboard_interrupt_leaves_the_loop():
    class Interrupting(Datagrams):
        def datagram_received(self, data, addr):
            super().datagram_received(data, addr)
            raise KeyboardInterrupt

    async def make():
        return await endpoint(Interrupting)

    loop = uvtulip.new_event_loop()
    transport, protocol = loop.run_until_complete(make())
    with udp_socket(transport) as peer:
        peer.send(b"x")
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(asyncio.sleep(1))
    assert protocol.data == [b"x"]
    loop.run_until_complete(close(transport))
    loop.close()


@pytest.mark.parametrize("action", ["close", "abort"])
def test_end_inside_of_a_batch(action):
    async def main():
        class Ending(Datagrams):
            def datagram_received(self, data, addr):
                super().datagram_received(data, addr)
                self.transport.sendto(b"bye", addr)
                getattr(self.transport, action)()
                self.transport.sendto(b"too late", addr)

        transport, protocol = await endpoint(Ending)
        with udp_socket(transport) as peer:
            for _ in range(5):
                peer.send(b"x")
            assert await protocol.lost is None
            assert protocol.events == ["made", "data", "lost"]
            assert await received(peer, 1) == [b"bye"]
            with pytest.raises((BlockingIOError, ConnectionRefusedError)):
                peer.recv(10)

    run(main())


def test_handle_closed_by_somebody_else():
    async def main():
        transport, protocol = await endpoint()
        transport.sendto(b"x", (HOST, 9))
        transport.get_extra_info("uv_handle").close()
        transport.sendto(b"x", (HOST, 9))
        assert isinstance(await protocol.lost, ConnectionAbortedError)
        assert transport.is_closing()
        assert transport.get_extra_info("uv_handle") is None

    run(main())


def test_handle_closed_inside_of_a_batch():
    async def main():
        class Closing(Datagrams):
            def datagram_received(self, data, addr):
                super().datagram_received(data, addr)
                handle = self.transport.get_extra_info("uv_handle")
                if not handle.closed:
                    handle.close()
                self.transport.sendto(data, addr)

        transport, protocol = await endpoint(Closing)
        with udp_socket(transport) as peer:
            for _ in range(5):
                peer.send(b"x")
            assert isinstance(await protocol.lost, ConnectionAbortedError)

    run(main())


def test_descriptor_closed_by_somebody_else():
    """The loop must not abort; and the number is not the transport's any more."""

    async def main():
        transport, protocol = await endpoint()
        with udp_socket() as peer:
            peer.connect(transport.get_extra_info("sockname"))
            sock = transport.get_extra_info("socket")
            os.close(sock.fileno())
            transport.sendto(b"x", peer.getsockname())
            transport.close()
            await protocol.lost

    run(main())


def test_set_protocol():
    async def main():
        transport, first = await endpoint()
        second = Datagrams()
        assert transport.get_protocol() is first
        with udp_socket(transport) as peer:
            peer.send(b"one")
            await first.until(1)
            transport.set_protocol(protocol=second)
            assert transport.get_protocol() is second
            peer.send(b"two")
            assert await second.until(1) == [b"two"]
        transport.close()
        assert await second.lost is None
        assert transport.get_protocol() is None
        assert first.events == ["made", "data"]
        with pytest.raises(TypeError):
            transport.set_protocol()

    run(main())


def test_set_protocol_inside_of_a_batch():
    async def main():
        class Leaving(Datagrams):
            def datagram_received(self, data, addr):
                super().datagram_received(data, addr)
                self.transport.set_protocol(successor)

        successor = Datagrams()
        transport, protocol = await endpoint(Leaving)
        with udp_socket(transport) as peer:
            for data in (b"one", b"two", b"three"):
                peer.send(data)
            assert await successor.until(2) == [b"two", b"three"]
        assert protocol.data == [b"one"]
        transport.close()
        await successor.lost

    run(main())


def test_protocols_of_other_kinds():
    """A method that is no method, and none at all."""

    async def main():
        caught = collect_errors()
        transport, protocol = await endpoint()
        with udp_socket(transport) as peer:
            seen = []

            class Odd:
                datagram_received = staticmethod(lambda *args: seen.append(args))

            transport.set_protocol(Odd())
            peer.send(b"x")
            await until(lambda: seen)
            assert seen == [(b"x", peer.getsockname())]
            transport.set_protocol(object())
            peer.send(b"x")
            await until(lambda: caught)
            assert isinstance(caught[0]["exception"], AttributeError)
        transport.set_protocol(protocol)
        await close(transport)

    run(main())


# ---- reading on demand ----


def test_pause_reading_keeps_what_comes():
    async def main():
        class Pausing(Datagrams):
            def datagram_received(self, data, addr):
                super().datagram_received(data, addr)
                if data in (b"2", b"5"):
                    self.transport.pause_reading()
                    assert not self.transport.is_reading()

        transport, protocol = await endpoint(Pausing)
        assert transport.is_reading()
        with udp_socket(transport) as peer:
            for number in range(8):
                peer.send(b"%d" % number)
            await protocol.until(3)
            peer.send(b"8")
            await asyncio.sleep(0.01)
            assert protocol.data == [b"0", b"1", b"2"]
            transport.resume_reading()
            transport.resume_reading()
            await asyncio.sleep(0.01)
            assert protocol.data[3:] == [b"3", b"4", b"5"]
            transport.resume_reading()
            assert await protocol.until(9) == [b"%d" % n for n in range(9)]
            assert set(protocol.addresses) == {peer.getsockname()}
            transport.pause_reading()
            transport.pause_reading()
            peer.send(b"lost")
            await close(transport)
            transport.resume_reading()
            transport.pause_reading()
            assert not transport.is_reading()
        assert len(protocol.data) == 9

    run(main())


def test_pause_reading_in_connection_made():
    async def main():
        class Pausing(Datagrams):
            def connection_made(self, transport):
                super().connection_made(transport)
                transport.pause_reading()

        transport, protocol = await endpoint(Pausing)
        with udp_socket(transport) as peer:
            peer.send(b"x")
            await asyncio.sleep(0.01)
            assert protocol.data == []
            transport.resume_reading()
            assert await protocol.until(1) == [b"x"]
        await close(transport)

    run(main())


def test_close_drops_what_a_pause_has_kept():
    async def main():
        class Pausing(Datagrams):
            def datagram_received(self, data, addr):
                super().datagram_received(data, addr)
                self.transport.pause_reading()

        transport, protocol = await endpoint(Pausing)
        with udp_socket(transport) as peer:
            for _ in range(3):
                peer.send(b"x")
            await protocol.until(1)
            transport.resume_reading()
            await close(transport)
        assert protocol.data == [b"x"]

    run(main())


# ---- the end ----


@pytest.mark.parametrize("action", ["close", "abort"])
def test_sendto_after_the_end_is_silent(action, caplog):
    async def main():
        transport, protocol = await endpoint()
        with udp_socket() as peer:
            transport.sendto(b"before", peer.getsockname())
            getattr(transport, action)()
            assert transport.is_closing()
            transport.sendto(b"x", peer.getsockname())
            assert await protocol.lost is None
            for addr in (peer.getsockname(), None, ("localhost", 1), "nonsense"):
                transport.sendto(b"x", addr)
            assert await received(peer, 1) == [b"before"]
            with pytest.raises(BlockingIOError):
                peer.recv(10)
        with pytest.raises(TypeError):
            transport.sendto("text", None)
        getattr(transport, action)()
        assert protocol.events == ["made", "lost"]

    with caplog.at_level(logging.DEBUG, "asyncio"):
        run(main(), debug=False)
        assert [r.getMessage() for r in caplog.records] == [
            "socket.send() raised exception."
        ]


def test_lost_writes_are_logged_from_the_fifth_on(caplog):
    async def main():
        with udp_socket() as peer:
            transport, _ = await endpoint(remote_addr=peer.getsockname())
            await close(transport)
            with pytest.raises(ValueError, match="Invalid address"):
                transport.sendto(b"x", (HOST, 1))
            for _ in range(4):
                transport.sendto(b"x")
            assert caplog.records == []
            transport.sendto(b"x")
            transport.sendto(b"x")
            assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
                ("WARNING", "socket.send() raised exception.")
            ] * 2

    with caplog.at_level(logging.WARNING, "asyncio"):
        run(main())


def test_order_of_the_first_events():
    """connection_made(), then who waits for the endpoint, then datagrams."""

    async def main():
        events = []

        class Noting(Datagrams):
            def connection_made(self, transport):
                super().connection_made(transport)
                events.append("made")
                peer.connect(transport.get_extra_info("sockname"))
                peer.send(b"x")

            def datagram_received(self, data, addr):
                super().datagram_received(data, addr)
                events.append("data")

        with udp_socket() as peer:
            transport, protocol = await endpoint(Noting)
            events.append("awaited")
            await protocol.until(1)
        assert events == ["made", "awaited", "data"]
        await close(transport)

    run(main())


def test_force_close():
    async def main():
        transport, protocol = await endpoint()
        exc = ZeroDivisionError("why")
        transport._force_close(exc)
        transport._force_close(None)
        assert await protocol.lost is exc

    run(main())


def test_contexts():
    """Every call of the protocol is made in the context of the endpoint's maker,
    whoever caused it."""
    var = contextvars.ContextVar("var", default="nobody")

    async def main():
        seen = []

        class Noting(Datagrams):
            def note(self, name):
                seen.append((name, var.get()))
                var.set("the protocol")

            def connection_made(self, transport):
                super().connection_made(transport)
                self.note("made")
                transport.sendto(b"x" * 70000, (HOST, 9))
                transport.set_write_buffer_limits()

            def datagram_received(self, data, addr):
                self.note("data")

            def error_received(self, exc):
                self.note("error")

            def connection_lost(self, exc):
                super().connection_lost(exc)
                self.note("lost")

        var.set("the maker")
        transport, protocol = await endpoint(Noting)
        assert var.get() == "the maker"

        async def other():
            var.set("somebody else")
            transport.sendto(b"x" * 70000, (HOST, 9))
            transport.sendto(b"x", transport.get_extra_info("sockname"))
            transport.get_write_buffer_size()
            assert var.get() == "somebody else"
            await until(lambda: len(seen) > 3)
            transport.close()

        await asyncio.create_task(other())
        await protocol.lost
        assert [name for name, _ in seen] == ["made", "error", "error", "data", "lost"]
        assert [value for _, value in seen] == ["the maker"] + ["the protocol"] * 4

    run(main())


# ---- questions ----


def test_extra_info():
    async def main():
        with udp_socket() as peer:
            transport, protocol = await endpoint(
                local_addr=(HOST, 0), remote_addr=peer.getsockname()
            )
            info = transport.get_extra_info
            assert info("peername") == peer.getsockname()
            sock = info("socket")
            assert info("socket") is sock
            assert info("sockname") == sock.getsockname()
            assert sock.getpeername() == info("peername")
            assert (sock.family, sock.type) == (socket.AF_INET, socket.SOCK_DGRAM)
            for name in ("send", "sendto", "recv", "recvfrom", "close", "connect"):
                with pytest.raises(AttributeError, match=f"no {name}"):
                    getattr(sock, name)
            with sock.dup() as own:
                own.send(b"own")
                assert await received(peer, 1) == [b"own"]
            assert type(info("uv_handle")) is uv.UDP
            assert info("uv_handle").fileno() == sock.fileno()
            assert info("unknown") is None
            assert info("unknown", default=5) == 5
            assert info("unknown", 6) == 6
            name = info("sockname")
            await close(transport)
            assert sock.fileno() == -1
            assert (info("sockname"), info("peername")) == (name, peer.getsockname())
            assert info("uv_handle", 7) == 7 or info("uv_handle").closed

    run(main())


def test_classes():
    async def main():
        transport, _ = await endpoint()
        assert type(transport) is DatagramTransport
        assert isinstance(transport, asyncio.DatagramTransport)
        transport.attribute = 5
        assert transport.attribute == 5
        assert weakref.ref(transport)() is transport
        await close(transport)

    run(main())


def test_repr():
    async def main():
        transport, _ = await endpoint()
        await turns()
        fd = transport.get_extra_info("socket").fileno()
        assert repr(transport) == (
            f"<DatagramTransport fd={fd} read=polling write=<idle, bufsize=0>>"
        )
        transport.close()
        assert f"<DatagramTransport closing fd={fd} read=idle" in repr(transport)
        await turns()
        assert repr(transport).startswith("<DatagramTransport closed read=idle")

    run(main())


def test_unclosed_transports_warn():
    done = check_script(
        """
        import asyncio, gc, os, warnings
        import uvtulip

        async def main():
            loop = asyncio.get_running_loop()
            return await loop.create_datagram_endpoint(
                asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))

        loop = uvtulip.new_event_loop()
        transport, _ = loop.run_until_complete(main())
        fd = transport.get_extra_info("uv_handle").fileno()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            del transport, loop, _
            gc.collect()
        print(sorted(str(w.message).split(" fd=")[0] for w in caught
                     if w.category is ResourceWarning))
        try:
            os.fstat(fd)
        except OSError:
            print("closed")
        """
    )
    assert done.splitlines()[1:] == ["closed"]
    assert "unclosed transport <DatagramTransport" in done


def test_loop_closed_before_the_transport():
    loop = uvtulip.new_event_loop()
    transport, _ = loop.run_until_complete(
        loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, local_addr=(HOST, 0)
        )
    )
    loop.close()
    assert transport.is_closing()
    for addr in ((HOST, 9), None):
        transport.sendto(b"x", addr)
    assert transport.get_write_buffer_size() == 0
    assert "closed" in repr(transport)
    with pytest.warns(ResourceWarning, match="unclosed transport"):
        del transport, _
        gc.collect()


def test_descriptors_are_refused_to_others():
    async def main():
        loop = asyncio.get_running_loop()
        given = udp_socket()
        transport, _ = await endpoint(sock=given)
        transport.pause_reading()
        for fd in (given.fileno(), transport.get_extra_info("uv_handle").fileno()):
            for call, args in (
                (loop.add_reader, (fd, print)),
                (loop.remove_writer, (fd,)),
            ):
                with pytest.raises(
                    RuntimeError, match=rf"{fd} is used by transport <DatagramTransp"
                ):
                    call(*args)
        await close(transport)

    run(main())


# ---- threads and debug mode ----


def test_sendto_in_another_thread():
    async def main():
        transport, _ = await endpoint()
        with udp_socket() as peer:
            name = peer.getsockname()
            thread = threading.Thread(
                target=lambda: [transport.sendto(b"%d" % n, name) for n in range(200)]
            )
            thread.start()
            assert await received(peer, 200) == [b"%d" % n for n in range(200)]
            thread.join()
        await close(transport)

    run(main(), debug=False)


def call_in_thread(function, *args):
    caught = []

    def target():
        try:
            function(*args)
        except BaseException as exc:
            caught.append(exc)

    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    return caught


def test_wrong_thread():
    async def main(debug):
        transport, protocol = await endpoint()
        for name in ("close", "abort", "pause_reading") if debug else ():
            caught = call_in_thread(getattr(transport, name))
            assert [type(exc) for exc in caught] == [RuntimeError]
            assert "Non-thread-safe" in str(caught[0])
        caught = call_in_thread(transport.sendto, b"x", (HOST, 9))
        assert [type(exc) for exc in caught] == [RuntimeError] * debug
        await close(transport)

    run(main(False), debug=False)
    run(main(True), debug=True)


def test_debug_mode(caplog):
    async def main():
        loop = asyncio.get_running_loop()
        loop.slow_callback_duration = 0.0

        class Slow(Datagrams):
            pass

        transport, protocol = await endpoint(Slow)
        with udp_socket(transport) as peer:
            peer.send(b"x")
            await protocol.until(1)
            loop.slow_callback_duration = 1.0
            transport.pause_reading()
            transport.resume_reading()
            client, _ = await endpoint(remote_addr=peer.getsockname())
        await close(transport, client)
        return transport

    with caplog.at_level(logging.DEBUG, "asyncio"):
        run(main(), debug=True)
        text = "\n".join(r.getMessage() for r in caplog.records)
    assert "Datagram endpoint local_addr=('127.0.0.1', 0) remote_addr=None cr" in text
    assert "Datagram endpoint remote_addr=('127.0.0.1', " in text
    assert "> pauses reading" in text
    assert "> resumes reading" in text
    assert "Executing datagram_received of <DatagramTransport" in text
