/* What comes from the stream below TLS: the handshake, plaintext for start_read(),
 * close_notify, the stream's end.  All functions run on the loop's thread, attached;
 * their callers own a reference to the layer, which any call of Python may close.
 *
 * What the program does not want to read yet stays ciphertext, in the engine, and
 * the stream is not read.
 */
#include "tls.h"
#include "args.h"
#include "errors.h"
#include "loop.h"

/* An object of 128 KiB or more would be mapped and unmapped for each read. */
#define BYTES_MAX ((size_t)126 * 1024)

/* OpenSSL's number, in the arguments of ssl.SSLEOFError. */
#define SSL_ERROR_EOF 8

static void process(UvtLayer *self);

/* ---- starting and stopping the stream ---- */

static int
go_on_later(UvtLayer *self)
{
    UvtHandle *timer = self->later;
    if (timer == NULL || timer->box == NULL || uv_is_closing(&timer->box->uv.handle)) {
        Py_CLEAR(self->later);
        timer = (UvtHandle *)uvt_timer_create((PyObject *)self->stream->loop);
        if (timer == NULL) {
            return -1;
        }
        self->later = timer;
        if (!uvt_handle_consume(timer, &uvt_layer_of_timer, (PyObject *)self)) {
            return -1;
        }
        timer->loose = true;
    }
    (void)uvt_timer_start(timer, 0, 0);
    return 0;
}

static bool
wants_input(const UvtLayer *self)
{
    return self->phase == UVT_LAYER_HANDSHAKE
        || (self->phase == UVT_LAYER_OPEN && self->on_read != NULL && !self->ended
            && self->stream_end == 0);
}

/* A libuv status: the stream cannot be read. */
static int
update_reading(UvtLayer *self)
{
    int rc = 0;
    if (!uvt_layer_is_open(self)) {
        return 0;
    }
    if (!wants_input(self)) {
        if (self->stream->reading) {
            uvt_stream_read_stop(self->stream);
        }
    }
    else if (!self->stream->reading) {
        rc = uvt_stream_read_start(self->stream);
    }
    return rc;
}

/* ---- telling the program ---- */

static void
deliver(UvtLayer *self, UVT_STEALS(2) PyObject *data, UVT_STEALS(3) PyObject *error)
{
    PyObject *callback = Py_XNewRef(self->on_read);
    PyObject *args[4] = {NULL, (PyObject *)self, data, error};
    uvt_call(self->stream, callback, args + 1, 3);
    Py_XDECREF(data);
    Py_XDECREF(error);
    Py_XDECREF(callback);
}

/* The stream has ended where the peer did not say so. */
static PyObject *
truncated(UvtLayer *self)
{
    return PyObject_CallFunction(self->st->tls.eof_error, "is", SSL_ERROR_EOF,
                                 "the stream ended without close_notify");
}

static bool
may_read(const UvtLayer *self)
{
    return self->on_read != NULL && !self->ended && uvt_layer_is_open(self);
}

static void
tell_failure(UvtLayer *self)
{
    if (self->failure != NULL && may_read(self)) {
        PyObject *failure = self->failure;
        self->failure = NULL;
        self->ended = true;
        deliver(self, Py_NewRef(Py_None), failure);
    }
}

void
uvt_layer_fail(UvtLayer *self)
{
    PyObject *error = uvt_layer_take_error(self);
    self->phase = UVT_LAYER_FAILED;
    if (self->failure == NULL) {
        self->failure = error;
    }
    else {
        Py_DECREF(error);       /* it comes of the first one */
    }
    (void)update_reading(self);
    tell_failure(self);
    uvt_layer_drop_writes(self, UV_ECANCELED);
}

/* ---- handshake ---- */

static void
end_handshake(UvtLayer *self, UvtLayerPhase phase, UVT_STEALS(3) PyObject *error)
{
    PyObject *callback = self->on_handshake;
    self->on_handshake = NULL;
    self->phase = phase;
    if (phase == UVT_LAYER_FAILED) {
        (void)update_reading(self);
    }
    uvt_layer_call(self, callback, error);
    if (phase == UVT_LAYER_FAILED) {
        uvt_layer_drop_writes(self, UV_ECANCELED);
    }
}

/* A step of it: what comes next, unless the stream was closed meanwhile.  *rc is the
 * stream's status; with ERROR an exception is set. */
static UvtTlsStatus
shake(UvtLayer *self, int *rc)
{
    UvtTlsStatus status;
    PyObject *exc;
    self->busy = true;
    status = uvt_tls_handshake(self->engine);
    self->busy = false;
    exc = PyErr_GetRaisedException();
    *rc = 0;
    if (uvt_layer_is_open(self)) {
        *rc = uvt_layer_send(self, NULL);       /* an alert says why */
    }
    if (exc != NULL) {
        PyErr_SetRaisedException(exc);
    }
    return status;
}

static void
go_on_with_handshake(UvtLayer *self)
{
    int rc;
    UvtTlsStatus status = shake(self, &rc);
    if (!uvt_layer_is_open(self)) {
        PyErr_Clear();          /* its callback hears that it was cancelled */
    }
    else if (status == UVT_TLS_ERROR) {
        end_handshake(self, UVT_LAYER_FAILED, uvt_layer_take_error(self));
    }
    else if (status == UVT_TLS_EOF || rc < 0) {
        end_handshake(self, UVT_LAYER_FAILED, uvt_errorno(rc < 0 ? rc : UV_EOF));
    }
    else if (status == UVT_TLS_OK) {
        self->unread = true;
        end_handshake(self, UVT_LAYER_OPEN, Py_NewRef(Py_None));
        if (uvt_layer_flush(self) < 0) {
            uvt_layer_fail(self);
        }
    }
}

PyObject *
uvt_layer_handshake(UvtLayer *self, PyObject *callback)
{
    UVT_LOCKED(self->lock);
    UvtTlsStatus status;
    int rc;
    if (!uvt_arg_callable("TLS.handshake", callback) || !uvt_layer_check(self)) {
        return NULL;
    }
    if (self->phase != UVT_LAYER_NEW) {
        return uvt_layer_raise(self, UV_EALREADY, "TLS.handshake");
    }
    rc = uvt_stream_read_start(self->stream);
    if (rc < 0) {
        return uvt_layer_raise(self, rc, "uv_read_start");
    }
    self->phase = UVT_LAYER_HANDSHAKE;
    self->on_handshake = Py_NewRef(callback);
    status = shake(self, &rc);
    if (status == UVT_TLS_OK && go_on_later(self) < 0) {
        status = UVT_TLS_ERROR;
    }
    if (status == UVT_TLS_ERROR || rc < 0) {
        PyObject *exc = PyErr_GetRaisedException();
        self->phase = UVT_LAYER_FAILED;
        (void)update_reading(self);
        Py_CLEAR(self->on_handshake);
        if (exc == NULL) {
            return uvt_layer_raise(self, rc, "uv_write");
        }
        PyErr_SetRaisedException(exc);
        return NULL;
    }
    Py_RETURN_NONE;
}

/* ---- plaintext ---- */

/* Reads records into memory until there is no room for another or none is left:
 * never a part of one, which would be in the way of close_notify. */
static UvtTlsStatus
fill(UvtLayer *self, char *base, size_t size, size_t *len)
{
    UvtTlsStatus status = UVT_TLS_OK;
    *len = 0;
    while (status == UVT_TLS_OK) {
        size_t room = size - *len, got = 0;
        if (*len > 0 && room < UVT_TLS_PLAIN && room < uvt_tls_expect(self->engine)) {
            break;
        }
        self->busy = true;
        status = uvt_tls_read(self->engine, base + *len, room, &got);
        self->busy = false;
        if (status == UVT_TLS_OK) {
            *len += got;
            if (!uvt_tls_has_input(self->engine)) {
                return UVT_TLS_WANT;
            }
            if (*len == size) {
                break;
            }
        }
    }
    return status;
}

static UvtTlsStatus
read_some(UvtLayer *self)
{
    size_t size = uvt_tls_expect(self->engine), len;
    UvtTlsStatus status;
    PyObject *data, *raised;
    size = size < BYTES_MAX ? size : BYTES_MAX;
    data = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    if (data == NULL) {
        return UVT_TLS_ERROR;
    }
    status = fill(self, PyBytes_AS_STRING(data), size, &len);
    raised = status == UVT_TLS_ERROR ? PyErr_GetRaisedException() : NULL;
    /* Documented in spite of its name, and right for an object that nobody else
     * has seen. */
    if (len > 0 && (len == size || _PyBytes_Resize(&data, (Py_ssize_t)len) == 0)) {
        deliver(self, data, Py_NewRef(Py_None));
    }
    else if (len > 0) {
        Py_XDECREF(raised);
        return UVT_TLS_ERROR;
    }
    else {
        Py_DECREF(data);
    }
    if (raised != NULL) {
        PyErr_SetRaisedException(raised);
    }
    return status;
}

/* The engine may have to say something; what is written may have waited for it. */
static int
answer(UvtLayer *self)
{
    int rc = 0;
    if (!uvt_layer_is_open(self)) {
        return 0;
    }
    if (self->engine->out_len > 0) {
        rc = uvt_layer_send(self, NULL);
    }
    if (rc < 0) {
        uvt_layer_raise(self, rc, "uv_write");
        return -1;
    }
    return self->first != NULL || self->shut_wanted ? uvt_layer_flush(self) : 0;
}

static void
tell_end(UvtLayer *self, int rc, bool whole)
{
    if (may_read(self)) {
        self->ended = true;
        deliver(self, Py_NewRef(Py_None),
                rc == UV_EOF && !whole ? truncated(self) : uvt_errorno(rc));
    }
}

static void
read_data(UvtLayer *self)
{
    UvtTlsStatus status = UVT_TLS_OK;
    while (status == UVT_TLS_OK && may_read(self)) {
        status = read_some(self);
    }
    self->unread = status != UVT_TLS_WANT;
    if (status == UVT_TLS_ERROR) {
        PyObject *exc = PyErr_GetRaisedException();
        if (uvt_layer_is_open(self)) {
            (void)uvt_layer_send(self, NULL);       /* an alert says why */
        }
        PyErr_SetRaisedException(exc);
        uvt_layer_fail(self);
    }
    else if (answer(self) < 0) {
        uvt_layer_fail(self);
    }
    else if (status == UVT_TLS_EOF) {
        tell_end(self, UV_EOF, true);
    }
    else if (status == UVT_TLS_WANT && self->stream_end < 0) {
        tell_end(self, self->stream_end, false);
    }
}

/* Does what can be done with what has come. */
static void
process(UvtLayer *self)
{
    int rc;
    if (self->processing || self->busy) {
        return;
    }
    self->processing = true;
    if (self->phase == UVT_LAYER_HANDSHAKE && uvt_layer_is_open(self)) {
        go_on_with_handshake(self);
    }
    if (self->phase == UVT_LAYER_OPEN) {
        read_data(self);
    }
    tell_failure(self);
    rc = update_reading(self);
    if (rc < 0) {
        self->stream_end = rc;
        tell_end(self, rc, false);
    }
    self->processing = false;
}

/* ---- what the stream and the timer tell ---- */

static void
on_stream_read(PyObject *owner, ssize_t nread, const uv_buf_t *buf)
{
    UvtLayer *self = (UvtLayer *)owner;
    int rc = 0;
    if (self->engine == NULL || self->phase == UVT_LAYER_FAILED) {
        return;
    }
    if (nread < 0) {
        self->stream_end = (int)nread;
        if (self->phase == UVT_LAYER_HANDSHAKE) {
            end_handshake(self, UVT_LAYER_FAILED, uvt_errorno((int)nread));
        }
        else {
            process(self);
        }
        return;
    }
    rc = uvt_tls_feed(self->engine, buf->base, (size_t)nread);
    if (rc == 0) {
        process(self);
        rc = uvt_tls_keep(self->engine);
    }
    if (rc < 0) {
        uvt_layer_fail(self);
    }
}

static void
on_later(PyObject *owner)
{
    Py_INCREF(owner);
    if (((UvtLayer *)owner)->engine != NULL) {
        process((UvtLayer *)owner);
    }
    Py_DECREF(owner);
}

/* By whomever: what was asked for and is not done never will be. */
static void
on_stream_closed(PyObject *owner)
{
    UvtLayer *self = (UvtLayer *)owner;
    PyObject *callback = self->on_handshake;
    UvtTls *engine = self->engine;
    self->on_handshake = NULL;
    uvt_layer_call(self, callback, uvt_errorno(UV_ECANCELED));
    uvt_layer_drop_writes(self, UV_ECANCELED);
    Py_CLEAR(self->on_read);
    Py_CLEAR(self->failure);
    if (self->later != NULL) {
        uvt_handle_close(self->later);
        Py_CLEAR(self->later);
    }
    if (engine != NULL && !self->busy) {
        self->engine = NULL;
        uvt_tls_free(engine);
    }
    uvt_layer_call_closed(self);
}

const UvtConsumer uvt_layer_of_stream = {
    .read = on_stream_read,
    .closed = on_stream_closed,
};

/* By somebody who found it among the loop's handles: what was to be done then is done
 * by another. */
static void
on_later_closed(PyObject *owner)
{
    UvtLayer *self = (UvtLayer *)owner;
    Py_CLEAR(self->later);
    if (uvt_layer_is_open(self) && go_on_later(self) < 0) {
        uvt_layer_fail(self);
    }
}

const UvtConsumer uvt_layer_of_timer = {
    .fired = on_later,
    .closed = on_later_closed,
};

/* ---- reading ---- */

PyObject *
uvt_layer_start_read(UvtLayer *self, PyObject *callback)
{
    UVT_LOCKED(self->lock);
    int rc;
    if (!uvt_arg_callable("TLS.start_read", callback) || !uvt_layer_check(self)) {
        return NULL;
    }
    if (self->phase != UVT_LAYER_HANDSHAKE && self->phase != UVT_LAYER_OPEN
        && self->failure == NULL) {
        return uvt_layer_raise(self, UV_ENOTCONN, "TLS.start_read");
    }
    if (!self->processing && self->phase != UVT_LAYER_HANDSHAKE) {
        bool told = self->ended;
        self->ended = false;
        if ((self->unread || self->stream_end < 0 || self->failure != NULL || told)
            && go_on_later(self) < 0) {
            return NULL;
        }
    }
    Py_XSETREF(self->on_read, Py_NewRef(callback));
    rc = self->processing ? 0 : update_reading(self);
    if (rc < 0) {
        Py_CLEAR(self->on_read);
        return uvt_layer_raise(self, rc, "uv_read_start");
    }
    Py_RETURN_NONE;
}

PyObject *
uvt_layer_stop_read(UvtLayer *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(self->lock);
    PyObject *callback;
    if (!uvt_layer_check(self)) {
        return NULL;
    }
    callback = self->on_read;
    self->on_read = NULL;
    if (!self->processing) {
        (void)update_reading(self);
    }
    Py_XDECREF(callback);
    Py_RETURN_NONE;
}
