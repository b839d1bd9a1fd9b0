"""uvtulip: libuv's handles as Python objects."""

from ._uv import __version__

__all__ = ("__version__", "get_include", "uv")


def get_include() -> str:
    """The folder of uv_capi.h, for extensions that use the C API."""
    import os

    return os.path.join(os.path.dirname(__file__), "include")


def __getattr__(name: str) -> object:
    if name == "uv":
        import importlib

        return importlib.import_module(".uv", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
