"""The reference of docs/reference: nothing public is left out of it."""

import inspect
import pathlib
import re

import pytest

import uvtulip
from uvtulip import uv

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
TEXT = "\n".join(
    path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "docs" / "reference").glob("*.md"))
)
INDEX = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
CLASSES = [name for name, value in vars(uv).items() if inspect.isclass(value)]
FUNCTIONS = [name for name, value in vars(uv).items() if inspect.isbuiltin(value)]
MODULES = [
    name
    for name, value in vars(uv).items()
    if inspect.ismodule(value) and not name.startswith("_")
]


@pytest.mark.parametrize("name", CLASSES)
def test_class(name):
    assert f".. autoclass:: uvtulip.uv.{name}\n" in TEXT


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function(name):
    assert f".. autofunction:: uvtulip.uv.{name}\n" in TEXT


@pytest.mark.parametrize("name", [name for name in MODULES if name != "errno"])
def test_module(name):
    assert f".. automodule:: uvtulip.uv.{name}\n" in TEXT


@pytest.mark.parametrize("name", uvtulip.__all__)
def test_package(name):
    assert name in ("__version__", "uv") or f":: uvtulip.{name}\n" in TEXT


def test_pages_and_examples():
    pages = {path.stem for path in (ROOT / "docs" / "reference").glob("*.md")}
    toctree = re.search(r"```\{toctree\}\n(.*?)```", TEXT, re.DOTALL)[1]
    assert pages - {"index"} == set(toctree.split()) - {":maxdepth:", "1"}
    for path in (ROOT / "examples").glob("*.py"):
        assert f"../../examples/{path.name}\n" in TEXT, path.name
        assert f"(../examples/{path.name})" in INDEX, path.name


@pytest.mark.parametrize("name", [name for name in CLASSES if name != "Handle"])
def test_docstrings(name):
    """Whatever the reference shows has a text."""
    cls = getattr(uv, name)
    assert cls.__doc__
    for attribute, value in vars(cls).items():
        if not attribute.startswith("_") and not attribute.startswith("n_"):
            assert value.__doc__, attribute
