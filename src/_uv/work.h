/* Loop.queue_work(), for the table in loop.c. */
#ifndef UVT_WORK_H
#define UVT_WORK_H

#include "loop.h"

PyObject *uvt_queue_work(UvtLoop *loop, PyObject *const *args,
                         Py_ssize_t nargs);
extern const char uvt_queue_work_doc[];

#endif
