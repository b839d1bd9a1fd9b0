/* Methods of Loop that few programs need: fork() and print_handles().  They run
 * attached, on the loop's thread or while nobody runs the loop.
 */
#include "args.h"
#include "errors.h"
#include "fork.h"
#include "loop.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

const char uvt_loop_fork_doc[] =
"fork($self, /)\n--\n\n"
"After os.fork(), in the child: take the parent's loop over, which is refused to\n"
"the child otherwise.  It must not have been running, and must not be that of an\n"
"asyncio loop.  Its handles watch the same descriptors as the parent's; requests\n"
"to the thread pool and Process handles stay the parent's and tell nothing here.\n\n"
"Raises RuntimeError (not in a child, it was running, closed), UVError.";

PyObject *
uvt_loop_fork(UvtLoop *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(self->lock);
    const char *fault = NULL;
    int rc;
    if (self->core == NULL && !uvt_loop_check(self)) {
        return NULL;
    }
    if (!uvt_fork_is_child(self)) {
        fault = "this is not a child of the process that made the loop";
    }
    else if (self->core->torn) {
        fault = "the loop was running when the process forked";
    }
    else if (self->hooks != NULL) {
        fault = "the loop is that of an asyncio loop";
    }
    if (fault != NULL) {
        PyErr_Format(PyExc_RuntimeError, "Loop.fork(): %s", fault);
        return NULL;
    }
    rc = uvt_fork_adopt(self);
    if (rc < 0) {
        return uvt_raise(self->st, UVT_EXC_UV, rc, "uv_loop_fork");
    }
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
    UVT_LOCKED(self->lock);
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
