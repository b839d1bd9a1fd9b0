/* The life of a TLS connection: connected, handshake, open, closing, lost.  All
 * functions run attached, on the loop's thread; their callers own a reference to
 * the transport, which any call of Python may have closed or aborted.
 *
 * connection_lost() of the protocol is called after the transport below has said
 * that it is lost, and only then: there is no other way to the end.  It comes as many
 * turns of the loop later as asyncio's: who is woken by the end of the stream may
 * still write, and wait for that.
 */
#include "accepted.h"
#include "tls.h"
#include <errno.h>

/* A close_notify, and the answers that may come before it. */
#define ALERT_ROOM 256

/* ---- the timer ---- */

static void
stop_timer(TulipTLS *self)
{
    TulipCallback *timer = self->timer;
    if (timer != NULL) {
        self->timer = NULL;
        if (tulip_callback_cancel(timer) < 0) {
            PyErr_WriteUnraisable((PyObject *)self);
        }
        Py_DECREF(timer);
    }
}

static void
start_timer(TulipTLS *self, double seconds, TulipCFunction function)
{
    stop_timer(self);
    self->timer = tulip_loop_call_later_c(self->loop, seconds, function,
                                          (PyObject *)self);
    if (self->timer == NULL) {
        tulip_tls_fatal(self, tulip_tls_failed);
    }
}

/* Takes the raised exception, for the log and for who waits: who gets it before the
 * transport below tells that it is lost. */
static void
handshake_failed(TulipTLS *self, const char *message)
{
    PyObject *exc = PyErr_GetRaisedException();
    stop_timer(self);
    tulip_tls_wake_waiter(self, exc);
    PyErr_SetRaisedException(exc);
    tulip_tls_fatal(self, message);
}

static void
on_handshake_timeout(PyObject *owner, PyObject *Py_UNUSED(arg))
{
    TulipTLS *self = (TulipTLS *)owner;
    PyObject *seconds = PyFloat_FromDouble(self->handshake_timeout), *text;
    if (self->phase != TULIP_TLS_HANDSHAKE || seconds == NULL) {
        PyErr_Clear();
        Py_XDECREF(seconds);
        return;
    }
    text = PyUnicode_FromFormat("SSL handshake is taking longer than %R seconds: "
                                "aborting the connection", seconds);
    Py_DECREF(seconds);
    if (text != NULL) {
        PyErr_SetObject(PyExc_ConnectionAbortedError, text);
        Py_DECREF(text);
    }
    handshake_failed(self, "Fatal error on transport");
}

static void
on_shutdown_timeout(PyObject *owner, PyObject *Py_UNUSED(arg))
{
    TulipTLS *self = (TulipTLS *)owner;
    PyObject *exc = PyObject_CallFunction(PyExc_TimeoutError, "s",
                                          "SSL shutdown timed out");
    if (exc == NULL) {
        PyErr_Clear();
    }
    tulip_tls_force_close(self, exc);
    Py_XDECREF(exc);
}

/* ---- handshake ---- */

static PyObject *
new_error(PyObject *type, int code, const char *text)
{
    PyObject *exc = PyObject_CallFunction(type, "is", code, text);
    if (exc == NULL) {
        exc = PyErr_GetRaisedException();
    }
    return exc;
}

/* The transport below has told that it is lost before it was ours: it will not tell
 * again.  Of one that is not of this module nobody knows. */
static bool
is_under_lost(const TulipTLS *self)
{
    if (self->stream != NULL) {
        return self->stream->flags & TULIP_LOST_DONE;
    }
    return PyObject_TypeCheck(self->under, self->loop->st->tls_type)
        && ((TulipTLS *)self->under)->phase == TULIP_TLS_LOST;
}

void
tulip_tls_connected(TulipTLS *self, PyObject *under)
{
    TulipState *st = self->loop->st;
    if (self->under != NULL || self->phase == TULIP_TLS_LOST) {
        return;
    }
    self->under = Py_NewRef(under);
    if (PyObject_TypeCheck(under, st->stream_type)
        && ((TulipStream *)under)->loop == self->loop) {
        self->stream = (TulipStream *)under;
    }
    if (is_under_lost(self)) {
        tulip_tls_lost(self, NULL);
        return;
    }
    if (self->flags & TLS_CLOSED) {
        tulip_tls_force_close(self, NULL);
        return;
    }
    tulip_debug(self->loop, "%r starts SSL handshake", (PyObject *)self);
    self->phase = TULIP_TLS_HANDSHAKE;
    start_timer(self, self->handshake_timeout, on_handshake_timeout);
    if (!(self->flags & TLS_SERVER) || uvt_tls_unread(self->engine) > 0) {
        tulip_tls_process(self);
    }
}

static void
handshake_done(TulipTLS *self)
{
    PyObject *result;
    stop_timer(self);
    self->phase = TULIP_TLS_OPEN;
    self->flags |= TLS_CONNECTED;
    tulip_debug(self->loop, "%r: SSL handshake is done", (PyObject *)self);
    if (self->flags & TLS_CALL_MADE) {
        TulipStream *stream = self->stream;
        self->flags ^= TLS_CALL_MADE | TLS_MADE;
        if (stream != NULL) {
            Py_INCREF(stream);
            stream->flags |= TULIP_WAITS;
        }
        result = tulip_tls_call(self, self->loop->st->str_connection_made,
                                (PyObject *)self);
        if (stream != NULL) {
            stream->flags &= ~(unsigned)TULIP_WAITS;
            tulip_accepted_made(stream);
            Py_DECREF(stream);
        }
        if (result == NULL) {
            tulip_tls_send_last(self);          /* the peer's handshake was good */
            tulip_tls_fatal(self, tulip_tls_failed);
            return;
        }
        Py_DECREF(result);
    }
    if (self->waiter != NULL && self->phase != TULIP_TLS_DONE) {
        /* Who waits runs before the first data comes. */
        self->flags |= TLS_HELD;
        tulip_tls_wake_waiter(self, NULL);
        tulip_tls_read_soon(self);
    }
    tulip_tls_flush(self);
}

void
tulip_tls_handshake(TulipTLS *self)
{
    UvtTlsStatus status;
    PyObject *exc;
    if (self->phase != TULIP_TLS_HANDSHAKE) {
        return;
    }
    tulip_tls_enter(self);
    status = uvt_tls_handshake(self->engine);
    exc = status == UVT_TLS_ERROR ? PyErr_GetRaisedException() : NULL;
    if (status == UVT_TLS_ERROR) {
        tulip_tls_send_last(self);      /* an alert says why */
    }
    else if (status != UVT_TLS_OK) {
        tulip_tls_send_output(self);
    }
    if (self->phase == TULIP_TLS_HANDSHAKE) {
        if (status == UVT_TLS_OK) {     /* the last of it goes with the first data */
            handshake_done(self);
        }
        else if (status != UVT_TLS_WANT) {
            if (exc == NULL) {
                exc = new_error(PyExc_ConnectionResetError, ECONNRESET,
                                "The peer closed during the TLS handshake");
            }
            PyErr_SetRaisedException(exc);
            exc = NULL;
            handshake_failed(
                self, PyErr_ExceptionMatches(self->loop->st->tls.certificate_error)
                ? "SSL handshake failed on verifying the certificate"
                : "SSL handshake failed");
        }
    }
    Py_XDECREF(exc);
    tulip_tls_leave(self);
}

/* ---- closing ---- */

static void
close_below(PyObject *owner, PyObject *Py_UNUSED(arg))
{
    TulipTLS *self = (TulipTLS *)owner;
    PyObject *result;
    if (self->phase == TULIP_TLS_LOST) {
        return;
    }
    if (self->stream != NULL) {
        if (tulip_stream_begin_close(self->stream) < 0) {
            PyErr_WriteUnraisable((PyObject *)self);
        }
        return;
    }
    result = PyObject_CallMethod(self->under, "close", NULL);
    if (result == NULL) {
        tulip_loop_report(self->loop, tulip_tls_failed, (PyObject *)self,
                          self->protocol, NULL);
    }
    Py_XDECREF(result);
}

/* Both sides have said that they are done.  After the bare end of the stream, asyncio
 * closes at once. */
static void
close_under(TulipTLS *self)
{
    self->phase = TULIP_TLS_DONE;
    if (self->flags & TLS_UNDER_EOF) {
        close_below((PyObject *)self, NULL);
    }
    else if (tulip_loop_call_soon_c(self->loop, close_below, (PyObject *)self,
                                    NULL) < 0) {
        tulip_tls_fatal(self, tulip_tls_failed);
    }
}

/* Everything is sent: say so, and wait for the peer's close_notify. */
static void
begin_shutdown(TulipTLS *self)
{
    char room[ALERT_ROOM];
    UvtTlsStatus status;
    self->phase = TULIP_TLS_SHUTDOWN;
    uvt_tls_lend_output(self->engine, room, sizeof(room));
    status = UVT_TLS_OK;
    if (!(self->flags & TLS_UNDER_EOF)) {
        if (!(self->flags & TLS_PEER_DONE)) {
            status = tulip_tls_discard(self);
        }
        if (status != UVT_TLS_ERROR) {
            status = uvt_tls_shutdown(self->engine);
        }
    }
    if (status == UVT_TLS_ERROR) {
        uvt_tls_keep_output(self->engine);
        tulip_tls_fatal(self, "Fatal error on transport");
        return;
    }
    tulip_tls_send_output(self);
    if (self->phase == TULIP_TLS_SHUTDOWN && status != UVT_TLS_WANT) {
        close_under(self);
    }
}

void
tulip_tls_go_on_closing(TulipTLS *self)
{
    UvtTlsStatus status;
    tulip_tls_enter(self);
    if (self->phase == TULIP_TLS_FLUSHING && self->waiting == 0) {
        begin_shutdown(self);
    }
    else if (self->phase == TULIP_TLS_FLUSHING
             || self->phase == TULIP_TLS_SHUTDOWN) {
        status = tulip_tls_discard(self);
        if (status == UVT_TLS_ERROR) {
            tulip_tls_fatal(self, "Fatal error on transport");
        }
        else if (self->phase == TULIP_TLS_SHUTDOWN
                 && (status == UVT_TLS_EOF || (self->flags & TLS_UNDER_EOF))) {
            close_under(self);
        }
        else {
            tulip_tls_send_output(self);
        }
    }
    tulip_tls_leave(self);
}

void
tulip_tls_begin_close(TulipTLS *self)
{
    self->flags |= TLS_CLOSED;
    if (self->phase == TULIP_TLS_HANDSHAKE) {
        tulip_tls_force_close(self, NULL);
    }
    else if (self->phase == TULIP_TLS_OPEN) {
        self->phase = TULIP_TLS_FLUSHING;
        tulip_tls_update_reading(self);
        tulip_tls_flush(self);
        if (self->phase == TULIP_TLS_FLUSHING && self->waiting == 0) {
            tulip_tls_go_on_closing(self);
        }
        if (self->phase == TULIP_TLS_FLUSHING
            || self->phase == TULIP_TLS_SHUTDOWN) {
            start_timer(self, self->shutdown_timeout, on_shutdown_timeout);
        }
    }
}

/* asyncio's transports have _force_close(), others need not. */
static void
force_close_stranger(TulipTLS *self, PyObject *exc)
{
    PyObject *method = PyObject_GetAttrString(self->under, "_force_close");
    PyObject *result;
    if (method != NULL) {
        result = PyObject_CallOneArg(method, exc != NULL ? exc : Py_None);
        Py_DECREF(method);
    }
    else {
        PyErr_Clear();
        result = PyObject_CallMethod(self->under, "abort", NULL);
    }
    if (result == NULL) {
        tulip_loop_report(self->loop, tulip_tls_failed, (PyObject *)self,
                          self->protocol, NULL);
    }
    Py_XDECREF(result);
}

void
tulip_tls_force_close(TulipTLS *self, PyObject *exc)
{
    self->flags |= TLS_CLOSED;
    if (self->phase == TULIP_TLS_LOST || self->under == NULL) {
        return;
    }
    self->phase = TULIP_TLS_DONE;
    stop_timer(self);
    tulip_tls_drop_queue(self);
    if (self->stream == NULL) {
        force_close_stranger(self, exc);
    }
    else if (tulip_stream_force_close(self->stream, exc) < 0) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
}

/* ---- what the transport below tells ---- */

void
tulip_tls_under_eof(TulipTLS *self)
{
    self->flags |= TLS_UNDER_EOF;
    tulip_debug(self->loop, "%r received EOF", (PyObject *)self);
    if (self->phase == TULIP_TLS_HANDSHAKE) {
        PyErr_SetNone(PyExc_ConnectionResetError);
        handshake_failed(self, "SSL handshake failed");
    }
    else {
        tulip_tls_process(self);
    }
}

/* Hands the session to a ResumingContext. */
static void
keep_session(TulipTLS *self)
{
    PyObject *result = PyObject_CallMethod(self->ssl_context, "keep_session", "O",
                                           self->ssl_object);
    if (result == NULL) {
        tulip_loop_report(self->loop, "A TLS session could not be kept",
                          (PyObject *)self, self->protocol, NULL);
    }
    Py_XDECREF(result);
}

static void
tell_lost(PyObject *owner, PyObject *exc)
{
    TulipTLS *self = (TulipTLS *)owner;
    if ((self->flags & TLS_MADE) && self->protocol != NULL) {
        PyObject *result;
        self->flags &= ~(unsigned)TLS_MADE;
        result = tulip_tls_call(self, self->loop->st->str_connection_lost,
                                exc != NULL ? exc : Py_None);
        if (result == NULL) {
            tulip_loop_report(self->loop,
                              "Exception in callback protocol.connection_lost()",
                              owner, self->protocol, NULL);
        }
        Py_XDECREF(result);
    }
    Py_CLEAR(self->get_buffer);
    Py_CLEAR(self->receive);
    Py_CLEAR(self->protocol);
}

void
tulip_tls_lost(TulipTLS *self, PyObject *exc)
{
    PyObject *early = NULL;
    if (self->phase == TULIP_TLS_LOST) {
        return;
    }
    tulip_tls_enter(self);
    self->flags |= TLS_CLOSED;
    self->phase = TULIP_TLS_LOST;
    self->stream = NULL;
    stop_timer(self);
    tulip_tls_drop_queue(self);
    if ((self->flags & (TLS_KEEPS | TLS_CONNECTED))
        == (TLS_KEEPS | TLS_CONNECTED)) {
        keep_session(self);
    }
    if (!(self->flags & TLS_MADE)) {
        tell_lost((PyObject *)self, exc);
    }
    else if (tulip_loop_call_soon_c(self->loop, tell_lost, (PyObject *)self,
                                    exc) < 0) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    if (self->waiter != NULL && exc == NULL) {
        early = new_error(PyExc_ConnectionAbortedError, ECONNABORTED,
                          "The connection was closed during the TLS handshake");
    }
    tulip_tls_wake_waiter(self, exc != NULL ? exc : early);
    Py_XDECREF(early);
    tulip_tls_leave(self);
}
