/* uv.FSPoll: looks at a file at intervals and tells what has changed.  All
 * functions run on the loop's thread, attached; the file is looked at by a
 * thread of the pool.  A started one is held by its loop; the handle owns the
 * callback.
 */
#include "args.h"
#include "errors.h"
#include "fs.h"
#include "fswatch.h"
#include "guards.h"
#include "pool.h"

#include <limits.h>

static int
init_box(uv_loop_t *loop, UvtBox *box)
{
    return uv_fs_poll_init(loop, &box->uv.fs_poll);
}

static int
fspoll_init(UvtHandle *self, PyObject *args, PyObject *kwds)
{
    UVT_LOCKED(uvt_lock_of_init(self->st, args, kwds));
    static char *names[] = {"loop", NULL};
    PyObject *loop_arg;
    UvtLoop *loop;
    int rc;

    if (!PyArg_ParseTupleAndKeywords(args, kwds, "O:FSPoll", names, &loop_arg)
        || !uvt_handle_init_begin(self, loop_arg, UV_FS_POLL, UVT_EXC_FSPOLL,
                                  sizeof(uv_fs_poll_t), &loop)) {
        return -1;
    }
    rc = init_box(&loop->core->uv, self->box);
    return uvt_handle_init_done(self, loop, rc, "uv_fs_poll_init");
}

/* ---- libuv callbacks ---- */

static void
on_change(uv_fs_poll_t *uv, int status, const uv_stat_t *before,
          const uv_stat_t *now)
{
    UvtHandle *self = uvt_enter(uv);
    PyObject *args[5] = {NULL};
    if (self == NULL) {
        return;
    }
    args[1] = (PyObject *)self;
    args[2] = status < 0 ? Py_NewRef(Py_None) : uvt_stat_result(self->st, before);
    args[3] = status < 0 ? Py_NewRef(Py_None) : uvt_stat_result(self->st, now);
    args[4] = uvt_errorno(status);
    uvt_call(self, self->callback, args + 1, 4);
    Py_XDECREF(args[2]);
    Py_XDECREF(args[3]);
    Py_XDECREF(args[4]);
    uvt_leave(self);
}

/* ---- methods ---- */

/* A thread may still look at the file of a handle that was stopped; libuv mixes
 * that up with the next start.  So a started handle is never started again, but
 * replaced. */
static int
stop_and_renew(UvtHandle *self)
{
    uv_fs_poll_t *poll = &self->box->uv.fs_poll;
    (void)uv_fs_poll_stop(poll);
    if (poll->poll_ctx == NULL) {
        return 0;
    }
    return uvt_handle_renew(self, sizeof(uv_fs_poll_t), init_box);
}

PyDoc_STRVAR(start_doc,
"start($self, path, interval, callback)\n--\n\n"
"Look at a file every `interval` seconds (whole milliseconds, rounded up, at least\n"
"one): callback(handle, previous, current, errorno) when it has changed, with two\n"
"fs.stat_result and errorno None; or, once for each error, both None and errorno\n"
"< 0 (UV_ENOENT).  A started one changes over.\n\n"
"Raises TypeError, ValueError, HandleClosedError, FSPollError.");

static PyObject *
fspoll_start(UvtHandle *self, PyObject *const *args, Py_ssize_t nargs,
             PyObject *kwnames)
{
    UVT_LOCKED(self->lock);
    static const char *const names[] = {"path", "interval", "callback"};
    PyObject *given[3], *path;
    uint64_t interval;
    int rc;
    if (!uvt_args_bind("FSPoll.start", args, nargs, kwnames, names, 3, 3, given)
        || !uvt_arg_seconds("FSPoll.start", "interval", given[1], &interval)
        || !uvt_arg_callable("FSPoll.start", given[2])) {
        return NULL;
    }
    if (interval > UINT_MAX) {
        PyErr_Format(PyExc_ValueError,
                     "FSPoll.start(): 'interval' must be at most %u seconds",
                     UINT_MAX / 1000);
        return NULL;
    }
    path = uvt_arg_path("FSPoll.start", "'path'", given[0]);
    if (path == NULL) {
        return NULL;
    }
    if (!uvt_handle_check_free(self, "FSPoll.start")) {
        Py_DECREF(path);
        return NULL;
    }
    rc = uvt_guard_own_fds(self->loop->core)
        ? uvt_pool_prepare(self->st, self->loop->core) : UV_EBADF;
    /* libuv copies the path each time, and aborts if it cannot. */
    if ((size_t)PyBytes_GET_SIZE(path) >= self->loop->core->reserve) {
        self->loop->core->reserve = (size_t)PyBytes_GET_SIZE(path) + 1;
    }
    if (rc == 0) {
        rc = stop_and_renew(self);
    }
    if (rc == 0) {
        rc = uv_fs_poll_start(&self->box->uv.fs_poll, on_change,
                              PyBytes_AS_STRING(path), (unsigned)interval);
    }
    Py_DECREF(path);
    uvt_handle_update(self);
    if (rc < 0) {
        return uvt_handle_raise(self, rc, "uv_fs_poll_start");
    }
    Py_XSETREF(self->callback, Py_NewRef(given[2]));
    Py_RETURN_NONE;
}

PyDoc_STRVAR(stop_doc,
"stop($self, /)\n--\n\nLook no more; harmless when not started.\n\n"
"Raises HandleClosedError.");

static PyObject *
fspoll_stop(UvtHandle *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(self->lock);
    if (!uvt_handle_check_free(self, "FSPoll.stop")) {
        return NULL;
    }
    (void)uv_fs_poll_stop(&self->box->uv.fs_poll);
    uvt_handle_update(self);
    Py_CLEAR(self->callback);
    Py_RETURN_NONE;
}

/* ---- attributes ---- */

PyObject *
uvt_watched_path(UvtHandle *self, int (*ask)(UvtBox *, char *, size_t *),
                 const char *call)
{
    PyObject *result = NULL;
    char *buffer = NULL;
    size_t size = 256;
    int rc;
    if (self->initialised
        && (self->box == NULL || !uv_is_active(&self->box->uv.handle))) {
        return PyUnicode_FromString("");
    }
    if (!uvt_handle_check(self)) {
        return NULL;
    }
    do {
        char *larger = PyMem_Realloc(buffer, size + 1);
        if (larger == NULL) {
            PyMem_Free(buffer);
            return PyErr_NoMemory();
        }
        buffer = larger;
        rc = ask(self->box, buffer, &size);     /* the size that it needs */
    } while (rc == UV_ENOBUFS);
    if (rc < 0) {
        uvt_handle_raise(self, rc, call);
    }
    else {
        result = PyUnicode_DecodeFSDefaultAndSize(buffer, (Py_ssize_t)size);
    }
    PyMem_Free(buffer);
    return result;
}

static int
get_path(UvtBox *box, char *buffer, size_t *size)
{
    return uv_fs_poll_getpath(&box->uv.fs_poll, buffer, size);
}

static PyObject *
fspoll_get_path(UvtHandle *self, void *Py_UNUSED(closure))
{
    UVT_LOCKED(self->lock);
    return uvt_watched_path(self, get_path, "uv_fs_poll_getpath");
}

static PyMethodDef fspoll_methods[] = {
    {"start", (PyCFunction)(void (*)(void))fspoll_start,
     METH_FASTCALL | METH_KEYWORDS, start_doc},
    {"stop", (PyCFunction)fspoll_stop, METH_NOARGS, stop_doc},
    {NULL},
};

static PyGetSetDef fspoll_getset[] = {
    {"path", (getter)fspoll_get_path, NULL,
     "The path that is looked at (str); '' when stopped.", NULL},
    {NULL},
};

PyDoc_STRVAR(fspoll_doc,
"FSPoll(loop)\n--\n\n"
"Looks at a file at intervals and tells what has changed: for file systems on\n"
"which FSEvent hears nothing.");

static PyType_Slot fspoll_slots[] = {
    {Py_tp_doc, (void *)fspoll_doc},
    {Py_tp_init, fspoll_init},
    {Py_tp_methods, fspoll_methods},
    {Py_tp_getset, fspoll_getset},
    UVT_HANDLE_SLOTS,
    {0, NULL},
};

static PyType_Spec fspoll_spec = {
    .name = "uvtulip._uv.FSPoll",
    .basicsize = sizeof(UvtHandle),
    .flags = UVT_HANDLE_FLAGS,
    .slots = fspoll_slots,
};

int
uvt_fspoll_setup(PyObject *module, UvtState *st)
{
    return uvt_add_type(module, &st->fspoll_type, &fspoll_spec,
                        st->handle_type) < 0 ? -1
        : uvt_add_to_submodule(module, "fs", st->fspoll_type);
}
