/* Waiting until a socket of the program can be read from or written to.  All
 * functions run attached, on the loop's thread.  The loop owns the set; the set
 * owns its epoll, the Poll by which the raw loop watches that, and the futures
 * of those who wait.  It keeps no socket alive: who waits does.
 *
 * The sockets are in an epoll of our own, inside of libuv's, and stay in it from
 * their first wait until they are closed, when the kernel takes them out: a wait
 * is no system call.  So that nobody has to take them out before, each change is
 * reported once (EPOLLET): a socket that is ready while nobody waits costs
 * nothing, nor does one that lives on in a duplicate or another process.  Two
 * things follow.  A caller waits only after his own call would have blocked.  And one
 * has to know when a number is another socket's than the one that was
 * registered: a weak reference tells the objects apart, and what the kernel
 * still reports of an earlier one has another generation.  (What is not noticed
 * is a dup2() to the number of a socket object that stays.)
 *
 * It also saves the read that finds nothing.  A read from a TCP connection that
 * returns less than was asked for has taken all there was; what comes later is
 * reported.  Not so near the end of the stream and where urgent data stops a
 * read: after a report of either, or of an error, nothing is concluded any more.
 */
#include "sockwait.h"
#include <errno.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_EVENTS 128

/* Those who wait for a descriptor, and what is registered. */
typedef struct Entry {
    PyObject *waiters[2];       /* futures, or NULL: to read, to write */
    PyObject *ref;              /* weak, to the owner; NULL: not to be told */
    uint32_t mask;              /* what epoll reports; 0: not registered */
    uint32_t generation;        /* of the registration */
    bool tcp;                   /* whether `emptied` means anything */
    bool emptied;               /* by the last read, and nothing has come since */
} Entry;

typedef struct TulipSockets {
    PyObject *poll;             /* uv.Poll on fd; NULL: somebody closed it */
    int fd;                     /* the epoll */
    uint32_t generation;        /* the newest one */
    size_t size;
    Entry **entries;            /* by descriptor; NULL: never waited for */
    char *room;                 /* NULL until needed */
} TulipSockets;

/* To know what a read from it may conclude. */
#define WARNINGS ((uint32_t)(EPOLLRDHUP | EPOLLPRI))

static const uint32_t masks[2] = {EPOLLIN | WARNINGS, EPOLLOUT};

/* ---- waking ---- */

/* Wakes who waits; his own call will tell him what has happened.  Any code may
 * run: the entry is not touched after it. */
static void
wake(TulipLoop *loop, Entry *entry, bool reader, bool writer)
{
    PyObject *futures[2] = {NULL, NULL};
    if (reader) {
        futures[0] = entry->waiters[0];
        entry->waiters[0] = NULL;
    }
    if (writer) {
        futures[1] = entry->waiters[1];
        entry->waiters[1] = NULL;
    }
    for (int i = 0; i < 2; i++) {
        if (futures[i] != NULL
            && tulip_future_settle(loop, futures[i], Py_None, NULL) < 0) {
            tulip_loop_report(loop, "Cannot wake a task that waits for a socket",
                              NULL, NULL, NULL);
        }
        Py_XDECREF(futures[i]);
    }
}

/* ---- events ---- */

static int
control(const TulipSockets *set, int op, int fd, const Entry *entry)
{
    struct epoll_event event = {.events = entry->mask | EPOLLET};
    event.data.u64 = (uint64_t)entry->generation << 32 | (uint32_t)fd;
    return epoll_ctl(set->fd, op, fd, &event);
}

static void
deliver(TulipLoop *loop, const struct epoll_event *event)
{
    TulipSockets *set = loop->sockets;
    uint32_t fd = (uint32_t)event->data.u64, happened = event->events;
    Entry *entry = set != NULL && fd < set->size ? set->entries[fd] : NULL;
    if (entry == NULL
        || entry->generation != (uint32_t)(event->data.u64 >> 32)) {
        return;
    }
    /* UNIX sockets report every byte that their peer reads. */
    if (happened == EPOLLOUT && entry->waiters[1] == NULL) {
        entry->mask &= ~(uint32_t)EPOLLOUT;
        (void)control(set, EPOLL_CTL_MOD, (int)fd, entry);
    }
    if (happened & ~(uint32_t)EPOLLOUT) {
        entry->emptied = false;
    }
    if (happened & ~(uint32_t)(EPOLLIN | EPOLLOUT)) {
        entry->tcp = false;
    }
    wake(loop, entry, (happened & ~(uint32_t)EPOLLOUT) != 0,
         (happened & ~(EPOLLIN | WARNINGS)) != 0);
}

/* Closes the Poll without an event. */
static void
drop_poll(TulipLoop *loop, TulipSockets *set)
{
    PyObject *poll = set->poll;
    set->poll = NULL;
    if (poll != NULL) {
        loop->st->uv->release(poll);
        loop->st->uv->close(poll);
        Py_DECREF(poll);
    }
}

/* Nothing is reported any more: all try again, and those who then wait make a
 * new beginning. */
static void
wake_all(TulipLoop *loop, TulipSockets *set)
{
    for (size_t fd = 0; loop->sockets == set && fd < set->size; fd++) {
        Entry *entry = set->entries[fd];
        if (entry != NULL) {
            wake(loop, entry, true, true);
        }
    }
}

/* Somebody has closed the epoll or taken its number. */
static void
lose(TulipLoop *loop)
{
    TulipSockets *set = loop->sockets;
    drop_poll(loop, set);
    set->fd = -1;
    for (size_t fd = 0; fd < set->size; fd++) {
        if (set->entries[fd] != NULL) {
            set->entries[fd]->mask = 0;
            set->entries[fd]->emptied = false;
        }
    }
    wake_all(loop, set);
}

/* Those of one call, as the raw loop asks again while there are more.  The set
 * and its entries stay as long as the loop runs. */
static void
on_ready(PyObject *owner, int status, int Py_UNUSED(events))
{
    TulipLoop *loop = (TulipLoop *)owner;
    struct epoll_event found[MAX_EVENTS];
    int count = -1;
    if (loop->sockets == NULL) {
        return;
    }
    if (status >= 0) {
        count = epoll_wait(loop->sockets->fd, found, MAX_EVENTS, 0);
    }
    if (count < 0 && (status < 0 || errno != EINTR)) {
        lose(loop);
    }
    for (int i = 0; i < count; i++) {
        deliver(loop, &found[i]);
    }
}

/* By somebody who found it among the raw loop's handles. */
static void
on_closed(PyObject *owner)
{
    TulipLoop *loop = (TulipLoop *)owner;
    TulipSockets *set = loop->sockets;
    if (set != NULL) {
        Py_CLEAR(set->poll);
        wake_all(loop, set);
    }
}

static const UvtConsumer consumer = {
    .ready = on_ready,
    .closed = on_closed,
};

/* ---- the set ---- */

/* Has the raw loop watch the epoll. */
static int
watch(TulipLoop *loop, TulipSockets *set)
{
    const UvtCAPI *api = loop->st->uv;
    PyObject *poll = api->poll_new(loop->uv_loop, set->fd);
    int rc;
    if (poll == NULL) {
        return -1;
    }
    if (api->consume(poll, &consumer, (PyObject *)loop) < 0) {
        Py_DECREF(poll);
        return -1;
    }
    rc = api->poll_start(poll, UV_READABLE);
    if (rc < 0) {
        PyObject *exc = api->oserror(rc, "uv_poll_start");
        api->close(poll);
        Py_DECREF(poll);
        if (exc != NULL) {
            PyErr_SetObject((PyObject *)Py_TYPE(exc), exc);
            Py_DECREF(exc);
        }
        return -1;
    }
    set->poll = poll;
    return 0;
}

static TulipSockets *
get_set(TulipLoop *loop)
{
    TulipSockets *set = loop->sockets;
    if (set == NULL) {
        set = PyMem_Calloc(1, sizeof(TulipSockets));
        if (set == NULL) {
            PyErr_NoMemory();
            return NULL;
        }
        set->fd = -1;
        loop->sockets = set;
    }
    return set;
}

/* A set whose epoll is open and watched; NULL with an exception. */
static TulipSockets *
open_set(TulipLoop *loop)
{
    TulipSockets *set = get_set(loop);
    if (set == NULL || set->poll != NULL) {
        return set;
    }
    if (set->fd < 0) {
        set->fd = epoll_create1(EPOLL_CLOEXEC);
        if (set->fd < 0) {
            PyErr_SetFromErrno(PyExc_OSError);
            return NULL;
        }
    }
    return watch(loop, set) < 0 ? NULL : set;
}

/* The entry of a descriptor; NULL with MemoryError. */
static Entry *
get_entry(TulipSockets *set, int fd)
{
    size_t index = (size_t)fd;
    if (index >= set->size) {
        size_t size = set->size == 0 ? 64 : set->size;
        Entry **entries;
        while (size <= index) {
            size *= 2;
        }
        entries = PyMem_Resize(set->entries, Entry *, size);
        if (entries == NULL) {
            PyErr_NoMemory();
            return NULL;
        }
        for (size_t i = set->size; i < size; i++) {
            entries[i] = NULL;
        }
        set->entries = entries;
        set->size = size;
    }
    if (set->entries[index] == NULL) {
        set->entries[index] = PyMem_Calloc(1, sizeof(Entry));
        if (set->entries[index] == NULL) {
            PyErr_NoMemory();
        }
    }
    return set->entries[index];
}

char *
tulip_sock_room(TulipLoop *loop)
{
    TulipSockets *set = get_set(loop);
    if (set != NULL && set->room == NULL) {
        set->room = PyMem_Malloc(TULIP_SOCK_ROOM);
        if (set->room == NULL) {
            PyErr_NoMemory();
        }
    }
    return set != NULL ? set->room : NULL;
}

int
tulip_sock_traverse(TulipLoop *loop, visitproc visit, void *arg)
{
    const TulipSockets *set = loop->sockets;
    if (set == NULL) {
        return 0;
    }
    Py_VISIT(set->poll);
    for (size_t fd = 0; fd < set->size; fd++) {
        const Entry *entry = set->entries[fd];
        if (entry != NULL) {
            Py_VISIT(entry->waiters[0]);
            Py_VISIT(entry->waiters[1]);
            Py_VISIT(entry->ref);
        }
    }
    return 0;
}

/* Dropping a future can run any code, which finds no set. */
void
tulip_sock_end(TulipLoop *loop)
{
    TulipSockets *set = loop->sockets;
    if (set == NULL) {
        return;
    }
    loop->sockets = NULL;
    drop_poll(loop, set);
    if (set->fd >= 0) {
        (void)close(set->fd);
    }
    for (size_t fd = 0; fd < set->size; fd++) {
        Entry *entry = set->entries[fd];
        if (entry != NULL) {
            Py_XDECREF(entry->waiters[0]);
            Py_XDECREF(entry->waiters[1]);
            Py_XDECREF(entry->ref);
            PyMem_Free(entry);
        }
    }
    PyMem_Free(set->entries);
    PyMem_Free(set->room);
    PyMem_Free(set);
}

/* ---- registering ---- */

/* The registration is that of this very object, which still has the file. */
static bool
is_current(const Entry *entry, PyObject *owner)
{
    PyObject *known = NULL;
    if (entry->mask == 0 || entry->ref == NULL) {
        return false;
    }
    (void)PyWeakref_GetRef(entry->ref, &known);
    Py_XDECREF(known);
    return known == owner;
}

static bool
is_tcp(int fd)
{
    int protocol = 0;
    socklen_t size = sizeof(protocol);
    return getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &size) == 0
        && protocol == IPPROTO_TCP;
}

bool *
tulip_sock_emptied(TulipLoop *loop, PyObject *sock, int fd)
{
    const TulipSockets *set = loop->sockets;
    Entry *entry = set != NULL && (size_t)fd < set->size ? set->entries[fd] : NULL;
    return entry != NULL && entry->tcp && is_current(entry, sock)
        ? &entry->emptied : NULL;
}

/* Begins a registration: whose it is, and what is waited for already, by
 * another object for the same file or in vain for a file that was closed. */
static int
renew(TulipSockets *set, Entry *entry, PyObject *owner, TulipSockKind kind, int fd)
{
    PyObject *ref = NULL;
    if (kind != TULIP_SOCK_STRANGE) {
        ref = PyWeakref_NewRef(owner, NULL);
        if (ref == NULL) {
            return -1;
        }
    }
    Py_XSETREF(entry->ref, ref);
    entry->generation = ++set->generation;
    entry->mask = (entry->waiters[0] != NULL ? masks[0] : 0u)
        | (entry->waiters[1] != NULL ? masks[1] : 0u);
    entry->tcp = kind == TULIP_SOCK_PLAIN && is_tcp(fd);
    entry->emptied = false;
    return 0;
}

/* Tells epoll of a registration that is new, or else has changed.  ENOENT: the
 * number is another file by now.  EEXIST: another object had the same file. */
static int
update(const TulipSockets *set, const Entry *entry, int fd, bool new)
{
    if (!new && control(set, EPOLL_CTL_MOD, fd, entry) == 0) {
        return 0;
    }
    if (control(set, EPOLL_CTL_ADD, fd, entry) == 0) {
        return 0;
    }
    return errno == EEXIST ? control(set, EPOLL_CTL_MOD, fd, entry) : -1;
}

/* Has epoll report `which`; 0, or -1 with an exception. */
static int
enroll(TulipLoop *loop, TulipSockets *set, Entry *entry, PyObject *owner,
       TulipSockKind kind, int fd, int which)
{
    bool current = is_current(entry, owner);
    if (current && (entry->mask & masks[which]) == masks[which]) {
        return 0;
    }
    if (!current
        && ((kind != TULIP_SOCK_TRANSPORT && !tulip_loop_check_fd(loop, fd))
            || renew(set, entry, owner, kind, fd) < 0)) {
        return -1;
    }
    entry->mask |= masks[which];
    if (update(set, entry, fd, !current) < 0) {
        int error = errno;
        entry->mask = 0;
        wake(loop, entry, true, true);
        errno = error;
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    return 0;
}

PyObject *
tulip_sock_wait(TulipLoop *loop, PyObject *owner, TulipSockKind kind, int fd,
                bool writable)
{
    const int which = writable;
    TulipSockets *set;
    Entry *entry;
    PyObject *future, *old;

    if (!tulip_loop_check_open(loop)) {
        return NULL;
    }
    if (fd < 0) {
        PyErr_Format(PyExc_ValueError, "Invalid file descriptor: %d", fd);
        return NULL;
    }
    /* First, since it can run the collector, which can run anything. */
    future = tulip_loop_py_create_future(loop, NULL);
    if (future == NULL) {
        return NULL;
    }
    set = open_set(loop);
    entry = set != NULL ? get_entry(set, fd) : NULL;
    if (entry == NULL
        || enroll(loop, set, entry, owner, kind, fd, which) < 0) {
        Py_DECREF(future);
        return NULL;
    }
    old = entry->waiters[which];
    entry->waiters[which] = Py_NewRef(future);
    Py_XDECREF(old);
    return future;
}
