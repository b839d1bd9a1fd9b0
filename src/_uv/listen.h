/* Listening streams: listen.c. */
#ifndef UVT_LISTEN_H
#define UVT_LISTEN_H

#include "handle.h"

/* The watcher that tells of a listening box's connections; NULL: it has none. */
const uv__io_t *uvt_listener_watcher(const UvtBox *box);

/* Stops and closes what listens, before the box is closed; harmless when nothing
 * does. */
void uvt_listener_close(UvtBox *box);

#endif
