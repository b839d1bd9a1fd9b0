/* The names of Pipe handles: bind, connect, and asking for them.  All functions
 * run on the loop's thread, attached.  A name is taken whole or refused; nothing
 * of it is kept here.
 */
#include "args.h"
#include "audit.h"
#include "errors.h"
#include "guards.h"
#include "pipe.h"
#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

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

/* Whole or not at all: older libuv cuts a name that is too long, which is not
 * let through to it. */
static int
bind_to(uv_pipe_t *uv, PyObject *name)
{
    const char *text = PyBytes_AS_STRING(name);
    size_t size = (size_t)PyBytes_GET_SIZE(name);
    if (text[0] == '\0') {
        return uvt_abstract_bind(uv, text, size);
    }
#if UV_VERSION_HEX >= 0x012E00
    return uv_pipe_bind2(uv, text, size, UV_PIPE_NO_TRUNCATE);
#else
    return uv_pipe_bind(uv, text);
#endif
}

const char uvt_pipe_bind_doc[] =
"bind($self, name, /)\n--\n\n"
"Bind to a path (str, bytes or os.PathLike), which must not exist and is removed\n"
"when the handle is closed, unless another file has taken its place.  With a\n"
"leading NUL it is an abstract name of Linux, which is no file.\n\n"
"Raises TypeError, ValueError (an empty or impossible name), HandleClosedError,\n"
"PipeError (EADDRINUSE; EACCES: also when a directory is missing; ENAMETOOLONG;\n"
"EINVAL: bound, opened or connected already).";

PyObject *
uvt_pipe_bind(UvtHandle *self, PyObject *arg)
{
    UVT_LOCKED(self->lock);
    struct UvtPipeFile *file = NULL;
    PyObject *name;
    int rc;
    if (!uvt_handle_check_free(self, "Pipe.bind")) {
        return NULL;
    }
    name = pipe_path(self, "Pipe.bind", arg);
    if (name == NULL) {
        return NULL;
    }
    /* __fspath__ or a hook may have closed the handle. */
    if (!uvt_audit_bind((PyObject *)self, arg)
        || !uvt_handle_check_free(self, "Pipe.bind")) {
        Py_DECREF(name);
        return NULL;
    }
    if (PyBytes_AS_STRING(name)[0] != '\0') {
        file = uvt_pipe_file_new(PyBytes_AS_STRING(name));
        if (file == NULL) {
            Py_DECREF(name);
            return PyErr_NoMemory();
        }
    }
    uvt_low_take(self->st);    /* When it fails, libuv closes the socket. */
    rc = bind_to(&self->box->uv.pipe, name);
    uvt_low_give(self->st);
    Py_DECREF(name);
    if (rc < 0) {
        PyMem_RawFree(file);
        return uvt_handle_raise(self, rc, "uv_pipe_bind");
    }
    if (file != NULL) {
        uvt_pipe_file_bound(self->box, file);
    }
    rc = uvt_guard_fresh(self);
    if (rc < 0) {
        return uvt_handle_raise(self, rc, "uv_pipe_bind");
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

/* A libuv status below 0, or 0: the callback will be called. */
static int
connect_to(UvtHandle *self, PyObject *callback, PyObject *name)
{
    const char *text = PyBytes_AS_STRING(name);
    size_t size = (size_t)PyBytes_GET_SIZE(name);
    UvtConnect *connect;
    int rc = 0;
    if (text[0] == '\0') {
        return uvt_abstract_connect(self, callback, text, size);
    }
    connect = uvt_connect_new(self, callback);
    if (connect == NULL) {
        PyErr_Clear();
        return UV_ENOMEM;
    }
#if UV_VERSION_HEX >= 0x012E00
    rc = uv_pipe_connect2(&connect->req, &self->box->uv.pipe, text, size,
                          UV_PIPE_NO_TRUNCATE, on_pipe_connect);
    if (rc < 0) {
        uvt_connect_cancel(connect);
    }
#else
    uv_pipe_connect(&connect->req, &self->box->uv.pipe, text, on_pipe_connect);
#endif
    return rc;
}

const char uvt_pipe_connect_doc[] =
"connect($self, name, callback, /)\n--\n\n"
"Connect to a name as of bind(), then callback(handle, errorno), also for what\n"
"fails at once (UV_ENOENT, UV_ECONNREFUSED).\n\n"
"Raises TypeError, ValueError (an empty or impossible name), HandleClosedError,\n"
"PipeError (ENAMETOOLONG; EALREADY: connecting; EISCONN: connected or opened;\n"
"EINVAL: listening).";

PyObject *
uvt_pipe_connect(UvtHandle *self, PyObject *const *args, Py_ssize_t nargs)
{
    UVT_LOCKED(self->lock);
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
    /* __fspath__ or a hook may have closed the handle. */
    if (!uvt_audit_connect((PyObject *)self, args[0])
        || !uvt_handle_check_free(self, "Pipe.connect")) {
        Py_DECREF(name);
        return NULL;
    }
    rc = check_connect(&self->box->uv.pipe);
    if (rc == 0 && !uvt_guard_next_fd(self, "uv_pipe_connect")) {
        Py_DECREF(name);
        return NULL;
    }
    if (rc == 0) {
        rc = connect_to(self, args[1], name);
    }
    Py_DECREF(name);
    if (rc < 0) {
        return uvt_handle_raise(self, rc, "uv_pipe_connect");
    }
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

const char uvt_pipe_getsockname_doc[] =
"getsockname($self, /)\n--\n\n"
"The name that it is bound to (str, '' for none); abstract ones begin with NUL.\n\n"
"Raises HandleClosedError, PipeError (EBADF: not open yet; ENOTSOCK).";

PyObject *
uvt_pipe_getsockname(UvtHandle *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(self->lock);
    return pipe_name(self, getsockname, "uv_pipe_getsockname");
}

const char uvt_pipe_getpeername_doc[] =
"getpeername($self, /)\n--\n\n"
"The name of the other side, as getsockname().\n\n"
"Raises HandleClosedError, PipeError (ENOTCONN; EBADF: not open yet; ENOTSOCK).";

PyObject *
uvt_pipe_getpeername(UvtHandle *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(self->lock);
    return pipe_name(self, getpeername, "uv_pipe_getpeername");
}
