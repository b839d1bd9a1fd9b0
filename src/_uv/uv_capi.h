/* The C API of uvtulip._uv: how a C extension drives libuv handles that Python
 * sees as objects, without a Python call between libuv and its own code.
 *
 * Include it after Python.h.  Import once per module and interpreter:
 *
 *     const UvtCAPI *uv = uvt_capi_import();      // NULL with an exception
 *
 * Rules for a client ("consumer"):
 * - It links the same shared libuv as uvtulip._uv; the import checks that.
 * - All functions want an attached thread state, in the thread that runs the
 *   loop, or in any thread while nobody runs it.
 * - Consumer functions are called with the thread attached and no exception
 *   set, and must leave none set: loop_report() takes one.
 * - It may call libuv on the uv_handle_t it gets from handle_uv() (uv_write,
 *   uv_try_write, uv_shutdown, uv_timer_stop, ...) but must leave `data`
 *   alone, and open, start and close handles by the functions here.  A libuv
 *   callback of its own (of a uv_write_t, say) begins with attach().
 * - New members are only ever added at the end.  A client checks `version` for
 *   equality, and `size` before it uses a member that came later.
 */
#ifndef UVT_UV_CAPI_H
#define UVT_UV_CAPI_H

#include <Python.h>
#include <stdbool.h>
#include <uv.h>

#ifdef __cplusplus
extern "C" {
#endif

#define UVT_CAPI_VERSION 1
#define UVT_CAPI_NAME "uvtulip._uv._C_API"

/* What a consumer wants to hear of.  `owner` is the object given to consume();
 * the handle holds a reference to it, and the callee may give up that one by
 * closing or releasing the handle, but `owner` lives until the call returns.
 * NULL members are events that the consumer does not expect. */
typedef struct UvtConsumer {
    /* Streams and UDP: where to read to.  NULL: the loop's own buffer, which is
     * valid until `read` or `datagram` returns. */
    void (*alloc)(PyObject *owner, size_t suggested, uv_buf_t *buf);
    /* Streams: nread > 0 bytes, or nread < 0, a libuv error or UV_EOF, after
     * which reading has stopped.  0 (only with `alloc`): nothing came, the
     * buffer is free again.  Each call of `alloc` is followed by one of these,
     * unless the handle is closed in between by `alloc` itself. */
    void (*read)(PyObject *owner, ssize_t nread, const uv_buf_t *buf);
    /* A listening stream: one connection may be accepted (status 0). */
    void (*connection)(PyObject *owner, int status);
    /* Poll: the descriptor is ready for `events`, or status < 0. */
    void (*ready)(PyObject *owner, int status, int events);
    /* Timer, Async, Idle, Prepare, Check. */
    void (*fired)(PyObject *owner);
    /* Signal. */
    void (*signalled)(PyObject *owner, int signum);
    /* UDP: one datagram (addr not NULL), or nread < 0. */
    void (*datagram)(PyObject *owner, ssize_t nread, const uv_buf_t *buf,
                     const struct sockaddr *addr, unsigned flags);
    /* The handle is closed, by whomever; the last call. */
    void (*closed)(PyObject *owner);
    /* UDP, in place of `alloc` and `datagram`: something may be received; the
     * consumer does that itself, on the handle's descriptor.  What it leaves is
     * announced again. */
    void (*readable)(PyObject *owner);
} UvtConsumer;

/* What a loop built on a raw loop wants to hear of. */
typedef struct UvtLoopHooks {
    /* Just before libuv polls: true when the poll must not block. */
    bool (*busy)(PyObject *owner);
    /* Signals came in.  Their Python handlers have run, but for those that come at
     * the end of a run. */
    void (*signals)(PyObject *owner, const unsigned char *signums, size_t n);
    /* A raw callback raised; the exception is set and has to be taken.  `what`
     * is the handle, or NULL.  Not called for KeyboardInterrupt, SystemExit and
     * other exceptions that are no Exception: those leave turn(). */
    void (*unhandled)(PyObject *owner, PyObject *what);
    /* This process is a forked child of the one that the loop belongs to.  The
     * loop's functions raise or do nothing from now on, and no event comes; the
     * client calls libuv no more. */
    void (*forked)(PyObject *owner);
} UvtLoopHooks;

/* What a loop has counted so far, in milliseconds of its own clock, which is read
 * once for each turn anyway: a single turn is off by up to one, a sum is not. */
typedef struct UvtLoopMetrics {
    uint64_t turns;
    uint64_t run_ms;            /* spent in runs, this one included */
    uint64_t idle_ms;           /* of these, spent waiting in the poll */
    uint64_t longest_ms;        /* the longest time between two polls */
} UvtLoopMetrics;

typedef struct UvtCAPI {
    int version;                /* UVT_CAPI_VERSION */
    size_t size;                /* sizeof(UvtCAPI) where it was built */
    void *state;                /* of the module; first argument of *_new */
    const char *(*uv_version_string)(void);     /* _uv's libuv */

    /* Loops.  A function that returns int gives 0, or -1 with an exception. */
    PyObject *(*loop_new)(void *state);                 /* new reference */
    uv_loop_t *(*loop_uv)(PyObject *loop);              /* NULL: exception */
    int (*loop_hooks)(PyObject *loop, const UvtLoopHooks *hooks,
                      PyObject *owner);   /* hooks NULL: none; keeps owner */
    int (*loop_run_begin)(PyObject *loop);      /* nested, wrong thread: -1 */
    int (*loop_turn)(PyObject *loop, uv_run_mode mode); /* 1: alive, 0, -1 */
    void (*loop_run_end)(PyObject *loop);
    int (*loop_close)(PyObject *loop);  /* closes all handles, then the loop */
    void (*loop_report)(PyObject *loop, PyObject *what);
    void (*attach)(uv_loop_t *uv);

    /* Handles.  New ones are idle, not consumed. */
    PyObject *(*tcp_new)(PyObject *loop, unsigned flags);
    PyObject *(*timer_new)(PyObject *loop);
    PyObject *(*async_new)(PyObject *loop);
    PyObject *(*poll_new)(PyObject *loop, int fd);  /* fd may block on */
    /* The libuv handle; borrowed from the object.  NULL with an exception when
     * it is no handle, of another type than `type` (UV_UNKNOWN_HANDLE: any),
     * not initialised, or closing. */
    uv_handle_t *(*handle_uv)(PyObject *handle, uv_handle_type type);
    /* Takes the handle's events; it must be idle (not reading, listening, ...)
     * and not consumed.  The loop holds it until it is closed or released. */
    int (*consume)(PyObject *handle, const UvtConsumer *consumer,
                   PyObject *owner);
    /* Stops what runs and gives the handle back to Python code. */
    void (*release)(PyObject *handle);
    /* Starts closing it; `closed` is called by a later turn.  Harmless on a
     * closing one. */
    void (*close)(PyObject *handle);
    /* These return a libuv status and raise nothing. */
    int (*read_start)(PyObject *handle);
    void (*read_stop)(PyObject *handle);        /* not uv_read_stop */
    int (*listen)(PyObject *handle, int backlog);
    int (*accept)(PyObject *server, PyObject *client);
    int (*timer_start)(PyObject *handle, uint64_t timeout_ms, uint64_t repeat);
    int (*poll_start)(PyObject *handle, int events);    /* 0: stop */

    /* Errors and addresses. */
    PyObject *(*oserror)(int rc, const char *call);     /* new OSError */
    PyObject *(*sockaddr_format)(const struct sockaddr *addr, int len);
    /* 0, or -1 with an exception that names `call`. */
    int (*sockaddr_parse)(const char *call, PyObject *address,
                          struct sockaddr_storage *out);

    /* A new handle, as those above. */
    PyObject *(*pipe_new)(PyObject *loop, int ipc);

    /* Datagrams: a new UDP handle (flags as of uv_udp_init_ex), and receiving
     * with it, by the consumer; start returns a libuv status. */
    PyObject *(*udp_new)(PyObject *loop, unsigned flags);
    int (*udp_recv_start)(PyObject *handle);
    void (*udp_recv_stop)(PyObject *handle);    /* not uv_udp_recv_stop */

    /* The owner given to consume(), borrowed; NULL: the handle is Python's. */
    PyObject *(*consumer_owner)(PyObject *handle);

    /* What the loop, which may be closed, has counted. */
    void (*loop_metrics)(PyObject *loop, UvtLoopMetrics *out);

    /* On a free-threaded Python: an object that the client has a critical section
     * of while it calls any of these for the loop or its handles; the loop has one
     * around its callbacks.  Borrowed, of an open or closed loop; NULL with a GIL. */
    PyObject *(*loop_lock)(PyObject *loop);

    /* Before loop_close(), for a client that has to end what is its own first: 0, and
     * nobody runs or closes the loop until this thread's loop_close(); or -1, which
     * leaves the loop as it is. */
    int (*loop_close_begin)(PyObject *loop);
    bool (*loop_is_closed)(PyObject *loop);

    /* Whether a turn that does not wait would find something to do: for a tenth of
     * what such a turn costs.  Timers are looked at with the given time, that of
     * CLOCK_MONOTONIC in nanoseconds. */
    bool (*loop_has_work)(PyObject *loop, int64_t now);

    /* Before libuv is given a descriptor that has just been made: a Poll of a file
     * that was closed, and that had the same number, is told UV_EBADF and stopped.
     * May call Python, and close handles. */
    void (*loop_fresh_fd)(PyObject *loop, int fd);

    /* uv_async_send, which aborts when somebody has closed the loop's descriptor; on
     * any thread, attached or not.  A libuv status. */
    int (*async_send)(uv_async_t *uv);
    /* To be called before uv_tcp_open and its like, since libuv aborts later without
     * memory for its table.  A libuv status. */
    int (*reserve)(PyObject *handle, int fd);
} UvtCAPI;

static inline const UvtCAPI *
uvt_capi_import(void)
{
    const UvtCAPI *api;
    PyObject *module = PyImport_ImportModule("uvtulip._uv");
    if (module == NULL) {
        return NULL;
    }
    Py_DECREF(module);      /* sys.modules and the package keep it */
    api = (const UvtCAPI *)PyCapsule_Import(UVT_CAPI_NAME, 0);
    if (api == NULL) {
        return NULL;
    }
    if (api->version != UVT_CAPI_VERSION) {
        PyErr_Format(PyExc_ImportError,
                     "uvtulip._uv offers version %d of its C API, this "
                     "extension was built for %d: rebuild it",
                     api->version, UVT_CAPI_VERSION);
        return NULL;
    }
    if (api->uv_version_string != uv_version_string) {
        PyErr_SetString(PyExc_ImportError,
                        "this extension and uvtulip._uv are linked to two "
                        "copies of libuv");
        return NULL;
    }
    return api;
}

#ifdef __cplusplus
}
#endif

#endif
