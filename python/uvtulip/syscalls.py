"""System calls of the loop's own.

Tools that look for a program's blocking calls put other functions into `os`, and except
the calls that asyncio's loop makes by the names of its files.  What this loop calls in
the same places is taken from where `os` has it, so that the program is not blamed.
"""

from posix import chmod, getcwd, getcwdb, lstat, sendfile, stat, unlink

__all__ = ["chmod", "getcwd", "getcwdb", "lstat", "sendfile", "stat", "unlink"]
