/* What becomes of loops in a forked child. */
#ifndef UVT_FORK_H
#define UVT_FORK_H

#include "loop.h"

#include <sys/stat.h>

/* Has the interpreter tell each new child's loops; 0, or -1 with an exception. */
UVT_CHECKED int uvt_fork_setup(PyObject *module);

/* A loop that is opened, and before its core goes. */
void uvt_fork_join(UvtLoop *loop);
void uvt_fork_leave(UvtLoop *loop);

/* True in a child of the process that made the open loop.  Also notices a fork
 * that the interpreter was not told of. */
bool uvt_fork_is_child(UvtLoop *loop);
/* Loop.fork(): gives the loop, in which no run was under way, to the child.  A
 * libuv status. */
UVT_CHECKED int uvt_fork_adopt(UvtLoop *loop);
/* Raises RuntimeError. */
void uvt_fork_raise(void);

/* In place of freeing the core: closes the child's copies of the descriptors; none
 * of a loop whose own ones somebody has closed. */
void uvt_fork_abandon(UvtCore *core);

/* Closes a descriptor that was inherited, if it still is of this kind (S_IFSOCK,
 * ...; 0: epoll and the like): the child may have closed everything since, and
 * opened other files. */
void uvt_fork_close(int fd, mode_t kind);

#endif
