/* Server: the C half of uvtulip.Server. */
#ifndef TULIP_SERVER_H
#define TULIP_SERVER_H

#include "eventloop.h"
#include "stream.h"

/* One listening socket.  Connections are accepted through a descriptor of our
 * own, so that it cannot be closed or reused behind the back of the poll. */
typedef struct TulipListener {
    PyObject *handle;           /* uv.TCP or uv.Pipe, bound; strong until closed */
    PyObject *poll;             /* uv.Poll on fd; strong until closed */
    int fd;                     /* a duplicate of handle's, or -1 */
    bool resting;               /* waits for descriptors to become free */
    bool is_tcp;
    int batch;                  /* connections taken last time; 0: and none was left */
    uint64_t turn;              /* of the loop, when that was */
    struct sockaddr_storage name;   /* TCP: of accepted sockets, unless wildcard */
    PyObject *unix_name;        /* Pipe: the same, for life; or NULL */
} TulipListener;

typedef struct TulipServer {
    PyObject_HEAD
    TulipState *st;             /* borrowed, through the type */
    TulipLoop *loop;            /* strong, for life */
    PyObject *factory;
    PyObject *context;
    TulipListener *listeners;
    Py_ssize_t count;           /* of listeners */
    int backlog;
    bool serving;
    bool stopped;
    Py_ssize_t active;          /* open connections, and _attach() */
    TulipStream *clients;       /* borrowed: each leaves when it is lost */
    PyObject *dict;
    PyObject *weakrefs;
} TulipServer;

/* A transport joins when it is made and leaves when its connection is lost or
 * when it is deallocated; leaving may call self._wakeup(). */
void tulip_server_join(TulipServer *self, TulipStream *stream);
void tulip_server_leave(TulipServer *self, TulipStream *stream);

/* ---- listener.c ---- */

/* False with an exception. */
UVT_CHECKED bool tulip_listener_start(TulipServer *self, Py_ssize_t index);
/* Wants connections (again). */
UVT_CHECKED bool tulip_listener_listen(TulipServer *self,
                                       TulipListener *listener);
void tulip_listener_stop(TulipServer *self, TulipListener *listener);

#endif
