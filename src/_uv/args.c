/* Checks of arguments for METH_FASTCALL functions.  They run attached, on any
 * thread, before libuv is called, and keep no reference.  What they hand out
 * is borrowed from the caller's arguments.
 */
#include "args.h"

#include <float.h>
#include <limits.h>
#include <math.h>
#include <string.h>

static const char *
plural(Py_ssize_t count)
{
    return count == 1 ? "" : "s";
}

bool
uvt_args_count(const char *call, Py_ssize_t nargs, Py_ssize_t min,
               Py_ssize_t max)
{
    const char *bound = min == max ? "exactly" : nargs < min ? "at least"
                                                             : "at most";
    Py_ssize_t limit = nargs < min ? min : max;
    if (nargs >= min && nargs <= max) {
        return true;
    }
    PyErr_Format(PyExc_TypeError,
                 "%s() takes %s %zd positional argument%s (%zd given)",
                 call, bound, limit, plural(limit), nargs);
    return false;
}

/* The place of a keyword in names[], or -1. */
static int
find_name(PyObject *key, const char *const *names, int count)
{
    int i;
    for (i = 0; i < count; i++) {
        if (PyUnicode_CompareWithASCIIString(key, names[i]) == 0) {
            return i;
        }
    }
    return -1;
}

static bool
bind_keywords(const char *call, PyObject *const *values, PyObject *kwnames,
              const char *const *names, int count, PyObject **out)
{
    Py_ssize_t i, nkw = PyTuple_GET_SIZE(kwnames);
    for (i = 0; i < nkw; i++) {
        PyObject *key = PyTuple_GET_ITEM(kwnames, i);    /* borrowed */
        int place = find_name(key, names, count);
        if (place < 0) {
            PyErr_Format(PyExc_TypeError,
                         "%s() got an unexpected keyword argument '%U'", call,
                         key);
            return false;
        }
        if (out[place] != NULL) {
            PyErr_Format(PyExc_TypeError,
                         "%s() got multiple values for argument '%s'", call,
                         names[place]);
            return false;
        }
        out[place] = values[i];
    }
    return true;
}

bool
uvt_args_bind(const char *call, PyObject *const *args, Py_ssize_t nargs,
              PyObject *kwnames, const char *const *names, int count,
              int required, PyObject **out)
{
    int i;
    if (nargs > count) {
        return uvt_args_count(call, nargs, required, count);
    }
    for (i = 0; i < count; i++) {
        out[i] = i < nargs ? args[i] : NULL;
    }
    if (kwnames != NULL
        && !bind_keywords(call, args + nargs, kwnames, names, count, out)) {
        return false;
    }
    for (i = (int)nargs; i < required; i++) {
        if (out[i] == NULL) {
            PyErr_Format(PyExc_TypeError,
                         "%s() missing required argument: '%s'", call,
                         names[i]);
            return false;
        }
    }
    return true;
}

bool
uvt_arg_callable(const char *call, PyObject *arg)
{
    if (PyCallable_Check(arg)) {
        return true;
    }
    PyErr_Format(PyExc_TypeError, "%s(): the callback must be callable, not %.200s",
                 call, Py_TYPE(arg)->tp_name);
    return false;
}

bool
uvt_arg_callback(const char *call, PyObject *arg, PyObject **out)
{
    *out = NULL;
    if (arg == NULL || arg == Py_None) {
        return true;
    }
    if (!PyCallable_Check(arg)) {
        PyErr_Format(PyExc_TypeError,
                     "%s(): the callback must be callable or None, not %.200s",
                     call, Py_TYPE(arg)->tp_name);
        return false;
    }
    *out = arg;
    return true;
}

bool
uvt_arg_int(const char *call, const char *name, PyObject *arg, long min,
            long max, int *out)
{
    PyObject *number;
    long value;
    int overflow;
    if (!PyIndex_Check(arg)) {
        PyErr_Format(PyExc_TypeError, "%s(): '%s' must be an int, not %.200s",
                     call, name, Py_TYPE(arg)->tp_name);
        return false;
    }
    number = PyNumber_Index(arg);
    if (number == NULL) {
        return false;
    }
    value = PyLong_AsLongAndOverflow(number, &overflow);
    if (overflow || value < min || value > max) {
        PyErr_Format(PyExc_ValueError,
                     "%s(): '%s' must be between %ld and %ld, not %R", call,
                     name, min, max, number);
        Py_DECREF(number);
        return false;
    }
    Py_DECREF(number);
    *out = (int)value;
    return true;
}

bool
uvt_arg_bool(PyObject *arg, int *out)
{
    *out = PyObject_IsTrue(arg);
    return *out >= 0;
}

/* Whole milliseconds, never fewer than asked for.  A product that lies above
 * an integer by no more than its own rounding error counts as that integer:
 * else 0.0301 * 1000 and its like would cost a millisecond. */
static uint64_t
milliseconds(double seconds)
{
    double ms = seconds * 1000.0;
    uint64_t whole;
    if (ms >= (double)INT64_MAX) {
        return INT64_MAX;
    }
    whole = (uint64_t)ms;
    if (ms - (double)whole > (double)whole * DBL_EPSILON) {
        whole++;
    }
    return whole;
}

bool
uvt_arg_seconds(const char *call, const char *name, PyObject *arg,
                uint64_t *ms)
{
    double seconds;
    PyNumberMethods *as_number = Py_TYPE(arg)->tp_as_number;
    if (as_number == NULL
        || (as_number->nb_float == NULL && as_number->nb_index == NULL)) {
        PyErr_Format(PyExc_TypeError,
                     "%s(): '%s' must be a number of seconds, not %.200s", call,
                     name, Py_TYPE(arg)->tp_name);
        return false;
    }
    seconds = PyFloat_AsDouble(arg);
    if (seconds == -1.0 && PyErr_Occurred()) {
        if (!PyErr_ExceptionMatches(PyExc_OverflowError)) {
            return false;
        }
        PyErr_Clear();
        seconds = HUGE_VAL;
    }
    if (!isfinite(seconds) || seconds < 0.0) {
        PyErr_Format(PyExc_ValueError,
                     "%s(): '%s' must be a finite number of seconds, 0 or more",
                     call, name);
        return false;
    }
    *ms = milliseconds(seconds);
    return true;
}

PyObject *
uvt_arg_path(const char *call, const char *what, PyObject *arg)
{
    PyObject *path, *bytes;
    path = PyOS_FSPath(arg);
    if (path == NULL) {
        if (PyErr_ExceptionMatches(PyExc_TypeError)) {
            PyErr_Clear();
            PyErr_Format(PyExc_TypeError,
                         "%s(): %s must be str, bytes or os.PathLike, not "
                         "%.200s", call, what, Py_TYPE(arg)->tp_name);
        }
        return NULL;
    }
    bytes = PyUnicode_Check(path) ? PyUnicode_EncodeFSDefault(path)
                                  : Py_NewRef(path);
    Py_DECREF(path);
    if (bytes != NULL
        && strlen(PyBytes_AS_STRING(bytes)) != (size_t)PyBytes_GET_SIZE(bytes)) {
        PyErr_Format(PyExc_ValueError, "%s(): %s has a NUL in it", call, what);
        Py_CLEAR(bytes);
    }
    return bytes;
}

bool
uvt_arg_fd(const char *call, PyObject *arg, int *fd)
{
    PyObject *name, *method, *number;
    bool ok;
    int found;
    if (PyLong_Check(arg)) {
        return uvt_arg_int(call, "fd", arg, 0, INT_MAX, fd);
    }
    name = PyUnicode_FromString("fileno");
    if (name == NULL) {
        return false;
    }
    found = PyObject_GetOptionalAttr(arg, name, &method);
    Py_DECREF(name);
    if (found == 0) {
        PyErr_Format(PyExc_TypeError,
                     "%s(): 'fd' must be an int or have a fileno() method, "
                     "not %.200s", call, Py_TYPE(arg)->tp_name);
    }
    if (found <= 0) {
        return false;
    }
    number = PyObject_CallNoArgs(method);
    Py_DECREF(method);
    if (number == NULL) {
        return false;
    }
    ok = uvt_arg_int(call, "fd", number, 0, INT_MAX, fd);
    Py_DECREF(number);
    return ok;
}
