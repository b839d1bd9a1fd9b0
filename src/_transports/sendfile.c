/* What a stream transport does while loop.sendfile() writes to its descriptor: it
 * sends first what was written before, refuses more, and tells when it is lost.
 * All functions run attached, on the loop's thread.  The transport owns the
 * future of the one who waits; the bytes are sent by os.sendfile(), in Python.
 */
#include "sockwait.h"
#include "stream.h"

static const char in_progress[] = "unable to write; sendfile is in progress";

bool
tulip_stream_check_no_sendfile(const TulipStream *self)
{
    if (self->flags & TULIP_SENDFILE) {
        PyErr_SetString(PyExc_RuntimeError, in_progress);
        return false;
    }
    return true;
}

/* asyncio's error for a connection that ends during the transfer. */
static PyObject *
lost_error(void)
{
    return PyObject_CallFunction(PyExc_ConnectionError, "s",
                                 "Connection is closed by peer");
}

/* Has nobody else wait; result or exc NULL. */
static void
tell(TulipStream *self, PyObject *result, PyObject *exc)
{
    PyObject *waiter = self->rare->waiter;
    self->rare->waiter = NULL;
    if (waiter != NULL
        && tulip_future_settle(self->loop, waiter, result, exc) < 0) {
        tulip_loop_report(self->loop, "Cannot wake a task in sendfile()",
                          (PyObject *)self, NULL, NULL);
    }
    Py_XDECREF(waiter);
}

void
tulip_sendfile_drained(TulipStream *self)
{
    if (self->queued == 0 && self->sending == NULL) {
        tell(self, Py_None, NULL);
    }
}

void
tulip_sendfile_lost(TulipStream *self)
{
    PyObject *raised = PyErr_GetRaisedException();
    PyObject *exc = lost_error();
    if (exc == NULL) {
        exc = PyErr_GetRaisedException();
    }
    tell(self, NULL, exc);
    Py_XDECREF(exc);
    if (raised != NULL) {
        PyErr_SetRaisedException(raised);
    }
}

/* ---- methods ---- */

PyDoc_STRVAR(begin_doc,
"_sendfile_begin($self, /)\n--\n\n"
"Send what was written, and refuse more until _sendfile_end().  Returns a\n"
"future to await before the first byte is sent by other means.\n\n"
"Raises RuntimeError when it has begun already.");

static PyObject *
begin(TulipStream *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(self->loop->lock);
    PyObject *future;
    if (!tulip_stream_check_thread(self)
        || !tulip_stream_check_no_sendfile(self)
        || tulip_stream_rare(self) == NULL) {
        return NULL;
    }
    future = tulip_loop_py_create_future(self->loop, NULL);
    if (future == NULL) {
        return NULL;
    }
    self->flags |= TULIP_SENDFILE;
    Py_XSETREF(self->rare->waiter, Py_NewRef(future));
    tulip_stream_flush(self);
    if (self->flags & TULIP_LOST) {
        tulip_sendfile_lost(self);
    }
    else {
        tulip_sendfile_drained(self);
    }
    return future;
}

PyDoc_STRVAR(fileno_doc,
"_sendfile_fileno($self, /)\n--\n\n"
"The descriptor to send to; it may be closed in the next turn of the loop.\n\n"
"Raises ConnectionError when the connection is lost, or closed.");

static PyObject *
get_fileno(TulipStream *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(self->loop->lock);
    uv_os_fd_t fd;
    if (self->uv == NULL || (self->flags & TULIP_LOST)
        || uv_fileno((uv_handle_t *)self->uv, &fd) < 0) {
        PyObject *exc = lost_error();
        if (exc != NULL) {
            PyErr_SetObject((PyObject *)Py_TYPE(exc), exc);
            Py_DECREF(exc);
        }
        return NULL;
    }
    return PyLong_FromLong((long)fd);
}

PyDoc_STRVAR(wait_doc,
"_sendfile_wait($self, /)\n--\n\n"
"A future to await after the descriptor has refused more.  Its exception is a\n"
"ConnectionError when the connection is lost meanwhile.");

static PyObject *
wait_writable(TulipStream *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(self->loop->lock);
    PyObject *number = get_fileno(self, NULL), *future;
    int fd;
    if (number == NULL || tulip_stream_rare(self) == NULL) {
        Py_XDECREF(number);
        return NULL;
    }
    fd = (int)PyLong_AsLong(number);
    Py_DECREF(number);
    future = tulip_sock_wait(self->loop, (PyObject *)self, TULIP_SOCK_TRANSPORT,
                             fd, true);
    if (future != NULL) {
        Py_XSETREF(self->rare->waiter, Py_NewRef(future));
    }
    return future;
}

PyDoc_STRVAR(end_doc,
"_sendfile_end($self, /)\n--\n\nAccept writes again.");

static PyObject *
end(TulipStream *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(self->loop->lock);
    self->flags &= ~(unsigned)TULIP_SENDFILE;
    if (self->rare != NULL) {
        Py_CLEAR(self->rare->waiter);
    }
    Py_RETURN_NONE;
}

static PyMethodDef sendfile_methods[] = {
    {"_sendfile_begin", (PyCFunction)begin, METH_NOARGS, begin_doc},
    {"_sendfile_fileno", (PyCFunction)get_fileno, METH_NOARGS, fileno_doc},
    {"_sendfile_wait", (PyCFunction)wait_writable, METH_NOARGS, wait_doc},
    {"_sendfile_end", (PyCFunction)end, METH_NOARGS, end_doc},
    {NULL},
};

/* type._sendfile_compatible = asyncio.constants._SendfileMode.`mode`, for
 * asyncio's code, and others', that looks whether and how sendfile() works. */
static int
set_mode(PyTypeObject *type, const char *mode)
{
    PyObject *module = PyImport_ImportModule("asyncio.constants");
    PyObject *modes = NULL, *value = NULL;
    int rc = -1;
    if (module != NULL) {
        modes = PyObject_GetAttrString(module, "_SendfileMode");
    }
    if (modes != NULL) {
        value = PyObject_GetAttrString(modes, mode);
    }
    if (value != NULL) {
        rc = PyObject_SetAttrString((PyObject *)type, "_sendfile_compatible",
                                    value);
    }
    Py_XDECREF(module);
    Py_XDECREF(modes);
    Py_XDECREF(value);
    return rc;
}

int
tulip_sendfile_setup(TulipState *st)
{
    return tulip_add_methods(st->stream_type, sendfile_methods) < 0
        || set_mode(st->stream_type, "TRY_NATIVE") < 0
        || set_mode(st->tls_type, "FALLBACK") < 0 ? -1 : 0;
}
