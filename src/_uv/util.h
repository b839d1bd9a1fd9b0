/* uv.util: what its files share.  os.c puts the submodule together. */
#ifndef UVT_UTIL_H
#define UVT_UTIL_H

#include "uvmodule.h"

extern PyMethodDef uvt_os_functions[];          /* os.c */
extern PyMethodDef uvt_os_env_functions[];      /* os_env.c */
extern PyMethodDef uvt_os_info_functions[];     /* os_info.c */
extern PyMethodDef uvt_os_user_functions[];     /* os_user.c */
extern PyMethodDef uvt_os_title_functions[];    /* os_title.c */
extern PyMethodDef uvt_random_functions[];      /* random.c */

UVT_CHECKED int uvt_os_info_setup(PyObject *submodule, UvtState *st);
UVT_CHECKED int uvt_os_user_setup(PyObject *submodule, UvtState *st);
UVT_CHECKED int uvt_random_setup(PyObject *module, UvtState *st);
UVT_CHECKED int uvt_signal_checker_setup(PyObject *module, PyObject *submodule,
                                         UvtState *st);

/* What a libuv function writes into a buffer, as str: its status and, in *size,
 * the length, or with UV_ENOBUFS a length that may suffice. */
typedef int (*UvtTextGetter)(char *buffer, size_t *size, const void *arg);
UVT_NEW PyObject *uvt_os_text(UvtState *st, const char *call,
                              UvtTextGetter get, const void *arg);

#endif
