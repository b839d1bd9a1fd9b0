/* uv.Timer: a callback after a time, once or repeatedly, in the loop's whole
 * milliseconds.  All functions run on the loop's thread, attached.  A ticking
 * timer is held by its loop; the handle owns the callback.
 *
 * libuv before 1.48 goes on as long as a timer is due: one that is started with 0
 * in its own callback, or each by the other, would be called for ever, with no poll
 * in between.  So what was started since the last poll by a timer's callback is put
 * aside until right before the next poll, which does not wait then.
 */
#include "args.h"
#include "consumer.h"
#include "handle.h"
#include "loop.h"

static int
timer_setup_handle(UvtHandle *self, PyObject *loop_arg)
{
    UvtLoop *loop;
    int rc;
    if (!uvt_handle_init_begin(self, loop_arg, UV_TIMER, UVT_EXC_TIMER,
                               sizeof(uv_timer_t), &loop)) {
        return -1;
    }
    rc = uv_timer_init(&loop->core->uv, &self->box->uv.timer);
    return uvt_handle_init_done(self, loop, rc, "uv_timer_init");
}

static int
timer_init(UvtHandle *self, PyObject *args, PyObject *kwds)
{
    UVT_LOCKED(uvt_lock_of_init(self->st, args, kwds));
    static char *names[] = {"loop", NULL};
    PyObject *loop;
    if (!PyArg_ParseTupleAndKeywords(args, kwds, "O:Timer", names, &loop)) {
        return -1;
    }
    return timer_setup_handle(self, loop);
}

PyObject *
uvt_timer_create(PyObject *loop)
{
    UvtState *st = ((UvtLoop *)loop)->st;
    PyObject *self = uvt_handle_new(st->timer_type, NULL, NULL);
    if (self != NULL && timer_setup_handle((UvtHandle *)self, loop) < 0) {
        Py_CLEAR(self);
    }
    return self;
}

/* ---- libuv callbacks ---- */

/* A timer's callback has started it since the last poll. */
static bool
is_too_early(const UvtCore *core, const UvtBox *box)
{
    return box->timer_pass == core->timer_pass;
}

static void on_timer(uv_timer_t *uv);

/* It is not due any more, for the rest of this pass. */
static void
put_aside(UvtCore *core, UvtBox *box)
{
    uv_timer_t *uv = &box->uv.timer;
    (void)uv_timer_start(uv, on_timer, 1, uv_timer_get_repeat(uv));
    if (!box->timer_aside) {
        box->timer_aside = true;
        box->next_aside = core->timers_aside;
        core->timers_aside = box;
    }
}

void
uvt_timers_bring_back(UvtCore *core)
{
    UvtBox *box = core->timers_aside;
    core->timers_aside = NULL;
    while (box != NULL) {
        UvtBox *next = box->next_aside;
        uv_timer_t *uv = &box->uv.timer;
        box->timer_aside = false;
        if (uv_is_active(&box->uv.handle)) {
            (void)uv_timer_start(uv, on_timer, 0, uv_timer_get_repeat(uv));
        }
        box = next;
    }
}

void
uvt_timer_forget(UvtCore *core, UvtBox *box)
{
    UvtBox **link = &core->timers_aside;
    while (box->timer_aside && *link != NULL) {
        if (*link == box) {
            *link = box->next_aside;
            break;
        }
        link = &(*link)->next_aside;
    }
    box->timer_aside = false;
}

static void
on_timer(uv_timer_t *uv)
{
    UvtBox *box = uv->data;
    UvtCore *core = uv->loop->data;
    UvtHandle *self;
    if (is_too_early(core, box)) {
        put_aside(core, box);
        return;
    }
    uvt_timer_forget(core, box);
    /* A repeating one is started again already. */
    box->timer_pass = core->timer_pass;
    self = uvt_enter(uv);
    if (self == NULL) {
        return;
    }
    core->in_timer = true;
    if (self->consumer != NULL) {
        UVT_TELL_CONSUMER(self, fired, owner);
    }
    else {
        PyObject *args[2] = {NULL, (PyObject *)self};
        uvt_call(self, self->callback, args + 1, 1);
    }
    core->in_timer = false;
    uvt_leave(self);
}

/* Whatever starts one calls this. */
static void
note_start(UvtBox *box)
{
    UvtCore *core = box->uv.handle.loop->data;
    uvt_timer_forget(core, box);
    box->timer_pass = core->in_timer ? core->timer_pass : core->timer_pass - 1;
}

/* Between two runs libuv's time stands still: a timer would be due too early. */
static void
refresh_time(UvtHandle *self)
{
    if (self->loop->run_began == 0) {
        uv_update_time(self->box->uv.handle.loop);
    }
}

int
uvt_timer_start(UvtHandle *self, uint64_t timeout, uint64_t repeat)
{
    int rc;
    refresh_time(self);
    rc = uv_timer_start(&self->box->uv.timer, on_timer, timeout, repeat);
    note_start(self->box);
    uvt_handle_update(self);
    return rc;
}

/* ---- methods ---- */

PyDoc_STRVAR(start_doc,
"start($self, callback, timeout, repeat=0)\n--\n\n"
"Call callback(timer) after `timeout` seconds and then, if `repeat` is not 0,\n"
"every `repeat` seconds.  Both count in whole milliseconds, rounded up; the\n"
"timeout counts from Loop.now().  A running timer is started anew.\n\n"
"Raises TypeError, ValueError (a negative or not finite time),\n"
"HandleClosedError, TimerError.");

static PyObject *
timer_start(UvtHandle *self, PyObject *const *args, Py_ssize_t nargs,
            PyObject *kwnames)
{
    UVT_LOCKED(self->lock);
    static const char *const names[] = {"callback", "timeout", "repeat"};
    PyObject *given[3];
    uint64_t timeout, repeat = 0;
    int rc;

    if (!uvt_args_bind("Timer.start", args, nargs, kwnames, names, 3, 2, given)
        || !uvt_arg_callable("Timer.start", given[0])
        || !uvt_arg_seconds("Timer.start", "timeout", given[1], &timeout)) {
        return NULL;
    }
    if (given[2] != NULL
        && !uvt_arg_seconds("Timer.start", "repeat", given[2], &repeat)) {
        return NULL;
    }
    if (!uvt_handle_check_free(self, "Timer.start")) {
        return NULL;
    }
    rc = uvt_timer_start(self, timeout, repeat);
    if (rc < 0) {
        return uvt_handle_raise(self, rc, "uv_timer_start");
    }
    Py_XSETREF(self->callback, Py_NewRef(given[0]));
    Py_RETURN_NONE;
}

PyDoc_STRVAR(stop_doc,
"stop($self, /)\n--\n\n"
"Stop the timer; harmless when it does not run.  again() can start it with\n"
"the same callback.");

static PyObject *
timer_stop(UvtHandle *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(self->lock);
    if (!uvt_handle_check_free(self, "Timer.stop")) {
        return NULL;
    }
    (void)uv_timer_stop(&self->box->uv.timer);
    uvt_handle_update(self);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(again_doc,
"again($self, /)\n--\n\n"
"Start a repeating timer anew, with `repeat` as the time to the next call.\n"
"Does nothing when `repeat` is 0.  Raises TimerError (EINVAL) when the timer\n"
"was never started.");

static PyObject *
timer_again(UvtHandle *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(self->lock);
    int rc;
    if (!uvt_handle_check_free(self, "Timer.again")) {
        return NULL;
    }
    refresh_time(self);
    rc = uv_timer_again(&self->box->uv.timer);
    note_start(self->box);
    uvt_handle_update(self);
    if (rc < 0) {
        return uvt_handle_raise(self, rc, "uv_timer_again");
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(get_due_in_doc,
"get_due_in($self, /)\n--\n\n"
"Seconds until the timer is due; 0.0 when it is due already or not running.\n"
"Since libuv 1.40.");

static PyObject *
timer_get_due_in(UvtHandle *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(self->lock);
    if (!uvt_handle_check(self)) {
        return NULL;
    }
    return PyFloat_FromDouble(
        self->box->timer_aside
        ? 0.0 : (double)uv_timer_get_due_in(&self->box->uv.timer) / 1000.0);
}

/* ---- attributes ---- */

static PyObject *
timer_get_repeat(UvtHandle *self, void *Py_UNUSED(closure))
{
    UVT_LOCKED(self->lock);
    if (!uvt_handle_check(self)) {
        return NULL;
    }
    return PyFloat_FromDouble(
        (double)uv_timer_get_repeat(&self->box->uv.timer) / 1000.0);
}

static int
timer_set_repeat(UvtHandle *self, PyObject *value, void *Py_UNUSED(closure))
{
    UVT_LOCKED(self->lock);
    uint64_t repeat;
    if (value == NULL) {
        PyErr_SetString(PyExc_AttributeError,
                        "Timer.repeat cannot be deleted");
        return -1;
    }
    if (!uvt_arg_seconds("Timer.repeat", "repeat", value, &repeat)
        || !uvt_handle_check_free(self, "Timer.repeat")) {
        return -1;
    }
    uv_timer_set_repeat(&self->box->uv.timer, repeat);
    return 0;
}

static PyObject *
timer_get_due_in_attribute(UvtHandle *self, void *Py_UNUSED(closure))
{
    UVT_LOCKED(self->lock);
    return timer_get_due_in(self, NULL);
}

static PyMethodDef timer_methods[] = {
    {"start", (PyCFunction)(void (*)(void))timer_start,
     METH_FASTCALL | METH_KEYWORDS, start_doc},
    {"stop", (PyCFunction)timer_stop, METH_NOARGS, stop_doc},
    {"again", (PyCFunction)timer_again, METH_NOARGS, again_doc},
    {"get_due_in", (PyCFunction)timer_get_due_in, METH_NOARGS, get_due_in_doc},
    {NULL},
};

static PyGetSetDef timer_getset[] = {
    {"repeat", (getter)timer_get_repeat, (setter)timer_set_repeat,
     "Seconds between calls (float); 0.0: the timer fires once.", NULL},
    {"due_in", (getter)timer_get_due_in_attribute, NULL,
     "What get_due_in() returns.", NULL},
    {NULL},
};

PyDoc_STRVAR(timer_doc,
"Timer(loop)\n--\n\n"
"A timer of libuv: calls back after a time, once or repeatedly.\n\n"
"Resolution is one millisecond; it never fires early by Loop.now(), which can\n"
"lag real time by up to a millisecond.");

static PyType_Slot timer_slots[] = {
    {Py_tp_doc, (void *)timer_doc},
    {Py_tp_init, timer_init},
    {Py_tp_methods, timer_methods},
    {Py_tp_getset, timer_getset},
    UVT_HANDLE_SLOTS,
    {0, NULL},
};

static PyType_Spec timer_spec = {
    .name = "uvtulip._uv.Timer",
    .basicsize = sizeof(UvtHandle),
    .flags = UVT_HANDLE_FLAGS,
    .slots = timer_slots,
};

int
uvt_timer_setup(PyObject *module, UvtState *st)
{
    return uvt_add_type(module, &st->timer_type, &timer_spec, st->handle_type);
}
