/* Loop.run() and what happens around a poll: the thread state is given up when
 * the poll may block and taken back by the first callback; exceptions of
 * callbacks end up here.  on_before_poll and the functions of a run are on the
 * loop's thread; `detached` is only ever touched there.
 */
#include "args.h"
#include "consumer.h"
#include "errors.h"
#include "fork.h"
#include "guards.h"
#include "pool.h"

#include <poll.h>

/* ---- the thread state ---- */

void
uvt_loop_take_thread(UvtLoop *self)
{
    PyThreadState *detached = self->detached;
    self->detached = NULL;
    PyEval_RestoreThread(detached);
    uvt_metrics_waited(self, self->core->uv.time);
    if (self->core->uses_pool) {
        uvt_pool_hush(self->core);
    }
}

/* Boxes whose objects were dropped by another thread. */
static void
close_orphans(UvtCore *core)
{
    core->orphans = false;
    for (UvtBox *box = core->boxes; box != NULL; box = box->next) {
        if (box->owner == NULL) {
            uvt_box_close(box);
        }
    }
}

/* Prepare handles run in the reverse order of their start, and this one was
 * started first: after it comes the poll.  A thread that is detached still
 * comes from a poll that had no callbacks; nothing has changed since. */
static void
on_before_poll(uv_prepare_t *uv)
{
    UvtCore *core = uv->loop->data;
    UvtLoop *self = core->owner;
    bool waits;
    if (self == NULL) {
        (void)uvt_guard_watchers(core);
        return;
    }
    if (self->detached != NULL) {
        return;
    }
    UVT_YIELD(self->lock);
    core->timer_pass++;
    if (core->timers_aside != NULL) {
        uvt_timers_bring_back(core);
    }
#if UV_VERSION_HEX >= 0x012D00
    /* Older ones read the clock at the begin of each turn. */
    if (self->mode != UV_RUN_NOWAIT) {
        uv_update_time(uv->loop);
    }
#endif
    uvt_metrics_turn(self, uv->loop->time);
    if (!uvt_guard_intact(core)) {
        uvt_guard_give_up(core);
        return;
    }
    if (core->orphans) {
        close_orphans(core);
    }
    if (core->reserve > 0) {
        (void)uvt_reserve_fill(core->reserve);
    }
    if (uvt_guard_any_watcher(core) && uvt_guard_watchers(core) && !core->lost
        && !core->forked && !uvt_guard_intact(core)) {
        uvt_guard_give_up(core);
    }
    if (core->lost) {
        return;
    }
    if (self->mode != UV_RUN_NOWAIT && !self->closing && uvt_hooks_busy(self)) {
        uv_stop(&core->uv);
    }
    waits = self->mode != UV_RUN_NOWAIT && uv_backend_timeout(&core->uv) != 0;
    if (core->uses_pool && !core->forked) {
        uvt_pool_before_poll(core, waits);
    }
    if (waits) {
        self->detached = PyEval_SaveThread();
    }
}

void
uvt_loop_watch_polls(UvtCore *core)
{
    (void)uv_prepare_init(&core->uv, &core->before_poll);
    (void)uv_prepare_start(&core->before_poll, on_before_poll);
    uv_unref((uv_handle_t *)&core->before_poll);
}

/* ---- a run ---- */

int
uvt_loop_run_begin(UvtLoop *self)
{
    if (self->core != NULL) {
        (void)uvt_fork_is_child(self);
    }
    if (!uvt_loop_check(self)) {
        return -1;
    }
    if (self->thread_id != 0) {
        PyErr_SetString(PyExc_RuntimeError,
                        "Loop.run(): the loop is running already");
        return -1;
    }
    if (!uvt_guard_own_fds(self->core)) {
        uvt_raise(self->st, UVT_EXC_UV, UV_EBADF, "uv_run");
        return -1;
    }
    self->thread_id = PyThread_get_thread_ident();
    if (uvt_wakeup_start(self) < 0) {
        self->thread_id = 0;
        return -1;
    }
    uvt_metrics_begin(self);
    /* A signal from just before that told nobody: the poll would not end. */
    if (PyErr_CheckSignals() < 0 && !uvt_loop_hook_signal(self)) {
        uvt_loop_run_end(self);
        return -1;
    }
    return 0;
}

int
uvt_loop_turn(UvtLoop *self, uv_run_mode mode)
{
    int alive;
    UvtCore *core = self->core;
    self->mode = mode;
    self->in_poll = true;
    if (core->reserve > 0) {
        (void)uvt_reserve_fill(core->reserve);
    }
    alive = uv_run(&core->uv, mode);
    if (core->reserve > 0) {
        uvt_reserve_empty();
    }
    self->in_poll = false;
    uvt_loop_attach(self);
    if (core->uses_pool && !core->forked) {
        uvt_pool_after_run(core);
    }
    if (self->raised != NULL) {
        PyObject *raised = self->raised;
        self->raised = NULL;
        PyErr_SetRaisedException(raised);
        return -1;
    }
    if (core->forked) {
        uvt_fork_raise();
        return -1;
    }
    if (core->lost) {
        uvt_raise(self->st, UVT_EXC_UV, UV_EBADF, "uv_run");
        return -1;
    }
    return alive != 0;
}

/* Asks poll(), which takes nothing out of epoll: an event that is told of once only
 * is still there for libuv. */
bool
uvt_loop_has_work(UvtLoop *self, int64_t now)
{
    UvtCore *core = self->core;
    struct pollfd epoll = {.events = POLLIN};
    int timeout;
    if (core == NULL || core->forked || core->orphans || self->raised != NULL) {
        return true;
    }
    timeout = uv_backend_timeout(&core->uv);
    if (timeout == 0 || (core->uses_pool && uvt_pool_has_done(core))
        || (timeout > 0
            && now / 1000000 - (int64_t)core->uv.time >= (int64_t)timeout)) {
        return true;
    }
    epoll.fd = core->uv.backend_fd;
    return poll(&epoll, 1, 0) != 0;
}

void
uvt_loop_run_end(UvtLoop *self)
{
    if (self->running_in_child) {
        self->running_in_child = false;
        return;
    }
    uvt_metrics_end(self);
    uvt_wakeup_stop(self);
    self->thread_id = 0;
}

PyObject *
uvt_loop_run(UvtLoop *self, PyObject *const *args, Py_ssize_t nargs)
{
    UVT_LOCKED(self->lock);
    int mode = UV_RUN_DEFAULT, alive;
    if (!uvt_args_count("Loop.run", nargs, 0, 1)
        || (nargs > 0
            && !uvt_arg_int("Loop.run", "mode", args[0], UV_RUN_DEFAULT,
                            UV_RUN_NOWAIT, &mode))) {
        return NULL;
    }
    if (uvt_loop_run_begin(self) < 0) {
        return NULL;
    }
    alive = uvt_loop_turn(self, (uv_run_mode)mode);
    uvt_loop_run_end(self);
    if (alive < 0) {
        return NULL;
    }
    return PyBool_FromLong(alive);
}

PyObject *
uvt_loop_stop(UvtLoop *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(self->lock);
    if (!uvt_loop_check(self)) {
        return NULL;
    }
    uv_stop(&self->core->uv);
    Py_RETURN_NONE;
}

/* ---- exceptions of callbacks ---- */

void
uvt_loop_raise_later(UvtLoop *self)
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
    if (self->core != NULL) {
        uv_stop(&self->core->uv);
    }
}

static void
write_stderr(const char *line)
{
    PySys_FormatStderr("%s\n", line);
}

static void
print_report(const char *title, PyObject *exc)
{
    PyObject *type = (PyObject *)Py_TYPE(exc);
    PyObject *traceback = PyException_GetTraceback(exc);
    write_stderr(title);
    PyErr_Display(type, exc, traceback);
    Py_XDECREF(traceback);
}

/* Takes the raised exception, prints it under `title`, then a blank line. */
static void
print_raised(const char *title)
{
    PyObject *exc = PyErr_GetRaisedException();
    print_report(title, exc);
    write_stderr("");
    Py_DECREF(exc);
}

/* Calls hook(type, value, traceback). */
static PyObject *
call_hook(PyObject *hook, PyObject *exc)
{
    PyObject *traceback = PyException_GetTraceback(exc), *result;
    result = PyObject_CallFunctionObjArgs(
        hook, (PyObject *)Py_TYPE(exc), exc,
        traceback != NULL ? traceback : Py_None, NULL);
    Py_XDECREF(traceback);
    return result;
}

/* True when hook is this type's own excepthook method, bound to self. */
static bool
is_default_hook(UvtLoop *self, PyObject *hook)
{
    return PyCFunction_Check(hook) && PyCFunction_GET_SELF(hook) == (PyObject *)self
        && PyCFunction_GET_FUNCTION(hook) == (PyCFunction)(void (*)(void))
                                             uvt_loop_excepthook;
}

/* 1: a program's own excepthook, a new reference; 0: it has none; -1: error. */
static int
own_hook(UvtLoop *self, PyObject **hook)
{
    int found = PyObject_GetOptionalAttr((PyObject *)self,
                                         self->st->str_excepthook, hook);
    if (found > 0 && (*hook == Py_None || is_default_hook(self, *hook))) {
        Py_CLEAR(*hook);
        found = 0;
    }
    return found;
}

/* A handler of Python's signals belongs to no callback: what it raises leaves the
 * run, be it an Exception or not, unless the program has put an excepthook. */
bool
uvt_loop_hook_signal(UvtLoop *self)
{
    PyObject *exc = PyErr_GetRaisedException(), *hook = NULL;
    int found = self->hooks == NULL ? own_hook(self, &hook) : 0;
    Py_XDECREF(hook);
    if (found < 0) {
        PyErr_Clear();
    }
    PyErr_SetRaisedException(exc);
    if (found > 0) {
        uvt_loop_report(self, NULL);
    }
    return found > 0;
}

void
uvt_loop_report(UvtLoop *self, PyObject *what)
{
    bool ordinary = PyErr_ExceptionMatches(PyExc_Exception);
    PyObject *exc, *hook, *result;
    int found;

    if (ordinary && self->hooks != NULL && self->hooks->unhandled != NULL) {
        UVT_TELL_HOOKS(self, unhandled, owner, what);
        return;
    }
    exc = PyErr_GetRaisedException();
    found = PyObject_GetOptionalAttr((PyObject *)self, self->st->str_excepthook,
                                     &hook);
    if (!ordinary && (found <= 0 || hook == Py_None
                      || is_default_hook(self, hook))) {
        if (found < 0) {
            PyErr_Clear();
        }
        else {
            Py_XDECREF(hook);
        }
        PyErr_SetRaisedException(exc);
        uvt_loop_raise_later(self);
        return;
    }
    if (found < 0) {
        print_raised("Exception while getting excepthook");
    }
    if (found <= 0 || hook == Py_None) {
        print_report("Unhandled exception in callback", exc);
    }
    else {
        result = call_hook(hook, exc);
        if (result == NULL) {
            if (!PyErr_ExceptionMatches(PyExc_Exception)) {
                uvt_loop_raise_later(self);
            }
            else {
                print_raised("Unhandled exception in excepthook");
                print_report("Unhandled exception in callback", exc);
            }
        }
        Py_XDECREF(result);
    }
    Py_XDECREF(hook);
    Py_DECREF(exc);
}

PyObject *
uvt_loop_excepthook(UvtLoop *Py_UNUSED(self), PyObject *const *args,
                    Py_ssize_t nargs)
{
    if (!uvt_args_count("Loop.excepthook", nargs, 3, 3)) {
        return NULL;
    }
    if (!PyExceptionInstance_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError,
                        "Loop.excepthook(): value must be an exception");
        return NULL;
    }
    print_report("Unhandled exception in callback", args[1]);
    Py_RETURN_NONE;
}
