/* Checks of arguments for METH_FASTCALL functions.  Each raises an exception
 * that names the call and returns false when the argument does not fit;
 * nothing here calls libuv. */
#ifndef UVT_ARGS_H
#define UVT_ARGS_H

#include "uvmodule.h"

/* The number of positional arguments lies in [min, max]. */
UVT_CHECKED bool uvt_args_count(const char *call, Py_ssize_t nargs,
                                Py_ssize_t min, Py_ssize_t max);

/* Binds positional and keyword arguments to names[0..count): borrowed
 * references in out[], NULL for what was not given.  The first `required`
 * ones have to be there. */
UVT_CHECKED bool uvt_args_bind(const char *call, PyObject *const *args,
                               Py_ssize_t nargs, PyObject *kwnames,
                               const char *const *names, int count,
                               int required, PyObject **out);

UVT_CHECKED bool uvt_arg_callable(const char *call, PyObject *arg);

/* As uvt_arg_callable; None and NULL pass as well and become NULL in *out,
 * otherwise *out is borrowed. */
UVT_CHECKED bool uvt_arg_callback(const char *call, PyObject *arg,
                                  PyObject **out);

/* An integer (by __index__) in [min, max]; else TypeError, or ValueError. */
UVT_CHECKED bool uvt_arg_int(const char *call, const char *name, PyObject *arg,
                             long min, long max, int *out);

/* Any object by its truth value. */
UVT_CHECKED bool uvt_arg_bool(PyObject *arg, int *out);

/* A finite number of seconds >= 0 as milliseconds, rounded up. */
UVT_CHECKED bool uvt_arg_seconds(const char *call, const char *name,
                                 PyObject *arg, uint64_t *ms);

/* The bytes of a path (str, bytes, os.PathLike) without NUL in it; `what` names
 * it in the exception. */
UVT_NEW PyObject *uvt_arg_path(const char *call, const char *what,
                               PyObject *arg);

/* The descriptor of an int or of an object with fileno(), not negative. */
UVT_CHECKED bool uvt_arg_fd(const char *call, PyObject *arg, int *fd);

#endif
