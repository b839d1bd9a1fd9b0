/* Handle and TimerHandle.  All functions run attached; in debug mode the loop
 * checks that they run on its own thread.  A handle owns its loop, callable,
 * arguments and context until it is deallocated or cancelled.  Without a GIL a
 * critical section of the handle guards who empties it: a handle may be cancelled
 * by another thread than the one that is about to call it.
 *
 * Edges that the collector sees: handle -> loop, callable, context, arguments,
 * source traceback.  The loop visits the handles in its queues.
 *
 * A handle is made untracked.  It is tracked when it is put anywhere but into
 * the ring or the heap of a loop that runs: such a loop is alive, so all that
 * they keep is, and the collector has nothing to find there.  A handle that
 * leaves them and is kept by somebody else is tracked then, and all that are
 * left in them when the run ends.  Of a batch of call_soon() this saves a sixth,
 * of many live timers a quarter.
 *
 * What asyncio's classes define in Python (the repr, comparing and hashing) is
 * inherited, and reads our attributes.  They shadow asyncio's slots, whose
 * memory stays unused.
 */
#include "callback.h"
#include "eventloop.h"
#include <string.h>

/* How much memory is kept for new handles, 272 bytes each; a tenth of
 * call_soon() is saved by it.  Nothing without a GIL, where the allocator is as
 * quick, or when it is the allocator's turn to find what is used after it was
 * freed. */
#if defined(Py_GIL_DISABLED) || defined(__SANITIZE_ADDRESS__)
#define FREE_MAX 0
#else
#define FREE_MAX 8192
#endif

/* ---- life cycle ---- */

/* Not tracked, with everything set but callable, context and arguments. */
static inline TulipCallback *
allocate(TulipLoop *loop, PyTypeObject *tp)
{
    TulipCallback *self = loop->free;
    if (self != NULL) {
        loop->free = (TulipCallback *)self->loop;
        loop->free_count--;
        (void)PyObject_Init((PyObject *)self, tp);
    }
    else {
        self = PyObject_GC_New(TulipCallback, tp);
        if (self == NULL) {
            return NULL;
        }
        memset(self->inherited, 0, sizeof(self->inherited));
    }
    self->loop = (TulipLoop *)Py_NewRef(loop);
    self->cfunction = NULL;
    self->args = self->args_inline;
    self->source_traceback = NULL;
    self->repr = NULL;
    self->nargs = 0;
    atomic_init(&self->cancelled, false);
    self->running = false;
    self->tracked = false;
    atomic_init(&self->scheduled, false);
    return self;
}

static inline int
set_args(TulipCallback *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs > TULIP_ARGS_INLINE) {
        PyObject **copy = PyMem_New(PyObject *, nargs + 1);
        if (copy == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        self->args = copy;
    }
    self->nargs = (uint32_t)nargs;
    for (Py_ssize_t i = 0; i < nargs; i++) {
        self->args[i + 1] = Py_NewRef(args[i]);
    }
    return 0;
}

/* The stack of the caller: a C function has no frame of its own. */
static int
set_traceback(TulipCallback *self)
{
    self->source_traceback = PyObject_CallNoArgs(self->loop->st->extract_stack);
    return self->source_traceback != NULL ? 0 : -1;
}

TulipCallback *
tulip_callback_new(TulipLoop *loop, PyObject *callable, PyObject *const *args,
                   Py_ssize_t nargs, PyObject *context, bool is_timer)
{
    TulipCallback *self = allocate(
        loop, is_timer ? loop->timer_type : loop->callback_type);
    if (self == NULL) {
        return NULL;
    }
    self->callable = Py_NewRef(callable);
    self->context = context != NULL ? Py_NewRef(context)
                                    : PyContext_CopyCurrent();
    if (self->context == NULL || set_args(self, args, nargs) < 0
        || (loop->debug && set_traceback(self) < 0)) {
        Py_DECREF(self);
        return NULL;
    }
    return self;
}

TulipCallback *
tulip_callback_new_c(TulipLoop *loop, TulipCFunction function, PyObject *owner,
                     PyObject *arg, bool is_timer)
{
    TulipCallback *self = allocate(
        loop, is_timer ? loop->timer_type : loop->callback_type);
    if (self == NULL) {
        return NULL;
    }
    self->cfunction = function;
    self->callable = Py_NewRef(owner);
    self->context = NULL;
    if (arg != NULL) {
        self->nargs = 1;
        self->args[1] = Py_NewRef(arg);
    }
    return self;
}

static int
callback_traverse(TulipCallback *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->loop);
    Py_VISIT(self->callable);
    Py_VISIT(self->context);
    for (uint32_t i = 1; i <= self->nargs; i++) {
        Py_VISIT(self->args[i]);
    }
    Py_VISIT(self->source_traceback);
    Py_VISIT(self->TULIP_GIVEN_WHEN);
    return 0;
}

void
tulip_callback_drop(TulipCallback *self)
{
    PyObject *callable, **args, *inlined[TULIP_ARGS_INLINE + 1];
    uint32_t nargs;
    bool allocated;

    /* First the handle is made empty, as its own methods may be called. */
    Py_BEGIN_CRITICAL_SECTION(self);
    callable = self->callable;
    args = self->args;
    nargs = self->nargs;
    allocated = args != self->args_inline;
    if (!allocated) {
        memcpy(inlined, args, sizeof(inlined));
        args = inlined;
    }
    self->callable = NULL;
    self->args = self->args_inline;
    self->nargs = 0;
    Py_END_CRITICAL_SECTION();
    if (callable == NULL) {
        return;
    }
    Py_DECREF(callable);
    for (uint32_t i = 1; i <= nargs; i++) {
        Py_DECREF(args[i]);
    }
    if (allocated) {
        PyMem_Free(args);
    }
}

/* The loop stays: dealloc needs it.  Whatever cycle goes through it is taken
 * apart by its own tp_clear. */
static int
callback_clear(TulipCallback *self)
{
    self->cancelled = true;
    tulip_callback_drop(self);
    Py_CLEAR(self->context);
    Py_CLEAR(self->source_traceback);
    return 0;
}

/* As tulip_callback_drop, of a handle that nobody can reach any more. */
static inline void
drop_last(TulipCallback *self)
{
    PyObject **args = self->args;
    if (self->callable == NULL) {
        return;
    }
    for (uint32_t i = 1; i <= self->nargs; i++) {
        Py_DECREF(args[i]);
    }
    if (args != self->args_inline) {
        PyMem_Free(args);
    }
    Py_DECREF(self->callable);
}

static void
destroy(TulipCallback *self)
{
    PyTypeObject *tp = Py_TYPE(self);
    TulipLoop *loop = self->loop;

    PyObject_ClearWeakRefs((PyObject *)self);
    drop_last(self);
    Py_XDECREF(self->context);
    Py_XDECREF(self->source_traceback);
    Py_XDECREF(self->repr);
    Py_CLEAR(self->TULIP_GIVEN_WHEN);
    if (loop->free_count < FREE_MAX) {
        self->loop = (TulipLoop *)loop->free;
        loop->free = self;
        loop->free_count++;
    }
    else {
        PyObject_GC_Del(self);
    }
    Py_DECREF(loop);
    Py_DECREF(tp);
}

/* Handles can be each other's arguments, so this may go deep. */
static void
callback_dealloc(TulipCallback *self)
{
    if (self->tracked) {
        PyObject_GC_UnTrack(self);
    }
    if (self->nargs == 0) {
        destroy(self);
        return;
    }
    Py_TRASHCAN_BEGIN(self, callback_dealloc)
    destroy(self);
    Py_TRASHCAN_END
}

void
tulip_callback_free_list(TulipLoop *loop)
{
    TulipCallback *memory = loop->free;
    loop->free = NULL;
    loop->free_count = 0;
    while (memory != NULL) {
        TulipCallback *next = (TulipCallback *)memory->loop;
        PyObject_GC_Del(memory);
        memory = next;
    }
}

/* ---- cancelling ---- */

/* The last repr that names the callable, for messages about slow callbacks.
 * It is the one of a cancelled handle. */
static int
keep_repr(TulipCallback *self)
{
    bool running = self->running;
    PyObject *repr;
    self->cancelled = true;
    self->running = false;
    repr = PyObject_Repr((PyObject *)self);
    self->cancelled = false;
    self->running = running;
    if (repr == NULL) {
        return -1;
    }
    Py_XSETREF(self->repr, repr);
    return 0;
}

/* Another thread that runs the loop may be at the heap: then the handle stays in it
 * until its time, empty. */
static void
leave_heap(TulipCallback *self)
{
    TulipLoop *loop = self->loop;
#ifdef Py_GIL_DISABLED
    if (!tulip_loop_is_here(loop)) {
        return;
    }
#endif
    UVT_LOCKED(loop->lock);
    if (self->scheduled) {
        tulip_timers_remove(&loop->timers, self);
    }
}

int
tulip_callback_cancel(TulipCallback *self)
{
    bool fresh, idle;
    if (self->cancelled) {
        return 0;
    }
    if (self->loop->debug && keep_repr(self) < 0) {
        return -1;
    }
    Py_BEGIN_CRITICAL_SECTION(self);
    fresh = !self->cancelled;
    self->cancelled = true;
    idle = !self->running;
    Py_END_CRITICAL_SECTION();
    if (fresh && self->scheduled) {
        leave_heap(self);
    }
    if (fresh && idle) {
        tulip_callback_drop(self);
    }
    return 0;
}

/* ---- methods ---- */

PyDoc_STRVAR(cancel_doc,
"cancel($self, /)\n--\n\n"
"Don't call it; harmless when it has been called already.");

static PyObject *
callback_cancel(TulipCallback *self, PyObject *Py_UNUSED(ignored))
{
    if (tulip_callback_cancel(self) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(cancelled_doc,
"cancelled($self, /)\n--\n\nTrue after cancel().");

static PyObject *
callback_cancelled(TulipCallback *self, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(self->cancelled);
}

static PyObject *
callback_get_context(TulipCallback *self, void *Py_UNUSED(closure))
{
    return Py_NewRef(self->context != NULL ? self->context : Py_None);
}

PyDoc_STRVAR(get_context_doc,
"get_context($self, /)\n--\n\nThe contextvars.Context it is called in.");

static PyObject *
callback_context(TulipCallback *self, PyObject *Py_UNUSED(ignored))
{
    return callback_get_context(self, NULL);
}

PyDoc_STRVAR(run_doc,
"_run($self, /)\n--\n\n"
"Call it now, unless cancelled.  Exceptions go to the exception handler.");

static PyObject *
callback_run(TulipCallback *self, PyObject *Py_UNUSED(ignored))
{
    if (tulip_callback_run(self) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(when_doc,
"when($self, /)\n--\n\nThe time it is scheduled for, by loop.time().");

static PyObject *
timer_when(TulipCallback *self, PyObject *Py_UNUSED(ignored))
{
    return self->TULIP_GIVEN_WHEN != NULL ? Py_NewRef(self->TULIP_GIVEN_WHEN)
                                          : PyFloat_FromDouble(self->when);
}

/* ---- attributes that asyncio's own handles have ---- */

/* Cancelled by what it calls, it is empty as soon as that returns. */
static bool
is_empty(const TulipCallback *self)
{
    return self->callable == NULL || (self->cancelled && self->running);
}

static PyObject *
callback_get_callback(TulipCallback *self, void *Py_UNUSED(closure))
{
    PyObject *callable;
    Py_BEGIN_CRITICAL_SECTION(self);
    callable = Py_NewRef(is_empty(self) ? Py_None : self->callable);
    Py_END_CRITICAL_SECTION();
    return callable;
}

static PyObject *
callback_get_args(TulipCallback *self, void *Py_UNUSED(closure))
{
    PyObject *tuple;
    Py_BEGIN_CRITICAL_SECTION(self);
    tuple = is_empty(self) ? Py_NewRef(Py_None) : PyTuple_New(self->nargs);
    if (tuple != NULL && tuple != Py_None) {
        for (uint32_t i = 0; i < self->nargs; i++) {
            PyTuple_SET_ITEM(tuple, i, Py_NewRef(self->args[i + 1]));
        }
    }
    Py_END_CRITICAL_SECTION();
    return tuple;
}

static PyObject *
callback_get_object(TulipCallback *self, void *offset)
{
    PyObject *value = *(PyObject **)((char *)self + (size_t)offset);
    return Py_NewRef(value != NULL ? value : Py_None);
}

static PyObject *
callback_get_bool(TulipCallback *self, void *offset)
{
    return PyBool_FromLong(*(bool *)((char *)self + (size_t)offset));
}

static PyObject *
timer_get_when(TulipCallback *self, void *Py_UNUSED(closure))
{
    return timer_when(self, NULL);
}

#define OFFSET(member) ((void *)offsetof(TulipCallback, member))

static PyMethodDef callback_methods[] = {
    {"cancel", (PyCFunction)callback_cancel, METH_NOARGS, cancel_doc},
    {"cancelled", (PyCFunction)callback_cancelled, METH_NOARGS, cancelled_doc},
    {"get_context", (PyCFunction)callback_context, METH_NOARGS,
     get_context_doc},
    {"_run", (PyCFunction)callback_run, METH_NOARGS, run_doc},
    {NULL},
};

static PyMethodDef timer_methods[] = {
    {"cancel", (PyCFunction)callback_cancel, METH_NOARGS, cancel_doc},
    {"cancelled", (PyCFunction)callback_cancelled, METH_NOARGS, cancelled_doc},
    {"get_context", (PyCFunction)callback_context, METH_NOARGS,
     get_context_doc},
    {"_run", (PyCFunction)callback_run, METH_NOARGS, run_doc},
    {"when", (PyCFunction)timer_when, METH_NOARGS, when_doc},
    {NULL},
};

#define CALLBACK_GETSET \
    {"_callback", (getter)callback_get_callback, NULL, NULL, NULL}, \
    {"_args", (getter)callback_get_args, NULL, NULL, NULL}, \
    {"_context", (getter)callback_get_context, NULL, NULL, NULL}, \
    {"_loop", (getter)callback_get_object, NULL, NULL, OFFSET(loop)}, \
    {"_cancelled", (getter)callback_get_bool, NULL, NULL, OFFSET(cancelled)}, \
    {"_source_traceback", (getter)callback_get_object, NULL, NULL, \
     OFFSET(source_traceback)}, \
    {"_repr", (getter)callback_get_object, NULL, NULL, OFFSET(repr)}

static PyGetSetDef callback_getset[] = {
    CALLBACK_GETSET,
    {NULL},
};

static PyGetSetDef timer_getset[] = {
    CALLBACK_GETSET,
    {"_when", (getter)timer_get_when, NULL, NULL, NULL},
    {"_scheduled", (getter)callback_get_bool, NULL, NULL, OFFSET(scheduled)},
    {NULL},
};

PyDoc_STRVAR(callback_doc,
"A callback that waits to be called; made by loop.call_soon().");

PyDoc_STRVAR(timer_doc,
"A callback that waits for its time; made by loop.call_later() and call_at().");

#define CALLBACK_SLOTS \
    {Py_tp_traverse, callback_traverse}, \
    {Py_tp_clear, callback_clear}, \
    {Py_tp_dealloc, callback_dealloc}

static PyType_Slot callback_slots[] = {
    {Py_tp_doc, (void *)callback_doc},
    {Py_tp_methods, callback_methods},
    {Py_tp_getset, callback_getset},
    CALLBACK_SLOTS,
    {0, NULL},
};

static PyType_Slot timer_slots[] = {
    {Py_tp_doc, (void *)timer_doc},
    {Py_tp_methods, timer_methods},
    {Py_tp_getset, timer_getset},
    CALLBACK_SLOTS,
    {0, NULL},
};

/* Not immutable, since their bases are not. */
#define CALLBACK_FLAGS \
    (Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | \
     Py_TPFLAGS_DISALLOW_INSTANTIATION)

static PyType_Spec callback_spec = {
    .name = "uvtulip._transports.Handle",
    .basicsize = sizeof(TulipCallback),
    .flags = CALLBACK_FLAGS,
    .slots = callback_slots,
};

static PyType_Spec timer_spec = {
    .name = "uvtulip._transports.TimerHandle",
    .basicsize = sizeof(TulipCallback),
    .flags = CALLBACK_FLAGS,
    .slots = timer_slots,
};

/* Derives from asyncio's class of the same name. */
static int
add_handle_type(PyObject *module, PyTypeObject **slot, PyType_Spec *spec,
                PyObject *asyncio, const char *name)
{
    PyObject *base = PyObject_GetAttrString(asyncio, name);
    int rc = -1;
    if (base == NULL) {
        return -1;
    }
    if (!PyType_Check(base)
        || ((PyTypeObject *)base)->tp_basicsize
           > (Py_ssize_t)offsetof(TulipCallback, loop)) {
        PyErr_Format(PyExc_ImportError,
                     "asyncio.%s has more slots than this extension was built "
                     "for", name);
    }
    else {
        rc = tulip_add_type(module, slot, spec, base);
    }
    Py_DECREF(base);
    return rc;
}

int
tulip_callback_setup(PyObject *module, TulipState *st)
{
    PyObject *asyncio = PyImport_ImportModule("asyncio");
    int rc;
    if (asyncio == NULL) {
        return -1;
    }
    rc = add_handle_type(module, &st->callback_type, &callback_spec, asyncio,
                         "Handle");
    if (rc == 0) {
        rc = add_handle_type(module, &st->timer_type, &timer_spec, asyncio,
                             "TimerHandle");
    }
    Py_DECREF(asyncio);
    return rc;
}
