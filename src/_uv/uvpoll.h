/* What a Poll has besides its libuv handle, and how the base and the guard stop
 * one.  poll.c says why libuv's own calls do not suffice.  (The file has another
 * name than that one so that <poll.h> is the system's.) */
#ifndef UVT_UVPOLL_H
#define UVT_UVPOLL_H

#include "uvmodule.h"

#include <sys/types.h>

/* What the box of a Poll holds. */
typedef struct {
    uv_poll_t uv;               /* first: a uv_poll_t * is a UvtPoll * */
    dev_t device;               /* which file it was when the Poll was made */
    ino_t inode;
    dev_t watched_device;       /* and when it was started, ... */
    ino_t watched_inode;        /* ... the last time */
    bool blocking;              /* before libuv made it non-blocking */
    unsigned char events;       /* of the last start */
    unsigned char reports;      /* counts, modulo its size */
    unsigned char errors;       /* reports of the same error in a row */
    bool edge;                  /* epoll reports changes only */
    unsigned active;            /* libuv's flag for handles that are started */
    unsigned queued;            /* what the socket had in its queues last time */
} UvtPoll;

/* uv_poll_start, of any UvtPoll; a libuv status, below 0 it is stopped.  Whoever has
 * lost the descriptor and watches it still is told, which may run any code. */
int uvt_poll_watch(UvtPoll *poll, int events, uv_poll_cb callback);
/* uv_poll_stop and uv_close for a Poll; neither calls Python. */
void uvt_poll_stop(uv_poll_t *poll);
void uvt_poll_close(uv_poll_t *poll, uv_close_cb on_closed);
/* A started Poll whose descriptor was closed by its owner, and whose number is
 * another file's by now, or nobody's. */
bool uvt_poll_is_stale(const uv_poll_t *poll);

#endif
