/* The writing side of TLS: write, try_write, shutdown.  All functions run on the
 * loop's thread, attached.
 *
 * A write waits as the buffers that it was given, and is encrypted when the stream
 * has little left to send: so a slow peer costs no memory for ciphertext.  The
 * callback of a write goes with its last ciphertext.
 */
#include "tls.h"
#include "args.h"
#include "errors.h"
#include "loop.h"
#include "request.h"
#include "stream.h"

#include <string.h>

/* What is encrypted in one go, and how much the stream may have before that. */
#define SLICE ((size_t)16 * UVT_TLS_PLAIN)
#define ENOUGH ((size_t)256 * 1024)
/* At least what a record has around its bytes. */
#define AROUND ((size_t)256)

/* Ciphertext that libuv sends. */
typedef struct Sealed {
    uv_write_t req;             /* first: libuv gives this one back */
    UvtRequest base;
    char *memory;               /* from the raw allocator */
} Sealed;

typedef struct Shutdown {
    uv_shutdown_t req;          /* first: libuv gives this one back */
    UvtRequest base;
} Shutdown;

/* ---- what waits ---- */

void
uvt_layer_free_plain(UvtPlain *plain)
{
    PyObject *callback = plain->callback;
    uvt_buffers_release(&plain->buffers);
    PyMem_Free(plain->room);
    PyMem_Free(plain);
    Py_XDECREF(callback);
}

static void
put_last(UvtLayer *self, UvtPlain *plain)
{
    if (self->first == NULL) {
        self->first = plain;
    }
    else {
        self->last->next = plain;
    }
    self->last = plain;
    self->waiting += plain->left;
}

static void
put_first(UvtLayer *self, UvtPlain *plain)
{
    plain->next = self->first;
    self->first = plain;
    if (plain->next == NULL) {
        self->last = plain;
    }
    self->waiting += plain->left;
}

static UvtPlain *
take_first(UvtLayer *self)
{
    UvtPlain *plain = self->first;
    self->first = plain->next;
    plain->next = NULL;
    self->waiting -= plain->left;
    return plain;
}

/* True: it was there still. */
static bool
take_back(UvtLayer *self, const UvtPlain *plain)
{
    UvtPlain *before = NULL, *each = self->first;
    while (each != NULL && each != plain) {
        before = each;
        each = each->next;
    }
    if (each == NULL) {
        return false;
    }
    if (before == NULL) {
        self->first = each->next;
    }
    else {
        before->next = each->next;
    }
    if (self->last == each) {
        self->last = before;
    }
    self->waiting -= each->left;
    return true;
}

void
uvt_layer_drop_writes(UvtLayer *self, int rc)
{
    PyObject *callback;
    while (self->first != NULL) {
        UvtPlain *plain = take_first(self);
        callback = Py_XNewRef(plain->callback);
        uvt_layer_free_plain(plain);
        uvt_layer_call(self, callback, uvt_errorno(rc));
    }
    callback = self->on_shutdown;
    self->on_shutdown = NULL;
    uvt_layer_call(self, callback, uvt_errorno(rc));
}

/* ---- sending ---- */

static void
on_sealed(uv_write_t *req, int status)
{
    Sealed *sealed = (Sealed *)req;
    UvtHandle *stream = uvt_enter(req->handle);
    UvtLayer *self = (UvtLayer *)Py_XNewRef(sealed->base.subject);
    uvt_request_done(&sealed->base, req->handle, status);
    PyMem_RawFree(sealed->memory);
    PyMem_Free(sealed);
    if (self != NULL && status == 0 && uvt_layer_flush(self) < 0) {
        uvt_layer_fail(self);
    }
    if (self != NULL && status < 0 && status != UV_ECANCELED) {
        uvt_layer_drop_writes(self, status);
    }
    Py_XDECREF(self);
    if (stream != NULL) {
        uvt_leave(stream);
    }
}

/* Leaves it to libuv; steals the memory. */
static int
send_later(UvtLayer *self, char *memory, const char *from, size_t len,
           PyObject *callback)
{
    Sealed *sealed = memory != NULL ? PyMem_Calloc(1, sizeof(Sealed)) : NULL;
    uv_buf_t buf = {.base = (char *)from, .len = len};
    int rc;
    if (sealed == NULL) {
        PyMem_RawFree(memory);
        return UV_ENOMEM;
    }
    sealed->memory = memory;
    sealed->base.subject = Py_NewRef(self);
    uvt_request_begin(&sealed->base, self->stream, callback);
    rc = uvt_stream_queue(self->stream, &sealed->req, &buf, 1, NULL, on_sealed);
    if (rc < 0) {
        uvt_request_cancel(&sealed->base);
        PyMem_RawFree(memory);
        PyMem_Free(sealed);
    }
    return rc;
}

/* Without a callback nobody waits for the end: what the kernel takes at once needs
 * no request. */
int
uvt_layer_send(UvtLayer *self, PyObject *callback)
{
    UvtTls *engine = self->engine;
    uv_stream_t *uv = &self->stream->box->uv.stream;
    char *out = engine->out, *copy;
    uv_buf_t buf = {.base = out, .len = engine->out_len};
    bool lent = engine->out_lent;
    int rc = 0;
    engine->out = NULL;
    uvt_tls_clear_output(engine);
    if (buf.len > 0 && callback == NULL && uv_stream_get_write_queue_size(uv) == 0) {
        rc = uvt_stream_try(self->stream, &buf, 1);
        if (rc > 0) {
            buf.base += rc;
            buf.len -= (size_t)rc;
        }
    }
    if (buf.len == 0 && callback == NULL) {
        if (!lent) {
            PyMem_RawFree(out);
        }
        return 0;
    }
    if (lent || out == NULL) {
        copy = PyMem_RawMalloc(buf.len > 0 ? buf.len : 1);
        if (copy != NULL && buf.len > 0) {
            memcpy(copy, buf.base, buf.len);
        }
        return send_later(self, copy, copy, buf.len, callback);
    }
    return send_later(self, out, buf.base, buf.len, callback);
}

/* ---- encrypting ---- */

/* The bytes of the next record: where they are if they are in one piece, else put
 * together.  NULL with MemoryError. */
static const char *
next_bytes(UvtPlain *plain, size_t *len)
{
    const uv_buf_t *iov = plain->buffers.iov + plain->piece;
    size_t here = iov->len - plain->offset, offset = plain->offset;
    size_t most = plain->left < UVT_TLS_PLAIN ? plain->left : UVT_TLS_PLAIN;
    if (here >= most) {
        *len = most;
        return iov->base + offset;
    }
    if (plain->room == NULL
        && (plain->room = PyMem_Malloc(UVT_TLS_PLAIN)) == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    for (*len = 0; *len < most; iov++) {
        size_t some = iov->len - offset;
        some = some < most - *len ? some : most - *len;
        if (some > 0) {
            memcpy(plain->room + *len, iov->base + offset, some);
        }
        *len += some;
        offset = 0;
    }
    return plain->room;
}

static void
advance(UvtPlain *plain, size_t n)
{
    plain->left -= n;
    while (n > 0) {
        size_t here = plain->buffers.iov[plain->piece].len - plain->offset;
        if (n < here) {
            plain->offset += n;
            return;
        }
        n -= here;
        plain->piece++;
        plain->offset = 0;
    }
}

/* Encrypts until `end` bytes are left. */
static UvtTlsStatus
seal(UvtLayer *self, UvtPlain *plain, size_t end)
{
    UvtTlsStatus status = UVT_TLS_OK;
    while (plain->left > end && status == UVT_TLS_OK) {
        size_t len, put = 0;
        const char *base = next_bytes(plain, &len);
        if (base == NULL) {
            return UVT_TLS_ERROR;
        }
        self->busy = true;
        status = uvt_tls_write(self->engine, base, len, &put);
        self->busy = false;
        if (status == UVT_TLS_OK) {
            advance(plain, put);
        }
    }
    return status;
}

/* Encrypts some of it and sends that.  OK: no bytes of it are left, or some that
 * have to wait; *rc is the stream's status. */
static UvtTlsStatus
push(UvtLayer *self, UvtPlain *plain, int *rc)
{
    char record[UVT_TLS_RECORD];
    size_t len = plain->left < SLICE ? plain->left : SLICE;
    UvtTlsStatus status;
    PyObject *exc;
    if (len <= UVT_TLS_PLAIN) {
        uvt_tls_lend_output(self->engine, record, sizeof(record));
    }
    else {
        uvt_tls_reserve_output(self->engine,
                               len + (len / UVT_TLS_PLAIN + 2) * AROUND);
    }
    status = seal(self, plain, plain->left - len);
    exc = status == UVT_TLS_ERROR ? PyErr_GetRaisedException() : NULL;
    *rc = UV_ECANCELED;
    if (uvt_layer_is_open(self)) {
        *rc = uvt_layer_send(self, status == UVT_TLS_OK && plain->left == 0
                             ? plain->callback : NULL);
    }
    else {
        uvt_tls_clear_output(self->engine);     /* it may be ours */
    }
    if (exc != NULL) {
        PyErr_SetRaisedException(exc);
    }
    return status;
}

static bool
may_encrypt(const UvtLayer *self)
{
    return self->phase == UVT_LAYER_OPEN && !self->busy && uvt_layer_is_open(self);
}

static bool
has_room(const UvtLayer *self)
{
    return uv_stream_get_write_queue_size(&self->stream->box->uv.stream) < ENOUGH;
}

/* ---- shutdown ---- */

static void
on_shutdown(uv_shutdown_t *req, int status)
{
    Shutdown *shutdown = (Shutdown *)req;
    /* A terminal has no outgoing side to end: close_notify was all. */
    status = status == UV_ENOTSOCK ? 0 : status;
    uvt_request_done(&shutdown->base, req->handle, status);
    PyMem_Free(shutdown);
}

/* Ends the stream's outgoing side after what was written to it. */
static int
shut_stream(UvtLayer *self)
{
    Shutdown *shutdown = PyMem_Calloc(1, sizeof(Shutdown));
    int rc;
    if (shutdown == NULL) {
        return UV_ENOMEM;
    }
    shutdown->base.subject = Py_NewRef(self);
    uvt_request_begin(&shutdown->base, self->stream, self->on_shutdown);
    rc = uv_shutdown(&shutdown->req, &self->stream->box->uv.stream, on_shutdown);
    if (rc < 0) {
        uvt_request_cancel(&shutdown->base);
        PyMem_Free(shutdown);
    }
    else {
        Py_CLEAR(self->on_shutdown);    /* the request has it */
    }
    return rc;
}

/* All is sent that was written before shutdown(). */
static int
send_close(UvtLayer *self)
{
    UvtTlsStatus status;
    int rc;
    self->shut = true;
    self->busy = true;
    status = uvt_tls_close_notify(self->engine);
    self->busy = false;
    if (status == UVT_TLS_ERROR) {
        return -1;
    }
    if (!uvt_layer_is_open(self)) {
        return 0;
    }
    rc = uvt_layer_send(self, NULL);
    rc = rc < 0 ? rc : shut_stream(self);
    if (rc < 0) {
        uvt_layer_raise(self, rc, "uv_shutdown");
        return -1;
    }
    return 0;
}

int
uvt_layer_flush(UvtLayer *self)
{
    UvtTlsStatus status = UVT_TLS_OK;
    while (self->first != NULL && status == UVT_TLS_OK && may_encrypt(self)
           && has_room(self)) {
        UvtPlain *plain = take_first(self);
        int rc;
        status = push(self, plain, &rc);
        if (status == UVT_TLS_EOF && rc == 0) {
            rc = UV_EPIPE;
        }
        if (status != UVT_TLS_ERROR && (rc == UV_ECANCELED
            || (rc == 0 && (status == UVT_TLS_WANT || plain->left > 0)))) {
            put_first(self, plain);
            continue;
        }
        uvt_layer_free_plain(plain);
        if (status == UVT_TLS_ERROR || rc < 0) {
            if (status != UVT_TLS_ERROR) {
                uvt_layer_raise(self, rc, "uv_write");
            }
            return -1;
        }
    }
    if (self->shut_wanted && !self->shut && self->first == NULL
        && may_encrypt(self)) {
        return send_close(self);
    }
    return 0;
}

/* ---- methods ---- */

/* Bytes may be written: 0, or the libuv status that says why not. */
static int
write_status(const UvtLayer *self)
{
    if (self->phase != UVT_LAYER_HANDSHAKE && self->phase != UVT_LAYER_OPEN) {
        return UV_ENOTCONN;
    }
    return self->shut_wanted ? UV_EPIPE : 0;
}

/* A write that is checked, with buffers; NULL with an exception. */
static UvtPlain *
new_plain(UvtLayer *self, const char *call, PyObject *data, PyObject *callback)
{
    UvtPlain *plain;
    int rc = write_status(self);
    if (rc < 0) {
        uvt_layer_raise(self, rc, call);
        return NULL;
    }
    plain = PyMem_Calloc(1, sizeof(UvtPlain));
    if (plain == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    if (!uvt_buffers_get(&plain->buffers, call, data)) {
        PyMem_Free(plain);
        return NULL;
    }
    plain->left = plain->buffers.nbytes;
    plain->callback = Py_XNewRef(callback);
    /* Getting the buffers may have run code that closed the handle. */
    if (!uvt_layer_check(self)) {
        PyObject *exc = PyErr_GetRaisedException();
        uvt_layer_free_plain(plain);
        PyErr_SetRaisedException(exc);
        return NULL;
    }
    return plain;
}

/* Flushes; on failure takes the new write back, if it waits still. */
static int
flush_new(UvtLayer *self, UvtPlain *plain)
{
    PyObject *exc;
    if (uvt_layer_flush(self) == 0) {
        return 0;
    }
    exc = PyErr_GetRaisedException();
    if (take_back(self, plain)) {
        uvt_layer_free_plain(plain);
    }
    PyErr_SetRaisedException(exc);
    return -1;
}

PyObject *
uvt_layer_write(UvtLayer *self, PyObject *const *args, Py_ssize_t nargs)
{
    UVT_LOCKED(self->lock);
    PyObject *callback;
    UvtPlain *plain;
    if (!uvt_args_count("TLS.write", nargs, 1, 2)
        || !uvt_arg_callback("TLS.write", nargs > 1 ? args[1] : NULL, &callback)
        || !uvt_layer_check(self)) {
        return NULL;
    }
    plain = new_plain(self, "TLS.write", args[0], callback);
    if (plain == NULL) {
        return NULL;
    }
    put_last(self, plain);
    if (flush_new(self, plain) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyObject *
uvt_layer_writelines(UvtLayer *self, PyObject *const *args, Py_ssize_t nargs)
{
    UVT_LOCKED(self->lock);
    PyObject *given[2], *result;
    if (!uvt_args_count("TLS.writelines", nargs, 1, 2)) {
        return NULL;
    }
    given[0] = PySequence_Tuple(args[0]);
    if (given[0] == NULL) {
        return NULL;
    }
    given[1] = nargs > 1 ? args[1] : Py_None;
    result = uvt_layer_write(self, given, 2);
    Py_DECREF(given[0]);
    return result;
}

PyObject *
uvt_layer_try_write(UvtLayer *self, PyObject *data)
{
    UVT_LOCKED(self->lock);
    UvtPlain *plain;
    size_t before, nbytes;
    UvtTlsStatus status;
    PyObject *exc;
    int rc = 0;
    if (!uvt_layer_check(self)) {
        return NULL;
    }
    plain = new_plain(self, "TLS.try_write", data, NULL);
    if (plain == NULL) {
        return NULL;
    }
    if (!may_encrypt(self) || self->first != NULL
        || uv_stream_get_write_queue_size(&self->stream->box->uv.stream) > 0) {
        uvt_layer_free_plain(plain);
        return uvt_layer_raise(self, UV_EAGAIN, "TLS.try_write");
    }
    before = plain->left;
    plain->left = before < UVT_TLS_PLAIN ? before : UVT_TLS_PLAIN;
    nbytes = plain->left;
    status = nbytes > 0 ? push(self, plain, &rc) : UVT_TLS_OK;
    exc = PyErr_GetRaisedException();
    nbytes -= plain->left;
    uvt_layer_free_plain(plain);
    if (exc != NULL) {
        PyErr_SetRaisedException(exc);
        return NULL;
    }
    if (status != UVT_TLS_OK || rc < 0) {
        return uvt_layer_raise(self, rc < 0 ? rc : status == UVT_TLS_WANT
                               ? UV_EAGAIN : UV_EPIPE, "TLS.try_write");
    }
    return PyLong_FromSize_t(nbytes);
}

PyObject *
uvt_layer_shutdown(UvtLayer *self, PyObject *const *args, Py_ssize_t nargs)
{
    UVT_LOCKED(self->lock);
    PyObject *callback;
    if (!uvt_args_count("TLS.shutdown", nargs, 0, 1)
        || !uvt_arg_callback("TLS.shutdown", nargs > 0 ? args[0] : NULL, &callback)
        || !uvt_layer_check(self)) {
        return NULL;
    }
    if (write_status(self) < 0) {
        return uvt_layer_raise(self, UV_ENOTCONN, "TLS.shutdown");
    }
    self->shut_wanted = true;
    self->on_shutdown = Py_XNewRef(callback);
    if (uvt_layer_flush(self) < 0) {
        PyObject *exc = PyErr_GetRaisedException();
        Py_CLEAR(self->on_shutdown);
        PyErr_SetRaisedException(exc);
        return NULL;
    }
    Py_RETURN_NONE;
}
