"""What a shell has set to be ignored, for a program in the background or under nohup,
is ignored by each program that is started then.  Tests send such signals to programs
that they start."""

import signal
import types

# Python itself ignores these, and gives them their defaults in a child.
PYTHONS = {signal.SIGPIPE, signal.SIGXFSZ}


def remain(signum: int, frame: types.FrameType | None) -> None:
    """Ignores it here, but not in a program that is started from here."""


def restore() -> None:
    """Give ignored signals their defaults, in this process as far as tests need it."""
    for signum in signal.valid_signals() - PYTHONS:
        if signal.getsignal(signum) is signal.SIG_IGN:
            if signum == signal.SIGINT:
                signal.signal(signum, signal.default_int_handler)
            elif signum == signal.SIGCHLD:
                signal.signal(signum, signal.SIG_DFL)
            else:
                signal.signal(signum, remain)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
