/* Listening streams.  libuv makes the stream listen, but what accepts is here: when
 * descriptors run out libuv closes the connections that wait, and tells nobody, or it
 * asks again without a pause.  Here they stay in the kernel's queue, the program is
 * told, and they are accepted later.
 *
 * A poll handle on the stream's own descriptor tells of connections, and a timer ends
 * a rest.  Both belong to the stream's box, are closed with it, and keep nobody
 * waiting: the stream is what libuv counts as active.  All functions run on the loop's
 * thread, attached; but closing calls nothing of Python's.
 */
#include "listen.h"
#include "consumer.h"
#include "descriptor.h"
#include "errors.h"
#include "guards.h"
#include "uvpoll.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

/* Milliseconds without accepting, twice as many each time, when descriptors or
 * memory have run out. */
#define FIRST_REST 20
#define LONGEST_REST 640

typedef struct UvtListener {
    UvtPoll poll;               /* the data of both is the box, NULL when it closes */
    uv_timer_t timer;
    int open;                   /* how many of the two libuv has */
    unsigned rest;              /* the last one; 0: it accepts */
} UvtListener;

typedef struct Node {
    struct Node *next, *prev;
} Node;

/* ---- its watchers ---- */

/* libuv is about to watch the stream by itself, which it does after uv_listen() and
 * each uv_accept().  That is taken back before its poll: the descriptor is watched
 * for us.  Its own table and queue are read as in guard.c. */
static void
take_back(uv_stream_t *uv)
{
    uv__io_t *watcher = &uv->io_watcher;
    Node *node = (Node *)&watcher->watcher_queue;
    uv_loop_t *loop = uv->loop;
    node->prev->next = node->next;
    node->next->prev = node->prev;
    node->next = node->prev = node;
    watcher->pevents = 0;
    watcher->events = 0;
    if ((unsigned)watcher->fd < loop->nwatchers
        && loop->watchers[watcher->fd] == watcher) {
        loop->watchers[watcher->fd] = NULL;
        loop->nfds--;
    }
}

const uv__io_t *
uvt_listener_watcher(const UvtBox *box)
{
    return box->listener != NULL ? &box->listener->poll.uv.io_watcher : NULL;
}

static void
on_part_closed(uv_handle_t *uv)
{
    UvtListener *self = uv->type == UV_TIMER
        ? (UvtListener *)((char *)uv - offsetof(UvtListener, timer))
        : (UvtListener *)((char *)uv - offsetof(UvtListener, poll));
    if (--self->open == 0) {
        PyMem_RawFree(self);
    }
}

void
uvt_listener_close(UvtBox *box)
{
    UvtListener *self = box->listener;
    if (self != NULL) {
        box->listener = NULL;
        self->poll.uv.data = self->timer.data = NULL;
        uvt_poll_stop(&self->poll.uv);
        uv_close((uv_handle_t *)&self->poll.uv, on_part_closed);
        uv_close((uv_handle_t *)&self->timer, on_part_closed);
    }
}

static void on_ready(uv_poll_t *uv, int status, int events);
static void on_rested(uv_timer_t *uv);

/* Accepts no more for a while. */
static void
rest(UvtListener *self)
{
    uvt_poll_stop(&self->poll.uv);
    self->rest = self->rest == 0 ? FIRST_REST
        : self->rest < LONGEST_REST ? 2 * self->rest : LONGEST_REST;
    (void)uv_timer_start(&self->timer, on_rested, self->rest, 0);
}

static void
go_on(UvtListener *self)
{
    if (!uv_is_active((uv_handle_t *)&self->poll.uv)
        && !uv_is_active((uv_handle_t *)&self->timer)
        && uvt_poll_watch(&self->poll, UV_READABLE, on_ready) < 0) {
        rest(self);
    }
}

/* ---- connections ---- */

/* The socket does not listen any more: somebody has shut it down, or another one
 * stands at its number. */
static bool
is_final(int status)
{
    return status == UV_EINVAL || status == UV_ENOTSOCK || status == UV_EBADF
        || status == UV_ENOTSUP;
}

/* Nothing to accept now, and nothing to be told of: as asyncio, the loss of a
 * connection that has gone already is not worth a word. */
static bool
is_nothing(int error)
{
    return error == EAGAIN || error == EWOULDBLOCK || error == EINTR
        || error == ECONNABORTED || error == EPROTO;
}

static void
tell(UvtHandle *self, int status)
{
    if (self->consumer != NULL) {
        UVT_TELL_CONSUMER(self, connection, owner, status);
    }
    else {
        PyObject *callback = Py_XNewRef(self->callback);
        PyObject *args[3] = {NULL, (PyObject *)self, uvt_errorno(status)};
        uvt_call(self, callback, args + 1, 2);
        Py_XDECREF(args[2]);
        Py_XDECREF(callback);
    }
}

static int
accept_one(int fd)
{
#ifdef SOCK_NONBLOCK
    return accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
#else
    int client = accept(fd, NULL, NULL);
    if (client >= 0) {
        (void)fcntl(client, F_SETFD, FD_CLOEXEC);   /* libuv does the rest */
    }
    return client;
#endif
}

/* libuv's accept takes the connection out of the stream.  Nothing more is accepted
 * until it has. */
static void
offer(UvtHandle *self, UvtBox *box, int fd)
{
    UvtCore *core = box->uv.handle.loop->data;
    box->listener->rest = 0;
    box->uv.stream.accepted_fd = fd;
    tell(self, 0);
    if (!core->forked && box->listener != NULL && box->uv.stream.accepted_fd != -1) {
        uvt_poll_stop(&box->listener->poll.uv);
    }
}

/* An error that libuv found on the descriptor has stopped the poll. */
static void
on_ready(uv_poll_t *uv, int status, int Py_UNUSED(events))
{
    UvtBox *box = uv->data;
    UvtHandle *self = uvt_enter(uv);
    int fd, error;
    if (self == NULL) {
        return;
    }
    fd = accept_one(box->uv.stream.io_watcher.fd);
    error = errno;
    if (fd < 0 && is_nothing(error)
        && uvt_fd_is_hung_up(box->uv.stream.io_watcher.fd)) {
        error = EINVAL;
    }
    if (fd >= 0) {
        if (status < 0) {
            go_on(box->listener);
        }
        offer(self, box, fd);
    }
    else if (!is_nothing(error)) {
        int rc = uv_translate_sys_error(error);
        rest(box->listener);
        tell(self, rc);
        if (is_final(rc)) {
            uvt_handle_close(self);
        }
    }
    else if (status < 0) {
        rest(box->listener);
    }
    uvt_leave(self);
}

static void
on_rested(uv_timer_t *uv)
{
    UvtBox *box = uv->data;
    UvtHandle *self = uvt_enter(uv);
    if (self != NULL) {
        if (box->listener != NULL && box->uv.stream.accepted_fd == -1) {
            go_on(box->listener);
        }
        uvt_leave(self);
    }
}

/* ---- what streams do ---- */

/* libuv calls it only for what it watches. */
static void
on_connection(uv_stream_t *Py_UNUSED(uv), int Py_UNUSED(status))
{
}

/* A libuv status. */
static int
open_listener(UvtBox *box)
{
    uv_loop_t *loop = box->uv.handle.loop;
    UvtListener *self = PyMem_RawCalloc(1, sizeof(UvtListener));
    int rc;
    if (self == NULL) {
        return UV_ENOMEM;
    }
    rc = uv_poll_init(loop, &self->poll.uv, box->uv.stream.io_watcher.fd);
    if (rc < 0) {
        PyMem_RawFree(self);
        return rc;
    }
    (void)uv_timer_init(loop, &self->timer);
    uv_unref((uv_handle_t *)&self->poll.uv);
    uv_unref((uv_handle_t *)&self->timer);
    self->poll.uv.data = self->timer.data = box;
    self->open = 2;
    box->listener = self;
    rc = uvt_poll_watch(&self->poll, UV_READABLE, on_ready);
    if (rc < 0) {
        uvt_listener_close(box);
    }
    return rc;
}

int
uvt_stream_listen(UvtHandle *self, int backlog)
{
    uv_stream_t *uv = &self->box->uv.stream;
    int rc;
    /* From here on libuv takes any event of the handle for a connection. */
    if (self->reading || self->pending > 0) {
        return UV_EINVAL;
    }
    rc = uv_listen(uv, backlog, on_connection);
    if (rc == 0) {
        take_back(uv);
        self->listening = true;
        rc = uvt_guard_fresh(self);
        if (rc == 0 && self->box->listener == NULL) {
            rc = open_listener(self->box);
        }
    }
    uvt_handle_update(self);
    return rc;
}

int
uvt_stream_accept(UvtHandle *self, UvtHandle *client)
{
    uv_stream_t *uv = &self->box->uv.stream;
    int rc = uvt_guard_reserve(uv->loop, uv->accepted_fd);
    if (rc == 0) {
        rc = uv_accept(uv, &client->box->uv.stream);
    }
    if (self->listening) {
        take_back(uv);
        if (self->box->listener != NULL && uv->accepted_fd == -1) {
            go_on(self->box->listener);
        }
    }
    return rc == 0 ? uvt_guard_fresh(client) : rc;
}
