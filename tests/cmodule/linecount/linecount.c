/* A client of uvtulip's C API: counts the lines of a TCP stream without a Python
 * object for what is read.  linecount.count(handle, done) takes over a connected
 * uv.TCP; at the end of the stream it closes the handle and, when that is done,
 * calls done(lines, bytes, errorno).
 *
 * A project of its own, as a user of the C API would have: it knows of uvtulip
 * no more than the installed header.  All functions run attached, on the thread of
 * the handle's loop.  The handle keeps the counter while it is consumed, and the
 * counter the handle until it is closed.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <string.h>
#include "uv_capi.h"

typedef struct {
    const UvtCAPI *uv;
    PyTypeObject *counter_type;
} State;

typedef struct {
    PyObject_HEAD
    const UvtCAPI *uv;
    PyObject *handle;       /* strong, until it is closed */
    PyObject *done;
    unsigned long long lines, bytes;
    ssize_t status;
} Counter;

static int
counter_traverse(Counter *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->handle);
    Py_VISIT(self->done);
    return 0;
}

static int
counter_clear(Counter *self)
{
    Py_CLEAR(self->handle);
    Py_CLEAR(self->done);
    return 0;
}

static void
counter_dealloc(Counter *self)
{
    PyTypeObject *tp = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    (void)counter_clear(self);
    tp->tp_free(self);
    Py_DECREF(tp);
}

static void
counter_read(PyObject *owner, ssize_t nread, const uv_buf_t *buf)
{
    Counter *self = (Counter *)owner;
    if (nread < 0) {
        self->status = nread;
        self->uv->close(self->handle);
        return;
    }
    self->bytes += (unsigned long long)nread;
    for (const char *p = buf->base, *end = p + nread;
         (p = memchr(p, '\n', (size_t)(end - p))) != NULL; p++) {
        self->lines++;
    }
}

static void
counter_closed(PyObject *owner)
{
    Counter *self = (Counter *)owner;
    PyObject *handle = self->handle, *done = self->done, *result;
    self->handle = NULL;
    self->done = NULL;
    result = PyObject_CallFunction(done, "KKn", self->lines, self->bytes,
                                   (Py_ssize_t)self->status);
    if (result == NULL) {
        PyErr_WriteUnraisable(done);
    }
    Py_XDECREF(result);
    Py_XDECREF(done);
    Py_XDECREF(handle);
}

static const UvtConsumer counter_consumer = {
    .read = counter_read,
    .closed = counter_closed,
};

static PyType_Slot counter_slots[] = {
    {Py_tp_traverse, counter_traverse},
    {Py_tp_clear, counter_clear},
    {Py_tp_dealloc, counter_dealloc},
    {0, NULL},
};

static PyType_Spec counter_spec = {
    .name = "linecount.Counter",
    .basicsize = sizeof(Counter),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = counter_slots,
};

static PyObject *
linecount_count(PyObject *module, PyObject *args)
{
    State *st = PyModule_GetState(module);
    PyObject *handle, *done;
    Counter *self;
    int rc;
    if (!PyArg_ParseTuple(args, "OO:count", &handle, &done)) {
        return NULL;
    }
    if (st->uv->handle_uv(handle, UV_TCP) == NULL) {
        return NULL;
    }
    self = PyObject_GC_New(Counter, st->counter_type);
    if (self == NULL) {
        return NULL;
    }
    self->uv = st->uv;
    self->handle = Py_NewRef(handle);
    self->done = Py_NewRef(done);
    self->lines = self->bytes = 0;
    self->status = 0;
    PyObject_GC_Track((PyObject *)self);
    if (st->uv->consume(handle, &counter_consumer, (PyObject *)self) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    rc = st->uv->read_start(handle);
    Py_DECREF(self);        /* the handle keeps it */
    if (rc < 0) {
        PyObject *exc = st->uv->oserror(rc, "uv_read_start");
        st->uv->release(handle);
        if (exc != NULL) {
            PyErr_SetObject((PyObject *)Py_TYPE(exc), exc);
            Py_DECREF(exc);
        }
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyMethodDef linecount_methods[] = {
    {"count", linecount_count, METH_VARARGS, "count(handle, done)"},
    {NULL},
};

static int
linecount_exec(PyObject *module)
{
    State *st = PyModule_GetState(module);
    st->uv = uvt_capi_import();
    if (st->uv == NULL) {
        return -1;
    }
    st->counter_type = (PyTypeObject *)PyType_FromModuleAndSpec(
        module, &counter_spec, NULL);
    return st->counter_type != NULL ? 0 : -1;
}

static int
linecount_traverse(PyObject *module, visitproc visit, void *arg)
{
    State *st = PyModule_GetState(module);
    Py_VISIT(st->counter_type);
    return 0;
}

static int
linecount_clear(PyObject *module)
{
    State *st = PyModule_GetState(module);
    Py_CLEAR(st->counter_type);
    return 0;
}

static PyModuleDef_Slot linecount_slots[] = {
    {Py_mod_exec, linecount_exec},
    {0, NULL},
};

static struct PyModuleDef linecount_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "linecount",
    .m_size = sizeof(State),
    .m_methods = linecount_methods,
    .m_slots = linecount_slots,
    .m_traverse = linecount_traverse,
    .m_clear = linecount_clear,
};

PyMODINIT_FUNC
PyInit_linecount(void)
{
    return PyModuleDef_Init(&linecount_module);
}
