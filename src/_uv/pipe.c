/* uv.Pipe: a UNIX stream socket, and pipes, FIFOs and terminals that are opened.
 * All functions run on the loop's thread, attached.  The handle owns its
 * descriptor, also one that it took over by open(), and removes the file that
 * bind() made when it is closed (pipe_file.c).
 */
#include "args.h"
#include "errors.h"
#include "guards.h"
#include "pipe.h"
#include "tcp_options.h"
#include <limits.h>
#include <sys/socket.h>

static int
pipe_setup_handle(UvtHandle *self, PyObject *loop_arg, int ipc)
{
    UvtLoop *loop;
    bool low;
    int rc;
    if (!uvt_handle_init_begin(self, loop_arg, UV_NAMED_PIPE, UVT_EXC_PIPE,
                               sizeof(uv_pipe_t), &loop)) {
        return -1;
    }
    low = uvt_low_take_for_stream(loop);
    rc = uv_pipe_init(&loop->core->uv, &self->box->uv.pipe, ipc);
    if (low) {
        uvt_low_give(self->st);
    }
    return uvt_handle_init_done(self, loop, rc, "uv_pipe_init");
}

static int
pipe_init(UvtHandle *self, PyObject *args, PyObject *kwds)
{
    UVT_LOCKED(uvt_lock_of_init(self->st, args, kwds));
    static char *names[] = {"loop", "ipc", NULL};
    PyObject *loop_arg, *ipc_arg = NULL;
    int ipc = 0;

    if (!PyArg_ParseTupleAndKeywords(args, kwds, "O|O:Pipe", names, &loop_arg,
                                     &ipc_arg)
        || (ipc_arg != NULL && !uvt_arg_bool(ipc_arg, &ipc))) {
        return -1;
    }
    return pipe_setup_handle(self, loop_arg, ipc);
}

/* ---- methods ---- */

PyDoc_STRVAR(open_doc,
"open($self, fd, /)\n--\n\n"
"Take over the descriptor of a pipe, a FIFO, a stream socket, a terminal or\n"
"another character device (an int, or an object with fileno()); it is made\n"
"non-blocking and closed with the handle.  After an exception it is the caller's\n"
"still.\n\n"
"Raises TypeError, ValueError (negative), HandleClosedError, PipeError (EBADF: not\n"
"open; EINVAL: a file or anything else, also a device that is open for reading\n"
"only and cannot be waited for; EPROTOTYPE: a socket of datagrams; EEXIST: in use\n"
"in this loop; EBUSY: the handle has one).");

static PyObject *
pipe_open(UvtHandle *self, PyObject *arg)
{
    UVT_LOCKED(self->lock);
    int fd, rc;
    if (!uvt_arg_fd("Pipe.open", arg, &fd)
        || !uvt_handle_check_free(self, "Pipe.open")) {
        return NULL;
    }
    rc = uvt_fd_check(self, fd, SOCK_STREAM, true);
    if (rc == 0) {
        rc = uv_pipe_open(&self->box->uv.pipe, fd);
    }
    if (rc < 0) {
        return uvt_handle_raise(self, rc, "uv_pipe_open");
    }
    self->box->standard = uvt_low_is_standard(self->st, fd);
    self->unwatchable = !uvt_guard_can_watch(self->loop->core, fd);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(pending_instances_doc,
"pending_instances($self, count, /)\n--\n\n"
"How many connections Windows prepares; nothing elsewhere.\n\n"
"Raises TypeError, ValueError, HandleClosedError.");

static PyObject *
pipe_pending_instances(UvtHandle *self, PyObject *arg)
{
    UVT_LOCKED(self->lock);
    int count;
    if (!uvt_arg_int("Pipe.pending_instances", "count", arg, 0, INT_MAX,
                     &count)
        || !uvt_handle_check_free(self, "Pipe.pending_instances")) {
        return NULL;
    }
    uv_pipe_pending_instances(&self->box->uv.pipe, count);
    Py_RETURN_NONE;
}

/* ---- attributes ---- */

static PyObject *
pipe_get_ipc(UvtHandle *self, void *Py_UNUSED(closure))
{
    UVT_LOCKED(self->lock);
    if (!uvt_handle_check(self)) {
        return NULL;
    }
    return PyBool_FromLong(self->box->uv.pipe.ipc);
}

static PyMethodDef pipe_methods[] = {
    {"bind", (PyCFunction)uvt_pipe_bind, METH_O, uvt_pipe_bind_doc},
    {"connect", (PyCFunction)(void (*)(void))uvt_pipe_connect, METH_FASTCALL,
     uvt_pipe_connect_doc},
    {"open", (PyCFunction)pipe_open, METH_O, open_doc},
    {"getsockname", (PyCFunction)uvt_pipe_getsockname, METH_NOARGS,
     uvt_pipe_getsockname_doc},
    {"getpeername", (PyCFunction)uvt_pipe_getpeername, METH_NOARGS,
     uvt_pipe_getpeername_doc},
    {"chmod", (PyCFunction)uvt_pipe_chmod, METH_O, uvt_pipe_chmod_doc},
    {"pending_instances", (PyCFunction)pipe_pending_instances, METH_O,
     pending_instances_doc},
    {"write", (PyCFunction)(void (*)(void))uvt_pipe_write, METH_FASTCALL,
     uvt_pipe_write_doc},
    {"try_write2", (PyCFunction)(void (*)(void))uvt_pipe_try_write2,
     METH_FASTCALL, uvt_pipe_try_write2_doc},
    {"accept", (PyCFunction)uvt_pipe_accept, METH_O, uvt_pipe_accept_doc},
    {"accept_fd", (PyCFunction)uvt_pipe_accept_fd, METH_NOARGS,
     uvt_pipe_accept_fd_doc},
    {"pending_count", (PyCFunction)uvt_pipe_pending_count, METH_NOARGS,
     uvt_pipe_pending_count_doc},
    {"pending_handle_type", (PyCFunction)uvt_pipe_pending_handle_type,
     METH_NOARGS, uvt_pipe_pending_handle_type_doc},
    {NULL},
};

static PyGetSetDef pipe_getset[] = {
    {"ipc", (getter)pipe_get_ipc, NULL,
     "True when handles can be sent over it.", NULL},
    {"send_buffer_size", (getter)uvt_handle_get_buffer_size,
     (setter)uvt_handle_set_buffer_size,
     "SO_SNDBUF in bytes; Linux gives twice what was set.", UVT_SEND_BUFFER},
    {"receive_buffer_size", (getter)uvt_handle_get_buffer_size,
     (setter)uvt_handle_set_buffer_size,
     "SO_RCVBUF in bytes; Linux gives twice what was set.",
     UVT_RECEIVE_BUFFER},
    {NULL},
};

PyDoc_STRVAR(pipe_doc,
"Pipe(loop, ipc=False)\n--\n\n"
"A UNIX stream socket, or what open() takes over.  With `ipc`, other handles can\n"
"be sent over it.");

static PyType_Slot pipe_slots[] = {
    {Py_tp_doc, (void *)pipe_doc},
    {Py_tp_init, pipe_init},
    {Py_tp_methods, pipe_methods},
    {Py_tp_getset, pipe_getset},
    UVT_HANDLE_SLOTS,
    {0, NULL},
};

static PyType_Spec pipe_spec = {
    .name = "uvtulip._uv.Pipe",
    .basicsize = sizeof(UvtHandle),
    .flags = UVT_HANDLE_FLAGS,
    .slots = pipe_slots,
};

int
uvt_pipe_setup(PyObject *module, UvtState *st)
{
    return uvt_add_type(module, &st->pipe_type, &pipe_spec, st->stream_type);
}

PyObject *
uvt_pipe_create(PyObject *loop, int ipc)
{
    UvtState *st = ((UvtLoop *)loop)->st;
    PyObject *self = uvt_handle_new(st->pipe_type, NULL, NULL);
    if (self != NULL && pipe_setup_handle((UvtHandle *)self, loop, ipc) < 0) {
        Py_CLEAR(self);
    }
    return self;
}
