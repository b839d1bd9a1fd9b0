/* What operations on files give back: libuv's results as Python objects.  All
 * functions run attached, after libuv is done with the request; each returns a
 * new reference or NULL with an exception, and leaves to libuv's clean-up what
 * it does not take out of the request.
 */
#include "fs.h"
#include "errors.h"

#include <string.h>
#include <unistd.h>

PyObject *
uvt_fs_name(const char *name, bool bytes)
{
    return bytes ? PyBytes_FromString(name) : PyUnicode_DecodeFSDefault(name);
}

/* ---- plain results ---- */

PyObject *
uvt_fs_none(UvtState *Py_UNUSED(st), UvtFsCall *Py_UNUSED(call),
            uv_fs_t *Py_UNUSED(req))
{
    Py_RETURN_NONE;
}

PyObject *
uvt_fs_number(UvtState *Py_UNUSED(st), UvtFsCall *Py_UNUSED(call), uv_fs_t *req)
{
    return PyLong_FromSsize_t((Py_ssize_t)req->result);
}

PyObject *
uvt_fs_descriptor(UvtState *Py_UNUSED(st), UvtFsCall *Py_UNUSED(call),
                  uv_fs_t *req)
{
    int fd = (int)req->result;
    PyObject *result = PyLong_FromLong(fd);
    if (result == NULL) {
        (void)close(fd);
    }
    return result;
}

/* The room that was made for the data is what is returned. */
PyObject *
uvt_fs_bytes(UvtState *Py_UNUSED(st), UvtFsCall *call, uv_fs_t *req)
{
    PyObject *room = call->room;
    call->room = NULL;
    if ((Py_ssize_t)req->result != PyBytes_GET_SIZE(room)) {
        /* Sets room to NULL on an error. */
        (void)_PyBytes_Resize(&room, (Py_ssize_t)req->result);
    }
    return room;
}

PyObject *
uvt_fs_text(UvtState *Py_UNUSED(st), UvtFsCall *call, uv_fs_t *req)
{
    return uvt_fs_name(req->ptr, PyBytes_Check(call->path));
}

PyObject *
uvt_fs_made_path(UvtState *Py_UNUSED(st), UvtFsCall *call, uv_fs_t *req)
{
    return uvt_fs_name(req->path, PyBytes_Check(call->path));
}

PyObject *
uvt_fs_made_file(UvtState *st, UvtFsCall *call, uv_fs_t *req)
{
    PyObject *path = uvt_fs_made_path(st, call, req);
    PyObject *result = path != NULL
        ? Py_BuildValue("(iN)", (int)req->result, path) : NULL;
    if (result == NULL) {
        (void)close((int)req->result);
    }
    return result;
}

void
uvt_fs_dispose(const UvtFsOp *op, UvtFsCall *call, uv_fs_t *req)
{
    if (op->result == uvt_fs_descriptor || op->result == uvt_fs_made_file) {
        (void)close((int)req->result);
    }
    else if (op->result == uvt_fs_opened_dir) {
        uv_fs_t close_req;
        (void)uv_fs_closedir(NULL, &close_req, req->ptr, NULL);
        uv_fs_req_cleanup(&close_req);
        req->ptr = NULL;
    }
    else if (op->result == uvt_fs_closed_dir) {
        call->dir->dir = NULL;
    }
}

/* ---- directory entries ---- */

static PyStructSequence_Field dirent_fields[] = {
    {"name", "the name in its directory (str, or bytes if the path was)"},
    {"type", "one of UV_DIRENT_*"},
    {NULL},
};

static PyStructSequence_Desc dirent_desc = {
    "uvtulip._uv.fs.DirEnt", "An entry of a directory.", dirent_fields, 2,
};

PyObject *
uvt_dirent(UvtState *st, const uv_dirent_t *entry, bool bytes)
{
    PyObject *self = PyStructSequence_New(st->seq[UVT_SEQ_DIRENT]);
    if (self == NULL) {
        return NULL;
    }
    PyStructSequence_SetItem(self, 0, uvt_fs_name(entry->name, bytes));
    PyStructSequence_SetItem(self, 1, PyLong_FromLong(entry->type));
    return uvt_seq_done(self, 2);
}

PyObject *
uvt_fs_scanned(UvtState *st, UvtFsCall *call, uv_fs_t *req)
{
    uv_dirent_t entry;
    PyObject *list = PyList_New(0);
    while (list != NULL && uv_fs_scandir_next(req, &entry) == 0) {
        PyObject *item = uvt_dirent(st, &entry, PyBytes_Check(call->path));
        if (item == NULL || PyList_Append(list, item) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(item);
    }
    return list;
}

/* ---- stat ---- */

static PyStructSequence_Field stat_fields[] = {
    {"st_mode", "kind of file and permissions"},
    {"st_ino", "inode"},
    {"st_dev", "device that the file is on"},
    {"st_nlink", "number of hard links"},
    {"st_uid", "owner"},
    {"st_gid", "group"},
    {"st_size", "size in bytes"},
    {"st_atime", "seconds of the last access"},
    {"st_mtime", "seconds of the last change of the contents"},
    {"st_ctime", "seconds of the last change of the inode"},
    {"st_blksize", "preferred size of a block of I/O"},
    {"st_blocks", "number of 512-byte blocks"},
    {"st_rdev", "device that the file is, if it is one"},
    {"st_flags", "flags of the file, where the system has them"},
    {"st_gen", "generation of the file, where the system has them"},
    {"st_birthtime", "seconds of the file's creation"},
    {"st_atime_ns", "st_atime in nanoseconds (int)"},
    {"st_mtime_ns", "st_mtime in nanoseconds (int)"},
    {"st_ctime_ns", "st_ctime in nanoseconds (int)"},
    {"st_birthtime_ns", "st_birthtime in nanoseconds (int)"},
    {NULL},
};

#define STAT_VISIBLE 16
#define STAT_FIELDS 20

static PyStructSequence_Desc stat_desc = {
    "uvtulip._uv.fs.stat_result",
    "What stat(), lstat() and fstat() return.  The times are floats, unless\n"
    "stat_float_times(False) was called; those in nanoseconds are attributes\n"
    "only.",
    stat_fields, STAT_VISIBLE,
};

static PyObject *
seconds(UvtState *st, const uv_timespec_t *time)
{
    if (!st->stat_float_times) {
        return PyLong_FromLong(time->tv_sec);
    }
    return PyFloat_FromDouble((double)time->tv_sec + 1e-9 * (double)time->tv_nsec);
}

/* In Python's integers: libuv's long of seconds can be too many for 64 bits. */
static PyObject *
nanoseconds(const uv_timespec_t *time)
{
    PyObject *whole = PyLong_FromLong(time->tv_sec);
    PyObject *billion = PyLong_FromLong(1000000000L);
    PyObject *rest = PyLong_FromLong(time->tv_nsec);
    PyObject *product = NULL, *result = NULL;
    if (whole != NULL && billion != NULL && rest != NULL) {
        product = PyNumber_Multiply(whole, billion);
        result = product != NULL ? PyNumber_Add(product, rest) : NULL;
    }
    Py_XDECREF(whole);
    Py_XDECREF(billion);
    Py_XDECREF(rest);
    Py_XDECREF(product);
    return result;
}

PyObject *
uvt_stat_result(UvtState *st, const uv_stat_t *stat)
{
    const uint64_t before[] = {
        stat->st_mode, stat->st_ino, stat->st_dev, stat->st_nlink,
        stat->st_uid, stat->st_gid, stat->st_size,
    };
    const uint64_t after[] = {
        stat->st_blksize, stat->st_blocks, stat->st_rdev, stat->st_flags,
        stat->st_gen,
    };
    const uv_timespec_t *times[] = {
        &stat->st_atim, &stat->st_mtim, &stat->st_ctim, &stat->st_birthtim,
    };
    PyObject *self = PyStructSequence_New(st->seq[UVT_SEQ_STAT]);
    Py_ssize_t place = 0;
    size_t i;
    if (self == NULL) {
        return NULL;
    }
    for (i = 0; i < Py_ARRAY_LENGTH(before); i++) {
        PyStructSequence_SetItem(self, place++,
                                 PyLong_FromUnsignedLongLong(before[i]));
    }
    for (i = 0; i < 3; i++) {
        PyStructSequence_SetItem(self, place++, seconds(st, times[i]));
    }
    for (i = 0; i < Py_ARRAY_LENGTH(after); i++) {
        PyStructSequence_SetItem(self, place++,
                                 PyLong_FromUnsignedLongLong(after[i]));
    }
    PyStructSequence_SetItem(self, place++, seconds(st, times[3]));
    for (i = 0; i < Py_ARRAY_LENGTH(times); i++) {
        PyStructSequence_SetItem(self, place++, nanoseconds(times[i]));
    }
    return uvt_seq_done(self, STAT_FIELDS);
}

PyObject *
uvt_fs_stat(UvtState *st, UvtFsCall *Py_UNUSED(call), uv_fs_t *req)
{
    return uvt_stat_result(st, &req->statbuf);
}

/* ---- statfs ---- */

static PyStructSequence_Field statfs_fields[] = {
    {"f_type", "kind of file system"},
    {"f_bsize", "best size of a transfer"},
    {"f_blocks", "blocks in all"},
    {"f_bfree", "free blocks"},
    {"f_bavail", "free blocks for everybody"},
    {"f_files", "inodes in all"},
    {"f_ffree", "free inodes"},
    {NULL},
};

static PyStructSequence_Desc statfs_desc = {
    "uvtulip._uv.fs.statfs_result", "What statfs() returns; ints.",
    statfs_fields, 7,
};

PyObject *
uvt_fs_statfs(UvtState *st, UvtFsCall *Py_UNUSED(call), uv_fs_t *req)
{
    const uv_statfs_t *found = req->ptr;
    const uint64_t values[] = {
        found->f_type, found->f_bsize, found->f_blocks, found->f_bfree,
        found->f_bavail, found->f_files, found->f_ffree,
    };
    PyObject *self = PyStructSequence_New(st->seq[UVT_SEQ_STATFS]);
    if (self == NULL) {
        return NULL;
    }
    for (size_t i = 0; i < Py_ARRAY_LENGTH(values); i++) {
        PyStructSequence_SetItem(self, (Py_ssize_t)i,
                                 PyLong_FromUnsignedLongLong(values[i]));
    }
    return uvt_seq_done(self, Py_ARRAY_LENGTH(values));
}

int
uvt_fs_result_setup(PyObject *submodule, UvtState *st)
{
    if (uvt_add_seq(submodule, st, UVT_SEQ_STAT, &stat_desc) < 0
        || uvt_add_seq(submodule, st, UVT_SEQ_DIRENT, &dirent_desc) < 0) {
        return -1;
    }
    return uvt_add_seq(submodule, st, UVT_SEQ_STATFS, &statfs_desc);
}
