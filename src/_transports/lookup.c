/* Names are looked up in threads that know nothing of Python: getaddrinfo(3)
 * blocks, and with a thread of Python's each answer would cost two changes of
 * the interpreter's lock.  Not in libuv's pool, whose four threads also serve
 * files, and which lets only half of them wait for name servers.
 *
 * worker() runs on the threads and touches what is marked `shared`, under the
 * lock; everything else runs attached, on the loop's thread.  The pool belongs
 * to the loop and to each of its threads, of which a name server may hold one
 * for long after the loop is closed; who is last frees it.  A query belongs to
 * whoever has it: the queue, a thread, or the list of those that are done.  Its
 * future belongs to the loop's side alone.
 */
#include "lookup.h"
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* As many as the default executor of asyncio has. */
#define MAX_THREADS 32
/* Seconds after which a thread that has nothing to do ends. */
#define IDLE_SECONDS 10

typedef struct Query {
    struct Query *next;             /* shared: in a list */
    struct Query *prev_asked;       /* the loop's list of those with a future */
    struct Query *next_asked;
    PyObject *future;               /* strong; NULL: nobody waits */
    struct addrinfo hints;          /* from here on set before it is queued, ... */
    const char *host, *port;        /* in `text`, or NULL */
    struct addrinfo *found;         /* ... or by the thread that has it */
    int rc, error;
    bool dropped;                   /* shared: it need not be asked any more */
    char text[];
} Query;

typedef struct List {
    Query *first, **last;
} List;

typedef struct TulipLookups {
    pthread_mutex_t lock;
    pthread_cond_t wanted;
    List queue;                     /* shared */
    List done;                      /* shared */
    uv_async_t *wakeup;             /* shared; NULL: the loop is closed */
    int (*send)(uv_async_t *wakeup);
    unsigned threads, idle, queued; /* shared */
    pid_t pid;                      /* that of the threads */
    PyObject *async;                /* uv.Async of wakeup; strong */
    Query *asked;
} TulipLookups;

/* ---- lists and queries ---- */

static void
list_init(List *list)
{
    list->first = NULL;
    list->last = &list->first;
}

static void
list_append(List *list, Query *query)
{
    query->next = NULL;
    *list->last = query;
    list->last = &query->next;
}

static Query *
list_pop(List *list)
{
    Query *query = list->first;
    if (query != NULL) {
        list->first = query->next;
        if (list->first == NULL) {
            list->last = &list->first;
        }
    }
    return query;
}

/* On any thread; its future is gone. */
static void
query_free(Query *query)
{
    if (query->found != NULL) {
        freeaddrinfo(query->found);
    }
    free(query);
}

static void
list_free(List *list)
{
    Query *query;
    while ((query = list_pop(list)) != NULL) {
        query_free(query);
    }
}

/* Not by Python's allocator, as a thread may have to free it.  NULL with
 * MemoryError. */
static Query *
query_new(const TulipHints *hints, const char *host, const char *port)
{
    size_t host_size = host != NULL ? strlen(host) + 1 : 0;
    size_t port_size = port != NULL ? strlen(port) + 1 : 0;
    Query *query = calloc(1, sizeof(Query) + host_size + port_size);
    if (query == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    query->hints = hints->hints;
    if (host != NULL) {
        query->host = memcpy(query->text, host, host_size);
    }
    if (port != NULL) {
        query->port = memcpy(query->text + host_size, port, port_size);
    }
    return query;
}

static void
link_asked(TulipLookups *pool, Query *query)
{
    query->next_asked = pool->asked;
    if (pool->asked != NULL) {
        pool->asked->prev_asked = query;
    }
    pool->asked = query;
}

/* Returns the future, which is the caller's now. */
static PyObject *
unlink_asked(TulipLookups *pool, Query *query)
{
    PyObject *future = query->future;
    if (query->prev_asked != NULL) {
        query->prev_asked->next_asked = query->next_asked;
    }
    else {
        pool->asked = query->next_asked;
    }
    if (query->next_asked != NULL) {
        query->next_asked->prev_asked = query->prev_asked;
    }
    query->future = NULL;
    query->prev_asked = query->next_asked = NULL;
    return future;
}

/* ---- threads ---- */

/* Without the lock; nobody else has it any more. */
static void
pool_free(TulipLookups *pool)
{
    list_free(&pool->queue);
    list_free(&pool->done);
    (void)pthread_cond_destroy(&pool->wanted);
    (void)pthread_mutex_destroy(&pool->lock);
    free(pool);
}

/* The lock is held.  NULL: the thread has to end. */
static Query *
next_query(TulipLookups *pool)
{
    Query *query = NULL;
    struct timespec until;
    int rc = 0;
    (void)clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += IDLE_SECONDS;
    pool->idle++;
    while (rc == 0 && pool->wakeup != NULL && pool->queued == 0) {
        rc = pthread_cond_timedwait(&pool->wanted, &pool->lock, &until);
    }
    pool->idle--;
    if (pool->wakeup != NULL) {
        query = list_pop(&pool->queue);
        pool->queued -= query != NULL;
    }
    return query;
}

/* The lock is held, but not while the answer is waited for. */
static void
answer(TulipLookups *pool, Query *query)
{
    if (query->dropped) {
        query_free(query);
        return;
    }
    (void)pthread_mutex_unlock(&pool->lock);
    query->rc = getaddrinfo(query->host, query->port, &query->hints,
                            &query->found);
    query->error = errno;
    (void)pthread_mutex_lock(&pool->lock);
    list_append(&pool->done, query);
    if (pool->wakeup != NULL) {
        (void)pool->send(pool->wakeup);
    }
}

static void *
worker(void *arg)
{
    TulipLookups *pool = arg;
    Query *query;
    bool last;

    (void)pthread_mutex_lock(&pool->lock);
    while ((query = next_query(pool)) != NULL) {
        answer(pool, query);
    }
    pool->threads--;
    last = pool->threads == 0 && pool->wakeup == NULL;
    (void)pthread_mutex_unlock(&pool->lock);
    if (last) {
        pool_free(pool);
    }
    return NULL;
}

/* The lock is held.  Signals are for the program's own threads. */
static bool
start_thread(TulipLookups *pool)
{
    pthread_t thread;
    pthread_attr_t attr;
    sigset_t all, old;
    int rc = pthread_attr_init(&attr);
    if (rc != 0) {
        return false;
    }
    (void)pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &old);
    rc = pthread_create(&thread, &attr, worker, pool);
    (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
    (void)pthread_attr_destroy(&attr);
    pool->threads += rc == 0;
    return rc == 0;
}

/* Takes the query; false: there is no thread to be had, and it is not taken. */
static bool
submit(TulipLookups *pool, Query *query)
{
    bool taken = true;
    (void)pthread_mutex_lock(&pool->lock);
    if (pool->queued < pool->idle) {
        (void)pthread_cond_signal(&pool->wanted);
    }
    else if (pool->threads < MAX_THREADS) {
        taken = start_thread(pool) || pool->threads > 0;
    }
    if (taken) {
        list_append(&pool->queue, query);
        pool->queued++;
    }
    (void)pthread_mutex_unlock(&pool->lock);
    return taken;
}

/* The loop wants no answers any more. */
static void
dismiss(TulipLookups *pool)
{
    bool last;
    if (pool->pid != getpid()) {
        return;     /* a forked child: no threads, and a lock in any state */
    }
    (void)pthread_mutex_lock(&pool->lock);
    pool->wakeup = NULL;
    last = pool->threads == 0;
    (void)pthread_cond_broadcast(&pool->wanted);
    (void)pthread_mutex_unlock(&pool->lock);
    if (last) {
        pool_free(pool);
    }
}

/* ---- on the loop's thread ---- */

static void
settle(TulipLoop *loop, const Query *query, PyObject *future)
{
    PyObject *result = NULL, *exc = NULL;
    int rc;
    if (query->rc == 0) {
        result = tulip_addrinfo_list(loop, query->found);
    }
    else {
        exc = tulip_addrinfo_error(loop, query->rc, query->error);
    }
    if (result == NULL && exc == NULL) {
        exc = PyErr_GetRaisedException();
    }
    rc = tulip_future_settle(loop, future, result, exc);
    if (rc < 0) {
        tulip_loop_report(loop, "Cannot deliver the answer of getaddrinfo()",
                          NULL, NULL, NULL);
    }
    Py_XDECREF(result);
    Py_XDECREF(exc);
}

/* While a future is settled the loop may be closed, which takes away the futures
 * of the others. */
static void
on_answers(PyObject *owner)
{
    TulipLoop *loop = (TulipLoop *)owner;
    TulipLookups *pool = loop->lookups;
    Query *query, *next;
    if (pool == NULL) {
        return;
    }
    (void)pthread_mutex_lock(&pool->lock);
    query = pool->done.first;
    list_init(&pool->done);
    (void)pthread_mutex_unlock(&pool->lock);
    for (; query != NULL; query = next) {
        next = query->next;
        if (query->future != NULL) {
            PyObject *future = unlink_asked(pool, query);
            settle(loop, query, future);
            Py_DECREF(future);
        }
        query_free(query);
    }
}

static int open_wakeup(TulipLoop *loop, TulipLookups *pool);

/* By somebody who found it among the raw loop's handles: there is a new one, or all
 * who wait are told why not. */
static void
on_closed(PyObject *owner)
{
    TulipLoop *loop = (TulipLoop *)owner;
    TulipLookups *pool = loop->lookups;
    PyObject *cause;
    if (pool == NULL) {
        return;
    }
    Py_CLEAR(pool->async);
    if (open_wakeup(loop, pool) == 0) {
        return;
    }
    cause = PyErr_GetRaisedException();
    loop->lookups = NULL;
    while (pool->asked != NULL) {
        PyObject *future = unlink_asked(pool, pool->asked);
        if (tulip_future_settle(loop, future, NULL, cause) < 0) {
            PyErr_WriteUnraisable((PyObject *)loop);
        }
        Py_DECREF(future);
    }
    Py_DECREF(cause);
    dismiss(pool);
}

static const UvtConsumer consumer = {
    .fired = on_answers,
    .closed = on_closed,
};

static TulipLookups *
pool_new(void)
{
    TulipLookups *pool = calloc(1, sizeof(TulipLookups));
    pthread_condattr_t attr;
    if (pool == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    (void)pthread_condattr_init(&attr);
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    (void)pthread_mutex_init(&pool->lock, NULL);
    (void)pthread_cond_init(&pool->wanted, &attr);
    (void)pthread_condattr_destroy(&attr);
    list_init(&pool->queue);
    list_init(&pool->done);
    pool->pid = getpid();
    return pool;
}

/* The handle by which threads tell of answers; they learn of it by the lock.  What
 * they have told one that is closed by now is looked at again. */
static int
open_wakeup(TulipLoop *loop, TulipLookups *pool)
{
    const UvtCAPI *api = loop->st->uv;
    PyObject *async = api->async_new(loop->uv_loop);
    uv_handle_t *uv = async != NULL ? api->handle_uv(async, UV_ASYNC) : NULL;
    if (uv == NULL || api->consume(async, &consumer, (PyObject *)loop) < 0) {
        Py_XDECREF(async);
        return -1;
    }
    uv_unref(uv);       /* it does not keep the raw loop's run() */
    pool->async = async;
    (void)pthread_mutex_lock(&pool->lock);
    pool->send = api->async_send;
    pool->wakeup = (uv_async_t *)uv;
    if (pool->done.first != NULL) {
        (void)pool->send(pool->wakeup);
    }
    (void)pthread_mutex_unlock(&pool->lock);
    return 0;
}

/* NULL with an exception. */
static TulipLookups *
get_pool(TulipLoop *loop)
{
    TulipLookups *pool = loop->lookups;
    if (pool != NULL) {
        return pool;
    }
    pool = pool_new();
    if (pool == NULL) {
        return NULL;
    }
    if (open_wakeup(loop, pool) < 0) {
        pool_free(pool);
        return NULL;
    }
    loop->lookups = pool;
    return pool;
}

int
tulip_lookup_traverse(TulipLoop *loop, visitproc visit, void *arg)
{
    const TulipLookups *pool = loop->lookups;
    if (pool == NULL) {
        return 0;
    }
    Py_VISIT(pool->async);
    for (Query *query = pool->asked; query != NULL; query = query->next_asked) {
        Py_VISIT(query->future);
    }
    return 0;
}

/* Dropping a future can run any code, which finds no pool. */
void
tulip_lookup_end(TulipLoop *loop)
{
    const UvtCAPI *api = loop->st->uv;
    TulipLookups *pool = loop->lookups;
    PyObject *async;
    if (pool == NULL) {
        return;
    }
    loop->lookups = NULL;
    while (pool->asked != NULL) {
        Py_DECREF(unlink_asked(pool, pool->asked));
    }
    async = pool->async;
    pool->async = NULL;
    dismiss(pool);
    api->release(async);
    api->close(async);
    Py_DECREF(async);
}

/* ---- methods ---- */

static PyObject *
loop_lookup(TulipLoop *self, PyObject *const *args, Py_ssize_t nargs)
{
    UVT_LOCKED(self->lock);
    TulipHints asked;
    TulipLookups *pool;
    Query *query;
    PyObject *future;
    const char *host, *port;
    char room[8];
    int usual;

    if (!tulip_loop_check_open(self)) {
        return NULL;
    }
    usual = tulip_hints_parse(args, nargs, &asked);
    if (usual < 0) {
        return NULL;
    }
    if (!usual || !tulip_host_text(asked.host, &host)
        || !tulip_port_text(asked.port, room, &port)) {
        Py_RETURN_NONE;
    }
    if (tulip_hints_audit(&asked) < 0) {
        return NULL;
    }
    future = tulip_loop_py_create_future(self, NULL);
    if (future == NULL) {
        return NULL;
    }
    pool = get_pool(self);
    query = pool != NULL ? query_new(&asked, host, port) : NULL;
    if (query == NULL) {
        Py_DECREF(future);
        return NULL;
    }
    query->future = Py_NewRef(future);
    link_asked(pool, query);
    if (!submit(pool, query)) {
        Py_DECREF(unlink_asked(pool, query));
        query_free(query);
        Py_SETREF(future, Py_NewRef(Py_None));
    }
    return future;
}

static PyObject *
forget_lookup(TulipLoop *self, PyObject *future)
{
    UVT_LOCKED(self->lock);
    TulipLookups *pool = self->lookups;
    Query *query = pool != NULL ? pool->asked : NULL;
    while (query != NULL && query->future != future) {
        query = query->next_asked;
    }
    if (query != NULL) {
        future = unlink_asked(pool, query);
        (void)pthread_mutex_lock(&pool->lock);
        query->dropped = true;
        (void)pthread_mutex_unlock(&pool->lock);
        Py_DECREF(future);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(literal_doc,
"_literal_addrinfo($self, host, port, family, type, proto, flags, /)\n--\n\n"
"socket.getaddrinfo() for a host and a port that are numbers.  None: they are\n"
"not, or there is more than one answer.");

PyDoc_STRVAR(lookup_doc,
"_lookup($self, host, port, family, type, proto, flags, /)\n--\n\n"
"A future of what socket.getaddrinfo() returns or raises.  None: it has to be\n"
"called, because of unusual arguments or as there is no thread to be had.\n\n"
"Raises RuntimeError on a closed loop.");

PyDoc_STRVAR(forget_doc,
"_forget_lookup($self, future, /)\n--\n\n"
"Nobody waits for the future any more: drop the question, or the answer.");

#define FAST(function) (PyCFunction)(void (*)(void))function

PyMethodDef tulip_lookup_methods[] = {
    {"_literal_addrinfo", FAST(tulip_loop_py_literal_addrinfo), METH_FASTCALL,
     literal_doc},
    {"_lookup", FAST(loop_lookup), METH_FASTCALL, lookup_doc},
    {"_forget_lookup", (PyCFunction)forget_lookup, METH_O, forget_doc},
    {NULL},
};
