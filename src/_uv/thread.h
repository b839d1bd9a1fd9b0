/* uv.thread: what its two files share. */
#ifndef UVT_THREAD_H
#define UVT_THREAD_H

#include "uvmodule.h"

#include <stdatomic.h>

typedef struct {
    PyObject_HEAD
    UvtState *st;                   /* borrowed, through the type */
    union {
        uv_mutex_t mutex;
        uv_rwlock_t rwlock;
        uv_sem_t semaphore;
        uv_cond_t condition;
        uv_barrier_t barrier;
    } uv;
    bool initialised;
    bool recursive;                 /* Mutex */
    unsigned depth;                 /* Mutex: how often its owner has it */
    _Atomic unsigned long owner;    /* Mutex, writer of an RWLock: its thread */
    _Atomic unsigned count;         /* RWLock: readers, of whom each is counted
                                     * while it reads.  Semaphore: the value or,
                                     * for moments, more.  Condition, Barrier: who
                                     * waits */
} UvtLock;

PyObject *uvt_lock_new(PyTypeObject *type, PyObject *args, PyObject *kwds);
void uvt_lock_free(UvtLock *self);
/* Initialised, or not yet; RuntimeError. */
UVT_CHECKED bool uvt_lock_check(UvtLock *self);
UVT_CHECKED bool uvt_lock_check_fresh(UvtLock *self);
/* What tp_init returns after libuv's status. */
UVT_CHECKED int uvt_lock_init_done(UvtLock *self, int rc, const char *call);
/* Raises ThreadError with the system's error and a text; NULL. */
PyObject *uvt_lock_misuse(UvtLock *self, int error, const char *text);

/* The kernel's number of this thread. */
static inline unsigned long
uvt_lock_me(void)
{
    return PyThread_get_thread_native_id();
}

static inline bool
uvt_lock_is_mine(UvtLock *self)
{
    return atomic_load(&self->owner) == uvt_lock_me();
}

/* One reader less; false when there is none. */
static inline bool
uvt_lock_count_down(UvtLock *self)
{
    unsigned count = atomic_load(&self->count);
    while (count > 0) {
        if (atomic_compare_exchange_weak(&self->count, &count, count - 1)) {
            return true;
        }
    }
    return false;
}

#define UVT_LOCK_SPEC(type, type_slots) { \
    .name = "uvtulip._uv.thread." type, \
    .basicsize = sizeof(UvtLock), \
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_IMMUTABLETYPE, \
    .slots = type_slots, \
}

/* Makes a type from its spec and adds it to the submodule. */
UVT_NEW PyTypeObject *uvt_lock_add_type(PyObject *module, PyObject *submodule,
                                        PyType_Spec *spec);
UVT_CHECKED int uvt_thread_wait_setup(PyObject *module, PyObject *submodule);

#endif
