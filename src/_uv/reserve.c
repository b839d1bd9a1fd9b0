/* Memory in reserve for where libuv aborts without any: when it makes a loop, and
 * when it looks at a file that an FSPoll watches.  libuv gets all its memory by the
 * functions here, which are the C library's; what that refuses comes out of the
 * reserve of the thread, if it has one.
 *
 * The reserve belongs to the thread, as libuv's functions are not told for whom they
 * are called: so this is the one place with data of its own.
 */
#include "guards.h"

#include <stdlib.h>
#include <string.h>

static _Thread_local struct {
    void *block;                /* of malloc(), so that free() takes it */
    size_t size;
} reserve;

static void *
take_reserve(size_t size)
{
    void *block = size <= reserve.size ? reserve.block : NULL;
    if (block != NULL) {
        reserve.block = NULL;
        reserve.size = 0;
    }
    return block;
}

static void *
get_memory(size_t size)
{
    void *block = malloc(size);
    return block != NULL ? block : take_reserve(size);
}

static void *
get_zeros(size_t count, size_t size)
{
    void *block = calloc(count, size);
    if (block == NULL && size > 0 && count <= SIZE_MAX / size) {
        block = take_reserve(count * size);
        if (block != NULL) {
            memset(block, 0, count * size);
        }
    }
    return block;
}

/* An old block has a size that nobody knows: only a new one comes out of it. */
static void *
resize(void *old, size_t size)
{
    return old != NULL ? realloc(old, size) : get_memory(size);
}

int
uvt_reserve_setup(void)
{
    return uv_replace_allocator(get_memory, resize, get_zeros, free);
}

int
uvt_reserve_fill(size_t size)
{
    if (reserve.size >= size) {
        return 0;
    }
    free(reserve.block);
    reserve.block = malloc(size);
    reserve.size = reserve.block != NULL ? size : 0;
    return reserve.block != NULL ? 0 : UV_ENOMEM;
}

void
uvt_reserve_empty(void)
{
    free(reserve.block);
    reserve.block = NULL;
    reserve.size = 0;
}
