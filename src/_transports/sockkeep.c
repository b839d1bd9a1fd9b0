/* Keeping a socket's descriptor open while somebody waits for it, as an object of
 * makefile() does: close() then only notes that it was called, and the last one to
 * let go closes.  Else who waits would never hear that it is closed, and another
 * socket may get its number.  All functions run attached, on the loop's thread.
 *
 * `_io_refs` and `_closed` are slots of socket.socket, whose place is known from
 * their descriptors.  What is no socket.socket is not kept.
 */
#include "sockops.h"

static bool
can_keep(const TulipState *st, PyObject *sock)
{
    return st->socket_io_refs != NULL && st->socket_closed != NULL
        && PyObject_TypeCheck(sock, (PyTypeObject *)st->socket_type);
}

/* ---- what is usual: nobody else keeps it, nobody has closed it ---- */

#ifndef Py_GIL_DISABLED

static PyObject **
place_of(PyObject *slot, PyObject *sock)
{
    const PyMemberDef *member = ((PyMemberDescrObject *)slot)->d_member;
    return (PyObject **)((char *)sock + member->offset);
}

/* Changes the count from one of the numbers that CPython has but once. */
static bool
change(const TulipState *st, PyObject *sock, PyObject *from, PyObject *to)
{
    PyObject **count = place_of(st->socket_io_refs, sock);
    if (*count != from || *place_of(st->socket_closed, sock) != Py_False) {
        return false;
    }
    *count = Py_NewRef(to);
    Py_DECREF(from);
    return true;
}

#else

static bool
change(const TulipState *Py_UNUSED(st), PyObject *Py_UNUSED(sock),
       PyObject *Py_UNUSED(from), PyObject *Py_UNUSED(to))
{
    return false;           /* another thread may close it just now */
}

#endif

/* ---- all else ---- */

/* A slot's value, as a new reference; NULL with an exception. */
static PyObject *
get_slot(PyObject *slot, PyObject *sock)
{
    return Py_TYPE(slot)->tp_descr_get(slot, sock, (PyObject *)Py_TYPE(sock));
}

static int
set_count(PyObject *slot, PyObject *sock, long count)
{
    PyObject *number = PyLong_FromLong(count);
    int rc;
    if (number == NULL) {
        return -1;
    }
    rc = Py_TYPE(slot)->tp_descr_set(slot, sock, number);
    Py_DECREF(number);
    return rc;
}

/* -1 with an exception. */
static long
get_count(PyObject *slot, PyObject *sock)
{
    PyObject *number = get_slot(slot, sock);
    long count = number != NULL ? PyLong_AsLong(number) : -1;
    Py_XDECREF(number);
    return count;
}

static int
keep(const TulipState *st, PyObject *sock)
{
    long count;
    if (!can_keep(st, sock) || change(st, sock, st->zero, st->one)) {
        return 0;
    }
    count = get_count(st->socket_io_refs, sock);
    if (count == -1 && PyErr_Occurred()) {
        return -1;
    }
    return set_count(st->socket_io_refs, sock, count + 1);
}

static int
let_go(const TulipState *st, PyObject *sock)
{
    PyObject *closed, *result;
    long count;
    if (!can_keep(st, sock) || change(st, sock, st->one, st->zero)) {
        return 0;
    }
    count = get_count(st->socket_io_refs, sock);
    if (count == -1 && PyErr_ExceptionMatches(PyExc_AttributeError)) {
        PyErr_Clear();      /* The collector has emptied its slots. */
        return 0;
    }
    closed = get_slot(st->socket_closed, sock);
    if (closed == NULL || (count == -1 && PyErr_Occurred())) {
        Py_XDECREF(closed);
        return -1;
    }
    Py_DECREF(closed);
    if (closed == Py_False && count > 0) {
        return set_count(st->socket_io_refs, sock, count - 1);
    }
    result = PyObject_CallMethod(sock, "_decref_socketios", NULL);
    Py_XDECREF(result);
    return result != NULL ? 0 : -1;
}

PyObject *
tulip_sock_done_slow(TulipLoop *self, const TulipSock *sock, PyObject *result)
{
    PyObject *raised;
    if (sock->waits) {
        if (keep(self->st, sock->obj) < 0) {
            Py_CLEAR(result);
        }
        return result;
    }
    if (result != NULL && can_keep(self->st, sock->obj)
        && change(self->st, sock->obj, self->st->one, self->st->zero)) {
        return result;
    }
    raised = PyErr_GetRaisedException();
    if (let_go(self->st, sock->obj) < 0) {
        if (raised == NULL) {
            Py_CLEAR(result);
            return NULL;
        }
        PyErr_Clear();
    }
    if (raised != NULL) {
        PyErr_SetRaisedException(raised);
    }
    return result;
}

PyObject *
tulip_loop_py_sock_keep(TulipLoop *self, PyObject *sock)
{
    UVT_LOCKED(self->lock);
    return keep(self->st, sock) < 0 ? NULL : Py_NewRef(Py_None);
}

PyObject *
tulip_loop_py_sock_let_go(TulipLoop *self, PyObject *sock)
{
    UVT_LOCKED(self->lock);
    return let_go(self->st, sock) < 0 ? NULL : Py_NewRef(Py_None);
}
