/* What is written or read into: bytes-like objects held as Py_buffers while the
 * kernel may use them.  The functions run attached, on the thread of the call.
 * An UvtBuffers owns its views and, for many pieces, the arrays; the views own
 * their objects.
 */
#include "buffer.h"

#include <limits.h>
#include <string.h>

/* Views the object as the next piece. */
static bool
add_piece(UvtBuffers *self, const char *call, PyObject *data, int flags)
{
    Py_buffer *view = &self->views[self->count];
    if (PyUnicode_Check(data) || !PyObject_CheckBuffer(data)) {
        PyErr_Format(PyExc_TypeError,
                     "%s(): a bytes-like object is required, not %.200s", call,
                     Py_TYPE(data)->tp_name);
        return false;
    }
    if (PyBytes_CheckExact(data) && flags == PyBUF_SIMPLE) {
        /* All that is needed here, and to release it. */
        view->obj = Py_NewRef(data);
        view->buf = PyBytes_AS_STRING(data);
        view->len = PyBytes_GET_SIZE(data);
    }
    else if (PyObject_GetBuffer(data, view, flags) < 0) {
        if (PyErr_ExceptionMatches(PyExc_BufferError)) {
            PyErr_Clear();
            PyErr_Format(PyExc_TypeError,
                         "%s(): a contiguous %sbytes-like object is required, "
                         "this %.200s does not give one", call,
                         flags & PyBUF_WRITABLE ? "writable " : "",
                         Py_TYPE(data)->tp_name);
        }
        return false;
    }
    self->iov[self->count].base = view->buf;
    self->iov[self->count].len = (size_t)view->len;
    self->count++;
    if ((size_t)view->len > (size_t)PY_SSIZE_T_MAX - self->nbytes) {
        PyErr_Format(PyExc_OverflowError, "%s(): too many bytes", call);
        return false;
    }
    self->nbytes += (size_t)view->len;
    return true;
}

/* Room for count pieces: inline, or views and then iov in one allocation. */
static bool
make_room(UvtBuffers *self, const char *call, Py_ssize_t count)
{
    const size_t piece = sizeof(Py_buffer) + sizeof(uv_buf_t);
    self->views = self->views_inline;
    self->iov = self->iov_inline;
    if (count <= UVT_BUFFERS_INLINE) {
        return true;
    }
    /* libuv counts pieces in an unsigned int. */
    if (count > INT_MAX || (size_t)count > (size_t)PY_SSIZE_T_MAX / piece) {
        PyErr_Format(PyExc_OverflowError, "%s(): too many pieces", call);
        return false;
    }
    self->views = PyMem_Malloc((size_t)count * piece);
    if (self->views == NULL) {
        self->views = self->views_inline;
        PyErr_NoMemory();
        return false;
    }
    self->iov = (uv_buf_t *)(self->views + count);
    return true;
}

/* The tuple keeps each item alive until it is viewed: the getbuffer code of
 * one item can change the sequence that the others came from. */
static bool
add_pieces(UvtBuffers *self, const char *call, PyObject *items, int flags)
{
    Py_ssize_t i, count = PyTuple_GET_SIZE(items);
    if (count == 0) {
        PyErr_Format(PyExc_ValueError, "%s(): the sequence is empty", call);
        return false;
    }
    if (!make_room(self, call, count)) {
        return false;
    }
    for (i = 0; i < count; i++) {
        if (!add_piece(self, call, PyTuple_GET_ITEM(items, i), flags)) {
            return false;
        }
    }
    return true;
}

static bool
get_buffers(UvtBuffers *self, const char *call, PyObject *data, int flags)
{
    PyObject *items;
    bool ok;
    self->count = 0;
    self->nbytes = 0;
    if (PyObject_CheckBuffer(data) || PyUnicode_Check(data)
        || !PySequence_Check(data)) {
        ok = make_room(self, call, 1) && add_piece(self, call, data, flags);
    }
    else {
        items = PySequence_Tuple(data);
        if (items == NULL) {
            return false;
        }
        ok = add_pieces(self, call, items, flags);
        Py_DECREF(items);
    }
    if (!ok) {
        /* Exporters may run code while they are let go of. */
        PyObject *exc = PyErr_GetRaisedException();
        uvt_buffers_release(self);
        PyErr_SetRaisedException(exc);
    }
    return ok;
}

bool
uvt_buffers_get(UvtBuffers *self, const char *call, PyObject *data)
{
    return get_buffers(self, call, data, PyBUF_SIMPLE);
}

bool
uvt_buffers_get_writable(UvtBuffers *self, const char *call, PyObject *data)
{
    return get_buffers(self, call, data, PyBUF_WRITABLE);
}

void
uvt_buffers_release(UvtBuffers *self)
{
    Py_buffer *views = self->views;
    Py_ssize_t i, count = self->count;
    self->count = 0;
    self->nbytes = 0;
    self->views = NULL;
    self->iov = NULL;
    for (i = 0; i < count; i++) {
        PyBuffer_Release(&views[i]);
    }
    if (views != self->views_inline) {
        PyMem_Free(views);
    }
}

unsigned
uvt_iov_fit(uv_buf_t *iov, unsigned count, size_t *whole)
{
    size_t sum = 0;
    unsigned n = 0;
    *whole = 0;
    while (n < count && iov[n].len <= UVT_MOST_AT_ONCE - sum) {
        sum += iov[n++].len;
    }
    if (n == 0) {
        *whole = iov->len;
        iov->len = UVT_MOST_AT_ONCE;
        n = 1;
    }
    return n;
}

unsigned
uvt_buffers_datagram(UvtBuffers *self)
{
    if (self->nbytes > UVT_MOST_AT_ONCE) {
        uv_buf_t *largest = self->iov;
        for (Py_ssize_t i = 1; i < self->count; i++) {
            if (self->iov[i].len > largest->len) {
                largest = &self->iov[i];
            }
        }
        self->iov[0] = *largest;
        if (largest->len > UVT_MOST_AT_ONCE) {
            self->iov[0].len = UVT_MOST_AT_ONCE;
        }
        return 1;
    }
    return (unsigned)self->count;
}
