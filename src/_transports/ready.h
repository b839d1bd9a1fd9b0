/* A growing ring of strong references to callbacks, first in, first out. */
#ifndef TULIP_READY_H
#define TULIP_READY_H

#include "callback.h"

typedef struct TulipRing {
    TulipCallback **items;
    size_t capacity;            /* a power of 2, or 0 */
    size_t head, tail;          /* tail - head is the length */
    size_t taken;               /* + head: how many were ever popped */
} TulipRing;

static inline size_t
tulip_ring_length(const TulipRing *self)
{
    return self->tail - self->head;
}

/* -1 with MemoryError. */
UVT_CHECKED int tulip_ring_grow(TulipRing *self);

/* -1 with MemoryError: then nothing was taken. */
UVT_CHECKED static inline int
tulip_ring_push(TulipRing *self, UVT_STEALS(2) TulipCallback *item)
{
    if (self->tail - self->head == self->capacity && tulip_ring_grow(self) < 0) {
        return -1;
    }
    self->items[self->tail++ & (self->capacity - 1)] = item;
    return 0;
}

/* Only when the length is not 0. */
UVT_NEW static inline TulipCallback *
tulip_ring_pop(TulipRing *self)
{
    return self->items[self->head++ & (self->capacity - 1)];
}

/* Moves the first n, which are there, to the end. */
static inline void
tulip_ring_rotate(TulipRing *self, size_t n)
{
    self->taken -= n;
    for (; n > 0; n--) {
        TulipCallback *item = tulip_ring_pop(self);
        self->items[self->tail++ & (self->capacity - 1)] = item;
    }
}

/* A list of the callbacks; NULL with an exception. */
UVT_NEW PyObject *tulip_ring_list(const TulipRing *self);
int tulip_ring_traverse(TulipRing *self, visitproc visit, void *arg);
void tulip_ring_clear(TulipRing *self);

#endif
