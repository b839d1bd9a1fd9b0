/* The module uvtulip._uv: its state, and the set-up of what the other files
 * define.  Initialised in two phases, so that each interpreter has its own.
 */
#include "uvmodule.h"
#include "fork.h"
#include "guards.h"
#include "pool.h"
#include "process.h"
#include "tcp_options.h"

UvtState *
uvt_state_of_type(PyTypeObject *type)
{
    PyObject *module = PyType_GetModuleByDef(type, &uvt_module);
    return module != NULL ? uvt_state(module) : NULL;
}

int
uvt_add_type(PyObject *module, PyTypeObject **slot, PyType_Spec *spec,
             PyTypeObject *base)
{
    *slot = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec,
                                                     (PyObject *)base);
    if (*slot == NULL) {
        return -1;
    }
    return PyModule_AddType(module, *slot);
}

int
uvt_add_seq(PyObject *submodule, UvtState *st, UvtSeq which,
            PyStructSequence_Desc *desc)
{
    st->seq[which] = PyStructSequence_NewType(desc);
    if (st->seq[which] == NULL) {
        return -1;
    }
    return PyModule_AddType(submodule, st->seq[which]);
}

PyObject *
uvt_seq_done(PyObject *seq, Py_ssize_t count)
{
    for (Py_ssize_t i = 0; i < count; i++) {
        if (PyStructSequence_GetItem(seq, i) == NULL) {
            Py_DECREF(seq);
            return NULL;
        }
    }
    return seq;
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

static int
module_exec(PyObject *module)
{
    UvtState *st = uvt_state(module);
    st->module = module;
    UVT_MUTEX_INIT(st->mutex);
    uvt_low_setup(st);
    st->str_excepthook = PyUnicode_InternFromString("excepthook");
    st->str_ident = PyUnicode_InternFromString("ident");
    if (st->str_excepthook == NULL || st->str_ident == NULL
        || import_name(&st->set_wakeup_fd, "signal", "set_wakeup_fd") < 0
        || import_name(&st->main_thread, "threading", "main_thread") < 0) {
        return -1;
    }
    if (uvt_reserve_setup() < 0 || uvt_graves_setup(st) < 0
        || uvt_errors_setup(module, st) < 0
        || uvt_constants_setup(module) < 0
        || uvt_loop_setup(module, st) < 0
        || uvt_handle_setup(module, st) < 0
        || uvt_stream_setup(module, st) < 0
        || uvt_stream_into_setup(module, st) < 0
        || uvt_tcp_setup(module, st) < 0
        || uvt_pipe_setup(module, st) < 0
        || uvt_tty_setup(module, st) < 0
        || uvt_udp_setup(module, st) < 0
        || uvt_poll_setup(module, st) < 0
        || uvt_timer_setup(module, st) < 0
        || uvt_signal_setup(module, st) < 0
        || uvt_async_setup(module, st) < 0
        || uvt_watcher_setup(module, st) < 0
        || uvt_process_setup(module, st) < 0
        || uvt_task_setup(module, st) < 0
        || uvt_work_setup(module, st) < 0
        || uvt_pool_setup(module) < 0
        || uvt_dns_setup(module, st) < 0
        || uvt_loop_metrics_setup(module, st) < 0
        || uvt_fs_setup(module, st) < 0
        || uvt_fsevent_setup(module, st) < 0
        || uvt_fspoll_setup(module, st) < 0
        || uvt_util_setup(module, st) < 0
        || uvt_thread_setup(module, st) < 0
        || uvt_tls_setup(module, st) < 0
        || PyModule_AddFunctions(module, uvt_tcp_options_functions) < 0
        || PyModule_AddFunctions(module, uvt_process_functions) < 0
        || uvt_fork_setup(module) < 0
        || uvt_capi_setup(module, st) < 0) {
        return -1;
    }
    return 0;
}

#define FOR_EACH_REFERENCE(DO) \
    DO(loop_type) DO(handle_type) DO(stream_type) DO(read_into_type) \
    DO(tcp_type) DO(pipe_type) DO(tty_type) DO(udp_type) DO(poll_type) \
    DO(timer_type) DO(signal_type) DO(async_type) DO(idle_type) \
    DO(prepare_type) DO(check_type) DO(process_type) DO(stdio_type) \
    DO(request_type) DO(work_request_type) DO(default_loop) \
    DO(gai_request_type) DO(gni_request_type) DO(fs_request_type) DO(dir_type) \
    DO(random_request_type) DO(mutex_type) DO(tls_type) DO(fsevent_type) DO(fspoll_type) \
    DO(set_wakeup_fd) DO(main_thread) DO(str_excepthook) DO(str_ident)

static int
module_traverse(PyObject *module, visitproc visit, void *arg)
{
    UvtState *st = uvt_state(module);
#define VISIT(name) Py_VISIT(st->name);
    FOR_EACH_REFERENCE(VISIT)
#undef VISIT
    for (int i = 0; i < UVT_EXC_COUNT; i++) {
        Py_VISIT(st->exc[i]);
    }
    for (int i = 0; i < UVT_SEQ_COUNT; i++) {
        Py_VISIT(st->seq[i]);
    }
    return uvt_tls_state_traverse(&st->tls, visit, arg);
}

static int
module_clear(PyObject *module)
{
    UvtState *st = uvt_state(module);
#define CLEAR(name) Py_CLEAR(st->name);
    FOR_EACH_REFERENCE(CLEAR)
#undef CLEAR
    for (int i = 0; i < UVT_EXC_COUNT; i++) {
        Py_CLEAR(st->exc[i]);
    }
    for (int i = 0; i < UVT_SEQ_COUNT; i++) {
        Py_CLEAR(st->seq[i]);
    }
    uvt_tls_state_clear(&st->tls);
    return 0;
}

static void
module_free(void *module)
{
    UvtState *st = uvt_state(module);
    (void)module_clear((PyObject *)module);
    PyMem_Free(st->capi);
    uvt_pool_drop(st);
    if (st->graves != NULL) {
        uvt_graves_drop(st->graves);
    }
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
    UVT_MODULE_SLOTS
    {0, NULL},
};

PyDoc_STRVAR(module_doc,
"libuv's handles as Python objects; import it as uvtulip.uv.");

struct PyModuleDef uvt_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "uvtulip._uv",
    .m_doc = module_doc,
    .m_size = sizeof(UvtState),
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC
PyInit__uv(void);

PyMODINIT_FUNC
PyInit__uv(void)
{
    return PyModuleDef_Init(&uvt_module);
}
