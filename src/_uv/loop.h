/* The Loop object. */
#ifndef UVT_LOOP_H
#define UVT_LOOP_H

#include "uvmodule.h"
#include "uv_capi.h"

#define UVT_SLAB_SIZE (256 * 1024)

struct UvtBox;
struct UvtWakeup;

/* What libuv holds pointers to; it outlives the object if it must. */
typedef struct UvtCore {
    uv_loop_t uv;                   /* its data is this struct */
    uv_prepare_t before_poll;       /* last to run before the poll */
    struct UvtBox *boxes;           /* list of all handles' boxes */
    struct UvtJob *jobs;            /* list of requests of no handle (task.h) */
    struct UvtChildren *children;   /* of children.c; NULL: none yet */
    struct UvtLoop *owner;          /* borrowed; NULL: being torn down */
    struct UvtCore *next_grave;     /* in the list of graves */
    size_t reserve;     /* for libuv's use in each turn (reserve.c) */
    bool orphans;       /* a box lost its object where it could not be closed */
    bool forked;        /* it is the parent process's: libuv may not be called */
    bool torn;          /* and it was running */
    bool lost;          /* somebody has closed descriptors of the loop's own */
    pid_t pid;          /* of the process that made it */
    void (*libuv_woken)(uv_loop_t *, uv__io_t *, unsigned);     /* guard_own.c */
    void (*libuv_signalled)(uv_loop_t *, uv__io_t *, unsigned);
    struct UvtInotify *inotify;     /* of inotify.c; NULL: none yet */
    bool counts_signals;            /* for signal_count.c, as what follows */
    unsigned long signals_seen;
    uv_idle_t signals_idle;
    uv_check_t signals_check;
    struct UvtSignalNode *signal_node;
    bool uses_pool;     /* has had requests for libuv's pool (pool_start.c) */
    bool embedded;      /* the program has asked for its descriptor */
    int ring_fd;        /* of io_uring, which newer libuv makes; -1: none */
    UvtFileId ring, signal_pipe;    /* what that was, and its pipe of signals */
    bool in_timer;                  /* inside of a timer's callback */
    unsigned timer_pass;            /* another one after each poll */
    struct UvtBox *timers_aside;    /* list of those that wait for it (timer.c) */
} UvtCore;

/* Cores without an object that a pool thread still uses.  Counted, one use for
 * the module's state and one for each loop: at the end of an interpreter the
 * state can go before the loops. */
typedef struct UvtGraves {
    UVT_MUTEX_MEMBER(mutex)         /* for what follows */
    size_t users;
    UvtCore *first;
    struct UvtStray *strays;        /* children that no loop waits for */
    struct UvtTerminal *terminals;  /* whose mode was changed (tty_mode.c) */
} UvtGraves;

typedef struct UvtLoop {
    PyObject_HEAD
    UvtState *st;                   /* the module's */
    PyObject *module;               /* strong, for life: has the state.  A type
                                     * that is collected lets go of its module. */
    UVT_LOCK_MEMBER(lock)           /* strong, for life */
    UvtCore *core;                  /* NULL before init and once closed */
    UvtGraves *graves;              /* counted; NULL before init */
    PyThreadState *detached;        /* set while the poll runs without us */
    _Atomic unsigned long thread_id;    /* of the running thread, or 0 */
    uv_run_mode mode;               /* of the turn that runs */
    bool in_poll;                   /* inside of uv_run */
    bool running_in_child;          /* a fork happened inside of this run */
    char *slab;                     /* where streams and sockets read to */
    bool slab_lent;
    bool initialised;
    bool closing;                   /* inside of close() */
    bool is_default;
    UvtLoopMetrics metrics;         /* run_ms without the current run */
    uint64_t run_began;             /* uv_now() at its begin; 0: not running */
    uint64_t turn_began;            /* and at the last begin or end of a poll */
    bool idle_time_metered;         /* configured with UV_METRICS_IDLE_TIME */
    struct UvtWakeup *wakeup;       /* how signals reach a blocked poll */
    PyObject *raised;               /* KeyboardInterrupt, ...: run raises it */
    const UvtLoopHooks *hooks;      /* of a C consumer, or NULL */
    PyObject *hooks_owner;          /* strong, with hooks */
    struct UvtLoop *prev, *next;    /* the module's open loops (fork.c) */
    PyObject *dict;
    PyObject *weakrefs;
} UvtLoop;

/* The lock of what is given as a loop; NULL when it is none.  With a GIL there is
 * none, and nobody asks. */
UVT_BORROWED static inline PyObject *
uvt_lock_of(const UvtState *st, PyObject *loop)
{
#ifdef Py_GIL_DISABLED
    return loop != NULL && PyObject_TypeCheck(loop, st->loop_type)
        ? ((UvtLoop *)loop)->lock : NULL;
#else
    (void)st, (void)loop;
    return NULL;
#endif
}

/* The same of what an __init__ is called with: its first argument is the loop. */
UVT_BORROWED static inline PyObject *
uvt_lock_of_init(const UvtState *st, PyObject *args, PyObject *kwds)
{
    if (PyTuple_GET_SIZE(args) > 0) {
        return uvt_lock_of(st, PyTuple_GET_ITEM(args, 0));
    }
    return kwds != NULL ? uvt_lock_of(st, PyDict_GetItemString(kwds, "loop")) : NULL;
}

/* The object behind a uv_loop_t; NULL while it is being torn down. */
UVT_BORROWED static inline UvtLoop *
uvt_loop_of(const uv_loop_t *uv)
{
    return ((UvtCore *)uv->data)->owner;
}

/* True when the loop is initialised, open and not run by another thread. */
UVT_CHECKED bool uvt_loop_check(UvtLoop *self);

/* loop is an open Loop of this module; TypeError or RuntimeError. */
UVT_CHECKED bool uvt_loop_check_arg(UvtState *st, PyObject *loop);

/* Takes the thread state back if the poll gave it up. */
void uvt_loop_take_thread(UvtLoop *self);
static inline void
uvt_loop_attach(UvtLoop *self)
{
    if (self->detached != NULL) {
        uvt_loop_take_thread(self);
    }
}

/* Keeps the raised exception for run() to raise, and stops the loop. */
void uvt_loop_raise_later(UvtLoop *self);

/* Reports the raised exception: to the consumer's hook, to excepthook, or, when
 * it is no Exception, by stopping the loop and raising it from run().
 * `what` is the object whose callback raised, or NULL. */
void uvt_loop_report(UvtLoop *self, PyObject *what);
/* Gives what a handler of Python's signals has raised to a replaced excepthook;
 * false: there is none, and the exception stays. */
UVT_CHECKED bool uvt_loop_hook_signal(UvtLoop *self);

/* The outer part of a run, and one pass of libuv inside it.  begin and turn
 * return 0, or -1 with an exception; end may be called with one set.
 * turn returns 1 while there is something to wait for. */
UVT_CHECKED int uvt_loop_run_begin(UvtLoop *self);
UVT_CHECKED int uvt_loop_turn(UvtLoop *self, uv_run_mode mode);
void uvt_loop_run_end(UvtLoop *self);
/* In a run, between two turns: whether a turn without waiting would do anything. */
bool uvt_loop_has_work(UvtLoop *self, int64_t now);
/* Closes every handle, runs their close callbacks, then closes the loop.  -1: with an
 * exception, and it is closed unless something goes on opening handles. */
UVT_CHECKED int uvt_loop_close(UvtLoop *self);
UVT_CHECKED int uvt_loop_close_begin(UvtLoop *self);    /* as in uv_capi.h */
bool uvt_loop_is_closed(const UvtLoop *self);

/* loop_metrics.c: begin and end of a run, what was counted up to now, and the
 * methods for the table in loop.c. */
void uvt_metrics_begin(UvtLoop *self);
void uvt_metrics_end(UvtLoop *self);
void uvt_loop_read_metrics(UvtLoop *self, UvtLoopMetrics *out);
PyObject *uvt_loop_metrics(UvtLoop *self, PyObject *unused);
PyObject *uvt_loop_metrics_idle_time(UvtLoop *self, PyObject *unused);
PyObject *uvt_loop_metrics_info(UvtLoop *self, PyObject *unused);
extern const char uvt_loop_metrics_doc[];
extern const char uvt_loop_metrics_idle_time_doc[];
extern const char uvt_loop_metrics_info_doc[];

/* The callbacks of a turn are over. */
static inline void
uvt_metrics_turn(UvtLoop *self, uint64_t now)
{
    uint64_t busy = now - self->turn_began;
    self->metrics.turns++;
    if (busy > self->metrics.longest_ms && !self->closing) {
        self->metrics.longest_ms = busy;
    }
    self->turn_began = now;
}

/* A poll that may have waited is over. */
static inline void
uvt_metrics_waited(UvtLoop *self, uint64_t now)
{
    self->metrics.idle_ms += now - self->turn_began;
    self->turn_began = now;
}

/* Frees all that belongs to libuv without calling Python; harmless when that is
 * gone already. */
void uvt_loop_free_core(UvtLoop *self);

/* loop_close.c: made for the state; used by one more, by one less. */
UVT_CHECKED int uvt_graves_setup(UvtState *st);
UvtGraves *uvt_graves_use(UvtGraves *self);
void uvt_graves_drop(UvtGraves *self);
/* Frees those that no pool thread uses any more. */
void uvt_graves_reap(UvtGraves *self);
/* Lets go of every held handle. */
void uvt_loop_release_handles(UvtLoop *self);

/* Starts the handle that calls on_before_poll, on a fresh loop. */
void uvt_loop_watch_polls(UvtCore *core);

/* The methods of run.c, loop_close.c and loop_rare.c, for the table in loop.c. */
PyObject *uvt_loop_fork(UvtLoop *self, PyObject *unused);
PyObject *uvt_loop_print_handles(UvtLoop *self, PyObject *const *args,
                                 Py_ssize_t nargs);
extern const char uvt_loop_fork_doc[], uvt_loop_print_handles_doc[];
PyObject *uvt_loop_close_method(UvtLoop *self, PyObject *unused);
PyObject *uvt_loop_run(UvtLoop *self, PyObject *const *args, Py_ssize_t nargs);
PyObject *uvt_loop_stop(UvtLoop *self, PyObject *unused);
PyObject *uvt_loop_excepthook(UvtLoop *self, PyObject *const *args,
                              Py_ssize_t nargs);

/* Lends the slab to one read at a time; leaves *buf empty (libuv then reports
 * ENOBUFS) when there is no memory or when it is lent already. */
static inline void
uvt_slab_take(UvtLoop *self, uv_buf_t *buf)
{
    if (self->slab_lent
        || (self->slab == NULL
            && (self->slab = PyMem_RawMalloc(UVT_SLAB_SIZE)) == NULL)) {
        return;
    }
    self->slab_lent = true;
    buf->base = self->slab;
    buf->len = UVT_SLAB_SIZE;
}

static inline void
uvt_slab_give(UvtLoop *self)
{
    self->slab_lent = false;
}

/* timer.c: right before a poll, and when one is closed. */
void uvt_timers_bring_back(UvtCore *core);
void uvt_timer_forget(UvtCore *core, struct UvtBox *box);

/* wakeup.c: Python's signals reach a blocked poll.  start is called by a run
 * on the main thread, stop when that run ends; 0, or -1 with an exception. */
UVT_CHECKED int uvt_wakeup_start(UvtLoop *self);
void uvt_wakeup_stop(UvtLoop *self);
void uvt_wakeup_free(UvtLoop *self);
/* In a forked child: Python's wake-up descriptor is no longer the parent's. */
void uvt_wakeup_forked(UvtLoop *self);
/* When the watcher is the wake-up's: somebody closed its descriptor.  Gives it
 * up, the next run makes another, and returns true. */
bool uvt_wakeup_lost(UvtLoop *self, const uv__io_t *watcher);

#endif
