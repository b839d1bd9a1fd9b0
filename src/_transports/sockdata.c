/* The calls of sock_* that move bytes: receiving and sending, one try of each.
 * sockops.c says what a try is.  All functions run attached, on the loop's
 * thread, and keep nothing.
 */
#include "sockops.h"
#include <errno.h>

/* As a number of bytes that is greater than 0; 0 for all else. */
static size_t
as_size(PyObject *arg)
{
    Py_ssize_t size = PyLong_CheckExact(arg) ? PyLong_AsSsize_t(arg) : 0;
    if (size < 0) {
        PyErr_Clear();
    }
    return size > 0 ? (size_t)size : 0;
}

/* ---- receiving ---- */

/* recv() or recvfrom(), unless that would find nothing. */
static ssize_t
receive(TulipLoop *self, const TulipSock *sock, char *base, size_t size,
        TulipSender *from)
{
    bool *emptied = tulip_sock_emptied(self, sock->obj, sock->fd);
    const int fd = sock->fd;
    ssize_t count;
    if (emptied != NULL && *emptied) {
        errno = EAGAIN;
        return -1;
    }
    do {
        if (from == NULL) {
            count = recv(fd, base, size, MSG_DONTWAIT);
        }
        else {
            from->len = sizeof(from->addr);
            count = recvfrom(fd, base, size, MSG_DONTWAIT,
                             (struct sockaddr *)&from->addr, &from->len);
        }
    } while (count < 0 && errno == EINTR);
    if (emptied != NULL) {
        *emptied = count > 0 && (size_t)count < size;
    }
    return count;
}

/* A bytes object, with the sender if `from` is given. */
static PyObject *
receive_bytes(TulipLoop *self, TulipSock *sock, size_t size, TulipSender *from)
{
    PyObject *data = NULL;
    char *base;
    ssize_t count;

    if (size <= TULIP_SOCK_ROOM) {
        base = tulip_sock_room(self);
    }
    else {
        data = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
        base = data != NULL ? PyBytes_AS_STRING(data) : NULL;
    }
    if (base == NULL) {
        return NULL;
    }
    count = receive(self, sock, base, size, from);
    if (count < 0) {
        Py_XDECREF(data);
        return tulip_sock_failed(self, sock, false);
    }
    if (data == NULL) {
        data = PyBytes_FromStringAndSize(base, count);
    }
    else if ((size_t)count < size) {
        (void)_PyBytes_Resize(&data, count);
    }
    return from != NULL ? tulip_sock_with_sender(self, data, from) : data;
}

/* The number of bytes, with the sender if `from` is given.  `size` 0: as many
 * as there is room for.  NULL without an exception: call the method instead. */
static PyObject *
receive_into(TulipLoop *self, TulipSock *sock, PyObject *buffer, size_t size,
             TulipSender *from)
{
    Py_buffer view;
    PyObject *result = NULL;
    if (PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE) < 0) {
        PyErr_Clear();
        return NULL;
    }
    if (size == 0) {
        size = (size_t)view.len;
    }
    if (size > 0 && size <= (size_t)view.len) {
        ssize_t count = receive(self, sock, view.buf, size, from);
        result = count < 0 ? tulip_sock_failed(self, sock, false)
                           : PyLong_FromSsize_t(count);
        if (from != NULL && count >= 0) {
            result = tulip_sock_with_sender(self, result, from);
        }
    }
    PyBuffer_Release(&view);
    return result;
}

PyObject *
tulip_loop_py_sock_recv(TulipLoop *self, PyObject *const *args,
                        Py_ssize_t nargs)
{
    UVT_LOCKED(self->lock);
    TulipSock sock;
    size_t size;
    if (!tulip_sock_parse(self, "sock_recv", args, nargs, 2, &sock)) {
        return tulip_sock_done(self, &sock, NULL);
    }
    size = as_size(args[1]);
    if (sock.kind == TULIP_SOCK_PLAIN && size > 0) {
        return tulip_sock_done(self, &sock,
                               receive_bytes(self, &sock, size, NULL));
    }
    return tulip_sock_done(self, &sock,
                           tulip_sock_method(self, &sock, self->st->str_recv, args,
                                             2, false));
}

PyObject *
tulip_loop_py_sock_recv_into(TulipLoop *self, PyObject *const *args,
                             Py_ssize_t nargs)
{
    UVT_LOCKED(self->lock);
    TulipSock sock;
    PyObject *result = NULL;
    if (!tulip_sock_parse(self, "sock_recv_into", args, nargs, 2, &sock)) {
        return tulip_sock_done(self, &sock, NULL);
    }
    if (sock.kind == TULIP_SOCK_PLAIN) {
        result = receive_into(self, &sock, args[1], 0, NULL);
    }
    if (result == NULL && !PyErr_Occurred()) {
        result = tulip_sock_method(self, &sock, self->st->str_recv_into, args, 2,
                                   false);
    }
    return tulip_sock_done(self, &sock, result);
}

PyObject *
tulip_loop_py_sock_recvfrom(TulipLoop *self, PyObject *const *args,
                            Py_ssize_t nargs)
{
    UVT_LOCKED(self->lock);
    TulipSock sock;
    size_t size;
    PyObject *result;
    if (!tulip_sock_parse(self, "sock_recvfrom", args, nargs, 2, &sock)) {
        return tulip_sock_done(self, &sock, NULL);
    }
    size = as_size(args[1]);
    if (size > 0 && tulip_sock_knows_family(self, &sock)) {
        TulipSender from;
        result = receive_bytes(self, &sock, size, &from);
    }
    else {
        result = tulip_sock_method(self, &sock, self->st->str_recvfrom, args, 2,
                                   false);
    }
    return tulip_sock_done(self, &sock, result);
}

PyObject *
tulip_loop_py_sock_recvfrom_into(TulipLoop *self, PyObject *const *args,
                                 Py_ssize_t nargs)
{
    UVT_LOCKED(self->lock);
    TulipSock sock;
    size_t size;
    PyObject *result = NULL;
    if (!tulip_sock_parse(self, "sock_recvfrom_into", args, nargs, 3, &sock)) {
        return tulip_sock_done(self, &sock, NULL);
    }
    size = as_size(args[2]);
    if (size > 0 && tulip_sock_knows_family(self, &sock)) {
        TulipSender from;
        result = receive_into(self, &sock, args[1], size, &from);
    }
    if (result == NULL && !PyErr_Occurred()) {
        result = tulip_sock_method(self, &sock, self->st->str_recvfrom_into, args, 3,
                                   false);
    }
    return tulip_sock_done(self, &sock, result);
}

/* ---- sending ---- */

/* Adds to *sent until all of it is, or until it would block: only then will a
 * change be reported.  1: all, 0: it would block, -1: an error, in errno. */
static int
send_plain(int fd, const Py_buffer *view, Py_ssize_t *sent)
{
    ssize_t count;
    do {
        count = send(fd, (const char *)view->buf + *sent,
                     (size_t)(view->len - *sent), MSG_DONTWAIT | MSG_NOSIGNAL);
        if (count > 0) {
            *sent += count;
        }
    } while (count >= 0 ? *sent < view->len : errno == EINTR);
    if (count >= 0) {
        return 1;
    }
    return errno == EAGAIN || errno == EWOULDBLOCK ? 0 : -1;
}

/* The same by sock.send(data[sent:]), but only one try; -1 with an exception. */
static int
send_strange(TulipLoop *self, const TulipSock *sock, PyObject *data,
             Py_ssize_t size, Py_ssize_t *sent)
{
    PyObject *piece, *count = NULL;
    piece = *sent == 0 ? Py_NewRef(data)
                       : PySequence_GetSlice(data, *sent, PY_SSIZE_T_MAX);
    if (piece != NULL) {
        count = PyObject_CallMethodOneArg(sock->obj, self->st->str_send, piece);
        Py_DECREF(piece);
    }
    if (count != NULL) {
        Py_ssize_t added = PyLong_AsSsize_t(count);
        Py_DECREF(count);
        if (added == -1 && PyErr_Occurred()) {
            return -1;
        }
        *sent += added;
        return *sent >= size;
    }
    if (PyErr_ExceptionMatches(PyExc_BlockingIOError)
        || PyErr_ExceptionMatches(PyExc_InterruptedError)) {
        PyErr_Clear();
        return 0;
    }
    return -1;
}

PyObject *
tulip_loop_py_sock_send(TulipLoop *self, PyObject *const *args,
                        Py_ssize_t nargs)
{
    UVT_LOCKED(self->lock);
    TulipSock sock;
    Py_buffer view;
    Py_ssize_t sent, size;
    int rc;
    if (!tulip_sock_parse(self, "sock_send", args, nargs, 3, &sock)) {
        return NULL;
    }
    sent = PyLong_AsSsize_t(args[2]);
    if ((sent == -1 && PyErr_Occurred())
        || PyObject_GetBuffer(args[1], &view, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    size = view.len;
    if (sent < 0 || sent > size) {
        PyBuffer_Release(&view);
        PyErr_SetString(PyExc_ValueError, "sock_send(): sent is out of range");
        return NULL;
    }
    if (sock.kind == TULIP_SOCK_PLAIN) {
        rc = send_plain(sock.fd, &view, &sent);
        if (rc < 0) {
            PyErr_SetFromErrno(PyExc_OSError);
        }
        PyBuffer_Release(&view);
    }
    else {
        PyBuffer_Release(&view);
        rc = send_strange(self, &sock, args[1], size, &sent);
    }
    if (rc < 0) {
        return NULL;
    }
    return rc > 0 ? Py_NewRef(Py_None) : PyLong_FromSsize_t(sent);
}

