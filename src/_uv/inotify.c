/* The reader of a loop's inotify descriptor, in the place of libuv's, which does not
 * tell when the system's queue has overflowed, and which reads until nothing is left,
 * be it that the callbacks make more.  libuv uses a descriptor that its loop has
 * already: so it is made here before the first FSEvent starts, and libuv only adds
 * watches to it and removes them.  All functions run on the loop's thread.
 *
 * Which handle an event is for its `wd` says; handles of one file share a number.
 * They are found through a table of lists, by the handles that have started.
 */
#include "fswatch.h"
#include "guards.h"
#include "loop.h"
#include "uvpoll.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define BUCKETS 256
#define BUFFER_SIZE 16384

typedef struct UvtInotify {
    uv_poll_t poll;             /* its data is this */
    int fd;                     /* libuv's loop has it too; -1: somebody closed it */
    unsigned serial;            /* of the event that is told */
    UvtBox *buckets[BUCKETS];   /* lists of handles, by next_watch */
} UvtInotify;

static UvtBox **
bucket_of(UvtInotify *self, int wd)
{
    return &self->buckets[(unsigned)wd % BUCKETS];
}

/* ---- telling ---- */

/* The one after the last that was told of this event, if any is left.  A callback may
 * stop and start any of them. */
static UvtBox *
next_of(UvtInotify *self, int wd)
{
    for (UvtBox *box = *bucket_of(self, wd); box != NULL; box = box->next_watch) {
        if (box->uv.fs_event.wd == wd && box->told_event != self->serial) {
            box->told_event = self->serial;
            return box;
        }
    }
    return NULL;
}

static const char *
name_in(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash != NULL ? slash + 1 : path;
}

/* As libuv does it. */
static void
tell(UvtCore *core, const struct inotify_event *event)
{
    bool changed = (event->mask & (IN_ATTRIB | IN_MODIFY)) != 0;
    bool renamed = (event->mask & ~(uint32_t)(IN_ATTRIB | IN_MODIFY)) != 0;
    int events = (changed ? UV_CHANGE : 0) | (renamed ? UV_RENAME : 0);
    UvtInotify *self = core->inotify;
    UvtBox *box;
    self->serial++;
    while (core->inotify == self && (box = next_of(self, event->wd)) != NULL) {
        uv_fs_event_t *uv = &box->uv.fs_event;
        char name[NAME_MAX + 1];
        /* The path goes when the callback stops the handle. */
        (void)strncpy(name, event->len > 0 ? event->name : name_in(uv->path),
                      NAME_MAX);
        name[NAME_MAX] = '\0';
        uv->cb(uv, name, events, 0);
    }
}

/* To all that have started before, of every file. */
static void
tell_all(UvtCore *core, int status, bool stop)
{
    UvtInotify *self = core->inotify;
    self->serial++;
    for (unsigned i = 0; i < BUCKETS;) {
        UvtBox *box = self->buckets[i];
        while (box != NULL && box->told_event == self->serial) {
            box = box->next_watch;
        }
        if (box == NULL) {
            i++;
            continue;
        }
        box->told_event = self->serial;
        if (stop) {
            uvt_inotify_leave(box);
            (void)uv_fs_event_stop(&box->uv.fs_event);
        }
        box->uv.fs_event.cb(&box->uv.fs_event, NULL, 0, status);
        if (core->inotify != self) {
            return;
        }
    }
}

static void
read_events(UvtCore *core, const char *data, ssize_t size)
{
    const UvtInotify *self = core->inotify;
    const struct inotify_event *event;
    for (ssize_t at = 0; at < size; at += (ssize_t)(sizeof(*event) + event->len)) {
        event = (const struct inotify_event *)(const void *)(data + at);
        if (event->mask & IN_Q_OVERFLOW) {
            tell_all(core, UV_ENOBUFS, false);
        }
        else {
            tell(core, event);
        }
        if (core->inotify != self || core->forked) {
            return;             /* A callback has forked, and this is the child. */
        }
    }
}

/* The descriptor is gone, and with it all watches. */
static void
give_up(UvtCore *core, int status)
{
    UvtInotify *self = core->inotify;
    uvt_poll_stop(&self->poll);
    self->fd = core->uv.inotify_fd = -1;
    tell_all(core, status, true);
    uvt_inotify_free(core);
}

/* What was there at first, so that callbacks that make more cannot keep it here. */
static void
on_readable(uv_poll_t *uv, int status, int Py_UNUSED(events))
{
    UvtInotify *self = uv->data;
    UvtCore *core = uv->loop->data;
    _Alignas(struct inotify_event) char data[BUFFER_SIZE];
    ssize_t size = 0;
    int waiting = 0;
    if (core->owner == NULL || core->inotify != self) {
        return;
    }
    if (status < 0 || !uvt_guard_has(core, self->fd)
        || ioctl(self->fd, FIONREAD, &waiting) < 0) {
        give_up(core, UV_EBADF);
        return;
    }
    while (waiting > 0) {
        size = read(self->fd, data, sizeof(data));
        if (size <= 0) {
            break;
        }
        waiting -= (int)size;
        read_events(core, data, size);
        if (core->inotify != self || core->forked) {
            return;
        }
    }
    if (size < 0 && errno != EAGAIN && errno != EINTR) {
        give_up(core, UV_EBADF);
    }
}

/* ---- life cycle ---- */

static void
on_closed(uv_handle_t *uv)
{
    PyMem_RawFree(uv->data);
}

int
uvt_inotify_begin(UvtCore *core)
{
    UvtInotify *self;
    int fd, rc;
    if (core->uv.inotify_fd >= 0) {
        return 0;
    }
    self = PyMem_RawCalloc(1, sizeof(UvtInotify));
    if (self == NULL) {
        return UV_ENOMEM;
    }
    fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (fd < 0) {
        rc = uv_translate_sys_error(errno);
        PyMem_RawFree(self);
        return rc;
    }
    uvt_guard_fresh_fd(core, fd);
    rc = core->lost ? UV_EBADF : uv_poll_init(&core->uv, &self->poll, fd);
    if (rc < 0) {
        (void)close(fd);
        PyMem_RawFree(self);
        return rc;
    }
    self->poll.data = self;
    self->fd = fd;
    core->uv.inotify_fd = fd;
    core->inotify = self;
    uv_unref((uv_handle_t *)&self->poll);
    rc = uv_poll_start(&self->poll, UV_READABLE, on_readable);
    if (rc < 0) {
        uvt_inotify_free(core);
    }
    return rc;
}

void
uvt_inotify_free(UvtCore *core)
{
    UvtInotify *self = core->inotify;
    if (self == NULL) {
        return;
    }
    core->inotify = NULL;
    core->uv.inotify_fd = -1;
    if (!uvt_guard_still_has(core, &self->poll.io_watcher)) {
        self->fd = -1;          /* Somebody has closed it. */
    }
    uvt_poll_close(&self->poll, on_closed);
    if (self->fd >= 0) {
        (void)close(self->fd);
    }
}

int
uvt_inotify_watch(UvtCore *core)
{
    return uvt_guard_watch_io(core, &core->inotify->poll.io_watcher);
}

bool
uvt_inotify_has(const UvtCore *core, const uv__io_t *watcher)
{
    return core->inotify != NULL && watcher == &core->inotify->poll.io_watcher;
}

bool
uvt_inotify_lost(UvtCore *core, const uv__io_t *watcher)
{
    if (!uvt_inotify_has(core, watcher)) {
        return false;
    }
    give_up(core, UV_EBADF);
    return true;
}

void
uvt_inotify_join(UvtBox *box)
{
    UvtCore *core = box->uv.handle.loop->data;
    UvtBox **bucket = bucket_of(core->inotify, box->uv.fs_event.wd);
    box->watches = true;
    box->told_event = core->inotify->serial;
    box->next_watch = *bucket;
    *bucket = box;
}

void
uvt_inotify_leave(UvtBox *box)
{
    UvtCore *core = box->uv.handle.loop->data;
    UvtBox **link;
    if (!box->watches || core->inotify == NULL) {
        return;
    }
    box->watches = false;
    link = bucket_of(core->inotify, box->uv.fs_event.wd);
    while (*link != box) {
        link = &(*link)->next_watch;
    }
    *link = box->next_watch;
}

/* ---- a loop that a forked child goes on with ---- */

struct UvtRestart {
    struct UvtRestart *next;
    UvtBox *box;
    char *path;
};

/* The descriptor is shared with the parent, whose watches it would remove: libuv is
 * not to have it any more when it stops the handles. */
struct UvtRestart *
uvt_inotify_put_off(UvtCore *core)
{
    struct UvtRestart *list = NULL, *one;
    if (core->inotify == NULL) {
        return NULL;
    }
    core->uv.inotify_fd = -1;
    for (UvtBox *box = core->boxes; box != NULL; box = box->next) {
        if (box->uv.handle.type != UV_FS_EVENT || !box->watches
            || uv_is_closing(&box->uv.handle)) {
            continue;
        }
        one = PyMem_RawMalloc(sizeof(*one));
        if (one != NULL) {
            one->path = strdup(box->uv.fs_event.path);
            one->box = box;
            one->next = list;
            list = one;
        }
        uvt_inotify_leave(box);
        (void)uv_fs_event_stop(&box->uv.fs_event);
    }
    return list;
}

int
uvt_inotify_restart(UvtCore *core, struct UvtRestart *list)
{
    int rc = 0;
    uvt_inotify_free(core);
    while (list != NULL) {
        struct UvtRestart *one = list;
        int status = one->path != NULL ? uvt_inotify_begin(core) : UV_ENOMEM;
        if (status == 0) {
            uv_fs_event_t *uv = &one->box->uv.fs_event;
            status = uv_fs_event_start(uv, uv->cb, one->path, 0);
        }
        if (status == 0) {
            uvt_inotify_join(one->box);
            status = uvt_inotify_watch(core);
        }
        rc = rc < 0 ? rc : status;
        list = one->next;
        free(one->path);
        PyMem_RawFree(one);
    }
    return rc;
}
