"""python -m uvtulip: run an asyncio program, as it is, on uvtulip's loop.

The program gets the main thread, sys.argv, sys.path and a __main__ module as if
python had been started with it; the only difference is the loop that asyncio makes.
Nothing of the launcher stays behind but what takeover.py has done.
"""

from __future__ import annotations

import sys
import types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

USAGE = """\
usage: python -m uvtulip [--as-uvloop] [script.py | -m module | -c command] [arg] ...

Run an unmodified asyncio program on uvtulip's event loop.  Without a program:
an interactive prompt that understands "await".

  script.py   a file; also a directory or a zip file with a __main__.py
  -m module   a module or a package, as python -m
  -c command  Python source, as python -c
  --as-uvloop "import uvloop" gives uvtulip: for programs that ask for uvloop
  --version   show the versions of uvtulip, libuv and Python
  --help, -h  show this text
"""

# What a shell reports for a program that Ctrl-C has ended.
INTERRUPTED = 130


def main(argv: list[str]) -> int:
    """Run the program that the arguments name; its exit status if it returns."""
    as_uvloop = argv[:1] == ["--as-uvloop"]
    if as_uvloop:
        argv = argv[1:]
    first = argv[0] if argv else None
    if first in ("-h", "--help"):
        sys.stdout.write(USAGE)
        return 0
    if first == "--version":
        sys.stdout.write(versions() + "\n")
        return 0
    if first in ("-m", "-c") and len(argv) < 2:
        return usage_error(f"{first} needs an argument")
    if first is not None and first.startswith("-") and first not in ("-m", "-c"):
        return usage_error(f"unknown option {first}")
    from .takeover import take_over

    take_over(as_uvloop)
    try:
        if first is None:
            sys.argv = [sys.argv[0]]
            print(versions())
            run_module("asyncio")
        elif first == "-m":
            sys.argv = ["-m", *argv[2:]]
            run_module(argv[1])
        elif first == "-c":
            sys.argv = ["-c", *argv[2:]]
            replace_path("")
            run_code(compile(argv[1], "<string>", "exec", dont_inherit=True))
        else:
            sys.argv = argv
            run_script(first)
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def versions() -> str:
    from ._uv import LIBUV_VERSION, __version__

    python = sys.version.split()[0]
    return f"uvtulip {__version__} (libuv {LIBUV_VERSION}, Python {python})"


def usage_error(message: str) -> int:
    sys.stderr.write(f"uvtulip: {message}\n{USAGE}")
    return 2


def fresh_main() -> types.ModuleType:
    """An empty module in the place of this one, which the program then is."""
    module = types.ModuleType("__main__")
    module.__dict__["__builtins__"] = sys.modules["builtins"]
    sys.modules["__main__"] = module
    return module


def replace_path(entry: str) -> None:
    """Set the folder that Python looks in first, unless it was told not to."""
    if not safe_path() and sys.path:
        sys.path[0] = entry


def safe_path() -> bool:
    return sys.flags.safe_path or bool(sys.flags.isolated)


def run_module(name: str, *, alter_argv: bool = True) -> None:
    import runpy

    fresh_main()
    # What "python -m" calls itself, with its messages and exit statuses.
    runpy._run_module_as_main(name, alter_argv)  # type: ignore[attr-defined]


def run_script(path: str) -> None:
    import io
    import os
    import pkgutil

    if pkgutil.get_importer(path) is not None:
        # A directory or a zip file: its __main__.py is the program.
        if safe_path():
            sys.path.insert(0, path)
        replace_path(path)
        run_module("__main__", alter_argv=False)
        return
    replace_path(os.path.dirname(os.path.realpath(path)))
    path = os.path.abspath(path)
    try:
        with io.open_code(path) as file:
            source = file.read()
    except OSError as exc:
        sys.stderr.write(f"uvtulip: cannot open {path!r}: {exc.strerror}\n")
        raise SystemExit(2) from None
    run_code(compile(source, path, "exec", dont_inherit=True), path)


def run_code(code: types.CodeType, path: str | None = None) -> None:
    module = fresh_main()
    if path is not None:
        from importlib.machinery import SourceFileLoader

        module.__file__ = path
        module.__loader__ = SourceFileLoader("__main__", path)
    exec(code, module.__dict__)


def start() -> NoReturn:
    sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    start()
