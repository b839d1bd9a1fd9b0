/* Signals, from the process's handler to the handles of the loops.  libuv's own handler
 * writes a message for each handle into a pipe of its loop: it forgets the signal when
 * that is full, aborts when it is closed, and writes into whatever has its number by
 * then.  So libuv keeps the list of handles only.  The handler that the process really
 * has is one of this file: it numbers the deliveries, notes them in a ring, and wakes
 * each loop that waits for the signal, if the loop's epoll and eventfd are still its
 * own.  After each poll a loop reads what is new in the ring.
 *
 * The ring and the list of loops are of the process, as its signal handlers are: the
 * only mutable data of the module that belongs to no interpreter.  They are atomic.
 * on_delivery() runs in any thread between any two instructions; the rest runs on the
 * loop's thread.
 */
#include "guards.h"
#include "process.h"
#include "signals.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SIGNALS 128
/* As many as libuv's pipe holds. */
#define RING 4096
#define NUMBER_BITS (ULONG_MAX >> 8)

/* A loop that waits for signals.  Never freed: on_delivery() may be looking at it. */
struct UvtSignalNode {
    struct UvtSignalNode *next;         /* as it was made */
    atomic_bool used;
    _Atomic pid_t pid;                  /* of the loop's process */
    atomic_int epoll_fd, event_fd;
    atomic_bool watched[SIGNALS];
};

typedef struct UvtSignalNode Node;

/* Deliveries that have begun, which gives each its number, and that have ended. */
static atomic_ulong begun, ended;
/* Of each delivery its number and its signal. */
static atomic_ulong ring[RING];
/* The number of the last delivery of each signal, plus 1. */
static atomic_ulong latest[SIGNALS];
static _Atomic(Node *) nodes;

/* ---- the handler ---- */

static void
note(int signum, unsigned long number)
{
    unsigned long before = latest[signum];
    ring[number % RING] = (number << 8) | (unsigned long)signum;
    while ((long)(number + 1 - before) > 0
           && !atomic_compare_exchange_weak(&latest[signum], &before, number + 1)) {
        /* Another thread has come between. */
    }
}

/* A child of a fork shares the descriptors with its parent: what comes there is noted
 * only, for a loop that the child goes on with. */
static void
on_delivery(int signum)
{
    int saved = errno;
    pid_t pid = getpid();
    note(signum, begun++);
    for (Node *node = nodes; node != NULL; node = node->next) {
        if (node->watched[signum] && node->pid == pid) {
            uvt_guard_wake(node->epoll_fd, node->event_fd);
        }
    }
    ended++;
    errno = saved;
}

/* ---- the list of loops ---- */

static Node *
take_node(void)
{
    Node *node;
    for (node = nodes; node != NULL; node = node->next) {
        bool used = false;
        if (atomic_compare_exchange_strong(&node->used, &used, true)) {
            return node;
        }
    }
    node = calloc(1, sizeof(*node));
    if (node != NULL) {
        node->used = true;
        node->next = nodes;
        while (!atomic_compare_exchange_weak(&nodes, &node->next, node)) {
            /* Another thread has made one, too. */
        }
    }
    return node;
}

static bool
anyone_watches(int signum)
{
    for (Node *node = nodes; node != NULL; node = node->next) {
        if (node->watched[signum]) {
            return true;
        }
    }
    return false;
}

/* Nobody is in the middle of a delivery that has seen what was there before.  One takes
 * a few system calls; in the child of a fork it may be that of a thread that is not
 * there. */
static void
let_deliveries_end(void)
{
    for (int tries = 0; begun != ended && tries < 10000; tries++) {
        (void)sched_yield();
    }
}

/* A signal that no loop waits for any more, and whose handles libuv could not be told
 * to stop, has its default action again. */
static void
give_node(UvtCore *core)
{
    Node *node = core->signal_node;
    struct sigaction action;
    core->signal_node = NULL;
    for (int signum = 1; node != NULL && signum < SIGNALS; signum++) {
        bool was = atomic_exchange(&node->watched[signum], false);
        if (was && !core->forked && !anyone_watches(signum)
            && sigaction(signum, NULL, &action) == 0
            && action.sa_handler == on_delivery) {
            (void)signal(signum, SIG_DFL);
        }
    }
    if (node != NULL) {
        let_deliveries_end();
        node->used = false;
    }
}

static bool
core_watches(const UvtCore *core, int signum)
{
    if (core->uv.child_watcher.signum == signum) {
        return true;
    }
    for (const UvtBox *box = core->boxes; box != NULL; box = box->next) {
        if (box->uv.handle.type == UV_SIGNAL && box->uv.signal.signum == signum) {
            return true;
        }
    }
    return false;
}

static void
watch_again(UvtCore *core, int signum)
{
    if (core->signal_node != NULL) {
        core->signal_node->watched[signum] = core_watches(core, signum);
    }
}

/* ---- what the process has ---- */

/* A handler in libuv's library: that has only one. */
static bool
is_libuv(const struct sigaction *action)
{
    Dl_info ours, found;
    void *handler, *function;
    int (*start)(uv_signal_t *, uv_signal_cb, int) = uv_signal_start;
    if (action->sa_handler == SIG_DFL || action->sa_handler == SIG_IGN
        || (action->sa_flags & SA_SIGINFO)) {
        return false;
    }
    memcpy(&handler, &action->sa_handler, sizeof(handler));
    memcpy(&function, &start, sizeof(function));
    return dladdr(handler, &found) != 0 && dladdr(function, &ours) != 0
        && found.dli_fbase == ours.dli_fbase;
}

static void
on_idle(uv_idle_t *Py_UNUSED(uv))
{
}

static bool
is_known(const struct sigaction *action)
{
    return action->sa_handler == on_delivery || is_libuv(action);
}

/* Another user of libuv's library has the signal: then libuv's handler stays, which
 * tells our handles, too. */
static bool
is_foreign(int signum)
{
    struct sigaction action;
    return !anyone_watches(signum) && sigaction(signum, NULL, &action) == 0
        && is_libuv(&action);
}

/* libuv has a handle for the signal: whatever is installed gives way to ours. */
static void
install(int signum)
{
    struct sigaction action;
    memset(&action, 0, sizeof(action));
    (void)sigfillset(&action.sa_mask);
    action.sa_handler = on_delivery;
    action.sa_flags = SA_RESTART;
    (void)sigaction(signum, &action, NULL);
}

int
uvt_signal_watch(uv_signal_t *uv, uv_signal_cb cb, int signum)
{
    UvtBox *box = uv->data;
    UvtCore *core = uv->loop->data;
    bool fresh = uv->signum != signum, foreign;
    int rc;
    if (fresh) {
        uvt_signal_unwatch(uv);
    }
    if (signum <= 0 || signum >= SIGNALS) {
        return UV_EINVAL;
    }
    foreign = is_foreign(signum);
    core->signal_node->watched[signum] = true;
    if (fresh) {
        box->signals_seen = begun;
    }
    rc = uv_signal_start(uv, cb, signum);
    if (rc < 0) {
        watch_again(core, signum);
    }
    else if (!foreign) {
        install(signum);
    }
    return rc;
}

/* libuv puts the default action in the place of any handler. */
void
uvt_signal_unwatch(uv_signal_t *uv)
{
    UvtCore *core = uv->loop->data;
    struct sigaction before;
    int signum = uv->signum;
    bool theirs = signum != 0 && sigaction(signum, NULL, &before) == 0
        && !is_known(&before);
    if (signum != 0 && core->owner != NULL
        && uvt_siglock_check(core->owner->st) < 0) {
        uvt_guard_give_up(core);
        return;
    }
    (void)uv_signal_stop(uv);
    if (theirs) {
        (void)sigaction(signum, &before, NULL);
    }
    if (signum > 0 && signum < SIGNALS) {
        watch_again(core, signum);
    }
}

/* ---- telling the handles ---- */

/* A callback may close any of them: their boxes stay until libuv's next phase. */
static void
tell_handles(UvtCore *core, int signum, unsigned long number)
{
    for (UvtBox *box = core->boxes; box != NULL; box = box->next) {
        uv_signal_t *uv = &box->uv.signal;
        if (box->uv.handle.type != UV_SIGNAL || uv_is_closing(&box->uv.handle)
            || uv->signum != signum || (long)(number - box->signals_seen) < 0) {
            continue;
        }
        box->signals_seen = number + 1;
        uv->signal_cb(uv, signum);
        if (core->forked || core->lost || core->owner == NULL) {
            return;
        }
    }
}

static void
tell(UvtCore *core, int signum, unsigned long number)
{
    uv_signal_t *child_watcher = &core->uv.child_watcher;
    if (!core->signal_node->watched[signum]) {
        return;
    }
    if (child_watcher->signum == signum) {
        child_watcher->signal_cb(child_watcher, signum);
    }
    tell_handles(core, signum, number);
}

/* So many that the ring has not all of them: one call for each signal.  The ends of
 * children are seen without SIGCHLD (children.c), each by itself. */
static void
tell_latest(UvtCore *core, unsigned long seen)
{
    for (int signum = 1; signum < SIGNALS; signum++) {
        unsigned long last = latest[signum];
        if ((long)(last - seen) > 0 && core->signal_node != NULL
            && core->signal_node->watched[signum]) {
            tell_handles(core, signum, last - 1);
        }
    }
}

/* After a poll.  A delivery that another thread is in the middle of has no entry yet:
 * then the next poll does not wait, and the look after it sees. */
void
uvt_signals_look(UvtCore *core)
{
    unsigned long end = begun, number = core->signals_seen;
    bool under_way = false;
    if (number == end && !uv_is_active((uv_handle_t *)&core->signals_idle)) {
        return;
    }
    if (core->owner == NULL || core->forked || core->lost) {
        return;
    }
    uvt_loop_attach(core->owner);
    while (number != end && !under_way) {
        unsigned long entry = ring[number % RING];
        if (begun - number >= RING) {
            core->signals_seen = end;
            tell_latest(core, number);
            break;
        }
        under_way = (entry >> 8) != (number & NUMBER_BITS);
        if (!under_way) {
            core->signals_seen = ++number;
            tell(core, (int)(entry & 0xff), number - 1);
        }
        if (core->forked || core->lost || core->signal_node == NULL) {
            return;
        }
    }
    if (under_way) {
        (void)uv_idle_start(&core->signals_idle, on_idle);
    }
    else {
        (void)uv_idle_stop(&core->signals_idle);
    }
}

static void
on_after_poll(uv_check_t *uv)
{
    UvtCore *core = uv->loop->data;
    uvt_signals_look(core);
    uvt_children_look(core);    /* SIGCHLD may have told of some in this turn. */
}

int
uvt_signals_begin(UvtCore *core)
{
    if (core->signal_node == NULL) {
        Node *node = take_node();
        if (node == NULL) {
            return UV_ENOMEM;
        }
        node->epoll_fd = core->uv.backend_fd;
        node->event_fd = core->uv.async_io_watcher.fd;
        core->signal_node = node;
        core->signals_seen = begun;
        node->pid = getpid();
    }
    if (!core->counts_signals) {
        core->counts_signals = true;
        (void)uv_idle_init(&core->uv, &core->signals_idle);
        (void)uv_check_init(&core->uv, &core->signals_check);
        (void)uv_check_start(&core->signals_check, on_after_poll);
        uv_unref((uv_handle_t *)&core->signals_idle);
        uv_unref((uv_handle_t *)&core->signals_check);
    }
    return 0;
}

void
uvt_signals_end(UvtCore *core)
{
    give_node(core);
    if (core->counts_signals
        && !uv_is_closing((uv_handle_t *)&core->signals_idle)) {
        uv_close((uv_handle_t *)&core->signals_idle, NULL);
        uv_close((uv_handle_t *)&core->signals_check, NULL);
    }
}

/* The numbers of its descriptors may be anybody's: nobody is woken for the loop, and
 * libuv forgets its handles. */
void
uvt_signals_lost(UvtCore *core)
{
    for (UvtBox *box = core->boxes; box != NULL; box = box->next) {
        if (box->uv.handle.type == UV_SIGNAL && !uv_is_closing(&box->uv.handle)) {
            uvt_signal_unwatch(&box->uv.signal);
        }
    }
    uvt_signal_unwatch(&core->uv.child_watcher);
    give_node(core);
}

/* ---- a fork ---- */

/* No other thread is in the middle of a delivery here.  What has come before is the
 * parent's to tell. */
void
uvt_signals_forked(UvtCore *core)
{
    ended = (unsigned long)begun;
    give_node(core);
    core->signals_seen = begun;
}

static void
forget_messages(uv_signal_t *uv)
{
    uv->caught_signals = uv->dispatched_signals = 0;
}

/* libuv closes a handle only when it has read all its messages, which are in the
 * parent's pipe. */
int
uvt_signals_adopt(UvtCore *core)
{
    unsigned long seen = core->signals_seen;
    forget_messages(&core->uv.child_watcher);
    for (UvtBox *box = core->boxes; box != NULL; box = box->next) {
        if (box->uv.handle.type == UV_SIGNAL) {
            forget_messages(&box->uv.signal);
        }
    }
    if (!core->counts_signals) {
        return 0;
    }
    if (uvt_signals_begin(core) < 0) {
        return UV_ENOMEM;
    }
    core->signals_seen = seen;
    for (int signum = 1; signum < SIGNALS; signum++) {
        watch_again(core, signum);
    }
    (void)uv_idle_start(&core->signals_idle, on_idle);      /* It looks at once. */
    return 0;
}

/* ---- SIGCHLD ---- */

void
uvt_sigchld_save(struct sigaction *before)
{
    if (sigaction(SIGCHLD, NULL, before) < 0 || is_known(before)) {
        memset(before, 0, sizeof(*before));
        before->sa_handler = SIG_ERR;
    }
}

/* Before a child is started, and when libuv has installed its own handler. */
int
uvt_sigchld_begin(UvtCore *core, bool *foreign)
{
    int rc = uvt_signals_begin(core);
    if (rc == 0) {
        *foreign = is_foreign(SIGCHLD);
        core->signal_node->watched[SIGCHLD] = true;
    }
    return rc;
}

static void
on_nothing(uv_signal_t *Py_UNUSED(uv), int Py_UNUSED(signum))
{
}

/* libuv would install its own handler for the first child, which may have ended before
 * that gives way to ours.  It leaves what is started alone but for the callback. */
void
uvt_sigchld_watch(UvtCore *core, bool foreign)
{
    uv_signal_t *watcher = &core->uv.child_watcher;
    if (watcher->signum == 0 && uv_signal_start(watcher, on_nothing, SIGCHLD) == 0) {
        uvt_sigchld_install(foreign);
    }
}

void
uvt_sigchld_install(bool foreign)
{
    struct sigaction action;
    if (!foreign && sigaction(SIGCHLD, NULL, &action) == 0 && is_libuv(&action)) {
        install(SIGCHLD);
    }
}

/* One has come that the loop has not looked at. */
bool
uvt_sigchld_pending(const UvtCore *core)
{
    const uv_signal_t *watcher = &core->uv.child_watcher;
    return watcher->caught_signals != watcher->dispatched_signals
        || (long)(latest[SIGCHLD] - core->signals_seen) > 0;
}

void
uvt_sigchld_put_back(const struct sigaction *before)
{
    if (before->sa_handler != SIG_ERR) {
        (void)sigaction(SIGCHLD, before, NULL);
    }
}
