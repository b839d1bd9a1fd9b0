/* The end of a stream transport: close, abort, errors, and a handle that somebody
 * else closed.  All functions run attached, on the thread that runs the loop or
 * while none does.
 *
 * connection_lost() is always called by the loop, never from inside what the
 * program called; only after it the handle is closed, the server left and the
 * protocol dropped.
 */
#include "stream.h"
#include "server.h"
#include "tls_layer.h"

void
tulip_stream_detach_socket(TulipStream *self)
{
    PyObject *sock = self->rare != NULL ? self->rare->socket : NULL, *result;
    if (self->flags & TULIP_PIPE) {
        tulip_pipe_close(self);
    }
    if (sock == NULL || self->rare->detached) {
        return;
    }
    self->rare->detached = true;
    Py_INCREF(sock);        /* it stays, as a closed one */
    result = PyObject_CallMethod(sock, "detach", NULL);
    if (result == NULL) {
        PyErr_WriteUnraisable(sock);
    }
    Py_XDECREF(result);
    Py_DECREF(sock);
}

void
tulip_stream_leave_server(TulipStream *self)
{
    TulipServer *server = self->server;
    if (server != NULL) {
        self->server = NULL;
        tulip_server_leave(server, self);
        Py_DECREF(server);
    }
}

void
tulip_stream_close_handle(TulipStream *self)
{
    tulip_stream_detach_socket(self);
    if (self->handle != NULL) {
        tulip_stream_api(self)->close(self->handle);
    }
}

static void
call_connection_lost(PyObject *owner, PyObject *exc)
{
    TulipStream *self = (TulipStream *)owner;
    if (self->flags & TULIP_LOST_DONE) {
        return;
    }
    if ((self->flags & TULIP_WAITS)
        && tulip_loop_call_soon_c(self->loop, call_connection_lost, owner, exc) == 0) {
        return;         /* after connection_made() */
    }
    self->flags |= TULIP_LOST_DONE;
    if (self->protocol != NULL && (self->flags & TULIP_LAYERED)) {
        PyObject *link = Py_NewRef(self->protocol);
        tulip_layer_lost(link, exc);
        Py_DECREF(link);
    }
    else if (self->protocol != NULL) {
        PyObject *result = tulip_stream_call(
            self, self->loop->st->str_connection_lost,
            exc == NULL ? Py_None : exc);
        if (result == NULL) {
            tulip_loop_report(self->loop,
                              "Exception in callback protocol.connection_lost()",
                              owner, self->protocol, NULL);
        }
        Py_XDECREF(result);
    }
    tulip_stream_close_handle(self);
    tulip_stream_forget_protocol(self);
    tulip_stream_leave_server(self);
}

static int
schedule_lost(TulipStream *self, PyObject *exc)
{
    if (self->flags & TULIP_LOST) {
        return 0;
    }
    self->flags |= TULIP_LOST | TULIP_CLOSING;
    self->lost_writes = 1;
    tulip_stream_update_reading(self);
    if (self->flags & TULIP_SENDFILE) {
        tulip_sendfile_lost(self);
    }
    return tulip_loop_call_soon_c(self->loop, call_connection_lost,
                                  (PyObject *)self, exc);
}

int
tulip_stream_force_close(TulipStream *self, PyObject *exc)
{
    if (self->flags & TULIP_LOST) {
        return 0;
    }
    tulip_stream_drop_queue(self);
    return schedule_lost(self, exc);
}

int
tulip_stream_begin_close(TulipStream *self)
{
    if (self->flags & TULIP_CLOSING) {
        return 0;
    }
    self->flags |= TULIP_CLOSING;
    if (self->flags & TULIP_WRITE_PIPE) {
        self->flags |= TULIP_EOF_SENT;      /* the same thing */
    }
    tulip_stream_update_reading(self);
    tulip_stream_flush(self);
    if (self->queued > 0 || self->sending != NULL) {
        return 0;       /* tulip_stream_drained() goes on */
    }
    return schedule_lost(self, NULL);
}

static void
on_shutdown(uv_shutdown_t *req, int Py_UNUSED(status))
{
    PyMem_RawFree(req);
}

void
tulip_stream_drained(TulipStream *self)
{
    if (self->queued > 0 || self->sending != NULL
        || (self->flags & TULIP_LOST) || self->loop->forked) {
        return;
    }
    if (self->flags & TULIP_CLOSING) {
        if (schedule_lost(self, NULL) < 0) {
            PyErr_WriteUnraisable((PyObject *)self);
        }
    }
    else if ((self->flags & TULIP_EOF_SENT) && self->uv != NULL) {
        uv_shutdown_t *req = PyMem_RawMalloc(sizeof(*req));
        int rc = req == NULL ? UV_ENOMEM : uv_shutdown(req, self->uv,
                                                       on_shutdown);
        if (rc < 0) {
            PyMem_RawFree(req);
            /* ENOTCONN: the other side is gone; reading tells. */
            if (rc != UV_ENOTCONN) {
                tulip_stream_fatal_uv(self, rc, "shutdown",
                                      "Fatal error on transport");
            }
        }
    }
}

/* The handle is closed: by connection_lost, with the loop, or by whoever got
 * it from get_extra_info(). */
void
tulip_stream_on_closed(PyObject *owner)
{
    TulipStream *self = (TulipStream *)owner;
    PyObject *handle = self->handle;

    self->uv = NULL;
    self->handle = NULL;
    self->flags &= ~(unsigned)(TULIP_READING | TULIP_IN_ALLOC);
    tulip_stream_release_view(self);
    tulip_stream_detach_socket(self);
    if (!(self->flags & TULIP_LOST) && self->loop->uv != NULL
        && !self->loop->closed) {
        PyObject *exc = NULL;
        if (!(self->flags & TULIP_CLOSING)) {
            exc = PyObject_CallFunction(PyExc_ConnectionAbortedError, "is",
                                        ECONNABORTED,
                                        "The transport's handle was closed");
        }
        PyErr_Clear();
        if (tulip_stream_force_close(self, exc) < 0) {
            PyErr_WriteUnraisable(owner);
        }
        Py_XDECREF(exc);
    }
    Py_XDECREF(handle);
}
