/* What is special to transports over a uv.Pipe: the names of UNIX sockets, and of
 * sockets of rarer families, which libuv takes as pipes too.  They are asked for
 * while the connection is certainly there.  All functions run on the loop's
 * thread, attached; the transport owns the names.
 */
#include "stream.h"
#include <sys/socket.h>
#include <sys/un.h>

/* A family that only Python's socket module knows to name. */
static PyObject *
ask_socket(int fd, bool peer)
{
    PyObject *module = PyImport_ImportModule("uvtulip.sockets");
    PyObject *sock = NULL, *name = NULL;
    if (module != NULL) {
        sock = PyObject_CallMethod(module, "borrow", "i", fd);
        Py_DECREF(module);
    }
    if (sock != NULL) {
        name = PyObject_CallMethod(sock, peer ? "getpeername" : "getsockname",
                                   NULL);
        Py_DECREF(sock);
    }
    if (name == NULL && !PyErr_ExceptionMatches(PyExc_MemoryError)) {
        PyErr_Clear();
        name = Py_NewRef(Py_None);
    }
    return name;
}

PyObject *
tulip_unix_name(const UvtCAPI *api, int fd, bool peer)
{
    struct sockaddr_storage storage = {0};
    struct sockaddr *addr = (struct sockaddr *)&storage;
    socklen_t len = sizeof(storage);
    if ((peer ? getpeername : getsockname)(fd, addr, &len) < 0) {
        Py_RETURN_NONE;     /* no socket, or not connected any more */
    }
    if (addr->sa_family == AF_UNIX) {
        return api->sockaddr_format(addr, (int)len);
    }
    return ask_socket(fd, peer);
}

void
tulip_unix_adopt(TulipStream *self, PyObject *own, PyObject *peer)
{
    const UvtCAPI *api = tulip_stream_api(self);
    PyObject **names = self->names.objects;
    uv_os_fd_t fd;
    if (uv_fileno((uv_handle_t *)self->uv, &fd) < 0) {
        return;
    }
    self->flags |= TULIP_NAMES_OBJECTS;
    names[0] = own != NULL ? Py_NewRef(own) : tulip_unix_name(api, fd, false);
    names[1] = peer != NULL ? Py_NewRef(peer) : tulip_unix_name(api, fd, true);
    PyErr_Clear();      /* NULL: no name */
}
