/* Server: the C half of uvtulip.Server, which knows its open connections.  All
 * functions run attached, on the thread that runs the loop or while none does.
 * The raw handles are bound by whoever makes the server, which listens on them
 * (listener.c) and closes them.
 *
 * Edges that the collector sees: server -> loop, factory, context, handles,
 * polls, __dict__; handle and poll -> (server, index), their consumer's owner.
 * Clients are borrowed pointers: a transport owns its server, and leaves it.
 */
#include "accepted.h"
#include "server.h"
#include "tls_layer.h"

/* ---- clients ---- */

void
tulip_server_join(TulipServer *self, TulipStream *stream)
{
    stream->prev_client = NULL;
    stream->next_client = self->clients;
    if (self->clients != NULL) {
        self->clients->prev_client = stream;
    }
    self->clients = stream;
    self->active++;
}

/* At the end of the interpreter the class may have lost its methods; then nobody
 * waits any more. */
static void
wake_waiters(TulipServer *self)
{
    PyObject *name = PyUnicode_FromString("_wakeup"), *method = NULL;
    PyObject *result = NULL;
    int found = name == NULL ? -1
        : PyObject_GetOptionalAttr((PyObject *)self, name, &method);
    if (found > 0) {
        result = PyObject_CallNoArgs(method);
    }
    if (found < 0 || (found > 0 && result == NULL)) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    Py_XDECREF(name);
    Py_XDECREF(method);
    Py_XDECREF(result);
}

static void
one_less(TulipServer *self)
{
    PyObject *raised;
    if (--self->active > 0 || !self->stopped) {
        return;
    }
    raised = PyErr_GetRaisedException();
    wake_waiters(self);
    if (raised != NULL) {
        PyErr_SetRaisedException(raised);
    }
}

void
tulip_server_leave(TulipServer *self, TulipStream *stream)
{
    if (stream->prev_client != NULL) {
        stream->prev_client->next_client = stream->next_client;
    }
    else {
        self->clients = stream->next_client;
    }
    if (stream->next_client != NULL) {
        stream->next_client->prev_client = stream->prev_client;
    }
    stream->prev_client = stream->next_client = NULL;
    if (self->loop->accepted != NULL) {
        tulip_accepted_forget(self->loop, stream);
    }
    one_less(self);
}

/* ---- starting and stopping ---- */

static void
server_stop_all(TulipServer *self)
{
    self->serving = false;
    for (Py_ssize_t i = 0; i < self->count; i++) {
        tulip_listener_stop(self, &self->listeners[i]);
    }
}

PyDoc_STRVAR(start_doc,
"_start($self, /)\n--\n\n"
"Listen on all handles; harmless when done already.  When one fails nothing is\n"
"served.  Raises OSError, RuntimeError (stopped).");

static PyObject *
server_start(TulipServer *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(tulip_lock(self->loop));
    if (self->serving) {
        Py_RETURN_NONE;
    }
    if (self->stopped) {
        PyErr_SetString(PyExc_RuntimeError, "the server is closed");
        return NULL;
    }
    if (!tulip_loop_check_open(self->loop)) {
        return NULL;
    }
    for (Py_ssize_t i = 0; i < self->count; i++) {
        if (!tulip_listener_start(self, i)) {
            PyObject *exc = PyErr_GetRaisedException();
            server_stop_all(self);
            self->stopped = true;
            PyErr_SetRaisedException(exc);
            return NULL;
        }
    }
    self->serving = true;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(stop_doc,
"_stop($self, /)\n--\n\n"
"Accept no more and close the handles; harmless when done already.  Open\n"
"connections stay.");

static PyObject *
server_stop(TulipServer *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(tulip_lock(self->loop));
    self->stopped = true;
    if (!tulip_loop_is_here(self->loop) && !self->loop->forked) {
        self->serving = false;          /* libuv is the loop's thread's */
        return tulip_loop_forward(self->loop, (PyObject *)self, "_stop", NULL);
    }
    server_stop_all(self);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(listen_again_doc, "_listen_again($self, index, /)\n--\n\nEnd a rest.");

static PyObject *
server_listen_again(TulipServer *self, PyObject *arg)
{
    UVT_LOCKED(tulip_lock(self->loop));
    Py_ssize_t index = PyNumber_AsSsize_t(arg, PyExc_IndexError);
    if (index == -1 && PyErr_Occurred()) {
        return NULL;
    }
    if (index < 0 || index >= self->count) {
        PyErr_SetString(PyExc_IndexError, "no such listener");
        return NULL;
    }
    if (self->listeners[index].resting) {
        self->listeners[index].resting = false;
        if (!tulip_listener_listen(self, &self->listeners[index])) {
            return NULL;
        }
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(attach_doc,
"_attach($self, transport=None, /)\n--\n\nCount a connection.");

static PyObject *
server_attach(TulipServer *self, PyObject *Py_UNUSED(args))
{
    UVT_LOCKED(tulip_lock(self->loop));
    self->active++;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(detach_doc,
"_detach($self, transport=None, /)\n--\n\nUndo one _attach().");

static PyObject *
server_detach(TulipServer *self, PyObject *Py_UNUSED(args))
{
    UVT_LOCKED(tulip_lock(self->loop));
    if (self->active <= 0) {
        PyErr_SetString(PyExc_RuntimeError, "_detach() without _attach()");
        return NULL;
    }
    one_less(self);
    Py_RETURN_NONE;
}

/* A new reference; NULL: another thread has dropped the last one, and its
 * deallocation waits for the lock. */
static PyObject *
if_alive(TulipStream *stream)
{
#ifdef Py_GIL_DISABLED
    PyObject *weak = PyWeakref_NewRef((PyObject *)stream, NULL), *alive = NULL;
    if (weak != NULL) {
        (void)PyWeakref_GetRef(weak, &alive);
        Py_DECREF(weak);
    }
    PyErr_Clear();
    return alive;
#else
    return Py_NewRef((PyObject *)stream);
#endif
}

/* The transport that its protocol knows. */
static PyObject *
face_of(TulipStream *stream)
{
    PyObject *above = NULL;
    if ((stream->flags & TULIP_LAYERED) && stream->protocol != NULL) {
        above = tulip_layer_transport(stream->protocol);
    }
    return above != NULL ? above : (PyObject *)stream;
}

/* Without those that are just going. */
static int
append_alive(PyObject *list, TulipStream *stream)
{
    PyObject *alive = if_alive(stream);
    int rc = alive != NULL ? PyList_Append(list, face_of(stream)) : 0;
    Py_XDECREF(alive);
    return rc;
}

PyDoc_STRVAR(clients_doc, "_clients($self, /)\n--\n\nThe open transports, as a list.");

static PyObject *
server_clients(TulipServer *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(tulip_lock(self->loop));
    PyObject *list = PyList_New(0);
    TulipStream *stream;
    if (list == NULL) {
        return NULL;
    }
    for (stream = self->clients; stream != NULL; stream = stream->next_client) {
        if (append_alive(list, stream) < 0) {
            Py_DECREF(list);
            return NULL;
        }
    }
    return list;
}

PyDoc_STRVAR(accepting_doc,
"_accepting($self, /)\n--\n\n"
"Those of _clients() for which a task of asyncio's would still be accepting.");

static PyObject *
server_accepting(TulipServer *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(tulip_lock(self->loop));
    PyObject *list = PyList_New(0);
    TulipStream *stream;
    if (list == NULL) {
        return NULL;
    }
    for (stream = self->clients; stream != NULL; stream = stream->next_client) {
        if (!(stream->flags & TULIP_CLOSING)
            && tulip_accepted_is_new(self->loop, stream)
            && append_alive(list, stream) < 0) {
            Py_DECREF(list);
            return NULL;
        }
    }
    return list;
}

static PyObject *
server_get_handles(TulipServer *self, void *Py_UNUSED(closure))
{
    UVT_LOCKED(tulip_lock(self->loop));
    PyObject *list = PyList_New(0);
    if (list == NULL) {
        return NULL;
    }
    for (Py_ssize_t i = 0; i < self->count; i++) {
        PyObject *handle = self->listeners[i].handle;
        if (handle != NULL && PyList_Append(list, handle) < 0) {
            Py_DECREF(list);
            return NULL;
        }
    }
    return list;
}

static PyObject *
server_get_filenos(TulipServer *self, void *Py_UNUSED(closure))
{
    UVT_LOCKED(tulip_lock(self->loop));
    PyObject *list = PyList_New(0);
    for (Py_ssize_t i = 0; list != NULL && i < self->count; i++) {
        PyObject *fd = PyLong_FromLong(self->listeners[i].fd);
        if (fd == NULL || PyList_Append(list, fd) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(fd);
    }
    return list;
}

static PyObject *
server_get_active(TulipServer *self, void *Py_UNUSED(closure))
{
    UVT_LOCKED(tulip_lock(self->loop));
    return PyLong_FromSsize_t(self->active);
}

static PyObject *
server_get_serving(TulipServer *self, void *Py_UNUSED(closure))
{
    UVT_LOCKED(tulip_lock(self->loop));
    return PyBool_FromLong(self->serving);
}

static PyObject *
server_get_loop(TulipServer *self, void *Py_UNUSED(closure))
{
    UVT_LOCKED(tulip_lock(self->loop));
    return Py_NewRef((PyObject *)self->loop);
}

/* ---- life cycle ---- */

PyDoc_STRVAR(server_doc,
"Server(loop, protocol_factory, handles, backlog)\n--\n\n"
"Serves the bound uv.TCP and uv.Pipe handles, a list, once _start() is called.\n"
"The factory and the protocols run in copies of the context that is current now.");

/* NULL with an exception. */
static TulipServer *
make_server(PyTypeObject *type, TulipState *st, TulipLoop *loop, PyObject *factory,
            PyObject *handles)
{
    Py_ssize_t count = PyTuple_GET_SIZE(handles);
    TulipServer *self;
    for (Py_ssize_t i = 0; i < count; i++) {
        if (tulip_stream_uv(st->uv, PyTuple_GET_ITEM(handles, i)) == NULL) {
            return NULL;
        }
    }
    self = (TulipServer *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->st = st;
    self->loop = (TulipLoop *)Py_NewRef((PyObject *)loop);
    self->factory = Py_NewRef(factory);
    self->context = PyContext_CopyCurrent();
    self->listeners = PyMem_Calloc((size_t)count + 1, sizeof(TulipListener));
    if (self->context == NULL || self->listeners == NULL) {
        if (!PyErr_Occurred()) {
            PyErr_NoMemory();
        }
        Py_DECREF(self);
        return NULL;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        self->listeners[i].handle = Py_NewRef(PyTuple_GET_ITEM(handles, i));
        self->listeners[i].fd = -1;
        self->count++;
    }
    return self;
}

static PyObject *
server_tp_new(PyTypeObject *type, PyObject *args, PyObject *kwds)
{
    static char *names[] = {"loop", "protocol_factory", "handles", "backlog",
                            NULL};
    TulipState *st = tulip_state_of_type(type);
    PyObject *loop, *factory, *handles;
    TulipServer *self;
    int backlog;

    if (st == NULL
        || !PyArg_ParseTupleAndKeywords(args, kwds, "O!OO!i:Server", names,
                                        st->loop_type, &loop, &factory,
                                        &PyList_Type, &handles, &backlog)) {
        return NULL;
    }
    if (!PyCallable_Check(factory)) {
        PyErr_SetString(PyExc_TypeError, "protocol_factory must be callable");
        return NULL;
    }
    UVT_LOCKED(tulip_lock((TulipLoop *)loop));
    handles = PyList_AsTuple(handles);      /* nobody changes this one */
    if (handles == NULL) {
        return NULL;
    }
    self = make_server(type, st, (TulipLoop *)loop, factory, handles);
    Py_DECREF(handles);
    if (self != NULL) {
        self->backlog = backlog;
    }
    return (PyObject *)self;
}

/* A subclass in Python has an __init__ of its own, with the same arguments. */
static int
server_init(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(args),
            PyObject *Py_UNUSED(kwds))
{
    return 0;
}

static int
server_traverse(TulipServer *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->loop);
    Py_VISIT(self->factory);
    Py_VISIT(self->context);
    Py_VISIT(self->dict);
    for (Py_ssize_t i = 0; i < self->count; i++) {
        Py_VISIT(self->listeners[i].handle);
        Py_VISIT(self->listeners[i].poll);
    }
    return 0;
}

/* The edges to the loop and the context stay for life: what is left to run
 * needs them, and any cycle through them has other edges that are cleared. */
static int
server_clear(TulipServer *self)
{
    UVT_LOCKED(tulip_lock(self->loop));
    server_stop_all(self);
    Py_CLEAR(self->factory);
    Py_CLEAR(self->dict);
    return 0;
}

static void
server_dealloc(TulipServer *self)
{
    PyTypeObject *tp = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    UVT_LOCKED(tulip_lock(self->loop));
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs((PyObject *)self);
    }
    (void)server_clear(self);
    for (Py_ssize_t i = 0; i < self->count; i++) {
        Py_CLEAR(self->listeners[i].unix_name);
    }
    PyMem_Free(self->listeners);
    Py_CLEAR(self->context);
    Py_CLEAR(self->loop);
    tp->tp_free(self);
    Py_DECREF(tp);
}

static PyMethodDef server_methods[] = {
    {"_start", (PyCFunction)server_start, METH_NOARGS, start_doc},
    {"_stop", (PyCFunction)server_stop, METH_NOARGS, stop_doc},
    {"_listen_again", (PyCFunction)server_listen_again, METH_O,
     listen_again_doc},
    {"_attach", (PyCFunction)server_attach, METH_VARARGS, attach_doc},
    {"_detach", (PyCFunction)server_detach, METH_VARARGS, detach_doc},
    {"_clients", (PyCFunction)server_clients, METH_NOARGS, clients_doc},
    {"_accepting", (PyCFunction)server_accepting, METH_NOARGS, accepting_doc},
    {NULL},
};

static PyGetSetDef server_getset[] = {
    {"_handles", (getter)server_get_handles, NULL,
     "The raw handles; an empty list after _stop().", NULL},
    {"_filenos", (getter)server_get_filenos, NULL,
     "What it accepts by, for other threads; -1 unless it serves.", NULL},
    {"_active", (getter)server_get_active, NULL,
     "How many connections are open.", NULL},
    {"_serving", (getter)server_get_serving, NULL,
     "True between _start() and _stop().", NULL},
    {"_loop", (getter)server_get_loop, NULL, "The event loop.", NULL},
    {"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, NULL, NULL},
    {NULL},
};

static PyMemberDef server_members[] = {
    {"__dictoffset__", T_PYSSIZET, offsetof(TulipServer, dict), READONLY},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(TulipServer, weakrefs), READONLY},
    {NULL},
};

static PyType_Slot server_slots[] = {
    {Py_tp_doc, (void *)server_doc},
    {Py_tp_new, server_tp_new},
    {Py_tp_init, server_init},
    {Py_tp_traverse, server_traverse},
    {Py_tp_clear, server_clear},
    {Py_tp_dealloc, server_dealloc},
    {Py_tp_methods, server_methods},
    {Py_tp_getset, server_getset},
    {Py_tp_members, server_members},
    {0, NULL},
};

static PyType_Spec server_spec = {
    .name = "uvtulip._transports.Server",
    .basicsize = sizeof(TulipServer),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC
        | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = server_slots,
};

int
tulip_server_setup(PyObject *module, TulipState *st)
{
    return tulip_add_type(module, &st->server_type, &server_spec, NULL);
}
