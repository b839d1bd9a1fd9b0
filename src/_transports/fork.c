/* The event loop in a forked child, where it is the parent's: it counts as closed,
 * and what is refused names the fork.  All functions run attached, in the child,
 * on its only thread.
 */
#include "eventloop.h"

/* What ends the child, such as sys.exit(), is not to be replaced by what its
 * parent's clean-up meets on the way. */
bool
tulip_loop_refuse_child(void)
{
    PyObject *handled = PyErr_GetHandledException();
    if (handled != NULL
        && (PyErr_GivenExceptionMatches(handled, PyExc_SystemExit)
            || PyErr_GivenExceptionMatches(handled, PyExc_KeyboardInterrupt))) {
        PyErr_SetRaisedException(handled);
        return false;
    }
    Py_XDECREF(handled);
    PyErr_SetString(PyExc_RuntimeError,
                    "This event loop belongs to the parent process: after a "
                    "fork() the child has to make its own");
    return false;
}

/* A run on this thread ends after the callback that forked. */
void
tulip_loop_on_forked(PyObject *owner)
{
    TulipLoop *self = (TulipLoop *)owner;
#ifdef Py_GIL_DISABLED
    self->inbox_lock = (PyMutex){0};    /* another thread may have had it */
#endif
    self->forked = true;
    self->closed = true;
    self->polling = false;
    if (self->thread_id != PyThread_get_thread_ident()) {
        self->thread_id = 0;    /* that thread is not in this process */
    }
}
