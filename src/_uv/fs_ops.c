/* The table of uv.fs: each operation's parameters, how libuv is asked for it,
 * and what its result is; and the functions that Python sees.  The starters run
 * on any thread, detached when the operation runs at once: they use nothing of
 * Python but the memory of bytes objects.
 */
#include "fs.h"

/* ---- how each operation is started ---- */

#define PATH PyBytes_AS_STRING(call->path_bytes)
#define NEW_PATH PyBytes_AS_STRING(call->new_path_bytes)

#define STARTER(name, ...) \
    static int \
    start_##name(uv_loop_t *loop, UvtFsCall *call, uv_fs_t *req, uv_fs_cb cb) \
    { \
        return uv_fs_##name(loop, req, __VA_ARGS__, cb); \
    }

STARTER(stat, PATH)
STARTER(lstat, PATH)
STARTER(fstat, call->fd)
STARTER(unlink, PATH)
STARTER(mkdir, PATH, call->mode)
STARTER(rmdir, PATH)
STARTER(rename, PATH, NEW_PATH)
STARTER(chmod, PATH, call->mode)
STARTER(fchmod, call->fd, call->mode)
STARTER(link, PATH, NEW_PATH)
STARTER(symlink, PATH, NEW_PATH, call->flags)
STARTER(readlink, PATH)
STARTER(realpath, PATH)
STARTER(chown, PATH, call->uid, call->gid)
STARTER(fchown, call->fd, call->uid, call->gid)
STARTER(lchown, PATH, call->uid, call->gid)
STARTER(access, PATH, call->flags)
STARTER(open, PATH, call->flags, call->mode)
STARTER(close, call->fd)

static int
start_read(uv_loop_t *loop, UvtFsCall *call, uv_fs_t *req, uv_fs_cb cb)
{
    uv_buf_t buf = {PyBytes_AS_STRING(call->room), call->length};
    return uv_fs_read(loop, req, call->fd, &buf, 1, call->offset, cb);
}

static int
start_readv(uv_loop_t *loop, UvtFsCall *call, uv_fs_t *req, uv_fs_cb cb)
{
    return uv_fs_read(loop, req, call->fd, call->data.iov,
                      (unsigned)call->data.count, call->offset, cb);
}

STARTER(fsync, call->fd)
STARTER(fdatasync, call->fd)
STARTER(ftruncate, call->fd, call->offset)
STARTER(scandir, PATH, 0)
STARTER(sendfile, call->fd, call->in_fd, call->offset,
        call->length < UVT_MOST_AT_ONCE ? call->length : UVT_MOST_AT_ONCE)
STARTER(utime, PATH, call->atime, call->mtime)
STARTER(futime, call->fd, call->atime, call->mtime)
STARTER(lutime, PATH, call->atime, call->mtime)
STARTER(mkdtemp, PATH)
STARTER(mkstemp, PATH)
STARTER(opendir, PATH)
STARTER(readdir, call->dir->dir)
STARTER(closedir, call->dir->dir)
STARTER(statfs, PATH)

#undef STARTER
#define start_copyfile uvt_fs_start_copyfile
#define start_write uvt_fs_start_write
#undef PATH
#undef NEW_PATH

/* ---- the table ---- */

/* The operation, libuv's name of it, its result, how many parameters it needs,
 * and the parameters. */
#define OPERATIONS(X) \
    X(stat, stat, stat, 1, P(PATH)) \
    X(lstat, lstat, stat, 1, P(PATH)) \
    X(fstat, fstat, stat, 1, P(FD)) \
    X(unlink, unlink, none, 1, P(PATH)) \
    X(mkdir, mkdir, none, 1, P(PATH), P(MODE)) \
    X(rmdir, rmdir, none, 1, P(PATH)) \
    X(rename, rename, none, 2, P(PATH), P(NEW_PATH)) \
    X(chmod, chmod, none, 2, P(PATH), P(MODE)) \
    X(fchmod, fchmod, none, 2, P(FD), P(MODE)) \
    X(link, link, none, 2, P(PATH), P(NEW_PATH)) \
    X(symlink, symlink, none, 2, P(PATH), P(NEW_PATH), P(FLAGS)) \
    X(readlink, readlink, text, 1, P(PATH)) \
    X(realpath, realpath, text, 1, P(PATH)) \
    X(chown, chown, none, 3, P(PATH), P(UID), P(GID)) \
    X(fchown, fchown, none, 3, P(FD), P(UID), P(GID)) \
    X(lchown, lchown, none, 3, P(PATH), P(UID), P(GID)) \
    X(access, access, none, 2, P(PATH), P(FLAGS)) \
    X(open, open, descriptor, 2, P(PATH), P(FLAGS), P(MODE)) \
    X(close, close, none, 1, P(FD)) \
    X(read, read, bytes, 2, P(FD), P(LENGTH), P(OFFSET)) \
    X(readv, read, number, 2, P(FD), P(BUFFERS), P(OFFSET)) \
    X(write, write, number, 2, P(FD), P(WRITE_DATA), P(OFFSET)) \
    X(fsync, fsync, none, 1, P(FD)) \
    X(fdatasync, fdatasync, none, 1, P(FD)) \
    X(ftruncate, ftruncate, none, 2, P(FD), P(OFFSET)) \
    X(scandir, scandir, scanned, 1, P(PATH)) \
    X(sendfile, sendfile, number, 4, P(OUT_FD), P(IN_FD), P(IN_OFFSET), P(NBYTES)) \
    X(utime, utime, none, 3, P(PATH), P(ATIME), P(MTIME)) \
    X(futime, futime, none, 3, P(FD), P(ATIME), P(MTIME)) \
    X(lutime, lutime, none, 3, P(PATH), P(ATIME), P(MTIME)) \
    X(copyfile, copyfile, none, 2, P(PATH), P(NEW_PATH), P(FLAGS)) \
    X(mkdtemp, mkdtemp, made_path, 1, P(PATH)) \
    X(mkstemp, mkstemp, made_file, 1, P(PATH)) \
    X(opendir, opendir, opened_dir, 1, P(PATH)) \
    X(readdir, readdir, entries, 1, P(DIR), P(ENTRIES)) \
    X(closedir, closedir, closed_dir, 1, P(DIR)) \
    X(statfs, statfs, statfs, 1, P(PATH))

#define P(name) UVT_FS_##name

enum {
#define NUMBER(name, ...) OP_##name,
    OPERATIONS(NUMBER)
#undef NUMBER
};

static const UvtFsOp ops[] = {
#define ROW(name, uv, result, required, ...) \
    {#name, "uv_fs_" #uv, {__VA_ARGS__, UVT_FS_END}, required, start_##name, \
     uvt_fs_##result},
    OPERATIONS(ROW)
#undef ROW
};

/* ---- the functions ---- */

#define FUNCTION(name, ...) \
    static PyObject * \
    fs_##name(PyObject *module, PyObject *const *args, Py_ssize_t nargs, \
              PyObject *kwnames) \
    { \
        return uvt_fs_run(module, &ops[OP_##name], args, nargs, kwnames); \
    }

OPERATIONS(FUNCTION)

#undef FUNCTION
#undef P

#define DOC(name, parameters, text) \
    name "($module, loop, " parameters ", callback=None)\n--\n\n" text
#define ENTRY(name, parameters, text) \
    {#name, (PyCFunction)(void (*)(void))fs_##name, \
     METH_FASTCALL | METH_KEYWORDS, DOC(#name, parameters, text)}

PyMethodDef uvt_fs_functions[] = {
    ENTRY(stat, "path",
     "Look at a file: a stat_result."),
    ENTRY(lstat, "path",
     "As stat(), of a symbolic link itself."),
    ENTRY(fstat, "fd",
     "As stat(), of an open file."),
    ENTRY(unlink, "path",
     "Remove a file."),
    ENTRY(mkdir, "path, mode=0o777",
     "Make a directory; the process's umask is taken from the mode."),
    ENTRY(rmdir, "path",
     "Remove an empty directory."),
    ENTRY(rename, "path, new_path",
     "Give a file another name; what had that name is replaced."),
    ENTRY(chmod, "path, mode",
     "Set the permissions of a file."),
    ENTRY(fchmod, "fd, mode",
     "Set the permissions of an open file."),
    ENTRY(link, "path, new_path",
     "Give a file one more name."),
    ENTRY(symlink, "path, new_path, flags=0",
     "Make new_path a symbolic link to path.  The flags UV_FS_SYMLINK_* are for\n"
     "Windows."),
    ENTRY(readlink, "path",
     "Where a symbolic link leads to: str, or bytes if the path was."),
    ENTRY(realpath, "path",
     "The path without symbolic links, absolute: str, or bytes if the path was."),
    ENTRY(chown, "path, uid, gid",
     "Set owner and group of a file; -1 leaves one as it is."),
    ENTRY(fchown, "fd, uid, gid",
     "As chown(), of an open file."),
    ENTRY(lchown, "path, uid, gid",
     "As chown(), of a symbolic link itself."),
    ENTRY(access, "path, flags",
     "Check that the process may use a file so: os.F_OK, R_OK, W_OK, X_OK.\n"
     "Returns None when it may, and fails otherwise."),
    ENTRY(open, "path, flags, mode=0o666",
     "Open a file: its descriptor (int), not inherited by children.  The flags are\n"
     "those of os.open(), the mode is for a file that is made."),
    ENTRY(close, "fd",
     "Close a descriptor."),
    ENTRY(read, "fd, length, offset=-1",
     "Read at most `length` bytes at `offset`; -1: at the file's position, which\n"
     "moves.  Returns bytes, b'' at the end of the file."),
    ENTRY(readv, "fd, buffers, offset=-1",
     "Read at `offset` (-1: at the file's position) into one writable bytes-like\n"
     "object or a sequence of them.  Returns the number of bytes (int).  The\n"
     "objects cannot be resized until it is done."),
    ENTRY(write, "fd, write_data, offset=-1",
     "Write a bytes-like object or a sequence of them at `offset`; -1: at the\n"
     "file's position.  Returns the number of bytes (int).  The data is not copied\n"
     "and must not change until it is written."),
    ENTRY(fsync, "fd",
     "Write what is in memory of a file to its disk."),
    ENTRY(fdatasync, "fd",
     "As fsync(), without what only concerns times."),
    ENTRY(ftruncate, "fd, offset",
     "Make an open file `offset` bytes long."),
    ENTRY(scandir, "path",
     "The entries of a directory, sorted by name: a list of DirEnt without '.' and\n"
     "'..'.  Names are str, or bytes if the path was."),
    ENTRY(sendfile, "out_fd, in_fd, in_offset, length",
     "Copy at most `length` bytes from one descriptor at `in_offset` to another.\n"
     "Returns the number of bytes (int)."),
    ENTRY(utime, "path, atime, mtime",
     "Set the times of last access and change, in seconds (float)."),
    ENTRY(futime, "fd, atime, mtime",
     "As utime(), of an open file."),
    ENTRY(lutime, "path, atime, mtime",
     "As utime(), of a symbolic link itself.  Since libuv 1.36."),
    ENTRY(copyfile, "path, new_path, flags=0",
     "Copy a file and its permissions.  Flags: UV_FS_COPYFILE_EXCL fails when\n"
     "new_path is there, UV_FS_COPYFILE_FICLONE shares the data if the file system\n"
     "can, and UV_FS_COPYFILE_FICLONE_FORCE fails when it cannot.  A failed copy\n"
     "removes only a file that it has made; a file that was there is not touched when\n"
     "the data cannot be shared or when there is no room.  To a device it writes;\n"
     "directories (EISDIR), FIFOs and sockets (EINVAL) are refused."),
    ENTRY(mkdtemp, "path",
     "Make a directory of a new name: path ends with six X, which are replaced.\n"
     "Returns its path, str or bytes as was given."),
    ENTRY(mkstemp, "path",
     "Make and open a file of a new name: path ends with six X, which are\n"
     "replaced.  Returns (descriptor, path).  Since libuv 1.34."),
    ENTRY(opendir, "path",
     "Open a directory: a Dir for readdir() and closedir()."),
    ENTRY(readdir, "dir, count=64",
     "At most `count` entries of an open directory, in no order: a list of DirEnt,\n"
     "empty at the end.  Raises RuntimeError while another request uses it."),
    ENTRY(closedir, "dir",
     "Close a Dir.  Raises RuntimeError while another request uses it."),
    ENTRY(statfs, "path",
     "Look at the file system that a path is on: a statfs_result."),
    {NULL},
};
