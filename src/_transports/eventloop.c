/* EventLoop: the type, its life cycle, and the methods that need no file of
 * their own.  All functions run attached, on the loop's thread or on any while
 * nobody runs it; threadsafe.c says what else any thread may call.
 *
 * Edges that the collector sees: loop -> raw loop and its two handles, handles
 * in the queues, timers, watchers, dirty transports, hooks, __dict__.  The raw
 * loop keeps this one as the owner of its hooks until either is closed, so an
 * open loop is always a cycle, and freed by the collector.
 */
#include "eventloop.h"
#include "clock.h"
#include "datagram.h"
#include "lookup.h"
#include "sockwait.h"
#include "stream.h"

void
tulip_loop_set_hook(PyObject **slot, PyObject *value)
{
    Py_XSETREF(*slot, value != Py_None ? Py_NewRef(value) : NULL);
}

/* ---- life cycle ---- */

/* A loop counts as closed until __init__ has opened it. */
static PyObject *
loop_new(PyTypeObject *type, PyObject *Py_UNUSED(args),
         PyObject *Py_UNUSED(kwds))
{
    TulipState *st = tulip_state_of_type(type);
    TulipLoop *self;
    if (st == NULL) {
        return NULL;
    }
    self = (TulipLoop *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->st = st;
    self->module = Py_NewRef(st->module);
    self->callback_type = (PyTypeObject *)Py_NewRef(st->callback_type);
    self->timer_type = (PyTypeObject *)Py_NewRef(st->timer_type);
    self->armed = TULIP_NEVER;
    self->slow_callback_duration = 0.1;
    self->closed = true;
    return (PyObject *)self;
}

static int
loop_init(TulipLoop *self, PyObject *args, PyObject *kwds)
{
    UVT_LOCKED((PyObject *)self);       /* there is no other lock yet */
    const UvtCAPI *api = self->st->uv;
    if (PyTuple_GET_SIZE(args) > 0
        || (kwds != NULL && PyDict_GET_SIZE(kwds) > 0)) {
        PyErr_Format(PyExc_TypeError, "%s() takes no arguments",
                     Py_TYPE(self)->tp_name);
        return -1;
    }
    if (self->uv_loop != NULL) {
        PyErr_SetString(PyExc_RuntimeError,
                        "the event loop is initialised already");
        return -1;
    }
    self->uv_loop = api->loop_new(api->state);
    if (self->uv_loop == NULL) {
        return -1;
    }
    UVT_LOCK_KEEP(self->lock, api->loop_lock(self->uv_loop));
    self->uv = api->loop_uv(self->uv_loop);
    if (self->uv == NULL
        || api->loop_hooks(self->uv_loop, &tulip_loop_hooks,
                           (PyObject *)self) < 0) {
        return -1;
    }
    tulip_clock_look(self);
    self->closed = false;
    return 0;
}

static int
loop_traverse(TulipLoop *self, visitproc visit, void *arg)
{
    int rc;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->module);
    Py_VISIT(self->callback_type);
    Py_VISIT(self->timer_type);
    Py_VISIT(self->drain_type);
    Py_VISIT(self->uv_loop);
    Py_VISIT(self->wakeup);
    Py_VISIT(self->deadline);
    Py_VISIT(self->readiness);
    Py_VISIT(self->loop_kwargs);
    Py_VISIT(self->task_factory);
    Py_VISIT(self->signal_hook);
    Py_VISIT(self->raised);
    Py_VISIT(self->current_handle);
    Py_VISIT(self->slowest_name);
    Py_VISIT(self->dict);
    rc = tulip_ring_traverse(&self->ready, visit, arg);
    if (rc == 0) {
        rc = tulip_ring_traverse(&self->inbox, visit, arg);
    }
    if (rc == 0) {
        rc = tulip_sock_traverse(self, visit, arg);
    }
    if (rc == 0) {
        rc = tulip_lookup_traverse(self, visit, arg);
    }
    if (rc == 0) {
        rc = tulip_accepted_traverse(self, visit, arg);
    }
    if (rc == 0) {
        rc = tulip_timers_traverse(&self->timers, visit, arg);
    }
    if (rc == 0) {
        rc = tulip_dirty_traverse(self, visit, arg);
    }
    return rc;
}

/* What only an open loop has. */
static void
drop_work(TulipLoop *self)
{
    tulip_ring_clear(&self->ready);
    tulip_ring_clear(&self->inbox);
    tulip_timers_clear(&self->timers);
    tulip_sock_end(self);
    tulip_lookup_end(self);
    tulip_accepted_end(self);
    Py_CLEAR(self->readiness);
    Py_CLEAR(self->loop_kwargs);
    Py_CLEAR(self->signal_hook);
}

/* Closed from now on: the raw loop goes without its close callbacks. */
static int
loop_clear(TulipLoop *self)
{
    UVT_LOCKED(self->lock);
    tulip_loop_set_closed(self);
    self->uv = NULL;
    drop_work(self);
    tulip_dirty_clear(self);
    Py_CLEAR(self->wakeup);
    Py_CLEAR(self->drain_type);
    Py_CLEAR(self->deadline);
    Py_CLEAR(self->task_factory);
    Py_CLEAR(self->raised);
    Py_CLEAR(self->current_handle);
    Py_CLEAR(self->slowest_name);
    Py_CLEAR(self->uv_loop);
    Py_CLEAR(self->dict);
    return 0;
}

static void
loop_dealloc(TulipLoop *self)
{
    PyTypeObject *tp = Py_TYPE(self);
    if (PyObject_CallFinalizerFromDealloc((PyObject *)self) < 0) {
        return;
    }
    PyObject_GC_UnTrack(self);
    UVT_LOCKED(self->lock);
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs((PyObject *)self);
    }
    (void)loop_clear(self);
    tulip_callback_free_list(self);
    tulip_arrivals_free(self->arrivals);
    PyMem_Free(self->tls_slab);
    PyMem_Free(self->fd_marks);
    Py_CLEAR(self->callback_type);
    Py_CLEAR(self->timer_type);
    UVT_LOCK_DROP(self->lock);
    Py_CLEAR(self->module);
    tp->tp_free(self);
    Py_DECREF(tp);
}

/* ---- closing ---- */

PyDoc_STRVAR(close_doc,
"_close($self, /)\n--\n\n"
"Drop all callbacks and timers, close every handle of the raw loop, then the\n"
"raw loop itself.  Does nothing on a closed loop.\n\n"
"Raises RuntimeError while the loop or the raw loop runs, and nothing is done.");

/* The raw loop is taken first: what is called on the way, and other threads, can
 * neither run nor close it.  A second call goes on where one has failed. */
static PyObject *
loop_close(TulipLoop *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(self->lock);
    const UvtCAPI *api = self->st->uv;
    int rc;
    if (self->thread_id != 0) {
        PyErr_SetString(PyExc_RuntimeError,
                        "Cannot close a running event loop");
        return NULL;
    }
    if (self->closing || self->uv == NULL) {
        Py_RETURN_NONE;
    }
    if (api->loop_close_begin(self->uv_loop) < 0) {
        return NULL;
    }
    self->closing = true;
    if (!tulip_loop_is_closed(self)) {
        tulip_flush_dirty(self);
        tulip_loop_set_closed(self);
    }
    drop_work(self);
    rc = api->loop_close(self->uv_loop);
    self->closing = false;
    if (rc < 0 && !api->loop_is_closed(self->uv_loop)) {
        return NULL;
    }
    self->uv = NULL;
    tulip_dirty_clear(self);
    tulip_arrivals_free(self->arrivals);
    self->arrivals = NULL;
    Py_CLEAR(self->wakeup);
    Py_CLEAR(self->deadline);
    if (self->raised != NULL) {
        PyObject *raised = self->raised;
        self->raised = NULL;
        if (rc < 0) {
            PyErr_WriteUnraisable((PyObject *)self);
        }
        PyErr_SetRaisedException(raised);
        rc = -1;
    }
    if (rc < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* Must not disturb an exception that is being handled. */
static void
loop_finalize(TulipLoop *self)
{
    PyObject *raised, *result;
    if (self->closed) {
        return;
    }
    raised = PyErr_GetRaisedException();
    if (PyErr_ResourceWarning((PyObject *)self, 1, "unclosed event loop %R",
                              self) < 0) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    if (self->thread_id == 0) {
        result = loop_close(self, NULL);
        if (result == NULL) {
            PyErr_WriteUnraisable((PyObject *)self);
        }
        Py_XDECREF(result);
    }
    if (raised != NULL) {
        PyErr_SetRaisedException(raised);
    }
}

/* ---- small methods ---- */

PyDoc_STRVAR(time_doc,
"time($self, /)\n--\n\nNow, in seconds; the clock of time.monotonic().");

PyDoc_STRVAR(is_running_doc,
"is_running($self, /)\n--\n\nTrue inside of run_forever().");

static PyObject *
loop_is_running(TulipLoop *self, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(self->thread_id != 0);
}

PyDoc_STRVAR(is_closed_doc,
"is_closed($self, /)\n--\n\nTrue after close().");

static PyObject *
loop_is_closed(TulipLoop *self, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(tulip_loop_is_closed(self));
}

PyDoc_STRVAR(get_debug_doc,
"get_debug($self, /)\n--\n\nTrue in debug mode.");

static PyObject *
loop_get_debug(TulipLoop *self, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(self->debug);
}

PyDoc_STRVAR(set_debug_doc,
"set_debug($self, enabled, /)\n--\n\nSwitch debug mode on or off.");

static PyObject *
loop_set_debug(TulipLoop *self, PyObject *enabled)
{
    UVT_LOCKED(self->lock);
    int debug = PyObject_IsTrue(enabled);
    if (debug < 0) {
        return NULL;
    }
    self->debug = debug;
    self->watched = self->debug || self->timing;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(check_closed_doc,
"_check_closed($self, /)\n--\n\nRaise RuntimeError if the loop is closed.");

static PyObject *
loop_check_closed(TulipLoop *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(self->lock);
    return tulip_loop_check_open(self) ? Py_NewRef(Py_None) : NULL;
}

PyDoc_STRVAR(check_thread_doc,
"_check_thread($self, /)\n--\n\n"
"Raise RuntimeError if another thread runs the loop.");

static PyObject *
loop_check_thread(TulipLoop *self, PyObject *Py_UNUSED(ignored))
{
    return tulip_loop_check_own_thread(self) ? Py_NewRef(Py_None) : NULL;
}

/* ---- attributes ---- */

static PyObject *
loop_get_ready(TulipLoop *self, void *Py_UNUSED(closure))
{
    UVT_LOCKED(self->lock);
    return tulip_ring_list(&self->ready);
}

static PyObject *
loop_get_thread_id(TulipLoop *self, void *Py_UNUSED(closure))
{
    return self->thread_id == 0 ? Py_NewRef(Py_None)
                                : PyLong_FromUnsignedLong(self->thread_id);
}

static PyObject *
loop_get_debug_attribute(TulipLoop *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(self->debug);
}

static PyObject *
loop_get_clock_resolution(TulipLoop *Py_UNUSED(self), void *Py_UNUSED(closure))
{
    return PyFloat_FromDouble(1e-9);
}

static PyGetSetDef loop_getset[] = {
    {"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, NULL, NULL},
    {"_ready", (getter)loop_get_ready, NULL,
     "A list of the handles that are ready to be called.", NULL},
    {"_thread_id", (getter)loop_get_thread_id, NULL,
     "The thread that runs the loop, or None.", NULL},
    {"_debug", (getter)loop_get_debug_attribute, NULL,
     "True in debug mode.", NULL},
    {"_clock_resolution", (getter)loop_get_clock_resolution, NULL,
     "The resolution of time() in seconds.", NULL},
    {NULL},
};

static PyMemberDef loop_members[] = {
    {"_forked", T_BOOL, offsetof(TulipLoop, forked), READONLY,
     "True in a forked child of the process that made the loop."},
    {"slow_callback_duration", T_DOUBLE,
     offsetof(TulipLoop, slow_callback_duration), 0,
     "In debug mode, callbacks that take as many seconds are logged."},
    {"uv_loop", T_OBJECT, offsetof(TulipLoop, uv_loop), READONLY,
     "The raw loop under this one (uvtulip.uv.Loop)."},
    {"_current_handle", T_OBJECT, offsetof(TulipLoop, current_handle), READONLY,
     "In debug mode, the handle that is being called, or None."},
    {"__dictoffset__", T_PYSSIZET, offsetof(TulipLoop, dict), READONLY},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(TulipLoop, weakrefs), READONLY},
    {NULL},
};

/* ---- tables ---- */

PyDoc_STRVAR(create_future_doc,
"create_future($self, /)\n--\n\nA new asyncio.Future of this loop.");

PyDoc_STRVAR(create_task_doc,
"create_task($self, coro, *, name=None, context=None, **kwargs)\n--\n\n"
"A task that runs the coroutine, made by the task factory if there is one.\n"
"The keyword arguments (name, context, ...) are those of asyncio.Task.");

PyDoc_STRVAR(set_task_factory_doc,
"set_task_factory($self, factory)\n--\n\n"
"Have create_task() call factory(loop, coro, **kwargs); None: asyncio.Task.");

PyDoc_STRVAR(get_task_factory_doc,
"get_task_factory($self, /)\n--\n\nThe task factory, or None.");

PyDoc_STRVAR(call_soon_doc,
"call_soon($self, callback, *args, context=None)\n--\n\n"
"Have callback(*args) called in the next turn, in the order of these calls.");

PyDoc_STRVAR(call_soon_threadsafe_doc,
"call_soon_threadsafe($self, callback, *args, context=None)\n--\n\n"
"As call_soon(), from any thread or a signal handler.");

PyDoc_STRVAR(call_later_doc,
"call_later($self, delay, callback, *args, context=None)\n--\n\n"
"Have callback(*args) called after `delay` seconds.");

PyDoc_STRVAR(call_at_doc,
"call_at($self, when, callback, *args, context=None)\n--\n\n"
"Have callback(*args) called when time() has reached `when`.");

PyDoc_STRVAR(stop_doc,
"stop($self, /)\n--\n\n"
"Leave run_forever() after the callbacks that are being called now.");

PyDoc_STRVAR(run_doc,
"_run($self, /)\n--\n\n"
"Run until stop() is called, or a callback raises KeyboardInterrupt or\n"
"SystemExit.");

PyDoc_STRVAR(set_signal_hook_doc,
"_set_signal_hook($self, hook, /)\n--\n\n"
"Have hook(signums) called with bytes when signals came in, after their handlers\n"
"or, at the end of a run, before; None: no more.");

PyDoc_STRVAR(add_reader_doc,
"add_reader($self, fd, callback, *args, context=None)\n--\n\n"
"Call callback(*args) whenever the descriptor (an int, or an object with\n"
"fileno()) can be read from.  Replaces the reader that was there.\n\n"
"Raises ValueError, OSError (EPERM: it cannot be waited for, EBADF) and\n"
"RuntimeError (another handle of the loop uses it).");

PyDoc_STRVAR(add_writer_doc,
"add_writer($self, fd, callback, *args, context=None)\n--\n\n"
"As add_reader(), for when it can be written to.");

PyDoc_STRVAR(remove_reader_doc,
"remove_reader($self, fd)\n--\n\n"
"Cancel the reader of the descriptor; False: there was none.");

PyDoc_STRVAR(remove_writer_doc,
"remove_writer($self, fd)\n--\n\n"
"Cancel the writer of the descriptor; False: there was none.");

#define FAST(function) (PyCFunction)(void (*)(void))function

PyDoc_STRVAR(own_methods_doc,
"_own_methods($type, /)\n--\n\n"
"Give a subclass method descriptors of its own: the interpreter's quick way to\n"
"call one is only for instances of exactly the descriptor's type.");

static PyMethodDef loop_methods[] = {
    {"call_soon", FAST(tulip_loop_py_call_soon),
     METH_FASTCALL | METH_KEYWORDS, call_soon_doc},
    {"call_soon_threadsafe", FAST(tulip_loop_py_call_soon_threadsafe),
     METH_FASTCALL | METH_KEYWORDS, call_soon_threadsafe_doc},
    {"call_later", FAST(tulip_loop_py_call_later),
     METH_FASTCALL | METH_KEYWORDS, call_later_doc},
    {"call_at", FAST(tulip_loop_py_call_at), METH_FASTCALL | METH_KEYWORDS,
     call_at_doc},
    {"time", tulip_loop_py_time, METH_NOARGS, time_doc},
    {"create_future", (PyCFunction)tulip_loop_py_create_future, METH_NOARGS,
     create_future_doc},
    {"create_task", FAST(tulip_loop_py_create_task), METH_FASTCALL | METH_KEYWORDS,
     create_task_doc},
    {"set_task_factory", FAST(tulip_loop_py_set_task_factory),
     METH_FASTCALL | METH_KEYWORDS, set_task_factory_doc},
    {"get_task_factory", (PyCFunction)tulip_loop_py_get_task_factory, METH_NOARGS,
     get_task_factory_doc},
    {"stop", (PyCFunction)tulip_loop_stop, METH_NOARGS, stop_doc},
    {"is_running", (PyCFunction)loop_is_running, METH_NOARGS, is_running_doc},
    {"is_closed", (PyCFunction)loop_is_closed, METH_NOARGS, is_closed_doc},
    {"get_debug", (PyCFunction)loop_get_debug, METH_NOARGS, get_debug_doc},
    {"set_debug", (PyCFunction)loop_set_debug, METH_O, set_debug_doc},
    {"add_reader", FAST(tulip_loop_py_add_reader),
     METH_FASTCALL | METH_KEYWORDS, add_reader_doc},
    {"add_writer", FAST(tulip_loop_py_add_writer),
     METH_FASTCALL | METH_KEYWORDS, add_writer_doc},
    {"remove_reader", FAST(tulip_loop_py_remove_reader),
     METH_FASTCALL | METH_KEYWORDS, remove_reader_doc},
    {"remove_writer", FAST(tulip_loop_py_remove_writer),
     METH_FASTCALL | METH_KEYWORDS, remove_writer_doc},
    {"_run", (PyCFunction)tulip_loop_run, METH_NOARGS, run_doc},
    {"_close", (PyCFunction)loop_close, METH_NOARGS, close_doc},
    {"_check_closed", (PyCFunction)loop_check_closed, METH_NOARGS,
     check_closed_doc},
    {"_check_thread", (PyCFunction)loop_check_thread, METH_NOARGS,
     check_thread_doc},
    {"_set_signal_hook", (PyCFunction)tulip_loop_py_set_signal_hook, METH_O,
     set_signal_hook_doc},
    {"_own_methods", (PyCFunction)tulip_own_methods, METH_NOARGS | METH_CLASS,
     own_methods_doc},
    {NULL},
};

PyDoc_STRVAR(loop_doc,
"EventLoop()\n--\n\n"
"The C half of uvtulip.Loop.  It belongs to the thread that runs it: only\n"
"call_soon_threadsafe() may be called from others.");

static PyType_Slot loop_slots[] = {
    {Py_tp_doc, (void *)loop_doc},
    {Py_tp_new, loop_new},
    {Py_tp_init, loop_init},
    {Py_tp_traverse, loop_traverse},
    {Py_tp_clear, loop_clear},
    {Py_tp_finalize, loop_finalize},
    {Py_tp_dealloc, loop_dealloc},
    {Py_tp_setattro, tulip_loop_setattro},
    {Py_tp_methods, loop_methods},
    {Py_tp_getset, loop_getset},
    {Py_tp_members, loop_members},
    {0, NULL},
};

static PyType_Spec loop_spec = {
    .name = "uvtulip._transports.EventLoop",
    .basicsize = sizeof(TulipLoop),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = loop_slots,
};

int
tulip_loop_setup(PyObject *module, TulipState *st)
{
    if (tulip_add_type(module, &st->loop_type, &loop_spec, NULL) < 0) {
        return -1;
    }
    if (tulip_add_methods(st->loop_type, tulip_sock_methods) < 0
        || tulip_add_methods(st->loop_type, tulip_lookup_methods) < 0
        || tulip_add_methods(st->loop_type, tulip_readiness_methods) < 0) {
        return -1;
    }
    return tulip_add_methods(st->loop_type, tulip_metrics_methods);
}
