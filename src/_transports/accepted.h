/* Connections that a server has accepted a moment ago (accepted.c). */
#ifndef TULIP_ACCEPTED_H
#define TULIP_ACCEPTED_H

#include "server.h"

/* Its protocol and transport are made, but connection_made() was not called.  -1
 * with MemoryError. */
UVT_CHECKED int tulip_accepted_add(TulipLoop *loop, TulipStream *stream);
/* connection_made() was called for what stands on this stream: a TLS handshake is
 * done. */
void tulip_accepted_made(TulipStream *stream);
/* The stream has left its server. */
void tulip_accepted_forget(TulipLoop *loop, const TulipStream *stream);
/* asyncio's task that accepts it would not have ended yet. */
bool tulip_accepted_is_new(TulipLoop *loop, const TulipStream *stream);

#endif
