"""Building an extension out of tree against the installed header."""

import importlib.util
import os
import pathlib
import shlex
import subprocess
import sysconfig

import uvtulip

HERE = pathlib.Path(__file__).with_name("cmodule")


def build(name, folder):
    source = HERE / (name + ".c")
    target = folder / (name + sysconfig.get_config_var("EXT_SUFFIX"))
    libuv = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "libuv"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    subprocess.run(
        [
            *shlex.split(os.environ.get("CC", "cc")),
            "-shared",
            "-fPIC",
            "-O1",
            "-Wall",
            "-Werror",
            "-I",
            sysconfig.get_path("include"),
            "-I",
            uvtulip.get_include(),
            str(source),
            *shlex.split(libuv),
            "-o",
            str(target),
        ],
        check=True,
    )
    return load(name, target)


def load(name, target):
    spec = importlib.util.spec_from_file_location(name, target)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
