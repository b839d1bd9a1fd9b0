"""Single keys from a terminal, without Enter.

    python examples/uv_tty.py

Raw mode gives each key as it is typed and does not show it.  `q` ends the program;
closing the handle gives the terminal its mode back.
"""

import sys

from uvtulip import uv


def on_keys(tty: uv.TTY, data: bytes | None, error: int | None) -> None:
    for key in data or b"q":
        if key == ord("q"):
            tty.write(b"bye\n", lambda tty, error: tty.close())
            tty.stop_read()
            return
        tty.write(f"key {key:#04x}\n".encode())


if __name__ == "__main__":
    loop = uv.Loop()
    try:
        tty = uv.TTY(loop, sys.stdin)
        tty.set_mode(uv.UV_TTY_MODE_RAW)
    except uv.error.TTYError as error:
        sys.exit(f"standard input is no terminal: {error}")
    width, height = tty.get_winsize()
    tty.write(f"{width} by {height} characters; q ends\n".encode())
    tty.start_read(on_keys)
    loop.run()
