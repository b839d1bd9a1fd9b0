/* uv.util: the title of the process, which is where its arguments were.  All
 * functions run attached, on any thread; libuv keeps the title, for the whole
 * process.
 *
 * libuv writes into the memory of argv, which main() has to show it first
 * (uv_setup_args).  A module has no argv: the kernel tells where its strings
 * are, in the fields 48 and 49 of /proc/self/stat.  Where it does not, as in a
 * sandbox, libuv is not asked and there is no title.
 */
#include "util.h"
#include "errors.h"

#include <stdio.h>
#include <string.h>

#define ARG_START 48
#define MAX_ARGS_SIZE (1 << 22)

/* Both numbers; the text begins with field 3. */
static bool
read_fields(const char *text, unsigned long *start, unsigned long *end)
{
    for (int field = 3; field < ARG_START; field++) {
        text = strchr(text, ' ');
        if (text == NULL) {
            return false;
        }
        text++;
    }
    return sscanf(text, "%lu %lu", start, end) == 2;
}

/* Where the arguments are in memory.  The program's name, which is field 2, may
 * contain anything but ends with the last parenthesis. */
static bool
find_args(char **start, char **end)
{
    char text[2048], *after;
    unsigned long from, to;
    size_t size;
    FILE *file = fopen("/proc/self/stat", "re");
    if (file == NULL) {
        return false;
    }
    size = fread(text, 1, sizeof(text) - 1, file);
    (void)fclose(file);
    text[size] = '\0';
    after = strrchr(text, ')');
    if (after == NULL || after[1] == '\0'
        || !read_fields(after + 2, &from, &to) || from == 0 || to <= from
        || to - from > MAX_ARGS_SIZE) {
        return false;
    }
    *start = (char *)from;
    *end = (char *)to;
    return (*end)[-1] == '\0';
}

static int
count_strings(const char *start, const char *end)
{
    int count = 0;
    while (start < end) {
        start += strlen(start) + 1;
        count++;
    }
    return count;
}

/* Shows libuv the arguments; it makes a copy of them, and keeps no pointer but
 * that to the first.  Until then it has no title: its calls return UV_ENOBUFS. */
static void
set_up_args(void)
{
    char *start, *end, **argv;
    int count;
    if (!find_args(&start, &end)) {
        return;
    }
    count = count_strings(start, end);
    argv = PyMem_Calloc((size_t)count + 1, sizeof(char *));
    if (argv == NULL) {
        return;
    }
    for (int i = 0; i < count; i++) {
        argv[i] = start;
        start += strlen(start) + 1;
    }
    (void)uv_setup_args(count, argv);
    PyMem_Free(argv);
}

PyDoc_STRVAR(get_process_title_doc,
"get_process_title($module, /)\n--\n\n"
"The title of the process (str), which begins as the program's name.\n\n"
"Raises UVError (ENOBUFS: the system does not tell where it is).");

static PyObject *
title_get(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    char *title = PyMem_Malloc(MAX_ARGS_SIZE);
    PyObject *result;
    int rc;
    if (title == NULL) {
        return PyErr_NoMemory();
    }
    rc = uv_get_process_title(title, MAX_ARGS_SIZE);
    if (rc == UV_ENOBUFS) {
        set_up_args();
        rc = uv_get_process_title(title, MAX_ARGS_SIZE);
    }
    result = rc < 0 ? uvt_raise(uvt_state(module), UVT_EXC_UV, rc,
                                "uv_get_process_title")
                    : PyUnicode_DecodeFSDefault(title);
    PyMem_Free(title);
    return result;
}

PyDoc_STRVAR(set_process_title_doc,
"set_process_title($module, title, /)\n--\n\n"
"Set what ps and top show of the process (str).  It is cut to the room that the\n"
"program's arguments have; the main thread is named so, too.\n\n"
"Raises UVError (ENOBUFS: the system does not tell where it is), ValueError (a\n"
"null character).");

static PyObject *
title_set(PyObject *module, PyObject *arg)
{
    PyObject *title;
    int rc;
    if (!PyUnicode_Check(arg)) {
        PyErr_Format(PyExc_TypeError,
                     "set_process_title(): 'title' must be a str, not %.200s",
                     Py_TYPE(arg)->tp_name);
        return NULL;
    }
    if (!PyUnicode_FSConverter(arg, &title)) {
        return NULL;
    }
    rc = uv_set_process_title(PyBytes_AS_STRING(title));
    if (rc == UV_ENOBUFS) {
        set_up_args();
        rc = uv_set_process_title(PyBytes_AS_STRING(title));
    }
    Py_DECREF(title);
    if (rc < 0) {
        return uvt_raise(uvt_state(module), UVT_EXC_UV, rc,
                         "uv_set_process_title");
    }
    Py_RETURN_NONE;
}

PyMethodDef uvt_os_title_functions[] = {
    {"get_process_title", title_get, METH_NOARGS, get_process_title_doc},
    {"set_process_title", title_set, METH_O, set_process_title_doc},
    {NULL},
};
