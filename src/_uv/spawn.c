/* Process.spawn(): from Python's arguments to uv_spawn().  It runs on the loop's
 * thread or while nobody runs the loop; the fork itself runs detached.  A Spawn
 * owns every object and array that uv_process_options_t points into.
 */
#include "process.h"
#include "args.h"
#include "errors.h"
#include "guards.h"
#include "signals.h"
#include "stream.h"
#include "task.h"

#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

typedef struct {
    uv_process_options_t options;
    PyObject *owned;            /* a list: the bytes, the StdIO objects */
    int null_fd;                /* /dev/null, for descriptors above 2; or -1 */
} Spawn;

static const char *const names[] = {
    "loop", "args", "executable", "env", "cwd", "uid", "gid", "flags", "stdio",
    "exit_callback",
};
enum {
    LOOP, ARGS, EXECUTABLE, ENV, CWD, UID, GID, FLAGS, STDIO, EXIT_CALLBACK,
    COUNT
};

#define CALL "Process.spawn"

#define ALL_FLAGS \
    (UV_PROCESS_SETUID | UV_PROCESS_SETGID | UV_PROCESS_DETACHED \
     | UV_PROCESS_WINDOWS_VERBATIM_ARGUMENTS | UV_PROCESS_WINDOWS_HIDE \
     | UV_PROCESS_WINDOWS_HIDE_CONSOLE | UV_PROCESS_WINDOWS_HIDE_GUI \
     | NEWER_FLAGS)
#if UV_VERSION_HEX >= 0x013000
#define NEWER_FLAGS UV_PROCESS_WINDOWS_FILE_PATH_EXACT_NAME
#else
#define NEWER_FLAGS 0
#endif

/* ---- strings ---- */

/* Takes the reference over; false with an exception. */
static bool
own(Spawn *spawn, UVT_STEALS(2) PyObject *object)
{
    int rc;
    if (object == NULL) {
        return false;
    }
    rc = PyList_Append(spawn->owned, object);
    Py_DECREF(object);
    return rc == 0;
}

/* As a C string that lives as long as spawn; NULL with an exception. */
UVT_BORROWED static char *
text(Spawn *spawn, const char *what, PyObject *arg)
{
    PyObject *bytes = uvt_arg_path(CALL, what, arg);
    return own(spawn, bytes) ? PyBytes_AS_STRING(bytes) : NULL;
}

static char **
new_array(Py_ssize_t count)
{
    char **array = PyMem_Calloc((size_t)count + 1, sizeof(char *));
    if (array == NULL) {
        PyErr_NoMemory();
    }
    return array;
}

/* ---- the options ---- */

static bool
get_args(Spawn *spawn, PyObject *arg)
{
    bool single = PyUnicode_Check(arg) || PyBytes_Check(arg);
    PyObject *items;
    Py_ssize_t count;
    bool ok;

    if (!single && !PySequence_Check(arg)) {
        PyErr_Format(PyExc_TypeError,
                     CALL "(): 'args' must be a str, bytes or a sequence of "
                     "them, not %.200s", Py_TYPE(arg)->tp_name);
        return false;
    }
    items = single ? PyTuple_Pack(1, arg) : PySequence_Tuple(arg);
    if (items == NULL) {
        return false;
    }
    count = PyTuple_GET_SIZE(items);
    ok = count > 0;
    if (!ok) {
        PyErr_SetString(PyExc_ValueError, CALL "(): 'args' is empty");
    }
    ok = ok && (spawn->options.args = new_array(count)) != NULL;
    for (Py_ssize_t i = 0; ok && i < count; i++) {
        spawn->options.args[i] = text(spawn, "an item of 'args'",
                                      PyTuple_GET_ITEM(items, i));
        ok = spawn->options.args[i] != NULL;
    }
    Py_DECREF(items);
    return ok;
}

/* NAME=VALUE as bytes, new. */
UVT_NEW static PyObject *
env_entry(PyObject *item)
{
    PyObject *name = NULL, *value = NULL, *entry = NULL;
    if (!PyTuple_Check(item) || PyTuple_GET_SIZE(item) != 2) {
        PyErr_SetString(PyExc_TypeError, CALL "(): 'env' must be a mapping");
        return NULL;
    }
    name = uvt_arg_path(CALL, "a name in 'env'", PyTuple_GET_ITEM(item, 0));
    value = name == NULL ? NULL
        : uvt_arg_path(CALL, "a value in 'env'", PyTuple_GET_ITEM(item, 1));
    if (value != NULL) {
        const char *start = PyBytes_AS_STRING(name);
        if (*start == '\0' || strchr(start, '=') != NULL) {
            PyErr_Format(PyExc_ValueError,
                         CALL "(): %R is no name for the environment",
                         PyTuple_GET_ITEM(item, 0));
        }
        else {
            entry = PyBytes_FromFormat("%s=%s", start, PyBytes_AS_STRING(value));
        }
    }
    Py_XDECREF(name);
    Py_XDECREF(value);
    return entry;
}

static bool
get_env(Spawn *spawn, PyObject *arg)
{
    PyObject *items;
    Py_ssize_t count;
    bool ok;
    items = PyMapping_Items(arg);
    if (items == NULL) {
        if (PyErr_ExceptionMatches(PyExc_AttributeError)) {
            PyErr_Format(PyExc_TypeError,
                         CALL "(): 'env' must be a mapping or None, not %.200s",
                         Py_TYPE(arg)->tp_name);
        }
        return false;
    }
    count = PyList_GET_SIZE(items);
    ok = (spawn->options.env = new_array(count)) != NULL;
    for (Py_ssize_t i = 0; ok && i < count; i++) {
        PyObject *entry = env_entry(PyList_GET_ITEM(items, i));
        ok = own(spawn, entry);
        spawn->options.env[i] = ok ? PyBytes_AS_STRING(entry) : NULL;
    }
    Py_DECREF(items);
    return ok;
}

/* Whether the pipe is one of the first `count` ones to be made. */
static bool
is_used(const uv_stdio_container_t *made, Py_ssize_t count,
        const uv_stream_t *stream)
{
    for (Py_ssize_t i = 0; i < count; i++) {
        if ((made[i].flags & UV_CREATE_PIPE) && made[i].data.stream == stream) {
            return true;
        }
    }
    return false;
}

/* Fills containers[i].  libuv makes a child first and only then finds that a
 * stream is in use: so it is asked here. */
static bool
get_container(UvtLoop *loop, uv_stdio_container_t *containers, Py_ssize_t i,
              const UvtStdIO *item)
{
    UvtHandle *handle = (UvtHandle *)item->stream;
    containers[i].flags = (uv_stdio_flags)item->flags;
    if (item->flags & UV_INHERIT_FD) {
        containers[i].data.fd = item->fd;
    }
    if ((item->flags & (UV_CREATE_PIPE | UV_INHERIT_STREAM)) == 0) {
        return true;
    }
    if (item->flags & UV_INHERIT_STREAM ? !uvt_handle_check(handle)
                                        : !uvt_handle_check_free(handle, CALL)) {
        return false;
    }
    containers[i].data.stream = &handle->box->uv.stream;
    if (item->flags & UV_INHERIT_STREAM) {
        if (!uvt_stream_has_fd(handle)) {
            PyErr_Format(PyExc_ValueError,
                         CALL "(): the stream of stdio[%zd] is not open", i);
            return false;
        }
        return true;
    }
    if (handle->loop != loop || uvt_stream_has_fd(handle)
        || is_used(containers, i, containers[i].data.stream)) {
        PyErr_Format(PyExc_ValueError,
                     handle->loop != loop
                     ? CALL "(): the pipe of stdio[%zd] is of another loop"
                     : CALL "(): the pipe of stdio[%zd] is in use already", i);
        return false;
    }
    return true;
}

/* libuv gives a child /dev/null for its first three descriptors only.  The others
 * would be whatever of this process is inheritable, so they inherit one that is
 * opened here. */
static bool
ignore_others(Spawn *spawn)
{
    uv_process_options_t *options = &spawn->options;
    for (int i = 3; i < options->stdio_count; i++) {
        if (options->stdio[i].flags != UV_IGNORE) {
            continue;
        }
        if (spawn->null_fd < 0) {
            spawn->null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
        }
        if (spawn->null_fd < 0) {
            PyErr_SetFromErrnoWithFilename(PyExc_OSError, "/dev/null");
            return false;
        }
        options->stdio[i].flags = UV_INHERIT_FD;
        options->stdio[i].data.fd = spawn->null_fd;
    }
    return true;
}

static bool
get_stdio(Spawn *spawn, UvtLoop *loop, PyObject *arg)
{
    PyObject *items;
    Py_ssize_t count;
    if (!PySequence_Check(arg)) {
        PyErr_Format(PyExc_TypeError,
                     CALL "(): 'stdio' must be a sequence of StdIO or None, not "
                     "%.200s", Py_TYPE(arg)->tp_name);
        return false;
    }
    items = PySequence_Tuple(arg);
    if (!own(spawn, items)) {
        return false;
    }
    count = PyTuple_GET_SIZE(items);
    if (count > INT_MAX) {
        PyErr_SetString(PyExc_OverflowError, CALL "(): 'stdio' is too long");
        return false;
    }
    spawn->options.stdio = PyMem_Calloc((size_t)count + 1,
                                        sizeof(uv_stdio_container_t));
    if (spawn->options.stdio == NULL) {
        PyErr_NoMemory();
        return false;
    }
    spawn->options.stdio_count = (int)count;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *item = PyTuple_GET_ITEM(items, i);
        if (item == Py_None) {
            continue;                   /* UV_IGNORE */
        }
        if (!PyObject_TypeCheck(item, loop->st->stdio_type)) {
            PyErr_Format(PyExc_TypeError,
                         CALL "(): an item of 'stdio' must be StdIO or None, "
                         "not %.200s", Py_TYPE(item)->tp_name);
            return false;
        }
        if (!get_container(loop, spawn->options.stdio, i, (UvtStdIO *)item)) {
            return false;
        }
    }
    return ignore_others(spawn);
}

/* uid_t and gid_t are 32 bits wide; the last value means "no change". */
static bool
get_id(const char *what, PyObject *arg, unsigned *out)
{
    unsigned long value;
    PyObject *number;
    if (!PyIndex_Check(arg)) {
        PyErr_Format(PyExc_TypeError, CALL "(): '%s' must be an int, not %.200s",
                     what, Py_TYPE(arg)->tp_name);
        return false;
    }
    number = PyNumber_Index(arg);
    if (number == NULL) {
        return false;
    }
    value = PyLong_AsUnsignedLong(number);
    Py_DECREF(number);
    if (value == (unsigned long)-1 && PyErr_Occurred()) {
        PyErr_Clear();
        value = ULONG_MAX;
    }
    if (value >= UINT_MAX) {
        PyErr_Format(PyExc_ValueError,
                     CALL "(): '%s' must be between 0 and %u, not %R", what,
                     UINT_MAX - 1, arg);
        return false;
    }
    *out = (unsigned)value;
    return true;
}

static bool
is_given(PyObject *arg)
{
    return arg != NULL && arg != Py_None;
}

static bool
get_numbers(Spawn *spawn, PyObject **given)
{
    unsigned uid = 0, gid = 0;
    int flags = 0;
    if ((is_given(given[UID]) && !get_id("uid", given[UID], &uid))
        || (is_given(given[GID]) && !get_id("gid", given[GID], &gid))
        || (given[FLAGS] != NULL
            && !uvt_arg_int(CALL, "flags", given[FLAGS], 0, INT_MAX, &flags))) {
        return false;
    }
    if ((flags & ~ALL_FLAGS) != 0) {
        PyErr_Format(PyExc_ValueError,
                     CALL "(): flags that this libuv does not know: %d",
                     flags & ~ALL_FLAGS);
        return false;
    }
    spawn->options.uid = (uv_uid_t)uid;
    spawn->options.gid = (uv_gid_t)gid;
    spawn->options.flags = (unsigned)flags;
    return true;
}

/* The streams come last: all that can run code that closes one is over. */
static bool
get_options(Spawn *spawn, UvtLoop *loop, PyObject **given)
{
    uv_process_options_t *options = &spawn->options;
    if (!get_args(spawn, given[ARGS]) || !get_numbers(spawn, given)) {
        return false;
    }
    options->file = options->args[0];
    if (is_given(given[EXECUTABLE])) {
        options->file = text(spawn, "'executable'", given[EXECUTABLE]);
        if (options->file == NULL) {
            return false;
        }
    }
    if (is_given(given[CWD])) {
        options->cwd = text(spawn, "'cwd'", given[CWD]);
        if (options->cwd == NULL) {
            return false;
        }
    }
    if (is_given(given[ENV]) && !get_env(spawn, given[ENV])) {
        return false;
    }
    return !is_given(given[STDIO]) || get_stdio(spawn, loop, given[STDIO]);
}

static void
free_options(Spawn *spawn)
{
    PyMem_Free(spawn->options.args);
    PyMem_Free(spawn->options.env);
    PyMem_Free(spawn->options.stdio);
    if (spawn->null_fd >= 0) {
        (void)close(spawn->null_fd);
    }
    Py_XDECREF(spawn->owned);
}

/* ---- the call ---- */

/* The numbers of the new descriptors may still be watched by others. */
static int
guard_pipes(const Spawn *spawn, UvtLoop *loop)
{
    int rc = 0;
    for (int i = 0; i < spawn->options.stdio_count; i++) {
        const uv_stdio_container_t *container = &spawn->options.stdio[i];
        if ((container->flags & UV_CREATE_PIPE) && loop->core != NULL) {
            const UvtBox *box = container->data.stream->data;
            if (uvt_guard_fresh(box->owner) < 0) {
                rc = UV_ENOMEM;
            }
        }
    }
    return rc;
}

/* libuv has the handle in its loop also when it fails: then it is closed. */
static int
start(UvtHandle *self, UvtLoop *loop_arg, Spawn *spawn)
{
    struct sigaction before;
    UvtBlocking blocking;
    UvtLoop *loop;
    int rc;
    if (!uvt_handle_init_begin(self, (PyObject *)loop_arg, UV_PROCESS,
                               UVT_EXC_PROCESS, sizeof(UvtProcessBox), &loop)) {
        return -1;
    }
    uvt_sigchld_save(&before);
    uvt_children_watch(loop->core);
    blocking = uvt_blocking_begin(loop);
    uvt_low_take(loop->st);
    rc = uv_spawn(&loop->core->uv, (uv_process_t *)&self->box->uv,
                  &spawn->options);
    uvt_low_give(loop->st);
    uvt_blocking_end(loop, blocking);
    if (uvt_handle_init_done(self, loop, 0, "uv_spawn") < 0) {
        return -1;
    }
    if (rc < 0) {
        uvt_sigchld_put_back(&before);
        uvt_handle_close(self);
        uvt_handle_raise(self, rc, "uv_spawn");
        return -1;
    }
    ((UvtProcess *)self)->pid = uv_process_get_pid((uv_process_t *)
                                                   &self->box->uv);
    uvt_handle_update(self);
    uvt_child_begin(loop, self->box, &before);
    return 0;
}

/* A new object of the class, which is not spawned. */
UVT_NEW static UvtHandle *
make(PyObject *cls, UvtState *st, PyObject *loop)
{
    PyObject *self = PyObject_CallOneArg(cls, loop);
    if (self == NULL) {
        return NULL;
    }
    if (!PyObject_TypeCheck(self, st->process_type)
        || ((UvtHandle *)self)->initialised) {
        PyErr_Format(PyExc_TypeError,
                     CALL "(): the class made no fresh Process, but %.200s",
                     Py_TYPE(self)->tp_name);
        Py_CLEAR(self);
    }
    return (UvtHandle *)self;
}

static PyObject *
or_none(PyObject *arg)
{
    return arg != NULL ? arg : Py_None;
}

/* For the audit event: what will be started. */
static PyObject *
program_of(PyObject *const *given)
{
    PyObject *args = given[ARGS];
    if (is_given(given[EXECUTABLE])) {
        return given[EXECUTABLE];
    }
    if (PyTuple_Check(args) && PyTuple_GET_SIZE(args) > 0) {
        return PyTuple_GET_ITEM(args, 0);
    }
    if (PyList_Check(args) && PyList_GET_SIZE(args) > 0) {
        return PyList_GET_ITEM(args, 0);
    }
    return args;
}

const char uvt_process_spawn_doc[] =
"spawn($type, /, loop, args, executable=None, env=None, cwd=None, uid=0,\n"
"      gid=0, flags=0, stdio=None, exit_callback=None)\n--\n\n"
"Start a program and return its Process.\n\n"
"args: its arguments, the name first: a sequence of str, bytes or os.PathLike, or\n"
"one of them alone.  executable: the file, args[0] if not given; without a slash\n"
"it is looked for in the PATH of the child.  env: a mapping that is the whole\n"
"environment, None for the one of this process.  cwd: its folder.  flags:\n"
"UV_PROCESS_SETUID with uid, UV_PROCESS_SETGID with gid, UV_PROCESS_DETACHED (a\n"
"session of its own), UV_PROCESS_WINDOWS_*.  stdio: a StdIO, or None for\n"
"/dev/null, for each descriptor of the child from 0 on; 0 to 2 are /dev/null if\n"
"not given.  exit_callback(process, exit_status, term_signal) is called when it\n"
"has ended, unless the handle is closed before.\n\n"
"Descriptors above those of stdio are inherited when they are inheritable.  Other\n"
"threads run while it forks.\n\n"
"Raises TypeError, ValueError, RuntimeError (the loop), HandleClosedError (a\n"
"stream), ProcessError (ENOENT: no such program or cwd; EACCES, EPERM, EAGAIN).";

PyObject *
uvt_process_spawn(PyObject *cls, PyObject *const *args, Py_ssize_t nargs,
                  PyObject *kwnames)
{
    UvtState *st = uvt_state_of_type((PyTypeObject *)cls);
    PyObject *given[COUNT], *callback;
    UvtHandle *self = NULL;
    UvtLoop *loop;
    Spawn spawn;
    int rc;

    if (st == NULL
        || !uvt_args_bind(CALL, args, nargs, kwnames, names, COUNT, 2, given)
        || !uvt_arg_callback(CALL, given[EXIT_CALLBACK], &callback)
        || PySys_Audit("subprocess.Popen", "OOOO", program_of(given), given[ARGS],
                       or_none(given[CWD]), or_none(given[ENV])) < 0) {
        return NULL;
    }
    UVT_LOCKED(uvt_lock_of(st, given[LOOP]));
    if (!uvt_loop_check_arg(st, given[LOOP])) {
        return NULL;
    }
    loop = (UvtLoop *)given[LOOP];
    memset(&spawn, 0, sizeof(spawn));
    spawn.null_fd = -1;
    spawn.options.exit_cb = uvt_on_exit;
    spawn.owned = PyList_New(0);
    if (spawn.owned != NULL) {
        self = make(cls, st, given[LOOP]);
    }
    if (self != NULL
        && (!get_options(&spawn, loop, given)
            || !uvt_loop_check(loop)
            || uvt_children_prepare(loop) < 0
            || start(self, loop, &spawn) < 0)) {
        Py_CLEAR(self);
    }
    if (self != NULL) {
        self->callback = Py_XNewRef(callback);
        rc = guard_pipes(&spawn, loop);
        if (rc < 0) {
            uvt_handle_raise(self, rc, "uv_spawn");
            Py_CLEAR(self);
        }
    }
    free_options(&spawn);
    return (PyObject *)self;
}
