/* Signals in a storm.  libuv's handler writes a message for each handle into a pipe
 * of its loop, and forgets the signal when that is full.  So the handler that the
 * process really has is one of this file, which counts and then calls libuv's; and
 * before each poll a loop looks for handles whose signal has come since they were
 * last called, and that libuv has nothing more for.
 *
 * The counts are of the process, as its signal handlers are: the only mutable data of
 * the module that belongs to no interpreter.  They are atomic.  on_delivery() runs in
 * any thread between any two instructions; the rest runs on the loop's thread.
 */
#include "guards.h"
#include "signals.h"

#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#define SIGNALS 128
/* As many as libuv's pipe holds; a callback that sends its own signal stays in
 * libuv's loop over it without an end. */
#define MOST_IN_A_TURN 4096

typedef void Handler(int signum);

/* Deliveries that have begun and that have ended, of each signal and of all. */
static atomic_uint begun[SIGNALS], ended[SIGNALS];
static atomic_uint all_begun, all_ended;
static _Atomic(Handler *) libuv_handler;
/* The process whose loops they are for. */
static _Atomic pid_t home;

/* ---- the handler ---- */

/* A child of a fork shares the pipes with its parent: what comes there is counted
 * only, for a loop that the child goes on with. */
static void
on_delivery(int signum)
{
    int saved = errno;
    Handler *next = libuv_handler;
    all_begun++;
    begun[signum]++;
    if (next != NULL && home == getpid()) {
        next(signum);
    }
    ended[signum]++;
    all_ended++;
    errno = saved;
}

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

static bool
is_known(const struct sigaction *action)
{
    return action->sa_handler == on_delivery || is_libuv(action);
}

/* libuv has a handle for the signal: whatever is installed gives way to ours. */
static void
install(int signum)
{
    struct sigaction action;
    if (sigaction(signum, NULL, &action) < 0 || action.sa_handler == on_delivery) {
        return;
    }
    if (is_libuv(&action)) {
        libuv_handler = action.sa_handler;
    }
    else if (libuv_handler == NULL) {
        return;
    }
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
    bool fresh = uv->signum != signum;
    int rc;
    if (fresh) {
        uvt_signal_unwatch(uv);
    }
    if (signum >= SIGNALS) {
        return UV_EINVAL;
    }
    if (fresh && signum > 0) {
        box->signals_seen = begun[signum];
    }
    rc = uv_signal_start(uv, cb, signum);
    if (rc == 0) {
        home = getpid();
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
}

/* ---- what was lost ---- */

bool
uvt_signal_told(UvtBox *box)
{
    UvtCore *core = box->uv.handle.loop->data;
    if (core->signals_in_turn == MOST_IN_A_TURN) {
        return false;
    }
    core->signals_in_turn++;
    box->signals_seen = begun[box->uv.signal.signum];
    return true;
}

static void
on_idle(uv_idle_t *Py_UNUSED(uv))
{
}

void
uvt_signals_begin(UvtCore *core)
{
    if (!core->counts_signals) {
        core->counts_signals = true;
        core->signals_seen = all_ended - 1;
        (void)uv_idle_init(&core->uv, &core->signals_idle);
        uv_unref((uv_handle_t *)&core->signals_idle);
    }
}

void
uvt_signals_end(UvtCore *core)
{
    if (core->counts_signals
        && !uv_is_closing((uv_handle_t *)&core->signals_idle)) {
        uv_close((uv_handle_t *)&core->signals_idle, NULL);
    }
}

/* More deliveries have ended than had begun when the handle was last called, so one
 * has begun since, and there is no message left of it or of a later one. */
static bool
has_lost(const UvtBox *box)
{
    const uv_signal_t *uv = &box->uv.signal;
    return (int)(ended[uv->signum] - box->signals_seen) > 0
        && uv->caught_signals == uv->dispatched_signals;
}

/* Before a poll.  A delivery that another thread is in the middle of may just have
 * found the pipe full: then the poll does not wait, and the next look sees. */
void
uvt_signals_look(UvtCore *core)
{
    unsigned done = all_ended;
    bool under_way = all_begun != done;
    core->signals_in_turn = 0;
    if (under_way) {
        (void)uv_idle_start(&core->signals_idle, on_idle);
    }
    else if (uv_is_active((uv_handle_t *)&core->signals_idle)) {
        (void)uv_idle_stop(&core->signals_idle);
    }
    if (done == core->signals_seen) {
        return;
    }
    core->signals_seen = done;
    for (UvtBox *box = core->boxes; box != NULL; box = box->next) {
        uv_signal_t *uv = &box->uv.signal;
        if (box->uv.handle.type != UV_SIGNAL || uv_is_closing(&box->uv.handle)
            || uv->signum == 0) {
            continue;
        }
        if (has_lost(box)) {
            uv->signal_cb(uv, uv->signum);
        }
        else if (uv->caught_signals != uv->dispatched_signals) {
            core->signals_seen = done - 1;      /* It looks again next time. */
        }
    }
}

/* ---- a fork ---- */

/* No other thread is in the middle of a delivery here.  What has come before is the
 * parent's to tell. */
void
uvt_signals_forked(UvtCore *core)
{
    for (int i = 0; i < SIGNALS; i++) {
        ended[i] = begun[i];
    }
    all_ended = all_begun;
    for (UvtBox *box = core->boxes; box != NULL; box = box->next) {
        if (box->uv.handle.type == UV_SIGNAL) {
            box->signals_seen = begun[box->uv.signal.signum];
        }
    }
}

static void
forget_messages(uv_signal_t *uv)
{
    uv->caught_signals = uv->dispatched_signals = 0;
}

/* libuv closes a handle only when it has read all its messages, which are in the
 * parent's pipe. */
void
uvt_signals_adopt(UvtCore *core)
{
    home = getpid();
    core->signals_seen = all_ended - 1;
    forget_messages(&core->uv.child_watcher);
    for (UvtBox *box = core->boxes; box != NULL; box = box->next) {
        if (box->uv.handle.type == UV_SIGNAL) {
            forget_messages(&box->uv.signal);
        }
    }
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

void
uvt_sigchld_put_back(const struct sigaction *before)
{
    if (before->sa_handler != SIG_ERR) {
        (void)sigaction(SIGCHLD, before, NULL);
    }
}
