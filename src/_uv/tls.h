/* uv.TLS: a layer over a connected stream handle, whose events it takes as the
 * stream's consumer.  tls.c has the type and its life cycle, tls_read.c what comes
 * from the stream, tls_write.c what goes to it, tls_info.c the attributes.
 *
 * Edges that the collector sees: layer -> stream, later, the callbacks, the SSLObject
 * and the context, the engine's objects, what waits to be encrypted; stream and
 * later -> layer, their consumer's owner; the stream's requests -> layer.  The
 * stream is held by its loop while it is busy, and through it the layer.
 */
#ifndef UVT_TLS_H
#define UVT_TLS_H

#include "buffer.h"
#include "handle.h"

typedef enum UvtLayerPhase {
    UVT_LAYER_NEW,
    UVT_LAYER_HANDSHAKE,
    UVT_LAYER_OPEN,
    UVT_LAYER_FAILED,           /* nothing goes through any more */
} UvtLayerPhase;

/* A write that is not encrypted yet, or only in part. */
typedef struct UvtPlain {
    struct UvtPlain *next;
    PyObject *callback;         /* strong, or NULL */
    UvtBuffers buffers;
    Py_ssize_t piece;           /* what comes next: in which buffer, */
    size_t offset;              /* from where on */
    size_t left;                /* bytes of all buffers */
    char *room;                 /* where small pieces are put together, or NULL */
} UvtPlain;

typedef struct UvtLayer {
    PyObject_HEAD
    UvtState *st;               /* borrowed, through the type */
    UVT_LOCK_MEMBER(lock)       /* the stream's; strong since init */
    UvtHandle *stream;          /* strong, from __init__ on */
    UvtHandle *later;           /* a Timer, or NULL: goes on reading */
    UvtTls *engine;             /* NULL before __init__ and once closed */
    PyObject *context;
    PyObject *ssl_object;       /* the engine's, for life */
    PyObject *on_handshake, *on_read, *on_shutdown, *on_closed;
    PyObject *failure;          /* what reading has still to tell: an exception */
    UvtPlain *first, *last;     /* the writes that wait */
    size_t waiting;             /* their bytes */
    PyObject *dict;
    PyObject *weakrefs;
    UvtLayerPhase phase;
    int stream_end;             /* the stream has ended so: a libuv status, or 0 */
    bool processing;            /* inside of uvt_layer_process */
    bool busy;                  /* inside of the engine, which may call Python */
    bool unread;                /* something may be there that is not read yet */
    bool ended;                 /* the end was told of */
    bool shut_wanted;           /* shutdown() was called */
    bool shut;                  /* close_notify has been sent */
    const UvtTlsBackend *backend;   /* the engine's */
} UvtLayer;

/* ---- tls.c ---- */

/* True when a method may use stream and engine; else raises. */
UVT_CHECKED bool uvt_layer_check(UvtLayer *self);
/* Initialised; attributes answer on closed ones as well. */
UVT_CHECKED bool uvt_layer_check_initialised(UvtLayer *self);
/* The stream is there and not closing. */
bool uvt_layer_is_open(const UvtLayer *self);
/* Raises TLSError; returns NULL. */
PyObject *uvt_layer_raise(UvtLayer *self, int rc, const char *call);
/* callback(tls, error); steals both references, NULL for callback: nothing. */
void uvt_layer_call(UvtLayer *self, UVT_STEALS(2) PyObject *callback,
                    UVT_STEALS(3) PyObject *error);
/* What close() was given: callback(tls). */
void uvt_layer_call_closed(UvtLayer *self);
/* Takes the raised exception for a callback's error; one that is no Exception goes
 * to the loop, and the error is UV_ECANCELED. */
UVT_NEW PyObject *uvt_layer_take_error(UvtLayer *self);

/* ---- tls_read.c ---- */

extern const UvtConsumer uvt_layer_of_stream, uvt_layer_of_timer;
PyObject *uvt_layer_handshake(UvtLayer *self, PyObject *callback);
PyObject *uvt_layer_start_read(UvtLayer *self, PyObject *callback);
PyObject *uvt_layer_stop_read(UvtLayer *self, PyObject *unused);
/* Takes the raised exception: the connection is of no use any more.  Reading tells
 * why; what waits to be written gets UV_ECANCELED. */
void uvt_layer_fail(UvtLayer *self);

/* ---- tls_write.c ---- */

/* Sends what the engine has put out, with a callback for its end (borrowed, or
 * NULL).  A libuv status. */
int uvt_layer_send(UvtLayer *self, PyObject *callback);
/* Encrypts and sends what waits, as far as the stream takes it, and what
 * shutdown() has asked for after that.  -1 with an exception. */
UVT_CHECKED int uvt_layer_flush(UvtLayer *self);
/* Lets go of what waits, the shutdown included; the callbacks get the status. */
void uvt_layer_drop_writes(UvtLayer *self, int rc);
/* For tp_clear: without a call. */
void uvt_layer_free_plain(UVT_STEALS(1) UvtPlain *plain);
PyObject *uvt_layer_shutdown(UvtLayer *self, PyObject *const *args, Py_ssize_t nargs);
PyObject *uvt_layer_try_write(UvtLayer *self, PyObject *data);
PyObject *uvt_layer_write(UvtLayer *self, PyObject *const *args, Py_ssize_t nargs);
PyObject *uvt_layer_writelines(UvtLayer *self, PyObject *const *args,
                               Py_ssize_t nargs);

/* ---- tls_info.c ---- */

PyObject *uvt_layer_alpn(UvtLayer *self, PyObject *unused);
PyObject *uvt_layer_cipher(UvtLayer *self, PyObject *unused);
PyObject *uvt_layer_getpeercert(UvtLayer *self, PyObject *const *args,
                                Py_ssize_t nargs, PyObject *kwnames);
PyObject *uvt_layer_version(UvtLayer *self, PyObject *unused);
extern PyGetSetDef uvt_layer_getset[];
PyObject *uvt_layer_repr(UvtLayer *self);

#endif
