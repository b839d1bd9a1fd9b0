/* uv.util: the environment of the process.  All functions run attached, which
 * keeps those of one interpreter apart, but not other threads of C libraries.
 */
#include "util.h"
#include "args.h"
#include "errors.h"

extern char **environ;

PyDoc_STRVAR(environ_doc,
"environ($module, /)\n--\n\n"
"The process's environment as a new dict of str.  os.environ is a copy that was\n"
"made when Python started; this one is not.  Raises UVError.");

static PyObject *
env_environ(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    PyObject *result;
    uv_env_item_t *items = NULL;
    int count = 0, rc = 0;
    if (environ != NULL && environ[0] != NULL) {
        rc = uv_os_environ(&items, &count);
    }
    if (rc < 0) {
        return uvt_raise(uvt_state(module), UVT_EXC_UV, rc, "uv_os_environ");
    }
    result = PyDict_New();
    for (int i = 0; result != NULL && i < count; i++) {
        PyObject *name = PyUnicode_DecodeFSDefault(items[i].name);
        PyObject *value = PyUnicode_DecodeFSDefault(items[i].value);
        if (name == NULL || value == NULL
            || PyDict_SetItem(result, name, value) < 0) {
            Py_CLEAR(result);
        }
        Py_XDECREF(name);
        Py_XDECREF(value);
    }
    if (items != NULL) {
        uv_os_free_environ(items, count);
    }
    return result;
}

static int
get_env(char *buffer, size_t *size, const void *name)
{
    return uv_os_getenv(name, buffer, size);
}

PyDoc_STRVAR(getenv_doc,
"getenv($module, name, default=None, /)\n--\n\n"
"A variable of the process's environment (str), or `default` when it is not\n"
"set.  Raises UVError.");

static PyObject *
env_getenv(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    UvtState *st = uvt_state(module);
    PyObject *name, *result;
    if (!uvt_args_count("getenv", nargs, 1, 2)
        || !PyUnicode_FSConverter(args[0], &name)) {
        return NULL;
    }
    result = uvt_os_text(st, "uv_os_getenv", get_env, PyBytes_AS_STRING(name));
    if (result == NULL && PyErr_ExceptionMatches(st->exc[UVT_EXC_UV])) {
        char byte;
        size_t size = 1;
        if (uv_os_getenv(PyBytes_AS_STRING(name), &byte, &size) == UV_ENOENT) {
            PyErr_Clear();
            result = Py_NewRef(nargs > 1 ? args[1] : Py_None);
        }
    }
    Py_DECREF(name);
    return result;
}

PyDoc_STRVAR(setenv_doc,
"setenv($module, name, value, /)\n--\n\n"
"Set a variable of the process's environment, for children and C libraries;\n"
"os.environ does not see it.  Other threads must not read the environment\n"
"meanwhile.  Raises UVError (EINVAL: no such name is possible).");

static PyObject *
env_setenv(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    PyObject *name, *value;
    int rc;
    if (!uvt_args_count("setenv", nargs, 2, 2)
        || !PyUnicode_FSConverter(args[0], &name)) {
        return NULL;
    }
    if (!PyUnicode_FSConverter(args[1], &value)) {
        Py_DECREF(name);
        return NULL;
    }
    if (PySys_Audit("os.putenv", "OO", name, value) < 0) {
        Py_DECREF(name);
        Py_DECREF(value);
        return NULL;
    }
    rc = uv_os_setenv(PyBytes_AS_STRING(name), PyBytes_AS_STRING(value));
    Py_DECREF(name);
    Py_DECREF(value);
    if (rc < 0) {
        return uvt_raise(uvt_state(module), UVT_EXC_UV, rc, "uv_os_setenv");
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(unsetenv_doc,
"unsetenv($module, name, /)\n--\n\n"
"Take a variable out of the process's environment; see setenv().  Raises\n"
"UVError (EINVAL: no such name is possible).");

static PyObject *
env_unsetenv(PyObject *module, PyObject *arg)
{
    PyObject *name;
    int rc;
    if (!PyUnicode_FSConverter(arg, &name)) {
        return NULL;
    }
    if (PySys_Audit("os.unsetenv", "(O)", name) < 0) {
        Py_DECREF(name);
        return NULL;
    }
    rc = uv_os_unsetenv(PyBytes_AS_STRING(name));
    Py_DECREF(name);
    if (rc < 0) {
        return uvt_raise(uvt_state(module), UVT_EXC_UV, rc, "uv_os_unsetenv");
    }
    Py_RETURN_NONE;
}

PyMethodDef uvt_os_env_functions[] = {
    {"environ", env_environ, METH_NOARGS, environ_doc},
    {"getenv", (PyCFunction)(void (*)(void))env_getenv, METH_FASTCALL,
     getenv_doc},
    {"setenv", (PyCFunction)(void (*)(void))env_setenv, METH_FASTCALL,
     setenv_doc},
    {"unsetenv", env_unsetenv, METH_O, unsetenv_doc},
    {NULL},
};
