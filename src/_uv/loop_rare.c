/* Methods of Loop that few programs need: fork() and print_handles().  They run
 * attached, on the loop's thread or while nobody runs the loop.
 */
#include "args.h"
#include "errors.h"
#include "loop.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

const char uvt_loop_fork_doc[] =
"fork($self, /)\n--\n\n"
"After os.fork(), in the child: make the loop usable there.  Its handles are those\n"
"of the parent, with the same descriptors; requests that threads worked on, and\n"
"the parent's Process handles, end in the parent only.\n\n"
"Raises RuntimeError (it is running, or closed), UVError.";

/* The descriptors by which signals come in are the parent's, too. */
PyObject *
uvt_loop_fork(UvtLoop *self, PyObject *Py_UNUSED(ignored))
{
    int rc;
    if (!uvt_loop_check(self)) {
        return NULL;
    }
    if (self->thread_id != 0) {
        PyErr_SetString(PyExc_RuntimeError, "Loop.fork(): the loop is running");
        return NULL;
    }
    rc = uv_loop_fork(&self->core->uv);
    if (rc < 0) {
        return uvt_raise(self->st, UVT_EXC_UV, rc, "uv_loop_fork");
    }
    uvt_wakeup_free(self);
    Py_RETURN_NONE;
}

const char uvt_loop_print_handles_doc[] =
"print_handles($self, active_only=False, /)\n--\n\n"
"Print all handles of the loop, or the active ones, with libuv's own inner ones,\n"
"on sys.stderr: a line for each with R (referenced), A (active) and I (inner),\n"
"its type and address.\n\n"
"Raises RuntimeError (the loop is closed or runs in another thread).";

PyObject *
uvt_loop_print_handles(UvtLoop *self, PyObject *const *args, Py_ssize_t nargs)
{
    int active_only = 0;
    char *text = NULL;
    size_t size = 0;
    FILE *stream;
    if (!uvt_args_count("Loop.print_handles", nargs, 0, 1)
        || (nargs > 0 && !uvt_arg_bool(args[0], &active_only))
        || !uvt_loop_check(self)) {
        return NULL;
    }
    stream = open_memstream(&text, &size);
    if (stream == NULL) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    if (active_only) {
        uv_print_active_handles(&self->core->uv, stream);
    }
    else {
        uv_print_all_handles(&self->core->uv, stream);
    }
    (void)fclose(stream);
    if (text != NULL) {
        PySys_FormatStderr("%s", text);
    }
    free(text);
    Py_RETURN_NONE;
}
