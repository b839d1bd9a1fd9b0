"""What happens in a folder.

    python examples/uv_fsevent.py /tmp

FSEvent hears from the system of what is made, changed, renamed and removed in the
folder; FSPoll looks at the folder itself every half second.  Ctrl-C ends it.
"""

import argparse
import signal

from uvtulip import uv
from uvtulip.uv import fs


def on_event(
    watcher: uv.FSEvent, filename: str | None, events: int | None, error: int | None
) -> None:
    if events is None:
        watcher.close()
        return
    kinds = [
        name
        for name, kind in (("renamed", fs.UV_RENAME), ("changed", fs.UV_CHANGE))
        if events & kind
    ]
    print(f"{filename}: {', '.join(kinds)}", flush=True)


def on_poll(
    poll: uv.FSPoll,
    previous: fs.stat_result | None,
    current: fs.stat_result | None,
    error: int | None,
) -> None:
    if current is not None:
        print(f"the folder itself changed at {current.st_mtime}", flush=True)


def on_signal(watcher: uv.Signal, signum: int) -> None:
    for handle in loop.handles:
        handle.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Watch a folder.")
    parser.add_argument("folder")
    parser.add_argument("--interval", type=float, default=0.5)
    options = parser.parse_args()

    loop = uv.Loop()
    uv.FSEvent(loop).start(options.folder, 0, on_event)
    uv.FSPoll(loop).start(options.folder, options.interval, on_poll)
    uv.Signal(loop).start(on_signal, signal.SIGINT)
    print(f"watching {options.folder}", flush=True)
    loop.run()
    print("stopped")
