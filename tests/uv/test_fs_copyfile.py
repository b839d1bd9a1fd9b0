"""fs.copyfile(): what was there before is neither removed nor emptied."""

import os
import resource
import socket
import stat

import pytest

from uvtulip import uv
from uvtulip.uv import fs

UV = uv.errno
ROOT = os.getuid() == 0


@pytest.fixture(params=["at once", "in the pool"])
def copyfile(request, loop):
    """copyfile() in both ways; raises FSError."""
    def later(*args):
        ends = []
        fs.copyfile(loop, *args, callback=ends.append)
        loop.run_checked(30)
        if ends[0].error is not None:
            raise uv.error.FSError(ends[0].error, "in the pool")

    return later if request.param == "in the pool" else (
        lambda *args: fs.copyfile(loop, *args))


def code_of(call, *args):
    with pytest.raises(uv.error.FSError) as caught:
        call(*args)
    return caught.value.args[0]


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source"
    path.write_bytes(os.urandom(300_000))
    path.chmod(0o640)
    return path


@pytest.fixture
def precious(tmp_path):
    path = tmp_path / "precious"
    path.write_text("precious")
    path.chmod(0o604)
    yield path


def is_untouched(path):
    return path.read_text() == "precious" and stat.S_IMODE(path.stat().st_mode) == 0o604


@pytest.mark.parametrize("size", [0, 1, 4096, 1_000_001])
@pytest.mark.parametrize("old", [None, 0, 10, 2_000_000])
@pytest.mark.parametrize("flags", [0, fs.UV_FS_COPYFILE_FICLONE])
def test_contents_and_permissions(copyfile, tmp_path, size, old, flags):
    path, target = tmp_path / "a", tmp_path / "b"
    path.write_bytes(os.urandom(size))
    path.chmod(0o751)
    if old is not None:
        target.write_bytes(b"x" * old)
    before = len(os.listdir("/proc/self/fd"))
    copyfile(path, target, flags)
    assert target.read_bytes() == path.read_bytes()
    assert stat.S_IMODE(target.stat().st_mode) == 0o751
    assert abs(len(os.listdir("/proc/self/fd")) - before) <= 3


def test_file_without_a_size(copyfile, tmp_path):
    target = tmp_path / "copy"
    copyfile("/proc/sys/kernel/ostype", target)
    assert target.read_text() == "Linux\n"


@pytest.mark.parametrize("link", [os.link, os.symlink])
@pytest.mark.parametrize("back", [False, True])
def test_the_same_file_by_another_name(copyfile, precious, link, back):
    other = precious.with_name("other")
    link(precious, other)
    copyfile(*((other, precious) if back else (precious, other)))
    assert is_untouched(precious) and other.exists()
    assert code_of(copyfile, precious, other, fs.UV_FS_COPYFILE_EXCL) == UV.UV_EEXIST
    assert is_untouched(precious)
    copyfile(precious, precious)
    assert is_untouched(precious)


def test_data_that_cannot_be_shared(copyfile, source, precious):
    try:
        copyfile(source, precious, fs.UV_FS_COPYFILE_FICLONE_FORCE)
    except uv.error.FSError:
        assert is_untouched(precious)
        fresh = precious.with_name("fresh")
        with pytest.raises(uv.error.FSError):
            copyfile(source, fresh, fs.UV_FS_COPYFILE_FICLONE_FORCE)
        assert not fresh.exists()
    else:
        assert precious.read_bytes() == source.read_bytes()


@pytest.mark.parametrize("kind", ["directory", "fifo", "socket", "missing", "unknown"])
def test_refused(copyfile, source, precious, tmp_path, kind):
    """As source and as destination; nothing waits, nothing goes."""
    odd, flags = tmp_path / "odd", 0
    if kind == "directory":
        odd.mkdir()
        (odd / "file").touch()
    elif kind == "fifo":
        os.mkfifo(odd)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(odd))
    elif kind == "unknown":
        odd.write_text("x")
        flags = 1 << 20
    assert code_of(copyfile, odd, precious, flags) < 0
    assert is_untouched(precious)
    before = odd.lstat() if odd.exists() else None
    if before is not None:
        assert code_of(copyfile, source, odd, flags) < 0
        assert odd.lstat().st_ino == before.st_ino
        assert odd.lstat().st_mode == before.st_mode


def test_fifo_with_a_reader_stays(copyfile, source, tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    assert code_of(copyfile, source, fifo) == UV.UV_EINVAL
    os.close(reader)
    assert stat.S_ISFIFO(fifo.lstat().st_mode)


def test_links(copyfile, source, precious, tmp_path):
    link, dangling = tmp_path / "link", tmp_path / "dangling"
    link.symlink_to(precious)
    dangling.symlink_to("made")
    copyfile(source, link)
    assert link.is_symlink() and precious.read_bytes() == source.read_bytes()
    copyfile(source, dangling)
    assert dangling.is_symlink()
    assert (tmp_path / "made").read_bytes() == source.read_bytes()
    dangling.unlink()
    dangling.symlink_to("other")
    assert code_of(copyfile, source, dangling,
                   fs.UV_FS_COPYFILE_EXCL) == UV.UV_EEXIST
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("fresh", [False, True])
def test_no_room(copyfile, source, precious, fresh):
    """A limit on the size of files stands for a disk that is full."""
    target = precious.with_name("fresh") if fresh else precious
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        assert code_of(copyfile, source, target) == UV.UV_EFBIG
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert is_untouched(precious)
    assert not precious.with_name("fresh").exists()


def test_full_file_system(copyfile, source, tmp_path):
    if not ROOT:
        pytest.skip("only root may mount")
    folder = tmp_path / "small"
    folder.mkdir()
    if os.system(f"mount -t tmpfs -o size=128k none {folder} 2>/dev/null") != 0:
        pytest.skip("this system lets nobody mount")
    try:
        precious = folder / "precious"
        precious.write_text("precious")
        precious.chmod(0o604)
        assert code_of(copyfile, source, precious) == UV.UV_ENOSPC
        assert is_untouched(precious)
        assert code_of(copyfile, source, folder / "fresh") == UV.UV_ENOSPC
        assert os.listdir(folder) == ["precious"]
    finally:
        assert os.system(f"umount {folder}") == 0


def test_devices(copyfile, source, tmp_path):
    copyfile(source, "/dev/null")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert code_of(copyfile, source, "/dev/full") == UV.UV_ENOSPC
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)
    copyfile("/dev/null", tmp_path / "empty")
    assert (tmp_path / "empty").read_bytes() == b""


def test_own_nodes_of_devices(copyfile, source, tmp_path):
    null, full = tmp_path / "null", tmp_path / "full"
    try:
        os.mknod(null, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.mknod(full, stat.S_IFCHR | 0o666, os.makedev(1, 7))
        open(full, "wb").close()
    except PermissionError:
        pytest.skip("no nodes of devices may be made or used here")
    copyfile(source, null)
    assert code_of(copyfile, source, full) == UV.UV_ENOSPC
    assert code_of(copyfile, source, null, fs.UV_FS_COPYFILE_FICLONE_FORCE) < 0
    for node in (null, full):
        assert stat.S_ISCHR(node.stat().st_mode)
        assert node.stat().st_mode & 0o666 == node.stat().st_mode & 0o777


def test_cancelled_copies_do_nothing(loop, source, tmp_path):
    ends, targets = [], [tmp_path / f"copy{i}" for i in range(60)]
    requests = [fs.copyfile(loop, source, target, callback=ends.append)
                for target in targets]
    cancelled = [request.cancel() for request in requests]
    loop.run_checked(30)
    assert len(ends) == 60
    for request, was, target in zip(requests, cancelled, targets, strict=True):
        assert request.error == (UV.UV_ECANCELED if was else None)
        assert target.exists() is not was
