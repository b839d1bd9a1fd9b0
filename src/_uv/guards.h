/* What keeps libuv from abort() where its own checks come too late.  Each function
 * is called before, or right after, the libuv call that it is for.
 */
#ifndef UVT_GUARDS_H
#define UVT_GUARDS_H

#include "handle.h"
#include "loop.h"

/* ---- guard.c: what libuv watches ---- */

/* Registers, before a poll, all that is new to it or watched in another way; the
 * handle behind one that cannot be registered is told, which may run Python code.
 * Whether there was one. */
bool uvt_guard_watchers(UvtCore *core);
/* Whether something is; the queue is linked to itself while it is empty. */
static inline bool
uvt_guard_any_watcher(const UvtCore *core)
{
    return *(const void *const *)&core->uv.watcher_queue != &core->uv.watcher_queue;
}
/* Registers what the handle watches now, if that is new.  A libuv status; the
 * caller stops watching when it is below 0. */
UVT_CHECKED int uvt_guard_watch(UvtBox *box);
UVT_CHECKED int uvt_guard_watch_io(UvtCore *core, uv__io_t *watcher);
/* Has libuv call the watcher's callback in the next turn. */
void uvt_guard_feed(uv_loop_t *uv, uv__io_t *watcher);
/* Whoever still watches this number, which the kernel has just given out, is told
 * UV_EBADF and stopped. */
void uvt_guard_fresh_fd(UvtCore *core, int fd);
/* The number is about to be somebody's: a Poll that watches it for a file that was
 * closed since is told UV_EBADF and stopped.  May call Python. */
void uvt_guard_stale_fd(UvtCore *core, int fd);
/* uvt_guard_fresh; UV_ECANCELED when the Python code has closed the handle. */
UVT_CHECKED int uvt_guard_made(UvtHandle *self);
/* The same for the number that comes next, and room for it in libuv's table.  A libuv
 * status. */
UVT_CHECKED int uvt_guard_reserve_next(UvtCore *core);
/* True when epoll takes the descriptor. */
bool uvt_guard_can_watch(const UvtCore *core, int fd);
/* The watcher of the handle's own descriptor; NULL: it has none. */
uv__io_t *uvt_box_watcher(UvtBox *box);

/* ---- guard_own.c: what libuv has for the loop itself ---- */

/* Makes libuv's table of watchers large enough for this descriptor: libuv itself
 * aborts without memory.  0 or UV_ENOMEM. */
UVT_CHECKED int uvt_guard_reserve(uv_loop_t *uv, int fd);
/* Whether epoll and the descriptor that wakes it are still the loop's; asks the
 * kernel once.  Any thread. */
bool uvt_guard_intact(const UvtCore *core);
/* Whether the number is still that of the file that the loop's epoll has for it. */
bool uvt_guard_has(const UvtCore *core, int fd);
/* The same of what the watcher is for; true for one that was never registered. */
bool uvt_guard_still_has(const UvtCore *core, const uv__io_t *watcher);
/* Wakes the loop that has these two, if that is still so.  May be called by a signal's
 * handler. */
void uvt_guard_wake(int epoll_fd, int event_fd);
/* False when somebody has closed descriptors that libuv has for the loop itself: it
 * would abort, so it may not run any more. */
bool uvt_guard_own_fds(UvtCore *core);
/* From here on the loop polls nothing, and its run ends. */
void uvt_guard_give_up(UvtCore *core);
/* uv_async_send, for any thread; UV_EBADF when its descriptor is lost. */
int uvt_guard_send(uv_async_t *uv);
/* Registers both; after uv_loop_fork. */
UVT_CHECKED int uvt_guard_watch_own(UvtCore *core);
/* uv_loop_init, and what was made is registered; a libuv status. */
UVT_CHECKED int uvt_guard_loop_init(UvtState *st, UvtCore *core);

/* ---- reserve.c: memory ---- */

/* At the import: a libuv status. */
UVT_CHECKED int uvt_reserve_setup(void);
/* This thread has so much in reserve for libuv, until it is emptied.  0 or UV_ENOMEM. */
int uvt_reserve_fill(size_t size);
void uvt_reserve_empty(void);

/* ---- lowfds.c: descriptors 0 to 2 ---- */

/* Around a libuv call, attached or not, and around a fork. */
void uvt_low_take(UvtState *st);
void uvt_low_give(UvtState *st);
/* In the child, where only one thread is left. */
void uvt_low_after_fork(UvtState *st);
void uvt_low_setup(UvtState *st);
/* Before a stream is made: true, and taken, if they are to be given back. */
bool uvt_low_take_for_stream(UvtLoop *loop);
/* The number that the next descriptor gets, asked for by a duplicate of one; or -1
 * with errno. */
UVT_CHECKED int uvt_low_next_fd(UvtState *st, int fd);
/* Around uv_close: what the second is given is what the first has returned. */
UVT_CHECKED int uvt_low_begin_close(UvtBox *box);
void uvt_low_end_close(int fd);
/* Whether it is one of 0 to 2 and still the file that it was at the start. */
bool uvt_low_is_standard(const UvtState *st, int fd);

/* ---- siglock.c: libuv's process-wide lock of signals, a pipe ---- */

/* Around uv_loop_init: the first makes the pipe anew when it is gone, and the second
 * finds, once, which pipe it is. */
void uvt_siglock_before(UvtState *st);
void uvt_siglock_after(UvtState *st, const uv_loop_t *uv);
/* After a fork, in the child. */
void uvt_siglock_after_fork(UvtState *st);
/* Before each libuv call that takes the lock: makes the pipe anew when somebody has
 * closed it; UV_EBADF when that cannot be. */
UVT_CHECKED int uvt_siglock_check(UvtState *st);

#endif
