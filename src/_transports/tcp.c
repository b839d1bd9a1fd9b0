/* What is special to TCP: TCP_NODELAY, and the two addresses, which are asked
 * for while the connection is certainly there and made into tuples when somebody
 * wants them.  All functions run on the loop's thread, attached; the transport
 * owns the addresses.
 */
#include "stream.h"
#include <string.h>

static void
remember(TulipStream *self, bool peer, const struct sockaddr *addr)
{
    if (addr->sa_family == AF_INET && !(self->flags & TULIP_NAMES_V6)) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)addr;
        TulipName *name = &self->names.v4[peer];
        name->addr = in->sin_addr.s_addr;
        name->port = in->sin_port;
        name->family = AF_INET;
    }
    else if (addr->sa_family == AF_INET6) {
        if (!(self->flags & TULIP_NAMES_V6)) {
            struct sockaddr_in6 *v6 = PyMem_Calloc(2, sizeof(*v6));
            if (v6 == NULL) {
                return;     /* then there is no name: None */
            }
            self->names.v6 = v6;
            self->flags |= TULIP_NAMES_V6;
        }
        memcpy(&self->names.v6[peer], addr, sizeof(struct sockaddr_in6));
    }
}

void
tulip_tcp_adopt(TulipStream *self, const struct sockaddr *own,
                const struct sockaddr *peer, bool nodelay)
{
    uv_tcp_t *uv = (uv_tcp_t *)self->uv;
    struct sockaddr_storage storage;
    struct sockaddr *asked = (struct sockaddr *)&storage;
    int len;

    if (!nodelay) {
        (void)uv_tcp_nodelay(uv, 1);
    }
    if (own == NULL) {
        len = sizeof(storage);
        own = uv_tcp_getsockname(uv, asked, &len) == 0 ? asked : NULL;
    }
    if (own != NULL) {
        remember(self, false, own);
    }
    if (peer == NULL) {
        len = sizeof(storage);
        peer = uv_tcp_getpeername(uv, asked, &len) == 0 ? asked : NULL;
    }
    if (peer != NULL) {
        remember(self, true, peer);
    }
}

PyObject *
tulip_tcp_name(TulipStream *self, bool peer)
{
    const UvtCAPI *api = tulip_stream_api(self);
    if (self->flags & TULIP_NAMES_V6) {
        const struct sockaddr_in6 *v6 = &self->names.v6[peer];
        if (v6->sin6_family == AF_INET6) {
            return api->sockaddr_format((const struct sockaddr *)v6,
                                        sizeof(*v6));
        }
    }
    else if (self->names.v4[peer].family == AF_INET) {
        struct sockaddr_in in = {
            .sin_family = AF_INET,
            .sin_port = self->names.v4[peer].port,
            .sin_addr.s_addr = self->names.v4[peer].addr,
        };
        return api->sockaddr_format((const struct sockaddr *)&in, sizeof(in));
    }
    Py_RETURN_NONE;
}
