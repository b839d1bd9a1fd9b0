/* The clock that the loop's timers go by: CLOCK_MONOTONIC, or what time() of the loop
 * says, if the program has put another method in its place. */
#ifndef TULIP_CLOCK_H
#define TULIP_CLOCK_H

#include "eventloop.h"

/* Seconds as nanoseconds, rounded up; false with ValueError for NaN. */
UVT_CHECKED bool tulip_to_ns(double seconds, int64_t *ns);
/* Finds out whether time() is another method now. */
void tulip_clock_look(TulipLoop *self);
/* For tulip_loop_now(): calls time(). */
UVT_CHECKED int tulip_clock_ask(TulipLoop *self, int64_t *now);
PyObject *tulip_loop_py_time(PyObject *self, PyObject *ignored);
int tulip_loop_setattro(PyObject *self, PyObject *name, PyObject *value);

/* In nanoseconds; 0, or -1 with what time() has raised. */
UVT_CHECKED static inline int
tulip_loop_now(TulipLoop *self, int64_t *now)
{
    if (self->other_time) {
        return tulip_clock_ask(self, now);
    }
    *now = tulip_now();
    return 0;
}

#endif
