/* Audit events of PEP 578.  Most of those that a socket has are raised by the
 * socket module: while a hook is there, sockets are set up by it (guards.py).
 * What is here is for the sockets that are made in C all the same.  All functions
 * run attached, on any thread; they own nothing.
 */
#include "audit.h"
#include "../_uv/audit.h"
#include <sys/socket.h>

PyObject *
tulip_py_audited(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(uvt_audited());
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
    if (!uvt_audited()) {
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
