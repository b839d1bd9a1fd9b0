/* uv.util: the functions of libuv about the process and its system that return
 * numbers and strings; os_info.c and os_user.c have those that return records.  All run
 * attached, on any thread; nothing is kept.
 */
#include "util.h"
#include "args.h"
#include "errors.h"
#include "guards.h"
#include "sockaddr.h"

#include <limits.h>

/* ---- strings ---- */

/* The length that libuv asks for may be too short, as when somebody changes the
 * value between two calls; each try has twice the room. */
PyObject *
uvt_os_text(UvtState *st, const char *call, UvtTextGetter get, const void *arg)
{
    char small[4097], *buffer = small;     /* uv_exepath() cuts its text short */
    size_t room = sizeof(small), size = room;
    int rc = get(buffer, &size, arg);
    PyObject *result;
    while (rc == UV_ENOBUFS && room < (1u << 26)) {
        if (buffer != small) {
            PyMem_Free(buffer);
        }
        room = size > 2 * room ? size : 2 * room;
        buffer = PyMem_Malloc(room);
        if (buffer == NULL) {
            return PyErr_NoMemory();
        }
        size = room;
        rc = get(buffer, &size, arg);
    }
    result = rc < 0 ? uvt_raise(st, UVT_EXC_UV, rc, call)
                    : PyUnicode_DecodeFSDefaultAndSize(buffer, (Py_ssize_t)size);
    if (buffer != small) {
        PyMem_Free(buffer);
    }
    return result;
}

#define TEXT_FUNCTION(name, call) \
    static int \
    get_##name(char *buffer, size_t *size, const void *Py_UNUSED(arg)) \
    { \
        return call(buffer, size); \
    } \
    static PyObject * \
    os_##name(PyObject *module, PyObject *Py_UNUSED(ignored)) \
    { \
        return uvt_os_text(uvt_state(module), #call, get_##name, NULL); \
    }

TEXT_FUNCTION(cwd, uv_cwd)
TEXT_FUNCTION(exepath, uv_exepath)
TEXT_FUNCTION(gethostname, uv_os_gethostname)
TEXT_FUNCTION(homedir, uv_os_homedir)
TEXT_FUNCTION(tmpdir, uv_os_tmpdir)

#undef TEXT_FUNCTION

PyDoc_STRVAR(chdir_doc,
"chdir($module, path, /)\n--\n\n"
"Make a directory the current one (str, bytes or os.PathLike).  Raises UVError.");

static PyObject *
os_chdir(PyObject *module, PyObject *arg)
{
    PyObject *path;
    int rc;
    if (PySys_Audit("os.chdir", "(O)", arg) < 0
        || !PyUnicode_FSConverter(arg, &path)) {
        return NULL;
    }
    rc = uv_chdir(PyBytes_AS_STRING(path));
    Py_DECREF(path);
    if (rc < 0) {
        return uvt_raise(uvt_state(module), UVT_EXC_UV, rc, "uv_chdir");
    }
    Py_RETURN_NONE;
}

/* ---- numbers ---- */

#define NUMBER_FUNCTION(name, convert, call) \
    static PyObject * \
    os_##name(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored)) \
    { \
        return convert(call()); \
    }

NUMBER_FUNCTION(hrtime, PyLong_FromUnsignedLongLong, uv_hrtime)
NUMBER_FUNCTION(get_free_memory, PyLong_FromUnsignedLongLong, uv_get_free_memory)
NUMBER_FUNCTION(get_total_memory, PyLong_FromUnsignedLongLong,
                uv_get_total_memory)
NUMBER_FUNCTION(get_constrained_memory, PyLong_FromUnsignedLongLong,
                uv_get_constrained_memory)
#if UV_VERSION_HEX >= 0x012D00
NUMBER_FUNCTION(get_available_memory, PyLong_FromUnsignedLongLong,
                uv_get_available_memory)
#endif
NUMBER_FUNCTION(available_parallelism, PyLong_FromUnsignedLong,
                uv_available_parallelism)
NUMBER_FUNCTION(getpid, PyLong_FromLong, uv_os_getpid)
NUMBER_FUNCTION(getppid, PyLong_FromLong, uv_os_getppid)

#undef NUMBER_FUNCTION

static PyObject *
os_loadavg(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    double average[3] = {0.0, 0.0, 0.0};
    uv_loadavg(average);
    return Py_BuildValue("(ddd)", average[0], average[1], average[2]);
}

static PyObject *
os_uptime(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    double seconds;
    int rc = uv_uptime(&seconds);
    if (rc < 0) {
        return uvt_raise(uvt_state(module), UVT_EXC_UV, rc, "uv_uptime");
    }
    return PyFloat_FromDouble(seconds);
}

static PyObject *
os_resident_set_memory(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    UvtState *st = uvt_state(module);
    size_t bytes;
    int rc;
    uvt_low_take(st);       /* libuv opens a file and closes it. */
    rc = uv_resident_set_memory(&bytes);
    uvt_low_give(st);
    if (rc < 0) {
        return uvt_raise(st, UVT_EXC_UV, rc, "uv_resident_set_memory");
    }
    return PyLong_FromSize_t(bytes);
}

PyDoc_STRVAR(getpriority_doc,
"getpriority($module, pid=0, /)\n--\n\n"
"The scheduling priority of a process, -20 (first) to 19; 0 is this one.\n"
"Raises UVError (ESRCH).");

static PyObject *
os_getpriority(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    int pid = 0, priority, rc;
    if (!uvt_args_count("getpriority", nargs, 0, 1)
        || (nargs > 0
            && !uvt_arg_int("getpriority", "pid", args[0], 0, INT_MAX, &pid))) {
        return NULL;
    }
    rc = uv_os_getpriority(pid, &priority);
    if (rc < 0) {
        return uvt_raise(uvt_state(module), UVT_EXC_UV, rc, "uv_os_getpriority");
    }
    return PyLong_FromLong(priority);
}

PyDoc_STRVAR(setpriority_doc,
"setpriority($module, pid, priority, /)\n--\n\n"
"Set the scheduling priority of a process: -20 (first) to 19, for which there\n"
"are the names UV_PRIORITY_*.  0 is this process.  Raises UVError (ESRCH,\n"
"EACCES, EINVAL).");

static PyObject *
os_setpriority(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    int pid, priority, rc;
    if (!uvt_args_count("setpriority", nargs, 2, 2)
        || !uvt_arg_int("setpriority", "pid", args[0], 0, INT_MAX, &pid)
        || !uvt_arg_int("setpriority", "priority", args[1], INT_MIN, INT_MAX,
                        &priority)) {
        return NULL;
    }
    rc = uv_os_setpriority(pid, priority);
    if (rc < 0) {
        return uvt_raise(uvt_state(module), UVT_EXC_UV, rc, "uv_os_setpriority");
    }
    Py_RETURN_NONE;
}

#if UV_VERSION_HEX >= 0x012D00
static PyObject *
os_cpumask_size(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    int rc = uv_cpumask_size();
    if (rc < 0) {
        return uvt_raise(uvt_state(module), UVT_EXC_UV, rc, "uv_cpumask_size");
    }
    return PyLong_FromLong(rc);
}
#endif

PyDoc_STRVAR(sleep_doc,
"sleep($module, seconds, /)\n--\n\n"
"Block this thread, not the others, for whole milliseconds, rounded up.\n"
"Handlers of signals run within a tenth of a second.  Raises ValueError.");

#define SLEEP_STEP 100

static PyObject *
os_sleep(PyObject *Py_UNUSED(module), PyObject *arg)
{
    uint64_t left;
    if (!uvt_arg_seconds("sleep", "seconds", arg, &left)) {
        return NULL;
    }
    while (left > 0) {
        unsigned step = left < SLEEP_STEP ? (unsigned)left : SLEEP_STEP;
        Py_BEGIN_ALLOW_THREADS
        uv_sleep(step);
        Py_END_ALLOW_THREADS
        if (PyErr_CheckSignals() < 0) {
            return NULL;
        }
        left -= step;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(guess_handle_type_doc,
"guess_handle_type($module, fd, /)\n--\n\n"
"Which handle a descriptor could be opened with: UV_TCP, UV_NAMED_PIPE, UV_UDP,\n"
"UV_TTY, UV_FILE or UV_UNKNOWN_HANDLE (int).");

static PyObject *
os_guess_handle_type(PyObject *Py_UNUSED(module), PyObject *arg)
{
    int fd;
    if (PyLong_Check(arg)
        ? !uvt_arg_int("guess_handle_type", "fd", arg, INT_MIN, INT_MAX, &fd)
        : !uvt_arg_fd("guess_handle_type", arg, &fd)) {
        return NULL;
    }
    return PyLong_FromLong(uv_guess_handle(fd));
}

/* ---- names ---- */

PyDoc_STRVAR(handle_type_name_doc,
"handle_type_name($module, type, /)\n--\n\n"
"The name of a kind of handle, as 'tcp' for UV_TCP; None for an unknown one.");

static PyObject *
os_handle_type_name(PyObject *Py_UNUSED(module), PyObject *arg)
{
    const char *name;
    int type;
    if (!uvt_arg_int("handle_type_name", "type", arg, INT_MIN, INT_MAX, &type)) {
        return NULL;
    }
    name = uv_handle_type_name((uv_handle_type)type);
    return name != NULL ? PyUnicode_FromString(name) : Py_NewRef(Py_None);
}

PyDoc_STRVAR(req_type_name_doc,
"req_type_name($module, type, /)\n--\n\n"
"The name of a kind of request, as 'fs' for UV_FS; None for an unknown one.");

static PyObject *
os_req_type_name(PyObject *Py_UNUSED(module), PyObject *arg)
{
    const char *name;
    int type;
    if (!uvt_arg_int("req_type_name", "type", arg, INT_MIN, INT_MAX, &type)) {
        return NULL;
    }
    name = uv_req_type_name((uv_req_type)type);
    return name != NULL ? PyUnicode_FromString(name) : Py_NewRef(Py_None);
}

PyDoc_STRVAR(translate_sys_error_doc,
"translate_sys_error($module, errno, /)\n--\n\n"
"libuv's negative number for one of the system's error numbers (int).");

static PyObject *
os_translate_sys_error(PyObject *Py_UNUSED(module), PyObject *arg)
{
    int code;
    if (!uvt_arg_int("translate_sys_error", "errno", arg, -INT_MAX, INT_MAX,
                     &code)) {
        return NULL;
    }
    return PyLong_FromLong(uv_translate_sys_error(code));
}

static int
get_interface_name(char *buffer, size_t *size, const void *index)
{
    return uv_if_indextoname(*(const unsigned *)index, buffer, size);
}

static int
get_interface_id(char *buffer, size_t *size, const void *index)
{
    return uv_if_indextoiid(*(const unsigned *)index, buffer, size);
}

PyDoc_STRVAR(if_indextoname_doc,
"if_indextoname($module, index, /)\n--\n\n"
"The name of a network interface, as 'lo' for 1.  Raises UVError (ENXIO).");

static PyObject *
os_if_indextoname(PyObject *module, PyObject *arg)
{
    int index;
    if (!uvt_arg_int("if_indextoname", "index", arg, 0, INT_MAX, &index)) {
        return NULL;
    }
    return uvt_os_text(uvt_state(module), "uv_if_indextoname",
                       get_interface_name, &index);
}

PyDoc_STRVAR(if_indextoiid_doc,
"if_indextoiid($module, index, /)\n--\n\n"
"What follows the % in an IPv6 address of that interface: its name here, the\n"
"number on Windows.  Raises UVError (ENXIO).");

static PyObject *
os_if_indextoiid(PyObject *module, PyObject *arg)
{
    int index;
    if (!uvt_arg_int("if_indextoiid", "index", arg, 0, INT_MAX, &index)) {
        return NULL;
    }
    return uvt_os_text(uvt_state(module), "uv_if_indextoiid", get_interface_id,
                       &index);
}

PyDoc_STRVAR(ip_name_doc,
"ip_name($module, address, /)\n--\n\n"
"The host of an address tuple in its shortest form (str).  Raises TypeError,\n"
"ValueError, OverflowError.");

static PyObject *
os_ip_name(PyObject *module, PyObject *arg)
{
    struct sockaddr_storage address;
    char name[INET6_ADDRSTRLEN + 1];
    int rc;
    if (!uvt_sockaddr_parse("ip_name", arg, &address)) {
        return NULL;
    }
    rc = uv_ip_name((const struct sockaddr *)&address, name, sizeof(name));
    if (rc < 0) {
        return uvt_raise(uvt_state(module), UVT_EXC_UV, rc, "uv_ip_name");
    }
    return PyUnicode_FromString(name);
}

/* ---- tables ---- */

#define NO_ARGS(name, text) \
    {#name, (PyCFunction)os_##name, METH_NOARGS, \
     PyDoc_STR(#name "($module, /)\n--\n\n" text)}
#define ONE_ARG(name) {#name, (PyCFunction)os_##name, METH_O, name##_doc}
#define ARGS(name) \
    {#name, (PyCFunction)(void (*)(void))os_##name, METH_FASTCALL, name##_doc}

PyMethodDef uvt_os_functions[] = {
    NO_ARGS(hrtime, "A clock in nanoseconds (int) that is never set back; of\n"
            "no date."),
    NO_ARGS(get_free_memory, "Bytes of memory that are free in the system."),
    NO_ARGS(get_total_memory, "Bytes of memory that the system has."),
    NO_ARGS(get_constrained_memory,
            "Bytes of memory that the process is limited to, as by a control\n"
            "group; 0: no limit or unknown.  Since libuv 1.29."),
#if UV_VERSION_HEX >= 0x012D00
    NO_ARGS(get_available_memory,
            "Bytes of memory that the process may still use.  Since libuv\n"
            "1.45."),
    NO_ARGS(cpumask_size,
            "How many CPUs a mask of CPUs can name.  Raises UVError.  Since\n"
            "libuv 1.45."),
#endif
    NO_ARGS(available_parallelism,
            "How many threads the process can run at a time.  Since libuv\n"
            "1.44."),
    NO_ARGS(loadavg, "The load of 1, 5 and 15 minutes: three floats."),
    NO_ARGS(uptime, "Seconds (float) since the system started.  Raises UVError."),
    NO_ARGS(resident_set_memory,
            "Bytes of memory that the process has.  Raises UVError."),
    NO_ARGS(getpid, "The process's number."),
    NO_ARGS(getppid, "The number of the process's parent."),
    NO_ARGS(cwd, "The current directory (str).  Raises UVError."),
    NO_ARGS(exepath, "The path of the program that runs (str).  Raises UVError."),
    NO_ARGS(gethostname, "The name of this machine.  Raises UVError."),
    NO_ARGS(homedir,
            "The user's home: $HOME, or what the user database has (str).\n"
            "Raises UVError."),
    NO_ARGS(tmpdir,
            "The folder for temporary files: $TMPDIR, $TMP, $TEMP or /tmp\n"
            "(str).  Raises UVError."),
    ONE_ARG(chdir),
    ARGS(getpriority),
    ARGS(setpriority),
    ONE_ARG(sleep),
    ONE_ARG(guess_handle_type),
    ONE_ARG(handle_type_name),
    ONE_ARG(req_type_name),
    ONE_ARG(translate_sys_error),
    ONE_ARG(if_indextoname),
    ONE_ARG(if_indextoiid),
    ONE_ARG(ip_name),
    {NULL},
};

static const struct {
    const char *name;
    int value;
} constants[] = {
#define CONSTANT(name) {#name, name}
    CONSTANT(UV_FILE),
#define REQUEST_TYPE(name, _) {"UV_" #name, UV_##name},
    UV_REQ_TYPE_MAP(REQUEST_TYPE)
#undef REQUEST_TYPE
    CONSTANT(UV_PRIORITY_LOW),
    CONSTANT(UV_PRIORITY_BELOW_NORMAL),
    CONSTANT(UV_PRIORITY_NORMAL),
    CONSTANT(UV_PRIORITY_ABOVE_NORMAL),
    CONSTANT(UV_PRIORITY_HIGH),
    CONSTANT(UV_PRIORITY_HIGHEST),
#if UV_VERSION_HEX >= 0x012D00
    CONSTANT(UV_CLOCK_MONOTONIC),
    CONSTANT(UV_CLOCK_REALTIME),
#endif
#undef CONSTANT
};

static int
fill(PyObject *module, PyObject *submodule, UvtState *st)
{
    PyMethodDef *const tables[] = {
        uvt_os_functions, uvt_os_env_functions, uvt_os_info_functions,
        uvt_os_user_functions, uvt_os_title_functions, uvt_random_functions,
    };
    size_t i;
    for (i = 0; i < Py_ARRAY_LENGTH(constants); i++) {
        if (PyModule_AddIntConstant(submodule, constants[i].name,
                                    constants[i].value) < 0) {
            return -1;
        }
    }
    for (i = 0; i < Py_ARRAY_LENGTH(tables); i++) {
        if (uvt_add_functions(submodule, module, tables[i]) < 0) {
            return -1;
        }
    }
    if (uvt_os_info_setup(submodule, st) < 0
        || uvt_os_user_setup(submodule, st) < 0
        || uvt_random_setup(module, st) < 0) {
        return -1;
    }
    return uvt_signal_checker_setup(module, submodule, st);
}

int
uvt_util_setup(PyObject *module, UvtState *st)
{
    int rc;
    PyObject *submodule = uvt_add_submodule(
        module, "util", "What libuv knows of the process and its system.");
    if (submodule == NULL) {
        return -1;
    }
    rc = fill(module, submodule, st);
    Py_DECREF(submodule);
    return rc;
}
