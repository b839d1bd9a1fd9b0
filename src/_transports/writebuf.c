/* What waits to be written: queued pieces, one vectored write of them after the
 * callback that wrote, and the libuv request for what the kernel does not take.
 * All functions run on the loop's thread, attached; queueing may happen in any.
 *
 * A piece is an exact bytes object (or a part of one) that the queue owns a
 * reference to; whatever can change is copied when it has to wait, and many small
 * ones are copied together.  A TulipWrite
 * belongs to its transport until uv_write takes it, and then to libuv.
 */
#include "stream.h"
#include "tls_layer.h"
#include <string.h>

/* What one call of writev takes. */
#define MAX_BUFS 1024
#define FIRST_CAPACITY 8
/* From the ninth on, small pieces are copied together: the kernel takes longer
 * for one that it has to look for (40 ns) than copying 256 bytes does. */
#define GATHER_AFTER 8
#define GATHER_MAX 256
#define HEAP_SIZE (16 * 1024 - 64)

/* ---- write blocks ---- */

static size_t
block_size(unsigned capacity)
{
    return sizeof(TulipWrite)
        + capacity * (sizeof(uv_buf_t) + sizeof(PyObject *));
}

static void
block_layout(TulipWrite *block, unsigned capacity)
{
    block->capacity = capacity;
    block->bufs = (uv_buf_t *)(block + 1);
    block->pieces = (PyObject **)(block->bufs + capacity);
}

static TulipWrite *
block_new(TulipStream *self, unsigned capacity)
{
    TulipWrite *block = PyMem_Malloc(block_size(capacity));
    if (block == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    block->owner = NULL;
    block->api = tulip_stream_api(self);
    block->first = block->count = 0;
    block->room = 0;
    block_layout(block, capacity);
    return block;
}

static void
block_free(TulipWrite *block)
{
    for (unsigned i = block->first; i < block->count; i++) {
        Py_DECREF(block->pieces[i]);
    }
    PyMem_Free(block);
}

/* Room for one more piece in self->queue; the first one may be waiting in
 * self->pending. */
static int
block_reserve(TulipStream *self)
{
    TulipWrite *block = self->queue, *grown;
    unsigned waiting;
    if (block == NULL) {
        self->queue = block_new(self, FIRST_CAPACITY);
        return self->queue == NULL ? -1 : 0;
    }
    if (block->count < block->capacity) {
        return 0;
    }
    waiting = block->count - block->first;
    if (waiting > UINT_MAX / 4) {
        PyErr_NoMemory();
        return -1;
    }
    grown = block_new(self, 2 * block->capacity);
    if (grown == NULL) {
        return -1;
    }
    memcpy(grown->bufs, block->bufs + block->first,
           waiting * sizeof(uv_buf_t));
    memcpy(grown->pieces, block->pieces + block->first,
           waiting * sizeof(PyObject *));
    grown->count = waiting;
    grown->room = block->room;
    PyMem_Free(block);
    self->queue = grown;
    return 0;
}

/* The block has room. */
static void
block_add(TulipWrite *block, UVT_STEALS(2) PyObject *piece, char *base,
          size_t len)
{
    block->pieces[block->count] = piece;
    block->bufs[block->count].base = base;
    block->bufs[block->count].len = len;
    block->count++;
    block->room = 0;
}

/* Forgets the first n bytes. */
static void
block_consume(TulipWrite *block, size_t n)
{
    while (n > 0) {
        uv_buf_t *buf = &block->bufs[block->first];
        if (n < buf->len) {
            buf->base += n;
            buf->len -= n;
            return;
        }
        n -= buf->len;
        Py_DECREF(block->pieces[block->first]);
        block->first++;
    }
}

/* ---- queueing ---- */

/* Moves the single piece into a block. */
static int
unfold(TulipStream *self)
{
    PyObject *piece = self->pending;
    if (block_reserve(self) < 0) {
        return -1;
    }
    if (piece != NULL) {
        self->pending = NULL;
        block_add(self->queue, piece, PyBytes_AS_STRING(piece),
                  (size_t)PyBytes_GET_SIZE(piece));
    }
    return 0;
}

/* Appends a copy to the heap of small pieces, which is the last piece or becomes
 * it. */
static int
gather(TulipStream *self, const char *base, size_t len)
{
    TulipWrite *block = self->queue;
    uv_buf_t *last;
    if (block->room < len) {
        PyObject *heap = PyBytes_FromStringAndSize(NULL, HEAP_SIZE);
        if (heap == NULL) {
            return -1;
        }
        if (block_reserve(self) < 0) {
            Py_DECREF(heap);
            return -1;
        }
        block = self->queue;
        block_add(block, heap, PyBytes_AS_STRING(heap), 0);
        block->room = HEAP_SIZE;
    }
    last = &block->bufs[block->count - 1];
    memcpy(last->base + last->len, base, len);
    last->len += len;
    block->room -= len;
    self->queued += len;
    return 0;
}

Py_ssize_t
tulip_queue_small(TulipStream *self, PyObject *const *items, Py_ssize_t count)
{
    TulipWrite *block = self->queue;
    Py_ssize_t i = 0;
    size_t room;
    uv_buf_t *last;
    if (block == NULL || block->room == 0 || block->first == block->count) {
        return 0;
    }
    last = &block->bufs[block->count - 1];
    room = block->room;
    for (char *end = last->base + last->len; i < count; i++) {
        size_t len = (size_t)PyBytes_GET_SIZE(items[i]);
        if (len > GATHER_MAX || len > room) {
            break;
        }
        memcpy(end, PyBytes_AS_STRING(items[i]), len);
        end += len;
        room -= len;
    }
    last->len += block->room - room;
    self->queued += block->room - room;
    block->room = room;
    return i;
}

static bool
is_gathered(const TulipStream *self, size_t len)
{
    return len <= GATHER_MAX && self->queue != NULL
        && self->queue->count - self->queue->first >= GATHER_AFTER;
}

int
tulip_queue_part(TulipStream *self, PyObject *piece, char *base, size_t len)
{
    if (is_gathered(self, len)) {
        return gather(self, base, len);
    }
    if ((self->pending != NULL && unfold(self) < 0)
        || block_reserve(self) < 0) {
        return -1;
    }
    block_add(self->queue, Py_NewRef(piece), base, len);
    self->queued += len;
    return 0;
}

int
tulip_queue_bytes(TulipStream *self, PyObject *piece)
{
    size_t len = (size_t)PyBytes_GET_SIZE(piece);
    if (self->queued == 0 && self->queue == NULL) {
        self->pending = Py_NewRef(piece);
        self->queued = len;
        return 0;
    }
    return tulip_queue_part(self, piece, PyBytes_AS_STRING(piece), len);
}

int
tulip_queue_copy(TulipStream *self, const char *base, size_t len)
{
    PyObject *copy;
    int rc;
    if (is_gathered(self, len)) {
        return gather(self, base, len);
    }
    copy = PyBytes_FromStringAndSize(base, (Py_ssize_t)len);
    if (copy == NULL) {
        return -1;
    }
    rc = tulip_queue_bytes(self, copy);
    Py_DECREF(copy);
    return rc;
}

void
tulip_stream_drop_queue(TulipStream *self)
{
    TulipWrite *queue = self->queue;
    PyObject *pending = self->pending;
    self->queue = NULL;
    self->pending = NULL;
    self->queued = 0;
    Py_XDECREF(pending);
    if (queue != NULL) {
        block_free(queue);
    }
}

/* ---- sending ---- */

const char *
tulip_write_failed(const TulipStream *self)
{
    return self->flags & TULIP_PIPE ? "Fatal write error on pipe transport"
                                    : "Fatal write error on socket transport";
}

static void on_written(uv_write_t *req, int status);

/* Gives libuv the next `size` bytes of the block, or as many as one system call takes:
 * libuv refuses more from 1.53 on.  A libuv status. */
static int
send_part(uv_stream_t *uv, TulipWrite *block, size_t size)
{
    uv_buf_t *bufs = block->bufs + block->first;
    unsigned n = block->count - block->first;
    size_t whole = 0, part = size;
    int rc;
    if (size > TULIP_MOST_AT_ONCE) {
        for (n = 0, part = 0; bufs[n].len <= TULIP_MOST_AT_ONCE - part; n++) {
            part += bufs[n].len;
        }
        if (n == 0) {
            whole = bufs->len;
            part = bufs->len = TULIP_MOST_AT_ONCE;
            n = 1;
        }
    }
    block->part = part;
    block->rest = size - part;
    rc = uv_write(&block->req, uv, bufs, n, on_written);
    if (whole > 0) {
        bufs->len = whole;
    }
    return rc;
}

static void
on_written(uv_write_t *req, int status)
{
    TulipWrite *block = req->data;
    TulipStream *self;

    block->api->attach(req->handle->loop);
    self = block->owner;
    if (self == NULL) {
        block_free(block);
        return;
    }
    if (status == 0 && block->rest > 0 && !(self->flags & TULIP_LOST)
        && !uv_is_closing((uv_handle_t *)req->handle)) {
        block_consume(block, block->part);
        status = send_part(req->handle, block, block->rest);
        if (status == 0) {
            return;
        }
    }
    Py_INCREF(self);        /* the protocol may drop it */
    self->sending = NULL;
    block_free(block);
    if (self->flags & TULIP_LOST) {
        tulip_stream_drop_queue(self);
    }
    else if (status == UV_ECANCELED) {
        /* The handle is closed by somebody else; `closed` follows. */
        tulip_stream_drop_queue(self);
    }
    else if (status < 0) {
        tulip_stream_fatal_uv(self, status, "write",
                              tulip_write_failed(self));
    }
    else {
        self->flags |= TULIP_IN_CALLBACK;
        tulip_stream_flush(self);
        tulip_stream_maybe_resume(self);
        if ((self->flags & TULIP_LAYERED) && self->protocol != NULL) {
            PyObject *link = Py_NewRef(self->protocol);
            tulip_layer_sent(link);
            Py_DECREF(link);
        }
        self->flags &= ~(unsigned)TULIP_IN_CALLBACK;
        tulip_stream_flush(self);
        tulip_stream_drained(self);
        if (self->flags & TULIP_SENDFILE) {
            tulip_sendfile_drained(self);
        }
    }
    Py_DECREF(self);
}

/* Hands the queue to libuv. */
static int
send_rest(TulipStream *self)
{
    TulipWrite *block = self->queue;
    size_t size = self->queued;
    int rc;
    self->queue = NULL;
    self->queued = 0;
    block->owner = self;
    block->req.data = block;
    self->sending = block;
    rc = send_part(self->uv, block, size);
    if (rc < 0) {
        self->sending = NULL;
        block_free(block);
    }
    return rc;
}

/* A status: < 0 is an error other than EAGAIN. */
static int
send_block(TulipStream *self)
{
    TulipWrite *block = self->queue;
    if (self->queued > TULIP_MOST_AT_ONCE) {
        return send_rest(self);
    }
    while (block->first < block->count) {
        unsigned n = block->count - block->first;
        int rc;
        if (n > MAX_BUFS) {
            n = MAX_BUFS;
        }
        rc = uv_try_write(self->uv, block->bufs + block->first, n);
        if (rc < 0) {
            return rc == UV_EAGAIN ? send_rest(self) : rc;
        }
        block_consume(block, (size_t)rc);
        self->queued -= (size_t)rc;
        if (n < MAX_BUFS && block->first < block->count) {
            return send_rest(self);     /* it is full: don't ask again */
        }
    }
    self->queue = NULL;
    PyMem_Free(block);
    return 0;
}

static int
send_pending(TulipStream *self)
{
    PyObject *piece = self->pending;
    uv_buf_t buf;
    int rc;
    buf.base = PyBytes_AS_STRING(piece);
    buf.len = (size_t)PyBytes_GET_SIZE(piece);
    rc = buf.len <= TULIP_MOST_AT_ONCE ? uv_try_write(self->uv, &buf, 1) : UV_EAGAIN;
    if (rc >= 0 && (size_t)rc == buf.len) {
        self->pending = NULL;
        self->queued = 0;
        Py_DECREF(piece);
        return 0;
    }
    if (rc < 0 && rc != UV_EAGAIN) {
        return rc;
    }
    if (unfold(self) < 0) {
        PyErr_Clear();
        return UV_ENOMEM;
    }
    if (rc > 0) {
        block_consume(self->queue, (size_t)rc);
        self->queued -= (size_t)rc;
    }
    return send_rest(self);
}

static void
flush_queue(TulipStream *self)
{
    int rc;
    if (self->queued == 0 || self->sending != NULL || self->loop->forked) {
        return;
    }
    if (self->uv == NULL || (self->flags & TULIP_LOST)) {
        tulip_stream_drop_queue(self);
        return;
    }
    rc = self->pending != NULL ? send_pending(self) : send_block(self);
    if (rc >= 0) {
        return;
    }
    if (uv_is_closing((uv_handle_t *)self->uv)) {
        /* By somebody else; `closed` follows. */
        tulip_stream_drop_queue(self);
    }
    else {
        tulip_stream_fatal_uv(self, rc, "write",
                              tulip_write_failed(self));
    }
}

void
tulip_stream_flush(TulipStream *self)
{
    if ((self->flags & TULIP_LAYERED) && self->protocol != NULL) {
        PyObject *link = Py_NewRef(self->protocol);
        tulip_layer_flush(link);
        Py_DECREF(link);
    }
    flush_queue(self);
}

int
tulip_stream_send(TulipStream *self, const char *base, size_t len)
{
    uv_buf_t buf;
    int rc;
    flush_queue(self);
    if (self->uv == NULL || (self->flags & TULIP_LOST)
        || uv_is_closing((uv_handle_t *)self->uv)) {
        return 0;
    }
    if (self->sending != NULL) {
        return tulip_queue_copy(self, base, len);
    }
    buf.base = (char *)base;
    buf.len = len < TULIP_MOST_AT_ONCE ? len : TULIP_MOST_AT_ONCE;
    rc = uv_try_write(self->uv, &buf, 1);
    if (rc < 0 && rc != UV_EAGAIN) {
        tulip_stream_fatal_uv(self, rc, "write", tulip_write_failed(self));
        return 0;
    }
    if (rc > 0) {
        base += rc;
        len -= (size_t)rc;
    }
    if (len == 0) {
        return 0;
    }
    if (tulip_queue_copy(self, base, len) < 0
        || (self->pending != NULL && unfold(self) < 0)) {
        return -1;
    }
    rc = send_rest(self);
    if (rc < 0) {
        tulip_stream_fatal_uv(self, rc, "write", tulip_write_failed(self));
    }
    return 0;
}
