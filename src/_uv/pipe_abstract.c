/* Abstract names of Linux, which may have any bytes.  libuv before 1.46 cuts a name
 * at its first NUL, and later versions refuse one with a second NUL.  All functions
 * run on the loop's thread, attached.  The handle owns the socket that is made here
 * for it, as if libuv had.
 */
#include "guards.h"
#include "pipe.h"
#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* The address of a name that begins with NUL and fits; its length. */
static socklen_t
make_address(struct sockaddr_un *addr, const char *name, size_t size)
{
    memset(addr, 0, sizeof(*addr));
    addr->sun_family = AF_UNIX;
    memcpy(addr->sun_path, name, size);
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + size);
}

static int
make_socket(void)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    return fd < 0 ? uv_translate_sys_error(errno) : fd;
}

int
uvt_abstract_bind(uv_pipe_t *uv, const char *name, size_t size)
{
    struct sockaddr_un addr;
    socklen_t length = make_address(&addr, name, size);
    uv_os_fd_t used;
    int fd, rc;
    if (uv_fileno((uv_handle_t *)uv, &used) == 0) {
        return UV_EINVAL;
    }
    fd = make_socket();
    if (fd < 0) {
        return fd;
    }
    if (bind(fd, (struct sockaddr *)&addr, length) < 0) {
        rc = uv_translate_sys_error(errno);
        (void)close(fd);
        return rc;
    }
    /* All that uv_pipe_bind() does, but for the file that it would remove. */
    uv->io_watcher.fd = fd;
    return 0;
}

/* ---- connecting ---- */

/* A connection that is made already; libuv tells of it as of a write. */
typedef struct {
    uv_write_t req;             /* first: libuv gives this one back */
    UvtRequest base;
} Connected;

/* A connection that has failed already; libuv tells of it as of one of its own
 * that fails. */
typedef struct {
    uv_connect_t req;           /* first: libuv gives this one back */
    UvtRequest base;
    int status;
} Failed;

static void
on_connected(uv_write_t *req, int status)
{
    Connected *connected = (Connected *)req;
    if (uv_is_closing((uv_handle_t *)req->handle)) {
        status = UV_ECANCELED;
    }
    uvt_request_done(&connected->base, req->handle, status);
    PyMem_Free(connected);
}

static void
on_failed(uv_connect_t *req, int status)
{
    Failed *failed = (Failed *)req;
    uvt_request_done(&failed->base, req->handle,
                     status == UV_ECANCELED ? status : failed->status);
    PyMem_Free(failed);
}

static int
tell_connected(UvtHandle *self, PyObject *callback)
{
    Connected *connected = PyMem_Calloc(1, sizeof(Connected));
    uv_buf_t nothing = uv_buf_init("", 0);
    int rc;
    if (connected == NULL) {
        return UV_ENOMEM;
    }
    uvt_request_begin(&connected->base, self, callback);
    rc = uv_write(&connected->req, &self->box->uv.stream, &nothing, 1,
                  on_connected);
    if (rc < 0) {
        uvt_request_cancel(&connected->base);
        PyMem_Free(connected);
    }
    return rc;
}

static int
tell_failed(UvtHandle *self, PyObject *callback, int status)
{
    Failed *failed = PyMem_Calloc(1, sizeof(Failed));
    if (failed == NULL) {
        return UV_ENOMEM;
    }
    failed->status = status;
    uvt_request_begin(&failed->base, self, callback);
    /* A path that is there and is no socket is always refused. */
    uv_pipe_connect(&failed->req, &self->box->uv.pipe, "/dev/null", on_failed);
    return 0;
}

/* Connects fd, and gives it to the handle if it is new; a libuv status. */
static int
connect_fd(uv_pipe_t *uv, int fd, const struct sockaddr_un *addr,
           socklen_t length)
{
    int rc;
    do {
        rc = connect(fd, (const struct sockaddr *)addr, length);
    } while (rc < 0 && errno == EINTR);
    if (rc < 0) {
        return uv_translate_sys_error(errno);
    }
    rc = uvt_guard_reserve(uv->loop, fd);
    return rc < 0 ? rc : uv_pipe_open(uv, fd);
}

/* A UNIX socket connects at once or not at all. */
int
uvt_abstract_connect(UvtHandle *self, PyObject *callback, const char *name,
                     size_t size)
{
    uv_pipe_t *uv = &self->box->uv.pipe;
    struct sockaddr_un addr;
    socklen_t length = make_address(&addr, name, size);
    uv_os_fd_t fd;
    bool made = uv_fileno((uv_handle_t *)uv, &fd) < 0;
    int rc;
    if (made) {
        fd = make_socket();
        if (fd < 0) {
            return tell_failed(self, callback, fd);
        }
    }
    rc = connect_fd(uv, fd, &addr, length);
    if (rc == 0) {
        return tell_connected(self, callback);
    }
    if (made) {
        (void)close(fd);
    }
    return tell_failed(self, callback, rc);
}
