"""10,000 requests on files and for random bytes, and as many locks: nothing stays."""

import os
import tempfile

from leakcheck import check

from uvtulip import uv
from uvtulip.uv import fs, thread, util

loop = uv.Loop()
folder = tempfile.mkdtemp()
path = os.path.join(folder, "file")
with open(path, "wb") as file:
    file.write(b"x" * 1000)


def nothing(request):
    pass


def at_once(count):
    for _ in range(count):
        fd = fs.open(loop, path, os.O_RDWR)
        fs.write(loop, fd, [b"abc", bytearray(b"def")], 0)
        fs.read(loop, fd, 100, 0)
        fs.readv(loop, fd, [bytearray(10), bytearray(10)], 0)
        fs.fstat(loop, fd)
        fs.close(loop, fd)
        fs.scandir(loop, folder)
        fs.readdir(loop, opened := fs.opendir(loop, folder))
        fs.closedir(loop, opened)
        fs.statfs(loop, folder)
        for name in "missing", b"missing":
            try:
                fs.stat(loop, name)
            except OSError:
                pass


def later(count):
    fd = os.open(path, os.O_RDWR)
    for i in range(count):
        fs.stat(loop, path, nothing)
        fs.write(loop, fd, [b"abc"] * 6, 0, nothing)
        fs.read(loop, fd, 100, 0, nothing)
        fs.scandir(loop, folder, nothing)
        fs.opendir(loop, folder, nothing).cancel()
        fs.stat(loop, "missing", nothing)
        loop.random(100, lambda data, error: None).cancel()
        if i % 20 == 0:
            loop.run()
    loop.run()
    os.close(fd)


def dropped(count):
    """Loops that go while threads of the pool work for them."""
    for i in range(count // 10):
        other = uv.Loop()
        fs.open(other, path, os.O_RDONLY, 0, nothing)
        fs.opendir(other, folder, nothing)
        fs.mkstemp(other, os.path.join(folder, "tempXXXXXX"), nothing)
        del other
        if i % 20 == 0:
            fs.stat(loop, path, nothing)
            loop.run()
    # Whatever the pool still had is done now, and the next loops see it.
    for _ in range(20):
        fs.stat(loop, path, nothing)
        loop.run()
        uv.Loop().close()
    for name in os.listdir(folder):
        if name != "file":
            os.remove(os.path.join(folder, name))


def system(count):
    for _ in range(count // 10):
        util.cpu_info()
        util.interface_addresses()
        util.environ()
        util.getrusage()
        util.uname()
        util.get_passwd()
        util.random(10)
        loop.metrics()


def locks(count):
    for _ in range(count):
        mutex, condition = thread.Mutex(True), thread.Condition()
        with mutex:
            condition.timedwait(mutex, 0)
        thread.RWLock().rdlock()
        thread.Semaphore(2).wait()
        thread.Barrier(1).wait()


check("fs at once", at_once, 3000, 200)
check("fs later", later, 3000, 200)
check("dropped loops", dropped, 3000, 200)
check("util", system, 3000, 200)
check("locks", locks, 10_000, 200)
