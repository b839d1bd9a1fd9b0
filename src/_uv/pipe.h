/* What the files of Pipe share: pipe.c (the type), pipe_names.c, pipe_abstract.c
 * and pipe_ipc.c (handles sent over a pipe). */
#ifndef UVT_PIPE_H
#define UVT_PIPE_H

#include "stream.h"

/* Methods, for the table in pipe.c. */
PyObject *uvt_pipe_bind(UvtHandle *self, PyObject *name);
PyObject *uvt_pipe_connect(UvtHandle *self, PyObject *const *args,
                           Py_ssize_t nargs);
PyObject *uvt_pipe_getsockname(UvtHandle *self, PyObject *unused);
PyObject *uvt_pipe_getpeername(UvtHandle *self, PyObject *unused);
extern const char uvt_pipe_bind_doc[], uvt_pipe_connect_doc[],
    uvt_pipe_getsockname_doc[], uvt_pipe_getpeername_doc[];
PyObject *uvt_pipe_write(UvtHandle *self, PyObject *const *args,
                         Py_ssize_t nargs);
PyObject *uvt_pipe_try_write2(UvtHandle *self, PyObject *const *args,
                              Py_ssize_t nargs);
PyObject *uvt_pipe_accept(UvtHandle *self, PyObject *client);
PyObject *uvt_pipe_accept_fd(UvtHandle *self, PyObject *unused);
PyObject *uvt_pipe_pending_count(UvtHandle *self, PyObject *unused);
PyObject *uvt_pipe_pending_handle_type(UvtHandle *self, PyObject *unused);
extern const char uvt_pipe_write_doc[], uvt_pipe_try_write2_doc[],
    uvt_pipe_accept_doc[], uvt_pipe_accept_fd_doc[],
    uvt_pipe_pending_count_doc[], uvt_pipe_pending_handle_type_doc[];

/* Names that begin with NUL; a libuv status.  After a connect that gives 0 the
 * callback will be called. */
UVT_CHECKED int uvt_abstract_bind(uv_pipe_t *uv, const char *name, size_t size);
UVT_CHECKED int uvt_abstract_connect(UvtHandle *self, PyObject *callback,
                                     const char *name, size_t size);

/* pipe_file.c: what bind() makes.  A new one is for the name that is about to be
 * bound (NULL: no memory), and the box's once that is done; it is removed before the
 * box is closed. */
struct UvtPipeFile *uvt_pipe_file_new(const char *name);
void uvt_pipe_file_bound(UvtBox *box, struct UvtPipeFile *file);
void uvt_pipe_file_remove(UvtBox *box);
PyObject *uvt_pipe_chmod(UvtHandle *self, PyObject *flags);
extern const char uvt_pipe_chmod_doc[];

#endif
