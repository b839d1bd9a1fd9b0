/* uv.Signal: a callback for a signal of the process, in the loop's thread.  All
 * functions run on that thread, attached.  A started one is held by its loop;
 * the handle owns the callback.
 *
 * A one-shot is a plain libuv signal whose callback stops it first.  libuv's
 * own kind resets the process to the default action on delivery, so that a
 * second signal close behind the first would kill, and a handle that was
 * one-shot once cannot be started as a lasting one again.
 */
#include "args.h"
#include "consumer.h"
#include "handle.h"
#include "guards.h"
#include "signals.h"

#include <limits.h>

static int
signal_init(UvtHandle *self, PyObject *args, PyObject *kwds)
{
    UVT_LOCKED(uvt_lock_of_init(self->st, args, kwds));
    static char *names[] = {"loop", NULL};
    PyObject *loop_arg;
    UvtLoop *loop;
    int rc;

    if (!PyArg_ParseTupleAndKeywords(args, kwds, "O:Signal", names, &loop_arg)
        || !uvt_handle_init_begin(self, loop_arg, UV_SIGNAL, UVT_EXC_SIGNAL,
                                  sizeof(uv_signal_t), &loop)) {
        return -1;
    }
    rc = uv_signal_init(&loop->core->uv, &self->box->uv.signal);
    return uvt_handle_init_done(self, loop, rc, "uv_signal_init");
}

/* ---- libuv callbacks ---- */

static void
on_signal(uv_signal_t *uv, int signum)
{
    UvtHandle *self = uvt_enter(uv);
    if (self == NULL) {
        return;
    }
    if (self->consumer != NULL) {
        UVT_TELL_CONSUMER(self, signalled, owner, signum);
    }
    else {
        PyObject *number = PyLong_FromLong(signum);
        PyObject *args[3] = {NULL, (PyObject *)self, number};
        uvt_call(self, self->callback, args + 1, 2);
        Py_XDECREF(number);
    }
    uvt_leave(self);
}

static void
on_signal_once(uv_signal_t *uv, int signum)
{
    uvt_signal_unwatch(uv);
    on_signal(uv, signum);
}

/* ---- methods ---- */

static PyObject *
start(UvtHandle *self, const char *call, PyObject *const *args,
      Py_ssize_t nargs, uv_signal_cb on_delivery)
{
    int signum, rc;
    if (!uvt_args_count(call, nargs, 2, 2) || !uvt_arg_callable(call, args[0])
        || !uvt_arg_int(call, "signum", args[1], INT_MIN, INT_MAX, &signum)
        || !uvt_handle_check_free(self, call)) {
        return NULL;
    }
    rc = uvt_guard_own_fds(self->loop->core) ? uvt_siglock_check(self->st) : UV_EBADF;
    rc = rc == 0 ? uvt_signals_begin(self->loop->core) : rc;
    if (rc == 0) {
        rc = uvt_signal_watch(&self->box->uv.signal, on_delivery, signum);
    }
    uvt_handle_update(self);
    if (rc < 0) {
        return uvt_handle_raise(self, rc, "uv_signal_start");
    }
    Py_XSETREF(self->callback, Py_NewRef(args[0]));
    Py_RETURN_NONE;
}

PyDoc_STRVAR(start_doc,
"start($self, callback, signum, /)\n--\n\n"
"Call callback(handle, signum) whenever the process gets the signal, in place\n"
"of the handler that signal.signal() has set.  A started one changes over.  Of\n"
"thousands of signals between two polls some may share a call, but the last one of\n"
"each number is followed by one.\n\n"
"Raises TypeError, HandleClosedError, SignalError (EINVAL: no such signal, or\n"
"one that cannot be caught; a started handle is stopped then).");

static PyObject *
signal_start(UvtHandle *self, PyObject *const *args, Py_ssize_t nargs)
{
    UVT_LOCKED(self->lock);
    return start(self, "Signal.start", args, nargs, on_signal);
}

PyDoc_STRVAR(start_oneshot_doc,
"start_oneshot($self, callback, signum, /)\n--\n\n"
"As start(), and stop when the signal comes, before the callback is called.");

static PyObject *
signal_start_oneshot(UvtHandle *self, PyObject *const *args, Py_ssize_t nargs)
{
    UVT_LOCKED(self->lock);
    return start(self, "Signal.start_oneshot", args, nargs, on_signal_once);
}

PyDoc_STRVAR(stop_doc,
"stop($self, /)\n--\n\n"
"Watch no more; harmless when not started.  The last handle of a signal that\n"
"stops gives it back its default action, unless somebody has set a handler since.");

static PyObject *
signal_stop(UvtHandle *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(self->lock);
    if (!uvt_handle_check_free(self, "Signal.stop")) {
        return NULL;
    }
    if (self->box->uv.signal.signum != 0) {
        int rc = uvt_siglock_check(self->st);
        if (rc < 0) {
            return uvt_handle_raise(self, rc, "uv_signal_stop");
        }
    }
    uvt_signal_unwatch(&self->box->uv.signal);
    uvt_handle_update(self);
    Py_CLEAR(self->callback);
    Py_RETURN_NONE;
}

/* ---- attributes ---- */

static PyObject *
signal_get_signum(UvtHandle *self, void *Py_UNUSED(closure))
{
    UVT_LOCKED(self->lock);
    if (self->initialised
        && (self->box == NULL || uv_is_closing(&self->box->uv.handle))) {
        return PyLong_FromLong(0);
    }
    if (!uvt_handle_check(self)) {
        return NULL;
    }
    return PyLong_FromLong(self->box->uv.signal.signum);
}

static PyMethodDef signal_methods[] = {
    {"start", (PyCFunction)(void (*)(void))signal_start, METH_FASTCALL,
     start_doc},
    {"start_oneshot", (PyCFunction)(void (*)(void))signal_start_oneshot,
     METH_FASTCALL, start_oneshot_doc},
    {"stop", (PyCFunction)signal_stop, METH_NOARGS, stop_doc},
    {NULL},
};

static PyGetSetDef signal_getset[] = {
    {"signum", (getter)signal_get_signum, NULL,
     "The watched signal's number; 0 when not started.", NULL},
    {NULL},
};

PyDoc_STRVAR(signal_doc,
"Signal(loop)\n--\n\n"
"Watches a signal of the process.  Any number of handles, in any number of\n"
"loops and threads, may watch the same one.");

static PyType_Slot signal_slots[] = {
    {Py_tp_doc, (void *)signal_doc},
    {Py_tp_init, signal_init},
    {Py_tp_methods, signal_methods},
    {Py_tp_getset, signal_getset},
    UVT_HANDLE_SLOTS,
    {0, NULL},
};

static PyType_Spec signal_spec = {
    .name = "uvtulip._uv.Signal",
    .basicsize = sizeof(UvtHandle),
    .flags = UVT_HANDLE_FLAGS,
    .slots = signal_slots,
};

int
uvt_signal_setup(PyObject *module, UvtState *st)
{
    return uvt_add_type(module, &st->signal_type, &signal_spec,
                        st->handle_type);
}
