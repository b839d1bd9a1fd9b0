/* Requests that belong to a loop and not to a handle: work of the thread pool,
 * names that are looked up, files.
 *
 * As with handles there are two allocations.  The UvtTask is what Python sees;
 * the UvtJob holds the uv_*_t and all that a pool thread may touch, and lives
 * until libuv's callback, whatever becomes of the object.  As long as its job
 * is under way, the loop owns one reference to the task.
 */
#ifndef UVT_TASK_H
#define UVT_TASK_H

#include "loop.h"
#include "pool.h"

/* The beginning of a kind's own struct, which has the uv_*_t after it.  req's
 * data is the job. */
typedef struct UvtJob {
    struct UvtJob *prev, *next; /* the list of the loop's jobs */
    UvtCore *core;              /* since begin */
    struct UvtTask *owner;      /* borrowed; NULL: the object is gone */
    uv_req_t *req;              /* in the same allocation */
    UvtPool *pool;              /* strong; NULL: no pool thread asks for owner */
    /* Frees the job with all it owns, the pool included.  Attached; runs no callback. */
    void (*destroy)(struct UvtJob *self);
} UvtJob;

typedef struct UvtTask {
    PyObject_HEAD
    UvtState *st;               /* borrowed, through the type */
    UvtLoop *loop;              /* strong */
    PyObject *callback;         /* strong; NULL: none, or called already */
    PyObject *dict;
    PyObject *weakrefs;
    UvtJob *job;                /* NULL before begin and once done */
} UvtTask;

/* A zeroed job of `size` bytes whose uv_*_t stands at `offset`. */
UVT_NEW UvtJob *uvt_job_new(size_t size, size_t offset,
                            void (*destroy)(UvtJob *self));

/* A task of a type derived from Request, not begun.  Keeps loop and callback
 * (NULL: none). */
UVT_NEW UvtTask *uvt_task_new(PyTypeObject *type, UvtLoop *loop,
                              PyObject *callback);
/* Before libuv gets the request: the job is the loop's from now on.  A libuv status;
 * below 0 libuv would abort, and gets none. */
UVT_CHECKED int uvt_task_begin(UvtTask *self, UvtJob *job);
/* libuv has refused it, after begin: destroys the job. */
void uvt_task_refused(UvtTask *self);

/* Begins libuv's callback for the job: attaches, takes the job off the loop and
 * gives the loop's reference to the task.  NULL: there is nobody to tell, and
 * the job is destroyed.  Otherwise the caller destroys it. */
UVT_NEW UvtTask *uvt_task_enter(UvtJob *job);
/* Calls the task's callback, as uvt_call does a handle's; no later call. */
void uvt_task_call(UvtTask *self, PyObject **args, size_t nargs);

/* tp_traverse, tp_clear and tp_dealloc; a derived type calls the first two from
 * its own, and all of its own are in its spec. */
int uvt_task_traverse(UvtTask *self, visitproc visit, void *arg);
int uvt_task_clear(UvtTask *self);
void uvt_task_dealloc(UvtTask *self);

#define UVT_TASK_FLAGS \
    (Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE | \
     Py_TPFLAGS_DISALLOW_INSTANTIATION)

/* For the loop: asks libuv to cancel each job; parts each from its task, which
 * may run any code. */
void uvt_jobs_cancel(UvtCore *core);
void uvt_jobs_release(UvtCore *core);

/* Gives up the thread state around a call that blocks and that counts in the
 * uv_loop_t, which no other thread may touch meanwhile. */
typedef struct {
    PyThreadState *tstate;
    bool claimed;
} UvtBlocking;
UVT_CHECKED UvtBlocking uvt_blocking_begin(UvtLoop *loop);
void uvt_blocking_end(UvtLoop *loop, UvtBlocking blocking);

#endif
