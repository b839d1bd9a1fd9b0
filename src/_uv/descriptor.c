/* Descriptors that are asked directly, beside libuv: whether one can be read, and
 * what a socket has in its queue of errors.  Nothing here calls Python or libuv.
 */
#include "uvmodule.h"
#include "descriptor.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#ifdef __linux__
#include <time.h>
#include <linux/errqueue.h>
#include <netinet/in.h>
#endif

int
uvt_fd_events(int fd, int wanted)
{
    struct pollfd entry = {.fd = fd, .events = (short)wanted};
    return poll(&entry, 1, 0) > 0 ? entry.revents & wanted : 0;
}

bool
uvt_fd_is_readable(int fd)
{
    return uvt_fd_events(fd, POLLIN) != 0;
}

bool
uvt_fd_read_waits(int fd)
{
    return uvt_fd_events(fd, POLLIN | POLLHUP) == 0;
}

bool
uvt_fd_is_hung_up(int fd)
{
    return uvt_fd_events(fd, POLLHUP) != 0;
}

bool
uvt_fd_loses_descriptors(int fd)
{
    union {
        struct cmsghdr aligned;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    char unused[1];
    struct iovec data = {.iov_base = unused, .iov_len = sizeof(unused)};
    struct msghdr header = {
        .msg_iov = &data,
        .msg_iovlen = 1,
        .msg_control = &control,
        .msg_controllen = sizeof(control),
    };
    int spare = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (spare >= 0) {
        (void)close(spare);
        return false;
    }
    /* A look receives descriptors, too, if it can. */
    return recvmsg(fd, &header, MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC) > 0
        && (header.msg_flags & MSG_CTRUNC) != 0;
}

unsigned
uvt_fd_queued(int fd)
{
#ifdef SO_MEMINFO
    unsigned numbers[16] = {0};     /* the first one is of what was received */
    socklen_t size = sizeof(numbers);
    return getsockopt(fd, SOL_SOCKET, SO_MEMINFO, numbers, &size) == 0 ? numbers[0]
                                                                      : 0;
#else
    (void)fd;
    return 0;
#endif
}

#ifdef __linux__

/* The most that is taken in one go: more may come as fast as it is taken. */
#define ENTRIES_MOST 1024

static int
errno_of(struct msghdr *header)
{
    for (struct cmsghdr *part = CMSG_FIRSTHDR(header); part != NULL;
         part = CMSG_NXTHDR(header, part)) {
        struct sock_extended_err told;
        if (!((part->cmsg_level == IPPROTO_IP && part->cmsg_type == IP_RECVERR)
              || (part->cmsg_level == IPPROTO_IPV6
                  && part->cmsg_type == IPV6_RECVERR))) {
            continue;
        }
        memcpy(&told, CMSG_DATA(part), sizeof(told));
        return told.ee_origin == SO_EE_ORIGIN_LOCAL
            || told.ee_origin == SO_EE_ORIGIN_ICMP
            || told.ee_origin == SO_EE_ORIGIN_ICMP6 ? (int)told.ee_errno : 0;
    }
    return 0;
}

int
uvt_fd_next_error(int fd)
{
    union {
        struct cmsghdr aligned;
        char bytes[512];
    } control;
    char unused[1];
    struct iovec data = {.iov_base = unused, .iov_len = sizeof(unused)};
    struct msghdr header = {
        .msg_iov = &data,
        .msg_iovlen = 1,
        .msg_control = &control,
        .msg_controllen = sizeof(control),
    };
    ssize_t n;
    do {
        n = recvmsg(fd, &header, MSG_ERRQUEUE | MSG_DONTWAIT);
    } while (n < 0 && errno == EINTR);
    return n < 0 ? -1 : errno_of(&header);
}

void
uvt_fd_drop_errors(int fd)
{
    for (int i = 0; i < ENTRIES_MOST && uvt_fd_next_error(fd) >= 0; i++) {
        continue;
    }
}

#else

int
uvt_fd_next_error(int fd)
{
    (void)fd;
    return -1;
}

void
uvt_fd_drop_errors(int fd)
{
    (void)fd;
}

#endif
