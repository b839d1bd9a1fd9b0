/* Running and stopping the loop, and where exceptions go that nobody can catch.
 * All functions run attached, on the loop's thread; only stop() may come from
 * any.  The loop is kept by the caller of _run().
 *
 * A turn: poll (waiting only if nothing is ready), timers that are due join the
 * ready ring, then what is ready is called.  While callbacks make new ones
 * ready, several batches of them follow one poll, for at most some 50 us;
 * without this, a chain of callbacks or a task switch would cost a poll each.
 */
#include "eventloop.h"
#include "stream.h"
#include <time.h>

/* How many batches may follow one poll.  The clock is read after the first,
 * second, fourth, eighth, ... so that short batches don't pay for it; a poll
 * costs about as much as eight short callbacks. */
#define MAX_BATCHES 64
#define BATCHES_NS 50000

int64_t
tulip_now(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* ---- exceptions ---- */

void
tulip_loop_raise_later(TulipLoop *self)
{
    PyObject *exc = PyErr_GetRaisedException();
    if (self->raised == NULL) {
        self->raised = exc;
    }
    else {
        /* Two in one turn: the second one is not lost without a trace. */
        PyErr_SetRaisedException(exc);
        PyErr_WriteUnraisable((PyObject *)self);
    }
}

int
tulip_loop_report_context(TulipLoop *self, PyObject *context)
{
    PyObject *result = PyObject_CallMethodOneArg(
        (PyObject *)self, self->st->str_call_exception_handler, context);
    Py_XDECREF(result);
    return result != NULL ? 0 : -1;
}

/* dict[name] = value unless that is NULL. */
static int
set_item(PyObject *dict, const char *name, void *value)
{
    return value != NULL ? PyDict_SetItemString(dict, name, value) : 0;
}

void
tulip_loop_report(TulipLoop *self, const char *message, PyObject *transport,
                  PyObject *protocol, TulipCallback *handle)
{
    PyObject *exc, *context;
    if (PyErr_ExceptionMatches(PyExc_KeyboardInterrupt)
        || PyErr_ExceptionMatches(PyExc_SystemExit)) {
        tulip_loop_raise_later(self);
        return;
    }
    exc = PyErr_GetRaisedException();
    context = Py_BuildValue("{s:s,s:O}", "message", message, "exception", exc);
    if (context == NULL || set_item(context, "transport", transport) < 0
        || set_item(context, "protocol", protocol) < 0
        || set_item(context, "handle", handle) < 0
        || tulip_loop_report_context(self, context) < 0) {
        tulip_loop_raise_later(self);
    }
    Py_XDECREF(context);
    Py_DECREF(exc);
}

/* Raises what was kept; 0 if there was nothing. */
static int
raise_kept(TulipLoop *self)
{
    PyObject *exc = self->raised;
    if (exc == NULL) {
        return 0;
    }
    self->raised = NULL;
    PyErr_SetRaisedException(exc);
    return -1;
}

/* ---- a turn ---- */

static int
poll(TulipLoop *self, uv_run_mode mode)
{
    int rc;
    self->turns++;
    rc = self->st->uv->loop_turn(self->uv_loop, mode);
    tulip_loop_end_poll(self);
    if (tulip_loop_has_unsent(self)) {
        PyObject *exc = rc < 0 ? PyErr_GetRaisedException() : NULL;
        tulip_flush_dirty(self);
        if (exc != NULL) {
            PyErr_SetRaisedException(exc);
        }
    }
    if (self->forked && self->raised != NULL) {
        PyErr_Clear();      /* goes before the error that names the fork */
        rc = 0;
    }
    return rc < 0 ? -1 : raise_kept(self);
}

static bool
has_ready(const TulipLoop *self)
{
    return tulip_ring_length(&self->ready) > 0;
}

static int
run_first(TulipLoop *self, size_t count)
{
    return tulip_loop_run_ready(self, count) < 0 || raise_kept(self) < 0
        || !tulip_loop_check_fork(self) ? -1 : 0;
}

/* Calls what is ready, and some of what becomes ready by that.  Returns the
 * number of batches, or -1 with an exception. */
static int
run_batches(TulipLoop *self)
{
    int64_t begin = 0;
    int batches = 0;
    while (has_ready(self) && batches < MAX_BATCHES) {
        if (run_first(self, tulip_ring_length(&self->ready)) < 0) {
            return -1;
        }
        batches++;
        if (self->stopping || !has_ready(self)) {
            break;
        }
        if (batches == 1) {
            begin = tulip_now();
        }
        else if ((batches & (batches - 1)) == 0
                 && tulip_now() - begin > BATCHES_NS) {
            break;
        }
    }
    return batches;
}

/* 1: go on, 0: stopped, -1 with an exception. */
static int
turn(TulipLoop *self)
{
    uv_run_mode mode = UV_RUN_NOWAIT;
    int batches;

    if (!has_ready(self) && !self->stopping) {
        int due = tulip_loop_arm(self);
        if (due < 0 || tulip_loop_ref_wakeup(self) < 0) {
            return -1;
        }
        mode = due ? UV_RUN_NOWAIT : UV_RUN_ONCE;
    }
    if (poll(self, mode) < 0 || tulip_loop_take_inbox(self) < 0
        || tulip_loop_move_due(self) < 0) {
        return -1;
    }
    batches = run_batches(self);
    if (batches < 0) {
        return -1;
    }
    if (!self->stopping) {
        return 1;
    }
    /* The batch that stopped the loop was to come after a poll. */
    return batches > 1 ? poll(self, UV_RUN_NOWAIT) : 0;
}

/* Of a run: what was ready before it, the first step of its task above all, comes
 * before what the poll finds.  When that stops the loop, the turn ends with what the
 * poll and the clock have made ready, and what the batch has is left.  As turn(). */
static int
first_turn(TulipLoop *self)
{
    size_t later;
    if (self->stopping || !has_ready(self)) {
        return turn(self);
    }
    if (run_first(self, tulip_ring_length(&self->ready)) < 0) {
        return -1;
    }
    if (!self->stopping) {
        return 1;
    }
    later = tulip_ring_length(&self->ready);
    if (poll(self, UV_RUN_NOWAIT) < 0 || tulip_loop_take_inbox(self) < 0
        || tulip_loop_move_due(self) < 0) {
        return -1;
    }
    tulip_ring_rotate(&self->ready, later);
    return run_first(self, tulip_ring_length(&self->ready) - later);
}

PyObject *
tulip_loop_run(TulipLoop *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(self->lock);
    const UvtCAPI *api = self->st->uv;
    int rc;

    if (!tulip_loop_check_open(self)) {
        return NULL;
    }
    if (self->thread_id != 0) {
        PyErr_SetString(PyExc_RuntimeError,
                        "This event loop is already running");
        return NULL;
    }
    if (api->loop_run_begin(self->uv_loop) < 0) {
        return NULL;
    }
    if (tulip_loop_ref_wakeup(self) < 0) {
        api->loop_run_end(self->uv_loop);
        return NULL;
    }
    self->thread_id = PyThread_get_thread_ident();
    for (rc = first_turn(self); rc > 0; rc = turn(self)) {
        continue;
    }
    tulip_loop_unref_wakeup(self);
    self->stopping = false;
    self->thread_id = 0;
    tulip_loop_track_ready(self);
    tulip_timers_track(&self->timers);
    api->loop_run_end(self->uv_loop);
    if (rc < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyObject *
tulip_loop_stop(TulipLoop *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(self->lock);
    self->stopping = true;
    tulip_loop_wake(self);
    Py_RETURN_NONE;
}
