/* What the loop's methods make sure of before they do anything.  All functions run
 * attached, on any thread; they raise and own nothing.
 */
#include "eventloop.h"

bool
tulip_loop_check_open(TulipLoop *self)
{
    if (self->closed) {
        if (!tulip_loop_is_closed(self)) {
            return tulip_loop_refuse_child();
        }
        PyErr_SetString(PyExc_RuntimeError,
                        self->uv_loop != NULL
                        ? "Event loop is closed"
                        : "the event loop is not initialised: its __init__ was "
                          "not called");
        return false;
    }
    return true;
}

bool
tulip_loop_check_own_thread(TulipLoop *self)
{
    if (!tulip_loop_is_here(self)) {
        PyErr_SetString(PyExc_RuntimeError,
                        "Non-thread-safe operation invoked on an event loop "
                        "other than the current one");
        return false;
    }
    return true;
}

bool
tulip_loop_check_thread(TulipLoop *self)
{
    return !self->debug || tulip_loop_check_own_thread(self);
}

/* module.name(arg) is true: 1, else 0; -1 with an exception. */
static int
ask(const char *module_name, const char *name, PyObject *arg)
{
    PyObject *module = PyImport_ImportModule(module_name), *result;
    int answer = -1;
    if (module == NULL) {
        return -1;
    }
    result = PyObject_CallMethod(module, name, "O", arg);
    Py_DECREF(module);
    if (result != NULL) {
        answer = PyObject_IsTrue(result);
        Py_DECREF(result);
    }
    return answer;
}

static bool
check_callable(const char *method, PyObject *callable)
{
    int answer = ask("asyncio", "iscoroutine", callable);
    if (answer == 0) {
        answer = ask("inspect", "iscoroutinefunction", callable);
    }
    if (answer > 0) {
        PyErr_Format(PyExc_TypeError, "coroutines cannot be used with %s()",
                     method);
    }
    else if (answer == 0 && !PyCallable_Check(callable)) {
        PyErr_Format(PyExc_TypeError,
                     "a callable object was expected by %s(), got %R", method,
                     callable);
        answer = -1;
    }
    return answer == 0;
}

bool
tulip_loop_check_call_slow(TulipLoop *self, const char *method,
                           PyObject *callable, bool here)
{
    if (!tulip_loop_check_open(self)) {
        return false;
    }
    if (self->debug) {
        return (!here || tulip_loop_check_own_thread(self))
            && check_callable(method, callable);
    }
    return true;
}
