"""Compile each source with musl's headers in place of glibc's, and make no file of it.

Of this machine's other headers only Python's, libuv's and the kernel's can be found, by
links in a folder of their own.  A function that musl does not declare, or declares in
another way, is an error.
"""

import concurrent.futures
import os
import pathlib
import subprocess
import sys
import sysconfig
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
SYSTEM = pathlib.Path("/usr/include")
FLAGS = "-std=c11 -fsyntax-only -Wall -Werror -DNDEBUG".split()


def link_headers(folder: pathlib.Path) -> None:
    asked = ["pkg-config", "--variable=includedir", "libuv"]
    found = subprocess.run(asked, check=True, capture_output=True, text=True)
    libuv = pathlib.Path(found.stdout.strip())
    wanted = [libuv / "uv.h", libuv / "uv"]
    multiarch = sysconfig.get_config_var("MULTIARCH") or "-"
    wanted += [SYSTEM / name for name in ("linux", "asm-generic", "asm")]
    wanted.append(SYSTEM / multiarch / "asm")
    for path in wanted:
        if path.exists() and not (folder / path.name).exists():
            (folder / path.name).symlink_to(path)
    # Debian's pyconfig.h asks for the one of the architecture by this name.
    version = f"python{sysconfig.get_python_version()}"
    if (SYSTEM / multiarch / version).exists():
        (folder / multiarch).mkdir()
        (folder / multiarch / version).symlink_to(SYSTEM / multiarch / version)


def compile_one(source: pathlib.Path, includes: list[str]) -> str:
    command = ["musl-gcc", *FLAGS, '-DUVT_VERSION="-"', *includes, str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stderr if done.returncode else ""


def main() -> int:
    sources = sorted((ROOT / "src").rglob("*.c"))
    with tempfile.TemporaryDirectory() as name:
        link_headers(pathlib.Path(name))
        includes = [f"-I{path.parent}" for path in (ROOT / "src").rglob("meson.build")]
        for kind in ("include", "platinclude"):
            includes += ["-isystem", sysconfig.get_path(kind)]
        includes += ["-isystem", name]
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            errors = list(pool.map(lambda path: compile_one(path, includes), sources))
    print("\n".join(filter(None, errors)), end="")
    bad = sum(map(bool, errors))
    print(f"{len(sources)} files compiled with musl's headers, {bad} failed")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
