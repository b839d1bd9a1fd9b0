/* A client of uvtulip's C API that receives datagrams by itself: one of each
 * announcement, which it hands to a Python callback as bytes.  Built by
 * test_cmodule.py against the installed header.
 *
 *     handle = udpreader.new(loop)     # uv.UDP
 *     udpreader.read(handle, callback)
 *     udpreader.start(handle), udpreader.stop(handle)
 *     udpreader.release(handle)        # Python's again
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <sys/socket.h>
#include "uv_capi.h"

typedef struct {
    const UvtCAPI *uv;
} State;

/* The owner that the handle keeps is the tuple (handle, loop, callback). */
static void
on_readable(PyObject *owner)
{
    PyObject *handle = PyTuple_GET_ITEM(owner, 0);
    PyObject *callback = PyTuple_GET_ITEM(owner, 2), *result;
    const UvtCAPI *uv = PyCapsule_Import(UVT_CAPI_NAME, 0);
    uv_handle_t *raw = uv->handle_uv(handle, UV_UDP);
    char data[2048];
    ssize_t size = -1;
    int fd;
    if (raw != NULL && uv_fileno(raw, &fd) == 0) {
        size = recv(fd, data, sizeof(data), 0);
    }
    if (size < 0) {
        PyErr_Clear();
        return;
    }
    result = PyObject_CallFunction(callback, "y#", data, (Py_ssize_t)size);
    if (result == NULL) {
        uv->loop_report(PyTuple_GET_ITEM(owner, 1), handle);
    }
    Py_XDECREF(result);
}

static const UvtConsumer reader = {
    .readable = on_readable,
};

static PyObject *
udpreader_new(PyObject *module, PyObject *loop)
{
    State *st = PyModule_GetState(module);
    return st->uv->udp_new(loop, AF_UNSPEC);
}

static PyObject *
udpreader_start(PyObject *module, PyObject *handle)
{
    State *st = PyModule_GetState(module);
    return PyLong_FromLong(st->uv->udp_recv_start(handle));
}

static PyObject *
udpreader_stop(PyObject *module, PyObject *handle)
{
    State *st = PyModule_GetState(module);
    st->uv->udp_recv_stop(handle);
    Py_RETURN_NONE;
}

static PyObject *
udpreader_release(PyObject *module, PyObject *handle)
{
    State *st = PyModule_GetState(module);
    st->uv->release(handle);
    Py_RETURN_NONE;
}

static PyObject *
udpreader_read(PyObject *module, PyObject *args)
{
    State *st = PyModule_GetState(module);
    PyObject *handle, *loop, *callback, *owner;
    int rc;
    if (!PyArg_ParseTuple(args, "OO:read", &handle, &callback)
        || st->uv->handle_uv(handle, UV_UDP) == NULL) {
        return NULL;
    }
    loop = PyObject_GetAttrString(handle, "loop");
    if (loop == NULL) {
        return NULL;
    }
    owner = PyTuple_Pack(3, handle, loop, callback);
    Py_DECREF(loop);
    rc = owner == NULL ? -1 : st->uv->consume(handle, &reader, owner);
    Py_XDECREF(owner);
    return rc < 0 ? NULL : udpreader_start(module, handle);
}

static PyMethodDef udpreader_methods[] = {
    {"new", udpreader_new, METH_O, "new(loop)"},
    {"read", udpreader_read, METH_VARARGS, "read(handle, callback)"},
    {"start", udpreader_start, METH_O, "start(handle)"},
    {"stop", udpreader_stop, METH_O, "stop(handle)"},
    {"release", udpreader_release, METH_O, "release(handle)"},
    {NULL},
};

static int
udpreader_exec(PyObject *module)
{
    State *st = PyModule_GetState(module);
    st->uv = uvt_capi_import();
    return st->uv != NULL ? 0 : -1;
}

static PyModuleDef_Slot udpreader_slots[] = {
    {Py_mod_exec, udpreader_exec},
    {0, NULL},
};

static struct PyModuleDef udpreader_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "udpreader",
    .m_size = sizeof(State),
    .m_methods = udpreader_methods,
    .m_slots = udpreader_slots,
};

PyMODINIT_FUNC
PyInit_udpreader(void)
{
    return PyModuleDef_Init(&udpreader_module);
}
