/* DatagramTransport: the type, its life cycle and what can be asked of it.  All
 * functions run attached, on the thread that runs the loop or while none does;
 * finalising may come from any thread.
 *
 * datagram.h lists the edges.  While the handle is open the loop holds it and it
 * holds the transport; connection_lost closes the handle, and when that is done
 * the two let go of each other.
 */
#include "datagram.h"
#include <errno.h>

bool
tulip_datagram_on_thread(const TulipDatagram *self)
{
    return !self->loop->forked && tulip_loop_is_here(self->loop);
}

bool
tulip_datagram_check_thread(const TulipDatagram *self)
{
    if (!tulip_loop_check_fork(self->loop)) {
        return false;
    }
    if (!tulip_datagram_on_thread(self)) {
        PyErr_SetString(PyExc_RuntimeError,
                        "Non-thread-safe operation invoked on a transport of a "
                        "loop that another thread runs: use "
                        "call_soon_threadsafe()");
        return false;
    }
    return true;
}

/* ---- making one ---- */

/* Looks at the handle; nothing is changed by it. */
static bool
check_handle(TulipDatagram *self, PyObject *handle)
{
    uv_handle_t *uv = tulip_datagram_api(self)->handle_uv(handle,
                                                          UV_UNKNOWN_HANDLE);
    uv_os_fd_t fd;
    if (uv == NULL) {
        return false;
    }
    if (uv->type != UV_UDP && uv->type != UV_POLL) {
        PyErr_Format(PyExc_TypeError,
                     "DatagramTransport(): handle must be a UDP or a Poll, not "
                     "%.200s", Py_TYPE(handle)->tp_name);
        return false;
    }
    if (uv->loop != self->loop->uv) {
        PyErr_SetString(PyExc_ValueError,
                        "DatagramTransport(): the handle is of another loop");
        return false;
    }
    if (uv_fileno(uv, &fd) < 0) {
        PyErr_SetString(PyExc_ValueError,
                        "DatagramTransport(): the handle has no socket yet");
        return false;
    }
    self->uv = uv;
    self->fd = fd;
    if (uv->type == UV_POLL) {
        self->flags |= TULIP_D_POLLED;
    }
    return true;
}

/* The result of a method of the stranger; None in place of an OSError. */
static PyObject *
ask_stranger(TulipDatagram *self, const char *method)
{
    PyObject *name = PyObject_CallMethod(self->stranger, method, NULL);
    if (name == NULL && PyErr_ExceptionMatches(PyExc_OSError)) {
        PyErr_Clear();
        name = Py_NewRef(Py_None);
    }
    return name;
}

static PyObject *
ask_name(TulipDatagram *self, bool peer)
{
    struct sockaddr_storage raw;
    socklen_t len = sizeof(raw);
    int rc;
    if (self->stranger != NULL) {
        return ask_stranger(self, peer ? "getpeername" : "getsockname");
    }
    rc = peer ? getpeername(self->fd, (struct sockaddr *)&raw, &len)
              : getsockname(self->fd, (struct sockaddr *)&raw, &len);
    return rc < 0 ? Py_NewRef(Py_None)
                  : tulip_datagram_api(self)->sockaddr_format(
                        (struct sockaddr *)&raw, (int)len);
}

static int
ask_option(int fd, int option)
{
    int value = -1;
    socklen_t len = sizeof(value);
    return getsockopt(fd, SOL_SOCKET, option, &value, &len) == 0 ? value : -1;
}

/* What kind of socket it is, and its two names. */
static bool
learn(TulipDatagram *self)
{
    int family = ask_option(self->fd, SO_DOMAIN), named;
    if (ask_option(self->fd, SO_TYPE) == SOCK_SEQPACKET) {
        self->flags |= TULIP_D_RECORDS;
    }
    if (family == AF_UNIX) {
        self->flags |= TULIP_D_UNIX;
    }
    else if (family != AF_INET && family != AF_INET6) {
        PyObject *module = PyImport_ImportModule("uvtulip.sockets");
        if (module != NULL) {
            self->stranger = PyObject_CallMethod(module, "plain", "i", self->fd);
            Py_DECREF(module);
        }
        if (self->stranger == NULL) {
            return false;
        }
    }
    self->sockname = ask_name(self, false);
    self->peername = self->sockname != NULL ? ask_name(self, true) : NULL;
    if (self->peername == NULL) {
        return false;
    }
    if (self->peername != Py_None) {
        self->flags |= TULIP_D_CONNECTED;
    }
    named = PyObject_IsTrue(self->peername);
    if (named > 0) {
        self->flags |= TULIP_D_NAMED;
    }
    return named >= 0;
}

/* The address that sendto() shall use without being given one. */
static bool
fix_address(TulipDatagram *self, PyObject *address)
{
    int given = PyObject_IsTrue(address);
    if (given <= 0) {
        return given == 0;
    }
    if (!(self->flags & TULIP_D_NAMED) && self->stranger == NULL
        && !tulip_address_parse(self, address, &self->to)) {
        return false;
    }
    self->address = Py_NewRef(address);
    return true;
}

static void
call_made(PyObject *owner, PyObject *made)
{
    TulipDatagram *self = (TulipDatagram *)owner;
    PyObject *result = NULL;
    int entered;
    if (!(self->flags & TULIP_D_OPEN)) {
        return;                 /* it could not be made */
    }
    entered = tulip_datagram_enter(self);
    if (entered >= 0) {
        result = PyObject_CallOneArg(made, owner);
        tulip_datagram_leave(self, entered);
    }
    if (result == NULL) {
        tulip_loop_report(self->loop,
                          "Exception in callback protocol.connection_made()",
                          owner, self->protocol, NULL);
    }
    Py_XDECREF(result);
}

static void
start_reading(PyObject *owner, PyObject *Py_UNUSED(arg))
{
    TulipDatagram *self = (TulipDatagram *)owner;
    self->flags |= TULIP_D_STARTED;
    tulip_datagram_update_reading(self);
}

/* Who waits runs before the first datagram comes. */
static void
wake_waiter(PyObject *owner, PyObject *waiter)
{
    TulipDatagram *self = (TulipDatagram *)owner;
    if (waiter != NULL) {
        tulip_set_waiter(self->loop, owner, self->protocol, waiter);
    }
    if (tulip_loop_call_soon_c(self->loop, start_reading, owner, NULL) < 0) {
        PyErr_WriteUnraisable(owner);
    }
}

static int
schedule_start(TulipDatagram *self, PyObject *waiter)
{
    PyObject *made = PyObject_GetAttr(self->protocol,
                                      self->loop->st->str_connection_made);
    int rc;
    if (made == NULL) {
        return -1;
    }
    rc = tulip_loop_call_soon_c(self->loop, call_made, (PyObject *)self, made);
    Py_DECREF(made);
    if (rc == 0) {
        rc = tulip_loop_call_soon_c(self->loop, wake_waiter, (PyObject *)self,
                                    waiter == Py_None ? NULL : waiter);
    }
    return rc;
}

/* The handle is the transport's from here on, or nothing has changed for it. */
static bool
take_handle(TulipDatagram *self, PyObject *handle, PyObject *waiter)
{
    const UvtCAPI *api = tulip_datagram_api(self);
    if (api->consume(handle, &tulip_datagram_consumer, (PyObject *)self) < 0) {
        return false;
    }
    if (schedule_start(self, waiter) < 0) {
        /* What is scheduled finds nothing to do. */
        self->flags |= TULIP_D_CLOSING | TULIP_D_LOST | TULIP_D_LOST_DONE;
        api->release(handle);
        return false;
    }
    self->handle = Py_NewRef(handle);
    self->flags |= TULIP_D_OPEN;
    tulip_loop_mark_fd(self->loop, self->fd);
    return true;
}

PyDoc_STRVAR(datagram_doc,
"DatagramTransport(loop, handle, protocol, address=None, waiter=None,\n"
"                  extra=None)\n--\n\n"
"A transport over a uv.UDP that has a socket, or over a uv.Poll of a socket; it\n"
"owns both from now on.  With `address` everything is sent there.\n\n"
"Calls protocol.connection_made() soon, then sets the result of `waiter`, then\n"
"receives.  The protocol is called in a copy of the current context.");

static PyObject *
datagram_tp_new(PyTypeObject *type, PyObject *args, PyObject *kwds)
{
    static char *names[] = {"loop", "handle", "protocol", "address", "waiter",
                            "extra", NULL};
    TulipState *st = tulip_state_of_type(type);
    PyObject *loop, *handle, *protocol, *address = Py_None, *waiter = Py_None;
    PyObject *extra = Py_None;
    TulipDatagram *self;

    if (st == NULL
        || !PyArg_ParseTupleAndKeywords(args, kwds, "O!OO|OOO:DatagramTransport",
                                        names, st->loop_type, &loop, &handle,
                                        &protocol, &address, &waiter, &extra)) {
        return NULL;
    }
    if (extra != Py_None && !PyDict_Check(extra)) {
        PyErr_Format(PyExc_TypeError,
                     "DatagramTransport(): extra must be a dict or None, not "
                     "%.200s", Py_TYPE(extra)->tp_name);
        return NULL;
    }
    UVT_LOCKED(tulip_lock((TulipLoop *)loop));
    if (!tulip_loop_check_open((TulipLoop *)loop)) {
        return NULL;
    }
    self = (TulipDatagram *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->loop = (TulipLoop *)Py_NewRef(loop);
    self->fd = -1;
    self->high = TULIP_HIGH_WATER;
    self->low = TULIP_HIGH_WATER / 4;
    self->lost_writes = 1;
    self->context = PyContext_CopyCurrent();
    tulip_datagram_use_protocol(self, protocol);
    if (extra != Py_None) {
        self->extra = PyDict_Copy(extra);
    }
    if (self->context == NULL || (extra != Py_None && self->extra == NULL)
        || !check_handle(self, handle) || !learn(self)
        || !fix_address(self, address) || !take_handle(self, handle, waiter)) {
        self->uv = NULL;
        self->fd = -1;
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

/* Everything is done by then; the base class has an __init__ of its own. */
static int
datagram_init(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(args),
              PyObject *Py_UNUSED(kwds))
{
    return 0;
}

/* ---- life cycle ---- */

static int
datagram_traverse(TulipDatagram *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->extra);
    Py_VISIT(self->loop);
    Py_VISIT(self->handle);
    Py_VISIT(self->timer);
    Py_VISIT(self->protocol);
    Py_VISIT(self->receive);
    Py_VISIT(self->context);
    Py_VISIT(self->address);
    Py_VISIT(self->sockname);
    Py_VISIT(self->peername);
    Py_VISIT(self->shown);
    Py_VISIT(self->stranger);
    Py_VISIT(self->held);
    Py_VISIT(self->dict);
    for (unsigned i = self->first; i < self->count; i++) {
        Py_VISIT(self->queue[i].target);
    }
    return tulip_peers_traverse(self->peers, visit, arg);
}

/* The edge to the loop stays: a cycle through it also leads through the handle
 * or through what the loop clears. */
static int
datagram_clear(TulipDatagram *self)
{
    UVT_LOCKED(tulip_lock(self->loop));
    tulip_datagram_drop_queue(self);
    Py_CLEAR(self->receive);
    Py_CLEAR(self->protocol);
    Py_CLEAR(self->handle);
    self->uv = NULL;
    Py_CLEAR(self->timer);
    Py_CLEAR(self->shown);
    Py_CLEAR(self->stranger);
    Py_CLEAR(self->held);
    Py_CLEAR(self->extra);
    Py_CLEAR(self->dict);
    return 0;
}

static void
datagram_finalize(TulipDatagram *self)
{
    UVT_LOCKED(tulip_lock(self->loop));
    PyObject *raised;
    if ((self->flags & (TULIP_D_OPEN | TULIP_D_LOST_DONE)) != TULIP_D_OPEN) {
        return;
    }
    raised = PyErr_GetRaisedException();
    if (PyErr_ResourceWarning((PyObject *)self, 1, "unclosed transport %R",
                              (PyObject *)self) < 0) {
        /* An error when warnings are errors; there is nobody to raise it to. */
        PyErr_WriteUnraisable((PyObject *)self);
    }
    self->flags |= TULIP_D_CLOSING | TULIP_D_LOST | TULIP_D_LOST_DONE;
    tulip_datagram_close_handle(self);
    if (raised != NULL) {
        PyErr_SetRaisedException(raised);
    }
}

static void
datagram_dealloc(TulipDatagram *self)
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
        tulip_send_orphan(self->sending);
        self->sending = NULL;
    }
    (void)datagram_clear(self);
    tulip_peers_free(self->peers);
    PyMem_Free(self->queue);
    Py_CLEAR(self->address);
    Py_CLEAR(self->sockname);
    Py_CLEAR(self->peername);
    Py_CLEAR(self->context);
    Py_CLEAR(self->loop);
    tp->tp_free(self);
    Py_DECREF(tp);
}

/* ---- questions ---- */

static PyObject *
borrow_socket(TulipDatagram *self)
{
    PyObject *module;
    if (self->shown != NULL) {
        return Py_NewRef(self->shown);
    }
    if (self->uv == NULL || uv_is_closing(self->uv)) {
        return Py_NewRef(Py_None);
    }
    module = PyImport_ImportModule("uvtulip.sockets");
    if (module == NULL) {
        return NULL;
    }
    self->shown = PyObject_CallMethod(module, "borrow", "i", self->fd);
    Py_DECREF(module);
    return Py_XNewRef(self->shown);
}

PyDoc_STRVAR(show_socket_doc,
"_show_socket($self, sock, /)\n--\n\n"
"Give this object as 'socket', and call its detach() when the handle is closed.\n"
"None: the socket is made again when it is asked for.");

static PyObject *
show_socket(TulipDatagram *self, PyObject *sock)
{
    UVT_LOCKED(tulip_lock(self->loop));
    tulip_show_socket(self->loop, &self->shown, sock);
    Py_RETURN_NONE;
}

static PyObject *
ask_datagram(PyObject *transport, PyObject *name)
{
    TulipDatagram *self = (TulipDatagram *)transport;
    if (PyUnicode_CompareWithASCIIString(name, "peername") == 0) {
        return Py_XNewRef(self->peername);
    }
    if (PyUnicode_CompareWithASCIIString(name, "sockname") == 0) {
        return Py_XNewRef(self->sockname);
    }
    if (PyUnicode_CompareWithASCIIString(name, "socket") == 0) {
        return borrow_socket(self);
    }
    if (PyUnicode_CompareWithASCIIString(name, "uv_handle") == 0) {
        return Py_XNewRef(self->handle);
    }
    return NULL;
}

PyDoc_STRVAR(get_extra_info_doc,
"get_extra_info($self, name, default=None)\n--\n\n"
"'socket' (shows the socket and borrows its descriptor), 'sockname', 'peername',\n"
"'uv_handle' (the raw handle), or what the maker of the transport added.");

static PyObject *
get_extra_info(TulipDatagram *self, PyObject *args, PyObject *kwds)
{
    UVT_LOCKED(tulip_lock(self->loop));
    return tulip_get_extra_info((PyObject *)self, self->extra, ask_datagram, args,
                                kwds);
}

static PyObject *
datagram_repr(TulipDatagram *self)
{
    UVT_LOCKED(tulip_lock(self->loop));
    PyObject *name = PyType_GetName(Py_TYPE(self)), *text;
    const char *state = "";
    char where[32] = "";
    if (name == NULL) {
        return NULL;
    }
    if (self->protocol == NULL || self->uv == NULL) {
        state = " closed";
    }
    else if (self->flags & TULIP_D_CLOSING) {
        state = " closing";
    }
    if (self->fd >= 0) {
        PyOS_snprintf(where, sizeof(where), " fd=%d", self->fd);
    }
    text = PyUnicode_FromFormat(
        "<%U%s%s read=%s write=<%s, bufsize=%zu>>", name, state, where,
        self->flags & TULIP_D_READING ? "polling" : "idle",
        tulip_datagram_waits(self) ? "polling" : "idle",
        tulip_datagram_buffered(self));
    Py_DECREF(name);
    return text;
}

PyDoc_STRVAR(get_protocol_doc,
"get_protocol($self, /)\n--\n\n"
"The protocol; None once connection_lost() has returned.");

static PyObject *
get_protocol(TulipDatagram *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(tulip_lock(self->loop));
    return Py_NewRef(self->protocol == NULL ? Py_None : self->protocol);
}

PyDoc_STRVAR(set_protocol_doc,
"set_protocol($self, protocol)\n--\n\n"
"Deliver to another protocol from now on.");

static PyObject *
set_protocol(TulipDatagram *self, PyObject *const *args, Py_ssize_t nargs,
             PyObject *kwnames)
{
    UVT_LOCKED(tulip_lock(self->loop));
    PyObject *protocol = tulip_only_arg("set_protocol", "protocol", args, nargs,
                                        kwnames);
    if (protocol == NULL || !tulip_datagram_check_thread(self)) {
        return NULL;
    }
    tulip_datagram_use_protocol(self, protocol);
    Py_RETURN_NONE;
}

/* ---- the type ---- */

static PyMethodDef datagram_methods[] = {
    {"_show_socket", (PyCFunction)show_socket, METH_O, show_socket_doc},
    {"get_protocol", (PyCFunction)get_protocol, METH_NOARGS, get_protocol_doc},
    {"set_protocol", (PyCFunction)(void (*)(void))set_protocol,
     METH_FASTCALL | METH_KEYWORDS, set_protocol_doc},
    {"get_extra_info", (PyCFunction)(void (*)(void))get_extra_info,
     METH_VARARGS | METH_KEYWORDS, get_extra_info_doc},
    {NULL},
};

static PyGetSetDef datagram_getset[] = {
    {"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, NULL, NULL},
    {NULL},
};

static PyMemberDef datagram_members[] = {
    {"__dictoffset__", T_PYSSIZET, offsetof(TulipDatagram, dict), READONLY},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(TulipDatagram, weakrefs),
     READONLY},
    {NULL},
};

static PyType_Slot datagram_slots[] = {
    {Py_tp_doc, (void *)datagram_doc},
    {Py_tp_new, datagram_tp_new},
    {Py_tp_init, datagram_init},
    {Py_tp_traverse, datagram_traverse},
    {Py_tp_clear, datagram_clear},
    {Py_tp_finalize, datagram_finalize},
    {Py_tp_dealloc, datagram_dealloc},
    {Py_tp_repr, datagram_repr},
    {Py_tp_methods, datagram_methods},
    {Py_tp_getset, datagram_getset},
    {Py_tp_members, datagram_members},
    {0, NULL},
};

static PyType_Spec datagram_spec = {
    .name = "uvtulip._transports.DatagramTransport",
    .basicsize = sizeof(TulipDatagram),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = datagram_slots,
};

int
tulip_datagram_setup(PyObject *module, TulipState *st)
{
    /* The slot of the bases is our member `extra`.  asyncio's datagram transports
     * are Transports, too. */
    if (tulip_add_transport(module, &st->datagram_type, &datagram_spec,
                            "DatagramTransport", "Transport",
                            (Py_ssize_t)offsetof(TulipDatagram, loop)) < 0
        || tulip_add_methods(st->datagram_type, tulip_datagram_close_methods) < 0
        || tulip_add_methods(st->datagram_type, tulip_datagram_flow_methods) < 0
        || tulip_add_methods(st->datagram_type, tulip_datagram_read_methods) < 0
        || tulip_add_methods(st->datagram_type, tulip_datagram_write_methods)
           < 0) {
        return -1;
    }
    return 0;
}
