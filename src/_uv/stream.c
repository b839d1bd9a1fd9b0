/* uv.Stream, the base of TCP and Pipe: reading, the methods to listen and accept
 * (listen.c), and the requests to connect.  All functions run on the loop's thread; on_alloc may run
 * detached and then touches nothing of Python's.
 *
 * A read goes into the loop's slab, or where a C consumer wants it; the slab
 * is free again when the read callback returns.
 */
#include "stream.h"

#include <errno.h>
#include <unistd.h>
#include "args.h"
#include "consumer.h"
#include "descriptor.h"
#include "errors.h"
#include "guards.h"

bool
uvt_stream_has_fd(const UvtHandle *self)
{
    uv_os_fd_t fd;
    return uv_fileno(&self->box->uv.handle, &fd) == 0;
}

/* ---- reading ---- */

static int
fd_of(const void *uv_handle)
{
    uv_os_fd_t fd;
    return uv_fileno(uv_handle, &fd) == 0 ? fd : -1;
}

/* In the place of on_read, which the consumer's `alloc` has taken away: libuv calls
 * what is there after it, once. */
static void
on_unread(uv_stream_t *uv, ssize_t Py_UNUSED(nread), const uv_buf_t *Py_UNUSED(buf))
{
    uv->read_cb = NULL;
}

static void
ask_consumer(UvtHandle *self, uv_stream_t *uv, size_t suggested, uv_buf_t *buf)
{
    Py_INCREF(self);
    UVT_TELL_CONSUMER(self, alloc, owner, suggested, buf);
    if (uv->read_cb == NULL) {          /* stopped, released or closed */
        *buf = uv_buf_init(NULL, 0);
        uv->read_cb = on_unread;
    }
    Py_DECREF(self);
}

static bool
is_ipc(const UvtHandle *self)
{
    return self->kind == UV_NAMED_PIPE && self->box->uv.pipe.ipc;
}

static void
on_alloc(uv_handle_t *uv, size_t suggested, uv_buf_t *buf)
{
    UvtHandle *self = ((UvtBox *)uv->data)->owner;
    UvtLoop *loop = uvt_loop_of(uv->loop);
    buf->base = NULL;
    buf->len = 0;
    if (self == NULL || loop == NULL) {
        return;
    }
    /* On a descriptor that blocks, the read after a full one would wait. */
    if (self->blocks && uvt_fd_read_waits(fd_of(uv))) {
        self->dry = true;
        return;
    }
    if (is_ipc(self) && uvt_fd_loses_descriptors(fd_of(uv))) {
        self->starved = true;
        return;
    }
    if (self->consumer != NULL && self->consumer->alloc != NULL) {
        uvt_loop_attach(loop);
        ask_consumer(self, (uv_stream_t *)uv, suggested, buf);
    }
    else if (self->reads_into) {
        uvt_read_into_alloc(self, buf);
    }
    else {
        uvt_slab_take(loop, buf);
    }
}

static void
read_to_python(UvtHandle *self, ssize_t nread, const uv_buf_t *buf)
{
    PyObject *callback = Py_XNewRef(self->callback);
    PyObject *args[4] = {NULL, (PyObject *)self, NULL, NULL};
    if (nread > 0) {
        args[2] = PyBytes_FromStringAndSize(buf->base, nread);
        args[3] = Py_NewRef(Py_None);
    }
    else {
        args[2] = Py_NewRef(Py_None);
        args[3] = uvt_errorno((int)nread);
    }
    uvt_call(self, callback, args + 1, 3);
    Py_XDECREF(args[2]);
    Py_XDECREF(args[3]);
    Py_XDECREF(callback);
}

static void on_read(uv_stream_t *uv, ssize_t nread, const uv_buf_t *buf);

/* One read, as libuv makes it: what there is to tell.  False: nothing, since who was
 * asked for the buffer has closed the handle. */
static bool
read_once(uv_stream_t *uv, ssize_t *nread, uv_buf_t *buf)
{
    on_alloc((uv_handle_t *)uv, UVT_SLAB_SIZE, buf);
    if (uv->read_cb != on_read) {
        uv->read_cb = NULL;
        return false;
    }
    if (buf->base == NULL || buf->len == 0) {
        *nread = UV_ENOBUFS;
        return true;
    }
    do {
        *nread = read(fd_of(uv), buf->base, buf->len);
    } while (*nread < 0 && errno == EINTR);
    if (*nread == 0 || (*nread < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))) {
        *nread = UV_EOF;
    }
    else if (*nread < 0) {
        *nread = uv_translate_sys_error(errno);
    }
    return true;
}

/* libuv tells of an end that it has not read, without a buffer: up to 1.51 after a
 * hang-up and a read that gave less than it was asked for, later after a hang-up
 * alone.  But a read stops short of the end at 4095 bytes from a terminal, behind
 * descriptors that were sent along, and at an urgent byte.  So reading goes on until
 * the kernel says that this is the end, or why.  False: there is nothing to tell yet. */
static bool
is_over(UvtHandle *self, uv_stream_t *uv, ssize_t *nread, uv_buf_t *buf)
{
    if (!self->reading || uv_is_closing((uv_handle_t *)uv)
        || uv_read_start(uv, on_alloc, on_read) < 0) {
        return true;
    }
    if (uvt_fd_is_readable(fd_of(uv))) {
        return false;       /* libuv reads it, with its descriptors. */
    }
    return is_ipc(self) || read_once(uv, nread, buf);
}

/* What came to nothing.  When that happens again and again, the descriptor is in an
 * error that reading does not end: details of errors or times of sending wait, which
 * nobody takes. */
static void
note_dry(UvtHandle *self, const uv_stream_t *uv)
{
    if (self->dry) {
        uvt_fd_drop_errors(fd_of(uv));
    }
    self->dry = true;
}

static void
on_read(uv_stream_t *uv, ssize_t nread, const uv_buf_t *buf)
{
    UvtHandle *self = uvt_enter(uv);
    UvtLoop *loop;
    uv_buf_t own = {0};
    if (self == NULL) {
        return;
    }
    if (nread == UV_EOF && buf->base == NULL) {
        buf = &own;
        if (!is_over(self, uv, &nread, &own)) {
            uvt_leave(self);
            return;
        }
    }
    if (nread == UV_ENOBUFS && self->blocks && self->dry) {
        Py_DECREF(self);            /* a read would have waited */
        return;
    }
    if (self->starved) {
        self->starved = false;
        nread = UV_EMFILE;
    }
    if (nread == 0) {
        note_dry(self, uv);
    }
    else {
        self->dry = false;
    }
    loop = (UvtLoop *)Py_NewRef(self->loop);
    if (nread < 0) {
        self->reading = false;      /* libuv has stopped */
        (void)uv_read_stop(uv);
    }
    /* 0 is EAGAIN: nothing to tell, except to whom lent the buffer. */
    if (self->consumer != NULL) {
        if (nread != 0 || self->consumer->alloc != NULL) {
            UVT_TELL_CONSUMER(self, read, owner, nread, buf);
        }
    }
    else if (self->reads_into) {
        uvt_read_into_done(self, nread);
    }
    else if (nread != 0) {
        read_to_python(self, nread, buf);
    }
    if (buf->base == loop->slab) {
        uvt_slab_give(loop);
    }
    Py_DECREF(loop);
    if (self->reading && self->box != NULL && !uv_is_closing(&self->box->uv.handle)) {
        Py_DECREF(self);        /* goes on: nothing to update */
    }
    else {
        uvt_leave(self);
    }
}

int
uvt_stream_read_start(UvtHandle *self)
{
    int rc = 0;
    if (self->listening) {
        rc = UV_EINVAL;
    }
    else if (self->unwatchable) {
        rc = UV_EPERM;
    }
    else if (!self->reading) {
        rc = uv_read_start(&self->box->uv.stream, on_alloc, on_read);
        self->reading = rc == 0;
        uvt_handle_update(self);
    }
    return rc;
}

int
uvt_stream_read_start_now(UvtHandle *self)
{
    int rc = uvt_stream_read_start(self);
    if (rc == 0) {
        rc = uvt_guard_watch(self->box);
        if (rc < 0) {
            uvt_stream_read_stop(self);
        }
    }
    return rc;
}

void
uvt_stream_read_stop(UvtHandle *self)
{
    self->reading = false;
    (void)uv_read_stop(&self->box->uv.stream);
    uvt_handle_update(self);
}

PyDoc_STRVAR(start_read_doc,
"start_read($self, callback, /)\n--\n\n"
"Read all that comes: callback(handle, data, errorno) with data bytes and\n"
"errorno None, or data None and errorno < 0.  At the end of the stream errorno\n"
"is UV_EOF; reading has stopped then, the handle stays open.  While reading, it\n"
"only changes the callback.\n\n"
"Raises TypeError, HandleClosedError, and the handle's own error (ENOTCONN; EPERM:\n"
"a device, such as /dev/null, that cannot be waited for).");

static PyObject *
stream_start_read(UvtHandle *self, PyObject *callback)
{
    UVT_LOCKED(self->lock);
    int rc;
    if (!uvt_arg_callable("Stream.start_read", callback)
        || !uvt_handle_check_free(self, "Stream.start_read")) {
        return NULL;
    }
    rc = uvt_stream_read_start_now(self);
    if (rc < 0) {
        return uvt_handle_raise(self, rc, "uv_read_start");
    }
    self->reads_into = false;
    Py_XSETREF(self->callback, Py_NewRef(callback));
    Py_RETURN_NONE;
}

PyDoc_STRVAR(stop_read_doc,
"stop_read($self, /)\n--\n\nStop reading; no data comes after it.  Harmless when idle.");

static PyObject *
stream_stop_read(UvtHandle *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(self->lock);
    if (!uvt_handle_check_free(self, "Stream.stop_read")) {
        return NULL;
    }
    if (self->reading) {
        PyObject *callback = self->callback;
        self->callback = NULL;
        self->reads_into = false;
        uvt_stream_read_stop(self);
        Py_XDECREF(callback);
    }
    Py_RETURN_NONE;
}

/* ---- listening ---- */

/* A connection that is being made ends with the error, as libuv would find it on
 * the socket.  Writes that wait have nobody who would tell of it before the end. */
void
uvt_stream_refused(UvtHandle *self, int status)
{
    UvtBox *box = self->box;
    uv_stream_t *uv = &box->uv.stream;
    uv_buf_t nothing = {0};
    if (uv->connect_req != NULL) {
        uv->delayed_error = status;
        uvt_guard_feed(uv->loop, &uv->io_watcher);
        return;
    }
    if (self->reading) {
        on_read(uv, status, &nothing);
    }
    if (self->box == box && uv->io_watcher.pevents != 0) {
        uvt_handle_close(self);
    }
}

PyDoc_STRVAR(listen_doc,
"listen($self, callback, backlog=511, /)\n--\n\n"
"Listen for connections: callback(server, errorno) for each, which then has to\n"
"call accept().  The loop keeps a listening handle alive until it is closed.\n"
"Without descriptors or memory left (EMFILE, ENFILE, ENOBUFS, ENOMEM), connections\n"
"wait in the kernel: the callback is told, and hears of them a moment later.  An\n"
"error that says that the socket does not listen any more (EINVAL after somebody\n"
"has shut it down) is the last one, and closes the handle.\n\n"
"Raises TypeError, ValueError (backlog < 0), HandleClosedError, and the handle's\n"
"own error (EADDRINUSE, EINVAL).");

static PyObject *
stream_listen(UvtHandle *self, PyObject *const *args, Py_ssize_t nargs)
{
    UVT_LOCKED(self->lock);
    int backlog = 511, rc;
    if (!uvt_args_count("Stream.listen", nargs, 1, 2)
        || !uvt_arg_callable("Stream.listen", args[0])
        || (nargs > 1
            && !uvt_arg_int("Stream.listen", "backlog", args[1], 0, INT_MAX,
                            &backlog))
        || !uvt_handle_check_free(self, "Stream.listen")) {
        return NULL;
    }
    if (!uvt_guard_next_fd(self, "uv_listen")) {
        return NULL;
    }
    rc = uvt_stream_listen(self, backlog);
    if (rc < 0) {
        return uvt_handle_raise(self, rc, "uv_listen");
    }
    Py_XSETREF(self->callback, Py_NewRef(args[0]));
    Py_RETURN_NONE;
}

PyDoc_STRVAR(accept_doc,
"accept($self, client, /)\n--\n\n"
"Give the waiting connection to `client`, a fresh handle on the same loop.\n\n"
"Raises TypeError, ValueError (another loop, not fresh), HandleClosedError, and\n"
"the handle's own error (EAGAIN: none waits).");

PyObject *
uvt_stream_accept_method(UvtHandle *self, PyObject *arg)
{
    UVT_LOCKED(self->lock);
    UvtHandle *client = (UvtHandle *)arg;
    int rc;
    if (!PyObject_TypeCheck(arg, self->st->stream_type)) {
        PyErr_Format(PyExc_TypeError,
                     "Stream.accept(): expected a TCP or Pipe handle, got %.200s",
                     Py_TYPE(arg)->tp_name);
        return NULL;
    }
    if (!uvt_handle_check_free(self, "Stream.accept")
        || !uvt_handle_check_free(client, "Stream.accept")) {
        return NULL;
    }
    if (client->loop != self->loop || uvt_stream_has_fd(client)) {
        PyErr_SetString(PyExc_ValueError,
                        client->loop != self->loop
                        ? "Stream.accept(): client is of another loop"
                        : "Stream.accept(): client is in use already");
        return NULL;
    }
    rc = uvt_stream_accept(self, client);
    if (rc < 0) {
        return uvt_handle_raise(self, rc, "uv_accept");
    }
    Py_RETURN_NONE;
}

/* ---- connecting ---- */

UvtConnect *
uvt_connect_new(UvtHandle *self, PyObject *callback)
{
    UvtConnect *connect = PyMem_Calloc(1, sizeof(UvtConnect));
    if (connect == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    uvt_request_begin(&connect->base, self, callback);
    return connect;
}

void
uvt_connect_cancel(UvtConnect *connect)
{
    uvt_request_cancel(&connect->base);
    PyMem_Free(connect);
}

void
uvt_on_connect(uv_connect_t *req, int status)
{
    UvtConnect *connect = (UvtConnect *)req;
    uvt_request_done(&connect->base, req->handle, status);
    PyMem_Free(connect);
}

/* ---- attributes ---- */

PyDoc_STRVAR(set_blocking_doc,
"set_blocking($self, enable, /)\n--\n\n"
"Make writes block (true) or not (false).  Other threads run while one blocks.");

static PyObject *
stream_set_blocking(UvtHandle *self, PyObject *arg)
{
    UVT_LOCKED(self->lock);
    int on, rc;
    if (!uvt_arg_bool(arg, &on)
        || !uvt_handle_check_free(self, "Stream.set_blocking")) {
        return NULL;
    }
    rc = uvt_stream_has_fd(self)
        ? uv_stream_set_blocking(&self->box->uv.stream, on) : UV_EBADF;
    if (rc < 0) {
        return uvt_handle_raise(self, rc, "uv_stream_set_blocking");
    }
    self->blocks = on != 0;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(fileno_doc,
"fileno($self, /)\n--\n\n"
"The descriptor, which the handle goes on owning.  EBADF is raised before there\n"
"is one.");

static PyObject *
stream_get_readable(UvtHandle *self, void *Py_UNUSED(closure))
{
    UVT_LOCKED(self->lock);
    if (!uvt_handle_check(self)) {
        return NULL;
    }
    return PyBool_FromLong(self->box->uv.stream.connect_req == NULL
                           && uv_is_readable(&self->box->uv.stream));
}

static PyObject *
stream_get_writable(UvtHandle *self, void *Py_UNUSED(closure))
{
    UVT_LOCKED(self->lock);
    if (!uvt_handle_check(self)) {
        return NULL;
    }
    return PyBool_FromLong(self->box->uv.stream.connect_req == NULL
                           && uv_is_writable(&self->box->uv.stream));
}

static PyObject *
stream_get_write_queue_size(UvtHandle *self, void *Py_UNUSED(closure))
{
    UVT_LOCKED(self->lock);
    if (!uvt_handle_check(self)) {
        return NULL;
    }
    return PyLong_FromSize_t(
        uv_stream_get_write_queue_size(&self->box->uv.stream));
}

PyDoc_STRVAR(writelines_doc,
"writelines($self, pieces, callback=None, /)\n--\n\n"
"write() all pieces of an iterable, as one write.\n\n"
"Raises as write().");

PyDoc_STRVAR(try_write_doc,
"try_write($self, data, /)\n--\n\n"
"Send what the kernel takes at once, of data as for write(), and return how many\n"
"bytes that were.\n\n"
"Raises as write(), and EAGAIN when nothing can be sent now.");

PyDoc_STRVAR(shutdown_doc,
"shutdown($self, callback=None, /)\n--\n\n"
"End the outgoing side when all writes are done; then callback(handle, errorno).\n\n"
"Raises TypeError, HandleClosedError, and the handle's own error (ENOTCONN).");

static PyMethodDef stream_methods[] = {
    {"start_read", (PyCFunction)stream_start_read, METH_O, start_read_doc},
    {"start_read_into", (PyCFunction)(void (*)(void))uvt_stream_start_read_into,
     METH_FASTCALL, uvt_stream_start_read_into_doc},
    {"stop_read", (PyCFunction)stream_stop_read, METH_NOARGS, stop_read_doc},
    {"listen", (PyCFunction)(void (*)(void))stream_listen, METH_FASTCALL,
     listen_doc},
    {"accept", (PyCFunction)uvt_stream_accept_method, METH_O, accept_doc},
    UVT_STREAM_WRITE,
    {"writelines", (PyCFunction)(void (*)(void))uvt_stream_writelines,
     METH_FASTCALL, writelines_doc},
    {"try_write", (PyCFunction)uvt_stream_try_write, METH_O, try_write_doc},
    {"shutdown", (PyCFunction)(void (*)(void))uvt_stream_shutdown,
     METH_FASTCALL, shutdown_doc},
    {"set_blocking", (PyCFunction)stream_set_blocking, METH_O,
     set_blocking_doc},
    {"fileno", (PyCFunction)uvt_handle_fileno, METH_NOARGS, fileno_doc},
    {NULL},
};

static PyGetSetDef stream_getset[] = {
    {"readable", (getter)stream_get_readable, NULL,
     "True once connected, until the end of the stream.", NULL},
    {"writable", (getter)stream_get_writable, NULL,
     "True once connected, until shutdown().", NULL},
    {"write_queue_size", (getter)stream_get_write_queue_size, NULL,
     "Bytes written that the kernel has not taken yet.", NULL},
    {NULL},
};

PyDoc_STRVAR(stream_doc,
"The base of TCP and Pipe: a stream of bytes in both directions.");

static PyType_Slot stream_slots[] = {
    {Py_tp_doc, (void *)stream_doc},
    {Py_tp_methods, stream_methods},
    {Py_tp_getset, stream_getset},
    {Py_tp_traverse, uvt_handle_traverse},
    {Py_tp_clear, uvt_handle_clear},
    {Py_tp_dealloc, uvt_handle_dealloc},
    {0, NULL},
};

static PyType_Spec stream_spec = {
    .name = "uvtulip._uv.Stream",
    .basicsize = sizeof(UvtHandle),
    .flags = UVT_HANDLE_FLAGS | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = stream_slots,
};

int
uvt_stream_setup(PyObject *module, UvtState *st)
{
    return uvt_add_type(module, &st->stream_type, &stream_spec,
                        st->handle_type);
}
