/* uv.Request, the base of requests that belong to a loop: work of the thread
 * pool, names that are looked up, files.  All functions run attached, on the
 * loop's thread or while nobody runs the loop; dealloc on any thread.  task.h
 * says who owns what.
 *
 * Edges that the collector sees: task -> loop, callback, __dict__; loop -> each
 * task whose job is under way (loop.c).
 */
#include "task.h"
#include "errors.h"
#include "guards.h"
#include "pool.h"

/* ---- jobs ---- */

UvtJob *
uvt_job_new(size_t size, size_t offset, void (*destroy)(UvtJob *self))
{
    UvtJob *self = PyMem_RawCalloc(1, size);
    if (self == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    self->req = (uv_req_t *)((char *)self + offset);
    self->req->data = self;
    self->destroy = destroy;
    return self;
}

static void
unlink_job(UvtJob *job)
{
    if (job->prev != NULL) {
        job->prev->next = job->next;
    }
    else {
        job->core->jobs = job->next;
    }
    if (job->next != NULL) {
        job->next->prev = job->prev;
    }
}

/* Takes the loop's reference to the task away from the job. */
UVT_NEW static UvtTask *
part(UvtJob *job)
{
    UvtTask *task;
    if (job->pool != NULL) {
        uvt_pool_lock(job->pool);
    }
    task = job->owner;
    job->owner = NULL;
    if (job->pool != NULL) {
        uvt_pool_unlock(job->pool);
    }
    if (task != NULL) {
        task->job = NULL;
    }
    return task;
}

void
uvt_jobs_cancel(UvtCore *core)
{
    for (UvtJob *job = core->jobs; job != NULL; job = job->next) {
        (void)uv_cancel(job->req);
    }
}

void
uvt_jobs_release(UvtCore *core)
{
    UvtJob *job = core->jobs;
    while (job != NULL) {
        UvtTask *task = part(job);
        job = task != NULL ? core->jobs : job->next;
        Py_XDECREF(task);
    }
}

/* ---- life cycle ---- */

UvtTask *
uvt_task_new(PyTypeObject *type, UvtLoop *loop, PyObject *callback)
{
    UvtTask *self = (UvtTask *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->st = loop->st;
        self->loop = (UvtLoop *)Py_NewRef(loop);
        self->callback = Py_XNewRef(callback);
    }
    return self;
}

int
uvt_task_begin(UvtTask *self, UvtJob *job)
{
    UvtCore *core = self->loop->core;
    job->core = core;
    job->owner = (UvtTask *)Py_NewRef(self);    /* the loop's reference */
    self->job = job;
    job->prev = NULL;
    job->next = core->jobs;
    if (job->next != NULL) {
        job->next->prev = job;
    }
    core->jobs = job;
    return uvt_guard_own_fds(core) ? uvt_pool_prepare(self->st, core) : UV_EBADF;
}

void
uvt_task_refused(UvtTask *self)
{
    UvtJob *job = self->job;
    unlink_job(job);
    (void)part(job);
    job->destroy(job);
    Py_DECREF(self);
}

UvtTask *
uvt_task_enter(UvtJob *job)
{
    UvtTask *self;
    if (job->core->owner != NULL) {
        uvt_loop_attach(job->core->owner);
    }
    uvt_pool_hush(job->core);
    unlink_job(job);
    self = part(job);
    if (self == NULL) {
        job->destroy(job);
    }
    return self;
}

void
uvt_task_call(UvtTask *self, PyObject **args, size_t nargs)
{
    PyObject *callback = self->callback, *result = NULL;
    bool complete = true;
    self->callback = NULL;
    if (callback == NULL) {
        return;
    }
    for (size_t i = 0; i < nargs; i++) {
        complete = complete && args[i] != NULL;
    }
    if (complete) {
        result = PyObject_Vectorcall(callback, args,
                                     nargs | PY_VECTORCALL_ARGUMENTS_OFFSET,
                                     NULL);
    }
    Py_DECREF(callback);
    if (result == NULL) {
        uvt_loop_report(self->loop, (PyObject *)self);
    }
    Py_XDECREF(result);
}

int
uvt_task_traverse(UvtTask *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->loop);
    Py_VISIT(self->callback);
    Py_VISIT(self->dict);
    return 0;
}

/* The loop stays: who still sees the object may ask it to cancel. */
int
uvt_task_clear(UvtTask *self)
{
    UVT_LOCKED(self->loop->lock);
    Py_CLEAR(self->callback);
    Py_CLEAR(self->dict);
    return 0;
}

void
uvt_task_dealloc(UvtTask *self)
{
    PyTypeObject *tp = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    UVT_LOCKED(self->loop->lock);
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs((PyObject *)self);
    }
    (void)tp->tp_clear((PyObject *)self);
    Py_CLEAR(self->loop);
    tp->tp_free(self);
    Py_DECREF(tp);
}

/* ---- blocking calls ---- */

/* Claiming a loop that nobody runs makes uvt_loop_check refuse other threads. */
UvtBlocking
uvt_blocking_begin(UvtLoop *loop)
{
    UvtBlocking blocking = {.claimed = loop->thread_id == 0};
    Py_INCREF(loop);
    if (blocking.claimed) {
        loop->thread_id = PyThread_get_thread_ident();
    }
    blocking.tstate = PyEval_SaveThread();
    return blocking;
}

void
uvt_blocking_end(UvtLoop *loop, UvtBlocking blocking)
{
    PyEval_RestoreThread(blocking.tstate);
    if (blocking.claimed) {
        loop->thread_id = 0;
    }
    Py_DECREF(loop);
}

/* ---- methods and attributes ---- */

PyDoc_STRVAR(cancel_doc,
"cancel($self, /)\n--\n\n"
"Take back a request that no thread of the pool works on yet.  True: its\n"
"callback will be called with UV_ECANCELED (UV_EAI_CANCELED for names).  False:\n"
"it is running or done.\n\n"
"Raises RuntimeError (another thread than the loop's; the loop is closed).");

static PyObject *
task_cancel(UvtTask *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(self->loop->lock);
    if (self->job == NULL) {
        Py_RETURN_FALSE;
    }
    if (!uvt_loop_check(self->loop)) {
        return NULL;
    }
    return PyBool_FromLong(uv_cancel(self->job->req) == 0);
}

static PyObject *
task_get_loop(UvtTask *self, void *Py_UNUSED(closure))
{
    UVT_LOCKED(self->loop->lock);
    return Py_NewRef(self->loop);
}

static PyObject *
task_get_done(UvtTask *self, void *Py_UNUSED(closure))
{
    UVT_LOCKED(self->loop->lock);
    return PyBool_FromLong(self->job == NULL);
}

static PyObject *
task_repr(UvtTask *self)
{
    UVT_LOCKED(self->loop->lock);
    return PyUnicode_FromFormat("<%s %s at %p>", Py_TYPE(self)->tp_name,
                                self->job != NULL ? "pending" : "done", self);
}

static PyMethodDef task_methods[] = {
    {"cancel", (PyCFunction)task_cancel, METH_NOARGS, cancel_doc},
    {NULL},
};

static PyGetSetDef task_getset[] = {
    {"loop", (getter)task_get_loop, NULL, "The Loop.", NULL},
    {"done", (getter)task_get_done, NULL,
     "True once it is over, from just before its callback on.", NULL},
    {"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, NULL, NULL},
    {NULL},
};

static PyMemberDef task_members[] = {
    {"__dictoffset__", T_PYSSIZET, offsetof(UvtTask, dict), READONLY},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(UvtTask, weakrefs), READONLY},
    {NULL},
};

PyDoc_STRVAR(task_doc,
"The base of requests that belong to a loop: work, names, files.  Its loop\n"
"keeps a request until it is over.");

static PyType_Slot task_slots[] = {
    {Py_tp_doc, (void *)task_doc},
    {Py_tp_repr, task_repr},
    {Py_tp_methods, task_methods},
    {Py_tp_getset, task_getset},
    {Py_tp_members, task_members},
    {Py_tp_traverse, uvt_task_traverse},
    {Py_tp_clear, uvt_task_clear},
    {Py_tp_dealloc, uvt_task_dealloc},
    {0, NULL},
};

/* A base for the types of this module only. */
static PyType_Spec task_spec = {
    .name = "uvtulip._uv.Request",
    .basicsize = sizeof(UvtTask),
    .flags = UVT_TASK_FLAGS | Py_TPFLAGS_BASETYPE,
    .slots = task_slots,
};

int
uvt_task_setup(PyObject *module, UvtState *st)
{
    return uvt_add_type(module, &st->request_type, &task_spec, NULL);
}
