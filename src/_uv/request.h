/* What the requests to write, send, connect and shut down have in common. */
#ifndef UVT_REQUEST_H
#define UVT_REQUEST_H

#include "buffer.h"
#include "handle.h"

/* A part of a block of its own, since libuv and the kernel may need that longer
 * than Python needs the handle.  Linked into the handle, so that the collector
 * sees what the request refers to. */
typedef struct UvtRequest {
    struct UvtRequest *prev, *next;
    UvtHandle *owner;           /* borrowed; NULL: not begun, or the object is
                                 * gone */
    PyObject *callback;         /* callback(handle, errorno), or NULL */
    PyObject *sent;             /* strong: a handle sent along, or NULL */
    PyObject *subject;          /* strong: what the callback gets for the handle,
                                 * or NULL: the handle */
    UvtBuffers *data;           /* in the same block; NULL: none */
} UvtRequest;

/* Before libuv gets the request: it counts as pending from now on. */
void uvt_request_begin(UvtRequest *self, UvtHandle *owner, PyObject *callback);
/* libuv has refused it, after begin. */
void uvt_request_cancel(UvtRequest *self);
/* In libuv's callback for a request of `uv_handle`: attaches, calls the
 * callback and lets go of everything but the block, which the caller frees. */
void uvt_request_done(UvtRequest *self, const void *uv_handle, int status);

/* For the base of handles. */
int uvt_requests_traverse(UvtHandle *owner, visitproc visit, void *arg);
void uvt_requests_clear(UvtHandle *owner);
void uvt_requests_detach(UvtHandle *owner);

#endif
