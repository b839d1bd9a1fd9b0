/* UDP.try_send2(): several datagrams by one system call.  Everything runs on the
 * loop's thread, attached.  A batch owns the views of its data.
 */
#include "args.h"
#include "audit.h"
#include "buffer.h"
#include "errors.h"
#include "loop.h"
#include "sockaddr.h"
#include "udp.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/socket.h>

#define PER_CALL 64

const char uvt_udp_try_send2_doc[] =
"try_send2($self, messages, /)\n--\n\n"
"Send several datagrams at once, a sequence of (addr, data) as of send(), and\n"
"return how many the kernel took; one system call for up to 64.\n\n"
"Raises as send(), and UDPError (EAGAIN: none could be sent now, or others\n"
"wait).";

typedef struct Message {
    struct sockaddr_storage storage;
    UvtBuffers data;
} Message;

/* What uv_udp_try_send2 takes, for `count` messages. */
typedef struct Batch {
    Py_ssize_t count;               /* while they are added: of those so far */
    uv_buf_t **iov;
    unsigned *iov_count;
    struct sockaddr **addrs;
    Message *messages;              /* own what these point at; NULL: others do */
} Batch;

static bool
batch_add(UvtHandle *self, Batch *batch, PyObject *item)
{
    Message *message = &batch->messages[batch->count];
    if (!PyTuple_Check(item) || PyTuple_GET_SIZE(item) != 2) {
        PyErr_Format(PyExc_TypeError,
                     "UDP.try_send2(): a message must be a tuple (addr, data), "
                     "not %.200s", Py_TYPE(item)->tp_name);
        return false;
    }
    if (!uvt_udp_parse_target(self, "UDP.try_send2", PyTuple_GET_ITEM(item, 0),
                      &message->storage, &batch->addrs[batch->count])
        || (batch->addrs[batch->count] != NULL
            && !uvt_audit_sendto((PyObject *)self, PyTuple_GET_ITEM(item, 0)))
        || !uvt_buffers_get(&message->data, "UDP.try_send2",
                            PyTuple_GET_ITEM(item, 1))) {
        return false;
    }
    batch->iov[batch->count] = message->data.iov;
    batch->iov_count[batch->count] = (unsigned)message->data.count;
    batch->count++;
    return true;
}

static void
batch_free(Batch *batch)
{
    for (Py_ssize_t i = 0; i < batch->count; i++) {
        uvt_buffers_release(&batch->messages[i].data);
    }
    PyMem_Free(batch->iov);
    PyMem_Free(batch->iov_count);
    PyMem_Free(batch->addrs);
    PyMem_Free(batch->messages);
}

/* One system call for at most PER_CALL messages from `first` on; how many were
 * sent, or -1 with errno. */
static int
send_some(int fd, const Batch *batch, Py_ssize_t first, unsigned count)
{
    struct mmsghdr headers[PER_CALL];
    int rc;
    memset(headers, 0, count * sizeof(headers[0]));
    for (unsigned i = 0; i < count; i++) {
        struct msghdr *header = &headers[i].msg_hdr;
        struct sockaddr *addr = batch->addrs[first + i];
        header->msg_iov = (struct iovec *)batch->iov[first + i];
        header->msg_iovlen = batch->iov_count[first + i];
        header->msg_name = addr;
        header->msg_namelen = addr == NULL ? 0
                                           : (socklen_t)uvt_sockaddr_size(addr);
    }
    do {
        rc = sendmmsg(fd, headers, count, 0);
    } while (rc < 0 && errno == EINTR);
    return rc;
}

static int
send_error(int error)
{
    return error == ENOBUFS || error == EWOULDBLOCK
        ? UV_EAGAIN : uv_translate_sys_error(error);
}

/* How many were sent, or a libuv status below 0.  Not by uv_udp_try_send2: up to
 * libuv 1.53 at least, that leaves out every second twenty. */
static int
send_all(uv_udp_t *uv, const Batch *batch)
{
    struct sockaddr_storage peer;
    int size = sizeof(peer);
    uv_os_fd_t fd;
    Py_ssize_t sent = 0;
    bool connected = uv_udp_getpeername(uv, (struct sockaddr *)&peer, &size) == 0;
    int rc = uv_fileno((uv_handle_t *)uv, &fd);
    if (uv_udp_get_send_queue_count(uv) > 0) {
        return UV_EAGAIN;
    }
    if (rc < 0 || connected != (batch->addrs[0] == NULL)) {
        return connected ? UV_EISCONN : UV_EDESTADDRREQ;
    }
    while (sent < batch->count) {
        Py_ssize_t left = batch->count - sent;
        unsigned count = left < PER_CALL ? (unsigned)left : PER_CALL;
        rc = send_some(fd, batch, sent, count);
        if (rc < 0) {
            return sent > 0 ? (int)sent : send_error(errno);
        }
        sent += rc;
        if ((unsigned)rc < count) {
            break;
        }
    }
    return (int)sent;
}

static PyObject *
batch_send(UvtHandle *self, Batch *batch)
{
    int rc = 0;
    if (!uvt_handle_check_free(self, "UDP.try_send2")) {
        return NULL;
    }
    if (batch->count == 0) {
        return PyLong_FromLong(0);
    }
    if (batch->addrs[0] != NULL) {
        rc = uvt_udp_ensure_socket(self, batch->addrs[0]->sa_family, 0);
    }
    if (rc == 0) {
        rc = send_all(&self->box->uv.udp, batch);
    }
    if (rc < 0) {
        return uvt_handle_raise(self, rc, "uv_udp_try_send2");
    }
    return PyLong_FromLong(rc);
}

/* Answers to the last senders: bytes, and address tuples that came from receive
 * callbacks.  Nothing is copied, and no foreign code runs before they are sent.
 * False without an exception: something else is among them. */
static bool
send_answers(UvtHandle *self, PyObject *items, PyObject **result)
{
    Py_ssize_t count = PyTuple_GET_SIZE(items);
    uv_buf_t bufs[PER_CALL], *iov[PER_CALL];
    unsigned iov_count[PER_CALL];
    struct sockaddr *addrs[PER_CALL];
    Batch batch = {count, iov, iov_count, addrs, NULL};
    if (count == 0 || count > PER_CALL) {
        return false;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *item = PyTuple_GET_ITEM(items, i), *data;
        const UvtPeer *peer;
        if (!PyTuple_Check(item) || PyTuple_GET_SIZE(item) != 2) {
            return false;
        }
        data = PyTuple_GET_ITEM(item, 1);
        peer = uvt_udp_find_peer((UvtUDP *)self, PyTuple_GET_ITEM(item, 0));
        if (peer == NULL || !PyBytes_CheckExact(data)) {
            return false;
        }
        bufs[i].base = PyBytes_AS_STRING(data);
        bufs[i].len = (size_t)PyBytes_GET_SIZE(data);
        iov[i] = &bufs[i];
        iov_count[i] = 1;
        addrs[i] = (struct sockaddr *)&peer->raw;
    }
    *result = batch_send(self, &batch);
    return true;
}

static PyObject *
send_any(UvtHandle *self, PyObject *items)
{
    Batch batch = {0};
    PyObject *result = NULL;
    Py_ssize_t count = PyTuple_GET_SIZE(items);
    bool good;

    if (count > INT_MAX) {
        PyErr_SetString(PyExc_OverflowError, "UDP.try_send2(): too many messages");
        return NULL;
    }
    batch.iov = PyMem_New(uv_buf_t *, count);
    batch.iov_count = PyMem_New(unsigned, count);
    batch.addrs = PyMem_New(struct sockaddr *, count);
    batch.messages = PyMem_New(Message, count);
    good = batch.iov != NULL && batch.iov_count != NULL && batch.addrs != NULL
        && batch.messages != NULL;
    if (!good) {
        PyErr_NoMemory();
    }
    for (Py_ssize_t i = 0; good && i < count; i++) {
        good = batch_add(self, &batch, PyTuple_GET_ITEM(items, i));
    }
    if (good) {
        result = batch_send(self, &batch);
    }
    batch_free(&batch);
    return result;
}

PyObject *
uvt_udp_try_send2(UvtHandle *self, PyObject *messages)
{
    UVT_LOCKED(self->lock);
    PyObject *items = PySequence_Tuple(messages), *result = NULL;
    if (items == NULL) {
        return NULL;
    }
    if (uvt_audited() || !send_answers(self, items, &result)) {
        result = send_any(self, items);
    }
    Py_DECREF(items);
    return result;
}
