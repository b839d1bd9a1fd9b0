/* The OpenSSL that the interpreter's _ssl module has loaded: its functions, found
 * at run time, and the SSL * behind an SSLObject.  There are no OpenSSL headers
 * and no link to it here, so there is never a second copy.
 */
#ifndef UVT_TLS_OPENSSL_H
#define UVT_TLS_OPENSSL_H

#include "../_uv/compat.h"
#include "../_uv/locked.h"
#include <stddef.h>
#include <stdint.h>

/* OpenSSL's own, which nobody outside looks into. */
typedef struct ssl_st SSL;
typedef struct ssl_ctx_st SSL_CTX;
typedef struct bio_st BIO;
typedef struct bio_method_st BIO_METHOD;

/* Constants of its ABI. */
enum {
    UVT_SSL_ERROR_NONE = 0,
    UVT_SSL_ERROR_SSL = 1,
    UVT_SSL_ERROR_WANT_READ = 2,
    UVT_SSL_ERROR_WANT_WRITE = 3,
    UVT_SSL_ERROR_ZERO_RETURN = 6,
    UVT_SSL_RECEIVED_SHUTDOWN = 2,
    UVT_SSL_CTRL_MODE = 33,
    UVT_SSL_CTRL_CLEAR_MODE = 78,
    UVT_SSL_MODE_RELEASE_BUFFERS = 0x10,
    UVT_BIO_TYPE_SOURCE_SINK = 0x0400,
    UVT_BIO_FLAGS_READ = 0x01,
    UVT_BIO_FLAGS_RWS = 0x07,
    UVT_BIO_FLAGS_SHOULD_RETRY = 0x08,
    UVT_BIO_CTRL_FLUSH = 11,
};

/* name, result, arguments */
#define UVT_OPENSSL_FUNCTIONS(DO) \
    DO(OpenSSL_version, const char *, (int what)) \
    DO(OpenSSL_version_num, unsigned long, (void)) \
    DO(ERR_clear_error, void, (void)) \
    DO(ERR_peek_error, unsigned long, (void)) \
    DO(SSL_get_ex_data, void *, (const SSL *ssl, int index)) \
    DO(SSL_get_SSL_CTX, SSL_CTX *, (const SSL *ssl)) \
    DO(SSL_get_ssl_method, const void *, (const SSL *ssl)) \
    DO(SSL_get_rbio, BIO *, (const SSL *ssl)) \
    DO(SSL_get_shutdown, int, (const SSL *ssl)) \
    DO(SSL_set_shutdown, void, (SSL *ssl, int mode)) \
    DO(SSL_get_error, int, (const SSL *ssl, int result)) \
    DO(SSL_do_handshake, int, (SSL *ssl)) \
    DO(SSL_shutdown, int, (SSL *ssl)) \
    DO(SSL_ctrl, long, (SSL *ssl, int command, long number, void *pointer)) \
    DO(SSL_free_buffers, int, (SSL *ssl)) \
    DO(SSL_has_pending, int, (const SSL *ssl)) \
    DO(SSL_read_ex, int, (SSL *ssl, void *buf, size_t len, size_t *got)) \
    DO(SSL_write_ex, int, (SSL *ssl, const void *buf, size_t len, size_t *put)) \
    DO(SSL_set_bio, void, (SSL *ssl, BIO *in, BIO *out)) \
    DO(BIO_new, BIO *, (const BIO_METHOD *method)) \
    DO(BIO_set_data, void, (BIO *bio, void *data)) \
    DO(BIO_get_data, void *, (BIO *bio)) \
    DO(BIO_set_init, void, (BIO *bio, int on)) \
    DO(BIO_set_flags, void, (BIO *bio, int flags)) \
    DO(BIO_clear_flags, void, (BIO *bio, int flags)) \
    DO(BIO_get_new_index, int, (void)) \
    DO(BIO_method_name, const char *, (const BIO *bio)) \
    DO(BIO_meth_new, BIO_METHOD *, (int type, const char *name)) \
    DO(BIO_meth_free, void, (BIO_METHOD *method)) \
    DO(BIO_meth_set_write_ex, int, (BIO_METHOD *method, \
        int (*write)(BIO *, const char *, size_t, size_t *))) \
    DO(BIO_meth_set_read_ex, int, (BIO_METHOD *method, \
        int (*read)(BIO *, char *, size_t, size_t *))) \
    DO(BIO_meth_set_ctrl, int, (BIO_METHOD *method, \
        long (*ctrl)(BIO *, int, long, void *))) \
    DO(BIO_meth_set_destroy, int, (BIO_METHOD *method, int (*destroy)(BIO *)))

/* Shared by the state that found it and by every BIO made with its method: they
 * may outlive the state, in an SSLObject that somebody keeps. */
typedef struct UvtOpenSSL {
    _Atomic int users;
    bool keeps_mode;            /* a record layer has the mode of when it was made */
    void *library;
    BIO_METHOD *method;
    _Atomic(const void *) own_table;    /* of objects that these functions made */
    _Atomic(const void *) own_name;
#define MEMBER(name, result, arguments) result (*name) arguments;
    UVT_OPENSSL_FUNCTIONS(MEMBER)
#undef MEMBER
} UvtOpenSSL;

/* NULL without an exception: this interpreter's TLS is not to be had this way.
 * `module` is _ssl.  The method of the result is for the caller to make. */
UVT_NEW UvtOpenSSL *uvt_openssl_find(PyObject *module);
UvtOpenSSL *uvt_openssl_share(UvtOpenSSL *self);
void uvt_openssl_drop(UvtOpenSSL *self);

/* The SSL of a C-level SSL object (SSLObject._sslobj) and its context; NULL when
 * anything is not as expected. */
UVT_BORROWED SSL *uvt_openssl_ssl_of(UvtOpenSSL *self, PyObject *sslobj,
                                     PyObject *context);

#endif
