/* create_future(), create_task() and the task factory.  All functions run
 * attached, on the loop's thread.  The loop owns the factory, and the keyword
 * arguments that asyncio's constructors are called with: one dict for all, as
 * making one each time is a tenth of the cost of a future.
 */
#include "eventloop.h"

/* {"loop": self}, which the constructors only read; borrowed. */
static PyObject *
loop_kwargs(TulipLoop *self)
{
    if (self->loop_kwargs == NULL) {
        self->loop_kwargs = Py_BuildValue("{O:O}", self->st->str_loop, self);
    }
    return self->loop_kwargs;
}

PyObject *
tulip_loop_py_create_future(TulipLoop *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(self->lock);
    PyObject *kwargs;
    if (self->closed) {
        /* A cached dict would keep a closed loop alive. */
        return PyObject_Vectorcall(self->st->future_type,
                                   (PyObject *[]){(PyObject *)self}, 0,
                                   self->st->kwnames_loop);
    }
    kwargs = loop_kwargs(self);
    return kwargs == NULL ? NULL : PyObject_Call(
        self->st->future_type, self->st->empty_tuple, kwargs);
}

int
tulip_future_settle(TulipLoop *self, PyObject *future, PyObject *result,
                    PyObject *exc)
{
    const TulipState *st = self->st;
    PyObject *answer = exc != NULL
        ? PyObject_CallMethodOneArg(future, st->str_set_exception, exc)
        : PyObject_CallMethodOneArg(future, st->str_set_result, result);
    if (answer == NULL) {
        if (!PyErr_ExceptionMatches(st->invalid_state)) {
            return -1;
        }
        PyErr_Clear();
        return 0;
    }
    Py_DECREF(answer);
    return 0;
}

/* The call has a coroutine, and at most name=None beside it. */
static bool
is_plain_task(TulipLoop *self, PyObject *const *args, Py_ssize_t nargs,
              PyObject *kwnames)
{
    return nargs == 1
        && (kwnames == NULL
            || (PyTuple_GET_SIZE(kwnames) == 1 && args[1] == Py_None
                && PyTuple_GET_ITEM(kwnames, 0) == self->st->str_name));
}

/* asyncio.tasks.Task, which some programs replace: Task(coro, **kwargs). */
static PyObject *
make_task(TulipLoop *self, PyObject *coro, PyObject *kwargs)
{
    PyObject *type, *args, *task = NULL;
    int found = PyDict_GetItemRef(self->st->tasks_names, self->st->str_Task, &type);
    if (found <= 0) {
        if (found == 0) {
            PyErr_SetString(PyExc_AttributeError, "asyncio.tasks has no Task");
        }
        return NULL;
    }
    args = PyTuple_Pack(1, coro);
    if (args != NULL) {
        task = PyObject_Call(type, args, kwargs);
        Py_DECREF(args);
    }
    Py_DECREF(type);
    return task;
}

static PyObject *
create_plain_task(TulipLoop *self, PyObject *coro)
{
    PyObject *kwargs = loop_kwargs(self);
    return kwargs != NULL ? make_task(self, coro, kwargs) : NULL;
}

/* Python 3.13.3 and, for good, 3.14: the factory gets whatever create_task() got. */
static bool
factory_gets_all(void)
{
    return Py_Version >= 0x030E0000 || Py_Version >> 8 == 0x030D03;
}

/* Moves the value out of the dict to *value, or NULL; -1 with an exception. */
static int
take_item(PyObject *dict, PyObject *key, PyObject **value)
{
    *value = Py_XNewRef(PyDict_GetItemWithError(dict, key));
    return *value != NULL ? PyDict_DelItem(dict, key) : PyErr_Occurred() ? -1 : 0;
}

/* task.set_name(name), if it is of a kind that has names. */
static int
set_name(PyObject *task, PyObject *name)
{
    PyObject *result = PyObject_CallMethod(task, "set_name", "O", name);
    if (result == NULL && !PyErr_ExceptionMatches(PyExc_AttributeError)) {
        return -1;
    }
    PyErr_Clear();
    Py_XDECREF(result);
    return 0;
}

static PyObject *
call_factory(TulipLoop *self, PyObject *coro, PyObject *kwargs)
{
    PyObject *factory = Py_NewRef(self->task_factory), *task = NULL;
    PyObject *args = PyTuple_Pack(2, (PyObject *)self, coro);
    if (args != NULL) {
        task = PyObject_Call(factory, args, kwargs);
        Py_DECREF(args);
    }
    Py_DECREF(factory);
    return task;
}

/* Before that the name is set on what the factory has made, and no context means
 * no such argument. */
static PyObject *
call_old_factory(TulipLoop *self, PyObject *coro, PyObject *kwargs)
{
    PyObject *task = NULL, *name = NULL, *context = NULL;
    if (take_item(kwargs, self->st->str_name, &name) == 0
        && take_item(kwargs, self->st->str_context, &context) == 0
        && (context == NULL || context == Py_None
            || PyDict_SetItem(kwargs, self->st->str_context, context) == 0)) {
        task = call_factory(self, coro, kwargs);
    }
    if (task != NULL && name != NULL && name != Py_None
        && set_name(task, name) < 0) {
        Py_CLEAR(task);
    }
    Py_XDECREF(name);
    Py_XDECREF(context);
    return task;
}

static PyObject *
create_other_task(TulipLoop *self, PyObject *coro, PyObject *kwargs)
{
    int given = PyDict_Contains(kwargs, self->st->str_loop);
    if (given > 0) {
        PyErr_SetString(PyExc_TypeError,
                        "create_task() got an unexpected keyword argument 'loop'");
    }
    if (given != 0
        || PyDict_SetItem(kwargs, self->st->str_loop, (PyObject *)self) < 0) {
        return NULL;
    }
    return make_task(self, coro, kwargs);
}

PyObject *
tulip_loop_py_create_task(TulipLoop *self, PyObject *const *args,
                          Py_ssize_t nargs, PyObject *kwnames)
{
    UVT_LOCKED(self->lock);
    Py_ssize_t nkw = kwnames != NULL ? PyTuple_GET_SIZE(kwnames) : 0;
    PyObject *coro, *kwargs, *task = NULL;

    if (!tulip_loop_check_open(self)) {
        return NULL;
    }
    if (self->task_factory == NULL
        && is_plain_task(self, args, nargs, kwnames)) {
        return create_plain_task(self, args[0]);
    }
    kwargs = PyDict_New();
    if (kwargs == NULL) {
        return NULL;
    }
    for (Py_ssize_t i = 0; i < nkw; i++) {
        if (PyDict_SetItem(kwargs, PyTuple_GET_ITEM(kwnames, i),
                           args[nargs + i]) < 0) {
            Py_DECREF(kwargs);
            return NULL;
        }
    }
    coro = nargs > 0 ? Py_NewRef(args[0])
                     : Py_XNewRef(PyDict_GetItemString(kwargs, "coro"));
    if (nargs > 1 || coro == NULL) {
        PyErr_Format(PyExc_TypeError,
                     "create_task() takes exactly 1 positional argument (%zd "
                     "given)", nargs);
    }
    else if (nargs == 0 && PyDict_DelItemString(kwargs, "coro") < 0) {
        task = NULL;
    }
    else if (self->task_factory == NULL) {
        task = create_other_task(self, coro, kwargs);
    }
    else if (factory_gets_all()) {
        task = call_factory(self, coro, kwargs);
    }
    else {
        task = call_old_factory(self, coro, kwargs);
    }
    Py_XDECREF(coro);
    Py_DECREF(kwargs);
    return task;
}

PyObject *
tulip_loop_py_set_task_factory(TulipLoop *self, PyObject *const *args,
                               Py_ssize_t nargs, PyObject *kwnames)
{
    UVT_LOCKED(self->lock);
    PyObject *factory = tulip_only_arg("set_task_factory", "factory", args, nargs,
                                       kwnames);
    if (factory == NULL) {
        return NULL;
    }
    if (factory != Py_None && !PyCallable_Check(factory)) {
        PyErr_SetString(PyExc_TypeError,
                        "task factory must be a callable or None");
        return NULL;
    }
    tulip_loop_set_hook(&self->task_factory, factory);
    Py_RETURN_NONE;
}

PyObject *
tulip_loop_py_get_task_factory(TulipLoop *self, PyObject *Py_UNUSED(ignored))
{
    UVT_LOCKED(self->lock);
    return Py_NewRef(self->task_factory != NULL ? self->task_factory : Py_None);
}
