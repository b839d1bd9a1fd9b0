/* The table behind uv_capi.h and its capsule.  The table is allocated for each
 * module and freed with the module's state: at the end of the interpreter objects
 * use it that are collected after the capsule.  All functions run attached, on the
 * loop's thread.
 */
#include "uv_capi.h"
#include "errors.h"
#include "guards.h"
#include "signals.h"
#include "uvpoll.h"
#include "sockaddr.h"
#include "udp.h"

/* The state is the one of the type's own module: a handle or loop of another
 * interpreter does not pass. */
static UvtLoop *
as_loop(PyObject *obj)
{
    UvtState *st = PyType_HasFeature(Py_TYPE(obj), Py_TPFLAGS_HEAPTYPE)
        ? uvt_state_of_type(Py_TYPE(obj)) : NULL;
    if (st == NULL || !PyObject_TypeCheck(obj, st->loop_type)) {
        PyErr_Format(PyExc_TypeError, "expected a uvtulip.uv.Loop, got %.200s",
                     Py_TYPE(obj)->tp_name);
        return NULL;
    }
    return (UvtLoop *)obj;
}

static UvtHandle *
as_handle(PyObject *obj)
{
    UvtState *st = PyType_HasFeature(Py_TYPE(obj), Py_TPFLAGS_HEAPTYPE)
        ? uvt_state_of_type(Py_TYPE(obj)) : NULL;
    if (st == NULL || !PyObject_TypeCheck(obj, st->handle_type)) {
        PyErr_Format(PyExc_TypeError, "expected a uvtulip.uv handle, got %.200s",
                     Py_TYPE(obj)->tp_name);
        return NULL;
    }
    return (UvtHandle *)obj;
}

/* ---- loops ---- */

static PyObject *
capi_loop_new(void *state)
{
    return PyObject_CallNoArgs((PyObject *)((UvtState *)state)->loop_type);
}

static uv_loop_t *
capi_loop_uv(PyObject *obj)
{
    UvtLoop *loop = as_loop(obj);
    if (loop == NULL || !uvt_loop_check(loop)) {
        return NULL;
    }
    return &loop->core->uv;
}

static int
capi_loop_hooks(PyObject *obj, const UvtLoopHooks *hooks, PyObject *owner)
{
    UvtLoop *loop = as_loop(obj);
    if (loop == NULL) {
        return -1;
    }
    loop->hooks = hooks;
    Py_XSETREF(loop->hooks_owner, hooks != NULL ? Py_NewRef(owner) : NULL);
    return 0;
}

static int
capi_loop_run_begin(PyObject *loop)
{
    return uvt_loop_run_begin((UvtLoop *)loop);
}

static int
capi_loop_turn(PyObject *loop, uv_run_mode mode)
{
    return uvt_loop_turn((UvtLoop *)loop, mode);
}

static void
capi_loop_run_end(PyObject *loop)
{
    uvt_loop_run_end((UvtLoop *)loop);
}

static int
capi_loop_close(PyObject *obj)
{
    UvtLoop *loop = as_loop(obj);
    return loop == NULL ? -1 : uvt_loop_close(loop);
}

static int
capi_loop_close_begin(PyObject *obj)
{
    UvtLoop *loop = as_loop(obj);
    return loop == NULL ? -1 : uvt_loop_close_begin(loop);
}

static bool
capi_loop_is_closed(PyObject *loop)
{
    return uvt_loop_is_closed((UvtLoop *)loop);
}

static void
capi_loop_report(PyObject *loop, PyObject *what)
{
    uvt_loop_report((UvtLoop *)loop, what);
}

static void
capi_loop_metrics(PyObject *loop, UvtLoopMetrics *out)
{
    uvt_loop_read_metrics((UvtLoop *)loop, out);
}

static PyObject *
capi_loop_lock(PyObject *loop)
{
#ifdef Py_GIL_DISABLED
    return ((UvtLoop *)loop)->lock;
#else
    (void)loop;
    return NULL;
#endif
}

static bool
capi_loop_has_work(PyObject *loop, int64_t now)
{
    return uvt_loop_has_work((UvtLoop *)loop, now);
}

static void
capi_loop_fresh_fd(PyObject *loop, int fd)
{
    UvtCore *core = ((UvtLoop *)loop)->core;
    if (core != NULL) {
        uvt_guard_stale_fd(core, fd);
    }
}

static void
capi_attach(uv_loop_t *uv)
{
    UvtLoop *loop = uvt_loop_of(uv);
    if (loop != NULL) {
        uvt_loop_attach(loop);
    }
}

/* ---- handles ---- */

static PyObject *
capi_tcp_new(PyObject *loop, unsigned flags)
{
    return as_loop(loop) == NULL ? NULL : uvt_tcp_create(loop, flags);
}

static PyObject *
capi_pipe_new(PyObject *loop, int ipc)
{
    return as_loop(loop) == NULL ? NULL : uvt_pipe_create(loop, ipc);
}

static PyObject *
capi_timer_new(PyObject *loop)
{
    return as_loop(loop) == NULL ? NULL : uvt_timer_create(loop);
}

static PyObject *
capi_async_new(PyObject *loop)
{
    return as_loop(loop) == NULL ? NULL : uvt_async_create(loop);
}

static PyObject *
capi_poll_new(PyObject *loop, int fd)
{
    return as_loop(loop) == NULL ? NULL : uvt_poll_create(loop, fd);
}

static uv_handle_t *
capi_handle_uv(PyObject *obj, uv_handle_type type)
{
    UvtHandle *self = as_handle(obj);
    if (self == NULL || !uvt_handle_check(self)) {
        return NULL;
    }
    if (type != UV_UNKNOWN_HANDLE && type != self->kind) {
        PyErr_Format(PyExc_TypeError, "expected a %s handle, got %.200s",
                     uv_handle_type_name(type), Py_TYPE(obj)->tp_name);
        return NULL;
    }
    return &self->box->uv.handle;
}

static int
capi_consume(PyObject *obj, const UvtConsumer *consumer, PyObject *owner)
{
    UvtHandle *self = as_handle(obj);
    return self != NULL && uvt_handle_consume(self, consumer, owner) ? 0 : -1;
}

static PyObject *
capi_consumer_owner(PyObject *handle)
{
    return ((UvtHandle *)handle)->consumer_owner;
}

static void
stop(UvtHandle *self)
{
    switch (self->kind) {
    case UV_TCP:
    case UV_NAMED_PIPE:
    case UV_TTY:
        uvt_stream_read_stop(self);
        break;
    case UV_UDP:
        uvt_udp_recv_stop(self);
        break;
    case UV_POLL:
        uvt_poll_stop(&self->box->uv.poll);
        break;
    case UV_TIMER:
        (void)uv_timer_stop(&self->box->uv.timer);
        break;
    case UV_SIGNAL:
        uvt_signal_unwatch(&self->box->uv.signal);
        break;
    case UV_IDLE:
        (void)uv_idle_stop(&self->box->uv.idle);
        break;
    case UV_PREPARE:
        (void)uv_prepare_stop(&self->box->uv.prepare);
        break;
    case UV_CHECK:
        (void)uv_check_stop(&self->box->uv.check);
        break;
    default:
        break;
    }
}

/* A handle that libuv may be called on: a client may ask on a closed one. */
static bool
is_open(PyObject *handle)
{
    UvtHandle *self = (UvtHandle *)handle;
    return self->box != NULL && !uv_is_closing(&self->box->uv.handle)
        && !((UvtCore *)self->box->uv.handle.loop->data)->forked;
}

static void
capi_release(PyObject *obj)
{
    UvtHandle *self = (UvtHandle *)obj;
    PyObject *owner = self->consumer_owner;
    if (self->consumer == NULL) {
        return;
    }
    Py_INCREF(self);
    if (is_open(obj)) {
        stop(self);
    }
    self->consumer = NULL;
    self->consumer_owner = NULL;
    Py_DECREF(owner);
    uvt_handle_update(self);
    Py_DECREF(self);
}

static void
capi_close(PyObject *handle)
{
    uvt_handle_close((UvtHandle *)handle);
}

static int
capi_read_start(PyObject *handle)
{
    return is_open(handle) ? uvt_stream_read_start((UvtHandle *)handle)
                           : UV_EINVAL;
}

static void
capi_read_stop(PyObject *handle)
{
    if (is_open(handle)) {
        uvt_stream_read_stop((UvtHandle *)handle);
    }
}

static int
capi_listen(PyObject *handle, int backlog)
{
    return is_open(handle) ? uvt_stream_listen((UvtHandle *)handle, backlog)
                           : UV_EINVAL;
}

static int
capi_accept(PyObject *server, PyObject *client)
{
    return is_open(server) && is_open(client)
        ? uvt_stream_accept((UvtHandle *)server, (UvtHandle *)client)
        : UV_EINVAL;
}

static int
capi_timer_start(PyObject *handle, uint64_t timeout, uint64_t repeat)
{
    return is_open(handle)
        ? uvt_timer_start((UvtHandle *)handle, timeout, repeat) : UV_EINVAL;
}

static int
capi_poll_start(PyObject *handle, int events)
{
    return is_open(handle) ? uvt_poll_start((UvtHandle *)handle, events)
                           : UV_EINVAL;
}

static PyObject *
capi_udp_new(PyObject *loop, unsigned flags)
{
    return as_loop(loop) == NULL ? NULL : uvt_udp_create(loop, flags);
}

static int
capi_reserve(PyObject *handle, int fd)
{
    return is_open(handle)
        ? uvt_guard_reserve(((UvtHandle *)handle)->box->uv.handle.loop, fd) : UV_EINVAL;
}

static int
capi_udp_recv_start(PyObject *handle)
{
    return is_open(handle) ? uvt_udp_recv_start((UvtHandle *)handle)
                           : UV_EINVAL;
}

static void
capi_udp_recv_stop(PyObject *handle)
{
    if (is_open(handle)) {
        uvt_udp_recv_stop((UvtHandle *)handle);
    }
}

/* ---- addresses ---- */

static int
capi_sockaddr_parse(const char *call, PyObject *address,
                    struct sockaddr_storage *out)
{
    return uvt_sockaddr_parse(call, address, out) ? 0 : -1;
}

/* ---- the capsule ---- */

int
uvt_capi_setup(PyObject *module, UvtState *st)
{
    UvtCAPI *api = PyMem_Malloc(sizeof(UvtCAPI));
    PyObject *capsule;
    int rc;

    if (api == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    st->capi = api;
    *api = (UvtCAPI){
        .version = UVT_CAPI_VERSION,
        .size = sizeof(UvtCAPI),
        .state = st,
        .uv_version_string = uv_version_string,
        .loop_new = capi_loop_new,
        .loop_uv = capi_loop_uv,
        .loop_hooks = capi_loop_hooks,
        .loop_run_begin = capi_loop_run_begin,
        .loop_turn = capi_loop_turn,
        .loop_run_end = capi_loop_run_end,
        .loop_close = capi_loop_close,
        .loop_report = capi_loop_report,
        .attach = capi_attach,
        .tcp_new = capi_tcp_new,
        .timer_new = capi_timer_new,
        .async_new = capi_async_new,
        .poll_new = capi_poll_new,
        .handle_uv = capi_handle_uv,
        .consume = capi_consume,
        .release = capi_release,
        .close = capi_close,
        .read_start = capi_read_start,
        .read_stop = capi_read_stop,
        .listen = capi_listen,
        .accept = capi_accept,
        .timer_start = capi_timer_start,
        .poll_start = capi_poll_start,
        .oserror = uvt_oserror,
        .sockaddr_format = uvt_sockaddr_format,
        .sockaddr_parse = capi_sockaddr_parse,
        .pipe_new = capi_pipe_new,
        .consumer_owner = capi_consumer_owner,
        .udp_new = capi_udp_new,
        .udp_recv_start = capi_udp_recv_start,
        .udp_recv_stop = capi_udp_recv_stop,
        .loop_metrics = capi_loop_metrics,
        .loop_lock = capi_loop_lock,
        .loop_close_begin = capi_loop_close_begin,
        .loop_is_closed = capi_loop_is_closed,
        .loop_has_work = capi_loop_has_work,
        .loop_fresh_fd = capi_loop_fresh_fd,
        .async_send = uvt_guard_send,
        .reserve = capi_reserve,
    };
    capsule = PyCapsule_New(api, UVT_CAPI_NAME, NULL);
    if (capsule == NULL) {
        return -1;
    }
    rc = PyModule_AddObjectRef(module, "_C_API", capsule);
    Py_DECREF(capsule);
    return rc;
}
