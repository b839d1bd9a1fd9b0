/* The C half of uvtulip.Loop. */
#ifndef TULIP_EVENTLOOP_H
#define TULIP_EVENTLOOP_H

#include "transportsmodule.h"
#include "callback.h"
#include "ready.h"
#include "timers.h"

struct TulipStream;
struct TulipServer;
struct TulipSockets;
struct TulipDatagram;
struct TulipArrivals;
struct TulipLookups;
struct TulipAccepted;

typedef struct TulipLoop {
    PyObject_HEAD
    TulipState *st;                 /* the module's */
    PyObject *module;               /* strong, for life: has the state.  A type
                                     * that is collected lets go of its module. */
    UVT_LOCK_MEMBER(lock)           /* the raw loop's; strong since init */
    PyTypeObject *callback_type;    /* strong: of the free memory, too */
    PyTypeObject *timer_type;       /* strong */
    PyTypeObject *drain_type;       /* the last that drain() was asked for; */
    bool can_drain;                 /* whether its objects can be drained */
    TulipCallback *free;            /* memory for new handles, a list */
    int free_count;
    bool stopping;
    bool closing;                   /* inside of _close() */
    _Atomic bool closed;
    bool forked;                    /* it is the parent process's; so closed */
    _Atomic bool debug;
    _Atomic bool polling;           /* the poll may block right now */
    _Atomic bool called;            /* something is in the inbox */
    bool timer_due;                 /* a timer was due when it was set */
    bool other_time;                /* time() is not ours, clock.c */
    bool no_poll;                   /* before the next batch of callbacks */
    bool due;                       /* the deadline fired in this turn */
    uint64_t turns;                 /* how many were begun */
    uint64_t usual_batch;           /* run.c: what one takes, in ticks, ... */
    uint64_t usual_look;            /* ... and a look whether a poll is due */
    TulipRing ready;                /* callbacks of this and the next turn */
    TulipRing inbox;                /* without a GIL: from other threads */
    TulipTimers timers;
    int64_t armed;                  /* what `deadline` is set to, ns */
    PyObject *uv_loop;              /* uvtulip.uv.Loop; strong */
    uv_loop_t *uv;                  /* of uv_loop; NULL once closed */
    PyObject *wakeup;               /* uv.Async; NULL before the first run */
    uv_async_t *wakeup_uv;          /* of wakeup */
    PyObject *deadline;             /* uv.Timer that ends a poll, or NULL */
    struct TulipStream *dirty;      /* transports with unflushed writes */
    struct TulipStream **dirty_end; /* where the next one is linked in */
    int64_t dirty_since;            /* of the first that waits for others, ns */
    unsigned dirty_count;           /* of those that wait for others */
    unsigned prompt;                /* so many are not to wait */
    char *tls_slab;                 /* for a batch of ciphertext, or NULL */
    PyObject *readiness;            /* {fd: Watcher} of add_reader, add_writer */
    unsigned idle_watchers;         /* those in it without a callback */
    unsigned char *fd_marks;        /* a bit for each descriptor, fdusers.c */
    size_t fd_marks_size;           /* in bytes */
    struct TulipAccepted *accepted; /* new connections of servers, or NULL */
    size_t accepted_waiting;        /* of these, for connection_made() */
    struct TulipLookups *lookups;   /* names that are asked for; or NULL */
    struct TulipSockets *sockets;   /* who waits in sock_*; NULL until needed */
    PyObject *loop_kwargs;          /* {"loop": self} for Future and Task */
    PyObject *task_factory;         /* NULL: none */
    PyObject *signal_hook;          /* called with bytes of signums, or NULL */
    PyObject *raised;               /* what _run has to raise, or NULL */
    PyObject *current_handle;       /* debug mode: the one that runs */
    double slow_callback_duration;
    bool watched;                   /* each callback is timed: in debug mode, and
                                     * when it was asked for */
    bool timing;                    /* when it was asked for */
    size_t most_ready;              /* the longest batch so far */
    int64_t slowest;                /* of the callbacks timed so far, ns */
    PyObject *slowest_name;         /* str; NULL: none was timed */
    _Atomic unsigned long thread_id;    /* of the running thread, or 0 */
#ifdef Py_GIL_DISABLED
    PyMutex inbox_lock;             /* for inbox, polling, closed, wakeup_uv */
#endif
    struct TulipDatagram *datagrams;        /* the same of datagrams, ... */
    struct TulipDatagram *last_datagrams;   /* ... the latest at the end */
    struct TulipArrivals *arrivals; /* where datagrams come in; NULL: none yet */
    PyObject *dict;
    PyObject *weakrefs;
} TulipLoop;

/* What is locked for what belongs to the loop, which is NULL before an __init__. */
#ifdef Py_GIL_DISABLED
UVT_BORROWED static inline PyObject *
tulip_lock(const TulipLoop *loop)
{
    return loop != NULL ? loop->lock : NULL;
}
#endif

/* ---- guards.c ---- */

/* Raises RuntimeError("Event loop is closed") and returns false; names the fork
 * when it is only that. */
UVT_CHECKED bool tulip_loop_check_open(TulipLoop *self);
/* In debug mode: RuntimeError when called from another thread than the one
 * that runs the loop. */
UVT_CHECKED bool tulip_loop_check_thread(TulipLoop *self);
/* The same in any mode. */
UVT_CHECKED bool tulip_loop_check_own_thread(TulipLoop *self);
/* What call_soon() and the like demand: an open loop; in debug mode also the
 * right thread (if `here`) and something that can be called. */
UVT_CHECKED bool tulip_loop_check_call_slow(TulipLoop *self, const char *method,
                                            PyObject *callable, bool here);

/* ---- eventloop.c ---- */

/* Takes a reference to a method's value apart: None is NULL. */
void tulip_loop_set_hook(PyObject **slot, PyObject *value);

/* ---- run.c ---- */

/* Live time.monotonic() in nanoseconds. */
int64_t tulip_now(void);

/* Hands the raised exception to loop.call_exception_handler() as
 * {"message", "exception", ...}; members that are NULL are left out.
 * KeyboardInterrupt, SystemExit and what the handler raises are kept instead,
 * and raised out of run_forever() at the end of this turn.  Leaves none set. */
void tulip_loop_report(TulipLoop *self, const char *message,
                       PyObject *transport, PyObject *protocol,
                       TulipCallback *handle);
/* The same with the context given, a dict without the exception; steals
 * nothing.  -1 with the exception that has to leave run_forever(). */
UVT_CHECKED int tulip_loop_report_context(TulipLoop *self, PyObject *context);
/* Keeps the raised exception for _run to raise. */
void tulip_loop_raise_later(TulipLoop *self);

PyObject *tulip_loop_run(TulipLoop *self, PyObject *unused);
PyObject *tulip_loop_stop(TulipLoop *self, PyObject *unused);

/* ---- invoke.c ---- */

/* Runs the first `count` callbacks that are ready; 0, or -1 with an exception, and
 * then the rest of them stays. */
UVT_CHECKED int tulip_loop_run_ready(TulipLoop *self, size_t count);

/* ---- metrics.c ---- */

/* A timed callback has ended. */
void tulip_loop_note_slow(TulipLoop *self, PyObject *callable, int64_t took);
extern PyMethodDef tulip_metrics_methods[];

/* ---- ready.c ---- */

/* Appends a new handle; -1 with MemoryError, and it is dropped. */
UVT_CHECKED int tulip_loop_enqueue(TulipLoop *self,
                                   UVT_STEALS(2) TulipCallback *handle);
/* The run ends: tracks what is left in the ring. */
void tulip_loop_track_ready(TulipLoop *self);
/* Appends a callback for the next turn; 0, or -1 with an exception. */
UVT_CHECKED int tulip_loop_call_soon(TulipLoop *self, PyObject *callable,
                                     PyObject *const *args, Py_ssize_t nargs,
                                     PyObject *context);
/* The same for a C function; owner and arg (may be NULL) are kept until it has
 * run. */
UVT_CHECKED int tulip_loop_call_soon_c(TulipLoop *self, TulipCFunction function,
                                       PyObject *owner, PyObject *arg);
PyObject *tulip_loop_py_call_soon(TulipLoop *self, PyObject *const *args,
                                  Py_ssize_t nargs, PyObject *kwnames);

/* ---- timers.c ---- */

/* Before a poll that may block.  1: a timer is due, don't block; 0: the poll
 * will end in time; -1 with an exception. */
UVT_CHECKED int tulip_loop_arm(TulipLoop *self);
/* Moves the timers that are due to the ready ring; 0, or -1 with MemoryError. */
UVT_CHECKED int tulip_loop_move_due(TulipLoop *self);
/* call_later() for a C function. */
UVT_NEW TulipCallback *tulip_loop_call_later_c(TulipLoop *self, double delay,
                                               TulipCFunction function,
                                               PyObject *owner);
PyObject *tulip_loop_py_call_later(TulipLoop *self, PyObject *const *args,
                                   Py_ssize_t nargs, PyObject *kwnames);
PyObject *tulip_loop_py_call_at(TulipLoop *self, PyObject *const *args,
                                Py_ssize_t nargs, PyObject *kwnames);

/* ---- fork.c ---- */

/* Raises RuntimeError that names the fork, or again the SystemExit or
 * KeyboardInterrupt that is being handled; returns false. */
UVT_CHECKED bool tulip_loop_refuse_child(void);
/* The hook of the raw loop: this is a child of the loop's process. */
void tulip_loop_on_forked(PyObject *owner);

/* ---- threadsafe.c ---- */

extern const UvtLoopHooks tulip_loop_hooks;
/* The handle that wakes a blocked poll, made when there is none: it keeps the run
 * going, or does no longer.  0, or -1 with an exception. */
UVT_CHECKED int tulip_loop_ref_wakeup(TulipLoop *self);
void tulip_loop_unref_wakeup(TulipLoop *self);
/* Ends a poll that blocks; any thread. */
void tulip_loop_wake(TulipLoop *self);
/* The same after something was put where only the loop's next turn looks: another
 * thread may do so, while the loop's own waits.  A callback in the poll comes back
 * there by itself. */
static inline void
tulip_loop_wake_if_polling(TulipLoop *self)
{
    if (atomic_load_explicit(&self->polling, memory_order_relaxed)
        && self->thread_id != PyThread_get_thread_ident()) {
        tulip_loop_wake(self);
    }
}
/* After a poll. */
void tulip_loop_end_poll(TulipLoop *self);
/* Without a GIL: moves the inbox to the ready ring; 0, or -1. */
UVT_CHECKED int tulip_loop_take_inbox(TulipLoop *self);
static inline bool
tulip_loop_was_called(const TulipLoop *self)
{
    return atomic_load_explicit(&self->called, memory_order_relaxed);
}
/* In another thread than the one that runs the loop, outside of debug mode: has the
 * loop's call the method, whose arguments are checked.  `arg` may be NULL.  None, or
 * NULL with an exception. */
PyObject *tulip_loop_forward(TulipLoop *self, PyObject *owner, const char *method,
                             PyObject *arg);
/* True when that is what is to be done. */
static inline bool tulip_loop_is_elsewhere(const TulipLoop *self);
/* From now on call_soon_threadsafe() refuses. */
void tulip_loop_set_closed(TulipLoop *self);
PyObject *tulip_loop_py_call_soon_threadsafe(TulipLoop *self,
                                             PyObject *const *args,
                                             Py_ssize_t nargs,
                                             PyObject *kwnames);
PyObject *tulip_loop_py_set_signal_hook(TulipLoop *self, PyObject *hook);

/* ---- tasks.c ---- */

/* future.set_result(result), or set_exception(exc) if that is not NULL, unless
 * the future is done: cancelled, that is.  0, or -1 with an exception. */
UVT_CHECKED int tulip_future_settle(TulipLoop *self, PyObject *future,
                                    PyObject *result, PyObject *exc);
PyObject *tulip_loop_py_create_future(TulipLoop *self, PyObject *unused);
PyObject *tulip_loop_py_create_task(TulipLoop *self, PyObject *const *args,
                                    Py_ssize_t nargs, PyObject *kwnames);
PyObject *tulip_loop_py_set_task_factory(TulipLoop *self, PyObject *const *args,
                                         Py_ssize_t nargs, PyObject *kwnames);
PyObject *tulip_loop_py_get_task_factory(TulipLoop *self, PyObject *unused);

/* ---- fdusers.c ---- */

/* A transport has this descriptor now. */
void tulip_loop_mark_fd(TulipLoop *loop, int fd);
/* False with asyncio's RuntimeError when an open transport has it. */
UVT_CHECKED bool tulip_loop_check_transports(TulipLoop *loop, int fd);
/* Raises that error, naming who has it. */
void tulip_loop_raise_in_use(TulipLoop *loop, int fd);

/* ---- accepted.c ---- */

/* Calls connection_made() for all that wait for it. */
void tulip_accepted_begin(TulipLoop *loop);
int tulip_accepted_traverse(TulipLoop *loop, visitproc visit, void *arg);
void tulip_accepted_end(TulipLoop *loop);

/* ---- readiness.c ---- */

/* As tulip_loop_check_transports; false also when a raw handle watches it. */
UVT_CHECKED bool tulip_loop_check_fd(TulipLoop *self, int fd);
extern PyMethodDef tulip_readiness_methods[];
PyObject *tulip_loop_py_add_reader(TulipLoop *self, PyObject *const *args,
                                   Py_ssize_t nargs, PyObject *kwnames);
PyObject *tulip_loop_py_add_writer(TulipLoop *self, PyObject *const *args,
                                   Py_ssize_t nargs, PyObject *kwnames);
PyObject *tulip_loop_py_remove_reader(TulipLoop *self, PyObject *const *args,
                                      Py_ssize_t nargs, PyObject *kwnames);
PyObject *tulip_loop_py_remove_writer(TulipLoop *self, PyObject *const *args,
                                      Py_ssize_t nargs, PyObject *kwnames);

/* ---- for transports of every kind ---- */

#define TULIP_HIGH_WATER ((size_t)64 * 1024)

/* protocol.c.  The method `name` of the protocol or, with *bare, the function
 * behind it: that saves one object in each connection.  NULL: there is none. */
PyObject *tulip_find_method(PyObject *protocol, PyObject *name, bool *bare);
/* Debug mode's look at how long a call took; what is raised stays. */
void tulip_warn_if_slow(TulipLoop *loop, PyObject *transport, PyObject *what,
                        int64_t begin);

/* Whose protocol is called in which context; all borrowed. */
typedef struct TulipProtocolCall {
    TulipLoop *loop;
    PyObject *transport;
    PyObject *context;
    PyObject *protocol;
} TulipProtocolCall;

/* Calls a method of the protocol; arg may be NULL. */
UVT_NEW PyObject *tulip_protocol_call(const TulipProtocolCall *call,
                                      PyObject *name, PyObject *arg);
/* Calls function(arg) or, if it is `bare`, function(protocol, arg). */
UVT_NEW PyObject *tulip_protocol_vectorcall(const TulipProtocolCall *call,
                                            PyObject *function, bool bare,
                                            PyObject *arg);
/* asyncio goes by the class; what has get_buffer(), and not data_received(), will do
 * too.  -1 with an exception. */
UVT_CHECKED int tulip_is_buffered(TulipState *st, PyObject *protocol);
/* logger.debug("%r: %s", transport, message, exc_info=exc) in debug mode. */
void tulip_debug_error(TulipLoop *loop, PyObject *transport, const char *message,
                       PyObject *exc);
/* logger.debug(format, transport) when the loop is in debug mode. */
void tulip_debug(TulipLoop *loop, const char *format, PyObject *transport);

/* write.c.  What write() and sendto() take; false with TypeError. */
UVT_CHECKED bool tulip_check_data(PyObject *data);
/* The connection is gone; from the fifth time on it logs this as a warning, as nobody
 * seems to notice.  -1 with an exception. */
UVT_CHECKED int tulip_count_lost_write(TulipLoop *loop, unsigned *count,
                                       const char *message);

/* extrainfo.c.  get_extra_info() for what is in the dict `extra` (NULL: none) or what
 * `ask` knows of the transport; that gives a new reference, or NULL without an
 * exception for a name, a str, that it does not know. */
typedef PyObject *(*TulipAsk)(PyObject *transport, PyObject *name);
UVT_NEW PyObject *tulip_get_extra_info(PyObject *transport, PyObject *extra,
                                       TulipAsk ask, PyObject *args,
                                       PyObject *kwds);
/* Keeps what is given as 'socket' (None: nothing) in *slot. */
void tulip_show_socket(TulipLoop *loop, PyObject **slot, PyObject *sock);

/* flowcontrol.c.  The arguments of set_write_buffer_limits(); false with an
 * exception, and then nothing has changed. */
UVT_CHECKED bool tulip_parse_limits(PyObject *args, PyObject *kwds,
                                    size_t *high, size_t *low);
extern const char tulip_set_limits_doc[];

/* transport.c.  As tulip_add_type, with a base of asyncio's, or (unless `second` is
 * NULL) two, which have to have this size. */
UVT_CHECKED int tulip_add_transport(PyObject *module, PyTypeObject **slot,
                                    PyType_Spec *spec, const char *first,
                                    const char *second, Py_ssize_t size);
/* Adds the methods of one of the type's files. */
UVT_CHECKED int tulip_add_methods(PyTypeObject *type, PyMethodDef *methods);
/* Sets the result of a future that is not cancelled; reports what goes wrong. */
void tulip_set_waiter(TulipLoop *loop, PyObject *transport, PyObject *protocol,
                      PyObject *waiter);

/* ---- on the hot path ---- */

/* No other thread runs it. */
static inline bool
tulip_loop_is_here(const TulipLoop *self)
{
    unsigned long running = self->thread_id;
    return running == 0 || running == PyThread_get_thread_ident();
}

/* A handle of libuv's watches this number; read from its table, as poll.c does. */
static inline bool
tulip_loop_watches(const TulipLoop *self, int fd)
{
    return (unsigned)fd < self->uv->nwatchers && self->uv->watchers[fd] != NULL;
}

static inline bool
tulip_loop_is_elsewhere(const TulipLoop *self)
{
    return !tulip_loop_is_here(self) && !self->forked && !self->debug;
}

/* In a forked child: the parent's loop was closed there, too. */
static inline bool
tulip_loop_is_closed(const TulipLoop *self)
{
    return self->closed && (!self->forked || self->uv == NULL);
}

/* False with RuntimeError in a forked child, whose transports are the parent's:
 * what is sent or shut down there, is so for both. */
UVT_CHECKED static inline bool
tulip_loop_check_fork(const TulipLoop *self)
{
    return !self->forked || tulip_loop_refuse_child();
}

UVT_CHECKED static inline bool
tulip_loop_check_call(TulipLoop *self, const char *method, PyObject *callable,
                      bool here)
{
    return (!self->closed && !self->debug)
        || tulip_loop_check_call_slow(self, method, callable, here);
}

/* Whether tulip_flush_dirty() has something to do. */
static inline bool
tulip_loop_has_unsent(const TulipLoop *self)
{
    return self->dirty != NULL || self->datagrams != NULL;
}

/* Fills `call`; false with TypeError. */
UVT_CHECKED static inline bool
tulip_bind(TulipLoop *self, const char *method, const char *first_name,
           PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
           TulipCall *call)
{
    const Py_ssize_t first = first_name != NULL;
    bool has_context = kwnames != NULL && PyTuple_GET_SIZE(kwnames) == 1
        && PyTuple_GET_ITEM(kwnames, 0) == self->st->str_context;
    if (nargs <= first || (kwnames != NULL && !has_context)) {
        return tulip_bind_slow(method, first_name, args, nargs, kwnames,
                               call);
    }
    *call = (TulipCall){
        .first = first ? args[0] : NULL,
        .callable = args[first],
        .args = args + first + 1,
        .nargs = nargs - first - 1,
        .context = has_context && args[nargs] != Py_None ? args[nargs] : NULL,
    };
    return true;
}

#endif
