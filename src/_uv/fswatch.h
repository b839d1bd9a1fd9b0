/* What FSEvent and FSPoll share. */
#ifndef UVT_FSWATCH_H
#define UVT_FSWATCH_H

#include "handle.h"

/* The path that a handle watches, asked of libuv by `ask`; '' when it does
 * not.  In fspoll.c. */
UVT_NEW PyObject *uvt_watched_path(UvtHandle *self,
                                   int (*ask)(UvtBox *, char *, size_t *),
                                   const char *call);

#endif
