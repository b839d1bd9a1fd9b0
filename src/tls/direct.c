/* The direct backend: OpenSSL's own read and write, on the SSL of the SSLObject,
 * over a BIO that reads from what was fed and writes to `out`.  No Python object
 * is made for a record.
 *
 * Reading and writing run attached; the BIO's callbacks also detached, inside of a
 * handshake.  The BIO, which the SSL owns, is the second owner of the UvtTls.
 */
#include "engine.h"
#include <stdatomic.h>
#include <string.h>

/* ---- the BIO ---- */

/* A callback gets the BIO and nothing else, and to ask it for its data takes a
 * function of OpenSSL.  That one is the same for every interpreter in the process:
 * set once, never changed. */
typedef void *(*GetData)(BIO *bio);
static _Atomic(GetData) get_data;

static UvtTls *
tls_of(BIO *bio)
{
    GetData ask = atomic_load_explicit(&get_data, memory_order_relaxed);
    return ask(bio);
}

static int
on_read(BIO *bio, char *buf, size_t len, size_t *got)
{
    UvtTls *self = tls_of(bio);
    UvtOpenSSL *lib = self->lib;
    if (self->in_len == 0) {
        lib->BIO_set_flags(bio, UVT_BIO_FLAGS_READ | UVT_BIO_FLAGS_SHOULD_RETRY);
        *got = 0;
        return 0;
    }
    lib->BIO_clear_flags(bio, UVT_BIO_FLAGS_RWS | UVT_BIO_FLAGS_SHOULD_RETRY);
    if (len > self->in_len) {
        len = self->in_len;
    }
    memcpy(buf, self->in, len);
    self->in += len;
    self->in_len -= len;
    self->inside += len;
    *got = len;
    return 1;
}

static int
on_write(BIO *bio, const char *buf, size_t len, size_t *put)
{
    UvtTls *self = tls_of(bio);
    self->lib->BIO_clear_flags(bio,
                               UVT_BIO_FLAGS_RWS | UVT_BIO_FLAGS_SHOULD_RETRY);
    /* Given up: whoever kept the SSLObject is told that it is closed. */
    if (self->backend == NULL || !uvt_tls_put_output(self, buf, len)) {
        *put = 0;
        return 0;
    }
    *put = len;
    return 1;
}

static long
on_ctrl(BIO *Py_UNUSED(bio), int command, long Py_UNUSED(number),
        void *Py_UNUSED(pointer))
{
    return command == UVT_BIO_CTRL_FLUSH;
}

static int
on_destroy(BIO *bio)
{
    UvtTls *self = tls_of(bio);
    if (self != NULL) {
        uvt_tls_disown(self);
    }
    return 1;
}

bool
uvt_tls_make_method(UvtOpenSSL *lib)
{
    GetData none = NULL;
    if (!atomic_compare_exchange_strong(&get_data, &none, lib->BIO_get_data)
        && none != lib->BIO_get_data) {
        return false;       /* a second OpenSSL in this process */
    }
    lib->method = lib->BIO_meth_new(
        lib->BIO_get_new_index() | UVT_BIO_TYPE_SOURCE_SINK, "uvtulip");
    return lib->method != NULL
        && lib->BIO_meth_set_read_ex(lib->method, on_read)
        && lib->BIO_meth_set_write_ex(lib->method, on_write)
        && lib->BIO_meth_set_ctrl(lib->method, on_ctrl)
        && lib->BIO_meth_set_destroy(lib->method, on_destroy);
}

/* ---- the backend ---- */

/* An error of an older call, of whomever, would be taken for one of ours. */
static inline void
forget_errors(const UvtOpenSSL *lib)
{
    if (lib->ERR_peek_error() != 0) {
        lib->ERR_clear_error();
    }
}

static UvtTlsStatus
no_memory(UvtTls *self)
{
    PyErr_SetNone(PyExc_MemoryError);
    return uvt_tls_status(self);
}

/* What OpenSSL has had to say was said with an earlier call. */
static UvtTlsStatus
failed_before(UvtTls *self)
{
    uvt_tls_raise_failed(self);
    return UVT_TLS_ERROR;
}

/* A call has failed for good, and only the queue of errors knows why: the same call
 * again might find nothing wrong.  ssl has to make the exception.  A connection whose
 * peer has ended answers a read at once and leaves the queue as it is, so ssl's read()
 * finds what is there, or raises what a callback of the context has raised. */
static UvtTlsStatus
raise_queued(UvtTls *self)
{
    UvtOpenSSL *lib = self->lib;
    int before = lib->SSL_get_shutdown(self->ssl);
    PyObject *result;
    if (self->no_memory) {
        return no_memory(self);
    }
    lib->SSL_set_shutdown(self->ssl, before | UVT_SSL_RECEIVED_SHUTDOWN);
    result = PyObject_CallMethod(self->target, "read", "i", 1);
    lib->SSL_set_shutdown(self->ssl, before);
    if (result == NULL && uvt_tls_status(self) == UVT_TLS_ERROR) {
        return UVT_TLS_ERROR;
    }
    Py_XDECREF(result);
    return failed_before(self);
}

/* The SSL_get_error() of a call that had no success. */
static UvtTlsStatus
not_done(UvtTls *self, int error)
{
    UvtTlsStatus status;
    if (PyErr_Occurred()) {
        return UVT_TLS_ERROR;       /* from a callback of the context */
    }
    if (error == UVT_SSL_ERROR_ZERO_RETURN) {
        return UVT_TLS_EOF;
    }
    if (error == UVT_SSL_ERROR_WANT_READ || error == UVT_SSL_ERROR_WANT_WRITE) {
        return self->failed ? failed_before(self)
             : self->no_memory ? no_memory(self) : UVT_TLS_WANT;
    }
    status = raise_queued(self);
    self->failed = true;
    return status;
}

/* From Python 3.15 on, what a callback of the context has raised is still set. */
static inline UvtTlsStatus
done(UvtTls *self)
{
    if (PyErr_Occurred()) {
        self->failed = true;
        return UVT_TLS_ERROR;
    }
    return UVT_TLS_OK;
}

static UvtTlsStatus
direct_read(UvtTls *self, char *buf, size_t len, size_t *got)
{
    UvtOpenSSL *lib = self->lib;
    forget_errors(lib);
    if (lib->SSL_read_ex(self->ssl, buf, len, got)) {
        self->inside = 0;
        return done(self);
    }
    return not_done(self, lib->SSL_get_error(self->ssl, 0));
}

static UvtTlsStatus
direct_write(UvtTls *self, const char *buf, size_t len, size_t *put)
{
    UvtOpenSSL *lib = self->lib;
    forget_errors(lib);
    if (lib->SSL_write_ex(self->ssl, buf, len, put)) {
        return done(self);
    }
    return not_done(self, lib->SSL_get_error(self->ssl, 0));
}

/* ssl has the buffers of 16 KiB given back after each record.  A part of a handshake
 * is several: the buffers stay until its end, where a record layer hears of that.
 * Returns SSL_get_error()'s number. */
static int
shake(const UvtOpenSSL *lib, SSL *ssl)
{
    const long release = UVT_SSL_MODE_RELEASE_BUFFERS;
    int error;
    if (lib->keeps_mode
        || !(lib->SSL_ctrl(ssl, UVT_SSL_CTRL_MODE, 0, NULL) & release)) {
        return lib->SSL_get_error(ssl, lib->SSL_do_handshake(ssl));
    }
    (void)lib->SSL_ctrl(ssl, UVT_SSL_CTRL_CLEAR_MODE, release, NULL);
    error = lib->SSL_get_error(ssl, lib->SSL_do_handshake(ssl));
    (void)lib->SSL_ctrl(ssl, UVT_SSL_CTRL_MODE, release, NULL);
    (void)lib->SSL_free_buffers(ssl);
    return error;
}

/* Python is asked when all is done: it raises what a callback of the context has
 * raised. */
static UvtTlsStatus
direct_handshake(UvtTls *self)
{
    UvtOpenSSL *lib = self->lib;
    SSL *ssl = self->ssl;
    int error;
    forget_errors(lib);
    Py_BEGIN_ALLOW_THREADS
    error = shake(lib, ssl);
    Py_END_ALLOW_THREADS
    if (error != UVT_SSL_ERROR_NONE) {
        return not_done(self, error);
    }
    if (done(self) == UVT_TLS_ERROR) {
        return UVT_TLS_ERROR;
    }
    return self->no_memory ? no_memory(self)
                           : uvt_tls_call(self, self->st->str_do_handshake);
}

/* The first call sends, the second one reads.  A failure is none of the connection's:
 * OpenSSL refuses it in the middle of a handshake, for instance. */
static UvtTlsStatus
direct_shutdown(UvtTls *self)
{
    UvtOpenSSL *lib = self->lib;
    bool failed = self->failed;
    UvtTlsStatus status;
    int result;
    forget_errors(lib);
    result = lib->SSL_shutdown(self->ssl);
    if (self->no_memory) {
        return no_memory(self);
    }
    if (result == 0) {
        result = lib->SSL_shutdown(self->ssl);
    }
    if (result >= 0) {
        return done(self);
    }
    status = not_done(self, lib->SSL_get_error(self->ssl, result));
    self->failed = failed;
    return status;
}

static UvtTlsStatus
direct_close_notify(UvtTls *self)
{
    const char *in = self->in;
    size_t in_len = self->in_len;
    UvtTlsStatus status;
    self->in_len = 0;
    status = direct_shutdown(self);
    self->in = in;
    self->in_len = in_len;
    return status;
}

const UvtTlsBackend uvt_tls_direct = {
    .name = "openssl",
    .handshake = direct_handshake,
    .shutdown = direct_shutdown,
    .close_notify = direct_close_notify,
    .read = direct_read,
    .write = direct_write,
};

int
uvt_tls_make_direct(UvtTls *self, PyObject *sslobj, PyObject *context)
{
    UvtOpenSSL *lib = self->st->openssl;
    SSL *ssl = uvt_openssl_ssl_of(lib, sslobj, context);
    BIO *bio;
    if (ssl == NULL) {
        return 0;
    }
    bio = lib->BIO_new(lib->method);
    if (bio == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    self->lib = uvt_openssl_share(lib);
    self->ssl = ssl;
    self->backend = &uvt_tls_direct;
    atomic_fetch_add(&self->owners, 1);
    lib->BIO_set_data(bio, self);
    lib->BIO_set_init(bio, 1);
    lib->SSL_set_bio(ssl, bio, bio);
    return 1;
}
