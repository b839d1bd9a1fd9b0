"""Sphinx: the documents of this folder, and a reference made of the docstrings.

`make docs` runs it on the installed package; nothing that it makes stays in the tree.
"""

import re

import uvtulip

project = "uvtulip"
copyright = "the uvtulip authors"
version = release = uvtulip.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
root_doc = "index"
html_theme = "alabaster"
html_theme_options = {"description": "asyncio on libuv, and libuv's own handles"}
html_copy_source = False

myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_default_options = {
    "members": True,
    "show-inheritance": True,
    "exclude-members": "n_fields, n_sequence_fields, n_unnamed_fields",
}
# Links to files of the repository: what is no page stays a file to download.
suppress_warnings = ["myst.xref_missing"]

# Docstrings are plain text, with `names` between backquotes.
_SPECIAL = re.compile(r"([\\*|]|\b_|_\b)")
_NAME = re.compile(r"`([^`]+)`")


def _plain(line: str) -> str:
    """A line of plain text for reStructuredText."""
    parts = _NAME.split(line)
    return "".join(
        f"``{part}``" if place % 2 else _SPECIAL.sub(r"\\\1", part)
        for place, part in enumerate(parts)
    )


def plain_docstring(app, what, name, thing, options, lines):
    """Text that is indented, as code in a docstring is, stays as it is."""
    out = []
    for line in lines:
        indented = line.startswith("    ")
        if indented and (not out or not out[-1]):
            out += ["::", ""]
        out.append(line if indented else _plain(line))
    lines[:] = out


def setup(app):
    app.connect("autodoc-process-docstring", plain_docstring)
