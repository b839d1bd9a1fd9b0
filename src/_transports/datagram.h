/* DatagramTransport: an asyncio transport over a uv UDP handle or, for what that
 * cannot take (UNIX and other families, raw sockets), over a uv Poll.
 *
 * Either way the handle only says when the socket is readable; datagrams go in and
 * out by system calls on the descriptor, many with one call.  The descriptor is
 * the UDP handle's; that of a Poll is the transport's.
 *
 * Edges that the collector sees: transport -> loop, handle, timer, protocol,
 * receive, context, address, the two names, shown, stranger, held, the addresses
 * that it remembers, what waits, extra, __dict__; handle and timer -> transport as
 * their consumer's owner.  They are taken apart when the handle is closed.
 */
#ifndef TULIP_DATAGRAM_H
#define TULIP_DATAGRAM_H

#include "eventloop.h"
#include <netinet/in.h>
#include <sys/un.h>

/* State, in TulipDatagram.flags. */
enum {
    TULIP_D_OPEN = 1 << 0,          /* made completely; has to be closed */
    TULIP_D_STARTED = 1 << 1,       /* may receive: connection_made was called */
    TULIP_D_READING = 1 << 2,       /* the handle watches for datagrams */
    TULIP_D_PAUSED = 1 << 3,        /* by pause_reading */
    TULIP_D_CLOSING = 1 << 4,
    TULIP_D_LOST = 1 << 5,          /* connection_lost is scheduled */
    TULIP_D_LOST_DONE = 1 << 6,     /* and was called */
    TULIP_D_BARE = 1 << 7,          /* receive is the function of a method */
    TULIP_D_ENTERED = 1 << 8,       /* the context is entered */
    TULIP_D_RECEIVING = 1 << 9,     /* a flush comes after the batch */
    TULIP_D_FLUSHING = 1 << 10,
    TULIP_D_LISTED = 1 << 11,       /* in loop->datagrams */
    TULIP_D_DELAYED = 1 << 12,      /* sends no more before the timer fires, ... */
    TULIP_D_WATCHING = 1 << 13,     /* ... or before the Poll finds it writable */
    TULIP_D_WRITING_PAUSED = 1 << 14,   /* pause_writing was called */
    TULIP_D_CONNECTED = 1 << 15,    /* the kernel knows where to send to, ... */
    TULIP_D_NAMED = 1 << 16,        /* ... which has a name */
    TULIP_D_POLLED = 1 << 17,       /* over a Poll */
    TULIP_D_UNIX = 1 << 18,
    TULIP_D_RECORDS = 1 << 19,      /* SOCK_SEQPACKET: it has an end */
};

typedef struct TulipAddress {
    socklen_t len;                  /* 0: none, or that of the connection */
    union {
        struct sockaddr any;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
        struct sockaddr_un un;
    } raw;
} TulipAddress;

/* A datagram that waits to be sent. */
typedef struct TulipPacket {
    PyObject *data;                 /* exact bytes; strong */
    PyObject *target;               /* of a stranger: its address, or NULL */
    TulipAddress to;
} TulipPacket;

struct TulipSend;
struct TulipPeers;

typedef struct TulipDatagram {
    PyObject_HEAD
    PyObject *extra;            /* the slot _extra of asyncio.BaseTransport */
    TulipLoop *loop;            /* strong, for life */
    PyObject *handle;           /* strong until it is closed */
    uv_handle_t *uv;            /* of handle; NULL with it */
    PyObject *protocol;         /* NULL after connection_lost */
    PyObject *receive;          /* datagram_received, or NULL */
    PyObject *context;
    PyObject *address;          /* the only one to send to, or NULL */
    TulipAddress to;            /* the same, unless the socket is connected */
    PyObject *sockname, *peername;
    PyObject *shown;            /* get_extra_info("socket") */
    PyObject *stranger;         /* a socket: its family's addresses are unknown */
    PyObject *held;             /* a list of what came before a pause, or NULL */
    struct TulipPeers *peers;   /* addresses remembered; NULL until needed */
    TulipPacket *queue;         /* first .. count - 1 wait to be sent */
    unsigned first, count, capacity;
    size_t queued;              /* their bytes, as flow control counts them */
    struct TulipSend *sending;  /* one that libuv sends when it can */
    PyObject *timer;            /* strong; NULL until needed */
    uint64_t delay;             /* of its next wait, ms */
    size_t high, low;           /* write buffer limits */
    struct TulipDatagram *next_dirty;
    PyObject *dict;
    PyObject *weakrefs;
    unsigned flags;
    unsigned lost_writes;       /* since it was closed, plus 1 */
    int fd;                     /* -1 once it is closed */
    unsigned char polled;       /* what the Poll watches for */
} TulipDatagram;

static inline const UvtCAPI *
tulip_datagram_api(const TulipDatagram *self)
{
    return self->loop->st->uv;
}

static inline bool
tulip_datagram_waits(const TulipDatagram *self)
{
    return self->sending != NULL
        || (self->flags & (TULIP_D_DELAYED | TULIP_D_WATCHING)) != 0;
}

/* False once the handle is closed, by whomever: then the descriptor's number may
 * be that of another file. */
static inline bool
tulip_datagram_has_fd(const TulipDatagram *self)
{
    return self->uv != NULL && !uv_is_closing(self->uv);
}

/* ---- datagram.c ---- */

/* False while another thread runs the loop. */
bool tulip_datagram_on_thread(const TulipDatagram *self);
/* The same, with RuntimeError. */
UVT_CHECKED bool tulip_datagram_check_thread(const TulipDatagram *self);

/* ---- datagram_close.c ---- */

/* Drops what waits to be sent and schedules connection_lost(exc); exc may be
 * NULL for None.  -1 with an exception when it cannot be scheduled. */
UVT_CHECKED int tulip_datagram_force_close(TulipDatagram *self, PyObject *exc);
UVT_CHECKED int tulip_datagram_begin_close(TulipDatagram *self);
/* Everything is sent: a transport that closes is closed. */
void tulip_datagram_drained(TulipDatagram *self);
/* The consumer's event: the handle is closed, by whomever. */
void tulip_datagram_on_closed(PyObject *owner);
/* Takes the raised exception: reports it unless it is an OSError, and drops the
 * connection. */
void tulip_datagram_fatal(TulipDatagram *self);
/* Closes the handle and the descriptor without telling the protocol. */
void tulip_datagram_close_handle(TulipDatagram *self);
extern PyMethodDef tulip_datagram_close_methods[];

/* ---- datagram_protocol.c ---- */

/* Looks up what is called for each datagram. */
void tulip_datagram_use_protocol(TulipDatagram *self, PyObject *protocol);
/* Enters the context of the protocol's calls, unless it is entered; leave()
 * wants what enter() returned.  -1 with an exception. */
UVT_CHECKED int tulip_datagram_enter(TulipDatagram *self);
void tulip_datagram_leave(TulipDatagram *self, int entered);
/* All of these call the protocol in that context, and hand what it raises to the
 * loop's exception handler.  The caller owns a reference to self, which may be
 * closed afterwards. */
void tulip_datagram_call(TulipDatagram *self, PyObject *name, PyObject *arg,
                         const char *message);
/* datagram_received(data, addr). */
void tulip_datagram_deliver(TulipDatagram *self, PyObject *data, PyObject *addr);
/* error_received() with the OSError of an errno. */
void tulip_datagram_error(TulipDatagram *self, int error);
/* The same with the raised exception if that is an OSError; another one is
 * fatal. */
void tulip_datagram_raised(TulipDatagram *self);
size_t tulip_datagram_buffered(const TulipDatagram *self);
void tulip_datagram_maybe_pause(TulipDatagram *self);
void tulip_datagram_maybe_resume(TulipDatagram *self);
extern PyMethodDef tulip_datagram_flow_methods[];

/* ---- datagram_read.c ---- */

/* Starts or stops watching as the flags demand. */
void tulip_datagram_update_reading(TulipDatagram *self);
/* Has a Poll watch for what the flags demand, and for nothing else. */
void tulip_datagram_update_poll(TulipDatagram *self);
extern const UvtConsumer tulip_datagram_consumer;
extern PyMethodDef tulip_datagram_read_methods[];
/* Of the loop: where batches come in. */
void tulip_arrivals_free(struct TulipArrivals *arrivals);

/* ---- datagram_address.c ---- */

/* The address of a datagram as a tuple, str, bytes or None.  Remembers. */
UVT_NEW PyObject *tulip_address_format(TulipDatagram *self,
                                       const struct sockaddr *raw,
                                       socklen_t len);
/* The reverse, for sendto(); false with an exception. */
UVT_CHECKED bool tulip_address_parse(TulipDatagram *self, PyObject *address,
                                     TulipAddress *out);
int tulip_peers_traverse(struct TulipPeers *peers, visitproc visit, void *arg);
void tulip_peers_free(struct TulipPeers *peers);

/* ---- datagram_write.c ---- */

/* Sends what the kernel takes, unless it waits. */
void tulip_datagram_flush(TulipDatagram *self);
void tulip_datagram_drop_queue(TulipDatagram *self);
/* Flushes every transport that has unsent datagrams. */
void tulip_flush_datagrams(TulipLoop *loop);
/* For the loop's own traverse and clear. */
int tulip_datagrams_traverse(TulipLoop *loop, visitproc visit, void *arg);
void tulip_datagrams_clear(TulipLoop *loop);
/* As flow control counts the datagram. */
size_t tulip_packet_size(PyObject *data);
void tulip_packet_clear(TulipPacket *packet);
/* Takes the first one out of the queue; there has to be one. */
TulipPacket tulip_datagram_pop(TulipDatagram *self);
extern PyMethodDef tulip_datagram_write_methods[];

/* ---- datagram_wait.c ---- */

/* The kernel refused the first packet with this errno: has the queue flushed
 * when it can be expected to take it. */
void tulip_datagram_wait(TulipDatagram *self, int error);
/* The wait is over: flushes, and does what that may allow. */
void tulip_datagram_go_on(TulipDatagram *self);
/* Waits no more. */
void tulip_datagram_stop_waiting(TulipDatagram *self);
/* What libuv sends: its bytes as flow control counts them. */
size_t tulip_send_size(const struct TulipSend *sending);
/* The transport goes: the request frees itself. */
void tulip_send_orphan(struct TulipSend *sending);

#endif
