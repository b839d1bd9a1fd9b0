/* The arguments of operations on files: checked, converted and kept in a
 * UvtFsCall, which owns them until libuv is done with the operation.  Everything
 * runs attached, before the call of libuv or after its clean-up.
 */
#include "fs.h"
#include "args.h"

#include <limits.h>
#include <math.h>

/* What each parameter is called; by UvtFsParam. */
static const char *const param_names[] = {
    NULL, "path", "new_path", "fd", "out_fd", "in_fd", "flags", "mode", "uid",
    "gid", "length", "length", "offset", "in_offset", "atime", "mtime",
    "write_data", "buffers", "dir", "count",
};

const char *
uvt_fs_param_name(UvtFsParam param)
{
    return param_names[param];
}

/* The path as given (str or bytes) and as the system wants it. */
static bool
take_path(PyObject *arg, PyObject **given, PyObject **bytes)
{
    PyObject *path = PyOS_FSPath(arg);
    if (path == NULL || !PyUnicode_FSConverter(path, bytes)) {
        Py_XDECREF(path);
        return false;
    }
    if (given != NULL) {
        *given = path;
    }
    else {
        Py_DECREF(path);
    }
    return true;
}

/* Every number below 0 is the descriptor that nobody has. */
static bool
take_fd(const char *name, PyObject *arg, int *fd)
{
    bool ok = PyLong_Check(arg)
        ? uvt_arg_int(name, "fd", arg, INT_MIN, INT_MAX, fd)
        : uvt_arg_fd(name, arg, fd);
    if (ok && *fd < 0) {
        *fd = -1;
    }
    return ok;
}

/* -1 leaves an owner as it is. */
static bool
take_id(const char *name, const char *what, PyObject *arg, unsigned *id)
{
    PyObject *number = PyNumber_Index(arg);
    long long value;
    int overflow;
    if (number == NULL) {
        return false;
    }
    value = PyLong_AsLongLongAndOverflow(number, &overflow);
    Py_DECREF(number);
    if (overflow || value < -1 || value > UINT_MAX) {
        PyErr_Format(PyExc_ValueError, "%s(): '%s' is no user or group number",
                     name, what);
        return false;
    }
    *id = (unsigned)value;
    return true;
}

static bool
take_int64(const char *name, const char *what, PyObject *arg, int64_t min,
           int64_t max, int64_t *out)
{
    PyObject *number;
    long long value;
    int overflow;
    if (!PyIndex_Check(arg)) {
        PyErr_Format(PyExc_TypeError, "%s(): '%s' must be an int, not %.200s",
                     name, what, Py_TYPE(arg)->tp_name);
        return false;
    }
    number = PyNumber_Index(arg);
    if (number == NULL) {
        return false;
    }
    value = PyLong_AsLongLongAndOverflow(number, &overflow);
    Py_DECREF(number);
    if (overflow || value < min || value > max) {
        PyErr_Format(PyExc_ValueError, "%s(): '%s' is out of range", name, what);
        return false;
    }
    *out = value;
    return true;
}

/* Seconds since 1970 that fit a time_t.  Since libuv 1.51 infinity means now
 * and not-a-number means that the time stays. */
static bool
take_time(const char *name, const char *what, PyObject *arg, double *out)
{
    double value = PyFloat_AsDouble(arg);
    if (value == -1.0 && PyErr_Occurred()) {
        return false;
    }
#if UV_VERSION_HEX >= 0x013300
    if (isnan(value) || value == HUGE_VAL) {
        *out = value;
        return true;
    }
#endif
    if (!(fabs(value) < 9.2e18)) {
        PyErr_Format(PyExc_ValueError, "%s(): '%s' is out of range", name, what);
        return false;
    }
    *out = value;
    return true;
}

static bool
take_room(const char *name, PyObject *arg, UvtFsCall *call)
{
    int64_t length;
    /* The system reads at most this much at once. */
    if (!take_int64(name, "length", arg, 0, INT_MAX, &length)) {
        return false;
    }
    call->room = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)length);
    call->length = (size_t)length;
    return call->room != NULL;
}

static bool
take_entries(const char *name, PyObject *arg, UvtFsCall *call)
{
    int64_t count;
    if (!take_int64(name, "count", arg, 1, 1 << 20, &count)) {
        return false;
    }
    call->length = (size_t)count;
    return true;
}

static bool
make_entries(UvtFsCall *call)
{
    call->entries = PyMem_Calloc(call->length, sizeof(uv_dirent_t));
    if (call->entries == NULL) {
        PyErr_NoMemory();
        return false;
    }
    call->dir->dir->dirents = call->entries;
    call->dir->dir->nentries = call->length;
    return true;
}

static bool
take_argument(UvtState *st, const UvtFsOp *op, UvtFsParam param, PyObject *arg,
              UvtFsCall *call)
{
    const char *name = op->name, *what = param_names[param];
    int64_t number;
    switch (param) {
    case UVT_FS_PATH:
        return take_path(arg, &call->path, &call->path_bytes);
    case UVT_FS_NEW_PATH:
        return take_path(arg, NULL, &call->new_path_bytes);
    case UVT_FS_FD:
    case UVT_FS_OUT_FD:
        return take_fd(name, arg, &call->fd);
    case UVT_FS_IN_FD:
        return take_fd(name, arg, &call->in_fd);
    case UVT_FS_FLAGS:
        return uvt_arg_int(name, what, arg, INT_MIN, INT_MAX, &call->flags);
    case UVT_FS_MODE:
        return uvt_arg_int(name, what, arg, INT_MIN, INT_MAX, &call->mode);
    case UVT_FS_UID:
        return take_id(name, what, arg, &call->uid);
    case UVT_FS_GID:
        return take_id(name, what, arg, &call->gid);
    case UVT_FS_LENGTH:
        return take_room(name, arg, call);
    case UVT_FS_NBYTES:
        if (!take_int64(name, what, arg, 0, PY_SSIZE_T_MAX, &number)) {
            return false;
        }
        call->length = (size_t)number;
        return true;
    case UVT_FS_OFFSET:
    case UVT_FS_IN_OFFSET:
        return take_int64(name, what, arg, -1, INT64_MAX, &call->offset);
    case UVT_FS_ATIME:
        return take_time(name, what, arg, &call->atime);
    case UVT_FS_MTIME:
        return take_time(name, what, arg, &call->mtime);
    case UVT_FS_WRITE_DATA:
        return uvt_buffers_get(&call->data, name, arg);
    case UVT_FS_BUFFERS:
        return uvt_buffers_get_writable(&call->data, name, arg);
    case UVT_FS_DIR:
        return uvt_dir_take(st, op->call, arg, &call->dir);
    case UVT_FS_ENTRIES:
        return take_entries(name, arg, call);
    case UVT_FS_END:
        break;
    }
    Py_UNREACHABLE();
}

/* What an argument that was not given is, for those that may be left out. */
static void
set_defaults(const UvtFsOp *op, UvtFsCall *call)
{
    call->fd = call->in_fd = -1;
    call->offset = -1;
    call->mode = op->result == uvt_fs_descriptor ? 0666 : 0777;
    call->length = 64;
}

bool
uvt_fs_arguments(UvtState *st, const UvtFsOp *op, PyObject *const *given,
                 UvtFsCall *call)
{
    int i;
    set_defaults(op, call);
    for (i = 0; op->params[i] != UVT_FS_END; i++) {
        if (given[i] != NULL
            && !take_argument(st, op, op->params[i], given[i], call)) {
            return false;
        }
    }
    /* A converter of a later argument may have closed the directory. */
    return op->result != uvt_fs_entries || make_entries(call);
}

void
uvt_fs_release(UvtFsCall *call)
{
    uvt_buffers_release(&call->data);
    if (call->dir != NULL) {
        uvt_dir_give(call->dir);
    }
    PyMem_Free(call->entries);
    Py_XDECREF(call->path);
    Py_XDECREF(call->path_bytes);
    Py_XDECREF(call->new_path_bytes);
    Py_XDECREF(call->room);
}
