/* Requests under way: their links to the handle, their callbacks and their
 * data.  All functions run on the loop's thread, attached (done attaches).  The
 * request owns its callback and its buffers; the handle keeps itself alive by
 * its count of pending requests.
 */
#include "request.h"
#include "errors.h"
#include "loop.h"

static void
unlink_request(UvtRequest *self)
{
    if (self->owner == NULL) {
        return;
    }
    if (self->prev != NULL) {
        self->prev->next = self->next;
    }
    else {
        self->owner->requests = self->next;
    }
    if (self->next != NULL) {
        self->next->prev = self->prev;
    }
    self->owner = NULL;
}

void
uvt_request_begin(UvtRequest *self, UvtHandle *owner, PyObject *callback)
{
    self->callback = Py_XNewRef(callback);
    self->owner = owner;
    self->prev = NULL;
    self->next = owner->requests;
    if (self->next != NULL) {
        self->next->prev = self;
    }
    owner->requests = self;
    owner->pending++;
    uvt_handle_update(owner);
}

/* What may run any code comes last, when nothing of the request is reachable. */
static void
release(UvtRequest *self)
{
    PyObject *callback = self->callback, *sent = self->sent;
    PyObject *subject = self->subject;
    self->callback = NULL;
    self->sent = NULL;
    self->subject = NULL;
    if (self->data != NULL) {
        uvt_buffers_release(self->data);
    }
    Py_XDECREF(callback);
    Py_XDECREF(sent);
    Py_XDECREF(subject);
}

void
uvt_request_cancel(UvtRequest *self)
{
    UvtHandle *owner = self->owner;
    unlink_request(self);
    release(self);
    owner->pending--;
    uvt_handle_update(owner);
}

void
uvt_request_done(UvtRequest *self, const void *uv_handle, int status)
{
    UvtHandle *owner = uvt_enter(uv_handle);
    PyObject *callback = Py_XNewRef(self->callback);
    PyObject *subject = Py_XNewRef(self->subject);
    unlink_request(self);
    release(self);
    if (owner != NULL) {
        owner->pending--;
        if (callback != NULL) {
            PyObject *args[3] = {NULL, NULL, uvt_errorno(status)};
            args[1] = subject != NULL ? subject : (PyObject *)owner;
            uvt_call(owner, callback, args + 1, 2);
            Py_XDECREF(args[2]);
        }
        uvt_leave(owner);
    }
    Py_XDECREF(callback);
    Py_XDECREF(subject);
}

/* ---- the collector ---- */

int
uvt_requests_traverse(UvtHandle *owner, visitproc visit, void *arg)
{
    for (UvtRequest *self = owner->requests; self != NULL; self = self->next) {
        Py_VISIT(self->callback);
        Py_VISIT(self->sent);
        Py_VISIT(self->subject);
        for (Py_ssize_t i = 0; self->data && i < self->data->count; i++) {
            Py_VISIT(self->data->views[i].obj);
        }
    }
    return 0;
}

/* The data stays: the kernel may still read it.  Letting go of the others can
 * run anything, so the walk then starts again. */
void
uvt_requests_clear(UvtHandle *owner)
{
    UvtRequest *self = owner->requests;
    while (self != NULL) {
        bool had = self->callback != NULL || self->sent != NULL
            || self->subject != NULL;
        Py_CLEAR(self->callback);
        Py_CLEAR(self->sent);
        Py_CLEAR(self->subject);
        self = had ? owner->requests : self->next;
    }
}

void
uvt_requests_detach(UvtHandle *owner)
{
    for (UvtRequest *self = owner->requests; self != NULL; self = self->next) {
        self->owner = NULL;
    }
    owner->requests = NULL;
}
