"""FSEvents when the system's queue overflows, and while callbacks make more events."""

import gc
import os
import pathlib

import pytest

from forksupport import in_child
from uvtulip import uv
from uvtulip.uv import fs

UV = uv.errno
LIMIT = int(pathlib.Path("/proc/sys/fs/inotify/max_queued_events").read_text())
if LIMIT > 200_000:
    pytest.skip("the queue is too long to fill", allow_module_level=True)


def watch(loop, path, seen):
    handle = uv.FSEvent(loop)
    handle.start(path, 0, lambda handle, *event: seen.append(event))
    return handle


def fill(folder):
    """More events than the queue has room for."""
    path = os.path.join(folder, "again")
    for _ in range(LIMIT // 2 + 100):
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
        os.unlink(path)


def run_dry(loop):
    for _ in range(5):
        loop.run(uv.UV_RUN_NOWAIT)


def overflows(seen):
    return [event for event in seen if event[2] is not None]


def test_every_handle_is_told_and_goes_on(loop, tmp_path):
    folders = [tmp_path / "one", tmp_path / "two"]
    seen = [[], [], []]
    for folder in folders:
        folder.mkdir()
    handles = [watch(loop, folders[0], seen[0]), watch(loop, folders[0], seen[1]),
               watch(loop, folders[1], seen[2])]
    fill(folders[0])
    run_dry(loop)
    assert [overflows(one) for one in seen] == [[(None, None, UV.UV_ENOBUFS)]] * 3
    assert len(seen[0]) > LIMIT // 2 and seen[0] == seen[1] and len(seen[2]) == 1
    assert seen[0][-1] == (None, None, UV.UV_ENOBUFS)
    for one in seen:
        one.clear()
    (folders[0] / "new").touch()
    (folders[1] / "other").touch()
    run_dry(loop)
    assert {event[0] for event in seen[0]} == {"new"} and not overflows(seen[0])
    assert seen[1] == seen[0] and {event[0] for event in seen[2]} == {"other"}
    assert all(handle.active for handle in handles)
    fill(folders[1])
    run_dry(loop)
    assert [len(overflows(one)) for one in seen] == [1, 1, 1]


def test_other_loops_hear_nothing(loop, tmp_path):
    other, seen, theirs = uv.Loop(), [], []
    watch(loop, tmp_path, seen)
    quiet = tmp_path.parent / f"{tmp_path.name}-quiet"
    quiet.mkdir()
    handle = watch(other, quiet, theirs)
    fill(tmp_path)
    run_dry(loop)
    run_dry(other)
    assert len(overflows(seen)) == 1 and theirs == []
    handle.close()
    other.run()
    other.close()


@pytest.mark.parametrize("what", ["stop", "close", "others", "start again", "raise"])
def test_a_callback_may_do_anything(tmp_path, what):
    class Loop(uv.Loop):
        def excepthook(self, *args):
            raised.append(args[0])

    loop, raised, told = Loop(), [], []
    handles = [uv.FSEvent(loop) for _ in range(4)]

    def on_event(handle, name, events, error):
        if error is None:
            return
        told.append(handle)
        if what == "stop":
            handle.stop()
        elif what == "close":
            handle.close()
        elif what == "others":
            for other in handles:
                if other is not handle and not other.closed:
                    other.close()
        elif what == "start again":
            handle.start(tmp_path, 0, on_event)
        else:
            raise KeyError

    for handle in handles:
        handle.start(tmp_path, 0, on_event)
    fill(tmp_path)
    run_dry(loop)
    assert len(told) == (1 if what == "others" else 4)
    assert raised == ([KeyError] * 4 if what == "raise" else [])
    for handle in loop.handles:
        if not handle.closed:
            handle.close()
    loop.run()
    loop.close()


def test_a_callback_that_changes_its_folder_lets_others_run(loop, tmp_path):
    """Each event makes another one; a timer and loop.stop() come through."""
    count, path = [0], tmp_path / "log"

    def on_event(handle, *event):
        count[0] += 1
        if count[0] < 200_000:
            path.write_text(str(count[0]))

    handle = uv.FSEvent(loop)
    handle.start(tmp_path, 0, on_event)
    path.touch()
    uv.Timer(loop).start(lambda timer: loop.stop(), 0.05)
    loop.run()
    assert 0 < count[0] < 200_000
    handle.close()


def test_events_are_as_ever(loop, tmp_path):
    """Names, kinds and the end of what is watched."""
    folder, file = tmp_path / "folder", tmp_path / "file"
    folder.mkdir()
    file.touch()
    seen, files = [], []
    watch(loop, folder, seen)
    watch(loop, file, files)
    (folder / "a").touch()
    (folder / "a").rename(folder / "b")
    (folder / "b").write_text("x")
    (folder / "b").unlink()
    folder.rmdir()
    file.write_text("x")
    file.unlink()
    run_dry(loop)
    rename, change = fs.UV_RENAME, fs.UV_CHANGE
    assert seen[:4] == [("a", rename, None), ("a", rename, None), ("b", rename, None),
                        ("b", change, None)]
    assert seen[-1] == ("folder", rename, None)
    assert files[0] == ("file", change, None) and files[-1] == ("file", rename, None)


def test_many_handles(loop, tmp_path):
    seen, handles = [], []
    for number in range(600):
        folder = tmp_path / f"f{number}"
        folder.mkdir()
        handle = uv.FSEvent(loop)
        handle.start(folder, 0, lambda handle, name, *rest: seen.append(name))
        handles.append(handle)
    for number in range(600):
        (tmp_path / f"f{number}" / f"n{number}").mkdir()
    run_dry(loop)
    assert sorted(seen) == sorted(f"n{number}" for number in range(600))
    for handle in handles[::2]:
        handle.stop()
    seen.clear()
    for number in range(600):
        (tmp_path / f"f{number}" / f"n{number}").rmdir()
    run_dry(loop)
    assert sorted(seen) == sorted(f"n{number}" for number in range(1, 600, 2))


@pytest.mark.parametrize("reuse", [False, True])
def test_descriptor_taken_away(loop, tmp_path, reuse):
    """Each handle is told that it has ended; the next start works again."""
    seen = []
    handle = watch(loop, tmp_path, seen)
    fds = [int(fd) for fd in os.listdir("/proc/self/fd") if os.path.islink(
        f"/proc/self/fd/{fd}") and "inotify" in os.readlink(f"/proc/self/fd/{fd}")]
    for fd in fds:
        os.close(fd)
    kept = os.open("/dev/null", os.O_RDONLY) if reuse else None
    run_dry(loop)
    assert seen == [(None, None, UV.UV_EBADF)] and not handle.active
    handle.start(tmp_path, 0, lambda handle, *event: seen.append(event))
    (tmp_path / "new").mkdir()
    run_dry(loop)
    assert seen[1:] == [("new", fs.UV_RENAME, None)]
    if kept is not None:
        os.fstat(kept)
        os.close(kept)


def test_fork(tmp_path):
    """The child that goes on with the loop has a queue of its own."""
    loop, seen = uv.Loop(), []
    handle = watch(loop, tmp_path, seen)

    def child():
        loop.fork()
        fill(tmp_path)
        run_dry(loop)
        assert len(overflows(seen)) == 1 and len(seen) > LIMIT // 2
        handle.close()
        loop.run()
        loop.close()

    in_child(child)
    run_dry(loop)
    assert len(overflows(seen)) == 1
    seen.clear()
    (tmp_path / "new").mkdir()
    run_dry(loop)
    assert seen == [("new", fs.UV_RENAME, None)]
    handle.close()
    loop.run()
    loop.close()


def test_nothing_is_left(tmp_path):
    def count():
        return len(os.listdir("/proc/self/fd"))

    uv.Loop().close()
    before = count()
    for drop in (False, True, False, True):
        loop = uv.Loop()
        handle = watch(loop, tmp_path, [])
        loop.run(uv.UV_RUN_NOWAIT)
        if not drop:
            handle.close()
            loop.run()
            loop.close()
        del loop, handle
    gc.collect()
    assert count() == before
