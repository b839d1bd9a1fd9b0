/* StreamTransport: an asyncio transport over a uv stream handle; with it, since
 * they are little else, ReadPipeTransport and WritePipeTransport.
 *
 * Edges that the collector sees: transport -> loop, handle, protocol, receive,
 * context, server, extra, __dict__ and those of TulipRare; handle -> transport
 * as its consumer's owner.  The pair of transport and handle is taken apart
 * when the handle is closed.
 */
#ifndef TULIP_STREAM_H
#define TULIP_STREAM_H

#include "eventloop.h"
#include <netinet/in.h>

struct TulipServer;

/* State, in TulipStream.flags. */
enum {
    TULIP_OPEN = 1 << 0,            /* made completely; has to be closed */
    TULIP_STARTED = 1 << 1,         /* may read: connection_made has been called */
    TULIP_READING = 1 << 2,         /* read_start was called */
    TULIP_PAUSED = 1 << 3,          /* by pause_reading */
    TULIP_EOF_SEEN = 1 << 4,
    TULIP_EOF_SENT = 1 << 5,        /* write_eof was called */
    TULIP_CLOSING = 1 << 6,
    TULIP_LOST = 1 << 7,            /* connection_lost is scheduled */
    TULIP_LOST_DONE = 1 << 8,       /* and was called */
    TULIP_BUFFERED = 1 << 9,        /* the protocol is a BufferedProtocol */
    TULIP_RECEIVE_BARE = 1 << 10,   /* receive is the function of a method of */
    TULIP_GET_BARE = 1 << 11,       /* the protocol, which is its first argument */
    TULIP_IN_ALLOC = 1 << 12,       /* libuv reads right after this */
    TULIP_IN_CALLBACK = 1 << 13,    /* a flush comes after the callback */
    TULIP_LISTED = 1 << 14,         /* in loop->dirty */
    TULIP_WRITING_PAUSED = 1 << 15, /* pause_writing was called */
    TULIP_NAMES_V6 = 1 << 16,
    TULIP_DIRECT = 1 << 17,         /* much comes: read into bytes objects */
    TULIP_TREND = 1 << 18,          /* the last read spoke for the other way */
    TULIP_HAS_BUFFERED = 1 << 19,   /* which consumer the handle has; */
    TULIP_HAS_DIRECT = 1 << 20,     /* else the plain one */
    TULIP_NAMES_OBJECTS = 1 << 21,
    TULIP_READ_PIPE = 1 << 22,      /* a ReadPipeTransport, ... */
    TULIP_WRITE_PIPE = 1 << 23,     /* ... a WritePipeTransport; */
    TULIP_PIPE = TULIP_READ_PIPE | TULIP_WRITE_PIPE,    /* either */
    TULIP_LAYERED = 1 << 24,        /* the protocol is an SSLLink (tls_layer.h) */
    TULIP_HAS_LAYER = 1 << 25,      /* the consumer for that */
    TULIP_SENDFILE = 1 << 26,       /* sendfile() is in progress */
    TULIP_CLOSE_ASKED = 1 << 28,    /* by another thread */
    TULIP_WAITS = 1 << 27,          /* for connection_made, of an accepted one */
};

/* What one system call takes at most. */
#define TULIP_MOST_AT_ONCE ((size_t)0x7ffff000)

/* Pieces that wait for the kernel, and the libuv request that sends them.  One
 * allocation; the transport owns it, from uv_write to its callback libuv. */
typedef struct TulipWrite {
    uv_write_t req;                 /* its data is this struct */
    struct TulipStream *owner;      /* while sending; NULL: the owner is gone */
    const UvtCAPI *api;
    unsigned first, count, capacity;    /* pieces first .. count - 1 wait */
    size_t room;                    /* left in the last one, for small ones */
    PyObject **pieces;              /* exact bytes, each keeps ... */
    uv_buf_t *bufs;                 /* ... this memory */
    size_t part, rest;              /* bytes that libuv has now, and later */
} TulipWrite;

/* What few transports need. */
typedef struct TulipRare {
    size_t high, low;               /* write buffer limits */
    PyObject *get_buffer;           /* of a BufferedProtocol */
    PyObject *socket;               /* borrows the descriptor; detached by us */
    Py_buffer view;                 /* where libuv reads to, ... */
    bool has_view;                  /* ... between alloc and read; or ... */
    bool detached;                  /* (socket has no descriptor any more) */
    PyObject *direct;               /* ... a bytes object that nobody knows yet */
    PyObject *waiter;               /* the future of sendfile(), or NULL */
} TulipRare;

/* An address in the least room: own and peer's for IPv4; family 0 is none.
 * With TULIP_NAMES_V6 an allocation of two, own and peer's; with
 * TULIP_NAMES_OBJECTS two objects, none of which the collector knows.  A pipe
 * has no names, but a file. */
typedef struct TulipName {
    uint32_t addr;
    in_port_t port;
    sa_family_t family;
} TulipName;

typedef struct TulipPipe {
    PyObject *file;             /* strong until closed, by us; or NULL */
    PyObject *poll;             /* of a writer: tells when the reader is gone; */
    int fd;                     /* watches this duplicate of our own, or -1 */
} TulipPipe;

typedef union TulipNames {
    TulipName v4[2];
    struct sockaddr_in6 *v6;
    PyObject *objects[2];
    TulipPipe *pipe;
} TulipNames;

typedef struct TulipStream {
    PyObject_HEAD
    PyObject *extra;            /* the slot _extra of asyncio.BaseTransport */
    TulipLoop *loop;            /* strong, for life */
    PyObject *handle;           /* strong until it is closed */
    uv_stream_t *uv;            /* of handle; NULL with it */
    PyObject *protocol;         /* NULL after connection_lost */
    PyObject *receive;          /* data_received or buffer_updated, or NULL */
    PyObject *context;
    PyObject *pending;          /* the only piece that is queued, or ... */
    TulipWrite *queue;          /* ... more than one, or part of one */
    TulipWrite *sending;        /* a request that is under way */
    size_t queued;              /* bytes in pending or queue */
    struct TulipStream *next_dirty;
    struct TulipServer *server; /* strong until connection_lost */
    struct TulipStream *prev_client, *next_client;  /* borrowed */
    TulipNames names;
    TulipRare *rare;            /* NULL until needed */
    PyObject *dict;
    PyObject *weakrefs;
    unsigned flags;
    unsigned lost_writes;       /* since the connection was lost, plus 1 */
} TulipStream;

static inline const UvtCAPI *
tulip_stream_api(const TulipStream *self)
{
    return self->loop->st->uv;
}

/* ---- transport.c ---- */

/* The libuv handle of a uv.TCP or uv.Pipe; NULL with an exception. */
uv_stream_t *tulip_stream_uv(const UvtCAPI *api, PyObject *handle);
/* Takes over an idle, connected handle.  `context` is kept and entered for
 * every call of the protocol; server may be NULL.  Calls nothing of the
 * protocol's; the handle keeps the result alive until it is closed. */
UVT_NEW TulipStream *tulip_stream_new(PyTypeObject *type, TulipLoop *loop,
                                      PyObject *handle, PyObject *protocol,
                                      PyObject *context,
                                      struct TulipServer *server);
/* What a constructor is called with; borrowed, None or NULL for what is not
 * given. */
typedef struct TulipOpening {
    PyObject *loop, *handle, *protocol, *waiter, *extra, *server;
    PyObject *pipe;                 /* the file object, from then on ours */
} TulipOpening;
/* A transport that calls connection_made() soon, in a copy of the current
 * context.  `kind` is 0 or one of the flags above.  On failure the handle is as
 * it was. */
UVT_NEW PyObject *tulip_stream_open(PyTypeObject *type, unsigned kind,
                                    const TulipOpening *args);
/* connection_made was called: reading may begin. */
void tulip_stream_start(TulipStream *self);
/* False while another thread runs the loop: then libuv must not be called. */
bool tulip_stream_on_thread(const TulipStream *self);
/* The same, with RuntimeError. */
UVT_CHECKED bool tulip_stream_check_thread(TulipStream *self);
/* NULL with MemoryError. */
UVT_BORROWED TulipRare *tulip_stream_rare(TulipStream *self);

/* ---- protocol.c ---- */

/* Looks up what is called for each read.  -1 with an exception. */
UVT_CHECKED int tulip_stream_use_protocol(TulipStream *self,
                                          PyObject *protocol);
void tulip_stream_forget_protocol(TulipStream *self);
/* Calls function(arg), or function(protocol, arg) if the flag `bare` is set, in
 * the transport's context.  Owns what it uses. */
UVT_NEW PyObject *tulip_stream_vectorcall(TulipStream *self, PyObject *function,
                                          unsigned bare, PyObject *arg);
/* Calls a method of the protocol in the transport's context; arg may be NULL. */
UVT_NEW PyObject *tulip_stream_call(TulipStream *self, PyObject *name,
                                    PyObject *arg);
/* Takes the raised exception: reports it as asyncio's _fatal_error does and
 * drops the connection. */
void tulip_stream_fatal(TulipStream *self, const char *message);
void tulip_stream_fatal_uv(TulipStream *self, int rc, const char *call,
                           const char *message);

/* ---- closing.c ---- */

/* Drops what waits to be sent and schedules connection_lost(exc); exc may be
 * NULL for None.  -1 with an exception when it cannot be scheduled. */
UVT_CHECKED int tulip_stream_force_close(TulipStream *self, PyObject *exc);
/* Everything that was written is sent: shut down or finish closing. */
void tulip_stream_drained(TulipStream *self);
UVT_CHECKED int tulip_stream_begin_close(TulipStream *self);
/* The consumer's event: the handle is closed, by whomever. */
void tulip_stream_on_closed(PyObject *owner);
/* Closes the handle without telling the protocol. */
void tulip_stream_close_handle(TulipStream *self);
void tulip_stream_detach_socket(TulipStream *self);
void tulip_stream_leave_server(TulipStream *self);

/* ---- extrainfo.c ---- */

void tulip_stream_free_names(TulipStream *self);
extern PyMethodDef tulip_socket_methods[];
PyObject *tulip_stream_get_extra_info(TulipStream *self, PyObject *args,
                                      PyObject *kwds);
PyObject *tulip_stream_repr(TulipStream *self);

/* ---- flowcontrol.c ---- */

size_t tulip_stream_buffered(const TulipStream *self);
size_t tulip_stream_high(const TulipStream *self);
void tulip_stream_maybe_pause(TulipStream *self);
void tulip_stream_maybe_resume(TulipStream *self);
PyObject *tulip_stream_get_paused(TulipStream *self, void *closure);
extern PyMethodDef tulip_flow_methods[];

/* ---- stream_read.c ---- */

/* Starts or stops reading as the flags demand. */
void tulip_stream_update_reading(TulipStream *self);
/* Takes the handle's events, for the way of reading that the flags demand. */
UVT_CHECKED int tulip_stream_consume(TulipStream *self, PyObject *handle);
/* The same when the way has changed. */
void tulip_stream_update_consumer(TulipStream *self);
void tulip_stream_set_paused(TulipStream *self, bool paused);
/* Lets go of what libuv was to read to. */
void tulip_stream_release_view(TulipStream *self);
extern PyMethodDef tulip_read_methods[];

/* ---- writebuf.c ---- */

/* Sends what the kernel takes of the queue, unless a request is under way. */
void tulip_stream_flush(TulipStream *self);
void tulip_stream_drop_queue(TulipStream *self);
/* The message for tulip_stream_fatal. */
const char *tulip_write_failed(const TulipStream *self);
/* Append to the queue: an exact bytes object, a part of one, a copy of memory.
 * tulip_queue_done() has to follow.  -1 with MemoryError. */
UVT_CHECKED int tulip_queue_bytes(TulipStream *self, PyObject *piece);
UVT_CHECKED int tulip_queue_part(TulipStream *self, PyObject *piece, char *base,
                                 size_t len);
/* Copies small pieces, exact bytes, for as long as there is room that an earlier
 * one has made; how many. */
Py_ssize_t tulip_queue_small(TulipStream *self, PyObject *const *items,
                             Py_ssize_t count);
UVT_CHECKED int tulip_queue_copy(TulipStream *self, const char *base, size_t len);
/* Sends memory that may change right after: what the kernel does not take is
 * copied.  -1 with MemoryError. */
UVT_CHECKED int tulip_stream_send(TulipStream *self, const char *base, size_t len);

/* ---- flush.c ---- */

/* Flushes every transport that has unsent writes: one vectored write each;
 * and then those with unsent datagrams.
 * Called by the loop after each batch of callbacks, after each poll and before
 * it closes.  May call Python, never leaves an exception set. */
void tulip_flush_dirty(TulipLoop *loop);
/* For the loop's own traverse and clear. */
int tulip_dirty_traverse(TulipLoop *loop, visitproc visit, void *arg);
void tulip_dirty_clear(TulipLoop *loop);
/* Flushes it with all others, unless that comes anyway. */
void tulip_stream_flush_later(TulipStream *self);
/* The end of a read callback: sends what it wrote, but a little may wait for what
 * other connections write in this poll. */
void tulip_stream_flush_with_others(TulipStream *self);
/* Sends what waits if this protocol, which may be NULL, is one with drain(). */
void tulip_stream_flush_for_drain(TulipStream *self, PyObject *protocol);
/* Sees to it that what was queued is sent, and to flow control. */
void tulip_queue_done(TulipStream *self);

/* ---- sendfile.c; only called with TULIP_SENDFILE ---- */

/* What was written is sent, perhaps. */
void tulip_sendfile_drained(TulipStream *self);
/* Keeps an exception that is set. */
void tulip_sendfile_lost(TulipStream *self);
/* False with RuntimeError; called with or without the flag. */
UVT_CHECKED bool tulip_stream_check_no_sendfile(const TulipStream *self);

/* ---- write.c ---- */

extern PyMethodDef tulip_write_methods[];

/* ---- transport.c, for the other types ---- */

/* All that they have in common, but not abort(). */
extern PyMethodDef tulip_base_methods[];
extern PyMethodDef tulip_abort_methods[];
extern PyMemberDef tulip_stream_members[];
extern PyGetSetDef tulip_stream_getset[];
int tulip_stream_init(PyObject *self, PyObject *args, PyObject *kwds);
int tulip_stream_traverse(TulipStream *self, visitproc visit, void *arg);
int tulip_stream_clear(TulipStream *self);
void tulip_stream_finalize(TulipStream *self);
void tulip_stream_dealloc(TulipStream *self);
#define TULIP_STREAM_SLOTS \
    {Py_tp_init, tulip_stream_init}, \
    {Py_tp_traverse, tulip_stream_traverse}, \
    {Py_tp_clear, tulip_stream_clear}, \
    {Py_tp_finalize, tulip_stream_finalize}, \
    {Py_tp_dealloc, tulip_stream_dealloc}, \
    {Py_tp_repr, tulip_stream_repr}, \
    {Py_tp_methods, tulip_base_methods}, \
    {Py_tp_getset, tulip_stream_getset}, \
    {Py_tp_members, tulip_stream_members}

/* ---- tcp.c ---- */

/* Of a transport over a uv.TCP: sets TCP_NODELAY, unless it is set, and
 * remembers the addresses; NULL: ask the kernel. */
void tulip_tcp_adopt(TulipStream *self, const struct sockaddr *own,
                     const struct sockaddr *peer, bool nodelay);
/* The address as a tuple, or None. */
UVT_NEW PyObject *tulip_tcp_name(TulipStream *self, bool peer);

/* ---- unix.c ---- */

/* Of a transport over a uv.Pipe: remembers the names.  `own` and `peer` may be
 * NULL: ask the kernel. */
void tulip_unix_adopt(TulipStream *self, PyObject *own, PyObject *peer);
/* What a descriptor is bound to (or connected to, if `peer`), as asyncio gives
 * it: str, bytes for an abstract name, a tuple for other families; None when it
 * has none.  Raises nothing but MemoryError. */
UVT_NEW PyObject *tulip_unix_name(const UvtCAPI *api, int fd, bool peer);

/* ---- pipe.c ---- */

/* Of a pipe that is new: takes the file over, which may be NULL. */
UVT_CHECKED int tulip_pipe_adopt(TulipStream *self, PyObject *file);
/* Of a WritePipeTransport: begins to look whether the reader is there, if that
 * can be seen.  Failure is reported. */
void tulip_pipe_watch_reader(TulipStream *self);
/* Looks no more, and closes the file. */
void tulip_pipe_close(TulipStream *self);
void tulip_pipe_free(TulipStream *self);

#endif
