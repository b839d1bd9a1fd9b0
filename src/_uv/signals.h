/* signal_count.c: signals that libuv's handles wait for, counted where they come. */
#ifndef UVT_SIGNALS_H
#define UVT_SIGNALS_H

#include "handle.h"
#include "loop.h"

#include <signal.h>

/* Start and stop a libuv signal; the first gives a libuv status.  A handler that
 * the program has installed over libuv's stays when one is stopped. */
UVT_CHECKED int uvt_signal_watch(uv_signal_t *uv, uv_signal_cb cb, int signum);
void uvt_signal_unwatch(uv_signal_t *uv);

/* A loop's first Signal: from now on it looks before each poll. */
void uvt_signals_begin(UvtCore *core);
void uvt_signals_look(UvtCore *core);
void uvt_signals_end(UvtCore *core);

/* A callback that libuv makes begins: false when there were so many in this turn
 * that the next look has to tell of the rest. */
UVT_CHECKED bool uvt_signal_told(UvtBox *box);

/* What is the parent process's in a child: when a loop is found there, and when it is
 * gone on with. */
void uvt_signals_forked(UvtCore *core);
void uvt_signals_adopt(UvtCore *core);

/* What SIGCHLD has now, unless that is libuv's; and what was saved, if anything. */
void uvt_sigchld_save(struct sigaction *before);
void uvt_sigchld_put_back(const struct sigaction *before);

#endif
