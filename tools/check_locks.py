"""What a Python without the GIL needs of the C code, as far as its text shows it.

What Python calls with an object of a loop's begins with the loop's lock
(src/_uv/locked.h), or has it before it looks at the object: methods, attributes and
functions, in whatever way their rows are written, slots, and what is called by
vectorcall.  A deallocation untracks its object before it may wait for the lock.  A box
is closed by who has looked at its object, and what it points to is not taken for alive.
Events of a C consumer go through the macros of consumer.h.
"""

import pathlib
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

Sources = dict[pathlib.Path, str]

# Without a lock: UvtLock and UvtDir belong to no loop, handles that wait to be called
# have a critical section of their own, the rest has nothing that changes; or it reads
# what is atomic, or waits for nobody on purpose.
LOCKLESS_TYPES = {"UvtLock", "UvtDir", "TulipCallback", "UvtStdIO"}
LOCKLESS = {
    "loop_check_thread",
    "loop_finalize",
    "loop_get_debug",
    "loop_get_debug_attribute",
    "loop_get_thread_id",
    "loop_is_closed",
    "loop_is_running",
    "tulip_loop_py_call_soon_threadsafe",
}
# Slots that need none: the world is stopped, the object is new, or there is a rule of
# its own.
LOCKLESS_SLOTS = {"tp_traverse", "tp_new", "tp_alloc", "tp_free", "tp_dealloc"}
# They close a box whose object they have detached or looked at.
CLOSERS = {
    "close_orphans",
    "core_free",
    "uvt_box_end",
    "uvt_handle_close",
    "uvt_handle_dealloc",
    "uvt_handle_renew",
}
# Whether such a one looks: a box without an object, or that of an object at hand.
LOOKS = re.compile(r"\bbox_detach\(|\b(?:box|old)->owner ==? NULL")
# Deallocations that touch nothing of a loop's, or leave that to their tp_clear.
LOCKLESS_DEALLOCS = {
    "barrier_dealloc",
    "callback_dealloc",
    "condition_dealloc",
    "dir_dealloc",
    "factory_dealloc",
    "into_dealloc",
    "link_dealloc",
    "mutex_dealloc",
    "rwlock_dealloc",
    "semaphore_dealloc",
    "stdio_dealloc",
    "watcher_dealloc",
}
# They run while the loop holds the object.
BORROWERS = {"on_alloc", "uvt_loop_release_handles"}

FUNCTION = re.compile(r"^(\w+)\(([^{;]*?)\)\n\{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
MACRO = re.compile(r"^#define (\w+)(\([\w, .]*\))?[ \\]((?:.*\\\n)*.*)", re.MULTILINE)
TABLE = re.compile(
    r"\b(PyMethodDef|PyGetSetDef|PyType_Slot)\s+\w+\s*(?:\[\])?\s*=\s*\{(.*?)^\s*\};",
    re.MULTILINE | re.DOTALL,
)
STRING = re.compile(r'"(?:\\.|[^"\\])*"')
SLOT = re.compile(r"\{\s*Py_(\w+)\s*,\s*(?:\(void \*\)\s*)?(\w+)")
STRUCT = re.compile(r"((?:Uvt|Tulip|Fs|Work)\w+) \*")
SELF = re.compile(STRUCT.pattern + r"(?!Py_UNUSED)")
DELEGATE = re.compile(r"\s*return (?:\([\w *]+\))?(\w+)\([^;]*\);\n\Z")
BORROWED = re.compile(r"UvtHandle \*\w+ = [^;]*\b(?:box|data\))->owner;")
# A walk over the clients of a server, which are borrowed, too.
CLIENTS = re.compile(r"= (\w+)->next_client\)")
HANDED_OUT = r"\b(?:PyList_Append|Py_X?NewRef|Py_X?INCREF)\([^;]*\b{}\b"
TOLD = re.compile(r"\b(?:consumer|hooks)->\w+\(")
CAST = re.compile(r"\(" + STRUCT.pattern + r"\)\s*(?:self|op|obj|object|args\[\d\])")
# A function of a module that is given a loop.
LOOPS = re.compile(r"\buvt_loop_check_arg\(")
VECTORCALL = re.compile(r"\"__vectorcalloffset__\",\s*\w+,\s*offsetof\(\w+, (\w+)\)")
LOCK = "UVT_LOCKED("


class Function(NamedTuple):
    name: str
    parameters: str
    body: str

    @property
    def begins_locked(self) -> bool:
        return LOCK in self.body.partition("\n")[0]

    @property
    def is_locked(self) -> bool:
        return LOCK in self.body

    def struct(self) -> str | None:
        """What its first argument points to, if it is used."""
        found = SELF.match(self.parameters)
        return found[1] if found else None


class Folder:
    """The sources of one module."""

    def __init__(self) -> None:
        self.functions: dict[pathlib.Path, dict[str, Function]] = {}
        self.macros: dict[str, tuple[list[str] | None, str]] = {}

    def add(self, path: pathlib.Path, text: str) -> None:
        self.functions[path] = {f[0]: Function(*f) for f in FUNCTION.findall(text)}
        for name, parameters, body in MACRO.findall(text):
            names = re.findall(r"\w+|\.\.\.", parameters) if parameters else None
            self.macros[name] = (names, body.replace("\\\n", "\n"))

    def find(self, path: pathlib.Path, name: str) -> Function | None:
        """`static` ones are in the same file, others in one of the same folder."""
        if found := self.functions[path].get(name):
            return found
        return next(filter(None, (f.get(name) for f in self.functions.values())), None)

    def expand(self, text: str, depth: int = 0) -> str:
        """The text with the macros of these sources replaced."""
        out, position = [], 0
        for found in re.finditer(r"\b[A-Za-z_]\w*\b", text):
            macro = self.macros.get(found[0])
            if macro is None or found.start() < position or depth > 8:
                continue
            parameters, body = macro
            end = found.end()
            if parameters is not None:
                arguments, end = _arguments(text, end)
                if arguments is None:
                    continue
                body = _substitute(body, parameters, arguments)
            out += [text[position : found.start()], self.expand(body, depth + 1)]
            position = end
        return "".join([*out, text[position:]])


def _arguments(text: str, position: int) -> tuple[list[str] | None, int]:
    """The arguments of a macro that is called there, and the end of the call."""
    if not re.match(r"\s*\(", text[position:]):
        return None, position
    depth, begin, arguments, quoted = 0, 0, [], False
    for index in range(position, len(text)):
        char = text[index]
        if char == '"' and text[index - 1] != "\\":
            quoted = not quoted
        if quoted:
            continue
        if char == "(":
            depth += 1
            if depth == 1:
                begin = index + 1
        elif char == ")" or (char == "," and depth == 1):
            if depth == 1:
                arguments.append(text[begin:index].strip())
                begin = index + 1
            if char == ")":
                depth -= 1
                if depth == 0:
                    return arguments, index + 1
    return None, position


def _substitute(body: str, parameters: list[str], arguments: list[str]) -> str:
    for name, value in zip(parameters, arguments, strict=False):
        body = re.sub(rf"(?<!#)#\s*{name}\b", '""', body)
        body = re.sub(rf"\b{name}\b", value.replace("\\", r"\\"), body)
    return re.sub(r"\s*##\s*", "", body)


def _folders(sources: Sources) -> dict[pathlib.Path, Folder]:
    folders: dict[pathlib.Path, Folder] = defaultdict(Folder)
    for path, text in sources.items():
        folders[path.parent].add(path, text)
    return folders


def _in_tables(
    folder: Folder, path: pathlib.Path, text: str
) -> Iterator[tuple[Function, str]]:
    """Functions that Python calls, and the slot ("": by a method or attribute)."""
    for kind, rows in TABLE.findall(text):
        rows = STRING.sub('""', folder.expand(rows))
        if kind == "PyType_Slot":
            names = [(name, slot) for slot, name in SLOT.findall(rows)]
        else:
            names = [(name, "") for name in set(re.findall(r"\w+", rows))]
        for name, slot in names:
            if found := folder.find(path, name):
                yield found, slot
    # What an object is called by has no table.
    for member in VECTORCALL.findall(text):
        for name in re.findall(rf"->{member} = (\w+);", text):
            if found := folder.find(path, name):
                yield found, "vectorcall"


def _lacks_lock(
    folder: Folder, path: pathlib.Path, function: Function, slot: str
) -> bool:
    if function.name in LOCKLESS or slot in LOCKLESS_SLOTS:
        return False
    struct = function.struct()
    if struct in LOCKLESS_TYPES:
        return False
    last = function
    while (again := DELEGATE.match(last.body)) and (
        other := folder.find(path, again[1])
    ):
        last = other
    if last is not function and last.is_locked:
        return False
    if struct is not None:
        return not (function.is_locked if slot else function.begins_locked)
    if slot == "vectorcall":
        return not function.is_locked
    casts = set(CAST.findall(function.body)) - LOCKLESS_TYPES
    return bool(casts or LOOPS.search(function.body)) and not function.is_locked


def _bad_dealloc(function: Function) -> str | None:
    lock = function.body.find(LOCK)
    untrack = function.body.find("PyObject_GC_UnTrack(")
    finalizer = function.body.find("PyObject_CallFinalizerFromDealloc(")
    if lock < 0 and function.name not in LOCKLESS_DEALLOCS:
        return "has no UVT_LOCKED"
    if 0 <= lock and (untrack < 0 or lock < untrack):
        return "takes the lock before it untracks"
    if 0 <= untrack < finalizer:
        return "untracks before the finalizer"
    return None


def _bad_borrower(function: Function, path: pathlib.Path) -> Iterator[str]:
    """What is done with a pointer that owns nothing."""
    before, closes, after = function.body.partition("uvt_box_close(")
    if closes and function.name not in CLOSERS:
        yield "closes a box, not its object"
    elif closes and not (after.startswith("self->box)") or LOOKS.search(before)):
        yield "closes a box whose object may still point to it"
    if BORROWED.search(function.body) and function.name not in BORROWERS:
        yield "takes a box's object for alive"
    if (walk := CLIENTS.search(function.body)) and re.search(
        HANDED_OUT.format(walk[1]), function.body
    ):
        yield "takes a server's client for alive"
    if TOLD.search(function.body) and path.name != "consumer.h":
        yield "calls a consumer by itself"


def problems(sources: Sources) -> Iterator[str]:
    """What is wrong, as "path: what"."""
    folders = _folders(sources)
    for path, text in sources.items():
        folder = folders[path.parent]
        found = set()
        for function, slot in _in_tables(folder, path, text):
            if _lacks_lock(folder, path, function, slot):
                found.add(f"{function.name}() has no UVT_LOCKED")
        for function in folder.functions[path].values():
            if function.name.endswith("_dealloc") and (bad := _bad_dealloc(function)):
                found.add(f"{function.name}() {bad}")
            for bad in _bad_borrower(function, path):
                found.add(f"{function.name}() {bad}")
        yield from (f"{path}: {what}" for what in sorted(found))
