/* uv.TCP: a TCP socket, connecting or listening.  All functions run on the
 * loop's thread, attached.  The handle owns its descriptor, also one that it
 * took over by open().
 */
#include "args.h"
#include "audit.h"
#include "errors.h"
#include "guards.h"
#include "listen.h"
#include "sockaddr.h"
#include "stream.h"
#include "tcp_options.h"
#include <sys/socket.h>

static int
tcp_setup_handle(UvtHandle *self, PyObject *loop_arg, unsigned flags)
{
    UvtLoop *loop;
    bool low;
    int rc;
    if (!uvt_handle_init_begin(self, loop_arg, UV_TCP, UVT_EXC_TCP,
                               sizeof(uv_tcp_t), &loop)) {
        return -1;
    }
    low = uvt_low_take_for_stream(loop);
    rc = uv_tcp_init_ex(&loop->core->uv, &self->box->uv.tcp, flags);
    if (low) {
        uvt_low_give(self->st);
    }
    if (uvt_handle_init_done(self, loop, rc, "uv_tcp_init_ex") < 0) {
        return -1;
    }
    rc = uvt_guard_fresh(self);
    if (rc < 0) {
        uvt_handle_raise(self, rc, "uv_tcp_init_ex");
        return -1;
    }
    return 0;
}

static int
tcp_init(UvtHandle *self, PyObject *args, PyObject *kwds)
{
    UVT_LOCKED(uvt_lock_of_init(self->st, args, kwds));
    static char *names[] = {"loop", "family", NULL};
    PyObject *loop_arg, *family_arg = NULL;
    int family = AF_UNSPEC;

    if (!PyArg_ParseTupleAndKeywords(args, kwds, "O|O:TCP", names, &loop_arg,
                                     &family_arg)
        || (family_arg != NULL
            && !uvt_arg_int("TCP", "family", family_arg, 0, 255, &family))) {
        return -1;
    }
    return tcp_setup_handle(self, loop_arg, (unsigned)family);
}

/* ---- set-up ---- */

PyDoc_STRVAR(bind_doc,
"bind($self, address, flags=0, /)\n--\n\n"
"Bind to (host, port[, flowinfo[, scope_id]]) with a numeric host; flags:\n"
"UV_TCP_IPV6ONLY, UV_TCP_REUSEPORT (libuv 1.49).  An address in use is reported by\n"
"listen() or connect().\n\n"
"Raises TypeError, ValueError, OverflowError, HandleClosedError, TCPError.");

static PyObject *
tcp_bind(UvtHandle *self, PyObject *const *args, Py_ssize_t nargs)
{
    UVT_LOCKED(self->lock);
    struct sockaddr_storage addr;
    int flags = 0, rc;
    if (!uvt_args_count("TCP.bind", nargs, 1, 2)
        || !uvt_sockaddr_parse("TCP.bind", args[0], &addr)
        || (nargs > 1
            && !uvt_arg_int("TCP.bind", "flags", args[1], 0, INT_MAX, &flags))
        || !uvt_audit_bind((PyObject *)self, args[0])
        || !uvt_handle_check_free(self, "TCP.bind")) {
        return NULL;
    }
    rc = uv_tcp_bind(&self->box->uv.tcp, (struct sockaddr *)&addr,
                     (unsigned)flags);
    if (rc < 0) {
        return uvt_handle_raise(self, rc, "uv_tcp_bind");
    }
    rc = uvt_guard_fresh(self);
    if (rc < 0) {
        return uvt_handle_raise(self, rc, "uv_tcp_bind");
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(open_doc,
"open($self, fd, /)\n--\n\n"
"Take over a stream socket's descriptor (an int, or an object with fileno()); it\n"
"is made non-blocking and closed with the handle.  After an exception it is the\n"
"caller's still.\n\n"
"Raises TypeError, ValueError (negative), HandleClosedError, TCPError (EBADF: not\n"
"open; ENOTSOCK; EPROTOTYPE: a socket of another type; EEXIST: in use in this\n"
"loop; EBUSY: the handle has one).");

static PyObject *
tcp_open(UvtHandle *self, PyObject *arg)
{
    UVT_LOCKED(self->lock);
    int fd, rc;
    if (!uvt_arg_fd("TCP.open", arg, &fd)
        || !uvt_handle_check_free(self, "TCP.open")) {
        return NULL;
    }
    rc = uvt_fd_check(self, fd, SOCK_STREAM, false);
    if (rc == 0) {
        rc = uv_tcp_open(&self->box->uv.tcp, fd);
    }
    if (rc < 0) {
        return uvt_handle_raise(self, rc, "uv_tcp_open");
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(connect_doc,
"connect($self, address, callback, /)\n--\n\n"
"Connect to (host, port[, flowinfo[, scope_id]]) with a numeric host, then\n"
"callback(handle, errorno).\n\n"
"Raises TypeError, ValueError, OverflowError, HandleClosedError, TCPError\n"
"(EALREADY, EISCONN).");

static PyObject *
tcp_connect(UvtHandle *self, PyObject *const *args, Py_ssize_t nargs)
{
    UVT_LOCKED(self->lock);
    struct sockaddr_storage addr;
    UvtConnect *connect;
    int rc;
    if (!uvt_args_count("TCP.connect", nargs, 2, 2)
        || !uvt_sockaddr_parse("TCP.connect", args[0], &addr)
        || !uvt_arg_callable("TCP.connect", args[1])
        || !uvt_audit_connect((PyObject *)self, args[0])
        || !uvt_handle_check_free(self, "TCP.connect")) {
        return NULL;
    }
    if (self->reading || self->listening) {
        return uvt_handle_raise(self, self->reading ? UV_EISCONN : UV_EINVAL,
                                "uv_tcp_connect");
    }
    if (!uvt_guard_next_fd(self, "uv_tcp_connect")) {
        return NULL;
    }
    connect = uvt_connect_new(self, args[1]);
    if (connect == NULL) {
        return NULL;
    }
    rc = uv_tcp_connect(&connect->req, &self->box->uv.tcp,
                        (struct sockaddr *)&addr, uvt_on_connect);
    if (rc < 0) {
        uvt_connect_cancel(connect);
        return uvt_handle_raise(self, rc, "uv_tcp_connect");
    }
    Py_RETURN_NONE;
}

/* ---- addresses ---- */

typedef int (*NameFunction)(const uv_tcp_t *, struct sockaddr *, int *);

static PyObject *
tcp_name(UvtHandle *self, NameFunction function, const char *call)
{
    struct sockaddr_storage addr;
    int len = sizeof(addr), rc;
    if (!uvt_handle_check(self)) {
        return NULL;
    }
    rc = function(&self->box->uv.tcp, (struct sockaddr *)&addr, &len);
    if (rc < 0) {
        return uvt_handle_raise(self, rc, call);
    }
    return uvt_sockaddr_format((struct sockaddr *)&addr, len);
}

PyDoc_STRVAR(getsockname_doc,
"getsockname($self, /)\n--\n\n"
"The local address: (host, port), or (host, port, flowinfo, scope_id).\n\n"
"Raises HandleClosedError, TCPError (EBADF: no socket yet).");

static PyObject *
tcp_getsockname(UvtHandle *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(self->lock);
    return tcp_name(self, uv_tcp_getsockname, "uv_tcp_getsockname");
}

PyDoc_STRVAR(getpeername_doc,
"getpeername($self, /)\n--\n\n"
"The address of the other side, as getsockname().\n\n"
"Raises HandleClosedError, TCPError (ENOTCONN).");

static PyObject *
tcp_getpeername(UvtHandle *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(self->lock);
    return tcp_name(self, uv_tcp_getpeername, "uv_tcp_getpeername");
}

/* ---- closing ---- */

PyDoc_STRVAR(close_reset_doc,
"close_reset($self, callback=None, /)\n--\n\n"
"Close the connection by a reset (RST), as close().  Since libuv 1.32.\n\n"
"Raises TypeError, HandleClosedError, TCPError (EINVAL: shutdown() is pending).");

static PyObject *
tcp_close_reset(UvtHandle *self, PyObject *const *args, Py_ssize_t nargs)
{
    UVT_LOCKED(self->lock);
    PyObject *callback = NULL;
    int rc, low;
    if (!uvt_args_count("TCP.close_reset", nargs, 0, 1)
        || !uvt_arg_callback("TCP.close_reset", nargs > 0 ? args[0] : NULL,
                             &callback)
        || !uvt_handle_check(self)) {
        return NULL;
    }
    uvt_listener_close(self->box);
    low = uvt_stream_has_fd(self) ? uvt_low_begin_close(self->box) : -1;
    rc = uvt_stream_has_fd(self)
        ? uv_tcp_close_reset(&self->box->uv.tcp, uvt_on_closed) : UV_EBADF;
    if (rc == 0) {
        uvt_low_end_close(low);
    }
    if (rc < 0) {
        return uvt_handle_raise(self, rc, "uv_tcp_close_reset");
    }
    Py_XSETREF(self->close_callback, Py_XNewRef(callback));
    uvt_handle_update(self);
    Py_RETURN_NONE;
}

static PyMethodDef tcp_methods[] = {
    {"bind", (PyCFunction)(void (*)(void))tcp_bind, METH_FASTCALL, bind_doc},
    {"open", (PyCFunction)tcp_open, METH_O, open_doc},
    {"connect", (PyCFunction)(void (*)(void))tcp_connect, METH_FASTCALL,
     connect_doc},
    {"getsockname", (PyCFunction)tcp_getsockname, METH_NOARGS,
     getsockname_doc},
    {"getpeername", (PyCFunction)tcp_getpeername, METH_NOARGS,
     getpeername_doc},
    UVT_STREAM_WRITE,
    {"close_reset", (PyCFunction)(void (*)(void))tcp_close_reset,
     METH_FASTCALL, close_reset_doc},
    {"nodelay", (PyCFunction)uvt_tcp_nodelay, METH_O, uvt_tcp_nodelay_doc},
    {"keepalive", (PyCFunction)(void (*)(void))uvt_tcp_keepalive,
     METH_FASTCALL, uvt_tcp_keepalive_doc},
    {"keepalive_ex", (PyCFunction)(void (*)(void))uvt_tcp_keepalive_ex,
     METH_FASTCALL, uvt_tcp_keepalive_ex_doc},
    {"simultaneous_accepts", (PyCFunction)uvt_tcp_simultaneous_accepts, METH_O,
     uvt_tcp_simultaneous_accepts_doc},
    {NULL},
};

static PyGetSetDef tcp_getset[] = {
    {"family", (getter)uvt_tcp_get_family, NULL,
     "AF_INET or AF_INET6; TCPError before there is a socket.", NULL},
    {"send_buffer_size", (getter)uvt_handle_get_buffer_size,
     (setter)uvt_handle_set_buffer_size,
     "SO_SNDBUF in bytes; Linux gives twice what was set.", UVT_SEND_BUFFER},
    {"receive_buffer_size", (getter)uvt_handle_get_buffer_size,
     (setter)uvt_handle_set_buffer_size,
     "SO_RCVBUF in bytes; Linux gives twice what was set.",
     UVT_RECEIVE_BUFFER},
    {NULL},
};

PyDoc_STRVAR(tcp_doc,
"TCP(loop, family=0)\n--\n\n"
"A TCP socket.  With a family (AF_INET, AF_INET6) it exists at once, else from\n"
"bind(), connect(), open() or accept() on.");

static PyType_Slot tcp_slots[] = {
    {Py_tp_doc, (void *)tcp_doc},
    {Py_tp_init, tcp_init},
    {Py_tp_methods, tcp_methods},
    {Py_tp_getset, tcp_getset},
    UVT_HANDLE_SLOTS,
    {0, NULL},
};

static PyType_Spec tcp_spec = {
    .name = "uvtulip._uv.TCP",
    .basicsize = sizeof(UvtHandle),
    .flags = UVT_HANDLE_FLAGS,
    .slots = tcp_slots,
};

int
uvt_tcp_setup(PyObject *module, UvtState *st)
{
    return uvt_add_type(module, &st->tcp_type, &tcp_spec, st->stream_type);
}

PyObject *
uvt_tcp_create(PyObject *loop, unsigned flags)
{
    UvtState *st = ((UvtLoop *)loop)->st;
    PyObject *self = uvt_handle_new(st->tcp_type, NULL, NULL);
    if (self != NULL && tcp_setup_handle((UvtHandle *)self, loop, flags) < 0) {
        Py_CLEAR(self);
    }
    return self;
}
