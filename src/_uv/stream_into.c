/* Stream.start_read_into(): reading into buffers of the program's.  All functions
 * run on the loop's thread, attached, but for alloc, which touches nothing of
 * Python's.  The two callbacks are kept by one object, which stands where
 * start_read() keeps its one.
 *
 * The buffer is asked for before there is data: when libuv asks for one, nobody
 * may stop the reading, and a program's code may do that.
 */
#include "args.h"
#include "errors.h"
#include "loop.h"
#include "stream.h"

typedef struct {
    PyObject_HEAD
    PyObject *get_buffer;
    PyObject *updated;
    Py_buffer view;             /* obj is NULL when none is held */
} ReadInto;

#define PROPOSED_SIZE 65536

/* Views what get_buffer() returns; false with an exception. */
static bool
get_view(ReadInto *self, UvtHandle *handle)
{
    PyObject *size = PyLong_FromLong(PROPOSED_SIZE), *buffer;
    PyObject *args[3] = {NULL, (PyObject *)handle, size};
    bool ok;
    if (size == NULL) {
        return false;
    }
    buffer = PyObject_Vectorcall(self->get_buffer, args + 1,
                                 2 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    Py_DECREF(size);
    if (buffer == NULL) {
        return false;
    }
    ok = PyObject_GetBuffer(buffer, &self->view, PyBUF_WRITABLE) == 0;
    Py_DECREF(buffer);
    if (ok && self->view.len == 0) {
        PyBuffer_Release(&self->view);
        PyErr_SetString(PyExc_ValueError,
                        "Stream.start_read_into(): get_buffer() returned an "
                        "empty buffer");
        ok = false;
    }
    return ok;
}

/* ---- libuv callbacks ---- */

void
uvt_read_into_alloc(UvtHandle *handle, uv_buf_t *buf)
{
    const ReadInto *self = (const ReadInto *)handle->callback;
    if (self != NULL && self->view.obj != NULL) {
        buf->base = self->view.buf;
        buf->len = (size_t)self->view.len;
    }
}

static void
call_updated(ReadInto *self, UvtHandle *handle, ssize_t nread)
{
    PyObject *count = nread < 0 ? Py_NewRef(Py_None) : PyLong_FromSsize_t(nread);
    PyObject *errorno = uvt_errorno(nread < 0 ? (int)nread : 0);
    PyObject *args[4] = {NULL, (PyObject *)handle, count, errorno};
    uvt_call(handle, self->updated, args + 1, 3);
    Py_XDECREF(count);
    Py_XDECREF(errorno);
}

/* It reads for this object still. */
static bool
goes_on(const ReadInto *self, const UvtHandle *handle)
{
    return handle->reading && handle->callback == (const PyObject *)self
        && handle->box != NULL && !uv_is_closing(&handle->box->uv.handle);
}

void
uvt_read_into_done(UvtHandle *handle, ssize_t nread)
{
    ReadInto *self;
    if (nread == 0 || handle->callback == NULL) {
        return;
    }
    self = (ReadInto *)Py_NewRef(handle->callback);
    PyBuffer_Release(&self->view);
    call_updated(self, handle, nread);
    if (goes_on(self, handle) && !get_view(self, handle)) {
        uvt_loop_report(handle->loop, (PyObject *)handle);
        if (goes_on(self, handle)) {
            uvt_stream_read_stop(handle);
            call_updated(self, handle, UV_ENOBUFS);
        }
    }
    Py_DECREF(self);
}

/* ---- the method ---- */

const char uvt_stream_start_read_into_doc[] =
"start_read_into($self, get_buffer, updated, /)\n--\n\n"
"Read into buffers of the program's: get_buffer(handle, size) returns a writable\n"
"one, of any length but 0 (`size` is a proposal); updated(handle, nbytes,\n"
"errorno) tells how much of it has been filled, or with nbytes None and errorno <\n"
"0 the end, as start_read().  get_buffer() is called at once, and again after each\n"
"updated(); a buffer is held until it is updated or the reading stops.  What it\n"
"raises later is reported, and reading ends with UV_ENOBUFS.  While reading, it\n"
"changes over from start_read() and back.\n\n"
"Raises TypeError, ValueError (an empty buffer), what get_buffer() raises,\n"
"HandleClosedError, and the handle's own error (ENOTCONN).";

PyObject *
uvt_stream_start_read_into(UvtHandle *handle, PyObject *const *args,
                           Py_ssize_t nargs)
{
    UVT_LOCKED(handle->lock);
    PyTypeObject *type = handle->st->read_into_type;
    ReadInto *self;
    int rc;
    if (!uvt_args_count("Stream.start_read_into", nargs, 2, 2)
        || !uvt_arg_callable("Stream.start_read_into", args[0])
        || !uvt_arg_callable("Stream.start_read_into", args[1])
        || !uvt_handle_check_free(handle, "Stream.start_read_into")) {
        return NULL;
    }
    self = (ReadInto *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->get_buffer = Py_NewRef(args[0]);
    self->updated = Py_NewRef(args[1]);
    /* get_buffer() may close the handle. */
    if (!get_view(self, handle)
        || !uvt_handle_check_free(handle, "Stream.start_read_into")) {
        Py_DECREF(self);
        return NULL;
    }
    rc = uvt_stream_read_start_now(handle);
    if (rc < 0) {
        Py_DECREF(self);
        return uvt_handle_raise(handle, rc, "uv_read_start");
    }
    handle->reads_into = true;
    Py_XSETREF(handle->callback, (PyObject *)self);
    Py_RETURN_NONE;
}

/* ---- the type ---- */

static int
into_traverse(ReadInto *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->get_buffer);
    Py_VISIT(self->updated);
    Py_VISIT(self->view.obj);
    return 0;
}

static int
into_clear(ReadInto *self)
{
    Py_CLEAR(self->get_buffer);
    Py_CLEAR(self->updated);
    return 0;
}

static void
into_dealloc(ReadInto *self)
{
    PyTypeObject *tp = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (self->view.obj != NULL) {
        PyBuffer_Release(&self->view);
    }
    (void)into_clear(self);
    tp->tp_free(self);
    Py_DECREF(tp);
}

static PyType_Slot into_slots[] = {
    {Py_tp_traverse, into_traverse},
    {Py_tp_clear, into_clear},
    {Py_tp_dealloc, into_dealloc},
    {0, NULL},
};

static PyType_Spec into_spec = {
    .name = "uvtulip._uv._ReadInto",
    .basicsize = sizeof(ReadInto),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
        | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = into_slots,
};

int
uvt_stream_into_setup(PyObject *module, UvtState *st)
{
    st->read_into_type = (PyTypeObject *)PyType_FromModuleAndSpec(
        module, &into_spec, NULL);
    return st->read_into_type != NULL ? 0 : -1;
}
