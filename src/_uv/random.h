/* Loop.random(), for the table in loop.c. */
#ifndef UVT_RANDOM_H
#define UVT_RANDOM_H

#include "loop.h"

PyObject *uvt_loop_random(UvtLoop *loop, PyObject *const *args,
                          Py_ssize_t nargs);
extern const char uvt_loop_random_doc[];

#endif
