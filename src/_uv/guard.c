/* Keeps libuv from abort().  It aborts when epoll refuses a descriptor in the
 * poll: one that was closed, or closed and reused, behind the back of the handle
 * that watches it.  So each descriptor that the next poll is to watch in another
 * way is looked at before, on the loop's thread, attached; and those that libuv has
 * for itself when a run begins and before the loop is freed.
 *
 * libuv offers no list of them: the queue of watchers and the table by
 * descriptor are read from its uv_loop_t, where the public header declares
 * them.  Both kinds of queue node that libuv has had are two pointers, the
 * first to the next node.
 */
#include "handle.h"
#include "listen.h"
#include "loop.h"
#include "process.h"
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

/* Whether libuv's next epoll_ctl() for it will do.  What is in the poll already
 * is to be modified there, which fails when its number is another file's by now:
 * so this modifies it, as libuv will. */
static bool
can_poll(const UvtCore *core, const uv__io_t *watcher)
{
    struct epoll_event event = {.events = watcher->pevents};
    if (watcher->events == 0) {
        return uvt_guard_can_watch(core, watcher->fd);
    }
    event.data.fd = watcher->fd;
    return epoll_ctl(core->uv.backend_fd, EPOLL_CTL_MOD, watcher->fd, &event) == 0;
}

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
close_lost(UvtBox *box, int fd)
{
    UvtHandle *owner = uvt_box_owner(box);
    bool own = owner != NULL && owner->unwatchable;
    int flags = fcntl(fd, F_GETFD);
    int kept = own || flags < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 0);
    uvt_box_end(box);
    Py_XDECREF(owner);
    if (kept >= 0) {
        (void)dup3(kept, fd, flags & FD_CLOEXEC ? O_CLOEXEC : 0);
        close(kept);
    }
}

/* A watcher of libuv's own has lost its descriptor: the run ends. */
static void
give_up(UvtCore *core, const uv__io_t *watcher)
{
    Node *node = (Node *)&watcher->watcher_queue;
    node->prev->next = node->next;
    node->next->prev = node->prev;
    node->next = node->prev = node;
    core->lost = true;
    uv_stop(&core->uv);
}

/* A Poll does not own its descriptor: it is stopped and told.  Any other
 * handle has lost what it is for: it is closed, which ends its requests with
 * UV_ECANCELED. */
static bool
evict(UvtCore *core, const uv__io_t *watcher)
{
    UvtBox *box = find_box(core, watcher);
    UvtHandle *owner;
    if (box == NULL) {
        if (!uvt_wakeup_lost(core->owner, watcher)
            && !uvt_children_lost(core, watcher)) {
            give_up(core, watcher);
        }
        return true;
    }
    if (uv_is_closing(&box->uv.handle)) {
        return false;
    }
    if (box->uv.handle.type == UV_POLL) {
        uvt_poll_stop(&box->uv.poll);
        owner = uvt_box_owner(box);
        if (owner != NULL) {
            uvt_poll_lost(owner);
            Py_DECREF(owner);
        }
    }
    else {
        close_lost(box, watcher->fd);
    }
    return true;
}

/* Evicting can run Python code that changes the queue, so the walk starts
 * again after each; an eviction takes its watcher out, so it ends. */
bool
uvt_guard_watchers(UvtCore *core)
{
    Node *queue = (Node *)&core->uv.watcher_queue;
    Node *node = queue->next;
    while (node != queue) {
        const uv__io_t *watcher = (const uv__io_t *)
            ((const char *)node - offsetof(uv__io_t, watcher_queue));
        if (can_poll(core, watcher)) {
            node = node->next;
            continue;
        }
        node = evict(core, watcher) ? queue->next : node->next;
    }
    return queue->next != queue;
}

/* Whether libuv's epoll is still there.  Its events are not looked at: what libuv
 * watches by edges (its eventfd, from 1.53 on) is told once.  So this asks for the
 * change of a descriptor that is never watched, which an epoll does not know. */
static bool
has_epoll(const uv_loop_t *uv)
{
    struct epoll_event event = {0};
    return epoll_ctl(uv->backend_fd, EPOLL_CTL_MOD, uv->signal_pipefd[1], &event) < 0
        && errno == ENOENT;
}

/* Those that libuv has from the beginning. */
bool
uvt_guard_own_fds(UvtCore *core)
{
    const uv_loop_t *uv = &core->uv;
    core->lost = core->lost
        || (uv->signal_pipefd[1] >= 0 ? !has_epoll(uv)
                                      : fcntl(uv->backend_fd, F_GETFD) < 0)
        || fcntl(uv->async_io_watcher.fd, F_GETFD) < 0
        || (uv->signal_pipefd[0] >= 0
            && fcntl(uv->signal_pipefd[0], F_GETFD) < 0);
    return !core->lost;
}

static const uv__io_t *
watcher_of_fd(const UvtCore *core, int fd)
{
    return fd >= 0 && (unsigned)fd < core->uv.nwatchers ? core->uv.watchers[fd]
                                                        : NULL;
}

void
uvt_guard_fresh_fd(UvtCore *core, int fd)
{
    const uv__io_t *watcher = watcher_of_fd(core, fd);
    if (watcher != NULL) {
        (void)evict(core, watcher);
    }
}

void
uvt_guard_stale_fd(UvtCore *core, int fd)
{
    const uv__io_t *watcher = watcher_of_fd(core, fd);
    UvtBox *box = watcher != NULL ? find_box(core, watcher) : NULL;
    if (box != NULL && box->uv.handle.type == UV_POLL
        && uvt_poll_is_stale(&box->uv.poll)) {
        (void)evict(core, watcher);
    }
}

void
uvt_guard_fresh(UvtHandle *self)
{
    UvtCore *core = self->box->uv.handle.loop->data;
    const uv__io_t *watcher;
    uv_os_fd_t fd;
    if (uv_fileno(&self->box->uv.handle, &fd) < 0) {
        return;
    }
    watcher = watcher_of_fd(core, fd);
    if (watcher != NULL && find_box(core, watcher) != self->box) {
        (void)evict(core, watcher);
    }
}

bool
uvt_guard_next_fd(UvtHandle *handle)
{
    UvtCore *core = handle->loop->core;
    uv_os_fd_t own;
    int fd;
    if (uv_fileno(&handle->box->uv.handle, &own) == 0) {
        return true;
    }
    fd = fcntl(core->uv.backend_fd, F_DUPFD_CLOEXEC, 0);
    if (fd >= 0) {
        close(fd);
        uvt_guard_fresh_fd(core, fd);
    }
    return uvt_handle_check(handle);
}
