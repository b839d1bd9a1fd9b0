/* The arguments of methods that take keywords, where they are not just in the
 * order of the quick way.  All functions run attached.  What they return is
 * borrowed from the caller's arguments.
 */
#include "eventloop.h"
#include <string.h>

static bool
is_named(PyObject *name, const char *expected)
{
    return PyUnicode_CompareWithASCIIString(name, expected) == 0;
}

bool
tulip_bind_slow(const char *method, const char *first_name,
                PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
                TulipCall *call)
{
    Py_ssize_t used = 0;
    Py_ssize_t nkw = kwnames != NULL ? PyTuple_GET_SIZE(kwnames) : 0;
    memset(call, 0, sizeof(*call));
    if (first_name != NULL && nargs > used) {
        call->first = args[used++];
    }
    if (nargs > used) {
        call->callable = args[used++];
    }
    call->args = args + used;
    call->nargs = nargs - used;
    for (Py_ssize_t i = 0; i < nkw; i++) {
        PyObject *name = PyTuple_GET_ITEM(kwnames, i), **slot = NULL;
        if (is_named(name, "context")) {
            slot = &call->context;
        }
        else if (is_named(name, "callback")) {
            slot = &call->callable;
        }
        else if (first_name != NULL && is_named(name, first_name)) {
            slot = &call->first;
        }
        if (slot == NULL || *slot != NULL) {
            PyErr_Format(PyExc_TypeError,
                         slot == NULL
                         ? "%s() got an unexpected keyword argument '%U'"
                         : "%s() got multiple values for argument '%U'",
                         method, name);
            return false;
        }
        *slot = args[nargs + i];
    }
    if (call->context == Py_None) {
        call->context = NULL;
    }
    if (call->callable == NULL || (first_name != NULL && call->first == NULL)) {
        PyErr_Format(PyExc_TypeError,
                     "%s() missing required argument: '%s'", method,
                     call->callable == NULL ? "callback" : first_name);
        return false;
    }
    return true;
}

PyObject *
tulip_only_arg_slow(const char *method, const char *name, PyObject *const *args,
                    Py_ssize_t nargs, PyObject *kwnames)
{
    Py_ssize_t nkw = kwnames != NULL ? PyTuple_GET_SIZE(kwnames) : 0;
    if (nargs + nkw != 1) {
        PyErr_Format(PyExc_TypeError, "%s() takes exactly one argument (%zd given)",
                     method, nargs + nkw);
        return NULL;
    }
    if (nkw == 1 && !is_named(PyTuple_GET_ITEM(kwnames, 0), name)) {
        PyErr_Format(PyExc_TypeError,
                     "%s() got an unexpected keyword argument '%U'", method,
                     PyTuple_GET_ITEM(kwnames, 0));
        return NULL;
    }
    return args[0];
}

/* ---- descriptors ---- */

int
tulip_parse_fd(PyObject *arg, bool closed, int *fd, PyObject **fileobj)
{
    PyObject *number;
    int overflow = 0;
    long value;

    *fileobj = NULL;
    if (PyLong_Check(arg)) {
        number = Py_NewRef(arg);
    }
    else {
        PyObject *given = PyObject_CallMethod(arg, "fileno", NULL);
        number = given != NULL ? PyNumber_Long(given) : NULL;
        Py_XDECREF(given);
        *fileobj = arg;
    }
    if (number == NULL) {
        if (PyErr_ExceptionMatches(PyExc_AttributeError)
            || PyErr_ExceptionMatches(PyExc_TypeError)
            || PyErr_ExceptionMatches(PyExc_ValueError)) {
            PyErr_Clear();
            PyErr_Format(PyExc_ValueError, "Invalid file object: %R", arg);
        }
        return -1;
    }
    value = PyLong_AsLongAndOverflow(number, &overflow);
    Py_DECREF(number);
    if (value == -1 && overflow == 0 && PyErr_Occurred()) {
        return -1;
    }
    if (overflow != 0 || value > INT_MAX || (value < 0 && (!closed || *fileobj == NULL))) {
        PyErr_Format(PyExc_ValueError, "Invalid file descriptor: %R", arg);
        return -1;
    }
    *fd = value < 0 ? -1 : (int)value;
    return 0;
}
