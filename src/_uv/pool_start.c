/* The start of libuv's thread pool.  libuv makes all its threads with the first
 * request of a process, and aborts when the system refuses one.  So as many are
 * made here just before, all at once, and end again: what they needed is free then,
 * or kept by the C library for the next ones.
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
uvt_pool_prepare(UvtState *st)
{
    pid_t pid = getpid();
    int rc = 0;
    if (st->pool_pid != pid) {
        rc = try_threads(pool_size());
        if (rc == 0) {
            st->pool_pid = pid;
        }
    }
    return rc;
}
