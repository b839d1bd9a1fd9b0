"""Pseudo terminals."""

import os
import select
import tty


def hung_up_terminal(data: bytes) -> int:
    """The descriptor of a master whose other side wrote `data`, raw, and is gone.  The
    kernel moves what is written in the background, and takes it piece by piece."""
    master, slave = os.openpty()
    tty.setraw(slave)
    os.set_blocking(slave, False)
    while data:
        select.select([], [slave], [])
        try:
            data = data[os.write(slave, data) :]
        except BlockingIOError:
            continue
    os.close(slave)
    return master
