/* getaddrinfo() without a thread: numeric hosts, and what an answer of
 * getaddrinfo(3) looks like in Python.  All functions run attached and keep
 * nothing.
 *
 * Answers are those of socket.getaddrinfo(), to the letter.  So only what is
 * beyond doubt is answered here: one address, written as inet_pton() knows it,
 * for a stream or a datagram socket.  All else goes to the socket module.
 */
#include "lookup.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>

#define HARMLESS_FLAGS (AI_PASSIVE | AI_NUMERICHOST | AI_NUMERICSERV)

/* ---- arguments ---- */

/* A C int, by an int or an enum; false without an exception for all else. */
static bool
as_int(PyObject *arg, int *out)
{
    int overflow = 0;
    long value = PyLong_Check(arg) ? PyLong_AsLongAndOverflow(arg, &overflow) : -1;
    if (!PyLong_Check(arg) || overflow != 0 || value < INT_MIN
        || value > INT_MAX) {
        return false;
    }
    *out = (int)value;
    return true;
}

int
tulip_hints_parse(PyObject *const *args, Py_ssize_t nargs, TulipHints *out)
{
    if (nargs != 6) {
        PyErr_Format(PyExc_TypeError, "expected 6 arguments, got %zd", nargs);
        return -1;
    }
    memset(out, 0, sizeof(*out));
    out->host = args[0];
    out->port = args[1];
    return as_int(args[2], &out->hints.ai_family)
        && as_int(args[3], &out->hints.ai_socktype)
        && as_int(args[4], &out->hints.ai_protocol)
        && as_int(args[5], &out->hints.ai_flags);
}

/* Whether the codec "idna" leaves the name as it is. */
static bool
is_plain_name(const char *name, Py_ssize_t length)
{
    Py_ssize_t label = 0;
    for (Py_ssize_t i = 0; i < length; i++) {
        if (name[i] == '\0' || (unsigned char)name[i] >= 0x80) {
            return false;
        }
        label = name[i] == '.' ? 0 : label + 1;
        if (label >= 64 || (label == 0 && (i == 0 || name[i - 1] == '.'))) {
            return false;
        }
    }
    return true;
}

bool
tulip_host_text(PyObject *host, const char **text)
{
    Py_ssize_t length;
    if (host == Py_None) {
        *text = NULL;
        return true;
    }
    if (PyBytes_Check(host)) {
        *text = PyBytes_AS_STRING(host);
        return strlen(*text) == (size_t)PyBytes_GET_SIZE(host);
    }
    if (!PyUnicode_Check(host)) {
        return false;
    }
    *text = PyUnicode_AsUTF8AndSize(host, &length);
    if (*text == NULL) {
        PyErr_Clear();
        return false;
    }
    return is_plain_name(*text, length);
}

bool
tulip_port_text(PyObject *port, char room[8], const char **text)
{
    if (port == Py_None) {
        *text = NULL;
        return true;
    }
    if (PyLong_CheckExact(port)) {
        int value;
        if (!as_int(port, &value) || value < 0 || value > 65535) {
            return false;
        }
        (void)snprintf(room, 8, "%d", value);
        *text = room;
        return true;
    }
    if (PyBytes_Check(port)) {
        *text = PyBytes_AS_STRING(port);
        return strlen(*text) == (size_t)PyBytes_GET_SIZE(port);
    }
    if (PyUnicode_Check(port)) {
        Py_ssize_t length;
        *text = PyUnicode_AsUTF8AndSize(port, &length);
        if (*text != NULL) {
            return strlen(*text) == (size_t)length;
        }
        PyErr_Clear();
    }
    return false;
}

int
tulip_hints_audit(const TulipHints *hints)
{
    return PySys_Audit("socket.getaddrinfo", "OOiii", hints->host, hints->port,
                       hints->hints.ai_family, hints->hints.ai_socktype,
                       hints->hints.ai_protocol);
}

/* ---- answers ---- */

/* The member of an enum, or the number itself; as the socket module does. */
static PyObject *
as_enum(PyObject *type, int value)
{
    PyObject *number = PyLong_FromLong(value), *member;
    if (number == NULL) {
        return NULL;
    }
    member = PyObject_CallOneArg(type, number);
    if (member == NULL && PyErr_ExceptionMatches(PyExc_ValueError)) {
        PyErr_Clear();
        return number;
    }
    Py_DECREF(number);
    return member;
}

static PyObject *
as_family(const TulipState *st, int family)
{
    return family == AF_INET ? Py_NewRef(st->af_inet)
        : family == AF_INET6 ? Py_NewRef(st->af_inet6)
        : as_enum(st->address_family, family);
}

static PyObject *
as_kind(const TulipState *st, int kind)
{
    return kind == SOCK_STREAM ? Py_NewRef(st->sock_stream)
        : kind == SOCK_DGRAM ? Py_NewRef(st->sock_dgram)
        : as_enum(st->address_kind, kind);
}

/* (family, type, proto, canonname, address) */
static PyObject *
as_tuple(TulipLoop *loop, const struct addrinfo *info)
{
    const TulipState *st = loop->st;
    PyObject *items[5] = {
        as_family(st, info->ai_family),
        as_kind(st, info->ai_socktype),
        PyLong_FromLong(info->ai_protocol),
        info->ai_canonname == NULL ? Py_NewRef(st->empty_str)
            : PyUnicode_FromString(info->ai_canonname),
        st->uv->sockaddr_format(info->ai_addr, (int)info->ai_addrlen),
    };
    PyObject *tuple = NULL;
    if (items[0] != NULL && items[1] != NULL && items[2] != NULL
        && items[3] != NULL && items[4] != NULL) {
        tuple = PyTuple_Pack(5, items[0], items[1], items[2], items[3], items[4]);
    }
    for (int i = 0; i < 5; i++) {
        Py_XDECREF(items[i]);
    }
    return tuple;
}

PyObject *
tulip_addrinfo_list(TulipLoop *loop, const struct addrinfo *first)
{
    PyObject *list = PyList_New(0);
    for (; list != NULL && first != NULL; first = first->ai_next) {
        PyObject *item = as_tuple(loop, first);
        if (item == NULL || PyList_Append(list, item) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(item);
    }
    return list;
}

PyObject *
tulip_addrinfo_error(TulipLoop *loop, int rc, int error)
{
    if (rc == EAI_SYSTEM) {
        return PyObject_CallFunction(PyExc_OSError, "is", error, strerror(error));
    }
    return PyObject_CallFunction(loop->st->gaierror, "is", rc, gai_strerror(rc));
}

/* ---- numeric hosts ---- */

/* The port in network byte order; false without an exception unless it is a
 * number as getaddrinfo(3) takes it. */
static bool
parse_port(PyObject *port, in_port_t *out)
{
    char room[8];
    const char *text;
    unsigned long value = 0;
    if (!tulip_port_text(port, room, &text)) {
        return false;
    }
    for (size_t i = 0; text != NULL && (i == 0 || text[i] != '\0'); i++) {
        if (text[i] < '0' || text[i] > '9' || i == 5) {
            return false;
        }
        value = value * 10 + (unsigned long)(text[i] - '0');
    }
    *out = htons((uint16_t)value);
    return value <= 65535;
}

/* The protocol; 0: not one of the usual two, or another one was asked for. */
static int
usual_protocol(int kind, int asked)
{
    int proto = kind == SOCK_STREAM ? IPPROTO_TCP
        : kind == SOCK_DGRAM ? IPPROTO_UDP : 0;
    return asked == 0 || asked == proto ? proto : 0;
}

/* Fills address and length; false: it is none, or not of this family. */
static bool
parse_literal(const char *host, int family, in_port_t port,
              struct sockaddr_storage *address, struct addrinfo *info)
{
    struct sockaddr_in *in = (struct sockaddr_in *)address;
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)address;
    memset(address, 0, sizeof(*address));
    if (family != AF_INET6 && inet_pton(AF_INET, host, &in->sin_addr) == 1) {
        in->sin_family = AF_INET;
        in->sin_port = port;
        info->ai_addrlen = sizeof(*in);
    }
    else if (family != AF_INET
             && inet_pton(AF_INET6, host, &in6->sin6_addr) == 1) {
        in6->sin6_family = AF_INET6;
        in6->sin6_port = port;
        info->ai_addrlen = sizeof(*in6);
    }
    else {
        return false;
    }
    info->ai_family = address->ss_family;
    info->ai_addr = (struct sockaddr *)address;
    return true;
}

PyObject *
tulip_loop_py_literal_addrinfo(TulipLoop *self, PyObject *const *args,
                               Py_ssize_t nargs)
{
    UVT_LOCKED(self->lock);
    TulipHints asked;
    struct addrinfo info = {0};
    struct sockaddr_storage address;
    const char *host;
    in_port_t port;
    int usual;
    if (!tulip_loop_check_open(self)) {
        return NULL;
    }
    usual = tulip_hints_parse(args, nargs, &asked);
    if (usual < 0) {
        return NULL;
    }
    info.ai_socktype = asked.hints.ai_socktype;
    info.ai_protocol = usual_protocol(info.ai_socktype, asked.hints.ai_protocol);
    if (!usual || info.ai_protocol == 0
        || (asked.hints.ai_flags & ~HARMLESS_FLAGS) != 0
        || (asked.hints.ai_family != AF_UNSPEC
            && asked.hints.ai_family != AF_INET
            && asked.hints.ai_family != AF_INET6)
        || !tulip_host_text(asked.host, &host) || host == NULL
        || !parse_port(asked.port, &port)
        || !parse_literal(host, asked.hints.ai_family, port, &address, &info)) {
        Py_RETURN_NONE;
    }
    if (tulip_hints_audit(&asked) < 0) {
        return NULL;
    }
    return tulip_addrinfo_list(self, &info);
}
