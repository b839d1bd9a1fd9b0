/* get_extra_info() and the repr of a TLS transport.  All functions run attached.
 * What is asked of the SSLObject is asked anew each time.
 */
#include "tls.h"

/* What the SSLObject's method gives. */
static PyObject *
ask_object(TulipTLS *self, const char *method)
{
    return PyObject_CallMethod(self->ssl_object, method, NULL);
}

static PyObject *
certificate(TulipTLS *self)
{
    PyObject *module = PyImport_ImportModule("uvtulip.certificate"), *result;
    if (module == NULL) {
        return NULL;
    }
    result = PyObject_CallMethod(module, "of_peer", "O", self->ssl_object);
    Py_DECREF(module);
    return result;
}

/* What is there from the beginning; NULL without an exception: no such name. */
static PyObject *
ask_any_time(TulipTLS *self, PyObject *name)
{
    if (PyUnicode_CompareWithASCIIString(name, "tls_backend") == 0) {
        return PyUnicode_FromString(self->backend->name);
    }
    if (self->ssl_object == Py_None) {
        return NULL;
    }
    if (PyUnicode_CompareWithASCIIString(name, "ssl_object") == 0) {
        return Py_NewRef(self->ssl_object);
    }
    if (PyUnicode_CompareWithASCIIString(name, "sslcontext") == 0) {
        return Py_NewRef(self->ssl_context);
    }
    return NULL;
}

/* What the handshake brings. */
static PyObject *
ask_connected(TulipTLS *self, PyObject *name)
{
    static const struct {
        const char *name, *method;
    } methods[] = {
        {"peercert", "getpeercert"},
        {"cipher", "cipher"},
        {"compression", "compression"},
        {"tls_version", "version"},
        {"alpn_protocol", "selected_alpn_protocol"},
    };
    for (size_t i = 0; i < sizeof(methods) / sizeof(methods[0]); i++) {
        if (PyUnicode_CompareWithASCIIString(name, methods[i].name) == 0) {
            return ask_object(self, methods[i].method);
        }
    }
    if (PyUnicode_CompareWithASCIIString(name, "session_reused") == 0) {
        return PyObject_GetAttrString(self->ssl_object, "session_reused");
    }
    if (PyUnicode_CompareWithASCIIString(name, "peer_certificate") == 0) {
        return certificate(self);
    }
    return NULL;
}

PyObject *
tulip_tls_get_extra_info(TulipTLS *self, PyObject *args, PyObject *kwds)
{
    UVT_LOCKED(tulip_lock(self->loop));
    static char *names[] = {"name", "default", NULL};
    PyObject *name, *fallback = Py_None, *found = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwds, "O|O:get_extra_info", names,
                                     &name, &fallback)) {
        return NULL;
    }
    if (self->extra != NULL && PyDict_Check(self->extra)) {
        (void)PyDict_GetItemRef(self->extra, name, &found);
    }
    if (found == NULL && !PyErr_Occurred() && PyUnicode_Check(name)) {
        found = ask_any_time(self, name);
        if (found == NULL && (self->flags & TLS_CONNECTED)
            && self->ssl_object != Py_None) {
            found = ask_connected(self, name);
        }
    }
    if (found == NULL && !PyErr_Occurred()) {
        found = self->under == NULL
            ? Py_NewRef(fallback)
            : PyObject_CallMethod(self->under, "get_extra_info", "OO", name,
                                  fallback);
    }
    return found;
}

PyObject *
tulip_tls_repr(TulipTLS *self)
{
    UVT_LOCKED(tulip_lock(self->loop));
    static const char *const phases[] = {
        [TULIP_TLS_NEW] = "new",
        [TULIP_TLS_HANDSHAKE] = "handshake",
        [TULIP_TLS_OPEN] = "open",
        [TULIP_TLS_FLUSHING] = "closing",
        [TULIP_TLS_SHUTDOWN] = "closing",
        [TULIP_TLS_DONE] = "closing",
        [TULIP_TLS_LOST] = "closed",
    };
    PyObject *name = PyType_GetName(Py_TYPE(self)), *text;
    if (name == NULL) {
        return NULL;
    }
    text = PyUnicode_FromFormat("<%U %s over %R>", name, phases[self->phase],
                                self->under != NULL ? self->under : Py_None);
    Py_DECREF(name);
    return text;
}
