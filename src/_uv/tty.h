/* tty_mode.c: the modes of terminals, which several handles may share. */
#ifndef UVT_TTY_H
#define UVT_TTY_H

#include "handle.h"
#include "loop.h"

/* TTY.set_mode(); a libuv status. */
UVT_CHECKED int uvt_tty_set_mode(UvtGraves *graves, UvtBox *box, int mode);
/* Before a TTY is closed: the last one gives the terminal its mode back. */
void uvt_tty_close(UvtBox *box);
/* Gives every terminal its mode back; its handles stay as they are. */
int uvt_terminals_reset(UvtGraves *graves);

#endif
