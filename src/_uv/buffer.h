/* What is written, or read into: one bytes-like object or a sequence of them,
 * held as Py_buffers for as long as the kernel may use them. */
#ifndef UVT_BUFFER_H
#define UVT_BUFFER_H

#include "uvmodule.h"

#define UVT_BUFFERS_INLINE 4

/* Both arrays point at the inline ones or, for more than four pieces, into one
 * allocation.  It must not move; and nothing but what a get has set up, or zeros, may
 * be released. */
typedef struct {
    Py_ssize_t count;
    size_t nbytes;
    uv_buf_t *iov;
    Py_buffer *views;
    uv_buf_t iov_inline[UVT_BUFFERS_INLINE];
    Py_buffer views_inline[UVT_BUFFERS_INLINE];
} UvtBuffers;

/* What one system call takes at most.  libuv refuses more than that from 1.53 on. */
#define UVT_MOST_AT_ONCE ((size_t)0x7ffff000)

/* How many of the pieces one call can take.  When the first is too large by itself it
 * is made shorter for the call, and *whole is the length to be put back; else 0. */
unsigned uvt_iov_fit(uv_buf_t *iov, unsigned count, size_t *whole);

/* How many pieces a datagram has for libuv, which from 1.53 on refuses what no call
 * takes with UV_EINVAL.  Of so much only the largest piece is left, shortened: the
 * kernel has the right error for it. */
unsigned uvt_buffers_datagram(UvtBuffers *self);

/* Takes a bytes-like object or a non-str sequence of such objects.  TypeError,
 * or ValueError for an empty sequence; then nothing is held. */
UVT_CHECKED bool uvt_buffers_get(UvtBuffers *self, const char *call,
                                 PyObject *data);

/* The same for objects to read into, which have to be writable. */
UVT_CHECKED bool uvt_buffers_get_writable(UvtBuffers *self, const char *call,
                                          PyObject *data);

/* Lets go of all views; may run any Python code.  Harmless on a zeroed one. */
void uvt_buffers_release(UvtBuffers *self);

#endif
