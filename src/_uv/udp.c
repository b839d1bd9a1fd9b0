/* uv.UDP: a UDP socket, its addresses and options; udp_batch.c moves its
 * datagrams.  All functions run on the loop's thread, attached.  The handle
 * owns its descriptor, also one that it took over by open().
 *
 * Edges that the collector sees beyond those of handle.c: handle -> the
 * callbacks and the data of its sends under way, and the cached addresses.
 */
#include "udp.h"
#include "audit.h"
#include "args.h"
#include "errors.h"
#include "guards.h"
#include "sockaddr.h"
#include "tcp_options.h"
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

/* ---- life cycle ---- */

/* -1 before there is a socket. */
static int
socket_fd(UvtHandle *self)
{
    uv_os_fd_t fd;
    return uv_fileno(&self->box->uv.handle, &fd) == 0 ? fd : -1;
}

static int
init_udp(UvtHandle *self, PyObject *loop_arg, unsigned flags)
{
    UvtLoop *loop;
    int rc;
    if (!uvt_handle_init_begin(self, loop_arg, UV_UDP, UVT_EXC_UDP,
                               sizeof(uv_udp_t), &loop)) {
        return -1;
    }
    rc = uv_udp_init_ex(&loop->core->uv, &self->box->uv.udp, flags);
    if (uvt_handle_init_done(self, loop, rc, "uv_udp_init_ex") < 0) {
        return -1;
    }
    uvt_udp_receive_nothing(&self->box->uv.udp);
    if (uvt_guard_made(self) == UV_ENOMEM) {
        uvt_handle_raise(self, UV_ENOMEM, "uv_udp_init_ex");
        return -1;
    }
    return 0;
}

static int
udp_init(UvtHandle *self, PyObject *args, PyObject *kwds)
{
    UVT_LOCKED(uvt_lock_of_init(self->st, args, kwds));
    static char *names[] = {"loop", "family", NULL};
    PyObject *loop_arg, *flags_arg = NULL;
    int flags = AF_UNSPEC;
    if (!PyArg_ParseTupleAndKeywords(args, kwds, "O|O:UDP", names, &loop_arg,
                                     &flags_arg)
        || (flags_arg != NULL
            && !uvt_arg_int("UDP", "family", flags_arg, 0, INT_MAX, &flags))) {
        return -1;
    }
    return init_udp(self, loop_arg, (unsigned)flags);
}

PyObject *
uvt_udp_create(PyObject *loop, unsigned flags)
{
    PyTypeObject *type = ((UvtLoop *)loop)->st->udp_type;
    PyObject *self = uvt_handle_new(type, NULL, NULL);
    if (self != NULL && init_udp((UvtHandle *)self, loop, flags) < 0) {
        Py_CLEAR(self);
    }
    return self;
}

static int
udp_traverse(UvtUDP *self, visitproc visit, void *arg)
{
    int rc = uvt_udp_visit_peers(self, visit, arg);
    return rc != 0 ? rc : uvt_handle_traverse(&self->base, visit, arg);
}

static int
udp_clear(UvtUDP *self)
{
    UVT_LOCKED(self->base.lock);
    uvt_udp_clear_peers(self);
    return uvt_handle_clear(&self->base);
}

static void
udp_dealloc(UvtUDP *self)
{
    PyObject_GC_UnTrack(self);
    UVT_LOCKED(self->base.lock);
    uvt_udp_clear_peers(self);
    PyMem_RawFree(self->batch);
    self->batch = NULL;
    uvt_handle_dealloc(&self->base);
}

/* ---- the socket ---- */

static int
bind_socket(UvtHandle *self, const struct sockaddr_storage *addr, unsigned flags)
{
    bool had = socket_fd(self) >= 0;
    int rc = uv_udp_bind(&self->box->uv.udp, (const struct sockaddr *)addr,
                         flags);
    int fresh = had ? 0 : uvt_guard_made(self);
    return rc < 0 ? rc : fresh;
}

int
uvt_udp_ensure_socket(UvtHandle *self, int family, unsigned flags)
{
    struct sockaddr_storage any;
    if (socket_fd(self) >= 0) {
        return 0;
    }
    memset(&any, 0, sizeof(any));
    any.ss_family = (sa_family_t)family;
    return bind_socket(self, &any, flags);
}

PyDoc_STRVAR(bind_doc,
"bind($self, addr, flags=0, /)\n--\n\n"
"Bind to (host, port[, flowinfo[, scope_id]]) with a numeric host; flags:\n"
"UV_UDP_IPV6ONLY, UV_UDP_REUSEADDR, UV_UDP_LINUX_RECVERR.\n\n"
"Raises TypeError, ValueError, OverflowError, HandleClosedError, UDPError\n"
"(EADDRINUSE, EADDRNOTAVAIL; EINVAL: bound already, wrong flags or family).");

static PyObject *
udp_bind(UvtHandle *self, PyObject *const *args, Py_ssize_t nargs)
{
    UVT_LOCKED(self->lock);
    struct sockaddr_storage addr;
    int flags = 0, rc;
    if (!uvt_args_count("UDP.bind", nargs, 1, 2)
        || !uvt_sockaddr_parse("UDP.bind", args[0], &addr)
        || (nargs > 1
            && !uvt_arg_int("UDP.bind", "flags", args[1], 0, INT_MAX, &flags))
        || !uvt_audit_bind((PyObject *)self, args[0])
        || !uvt_handle_check_free(self, "UDP.bind")) {
        return NULL;
    }
    rc = bind_socket(self, &addr, (unsigned)flags);
    if (rc < 0) {
        return uvt_handle_raise(self, rc, "uv_udp_bind");
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(open_doc,
"open($self, fd, /)\n--\n\n"
"Take over the descriptor of a datagram socket of IPv4, IPv6 or UNIX (an int, or\n"
"an object with fileno()); it is made non-blocking and closed with the handle.\n"
"After an exception it is the caller's still.\n\n"
"Raises TypeError, ValueError (negative), HandleClosedError, UDPError (EBADF: not\n"
"open; ENOTSOCK; EPROTOTYPE: not of datagrams; EAFNOSUPPORT: another family, or\n"
"UNIX with UV_UDP_RECVMMSG; EEXIST: in use in this loop; EBUSY: has one).");

/* libuv keeps too little of a sender's address for UNIX names in batches. */
static int
check_family(UvtHandle *self, int fd)
{
    int family = uvt_fd_family(fd);
    if (family == AF_INET || family == AF_INET6
        || (family == AF_UNIX
            && !uv_udp_using_recvmmsg(&self->box->uv.udp))) {
        return 0;
    }
    return family < 0 ? family : UV_EAFNOSUPPORT;
}

static PyObject *
udp_open(UvtHandle *self, PyObject *arg)
{
    UVT_LOCKED(self->lock);
    int fd, rc;
    if (!uvt_arg_fd("UDP.open", arg, &fd)
        || !uvt_handle_check_free(self, "UDP.open")) {
        return NULL;
    }
    rc = uvt_fd_check(self, fd, SOCK_DGRAM, false);
    if (rc == 0) {
        rc = check_family(self, fd);
    }
    if (rc == 0) {
        rc = uv_udp_open(&self->box->uv.udp, fd);
    }
    if (rc < 0) {
        return uvt_handle_raise(self, rc, "uv_udp_open");
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(connect_doc,
"connect($self, addr, /)\n--\n\n"
"Fix the other side: send(None, data) goes there, and only its datagrams come in.\n"
"None undoes that.\n\n"
"Raises TypeError, ValueError, OverflowError, HandleClosedError, UDPError\n"
"(EISCONN; ENOTCONN: None, but not connected).");

static PyObject *
udp_connect(UvtHandle *self, PyObject *arg)
{
    UVT_LOCKED(self->lock);
    struct sockaddr_storage storage;
    struct sockaddr *addr = arg == Py_None ? NULL : (struct sockaddr *)&storage;
    int rc = 0;
    if ((addr != NULL
         && (!uvt_sockaddr_parse("UDP.connect", arg, &storage)
             || !uvt_audit_connect((PyObject *)self, arg)))
        || !uvt_handle_check_free(self, "UDP.connect")) {
        return NULL;
    }
    if (addr != NULL) {
        rc = uvt_udp_ensure_socket(self, addr->sa_family, 0);
    }
    if (rc == 0) {
        rc = uv_udp_connect(&self->box->uv.udp, addr);
    }
    if (rc < 0) {
        return uvt_handle_raise(self, rc, "uv_udp_connect");
    }
    Py_RETURN_NONE;
}

/* ---- addresses ---- */

static PyObject *
udp_name(UvtHandle *self,
         int (*function)(const uv_udp_t *, struct sockaddr *, int *),
         const char *call)
{
    struct sockaddr_storage addr;
    int size = sizeof(addr), rc;
    if (!uvt_handle_check(self)) {
        return NULL;
    }
    rc = function(&self->box->uv.udp, (struct sockaddr *)&addr, &size);
    if (rc < 0) {
        return uvt_handle_raise(self, rc, call);
    }
    return uvt_sockaddr_format((struct sockaddr *)&addr, size);
}

PyDoc_STRVAR(getsockname_doc,
"getsockname($self, /)\n--\n\n"
"The local address: (host, port), or (host, port, flowinfo, scope_id).\n\n"
"Raises HandleClosedError, UDPError (EBADF: no socket yet).");

static PyObject *
udp_getsockname(UvtHandle *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(self->lock);
    return udp_name(self, uv_udp_getsockname, "uv_udp_getsockname");
}

PyDoc_STRVAR(getpeername_doc,
"getpeername($self, /)\n--\n\n"
"The address that the handle is connected to, as getsockname().\n\n"
"Raises HandleClosedError, UDPError (ENOTCONN; EBADF: no socket yet).");

static PyObject *
udp_getpeername(UvtHandle *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(self->lock);
    return udp_name(self, uv_udp_getpeername, "uv_udp_getpeername");
}

/* ---- multicast ---- */

/* A str without NUL, or, with `optional`, None or nothing (*out is NULL). */
static bool
arg_host(const char *call, const char *name, PyObject *arg, bool optional,
         const char **out)
{
    Py_ssize_t size;
    *out = NULL;
    if (optional && (arg == NULL || arg == Py_None)) {
        return true;
    }
    if (!PyUnicode_Check(arg)) {
        PyErr_Format(PyExc_TypeError, "%s(): '%s' must be a str, not %.200s",
                     call, name, Py_TYPE(arg)->tp_name);
        return false;
    }
    *out = PyUnicode_AsUTF8AndSize(arg, &size);
    if (*out != NULL && strlen(*out) != (size_t)size) {
        PyErr_Format(PyExc_ValueError, "%s(): '%s' has a NUL in it", call,
                     name);
        *out = NULL;
    }
    return *out != NULL;
}

static int
ensure_group_socket(UvtHandle *self, const char *group)
{
    int family = strchr(group, ':') != NULL ? AF_INET6 : AF_INET;
    return uvt_udp_ensure_socket(self, family, UV_UDP_REUSEADDR);
}

PyDoc_STRVAR(set_membership_doc,
"set_membership($self, group, membership, interface=None, /)\n--\n\n"
"Join (UV_JOIN_GROUP) or leave (UV_LEAVE_GROUP) a multicast group, given by its\n"
"numeric address, on the interface with this numeric address.\n\n"
"Raises TypeError, ValueError, HandleClosedError, UDPError (EINVAL: no address;\n"
"ENODEV; EADDRNOTAVAIL: not joined).");

static PyObject *
udp_set_membership(UvtHandle *self, PyObject *const *args, Py_ssize_t nargs)
{
    UVT_LOCKED(self->lock);
    const char *const call = "UDP.set_membership";
    const char *group, *interface;
    int membership, rc;
    if (!uvt_args_count(call, nargs, 2, 3)
        || !arg_host(call, "group", args[0], false, &group)
        || !uvt_arg_int(call, "membership", args[1], UV_LEAVE_GROUP,
                        UV_JOIN_GROUP, &membership)
        || !arg_host(call, "interface", nargs > 2 ? args[2] : NULL, true,
                     &interface) || !uvt_handle_check(self)) {
        return NULL;
    }
    rc = ensure_group_socket(self, group);
    if (rc == 0) {
        rc = uv_udp_set_membership(&self->box->uv.udp, group, interface,
                                   (uv_membership)membership);
    }
    if (rc < 0) {
        return uvt_handle_raise(self, rc, "uv_udp_set_membership");
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(set_source_membership_doc,
"set_source_membership($self, group, interface, source, membership, /)\n--\n\n"
"As set_membership(), for datagrams from one source only; interface may be\n"
"None.  Since libuv 1.32.\n\n"
"Raises as set_membership().");

static PyObject *
udp_set_source_membership(UvtHandle *self, PyObject *const *args,
                          Py_ssize_t nargs)
{
    UVT_LOCKED(self->lock);
    static const char call[] = "UDP.set_source_membership";
    const char *group, *interface, *source;
    int membership, rc;
    if (!uvt_args_count(call, nargs, 4, 4)
        || !arg_host(call, "group", args[0], false, &group)
        || !arg_host(call, "interface", args[1], true, &interface)
        || !arg_host(call, "source", args[2], false, &source)
        || !uvt_arg_int(call, "membership", args[3], UV_LEAVE_GROUP,
                        UV_JOIN_GROUP, &membership)
        || !uvt_handle_check(self)) {
        return NULL;
    }
    rc = ensure_group_socket(self, group);
    if (rc == 0) {
        rc = uv_udp_set_source_membership(&self->box->uv.udp, group, interface,
                                          source, (uv_membership)membership);
    }
    if (rc < 0) {
        return uvt_handle_raise(self, rc, "uv_udp_set_source_membership");
    }
    Py_RETURN_NONE;
}

/* libuv itself only knows when it has bound the socket. */
static bool
is_ipv6(UvtHandle *self)
{
    return uvt_fd_family(socket_fd(self)) == AF_INET6;
}

PyDoc_STRVAR(set_multicast_interface_doc,
"set_multicast_interface($self, interface=None, /)\n--\n\n"
"Send multicast datagrams by the interface with this numeric address; None\n"
"leaves the choice to the system.\n\n"
"Raises TypeError, ValueError, HandleClosedError, UDPError (EBADF: no socket\n"
"yet; EINVAL: no address; EADDRNOTAVAIL).");

static PyObject *
udp_set_multicast_interface(UvtHandle *self, PyObject *const *args,
                            Py_ssize_t nargs)
{
    UVT_LOCKED(self->lock);
    static const char call[] = "UDP.set_multicast_interface";
    const char *interface;
    int rc;
    if (!uvt_args_count(call, nargs, 0, 1)
        || !arg_host(call, "interface", nargs > 0 ? args[0] : NULL, true,
                     &interface)
        || !uvt_handle_check(self)) {
        return NULL;
    }
    if (interface == NULL && is_ipv6(self)) {
        interface = "::";
    }
    rc = uv_udp_set_multicast_interface(&self->box->uv.udp, interface);
    if (rc < 0) {
        return uvt_handle_raise(self, rc, "uv_udp_set_multicast_interface");
    }
    Py_RETURN_NONE;
}

/* ---- options that are one number ---- */

/* An option of IPv6 (-1: both families have the same); that of IPv4 is left to
 * `function` of libuv. */
static PyObject *
set_number(UvtHandle *self, int (*function)(uv_udp_t *, int), int option6,
           int value, const char *call)
{
    int rc = 0;
    if (!uvt_handle_check(self)) {
        return NULL;
    }
    if (option6 < 0 || !is_ipv6(self)) {
        rc = function(&self->box->uv.udp, value);
    }
    else if (setsockopt(socket_fd(self), IPPROTO_IPV6, option6, &value,
                        sizeof(value)) < 0) {
        rc = uv_translate_sys_error(errno);
    }
    if (rc < 0) {
        return uvt_handle_raise(self, rc, call);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(set_multicast_ttl_doc,
"set_multicast_ttl($self, ttl, /)\n--\n\n"
"The time to live of multicast datagrams, 0 to 255 (1 at first).\n\n"
"Raises TypeError, ValueError, HandleClosedError, UDPError (EBADF: no socket\n"
"yet).");

static PyObject *
udp_set_multicast_ttl(UvtHandle *self, PyObject *arg)
{
    UVT_LOCKED(self->lock);
    int ttl;
    return uvt_arg_int("UDP.set_multicast_ttl", "ttl", arg, 0, 255, &ttl)
        ? set_number(self, uv_udp_set_multicast_ttl, IPV6_MULTICAST_HOPS, ttl,
                     "uv_udp_set_multicast_ttl")
        : NULL;
}

PyDoc_STRVAR(set_ttl_doc,
"set_ttl($self, ttl, /)\n--\n\n"
"The time to live of datagrams, 1 to 255.\n\n"
"Raises TypeError, ValueError (not 0 to 255), HandleClosedError, UDPError\n"
"(EINVAL: 0; EBADF: no socket yet).");

static PyObject *
udp_set_ttl(UvtHandle *self, PyObject *arg)
{
    UVT_LOCKED(self->lock);
    int ttl;
    /* libuv refuses 0, IPv6 in the kernel would not. */
    return uvt_arg_int("UDP.set_ttl", "ttl", arg, 0, 255, &ttl)
        ? set_number(self, uv_udp_set_ttl, ttl > 0 ? IPV6_UNICAST_HOPS : -1,
                     ttl, "uv_udp_set_ttl")
        : NULL;
}

PyDoc_STRVAR(set_multicast_loop_doc,
"set_multicast_loop($self, enable, /)\n--\n\n"
"Let multicast datagrams come back to this machine, or not.\n\n"
"Raises HandleClosedError, UDPError (EBADF: no socket yet).");

static PyObject *
udp_set_multicast_loop(UvtHandle *self, PyObject *arg)
{
    UVT_LOCKED(self->lock);
    int on;
    return uvt_arg_bool(arg, &on)
        ? set_number(self, uv_udp_set_multicast_loop, IPV6_MULTICAST_LOOP, on,
                     "uv_udp_set_multicast_loop")
        : NULL;
}

PyDoc_STRVAR(set_broadcast_doc,
"set_broadcast($self, enable, /)\n--\n\n"
"Allow sending to broadcast addresses, or not.  Raises as set_multicast_loop().");

static PyObject *
udp_set_broadcast(UvtHandle *self, PyObject *arg)
{
    UVT_LOCKED(self->lock);
    int on;
    return uvt_arg_bool(arg, &on)
        ? set_number(self, uv_udp_set_broadcast, -1, on,
                     "uv_udp_set_broadcast")
        : NULL;
}

/* ---- attributes ---- */

/* The number of sends under way, or (which is NULL) of their bytes. */
static PyObject *
udp_get_queue(UvtHandle *self, void *which)
{
    UVT_LOCKED(self->lock);
    if (!uvt_handle_check(self)) {
        return NULL;
    }
    return PyLong_FromSize_t(
        which == NULL ? uv_udp_get_send_queue_size(&self->box->uv.udp)
                      : uv_udp_get_send_queue_count(&self->box->uv.udp));
}

PyDoc_STRVAR(fileno_doc,
"fileno($self, /)\n--\n\n"
"The descriptor, owned by the handle.  EBADF is raised before there is one.");

#define FASTCALL(function) (PyCFunction)(void (*)(void))(function), METH_FASTCALL

static PyMethodDef udp_methods[] = {
    {"bind", FASTCALL(udp_bind), bind_doc},
    {"open", (PyCFunction)udp_open, METH_O, open_doc},
    {"connect", (PyCFunction)udp_connect, METH_O, connect_doc},
    {"getsockname", (PyCFunction)udp_getsockname, METH_NOARGS, getsockname_doc},
    {"getpeername", (PyCFunction)udp_getpeername, METH_NOARGS, getpeername_doc},
    {"start_recv", (PyCFunction)uvt_udp_start_recv, METH_O, uvt_udp_start_recv_doc},
    {"stop_recv", (PyCFunction)uvt_udp_stop_recv, METH_NOARGS, uvt_udp_stop_recv_doc},
    {"send", FASTCALL(uvt_udp_send), uvt_udp_send_doc},
    {"try_send", FASTCALL(uvt_udp_try_send), uvt_udp_try_send_doc},
    {"try_send2", (PyCFunction)uvt_udp_try_send2, METH_O, uvt_udp_try_send2_doc},
    {"set_membership", FASTCALL(udp_set_membership), set_membership_doc},
    {"set_source_membership", FASTCALL(udp_set_source_membership),
     set_source_membership_doc},
    {"set_multicast_interface", FASTCALL(udp_set_multicast_interface),
     set_multicast_interface_doc},
    {"set_multicast_ttl", (PyCFunction)udp_set_multicast_ttl, METH_O,
     set_multicast_ttl_doc},
    {"set_multicast_loop", (PyCFunction)udp_set_multicast_loop, METH_O,
     set_multicast_loop_doc},
    {"set_broadcast", (PyCFunction)udp_set_broadcast, METH_O, set_broadcast_doc},
    {"set_ttl", (PyCFunction)udp_set_ttl, METH_O, set_ttl_doc},
    {"fileno", (PyCFunction)uvt_handle_fileno, METH_NOARGS, fileno_doc},
    {NULL},
};

static PyGetSetDef udp_getset[] = {
    {"family", (getter)uvt_tcp_get_family, NULL, uvt_tcp_family_doc, NULL},
    {"send_buffer_size", (getter)uvt_handle_get_buffer_size,
     (setter)uvt_handle_set_buffer_size,
     "SO_SNDBUF in bytes; Linux gives twice what was set.", UVT_SEND_BUFFER},
    {"receive_buffer_size", (getter)uvt_handle_get_buffer_size,
     (setter)uvt_handle_set_buffer_size,
     "SO_RCVBUF in bytes; Linux gives twice what was set.",
     UVT_RECEIVE_BUFFER},
    {"send_queue_size", (getter)udp_get_queue, NULL,
     "Bytes of the datagrams whose send() is not finished.", NULL},
    {"send_queue_count", (getter)udp_get_queue, NULL,
     "How many send() are not finished.", (void *)1},
    {NULL},
};

PyDoc_STRVAR(udp_doc,
"UDP(loop, family=0)\n--\n\n"
"A UDP socket.  With a family (AF_INET, AF_INET6) it exists at once, else from\n"
"bind(), connect(), open(), send(), set_membership() or start_recv() on.\n"
"UV_UDP_RECVMMSG may be added to the family: up to 20 datagrams are then\n"
"received with one system call, into a buffer of 1.25 MiB.");

static PyType_Slot udp_slots[] = {
    {Py_tp_doc, (void *)udp_doc},
    {Py_tp_init, udp_init},
    {Py_tp_methods, udp_methods},
    {Py_tp_getset, udp_getset},
    {Py_tp_new, uvt_handle_new},
    {Py_tp_traverse, udp_traverse},
    {Py_tp_clear, udp_clear},
    {Py_tp_dealloc, udp_dealloc},
    {0, NULL},
};

static PyType_Spec udp_spec = {
    .name = "uvtulip._uv.UDP",
    .basicsize = sizeof(UvtUDP),
    .flags = UVT_HANDLE_FLAGS,
    .slots = udp_slots,
};

int
uvt_udp_setup(PyObject *module, UvtState *st)
{
    return uvt_add_type(module, &st->udp_type, &udp_spec, st->handle_type);
}
