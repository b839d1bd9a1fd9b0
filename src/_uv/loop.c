/* uv.Loop: the object, its life and its attributes; run() and what happens
 * around a poll are in run.c.  All functions run attached, on the thread that
 * runs the loop or on any thread while nobody runs it.
 *
 * What libuv points at (UvtCore) is an allocation of its own, which stays when
 * a pool thread still uses it at the end.  The loop owns one reference to each
 * handle with `held` set and shows them to the collector, so that a dropped
 * loop is collected together with handles that are still active.
 */
#include "loop.h"
#include "args.h"
#include "errors.h"
#include "fork.h"
#include "guards.h"
#include "random.h"
#include "task.h"
#include "work.h"

#include <unistd.h>

/* ---- guards ---- */

bool
uvt_loop_check(UvtLoop *self)
{
    if (self->core == NULL) {
        PyErr_SetString(PyExc_RuntimeError,
                        self->initialised
                        ? "the loop is closed"
                        : "the loop is not initialised: Loop.__init__ was not "
                          "called");
        return false;
    }
    if (self->thread_id != 0
        && self->thread_id != PyThread_get_thread_ident()) {
        if (self->core->forked) {
            uvt_fork_raise();
            return false;
        }
        PyErr_SetString(PyExc_RuntimeError,
                        "the loop runs in another thread: only Async.send() "
                        "may be called from here");
        return false;
    }
    return true;
}

bool
uvt_loop_check_arg(UvtState *st, PyObject *loop)
{
    if (!PyObject_TypeCheck(loop, st->loop_type)) {
        PyErr_Format(PyExc_TypeError, "expected a uvtulip.uv.Loop, got %.200s",
                     Py_TYPE(loop)->tp_name);
        return false;
    }
    return uvt_loop_check((UvtLoop *)loop);
}

/* ---- life cycle ---- */

static PyObject *
loop_new(PyTypeObject *type, PyObject *Py_UNUSED(args),
         PyObject *Py_UNUSED(kwds))
{
    UvtState *st = uvt_state_of_type(type);
    UvtLoop *self;
    if (st == NULL) {
        return NULL;
    }
    self = (UvtLoop *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->st = st;
        self->module = Py_NewRef(st->module);
        if (!UVT_LOCK_NEW(self->lock)) {
            Py_CLEAR(self);
        }
    }
    return (PyObject *)self;
}

static int
loop_init(UvtLoop *self, PyObject *args, PyObject *kwds)
{
    UVT_LOCKED(self->lock);
    static char *names[] = {NULL};
    UvtCore *core;
    int rc;

    if (!PyArg_ParseTupleAndKeywords(args, kwds, ":Loop", names)) {
        return -1;
    }
    if (self->initialised) {
        PyErr_SetString(PyExc_RuntimeError, "the loop is initialised already");
        return -1;
    }
    uvt_graves_reap(self->st->graves);
    core = PyMem_Calloc(1, sizeof(UvtCore));
    if (core == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    rc = uvt_guard_loop_init(self->st, core);
    if (rc < 0) {
        PyMem_Free(core);
        PyErr_Format(PyExc_RuntimeError, "uv_loop_init: %s", uv_strerror(rc));
        return -1;
    }
    core->uv.data = core;
    core->owner = self;
    core->pid = getpid();
    uvt_loop_watch_polls(core);
    self->core = core;
    self->graves = uvt_graves_use(self->st->graves);
    uvt_fork_join(self);
    self->initialised = true;
    return 0;
}

static int
loop_traverse(UvtLoop *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->module);
    if (self->core != NULL) {
        for (UvtBox *box = self->core->boxes; box != NULL; box = box->next) {
            if (box->owner != NULL && box->owner->held) {
                Py_VISIT(box->owner);
            }
        }
        for (UvtJob *job = self->core->jobs; job != NULL; job = job->next) {
            Py_VISIT(job->owner);
        }
    }
    Py_VISIT(self->raised);
    Py_VISIT(self->hooks_owner);
    Py_VISIT(self->dict);
    return 0;
}

/* Lets go of every held handle.  Dropping one can run any code, so the walk
 * starts again after each. */
void
uvt_loop_release_handles(UvtLoop *self)
{
    UvtBox *box = self->core != NULL ? self->core->boxes : NULL;
    while (box != NULL) {
        UvtHandle *handle = box->owner;
        if (handle == NULL || !handle->held) {
            box = box->next;
            continue;
        }
        handle->held = false;
        Py_DECREF(handle);
        box = self->core != NULL ? self->core->boxes : NULL;
    }
}

static int
loop_clear(UvtLoop *self)
{
    UVT_LOCKED(self->lock);
    self->hooks = NULL;
    Py_CLEAR(self->hooks_owner);
    Py_CLEAR(self->raised);
    Py_CLEAR(self->dict);
    uvt_loop_release_handles(self);
    if (self->core != NULL && !self->core->forked) {
        uvt_jobs_release(self->core);
    }
    return 0;
}

static void
loop_dealloc(UvtLoop *self)
{
    PyTypeObject *tp = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    UVT_LOCKED(self->lock);
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs((PyObject *)self);
    }
    (void)loop_clear(self);
    uvt_loop_free_core(self);
    if (self->graves != NULL) {
        uvt_graves_drop(self->graves);
    }
    UVT_LOCK_DROP(self->lock);
    Py_CLEAR(self->module);
    tp->tp_free(self);
    Py_DECREF(tp);
}

/* ---- other methods ---- */

PyDoc_STRVAR(default_loop_doc,
"default_loop($type, /)\n--\n\n"
"The interpreter's default loop, made with this class at the first call.");

UVT_NEW static PyObject *
get_default(UvtState *st)
{
    PyObject *loop;
    UVT_MUTEX_LOCK(st->mutex);
    loop = Py_XNewRef(st->default_loop);
    UVT_MUTEX_UNLOCK(st->mutex);
    return loop;
}

/* In the place of `old`, which is NULL or the parent process's; what another thread
 * has put there meanwhile stays. */
static void
set_default(UvtState *st, const PyObject *old, PyObject *loop)
{
    PyObject *replaced = NULL;
    UVT_MUTEX_LOCK(st->mutex);
    if (st->default_loop == old) {
        replaced = st->default_loop;
        st->default_loop = Py_NewRef(loop);
        ((UvtLoop *)loop)->is_default = true;
    }
    UVT_MUTEX_UNLOCK(st->mutex);
    Py_XDECREF(replaced);
}

/* Open, but of the parent process: a child makes its own. */
static bool
is_parents(PyObject *loop)
{
    UvtLoop *self = (UvtLoop *)loop;
    UVT_LOCKED(self->lock);
    return self->core != NULL && uvt_fork_is_child(self);
}

static PyObject *
loop_default_loop(PyObject *cls, PyObject *Py_UNUSED(ignored))
{
    UvtState *st = uvt_state_of_type((PyTypeObject *)cls);
    PyObject *old, *loop;
    if (st == NULL) {
        return NULL;
    }
    old = get_default(st);
    if (old != NULL && !is_parents(old)) {
        return old;
    }
    loop = PyObject_CallNoArgs(cls);
    UVT_LOCKED(uvt_lock_of(st, loop));
    if (loop == NULL || !uvt_loop_check_arg(st, loop)) {
        Py_XDECREF(loop);
        Py_XDECREF(old);
        return NULL;
    }
    set_default(st, old, loop);
    Py_DECREF(loop);
    Py_XDECREF(old);
    return get_default(st);
}

PyDoc_STRVAR(now_doc,
"now($self, /)\n--\n\n"
"The loop's clock in milliseconds (int), read once in each turn.");

static PyObject *
loop_now(UvtLoop *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(self->lock);
    if (!uvt_loop_check(self)) {
        return NULL;
    }
    return PyLong_FromUnsignedLongLong(uv_now(&self->core->uv));
}

PyDoc_STRVAR(update_time_doc,
"update_time($self, /)\n--\n\nRead the clock again, for now() and timers.");

static PyObject *
loop_update_time(UvtLoop *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(self->lock);
    if (!uvt_loop_check(self)) {
        return NULL;
    }
    uv_update_time(&self->core->uv);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(fileno_doc,
"fileno($self, /)\n--\n\n"
"The descriptor that libuv polls with, to embed this loop in another: it is\n"
"readable when run(UV_RUN_NOWAIT) has something to do.");

static PyObject *
loop_fileno(UvtLoop *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(self->lock);
    if (!uvt_loop_check(self)) {
        return NULL;
    }
    self->core->embedded = true;
    return PyLong_FromLong(uv_backend_fd(&self->core->uv));
}

PyDoc_STRVAR(get_timeout_doc,
"get_timeout($self, /)\n--\n\n"
"Seconds (float) that the next poll may block; -1.0: without end.");

static PyObject *
loop_get_timeout(UvtLoop *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(self->lock);
    int ms;
    if (!uvt_loop_check(self)) {
        return NULL;
    }
    ms = uv_backend_timeout(&self->core->uv);
    return PyFloat_FromDouble(ms < 0 ? -1.0 : ms / 1000.0);
}

PyDoc_STRVAR(configure_doc,
"configure($self, option, value=0, /)\n--\n\n"
"Set a loop option before the loop runs: UV_METRICS_IDLE_TIME, or\n"
"UV_LOOP_BLOCK_SIGNAL with SIGPROF.\n\n"
"Raises UVError (ENOSYS: this libuv does not know the option; EINVAL).");

static PyObject *
loop_configure(UvtLoop *self, PyObject *const *args, Py_ssize_t nargs)
{
    UVT_LOCKED(self->lock);
    int option, value = 0, rc;
    if (!uvt_args_count("Loop.configure", nargs, 1, 2)
        || !uvt_arg_int("Loop.configure", "option", args[0], 0, INT_MAX,
                        &option)
        || (nargs > 1
            && !uvt_arg_int("Loop.configure", "value", args[1], 0, INT_MAX,
                            &value))
        || !uvt_loop_check(self)) {
        return NULL;
    }
    rc = uv_loop_configure(&self->core->uv, (uv_loop_option)option, value);
    if (rc < 0) {
        return uvt_raise(self->st, UVT_EXC_UV, rc, "uv_loop_configure");
    }
    self->idle_time_metered |= option == UV_METRICS_IDLE_TIME;
    Py_RETURN_NONE;
}

static PyObject *
list_handles(UvtLoop *self)
{
    PyObject *list = PyList_New(0);
    if (list == NULL || self->core == NULL) {
        return list;
    }
    for (UvtBox *box = self->core->boxes; box != NULL; box = box->next) {
        UvtHandle *owner = uvt_box_owner(box);
        int rc = owner != NULL ? PyList_Append(list, (PyObject *)owner) : 0;
        Py_XDECREF(owner);
        if (rc < 0) {
            Py_DECREF(list);
            return NULL;
        }
    }
    return list;
}

PyDoc_STRVAR(walk_doc,
"walk($self, callback, /)\n--\n\n"
"Call callback(handle) for each handle of the loop, closing ones included.\n"
"An exception of the callback ends the walk and is raised.");

static PyObject *
loop_walk(UvtLoop *self, PyObject *callback)
{
    UVT_LOCKED(self->lock);
    PyObject *list;
    if (!uvt_arg_callable("Loop.walk", callback) || !uvt_loop_check(self)) {
        return NULL;
    }
    list = list_handles(self);
    if (list == NULL) {
        return NULL;
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(list); i++) {
        PyObject *result = PyObject_CallOneArg(callback,
                                               PyList_GET_ITEM(list, i));
        if (result == NULL) {
            Py_DECREF(list);
            return NULL;
        }
        Py_DECREF(result);
    }
    Py_DECREF(list);
    Py_RETURN_NONE;
}

/* ---- attributes ---- */

static PyObject *
loop_get_handles(UvtLoop *self, void *Py_UNUSED(closure))
{
    UVT_LOCKED(self->lock);
    return list_handles(self);
}

static PyObject *
loop_get_alive(UvtLoop *self, void *Py_UNUSED(closure))
{
    UVT_LOCKED(self->lock);
    if (!uvt_loop_check(self)) {
        return NULL;
    }
    return PyBool_FromLong(uv_loop_alive(&self->core->uv));
}

static PyObject *
loop_get_default(UvtLoop *self, void *Py_UNUSED(closure))
{
    UVT_LOCKED(self->lock);
    return PyBool_FromLong(self->is_default);
}

static PyObject *
loop_get_closed(UvtLoop *self, void *Py_UNUSED(closure))
{
    UVT_LOCKED(self->lock);
    return PyBool_FromLong(self->initialised && self->core == NULL);
}

static PyObject *
loop_get_running(UvtLoop *self, void *Py_UNUSED(closure))
{
    UVT_LOCKED(self->lock);
    return PyBool_FromLong(self->core != NULL && self->core->forked
                           ? self->running_in_child : self->thread_id != 0);
}

static size_t
count_handles(const UvtCore *core)
{
    size_t count = 0;
    for (UvtBox *box = core->boxes; box != NULL; box = box->next) {
        count += box->owner != NULL;
    }
    return count;
}

static PyObject *
loop_repr(UvtLoop *self)
{
    UVT_LOCKED(self->lock);
    if (self->core == NULL) {
        return PyUnicode_FromFormat(
            "<%s %s at %p>", Py_TYPE(self)->tp_name,
            self->initialised ? "closed" : "uninitialised", self);
    }
    return PyUnicode_FromFormat(
        "<%s %s handles=%zu at %p>", Py_TYPE(self)->tp_name,
        self->core->forked ? "forked" : self->thread_id != 0 ? "running" : "idle",
        count_handles(self->core), self);
}

PyDoc_STRVAR(close_doc,
"close($self, /)\n--\n\n"
"Close the loop: all handles have to be closed, their close callbacks run\n"
"here.  A closed loop stays closed; closing it again does nothing.\n\n"
"Raises UVError (EBUSY) while handles are open or requests under way,\n"
"RuntimeError while it runs.");

PyDoc_STRVAR(run_doc,
"run($self, mode=0, /)\n--\n\n"
"Run the loop: UV_RUN_DEFAULT until nothing is left to wait for or stop() was\n"
"called, UV_RUN_ONCE one turn that may wait, UV_RUN_NOWAIT one that does not.\n"
"Returns True while there are active handles or requests.\n\n"
"On the main thread, signals interrupt a wait.  KeyboardInterrupt, SystemExit\n"
"and what a signal handler raises stop the loop and leave run().\n\n"
"Raises ValueError (mode), RuntimeError (nested, another thread, closed), UVError\n"
"(EBADF: somebody has closed descriptors that the loop itself has, as programs do\n"
"that become daemons: it can only be closed).");

PyDoc_STRVAR(stop_doc,
"stop($self, /)\n--\n\n"
"End the run at the end of this turn; before run(), that run returns at once.");

PyDoc_STRVAR(excepthook_doc,
"excepthook($self, type, value, traceback, /)\n--\n\n"
"Called with what a callback raised; prints it on sys.stderr.  Override it in a\n"
"subclass or assign another callable; the loop goes on when it returns.  While\n"
"it is not replaced, KeyboardInterrupt and SystemExit leave run() instead.");

static PyMethodDef loop_methods[] = {
    {"run", (PyCFunction)(void (*)(void))uvt_loop_run, METH_FASTCALL, run_doc},
    {"stop", (PyCFunction)uvt_loop_stop, METH_NOARGS, stop_doc},
    {"excepthook", (PyCFunction)(void (*)(void))uvt_loop_excepthook,
     METH_FASTCALL, excepthook_doc},
    {"close", (PyCFunction)uvt_loop_close_method, METH_NOARGS, close_doc},
    {"default_loop", (PyCFunction)loop_default_loop, METH_NOARGS | METH_CLASS,
     default_loop_doc},
    {"now", (PyCFunction)loop_now, METH_NOARGS, now_doc},
    {"update_time", (PyCFunction)loop_update_time, METH_NOARGS,
     update_time_doc},
    {"fileno", (PyCFunction)loop_fileno, METH_NOARGS, fileno_doc},
    {"get_timeout", (PyCFunction)loop_get_timeout, METH_NOARGS,
     get_timeout_doc},
    {"configure", (PyCFunction)(void (*)(void))loop_configure, METH_FASTCALL,
     configure_doc},
    {"metrics", (PyCFunction)uvt_loop_metrics, METH_NOARGS,
     uvt_loop_metrics_doc},
    {"metrics_idle_time", (PyCFunction)uvt_loop_metrics_idle_time, METH_NOARGS,
     uvt_loop_metrics_idle_time_doc},
#if UV_VERSION_HEX >= 0x012D00
    {"metrics_info", (PyCFunction)uvt_loop_metrics_info, METH_NOARGS,
     uvt_loop_metrics_info_doc},
#endif
    {"walk", (PyCFunction)loop_walk, METH_O, walk_doc},
    {"fork", (PyCFunction)uvt_loop_fork, METH_NOARGS, uvt_loop_fork_doc},
    {"print_handles", (PyCFunction)(void (*)(void))uvt_loop_print_handles,
     METH_FASTCALL, uvt_loop_print_handles_doc},
    {"queue_work", (PyCFunction)(void (*)(void))uvt_queue_work, METH_FASTCALL,
     uvt_queue_work_doc},
    {"random", (PyCFunction)(void (*)(void))uvt_loop_random, METH_FASTCALL,
     uvt_loop_random_doc},
    {NULL},
};

static PyGetSetDef loop_getset[] = {
    {"handles", (getter)loop_get_handles, NULL,
     "A list of the loop's handles, closing ones included.", NULL},
    {"alive", (getter)loop_get_alive, NULL,
     "True while there are active handles or requests.", NULL},
    {"default", (getter)loop_get_default, NULL,
     "True for the loop that default_loop() made.", NULL},
    {"closed", (getter)loop_get_closed, NULL, "True after close().", NULL},
    {"running", (getter)loop_get_running, NULL,
     "True inside of run(), also seen from other threads.", NULL},
    {"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, NULL, NULL},
    {NULL},
};

static PyMemberDef loop_members[] = {
    {"__dictoffset__", T_PYSSIZET, offsetof(UvtLoop, dict), READONLY},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(UvtLoop, weakrefs), READONLY},
    {NULL},
};

PyDoc_STRVAR(loop_doc,
"Loop()\n--\n\n"
"An event loop of libuv.  Handles are made on it; run() calls their callbacks.\n"
"It belongs to the thread that runs it: there only Async.send() may be called\n"
"from other threads.\n\n"
"Raises RuntimeError when libuv cannot make a loop (no descriptors left).");

static PyType_Slot loop_slots[] = {
    {Py_tp_doc, (void *)loop_doc},
    {Py_tp_new, loop_new},
    {Py_tp_init, loop_init},
    {Py_tp_repr, loop_repr},
    {Py_tp_traverse, loop_traverse},
    {Py_tp_clear, loop_clear},
    {Py_tp_dealloc, loop_dealloc},
    {Py_tp_methods, loop_methods},
    {Py_tp_getset, loop_getset},
    {Py_tp_members, loop_members},
    {0, NULL},
};

static PyType_Spec loop_spec = {
    .name = "uvtulip._uv.Loop",
    .basicsize = sizeof(UvtLoop),
    .flags = UVT_HANDLE_FLAGS,
    .slots = loop_slots,
};

int
uvt_loop_setup(PyObject *module, UvtState *st)
{
    return uvt_add_type(module, &st->loop_type, &loop_spec, NULL);
}
