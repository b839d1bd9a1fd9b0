/* libuv's thread pool: its start, and how its threads wake a loop.  libuv makes all its
 * threads with the first request of a process, and aborts when the system refuses one.
 * So as many are made here just before, all at once, and end again: what they needed is
 * free then, or kept by the C library for the next ones.
 *
 * A thread that has done a request writes to the eventfd of its loop, and aborts when
 * somebody has closed that.  It writes nothing while a wake-up seems to be under way.
 * So a wake-up seems to be under way at all times, except while the loop waits in a
 * poll: at other times the program, which may close what it likes, runs on the loop's
 * thread.  Before each poll the loop looks for what is done.  What is left is another thread that closes the descriptor
 * of a loop that waits.
 */
#include "guards.h"
#include "pool.h"

#include <stdlib.h>
#include <unistd.h>

#define DEFAULT_SIZE 4
#define LARGEST_SIZE 1024
#define STACK_SIZE (8u << 20)       /* of newer libuv's pool */

/* As libuv reads it. */
static unsigned
pool_size(void)
{
    const char *value = getenv("UV_THREADPOOL_SIZE");
    int size = value != NULL ? atoi(value) : DEFAULT_SIZE;
    if (size == 0) {
        return 1;
    }
    return size < 0 || size > LARGEST_SIZE ? LARGEST_SIZE : (unsigned)size;
}

static void
wait_for_end(void *gate)
{
    uv_sem_wait(gate);
}

/* The larger of the stacks that the pool of any libuv has. */
static int
make_thread(uv_thread_t *thread, uv_sem_t *gate)
{
    uv_thread_options_t options = {.flags = UV_THREAD_HAS_STACK_SIZE,
                                   .stack_size = STACK_SIZE};
    if (uv_version() < 0x012D00) {
        options.flags = UV_THREAD_NO_FLAGS;
    }
    return uv_thread_create_ex(thread, &options, wait_for_end, gate);
}

static int
try_threads(unsigned size)
{
    uv_thread_t *threads = PyMem_RawCalloc(size, sizeof(*threads));
    uv_sem_t gate;
    unsigned made = 0;
    int rc = threads == NULL ? UV_ENOMEM : uv_sem_init(&gate, 0);
    if (rc < 0) {
        PyMem_RawFree(threads);
        return rc;
    }
    while (made < size && rc == 0) {
        rc = make_thread(&threads[made], &gate);
        made += rc == 0;
    }
    for (unsigned i = 0; i < made; i++) {
        uv_sem_post(&gate);
    }
    for (unsigned i = 0; i < made; i++) {
        (void)uv_thread_join(&threads[i]);
    }
    uv_sem_destroy(&gate);
    PyMem_RawFree(threads);
    return rc;
}

int
uvt_pool_prepare(UvtState *st, UvtCore *core)
{
    pid_t pid = getpid();
    int rc = 0;
    if (core != NULL) {
        core->uses_pool = true;
        uvt_pool_hush(core);
    }
    if (st->pool_pid != pid) {
        rc = try_threads(pool_size());
        if (rc == 0) {
            st->pool_pid = pid;
        }
    }
    return rc;
}

/* ---- waking a loop ---- */

/* Up to 1.44 it is 1 while a wake-up is being sent and 2 from then on; newer libuv
 * counts those that are being sent from its second bit on. */
void
uvt_pool_hush(UvtCore *core)
{
    int *pending = &core->uv.wq_async.pending, none = 0;
    if (uv_version() >= 0x012D00) {
        (void)__atomic_fetch_or(pending, 1, __ATOMIC_SEQ_CST);
    }
    else {
        (void)__atomic_compare_exchange_n(pending, &none, 2, false, __ATOMIC_SEQ_CST,
                                          __ATOMIC_SEQ_CST);
    }
}

static void
let_wake(UvtCore *core)
{
    int *pending = &core->uv.wq_async.pending, sent = 2;
    if (uv_version() >= 0x012D00) {
        (void)__atomic_fetch_and(pending, ~1, __ATOMIC_SEQ_CST);
    }
    else {
        (void)__atomic_compare_exchange_n(pending, &sent, 0, false, __ATOMIC_SEQ_CST,
                                          __ATOMIC_SEQ_CST);
    }
}

/* Both kinds of queue that libuv has had begin with the pointer to the first entry. */
bool
uvt_pool_has_done(UvtCore *core)
{
    const void **queue = (const void **)&core->uv.wq;
    bool done;
    uv_mutex_lock(&core->uv.wq_mutex);
    done = queue[0] != (const void *)queue;
    uv_mutex_unlock(&core->uv.wq_mutex);
    return done;
}

void
uvt_pool_before_poll(UvtCore *core, bool waits)
{
    let_wake(core);
    if (uvt_pool_has_done(core)) {
        (void)uv_async_send(&core->uv.wq_async);
    }
    else if (!waits) {
        uvt_pool_hush(core);
    }
}

/* Another loop may poll the descriptor of one that was asked for it. */
void
uvt_pool_after_run(UvtCore *core)
{
    if (core->embedded && !core->lost && uvt_guard_intact(core)) {
        uvt_pool_before_poll(core, true);
    }
    else {
        uvt_pool_hush(core);
    }
}
