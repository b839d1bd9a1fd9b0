/* SSLTransport: the type, its life cycle, close and abort.  All functions run
 * attached, on the thread that runs the loop or while none does; finalising may
 * come from any thread.
 *
 * tls.h lists the edges.  The transport below holds the link, which holds this; it
 * closes what is below and learns from that that the connection is lost.
 */
#include "tls.h"

void
tulip_tls_enter(TulipTLS *self)
{
    self->busy++;
}

void
tulip_tls_leave(TulipTLS *self)
{
    if (--self->busy == 0 && self->phase == TULIP_TLS_LOST) {
        UvtTls *engine = self->engine;
        self->engine = NULL;
        if (engine != NULL) {
            uvt_tls_free(engine);
        }
        if (self->flags & TLS_LET_GO) {
            Py_SETREF(self->ssl_object, Py_NewRef(Py_None));
            Py_SETREF(self->ssl_context, Py_NewRef(Py_None));
        }
    }
}

/* ---- the protocol ---- */

/* The look-ups may run any code; nothing changes before they are done. */
int
tulip_tls_use_protocol(TulipTLS *self, PyObject *protocol)
{
    TulipState *st = self->loop->st;
    PyObject *old = self->protocol, *old_receive = self->receive;
    PyObject *old_get_buffer = self->get_buffer;
    PyObject *receive, *get_buffer = NULL;
    bool receive_bare, get_bare = false;
    int buffered = tulip_is_buffered(st, protocol);
    if (buffered < 0) {
        return -1;
    }
    receive = tulip_find_method(protocol, buffered ? st->str_buffer_updated
                                                   : st->str_data_received,
                                &receive_bare);
    if (buffered) {
        get_buffer = tulip_find_method(protocol, st->str_get_buffer, &get_bare);
    }
    self->protocol = Py_NewRef(protocol);
    self->receive = receive;
    self->get_buffer = get_buffer;
    self->flags &= ~(unsigned)(TLS_BUFFERED | TLS_RECEIVE_BARE | TLS_GET_BARE);
    self->flags |= (buffered ? TLS_BUFFERED : 0)
        | (receive_bare ? TLS_RECEIVE_BARE : 0) | (get_bare ? TLS_GET_BARE : 0);
    Py_XDECREF(old_get_buffer);
    Py_XDECREF(old_receive);
    Py_XDECREF(old);
    return 0;
}

/* ---- life cycle ---- */

PyDoc_STRVAR(tls_doc,
"SSLTransport(loop, protocol, sslcontext, waiter, server_side, server_hostname,\n"
"             call_connection_made, handshake_timeout, shutdown_timeout,\n"
"             session)\n"
"--\n\n"
"TLS for `protocol`.  Another transport has to get the protocol that _link() makes\n"
"as its own and tell it that it is connected; then the handshake begins.  When it\n"
"is done protocol.connection_made() is called, unless that was the transport\n"
"below's, and the waiter gets its result.  The protocol is called in a copy of the\n"
"current context.");

PyObject *
tulip_tls_new(PyTypeObject *type, const TulipTLSOptions *options)
{
    TulipState *st = options->loop->st;
    TulipTLS *self;
    if (!tulip_loop_check_open(options->loop) || uvt_tls_prepare(&st->tls) < 0) {
        return NULL;
    }
    self = (TulipTLS *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->loop = (TulipLoop *)Py_NewRef(options->loop);
    self->high = TULIP_TLS_HIGH_WATER;
    self->low = TULIP_TLS_HIGH_WATER / 4;
    self->read_high = TULIP_TLS_READ_HIGH_WATER;
    self->read_low = TULIP_TLS_READ_HIGH_WATER / 4;
    self->handshake_timeout = options->handshake_timeout;
    self->shutdown_timeout = options->shutdown_timeout;
    self->flags = options->call_made ? TLS_CALL_MADE : TLS_MADE;
    self->flags |= options->server_side ? TLS_SERVER : 0;
    self->ssl_context = Py_NewRef(options->ssl_context);
    self->waiter = options->waiter != Py_None ? Py_NewRef(options->waiter) : NULL;
    self->context = PyContext_CopyCurrent();
    if (self->context == NULL
        || tulip_tls_use_protocol(self, options->protocol) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    self->engine = uvt_tls_new(&st->tls, options->ssl_context,
                               options->server_side, options->hostname,
                               options->session);
    if (self->engine == NULL) {
        Py_DECREF(self);
        return NULL;
    }
    self->ssl_object = Py_NewRef(self->engine->object);
    if (!options->server_side
        && (PyObject *)Py_TYPE(options->ssl_context) != st->tls.context_type
        && PyObject_HasAttrString(options->ssl_context, "keep_session")) {
        self->flags |= TLS_KEEPS;
    }
    self->backend = self->engine->backend;
    return (PyObject *)self;
}

static PyObject *
tls_tp_new(PyTypeObject *type, PyObject *args, PyObject *kwds)
{
    static char *names[] = {
        "loop", "protocol", "sslcontext", "waiter", "server_side",
        "server_hostname", "call_connection_made", "handshake_timeout",
        "shutdown_timeout", "session", NULL,
    };
    TulipState *st = tulip_state_of_type(type);
    TulipTLSOptions options;
    int server_side, call_made;

    if (st == NULL
        || !PyArg_ParseTupleAndKeywords(
            args, kwds, "O!OOOpOpddO:SSLTransport", names, st->loop_type,
            &options.loop, &options.protocol, &options.ssl_context,
            &options.waiter, &server_side, &options.hostname, &call_made,
            &options.handshake_timeout, &options.shutdown_timeout,
            &options.session)) {
        return NULL;
    }
    options.server_side = server_side != 0;
    options.call_made = call_made != 0;
    UVT_LOCKED(tulip_lock(options.loop));
    return tulip_tls_new(type, &options);
}

/* Everything is done by then; the base class has an __init__ of its own. */
static int
tls_init(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(args),
         PyObject *Py_UNUSED(kwds))
{
    return 0;
}

static int
tls_traverse(TulipTLS *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->extra);
    Py_VISIT(self->loop);
    Py_VISIT(self->under);
    Py_VISIT(self->ssl_context);
    Py_VISIT(self->ssl_object);
    Py_VISIT(self->protocol);
    Py_VISIT(self->receive);
    Py_VISIT(self->get_buffer);
    Py_VISIT(self->context);
    Py_VISIT(self->waiter);
    Py_VISIT(self->timer);
    Py_VISIT(self->dict);
    return self->engine != NULL ? uvt_tls_traverse(self->engine, visit, arg) : 0;
}

/* The edges to the loop, the contexts and the SSLObject stay: none of them leads
 * back but through what is cleared. */
static int
tls_clear(TulipTLS *self)
{
    UVT_LOCKED(tulip_lock(self->loop));
    self->phase = TULIP_TLS_LOST;
    self->flags |= TLS_CLOSED;
    self->stream = NULL;
    Py_CLEAR(self->under);
    Py_CLEAR(self->protocol);
    Py_CLEAR(self->receive);
    Py_CLEAR(self->get_buffer);
    Py_CLEAR(self->waiter);
    Py_CLEAR(self->timer);
    Py_CLEAR(self->extra);
    Py_CLEAR(self->dict);
    return 0;
}

static void
tls_dealloc(TulipTLS *self)
{
    PyTypeObject *tp = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    UVT_LOCKED(tulip_lock(self->loop));
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs((PyObject *)self);
    }
    (void)tls_clear(self);
    tulip_tls_drop_queue(self);
    if (self->engine != NULL) {
        uvt_tls_free(self->engine);
    }
    Py_CLEAR(self->ssl_object);
    Py_CLEAR(self->ssl_context);
    Py_CLEAR(self->context);
    Py_CLEAR(self->loop);
    tp->tp_free(self);
    Py_DECREF(tp);
}

/* ---- methods ---- */

bool
tulip_tls_check_thread(TulipTLS *self)
{
    if (!tulip_loop_check_fork(self->loop)) {
        return false;
    }
    if (tulip_loop_is_here(self->loop)) {
        return true;
    }
    PyErr_SetString(PyExc_RuntimeError,
                    "Non-thread-safe operation invoked on a transport of a loop "
                    "that another thread runs: use call_soon_threadsafe()");
    return false;
}

PyDoc_STRVAR(link_doc,
"_link($self, /)\n--\n\n"
"The protocol for the transport below; to be asked for once.");

static PyObject *
tls_link(TulipTLS *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(tulip_lock(self->loop));
    return tulip_tls_link_new(self);
}

PyDoc_STRVAR(feed_doc,
"_feed($self, data, /)\n--\n\n"
"Ciphertext that somebody else has read already.");

static PyObject *
tls_feed(TulipTLS *self, PyObject *data)
{
    UVT_LOCKED(tulip_lock(self->loop));
    Py_buffer view;
    if (!tulip_tls_check_thread(self)
        || PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    if (view.len > 0) {
        tulip_tls_feed(self, view.buf, (size_t)view.len);
    }
    PyBuffer_Release(&view);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(close_doc,
"close($self, /)\n--\n\n"
"Read no more, send what was written and close_notify, wait for the peer's for\n"
"ssl_shutdown_timeout at most, then close what is below and call\n"
"connection_lost().  When it is closing already, let the context and the\n"
"SSLObject go with the connection.");

static PyObject *
tls_close(TulipTLS *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(tulip_lock(self->loop));
    if (self->loop->forked) {
        Py_RETURN_NONE;     /* it is the parent's */
    }
    if (tulip_loop_is_elsewhere(self->loop)) {
        return tulip_loop_forward(self->loop, (PyObject *)self, "close", NULL);
    }
    if (!tulip_tls_check_thread(self)) {
        return NULL;
    }
    /* asyncio's transport lets its protocol go then, and with it the context. */
    if (self->flags & TLS_CLOSED) {
        self->flags |= TLS_LET_GO;
    }
    tulip_tls_enter(self);
    tulip_tls_begin_close(self);
    tulip_tls_leave(self);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(force_close_doc,
"_force_close($self, exc, /)\n--\n\n"
"Drop what waits to be sent and have connection_lost(exc) called.");

static PyObject *
tls_force_close(TulipTLS *self, PyObject *exc)
{
    UVT_LOCKED(tulip_lock(self->loop));
    if (!tulip_tls_check_thread(self)) {
        return NULL;
    }
    tulip_tls_force_close(self, exc == Py_None ? NULL : exc);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(abort_doc,
"abort($self, /)\n--\n\n"
"Close at once; what the kernel does not take now is lost.  Then\n"
"connection_lost(None) is called.");

static PyObject *
tls_abort(TulipTLS *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(tulip_lock(self->loop));
    if (self->loop->forked) {
        Py_RETURN_NONE;     /* it is the parent's */
    }
    if (tulip_loop_is_elsewhere(self->loop)) {
        return tulip_loop_forward(self->loop, (PyObject *)self, "abort", NULL);
    }
    if (!tulip_tls_check_thread(self)) {
        return NULL;
    }
    /* What was written in this callback counts as written before. */
    tulip_tls_flush(self);
    tulip_tls_force_close(self, NULL);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(is_closing_doc,
"is_closing($self, /)\n--\n\nTrue from close() or abort() on.");

static PyObject *
tls_is_closing(TulipTLS *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(tulip_lock(self->loop));
    if (self->waiting > 0 && self->stream != NULL) {
        tulip_stream_flush_for_drain(self->stream, self->protocol);
    }
    return PyBool_FromLong((self->flags & TLS_CLOSED) != 0);
}

PyDoc_STRVAR(get_protocol_doc,
"get_protocol($self, /)\n--\n\n"
"The protocol; None once connection_lost() has returned.");

static PyObject *
tls_get_protocol(TulipTLS *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(tulip_lock(self->loop));
    return Py_NewRef(self->protocol == NULL ? Py_None : self->protocol);
}

PyDoc_STRVAR(set_protocol_doc,
"set_protocol($self, protocol)\n--\n\n"
"Deliver to another protocol from now on: a Protocol or a BufferedProtocol.");

static PyObject *
tls_set_protocol(TulipTLS *self, PyObject *const *args, Py_ssize_t nargs,
                 PyObject *kwnames)
{
    UVT_LOCKED(tulip_lock(self->loop));
    PyObject *protocol = tulip_only_arg("set_protocol", "protocol", args, nargs,
                                        kwnames);
    if (protocol == NULL || !tulip_tls_check_thread(self)
        || (self->phase != TULIP_TLS_LOST      /* the old one hears of that */
            && tulip_tls_use_protocol(self, protocol) < 0)) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(get_extra_info_doc,
"get_extra_info($self, name, default=None)\n--\n\n"
"'sslcontext', 'ssl_object', 'tls_backend'; after the handshake 'peercert',\n"
"'peer_certificate', 'cipher', 'compression', 'tls_version', 'alpn_protocol',\n"
"'session_reused'; else what the transport below knows.");

static PyMethodDef tls_methods[] = {
    {"_link", (PyCFunction)tls_link, METH_NOARGS, link_doc},
    {"_feed", (PyCFunction)tls_feed, METH_O, feed_doc},
    {"close", (PyCFunction)tls_close, METH_NOARGS, close_doc},
    {"abort", (PyCFunction)tls_abort, METH_NOARGS, abort_doc},
    {"_force_close", (PyCFunction)tls_force_close, METH_O, force_close_doc},
    {"is_closing", (PyCFunction)tls_is_closing, METH_NOARGS, is_closing_doc},
    {"get_protocol", (PyCFunction)tls_get_protocol, METH_NOARGS,
     get_protocol_doc},
    {"set_protocol", (PyCFunction)(void (*)(void))tls_set_protocol,
     METH_FASTCALL | METH_KEYWORDS, set_protocol_doc},
    {"get_extra_info", (PyCFunction)(void (*)(void))tulip_tls_get_extra_info,
     METH_VARARGS | METH_KEYWORDS, get_extra_info_doc},
    {NULL},
};

static PyObject *
tls_get_paused(TulipTLS *self, void *Py_UNUSED(closure))
{
    UVT_LOCKED(tulip_lock(self->loop));
    return PyBool_FromLong(self->flags & TLS_WRITING_PAUSED);
}

static PyObject *
tls_get_context(TulipTLS *self, void *Py_UNUSED(closure))
{
    UVT_LOCKED(tulip_lock(self->loop));
    return Py_NewRef(self->ssl_context);
}

static PyGetSetDef tls_getset[] = {
    {"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, NULL, NULL},
    {"_protocol_paused", (getter)tls_get_paused, NULL,
     "True after pause_writing(), before resume_writing().", NULL},
    {"_sslcontext", (getter)tls_get_context, NULL,
     "The context, as programs ask asyncio's and uvloop's transports for it.", NULL},
    {NULL},
};

static PyMemberDef tls_members[] = {
    {"__dictoffset__", T_PYSSIZET, offsetof(TulipTLS, dict), READONLY},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(TulipTLS, weakrefs), READONLY},
    {NULL},
};

static PyType_Slot tls_slots[] = {
    {Py_tp_doc, (void *)tls_doc},
    {Py_tp_new, tls_tp_new},
    {Py_tp_init, tls_init},
    {Py_tp_traverse, tls_traverse},
    {Py_tp_clear, tls_clear},
    {Py_tp_dealloc, tls_dealloc},
    {Py_tp_repr, tulip_tls_repr},
    {Py_tp_methods, tls_methods},
    {Py_tp_getset, tls_getset},
    {Py_tp_members, tls_members},
    {0, NULL},
};

static PyType_Spec tls_spec = {
    .name = "uvtulip._transports.SSLTransport",
    .basicsize = sizeof(TulipTLS),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = tls_slots,
};

PyObject *
tulip_tls_backend(PyObject *module, PyObject *choice)
{
    TulipState *st = PyModule_GetState(module);
    return uvt_tls_choose_backend(&st->tls, choice);
}

int
tulip_tls_setup(PyObject *module, TulipState *st)
{
    /* The base has one slot, _extra, which is our member `extra`. */
    if (tulip_add_transport(module, &st->tls_type, &tls_spec, "Transport",
                            NULL, (Py_ssize_t)offsetof(TulipTLS, loop)) < 0
        || tulip_add_methods(st->tls_type, tulip_tls_read_methods) < 0
        || tulip_add_methods(st->tls_type, tulip_tls_write_methods) < 0
        || tulip_add_methods(st->tls_type, tulip_tls_flow_methods) < 0
        || tulip_tls_link_setup(module, st) < 0
        || tulip_tls_factory_setup(module, st) < 0) {
        return -1;
    }
    /* For asyncio's code, and others', that look whether start_tls() works. */
    if (PyObject_SetAttrString((PyObject *)st->tls_type, "_start_tls_compatible",
                               Py_True) < 0
        || PyObject_SetAttrString((PyObject *)st->stream_type,
                                  "_start_tls_compatible", Py_True) < 0) {
        return -1;
    }
    return 0;
}
