/* uv.fs.Dir, a directory that opendir() has opened.  Its functions run attached;
 * the pool thread that reads it runs libuv's code only.  One request at a time
 * uses it; that request owns a reference to it, and the list of entries.
 */
#include "fs.h"
#include "errors.h"

static void
close_quietly(uv_dir_t *dir)
{
    uv_fs_t req;
    (void)uv_fs_closedir(NULL, &req, dir, NULL);
    uv_fs_req_cleanup(&req);
}

/* ---- for requests ---- */

bool
uvt_dir_take(UvtState *st, const char *call, PyObject *arg, UvtDir **out)
{
    UvtDir *self = (UvtDir *)arg;
    if (!Py_IS_TYPE(arg, st->dir_type)) {
        PyErr_Format(PyExc_TypeError, "%s(): 'dir' must be a Dir, not %.200s",
                     call, Py_TYPE(arg)->tp_name);
        return false;
    }
    if (atomic_exchange(&self->busy, true)) {
        PyErr_Format(PyExc_RuntimeError,
                     "%s(): another request uses the directory", call);
        return false;
    }
    if (self->dir == NULL) {
        self->busy = false;
        uvt_raise(st, UVT_EXC_FS, UV_EBADF, call);
        return false;
    }
    *out = (UvtDir *)Py_NewRef(self);
    return true;
}

void
uvt_dir_give(UvtDir *self)
{
    if (self->dir != NULL) {
        self->dir->dirents = NULL;
        self->dir->nentries = 0;
    }
    self->busy = false;
    Py_DECREF(self);
}

PyObject *
uvt_fs_opened_dir(UvtState *st, UvtFsCall *call, uv_fs_t *req)
{
    UvtDir *self = (UvtDir *)st->dir_type->tp_alloc(st->dir_type, 0);
    if (self == NULL) {
        close_quietly(req->ptr);
    }
    else {
        self->dir = req->ptr;
        self->dir->dirents = NULL;
        self->dir->nentries = 0;
        self->busy = false;
        self->bytes = PyBytes_Check(call->path);
    }
    req->ptr = NULL;
    return (PyObject *)self;
}

PyObject *
uvt_fs_entries(UvtState *st, UvtFsCall *call, uv_fs_t *req)
{
    Py_ssize_t count = (Py_ssize_t)req->result;
    PyObject *list = PyList_New(count);
    for (Py_ssize_t i = 0; list != NULL && i < count; i++) {
        PyObject *entry = uvt_dirent(st, &call->entries[i], call->dir->bytes);
        if (entry == NULL) {
            Py_CLEAR(list);
            break;
        }
        PyList_SET_ITEM(list, i, entry);
    }
    return list;
}

PyObject *
uvt_fs_closed_dir(UvtState *Py_UNUSED(st), UvtFsCall *call,
                  uv_fs_t *Py_UNUSED(req))
{
    call->dir->dir = NULL;
    Py_RETURN_NONE;
}

/* ---- the type ---- */

static void
dir_dealloc(UvtDir *self)
{
    PyTypeObject *tp = Py_TYPE(self);
    if (self->dir != NULL) {
        close_quietly(self->dir);
    }
    tp->tp_free(self);
    Py_DECREF(tp);
}

static PyObject *
dir_get_closed(UvtDir *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(self->dir == NULL);
}

static PyObject *
dir_repr(UvtDir *self)
{
    return PyUnicode_FromFormat("<%s %s at %p>", Py_TYPE(self)->tp_name,
                                self->dir != NULL ? "open" : "closed", self);
}

static PyGetSetDef dir_getset[] = {
    {"closed", (getter)dir_get_closed, NULL, "True after closedir().", NULL},
    {NULL},
};

PyDoc_STRVAR(dir_doc,
"An open directory, made by opendir(): pass it to readdir() and closedir().\n"
"It is closed when it is collected, if it was not before.");

static PyType_Slot dir_slots[] = {
    {Py_tp_doc, (void *)dir_doc},
    {Py_tp_repr, dir_repr},
    {Py_tp_dealloc, dir_dealloc},
    {Py_tp_getset, dir_getset},
    {0, NULL},
};

static PyType_Spec dir_spec = {
    .name = "uvtulip._uv.fs.Dir",
    .basicsize = sizeof(UvtDir),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE
        | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = dir_slots,
};

int
uvt_fs_dir_setup(PyObject *module, PyObject *submodule, UvtState *st)
{
    st->dir_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &dir_spec,
                                                            NULL);
    if (st->dir_type == NULL) {
        return -1;
    }
    return PyModule_AddType(submodule, st->dir_type);
}
