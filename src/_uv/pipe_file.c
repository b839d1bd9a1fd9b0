/* The file that bind() of a Pipe makes: its mode, and its removal when the handle is
 * closed.  libuv would do both by the name that bind() was given, whatever has that
 * name by then: another server's socket, or a stranger's file in another working
 * directory.  So the file is known here by its device, its inode and its full path,
 * and libuv gets nothing to remove.  All functions run on the loop's thread,
 * attached, but for removal, which calls nothing of Python's.
 */
#include "args.h"
#include "errors.h"
#include "loop.h"
#include "pipe.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct UvtPipeFile {
    dev_t device;
    ino_t inode;
    char path[];
} UvtPipeFile;

UvtPipeFile *
uvt_pipe_file_new(const char *name)
{
    char folder[PATH_MAX];
    size_t size = strlen(name), length = 0;
    UvtPipeFile *self;
    if (name[0] != '/' && getcwd(folder, sizeof(folder)) != NULL) {
        length = strlen(folder);
    }
    self = PyMem_RawMalloc(sizeof(UvtPipeFile) + length + size + 2);
    if (self == NULL) {
        return NULL;
    }
    if (length > 0) {
        memcpy(self->path, folder, length);
        self->path[length++] = '/';
    }
    memcpy(self->path + length, name, size + 1);
    return self;
}

static bool
is_its_file(const UvtPipeFile *self, const struct stat *st)
{
    return S_ISSOCK(st->st_mode) && st->st_dev == self->device
        && st->st_ino == self->inode;
}

void
uvt_pipe_file_bound(UvtBox *box, UvtPipeFile *self)
{
    struct stat st;
    if (lstat(self->path, &st) < 0 || !S_ISSOCK(st.st_mode)) {
        PyMem_RawFree(self);    /* somebody has removed it already */
        return;
    }
    self->device = st.st_dev;
    self->inode = st.st_ino;
    box->file = self;
}

/* libuv removes what its copy of the name stands for, which is made that of no
 * file.  It was allocated by libuv, as a string of at least one character. */
void
uvt_pipe_file_remove(UvtBox *box)
{
    UvtPipeFile *self = box->file;
    struct stat st;
    if (box->uv.pipe.pipe_fname != NULL) {
        *(char *)box->uv.pipe.pipe_fname = '\0';
    }
    box->file = NULL;
    if (self != NULL) {
        if (lstat(self->path, &st) == 0 && is_its_file(self, &st)) {
            (void)unlink(self->path);
        }
        PyMem_RawFree(self);
    }
}

/* ---- its mode ---- */

/* As libuv: from 1.51 on the mode is what was asked for, before it was added. */
static mode_t
mode_for(int flags, mode_t mode)
{
    mode_t wanted = (flags & UV_READABLE ? S_IRUSR | S_IRGRP | S_IROTH : 0)
        | (flags & UV_WRITABLE ? S_IWUSR | S_IWGRP | S_IWOTH : 0);
    return uv_version() >= 0x013300 ? wanted : (mode & 07777) | wanted;
}

/* Through a descriptor of the very file, so that it cannot be exchanged in between.
 * A libuv status. */
static int
change_mode(const UvtPipeFile *self, int flags)
{
    char link[sizeof("/proc/self/fd/") + 3 * sizeof(int)];
    int fd = open(self->path, O_PATH | O_NOFOLLOW | O_CLOEXEC), rc = 0;
    struct stat st;
    if (fd < 0) {
        return uv_translate_sys_error(errno);
    }
    if (fstat(fd, &st) < 0 || !is_its_file(self, &st)) {
        rc = UV_ENOENT;
    }
    else {
        mode_t mode = mode_for(flags, st.st_mode);
        (void)snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
        if (chmod(link, mode) < 0
            && (errno != ENOENT || chmod(self->path, mode) < 0)) {
            rc = uv_translate_sys_error(errno);
        }
    }
    (void)close(fd);
    return rc;
}

const char uvt_pipe_chmod_doc[] =
"chmod($self, flags, /)\n--\n\n"
"Let every user read from the bound path (UV_READABLE), write to it\n"
"(UV_WRITABLE), or both; newer libuv takes away what is not given.\n\n"
"Raises TypeError, ValueError, HandleClosedError, PipeError (EBADF: not bound;\n"
"ENOENT: another file has taken the path; EINVAL: other flags).";

PyObject *
uvt_pipe_chmod(UvtHandle *self, PyObject *arg)
{
    UVT_LOCKED(self->lock);
    int flags, rc;
    if (!uvt_arg_int("Pipe.chmod", "flags", arg, 0, INT_MAX, &flags)
        || !uvt_handle_check_free(self, "Pipe.chmod")) {
        return NULL;
    }
    if (self->box->uv.pipe.pipe_fname == NULL) {
        rc = uv_pipe_chmod(&self->box->uv.pipe, flags);
    }
    else if (flags == 0 || (flags & ~(UV_READABLE | UV_WRITABLE)) != 0) {
        rc = UV_EINVAL;
    }
    else {
        rc = self->box->file != NULL ? change_mode(self->box->file, flags)
                                     : UV_ENOENT;
    }
    if (rc < 0) {
        return uvt_handle_raise(self, rc, "uv_pipe_chmod");
    }
    Py_RETURN_NONE;
}
