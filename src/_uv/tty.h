/* What the base of handles does to a TTY that it closes. */
#ifndef UVT_TTY_H
#define UVT_TTY_H

#include "handle.h"

/* Gives the terminal the mode back that it had. */
void uvt_tty_restore(uv_tty_t *tty);

#endif
