/* uv.Async: wakes a loop from any thread.  send() runs attached on any thread,
 * the rest on the loop's.  An open Async is active all the time but not held by
 * its loop: the program keeps it.  The handle owns the callback.
 *
 * A send() cannot meet a close: both hold the GIL or the loop's lock, send() gives it
 * up nowhere between its look at the box and the end of uv_async_send, and the box is
 * freed by a close callback, which attaches first.
 */
#include "args.h"
#include "consumer.h"
#include "fork.h"
#include "guards.h"

static void
on_async(uv_async_t *uv)
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

static int
open_async(UvtHandle *self, PyObject *loop_arg, PyObject *callback)
{
    UvtLoop *loop;
    int rc;
    if (!uvt_handle_init_begin(self, loop_arg, UV_ASYNC, UVT_EXC_ASYNC,
                               sizeof(uv_async_t), &loop)) {
        return -1;
    }
    rc = uv_async_init(&loop->core->uv, &self->box->uv.async, on_async);
    if (uvt_handle_init_done(self, loop, rc, "uv_async_init") < 0) {
        return -1;
    }
    self->callback = Py_XNewRef(callback);
    return 0;
}

static int
async_init(UvtHandle *self, PyObject *args, PyObject *kwds)
{
    UVT_LOCKED(uvt_lock_of_init(self->st, args, kwds));
    static char *names[] = {"loop", "callback", NULL};
    PyObject *loop_arg, *callback = NULL;

    if (!PyArg_ParseTupleAndKeywords(args, kwds, "O|O:Async", names, &loop_arg,
                                     &callback)
        || !uvt_arg_callback("Async", callback, &callback)) {
        return -1;
    }
    return open_async(self, loop_arg, callback);
}

PyObject *
uvt_async_create(PyObject *loop)
{
    PyTypeObject *type = ((UvtLoop *)loop)->st->async_type;
    PyObject *self = uvt_handle_new(type, NULL, NULL);
    if (self != NULL && open_async((UvtHandle *)self, loop, NULL) < 0) {
        Py_CLEAR(self);
    }
    return self;
}

PyDoc_STRVAR(send_doc,
"send($self, /)\n--\n\n"
"Have the loop call callback(handle) soon; several calls may lead to one\n"
"callback.  The only method of a handle that any thread may call.\n\n"
"Raises HandleClosedError, AsyncError.");

static PyObject *
async_send(UvtHandle *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(self->lock);
    int rc;
    if (!self->initialised) {
        (void)!uvt_handle_check(self);      /* raises */
        return NULL;
    }
    if (self->box == NULL || uv_is_closing(&self->box->uv.handle)) {
        PyErr_SetString(self->st->exc[UVT_EXC_CLOSED],
                        "Async.send(): the handle is closed");
        return NULL;
    }
    if (((const UvtCore *)self->box->uv.handle.loop->data)->forked) {
        uvt_fork_raise();
        return NULL;
    }
    rc = uvt_guard_send(&self->box->uv.async);
    if (rc < 0) {
        return uvt_handle_raise(self, rc, "uv_async_send");
    }
    Py_RETURN_NONE;
}

static PyMethodDef async_methods[] = {
    {"send", (PyCFunction)async_send, METH_NOARGS, send_doc},
    {NULL},
};

PyDoc_STRVAR(async_doc,
"Async(loop, callback=None)\n--\n\n"
"Wakes the loop from another thread, and calls callback(handle) in the loop's\n"
"own.  Keeps Loop.run() going until it is closed or `ref` is False; it is\n"
"closed when nothing refers to it any more.");

static PyType_Slot async_slots[] = {
    {Py_tp_doc, (void *)async_doc},
    {Py_tp_init, async_init},
    {Py_tp_methods, async_methods},
    UVT_HANDLE_SLOTS,
    {0, NULL},
};

static PyType_Spec async_spec = {
    .name = "uvtulip._uv.Async",
    .basicsize = sizeof(UvtHandle),
    .flags = UVT_HANDLE_FLAGS,
    .slots = async_slots,
};

int
uvt_async_setup(PyObject *module, UvtState *st)
{
    return uvt_add_type(module, &st->async_type, &async_spec, st->handle_type);
}
