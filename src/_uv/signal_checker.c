/* uv.util.SignalChecker: a Poll on the reading end of the descriptors that
 * signal.set_wakeup_fd() has the writing end of.  All functions run attached, on
 * the loop's thread.  While it is started its callback is a function of this
 * file, bound to it.
 *
 * Loop.run() on the main thread needs no such help; programs for pyuv did.
 */
#include "errors.h"
#include "handle.h"
#include "loop.h"
#include "util.h"

#include <errno.h>
#include <unistd.h>

/* False when nothing can come any more. */
static bool
drain(int fd)
{
    char buffer[1024];
    ssize_t count;
    do {
        count = read(fd, buffer, sizeof(buffer));
    } while (count > 0 || (count < 0 && errno == EINTR));
    return count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
}

static PyObject *
check(PyObject *arg, PyObject *const *args, Py_ssize_t Py_UNUSED(nargs))
{
    UvtHandle *self = (UvtHandle *)arg;
    if (args[2] == Py_None && self->box != NULL && !drain(self->fd)) {
        (void)uvt_poll_start(self, 0);
    }
    if (PyErr_CheckSignals() < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyMethodDef check_def = {
    "check", (PyCFunction)(void (*)(void))check, METH_FASTCALL, NULL,
};

PyDoc_STRVAR(start_doc,
"start($self, /)\n--\n\n"
"Run the handlers of Python's signals whenever the descriptor becomes readable;\n"
"what they raise goes to excepthook().\n\n"
"Raises HandleClosedError, PollError.");

static PyObject *
checker_start(UvtHandle *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(self->lock);
    PyObject *callback;
    int rc;
    if (!uvt_handle_check_free(self, "SignalChecker.start")) {
        return NULL;
    }
    callback = PyCFunction_New(&check_def, (PyObject *)self);
    if (callback == NULL) {
        return NULL;
    }
    rc = uvt_poll_start(self, UV_READABLE);
    if (rc < 0) {
        Py_DECREF(callback);
        return uvt_handle_raise(self, rc, "uv_poll_start");
    }
    Py_XSETREF(self->callback, callback);
    Py_RETURN_NONE;
}

static PyMethodDef checker_methods[] = {
    {"start", (PyCFunction)checker_start, METH_NOARGS, start_doc},
    {NULL},
};

PyDoc_STRVAR(checker_doc,
"SignalChecker(loop, fd)\n--\n\n"
"Watches the reading end of a socket pair whose other end\n"
"signal.set_wakeup_fd() got, empties it and runs the handlers of signals.\n\n"
"Only for programs that were written for pyuv: Loop.run() on the main thread\n"
"does this by itself.");

static PyType_Slot checker_slots[] = {
    {Py_tp_doc, (void *)checker_doc},
    {Py_tp_methods, checker_methods},
    UVT_HANDLE_SLOTS,
    {0, NULL},
};

static PyType_Spec checker_spec = {
    .name = "uvtulip._uv.util.SignalChecker",
    .basicsize = sizeof(UvtHandle),
    .flags = UVT_HANDLE_FLAGS,
    .slots = checker_slots,
};

int
uvt_signal_checker_setup(PyObject *module, PyObject *submodule, UvtState *st)
{
    int rc;
    PyObject *type = PyType_FromModuleAndSpec(module, &checker_spec,
                                              (PyObject *)st->poll_type);
    if (type == NULL) {
        return -1;
    }
    rc = PyModule_AddType(submodule, (PyTypeObject *)type);
    Py_DECREF(type);
    return rc;
}
