/* The ring of callbacks that are ready to be called, and call_soon(), which
 * fills it.  All functions run attached; in debug mode call_soon() checks that
 * it runs on the loop's thread.  A ring owns a reference to each handle in it.
 */
#include "ready.h"
#include "eventloop.h"
#include <string.h>

#define FIRST_CAPACITY 64

/* ---- the ring ---- */

int
tulip_ring_grow(TulipRing *self)
{
    size_t capacity = self->capacity == 0 ? FIRST_CAPACITY : self->capacity * 2;
    size_t length = tulip_ring_length(self);
    TulipCallback **items = PyMem_New(TulipCallback *, capacity);
    if (items == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (size_t i = 0; i < length; i++) {
        items[i] = self->items[(self->head + i) & (self->capacity - 1)];
    }
    PyMem_Free(self->items);
    *self = (TulipRing){
        .items = items, .capacity = capacity, .head = 0, .tail = length,
        .taken = self->taken + self->head,
    };
    return 0;
}

PyObject *
tulip_ring_list(const TulipRing *self)
{
    size_t length = tulip_ring_length(self);
    PyObject *list = PyList_New((Py_ssize_t)length);
    if (list == NULL) {
        return NULL;
    }
    for (size_t i = 0; i < length; i++) {
        TulipCallback *item = self->items[(self->head + i) & (self->capacity - 1)];
        PyList_SET_ITEM(list, (Py_ssize_t)i, Py_NewRef(item));
    }
    return list;
}

int
tulip_ring_traverse(TulipRing *self, visitproc visit, void *arg)
{
    for (size_t i = self->head; i != self->tail; i++) {
        Py_VISIT(self->items[i & (self->capacity - 1)]);
    }
    return 0;
}

/* Dropping a handle can run any code, which finds an empty ring. */
void
tulip_ring_clear(TulipRing *self)
{
    TulipRing old = *self;
    memset(self, 0, sizeof(*self));
    while (tulip_ring_length(&old) > 0) {
        Py_DECREF(tulip_ring_pop(&old));
    }
    PyMem_Free(old.items);
}

/* ---- call_soon ---- */

/* In the ring of a running loop it need not be tracked (callback.c). */
int
tulip_loop_enqueue(TulipLoop *self, TulipCallback *handle)
{
    if (tulip_ring_push(&self->ready, handle) < 0) {
        Py_DECREF(handle);
        return -1;
    }
    if (self->thread_id == 0) {
        tulip_callback_track(handle);
    }
    tulip_loop_wake_if_polling(self);
    return 0;
}

void
tulip_loop_track_ready(TulipLoop *self)
{
    const TulipRing *ring = &self->ready;
    for (size_t i = ring->head; i != ring->tail; i++) {
        tulip_callback_track(ring->items[i & (ring->capacity - 1)]);
    }
}

int
tulip_loop_call_soon(TulipLoop *self, PyObject *callable, PyObject *const *args,
                     Py_ssize_t nargs, PyObject *context)
{
    TulipCallback *handle;
    if (!tulip_loop_check_open(self)) {
        return -1;
    }
    handle = tulip_callback_new(self, callable, args, nargs, context, false);
    return handle != NULL ? tulip_loop_enqueue(self, handle) : -1;
}

int
tulip_loop_call_soon_c(TulipLoop *self, TulipCFunction function,
                       PyObject *owner, PyObject *arg)
{
    TulipCallback *handle;
    if (!tulip_loop_check_open(self)) {
        return -1;
    }
    handle = tulip_callback_new_c(self, function, owner, arg, false);
    return handle != NULL ? tulip_loop_enqueue(self, handle) : -1;
}

PyObject *
tulip_loop_py_call_soon(TulipLoop *self, PyObject *const *args,
                        Py_ssize_t nargs, PyObject *kwnames)
{
    UVT_LOCKED(self->lock);
    TulipCall call;
    TulipCallback *handle;
    if (!tulip_bind(self, "call_soon", NULL, args, nargs, kwnames, &call)
        || !tulip_loop_check_call(self, "call_soon", call.callable, true)) {
        return NULL;
    }
    handle = tulip_callback_new(self, call.callable, call.args, call.nargs,
                                call.context, false);
    if (handle == NULL || tulip_loop_enqueue(self, handle) < 0) {
        return NULL;
    }
    return Py_NewRef(handle);
}
