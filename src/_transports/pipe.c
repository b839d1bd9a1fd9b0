/* ReadPipeTransport and WritePipeTransport: a stream that goes in one direction,
 * over a pipe, a FIFO, a terminal or a socket.  All functions run attached, on the
 * thread that runs the loop or while none does.
 *
 * The handle has a descriptor of its own; the transport owns the file object that
 * it was made for, and closes it with the handle.  That a reader is gone shows as
 * an error condition of the descriptor that writes, which libuv does not look for
 * while there is nothing to send: a poll handle does, on a further duplicate.
 */
#include "stream.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

int
tulip_pipe_adopt(TulipStream *self, PyObject *file)
{
    TulipPipe *pipe = PyMem_Calloc(1, sizeof(*pipe));
    if (pipe == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    pipe->file = Py_XNewRef(file);
    pipe->fd = -1;
    self->names.pipe = pipe;
    return 0;
}

/* ---- the reader of what we write ---- */

static void
unwatch_reader(TulipStream *self)
{
    TulipPipe *pipe = self->names.pipe;
    PyObject *poll = pipe->poll;
    int fd = pipe->fd;
    pipe->poll = NULL;
    pipe->fd = -1;
    if (poll != NULL) {
        tulip_stream_api(self)->close(poll);
        Py_DECREF(poll);
    }
    if (fd >= 0) {
        (void)close(fd);
    }
}

static void
on_reader_gone(PyObject *owner, int Py_UNUSED(status), int Py_UNUSED(events))
{
    TulipStream *self = (TulipStream *)owner;
    PyObject *exc = NULL;
    unwatch_reader(self);
    tulip_debug(self->loop, "%r was closed by peer", owner);
    if (tulip_stream_buffered(self) > 0) {
        exc = PyObject_CallNoArgs(PyExc_BrokenPipeError);
        PyErr_Clear();
    }
    if (tulip_stream_force_close(self, exc) < 0) {
        PyErr_WriteUnraisable(owner);
    }
    Py_XDECREF(exc);
}

/* With the loop, or by whoever got hold of the poll handle: then there is another. */
static void
on_poll_closed(PyObject *owner)
{
    TulipStream *self = (TulipStream *)owner;
    if (self->names.pipe != NULL && self->names.pipe->poll != NULL) {
        unwatch_reader(self);
        if (!self->loop->closed) {
            tulip_pipe_watch_reader(self);
        }
    }
}

static const UvtConsumer reader_consumer = {
    .ready = on_reader_gone,
    .closed = on_poll_closed,
};

/* Terminals and other devices tell nothing about who reads. */
static bool
tells_of_reader(int fd)
{
    struct stat st;
    return fstat(fd, &st) == 0 && (S_ISFIFO(st.st_mode) || S_ISSOCK(st.st_mode));
}

static int
start_watching(TulipStream *self, int fd)
{
    const UvtCAPI *api = tulip_stream_api(self);
    TulipPipe *pipe = self->names.pipe;
    int rc;
    pipe->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (pipe->fd < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    pipe->poll = api->poll_new(self->loop->uv_loop, pipe->fd);
    if (pipe->poll == NULL
        || api->consume(pipe->poll, &reader_consumer, (PyObject *)self) < 0) {
        return -1;
    }
    /* What the other side of a socket sends is of no interest. */
    rc = api->poll_start(pipe->poll, UV_DISCONNECT);
    if (rc < 0) {
        PyErr_SetRaisedException(api->oserror(rc, "uv_poll_start"));
        return -1;
    }
    return 0;
}

void
tulip_pipe_watch_reader(TulipStream *self)
{
    uv_os_fd_t fd;
    if (self->uv == NULL || (self->flags & TULIP_LOST)
        || uv_fileno((uv_handle_t *)self->uv, &fd) < 0 || !tells_of_reader(fd)
        || start_watching(self, fd) == 0) {
        return;
    }
    unwatch_reader(self);
    tulip_loop_report(self->loop, "A pipe cannot notice that its reader is gone",
                      (PyObject *)self, self->protocol, NULL);
}

/* ---- the end ---- */

void
tulip_pipe_close(TulipStream *self)
{
    TulipPipe *pipe = self->names.pipe;
    PyObject *file, *result;
    if (pipe == NULL) {
        return;
    }
    unwatch_reader(self);
    file = pipe->file;
    if (file != NULL) {
        pipe->file = NULL;
        result = PyObject_CallMethod(file, "close", NULL);
        if (result == NULL) {
            PyErr_WriteUnraisable(file);
        }
        Py_XDECREF(result);
        Py_DECREF(file);
    }
}

void
tulip_pipe_free(TulipStream *self)
{
    TulipPipe *pipe = self->names.pipe;
    self->names.pipe = NULL;
    if (pipe != NULL) {
        Py_XDECREF(pipe->file);
        PyMem_Free(pipe);
    }
}

/* ---- the types ---- */

static PyObject *
pipe_new(PyTypeObject *type, unsigned kind, const char *format, PyObject *args,
         PyObject *kwds)
{
    static char *names[] = {"loop", "handle", "protocol", "waiter", "extra",
                            "pipe", NULL};
    TulipState *st = tulip_state_of_type(type);
    TulipOpening opening = {
        .waiter = Py_None, .extra = Py_None, .server = Py_None, .pipe = Py_None,
    };
    if (st == NULL
        || !PyArg_ParseTupleAndKeywords(args, kwds, format, names, st->loop_type,
                                        &opening.loop, &opening.handle,
                                        &opening.protocol, &opening.waiter,
                                        &opening.extra, &opening.pipe)) {
        return NULL;
    }
    return tulip_stream_open(type, kind, &opening);
}

static PyObject *
read_pipe_new(PyTypeObject *type, PyObject *args, PyObject *kwds)
{
    return pipe_new(type, TULIP_READ_PIPE, "O!OO|OOO:ReadPipeTransport", args,
                    kwds);
}

static PyObject *
write_pipe_new(PyTypeObject *type, PyObject *args, PyObject *kwds)
{
    return pipe_new(type, TULIP_WRITE_PIPE, "O!OO|OOO:WritePipeTransport", args,
                    kwds);
}

PyDoc_STRVAR(read_pipe_doc,
"ReadPipeTransport(loop, handle, protocol, waiter=None, extra=None, pipe=None)\n"
"--\n\n"
"A transport that reads from an open uv.Pipe handle, which it owns from now on, as\n"
"it does the file object `pipe`: that is closed together with the handle.\n\n"
"Calls protocol.connection_made() soon, then sets the result of `waiter`, then\n"
"reads.  The protocol is called in a copy of the current context.");

PyDoc_STRVAR(write_pipe_doc,
"WritePipeTransport(loop, handle, protocol, waiter=None, extra=None, pipe=None)\n"
"--\n\n"
"A transport that writes to an open uv.Pipe handle, which it owns from now on, as\n"
"it does the file object `pipe`: that is closed together with the handle.\n\n"
"Calls protocol.connection_made() soon, then sets the result of `waiter`.  When\n"
"the reader of a pipe or a socket goes away, so does the connection.");

static PyType_Slot read_pipe_slots[] = {
    {Py_tp_doc, (void *)read_pipe_doc},
    {Py_tp_new, read_pipe_new},
    TULIP_STREAM_SLOTS,
    {0, NULL},
};

static PyType_Slot write_pipe_slots[] = {
    {Py_tp_doc, (void *)write_pipe_doc},
    {Py_tp_new, write_pipe_new},
    TULIP_STREAM_SLOTS,
    {0, NULL},
};

static PyType_Spec read_pipe_spec = {
    .name = "uvtulip._transports.ReadPipeTransport",
    .basicsize = sizeof(TulipStream),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = read_pipe_slots,
};

static PyType_Spec write_pipe_spec = {
    .name = "uvtulip._transports.WritePipeTransport",
    .basicsize = sizeof(TulipStream),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = write_pipe_slots,
};

int
tulip_pipe_setup(PyObject *module, TulipState *st)
{
    const Py_ssize_t base_size = (Py_ssize_t)offsetof(TulipStream, loop);
    if (tulip_add_transport(module, &st->read_pipe_type, &read_pipe_spec,
                            "ReadTransport", NULL, base_size) < 0
        || tulip_add_transport(module, &st->write_pipe_type, &write_pipe_spec,
                               "Transport", NULL, base_size) < 0
        || tulip_add_methods(st->read_pipe_type, tulip_read_methods) < 0
        || tulip_add_methods(st->write_pipe_type, tulip_abort_methods) < 0
        || tulip_add_methods(st->write_pipe_type, tulip_flow_methods) < 0
        || tulip_add_methods(st->write_pipe_type, tulip_write_methods) < 0) {
        return -1;
    }
    return 0;
}
