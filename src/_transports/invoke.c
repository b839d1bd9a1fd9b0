/* Calling callbacks: entering their context, what becomes of their exceptions,
 * and debug mode's look at how long they take.  All functions run attached, on
 * the loop's thread.
 *
 * A handle that is called stays whole until the call returns, even if it is
 * cancelled meanwhile (`running`), so nothing needs a reference of its own.
 */
#include "eventloop.h"
#include "stream.h"

/* ---- one callback ---- */

/* What takes the place of a contextvars.Context and has a run method. */
static PyObject *
call_in_stranger(const TulipCallback *self)
{
    PyObject *run = PyObject_GetAttrString(self->context, "run");
    PyObject *result = NULL, **args;
    if (run == NULL) {
        return NULL;
    }
    args = PyMem_New(PyObject *, (size_t)self->nargs + 1);
    if (args == NULL) {
        PyErr_NoMemory();
    }
    else {
        args[0] = self->callable;
        for (uint32_t i = 1; i <= self->nargs; i++) {
            args[i] = self->args[i];
        }
        result = PyObject_Vectorcall(run, args, (size_t)self->nargs + 1, NULL);
        PyMem_Free(args);
    }
    Py_DECREF(run);
    return result;
}

/* PyObject_Vectorcall without looking for the thread state and for callables
 * that break the rules, but for the one that would break us. */
static inline PyObject *
call_quickly(PyObject *callable, PyObject *const *args, size_t nargsf)
{
    vectorcallfunc function = PyVectorcall_Function(callable);
    PyObject *result;
    if (function == NULL) {
        return PyObject_Vectorcall(callable, args, nargsf, NULL);
    }
    result = function(callable, args, nargsf, NULL);
    if (result == NULL && !PyErr_Occurred()) {
        PyErr_Format(PyExc_SystemError,
                     "%R returned NULL without setting an exception", callable);
    }
    return result;
}

static inline PyObject *
call(TulipCallback *self)
{
    PyObject *context = self->context, *result;
    if (self->cfunction != NULL) {
        self->cfunction(self->callable,
                        self->nargs > 0 ? self->args[1] : NULL);
        return Py_NewRef(Py_None);
    }
    if (!PyContext_CheckExact(context)) {
        return call_in_stranger(self);
    }
    if (PyContext_Enter(context) < 0) {
        return NULL;
    }
    result = call_quickly(self->callable, self->args + 1,
                          (size_t)self->nargs | PY_VECTORCALL_ARGUMENTS_OFFSET);
    if (PyContext_Exit(context) < 0) {
        Py_CLEAR(result);
    }
    return result;
}

/* "Exception in callback f() at file:line", as asyncio words it.  Newer
 * versions of its helper show arguments only if they are told to. */
static PyObject *
describe(TulipCallback *self)
{
    PyObject *format = self->loop->st->format_source;
    PyObject *args = PyObject_GetAttrString((PyObject *)self, "_args");
    PyObject *defaults = PyObject_GetAttrString(format, "__kwdefaults__");
    PyObject *source = NULL, *kwargs = NULL, *message = NULL;

    if (args != NULL && defaults != NULL) {
        PyObject *given = PyTuple_Pack(2, self->callable != NULL
                                          ? self->callable : Py_None, args);
        if (PyDict_Check(defaults)) {
            kwargs = Py_BuildValue("{s:O}", "debug",
                                   self->loop->debug ? Py_True : Py_False);
        }
        if (given != NULL && (kwargs != NULL || !PyDict_Check(defaults))) {
            source = PyObject_Call(format, given, kwargs);
        }
        Py_XDECREF(given);
        Py_XDECREF(kwargs);
    }
    Py_XDECREF(args);
    Py_XDECREF(defaults);
    if (source != NULL) {
        message = PyUnicode_FromFormat("Exception in callback %U", source);
        Py_DECREF(source);
    }
    return message;
}

/* Takes the raised exception; -1 with what has to leave the loop. */
static int
report(TulipCallback *self)
{
    PyObject *exc, *message, *context = NULL;
    int rc = -1;

    if (PyErr_ExceptionMatches(PyExc_KeyboardInterrupt)
        || PyErr_ExceptionMatches(PyExc_SystemExit)
        || (self->loop->forked && PyErr_ExceptionMatches(PyExc_RuntimeError))) {
        return -1;      /* the last is, most likely, the one that names the fork */
    }
    exc = PyErr_GetRaisedException();
    message = describe(self);
    if (message != NULL) {
        context = Py_BuildValue("{s:O,s:O,s:O}", "message", message,
                                "exception", exc, "handle", (PyObject *)self);
        Py_DECREF(message);
    }
    if (context != NULL
        && (self->source_traceback == NULL
            || PyDict_SetItemString(context, "source_traceback",
                                    self->source_traceback) == 0)) {
        rc = tulip_loop_report_context(self->loop, context);
    }
    Py_XDECREF(context);
    Py_DECREF(exc);
    return rc;
}

/* From here to end() nobody empties it, whichever thread cancels it; false: it is
 * cancelled already. */
static inline bool
begin(TulipCallback *self, bool *nested)
{
    bool go;
    Py_BEGIN_CRITICAL_SECTION(self);
    go = !self->cancelled;
    *nested = self->running;
    self->running = go || *nested;
    Py_END_CRITICAL_SECTION();
    return go;
}

static inline void
end(TulipCallback *self, bool nested)
{
    bool drop;
    Py_BEGIN_CRITICAL_SECTION(self);
    drop = self->cancelled && !nested;
    self->running = nested || drop;     /* so it looks empty until it is */
    Py_END_CRITICAL_SECTION();
    if (drop) {
        tulip_callback_drop(self);
        self->running = false;
    }
}

int
tulip_callback_run(TulipCallback *self)
{
    PyObject *result;
    bool nested;
    int rc = 0;

    if (!begin(self, &nested)) {
        return 0;
    }
    result = call(self);
    if (result != NULL) {
        Py_DECREF(result);
    }
    else {
        rc = report(self);
    }
    end(self, nested);
    return rc;
}

/* ---- timed: in debug mode, and when it was asked for ---- */

/* logger.warning(), as asyncio words it. */
static int
warn_slow(TulipCallback *handle, double seconds)
{
    PyObject *module = PyImport_ImportModule("asyncio.base_events");
    PyObject *logger = NULL, *text = NULL, *result = NULL;
    if (module == NULL) {
        return -1;
    }
    logger = PyObject_GetAttrString(module, "logger");
    text = PyObject_CallMethod(module, "_format_handle", "O", handle);
    Py_DECREF(module);
    if (logger != NULL && text != NULL) {
        result = PyObject_CallMethod(logger, "warning", "sOd",
                                     "Executing %s took %.3f seconds", text,
                                     seconds);
    }
    Py_XDECREF(logger);
    Py_XDECREF(text);
    Py_XDECREF(result);
    return result != NULL ? 0 : -1;
}

static int
run_watched(TulipLoop *self, TulipCallback *handle)
{
    PyObject *callable = Py_XNewRef(handle->callable);
    int64_t begin = tulip_now(), took;
    int rc;
    if (self->debug) {
        Py_XSETREF(self->current_handle, Py_NewRef((PyObject *)handle));
    }
    rc = tulip_callback_run(handle);
    took = tulip_now() - begin;
    if (took > self->slowest) {
        tulip_loop_note_slow(self, callable, took);
    }
    if (rc == 0 && self->debug
        && (double)took / 1e9 >= self->slow_callback_duration) {
        rc = warn_slow(handle, (double)took / 1e9);
    }
    Py_CLEAR(self->current_handle);
    Py_XDECREF(callable);
    return rc;
}

/* ---- all that are ready ---- */

/* Drops the ring's reference; from now on a handle that is kept is tracked. */
static inline void
release(TulipCallback *handle)
{
    if (Py_REFCNT(handle) > 1) {
        tulip_callback_track(handle);
    }
    Py_DECREF(handle);
}

int
tulip_loop_run_ready(TulipLoop *self, size_t count)
{
    int rc = 0;
    if (count > self->most_ready) {
        self->most_ready = count;
    }
    for (; count > 0 && rc == 0; count--) {
        TulipCallback *handle;
        UVT_YIELD(self->lock);
        handle = tulip_ring_pop(&self->ready);
        if (!handle->cancelled) {
            rc = self->watched ? run_watched(self, handle)
                               : tulip_callback_run(handle);
        }
        release(handle);
        if (self->raised != NULL || self->forked) {
            break;      /* of a C function; or this is a child's copy */
        }
    }
    if (tulip_loop_has_unsent(self)) {
        /* Flushing calls protocols, and must find no exception set. */
        PyObject *exc = rc < 0 ? PyErr_GetRaisedException() : NULL;
        tulip_flush_dirty(self);
        if (exc != NULL) {
            PyErr_SetRaisedException(exc);
        }
    }
    return rc;
}
