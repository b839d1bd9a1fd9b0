/* signal_count.c: signals that libuv's handles wait for. */
#ifndef UVT_SIGNALS_H
#define UVT_SIGNALS_H

#include "handle.h"
#include "loop.h"

#include <signal.h>

/* Start and stop a libuv signal; the first gives a libuv status.  A handler that
 * the program has installed over libuv's stays when one is stopped. */
UVT_CHECKED int uvt_signal_watch(uv_signal_t *uv, uv_signal_cb cb, int signum);
void uvt_signal_unwatch(uv_signal_t *uv);

/* A loop's first Signal or child: from now on it looks after each poll.  0 or
 * UV_ENOMEM. */
UVT_CHECKED int uvt_signals_begin(UvtCore *core);
void uvt_signals_look(UvtCore *core);
void uvt_signals_end(UvtCore *core);
/* The end of a loop that has lost its descriptors. */
void uvt_signals_lost(UvtCore *core);

/* What is the parent process's in a child: when a loop is found there, and when it is
 * gone on with (0 or UV_ENOMEM). */
void uvt_signals_forked(UvtCore *core);
UVT_CHECKED int uvt_signals_adopt(UvtCore *core);

/* SIGCHLD becomes ours, unless libuv has it for somebody else: the first two come before
 * a child is started, the third after it.  The last tells whether one has come that
 * nobody has looked at. */
UVT_CHECKED int uvt_sigchld_begin(UvtCore *core, bool *foreign);
void uvt_sigchld_watch(UvtCore *core, bool foreign);
void uvt_sigchld_install(bool foreign);
bool uvt_sigchld_pending(const UvtCore *core);

/* What SIGCHLD has now, unless that is libuv's; and what was saved, if anything. */
void uvt_sigchld_save(struct sigaction *before);
void uvt_sigchld_put_back(const struct sigaction *before);

#endif
