/* The exception classes, and how a libuv status becomes one of them.  All
 * functions run attached, on any thread, and touch no libuv handle.  The module
 * state owns the classes.
 *
 * The number and its name are read out of `args`, so that an exception that
 * was copied, unpickled or made by hand tells the same as a raised one.
 */
#include "errors.h"

#include <limits.h>
#include <string.h>

/* Statuses above this one are the system's errno, negated; from here downwards
 * are numbers that libuv made up (UV_EAI_*, UV_EOF, what a system lacks). */
#define FIRST_MADE_UP (-3000)

/* Longest text of libuv, with room for those to come. */
#define TEXT_SIZE 128

#define ERROR(name) "uvtulip._uv.error." name

static const struct {
    UvtExc kind;
    UvtExc base;                /* itself: OSError */
    const char *name;
    const char *doc;
} classes[UVT_EXC_COUNT] = {
    {UVT_EXC_UV, UVT_EXC_UV, ERROR("UVError"),
     "A libuv function failed.\n\n"
     "args is (libuv's negative number, text); errno is the system's positive\n"
     "number, or libuv's own where the system has none, as for UV_EOF; name is\n"
     "the error's name without UV_, and call the libuv function."},
    {UVT_EXC_THREAD, UVT_EXC_UV, ERROR("ThreadError"),
     "A thread primitive failed."},
    {UVT_EXC_FS, UVT_EXC_UV, ERROR("FSError"),
     "A file system operation failed."},
    {UVT_EXC_HANDLE, UVT_EXC_UV, ERROR("HandleError"),
     "A handle's operation failed."},
    {UVT_EXC_CLOSED, UVT_EXC_HANDLE, ERROR("HandleClosedError"),
     "The handle is closed or closing."},
    {UVT_EXC_ASYNC, UVT_EXC_HANDLE, ERROR("AsyncError"), "An Async failed."},
    {UVT_EXC_CHECK, UVT_EXC_HANDLE, ERROR("CheckError"), "A Check failed."},
    {UVT_EXC_FSEVENT, UVT_EXC_HANDLE, ERROR("FSEventError"),
     "An FSEvent failed."},
    {UVT_EXC_FSPOLL, UVT_EXC_HANDLE, ERROR("FSPollError"), "An FSPoll failed."},
    {UVT_EXC_IDLE, UVT_EXC_HANDLE, ERROR("IdleError"), "An Idle failed."},
    {UVT_EXC_POLL, UVT_EXC_HANDLE, ERROR("PollError"), "A Poll failed."},
    {UVT_EXC_PREPARE, UVT_EXC_HANDLE, ERROR("PrepareError"),
     "A Prepare failed."},
    {UVT_EXC_PROCESS, UVT_EXC_HANDLE, ERROR("ProcessError"),
     "A Process failed."},
    {UVT_EXC_SIGNAL, UVT_EXC_HANDLE, ERROR("SignalError"), "A Signal failed."},
    {UVT_EXC_TIMER, UVT_EXC_HANDLE, ERROR("TimerError"), "A Timer failed."},
    {UVT_EXC_UDP, UVT_EXC_HANDLE, ERROR("UDPError"), "A UDP handle failed."},
    {UVT_EXC_STREAM, UVT_EXC_HANDLE, ERROR("StreamError"), "A stream failed."},
    {UVT_EXC_TCP, UVT_EXC_STREAM, ERROR("TCPError"), "A TCP handle failed."},
    {UVT_EXC_PIPE, UVT_EXC_STREAM, ERROR("PipeError"), "A Pipe failed."},
    {UVT_EXC_TTY, UVT_EXC_STREAM, ERROR("TTYError"), "A TTY failed."},
    {UVT_EXC_TLS, UVT_EXC_STREAM, ERROR("TLSError"),
     "A TLS, or the stream below it, failed.  What TLS itself finds wrong is an\n"
     "ssl.SSLError instead."},
};

/* NULL for a number that libuv has no name for. */
static const char *
error_name(int rc)
{
    switch (rc) {
#define ERROR_NAME(name, _) case UV_##name: return #name;
        UV_ERRNO_MAP(ERROR_NAME)
#undef ERROR_NAME
        default:
            return NULL;
    }
}

/* ---- methods and attributes of UVError ---- */

/* 1: *rc is the libuv status in args[0]; 0: there is none; -1: error. */
static int
status_of(PyObject *exc, int *rc)
{
    int overflow, found = 0;
    PyObject *args = PyObject_GetAttrString(exc, "args");
    if (args == NULL) {
        return -1;
    }
    if (PyTuple_Check(args) && PyTuple_GET_SIZE(args) >= 2
        && PyLong_Check(PyTuple_GET_ITEM(args, 0))) {
        long value = PyLong_AsLongAndOverflow(PyTuple_GET_ITEM(args, 0),
                                              &overflow);
        if (!overflow && value < 0 && value >= INT_MIN) {
            *rc = (int)value;
            found = 1;
        }
    }
    Py_DECREF(args);
    return found;
}

static PyObject *
error_get_errno(PyObject *self, void *Py_UNUSED(closure))
{
    int rc, found = status_of(self, &rc);
    if (found < 0) {
        return NULL;
    }
    if (found == 0) {
        Py_RETURN_NONE;
    }
    return PyLong_FromLong(rc > FIRST_MADE_UP ? -rc : rc);
}

static PyObject *
error_get_name(PyObject *self, void *Py_UNUSED(closure))
{
    const char *name;
    int rc, found = status_of(self, &rc);
    if (found < 0) {
        return NULL;
    }
    name = found ? error_name(rc) : NULL;
    if (name == NULL) {
        Py_RETURN_NONE;
    }
    return PyUnicode_FromString(name);
}

static PyObject *
error_str(PyObject *self)
{
    PyObject *call = NULL, *text = NULL, *result = NULL;
    const char *name;
    int rc, found = status_of(self, &rc);
    if (found < 0) {
        return NULL;
    }
    if (found == 0) {
        return ((PyTypeObject *)PyExc_OSError)->tp_str(self);
    }
    call = PyObject_GetAttrString(self, "call");
    text = PyObject_GetAttrString(self, "strerror");
    if (call != NULL && text != NULL) {
        name = error_name(rc);
        result = PyUnicode_FromFormat(
            "%V%s%S%s%s%s", call == Py_None ? NULL : call, "",
            call == Py_None ? "" : ": ", text, name == NULL ? "" : " (",
            name == NULL ? "" : name, name == NULL ? "" : ")");
    }
    Py_XDECREF(call);
    Py_XDECREF(text);
    return result;
}

static int
error_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    return ((PyTypeObject *)PyExc_OSError)->tp_traverse(self, visit, arg);
}

static int
error_clear(PyObject *self)
{
    return ((PyTypeObject *)PyExc_OSError)->tp_clear(self);
}

static PyGetSetDef error_getset[] = {
    {"errno", error_get_errno, NULL,
     "The system's errno, or libuv's number where the system has none.", NULL},
    {"name", error_get_name, NULL,
     "The error's name, as 'ECONNREFUSED'; None for an unknown one.", NULL},
    {NULL},
};

/* ---- for the other files ---- */

PyObject *
uvt_raise(UvtState *st, UvtExc kind, int rc, const char *call)
{
    char text[TEXT_SIZE];
    PyObject *call_obj;
    PyObject *exc = PyObject_CallFunction(
        st->exc[kind], "is", rc, uv_strerror_r(rc, text, sizeof(text)));
    if (exc == NULL) {
        return NULL;
    }
    call_obj = PyUnicode_FromString(call);
    if (call_obj != NULL && PyObject_SetAttrString(exc, "call", call_obj) == 0) {
        PyErr_SetObject((PyObject *)Py_TYPE(exc), exc);
    }
    Py_XDECREF(call_obj);
    Py_DECREF(exc);
    return NULL;
}

PyObject *
uvt_oserror(int rc, const char *call)
{
    char text[TEXT_SIZE];
    PyObject *exc;
    PyObject *message;
    if (rc > FIRST_MADE_UP) {   /* as a socket's own method raises it */
        message = PyUnicode_DecodeLocale(strerror(-rc), "surrogateescape");
        rc = -rc;
    }
    else {
        message = PyUnicode_FromFormat("%s: %s", call,
                                       uv_strerror_r(rc, text, sizeof(text)));
    }
    if (message == NULL) {
        return NULL;
    }
    exc = PyObject_CallFunction(PyExc_OSError, "iO", rc, message);
    Py_DECREF(message);
    return exc;
}

PyObject *
uvt_errorno(int rc)
{
    if (rc >= 0) {
        Py_RETURN_NONE;
    }
    return PyLong_FromLong(rc);
}

PyObject *
uvt_add_submodule(PyObject *module, const char *name, const char *doc)
{
    PyObject *full_name, *submodule = NULL;
    const char *parent = PyModule_GetName(module);
    if (parent == NULL) {
        return NULL;
    }
    full_name = PyUnicode_FromFormat("%s.%s", parent, name);
    if (full_name == NULL) {
        return NULL;
    }
    submodule = PyModule_NewObject(full_name);
    if (submodule == NULL
        || PyModule_SetDocString(submodule, doc) < 0
        || PyObject_SetItem(PyImport_GetModuleDict(), full_name, submodule) < 0
        || PyModule_AddObjectRef(module, name, submodule) < 0) {
        Py_CLEAR(submodule);
    }
    Py_DECREF(full_name);
    return submodule;
}

int
uvt_add_to_submodule(PyObject *module, const char *name, PyTypeObject *type)
{
    PyObject *submodule = PyObject_GetAttrString(module, name);
    int rc;
    if (submodule == NULL) {
        return -1;
    }
    rc = PyModule_AddType(submodule, type);
    Py_DECREF(submodule);
    return rc;
}

int
uvt_add_functions(PyObject *submodule, PyObject *module, PyMethodDef *functions)
{
    PyObject *name = PyModule_GetNameObject(submodule);
    int rc = 0;
    if (name == NULL) {
        return -1;
    }
    for (PyMethodDef *def = functions; def->ml_name != NULL && rc == 0; def++) {
        PyObject *function = PyCFunction_NewEx(def, module, name);
        rc = function != NULL
            ? PyModule_AddObjectRef(submodule, def->ml_name, function) : -1;
        Py_XDECREF(function);
    }
    Py_DECREF(name);
    return rc;
}

/* ---- setup ---- */

static PyObject *
new_class(PyObject *module, UvtState *st, size_t i)
{
    PyType_Slot slots[] = {
        {Py_tp_doc, (void *)classes[i].doc},
        /* What only the root of the classes has; the others inherit it. */
        {Py_tp_str, error_str},
        {Py_tp_traverse, error_traverse},
        {Py_tp_clear, error_clear},
        {Py_tp_getset, error_getset},
        {0, NULL},
    };
    PyType_Spec spec = {
        .name = classes[i].name,
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
        .slots = slots,
    };
    if (classes[i].base != classes[i].kind) {
        slots[1].slot = 0;
        return PyType_FromModuleAndSpec(module, &spec, st->exc[classes[i].base]);
    }
    spec.flags |= Py_TPFLAGS_HAVE_GC;
    return PyType_FromModuleAndSpec(module, &spec, PyExc_OSError);
}

/* Not a class statement's way, type(): that takes five times as long. */
static int
add_class(PyObject *module, PyObject *submodule, UvtState *st, size_t i)
{
    PyObject *exc = new_class(module, st, i);
    if (exc == NULL) {
        return -1;
    }
    Py_XSETREF(st->exc[classes[i].kind], exc);
    if (classes[i].kind == UVT_EXC_UV
        && PyObject_SetAttrString(exc, "call", Py_None) < 0) {
        return -1;
    }
    return PyModule_AddType(submodule, (PyTypeObject *)exc);
}

int
uvt_errors_setup(PyObject *module, UvtState *st)
{
    size_t i;
    PyObject *submodule = uvt_add_submodule(
        module, "error", "The exceptions of the raw libuv handles.");
    if (submodule == NULL) {
        return -1;
    }
    for (i = 0; i < UVT_EXC_COUNT; i++) {
        if (add_class(module, submodule, st, i) < 0) {
            Py_DECREF(submodule);
            return -1;
        }
    }
    Py_DECREF(submodule);
    return 0;
}
