/* The reading side of a TLS transport: ciphertext from below, data_received() of a
 * Protocol, get_buffer() and buffer_updated() of a BufferedProtocol, close_notify.
 * All functions run attached, on the loop's thread; their callers own a reference
 * to the transport.
 *
 * Plaintext goes straight into what the protocol gets.  What may not be delivered
 * stays ciphertext, in the engine, and the transport below is paused.
 */
#include "tls.h"

/* An object of 128 KiB or more would be mapped and unmapped for each read. */
#define BYTES_MAX ((size_t)126 * 1024)
#define DISCARD_SIZE (4 * 1024)
/* So few bytes are copied: it costs more to cut an object to what has come. */
#define COPIED_MAX ((size_t)2 * 1024)
/* What a step of a handshake puts out is seldom more. */
#define FLIGHT_SIZE (4 * 1024)

/* ---- pausing the one below ---- */

static bool
may_deliver(const TulipTLS *self)
{
    return self->phase == TULIP_TLS_OPEN
        && !(self->flags & (TLS_PAUSED | TLS_HELD));
}

static int
pause_under(TulipTLS *self, bool pause)
{
    PyObject *result;
    if (self->stream != NULL) {
        tulip_stream_set_paused(self->stream, pause);
        return 0;
    }
    result = PyObject_CallMethod(self->under, pause ? "pause_reading"
                                                    : "resume_reading", NULL);
    Py_XDECREF(result);
    return result != NULL ? 0 : -1;
}

void
tulip_tls_update_reading(TulipTLS *self)
{
    bool paused = (self->flags & TLS_UNDER_PAUSED) != 0;
    bool pause = self->phase == TULIP_TLS_OPEN && (self->flags & TLS_PAUSED);
    if (pause == paused || self->under == NULL
        || self->phase >= TULIP_TLS_DONE) {
        return;
    }
    self->flags ^= TLS_UNDER_PAUSED;
    if (pause_under(self, pause) < 0) {
        tulip_tls_fatal(self, tulip_tls_failed);
    }
}

static void
go_on_reading(PyObject *owner, PyObject *Py_UNUSED(arg))
{
    TulipTLS *self = (TulipTLS *)owner;
    self->flags &= ~(unsigned)(TLS_RESUMING | TLS_HELD);
    tulip_tls_process(self);
    tulip_tls_update_reading(self);
}

void
tulip_tls_read_soon(TulipTLS *self)
{
    if (self->flags & TLS_RESUMING) {
        return;
    }
    self->flags |= TLS_RESUMING;
    if (tulip_loop_call_soon_c(self->loop, go_on_reading, (PyObject *)self,
                               NULL) < 0) {
        tulip_tls_fatal(self, tulip_tls_failed);
    }
}

/* ---- delivering ---- */

static UvtTlsStatus
deliver(TulipTLS *self, PyObject *arg)
{
    TulipState *st = self->loop->st;
    PyObject *result;
    if (self->receive != NULL) {
        result = tulip_tls_vectorcall(self, self->receive, TLS_RECEIVE_BARE, arg);
    }
    else {
        result = tulip_tls_call(self, self->flags & TLS_BUFFERED
                                ? st->str_buffer_updated : st->str_data_received,
                                arg);
    }
    Py_XDECREF(result);
    return result != NULL ? UVT_TLS_OK : UVT_TLS_ERROR;
}

/* Reads records into memory until it is full or none is left. */
static UvtTlsStatus
fill(TulipTLS *self, char *base, size_t size, size_t *len)
{
    UvtTlsStatus status;
    size_t got;
    *len = 0;
    do {
        status = uvt_tls_read(self->engine, base + *len, size - *len, &got);
        if (status == UVT_TLS_OK) {
            *len += got;
            if (*len < size && !uvt_tls_has_input(self->engine)) {
                return UVT_TLS_WANT;
            }
        }
    } while (status == UVT_TLS_OK && *len < size && may_deliver(self));
    return status;
}

/* What can be read as bytes, in *data; NULL: nothing, or no memory.  The exception
 * of a status ERROR is in *raised: what came before it is still to be delivered. */
static UvtTlsStatus
fill_bytes(TulipTLS *self, PyObject **data, PyObject **raised)
{
    char scratch[COPIED_MAX];
    size_t size = uvt_tls_expect(self->engine), len;
    UvtTlsStatus status;
    *data = *raised = NULL;
    if (size <= sizeof(scratch)) {
        status = fill(self, scratch, size, &len);
    }
    else {
        size = size < BYTES_MAX ? size : BYTES_MAX;
        *data = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
        if (*data == NULL) {
            return UVT_TLS_OK;
        }
        status = fill(self, PyBytes_AS_STRING(*data), size, &len);
    }
    *raised = status == UVT_TLS_ERROR ? PyErr_GetRaisedException() : NULL;
    if (len == 0) {
        Py_CLEAR(*data);
    }
    else if (*data == NULL) {
        *data = PyBytes_FromStringAndSize(scratch, (Py_ssize_t)len);
    }
    else if (len < size) {
        /* Documented in spite of its name, and right for an object that nobody
         * else has seen. */
        (void)_PyBytes_Resize(data, (Py_ssize_t)len);
    }
    return status;
}

static UvtTlsStatus
read_bytes(TulipTLS *self)
{
    PyObject *data, *raised;
    UvtTlsStatus status = fill_bytes(self, &data, &raised);
    bool failed = data == NULL && PyErr_Occurred();
    if (data != NULL && self->protocol != NULL) {
        failed = deliver(self, data) == UVT_TLS_ERROR;
    }
    Py_XDECREF(data);
    if (failed) {
        Py_XDECREF(raised);
        return UVT_TLS_ERROR;
    }
    if (raised != NULL) {
        PyErr_SetRaisedException(raised);
    }
    return status;
}

/* Takes the protocol's memory; false with an exception.  After it the protocol may
 * be another one, whose memory this is not. */
static bool
take_view(TulipTLS *self, Py_buffer *view)
{
    PyObject *hint = PyLong_FromSize_t(uvt_tls_expect(self->engine));
    PyObject *buffer;
    int rc;
    if (hint == NULL) {
        return false;
    }
    buffer = self->get_buffer != NULL
        ? tulip_tls_vectorcall(self, self->get_buffer, TLS_GET_BARE, hint)
        : tulip_tls_call(self, self->loop->st->str_get_buffer, hint);
    Py_DECREF(hint);
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
    return true;
}

static UvtTlsStatus
read_buffered(TulipTLS *self)
{
    Py_buffer view;
    UvtTlsStatus status;
    PyObject *protocol, *count, *raised;
    size_t len = 0;
    bool taken, same;
    protocol = Py_NewRef(self->protocol);
    taken = take_view(self, &view);
    same = self->protocol == protocol;
    Py_DECREF(protocol);
    if (!taken) {
        return UVT_TLS_ERROR;
    }
    if (!same || !may_deliver(self)) {
        PyBuffer_Release(&view);
        return may_deliver(self) ? UVT_TLS_OK : UVT_TLS_WANT;
    }
    status = fill(self, view.buf, (size_t)view.len, &len);
    raised = status == UVT_TLS_ERROR ? PyErr_GetRaisedException() : NULL;
    PyBuffer_Release(&view);
    if (len > 0 && self->protocol != NULL) {
        count = PyLong_FromSize_t(len);
        if (count == NULL || deliver(self, count) == UVT_TLS_ERROR) {
            Py_XDECREF(count);
            Py_XDECREF(raised);
            return UVT_TLS_ERROR;
        }
        Py_DECREF(count);
    }
    if (raised != NULL) {
        PyErr_SetRaisedException(raised);
    }
    return status;
}

/* Data, until no more may be delivered or there is none. */
static void
read_data(TulipTLS *self)
{
    UvtTlsStatus status = UVT_TLS_OK;
    while (status == UVT_TLS_OK && may_deliver(self)) {
        status = self->flags & TLS_BUFFERED ? read_buffered(self)
                                            : read_bytes(self);
    }
    if (status == UVT_TLS_ERROR) {
        tulip_tls_send_last(self);          /* an alert says why */
        tulip_tls_fatal(self, tulip_tls_failed);
        return;
    }
    if (self->phase != TULIP_TLS_OPEN) {
        return;
    }
    if (status == UVT_TLS_EOF) {
        self->flags |= TLS_PEER_DONE;
    }
    if (status == UVT_TLS_EOF
        || ((self->flags & TLS_UNDER_EOF) && may_deliver(self))) {
        tulip_tls_call_eof(self);
        tulip_tls_begin_close(self);
    }
}

UvtTlsStatus
tulip_tls_discard(TulipTLS *self)
{
    char scratch[DISCARD_SIZE];
    UvtTlsStatus status;
    size_t got;
    do {
        status = uvt_tls_read(self->engine, scratch, sizeof(scratch), &got);
    } while (status == UVT_TLS_OK);
    return status;
}

/* What reading has put out, session tickets and answers to key updates, in one piece
 * with what the protocol has written meanwhile.  What was written before may have
 * waited for something to be read: a part of another handshake. */
static void
send_answers(TulipTLS *self)
{
    if ((self->phase == TULIP_TLS_OPEN && self->engine->out_len > 0)
        || self->waiting > 0) {
        tulip_tls_flush(self);
    }
    if (self->phase == TULIP_TLS_OPEN && self->engine->out_len > 0) {
        tulip_tls_send_output(self);    /* nothing was written, or it has to wait */
    }
}

static void
process(TulipTLS *self)
{
    do {
        self->flags &= ~(unsigned)TLS_FED;
        if (self->phase == TULIP_TLS_HANDSHAKE) {
            tulip_tls_handshake(self);
        }
        if (may_deliver(self)) {
            read_data(self);
        }
        else if (self->phase == TULIP_TLS_FLUSHING
                 || self->phase == TULIP_TLS_SHUTDOWN) {
            tulip_tls_go_on_closing(self);
        }
        send_answers(self);
    } while (self->flags & TLS_FED);
}

static void
process_handshake(TulipTLS *self)
{
    char room[FLIGHT_SIZE];
    uvt_tls_lend_output(self->engine, room, sizeof(room));
    process(self);
    uvt_tls_keep_output(self->engine);
}

void
tulip_tls_process(TulipTLS *self)
{
    if (self->flags & TLS_READING_NOW) {
        return;
    }
    if (self->calls > 0) {
        /* The transport below calls from inside of what the protocol has called. */
        tulip_tls_read_soon(self);
        return;
    }
    self->flags |= TLS_READING_NOW;
    tulip_tls_enter(self);
    if (self->phase == TULIP_TLS_HANDSHAKE) {
        process_handshake(self);
    }
    else {
        process(self);
    }
    self->flags &= ~(unsigned)TLS_READING_NOW;
    tulip_tls_look(self);
    tulip_tls_leave(self);
}

void
tulip_tls_feed(TulipTLS *self, const char *base, size_t len)
{
    int rc;
    if (self->phase < TULIP_TLS_HANDSHAKE || self->phase >= TULIP_TLS_DONE) {
        return;
    }
    tulip_tls_enter(self);
    rc = 0;
    if (self->flags & TLS_READING_NOW) {
        /* Inside of a call of Python: behind what is being read. */
        self->flags |= TLS_FED;
        rc = uvt_tls_keep(self->engine);
    }
    if (rc == 0) {
        rc = uvt_tls_feed(self->engine, base, len);
    }
    if (rc == 0) {
        tulip_tls_process(self);
        rc = uvt_tls_keep(self->engine);
    }
    if (rc < 0) {
        tulip_tls_fatal(self, tulip_tls_failed);
    }
    tulip_tls_leave(self);
}

/* ---- methods ---- */

PyDoc_STRVAR(pause_reading_doc,
"pause_reading($self, /)\n--\n\n"
"Deliver no data until resume_reading(); harmless when paused or closing.");

static PyObject *
tls_pause_reading(TulipTLS *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(tulip_lock(self->loop));
    if (tulip_loop_is_elsewhere(self->loop)) {
        return tulip_loop_forward(self->loop, (PyObject *)self, "pause_reading", NULL);
    }
    if (!tulip_tls_check_thread(self)) {
        return NULL;
    }
    self->flags |= TLS_PAUSED;
    tulip_tls_update_reading(self);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(resume_reading_doc,
"resume_reading($self, /)\n--\n\n"
"Deliver data again, soon; harmless when not paused or closing.");

static PyObject *
tls_resume_reading(TulipTLS *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(tulip_lock(self->loop));
    if (tulip_loop_is_elsewhere(self->loop)) {
        return tulip_loop_forward(self->loop, (PyObject *)self, "resume_reading", NULL);
    }
    if (!tulip_tls_check_thread(self)) {
        return NULL;
    }
    if (self->flags & TLS_PAUSED) {
        self->flags &= ~(unsigned)TLS_PAUSED;
        if (self->phase == TULIP_TLS_OPEN) {
            tulip_tls_read_soon(self);
        }
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(is_reading_doc,
"is_reading($self, /)\n--\n\nTrue unless paused or closing.");

static PyObject *
tls_is_reading(TulipTLS *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(tulip_lock(self->loop));
    return PyBool_FromLong(!(self->flags & (TLS_PAUSED | TLS_CLOSED)));
}

PyMethodDef tulip_tls_read_methods[] = {
    {"pause_reading", (PyCFunction)tls_pause_reading, METH_NOARGS,
     pause_reading_doc},
    {"resume_reading", (PyCFunction)tls_resume_reading, METH_NOARGS,
     resume_reading_doc},
    {"is_reading", (PyCFunction)tls_is_reading, METH_NOARGS, is_reading_doc},
    {NULL},
};
