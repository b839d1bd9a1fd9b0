/* What udp.c (life cycle, addresses, options) and udp_batch.c (datagrams in
 * and out) share. */
#ifndef UVT_UDP_H
#define UVT_UDP_H

#include "request.h"
#include <netinet/in.h>

typedef struct UvtPeer {
    PyObject *address;              /* the tuple made of raw, or NULL */
    struct sockaddr_in6 raw;        /* or a sockaddr_in and zeros */
} UvtPeer;
typedef struct UvtPeers UvtPeers;

typedef struct UvtUDP {
    UvtHandle base;
    char *batch;                    /* RECVMMSG: where datagrams come in */
    UvtPeers *peers;                /* the last senders; NULL: none yet */
    bool announcing;                /* between on_alloc and on_recv */
} UvtUDP;

/* Gives a handle without a socket one of this family, bound to any address and
 * an ephemeral port, as libuv would do by itself but before it watches it.  May
 * run Python code.  A libuv status, also below 0 when that closed the handle. */
UVT_CHECKED int uvt_udp_ensure_socket(UvtHandle *self, int family,
                                      unsigned flags);

/* Starts receiving, to the consumer or to self->callback; harmless when it
 * receives already.  A libuv status. */
UVT_CHECKED int uvt_udp_recv_start(UvtHandle *self);
void uvt_udp_recv_stop(UvtHandle *self);
/* Of a handle that does not receive: libuv may ask it all the same. */
void uvt_udp_receive_nothing(uv_udp_t *uv);
/* The kernel has no memory left to watch it: whoever receives is told. */
void uvt_udp_refused(UvtHandle *self, int status);

/* The address of a datagram to be sent: *out is storage, or NULL for None. */
UVT_CHECKED bool uvt_udp_parse_target(UvtHandle *self, const char *call,
                                      PyObject *address,
                                      struct sockaddr_storage *storage,
                                      struct sockaddr **out);

/* udp_peers.c.  The address of a sender, as a tuple, str or None. */
UVT_NEW PyObject *uvt_udp_peer_address(UvtUDP *self, const struct sockaddr *addr);
/* The sender that this very tuple was made for, or NULL. */
const UvtPeer *uvt_udp_find_peer(const UvtUDP *self, PyObject *address);
int uvt_udp_visit_peers(UvtUDP *self, visitproc visit, void *arg);
void uvt_udp_clear_peers(UvtUDP *self);

/* Methods of UDP. */
PyObject *uvt_udp_start_recv(UvtHandle *self, PyObject *callback);
PyObject *uvt_udp_stop_recv(UvtHandle *self, PyObject *unused);
PyObject *uvt_udp_send(UvtHandle *self, PyObject *const *args,
                       Py_ssize_t nargs);
PyObject *uvt_udp_try_send(UvtHandle *self, PyObject *const *args,
                           Py_ssize_t nargs);
PyObject *uvt_udp_try_send2(UvtHandle *self, PyObject *messages);
extern const char uvt_udp_start_recv_doc[], uvt_udp_stop_recv_doc[],
    uvt_udp_send_doc[], uvt_udp_try_send_doc[], uvt_udp_try_send2_doc[];

#endif
