/* timers.c - what timers.py does with a loop, in plain C over libuv.
 *
 *   timers COUNT
 *
 * Prints the nanoseconds per timer of making and starting COUNT timers, in mixed
 * order, of stopping them, and of closing them, and the bytes resident for each.
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <uv.h>

static long resident(void)
{
    long pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (!f || fscanf(f, "%*d %ld", &pages) != 1)
        pages = 0;
    if (f)
        fclose(f);
    return pages * sysconf(_SC_PAGESIZE);
}

static void on_timer(uv_timer_t *timer)
{
}

static void on_close(uv_handle_t *handle)
{
    free(handle);
}

int main(int argc, char **argv)
{
    long n = argc > 1 ? atol(argv[1]) : 0, before;
    uv_loop_t *loop = uv_default_loop();
    uv_timer_t **timers = calloc(n, sizeof *timers);
    uint64_t t[4];
    double memory;

    if (n <= 0) {
        fprintf(stderr, "usage: timers COUNT\n");
        return 2;
    }
    before = resident();
    t[0] = uv_hrtime();
    for (long i = 0; i < n; i++) {
        timers[i] = malloc(sizeof **timers);
        uv_timer_init(loop, timers[i]);
        uv_timer_start(timers[i], on_timer, 100000 + i * 7919 % n, 0);
    }
    t[1] = uv_hrtime();
    memory = (double)(resident() - before) / n;
    for (long i = 0; i < n; i++)
        uv_timer_stop(timers[i]);
    t[2] = uv_hrtime();
    for (long i = 0; i < n; i++)
        uv_close((uv_handle_t *)timers[i], on_close);
    uv_run(loop, UV_RUN_DEFAULT);
    t[3] = uv_hrtime();
    printf("{\"start_ns\": %.1f, \"stop_ns\": %.1f, \"close_ns\": %.1f, "
           "\"bytes\": %.0f}\n", (double)(t[1] - t[0]) / n,
           (double)(t[2] - t[1]) / n, (double)(t[3] - t[2]) / n, memory);
    return 0;
}
