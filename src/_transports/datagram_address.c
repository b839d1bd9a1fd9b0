/* Addresses of datagrams between the kernel's form and Python's.  The same few
 * mostly come again, so a transport remembers them; it owns the objects.  All
 * functions run attached, and never ask a name server.
 *
 * Senders are found by the bytes of their address, which have two places in the table;
 * it grows while it has to forget some too often.  Where to send to is found by the
 * identity of the object: the last sender's first, then those of a small table, where
 * only objects are kept that cannot change.
 */
#include "datagram.h"
#include <stddef.h>
#include <string.h>

#define FIRST_SENDERS 8
#define MAX_SENDERS 256
#define TARGETS 16

typedef struct Peer {
    PyObject *address;          /* strong; NULL: free */
    TulipAddress to;
} Peer;

typedef struct TulipPeers {
    unsigned size, last;        /* of senders: how many, and the latest */
    unsigned forgotten;         /* how often one took another's place */
    Peer *senders;
    Peer targets[TARGETS];
} TulipPeers;

/* ---- memory ---- */

static void
clear_table(Peer *table, unsigned size)
{
    for (unsigned i = 0; i < size; i++) {
        Py_CLEAR(table[i].address);
    }
}

static int
visit_table(Peer *table, unsigned size, visitproc visit, void *arg)
{
    for (unsigned i = 0; i < size; i++) {
        Py_VISIT(table[i].address);
    }
    return 0;
}

int
tulip_peers_traverse(TulipPeers *peers, visitproc visit, void *arg)
{
    int rc;
    if (peers == NULL) {
        return 0;
    }
    rc = visit_table(peers->senders, peers->size, visit, arg);
    return rc != 0 ? rc : visit_table(peers->targets, TARGETS, visit, arg);
}

void
tulip_peers_free(TulipPeers *peers)
{
    if (peers != NULL) {
        clear_table(peers->senders, peers->size);
        clear_table(peers->targets, TARGETS);
        PyMem_Free(peers->senders);
        PyMem_Free(peers);
    }
}

/* NULL without an exception: then nothing is remembered. */
static TulipPeers *
peers_of(TulipDatagram *self)
{
    if (self->peers == NULL) {
        self->peers = PyMem_Calloc(1, sizeof(TulipPeers));
    }
    return self->peers;
}

/* ---- senders ---- */

static unsigned
hash_raw(const struct sockaddr *raw, socklen_t len)
{
    const unsigned char *byte = (const unsigned char *)raw;
    uint32_t hash = 0, word;
    for (; len >= sizeof(word); len -= (socklen_t)sizeof(word)) {
        memcpy(&word, byte, sizeof(word));
        hash = (hash ^ word) * 0x9E3779B1u;
        hash ^= hash >> 15;
        byte += sizeof(word);
    }
    for (; len > 0; len--) {
        hash = (hash ^ *byte++) * 0x9E3779B1u;
    }
    return hash ^ hash >> 16;
}

static bool
is_peer(const Peer *peer, const struct sockaddr *raw, socklen_t len)
{
    return peer->to.len == len && peer->address != NULL
        && memcmp(&peer->to.raw, raw, len) == 0;
}

/* Puts the sender into one of its places, which is `last` then. */
static void
put_sender(TulipPeers *peers, UVT_STEALS(2) PyObject *address,
           const struct sockaddr *raw, socklen_t len)
{
    unsigned slot = hash_raw(raw, len) % peers->size;
    Peer *peer;
    if (peers->senders[slot].address != NULL) {
        slot ^= 1;
    }
    peer = &peers->senders[slot];
    peers->last = slot;
    peers->forgotten += peer->address != NULL;
    peer->to.len = len;
    memcpy(&peer->to.raw, raw, len);
    Py_XSETREF(peer->address, address);
}

/* Makes the table larger; without memory it stays as it is. */
static void
grow(TulipPeers *peers)
{
    unsigned old_size = peers->size;
    unsigned size = old_size == 0 ? FIRST_SENDERS : 4 * old_size;
    Peer *table, *old = peers->senders;
    if (size > MAX_SENDERS) {
        size = MAX_SENDERS;
    }
    table = PyMem_Calloc(size, sizeof(Peer));
    if (table == NULL) {
        return;
    }
    peers->senders = table;
    peers->size = size;
    for (unsigned i = 0; i < old_size; i++) {
        if (old[i].address != NULL) {
            put_sender(peers, old[i].address, &old[i].to.raw.any, old[i].to.len);
        }
    }
    peers->forgotten = 0;
    PyMem_Free(old);
}

static void
remember_sender(TulipPeers *peers, PyObject *address, const struct sockaddr *raw,
                socklen_t len)
{
    if (peers->size == 0
        || (peers->forgotten > peers->size && peers->size < MAX_SENDERS)) {
        grow(peers);
    }
    if (peers->size > 0) {
        put_sender(peers, Py_NewRef(address), raw, len);
    }
}

/* The place of a sender that is remembered, or NULL. */
static Peer *
find_sender(TulipPeers *peers, const struct sockaddr *raw, socklen_t len)
{
    unsigned slot = peers->last;
    if (!is_peer(&peers->senders[slot], raw, len)) {
        slot = hash_raw(raw, len) % peers->size;
        if (!is_peer(&peers->senders[slot], raw, len)) {
            slot ^= 1;
            if (!is_peer(&peers->senders[slot], raw, len)) {
                return NULL;
            }
        }
        peers->last = slot;
    }
    return &peers->senders[slot];
}

PyObject *
tulip_address_format(TulipDatagram *self, const struct sockaddr *raw,
                     socklen_t len)
{
    TulipPeers *peers = self->peers;
    PyObject *address;
    if (peers != NULL && peers->size > 0) {
        const Peer *known = find_sender(peers, raw, len);
        if (known != NULL) {
            return Py_NewRef(known->address);
        }
    }
    if (len <= offsetof(struct sockaddr_un, sun_path)) {
        Py_RETURN_NONE;         /* of a UNIX socket without a name */
    }
    address = tulip_datagram_api(self)->sockaddr_format(raw, (int)len);
    if (address != NULL && len <= sizeof(peers->targets[0].to.raw)
        && (peers = peers_of(self)) != NULL) {
        remember_sender(peers, address, raw, len);
    }
    return address;
}

/* ---- targets ---- */

/* A host name is refused in words that say what to do about it. */
static void
explain_host(PyObject *address)
{
    PyObject *host = PyTuple_GET_ITEM(address, 0);
    if (PyErr_ExceptionMatches(PyExc_ValueError) && PyUnicode_Check(host)
        && !PyErr_ExceptionMatches(PyExc_UnicodeError)) {
        PyErr_Clear();
        PyErr_Format(PyExc_ValueError,
                     "sendto() does not look up host names: %R has to be "
                     "resolved first, by loop.getaddrinfo() for example", host);
    }
}

static bool
parse_inet(TulipDatagram *self, PyObject *address, TulipAddress *out)
{
    struct sockaddr_storage raw;
    if (tulip_datagram_api(self)->sockaddr_parse("sendto", address, &raw) < 0) {
        if (PyTuple_Check(address) && PyTuple_GET_SIZE(address) > 0) {
            explain_host(address);
        }
        return false;
    }
    out->len = raw.ss_family == AF_INET ? sizeof(struct sockaddr_in)
                                        : sizeof(struct sockaddr_in6);
    memcpy(&out->raw, &raw, out->len);
    return true;
}

/* A path or, beginning with NUL, an abstract name; str or bytes-like. */
static bool
parse_unix(PyObject *address, TulipAddress *out)
{
    struct sockaddr_un *un = &out->raw.un;
    PyObject *path = PyUnicode_Check(address) ? PyUnicode_EncodeFSDefault(address)
                                              : PyBytes_FromObject(address);
    size_t len;
    if (path == NULL) {
        if (PyErr_ExceptionMatches(PyExc_TypeError)) {
            PyErr_Clear();
            PyErr_Format(PyExc_TypeError,
                         "sendto(): the address of a UNIX socket must be a str "
                         "or bytes-like, not %.200s", Py_TYPE(address)->tp_name);
        }
        return false;
    }
    len = (size_t)PyBytes_GET_SIZE(path);
    memset(un, 0, sizeof(*un));
    un->sun_family = AF_UNIX;
    out->len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len);
    if (len > 0 && PyBytes_AS_STRING(path)[0] != '\0') {
        len++;                  /* the final NUL of a path counts */
        out->len++;
    }
    if (len > sizeof(un->sun_path)) {
        PyErr_SetString(PyExc_OSError, "AF_UNIX path too long");
        Py_DECREF(path);
        return false;
    }
    memcpy(un->sun_path, PyBytes_AS_STRING(path), (size_t)PyBytes_GET_SIZE(path));
    Py_DECREF(path);
    return true;
}

static bool
cannot_change(PyObject *address)
{
    if (!PyTuple_CheckExact(address)) {
        return PyUnicode_CheckExact(address) || PyBytes_CheckExact(address);
    }
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(address); i++) {
        PyObject *item = PyTuple_GET_ITEM(address, i);
        if (!PyUnicode_CheckExact(item) && !PyLong_CheckExact(item)) {
            return false;
        }
    }
    return true;
}

bool
tulip_address_parse(TulipDatagram *self, PyObject *address, TulipAddress *out)
{
    TulipPeers *peers = self->peers;
    Peer *target;
    if (peers != NULL && peers->size > 0
        && peers->senders[peers->last].address == address) {
        *out = peers->senders[peers->last].to;
        return true;
    }
    peers = peers_of(self);
    target = peers == NULL ? NULL
        : &peers->targets[((uintptr_t)address >> 4) % TARGETS];
    if (target != NULL && target->address == address) {
        *out = target->to;
        return true;
    }
    if (!(self->flags & TULIP_D_UNIX ? parse_unix(address, out)
                                     : parse_inet(self, address, out))) {
        return false;
    }
    if (target != NULL && cannot_change(address)) {
        target->to = *out;
        Py_XSETREF(target->address, Py_NewRef(address));
    }
    return true;
}
