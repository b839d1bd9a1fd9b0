/* Audit events of PEP 578.  Raw handles and functions raise those that Python's own
 * modules raise for the same, with the handle in place of the socket; a hook may
 * refuse by an exception.  They are raised before anything is looked at that a hook
 * could change.
 */
#ifndef UVT_AUDIT_H
#define UVT_AUDIT_H

#include "compat.h"

/* Is called for the arguments of an event, so only if somebody wants them. */
static inline PyObject *
uvt_audit_refuse(void *found)
{
    *(bool *)found = true;
    PyErr_SetNone(PyExc_ValueError);
    return NULL;
}

/* Whether a hook is there, of Python's or of C's: no function says so.  Raises
 * nothing and no event, as no hook is called when the arguments cannot be made. */
static inline bool
uvt_audited(void)
{
    bool found = false;
    if (PySys_Audit("socket.__new__", "O&", uvt_audit_refuse, &found) < 0) {
        PyErr_Clear();
    }
    return found;
}

static inline bool
uvt_audit_bind(PyObject *handle, PyObject *address)
{
    return PySys_Audit("socket.bind", "OO", handle, address) == 0;
}

static inline bool
uvt_audit_connect(PyObject *handle, PyObject *address)
{
    return PySys_Audit("socket.connect", "OO", handle, address) == 0;
}

static inline bool
uvt_audit_sendto(PyObject *handle, PyObject *address)
{
    return PySys_Audit("socket.sendto", "OO", handle, address) == 0;
}

/* fs_audit.c: the event of an operation of uv.fs, if it has one; `given` as for
 * uvt_fs_arguments(). */
UVT_CHECKED bool uvt_fs_audit(const char *operation, PyObject *const *given);

#endif
