/* uv.fs: what its files share.  One table (fs_ops.c) says of each operation
 * which arguments it takes, how it is started and what its result is; fs.c runs
 * any of them, at once or with a callback.
 */
#ifndef UVT_FS_H
#define UVT_FS_H

#include "buffer.h"
#include "task.h"

/* An open directory.  It has no references of its own; requests that use it
 * have one to it. */
typedef struct {
    PyObject_HEAD
    uv_dir_t *dir;                  /* NULL: closed */
    _Atomic bool busy;              /* a request uses it */
    bool bytes;                     /* names are bytes, as its path was */
} UvtDir;

/* The arguments of one operation, and what it needs until libuv is done with
 * it.  Zero-initialised; it must not move. */
typedef struct UvtFsCall {
    PyObject *path;                 /* as given, a str or bytes */
    PyObject *path_bytes;           /* the same for the system */
    PyObject *new_path_bytes;
    PyObject *room;                 /* the bytes object that is read into */
    UvtDir *dir;                    /* strong, marked busy */
    uv_dirent_t *entries;           /* what readdir() fills */
    UvtBuffers data;
    int64_t offset;
    size_t length;
    double atime, mtime;
    int fd, in_fd, flags, mode;
    uv_uid_t uid;
    uv_gid_t gid;
    uv_work_t work;                 /* of an operation of ours, ... */
    ssize_t (*run)(struct UvtFsCall *); /* ... which is this */
    uv_req_t *request;              /* libuv has it for the uv_fs_t; or NULL */
} UvtFsCall;

typedef enum {
    UVT_FS_END,
    UVT_FS_PATH,
    UVT_FS_NEW_PATH,
    UVT_FS_FD,
    UVT_FS_OUT_FD,
    UVT_FS_IN_FD,
    UVT_FS_FLAGS,
    UVT_FS_MODE,
    UVT_FS_UID,
    UVT_FS_GID,
    UVT_FS_LENGTH,                  /* and makes that much room */
    UVT_FS_NBYTES,             /* only the number */
    UVT_FS_OFFSET,
    UVT_FS_IN_OFFSET,
    UVT_FS_ATIME,
    UVT_FS_MTIME,
    UVT_FS_WRITE_DATA,
    UVT_FS_BUFFERS,
    UVT_FS_DIR,
    UVT_FS_ENTRIES,
} UvtFsParam;

#define UVT_FS_MAX_PARAMS 4

typedef struct {
    const char *name;               /* "stat", as in Python */
    const char *call;               /* "uv_fs_stat" */
    UvtFsParam params[UVT_FS_MAX_PARAMS + 1];
    int required;                   /* how many of them */
    /* Calls libuv; with cb NULL it returns when all is done. */
    int (*start)(uv_loop_t *loop, UvtFsCall *call, uv_fs_t *req, uv_fs_cb cb);
    /* The result of a success, a new reference. */
    PyObject *(*result)(UvtState *st, UvtFsCall *call, uv_fs_t *req);
} UvtFsOp;

/* What the functions of fs_ops.c consist of: binds and checks the arguments
 * (loop, those of the table, callback), runs the operation or starts it. */
PyObject *uvt_fs_run(PyObject *module, const UvtFsOp *op, PyObject *const *args,
                     Py_ssize_t nargs, PyObject *kwnames);

extern PyMethodDef uvt_fs_functions[];

/* As UvtFsOp.start: fs_copy.c, and fs_own.c for any function of ours, which gives a
 * count or a libuv status. */
int uvt_fs_start_own(uv_loop_t *loop, UvtFsCall *call, uv_fs_t *req, uv_fs_cb cb,
                     uv_fs_type type, ssize_t (*run)(UvtFsCall *));
int uvt_fs_start_write(uv_loop_t *loop, UvtFsCall *call, uv_fs_t *req, uv_fs_cb cb);
int uvt_fs_start_copyfile(uv_loop_t *loop, UvtFsCall *call, uv_fs_t *req,
                          uv_fs_cb cb);

/* fs_args.c: converts what was given for op->params (NULL: left out) into a
 * zeroed call; release it in any case, after libuv's clean-up.  Both may run any
 * code. */
UVT_CHECKED bool uvt_fs_arguments(UvtState *st, const UvtFsOp *op,
                                  PyObject *const *given, UvtFsCall *call);
void uvt_fs_release(UvtFsCall *call);
const char *uvt_fs_param_name(UvtFsParam param);

/* fs_result.c: each as UvtFsOp.result. */
PyObject *uvt_fs_none(UvtState *st, UvtFsCall *call, uv_fs_t *req);
PyObject *uvt_fs_number(UvtState *st, UvtFsCall *call, uv_fs_t *req);
PyObject *uvt_fs_descriptor(UvtState *st, UvtFsCall *call, uv_fs_t *req);
PyObject *uvt_fs_bytes(UvtState *st, UvtFsCall *call, uv_fs_t *req);
PyObject *uvt_fs_stat(UvtState *st, UvtFsCall *call, uv_fs_t *req);
PyObject *uvt_fs_statfs(UvtState *st, UvtFsCall *call, uv_fs_t *req);
PyObject *uvt_fs_text(UvtState *st, UvtFsCall *call, uv_fs_t *req);
PyObject *uvt_fs_made_path(UvtState *st, UvtFsCall *call, uv_fs_t *req);
PyObject *uvt_fs_made_file(UvtState *st, UvtFsCall *call, uv_fs_t *req);
PyObject *uvt_fs_scanned(UvtState *st, UvtFsCall *call, uv_fs_t *req);
/* fs_dir.c */
PyObject *uvt_fs_opened_dir(UvtState *st, UvtFsCall *call, uv_fs_t *req);
PyObject *uvt_fs_entries(UvtState *st, UvtFsCall *call, uv_fs_t *req);
PyObject *uvt_fs_closed_dir(UvtState *st, UvtFsCall *call, uv_fs_t *req);

/* Nobody takes the success: closes the descriptor or directory that it made. */
void uvt_fs_dispose(const UvtFsOp *op, UvtFsCall *call, uv_fs_t *req);

/* A stat_result, for FSPoll too; a DirEnt. */
UVT_NEW PyObject *uvt_stat_result(UvtState *st, const uv_stat_t *stat);
UVT_NEW PyObject *uvt_dirent(UvtState *st, const uv_dirent_t *entry, bool bytes);
/* A path of the system as bytes or, decoded, as str. */
UVT_NEW PyObject *uvt_fs_name(const char *name, bool bytes);

/* Takes the directory for one request; TypeError, FSError (EBADF), or
 * RuntimeError when another one uses it.  give lets go of it. */
UVT_CHECKED bool uvt_dir_take(UvtState *st, const char *call, PyObject *arg,
                              UvtDir **out);
void uvt_dir_give(UVT_STEALS(1) UvtDir *self);

UVT_CHECKED int uvt_fs_result_setup(PyObject *submodule, UvtState *st);
UVT_CHECKED int uvt_fs_dir_setup(PyObject *module, PyObject *submodule,
                                 UvtState *st);

#endif
