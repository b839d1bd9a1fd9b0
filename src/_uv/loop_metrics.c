/* What a loop counts about itself, always: it costs a few instructions in a turn
 * and reads no clock but libuv's own, once at the begin and the end of a run.
 * The counters belong to the loop's thread; the methods run attached.
 */
#include "errors.h"
#include "loop.h"

/* ---- counting ---- */

void
uvt_metrics_begin(UvtLoop *self)
{
    uv_update_time(&self->core->uv);
    self->run_began = self->turn_began = uv_now(&self->core->uv);
}

void
uvt_metrics_end(UvtLoop *self)
{
    uint64_t now;
    if (self->core == NULL) {
        return;
    }
    uv_update_time(&self->core->uv);
    now = uv_now(&self->core->uv);
    self->metrics.run_ms += now - self->run_began;
    if (now - self->turn_began > self->metrics.longest_ms) {
        self->metrics.longest_ms = now - self->turn_began;
    }
    self->run_began = 0;
}

void
uvt_loop_read_metrics(UvtLoop *self, UvtLoopMetrics *out)
{
    *out = self->metrics;
    if (self->core != NULL && self->run_began != 0) {
        out->run_ms += uv_hrtime() / 1000000 - self->run_began;
    }
}

/* ---- Loop.metrics() ---- */

static PyStructSequence_Field fields[] = {
    {"loop_count", "turns of the loop"},
    {"run_time", "seconds spent in run() (float)"},
    {"wait_time", "of these, seconds spent waiting for events (float)"},
    {"longest_turn", "the longest time between two polls, in seconds (float)"},
    {"idle_time", "nanoseconds that libuv has waited for events (int), or None: "
     "configure(UV_METRICS_IDLE_TIME) was not called"},
    {"events", "how many events there were (int); None before libuv 1.45"},
    {"events_waiting", "how many of them were there when a poll began (int); "
     "None before libuv 1.45"},
    {NULL},
};

static PyStructSequence_Desc desc = {
    "uvtulip._uv.LoopMetrics",
    "What a Loop has counted; see Loop.metrics().  The times but idle_time are sums "
    "of whole milliseconds.",
    fields, 7,
};

static PyObject *
idle_time(UvtLoop *self)
{
    if (!self->idle_time_metered) {
        Py_RETURN_NONE;
    }
    return PyLong_FromUnsignedLongLong(uv_metrics_idle_time(&self->core->uv));
}

static void
set_events(UvtLoop *self, PyObject *seq)
{
#if UV_VERSION_HEX >= 0x012D00
    uv_metrics_t info;
    if (uv_metrics_info(&self->core->uv, &info) == 0) {
        PyStructSequence_SetItem(seq, 5, PyLong_FromUnsignedLongLong(info.events));
        PyStructSequence_SetItem(
            seq, 6, PyLong_FromUnsignedLongLong(info.events_waiting));
        return;
    }
#endif
    PyStructSequence_SetItem(seq, 5, Py_NewRef(Py_None));
    PyStructSequence_SetItem(seq, 6, Py_NewRef(Py_None));
}

const char uvt_loop_metrics_doc[] =
"metrics($self, /)\n--\n\n"
"What the loop has counted so far: (loop_count, run_time, wait_time,\n"
"longest_turn, idle_time, events, events_waiting).  The difference of two calls\n"
"tells of the time between them.\n\n"
"Raises RuntimeError (closed; another thread runs the loop).";

PyObject *
uvt_loop_metrics(UvtLoop *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(self->lock);
    UvtLoopMetrics now;
    PyObject *seq;
    if (!uvt_loop_check(self)) {
        return NULL;
    }
    seq = PyStructSequence_New(self->st->seq[UVT_SEQ_METRICS]);
    if (seq == NULL) {
        return NULL;
    }
    uvt_loop_read_metrics(self, &now);
    PyStructSequence_SetItem(seq, 0, PyLong_FromUnsignedLongLong(now.turns));
    PyStructSequence_SetItem(seq, 1, PyFloat_FromDouble((double)now.run_ms / 1e3));
    PyStructSequence_SetItem(seq, 2, PyFloat_FromDouble((double)now.idle_ms / 1e3));
    PyStructSequence_SetItem(seq, 3,
                             PyFloat_FromDouble((double)now.longest_ms / 1e3));
    PyStructSequence_SetItem(seq, 4, idle_time(self));
    set_events(self, seq);
    return uvt_seq_done(seq, 7);
}

const char uvt_loop_metrics_idle_time_doc[] =
"metrics_idle_time($self, /)\n--\n\n"
"Nanoseconds (int) that the loop has spent waiting for events; 0 unless\n"
"configure(UV_METRICS_IDLE_TIME) was called.  Since libuv 1.39.";

PyObject *
uvt_loop_metrics_idle_time(UvtLoop *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(self->lock);
    if (!uvt_loop_check(self)) {
        return NULL;
    }
    return PyLong_FromUnsignedLongLong(uv_metrics_idle_time(&self->core->uv));
}

#if UV_VERSION_HEX >= 0x012D00
const char uvt_loop_metrics_info_doc[] =
"metrics_info($self, /)\n--\n\n"
"(loop_count, events, events_waiting), three ints.  Since libuv 1.45.";

PyObject *
uvt_loop_metrics_info(UvtLoop *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(self->lock);
    uv_metrics_t metrics;
    int rc;
    if (!uvt_loop_check(self)) {
        return NULL;
    }
    rc = uv_metrics_info(&self->core->uv, &metrics);
    if (rc < 0) {
        return uvt_raise(self->st, UVT_EXC_UV, rc, "uv_metrics_info");
    }
    return Py_BuildValue("(KKK)", (unsigned long long)metrics.loop_count,
                         (unsigned long long)metrics.events,
                         (unsigned long long)metrics.events_waiting);
}
#endif

int
uvt_loop_metrics_setup(PyObject *module, UvtState *st)
{
    return uvt_add_seq(module, st, UVT_SEQ_METRICS, &desc);
}
