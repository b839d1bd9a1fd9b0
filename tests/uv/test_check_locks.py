"""tools/check_locks.py finds what it is for: each lock that is taken out of the
sources, each deallocation that waits too early, and what else is put back."""

import importlib.util
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location(
    "check_locks", ROOT / "tools" / "check_locks.py"
)
check_locks = importlib.util.module_from_spec(spec)
spec.loader.exec_module(check_locks)

SOURCES = {
    path.relative_to(ROOT): path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "src").rglob("*.[ch]"))
}


def problems(sources):
    return list(check_locks.problems(sources))


def named(found):
    return {re.search(r"(\w+)\(\)", problem)[1] for problem in found}


def test_there_are_none():
    assert problems(SOURCES) == []


def called_by_python():
    folders = check_locks._folders(SOURCES)
    for path, text in SOURCES.items():
        yield from check_locks._in_tables(folders[path.parent], path, text)


def test_each_lock_that_is_taken_out():
    """Of every method, attribute, slot and function of a module, and of what is called
    by vectorcall."""
    without = {
        path: re.sub(r"^ *UVT_LOCKED\(.*\);.*\n", "", text, flags=re.MULTILINE)
        for path, text in SOURCES.items()
    }
    locked = {
        function.name
        for function, slot in called_by_python()
        if function.is_locked and slot not in check_locks.LOCKLESS_SLOTS
    }
    assert len(locked) > 250
    assert locked - named(problems(without)) == set()


# The functions that had no lock, or took it too early.
@pytest.mark.parametrize(
    "name",
    [
        "udp_bind",
        "udp_set_membership",
        "udp_set_source_membership",
        "udp_set_multicast_interface",
        "uvt_udp_send",
        "uvt_udp_try_send",
        "uvt_stream_write",
        "factory_vectorcall",
        "server_get_handles",
    ],
)
def test_one_lock_that_is_taken_out(name):
    changed = {
        path: re.sub(
            rf"^({name}\([^{{;]*?\)\n\{{\n(?:.*\n)??) *UVT_LOCKED\(.*\);.*\n",
            r"\1",
            text,
            flags=re.MULTILINE,
        )
        for path, text in SOURCES.items()
    }
    assert changed != SOURCES
    assert named(problems(changed)) == {name}


def deallocations():
    for path, text in SOURCES.items():
        for found in check_locks.FUNCTION.finditer(text):
            if found[1].endswith("_dealloc") and check_locks.LOCK in found[3]:
                yield path, found


def test_each_deallocation_that_waits_while_it_is_tracked():
    cases = list(deallocations())
    assert len(cases) >= 9
    for path, found in cases:
        lock = re.search(r"^ *UVT_LOCKED\(.*\n", found[0], re.MULTILINE)[0]
        body = found[0].replace(lock, "")
        begin = body.index("{\n") + 2
        text = SOURCES[path].replace(found[0], body[:begin] + lock + body[begin:])
        (problem,) = problems({**SOURCES, path: text})
        assert f"{found[1]}() takes the lock before it untracks" in problem
        without = SOURCES[path].replace(found[0], found[0].replace(lock, ""))
        (problem,) = problems({**SOURCES, path: without})
        assert f"{found[1]}() has no UVT_LOCKED" in problem


@pytest.mark.parametrize(
    ("path", "old", "new", "expected"),
    [
        (
            "src/_uv/loop_close.c",
            "        uvt_box_end(box);\n    }\n    uvt_jobs_cancel",
            "        uvt_box_close(box);\n    }\n    uvt_jobs_cancel",
            "uvt_loop_close() closes a box",
        ),
        ("src/_uv/guard.c", "uvt_box_end(box)", "uvt_box_close(box)", "closes a box"),
        (
            "src/_uv/handle.c",
            "        box_detach(box);\n        uvt_box_close(box);",
            "        uvt_box_close(box);",
            "uvt_box_end() closes a box whose object may still point to it",
        ),
        (
            "src/_uv/handle.c",
            "        box->owner = NULL;\n        self->box = NULL;",
            "",
            "uvt_handle_dealloc() closes a box whose object may still point to it",
        ),
        (
            "src/_uv/handle.c",
            "    old->owner = NULL;\n",
            "",
            "uvt_handle_renew() closes a box whose object may still point to it",
        ),
        (
            "src/_uv/run.c",
            "        if (box->owner == NULL) {\n            uvt_box_close",
            "        {\n            uvt_box_close",
            "close_orphans() closes a box whose object may still point to it",
        ),
        (
            "src/_uv/loop_close.c",
            "            box->owner = NULL;\n",
            "",
            "core_free() closes a box whose object may still point to it",
        ),
        (
            "src/_transports/server.c",
            "append_alive(list, stream) < 0",
            "PyList_Append(list, face_of(stream)) < 0",
            "server_clients() takes a server's client for alive",
        ),
        (
            "src/_transports/server.c",
            "&& append_alive(list, stream) < 0",
            "&& PyList_Append(list, face_of(stream)) < 0",
            "server_accepting() takes a server's client for alive",
        ),
        (
            "src/_uv/handle.c",
            "self = uvt_box_owner(box);\n",
            "{ UvtHandle *self = box->owner; }\n",
            "uvt_on_closed() takes a box's object for alive",
        ),
        (
            "src/_uv/timer.c",
            "UVT_TELL_CONSUMER(self, fired, owner);",
            "self->consumer->fired(self->consumer_owner);",
            "on_timer() calls a consumer by itself",
        ),
    ],
)
def test_what_is_put_back(path, old, new, expected):
    path = pathlib.Path(path)
    assert old in SOURCES[path]
    found = problems({**SOURCES, path: SOURCES[path].replace(old, new, 1)})
    assert any(expected in problem for problem in found), found


# ---- every way to write a row ----

BAD = """/* A file. */
{macros}
static PyObject *
thing_do(UvtHandle *self, PyObject *arg)
{{
    return thing(self, arg);
}}

{rows}
"""

ROWS = {
    "plain": ("", '{"do", (PyCFunction)thing_do, METH_O, doc},'),
    "several lines": (
        "",
        '{"do",\n     (PyCFunction)(void (*)(void))thing_do,\n     F},',
    ),
    "macro for the flags": (
        "#define FAST(f) (PyCFunction)(f), METH_FASTCALL",
        '{"do", FAST(thing_do), doc},',
    ),
    "macro for the row": (
        '#define ROW(name) {#name, (PyCFunction)thing_##name, METH_O, "of (, it"}',
        "ROW(do),",
    ),
    "macro over lines": (
        "#define ROW(name, doc) \\\n"
        "    {#name, (PyCFunction)thing_##name, \\\n     METH_O, doc}",
        'ROW(do, "text, more (text"),',
    ),
    "macro of a macro": (
        "#define INNER(f) (PyCFunction)(f)\n#define OUTER(n) {#n, INNER(thing_##n), 0}",
        "OUTER(do),",
    ),
    "all rows": (
        '#define ROWS \\\n    {"do", (PyCFunction)thing_do, METH_O, doc}',
        "ROWS,",
    ),
}


@pytest.mark.parametrize("row", ROWS)
def test_rows_of_methods(row):
    macros, text = ROWS[row]
    rows = f"static PyMethodDef methods[] = {{\n    {text}\n    {{NULL}},\n}};"
    assert named(
        problems({pathlib.Path("src/x.c"): BAD.format(macros=macros, rows=rows)})
    ) == {"thing_do"}


@pytest.mark.parametrize(
    "rows",
    [
        'static PyMethodDef one = {\n    "do", (PyCFunction)thing_do, METH_O, doc,\n};',
        'PyGetSetDef attributes[] = {\n    {"do", (getter)thing_do, NULL, doc},\n};',
        'PyGetSetDef attributes[] = {\n    {"do", NULL, (setter)thing_do, doc},\n};',
        "static PyType_Slot slots[] = {\n    {Py_tp_repr, thing_do},\n};",
        "static PyType_Slot slots[] = {\n    {Py_mp_subscript, (void *)thing_do},\n};",
        "static PyType_Slot slots[] = {\n    {Py_tp_clear, thing_do},\n};",
    ],
)
def test_other_tables(rows):
    source = BAD.format(macros="", rows=rows)
    assert named(problems({pathlib.Path("src/x.c"): source})) == {"thing_do"}
    good = source.replace(
        "{\n    return thing", "{\n    UVT_LOCKED(self->lock);\n    return thing"
    )
    assert problems({pathlib.Path("src/x.c"): good}) == []


def test_a_function_of_a_module():
    source = """/* A file. */
static PyObject *
look(PyObject *module, PyObject *arg)
{
    UvtHandle *handle = (UvtHandle *)arg;
    UvtLoop *loop = ((UvtHandle *)obj)->loop;
    return Py_NewRef(loop);
}

static PyMethodDef functions[] = {
    {"look", look, METH_O, doc},
};
"""
    assert named(problems({pathlib.Path("src/x.c"): source})) == {"look"}


def test_a_function_in_another_file():
    row = '    {"do", (PyCFunction)thing_do, METH_O, doc},'
    sources = {
        pathlib.Path("src/a/x.c"): f"/* */\nPyMethodDef m[] = {{\n{row}\n}};\n",
        pathlib.Path("src/a/y.c"): BAD.format(macros="", rows=""),
    }
    assert named(problems(sources)) == {"thing_do"}
