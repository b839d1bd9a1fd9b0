/* Handles sent and received over Pipe handles with `ipc`.  All functions run on
 * the loop's thread, attached.  A handle under way stays its sender's; what
 * comes in is the pipe's until it is accepted.
 */
#include "args.h"
#include "errors.h"
#include "loop.h"
#include "pipe.h"
#include "task.h"

#include <errno.h>
#include <fcntl.h>

/* ---- sending ---- */

/* Whether the handle can go over the pipe, which libuv in part asserts; true, or
 * false with an exception. */
static bool
check_sent(UvtHandle *self, PyObject *arg, const char *call)
{
    UvtHandle *sent = (UvtHandle *)arg;
    UvtState *st = self->st;
    uv_os_fd_t fd;
    if (!PyObject_TypeCheck(arg, st->tcp_type)
        && !PyObject_TypeCheck(arg, st->pipe_type)
        && !PyObject_TypeCheck(arg, st->udp_type)) {
        PyErr_Format(PyExc_TypeError,
                     "%s(): the handle must be a TCP, Pipe or UDP, not %.200s",
                     call, Py_TYPE(arg)->tp_name);
        return false;
    }
    if (!uvt_handle_check(sent)) {
        return false;
    }
    if (sent->loop != self->loop) {
        PyErr_Format(PyExc_ValueError, "%s(): the handle is of another loop",
                     call);
        return false;
    }
    if (!self->box->uv.pipe.ipc) {
        PyErr_Format(PyExc_ValueError,
                     "%s(): handles go only over a Pipe made with ipc=True", call);
        return false;
    }
    if (uv_fileno(&sent->box->uv.handle, &fd) < 0) {
        uvt_handle_raise(self, UV_EBADF, call);
        return false;
    }
    return true;
}

const char uvt_pipe_write_doc[] =
"write($self, data, callback=None, handle=None, /)\n--\n\n"
"As Stream.write(); with `handle`, an open TCP, Pipe or UDP of the same loop, that\n"
"is sent along, over a pipe made with ipc=True.  The receiver reads the data and\n"
"can accept() a handle for the same socket from then on.  The one that was sent\n"
"stays open here; closing it before the callback ends the write with UV_EBADF.\n\n"
"Raises as Stream.write(), and with a handle TypeError, ValueError (of another\n"
"loop, no ipc, no data), PipeError (EBADF: the handle has no socket).";

PyObject *
uvt_pipe_write(UvtHandle *self, PyObject *const *args, Py_ssize_t nargs)
{
    UVT_LOCKED(self->lock);
    PyObject *callback;
    if (nargs < 3 || args[2] == Py_None) {
        if (!uvt_args_count("Pipe.write", nargs, 1, 3)) {
            return NULL;
        }
        return uvt_stream_write(self, args, nargs < 3 ? nargs : 2);
    }
    if (!uvt_args_count("Pipe.write", nargs, 1, 3)
        || !uvt_arg_callback("Pipe.write", args[1], &callback)
        || !uvt_handle_check_free(self, "Pipe.write")
        || !check_sent(self, args[2], "Pipe.write")) {
        return NULL;
    }
    return uvt_stream_write_handle(self, args[0], callback,
                                   (UvtHandle *)args[2]);
}

const char uvt_pipe_try_write2_doc[] =
"try_write2($self, data, handle, /)\n--\n\n"
"As try_write(), with a handle as write() sends it; it is sent with the first\n"
"byte.  Returns how many bytes were sent.\n\n"
"Raises as write() with a handle, and EAGAIN when nothing can be sent now.";

/* uv_try_write2(), with others running while it blocks. */
static int
try_write2(UvtHandle *self, const UvtBuffers *buffers, UvtHandle *sent)
{
    UvtLoop *loop = self->loop;
    bool blocks = self->blocks;
    UvtBlocking blocking = {0};
    int rc;
    if (blocks) {
        blocking = uvt_blocking_begin(loop);
    }
    rc = uv_try_write2(&self->box->uv.stream, buffers->iov,
                       (unsigned)buffers->count, &sent->box->uv.stream);
    if (blocks) {
        uvt_blocking_end(loop, blocking);
    }
    return rc;
}

PyObject *
uvt_pipe_try_write2(UvtHandle *self, PyObject *const *args, Py_ssize_t nargs)
{
    UVT_LOCKED(self->lock);
    UvtBuffers buffers = {0};
    UvtHandle *sent;
    int rc;
    if (!uvt_args_count("Pipe.try_write2", nargs, 2, 2)
        || !uvt_handle_check_free(self, "Pipe.try_write2")
        || !uvt_buffers_get(&buffers, "Pipe.try_write2", args[0])) {
        return NULL;
    }
    /* Getting the buffers may have run code that closed a handle. */
    sent = (UvtHandle *)args[1];
    if (!uvt_handle_check(self) || !check_sent(self, args[1], "Pipe.try_write2")) {
        uvt_buffers_release(&buffers);
        return NULL;
    }
    if (buffers.nbytes == 0) {
        uvt_buffers_release(&buffers);
        PyErr_SetString(PyExc_ValueError,
                        "Pipe.try_write2(): a handle needs data to go with");
        return NULL;
    }
    rc = try_write2(self, &buffers, sent);
    uvt_buffers_release(&buffers);
    if (rc < 0) {
        return uvt_handle_raise(self, rc, "uv_try_write2");
    }
    return PyLong_FromLong(rc);
}

/* ---- receiving ---- */

/* Whether `client` can take a descriptor that uv_guess_handle() calls `kind`. */
static bool
suits(uv_handle_type kind, const UvtHandle *client)
{
    switch (kind) {
        case UV_TCP:
        case UV_UDP:
        case UV_NAMED_PIPE:
            return client->kind == kind;
        case UV_TTY:
            return client->kind == UV_NAMED_PIPE;
        default:
            return false;
    }
}

/* libuv goes on watching for data then, also for a pipe that does not read, and
 * would find it readable for ever. */
static void
rest(UvtHandle *self)
{
    if (!self->reading && uvt_stream_read_start(self) == 0) {
        uvt_stream_read_stop(self);
    }
}

static bool
check_client(UvtHandle *self, UvtHandle *client)
{
    uv_handle_type kind = uv_pipe_pending_type(&self->box->uv.pipe);
    uv_os_fd_t fd;
    if (client->loop != self->loop
        || uv_fileno(&client->box->uv.handle, &fd) == 0) {
        PyErr_SetString(PyExc_ValueError,
                        client->loop != self->loop
                        ? "Pipe.accept(): client is of another loop"
                        : "Pipe.accept(): client is in use already");
        return false;
    }
    if (!suits(kind, client)) {
        PyErr_Format(PyExc_TypeError,
                     "Pipe.accept(): what waits is a %s, which a %.200s cannot "
                     "take; accept_fd() takes anything",
                     kind == UV_UNKNOWN_HANDLE ? "descriptor of another kind"
                                               : uv_handle_type_name(kind),
                     Py_TYPE(client)->tp_name);
        return false;
    }
    return true;
}

const char uvt_pipe_accept_doc[] =
"accept($self, client, /)\n--\n\n"
"Give what waits to `client`, a fresh handle on the same loop: on a listening pipe\n"
"a connection, else a handle that has come in, of the type that\n"
"pending_handle_type() tells.\n\n"
"Raises TypeError (of the wrong type), ValueError (another loop, not fresh),\n"
"HandleClosedError, PipeError (EAGAIN: nothing waits).";

PyObject *
uvt_pipe_accept(UvtHandle *self, PyObject *arg)
{
    UVT_LOCKED(self->lock);
    UvtHandle *client = (UvtHandle *)arg;
    int rc;
    if (self->listening || !PyObject_TypeCheck(arg, self->st->handle_type)) {
        return uvt_stream_accept_method(self, arg);
    }
    if (!uvt_handle_check_free(self, "Pipe.accept")
        || !uvt_handle_check_free(client, "Pipe.accept")) {
        return NULL;
    }
    if (uv_pipe_pending_count(&self->box->uv.pipe) == 0) {
        return uvt_handle_raise(self, UV_EAGAIN, "uv_accept");
    }
    if (!check_client(self, client)) {
        return NULL;
    }
    rc = uvt_stream_accept(self, client);
    if (uvt_handle_check(self)) {
        rest(self);
    }
    else {
        PyErr_Clear();      /* closed by who was told of the new number */
    }
    if (rc < 0) {
        return uvt_handle_raise(self, rc, "uv_accept");
    }
    Py_RETURN_NONE;
}

const char uvt_pipe_accept_fd_doc[] =
"accept_fd($self, /)\n--\n\n"
"Take the first descriptor that has come in over an ipc pipe, whatever it is for\n"
"(also a file), and return it.  It is the caller's, and not inheritable.\n\n"
"Raises HandleClosedError, PipeError (EAGAIN: nothing waits; EMFILE).";

/* libuv hands it to a handle only: a Pipe takes any descriptor. */
PyObject *
uvt_pipe_accept_fd(UvtHandle *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(self->lock);
    PyObject *taker;
    uv_os_fd_t fd;
    int rc, kept = -1;
    if (!uvt_handle_check_free(self, "Pipe.accept_fd")) {
        return NULL;
    }
    if (self->listening || uv_pipe_pending_count(&self->box->uv.pipe) == 0) {
        return uvt_handle_raise(self, UV_EAGAIN, "uv_accept");
    }
    taker = uvt_pipe_create((PyObject *)self->loop, 0);
    if (taker == NULL) {
        return NULL;
    }
    rc = uv_accept(&self->box->uv.stream,
                   &((UvtHandle *)taker)->box->uv.stream);
    rest(self);
    if (rc == 0) {
        rc = uv_fileno(&((UvtHandle *)taker)->box->uv.handle, &fd);
    }
    if (rc == 0 && (kept = fcntl(fd, F_DUPFD_CLOEXEC, 0)) < 0) {
        rc = uv_translate_sys_error(errno);
    }
    uvt_handle_close((UvtHandle *)taker);
    Py_DECREF(taker);
    if (rc < 0) {
        return uvt_handle_raise(self, rc, "uv_accept");
    }
    return PyLong_FromLong(kept);
}

const char uvt_pipe_pending_count_doc[] =
"pending_count($self, /)\n--\n\n"
"How many handles came in over an ipc pipe and wait for accept().\n\n"
"Raises HandleClosedError.";

PyObject *
uvt_pipe_pending_count(UvtHandle *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(self->lock);
    if (!uvt_handle_check(self)) {
        return NULL;
    }
    return PyLong_FromLong(uv_pipe_pending_count(&self->box->uv.pipe));
}

const char uvt_pipe_pending_handle_type_doc[] =
"pending_handle_type($self, /)\n--\n\n"
"The type of the first handle that waits for accept(): UV_TCP, UV_UDP,\n"
"UV_NAMED_PIPE, UV_TTY (which a Pipe takes), UV_FILE, or UV_UNKNOWN_HANDLE for\n"
"none and for what accept_fd() alone can take.\n\n"
"Raises HandleClosedError.";

PyObject *
uvt_pipe_pending_handle_type(UvtHandle *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(self->lock);
    if (!uvt_handle_check(self)) {
        return NULL;
    }
    return PyLong_FromLong((long)uv_pipe_pending_type(&self->box->uv.pipe));
}
