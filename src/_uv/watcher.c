/* uv.Idle, uv.Prepare and uv.Check: a callback in each turn of the loop, at
 * three different places of it.  All functions run on the loop's thread,
 * attached.  A started watcher is held by its loop; the handle owns the
 * callback.
 */
#include "args.h"
#include "consumer.h"
#include "handle.h"
#include "loop.h"

/* ---- libuv callbacks ---- */

static void
fire(const void *uv)
{
    UvtHandle *self = uvt_enter(uv);
    if (self == NULL) {
        return;
    }
    if (self->consumer != NULL) {
        UVT_TELL_CONSUMER(self, fired, owner);
    }
    else {
        PyObject *args[2] = {NULL, (PyObject *)self};
        uvt_call(self, self->callback, args + 1, 1);
    }
    uvt_leave(self);
}

static void
on_idle(uv_idle_t *uv)
{
    fire(uv);
}

static void
on_prepare(uv_prepare_t *uv)
{
    fire(uv);
}

static void
on_check(uv_check_t *uv)
{
    fire(uv);
}

/* ---- what differs ---- */

typedef struct {
    uv_handle_type kind;
    UvtExc exc;
    size_t size;
    const char *format;             /* of the constructor's arguments */
    const char *start_name, *stop_name;
    const char *uv_init_name, *uv_start_name;
    int (*init)(uv_loop_t *loop, UvtBox *box);
    int (*start)(UvtBox *box);
    int (*stop)(UvtBox *box);
} Watcher;

static int
idle_uv_init(uv_loop_t *loop, UvtBox *box)
{
    return uv_idle_init(loop, &box->uv.idle);
}

static int
idle_uv_start(UvtBox *box)
{
    return uv_idle_start(&box->uv.idle, on_idle);
}

static int
idle_uv_stop(UvtBox *box)
{
    return uv_idle_stop(&box->uv.idle);
}

static int
prepare_uv_init(uv_loop_t *loop, UvtBox *box)
{
    return uv_prepare_init(loop, &box->uv.prepare);
}

static int
prepare_uv_start(UvtBox *box)
{
    return uv_prepare_start(&box->uv.prepare, on_prepare);
}

static int
prepare_uv_stop(UvtBox *box)
{
    return uv_prepare_stop(&box->uv.prepare);
}

static int
check_uv_init(uv_loop_t *loop, UvtBox *box)
{
    return uv_check_init(loop, &box->uv.check);
}

static int
check_uv_start(UvtBox *box)
{
    return uv_check_start(&box->uv.check, on_check);
}

static int
check_uv_stop(UvtBox *box)
{
    return uv_check_stop(&box->uv.check);
}

enum { IDLE, PREPARE, CHECK };

static const Watcher watchers[] = {
    [IDLE] = {
        UV_IDLE, UVT_EXC_IDLE, sizeof(uv_idle_t), "O:Idle",
        "Idle.start", "Idle.stop", "uv_idle_init", "uv_idle_start",
        idle_uv_init, idle_uv_start, idle_uv_stop,
    },
    [PREPARE] = {
        UV_PREPARE, UVT_EXC_PREPARE, sizeof(uv_prepare_t), "O:Prepare",
        "Prepare.start", "Prepare.stop", "uv_prepare_init", "uv_prepare_start",
        prepare_uv_init, prepare_uv_start, prepare_uv_stop,
    },
    [CHECK] = {
        UV_CHECK, UVT_EXC_CHECK, sizeof(uv_check_t), "O:Check",
        "Check.start", "Check.stop", "uv_check_init", "uv_check_start",
        check_uv_init, check_uv_start, check_uv_stop,
    },
};

/* Of an initialised handle, and of one that is not: its name only serves the
 * exception then. */
static const Watcher *
watcher_of(const UvtHandle *self)
{
    switch (self->kind) {
        case UV_PREPARE:
            return &watchers[PREPARE];
        case UV_CHECK:
            return &watchers[CHECK];
        default:
            return &watchers[IDLE];
    }
}

/* ---- life cycle ---- */

static int
watcher_init(UvtHandle *self, PyObject *args, PyObject *kwds,
             const Watcher *watcher)
{
    UVT_LOCKED(uvt_lock_of_init(self->st, args, kwds));
    static char *names[] = {"loop", NULL};
    PyObject *loop_arg;
    UvtLoop *loop;
    int rc;

    if (!PyArg_ParseTupleAndKeywords(args, kwds, watcher->format, names,
                                     &loop_arg)
        || !uvt_handle_init_begin(self, loop_arg, watcher->kind, watcher->exc,
                                  watcher->size, &loop)) {
        return -1;
    }
    rc = watcher->init(&loop->core->uv, self->box);
    return uvt_handle_init_done(self, loop, rc, watcher->uv_init_name);
}

static int
idle_init(UvtHandle *self, PyObject *args, PyObject *kwds)
{
    return watcher_init(self, args, kwds, &watchers[IDLE]);
}

static int
prepare_init(UvtHandle *self, PyObject *args, PyObject *kwds)
{
    return watcher_init(self, args, kwds, &watchers[PREPARE]);
}

static int
check_init(UvtHandle *self, PyObject *args, PyObject *kwds)
{
    return watcher_init(self, args, kwds, &watchers[CHECK]);
}

/* ---- methods ---- */

PyDoc_STRVAR(start_doc,
"start($self, callback, /)\n--\n\n"
"Call callback(handle) in each turn of the loop.  A started one only gets the\n"
"new callback.\n\n"
"Raises TypeError, HandleClosedError.");

static PyObject *
watcher_start(UvtHandle *self, PyObject *callback)
{
    UVT_LOCKED(self->lock);
    const Watcher *watcher = watcher_of(self);
    int rc;
    if (!uvt_arg_callable(watcher->start_name, callback)
        || !uvt_handle_check_free(self, watcher->start_name)) {
        return NULL;
    }
    rc = watcher->start(self->box);
    uvt_handle_update(self);
    if (rc < 0) {
        return uvt_handle_raise(self, rc, watcher->uv_start_name);
    }
    Py_XSETREF(self->callback, Py_NewRef(callback));
    Py_RETURN_NONE;
}

PyDoc_STRVAR(stop_doc,
"stop($self, /)\n--\n\n"
"Call back no more; harmless when not started.");

static PyObject *
watcher_stop(UvtHandle *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(self->lock);
    const Watcher *watcher = watcher_of(self);
    if (!uvt_handle_check_free(self, watcher->stop_name)) {
        return NULL;
    }
    (void)watcher->stop(self->box);
    uvt_handle_update(self);
    Py_CLEAR(self->callback);
    Py_RETURN_NONE;
}

static PyMethodDef watcher_methods[] = {
    {"start", (PyCFunction)watcher_start, METH_O, start_doc},
    {"stop", (PyCFunction)watcher_stop, METH_NOARGS, stop_doc},
    {NULL},
};

PyDoc_STRVAR(idle_doc,
"Idle(loop)\n--\n\n"
"Calls back once per turn, before the Prepares.  A started one keeps the loop\n"
"from waiting in its poll.");

PyDoc_STRVAR(prepare_doc,
"Prepare(loop)\n--\n\n"
"Calls back once per turn, right before the loop polls.");

PyDoc_STRVAR(check_doc,
"Check(loop)\n--\n\n"
"Calls back once per turn, right after the loop has polled.");

static PyType_Slot idle_slots[] = {
    {Py_tp_doc, (void *)idle_doc},
    {Py_tp_init, idle_init},
    {Py_tp_methods, watcher_methods},
    UVT_HANDLE_SLOTS,
    {0, NULL},
};

static PyType_Slot prepare_slots[] = {
    {Py_tp_doc, (void *)prepare_doc},
    {Py_tp_init, prepare_init},
    {Py_tp_methods, watcher_methods},
    UVT_HANDLE_SLOTS,
    {0, NULL},
};

static PyType_Slot check_slots[] = {
    {Py_tp_doc, (void *)check_doc},
    {Py_tp_init, check_init},
    {Py_tp_methods, watcher_methods},
    UVT_HANDLE_SLOTS,
    {0, NULL},
};

static PyType_Spec idle_spec = {
    .name = "uvtulip._uv.Idle",
    .basicsize = sizeof(UvtHandle),
    .flags = UVT_HANDLE_FLAGS,
    .slots = idle_slots,
};

static PyType_Spec prepare_spec = {
    .name = "uvtulip._uv.Prepare",
    .basicsize = sizeof(UvtHandle),
    .flags = UVT_HANDLE_FLAGS,
    .slots = prepare_slots,
};

static PyType_Spec check_spec = {
    .name = "uvtulip._uv.Check",
    .basicsize = sizeof(UvtHandle),
    .flags = UVT_HANDLE_FLAGS,
    .slots = check_slots,
};

int
uvt_watcher_setup(PyObject *module, UvtState *st)
{
    PyTypeObject *base = st->handle_type;
    if (uvt_add_type(module, &st->idle_type, &idle_spec, base) < 0
        || uvt_add_type(module, &st->prepare_type, &prepare_spec, base) < 0) {
        return -1;
    }
    return uvt_add_type(module, &st->check_type, &check_spec, base);
}
