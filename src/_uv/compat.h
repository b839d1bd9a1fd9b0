/* The differences between the supported versions of Python, in one place.
 * Everything here has the name, or the name and a prefix, and the meaning that
 * the newest Python gives it.  Nothing else tests PY_VERSION_HEX.
 */
#ifndef UVT_COMPAT_H
#define UVT_COMPAT_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>
#include <stdbool.h>

/* Contracts in prototypes, read by people: who owns what is returned, which
 * argument is taken over, and whose result has to be looked at. */
#define UVT_NEW
#define UVT_BORROWED
#define UVT_STEALS(n)
#define UVT_CHECKED __attribute__((warn_unused_result))

#if PY_VERSION_HEX < 0x030C0000
/* The raised exception as one normalised object (3.12). */
static inline PyObject *
PyErr_GetRaisedException(void)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    if (type == NULL) {
        return NULL;
    }
    PyErr_NormalizeException(&type, &value, &traceback);
    if (traceback != NULL) {
        PyException_SetTraceback(value, traceback);
        Py_DECREF(traceback);
    }
    Py_DECREF(type);
    return value;
}

/* Steals a reference to the exception (3.12). */
static inline void
PyErr_SetRaisedException(PyObject *exc)
{
    PyErr_Restore(Py_NewRef(Py_TYPE(exc)), exc, PyException_GetTraceback(exc));
}
#endif

#if PY_VERSION_HEX < 0x030D0000
/* 1: found, a new reference in *result; 0: not there; -1: error (3.13). */
static inline int
PyObject_GetOptionalAttr(PyObject *obj, PyObject *name, PyObject **result)
{
    *result = PyObject_GetAttr(obj, name);
    if (*result != NULL) {
        return 1;
    }
    if (!PyErr_ExceptionMatches(PyExc_AttributeError)) {
        return -1;
    }
    PyErr_Clear();
    return 0;
}

/* The same of a dict's item (3.13). */
static inline int
PyDict_GetItemRef(PyObject *dict, PyObject *key, PyObject **result)
{
    *result = Py_XNewRef(PyDict_GetItemWithError(dict, key));
    return *result != NULL ? 1 : PyErr_Occurred() ? -1 : 0;
}

/* Nothing where there is always a GIL (3.13). */
#define Py_BEGIN_CRITICAL_SECTION(op) {
#define Py_END_CRITICAL_SECTION() }

#define Py_IsFinalizing _Py_IsFinalizing

/* 1: a new reference in *result; 0: the object is gone; -1: error (3.13). */
static inline int
PyWeakref_GetRef(PyObject *ref, PyObject **result)
{
    PyObject *obj = PyWeakref_GetObject(ref);
    *result = obj != NULL && obj != Py_None ? Py_NewRef(obj) : NULL;
    return obj == NULL ? -1 : *result != NULL;
}
#endif

/* What asyncio does with datagrams: since 3.13 empty ones are sent, and each that
 * waits counts for 8 bytes more than it has. */
#if PY_VERSION_HEX >= 0x030D0000
#define UVT_SENDS_EMPTY_DATAGRAMS true
#define UVT_DATAGRAM_HEADER ((size_t)8)
#else
#define UVT_SENDS_EMPTY_DATAGRAMS false
#define UVT_DATAGRAM_HEADER ((size_t)0)
#endif

/* A critical section inside of one of the same lock costs nothing (3.14): Python
 * looks whether the innermost is such a one. */
#define UVT_SECTIONS_NEST (PY_VERSION_HEX >= 0x030E0000)

/* The slots that say what a module is safe for.  Sub-interpreters with their
 * own GIL are declared from 3.13 on: before, the standard library itself was
 * not ready for them. */
#if PY_VERSION_HEX >= 0x030D0000
#define UVT_MODULE_SLOTS \
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED}, \
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#elif PY_VERSION_HEX >= 0x030C0000
#define UVT_MODULE_SLOTS \
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_SUPPORTED},
#else
#define UVT_MODULE_SLOTS
#endif

#endif
