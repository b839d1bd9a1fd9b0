/* SSLLink: the protocol that the transport below a SSLTransport has.  A stream of
 * ours calls the C functions (tls_layer.h) for data, any other transport the
 * methods.  All functions run attached, on the loop's thread.
 *
 * A link owns its SSLTransport until the connection is lost.
 */
#include "tls.h"
#include "tls_layer.h"

static TulipTLS *
tls_of(PyObject *link)
{
    return ((TulipTLSLink *)link)->tls;
}

/* ---- for a stream ---- */

void
tulip_layer_made(PyObject *link, PyObject *transport)
{
    TulipTLS *tls = tls_of(link);
    if (tls != NULL) {
        Py_INCREF(tls);
        tulip_tls_connected(tls, transport);
        Py_DECREF(tls);
    }
}

void
tulip_layer_lost(PyObject *link, PyObject *exc)
{
    TulipTLS *tls = tls_of(link);
    if (tls != NULL) {
        ((TulipTLSLink *)link)->tls = NULL;
        tulip_tls_lost(tls, exc);
        Py_DECREF(tls);
    }
}

void
tulip_layer_read(PyObject *link, const char *base, size_t len)
{
    TulipTLS *tls = tls_of(link);
    if (tls != NULL) {
        Py_INCREF(tls);
        tulip_tls_feed(tls, base, len);
        Py_DECREF(tls);
    }
}

void
tulip_layer_flush(PyObject *link)
{
    TulipTLS *tls = tls_of(link);
    if (tls != NULL && (tls->waiting > 0 || tls->phase == TULIP_TLS_FLUSHING
                        || (tls->flags & TLS_WRITING_PAUSED))) {
        Py_INCREF(tls);
        tulip_tls_flush(tls);
        tulip_tls_look(tls);
        Py_DECREF(tls);
    }
}

void
tulip_layer_sent(PyObject *link)
{
    TulipTLS *tls = tls_of(link);
    if (tls != NULL) {
        Py_INCREF(tls);
        tulip_tls_maybe_resume(tls);
        Py_DECREF(tls);
    }
}

bool
tulip_layer_in_handshake(PyObject *link)
{
    TulipTLS *tls = tls_of(link);
    return tls != NULL && tls->phase < TULIP_TLS_OPEN;
}

PyObject *
tulip_layer_transport(PyObject *link)
{
    return (PyObject *)tls_of(link);
}

/* ---- methods ---- */

static PyObject *
link_connection_made(TulipTLSLink *self, PyObject *const *args, Py_ssize_t nargs,
                                                   PyObject *kwnames)
{
    UVT_LOCKED(self->lock);
    PyObject *transport = tulip_only_arg("connection_made", "transport", args, nargs, kwnames);
    if (transport == NULL) {
        return NULL;
    }
    tulip_layer_made((PyObject *)self, transport);
    Py_RETURN_NONE;
}

static PyObject *
link_connection_lost(TulipTLSLink *self, PyObject *const *args, Py_ssize_t nargs,
     PyObject *kwnames)
{
    UVT_LOCKED(self->lock);
    PyObject *exc = tulip_only_arg("connection_lost", "exc", args, nargs, kwnames);
    if (exc == NULL) {
        return NULL;
    }
    tulip_layer_lost((PyObject *)self, exc == Py_None ? NULL : exc);
    Py_RETURN_NONE;
}

static PyObject *
link_data_received(TulipTLSLink *self, PyObject *const *args, Py_ssize_t nargs,
     PyObject *kwnames)
{
    UVT_LOCKED(self->lock);
    PyObject *data = tulip_only_arg("data_received", "data", args, nargs, kwnames);
    Py_buffer view;
    if (data == NULL || PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    if (view.len > 0) {
        tulip_layer_read((PyObject *)self, view.buf, (size_t)view.len);
    }
    PyBuffer_Release(&view);
    Py_RETURN_NONE;
}

/* True: the one below stays open until the SSLTransport closes it. */
static PyObject *
link_eof_received(TulipTLSLink *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(self->lock);
    TulipTLS *tls = self->tls;
    if (tls == NULL) {
        Py_RETURN_FALSE;
    }
    Py_INCREF(tls);
    tulip_tls_under_eof(tls);
    Py_DECREF(tls);
    Py_RETURN_TRUE;
}

static PyObject *
link_pause_writing(TulipTLSLink *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(self->lock);
    if (self->tls != NULL) {
        self->tls->flags |= TLS_FULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
link_resume_writing(TulipTLSLink *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(self->lock);
    TulipTLS *tls = self->tls;
    if (tls != NULL) {
        Py_INCREF(tls);
        tls->flags &= ~(unsigned)TLS_FULL;
        tulip_tls_flush(tls);
        tulip_tls_maybe_resume(tls);
        Py_DECREF(tls);
    }
    Py_RETURN_NONE;
}

/* ---- life cycle ---- */

PyObject *
tulip_tls_link_new(TulipTLS *tls)
{
    PyTypeObject *type = tls->loop->st->tls_link_type;
    TulipTLSLink *self = (TulipTLSLink *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->tls = (TulipTLS *)Py_NewRef(tls);
        UVT_LOCK_KEEP(self->lock, tls->loop->lock);
    }
    return (PyObject *)self;
}

static int
link_traverse(TulipTLSLink *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->tls);
    return 0;
}

static int
link_clear(TulipTLSLink *self)
{
    UVT_LOCKED(self->lock);
    Py_CLEAR(self->tls);
    return 0;
}

static void
link_dealloc(TulipTLSLink *self)
{
    PyTypeObject *tp = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    (void)link_clear(self);
    UVT_LOCK_DROP(self->lock);
    tp->tp_free(self);
    Py_DECREF(tp);
}

static PyObject *
link_get_transport(TulipTLSLink *self, void *Py_UNUSED(closure))
{
    UVT_LOCKED(self->lock);
    return Py_NewRef(self->tls != NULL ? (PyObject *)self->tls : Py_None);
}

PyDoc_STRVAR(link_doc,
"What a SSLTransport is to the transport below it: its protocol.");

static PyMethodDef link_methods[] = {
    {"connection_made", (PyCFunction)(void (*)(void))link_connection_made,
     METH_FASTCALL | METH_KEYWORDS,
     "connection_made($self, transport)\n--\n\nBegin the handshake."},
    {"connection_lost", (PyCFunction)(void (*)(void))link_connection_lost,
     METH_FASTCALL | METH_KEYWORDS,
     "connection_lost($self, exc)\n--\n\nThe connection below is gone."},
    {"data_received", (PyCFunction)(void (*)(void))link_data_received,
     METH_FASTCALL | METH_KEYWORDS,
     "data_received($self, data)\n--\n\nTake ciphertext."},
    {"eof_received", (PyCFunction)link_eof_received, METH_NOARGS,
     "eof_received($self, /)\n--\n\nThe peer sends no more."},
    {"pause_writing", (PyCFunction)link_pause_writing, METH_NOARGS,
     "pause_writing($self, /)\n--\n\nKeep what has to be sent."},
    {"resume_writing", (PyCFunction)link_resume_writing, METH_NOARGS,
     "resume_writing($self, /)\n--\n\nSend again."},
    {NULL},
};

static PyGetSetDef link_getset[] = {
    {"transport", (getter)link_get_transport, NULL,
     "The SSLTransport; None once the connection is lost.", NULL},
    {NULL},
};

static PyType_Slot link_slots[] = {
    {Py_tp_doc, (void *)link_doc},
    {Py_tp_traverse, link_traverse},
    {Py_tp_clear, link_clear},
    {Py_tp_dealloc, link_dealloc},
    {Py_tp_methods, link_methods},
    {Py_tp_getset, link_getset},
    {0, NULL},
};

static PyType_Spec link_spec = {
    .name = "uvtulip._transports.SSLLink",
    .basicsize = sizeof(TulipTLSLink),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC
        | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = link_slots,
};

int
tulip_tls_link_setup(PyObject *module, TulipState *st)
{
    return tulip_add_transport(module, &st->tls_link_type, &link_spec, "Protocol",
                               NULL, (Py_ssize_t)offsetof(TulipTLSLink, tls));
}
