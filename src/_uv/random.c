/* Loop.random() and uv.util.random(): bytes of the system's random generator, at
 * once with the interpreter's lock released, or from a pool thread.  The job
 * owns the bytes object that the thread fills.
 */
#include "random.h"
#include "args.h"
#include "errors.h"
#include "task.h"
#include "util.h"

typedef struct {
    UvtJob base;
    PyObject *bytes;
    uv_random_t req;
} RandomJob;

static void
random_destroy(UvtJob *base)
{
    RandomJob *job = (RandomJob *)base;
    Py_XDECREF(job->bytes);
    PyMem_RawFree(job);
}

static void
on_random(uv_random_t *req, int status, void *Py_UNUSED(buf),
          size_t Py_UNUSED(length))
{
    RandomJob *job = req->data;
    UvtTask *self = uvt_task_enter(&job->base);
    PyObject *args[3] = {NULL};
    if (self == NULL) {
        return;
    }
    args[1] = Py_NewRef(status == 0 ? job->bytes : Py_None);
    args[2] = uvt_errorno(status);
    random_destroy(&job->base);
    uvt_task_call(self, args + 1, 2);
    Py_DECREF(args[1]);
    Py_XDECREF(args[2]);
    Py_DECREF(self);
}

/* A new bytes object of the length that was asked for, not filled. */
UVT_NEW static PyObject *
make_room(const char *call, PyObject *arg)
{
    int length;
    if (!uvt_arg_int(call, "length", arg, 0, INT_MAX, &length)) {
        return NULL;
    }
    return PyBytes_FromStringAndSize(NULL, length);
}

static PyObject *
random_now(UvtState *st, UVT_STEALS(2) PyObject *bytes)
{
    size_t length = (size_t)PyBytes_GET_SIZE(bytes);
    int rc;
    Py_BEGIN_ALLOW_THREADS
    rc = uv_random(NULL, NULL, PyBytes_AS_STRING(bytes), length, 0, NULL);
    Py_END_ALLOW_THREADS
    if (rc < 0) {
        Py_DECREF(bytes);
        return uvt_raise(st, UVT_EXC_UV, rc, "uv_random");
    }
    return bytes;
}

static PyObject *
random_later(UvtLoop *loop, UVT_STEALS(2) PyObject *bytes, PyObject *callback)
{
    UvtTask *self = uvt_task_new(loop->st->random_request_type, loop, callback);
    RandomJob *job = NULL;
    int rc;
    if (self != NULL) {
        job = (RandomJob *)uvt_job_new(sizeof(RandomJob),
                                       offsetof(RandomJob, req), random_destroy);
    }
    if (job == NULL) {
        Py_DECREF(bytes);
        Py_XDECREF(self);
        return NULL;
    }
    job->bytes = bytes;
    rc = uvt_task_begin(self, &job->base);
    if (rc == 0) {
        rc = uv_random(&loop->core->uv, &job->req, PyBytes_AS_STRING(bytes),
                       (size_t)PyBytes_GET_SIZE(bytes), 0, on_random);
    }
    if (rc < 0) {
        uvt_task_refused(self);
        Py_DECREF(self);
        return uvt_raise(loop->st, UVT_EXC_UV, rc, "uv_random");
    }
    return (PyObject *)self;
}

const char uvt_loop_random_doc[] =
"random($self, length, callback=None, /)\n--\n\n"
"Random bytes, good enough for keys.  Without a callback they are returned; with\n"
"one, a pool thread gets them, callback(result, errorno) is called with bytes\n"
"and None, or None and a negative number, and a Request is returned.\n\n"
"Raises TypeError, ValueError (the length), UVError, RuntimeError.";

PyObject *
uvt_loop_random(UvtLoop *loop, PyObject *const *args, Py_ssize_t nargs)
{
    UVT_LOCKED(loop->lock);
    PyObject *callback, *bytes;
    if (!uvt_args_count("Loop.random", nargs, 1, 2)
        || !uvt_arg_callback("Loop.random", nargs > 1 ? args[1] : NULL, &callback)
        || (bytes = make_room("Loop.random", args[0])) == NULL) {
        return NULL;
    }
    if (!uvt_loop_check(loop)) {
        Py_DECREF(bytes);
        return NULL;
    }
    return callback != NULL ? random_later(loop, bytes, callback)
                            : random_now(loop->st, bytes);
}

PyDoc_STRVAR(random_doc,
"random($module, length, /)\n--\n\n"
"Random bytes, good enough for keys; see Loop.random().  Raises UVError.");

static PyObject *
util_random(PyObject *module, PyObject *arg)
{
    PyObject *bytes = make_room("random", arg);
    return bytes != NULL ? random_now(uvt_state(module), bytes) : NULL;
}

PyMethodDef uvt_random_functions[] = {
    {"random", util_random, METH_O, random_doc},
    {NULL},
};

PyDoc_STRVAR(request_doc, "Random bytes to come, made by Loop.random().");

static PyType_Slot request_slots[] = {
    {Py_tp_doc, (void *)request_doc},
    {Py_tp_traverse, uvt_task_traverse},
    {Py_tp_clear, uvt_task_clear},
    {Py_tp_dealloc, uvt_task_dealloc},
    {0, NULL},
};

static PyType_Spec request_spec = {
    .name = "uvtulip._uv.RandomRequest",
    .basicsize = sizeof(UvtTask),
    .flags = UVT_TASK_FLAGS,
    .slots = request_slots,
};

int
uvt_random_setup(PyObject *module, UvtState *st)
{
    return uvt_add_type(module, &st->random_request_type, &request_spec,
                        st->request_type);
}
