/* What the tries of sock_* have in common; sockops.c says what a try is. */
#ifndef TULIP_SOCKOPS_H
#define TULIP_SOCKOPS_H

#include "sockwait.h"
#include <sys/socket.h>

/* The socket of a call. */
typedef struct TulipSock {
    PyObject *obj;              /* borrowed from the caller */
    TulipSockKind kind;
    int fd;                     /* not of a strange one */
    bool again;                 /* a wait has ended: the socket is kept */
    bool waits;                 /* the result is what to await */
} TulipSock;

/* Where something comes from. */
typedef struct TulipSender {
    struct sockaddr_storage addr;
    socklen_t len;
} TulipSender;

/* Checks the number of arguments and the first one, the socket, as asyncio does;
 * false with an exception.  One argument more says that the caller has awaited what
 * the last try returned.  tulip_sock_done() follows, in any case. */
UVT_CHECKED bool tulip_sock_parse(TulipLoop *self, const char *method,
                                  PyObject *const *args, Py_ssize_t nargs,
                                  Py_ssize_t count, TulipSock *sock);
/* True when its addresses are formatted here. */
bool tulip_sock_knows_family(TulipLoop *self, const TulipSock *sock);

/* The result of a system call that has failed, as errno says: what to await
 * before the next try, or NULL with an exception. */
UVT_NEW PyObject *tulip_sock_failed(TulipLoop *self, TulipSock *sock,
                                    bool writable);
/* The result of the object's own method, called with `args`, of which the first
 * is the object. */
UVT_NEW PyObject *tulip_sock_method(TulipLoop *self, TulipSock *sock,
                                    PyObject *name, PyObject *const *args,
                                    Py_ssize_t nargs, bool writable);
/* (result, address); NULL if the result is NULL, or with an exception. */
UVT_NEW PyObject *tulip_sock_with_sender(TulipLoop *self,
                                         UVT_STEALS(2) PyObject *result,
                                         const TulipSender *from);

/* ---- sockkeep.c ---- */

/* The end of a try: begins to keep the socket if the caller is to wait, and lets it
 * go when he waits no more.  The result, or NULL with an exception. */
UVT_NEW PyObject *tulip_sock_done_slow(TulipLoop *self, const TulipSock *sock,
                                       UVT_STEALS(3) PyObject *result);

UVT_NEW static inline PyObject *
tulip_sock_done(TulipLoop *self, const TulipSock *sock,
                UVT_STEALS(3) PyObject *result)
{
    return sock->waits == sock->again ? result
                                      : tulip_sock_done_slow(self, sock, result);
}

PyObject *tulip_loop_py_sock_keep(TulipLoop *self, PyObject *sock);
PyObject *tulip_loop_py_sock_let_go(TulipLoop *self, PyObject *sock);

/* ---- sockdata.c ---- */

PyObject *tulip_loop_py_sock_recv(TulipLoop *self, PyObject *const *args,
                                  Py_ssize_t nargs);
PyObject *tulip_loop_py_sock_recv_into(TulipLoop *self, PyObject *const *args,
                                       Py_ssize_t nargs);
PyObject *tulip_loop_py_sock_recvfrom(TulipLoop *self, PyObject *const *args,
                                      Py_ssize_t nargs);
PyObject *tulip_loop_py_sock_recvfrom_into(TulipLoop *self,
                                           PyObject *const *args,
                                           Py_ssize_t nargs);
PyObject *tulip_loop_py_sock_send(TulipLoop *self, PyObject *const *args,
                                  Py_ssize_t nargs);

#endif
