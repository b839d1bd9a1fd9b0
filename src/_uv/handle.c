/* The base of all handles: life cycle, closing, the loop's references, and what
 * every libuv callback begins and ends with; handle_type.c has what Python sees.
 * All functions run attached, on the loop's thread or while nobody runs the
 * loop; only dealloc may come from any thread.  handle.h says who owns what.
 *
 * Edges that the collector sees: handle -> loop, callback, close_callback,
 * consumer_owner, __dict__; loop -> every handle with `held` set (loop.c).
 */
#include "handle.h"
#include "args.h"
#include "consumer.h"
#include "errors.h"
#include "fswatch.h"
#include "guards.h"
#include "listen.h"
#include "pipe.h"
#include "pool.h"
#include "request.h"
#include "uvpoll.h"
#include "process.h"
#include "signals.h"
#include "tty.h"

/* ---- boxes ---- */

static void
box_link(UvtCore *core, UvtBox *box)
{
    box->prev = NULL;
    box->next = core->boxes;
    if (core->boxes != NULL) {
        core->boxes->prev = box;
    }
    core->boxes = box;
}

static void
box_unlink(UvtCore *core, UvtBox *box)
{
    if (box->prev != NULL) {
        box->prev->next = box->next;
    }
    else {
        core->boxes = box->next;
    }
    if (box->next != NULL) {
        box->next->prev = box->prev;
    }
}

/* NULL without an exception when there is no memory. */
static UvtBox *
box_new(UvtHandle *owner, size_t size)
{
    UvtBox *box = PyMem_Calloc(1, offsetof(UvtBox, uv) + size);
    if (box != NULL && !UVT_WEAK_NEW(box->weak, owner)) {
        PyErr_Clear();
        PyMem_Free(box);
        box = NULL;
    }
    (void)owner;
    return box;
}

static void
box_free(UvtBox *box)
{
    UVT_LOCK_DROP(box->weak);
    PyMem_Free(box);
}

static bool
box_is_closing(const UvtBox *box)
{
    return uv_is_closing(&box->uv.handle);
}

bool
uvt_box_is_active(const UvtBox *box)
{
    return box->uv.handle.type == UV_PROCESS ? uvt_process_running(box)
                                             : uv_is_active(&box->uv.handle);
}

void
uvt_box_pin(UvtBox *box)
{
    box->pins++;
}

void
uvt_box_unpin(UvtBox *box)
{
    if (--box->pins == 0 && box->closed) {
        box_free(box);
    }
}

/* Object and box know nothing of each other any more. */
static void
box_detach(UvtBox *box)
{
    if (box->owner != NULL) {
        box->owner->box = NULL;
        box->owner = NULL;
    }
}

/* The consumer and the program learn that the handle is closed. */
static void
tell_closed(UvtHandle *self, const UvtCore *core)
{
    PyObject *callback;
    self->reading = false;
    Py_CLEAR(self->callback);
    if (self->consumer != NULL) {
        const UvtConsumer *consumer = self->consumer;
        PyObject *given = self->consumer_owner;
        self->consumer = NULL;
        self->consumer_owner = NULL;
        UVT_TELL(consumer, given, closed, owner);
        Py_DECREF(given);
    }
    callback = self->close_callback;
    self->close_callback = NULL;
    /* The consumer's callbacks may have forked: then it is the parent's. */
    if (callback != NULL && !core->forked) {
        PyObject *args[2] = {NULL, (PyObject *)self};
        uvt_call(self, callback, args + 1, 1);
    }
    Py_XDECREF(callback);
    Py_CLEAR(self->loop);
}

/* The box stays until its consumer has heard of the end: other threads may use what
 * it knows of the handle, under a lock of its own. */
void
uvt_on_closed(uv_handle_t *uv)
{
    UvtCore *core = uv->loop->data;
    UvtBox *box = uv->data;
    UvtHandle *self;

    if (core->forked) {
        return;
    }
    if (core->owner != NULL) {
        uvt_loop_attach(core->owner);
    }
    self = uvt_box_owner(box);
    box_detach(box);
    box_unlink(core, box);
    if (self != NULL) {
        tell_closed(self, core);
        uvt_leave(self);        /* a closing handle was held */
    }
    box->closed = true;
    if (box->pins == 0) {
        box_free(box);
    }
}

void
uvt_handle_close(UvtHandle *self)
{
    if (self->box != NULL && !box_is_closing(self->box)) {
        uvt_box_close(self->box);
        uvt_handle_update(self);
    }
}

/* False when libuv would have to take its lock of signals, which is lost, to close
 * the handle: then the loop is given up, and the handle with it. */
static bool
may_stop_signals(UvtCore *core, const UvtBox *box)
{
    bool stops = box->uv.handle.type == UV_PROCESS
        || (box->uv.handle.type == UV_SIGNAL && box->uv.signal.signum != 0);
    if (!stops || core->owner == NULL || uvt_siglock_check(core->owner->st) == 0) {
        return true;
    }
    uvt_guard_give_up(core);
    return false;
}

void
uvt_box_close(UvtBox *box)
{
    UvtCore *core = box->uv.handle.loop->data;
    struct sigaction before;
    int low;
    if (box_is_closing(box) || core->forked || !may_stop_signals(core, box)) {
        return;
    }
    if (box->uv.handle.type == UV_TTY) {
        uvt_tty_close(box);
    }
    uvt_inotify_leave(box);
    if (box->uv.handle.type == UV_SIGNAL) {
        uvt_signal_unwatch(&box->uv.signal);
    }
    uvt_timer_forget(box->uv.handle.loop->data, box);
    if (box->uv.handle.type == UV_NAMED_PIPE) {
        uvt_pipe_file_remove(box);
    }
    uvt_listener_close(box);
    if (box->uv.handle.type == UV_PROCESS) {
        uvt_sigchld_save(&before);
        uv_close(&box->uv.handle, uvt_on_closed);
        uvt_sigchld_put_back(&before);
        uvt_child_close(box);
    }
    else if (box->uv.handle.type == UV_POLL) {
        uvt_poll_close(&box->uv.poll, uvt_on_closed);
    }
    else {
        low = uvt_low_begin_close(box);
        uv_close(&box->uv.handle, uvt_on_closed);
        uvt_low_end_close(low);
    }
}

/* Without its object when that is just going: its deallocation, which waits for the
 * lock, finds no box then. */
void
uvt_box_end(UvtBox *box)
{
    UvtHandle *owner = uvt_box_owner(box);
    if (owner != NULL) {
        uvt_handle_close(owner);
        Py_DECREF(owner);
    }
    else {
        box_detach(box);
        uvt_box_close(box);
    }
}

/* ---- life cycle ---- */

PyObject *
uvt_handle_new(PyTypeObject *type, PyObject *Py_UNUSED(args),
               PyObject *Py_UNUSED(kwds))
{
    UvtState *st = uvt_state_of_type(type);
    UvtHandle *self;
    if (st == NULL) {
        return NULL;
    }
    self = (UvtHandle *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->st = st;
    self->fd = -1;
    return (PyObject *)self;
}

bool
uvt_handle_init_begin(UvtHandle *self, PyObject *loop_arg, uv_handle_type kind,
                      UvtExc exc, size_t size, UvtLoop **out)
{
    UvtLoop *loop = (UvtLoop *)loop_arg;
    if (self->initialised) {
        PyErr_Format(PyExc_RuntimeError, "%s is initialised already",
                     Py_TYPE(self)->tp_name);
        return false;
    }
    if (!uvt_loop_check_arg(self->st, loop_arg)) {
        return false;
    }
    self->box = box_new(self, size);
    if (self->box == NULL) {
        PyErr_NoMemory();
        return false;
    }
    UVT_LOCK_KEEP(self->lock, loop->lock);
    self->kind = (unsigned char)kind;
    self->exc = (unsigned char)exc;
    *out = loop;
    return true;
}

int
uvt_handle_init_done(UvtHandle *self, UvtLoop *loop, int rc, const char *call)
{
    UvtBox *box = self->box;
    if (rc < 0) {
        self->box = NULL;
        box_free(box);
        uvt_handle_raise(self, rc, call);
        return -1;
    }
    box->owner = self;
    box->uv.handle.data = box;
    box_link(loop->core, box);
    self->loop = (UvtLoop *)Py_NewRef(loop);
    self->initialised = true;
    return 0;
}

int
uvt_handle_renew(UvtHandle *self, size_t size, int (*init)(uv_loop_t *, UvtBox *))
{
    UvtBox *old = self->box;
    UvtBox *box = box_new(self, size);
    int rc;
    if (box == NULL) {
        return UV_ENOMEM;
    }
    rc = init(&self->loop->core->uv, box);
    if (rc < 0) {
        box_free(box);
        return rc;
    }
    if (!uv_has_ref(&old->uv.handle)) {
        uv_unref(&box->uv.handle);
    }
    box->owner = self;
    box->uv.handle.data = box;
    box_link(self->loop->core, box);
    self->box = box;
    old->owner = NULL;
    uvt_box_close(old);
    return 0;
}

int
uvt_handle_traverse(UvtHandle *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->loop);
    Py_VISIT(self->dict);
    Py_VISIT(self->callback);
    Py_VISIT(self->close_callback);
    Py_VISIT(self->consumer_owner);
    return uvt_requests_traverse(self, visit, arg);
}

int
uvt_handle_clear(UvtHandle *self)
{
    UVT_LOCKED(self->lock);
    uvt_requests_clear(self);
    self->consumer = NULL;
    Py_CLEAR(self->consumer_owner);
    Py_CLEAR(self->callback);
    Py_CLEAR(self->close_callback);
    Py_CLEAR(self->dict);
    Py_CLEAR(self->loop);
    return 0;
}

void
uvt_handle_dealloc(UvtHandle *self)
{
    PyTypeObject *tp = Py_TYPE(self);
    UvtBox *box;
    PyObject_GC_UnTrack(self);  /* before the lock may be waited for */
    UVT_LOCKED(self->lock);
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs((PyObject *)self);
    }
    box = self->box;
    if (box != NULL) {
        /* The box frees itself in its close callback.  Another thread that
         * runs the loop closes it there, before it polls again. */
        UvtCore *core = box->uv.handle.loop->data;
        box->owner = NULL;
        self->box = NULL;
        if (core->owner != NULL && core->owner->thread_id != 0
            && core->owner->thread_id != PyThread_get_thread_ident()) {
            core->orphans = true;
        }
        else {
            uvt_box_close(box);
        }
    }
    uvt_requests_detach(self);
    (void)uvt_handle_clear(self);
    UVT_LOCK_DROP(self->lock);
    tp->tp_free(self);
    Py_DECREF(tp);
}

/* ---- guards ---- */

bool
uvt_handle_check(UvtHandle *self)
{
    if (!self->initialised) {
        PyErr_Format(PyExc_RuntimeError,
                     "%s is not initialised: its __init__ was not called",
                     Py_TYPE(self)->tp_name);
        return false;
    }
    if (self->box == NULL || self->loop == NULL || box_is_closing(self->box)) {
        PyErr_Format(self->st->exc[UVT_EXC_CLOSED], "%s is closed",
                     Py_TYPE(self)->tp_name);
        return false;
    }
    return uvt_loop_check(self->loop);
}

bool
uvt_handle_check_free(UvtHandle *self, const char *call)
{
    if (!uvt_handle_check(self)) {
        return false;
    }
    if (self->consumer != NULL) {
        PyErr_Format(PyExc_RuntimeError,
                     "%s(): the handle belongs to a transport, a TLS or another "
                     "C consumer", call);
        return false;
    }
    return true;
}

bool
uvt_handle_consume(UvtHandle *self, const UvtConsumer *consumer, PyObject *owner)
{
    if (!uvt_handle_check_free(self, "consume")) {
        return false;
    }
    if (self->kind != UV_ASYNC && uv_is_active(&self->box->uv.handle)) {
        PyErr_Format(PyExc_RuntimeError,
                     "%s is active: stop it before it is handed over",
                     Py_TYPE(self)->tp_name);
        return false;
    }
    self->consumer = consumer;
    self->consumer_owner = Py_NewRef(owner);
    Py_CLEAR(self->callback);
    uvt_handle_update(self);
    return true;
}

PyObject *
uvt_handle_raise(UvtHandle *self, int rc, const char *call)
{
    return uvt_raise(self->st, self->exc, rc, call);
}

/* ---- references of the loop ---- */

/* An Async is active as long as it is open, which keeps nobody waiting; a UDP
 * handle is for libuv active until after the last callback of its sends. */
static bool
is_busy(const UvtHandle *self)
{
    switch (self->kind) {
    case UV_ASYNC:
        return false;
    case UV_UDP:
        return self->reading;
    case UV_PROCESS:
        return uvt_process_running(self->box) || uvt_process_untold(self->box);
    default:
        return uv_is_active(&self->box->uv.handle) != 0;
    }
}

void
uvt_handle_update(UvtHandle *self)
{
    bool want = self->box != NULL
        && ((self->consumer != NULL && !self->loose) || self->pending > 0
            || box_is_closing(self->box) || is_busy(self));
    if (want == self->held) {
        return;
    }
    self->held = want;
    if (want) {
        Py_INCREF(self);    /* the loop's reference */
    }
    else {
        Py_DECREF(self);
    }
}

/* ---- libuv callbacks ---- */

UvtHandle *
uvt_enter(const void *uv_handle)
{
    const uv_handle_t *uv = uv_handle;
    UvtBox *box = uv->data;
    UvtLoop *loop = uvt_loop_of(uv->loop);
    if (loop == NULL) {
        return NULL;
    }
    uvt_loop_attach(loop);
    if (loop->core->uses_pool) {
        uvt_pool_hush(loop->core);
    }
    return uvt_box_owner(box);
}

void
uvt_leave(UvtHandle *self)
{
    uvt_handle_update(self);
    Py_DECREF(self);
}

void
uvt_call(UvtHandle *self, PyObject *callback, PyObject **args, size_t nargs)
{
    UvtLoop *loop = self->loop;
    PyObject *result = NULL;

    if (callback == NULL || loop == NULL) {
        return;
    }
    for (size_t i = 0; i < nargs; i++) {
        if (args[i] == NULL) {
            uvt_loop_report(loop, (PyObject *)self);
            return;
        }
    }
    Py_INCREF(loop);        /* the callback may close and drop everything */
    Py_INCREF(callback);
    result = PyObject_Vectorcall(callback, args,
                                 nargs | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    Py_DECREF(callback);
    if (result == NULL) {
        uvt_loop_report(loop, (PyObject *)self);
    }
    else {
        Py_DECREF(result);
    }
    Py_DECREF(loop);
}
