/* Descriptors that are asked directly, beside libuv; descriptor.c.  All functions may be
 * called on any thread, attached or not. */
#ifndef UVT_DESCRIPTOR_H
#define UVT_DESCRIPTOR_H

#include <stdbool.h>

/* True when there is data, or an end that counts as such. */
bool uvt_fd_is_readable(int fd);

/* True when a read has neither data nor an end, and waits if the descriptor blocks. */
bool uvt_fd_read_waits(int fd);

/* None is left for what has been sent along: a read would lose it without a word. */
bool uvt_fd_loses_descriptors(int fd);

/* Somebody has shut down the listening socket: that of UNIX still says EAGAIN. */
bool uvt_fd_is_hung_up(int fd);

/* The wanted ones of these events (POLLIN, POLLOUT, ...) that are there. */
int uvt_fd_events(int fd, int wanted);

/* How much a socket's queues of data and of errors take up: something else than
 * before means that something was taken or has come.  0 for what is no socket. */
unsigned uvt_fd_queued(int fd);

/* Empties the queue of a socket's errors and times of sending, which leaves it in an
 * error until somebody takes them; harmless for what is no socket. */
void uvt_fd_drop_errors(int fd);

/* Takes one entry of that queue; the errno that it tells of (0: of none, such as the
 * time of a sending), or -1: there is none. */
int uvt_fd_next_error(int fd);

#endif
