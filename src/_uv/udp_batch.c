/* Datagrams in and out of a UDP handle: receiving, in batches by recvmmsg when
 * the handle was made with UV_UDP_RECVMMSG, and sending.  All functions run on
 * the loop's thread, attached, except on_alloc, which may run detached and then
 * touches nothing of Python's.  A send request is an allocation of its own that
 * owns the buffers and the callback until libuv's callback, which comes even
 * when the handle object is gone; the batch buffer belongs to the object.
 */
#include "args.h"
#include "audit.h"
#include "consumer.h"
#include "descriptor.h"
#include "errors.h"
#include "guards.h"
#include "sockaddr.h"
#include "udp.h"
#include <errno.h>
#include <stddef.h>
#include <string.h>

/* libuv gives each datagram of a batch 64 KiB and takes at most 20 at once. */
#define CHUNK_SIZE ((size_t)64 * 1024)
#define BATCH_SIZE (20 * CHUNK_SIZE)
/* More buffers for one datagram than any kernel takes; newer libuv refuses
 * them, older would copy their table for nothing. */
#define MAX_PIECES (1024 * 1024)
/* What is told of a socket's queue of errors in one go. */
#define ERRORS_MOST 64

/* ---- receiving ---- */

/* Tells a consumer that receives by itself.  Given no buffer, libuv calls on_recv
 * next and reads nothing; until then it must not be told to stop.  The reference
 * to self is dropped there. */
static void
announce(UvtHandle *self)
{
    uvt_loop_attach(self->loop);
    Py_INCREF(self);
    ((UvtUDP *)self)->announcing = true;
    UVT_TELL_CONSUMER(self, readable, owner);
}

/* In the place of on_recv, which the consumer's `alloc` has taken away: libuv calls
 * what is there after it, once. */
static void
on_unreceived(uv_udp_t *uv, ssize_t Py_UNUSED(nread), const uv_buf_t *Py_UNUSED(buf),
              const struct sockaddr *Py_UNUSED(addr), unsigned Py_UNUSED(flags))
{
    uv->recv_cb = NULL;
}

static void
ask_consumer(UvtHandle *self, uv_udp_t *uv, size_t suggested, uv_buf_t *buf)
{
    bool batch = uv_udp_using_recvmmsg(uv);
    Py_INCREF(self);
    UVT_TELL_CONSUMER(self, alloc, owner, batch ? BATCH_SIZE : suggested, buf);
    /* With less than one chunk libuv up to 1.44 would ask for ever. */
    if (uv->recv_cb == NULL || uv_is_closing((uv_handle_t *)uv)
        || (batch && buf->len < CHUNK_SIZE)) {
        *buf = uv_buf_init(NULL, 0);
    }
    if (uv->recv_cb == NULL) {
        uv->recv_cb = on_unreceived;
    }
    Py_DECREF(self);
}

static void
on_alloc(uv_handle_t *uv, size_t suggested, uv_buf_t *buf)
{
    UvtHandle *self = ((UvtBox *)uv->data)->owner;
    UvtLoop *loop = uvt_loop_of(uv->loop);
    bool batch = uv_udp_using_recvmmsg((uv_udp_t *)uv);
    *buf = uv_buf_init(NULL, 0);
    if (self == NULL || loop == NULL) {
        return;
    }
    if (self->consumer != NULL && self->consumer->readable != NULL) {
        announce(self);
    }
    else if (self->consumer != NULL && self->consumer->alloc != NULL) {
        uvt_loop_attach(loop);
        ask_consumer(self, (uv_udp_t *)uv, suggested, buf);
    }
    else if (batch) {
        *buf = uv_buf_init(((UvtUDP *)self)->batch, (unsigned)BATCH_SIZE);
    }
    else {
        uvt_slab_take(loop, buf);
    }
}

static void
deliver_to_python(UvtHandle *self, ssize_t nread, const char *base,
                  const struct sockaddr *addr, unsigned flags)
{
    PyObject *callback = Py_XNewRef(self->callback);
    PyObject *args[6] = {NULL, (PyObject *)self};
    if (nread >= 0) {
        args[2] = uvt_udp_peer_address((UvtUDP *)self, addr);
        args[4] = PyBytes_FromStringAndSize(base, nread);
    }
    else {
        args[2] = Py_NewRef(Py_None);
        args[4] = Py_NewRef(Py_None);
    }
    args[3] = PyLong_FromUnsignedLong(flags);
    args[5] = uvt_errorno((int)nread);
    uvt_call(self, callback, args + 1, 5);
    for (int i = 2; i < 6; i++) {
        Py_XDECREF(args[i]);
    }
    Py_XDECREF(callback);
}

static void
deliver(UvtHandle *self, ssize_t nread, const uv_buf_t *buf,
        const struct sockaddr *addr, unsigned flags)
{
    if (self->consumer != NULL) {
        UVT_TELL_CONSUMER(self, datagram, owner, nread, buf,
                          nread < 0 ? NULL : addr, flags);
    }
    else {
        deliver_to_python(self, nread, buf->base, addr, flags);
    }
}

/* The socket was found readable and had nothing: with IP_RECVERR it is so until
 * somebody takes the errors that its datagrams have met with.  From 1.52 on libuv
 * tells of each, as here. */
static void
deliver_errors(UvtHandle *self, uv_udp_t *uv)
{
    const uv_buf_t nothing = {0};
    int error = 0;
    uv_os_fd_t fd;
    for (int i = 0; i < ERRORS_MOST && error >= 0 && self->reading
                    && uv_fileno((uv_handle_t *)uv, &fd) == 0; i++) {
        error = uvt_fd_next_error(fd);
        if (error > 0) {
            deliver(self, uv_translate_sys_error(error), &nothing, NULL,
                    UV_UDP_LINUX_RECVERR);
        }
    }
}

#if UV_VERSION_HEX < 0x013200
typedef struct Node {
    struct Node *next, *prev;
} Node;

static uv_udp_send_t *
request_of(Node *node)
{
    return (uv_udp_send_t *)((char *)node - offsetof(uv_udp_send_t, queue));
}

/* Moves a node to behind another one. */
static void
move_behind(Node *place, Node *node)
{
    node->prev->next = node->next;
    node->next->prev = node->prev;
    node->prev = place;
    node->next = place->next;
    place->next->prev = node;
    place->next = node;
}

/* Before 1.50, libuv gives all datagrams of a batch the error of its first one and
 * sends none.  Of the requests that are done, `failed` has just been taken out, and
 * what follows with its status is the rest of the batch: that is sent yet, before
 * all that was queued later.  Both kinds of queue node that libuv has had are two
 * pointers. */
static void
spare_batch(const uv_udp_send_t *failed)
{
    uv_udp_t *uv = failed->handle;
    Node *done = (Node *)&uv->write_completed_queue;
    Node *place = (Node *)&uv->write_queue;
    while (done->next != done && request_of(done->next)->status == failed->status) {
        Node *node = done->next;
        move_behind(place, node);
        place = node;
    }
}
#endif

#if UV_VERSION_HEX < 0x013100
/* Before 1.49, libuv goes on sending what is queued when a receive callback has
 * closed the handle, fails, and then keeps a pointer to it that outlives it.  So
 * the queue is emptied first, the way libuv does it later in the close. */
static void
cancel_queued(uv_udp_t *uv)
{
    Node *queue = (Node *)&uv->write_queue;
    const Node *done = (Node *)&uv->write_completed_queue;
    while (queue->next != queue) {
        request_of(queue->next)->status = UV_ECANCELED;
        move_behind(done->prev, queue->next);
    }
}
#endif

static void
no_room(uv_handle_t *Py_UNUSED(uv), size_t Py_UNUSED(suggested), uv_buf_t *buf)
{
    *buf = uv_buf_init(NULL, 0);
}

static void
on_nothing(uv_udp_t *Py_UNUSED(uv), ssize_t Py_UNUSED(nread),
           const uv_buf_t *Py_UNUSED(buf), const struct sockaddr *Py_UNUSED(addr),
           unsigned Py_UNUSED(flags))
{
}

/* From 1.52 on libuv tries to receive when the socket of a handle that only sends is
 * in an error, and aborts when nobody is there to be told. */
void
uvt_udp_receive_nothing(uv_udp_t *uv)
{
    uv->alloc_cb = no_room;
    uv->recv_cb = on_nothing;
}

static void
stop_receiving(uv_udp_t *uv)
{
    (void)uv_udp_recv_stop(uv);
    if (!uv_is_closing((uv_handle_t *)uv)) {
        uvt_udp_receive_nothing(uv);
    }
}

/* After announce(): makes up for what was not done in between. */
static void
announced(UvtHandle *self, uv_udp_t *uv)
{
    ((UvtUDP *)self)->announcing = false;
    if (!self->reading && !uv_is_closing((uv_handle_t *)uv)) {
        stop_receiving(uv);
    }
    Py_DECREF(self);
}

/* What libuv tells of an entry in the socket's queue of errors: it negates an
 * unsigned number of 32 bits, which makes a large size of it.  0: the entry is no
 * error, but tells of a sending that has gone well. */
static ssize_t
queued_error(ssize_t nread)
{
    int error = (int)(uint32_t)nread;
    return error == -ENOMSG || error > 0 ? 0 : error;
}

/* libuv also calls for EAGAIN and for the end of a batch, without an address;
 * and after a close, for the rest of a batch. */
static void
on_recv(uv_udp_t *uv, ssize_t nread, const uv_buf_t *buf,
        const struct sockaddr *addr, unsigned flags)
{
    UvtHandle *self = uvt_enter(uv);
    const bool batch_ends = (flags & UV_UDP_MMSG_FREE) != 0;
    UvtLoop *loop;
    if (self == NULL) {
        return;
    }
    loop = (UvtLoop *)Py_XNewRef(self->loop);
    if (flags & UV_UDP_LINUX_RECVERR) {
        nread = queued_error(nread);
        addr = NULL;
    }
    flags &= ~(unsigned)(UV_UDP_MMSG_CHUNK | UV_UDP_MMSG_FREE);
    if (((UvtUDP *)self)->announcing) {
        announced(self, uv);
    }
    else if (!uv_is_closing((uv_handle_t *)uv) && (nread < 0 || addr != NULL)) {
        self->dry = addr == NULL;
        deliver(self, nread, buf, addr, flags);
    }
    else if (nread == 0 && !batch_ends) {
        if (self->dry && !uv_is_closing((uv_handle_t *)uv)) {
            deliver_errors(self, uv);
        }
        self->dry = true;
    }
    if (loop != NULL && buf->base != NULL && buf->base == loop->slab) {
        uvt_slab_give(loop);
    }
    Py_XDECREF(loop);
    uvt_leave(self);
#if UV_VERSION_HEX < 0x013100
    if (uv_is_closing((uv_handle_t *)uv)) {
        cancel_queued(uv);
    }
#endif
}

void
uvt_udp_refused(UvtHandle *self, int status)
{
    const UvtConsumer *consumer = self->consumer;
    UvtBox *box = self->box;
    uv_buf_t nothing = {0};
    if (self->reading) {
        uvt_udp_recv_stop(self);
        if (consumer == NULL) {
            deliver_to_python(self, status, NULL, NULL, 0);
        }
        else if (consumer->datagram != NULL) {
            UVT_TELL_CONSUMER(self, datagram, owner, status, &nothing, NULL, 0);
        }
        else {
            UVT_TELL_CONSUMER(self, ready, owner, status, 0);
        }
    }
    if (self->box == box && box->uv.udp.io_watcher.pevents != 0) {
        uvt_handle_close(self);
    }
}

/* libuv receives on an unbound socket without a word, but nothing comes. */
static int
ensure_bound(UvtHandle *self)
{
    struct sockaddr_storage addr;
    int size = sizeof(addr), rc;
    memset(&addr, 0, sizeof(addr));
    rc = uv_udp_getsockname(&self->box->uv.udp, (struct sockaddr *)&addr,
                            &size);
    /* The port has the same place in both families. */
    if (rc == 0 && (addr.ss_family == AF_INET || addr.ss_family == AF_INET6)
        && ((struct sockaddr_in *)&addr)->sin_port == 0) {
        rc = uv_udp_bind(&self->box->uv.udp, (struct sockaddr *)&addr, 0);
    }
    return rc;
}

int
uvt_udp_recv_start(UvtHandle *self)
{
    UvtUDP *udp = (UvtUDP *)self;
    bool announces = self->consumer != NULL && self->consumer->readable != NULL;
    int rc;
    if (self->reading) {
        return 0;
    }
    if (udp->announcing) {      /* it has not been stopped yet */
        self->reading = true;
        return 0;
    }
    if (!announces && udp->batch == NULL
        && uv_udp_using_recvmmsg(&self->box->uv.udp)) {
        udp->batch = PyMem_RawMalloc(BATCH_SIZE);
        if (udp->batch == NULL) {
            return UV_ENOMEM;
        }
    }
    rc = uvt_udp_ensure_socket(self, AF_INET, 0);
    if (rc == 0 && !announces) {
        rc = ensure_bound(self);
    }
    if (rc == 0) {
        rc = uvt_guard_reserve(&self->loop->core->uv,
                               self->box->uv.udp.io_watcher.fd);
    }
    if (rc == 0) {
        rc = uv_udp_recv_start(&self->box->uv.udp, on_alloc, on_recv);
    }
    if (rc == 0) {
        self->reading = true;
        uvt_handle_update(self);
    }
    return rc;
}

void
uvt_udp_recv_stop(UvtHandle *self)
{
    self->reading = false;
    if (!((UvtUDP *)self)->announcing) {
        stop_receiving(&self->box->uv.udp);
    }
    uvt_handle_update(self);
}

const char uvt_udp_start_recv_doc[] =
"start_recv($self, callback, /)\n--\n\n"
"Receive datagrams: callback(handle, addr, flags, data, errorno).  flags is 0\n"
"or UV_UDP_PARTIAL (the datagram was cut), data is bytes (b'' for an empty\n"
"datagram), errorno None; after an error addr and data are None and errorno is\n"
"negative, and receiving goes on; UV_UDP_LINUX_RECVERR in flags means that it was\n"
"in the socket's queue of errors.  Binds to an ephemeral port (of IPv4, without\n"
"a socket) when not bound.  While receiving, it only changes the callback.\n\n"
"Raises TypeError, HandleClosedError, UDPError.";

PyObject *
uvt_udp_start_recv(UvtHandle *self, PyObject *callback)
{
    UVT_LOCKED(self->lock);
    int rc;
    if (!uvt_arg_callable("UDP.start_recv", callback)
        || !uvt_handle_check_free(self, "UDP.start_recv")) {
        return NULL;
    }
    rc = uvt_udp_recv_start(self);
    if (rc == 0) {
        rc = uvt_guard_watch(self->box);
        if (rc < 0) {
            uvt_udp_recv_stop(self);
        }
    }
    if (rc < 0) {
        return uvt_handle_raise(self, rc, "uv_udp_recv_start");
    }
    Py_XSETREF(self->callback, Py_NewRef(callback));
    Py_RETURN_NONE;
}

const char uvt_udp_stop_recv_doc[] =
"stop_recv($self, /)\n--\n\n"
"Stop receiving.  No datagram comes after it: with UV_UDP_RECVMMSG the rest of a\n"
"batch that is being delivered is lost.  Harmless when idle.\n\n"
"Raises HandleClosedError.";

PyObject *
uvt_udp_stop_recv(UvtHandle *self, PyObject *Py_UNUSED(unused))
{
    UVT_LOCKED(self->lock);
    if (!uvt_handle_check_free(self, "UDP.stop_recv")) {
        return NULL;
    }
    if (self->reading) {
        PyObject *callback = self->callback;
        self->callback = NULL;
        uvt_udp_recv_stop(self);
        Py_XDECREF(callback);
    }
    Py_RETURN_NONE;
}

/* ---- sending ---- */

typedef struct Send {
    uv_udp_send_t req;              /* first: libuv gives this one back */
    UvtRequest base;
    UvtBuffers buffers;
    bool alone;                     /* it was in no batch */
} Send;

static void
on_send(uv_udp_send_t *req, int status)
{
    Send *send = (Send *)req;
#if UV_VERSION_HEX < 0x013200
    if (status < 0 && status != UV_ECANCELED && !send->alone) {
        spare_batch(req);
    }
#endif
    uvt_request_done(&send->base, req->handle, status);
    PyMem_Free(send);
}

/* Where to send: an address tuple, or None (*out NULL) on a connected handle.
 * A tuple that came from a receive callback need not be parsed. */
bool
uvt_udp_parse_target(UvtHandle *self, const char *call, PyObject *address,
             struct sockaddr_storage *storage, struct sockaddr **out)
{
    const UvtPeer *peer;
    *out = NULL;
    if (address == Py_None) {
        return true;
    }
    *out = (struct sockaddr *)storage;
    peer = uvt_udp_find_peer((const UvtUDP *)self, address);
    if (peer != NULL) {
        memcpy(storage, &peer->raw, sizeof(peer->raw));
        return true;
    }
    return uvt_sockaddr_parse(call, address, storage);
}

const char uvt_udp_send_doc[] =
"send($self, addr, data, callback=None, /)\n--\n\n"
"Send one datagram, a bytes-like object or a sequence of them, to the tuple\n"
"addr, or None when connected.  data must not change until callback(handle,\n"
"errorno), which comes from a later turn of the loop; a datagram that is too\n"
"large is reported there (UV_EMSGSIZE).\n\n"
"Raises TypeError, ValueError, OverflowError, HandleClosedError, UDPError\n"
"(EISCONN: connected, and an address was given; EDESTADDRREQ: neither).";

PyObject *
uvt_udp_send(UvtHandle *self, PyObject *const *args, Py_ssize_t nargs)
{
    UVT_LOCKED(self->lock);
    struct sockaddr_storage storage;
    struct sockaddr *addr;
    PyObject *callback = NULL;
    Send *send;
    int rc = 0;

    if (!uvt_args_count("UDP.send", nargs, 2, 3)
        || !uvt_arg_callback("UDP.send", nargs > 2 ? args[2] : NULL, &callback)
        || !uvt_udp_parse_target(self, "UDP.send", args[0], &storage, &addr)
        || (addr != NULL && !uvt_audit_sendto((PyObject *)self, args[0]))) {
        return NULL;
    }
    send = PyMem_Calloc(1, sizeof(Send));
    if (send == NULL) {
        return PyErr_NoMemory();
    }
    if (!uvt_buffers_get(&send->buffers, "UDP.send", args[1])) {
        PyMem_Free(send);
        return NULL;
    }
    send->base.data = &send->buffers;
    uvt_request_begin(&send->base, self, callback);
    /* Getting the buffers may have run code that closed the handle. */
    if (!uvt_handle_check_free(self, "UDP.send")) {
        uvt_request_cancel(&send->base);
        PyMem_Free(send);
        return NULL;
    }
    if (send->buffers.count > MAX_PIECES) {
        rc = UV_EINVAL;
    }
    else if (addr != NULL) {
        rc = uvt_udp_ensure_socket(self, addr->sa_family, 0);
    }
    if (rc == 0) {
        rc = uv_udp_send(&send->req, &self->box->uv.udp, send->buffers.iov,
                         uvt_buffers_datagram(&send->buffers), addr, on_send);
        send->alone = send->req.status != 0;
    }
    if (rc < 0) {
        uvt_request_cancel(&send->base);
        PyMem_Free(send);
        return uvt_handle_raise(self, rc, "uv_udp_send");
    }
    Py_RETURN_NONE;
}

const char uvt_udp_try_send_doc[] =
"try_send($self, addr, data, /)\n--\n\n"
"Send one datagram at once and return its size; arguments as of send().\n\n"
"Raises as send(), and UDPError (EAGAIN: it cannot be sent now, or others wait;\n"
"EMSGSIZE).";

PyObject *
uvt_udp_try_send(UvtHandle *self, PyObject *const *args, Py_ssize_t nargs)
{
    UVT_LOCKED(self->lock);
    struct sockaddr_storage storage;
    struct sockaddr *addr;
    UvtBuffers data = {0};
    int rc = 0;

    if (!uvt_args_count("UDP.try_send", nargs, 2, 2)
        || !uvt_udp_parse_target(self, "UDP.try_send", args[0], &storage, &addr)
        || (addr != NULL && !uvt_audit_sendto((PyObject *)self, args[0]))
        || !uvt_buffers_get(&data, "UDP.try_send", args[1])) {
        return NULL;
    }
    if (!uvt_handle_check_free(self, "UDP.try_send")) {
        uvt_buffers_release(&data);
        return NULL;
    }
    if (data.count > MAX_PIECES) {
        rc = UV_EINVAL;
    }
    else if (addr != NULL) {
        rc = uvt_udp_ensure_socket(self, addr->sa_family, 0);
    }
    if (rc == 0) {
        rc = uv_udp_try_send(&self->box->uv.udp, data.iov,
                             uvt_buffers_datagram(&data), addr);
    }
    uvt_buffers_release(&data);
    if (rc < 0) {
        return uvt_handle_raise(self, rc, "uv_udp_try_send");
    }
    return PyLong_FromLong(rc);
}
