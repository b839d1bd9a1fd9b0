/* What the loop tells about itself; python/uvtulip/metrics.py makes it readable.
 * All functions run attached, on the loop's thread but for the reading, which is
 * allowed on any: numbers of a moment may then be of two moments.
 *
 * Nothing is counted twice: turns and times are those of the raw loop, and the
 * ring of ready callbacks knows how many it has given out.
 */
#include "eventloop.h"

UVT_NEW static PyObject *
name_of(PyObject *callable)
{
    PyObject *module = PyImport_ImportModule("uvtulip.metrics");
    PyObject *name = NULL;
    if (module != NULL) {
        name = PyObject_CallMethod(module, "callback_name", "O", callable);
        Py_DECREF(module);
    }
    return name;
}

/* Keeps its name only, as it may be the last to hold much else. */
void
tulip_loop_note_slow(TulipLoop *self, PyObject *callable, int64_t took)
{
    PyObject *exc = PyErr_GetRaisedException(), *name = NULL;
    self->slowest = took;
    if (callable != NULL) {
        name = name_of(callable);
    }
    if (name == NULL) {
        PyErr_Clear();      /* a repr that raises */
    }
    Py_XSETREF(self->slowest_name, name);
    if (exc != NULL) {
        PyErr_SetRaisedException(exc);
    }
}

/* The loop's I/O events, and how many of them had to wait; NULL with an exception,
 * None where libuv does not count them. */
static PyObject *
events(TulipLoop *self, bool waiting)
{
#if UV_VERSION_HEX >= 0x012D00
    uv_metrics_t info;
    if (self->uv != NULL && uv_metrics_info(self->uv, &info) == 0) {
        return PyLong_FromUnsignedLongLong(waiting ? info.events_waiting
                                                   : info.events);
    }
#endif
    Py_RETURN_NONE;
}

static PyObject *
slowest_time(TulipLoop *self)
{
    if (self->slowest == 0) {
        Py_RETURN_NONE;
    }
    return PyFloat_FromDouble((double)self->slowest / 1e9);
}

PyDoc_STRVAR(metrics_doc,
"_metrics($self, /)\n--\n\n"
"The fields of a LoopMetrics.");

/* Py_BuildValue takes over what "N" stands for, also when another part fails. */
static PyObject *
loop_metrics(TulipLoop *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(self->lock);
    UvtLoopMetrics raw;
    self->st->uv->loop_metrics(self->uv_loop, &raw);
    return Py_BuildValue(
        "(dddKKnnnNNNO)", (double)raw.run_ms / 1e3, (double)raw.idle_ms / 1e3,
        (double)raw.longest_ms / 1e3, (unsigned long long)raw.turns,
        (unsigned long long)(self->ready.taken + self->ready.head),
        (Py_ssize_t)tulip_ring_length(&self->ready), (Py_ssize_t)self->most_ready,
        self->timers.count, events(self, false), events(self, true),
        slowest_time(self),
        self->slowest_name != NULL ? self->slowest_name : Py_None);
}

PyDoc_STRVAR(time_callbacks_doc,
"time_callbacks($self, enabled, /)\n--\n\n"
"Time each callback, so that metrics() knows the slowest: two looks at the clock\n"
"for each.  Debug mode does it anyway.  Switching it on forgets the slowest one.");

static PyObject *
loop_time_callbacks(TulipLoop *self, PyObject *enabled)
{
    UVT_LOCKED(self->lock);
    int timing = PyObject_IsTrue(enabled);
    if (timing < 0) {
        return NULL;
    }
    self->timing = timing != 0;
    self->watched = self->debug || self->timing;
    if (timing) {
        self->slowest = 0;
        Py_CLEAR(self->slowest_name);
    }
    Py_RETURN_NONE;
}

PyMethodDef tulip_metrics_methods[] = {
    {"_metrics", (PyCFunction)loop_metrics, METH_NOARGS, metrics_doc},
    {"time_callbacks", (PyCFunction)loop_time_callbacks, METH_O,
     time_callbacks_doc},
    {NULL},
};
