/* The heap of timers, call_later() and call_at(), and the uv timer that ends a
 * poll when the first of them is due.  All functions run attached, on the
 * loop's thread.  The heap owns a reference to each handle in it.
 *
 * libuv counts whole milliseconds; deadlines here are nanoseconds of the same
 * clock.  The uv timer is set for the first millisecond that is not before the
 * deadline, so nothing is called early.  It is only touched before a poll that
 * may block, and only when it would come too late: one that comes too early,
 * as its handle was cancelled, costs one empty turn.
 */
#include "timers.h"
#include "clock.h"

#define FIRST_CAPACITY 64
#define FANOUT 4        /* 16 bytes each: children share a cache line or two */
#define LONGEST_NS (24 * 3600 * INT64_C(1000000000))    /* one wait, as asyncio's */

/* ---- the heap ---- */

static inline bool
before(const TulipTimerItem *a, const TulipTimerItem *b)
{
    return a->deadline < b->deadline
        || (a->deadline == b->deadline && a->timer->sequence < b->timer->sequence);
}

static inline void
place(TulipTimers *self, Py_ssize_t index, TulipTimerItem item)
{
    self->items[index] = item;
    item.timer->heap_index = index;
}

/* Puts the item where the hole at index belongs to, upwards. */
static void
sift_up(TulipTimers *self, Py_ssize_t index, TulipTimerItem item)
{
    while (index > 0) {
        Py_ssize_t parent = (index - 1) / FANOUT;
        if (!before(&item, &self->items[parent])) {
            break;
        }
        place(self, index, self->items[parent]);
        index = parent;
    }
    place(self, index, item);
}

static void
sift_down(TulipTimers *self, Py_ssize_t index, TulipTimerItem item)
{
    for (;;) {
        Py_ssize_t child = index * FANOUT + 1, least = child, end;
        if (child >= self->count) {
            break;
        }
        end = Py_MIN(child + FANOUT, self->count);
        while (++child < end) {
            if (before(&self->items[child], &self->items[least])) {
                least = child;
            }
        }
        if (!before(&self->items[least], &item)) {
            break;
        }
        place(self, index, self->items[least]);
        index = least;
    }
    place(self, index, item);
}

static int
resize(TulipTimers *self, Py_ssize_t capacity)
{
    TulipTimerItem *items = self->items;
    PyMem_Resize(items, TulipTimerItem, capacity);
    if (items == NULL) {
        return -1;
    }
    self->items = items;
    self->capacity = capacity;
    return 0;
}

int
tulip_timers_push(TulipTimers *self, TulipCallback *timer, int64_t deadline)
{
    TulipTimerItem item = {deadline, (TulipCallback *)Py_NewRef(timer)};
    if (self->count == self->capacity
        && resize(self, self->capacity == 0 ? FIRST_CAPACITY
                                            : self->capacity * 2) < 0) {
        Py_DECREF(timer);
        PyErr_NoMemory();
        return -1;
    }
    timer->sequence = self->sequence++;
    atomic_store_explicit(&timer->scheduled, true, memory_order_relaxed);
    sift_up(self, self->count++, item);
    return 0;
}

/* Takes an item out; its reference goes to the caller. */
static void
take_out(TulipTimers *self, Py_ssize_t index)
{
    TulipTimerItem last = self->items[--self->count];
    atomic_store_explicit(&self->items[index].timer->scheduled, false,
                          memory_order_relaxed);
    if (index < self->count) {
        if (index > 0 && before(&last, &self->items[(index - 1) / FANOUT])) {
            sift_up(self, index, last);
        }
        else {
            sift_down(self, index, last);
        }
    }
    if (self->count < self->capacity / 8 && self->capacity > FIRST_CAPACITY) {
        (void)resize(self, self->capacity / 2);
    }
}

void
tulip_timers_remove(TulipTimers *self, TulipCallback *timer)
{
    take_out(self, timer->heap_index);
    tulip_callback_track(timer);
    Py_DECREF(timer);
}

TulipCallback *
tulip_timers_pop_due(TulipTimers *self, int64_t now)
{
    TulipCallback *timer;
    if (tulip_timers_first(self) > now || self->count == 0) {
        return NULL;
    }
    timer = self->items[0].timer;
    take_out(self, 0);
    return timer;
}

int
tulip_timers_traverse(TulipTimers *self, visitproc visit, void *arg)
{
    for (Py_ssize_t i = 0; i < self->count; i++) {
        Py_VISIT(self->items[i].timer);
    }
    return 0;
}

/* Dropping a handle can run any code, which finds an empty heap. */
void
tulip_timers_clear(TulipTimers *self)
{
    TulipTimers old = *self;
    *self = (TulipTimers){.sequence = old.sequence};
    for (Py_ssize_t i = 0; i < old.count; i++) {
        old.items[i].timer->scheduled = false;
    }
    for (Py_ssize_t i = 0; i < old.count; i++) {
        Py_DECREF(old.items[i].timer);
    }
    PyMem_Free(old.items);
}

void
tulip_timers_track(TulipTimers *self)
{
    if (!self->untracked) {
        return;
    }
    self->untracked = false;
    for (Py_ssize_t i = 0; i < self->count; i++) {
        tulip_callback_track(self->items[i].timer);
    }
}

/* ---- the uv timer ---- */

/* With libuv before 1.45 this may come right before a poll, which then must
 * not block. */
static void
on_deadline(PyObject *owner)
{
    TulipLoop *self = (TulipLoop *)owner;
    self->armed = TULIP_NEVER;
    self->due = true;
}

/* By somebody who found it among the raw loop's handles. */
static void
on_deadline_closed(PyObject *owner)
{
    TulipLoop *self = (TulipLoop *)owner;
    self->armed = TULIP_NEVER;
    Py_CLEAR(self->deadline);
}

static const UvtConsumer deadline_consumer = {
    .fired = on_deadline,
    .closed = on_deadline_closed,
};

static int
open_deadline(TulipLoop *self)
{
    const UvtCAPI *api = self->st->uv;
    PyObject *timer = api->timer_new(self->uv_loop);
    uv_handle_t *uv;
    if (timer == NULL) {
        return -1;
    }
    uv = api->handle_uv(timer, UV_TIMER);
    if (uv == NULL
        || api->consume(timer, &deadline_consumer, (PyObject *)self) < 0) {
        Py_DECREF(timer);
        return -1;
    }
    uv_unref(uv);
    self->deadline = timer;
    return 0;
}

/* What time() says may change before that. */
static int64_t
on_our_clock(int64_t deadline, int64_t now)
{
    uint64_t wait = (uint64_t)deadline - (uint64_t)now;
    return tulip_now() + (int64_t)Py_MIN(wait, (uint64_t)LONGEST_NS);
}

int
tulip_loop_arm(TulipLoop *self)
{
    int64_t first = tulip_timers_first(&self->timers), now;
    uint64_t due_ms, now_ms;
    int rc;

    if (first >= self->armed) {
        return 0;
    }
    if (tulip_loop_now(self, &now) < 0) {
        return -1;
    }
    first = tulip_timers_first(&self->timers);
    if (first <= now) {
        return 1;
    }
    if (self->other_time) {
        first = on_our_clock(first, now);
    }
    if (self->deadline == NULL && open_deadline(self) < 0) {
        return -1;
    }
    due_ms = (uint64_t)first / 1000000 + ((uint64_t)first % 1000000 != 0);
    now_ms = uv_now(self->uv);
    rc = self->st->uv->timer_start(self->deadline,
                                   due_ms > now_ms ? due_ms - now_ms : 0, 0);
    if (rc == UV_EINVAL) {
        return 1;       /* It is being closed: after this poll there is another. */
    }
    if (rc < 0) {
        PyObject *exc = self->st->uv->oserror(rc, "uv_timer_start");
        if (exc != NULL) {
            PyErr_SetObject((PyObject *)Py_TYPE(exc), exc);
            Py_DECREF(exc);
        }
        return -1;
    }
    self->armed = self->other_time ? TULIP_NEVER : first;
    return 0;
}

int
tulip_loop_move_due(TulipLoop *self)
{
    TulipCallback *timer;
    int64_t now;
    self->timer_due = false;
    if (self->timers.count == 0) {
        return 0;
    }
    if (tulip_loop_now(self, &now) < 0) {
        return -1;
    }
    while ((timer = tulip_timers_pop_due(&self->timers, now)) != NULL) {
        if (tulip_ring_push(&self->ready, timer) < 0) {
            Py_DECREF(timer);
            return -1;
        }
    }
    return 0;
}

/* ---- methods ---- */

/* A timer that is due already comes with what is ready then, without a poll. */
static TulipCallback *
push(TulipLoop *self, UVT_STEALS(2) TulipCallback *timer, double when, int64_t now)
{
    int64_t deadline;
    if (timer == NULL || !tulip_to_ns(when, &deadline)) {
        Py_XDECREF(timer);
        return NULL;
    }
    timer->when = when;
    if (self->thread_id == 0) {
        tulip_callback_track(timer);
    }
    else {
        self->timers.untracked = true;
    }
    if (tulip_timers_push(&self->timers, timer, deadline) < 0) {
        Py_DECREF(timer);
        return NULL;
    }
    if (deadline <= now) {
        self->timer_due = true;
    }
    tulip_loop_wake_if_polling(self);
    return timer;
}

static PyObject *
schedule(TulipLoop *self, const TulipCall *call, double when, int64_t now)
{
    return (PyObject *)push(
        self, tulip_callback_new(self, call->callable, call->args, call->nargs,
                                 call->context, true), when, now);
}

TulipCallback *
tulip_loop_call_later_c(TulipLoop *self, double delay, TulipCFunction function,
                        PyObject *owner)
{
    int64_t now;
    if (!tulip_loop_check_open(self) || tulip_loop_now(self, &now) < 0) {
        return NULL;
    }
    return push(self, tulip_callback_new_c(self, function, owner, NULL, true),
                (double)now / 1e9 + delay, now);
}

PyObject *
tulip_loop_py_call_later(TulipLoop *self, PyObject *const *args,
                         Py_ssize_t nargs, PyObject *kwnames)
{
    UVT_LOCKED(self->lock);
    TulipCall call;
    double delay;
    int64_t now;
    if (!tulip_bind(self, "call_later", "delay", args, nargs, kwnames, &call)) {
        return NULL;
    }
    if (call.first == Py_None) {
        PyErr_SetString(PyExc_TypeError, "delay must not be None");
        return NULL;
    }
    delay = PyFloat_AsDouble(call.first);
    if ((delay == -1.0 && PyErr_Occurred())
        || !tulip_loop_check_call(self, "call_later", call.callable, true)
        || tulip_loop_now(self, &now) < 0) {
        return NULL;
    }
    return schedule(self, &call, (double)now / 1e9 + delay, now);
}

PyObject *
tulip_loop_py_call_at(TulipLoop *self, PyObject *const *args, Py_ssize_t nargs,
                      PyObject *kwnames)
{
    UVT_LOCKED(self->lock);
    TulipCall call;
    PyObject *timer;
    double when;
    int64_t now;
    if (!tulip_bind(self, "call_at", "when", args, nargs, kwnames, &call)) {
        return NULL;
    }
    if (call.first == Py_None) {
        PyErr_SetString(PyExc_TypeError, "when cannot be None");
        return NULL;
    }
    when = PyFloat_AsDouble(call.first);
    if ((when == -1.0 && PyErr_Occurred())
        || !tulip_loop_check_call(self, "call_at", call.callable, true)) {
        return NULL;
    }
    /* Another time() is asked after each batch of callbacks. */
    now = self->other_time ? INT64_MIN : tulip_now();
    timer = schedule(self, &call, when, now);
    if (timer != NULL && !PyFloat_CheckExact(call.first)) {
        ((TulipCallback *)timer)->TULIP_GIVEN_WHEN = Py_NewRef(call.first);
    }
    return timer;
}
