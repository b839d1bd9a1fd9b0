/* Addresses: Python tuples to struct sockaddr and back. */
#ifndef UVT_SOCKADDR_H
#define UVT_SOCKADDR_H

#include "uvmodule.h"

/* (host, port[, flowinfo[, scope_id]]) with a numeric host; '' is 0.0.0.0 and
 * '<broadcast>' 255.255.255.255; a scope may be part of the host
 * ("fe80::1%eth0").  TypeError, ValueError or OverflowError, naming `call`. */
UVT_CHECKED bool uvt_sockaddr_parse(const char *call, PyObject *address,
                                    struct sockaddr_storage *out);

/* (host, port) for IPv4, (host, port, flowinfo, scope_id) for IPv6, the path
 * (str, or bytes for an abstract name, '' for none) for UNIX with its length
 * taken from len; None for other families and NULL. */
UVT_NEW PyObject *uvt_sockaddr_format(const struct sockaddr *addr, int len);

/* sizeof the sockaddr of this family; 0 for an unknown one. */
int uvt_sockaddr_size(const struct sockaddr *addr);

#endif
