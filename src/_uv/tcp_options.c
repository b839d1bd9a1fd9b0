/* Options of TCP handles, the checks that every open() makes, and the module's
 * socketpair() and pipe().  All functions run attached, on the loop's thread or
 * while nobody runs the loop; the module functions on any thread.  Descriptors
 * are only looked at; those of the pairs belong to the caller.
 */
#include "tcp_options.h"
#include "args.h"
#include "errors.h"
#include "guards.h"
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- options of TCP ---- */

const char uvt_tcp_nodelay_doc[] =
"nodelay($self, enable, /)\n--\n\n"
"Switch TCP_NODELAY on or off; remembered when there is no socket yet.\n\n"
"Raises HandleClosedError, TCPError.";

PyObject *
uvt_tcp_nodelay(UvtHandle *self, PyObject *arg)
{
    UVT_LOCKED(self->lock);
    int on, rc;
    if (!uvt_arg_bool(arg, &on) || !uvt_handle_check(self)) {
        return NULL;
    }
    rc = uv_tcp_nodelay(&self->box->uv.tcp, on);
    if (rc < 0) {
        return uvt_handle_raise(self, rc, "uv_tcp_nodelay");
    }
    Py_RETURN_NONE;
}

const char uvt_tcp_keepalive_doc[] =
"keepalive($self, enable, delay=60, /)\n--\n\n"
"Switch SO_KEEPALIVE on or off; `delay` is the number of whole seconds before\n"
"the first probe, at least 1 when it is switched on.  When there is no socket\n"
"yet, the switch is remembered, but not the delay (it is 60 then).\n\n"
"Raises TypeError, ValueError (delay), HandleClosedError, TCPError.";

PyObject *
uvt_tcp_keepalive(UvtHandle *self, PyObject *const *args, Py_ssize_t nargs)
{
    UVT_LOCKED(self->lock);
    int on, delay = 60, rc;
    if (!uvt_args_count("TCP.keepalive", nargs, 1, 2)
        || !uvt_arg_bool(args[0], &on)) {
        return NULL;
    }
    if (nargs > 1
        && !uvt_arg_int("TCP.keepalive", "delay", args[1], on ? 1 : 0, INT_MAX,
                        &delay)) {
        return NULL;
    }
    if (!uvt_handle_check(self)) {
        return NULL;
    }
    rc = uv_tcp_keepalive(&self->box->uv.tcp, on, (unsigned)delay);
    if (rc < 0) {
        return uvt_handle_raise(self, rc, "uv_tcp_keepalive");
    }
    Py_RETURN_NONE;
}

const char uvt_tcp_keepalive_ex_doc[] =
"keepalive_ex($self, enable, idle=60, interval=1, count=10, /)\n--\n\n"
"Switch SO_KEEPALIVE on or off: the first probe after `idle` whole seconds without\n"
"data, the next ones every `interval` seconds; the connection is lost when\n"
"`count` of them have not been answered.  All at least 1.\n\n"
"Raises TypeError, ValueError, HandleClosedError, TCPError (EBADF: no socket yet).";

#if UV_VERSION_HEX >= 0x013400
static int
set_keepalive(uv_tcp_t *tcp, int on, const int values[3])
{
    return uv_tcp_keepalive_ex(tcp, on, (unsigned)values[0], (unsigned)values[1],
                               (unsigned)values[2]);
}
#else
static int
set_keepalive(uv_tcp_t *tcp, int on, const int values[3])
{
    static const int names[] = {TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT};
    uv_os_fd_t fd;
    int rc = uv_fileno((uv_handle_t *)tcp, &fd);
    if (rc < 0) {
        return rc;
    }
    rc = setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    for (int i = 0; on && rc == 0 && i < 3; i++) {
        rc = setsockopt(fd, IPPROTO_TCP, names[i], &values[i], sizeof(int));
    }
    return rc < 0 ? uv_translate_sys_error(errno) : 0;
}
#endif

PyObject *
uvt_tcp_keepalive_ex(UvtHandle *self, PyObject *const *args, Py_ssize_t nargs)
{
    UVT_LOCKED(self->lock);
    static const char *const names[] = {"idle", "interval", "count"};
    int values[] = {60, 1, 10}, on, rc;
    uv_os_fd_t fd;
    if (!uvt_args_count("TCP.keepalive_ex", nargs, 1, 4)
        || !uvt_arg_bool(args[0], &on)) {
        return NULL;
    }
    for (Py_ssize_t i = 1; i < nargs; i++) {
        if (!uvt_arg_int("TCP.keepalive_ex", names[i - 1], args[i], 1, INT_MAX,
                         &values[i - 1])) {
            return NULL;
        }
    }
    if (!uvt_handle_check(self)) {
        return NULL;
    }
    rc = uv_fileno(&self->box->uv.handle, &fd);
    if (rc == 0) {
        rc = set_keepalive(&self->box->uv.tcp, on, values);
    }
    if (rc < 0) {
        return uvt_handle_raise(self, rc, "uv_tcp_keepalive_ex");
    }
    Py_RETURN_NONE;
}

const char uvt_tcp_simultaneous_accepts_doc[] =
"simultaneous_accepts($self, enable, /)\n--\n\n"
"Let the system prepare several connections of a listening handle at once.\n"
"Only Windows knows it; elsewhere nothing changes.\n\n"
"Raises HandleClosedError, TCPError.";

PyObject *
uvt_tcp_simultaneous_accepts(UvtHandle *self, PyObject *arg)
{
    UVT_LOCKED(self->lock);
    int on, rc;
    if (!uvt_arg_bool(arg, &on) || !uvt_handle_check(self)) {
        return NULL;
    }
    rc = uv_tcp_simultaneous_accepts(&self->box->uv.tcp, on);
    if (rc < 0) {
        return uvt_handle_raise(self, rc, "uv_tcp_simultaneous_accepts");
    }
    Py_RETURN_NONE;
}

const char uvt_tcp_family_doc[] =
"The address family of the socket, AF_INET or AF_INET6 (int).  Raises an error\n"
"(EBADF) before there is a socket.";

PyObject *
uvt_tcp_get_family(UvtHandle *self, void *Py_UNUSED(closure))
{
    UVT_LOCKED(self->lock);
    uv_os_fd_t fd;
    int rc;
    if (!uvt_handle_check(self)) {
        return NULL;
    }
    rc = uv_fileno(&self->box->uv.handle, &fd);
    if (rc == 0) {
        rc = uvt_fd_family(fd);
    }
    if (rc < 0) {
        return uvt_handle_raise(self, rc, "getsockname");
    }
    return PyLong_FromLong(rc);
}

/* ---- checks of descriptors ---- */

int
uvt_fd_family(int fd)
{
    struct sockaddr_storage name;
    socklen_t size = sizeof(name);
    memset(&name, 0, sizeof(name));
    if (getsockname(fd, (struct sockaddr *)&name, &size) < 0) {
        return uv_translate_sys_error(errno);
    }
    return name.ss_family;
}

/* A Poll has only lent its descriptor, and only while it is started. */
static bool
fd_in_use(UvtCore *core, int fd)
{
    for (UvtBox *box = core->boxes; box != NULL; box = box->next) {
        uv_os_fd_t its;
        if (box->uv.handle.type == UV_POLL && !uv_is_active(&box->uv.handle)) {
            continue;
        }
        /* Handles without a descriptor answer UV_EINVAL, closing ones
         * UV_EBADF. */
        if (uv_fileno(&box->uv.handle, &its) == 0 && its == fd) {
            return true;
        }
    }
    return false;
}

int
uvt_fd_check(UvtHandle *self, int fd, int type, bool pipes)
{
    uv_os_fd_t own;
    if (uv_fileno(&self->box->uv.handle, &own) == 0) {
        return UV_EBUSY;
    }
    uvt_guard_stale_fd(self->loop->core, fd);
    if (self->box == NULL || uv_is_closing(&self->box->uv.handle)) {
        return UV_EBADF;        /* by who was told */
    }
    return uvt_fd_check_new(self->loop->core, fd, type, pipes);
}

int
uvt_fd_check_new(UvtCore *core, int fd, int type, bool pipes)
{
    struct stat st;
    int its_type;
    socklen_t size = sizeof(its_type);

    if (fstat(fd, &st) < 0) {
        return uv_translate_sys_error(errno);
    }
#ifdef O_PATH
    if ((fcntl(fd, F_GETFL) & O_PATH) != 0) {
        return UV_EBADF;    /* only names a file: epoll would say so too */
    }
#endif
    if (!S_ISSOCK(st.st_mode)) {
        if (!pipes) {
            return UV_ENOTSOCK;
        }
        /* epoll takes no regular files, directories and devices such as
         * /dev/null: libuv would abort on them.  Such a device can be written
         * to, since it is never full. */
        if (!S_ISFIFO(st.st_mode)
            && !(S_ISCHR(st.st_mode)
                 && ((fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDONLY
                     || uvt_guard_can_watch(core, fd)))) {
            return UV_EINVAL;
        }
    }
    else if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &its_type, &size) < 0) {
        return uv_translate_sys_error(errno);
    }
    else if (its_type != type) {
        return UV_EPROTOTYPE;
    }
    return fd_in_use(core, fd) ? UV_EEXIST : uvt_guard_reserve(&core->uv, fd);
}

/* ---- functions of the module ---- */

/* The two descriptors as a tuple; they are closed when it cannot be made. */
static PyObject *
make_pair(const int fds[2])
{
    PyObject *pair = Py_BuildValue("(ii)", fds[0], fds[1]);
    if (pair == NULL) {
        (void)close(fds[0]);
        (void)close(fds[1]);
    }
    return pair;
}

PyDoc_STRVAR(socketpair_doc,
"socketpair(type=SOCK_STREAM, protocol=0, nonblock=False)\n--\n\n"
"Two connected UNIX sockets, not inheritable, as a tuple of descriptors that\n"
"the caller has to close, or to hand to open() of a handle.\n\n"
"Raises TypeError, ValueError, UVError.");

static PyObject *
module_socketpair(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
                  PyObject *kwnames)
{
    static const char *const names[] = {"type", "protocol", "nonblock"};
    PyObject *given[3];
    int type = SOCK_STREAM, protocol = 0, nonblock = 0, flags, rc;
    uv_os_sock_t fds[2];

    if (!uvt_args_bind("socketpair", args, nargs, kwnames, names, 3, 0, given)
        || (given[0] != NULL
            && !uvt_arg_int("socketpair", "type", given[0], 0, 255, &type))
        || (given[1] != NULL
            && !uvt_arg_int("socketpair", "protocol", given[1], 0, INT_MAX,
                            &protocol))
        || (given[2] != NULL && !uvt_arg_bool(given[2], &nonblock))) {
        return NULL;
    }
    flags = nonblock ? UV_NONBLOCK_PIPE : 0;
    rc = uv_socketpair(type, protocol, fds, flags, flags);
    if (rc < 0) {
        return uvt_raise(uvt_state(module), UVT_EXC_UV, rc, "uv_socketpair");
    }
    return make_pair(fds);
}

PyDoc_STRVAR(pipe_doc,
"pipe(nonblock=False)\n--\n\n"
"The two ends of a new pipe, not inheritable, as a tuple (read, write) of\n"
"descriptors that the caller has to close, or to hand to Pipe.open().\n\n"
"Raises TypeError, UVError.");

static PyObject *
module_pipe(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
            PyObject *kwnames)
{
    static const char *const names[] = {"nonblock"};
    PyObject *given[1];
    int nonblock = 0, flags, rc;
    uv_file fds[2];

    if (!uvt_args_bind("pipe", args, nargs, kwnames, names, 1, 0, given)
        || (given[0] != NULL && !uvt_arg_bool(given[0], &nonblock))) {
        return NULL;
    }
    flags = nonblock ? UV_NONBLOCK_PIPE : 0;
    rc = uv_pipe(fds, flags, flags);
    if (rc < 0) {
        return uvt_raise(uvt_state(module), UVT_EXC_UV, rc, "uv_pipe");
    }
    return make_pair(fds);
}

PyMethodDef uvt_tcp_options_functions[] = {
    {"socketpair", (PyCFunction)(void (*)(void))module_socketpair,
     METH_FASTCALL | METH_KEYWORDS, socketpair_doc},
    {"pipe", (PyCFunction)(void (*)(void))module_pipe,
     METH_FASTCALL | METH_KEYWORDS, pipe_doc},
    {NULL},
};
