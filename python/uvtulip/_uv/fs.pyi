"""Operations on files, at once or with a callback."""

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias, final, overload

from _typeshed import (
    FileDescriptorLike,
    ReadableBuffer,
    StrOrBytesPath,
    WriteableBuffer,
    structseq,
)

from . import FSEvent as FSEvent
from . import FSPoll as FSPoll
from . import Loop, Request

# Without a callback the loop is not used, and None will do.
_Loop: TypeAlias = Loop | None
_Path: TypeAlias = StrOrBytesPath
_Data: TypeAlias = ReadableBuffer | Sequence[ReadableBuffer]
_Room: TypeAlias = WriteableBuffer | Sequence[WriteableBuffer]
_Callback: TypeAlias = Callable[[FSRequest], object]

UV_RENAME: int
UV_CHANGE: int
UV_FS_EVENT_WATCH_ENTRY: int
UV_FS_EVENT_STAT: int
UV_FS_EVENT_RECURSIVE: int
UV_FS_SYMLINK_DIR: int
UV_FS_SYMLINK_JUNCTION: int
UV_FS_COPYFILE_EXCL: int
UV_FS_COPYFILE_FICLONE: int
UV_FS_COPYFILE_FICLONE_FORCE: int
UV_DIRENT_UNKNOWN: int
UV_DIRENT_FILE: int
UV_DIRENT_DIR: int
UV_DIRENT_LINK: int
UV_DIRENT_FIFO: int
UV_DIRENT_SOCKET: int
UV_DIRENT_CHAR: int
UV_DIRENT_BLOCK: int
UV_FS_O_APPEND: int
UV_FS_O_CREAT: int
UV_FS_O_DIRECT: int
UV_FS_O_DIRECTORY: int
UV_FS_O_DSYNC: int
UV_FS_O_EXCL: int
UV_FS_O_EXLOCK: int
UV_FS_O_FILEMAP: int
UV_FS_O_NOATIME: int
UV_FS_O_NOCTTY: int
UV_FS_O_NOFOLLOW: int
UV_FS_O_NONBLOCK: int
UV_FS_O_RANDOM: int
UV_FS_O_RDONLY: int
UV_FS_O_RDWR: int
UV_FS_O_SEQUENTIAL: int
UV_FS_O_SHORT_LIVED: int
UV_FS_O_SYMLINK: int
UV_FS_O_SYNC: int
UV_FS_O_TEMPORARY: int
UV_FS_O_TRUNC: int
UV_FS_O_WRONLY: int

@final
class DirEnt(structseq[Any], tuple[Any, int]):
    __match_args__: Final = (
        "name",
        "type",
    )
    @property
    def name(self) -> Any: ...
    @property
    def type(self) -> int: ...

@final
class stat_result(
    structseq[Any],
    tuple[
        int,
        int,
        int,
        int,
        int,
        int,
        int,
        float,
        float,
        float,
        int,
        int,
        int,
        int,
        int,
        float,
    ],
):
    __match_args__: Final = (
        "st_mode",
        "st_ino",
        "st_dev",
        "st_nlink",
        "st_uid",
        "st_gid",
        "st_size",
        "st_atime",
        "st_mtime",
        "st_ctime",
        "st_blksize",
        "st_blocks",
        "st_rdev",
        "st_flags",
        "st_gen",
        "st_birthtime",
    )
    @property
    def st_mode(self) -> int: ...
    @property
    def st_ino(self) -> int: ...
    @property
    def st_dev(self) -> int: ...
    @property
    def st_nlink(self) -> int: ...
    @property
    def st_uid(self) -> int: ...
    @property
    def st_gid(self) -> int: ...
    @property
    def st_size(self) -> int: ...
    @property
    def st_atime(self) -> float: ...
    @property
    def st_mtime(self) -> float: ...
    @property
    def st_ctime(self) -> float: ...
    @property
    def st_blksize(self) -> int: ...
    @property
    def st_blocks(self) -> int: ...
    @property
    def st_rdev(self) -> int: ...
    @property
    def st_flags(self) -> int: ...
    @property
    def st_gen(self) -> int: ...
    @property
    def st_birthtime(self) -> float: ...
    @property
    def st_atime_ns(self) -> int: ...
    @property
    def st_mtime_ns(self) -> int: ...
    @property
    def st_ctime_ns(self) -> int: ...
    @property
    def st_birthtime_ns(self) -> int: ...

@final
class statfs_result(structseq[Any], tuple[int, int, int, int, int, int, int]):
    __match_args__: Final = (
        "f_type",
        "f_bsize",
        "f_blocks",
        "f_bfree",
        "f_bavail",
        "f_files",
        "f_ffree",
    )
    @property
    def f_type(self) -> int: ...
    @property
    def f_bsize(self) -> int: ...
    @property
    def f_blocks(self) -> int: ...
    @property
    def f_bfree(self) -> int: ...
    @property
    def f_bavail(self) -> int: ...
    @property
    def f_files(self) -> int: ...
    @property
    def f_ffree(self) -> int: ...

@final
class Dir:
    @property
    def closed(self) -> bool: ...

@final
class FSRequest(Request):
    @property
    def path(self) -> Any: ...
    @property
    def result(self) -> Any: ...
    @property
    def error(self) -> int | None: ...
    def get_system_error(self) -> int: ...

@overload
def stat_float_times(newvalue: None = None, /) -> bool: ...
@overload
def stat_float_times(newvalue: object, /) -> None: ...
@overload
def stat(loop: _Loop, path: _Path, callback: None = None) -> stat_result: ...
@overload
def stat(loop: Loop, path: _Path, callback: _Callback) -> FSRequest: ...
@overload
def lstat(loop: _Loop, path: _Path, callback: None = None) -> stat_result: ...
@overload
def lstat(loop: Loop, path: _Path, callback: _Callback) -> FSRequest: ...
@overload
def fstat(
    loop: _Loop, fd: FileDescriptorLike, callback: None = None
) -> stat_result: ...
@overload
def fstat(loop: Loop, fd: FileDescriptorLike, callback: _Callback) -> FSRequest: ...
@overload
def unlink(loop: _Loop, path: _Path, callback: None = None) -> None: ...
@overload
def unlink(loop: Loop, path: _Path, callback: _Callback) -> FSRequest: ...
@overload
def mkdir(
    loop: _Loop, path: _Path, mode: int = 0o777, callback: None = None
) -> None: ...
@overload
def mkdir(loop: Loop, path: _Path, mode: int, callback: _Callback) -> FSRequest: ...
@overload
def mkdir(
    loop: Loop, path: _Path, mode: int = 0o777, *, callback: _Callback
) -> FSRequest: ...
@overload
def rmdir(loop: _Loop, path: _Path, callback: None = None) -> None: ...
@overload
def rmdir(loop: Loop, path: _Path, callback: _Callback) -> FSRequest: ...
@overload
def rename(
    loop: _Loop, path: _Path, new_path: _Path, callback: None = None
) -> None: ...
@overload
def rename(
    loop: Loop, path: _Path, new_path: _Path, callback: _Callback
) -> FSRequest: ...
@overload
def chmod(loop: _Loop, path: _Path, mode: int, callback: None = None) -> None: ...
@overload
def chmod(loop: Loop, path: _Path, mode: int, callback: _Callback) -> FSRequest: ...
@overload
def fchmod(
    loop: _Loop, fd: FileDescriptorLike, mode: int, callback: None = None
) -> None: ...
@overload
def fchmod(
    loop: Loop, fd: FileDescriptorLike, mode: int, callback: _Callback
) -> FSRequest: ...
@overload
def link(loop: _Loop, path: _Path, new_path: _Path, callback: None = None) -> None: ...
@overload
def link(
    loop: Loop, path: _Path, new_path: _Path, callback: _Callback
) -> FSRequest: ...
@overload
def symlink(
    loop: _Loop, path: _Path, new_path: _Path, flags: int = 0, callback: None = None
) -> None: ...
@overload
def symlink(
    loop: Loop, path: _Path, new_path: _Path, flags: int, callback: _Callback
) -> FSRequest: ...
@overload
def symlink(
    loop: Loop, path: _Path, new_path: _Path, flags: int = 0, *, callback: _Callback
) -> FSRequest: ...
@overload
def readlink(loop: _Loop, path: _Path, callback: None = None) -> Any: ...
@overload
def readlink(loop: Loop, path: _Path, callback: _Callback) -> FSRequest: ...
@overload
def realpath(loop: _Loop, path: _Path, callback: None = None) -> Any: ...
@overload
def realpath(loop: Loop, path: _Path, callback: _Callback) -> FSRequest: ...
@overload
def chown(
    loop: _Loop, path: _Path, uid: int, gid: int, callback: None = None
) -> None: ...
@overload
def chown(
    loop: Loop, path: _Path, uid: int, gid: int, callback: _Callback
) -> FSRequest: ...
@overload
def fchown(
    loop: _Loop, fd: FileDescriptorLike, uid: int, gid: int, callback: None = None
) -> None: ...
@overload
def fchown(
    loop: Loop, fd: FileDescriptorLike, uid: int, gid: int, callback: _Callback
) -> FSRequest: ...
@overload
def lchown(
    loop: _Loop, path: _Path, uid: int, gid: int, callback: None = None
) -> None: ...
@overload
def lchown(
    loop: Loop, path: _Path, uid: int, gid: int, callback: _Callback
) -> FSRequest: ...
@overload
def access(loop: _Loop, path: _Path, flags: int, callback: None = None) -> None: ...
@overload
def access(loop: Loop, path: _Path, flags: int, callback: _Callback) -> FSRequest: ...
@overload
def open(
    loop: _Loop, path: _Path, flags: int, mode: int = 0o666, callback: None = None
) -> int: ...
@overload
def open(
    loop: Loop, path: _Path, flags: int, mode: int, callback: _Callback
) -> FSRequest: ...
@overload
def open(
    loop: Loop, path: _Path, flags: int, mode: int = 0o666, *, callback: _Callback
) -> FSRequest: ...
@overload
def close(loop: _Loop, fd: FileDescriptorLike, callback: None = None) -> None: ...
@overload
def close(loop: Loop, fd: FileDescriptorLike, callback: _Callback) -> FSRequest: ...
@overload
def read(
    loop: _Loop,
    fd: FileDescriptorLike,
    length: int,
    offset: int = -1,
    callback: None = None,
) -> bytes: ...
@overload
def read(
    loop: Loop, fd: FileDescriptorLike, length: int, offset: int, callback: _Callback
) -> FSRequest: ...
@overload
def read(
    loop: Loop,
    fd: FileDescriptorLike,
    length: int,
    offset: int = -1,
    *,
    callback: _Callback,
) -> FSRequest: ...
@overload
def readv(
    loop: _Loop,
    fd: FileDescriptorLike,
    buffers: _Room,
    offset: int = -1,
    callback: None = None,
) -> int: ...
@overload
def readv(
    loop: Loop, fd: FileDescriptorLike, buffers: _Room, offset: int, callback: _Callback
) -> FSRequest: ...
@overload
def readv(
    loop: Loop,
    fd: FileDescriptorLike,
    buffers: _Room,
    offset: int = -1,
    *,
    callback: _Callback,
) -> FSRequest: ...
@overload
def write(
    loop: _Loop,
    fd: FileDescriptorLike,
    write_data: _Data,
    offset: int = -1,
    callback: None = None,
) -> int: ...
@overload
def write(
    loop: Loop,
    fd: FileDescriptorLike,
    write_data: _Data,
    offset: int,
    callback: _Callback,
) -> FSRequest: ...
@overload
def write(
    loop: Loop,
    fd: FileDescriptorLike,
    write_data: _Data,
    offset: int = -1,
    *,
    callback: _Callback,
) -> FSRequest: ...
@overload
def fsync(loop: _Loop, fd: FileDescriptorLike, callback: None = None) -> None: ...
@overload
def fsync(loop: Loop, fd: FileDescriptorLike, callback: _Callback) -> FSRequest: ...
@overload
def fdatasync(loop: _Loop, fd: FileDescriptorLike, callback: None = None) -> None: ...
@overload
def fdatasync(loop: Loop, fd: FileDescriptorLike, callback: _Callback) -> FSRequest: ...
@overload
def ftruncate(
    loop: _Loop, fd: FileDescriptorLike, offset: int, callback: None = None
) -> None: ...
@overload
def ftruncate(
    loop: Loop, fd: FileDescriptorLike, offset: int, callback: _Callback
) -> FSRequest: ...
@overload
def scandir(loop: _Loop, path: _Path, callback: None = None) -> list[DirEnt]: ...
@overload
def scandir(loop: Loop, path: _Path, callback: _Callback) -> FSRequest: ...
@overload
def sendfile(
    loop: _Loop,
    out_fd: FileDescriptorLike,
    in_fd: FileDescriptorLike,
    in_offset: int,
    length: int,
    callback: None = None,
) -> int: ...
@overload
def sendfile(
    loop: Loop,
    out_fd: FileDescriptorLike,
    in_fd: FileDescriptorLike,
    in_offset: int,
    length: int,
    callback: _Callback,
) -> FSRequest: ...
@overload
def utime(
    loop: _Loop, path: _Path, atime: float, mtime: float, callback: None = None
) -> None: ...
@overload
def utime(
    loop: Loop, path: _Path, atime: float, mtime: float, callback: _Callback
) -> FSRequest: ...
@overload
def futime(
    loop: _Loop,
    fd: FileDescriptorLike,
    atime: float,
    mtime: float,
    callback: None = None,
) -> None: ...
@overload
def futime(
    loop: Loop, fd: FileDescriptorLike, atime: float, mtime: float, callback: _Callback
) -> FSRequest: ...
@overload
def lutime(
    loop: _Loop, path: _Path, atime: float, mtime: float, callback: None = None
) -> None: ...
@overload
def lutime(
    loop: Loop, path: _Path, atime: float, mtime: float, callback: _Callback
) -> FSRequest: ...
@overload
def copyfile(
    loop: _Loop, path: _Path, new_path: _Path, flags: int = 0, callback: None = None
) -> None: ...
@overload
def copyfile(
    loop: Loop, path: _Path, new_path: _Path, flags: int, callback: _Callback
) -> FSRequest: ...
@overload
def copyfile(
    loop: Loop, path: _Path, new_path: _Path, flags: int = 0, *, callback: _Callback
) -> FSRequest: ...
@overload
def mkdtemp(loop: _Loop, path: _Path, callback: None = None) -> Any: ...
@overload
def mkdtemp(loop: Loop, path: _Path, callback: _Callback) -> FSRequest: ...
@overload
def mkstemp(loop: _Loop, path: _Path, callback: None = None) -> tuple[int, Any]: ...
@overload
def mkstemp(loop: Loop, path: _Path, callback: _Callback) -> FSRequest: ...
@overload
def opendir(loop: _Loop, path: _Path, callback: None = None) -> Dir: ...
@overload
def opendir(loop: Loop, path: _Path, callback: _Callback) -> FSRequest: ...
@overload
def readdir(
    loop: _Loop, dir: Dir, count: int = 64, callback: None = None
) -> list[DirEnt]: ...
@overload
def readdir(loop: Loop, dir: Dir, count: int, callback: _Callback) -> FSRequest: ...
@overload
def readdir(
    loop: Loop, dir: Dir, count: int = 64, *, callback: _Callback
) -> FSRequest: ...
@overload
def closedir(loop: _Loop, dir: Dir, callback: None = None) -> None: ...
@overload
def closedir(loop: Loop, dir: Dir, callback: _Callback) -> FSRequest: ...
@overload
def statfs(loop: _Loop, path: _Path, callback: None = None) -> statfs_result: ...
@overload
def statfs(loop: Loop, path: _Path, callback: _Callback) -> FSRequest: ...
