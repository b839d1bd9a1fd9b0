/* What watches a descriptor for add_reader() and add_writer() (readiness.c), for the
 * methods themselves (readers.c). */
#ifndef TULIP_READINESS_H
#define TULIP_READINESS_H

#include "eventloop.h"

#include <sys/types.h>

typedef struct Watcher {
    PyObject_HEAD
    TulipLoop *loop;            /* strong */
    PyObject *poll;             /* uv.Poll; NULL once closed */
    TulipCallback *reader;      /* strong, or NULL */
    TulipCallback *writer;
    PyObject *fileobj;          /* NULL: a number was given */
    int fd;
    bool to_be_set;             /* by the loop's thread: another has changed it */
    dev_t device;               /* of the file that is watched ... */
    ino_t inode;                /* ... since the last add */
} Watcher;

/* The descriptor's; borrowed; NULL without an exception: there is none. */
UVT_BORROWED Watcher *tulip_watcher_find(TulipLoop *loop, int fd);
/* The same for the object of a closed descriptor. */
UVT_BORROWED Watcher *tulip_watcher_find_object(TulipLoop *loop, PyObject *fileobj);
/* The watcher of the descriptor, with its Poll started for `event` too; by another
 * thread than the loop's, to be started.  Borrowed; NULL with an exception. */
UVT_BORROWED Watcher *tulip_watcher_watch(TulipLoop *loop, int fd, int event);
/* One of its callbacks has gone.  The caller owns a reference to self. */
void tulip_watcher_stop(Watcher *self);

#endif
