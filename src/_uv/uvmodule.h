/* The state of one uvtulip._uv module and what its files share.
 *
 * There is one UvtState for each interpreter that has imported the module.
 * Every object of the module's types keeps its type, the type keeps the
 * module, so a borrowed UvtState pointer in an object is good for its life.
 */
#ifndef UVT_UVMODULE_H
#define UVT_UVMODULE_H

#include "compat.h"
#include "guardstate.h"
#include "locked.h"
#include "../tls/engine.h"
#include <uv.h>

/* The exception classes, in the order of the table in errors.c.  A class that
 * comes after another may derive from it. */
typedef enum {
    UVT_EXC_UV,
    UVT_EXC_THREAD,
    UVT_EXC_FS,
    UVT_EXC_HANDLE,
    UVT_EXC_CLOSED,
    UVT_EXC_ASYNC,
    UVT_EXC_CHECK,
    UVT_EXC_FSEVENT,
    UVT_EXC_FSPOLL,
    UVT_EXC_IDLE,
    UVT_EXC_POLL,
    UVT_EXC_PREPARE,
    UVT_EXC_PROCESS,
    UVT_EXC_SIGNAL,
    UVT_EXC_TIMER,
    UVT_EXC_UDP,
    UVT_EXC_STREAM,
    UVT_EXC_TCP,
    UVT_EXC_PIPE,
    UVT_EXC_TTY,
    UVT_EXC_TLS,
    UVT_EXC_COUNT
} UvtExc;

/* The struct sequences.  Each is described by the file that fills it. */
typedef enum {
    UVT_SEQ_METRICS,
    UVT_SEQ_STAT,
    UVT_SEQ_DIRENT,
    UVT_SEQ_STATFS,
    UVT_SEQ_CPU_TIMES,
    UVT_SEQ_CPU,
    UVT_SEQ_INTERFACE,
    UVT_SEQ_RUSAGE,
    UVT_SEQ_UNAME,
    UVT_SEQ_PASSWD,
    UVT_SEQ_GROUP,
    UVT_SEQ_TIMEVAL,
    UVT_SEQ_TIMESPEC,
    UVT_SEQ_ADDRINFO,
    UVT_SEQ_NAMEINFO,
    UVT_SEQ_COUNT
} UvtSeq;

typedef struct UvtState {
    PyObject *module;               /* borrowed: the module owns this state */
    void *capi;                     /* the table of uv_capi.h, owned */
    PyTypeObject *loop_type;
    PyTypeObject *handle_type;
    PyTypeObject *stream_type;
    PyTypeObject *read_into_type;
    PyTypeObject *tcp_type;
    PyTypeObject *pipe_type;
    PyTypeObject *tty_type;
    PyTypeObject *udp_type;
    PyTypeObject *poll_type;
    PyTypeObject *timer_type;
    PyTypeObject *signal_type;
    PyTypeObject *async_type;
    PyTypeObject *idle_type;
    PyTypeObject *prepare_type;
    PyTypeObject *check_type;
    PyTypeObject *fsevent_type;
    PyTypeObject *fspoll_type;
    PyTypeObject *process_type;
    PyTypeObject *stdio_type;
    PyTypeObject *request_type;
    PyTypeObject *work_request_type;
    PyTypeObject *gai_request_type;
    PyTypeObject *gni_request_type;
    PyTypeObject *fs_request_type;
    PyTypeObject *dir_type;
    PyTypeObject *random_request_type;
    PyTypeObject *mutex_type;
    PyTypeObject *tls_type;
    UVT_MUTEX_MEMBER(mutex)         /* for loops, pool and default_loop */
    UvtTlsState tls;                /* once a TLS was made */
    PyTypeObject *seq[UVT_SEQ_COUNT];   /* by UvtSeq */
    PyObject *exc[UVT_EXC_COUNT];   /* by UvtExc */
    struct UvtPool *pool;           /* since the first queue_work(), or NULL */
    _Atomic pid_t pool_pid;         /* the process that used libuv's pool, or 0 */
    struct UvtGraves *graves;       /* counted; see loop.h */
    UvtSigLock siglock;             /* of the process */
    UvtLowFds low;                  /* as well */
    UvtFileId standard[3];          /* what 0 to 2 were at the import */
    bool stat_float_times;          /* fs.stat_float_times() */
    struct UvtLoop *loops;          /* the open ones (fork.c); borrowed */
    PyObject *default_loop;         /* what Loop.default_loop() made, or NULL */
    PyObject *set_wakeup_fd;        /* signal.set_wakeup_fd */
    PyObject *main_thread;          /* threading.main_thread */
    PyObject *str_excepthook;
    PyObject *str_ident;
} UvtState;

extern struct PyModuleDef uvt_module;

static inline UvtState *
uvt_state(PyObject *module)
{
    return PyModule_GetState(module);
}

/* The state behind a type of this module or a subclass of one. */
UvtState *uvt_state_of_type(PyTypeObject *type);

/* Each file adds its own types to the module; 0, or -1 with an exception. */
UVT_CHECKED int uvt_errors_setup(PyObject *module, UvtState *st);
UVT_CHECKED int uvt_loop_setup(PyObject *module, UvtState *st);
UVT_CHECKED int uvt_handle_setup(PyObject *module, UvtState *st);
UVT_CHECKED int uvt_stream_setup(PyObject *module, UvtState *st);
UVT_CHECKED int uvt_stream_into_setup(PyObject *module, UvtState *st);
UVT_CHECKED int uvt_tcp_setup(PyObject *module, UvtState *st);
UVT_CHECKED int uvt_pipe_setup(PyObject *module, UvtState *st);
UVT_CHECKED int uvt_tty_setup(PyObject *module, UvtState *st);
UVT_CHECKED int uvt_udp_setup(PyObject *module, UvtState *st);
UVT_CHECKED int uvt_poll_setup(PyObject *module, UvtState *st);
UVT_CHECKED int uvt_timer_setup(PyObject *module, UvtState *st);
UVT_CHECKED int uvt_signal_setup(PyObject *module, UvtState *st);
UVT_CHECKED int uvt_async_setup(PyObject *module, UvtState *st);
UVT_CHECKED int uvt_watcher_setup(PyObject *module, UvtState *st);
UVT_CHECKED int uvt_process_setup(PyObject *module, UvtState *st);
UVT_CHECKED int uvt_fsevent_setup(PyObject *module, UvtState *st);
UVT_CHECKED int uvt_fspoll_setup(PyObject *module, UvtState *st);
UVT_CHECKED int uvt_task_setup(PyObject *module, UvtState *st);
UVT_CHECKED int uvt_work_setup(PyObject *module, UvtState *st);
UVT_CHECKED int uvt_dns_setup(PyObject *module, UvtState *st);
UVT_CHECKED int uvt_loop_metrics_setup(PyObject *module, UvtState *st);
UVT_CHECKED int uvt_fs_setup(PyObject *module, UvtState *st);
UVT_CHECKED int uvt_util_setup(PyObject *module, UvtState *st);
UVT_CHECKED int uvt_thread_setup(PyObject *module, UvtState *st);
UVT_CHECKED int uvt_tls_setup(PyObject *module, UvtState *st);
UVT_CHECKED int uvt_constants_setup(PyObject *module);
UVT_CHECKED int uvt_capi_setup(PyObject *module, UvtState *st);

/* Makes a type from its spec, adds it to the module and stores a strong
 * reference in *slot. */
UVT_CHECKED int uvt_add_type(PyObject *module, PyTypeObject **slot,
                             PyType_Spec *spec, PyTypeObject *base);

/* Makes a struct sequence type for st->seq[which] and adds it to `submodule`,
 * with whose full name that of the description begins. */
UVT_CHECKED int uvt_add_seq(PyObject *submodule, UvtState *st, UvtSeq which,
                            PyStructSequence_Desc *desc);
/* Checks that all items are there, so that they need not be checked one by one:
 * returns seq, or NULL with the exception of the one that failed. */
UVT_NEW PyObject *uvt_seq_done(UVT_STEALS(1) PyObject *seq, Py_ssize_t count);

#endif
