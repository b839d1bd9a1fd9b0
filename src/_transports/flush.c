/* When what was written is sent: the loop's list of streams with something to send,
 * which owns a reference to each, and how long they stay on it.  All functions run
 * on the loop's thread, attached.
 */
#include "stream.h"
#include "datagram.h"

/* What read callbacks write is sent after several of them: 100 reads and then 100
 * writes of 1 KiB take a sixth less CPU than reads and writes in turn, since each
 * of the two stays in the processor's caches.  It does not help with more bytes.
 * Nobody waits for long: callbacks that take their time have the next ones
 * flushed one by one. */
#define TOGETHER_BYTES (8 * 1024)
#define TOGETHER_COUNT 32
#define TOGETHER_NS (100 * 1000)
#define PROMPT_COUNT 64

static void
list_dirty(TulipStream *self)
{
    TulipLoop *loop = self->loop;
    if (loop->dirty == NULL) {
        loop->dirty_end = &loop->dirty;
    }
    self->flags |= TULIP_LISTED;
    *loop->dirty_end = (TulipStream *)Py_NewRef(self);
    loop->dirty_end = &self->next_dirty;
}

UVT_NEW static TulipStream *
unlist_dirty(TulipLoop *loop)
{
    TulipStream *self = loop->dirty;
    if (self != NULL) {
        loop->dirty = self->next_dirty;
        if (loop->dirty == NULL) {
            loop->dirty_end = &loop->dirty;
        }
        self->next_dirty = NULL;
        self->flags &= ~(unsigned)TULIP_LISTED;
    }
    return self;
}

void
tulip_stream_flush_later(TulipStream *self)
{
    if (!(self->flags & (TULIP_LISTED | TULIP_IN_CALLBACK))) {
        list_dirty(self);
    }
}

static void
flush_streams(TulipLoop *loop)
{
    TulipStream *self;
    loop->dirty_count = 0;
    while ((self = unlist_dirty(loop)) != NULL) {
        tulip_stream_flush(self);
        if (self->sending != NULL) {        /* another thread has written much */
            tulip_stream_maybe_pause(self);
        }
        Py_DECREF(self);
    }
}

void
tulip_flush_dirty(TulipLoop *loop)
{
    do {
        flush_streams(loop);
        tulip_flush_datagrams(loop);
    } while (loop->dirty != NULL);
}

void
tulip_stream_flush_with_others(TulipStream *self)
{
    TulipLoop *loop = self->loop;
    if (self->queued == 0) {
        return;
    }
    if (self->queued > TOGETHER_BYTES || loop->prompt > 0) {
        loop->prompt -= loop->prompt > 0;
        tulip_stream_flush(self);
        return;
    }
    if (!(self->flags & TULIP_LISTED)) {
        list_dirty(self);
    }
    if (loop->dirty_count++ == 0) {
        loop->dirty_since = tulip_now();
    }
    else if (loop->dirty_count >= TOGETHER_COUNT
             || tulip_now() - loop->dirty_since > TOGETHER_NS) {
        loop->prompt = loop->dirty_count < TOGETHER_COUNT / 4 ? PROMPT_COUNT : 0;
        flush_streams(loop);
    }
}

int
tulip_dirty_traverse(TulipLoop *loop, visitproc visit, void *arg)
{
    for (TulipStream *self = loop->dirty; self != NULL; self = self->next_dirty) {
        Py_VISIT(self);
    }
    return tulip_datagrams_traverse(loop, visit, arg);
}

void
tulip_dirty_clear(TulipLoop *loop)
{
    TulipStream *self;
    while ((self = unlist_dirty(loop)) != NULL) {
        Py_DECREF(self);
    }
    tulip_datagrams_clear(loop);
}

/* Whether drain() is for such a protocol: the answer for its type, which is that of the
 * next one mostly. */
static bool
can_drain(TulipLoop *loop, PyObject *protocol)
{
    PyTypeObject *type = Py_TYPE(protocol);
    if (loop->drain_type != type) {
        bool can = PyObject_HasAttr((PyObject *)type, loop->st->str__drain_helper);
        Py_XSETREF(loop->drain_type, (PyTypeObject *)Py_NewRef(type));
        loop->can_drain = can;
    }
    return loop->can_drain;
}

/* What StreamWriter.drain() calls first: when it returns, what was written is with the
 * kernel as far as that takes it.  Only of a protocol that can be drained: others ask
 * this before each of several writes, which are to leave together. */
void
tulip_stream_flush_for_drain(TulipStream *self, PyObject *protocol)
{
    if (protocol != NULL && tulip_stream_on_thread(self)
        && can_drain(self->loop, protocol)) {
        Py_INCREF(self);
        tulip_stream_flush(self);
        Py_DECREF(self);
    }
}

/* Something was queued: see to it that it is sent. */
void
tulip_queue_done(TulipStream *self)
{
    bool much = self->queued > tulip_stream_high(self);
    if (much || self->sending != NULL || self->loop->thread_id == 0) {
        /* Another thread only queues. */
        if (tulip_stream_on_thread(self)) {
            Py_INCREF(self);    /* errors and pause_writing call Python */
            tulip_stream_flush(self);
            tulip_stream_maybe_pause(self);
            Py_DECREF(self);
            return;
        }
    }
    if (self->flags & TULIP_IN_CALLBACK) {
        return;
    }
    tulip_stream_flush_later(self);
    tulip_loop_wake_if_polling(self->loop);
}
