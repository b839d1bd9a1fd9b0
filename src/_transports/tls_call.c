/* How a TLS transport calls its protocol, and what happens when a call or the
 * connection fails.  All functions run attached, on the loop's thread; their
 * callers own a reference to the transport.
 */
#include "tls.h"

const char tulip_tls_failed[] = "Fatal error on SSL protocol";

/* ---- calling it ---- */

static TulipProtocolCall
tls_call(TulipTLS *self)
{
    return (TulipProtocolCall){self->loop, (PyObject *)self, self->context,
                               self->protocol};
}

PyObject *
tulip_tls_vectorcall(TulipTLS *self, PyObject *function, unsigned bare,
                     PyObject *arg)
{
    TulipProtocolCall call = tls_call(self);
    PyObject *result;
    self->calls++;
    result = tulip_protocol_vectorcall(&call, function,
                                       (self->flags & bare) != 0, arg);
    self->calls--;
    return result;
}

PyObject *
tulip_tls_call(TulipTLS *self, PyObject *name, PyObject *arg)
{
    TulipProtocolCall call = tls_call(self);
    PyObject *result;
    self->calls++;
    result = tulip_protocol_call(&call, name, arg);
    self->calls--;
    return result;
}

static void
warn_kept_open(TulipTLS *self)
{
    PyObject *result = PyObject_CallMethod(
        self->loop->st->logger, "warning", "s",
        "returning true from eof_received() has no effect when using ssl");
    if (result == NULL) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    Py_XDECREF(result);
}

void
tulip_tls_call_eof(TulipTLS *self)
{
    PyObject *result;
    int keep_open;
    if ((self->flags & (TLS_MADE | TLS_EOF_CALLED)) != TLS_MADE
        || self->protocol == NULL) {
        return;
    }
    self->flags |= TLS_EOF_CALLED;
    result = tulip_tls_call(self, self->loop->st->str_eof_received, NULL);
    keep_open = result == NULL ? -1 : PyObject_IsTrue(result);
    Py_XDECREF(result);
    if (keep_open > 0) {
        warn_kept_open(self);
    }
    else if (keep_open < 0) {
        tulip_tls_fatal(self, "Error calling eof_received()");
    }
}

/* ---- the waiter ---- */

void
tulip_tls_wake_waiter(TulipTLS *self, PyObject *exc)
{
    PyObject *waiter = self->waiter, *done, *result = NULL;
    int skip;
    if (waiter == NULL) {
        return;
    }
    self->waiter = NULL;
    done = PyObject_CallMethod(waiter, "done", NULL);
    skip = done == NULL ? -1 : PyObject_IsTrue(done);
    Py_XDECREF(done);
    if (skip == 0) {
        result = exc == NULL
            ? PyObject_CallMethod(waiter, "set_result", "O", Py_None)
            : PyObject_CallMethod(waiter, "set_exception", "O", exc);
    }
    if (skip < 0 || (skip == 0 && result == NULL)) {
        tulip_loop_report(self->loop, "Exception while a transport started",
                          (PyObject *)self, self->protocol, NULL);
    }
    Py_XDECREF(result);
    Py_DECREF(waiter);
}

/* ---- errors ---- */

void
tulip_tls_fatal(TulipTLS *self, const char *message)
{
    PyObject *exc;
    bool quiet;
    if (PyErr_ExceptionMatches(PyExc_KeyboardInterrupt)
        || PyErr_ExceptionMatches(PyExc_SystemExit)) {
        /* They leave run_forever() and are no error of the connection. */
        tulip_loop_report(self->loop, message, (PyObject *)self, self->protocol,
                          NULL);
        return;
    }
    exc = PyErr_GetRaisedException();
    quiet = PyErr_GivenExceptionMatches(exc, PyExc_OSError);
    if (quiet) {
        tulip_debug_error(self->loop, (PyObject *)self, message, exc);
    }
    tulip_tls_force_close(self, exc);
    if (!quiet) {
        PyErr_SetRaisedException(Py_NewRef(exc));
        tulip_loop_report(self->loop, message, (PyObject *)self, self->protocol,
                          NULL);
    }
    Py_DECREF(exc);
}
