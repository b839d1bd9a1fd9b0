/* What FSEvent and FSPoll share, and how FSEvents are read (inotify.c). */
#ifndef UVT_FSWATCH_H
#define UVT_FSWATCH_H

#include "handle.h"
#include "loop.h"

/* The path that a handle watches, asked of libuv by `ask`; '' when it does
 * not.  In fspoll.c. */
UVT_NEW PyObject *uvt_watched_path(UvtHandle *self,
                                   int (*ask)(UvtBox *, char *, size_t *),
                                   const char *call);

/* inotify.c: before a handle starts; when it has; that the poll takes it.  Those that
 * return an int give a libuv status. */
UVT_CHECKED int uvt_inotify_begin(UvtCore *core);
void uvt_inotify_join(UvtBox *box);
UVT_CHECKED int uvt_inotify_watch(UvtCore *core);
/* Before a handle is stopped or closed, whatever kind it is; the end of the loop. */
void uvt_inotify_leave(UvtBox *box);
void uvt_inotify_free(UvtCore *core);
/* Whether the watcher is that of the loop's descriptor; and when somebody has closed
 * that: tells every handle, and returns true. */
bool uvt_inotify_has(const UvtCore *core, const uv__io_t *watcher);
bool uvt_inotify_lost(UvtCore *core, const uv__io_t *watcher);
/* In a forked child that goes on with the loop: before libuv hears of it, and after. */
struct UvtRestart *uvt_inotify_put_off(UvtCore *core);
UVT_CHECKED int uvt_inotify_restart(UvtCore *core, struct UvtRestart *list);

#endif
