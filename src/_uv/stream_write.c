/* The writing side of streams: write, try_write, shutdown.  All functions run on
 * the loop's thread, attached.  A request is an allocation of its own, freed in
 * libuv's callback, which comes even when the handle object is gone.
 */
#include "args.h"
#include "buffer.h"
#include "loop.h"
#include "stream.h"
#include "task.h"
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/uio.h>

typedef struct Write {
    uv_write_t req;             /* first: libuv gives this one back */
    UvtRequest base;
    UvtBox *sent;               /* pinned, or NULL */
    UvtBuffers buffers;
    uv_buf_t *iov;              /* what libuv has not written, ... */
    unsigned count, part;       /* ... and how many of it libuv has now */
} Write;

typedef struct Shutdown {
    uv_shutdown_t req;          /* first: libuv gives this one back */
    UvtRequest base;
} Shutdown;

static void on_write(uv_write_t *req, int status);

/* What one request could not take is the next one's: libuv's status, or 1 if there is
 * nothing left.  It uses nothing of Python's. */
static int
write_next(Write *write)
{
    size_t whole;
    unsigned part = write->part;
    int rc;
    while (part > 0) {
        uv_buf_t *first = write->iov;
        if (part == 1 && first->len > UVT_MOST_AT_ONCE) {
            first->base += UVT_MOST_AT_ONCE;
            first->len -= UVT_MOST_AT_ONCE;
            break;
        }
        write->iov++;
        write->count--;
        part--;
    }
    if (write->count == 0) {
        return 1;
    }
    write->part = uvt_iov_fit(write->iov, write->count, &whole);
    rc = uv_write(&write->req, write->req.handle, write->iov, write->part, on_write);
    if (whole > 0) {
        write->iov->len = whole;
    }
    return rc;
}

static void
on_write(uv_write_t *req, int status)
{
    Write *write = (Write *)req;
    UvtBox *sent = write->sent;
    if (status == 0 && !uv_is_closing((uv_handle_t *)req->handle)) {
        int rc = write_next(write);
        if (rc == 0) {
            return;
        }
        status = rc < 0 ? rc : 0;
    }
    uvt_request_done(&write->base, req->handle, status);
    PyMem_Free(write);
    if (sent != NULL) {
        uvt_box_unpin(sent);
    }
}

/* Leaves out the first n bytes, which are sent already, and empty pieces at the end:
 * for these libuv would wait until more can be sent. */
static void
skip_sent(const UvtBuffers *buffers, size_t n, uv_buf_t **iov, unsigned *count)
{
    *iov = buffers->iov;
    *count = (unsigned)buffers->count;
    while (*count > 1 && (*iov)[*count - 1].len == 0) {
        (*count)--;
    }
    while (*count > 1 && n >= (*iov)->len) {
        n -= (*iov)->len;
        (*iov)++;
        (*count)--;
    }
    if (n > (*iov)->len) {
        n = (*iov)->len;
    }
    (*iov)->base += n;
    (*iov)->len -= n;
}

/* As uvt_handle_check(), for a request to libuv that sends.  A listening handle can
 * count as writable; but libuv takes all that it then tells of it for a connection,
 * and aborts. */
static bool
check_sends(UvtHandle *self, int refusal, const char *call)
{
    if (!uvt_handle_check(self)) {
        return false;
    }
    if (self->listening) {
        (void)uvt_handle_raise(self, refusal, call);
        return false;
    }
    return true;
}

/* ---- on a descriptor that blocks ---- */

/* At most how many pieces one call takes. */
#define PIECES 64

/* One call, of what comes after the first `skip` bytes.  Others run meanwhile, but
 * nobody may touch the loop.  The count, or -1 with errno. */
static ssize_t
write_once(UvtHandle *self, const uv_buf_t *iov, size_t count, size_t skip)
{
    int fd = self->box->uv.stream.io_watcher.fd, error;
    UvtLoop *loop = self->loop;
    struct iovec pieces[PIECES];
    int n = 0;
    UvtBlocking blocking;
    ssize_t sent;
    for (size_t i = 0; i < count && n < PIECES; i++) {
        if (skip >= iov[i].len) {
            skip -= iov[i].len;
            continue;
        }
        pieces[n].iov_base = iov[i].base + skip;
        pieces[n++].iov_len = iov[i].len - skip;
        skip = 0;
    }
    blocking = uvt_blocking_begin(loop);
    sent = writev(fd, pieces, n);
    if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
        /* Somebody who shares the descriptor has made it non-blocking. */
        struct pollfd entry = {.fd = fd, .events = POLLOUT};
        (void)poll(&entry, 1, -1);
        errno = EINTR;
    }
    error = errno;
    uvt_blocking_end(loop, blocking);
    errno = error;
    return sent;
}

/* All of it, or as much as can be sent: what is left has an error, which libuv tells
 * of.  A signal's handler may end it.  False with an exception. */
static bool
write_blocking(UvtHandle *self, const char *call, const UvtBuffers *buffers,
               size_t *sent)
{
    while (*sent < buffers->nbytes) {
        ssize_t n = write_once(self, buffers->iov, (size_t)buffers->count, *sent);
        if (n > 0) {
            *sent += (size_t)n;
        }
        else if (n < 0 && errno != EINTR) {
            break;
        }
        if (PyErr_CheckSignals() < 0 || !uvt_handle_check_free(self, call)) {
            return false;
        }
    }
    return true;
}

/* Whether a write goes around libuv's queue. */
static bool
writes_blocking(const UvtHandle *self)
{
    const uv_stream_t *uv = &self->box->uv.stream;
    return self->blocks && uv_is_writable(uv) && uv->connect_req == NULL
        && uv_stream_get_write_queue_size(uv) == 0;
}

/* uv_try_write(), with others running while it blocks. */
int
uvt_stream_try(UvtHandle *self, uv_buf_t *iov, unsigned count)
{
    UvtLoop *loop = self->loop;
    UvtBlocking blocking;
    size_t whole;
    int rc;
    count = uvt_iov_fit(iov, count, &whole);
    if (!self->blocks) {
        rc = uv_try_write(&self->box->uv.stream, iov, count);
    }
    else {
        blocking = uvt_blocking_begin(loop);
        rc = uv_try_write(&self->box->uv.stream, iov, count);
        uvt_blocking_end(loop, blocking);
    }
    if (whole > 0) {
        iov->len = whole;
    }
    return rc;
}

int
uvt_stream_queue(UvtHandle *self, uv_write_t *req, const uv_buf_t *iov,
                 unsigned count, UvtHandle *sent, uv_write_cb callback)
{
    uv_stream_t *uv = &self->box->uv.stream;
    uv_stream_t *along = sent != NULL ? &sent->box->uv.stream : NULL;
    UvtLoop *loop = self->loop;
    UvtBlocking blocking;
    int rc;
    if (!self->blocks) {
        return uv_write2(req, uv, iov, count, along, callback);
    }
    blocking = uvt_blocking_begin(loop);
    rc = uv_write2(req, uv, iov, count, along, callback);
    uvt_blocking_end(loop, blocking);
    return rc;
}

/* ---- write ---- */

static int
write_first(UvtHandle *self, Write *write, UvtHandle *sent)
{
    size_t whole;
    int rc;
    write->part = uvt_iov_fit(write->iov, write->count, &whole);
    rc = uvt_stream_queue(self, &write->req, write->iov, write->part, sent, on_write);
    if (whole > 0) {
        write->iov->len = whole;
    }
    return rc;
}

/* Leaves to libuv what comes after the first `sent` bytes of data. */
static PyObject *
write_queue(UvtHandle *self, PyObject *data, PyObject *callback, size_t sent)
{
    Write *write = PyMem_Calloc(1, sizeof(Write));
    int rc;

    if (write == NULL) {
        return PyErr_NoMemory();
    }
    if (!uvt_buffers_get(&write->buffers, "Stream.write", data)) {
        PyMem_Free(write);
        return NULL;
    }
    /* Getting the buffers may have run code that closed the handle. */
    if (!check_sends(self, UV_EPIPE, "uv_write")) {
        uvt_buffers_release(&write->buffers);
        PyMem_Free(write);
        return NULL;
    }
    if (writes_blocking(self)
        && !write_blocking(self, "Stream.write", &write->buffers, &sent)) {
        uvt_buffers_release(&write->buffers);
        PyMem_Free(write);
        return NULL;
    }
    skip_sent(&write->buffers, sent, &write->iov, &write->count);
    write->base.data = &write->buffers;
    uvt_request_begin(&write->base, self, callback);
    rc = write_first(self, write, NULL);
    if (rc < 0) {
        uvt_request_cancel(&write->base);
        PyMem_Free(write);
        return uvt_handle_raise(self, rc, "uv_write");
    }
    Py_RETURN_NONE;
}

/* Sends what the kernel takes at once: its status in *rc, the size of the data
 * in *nbytes.  False with an exception.  Plain bytes, the usual case, need no
 * buffer to be got and released. */
static bool
try_data(UvtHandle *self, const char *call, PyObject *data, int *rc,
         size_t *nbytes)
{
    UvtBuffers buffers;
    if (PyBytes_CheckExact(data)) {
        uv_buf_t buf = {
            .base = PyBytes_AS_STRING(data),
            .len = (size_t)PyBytes_GET_SIZE(data),
        };
        *nbytes = buf.len;
        *rc = uvt_stream_try(self, &buf, 1);
        return true;
    }
    memset(&buffers, 0, sizeof(buffers));
    if (!uvt_buffers_get(&buffers, call, data)) {
        return false;
    }
    /* Getting the buffers may have run code that closed the handle. */
    if (!uvt_handle_check(self)) {
        uvt_buffers_release(&buffers);
        return false;
    }
    *nbytes = buffers.nbytes;
    *rc = uvt_stream_try(self, buffers.iov, (unsigned)buffers.count);
    uvt_buffers_release(&buffers);
    return true;
}

PyObject *
uvt_stream_write_handle(UvtHandle *self, PyObject *data, PyObject *callback,
                        UvtHandle *sent)
{
    Write *write = PyMem_Calloc(1, sizeof(Write));
    int rc;
    if (write == NULL) {
        return PyErr_NoMemory();
    }
    if (!uvt_buffers_get(&write->buffers, "Pipe.write", data)) {
        PyMem_Free(write);
        return NULL;
    }
    /* Getting the buffers may have run code that closed a handle. */
    if (!check_sends(self, UV_EPIPE, "uv_write2") || !uvt_handle_check(sent)
        || write->buffers.nbytes == 0) {
        if (!PyErr_Occurred()) {
            PyErr_SetString(PyExc_ValueError,
                            "Pipe.write(): a handle needs data to go with");
        }
        uvt_buffers_release(&write->buffers);
        PyMem_Free(write);
        return NULL;
    }
    skip_sent(&write->buffers, 0, &write->iov, &write->count);
    write->base.data = &write->buffers;
    write->base.sent = Py_NewRef(sent);
    write->sent = sent->box;
    uvt_box_pin(write->sent);
    uvt_request_begin(&write->base, self, callback);
    rc = write_first(self, write, sent);
    if (rc < 0) {
        uvt_box_unpin(write->sent);
        uvt_request_cancel(&write->base);
        PyMem_Free(write);
        return uvt_handle_raise(self, rc, "uv_write2");
    }
    Py_RETURN_NONE;
}

const char uvt_stream_write_doc[] =
"write($self, data, callback=None, /)\n--\n\n"
"Send data, a bytes-like object or a sequence of them; it must not change until\n"
"callback(handle, errorno), which comes from a later turn of the loop.\n\n"
"Raises TypeError, ValueError (an empty sequence), HandleClosedError, and the\n"
"handle's own error (EBADF, EPIPE: not connected, or listening).";

/* Without a callback nobody waits for the end of the write: what the kernel
 * takes at once needs no request, and no further turn of the loop. */
PyObject *
uvt_stream_write(UvtHandle *self, PyObject *const *args, Py_ssize_t nargs)
{
    UVT_LOCKED(self->lock);
    PyObject *callback = NULL;
    size_t nbytes;
    int rc;

    if (!uvt_args_count("Stream.write", nargs, 1, 2)
        || !uvt_arg_callback("Stream.write", nargs > 1 ? args[1] : NULL,
                             &callback)
        || !uvt_handle_check_free(self, "Stream.write")) {
        return NULL;
    }
    if (callback != NULL || self->blocks
        || uv_stream_get_write_queue_size(&self->box->uv.stream) > 0) {
        return write_queue(self, args[0], callback, 0);
    }
    if (!try_data(self, "Stream.write", args[0], &rc, &nbytes)) {
        return NULL;
    }
    if (rc >= 0 && (size_t)rc == nbytes) {
        Py_RETURN_NONE;
    }
    /* Releasing the buffers may have run code, too. */
    if (!uvt_handle_check(self)) {
        return NULL;
    }
    return write_queue(self, args[0], NULL, rc > 0 ? (size_t)rc : 0);
}

PyObject *
uvt_stream_writelines(UvtHandle *self, PyObject *const *args, Py_ssize_t nargs)
{
    UVT_LOCKED(self->lock);
    PyObject *given[2], *result;
    if (!uvt_args_count("Stream.writelines", nargs, 1, 2)) {
        return NULL;
    }
    given[0] = PySequence_Tuple(args[0]);
    if (given[0] == NULL) {
        return NULL;
    }
    given[1] = nargs > 1 ? args[1] : Py_None;
    result = uvt_stream_write(self, given, 2);
    Py_DECREF(given[0]);
    return result;
}

PyObject *
uvt_stream_try_write(UvtHandle *self, PyObject *data)
{
    UVT_LOCKED(self->lock);
    size_t nbytes;
    int rc;
    if (!uvt_handle_check_free(self, "Stream.try_write")
        || !try_data(self, "Stream.try_write", data, &rc, &nbytes)) {
        return NULL;
    }
    if (rc < 0) {
        return uvt_handle_raise(self, rc, "uv_try_write");
    }
    return PyLong_FromLong(rc);
}

/* ---- shutdown ---- */

static void
on_shutdown(uv_shutdown_t *req, int status)
{
    Shutdown *shutdown = (Shutdown *)req;
    uvt_request_done(&shutdown->base, req->handle, status);
    PyMem_Free(shutdown);
}

PyObject *
uvt_stream_shutdown(UvtHandle *self, PyObject *const *args, Py_ssize_t nargs)
{
    UVT_LOCKED(self->lock);
    PyObject *callback = NULL;
    Shutdown *shutdown;
    int rc;

    if (!uvt_args_count("Stream.shutdown", nargs, 0, 1)
        || !uvt_arg_callback("Stream.shutdown", nargs > 0 ? args[0] : NULL,
                             &callback)
        || !uvt_handle_check_free(self, "Stream.shutdown")
        || !check_sends(self, UV_ENOTCONN, "uv_shutdown")) {
        return NULL;
    }
    if (!uvt_stream_has_fd(self)) {
        return uvt_handle_raise(self, UV_ENOTCONN, "uv_shutdown");
    }
    shutdown = PyMem_Calloc(1, sizeof(Shutdown));
    if (shutdown == NULL) {
        return PyErr_NoMemory();
    }
    uvt_request_begin(&shutdown->base, self, callback);
    rc = uv_shutdown(&shutdown->req, &self->box->uv.stream, on_shutdown);
    if (rc < 0) {
        uvt_request_cancel(&shutdown->base);
        PyMem_Free(shutdown);
        return uvt_handle_raise(self, rc, "uv_shutdown");
    }
    Py_RETURN_NONE;
}
