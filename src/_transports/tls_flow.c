/* Flow control through TLS, that is of writing: what counts is the plaintext that waits and
 * the ciphertext that the transport below has.  All functions run attached, on the
 * loop's thread.  Callers own a reference to the transport: the protocol may close
 * it.
 */
#include "tls.h"

size_t
tulip_tls_buffered(const TulipTLS *self)
{
    size_t size = self->waiting;
    if (self->engine != NULL) {
        size += self->engine->out_len;
    }
    if (self->stream != NULL) {
        size += tulip_stream_buffered(self->stream);
    }
    return size;
}

static void
finish_call(TulipTLS *self, PyObject *result, const char *message)
{
    if (result == NULL) {
        tulip_loop_report(self->loop, message, (PyObject *)self, self->protocol,
                          NULL);
    }
    Py_XDECREF(result);
}

void
tulip_tls_maybe_pause(TulipTLS *self)
{
    if (!(self->flags & TLS_WRITING_PAUSED) && self->protocol != NULL
        && self->phase < TULIP_TLS_DONE
        && tulip_tls_buffered(self) > self->high) {
        self->flags |= TLS_WRITING_PAUSED;
        finish_call(self,
                    tulip_tls_call(self, self->loop->st->str_pause_writing, NULL),
                    "protocol.pause_writing() failed");
    }
}

/* Not before the program has a transport that it could write to. */
static bool
may_resume(const TulipTLS *self)
{
    return (self->flags & (TLS_WRITING_PAUSED | TLS_HELD)) == TLS_WRITING_PAUSED
        && self->phase >= TULIP_TLS_OPEN && self->phase < TULIP_TLS_DONE
        && self->protocol != NULL && tulip_tls_buffered(self) <= self->low;
}

void
tulip_tls_maybe_resume(TulipTLS *self)
{
    if (may_resume(self)) {
        self->flags &= ~(unsigned)TLS_WRITING_PAUSED;
        finish_call(self,
                    tulip_tls_call(self, self->loop->st->str_resume_writing,
                                   NULL),
                    "protocol.resume_writing() failed");
    }
}

static void
look(PyObject *owner, PyObject *Py_UNUSED(arg))
{
    TulipTLS *self = (TulipTLS *)owner;
    self->flags &= ~(unsigned)TLS_LOOKS;
    tulip_tls_maybe_resume(self);
}

void
tulip_tls_resume_soon(TulipTLS *self)
{
    if ((self->flags & TLS_LOOKS) || !may_resume(self)
        || (self->stream != NULL && (self->stream->flags & TULIP_IN_CALLBACK))) {
        return;     /* at the end of that callback */
    }
    self->flags |= TLS_LOOKS;
    if (tulip_loop_call_soon_c(self->loop, look, (PyObject *)self, NULL) < 0) {
        self->flags &= ~(unsigned)TLS_LOOKS;
        PyErr_WriteUnraisable((PyObject *)self);
    }
}

/* What only waits for the end of a callback does not count. */
static void
send_now(TulipTLS *self)
{
    tulip_tls_enter(self);
    if (self->stream != NULL) {
        tulip_stream_flush(self->stream);
    }
    else {
        tulip_tls_flush(self);
    }
    if (self->engine != NULL && self->engine->out_len > 0) {
        tulip_tls_send_output(self);
    }
    tulip_tls_leave(self);
}

static bool
is_empty(PyObject *args, PyObject *kwds)
{
    return PyTuple_GET_SIZE(args) == 0 && (kwds == NULL || PyDict_Size(kwds) == 0);
}

static PyObject *
set_limits(TulipTLS *self, PyObject *args, PyObject *kwds)
{
    UVT_LOCKED(tulip_lock(self->loop));
    size_t high = TULIP_TLS_HIGH_WATER, low = TULIP_TLS_HIGH_WATER / 4;
    if (!tulip_tls_check_thread(self)
        || (!is_empty(args, kwds)
            && !tulip_parse_limits(args, kwds, &high, &low))) {
        return NULL;
    }
    self->high = high;
    self->low = low;
    if (self->phase < TULIP_TLS_DONE && self->under != NULL
        && tulip_tls_buffered(self) > high) {
        send_now(self);
    }
    tulip_tls_maybe_pause(self);
    tulip_tls_look(self);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(set_limits_doc,
"set_write_buffer_limits($self, high=None, low=None)\n--\n\n"
"Call pause_writing() when more than `high` bytes wait to be sent, and\n"
"resume_writing() when there are `low` or less.  Without arguments: 512 KiB and a\n"
"quarter of that, asyncio's limits for TLS.\n\n"
"Raises TypeError, and ValueError unless high >= low >= 0.");

PyDoc_STRVAR(get_limits_doc,
"get_write_buffer_limits($self, /)\n--\n\nThe limits as (low, high).");

static PyObject *
get_limits(TulipTLS *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(tulip_lock(self->loop));
    return Py_BuildValue("nn", (Py_ssize_t)self->low, (Py_ssize_t)self->high);
}

PyDoc_STRVAR(get_size_doc,
"get_write_buffer_size($self, /)\n--\n\n"
"How many bytes wait: plaintext, and ciphertext that the kernel has not taken\n"
"yet; what it takes now is sent first.");

static PyObject *
get_size(TulipTLS *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(tulip_lock(self->loop));
    if (self->waiting > 0 && self->stream != NULL
        && tulip_stream_on_thread(self->stream)) {
        tulip_stream_flush(self->stream);
        tulip_tls_look(self);
    }
    return PyLong_FromSize_t(tulip_tls_buffered(self));
}

/* ---- reading ---- */

PyDoc_STRVAR(set_read_limits_doc,
"set_read_buffer_limits($self, high=None, low=None)\n--\n\n"
"What asyncio's TLS transports have; without effect here, since nothing more is read\n"
"as soon as the protocol has paused.\n\n"
"Raises TypeError, and ValueError unless high >= low >= 0.");

static PyObject *
set_read_limits(TulipTLS *self, PyObject *args, PyObject *kwds)
{
    UVT_LOCKED(tulip_lock(self->loop));
    size_t high = TULIP_TLS_READ_HIGH_WATER, low = TULIP_TLS_READ_HIGH_WATER / 4;
    if (!tulip_tls_check_thread(self)
        || (!is_empty(args, kwds)
            && !tulip_parse_limits(args, kwds, &high, &low))) {
        return NULL;
    }
    self->read_high = high;
    self->read_low = low;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(get_read_limits_doc,
"get_read_buffer_limits($self, /)\n--\n\n"
"What set_read_buffer_limits() was given, as (low, high).");

static PyObject *
get_read_limits(TulipTLS *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(tulip_lock(self->loop));
    return Py_BuildValue("nn", (Py_ssize_t)self->read_low,
                         (Py_ssize_t)self->read_high);
}

PyDoc_STRVAR(get_read_size_doc,
"get_read_buffer_size($self, /)\n--\n\n"
"How many bytes of ciphertext have come and wait to be decrypted.");

static PyObject *
get_read_size(TulipTLS *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(tulip_lock(self->loop));
    return PyLong_FromSize_t(self->engine != NULL ? uvt_tls_unread(self->engine) : 0);
}

PyDoc_STRVAR(take_pause_doc,
"_take_pause($self, /)\n--\n\n"
"The transport below has called the protocol's pause_writing(); from now on it is\n"
"for this one to call resume_writing().");

static PyObject *
take_pause(TulipTLS *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(tulip_lock(self->loop));
    self->flags |= TLS_WRITING_PAUSED;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(call_protocol_doc,
"_call_protocol($self, name, /)\n--\n\n"
"Call a method of the protocol without arguments, in the transport's context.");

static PyObject *
call_protocol(TulipTLS *self, PyObject *name)
{
    UVT_LOCKED(tulip_lock(self->loop));
    if (self->protocol == NULL) {
        Py_RETURN_NONE;
    }
    return tulip_tls_call(self, name, NULL);
}

PyMethodDef tulip_tls_flow_methods[] = {
    {"_take_pause", (PyCFunction)take_pause, METH_NOARGS, take_pause_doc},
    {"set_read_buffer_limits", (PyCFunction)(void (*)(void))set_read_limits,
     METH_VARARGS | METH_KEYWORDS, set_read_limits_doc},
    {"get_read_buffer_limits", (PyCFunction)get_read_limits, METH_NOARGS,
     get_read_limits_doc},
    {"get_read_buffer_size", (PyCFunction)get_read_size, METH_NOARGS,
     get_read_size_doc},
    {"_call_protocol", (PyCFunction)call_protocol, METH_O, call_protocol_doc},
    {"set_write_buffer_limits", (PyCFunction)(void (*)(void))set_limits,
     METH_VARARGS | METH_KEYWORDS, set_limits_doc},
    {"get_write_buffer_limits", (PyCFunction)get_limits, METH_NOARGS,
     get_limits_doc},
    {"get_write_buffer_size", (PyCFunction)get_size, METH_NOARGS, get_size_doc},
    {NULL},
};
