/* Audit events of PEP 578: those that the socket module does not raise for us. */
#ifndef TULIP_AUDIT_H
#define TULIP_AUDIT_H

#include "transportsmodule.h"

/* _transports._audited() */
PyObject *tulip_py_audited(PyObject *module, PyObject *ignored);
/* The event of a socket that was accepted, which a hook may refuse: -1 with its
 * exception. */
UVT_CHECKED int tulip_audit_accepted(int listening, int fd);

#endif
