/* How a datagram transport calls its protocol, and the flow control of sending.
 * All functions run attached, on the thread that runs the loop or while none
 * does.  The method that each datagram calls is looked up once, when the protocol
 * is set; the transport owns it.
 *
 * The context is a copy that the transport made and nobody else knows, so it is
 * entered already only if one of these calls is under way.
 */
#include "datagram.h"
#include <errno.h>

void
tulip_datagram_use_protocol(TulipDatagram *self, PyObject *protocol)
{
    TulipState *st = self->loop->st;
    bool bare;
    PyObject *receive = tulip_find_method(protocol, st->str_datagram_received,
                                          &bare);
    PyObject *old = self->protocol, *old_receive = self->receive;
    self->protocol = Py_NewRef(protocol);
    self->receive = receive;
    self->flags &= ~(unsigned)TULIP_D_BARE;
    self->flags |= bare ? TULIP_D_BARE : 0;
    Py_XDECREF(old_receive);
    Py_XDECREF(old);
}

int
tulip_datagram_enter(TulipDatagram *self)
{
    if (self->flags & TULIP_D_ENTERED) {
        return 0;
    }
    if (PyContext_Enter(self->context) < 0) {
        return -1;
    }
    self->flags |= TULIP_D_ENTERED;
    return 1;
}

void
tulip_datagram_leave(TulipDatagram *self, int entered)
{
    if (entered > 0) {
        self->flags &= ~(unsigned)TULIP_D_ENTERED;
        (void)PyContext_Exit(self->context);
    }
}

static void
report(TulipDatagram *self, const char *message)
{
    tulip_loop_report(self->loop, message, (PyObject *)self, self->protocol,
                      NULL);
}

void
tulip_datagram_call(TulipDatagram *self, PyObject *name, PyObject *arg,
                    const char *message)
{
    PyObject *protocol = Py_NewRef(self->protocol), *result = NULL;
    int64_t begin = self->loop->debug ? tulip_now() : 0;
    int entered = tulip_datagram_enter(self);
    if (entered >= 0) {
        result = arg == NULL ? PyObject_CallMethodNoArgs(protocol, name)
                             : PyObject_CallMethodOneArg(protocol, name, arg);
        tulip_datagram_leave(self, entered);
    }
    if (begin != 0) {
        tulip_warn_if_slow(self->loop, (PyObject *)self, name, begin);
    }
    if (result == NULL) {
        report(self, message);
    }
    Py_XDECREF(result);
    Py_DECREF(protocol);
}

void
tulip_datagram_deliver(TulipDatagram *self, PyObject *data, PyObject *addr)
{
    PyObject *protocol = Py_NewRef(self->protocol), *result = NULL;
    PyObject *receive = Py_XNewRef(self->receive);  /* set_protocol()! */
    PyObject *args[4] = {NULL, protocol, data, addr};
    int64_t begin = self->loop->debug ? tulip_now() : 0;
    int with_self = (self->flags & TULIP_D_BARE) != 0;
    int entered = tulip_datagram_enter(self);

    if (entered >= 0 && receive != NULL) {
        result = PyObject_Vectorcall(
            receive, args + 2 - with_self,
            (size_t)(2 + with_self) | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    }
    else if (entered >= 0) {
        result = PyObject_CallMethodObjArgs(
            protocol, self->loop->st->str_datagram_received, data, addr, NULL);
    }
    tulip_datagram_leave(self, entered);
    if (begin != 0) {
        tulip_warn_if_slow(self->loop, (PyObject *)self,
                           self->loop->st->str_datagram_received, begin);
    }
    if (result == NULL) {
        report(self, "Exception in callback protocol.datagram_received()");
    }
    Py_XDECREF(result);
    Py_XDECREF(receive);
    Py_DECREF(protocol);
}

/* ---- errors ---- */

void
tulip_datagram_raised(TulipDatagram *self)
{
    PyObject *exc;
    if (!PyErr_ExceptionMatches(PyExc_OSError)) {
        tulip_datagram_fatal(self);
        return;
    }
    exc = PyErr_GetRaisedException();
    if (self->protocol != NULL) {
        tulip_datagram_call(self, self->loop->st->str_error_received, exc,
                            "Exception in callback protocol.error_received()");
    }
    Py_DECREF(exc);
}

void
tulip_datagram_error(TulipDatagram *self, int error)
{
    errno = error;
    (void)PyErr_SetFromErrno(PyExc_OSError);
    tulip_datagram_raised(self);
}

/* ---- flow control ---- */

size_t
tulip_datagram_buffered(const TulipDatagram *self)
{
    return self->flags & TULIP_D_LOST ? 0 : self->queued
        + (self->sending != NULL ? tulip_send_size(self->sending) : 0);
}

void
tulip_datagram_maybe_pause(TulipDatagram *self)
{
    if (!(self->flags & (TULIP_D_WRITING_PAUSED | TULIP_D_LOST))
        && self->protocol != NULL
        && tulip_datagram_buffered(self) > self->high) {
        self->flags |= TULIP_D_WRITING_PAUSED;
        tulip_datagram_call(self, self->loop->st->str_pause_writing, NULL,
                            "protocol.pause_writing() failed");
    }
}

void
tulip_datagram_maybe_resume(TulipDatagram *self)
{
    if ((self->flags & (TULIP_D_WRITING_PAUSED | TULIP_D_LOST))
            == TULIP_D_WRITING_PAUSED
        && self->protocol != NULL
        && tulip_datagram_buffered(self) <= self->low) {
        self->flags &= ~(unsigned)TULIP_D_WRITING_PAUSED;
        tulip_datagram_call(self, self->loop->st->str_resume_writing, NULL,
                            "protocol.resume_writing() failed");
    }
}

static PyObject *
set_limits(TulipDatagram *self, PyObject *args, PyObject *kwds)
{
    UVT_LOCKED(tulip_lock(self->loop));
    if (!tulip_parse_limits(args, kwds, &self->high, &self->low)) {
        return NULL;
    }
    if (tulip_datagram_on_thread(self)) {
        if (self->queued > self->high) {
            tulip_datagram_flush(self);
        }
        tulip_datagram_maybe_pause(self);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(get_limits_doc,
"get_write_buffer_limits($self, /)\n--\n\nThe limits as (low, high).");

static PyObject *
get_limits(TulipDatagram *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(tulip_lock(self->loop));
    return Py_BuildValue("nn", (Py_ssize_t)self->low, (Py_ssize_t)self->high);
}

PyDoc_STRVAR(get_size_doc,
"get_write_buffer_size($self, /)\n--\n\n"
"How many bytes the kernel has not taken yet; what it takes now is sent first.\n"
"Since Python 3.13, 8 more for each datagram.");

static PyObject *
get_size(TulipDatagram *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(tulip_lock(self->loop));
    if (tulip_datagram_on_thread(self)) {
        tulip_datagram_flush(self);
    }
    return PyLong_FromSize_t(tulip_datagram_buffered(self));
}

PyMethodDef tulip_datagram_flow_methods[] = {
    {"set_write_buffer_limits", (PyCFunction)(void (*)(void))set_limits,
     METH_VARARGS | METH_KEYWORDS, tulip_set_limits_doc},
    {"get_write_buffer_limits", (PyCFunction)get_limits, METH_NOARGS,
     get_limits_doc},
    {"get_write_buffer_size", (PyCFunction)get_size, METH_NOARGS, get_size_doc},
    {NULL},
};
