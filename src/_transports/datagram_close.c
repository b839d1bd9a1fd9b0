/* The end of a datagram transport: close, abort, and a handle that somebody else
 * closed.  All functions run attached, on the thread that runs the loop or while
 * none does.
 *
 * connection_lost() is always called by the loop, never from inside what the
 * program called; only after it the socket is closed and the protocol dropped.
 */
#include "datagram.h"
#include <errno.h>
#include <unistd.h>

static void
detach_socket(TulipDatagram *self, PyObject **slot)
{
    PyObject *sock = *slot, *result;
    if (sock == NULL) {
        return;
    }
    *slot = NULL;
    result = PyObject_CallMethod(sock, "detach", NULL);
    if (result == NULL) {
        PyErr_WriteUnraisable(sock);
    }
    Py_XDECREF(result);
    Py_DECREF(sock);
}

/* The descriptor goes: a UDP handle closes its own, that of a Poll is ours. */
static void
give_up_descriptor(TulipDatagram *self)
{
    int fd = self->fd;
    detach_socket(self, &self->shown);
    detach_socket(self, &self->stranger);
    self->fd = -1;
    if (fd >= 0 && (self->flags & TULIP_D_POLLED)) {
        (void)close(fd);
    }
}

void
tulip_datagram_close_handle(TulipDatagram *self)
{
    const UvtCAPI *api = tulip_datagram_api(self);
    self->flags &= ~(unsigned)TULIP_D_READING;
    if (self->timer != NULL) {
        api->close(self->timer);
    }
    if (self->handle != NULL) {
        api->close(self->handle);
    }
    give_up_descriptor(self);
}

static void
call_connection_lost(PyObject *owner, PyObject *exc)
{
    TulipDatagram *self = (TulipDatagram *)owner;
    if (self->flags & TULIP_D_LOST_DONE) {
        return;
    }
    self->flags |= TULIP_D_LOST_DONE;
    if (self->protocol != NULL) {
        tulip_datagram_call(self, self->loop->st->str_connection_lost,
                            exc == NULL ? Py_None : exc,
                            "Exception in callback protocol.connection_lost()");
    }
    tulip_datagram_close_handle(self);
    Py_CLEAR(self->receive);
    Py_CLEAR(self->protocol);
    Py_CLEAR(self->held);
}

static int
schedule_lost(TulipDatagram *self, PyObject *exc)
{
    if (self->flags & TULIP_D_LOST) {
        return 0;
    }
    self->flags |= TULIP_D_LOST | TULIP_D_CLOSING;
    tulip_datagram_update_reading(self);
    return tulip_loop_call_soon_c(self->loop, call_connection_lost,
                                  (PyObject *)self, exc);
}

int
tulip_datagram_force_close(TulipDatagram *self, PyObject *exc)
{
    if (self->flags & TULIP_D_LOST) {
        return 0;
    }
    tulip_datagram_drop_queue(self);
    tulip_datagram_stop_waiting(self);
    return schedule_lost(self, exc);
}

void
tulip_datagram_drained(TulipDatagram *self)
{
    if ((self->flags & (TULIP_D_CLOSING | TULIP_D_LOST)) == TULIP_D_CLOSING
        && self->first == self->count && self->sending == NULL
        && schedule_lost(self, NULL) < 0) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
}

int
tulip_datagram_begin_close(TulipDatagram *self)
{
    if (self->flags & TULIP_D_CLOSING) {
        return 0;
    }
    self->flags |= TULIP_D_CLOSING;
    tulip_datagram_update_reading(self);
    tulip_datagram_flush(self);
    if (self->first < self->count || self->sending != NULL) {
        return 0;       /* tulip_datagram_drained() goes on */
    }
    return schedule_lost(self, NULL);
}

void
tulip_datagram_fatal(TulipDatagram *self)
{
    PyObject *exc = PyErr_GetRaisedException();
    if (!PyErr_GivenExceptionMatches(exc, PyExc_OSError)) {
        PyErr_SetRaisedException(Py_NewRef(exc));
        tulip_loop_report(self->loop, "Fatal error on datagram transport",
                          (PyObject *)self, self->protocol, NULL);
    }
    if (tulip_datagram_force_close(self, exc) < 0) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    Py_DECREF(exc);
}

/* The handle is closed: by connection_lost, with the loop, or by whoever got
 * it from get_extra_info(). */
void
tulip_datagram_on_closed(PyObject *owner)
{
    TulipDatagram *self = (TulipDatagram *)owner;
    PyObject *handle = self->handle;

    self->uv = NULL;
    self->handle = NULL;
    self->flags &= ~(unsigned)TULIP_D_READING;
    if (self->timer != NULL) {
        tulip_datagram_api(self)->close(self->timer);
    }
    give_up_descriptor(self);
    if (self->loop->uv == NULL || self->loop->closed) {
        /* There is nobody to call connection_lost(). */
        self->flags |= TULIP_D_CLOSING | TULIP_D_LOST;
        tulip_datagram_drop_queue(self);
    }
    else if (!(self->flags & TULIP_D_LOST)) {
        PyObject *exc = NULL;
        if (!(self->flags & TULIP_D_CLOSING)) {
            exc = PyObject_CallFunction(PyExc_ConnectionAbortedError, "is",
                                        ECONNABORTED,
                                        "The transport's handle was closed");
        }
        PyErr_Clear();
        if (tulip_datagram_force_close(self, exc) < 0) {
            PyErr_WriteUnraisable(owner);
        }
        Py_XDECREF(exc);
    }
    Py_XDECREF(handle);
}

/* ---- methods ---- */

PyDoc_STRVAR(close_doc,
"close($self, /)\n--\n\n"
"Receive no more, send what waits, then call connection_lost(None).\n\n"
"Raises RuntimeError in another thread than the one that runs the loop.");

static PyObject *
datagram_close(TulipDatagram *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(tulip_lock(self->loop));
    if (self->loop->forked) {
        Py_RETURN_NONE;     /* it is the parent's */
    }
    if (!(self->flags & TULIP_D_CLOSING) && tulip_loop_is_elsewhere(self->loop)) {
        return tulip_loop_forward(self->loop, (PyObject *)self, "close", NULL);
    }
    if (!(self->flags & TULIP_D_CLOSING)
        && (!tulip_datagram_check_thread(self)
            || tulip_datagram_begin_close(self) < 0)) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(force_close_doc,
"_force_close($self, exc, /)\n--\n\n"
"Drop what waits to be sent and call connection_lost(exc) soon.");

static PyObject *
force_close(TulipDatagram *self, PyObject *exc)
{
    UVT_LOCKED(tulip_lock(self->loop));
    if (!(self->flags & TULIP_D_LOST)
        && (!tulip_datagram_check_thread(self)
            || tulip_datagram_force_close(self, exc == Py_None ? NULL : exc)
               < 0)) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(abort_doc,
"abort($self, /)\n--\n\n"
"Close at once; what the kernel does not take now is lost.  Then\n"
"connection_lost(None) is called.");

static PyObject *
datagram_abort(TulipDatagram *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(tulip_lock(self->loop));
    if (self->loop->forked) {
        Py_RETURN_NONE;     /* it is the parent's */
    }
    if (!(self->flags & TULIP_D_LOST) && tulip_loop_is_elsewhere(self->loop)) {
        return tulip_loop_forward(self->loop, (PyObject *)self, "abort", NULL);
    }
    if (!(self->flags & TULIP_D_LOST) && tulip_datagram_on_thread(self)) {
        /* What was sent in this callback counts as sent before. */
        tulip_datagram_flush(self);
    }
    return force_close(self, Py_None);
}

PyDoc_STRVAR(is_closing_doc,
"is_closing($self, /)\n--\n\nTrue from close() or abort() on.");

static PyObject *
is_closing(TulipDatagram *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(tulip_lock(self->loop));
    return PyBool_FromLong((self->flags & TULIP_D_CLOSING) != 0);
}

PyMethodDef tulip_datagram_close_methods[] = {
    {"close", (PyCFunction)datagram_close, METH_NOARGS, close_doc},
    {"abort", (PyCFunction)datagram_abort, METH_NOARGS, abort_doc},
    {"_force_close", (PyCFunction)force_close, METH_O, force_close_doc},
    {"is_closing", (PyCFunction)is_closing, METH_NOARGS, is_closing_doc},
    {NULL},
};
