/* In place of the C library's getaddrinfo(), for tests: by LD_PRELOAD.
 *
 * Names that begin with "held" have the address 192.0.2.1, which is given when
 * somebody has written a byte to the descriptor HELD_RELEASE; before it waits,
 * each writes a byte to the descriptor HELD_BEGUN.  "broken" fails with an error
 * of the system, "again" as when no server answers.  All else is as ever.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int
getaddrinfo(const char *host, const char *port, const struct addrinfo *hints,
            struct addrinfo **found)
{
    int (*next)(const char *, const char *, const struct addrinfo *,
                struct addrinfo **) = dlsym(RTLD_NEXT, "getaddrinfo");
    char byte = 0;
    if (host != NULL && strncmp(host, "held", 4) == 0) {
        if (write(atoi(getenv("HELD_BEGUN")), &byte, 1) != 1
            || read(atoi(getenv("HELD_RELEASE")), &byte, 1) != 1) {
            return EAI_FAIL;
        }
        host = "192.0.2.1";
    }
    if (host != NULL && strcmp(host, "broken") == 0) {
        errno = EMFILE;
        return EAI_SYSTEM;
    }
    if (host != NULL && strcmp(host, "again") == 0) {
        return EAI_AGAIN;
    }
    return next(host, port, hints, found);
}
