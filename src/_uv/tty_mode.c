/* The modes of terminals.  Several handles may be of one terminal, in any loops: they
 * share what it was before the first of them changed it, and give that back when the
 * last one is closed or set to normal, and at the end of the interpreter.  libuv would
 * keep a "before" for each handle, of which the second one's is the first one's raw
 * mode; so it is not asked.  While several have changed it, the latest one counts.
 *
 * The list is kept with the graves, which outlive every loop, and guarded by their
 * mutex.  In a forked child the terminals are the parent's to give back.
 */
#include "tty.h"
#include "loop.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

/* A terminal whose mode some handles have changed. */
struct UvtTerminal {
    struct UvtTerminal *next;
    UvtGraves *graves;          /* whose list it is in */
    UvtBox *boxes;              /* of those handles, the latest first */
    struct termios before;
    unsigned device;
    int fd;                     /* a duplicate, for the end; or -1 */
    pid_t pid;                  /* of the process that gives it back */
};

typedef struct UvtTerminal Terminal;

/* The device that is behind /dev/tty and both ends of a pseudo terminal, too. */
static bool
get_device(int fd, unsigned *device)
{
    struct stat st;
#ifdef TIOCGDEV
    if (ioctl(fd, TIOCGDEV, device) == 0) {
        return true;
    }
#endif
    if (fstat(fd, &st) < 0 || !S_ISCHR(st.st_mode)) {
        return false;
    }
    *device = (unsigned)st.st_rdev;
    return true;
}

/* A libuv status, as of the functions below. */
static int
set_attributes(int fd, const struct termios *attributes)
{
    int rc;
    do {
        rc = tcsetattr(fd, TCSANOW, attributes);
    } while (rc < 0 && errno == EINTR);
    return rc < 0 ? uv_translate_sys_error(errno) : 0;
}

/* The modes are libuv's.  What goes without a wait: no output is waited for. */
static int
apply(int fd, const struct termios *before, int mode)
{
    struct termios now = *before;
    if (mode == UV_TTY_MODE_IO) {
        cfmakeraw(&now);
    }
    else if (mode != UV_TTY_MODE_NORMAL) {
        now.c_iflag &= ~(tcflag_t)(BRKINT | ICRNL | INPCK | ISTRIP | IXON);
        now.c_oflag |= ONLCR;
        now.c_cflag |= CS8;
        now.c_lflag &= ~(tcflag_t)(ECHO | ICANON | IEXTEN | ISIG);
        now.c_cc[VMIN] = 1;
        now.c_cc[VTIME] = 0;
    }
    return set_attributes(fd, &now);
}

static int
fd_of(const UvtBox *box)
{
    uv_os_fd_t fd;
    return uv_fileno(&box->uv.handle, &fd) == 0 ? fd : -1;
}

/* Through the duplicate, unless somebody has closed that. */
static int
apply_to(const Terminal *self, int other, int mode)
{
    unsigned device;
    int fd = self->fd >= 0 && get_device(self->fd, &device) && device == self->device
        ? self->fd : other;
    return fd >= 0 ? apply(fd, &self->before, mode) : UV_EBADF;
}

/* ---- the list; its mutex is held ---- */

static void
terminal_free(Terminal *self)
{
    Terminal **link = &self->graves->terminals;
    unsigned device;
    while (*link != self) {
        link = &(*link)->next;
    }
    *link = self->next;
    if (self->fd >= 0 && get_device(self->fd, &device) && device == self->device) {
        (void)close(self->fd);
    }
    PyMem_RawFree(self);
}

static void
unlink_box(UvtBox *box)
{
    UvtBox **link = &box->terminal->boxes;
    while (*link != box) {
        link = &(*link)->next_of_terminal;
    }
    *link = box->next_of_terminal;
}

static void
link_box(Terminal *self, UvtBox *box)
{
    box->terminal = self;
    box->next_of_terminal = self->boxes;
    self->boxes = box;
}

/* The terminal of the descriptor, maybe a new one, for a handle to join. */
static int
find_terminal(UvtGraves *graves, int fd, Terminal **out)
{
    struct termios before;
    unsigned device;
    Terminal *self;
    if (tcgetattr(fd, &before) < 0) {
        return uv_translate_sys_error(errno);
    }
    if (!get_device(fd, &device)) {
        return UV_ENOTTY;
    }
    for (self = graves->terminals; self != NULL; self = self->next) {
        if (self->device == device) {
            *out = self;
            return 0;
        }
    }
    self = PyMem_RawCalloc(1, sizeof(Terminal));
    if (self == NULL) {
        return UV_ENOMEM;
    }
    self->graves = graves;
    self->before = before;
    self->device = device;
    self->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    self->next = graves->terminals;
    graves->terminals = self;
    *out = self;
    return 0;
}

/* What is left for others, or for nobody. */
static int
leave(UvtBox *box, int fd)
{
    Terminal *self = box->terminal;
    int rc = 0;
    unlink_box(box);
    box->terminal = NULL;
    box->uv.tty.mode = UV_TTY_MODE_NORMAL;
    if (self->pid == getpid()) {
        rc = apply_to(self, fd, self->boxes != NULL ? (int)self->boxes->uv.tty.mode
                                                    : UV_TTY_MODE_NORMAL);
    }
    if (self->boxes == NULL) {
        terminal_free(self);
    }
    return rc;
}

static int
change(UvtGraves *graves, UvtBox *box, int fd, int mode)
{
    Terminal *self = box->terminal;
    int rc = 0;
    if (self == NULL) {
        rc = find_terminal(graves, fd, &self);
        if (rc < 0) {
            return rc;
        }
    }
    rc = apply(fd, &self->before, mode);
    if (rc < 0) {
        if (self->boxes == NULL) {
            terminal_free(self);
        }
        return rc;
    }
    self->pid = getpid();
    if (box->terminal != NULL) {
        unlink_box(box);
    }
    link_box(self, box);
    box->uv.tty.mode = mode;
    return 0;
}

/* ---- what others call ---- */

int
uvt_tty_set_mode(UvtGraves *graves, UvtBox *box, int mode)
{
    int fd = fd_of(box), rc;
    UVT_MUTEX_LOCK(graves->mutex);
    if (mode != UV_TTY_MODE_NORMAL) {
        rc = change(graves, box, fd,
                    mode == UV_TTY_MODE_IO ? mode : UV_TTY_MODE_RAW);
    }
    else if (box->terminal != NULL) {
        box->terminal->pid = getpid();
        rc = leave(box, fd);
    }
    else {
        rc = 0;
    }
    UVT_MUTEX_UNLOCK(graves->mutex);
    return rc;
}

void
uvt_tty_close(UvtBox *box)
{
    UvtGraves *graves;
    if (box->terminal == NULL) {
        return;
    }
    graves = box->terminal->graves;
    UVT_MUTEX_LOCK(graves->mutex);
    (void)leave(box, fd_of(box));
    UVT_MUTEX_UNLOCK(graves->mutex);
    (void)graves;
}

int
uvt_terminals_reset(UvtGraves *graves)
{
    int rc = 0;
    UVT_MUTEX_LOCK(graves->mutex);
    for (Terminal *self = graves->terminals; self != NULL; self = self->next) {
        if (self->pid == getpid()) {
            int one = apply_to(self, fd_of(self->boxes), UV_TTY_MODE_NORMAL);
            rc = rc < 0 ? rc : one;
        }
    }
    UVT_MUTEX_UNLOCK(graves->mutex);
    return rc;
}
