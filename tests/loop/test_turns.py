"""What one turn of the loop after the other sees: descriptors, other threads,
signals, timers, while tasks keep it busy."""

import asyncio
import os
import signal
import socket
import threading

import pytest

from aiosupport import LIMIT, run

# asyncio's own loop needs two: one to notice, one to call.
FEW = 3


async def turns_until(happened):
    for n in range(1, 10_000):
        await asyncio.sleep(0)
        if happened():
            return n
    raise AssertionError("it was never noticed")


async def after_a_pause(trigger, seen, times=30):
    """How many turns each of them took to be noticed by a loop that has waited."""
    counts = []
    for _ in range(times):
        await asyncio.sleep(0.001)
        seen.clear()
        trigger()
        counts.append(await turns_until(lambda: seen))
    return counts


# ---- what happens outside ----


def test_a_readable_socket_is_noticed():
    async def main():
        loop = asyncio.get_running_loop()
        a, b = socket.socketpair()
        with a, b:
            a.setblocking(False)
            seen = []
            loop.add_reader(a, lambda: seen.append(a.recv(10)))
            counts = await after_a_pause(lambda: b.send(b"x"), seen)
            loop.remove_reader(a)
        return counts

    assert max(run(main())) <= FEW


def test_a_transport_receives():
    async def main():
        loop = asyncio.get_running_loop()
        a, b = socket.socketpair()
        seen = []

        class Protocol(asyncio.Protocol):
            def data_received(self, data):
                seen.append(data)

        with b:
            transport, _ = await loop.create_connection(Protocol, sock=a)
            counts = await after_a_pause(lambda: b.send(b"x"), seen)
            transport.close()
        return counts

    assert max(run(main())) <= FEW


def test_a_datagram_is_noticed():
    async def main():
        loop = asyncio.get_running_loop()
        seen = []

        class Protocol(asyncio.DatagramProtocol):
            def datagram_received(self, data, addr):
                seen.append(data)

        transport, _ = await loop.create_datagram_endpoint(
            Protocol, local_addr=("127.0.0.1", 0)
        )
        address = transport.get_extra_info("sockname")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            counts = await after_a_pause(lambda: sender.sendto(b"x", address), seen)
        transport.close()
        return counts

    assert max(run(main())) <= FEW


def test_a_signal_is_noticed():
    async def main():
        loop = asyncio.get_running_loop()
        seen = []
        loop.add_signal_handler(signal.SIGUSR1, seen.append, 1)
        counts = await after_a_pause(lambda: os.kill(os.getpid(), signal.SIGUSR1), seen)
        loop.remove_signal_handler(signal.SIGUSR1)
        return counts

    assert max(run(main())) <= FEW


@pytest.mark.parametrize("busy", [0, 1, 7, 100, 5000])
def test_a_call_from_another_thread_is_noticed(busy):
    """However long tasks have kept the loop busy: that needs no poll."""

    async def main():
        loop = asyncio.get_running_loop()
        seen, counts = [], []
        for _ in range(10):
            for _ in range(busy):
                await asyncio.sleep(0)
            seen.clear()
            thread = threading.Thread(
                target=loop.call_soon_threadsafe, args=(seen.append, 1)
            )
            thread.start()
            thread.join(LIMIT)
            counts.append(await turns_until(lambda: seen))
        return counts

    assert max(run(main())) <= FEW


@pytest.mark.parametrize("busy", [10, 100, 2000])
def test_a_busy_loop_notices(busy):
    """After a long chain of callbacks polls are rare, but never more than 64 turns
    apart; and what a callback does by a system call is mostly noticed at once."""

    async def main():
        loop = asyncio.get_running_loop()
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        seen, counts = [], []
        loop.add_reader(reader, lambda: seen.append(os.read(reader, 10)))
        for _ in range(20):
            for _ in range(busy):
                await asyncio.sleep(0)
            seen.clear()
            os.write(writer, b"x")
            counts.append(await turns_until(lambda: seen))
        loop.remove_reader(reader)
        os.close(reader)
        os.close(writer)
        return counts

    counts = run(main())
    assert max(counts) <= 64 + FEW
    assert min(counts) <= FEW


def test_a_raw_timer_fires_in_a_busy_loop():
    """Without a poll libuv's clock stands still."""

    async def main():
        from uvtulip import uv

        fired = []
        timer = uv.Timer(asyncio.get_running_loop().uv_loop)
        timer.start(fired.append, 0.002, 0)
        while not fired:
            await asyncio.sleep(0)
        timer.close()

    run(main())


# ---- timers ----


@pytest.mark.parametrize("delay", [0, 0.0, -1, -1e9])
@pytest.mark.parametrize("busy", [0, 1, 50])
def test_a_timer_that_is_due_at_once(delay, busy):
    """It comes in the next turn, after what was ready before and what else the
    callback that has set it makes ready, and before what comes of that."""

    async def main():
        loop = asyncio.get_running_loop()
        for _ in range(busy):
            await asyncio.sleep(0)
        order, done = [], loop.create_future()

        def first():
            order.append("first")
            loop.call_soon(order.append, "third")
            loop.call_soon(done.set_result, None)

        def set_it():
            loop.call_later(delay, order.append, "timer")
            loop.call_soon(first)

        loop.call_soon(set_it)
        await done
        return order

    assert run(main()) == ["first", "timer", "third"]


@pytest.mark.parametrize("ago", [0, 1])
def test_call_at_a_time_that_has_passed(ago):
    async def main():
        loop = asyncio.get_running_loop()
        seen = []
        loop.call_at(loop.time() - ago, seen.append, 1)
        return await turns_until(lambda: seen)

    assert run(main()) <= 2


def test_timers_that_are_due_keep_their_order():
    async def main():
        loop = asyncio.get_running_loop()
        order = []
        now = loop.time()
        for when in (now - 1, now - 3, now - 2):
            loop.call_at(when, order.append, when - now)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return order

    assert run(main()) == sorted([-1, -2, -3])


def test_a_timer_that_sets_itself_again_lets_others_run():
    async def main():
        loop = asyncio.get_running_loop()
        a, b = socket.socketpair()
        a.setblocking(False)
        going = True

        def again():
            if going:
                loop.call_later(0, again)

        with a, b:
            again()
            b.send(b"x")
            data = await loop.sock_recv(a, 10)
            await asyncio.sleep(0.001)
        going = False
        return data

    assert run(main()) == b"x"
