/* call_soon_threadsafe(), and how a blocked poll is woken.  call_soon_threadsafe
 * and tulip_loop_wake() may be called on any attached thread, also by a signal
 * handler of Python; the rest runs on the loop's thread.  The loop owns the
 * Async that wakes it.
 *
 * A wake-up costs a system call, so it is only sent to a loop that may be
 * blocked: while `polling` is set.  With a GIL the order is:
 *   loop:   finds nothing ready, sets `polling`  |  gives the GIL up, blocks
 *   thread: puts the handle into the ready ring, looks at `polling`
 * Both steps of the loop before the bar are one, as are the thread's: whoever
 * has the GIL does all of his.  If the thread comes first, the loop finds the
 * handle and does not block.  If it comes second, it sees `polling`; the
 * wake-up is a byte in a descriptor that is watched, so it also ends a poll
 * that only begins after it.  The flag is cleared by the first sender, as one
 * wake-up is enough, and after the poll.
 * Without a GIL the two steps are made one by `inbox_lock`, and the handle goes
 * to the inbox, which the loop empties after each poll.  The lock also keeps
 * the Async open while it is used.
 */
#include "eventloop.h"

#ifdef Py_GIL_DISABLED
#define LOCK(loop) PyMutex_Lock(&(loop)->inbox_lock)
#define UNLOCK(loop) PyMutex_Unlock(&(loop)->inbox_lock)
#else
#define LOCK(loop) ((void)0)
#define UNLOCK(loop) ((void)0)
#endif

/* ---- waking ---- */

/* By somebody who found it among the raw loop's handles. */
static void
on_wakeup_closed(PyObject *owner)
{
    TulipLoop *self = (TulipLoop *)owner;
    LOCK(self);
    self->polling = false;
    self->wakeup_uv = NULL;
    UNLOCK(self);
    Py_CLEAR(self->wakeup);
}

static const UvtConsumer wakeup_consumer = {.closed = on_wakeup_closed};

/* Referenced only during a run: it must not keep the raw loop's run() from
 * returning. */
static int
open_wakeup(TulipLoop *self)
{
    const UvtCAPI *api = self->st->uv;
    PyObject *wakeup = api->async_new(self->uv_loop);
    uv_handle_t *uv;
    if (wakeup == NULL) {
        return -1;
    }
    uv = api->handle_uv(wakeup, UV_ASYNC);
    if (uv == NULL
        || api->consume(wakeup, &wakeup_consumer, (PyObject *)self) < 0) {
        Py_DECREF(wakeup);
        return -1;
    }
    LOCK(self);
    self->wakeup_uv = (uv_async_t *)uv;
    UNLOCK(self);
    self->wakeup = wakeup;
    return 0;
}

int
tulip_loop_ref_wakeup(TulipLoop *self)
{
    if (self->wakeup == NULL && open_wakeup(self) < 0) {
        return -1;
    }
    uv_ref((uv_handle_t *)self->wakeup_uv);
    return 0;
}

void
tulip_loop_unref_wakeup(TulipLoop *self)
{
    if (self->wakeup_uv != NULL) {
        uv_unref((uv_handle_t *)self->wakeup_uv);
    }
}

/* The lock is held. */
static void
wake(TulipLoop *self)
{
    if (self->polling) {
        self->polling = false;
        (void)self->st->uv->async_send(self->wakeup_uv);
    }
}

void
tulip_loop_wake(TulipLoop *self)
{
    LOCK(self);
    wake(self);
    UNLOCK(self);
}

void
tulip_loop_set_closed(TulipLoop *self)
{
    LOCK(self);
    self->closed = true;
    self->polling = false;
    self->wakeup_uv = NULL;
    UNLOCK(self);
}

/* ---- around the poll ---- */

/* The raw loop may also be run by itself: then nothing here is called. */
static bool
on_busy(PyObject *owner)
{
    TulipLoop *self = (TulipLoop *)owner;
    bool busy;
    if (self->thread_id == 0) {
        return false;
    }
    LOCK(self);
    busy = tulip_ring_length(&self->ready) > 0
        || tulip_ring_length(&self->inbox) > 0 || self->stopping || self->due
        || self->raised != NULL;
    self->polling = !busy && self->wakeup_uv != NULL;
    UNLOCK(self);
    return busy;
}

void
tulip_loop_end_poll(TulipLoop *self)
{
    LOCK(self);
    self->polling = false;
    UNLOCK(self);
    self->due = false;
}

int
tulip_loop_take_inbox(TulipLoop *self)
{
    int rc = 0;
    LOCK(self);
    self->called = false;
    while (rc == 0 && tulip_ring_length(&self->inbox) > 0) {
        TulipCallback *handle = tulip_ring_pop(&self->inbox);
        rc = tulip_ring_push(&self->ready, handle);
        if (rc < 0) {
            self->inbox.head--;
        }
    }
    UNLOCK(self);
    return rc;
}

static void
on_signals(PyObject *owner, const unsigned char *signums, size_t n)
{
    TulipLoop *self = (TulipLoop *)owner;
    PyObject *hook = Py_XNewRef(self->signal_hook), *bytes, *result = NULL;
    if (hook == NULL) {
        return;
    }
    bytes = PyBytes_FromStringAndSize((const char *)signums, (Py_ssize_t)n);
    if (bytes != NULL) {
        result = PyObject_CallOneArg(hook, bytes);
        Py_DECREF(bytes);
    }
    if (result == NULL) {
        tulip_loop_report(self, "Exception in signal hook", NULL, NULL, NULL);
    }
    Py_XDECREF(result);
    Py_DECREF(hook);
}

/* A callback of a raw handle raised. */
static void
on_unhandled(PyObject *owner, PyObject *what)
{
    TulipLoop *self = (TulipLoop *)owner;
    PyObject *exc = PyErr_GetRaisedException();
    PyObject *context = Py_BuildValue(
        "{s:s,s:O,s:O}", "message", "Exception in callback of a raw handle",
        "exception", exc, "uv_handle", what != NULL ? what : Py_None);
    Py_DECREF(exc);
    if (context == NULL || tulip_loop_report_context(self, context) < 0) {
        tulip_loop_raise_later(self);
    }
    Py_XDECREF(context);
}

const UvtLoopHooks tulip_loop_hooks = {
    .busy = on_busy,
    .signals = on_signals,
    .unhandled = on_unhandled,
    .forked = tulip_loop_on_forked,
};

/* ---- methods ---- */

/* The lock is held.  -1 with MemoryError, and nothing was taken. */
static int
enqueue(TulipLoop *self, TulipCallback *handle)
{
#ifdef Py_GIL_DISABLED
    tulip_callback_track(handle);
    self->called = true;
    return tulip_ring_push(&self->inbox, handle);
#else
    if (self->thread_id == 0) {
        tulip_callback_track(handle);
    }
    return tulip_ring_push(&self->ready, handle);
#endif
}

PyObject *
tulip_loop_py_call_soon_threadsafe(TulipLoop *self, PyObject *const *args,
                                   Py_ssize_t nargs, PyObject *kwnames)
{
    static const char name[] = "call_soon_threadsafe";
    TulipCall call;
    TulipCallback *handle;
    int rc;

    if (!tulip_bind(self, name, NULL, args, nargs, kwnames, &call)
        || !tulip_loop_check_call(self, name, call.callable, false)) {
        return NULL;
    }
    handle = tulip_callback_new(self, call.callable, call.args, call.nargs,
                                call.context, false);
    if (handle == NULL) {
        return NULL;
    }
    Py_INCREF(handle);      /* for the caller: the loop may run it at once */
    LOCK(self);
    rc = tulip_loop_check_open(self) ? enqueue(self, handle) : -1;
    if (rc == 0) {
        wake(self);
    }
    UNLOCK(self);
    if (rc < 0) {
        Py_DECREF(handle);
        Py_DECREF(handle);
        return NULL;
    }
    return (PyObject *)handle;
}

PyObject *
tulip_loop_forward(TulipLoop *self, PyObject *owner, const char *method, PyObject *arg)
{
    PyObject *bound = PyObject_GetAttrString(owner, method);
    int rc;
    if (bound == NULL) {
        return NULL;
    }
    rc = tulip_loop_call_soon(self, bound, &arg, arg != NULL, NULL);
    Py_DECREF(bound);
    return rc < 0 ? NULL : Py_NewRef(Py_None);
}

PyObject *
tulip_loop_py_set_signal_hook(TulipLoop *self, PyObject *hook)
{
    UVT_LOCKED(self->lock);
    tulip_loop_set_hook(&self->signal_hook, hook);
    Py_RETURN_NONE;
}
