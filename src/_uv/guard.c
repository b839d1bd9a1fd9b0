/* Keeps libuv from abort() over the descriptors of handles.  It aborts when epoll
 * refuses one in the poll: one that was closed, or closed and reused, behind the
 * back of the handle that watches it, or one for which the kernel has no memory
 * left.  So what is new to the next poll is registered here before, on the loop's
 * thread, attached, and taken off libuv's list: libuv has nothing to register then.
 *
 * libuv offers no list of them: the queue of watchers and the table by
 * descriptor are read from its uv_loop_t, where the public header declares
 * them.  Both kinds of queue node that libuv has had are two pointers, the
 * first to the next node.
 */
#include "fswatch.h"
#include "guards.h"
#include "listen.h"
#include "process.h"
#include "stream.h"
#include "udp.h"
#include "uvpoll.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct Node {
    struct Node *next, *prev;
} Node;

/* Sockets and FIFOs can always be watched; for the rest epoll is asked, by an
 * addition that is taken back. */
bool
uvt_guard_can_watch(const UvtCore *core, int fd)
{
    int epoll_fd = core->uv.backend_fd;
    struct epoll_event event = {0};
    struct stat st;
    if (fstat(fd, &st) < 0) {
        return false;
    }
    if (S_ISSOCK(st.st_mode) || S_ISFIFO(st.st_mode)) {
        return true;
    }
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0) {
        (void)epoll_ctl(epoll_fd, EPOLL_CTL_DEL, fd, &event);
        return true;
    }
    return errno == EEXIST;
}

/* ---- registering ---- */

static void
unlink_node(Node *node)
{
    node->prev->next = node->next;
    node->next->prev = node->prev;
    node->next = node->prev = node;
}

/* As libuv does it.  One that it knows is not in epoll can be there: stopping a
 * stream leaves it.  A libuv status. */
static int
enlist(UvtCore *core, uv__io_t *watcher)
{
    struct epoll_event event = {.events = watcher->pevents};
    int epoll_fd = core->uv.backend_fd;
    bool known = watcher->events != 0;
    event.data.fd = watcher->fd;
    if (watcher == &core->uv.async_io_watcher) {
        /* libuv from 1.53 on never empties its eventfd, and older ones take all that
         * is in it at once: each write is an event of its own for either. */
        event.events |= EPOLLET;
    }
    if ((known || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, watcher->fd, &event) < 0)
        && ((!known && errno != EEXIST)
            || epoll_ctl(epoll_fd, EPOLL_CTL_MOD, watcher->fd, &event) < 0)) {
        return uv_translate_sys_error(errno);
    }
    watcher->events = watcher->pevents;
    return 0;
}

/* It stays on the list: what is closed before the poll is noticed there. */
int
uvt_guard_watch_io(UvtCore *core, uv__io_t *watcher)
{
    return watcher->events != watcher->pevents ? enlist(core, watcher) : 0;
}

void
uvt_guard_feed(uv_loop_t *uv, uv__io_t *watcher)
{
    Node *queue = (Node *)&uv->pending_queue;
    Node *node = (Node *)&watcher->pending_queue;
    if (node->next == node) {
        node->next = queue;
        node->prev = queue->prev;
        queue->prev->next = node;
        queue->prev = node;
    }
}

uv__io_t *
uvt_box_watcher(UvtBox *box)
{
    switch (box->uv.handle.type) {
    case UV_TCP:
    case UV_NAMED_PIPE:
    case UV_TTY:
        return &box->uv.stream.io_watcher;
    case UV_UDP:
        return &box->uv.udp.io_watcher;
    default:
        return NULL;
    }
}

int
uvt_guard_watch(UvtBox *box)
{
    uv__io_t *watcher = box->uv.handle.type == UV_POLL ? &box->uv.poll.io_watcher
                                                       : uvt_box_watcher(box);
    return uvt_guard_watch_io(box->uv.handle.loop->data, watcher);
}

/* ---- what cannot be registered ---- */

/* The box that the watcher is a part of; NULL for one of libuv's own.  Not by
 * descriptor: of several handles for it, only one watches. */
static UvtBox *
find_box(UvtCore *core, const uv__io_t *watcher)
{
    for (UvtBox *box = core->boxes; box != NULL; box = box->next) {
        const char *begin = (const char *)&box->uv;
        const char *end = begin + uv_handle_size(box->uv.handle.type);
        if (((const char *)watcher >= begin && (const char *)watcher < end)
            || watcher == uvt_listener_watcher(box)) {
            return box;
        }
    }
    return NULL;
}

/* Closes a handle whose descriptor was closed by somebody else.  libuv closes
 * the number once more: when it has been given out again, its new owner gets
 * it back.  A device that nobody can watch is still the handle's own. */
static void
close_lost(UvtBox *box, UvtHandle *owner, int fd)
{
    bool own = owner != NULL && owner->unwatchable;
    int flags = fcntl(fd, F_GETFD);
    int kept = own || flags < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 3);
    uvt_box_end(box);
    if (kept >= 0) {
        (void)dup3(kept, fd, flags & FD_CLOEXEC ? O_CLOEXEC : 0);
        close(kept);
    }
}

/* The kernel has no memory for another one: the descriptor is still the handle's,
 * which hears of it as of any error of its socket. */
static bool
is_refusal(int status)
{
    return status == UV_ENOSPC || status == UV_ENOMEM;
}

static void
refuse(UvtBox *box, UvtHandle *owner, int status)
{
    if (owner == NULL) {
        uvt_box_end(box);
    }
    else if (box->uv.handle.type == UV_UDP) {
        uvt_udp_refused(owner, status);
    }
    else {
        uvt_stream_refused(owner, status);
    }
}

/* A Poll does not own its descriptor: it is stopped and told.  Any other
 * handle that has lost what it is for is closed, which ends its requests with
 * UV_ECANCELED.  A watcher of libuv's own that is lost ends the run. */
static bool
evict(UvtCore *core, uv__io_t *watcher, int status)
{
    UvtBox *box = find_box(core, watcher);
    UvtHandle *owner;
    int fd = watcher->fd;
    if (box == NULL) {
        if (is_refusal(status) && uvt_inotify_has(core, watcher)) {
            unlink_node((Node *)&watcher->watcher_queue);   /* until the next start */
        }
        else if (uvt_children_lost(core, watcher)) {
            if (is_refusal(status)) {
                (void)close(fd);
            }
        }
        else if (!uvt_inotify_lost(core, watcher)
                 && !uvt_wakeup_lost(core->owner, watcher)) {
            uvt_guard_give_up(core);
        }
        return true;
    }
    if (uv_is_closing(&box->uv.handle)) {
        return false;
    }
    owner = uvt_box_owner(box);
    if (box->uv.handle.type == UV_POLL) {
        uvt_poll_stop(&box->uv.poll);
        if (owner != NULL) {
            uvt_poll_lost(owner, is_refusal(status) ? status : UV_EBADF);
        }
    }
    else if (is_refusal(status)) {
        unlink_node((Node *)&watcher->watcher_queue);
        refuse(box, owner, status);
    }
    else {
        close_lost(box, owner, fd);
    }
    Py_XDECREF(owner);
    return true;
}

/* Evicting can run Python code that changes the queue, so the walk starts
 * again after each; an eviction takes its watcher out, so it ends. */
bool
uvt_guard_watchers(UvtCore *core)
{
    bool told = false;
    Node *queue = (Node *)&core->uv.watcher_queue;
    Node *node = queue->next;
    while (node != queue) {
        uv__io_t *watcher = (uv__io_t *)
            ((char *)node - offsetof(uv__io_t, watcher_queue));
        int rc;
        node = node->next;
        rc = enlist(core, watcher);
        if (rc == 0 || core->owner == NULL) {
            unlink_node((Node *)&watcher->watcher_queue);
        }
        else {
            told = true;
            node = evict(core, watcher, rc) ? queue->next : node;
        }
    }
    return told;
}

/* ---- numbers that are given out again ---- */

static uv__io_t *
watcher_of_fd(const UvtCore *core, int fd)
{
    return fd >= 0 && (unsigned)fd < core->uv.nwatchers ? core->uv.watchers[fd]
                                                        : NULL;
}

void
uvt_guard_fresh_fd(UvtCore *core, int fd)
{
    uv__io_t *watcher = watcher_of_fd(core, fd);
    if (watcher != NULL) {
        (void)evict(core, watcher, UV_EBADF);
    }
}

void
uvt_guard_stale_fd(UvtCore *core, int fd)
{
    uv__io_t *watcher = watcher_of_fd(core, fd);
    UvtBox *box = watcher != NULL ? find_box(core, watcher) : NULL;
    if (box != NULL && box->uv.handle.type == UV_POLL
        && uvt_poll_is_stale(&box->uv.poll)) {
        (void)evict(core, watcher, UV_EBADF);
    }
}

int
uvt_guard_fresh(UvtHandle *self)
{
    UvtCore *core = self->box->uv.handle.loop->data;
    uv__io_t *watcher;
    uv_os_fd_t fd;
    if (uv_fileno(&self->box->uv.handle, &fd) < 0) {
        return 0;
    }
    if (uvt_guard_reserve(&core->uv, fd) < 0) {
        uvt_handle_close(self);
        return UV_ENOMEM;
    }
    watcher = watcher_of_fd(core, fd);
    if (watcher != NULL && find_box(core, watcher) != self->box) {
        (void)evict(core, watcher, UV_EBADF);
    }
    return 0;
}

int
uvt_guard_made(UvtHandle *self)
{
    int rc = uvt_guard_fresh(self);
    return rc < 0 || (self->box != NULL && !uv_is_closing(&self->box->uv.handle))
        ? rc : UV_ECANCELED;
}

/* Other threads may take the number meanwhile: there is room for some more. */
#define NUMBERS_AHEAD 64

int
uvt_guard_reserve_next(UvtCore *core)
{
    int rc, fd = uvt_low_next_fd(core->owner->st, core->uv.backend_fd);
    if (fd < 0) {
        return uv_translate_sys_error(errno);
    }
    rc = uvt_guard_reserve(&core->uv, fd + NUMBERS_AHEAD);
    if (rc == 0) {
        uvt_guard_fresh_fd(core, fd);
    }
    return rc;
}

bool
uvt_guard_next_fd(UvtHandle *handle, const char *call)
{
    UvtCore *core = handle->loop->core;
    uv_os_fd_t own;
    int rc = uv_fileno(&handle->box->uv.handle, &own) == 0
        ? uvt_guard_reserve(&core->uv, own) : uvt_guard_reserve_next(core);
    if (rc < 0) {
        uvt_handle_raise(handle, rc, call);
        return false;
    }
    return uvt_handle_check(handle);
}
