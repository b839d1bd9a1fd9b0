/* uv.Process: a child of this process.  How one starts is in spawn.c; here is
 * how it ends.  All functions run on the loop's thread; those of libuv's signal
 * callbacks touch nothing of Python's.  A running one is held by its loop.
 *
 * libuv waits for each of its children by number, and tells of all that have
 * ended from one walk over a list that no callback may change.  So an end is
 * only noted then, and told by a check handle right after the poll.  A child
 * that somebody else has waited for is unknown to the system and, to libuv,
 * running for ever; that is found out there, too.
 */
#include "process.h"
#include "args.h"
#include "errors.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <sys/wait.h>

/* What a loop has once it has had a child; in use while one runs. */
typedef struct UvtChildren {
    uv_check_t after_poll;      /* its data, as that of the other, is this */
    uv_signal_t signal;         /* SIGCHLD */
    unsigned open;              /* of these two */
} UvtChildren;

typedef struct Node {
    struct Node *next, *prev;
} Node;

static UvtProcessBox *
as_process(UvtBox *box)
{
    return (UvtProcessBox *)&box->uv;
}

bool
uvt_process_running(const UvtBox *box)
{
    return !((const UvtProcessBox *)&box->uv)->ended
        && uv_is_active(&box->uv.handle);
}

bool
uvt_process_untold(const UvtBox *box)
{
    const UvtProcessBox *process = (const UvtProcessBox *)&box->uv;
    return process->ended && !process->told;
}

/* ---- the end ---- */

static void
note_end(UvtProcessBox *process, int64_t exit_status, int term_signal)
{
    process->ended = true;
    process->exit_status = exit_status;
    process->term_signal = term_signal;
}

static void on_after_poll(uv_check_t *uv);

void
uvt_on_exit(uv_process_t *uv, int64_t exit_status, int term_signal)
{
    UvtCore *core = uv->loop->data;
    note_end((UvtProcessBox *)uv, exit_status, term_signal);
    if (core->children != NULL) {
        (void)uv_check_start(&core->children->after_poll, on_after_poll);
    }
}

static void
on_sigchld(uv_signal_t *uv, int Py_UNUSED(signum))
{
    UvtChildren *children = uv->data;
    (void)uv_check_start(&children->after_poll, on_after_poll);
}

/* The system has no such child any more. */
static bool
is_lost(int pid)
{
    siginfo_t info;
    int rc;
    do {
        rc = waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT);
    } while (rc < 0 && errno == EINTR);
    return rc < 0 && errno == ECHILD;
}

/* Takes a child from libuv, which would wait for whoever has its number next.
 * Both kinds of queue node that libuv has had are two pointers. */
static void
forget(UvtProcessBox *process)
{
    Node *node = (Node *)&process->uv.queue;
    node->prev->next = node->next;
    node->next->prev = node->prev;
    node->next = node->prev = node;
    uv_unref((uv_handle_t *)&process->uv);
    note_end(process, -ECHILD, 0);
}

static void
tell(UvtBox *box)
{
    UvtProcessBox *process = as_process(box);
    UvtProcess *self = (UvtProcess *)uvt_enter(&box->uv);
    PyObject *status, *signum;
    process->told = true;
    if (self == NULL) {
        return;
    }
    self->over = true;
    self->exit_status = process->exit_status;
    self->term_signal = process->term_signal;
    status = PyLong_FromLongLong(self->exit_status);
    signum = PyLong_FromLong(self->term_signal);
    PyObject *args[4] = {NULL, (PyObject *)self, status, signum};
    uvt_call(&self->base, self->base.callback, args + 1, 3);
    Py_XDECREF(status);
    Py_XDECREF(signum);
    uvt_leave(&self->base);
}

/* The next one whose end is to be told, or NULL. */
static UvtBox *
find_ended(UvtCore *core)
{
    for (UvtBox *box = core->boxes; box != NULL; box = box->next) {
        if (box->uv.handle.type == UV_PROCESS && uvt_process_untold(box)
            && !uv_is_closing(&box->uv.handle)) {
            return box;
        }
    }
    return NULL;
}

void
uvt_children_update(UvtCore *core)
{
    for (UvtBox *box = core->boxes; box != NULL; box = box->next) {
        if (box->uv.handle.type == UV_PROCESS && !uv_is_closing(&box->uv.handle)
            && uvt_process_running(box)) {
            return;
        }
    }
    if (core->children != NULL) {
        (void)uv_signal_stop(&core->children->signal);
    }
}

/* A callback can do anything, even close processes whose ends are not told: so
 * the walk starts again after each. */
static void
on_after_poll(uv_check_t *uv)
{
    UvtCore *core = uv->loop->data;
    UvtBox *box;
    (void)uv_check_stop(uv);
    if (core->forked) {
        return;         /* they are the parent's children */
    }
    for (box = core->boxes; box != NULL; box = box->next) {
        if (box->uv.handle.type == UV_PROCESS && !uv_is_closing(&box->uv.handle)
            && uvt_process_running(box) && is_lost(as_process(box)->uv.pid)) {
            forget(as_process(box));
        }
    }
    while ((box = find_ended(core)) != NULL) {
        tell(box);
    }
    uvt_children_update(core);
}

/* ---- what a loop has for its children ---- */

int
uvt_children_watch(UvtLoop *loop)
{
    UvtCore *core = loop->core;
    UvtChildren *children = core->children;
    int rc;
    if (children == NULL) {
        children = PyMem_RawCalloc(1, sizeof(UvtChildren));
        if (children == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        rc = uv_signal_init(&core->uv, &children->signal);
        if (rc < 0) {
            PyMem_RawFree(children);
            uvt_raise(loop->st, UVT_EXC_PROCESS, rc, "uv_signal_init");
            return -1;
        }
        (void)uv_check_init(&core->uv, &children->after_poll);
        children->signal.data = children->after_poll.data = children;
        children->open = 2;
        uv_unref((uv_handle_t *)&children->signal);
        uv_unref((uv_handle_t *)&children->after_poll);
        core->children = children;
    }
    rc = uv_signal_start(&children->signal, on_sigchld, SIGCHLD);
    if (rc < 0) {
        uvt_raise(loop->st, UVT_EXC_PROCESS, rc, "uv_signal_start");
        return -1;
    }
    return 0;
}

static void
on_children_closed(uv_handle_t *uv)
{
    UvtChildren *children = uv->data;
    if (--children->open == 0) {
        PyMem_RawFree(children);
    }
}

void
uvt_children_free(UvtCore *core)
{
    UvtChildren *children = core->children;
    core->children = NULL;
    if (children != NULL) {
        uv_close((uv_handle_t *)&children->signal, on_children_closed);
        uv_close((uv_handle_t *)&children->after_poll, on_children_closed);
    }
}

/* ---- methods ---- */

/* Process() takes anything and does nothing: spawn() makes a process. */
static int
process_init(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(args),
             PyObject *Py_UNUSED(kwds))
{
    return 0;
}

PyDoc_STRVAR(kill_doc,
"kill($self, signum, /)\n--\n\n"
"Send the process a signal.\n\n"
"Raises TypeError, RuntimeError (not spawned), HandleClosedError, ProcessError\n"
"(ESRCH: it has ended; EINVAL: no such signal; EPERM).");

static PyObject *
process_kill(UvtHandle *self, PyObject *arg)
{
    UVT_LOCKED(self->lock);
    int signum, rc = UV_ESRCH;
    if (!uvt_arg_int("Process.kill", "signum", arg, INT_MIN, INT_MAX, &signum)
        || !uvt_handle_check(self)) {
        return NULL;
    }
    /* The number of one that has ended may be another's by now. */
    if (uvt_process_running(self->box)) {
        rc = uv_process_kill((uv_process_t *)&self->box->uv, signum);
    }
    if (rc < 0) {
        return uvt_handle_raise(self, rc, "uv_process_kill");
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(disable_stdio_inheritance_doc,
"disable_stdio_inheritance($type, /)\n--\n\n"
"Make the descriptors that this process has inherited not inheritable, as far as\n"
"they follow each other closely.  For the beginning of a program.");

static PyObject *
process_disable_stdio_inheritance(PyObject *Py_UNUSED(cls),
                                  PyObject *Py_UNUSED(ignored))
{
    uv_disable_stdio_inheritance();
    Py_RETURN_NONE;
}

PyDoc_STRVAR(module_kill_doc,
"kill(pid, signum, /)\n--\n\n"
"Send any process a signal; signum 0 only asks whether that is possible.\n\n"
"Raises TypeError, ValueError, UVError (ESRCH, EPERM, EINVAL).");

static PyObject *
module_kill(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    int pid, signum, rc;
    if (!uvt_args_count("kill", nargs, 2, 2)
        || !uvt_arg_int("kill", "pid", args[0], INT_MIN, INT_MAX, &pid)
        || !uvt_arg_int("kill", "signum", args[1], INT_MIN, INT_MAX, &signum)) {
        return NULL;
    }
    rc = uv_kill(pid, signum);
    if (rc < 0) {
        return uvt_raise(uvt_state(module), UVT_EXC_UV, rc, "uv_kill");
    }
    Py_RETURN_NONE;
}

PyMethodDef uvt_process_functions[] = {
    {"kill", (PyCFunction)(void (*)(void))module_kill, METH_FASTCALL,
     module_kill_doc},
    {NULL},
};

/* ---- attributes ---- */

static PyObject *
process_get_pid(UvtProcess *self, void *Py_UNUSED(closure))
{
    UVT_LOCKED(((UvtHandle *)self)->lock);
    if (self->pid == 0) {
        Py_RETURN_NONE;
    }
    return PyLong_FromLong(self->pid);
}

static PyObject *
process_get_exit_status(UvtProcess *self, void *Py_UNUSED(closure))
{
    UVT_LOCKED(((UvtHandle *)self)->lock);
    if (!self->over) {
        Py_RETURN_NONE;
    }
    return PyLong_FromLongLong(self->exit_status);
}

static PyObject *
process_get_term_signal(UvtProcess *self, void *Py_UNUSED(closure))
{
    UVT_LOCKED(((UvtHandle *)self)->lock);
    if (!self->over) {
        Py_RETURN_NONE;
    }
    return PyLong_FromLong(self->term_signal);
}

static PyMethodDef process_methods[] = {
    {"spawn", (PyCFunction)(void (*)(void))uvt_process_spawn,
     METH_CLASS | METH_FASTCALL | METH_KEYWORDS, uvt_process_spawn_doc},
    {"kill", (PyCFunction)process_kill, METH_O, kill_doc},
    {"disable_stdio_inheritance", (PyCFunction)process_disable_stdio_inheritance,
     METH_CLASS | METH_NOARGS, disable_stdio_inheritance_doc},
    {NULL},
};

static PyGetSetDef process_getset[] = {
    {"pid", (getter)process_get_pid, NULL,
     "The number of the process (int), also when it has ended.", NULL},
    {"exit_status", (getter)process_get_exit_status, NULL,
     "What it ended with (int), None while it runs; -ECHILD: somebody else has\n"
     "waited for it, so that nobody knows.", NULL},
    {"term_signal", (getter)process_get_term_signal, NULL,
     "The signal that has ended it (int), 0 for none, None while it runs.", NULL},
    {NULL},
};

PyDoc_STRVAR(process_doc,
"A child process, made by Process.spawn().  Its end does not close the handle;\n"
"closing the handle does not end the process.");

static PyType_Slot process_slots[] = {
    {Py_tp_doc, (void *)process_doc},
    {Py_tp_init, process_init},
    {Py_tp_methods, process_methods},
    {Py_tp_getset, process_getset},
    UVT_HANDLE_SLOTS,
    {0, NULL},
};

static PyType_Spec process_spec = {
    .name = "uvtulip._uv.Process",
    .basicsize = sizeof(UvtProcess),
    .flags = UVT_HANDLE_FLAGS,
    .slots = process_slots,
};

int
uvt_process_setup(PyObject *module, UvtState *st)
{
    if (uvt_stdio_setup(module, st) < 0) {
        return -1;
    }
    return uvt_add_type(module, &st->process_type, &process_spec,
                        st->handle_type);
}
