/* Waiting until the kernel takes more datagrams.  All functions run attached, on
 * the loop's thread.  Three ways:
 *
 * - libuv sends the first datagram of a UDP handle when it can.  The request is an
 *   allocation of its own, which libuv has until its callback.
 * - A Poll tells of writability.
 * - Nothing tells when the full buffer is that of a receiver to which a UNIX socket
 *   is not connected, nor when a device is out of memory: a timer tries again.
 */
#include "datagram.h"
#include <errno.h>

#define LONGEST_DELAY 16        /* milliseconds */

typedef struct TulipSend {
    uv_udp_send_t req;          /* its data is this struct */
    TulipDatagram *owner;       /* borrowed; NULL: it is gone */
    const UvtCAPI *api;
    TulipPacket packet;
} TulipSend;

size_t
tulip_send_size(const TulipSend *sending)
{
    return tulip_packet_size(sending->packet.data);
}

void
tulip_send_orphan(TulipSend *sending)
{
    sending->owner = NULL;
}

void
tulip_datagram_go_on(TulipDatagram *self)
{
    if (self->flags & TULIP_D_LOST) {
        return;
    }
    Py_INCREF(self);
    tulip_datagram_flush(self);
    tulip_datagram_maybe_resume(self);
    tulip_datagram_drained(self);
    Py_DECREF(self);
}

/* ---- by libuv ---- */

static void
on_sent(uv_udp_send_t *req, int status)
{
    TulipSend *sending = req->data;
    TulipDatagram *self;

    sending->api->attach(req->handle->loop);
    self = (TulipDatagram *)Py_XNewRef(sending->owner);
    tulip_packet_clear(&sending->packet);
    PyMem_Free(sending);
    if (self == NULL) {
        return;
    }
    self->sending = NULL;
    if (status < 0 && status != UV_ECANCELED && !(self->flags & TULIP_D_LOST)) {
        self->flags |= TULIP_D_FLUSHING;    /* abort() drops what has waited */
        tulip_datagram_error(self, -status);
        self->flags &= ~(unsigned)TULIP_D_FLUSHING;
    }
    tulip_datagram_go_on(self);
    Py_DECREF(self);
}

/* A libuv status; >= 0: the first packet is libuv's. */
static int
send_by_libuv(TulipDatagram *self)
{
    TulipPacket *packet = self->queue + self->first;
    TulipSend *sending = PyMem_Malloc(sizeof(TulipSend));
    uv_buf_t buf = {
        .base = PyBytes_AS_STRING(packet->data),
        .len = (size_t)PyBytes_GET_SIZE(packet->data),
    };
    int rc;
    if (sending == NULL) {
        return UV_ENOMEM;
    }
    sending->owner = self;
    sending->api = tulip_datagram_api(self);
    sending->req.data = sending;
    rc = uv_udp_send(&sending->req, (uv_udp_t *)self->uv, &buf, 1,
                     packet->to.len > 0 ? &packet->to.raw.any : NULL, on_sent);
    if (rc < 0) {
        PyMem_Free(sending);
        return rc;
    }
    sending->packet = tulip_datagram_pop(self);
    self->sending = sending;
    return 0;
}

/* ---- by a timer ---- */

static void
on_timer(PyObject *owner)
{
    TulipDatagram *self = (TulipDatagram *)owner;
    if (self->flags & TULIP_D_DELAYED) {
        self->flags &= ~(unsigned)TULIP_D_DELAYED;
        tulip_datagram_go_on(self);
    }
}

static void
on_timer_closed(PyObject *owner)
{
    TulipDatagram *self = (TulipDatagram *)owner;
    Py_CLEAR(self->timer);
    on_timer(owner);        /* It comes no more. */
}

static const UvtConsumer timer_consumer = {
    .fired = on_timer,
    .closed = on_timer_closed,
};

/* -1 with an exception. */
static int
open_timer(TulipDatagram *self)
{
    const UvtCAPI *api = tulip_datagram_api(self);
    PyObject *timer = api->timer_new(self->loop->uv_loop);
    if (timer == NULL) {
        return -1;
    }
    if (api->consume(timer, &timer_consumer, (PyObject *)self) < 0) {
        api->close(timer);
        Py_DECREF(timer);
        return -1;
    }
    self->timer = timer;
    return 0;
}

/* One that somebody has closed or is closing has another in its place.  A libuv status,
 * or 1 with an exception. */
static int
start_timer(TulipDatagram *self)
{
    const UvtCAPI *api = tulip_datagram_api(self);
    int rc = UV_EINVAL;
    if (self->timer != NULL) {
        rc = api->timer_start(self->timer, self->delay, 0);
        if (rc != UV_EINVAL) {
            return rc;
        }
        api->release(self->timer);
        Py_CLEAR(self->timer);
    }
    return open_timer(self) < 0 ? 1 : api->timer_start(self->timer, self->delay, 0);
}

static void
try_later(TulipDatagram *self)
{
    int rc;
    self->delay = self->delay == 0 ? 1
        : self->delay < LONGEST_DELAY ? 2 * self->delay : LONGEST_DELAY;
    rc = start_timer(self);
    if (rc < 0) {
        errno = -rc;
        (void)PyErr_SetFromErrno(PyExc_OSError);
    }
    if (rc != 0) {
        tulip_datagram_fatal(self);
        return;
    }
    self->flags |= TULIP_D_DELAYED;
}

/* ---- which one ---- */

void
tulip_datagram_wait(TulipDatagram *self, int error)
{
    if (error == ENOBUFS
        || (self->flags & (TULIP_D_UNIX | TULIP_D_CONNECTED)) == TULIP_D_UNIX) {
        try_later(self);
    }
    else if (self->flags & TULIP_D_POLLED) {
        self->flags |= TULIP_D_WATCHING;
        tulip_datagram_update_poll(self);
    }
    else if (send_by_libuv(self) < 0) {
        try_later(self);
    }
}

void
tulip_datagram_stop_waiting(TulipDatagram *self)
{
    self->flags &= ~(unsigned)(TULIP_D_DELAYED | TULIP_D_WATCHING);
    if (self->flags & TULIP_D_POLLED) {
        tulip_datagram_update_poll(self);
    }
}
