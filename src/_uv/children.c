/* How the end of a child is noticed.  A descriptor of the process (pidfd) is watched
 * by a poll of the loop; where there is none, the child is asked for now and then.  So
 * it does not matter who has SIGCHLD: libuv's handler, which is quicker than asking,
 * gives way to the program's.  All functions run on the loop's thread; those that libuv
 * calls touch nothing of Python's before uvt_process_tell().
 *
 * libuv waits for each of its children by number, and tells of all that have ended
 * from one walk over a list that no callback may change.  So an end is only noted
 * then, and told by a check handle right after the poll.  A child that somebody else
 * has waited for is unknown to the system and, to libuv, running for ever; that is
 * found out there, too.
 *
 * When SIGCHLD is the program's, it may wait for its children itself.  So an end that
 * only the descriptor tells of is looked at, and the status left to whoever wants it
 * until SIGCHLD comes after all, the next child is started or the handle is closed.
 *
 * A child whose handle is closed is still waited for, so that no zombie stays: by the
 * loop, and after the loop's end whenever another loop or child begins.
 */
#include "errors.h"
#include "fork.h"
#include "guards.h"
#include "process.h"
#include "signals.h"
#include "uvpoll.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* Milliseconds between two questions: they double. */
#define FIRST_DELAY 1u
#define LONGEST_DELAY 50u

/* A child that has not been waited for; of the loop's list. */
typedef struct UvtChild {
    struct UvtChild *prev, *next;
    UvtPoll poll;               /* its uv.data is this */
    UvtBox *box;                /* of its Process; NULL: that is closed */
    int fd;                     /* a pidfd; -1: there is none to watch */
    int pid;
    bool readable;              /* the poll says that it has ended */
} UvtChild;

/* What a loop has once it has had a child; in use while one runs. */
typedef struct UvtChildren {
    uv_check_t after_poll;      /* its data, as that of the other, is this */
    uv_timer_t asking;          /* for those without a descriptor */
    unsigned open;              /* of these two */
    unsigned delay;
    UvtChild *first;
    UvtChild *spare;            /* for the child that is being started */
    uv_signal_cb libuv_cb;      /* of SIGCHLD */
    bool foreign;               /* SIGCHLD is that of another user of libuv */
    bool ignored;               /* SIGCHLD was, and is to be again */
    struct sigaction before;    /* so */
} UvtChildren;

struct UvtStray {
    struct UvtStray *next;
    int pid;
};

typedef struct Node {
    struct Node *next, *prev;
} Node;

static UvtProcessBox *
as_process(UvtBox *box)
{
    return (UvtProcessBox *)&box->uv;
}

/* ---- waiting ---- */

/* As waitpid() of one that may not have ended; nobody wants its status. */
static bool
is_over(int pid)
{
    pid_t rc;
    do {
        rc = waitpid(pid, NULL, WNOHANG);
    } while (rc < 0 && errno == EINTR);
    return rc != 0;
}

static void
note_end(UvtProcessBox *process, int64_t exit_status, int term_signal)
{
    process->ended = true;
    process->exit_status = exit_status;
    process->term_signal = term_signal;
}

/* Takes a child from libuv, which would wait for whoever has its number next.
 * Both kinds of queue node that libuv has had are two pointers. */
static void
take_from_libuv(UvtProcessBox *process)
{
    Node *node = (Node *)&process->uv.queue;
    node->prev->next = node->next;
    node->next->prev = node->prev;
    node->next = node->prev = node;
    uv_unref((uv_handle_t *)&process->uv);
}

/* Notes the end of one that has ended, or that the system has no more. */
static void
look_at(UvtProcessBox *process)
{
    siginfo_t info = {0};
    int rc;
    do {
        rc = waitid(P_PID, (id_t)process->uv.pid, &info,
                    WEXITED | WNOHANG | WNOWAIT);
    } while (rc < 0 && errno == EINTR);
    if (rc < 0 && errno == ECHILD) {
        take_from_libuv(process);
        note_end(process, -ECHILD, 0);
    }
    else if (rc == 0 && info.si_pid != 0) {
        bool exited = info.si_code == CLD_EXITED;
        take_from_libuv(process);
        note_end(process, exited ? info.si_status : 0, exited ? 0 : info.si_status);
        process->unreaped = true;
    }
}

static void
reap_seen(const UvtCore *core)
{
    for (UvtBox *box = core->boxes; box != NULL; box = box->next) {
        if (box->uv.handle.type == UV_PROCESS && as_process(box)->unreaped
            && is_over(as_process(box)->uv.pid)) {
            as_process(box)->unreaped = false;
        }
    }
}

/* ---- the descriptor ---- */

static void
on_child_closed(uv_handle_t *uv)
{
    PyMem_RawFree(uv->data);
}

/* Watches it no more.  What is left is freed by libuv's callback. */
static void
end_watch(UvtChildren *children, UvtChild *self)
{
    if (self->prev != NULL) {
        self->prev->next = self->next;
    }
    else {
        children->first = self->next;
    }
    if (self->next != NULL) {
        self->next->prev = self->prev;
    }
    if (self->box != NULL) {
        as_process(self->box)->child = NULL;
    }
    if (self->poll.uv.data == NULL) {
        PyMem_RawFree(self);
        return;
    }
    if (!uvt_guard_still_has(self->poll.uv.loop->data, &self->poll.uv.io_watcher)) {
        self->fd = -1;          /* Somebody has closed it. */
    }
    uvt_poll_close(&self->poll.uv, on_child_closed);
    if (self->fd >= 0) {
        (void)close(self->fd);
    }
}

static void on_after_poll(uv_check_t *uv);

static void
look_after_poll(UvtChildren *children)
{
    (void)uv_check_start(&children->after_poll, on_after_poll);
}

static void on_asking(uv_timer_t *uv);

static void
ask_for_it(UvtChildren *children)
{
    children->delay = FIRST_DELAY;
    (void)uv_timer_start(&children->asking, on_asking, FIRST_DELAY, 0);
}

static void
on_readable(uv_poll_t *uv, int status, int Py_UNUSED(events))
{
    UvtChild *self = uv->data;
    UvtCore *core = uv->loop->data;
    self->readable = status == 0;
    if (status < 0) {
        uvt_poll_stop(&self->poll.uv);
        self->fd = -1;          /* Somebody has closed it. */
        ask_for_it(core->children);
    }
    look_after_poll(core->children);
}

/* False: the system has none, or none is left. */
static bool
watch(UvtCore *core, UvtChild *self)
{
#ifdef SYS_pidfd_open
    int fd = (int)syscall(SYS_pidfd_open, self->pid, 0);
    if (fd < 0) {
        return false;
    }
    uvt_guard_fresh_fd(core, fd);
    if (core->lost || uvt_guard_reserve(&core->uv, fd) < 0
        || uv_poll_init(&core->uv, &self->poll.uv, fd) < 0) {
        (void)close(fd);
        return false;
    }
    self->poll.uv.data = self;
    self->fd = fd;
    uv_unref((uv_handle_t *)&self->poll.uv);
    if (uv_poll_start(&self->poll.uv, UV_READABLE, on_readable) == 0) {
        return true;
    }
    (void)close(fd);
    self->fd = -1;
#else
    (void)core, (void)self;
#endif
    return false;
}

bool
uvt_children_lost(UvtCore *core, const uv__io_t *watcher)
{
    UvtChildren *children = core->children;
    UvtChild *self = children != NULL ? children->first : NULL;
    while (self != NULL && watcher != &self->poll.uv.io_watcher) {
        self = self->next;
    }
    if (self == NULL) {
        return false;
    }
    uvt_poll_stop(&self->poll.uv);
    self->fd = -1;              /* It is somebody else's by now. */
    ask_for_it(children);
    return true;
}

/* ---- the end ---- */

void
uvt_on_exit(uv_process_t *uv, int64_t exit_status, int term_signal)
{
    UvtCore *core = uv->loop->data;
    note_end((UvtProcessBox *)uv, exit_status, term_signal);
    if (core->children != NULL) {
        look_after_poll(core->children);
    }
}

/* In the place of libuv's own callback for SIGCHLD. */
static void
on_sigchld(uv_signal_t *uv, int signum)
{
    UvtCore *core = uv->loop->data;
    if (core->children != NULL && !core->forked) {
        core->children->libuv_cb(uv, signum);
        reap_seen(core);
    }
}

/* libuv waits for all that have ended, when SIGCHLD is on its way to it. */
static void
reap(UvtCore *core)
{
    uv_signal_t *watcher = &core->uv.child_watcher;
    if (uvt_sigchld_pending(core)) {
        on_sigchld(watcher, SIGCHLD);
    }
}

static bool
has_ended(UvtChild *self)
{
    if (self->box == NULL) {
        return is_over(self->pid);
    }
    if (!as_process(self->box)->ended) {
        look_at(as_process(self->box));
    }
    return as_process(self->box)->ended;
}

/* One whose descriptor says that it has ended, and whom the system does not give, is
 * asked for later: the poll would come at once, for ever. */
static void
sort_out(UvtChildren *children)
{
    UvtChild *child = children->first;
    while (child != NULL) {
        UvtChild *next = child->next;
        if (has_ended(child)) {
            end_watch(children, child);
        }
        else if (child->readable) {
            child->readable = false;
            uvt_poll_stop(&child->poll.uv);
            ask_for_it(children);
        }
        child = next;
    }
}

/* The next one whose end is to be told, or NULL. */
static UvtBox *
find_ended(const UvtCore *core)
{
    for (UvtBox *box = core->boxes; box != NULL; box = box->next) {
        if (box->uv.handle.type == UV_PROCESS && uvt_process_untold(box)
            && !uv_is_closing(&box->uv.handle)) {
            return box;
        }
    }
    return NULL;
}

/* Without children that somebody wants to hear of SIGCHLD is not libuv's. */
static void
update(UvtCore *core)
{
    UvtChildren *children = core->children;
    const UvtChild *child = children->first;
    while (child != NULL && child->box == NULL) {
        child = child->next;
    }
    if (child != NULL) {
        return;
    }
    if (children->first == NULL) {
        (void)uv_timer_stop(&children->asking);
    }
    uvt_signal_unwatch(&core->uv.child_watcher);
    if (children->ignored) {
        struct sigaction now;
        children->ignored = false;
        if (sigaction(SIGCHLD, NULL, &now) == 0 && now.sa_handler == SIG_DFL) {
            (void)sigaction(SIGCHLD, &children->before, NULL);
        }
    }
}

/* A callback can do anything, even close processes whose ends are not told: so
 * the walk starts again after each. */
static void
on_after_poll(uv_check_t *uv)
{
    UvtCore *core = uv->loop->data;
    UvtBox *box;
    (void)uv_check_stop(uv);
    if (core->forked) {
        return;         /* They are the parent's children. */
    }
    uvt_signals_look(core);     /* Those come first. */
    if (core->forked || core->lost || core->children == NULL) {
        return;
    }
    reap(core);
    sort_out(core->children);
    update(core);
    while ((box = find_ended(core)) != NULL) {
        uvt_process_tell(box);
    }
}

void
uvt_children_look(UvtCore *core)
{
    UvtChildren *children = core->children;
    if (children != NULL && uv_is_active((uv_handle_t *)&children->after_poll)) {
        on_after_poll(&children->after_poll);
    }
}

static void
on_asking(uv_timer_t *uv)
{
    UvtCore *core = uv->loop->data;
    UvtChildren *children = uv->data;
    if (core->forked) {
        return;
    }
    children->delay = children->delay < LONGEST_DELAY / 2 ? 2 * children->delay
                                                          : LONGEST_DELAY;
    for (UvtChild *child = children->first; child != NULL; child = child->next) {
        if (child->fd < 0 || !uv_is_active((uv_handle_t *)&child->poll.uv)) {
            (void)uv_timer_start(uv, on_asking, children->delay, 0);
            break;
        }
    }
    on_after_poll(&children->after_poll);
}

/* ---- the beginning ---- */

int
uvt_children_prepare(UvtLoop *loop)
{
    UvtCore *core = loop->core;
    UvtChildren *children = core->children;
    int rc = uvt_guard_own_fds(core) ? uvt_siglock_check(loop->st) : UV_EBADF;
    if (rc < 0) {
        uvt_raise(loop->st, UVT_EXC_PROCESS, rc, "uv_spawn");
        return -1;
    }
    uvt_graves_reap(loop->graves);
    reap_seen(core);
    if (children == NULL) {
        children = PyMem_RawCalloc(1, sizeof(UvtChildren));
        if (children == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        (void)uv_check_init(&core->uv, &children->after_poll);
        (void)uv_timer_init(&core->uv, &children->asking);
        children->asking.data = children->after_poll.data = children;
        children->open = 2;
        uv_unref((uv_handle_t *)&children->asking);
        uv_unref((uv_handle_t *)&children->after_poll);
        core->children = children;
    }
    if (children->spare == NULL) {
        children->spare = PyMem_RawCalloc(1, sizeof(UvtChild));
    }
    if (children->spare == NULL || uvt_sigchld_begin(core, &children->foreign) < 0) {
        PyErr_NoMemory();
        return -1;
    }
    return 0;
}

void
uvt_children_watch(UvtCore *core)
{
    uvt_sigchld_watch(core, core->children->foreign);
}

/* libuv has put its own handler in the place of what was there.  A function of the
 * program's is put back, and called for what has come meanwhile.  Where SIGCHLD is
 * ignored the system would keep no status: libuv's stays as long as a child runs. */
static void
give_back_sigchld(UvtCore *core, const struct sigaction *before)
{
    UvtChildren *children = core->children;
    if (before->sa_handler == SIG_ERR
        || (before->sa_handler == SIG_DFL && !(before->sa_flags & SA_NOCLDWAIT))) {
        return;
    }
    if (before->sa_handler == SIG_IGN || (before->sa_flags & SA_NOCLDWAIT)) {
        children->ignored = true;
        children->before = *before;
        return;
    }
    uvt_sigchld_put_back(before);
    if (uvt_sigchld_pending(core)) {
        (void)kill(getpid(), SIGCHLD);
    }
}

void
uvt_child_begin(UvtLoop *loop, UvtBox *box, const struct sigaction *before)
{
    UvtCore *core = loop->core;
    UvtChildren *children = core->children;
    UvtChild *self = children->spare;
    bool watched;
    children->spare = NULL;
    if (core->uv.child_watcher.signal_cb != on_sigchld) {
        children->libuv_cb = core->uv.child_watcher.signal_cb;
        core->uv.child_watcher.signal_cb = on_sigchld;
    }
    self->pid = uv_process_get_pid((uv_process_t *)&box->uv);
    self->fd = -1;
    self->box = box;
    self->next = children->first;
    if (self->next != NULL) {
        self->next->prev = self;
    }
    children->first = self;
    as_process(box)->child = self;
    give_back_sigchld(core, before);
    uvt_sigchld_install(children->foreign);
    uvt_low_take(loop->st);
    watched = watch(core, self);
    uvt_low_give(loop->st);
    if (!watched) {
        ask_for_it(children);
    }
}

/* ---- what is closed ---- */

void
uvt_child_close(UvtBox *box)
{
    UvtCore *core = box->uv.handle.loop->data;
    UvtChild *child = as_process(box)->child;
    if (child != NULL) {
        as_process(box)->child = NULL;
        child->box = NULL;
    }
    if (as_process(box)->unreaped) {
        (void)is_over(as_process(box)->uv.pid);
    }
    if (core->children != NULL) {
        update(core);
    }
}

static void
on_children_closed(uv_handle_t *uv)
{
    UvtChildren *children = uv->data;
    if (--children->open == 0) {
        PyMem_RawFree(children);
    }
}

static void
add_stray(UvtGraves *graves, int pid)
{
    struct UvtStray *stray = PyMem_RawMalloc(sizeof(struct UvtStray));
    if (stray == NULL) {
        return;
    }
    stray->pid = pid;
    UVT_MUTEX_LOCK(graves->mutex);
    stray->next = graves->strays;
    graves->strays = stray;
    UVT_MUTEX_UNLOCK(graves->mutex);
}

void
uvt_strays_reap(UvtGraves *graves)
{
    struct UvtStray **link;
    UVT_MUTEX_LOCK(graves->mutex);
    link = &graves->strays;
    while (*link != NULL) {
        struct UvtStray *stray = *link;
        if (is_over(stray->pid)) {
            *link = stray->next;
            PyMem_RawFree(stray);
        }
        else {
            link = &stray->next;
        }
    }
    UVT_MUTEX_UNLOCK(graves->mutex);
}

void
uvt_children_free(UvtGraves *graves, UvtCore *core)
{
    UvtChildren *children = core->children;
    if (children == NULL) {
        return;
    }
    while (children->first != NULL) {
        int pid = children->first->pid;
        end_watch(children, children->first);
        if (!is_over(pid)) {
            add_stray(graves, pid);
        }
    }
    update(core);
    PyMem_RawFree(children->spare);
    core->children = NULL;
    uv_close((uv_handle_t *)&children->asking, on_children_closed);
    uv_close((uv_handle_t *)&children->after_poll, on_children_closed);
}

/* A pidfd is of no kind, or a regular file on newer systems. */
void
uvt_children_abandon(UvtCore *core)
{
    UvtChild *child = core->children != NULL ? core->children->first : NULL;
    for (; child != NULL; child = child->next) {
        uvt_fork_close(child->fd, 0);
        uvt_fork_close(child->fd, S_IFREG);
    }
}
