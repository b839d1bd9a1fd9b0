/* getaddrinfo(): answers without asking anybody, and threads that ask. */
#ifndef TULIP_LOOKUP_H
#define TULIP_LOOKUP_H

#include "eventloop.h"
#include <netdb.h>

/* ---- addrinfo.c ---- */

/* What socket.getaddrinfo() is called with. */
typedef struct TulipHints {
    PyObject *host, *port;      /* borrowed */
    struct addrinfo hints;
} TulipHints;

/* (host, port, family, type, proto, flags).  0: they are not what is usual, and
 * socket.getaddrinfo() has to judge them; 1; -1 with an exception. */
UVT_CHECKED int tulip_hints_parse(PyObject *const *args, Py_ssize_t nargs,
                                  TulipHints *out);
/* A host or a port as it is given to getaddrinfo(3), in *text, which stays as
 * long as the object does; NULL for None.  False, without an exception: it is
 * none that passes unchanged. */
bool tulip_host_text(PyObject *host, const char **text);
bool tulip_port_text(PyObject *port, char room[8], const char **text);
/* sys.audit("socket.getaddrinfo", ...); -1 with an exception. */
UVT_CHECKED int tulip_hints_audit(const TulipHints *hints);
/* The list that socket.getaddrinfo() makes of an answer. */
UVT_NEW PyObject *tulip_addrinfo_list(TulipLoop *loop,
                                      const struct addrinfo *first);
/* The exception that it raises. */
UVT_NEW PyObject *tulip_addrinfo_error(TulipLoop *loop, int rc, int error);

/* socket.getaddrinfo() for a host and a port that are numbers; None: they are
 * not, or there is more than one answer. */
PyObject *tulip_loop_py_literal_addrinfo(TulipLoop *self, PyObject *const *args,
                                         Py_ssize_t nargs);

/* ---- lookup.c ---- */

/* For the loop's own traverse, clear and close.  After `end` nobody waits any
 * more; the threads end by themselves. */
int tulip_lookup_traverse(TulipLoop *loop, visitproc visit, void *arg);
void tulip_lookup_end(TulipLoop *loop);

extern PyMethodDef tulip_lookup_methods[];

#endif
