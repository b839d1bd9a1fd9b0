/* libuv's lock of signals: a pipe of the whole process with one byte in it, which
 * it makes with the first loop and again in each forked child.  It aborts when it
 * cannot read the byte or put it back, as in a program that became a daemon and
 * closed every descriptor.  libuv shows the pipe to nobody, so it is found when it
 * is made: by what is new among the descriptors, and looks like it.
 *
 * All functions run attached.  The state's mutex guards what they keep.
 */
#include "guards.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

/* How far a search goes: numbers are given out from below. */
#define FAR 1024

/* One end: a blocking pipe that children do not inherit.  `mode` is O_RDONLY or
 * O_WRONLY. */
static bool
is_end(int fd, int mode, struct stat *info)
{
    int flags = fcntl(fd, F_GETFL), more;
    if (flags < 0 || (flags & O_ACCMODE) != mode || (flags & O_NONBLOCK)) {
        return false;
    }
    more = fcntl(fd, F_GETFD);
    return more >= 0 && (more & FD_CLOEXEC) && fstat(fd, info) == 0
        && S_ISFIFO(info->st_mode);
}

/* Whether the two are the lock, which nobody has at this moment. */
static bool
is_lock(int reader, int writer, struct stat *info)
{
    struct stat other;
    int waiting = 0;
    return is_end(reader, O_RDONLY, info) && is_end(writer, O_WRONLY, &other)
        && info->st_ino == other.st_ino && info->st_dev == other.st_dev
        && ioctl(reader, FIONREAD, &waiting) == 0 && waiting == 1;
}

/* The next pair from `from` on that could be it; false: there is none below `end`.
 * libuv makes both ends by one call, so the second has the next free number. */
static bool
find(int from, int end, UvtSigLock *out)
{
    for (int reader = from; reader < end; reader++) {
        struct stat info, other;
        if (!is_end(reader, O_RDONLY, &info)) {
            continue;
        }
        for (int writer = reader + 1; writer < end; writer++) {
            if (is_end(writer, O_WRONLY, &other) && other.st_ino == info.st_ino
                && is_lock(reader, writer, &info)) {
                out->fds[0] = reader;
                out->fds[1] = writer;
                out->inode = info.st_ino;
                return true;
            }
        }
    }
    return false;
}

/* ---- checking ---- */

static bool
is_intact(const UvtSigLock *lock)
{
    struct stat info, other;
    return fstat(lock->fds[0], &info) == 0 && fstat(lock->fds[1], &other) == 0
        && S_ISFIFO(info.st_mode) && S_ISFIFO(other.st_mode)
        && info.st_ino == lock->inode && other.st_ino == lock->inode;
}

/* Puts `fd` at the number, when that is free or was ours. */
static bool
place(int fd, int number, ino_t inode)
{
    struct stat info;
    int got;
    if (fstat(number, &info) == 0) {
        return S_ISFIFO(info.st_mode) && info.st_ino == inode
            && dup3(fd, number, O_CLOEXEC) >= 0;
    }
    got = fcntl(fd, F_DUPFD_CLOEXEC, number);
    if (got >= 0 && got != number) {
        (void)close(got);
    }
    return got == number;
}

static bool
make_anew(UvtState *st)
{
    UvtSigLock *lock = &st->siglock;
    int fds[2];
    struct stat info;
    bool done;
    uvt_low_take(st);
    if (pipe2(fds, O_CLOEXEC) < 0) {
        uvt_low_give(st);
        return false;
    }
    /* Neither of the two may be where the other has to go. */
    for (int i = 0; i < 2; i++) {
        int moved = fcntl(fds[i], F_DUPFD_CLOEXEC, lock->fds[1] + 1);
        (void)close(fds[i]);
        fds[i] = moved;
    }
    done = fds[0] >= 0 && fds[1] >= 0 && fstat(fds[0], &info) == 0
        && write(fds[1], "*", 1) == 1 && place(fds[0], lock->fds[0], lock->inode)
        && place(fds[1], lock->fds[1], lock->inode);
    for (int i = 0; i < 2; i++) {
        if (fds[i] >= 0) {
            (void)close(fds[i]);
        }
    }
    uvt_low_give(st);
    if (done) {
        lock->inode = info.st_ino;
    }
    return done;
}

int
uvt_siglock_check(UvtState *st)
{
    UvtSigLock *lock = &st->siglock;
    int rc = 0;
    UVT_MUTEX_LOCK(st->mutex);
    if (lock->known && !is_intact(lock) && !make_anew(st)) {
        rc = UV_EBADF;
    }
    UVT_MUTEX_UNLOCK(st->mutex);
    return rc;
}

/* ---- learning which it is ---- */

/* Pairs that are there before the first loop are somebody else's, or libuv was in
 * use before. */
void
uvt_siglock_before(UvtState *st)
{
    UvtSigLock *lock = &st->siglock;
    UVT_MUTEX_LOCK(st->mutex);
    if (lock->pid == 0) {
        lock->stranger = 0;
        if (find(0, FAR, lock)) {
            lock->stranger = lock->inode;
        }
    }
    else if (lock->known && !is_intact(lock)) {
        (void)make_anew(st);        /* before its numbers are the new loop's */
    }
    UVT_MUTEX_UNLOCK(st->mutex);
}

void
uvt_siglock_after(UvtState *st, const uv_loop_t *uv)
{
    UvtSigLock *lock = &st->siglock, found;
    int end = uv->async_io_watcher.fd + 1;
    UVT_MUTEX_LOCK(st->mutex);
    if (lock->pid == 0) {
        lock->known = lock->stranger != 0;
        for (int from = 0; find(from, end, &found); from = found.fds[0] + 1) {
            if (found.inode != lock->stranger) {
                lock->fds[0] = found.fds[0];
                lock->fds[1] = found.fds[1];
                lock->inode = found.inode;
                lock->known = true;
            }
        }
        lock->pid = getpid();
    }
    UVT_MUTEX_UNLOCK(st->mutex);
}

/* ---- a fork ---- */

/* In the child libuv closes its pipe and makes another.  Its ends have the same
 * numbers, or lower ones. */
void
uvt_siglock_after_fork(UvtState *st)
{
    UvtSigLock *lock = &st->siglock;
    struct stat info;
    UVT_MUTEX_LOCK(st->mutex);
    if (lock->known) {
        if (is_lock(lock->fds[0], lock->fds[1], &info)) {
            lock->inode = info.st_ino;
        }
        else {
            lock->known = find(0, lock->fds[1] + 1, lock);
        }
        lock->pid = getpid();
    }
    UVT_MUTEX_UNLOCK(st->mutex);
}
