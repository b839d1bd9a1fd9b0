/* Loop.queue_work(): a Python function in a thread of libuv's pool.  on_work
 * runs there, everything else attached on the loop's thread.  The task owns the
 * function, its result and its exception; what the two threads share is the
 * job, and its way to the task is guarded by the pool's lock.
 */
#include "work.h"
#include "args.h"
#include "errors.h"
#include "task.h"

typedef struct {
    UvtJob base;
    bool skipped;               /* the interpreter was ending */
    uv_work_t req;
} WorkJob;

typedef struct {
    UvtTask base;
    PyObject *work;             /* NULL once called */
    PyObject *result;
    PyObject *exception;
} WorkTask;

static void
work_destroy(UvtJob *base)
{
    uvt_pool_release(base->pool);
    PyMem_RawFree(base);
}

/* ---- in the pool ---- */

/* The task behind a job: a new reference, or NULL when its loop is gone. */
static WorkTask *
task_of(WorkJob *job)
{
    WorkTask *task;
    uvt_pool_lock(job->base.pool);
    task = (WorkTask *)Py_XNewRef(job->base.owner);
    uvt_pool_unlock(job->base.pool);
    return task;
}

static void
call_work(WorkTask *task)
{
    PyObject *work = task->work, *result;
    task->work = NULL;
    if (work == NULL) {
        return;         /* cleared by the collector */
    }
    result = PyObject_CallNoArgs(work);
    if (result != NULL) {
        Py_XSETREF(task->result, result);
    }
    else {
        Py_XSETREF(task->exception, PyErr_GetRaisedException());
    }
    Py_DECREF(work);
}

static void
on_work(uv_work_t *req)
{
    WorkJob *job = req->data;
    PyThreadState *tstate = uvt_pool_enter(job->base.pool);
    WorkTask *task;
    if (tstate == NULL) {
        job->skipped = true;
        return;
    }
    task = task_of(job);
    if (task != NULL) {
        call_work(task);
        Py_DECREF(task);
    }
    uvt_pool_leave(job->base.pool, tstate);
}

/* ---- in the loop ---- */

static void
on_work_done(uv_work_t *req, int status)
{
    WorkJob *job = req->data;
    bool skipped = job->skipped;
    WorkTask *self = (WorkTask *)uvt_task_enter(&job->base);
    PyObject *args[2] = {NULL, NULL};
    if (self == NULL) {
        return;
    }
    work_destroy(&job->base);
    Py_CLEAR(self->work);
    if (self->exception != NULL) {
        PyErr_SetRaisedException(Py_NewRef(self->exception));
        uvt_loop_report(self->base.loop, (PyObject *)self);
    }
    args[1] = uvt_errorno(skipped ? UV_ECANCELED : status);
    uvt_task_call(&self->base, args + 1, 1);
    Py_XDECREF(args[1]);
    Py_DECREF(self);
}

const char uvt_queue_work_doc[] =
"queue_work($self, work, done=None, /)\n--\n\n"
"Call work() in a thread of libuv's pool and then, in the loop, done(errorno):\n"
"None, also when work() has raised, or UV_ECANCELED after cancel().  Returns a\n"
"WorkRequest, whose `result` and `exception` tell how work() ended.  What it\n"
"raised is reported to excepthook() before done() is called; SystemExit and\n"
"KeyboardInterrupt leave run().\n\n"
"The pool has UV_THREADPOOL_SIZE threads (4), as set when it is first used, for\n"
"the whole process.  The interpreter waits at its end for work() that runs.\n\n"
"Raises TypeError, UVError, RuntimeError (the loop is closed or runs in another\n"
"thread; the interpreter is ending).";

PyObject *
uvt_queue_work(UvtLoop *loop, PyObject *const *args, Py_ssize_t nargs)
{
    UVT_LOCKED(loop->lock);
    PyObject *done = NULL;
    WorkTask *self;
    WorkJob *job;
    int rc;

    if (!uvt_args_count("Loop.queue_work", nargs, 1, 2)
        || !uvt_arg_callable("Loop.queue_work", args[0])
        || !uvt_arg_callback("Loop.queue_work", nargs > 1 ? args[1] : NULL,
                             &done)
        || !uvt_loop_check(loop)) {
        return NULL;
    }
    self = (WorkTask *)uvt_task_new(loop->st->work_request_type, loop, done);
    if (self == NULL) {
        return NULL;
    }
    self->work = Py_NewRef(args[0]);
    job = (WorkJob *)uvt_job_new(sizeof(WorkJob), offsetof(WorkJob, req),
                                 work_destroy);
    if (job == NULL || (job->base.pool = uvt_pool_get(loop->st)) == NULL) {
        PyMem_RawFree(job);
        Py_DECREF(self);
        return NULL;
    }
    rc = uvt_task_begin(&self->base, &job->base);
    if (rc == 0) {
        rc = uv_queue_work(&loop->core->uv, &job->req, on_work, on_work_done);
    }
    if (rc < 0) {
        uvt_task_refused(&self->base);
        Py_DECREF(self);
        return uvt_raise(loop->st, UVT_EXC_UV, rc, "uv_queue_work");
    }
    return (PyObject *)self;
}

/* ---- the type ---- */

static int
work_traverse(WorkTask *self, visitproc visit, void *arg)
{
    Py_VISIT(self->work);
    Py_VISIT(self->result);
    Py_VISIT(self->exception);
    return uvt_task_traverse(&self->base, visit, arg);
}

static int
work_clear(WorkTask *self)
{
    UVT_LOCKED(self->base.loop->lock);
    Py_CLEAR(self->work);
    Py_CLEAR(self->result);
    Py_CLEAR(self->exception);
    return uvt_task_clear(&self->base);
}

/* While a thread may be writing them they are not there to see. */
static PyObject *
shown(const WorkTask *self, PyObject *const *what)
{
    return Py_NewRef(self->base.job == NULL && *what != NULL ? *what : Py_None);
}

static PyObject *
work_get_result(WorkTask *self, void *Py_UNUSED(closure))
{
    UVT_LOCKED(((UvtTask *)self)->loop->lock);
    return shown(self, &self->result);
}

static PyObject *
work_get_exception(WorkTask *self, void *Py_UNUSED(closure))
{
    UVT_LOCKED(((UvtTask *)self)->loop->lock);
    return shown(self, &self->exception);
}

static PyGetSetDef work_getset[] = {
    {"result", (getter)work_get_result, NULL,
     "What work() has returned; None before its end.", NULL},
    {"exception", (getter)work_get_exception, NULL,
     "What work() has raised, or None.", NULL},
    {NULL},
};

PyDoc_STRVAR(work_request_doc,
"Work for the thread pool, made by Loop.queue_work().");

static PyType_Slot work_slots[] = {
    {Py_tp_doc, (void *)work_request_doc},
    {Py_tp_traverse, work_traverse},
    {Py_tp_clear, work_clear},
    {Py_tp_dealloc, uvt_task_dealloc},
    {Py_tp_getset, work_getset},
    {0, NULL},
};

static PyType_Spec work_spec = {
    .name = "uvtulip._uv.WorkRequest",
    .basicsize = sizeof(WorkTask),
    .flags = UVT_TASK_FLAGS,
    .slots = work_slots,
};

int
uvt_work_setup(PyObject *module, UvtState *st)
{
    return uvt_add_type(module, &st->work_request_type, &work_spec,
                        st->request_type);
}
