/* StreamTransport: the type, its life cycle, close and abort.  All functions run
 * attached, on the thread that runs the loop or while none does; finalising may
 * come from any thread.
 *
 * stream.h lists the edges.  While the handle is open the loop holds it and it
 * holds the transport; connection_lost closes the handle, and when that is done
 * the two let go of each other.
 */
#include "stream.h"
#include "server.h"

/* ---- small helpers ---- */

bool
tulip_stream_on_thread(const TulipStream *self)
{
    return !self->loop->forked && tulip_loop_is_here(self->loop);
}

bool
tulip_stream_check_thread(TulipStream *self)
{
    if (!tulip_loop_check_fork(self->loop)) {
        return false;
    }
    if (!tulip_stream_on_thread(self)) {
        PyErr_SetString(PyExc_RuntimeError,
                        "Non-thread-safe operation invoked on a transport of a "
                        "loop that another thread runs: use "
                        "call_soon_threadsafe()");
        return false;
    }
    return true;
}

TulipRare *
tulip_stream_rare(TulipStream *self)
{
    if (self->rare == NULL) {
        self->rare = PyMem_Calloc(1, sizeof(TulipRare));
        if (self->rare == NULL) {
            PyErr_NoMemory();
            return NULL;
        }
        self->rare->high = TULIP_HIGH_WATER;
        self->rare->low = TULIP_HIGH_WATER / 4;
    }
    return self->rare;
}

/* ---- life cycle ---- */

uv_stream_t *
tulip_stream_uv(const UvtCAPI *api, PyObject *handle)
{
    uv_handle_t *uv = api->handle_uv(handle, UV_UNKNOWN_HANDLE);
    if (uv != NULL && uv->type != UV_TCP && uv->type != UV_NAMED_PIPE) {
        PyErr_Format(PyExc_TypeError, "expected a TCP or Pipe handle, got %.200s",
                     Py_TYPE(handle)->tp_name);
        return NULL;
    }
    return (uv_stream_t *)uv;
}

TulipStream *
tulip_stream_new(PyTypeObject *type, TulipLoop *loop, PyObject *handle,
                 PyObject *protocol, PyObject *context, TulipServer *server)
{
    const UvtCAPI *api = loop->st->uv;
    TulipStream *self = (TulipStream *)type->tp_alloc(type, 0);
    uv_stream_t *uv;
    uv_os_fd_t fd;

    if (self == NULL) {
        return NULL;
    }
    self->loop = (TulipLoop *)Py_NewRef(loop);
    self->context = Py_NewRef(context);
    if (tulip_stream_use_protocol(self, protocol) < 0) {
        goto error;
    }
    uv = tulip_stream_uv(api, handle);
    if (uv == NULL) {
        goto error;
    }
    if (uv->loop != loop->uv) {
        PyErr_SetString(PyExc_ValueError,
                        "StreamTransport(): the handle is of another loop");
        goto error;
    }
    if (!uv_is_readable(uv) && !uv_is_writable(uv)) {
        PyErr_SetString(PyExc_ValueError,
                        "StreamTransport(): the handle is not connected");
        goto error;
    }
    if (tulip_stream_consume(self, handle) < 0) {
        goto error;
    }
    self->handle = Py_NewRef(handle);
    self->uv = uv;
    if (uv_fileno((uv_handle_t *)uv, &fd) == 0) {
        tulip_loop_mark_fd(loop, fd);
    }
    self->flags |= TULIP_OPEN;
    if (server != NULL) {
        self->server = (TulipServer *)Py_NewRef(server);
        tulip_server_join(server, self);
    }
    return self;

error:
    Py_DECREF(self);
    return NULL;
}

void
tulip_stream_start(TulipStream *self)
{
    self->flags |= TULIP_STARTED;
    if (self->flags & TULIP_WRITE_PIPE) {
        tulip_pipe_watch_reader(self);
    }
    else {
        tulip_stream_update_reading(self);
    }
}

static void
start_reading(PyObject *owner, PyObject *Py_UNUSED(arg))
{
    tulip_stream_start((TulipStream *)owner);
}

void
tulip_set_waiter(TulipLoop *loop, PyObject *transport, PyObject *protocol,
                 PyObject *waiter)
{
    PyObject *cancelled = PyObject_CallMethod(waiter, "cancelled", NULL);
    PyObject *result = NULL;
    int skip = cancelled == NULL ? -1 : PyObject_IsTrue(cancelled);
    Py_XDECREF(cancelled);
    if (skip == 0) {
        result = PyObject_CallMethod(waiter, "set_result", "O", Py_None);
        Py_XDECREF(result);
    }
    if (skip < 0 || (skip == 0 && result == NULL)) {
        tulip_loop_report(loop, "Exception while a transport started", transport,
                          protocol, NULL);
    }
}

/* After connection_made(): wakes the waiter; who waits runs before the first
 * data comes. */
static void
wake_waiter(PyObject *owner, PyObject *waiter)
{
    TulipStream *self = (TulipStream *)owner;
    if (waiter != NULL) {
        tulip_set_waiter(self->loop, owner, self->protocol, waiter);
    }
    if (tulip_loop_call_soon_c(self->loop, start_reading, owner, NULL) < 0) {
        tulip_stream_fatal(self, "Fatal error on transport");
    }
}

static int
schedule_start(TulipStream *self, PyObject *waiter)
{
    TulipState *st = self->loop->st;
    PyObject *made = PyObject_GetAttr(self->protocol, st->str_connection_made);
    PyObject *arg = (PyObject *)self;
    int rc;
    if (made == NULL) {
        return -1;
    }
    rc = tulip_loop_call_soon(self->loop, made, &arg, 1, self->context);
    Py_DECREF(made);
    if (rc == 0) {
        rc = tulip_loop_call_soon_c(self->loop, wake_waiter, (PyObject *)self,
                                    waiter == Py_None ? NULL : waiter);
    }
    return rc;
}

/* Remembers what the kernel tells now, and may not tell later. */
static int
adopt(TulipStream *self, PyObject *pipe)
{
    if (self->flags & TULIP_PIPE) {
        return tulip_pipe_adopt(self, pipe == Py_None ? NULL : pipe);
    }
    if (self->uv->type == UV_TCP) {
        tulip_tcp_adopt(self, NULL, NULL, false);
    }
    else {
        tulip_unix_adopt(self, NULL, NULL);
    }
    return 0;
}

PyObject *
tulip_stream_open(PyTypeObject *type, unsigned kind, const TulipOpening *args)
{
    TulipLoop *loop = (TulipLoop *)args->loop;
    TulipServer *server = (TulipServer *)args->server;
    PyObject *context;
    TulipStream *self;
    UVT_LOCKED(tulip_lock(loop));

    if (args->extra != Py_None && !PyDict_Check(args->extra)) {
        PyErr_Format(PyExc_TypeError,
                     "%.100s(): extra must be a dict or None, not %.200s",
                     type->tp_name, Py_TYPE(args->extra)->tp_name);
        return NULL;
    }
    if (!tulip_loop_check_open(loop)) {
        return NULL;
    }
    context = PyContext_CopyCurrent();
    if (context == NULL) {
        return NULL;
    }
    self = tulip_stream_new(type, loop, args->handle, args->protocol, context,
                            args->server == Py_None ? NULL : server);
    Py_DECREF(context);
    if (self == NULL) {
        return NULL;
    }
    self->flags |= kind;
    if (args->extra != Py_None) {
        self->extra = PyDict_Copy(args->extra);
    }
    if ((args->extra != Py_None && self->extra == NULL)
        || adopt(self, args->pipe) < 0
        || schedule_start(self, args->waiter) < 0) {
        /* Give all back; what is scheduled finds nothing to do. */
        self->flags |= TULIP_CLOSING | TULIP_LOST | TULIP_LOST_DONE;
        tulip_stream_free_names(self);
        tulip_stream_leave_server(self);
        self->uv = NULL;
        Py_CLEAR(self->handle);
        tulip_stream_api(self)->release(args->handle);
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

PyDoc_STRVAR(stream_doc,
"StreamTransport(loop, handle, protocol, waiter=None, extra=None, server=None)\n"
"--\n\n"
"A transport over a connected uv.TCP or uv.Pipe handle, which it owns from now\n"
"on.\n\n"
"Calls protocol.connection_made() soon, then sets the result of `waiter`, then\n"
"reads.  The protocol is called in a copy of the current context.");

static PyObject *
stream_tp_new(PyTypeObject *type, PyObject *args, PyObject *kwds)
{
    static char *names[] = {"loop", "handle", "protocol", "waiter", "extra",
                            "server", NULL};
    TulipState *st = tulip_state_of_type(type);
    TulipOpening opening = {
        .waiter = Py_None, .extra = Py_None, .server = Py_None, .pipe = Py_None,
    };
    if (st == NULL
        || !PyArg_ParseTupleAndKeywords(args, kwds, "O!OO|OOO:StreamTransport",
                                        names, st->loop_type, &opening.loop,
                                        &opening.handle, &opening.protocol,
                                        &opening.waiter, &opening.extra,
                                        &opening.server)) {
        return NULL;
    }
    if (opening.server != Py_None
        && !PyObject_TypeCheck(opening.server, st->server_type)) {
        PyErr_Format(PyExc_TypeError,
                     "StreamTransport(): server must be a Server or None, not "
                     "%.200s", Py_TYPE(opening.server)->tp_name);
        return NULL;
    }
    return tulip_stream_open(type, 0, &opening);
}

/* Everything is done by then; the base class has an __init__ of its own. */
int
tulip_stream_init(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(args),
                  PyObject *Py_UNUSED(kwds))
{
    return 0;
}

int
tulip_stream_traverse(TulipStream *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->extra);
    Py_VISIT(self->loop);
    Py_VISIT(self->handle);
    Py_VISIT(self->protocol);
    Py_VISIT(self->receive);
    Py_VISIT(self->context);
    Py_VISIT(self->server);
    Py_VISIT(self->dict);
    if ((self->flags & TULIP_PIPE) && self->names.pipe != NULL) {
        Py_VISIT(self->names.pipe->file);
        Py_VISIT(self->names.pipe->poll);
    }
    if (self->rare != NULL) {
        Py_VISIT(self->rare->get_buffer);
        Py_VISIT(self->rare->socket);
        Py_VISIT(self->rare->waiter);
        if (self->rare->has_view) {
            Py_VISIT(self->rare->view.obj);
        }
    }
    return 0;
}

/* The edge to the loop stays: a cycle through it also leads through the handle
 * or through what the loop clears.  Nothing of Python's is called here, since the
 * collector may have emptied its class: finalize() has called it. */
int
tulip_stream_clear(TulipStream *self)
{
    UVT_LOCKED(tulip_lock(self->loop));
    tulip_stream_release_view(self);
    tulip_stream_forget_protocol(self);
    tulip_stream_leave_server(self);
    if (self->rare != NULL) {
        Py_CLEAR(self->rare->socket);
        Py_CLEAR(self->rare->waiter);
    }
    Py_CLEAR(self->handle);
    self->uv = NULL;
    Py_CLEAR(self->extra);
    Py_CLEAR(self->dict);
    return 0;
}

void
tulip_stream_finalize(TulipStream *self)
{
    UVT_LOCKED(tulip_lock(self->loop));
    PyObject *raised;
    if ((self->flags & (TULIP_OPEN | TULIP_LOST_DONE)) != TULIP_OPEN) {
        return;
    }
    raised = PyErr_GetRaisedException();
    if (!self->loop->forked
        && PyErr_ResourceWarning((PyObject *)self, 1, "unclosed transport %R",
                                 (PyObject *)self) < 0) {
        /* An error when warnings are errors; there is nobody to raise it to. */
        PyErr_WriteUnraisable((PyObject *)self);
    }
    self->flags |= TULIP_CLOSING | TULIP_LOST | TULIP_LOST_DONE;
    tulip_stream_close_handle(self);
    tulip_stream_leave_server(self);
    if (raised != NULL) {
        PyErr_SetRaisedException(raised);
    }
}

void
tulip_stream_dealloc(TulipStream *self)
{
    PyTypeObject *tp = Py_TYPE(self);
    if (PyObject_CallFinalizerFromDealloc((PyObject *)self) < 0) {
        return;
    }
    PyObject_GC_UnTrack(self);
    UVT_LOCKED(tulip_lock(self->loop));
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs((PyObject *)self);
    }
    if (self->sending != NULL) {
        self->sending->owner = NULL;    /* frees itself in its callback */
        self->sending = NULL;
    }
    tulip_stream_drop_queue(self);
    (void)tulip_stream_clear(self);
    tulip_stream_free_names(self);
    PyMem_Free(self->rare);
    Py_CLEAR(self->context);
    Py_CLEAR(self->loop);
    tp->tp_free(self);
    Py_DECREF(tp);
}

/* ---- methods ---- */

PyDoc_STRVAR(close_doc,
"close($self, /)\n--\n\n"
"Read no more, send what was written, then call connection_lost(None).");

static PyObject *
stream_close(TulipStream *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(self->loop->lock);
    if (!(self->flags & TULIP_CLOSING) && tulip_loop_is_elsewhere(self->loop)) {
        self->flags |= TULIP_CLOSE_ASKED;
        return tulip_loop_forward(self->loop, (PyObject *)self, "close", NULL);
    }
    if (!(self->flags & TULIP_CLOSING) && !self->loop->forked
        && (!tulip_stream_check_thread(self)
            || tulip_stream_begin_close(self) < 0)) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(force_close_doc,
"_force_close($self, exc, /)\n--\n\n"
"Drop what waits to be sent and call connection_lost(exc) soon.");

static PyObject *
stream_force_close(TulipStream *self, PyObject *exc)
{
    UVT_LOCKED(self->loop->lock);
    if (!(self->flags & TULIP_LOST) && !self->loop->forked
        && (!tulip_stream_check_thread(self)
            || tulip_stream_force_close(self, exc == Py_None ? NULL : exc) < 0)) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(abort_doc,
"abort($self, /)\n--\n\n"
"Close at once; what the kernel does not take now is lost.  Then\n"
"connection_lost(None) is called.");

static PyObject *
stream_abort(TulipStream *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(self->loop->lock);
    if (!(self->flags & TULIP_LOST) && tulip_loop_is_elsewhere(self->loop)) {
        self->flags |= TULIP_CLOSE_ASKED;
        return tulip_loop_forward(self->loop, (PyObject *)self, "abort", NULL);
    }
    if (!(self->flags & TULIP_LOST) && tulip_stream_on_thread(self)) {
        /* What was written in this callback counts as written before. */
        tulip_stream_flush(self);
    }
    return stream_force_close(self, Py_None);
}

PyDoc_STRVAR(is_closing_doc,
"is_closing($self, /)\n--\n\n"
"True from close() or abort() on.  With a protocol of asyncio's streams, what was\n"
"written is sent first.");

static PyObject *
stream_is_closing(TulipStream *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(self->loop->lock);
    if (self->queued > 0) {
        tulip_stream_flush_for_drain(self, self->protocol);
    }
    return PyBool_FromLong((self->flags & (TULIP_CLOSING | TULIP_CLOSE_ASKED)) != 0);
}

PyDoc_STRVAR(get_protocol_doc,
"get_protocol($self, /)\n--\n\n"
"The protocol; None once connection_lost() has returned.");

static PyObject *
stream_get_protocol(TulipStream *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(self->loop->lock);
    return Py_NewRef(self->protocol == NULL ? Py_None : self->protocol);
}

PyDoc_STRVAR(set_protocol_doc,
"set_protocol($self, protocol)\n--\n\n"
"Deliver to another protocol from now on: a Protocol or a BufferedProtocol.");

static PyObject *
stream_set_protocol(TulipStream *self, PyObject *const *args, Py_ssize_t nargs,
                    PyObject *kwnames)
{
    UVT_LOCKED(self->loop->lock);
    PyObject *protocol = tulip_only_arg("set_protocol", "protocol", args, nargs,
                                        kwnames);
    if (protocol == NULL || !tulip_stream_check_thread(self)
        || tulip_stream_use_protocol(self, protocol) < 0) {
        return NULL;
    }
    tulip_stream_update_consumer(self);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(get_extra_info_doc,
"get_extra_info($self, name, default=None)\n--\n\n"
"'socket' (shows the socket and borrows its descriptor), 'sockname', 'peername',\n"
"'uv_handle' (the raw handle), or what the maker of the transport added.");

PyMethodDef tulip_base_methods[] = {
    {"close", (PyCFunction)stream_close, METH_NOARGS, close_doc},
    {"_force_close", (PyCFunction)stream_force_close, METH_O, force_close_doc},
    {"is_closing", (PyCFunction)stream_is_closing, METH_NOARGS, is_closing_doc},
    {"get_protocol", (PyCFunction)stream_get_protocol, METH_NOARGS,
     get_protocol_doc},
    {"set_protocol", (PyCFunction)(void (*)(void))stream_set_protocol,
     METH_FASTCALL | METH_KEYWORDS, set_protocol_doc},
    {"get_extra_info", (PyCFunction)(void (*)(void))tulip_stream_get_extra_info,
     METH_VARARGS | METH_KEYWORDS, get_extra_info_doc},
    {NULL},
};

PyMethodDef tulip_abort_methods[] = {
    {"abort", (PyCFunction)stream_abort, METH_NOARGS, abort_doc},
    {NULL},
};

PyGetSetDef tulip_stream_getset[] = {
    {"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, NULL, NULL},
    {"_protocol_paused", (getter)tulip_stream_get_paused, NULL,
     "True after pause_writing(), before resume_writing().", NULL},
    {NULL},
};

PyMemberDef tulip_stream_members[] = {
    {"__dictoffset__", T_PYSSIZET, offsetof(TulipStream, dict), READONLY},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(TulipStream, weakrefs), READONLY},
    {NULL},
};

static PyType_Slot stream_slots[] = {
    {Py_tp_doc, (void *)stream_doc},
    {Py_tp_new, stream_tp_new},
    TULIP_STREAM_SLOTS,
    {0, NULL},
};

static PyType_Spec stream_spec = {
    .name = "uvtulip._transports.StreamTransport",
    .basicsize = sizeof(TulipStream),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = stream_slots,
};

/* A class of asyncio's that has no more than the one slot, _extra. */
static PyObject *
find_base(PyObject *asyncio, const char *name, Py_ssize_t size)
{
    PyObject *base = PyObject_GetAttrString(asyncio, name);
    if (base != NULL && (!PyType_Check(base)
                         || ((PyTypeObject *)base)->tp_basicsize != size)) {
        PyErr_Format(PyExc_ImportError,
                     "asyncio.%s is not laid out as expected", name);
        Py_CLEAR(base);
    }
    return base;
}

int
tulip_add_transport(PyObject *module, PyTypeObject **slot, PyType_Spec *spec,
                    const char *first, const char *second, Py_ssize_t size)
{
    PyObject *asyncio = PyImport_ImportModule("asyncio"), *bases = NULL;
    int rc = -1;
    if (asyncio == NULL) {
        return -1;
    }
    bases = find_base(asyncio, first, size);
    if (bases != NULL && second != NULL) {
        PyObject *other = find_base(asyncio, second, size);
        Py_SETREF(bases, other == NULL ? NULL : PyTuple_Pack(2, bases, other));
        Py_XDECREF(other);
    }
    if (bases != NULL) {
        rc = tulip_add_type(module, slot, spec, bases);
        Py_DECREF(bases);
    }
    Py_DECREF(asyncio);
    return rc;
}

int
tulip_stream_setup(PyObject *module, TulipState *st)
{
    /* The slot of the base is our member `extra`. */
    if (tulip_add_transport(module, &st->stream_type, &stream_spec, "Transport",
                            NULL, (Py_ssize_t)offsetof(TulipStream, loop)) < 0
        || tulip_add_methods(st->stream_type, tulip_socket_methods) < 0
        || tulip_add_methods(st->stream_type, tulip_abort_methods) < 0
        || tulip_add_methods(st->stream_type, tulip_flow_methods) < 0
        || tulip_add_methods(st->stream_type, tulip_read_methods) < 0
        || tulip_add_methods(st->stream_type, tulip_write_methods) < 0) {
        return -1;
    }
    return 0;
}
