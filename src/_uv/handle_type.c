/* uv.Handle as Python sees it: the methods and attributes that all handles have,
 * and those that several types share.  They run attached, on the loop's thread
 * or while nobody runs the loop.  handle.c has the life cycle.
 */
#include "handle.h"
#include "args.h"
#include "loop.h"

#include <limits.h>

/* ---- closing ---- */

PyDoc_STRVAR(close_doc,
"close($self, callback=None, /)\n--\n\n"
"Close the handle; callback(handle) comes from a later turn of the loop, after\n"
"the callbacks of requests that were pending (with UV_ECANCELED).  `closed` is\n"
"true at once.\n\n"
"Raises TypeError (callback is not callable), HandleClosedError.");

static PyObject *
handle_close(UvtHandle *self, PyObject *const *args, Py_ssize_t nargs)
{
    UVT_LOCKED(self->lock);
    PyObject *callback = NULL;
    if (!uvt_args_count("Handle.close", nargs, 0, 1)
        || !uvt_arg_callback("Handle.close", nargs > 0 ? args[0] : NULL,
                             &callback)
        || !uvt_handle_check(self)) {
        return NULL;
    }
    Py_XSETREF(self->close_callback, Py_XNewRef(callback));
    uvt_handle_close(self);
    Py_RETURN_NONE;
}

/* ---- what several types have ---- */

PyObject *
uvt_handle_fileno(UvtHandle *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(self->lock);
    uv_os_fd_t fd;
    int rc;
    if (!uvt_handle_check(self)) {
        return NULL;
    }
    rc = uv_fileno(&self->box->uv.handle, &fd);
    if (rc < 0) {
        return uvt_handle_raise(self, rc, "uv_fileno");
    }
    return PyLong_FromLong((long)fd);
}

static int
buffer_size(UvtHandle *self, void *which, int *value)
{
    uv_handle_t *uv = &self->box->uv.handle;
    return which == UVT_SEND_BUFFER ? uv_send_buffer_size(uv, value)
                                    : uv_recv_buffer_size(uv, value);
}

static const char *
buffer_size_call(void *which)
{
    return which == UVT_SEND_BUFFER ? "uv_send_buffer_size"
                                    : "uv_recv_buffer_size";
}

PyObject *
uvt_handle_get_buffer_size(UvtHandle *self, void *which)
{
    UVT_LOCKED(self->lock);
    int value = 0, rc;
    if (!uvt_handle_check(self)) {
        return NULL;
    }
    rc = buffer_size(self, which, &value);
    if (rc < 0) {
        return uvt_handle_raise(self, rc, buffer_size_call(which));
    }
    return PyLong_FromLong(value);
}

int
uvt_handle_set_buffer_size(UvtHandle *self, PyObject *value, void *which)
{
    UVT_LOCKED(self->lock);
    int size, rc;
    if (value == NULL) {
        PyErr_SetString(PyExc_TypeError, "a buffer size cannot be deleted");
        return -1;
    }
    if (!uvt_arg_int("buffer size", "size", value, 1, INT_MAX, &size)
        || !uvt_handle_check(self)) {
        return -1;
    }
    rc = buffer_size(self, which, &size);
    if (rc < 0) {
        uvt_handle_raise(self, rc, buffer_size_call(which));
        return -1;
    }
    return 0;
}

/* ---- attributes ---- */

/* The properties answer on closed handles as well, but not before __init__. */
static bool
handle_check_initialised(UvtHandle *self)
{
    if (!self->initialised) {
        PyErr_Format(PyExc_RuntimeError,
                     "%s is not initialised: its __init__ was not called",
                     Py_TYPE(self)->tp_name);
        return false;
    }
    return true;
}

static PyObject *
handle_get_active(UvtHandle *self, void *Py_UNUSED(closure))
{
    UVT_LOCKED(self->lock);
    if (!handle_check_initialised(self)) {
        return NULL;
    }
    return PyBool_FromLong(self->box != NULL && !uv_is_closing(&self->box->uv.handle)
                           && uvt_box_is_active(self->box));
}

static PyObject *
handle_get_closed(UvtHandle *self, void *Py_UNUSED(closure))
{
    UVT_LOCKED(self->lock);
    if (!handle_check_initialised(self)) {
        return NULL;
    }
    return PyBool_FromLong(self->box == NULL || uv_is_closing(&self->box->uv.handle));
}

static PyObject *
handle_get_loop(UvtHandle *self, void *Py_UNUSED(closure))
{
    UVT_LOCKED(self->lock);
    if (!handle_check_initialised(self)) {
        return NULL;
    }
    return Py_NewRef(self->loop != NULL ? (PyObject *)self->loop : Py_None);
}

static PyObject *
handle_get_ref(UvtHandle *self, void *Py_UNUSED(closure))
{
    UVT_LOCKED(self->lock);
    if (!handle_check_initialised(self)) {
        return NULL;
    }
    return PyBool_FromLong(self->box != NULL
                           && uv_has_ref(&self->box->uv.handle));
}

static int
handle_set_ref(UvtHandle *self, PyObject *value, void *Py_UNUSED(closure))
{
    UVT_LOCKED(self->lock);
    int on;
    if (value == NULL) {
        PyErr_SetString(PyExc_AttributeError, "Handle.ref cannot be deleted");
        return -1;
    }
    if (!uvt_arg_bool(value, &on) || !uvt_handle_check(self)) {
        return -1;
    }
    if (on) {
        uv_ref(&self->box->uv.handle);
    }
    else {
        uv_unref(&self->box->uv.handle);
    }
    return 0;
}

static PyObject *
handle_get_type(UvtHandle *self, void *Py_UNUSED(closure))
{
    UVT_LOCKED(self->lock);
    if (!handle_check_initialised(self)) {
        return NULL;
    }
    return PyLong_FromLong(self->kind);
}

static PyObject *
handle_get_type_name(UvtHandle *self, void *Py_UNUSED(closure))
{
    UVT_LOCKED(self->lock);
    if (!handle_check_initialised(self)) {
        return NULL;
    }
    return PyUnicode_FromString(uv_handle_type_name(self->kind));
}

/* ---- the type ---- */

PyDoc_STRVAR(enter_doc,
"__enter__($self, /)\n--\n\nReturn the handle; the end of the block closes it.");

static PyObject *
handle_enter(UvtHandle *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(self->lock);
    if (!uvt_handle_check(self)) {
        return NULL;
    }
    return Py_NewRef(self);
}

PyDoc_STRVAR(exit_doc,
"__exit__($self, /, *exc)\n--\n\nClose the handle unless it is closed already.");

static PyObject *
handle_exit(UvtHandle *self, PyObject *const *Py_UNUSED(args),
            Py_ssize_t Py_UNUSED(nargs))
{
    UVT_LOCKED(self->lock);
    if (self->box != NULL && !uv_is_closing(&self->box->uv.handle)
        && !((const UvtCore *)self->box->uv.handle.loop->data)->forked) {
        if (!uvt_handle_check(self)) {
            return NULL;
        }
        uvt_handle_close(self);
    }
    Py_RETURN_NONE;
}

static PyObject *
handle_repr(UvtHandle *self)
{
    UVT_LOCKED(self->lock);
    const char *state = "active";
    if (!self->initialised) {
        state = "uninitialised";
    }
    else if (self->box == NULL) {
        state = "closed";
    }
    else if (uv_is_closing(&self->box->uv.handle)) {
        state = "closing";
    }
    else if (!uvt_box_is_active(self->box)) {
        state = "idle";
    }
    return PyUnicode_FromFormat("<%s %s at %p>", Py_TYPE(self)->tp_name, state,
                                self);
}

static PyMethodDef handle_methods[] = {
    {"close", (PyCFunction)(void (*)(void))handle_close, METH_FASTCALL,
     close_doc},
    {"__enter__", (PyCFunction)handle_enter, METH_NOARGS, enter_doc},
    {"__exit__", (PyCFunction)(void (*)(void))handle_exit, METH_FASTCALL,
     exit_doc},
    {NULL},
};

static PyGetSetDef handle_getset[] = {
    {"active", (getter)handle_get_active, NULL,
     "True while the handle does something: ticks, reads, listens, ...", NULL},
    {"closed", (getter)handle_get_closed, NULL,
     "True from the call of close() on.", NULL},
    {"loop", (getter)handle_get_loop, NULL,
     "The Loop; None once the handle is closed.", NULL},
    {"ref", (getter)handle_get_ref, (setter)handle_set_ref,
     "False: the handle does not keep Loop.run() going.", NULL},
    {"type", (getter)handle_get_type, NULL,
     "The kind of handle, UV_TCP, UV_TIMER, ... (int).", NULL},
    {"type_name", (getter)handle_get_type_name, NULL,
     "libuv's word for the kind of handle, 'tcp', 'timer', ... (str).", NULL},
    {"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, NULL, NULL},
    {NULL},
};

static PyMemberDef handle_members[] = {
    {"__dictoffset__", T_PYSSIZET, offsetof(UvtHandle, dict), READONLY},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(UvtHandle, weakrefs), READONLY},
    {NULL},
};

PyDoc_STRVAR(handle_doc,
"The base of all handles; cannot be made by itself.\n\n"
"A handle lives in one loop and on the thread that runs it.  While it is\n"
"active or has a request pending, its loop keeps it alive.");

static PyType_Slot handle_slots[] = {
    {Py_tp_doc, (void *)handle_doc},
    {Py_tp_repr, handle_repr},
    {Py_tp_methods, handle_methods},
    {Py_tp_getset, handle_getset},
    {Py_tp_members, handle_members},
    {Py_tp_traverse, uvt_handle_traverse},
    {Py_tp_clear, uvt_handle_clear},
    {Py_tp_dealloc, uvt_handle_dealloc},
    {0, NULL},
};

static PyType_Spec handle_spec = {
    .name = "uvtulip._uv.Handle",
    .basicsize = sizeof(UvtHandle),
    .flags = UVT_HANDLE_FLAGS | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = handle_slots,
};

int
uvt_handle_setup(PyObject *module, UvtState *st)
{
    return uvt_add_type(module, &st->handle_type, &handle_spec, NULL);
}
