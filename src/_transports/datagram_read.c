/* Receiving: a batch of datagrams with one system call when the socket is
 * readable, each of them handed to the protocol.  All functions run attached, on
 * the loop's thread.  The loop owns the memory that batches come in to, which is
 * in use only until the last one of a batch is delivered.
 */
#include "datagram.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>

/* A datagram of UDP fits into 64 KiB; others get what asyncio gives them.  The
 * odd rest keeps the beginnings of all buffers out of one set of the processor's
 * cache. */
#define SMALL ((size_t)64 * 1024)
#define LARGE ((size_t)256 * 1024)
#define SKEW ((size_t)320)
#define BATCH 32
#define MEMORY (BATCH * (SMALL + SKEW))

typedef struct TulipArrivals {
    struct mmsghdr messages[BATCH];
    struct iovec buffers[BATCH];
    struct sockaddr_storage names[BATCH];
    size_t size;                /* of each buffer */
    unsigned count;             /* how many of them fit into memory */
    char memory[];
} TulipArrivals;

/* ---- the loop's memory ---- */

static void
divide(TulipArrivals *self, size_t size)
{
    self->size = size;
    self->count = (unsigned)(MEMORY / (size + SKEW));
    memset(self->messages, 0, sizeof(self->messages));
    for (unsigned i = 0; i < self->count; i++) {
        self->buffers[i].iov_base = self->memory + i * (size + SKEW);
        self->buffers[i].iov_len = size;
        self->messages[i].msg_hdr.msg_iov = &self->buffers[i];
        self->messages[i].msg_hdr.msg_iovlen = 1;
        self->messages[i].msg_hdr.msg_name = &self->names[i];
        self->messages[i].msg_hdr.msg_namelen = sizeof(self->names[i]);
    }
}

/* NULL with MemoryError. */
static TulipArrivals *
arrivals_for(TulipDatagram *self)
{
    TulipArrivals *arrivals = self->loop->arrivals;
    size_t size = self->flags & TULIP_D_POLLED ? LARGE : SMALL;
    if (arrivals == NULL) {
        arrivals = PyMem_RawMalloc(sizeof(TulipArrivals) + MEMORY);
        if (arrivals == NULL) {
            PyErr_NoMemory();
            return NULL;
        }
        self->loop->arrivals = arrivals;
        arrivals->size = 0;
    }
    if (arrivals->size != size) {
        divide(arrivals, size);
    }
    return arrivals;
}

void
tulip_arrivals_free(TulipArrivals *arrivals)
{
    PyMem_RawFree(arrivals);
}

/* ---- one datagram ---- */

/* pause_reading() was called in the middle of a batch. */
static void
hold(TulipDatagram *self, PyObject *data, PyObject *addr)
{
    PyObject *item = PyTuple_Pack(2, data, addr);
    if (self->held == NULL) {
        self->held = PyList_New(0);
    }
    if (item == NULL || self->held == NULL
        || PyList_Append(self->held, item) < 0) {
        tulip_datagram_fatal(self);
    }
    Py_XDECREF(item);
}

static void
deliver_or_hold(TulipDatagram *self, PyObject *data, PyObject *addr)
{
    if ((self->flags & TULIP_D_PAUSED) || self->held != NULL) {
        hold(self, data, addr);
    }
    else {
        tulip_datagram_deliver(self, data, addr);
    }
}

static void
take(TulipDatagram *self, const struct mmsghdr *message)
{
    const struct msghdr *header = &message->msg_hdr;
    PyObject *data, *addr;
    if ((self->flags & TULIP_D_RECORDS) && message->msg_len == 0) {
        /* The end, which would be read again and again. */
        if (tulip_datagram_begin_close(self) < 0) {
            PyErr_WriteUnraisable((PyObject *)self);
        }
        return;
    }
    data = PyBytes_FromStringAndSize(header->msg_iov->iov_base,
                                     (Py_ssize_t)message->msg_len);
    addr = data == NULL ? NULL : tulip_address_format(self, header->msg_name,
                                                      header->msg_namelen);
    if (addr != NULL) {
        deliver_or_hold(self, data, addr);
    }
    else {
        tulip_loop_report(self->loop, "A datagram is lost", (PyObject *)self,
                          self->protocol, NULL);
    }
    Py_XDECREF(data);
    Py_XDECREF(addr);
}

/* ---- a batch ---- */

/* With IP_RECVERR the kernel keeps details of errors that it has reported, and
 * finds the socket readable until somebody takes them. */
static void
drop_error_details(int fd)
{
    char unused[1];
    while (recv(fd, unused, sizeof(unused), MSG_ERRQUEUE | MSG_DONTWAIT) >= 0) {
        continue;
    }
}

static void
receive_batch(TulipDatagram *self)
{
    TulipArrivals *arrivals = arrivals_for(self);
    int entered, n;
    if (arrivals == NULL) {
        tulip_datagram_fatal(self);
        return;
    }
    n = recvmmsg(self->fd, arrivals->messages, arrivals->count, MSG_DONTWAIT,
                 NULL);
    if (n < 0) {
        if (errno == EAGAIN || errno == EWOULDBLOCK) {
            drop_error_details(self->fd);
        }
        else if (errno != EINTR) {
            tulip_datagram_error(self, errno);
        }
        return;
    }
    entered = tulip_datagram_enter(self);
    if (entered < 0) {
        tulip_datagram_fatal(self);
        return;
    }
    for (int i = 0; i < n; i++) {
        if (!(self->flags & TULIP_D_CLOSING) && !self->loop->forked) {
            take(self, &arrivals->messages[i]);
        }
        arrivals->messages[i].msg_hdr.msg_namelen = sizeof(arrivals->names[i]);
    }
    tulip_datagram_leave(self, entered);
}

/* One datagram, by the socket object, which knows what an address looks like. */
static void
receive_stranger(TulipDatagram *self)
{
    PyObject *pair = PyObject_CallMethod(self->stranger, "recvfrom", "n",
                                         (Py_ssize_t)LARGE);
    if (pair != NULL && PyTuple_Check(pair) && PyTuple_GET_SIZE(pair) == 2) {
        tulip_datagram_deliver(self, PyTuple_GET_ITEM(pair, 0),
                               PyTuple_GET_ITEM(pair, 1));
    }
    else if (PyErr_ExceptionMatches(PyExc_BlockingIOError)) {
        PyErr_Clear();
        drop_error_details(self->fd);
    }
    else if (PyErr_Occurred()) {
        tulip_datagram_raised(self);
    }
    Py_XDECREF(pair);
}

/* The event: something may be received.  The handle keeps self. */
static void
on_readable(PyObject *owner)
{
    TulipDatagram *self = (TulipDatagram *)owner;
    if (!(self->flags & TULIP_D_READING) || !tulip_datagram_has_fd(self)) {
        return;
    }
    self->flags |= TULIP_D_RECEIVING;
    if (self->stranger != NULL) {
        receive_stranger(self);
    }
    else {
        receive_batch(self);
    }
    self->flags &= ~(unsigned)TULIP_D_RECEIVING;
    tulip_datagram_flush(self);
    tulip_datagram_maybe_pause(self);
}

static void
cannot_watch(TulipDatagram *self, int rc)
{
    self->flags &= ~(unsigned)(TULIP_D_READING | TULIP_D_WATCHING);
    errno = -rc;
    (void)PyErr_SetFromErrno(PyExc_OSError);
    tulip_datagram_fatal(self);
}

/* The same from a Poll, which also tells of room for more to be sent.  An error of
 * the socket stops a Poll; receiving finds out which one it is. */
static void
on_ready(PyObject *owner, int status, int events)
{
    TulipDatagram *self = (TulipDatagram *)owner;
    if (status == UV_ENOSPC || status == UV_ENOMEM) {
        self->polled = 0;
        cannot_watch(self, status);     /* the kernel has no memory for it */
        return;
    }
    if (status < 0) {
        if (self->fd < 0 || fcntl(self->fd, F_GETFD) < 0) {
            self->fd = -1;
            errno = EBADF;
            (void)PyErr_SetFromErrno(PyExc_OSError);
            tulip_datagram_fatal(self);
            return;
        }
        events = UV_READABLE | UV_WRITABLE;
        self->polled = 0;
    }
    if (events & UV_READABLE) {
        on_readable(owner);
    }
    if ((events & UV_WRITABLE) && (self->flags & TULIP_D_WATCHING)) {
        self->flags &= ~(unsigned)TULIP_D_WATCHING;
        tulip_datagram_go_on(self);
    }
    tulip_datagram_update_poll(self);
}

const UvtConsumer tulip_datagram_consumer = {
    .readable = on_readable,
    .ready = on_ready,
    .closed = tulip_datagram_on_closed,
};

/* ---- starting and stopping ---- */

static bool
wants_reading(const TulipDatagram *self)
{
    return (self->flags & (TULIP_D_STARTED | TULIP_D_PAUSED | TULIP_D_CLOSING))
               == TULIP_D_STARTED
        && self->held == NULL;
}

void
tulip_datagram_update_poll(TulipDatagram *self)
{
    int events = (self->flags & TULIP_D_READING ? UV_READABLE : 0)
        | (self->flags & TULIP_D_WATCHING ? UV_WRITABLE : 0), rc;
    if (events == self->polled || !tulip_datagram_has_fd(self)
        || self->loop->forked) {
        return;
    }
    rc = tulip_datagram_api(self)->poll_start(self->handle, events);
    self->polled = (unsigned char)(rc < 0 ? 0 : events);
    if (rc < 0) {
        cannot_watch(self, rc);
    }
}

void
tulip_datagram_update_reading(TulipDatagram *self)
{
    const UvtCAPI *api = tulip_datagram_api(self);
    bool want = wants_reading(self) && tulip_datagram_has_fd(self)
        && !self->loop->forked;
    if (want == ((self->flags & TULIP_D_READING) != 0)) {
        return;
    }
    self->flags ^= TULIP_D_READING;
    if (self->flags & TULIP_D_POLLED) {
        tulip_datagram_update_poll(self);
    }
    else if (want) {
        int rc = api->udp_recv_start(self->handle);
        if (rc < 0) {
            cannot_watch(self, rc);
        }
    }
    else if (tulip_datagram_has_fd(self)) {
        api->udp_recv_stop(self->handle);
    }
}

/* ---- methods ---- */

/* After resume_reading(): first what had come before the pause. */
static void
deliver_held(PyObject *owner, PyObject *Py_UNUSED(arg))
{
    TulipDatagram *self = (TulipDatagram *)owner;
    while (self->held != NULL && PyList_GET_SIZE(self->held) > 0
           && !(self->flags & (TULIP_D_PAUSED | TULIP_D_CLOSING))) {
        PyObject *item = Py_NewRef(PyList_GET_ITEM(self->held, 0));
        if (PyList_SetSlice(self->held, 0, 1, NULL) < 0) {
            PyErr_Clear();
            Py_CLEAR(self->held);
        }
        tulip_datagram_deliver(self, PyTuple_GET_ITEM(item, 0),
                               PyTuple_GET_ITEM(item, 1));
        Py_DECREF(item);
    }
    if (self->held != NULL && PyList_GET_SIZE(self->held) == 0) {
        Py_CLEAR(self->held);
    }
    tulip_datagram_update_reading(self);
}

PyDoc_STRVAR(pause_reading_doc,
"pause_reading($self, /)\n--\n\n"
"Call datagram_received() no more until resume_reading().  What comes meanwhile\n"
"waits, within the limits of the socket's buffer.");

static PyObject *
pause_reading(TulipDatagram *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(tulip_lock(self->loop));
    if (self->flags & (TULIP_D_CLOSING | TULIP_D_PAUSED)) {
        Py_RETURN_NONE;
    }
    if (tulip_loop_is_elsewhere(self->loop)) {
        return tulip_loop_forward(self->loop, (PyObject *)self, "pause_reading", NULL);
    }
    if (!tulip_datagram_check_thread(self)) {
        return NULL;
    }
    self->flags |= TULIP_D_PAUSED;
    tulip_datagram_update_reading(self);
    tulip_debug(self->loop, "%r pauses reading", (PyObject *)self);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(resume_reading_doc,
"resume_reading($self, /)\n--\n\nDeliver again what comes.");

static PyObject *
resume_reading(TulipDatagram *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(tulip_lock(self->loop));
    if ((self->flags & TULIP_D_CLOSING) || !(self->flags & TULIP_D_PAUSED)) {
        Py_RETURN_NONE;
    }
    if (tulip_loop_is_elsewhere(self->loop)) {
        return tulip_loop_forward(self->loop, (PyObject *)self, "resume_reading", NULL);
    }
    if (!tulip_datagram_check_thread(self)) {
        return NULL;
    }
    if (self->held != NULL
        && tulip_loop_call_soon_c(self->loop, deliver_held, (PyObject *)self,
                                  NULL) < 0) {
        return NULL;
    }
    self->flags &= ~(unsigned)TULIP_D_PAUSED;
    tulip_datagram_update_reading(self);
    tulip_debug(self->loop, "%r resumes reading", (PyObject *)self);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(is_reading_doc,
"is_reading($self, /)\n--\n\nFalse once it is paused or closing.");

static PyObject *
is_reading(TulipDatagram *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(tulip_lock(self->loop));
    return PyBool_FromLong(
        !(self->flags & (TULIP_D_PAUSED | TULIP_D_CLOSING)));
}

PyMethodDef tulip_datagram_read_methods[] = {
    {"pause_reading", (PyCFunction)pause_reading, METH_NOARGS,
     pause_reading_doc},
    {"resume_reading", (PyCFunction)resume_reading, METH_NOARGS,
     resume_reading_doc},
    {"is_reading", (PyCFunction)is_reading, METH_NOARGS, is_reading_doc},
    {NULL},
};
