"""fs: each operation at once and with a callback, and what FSRequest tells."""

import errno
import gc
import inspect
import os
import pathlib
import stat
import threading
import weakref

import pytest

from uvtulip import uv
from uvtulip.uv import fs

OPERATIONS = [
    name
    for name, value in vars(fs).items()
    if inspect.isbuiltin(value) and name != "stat_float_times"
]


class Runner:
    """Does an operation in one of the two ways; both raise FSError."""

    def __init__(self, loop, later):
        self.loop = loop
        self.later = later

    def __call__(self, name, *args, **kwargs):
        operation = getattr(fs, name)
        if not self.later:
            return operation(self.loop, *args, **kwargs)
        done = []
        request = operation(self.loop, *args, **kwargs, callback=done.append)
        assert isinstance(request, fs.FSRequest)
        assert request.result is None and request.error is None
        assert done == []
        self.loop.run_checked()
        assert done == [request]
        assert request.loop is self.loop
        if request.error is not None:
            assert request.result is None
            assert request.get_system_error() == -request.error
            raise uv.error.FSError(request.error, name)
        assert request.get_system_error() == 0
        return request.result


@pytest.fixture(params=[False, True], ids=["now", "later"])
def do(request, loop):
    return Runner(loop, request.param)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    return path


def fails(code, do, *args):
    with pytest.raises(uv.error.FSError) as info:
        do(*args)
    assert info.value.args[0] == code
    assert info.value.errno == -code


# ---- looking at files ----


@pytest.mark.parametrize("name", ["stat", "lstat"])
def test_stat(do, file, name):
    found = do(name, str(file))
    wanted = os.stat(file)
    assert type(found) is fs.stat_result and len(found) == 16
    for field in "mode ino dev nlink uid gid size blksize blocks rdev".split():
        assert getattr(found, f"st_{field}") == getattr(wanted, f"st_{field}"), field
    for field in "atime", "mtime", "ctime":
        assert getattr(found, f"st_{field}") == pytest.approx(
            getattr(wanted, f"st_{field}"), abs=1e-5
        )
        nanoseconds = getattr(found, f"st_{field}_ns")
        assert nanoseconds == getattr(wanted, f"st_{field}_ns")
    assert found[0] == found.st_mode and found[15] == found.st_birthtime


def test_fstat_of_a_number_and_of_an_object(do, file):
    with open(file, "rb") as opened:
        assert do("fstat", opened.fileno()).st_size == 10
        assert do("fstat", opened).st_size == 10


def test_lstat_looks_at_the_link(do, file, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(file)
    assert stat.S_ISLNK(do("lstat", link).st_mode)
    assert stat.S_ISREG(do("stat", link).st_mode)


def test_times_as_ints(do, file):
    assert fs.stat_float_times() is True
    try:
        assert fs.stat_float_times(False) is None
        found = do("stat", file)
        for name in "st_atime", "st_mtime", "st_ctime", "st_birthtime":
            assert type(getattr(found, name)) is int
        assert found.st_mtime == int(os.stat(file).st_mtime)
        assert fs.stat_float_times() is False
    finally:
        fs.stat_float_times(True)
    assert type(do("stat", file).st_mtime) is float


def test_statfs(do, tmp_path):
    found, wanted = do("statfs", tmp_path), os.statvfs(tmp_path)
    assert found.f_bsize == wanted.f_bsize
    assert found.f_blocks == wanted.f_blocks
    assert found.f_files == wanted.f_files


def test_access(do, file):
    assert do("access", file, os.R_OK) is None
    assert do("access", file, flags=os.F_OK) is None
    fails(uv.errno.UV_ENOENT, do, "access", f"{file}.not", os.F_OK)


# ---- paths ----


def test_paths_of_all_kinds(do, file):
    for path in str(file), os.fsencode(file), file:
        assert do("stat", path).st_size == 10


def test_names_that_are_not_utf8(do, tmp_path):
    name = b"odd\xff\xfe"
    path = os.path.join(os.fsencode(tmp_path), name)
    target = os.path.join(os.fsencode(tmp_path), b"link\xff")
    with open(path, "wb"):
        pass
    os.symlink(path, target)
    assert do("stat", path).st_size == 0
    assert do("stat", os.fsdecode(path)).st_size == 0
    assert do("readlink", target) == path
    assert do("readlink", os.fsdecode(target)) == os.fsdecode(path)
    assert do("realpath", target) == os.path.realpath(path)
    names = {entry.name for entry in do("scandir", os.fsencode(tmp_path))}
    assert names == {name, b"link\xff"}
    names = {entry.name for entry in do("scandir", tmp_path)}
    assert names == {os.fsdecode(name), "link\udcff"}


@pytest.mark.parametrize("path", ["a\0b", b"a\0b", pathlib.Path("a\0b")])
def test_embedded_null(do, path):
    with pytest.raises(ValueError, match="null"):
        do("stat", path)
    with pytest.raises(ValueError, match="null"):
        do("rename", "x", path)


@pytest.mark.parametrize("path", [None, 3, 1.5, object(), [b"x"], bytearray(b"x")])
def test_no_path(do, path):
    with pytest.raises(TypeError):
        do("stat", path)


def test_the_empty_path(do):
    fails(uv.errno.UV_ENOENT, do, "stat", "")


def test_path_of_a_request(loop, file):
    def request(name, *args):
        return getattr(fs, name)(loop, *args, lambda req: None)

    assert request("stat", str(file)).path == str(file)
    assert request("stat", os.fsencode(file)).path == os.fsencode(file)
    assert request("stat", file).path == str(file)
    assert request("fstat", 0).path is None
    loop.run_checked()


# ---- changing files ----


def test_unlink_mkdir_rmdir_rename(do, file, tmp_path):
    folder = tmp_path / "folder"
    assert do("mkdir", folder, 0o700) is None
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    fails(uv.errno.UV_EEXIST, do, "mkdir", folder)
    assert do("rename", file, folder / "moved") is None
    assert (folder / "moved").read_bytes() == b"0123456789"
    fails(uv.errno.UV_ENOTEMPTY, do, "rmdir", folder)
    assert do("unlink", folder / "moved") is None
    assert do("rmdir", folder) is None
    assert not folder.exists()
    fails(uv.errno.UV_ENOENT, do, "unlink", file)


def test_chmod(do, file):
    assert do("chmod", file, 0o640) is None
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    with open(file) as opened:
        assert do("fchmod", opened.fileno(), 0o600) is None
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_links(do, file, tmp_path):
    hard, soft = tmp_path / "hard", tmp_path / "soft"
    assert do("link", file, hard) is None
    assert file.samefile(hard)
    assert do("symlink", "file", soft) is None
    assert os.readlink(soft) == "file"
    assert do("readlink", soft) == "file"
    assert do("realpath", soft) == os.path.realpath(file)
    assert do("symlink", "file", tmp_path / "again", 0) is None
    fails(uv.errno.UV_EINVAL, do, "readlink", file)


def test_owners(do, file, tmp_path):
    before = file.stat()
    link = tmp_path / "link"
    link.symlink_to(file)
    assert do("chown", file, -1, -1) is None
    assert do("chown", file, before.st_uid, before.st_gid) is None
    assert do("lchown", link, os.getuid(), -1) is None
    with open(file) as opened:
        assert do("fchown", opened, -1, os.getgid()) is None
    assert (file.stat().st_uid, file.stat().st_gid) == (os.getuid(), os.getgid())
    for bad in -2, 1 << 32, 1 << 70:
        with pytest.raises(ValueError):
            do("chown", file, bad, 0)


def test_set_times(do, file, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(file)
    assert do("utime", file, 1000.5, 2000) is None
    assert (file.stat().st_atime, file.stat().st_mtime) == (1000.5, 2000)
    with open(file) as opened:
        assert do("futime", opened, 3000.25, -1.5) is None
    assert (file.stat().st_atime, file.stat().st_mtime) == (3000.25, -1.5)
    assert do("lutime", link, 5, 6) is None
    assert (link.lstat().st_atime, link.lstat().st_mtime) == (5, 6)
    assert file.stat().st_mtime == -1.5
    for bad in 1e300, -1e300, float("-inf"):
        with pytest.raises(ValueError):
            do("utime", file, 1, bad)
    with pytest.raises(TypeError):
        do("utime", file, "now", 1)


def test_copyfile(do, file, tmp_path):
    copy = tmp_path / "copy"
    assert do("copyfile", file, copy) is None
    assert copy.read_bytes() == b"0123456789"
    assert do("copyfile", file, copy, fs.UV_FS_COPYFILE_FICLONE) is None
    fails(uv.errno.UV_EEXIST, do, "copyfile", file, copy, fs.UV_FS_COPYFILE_EXCL)
    fails(uv.errno.UV_EINVAL, do, "copyfile", file, copy, 1 << 20)


# ---- descriptors ----


def test_open_read_write_close(do, tmp_path):
    path = tmp_path / "new"
    fd = do("open", path, os.O_RDWR | os.O_CREAT, 0o600)
    assert not os.get_inheritable(fd)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert do("write", fd, b"hello world", -1) == 11
    assert do("write", fd, memoryview(b"HE"), 0) == 2
    assert do("read", fd, 100, 0) == b"HEllo world"
    assert do("read", fd, 5, 6) == b"world"
    assert do("read", fd, 5, -1) == b""
    assert do("read", fd, 0, 0) == b""
    assert do("ftruncate", fd, 4) is None
    assert do("read", fd, 100, 0) == b"HEll"
    assert do("fsync", fd) is None
    assert do("fdatasync", fd) is None
    assert do("close", fd) is None
    fails(uv.errno.UV_EBADF, do, "close", fd)


def test_position_moves_without_an_offset(do, file):
    fd = os.open(file, os.O_RDWR)
    assert do("read", fd, 3) == b"012"
    assert do("read", fd, 3) == b"345"
    assert do("write", fd, b"ab") == 2
    assert do("read", fd, 3) == b"89"
    os.close(fd)
    assert file.read_bytes() == b"012345ab89"


def test_many_pieces(do, file):
    pieces = [b"%d," % i for i in range(3000)]
    fd = os.open(file, os.O_RDWR | os.O_TRUNC)
    assert do("write", fd, pieces, 0) == sum(map(len, pieces))
    assert file.read_bytes() == b"".join(pieces)
    rooms = [bytearray(4) for _ in range(50)]
    assert do("readv", fd, rooms, 0) == 200
    assert b"".join(rooms) == b"".join(pieces)[:200]
    room = bytearray(20)
    assert do("readv", fd, room, 10) == 20
    assert room == b"".join(pieces)[10:30]
    os.close(fd)


@pytest.mark.parametrize(
    "data", ["text", 5, None, [], [b"x", "y"], memoryview(b"abcd")[::2]]
)
def test_no_data(do, data):
    with pytest.raises((TypeError, ValueError)):
        do("write", 1, data)


@pytest.mark.parametrize("room", [b"fixed", [bytearray(1), b"fixed"], "text", []])
def test_no_room(do, room):
    with pytest.raises((TypeError, ValueError)):
        do("readv", 0, room)


def test_numbers_out_of_range(do):
    for args in [
        ("read", 0, -1),
        ("read", 0, 1 << 40),
        ("read", 0, 1, -2),
        ("read", 0, 1, 1 << 63),
        ("read", 1 << 40, 1),
        ("ftruncate", 0, 1 << 64),
        ("sendfile", 0, 1, 0, -1),
        ("open", "x", 1 << 40),
        ("chmod", "x", 1 << 40),
    ]:
        with pytest.raises(ValueError):
            do(*args)
    for args in [("read", 0, 1.5), ("read", 0.5, 1), ("open", "x", "r")]:
        with pytest.raises(TypeError):
            do(*args)


def test_sendfile(do, file, tmp_path):
    with open(file, "rb") as source, open(tmp_path / "to", "wb") as target:
        assert do("sendfile", target.fileno(), source.fileno(), 2, 5) == 5
    assert (tmp_path / "to").read_bytes() == b"23456"


@pytest.mark.parametrize("bad", [4000, -1, -100])
@pytest.mark.parametrize(
    "name, args",
    [
        ("fstat", ()),
        ("close", ()),
        ("read", (1, 0)),
        ("readv", (bytearray(1), 0)),
        ("write", (b"x", 0)),
        ("fsync", ()),
        ("fdatasync", ()),
        ("ftruncate", (0,)),
        ("fchmod", (0,)),
        ("fchown", (-1, -1)),
        ("futime", (0, 0)),
        ("sendfile", (0, 0, 1)),
    ],
)
def test_descriptors_that_nobody_has(do, name, args, bad):
    fails(uv.errno.UV_EBADF, do, name, bad, *args)


# ---- new names ----


@pytest.mark.parametrize("kind", [str, os.fsencode])
def test_mkdtemp_and_mkstemp(do, tmp_path, kind):
    made = do("mkdtemp", kind(str(tmp_path / "dirXXXXXX")))
    assert type(made) is type(kind("")) and os.path.isdir(made)
    fd, path = do("mkstemp", kind(str(tmp_path / "fileXXXXXX")))
    assert type(path) is type(kind(""))
    assert os.path.samestat(os.fstat(fd), os.stat(path))
    assert not os.get_inheritable(fd)
    os.close(fd)
    for name in "mkdtemp", "mkstemp":
        fails(uv.errno.UV_EINVAL, do, name, kind(str(tmp_path / "no-x")))


# ---- directories ----


@pytest.fixture
def folder(tmp_path):
    for name in "cab":
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "d").mkdir()
    (tmp_path / "e").symlink_to("a")
    os.mkfifo(tmp_path / "f")
    return tmp_path


TYPES = {
    "a": fs.UV_DIRENT_FILE,
    "b": fs.UV_DIRENT_FILE,
    "c": fs.UV_DIRENT_FILE,
    "d": fs.UV_DIRENT_DIR,
    "e": fs.UV_DIRENT_LINK,
    "f": fs.UV_DIRENT_FIFO,
}


def test_scandir(do, folder):
    found = do("scandir", folder)
    assert found == list(TYPES.items())
    assert type(found[0]) is fs.DirEnt
    assert (found[0].name, found[0].type) == ("a", fs.UV_DIRENT_FILE)
    assert do("scandir", folder / "d") == []
    fails(uv.errno.UV_ENOTDIR, do, "scandir", folder / "a")


def test_open_directory(do, folder):
    opened = do("opendir", folder)
    assert type(opened) is fs.Dir and not opened.closed
    found = []
    while entries := do("readdir", opened, 4):
        assert len(entries) <= 4
        found += entries
    assert dict(found) == TYPES
    assert do("readdir", opened) == []
    assert do("closedir", opened) is None
    assert opened.closed
    for name in "readdir", "closedir":
        fails(uv.errno.UV_EBADF, do, name, opened)
    fails(uv.errno.UV_ENOTDIR, do, "opendir", folder / "a")


def test_open_directory_with_bytes(do, folder):
    opened = do("opendir", os.fsencode(folder))
    assert {entry.name for entry in do("readdir", opened)} == set(
        map(os.fsencode, TYPES)
    )


def test_directory_is_used_by_one_request(loop, folder):
    opened = fs.opendir(loop, folder)
    done = []
    fs.readdir(loop, opened, 2, done.append)
    for name in "readdir", "closedir":
        with pytest.raises(RuntimeError, match="another request"):
            getattr(fs, name)(loop, opened)
    loop.run_checked()
    assert len(done[0].result) == 2
    fs.closedir(loop, opened)


def test_directory_is_closed_when_collected(loop, folder):
    before = len(os.listdir("/proc/self/fd"))
    opened = fs.opendir(loop, folder)
    assert len(os.listdir("/proc/self/fd")) == before + 1
    del opened
    assert len(os.listdir("/proc/self/fd")) == before


def test_directory_arguments(do, folder):
    with pytest.raises(TypeError):
        do("readdir", 5)
    opened = do("opendir", folder)
    for bad in 0, -1, 1 << 30:
        with pytest.raises(ValueError):
            do("readdir", opened, bad)
    assert len(do("readdir", opened)) == 6
    with pytest.raises(TypeError):
        fs.Dir()


# ---- both ways ----


def test_every_operation_is_tested():
    text = pathlib.Path(__file__).read_text()
    assert len(OPERATIONS) == 37
    for name in OPERATIONS:
        assert f'"{name}"' in text, name


@pytest.mark.parametrize("name", OPERATIONS)
def test_arguments(loop, name):
    operation = getattr(fs, name)
    assert operation.__module__ == "uvtulip._uv.fs"
    assert operation.__doc__
    names = list(inspect.signature(operation).parameters)
    assert names[0] == "loop" and names[-1] == "callback"
    with pytest.raises(TypeError):
        operation()
    with pytest.raises(TypeError):
        operation(loop)
    with pytest.raises(TypeError):
        operation(loop, *range(9))
    with pytest.raises(TypeError, match="loop"):
        operation("loop", *([1] * (len(names) - 2)))
    with pytest.raises(TypeError, match="callback"):
        operation(loop, *([1] * (len(names) - 2)), callback=5)
    with pytest.raises(TypeError, match="unexpected"):
        operation(loop, nothing=1)


def test_without_a_loop(file):
    assert fs.stat(None, file).st_size == 10
    with pytest.raises(TypeError):
        fs.stat(None, file, lambda req: None)


def test_loop_that_is_closed_or_not_initialised(file):
    loop = uv.Loop()
    loop.close()
    for bad in loop, uv.Loop.__new__(uv.Loop):
        with pytest.raises(RuntimeError):
            fs.stat(bad, file, lambda req: None)


def test_loop_of_another_thread(loop, file):
    seen = []

    def other():
        try:
            fs.stat(loop, file, seen.append)
        except RuntimeError as exc:
            seen.append(exc)
        seen.append(fs.stat(loop, file).st_size)

    def on_timer(timer):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()

    uv.Timer(loop).start(on_timer, 0)
    loop.run_checked()
    assert isinstance(seen[0], RuntimeError) and seen[1] == 10


def test_error_of_the_synchronous_form(loop, tmp_path):
    with pytest.raises(uv.error.FSError) as info:
        fs.unlink(loop, tmp_path / "missing")
    exc = info.value
    assert isinstance(exc, OSError)
    assert (exc.errno, exc.name) == (errno.ENOENT, "ENOENT")
    assert exc.call == "uv_fs_unlink"


def test_other_threads_run_while_it_blocks(loop):
    read_fd, write_fd = os.pipe()
    thread = threading.Timer(0.01, os.write, (write_fd, b"late"))
    thread.start()
    assert fs.read(loop, read_fd, 10, -1) == b"late"
    thread.join()
    os.close(read_fd)
    os.close(write_fd)


def test_exception_of_a_callback(loop, file):
    def on_stat(request):
        raise ZeroDivisionError

    fs.stat(loop, file, on_stat)
    with pytest.raises(ZeroDivisionError):
        loop.run_checked()


def test_callback_that_starts_the_next(loop, file):
    sizes = []

    def on_stat(request):
        sizes.append(request.result.st_size)
        if len(sizes) < 5:
            fs.stat(loop, file, on_stat)

    fs.stat(loop, file, on_stat)
    loop.run_checked()
    assert sizes == [10] * 5


def test_data_is_held_until_it_is_written(loop, file):
    data = bytearray(b"abc")
    fd = os.open(file, os.O_RDWR)
    for target, code in (fd, None), (1 << 20, uv.errno.UV_EBADF):
        done = []
        fs.write(loop, target, data, 0, done.append)
        with pytest.raises(BufferError):
            data.append(1)
        loop.run_checked()
        assert done[0].error == code
        data.append(1)
        data.pop()
    os.close(fd)
    with pytest.raises(uv.error.FSError):
        fs.write(loop, fd, data)
    data.append(1)


def test_request_attributes(loop, file):
    class Callback:
        def __call__(self, request):
            pass

    callback = Callback()
    gone = weakref.ref(callback)
    request = fs.stat(loop, file, callback)
    request.note = [request]
    alive = weakref.ref(request)
    assert "pending" in repr(request)
    with pytest.raises(AttributeError):
        request.result = 1
    with pytest.raises(TypeError):
        fs.FSRequest()
    with pytest.raises(TypeError):
        type("Sub", (fs.FSRequest,), {})
    del callback
    loop.run_checked()
    assert gone() is None
    assert "done" in repr(request)
    assert request.cancel() is False
    del request
    gc.collect()
    assert alive() is None
