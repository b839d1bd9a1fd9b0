/* uv.fs: runs any operation of the table in fs_ops.c.  Without a callback an
 * operation runs at once, with the interpreter's lock released; with one, a
 * pool thread does it and libuv calls on_fs on the loop's thread.  The call
 * (UvtFsCall) owns the paths, buffers and the directory, until libuv is done.
 */
#include "fs.h"
#include "audit.h"
#include "args.h"
#include "errors.h"
#include "loop.h"

#include <string.h>

/* ---- the end ---- */

/* libuv's clean-up frees a directory that a cancelled closedir() did not. */
static void
request_clean(uv_fs_t *req)
{
    if (req->fs_type == UV_FS_CLOSEDIR) {
        req->ptr = NULL;
    }
    uv_fs_req_cleanup(req);
}

/* ---- at once ---- */

/* A read that a signal has interrupted is begun again after the signal's
 * handler has run; libuv itself does that for the other operations.  What libuv
 * returns is an int, which a count of 2 GiB or more does not fit into: the result
 * stands in the request, or is still 0 when libuv has refused the operation. */
static ssize_t
run_once(const UvtFsOp *op, UvtFsCall *call, uv_fs_t *req)
{
    ssize_t result;
    do {
        int rc;
        Py_BEGIN_ALLOW_THREADS
        rc = op->start(NULL, call, req, NULL);
        Py_END_ALLOW_THREADS
        result = req->result != 0 ? (ssize_t)req->result : rc;
    } while (result == UV_EINTR && PyErr_CheckSignals() == 0);
    return result;
}

static PyObject *
run_now(UvtState *st, const UvtFsOp *op, PyObject *const *given)
{
    UvtFsCall call = {0};
    uv_fs_t req;
    PyObject *result = NULL, *exc;
    ssize_t rc;

    if (uvt_fs_arguments(st, op, given, &call)) {
        memset(&req, 0, sizeof(req));
        rc = run_once(op, &call, &req);
        if (rc >= 0) {
            result = op->result(st, &call, &req);
        }
        else if (!PyErr_Occurred()) {
            uvt_raise(st, UVT_EXC_FS, (int)rc, op->call);
        }
        request_clean(&req);
    }
    exc = PyErr_GetRaisedException();
    uvt_fs_release(&call);
    if (exc != NULL) {
        PyErr_SetRaisedException(exc);
    }
    return result;
}

/* ---- with a callback ---- */

typedef struct {
    UvtJob base;
    const UvtFsOp *op;
    UvtFsCall call;
    bool taken;                     /* the result is with Python */
    uv_fs_t req;
} FsJob;

typedef struct {
    UvtTask base;
    PyObject *path;                 /* as given, or NULL */
    PyObject *result;
    PyObject *error;
} FsTask;

static void
fs_destroy(UvtJob *base)
{
    FsJob *job = (FsJob *)base;
    if (!job->taken && job->req.type == UV_FS && job->req.result >= 0) {
        uvt_fs_dispose(job->op, &job->call, &job->req);
    }
    request_clean(&job->req);
    uvt_fs_release(&job->call);
    PyMem_RawFree(job);
}

/* Without memory for the result the request has failed, too. */
static void
take_result(FsTask *self, FsJob *job)
{
    int rc = job->req.result < 0 ? (int)job->req.result : 0;
    job->taken = true;
    if (rc >= 0) {
        self->result = job->op->result(self->base.st, &job->call, &job->req);
        if (self->result == NULL) {
            rc = UV_ENOMEM;
            uvt_loop_report(self->base.loop, (PyObject *)self);
        }
    }
    self->error = uvt_errorno(rc);
    if (self->error == NULL) {
        uvt_loop_report(self->base.loop, (PyObject *)self);
    }
}

static void
on_fs(uv_fs_t *req)
{
    FsJob *job = req->data;
    FsTask *self = (FsTask *)uvt_task_enter(&job->base);
    PyObject *args[2] = {NULL, (PyObject *)self};
    if (self == NULL) {
        return;
    }
    take_result(self, job);
    fs_destroy(&job->base);
    uvt_task_call(&self->base, args + 1, 1);
    Py_DECREF(self);
}

/* Starts it; libuv's status, or 1 with an exception. */
static int
start(FsTask *self, FsJob *job, PyObject *const *given)
{
    UvtLoop *loop = self->base.loop;
    int rc;
    if (!uvt_fs_arguments(self->base.st, job->op, given, &job->call)
        || !uvt_loop_check(loop)) {     /* conversions may run any code */
        fs_destroy(&job->base);
        return 1;
    }
    self->path = Py_XNewRef(job->call.path);
    rc = uvt_task_begin(&self->base, &job->base);
    if (rc == 0) {
        rc = job->op->start(&loop->core->uv, &job->call, &job->req, on_fs);
    }
    if (rc == 0 && job->call.request != NULL) {
        job->base.req = job->call.request;
    }
    if (rc < 0) {
        job->taken = true;
        uvt_task_refused(&self->base);
    }
    return rc;
}

static PyObject *
run_later(UvtState *st, const UvtFsOp *op, UvtLoop *loop, PyObject *const *given,
          PyObject *callback)
{
    FsTask *self = (FsTask *)uvt_task_new(st->fs_request_type, loop, callback);
    FsJob *job;
    int rc;
    if (self == NULL) {
        return NULL;
    }
    job = (FsJob *)uvt_job_new(sizeof(FsJob), offsetof(FsJob, req), fs_destroy);
    if (job == NULL) {
        Py_DECREF(self);
        return NULL;
    }
    job->op = op;
    rc = start(self, job, given);
    if (rc == 0) {
        return (PyObject *)self;
    }
    Py_DECREF(self);
    return rc < 0 ? uvt_raise(st, UVT_EXC_FS, rc, op->call) : NULL;
}

PyObject *
uvt_fs_run(PyObject *module, const UvtFsOp *op, PyObject *const *args,
           Py_ssize_t nargs, PyObject *kwnames)
{
    UvtState *st = uvt_state(module);
    const char *names[UVT_FS_MAX_PARAMS + 2] = {"loop"};
    PyObject *given[UVT_FS_MAX_PARAMS + 2], *callback;
    int count = 0;

    while (op->params[count] != UVT_FS_END) {
        names[count + 1] = uvt_fs_param_name(op->params[count]);
        count++;
    }
    names[count + 1] = "callback";
    if (!uvt_args_bind(op->name, args, nargs, kwnames, names, count + 2,
                       op->required + 1, given)
        || !uvt_arg_callback(op->name, given[count + 1], &callback)
        || !uvt_fs_audit(op->name, given + 1)) {
        return NULL;
    }
    if (callback != NULL) {
        UVT_LOCKED(uvt_lock_of(st, given[0]));
        return uvt_loop_check_arg(st, given[0])
            ? run_later(st, op, (UvtLoop *)given[0], given + 1, callback)
            : NULL;
    }
    if (given[0] != Py_None && !PyObject_TypeCheck(given[0], st->loop_type)) {
        PyErr_Format(PyExc_TypeError,
                     "%s(): 'loop' must be a Loop or None, not %.200s", op->name,
                     Py_TYPE(given[0])->tp_name);
        return NULL;
    }
    return run_now(st, op, given + 1);
}

/* ---- FSRequest ---- */

static int
request_traverse(FsTask *self, visitproc visit, void *arg)
{
    FsJob *job = (FsJob *)self->base.job;
    Py_VISIT(self->path);
    Py_VISIT(self->result);
    for (Py_ssize_t i = 0; job != NULL && i < job->call.data.count; i++) {
        Py_VISIT(job->call.data.views[i].obj);
    }
    return uvt_task_traverse(&self->base, visit, arg);
}

static int
request_clear(FsTask *self)
{
    UVT_LOCKED(self->base.loop->lock);
    Py_CLEAR(self->path);
    Py_CLEAR(self->result);
    Py_CLEAR(self->error);
    return uvt_task_clear(&self->base);
}

static PyObject *
or_none(PyObject *value)
{
    return Py_NewRef(value != NULL ? value : Py_None);
}

static PyObject *
request_get_path(FsTask *self, void *Py_UNUSED(closure))
{
    UVT_LOCKED(((UvtTask *)self)->loop->lock);
    return or_none(self->path);
}

static PyObject *
request_get_result(FsTask *self, void *Py_UNUSED(closure))
{
    UVT_LOCKED(((UvtTask *)self)->loop->lock);
    return or_none(self->result);
}

static PyObject *
request_get_error(FsTask *self, void *Py_UNUSED(closure))
{
    UVT_LOCKED(((UvtTask *)self)->loop->lock);
    return or_none(self->error);
}

PyDoc_STRVAR(system_error_doc,
"get_system_error($self, /)\n--\n\n"
"The system's own positive number of the error; 0 when there is none.");

static PyObject *
request_system_error(FsTask *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(((UvtTask *)self)->loop->lock);
    return self->error != NULL && self->error != Py_None
        ? PyNumber_Negative(self->error) : PyLong_FromLong(0);
}

static PyMethodDef request_methods[] = {
    {"get_system_error", (PyCFunction)request_system_error, METH_NOARGS,
     system_error_doc},
    {NULL},
};

static PyGetSetDef request_getset[] = {
    {"path", (getter)request_get_path, NULL,
     "The path that was given, str or bytes; None for a descriptor.", NULL},
    {"result", (getter)request_get_result, NULL,
     "What the function would have returned without a callback; None before\n"
     "that, and on an error.", NULL},
    {"error", (getter)request_get_error, NULL,
     "None, or libuv's negative error number.", NULL},
    {NULL},
};

PyDoc_STRVAR(request_doc,
"An operation on files that a pool thread does; the callback gets it.");

static PyType_Slot request_slots[] = {
    {Py_tp_doc, (void *)request_doc},
    {Py_tp_traverse, request_traverse},
    {Py_tp_clear, request_clear},
    {Py_tp_dealloc, uvt_task_dealloc},
    {Py_tp_methods, request_methods},
    {Py_tp_getset, request_getset},
    {0, NULL},
};

static PyType_Spec request_spec = {
    .name = "uvtulip._uv.fs.FSRequest",
    .basicsize = sizeof(FsTask),
    .flags = UVT_TASK_FLAGS,
    .slots = request_slots,
};

/* ---- setup ---- */

PyDoc_STRVAR(float_times_doc,
"stat_float_times($module, newvalue=None, /)\n--\n\n"
"Whether the times of a stat_result are floats (True, which is how it begins)\n"
"or ints.  With an argument, sets it for this interpreter and returns None.");

static PyObject *
stat_float_times(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    UvtState *st = uvt_state(module);
    int value;
    if (!uvt_args_count("stat_float_times", nargs, 0, 1)) {
        return NULL;
    }
    if (nargs == 0 || args[0] == Py_None) {
        return PyBool_FromLong(st->stat_float_times);
    }
    if (!uvt_arg_bool(args[0], &value)) {
        return NULL;
    }
    st->stat_float_times = value != 0;
    Py_RETURN_NONE;
}

static PyMethodDef other_functions[] = {
    {"stat_float_times", (PyCFunction)(void (*)(void))stat_float_times,
     METH_FASTCALL, float_times_doc},
    {NULL},
};

static const struct {
    const char *name;
    int value;
} constants[] = {
#define CONSTANT(name) {#name, name}
    CONSTANT(UV_RENAME),
    CONSTANT(UV_CHANGE),
    CONSTANT(UV_FS_EVENT_WATCH_ENTRY),
    CONSTANT(UV_FS_EVENT_STAT),
    CONSTANT(UV_FS_EVENT_RECURSIVE),
    CONSTANT(UV_FS_SYMLINK_DIR),
    CONSTANT(UV_FS_SYMLINK_JUNCTION),
    CONSTANT(UV_FS_COPYFILE_EXCL),
    CONSTANT(UV_FS_COPYFILE_FICLONE),
    CONSTANT(UV_FS_COPYFILE_FICLONE_FORCE),
    CONSTANT(UV_DIRENT_UNKNOWN),
    CONSTANT(UV_DIRENT_FILE),
    CONSTANT(UV_DIRENT_DIR),
    CONSTANT(UV_DIRENT_LINK),
    CONSTANT(UV_DIRENT_FIFO),
    CONSTANT(UV_DIRENT_SOCKET),
    CONSTANT(UV_DIRENT_CHAR),
    CONSTANT(UV_DIRENT_BLOCK),
    CONSTANT(UV_FS_O_APPEND),
    CONSTANT(UV_FS_O_CREAT),
    CONSTANT(UV_FS_O_DIRECT),
    CONSTANT(UV_FS_O_DIRECTORY),
    CONSTANT(UV_FS_O_DSYNC),
    CONSTANT(UV_FS_O_EXCL),
    CONSTANT(UV_FS_O_EXLOCK),
    CONSTANT(UV_FS_O_FILEMAP),
    CONSTANT(UV_FS_O_NOATIME),
    CONSTANT(UV_FS_O_NOCTTY),
    CONSTANT(UV_FS_O_NOFOLLOW),
    CONSTANT(UV_FS_O_NONBLOCK),
    CONSTANT(UV_FS_O_RANDOM),
    CONSTANT(UV_FS_O_RDONLY),
    CONSTANT(UV_FS_O_RDWR),
    CONSTANT(UV_FS_O_SEQUENTIAL),
    CONSTANT(UV_FS_O_SHORT_LIVED),
    CONSTANT(UV_FS_O_SYMLINK),
    CONSTANT(UV_FS_O_SYNC),
    CONSTANT(UV_FS_O_TEMPORARY),
    CONSTANT(UV_FS_O_TRUNC),
    CONSTANT(UV_FS_O_WRONLY),
#undef CONSTANT
};

static int
fill(PyObject *module, PyObject *submodule, UvtState *st)
{
    for (size_t i = 0; i < Py_ARRAY_LENGTH(constants); i++) {
        if (PyModule_AddIntConstant(submodule, constants[i].name,
                                    constants[i].value) < 0) {
            return -1;
        }
    }
    st->fs_request_type = (PyTypeObject *)PyType_FromModuleAndSpec(
        module, &request_spec, (PyObject *)st->request_type);
    if (st->fs_request_type == NULL
        || PyModule_AddType(submodule, st->fs_request_type) < 0
        || uvt_fs_result_setup(submodule, st) < 0
        || uvt_fs_dir_setup(module, submodule, st) < 0
        || uvt_add_functions(submodule, module, other_functions) < 0) {
        return -1;
    }
    return uvt_add_functions(submodule, module, uvt_fs_functions);
}

int
uvt_fs_setup(PyObject *module, UvtState *st)
{
    int rc;
    PyObject *submodule = uvt_add_submodule(
        module, "fs", "Operations on files, at once or with a callback.");
    if (submodule == NULL) {
        return -1;
    }
    st->stat_float_times = true;
    rc = fill(module, submodule, st);
    Py_DECREF(submodule);
    return rc;
}
