/* Audit events of PEP 578.  Most of those that a socket has are raised by the
 * socket module: while a hook is there, sockets are set up by it (guards.py).
 * What is here is for the sockets that are made in C all the same.  All functions
 * run attached, on any thread; they own nothing.
 */
#include "audit.h"
#include <sys/socket.h>

/* Is called for the arguments of an event, so only if somebody wants them. */
static PyObject *
refuse(void *found)
{
    *(bool *)found = true;
    PyErr_SetNone(PyExc_ValueError);
    return NULL;
}

/* There is no function that says so.  The arguments of an event are made for the
 * hooks alone, and when that fails none of them is called. */
bool
tulip_audited(void)
{
    bool found = false;
    if (PySys_Audit("socket.__new__", "O&", refuse, &found) < 0) {
        PyErr_Clear();
    }
    return found;
}

PyObject *
tulip_py_audited(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(tulip_audited());
}

static int
option(int fd, int name)
{
    int value = -1;
    socklen_t size = sizeof(value);
    return getsockopt(fd, SOL_SOCKET, name, &value, &size) == 0 ? value : -1;
}

/* The socket module raises the event when an object is made for the descriptor. */
int
tulip_audit_accepted(int listening, int fd)
{
    PyObject *module, *sock;
    if (!tulip_audited()) {
        return 0;
    }
    module = PyImport_ImportModule("uvtulip.sockets");
    if (module == NULL) {
        return -1;
    }
    sock = PyObject_CallMethod(module, "plain", "iiii", fd,
                               option(listening, SO_DOMAIN),
                               option(listening, SO_TYPE),
                               option(listening, SO_PROTOCOL));
    Py_DECREF(module);
    Py_XDECREF(sock);
    return sock != NULL ? 0 : -1;
}
