/* The module uvtulip._transports: its state, and the set-up of what the other
 * files define.  Initialised in two phases, so that each interpreter has its
 * own.  The state owns all that it names, except the module itself.
 */
#include "eventloop.h"
#include "audit.h"

TulipState *
tulip_state_of_type(PyTypeObject *type)
{
    PyObject *module = PyType_GetModuleByDef(type, &tulip_module);
    return module != NULL ? PyModule_GetState(module) : NULL;
}

int
tulip_add_methods(PyTypeObject *type, PyMethodDef *methods)
{
    for (; methods->ml_name != NULL; methods++) {
        PyObject *method = PyDescr_NewMethod(type, methods);
        int rc;
        if (method == NULL) {
            return -1;
        }
        rc = PyObject_SetAttrString((PyObject *)type, methods->ml_name, method);
        Py_DECREF(method);
        if (rc < 0) {
            return -1;
        }
    }
    return 0;
}

int
tulip_add_type(PyObject *module, PyTypeObject **slot, PyType_Spec *spec,
               PyObject *bases)
{
    *slot = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, bases);
    if (*slot == NULL) {
        return -1;
    }
    return PyModule_AddType(module, *slot);
}

/* A new reference to module.name, in *slot. */
static int
import_name(PyObject **slot, const char *module_name, const char *name)
{
    PyObject *module = PyImport_ImportModule(module_name);
    if (module == NULL) {
        return -1;
    }
    *slot = PyObject_GetAttrString(module, name);
    Py_DECREF(module);
    return *slot != NULL ? 0 : -1;
}

/* The descriptor of an attribute of _socket.socket. */
static int
import_base_number(PyObject **slot, const char *name)
{
    PyObject *base;
    int rc = -1;
    if (import_name(&base, "_socket", "socket") < 0) {
        return -1;
    }
    *slot = PyObject_GetAttrString(base, name);
    Py_DECREF(base);
    if (*slot != NULL && Py_TYPE(*slot)->tp_descr_get != NULL) {
        rc = 0;
    }
    else if (*slot != NULL) {
        PyErr_SetString(PyExc_ImportError,
                        "_socket.socket is not laid out as expected");
    }
    return rc;
}

/* A slot of socket.socket; NULL without an exception: it has none of that name. */
static PyObject *
find_slot(const TulipState *st, const char *name)
{
    PyObject *slot = PyObject_GetAttrString(st->socket_type, name);
    if (slot == NULL || !Py_IS_TYPE(slot, &PyMemberDescr_Type)) {
        PyErr_Clear();
        Py_CLEAR(slot);
    }
    return slot;
}

static int
import_names(TulipState *st)
{
    const char *const helpers = "asyncio.format_helpers";
    return import_name(&st->future_type, "asyncio", "Future") < 0
        || import_name(&st->invalid_state, "asyncio", "InvalidStateError") < 0
        || import_name(&st->tasks_names, "asyncio.tasks", "__dict__") < 0
        || import_name(&st->buffered_protocol_type, "asyncio",
                       "BufferedProtocol") < 0
        || import_name(&st->socket_type, "socket", "socket") < 0
        || import_base_number(&st->socket_family, "family") < 0
        || import_base_number(&st->socket_kind, "type") < 0
        || import_base_number(&st->socket_proto, "proto") < 0
        || import_name(&st->address_family, "socket", "AddressFamily") < 0
        || import_name(&st->address_kind, "socket", "SocketKind") < 0
        || import_name(&st->af_inet, "socket", "AF_INET") < 0
        || import_name(&st->af_inet6, "socket", "AF_INET6") < 0
        || import_name(&st->sock_stream, "socket", "SOCK_STREAM") < 0
        || import_name(&st->sock_dgram, "socket", "SOCK_DGRAM") < 0
        || import_name(&st->gaierror, "socket", "gaierror") < 0
        || import_name(&st->extract_stack, helpers, "extract_stack") < 0
        || import_name(&st->format_source, helpers,
                       "_format_callback_source") < 0
        || import_name(&st->logger, "asyncio.log", "logger") < 0 ? -1 : 0;
}

#define FOR_EACH_STRING(DO) \
    DO(accept) DO(call_exception_handler) DO(connection_made) \
    DO(connection_lost) DO(context) DO(data_received) DO(datagram_received) \
    DO(eof_received) DO(error_received) DO(fileno) DO(get_buffer) \
    DO(_drain_helper) DO(buffer_updated) DO(loop) DO(name) DO(pause_writing) \
    DO(resume_writing) DO(recv) DO(recv_into) DO(recvfrom) DO(recvfrom_into) DO(send) \
    DO(sendto) DO(set_exception) DO(set_result) DO(Task) DO(time)

static int
intern_strings(TulipState *st)
{
    bool ok = true;
#define INTERN(name) \
    st->str_##name = PyUnicode_InternFromString(#name); \
    ok = ok && st->str_##name != NULL;
    FOR_EACH_STRING(INTERN)
#undef INTERN
    return ok ? 0 : -1;
}

static int
module_exec(PyObject *module)
{
    TulipState *st = PyModule_GetState(module);
    st->module = module;
    st->uv_module = PyImport_ImportModule("uvtulip._uv");
    if (st->uv_module == NULL) {
        return -1;
    }
    st->uv = uvt_capi_import();
    if (st->uv == NULL || intern_strings(st) < 0 || import_names(st) < 0) {
        return -1;
    }
    st->socket_io_refs = find_slot(st, "_io_refs");
    st->socket_closed = find_slot(st, "_closed");
    st->zero = PyLong_FromLong(0);
    st->one = PyLong_FromLong(1);
    st->empty_tuple = PyTuple_New(0);
    st->empty_str = PyUnicode_FromString("");
    st->kwnames_loop = PyTuple_Pack(1, st->str_loop);
    if (st->zero == NULL || st->one == NULL || st->empty_tuple == NULL || st->empty_str == NULL
        || st->kwnames_loop == NULL) {
        return -1;
    }
    if (tulip_loop_setup(module, st) < 0
        || tulip_callback_setup(module, st) < 0
        || tulip_watcher_setup(module, st) < 0
        || tulip_stream_setup(module, st) < 0
        || tulip_pipe_setup(module, st) < 0
        || tulip_server_setup(module, st) < 0
        || tulip_tls_setup(module, st) < 0
        || tulip_sendfile_setup(st) < 0
        || tulip_datagram_setup(module, st) < 0) {
        return -1;
    }
    return 0;
}

#define FOR_EACH_OBJECT(DO) \
    DO(loop_type) DO(callback_type) DO(timer_type) DO(watcher_type) \
    DO(stream_type) DO(read_pipe_type) DO(write_pipe_type) DO(server_type) \
    DO(tls_type) DO(tls_link_type) DO(tls_factory_type) DO(datagram_type) \
    DO(future_type) DO(invalid_state) DO(tasks_names) \
    DO(buffered_protocol_type) DO(socket_type) \
    DO(socket_family) DO(socket_kind) DO(socket_proto) DO(address_family) \
    DO(socket_io_refs) DO(socket_closed) DO(zero) DO(one) \
    DO(address_kind) DO(af_inet) DO(af_inet6) DO(sock_stream) DO(sock_dgram) \
    DO(gaierror) DO(extract_stack) DO(format_source) DO(logger) \
    DO(empty_tuple) DO(empty_str) DO(kwnames_loop)

static int
module_traverse(PyObject *module, visitproc visit, void *arg)
{
    TulipState *st = PyModule_GetState(module);
#define VISIT(name) Py_VISIT(st->name);
    FOR_EACH_OBJECT(VISIT)
#undef VISIT
    Py_VISIT(st->uv_module);
    return uvt_tls_state_traverse(&st->tls, visit, arg);
}

static int
module_clear(PyObject *module)
{
    TulipState *st = PyModule_GetState(module);
#define CLEAR(name) Py_CLEAR(st->name);
    FOR_EACH_OBJECT(CLEAR)
#undef CLEAR
#define CLEAR(name) Py_CLEAR(st->str_##name);
    FOR_EACH_STRING(CLEAR)
#undef CLEAR
    uvt_tls_state_clear(&st->tls);
    return 0;
}

/* The module of handles has the table that our objects call by, so it stays until the
 * last of them is gone: their types keep this module. */
static void
module_free(void *module)
{
    TulipState *st = PyModule_GetState(module);
    (void)module_clear((PyObject *)module);
    Py_CLEAR(st->uv_module);
}

static int
own_method(PyObject *cls, PyObject *name, PyObject *inherited)
{
    PyObject *found, *method;
    int rc = 0;
    if (!PyObject_TypeCheck(inherited, &PyMethodDescr_Type)) {
        return 0;
    }
    found = PyObject_GetAttr(cls, name);
    if (found == NULL) {
        return -1;
    }
    Py_DECREF(found);
    if (found == inherited) {
        method = PyDescr_NewMethod((PyTypeObject *)cls,
                                   ((PyMethodDescrObject *)inherited)->d_method);
        rc = method != NULL ? PyObject_SetAttr(cls, name, method) : -1;
        Py_XDECREF(method);
    }
    return rc;
}

PyObject *
tulip_own_methods(PyObject *cls, PyObject *Py_UNUSED(ignored))
{
    TulipState *st = tulip_state_of_type((PyTypeObject *)cls);
    PyObject *inherited, *name, *value;
    Py_ssize_t position = 0;
    int rc = 0;
    if (st == NULL || cls == (PyObject *)st->loop_type) {
        Py_RETURN_NONE;
    }
    inherited = PyObject_CallFunction((PyObject *)&PyDict_Type, "N",
                                      PyObject_GetAttrString(
                                          (PyObject *)st->loop_type, "__dict__"));
    if (inherited == NULL) {
        return NULL;
    }
    while (rc == 0 && PyDict_Next(inherited, &position, &name, &value)) {
        rc = own_method(cls, name, value);
    }
    Py_DECREF(inherited);
    if (rc < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyMethodDef module_methods[] = {
    {"_tls_backend", tulip_tls_backend, METH_O,
     "_tls_backend($module, portable, /)\n--\n\n"
     "The backend of new TLS connections; None: do not change it."},
    {"_audited", tulip_py_audited, METH_NOARGS,
     "_audited($module, /)\n--\n\n"
     "Whether there is an audit hook."},
    {NULL},
};

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
    UVT_MODULE_SLOTS
    {0, NULL},
};

PyDoc_STRVAR(module_doc,
"The C half of uvtulip's event loop, transports and servers.");

struct PyModuleDef tulip_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "uvtulip._transports",
    .m_doc = module_doc,
    .m_size = sizeof(TulipState),
    .m_methods = module_methods,
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC
PyInit__transports(void);

PyMODINIT_FUNC
PyInit__transports(void)
{
    return PyModuleDef_Init(&tulip_module);
}
