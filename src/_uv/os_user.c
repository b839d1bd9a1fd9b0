/* uv.util: the names of the system, its users and groups, and its clocks, as
 * struct sequences.  All functions run attached, on any thread; what libuv
 * allocates is freed before they return.
 */
#include "util.h"
#include "args.h"
#include "errors.h"

#include <limits.h>

/* ---- names of the system and of users ---- */

static PyStructSequence_Field uname_fields[] = {
    {"sysname", "as 'Linux'"},
    {"release", "the kernel's version"},
    {"version", "and its build"},
    {"machine", "as 'x86_64'"},
    {NULL},
};

static PyStructSequence_Desc uname_desc = {
    "uvtulip._uv.util.uname_result", "The operating system.", uname_fields, 4,
};

PyDoc_STRVAR(uname_doc,
"uname($module, /)\n--\n\n"
"The operating system: (sysname, release, version, machine).  Raises UVError.");

static PyObject *
user_uname(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    UvtState *st = uvt_state(module);
    uv_utsname_t found;
    int rc = uv_os_uname(&found);
    PyObject *self;
    if (rc < 0) {
        return uvt_raise(st, UVT_EXC_UV, rc, "uv_os_uname");
    }
    self = PyStructSequence_New(st->seq[UVT_SEQ_UNAME]);
    if (self == NULL) {
        return NULL;
    }
    PyStructSequence_SetItem(self, 0, PyUnicode_DecodeFSDefault(found.sysname));
    PyStructSequence_SetItem(self, 1, PyUnicode_DecodeFSDefault(found.release));
    PyStructSequence_SetItem(self, 2, PyUnicode_DecodeFSDefault(found.version));
    PyStructSequence_SetItem(self, 3, PyUnicode_DecodeFSDefault(found.machine));
    return uvt_seq_done(self, 4);
}

static PyStructSequence_Field passwd_fields[] = {
    {"username", NULL},
    {"uid", NULL},
    {"gid", NULL},
    {"shell", NULL},
    {"homedir", NULL},
    {NULL},
};

static PyStructSequence_Desc passwd_desc = {
    "uvtulip._uv.util.passwd", "An entry of the user database.", passwd_fields, 5,
};

/* Numbers of the size that the system has: -1 for none. */
static PyObject *
id_number(unsigned long id)
{
    return id == ULONG_MAX ? PyLong_FromLong(-1) : PyLong_FromUnsignedLong(id);
}

static PyObject *
text_or_empty(const char *text)
{
    return PyUnicode_DecodeFSDefault(text != NULL ? text : "");
}

static PyObject *
make_passwd(UvtState *st, const uv_passwd_t *found)
{
    PyObject *self = PyStructSequence_New(st->seq[UVT_SEQ_PASSWD]);
    if (self == NULL) {
        return NULL;
    }
    PyStructSequence_SetItem(self, 0, text_or_empty(found->username));
    PyStructSequence_SetItem(self, 1, id_number(found->uid));
    PyStructSequence_SetItem(self, 2, id_number(found->gid));
    PyStructSequence_SetItem(self, 3, text_or_empty(found->shell));
    PyStructSequence_SetItem(self, 4, text_or_empty(found->homedir));
    return uvt_seq_done(self, 5);
}

PyDoc_STRVAR(get_passwd_doc,
"get_passwd($module, uid=None, /)\n--\n\n"
"The user database's entry of the process's effective user, or of another one:\n"
"(username, uid, gid, shell, homedir).  Another user needs libuv 1.45.\n\n"
"Raises UVError (ENOENT: no such user; ENOSYS: an older libuv).");

static PyObject *
user_get_passwd(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    UvtState *st = uvt_state(module);
    uv_passwd_t found;
    PyObject *result;
    int uid, rc;
    if (!uvt_args_count("get_passwd", nargs, 0, 1)) {
        return NULL;
    }
    if (nargs == 0 || args[0] == Py_None) {
        rc = uv_os_get_passwd(&found);
    }
    else if (!uvt_arg_int("get_passwd", "uid", args[0], 0, INT_MAX, &uid)) {
        return NULL;
    }
    else {
#if UV_VERSION_HEX >= 0x012D00
        rc = uv_os_get_passwd2(&found, (uv_uid_t)uid);
#else
        rc = UV_ENOSYS;
#endif
    }
    if (rc < 0) {
        return uvt_raise(st, UVT_EXC_UV, rc, "uv_os_get_passwd");
    }
    result = make_passwd(st, &found);
    uv_os_free_passwd(&found);
    return result;
}

#if UV_VERSION_HEX >= 0x012D00
static PyStructSequence_Field group_fields[] = {
    {"groupname", NULL},
    {"gid", NULL},
    {"members", "a list of names"},
    {NULL},
};

static PyStructSequence_Desc group_desc = {
    "uvtulip._uv.util.group", "An entry of the group database.", group_fields, 3,
};

static PyObject *
make_group(UvtState *st, const uv_group_t *found)
{
    PyObject *members = PyList_New(0), *self;
    for (char **name = found->members; members != NULL && *name != NULL; name++) {
        PyObject *text = PyUnicode_DecodeFSDefault(*name);
        if (text == NULL || PyList_Append(members, text) < 0) {
            Py_CLEAR(members);
        }
        Py_XDECREF(text);
    }
    self = members != NULL ? PyStructSequence_New(st->seq[UVT_SEQ_GROUP]) : NULL;
    if (self == NULL) {
        Py_XDECREF(members);
        return NULL;
    }
    PyStructSequence_SetItem(self, 0, text_or_empty(found->groupname));
    PyStructSequence_SetItem(self, 1, id_number(found->gid));
    PyStructSequence_SetItem(self, 2, members);     /* stolen */
    return uvt_seq_done(self, 3);
}

PyDoc_STRVAR(get_group_doc,
"get_group($module, gid, /)\n--\n\n"
"The group database's entry of a group: (groupname, gid, members).  Since libuv\n"
"1.45.  Raises UVError (ENOENT).");

static PyObject *
user_get_group(PyObject *module, PyObject *arg)
{
    UvtState *st = uvt_state(module);
    uv_group_t found;
    PyObject *result;
    int gid, rc;
    if (!uvt_arg_int("get_group", "gid", arg, 0, INT_MAX, &gid)) {
        return NULL;
    }
    rc = uv_os_get_group(&found, (uv_uid_t)gid);
    if (rc < 0) {
        return uvt_raise(st, UVT_EXC_UV, rc, "uv_os_get_group");
    }
    result = make_group(st, &found);
    uv_os_free_group(&found);
    return result;
}
#endif

/* ---- clocks ---- */

static PyStructSequence_Field timeval_fields[] = {
    {"sec", NULL},
    {"usec", "microseconds"},
    {NULL},
};

static PyStructSequence_Desc timeval_desc = {
    "uvtulip._uv.util.timeval", "A time since 1970.", timeval_fields, 2,
};

PyDoc_STRVAR(gettimeofday_doc,
"gettimeofday($module, /)\n--\n\n"
"The time since 1970: (sec, usec), two ints.  Raises UVError.");

static PyObject *
user_gettimeofday(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    UvtState *st = uvt_state(module);
    uv_timeval64_t now;
    int rc = uv_gettimeofday(&now);
    PyObject *self;
    if (rc < 0) {
        return uvt_raise(st, UVT_EXC_UV, rc, "uv_gettimeofday");
    }
    self = PyStructSequence_New(st->seq[UVT_SEQ_TIMEVAL]);
    if (self == NULL) {
        return NULL;
    }
    PyStructSequence_SetItem(self, 0, PyLong_FromLongLong(now.tv_sec));
    PyStructSequence_SetItem(self, 1, PyLong_FromLong(now.tv_usec));
    return uvt_seq_done(self, 2);
}

#if UV_VERSION_HEX >= 0x012D00
static PyStructSequence_Field timespec_fields[] = {
    {"sec", NULL},
    {"nsec", "nanoseconds"},
    {NULL},
};

static PyStructSequence_Desc timespec_desc = {
    "uvtulip._uv.util.timespec", "The time of a clock.", timespec_fields, 2,
};

PyDoc_STRVAR(clock_gettime_doc,
"clock_gettime($module, clock, /)\n--\n\n"
"The time of UV_CLOCK_MONOTONIC or UV_CLOCK_REALTIME: (sec, nsec), two ints.\n"
"Raises UVError (EINVAL).  Since libuv 1.45.");

static PyObject *
user_clock_gettime(PyObject *module, PyObject *arg)
{
    UvtState *st = uvt_state(module);
    uv_timespec64_t now;
    PyObject *self;
    int clock, rc;
    if (!uvt_arg_int("clock_gettime", "clock", arg, INT_MIN, INT_MAX, &clock)) {
        return NULL;
    }
    rc = uv_clock_gettime((uv_clock_id)clock, &now);
    if (rc < 0) {
        return uvt_raise(st, UVT_EXC_UV, rc, "uv_clock_gettime");
    }
    self = PyStructSequence_New(st->seq[UVT_SEQ_TIMESPEC]);
    if (self == NULL) {
        return NULL;
    }
    PyStructSequence_SetItem(self, 0, PyLong_FromLongLong(now.tv_sec));
    PyStructSequence_SetItem(self, 1, PyLong_FromLong(now.tv_nsec));
    return uvt_seq_done(self, 2);
}
#endif

/* ---- tables ---- */

PyMethodDef uvt_os_user_functions[] = {
    {"uname", user_uname, METH_NOARGS, uname_doc},
    {"get_passwd", (PyCFunction)(void (*)(void))user_get_passwd, METH_FASTCALL,
     get_passwd_doc},
    {"gettimeofday", user_gettimeofday, METH_NOARGS, gettimeofday_doc},
#if UV_VERSION_HEX >= 0x012D00
    {"get_group", user_get_group, METH_O, get_group_doc},
    {"clock_gettime", user_clock_gettime, METH_O, clock_gettime_doc},
#endif
    {NULL},
};

int
uvt_os_user_setup(PyObject *submodule, UvtState *st)
{
#if UV_VERSION_HEX >= 0x012D00
    if (uvt_add_seq(submodule, st, UVT_SEQ_GROUP, &group_desc) < 0
        || uvt_add_seq(submodule, st, UVT_SEQ_TIMESPEC, &timespec_desc) < 0) {
        return -1;
    }
#endif
    if (uvt_add_seq(submodule, st, UVT_SEQ_UNAME, &uname_desc) < 0
        || uvt_add_seq(submodule, st, UVT_SEQ_PASSWD, &passwd_desc) < 0) {
        return -1;
    }
    return uvt_add_seq(submodule, st, UVT_SEQ_TIMEVAL, &timeval_desc);
}
