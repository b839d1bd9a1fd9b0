"""uv.FSEvent on real files and folders."""

import gc
import os
import weakref

import pytest

from uvtulip import uv
from uvtulip.uv import fs

UV = uv.errno


class Watcher:
    """Collects events until one is as wanted; then closes its handle."""

    def __init__(self, loop, path, wanted=lambda event: True, flags=0):
        self.events = []
        self.wanted = wanted
        self.handle = uv.FSEvent(loop)
        self.handle.start(path, flags, self.on_event)

    def on_event(self, handle, filename, events, error):
        assert handle is self.handle
        self.events.append((filename, events, error))
        if self.wanted(self.events[-1]) and not handle.closed:
            handle.close()


@pytest.mark.parametrize("kind", [str, os.fsencode, lambda path: path])
def test_folder(loop, tmp_path, kind):
    watcher = Watcher(loop, kind(tmp_path if kind is not str else str(tmp_path)),
                      lambda event: event[1] == fs.UV_CHANGE)
    assert watcher.handle.active and watcher.handle.path == str(tmp_path)
    assert watcher.handle.type == uv.UV_FS_EVENT
    (tmp_path / "new").write_text("x")
    loop.run_checked()
    assert watcher.events[0] == ("new", fs.UV_RENAME, None)
    assert watcher.events[-1] == ("new", fs.UV_CHANGE, None)
    assert watcher.handle.path == ""


def test_file(loop, tmp_path):
    path = tmp_path / "file"
    path.touch()
    watcher = Watcher(loop, path)
    path.write_text("changed")
    loop.run_checked()
    assert watcher.events[0] == ("file", fs.UV_CHANGE, None)


def test_removed_file(loop, tmp_path):
    path = tmp_path / "file"
    path.touch()
    watcher = Watcher(loop, path, lambda event: event[1] & fs.UV_RENAME)
    path.unlink()
    loop.run_checked()
    assert watcher.events[-1][0] == "file"


def test_names_that_are_no_utf8(loop, tmp_path):
    watcher = Watcher(loop, tmp_path)
    name = b"caf\xe9"
    with open(os.fsencode(tmp_path) + b"/" + name, "wb"):
        pass
    loop.run_checked()
    assert watcher.events[0][0] == os.fsdecode(name)


def test_several_on_one_path(loop, tmp_path):
    """Each hears of it; one callback closes all the others."""
    watchers = []

    def wanted(event):
        for watcher in watchers:
            if not watcher.handle.closed:
                watcher.handle.close()

    watchers += [Watcher(loop, tmp_path, wanted) for _ in range(5)]
    (tmp_path / "x").touch()
    loop.run_checked()
    assert sum(len(watcher.events) for watcher in watchers) == 1
    watchers[:] = [Watcher(loop, tmp_path) for _ in range(5)]
    (tmp_path / "y").touch()
    loop.run_checked()
    assert [watcher.events[0][0] for watcher in watchers] == ["y"] * 5


def test_stop_and_start_again(loop, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    watcher = Watcher(loop, tmp_path / "a")
    handle = watcher.handle
    handle.stop()
    handle.stop()
    assert not handle.active and handle.path == ""
    (tmp_path / "a" / "unseen").touch()
    loop.run_checked()
    seen = []
    handle.start(tmp_path / "a", 0, watcher.on_event)
    # A started one changes over.
    handle.start(path=tmp_path / "b", flags=0,
                 callback=lambda h, *event: (seen.append(event), h.close()))
    assert handle.path == str(tmp_path / "b")
    (tmp_path / "a" / "unseen too").touch()
    (tmp_path / "b" / "seen").touch()
    loop.run_checked()
    assert watcher.events == [] and seen == [("seen", fs.UV_RENAME, None)]


def test_start_fails(loop, tmp_path):
    handle = uv.FSEvent(loop)
    with pytest.raises(uv.error.FSEventError) as caught:
        handle.start(tmp_path / "nobody", 0, print)
    assert caught.value.args[0] == UV.UV_ENOENT and not handle.active
    handle.start(tmp_path, 0, print)
    with pytest.raises(uv.error.FSEventError):
        handle.start(tmp_path / "nobody", 0, print)
    assert not handle.active


@pytest.mark.parametrize("args, error", [
    ((), TypeError), ((".",), TypeError), ((".", 0), TypeError),
    ((5, 0, print), TypeError), ((None, 0, print), TypeError),
    ((".", "x", print), TypeError), ((".", 0, 5), TypeError),
    ((".", 0, None), TypeError), ((".", 0, print, 1), TypeError),
    (("a\0", 0, print), ValueError), ((b"a\0", 0, print), ValueError),
    ((".", -1, print), ValueError), ((".", 8, print), ValueError),
])
def test_bad_arguments(loop, args, error):
    with pytest.raises(error, match="FSEvent"):
        uv.FSEvent(loop).start(*args)


def test_flags(loop, tmp_path):
    for flags in range(8):
        uv.FSEvent(loop).start(tmp_path, flags, print)


def test_path_that_closes_the_handle(loop):
    handle = uv.FSEvent(loop)

    class Path:
        def __fspath__(self):
            handle.close()
            return "."

    with pytest.raises(uv.error.HandleClosedError):
        handle.start(Path(), 0, print)


def test_a_long_path(loop, tmp_path, monkeypatch):
    path = tmp_path
    while len(str(path)) < 1000:
        path = path / ("x" * 200)
    path.mkdir(parents=True)
    handle = uv.FSEvent(loop)
    handle.start(path, 0, print)
    assert handle.path == str(path)


def test_wrong_states(loop):
    bare = uv.FSEvent.__new__(uv.FSEvent)
    closed = uv.FSEvent(loop)
    closed.close()
    for handle, error in ((bare, RuntimeError), (closed, uv.error.HandleClosedError)):
        with pytest.raises(error):
            handle.start(".", 0, print)
        with pytest.raises(error):
            handle.stop()
    with pytest.raises(RuntimeError):
        bare.path
    assert closed.path == ""


def test_kept_alive_while_started(loop, tmp_path):
    seen = []
    handle = uv.FSEvent(loop)
    handle.start(tmp_path, 0, lambda h, *event: (seen.append(event), h.close()))
    ref = weakref.ref(handle)
    del handle
    gc.collect()
    (tmp_path / "x").touch()
    loop.run_checked()
    gc.collect()
    assert len(seen) == 1 and ref() is None


def test_names_of_pyuv():
    assert fs.FSEvent is uv.FSEvent and fs.FSPoll is uv.FSPoll
