/* uv.thread: libuv's mutexes, read-write locks and semaphores as objects;
 * thread_wait.c has conditions and barriers.  Functions run on any thread; those
 * that may block give up the interpreter's lock meanwhile.
 *
 * libuv aborts the process when a lock is misused, so each object knows who has
 * it, and raises instead.  Only its owner can make `owner` equal to its own
 * number, so the check is right without a lock around it.  That number is the
 * kernel's, by which the system checks, too: what Python calls the thread's is given
 * to another one after its end, and is the same in a forked child.  An object that is
 * collected while it is locked is left to the system as it is: destroying it
 * would abort, and on no system that libuv knows does it have memory elsewhere.
 */
#include "thread.h"
#include "args.h"
#include "errors.h"

#include <errno.h>
#include <limits.h>

/* ---- what all have in common ---- */

PyObject *
uvt_lock_new(PyTypeObject *type, PyObject *Py_UNUSED(args),
             PyObject *Py_UNUSED(kwds))
{
    UvtState *st = uvt_state_of_type(type);
    UvtLock *self = st != NULL ? (UvtLock *)type->tp_alloc(type, 0) : NULL;
    if (self != NULL) {
        self->st = st;
    }
    return (PyObject *)self;
}

bool
uvt_lock_check(UvtLock *self)
{
    if (self->initialised) {
        return true;
    }
    PyErr_Format(PyExc_RuntimeError,
                 "%s is not initialised: its __init__ was not called",
                 Py_TYPE(self)->tp_name);
    return false;
}

bool
uvt_lock_check_fresh(UvtLock *self)
{
    if (!self->initialised) {
        return true;
    }
    PyErr_Format(PyExc_RuntimeError, "%s is initialised already",
                 Py_TYPE(self)->tp_name);
    return false;
}

int
uvt_lock_init_done(UvtLock *self, int rc, const char *call)
{
    if (rc < 0) {
        uvt_raise(self->st, UVT_EXC_THREAD, rc, call);
        return -1;
    }
    self->initialised = true;
    return 0;
}

PyObject *
uvt_lock_misuse(UvtLock *self, int error, const char *text)
{
    PyObject *exc = PyObject_CallFunction(self->st->exc[UVT_EXC_THREAD], "is",
                                          -error, text);
    if (exc != NULL) {
        PyErr_SetObject((PyObject *)Py_TYPE(exc), exc);
        Py_DECREF(exc);
    }
    return NULL;
}

void
uvt_lock_free(UvtLock *self)
{
    PyTypeObject *tp = Py_TYPE(self);
    tp->tp_free(self);
    Py_DECREF(tp);
}

/* ---- Mutex ---- */

static int
mutex_init(UvtLock *self, PyObject *args, PyObject *kwds)
{
    static char *names[] = {"recursive", NULL};
    int recursive = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwds, "|p:Mutex", names, &recursive)
        || !uvt_lock_check_fresh(self)) {
        return -1;
    }
    self->recursive = recursive != 0;
    return uvt_lock_init_done(
        self, recursive ? uv_mutex_init_recursive(&self->uv.mutex)
                        : uv_mutex_init(&self->uv.mutex), "uv_mutex_init");
}

static void
mutex_dealloc(UvtLock *self)
{
    if (self->initialised && atomic_load(&self->owner) == 0) {
        uv_mutex_destroy(&self->uv.mutex);
    }
    uvt_lock_free(self);
}

/* This thread has just got it. */
static void
mutex_got(UvtLock *self)
{
    atomic_store(&self->owner, uvt_lock_me());
    self->depth++;
}

PyDoc_STRVAR(lock_doc,
"lock($self, /)\n--\n\n"
"Wait for the mutex and take it.  Signals do not end the wait.\n\n"
"Raises ThreadError when this thread has it already and it is not recursive.");

static PyObject *
mutex_lock(UvtLock *self, PyObject *Py_UNUSED(ignored))
{
    if (!uvt_lock_check(self)) {
        return NULL;
    }
    if (!self->recursive && uvt_lock_is_mine(self)) {
        return uvt_lock_misuse(self, EDEADLK, "this thread has locked it already");
    }
    Py_BEGIN_ALLOW_THREADS
    uv_mutex_lock(&self->uv.mutex);
    Py_END_ALLOW_THREADS
    mutex_got(self);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(trylock_doc,
"trylock($self, /)\n--\n\n"
"Take the mutex if nobody has it; whether it was taken (bool).");

static PyObject *
mutex_trylock(UvtLock *self, PyObject *Py_UNUSED(ignored))
{
    if (!uvt_lock_check(self)) {
        return NULL;
    }
    if (uv_mutex_trylock(&self->uv.mutex) < 0) {
        Py_RETURN_FALSE;
    }
    mutex_got(self);
    Py_RETURN_TRUE;
}

PyDoc_STRVAR(unlock_doc,
"unlock($self, /)\n--\n\n"
"Let go of the mutex.  Raises ThreadError when this thread does not have it.");

static PyObject *
mutex_unlock(UvtLock *self, PyObject *Py_UNUSED(ignored))
{
    if (!uvt_lock_check(self)) {
        return NULL;
    }
    if (!uvt_lock_is_mine(self)) {
        return uvt_lock_misuse(self, EPERM, "this thread has not locked it");
    }
    if (--self->depth == 0) {
        atomic_store(&self->owner, 0);
    }
    uv_mutex_unlock(&self->uv.mutex);
    Py_RETURN_NONE;
}

static PyObject *
mutex_enter(UvtLock *self, PyObject *unused)
{
    PyObject *result = mutex_lock(self, unused);
    if (result == NULL) {
        return NULL;
    }
    Py_DECREF(result);
    return Py_NewRef(self);
}

static PyObject *
mutex_exit(UvtLock *self, PyObject *const *Py_UNUSED(args),
           Py_ssize_t Py_UNUSED(nargs))
{
    return mutex_unlock(self, NULL);
}

static PyMethodDef mutex_methods[] = {
    {"lock", (PyCFunction)mutex_lock, METH_NOARGS, lock_doc},
    {"trylock", (PyCFunction)mutex_trylock, METH_NOARGS, trylock_doc},
    {"unlock", (PyCFunction)mutex_unlock, METH_NOARGS, unlock_doc},
    {"__enter__", (PyCFunction)mutex_enter, METH_NOARGS,
     PyDoc_STR("__enter__($self, /)\n--\n\nlock(); the mutex itself.")},
    {"__exit__", (PyCFunction)(void (*)(void))mutex_exit, METH_FASTCALL,
     PyDoc_STR("__exit__($self, /, *args)\n--\n\nunlock().")},
    {NULL},
};

PyDoc_STRVAR(mutex_doc,
"Mutex(recursive=False)\n--\n\n"
"One thread at a time has it; also a context manager.  A recursive one can be\n"
"locked several times by the same thread, which unlocks it as often.\n\n"
"Raises ThreadError when the system has no more.");

/* ---- RWLock ---- */

static int
rwlock_init(UvtLock *self, PyObject *args, PyObject *kwds)
{
    static char *names[] = {NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kwds, ":RWLock", names)
        || !uvt_lock_check_fresh(self)) {
        return -1;
    }
    return uvt_lock_init_done(self, uv_rwlock_init(&self->uv.rwlock),
                              "uv_rwlock_init");
}

static void
rwlock_dealloc(UvtLock *self)
{
    if (self->initialised && atomic_load(&self->owner) == 0
        && atomic_load(&self->count) == 0) {
        uv_rwlock_destroy(&self->uv.rwlock);
    }
    uvt_lock_free(self);
}

/* A writer that locks once more would wait for itself; the system says so, and
 * libuv aborts then. */
static bool
rwlock_check(UvtLock *self)
{
    if (!uvt_lock_check(self)) {
        return false;
    }
    if (uvt_lock_is_mine(self)) {
        uvt_lock_misuse(self, EDEADLK, "this thread has locked it for writing");
        return false;
    }
    return true;
}

PyDoc_STRVAR(rdlock_doc,
"rdlock($self, /)\n--\n\n"
"Wait until nobody writes and lock for reading.  Signals do not end the wait.\n\n"
"Raises ThreadError when this thread has it for writing.");

static PyObject *
rwlock_rdlock(UvtLock *self, PyObject *Py_UNUSED(ignored))
{
    if (!rwlock_check(self)) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    uv_rwlock_rdlock(&self->uv.rwlock);
    Py_END_ALLOW_THREADS
    atomic_fetch_add(&self->count, 1);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(tryrdlock_doc,
"tryrdlock($self, /)\n--\n\n"
"Lock for reading if nobody writes; whether it was locked (bool).");

static PyObject *
rwlock_tryrdlock(UvtLock *self, PyObject *Py_UNUSED(ignored))
{
    if (!uvt_lock_check(self)) {
        return NULL;
    }
    if (uv_rwlock_tryrdlock(&self->uv.rwlock) < 0) {
        Py_RETURN_FALSE;
    }
    atomic_fetch_add(&self->count, 1);
    Py_RETURN_TRUE;
}

PyDoc_STRVAR(rdunlock_doc,
"rdunlock($self, /)\n--\n\n"
"End reading.  Raises ThreadError when nobody has locked it for reading.");

static PyObject *
rwlock_rdunlock(UvtLock *self, PyObject *Py_UNUSED(ignored))
{
    if (!uvt_lock_check(self)) {
        return NULL;
    }
    if (!uvt_lock_count_down(self)) {
        return uvt_lock_misuse(self, EPERM, "it is not locked for reading");
    }
    uv_rwlock_rdunlock(&self->uv.rwlock);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(wrlock_doc,
"wrlock($self, /)\n--\n\n"
"Wait until nobody reads or writes and lock for writing.  Signals do not end the\n"
"wait; a thread that reads itself waits for ever.\n\n"
"Raises ThreadError when this thread has it for writing already.");

static PyObject *
rwlock_wrlock(UvtLock *self, PyObject *Py_UNUSED(ignored))
{
    if (!rwlock_check(self)) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    uv_rwlock_wrlock(&self->uv.rwlock);
    Py_END_ALLOW_THREADS
    atomic_store(&self->owner, uvt_lock_me());
    Py_RETURN_NONE;
}

PyDoc_STRVAR(trywrlock_doc,
"trywrlock($self, /)\n--\n\n"
"Lock for writing if nobody reads or writes; whether it was locked (bool).");

static PyObject *
rwlock_trywrlock(UvtLock *self, PyObject *Py_UNUSED(ignored))
{
    if (!uvt_lock_check(self)) {
        return NULL;
    }
    if (uv_rwlock_trywrlock(&self->uv.rwlock) < 0) {
        Py_RETURN_FALSE;
    }
    atomic_store(&self->owner, uvt_lock_me());
    Py_RETURN_TRUE;
}

PyDoc_STRVAR(wrunlock_doc,
"wrunlock($self, /)\n--\n\n"
"End writing.  Raises ThreadError when this thread has not locked it for that.");

static PyObject *
rwlock_wrunlock(UvtLock *self, PyObject *Py_UNUSED(ignored))
{
    if (!uvt_lock_check(self)) {
        return NULL;
    }
    if (!uvt_lock_is_mine(self)) {
        return uvt_lock_misuse(self, EPERM,
                               "this thread has not locked it for writing");
    }
    atomic_store(&self->owner, 0);
    uv_rwlock_wrunlock(&self->uv.rwlock);
    Py_RETURN_NONE;
}

static PyMethodDef rwlock_methods[] = {
    {"rdlock", (PyCFunction)rwlock_rdlock, METH_NOARGS, rdlock_doc},
    {"tryrdlock", (PyCFunction)rwlock_tryrdlock, METH_NOARGS, tryrdlock_doc},
    {"rdunlock", (PyCFunction)rwlock_rdunlock, METH_NOARGS, rdunlock_doc},
    {"wrlock", (PyCFunction)rwlock_wrlock, METH_NOARGS, wrlock_doc},
    {"trywrlock", (PyCFunction)rwlock_trywrlock, METH_NOARGS, trywrlock_doc},
    {"wrunlock", (PyCFunction)rwlock_wrunlock, METH_NOARGS, wrunlock_doc},
    {NULL},
};

PyDoc_STRVAR(rwlock_doc,
"RWLock()\n--\n\n"
"Many threads read, or one writes.  Raises ThreadError when the system has no\n"
"more.");

/* ---- Semaphore ---- */

static int
semaphore_init(UvtLock *self, PyObject *args, PyObject *kwds)
{
    static char *names[] = {"value", NULL};
    PyObject *arg = NULL;
    int value = 1;
    if (!PyArg_ParseTupleAndKeywords(args, kwds, "|O:Semaphore", names, &arg)
        || (arg != NULL
            && !uvt_arg_int("Semaphore", "value", arg, 0, INT_MAX, &value))
        || !uvt_lock_check_fresh(self)) {
        return -1;
    }
    atomic_store(&self->count, (unsigned)value);
    return uvt_lock_init_done(self, uv_sem_init(&self->uv.semaphore,
                                                (unsigned)value), "uv_sem_init");
}

static void
semaphore_dealloc(UvtLock *self)
{
    if (self->initialised) {
        uv_sem_destroy(&self->uv.semaphore);
    }
    uvt_lock_free(self);
}

PyDoc_STRVAR(post_doc,
"post($self, /)\n--\n\n"
"Add one, which lets one thread go on.  Raises ThreadError when there are more\n"
"than 2,147,483,647.");

static PyObject *
semaphore_post(UvtLock *self, PyObject *Py_UNUSED(ignored))
{
    if (!uvt_lock_check(self)) {
        return NULL;
    }
    if (atomic_fetch_add(&self->count, 1) >= INT_MAX) {
        atomic_fetch_sub(&self->count, 1);
        return uvt_lock_misuse(self, EOVERFLOW, "its value is too large");
    }
    uv_sem_post(&self->uv.semaphore);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(wait_doc,
"wait($self, /)\n--\n\n"
"Wait until there is one and take it.  Signals do not end the wait.");

static PyObject *
semaphore_wait(UvtLock *self, PyObject *Py_UNUSED(ignored))
{
    if (!uvt_lock_check(self)) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    uv_sem_wait(&self->uv.semaphore);
    Py_END_ALLOW_THREADS
    atomic_fetch_sub(&self->count, 1);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(trywait_doc,
"trywait($self, /)\n--\n\n"
"Take one if there is one; whether it was taken (bool).");

static PyObject *
semaphore_trywait(UvtLock *self, PyObject *Py_UNUSED(ignored))
{
    if (!uvt_lock_check(self)) {
        return NULL;
    }
    if (uv_sem_trywait(&self->uv.semaphore) < 0) {
        Py_RETURN_FALSE;
    }
    atomic_fetch_sub(&self->count, 1);
    Py_RETURN_TRUE;
}

static PyObject *
semaphore_enter(UvtLock *self, PyObject *unused)
{
    PyObject *result = semaphore_wait(self, unused);
    if (result == NULL) {
        return NULL;
    }
    Py_DECREF(result);
    return Py_NewRef(self);
}

static PyObject *
semaphore_exit(UvtLock *self, PyObject *const *Py_UNUSED(args),
               Py_ssize_t Py_UNUSED(nargs))
{
    return semaphore_post(self, NULL);
}

static PyMethodDef semaphore_methods[] = {
    {"post", (PyCFunction)semaphore_post, METH_NOARGS, post_doc},
    {"wait", (PyCFunction)semaphore_wait, METH_NOARGS, wait_doc},
    {"trywait", (PyCFunction)semaphore_trywait, METH_NOARGS, trywait_doc},
    {"__enter__", (PyCFunction)semaphore_enter, METH_NOARGS,
     PyDoc_STR("__enter__($self, /)\n--\n\nwait(); the semaphore itself.")},
    {"__exit__", (PyCFunction)(void (*)(void))semaphore_exit, METH_FASTCALL,
     PyDoc_STR("__exit__($self, /, *args)\n--\n\npost().")},
    {NULL},
};

PyDoc_STRVAR(semaphore_doc,
"Semaphore(value=1)\n--\n\n"
"A number of things to take, from 0 to 2,147,483,647; also a context manager.\n\n"
"Raises ValueError, ThreadError when the system has no more.");

/* ---- setup ---- */

#define SLOTS(name) \
    static PyType_Slot name##_slots[] = { \
        {Py_tp_doc, (void *)name##_doc}, \
        {Py_tp_new, uvt_lock_new}, \
        {Py_tp_init, name##_init}, \
        {Py_tp_dealloc, name##_dealloc}, \
        {Py_tp_methods, name##_methods}, \
        {0, NULL}, \
    };

SLOTS(mutex)
SLOTS(rwlock)
SLOTS(semaphore)

static PyType_Spec specs[] = {
    UVT_LOCK_SPEC("Mutex", mutex_slots),
    UVT_LOCK_SPEC("RWLock", rwlock_slots),
    UVT_LOCK_SPEC("Semaphore", semaphore_slots),
};

PyTypeObject *
uvt_lock_add_type(PyObject *module, PyObject *submodule, PyType_Spec *spec)
{
    PyObject *type = PyType_FromModuleAndSpec(module, spec, NULL);
    if (type != NULL && PyModule_AddType(submodule, (PyTypeObject *)type) < 0) {
        Py_CLEAR(type);
    }
    return (PyTypeObject *)type;
}

static int
fill(PyObject *module, PyObject *submodule, UvtState *st)
{
    for (size_t i = 0; i < Py_ARRAY_LENGTH(specs); i++) {
        PyTypeObject *type = uvt_lock_add_type(module, submodule, &specs[i]);
        if (type == NULL) {
            return -1;
        }
        if (i == 0) {
            st->mutex_type = (PyTypeObject *)Py_NewRef(type);
        }
        Py_DECREF(type);
    }
    return uvt_thread_wait_setup(module, submodule);
}

int
uvt_thread_setup(PyObject *module, UvtState *st)
{
    int rc;
    PyObject *submodule = uvt_add_submodule(
        module, "thread", "What threads wait for each other with.");
    if (submodule == NULL) {
        return -1;
    }
    rc = fill(module, submodule, st);
    Py_DECREF(submodule);
    return rc;
}
