/* SSLTransport: an asyncio transport that speaks TLS over another one.
 *
 * The one below is a StreamTransport, which it drives C to C, or anything that
 * behaves as asyncio demands, which it calls and is called by through a SSLLink:
 * the protocol of the one below.
 *
 * Edges that the collector sees: transport -> loop, under, protocol, receive,
 * get_buffer, context, waiter, timer, ssl_context, ssl_object, the engine's
 * objects, extra, __dict__; link -> transport; under -> link, its protocol.  The
 * ring is taken apart when the connection is lost.
 */
#ifndef TULIP_TLS_H
#define TULIP_TLS_H

#include "stream.h"
#include "../tls/engine.h"

/* asyncio's: FLOW_CONTROL_HIGH_WATER_SSL_WRITE and a quarter of it. */
#define TULIP_TLS_HIGH_WATER ((size_t)512 * 1024)
/* And FLOW_CONTROL_HIGH_WATER_SSL_READ. */
#define TULIP_TLS_READ_HIGH_WATER ((size_t)256 * 1024)

typedef enum TulipTLSPhase {
    TULIP_TLS_NEW,              /* the one below is not connected yet */
    TULIP_TLS_HANDSHAKE,
    TULIP_TLS_OPEN,
    TULIP_TLS_FLUSHING,         /* close() was called, something waits */
    TULIP_TLS_SHUTDOWN,         /* close_notify is sent, the peer's awaited */
    TULIP_TLS_DONE,             /* nothing goes through any more; */
    TULIP_TLS_LOST,             /* and connection_lost comes soon, or has come */
} TulipTLSPhase;

/* State, in TulipTLS.flags. */
enum {
    TLS_CALL_MADE = 1 << 0,     /* connection_made is to be called */
    TLS_MADE = 1 << 1,          /* it was: connection_lost has to follow */
    TLS_BUFFERED = 1 << 2,      /* the protocol is a BufferedProtocol */
    TLS_RECEIVE_BARE = 1 << 3,  /* as TULIP_RECEIVE_BARE */
    TLS_GET_BARE = 1 << 4,
    TLS_PAUSED = 1 << 5,        /* by pause_reading */
    TLS_HELD = 1 << 6,          /* nothing is delivered before the waiter runs */
    TLS_UNDER_PAUSED = 1 << 7,  /* we have paused the one below */
    TLS_RESUMING = 1 << 8,      /* a callback goes on reading */
    TLS_EOF_CALLED = 1 << 9,    /* eof_received was called */
    TLS_UNDER_EOF = 1 << 10,    /* the one below has ended */
    TLS_FULL = 1 << 11,         /* it wants no more for now (not a stream) */
    TLS_WRITING_PAUSED = 1 << 12,   /* pause_writing was called */
    TLS_FLUSHING_NOW = 1 << 13,
    TLS_READING_NOW = 1 << 14,
    TLS_CLOSED = 1 << 15,       /* is_closing() */
    TLS_FED = 1 << 16,          /* something came while reading */
    TLS_CONNECTED = 1 << 17,    /* the handshake is done */
    TLS_KEEPS = 1 << 18,        /* the context wants the session at the end */
    TLS_SERVER = 1 << 19,       /* the peer begins the handshake */
    TLS_PEER_DONE = 1 << 20,    /* its close_notify was read */
    TLS_LOOKS = 1 << 21,        /* a callback looks whether writing may go on */
    TLS_LET_GO = 1 << 22,       /* close() was called once more than needed */
};

/* Plaintext that waits: bytes objects, and the parts of them. */
typedef struct TulipPlain {
    unsigned first, count, capacity;
    struct {
        PyObject *piece;        /* exact bytes, keeps ... */
        const char *base;       /* ... this */
        size_t len;
    } pieces[];
} TulipPlain;

typedef struct TulipTLS {
    PyObject_HEAD
    PyObject *extra;            /* the slot _extra of asyncio.BaseTransport */
    TulipLoop *loop;            /* strong, for life */
    PyObject *under;            /* the transport below; NULL until connected */
    TulipStream *stream;        /* the same if it is one, until it is lost */
    UvtTls *engine;             /* NULL once lost */
    const UvtTlsBackend *backend;   /* the engine's */
    PyObject *ssl_context;      /* as it was given */
    PyObject *ssl_object;       /* the engine's; None once let go */
    PyObject *protocol;         /* NULL after connection_lost */
    PyObject *receive;          /* data_received or buffer_updated, or NULL */
    PyObject *get_buffer;
    PyObject *context;
    PyObject *waiter;           /* a future; NULL: nobody waits */
    TulipCallback *timer;       /* of the handshake or the shutdown, or NULL */
    PyObject *pending;          /* the only piece that waits, or ... */
    TulipPlain *queue;          /* ... several, or a part */
    size_t waiting;             /* bytes in pending or queue */
    size_t high, low;           /* write buffer limits */
    size_t read_high, read_low; /* of reading: kept, without effect */
    double handshake_timeout, shutdown_timeout;
    PyObject *dict;
    PyObject *weakrefs;
    TulipTLSPhase phase;
    unsigned flags;
    unsigned busy;              /* calls that use the engine */
    unsigned calls;             /* of the protocol, under way in our context */
    unsigned lost_writes;
} TulipTLS;

/* The protocol of the transport below. */
typedef struct TulipTLSLink {
    PyObject_HEAD
    TulipTLS *tls;              /* NULL once lost */
    UVT_LOCK_MEMBER(lock)       /* the loop's; strong */
} TulipTLSLink;

/* How to make one; all of it borrowed, waiter, hostname and session may be None. */
typedef struct TulipTLSOptions {
    TulipLoop *loop;
    PyObject *protocol, *ssl_context, *waiter, *hostname, *session;
    bool server_side, call_made;
    double handshake_timeout, shutdown_timeout;
} TulipTLSOptions;

/* ---- tls.c ---- */

/* A SSLTransport that waits to be put on another transport. */
UVT_NEW PyObject *tulip_tls_new(PyTypeObject *type, const TulipTLSOptions *options);

/* Between the two the engine stays; leaving may free it. */
void tulip_tls_enter(TulipTLS *self);
void tulip_tls_leave(TulipTLS *self);
/* False with RuntimeError in another thread than the one that runs the loop. */
UVT_CHECKED bool tulip_tls_check_thread(TulipTLS *self);
/* Looks up what is called for each read.  -1 with an exception. */
UVT_CHECKED int tulip_tls_use_protocol(TulipTLS *self, PyObject *protocol);

/* ---- tls_call.c ---- */

/* Call the protocol in the transport's context, own what they use. */
UVT_NEW PyObject *tulip_tls_call(TulipTLS *self, PyObject *name, PyObject *arg);
UVT_NEW PyObject *tulip_tls_vectorcall(TulipTLS *self, PyObject *function,
                                       unsigned bare, PyObject *arg);
/* Takes the raised exception: reports it as asyncio's _fatal_error does and
 * drops the connection. */
void tulip_tls_fatal(TulipTLS *self, const char *message);
/* Ends the waiting: exc NULL is success. */
void tulip_tls_wake_waiter(TulipTLS *self, PyObject *exc);
/* eof_received(), once. */
void tulip_tls_call_eof(TulipTLS *self);
extern const char tulip_tls_failed[];

/* ---- tls_phase.c ---- */

/* What the transport below tells. */
void tulip_tls_connected(TulipTLS *self, PyObject *under);
void tulip_tls_lost(TulipTLS *self, PyObject *exc);
void tulip_tls_under_eof(TulipTLS *self);
/* Goes on with the handshake. */
void tulip_tls_handshake(TulipTLS *self);
/* Begins to close; harmless when it has begun. */
void tulip_tls_begin_close(TulipTLS *self);
/* Nothing waits any more, or something came: go on closing. */
void tulip_tls_go_on_closing(TulipTLS *self);
/* Drops the connection; exc may be NULL. */
void tulip_tls_force_close(TulipTLS *self, PyObject *exc);

/* ---- tls_read.c ---- */

/* Ciphertext has come. */
void tulip_tls_feed(TulipTLS *self, const char *base, size_t len);
/* Does what can be done with what has come. */
void tulip_tls_process(TulipTLS *self);
/* Reads what the peer still sends and forgets it.  EOF: its close_notify. */
UVT_CHECKED UvtTlsStatus tulip_tls_discard(TulipTLS *self);
/* Starts or stops reading below, as the flags demand. */
void tulip_tls_update_reading(TulipTLS *self);
/* Has reading go on soon. */
void tulip_tls_read_soon(TulipTLS *self);
extern PyMethodDef tulip_tls_read_methods[];

/* ---- tls_write.c ---- */

/* Sends what the engine has put out.  Never leaves an exception set. */
void tulip_tls_send_output(TulipTLS *self);
/* The same because of an error, which is the caller's to tell: what is not sent by
 * this is lost.  Keeps an exception that is set. */
void tulip_tls_send_last(TulipTLS *self);
/* Encrypts and sends what waits, as far as the one below takes it. */
void tulip_tls_flush(TulipTLS *self);
void tulip_tls_drop_queue(TulipTLS *self);
extern PyMethodDef tulip_tls_write_methods[];

/* ---- tls_flow.c ---- */

size_t tulip_tls_buffered(const TulipTLS *self);
void tulip_tls_maybe_pause(TulipTLS *self);
void tulip_tls_maybe_resume(TulipTLS *self);
/* The same soon, if there is something to resume. */
void tulip_tls_resume_soon(TulipTLS *self);
static inline void
tulip_tls_look(TulipTLS *self)
{
    if (self->flags & TLS_WRITING_PAUSED) {
        tulip_tls_resume_soon(self);
    }
}
extern PyMethodDef tulip_tls_flow_methods[];

/* ---- tls_info.c ---- */

PyObject *tulip_tls_get_extra_info(TulipTLS *self, PyObject *args,
                                   PyObject *kwds);
PyObject *tulip_tls_repr(TulipTLS *self);

/* ---- tls_link.c ---- */

UVT_NEW PyObject *tulip_tls_link_new(TulipTLS *tls);
UVT_CHECKED int tulip_tls_link_setup(PyObject *module, TulipState *st);

/* ---- tls_factory.c ---- */

UVT_CHECKED int tulip_tls_factory_setup(PyObject *module, TulipState *st);

#endif
