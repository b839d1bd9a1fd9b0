/* What process.c (the handle, and how it ends), spawn.c (how it starts) and
 * stdio.c (StdIO) share. */
#ifndef UVT_PROCESS_H
#define UVT_PROCESS_H

#include "handle.h"
#include "loop.h"

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
    int64_t exit_status;
    int term_signal;
} UvtProcessBox;

/* A StdIO object; immutable. */
typedef struct {
    PyObject_HEAD
    PyObject *stream;           /* strong; None unless a flag asks for one */
    int fd;                     /* -1 unless a flag asks for one */
    int flags;
} UvtStdIO;

/* process.c: libuv's exit callback, and what watches over all children of a
 * loop from their start on.  watch gives 0, or -1 with an exception. */
void uvt_on_exit(uv_process_t *uv, int64_t exit_status, int term_signal);
UVT_CHECKED int uvt_children_watch(UvtLoop *loop);

/* For the base of handles: whether it is running; what follows when one is
 * closed; and the end of the loop. */
bool uvt_process_running(const UvtBox *box);
bool uvt_process_untold(const UvtBox *box);
void uvt_children_update(UvtCore *core);
void uvt_children_free(UvtCore *core);

/* spawn.c, for the table in process.c. */
PyObject *uvt_process_spawn(PyObject *cls, PyObject *const *args,
                            Py_ssize_t nargs, PyObject *kwnames);
extern const char uvt_process_spawn_doc[];

UVT_CHECKED int uvt_stdio_setup(PyObject *module, UvtState *st);
extern PyMethodDef uvt_process_functions[];

#endif
