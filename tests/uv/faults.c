/* Preloaded into a test's child: makes system calls and allocations fail when the
 * test says so, by ctypes.  An allocation fails only when libuv or uvtulip asks. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

/* The call that fails, counted from now on; 0: none. */
static volatile long failing_malloc, failing_watch, failing_thread;
static volatile int always, watch_error, failures;
static struct { uintptr_t low, high; } ours[8];
static int count;

void fail_malloc(long nth) { always = nth < 0; failing_malloc = nth < 0 ? -nth : nth; }
void fail_watch(long nth, int error, int for_ever)
{
    watch_error = error;
    always = for_ever;
    failing_watch = nth;
}
void fail_thread(long nth) { failing_thread = nth; }
int count_failures(void) { return failures; }

/* Whether this is the call, or one after it. */
static int
is_it(volatile long *failing)
{
    long left;
    if (*failing <= 0) {
        return 0;
    }
    left = __sync_sub_and_fetch(failing, 1);
    if (left != 0) {
        return 0;
    }
    failures++;
    if (always) {
        *failing = 1;
    }
    return 1;
}

static int
note_library(struct dl_phdr_info *info, size_t size, void *unused)
{
    (void)size, (void)unused;
    if (info->dlpi_name == NULL || count == 8
        || (strstr(info->dlpi_name, "libuv.so") == NULL
            && strstr(info->dlpi_name, "/_uv.") == NULL
            && strstr(info->dlpi_name, "/_transports.") == NULL)) {
        return 0;
    }
    ours[count].low = UINTPTR_MAX;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *header = &info->dlpi_phdr[i];
        uintptr_t low = info->dlpi_addr + header->p_vaddr;
        if (header->p_type == PT_LOAD) {
            ours[count].low = low < ours[count].low ? low : ours[count].low;
            ours[count].high = low + header->p_memsz;
        }
    }
    count++;
    return 0;
}

/* To be called once, when both are loaded. */
void find_libraries(void) { count = 0; (void)dl_iterate_phdr(note_library, NULL); }

static int
fails(const void *caller)
{
    uintptr_t address = (uintptr_t)caller;
    if (failing_malloc <= 0) {
        return 0;
    }
    for (int i = 0; i < count; i++) {
        if (address >= ours[i].low && address < ours[i].high
            && is_it(&failing_malloc)) {
            errno = ENOMEM;
            return 1;
        }
    }
    return 0;
}

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);

void *malloc(size_t size)
{
    return fails(__builtin_return_address(0)) ? NULL : __libc_malloc(size);
}
void *calloc(size_t n, size_t size)
{
    return fails(__builtin_return_address(0)) ? NULL : __libc_calloc(n, size);
}
void *realloc(void *block, size_t size)
{
    return size > 0 && fails(__builtin_return_address(0))
        ? NULL : __libc_realloc(block, size);
}

int
epoll_ctl(int epoll, int op, int fd, struct epoll_event *event)
{
    static int (*real)(int, int, int, struct epoll_event *);
    if (real == NULL) {
        real = (int (*)(int, int, int, struct epoll_event *))
            dlsym(RTLD_NEXT, "epoll_ctl");
    }
    if (op == EPOLL_CTL_ADD && is_it(&failing_watch)) {
        errno = watch_error;
        return -1;
    }
    return real(epoll, op, fd, event);
}

int
pthread_create(pthread_t *thread, const pthread_attr_t *attr,
               void *(*start)(void *), void *arg)
{
    static int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    if (real == NULL) {
        real = (int (*)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *))
            dlsym(RTLD_NEXT, "pthread_create");
    }
    return is_it(&failing_thread) ? EAGAIN : real(thread, attr, start, arg);
}
