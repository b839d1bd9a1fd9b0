"""Timers: once, repeatedly, stopped, and started anew.

    python examples/uv_timers.py --interval 0.05

It ends by itself when no timer runs any more.
"""

import argparse

from uvtulip import uv

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Timers of libuv.")
    parser.add_argument("--interval", type=float, default=0.2, help="in seconds")
    parser.add_argument("--ticks", type=int, default=5)
    options = parser.parse_args()

    loop = uv.Loop()
    start = loop.now()
    ticks = 0

    def report(text: str) -> None:
        print(f"{loop.now() - start:5} ms: {text}", flush=True)

    def on_tick(timer: uv.Timer) -> None:
        global ticks
        ticks += 1
        report(f"tick {ticks}")
        if ticks == options.ticks:
            timer.close()
            # Put off by 2 intervals from now on, instead of firing soon.
            alarm.start(on_alarm, 2 * options.interval)

    def on_alarm(timer: uv.Timer) -> None:
        report("alarm")
        timer.close()

    ticker = uv.Timer(loop)
    ticker.start(on_tick, options.interval, options.interval)
    alarm = uv.Timer(loop)
    alarm.start(on_alarm, 1000.0)

    # An unreferenced timer does not keep the loop running.
    watchdog = uv.Timer(loop)
    watchdog.start(lambda timer: report("never"), 3600.0)
    watchdog.ref = False

    loop.run()
    report("nothing left to wait for")
