/* What both backends have in common: the state, input and output, what a call has
 * come to.
 *
 * Functions run attached, except those that a BIO calls: uvt_tls_put_output() and
 * uvt_tls_disown().
 */
#include "engine.h"
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_OUTPUT ((size_t)4 * 1024)

/* ---- the state ---- */

#define FOR_EACH_STRING(DO) \
    DO(_create) DO(_sslobj) DO(_wrap_bio) DO(context) DO(do_handshake) DO(pending) \
    DO(read) DO(shutdown) DO(sslobject_class) DO(unwrap) DO(wrap_bio) DO(write)

#define FOR_EACH_OBJECT(DO) \
    DO(memory_bio) DO(context_type) DO(object_type) DO(sslobj_type) DO(error) \
    DO(certificate_error) DO(want_read) DO(want_write) DO(syscall_error) \
    DO(zero_return) DO(eof_error) DO(wrap_bio) DO(incoming) DO(outgoing) \
    DO(wrap_names) DO(low_context_type) DO(globals) DO(msg_callback) \
    DO(keylog_filename)

static int
import_names(UvtTlsState *st, PyObject *ssl, PyObject *low)
{
    const struct {
        PyObject **slot, *module;
        const char *name;
    } names[] = {
        {&st->memory_bio, ssl, "MemoryBIO"},
        {&st->context_type, ssl, "SSLContext"},
        {&st->object_type, ssl, "SSLObject"},
        {&st->low_context_type, low, "_SSLContext"},
        {&st->sslobj_type, low, "_SSLSocket"},
        {&st->error, ssl, "SSLError"},
        {&st->certificate_error, ssl, "CertificateError"},
        {&st->want_read, ssl, "SSLWantReadError"},
        {&st->want_write, ssl, "SSLWantWriteError"},
        {&st->syscall_error, ssl, "SSLSyscallError"},
        {&st->zero_return, ssl, "SSLZeroReturnError"},
        {&st->eof_error, ssl, "SSLEOFError"},
    };
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        Py_XSETREF(*names[i].slot,
                   PyObject_GetAttrString(names[i].module, names[i].name));
        if (*names[i].slot == NULL) {
            return -1;
        }
    }
#define INTERN(name) \
    Py_XSETREF(st->str_##name, PyUnicode_InternFromString(#name)); \
    if (st->str_##name == NULL) { \
        return -1; \
    }
    FOR_EACH_STRING(INTERN)
#undef INTERN
    return 0;
}

/* The module `ssl` is what threads wait at for each other. */
static int
prepare(UvtTlsState *st, PyObject *ssl, PyObject *low)
{
    const char *choice = getenv("UVTULIP_TLS");
    UVT_LOCKED(ssl);
    if (st->ready) {
        return 0;
    }
    if (import_names(st, ssl, low) < 0 || uvt_tls_prepare_wrap(st, ssl) < 0) {
        return -1;
    }
    st->openssl = uvt_openssl_find(low);
    if (st->openssl != NULL
        && !(uvt_tls_probe(st) && uvt_tls_make_method(st->openssl))) {
        uvt_openssl_drop(st->openssl);
        st->openssl = NULL;
    }
    st->portable = st->openssl == NULL
        || (choice != NULL && strcmp(choice, "portable") == 0);
    st->ready = true;
    return 0;
}

int
uvt_tls_prepare(UvtTlsState *st)
{
    PyObject *ssl, *low;
    int rc;
    if (st->ready) {
        return 0;
    }
    ssl = PyImport_ImportModule("ssl");
    low = ssl == NULL ? NULL : PyImport_ImportModule("_ssl");
    rc = low == NULL ? -1 : prepare(st, ssl, low);
    Py_XDECREF(low);
    Py_XDECREF(ssl);
    return rc;
}

PyObject *
uvt_tls_choose_backend(UvtTlsState *st, PyObject *portable)
{
    if (uvt_tls_prepare(st) < 0) {
        return NULL;
    }
    if (portable != Py_None) {
        int chosen = PyObject_IsTrue(portable);
        if (chosen < 0) {
            return NULL;
        }
        st->portable = chosen || st->openssl == NULL;
    }
    return PyUnicode_FromString(st->portable ? uvt_tls_portable.name
                                             : uvt_tls_direct.name);
}

int
uvt_tls_state_traverse(UvtTlsState *st, visitproc visit, void *arg)
{
#define VISIT(name) Py_VISIT(st->name);
    FOR_EACH_OBJECT(VISIT)
#undef VISIT
    return 0;
}

void
uvt_tls_state_clear(UvtTlsState *st)
{
#define CLEAR(name) Py_CLEAR(st->name);
    FOR_EACH_OBJECT(CLEAR)
#undef CLEAR
#define CLEAR(name) Py_CLEAR(st->str_##name);
    FOR_EACH_STRING(CLEAR)
#undef CLEAR
    uvt_openssl_drop(st->openssl);
    st->openssl = NULL;
    st->ready = false;
}

/* ---- life cycle ---- */

void
uvt_tls_disown(UvtTls *self)
{
    if (atomic_fetch_sub(&self->owners, 1) == 1) {
        uvt_openssl_drop(self->lib);
        PyMem_RawFree(self);
    }
}

void
uvt_tls_free(UvtTls *self)
{
    PyObject *object = self->object, *target = self->target;
    self->backend = NULL;
    self->object = self->target = NULL;
    uvt_tls_clear_output(self);
    self->in = NULL;
    self->in_len = 0;
    PyMem_RawFree(self->kept);
    self->kept = NULL;
    Py_CLEAR(self->incoming);
    Py_CLEAR(self->outgoing);
    Py_XDECREF(target);
    Py_XDECREF(object);
    uvt_tls_disown(self);
}

int
uvt_tls_traverse(UvtTls *self, visitproc visit, void *arg)
{
    Py_VISIT(self->object);
    Py_VISIT(self->target);
    Py_VISIT(self->incoming);
    Py_VISIT(self->outgoing);
    return 0;
}

/* ---- input ---- */

int
uvt_tls_feed(UvtTls *self, const char *base, size_t len)
{
    char *grown;
    if (self->backend->feed != NULL) {
        return self->backend->feed(self, base, len);
    }
    if (self->kept == NULL) {
        self->in = base;
        self->in_len = len;
        return 0;
    }
    grown = PyMem_RawMalloc(self->in_len + len);
    if (grown == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    memcpy(grown, self->in, self->in_len);
    memcpy(grown + self->in_len, base, len);
    PyMem_RawFree(self->kept);
    self->kept = grown;
    self->in = grown;
    self->in_len += len;
    return 0;
}

int
uvt_tls_keep(UvtTls *self)
{
    if (self->in_len == 0) {
        PyMem_RawFree(self->kept);
        self->kept = NULL;
        self->in = NULL;
    }
    else if (self->kept == NULL) {
        self->kept = PyMem_RawMalloc(self->in_len);
        if (self->kept == NULL) {
            self->in = NULL;
            self->in_len = 0;
            PyErr_NoMemory();
            return -1;
        }
        memcpy(self->kept, self->in, self->in_len);
        self->in = self->kept;
    }
    return 0;
}

size_t
uvt_tls_expect(const UvtTls *self)
{
    if (self->backend->feed != NULL) {
        return self->inside + UVT_TLS_PLAIN;
    }
    return self->in_len + self->inside > 0 ? self->in_len + self->inside
                                           : UVT_TLS_PLAIN;
}

/* ---- output ---- */

bool
uvt_tls_put_output(UvtTls *self, const char *base, size_t len)
{
    if (self->out_size - self->out_len < len) {
        size_t size = self->out_lent ? self->out_len : self->out_size;
        char *grown;
        size = size < FIRST_OUTPUT ? FIRST_OUTPUT : 2 * size;
        if (size < self->out_len + len) {
            size = self->out_len + len;
        }
        grown = PyMem_RawMalloc(size);
        if (grown == NULL) {
            self->no_memory = true;
            return false;
        }
        if (self->out_len > 0) {
            memcpy(grown, self->out, self->out_len);
        }
        if (!self->out_lent) {
            PyMem_RawFree(self->out);
        }
        self->out = grown;
        self->out_size = size;
        self->out_lent = false;
    }
    memcpy(self->out + self->out_len, base, len);
    self->out_len += len;
    return true;
}

void
uvt_tls_lend_output(UvtTls *self, char *room, size_t size)
{
    if (self->out == NULL) {
        self->out = room;
        self->out_size = size;
        self->out_lent = true;
    }
}

void
uvt_tls_reserve_output(UvtTls *self, size_t size)
{
    if (self->out == NULL) {
        self->out = PyMem_RawMalloc(size);
        self->out_size = self->out != NULL ? size : 0;
    }
}

void
uvt_tls_keep_output(UvtTls *self)
{
    const char *room = self->out;
    size_t len = self->out_len;
    if (self->out_lent) {
        uvt_tls_clear_output(self);
        if (len > 0 && !uvt_tls_put_output(self, room, len)) {
            self->no_memory = true;     /* for the next call to find */
        }
    }
}

void
uvt_tls_clear_output(UvtTls *self)
{
    if (!self->out_lent) {
        PyMem_RawFree(self->out);
    }
    self->out = NULL;
    self->out_lent = false;
    self->out_len = self->out_size = 0;
}

/* ---- calls of the SSLObject's methods ---- */

UvtTlsStatus
uvt_tls_status(UvtTls *self)
{
    UvtTlsState *st = self->st;
    if (self->no_memory) {
        self->no_memory = false;
        PyErr_NoMemory();
        return UVT_TLS_ERROR;
    }
    if (PyErr_ExceptionMatches(st->want_read)
        || PyErr_ExceptionMatches(st->want_write)
        || PyErr_ExceptionMatches(st->syscall_error)) {
        PyErr_Clear();
        return UVT_TLS_WANT;
    }
    if (PyErr_ExceptionMatches(st->zero_return)) {
        PyErr_Clear();
        return UVT_TLS_EOF;
    }
    return UVT_TLS_ERROR;
}

void
uvt_tls_raise_failed(UvtTls *self)
{
    PyObject *exc = PyObject_CallFunction(self->st->error, "is", UVT_SSL_ERROR_SSL,
                                          "the TLS connection has failed");
    if (exc != NULL) {
        PyErr_SetRaisedException(exc);
    }
}

UvtTlsStatus
uvt_tls_call(UvtTls *self, PyObject *name)
{
    PyObject *result = PyObject_CallMethodNoArgs(self->target, name), *raised;
    UvtTlsStatus status = UVT_TLS_OK;
    if (result == NULL) {
        status = uvt_tls_status(self);
    }
    Py_XDECREF(result);
    if (self->backend->collect != NULL) {
        /* An alert may be there to send, after a failure. */
        raised = PyErr_GetRaisedException();
        if (self->backend->collect(self) < 0) {
            status = UVT_TLS_ERROR;
        }
        if (raised != NULL) {
            PyErr_SetRaisedException(raised);
        }
    }
    return status;
}
