"""What a program of tests/loopfuzz.py does at once: a function is a step, registered
with its weight, and may be called from anywhere, also when the loop is closed.
"""

import gc
import os
import signal
import socket
from typing import Any

from fuzzworld import (
    JOBS,
    JUNK,
    MATERIAL,
    PERIOD,
    SIZES,
    Base,
    Buffered,
    Dice,
    Flow,
    Line,
    Plain,
    World,
    step,
)
from uvtulip import uv

NAMES = [
    "socket", "sockname", "peername", "pipe", "ssl_object", "cipher", "compression",
    "peercert", "peer_certificate", "uv_handle", "subprocess", "none",
]  # fmt: skip


# ---- what is done at once ----


@step(12)
def begin(world: World, dice: Dice) -> None:
    world.spawn(dice.choice(JOBS), dice)


@step(12)
def write(world: World, dice: Dice) -> None:
    line = world.line(dice)
    transport, out = line.transport, line.out
    if hasattr(transport, "get_pipe_transport"):
        transport = transport.get_pipe_transport(0)
    if not hasattr(transport, "write") or not out.usable():
        return
    data = bytearray(out.piece(dice.choice(SIZES)))
    if out.shared and dice.chance(0.1):
        out.trusted = False
        dice.junk = True
        junk = dice.choice(JUNK)
        dice.choice([transport.write, transport.writelines])(
            dice.choice([junk, [junk], [data, junk]])
        )
    elif dice.chance(0.3):
        cuts = sorted(dice.randrange(len(data) + 1) for _ in range(3))
        places = zip([0, *cuts], [*cuts, len(data)], strict=True)
        pieces = (bytes(data[start:end]) for start, end in places)
        out.wrote += len(data)  # Before: pause_writing() may write, too.
        transport.writelines(dice.choice([iter, list, tuple])(pieces))
    else:
        out.wrote += len(data)
        transport.write(dice.choice([bytes, bytearray, memoryview, lambda d: d])(data))
        if dice.chance(0.5):
            data[:] = bytes(len(data))
        else:
            data.clear()  # Nobody may hold it.


@step(12)
def use_transport(world: World, dice: Dice) -> None:
    line = world.line(dice)
    transport = line.transport
    if hasattr(transport, "get_pipe_transport") and dice.chance(0.5):
        transport = transport.get_pipe_transport(dice.odd(dice.randrange(3)))
    limits = {"high": dice.odd(dice.choice(SIZES), 0.2), "low": dice.odd(None, 0.2)}
    calls: list[tuple[str, Any]] = [
        *((name, {}) for name in ("pause_reading", "resume_reading", "is_reading") * 3),
        *((name, {}) for name in ("is_closing", "get_write_buffer_size") * 2),
        *((name, {}) for name in ("get_protocol", "get_write_buffer_limits")),
        *((name, {}) for name in ("can_write_eof", "write_eof", "close", "abort")),
        *((name, {}) for name in ("__repr__", "__hash__", "__sizeof__", "__dir__")),
        *((name, {}) for name in ("get_pid", "get_returncode", "terminate", "kill")),
        ("set_write_buffer_limits", limits),
        ("set_read_buffer_limits", limits),
        ("get_extra_info", {"name": dice.odd(dice.choice(NAMES))}),
        ("send_signal", {"signal": dice.odd(0)}),
    ]
    for name, options in dice.sample(calls, 3):
        if hasattr(transport, name):
            getattr(transport, name)(**options)


@step(3)
def set_protocol(world: World, dice: Dice) -> None:
    line = world.line(dice)
    protocol = line.transport.get_protocol()
    if isinstance(protocol, (Plain, Buffered)):
        protocol = dice.choice([Plain, Buffered])(line)
    elif not isinstance(protocol, Base):
        return
    line.transport.set_protocol(protocol)


@step(1)
def make_transport(world: World, dice: Dice) -> None:
    """Of C, out of a handle that has one already, of a fresh one, of anything."""
    transport = world.line(dice).transport
    cls = type(transport)
    if not cls.__module__.startswith("uvtulip._") or cls.__name__ == "SSLTransport":
        return
    dice.junk = True
    fresh = dice.choice([uv.TCP, uv.Pipe, uv.UDP])(world.loop.uv_loop)
    handle = dice.choice([transport.get_extra_info("uv_handle"), fresh])
    arguments = [dice.odd(world.loop, 0.1), dice.odd(handle, 0.2), Plain(Line(world))]
    arguments += dice.choices(JUNK, k=dice.choice([0, 0, 0, 1, 7]))
    if dice.chance(0.2):
        transport.__init__(*arguments)
    else:
        world.others.append(cls(*arguments))


@step(8)
def schedule(world: World, dice: Dice) -> None:
    loop, callback = world.loop, dice.odd(world.callback(dice))
    delay = dice.odd(dice.choice([0, 0.001, 0.002, -1, 100]))
    function, *arguments = dice.choice(
        [
            (loop.call_soon, callback),
            (loop.call_soon_threadsafe, callback, 1, 2),
            (loop.call_later, delay, callback),
            (loop.call_at, dice.odd(loop.time() + 0.001), callback, None),
        ]
    )
    options = {"context": dice.odd(None)} if dice.chance(0.3) else {}
    world.gave_junk |= dice.junk
    world.handles.append(function(*arguments, **options))


@step(5)
def use_handle(world: World, dice: Dice) -> None:
    handle = world.pick(world.handles, dice)
    other = dice.odd(world.pick(world.handles, dice))
    for call in dice.sample(
        [handle.cancel, handle.cancelled, handle.__repr__, handle.get_context,
         getattr(handle, "when", handle.cancelled), lambda: hash(handle), handle._run,
         lambda: handle == other, lambda: handle < other, lambda: handle >= other],
        3,
    ):  # fmt: skip
        if call == handle._run and dice.chance(0.9):
            continue
        dice.junk = True  # Not every handle can be compared.
        call()


@step(8)
def watch(world: World, dice: Dice) -> None:
    sock = world.pick(world.socks, dice)
    fd = dice.odd(dice.choice([sock.sock, sock.sock.fileno()]))
    name = dice.choice(["add_reader", "add_writer", "remove_reader", "remove_writer"])
    if name.startswith("remove") or dice.chance(0.3):
        getattr(world.loop, name.replace("add", "remove"))(fd)
        return
    mine = Dice(dice.random())

    def ready() -> None:
        if name == "add_reader" and mine.chance(0.5):
            limit = mine.choice([1, 1000, 70_000])
            sock.take(sock.sock.recv(limit, socket.MSG_DONTWAIT))
        if mine.chance(0.2):
            getattr(world.loop, name.replace("add", "remove"))(fd)
        world.mischief(mine)

    callback = dice.odd(ready)
    world.gave_junk |= dice.junk
    getattr(world.loop, name)(fd, callback)


@step(3)
def use_loop(world: World, dice: Dice) -> None:
    loop = world.loop
    calls: list[tuple[Any, ...]] = [
        (loop.time,), (repr, loop), (loop.get_debug,), (loop.is_running,),
        (loop.set_debug, dice.odd(dice.chance(0.5))), (loop.create_future,),
        (loop.get_exception_handler,), (loop.run_forever,), (loop.get_task_factory,),
        (loop.set_exception_handler, dice.odd(world.on_error, 0.2)),
        (loop.run_until_complete, dice.choice([loop.create_future(), *JUNK])),
        (loop.set_task_factory, dice.odd(None, 0.5)), (gc.collect, 0), (gc.collect,),
    ]  # fmt: skip
    if hasattr(loop, "metrics"):
        calls += [(loop.metrics,), (loop.time_callbacks, dice.odd(True, 0.3))]
    if loop.is_running():
        calls += [(loop.close,)]
    else:
        runs = (loop.run_forever, loop.run_until_complete)
        calls = [call for call in calls if call[0] not in runs]
    function, *arguments = dice.choice(calls)
    dice.junk |= any(value is junk for value in arguments for junk in JUNK)
    try:
        function(*arguments)
    finally:
        if not loop.is_closed():
            loop.set_exception_handler(world.on_error)
            loop.set_task_factory(None)


@step(2)
def stop(world: World, dice: Dice) -> None:
    if world.stops and not world.calm:
        world.loop.stop()


@step(3)
def cancel(world: World, dice: Dice) -> None:
    world.pick(world.tasks, dice).cancel()


@step(2)
def drop(world: World, dice: Dice) -> None:
    """Forget something, which may be its last reference."""
    what = dice.randrange(4)
    if what == 0:
        world.line(dice).transport = None
    elif what == 1:
        world.socks.remove(world.pick(world.socks, dice))
    else:
        every = world.handles, world.servers, world.writers, world.others
        things: list[Any] = dice.choice(every)
        things.remove(world.pick(things, dice))


@step(2)
def use_server(world: World, dice: Dice) -> None:
    server = world.pick(world.servers, dice)
    for name in ("is_serving", "get_loop", "close_clients", "abort_clients"):
        if dice.chance(0.2) and hasattr(server, name):
            getattr(server, name)()
    for sock in server.sockets or ():
        sock.getsockname()
    if dice.chance(0.2):
        server.close()
    if dice.chance(0.1):
        world.spawn(lambda *_: server.wait_closed(), dice)
    if dice.chance(0.2):
        world.spawn(lambda *_: server.serve_forever(), dice)


@step(4)
def send_datagram(world: World, dice: Dice) -> None:
    lines = [line for line in world.lines if hasattr(line.transport, "sendto")]
    line = world.pick(lines, dice)
    start = dice.randrange(PERIOD)
    data = bytearray(MATERIAL[start : start + dice.choice([0, 1, 1400, 60_000])])
    address = world.pick(lines, dice).transport.get_extra_info("sockname")
    address = dice.odd(address or None, 0.3)
    own = line.transport.get_extra_info("sockname")
    dice.junk |= type(address) is not type(own)  # It may need one, of its own kind.
    for _ in range(dice.choice([1, 1, 5])):
        line.transport.sendto(dice.odd(data), address)
    data.clear()


@step(1)
def use_signal(world: World, dice: Dice) -> None:
    loop, number = world.loop, dice.odd(signal.SIGUSR1)
    if dice.chance(0.7):
        callback = dice.odd(world.callback(dice))
        world.gave_junk |= dice.junk
        loop.add_signal_handler(number, callback)
        os.kill(os.getpid(), signal.SIGUSR1)
    else:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        loop.remove_signal_handler(number)


@step(2)
def close_descriptor(world: World, dice: Dice) -> None:
    """What an adversary does: a descriptor that others use is another's, or none."""
    if not world.hostile or world.calm:
        return
    Flow.certain = False  # Anybody may read anything now.
    handles = [sock.sock for sock in world.socks]
    for line in world.lines[-5:]:
        if line.transport is not None:
            handles += [line.transport.get_extra_info(name) for name in NAMES]
    fds = [handle.fileno() for handle in handles if hasattr(handle, "fileno")]
    fd = world.pick([fd for fd in fds if fd > 2], dice)
    if dice.chance(0.5):
        os.close(fd)
    else:
        sock = world.pick(world.socks, dice)
        os.dup2(sock.sock.fileno(), fd)


@step(2)
def use_raw_handle(world: World, dice: Dice) -> None:
    """Anything of the handle that a transport or a server stands on."""
    handle = world.line(dice).transport.get_extra_info("uv_handle")
    if handle is None or not world.hostile or world.calm:
        return
    dice.junk = True
    Flow.certain = False  # It may read, too.
    names = [name for name in dir(handle) if name[0] != "_"]
    found = getattr(handle, dice.choice([n for n in names if n != "set_blocking"]))
    if callable(found):
        found(*dice.choices([*JUNK, world.callback(dice)], k=dice.randrange(3)))
