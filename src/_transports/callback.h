/* Handle and TimerHandle: a callable, its arguments and its context, waiting
 * to be called.  They derive from asyncio's classes, whose slots stay unused.
 */
#ifndef TULIP_CALLBACK_H
#define TULIP_CALLBACK_H

#include "transportsmodule.h"

struct TulipLoop;

/* Room for the slots of asyncio.Handle and asyncio.TimerHandle; checked
 * against their basicsize when the types are made. */
#define TULIP_INHERITED_SLOTS 10
#define TULIP_ARGS_INLINE 3
/* In one of these slots: what call_at() was given when that was no float, or NULL. */
#define TULIP_GIVEN_WHEN inherited[0]

/* A C function in place of a Python callable.  `owner` and `arg` are the
 * handle's; it leaves no exception set. */
typedef void (*TulipCFunction)(PyObject *owner, PyObject *arg);

typedef struct TulipCallback {
    PyObject_HEAD
    PyObject *inherited[TULIP_INHERITED_SLOTS];
    struct TulipLoop *loop;     /* strong, for life; as free memory: the next */
    PyObject *callable;         /* NULL: cancelled; owner of a C function */
    PyObject *context;          /* NULL: only a C function may have none */
    TulipCFunction cfunction;   /* then args[1] is its arg, or nargs is 0 */
    PyObject **args;            /* args_inline or an allocation; args[0] is the
                                 * scratch slot of the vectorcall protocol */
    PyObject *args_inline[TULIP_ARGS_INLINE + 1];
    PyObject *source_traceback; /* debug mode, or NULL */
    PyObject *repr;             /* debug mode: from before the cancelling */
    uint32_t nargs;
    _Atomic bool cancelled;
    bool running;               /* what it is called with has to stay */
    bool tracked;               /* by the collector */
    _Atomic bool scheduled;     /* timer: in the heap */
    /* Only of a TimerHandle: */
    double when;                /* as the caller gave it */
    Py_ssize_t heap_index;
    uint64_t sequence;          /* orders equal deadlines */
} TulipCallback;

/* What call_soon() and the like were called with; all borrowed. */
typedef struct TulipCall {
    PyObject *first;            /* delay, when or fd; NULL where there is none */
    PyObject *callable;
    PyObject *const *args;
    Py_ssize_t nargs;
    PyObject *context;          /* NULL: a copy of the current one */
} TulipCall;

/* A handle that is not queued anywhere and not tracked: callback.c says who has
 * to do that.  args are copied; context NULL: a copy
 * of the current one.  NULL with an exception. */
UVT_NEW TulipCallback *tulip_callback_new(struct TulipLoop *loop,
                                          PyObject *callable,
                                          PyObject *const *args,
                                          Py_ssize_t nargs, PyObject *context,
                                          bool is_timer);
/* The same for a C function, which is called in no context of its own; owner
 * and arg (may be NULL) are kept until it has run. */
UVT_NEW TulipCallback *tulip_callback_new_c(struct TulipLoop *loop,
                                            TulipCFunction function,
                                            PyObject *owner, PyObject *arg,
                                            bool is_timer);

/* Cancels a handle, in whatever state.  -1 with an exception only in debug
 * mode, when it has no repr; then it is not cancelled. */
UVT_CHECKED int tulip_callback_cancel(TulipCallback *self);
/* Lets go of callable and arguments, which may run any code. */
void tulip_callback_drop(TulipCallback *self);
/* Frees the memory that is kept for new handles. */
void tulip_callback_free_list(struct TulipLoop *loop);

static inline void
tulip_callback_track(TulipCallback *self)
{
    if (!self->tracked) {
        self->tracked = true;
        PyObject_GC_Track(self);
    }
}

/* ---- arguments.c ---- */

/* Fills `call` from (first if it has a name, callback, *args, context=None);
 * false with TypeError.  The general case; tulip_bind is the quick one. */
UVT_CHECKED bool tulip_bind_slow(const char *method, const char *first_name,
                                 PyObject *const *args, Py_ssize_t nargs,
                                 PyObject *kwnames, TulipCall *call);

/* ---- invoke.c ---- */

/* Calls it in its context unless cancelled; exceptions go to the loop's
 * exception handler.  The caller owns a reference. -1 with an exception for
 * KeyboardInterrupt, SystemExit and what the exception handler raises. */
UVT_CHECKED int tulip_callback_run(TulipCallback *self);

#endif
