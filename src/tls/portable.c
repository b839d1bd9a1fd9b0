/* The portable backend: two ssl.MemoryBIO and the methods of the SSLObject.  For
 * interpreters, TLS libraries and SSLObjects that the direct one does not know.
 * All functions run attached.
 */
#include "engine.h"
#include <string.h>

static int
portable_feed(UvtTls *self, const char *base, size_t len)
{
    PyObject *view = PyMemoryView_FromMemory((char *)base, (Py_ssize_t)len,
                                             PyBUF_READ);
    PyObject *result = NULL;
    if (view != NULL) {
        result = PyObject_CallMethodOneArg(self->incoming, self->st->str_write,
                                           view);
        Py_DECREF(view);
    }
    if (result == NULL) {
        return -1;
    }
    Py_DECREF(result);
    self->inside += len;
    return 0;
}

static int
portable_collect(UvtTls *self)
{
    PyObject *data = PyObject_CallMethodNoArgs(self->outgoing, self->st->str_read);
    char *base;
    Py_ssize_t len;
    int rc = data == NULL ? -1 : PyBytes_AsStringAndSize(data, &base, &len);
    if (rc == 0 && len > 0 && !uvt_tls_put_output(self, base, (size_t)len)) {
        self->no_memory = false;
        PyErr_NoMemory();
        rc = -1;
    }
    Py_XDECREF(data);
    return rc;
}

/* After an error, "want read" would be waited for without end. */
static UvtTlsStatus
note_failure(UvtTls *self, UvtTlsStatus status)
{
    if (status == UVT_TLS_WANT && self->failed) {
        uvt_tls_raise_failed(self);
        return UVT_TLS_ERROR;
    }
    if (status == UVT_TLS_ERROR && PyErr_ExceptionMatches(PyExc_Exception)) {
        self->failed = true;        /* not after Ctrl-C */
    }
    return status;
}

/* Takes a method's result, a count, apart. */
static UvtTlsStatus
finish(UvtTls *self, PyObject *result, size_t len, size_t *count)
{
    UvtTlsStatus status = UVT_TLS_OK;
    PyObject *raised;
    *count = 0;
    if (result == NULL) {
        status = uvt_tls_status(self);
    }
    else {
        Py_ssize_t value = PyLong_AsSsize_t(result);
        Py_DECREF(result);
        if (value < 0 || (size_t)value > len) {
            if (!PyErr_Occurred()) {
                PyErr_SetString(PyExc_SystemError,
                                "an SSLObject returned an impossible count");
            }
            status = UVT_TLS_ERROR;
        }
        else {
            *count = (size_t)value;
        }
    }
    raised = PyErr_GetRaisedException();
    if (portable_collect(self) < 0 && status != UVT_TLS_ERROR) {
        return UVT_TLS_ERROR;
    }
    if (raised != NULL) {
        PyErr_SetRaisedException(raised);
    }
    return note_failure(self, status);
}

/* A class of the user's might keep what it is given: it gets no view of memory
 * that is ours. */
static bool
is_foreign(const UvtTls *self)
{
    return self->target == self->object;
}

/* object.read(size) into buf; the count. */
static PyObject *
read_copied(UvtTls *self, char *buf, PyObject *size, size_t len)
{
    PyObject *data = PyObject_CallMethodOneArg(self->target, self->st->str_read,
                                               size);
    Py_buffer view;
    Py_ssize_t count;
    int rc = data == NULL ? -1 : PyObject_GetBuffer(data, &view, PyBUF_SIMPLE);
    Py_XDECREF(data);       /* the view keeps it */
    if (rc < 0) {
        return NULL;
    }
    count = view.len;
    if (count > 0 && (size_t)count <= len) {
        memcpy(buf, view.buf, (size_t)count);
    }
    PyBuffer_Release(&view);
    return PyLong_FromSsize_t(count);
}

static UvtTlsStatus
portable_read(UvtTls *self, char *buf, size_t len, size_t *got)
{
    Py_ssize_t wanted = len < PY_SSIZE_T_MAX / 2 ? (Py_ssize_t)len
                                                 : PY_SSIZE_T_MAX / 2;
    PyObject *size = PyLong_FromSsize_t(wanted), *view = NULL, *result = NULL;
    UvtTlsStatus status;
    if (size != NULL && is_foreign(self)) {
        result = read_copied(self, buf, size, len);
    }
    else if (size != NULL) {
        view = PyMemoryView_FromMemory(buf, wanted, PyBUF_WRITE);
        if (view != NULL) {
            result = PyObject_CallMethodObjArgs(self->target, self->st->str_read,
                                                size, view, NULL);
        }
    }
    Py_XDECREF(size);
    Py_XDECREF(view);
    status = finish(self, result, len, got);
    if (status == UVT_TLS_WANT) {
        self->inside = 0;
    }
    return status == UVT_TLS_OK && *got == 0 ? UVT_TLS_EOF : status;
}

static UvtTlsStatus
portable_write(UvtTls *self, const char *buf, size_t len, size_t *put)
{
    PyObject *data = is_foreign(self)
        ? PyBytes_FromStringAndSize(buf, (Py_ssize_t)len)
        : PyMemoryView_FromMemory((char *)buf, (Py_ssize_t)len, PyBUF_READ);
    PyObject *result = NULL;
    if (data != NULL) {
        result = PyObject_CallMethodOneArg(self->target, self->st->str_write,
                                           data);
        Py_DECREF(data);
    }
    return finish(self, result, len, put);
}

static UvtTlsStatus
portable_handshake(UvtTls *self)
{
    return note_failure(self, uvt_tls_call(self, self->st->str_do_handshake));
}

static UvtTlsStatus
portable_shutdown(UvtTls *self)
{
    return uvt_tls_call(self, is_foreign(self) ? self->st->str_unwrap
                                               : self->st->str_shutdown);
}

static UvtTlsStatus
portable_close_notify(UvtTls *self)
{
    PyObject *unread = PyObject_CallMethodNoArgs(self->incoming,
                                                 self->st->str_read);
    PyObject *raised, *result;
    UvtTlsStatus status;
    if (unread == NULL) {
        return UVT_TLS_ERROR;
    }
    status = portable_shutdown(self);
    raised = PyErr_GetRaisedException();
    result = PyObject_CallMethodOneArg(self->incoming, self->st->str_write, unread);
    if (result == NULL && raised == NULL) {
        status = UVT_TLS_ERROR;
    }
    Py_XDECREF(result);
    Py_DECREF(unread);
    if (raised != NULL) {
        PyErr_SetRaisedException(raised);
    }
    return status;
}

const UvtTlsBackend uvt_tls_portable = {
    .name = "memory-bio",
    .handshake = portable_handshake,
    .shutdown = portable_shutdown,
    .close_notify = portable_close_notify,
    .feed = portable_feed,
    .read = portable_read,
    .write = portable_write,
    .collect = portable_collect,
};
