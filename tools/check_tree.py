"""Check the tree's texts: links between documents, file sizes, no leftovers.

A relative link of a Markdown file leads to a file.  A C file opens with a comment
and has at most 600 lines.  What stands in a source folder is named in the folder's
meson.build.  Nothing is marked as open, and no path of the machine
that a file was written on stands in it.  The C code has the locks that a Python without
the GIL needs (check_locks.py).
"""

import pathlib
import re
import sys
from collections.abc import Iterator

import check_locks

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDERS = ("src", "python", "tests", "bench", "docs", "examples", "tools", ".ci")
SUFFIXES = {".c", ".h", ".py", ".pyi", ".md", ".toml", ".build", ".options", ""}
MAX_LINES = 600

# Written in pieces, so that this file does not find itself.
OPEN_END = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")
MACHINE_PATH = re.compile("/(ro" + "ot|ho" + "me|wo" + "rk)/")
GIL_STATE = re.compile("PyGIL" + "State_")
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")


def files() -> Iterator[pathlib.Path]:
    # In a further work tree of git, .git is a file.
    yield from (p for p in ROOT.iterdir() if p.is_file() and p.name != ".git")
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path


def check(path: pathlib.Path) -> Iterator[str]:
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    for number, line in enumerate(lines, 1):
        for what, pattern in (("open end", OPEN_END), ("machine path", MACHINE_PATH)):
            if found := pattern.search(line):
                yield f"{number}: {what}: {found.group()}"
    if path.suffix in (".c", ".h") and "bench" not in path.parts:
        if len(lines) > MAX_LINES:
            yield f"{len(lines)}: more than {MAX_LINES} lines"
        if not text.startswith("/*"):
            yield "1: does not open with a comment"
        if GIL_STATE.search(text):
            yield "1: uses PyGIL" + "State_*"
    if path.suffix == ".md":
        for target in LINK.findall(text):
            if "://" not in target and not (path.parent / target).exists():
                yield f"1: leads nowhere: {target}"


def check_listed(folder: pathlib.Path) -> Iterator[str]:
    """Sources that the folder's meson.build does not name, and names without one."""
    text = (folder / "meson.build").read_text(encoding="utf-8")
    named = set(re.findall(r"'([\w./]+\.(?:c|py|pyi))'", text))
    present = {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.suffix in (".c", ".py", ".pyi")
    }
    for name in sorted(named ^ present):
        yield f"1: {name} is not {'there' if name in named else 'listed'}"


def main() -> int:
    count = 0
    bad = 0
    sources = {
        path.relative_to(ROOT): path.read_text(encoding="utf-8")
        for path in sorted((ROOT / "src").rglob("*.[ch]"))
    }
    for problem in check_locks.problems(sources):
        print(problem)
        bad += 1
    for path in files():
        if path.suffix not in SUFFIXES:
            continue
        try:
            problems = list(check(path))
            if path.name == "meson.build" and path.parent != ROOT:
                problems += check_listed(path.parent)
        except UnicodeDecodeError:
            continue  # a built program
        count += 1
        for problem in problems:
            print(f"{path.relative_to(ROOT)}:{problem}")
        bad += len(problems)
    print(f"{count} files checked, {bad} problems")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
