"""Importing uvtulip: quick, silent, and nothing more than it needs."""

import sys
from importlib import import_module

import pytest

import uvtulip
import uvtulip.loop as loop_module
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


# ---- what is imported when it is asked for ----


def classes():
    for (module, home), names in loop_module._LATER.items():
        yield getattr(import_module(f"uvtulip.{module}"), home), names


def test_rare_modules_are_not_loaded():
    """Not by the import, nor by a program that does not use them."""
    output = check_script(
        """
        import asyncio, sys, uvtulip

        async def main():
            server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
            async with server:
                reader, writer = await asyncio.open_connection(*server.getsockname())
                assert await reader.read() == b""
                writer.close()

        uvtulip.run(main())
        print(*sys.modules)
        """
    )
    loaded = set(output.split())
    assert "uvtulip.serve" in loaded
    assert not loaded & {f"uvtulip.{module}" for module, _ in loop_module._LATER}


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (module, name)
        for (module, _), names in loop_module._LATER.items()
        for name in names
    ],
)
def test_first_use(module, name):
    check_script(
        f"""
        import asyncio, inspect, sys, uvtulip
        assert "uvtulip.{module}" not in sys.modules
        loop = uvtulip.new_event_loop()
        method = loop.{name}
        assert method.__self__ is loop
        assert method.__func__ is uvtulip.Loop.{name}
        assert inspect.isfunction(vars(uvtulip.Loop)["{name}"])
        assert "uvtulip.{module}" in sys.modules
        loop.close()
        """
    )


def test_every_method_has_its_entry():
    for source, names in classes():
        methods = {name for name in vars(source) if not name.startswith("__")}
        assert methods == set(names)


def test_all_methods_move_in():
    for source, names in classes():
        assert getattr(uvtulip.Loop, names[0])
        for name, value in vars(source).items():
            if not name.startswith("__"):
                assert vars(uvtulip.Loop)[name] is value


def test_subclass_calls_the_first_time():
    check_script(
        """
        import asyncio, socket, uvtulip

        class Mine(uvtulip.Loop):
            async def sock_recv(self, sock, n):
                return b"mine: " + await super().sock_recv(sock, n)

        async def main():
            a, b = socket.socketpair()
            with a, b:
                a.setblocking(False)
                b.send(b"data")
                return await asyncio.get_running_loop().sock_recv(a, 10)

        loop = Mine()
        assert loop.run_until_complete(main()) == b"mine: data"
        loop.close()
        """
    )


def test_what_somebody_put_there_stays():
    check_script(
        """
        import uvtulip
        from unittest import mock

        def mine(self, *args):
            return "mine"

        with mock.patch.object(uvtulip.Loop, "sock_recv", mine):
            loop = uvtulip.new_event_loop()
            assert loop.sock_sendall  # Here the others move in.
            assert loop.sock_recv() == "mine"
        assert loop.sock_recv.__module__ == "uvtulip.sockops"
        loop.close()
        """
    )
