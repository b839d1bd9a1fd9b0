/* Keeps libuv from abort() over what it has for a loop itself: epoll, the eventfd
 * that wakes it, its table of watchers.  All functions run attached on the loop's
 * thread, except uvt_guard_intact and uvt_guard_send, which any thread may call.
 *
 * libuv's structures are read, and in part written, where its public header
 * declares them; both kinds of queue node that it has had are two pointers.
 */
#include "guards.h"
#include "pool.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <unistd.h>

/* epoll, libuv's lock of signals, the loop's own signals, the eventfd; and a few
 * for what other threads open meanwhile. */
#define FDS_OF_A_LOOP 8
#define RING "anon_inode:[io_uring]"

typedef struct Node {
    struct Node *next, *prev;
} Node;

/* ---- the table of watchers ---- */

/* As libuv makes it: the number of entries plus 2 is a power of two, and behind
 * them are two more, in use while a poll tells its events. */
int
uvt_guard_reserve(uv_loop_t *uv, int fd)
{
    unsigned count = 14;
    uv__io_t **watchers;
    void *last[2] = {NULL, NULL};
    if (fd < 0 || (unsigned)fd < uv->nwatchers) {
        return 0;
    }
    while (count < (unsigned)fd + 1) {
        count = (count + 2) * 2 - 2;
    }
    if (uv->watchers != NULL) {
        last[0] = uv->watchers[uv->nwatchers];
        last[1] = uv->watchers[uv->nwatchers + 1];
    }
    watchers = realloc(uv->watchers, (count + 2) * sizeof(*watchers));
    if (watchers == NULL) {
        return UV_ENOMEM;
    }
    for (unsigned i = uv->nwatchers; i < count; i++) {
        watchers[i] = NULL;
    }
    watchers[count] = last[0];
    watchers[count + 1] = last[1];
    uv->watchers = watchers;
    uv->nwatchers = count;
    return 0;
}

/* ---- epoll and the eventfd ---- */

/* To add the eventfd once more changes nothing, and is refused with EEXIST by the
 * very epoll that has that very file.  To change it would do for that, too, but has
 * epoll tell once more what is watched by edges, as newer libuv does. */
static bool
is_registered(int epoll_fd, int fd)
{
    struct epoll_event event = {.events = EPOLLIN};
    event.data.fd = fd;
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0) {
        (void)epoll_ctl(epoll_fd, EPOLL_CTL_DEL, fd, &event);
        return false;
    }
    /* Without memory it cannot tell. */
    return errno == EEXIST || errno == ENOSPC || errno == ENOMEM;
}

bool
uvt_guard_intact(const UvtCore *core)
{
    return is_registered(core->uv.backend_fd, core->uv.async_io_watcher.fd);
}

bool
uvt_guard_has(const UvtCore *core, int fd)
{
    return is_registered(core->uv.backend_fd, fd);
}

bool
uvt_guard_still_has(const UvtCore *core, const uv__io_t *watcher)
{
    return watcher->events == 0 || uvt_guard_has(core, watcher->fd);
}

void
uvt_guard_wake(int epoll_fd, int event_fd)
{
    const uint64_t one = 1;
    ssize_t rc;
    if (is_registered(epoll_fd, event_fd)) {
        do {
            rc = write(event_fd, &one, sizeof(one));
        } while (rc < 0 && errno == EINTR);
    }
}

/* As far as fstat() can tell.  What was never made cannot be lost. */
static bool
is_still(int fd, const UvtFileId *file)
{
    return fd < 0 || uvt_file_is(fd, file);
}

/* libuv closes its spare descriptor with the loop, and when no other is left.  It can
 * do without. */
static void
check_spare(uv_loop_t *uv)
{
    struct stat info;
    if (uv->emfile_fd >= 0
        && (fstat(uv->emfile_fd, &info) < 0
            || !(S_ISCHR(info.st_mode) || S_ISDIR(info.st_mode)))) {
        uv->emfile_fd = -1;
    }
}

bool
uvt_guard_own_fds(UvtCore *core)
{
    if (!core->lost
        && (!uvt_guard_intact(core)
            || !is_still(core->uv.signal_pipefd[0], &core->signal_pipe)
            || !is_still(core->uv.signal_pipefd[1], &core->signal_pipe)
            || !is_still(core->ring_fd, &core->ring))) {
        uvt_guard_give_up(core);
    }
    check_spare(&core->uv);
    return !core->lost;
}

/* With nothing to watch, libuv does not even ask epoll.  That number, as all others,
 * may be another file's by now. */
void
uvt_guard_give_up(UvtCore *core)
{
    uv_loop_t *uv = &core->uv;
    Node *queue = (Node *)&uv->watcher_queue;
    core->lost = true;
    if (core->uses_pool) {
        uvt_pool_hush(core);
    }
    while (queue->next != queue) {
        Node *node = queue->next;
        queue->next = node->next;
        node->next->prev = queue;
        node->next = node->prev = node;
    }
    for (unsigned i = 0; i < uv->nwatchers; i++) {
        uv->watchers[i] = NULL;
    }
    uv->nfds = 0;
    uv->backend_fd = -1;
    uv_stop(uv);
}

/* With a wake-up under way libuv writes nothing. */
int
uvt_guard_send(uv_async_t *uv)
{
    const UvtCore *core = uv->loop->data;
    if (__atomic_load_n(&uv->pending, __ATOMIC_RELAXED) == 0
        && !uvt_guard_intact(core)) {
        return UV_EBADF;
    }
    return uv_async_send(uv);
}

/* ---- libuv's callbacks for its own descriptors ---- */

/* Older libuv reads from them, whatever they are by now, and aborts when it cannot.  A
 * callback of the same poll may have closed them. */
#if UV_VERSION_HEX < 0x013400
static void
on_woken(uv_loop_t *uv, uv__io_t *watcher, unsigned events)
{
    UvtCore *core = uv->data;
    if (core->lost) {
        return;
    }
    /* A thread that is detached has not called any. */
    if ((core->owner == NULL || core->owner->detached == NULL)
        && !uvt_guard_intact(core)) {
        uvt_guard_give_up(core);
        return;
    }
    core->libuv_woken(uv, watcher, events);
}

static void
on_signalled(uv_loop_t *uv, uv__io_t *watcher, unsigned events)
{
    UvtCore *core = uv->data;
    if (!core->lost && uvt_guard_has(core, watcher->fd)) {
        core->libuv_signalled(uv, watcher, events);
    }
}

static void
check_before(UvtCore *core)
{
    uv_loop_t *uv = &core->uv;
    if (uv->async_io_watcher.cb != on_woken) {
        core->libuv_woken = uv->async_io_watcher.cb;
        uv->async_io_watcher.cb = on_woken;
    }
    if (uv->signal_io_watcher.cb != on_signalled) {
        core->libuv_signalled = uv->signal_io_watcher.cb;
        uv->signal_io_watcher.cb = on_signalled;
    }
}
#else
#define check_before(core) ((void)0)
#endif

/* ---- a new loop ---- */

/* libuv aborts when it has no descriptor left for what the first loop of a process
 * makes for all, and leaks some when it fails later.  So all are taken before. */
static int
try_descriptors(int *fds, int *highest)
{
    int count = 0, rc = 0;
    *highest = 0;
    while (count < FDS_OF_A_LOOP && rc == 0) {
        int fd = epoll_create1(EPOLL_CLOEXEC);
        if (fd < 0) {
            rc = uv_translate_sys_error(errno);
        }
        else {
            fds[count++] = fd;
            *highest = fd > *highest ? fd : *highest;
        }
    }
    for (int i = 0; i < count; i++) {
        (void)close(fds[i]);
    }
    return rc;
}

/* Newer libuv makes an io_uring, right after epoll, and never shows it.  We leave it
 * nothing to do; but libuv closes its number with the loop. */
static void
find_ring(UvtCore *core, const int *fds)
{
    char path[32], target[32];
    core->ring_fd = -1;
    for (int i = 0; i < FDS_OF_A_LOOP; i++) {
        ssize_t size;
        (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fds[i]);
        size = readlink(path, target, sizeof(target));
        if (size == (ssize_t)strlen(RING) && memcmp(target, RING, strlen(RING)) == 0
            && fds[i] > core->uv.backend_fd && uvt_file_of(fds[i], &core->ring)) {
            core->ring_fd = fds[i];
            return;
        }
    }
}

/* Up to 1.44 libuv leaves epoll open when the rest fails. */
static void
close_rest(const uv_loop_t *uv)
{
    struct epoll_event event;
    if (uv->backend_fd > 2 && epoll_wait(uv->backend_fd, &event, 1, 0) >= 0) {
        (void)close(uv->backend_fd);
    }
}

int
uvt_guard_watch_own(UvtCore *core)
{
    uv_loop_t *uv = &core->uv;
    int rc = uvt_guard_watch_io(core, &uv->async_io_watcher);
    (void)uvt_file_of(uv->signal_pipefd[0], &core->signal_pipe);
    uv->data = core;
    check_before(core);
    if (rc == 0 && uv->signal_pipefd[0] >= 0) {
        rc = uvt_guard_watch_io(core, &uv->signal_io_watcher);
    }
    return rc;
}

/* Up to 1.44, libuv asks the system with the first datagram of a process what it can,
 * by a socket of its own, and aborts if that has one of the numbers 0 to 2.  Asked here
 * it has not; what was needed for it is closed in one turn. */
static void
on_asked(uv_handle_t *uv)
{
    PyMem_RawFree(uv);
}

static int
ask_for_datagrams(uv_loop_t *uv)
{
    uv_udp_t *udp;
    int rc;
    if (uv_version() >= 0x012D00) {
        return 0;
    }
    udp = PyMem_RawCalloc(1, sizeof(*udp));
    if (udp == NULL) {
        return UV_ENOMEM;
    }
    rc = uv_udp_init_ex(uv, udp, UV_UDP_RECVMMSG);
    if (rc < 0) {
        PyMem_RawFree(udp);
        return rc;
    }
    (void)uv_udp_using_recvmmsg(udp);
    uv_close((uv_handle_t *)udp, on_asked);
    (void)uv_run(uv, UV_RUN_NOWAIT);
    return 0;
}

int
uvt_guard_loop_init(UvtState *st, UvtCore *core)
{
    int rc, highest, fds[FDS_OF_A_LOOP];
    bool first = st->siglock.pid == 0;      /* for this module */
    uvt_low_take(st);
    uvt_siglock_before(st);
    rc = try_descriptors(fds, &highest);
    if (rc == 0) {      /* room for the table of watchers, twice as large at most */
        rc = uvt_reserve_fill(((size_t)highest + 64) * 2 * sizeof(void *));
    }
    if (rc == 0) {
        core->uv.backend_fd = -1;
        rc = uv_loop_init(&core->uv);
        if (rc < 0) {
            close_rest(&core->uv);
        }
    }
    if (rc == 0) {
        uvt_siglock_after(st, &core->uv);
        find_ring(core, fds);
        rc = uvt_guard_watch_own(core);
        if (rc == 0 && first) {
            rc = ask_for_datagrams(&core->uv);
        }
        if (rc < 0) {
            (void)uv_loop_close(&core->uv);
        }
    }
    uvt_reserve_empty();
    uvt_low_give(st);
    return rc;
}
