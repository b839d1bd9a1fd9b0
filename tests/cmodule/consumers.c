/* A client of uvtulip's C API that gives its handle up in the middle of each event, and
 * one that expects no event at all.  Built by test_consumers.py against the installed
 * header.
 *
 *     owner = consumers.take(handle, "keep" | "release" | "close" | "none")
 *     consumers.start(handle)
 *     consumers.events()       # {name: count}, and begins anew
 *     consumers.freed()        # owners freed (between events, inside of one)
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <string.h>
#include "uv_capi.h"

static const UvtCAPI *uv;
static char mode;               /* the first letter of take()'s argument */
static int depth;               /* inside of how many events */
static int freed_outside, freed_inside;
static PyObject *seen;          /* {name: count} */
static char room[65536];

typedef struct {
    PyObject_HEAD
    PyObject *handle;           /* borrowed: the test has it */
} Owner;

static void
owner_dealloc(PyObject *self)
{
    PyTypeObject *tp = Py_TYPE(self);
    depth > 0 ? freed_inside++ : freed_outside++;
    PyObject_Free(self);
    Py_DECREF(tp);
}

static PyType_Slot owner_slots[] = {
    {Py_tp_dealloc, owner_dealloc},
    {0, NULL},
};

static PyType_Spec owner_spec = {
    .name = "consumers.Owner",
    .basicsize = sizeof(Owner),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = owner_slots,
};

static void
count(const char *name)
{
    PyObject *old = PyDict_GetItemString(seen, name);
    PyObject *new = PyLong_FromLong(old != NULL ? PyLong_AsLong(old) + 1 : 1);
    PyDict_SetItemString(seen, name, new);
    Py_DECREF(new);
}

/* What each event does; the owner is looked at when the handle is given up. */
static void
event(PyObject *owner, const char *name)
{
    PyObject *handle = ((Owner *)owner)->handle;
    depth++;
    count(name);
    if (mode == 'r') {
        uv->release(handle);
    }
    else if (mode == 'c') {
        uv->close(handle);
    }
    if (((Owner *)owner)->handle != handle || Py_REFCNT(owner) < 1) {
        count("broken");
    }
    depth--;
}

static void
on_alloc(PyObject *owner, size_t size, uv_buf_t *buf)
{
    *buf = uv_buf_init(room, size < sizeof(room) ? (unsigned)size : sizeof(room));
    event(owner, "alloc");
}

static void
on_read(PyObject *owner, ssize_t nread, const uv_buf_t *buf)
{
    (void)buf;
    event(owner, nread < 0 ? "end" : "read");
}

static void
on_connection(PyObject *owner, int status)
{
    (void)status;
    event(owner, "connection");
}

static void
on_ready(PyObject *owner, int status, int events)
{
    (void)status, (void)events;
    event(owner, "ready");
}

static void
on_fired(PyObject *owner)
{
    event(owner, "fired");
}

static void
on_signalled(PyObject *owner, int signum)
{
    (void)signum;
    event(owner, "signalled");
}

static void
on_datagram(PyObject *owner, ssize_t nread, const uv_buf_t *buf,
            const struct sockaddr *addr, unsigned flags)
{
    (void)nread, (void)buf, (void)addr, (void)flags;
    event(owner, "datagram");
}

static void
on_closed(PyObject *owner)
{
    event(owner, "closed");
}

static void
on_readable(PyObject *owner)
{
    event(owner, "readable");
}

#define EVENTS \
    .read = on_read, .connection = on_connection, .ready = on_ready, \
    .fired = on_fired, .signalled = on_signalled, .datagram = on_datagram, \
    .closed = on_closed

static const UvtConsumer plain = {EVENTS};
static const UvtConsumer lends = {.alloc = on_alloc, EVENTS};
static const UvtConsumer announced = {.readable = on_readable, EVENTS};
static const UvtConsumer nothing = {.fired = NULL};

static PyObject *
take(PyObject *module, PyObject *args)
{
    const char *how, *with = "plain";
    PyObject *handle;
    Owner *owner;
    int rc;
    const UvtConsumer *consumer;
    (void)module;
    if (!PyArg_ParseTuple(args, "Os|s", &handle, &how, &with)) {
        return NULL;
    }
    mode = how[0];
    consumer = mode == 'n' ? &nothing : with[0] == 'l' ? &lends
        : with[0] == 'a' ? &announced : &plain;
    owner = PyObject_New(Owner, (PyTypeObject *)PyObject_GetAttrString(module, "Owner"));
    if (owner == NULL) {
        return NULL;
    }
    owner->handle = handle;
    rc = uv->consume(handle, consumer, (PyObject *)owner);
    Py_DECREF(owner);
    if (rc < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
start(PyObject *module, PyObject *handle)
{
    uv_handle_t *raw = uv->handle_uv(handle, UV_UNKNOWN_HANDLE);
    int rc = 0;
    (void)module;
    if (raw == NULL) {
        return NULL;
    }
    switch (raw->type) {
    case UV_TIMER:
        rc = uv->timer_start(handle, 0, 1);
        break;
    case UV_ASYNC:
        rc = uv_async_send((uv_async_t *)raw);
        break;
    case UV_POLL:
        rc = uv->poll_start(handle, UV_READABLE);
        break;
    case UV_UDP:
        rc = uv->udp_recv_start(handle);
        break;
    case UV_TCP:
    case UV_NAMED_PIPE:
        rc = uv_is_readable((uv_stream_t *)raw) ? uv->read_start(handle)
                                                : uv->listen(handle, 5);
        break;
    default:
        rc = UV_ENOTSUP;
        break;
    }
    return PyLong_FromLong(rc);
}

static PyObject *
release(PyObject *module, PyObject *handle)
{
    (void)module;
    uv->release(handle);
    Py_RETURN_NONE;
}

static PyObject *
events(PyObject *module, PyObject *unused)
{
    PyObject *result = PyDict_Copy(seen);
    (void)module, (void)unused;
    PyDict_Clear(seen);
    return result;
}

static PyObject *
freed(PyObject *module, PyObject *unused)
{
    PyObject *result = Py_BuildValue("(ii)", freed_outside, freed_inside);
    (void)module, (void)unused;
    freed_outside = freed_inside = 0;
    return result;
}

static PyMethodDef methods[] = {
    {"take", take, METH_VARARGS, "take(handle, how, with='plain')"},
    {"start", start, METH_O, "start(handle)"},
    {"release", release, METH_O, "release(handle)"},
    {"events", events, METH_NOARGS, "events()"},
    {"freed", freed, METH_NOARGS, "freed()"},
    {NULL},
};

static struct PyModuleDef consumers_module = {
    PyModuleDef_HEAD_INIT, .m_name = "consumers", .m_size = -1, .m_methods = methods,
};

PyMODINIT_FUNC
PyInit_consumers(void)
{
    PyObject *module = PyModule_Create(&consumers_module);
    PyObject *type;
    if (module == NULL) {
        return NULL;
    }
#ifdef Py_GIL_DISABLED
    PyUnstable_Module_SetGIL(module, Py_MOD_GIL_NOT_USED);
#endif
    uv = uvt_capi_import();
    seen = PyDict_New();
    type = PyType_FromSpec(&owner_spec);
    if (uv == NULL || seen == NULL || type == NULL
        || PyModule_AddObject(module, "Owner", type) < 0) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
