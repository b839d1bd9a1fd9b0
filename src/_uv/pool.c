/* How Python code gets onto the threads of libuv's pool.  Each entry makes a
 * thread state for the loop's interpreter and deletes it afterwards, so that
 * sub-interpreters work and none is left behind.  enter and leave run on pool
 * threads, the rest attached on any thread.
 *
 * An interpreter that ends waits for the Python code that runs in the pool and
 * lets no other begin: a thread that came later would find it half taken down.
 */
#include "guards.h"
#include "pool.h"
#include "tty.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

struct UvtPool {
    uv_mutex_t mutex;           /* guards what follows */
    uv_cond_t idle;             /* `running` has become 0 */
    PyInterpreterState *interp;
    pid_t pid;                  /* the threads do not survive a fork */
    size_t references;
    size_t running;
    bool closed;
};

#define WAIT_NS 100000000u      /* between two looks for signals */

void
uvt_pool_lock(UvtPool *self)
{
    uv_mutex_lock(&self->mutex);
}

void
uvt_pool_unlock(UvtPool *self)
{
    uv_mutex_unlock(&self->mutex);
}

void
uvt_pool_release(UvtPool *self)
{
    size_t left;
    uv_mutex_lock(&self->mutex);
    left = --self->references;
    uv_mutex_unlock(&self->mutex);
    if (left == 0) {
        uv_cond_destroy(&self->idle);
        uv_mutex_destroy(&self->mutex);
        PyMem_RawFree(self);
    }
}

/* ---- on a thread of the pool ---- */

PyThreadState *
uvt_pool_enter(UvtPool *self)
{
    PyThreadState *tstate;
    bool open;
    uv_mutex_lock(&self->mutex);
    open = !self->closed;
    self->running += open;
    uv_mutex_unlock(&self->mutex);
    if (!open) {
        return NULL;
    }
    tstate = PyThreadState_New(self->interp);
    if (tstate == NULL) {
        uvt_pool_leave(self, NULL);
        return NULL;
    }
    PyEval_RestoreThread(tstate);
    return tstate;
}

void
uvt_pool_leave(UvtPool *self, PyThreadState *tstate)
{
    if (tstate != NULL) {
        PyThreadState_Clear(tstate);
        PyThreadState_DeleteCurrent();
    }
    uv_mutex_lock(&self->mutex);
    if (--self->running == 0) {
        uv_cond_broadcast(&self->idle);
    }
    uv_mutex_unlock(&self->mutex);
}

/* ---- the end of the interpreter ---- */

static void
wait_a_moment(UvtPool *self)
{
    Py_BEGIN_ALLOW_THREADS
    uv_mutex_lock(&self->mutex);
    if (self->running > 0) {
        (void)uv_cond_timedwait(&self->idle, &self->mutex, WAIT_NS);
    }
    uv_mutex_unlock(&self->mutex);
    Py_END_ALLOW_THREADS
}

static bool
is_running(UvtPool *self)
{
    bool running;
    uv_mutex_lock(&self->mutex);
    self->closed = true;
    running = self->running > 0;
    uv_mutex_unlock(&self->mutex);
    return running;
}

static void
do_nothing(uv_work_t *Py_UNUSED(req))
{
}

static void
on_nothing_done(uv_work_t *Py_UNUSED(req), int Py_UNUSED(status))
{
}

/* At its end libuv waits for the threads of its pool, in a forked child for those
 * that only the parent has: it crashes there.  Its first work in the child makes
 * new ones. */
static void
make_threads(UvtState *st)
{
    uv_loop_t loop;
    uv_work_t work;
    uvt_low_take(st);
    if (uvt_pool_prepare(st, NULL) == 0 && uv_loop_init(&loop) == 0) {
        if (uv_queue_work(&loop, &work, do_nothing, on_nothing_done) == 0) {
            (void)uv_run(&loop, UV_RUN_DEFAULT);
        }
        (void)uv_loop_close(&loop);
    }
    uvt_low_give(st);
}

#ifdef __GLIBC__
static void
end_at_once(int status, void *Py_UNUSED(arg))
{
    (void)fflush(NULL);
    _exit(status);
}

/* Work that does not end keeps its thread: in an interpreter that is gone a thread
 * that wants to go on hangs, or ends when it comes to that, by version.  libuv would
 * wait for it when its library is unloaded: the process ends before. */
static void
leave_threads_behind(void)
{
    (void)on_exit(end_at_once, NULL);
}
#else
static void
end_library(void *began)
{
    uv_sem_post(began);
    uv_library_shutdown();
}

/* Longer than a thread takes from one call to the next. */
#define MOMENT_NS 50000000

/* libuv comes to its end only once: another thread does, and waits in our place. */
static void
end_library_elsewhere(void)
{
    struct timespec moment = {.tv_nsec = MOMENT_NS};
    uv_sem_t began;
    uv_thread_t thread;
    if (uv_sem_init(&began, 0) == 0
        && uv_thread_create(&thread, end_library, &began) == 0) {
        uv_sem_wait(&began);
        (void)nanosleep(&moment, NULL);
    }
}

/* Other C libraries tell nobody the status that the process is to end with.  Up to
 * 1.44, libuv would come to its end a second time. */
static void
leave_threads_behind(void)
{
    if (uv_version() >= 0x012D00) {
        (void)atexit(end_library_elsewhere);
    }
}
#endif

static PyObject *
at_exit(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    UvtState *st = uvt_state(module);
    UvtPool *self = st->pool;
    (void)uvt_terminals_reset(st->graves);
    if (st->pool_pid != 0 && st->pool_pid != getpid()) {
        Py_BEGIN_ALLOW_THREADS
        make_threads(st);
        Py_END_ALLOW_THREADS
        Py_RETURN_NONE;
    }
    while (self != NULL && self->pid == getpid() && is_running(self)) {
        wait_a_moment(self);
        if (PyErr_CheckSignals() < 0) {
            leave_threads_behind();
            return NULL;
        }
    }
    Py_RETURN_NONE;
}

static PyMethodDef at_exit_def = {
    "_finish_work", at_exit, METH_NOARGS,
    "_finish_work($module, /)\n--\n\n"
    "Give terminals their modes back, and wait for what runs in the thread pool.",
};

int
uvt_pool_setup(PyObject *module)
{
    PyObject *atexit = PyImport_ImportModule("atexit"), *function, *result;
    if (atexit == NULL) {
        return -1;
    }
    function = PyCFunction_New(&at_exit_def, module);
    result = function != NULL
        ? PyObject_CallMethod(atexit, "register", "O", function) : NULL;
    Py_XDECREF(function);
    Py_DECREF(atexit);
    Py_XDECREF(result);
    return result != NULL ? 0 : -1;
}

/* ---- life cycle ---- */

static UvtPool *
pool_new(void)
{
    UvtPool *self = PyMem_RawCalloc(1, sizeof(UvtPool));
    if (self == NULL) {
        return NULL;
    }
    if (uv_mutex_init(&self->mutex) < 0) {
        PyMem_RawFree(self);
        return NULL;
    }
    if (uv_cond_init(&self->idle) < 0) {
        uv_mutex_destroy(&self->mutex);
        PyMem_RawFree(self);
        return NULL;
    }
    self->interp = PyInterpreterState_Get();
    self->pid = getpid();
    self->references = 1;
    return self;
}

/* What a fork has left is not touched: a thread that is gone may have locked
 * it. */
UvtPool *
uvt_pool_get(UvtState *st)
{
    UvtPool *self;
    bool closed;
    UVT_MUTEX_LOCK(st->mutex);
    self = st->pool;
    if (self == NULL || self->pid != getpid()) {
        self = pool_new();
        st->pool = self != NULL ? self : st->pool;
    }
    UVT_MUTEX_UNLOCK(st->mutex);
    if (self == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    uv_mutex_lock(&self->mutex);
    closed = self->closed;
    self->references += !closed;
    uv_mutex_unlock(&self->mutex);
    if (closed) {
        PyErr_SetString(PyExc_RuntimeError,
                        "the interpreter is ending: no work is taken any more");
        return NULL;
    }
    return self;
}

void
uvt_pool_drop(UvtState *st)
{
    UvtPool *self = st->pool;
    st->pool = NULL;
    if (self != NULL && self->pid == getpid()) {
        uvt_pool_release(self);
    }
}
