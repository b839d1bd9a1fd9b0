/* write(), writelines() and write_eof() of a stream transport.  Called attached,
 * on the thread that runs the loop or while none does; write() and writelines()
 * only queue when they are called in another one.  The queue gets references to
 * bytes objects, and copies of buffers that can change.
 */
#include "stream.h"

/* A changeable buffer up to this size is copied; a larger one is sent first. */
#define COPY_MAX ((size_t)16 * 1024)
#define LOST_WRITES_LOGGED 5

bool
tulip_check_data(PyObject *data)
{
    PyObject *name;
    if (PyBytes_Check(data) || PyByteArray_Check(data)
        || PyMemoryView_Check(data)) {
        return true;
    }
    name = PyType_GetName(Py_TYPE(data));
    if (name != NULL) {
        PyErr_Format(PyExc_TypeError,
                     "data argument must be a bytes-like object, not %R", name);
        Py_DECREF(name);
    }
    return false;
}

int
tulip_count_lost_write(TulipLoop *loop, unsigned *count, const char *message)
{
    PyObject *result;
    if ((*count)++ < LOST_WRITES_LOGGED) {
        return 0;
    }
    result = PyObject_CallMethod(loop->st->logger, "warning", "s", message);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

static int
count_lost_write(TulipStream *self)
{
    return tulip_count_lost_write(
        self->loop, &self->lost_writes,
        self->flags & TULIP_PIPE
        ? "pipe closed by peer or os.write(pipe, data) raised exception."
        : "socket.send() raised exception.");
}

/* After write_eof(): an error, but of a pipe, whose end that is, a lost write. */
static bool
refuses_writes(const TulipStream *self)
{
    return (self->flags & (TULIP_EOF_SENT | TULIP_WRITE_PIPE)) == TULIP_EOF_SENT;
}

/* Sends a large changeable buffer at once and copies what has to wait.
 * Returns what write_view does. */
static int
write_through(TulipStream *self, const Py_buffer *view)
{
    size_t len = (size_t)view->len, sent = 0;
    tulip_stream_flush(self);
    if (self->flags & TULIP_LOST) {
        return count_lost_write(self);
    }
    if (self->sending == NULL && self->uv != NULL
        && !uv_is_closing((uv_handle_t *)self->uv)) {
        uv_buf_t buf;
        int rc;
        buf.base = view->buf;
        buf.len = len < TULIP_MOST_AT_ONCE ? len : TULIP_MOST_AT_ONCE;
        rc = uv_try_write(self->uv, &buf, 1);
        if (rc < 0 && rc != UV_EAGAIN) {
            tulip_stream_fatal_uv(self, rc, "write", tulip_write_failed(self));
            return 0;
        }
        sent = rc > 0 ? (size_t)rc : 0;
    }
    if (sent == len) {
        return 0;
    }
    return tulip_queue_copy(self, (const char *)view->buf + sent, len - sent) < 0
        ? -1 : 1;
}

/* Anything but exact bytes.  1: queued, 0: nothing to do, -1: exception. */
static int
write_view(TulipStream *self, PyObject *data)
{
    PyObject *base = PyMemoryView_Check(data) ? PyMemoryView_GET_BASE(data)
                                              : NULL;
    Py_buffer view;
    int rc;
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0) {
        return -1;
    }
    if (view.len == 0) {
        rc = 0;
    }
    else if (base != NULL && PyBytes_CheckExact(base)) {
        rc = tulip_queue_part(self, base, view.buf, (size_t)view.len) < 0 ? -1 : 1;
    }
    else if ((size_t)view.len <= COPY_MAX || !tulip_stream_on_thread(self)) {
        rc = tulip_queue_copy(self, view.buf, (size_t)view.len) < 0 ? -1 : 1;
    }
    else {
        rc = write_through(self, &view);
    }
    PyBuffer_Release(&view);
    return rc;
}

static inline int
write_piece(TulipStream *self, PyObject *data)
{
    if (!PyBytes_CheckExact(data)) {
        return write_view(self, data);
    }
    if (PyBytes_GET_SIZE(data) == 0) {
        return 0;
    }
    return tulip_queue_bytes(self, data) < 0 ? -1 : 1;
}

PyDoc_STRVAR(write_doc,
"write($self, data)\n--\n\n"
"Send data: bytes, bytearray or memoryview.  It leaves when the callback that\n"
"wrote returns, together with all else that was written until then, or at once\n"
"above the high-water mark.  A buffer that can change may do so after this call.\n\n"
"Raises TypeError, RuntimeError (after write_eof()), BufferError (not\n"
"contiguous).");

static PyObject *
stream_write(TulipStream *self, PyObject *const *args, Py_ssize_t nargs,
             PyObject *kwnames)
{
    UVT_LOCKED(self->loop->lock);
    PyObject *data = tulip_only_arg("write", "data", args, nargs, kwnames);
    int rc;
    if (data == NULL || (!PyBytes_CheckExact(data) && !tulip_check_data(data))) {
        return NULL;
    }
    if (self->flags & (TULIP_EOF_SENT | TULIP_LOST | TULIP_SENDFILE)) {
        if (refuses_writes(self)) {
            PyErr_SetString(PyExc_RuntimeError,
                            "Cannot call write() after write_eof()");
            return NULL;
        }
        if (!tulip_stream_check_no_sendfile(self)) {
            return NULL;
        }
        rc = PyObject_IsTrue(data);
        if (rc > 0) {
            rc = count_lost_write(self);
        }
        if (rc < 0) {
            return NULL;
        }
        Py_RETURN_NONE;
    }
    rc = tulip_loop_check_fork(self->loop) ? write_piece(self, data) : -1;
    if (rc < 0) {
        return NULL;
    }
    if (rc > 0) {
        tulip_queue_done(self);
    }
    Py_RETURN_NONE;
}

/* Queues exact bytes only, which calls nothing that could change `items`. */
static int
queue_all_bytes(TulipStream *self, PyObject *const *items, Py_ssize_t count)
{
    for (Py_ssize_t i = 0; i < count; i++) {
        if (PyBytes_GET_SIZE(items[i]) > 0
            && tulip_queue_bytes(self, items[i]) < 0) {
            return -1;
        }
        i += tulip_queue_small(self, items + i + 1, count - i - 1);
    }
    return self->queued > 0;
}

static int
queue_all(TulipStream *self, PyObject *const *items, Py_ssize_t count)
{
    int queued = 0;
    for (Py_ssize_t i = 0; i < count && !(self->flags & TULIP_LOST); i++) {
        int rc = write_piece(self, items[i]);
        if (rc < 0) {
            return -1;
        }
        queued |= rc;
    }
    return queued;
}

/* All are checked before the first one is queued.  Returns as write_view. */
static int
writelines(TulipStream *self, PyObject *list)
{
    PyObject *const *items = PySequence_Fast_ITEMS(list);
    Py_ssize_t count = PySequence_Fast_GET_SIZE(list);
    bool exact = true;
    PyObject *tuple;
    int rc;
    for (Py_ssize_t i = 0; i < count; i++) {
        if (!PyBytes_CheckExact(items[i])) {
            exact = false;
            if (!tulip_check_data(items[i])) {
                return -1;
            }
        }
    }
    if (exact) {
        return queue_all_bytes(self, items, count);
    }
    tuple = PySequence_Tuple(list);
    if (tuple == NULL) {
        return -1;
    }
    rc = queue_all(self, PySequence_Fast_ITEMS(tuple),
                   PySequence_Fast_GET_SIZE(tuple));
    Py_DECREF(tuple);
    return rc;
}

PyDoc_STRVAR(writelines_doc,
"writelines($self, list_of_data)\n--\n\n"
"write() each member of an iterable.");

static PyObject *
stream_writelines(TulipStream *self, PyObject *const *args, Py_ssize_t nargs,
                  PyObject *kwnames)
{
    UVT_LOCKED(self->loop->lock);
    PyObject *list, *arg = tulip_only_arg("writelines", "list_of_data", args,
                                          nargs, kwnames);
    int rc = 0;
    if (arg == NULL) {
        return NULL;
    }
    if (refuses_writes(self)) {
        PyErr_SetString(PyExc_RuntimeError,
                        "Cannot call writelines() after write_eof()");
        return NULL;
    }
    if (!tulip_stream_check_no_sendfile(self)) {
        return NULL;
    }
    list = PySequence_Fast(arg, "list_of_data must be iterable");
#ifdef Py_GIL_DISABLED
    if (list != NULL) {     /* another thread may change it meanwhile */
        Py_SETREF(list, PySequence_Tuple(list));
    }
#endif
    if (list == NULL) {
        return NULL;
    }
    if (!(self->flags & (TULIP_EOF_SENT | TULIP_LOST))) {
        rc = tulip_loop_check_fork(self->loop) ? writelines(self, list) : -1;
        if (rc > 0) {
            tulip_queue_done(self);
        }
    }
    else if (PySequence_Fast_GET_SIZE(list) > 0) {
        rc = count_lost_write(self);
    }
    Py_DECREF(list);
    if (rc < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(write_eof_doc,
"write_eof($self, /)\n--\n\n"
"End the outgoing side when all that was written is sent.  Data may still come\n"
"in.  A pipe is closed.\n\n"
"Raises RuntimeError in another thread than the one that runs the loop.");

static PyObject *
stream_write_eof(TulipStream *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(self->loop->lock);
    if (self->flags & (TULIP_CLOSING | TULIP_EOF_SENT)) {
        Py_RETURN_NONE;
    }
    if (tulip_loop_is_elsewhere(self->loop)) {
        return tulip_loop_forward(self->loop, (PyObject *)self, "write_eof", NULL);
    }
    if (!tulip_stream_check_thread(self)) {
        return NULL;
    }
    if (self->flags & TULIP_WRITE_PIPE) {
        return tulip_stream_begin_close(self) < 0 ? NULL : Py_NewRef(Py_None);
    }
    self->flags |= TULIP_EOF_SENT;
    tulip_stream_flush(self);
    tulip_stream_drained(self);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(can_write_eof_doc,
"can_write_eof($self, /)\n--\n\nTrue: write_eof() works.");

static PyObject *
stream_can_write_eof(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(ignored))
{
    Py_RETURN_TRUE;
}

PyMethodDef tulip_write_methods[] = {
    {"write", (PyCFunction)(void (*)(void))stream_write,
     METH_FASTCALL | METH_KEYWORDS, write_doc},
    {"writelines", (PyCFunction)(void (*)(void))stream_writelines,
     METH_FASTCALL | METH_KEYWORDS, writelines_doc},
    {"write_eof", (PyCFunction)stream_write_eof, METH_NOARGS, write_eof_doc},
    {"can_write_eof", (PyCFunction)stream_can_write_eof, METH_NOARGS,
     can_write_eof_doc},
    {NULL},
};
