/* uv.TLS: the type, its life cycle, closing.  All functions run attached, on the
 * loop's thread or while nobody runs the loop; finalising may come from any thread.
 * tls.h says who refers to what.
 *
 * The layer is no handle of its own: it is open as long as its stream is.
 */
#include "tls.h"
#include "args.h"
#include "errors.h"
#include "loop.h"
#include "stream.h"

/* ---- guards ---- */

bool
uvt_layer_is_open(const UvtLayer *self)
{
    const UvtHandle *stream = self->stream;
    return self->engine != NULL && stream != NULL && stream->box != NULL
        && stream->loop != NULL && !uv_is_closing(&stream->box->uv.handle)
        && !((UvtCore *)stream->box->uv.handle.loop->data)->forked;
}

bool
uvt_layer_check_initialised(UvtLayer *self)
{
    if (self->ssl_object == NULL) {
        PyErr_Format(PyExc_RuntimeError,
                     "%s is not initialised: its __init__ was not called",
                     Py_TYPE(self)->tp_name);
        return false;
    }
    return true;
}

bool
uvt_layer_check(UvtLayer *self)
{
    const UvtHandle *stream = self->stream;
    if (!uvt_layer_check_initialised(self)) {
        return false;
    }
    if (stream == NULL || stream->box == NULL || stream->loop == NULL
        || uv_is_closing(&stream->box->uv.handle)) {
        PyErr_Format(self->st->exc[UVT_EXC_CLOSED], "%s is closed",
                     Py_TYPE(self)->tp_name);
        return false;
    }
    return uvt_loop_check(stream->loop);
}

PyObject *
uvt_layer_raise(UvtLayer *self, int rc, const char *call)
{
    return uvt_raise(self->st, UVT_EXC_TLS, rc, call);
}

/* Not in the child of a callback that has forked: what is left to tell is the
 * parent's. */
static bool
may_call(const UvtLayer *self)
{
    const UvtLoop *loop = self->stream != NULL ? self->stream->loop : NULL;
    return loop != NULL && (loop->core == NULL || !loop->core->forked);
}

void
uvt_layer_call(UvtLayer *self, PyObject *callback, PyObject *error)
{
    if (callback != NULL && may_call(self)) {
        PyObject *args[3] = {NULL, (PyObject *)self, error};
        uvt_call(self->stream, callback, args + 1, 2);
    }
    else if (error == NULL) {
        PyErr_Clear();
    }
    Py_XDECREF(callback);
    Py_XDECREF(error);
}

void
uvt_layer_call_closed(UvtLayer *self)
{
    PyObject *callback = self->on_closed;
    PyObject *args[2] = {NULL, (PyObject *)self};
    self->on_closed = NULL;
    if (callback != NULL && may_call(self)) {
        uvt_call(self->stream, callback, args + 1, 1);
    }
    Py_XDECREF(callback);
}

PyObject *
uvt_layer_take_error(UvtLayer *self)
{
    PyObject *exc;
    if (PyErr_ExceptionMatches(PyExc_Exception)) {
        return PyErr_GetRaisedException();
    }
    exc = PyErr_GetRaisedException();
    PyErr_SetRaisedException(exc);
    if (self->stream != NULL && self->stream->loop != NULL) {
        uvt_loop_report(self->stream->loop, (PyObject *)self);
    }
    else {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    return uvt_errorno(UV_ECANCELED);
}

/* ---- life cycle ---- */

static PyObject *
layer_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwds))
{
    UvtState *st = uvt_state_of_type(type);
    UvtLayer *self = st != NULL ? (UvtLayer *)type->tp_alloc(type, 0) : NULL;
    if (self != NULL) {
        self->st = st;
    }
    return (PyObject *)self;
}

/* The stream is connected and has nothing else to do. */
static bool
check_stream(UvtLayer *self, UvtHandle *stream)
{
    uv_stream_t *uv;
    int rc = 0;
    if (!uvt_handle_check_free(stream, "TLS")) {
        return false;
    }
    uv = &stream->box->uv.stream;
    if (stream->listening) {
        rc = UV_EINVAL;
    }
    else if (!uvt_stream_has_fd(stream) || uv->connect_req != NULL
             || !(uv_is_readable(uv) || uv_is_writable(uv))) {
        rc = UV_ENOTCONN;
    }
    if (rc < 0) {
        uvt_layer_raise(self, rc, "TLS");
    }
    return rc == 0;
}

static int
check_context(UvtLayer *self, PyObject *context)
{
    int is_context = PyObject_IsInstance(context, self->st->tls.low_context_type);
    if (is_context == 0) {
        PyErr_Format(PyExc_TypeError, "TLS(): expected an ssl.SSLContext, got %.200s",
                     Py_TYPE(context)->tp_name);
    }
    return is_context > 0 ? 0 : -1;
}

/* wrap_bio() would then look at no name at all. */
static int
check_hostname(PyObject *context, PyObject *hostname)
{
    PyObject *wanted = PyObject_GetAttrString(context, "check_hostname");
    int check = wanted != NULL ? PyObject_IsTrue(wanted) : -1;
    int given = check > 0 ? PyObject_IsTrue(hostname) : 1;
    Py_XDECREF(wanted);
    if (check < 0 || given < 0) {
        return -1;
    }
    if (!given) {
        PyErr_SetString(PyExc_ValueError,
                        "TLS(): check_hostname requires server_hostname");
        return -1;
    }
    return 0;
}

/* What was called may have run any code, this __init__ included. */
static int
take_stream(UvtLayer *self, UvtHandle *stream, PyObject *context, UvtTls *engine)
{
    if (self->ssl_object != NULL) {
        PyErr_Format(PyExc_RuntimeError, "%s is initialised already",
                     Py_TYPE(self)->tp_name);
        return -1;
    }
    if (!check_stream(self, stream)
        || !uvt_handle_consume(stream, &uvt_layer_of_stream, (PyObject *)self)) {
        return -1;
    }
    stream->loose = true;
    stream->reads_into = false;
    uvt_handle_update(stream);
    self->stream = (UvtHandle *)Py_NewRef(stream);
    self->engine = engine;
    UVT_LOCK_KEEP(self->lock, stream->lock);
    self->backend = engine->backend;
    self->context = Py_NewRef(context);
    self->ssl_object = Py_NewRef(engine->object);
    return 0;
}

static int
layer_init(UvtLayer *self, PyObject *args, PyObject *kwds)
{
    static char *names[] = {"stream", "context", "server_side", "server_hostname",
                            "session", NULL};
    PyObject *stream, *context, *hostname = Py_None, *session = Py_None;
    UvtTls *engine;
    int server_side = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwds, "O!O|pOO:TLS", names,
                                     self->st->stream_type, &stream, &context,
                                     &server_side, &hostname, &session)) {
        return -1;
    }
    UVT_LOCKED(((UvtHandle *)stream)->lock);
    if (self->ssl_object != NULL) {
        PyErr_Format(PyExc_RuntimeError, "%s is initialised already",
                     Py_TYPE(self)->tp_name);
        return -1;
    }
    if (!check_stream(self, (UvtHandle *)stream)
        || uvt_tls_prepare(&self->st->tls) < 0
        || check_context(self, context) < 0
        || (!server_side && check_hostname(context, hostname) < 0)) {
        return -1;
    }
    engine = uvt_tls_new(&self->st->tls, context, server_side != 0, hostname, session);
    if (engine == NULL) {
        return -1;
    }
    if (take_stream(self, (UvtHandle *)stream, context, engine) < 0) {
        PyObject *exc = PyErr_GetRaisedException();
        uvt_tls_free(engine);
        PyErr_SetRaisedException(exc);
        return -1;
    }
    return 0;
}

static int
layer_traverse(UvtLayer *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->stream);
    Py_VISIT(self->later);
    Py_VISIT(self->context);
    Py_VISIT(self->ssl_object);
    Py_VISIT(self->on_handshake);
    Py_VISIT(self->on_read);
    Py_VISIT(self->on_shutdown);
    Py_VISIT(self->on_closed);
    Py_VISIT(self->failure);
    Py_VISIT(self->dict);
    for (UvtPlain *plain = self->first; plain != NULL; plain = plain->next) {
        Py_VISIT(plain->callback);
        for (Py_ssize_t i = 0; i < plain->buffers.count; i++) {
            Py_VISIT(plain->buffers.views[i].obj);
        }
    }
    return self->engine != NULL ? uvt_tls_traverse(self->engine, visit, arg) : 0;
}

/* The edges to the context and the SSLObject stay: neither leads back but through
 * what is cleared. */
static int
layer_clear(UvtLayer *self)
{
    UVT_LOCKED(self->lock);
    UvtPlain *plain = self->first;
    self->phase = UVT_LAYER_FAILED;
    self->first = self->last = NULL;
    self->waiting = 0;
    while (plain != NULL) {
        UvtPlain *next = plain->next;
        uvt_layer_free_plain(plain);
        plain = next;
    }
    Py_CLEAR(self->on_handshake);
    Py_CLEAR(self->on_read);
    Py_CLEAR(self->on_shutdown);
    Py_CLEAR(self->on_closed);
    Py_CLEAR(self->failure);
    Py_CLEAR(self->later);
    Py_CLEAR(self->stream);
    Py_CLEAR(self->dict);
    return 0;
}

static void
layer_dealloc(UvtLayer *self)
{
    PyTypeObject *tp = Py_TYPE(self);
    UvtTls *engine;
    PyObject_GC_UnTrack(self);
    UVT_LOCKED(self->lock);
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs((PyObject *)self);
    }
    (void)layer_clear(self);
    engine = self->engine;
    self->engine = NULL;
    if (engine != NULL) {
        uvt_tls_free(engine);
    }
    Py_CLEAR(self->ssl_object);
    Py_CLEAR(self->context);
    UVT_LOCK_DROP(self->lock);
    tp->tp_free(self);
    Py_DECREF(tp);
}

/* ---- closing ---- */

static void
close_all(UvtLayer *self)
{
    if (self->later != NULL) {
        uvt_handle_close(self->later);
    }
    uvt_handle_close(self->stream);
}

PyDoc_STRVAR(close_doc,
"close($self, callback=None, /)\n--\n\n"
"Close the stream; callback(tls) comes from a later turn of the loop, after the\n"
"callbacks of what was not done yet (with UV_ECANCELED).  Nothing more is sent, no\n"
"close_notify either: that is shutdown()'s.  `closed` is true at once.\n\n"
"Raises TypeError (callback is not callable), HandleClosedError.");

static PyObject *
layer_close(UvtLayer *self, PyObject *const *args, Py_ssize_t nargs)
{
    UVT_LOCKED(self->lock);
    PyObject *callback;
    if (!uvt_args_count("TLS.close", nargs, 0, 1)
        || !uvt_arg_callback("TLS.close", nargs > 0 ? args[0] : NULL, &callback)
        || !uvt_layer_check(self)) {
        return NULL;
    }
    Py_XSETREF(self->on_closed, Py_XNewRef(callback));
    close_all(self);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(enter_doc,
"__enter__($self, /)\n--\n\nReturn the handle; the end of the block closes it.");

static PyObject *
layer_enter(UvtLayer *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(self->lock);
    return uvt_layer_check(self) ? Py_NewRef(self) : NULL;
}

PyDoc_STRVAR(exit_doc,
"__exit__($self, /, *exc)\n--\n\nClose the handle unless it is closed already.");

static PyObject *
layer_exit(UvtLayer *self, PyObject *const *Py_UNUSED(args),
           Py_ssize_t Py_UNUSED(nargs))
{
    UVT_LOCKED(self->lock);
    if (!uvt_layer_check_initialised(self)) {
        return NULL;
    }
    if (uvt_layer_is_open(self)) {
        if (!uvt_layer_check(self)) {
            return NULL;
        }
        close_all(self);
    }
    Py_RETURN_NONE;
}

/* ---- the type ---- */

PyDoc_STRVAR(handshake_doc,
"handshake($self, callback, /)\n--\n\n"
"Begin the handshake; callback(tls, error) when it is done.  The error is None, or\n"
"a number below 0 for what the stream met (UV_EOF: the peer has gone), or an\n"
"exception: ssl.SSLCertVerificationError, with verify_message, or another\n"
"ssl.SSLError.  After a failure the stream is still open, for close().\n\n"
"Raises TypeError, HandleClosedError, ssl.SSLError, and TLSError (EALREADY: called\n"
"before; ENOTCONN and others: the stream cannot be read).");

PyDoc_STRVAR(start_read_doc,
"start_read($self, callback, /)\n--\n\n"
"Read all that comes: callback(tls, data, error) with data bytes and error None, or\n"
"at the end data None and an error; the handle stays open then.  UV_EOF: the peer\n"
"has said by close_notify that this was all.  An ssl.SSLEOFError: the stream ended\n"
"without that, so something may be missing.  Another ssl.SSLError: what came is\n"
"not right.  Another number below 0: the stream failed.  While reading, it only\n"
"changes the callback.  It may be called before the handshake is done; when that\n"
"fails, only the callback of handshake() hears of it.\n\n"
"Raises TypeError, HandleClosedError, and TLSError (ENOTCONN: before handshake(),\n"
"or after a failure).");

PyDoc_STRVAR(stop_read_doc,
"stop_read($self, /)\n--\n\n"
"Stop reading; no data comes after it, and the stream is not read, so that the peer\n"
"has to wait.  Harmless when idle.");

PyDoc_STRVAR(write_doc,
"write($self, data, callback=None, /)\n--\n\n"
"Send data, a bytes-like object or a sequence of them; it must not change until\n"
"callback(tls, error), which comes from a later turn of the loop when the kernel\n"
"has taken the last of its ciphertext.  The order is kept.  What is written before\n"
"the handshake is done waits for that.\n\n"
"Raises TypeError, ValueError (an empty sequence), HandleClosedError, TLSError\n"
"(ENOTCONN: before handshake(), or after it has failed; EPIPE: after shutdown()),\n"
"and ssl.SSLError.");

PyDoc_STRVAR(writelines_doc,
"writelines($self, pieces, callback=None, /)\n--\n\n"
"write() all pieces of an iterable, as one write: small ones share a record.\n\n"
"Raises as write().");

PyDoc_STRVAR(try_write_doc,
"try_write($self, data, /)\n--\n\n"
"Send at most one record's worth, 16 KiB, of data as for write(), if nothing waits\n"
"to be sent, and return how many bytes that were; they are as good as written,\n"
"even when the kernel has not taken all of the record at once.\n\n"
"Raises as write(), and TLSError (EAGAIN) when something waits or the handshake is\n"
"not done.");

PyDoc_STRVAR(shutdown_doc,
"shutdown($self, callback=None, /)\n--\n\n"
"When all writes are done, say by close_notify that no more come, and end the\n"
"stream's outgoing side, which a terminal does not have; then callback(tls, error).\n"
"Reading goes on.\n\n"
"Raises TypeError, HandleClosedError, TLSError (ENOTCONN: no handshake, or called\n"
"before), and ssl.SSLError.");

PyDoc_STRVAR(getpeercert_doc,
"getpeercert($self, /, binary_form=False)\n--\n\n"
"The peer's certificate as ssl.SSLObject.getpeercert() gives it: a dict, empty when\n"
"it was not verified, or DER bytes; None without one.\n\n"
"Raises ValueError before the handshake is done, HandleClosedError.");

PyDoc_STRVAR(cipher_doc,
"cipher($self, /)\n--\n\n"
"The cipher as (name, version of TLS that it came with, bits), or None.");

PyDoc_STRVAR(version_doc,
"version($self, /)\n--\n\n'TLSv1.3' and so on; None before the handshake is done.");

PyDoc_STRVAR(alpn_doc,
"selected_alpn_protocol($self, /)\n--\n\nThe protocol that both sides know, or None.");

static PyMethodDef layer_methods[] = {
    {"handshake", (PyCFunction)uvt_layer_handshake, METH_O, handshake_doc},
    {"start_read", (PyCFunction)uvt_layer_start_read, METH_O, start_read_doc},
    {"stop_read", (PyCFunction)uvt_layer_stop_read, METH_NOARGS, stop_read_doc},
    {"write", (PyCFunction)(void (*)(void))uvt_layer_write, METH_FASTCALL, write_doc},
    {"writelines", (PyCFunction)(void (*)(void))uvt_layer_writelines, METH_FASTCALL,
     writelines_doc},
    {"try_write", (PyCFunction)uvt_layer_try_write, METH_O, try_write_doc},
    {"shutdown", (PyCFunction)(void (*)(void))uvt_layer_shutdown, METH_FASTCALL,
     shutdown_doc},
    {"getpeercert", (PyCFunction)(void (*)(void))uvt_layer_getpeercert,
     METH_FASTCALL | METH_KEYWORDS, getpeercert_doc},
    {"cipher", (PyCFunction)uvt_layer_cipher, METH_NOARGS, cipher_doc},
    {"version", (PyCFunction)uvt_layer_version, METH_NOARGS, version_doc},
    {"selected_alpn_protocol", (PyCFunction)uvt_layer_alpn, METH_NOARGS, alpn_doc},
    {"close", (PyCFunction)(void (*)(void))layer_close, METH_FASTCALL, close_doc},
    {"__enter__", (PyCFunction)layer_enter, METH_NOARGS, enter_doc},
    {"__exit__", (PyCFunction)(void (*)(void))layer_exit, METH_FASTCALL, exit_doc},
    {NULL},
};

static PyMemberDef layer_members[] = {
    {"__dictoffset__", T_PYSSIZET, offsetof(UvtLayer, dict), READONLY},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(UvtLayer, weakrefs), READONLY},
    {NULL},
};

PyDoc_STRVAR(layer_doc,
"TLS(stream, context, server_side=False, server_hostname=None, session=None)\n"
"--\n\n"
"TLS over a connected TCP, Pipe or TTY handle, whose events it takes from then on:\n"
"the stream's own start_read() and write() raise RuntimeError.  What was written to\n"
"the stream before leaves first.  `context` is an ssl.SSLContext, which has the\n"
"certificates, ALPN and SNI; server_hostname and session (of an earlier connection)\n"
"are as for ssl.SSLContext.wrap_bio().  handshake() begins.\n\n"
"An error that a callback gets is a libuv number, below 0, or an exception.\n\n"
"Raises TypeError, ValueError and ssl.SSLError of the context, RuntimeError (the\n"
"stream is reading, or is a transport's), HandleClosedError, and TLSError (ENOTCONN:\n"
"not connected; EINVAL: it listens).");

static PyType_Slot layer_slots[] = {
    {Py_tp_doc, (void *)layer_doc},
    {Py_tp_new, layer_new},
    {Py_tp_init, layer_init},
    {Py_tp_traverse, layer_traverse},
    {Py_tp_clear, layer_clear},
    {Py_tp_dealloc, layer_dealloc},
    {Py_tp_repr, uvt_layer_repr},
    {Py_tp_methods, layer_methods},
    {Py_tp_getset, uvt_layer_getset},
    {Py_tp_members, layer_members},
    {0, NULL},
};

static PyType_Spec layer_spec = {
    .name = "uvtulip._uv.TLS",
    .basicsize = sizeof(UvtLayer),
    .flags = UVT_HANDLE_FLAGS,
    .slots = layer_slots,
};

static PyObject *
tls_backend(PyObject *module, PyObject *choice)
{
    return uvt_tls_choose_backend(&uvt_state(module)->tls, choice);
}

static PyMethodDef functions[] = {
    {"_tls_backend", tls_backend, METH_O,
     "_tls_backend($module, portable, /)\n--\n\n"
     "Choose the backend of new TLS handles, unless None; its name."},
    {NULL},
};

int
uvt_tls_setup(PyObject *module, UvtState *st)
{
    if (uvt_add_type(module, &st->tls_type, &layer_spec, NULL) < 0) {
        return -1;
    }
    return PyModule_AddFunctions(module, functions);
}
