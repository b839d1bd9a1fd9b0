/* add_reader(), add_writer() and their opposites.  All functions run attached, on any
 * thread: as with asyncio's loop, though that does not document it, another one may add
 * and remove while the loop runs, outside of debug mode.  The table is changed at once,
 * what libuv watches by the loop's thread, which is woken for it.
 */
#include "readiness.h"

/* Looking through the raw handles is for the loop's thread, which does it later. */
static bool
check_transports(TulipLoop *loop, int fd)
{
    return !tulip_loop_is_here(loop) || tulip_loop_check_transports(loop, fd);
}

/* The new handle; NULL with an exception. */
static PyObject *
add_callback(TulipLoop *loop, const char *method, PyObject *const *args,
             Py_ssize_t nargs, PyObject *kwnames, int event)
{
    TulipCallback *handle, **slot, *old;
    PyObject *fileobj;
    Watcher *self;
    TulipCall call;
    int fd, rc = 0;

    if (!tulip_bind(loop, method, "fd", args, nargs, kwnames, &call)
        || tulip_parse_fd(call.first, false, &fd, &fileobj) < 0
        || !tulip_loop_check_call(loop, method, call.callable, true)
        || !check_transports(loop, fd)) {
        return NULL;
    }
    /* First, since it can run the collector, which can run anything. */
    handle = tulip_callback_new(loop, call.callable, call.args, call.nargs,
                                call.context, false);
    if (handle == NULL) {
        return NULL;
    }
    tulip_callback_track(handle);
    self = tulip_watcher_watch(loop, fd, event);
    if (self == NULL) {
        Py_DECREF(handle);
        return NULL;
    }
    Py_INCREF(self);
    slot = event == UV_READABLE ? &self->reader : &self->writer;
    old = *slot;
    *slot = (TulipCallback *)Py_NewRef(handle);
    Py_XSETREF(self->fileobj, Py_XNewRef(fileobj));
    if (old != NULL) {
        rc = tulip_callback_cancel(old);
        Py_DECREF(old);
    }
    Py_DECREF(self);
    if (rc < 0) {
        Py_CLEAR(handle);
    }
    return (PyObject *)handle;
}

/* None for a new reference to something; NULL with an exception. */
static PyObject *
as_none(UVT_STEALS(1) PyObject *result)
{
    Py_XDECREF(result);
    return result != NULL ? Py_NewRef(Py_None) : NULL;
}

static PyObject *
remove_callback(TulipLoop *loop, PyObject *arg, int event)
{
    TulipCallback **slot, *old;
    PyObject *fileobj;
    Watcher *self;
    int fd, rc;

    if (arg == NULL || tulip_parse_fd(arg, true, &fd, &fileobj) < 0
        || !tulip_loop_check_thread(loop)
        || !check_transports(loop, fd)) {
        return NULL;
    }
    self = fd >= 0 ? tulip_watcher_find(loop, fd)
        : fileobj != NULL ? tulip_watcher_find_object(loop, fileobj) : NULL;
    if (self == NULL) {
        return PyErr_Occurred() ? NULL : Py_NewRef(Py_False);
    }
    slot = event == UV_READABLE ? &self->reader : &self->writer;
    old = *slot;
    if (old == NULL) {
        Py_RETURN_FALSE;
    }
    Py_INCREF(self);
    *slot = NULL;
    tulip_watcher_stop(self);
    rc = tulip_callback_cancel(old);
    Py_DECREF(old);
    Py_DECREF(self);
    return rc < 0 ? NULL : Py_NewRef(Py_True);
}

PyObject *
tulip_loop_py_add_reader(TulipLoop *self, PyObject *const *args,
                         Py_ssize_t nargs, PyObject *kwnames)
{
    UVT_LOCKED(self->lock);
    return as_none(add_callback(self, "add_reader", args, nargs, kwnames, UV_READABLE));
}

PyObject *
tulip_loop_py_add_writer(TulipLoop *self, PyObject *const *args,
                         Py_ssize_t nargs, PyObject *kwnames)
{
    UVT_LOCKED(self->lock);
    return as_none(add_callback(self, "add_writer", args, nargs, kwnames, UV_WRITABLE));
}

/* As asyncio's methods of these names, for code written against those. */
PyDoc_STRVAR(private_doc,
"As the method without the underscore; returns the handle.");

static PyObject *
private_add_reader(TulipLoop *self, PyObject *const *args, Py_ssize_t nargs,
                   PyObject *kwnames)
{
    UVT_LOCKED(self->lock);
    return add_callback(self, "_add_reader", args, nargs, kwnames, UV_READABLE);
}

static PyObject *
private_add_writer(TulipLoop *self, PyObject *const *args, Py_ssize_t nargs,
                   PyObject *kwnames)
{
    UVT_LOCKED(self->lock);
    return add_callback(self, "_add_writer", args, nargs, kwnames, UV_WRITABLE);
}

PyObject *
tulip_loop_py_remove_reader(TulipLoop *self, PyObject *const *args,
                            Py_ssize_t nargs, PyObject *kwnames)
{
    UVT_LOCKED(self->lock);
    return remove_callback(
        self, tulip_only_arg("remove_reader", "fd", args, nargs, kwnames),
        UV_READABLE);
}

PyObject *
tulip_loop_py_remove_writer(TulipLoop *self, PyObject *const *args,
                            Py_ssize_t nargs, PyObject *kwnames)
{
    UVT_LOCKED(self->lock);
    return remove_callback(
        self, tulip_only_arg("remove_writer", "fd", args, nargs, kwnames),
        UV_WRITABLE);
}

#define FAST(function) (PyCFunction)(void (*)(void))function

PyMethodDef tulip_readiness_methods[] = {
    {"_add_reader", FAST(private_add_reader), METH_FASTCALL | METH_KEYWORDS,
     private_doc},
    {"_add_writer", FAST(private_add_writer), METH_FASTCALL | METH_KEYWORDS,
     private_doc},
    {"_remove_reader", FAST(tulip_loop_py_remove_reader),
     METH_FASTCALL | METH_KEYWORDS, private_doc},
    {"_remove_writer", FAST(tulip_loop_py_remove_writer),
     METH_FASTCALL | METH_KEYWORDS, private_doc},
    {NULL},
};
