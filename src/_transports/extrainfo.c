/* get_extra_info() and the repr of a stream transport.  All functions run
 * attached.  The object for 'socket' only borrows the descriptor; the transport
 * takes it away from it when the handle is closed.
 */
#include "stream.h"

static PyObject *
borrow_socket(TulipStream *self)
{
    TulipRare *rare = tulip_stream_rare(self);
    PyObject *module, *sock;
    uv_os_fd_t fd;
    if (rare == NULL) {
        return NULL;
    }
    if (rare->socket != NULL) {
        return Py_NewRef(rare->socket);
    }
    if (self->uv == NULL || uv_fileno((uv_handle_t *)self->uv, &fd) < 0) {
        fd = -1;
    }
    module = PyImport_ImportModule("uvtulip.sockets");
    if (module == NULL) {
        return NULL;
    }
    sock = PyObject_CallMethod(module, "borrow", "i", (int)fd);
    Py_DECREF(module);
    if (sock == NULL && self->uv != NULL && self->uv->type == UV_NAMED_PIPE
        && PyErr_ExceptionMatches(PyExc_OSError)) {
        PyErr_Clear();      /* a FIFO or a terminal that was opened by hand */
        return Py_NewRef(Py_None);
    }
    rare->socket = Py_XNewRef(sock);
    rare->detached = fd < 0;
    return sock;
}

void
tulip_show_socket(TulipLoop *loop, PyObject **slot, PyObject *sock)
{
    Py_XSETREF(*slot, sock != Py_None ? Py_NewRef(sock) : NULL);
    if (sock != Py_None) {
        PyObject *fd = PyObject_CallMethod(sock, "fileno", NULL);
        if (fd != NULL) {
            tulip_loop_mark_fd(loop, (int)PyLong_AsLong(fd));
            Py_DECREF(fd);
        }
        PyErr_Clear();      /* then it is only not refused */
    }
}

PyDoc_STRVAR(show_socket_doc,
"_show_socket($self, sock, /)\n--\n\n"
"Give this object as 'socket', and call its detach() when the handle is closed.\n"
"None: the socket is made again when it is asked for.");

static PyObject *
stream_show_socket(TulipStream *self, PyObject *sock)
{
    UVT_LOCKED(self->loop->lock);
    TulipRare *rare = tulip_stream_rare(self);
    if (rare == NULL) {
        return NULL;
    }
    tulip_show_socket(self->loop, &rare->socket, sock);
    rare->detached = false;
    Py_RETURN_NONE;
}

PyMethodDef tulip_socket_methods[] = {
    {"_show_socket", (PyCFunction)stream_show_socket, METH_O, show_socket_doc},
    {NULL},
};

/* ---- names ---- */

static PyObject *
stream_name(TulipStream *self, bool peer)
{
    if (self->flags & TULIP_NAMES_OBJECTS) {
        PyObject *name = self->names.objects[peer];
        return Py_NewRef(name == NULL ? Py_None : name);
    }
    return tulip_tcp_name(self, peer);
}

void
tulip_stream_free_names(TulipStream *self)
{
    if (self->flags & TULIP_PIPE) {
        tulip_pipe_free(self);
    }
    else if (self->flags & TULIP_NAMES_OBJECTS) {
        Py_CLEAR(self->names.objects[0]);
        Py_CLEAR(self->names.objects[1]);
    }
    else if (self->flags & TULIP_NAMES_V6) {
        PyMem_Free(self->names.v6);
        self->names.v6 = NULL;
    }
    self->flags &= ~(unsigned)(TULIP_NAMES_V6 | TULIP_NAMES_OBJECTS);
}

/* ---- get_extra_info() ---- */

static PyObject *
ask_stream(PyObject *transport, PyObject *name)
{
    TulipStream *self = (TulipStream *)transport;
    if (PyUnicode_CompareWithASCIIString(name, "uv_handle") == 0) {
        return Py_XNewRef(self->handle);
    }
    if (self->flags & TULIP_PIPE) {
        return NULL;
    }
    if (PyUnicode_CompareWithASCIIString(name, "peername") == 0) {
        return stream_name(self, true);
    }
    if (PyUnicode_CompareWithASCIIString(name, "sockname") == 0) {
        return stream_name(self, false);
    }
    if (PyUnicode_CompareWithASCIIString(name, "socket") == 0) {
        return borrow_socket(self);
    }
    return NULL;
}

PyObject *
tulip_get_extra_info(PyObject *transport, PyObject *extra, TulipAsk ask,
                     PyObject *args, PyObject *kwds)
{
    static char *names[] = {"name", "default", NULL};
    PyObject *name, *fallback = Py_None, *found = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwds, "O|O:get_extra_info", names,
                                     &name, &fallback)) {
        return NULL;
    }
    if (extra != NULL && PyDict_Check(extra)) {
        (void)PyDict_GetItemRef(extra, name, &found);
    }
    if (found == NULL && !PyErr_Occurred() && PyUnicode_Check(name)) {
        found = ask(transport, name);
    }
    if (found == NULL && !PyErr_Occurred()) {
        found = Py_NewRef(fallback);
    }
    return found;
}

PyObject *
tulip_stream_get_extra_info(TulipStream *self, PyObject *args,
                            PyObject *kwds)
{
    UVT_LOCKED(self->loop->lock);
    return tulip_get_extra_info((PyObject *)self, self->extra, ask_stream, args,
                                kwds);
}

/* Its life; "open" with nothing behind it is left by a loop that was closed. */
static const char *
state_name(const TulipStream *self)
{
    if (self->protocol == NULL) {
        return " closed";
    }
    if (self->flags & TULIP_CLOSING) {
        return " closing";
    }
    return self->uv == NULL ? " open loop=closed" : "";
}

PyObject *
tulip_stream_repr(TulipStream *self)
{
    UVT_LOCKED(self->loop->lock);
    PyObject *name = PyType_GetName(Py_TYPE(self)), *text;
    char fd_text[32] = "", reading[32] = "", writing[64] = "";
    uv_os_fd_t fd;
    if (name == NULL) {
        return NULL;
    }
    if (self->uv != NULL && uv_fileno((uv_handle_t *)self->uv, &fd) == 0) {
        PyOS_snprintf(fd_text, sizeof(fd_text), " fd=%d", (int)fd);
    }
    if (!(self->flags & TULIP_WRITE_PIPE)) {
        PyOS_snprintf(reading, sizeof(reading), " read=%s",
                      self->flags & TULIP_READING ? "polling" : "idle");
    }
    if (!(self->flags & TULIP_READ_PIPE)) {
        PyOS_snprintf(writing, sizeof(writing), " write=<%s, bufsize=%zu>",
                      self->sending != NULL ? "polling" : "idle",
                      tulip_stream_buffered(self));
    }
    text = PyUnicode_FromFormat("<%U%s%s%s%s>", name, state_name(self), fd_text,
                                reading, writing);
    Py_DECREF(name);
    return text;
}
