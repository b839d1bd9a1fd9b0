/* What the module's state keeps for guards.h. */
#ifndef UVT_GUARDSTATE_H
#define UVT_GUARDSTATE_H

#include <pthread.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <sys/types.h>

/* Those of descriptors 0 to 2 that are closed are taken between uvt_low_take and
 * uvt_low_give, so that libuv, which never closes them, makes none of its own there. */
typedef struct {
    pthread_mutex_t mutex;      /* with a GIL, too: libuv may be called without it */
    unsigned users;             /* threads that want them taken */
    bool taken[3];
} UvtLowFds;

/* A file, as fstat() tells it. */
typedef struct {
    dev_t device;
    ino_t inode;
} UvtFileId;

/* What the descriptor is now; false, with *file as it was, when it is closed. */
static inline bool
uvt_file_of(int fd, UvtFileId *file)
{
    struct stat info;
    if (fstat(fd, &info) < 0) {
        return false;
    }
    file->device = info.st_dev;
    file->inode = info.st_ino;
    return true;
}

static inline bool
uvt_file_is(int fd, const UvtFileId *file)
{
    UvtFileId now;
    return uvt_file_of(fd, &now) && now.device == file->device
        && now.inode == file->inode;
}

/* libuv's process-wide lock of signals (siglock.c). */
typedef struct {
    pid_t pid;                  /* of the process that it was found in; 0: not yet */
    bool known;                 /* `fds` and `inode` are it */
    int fds[2];
    ino_t inode;
    ino_t stranger;             /* of one that was there before; 0: none */
} UvtSigLock;

#endif
