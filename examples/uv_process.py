"""A child process: what is written to it, what it writes, and how it ends.

    python examples/uv_process.py tr a-z A-Z
    python examples/uv_process.py --text "3 + 4" bc

The text goes to the program's standard input by one pipe, its output comes back by
another.  Both pipes and the process are handles of one loop.
"""

import argparse
import signal
import sys

from uvtulip import uv


def on_exit(process: uv.Process, exit_status: int, term_signal: int) -> None:
    if term_signal:
        print(f"ended by {signal.Signals(term_signal).name}")
    else:
        print(f"ended with status {exit_status}")
    process.close()


def on_read(pipe: uv.Pipe, data: bytes | None, error: int | None) -> None:
    if data is None:
        pipe.close()
    else:
        print(data.decode(errors="replace"), end="", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Run a program.")
    parser.add_argument("--text", default="hello")
    parser.add_argument("args", nargs=argparse.REMAINDER, metavar="program")
    options = parser.parse_args()

    loop = uv.Loop()
    to_child, from_child = uv.Pipe(loop), uv.Pipe(loop)
    try:
        uv.Process.spawn(
            loop,
            options.args,
            stdio=[
                # Readable and writable are meant from the child's side.
                uv.StdIO(to_child, flags=uv.UV_CREATE_PIPE | uv.UV_READABLE_PIPE),
                uv.StdIO(from_child, flags=uv.UV_CREATE_PIPE | uv.UV_WRITABLE_PIPE),
                uv.StdIO(fd=sys.stderr, flags=uv.UV_INHERIT_FD),
            ],
            exit_callback=on_exit,
        )
    except uv.error.ProcessError as error:
        sys.exit(str(error))
    from_child.start_read(on_read)
    to_child.write(options.text.encode() + b"\n", lambda pipe, error: pipe.close())
    loop.run()
