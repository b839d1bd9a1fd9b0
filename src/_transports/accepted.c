/* From accept() to connection_made(), and a moment longer.  All functions run
 * attached, on the loop's thread.  The loop owns a reference to each stream that
 * waits for connection_made(), none to those for which it was just called.
 *
 * asyncio makes a task for each connection that it accepts.  What is different
 * between the turn of the accept() and the end of this task can be seen: what the
 * protocol's factory schedules comes before connection_made(); a server that is
 * closed before connection_made() drops the connection; and who cancels all tasks
 * has the connection closed, also when the task that was to serve it has not begun
 * (python/uvtulip/accepting.py).  Here all that were accepted by one poll are told at
 * the end of the batch of callbacks that follows, without callbacks of their own.
 */
#include "accepted.h"
#include "tls_layer.h"

typedef struct List {
    TulipStream **items;
    size_t count, capacity;
} List;

struct TulipAccepted {
    List new;           /* borrowed up to `made`, strong from there on: ... */
    size_t made;        /* ... for those before it connection_made() was called */
    List shaken;        /* borrowed: those whose TLS handshake is done */
    size_t until;       /* both are new until so many callbacks were called */
};

/* ---- lists ---- */

static int
append(List *self, TulipStream *stream)
{
    if (self->count == self->capacity) {
        size_t capacity = self->capacity == 0 ? 16 : 2 * self->capacity;
        TulipStream **items = self->items;
        PyMem_Resize(items, TulipStream *, capacity);
        if (items == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        self->items = items;
        self->capacity = capacity;
    }
    self->items[self->count++] = stream;
    return 0;
}

/* The place of the stream among the first n; NULL: it is not there. */
static TulipStream **
find(const List *self, size_t n, const TulipStream *stream)
{
    for (size_t i = 0; i < n; i++) {
        if (self->items[i] == stream) {
            return &self->items[i];
        }
    }
    return NULL;
}

static struct TulipAccepted *
get(TulipLoop *loop)
{
    if (loop->accepted == NULL) {
        loop->accepted = PyMem_Calloc(1, sizeof(*loop->accepted));
        if (loop->accepted == NULL) {
            PyErr_NoMemory();
        }
    }
    return loop->accepted;
}

/* ---- the end of the moment ---- */

/* A task that connection_made() has made begins with the next batch: how many
 * callbacks the loop has been given, and how many it has begun to call. */
static void
still_new(TulipLoop *loop, struct TulipAccepted *self)
{
    self->until = loop->ready.taken + loop->ready.tail;
}

static bool
is_over(const TulipLoop *loop, const struct TulipAccepted *self)
{
    return loop->ready.taken + loop->ready.head >= self->until;
}

void
tulip_accepted_made(TulipStream *stream)
{
    struct TulipAccepted *self;
    if (stream->server == NULL) {
        return;
    }
    self = get(stream->loop);
    if (self == NULL) {
        PyErr_Clear();          /* it is only not closed with the tasks */
        return;
    }
    if (is_over(stream->loop, self)) {
        self->shaken.count = 0;
    }
    if (append(&self->shaken, stream) < 0) {
        PyErr_Clear();
    }
    still_new(stream->loop, self);
}

void
tulip_accepted_forget(TulipLoop *loop, const TulipStream *stream)
{
    struct TulipAccepted *self = loop->accepted;
    TulipStream **place;
    if (loop->accepted_waiting == 0 && is_over(loop, self)) {
        return;
    }
    place = find(&self->new, self->made, stream);
    if (place == NULL) {
        place = find(&self->shaken, self->shaken.count, stream);
    }
    if (place != NULL) {
        *place = NULL;
    }
}

bool
tulip_accepted_is_new(TulipLoop *loop, const TulipStream *stream)
{
    const struct TulipAccepted *self = loop->accepted;
    if ((stream->flags & TULIP_WAITS)
        || ((stream->flags & TULIP_LAYERED) && stream->protocol != NULL
            && tulip_layer_in_handshake(stream->protocol))) {
        return true;
    }
    return self != NULL && !is_over(loop, self)
        && (find(&self->new, self->made, stream) != NULL
            || find(&self->shaken, self->shaken.count, stream) != NULL);
}

/* ---- connection_made() ---- */

static PyObject *
call_connection_made(TulipStream *stream)
{
    if (stream->flags & TULIP_LAYERED) {
        PyObject *link = Py_NewRef(stream->protocol);
        tulip_layer_made(link, (PyObject *)stream);
        Py_DECREF(link);
        return Py_NewRef(Py_None);
    }
    return tulip_stream_call(stream, stream->loop->st->str_connection_made,
                             (PyObject *)stream);
}

/* The server was closed meanwhile: asyncio's task would fail to make a transport. */
static void
drop(TulipStream *stream)
{
    stream->flags |= TULIP_CLOSING | TULIP_LOST | TULIP_LOST_DONE;
    tulip_stream_close_handle(stream);
    tulip_stream_forget_protocol(stream);
    tulip_stream_leave_server(stream);
}

static void
begin(TulipStream *stream)
{
    PyObject *result, *protocol;
    if ((stream->flags & TULIP_LOST_DONE) || stream->protocol == NULL) {
        return;
    }
    if (stream->server != NULL && stream->server->stopped) {
        drop(stream);
        return;
    }
    protocol = Py_NewRef(stream->protocol);
    stream->flags |= TULIP_IN_CALLBACK;
    result = call_connection_made(stream);
    stream->flags &= ~(unsigned)(TULIP_IN_CALLBACK | TULIP_WAITS);
    if (result == NULL) {
        tulip_loop_report(stream->loop,
                          "Exception in callback protocol.connection_made()",
                          (PyObject *)stream, protocol, NULL);
    }
    Py_XDECREF(result);
    Py_DECREF(protocol);
    tulip_stream_flush(stream);
    tulip_stream_start(stream);
}

/* What connection_made() has scheduled comes before the first data. */
void
tulip_accepted_begin(TulipLoop *loop)
{
    struct TulipAccepted *self = loop->accepted;
    loop->no_poll = true;
    while (loop->accepted_waiting > 0 && !loop->forked) {
        TulipStream *stream = self->new.items[self->made++];
        loop->accepted_waiting--;
        begin(stream);
        if (stream->server == NULL) {       /* and would not be forgotten */
            self->new.items[self->made - 1] = NULL;
        }
        Py_DECREF(stream);
    }
    still_new(loop, self);
    if (tulip_loop_has_unsent(loop)) {
        tulip_flush_dirty(loop);
    }
}

int
tulip_accepted_add(TulipLoop *loop, TulipStream *stream)
{
    struct TulipAccepted *self = get(loop);
    if (self == NULL) {
        return -1;
    }
    if (loop->accepted_waiting == 0 && is_over(loop, self)) {
        self->new.count = self->made = 0;
    }
    if (append(&self->new, stream) < 0) {
        return -1;
    }
    Py_INCREF(stream);
    loop->accepted_waiting++;
    stream->flags |= TULIP_WAITS;
    return 0;
}

/* ---- of the loop ---- */

int
tulip_accepted_traverse(TulipLoop *loop, visitproc visit, void *arg)
{
    const struct TulipAccepted *self = loop->accepted;
    for (size_t i = 0; i < loop->accepted_waiting; i++) {
        Py_VISIT(self->new.items[self->made + i]);
    }
    return 0;
}

void
tulip_accepted_end(TulipLoop *loop)
{
    struct TulipAccepted *self = loop->accepted;
    if (self == NULL) {
        return;
    }
    while (loop->accepted_waiting > 0) {
        TulipStream *stream = self->new.items[self->made++];
        loop->accepted_waiting--;
        /* Nobody has heard of it: its handle is closed with the loop. */
        stream->flags |= TULIP_CLOSING | TULIP_LOST | TULIP_LOST_DONE;
        Py_DECREF(stream);
    }
    loop->accepted = NULL;
    PyMem_Free(self->new.items);
    PyMem_Free(self->shaken.items);
    PyMem_Free(self);
}
