/* Socket addresses: Python tuples to struct sockaddr and back.  All functions
 * run attached, on any thread, and never ask a name server.  They keep nothing;
 * what they return is the caller's.
 */
#include "sockaddr.h"

#include <arpa/inet.h>
#include <limits.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#define FLOWINFO_MAX 0xFFFFFL

/* A whole number in [0, max], by __index__; OverflowError outside. */
static bool
parse_number(const char *call, const char *name, PyObject *arg,
             unsigned long max, unsigned long *out)
{
    PyObject *number;
    if (!PyIndex_Check(arg)) {
        PyErr_Format(PyExc_TypeError, "%s(): %s must be an int, not %.200s",
                     call, name, Py_TYPE(arg)->tp_name);
        return false;
    }
    number = PyNumber_Index(arg);
    if (number == NULL) {
        return false;
    }
    *out = PyLong_AsUnsignedLong(number);
    if ((*out == (unsigned long)-1 && PyErr_Occurred()) || *out > max) {
        PyErr_Clear();      /* an OverflowError that does not name the call */
        PyErr_Format(PyExc_OverflowError, "%s(): %s must be 0-%lu, not %R",
                     call, name, max, number);
        Py_DECREF(number);
        return false;
    }
    Py_DECREF(number);
    return true;
}

/* What follows the '%': a number, or the name of an interface. */
static bool
parse_scope(const char *scope, unsigned long *out)
{
    unsigned long value = 0;
    const char *c = scope;
    while (*c >= '0' && *c <= '9' && value <= UINT32_MAX) {
        value = value * 10 + (unsigned long)(*c - '0');
        c++;
    }
    if (c != scope && *c == '\0') {
        *out = value;
        return value <= UINT32_MAX;
    }
    *out = if_nametoindex(scope);
    return *out != 0;
}

/* The host part into out, with *scope set when the host has one. */
static bool
parse_host(const char *host, struct sockaddr_storage *out,
           unsigned long *scope)
{
    struct sockaddr_in *in = (struct sockaddr_in *)out;
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)out;
    const char *percent;
    char address[INET6_ADDRSTRLEN];
    size_t length;

    if (host[0] == '\0') {
        host = "0.0.0.0";
    }
    else if (strcmp(host, "<broadcast>") == 0) {
        host = "255.255.255.255";
    }
    if (uv_inet_pton(AF_INET, host, &in->sin_addr) == 0) {
        in->sin_family = AF_INET;
        return true;
    }
    percent = strchr(host, '%');
    length = percent == NULL ? strlen(host) : (size_t)(percent - host);
    if (length >= sizeof(address)) {
        return false;
    }
    memcpy(address, host, length);
    address[length] = '\0';
    if (uv_inet_pton(AF_INET6, address, &in6->sin6_addr) != 0) {
        return false;
    }
    in6->sin6_family = AF_INET6;
    return percent == NULL || parse_scope(percent + 1, scope);
}

/* Port, flow and scope of the tuple; the latter two are 0 when left out. */
static bool
parse_numbers(const char *call, PyObject *address, unsigned long *port,
              unsigned long *flowinfo, unsigned long *scope)
{
    Py_ssize_t size = PyTuple_GET_SIZE(address);
    *flowinfo = 0;
    *scope = 0;
    if (!parse_number(call, "port", PyTuple_GET_ITEM(address, 1), 65535, port)) {
        return false;
    }
    if (size > 2
        && !parse_number(call, "flowinfo", PyTuple_GET_ITEM(address, 2),
                         FLOWINFO_MAX, flowinfo)) {
        return false;
    }
    return size <= 3
        || parse_number(call, "scope_id", PyTuple_GET_ITEM(address, 3),
                        UINT32_MAX, scope);
}

bool
uvt_sockaddr_parse(const char *call, PyObject *address,
                   struct sockaddr_storage *out)
{
    unsigned long port, flowinfo, scope, host_scope = 0;
    PyObject *host_obj;
    const char *host;
    Py_ssize_t length;

    if (!PyTuple_Check(address) || PyTuple_GET_SIZE(address) < 2
        || PyTuple_GET_SIZE(address) > 4) {
        PyErr_Format(PyExc_TypeError,
                     "%s(): the address must be a tuple "
                     "(host, port[, flowinfo[, scope_id]]), not %.200R", call,
                     address);
        return false;
    }
    host_obj = PyTuple_GET_ITEM(address, 0);     /* borrowed */
    if (!PyUnicode_Check(host_obj)) {
        PyErr_Format(PyExc_TypeError, "%s(): the host must be a str, not %.200s",
                     call, Py_TYPE(host_obj)->tp_name);
        return false;
    }
    if (!parse_numbers(call, address, &port, &flowinfo, &scope)) {
        return false;
    }
    memset(out, 0, sizeof(*out));
    host = PyUnicode_AsUTF8AndSize(host_obj, &length);
    if (host == NULL && !PyErr_ExceptionMatches(PyExc_UnicodeEncodeError)) {
        return false;
    }
    PyErr_Clear();
    if (host == NULL || strlen(host) != (size_t)length
        || !parse_host(host, out, &host_scope)) {
        PyErr_Format(PyExc_ValueError,
                     "%s(): the host must be a numeric IPv4 or IPv6 address "
                     "with a known scope, not %.200R", call, host_obj);
        return false;
    }
    if (out->ss_family == AF_INET) {
        if (flowinfo != 0 || scope != 0) {
            PyErr_Format(PyExc_ValueError,
                         "%s(): only an IPv6 address has flowinfo or scope_id",
                         call);
            return false;
        }
        ((struct sockaddr_in *)out)->sin_port = htons((uint16_t)port);
        return true;
    }
    if (scope != 0 && host_scope != 0 && scope != host_scope) {
        PyErr_Format(PyExc_ValueError,
                     "%s(): scope_id %lu contradicts the host %.200R", call, scope,
                     host_obj);
        return false;
    }
    ((struct sockaddr_in6 *)out)->sin6_port = htons((uint16_t)port);
    ((struct sockaddr_in6 *)out)->sin6_flowinfo = htonl((uint32_t)flowinfo);
    ((struct sockaddr_in6 *)out)->sin6_scope_id =
        (uint32_t)(scope != 0 ? scope : host_scope);
    return true;
}

/* ---- to Python ---- */

static PyObject *
format_ipv4(const struct sockaddr_in *in)
{
    char host[INET_ADDRSTRLEN];
    if (uv_inet_ntop(AF_INET, &in->sin_addr, host, sizeof(host)) != 0) {
        Py_RETURN_NONE;
    }
    return Py_BuildValue("(si)", host, (int)ntohs(in->sin_port));
}

static PyObject *
format_ipv6(const struct sockaddr_in6 *in6)
{
    char host[INET6_ADDRSTRLEN];
    if (uv_inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof(host)) != 0) {
        Py_RETURN_NONE;
    }
    return Py_BuildValue("(siII)", host, (int)ntohs(in6->sin6_port),
                         (unsigned int)ntohl(in6->sin6_flowinfo),
                         (unsigned int)in6->sin6_scope_id);
}

/* The kernel may leave out the path's final NUL, and counts it otherwise. */
static PyObject *
format_unix(const struct sockaddr_un *un, int len)
{
    size_t size, length;
    if (len <= (int)offsetof(struct sockaddr_un, sun_path)) {
        return PyUnicode_FromString("");
    }
    size = (size_t)len - offsetof(struct sockaddr_un, sun_path);
    if (size > sizeof(un->sun_path)) {
        size = sizeof(un->sun_path);
    }
    length = strnlen(un->sun_path, size);
    if (length == 0 && size > 1) {
        return PyBytes_FromStringAndSize(un->sun_path, (Py_ssize_t)size);
    }
    return PyUnicode_DecodeFSDefaultAndSize(un->sun_path, (Py_ssize_t)length);
}

PyObject *
uvt_sockaddr_format(const struct sockaddr *addr, int len)
{
    if (addr == NULL) {
        Py_RETURN_NONE;
    }
    switch (addr->sa_family) {
        case AF_INET:
            return format_ipv4((const struct sockaddr_in *)addr);
        case AF_INET6:
            return format_ipv6((const struct sockaddr_in6 *)addr);
        case AF_UNIX:
            return format_unix((const struct sockaddr_un *)addr, len);
        default:
            Py_RETURN_NONE;
    }
}

int
uvt_sockaddr_size(const struct sockaddr *addr)
{
    switch (addr->sa_family) {
        case AF_INET:
            return (int)sizeof(struct sockaddr_in);
        case AF_INET6:
            return (int)sizeof(struct sockaddr_in6);
        case AF_UNIX:
            return (int)sizeof(struct sockaddr_un);
        default:
            return 0;
    }
}
