/* The writing side of a TLS transport: plaintext that waits, its encryption, and
 * what goes to the transport below.  All functions run attached, on the loop's
 * thread; write() and writelines() may only queue in another one.
 *
 * Plaintext waits as references to bytes objects and is encrypted when the
 * transport below has sent all that it had: so a slow peer costs little memory for
 * ciphertext, and small writes share a record.
 */
#include "tls.h"
#include <string.h>

#define FIRST_CAPACITY 8
/* What is encrypted in one go, and sent by one system call: half a megabyte, for which
 * the kernel needs a third less time than for four quarters.  It is also the most
 * that a slow peer costs in ciphertext. */
#define BATCH_RECORDS 32
#define SLAB_SIZE (UVT_TLS_PLAIN + BATCH_RECORDS * UVT_TLS_RECORD)

/* ---- the queue ---- */

/* Room for one more piece. */
static int
reserve(TulipTLS *self)
{
    TulipPlain *queue = self->queue, *grown;
    unsigned waiting = 0, capacity = FIRST_CAPACITY;
    if (queue != NULL) {
        if (queue->count < queue->capacity) {
            return 0;
        }
        waiting = queue->count - queue->first;
        capacity = waiting < FIRST_CAPACITY ? FIRST_CAPACITY : 2 * waiting;
    }
    grown = waiting > UINT_MAX / 4 ? NULL : PyMem_Malloc(
        sizeof(TulipPlain) + capacity * sizeof(queue->pieces[0]));
    if (grown == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    grown->first = 0;
    grown->count = waiting;
    grown->capacity = capacity;
    if (queue != NULL) {
        memcpy(grown->pieces, queue->pieces + queue->first,
               waiting * sizeof(queue->pieces[0]));
        PyMem_Free(queue);
    }
    self->queue = grown;
    return 0;
}

static void
append(TulipPlain *queue, UVT_STEALS(2) PyObject *piece, const char *base,
       size_t len)
{
    queue->pieces[queue->count].piece = piece;
    queue->pieces[queue->count].base = base;
    queue->pieces[queue->count].len = len;
    queue->count++;
}

/* Moves the single piece into a queue. */
static int
unfold(TulipTLS *self)
{
    PyObject *piece = self->pending;
    if (reserve(self) < 0) {
        return -1;
    }
    if (piece != NULL) {
        self->pending = NULL;
        append(self->queue, piece, PyBytes_AS_STRING(piece),
               (size_t)PyBytes_GET_SIZE(piece));
    }
    return 0;
}

/* A part of an exact bytes object. */
static int
queue_part(TulipTLS *self, PyObject *piece, const char *base, size_t len)
{
    if (unfold(self) < 0) {
        return -1;
    }
    append(self->queue, Py_NewRef(piece), base, len);
    self->waiting += len;
    return 0;
}

static int
queue_bytes(TulipTLS *self, PyObject *piece)
{
    size_t len = (size_t)PyBytes_GET_SIZE(piece);
    if (self->waiting == 0 && self->queue == NULL) {
        self->pending = Py_NewRef(piece);
        self->waiting = len;
        return 0;
    }
    return queue_part(self, piece, PyBytes_AS_STRING(piece), len);
}

/* Forgets the first n bytes, unless everything was dropped.  -1 with MemoryError. */
static int
consume(TulipTLS *self, size_t n)
{
    TulipPlain *queue;
    if (n > self->waiting) {
        return 0;
    }
    if (self->pending != NULL) {
        if (n == self->waiting) {
            self->waiting = 0;
            Py_CLEAR(self->pending);
            return 0;
        }
        if (unfold(self) < 0) {
            return -1;
        }
    }
    queue = self->queue;
    self->waiting -= n;
    while (n > 0) {
        PyObject *piece = queue->pieces[queue->first].piece;
        if (n < queue->pieces[queue->first].len) {
            queue->pieces[queue->first].base += n;
            queue->pieces[queue->first].len -= n;
            return 0;
        }
        n -= queue->pieces[queue->first].len;
        queue->first++;
        Py_DECREF(piece);   /* bytes: runs no code */
    }
    if (queue->first == queue->count) {
        self->queue = NULL;
        PyMem_Free(queue);
    }
    return 0;
}

void
tulip_tls_drop_queue(TulipTLS *self)
{
    TulipPlain *queue = self->queue;
    PyObject *pending = self->pending;
    self->queue = NULL;
    self->pending = NULL;
    self->waiting = 0;
    Py_XDECREF(pending);
    if (queue != NULL) {
        for (unsigned i = queue->first; i < queue->count; i++) {
            Py_DECREF(queue->pieces[i].piece);
        }
        PyMem_Free(queue);
    }
}

/* ---- sending ---- */

static int
write_to_stranger(TulipTLS *self, const char *base, size_t len)
{
    PyObject *data = PyBytes_FromStringAndSize(base, (Py_ssize_t)len);
    PyObject *result = NULL;
    if (data != NULL) {
        result = PyObject_CallMethod(self->under, "write", "O", data);
        Py_DECREF(data);
    }
    Py_XDECREF(result);
    return result != NULL ? 0 : -1;
}

void
tulip_tls_send_output(TulipTLS *self)
{
    UvtTls *engine = self->engine;
    char *out = engine->out;
    size_t len = engine->out_len;
    bool lent = engine->out_lent;
    int rc = 0;
    /* What is called may put out more: this is taken away first. */
    engine->out = NULL;
    uvt_tls_clear_output(engine);
    if (len > 0 && self->phase != TULIP_TLS_LOST) {
        rc = self->stream != NULL ? tulip_stream_send(self->stream, out, len)
                                  : write_to_stranger(self, out, len);
    }
    if (!lent) {
        PyMem_RawFree(out);
    }
    if (rc < 0) {
        tulip_tls_fatal(self, tulip_tls_failed);
    }
}

void
tulip_tls_send_last(TulipTLS *self)
{
    UvtTls *engine = self->engine;
    const TulipStream *stream = self->stream;
    PyObject *raised = PyErr_GetRaisedException();
    if (engine->out_len == 0) {
        /* nothing to say */
    }
    else if (stream == NULL) {
        if (write_to_stranger(self, engine->out, engine->out_len) < 0) {
            PyErr_Clear();
        }
    }
    else if (stream->sending == NULL && stream->queued == 0 && stream->uv != NULL
             && !(stream->flags & TULIP_LOST)
             && !uv_is_closing((uv_handle_t *)stream->uv)) {
        uv_buf_t buf = uv_buf_init(engine->out, (unsigned)engine->out_len);
        (void)uv_try_write(stream->uv, &buf, 1);
    }
    uvt_tls_clear_output(engine);
    if (raised != NULL) {
        PyErr_SetRaisedException(raised);
    }
}

/* ---- encrypting ---- */

/* The loop's memory for it; while that is in use, or when it is not there yet, a
 * new one.  NULL with MemoryError. */
static char *
take_slab(TulipLoop *loop)
{
    char *slab = loop->tls_slab;
    loop->tls_slab = NULL;
    if (slab == NULL) {
        slab = PyMem_Malloc(SLAB_SIZE);
        if (slab == NULL) {
            PyErr_NoMemory();
        }
    }
    return slab;
}

static void
give_slab(TulipLoop *loop, char *slab)
{
    if (loop->tls_slab == NULL) {
        loop->tls_slab = slab;
    }
    else {
        PyMem_Free(slab);
    }
}

/* What goes into the next record: in place if it is in one piece, which *keep then
 * has a reference to, else gathered in `room`, UVT_TLS_PLAIN bytes. */
static const char *
next_plain(TulipTLS *self, char *room, size_t *len, PyObject **keep)
{
    const TulipPlain *queue = self->queue;
    size_t gathered = 0;
    const char *base;
    *keep = NULL;
    if (self->pending != NULL) {
        *len = self->waiting;
        *keep = Py_NewRef(self->pending);
        return PyBytes_AS_STRING(self->pending);
    }
    base = queue->pieces[queue->first].base;
    *len = queue->pieces[queue->first].len;
    if (*len >= UVT_TLS_PLAIN || queue->first + 1 == queue->count) {
        *len = *len < UVT_TLS_PLAIN ? *len : UVT_TLS_PLAIN;
        *keep = Py_NewRef(queue->pieces[queue->first].piece);
        return base;
    }
    for (unsigned i = queue->first;
         i < queue->count && gathered < UVT_TLS_PLAIN; i++) {
        size_t some = queue->pieces[i].len;
        if (some > UVT_TLS_PLAIN - gathered) {
            some = UVT_TLS_PLAIN - gathered;
        }
        memcpy(room + gathered, queue->pieces[i].base, some);
        gathered += some;
    }
    *len = gathered;
    return room;
}

/* Encrypts into `slab` what fits. */
static UvtTlsStatus
encrypt_waiting(TulipTLS *self, char *slab)
{
    UvtTlsStatus status;
    uvt_tls_lend_output(self->engine, slab + UVT_TLS_PLAIN,
                        SLAB_SIZE - UVT_TLS_PLAIN);
    do {
        size_t len, put;
        PyObject *keep;
        const char *base;
        if (self->waiting > UVT_TLS_PLAIN && self->pending != NULL
            && unfold(self) < 0) {
            return UVT_TLS_ERROR;
        }
        base = next_plain(self, slab, &len, &keep);
        status = uvt_tls_write(self->engine, base, len, &put);
        if (status == UVT_TLS_OK && consume(self, put) < 0) {
            status = UVT_TLS_ERROR;
        }
        Py_XDECREF(keep);
    } while (self->waiting > 0 && status == UVT_TLS_OK
             && uvt_tls_has_room(self->engine));
    return status;
}

/* Whether the one below takes more now. */
static bool
has_way(const TulipTLS *self)
{
    const TulipStream *stream = self->stream;
    if (stream == NULL) {
        return !(self->flags & TLS_FULL);
    }
    return stream->sending == NULL && stream->queued == 0 && stream->uv != NULL
        && !(stream->flags & TULIP_LOST);
}

static bool
may_encrypt(const TulipTLS *self)
{
    return self->phase == TULIP_TLS_OPEN || self->phase == TULIP_TLS_FLUSHING;
}

void
tulip_tls_flush(TulipTLS *self)
{
    UvtTlsStatus status = UVT_TLS_OK;
    if ((self->flags & TLS_FLUSHING_NOW) || !may_encrypt(self)) {
        return;
    }
    self->flags |= TLS_FLUSHING_NOW;
    tulip_tls_enter(self);
    while (self->waiting > 0 && status == UVT_TLS_OK && may_encrypt(self)
           && has_way(self)) {
        char *slab = take_slab(self->loop);
        PyObject *exc;
        status = slab == NULL ? UVT_TLS_ERROR : encrypt_waiting(self, slab);
        exc = status == UVT_TLS_ERROR ? PyErr_GetRaisedException() : NULL;
        tulip_tls_send_output(self);
        if (slab != NULL) {
            give_slab(self->loop, slab);
        }
        if (exc != NULL) {
            PyErr_SetRaisedException(exc);
            tulip_tls_fatal(self, tulip_tls_failed);
        }
    }
    self->flags &= ~(unsigned)TLS_FLUSHING_NOW;
    if (self->phase == TULIP_TLS_FLUSHING && self->waiting == 0) {
        tulip_tls_go_on_closing(self);
    }
    tulip_tls_look(self);
    tulip_tls_leave(self);
}

/* Something was queued: see to it that it is sent. */
static void
queue_done(TulipTLS *self)
{
    TulipStream *stream = self->stream;
    if (self->phase != TULIP_TLS_OPEN) {
        tulip_tls_maybe_pause(self);
    }
    else if (stream == NULL || !(stream->flags & TULIP_LAYERED)) {
        tulip_tls_flush(self);
        tulip_tls_maybe_pause(self);
    }
    else if (tulip_loop_is_here(self->loop)
             && (self->waiting > self->high || stream->sending != NULL
                      || self->loop->thread_id == 0)) {
        Py_INCREF(self);
        tulip_stream_flush(stream);
        tulip_tls_maybe_pause(self);
        Py_DECREF(self);
    }
    else {
        tulip_stream_flush_later(stream);
        tulip_loop_wake_if_polling(self->loop);
    }
}

/* ---- write() ---- */

static int
count_lost_write(TulipTLS *self)
{
    return tulip_count_lost_write(self->loop, &self->lost_writes,
                                  "SSL connection is closed");
}

static int
queue_view(TulipTLS *self, PyObject *data)
{
    PyObject *base = PyMemoryView_Check(data) ? PyMemoryView_GET_BASE(data)
                                              : NULL;
    PyObject *copy;
    Py_buffer view;
    int rc;
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0) {
        return -1;
    }
    if (view.len == 0) {
        rc = 0;
    }
    else if (base != NULL && PyBytes_CheckExact(base)) {
        rc = queue_part(self, base, view.buf, (size_t)view.len);
    }
    else {
        copy = PyBytes_FromStringAndSize(view.buf, view.len);
        rc = copy == NULL ? -1 : queue_bytes(self, copy);
        Py_XDECREF(copy);
    }
    PyBuffer_Release(&view);
    return rc;
}

static int
queue_any(TulipTLS *self, PyObject *data)
{
    if (!tulip_loop_check_fork(self->loop)) {
        return -1;
    }
    if (PyBytes_CheckExact(data)) {
        return PyBytes_GET_SIZE(data) > 0 ? queue_bytes(self, data) : 0;
    }
    return queue_view(self, data);
}

static bool
check_data(PyObject *data)
{
    if (PyBytes_Check(data) || PyByteArray_Check(data)
        || PyMemoryView_Check(data)) {
        return true;
    }
    PyErr_Format(PyExc_TypeError,
                 "data: expecting a bytes-like instance, got %.200s",
                 Py_TYPE(data)->tp_name);
    return false;
}

PyDoc_STRVAR(write_doc,
"write($self, data)\n--\n\n"
"Send data: bytes, bytearray or memoryview.  It is encrypted and leaves when the\n"
"callback that wrote returns, together with all else that was written until then,\n"
"or at once above the high-water mark.  A buffer that can change may do so after\n"
"this call.\n\n"
"Raises TypeError, BufferError (not contiguous).");

static PyObject *
tls_write(TulipTLS *self, PyObject *const *args, Py_ssize_t nargs,
          PyObject *kwnames)
{
    UVT_LOCKED(tulip_lock(self->loop));
    PyObject *data = tulip_only_arg("write", "data", args, nargs, kwnames);
    if (data == NULL) {
        return NULL;
    }
    if (!PyBytes_CheckExact(data) && !check_data(data)) {
        return NULL;
    }
    if (self->phase >= TULIP_TLS_FLUSHING || (self->flags & TLS_CLOSED)) {
        int some = PyObject_IsTrue(data);
        if (some < 0 || (some > 0 && count_lost_write(self) < 0)) {
            return NULL;
        }
        Py_RETURN_NONE;
    }
    if (queue_any(self, data) < 0) {
        return NULL;
    }
    if (self->waiting > 0) {
        queue_done(self);
    }
    Py_RETURN_NONE;
}

/* All are checked before the first one is queued. */
static int
writelines(TulipTLS *self, PyObject *tuple)
{
    Py_ssize_t count = PyTuple_GET_SIZE(tuple);
    for (Py_ssize_t i = 0; i < count; i++) {
        if (!check_data(PyTuple_GET_ITEM(tuple, i))) {
            return -1;
        }
    }
    if (self->phase >= TULIP_TLS_FLUSHING || (self->flags & TLS_CLOSED)) {
        return count > 0 ? count_lost_write(self) : 0;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        if (queue_any(self, PyTuple_GET_ITEM(tuple, i)) < 0) {
            return -1;
        }
    }
    if (self->waiting > 0) {
        queue_done(self);
    }
    return 0;
}

PyDoc_STRVAR(writelines_doc,
"writelines($self, list_of_data)\n--\n\n"
"write() each member of an iterable.");

static PyObject *
tls_writelines(TulipTLS *self, PyObject *const *args, Py_ssize_t nargs,
               PyObject *kwnames)
{
    UVT_LOCKED(tulip_lock(self->loop));
    PyObject *list = tulip_only_arg("writelines", "list_of_data", args, nargs,
                                    kwnames);
    PyObject *tuple = list == NULL ? NULL : PySequence_Tuple(list);
    int rc;
    if (tuple == NULL) {
        return NULL;
    }
    rc = writelines(self, tuple);
    Py_DECREF(tuple);
    if (rc < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(write_eof_doc,
"write_eof($self, /)\n--\n\n"
"Raises NotImplementedError: asyncio's TLS cannot be closed on one side.");

static PyObject *
tls_write_eof(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(ignored))
{
    PyErr_SetNone(PyExc_NotImplementedError);
    return NULL;
}

PyDoc_STRVAR(can_write_eof_doc,
"can_write_eof($self, /)\n--\n\nFalse: there is no write_eof().");

static PyObject *
tls_can_write_eof(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(ignored))
{
    Py_RETURN_FALSE;
}

PyMethodDef tulip_tls_write_methods[] = {
    {"write", (PyCFunction)(void (*)(void))tls_write,
     METH_FASTCALL | METH_KEYWORDS, write_doc},
    {"writelines", (PyCFunction)(void (*)(void))tls_writelines,
     METH_FASTCALL | METH_KEYWORDS, writelines_doc},
    {"write_eof", (PyCFunction)tls_write_eof, METH_NOARGS, write_eof_doc},
    {"can_write_eof", (PyCFunction)tls_can_write_eof, METH_NOARGS,
     can_write_eof_doc},
    {NULL},
};
