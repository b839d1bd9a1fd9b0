/* How a stream transport calls its protocol, and what happens when a call or the
 * connection fails.  All functions run attached, on the thread that runs the
 * loop or while none does.  The methods that each read calls are looked up once,
 * when the protocol is set; the transport owns them.
 */
#include "stream.h"
#include <errno.h>

/* ---- calling it ---- */

void
tulip_warn_if_slow(TulipLoop *loop, PyObject *transport, PyObject *what,
                   int64_t begin)
{
    double seconds = (double)(tulip_now() - begin) / 1e9;
    PyObject *raised, *result;
    if (seconds < loop->slow_callback_duration) {
        return;
    }
    raised = PyErr_GetRaisedException();
    result = PyObject_CallMethod(loop->st->logger, "warning", "sOOd",
                                 "Executing %s of %r took %.3f seconds", what,
                                 transport, seconds);
    if (result == NULL) {
        PyErr_WriteUnraisable(transport);
    }
    Py_XDECREF(result);
    if (raised != NULL) {
        PyErr_SetRaisedException(raised);
    }
}

/* Enters a transport's context; false: it is entered already, since it is the
 * protocol that has called the transport. */
static bool
enter(PyObject *context)
{
    if (PyContext_Enter(context) < 0) {
        PyErr_Clear();
        return false;
    }
    return true;
}

PyObject *
tulip_protocol_vectorcall(const TulipProtocolCall *call, PyObject *function,
                          bool bare, PyObject *arg)
{
    PyObject *args[3] = {NULL, call->protocol, arg}, *result;
    PyObject *protocol = Py_NewRef(call->protocol), *context = call->context;
    int64_t begin = call->loop->debug ? tulip_now() : 0;
    bool entered;

    Py_INCREF(function);    /* set_protocol() may be called */
    entered = enter(context);
    result = PyObject_Vectorcall(
        function, args + 2 - bare,
        (size_t)(1 + bare) | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    if (entered) {
        (void)PyContext_Exit(context);
    }
    if (begin != 0) {
        tulip_warn_if_slow(call->loop, call->transport, function, begin);
    }
    Py_DECREF(function);
    Py_DECREF(protocol);
    return result;
}

PyObject *
tulip_protocol_call(const TulipProtocolCall *call, PyObject *name, PyObject *arg)
{
    PyObject *protocol = Py_NewRef(call->protocol), *result;
    PyObject *context = call->context;
    int64_t begin = call->loop->debug ? tulip_now() : 0;
    bool entered = enter(context);

    result = arg == NULL ? PyObject_CallMethodNoArgs(protocol, name)
                         : PyObject_CallMethodOneArg(protocol, name, arg);
    if (entered) {
        (void)PyContext_Exit(context);
    }
    if (begin != 0) {
        tulip_warn_if_slow(call->loop, call->transport, name, begin);
    }
    Py_DECREF(protocol);
    return result;
}

static TulipProtocolCall
stream_call(TulipStream *self)
{
    return (TulipProtocolCall){self->loop, (PyObject *)self, self->context,
                               self->protocol};
}

PyObject *
tulip_stream_vectorcall(TulipStream *self, PyObject *function, unsigned bare,
                        PyObject *arg)
{
    TulipProtocolCall call = stream_call(self);
    return tulip_protocol_vectorcall(&call, function,
                                     (self->flags & bare) != 0, arg);
}

PyObject *
tulip_stream_call(TulipStream *self, PyObject *name, PyObject *arg)
{
    TulipProtocolCall call = stream_call(self);
    return tulip_protocol_call(&call, name, arg);
}

/* ---- the protocol ---- */

PyObject *
tulip_find_method(PyObject *protocol, PyObject *name, bool *bare)
{
    PyObject *found = PyObject_GetAttr(protocol, name), *function;
    *bare = false;
    if (found == NULL) {
        PyErr_Clear();      /* raised when it is called */
        return NULL;
    }
    if (!PyMethod_Check(found) || PyMethod_GET_SELF(found) != protocol) {
        return found;
    }
    function = Py_NewRef(PyMethod_GET_FUNCTION(found));
    Py_DECREF(found);
    *bare = true;
    return function;
}

static void
set_flag(TulipStream *self, unsigned flag, bool on)
{
    self->flags = on ? self->flags | flag : self->flags & ~flag;
}

int
tulip_is_buffered(TulipState *st, PyObject *protocol)
{
    PyObject *found;
    int rc = PyObject_GetOptionalAttr(protocol, st->str_get_buffer, &found);
    if (rc <= 0) {
        return rc;
    }
    Py_DECREF(found);
    rc = PyObject_IsInstance(protocol, st->buffered_protocol_type);
    if (rc != 0) {
        return rc;
    }
    rc = PyObject_GetOptionalAttr(protocol, st->str_data_received, &found);
    if (rc > 0) {
        Py_DECREF(found);
    }
    return rc < 0 ? -1 : rc == 0;
}

/* The look-ups may run any code; nothing changes before they are done. */
int
tulip_stream_use_protocol(TulipStream *self, PyObject *protocol)
{
    TulipState *st = self->loop->st;
    PyObject *old, *old_receive;
    PyObject *receive = NULL, *get_buffer = NULL, *old_get_buffer = NULL;
    bool receive_bare = false, get_bare = false;
    bool layered = Py_TYPE(protocol) == st->tls_link_type;
    int buffered = layered ? 0 : tulip_is_buffered(st, protocol);
    if (buffered < 0 || (buffered && tulip_stream_rare(self) == NULL)) {
        return -1;
    }
    if (!layered) {             /* which is called from C to C */
        receive = tulip_find_method(protocol, buffered ? st->str_buffer_updated
                                                       : st->str_data_received,
                                    &receive_bare);
    }
    if (buffered) {
        get_buffer = tulip_find_method(protocol, st->str_get_buffer, &get_bare);
    }
    old = self->protocol;
    old_receive = self->receive;
    self->protocol = Py_NewRef(protocol);
    self->receive = receive;
    if (self->rare != NULL) {
        old_get_buffer = self->rare->get_buffer;
        self->rare->get_buffer = get_buffer;
    }
    set_flag(self, TULIP_BUFFERED, buffered);
    set_flag(self, TULIP_LAYERED, layered);
    set_flag(self, TULIP_RECEIVE_BARE, receive_bare);
    set_flag(self, TULIP_GET_BARE, get_bare);
    Py_XDECREF(old_get_buffer);
    Py_XDECREF(old_receive);
    Py_XDECREF(old);
    return 0;
}

void
tulip_stream_forget_protocol(TulipStream *self)
{
    if (self->rare != NULL) {
        Py_CLEAR(self->rare->get_buffer);
    }
    Py_CLEAR(self->receive);
    Py_CLEAR(self->protocol);
}

/* ---- errors ---- */

void
tulip_debug(TulipLoop *loop, const char *format, PyObject *transport)
{
    PyObject *result;
    if (!loop->debug) {
        return;
    }
    result = PyObject_CallMethod(loop->st->logger, "debug", "sO", format,
                                 transport);
    if (result == NULL) {
        PyErr_WriteUnraisable(transport);
    }
    Py_XDECREF(result);
}

void
tulip_debug_error(TulipLoop *loop, PyObject *transport, const char *message,
                  PyObject *exc)
{
    PyObject *debug, *args, *kwds, *result = NULL;
    if (!loop->debug) {
        return;
    }
    debug = PyObject_GetAttrString(loop->st->logger, "debug");
    args = Py_BuildValue("sOs", "%r: %s", transport, message);
    kwds = Py_BuildValue("{sO}", "exc_info", exc);
    if (debug != NULL && args != NULL && kwds != NULL) {
        result = PyObject_Call(debug, args, kwds);
    }
    if (result == NULL) {
        PyErr_WriteUnraisable(transport);
    }
    Py_XDECREF(result);
    Py_XDECREF(kwds);
    Py_XDECREF(args);
    Py_XDECREF(debug);
}

/* Errors of the connection are no errors of the program; but all that the reader
 * of a pipe has to expect is EIO, the end of a terminal. */
static bool
is_expected(const TulipStream *self, PyObject *exc)
{
    PyObject *code;
    bool ended;
    if (!PyErr_GivenExceptionMatches(exc, PyExc_OSError)) {
        return false;
    }
    if (!(self->flags & TULIP_READ_PIPE)) {
        return true;
    }
    code = PyObject_GetAttrString(exc, "errno");
    ended = code != NULL && PyLong_Check(code) && PyLong_AsLong(code) == EIO;
    PyErr_Clear();
    Py_XDECREF(code);
    return ended;
}

void
tulip_stream_fatal(TulipStream *self, const char *message)
{
    PyObject *exc;
    if (PyErr_ExceptionMatches(PyExc_KeyboardInterrupt)
        || PyErr_ExceptionMatches(PyExc_SystemExit)) {
        /* They leave run_forever() and are no error of the connection. */
        tulip_loop_report(self->loop, message, (PyObject *)self, self->protocol,
                          NULL);
        return;
    }
    exc = PyErr_GetRaisedException();
    if (!is_expected(self, exc)) {
        PyErr_SetRaisedException(Py_NewRef(exc));
        tulip_loop_report(self->loop, message, (PyObject *)self, self->protocol,
                          NULL);
    }
    else {
        tulip_debug_error(self->loop, (PyObject *)self, message, exc);
    }
    if (tulip_stream_force_close(self, exc) < 0) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    Py_DECREF(exc);
}

void
tulip_stream_fatal_uv(TulipStream *self, int rc, const char *call,
                      const char *message)
{
    PyObject *exc = tulip_stream_api(self)->oserror(rc, call);
    if (exc != NULL) {
        PyErr_SetRaisedException(exc);
    }
    tulip_stream_fatal(self, message);
}
