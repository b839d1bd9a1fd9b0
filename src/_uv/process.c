/* uv.Process: a child of this process.  How one starts is in spawn.c, how its end is
 * noticed in children.c; here is what Python sees, and how it is told.  All functions
 * run on the loop's thread, attached.  A running one is held by its loop.
 */
#include "process.h"
#include "args.h"
#include "errors.h"

#include <limits.h>

/* ---- the end ---- */

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

void
uvt_process_tell(UvtBox *box)
{
    UvtProcessBox *process = (UvtProcessBox *)&box->uv;
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
        || !uvt_arg_int("kill", "signum", args[1], INT_MIN, INT_MAX, &signum)
        || PySys_Audit("os.kill", "ii", pid, signum) < 0) {
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
