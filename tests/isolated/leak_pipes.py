"""5,000 pairs of pipe transports, ended in every order: nothing stays behind."""

import asyncio
import os
import socket

from leakcheck import check

import uvtulip


class End(asyncio.Protocol):
    def __init__(self):
        self.lost = asyncio.get_running_loop().create_future()
        self.paused = False

    def connection_made(self, transport):
        self.transport = transport

    def pause_writing(self):
        self.paused = True

    def connection_lost(self, exc):
        self.transport = None
        self.lost.set_result(None)


def pipe_objects():
    reading, writing = os.pipe()
    return open(reading, "rb", 0), open(writing, "wb", 0)


async def one(order):
    loop = asyncio.get_running_loop()
    reading, writing = socket.socketpair() if order == "socket" else pipe_objects()
    if order == "refused":
        with open("/dev/zero", "rb") as file, reading, writing:
            try:
                await loop.connect_read_pipe(End, file)
            except OSError:
                return
    if order == "cancelled":
        task = asyncio.ensure_future(loop.connect_write_pipe(End, writing))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        reading.close()
        return
    reader, received = await loop.connect_read_pipe(End, reading)
    writer, sent = await loop.connect_write_pipe(End, writing)
    if order == "reader first":
        reader.close()
        await sent.lost
    elif order == "with data waiting":
        writer.write(bytes(300_000))
        reader.close()
        await sent.lost
    elif order == "aborted":
        reader.pause_reading()
        writer.write(bytes(300_000))
        assert sent.paused
        writer.abort()
        await sent.lost
        reader.resume_reading()
    elif order == "much":
        writer.write(bytearray(1_000_000))
        writer.write_eof()
        await sent.lost
    elif order == "handle closed":
        writer.get_extra_info("uv_handle").close()
        await sent.lost
    else:
        writer.writelines([b"x"] * 20)
        writer.close()
        await sent.lost
    await received.lost


async def pairs(count):
    orders = [
        "writer first", "reader first", "with data waiting", "aborted", "much",
        "handle closed", "socket", "cancelled", "refused",
    ]
    for start in range(0, count, 40):
        await asyncio.gather(*(one(orders[i % len(orders)])
                               for i in range(start, min(start + 40, count))))


def work(count):
    with asyncio.Runner(loop_factory=uvtulip.new_event_loop) as runner:
        runner.run(pairs(count))


check("pipes", work, 5_000, 300)
