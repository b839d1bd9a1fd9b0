/* Loops in a forked child.  They are the parent's: the two processes share one
 * epoll, one set of sockets, one position in each stream.  So from the fork on
 * libuv is not called for them any more, every use raises RuntimeError, and what
 * is left of a run that the fork happened in does nothing.  All functions run
 * attached; the module's state has a list of its open loops, which they join and
 * leave.
 *
 * The memory of such a loop is given up, not freed: libuv's own structures may
 * be in any state, and pages that nobody writes to stay shared.
 */
#include "fork.h"
#include "consumer.h"
#include "fswatch.h"
#include "guards.h"
#include "process.h"
#include "signals.h"
#include "task.h"

#include <limits.h>
#include <sys/epoll.h>
#include <unistd.h>

/* ---- the list ---- */

void
uvt_fork_join(UvtLoop *loop)
{
    UvtState *st = loop->st;
    UVT_MUTEX_LOCK(st->mutex);
    loop->prev = NULL;
    loop->next = st->loops;
    if (loop->next != NULL) {
        loop->next->prev = loop;
    }
    st->loops = loop;
    UVT_MUTEX_UNLOCK(st->mutex);
}

void
uvt_fork_leave(UvtLoop *loop)
{
    UVT_MUTEX_LOCK(loop->st->mutex);
    if (loop->prev != NULL) {
        loop->prev->next = loop->next;
    }
    else {
        loop->st->loops = loop->next;
    }
    if (loop->next != NULL) {
        loop->next->prev = loop->prev;
    }
    loop->prev = loop->next = NULL;
    UVT_MUTEX_UNLOCK(loop->st->mutex);
}

/* ---- a fork inside of uv_run ---- */

/* Empties a queue of libuv's, or takes an entry out of one. */
static void
unlink_queue(void *entry)
{
    void **queue = entry, **next = queue[0], **prev = queue[1];
    prev[0] = next;
    next[1] = prev;
    queue[0] = queue[1] = queue;
}

/* What libuv still does for the handle whose callback has forked ends when it
 * has no descriptor: it would accept, read or write in the child.  Without one
 * libuv aborts when it comes to a handle that has done writing, so none waits for
 * that any more.  What is closing is in no queue and has no descriptor. */
static void
disarm(UvtBox *box)
{
    uv__io_t *watcher = uvt_box_watcher(box);
    if (watcher == NULL || uv_is_closing(&box->uv.handle)) {
        return;
    }
    unlink_queue(&watcher->pending_queue);
    if (watcher->fd >= 0) {
        box->hidden_fd = watcher->fd + 1;
        watcher->fd = -1;
    }
}

/* An epoll of the child's own, under the same number, unless that is not the loop's
 * any more. */
static void
replace_epoll(UvtCore *core)
{
    uv_loop_t *uv = &core->uv;
    int fd;
    if (!uvt_guard_intact(core)) {
        uv->backend_fd = -1;
        return;
    }
    fd = epoll_create1(EPOLL_CLOEXEC);
    if (fd < 0) {
        /* No number is left: use that one. */
        (void)close(uv->backend_fd);
        fd = epoll_create1(EPOLL_CLOEXEC);
    }
    if (fd >= 0 && fd != uv->backend_fd) {
        (void)dup3(fd, uv->backend_fd, O_CLOEXEC);
        (void)close(fd);
    }
}

/* The call of uv_run that the fork happened in goes on in the child, until it
 * returns to uvt_loop_turn: it is to find no watcher, nothing to register or to
 * tell, and a loop that was stopped. */
static void
end_turn(UvtCore *core)
{
    uv_loop_t *uv = &core->uv;
    replace_epoll(core);
    for (unsigned i = 0; i < uv->nwatchers; i++) {
        uv->watchers[i] = NULL;
    }
    unlink_queue(&uv->watcher_queue);
    for (UvtBox *box = core->boxes; box != NULL; box = box->next) {
        disarm(box);
    }
    uv_stop(uv);
}

/* ---- the fork ---- */

static void
become_child(UvtLoop *loop)
{
    UvtCore *core = loop->core;
    bool here = loop->thread_id == PyThread_get_thread_ident();

    core->forked = true;
    core->owner = NULL;         /* no callback comes through any more */
    /* What this thread was running comes back to an end of the run. */
    loop->running_in_child = here && loop->thread_id != 0;
    core->torn = loop->thread_id != 0;
    loop->thread_id = PYTHREAD_INVALID_THREAD_ID;
    loop->detached = NULL;
    if (loop->in_poll && here) {
        end_turn(core);
    }
    uvt_signals_forked(core);
    uvt_wakeup_forked(loop);
    if (loop->hooks != NULL) {
        UVT_TELL_HOOKS(loop, forked, owner);
    }
}

bool
uvt_fork_is_child(UvtLoop *loop)
{
    UvtCore *core = loop->core;
    if (!core->forked && core->pid != getpid()) {
        become_child(loop);
    }
    return core->forked;
}

void
uvt_fork_raise(void)
{
    PyErr_SetString(PyExc_RuntimeError,
                    "the loop belongs to the parent process: after a fork() the "
                    "child has to make its own");
}

#ifdef Py_GIL_DISABLED
/* This thread has the mutex, by a critical section that is not suspended. */
static bool
has_section_of(const PyMutex *mutex)
{
    uintptr_t top = PyThreadState_Get()->critical_section;
    while (top != 0 && (top & 1) == 0) {
        const PyCriticalSection *section = (PyCriticalSection *)(top & ~(uintptr_t)3);
        if (section->_cs_mutex == mutex
            || ((top & 2)
                && ((const PyCriticalSection2 *)section)->_cs_mutex2 == mutex)) {
            return true;
        }
        top = section->_cs_prev;
    }
    return false;
}

/* Another thread, which this process has not, may have had the locks. */
static void
free_lock(UvtLoop *loop)
{
    PyMutex *mutex = &loop->lock->ob_mutex;
    if (!has_section_of(mutex)) {
        *mutex = (PyMutex){0};
    }
}
#else
#define free_lock(loop) ((void)0)
#endif

static PyObject *
after_fork(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    UvtState *st = uvt_state(module);
    UvtLoop *loop, *next;
    UVT_MUTEX_INIT(st->mutex);
    UVT_MUTEX_INIT(st->graves->mutex);
    uvt_low_after_fork(st);
    uvt_siglock_after_fork(st);
    for (loop = st->loops; loop != NULL; loop = loop->next) {
        free_lock(loop);
    }
    loop = st->loops;
    st->graves->first = NULL;
    st->graves->strays = NULL;
    Py_XINCREF(loop);
    while (loop != NULL) {
        (void)uvt_fork_is_child(loop);
        next = (UvtLoop *)Py_XNewRef(loop->next);
        Py_DECREF(loop);
        loop = next;
    }
    Py_RETURN_NONE;
}

static PyObject *
before_fork(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    uvt_low_take(uvt_state(module));
    Py_RETURN_NONE;
}

static PyObject *
after_fork_in_parent(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    uvt_low_give(uvt_state(module));
    Py_RETURN_NONE;
}

static PyMethodDef fork_defs[] = {
    {"_before_fork", before_fork, METH_NOARGS,
     "_before_fork($module, /)\n--\n\nKeep libuv from descriptors 0 to 2."},
    {"_after_fork_in_parent", after_fork_in_parent, METH_NOARGS,
     "_after_fork_in_parent($module, /)\n--\n\nGive those free again."},
    {"_after_fork", after_fork, METH_NOARGS,
     "_after_fork($module, /)\n--\n\nGive up the parent's loops in a child."},
};

int
uvt_fork_setup(PyObject *module)
{
    PyObject *os = PyImport_ImportModule("os"), *result = NULL;
    PyObject *call = NULL, *args = NULL, *kwds = NULL;
    if (os == NULL) {
        return -1;
    }
    call = PyObject_GetAttrString(os, "register_at_fork");
    args = PyTuple_New(0);
    kwds = Py_BuildValue("{s:N,s:N,s:N}",
                         "before", PyCFunction_New(&fork_defs[0], module),
                         "after_in_parent", PyCFunction_New(&fork_defs[1], module),
                         "after_in_child", PyCFunction_New(&fork_defs[2], module));
    if (call != NULL && args != NULL && kwds != NULL) {
        result = PyObject_Call(call, args, kwds);
    }
    Py_XDECREF(kwds);
    Py_XDECREF(args);
    Py_XDECREF(call);
    Py_DECREF(os);
    Py_XDECREF(result);
    return result != NULL ? 0 : -1;
}

/* ---- a loop that the child goes on with ---- */

/* No thread of the child works on the requests, and those that are done in the
 * parent are told there. */
static void
give_up_jobs(UvtCore *core)
{
    void **done = (void **)&core->uv.wq;
    done[0] = done[1] = done;
    uvt_jobs_release(core);
    for (const UvtJob *job = core->jobs; job != NULL; job = job->next) {
        core->uv.active_reqs.count--;
    }
    core->jobs = NULL;
}

int
uvt_fork_adopt(UvtLoop *loop)
{
    UvtCore *core = loop->core;
    struct UvtRestart *restart;
    int rc, again;
    core->forked = false;
    core->pid = getpid();
    core->owner = loop;
    loop->thread_id = 0;
    if (!uvt_guard_own_fds(core)) {
        core->forked = true;    /* libuv would close the numbers. */
        return UV_EBADF;
    }
    restart = uvt_inotify_put_off(core);
    uvt_low_take(loop->st);
    rc = uvt_reserve_fill(PATH_MAX + 1);    /* for the name of a watched file */
    if (rc == 0) {
        core->ring_fd = -1;     /* libuv makes another, if any. */
        rc = uv_loop_fork(&core->uv);
    }
    if (rc == 0) {
        rc = uvt_guard_watch_own(core);
    }
    uvt_reserve_empty();
    again = uvt_inotify_restart(core, restart);
    uvt_low_give(loop->st);
    rc = rc < 0 ? rc : again;
    again = uvt_signals_adopt(core);
    rc = rc < 0 ? rc : again;
    give_up_jobs(core);
    uvt_wakeup_free(loop);      /* its descriptors are the parent's, too */
    return rc;
}

/* ---- the end ---- */

void
uvt_fork_close(int fd, mode_t kind)
{
    struct stat st;
    if (fd >= 0 && fstat(fd, &st) == 0 && (st.st_mode & S_IFMT) == kind) {
        (void)close(fd);
    }
}

static void
close_inherited(UvtBox *box)
{
    const uv__io_t *watcher = uvt_box_watcher(box);
    int own = box->hidden_fd > 0 ? box->hidden_fd - 1
            : watcher != NULL ? watcher->fd : -1;
    uvt_fork_close(own, box->uv.handle.type == UV_TTY ? S_IFCHR : S_IFSOCK);
    if (box->uv.handle.type == UV_NAMED_PIPE) {
        uvt_fork_close(own, S_IFIFO);
    }
}

void
uvt_fork_abandon(UvtCore *core)
{
    uv_loop_t *uv = &core->uv;
    for (UvtBox *box = core->boxes; box != NULL; box = box->next) {
        if (!core->lost) {
            close_inherited(box);
        }
        if (box->owner != NULL) {
            box->owner->box = NULL;
            box->owner = NULL;
        }
    }
    if (core->lost) {
        return;     /* Nobody can tell whose the numbers are by now. */
    }
    uvt_children_abandon(core);
    uvt_fork_close(uv->backend_fd, 0);            /* no kind: epoll, eventfd */
    uvt_fork_close(uv->async_io_watcher.fd, 0);
    uvt_fork_close(uv->signal_pipefd[0], S_IFIFO);
    uvt_fork_close(uv->signal_pipefd[1], S_IFIFO);
    uvt_fork_close(uv->emfile_fd, S_IFCHR);
    uvt_fork_close(uv->inotify_fd, 0);
}
