/* From a libuv status to a Python exception. */
#ifndef UVT_ERRORS_H
#define UVT_ERRORS_H

#include "uvmodule.h"

/* Raises st->exc[kind] for a libuv status below 0; always returns NULL.  The
 * exception has args (rc, strerror), errno (positive where the system has that
 * error), strerror, name ("ECONNREFUSED") and call ("uv_tcp_bind"). */
PyObject *uvt_raise(UvtState *st, UvtExc kind, int rc, const char *call);

/* A new plain OSError, of the subclass that fits the errno (as
 * ConnectionResetError), whose text names the call.  NULL on no memory. */
UVT_NEW PyObject *uvt_oserror(int rc, const char *call);

/* What a raw callback gets as its error: None for rc >= 0, else the int.
 * NULL on no memory. */
UVT_NEW PyObject *uvt_errorno(int rc);

/* A new real module, `name` being the last part of its full name: an attribute
 * of `module` and in sys.modules. */
UVT_NEW PyObject *uvt_add_submodule(PyObject *module, const char *name,
                                    const char *doc);

/* A type of the module is there under the same name in a submodule, too. */
UVT_CHECKED int uvt_add_to_submodule(PyObject *module, const char *name,
                                     PyTypeObject *type);

/* Adds functions to a submodule whose `self` is `module`, so that they find its
 * state. */
UVT_CHECKED int uvt_add_functions(PyObject *submodule, PyObject *module,
                                  PyMethodDef *functions);

#endif
