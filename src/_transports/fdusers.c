/* Which descriptors belong to transports, so that add_reader() and the like refuse
 * them, whether libuv watches them just now or not.  All functions run attached,
 * on the loop's thread.
 *
 * The loop has one bit for each number that a transport has ever had.  A set bit
 * only says that it is worth looking through the handles, which clears it when no
 * transport has the number any more: so nothing is kept for each connection, and
 * nothing has to be undone when one ends.
 */
#include "datagram.h"
#include "stream.h"
#include <limits.h>

static bool
is_marked(const TulipLoop *loop, int fd)
{
    size_t byte = (size_t)fd / CHAR_BIT;
    return fd >= 0 && byte < loop->fd_marks_size
        && (loop->fd_marks[byte] & 1u << fd % CHAR_BIT) != 0;
}

void
tulip_loop_mark_fd(TulipLoop *loop, int fd)
{
    size_t byte = (size_t)fd / CHAR_BIT;
    if (fd < 0) {
        return;
    }
    if (byte >= loop->fd_marks_size) {
        size_t size = 2 * byte + 32;
        unsigned char *marks = PyMem_Realloc(loop->fd_marks, size);
        if (marks == NULL) {
            return;     /* it will not be refused */
        }
        memset(marks + loop->fd_marks_size, 0, size - loop->fd_marks_size);
        loop->fd_marks = marks;
        loop->fd_marks_size = size;
    }
    loop->fd_marks[byte] |= (unsigned char)(1u << fd % CHAR_BIT);
}

/* True when fileno() gives this number; false also on errors. */
static bool
has_fd(PyObject *obj, int fd)
{
    PyObject *number = PyObject_CallMethod(obj, "fileno", NULL);
    long value = number != NULL ? PyLong_AsLong(number) : -1;
    Py_XDECREF(number);
    PyErr_Clear();
    return value == fd;
}

/* A transport that is open has it: through its handle, or because it was made for
 * a socket that shows it. */
static bool
either_has_fd(PyObject *shown, PyObject *handle, int fd)
{
    bool found;
    if (shown == NULL) {
        return has_fd(handle, fd);
    }
    Py_INCREF(shown);
    found = has_fd(shown, fd) || has_fd(handle, fd);
    Py_DECREF(shown);
    return found;
}

static bool
stream_has_fd(TulipStream *self, PyObject *handle, int fd)
{
    return !(self->flags & TULIP_CLOSING)
        && either_has_fd(self->rare != NULL ? self->rare->socket : NULL, handle,
                         fd);
}

static bool
datagram_has_fd(TulipDatagram *self, PyObject *handle, int fd)
{
    return !(self->flags & TULIP_D_CLOSING)
        && either_has_fd(self->shown, handle, fd);
}

/* Who has the descriptor by this handle: its transport, or whoever else takes its
 * events, or the handle itself when nobody does.  With `only_transports` what
 * add_reader() and sock_*() themselves have does not count.  A new reference;
 * NULL: nobody. */
static PyObject *
user_of(TulipLoop *loop, PyObject *handle, int fd, bool only_transports)
{
    TulipState *st = loop->st;
    PyObject *owner = Py_XNewRef(st->uv->consumer_owner(handle));
    bool found;
    if (owner == NULL) {
        return !only_transports && has_fd(handle, fd) ? Py_NewRef(handle) : NULL;
    }
    if (PyObject_TypeCheck(owner, st->stream_type)) {
        found = stream_has_fd((TulipStream *)owner, handle, fd);
    }
    else if (PyObject_TypeCheck(owner, st->datagram_type)) {
        found = datagram_has_fd((TulipDatagram *)owner, handle, fd);
    }
    else {
        found = !only_transports && has_fd(handle, fd);
    }
    if (!found) {
        Py_CLEAR(owner);
    }
    return owner;
}

/* A new reference; NULL, perhaps with an exception: nobody. */
static PyObject *
find_user(TulipLoop *loop, int fd, bool only_transports)
{
    PyObject *handles = PyObject_GetAttrString(loop->uv_loop, "handles");
    PyObject *user = NULL;
    if (handles == NULL) {
        return NULL;
    }
    for (Py_ssize_t i = 0; user == NULL && i < PyList_Size(handles); i++) {
        user = user_of(loop, PyList_GetItem(handles, i), fd, only_transports);
    }
    Py_DECREF(handles);
    return user;
}

static void
raise_used_by(int fd, PyObject *user)
{
    PyErr_Format(PyExc_RuntimeError,
                 "File descriptor %d is used by transport %R", fd, user);
}

void
tulip_loop_raise_in_use(TulipLoop *loop, int fd)
{
    PyObject *user = find_user(loop, fd, false);
    if (user != NULL || !PyErr_Occurred()) {
        raise_used_by(fd, user != NULL ? user : Py_None);
    }
    Py_XDECREF(user);
}

bool
tulip_loop_check_transports(TulipLoop *loop, int fd)
{
    PyObject *user;
    if (!is_marked(loop, fd)) {
        return true;
    }
    user = find_user(loop, fd, true);
    if (user == NULL) {
        if (PyErr_Occurred()) {
            return false;
        }
        loop->fd_marks[fd / CHAR_BIT] &= (unsigned char)~(1u << fd % CHAR_BIT);
        return true;
    }
    raise_used_by(fd, user);
    Py_DECREF(user);
    return false;
}
