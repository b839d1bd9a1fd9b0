"""Where the programs of other people are."""

import pathlib
import shutil


def find(name: str) -> str:
    """The newest program of this name, also where PostgreSQL hides its own."""
    paths = sorted(map(str, pathlib.Path("/usr/lib/postgresql").glob(f"*/bin/{name}")))
    found = paths[-1] if paths else shutil.which(name)
    assert found, f"{name} is not installed: make interop installs it"
    return found
