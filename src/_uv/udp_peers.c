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
    return peer->address == address ? peer : NULL;
}

/* The first place of an address's pair. */
static unsigned
pair_of(const struct sockaddr_in6 *raw)
{
    uint32_t key = raw->sin6_port;      /* both families have it here */
    if (raw->sin6_family == AF_INET) {
        key ^= ((const struct sockaddr_in *)raw)->sin_addr.s_addr;
    }
    else {
        uint32_t last;
        memcpy(&last, &raw->sin6_addr.s6_addr[12], sizeof(last));
        key ^= last;
    }
    return 2 * spread(key, PEERS / 2);
}

/* Puts a new sender first, and the first one second. */
static void
add_peer(UvtPeers *peers, unsigned pair, const struct sockaddr_in6 *raw,
         PyObject *address)
{
    UvtPeer *peer = &peers->peer[pair];
    PyObject *old = peer[1].address;
    peer[1] = peer[0];
    peer[0].raw = *raw;
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
    struct sockaddr_in6 raw;
    int size = uvt_sockaddr_size(addr);
    PyObject *address;
    unsigned pair;
    if (self->peers == NULL) {
        self->peers = PyMem_Calloc(1, sizeof(UvtPeers));
        if (self->peers == NULL) {
            return PyErr_NoMemory();
        }
    }
    memset(&raw, 0, sizeof(raw));
    memcpy(&raw, addr, (size_t)size);
    pair = pair_of(&raw);
    for (unsigned i = pair; i <= pair + 1; i++) {
        const UvtPeer *peer = &self->peers->peer[i];
        if (peer->address != NULL && memcmp(&peer->raw, &raw, sizeof(raw)) == 0) {
            return Py_NewRef(peer->address);
        }
    }
    address = uvt_sockaddr_format(addr, size);
    if (address != NULL) {
        add_peer(self->peers, pair, &raw, Py_NewRef(address));
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
