"""What an asyncio loop tells about itself, while something keeps it busy.

    python examples/metrics.py --seconds 3

Once in a while a callback blocks the loop; the report shows it.
"""

import argparse
import asyncio
import time

import uvtulip


def blocks() -> None:
    time.sleep(0.03)


async def report(loop: uvtulip.Loop, interval: float) -> None:
    before = loop.metrics()
    while True:
        await asyncio.sleep(interval)
        now = loop.metrics()
        part = now.since(before)
        before = now
        print(
            f"{part.utilisation:4.0%} busy, {part.callbacks} callbacks in "
            f"{part.turns} turns, {now.ready} ready, longest turn "
            f"{now.longest_turn * 1000:.0f} ms, slowest {now.slowest_callback_name}",
            flush=True,
        )


async def main(seconds: float) -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, uvtulip.Loop)
    loop.time_callbacks(True)  # for the name of the slowest
    reporter = asyncio.create_task(report(loop, seconds / 4))
    loop.call_later(seconds / 3, blocks)
    end = loop.time() + seconds
    while loop.time() < end:
        await asyncio.sleep(0.001)
    reporter.cancel()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="The metrics of a loop.")
    parser.add_argument("--seconds", type=float, default=2.0)
    uvtulip.run(main(parser.parse_args().seconds))
