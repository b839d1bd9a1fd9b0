/* The clock that the loop's timers go by.  As with asyncio's loop, a program may
 * replace time(): in a subclass, for one loop, or, between two runs, in the class.
 * Test suites do so to let time pass.  All functions run attached, on the loop's
 * thread or on any while nobody runs it.
 */
#include "clock.h"

bool
tulip_to_ns(double seconds, int64_t *result)
{
    double ns = seconds * 1e9;
    if (ns >= 9.2e18) {
        *result = TULIP_NEVER - 1;
    }
    else if (ns > -9.2e18) {
        *result = (int64_t)ns;
        *result += (double)*result < ns;
    }
    else if (ns <= 0) {
        *result = INT64_MIN;
    }
    else {
        PyErr_SetString(PyExc_ValueError, "a time cannot be NaN");
        return false;
    }
    return true;
}

PyObject *
tulip_loop_py_time(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(ignored))
{
    return PyFloat_FromDouble((double)tulip_now() / 1e9);
}

void
tulip_clock_look(TulipLoop *self)
{
    PyObject *method = PyObject_GetAttr((PyObject *)self, self->st->str_time);
    if (method == NULL) {
        PyErr_Clear();      /* A call of it will say so. */
        self->other_time = true;
        return;
    }
    self->other_time = !PyCFunction_Check(method)
        || PyCFunction_GetFunction(method) != tulip_loop_py_time;
    Py_DECREF(method);
}

int
tulip_clock_ask(TulipLoop *self, int64_t *now)
{
    PyObject *result = PyObject_CallMethodNoArgs((PyObject *)self,
                                                 self->st->str_time);
    double seconds = result == NULL ? -1.0 : PyFloat_AsDouble(result);
    Py_XDECREF(result);
    if ((seconds == -1.0 && PyErr_Occurred()) || !tulip_to_ns(seconds, now)) {
        return -1;
    }
    return 0;
}

int
tulip_loop_setattro(PyObject *self, PyObject *name, PyObject *value)
{
    int rc = PyObject_GenericSetAttr(self, name, value);
    if (rc == 0 && PyUnicode_CompareWithASCIIString(name, "time") == 0) {
        UVT_LOCKED(tulip_lock((TulipLoop *)self));
        tulip_clock_look((TulipLoop *)self);
    }
    return rc;
}
