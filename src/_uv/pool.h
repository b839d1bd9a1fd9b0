/* The threads of libuv's pool as threads of an interpreter. */
#ifndef UVT_POOL_H
#define UVT_POOL_H

#include "loop.h"

/* What a pool thread needs of an interpreter; counted, since a thread can look
 * at it when the module is gone. */
typedef struct UvtPool UvtPool;

/* Has the interpreter tell of its end; 0, or -1 with an exception. */
UVT_CHECKED int uvt_pool_setup(PyObject *module);

/* pool_start.c: before each request that is for libuv's pool, whose threads are made
 * with the first.  A libuv status: UV_EAGAIN when the system has none to give. */
UVT_CHECKED int uvt_pool_prepare(UvtState *st, UvtCore *core);
/* A loop that has had such requests: its threads wake it only while it waits. */
void uvt_pool_hush(UvtCore *core);
void uvt_pool_before_poll(UvtCore *core, bool waits);
void uvt_pool_after_run(UvtCore *core);
/* Whether a request is done that was not told of. */
bool uvt_pool_has_done(UvtCore *core);

/* The pool of the module's interpreter; counted for the caller.  RuntimeError
 * when the interpreter is ending. */
UVT_NEW UvtPool *uvt_pool_get(UvtState *st);
void uvt_pool_release(UVT_STEALS(1) UvtPool *self);
/* The module goes. */
void uvt_pool_drop(UvtState *st);

/* On a thread of the pool, around Python code.  NULL: the interpreter is ending
 * and nothing of it may be touched.  Otherwise the thread is attached. */
PyThreadState *uvt_pool_enter(UvtPool *self);
void uvt_pool_leave(UvtPool *self, PyThreadState *tstate);

/* For what the loop's thread and a pool thread both look at, for moments. */
void uvt_pool_lock(UvtPool *self);
void uvt_pool_unlock(UvtPool *self);

#endif
