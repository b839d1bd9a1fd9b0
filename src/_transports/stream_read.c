/* The reading side: data_received() of a Protocol, get_buffer() and
 * buffer_updated() of a BufferedProtocol, the end of the stream.  All functions
 * run on the loop's thread, attached, in libuv's read callbacks or called by the
 * program.  Each callback's caller owns a reference to the transport.
 *
 * What the protocol does inside get_buffer() takes effect after the read that
 * libuv makes right after it: reading may not be stopped in between.
 */
#include "stream.h"
#include "tls_layer.h"

static const char *
read_failed(const TulipStream *self)
{
    return self->flags & TULIP_PIPE ? "Fatal read error on pipe transport"
                                    : "Fatal read error on socket transport";
}

static const char data_received_failed[] =
    "Fatal error: protocol.data_received() call failed.";
static const char get_buffer_failed[] =
    "Fatal error: protocol.get_buffer() call failed.";

/* Two reads of this size in a row make the following ones go straight into
 * bytes objects, which saves a copy (see bench: 100 KB messages); two that are
 * small make them go through the loop's memory again, which saves room.  An
 * object of 128 KiB or more would be mapped and unmapped for each read. */
#define DIRECT_FROM (64 * 1024)
#define DIRECT_UNTIL (16 * 1024)
#define DIRECT_SIZE (126 * 1024)
#define WAYS \
    ((unsigned)(TULIP_HAS_BUFFERED | TULIP_HAS_DIRECT | TULIP_HAS_LAYER))

/* ---- starting and stopping ---- */

static bool
wants_reading(const TulipStream *self)
{
    return (self->flags & (TULIP_STARTED | TULIP_PAUSED | TULIP_EOF_SEEN
                           | TULIP_CLOSING | TULIP_LOST | TULIP_WRITE_PIPE))
           == TULIP_STARTED
        && !uv_is_closing((uv_handle_t *)self->uv);
}

void
tulip_stream_update_reading(TulipStream *self)
{
    bool reads = (self->flags & TULIP_READING) != 0, want;
    if (self->uv == NULL || (self->flags & TULIP_IN_ALLOC)
        || self->loop->forked) {
        return;
    }
    want = wants_reading(self);
    if (want == reads) {
        return;
    }
    if (!want) {
        self->flags &= ~(unsigned)TULIP_READING;
        tulip_stream_api(self)->read_stop(self->handle);
    }
    else {
        int rc = tulip_stream_api(self)->read_start(self->handle);
        if (rc < 0) {
            tulip_stream_fatal_uv(self, rc, "read", read_failed(self));
            return;
        }
        self->flags |= TULIP_READING;
    }
}

static unsigned
wanted_way(const TulipStream *self)
{
    return self->flags & TULIP_LAYERED ? TULIP_HAS_LAYER
         : self->flags & TULIP_BUFFERED ? TULIP_HAS_BUFFERED
         : self->flags & TULIP_DIRECT ? TULIP_HAS_DIRECT : 0;
}

/* ---- calling the protocol ---- */

/* Calls self->receive(arg) and sees to it that what it wrote is sent. */
static void
deliver(TulipStream *self, PyObject *arg, const char *message)
{
    PyObject *result, *exc;

    if (self->protocol == NULL) {
        return;
    }
    self->flags |= TULIP_IN_CALLBACK;
    if (self->receive != NULL) {
        result = tulip_stream_vectorcall(self, self->receive,
                                         TULIP_RECEIVE_BARE, arg);
    }
    else {
        result = tulip_stream_call(self, self->flags & TULIP_BUFFERED
                                   ? self->loop->st->str_buffer_updated
                                   : self->loop->st->str_data_received, arg);
    }
    self->flags &= ~(unsigned)TULIP_IN_CALLBACK;
    if (result != NULL) {
        Py_DECREF(result);
        tulip_stream_flush_with_others(self);
        return;
    }
    exc = PyErr_GetRaisedException();
    tulip_stream_flush(self);
    PyErr_SetRaisedException(exc);
    if (self->flags & TULIP_READ_PIPE) {
        /* asyncio goes on reading. */
        tulip_loop_report(self->loop, message, (PyObject *)self, self->protocol,
                          NULL);
        return;
    }
    tulip_stream_fatal(self, message);
}

static void
deliver_bytes(TulipStream *self, const char *base, ssize_t nread)
{
    PyObject *data = PyBytes_FromStringAndSize(base, nread);
    if (data == NULL) {
        tulip_stream_fatal(self, read_failed(self));
        return;
    }
    deliver(self, data, data_received_failed);
    Py_DECREF(data);
}

static void
deliver_eof(TulipStream *self)
{
    PyObject *result, *exc;
    int keep_open;

    tulip_debug(self->loop, "%r received EOF", (PyObject *)self);
    self->flags |= TULIP_EOF_SEEN | TULIP_IN_CALLBACK;
    self->flags &= ~(unsigned)TULIP_READING;    /* _uv has stopped */
    result = tulip_stream_call(self, self->loop->st->str_eof_received, NULL);
    self->flags &= ~(unsigned)TULIP_IN_CALLBACK;
    keep_open = result == NULL ? -1 : PyObject_IsTrue(result);
    Py_XDECREF(result);
    exc = keep_open < 0 ? PyErr_GetRaisedException() : NULL;
    tulip_stream_flush(self);
    if (keep_open < 0) {
        PyErr_SetRaisedException(exc);
        if (self->flags & TULIP_READ_PIPE) {
            /* asyncio calls it by itself, and then connection_lost(None). */
            tulip_loop_report(self->loop,
                              "Exception in callback protocol.eof_received()",
                              (PyObject *)self, self->protocol, NULL);
            keep_open = 0;
        }
        else {
            tulip_stream_fatal(self,
                               "Fatal error: protocol.eof_received() call failed.");
        }
    }
    if (keep_open >= 0 && (!keep_open || (self->flags & TULIP_READ_PIPE))
        && tulip_stream_begin_close(self) < 0) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
}

static void
read_ended(TulipStream *self, ssize_t nread)
{
    if (self->flags & TULIP_LOST) {
        return;
    }
    if (nread == UV_EOF) {
        deliver_eof(self);
    }
    else {
        self->flags &= ~(unsigned)TULIP_READING;
        tulip_stream_fatal_uv(self, (int)nread, "read", read_failed(self));
    }
}

/* ---- into the loop's memory, or into a bytes object ---- */

/* After a read that gave nread bytes. */
static void
note_size(TulipStream *self, ssize_t nread)
{
    bool other = self->flags & TULIP_DIRECT ? nread < DIRECT_UNTIL
                                            : nread >= DIRECT_FROM;
    if (!other) {
        self->flags &= ~(unsigned)TULIP_TREND;
    }
    else if (!(self->flags & TULIP_TREND)) {
        self->flags |= TULIP_TREND;
    }
    else {
        self->flags ^= TULIP_TREND | TULIP_DIRECT;
        tulip_stream_update_consumer(self);
    }
}

static void
on_read(PyObject *owner, ssize_t nread, const uv_buf_t *buf)
{
    TulipStream *self = (TulipStream *)owner;
    if (nread < 0) {
        read_ended(self, nread);
    }
    else if (!(self->flags & TULIP_LOST)) {
        deliver_bytes(self, buf->base, nread);
        if (nread >= DIRECT_FROM || (self->flags & TULIP_TREND)) {
            note_size(self, nread);
        }
    }
}

static const UvtConsumer plain_consumer = {
    .read = on_read,
    .closed = tulip_stream_on_closed,
};

static void
on_layer_read(PyObject *owner, ssize_t nread, const uv_buf_t *buf)
{
    TulipStream *self = (TulipStream *)owner;
    PyObject *link = self->protocol;
    if (nread < 0) {
        read_ended(self, nread);
    }
    else if (!(self->flags & TULIP_LAYERED)) {
        on_read(owner, nread, buf);
    }
    else if (link != NULL && !(self->flags & TULIP_LOST)) {
        Py_INCREF(link);
        self->flags |= TULIP_IN_CALLBACK;
        tulip_layer_read(link, buf->base, (size_t)nread);
        self->flags &= ~(unsigned)TULIP_IN_CALLBACK;
        tulip_stream_flush(self);
        Py_DECREF(link);
    }
}

static const UvtConsumer layer_consumer = {
    .read = on_layer_read,
    .closed = tulip_stream_on_closed,
};

static void
on_direct_alloc(PyObject *owner, size_t Py_UNUSED(suggested), uv_buf_t *buf)
{
    TulipRare *rare = tulip_stream_rare((TulipStream *)owner);
    if (rare != NULL) {
        Py_XSETREF(rare->direct, PyBytes_FromStringAndSize(NULL, DIRECT_SIZE));
    }
    if (rare == NULL || rare->direct == NULL) {
        PyErr_Clear();      /* libuv reports UV_ENOBUFS */
        return;
    }
    buf->base = PyBytes_AS_STRING(rare->direct);
    buf->len = DIRECT_SIZE;
}

static void
on_direct_read(PyObject *owner, ssize_t nread, const uv_buf_t *Py_UNUSED(buf))
{
    TulipStream *self = (TulipStream *)owner;
    PyObject *data = NULL;
    if (self->rare != NULL) {
        data = self->rare->direct;
        self->rare->direct = NULL;
    }
    if (nread < 0) {
        read_ended(self, nread);
    }
    else if (nread > 0 && data != NULL && !(self->flags & TULIP_LOST)) {
        /* Documented in spite of its name, and right for an object that nobody
         * else has seen. */
        if (_PyBytes_Resize(&data, nread) < 0) {
            tulip_stream_fatal(self, read_failed(self));
        }
        else {
            deliver(self, data, data_received_failed);
        }
        note_size(self, nread);
    }
    Py_XDECREF(data);
}

static const UvtConsumer direct_consumer = {
    .alloc = on_direct_alloc,
    .read = on_direct_read,
    .closed = tulip_stream_on_closed,
};

/* ---- into the protocol's memory ---- */

void
tulip_stream_release_view(TulipStream *self)
{
    if (self->rare != NULL && self->rare->has_view) {
        self->rare->has_view = false;
        PyBuffer_Release(&self->rare->view);
    }
    if (self->rare != NULL) {
        Py_CLEAR(self->rare->direct);
    }
}

static PyObject *
call_get_buffer(TulipStream *self)
{
    PyObject *sizehint = PyLong_FromLong(-1), *result;
    if (sizehint == NULL) {
        return NULL;
    }
    if (self->rare->get_buffer != NULL) {
        result = tulip_stream_vectorcall(self, self->rare->get_buffer,
                                         TULIP_GET_BARE, sizehint);
    }
    else {
        result = tulip_stream_call(self, self->loop->st->str_get_buffer,
                                   sizehint);
    }
    Py_DECREF(sizehint);
    return result;
}

/* Takes the protocol's memory into rare->view; false with an exception. */
static bool
take_view(TulipStream *self)
{
    PyObject *buffer = call_get_buffer(self);
    Py_buffer *view = &self->rare->view;
    int rc;
    if (buffer == NULL) {
        return false;
    }
    rc = PyObject_GetBuffer(buffer, view, PyBUF_WRITABLE);
    Py_DECREF(buffer);
    if (rc < 0) {
        return false;
    }
    if (view->len == 0) {
        PyBuffer_Release(view);
        PyErr_SetString(PyExc_RuntimeError,
                        "get_buffer() returned an empty buffer");
        return false;
    }
    self->rare->has_view = true;
    return true;
}

/* take_view(), again when get_buffer() has put another protocol with buffers in the
 * place of its own: only that one can be told of what comes.  For a protocol without
 * buffers it is copied out of the memory of the former. */
static bool
take_current_view(TulipStream *self)
{
    bool taken, again;
    do {
        PyObject *protocol = Py_NewRef(self->protocol);
        tulip_stream_release_view(self);
        taken = take_view(self);
        again = taken && self->protocol != NULL && self->protocol != protocol
            && self->flags & TULIP_BUFFERED;
        Py_DECREF(protocol);
    } while (again);
    return taken;
}

/* libuv calls what it was given to read with, also when the handle was closed
 * inside get_buffer(): then there would be nothing to call. */
static void
read_nothing(uv_stream_t *Py_UNUSED(uv), ssize_t Py_UNUSED(nread),
             const uv_buf_t *Py_UNUSED(buf))
{
}

static void
on_alloc(PyObject *owner, size_t Py_UNUSED(suggested), uv_buf_t *buf)
{
    TulipStream *self = (TulipStream *)owner;
    uv_stream_t *uv = self->uv;
    bool taken;

    if (self->protocol == NULL || tulip_stream_rare(self) == NULL) {
        PyErr_Clear();
        return;
    }
    self->flags |= TULIP_IN_ALLOC | TULIP_IN_CALLBACK;
    taken = take_current_view(self);
    if (!taken) {
        tulip_stream_fatal(self, get_buffer_failed);
    }
    else if (uv->read_cb != NULL) {
        buf->base = self->rare->view.buf;
        buf->len = (size_t)self->rare->view.len;
    }
    if (uv->read_cb == NULL) {
        uv->read_cb = read_nothing;
        tulip_stream_release_view(self);
        self->flags &= ~(unsigned)(TULIP_IN_ALLOC | TULIP_IN_CALLBACK);
    }
}

static void
deliver_updated(TulipStream *self, ssize_t nread)
{
    PyObject *arg = PyLong_FromSsize_t(nread);
    tulip_stream_release_view(self);
    if (arg == NULL) {
        tulip_stream_fatal(self, read_failed(self));
        return;
    }
    deliver(self, arg, "Fatal error: protocol.buffer_updated() call failed.");
    Py_DECREF(arg);
}

/* Also comes after an alloc that gave nothing (UV_ENOBUFS), and with 0 when
 * nothing could be read after all. */
static void
on_buffer_read(PyObject *owner, ssize_t nread, const uv_buf_t *buf)
{
    TulipStream *self = (TulipStream *)owner;
    self->flags &= ~(unsigned)(TULIP_IN_ALLOC | TULIP_IN_CALLBACK);
    if (nread > 0 && self->protocol != NULL && !(self->flags & TULIP_LOST)) {
        if (self->flags & TULIP_BUFFERED) {
            deliver_updated(self, nread);
        }
        else {
            /* get_buffer() has changed the protocol. */
            deliver_bytes(self, buf->base, nread);
        }
    }
    tulip_stream_release_view(self);
    if (nread < 0) {
        self->flags &= ~(unsigned)TULIP_READING;
        read_ended(self, nread);
    }
    tulip_stream_flush(self);
    tulip_stream_update_consumer(self);
    tulip_stream_update_reading(self);
}

static const UvtConsumer buffered_consumer = {
    .alloc = on_alloc,
    .read = on_buffer_read,
    .closed = tulip_stream_on_closed,
};

/* ---- which way to read ---- */

int
tulip_stream_consume(TulipStream *self, PyObject *handle)
{
    unsigned way = wanted_way(self);
    const UvtConsumer *consumer = way == TULIP_HAS_BUFFERED ? &buffered_consumer
                                : way == TULIP_HAS_DIRECT ? &direct_consumer
                                : way == TULIP_HAS_LAYER ? &layer_consumer
                                : &plain_consumer;
    self->flags = (self->flags & ~WAYS) | way;
    return tulip_stream_api(self)->consume(handle, consumer, (PyObject *)self);
}

void
tulip_stream_update_consumer(TulipStream *self)
{
    const UvtCAPI *api = tulip_stream_api(self);
    if ((self->flags & WAYS) == wanted_way(self) || self->uv == NULL
        || uv_is_closing((uv_handle_t *)self->uv)
        || (self->flags & TULIP_IN_ALLOC)) {
        return;
    }
    Py_INCREF(self);        /* releasing drops the handle's reference */
    self->flags &= ~(unsigned)TULIP_READING;
    api->release(self->handle);
    if (tulip_stream_consume(self, self->handle) < 0) {
        /* Nobody would hear of the handle's end. */
        api->close(self->handle);
        tulip_stream_fatal(self, read_failed(self));
        tulip_stream_on_closed((PyObject *)self);
    }
    else {
        tulip_stream_update_reading(self);
    }
    Py_DECREF(self);
}

void
tulip_stream_set_paused(TulipStream *self, bool paused)
{
    if (!(self->flags & TULIP_CLOSING)) {
        self->flags = paused ? self->flags | TULIP_PAUSED
                             : self->flags & ~(unsigned)TULIP_PAUSED;
        tulip_stream_update_reading(self);
    }
}

/* ---- methods ---- */

PyDoc_STRVAR(pause_reading_doc,
"pause_reading($self, /)\n--\n\n"
"Deliver no data until resume_reading(); harmless when paused or closing.");

static PyObject *
stream_pause_reading(TulipStream *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(self->loop->lock);
    if (self->flags & (TULIP_CLOSING | TULIP_PAUSED)) {
        Py_RETURN_NONE;
    }
    if (tulip_loop_is_elsewhere(self->loop)) {
        return tulip_loop_forward(self->loop, (PyObject *)self, "pause_reading", NULL);
    }
    if (!tulip_stream_check_thread(self)) {
        return NULL;
    }
    self->flags |= TULIP_PAUSED;
    tulip_stream_update_reading(self);
    tulip_debug(self->loop, "%r pauses reading", (PyObject *)self);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(resume_reading_doc,
"resume_reading($self, /)\n--\n\n"
"Deliver data again; harmless when not paused or closing.");

static PyObject *
stream_resume_reading(TulipStream *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(self->loop->lock);
    if ((self->flags & TULIP_CLOSING) || !(self->flags & TULIP_PAUSED)) {
        Py_RETURN_NONE;
    }
    if (tulip_loop_is_elsewhere(self->loop)) {
        return tulip_loop_forward(self->loop, (PyObject *)self, "resume_reading", NULL);
    }
    if (!tulip_stream_check_thread(self)) {
        return NULL;
    }
    self->flags &= ~(unsigned)TULIP_PAUSED;
    tulip_stream_update_reading(self);
    tulip_debug(self->loop, "%r resumes reading", (PyObject *)self);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(is_reading_doc,
"is_reading($self, /)\n--\n\nTrue unless paused or closing.");

static PyObject *
stream_is_reading(TulipStream *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(self->loop->lock);
    return PyBool_FromLong(!(self->flags & (TULIP_CLOSING | TULIP_PAUSED)));
}

PyMethodDef tulip_read_methods[] = {
    {"pause_reading", (PyCFunction)stream_pause_reading, METH_NOARGS,
     pause_reading_doc},
    {"resume_reading", (PyCFunction)stream_resume_reading, METH_NOARGS,
     resume_reading_doc},
    {"is_reading", (PyCFunction)stream_is_reading, METH_NOARGS, is_reading_doc},
    {NULL},
};
