/* uv.fs.copyfile().  libuv's own empties what was there before, and removes it when
 * the copy fails, be it a device or somebody else's file.  This one takes away only
 * what it has made.  copy() runs on any thread, detached, and uses nothing of
 * Python's; with a callback it runs on a thread of libuv's pool.
 */
#include "fs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#ifndef FICLONE
#define FICLONE _IOW(0x94, 9, int)
#endif

#define ALL_FLAGS \
    (UV_FS_COPYFILE_EXCL | UV_FS_COPYFILE_FICLONE | UV_FS_COPYFILE_FICLONE_FORCE)
#define AT_ONCE ((size_t)1 << 30)
#define BUFFER_SIZE ((size_t)128 * 1024)

typedef struct {
    const char *path, *new_path;
    int flags;
    int in, out;                /* descriptors, or -1 */
    bool made;                  /* new_path was not there before */
    struct stat source, target; /* as they were at first */
} Copy;

/* As the functions below, a libuv status. */
static int
last_error(void)
{
    return uv_translate_sys_error(errno);
}

/* ---- opening ---- */

static int
open_again(const char *path, int flags, mode_t mode)
{
    int fd;
    do {
        fd = open(path, flags | O_CLOEXEC | O_NOCTTY, mode);
    } while (fd < 0 && errno == EINTR);
    return fd;
}

/* A FIFO is not waited for, and read or written it is not: it would block. */
static int
look_at(int fd, struct stat *st)
{
    int flags;
    if (fd < 0 || fstat(fd, st) < 0) {
        return last_error();
    }
    if (S_ISDIR(st->st_mode)) {
        return UV_EISDIR;
    }
    if (S_ISFIFO(st->st_mode) || S_ISSOCK(st->st_mode)) {
        return UV_EINVAL;
    }
    flags = fcntl(fd, F_GETFL);
    return flags < 0 || fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) < 0 ? last_error()
                                                                     : 0;
}

static int
open_source(Copy *self)
{
    self->in = open_again(self->path, O_RDONLY | O_NONBLOCK, 0);
    return look_at(self->in, &self->source);
}

/* What a dangling link leads to is made by the last call, and stays. */
static int
open_target(Copy *self)
{
    mode_t mode = self->source.st_mode & 07777;
    int flags = O_WRONLY | O_NONBLOCK;
    self->out = open_again(self->new_path, flags | O_CREAT | O_EXCL, mode);
    self->made = self->out >= 0;
    if (!self->made && errno == EEXIST
        && (self->flags & UV_FS_COPYFILE_EXCL) == 0) {
        self->out = open_again(self->new_path, flags, 0);
        if (self->out < 0 && errno == ENOENT) {
            self->out = open_again(self->new_path, flags | O_CREAT, mode);
        }
    }
    return look_at(self->out, &self->target);
}

/* ---- copying ---- */

/* fchmod() always fails on shares of Windows, and means nothing there. */
static bool
is_share(int fd)
{
    struct statfs fs;
    if (fstatfs(fd, &fs) < 0) {
        return false;
    }
    switch ((unsigned)fs.f_type) {
    case 0x0000517Bu:   /* SMB */
    case 0xFE534D42u:   /* SMB2 */
    case 0xFF534D42u:   /* CIFS */
        return true;
    default:
        return false;
    }
}

static int
set_mode(const Copy *self)
{
    if (fchmod(self->out, self->source.st_mode & 07777) == 0
        || (errno == EPERM && is_share(self->out))) {
        return 0;
    }
    return last_error();
}

/* Before anything is overwritten: whether there is room for all of it. */
static int
reserve(const Copy *self)
{
    off_t size = self->source.st_size;
    struct rlimit limit;
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY
        && (rlim_t)size > limit.rlim_cur) {
        return UV_EFBIG;
    }
    if (size > 0 && fallocate(self->out, FALLOC_FL_KEEP_SIZE, 0, size) < 0
        && (errno == ENOSPC || errno == EDQUOT || errno == EFBIG)) {
        int rc = last_error();
        (void)!ftruncate(self->out, self->target.st_size);
        return rc;
    }
    return 0;
}

/* By the kernel alone, as far as it will; the number of bytes. */
static off_t
copy_in_kernel(const Copy *self)
{
    off_t total = 0;
    ssize_t n;
    do {
        n = syscall(SYS_copy_file_range, self->in, NULL, self->out, NULL, AT_ONCE,
                    0);
        total += n > 0 ? n : 0;
    } while (n > 0 || (n < 0 && errno == EINTR));
    return total;
}

static int
write_all(int fd, const char *data, size_t size)
{
    while (size > 0) {
        ssize_t n = write(fd, data, size);
        if (n < 0 && errno != EINTR) {
            return last_error();
        }
        data += n > 0 ? n : 0;
        size -= n > 0 ? (size_t)n : 0;
    }
    return 0;
}

/* From where both are.  Files of /proc have a size of 0: so it asks. */
static int
copy_rest(const Copy *self, off_t *total)
{
    char *buffer = malloc(BUFFER_SIZE);
    ssize_t n = 0;
    int rc = buffer != NULL ? 0 : UV_ENOMEM;
    while (rc == 0) {
        n = read(self->in, buffer, BUFFER_SIZE);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            rc = n < 0 ? last_error() : 0;
            break;
        }
        rc = write_all(self->out, buffer, (size_t)n);
        *total += rc == 0 ? n : 0;
    }
    free(buffer);
    return rc;
}

/* Overwrites what is there, which a device has no end of. */
static int
copy_data(const Copy *self)
{
    bool regular = S_ISREG(self->target.st_mode);
    off_t total;
    int rc = regular && !self->made ? reserve(self) : 0;
    if (rc < 0) {
        return rc;
    }
    total = regular && S_ISREG(self->source.st_mode) ? copy_in_kernel(self) : 0;
    rc = copy_rest(self, &total);
    if (rc == 0 && regular && !self->made && ftruncate(self->out, total) < 0) {
        rc = last_error();
    }
    return rc;
}

/* 1: done; 0: not wanted, or not possible and not wanted at any price. */
static int
share_data(const Copy *self)
{
    if ((self->flags & (UV_FS_COPYFILE_FICLONE | UV_FS_COPYFILE_FICLONE_FORCE))
        == 0) {
        return 0;
    }
    if (ioctl(self->out, FICLONE, self->in) < 0) {
        return self->flags & UV_FS_COPYFILE_FICLONE_FORCE ? last_error() : 0;
    }
    /* It does not make the file shorter. */
    return self->made || ftruncate(self->out, self->source.st_size) == 0
        ? 1 : last_error();
}

static int
copy_opened(const Copy *self)
{
    int rc;
    if (self->source.st_dev == self->target.st_dev
        && self->source.st_ino == self->target.st_ino) {
        return 0;
    }
    rc = S_ISREG(self->target.st_mode) ? set_mode(self) : 0;
    if (rc < 0) {
        return rc;
    }
    rc = share_data(self);
    if (rc == 0) {
        rc = copy_data(self);
    }
    if (rc < 0 && !self->made && S_ISREG(self->target.st_mode)) {
        (void)fchmod(self->out, self->target.st_mode & 07777);
    }
    return rc < 0 ? rc : 0;
}

/* Takes away what the failed copy has made, if it still has that name. */
static void
take_away(const Copy *self)
{
    struct stat now;
    if (self->made && lstat(self->new_path, &now) == 0
        && now.st_dev == self->target.st_dev && now.st_ino == self->target.st_ino) {
        (void)unlink(self->new_path);
    }
}

static ssize_t
copy(UvtFsCall *call)
{
    Copy self = {
        .path = PyBytes_AS_STRING(call->path_bytes),
        .new_path = PyBytes_AS_STRING(call->new_path_bytes),
        .flags = call->flags, .in = -1, .out = -1,
    };
    int rc = (self.flags & ~ALL_FLAGS) != 0 ? UV_EINVAL : open_source(&self);
    if (rc == 0) {
        rc = open_target(&self);
        if (rc == 0) {
            rc = copy_opened(&self);
        }
    }
    if (rc < 0) {
        take_away(&self);
    }
    if (self.in >= 0) {
        (void)close(self.in);
    }
    /* Some file systems tell only now that there was no room. */
    if (self.out >= 0 && close(self.out) < 0 && errno != EINTR && rc == 0) {
        rc = last_error();
        take_away(&self);
    }
    return rc;
}

int
uvt_fs_start_copyfile(uv_loop_t *loop, UvtFsCall *call, uv_fs_t *req, uv_fs_cb cb)
{
    return uvt_fs_start_own(loop, call, req, cb, UV_FS_COPYFILE, copy);
}
