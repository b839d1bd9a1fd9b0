/* Flow control of writing: the water marks, and pause_writing() and
 * resume_writing() of the protocol.  All functions run on the loop's thread,
 * attached.  Callers own a reference to the transport: both calls may close it.
 */
#include "stream.h"

size_t
tulip_stream_high(const TulipStream *self)
{
    return self->rare == NULL ? TULIP_HIGH_WATER : self->rare->high;
}

static size_t
low_water(const TulipStream *self)
{
    return self->rare == NULL ? TULIP_HIGH_WATER / 4 : self->rare->low;
}

size_t
tulip_stream_buffered(const TulipStream *self)
{
    size_t size = self->queued;
    if (self->sending != NULL && self->uv != NULL) {
        size += uv_stream_get_write_queue_size(self->uv) + self->sending->rest;
    }
    return size;
}

static void
finish_call(TulipStream *self, PyObject *result, const char *message)
{
    if (result == NULL) {
        tulip_loop_report(self->loop, message, (PyObject *)self, self->protocol,
                          NULL);
    }
    else {
        Py_DECREF(result);
    }
}

void
tulip_stream_maybe_pause(TulipStream *self)
{
    if (!(self->flags & (TULIP_WRITING_PAUSED | TULIP_LOST))
        && self->protocol != NULL
        && tulip_stream_buffered(self) > tulip_stream_high(self)) {
        self->flags |= TULIP_WRITING_PAUSED;
        finish_call(self,
                    tulip_stream_call(self, self->loop->st->str_pause_writing,
                                      NULL),
                    "protocol.pause_writing() failed");
    }
}

void
tulip_stream_maybe_resume(TulipStream *self)
{
    if ((self->flags & TULIP_WRITING_PAUSED) && self->protocol != NULL
        && tulip_stream_buffered(self) <= low_water(self)) {
        self->flags &= ~(unsigned)TULIP_WRITING_PAUSED;
        finish_call(self,
                    tulip_stream_call(self, self->loop->st->str_resume_writing,
                                      NULL),
                    "protocol.resume_writing() failed");
    }
}

/* None: 0 and *given false.  Too large a number is as good as no limit. */
static bool
parse_limit(PyObject *arg, Py_ssize_t *value, bool *given)
{
    PyObject *index;
    *given = arg != NULL && arg != Py_None;
    *value = 0;
    if (!*given) {
        return true;
    }
    index = PyNumber_Index(arg);
    if (index == NULL) {
        return false;
    }
    *value = PyNumber_AsSsize_t(index, NULL);   /* clips */
    Py_DECREF(index);
    return *value != -1 || !PyErr_Occurred();
}

bool
tulip_parse_limits(PyObject *args, PyObject *kwds, size_t *high_out,
                   size_t *low_out)
{
    static char *names[] = {"high", "low", NULL};
    PyObject *high_arg = NULL, *low_arg = NULL;
    Py_ssize_t high, low;
    bool has_high, has_low;

    if (!PyArg_ParseTupleAndKeywords(args, kwds, "|OO:set_write_buffer_limits",
                                     names, &high_arg, &low_arg)
        || !parse_limit(high_arg, &high, &has_high)
        || !parse_limit(low_arg, &low, &has_low)) {
        return false;
    }
    if (!has_high) {
        if (!has_low) {
            high = (Py_ssize_t)TULIP_HIGH_WATER;
        }
        else {
            high = low > PY_SSIZE_T_MAX / 4 ? PY_SSIZE_T_MAX : 4 * low;
        }
    }
    if (!has_low) {
        low = high / 4;
    }
    if (low < 0 || high < low) {
        PyErr_Format(PyExc_ValueError,
                     "high (%zd) must be >= low (%zd) must be >= 0", high, low);
        return false;
    }
    *high_out = (size_t)high;
    *low_out = (size_t)low;
    return true;
}

const char tulip_set_limits_doc[] =
"set_write_buffer_limits($self, high=None, low=None)\n--\n\n"
"Call pause_writing() when more than `high` bytes wait to be sent, and\n"
"resume_writing() when there are `low` or less.  Default: 64 KiB, a quarter of\n"
"high.\n\n"
"Raises TypeError, and ValueError unless high >= low >= 0.";

static PyObject *
set_limits(TulipStream *self, PyObject *args, PyObject *kwds)
{
    UVT_LOCKED(self->loop->lock);
    TulipRare *rare = tulip_stream_rare(self);
    if (rare == NULL
        || !tulip_parse_limits(args, kwds, &rare->high, &rare->low)) {
        return NULL;
    }
    if (tulip_stream_on_thread(self)) {
        /* What is left then waits for the kernel, which ends in a look whether to
         * resume; in another thread, what is queued would be sent without one. */
        if (self->queued > rare->high) {
            tulip_stream_flush(self);
        }
        tulip_stream_maybe_pause(self);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(get_limits_doc,
"get_write_buffer_limits($self, /)\n--\n\nThe limits as (low, high).");

static PyObject *
get_limits(TulipStream *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(self->loop->lock);
    return Py_BuildValue("nn", (Py_ssize_t)low_water(self),
                         (Py_ssize_t)tulip_stream_high(self));
}

PyDoc_STRVAR(get_size_doc,
"get_write_buffer_size($self, /)\n--\n\n"
"How many bytes the kernel has not taken yet; what it takes now is sent first.");

static PyObject *
get_size(TulipStream *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(self->loop->lock);
    if (self->queued > 0 && tulip_stream_on_thread(self)) {
        tulip_stream_flush(self);
    }
    return PyLong_FromSize_t(tulip_stream_buffered(self));
}

PyObject *
tulip_stream_get_paused(TulipStream *self, void *Py_UNUSED(closure))
{
    UVT_LOCKED(self->loop->lock);
    return PyBool_FromLong(self->flags & TULIP_WRITING_PAUSED);
}

PyDoc_STRVAR(call_protocol_doc,
"_call_protocol($self, name, /)\n--\n\n"
"Call a method of the protocol without arguments, in the transport's context.");

static PyObject *
call_protocol(TulipStream *self, PyObject *name)
{
    UVT_LOCKED(self->loop->lock);
    if (self->protocol == NULL) {
        Py_RETURN_NONE;
    }
    return tulip_stream_call(self, name, NULL);
}

PyMethodDef tulip_flow_methods[] = {
    {"_call_protocol", (PyCFunction)call_protocol, METH_O, call_protocol_doc},
    {"set_write_buffer_limits", (PyCFunction)(void (*)(void))set_limits,
     METH_VARARGS | METH_KEYWORDS, tulip_set_limits_doc},
    {"get_write_buffer_limits", (PyCFunction)get_limits, METH_NOARGS,
     get_limits_doc},
    {"get_write_buffer_size", (PyCFunction)get_size, METH_NOARGS, get_size_doc},
    {NULL},
};
