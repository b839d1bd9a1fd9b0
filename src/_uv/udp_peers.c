/* The last senders of a UDP handle and the tuples made of their addresses, since the
 * same ones mostly come again.  All functions run on the loop's thread, attached.  The
 * handle owns the tuples and, from the first datagram on, their table.
 */
#include "udp.h"
#include "sockaddr.h"

#include <arpa/inet.h>
#include <string.h>
#include <sys/un.h>

/* Pairs of places: a sender goes to one of the two of its pair. */
#define PEERS 64
#define PLACES 128

struct UvtPeers {
    UvtPeer peer[PEERS];
    unsigned char place[PLACES];    /* of the peer, by its tuple; a guess */
};

int
uvt_udp_visit_peers(UvtUDP *self, visitproc visit, void *arg)
{
    for (int i = 0; self->peers != NULL && i < PEERS; i++) {
        Py_VISIT(self->peers->peer[i].address);
    }
    return 0;
}

void
uvt_udp_clear_peers(UvtUDP *self)
{
    UvtPeers *peers = self->peers;
    self->peers = NULL;
    for (int i = 0; peers != NULL && i < PEERS; i++) {
        Py_CLEAR(peers->peer[i].address);
    }
    PyMem_Free(peers);
}

/* The high bits, in which all others have a say. */
static unsigned
spread(uint32_t key, unsigned count)
{
    return (unsigned)(((uint64_t)(key * 2654435761u) * count) >> 32);
}

static unsigned char *
place_of(UvtPeers *peers, const PyObject *address)
{
    return &peers->place[spread((uint32_t)((uintptr_t)address >> 4), PLACES)];
}

const UvtPeer *
uvt_udp_find_peer(const UvtUDP *self, PyObject *address)
{
    const UvtPeer *peer;
    if (self->peers == NULL) {
        return NULL;
    }
    peer = &self->peers->peer[*place_of(self->peers, address)];
    for (int i = 0; peer->address != address; i++) {    /* two share a place */
        if (i == PEERS) {
            return NULL;
        }
        peer = &self->peers->peer[i];
    }
    return peer;
}

/* The first place of an address's pair. */
static unsigned
pair_of(const struct sockaddr *addr)
{
    uint32_t key, last;
    if (addr->sa_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)addr;
        key = in->sin_port ^ in->sin_addr.s_addr;
    }
    else {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)addr;
        memcpy(&last, &in6->sin6_addr.s6_addr[12], sizeof(last));
        key = in6->sin6_port ^ last;
    }
    return 2 * spread(key, PEERS / 2);
}

static bool
is_from(const UvtPeer *peer, const struct sockaddr *addr)
{
    const struct sockaddr_in *known = (const struct sockaddr_in *)&peer->raw;
    const struct sockaddr_in *in = (const struct sockaddr_in *)addr;
    if (peer->address == NULL || known->sin_family != addr->sa_family) {
        return false;
    }
    return addr->sa_family == AF_INET
        ? in->sin_port == known->sin_port
            && in->sin_addr.s_addr == known->sin_addr.s_addr
        : memcmp(&peer->raw, addr, sizeof(peer->raw)) == 0;
}

/* Puts a new sender first, and the first one second. */
static void
add_peer(UvtPeers *peers, unsigned pair, const struct sockaddr *addr,
         PyObject *address)
{
    UvtPeer *peer = &peers->peer[pair];
    PyObject *old = peer[1].address;
    peer[1] = peer[0];
    memset(&peer[0].raw, 0, sizeof(peer[0].raw));
    memcpy(&peer[0].raw, addr, (size_t)uvt_sockaddr_size(addr));
    peer[0].address = address;
    *place_of(peers, address) = (unsigned char)pair;
    if (peer[1].address != NULL) {
        *place_of(peers, peer[1].address) = (unsigned char)(pair + 1);
    }
    Py_XDECREF(old);
}

static PyObject *
inet_address(UvtUDP *self, const struct sockaddr *addr)
{
    PyObject *address;
    unsigned pair;
    if (self->peers == NULL) {
        self->peers = PyMem_Calloc(1, sizeof(UvtPeers));
        if (self->peers == NULL) {
            return PyErr_NoMemory();
        }
    }
    pair = pair_of(addr);
    for (unsigned i = pair; i <= pair + 1; i++) {
        const UvtPeer *peer = &self->peers->peer[i];
        if (is_from(peer, addr)) {
            return Py_NewRef(peer->address);
        }
    }
    address = uvt_sockaddr_format(addr, uvt_sockaddr_size(addr));
    if (address != NULL) {
        add_peer(self->peers, pair, addr, Py_NewRef(address));
    }
    return address;
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
