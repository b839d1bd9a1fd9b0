/* The last senders of a UDP handle and the tuples made of their addresses, since the
 * same ones mostly come again.  All functions run on the loop's thread, attached.  The
 * handle owns the tuples and, from the first datagram on, their table.
 */
#include "udp.h"
#include "sockaddr.h"

#include <arpa/inet.h>
#include <string.h>
#include <sys/un.h>

#define PEERS 32

int
uvt_udp_visit_peers(UvtUDP *self, visitproc visit, void *arg)
{
    for (int i = 0; self->peers != NULL && i < PEERS; i++) {
        Py_VISIT(self->peers[i].address);
    }
    return 0;
}

void
uvt_udp_clear_peers(UvtUDP *self)
{
    UvtPeer *peers = self->peers;
    self->peers = NULL;
    for (int i = 0; peers != NULL && i < PEERS; i++) {
        Py_CLEAR(peers[i].address);
    }
    PyMem_Free(peers);
}

const UvtPeer *
uvt_udp_find_peer(const UvtUDP *self, PyObject *address)
{
    for (int i = 0; self->peers != NULL && i < PEERS; i++) {
        if (self->peers[i].address == address) {
            return &self->peers[i];
        }
    }
    return NULL;
}

/* The place of an address in the table. */
static unsigned
hash_inet(const struct sockaddr_in6 *raw)
{
    unsigned hash = ntohs(raw->sin6_port);      /* both families have it here */
    if (raw->sin6_family == AF_INET) {
        hash += ntohl(((const struct sockaddr_in *)raw)->sin_addr.s_addr);
    }
    else {
        hash += raw->sin6_addr.s6_addr[15];
    }
    return hash % PEERS;
}

static PyObject *
inet_address(UvtUDP *self, const struct sockaddr *addr)
{
    struct sockaddr_in6 raw;
    int size = uvt_sockaddr_size(addr);
    UvtPeer *peer;
    if (self->peers == NULL) {
        self->peers = PyMem_Calloc(PEERS, sizeof(UvtPeer));
        if (self->peers == NULL) {
            return PyErr_NoMemory();
        }
    }
    memset(&raw, 0, sizeof(raw));
    memcpy(&raw, addr, (size_t)size);
    peer = &self->peers[hash_inet(&raw)];
    if (peer->address == NULL || memcmp(&peer->raw, &raw, sizeof(raw)) != 0) {
        PyObject *address = uvt_sockaddr_format(addr, size);
        if (address == NULL) {
            return NULL;
        }
        peer->raw = raw;
        Py_XSETREF(peer->address, address);
    }
    return Py_NewRef(peer->address);
}

PyObject *
uvt_udp_peer_address(UvtUDP *self, const struct sockaddr *addr)
{
    switch (addr->sa_family) {
    case AF_INET:
    case AF_INET6:
        return inet_address(self, addr);
    case AF_UNIX:
        /* The length is not known: a path ends at its NUL, and an abstract
         * name cannot be told from no name. */
        if (((const struct sockaddr_un *)addr)->sun_path[0] != '\0') {
            return uvt_sockaddr_format(addr, uvt_sockaddr_size(addr));
        }
        Py_RETURN_NONE;
    default:
        Py_RETURN_NONE;
    }
}
