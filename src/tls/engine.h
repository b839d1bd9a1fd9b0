/* A TLS connection over memory: ciphertext in, ciphertext out.  It knows nothing
 * of loops and transports.
 *
 * Whoever made one feeds it what came from the peer, calls handshake, read, write
 * and shutdown, and after each of these sends what is in `out`.  All functions run
 * attached, never two at once for one connection; they may run Python code
 * (callbacks of the SSLContext), so the caller owns what it uses.
 *
 * Two backends, one behaviour: `direct` calls OpenSSL on the SSL of the SSLObject,
 * `portable` goes through ssl.MemoryBIO and the SSLObject's methods.
 */
#ifndef UVT_TLS_ENGINE_H
#define UVT_TLS_ENGINE_H

#include "openssl.h"

/* The longest record, with all that TLS puts around it. */
#define UVT_TLS_PLAIN ((size_t)16 * 1024)
#define UVT_TLS_RECORD (UVT_TLS_PLAIN + 512)

typedef enum UvtTlsStatus {
    UVT_TLS_OK,
    UVT_TLS_WANT,               /* more has to come first */
    UVT_TLS_EOF,                /* the peer has sent close_notify */
    UVT_TLS_ERROR,              /* an exception is set */
} UvtTlsStatus;

/* Part of the state of each module that links this. */
typedef struct UvtTlsState {
    _Atomic bool ready;
    _Atomic bool portable;      /* by choice: not even try to be direct */
    UvtOpenSSL *openssl;        /* NULL: only the portable way */
    PyObject *memory_bio;       /* ssl.MemoryBIO */
    PyObject *context_type;     /* ssl.SSLContext */
    PyObject *low_context_type; /* _ssl._SSLContext */
    PyObject *object_type;      /* ssl.SSLObject */
    PyObject *sslobj_type;      /* _ssl._SSLSocket */
    PyObject *error;            /* ssl.SSLError */
    PyObject *certificate_error;
    PyObject *want_read;
    PyObject *want_write;
    PyObject *syscall_error;
    PyObject *zero_return;
    PyObject *eof_error;
    PyObject *globals;          /* of ssl */
    PyObject *msg_callback;     /* getters of low_context_type; or NULL */
    PyObject *keylog_filename;
    PyObject *wrap_bio;         /* SSLContext's; NULL: it is not ssl's own */
    PyObject *incoming;         /* MemoryBIOs for what gets another BIO at once */
    PyObject *outgoing;
    PyObject *wrap_names;       /* of the last arguments of _wrap_bio() */
    PyObject *str__create;
    PyObject *str__sslobj;
    PyObject *str__wrap_bio;
    PyObject *str_context;
    PyObject *str_do_handshake;
    PyObject *str_pending;
    PyObject *str_read;
    PyObject *str_shutdown;
    PyObject *str_sslobject_class;
    PyObject *str_unwrap;
    PyObject *str_wrap_bio;
    PyObject *str_write;
} UvtTlsState;

/* Imports ssl and looks for OpenSSL, the first time.  -1 with an exception:
 * this Python has no ssl. */
UVT_CHECKED int uvt_tls_prepare(UvtTlsState *st);
/* The name of the backend that new connections have, if they can; unless `portable`
 * is None, it is chosen first.  NULL with an exception. */
UVT_NEW PyObject *uvt_tls_choose_backend(UvtTlsState *st, PyObject *portable);
int uvt_tls_state_traverse(UvtTlsState *st, visitproc visit, void *arg);
void uvt_tls_state_clear(UvtTlsState *st);

struct UvtTls;

typedef struct UvtTlsBackend {
    const char *name;
    /* Takes fed input over; NULL: it is read where it is.  -1: exception. */
    int (*feed)(struct UvtTls *self, const char *base, size_t len);
    UvtTlsStatus (*read)(struct UvtTls *self, char *buf, size_t len, size_t *got);
    UvtTlsStatus (*write)(struct UvtTls *self, const char *buf, size_t len,
                          size_t *put);
    /* Moves what was written to `out`; NULL: it is there.  -1: exception. */
    int (*collect)(struct UvtTls *self);
    UvtTlsStatus (*handshake)(struct UvtTls *self);
    UvtTlsStatus (*shutdown)(struct UvtTls *self);
    /* The same while its input seems to be empty. */
    UvtTlsStatus (*close_notify)(struct UvtTls *self);
} UvtTlsBackend;

typedef struct UvtTls {
    _Atomic int owners;         /* its maker and, if direct, its BIO */
    bool no_memory;             /* while writing to `out` */
    bool out_lent;
    bool failed;                /* more input cannot help any more */
    const UvtTlsBackend *backend;   /* NULL: given up, the BIO is left */
    UvtTlsState *st;            /* borrowed, not from the BIO */
    PyObject *object;           /* the SSLObject */
    PyObject *target;           /* whose methods are called: it or its _sslobj */
    const char *in;             /* the part of the input not read yet: lent by */
    size_t in_len;              /* feed, or in `kept` */
    char *kept;
    size_t inside;              /* bytes that OpenSSL has of a record; portable: */
                                /* fed since it wanted more */
    char *out;                  /* what has to be sent, from the raw allocator */
    size_t out_len, out_size;   /* unless lent */
    UvtOpenSSL *lib;            /* direct: shared */
    SSL *ssl;                   /* direct: of target */
    PyObject *incoming, *outgoing;  /* portable */
} UvtTls;

/* Makes the connection with context.wrap_bio(); hostname and session may be None.
 * NULL with an exception. */
UVT_NEW UvtTls *uvt_tls_new(UvtTlsState *st, PyObject *context, bool server_side,
                            PyObject *hostname, PyObject *session);
/* Gives it up.  The SSLObject, if somebody keeps it, reads and writes nothing any
 * more. */
void uvt_tls_free(UvtTls *self);
int uvt_tls_traverse(UvtTls *self, visitproc visit, void *arg);

/* Ciphertext for the following calls.  It stays the caller's and has to stay where
 * it is until uvt_tls_keep().  -1 with an exception. */
UVT_CHECKED int uvt_tls_feed(UvtTls *self, const char *base, size_t len);
/* Copies what was not read of the input.  -1 with MemoryError, and it is lost. */
UVT_CHECKED int uvt_tls_keep(UvtTls *self);
/* At least as many bytes as can be read now, but for what no input tells. */
size_t uvt_tls_expect(const UvtTls *self);

/* How many bytes of input are not read yet, as far as that is known: what was read
 * of them in part counts until more is wanted. */
static inline size_t
uvt_tls_unread(const UvtTls *self)
{
    return self->in_len + self->inside;
}

/* The interpreter's lock is free meanwhile. */
UVT_CHECKED static inline UvtTlsStatus
uvt_tls_handshake(UvtTls *self)
{
    return self->backend->handshake(self);
}
/* Sends close_notify the first time, OK when the peer's has come too. */
UVT_CHECKED static inline UvtTlsStatus
uvt_tls_shutdown(UvtTls *self)
{
    return self->backend->shutdown(self);
}
/* Sends close_notify and looks at nothing that the peer has sent, which can still
 * be read: WANT or OK. */
UVT_CHECKED static inline UvtTlsStatus
uvt_tls_close_notify(UvtTls *self)
{
    return self->backend->close_notify(self);
}
/* One record or a part of it; len > 0. */
UVT_CHECKED static inline UvtTlsStatus
uvt_tls_read(UvtTls *self, char *buf, size_t len, size_t *got)
{
    return self->backend->read(self, buf, len, got);
}
/* False: read() would certainly give WANT, after it has given less than asked. */
static inline bool
uvt_tls_has_input(const UvtTls *self)
{
    return self->in_len > 0 || self->backend->feed != NULL;
}
/* At most one record; WANT: the same bytes, and maybe more, have to be given
 * again. */
UVT_CHECKED static inline UvtTlsStatus
uvt_tls_write(UvtTls *self, const char *buf, size_t len, size_t *put)
{
    return self->backend->write(self, buf, len, put);
}

/* Has output written to this memory, unless something waits already; it goes to
 * memory of its own when there is no more room. */
void uvt_tls_lend_output(UvtTls *self, char *room, size_t size);
/* Makes memory of its own for so much, unless output waits already; without it,
 * it grows step by step. */
void uvt_tls_reserve_output(UvtTls *self, size_t size);
/* Whether another record fits into what was lent. */
static inline bool
uvt_tls_has_room(const UvtTls *self)
{
    return self->out_lent && self->out_size - self->out_len >= UVT_TLS_RECORD;
}
/* What was lent is wanted back: what is in it, if anything, moves to memory of its
 * own.  Without memory it is lost, and the next call fails. */
void uvt_tls_keep_output(UvtTls *self);
/* What is in `out` is sent or copied: forget it, and what was lent. */
void uvt_tls_clear_output(UvtTls *self);

/* ---- for the backends ---- */

/* False: no memory. */
UVT_CHECKED bool uvt_tls_put_output(UvtTls *self, const char *base, size_t len);
/* Calls a method of the target that takes and returns nothing of interest. */
UVT_CHECKED UvtTlsStatus uvt_tls_call(UvtTls *self, PyObject *name);
/* What a call into OpenSSL has come to, from the raised exception. */
UVT_CHECKED UvtTlsStatus uvt_tls_status(UvtTls *self);
/* Sets the exception of a call after one that has failed. */
void uvt_tls_raise_failed(UvtTls *self);
/* One less owner; the last one frees the memory. */
void uvt_tls_disown(UvtTls *self);
/* 1: it is direct now; 0: it cannot be; -1 with an exception. */
UVT_CHECKED int uvt_tls_make_direct(UvtTls *self, PyObject *sslobj,
                                    PyObject *context);
/* Part of uvt_tls_prepare().  -1 with an exception. */
UVT_CHECKED int uvt_tls_prepare_wrap(UvtTlsState *st, PyObject *ssl);
/* Whether a connection of _ssl's is one of the library in st->openssl. */
UVT_CHECKED bool uvt_tls_probe(UvtTlsState *st);
/* The method that direct connections share, in st->openssl; false: none. */
bool uvt_tls_make_method(UvtOpenSSL *lib);
extern const UvtTlsBackend uvt_tls_portable, uvt_tls_direct;

#endif
