/* Who may touch what belongs to a loop when there is no GIL.
 *
 * Each Loop has a lock, an object that its handles, its requests and all that is
 * built on them keep as long as they live.  Whatever Python calls begins with
 * UVT_LOCKED(lock), and has the lock until it returns: a run of the loop, too.
 * It is a critical section of Python's, given up wherever the thread is detached:
 * while a poll blocks, a thread waits or sleeps, the collector stops the world.  So
 * all that is written for a GIL holds for each loop: between two points where
 * another thread might get the GIL no other thread is at the loop's data.
 *
 * What several loops share is guarded by mutexes of its own, held for moments and
 * never around a call of Python.
 */
#ifndef UVT_LOCKED_H
#define UVT_LOCKED_H

#include "compat.h"

#include <pthread.h>
#include <stdatomic.h>

#ifdef Py_GIL_DISABLED

typedef struct UvtSection {
    PyCriticalSection section;
    PyObject *lock;         /* strong; NULL: nothing to give up */
} UvtSection;

/* The innermost section of this thread is the lock's: a method called by a
 * callback of the same loop.  An older Python would wait for the thread itself,
 * which works, slowly; so this looks at members that it does not document. */
static inline bool
uvt_section_has(PyObject *lock)
{
    uintptr_t top;
    if (UVT_SECTIONS_NEST) {
        return false;
    }
    top = PyThreadState_Get()->critical_section;
    return top != 0 && (top & 3) == 0
        && ((const PyCriticalSection *)top)->_cs_mutex == &lock->ob_mutex;
}

static inline void
uvt_section_begin(UvtSection *self, PyObject *lock)
{
    self->lock = lock != NULL && !uvt_section_has(lock) ? Py_NewRef(lock) : NULL;
    if (self->lock != NULL) {
        PyCriticalSection_Begin(&self->section, lock);
    }
}

static inline void
uvt_section_end(UvtSection *self)
{
    if (self->lock != NULL) {
        PyCriticalSection_End(&self->section);
        Py_DECREF(self->lock);
    }
}

/* Has the lock until the end of the block; NULL, for what belongs to no loop yet:
 * none. */
#define UVT_LOCKED(lock) \
    __attribute__((cleanup(uvt_section_end))) UvtSection uvt_section; \
    uvt_section_begin(&uvt_section, (lock))

/* Between two callbacks of a loop that has no time to wait: lets those threads in
 * that wait for its lock, as a bit of its mutex tells. */
static inline void
uvt_section_yield(PyObject *lock)
{
    const uint8_t *bits = &lock->ob_mutex._bits;
    if (__atomic_load_n(bits, __ATOMIC_RELAXED) & 2) {
        Py_BEGIN_ALLOW_THREADS
        Py_END_ALLOW_THREADS
    }
}

#define UVT_YIELD(lock) uvt_section_yield(lock)

/* A member of a struct, and what is done with it; a weak reference is to what lives
 * behind a borrowed pointer. */
#define UVT_LOCK_MEMBER(name) PyObject *name;
#define UVT_LOCK_KEEP(slot, lock) Py_XSETREF(slot, Py_XNewRef(lock))
#define UVT_LOCK_NEW(slot) \
    (((slot) = PyObject_CallNoArgs((PyObject *)&PyBaseObject_Type)) != NULL)
#define UVT_LOCK_DROP(slot) Py_CLEAR(slot)
#define UVT_WEAK_NEW(slot, op) \
    (((slot) = PyWeakref_NewRef((PyObject *)(op), NULL)) != NULL)

/* For what several loops share.  Not a PyMutex: waiting for that would give up the
 * lock of the loop, where with a GIL no other thread can come in.  Who has one of
 * these calls nothing of Python's, so that none of its waits can be for who waits. */
#define UVT_MUTEX_MEMBER(name) pthread_mutex_t name;
#define UVT_MUTEX_INIT(mutex) ((mutex) = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER)
#define UVT_MUTEX_LOCK(mutex) (void)pthread_mutex_lock(&(mutex))
#define UVT_MUTEX_UNLOCK(mutex) (void)pthread_mutex_unlock(&(mutex))

#else

#define UVT_LOCKED(lock) ((void)0)
#define UVT_YIELD(lock) ((void)0)
#define UVT_LOCK_MEMBER(name)
#define UVT_LOCK_KEEP(slot, lock) ((void)0)
#define UVT_LOCK_NEW(slot) true
#define UVT_LOCK_DROP(slot) ((void)0)
#define UVT_WEAK_NEW(slot, op) true
#define UVT_MUTEX_MEMBER(name)
#define UVT_MUTEX_INIT(mutex) ((void)0)
#define UVT_MUTEX_LOCK(mutex) ((void)0)
#define UVT_MUTEX_UNLOCK(mutex) ((void)0)

#endif

#endif
