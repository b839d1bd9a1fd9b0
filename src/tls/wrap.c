/* Making a connection: the SSLObject, and the choice of the backend.  All functions
 * run attached.
 *
 * ssl's own wrap_bio() is Python code around one call of _ssl.  A server makes that
 * call itself, as far as it can see that the code is ssl's and would do no more.
 */
#include "engine.h"
#include <stdatomic.h>

/* ---- what is ssl's own ---- */

/* Whether the function behind a method is one that ssl came with: somebody may have
 * put another one in its place. */
static bool
is_own_function(UvtTlsState *st, PyObject *method)
{
    PyObject *function = method != NULL && PyMethod_Check(method)
        ? PyMethod_GET_FUNCTION(method) : method;
    return function != NULL && PyFunction_Check(function)
        && PyFunction_GetGlobals(function) == st->globals;
}

/* What would be called of an SSLObject goes to its _sslobj at once; but not when it
 * has been changed. */
static bool
has_own_methods(UvtTlsState *st)
{
    PyObject *const names[] = {
        st->str__create, st->str_do_handshake, st->str_read, st->str_unwrap,
        st->str_write,
    };
    bool own = ((PyTypeObject *)st->object_type)->tp_new == PyBaseObject_Type.tp_new;
    for (size_t i = 0; own && i < sizeof(names) / sizeof(names[0]); i++) {
        PyObject *method = PyObject_GetAttr(st->object_type, names[i]);
        own = is_own_function(st, method);
        Py_XDECREF(method);
    }
    PyErr_Clear();
    return own;
}

/* Calls a getter of _ssl's type of contexts; NULL: the attribute is None or not
 * there. */
static PyObject *
get_setting(PyObject *descr, PyObject *context)
{
    descrgetfunc get = descr != NULL ? Py_TYPE(descr)->tp_descr_get : NULL;
    PyObject *value = get != NULL ? get(descr, context, (PyObject *)Py_TYPE(context))
                                  : NULL;
    if (value == Py_None) {
        Py_CLEAR(value);
    }
    PyErr_Clear();
    return value;
}

/* Callbacks that have no way of their own to tell of an exception: _ssl's methods
 * raise it when the call is over, each in its version's manner. */
static bool
has_debug_callbacks(UvtTlsState *st, PyObject *context)
{
    PyObject *message = get_setting(st->msg_callback, context);
    PyObject *keylog = message == NULL ? get_setting(st->keylog_filename, context)
                                       : NULL;
    bool has = message != NULL || keylog != NULL;
    Py_XDECREF(keylog);
    Py_XDECREF(message);
    return has;
}

/* ---- what the short way takes ---- */

/* The SSLContext.wrap_bio that ssl came with; NULL: somebody has put another one in
 * its place. */
static PyObject *
own_wrap_bio(UvtTlsState *st)
{
    PyObject *method = PyObject_GetAttr(st->context_type, st->str_wrap_bio);
    if (!is_own_function(st, method)) {
        Py_CLEAR(method);
    }
    PyErr_Clear();
    return method;
}

int
uvt_tls_prepare_wrap(UvtTlsState *st, PyObject *ssl)
{
    Py_XSETREF(st->globals, Py_NewRef(PyModule_GetDict(ssl)));
    Py_XSETREF(st->wrap_bio, own_wrap_bio(st));
    Py_XSETREF(st->msg_callback, PyObject_GetAttrString(st->low_context_type,
                                                        "_msg_callback"));
    Py_XSETREF(st->keylog_filename, PyObject_GetAttrString(st->low_context_type,
                                                           "keylog_filename"));
    PyErr_Clear();          /* a Python without them */
    Py_XSETREF(st->incoming, PyObject_CallNoArgs(st->memory_bio));
    if (st->incoming == NULL) {
        return -1;
    }
    Py_XSETREF(st->outgoing, PyObject_CallNoArgs(st->memory_bio));
    if (st->outgoing == NULL) {
        return -1;
    }
    Py_XSETREF(st->wrap_names, Py_BuildValue("(ss)", "owner", "session"));
    return st->wrap_names != NULL ? 0 : -1;
}

/* Whether wrap_bio() of the context is ssl's, and makes a plain SSLObject. */
static bool
is_plain(UvtTlsState *st, PyObject *context)
{
    PyObject *method, *type;
    bool plain;
    if (st->wrap_bio == NULL || (PyObject *)Py_TYPE(context) != st->context_type) {
        return false;
    }
    method = PyObject_GetAttr(context, st->str_wrap_bio);
    type = method == NULL ? NULL
                          : PyObject_GetAttr(context, st->str_sslobject_class);
    plain = method != NULL && PyMethod_Check(method)
        && PyMethod_GET_FUNCTION(method) == st->wrap_bio
        && type == st->object_type && has_own_methods(st);
    PyErr_Clear();
    Py_XDECREF(type);
    Py_XDECREF(method);
    return plain;
}

/* An SSLObject for a server, in object and target.  The two MemoryBIOs are the same
 * for all of them: OpenSSL gets another BIO before it uses one. */
static bool
wrap_short(UvtTls *self, PyObject *context)
{
    UvtTlsState *st = self->st;
    PyTypeObject *type = (PyTypeObject *)st->object_type;
    PyObject *none = PyTuple_New(0);
    PyObject *args[] = {
        context, st->incoming, st->outgoing, Py_True, Py_None, NULL, Py_None,
    };
    if (none == NULL) {
        return false;
    }
    self->object = args[5] = type->tp_new(type, none, NULL);
    Py_DECREF(none);
    if (self->object == NULL) {
        return false;
    }
    self->target = PyObject_VectorcallMethod(st->str__wrap_bio, args, 5,
                                             st->wrap_names);
    return self->target != NULL
        && PyObject_SetAttr(self->object, st->str__sslobj, self->target) == 0;
}

/* ---- the backend ---- */

bool
uvt_tls_probe(UvtTlsState *st)
{
    /* PROTOCOL_TLS_SERVER, which needs no certificate yet. */
    PyObject *context = PyObject_CallFunction(st->low_context_type, "i", 17);
    PyObject *sslobj = context == NULL ? NULL : PyObject_CallMethod(
        context, "_wrap_bio", "OOOO", st->incoming, st->outgoing, Py_True, Py_None);
    bool found = sslobj != NULL && (PyObject *)Py_TYPE(sslobj) == st->sslobj_type
        && uvt_openssl_ssl_of(st->openssl, sslobj, context) != NULL;
    PyErr_Clear();
    Py_XDECREF(sslobj);
    Py_XDECREF(context);
    return found;
}

/* 1: OpenSSL is called directly, on the target.  0, -1: as uvt_tls_make_direct. */
static int
try_direct(UvtTls *self)
{
    PyObject *context;
    int direct;
    if (self->st->portable
        || (PyObject *)Py_TYPE(self->target) != self->st->sslobj_type) {
        return 0;
    }
    context = PyObject_GetAttr(self->target, self->st->str_context);
    if (context == NULL) {
        return -1;
    }
    direct = has_debug_callbacks(self->st, context)
        ? 0 : uvt_tls_make_direct(self, self->target, context);
    Py_DECREF(context);
    return direct;
}

/* False without an exception: the long way has to be gone, which finds any error
 * again. */
static bool
make_short(UvtTls *self, PyObject *context)
{
    bool made = !self->st->portable && is_plain(self->st, context)
        && wrap_short(self, context) && try_direct(self) == 1;
    PyErr_Clear();
    if (!made) {
        Py_CLEAR(self->target);
        Py_CLEAR(self->object);
    }
    return made;
}

/* context.wrap_bio(incoming, outgoing, ...) */
static PyObject *
wrap(PyObject *context, PyObject *incoming, PyObject *outgoing, bool server_side,
     PyObject *hostname, PyObject *session)
{
    PyObject *method = PyObject_GetAttrString(context, "wrap_bio");
    PyObject *args = PyTuple_Pack(2, incoming, outgoing);
    PyObject *kwds = Py_BuildValue("{sOsO}",
                                   "server_side", server_side ? Py_True : Py_False,
                                   "server_hostname", hostname);
    PyObject *object = NULL;
    if (method != NULL && args != NULL && kwds != NULL
        && (session == Py_None
            || PyDict_SetItemString(kwds, "session", session) == 0)) {
        object = PyObject_Call(method, args, kwds);
    }
    Py_XDECREF(kwds);
    Py_XDECREF(args);
    Py_XDECREF(method);
    return object;
}

/* Chooses whose methods are called, and how. */
static int
choose(UvtTls *self, PyObject *incoming, PyObject *outgoing)
{
    int direct = 0;
    if ((PyObject *)Py_TYPE(self->object) == self->st->object_type
        && has_own_methods(self->st)) {
        self->target = PyObject_GetAttr(self->object, self->st->str__sslobj);
        direct = self->target == NULL ? -1 : try_direct(self);
    }
    else {
        self->target = Py_NewRef(self->object);
    }
    if (direct == 0) {
        self->incoming = Py_NewRef(incoming);
        self->outgoing = Py_NewRef(outgoing);
        self->backend = &uvt_tls_portable;
    }
    return direct < 0 ? -1 : 0;
}

static int
make_long(UvtTls *self, PyObject *context, bool server_side, PyObject *hostname,
          PyObject *session)
{
    PyObject *incoming = PyObject_CallNoArgs(self->st->memory_bio);
    PyObject *outgoing = PyObject_CallNoArgs(self->st->memory_bio);
    int rc = -1;
    if (incoming != NULL && outgoing != NULL) {
        self->object = wrap(context, incoming, outgoing, server_side, hostname,
                            session);
        rc = self->object == NULL ? -1 : choose(self, incoming, outgoing);
    }
    Py_XDECREF(outgoing);
    Py_XDECREF(incoming);
    return rc;
}

UvtTls *
uvt_tls_new(UvtTlsState *st, PyObject *context, bool server_side,
            PyObject *hostname, PyObject *session)
{
    UvtTls *self = PyMem_RawCalloc(1, sizeof(UvtTls));
    bool plain = server_side && hostname == Py_None && session == Py_None;
    if (self == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    atomic_init(&self->owners, 1);
    self->st = st;
    if (!(plain && make_short(self, context))
        && make_long(self, context, server_side, hostname, session) < 0) {
        uvt_tls_free(self);
        return NULL;
    }
    return self;
}
