/* One try of each call of sock_*.  A method here returns what the call returned,
 * or a future if it would have blocked: the coroutine in sockops.py awaits that
 * and tries again, so that who is cancelled has taken nothing.  All functions
 * run attached, on the loop's thread, and keep nothing; the system calls do not
 * block, and so keep the interpreter's lock.
 *
 * Only of an object that is exactly a socket.socket is the descriptor used, for
 * the calls that are made once per message.  For the rest, for other objects and
 * for arguments that are not as usual, the object's own method is called, whose
 * errors are then asyncio's errors.
 */
#include "sockops.h"
#include <errno.h>
#include <unistd.h>

/* ---- the socket of a call ---- */

/* Stores obj.fileno(). */
static bool
get_fd(TulipLoop *self, PyObject *obj, int *fd)
{
    PyObject *number = PyObject_CallMethodNoArgs(obj, self->st->str_fileno);
    long value;
    if (number == NULL) {
        return false;
    }
    value = PyLong_AsLong(number);
    Py_DECREF(number);
    if (value == -1 && PyErr_Occurred()) {
        return false;
    }
    *fd = value < 0 || value > INT_MAX ? -1 : (int)value;
    return true;
}

/* False with TypeError for an ssl.SSLSocket. */
static bool
check_no_tls(PyObject *obj)
{
    PyObject *name = PyUnicode_FromString("ssl"), *ssl, *type = NULL;
    int is_tls = 0;
    if (name == NULL) {
        return false;
    }
    ssl = PyImport_GetModule(name);     /* NULL: nobody has imported it */
    Py_DECREF(name);
    if (ssl != NULL) {
        type = PyObject_GetAttrString(ssl, "SSLSocket");
        Py_DECREF(ssl);
        is_tls = type != NULL ? PyObject_IsInstance(obj, type) : -1;
        Py_XDECREF(type);
    }
    if (is_tls > 0) {
        PyErr_SetString(PyExc_TypeError, "Socket cannot be of type SSLSocket");
    }
    return is_tls == 0 && !PyErr_Occurred();
}

/* 1: socket.gettimeout() is 0, 0: it is not; -1 with an exception. */
static int
is_nonblocking(PyObject *obj)
{
    PyObject *timeout = PyObject_CallMethod(obj, "gettimeout", NULL);
    int blocking;
    if (timeout == NULL) {
        return -1;
    }
    blocking = timeout == Py_None ? 1 : PyObject_IsTrue(timeout);
    Py_DECREF(timeout);
    return blocking < 0 ? -1 : !blocking;
}

/* Fills `sock`; what asyncio refuses is false with an exception. */
static bool
check_sock(TulipLoop *self, PyObject *obj, TulipSock *sock)
{
    sock->obj = obj;
    sock->kind = TULIP_SOCK_PLAIN;
    sock->fd = -1;
    if (!tulip_loop_check_fork(self)) {
        return false;
    }
    if (!Py_IS_TYPE(obj, (PyTypeObject *)self->st->socket_type)) {
        sock->kind = TULIP_SOCK_STRANGE;
        if (!check_no_tls(obj)) {
            return false;
        }
    }
    if (self->debug) {
        int nonblocking = is_nonblocking(obj);
        if (nonblocking == 0) {
            PyErr_SetString(PyExc_ValueError,
                            "the socket must be non-blocking");
        }
        if (nonblocking <= 0) {
            return false;
        }
    }
    return sock->kind != TULIP_SOCK_PLAIN || get_fd(self, obj, &sock->fd);
}

bool
tulip_sock_parse(TulipLoop *self, const char *method, PyObject *const *args,
                 Py_ssize_t nargs, Py_ssize_t count, TulipSock *sock)
{
    *sock = (TulipSock){.again = nargs == count + 1};
    if (nargs != count && !sock->again) {
        PyErr_Format(PyExc_TypeError,
                     "%s() takes %zd positional arguments but %zd were given",
                     method, count, nargs);
        return false;
    }
    return check_sock(self, args[0], sock);
}

/* The family of a plain socket, as its constructor was told; -1 with an
 * exception.  Not by the attribute, which makes an enum of it. */
static int
get_number(PyObject *member, PyObject *obj)
{
    PyObject *number = Py_TYPE(member)->tp_descr_get(
        member, obj, (PyObject *)Py_TYPE(obj));
    long value = number != NULL ? PyLong_AsLong(number) : -1;
    Py_XDECREF(number);
    return (int)value;
}

bool
tulip_sock_knows_family(TulipLoop *self, const TulipSock *sock)
{
    int family;
    if (sock->kind != TULIP_SOCK_PLAIN) {
        return false;
    }
    family = get_number(self->st->socket_family, sock->obj);
    if (family < 0) {
        PyErr_Clear();
    }
    return family == AF_INET || family == AF_INET6 || family == AF_UNIX;
}

/* ---- results ---- */

/* What to await before the next try. */
static PyObject *
would_block(TulipLoop *self, TulipSock *sock, bool writable)
{
    PyObject *future;
    if (sock->kind == TULIP_SOCK_STRANGE
        && !get_fd(self, sock->obj, &sock->fd)) {
        return NULL;
    }
    future = tulip_sock_wait(self, sock->obj, sock->kind, sock->fd, writable);
    sock->waits = future != NULL;
    return future;
}

PyObject *
tulip_sock_failed(TulipLoop *self, TulipSock *sock, bool writable)
{
    if (errno == EAGAIN || errno == EWOULDBLOCK) {
        return would_block(self, sock, writable);
    }
    return PyErr_SetFromErrno(PyExc_OSError);
}

PyObject *
tulip_sock_method(TulipLoop *self, TulipSock *sock, PyObject *name,
                  PyObject *const *args, Py_ssize_t nargs, bool writable)
{
    PyObject *result = PyObject_VectorcallMethod(name, args, (size_t)nargs, NULL);
    if (result != NULL || (!PyErr_ExceptionMatches(PyExc_BlockingIOError)
                           && !PyErr_ExceptionMatches(PyExc_InterruptedError))) {
        return result;
    }
    PyErr_Clear();
    return would_block(self, sock, writable);
}

PyObject *
tulip_sock_with_sender(TulipLoop *self, PyObject *result, const TulipSender *from)
{
    PyObject *address, *pair;
    if (result == NULL) {
        return NULL;
    }
    address = from->len == 0 ? Py_NewRef(Py_None)
        : self->st->uv->sockaddr_format((const struct sockaddr *)&from->addr,
                                        (int)from->len);
    pair = address != NULL ? PyTuple_Pack(2, result, address) : NULL;
    Py_XDECREF(address);
    Py_DECREF(result);
    return pair;
}

/* ---- sending to an address ---- */

PyDoc_STRVAR(sendto_doc,
"_sock_sendto($self, sock, data, address, awaited=None, /)\n--\n\n"
"sock.sendto(data, address), or a future to await before the next try.");

static PyObject *
sock_sendto(TulipLoop *self, PyObject *const *args, Py_ssize_t nargs)
{
    UVT_LOCKED(self->lock);
    TulipSock sock;
    PyObject *result = NULL;
    if (tulip_sock_parse(self, "sock_sendto", args, nargs, 3, &sock)) {
        result = tulip_sock_method(self, &sock, self->st->str_sendto, args, 3,
                                   true);
    }
    return tulip_sock_done(self, &sock, result);
}

/* ---- connections ---- */

/* A non-blocking socket.socket that owns the descriptor.  Its constructor takes
 * the mode from the type, as accept4() has set it already. */
static PyObject *
wrap(TulipLoop *self, const TulipSock *listener, int fd)
{
    const TulipState *st = self->st;
    int family = get_number(st->socket_family, listener->obj);
    int type = get_number(st->socket_kind, listener->obj);
    int proto = get_number(st->socket_proto, listener->obj);
    PyObject *conn = NULL;
    if (!PyErr_Occurred()) {
        conn = PyObject_CallFunction(st->socket_type, "iiii", family,
                                     type | SOCK_NONBLOCK, proto, fd);
    }
    if (conn == NULL) {
        (void)close(fd);
    }
    return conn;
}

PyDoc_STRVAR(accept_doc,
"_sock_accept($self, sock, awaited=None, /)\n--\n\n"
"(non-blocking socket, address) of a connection, or a future to await before\n"
"the next try.");

static PyObject *
accept_once(TulipLoop *self, TulipSock *sock)
{
    TulipSender peer;
    PyObject *result;
    int fd, nonblocking;
    /* A listener that blocks would block the loop in accept4(), too: it has no
     * MSG_DONTWAIT. */
    nonblocking = is_nonblocking(sock->obj);
    if (nonblocking < 0) {
        return NULL;
    }
    if (nonblocking && tulip_sock_knows_family(self, sock)) {
        do {
            peer.len = sizeof(peer.addr);
            fd = accept4(sock->fd, (struct sockaddr *)&peer.addr, &peer.len,
                         SOCK_NONBLOCK | SOCK_CLOEXEC);
        } while (fd < 0 && errno == EINTR);
        if (fd < 0) {
            return tulip_sock_failed(self, sock, false);
        }
        return tulip_sock_with_sender(self, wrap(self, sock, fd), &peer);
    }
    result = tulip_sock_method(self, sock, self->st->str_accept, &sock->obj, 1,
                               false);
    if (result != NULL && PyTuple_CheckExact(result)
        && PyTuple_GET_SIZE(result) == 2) {
        PyObject *none = PyObject_CallMethod(PyTuple_GET_ITEM(result, 0),
                                             "setblocking", "O", Py_False);
        if (none == NULL) {
            Py_CLEAR(result);
        }
        Py_XDECREF(none);
    }
    return result;
}

static PyObject *
sock_accept(TulipLoop *self, PyObject *const *args, Py_ssize_t nargs)
{
    UVT_LOCKED(self->lock);
    TulipSock sock;
    PyObject *result = NULL;
    if (tulip_sock_parse(self, "sock_accept", args, nargs, 1, &sock)) {
        result = accept_once(self, &sock);
    }
    return tulip_sock_done(self, &sock, result);
}

PyDoc_STRVAR(check_doc,
"_sock_check($self, sock, /)\n--\n\n"
"Raise TypeError for an SSLSocket; in debug mode, ValueError for a socket that\n"
"blocks.");

static PyObject *
sock_check(TulipLoop *self, PyObject *obj)
{
    UVT_LOCKED(self->lock);
    TulipSock sock = {0};
    return check_sock(self, obj, &sock) ? Py_NewRef(Py_None) : NULL;
}

PyDoc_STRVAR(wait_doc,
"_sock_wait($self, sock, writable, /)\n--\n\n"
"A future to await after a call that would have blocked.\n\n"
"Raises TypeError, ValueError, OSError (EPERM: it cannot be waited for, EBADF)\n"
"and RuntimeError (a transport uses the descriptor).");

static PyObject *
sock_wait(TulipLoop *self, PyObject *const *args, Py_ssize_t nargs)
{
    UVT_LOCKED(self->lock);
    TulipSock sock;
    int writable;
    if (nargs != 2 || !tulip_sock_parse(self, "sock_wait", args, nargs, 2, &sock)) {
        if (nargs != 2) {
            PyErr_SetString(PyExc_TypeError, "_sock_wait() takes 2 arguments");
        }
        return NULL;
    }
    writable = PyObject_IsTrue(args[1]);
    return writable < 0 ? NULL : would_block(self, &sock, writable);
}

PyDoc_STRVAR(keep_doc,
"_sock_keep($self, sock, /)\n--\n\n"
"Have the socket's close() wait for _sock_let_go().");

PyDoc_STRVAR(let_go_doc,
"_sock_let_go($self, sock, /)\n--\n\n"
"Undo _sock_keep(), and close what somebody wanted to be closed meanwhile.");

PyDoc_STRVAR(recv_doc,
"_sock_recv($self, sock, nbytes, awaited=None, /)\n--\n\n"
"sock.recv(nbytes), or a future to await before the next try, which is given that\n"
"future.  Until then the socket is kept, as by _sock_keep(); if there is no next\n"
"try, _sock_let_go() is the caller's to call.\n\n"
"Raises what asyncio's sock_recv() raises.");

PyDoc_STRVAR(recv_into_doc,
"_sock_recv_into($self, sock, buf, awaited=None, /)\n--\n\n"
"sock.recv_into(buf), or a future to await before the next try.");

PyDoc_STRVAR(recvfrom_doc,
"_sock_recvfrom($self, sock, bufsize, awaited=None, /)\n--\n\n"
"sock.recvfrom(bufsize), or a future to await before the next try.");

PyDoc_STRVAR(recvfrom_into_doc,
"_sock_recvfrom_into($self, sock, buf, nbytes, awaited=None, /)\n--\n\n"
"sock.recvfrom_into(buf, nbytes), or a future to await before the next try.");

PyDoc_STRVAR(send_doc,
"_sock_send($self, sock, data, sent, /)\n--\n\n"
"Send data[sent:].  None: all of it is sent; else how much of the data is, and\n"
"the socket takes no more for now.");

#define FAST(function) (PyCFunction)(void (*)(void))function

PyMethodDef tulip_sock_methods[] = {
    {"_sock_recv", FAST(tulip_loop_py_sock_recv), METH_FASTCALL, recv_doc},
    {"_sock_recv_into", FAST(tulip_loop_py_sock_recv_into), METH_FASTCALL,
     recv_into_doc},
    {"_sock_recvfrom", FAST(tulip_loop_py_sock_recvfrom), METH_FASTCALL,
     recvfrom_doc},
    {"_sock_recvfrom_into", FAST(tulip_loop_py_sock_recvfrom_into), METH_FASTCALL,
     recvfrom_into_doc},
    {"_sock_send", FAST(tulip_loop_py_sock_send), METH_FASTCALL, send_doc},
    {"_sock_sendto", FAST(sock_sendto), METH_FASTCALL, sendto_doc},
    {"_sock_accept", FAST(sock_accept), METH_FASTCALL, accept_doc},
    {"_sock_keep", (PyCFunction)tulip_loop_py_sock_keep, METH_O, keep_doc},
    {"_sock_let_go", (PyCFunction)tulip_loop_py_sock_let_go, METH_O, let_go_doc},
    {"_sock_check", (PyCFunction)sock_check, METH_O, check_doc},
    {"_sock_wait", FAST(sock_wait), METH_FASTCALL, wait_doc},
    {NULL},
};
