"""Check the built extension modules: what they export, use and are linked to.

Each exports its PyInit function and nothing else, needs one shared libuv, the same
for all, carries no copy of it, and calls no private function of CPython.
"""

import pathlib
import re
import subprocess
import sys
import sysconfig

# Private names that public macros and inline functions expand to, and public ones
# that look private.
BEHIND_MACROS = {
    "_Py_Dealloc",
    "_Py_EllipsisObject",
    "_Py_FalseStruct",
    "_Py_IsFinalizing",  # Py_IsFinalizing before 3.13
    "_Py_NoneStruct",
    "_Py_NotImplementedStruct",
    "_Py_RefTotal",
    "_Py_TrueStruct",
    "_PyBytes_Resize",  # Documented, and part of the stable ABI.
    "_PyObject_GC_New",
    "_PyObject_New",  # PyObject_New
    "_PyTrash_begin",  # Py_TRASHCAN_BEGIN and _END
    "_PyTrash_cond",
    "_PyTrash_end",
    "_PyTrash_thread_deposit_object",  # since 3.13
    "_PyTrash_thread_destroy_chain",
}
# What PY_SSIZE_T_CLEAN makes of the functions with a format, before 3.13.
SSIZE_T_CLEAN = "_SizeT"


def output(*command: str | pathlib.Path) -> list[str]:
    return subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True
    ).stdout.splitlines()


def check(module: pathlib.Path) -> tuple[list[str], str]:
    """What is wrong with a module, and the path of its libuv."""
    problems = []
    init = f"PyInit_{module.name.split('.')[0]}"
    lines = output("nm", "-D", "--defined-only", module)
    exported = [line.split()[-1] for line in lines]
    if exported != [init]:
        problems.append(f"exports {exported}, and not only {init}")
    for line in output("nm", "-D", "--undefined-only", module):
        name = line.split()[-1].split("@")[0]
        private = re.match(r"_Py", name) and not name.endswith(SSIZE_T_CLEAN)
        if private and name not in BEHIND_MACROS:
            problems.append(f"uses the private {name}")
        if name.startswith("PyGILState_"):
            problems.append(f"uses {name}")
    for line in output("nm", "--defined-only", module):
        if line.split()[-1] in ("uv_run", "uv_loop_init"):
            problems.append(f"holds a copy of libuv ({line.split()[-1]})")
    needed = re.findall(r"libuv\.so\S* => (\S+)", "\n".join(output("ldd", module)))
    if len(needed) != 1:
        problems.append(f"is linked to {len(needed)} shared libuv: {needed}")
    return problems, ", ".join(needed)


def main() -> int:
    folder = pathlib.Path(sysconfig.get_path("platlib"), "uvtulip")
    modules = sorted(folder.glob("*.so"))
    names = [module.name.split(".")[0] for module in modules]
    failed = names != ["_transports", "_uv"]
    if failed:
        print(f"expected _transports and _uv in {folder}, found {names}")
    libraries = set()
    for module in modules:
        problems, library = check(module)
        libraries.add(library)
        for problem in problems:
            print(f"{module.name}: {problem}")
        if not problems:
            print(f"{module.name}: exports only its PyInit function; {library}")
        failed = failed or bool(problems)
    if len(libraries) > 1:
        print(f"more than one libuv: {sorted(libraries)}")
        failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
