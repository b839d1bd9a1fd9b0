/* uv.Pipe: a UNIX stream socket, and pipes, FIFOs and terminals that are opened.
 * All functions run on the loop's thread, attached.  The handle owns its
 * descriptor, also one that it took over by open(), and removes the file that
 * bind() made when it is closed.
 */
#include "args.h"
#include "errors.h"
#include "loop.h"
#include "stream.h"
#include "tcp_options.h"
#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int
pipe_setup_handle(UvtHandle *self, PyObject *loop_arg, int ipc)
{
    UvtLoop *loop;
    int rc;
    if (!uvt_handle_init_begin(self, loop_arg, UV_NAMED_PIPE, UVT_EXC_PIPE,
                               sizeof(uv_pipe_t), &loop)) {
        return -1;
    }
    rc = uv_pipe_init(&loop->core->uv, &self->box->uv.pipe, ipc);
    return uvt_handle_init_done(self, loop, rc, "uv_pipe_init");
}

static int
pipe_init(UvtHandle *self, PyObject *args, PyObject *kwds)
{
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

/* ---- names ---- */

/* The bytes of a path (str, bytes, os.PathLike) that libuv can use whole, as a
 * new bytes object.  A path too long for it is UV_ENAMETOOLONG. */
UVT_NEW static PyObject *
pipe_path(UvtHandle *self, const char *call, PyObject *arg)
{
    const size_t room = sizeof(((struct sockaddr_un *)NULL)->sun_path) - 1;
    PyObject *path, *bytes;
    const char *text;
    size_t size;

    if (!PyUnicode_Check(arg) && !PyBytes_Check(arg)
        && !PyObject_HasAttrString((PyObject *)Py_TYPE(arg), "__fspath__")) {
        PyErr_Format(PyExc_TypeError,
                     "%s(): the name must be str, bytes or os.PathLike, not "
                     "%.200s", call, Py_TYPE(arg)->tp_name);
        return NULL;
    }
    path = PyOS_FSPath(arg);
    if (path == NULL) {
        return NULL;
    }
    bytes = PyUnicode_Check(path) ? PyUnicode_EncodeFSDefault(path)
                                  : Py_NewRef(path);
    Py_DECREF(path);
    if (bytes == NULL) {
        return NULL;
    }
    text = PyBytes_AS_STRING(bytes);
    size = (size_t)PyBytes_GET_SIZE(bytes);
    if (size == 0) {
        PyErr_Format(PyExc_ValueError, "%s(): the name is empty", call);
    }
    else if (text[0] != '\0' && memchr(text, '\0', size) != NULL) {
        PyErr_Format(PyExc_ValueError, "%s(): the name has a NUL in it", call);
    }
#if UV_VERSION_HEX < 0x012E00
    else if (text[0] == '\0') {
        PyErr_Format(PyExc_ValueError,
                     "%s(): abstract names (with a leading NUL) need libuv 1.46",
                     call);
    }
#endif
    /* An abstract name fills the room, a path ends with a NUL. */
    else if (size > room + (text[0] == '\0')) {
        uvt_handle_raise(self, UV_ENAMETOOLONG, call);
    }
    else {
        return bytes;
    }
    Py_DECREF(bytes);
    return NULL;
}

PyDoc_STRVAR(bind_doc,
"bind($self, name, /)\n--\n\n"
"Bind to a path (str, bytes or os.PathLike), which must not exist and is removed\n"
"when the handle is closed.  With a leading NUL it is an abstract name of Linux;\n"
"those need libuv 1.46.\n\n"
"Raises TypeError, ValueError (an empty or impossible name), HandleClosedError,\n"
"PipeError (EADDRINUSE; EACCES: also when a directory is missing; ENAMETOOLONG;\n"
"EINVAL: bound, opened or connected already).");

static PyObject *
pipe_bind(UvtHandle *self, PyObject *arg)
{
    PyObject *name;
    uv_os_fd_t fd;
    int rc;
    if (!uvt_handle_check_free(self, "Pipe.bind")) {
        return NULL;
    }
    name = pipe_path(self, "Pipe.bind", arg);
    if (name == NULL) {
        return NULL;
    }
    /* __fspath__ may have closed the handle. */
    if (!uvt_handle_check_free(self, "Pipe.bind")) {
        Py_DECREF(name);
        return NULL;
    }
#if UV_VERSION_HEX >= 0x012E00
    rc = uv_pipe_bind2(&self->box->uv.pipe, PyBytes_AS_STRING(name),
                       (size_t)PyBytes_GET_SIZE(name), UV_PIPE_NO_TRUNCATE);
#else
    rc = uv_pipe_bind(&self->box->uv.pipe, PyBytes_AS_STRING(name));
#endif
    Py_DECREF(name);
    if (rc < 0) {
        return uvt_handle_raise(self, rc, "uv_pipe_bind");
    }
    if (uv_fileno(&self->box->uv.handle, &fd) == 0) {
        uvt_guard_fresh_fd(self->loop->core, fd);
    }
    Py_RETURN_NONE;
}

/* ---- connecting ---- */

/* libuv opens the stream of a socket that it has just made, but not of one that
 * was bound, or that is left from a connect that failed. */
static void
on_pipe_connect(uv_connect_t *req, int status)
{
    uv_pipe_t *uv = (uv_pipe_t *)req->handle;
    uv_os_fd_t fd;
    if (status == 0 && !uv_is_readable(req->handle)
        && uv_fileno((uv_handle_t *)uv, &fd) == 0) {
        status = uv_pipe_open(uv, fd);
    }
    uvt_on_connect(req, status);
}

/* What libuv does not ask, but fails an assertion on or loses a request over. */
static int
check_connect(const uv_pipe_t *uv)
{
    const uv_stream_t *stream = (const uv_stream_t *)uv;
    if (uv->connect_req != NULL) {
        return UV_EALREADY;
    }
    if (uv->connection_cb != NULL) {
        return UV_EINVAL;
    }
    return uv_is_readable(stream) || uv_is_writable(stream) ? UV_EISCONN : 0;
}

/* A libuv status; the request is libuv's when it is 0. */
static int
connect_to(UvtHandle *self, UvtConnect *connect, PyObject *name)
{
#if UV_VERSION_HEX >= 0x012E00
    return uv_pipe_connect2(&connect->req, &self->box->uv.pipe,
                            PyBytes_AS_STRING(name),
                            (size_t)PyBytes_GET_SIZE(name),
                            UV_PIPE_NO_TRUNCATE, on_pipe_connect);
#else
    uv_pipe_connect(&connect->req, &self->box->uv.pipe,
                    PyBytes_AS_STRING(name), on_pipe_connect);
    return 0;
#endif
}

PyDoc_STRVAR(connect_doc,
"connect($self, name, callback, /)\n--\n\n"
"Connect to a name as of bind(), then callback(handle, errorno), also for what\n"
"fails at once (UV_ENOENT, UV_ECONNREFUSED).\n\n"
"Raises TypeError, ValueError (an empty or impossible name), HandleClosedError,\n"
"PipeError (ENAMETOOLONG; EALREADY: connecting; EISCONN: connected or opened;\n"
"EINVAL: listening).");

static PyObject *
pipe_connect(UvtHandle *self, PyObject *const *args, Py_ssize_t nargs)
{
    UvtConnect *connect;
    PyObject *name;
    int rc;
    if (!uvt_args_count("Pipe.connect", nargs, 2, 2)
        || !uvt_arg_callable("Pipe.connect", args[1])
        || !uvt_handle_check_free(self, "Pipe.connect")) {
        return NULL;
    }
    name = pipe_path(self, "Pipe.connect", args[0]);
    if (name == NULL) {
        return NULL;
    }
    /* __fspath__ may have closed the handle. */
    if (!uvt_handle_check_free(self, "Pipe.connect")) {
        Py_DECREF(name);
        return NULL;
    }
    rc = check_connect(&self->box->uv.pipe);
    if (rc < 0) {
        Py_DECREF(name);
        return uvt_handle_raise(self, rc, "uv_pipe_connect");
    }
    if (!uvt_guard_next_fd(self)) {
        Py_DECREF(name);
        return NULL;
    }
    connect = uvt_connect_new(self, args[1]);
    if (connect == NULL) {
        Py_DECREF(name);
        return NULL;
    }
    rc = connect_to(self, connect, name);
    Py_DECREF(name);
    if (rc < 0) {
        uvt_connect_cancel(connect);
        return uvt_handle_raise(self, rc, "uv_pipe_connect");
    }
    Py_RETURN_NONE;
}

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
    self->unwatchable = !uvt_guard_can_watch(self->loop->core, fd);
    Py_RETURN_NONE;
}

/* ---- addresses ---- */

/* Asked here and not by libuv, which up to 1.45 reads past the end of a name
 * that fills all its room. */
static PyObject *
pipe_name(UvtHandle *self,
          int (*function)(int, struct sockaddr *, socklen_t *),
          const char *call)
{
    struct sockaddr_un addr;
    socklen_t size = sizeof(addr);
    size_t length;
    uv_os_fd_t fd;
    int rc;
    if (!uvt_handle_check(self)) {
        return NULL;
    }
    memset(&addr, 0, sizeof(addr));
    rc = uv_fileno(&self->box->uv.handle, &fd);
    if (rc == 0 && function(fd, (struct sockaddr *)&addr, &size) < 0) {
        rc = uv_translate_sys_error(errno);
    }
    if (rc < 0) {
        return uvt_handle_raise(self, rc, call);
    }
    if (addr.sun_family != AF_UNIX
        || size <= offsetof(struct sockaddr_un, sun_path)) {
        return PyUnicode_FromString("");
    }
    length = size - offsetof(struct sockaddr_un, sun_path);
    if (length > sizeof(addr.sun_path)) {
        length = sizeof(addr.sun_path);
    }
    if (addr.sun_path[0] != '\0') {
        length = strnlen(addr.sun_path, length);
    }
    return PyUnicode_DecodeFSDefaultAndSize(addr.sun_path, (Py_ssize_t)length);
}

PyDoc_STRVAR(getsockname_doc,
"getsockname($self, /)\n--\n\n"
"The name that it is bound to (str, '' for none); abstract ones begin with NUL.\n\n"
"Raises HandleClosedError, PipeError (EBADF: not open yet; ENOTSOCK).");

static PyObject *
pipe_getsockname(UvtHandle *self, PyObject *Py_UNUSED(ignored))
{
    return pipe_name(self, getsockname, "uv_pipe_getsockname");
}

PyDoc_STRVAR(getpeername_doc,
"getpeername($self, /)\n--\n\n"
"The name of the other side, as getsockname().\n\n"
"Raises HandleClosedError, PipeError (ENOTCONN; EBADF: not open yet; ENOTSOCK).");

static PyObject *
pipe_getpeername(UvtHandle *self, PyObject *Py_UNUSED(ignored))
{
    return pipe_name(self, getpeername, "uv_pipe_getpeername");
}

/* ---- other methods and attributes ---- */

PyDoc_STRVAR(chmod_doc,
"chmod($self, flags, /)\n--\n\n"
"Let every user read from the bound path (UV_READABLE), write to it\n"
"(UV_WRITABLE), or both; newer libuv takes away what is not given.\n\n"
"Raises TypeError, ValueError, HandleClosedError, PipeError (EBADF: not bound;\n"
"EINVAL: other flags).");

static PyObject *
pipe_chmod(UvtHandle *self, PyObject *arg)
{
    int flags, rc;
    if (!uvt_arg_int("Pipe.chmod", "flags", arg, 0, INT_MAX, &flags)
        || !uvt_handle_check_free(self, "Pipe.chmod")) {
        return NULL;
    }
    rc = uv_pipe_chmod(&self->box->uv.pipe, flags);
    if (rc < 0) {
        return uvt_handle_raise(self, rc, "uv_pipe_chmod");
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(pending_instances_doc,
"pending_instances($self, count, /)\n--\n\n"
"How many connections Windows prepares; nothing elsewhere.\n\n"
"Raises TypeError, ValueError, HandleClosedError.");

static PyObject *
pipe_pending_instances(UvtHandle *self, PyObject *arg)
{
    int count;
    if (!uvt_arg_int("Pipe.pending_instances", "count", arg, 0, INT_MAX,
                     &count)
        || !uvt_handle_check_free(self, "Pipe.pending_instances")) {
        return NULL;
    }
    uv_pipe_pending_instances(&self->box->uv.pipe, count);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(pending_count_doc,
"pending_count($self, /)\n--\n\n"
"How many handles came in over an ipc pipe and wait for accept().\n\n"
"Raises HandleClosedError.");

static PyObject *
pipe_pending_count(UvtHandle *self, PyObject *Py_UNUSED(ignored))
{
    if (!uvt_handle_check(self)) {
        return NULL;
    }
    return PyLong_FromLong(uv_pipe_pending_count(&self->box->uv.pipe));
}

PyDoc_STRVAR(pending_handle_type_doc,
"pending_handle_type($self, /)\n--\n\n"
"The type of the first handle that waits for accept(): UV_TCP, UV_UDP,\n"
"UV_NAMED_PIPE, or UV_UNKNOWN_HANDLE for none.\n\n"
"Raises HandleClosedError.");

static PyObject *
pipe_pending_handle_type(UvtHandle *self, PyObject *Py_UNUSED(ignored))
{
    if (!uvt_handle_check(self)) {
        return NULL;
    }
    return PyLong_FromLong((long)uv_pipe_pending_type(&self->box->uv.pipe));
}

static PyObject *
pipe_get_ipc(UvtHandle *self, void *Py_UNUSED(closure))
{
    if (!uvt_handle_check(self)) {
        return NULL;
    }
    return PyBool_FromLong(self->box->uv.pipe.ipc);
}

static PyMethodDef pipe_methods[] = {
    {"bind", (PyCFunction)pipe_bind, METH_O, bind_doc},
    {"connect", (PyCFunction)(void (*)(void))pipe_connect, METH_FASTCALL,
     connect_doc},
    {"open", (PyCFunction)pipe_open, METH_O, open_doc},
    {"getsockname", (PyCFunction)pipe_getsockname, METH_NOARGS,
     getsockname_doc},
    {"getpeername", (PyCFunction)pipe_getpeername, METH_NOARGS,
     getpeername_doc},
    {"chmod", (PyCFunction)pipe_chmod, METH_O, chmod_doc},
    {"pending_instances", (PyCFunction)pipe_pending_instances, METH_O,
     pending_instances_doc},
    {"pending_count", (PyCFunction)pipe_pending_count, METH_NOARGS,
     pending_count_doc},
    {"pending_handle_type", (PyCFunction)pipe_pending_handle_type, METH_NOARGS,
     pending_handle_type_doc},
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
