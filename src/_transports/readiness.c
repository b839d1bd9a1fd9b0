/* Behind add_reader() and add_writer(): one Watcher with a uv Poll for each descriptor.
 * All functions run attached, on the loop's thread but for those of readiness.h.  The loop's dict owns the
 * watchers; a watcher owns its Poll, its two callbacks and, if it was given one
 * in place of a number, the object whose descriptor it is.
 *
 * Descriptors belong to the program, which may close them and get the same
 * number again at any time.  So nothing is watched without a callback: the Poll
 * is stopped when the last one goes.  A stopped one is kept for the next
 * add_reader(), which starts it whether or not it seems started, as the number
 * can mean another file by then.
 */
#include "readiness.h"
#include <errno.h>
#include <sys/stat.h>

#define MAX_IDLE 256

/* ---- life cycle ---- */

static int
watcher_traverse(Watcher *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->loop);
    Py_VISIT(self->poll);
    Py_VISIT(self->reader);
    Py_VISIT(self->writer);
    Py_VISIT(self->fileobj);
    return 0;
}

static int
watcher_clear(Watcher *self)
{
    Py_CLEAR(self->poll);
    Py_CLEAR(self->reader);
    Py_CLEAR(self->writer);
    Py_CLEAR(self->fileobj);
    Py_CLEAR(self->loop);
    return 0;
}

static void
watcher_dealloc(Watcher *self)
{
    PyTypeObject *tp = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    (void)watcher_clear(self);
    tp->tp_free(self);
    Py_DECREF(tp);
}

/* ---- events ---- */

static int
mask_of(const Watcher *self)
{
    return (self->reader != NULL ? UV_READABLE : 0)
        | (self->writer != NULL ? UV_WRITABLE : 0);
}

static void
enqueue(TulipLoop *loop, TulipCallback *handle)
{
    if (handle == NULL) {
        return;
    }
    if (tulip_ring_push(&loop->ready, (TulipCallback *)Py_NewRef(handle)) < 0) {
        Py_DECREF(handle);
        tulip_loop_report(loop, "Cannot queue a callback of add_reader() or "
                          "add_writer()", NULL, NULL, handle);
    }
}

/* False when the descriptor was closed, or closed and used again. */
static bool
is_same_file(const Watcher *self)
{
    struct stat st;
    return fstat(self->fd, &st) == 0 && st.st_dev == self->device
        && st.st_ino == self->inode;
}

/* A handle that somebody has cancelled himself, with the exception handler of the
 * loop for example, is a callback that has gone. */
static void
drop_cancelled(Watcher *self)
{
    TulipCallback *gone[2] = {NULL, NULL};
    if (self->reader != NULL && self->reader->cancelled) {
        gone[0] = self->reader;
        self->reader = NULL;
    }
    if (self->writer != NULL && self->writer->cancelled) {
        gone[1] = self->writer;
        self->writer = NULL;
    }
    if (gone[0] != NULL || gone[1] != NULL) {
        tulip_watcher_stop(self);
        Py_XDECREF(gone[0]);
        Py_XDECREF(gone[1]);
    }
}

/* After an error libuv has stopped the Poll.  Both callbacks learn of it from
 * their own system calls; it is watched on, as an error of a socket can pass,
 * unless the descriptor is gone: its number may be another handle's now. */
static void
on_ready(PyObject *owner, int status, int events)
{
    Watcher *self = (Watcher *)owner;
    TulipLoop *loop = self->loop;
    if (loop == NULL || self->poll == NULL) {
        return;
    }
    drop_cancelled(self);
    if (self->poll == NULL || mask_of(self) == 0) {
        return;
    }
    if (status < 0) {
        events = UV_READABLE | UV_WRITABLE;
        if (is_same_file(self)) {
            (void)loop->st->uv->poll_start(self->poll, mask_of(self));
        }
    }
    if (events & UV_READABLE) {
        enqueue(loop, self->reader);
    }
    if (events & UV_WRITABLE) {
        enqueue(loop, self->writer);
    }
}

static int start(Watcher *self, int mask);

/* By somebody who found it among the raw loop's handles, or with the loop.  While
 * there are callbacks, there is a new one. */
static void
on_closed(PyObject *owner)
{
    Watcher *self = (Watcher *)owner;
    TulipLoop *loop = self->loop;
    Py_CLEAR(self->poll);
    if (loop == NULL || loop->closed) {
        return;
    }
    drop_cancelled(self);
    if (mask_of(self) != 0 && start(self, mask_of(self)) < 0) {
        tulip_loop_report(loop, "A descriptor cannot be watched any more", NULL, NULL,
                          NULL);
    }
}

static const UvtConsumer watcher_consumer = {
    .ready = on_ready,
    .closed = on_closed,
};

/* ---- descriptors ---- */

Watcher *
tulip_watcher_find(TulipLoop *loop, int fd)
{
    PyObject *key, *found;
    if (loop->readiness == NULL) {
        return NULL;
    }
    key = PyLong_FromLong(fd);
    if (key == NULL) {
        return NULL;
    }
    found = PyDict_GetItemWithError(loop->readiness, key);
    Py_DECREF(key);
    return (Watcher *)found;
}

Watcher *
tulip_watcher_find_object(TulipLoop *loop, PyObject *fileobj)
{
    PyObject *key, *value;
    Py_ssize_t position = 0;
    while (loop->readiness != NULL
           && PyDict_Next(loop->readiness, &position, &key, &value)) {
        if (((Watcher *)value)->fileobj == fileobj) {
            return (Watcher *)value;
        }
    }
    return NULL;
}

/* A raw handle that watches nothing right now does no harm, nor does one that
 * watches a file that was closed. */
bool
tulip_loop_check_fd(TulipLoop *loop, int fd)
{
    if (!tulip_loop_check_transports(loop, fd)) {
        return false;
    }
    if (!tulip_loop_watches(loop, fd) || tulip_watcher_find(loop, fd) != NULL) {
        return true;
    }
    if (!PyErr_Occurred()) {
        loop->st->uv->loop_fresh_fd(loop->uv_loop, fd);
        if (!tulip_loop_check_open(loop)) {
            return false;       /* by who was told */
        }
        if (!tulip_loop_watches(loop, fd)) {
            return true;
        }
        tulip_loop_raise_in_use(loop, fd);
    }
    return false;
}

/* ---- watching ---- */

/* Raises a plain OSError, or RuntimeError for a descriptor in use. */
static void
raise_uv(TulipLoop *loop, int rc, const char *call, int fd)
{
    PyObject *exc;
    if (rc == UV_EEXIST) {
        tulip_loop_raise_in_use(loop, fd);
        return;
    }
    exc = loop->st->uv->oserror(rc, call);
    if (exc != NULL) {
        PyErr_SetObject((PyObject *)Py_TYPE(exc), exc);
        Py_DECREF(exc);
    }
}

/* Makes of the raised error of a raw handle what asyncio raises. */
static void
convert_error(TulipLoop *loop, int fd)
{
    PyObject *exc = PyErr_GetRaisedException();
    PyObject *number = PyObject_GetAttrString(exc, "errno");
    long value = number != NULL ? PyLong_AsLong(number) : -1;
    PyErr_Clear();
    if (value > 0) {
        raise_uv(loop, uv_translate_sys_error((int)value), "uv_poll_init", fd);
        Py_DECREF(exc);
    }
    else {
        PyErr_SetRaisedException(exc);
    }
    Py_XDECREF(number);
}

/* A new Poll, or an exception. */
static int
open_poll(Watcher *self)
{
    const UvtCAPI *api = self->loop->st->uv;
    PyObject *poll = api->poll_new(self->loop->uv_loop, self->fd);
    if (poll == NULL) {
        convert_error(self->loop, self->fd);
        return -1;
    }
    if (api->consume(poll, &watcher_consumer, (PyObject *)self) < 0) {
        api->close(poll);
        Py_DECREF(poll);
        return -1;
    }
    self->poll = poll;
    return 0;
}

/* A watcher without callbacks, in the dict; borrowed. */
static Watcher *
add(TulipLoop *loop, int fd)
{
    PyTypeObject *tp = loop->st->watcher_type;
    Watcher *self;
    PyObject *key;
    int rc = -1;

    if (loop->readiness == NULL && (loop->readiness = PyDict_New()) == NULL) {
        return NULL;
    }
    self = (Watcher *)tp->tp_alloc(tp, 0);
    if (self == NULL) {
        return NULL;
    }
    self->loop = (TulipLoop *)Py_NewRef(loop);
    self->fd = fd;
    key = PyLong_FromLong(fd);
    if (key != NULL && (!tulip_loop_is_here(loop) || open_poll(self) == 0)) {
        rc = PyDict_SetItem(loop->readiness, key, (PyObject *)self);
        if (rc < 0 && self->poll != NULL) {
            loop->st->uv->close(self->poll);
        }
    }
    Py_XDECREF(key);
    if (rc == 0) {
        loop->idle_watchers++;
    }
    Py_DECREF(self);
    return rc == 0 ? self : NULL;
}

/* Takes it out of the dict and closes its Poll; may free it. */
static void
discard(Watcher *self)
{
    TulipLoop *loop = self->loop;
    PyObject *key = PyLong_FromLong(self->fd), *poll = self->poll;
    self->poll = NULL;
    if (poll != NULL) {
        loop->st->uv->close(poll);
        Py_DECREF(poll);
    }
    if (mask_of(self) == 0) {
        loop->idle_watchers--;
    }
    if (loop->readiness != NULL
        && (key == NULL || PyDict_DelItem(loop->readiness, key) < 0)) {
        PyErr_Clear();
    }
    Py_XDECREF(key);
}

/* In the place of one that somebody has closed or is closing, of which nothing more is
 * heard. */
static int
renew_poll(Watcher *self)
{
    PyObject *old = self->poll;
    self->poll = NULL;
    if (old != NULL) {
        self->loop->st->uv->release(old);
        Py_DECREF(old);
    }
    return open_poll(self);
}

/* Starts the Poll for what there are callbacks for; -1 with an exception. */
static int
start(Watcher *self, int mask)
{
    const UvtCAPI *api = self->loop->st->uv;
    int rc = self->poll != NULL ? api->poll_start(self->poll, mask) : UV_EINVAL;
    struct stat st;
    if (rc == UV_EINVAL) {
        if (renew_poll(self) < 0) {
            return -1;
        }
        rc = api->poll_start(self->poll, mask);
    }
    if (rc < 0) {
        raise_uv(self->loop, rc, "uv_poll_start", self->fd);
        return -1;
    }
    if (fstat(self->fd, &st) == 0) {
        self->device = st.st_dev;
        self->inode = st.st_ino;
    }
    return 0;
}

/* Has the loop's thread do what another one has asked for: libuv may be in the middle
 * of a poll. */
static void
set_poll(PyObject *owner, PyObject *Py_UNUSED(arg))
{
    Watcher *self = (Watcher *)owner;
    TulipLoop *loop = self->loop;
    int mask = mask_of(self);
    self->to_be_set = false;
    if (loop == NULL || loop->closed) {
        return;
    }
    if (mask == 0) {
        if (self->poll != NULL) {
            (void)loop->st->uv->poll_start(self->poll, 0);
        }
    }
    else if (!tulip_loop_check_transports(loop, self->fd) || start(self, mask) < 0) {
        tulip_loop_report(loop, "A descriptor that another thread has added cannot be "
                          "watched", NULL, NULL, NULL);
    }
}

static int
set_poll_later(Watcher *self)
{
    if (!self->to_be_set
        && tulip_loop_call_soon_c(self->loop, set_poll, (PyObject *)self, NULL) < 0) {
        return -1;
    }
    self->to_be_set = true;
    return 0;
}

/* What epoll would say, of which another thread cannot ask it. */
static int
check_file(int fd)
{
    struct stat st;
    if (fstat(fd, &st) < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    if (S_ISREG(st.st_mode) || S_ISDIR(st.st_mode)) {
        errno = EPERM;
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    return 0;
}

void
tulip_watcher_stop(Watcher *self)
{
    TulipLoop *loop = self->loop;
    int mask = mask_of(self);
    bool here = tulip_loop_is_here(loop);
    if (!here) {
        if (set_poll_later(self) < 0) {
            PyErr_WriteUnraisable((PyObject *)self);
        }
    }
    else if (self->poll != NULL) {
        (void)loop->st->uv->poll_start(self->poll, mask);
    }
    if (mask == 0) {
        Py_CLEAR(self->fileobj);
        loop->idle_watchers++;
        if (here && loop->idle_watchers > MAX_IDLE) {
            discard(self);
        }
    }
}

Watcher *
tulip_watcher_watch(TulipLoop *loop, int fd, int event)
{
    bool here = tulip_loop_is_here(loop);
    Watcher *self = NULL;
    int rc;
    if (here || check_file(fd) == 0) {
        self = tulip_watcher_find(loop, fd);
    }
    if (self == NULL && (PyErr_Occurred() || (self = add(loop, fd)) == NULL)) {
        return NULL;
    }
    rc = here ? start(self, mask_of(self) | event) : set_poll_later(self);
    if (rc < 0) {
        if (mask_of(self) == 0 && here) {
            PyObject *exc = PyErr_GetRaisedException();
            discard(self);
            PyErr_SetRaisedException(exc);
        }
        return NULL;
    }
    if (mask_of(self) == 0) {
        loop->idle_watchers--;
    }
    return self;
}

/* ---- the type ---- */

static PyType_Slot watcher_slots[] = {
    {Py_tp_traverse, watcher_traverse},
    {Py_tp_clear, watcher_clear},
    {Py_tp_dealloc, watcher_dealloc},
    {0, NULL},
};

static PyType_Spec watcher_spec = {
    .name = "uvtulip._transports._Watcher",
    .basicsize = sizeof(Watcher),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
        | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = watcher_slots,
};

/* Nobody but the loop sees watchers, so the type is in no namespace. */
int
tulip_watcher_setup(PyObject *module, TulipState *st)
{
    st->watcher_type = (PyTypeObject *)PyType_FromModuleAndSpec(
        module, &watcher_spec, NULL);
    return st->watcher_type != NULL ? 0 : -1;
}
