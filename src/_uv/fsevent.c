/* uv.FSEvent: tells when a file, or a file in a folder, changes.  All functions
 * run on the loop's thread, attached.  A started one is held by its loop; the
 * handle owns the callback.
 */
#include "fswatch.h"
#include "args.h"
#include "errors.h"
#include "guards.h"

#define ALL_FLAGS \
    (UV_FS_EVENT_WATCH_ENTRY | UV_FS_EVENT_STAT | UV_FS_EVENT_RECURSIVE)

static int
fsevent_init(UvtHandle *self, PyObject *args, PyObject *kwds)
{
    UVT_LOCKED(uvt_lock_of_init(self->st, args, kwds));
    static char *names[] = {"loop", NULL};
    PyObject *loop_arg;
    UvtLoop *loop;
    int rc;

    if (!PyArg_ParseTupleAndKeywords(args, kwds, "O:FSEvent", names, &loop_arg)
        || !uvt_handle_init_begin(self, loop_arg, UV_FS_EVENT, UVT_EXC_FSEVENT,
                                  sizeof(uv_fs_event_t), &loop)) {
        return -1;
    }
    rc = uv_fs_event_init(&loop->core->uv, &self->box->uv.fs_event);
    return uvt_handle_init_done(self, loop, rc, "uv_fs_event_init");
}

static void
on_event(uv_fs_event_t *uv, const char *filename, int events, int status)
{
    UvtHandle *self = uvt_enter(uv);
    PyObject *args[5] = {NULL};
    if (self == NULL) {
        return;
    }
    args[1] = (PyObject *)self;
    args[2] = filename == NULL || status < 0
        ? Py_NewRef(Py_None) : PyUnicode_DecodeFSDefault(filename);
    args[3] = status < 0 ? Py_NewRef(Py_None) : PyLong_FromLong(events);
    args[4] = uvt_errorno(status);
    uvt_call(self, self->callback, args + 1, 4);
    Py_XDECREF(args[2]);
    Py_XDECREF(args[3]);
    Py_XDECREF(args[4]);
    uvt_leave(self);
}

PyDoc_STRVAR(start_doc,
"start($self, path, flags, callback)\n--\n\n"
"Watch a file or a folder: callback(handle, filename, events, errorno), with the\n"
"name of the file in the folder (str, None when the system does not tell),\n"
"events UV_RENAME (also: made, removed), UV_CHANGE or both, and errorno None; or\n"
"filename and events None and errorno < 0: UV_ENOBUFS when more has changed than\n"
"the system could note, so that events are missing and the handle goes on; or\n"
"UV_EBADF when somebody has closed what it watches with, and it is stopped.  flags\n"
"are 0 or those of\n"
"UV_FS_EVENT_WATCH_ENTRY, UV_FS_EVENT_STAT and UV_FS_EVENT_RECURSIVE (macOS and\n"
"Windows) that the system knows.  A started one changes over; when that fails it\n"
"is stopped.\n\n"
"Raises TypeError, ValueError, HandleClosedError, FSEventError (ENOENT; ENOSPC:\n"
"the system allows no more).");

static void
stop(UvtHandle *self)
{
    uvt_inotify_leave(self->box);
    (void)uv_fs_event_stop(&self->box->uv.fs_event);
}

/* The first one of a loop makes what all of them have in common. */
static int
start(UvtHandle *self, const char *path, unsigned flags)
{
    UvtCore *core = self->loop->core;
    int rc = core->uv.inotify_fd < 0 ? uvt_guard_reserve_next(core) : 0;
    if (rc < 0) {
        return rc;
    }
    uvt_low_take(self->st);
    rc = uvt_inotify_begin(core);
    if (rc == 0) {
        rc = uv_fs_event_start(&self->box->uv.fs_event, on_event, path, flags);
    }
    uvt_low_give(self->st);
    if (rc == 0) {
        uvt_inotify_join(self->box);
        rc = uvt_inotify_watch(core);
        if (rc < 0) {
            stop(self);
        }
    }
    return rc;
}

static PyObject *
fsevent_start(UvtHandle *self, PyObject *const *args, Py_ssize_t nargs,
              PyObject *kwnames)
{
    UVT_LOCKED(self->lock);
    static const char *const names[] = {"path", "flags", "callback"};
    PyObject *given[3], *path;
    int flags, rc;
    if (!uvt_args_bind("FSEvent.start", args, nargs, kwnames, names, 3, 3, given)
        || !uvt_arg_int("FSEvent.start", "flags", given[1], 0, ALL_FLAGS, &flags)
        || !uvt_arg_callable("FSEvent.start", given[2])) {
        return NULL;
    }
    path = uvt_arg_path("FSEvent.start", "'path'", given[0]);
    if (path == NULL) {
        return NULL;
    }
    if (!uvt_handle_check_free(self, "FSEvent.start")) {
        Py_DECREF(path);
        return NULL;
    }
    stop(self);
    rc = start(self, PyBytes_AS_STRING(path), (unsigned)flags);
    Py_DECREF(path);
    uvt_handle_update(self);
    if (rc < 0) {
        return uvt_handle_raise(self, rc, "uv_fs_event_start");
    }
    Py_XSETREF(self->callback, Py_NewRef(given[2]));
    Py_RETURN_NONE;
}

PyDoc_STRVAR(stop_doc,
"stop($self, /)\n--\n\nWatch no more; harmless when not started.\n\n"
"Raises HandleClosedError.");

static PyObject *
fsevent_stop(UvtHandle *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(self->lock);
    if (!uvt_handle_check_free(self, "FSEvent.stop")) {
        return NULL;
    }
    stop(self);
    uvt_handle_update(self);
    Py_CLEAR(self->callback);
    Py_RETURN_NONE;
}

static int
get_path(UvtBox *box, char *buffer, size_t *size)
{
    return uv_fs_event_getpath(&box->uv.fs_event, buffer, size);
}

static PyObject *
fsevent_get_path(UvtHandle *self, void *Py_UNUSED(closure))
{
    UVT_LOCKED(self->lock);
    return uvt_watched_path(self, get_path, "uv_fs_event_getpath");
}

static PyMethodDef fsevent_methods[] = {
    {"start", (PyCFunction)(void (*)(void))fsevent_start,
     METH_FASTCALL | METH_KEYWORDS, start_doc},
    {"stop", (PyCFunction)fsevent_stop, METH_NOARGS, stop_doc},
    {NULL},
};

static PyGetSetDef fsevent_getset[] = {
    {"path", (getter)fsevent_get_path, NULL,
     "The path that is watched (str); '' when stopped.", NULL},
    {NULL},
};

PyDoc_STRVAR(fsevent_doc,
"FSEvent(loop)\n--\n\n"
"Tells when a file, or a file in a folder, changes, as the system notices it.\n"
"Several changes can come as one, and file systems of other machines may tell\n"
"nothing: FSPoll looks for itself.");

static PyType_Slot fsevent_slots[] = {
    {Py_tp_doc, (void *)fsevent_doc},
    {Py_tp_init, fsevent_init},
    {Py_tp_methods, fsevent_methods},
    {Py_tp_getset, fsevent_getset},
    UVT_HANDLE_SLOTS,
    {0, NULL},
};

static PyType_Spec fsevent_spec = {
    .name = "uvtulip._uv.FSEvent",
    .basicsize = sizeof(UvtHandle),
    .flags = UVT_HANDLE_FLAGS,
    .slots = fsevent_slots,
};

int
uvt_fsevent_setup(PyObject *module, UvtState *st)
{
    return uvt_add_type(module, &st->fsevent_type, &fsevent_spec,
                        st->handle_type) < 0 ? -1
        : uvt_add_to_submodule(module, "fs", st->fsevent_type);
}
