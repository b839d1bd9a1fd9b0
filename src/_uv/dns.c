/* uv.dns: names of hosts and services, at once or with a callback.  Everything
 * runs attached, on the loop's thread or while nobody runs the loop; what looks
 * a name up runs detached, or in a thread of the pool.  A job owns the list that
 * libuv gives it.
 */
#include "args.h"
#include "errors.h"
#include "sockaddr.h"
#include "task.h"

#include <limits.h>
#include <netdb.h>
#include <string.h>

typedef struct {
    UvtJob base;
    uv_getaddrinfo_t req;
} AddressJob;

typedef struct {
    UvtJob base;
    uv_getnameinfo_t req;
} NameJob;

/* ---- results ---- */

static PyStructSequence_Field address_fields[] = {
    {"family", "AF_INET, AF_INET6 (int)"},
    {"socktype", "SOCK_STREAM, SOCK_DGRAM, ... (int)"},
    {"proto", "IPPROTO_TCP, ... (int)"},
    {"canonname", "the host's own name, with AI_CANONNAME (str)"},
    {"sockaddr", "(host, port), or (host, port, flowinfo, scope_id) for IPv6"},
    {NULL},
};

static PyStructSequence_Desc address_desc = {
    "uvtulip._uv.dns.addrinfo", "One address that getaddrinfo() has found.",
    address_fields, 5,
};

static PyStructSequence_Field name_fields[] = {
    {"host", "the host's name, or its number (str)"},
    {"service", "the service's name, or the port (str)"},
    {NULL},
};

static PyStructSequence_Desc name_desc = {
    "uvtulip._uv.dns.nameinfo", "What getnameinfo() has found.", name_fields, 2,
};

UVT_NEW static PyObject *
make_address(UvtState *st, const struct addrinfo *info)
{
    PyObject *item = PyStructSequence_New(st->seq[UVT_SEQ_ADDRINFO]);
    if (item == NULL) {
        return NULL;
    }
    PyStructSequence_SetItem(item, 0, PyLong_FromLong(info->ai_family));
    PyStructSequence_SetItem(item, 1, PyLong_FromLong(info->ai_socktype));
    PyStructSequence_SetItem(item, 2, PyLong_FromLong(info->ai_protocol));
    PyStructSequence_SetItem(item, 3, PyUnicode_DecodeFSDefault(
        info->ai_canonname != NULL ? info->ai_canonname : ""));
    PyStructSequence_SetItem(item, 4, uvt_sockaddr_format(
        info->ai_addr, (int)info->ai_addrlen));
    return uvt_seq_done(item, 5);
}

UVT_NEW static PyObject *
make_addresses(UvtState *st, const struct addrinfo *info)
{
    PyObject *list = PyList_New(0);
    for (; list != NULL && info != NULL; info = info->ai_next) {
        PyObject *item = make_address(st, info);
        if (item == NULL || PyList_Append(list, item) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(item);
    }
    return list;
}

UVT_NEW static PyObject *
make_name(UvtState *st, const uv_getnameinfo_t *req)
{
    PyObject *item = PyStructSequence_New(st->seq[UVT_SEQ_NAMEINFO]);
    if (item == NULL) {
        return NULL;
    }
    PyStructSequence_SetItem(item, 0, PyUnicode_DecodeFSDefault(req->host));
    PyStructSequence_SetItem(item, 1, PyUnicode_DecodeFSDefault(req->service));
    return uvt_seq_done(item, 2);
}

/* Calls callback(result, errorno); takes the result over. */
static void
tell(UvtTask *self, PyObject *result, int status)
{
    PyObject *args[3] = {NULL, result, uvt_errorno(status)};
    uvt_task_call(self, args + 1, 2);
    Py_XDECREF(args[1]);
    Py_XDECREF(args[2]);
    Py_DECREF(self);
}

/* ---- getaddrinfo ---- */

static void
address_destroy(UvtJob *base)
{
    uv_freeaddrinfo(((AddressJob *)base)->req.addrinfo);
    PyMem_RawFree(base);
}

static void
on_addresses(uv_getaddrinfo_t *req, int status, struct addrinfo *info)
{
    AddressJob *job = req->data;
    UvtTask *self = uvt_task_enter(&job->base);
    PyObject *result;
    if (self == NULL) {
        return;
    }
    result = status < 0 ? Py_NewRef(Py_None) : make_addresses(self->st, info);
    address_destroy(&job->base);
    tell(self, result, status);
}

/* The bytes of a name for the system, new; *out is NULL for None.  Names of
 * other letters than ASCII are encoded by IDNA. */
static bool
take_name(const char *what, PyObject *arg, bool idna, PyObject **out)
{
    *out = NULL;
    if (arg == NULL || arg == Py_None) {
        return true;
    }
    if (PyUnicode_Check(arg)) {
        *out = idna && !PyUnicode_IS_ASCII(arg)
            ? PyUnicode_AsEncodedString(arg, "idna", "strict")
            : PyUnicode_AsUTF8String(arg);
    }
    else if (PyBytes_Check(arg)) {
        *out = Py_NewRef(arg);
    }
    else {
        PyErr_Format(PyExc_TypeError,
                     "getaddrinfo(): %s, not %.200s", what, Py_TYPE(arg)->tp_name);
    }
    if (*out != NULL
        && strlen(PyBytes_AS_STRING(*out)) != (size_t)PyBytes_GET_SIZE(*out)) {
        PyErr_SetString(PyExc_ValueError,
                        "getaddrinfo(): a name has a NUL in it");
        Py_CLEAR(*out);
    }
    return *out != NULL;
}

static bool
take_port(PyObject *arg, PyObject **out)
{
    int port;
    if (arg == NULL || !PyLong_Check(arg)) {
        return take_name("'port' must be int, str, bytes or None", arg, false,
                         out);
    }
    if (!uvt_arg_int("getaddrinfo", "port", arg, 0, 65535, &port)) {
        if (PyErr_ExceptionMatches(PyExc_ValueError)) {
            PyErr_Clear();
            PyErr_SetString(PyExc_OverflowError,
                            "getaddrinfo(): 'port' must be between 0 and 65535");
        }
        return false;
    }
    *out = PyBytes_FromFormat("%d", port);
    return *out != NULL;
}

typedef struct {
    PyObject *host, *port;      /* bytes or NULL; owned */
    struct addrinfo hints;
} Question;

static int
start_addresses(UvtLoop *loop, uv_getaddrinfo_t *req, uv_getaddrinfo_cb done,
                const Question *question)
{
    return uv_getaddrinfo(
        &loop->core->uv, req, done,
        question->host != NULL ? PyBytes_AS_STRING(question->host) : NULL,
        question->port != NULL ? PyBytes_AS_STRING(question->port) : NULL,
        &question->hints);
}

static PyObject *
ask_now(UvtLoop *loop, const Question *question)
{
    UvtState *st = loop->st;
    uv_getaddrinfo_t req;
    UvtBlocking blocking;
    PyObject *result = NULL;
    int rc;
    memset(&req, 0, sizeof(req));
    blocking = uvt_blocking_begin(loop);
    rc = start_addresses(loop, &req, NULL, question);
    uvt_blocking_end(loop, blocking);
    if (rc < 0) {
        uvt_raise(st, UVT_EXC_UV, rc, "uv_getaddrinfo");
    }
    else {
        result = make_addresses(st, req.addrinfo);
    }
    uv_freeaddrinfo(req.addrinfo);
    return result;
}

static PyObject *
ask_later(UvtLoop *loop, const Question *question, PyObject *callback)
{
    UvtTask *self = uvt_task_new(loop->st->gai_request_type, loop, callback);
    AddressJob *job;
    int rc;
    if (self == NULL) {
        return NULL;
    }
    job = (AddressJob *)uvt_job_new(sizeof(AddressJob),
                                    offsetof(AddressJob, req), address_destroy);
    if (job == NULL) {
        Py_DECREF(self);
        return NULL;
    }
    rc = uvt_task_begin(self, &job->base);
    if (rc == 0) {
        rc = start_addresses(loop, &job->req, on_addresses, question);
    }
    if (rc < 0) {
        uvt_task_refused(self);
        Py_DECREF(self);
        return uvt_raise(loop->st, UVT_EXC_UV, rc, "uv_getaddrinfo");
    }
    return (PyObject *)self;
}

/* The numbers among the arguments. */
static bool
take_hints(PyObject **given, struct addrinfo *hints)
{
    static const char *const names[] = {"family", "socktype", "protocol",
                                        "flags"};
    int *const values[] = {&hints->ai_family, &hints->ai_socktype,
                           &hints->ai_protocol, &hints->ai_flags};
    for (int i = 0; i < 4; i++) {
        if (given[i] != NULL
            && !uvt_arg_int("getaddrinfo", names[i], given[i], 0, INT_MAX,
                            values[i])) {
            return false;
        }
    }
    return true;
}

PyDoc_STRVAR(getaddrinfo_doc,
"getaddrinfo(loop, host, port=None, family=0, socktype=0, protocol=0, flags=0,\n"
"            callback=None)\n--\n\n"
"Look up the addresses of a host (str, encoded by IDNA if it is not ASCII, bytes,\n"
"or None) and a port (int, str, bytes or None).  The numbers are those of\n"
"socket.getaddrinfo(); 0 means any.\n\n"
"Without a callback it returns the list of addrinfo; other threads run meanwhile.\n"
"With one it returns a GAIRequest at once, and callback(list, errorno) is called\n"
"by the loop: with errorno None, or with list None and errorno < 0\n"
"(UV_EAI_NONAME: no such name; UV_EAI_CANCELED: cancel() was called).\n\n"
"Raises TypeError, ValueError, OverflowError (port), RuntimeError (the loop),\n"
"UVError.");

static PyObject *
dns_getaddrinfo(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
                PyObject *kwnames)
{
    static const char *const names[] = {
        "loop", "host", "port", "family", "socktype", "protocol", "flags",
        "callback",
    };
    UvtState *st = uvt_state(module);
    Question question = {NULL};
    PyObject *given[8], *callback, *result = NULL;
    if (!uvt_args_bind("getaddrinfo", args, nargs, kwnames, names, 8, 2, given)
        || !uvt_arg_callback("getaddrinfo", given[7], &callback)
        || !take_hints(given + 3, &question.hints)
        || PySys_Audit("socket.getaddrinfo", "OOiii", given[1],
                       given[2] != NULL ? given[2] : Py_None,
                       question.hints.ai_family, question.hints.ai_socktype,
                       question.hints.ai_protocol) < 0) {
        return NULL;
    }
    UVT_LOCKED(uvt_lock_of(st, given[0]));
    if (!uvt_loop_check_arg(st, given[0])) {
        return NULL;
    }
    /* Encoding may run code that closes the loop. */
    if (take_name("'host' must be str, bytes or None", given[1], true,
                  &question.host)
        && take_port(given[2], &question.port)
        && uvt_loop_check_arg(st, given[0])) {
        UvtLoop *loop = (UvtLoop *)given[0];
        result = callback != NULL ? ask_later(loop, &question, callback)
                                  : ask_now(loop, &question);
    }
    Py_XDECREF(question.host);
    Py_XDECREF(question.port);
    return result;
}

/* ---- getnameinfo ---- */

static void
name_destroy(UvtJob *base)
{
    PyMem_RawFree(base);
}

static void
on_name(uv_getnameinfo_t *req, int status, const char *Py_UNUSED(host),
        const char *Py_UNUSED(service))
{
    NameJob *job = req->data;
    UvtTask *self = uvt_task_enter(&job->base);
    PyObject *result;
    if (self == NULL) {
        return;
    }
    result = status < 0 ? Py_NewRef(Py_None) : make_name(self->st, req);
    name_destroy(&job->base);
    tell(self, result, status);
}

static PyObject *
name_now(UvtLoop *loop, const struct sockaddr *addr, int flags)
{
    UvtState *st = loop->st;
    uv_getnameinfo_t req;
    UvtBlocking blocking;
    int rc;
    memset(&req, 0, sizeof(req));
    blocking = uvt_blocking_begin(loop);
    rc = uv_getnameinfo(&loop->core->uv, &req, NULL, addr, flags);
    uvt_blocking_end(loop, blocking);
    if (rc < 0) {
        return uvt_raise(st, UVT_EXC_UV, rc, "uv_getnameinfo");
    }
    return make_name(st, &req);
}

static PyObject *
name_later(UvtLoop *loop, const struct sockaddr *addr, int flags,
           PyObject *callback)
{
    UvtTask *self = uvt_task_new(loop->st->gni_request_type, loop, callback);
    NameJob *job;
    int rc;
    if (self == NULL) {
        return NULL;
    }
    job = (NameJob *)uvt_job_new(sizeof(NameJob), offsetof(NameJob, req),
                                 name_destroy);
    if (job == NULL) {
        Py_DECREF(self);
        return NULL;
    }
    rc = uvt_task_begin(self, &job->base);
    if (rc == 0) {
        rc = uv_getnameinfo(&loop->core->uv, &job->req, on_name, addr, flags);
    }
    if (rc < 0) {
        uvt_task_refused(self);
        Py_DECREF(self);
        return uvt_raise(loop->st, UVT_EXC_UV, rc, "uv_getnameinfo");
    }
    return (PyObject *)self;
}

PyDoc_STRVAR(getnameinfo_doc,
"getnameinfo(loop, address, flags=0, callback=None)\n--\n\n"
"Look up the names of a numeric address (host, port[, flowinfo[, scope_id]]);\n"
"flags are those of socket.getnameinfo().\n\n"
"Without a callback it returns a nameinfo; other threads run meanwhile.  With one\n"
"it returns a GNIRequest at once, and callback(nameinfo, errorno) is called by the\n"
"loop: with errorno None, or with nameinfo None and errorno < 0.\n\n"
"Raises TypeError, ValueError, OverflowError (address), RuntimeError (the loop),\n"
"UVError.");

static PyObject *
dns_getnameinfo(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
                PyObject *kwnames)
{
    static const char *const names[] = {"loop", "address", "flags", "callback"};
    struct sockaddr_storage storage;
    const struct sockaddr *addr = (const struct sockaddr *)&storage;
    PyObject *given[4], *callback;
    int flags = 0;
    if (!uvt_args_bind("getnameinfo", args, nargs, kwnames, names, 4, 2, given)
        || !uvt_arg_callback("getnameinfo", given[3], &callback)
        || (given[2] != NULL
            && !uvt_arg_int("getnameinfo", "flags", given[2], 0, INT_MAX, &flags))
        || !uvt_sockaddr_parse("getnameinfo", given[1], &storage)
        || PySys_Audit("socket.getnameinfo", "(O)", given[1]) < 0) {
        return NULL;
    }
    UVT_LOCKED(uvt_lock_of(uvt_state(module), given[0]));
    if (!uvt_loop_check_arg(uvt_state(module), given[0])) {
        return NULL;
    }
    return callback != NULL
        ? name_later((UvtLoop *)given[0], addr, flags, callback)
        : name_now((UvtLoop *)given[0], addr, flags);
}

/* ---- the submodule ---- */

static PyMethodDef functions[] = {
    {"getaddrinfo", (PyCFunction)(void (*)(void))dns_getaddrinfo,
     METH_FASTCALL | METH_KEYWORDS, getaddrinfo_doc},
    {"getnameinfo", (PyCFunction)(void (*)(void))dns_getnameinfo,
     METH_FASTCALL | METH_KEYWORDS, getnameinfo_doc},
    {NULL},
};

static PyType_Slot gai_slots[] = {
    {Py_tp_doc, "A getaddrinfo() that is under way."},
    {Py_tp_traverse, uvt_task_traverse},
    {Py_tp_clear, uvt_task_clear},
    {Py_tp_dealloc, uvt_task_dealloc},
    {0, NULL},
};

static PyType_Spec gai_spec = {
    .name = "uvtulip._uv.dns.GAIRequest",
    .basicsize = sizeof(UvtTask),
    .flags = UVT_TASK_FLAGS,
    .slots = gai_slots,
};

static PyType_Slot gni_slots[] = {
    {Py_tp_doc, "A getnameinfo() that is under way."},
    {Py_tp_traverse, uvt_task_traverse},
    {Py_tp_clear, uvt_task_clear},
    {Py_tp_dealloc, uvt_task_dealloc},
    {0, NULL},
};

static PyType_Spec gni_spec = {
    .name = "uvtulip._uv.dns.GNIRequest",
    .basicsize = sizeof(UvtTask),
    .flags = UVT_TASK_FLAGS,
    .slots = gni_slots,
};

static int
add_request_type(PyObject *module, PyObject *submodule, PyTypeObject **slot,
                 PyType_Spec *spec, UvtState *st)
{
    *slot = (PyTypeObject *)PyType_FromModuleAndSpec(
        module, spec, (PyObject *)st->request_type);
    return *slot != NULL ? PyModule_AddType(submodule, *slot) : -1;
}

int
uvt_dns_setup(PyObject *module, UvtState *st)
{
    PyObject *submodule = uvt_add_submodule(
        module, "dns", "Names of hosts and services, at once or with a callback.");
    int rc = -1;
    if (submodule == NULL) {
        return -1;
    }
    if (uvt_add_functions(submodule, module, functions) == 0
        && uvt_add_seq(submodule, st, UVT_SEQ_ADDRINFO, &address_desc) == 0
        && uvt_add_seq(submodule, st, UVT_SEQ_NAMEINFO, &name_desc) == 0
        && add_request_type(module, submodule, &st->gai_request_type, &gai_spec,
                            st) == 0
        && add_request_type(module, submodule, &st->gni_request_type, &gni_spec,
                            st) == 0) {
        rc = 0;
    }
    Py_DECREF(submodule);
    return rc;
}
