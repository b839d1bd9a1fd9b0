/* What TLS tells of itself: attributes, which answer on closed ones as well, and what
 * the SSLObject knows of the peer.  All functions run attached, on the loop's thread
 * or while nobody runs the loop.
 */
#include "tls.h"
#include "args.h"
#include "loop.h"

/* ---- the SSLObject ---- */

/* object.name(argument), the argument NULL: none */
static PyObject *
ask(UvtLayer *self, const char *name, PyObject *argument)
{
    PyObject *method, *result;
    if (!uvt_layer_check(self)) {
        return NULL;
    }
    method = PyObject_GetAttrString(self->ssl_object, name);
    if (method == NULL) {
        return NULL;
    }
    result = argument != NULL ? PyObject_CallOneArg(method, argument)
                              : PyObject_CallNoArgs(method);
    Py_DECREF(method);
    return result;
}

PyObject *
uvt_layer_getpeercert(UvtLayer *self, PyObject *const *args, Py_ssize_t nargs,
                  PyObject *kwnames)
{
    UVT_LOCKED(self->lock);
    static const char *const names[] = {"binary_form"};
    PyObject *binary_form;
    if (!uvt_args_bind("TLS.getpeercert", args, nargs, kwnames, names, 1, 0,
                       &binary_form)) {
        return NULL;
    }
    return ask(self, "getpeercert", binary_form);
}

PyObject *
uvt_layer_cipher(UvtLayer *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(self->lock);
    return ask(self, "cipher", NULL);
}

PyObject *
uvt_layer_version(UvtLayer *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(self->lock);
    return ask(self, "version", NULL);
}

PyObject *
uvt_layer_alpn(UvtLayer *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(self->lock);
    return ask(self, "selected_alpn_protocol", NULL);
}

/* `name` is the attribute of the SSLObject. */
static PyObject *
get_of_object(UvtLayer *self, void *name)
{
    UVT_LOCKED(self->lock);
    return uvt_layer_check_initialised(self)
        ? PyObject_GetAttrString(self->ssl_object, name) : NULL;
}

/* ---- attributes ---- */

static PyObject *
get_ssl_object(UvtLayer *self, void *Py_UNUSED(closure))
{
    UVT_LOCKED(self->lock);
    return uvt_layer_check_initialised(self) ? Py_NewRef(self->ssl_object) : NULL;
}

static PyObject *
get_context(UvtLayer *self, void *Py_UNUSED(closure))
{
    UVT_LOCKED(self->lock);
    return uvt_layer_check_initialised(self) ? Py_NewRef(self->context) : NULL;
}

static PyObject *
get_stream(UvtLayer *self, void *Py_UNUSED(closure))
{
    UVT_LOCKED(self->lock);
    if (!uvt_layer_check_initialised(self)) {
        return NULL;
    }
    return Py_NewRef(self->stream != NULL ? (PyObject *)self->stream : Py_None);
}

static PyObject *
get_loop(UvtLayer *self, void *Py_UNUSED(closure))
{
    UVT_LOCKED(self->lock);
    if (!uvt_layer_check_initialised(self)) {
        return NULL;
    }
    return Py_NewRef(self->stream != NULL && self->stream->loop != NULL
                     ? (PyObject *)self->stream->loop : Py_None);
}

static PyObject *
get_backend(UvtLayer *self, void *Py_UNUSED(closure))
{
    UVT_LOCKED(self->lock);
    return uvt_layer_check_initialised(self)
        ? PyUnicode_FromString(self->backend->name) : NULL;
}

static bool
is_active(const UvtLayer *self)
{
    return uvt_layer_is_open(self)
        && (self->phase == UVT_LAYER_HANDSHAKE || self->first != NULL
            || self->stream->pending > 0
            || (self->phase == UVT_LAYER_OPEN && self->on_read != NULL
                && !self->ended));
}

static PyObject *
get_active(UvtLayer *self, void *Py_UNUSED(closure))
{
    UVT_LOCKED(self->lock);
    return uvt_layer_check_initialised(self) ? PyBool_FromLong(is_active(self))
                                             : NULL;
}

static PyObject *
get_closed(UvtLayer *self, void *Py_UNUSED(closure))
{
    UVT_LOCKED(self->lock);
    const UvtHandle *stream = self->stream;
    if (!uvt_layer_check_initialised(self)) {
        return NULL;
    }
    return PyBool_FromLong(stream == NULL || stream->box == NULL
                           || uv_is_closing(&stream->box->uv.handle));
}

static PyObject *
get_ref(UvtLayer *self, void *Py_UNUSED(closure))
{
    UVT_LOCKED(self->lock);
    if (!uvt_layer_check_initialised(self)) {
        return NULL;
    }
    return PyBool_FromLong(self->stream != NULL && self->stream->box != NULL
                           && uv_has_ref(&self->stream->box->uv.handle));
}

static int
set_ref(UvtLayer *self, PyObject *value, void *Py_UNUSED(closure))
{
    UVT_LOCKED(self->lock);
    int on;
    if (value == NULL) {
        PyErr_SetString(PyExc_AttributeError, "TLS.ref cannot be deleted");
        return -1;
    }
    if (!uvt_arg_bool(value, &on) || !uvt_layer_check(self)) {
        return -1;
    }
    if (on) {
        uv_ref(&self->stream->box->uv.handle);
    }
    else {
        uv_unref(&self->stream->box->uv.handle);
    }
    return 0;
}

static PyObject *
get_readable(UvtLayer *self, void *Py_UNUSED(closure))
{
    UVT_LOCKED(self->lock);
    if (!uvt_layer_check(self)) {
        return NULL;
    }
    return PyBool_FromLong(self->phase == UVT_LAYER_OPEN && !self->ended
                           && self->stream_end == 0);
}

static PyObject *
get_writable(UvtLayer *self, void *Py_UNUSED(closure))
{
    UVT_LOCKED(self->lock);
    if (!uvt_layer_check(self)) {
        return NULL;
    }
    return PyBool_FromLong(self->phase == UVT_LAYER_OPEN && !self->shut_wanted);
}

static PyObject *
get_write_queue_size(UvtLayer *self, void *Py_UNUSED(closure))
{
    UVT_LOCKED(self->lock);
    if (!uvt_layer_check(self)) {
        return NULL;
    }
    return PyLong_FromSize_t(
        self->waiting
        + uv_stream_get_write_queue_size(&self->stream->box->uv.stream));
}

PyGetSetDef uvt_layer_getset[] = {
    {"stream", (getter)get_stream, NULL, "The stream handle below.", NULL},
    {"loop", (getter)get_loop, NULL,
     "The stream's Loop; None once it is closed.", NULL},
    {"context", (getter)get_context, NULL,
     "The ssl.SSLContext that it was made with.", NULL},
    {"ssl_object", (getter)get_ssl_object, NULL,
     "The ssl.SSLObject, for what it can tell; read and write through TLS.", NULL},
    {"server_side", (getter)get_of_object, NULL, "True for the server's side.",
     "server_side"},
    {"server_hostname", (getter)get_of_object, NULL,
     "The server's name, given by the client's side (str or None).",
     "server_hostname"},
    {"session", (getter)get_of_object, NULL,
     "The ssl.SSLSession, for the `session` of a later connection; with TLS 1.3 it\n"
     "is there once something was read.  None before.", "session"},
    {"session_reused", (getter)get_of_object, NULL,
     "True when `session` has saved most of the handshake.", "session_reused"},
    {"backend", (getter)get_backend, NULL,
     "How it is done: 'openssl', directly, or 'memory-bio', through ssl.", NULL},
    {"active", (getter)get_active, NULL,
     "True while it makes a handshake, reads or writes.", NULL},
    {"closed", (getter)get_closed, NULL,
     "True from the call of close() on, its own or the stream's.", NULL},
    {"ref", (getter)get_ref, (setter)set_ref,
     "False: the stream does not keep Loop.run() going.", NULL},
    {"readable", (getter)get_readable, NULL,
     "True after the handshake, until the end was read.", NULL},
    {"writable", (getter)get_writable, NULL,
     "True after the handshake, until shutdown().", NULL},
    {"write_queue_size", (getter)get_write_queue_size, NULL,
     "Bytes that wait to be encrypted, and ciphertext that the kernel has not taken.",
     NULL},
    {"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, NULL, NULL},
    {NULL},
};

PyObject *
uvt_layer_repr(UvtLayer *self)
{
    UVT_LOCKED(self->lock);
    const char *state = is_active(self) ? "active" : "idle";
    if (self->ssl_object == NULL) {
        return PyUnicode_FromFormat("<%s uninitialised at %p>",
                                    Py_TYPE(self)->tp_name, self);
    }
    if (self->stream == NULL || self->stream->box == NULL) {
        state = "closed";
    }
    else if (uv_is_closing(&self->stream->box->uv.handle)) {
        state = "closing";
    }
    return PyUnicode_FromFormat("<%s %s over %R at %p>", Py_TYPE(self)->tp_name,
                                state, self->stream != NULL
                                ? (PyObject *)self->stream : Py_None, self);
}
