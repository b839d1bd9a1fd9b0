/* Options of TCP handles, what every open() checks, and the pairs of
 * descriptors that libuv makes. */
#ifndef UVT_TCP_OPTIONS_H
#define UVT_TCP_OPTIONS_H

#include "handle.h"

struct UvtCore;

PyObject *uvt_tcp_nodelay(UvtHandle *self, PyObject *arg);
PyObject *uvt_tcp_keepalive(UvtHandle *self, PyObject *const *args,
                            Py_ssize_t nargs);
PyObject *uvt_tcp_keepalive_ex(UvtHandle *self, PyObject *const *args,
                               Py_ssize_t nargs);
PyObject *uvt_tcp_simultaneous_accepts(UvtHandle *self, PyObject *arg);
PyObject *uvt_tcp_get_family(UvtHandle *self, void *closure);
extern const char uvt_tcp_nodelay_doc[], uvt_tcp_keepalive_doc[],
    uvt_tcp_keepalive_ex_doc[],
    uvt_tcp_simultaneous_accepts_doc[], uvt_tcp_family_doc[];

/* The address family of a socket, or a libuv status below 0. */
UVT_CHECKED int uvt_fd_family(int fd);

/* Before a handle takes a descriptor over: the handle has none, this one is
 * open, no other handle of the loop has it, and it is a socket of this type
 * (SOCK_STREAM, SOCK_DGRAM).  For SOCK_STREAM with `pipes` it may also be a
 * pipe, a FIFO or a character device.  Makes room for it in libuv's table.  A libuv
 * status. */
UVT_CHECKED int uvt_fd_check(UvtHandle *self, int fd, int type, bool pipes);
/* The same for a handle that does not exist yet. */
UVT_CHECKED int uvt_fd_check_new(struct UvtCore *core, int fd, int type,
                                 bool pipes);

/* socketpair() and pipe() of the module. */
extern PyMethodDef uvt_tcp_options_functions[];

#endif
