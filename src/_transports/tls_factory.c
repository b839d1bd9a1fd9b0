/* SSLFactory: the protocol factory of a server that speaks TLS.  Called for each
 * connection it makes the user's protocol, a SSLTransport for it, and returns the
 * SSLLink.  All functions run attached.
 *
 * Edges that the collector sees: factory -> loop, protocol_factory, ssl_context.
 */
#include "tls.h"

typedef struct TulipTLSFactory {
    PyObject_HEAD
    vectorcallfunc call;
    TulipLoop *loop;            /* strong, for life, as the others */
    PyObject *protocol_factory;
    PyObject *ssl_context;
    double handshake_timeout, shutdown_timeout;
} TulipTLSFactory;

/* ---- the call ---- */

static PyObject *
make_link(TulipTLSFactory *self, PyObject *protocol)
{
    TulipTLSOptions options = {
        .loop = self->loop,
        .protocol = protocol,
        .ssl_context = self->ssl_context,
        .waiter = Py_None,
        .hostname = Py_None,
        .session = Py_None,
        .server_side = true,
        .call_made = true,
        .handshake_timeout = self->handshake_timeout,
        .shutdown_timeout = self->shutdown_timeout,
    };
    PyObject *tls = tulip_tls_new(self->loop->st->tls_type, &options), *link;
    if (tls == NULL) {
        return NULL;
    }
    link = tulip_tls_link_new((TulipTLS *)tls);
    Py_DECREF(tls);
    return link;
}

static PyObject *
factory_vectorcall(PyObject *op, PyObject *const *Py_UNUSED(args), size_t nargsf,
                   PyObject *kwnames)
{
    TulipTLSFactory *self = (TulipTLSFactory *)op;
    UVT_LOCKED(tulip_lock(self->loop));
    PyObject *protocol, *link;
    if (PyVectorcall_NARGS(nargsf) > 0 || kwnames != NULL) {
        PyErr_SetString(PyExc_TypeError, "SSLFactory takes no arguments when called");
        return NULL;
    }
    protocol = PyObject_CallNoArgs(self->protocol_factory);
    if (protocol == NULL) {
        return NULL;
    }
    link = make_link(self, protocol);
    Py_DECREF(protocol);
    return link;
}

/* ---- life cycle ---- */

PyDoc_STRVAR(factory_doc,
"SSLFactory(loop, protocol_factory, sslcontext, handshake_timeout,\n"
"           shutdown_timeout)\n"
"--\n\n"
"A factory of the protocols that stand between a server's transports and those of\n"
"`protocol_factory`: TLS with the given context, the timeouts in seconds.");

static PyObject *
factory_new(PyTypeObject *type, PyObject *args, PyObject *kwds)
{
    static char *names[] = {
        "loop", "protocol_factory", "sslcontext", "handshake_timeout",
        "shutdown_timeout", NULL,
    };
    TulipState *st = tulip_state_of_type(type);
    PyObject *loop, *protocol_factory, *context;
    double handshake_timeout, shutdown_timeout;
    TulipTLSFactory *self;
    if (st == NULL
        || !PyArg_ParseTupleAndKeywords(
            args, kwds, "O!OOdd:SSLFactory", names, st->loop_type, &loop,
            &protocol_factory, &context, &handshake_timeout, &shutdown_timeout)) {
        return NULL;
    }
    self = (TulipTLSFactory *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->call = factory_vectorcall;
    self->loop = (TulipLoop *)Py_NewRef(loop);
    self->protocol_factory = Py_NewRef(protocol_factory);
    self->ssl_context = Py_NewRef(context);
    self->handshake_timeout = handshake_timeout;
    self->shutdown_timeout = shutdown_timeout;
    return (PyObject *)self;
}

static int
factory_traverse(TulipTLSFactory *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->loop);
    Py_VISIT(self->protocol_factory);
    Py_VISIT(self->ssl_context);
    return 0;
}

/* No tp_clear: it refers to what was there before it, so that every ring through it
 * has something else to clear. */
static void
factory_dealloc(TulipTLSFactory *self)
{
    PyTypeObject *tp = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_CLEAR(self->ssl_context);
    Py_CLEAR(self->protocol_factory);
    Py_CLEAR(self->loop);
    tp->tp_free(self);
    Py_DECREF(tp);
}

static PyMemberDef factory_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(TulipTLSFactory, call), READONLY},
    {NULL},
};

static PyType_Slot factory_slots[] = {
    {Py_tp_doc, (void *)factory_doc},
    {Py_tp_new, factory_new},
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_traverse, factory_traverse},
    {Py_tp_dealloc, factory_dealloc},
    {Py_tp_members, factory_members},
    {0, NULL},
};

static PyType_Spec factory_spec = {
    .name = "uvtulip._transports.SSLFactory",
    .basicsize = sizeof(TulipTLSFactory),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL
        | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = factory_slots,
};

int
tulip_tls_factory_setup(PyObject *module, TulipState *st)
{
    return tulip_add_type(module, &st->tls_factory_type, &factory_spec, NULL);
}
