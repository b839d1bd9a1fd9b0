"""Check the tree's texts: links between documents, file sizes, no leftovers.

A relative link of a Markdown file leads to a file.  A C file opens with a comment
and has at most 600 lines.  What stands in a source folder is named in the folder's
meson.build.  Nothing is marked as open, and no path of the machine
that a file was written on stands in it.  What Python calls with an object of a loop's
begins with the loop's lock (src/_uv/locked.h).
"""

import pathlib
import re
import sys
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDERS = ("src", "python", "tests", "bench", "docs", "examples", "tools", ".ci")
SUFFIXES = {".c", ".h", ".py", ".pyi", ".md", ".toml", ".build", ".options", ""}
MAX_LINES = 600

# Written in pieces, so that this file does not find itself.
OPEN_END = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")
MACHINE_PATH = re.compile("/(ro" + "ot|ho" + "me|wo" + "rk)/")
GIL_STATE = re.compile("PyGIL" + "State_")
# Rows of method tables and of attributes, and the struct that the first argument is.
ROW = re.compile(r"\{\s*(?:\"[^\"]*\"|\w+),([^{}\"]*?),\s*METH_")
ATTRIBUTE = re.compile(r"\([gs]etter\)\s*(\w+)")
SELF = re.compile(r"\(((?:Uvt|Tulip|Fs|Work)\w+) \*(?!Py_UNUSED)")
# Without a lock: UvtLock and UvtDir belong to no loop, handles that wait to be called
# have a critical section of their own; the rest reads what is atomic, or waits for
# nobody on purpose.
LOCKLESS_TYPES = {"UvtLock", "UvtDir", "TulipCallback"}
LOCKLESS = {
    "loop_check_thread",
    "loop_get_debug",
    "loop_get_debug_attribute",
    "loop_get_thread_id",
    "loop_is_closed",
    "loop_is_running",
    "tulip_loop_py_call_soon_threadsafe",
}
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


def check_locks(sources: dict[pathlib.Path, str]) -> Iterator[str]:
    """Functions in a table that do not begin with the lock, though they have a loop."""
    for path, text in sources.items():
        names = {re.findall(r"\w+", row)[-1] for row in ROW.findall(text)}
        names |= set(ATTRIBUTE.findall(text))
        for name in sorted(names - LOCKLESS):
            # `static` ones are in the same file, others in one of the same folder.
            begin = re.compile(rf"^{name}(\([^{{;]*?\))\n\{{\n(.*)", re.MULTILINE)
            others = [
                other
                for place, other in sources.items()
                if place.parent == path.parent and place != path
            ]
            found = next(filter(None, map(begin.search, [text, *others])), None)
            struct = SELF.match(found[1]) if found else None
            if (
                found
                and struct
                and struct[1] not in LOCKLESS_TYPES
                and "UVT_LOCKED(" not in found[2]
            ):
                yield f"{path.relative_to(ROOT)}: {name}() has no UVT_LOCKED"


def main() -> int:
    count = 0
    bad = 0
    sources = {
        path: path.read_text(encoding="utf-8")
        for path in sorted((ROOT / "src").rglob("*.c"))
    }
    for problem in check_locks(sources):
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
