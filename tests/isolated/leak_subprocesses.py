"""10,000 subprocesses, ended in every way: no descriptor, object or zombie more.

The environment variable UVTULIP_LEAK_SUBPROCESSES asks for another number; 500
without it, since a process costs a millisecond.
"""

import asyncio
import os
import signal

from leakcheck import check

import uvtulip

COUNT = int(os.environ.get("UVTULIP_LEAK_SUBPROCESSES", "500"))
PIPE = asyncio.subprocess.PIPE
AT_ONCE = 8


async def waited():
    process = await asyncio.create_subprocess_exec("true")
    assert await process.wait() == 0


async def talked_to():
    process = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
    assert await process.communicate(b"x" * 1000) == (b"x" * 1000, None)


async def through_a_shell():
    process = await asyncio.create_subprocess_shell(
        "echo out; echo error >&2; exit 3", stdin=PIPE, stdout=PIPE, stderr=PIPE
    )
    assert await process.communicate(b"") == (b"out\n", b"error\n")
    assert process.returncode == 3


async def killed():
    process = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
    process.kill()
    assert await process.wait() == -signal.SIGKILL


async def closed():
    loop = asyncio.get_running_loop()
    transport, _ = await loop.subprocess_exec(asyncio.SubprocessProtocol, "cat")
    transport.close()
    assert await transport._wait() == -signal.SIGKILL


async def cancelled():
    task = asyncio.ensure_future(
        asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE, stderr=PIPE)
    )
    for _ in range(3):
        await asyncio.sleep(0)
    task.cancel()
    try:
        process = await task
    except asyncio.CancelledError:
        return
    await process.communicate(b"")


async def not_found():
    try:
        await asyncio.create_subprocess_exec("/no/such/program", stdin=PIPE)
    except FileNotFoundError:
        return
    raise AssertionError


KINDS = [waited, talked_to, through_a_shell, killed, closed, cancelled, not_found]


def children():
    pid = os.getpid()
    with open(f"/proc/{pid}/task/{pid}/children") as stream:
        return stream.read().split()


async def subprocesses(count):
    for start in range(0, count, AT_ONCE):
        await asyncio.gather(
            *(
                KINDS[i % len(KINDS)]()
                for i in range(start, min(start + AT_ONCE, count))
            )
        )
    assert children() == [], "children were left"


def work(count):
    with asyncio.Runner(loop_factory=uvtulip.new_event_loop) as runner:
        runner.run(subprocesses(count))


check("subprocesses by pidfd", work, COUNT, 300, soak=10_000)
del os.pidfd_open
check("subprocesses by SIGCHLD", work, COUNT, 300, soak=10_000)
