/* Running and stopping the loop, and where exceptions go that nobody can catch.
 * All functions run attached, on the loop's thread; only stop() may come from
 * any.  The loop is kept by the caller of _run().
 *
 * A turn: poll (waiting only if nothing is ready), timers that are due join the
 * ready ring, then what is ready is called.  While callbacks make new ones ready,
 * batches of them follow each other, and between them the loop looks whether a poll
 * would find something, which begins the next turn:
 * - after the first batch, then after two more, four more, and so on up to
 *   MAX_DISTANCE, as long as nothing is found;
 * - after a batch that took twice as long as the ones before it, since it has most
 *   likely done something that the loop cannot see: a system call that has made
 *   another descriptor of this program ready;
 * - after any batch that took LONG_BATCH times as long as a look.
 * A look at each would cost a chain of callbacks or a task switch half of its speed.
 * It needs none for calls from other threads, which are seen after each batch, and
 * for a timer that is due when it is set: that comes with the next batch.
 */
#include "clock.h"
#include "stream.h"
#include <time.h>

#define MAX_DISTANCE 64
#define LONG_BATCH 8
/* Without a poll libuv's clock stands still. */
#define TURN_NS 1000000

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
    return tulip_ring_length(&self->ready) > 0 || self->accepted_waiting > 0;
}

static int
run_first(TulipLoop *self, size_t count)
{
    if (tulip_loop_run_ready(self, count) < 0) {
        return -1;
    }
    if (self->accepted_waiting > 0 && self->raised == NULL && !self->stopping) {
        tulip_accepted_begin(self);
    }
    return raise_kept(self) < 0 || !tulip_loop_check_fork(self) ? -1 : 0;
}

/* A clock in units of its own, a tenth as expensive as the one in nanoseconds. */
static inline uint64_t
read_ticks(void)
{
#if defined(__x86_64__) || defined(__i386__)
    return __builtin_ia32_rdtsc();
#elif defined(__aarch64__)
    uint64_t ticks;
    __asm__ volatile("mrs %0, cntvct_el0" : "=r"(ticks));
    return ticks;
#else
    return (uint64_t)tulip_now();
#endif
}

/* Whether a batch of callbacks took longer than those before it.  What is usual
 * follows quickly upwards, so that it is the new ones that are usual soon. */
static inline bool
was_long(TulipLoop *self, uint64_t took)
{
    uint64_t usual = self->usual_batch;
    if (took > 2 * usual) {
        self->usual_batch += usual / 16 + 1;
        return true;
    }
    self->usual_batch += took / 8;
    self->usual_batch -= usual / 8;
    return took > LONG_BATCH * self->usual_look;
}

/* 1: a poll is due, 0: it would find nothing, -1 with an exception. */
static int
look(TulipLoop *self, int64_t *turn_began)
{
    uint64_t begin = read_ticks(), took;
    int64_t now = tulip_now();
    if (*turn_began == 0) {
        *turn_began = now;
    }
    if (now - *turn_began > TURN_NS
        || self->st->uv->loop_has_work(self->uv_loop, now)) {
        return 1;
    }
    took = read_ticks() - begin;
    self->usual_look += took / 8;
    self->usual_look -= self->usual_look / 8;
    return !self->other_time && tulip_timers_first(&self->timers) <= now
        ? tulip_loop_move_due(self) : 0;
}

/* What else is to be called with the next batch. */
static int
collect(TulipLoop *self)
{
    if (tulip_loop_was_called(self) && tulip_loop_take_inbox(self) < 0) {
        return -1;
    }
    return self->timer_due || self->other_time ? tulip_loop_move_due(self) : 0;
}

/* Calls what is ready, and what becomes ready by that, until a poll is due.
 * Returns whether there was more than one batch, or -1 with an exception. */
static int
run_batches(TulipLoop *self)
{
    unsigned distance = 1, batches = 0;
    int64_t turn_began = 0;
    uint64_t begin = 0, end;
    int due = 0, more = 0;
    while (has_ready(self)) {
        bool long_one;
        if (run_first(self, tulip_ring_length(&self->ready)) < 0
            || (!self->stopping && collect(self) < 0)) {
            return -1;
        }
        if (self->stopping || !has_ready(self)) {
            break;
        }
        end = read_ticks();
        long_one = begin != 0 && was_long(self, end - begin);
        begin = end;
        if (self->no_poll) {
            self->no_poll = false;
        }
        else if (++batches >= distance || long_one) {
            due = look(self, &turn_began);
            if (due != 0) {
                return due < 0 ? -1 : 1;
            }
            distance *= batches >= distance && distance < MAX_DISTANCE ? 2 : 1;
            batches = 0;
            begin = read_ticks();
        }
        more = 1;
    }
    return more;
}

/* 1: go on, 0: stopped, -1 with an exception. */
static int
turn(TulipLoop *self)
{
    uv_run_mode mode = UV_RUN_NOWAIT;
    int batches;

    if (self->no_poll) {
        self->no_poll = false;
        if (run_first(self, tulip_ring_length(&self->ready)) < 0) {
            return -1;
        }
        if (self->stopping) {
            return 0;
        }
    }
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
    return batches > 0 ? poll(self, UV_RUN_NOWAIT) : 0;
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
    tulip_clock_look(self);
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
