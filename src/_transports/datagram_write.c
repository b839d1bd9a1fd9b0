/* Sending: sendto(), what waits to be sent, and one system call for all that a
 * callback sent.  All functions run attached, on the thread that runs the loop or
 * while none does; in another one sendto() only queues.
 *
 * A queued datagram has a reference to an exact bytes object; whatever can change
 * is copied.  An error of the kernel concerns one datagram: the protocol is told
 * and the next one follows.
 */
#include "datagram.h"
#include <errno.h>
#include <string.h>

#define FIRST_CAPACITY 8
#define KEPT_CAPACITY 128       /* of an empty queue */
/* What one system call takes; with so many waiting it is made at once. */
#define BATCH 64

/* ---- the queue ---- */

size_t
tulip_packet_size(PyObject *data)
{
    return (size_t)PyBytes_GET_SIZE(data) + UVT_DATAGRAM_HEADER;
}

void
tulip_packet_clear(TulipPacket *packet)
{
    Py_CLEAR(packet->data);
    Py_CLEAR(packet->target);
}

/* Room for one more; -1 with MemoryError. */
static int
reserve(TulipDatagram *self)
{
    unsigned waiting = self->count - self->first, capacity = self->capacity;
    TulipPacket *grown;
    if (self->count < capacity) {
        return 0;
    }
    if (self->first > capacity / 2) {
        memmove(self->queue, self->queue + self->first,
                waiting * sizeof(TulipPacket));
        self->first = 0;
        self->count = waiting;
        return 0;
    }
    capacity = capacity == 0 ? FIRST_CAPACITY : 2 * capacity;
    grown = capacity > UINT_MAX / 4
        ? NULL : PyMem_Malloc(capacity * sizeof(TulipPacket));
    if (grown == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    if (waiting > 0) {
        memcpy(grown, self->queue + self->first, waiting * sizeof(TulipPacket));
    }
    PyMem_Free(self->queue);
    self->queue = grown;
    self->capacity = capacity;
    self->first = 0;
    self->count = waiting;
    return 0;
}

TulipPacket
tulip_datagram_pop(TulipDatagram *self)
{
    TulipPacket packet = self->queue[self->first++];
    self->queued -= tulip_packet_size(packet.data);
    if (self->first == self->count) {
        self->first = self->count = 0;
        if (self->capacity > KEPT_CAPACITY) {
            PyMem_Free(self->queue);
            self->queue = NULL;
            self->capacity = 0;
        }
    }
    return packet;
}

/* The first n are sent, or given up. */
static void
drop_first(TulipDatagram *self, unsigned n)
{
    for (; n > 0 && self->first < self->count; n--) {
        TulipPacket packet = tulip_datagram_pop(self);
        tulip_packet_clear(&packet);
    }
}

void
tulip_datagram_drop_queue(TulipDatagram *self)
{
    drop_first(self, self->count - self->first);
}

/* ---- sending ---- */

/* How many of the first ones were sent, or -errno. */
static int
send_packets(TulipDatagram *self)
{
    struct mmsghdr messages[BATCH];
    struct iovec buffers[BATCH];
    const int flags = MSG_DONTWAIT | MSG_NOSIGNAL;
    TulipPacket *packet = self->queue + self->first;
    unsigned n = self->count - self->first;
    int sent;

    if (n == 1) {
        sent = sendto(self->fd, PyBytes_AS_STRING(packet->data),
                      (size_t)PyBytes_GET_SIZE(packet->data), flags,
                      packet->to.len > 0 ? &packet->to.raw.any : NULL,
                      packet->to.len) < 0 ? -1 : 1;
        return sent < 0 ? -errno : sent;
    }
    if (n > BATCH) {
        n = BATCH;
    }
    for (unsigned i = 0; i < n; i++, packet++) {
        buffers[i].iov_base = PyBytes_AS_STRING(packet->data);
        buffers[i].iov_len = (size_t)PyBytes_GET_SIZE(packet->data);
        messages[i].msg_hdr = (struct msghdr){
            .msg_name = packet->to.len > 0 ? &packet->to.raw : NULL,
            .msg_namelen = packet->to.len,
            .msg_iov = &buffers[i],
            .msg_iovlen = 1,
        };
    }
    sent = sendmmsg(self->fd, messages, n, flags);
    return sent < 0 ? -errno : sent;
}

/* One datagram by the socket object.  The same, or 0 when that raised what is
 * no error of the kernel, which is fatal. */
static int
send_stranger(TulipDatagram *self)
{
    TulipPacket *packet = self->queue + self->first;
    PyObject *data = Py_NewRef(packet->data), *target = packet->target, *result;
    int error = 0;
    if (target == NULL) {
        result = PyObject_CallMethod(self->stranger, "send", "O", data);
    }
    else {
        Py_INCREF(target);
        result = PyObject_CallMethod(self->stranger, "sendto", "OO", data, target);
        Py_DECREF(target);
    }
    Py_DECREF(data);
    if (result != NULL) {
        Py_DECREF(result);
        return 1;
    }
    if (PyErr_ExceptionMatches(PyExc_OSError)) {
        PyObject *exc = PyErr_GetRaisedException();
        PyObject *number = PyObject_GetAttrString(exc, "errno");
        error = number == NULL ? -1 : (int)PyLong_AsLong(number);
        Py_XDECREF(number);
        PyErr_Clear();
        Py_DECREF(exc);
    }
    if (error <= 0) {
        if (!PyErr_Occurred()) {
            error = EINVAL;
        }
        else {
            tulip_datagram_fatal(self);
        }
    }
    return -error;
}

/* The first datagram was not sent. */
static void
refused(TulipDatagram *self, int error)
{
    switch (error) {
    case EINTR:
        break;
    case EAGAIN:
#if EWOULDBLOCK != EAGAIN
    case EWOULDBLOCK:
#endif
    case ENOBUFS:
        tulip_datagram_wait(self, error);
        break;
    default:
        drop_first(self, 1);
        tulip_datagram_error(self, error);
        break;
    }
}

static void
flush_again(PyObject *owner, PyObject *Py_UNUSED(arg))
{
    tulip_datagram_flush((TulipDatagram *)owner);
}

void
tulip_datagram_flush(TulipDatagram *self)
{
    unsigned limit = self->count - self->first;
    if (limit == 0 || (self->flags & TULIP_D_FLUSHING)
        || tulip_datagram_waits(self) || self->loop->forked) {
        return;
    }
    Py_INCREF(self);
    self->flags |= TULIP_D_FLUSHING;
    while (limit > 0 && self->first < self->count && !tulip_datagram_waits(self)) {
        unsigned done = 1;
        int sent;
        if (!tulip_datagram_has_fd(self)) {
            /* Closed by somebody else; `closed` follows. */
            tulip_datagram_drop_queue(self);
            break;
        }
        sent = self->stranger != NULL ? send_stranger(self) : send_packets(self);
        if (self->flags & TULIP_D_LOST) {
            break;
        }
        if (sent > 0) {
            done = (unsigned)sent;
            self->delay = 0;
            drop_first(self, done);
        }
        else {
            refused(self, -sent);
        }
        limit -= done < limit ? done : limit;
    }
    self->flags &= ~(unsigned)TULIP_D_FLUSHING;
    if (self->first < self->count && !tulip_datagram_waits(self)
        && tulip_loop_call_soon_c(self->loop, flush_again, (PyObject *)self,
                                  NULL) < 0) {
        /* An error_received() that always sends must not keep us here. */
        tulip_datagram_fatal(self);
    }
    tulip_datagram_maybe_resume(self);
    tulip_datagram_drained(self);
    Py_DECREF(self);
}

/* ---- the list of transports with something to send ---- */

static void
list_dirty(TulipDatagram *self)
{
    TulipLoop *loop = self->loop;
    self->flags |= TULIP_D_LISTED;
    self->next_dirty = NULL;
    if (loop->datagrams == NULL) {
        loop->datagrams = (TulipDatagram *)Py_NewRef(self);
    }
    else {
        loop->last_datagrams->next_dirty = (TulipDatagram *)Py_NewRef(self);
    }
    loop->last_datagrams = self;
}

/* Takes the first one out; the caller owns it. */
static TulipDatagram *
unlist_first(TulipLoop *loop)
{
    TulipDatagram *self = loop->datagrams;
    if (self != NULL) {
        loop->datagrams = self->next_dirty;
        self->next_dirty = NULL;
        self->flags &= ~(unsigned)TULIP_D_LISTED;
    }
    return self;
}

void
tulip_flush_datagrams(TulipLoop *loop)
{
    TulipDatagram *self;
    while ((self = unlist_first(loop)) != NULL) {
        tulip_datagram_flush(self);
        tulip_datagram_maybe_pause(self);
        Py_DECREF(self);
    }
}

int
tulip_datagrams_traverse(TulipLoop *loop, visitproc visit, void *arg)
{
    for (TulipDatagram *self = loop->datagrams; self != NULL;
         self = self->next_dirty) {
        Py_VISIT(self);
    }
    return 0;
}

void
tulip_datagrams_clear(TulipLoop *loop)
{
    TulipDatagram *self;
    while ((self = unlist_first(loop)) != NULL) {
        Py_DECREF(self);
    }
}

/* Something was queued: see to it that it is sent. */
static void
queued(TulipDatagram *self)
{
    if (!tulip_datagram_on_thread(self)) {
        if (!(self->flags & TULIP_D_LISTED)) {
            list_dirty(self);
        }
        tulip_loop_wake(self->loop);
        return;
    }
    if (self->queued > self->high || self->count - self->first >= BATCH
        || self->loop->thread_id == 0) {
        Py_INCREF(self);        /* errors and pause_writing call Python */
        tulip_datagram_flush(self);
        tulip_datagram_maybe_pause(self);
        Py_DECREF(self);
    }
    else if (!(self->flags
               & (TULIP_D_LISTED | TULIP_D_RECEIVING | TULIP_D_FLUSHING))
             && !tulip_datagram_waits(self)) {
        list_dirty(self);
    }
}

/* ---- sendto() ---- */

/* The data as exact bytes; NULL with TypeError as asyncio raises it. */
static PyObject *
as_bytes(PyObject *data)
{
    if (PyBytes_CheckExact(data)) {
        return Py_NewRef(data);
    }
    return tulip_check_data(data) ? PyBytes_FromObject(data) : NULL;
}

/* With an address of its own, a transport takes no other; false: ValueError. */
static bool
check_fixed(TulipDatagram *self, PyObject *addr)
{
    PyObject *text;
    int same;
    if (self->address == NULL || addr == Py_None || addr == self->address) {
        return true;
    }
    same = PyObject_RichCompareBool(addr, self->address, Py_EQ);
    if (same != 0) {
        return same > 0;
    }
    text = PyObject_Str(self->address);
    if (text != NULL) {
        PyErr_Format(PyExc_ValueError, "Invalid address: must be None or %U",
                     text);
        Py_DECREF(text);
    }
    return false;
}

/* Where to send: the fixed address, the connection's, or the one given. */
static bool
find_target(TulipDatagram *self, PyObject *addr, TulipPacket *packet)
{
    if (self->flags & TULIP_D_NAMED) {
        return true;
    }
    if (self->address != NULL) {
        addr = self->address;
    }
    if (addr == Py_None) {
        if (!(self->flags & TULIP_D_CONNECTED)) {
            PyErr_SetString(PyExc_TypeError,
                            "sendto() needs an address: the transport was made "
                            "without remote_addr");
            return false;
        }
        return true;
    }
    if (self->stranger != NULL) {
        packet->target = Py_NewRef(addr);
        return true;
    }
    if (addr == self->address) {
        packet->to = self->to;
        return true;
    }
    return tulip_address_parse(self, addr, &packet->to);
}

/* Is called only if there is a hook, which gets a socket as from its sendto(). */
static PyObject *
show_socket(void *transport)
{
    PyObject *shown = PyObject_CallMethod(transport, "get_extra_info", "s",
                                          "socket");
    PyObject *sock = shown != NULL && shown != Py_None
        ? PyObject_GetAttrString(shown, "_sock") : NULL;
    if (shown == NULL || (shown != Py_None && sock == NULL)) {
        Py_XDECREF(shown);
        return NULL;
    }
    if (sock == NULL) {
        return shown;       /* None: it is closed */
    }
    Py_DECREF(shown);
    return sock;
}

/* The audit event of what sends to an address; false: a hook has refused, which
 * the protocol has been told. */
static bool
announce(TulipDatagram *self, PyObject *addr)
{
    if (PySys_Audit("socket.sendto", "O&O", show_socket, self, addr) == 0) {
        return true;
    }
    tulip_datagram_raised(self);
    return false;
}

/* 1: the packet may be queued, 0: it is dropped, -1: exception.  Parsing an address
 * may run code of its members, which may even close the transport. */
static int
admit(TulipDatagram *self, TulipPacket *packet, PyObject *addr)
{
    if (!UVT_SENDS_EMPTY_DATAGRAMS && PyBytes_GET_SIZE(packet->data) == 0) {
        return 0;
    }
    if (!check_fixed(self, addr)) {
        return -1;
    }
    if (self->flags & TULIP_D_CLOSING) {
        return tulip_count_lost_write(self->loop, &self->lost_writes,
                                      "socket.send() raised exception.");
    }
    if (!tulip_loop_check_fork(self->loop)
        || !tulip_loop_check_thread(self->loop)
        || !find_target(self, addr, packet)) {
        return -1;
    }
    if (packet->to.len > 0
        && !announce(self, addr != Py_None ? addr : self->address)) {
        return 0;
    }
    return (self->flags & TULIP_D_CLOSING) == 0;
}

static int
send_to(TulipDatagram *self, PyObject *data, PyObject *addr)
{
    TulipPacket packet = {.data = as_bytes(data)};
    int rc = packet.data == NULL ? -1 : admit(self, &packet, addr);
    if (rc > 0 && reserve(self) < 0) {
        rc = -1;
    }
    if (rc <= 0) {
        tulip_packet_clear(&packet);
        return rc;
    }
    self->queue[self->count++] = packet;
    self->queued += tulip_packet_size(packet.data);
    queued(self);
    return 0;
}

/* The arguments when some are given by name; false with TypeError. */
static bool
bind_names(PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
           PyObject **data, PyObject **addr)
{
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(kwnames); i++) {
        PyObject *name = PyTuple_GET_ITEM(kwnames, i);
        PyObject **slot = PyUnicode_CompareWithASCIIString(name, "data") == 0
            ? data : PyUnicode_CompareWithASCIIString(name, "addr") == 0
            ? addr : NULL;
        if (slot == NULL) {
            PyErr_Format(PyExc_TypeError,
                         "sendto() got an unexpected keyword argument %R", name);
            return false;
        }
        if (*slot != NULL) {
            PyErr_Format(PyExc_TypeError,
                         "sendto() got multiple values for argument %R", name);
            return false;
        }
        *slot = args[nargs + i];
    }
    return true;
}

PyDoc_STRVAR(sendto_doc,
"sendto($self, data, addr=None)\n--\n\n"
"Send a datagram: bytes, bytearray or memoryview.  It leaves when the callback\n"
"that sent it returns, together with all else that was sent until then, or at\n"
"once above the high-water mark.  A buffer that can change may do so after this\n"
"call.  addr is an address with a numeric host, or None when the transport has\n"
"a remote address.  What the kernel finds wrong goes to error_received().\n\n"
"Does nothing once the transport is closed.  Raises TypeError, ValueError (not\n"
"the remote address; a host name), OverflowError (port).");

static PyObject *
datagram_sendto(TulipDatagram *self, PyObject *const *args, Py_ssize_t nargs,
                PyObject *kwnames)
{
    UVT_LOCKED(tulip_lock(self->loop));
    PyObject *data = nargs > 0 ? args[0] : NULL;
    PyObject *addr = nargs > 1 ? args[1] : NULL;
    if (nargs > 2) {
        PyErr_Format(PyExc_TypeError,
                     "sendto() takes 1 or 2 arguments, %zd were given", nargs);
        return NULL;
    }
    if (kwnames != NULL && !bind_names(args, nargs, kwnames, &data, &addr)) {
        return NULL;
    }
    if (data == NULL) {
        PyErr_SetString(PyExc_TypeError,
                        "sendto() missing required argument: 'data'");
        return NULL;
    }
    return send_to(self, data, addr == NULL ? Py_None : addr) < 0
        ? NULL : Py_NewRef(Py_None);
}

PyMethodDef tulip_datagram_write_methods[] = {
    {"sendto", (PyCFunction)(void (*)(void))datagram_sendto,
     METH_FASTCALL | METH_KEYWORDS, sendto_doc},
    {NULL},
};
