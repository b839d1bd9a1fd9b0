/* uv.Poll: level-triggered readiness of a descriptor that somebody else owns.
 * All functions run on the loop's thread, attached.  A started one is held by
 * its loop; the handle owns the callback, never the descriptor.
 *
 * The owner may close the descriptor at any time, though he should not.  Then
 * libuv must be kept from two things.  Its poll aborts when epoll refuses a
 * descriptor: so starting registers it at once (guard.c).  And its poll spins when epoll reports a descriptor that nobody
 * watches and that cannot be taken out: this happens when the number is closed
 * or reused while the open file behind it lives on in a duplicate or a child
 * process.  So a registration that cannot be taken out has epoll replaced.
 * Reading libuv's table of watchers, which its header declares, is needed for
 * both.
 */
#include "uvpoll.h"
#include "args.h"
#include "consumer.h"
#include "descriptor.h"
#include "errors.h"
#include "guards.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <unistd.h>

#define ALL_EVENTS (UV_READABLE | UV_WRITABLE | UV_DISCONNECT | UV_PRIORITIZED)

/* Every so many events the descriptor is checked to be open: a closed one
 * whose file lives on would be reported for ever. */
#define CHECK_EVERY 32

/* So many reports of an error that stays as it is are enough. */
#define ERRORS_MOST 8

/* ---- watching ---- */

/* Puts a new epoll in the place of the loop's, under the same number, with
 * every registration that can still be made.  Whoever watches Loop.fileno()
 * has to add it again.  A number that the loop has lost is left alone. */
static void
replace_epoll(uv_loop_t *loop)
{
    int fd = uvt_guard_intact(loop->data) ? epoll_create1(EPOLL_CLOEXEC) : -1;
    if (fd < 0) {
        return;
    }
    for (unsigned i = 0; i < loop->nwatchers; i++) {
        const uv__io_t *watcher = loop->watchers[i];
        if (watcher != NULL && watcher->events != 0) {
            struct epoll_event event = {.events = watcher->events};
            event.data.fd = (int)i;
            (void)epoll_ctl(fd, EPOLL_CTL_ADD, (int)i, &event);
        }
    }
    (void)dup3(fd, loop->backend_fd, O_CLOEXEC);
    (void)close(fd);
}

/* The watcher that libuv has for the number, if any. */
static const uv__io_t *
watcher_of(const uv_loop_t *loop, int fd)
{
    return (unsigned)fd < loop->nwatchers ? loop->watchers[fd] : NULL;
}

/* Takes a registration out; false when it may have stayed. */
static bool
unregister(uv_loop_t *loop, int fd)
{
    struct epoll_event unused = {0};
    return epoll_ctl(loop->backend_fd, EPOLL_CTL_DEL, fd, &unused) == 0;
}

/* Stops a Poll that libuv has registered, or has not yet. */
static void
unwatch(uv_poll_t *poll, bool registered)
{
    bool stale = registered && !unregister(poll->loop, poll->io_watcher.fd);
    (void)uv_poll_stop(poll);
    if (stale) {
        replace_epoll(poll->loop);
    }
}

/* uv_poll_stop takes out whatever epoll has under the number: that of another
 * handle when this one is not started. */
void
uvt_poll_stop(uv_poll_t *poll)
{
    if (uv_is_active((uv_handle_t *)poll)) {
        unwatch(poll, poll->io_watcher.events != 0);
    }
}

static bool
is_watched_file(const UvtPoll *poll)
{
    struct stat st;
    return fstat(poll->uv.io_watcher.fd, &st) == 0
        && st.st_dev == poll->watched_device && st.st_ino == poll->watched_inode;
}

bool
uvt_poll_is_stale(const uv_poll_t *uv)
{
    return uv_is_active((const uv_handle_t *)uv)
        && !is_watched_file((const UvtPoll *)uv);
}

/* What is_stale() compares with; a descriptor that is none fails soon. */
static void
note_file(UvtPoll *poll)
{
    struct stat st;
    if (fstat(poll->uv.io_watcher.fd, &st) == 0) {
        poll->watched_device = st.st_dev;
        poll->watched_inode = st.st_ino;
    }
}

static void on_poll(uv_poll_t *uv, int status, int events);

int
uvt_poll_watch(UvtPoll *self, int events, uv_poll_cb callback)
{
    uv_poll_t *poll = &self->uv;
    uv_loop_t *loop = poll->loop;
    int fd = poll->io_watcher.fd, rc;
    const uv__io_t *watcher = watcher_of(loop, fd);
    bool stale;

    if (watcher != NULL && watcher != &poll->io_watcher) {
        uvt_guard_stale_fd(loop->data, fd);
        watcher = watcher_of(loop, fd);
        if (uv_is_closing((uv_handle_t *)poll)) {
            return UV_EINVAL;
        }
    }
    if (watcher != NULL && watcher != &poll->io_watcher) {
        return UV_EEXIST;
    }
    note_file(self);
    stale = poll->io_watcher.events != 0 && !unregister(loop, fd);
    rc = uvt_guard_reserve(loop, fd);
    if (rc == 0) {
        rc = uv_poll_start(poll, events, callback);
    }
    if (rc == 0) {
        rc = uvt_guard_watch_io(loop->data, &poll->io_watcher);
    }
    if (rc < 0) {
        (void)uv_poll_stop(poll);
    }
    if (stale) {
        replace_epoll(loop);
    }
    return rc;
}

int
uvt_poll_start(UvtHandle *self, int events)
{
    UvtPoll *poll;
    int rc = 0;
    if (self->box == NULL || uv_is_closing(&self->box->uv.handle)
        || (events & ~ALL_EVENTS) != 0) {
        return UV_EINVAL;
    }
    poll = (UvtPoll *)&self->box->uv.poll;
    if (events == 0) {
        uvt_poll_stop(&poll->uv);
    }
    else {
        rc = uvt_poll_watch(poll, events, on_poll);
    }
    poll->events = (unsigned char)(rc < 0 ? 0 : events);
    poll->edge = false;
    uvt_handle_update(self);
    return rc;
}

/* ---- life cycle ---- */

/* First half of uv_poll_init: libuv makes the descriptor non-blocking, so what
 * it was is written down. */
static int
remember(UvtPoll *poll, int fd)
{
    struct stat st;
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fstat(fd, &st) < 0) {
        return uv_translate_sys_error(errno);
    }
    poll->blocking = (flags & O_NONBLOCK) == 0;
    poll->device = st.st_dev;
    poll->inode = st.st_ino;
    return 0;
}

/* A number that was closed and reused belongs to another file, which stays as
 * it is; so does a file that another handle of the loop watches. */
static void
restore(const UvtPoll *poll, int fd)
{
    struct stat st;
    int flags;
    if (!poll->blocking || watcher_of(poll->uv.loop, fd) != NULL
        || fstat(fd, &st) < 0 || st.st_dev != poll->device
        || st.st_ino != poll->inode) {
        return;
    }
    flags = fcntl(fd, F_GETFL);
    if (flags >= 0) {
        (void)fcntl(fd, F_SETFL, flags & ~O_NONBLOCK);
    }
}

void
uvt_poll_close(uv_poll_t *uv, uv_close_cb on_closed)
{
    UvtPoll *poll = (UvtPoll *)uv;
    uv_loop_t *loop = uv->loop;
    int fd = uv->io_watcher.fd;
    const uv__io_t *other;

    uvt_poll_stop(uv);
    uv_close((uv_handle_t *)uv, on_closed);
    other = watcher_of(loop, fd);
    if (other != NULL && other->events != 0) {
        struct epoll_event event = {.events = other->events};
        event.data.fd = fd;
        (void)epoll_ctl(loop->backend_fd, EPOLL_CTL_ADD, fd, &event);
    }
    restore(poll, fd);
}

static int
open_poll(UvtHandle *self, PyObject *loop_arg, int fd)
{
    UvtLoop *loop;
    UvtPoll *poll;
    int rc;
    if (!uvt_handle_init_begin(self, loop_arg, UV_POLL, UVT_EXC_POLL,
                               sizeof(UvtPoll), &loop)) {
        return -1;
    }
    poll = (UvtPoll *)&self->box->uv.poll;
    uvt_guard_stale_fd(loop->core, fd);
    rc = loop->core == NULL ? UV_EINVAL : remember(poll, fd);
    if (rc == 0) {
        rc = uv_poll_init(&loop->core->uv, &poll->uv, fd);
    }
    if (uvt_handle_init_done(self, loop, rc, "uv_poll_init") < 0) {
        return -1;
    }
    self->fd = fd;
    return 0;
}

static int
poll_init(UvtHandle *self, PyObject *args, PyObject *kwds)
{
    UVT_LOCKED(uvt_lock_of_init(self->st, args, kwds));
    static char *names[] = {"loop", "fd", NULL};
    PyObject *loop_arg, *fd_arg;
    int fd;
    if (!PyArg_ParseTupleAndKeywords(args, kwds, "OO:Poll", names, &loop_arg,
                                     &fd_arg)
        || !uvt_arg_fd("Poll", fd_arg, &fd)) {
        return -1;
    }
    return open_poll(self, loop_arg, fd);
}

PyObject *
uvt_poll_create(PyObject *loop, int fd)
{
    PyTypeObject *type = ((UvtLoop *)loop)->st->poll_type;
    PyObject *self = uvt_handle_new(type, NULL, NULL);
    UvtPoll *poll;
    if (self == NULL) {
        return NULL;
    }
    if (open_poll((UvtHandle *)self, loop, fd) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    /* At once, as the mode belongs to everybody who has the open file: standard
     * input and output are one when they are a terminal. */
    poll = (UvtPoll *)&((UvtHandle *)self)->box->uv.poll;
    restore(poll, fd);
    poll->blocking = false;
    return self;
}

/* ---- libuv callbacks ---- */

static void
deliver(UvtHandle *self, int status, int events)
{
    PyObject *events_obj, *errorno;
    if (self->consumer != NULL) {
        UVT_TELL_CONSUMER(self, ready, owner, status, events);
        return;
    }
    events_obj = status < 0 ? Py_NewRef(Py_None) : PyLong_FromLong(events);
    errorno = uvt_errorno(status);
    PyObject *args[4] = {NULL, (PyObject *)self, events_obj, errorno};
    uvt_call(self, self->callback, args + 1, 3);
    Py_XDECREF(events_obj);
    Py_XDECREF(errorno);
}

/* libuv takes an error of what is watched, such as a refused connection, for a bad
 * descriptor, and has stopped.  The reason is the program's to ask for, by its next
 * call or SO_ERROR, and data may wait in front of it: so what is watched for is ready,
 * as for a selector, and is watched on.  What epoll has under the number is the same
 * file still when it can be modified there.  A libuv status. */
static int
watch_on(UvtPoll *poll)
{
    uv_poll_t *uv = &poll->uv;
    struct epoll_event event = {.events = 0};
    unsigned flags = uv->flags;
    int rc;
    event.data.fd = uv->io_watcher.fd;
    if (epoll_ctl(uv->loop->backend_fd, EPOLL_CTL_MOD, uv->io_watcher.fd, &event)
        < 0) {
        return UV_EBADF;
    }
    rc = uv_poll_start(uv, poll->events, on_poll);
    poll->active = uv->flags & ~flags;
    return rc;
}

/* The same when epoll reports changes only: touched by libuv, or by any epoll_ctl(),
 * it would report at once again.  So what libuv has undone is done by hand. */
static int
watch_changes_on(UvtPoll *poll, unsigned events)
{
    uv_poll_t *uv = &poll->uv;
    uv__io_t *watcher = &uv->io_watcher;
    uv_loop_t *loop = uv->loop;
    if (!is_watched_file(poll) || loop->watchers[watcher->fd] != NULL) {
        return UV_EBADF;
    }
    watcher->pevents = watcher->events = events;
    loop->watchers[watcher->fd] = watcher;
    loop->nfds++;
    uv->flags |= poll->active;
    if (uv_has_ref((uv_handle_t *)uv)) {
        loop->active_handles++;
    }
    return 0;
}

static unsigned
epoll_events(int events)
{
    return (unsigned)((events & UV_READABLE ? EPOLLIN : 0)
                      | (events & UV_WRITABLE ? EPOLLOUT : 0)
                      | (events & UV_DISCONNECT ? EPOLLRDHUP : 0)
                      | (events & UV_PRIORITIZED ? EPOLLPRI : 0));
}

/* What epoll reports is the error and nothing else that is watched for.  poll() has
 * epoll's numbers. */
static bool
is_only_error(const uv_poll_t *uv, int events)
{
    return uvt_fd_events(uv->io_watcher.fd, (int)epoll_events(events)) == 0;
}

/* Makes the registration one of changes only, which libuv has no word for: as libuv
 * would do it in its next poll, which then finds it done. */
static void
report_changes(UvtPoll *poll)
{
    uv__io_t *watcher = &poll->uv.io_watcher;
    struct epoll_event event = {.events = watcher->pevents | EPOLLET};
    void **node = (void **)&watcher->watcher_queue;
    event.data.fd = watcher->fd;
    if (epoll_ctl(poll->uv.loop->backend_fd, EPOLL_CTL_ADD, watcher->fd, &event) < 0) {
        return;
    }
    watcher->events = watcher->pevents;
    ((void **)node[1])[0] = node[0];
    ((void **)node[0])[1] = node[1];
    node[0] = node[1] = node;
    poll->edge = true;
}

/* The other way round, when something is ready: an end of report_changes(). */
static void
report_all(UvtPoll *poll)
{
    const uv__io_t *watcher = &poll->uv.io_watcher;
    struct epoll_event event = {.events = watcher->pevents};
    event.data.fd = watcher->fd;
    (void)epoll_ctl(poll->uv.loop->backend_fd, EPOLL_CTL_MOD, watcher->fd, &event);
    poll->edge = false;
}

/* After the report of an error that stays, such as the details of errors of datagrams
 * or the times of their sending: as long as somebody takes of them they are reported,
 * which ends when nobody does. */
static void
after_error(UvtHandle *self, UvtPoll *poll)
{
    unsigned queued;
    if (self->box == NULL || (uv_poll_t *)&self->box->uv.poll != &poll->uv
        || !uv_is_active((uv_handle_t *)&poll->uv)) {
        return;
    }
    queued = uvt_fd_queued(poll->uv.io_watcher.fd);
    if (queued != poll->queued || !is_only_error(&poll->uv, poll->events)) {
        poll->errors = 0;
        if (poll->edge) {
            report_all(poll);
        }
    }
    else if (!poll->edge && ++poll->errors >= ERRORS_MOST) {
        report_changes(poll);
    }
    poll->queued = queued;
}

/* libuv has stopped the watcher already when it reports an error, but has not
 * taken it out of epoll. */
static void
on_poll(uv_poll_t *uv, int status, int events)
{
    UvtPoll *poll = (UvtPoll *)uv;
    bool registered = status < 0 || uv->io_watcher.events != 0, is_error = false;
    UvtHandle *self = uvt_enter(uv);
    if (self == NULL) {
        return;
    }
    if (status < 0) {
        events = poll->events;
        status = poll->edge ? watch_changes_on(poll, epoll_events(events))
                            : watch_on(poll);
        is_error = status == 0;
    }
    else if (poll->edge) {
        report_all(poll);
    }
    if (status >= 0 && ++poll->reports % CHECK_EVERY == 0
        && fcntl(uv->io_watcher.fd, F_GETFD) < 0) {
        status = UV_EBADF;
    }
    if (status < 0) {
        unwatch(uv, registered);
        poll->events = 0;
    }
    deliver(self, status, events);
    if (is_error && !((UvtCore *)uv->loop->data)->forked) {
        after_error(self, poll);
    }
    uvt_leave(self);
}

void
uvt_poll_lost(UvtHandle *self, int status)
{
    ((UvtPoll *)&self->box->uv.poll)->events = 0;
    Py_INCREF(self);        /* the callback may drop the last reference */
    deliver(self, status, 0);
    uvt_leave(self);
}

/* ---- methods ---- */

PyDoc_STRVAR(start_doc,
"start($self, events, callback, /)\n--\n\n"
"Call callback(handle, events, errorno) as long as the descriptor is ready for\n"
"one of `events`, an OR of UV_READABLE, UV_WRITABLE, UV_DISCONNECT and\n"
"UV_PRIORITIZED.  An error of a socket makes it ready for all of them: the next\n"
"call on it, or SO_ERROR, tells which.  When the descriptor is lost (EBADF) the\n"
"handle is stopped and `events` is None.  A started one changes over; no events\n"
"stop it.\n\n"
"Raises TypeError, ValueError, HandleClosedError, PollError (EBADF: the\n"
"descriptor is closed; EEXIST: another handle of the loop watches it).");

static PyObject *
poll_start(UvtHandle *self, PyObject *const *args, Py_ssize_t nargs)
{
    UVT_LOCKED(self->lock);
    int events, rc;
    if (!uvt_args_count("Poll.start", nargs, 2, 2)
        || !uvt_arg_int("Poll.start", "events", args[0], 0, ALL_EVENTS, &events)
        || !uvt_arg_callable("Poll.start", args[1])
        || !uvt_handle_check_free(self, "Poll.start")) {
        return NULL;
    }
    rc = uvt_poll_start(self, events);
    if (rc < 0) {
        return uvt_handle_raise(self, rc, "uv_poll_start");
    }
    Py_XSETREF(self->callback, Py_NewRef(args[1]));
    Py_RETURN_NONE;
}

PyDoc_STRVAR(stop_doc,
"stop($self, /)\n--\n\n"
"Watch no more; harmless when not started, or when the descriptor is closed.");

static PyObject *
poll_stop(UvtHandle *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(self->lock);
    if (!uvt_handle_check_free(self, "Poll.stop")) {
        return NULL;
    }
    (void)uvt_poll_start(self, 0);
    Py_CLEAR(self->callback);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(fileno_doc,
"fileno($self, /)\n--\n\n"
"The descriptor.  Raises HandleClosedError.");

/* ---- attributes ---- */

static PyObject *
poll_get_events(UvtHandle *self, void *Py_UNUSED(closure))
{
    UVT_LOCKED(self->lock);
    if (self->initialised
        && (self->box == NULL || !uv_is_active(&self->box->uv.handle))) {
        return PyLong_FromLong(0);
    }
    if (!uvt_handle_check(self)) {
        return NULL;
    }
    return PyLong_FromLong(((UvtPoll *)&self->box->uv.poll)->events);
}

static PyMethodDef poll_methods[] = {
    {"start", (PyCFunction)(void (*)(void))poll_start, METH_FASTCALL, start_doc},
    {"stop", (PyCFunction)poll_stop, METH_NOARGS, stop_doc},
    {"fileno", (PyCFunction)uvt_handle_fileno, METH_NOARGS, fileno_doc},
    {NULL},
};

static PyGetSetDef poll_getset[] = {
    {"events", (getter)poll_get_events, NULL,
     "The events watched for (int); 0 when not started.", NULL},
    {NULL},
};

PyDoc_STRVAR(poll_doc,
"Poll(loop, fd)\n--\n\n"
"Watches a descriptor (an int, or an object with fileno()) for readiness.\n\n"
"The descriptor is made non-blocking until the handle is closed.  It stays the\n"
"caller's, who stops or closes the handle before he closes it.  Readiness can\n"
"be a false alarm: reads and writes may still fail with EAGAIN.");

static PyType_Slot poll_slots[] = {
    {Py_tp_doc, (void *)poll_doc},
    {Py_tp_init, poll_init},
    {Py_tp_methods, poll_methods},
    {Py_tp_getset, poll_getset},
    UVT_HANDLE_SLOTS,
    {0, NULL},
};

static PyType_Spec poll_spec = {
    .name = "uvtulip._uv.Poll",
    .basicsize = sizeof(UvtHandle),
    .flags = UVT_HANDLE_FLAGS,
    .slots = poll_slots,
};

int
uvt_poll_setup(PyObject *module, UvtState *st)
{
    return uvt_add_type(module, &st->poll_type, &poll_spec, st->handle_type);
}
