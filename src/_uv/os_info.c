/* uv.util: what libuv tells of CPUs, network interfaces and resources used, as
 * struct sequences.  All functions run attached, on any thread; what libuv allocates is
 * freed before they return.
 */
#include "util.h"
#include "errors.h"
#include "guards.h"

#include <net/if.h>

/* ---- CPUs ---- */

static PyStructSequence_Field cpu_times_fields[] = {
    {"sys", "for the kernel"},
    {"user", "for programs"},
    {"idle", "for nothing"},
    {"irq", "for interrupts"},
    {"nice", "for programs of low priority"},
    {NULL},
};

static PyStructSequence_Desc cpu_times_desc = {
    "uvtulip._uv.util.cpu_times", "Milliseconds that a CPU has spent.",
    cpu_times_fields, 5,
};

static PyStructSequence_Field cpu_fields[] = {
    {"model", "its name (str)"},
    {"speed", "in MHz"},
    {"times", "a cpu_times"},
    {NULL},
};

static PyStructSequence_Desc cpu_desc = {
    "uvtulip._uv.util.cpu_info_result", "One CPU.", cpu_fields, 3,
};

static PyObject *
make_cpu(UvtState *st, const uv_cpu_info_t *cpu)
{
    const uint64_t values[] = {
        cpu->cpu_times.sys, cpu->cpu_times.user, cpu->cpu_times.idle,
        cpu->cpu_times.irq, cpu->cpu_times.nice,
    };
    PyObject *times = PyStructSequence_New(st->seq[UVT_SEQ_CPU_TIMES]), *self;
    if (times == NULL) {
        return NULL;
    }
    for (size_t i = 0; i < Py_ARRAY_LENGTH(values); i++) {
        PyStructSequence_SetItem(times, (Py_ssize_t)i,
                                 PyLong_FromUnsignedLongLong(values[i]));
    }
    times = uvt_seq_done(times, Py_ARRAY_LENGTH(values));
    self = times != NULL ? PyStructSequence_New(st->seq[UVT_SEQ_CPU]) : NULL;
    if (self == NULL) {
        Py_XDECREF(times);
        return NULL;
    }
    PyStructSequence_SetItem(self, 0,
                             PyUnicode_DecodeFSDefault(cpu->model ? cpu->model
                                                                  : ""));
    PyStructSequence_SetItem(self, 1, PyLong_FromLong(cpu->speed));
    PyStructSequence_SetItem(self, 2, times);       /* stolen */
    return uvt_seq_done(self, 3);
}

PyDoc_STRVAR(cpu_info_doc,
"cpu_info($module, /)\n--\n\n"
"The CPUs: a list of (model, speed, times), times being (sys, user, idle, irq,\n"
"nice) in milliseconds.  Raises UVError.");

static PyObject *
info_cpu_info(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    UvtState *st = uvt_state(module);
    uv_cpu_info_t *cpus;
    int count, rc = uv_cpu_info(&cpus, &count);
    PyObject *list;
    if (rc < 0) {
        return uvt_raise(st, UVT_EXC_UV, rc, "uv_cpu_info");
    }
    list = PyList_New(count);
    for (int i = 0; list != NULL && i < count; i++) {
        PyObject *cpu = make_cpu(st, &cpus[i]);
        if (cpu == NULL) {
            Py_CLEAR(list);
            break;
        }
        PyList_SET_ITEM(list, i, cpu);
    }
    uv_free_cpu_info(cpus, count);
    return list;
}

/* ---- network interfaces ---- */

static PyStructSequence_Field interface_fields[] = {
    {"name", "as 'eth0'"},
    {"is_internal", "True for a loopback interface"},
    {"address", "a numeric address (str)"},
    {"netmask", "in the same form"},
    {"mac", "the hardware's address, as '02:42:ac:11:00:02'"},
    {NULL},
};

static PyStructSequence_Desc interface_desc = {
    "uvtulip._uv.util.interface_address", "One address of a network interface.",
    interface_fields, 5,
};

static PyObject *
ip_text(const void *address)
{
    char text[INET6_ADDRSTRLEN + 1];
    int rc = uv_ip_name(address, text, sizeof(text));
    return PyUnicode_FromString(rc == 0 ? text : "");
}

/* libuv does not look whether it had memory to copy it. */
static PyObject *
interface_name(const char *name)
{
    return name != NULL ? PyUnicode_DecodeFSDefault(name) : PyErr_NoMemory();
}

static PyObject *
make_interface(UvtState *st, const uv_interface_address_t *interface)
{
    const unsigned char *mac = (const unsigned char *)interface->phys_addr;
    char text[18];
    PyObject *self = PyStructSequence_New(st->seq[UVT_SEQ_INTERFACE]);
    if (self == NULL) {
        return NULL;
    }
    PyOS_snprintf(text, sizeof(text), "%02x:%02x:%02x:%02x:%02x:%02x", mac[0],
                  mac[1], mac[2], mac[3], mac[4], mac[5]);
    PyStructSequence_SetItem(self, 0, interface_name(interface->name));
    PyStructSequence_SetItem(self, 1, PyBool_FromLong(interface->is_internal));
    PyStructSequence_SetItem(self, 2, ip_text(&interface->address));
    PyStructSequence_SetItem(self, 3, ip_text(&interface->netmask));
    PyStructSequence_SetItem(self, 4, PyUnicode_FromString(text));
    return uvt_seq_done(self, 5);
}

PyDoc_STRVAR(interface_addresses_doc,
"interface_addresses($module, /)\n--\n\n"
"The addresses of the network interfaces that are up: a list of (name,\n"
"is_internal, address, netmask, mac).  Raises UVError.");

static PyObject *
info_interface_addresses(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    UvtState *st = uvt_state(module);
    uv_interface_address_t *interfaces;
    int count, rc;
    PyObject *list;
    (void)uvt_reserve_fill(IF_NAMESIZE + 1);    /* for a name that libuv copies */
    rc = uv_interface_addresses(&interfaces, &count);
    uvt_reserve_empty();
    if (rc < 0) {
        return uvt_raise(st, UVT_EXC_UV, rc, "uv_interface_addresses");
    }
    list = PyList_New(count);
    for (int i = 0; list != NULL && i < count; i++) {
        PyObject *interface = make_interface(st, &interfaces[i]);
        if (interface == NULL) {
            Py_CLEAR(list);
            break;
        }
        PyList_SET_ITEM(list, i, interface);
    }
    uv_free_interface_addresses(interfaces, count);
    return list;
}

/* ---- resources used ---- */

static PyStructSequence_Field rusage_fields[] = {
    {"ru_utime", "seconds of CPU for the program (float)"},
    {"ru_stime", "seconds of CPU for the kernel (float)"},
    {"ru_maxrss", "most memory so far, in KiB on Linux"},
    {"ru_ixrss", "not kept by Linux"},
    {"ru_idrss", "not kept by Linux"},
    {"ru_isrss", "not kept by Linux"},
    {"ru_minflt", "page faults without I/O"},
    {"ru_majflt", "page faults with I/O"},
    {"ru_nswap", "not kept by Linux"},
    {"ru_inblock", "reads from disks"},
    {"ru_oublock", "writes to disks"},
    {"ru_msgsnd", "not kept by Linux"},
    {"ru_msgrcv", "not kept by Linux"},
    {"ru_nsignals", "not kept by Linux"},
    {"ru_nvcsw", "switches to other programs while it waited"},
    {"ru_nivcsw", "switches to other programs by force"},
    {NULL},
};

static PyStructSequence_Desc rusage_desc = {
    "uvtulip._uv.util.rusage", "What a process or a thread has used.",
    rusage_fields, 16,
};

static PyObject *
make_rusage(UvtState *st, const uv_rusage_t *used)
{
    const uv_timeval_t *times[] = {&used->ru_utime, &used->ru_stime};
    const uint64_t counts[] = {
        used->ru_maxrss, used->ru_ixrss, used->ru_idrss, used->ru_isrss,
        used->ru_minflt, used->ru_majflt, used->ru_nswap, used->ru_inblock,
        used->ru_oublock, used->ru_msgsnd, used->ru_msgrcv, used->ru_nsignals,
        used->ru_nvcsw, used->ru_nivcsw,
    };
    PyObject *self = PyStructSequence_New(st->seq[UVT_SEQ_RUSAGE]);
    Py_ssize_t place = 0;
    size_t i;
    if (self == NULL) {
        return NULL;
    }
    for (i = 0; i < Py_ARRAY_LENGTH(times); i++) {
        double seconds = (double)times[i]->tv_sec + 1e-6 * (double)times[i]->tv_usec;
        PyStructSequence_SetItem(self, place++, PyFloat_FromDouble(seconds));
    }
    for (i = 0; i < Py_ARRAY_LENGTH(counts); i++) {
        PyStructSequence_SetItem(self, place++,
                                 PyLong_FromUnsignedLongLong(counts[i]));
    }
    return uvt_seq_done(self, place);
}

PyDoc_STRVAR(getrusage_doc,
"getrusage($module, /)\n--\n\n"
"What the process has used, as resource.getrusage() tells.  Raises UVError.");

static PyObject *
info_getrusage(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    UvtState *st = uvt_state(module);
    uv_rusage_t used;
    int rc = uv_getrusage(&used);
    return rc < 0 ? uvt_raise(st, UVT_EXC_UV, rc, "uv_getrusage")
                  : make_rusage(st, &used);
}

#if UV_VERSION_HEX >= 0x013200
PyDoc_STRVAR(getrusage_thread_doc,
"getrusage_thread($module, /)\n--\n\n"
"What this thread has used.  Raises UVError.  Since libuv 1.50.");

static PyObject *
info_getrusage_thread(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    UvtState *st = uvt_state(module);
    uv_rusage_t used;
    int rc = uv_getrusage_thread(&used);
    return rc < 0 ? uvt_raise(st, UVT_EXC_UV, rc, "uv_getrusage_thread")
                  : make_rusage(st, &used);
}
#endif

/* ---- tables ---- */

PyMethodDef uvt_os_info_functions[] = {
    {"cpu_info", info_cpu_info, METH_NOARGS, cpu_info_doc},
    {"interface_addresses", info_interface_addresses, METH_NOARGS,
     interface_addresses_doc},
    {"getrusage", info_getrusage, METH_NOARGS, getrusage_doc},
#if UV_VERSION_HEX >= 0x013200
    {"getrusage_thread", info_getrusage_thread, METH_NOARGS,
     getrusage_thread_doc},
#endif
    {NULL},
};

int
uvt_os_info_setup(PyObject *submodule, UvtState *st)
{
    static const struct {
        UvtSeq which;
        PyStructSequence_Desc *desc;
    } types[] = {
        {UVT_SEQ_CPU_TIMES, &cpu_times_desc},
        {UVT_SEQ_CPU, &cpu_desc},
        {UVT_SEQ_INTERFACE, &interface_desc},
        {UVT_SEQ_RUSAGE, &rusage_desc},
    };
    for (size_t i = 0; i < Py_ARRAY_LENGTH(types); i++) {
        if (uvt_add_seq(submodule, st, types[i].which, types[i].desc) < 0) {
            return -1;
        }
    }
    return 0;
}
