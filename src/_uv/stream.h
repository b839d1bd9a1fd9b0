/* What TCP and Pipe have in common; shared by stream.c, stream_write.c, tcp.c
 * and pipe.c. */
#ifndef UVT_STREAM_H
#define UVT_STREAM_H

#include "request.h"

/* stream_write.c, for the table in stream.c. */
PyObject *uvt_stream_write(UvtHandle *self, PyObject *const *args,
                           Py_ssize_t nargs);
extern const char uvt_stream_write_doc[];
PyObject *uvt_stream_try_write(UvtHandle *self, PyObject *data);
PyObject *uvt_stream_writelines(UvtHandle *self, PyObject *const *args,
                                Py_ssize_t nargs);
/* uv_try_write(), and uv_write(), with a handle that is sent along or NULL.  Other
 * threads run while a descriptor that blocks makes them wait. */
int uvt_stream_try(UvtHandle *self, uv_buf_t *iov, unsigned count);
int uvt_stream_queue(UvtHandle *self, uv_write_t *req, const uv_buf_t *iov,
                     unsigned count, UvtHandle *sent, uv_write_cb callback);
/* For the tables of Stream and of its types: the interpreter calls a method quickly
 * when it is of the object's very type, and by a longer way when it is inherited. */
#define UVT_STREAM_WRITE \
    {"write", (PyCFunction)(void (*)(void))uvt_stream_write, METH_FASTCALL, \
     uvt_stream_write_doc}
/* write() of a Pipe with a handle that was found fit to be sent. */
PyObject *uvt_stream_write_handle(UvtHandle *self, PyObject *data,
                                  PyObject *callback, UvtHandle *sent);
PyObject *uvt_stream_shutdown(UvtHandle *self, PyObject *const *args,
                              Py_ssize_t nargs);

/* accept() of a listening stream. */
PyObject *uvt_stream_accept_method(UvtHandle *self, PyObject *client);

/* stream_into.c: a method of Stream, and what libuv's callbacks do while
 * reads_into is set. */
PyObject *uvt_stream_start_read_into(UvtHandle *handle, PyObject *const *args,
                                     Py_ssize_t nargs);
extern const char uvt_stream_start_read_into_doc[];
void uvt_read_into_alloc(UvtHandle *handle, uv_buf_t *buf);
void uvt_read_into_done(UvtHandle *handle, ssize_t nread);

/* uvt_stream_read_start, and the kernel is told at once: it may refuse. */
UVT_CHECKED int uvt_stream_read_start_now(UvtHandle *self);
/* The kernel has no memory left to watch it: whoever waits for it is told. */
void uvt_stream_refused(UvtHandle *self, int status);

/* True when the handle has a descriptor already. */
bool uvt_stream_has_fd(const UvtHandle *self);

/* A request to connect, of TCP and Pipe.  new gives one that has begun; the
 * caller passes &connect->req and uvt_on_connect to libuv.  When libuv refuses
 * it, cancel frees it. */
typedef struct UvtConnect {
    uv_connect_t req;       /* first: libuv gives this one back */
    UvtRequest base;
} UvtConnect;

UVT_CHECKED UvtConnect *uvt_connect_new(UvtHandle *self, PyObject *callback);
void uvt_connect_cancel(UvtConnect *connect);
void uvt_on_connect(uv_connect_t *req, int status);

#endif
