/* How Python's signals reach a blocked poll.  While the main thread runs a
 * loop, signal.set_wakeup_fd() points at a pipe of that loop, whose other end
 * is watched by a poll that does not keep the loop alive; a byte there makes
 * the interpreter run its signal handlers.  A wake-up descriptor
 * that was set before gets the bytes as well, and is put back after the run.
 * All functions run on the loop's thread.
 */
#include "consumer.h"
#include "errors.h"
#include "fork.h"
#include "guards.h"
#include <errno.h>
#include <unistd.h>

typedef struct UvtWakeup {
    uv_poll_t poll;         /* of fds[0]; its data is this struct */
    int fds[2];             /* [1] is what set_wakeup_fd gets */
    UvtFileId pipe;         /* which both are, unless somebody has closed them */
    int previous;           /* the descriptor that was set before, or -1 */
    bool active;            /* between start and stop */
} UvtWakeup;

static int
old_fd(PyObject *result)
{
    int old;
    if (result == NULL) {
        return -2;
    }
    old = (int)PyLong_AsLong(result);
    Py_DECREF(result);
    if (old == -1 && PyErr_Occurred()) {
        return -2;
    }
    return old;
}

/* Sets the descriptor and returns the old one; -2 with an exception. */
static int
set_wakeup_fd(UvtState *st, int fd)
{
    return old_fd(PyObject_CallFunction(st->set_wakeup_fd, "i", fd));
}

/* The same for one of ours.  When it is full it has enough to wake the loop, and which
 * handlers are to run Python knows without it: no reason for a warning. */
static int
set_own_fd(UvtState *st, int fd)
{
    PyObject *args = Py_BuildValue("(i)", fd), *kwds, *result = NULL;
    kwds = Py_BuildValue("{s:O}", "warn_on_full_buffer", Py_False);
    if (args != NULL && kwds != NULL) {
        result = PyObject_Call(st->set_wakeup_fd, args, kwds);
    }
    Py_XDECREF(args);
    Py_XDECREF(kwds);
    return old_fd(result);
}

/* The other owner's end may be full or gone; it has to cope with lost bytes,
 * as with the interpreter's own. */
static void
forward(int fd, const unsigned char *bytes, ssize_t n)
{
    ssize_t rc;
    do {
        rc = write(fd, bytes, (size_t)n);
    } while (rc < 0 && errno == EINTR);
}

/* Runs the handlers of what has come in. */
static void
check_signals(UvtLoop *loop)
{
    if (PyErr_CheckSignals() < 0 && !uvt_loop_hook_signal(loop)) {
        uvt_loop_raise_later(loop);
    }
}

#define SIGNALS 128
#define MOST_TOLD 8     /* so often one number, of all that have come at once */

typedef struct {
    unsigned char counts[SIGNALS];
} Incoming;

static void
count_signals(Incoming *incoming, const unsigned char *bytes, ssize_t n)
{
    for (ssize_t i = 0; i < n; i++) {
        unsigned char number = bytes[i];
        if (number < SIGNALS && incoming->counts[number] < MOST_TOLD) {
            incoming->counts[number]++;
        }
    }
}

static void
tell_consumer(UvtLoop *loop, const Incoming *incoming)
{
    unsigned char bytes[SIGNALS * MOST_TOLD];
    size_t size = 0;
    for (int number = 0; number < SIGNALS; number++) {
        for (int i = 0; i < incoming->counts[number]; i++) {
            bytes[size++] = (unsigned char)number;
        }
    }
    if (size > 0 && loop->hooks != NULL) {
        UVT_TELL_HOOKS(loop, signals, owner, bytes, size);
    }
}

/* Hands on what has come in since the last time.  During a run its handlers, which
 * Python has noted before it wrote the bytes, come first. */
static void
deliver(UvtLoop *loop, const UvtWakeup *wakeup, int previous, bool running)
{
    unsigned char bytes[256];
    Incoming incoming = {{0}};
    ssize_t n;
    while (uvt_file_is(wakeup->fds[0], &wakeup->pipe)
           && (n = read(wakeup->fds[0], bytes, sizeof(bytes))) > 0) {
        if (previous >= 0) {
            forward(previous, bytes, n);
        }
        count_signals(&incoming, bytes, n);
    }
    if (running) {
        check_signals(loop);
    }
    tell_consumer(loop, &incoming);
}

static void
on_wakeup(uv_poll_t *uv, int status, int events)
{
    const UvtWakeup *wakeup = uv->data;
    UvtLoop *loop = uvt_loop_of(uv->loop);
    if (loop == NULL || status < 0) {
        return;
    }
    uvt_loop_attach(loop);
    deliver(loop, wakeup, wakeup->previous, true);
}

static void
on_wakeup_closed(uv_handle_t *uv)
{
    UvtWakeup *wakeup = uv->data;
    for (int i = 0; i < 2; i++) {
        if (uvt_file_is(wakeup->fds[i], &wakeup->pipe)) {
            close(wakeup->fds[i]);
        }
    }
    PyMem_RawFree(wakeup);
}

static int
wakeup_create(UvtLoop *self)
{
    UvtWakeup *wakeup = PyMem_RawCalloc(1, sizeof(UvtWakeup));
    uv_file fds[2];
    int rc;

    if (wakeup == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    rc = uv_pipe(fds, UV_NONBLOCK_PIPE, UV_NONBLOCK_PIPE);
    if (rc < 0) {
        PyMem_RawFree(wakeup);
        uvt_raise(self->st, UVT_EXC_UV, rc, "uv_pipe");
        return -1;
    }
    (void)uvt_file_of(fds[0], &wakeup->pipe);
    wakeup->fds[0] = fds[0];
    wakeup->fds[1] = fds[1];
    wakeup->previous = -1;
    uvt_guard_fresh_fd(self->core, fds[0]);
    rc = self->core->lost ? UV_EBADF : uvt_guard_reserve(&self->core->uv, fds[0]);
    if (rc == 0) {
        rc = uv_poll_init(&self->core->uv, &wakeup->poll, fds[0]);
    }
    if (rc < 0) {
        close(fds[0]);
        close(fds[1]);
        PyMem_RawFree(wakeup);
        uvt_raise(self->st, UVT_EXC_UV, rc, "uv_poll_init");
        return -1;
    }
    wakeup->poll.data = wakeup;
    (void)uv_poll_start(&wakeup->poll, UV_READABLE, on_wakeup);
    uv_unref((uv_handle_t *)&wakeup->poll);
    rc = uvt_guard_watch_io(self->core, &wakeup->poll.io_watcher);
    if (rc < 0) {
        uv_close((uv_handle_t *)&wakeup->poll, on_wakeup_closed);
        uvt_raise(self->st, UVT_EXC_UV, rc, "uv_poll_start");
        return -1;
    }
    self->wakeup = wakeup;
    return 0;
}

/* 1: the current thread is the main one, which gets the signals; 0; or -1 with
 * an exception.  Asked anew each time: a fork makes another thread the main
 * one. */
static int
on_main_thread(UvtState *st)
{
    PyObject *thread = PyObject_CallNoArgs(st->main_thread), *ident;
    unsigned long id;
    if (thread == NULL) {
        return -1;
    }
    ident = PyObject_GetAttr(thread, st->str_ident);
    Py_DECREF(thread);
    if (ident == NULL) {
        return -1;
    }
    id = PyLong_AsUnsignedLong(ident);
    Py_DECREF(ident);
    if (id == (unsigned long)-1 && PyErr_Occurred()) {
        return -1;
    }
    return id == PyThread_get_thread_ident();
}

/* Sub-interpreters get no signals: there set_wakeup_fd raises ValueError. */
int
uvt_wakeup_start(UvtLoop *self)
{
    int previous, on_main = on_main_thread(self->st);
    if (on_main <= 0) {
        return on_main;
    }
    if (self->wakeup != NULL
        && !uvt_file_is(self->wakeup->fds[1], &self->wakeup->pipe)) {
        uvt_wakeup_free(self);      /* Somebody has closed it. */
    }
    if (self->wakeup == NULL && wakeup_create(self) < 0) {
        return -1;
    }
    previous = set_own_fd(self->st, self->wakeup->fds[1]);
    if (previous == -2) {
        if (!PyErr_ExceptionMatches(PyExc_ValueError)) {
            return -1;
        }
        PyErr_Clear();
        return 0;
    }
    self->wakeup->previous = previous;
    self->wakeup->active = true;
    return 0;
}

/* Puts the former descriptor back and returns it; -1 when there was none. */
static int
give_back(UvtLoop *self)
{
    UvtWakeup *wakeup = self->wakeup;
    int replaced, previous = wakeup->previous;

    wakeup->active = false;
    wakeup->previous = -1;
    replaced = set_wakeup_fd(self->st, previous);
    if (replaced == -2) {
        /* The old descriptor was closed meanwhile. */
        PyErr_Clear();
        previous = -1;
        replaced = set_wakeup_fd(self->st, -1);
    }
    if (replaced != wakeup->fds[1] && replaced != -2) {
        /* Somebody set another one during the run: theirs stays. */
        replaced = set_wakeup_fd(self->st, replaced);
    }
    if (replaced == -2) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    return previous;
}

void
uvt_wakeup_stop(UvtLoop *self)
{
    UvtWakeup *wakeup = self->wakeup;
    PyObject *raised;
    int previous;

    if (wakeup == NULL || !wakeup->active) {
        return;
    }
    raised = PyErr_Occurred() ? PyErr_GetRaisedException() : NULL;
    previous = give_back(self);
    /* A signal may have stopped the run before there was a poll. */
    deliver(self, wakeup, previous, false);
    if (raised != NULL) {
        PyErr_SetRaisedException(raised);
    }
}

/* The pipe is the parent's too: what comes in is his. */
void
uvt_wakeup_forked(UvtLoop *self)
{
    if (self->wakeup != NULL && self->wakeup->active) {
        (void)give_back(self);
    }
}

void
uvt_wakeup_free(UvtLoop *self)
{
    UvtWakeup *wakeup = self->wakeup;
    if (wakeup == NULL) {
        return;
    }
    self->wakeup = NULL;
    if (self->core->lost) {
        return;     /* Whose the numbers are by now, nobody can tell. */
    }
    if (self->core->forked) {
        uvt_fork_close(wakeup->fds[0], S_IFIFO);
        uvt_fork_close(wakeup->fds[1], S_IFIFO);
    }
    else {
        uv_close((uv_handle_t *)&wakeup->poll, on_wakeup_closed);
    }
}

bool
uvt_wakeup_lost(UvtLoop *self, const uv__io_t *watcher)
{
    if (self == NULL || self->wakeup == NULL
        || watcher != &self->wakeup->poll.io_watcher) {
        return false;
    }
    self->wakeup->fds[0] = -1;      /* It is somebody else's by now. */
    uvt_wakeup_stop(self);
    uvt_wakeup_free(self);
    return true;
}
