/* Descriptors 0 to 2 where they are no standard streams: a program that was started
 * with one of them closed, or has closed it, gets its number for the next file.
 * libuv never closes those: it leaks a stream's, and aborts for any other.  What it
 * has for itself is therefore kept away from them, and a handle's is closed here.
 *
 * uvt_low_take and uvt_low_give are for any thread, attached or not, the rest is for
 * the loop's, attached.
 */
#include "guards.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#define LAST_STANDARD 2

typedef struct Node {
    struct Node *next, *prev;
} Node;

static bool
is_low(int fd)
{
    return fd >= 0 && fd <= LAST_STANDARD;
}

/* ---- keeping libuv away ---- */

static int
open_anything(void)
{
    int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    return fd >= 0 ? fd : eventfd(0, EFD_CLOEXEC);
}

/* Any number of threads may do so at once. */
void
uvt_low_take(UvtState *st)
{
    UvtLowFds *self = &st->low;
    (void)pthread_mutex_lock(&self->mutex);
    self->users++;
    for (int fd = 0; fd <= LAST_STANDARD; fd++) {
        int got;
        if (fcntl(fd, F_GETFD) >= 0) {
            continue;
        }
        got = open_anything();
        self->taken[fd] = got == fd;
        if (got >= 0 && got != fd) {
            (void)close(got);
        }
    }
    (void)pthread_mutex_unlock(&self->mutex);
}

static void
give_all(UvtLowFds *self)
{
    for (int fd = 0; fd <= LAST_STANDARD; fd++) {
        if (self->taken[fd]) {
            self->taken[fd] = false;
            (void)close(fd);
        }
    }
}

void
uvt_low_give(UvtState *st)
{
    UvtLowFds *self = &st->low;
    (void)pthread_mutex_lock(&self->mutex);
    if (self->users > 0 && --self->users == 0) {
        give_all(self);
    }
    (void)pthread_mutex_unlock(&self->mutex);
}

/* None of them is seen to be in use meanwhile. */
int
uvt_low_next_fd(UvtState *st, int fd)
{
    int next;
    (void)pthread_mutex_lock(&st->low.mutex);
    next = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (next >= 0) {
        (void)close(next);
    }
    (void)pthread_mutex_unlock(&st->low.mutex);
    return next;
}

/* Other threads, which this process has not, may be in the middle of something. */
void
uvt_low_after_fork(UvtState *st)
{
    UvtLowFds *self = &st->low;
    self->mutex = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    self->users = 0;
    give_all(self);
}

/* libuv opens its spare descriptor with the first stream of a loop, for connections
 * that come when there is no other left; it can do without. */
bool
uvt_low_take_for_stream(UvtLoop *loop)
{
    bool first = loop->core->uv.emfile_fd < 0;
    if (first) {
        uvt_low_take(loop->st);
    }
    return first;
}

/* ---- closing handles ---- */

/* What libuv has for descriptors that were sent over a pipe and wait for the next
 * accept. */
typedef struct {
    unsigned size;
    unsigned count;
    int fds[];
} Queued;

/* Received, but never accepted. */
static void
drop_received(uv_stream_t *uv)
{
    Queued *queued = uv->queued_fds;
    unsigned kept = 0;
    if (is_low(uv->accepted_fd)) {
        (void)close(uv->accepted_fd);
        uv->accepted_fd = -1;
    }
    for (unsigned i = 0; queued != NULL && i < queued->count; i++) {
        if (is_low(queued->fds[i])) {
            (void)close(queued->fds[i]);
        }
        else {
            queued->fds[kept++] = queued->fds[i];
        }
    }
    if (queued != NULL) {
        queued->count = kept;
    }
}

static void
unlink_node(void *entry)
{
    Node *node = entry;
    node->prev->next = node->next;
    node->next->prev = node->prev;
    node->next = node->prev = node;
}

/* Takes the descriptor away from libuv, which then has none to close. */
static void
hide(uv_loop_t *uv, uv__io_t *watcher)
{
    int fd = watcher->fd;
    struct epoll_event unused = {0};
    unlink_node(&watcher->watcher_queue);
    unlink_node(&watcher->pending_queue);
    if ((unsigned)fd < uv->nwatchers && uv->watchers[fd] == watcher) {
        uv->watchers[fd] = NULL;
        uv->nfds--;
    }
    (void)epoll_ctl(uv->backend_fd, EPOLL_CTL_DEL, fd, &unused);
    watcher->pevents = watcher->events = 0;
    watcher->fd = -1;
}

/* In a loop that has lost its own descriptors nobody can tell whose the numbers of
 * the handles are by now: they are left open. */
int
uvt_low_begin_close(UvtBox *box)
{
    uv__io_t *watcher = uvt_box_watcher(box);
    uv_loop_t *uv = box->uv.handle.loop;
    bool lost = ((const UvtCore *)uv->data)->lost, is_udp;
    int fd;
    if (watcher == NULL) {
        return -1;
    }
    is_udp = box->uv.handle.type == UV_UDP;
    fd = watcher->fd;
    if (!is_udp) {
        drop_received(&box->uv.stream);
    }
    if (fd < 0 || !(is_low(fd) || lost)) {
        return -1;
    }
    if (is_udp || lost) {
        hide(uv, watcher);
    }
    return lost || box->standard ? -1 : fd;
}

void
uvt_low_end_close(int fd)
{
    if (fd >= 0) {
        (void)close(fd);
    }
}

/* ---- the program's standard streams ---- */

/* Those stay open when a handle that has taken one over is closed, as with libuv:
 * Python's own streams still use them. */
void
uvt_low_setup(UvtState *st)
{
    st->low.mutex = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    for (int fd = 0; fd <= LAST_STANDARD; fd++) {
        (void)uvt_file_of(fd, &st->standard[fd]);
    }
}

bool
uvt_low_is_standard(const UvtState *st, int fd)
{
    return is_low(fd) && uvt_file_is(fd, &st->standard[fd]);
}
