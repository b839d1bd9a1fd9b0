/* The heap of timer handles, by deadline in nanoseconds and then by age. */
#ifndef TULIP_TIMERS_H
#define TULIP_TIMERS_H

#include "callback.h"

#define TULIP_NEVER INT64_MAX

/* The deadline stands here so that comparing touches no handle. */
typedef struct TulipTimerItem {
    int64_t deadline;           /* when, in nanoseconds, rounded up */
    TulipCallback *timer;       /* strong; it knows its heap_index */
} TulipTimerItem;

typedef struct TulipTimers {
    TulipTimerItem *items;
    Py_ssize_t count, capacity;
    uint64_t sequence;
    bool untracked;             /* some of them are not tracked */
} TulipTimers;

/* -1 with MemoryError.  Takes a new reference. */
UVT_CHECKED int tulip_timers_push(TulipTimers *self, TulipCallback *timer,
                                  int64_t deadline);
/* Takes a cancelled timer out at once and tracks it, for whoever cancels it;
 * drops the heap's reference. */
void tulip_timers_remove(TulipTimers *self, TulipCallback *timer);
/* The first one if its deadline is not after now, else NULL. */
UVT_NEW TulipCallback *tulip_timers_pop_due(TulipTimers *self, int64_t now);
/* The run ends: tracks what is in the heap. */
void tulip_timers_track(TulipTimers *self);
int tulip_timers_traverse(TulipTimers *self, visitproc visit, void *arg);
void tulip_timers_clear(TulipTimers *self);

static inline int64_t
tulip_timers_first(const TulipTimers *self)
{
    return self->count > 0 ? self->items[0].deadline : TULIP_NEVER;
}

#endif
