/* The constants of the module, and its submodule `errno` with libuv's error
 * numbers, their names and texts.  Everything runs attached; setup runs once
 * for each interpreter that imports the module.  The modules own the objects.
 */
#include "args.h"
#include "errors.h"

#include <limits.h>

#ifndef UVT_VERSION
#error "the build defines UVT_VERSION"
#endif

typedef struct {
    const char *name;
    int value;
} Constant;

#define CONSTANT(name) {#name, name}

static const Constant constants[] = {
    /* Modes of Loop.run() and options of Loop.configure(). */
    CONSTANT(UV_RUN_DEFAULT),
    CONSTANT(UV_RUN_ONCE),
    CONSTANT(UV_RUN_NOWAIT),
    CONSTANT(UV_LOOP_BLOCK_SIGNAL),
    CONSTANT(UV_METRICS_IDLE_TIME),
#if UV_VERSION_HEX >= 0x013100
    CONSTANT(UV_LOOP_USE_IO_URING_SQPOLL),
#endif
    /* What Handle.type tells. */
    CONSTANT(UV_UNKNOWN_HANDLE),
    CONSTANT(UV_ASYNC),
    CONSTANT(UV_CHECK),
    CONSTANT(UV_FS_EVENT),
    CONSTANT(UV_FS_POLL),
    CONSTANT(UV_FILE),
    CONSTANT(UV_HANDLE),
    CONSTANT(UV_IDLE),
    CONSTANT(UV_NAMED_PIPE),
    CONSTANT(UV_POLL),
    CONSTANT(UV_PREPARE),
    CONSTANT(UV_PROCESS),
    CONSTANT(UV_STREAM),
    CONSTANT(UV_TCP),
    CONSTANT(UV_TIMER),
    CONSTANT(UV_TTY),
    CONSTANT(UV_UDP),
    CONSTANT(UV_SIGNAL),
    /* TCP and UDP. */
    CONSTANT(UV_TCP_IPV6ONLY),
#if UV_VERSION_HEX >= 0x013100
    CONSTANT(UV_TCP_REUSEPORT),
#endif
    CONSTANT(UV_UDP_IPV6ONLY),
    CONSTANT(UV_UDP_PARTIAL),
    CONSTANT(UV_UDP_REUSEADDR),
    CONSTANT(UV_UDP_MMSG_CHUNK),
    CONSTANT(UV_UDP_MMSG_FREE),
    CONSTANT(UV_UDP_LINUX_RECVERR),
#if UV_VERSION_HEX >= 0x013100
    CONSTANT(UV_UDP_REUSEPORT),
#endif
    CONSTANT(UV_UDP_RECVMMSG),
    CONSTANT(UV_LEAVE_GROUP),
    CONSTANT(UV_JOIN_GROUP),
    /* Poll, and Pipe.chmod(). */
    CONSTANT(UV_READABLE),
    CONSTANT(UV_WRITABLE),
    CONSTANT(UV_DISCONNECT),
    CONSTANT(UV_PRIORITIZED),
    /* Pipe and TTY. */
#if UV_VERSION_HEX >= 0x012E00
    CONSTANT(UV_PIPE_NO_TRUNCATE),
#endif
    CONSTANT(UV_TTY_MODE_NORMAL),
    CONSTANT(UV_TTY_MODE_RAW),
    CONSTANT(UV_TTY_MODE_IO),
#if UV_VERSION_HEX >= 0x013300
    CONSTANT(UV_TTY_MODE_RAW_VT),
#endif
    CONSTANT(UV_TTY_SUPPORTED),
    CONSTANT(UV_TTY_UNSUPPORTED),
    /* Process and StdIO. */
    CONSTANT(UV_PROCESS_SETUID),
    CONSTANT(UV_PROCESS_SETGID),
    CONSTANT(UV_PROCESS_WINDOWS_VERBATIM_ARGUMENTS),
    CONSTANT(UV_PROCESS_DETACHED),
    CONSTANT(UV_PROCESS_WINDOWS_HIDE),
    CONSTANT(UV_PROCESS_WINDOWS_HIDE_CONSOLE),
    CONSTANT(UV_PROCESS_WINDOWS_HIDE_GUI),
#if UV_VERSION_HEX >= 0x013000
    CONSTANT(UV_PROCESS_WINDOWS_FILE_PATH_EXACT_NAME),
#endif
    CONSTANT(UV_IGNORE),
    CONSTANT(UV_CREATE_PIPE),
    CONSTANT(UV_INHERIT_FD),
    CONSTANT(UV_INHERIT_STREAM),
    CONSTANT(UV_READABLE_PIPE),
    CONSTANT(UV_WRITABLE_PIPE),
    CONSTANT(UV_NONBLOCK_PIPE),
};

static const Constant errors[] = {
#define ERROR_CONSTANT(name, _) {"UV_" #name, UV_##name},
    UV_ERRNO_MAP(ERROR_CONSTANT)
#undef ERROR_CONSTANT
};

/* ---- errno ---- */

PyDoc_STRVAR(strerror_doc,
"strerror($module, code, /)\n--\n\n"
"The text for one of libuv's negative error numbers.");

static PyObject *
errno_strerror(PyObject *Py_UNUSED(module), PyObject *arg)
{
    char text[128];
    int code;
    if (!uvt_arg_int("strerror", "code", arg, INT_MIN, INT_MAX, &code)) {
        return NULL;
    }
    return PyUnicode_FromString(uv_strerror_r(code, text, sizeof(text)));
}

PyDoc_STRVAR(err_name_doc,
"err_name($module, code, /)\n--\n\n"
"The name for one of libuv's negative error numbers, without UV_.");

static PyObject *
errno_err_name(PyObject *Py_UNUSED(module), PyObject *arg)
{
    char name[64];
    int code;
    if (!uvt_arg_int("err_name", "code", arg, INT_MIN, INT_MAX, &code)) {
        return NULL;
    }
    return PyUnicode_FromString(uv_err_name_r(code, name, sizeof(name)));
}

static PyMethodDef errno_functions[] = {
    {"strerror", errno_strerror, METH_O, strerror_doc},
    {"err_name", errno_err_name, METH_O, err_name_doc},
    {NULL},
};

static int
add_errors(PyObject *submodule, PyObject *errorcode)
{
    size_t i;
    for (i = 0; i < Py_ARRAY_LENGTH(errors); i++) {
        int failed;
        PyObject *code = PyLong_FromLong(errors[i].value);
        PyObject *name = PyUnicode_InternFromString(errors[i].name);
        failed = code == NULL || name == NULL
            || PyModule_AddObjectRef(submodule, errors[i].name, code) < 0
            || PyDict_SetItem(errorcode, code, name) < 0;
        Py_XDECREF(code);
        Py_XDECREF(name);
        if (failed) {
            return -1;
        }
    }
    return PyModule_AddObjectRef(submodule, "errorcode", errorcode);
}

static int
add_errno(PyObject *module)
{
    int rc = -1;
    PyObject *errorcode = PyDict_New();
    PyObject *submodule = uvt_add_submodule(
        module, "errno", "The error numbers of libuv, all below 0.");
    if (errorcode != NULL && submodule != NULL
        && PyModule_AddFunctions(submodule, errno_functions) == 0) {
        rc = add_errors(submodule, errorcode);
    }
    Py_XDECREF(errorcode);
    Py_XDECREF(submodule);
    return rc;
}

/* ---- setup ---- */

static int
add_versions(PyObject *module)
{
    unsigned version = uv_version();
    int rc;
    PyObject *info = Py_BuildValue("(III)", version >> 16, (version >> 8) & 0xFF,
                                   version & 0xFF);
    if (info == NULL) {
        return -1;
    }
    rc = PyModule_AddObjectRef(module, "LIBUV_VERSION_INFO", info);
    Py_DECREF(info);
    if (rc < 0) {
        return -1;
    }
    if (PyModule_AddStringConstant(module, "LIBUV_VERSION",
                                   uv_version_string()) < 0) {
        return -1;
    }
    return PyModule_AddStringConstant(module, "__version__", UVT_VERSION);
}

int
uvt_constants_setup(PyObject *module)
{
    size_t i;
    for (i = 0; i < Py_ARRAY_LENGTH(constants); i++) {
        if (PyModule_AddIntConstant(module, constants[i].name,
                                    constants[i].value) < 0) {
            return -1;
        }
    }
    if (add_errno(module) < 0) {
        return -1;
    }
    return add_versions(module);
}
