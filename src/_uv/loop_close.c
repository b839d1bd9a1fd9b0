/* Closing a loop: by Loop.close(), by a C consumer together with all handles,
 * and at the end of the object.  All functions run attached, while nobody runs
 * the loop.
 */
#include "errors.h"
#include "fork.h"
#include "fswatch.h"
#include "guards.h"
#include "pool.h"
#include "process.h"
#include "signals.h"
#include "task.h"

/* True when libuv was done with the core, which is then freed.  One whose descriptors
 * somebody has closed stays. */
static bool
try_free(UvtCore *core)
{
    for (int turns = 0; turns < 4; turns++) {
        if (!uvt_guard_own_fds(core)) {
            return false;
        }
        if (core->uses_pool) {
            uvt_pool_before_poll(core, false);
        }
        if (uv_run(&core->uv, UV_RUN_NOWAIT) == 0) {
            break;
        }
    }
    if (uv_loop_close(&core->uv) < 0) {
        return false;
    }
    PyMem_Free(core);
    return true;
}

int
uvt_graves_setup(UvtState *st)
{
    st->graves = PyMem_Calloc(1, sizeof(UvtGraves));
    if (st->graves == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    UVT_MUTEX_INIT(st->graves->mutex);
    st->graves->users = 1;
    return 0;
}

UvtGraves *
uvt_graves_use(UvtGraves *self)
{
    UVT_MUTEX_LOCK(self->mutex);
    self->users++;
    UVT_MUTEX_UNLOCK(self->mutex);
    return self;
}

/* A core that is left belongs to its threads for ever. */
void
uvt_graves_drop(UvtGraves *self)
{
    size_t left;
    uvt_graves_reap(self);
    UVT_MUTEX_LOCK(self->mutex);
    left = --self->users;
    UVT_MUTEX_UNLOCK(self->mutex);
    if (left == 0) {
        PyMem_Free(self);
    }
}

static void
bury(UvtGraves *graves, UvtCore *core)
{
    UVT_MUTEX_LOCK(graves->mutex);
    core->next_grave = graves->first;
    graves->first = core;
    UVT_MUTEX_UNLOCK(graves->mutex);
}

/* The list is taken first: what a finished request lets go of can run any
 * code, which may get here again. */
void
uvt_graves_reap(UvtGraves *self)
{
    UvtCore *core;
    uvt_strays_reap(self);
    UVT_MUTEX_LOCK(self->mutex);
    core = self->first;
    self->first = NULL;
    UVT_MUTEX_UNLOCK(self->mutex);
    while (core != NULL) {
        UvtCore *next = core->next_grave;
        if (!try_free(core)) {
            bury(self, core);
        }
        core = next;
    }
}

/* Closes what libuv still has without calling callbacks, then frees the core.
 * What waits for a thread is taken back.  A request that a pool thread works on
 * keeps the core, into which the thread will write: it is freed when another
 * loop is made or freed after that. */
static void
core_free(UvtGraves *graves, UvtCore *core)
{
    core->owner = NULL;
    uvt_jobs_release(core);
    uvt_jobs_cancel(core);
    for (UvtBox *box = core->boxes; box != NULL; box = box->next) {
        if (box->owner != NULL) {
            box->owner->box = NULL;
            box->owner = NULL;
        }
        uvt_box_close(box);
    }
    uvt_children_free(graves, core);
    uvt_signals_end(core);
    uvt_inotify_free(core);
    if (!uv_is_closing((uv_handle_t *)&core->before_poll)) {
        uv_close((uv_handle_t *)&core->before_poll, NULL);
    }
    uvt_graves_reap(graves);
    if (!try_free(core)) {
        bury(graves, core);
    }
}

/* libuv takes its lock of signals to end that. */
static bool
watches_signals(const UvtCore *core)
{
    if (core->uv.child_watcher.signum != 0) {
        return true;
    }
    for (const UvtBox *box = core->boxes; box != NULL; box = box->next) {
        if (box->uv.handle.type == UV_SIGNAL && box->uv.signal.signum != 0) {
            return true;
        }
    }
    return false;
}

void
uvt_loop_free_core(UvtLoop *self)
{
    UvtCore *core = self->core;
    if (core == NULL) {
        return;
    }
    uvt_fork_leave(self);
    if (!core->forked
        && (!uvt_guard_own_fds(core)
            || (watches_signals(core) && uvt_siglock_check(self->st) < 0))) {
        uvt_guard_give_up(core);
        uvt_signals_lost(core);
        core->forked = true;    /* In this, too: libuv may not be called. */
    }
    uvt_wakeup_free(self);
    self->core = NULL;
    if (core->forked) {
        uvt_fork_abandon(core);
    }
    else {
        core_free(self->graves, core);
    }
    PyMem_RawFree(self->slab);
    self->slab = NULL;
}

/* Of several exceptions the first is raised, the others are not lost either. */
static void
keep_first(UvtLoop *self, PyObject **first)
{
    if (*first == NULL) {
        *first = PyErr_GetRaisedException();
    }
    else {
        PyErr_WriteUnraisable((PyObject *)self);
    }
}

static bool
has_work(const UvtCore *core)
{
    return core->boxes != NULL || core->jobs != NULL;
}

/* Turns until neither box nor job is left, whatever their callbacks raise; that is
 * returned, or NULL.  Waits only for threads of the pool: what else is under way ends
 * at once. */
static PyObject *
run_close_callbacks(UvtLoop *self)
{
    const UvtCore *core = self->core;
    PyObject *first = NULL;
    for (int turns = 0; has_work(core) && !core->forked && !core->lost; turns++) {
        bool wait = turns >= 2 && core->uv.active_reqs.count > 0;
        if (turns == 100) {
            PyErr_SetString(PyExc_RuntimeError,
                            "Loop.close(): handles are still open after 100 "
                            "turns; something opens new ones");
            keep_first(self, &first);
            break;
        }
        if (uvt_loop_turn(self, wait ? UV_RUN_ONCE : UV_RUN_NOWAIT) < 0) {
            keep_first(self, &first);
        }
    }
    return first;
}

/* The end of a loop that libuv may not be called for: nobody is called. */
static void
give_up(UvtLoop *self)
{
    uvt_loop_release_handles(self);
    uvt_loop_free_core(self);
    self->hooks = NULL;
    Py_CLEAR(self->hooks_owner);
}

/* The child's end of the parent's loop. */
static int
close_in_child(UvtLoop *self)
{
    if (self->running_in_child) {
        PyErr_SetString(PyExc_RuntimeError,
                        "Loop.close(): the loop is running");
        return -1;
    }
    give_up(self);
    return 0;
}

static int
check_close(UvtLoop *self)
{
    if (!uvt_loop_check(self)) {
        return -1;
    }
    if (self->thread_id != 0) {
        PyErr_SetString(PyExc_RuntimeError,
                        "Loop.close(): the loop is running");
        return -1;
    }
    return 0;
}

static void
begin_close(UvtLoop *self)
{
    self->thread_id = PyThread_get_thread_ident();
    self->closing = true;
}

/* A fork meanwhile leaves a loop in the child that is not running either. */
static void
end_close(UvtLoop *self)
{
    self->closing = false;
    self->thread_id = 0;
    self->running_in_child = false;
}

/* Frees the loop when all callbacks have run; 0, or -1 with an exception. */
static int
finish_close(UvtLoop *self)
{
    PyObject *exc;
    begin_close(self);
    exc = run_close_callbacks(self);
    end_close(self);
    if (self->core->forked || self->core->lost) {
        give_up(self);
    }
    else if (!has_work(self->core)) {
        uvt_loop_free_core(self);
        self->hooks = NULL;
        Py_CLEAR(self->hooks_owner);
    }
    if (exc != NULL) {
        PyErr_SetRaisedException(exc);
        return -1;
    }
    return 0;
}

bool
uvt_loop_is_closed(const UvtLoop *self)
{
    return self->core == NULL && self->initialised;
}

int
uvt_loop_close_begin(UvtLoop *self)
{
    if (uvt_loop_is_closed(self)) {
        return 0;
    }
    if (self->core != NULL && uvt_fork_is_child(self)) {
        return 0;
    }
    if (check_close(self) < 0) {
        return -1;
    }
    begin_close(self);
    return 0;
}

int
uvt_loop_close(UvtLoop *self)
{
    if (uvt_loop_is_closed(self)) {
        return 0;
    }
    if (self->closing && !self->in_poll
        && self->thread_id == PyThread_get_thread_ident()) {
        end_close(self);        /* of uvt_loop_close_begin() */
    }
    if (self->core != NULL && uvt_fork_is_child(self)) {
        return close_in_child(self);
    }
    if (check_close(self) < 0) {
        return -1;
    }
    if (!uvt_guard_own_fds(self->core)) {
        give_up(self);
        return 0;
    }
    for (UvtBox *box = self->core->boxes; box != NULL; box = box->next) {
        uvt_box_end(box);
    }
    uvt_jobs_cancel(self->core);
    return finish_close(self);
}

PyObject *
uvt_loop_close_method(UvtLoop *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(self->lock);
    if (uvt_loop_is_closed(self)) {
        Py_RETURN_NONE;
    }
    if (self->core != NULL && uvt_fork_is_child(self)) {
        return close_in_child(self) < 0 ? NULL : Py_NewRef(Py_None);
    }
    if (check_close(self) < 0) {
        return NULL;
    }
    if (self->hooks != NULL) {
        PyErr_SetString(PyExc_RuntimeError,
                        "Loop.close(): the loop is that of an asyncio loop, whose "
                        "own close() it is for");
        return NULL;
    }
    if (!uvt_guard_own_fds(self->core)) {
        give_up(self);
        Py_RETURN_NONE;
    }
    for (UvtBox *box = self->core->boxes; box != NULL; box = box->next) {
        UvtHandle *owner = uvt_box_owner(box);
        bool open = owner != NULL && !uv_is_closing(&box->uv.handle);
        Py_XDECREF(owner);
        if (open) {
            return uvt_raise(self->st, UVT_EXC_UV, UV_EBUSY, "uv_loop_close");
        }
        uvt_box_end(box);
    }
    if (self->core->jobs != NULL) {
        return uvt_raise(self->st, UVT_EXC_UV, UV_EBUSY, "uv_loop_close");
    }
    if (finish_close(self) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}
