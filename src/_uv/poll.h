/* What a Poll has besides its libuv handle, and how the base and the guard
 * stop one.  poll.c says why libuv's own calls do not suffice. */
#ifndef UVT_POLL_H
#define UVT_POLL_H

#include "uvmodule.h"

#include <sys/types.h>

/* What the box of a Poll holds. */
typedef struct {
    uv_poll_t uv;               /* first: a uv_poll_t * is a UvtPoll * */
    dev_t device;               /* which file it was when the Poll was made */
    ino_t inode;
    bool blocking;              /* before libuv made it non-blocking */
    unsigned char events;       /* of the last start */
    unsigned char reports;      /* counts, modulo its size */
} UvtPoll;

/* uv_poll_stop and uv_close for a Poll; neither calls Python. */
void uvt_poll_stop(uv_poll_t *poll);
void uvt_poll_close(uv_poll_t *poll, uv_close_cb on_closed);

#endif
