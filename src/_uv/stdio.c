/* uv.StdIO: what one of a child's descriptors is, for Process.spawn().  A plain
 * immutable value; it may be made and read on any thread.  It owns the stream.
 */
#include "args.h"
#include "process.h"

#define KINDS (UV_CREATE_PIPE | UV_INHERIT_FD | UV_INHERIT_STREAM)
#define PIPE_FLAGS (UV_READABLE_PIPE | UV_WRITABLE_PIPE | UV_NONBLOCK_PIPE)

/* Why the flags do not go with the stream and the descriptor; NULL: they do. */
static const char *
find_fault(bool has_stream, int fd, int flags)
{
    if ((flags & ~(KINDS | PIPE_FLAGS)) != 0) {
        return "flags that are none of StdIO";
    }
    if ((flags & PIPE_FLAGS) != 0 && (flags & UV_CREATE_PIPE) == 0) {
        return "UV_READABLE_PIPE, UV_WRITABLE_PIPE and UV_NONBLOCK_PIPE go with "
               "UV_CREATE_PIPE";
    }
    if (has_stream && fd >= 0) {
        return "either a stream or a descriptor, not both";
    }
    switch (flags & KINDS) {
        case UV_IGNORE:
            return has_stream || fd >= 0
                ? "a stream needs UV_CREATE_PIPE or UV_INHERIT_STREAM, a "
                  "descriptor UV_INHERIT_FD" : NULL;
        case UV_CREATE_PIPE:
        case UV_INHERIT_STREAM:
            return has_stream ? NULL
                : "UV_CREATE_PIPE and UV_INHERIT_STREAM need a stream";
        case UV_INHERIT_FD:
            return fd >= 0 ? NULL : "UV_INHERIT_FD needs a descriptor";
        default:
            return "UV_CREATE_PIPE, UV_INHERIT_FD and UV_INHERIT_STREAM exclude "
                   "each other";
    }
}

static bool
check_stream(UvtState *st, PyObject *stream, int flags)
{
    PyTypeObject *wanted = flags & UV_CREATE_PIPE ? st->pipe_type
                                                  : st->stream_type;
    if (stream == Py_None || PyObject_TypeCheck(stream, wanted)) {
        return true;
    }
    PyErr_Format(PyExc_TypeError, "StdIO(): 'stream' must be a %s, not %.200s",
                 flags & UV_CREATE_PIPE ? "Pipe" : "Stream",
                 Py_TYPE(stream)->tp_name);
    return false;
}

static PyObject *
stdio_new(PyTypeObject *type, PyObject *args, PyObject *kwds)
{
    static char *names[] = {"stream", "fd", "flags", NULL};
    UvtState *st = uvt_state_of_type(type);
    PyObject *stream = Py_None, *fd_arg = NULL, *flags_arg = NULL;
    int fd = -1, flags = UV_IGNORE;
    const char *fault;
    UvtStdIO *self;

    if (st == NULL
        || !PyArg_ParseTupleAndKeywords(args, kwds, "|OOO:StdIO", names,
                                        &stream, &fd_arg, &flags_arg)
        || (flags_arg != NULL
            && !uvt_arg_int("StdIO", "flags", flags_arg, 0, INT_MAX, &flags))) {
        return NULL;
    }
    if (fd_arg != NULL && PyLong_Check(fd_arg)) {
        if (!uvt_arg_int("StdIO", "fd", fd_arg, -1, INT_MAX, &fd)) {
            return NULL;
        }
    }
    else if (fd_arg != NULL && !uvt_arg_fd("StdIO", fd_arg, &fd)) {
        return NULL;
    }
    fault = find_fault(stream != Py_None, fd, flags);
    if (fault != NULL) {
        PyErr_Format(PyExc_ValueError, "StdIO(): %s", fault);
        return NULL;
    }
    if (!check_stream(st, stream, flags)) {
        return NULL;
    }
    self = (UvtStdIO *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->stream = Py_NewRef(stream);
        self->fd = fd;
        self->flags = flags;
    }
    return (PyObject *)self;
}

static int
stdio_traverse(UvtStdIO *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->stream);
    return 0;
}

static int
stdio_clear(UvtStdIO *self)
{
    Py_CLEAR(self->stream);
    return 0;
}

static void
stdio_dealloc(UvtStdIO *self)
{
    PyTypeObject *tp = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    (void)stdio_clear(self);
    tp->tp_free(self);
    Py_DECREF(tp);
}

static PyMemberDef stdio_members[] = {
    {"stream", T_OBJECT, offsetof(UvtStdIO, stream), READONLY,
     "The stream, or None."},
    {"fd", T_INT, offsetof(UvtStdIO, fd), READONLY, "The descriptor, or -1."},
    {"flags", T_INT, offsetof(UvtStdIO, flags), READONLY, "The flags (int)."},
    {NULL},
};

PyDoc_STRVAR(stdio_doc,
"StdIO(stream=None, fd=-1, flags=UV_IGNORE)\n--\n\n"
"What one of a child's descriptors is, for Process.spawn().  The flags say which:\n"
"UV_IGNORE (/dev/null), UV_INHERIT_FD with `fd` (an int, or an object with\n"
"fileno()), UV_INHERIT_STREAM with an open `stream`, or UV_CREATE_PIPE with a\n"
"fresh Pipe as `stream`, which is connected to the child.  With UV_CREATE_PIPE\n"
"go UV_READABLE_PIPE and UV_WRITABLE_PIPE, seen from the child, and\n"
"UV_NONBLOCK_PIPE, which makes the child's end non-blocking (Windows).\n\n"
"Raises TypeError, ValueError (what does not go together).");

static PyType_Slot stdio_slots[] = {
    {Py_tp_doc, (void *)stdio_doc},
    {Py_tp_new, stdio_new},
    {Py_tp_traverse, stdio_traverse},
    {Py_tp_clear, stdio_clear},
    {Py_tp_dealloc, stdio_dealloc},
    {Py_tp_members, stdio_members},
    {0, NULL},
};

static PyType_Spec stdio_spec = {
    .name = "uvtulip._uv.StdIO",
    .basicsize = sizeof(UvtStdIO),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = stdio_slots,
};

int
uvt_stdio_setup(PyObject *module, UvtState *st)
{
    return uvt_add_type(module, &st->stdio_type, &stdio_spec, NULL);
}
