/* Operations of uv.fs for which libuv's own are not enough.  Each is a function of ours.
 * It runs at once or, with a callback, on a thread of libuv's pool; on any thread,
 * detached.  Of Python's it uses nothing but memory that the call holds.
 */
#include "fs.h"

/* ---- running one ---- */

static void
on_thread(uv_work_t *work)
{
    uv_fs_t *req = work->data;
    UvtFsCall *call = req->ptr;
    req->result = call->run(call);
}

static void
on_done(uv_work_t *work, int status)
{
    uv_fs_t *req = work->data;
    req->ptr = NULL;
    if (status < 0) {
        req->result = status;
    }
    req->cb(req);
}

int
uvt_fs_start_own(uv_loop_t *loop, UvtFsCall *call, uv_fs_t *req, uv_fs_cb cb,
                 uv_fs_type type, ssize_t (*run)(UvtFsCall *))
{
    int rc;
    req->type = UV_FS;
    req->fs_type = type;
    if (cb == NULL) {
        req->result = run(call);
        return req->result < 0 ? (int)req->result : 0;
    }
    req->cb = cb;
    req->ptr = call;
    call->run = run;
    call->work.data = req;
    rc = uv_queue_work(loop, &call->work, on_thread, on_done);
    if (rc < 0) {
        req->ptr = NULL;
    }
    else {
        call->request = (uv_req_t *)&call->work;
    }
    return rc;
}

/* ---- write ---- */

/* One piece after the other, until one is not written whole. */
static ssize_t
write_pieces(UvtFsCall *call)
{
    uv_buf_t *iov = call->data.iov;
    unsigned left = (unsigned)call->data.count;
    int64_t offset = call->offset;
    ssize_t done = 0;
    while (left > 0) {
        uv_fs_t req;
        size_t whole, wanted = 0;
        unsigned n = uvt_iov_fit(iov, left, &whole);
        ssize_t result;
        for (unsigned i = 0; i < n; i++) {
            wanted += iov[i].len;
        }
        result = uv_fs_write(NULL, &req, call->fd, iov, n, offset, NULL);
        uv_fs_req_cleanup(&req);
        if (result < 0) {
            return done > 0 ? done : result;
        }
        done += result;
        if ((size_t)result < wanted) {
            break;
        }
        if (offset >= 0) {
            offset += result;
        }
        if (whole > 0) {
            iov->base += wanted;
            iov->len = whole - wanted;
        }
        else {
            iov += n;
            left -= n;
        }
    }
    return done;
}

int
uvt_fs_start_write(uv_loop_t *loop, UvtFsCall *call, uv_fs_t *req, uv_fs_cb cb)
{
    if (call->data.nbytes > UVT_MOST_AT_ONCE) {
        return uvt_fs_start_own(loop, call, req, cb, UV_FS_WRITE, write_pieces);
    }
    return uv_fs_write(loop, req, call->fd, call->data.iov,
                       (unsigned)call->data.count, call->offset, cb);
}
