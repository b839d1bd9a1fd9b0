/* The listening sockets of a server: accepting connections and making their
 * transports.  All functions run attached, on the thread that runs the loop or
 * while none does.  A listener owns its two handles until they are closed, and
 * its descriptor.
 *
 * Connections are accepted through a poll on a duplicate of the descriptor:
 * libuv's own way of listening drops connections when descriptors run out, and
 * gives no address.
 */
#include "accepted.h"
#include "audit.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

/* The most connections taken in one go, before others have their turn. */
#define ACCEPT_MOST 128
/* Seconds without accepting when descriptors or memory have run out. */
#define ACCEPT_REST 1.0
/* An accepted socket has the TCP_NODELAY of the one that listens: one system
 * call less for each connection. */
#ifdef __linux__
#define NODELAY_INHERITED true
#else
#define NODELAY_INHERITED false
#endif

/* ---- one new connection ---- */

static TulipListener *
listener_of(PyObject *owner)
{
    TulipServer *self = (TulipServer *)PyTuple_GET_ITEM(owner, 0);
    return &self->listeners[PyLong_AsSsize_t(PyTuple_GET_ITEM(owner, 1))];
}

static void
report_creation(TulipServer *self)
{
    tulip_loop_report(self->loop,
                      "Error on transport creation for incoming connection",
                      NULL, NULL, NULL);
}

/* A handle, of the kind of the one that listens, that owns fd; on failure fd is
 * closed. */
static PyObject *
make_handle(TulipServer *self, TulipListener *listener, int fd)
{
    const UvtCAPI *api = self->st->uv;
    PyObject *loop = self->loop->uv_loop, *handle;
    uv_stream_t *uv;
    int rc;
    if (tulip_loop_watches(self->loop, fd)) {
        api->loop_fresh_fd(loop, fd);
    }
    handle = listener->is_tcp ? api->tcp_new(loop, 0) : api->pipe_new(loop, 0);
    uv = handle == NULL ? NULL : tulip_stream_uv(api, handle);
    if (uv == NULL) {
        (void)close(fd);
        Py_XDECREF(handle);
        return NULL;
    }
    rc = api->reserve(handle, fd);
    if (rc == 0) {
        rc = listener->is_tcp ? uv_tcp_open((uv_tcp_t *)uv, fd)
                              : uv_pipe_open((uv_pipe_t *)uv, fd);
    }
    if (rc < 0) {
        PyObject *exc = api->oserror(rc, listener->is_tcp ? "uv_tcp_open"
                                                          : "uv_pipe_open");
        if (exc != NULL) {
            PyErr_SetRaisedException(exc);
        }
        (void)close(fd);
        api->close(handle);
        Py_DECREF(handle);
        return NULL;
    }
    return handle;
}

/* NULL: ask the kernel. */
static const struct sockaddr *
name_if_known(const struct sockaddr *addr)
{
    return addr->sa_family == AF_UNSPEC ? NULL : addr;
}

static void
adopt(TulipStream *stream, TulipListener *listener, const struct sockaddr *peer,
      socklen_t len)
{
    PyObject *name = NULL;
    if (listener->is_tcp) {
        tulip_tcp_adopt(stream,
                        name_if_known((struct sockaddr *)&listener->name), peer,
                        NODELAY_INHERITED);
        return;
    }
    if (peer->sa_family == AF_UNIX) {
        name = tulip_stream_api(stream)->sockaddr_format(peer, (int)len);
        PyErr_Clear();
    }
    tulip_unix_adopt(stream, listener->unix_name, name);
    Py_XDECREF(name);
}

static void
serve(TulipServer *self, TulipListener *listener, int fd,
      const struct sockaddr *peer, socklen_t len)
{
    const UvtCAPI *api = self->st->uv;
    PyObject *handle = make_handle(self, listener, fd), *context, *protocol;
    TulipStream *stream = NULL;

    if (handle == NULL) {
        report_creation(self);
        return;
    }
    /* Each connection sets its own variables. */
    context = PyContext_Copy(self->context);
    if (context == NULL || PyContext_Enter(context) < 0) {
        report_creation(self);
        api->close(handle);
        Py_XDECREF(context);
        Py_DECREF(handle);
        return;
    }
    protocol = PyObject_CallNoArgs(self->factory);
    if (protocol != NULL) {
        stream = tulip_stream_new(self->st->stream_type, self->loop, handle,
                                  protocol, context, self);
    }
    if (stream != NULL) {
        adopt(stream, listener, peer, len);
    }
    if (stream == NULL || tulip_accepted_add(self->loop, stream) < 0) {
        report_creation(self);
        api->close(handle);
    }
    (void)PyContext_Exit(context);
    Py_XDECREF(stream);
    Py_XDECREF(protocol);
    Py_DECREF(context);
    Py_DECREF(handle);
}

/* ---- accepting ---- */

static void
report_accept(TulipServer *self, int error, const char *message)
{
    PyObject *exc = self->st->uv->oserror(uv_translate_sys_error(error),
                                          "accept");
    if (exc != NULL) {
        PyErr_SetRaisedException(exc);
    }
    tulip_loop_report(self->loop, message, NULL, NULL, NULL);
}

bool
tulip_listener_listen(TulipServer *self, TulipListener *listener)
{
    int rc;
    if (listener->poll == NULL) {
        return true;
    }
    rc = self->st->uv->poll_start(listener->poll, UV_READABLE);
    /* EINVAL: it is being closed, and then there is another. */
    if (rc < 0 && rc != UV_EINVAL) {
        PyObject *exc = self->st->uv->oserror(rc, "uv_poll_start");
        if (exc != NULL) {
            PyErr_SetRaisedException(exc);
        }
        return false;
    }
    return true;
}

/* Connections wait in the kernel meanwhile; none is lost. */
static void
rest(TulipServer *self, TulipListener *listener, PyObject *index, int error)
{
    PyObject *again, *timer = NULL;
    if (listener->resting || listener->poll == NULL) {
        return;
    }
    listener->resting = true;
    (void)self->st->uv->poll_start(listener->poll, 0);
    report_accept(self, error, "socket.accept() out of system resource");
    again = PyObject_GetAttrString((PyObject *)self, "_listen_again");
    if (again != NULL) {
        timer = PyObject_CallMethod((PyObject *)self->loop, "call_later", "dOO",
                                    ACCEPT_REST, again, index);
        Py_DECREF(again);
    }
    if (timer == NULL) {
        tulip_loop_report(self->loop, "A server cannot accept any more", NULL,
                          NULL, NULL);
    }
    Py_XDECREF(timer);
}

/* The socket does not listen any more: somebody has shut it down, or another one
 * stands at its number.  The poll would find it ready for ever. */
static void
give_up(TulipServer *self, TulipListener *listener, int error)
{
    (void)self->st->uv->poll_start(listener->poll, 0);
    report_accept(self, error, "A server cannot accept any more");
}

static int
accept_one(int listening, struct sockaddr *peer, socklen_t *len)
{
#ifdef SOCK_NONBLOCK
    return accept4(listening, peer, len, SOCK_NONBLOCK | SOCK_CLOEXEC);
#else
    int fd = accept(listening, peer, len);
    if (fd >= 0) {
        (void)fcntl(fd, F_SETFD, FD_CLOEXEC);   /* libuv does the rest */
    }
    return fd;
#endif
}

/* A UNIX socket that was shut down has no other way to say so. */
static bool
is_hung_up(int fd)
{
    struct pollfd entry = {.fd = fd, .events = 0};
    return poll(&entry, 1, 0) > 0 && (entry.revents & POLLHUP) != 0;
}

/* How many to take.  The poll tells again of those that are left; to look whether
 * there is another one costs as much as to take it, up to its descriptor, and
 * mostly there is none.  When there are more, turn after turn, it is twice as many
 * each time. */
static int
next_batch(const TulipListener *listener, uint64_t turn)
{
    if (listener->batch == 0 || turn != listener->turn + 1) {
        return 1;
    }
    return listener->batch < ACCEPT_MOST / 2 ? 2 * listener->batch : ACCEPT_MOST;
}

static void
accept_some(TulipServer *self, TulipListener *listener, PyObject *index)
{
    int batch = next_batch(listener, self->loop->turns);
    listener->turn = self->loop->turns;
    listener->batch = 0;
    /* Whatever serve() calls may stop the server. */
    for (int i = 0; i < batch && self->serving && listener->fd >= 0
                    && !self->loop->forked; i++) {
        struct sockaddr_storage peer;
        socklen_t len = sizeof(peer);
        int fd = accept_one(listener->fd, (struct sockaddr *)&peer, &len);
        if (fd >= 0 && tulip_audit_accepted(listener->fd, fd) < 0) {
            (void)close(fd);
            tulip_loop_report(self->loop, "An audit hook refused a connection",
                              NULL, NULL, NULL);
        }
        else if (fd >= 0) {
            serve(self, listener, fd, (struct sockaddr *)&peer, len);
        }
        else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS
                 || errno == ENOMEM) {
            rest(self, listener, index, errno);
            return;
        }
        else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            if (i == 0 && is_hung_up(listener->fd)) {
                give_up(self, listener, EINVAL);
            }
            return;
        }
        else if (errno == EINVAL || errno == ENOTSOCK || errno == EBADF
                 || errno == EOPNOTSUPP) {
            give_up(self, listener, errno);
            return;
        }
        else if (errno != EINTR && errno != ECONNABORTED && errno != EPROTO) {
            report_accept(self, errno, "socket.accept() failed");
            return;
        }
    }
    listener->batch = batch;
}

static void
on_ready(PyObject *owner, int status, int Py_UNUSED(events))
{
    TulipServer *self = (TulipServer *)PyTuple_GET_ITEM(owner, 0);
    if (status < 0) {
        PyObject *exc = self->st->uv->oserror(status, "accept");
        if (exc != NULL) {
            PyErr_SetRaisedException(exc);
        }
        tulip_loop_report(self->loop, "A server cannot accept any more", NULL,
                          NULL, NULL);
        return;
    }
    accept_some(self, listener_of(owner), PyTuple_GET_ITEM(owner, 1));
}

void
tulip_listener_stop(TulipServer *self, TulipListener *listener)
{
    PyObject *poll = listener->poll, *handle = listener->handle;
    int fd = listener->fd;
    listener->poll = NULL;
    listener->handle = NULL;
    listener->fd = -1;
    if (poll != NULL) {
        self->st->uv->close(poll);
        Py_DECREF(poll);
    }
    if (fd >= 0) {
        (void)close(fd);
    }
    if (handle != NULL) {
        self->st->uv->close(handle);
        Py_DECREF(handle);
    }
}

/* Closed by _stop(), with the loop, or by whoever got hold of the handle. */
static void
on_closed(PyObject *owner)
{
    TulipServer *self = (TulipServer *)PyTuple_GET_ITEM(owner, 0);
    tulip_listener_stop(self, listener_of(owner));
}

static bool open_poll(TulipServer *self, TulipListener *listener, PyObject *owner);

/* With the loop, with the handle, or by somebody who found it among the raw loop's
 * handles: then there is another. */
static void
on_poll_closed(PyObject *owner)
{
    TulipServer *self = (TulipServer *)PyTuple_GET_ITEM(owner, 0);
    TulipListener *listener = listener_of(owner);
    if (listener->poll == NULL) {
        return;
    }
    Py_CLEAR(listener->poll);
    if (!self->loop->closed
        && (!open_poll(self, listener, owner)
            || (!listener->resting && !tulip_listener_listen(self, listener)))) {
        tulip_loop_report(self->loop, "A server cannot accept any more", NULL, NULL,
                          NULL);
    }
}

static const UvtConsumer poll_consumer = {
    .ready = on_ready,
    .closed = on_poll_closed,
};

static const UvtConsumer handle_consumer = {
    .closed = on_closed,
};

/* ---- starting and stopping ---- */

/* Accepted sockets have the address of the one that listens, if it has one. */
static void
remember_address(TulipListener *listener, const uv_tcp_t *uv)
{
    int len = sizeof(listener->name);
    bool wildcard = true;
    if (uv_tcp_getsockname(uv, (struct sockaddr *)&listener->name, &len) == 0) {
        const struct sockaddr_in *in = (struct sockaddr_in *)&listener->name;
        const struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)in;
        if (in->sin_family == AF_INET) {
            wildcard = in->sin_addr.s_addr == htonl(INADDR_ANY);
        }
        else if (in->sin_family == AF_INET6) {
            wildcard = IN6_IS_ADDR_UNSPECIFIED(&in6->sin6_addr);
        }
    }
    if (wildcard) {
        listener->name.ss_family = AF_UNSPEC;
    }
}

/* Not of other families, which have addresses that stand for many. */
static int
remember_path(const UvtCAPI *api, TulipListener *listener, int fd)
{
    struct sockaddr_storage name = {0};
    socklen_t len = sizeof(name);
    if (getsockname(fd, (struct sockaddr *)&name, &len) == 0
        && name.ss_family == AF_UNIX) {
        Py_XSETREF(listener->unix_name,
                   api->sockaddr_format((struct sockaddr *)&name, (int)len));
        return listener->unix_name != NULL ? 0 : -1;
    }
    return 0;
}

/* Raises OSError for a libuv status and returns false. */
static bool
listen_failed(TulipServer *self, int rc, const char *call)
{
    PyObject *exc = self->st->uv->oserror(rc, call);
    if (exc != NULL) {
        PyErr_SetRaisedException(exc);
    }
    return false;
}

/* False with an exception. */
static bool
open_poll(TulipServer *self, TulipListener *listener, PyObject *owner)
{
    const UvtCAPI *api = self->st->uv;
    listener->poll = api->poll_new(self->loop->uv_loop, listener->fd);
    return listener->poll != NULL
        && api->consume(listener->poll, &poll_consumer, owner) == 0;
}

bool
tulip_listener_start(TulipServer *self, Py_ssize_t index)
{
    const UvtCAPI *api = self->st->uv;
    TulipListener *listener = &self->listeners[index];
    struct sockaddr_storage name;
    PyObject *owner;
    uv_stream_t *uv;
    uv_os_fd_t fd;
    int rc = 0, len = sizeof(name);

    if (listener->handle == NULL) {
        return true;        /* closed meanwhile */
    }
    uv = tulip_stream_uv(api, listener->handle);
    if (uv == NULL) {
        return false;
    }
    listener->is_tcp = uv->type == UV_TCP;
    if (listener->is_tcp) {
        /* libuv keeps a failed bind to itself until now. */
        rc = uv_tcp_getsockname((uv_tcp_t *)uv, (struct sockaddr *)&name, &len);
    }
    if (rc < 0) {
        return listen_failed(self, rc, "bind");
    }
    rc = uv_fileno((uv_handle_t *)uv, &fd);
    if (rc < 0) {
        return listen_failed(self, rc, "uv_fileno");
    }
    if (listen(fd, self->backlog) < 0) {
        return listen_failed(self, uv_translate_sys_error(errno), "listen");
    }
    if (listener->is_tcp) {
        (void)uv_tcp_nodelay((uv_tcp_t *)uv, 1);
        remember_address(listener, (uv_tcp_t *)uv);
    }
    else if (remember_path(api, listener, fd) < 0) {
        return false;
    }
    owner = Py_BuildValue("(On)", (PyObject *)self, index);
    if (owner == NULL) {
        return false;
    }
    if (api->consume(listener->handle, &handle_consumer, owner) < 0) {
        Py_DECREF(owner);
        return false;
    }
    listener->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (listener->fd < 0) {
        Py_DECREF(owner);
        return listen_failed(self, uv_translate_sys_error(errno), "dup");
    }
    if (!open_poll(self, listener, owner)) {
        Py_DECREF(owner);
        return false;
    }
    Py_DECREF(owner);
    return tulip_listener_listen(self, listener);
}
