"""The file that bind() of a Pipe makes: nobody else's is removed, or gets its mode."""

import os
import stat

import pytest

from uvtulip import uv


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def bound(loop, name):
    pipe = uv.Pipe(loop)
    pipe.bind(name)
    pipe.listen(lambda server, errorno: None)
    return pipe


def close(loop, pipe):
    pipe.close()
    loop.run(uv.UV_RUN_NOWAIT)
    assert pipe.closed


@pytest.fixture(params=["s", "./s", "absolute"])
def name(request, tmp_path):
    return str(tmp_path / "s") if request.param == "absolute" else request.param


def test_own_file_is_removed(loop, name):
    close(loop, bound(loop, name))
    assert not os.path.lexists("s")


def test_own_file_is_removed_after_chdir(loop, name, tmp_path):
    os.mkdir("elsewhere")
    pipe = bound(loop, name)
    os.chdir("elsewhere")
    close(loop, pipe)
    assert os.listdir(tmp_path) == ["elsewhere"]


def test_stranger_in_another_folder(loop, name, tmp_path):
    os.mkdir("elsewhere")
    (tmp_path / "elsewhere" / "s").write_text("a stranger's")
    pipe = bound(loop, name)
    os.chdir("elsewhere")
    os.chmod("s", 0o600)
    pipe.chmod(uv.UV_READABLE | uv.UV_WRITABLE)
    assert stat.S_IMODE(os.stat("s").st_mode) == 0o600
    assert stat.S_IMODE(os.stat(tmp_path / "s").st_mode) & 0o666 == 0o666
    close(loop, pipe)
    assert (tmp_path / "elsewhere" / "s").read_text() == "a stranger's"
    assert not (tmp_path / "s").exists()


def another_server(loop):
    return bound(loop, "s")


def plain_file(loop):
    with open("s", "w") as file:
        file.write("text")


def link_to_the_file(loop):
    os.symlink("moved", "s")


def folder(loop):
    os.mkdir("s")


@pytest.mark.parametrize("make", [another_server, plain_file, link_to_the_file, folder])
@pytest.mark.parametrize("keeps", [False, True])
def test_what_has_taken_its_place(loop, name, make, keeps):
    pipe = bound(loop, name)
    if keeps:
        os.rename("s", "moved")
    else:
        os.unlink("s")
    other = make(loop)
    before = os.lstat("s")
    with pytest.raises(uv.error.PipeError) as caught:
        pipe.chmod(uv.UV_READABLE)
    assert caught.value.name in ("ENOENT", "ELOOP")
    close(loop, pipe)
    after = os.lstat("s")
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)
    assert os.path.lexists("moved") is keeps
    if other is not None:
        close(loop, other)
        assert not os.path.lexists("s")


def test_file_is_gone(loop, name):
    pipe = bound(loop, name)
    os.unlink("s")
    close(loop, pipe)
    assert os.listdir(".") == []


def test_renamed_folder(loop, tmp_path):
    os.mkdir("old")
    pipe = bound(loop, "old/s")
    os.rename("old", "new")
    os.mkdir("old")
    (tmp_path / "old" / "s").write_text("a stranger's")
    close(loop, pipe)
    assert (tmp_path / "old" / "s").exists()


@pytest.mark.parametrize("end", ["dropped", "loop closed"])
def test_other_ways_to_the_end(end, name):
    loop = uv.Loop()
    first = bound(loop, name)
    if end == "dropped":
        second = uv.Pipe(loop)
        second.bind("t")
        del second
        loop.run(uv.UV_RUN_NOWAIT)
        assert not os.path.lexists("t")
    os.unlink("s")
    plain_file(loop)
    if end == "dropped":
        first.close()
        del first
        loop.run(uv.UV_RUN_NOWAIT)
    else:
        for handle in loop.handles:
            handle.close()
    loop.run(uv.UV_RUN_NOWAIT)
    loop.close()
    assert os.path.isfile("s")


def test_bind_again_is_refused(loop, name):
    pipe = bound(loop, name)
    with pytest.raises(uv.error.PipeError) as caught:
        pipe.bind("t")
    assert caught.value.name == "EINVAL"
    with pytest.raises(uv.error.PipeError) as caught:
        uv.Pipe(loop).bind("s")
    assert caught.value.name == "EADDRINUSE"
    assert os.listdir(".") == ["s"]
    close(loop, pipe)


@pytest.mark.parametrize("flags", [0, 4, 8])
def test_chmod_with_other_flags(loop, name, flags):
    pipe = bound(loop, name)
    with pytest.raises(uv.error.PipeError) as caught:
        pipe.chmod(flags)
    assert caught.value.name == "EINVAL"
    close(loop, pipe)


def test_child_process_removes_nothing(loop, name):
    pipe = bound(loop, name)
    pid = os.fork()
    if pid == 0:
        try:
            pipe.close()
            del pipe
        finally:
            os._exit(0 if os.path.lexists("s") else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert os.path.lexists("s")
    close(loop, pipe)
