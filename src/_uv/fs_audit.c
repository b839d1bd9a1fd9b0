/* The audit events of uv.fs: those that `open()`, `os` and `shutil` raise for the
 * same.  What these do without an event has none here.  Runs attached, on any
 * thread, before the arguments are looked at.
 */
#include "audit.h"
#include <string.h>

/* In the order of the operation's arguments; a letter for each of the event's:
 * 0 to 3 an argument, N None, M -1. */
static const struct {
    const char *operation, *event, *arguments;
} events[] = {
    {"open", "open", "0N1"},
    {"unlink", "os.remove", "0M"},
    {"mkdir", "os.mkdir", "01M"},
    {"rmdir", "os.rmdir", "0M"},
    {"rename", "os.rename", "01MM"},
    {"link", "os.link", "01MM"},
    {"symlink", "os.symlink", "01M"},
    {"chmod", "os.chmod", "01M"},
    {"fchmod", "os.chmod", "01M"},
    {"chown", "os.chown", "012M"},
    {"lchown", "os.chown", "012M"},
    {"fchown", "os.chown", "012M"},
    {"ftruncate", "os.truncate", "01"},
    {"utime", "os.utime", "01NM"},
    {"lutime", "os.utime", "01NM"},
    {"futime", "os.utime", "01NM"},
    {"scandir", "os.scandir", "0"},
    {"opendir", "os.scandir", "0"},
    {"copyfile", "shutil.copyfile", "01"},
    {"mkdtemp", "tempfile.mkdtemp", "0"},
    {"mkstemp", "tempfile.mkstemp", "0"},
};

static PyObject *
argument(char letter, const char *operation, PyObject *const *given)
{
    if (letter == 'M') {
        return PyLong_FromLong(-1);
    }
    if (letter == 'N') {
        return Py_NewRef(Py_None);
    }
    if (given[letter - '0'] != NULL) {
        return Py_NewRef(given[letter - '0']);
    }
    return strcmp(operation, "mkdir") == 0 ? PyLong_FromLong(0777)
                                           : Py_NewRef(Py_None);
}

/* The times of utime(), as os.utime() has them. */
static PyObject *
times(PyObject *const *given)
{
    return PyTuple_Pack(2, given[1] != NULL ? given[1] : Py_None,
                        given[2] != NULL ? given[2] : Py_None);
}

static bool
raise_event(size_t index, PyObject *const *given)
{
    const char *operation = events[index].operation;
    const char *letters = events[index].arguments;
    bool has_times = strcmp(events[index].event, "os.utime") == 0;
    PyObject *args[4] = {NULL};
    size_t count = strlen(letters);
    int rc = 0;
    for (size_t i = 0; i < count && rc == 0; i++) {
        args[i] = has_times && i == 1 ? times(given)
                                      : argument(letters[i], operation, given);
        rc = args[i] != NULL ? 0 : -1;
    }
    if (rc == 0) {
        /* The surplus ones are not looked at. */
        static const char *const formats[] = {"", "(O)", "OO", "OOO", "OOOO"};
        rc = PySys_Audit(events[index].event, formats[count], args[0], args[1],
                         args[2], args[3]);
    }
    for (size_t i = 0; i < count; i++) {
        Py_XDECREF(args[i]);
    }
    return rc == 0;
}

bool
uvt_fs_audit(const char *operation, PyObject *const *given)
{
    if (!uvt_audited()) {
        return true;
    }
    for (size_t i = 0; i < sizeof(events) / sizeof(*events); i++) {
        if (strcmp(events[i].operation, operation) == 0) {
            return raise_event(i, given);
        }
    }
    return true;
}
