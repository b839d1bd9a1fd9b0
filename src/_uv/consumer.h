/* How C code that has taken a handle's events, or a loop's, hears of one.
 *
 * The client may give the handle up in the middle of its call (release(), close()),
 * and with it the reference that keeps the owner.  So each event goes through one of
 * these, which hold the owner until the call returns, and call nothing that the
 * client has left NULL.
 */
#ifndef UVT_CONSUMER_H
#define UVT_CONSUMER_H

#include "handle.h"
#include "loop.h"

/* The arguments name the owner `owner`:
 *     UVT_TELL_CONSUMER(handle, ready, owner, status, events); */
#define UVT_TELL(table_, owner_, event, ...) \
    do { \
        if ((table_)->event != NULL) { \
            PyObject *owner = Py_NewRef(owner_); \
            (table_)->event(__VA_ARGS__); \
            Py_DECREF(owner); \
        } \
    } while (0)

/* A handle that has a consumer. */
#define UVT_TELL_CONSUMER(handle, event, ...) \
    UVT_TELL((handle)->consumer, (handle)->consumer_owner, event, __VA_ARGS__)

/* A loop that has hooks. */
#define UVT_TELL_HOOKS(loop, event, ...) \
    UVT_TELL((loop)->hooks, (loop)->hooks_owner, event, __VA_ARGS__)

/* What the hooks say just before a poll: that it must not block. */
static inline bool
uvt_hooks_busy(const UvtLoop *loop)
{
    bool busy = false;
    if (loop->hooks != NULL && loop->hooks->busy != NULL) {
        PyObject *owner = Py_NewRef(loop->hooks_owner);
        busy = loop->hooks->busy(owner);
        Py_DECREF(owner);
    }
    return busy;
}

#endif
