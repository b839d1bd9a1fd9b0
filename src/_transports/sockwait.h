/* Waiting for sockets that belong to the program, for sock_* and sendfile. */
#ifndef TULIP_SOCKWAIT_H
#define TULIP_SOCKWAIT_H

#include "eventloop.h"

/* As much as one read takes at most without an allocation of its own. */
#define TULIP_SOCK_ROOM ((size_t)64 * 1024)

/* Whose descriptor is waited for. */
typedef enum TulipSockKind {
    TULIP_SOCK_PLAIN,       /* of exactly a socket.socket */
    TULIP_SOCK_STRANGE,     /* of an object that may change it unseen */
    TULIP_SOCK_TRANSPORT,   /* of a transport of this loop */
} TulipSockKind;

/* A new asyncio.Future that is done once `fd` may be read from (or written to),
 * or has an error.  The caller has just tried, in vain; he or the future's task
 * keeps `owner`, to whom the descriptor belongs.  A later wait for the same takes
 * the place of an earlier one, whose future is forgotten.  NULL with an
 * exception. */
UVT_NEW PyObject *tulip_sock_wait(TulipLoop *loop, PyObject *owner,
                                  TulipSockKind kind, int fd, bool writable);
/* For whoever reads from a plain socket by recv(): where to note that a read has
 * emptied it, which then is known until something comes.  NULL: that cannot be
 * known of this one.  Valid until Python code runs. */
UVT_BORROWED bool *tulip_sock_emptied(TulipLoop *loop, PyObject *sock, int fd);
/* TULIP_SOCK_ROOM bytes that the next call may use too.  NULL with MemoryError. */
UVT_BORROWED char *tulip_sock_room(TulipLoop *loop);

/* For the loop's own traverse, clear and close.  After `end` nobody waits any more. */
int tulip_sock_traverse(TulipLoop *loop, visitproc visit, void *arg);
void tulip_sock_end(TulipLoop *loop);

/* ---- sockops.c ---- */

extern PyMethodDef tulip_sock_methods[];

#endif
