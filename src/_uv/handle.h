/* The base of all handles.
 *
 * The object (UvtHandle) and the libuv handle live in two allocations, since
 * libuv may need its memory (the UvtBox) until the close callback, longer than
 * Python needs the object.  Each points at the other; whichever goes first
 * clears the pointer of the other.
 *
 * While a handle is active, has a request pending, is closing or serves a
 * consumer, the loop owns one reference to the object (`held`).  Every
 * function that changes one of these ends with uvt_handle_update().
 */
#ifndef UVT_HANDLE_H
#define UVT_HANDLE_H

#include "uvmodule.h"
#include "uv_capi.h"

struct UvtLoop;
struct UvtHandle;

typedef struct UvtBox {
    struct UvtBox *prev, *next;     /* the list of the loop's boxes */
    struct UvtHandle *owner;        /* borrowed; NULL: the object is gone */
    UVT_LOCK_MEMBER(weak)           /* a weak reference to it */
    unsigned pins;                  /* writes under way that send the handle */
    bool closed;                    /* freed with the last pin */
    bool standard;                  /* took over one of 0 to 2, which stays open */
    int hidden_fd;                  /* in a forked child (fork.c); plus 1 */
    bool timer_aside;               /* Timer: in the loop's list (timer.c) */
    unsigned timer_pass;            /* Timer: in which it was started */
    struct UvtBox *next_aside;
    unsigned long signals_seen;     /* Signal: deliveries (signal_count.c) */
    bool watches;                   /* FSEvent: in a list of inotify.c */
    unsigned told_event;            /* FSEvent: the last one */
    struct UvtBox *next_watch;
    struct UvtTerminal *terminal;   /* TTY: in another mode (tty_mode.c), or NULL */
    struct UvtBox *next_of_terminal;
    struct UvtListener *listener;   /* listen.c; NULL: it does not listen */
    struct UvtPipeFile *file;       /* pipe_file.c; NULL: no path was bound */
    union {                         /* only as large as its type needs */
        uv_handle_t handle;
        uv_stream_t stream;
        uv_tcp_t tcp;
        uv_pipe_t pipe;
        uv_udp_t udp;
        uv_poll_t poll;
        uv_timer_t timer;
        uv_signal_t signal;
        uv_async_t async;
        uv_idle_t idle;
        uv_prepare_t prepare;
        uv_check_t check;
        uv_process_t process;
        uv_tty_t tty;
        uv_fs_event_t fs_event;
        uv_fs_poll_t fs_poll;
    } uv;                           /* its data is this box */
} UvtBox;

typedef struct UvtHandle {
    PyObject_HEAD
    UvtState *st;                   /* borrowed, through the type */
    UVT_LOCK_MEMBER(lock)           /* the loop's; strong since init */
    struct UvtLoop *loop;           /* strong; NULL before init, after close */
    UvtBox *box;                    /* NULL before init and once closed */
    PyObject *dict;
    PyObject *weakrefs;
    PyObject *callback;             /* of start*(), listen() */
    PyObject *close_callback;
    const UvtConsumer *consumer;    /* NULL: driven from Python */
    PyObject *consumer_owner;       /* strong, with consumer */
    struct UvtRequest *requests;    /* those under way (request.h) */
    unsigned pending;               /* and how many they are */
    unsigned char kind;             /* uv_handle_type */
    unsigned char exc;              /* UvtExc: its own error class */
    bool initialised;
    bool held;                      /* the loop owns a reference */
    bool listening;                 /* Stream: since listen() */
    bool reading;                   /* Stream: between read_start and its end */
    bool unwatchable;               /* Pipe: a device that epoll refuses */
    bool reads_into;                /* Stream: buffers of the program's */
    bool loose;                     /* its consumer alone does not keep it */
    bool blocks;                    /* Stream: its descriptor does, when it writes */
    bool dry;                       /* Stream, UDP: the last read found nothing */
    bool starved;                   /* Pipe: no descriptor is left to receive one */
    int fd;                         /* Poll: the watched descriptor; else -1 */
} UvtHandle;

/* tp_new of every handle type: an object that is not initialised. */
PyObject *uvt_handle_new(PyTypeObject *type, PyObject *args, PyObject *kwds);
int uvt_handle_traverse(UvtHandle *self, visitproc visit, void *arg);
int uvt_handle_clear(UvtHandle *self);
void uvt_handle_dealloc(UvtHandle *self);

/* First half of an __init__: checks that self is fresh and that loop is an
 * open Loop on a thread that may use it, and allocates the box with `size`
 * bytes (sizeof the uv_*_t).  The caller then calls uv_*_init on
 * self->box->uv and passes its status to uvt_handle_init_done. */
UVT_CHECKED bool uvt_handle_init_begin(UvtHandle *self, PyObject *loop,
                                       uv_handle_type kind, UvtExc exc,
                                       size_t size, struct UvtLoop **out);
/* rc >= 0: the handle is alive.  Else frees the box and raises.  Returns what
 * tp_init has to return. */
UVT_CHECKED int uvt_handle_init_done(UvtHandle *self, struct UvtLoop *loop,
                                     int rc, const char *call);

/* Puts a fresh box in the place of one that libuv should not start again; the
 * old one is closed.  A libuv status. */
UVT_CHECKED int uvt_handle_renew(UvtHandle *self, size_t size,
                                 int (*init)(uv_loop_t *, UvtBox *));

/* True when a method may use self->box: initialised, not closing, not in
 * another thread than the one that runs its loop.  Else raises (RuntimeError,
 * HandleClosedError). */
UVT_CHECKED bool uvt_handle_check(UvtHandle *self);
/* uvt_handle_check, and not driven by a C consumer (RuntimeError). */
UVT_CHECKED bool uvt_handle_check_free(UvtHandle *self, const char *call);

/* Takes the events of a handle that is free and idle for `consumer`; false with
 * RuntimeError, or as uvt_handle_check. */
UVT_CHECKED bool uvt_handle_consume(UvtHandle *self, const UvtConsumer *consumer,
                                    PyObject *owner);

/* Raises the handle's own error class; returns NULL. */
PyObject *uvt_handle_raise(UvtHandle *self, int rc, const char *call);

/* Takes or drops the loop's reference according to the handle's state.  May
 * free self: the caller either owns a reference or touches self no more. */
void uvt_handle_update(UvtHandle *self);

/* Starts uv_close unless the handle is closing.  Never calls Python. */
void uvt_handle_close(UvtHandle *self);

/* The object behind a box, or NULL when it is gone or just going: without a GIL
 * another thread may have dropped the last reference and wait for the lock. */
UVT_NEW static inline UvtHandle *
uvt_box_owner(const UvtBox *box)
{
#ifdef Py_GIL_DISABLED
    PyObject *owner = NULL;
    if (box->owner != NULL && !box->owner->held) {
        (void)PyWeakref_GetRef(box->weak, &owner);
        return (UvtHandle *)owner;
    }
#endif
    return (UvtHandle *)Py_XNewRef(box->owner);
}

/* The close callback of every handle, for uv_tcp_close_reset. */
void uvt_on_closed(uv_handle_t *uv);
/* What `active` tells, of a box that is not closing. */
bool uvt_box_is_active(const UvtBox *box);
/* A write that sends the handle over a pipe looks at the box until its end. */
void uvt_box_pin(UvtBox *box);
void uvt_box_unpin(UvtBox *box);
/* As uvt_handle_close for a box whose object is gone; for any box. */
void uvt_box_close(UvtBox *box);
void uvt_box_end(UvtBox *box);

/* Begin and end of every libuv callback.  enter attaches the thread and
 * returns a new reference to the object behind a uv handle, or NULL when there
 * is none (the callback then returns at once).  leave updates and drops it. */
UVT_NEW UvtHandle *uvt_enter(const void *uv_handle);
void uvt_leave(UVT_STEALS(1) UvtHandle *self);

/* guard.c: the handle may just have got its descriptor: whoever else still watches
 * that number is told UV_EBADF and stopped, which may run Python code.  Below 0
 * there is no memory to watch it, and the handle was closed. */
UVT_CHECKED int uvt_guard_fresh(UvtHandle *self);
/* guard.c: libuv is about to make a socket for the handle and to watch it in
 * one step; whoever still watches the number that it will get is told and stopped,
 * which may run Python code.  Then as uvt_handle_check; without a number or memory it
 * raises for `call`. */
UVT_CHECKED bool uvt_guard_next_fd(UvtHandle *self, const char *call);

/* Calls `callback` with the arguments, of which the first is the handle
 * itself, and reports an exception to the loop.  args[-1] must be writable.
 * Steals nothing; `callback` may be NULL: nothing happens.  An argument that is
 * NULL is an error that is reported instead (so that a constructor's result
 * can be passed unchecked). */
void uvt_call(UvtHandle *self, PyObject *callback, PyObject **args,
              size_t nargs);

/* What the C API makes handles with; `loop` is checked already. */
UVT_NEW PyObject *uvt_tcp_create(PyObject *loop, unsigned flags);
UVT_NEW PyObject *uvt_pipe_create(PyObject *loop, int ipc);
UVT_NEW PyObject *uvt_timer_create(PyObject *loop);
UVT_NEW PyObject *uvt_async_create(PyObject *loop);
UVT_NEW PyObject *uvt_poll_create(PyObject *loop, int fd);
UVT_NEW PyObject *uvt_udp_create(PyObject *loop, unsigned flags);

/* Start functions that the C API offers too; a libuv status. */
int uvt_timer_start(UvtHandle *self, uint64_t timeout, uint64_t repeat);
int uvt_poll_start(UvtHandle *self, int events);
/* The descriptor of a Poll cannot be watched any more: stopped already, it hears
 * why, UV_EBADF above all. */
void uvt_poll_lost(UvtHandle *self, int status);
int uvt_stream_read_start(UvtHandle *self);
void uvt_stream_read_stop(UvtHandle *self);
int uvt_stream_listen(UvtHandle *self, int backlog);
int uvt_stream_accept(UvtHandle *self, UvtHandle *client);

/* Getters and setters that more than one type has. */
PyObject *uvt_handle_fileno(UvtHandle *self, PyObject *unused);
PyObject *uvt_handle_get_buffer_size(UvtHandle *self, void *which);
int uvt_handle_set_buffer_size(UvtHandle *self, PyObject *value, void *which);
#define UVT_SEND_BUFFER ((void *)0)
#define UVT_RECEIVE_BUFFER ((void *)1)

/* The slots that each handle type's spec has in common. */
#define UVT_HANDLE_SLOTS \
    {Py_tp_new, uvt_handle_new}, \
    {Py_tp_traverse, uvt_handle_traverse}, \
    {Py_tp_clear, uvt_handle_clear}, \
    {Py_tp_dealloc, uvt_handle_dealloc}
#define UVT_HANDLE_FLAGS \
    (Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC | \
     Py_TPFLAGS_IMMUTABLETYPE)

#endif
