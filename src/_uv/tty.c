/* uv.TTY: a terminal as a stream.  All functions run on the loop's thread,
 * attached; tty_mode.c has the modes.  For a terminal the
 * handle owns a descriptor of its own and leaves the caller's alone; a pipe or a
 * socket in its place is taken over.
 */
#include "tty.h"
#include "args.h"
#include "errors.h"
#include "guards.h"
#include "stream.h"
#include "tcp_options.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/socket.h>
#include <termios.h>
#include <unistd.h>

#if UV_VERSION_HEX >= 0x013300
#define LAST_MODE UV_TTY_MODE_RAW_VT
#else
#define LAST_MODE UV_TTY_MODE_IO
#endif

/* ---- life cycle ---- */

/* libuv opens the terminal once more and puts that in the place of the number
 * it was given, not to be inherited: it gets the number of a duplicate.  Above
 * 2, since it never closes those. */
static int
init_terminal(UvtLoop *loop, uv_tty_t *tty, int fd)
{
    int own = fcntl(fd, F_DUPFD_CLOEXEC, 3), rc;
    uv_os_fd_t used;
    if (own < 0) {
        return uv_translate_sys_error(errno);
    }
    rc = uv_tty_init(&loop->core->uv, tty, own, 0);
    if (rc < 0 || uv_fileno((uv_handle_t *)tty, &used) < 0 || used != own) {
        (void)close(own);
    }
    return rc;
}

/* libuv leaves a terminal as it is when it cannot open it once more. */
static bool
is_blocking(UvtHandle *self)
{
    uv_os_fd_t fd;
    int flags = uv_fileno(&self->box->uv.handle, &fd) == 0 ? fcntl(fd, F_GETFL) : -1;
    return flags >= 0 && (flags & O_NONBLOCK) == 0;
}

static int
tty_init(UvtHandle *self, PyObject *args, PyObject *kwds)
{
    UVT_LOCKED(uvt_lock_of_init(self->st, args, kwds));
    static char *names[] = {"loop", "fd", "readable", NULL};
    PyObject *loop_arg, *fd_arg, *readable;
    UvtLoop *loop;
    int fd, rc;

    if (!PyArg_ParseTupleAndKeywords(args, kwds, "OO|O:TTY", names, &loop_arg,
                                     &fd_arg, &readable)
        || !uvt_arg_fd("TTY", fd_arg, &fd)
        || !uvt_handle_init_begin(self, loop_arg, UV_TTY, UVT_EXC_TTY,
                                  sizeof(uv_tty_t), &loop)) {
        return -1;
    }
    uvt_low_take(self->st);
    if (isatty(fd)) {
        rc = init_terminal(loop, &self->box->uv.tty, fd);
    }
    else {
        rc = uvt_fd_check_new(loop->core, fd, SOCK_STREAM, true);
        if (rc == 0) {
            rc = uv_tty_init(&loop->core->uv, &self->box->uv.tty, fd, 0);
        }
    }
    uvt_low_give(self->st);
    if (uvt_handle_init_done(self, loop, rc, "uv_tty_init") < 0) {
        return -1;
    }
    self->blocks = is_blocking(self);
    rc = uvt_guard_fresh(self);
    if (rc < 0) {
        uvt_handle_raise(self, rc, "uv_tty_init");
        return -1;
    }
    return 0;
}

/* ---- methods ---- */

PyDoc_STRVAR(set_mode_doc,
"set_mode($self, mode, /)\n--\n\n"
"Change the terminal's mode: UV_TTY_MODE_NORMAL is the one it had,\n"
"UV_TTY_MODE_RAW gives each key at once, without echo and signals,\n"
"UV_TTY_MODE_IO is binary-safe, UV_TTY_MODE_RAW_VT (libuv 1.51) matters on\n"
"Windows.  Several handles may change one terminal: the latest counts, and the\n"
"terminal gets the mode back that it had before all of them when the last one is\n"
"set to normal or closed, or when the interpreter ends.\n\n"
"Raises TypeError, ValueError, HandleClosedError, TTYError (ENOTTY).");

static PyObject *
tty_set_mode(UvtHandle *self, PyObject *arg)
{
    UVT_LOCKED(self->lock);
    int mode, rc;
    if (!uvt_arg_int("TTY.set_mode", "mode", arg, UV_TTY_MODE_NORMAL, LAST_MODE,
                     &mode)
        || !uvt_handle_check_free(self, "TTY.set_mode")) {
        return NULL;
    }
    rc = uvt_tty_set_mode(self->loop->graves, self->box, mode);
    if (rc < 0) {
        return uvt_handle_raise(self, rc, "uv_tty_set_mode");
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(get_winsize_doc,
"get_winsize($self, /)\n--\n\n"
"The terminal's size in characters, (width, height).\n\n"
"Raises HandleClosedError, TTYError (ENOTTY).");

static PyObject *
tty_get_winsize(UvtHandle *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(self->lock);
    int width = 0, height = 0, rc;
    if (!uvt_handle_check(self)) {
        return NULL;
    }
    rc = uv_tty_get_winsize(&self->box->uv.tty, &width, &height);
    if (rc < 0) {
        return uvt_handle_raise(self, rc, "uv_tty_get_winsize");
    }
    return Py_BuildValue("(ii)", width, height);
}

/* Raises TTYError or returns None, for the class methods. */
static PyObject *
class_result(PyObject *cls, int rc, const char *call)
{
    UvtState *st = uvt_state_of_type((PyTypeObject *)cls);
    if (st == NULL) {
        return NULL;
    }
    if (rc < 0) {
        return uvt_raise(st, UVT_EXC_TTY, rc, call);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(reset_mode_doc,
"reset_mode($type, /)\n--\n\n"
"Give every terminal whose mode this process has changed its mode back, with the\n"
"handles still open.  It comes by itself when the interpreter ends.\n\n"
"Raises TTYError (EIO: a terminal is gone).");

static PyObject *
tty_reset_mode(PyObject *cls, PyObject *Py_UNUSED(ignored))
{
    UvtState *st = uvt_state_of_type((PyTypeObject *)cls);
    return st == NULL ? NULL : class_result(cls, uvt_terminals_reset(st->graves),
                                            "uv_tty_reset_mode");
}

PyDoc_STRVAR(set_vterm_state_doc,
"set_vterm_state($type, state, /)\n--\n\n"
"Say whether the console understands escape sequences, UV_TTY_SUPPORTED or\n"
"UV_TTY_UNSUPPORTED; in effect on Windows only.\n\n"
"Raises TypeError, ValueError.");

static PyObject *
tty_set_vterm_state(PyObject *cls, PyObject *arg)
{
    int state;
    if (!uvt_arg_int("TTY.set_vterm_state", "state", arg, UV_TTY_SUPPORTED,
                     UV_TTY_UNSUPPORTED, &state)) {
        return NULL;
    }
    uv_tty_set_vterm_state((uv_tty_vtermstate_t)state);
    return class_result(cls, 0, "uv_tty_set_vterm_state");
}

PyDoc_STRVAR(get_vterm_state_doc,
"get_vterm_state($type, /)\n--\n\n"
"Whether the console understands escape sequences, UV_TTY_SUPPORTED or\n"
"UV_TTY_UNSUPPORTED.\n\n"
"Raises TTYError (ENOTSUP: not on Windows).");

static PyObject *
tty_get_vterm_state(PyObject *cls, PyObject *Py_UNUSED(ignored))
{
    uv_tty_vtermstate_t state = UV_TTY_UNSUPPORTED;
    int rc = uv_tty_get_vterm_state(&state);
    if (rc < 0) {
        return class_result(cls, rc, "uv_tty_get_vterm_state");
    }
    return PyLong_FromLong((long)state);
}

static PyMethodDef tty_methods[] = {
    UVT_STREAM_WRITE,
    {"set_mode", (PyCFunction)tty_set_mode, METH_O, set_mode_doc},
    {"get_winsize", (PyCFunction)tty_get_winsize, METH_NOARGS, get_winsize_doc},
    {"reset_mode", (PyCFunction)tty_reset_mode, METH_CLASS | METH_NOARGS,
     reset_mode_doc},
    {"set_vterm_state", (PyCFunction)tty_set_vterm_state, METH_CLASS | METH_O,
     set_vterm_state_doc},
    {"get_vterm_state", (PyCFunction)tty_get_vterm_state,
     METH_CLASS | METH_NOARGS, get_vterm_state_doc},
    {NULL},
};

static PyObject *
tty_get_mode(UvtHandle *self, void *Py_UNUSED(closure))
{
    UVT_LOCKED(self->lock);
    if (!uvt_handle_check(self)) {
        return NULL;
    }
    return PyLong_FromLong(self->box->uv.tty.mode);
}

static PyGetSetDef tty_getset[] = {
    {"mode", (getter)tty_get_mode, NULL, "What set_mode() has set (int).", NULL},
    {NULL},
};

PyDoc_STRVAR(tty_doc,
"TTY(loop, fd, readable=True)\n--\n\n"
"A terminal, as a stream that can be read, written, or both, as its descriptor\n"
"can (an int, or an object with fileno(); `readable` makes no difference).  The\n"
"terminal is opened once more: the given descriptor stays as it is and the\n"
"caller's.  In place of a terminal it takes a pipe or a stream socket, which are\n"
"taken over as by Pipe.open().\n\n"
"Raises TypeError, ValueError (negative), TTYError (EBADF: not open; EINVAL: a\n"
"file or anything else; EPROTOTYPE: a socket of datagrams; EEXIST: in use in\n"
"this loop).");

static PyType_Slot tty_slots[] = {
    {Py_tp_doc, (void *)tty_doc},
    {Py_tp_init, tty_init},
    {Py_tp_methods, tty_methods},
    {Py_tp_getset, tty_getset},
    UVT_HANDLE_SLOTS,
    {0, NULL},
};

static PyType_Spec tty_spec = {
    .name = "uvtulip._uv.TTY",
    .basicsize = sizeof(UvtHandle),
    .flags = UVT_HANDLE_FLAGS,
    .slots = tty_slots,
};

int
uvt_tty_setup(PyObject *module, UvtState *st)
{
    return uvt_add_type(module, &st->tty_type, &tty_spec, st->stream_type);
}
