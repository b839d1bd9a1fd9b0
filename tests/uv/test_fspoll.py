"""uv.FSPoll on real files."""

import gc
import os
import weakref

import pytest

from uvtulip import uv
from uvtulip.uv import fs

UV = uv.errno


def after(loop, seconds, call):
    uv.Timer(loop).start(lambda timer: (timer.close(), call()), seconds)


@pytest.mark.parametrize("kind", [str, os.fsencode, lambda path: path])
def test_change(loop, tmp_path, kind):
    path = tmp_path / "file"
    path.write_text("a")
    handle = uv.FSPoll(loop)
    seen = []

    def on_change(h, previous, current, error):
        assert h is handle and error is None
        seen.append((previous, current))
        handle.close()

    assert handle.path == ""
    handle.start(kind(path if kind is not str else str(path)), 0.01, on_change)
    assert handle.active and handle.path == str(path)
    assert handle.type == uv.UV_FS_POLL
    after(loop, 0.1, lambda: path.write_text("longer"))
    loop.run_checked()
    (previous, current), = seen
    assert isinstance(previous, fs.stat_result)
    assert (previous.st_size, current.st_size) in ((1, 6), (1, 0))
    assert handle.path == ""


def test_missing_file_is_told_once(loop, tmp_path):
    path = tmp_path / "later"
    handle = uv.FSPoll(loop)
    seen = []

    def on_change(h, previous, current, error):
        seen.append((previous, current, error))
        if error is None:
            h.close()

    handle.start(path, 0.005, on_change)
    after(loop, 0.15, lambda: path.write_text("there"))
    loop.run_checked()
    assert seen[0] == (None, None, UV.UV_ENOENT)
    assert len(seen) == 2
    previous, current, error = seen[1]
    assert previous.st_ino == 0 and current.st_ino == path.stat().st_ino


def test_the_interval_counts(loop, tmp_path):
    """pyuv cut it to whole seconds: 0.5 was as often as possible."""
    path = tmp_path / "file"
    path.touch()
    handle = uv.FSPoll(loop)
    seen = []
    handle.start(path, 0.5, lambda h, *event: seen.append(event))
    # After the first look, in which nothing can have changed:
    after(loop, 0.1, lambda: path.write_text("x"))
    after(loop, 0.3, lambda: (seen.append("not yet"), setattr(handle, "ref", True)))
    after(loop, 1.0, handle.close)
    loop.run_checked()
    assert seen[0] == "not yet" and len(seen) == 2


def test_stop_and_start_again_at_once(loop, tmp_path):
    """While a thread of the pool still looks at the file for the first start."""
    paths = [tmp_path / str(i) for i in range(20)]
    for path in paths:
        path.touch()
    handle = uv.FSPoll(loop)
    wrong, right = [], []
    for path in paths[:-1]:
        handle.start(path, 0.001, lambda h, *event: wrong.append(event))
        handle.stop()
        assert handle.path == "" and not handle.active
    handle.start(paths[-2], 0.001, lambda h, *event: wrong.append(event))
    handle.start(paths[-1], 0.001, lambda h, *event: (right.append(event), h.close()))
    assert handle.path == str(paths[-1]) and loop.handles == [handle]

    def change():
        for path in paths:
            path.write_text("x")

    after(loop, 0.1, change)
    loop.run_checked()
    assert wrong == [] and len(right) == 1


@pytest.mark.parametrize("ref", [True, False])
def test_callback_that_starts_it_again(loop, tmp_path, ref):
    one, two = tmp_path / "one", tmp_path / "two"
    two.touch()
    handle = uv.FSPoll(loop)
    handle.ref = ref
    seen = []

    def on_one(h, previous, current, error):
        seen.append(error)
        h.stop()
        h.start(two, 0.001, on_two)
        assert h.ref is ref
        after(loop, 0.1, lambda: two.write_text("x"))
        after(loop, 1.0, lambda: None)

    def on_two(h, previous, current, error):
        seen.append(error)
        h.close()

    handle.start(one, 0.001, on_one)
    after(loop, 0.1, lambda: None)
    loop.run_checked()
    assert seen == [UV.UV_ENOENT, None]


def test_close_with_a_look_under_way(loop, tmp_path):
    for _ in range(20):
        handle = uv.FSPoll(loop)
        handle.start(tmp_path, 0.001, print)
        events = []
        handle.close(events.append)
        loop.run_checked()
        assert events == [handle]
    other = uv.Loop()
    handle = uv.FSPoll(other)
    handle.start(tmp_path, 0.001, print)
    handle.close()
    other.close()
    assert handle.loop is None


def test_dropped_loop(tmp_path):
    def drop():
        loop = uv.Loop()
        handle = uv.FSPoll(loop)
        handle.start(tmp_path, 0.001, lambda *event: loop)
        return weakref.ref(loop), weakref.ref(handle)

    refs = drop()
    gc.collect()
    assert [ref() for ref in refs] == [None, None]


@pytest.mark.parametrize("args, error", [
    ((), TypeError), ((".",), TypeError), ((".", 1), TypeError),
    ((5, 1, print), TypeError), ((".", "x", print), TypeError),
    ((".", 1, 5), TypeError), ((".", 1, None), TypeError),
    (("a\0", 1, print), ValueError), ((".", -1, print), ValueError),
    ((".", float("nan"), print), ValueError), ((".", float("inf"), print), ValueError),
    ((".", 1e9, print), ValueError),
])
def test_bad_arguments(loop, args, error):
    with pytest.raises(error, match="FSPoll"):
        uv.FSPoll(loop).start(*args)


def test_keywords_and_zero(loop, tmp_path):
    handle = uv.FSPoll(loop)
    handle.start(path=tmp_path, interval=0, callback=lambda h, *event: h.close())
    after(loop, 0.1, lambda: (tmp_path / "x").touch())
    loop.run_checked()


def test_wrong_states(loop):
    bare = uv.FSPoll.__new__(uv.FSPoll)
    closed = uv.FSPoll(loop)
    closed.close()
    for handle, error in ((bare, RuntimeError), (closed, uv.error.HandleClosedError)):
        with pytest.raises(error):
            handle.start(".", 1, print)
        with pytest.raises(error):
            handle.stop()
    with pytest.raises(RuntimeError):
        bare.path
    assert closed.path == ""


def test_kept_alive_while_started(loop, tmp_path):
    seen = []
    handle = uv.FSPoll(loop)
    handle.start(tmp_path / "x", 0.01,
                 lambda h, *event: (seen.append(event), h.close()))
    ref = weakref.ref(handle)
    del handle
    gc.collect()
    loop.run_checked()
    gc.collect()
    assert len(seen) == 1 and ref() is None
