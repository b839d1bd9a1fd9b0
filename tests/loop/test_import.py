"""Importing uvtulip: quick, silent, and nothing more than it needs."""

import sys

import pytest

import uvtulip
from aiosupport import check_script


def test_no_warnings():
    check_script("import uvtulip, uvtulip.uv", "-W", "error")


def test_names():
    for name in uvtulip.__all__:
        assert getattr(uvtulip, name) is not None
        assert name in dir(uvtulip)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        uvtulip.nothing
    assert uvtulip.uv.TCP.__module__.startswith("uvtulip.")
    assert uvtulip.uv.errno.UV_EOF < 0


def test_version():
    assert uvtulip.__version__[0].isdigit()
    assert uvtulip.uv.LIBUV_VERSION.split(".") > ["1", "44"]


def test_import_as_submodules():
    check_script(
        """
        import uvtulip.uv.errno
        import uvtulip.uv.error
        from uvtulip.uv.error import TCPError
        from uvtulip import uv
        assert issubclass(TCPError, OSError)
        assert uvtulip.uv.errno is uv.errno
        """
    )


def test_star_imports():
    check_script(
        """
        from uvtulip import *
        assert run and Loop and new_event_loop and uv
        from uvtulip.uv import *
        assert TCP and Timer and errno and UV_READABLE
        """
    )


def test_what_is_loaded_beside_asyncio():
    """Only modules of the package: nothing that costs time."""
    output = check_script(
        """
        import asyncio, sys
        before = set(sys.modules)
        import uvtulip
        print(*sorted(name for name in set(sys.modules) - before))
        """
    )
    others = {name for name in output.split() if not name.startswith("uvtulip")}
    assert others <= {"__future__"}


def test_no_selector_is_made():
    check_script(
        """
        import asyncio, selectors, uvtulip
        def refuse(*args):
            raise AssertionError("a selector was made")
        selectors.DefaultSelector.__init__ = refuse
        uvtulip.run(asyncio.sleep(0.01))
        """
    )


@pytest.mark.skipif(sys.version_info < (3, 14), reason="warns since Python 3.14")
def test_policies_are_not_touched_by_the_import():
    check_script("import uvtulip, asyncio; dir(uvtulip)", "-W", "error")
