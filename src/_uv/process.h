/* What process.c (the handle, and how it ends), spawn.c (how it starts) and
 * stdio.c (StdIO) share. */
#ifndef UVT_PROCESS_H
#define UVT_PROCESS_H

#include "handle.h"
#include "loop.h"

#include <signal.h>

typedef struct UvtProcess {
    UvtHandle base;
    int pid;                    /* 0: not spawned */
    bool over;                  /* its end has been told */
    int64_t exit_status;        /* since then */
    int term_signal;
} UvtProcess;

/* What the box of a Process holds. */
typedef struct {
    uv_process_t uv;            /* first: a uv_process_t * is one of these */
    bool ended;                 /* known to be over; libuv has let go of it */
    bool told;                  /* and so has the object */
    bool unreaped;              /* and the system keeps its status still */
    int64_t exit_status;
    int term_signal;
    struct UvtChild *child;     /* of children.c; NULL: not started, or over */
} UvtProcessBox;

/* A StdIO object; immutable. */
typedef struct {
    PyObject_HEAD
    PyObject *stream;           /* strong; None unless a flag asks for one */
    int fd;                     /* -1 unless a flag asks for one */
    int flags;
} UvtStdIO;

/* process.c: whether one is running, or its end not told yet, which tell does. */
bool uvt_process_running(const UvtBox *box);
bool uvt_process_untold(const UvtBox *box);
void uvt_process_tell(UvtBox *box);

/* children.c: before a child starts (0, or -1 with an exception), when it has, with
 * what SIGCHLD had before, and libuv's exit callback. */
UVT_CHECKED int uvt_children_prepare(UvtLoop *loop);
/* After a poll, when ends of children were noted: tells of them in this turn, as no
 * other may come. */
void uvt_children_look(UvtCore *core);
/* Right before libuv starts one, when the handler of SIGCHLD was saved. */
void uvt_children_watch(UvtCore *core);
void uvt_child_begin(UvtLoop *loop, UvtBox *box, const struct sigaction *before);
void uvt_on_exit(uv_process_t *uv, int64_t exit_status, int term_signal);
/* A handle closes, of a child that may be running; the end of the loop; that of a
 * loop in a forked child. */
void uvt_child_close(UvtBox *box);
void uvt_children_free(UvtGraves *graves, UvtCore *core);
void uvt_children_abandon(UvtCore *core);
/* When the watcher is of a child: somebody closed its descriptor.  Does without, and
 * returns true. */
bool uvt_children_lost(UvtCore *core, const uv__io_t *watcher);
/* Waits, without waiting, for those that no loop waits for any more. */
void uvt_strays_reap(UvtGraves *graves);

/* spawn.c, for the table in process.c. */
PyObject *uvt_process_spawn(PyObject *cls, PyObject *const *args,
                            Py_ssize_t nargs, PyObject *kwnames);
extern const char uvt_process_spawn_doc[];

UVT_CHECKED int uvt_stdio_setup(PyObject *module, UvtState *st);
extern PyMethodDef uvt_process_functions[];

#endif
