"""Random programs on the event loop: connections of every kind, what can be called
on them in any order and from anywhere, nonsense, descriptors that others close.

    python tests/loopfuzz.py [--first SEED] [--count N] [--backend NAME] [--loop NAME]

A seed determines everything that its program decides, so that a failure can be
repeated; what the kernel decides (how much of a stream comes at once) it does not.
Each program is a process of its own: a crash is a result.  It fails when

- it crashes or hangs, or an exception comes out of anywhere that no document allows;
- something arrives that was not sent, before connection_made() or after
  connection_lost(), or connection_lost() does not come;
- a descriptor or a transport is left when the loop is closed.
"""

import argparse
import asyncio
import faulthandler
import gc
import logging
import os
import signal
import sys
import threading
import traceback
import warnings
from typing import Any

import fuzzsteps  # noqa: F401 - registers its steps
import uvtulip
from fuzzjobs import contexts, pair, serve
from fuzzworld import LIMIT, STEPS, Dice, Oops, World, judge
from uvtulip import _transports


class Log(logging.Handler):
    """What reaches the log is judged as well."""

    def __init__(self, wrong: list[BaseException]) -> None:
        super().__init__()
        self.wrong = wrong

    def emit(self, record: logging.LogRecord) -> None:
        record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            judge(self.wrong, record.exc_info[1], True)


KEPT: list[Any] = []  # what is open at the end of the interpreter


def program(seed: int, new_loop: Any) -> None:
    """Run one; raise what went wrong."""
    before = set(os.listdir("/proc/self/fd"))
    dice = Dice(seed)
    runner = asyncio.Runner(loop_factory=new_loop, debug=dice.chance(0.2))
    loop = runner.get_loop()
    world = World(dice, loop)
    wrong = world.wrong
    logging.getLogger().handlers = [Log(wrong)]
    loop.set_exception_handler(world.on_error)
    sys.unraisablehook = lambda args: judge(wrong, args.exc_value or Oops(), True)
    main = loop.create_task(world.main(pair, pair, serve))
    while not main.done():
        try:
            loop.run_until_complete(main)
        except RuntimeError:  # It was stopped.
            if main.done():
                break
            for _ in range(dice.randrange(5)):
                world.act(dice.choice(STEPS), dice)
    main.result()
    if dice.chance(0.05):
        KEPT.append(world)
    else:
        if world.calm:
            runner.close()
        loop.close()
        for _ in range(20):  # What is done to the closed ones.
            world.act(dice.choice(STEPS), dice)
    born, hostile = world.born, world.hostile
    if wrong:
        raise ExceptionGroup("what came out", wrong)
    if KEPT:
        return
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    del world, loop, main, runner
    for worker in set(threading.enumerate()) - {threading.current_thread()}:
        worker.join()  # One of the executor's, with a function of the loop's.
    for _ in range(3):  # What is finalized may be freed by the next one only.
        gc.collect()
    assert hostile or not wrong, wrong
    assert not list(born), f"not freed: {list(born)}"
    left = set(os.listdir("/proc/self/fd")) - before
    assert hostile or not left, {fd: os.readlink(f"/proc/self/fd/{fd}") for fd in left}


def alone(seed: int, new_loop: Any) -> bool:
    """Run it in a process of its own; whether it went well."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        if status:
            print(f"seed {seed}: status {os.waitstatus_to_exitcode(status)}")
        return not status
    faulthandler.dump_traceback_later(LIMIT, exit=True)
    try:
        program(seed, new_loop)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    if KEPT:
        sys.exit()
    os._exit(0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--backend", choices=["openssl", "memory-bio"])
    parser.add_argument("--loop", choices=["uvtulip", "asyncio"], default="uvtulip")
    arguments = parser.parse_args()
    _transports._tls_backend(arguments.backend == "memory-bio")
    new_loop: Any = uvtulip.new_event_loop
    if arguments.loop == "asyncio":
        new_loop = asyncio.SelectorEventLoop
    new_loop().close()  # libuv keeps two descriptors from the first one on.
    contexts(False), contexts(True)
    logging.getLogger().setLevel(logging.DEBUG)
    warnings.simplefilter("ignore")
    faulthandler.enable()
    gc.freeze()
    seeds = range(arguments.first, arguments.first + arguments.count)
    bad = [seed for seed in seeds if not alone(seed, new_loop)]
    print(f"{len(seeds)} programs, {len(bad)} of them failed: {bad}")
    sys.exit(bool(bad))
