/* uv.thread: conditions and barriers.  Functions run on any thread; those that
 * wait give up the interpreter's lock meanwhile.  Whoever waits has a reference
 * to the object, so none is destroyed under a waiting thread.  In a forked child
 * those threads are gone, but the system would wait for them: what somebody has
 * waited for at the fork is left as it is.
 */
#include "thread.h"
#include "args.h"
#include "errors.h"

#include <errno.h>
#include <limits.h>

/* ---- Condition ---- */

/* Longer waits than this (in nanoseconds) would overflow libuv's clock. */
#define LONGEST (UINT64_MAX / 4)

static int
condition_init(UvtLock *self, PyObject *args, PyObject *kwds)
{
    static char *names[] = {NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kwds, ":Condition", names)
        || !uvt_lock_check_fresh(self)) {
        return -1;
    }
    return uvt_lock_init_done(self, uv_cond_init(&self->uv.condition),
                              "uv_cond_init");
}

static void
condition_dealloc(UvtLock *self)
{
    if (self->initialised && atomic_load(&self->count) == 0) {
        uv_cond_destroy(&self->uv.condition);
    }
    uvt_lock_free(self);
}

PyDoc_STRVAR(signal_doc,
"signal($self, /)\n--\n\n"
"Wake at least one of the threads that wait.");

static PyObject *
condition_signal(UvtLock *self, PyObject *Py_UNUSED(ignored))
{
    if (!uvt_lock_check(self)) {
        return NULL;
    }
    uv_cond_signal(&self->uv.condition);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(broadcast_doc,
"broadcast($self, /)\n--\n\n"
"Wake all threads that wait.");

static PyObject *
condition_broadcast(UvtLock *self, PyObject *Py_UNUSED(ignored))
{
    if (!uvt_lock_check(self)) {
        return NULL;
    }
    uv_cond_broadcast(&self->uv.condition);
    Py_RETURN_NONE;
}

/* The mutex, when this thread has locked it once.  Waiting unlocks a mutex once
 * only, so with a recursive one that is locked more often nobody else could get
 * to signal. */
UVT_BORROWED static UvtLock *
take_mutex(UvtLock *self, PyObject *arg)
{
    UvtLock *mutex = (UvtLock *)arg;
    if (!PyObject_TypeCheck(arg, self->st->mutex_type)) {
        PyErr_Format(PyExc_TypeError, "Condition: 'mutex' must be a Mutex, not "
                     "%.200s", Py_TYPE(arg)->tp_name);
        return NULL;
    }
    if (!uvt_lock_check(self) || !uvt_lock_check(mutex)) {
        return NULL;
    }
    if (!uvt_lock_is_mine(mutex)) {
        return (UvtLock *)uvt_lock_misuse(self, EPERM,
                                          "this thread has not locked the mutex");
    }
    if (mutex->depth > 1) {
        return (UvtLock *)uvt_lock_misuse(
            self, EINVAL, "the recursive mutex is locked more than once");
    }
    return mutex;
}

/* Waits at most `timeout` nanoseconds; UINT64_MAX: without end.  libuv's status. */
static int
wait_with(UvtLock *self, UvtLock *mutex, uint64_t timeout)
{
    int rc = 0;
    Py_INCREF(mutex);
    mutex->depth = 0;
    atomic_store(&mutex->owner, 0);
    atomic_fetch_add(&self->count, 1);
    Py_BEGIN_ALLOW_THREADS
    if (timeout == UINT64_MAX) {
        uv_cond_wait(&self->uv.condition, &mutex->uv.mutex);
    }
    else {
        rc = uv_cond_timedwait(&self->uv.condition, &mutex->uv.mutex, timeout);
    }
    Py_END_ALLOW_THREADS
    atomic_fetch_sub(&self->count, 1);
    atomic_store(&mutex->owner, uvt_lock_me());
    mutex->depth = 1;
    Py_DECREF(mutex);
    return rc;
}

PyDoc_STRVAR(wait_doc,
"wait($self, mutex, /)\n--\n\n"
"Unlock the mutex, wait to be woken and lock it again.  It can return without\n"
"being woken; signals do not end it.\n\n"
"Raises TypeError, ThreadError when this thread has not locked the mutex, or more\n"
"than once.");

static PyObject *
condition_wait(UvtLock *self, PyObject *arg)
{
    UvtLock *mutex = take_mutex(self, arg);
    if (mutex == NULL) {
        return NULL;
    }
    (void)wait_with(self, mutex, UINT64_MAX);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(timedwait_doc,
"timedwait($self, mutex, timeout, /)\n--\n\n"
"As wait(), for at most `timeout` seconds; False when they are over.\n\n"
"Raises TypeError, ValueError, ThreadError.");

static PyObject *
condition_timedwait(UvtLock *self, PyObject *const *args, Py_ssize_t nargs)
{
    UvtLock *mutex;
    uint64_t ms;
    if (!uvt_args_count("Condition.timedwait", nargs, 2, 2)
        || !uvt_arg_seconds("Condition.timedwait", "timeout", args[1], &ms)) {
        return NULL;
    }
    mutex = take_mutex(self, args[0]);
    if (mutex == NULL) {
        return NULL;
    }
    ms = ms < LONGEST / 1000000 ? ms * 1000000 : LONGEST;
    return PyBool_FromLong(wait_with(self, mutex, ms) == 0);
}

static PyMethodDef condition_methods[] = {
    {"signal", (PyCFunction)condition_signal, METH_NOARGS, signal_doc},
    {"broadcast", (PyCFunction)condition_broadcast, METH_NOARGS, broadcast_doc},
    {"wait", (PyCFunction)condition_wait, METH_O, wait_doc},
    {"timedwait", (PyCFunction)(void (*)(void))condition_timedwait,
     METH_FASTCALL, timedwait_doc},
    {NULL},
};

PyDoc_STRVAR(condition_doc,
"Condition()\n--\n\n"
"Threads wait for others to tell them that something has changed.  Raises\n"
"ThreadError when the system has no more.");

/* ---- Barrier ---- */

static int
barrier_init(UvtLock *self, PyObject *args, PyObject *kwds)
{
    static char *names[] = {"count", NULL};
    PyObject *arg;
    int count;
    if (!PyArg_ParseTupleAndKeywords(args, kwds, "O:Barrier", names, &arg)
        || !uvt_arg_int("Barrier", "count", arg, 1, INT_MAX, &count)
        || !uvt_lock_check_fresh(self)) {
        return -1;
    }
    return uvt_lock_init_done(self, uv_barrier_init(&self->uv.barrier,
                                                    (unsigned)count),
                              "uv_barrier_init");
}

static void
barrier_dealloc(UvtLock *self)
{
    if (self->initialised && atomic_load(&self->count) == 0) {
        uv_barrier_destroy(&self->uv.barrier);
    }
    uvt_lock_free(self);
}

PyDoc_STRVAR(barrier_wait_doc,
"wait($self, /)\n--\n\n"
"Wait until as many threads wait as the barrier counts; True for one of them.\n"
"Signals do not end the wait.");

static PyObject *
barrier_wait(UvtLock *self, PyObject *Py_UNUSED(ignored))
{
    int rc;
    if (!uvt_lock_check(self)) {
        return NULL;
    }
    atomic_fetch_add(&self->count, 1);
    Py_BEGIN_ALLOW_THREADS
    rc = uv_barrier_wait(&self->uv.barrier);
    Py_END_ALLOW_THREADS
    atomic_fetch_sub(&self->count, 1);
    return PyBool_FromLong(rc > 0);
}

static PyMethodDef barrier_methods[] = {
    {"wait", (PyCFunction)barrier_wait, METH_NOARGS, barrier_wait_doc},
    {NULL},
};

PyDoc_STRVAR(barrier_doc,
"Barrier(count)\n--\n\n"
"Lets `count` threads go on together; then it begins anew.\n\n"
"Raises ValueError, ThreadError when the system has no more.");

/* ---- setup ---- */

static PyType_Slot condition_slots[] = {
    {Py_tp_doc, (void *)condition_doc},
    {Py_tp_new, uvt_lock_new},
    {Py_tp_init, condition_init},
    {Py_tp_dealloc, condition_dealloc},
    {Py_tp_methods, condition_methods},
    {0, NULL},
};

static PyType_Slot barrier_slots[] = {
    {Py_tp_doc, (void *)barrier_doc},
    {Py_tp_new, uvt_lock_new},
    {Py_tp_init, barrier_init},
    {Py_tp_dealloc, barrier_dealloc},
    {Py_tp_methods, barrier_methods},
    {0, NULL},
};

static PyType_Spec specs[] = {
    UVT_LOCK_SPEC("Condition", condition_slots),
    UVT_LOCK_SPEC("Barrier", barrier_slots),
};

int
uvt_thread_wait_setup(PyObject *module, PyObject *submodule)
{
    for (size_t i = 0; i < Py_ARRAY_LENGTH(specs); i++) {
        PyTypeObject *type = uvt_lock_add_type(module, submodule, &specs[i]);
        if (type == NULL) {
            return -1;
        }
        Py_DECREF(type);
    }
    return 0;
}
