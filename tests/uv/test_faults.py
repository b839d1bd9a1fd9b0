"""What the kernel refuses: memory, a place in epoll, threads, descriptors.  An
exception or a callback tells of it, and the process lives on."""

import textwrap

import pytest

import faultsupport
from faultsupport import OPERATIONS, WORLD

POOL = ["work", "stat", "names", "addresses", "random", "files_watched"]

# In a child for each: the first call fails, the second, ... until none does.
WALK = """
faults.find_libraries()
operation, fail = globals()[sys.argv[1]], sys.argv[2]
for nth in range(1, int(sys.argv[4]) + 1):
    pid = os.fork()
    if pid == 0:
        loop = Loop()
        # libuv's table has to grow.
        unused = [os.dup(0) for _ in range(60)]
        kept = None
        eval(fail)(nth)
        try:
            kept = operation(loop)
            turns(loop)
        except (OSError, MemoryError, RuntimeError) as exc:
            told.append(exc)
        hit = faults.count_failures()
        eval(fail)(0)
        turns(loop)
        finish(loop)
        if sys.argv[2] == "faults.fail_thread":
            assert hit and told
        assert told or not hit or nth > 1 or sys.argv[3] == "quiet", operation
        os._exit(0 if hit else 77)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status == 77:
        break
    assert status == 0, (sys.argv[1], nth, status)
print(nth - 1)
"""


@pytest.fixture(scope="module")
def faults(tmp_path_factory):
    return faultsupport.build(tmp_path_factory.mktemp("faults"))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_allocation_fails(faults, operation):
    walked = faultsupport.run(
        WORLD + WALK, operation, "faults.fail_malloc", "quiet", "79", preload=faults
    )
    assert int(walked) < 78


@pytest.mark.parametrize("operation", ["reading", "connecting", "datagrams", "polling"])
@pytest.mark.parametrize("error", ["ENOSPC", "ENOMEM"])
def test_epoll_has_no_place(faults, operation, error):
    fail = f"lambda nth: faults.fail_watch(nth, __import__('errno').{error}, 0)"
    faultsupport.run(WORLD + WALK, operation, fail, "told", "6", preload=faults)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_epoll_never_has_a_place(faults, operation):
    script = """
    import errno
    for begun in (False, True):
        loop = Loop()
        if begun:
            loop.run(uv.UV_RUN_NOWAIT)
        faults.fail_watch(1, errno.ENOSPC, 1)
        kept = None
        try:
            kept = globals()[sys.argv[1]](loop)
            turns(loop)
        except (OSError, RuntimeError) as exc:
            told.append(exc)
        faults.fail_watch(0, 0, 0)
        turns(loop)
        finish(loop)
    """
    script = WORLD + "\n" + textwrap.dedent(script)
    assert faultsupport.run(script, operation, preload=faults) == ""


@pytest.mark.parametrize("operation", POOL)
@pytest.mark.parametrize("threads", ["", "2", "9"])
def test_no_thread_for_the_pool(faults, operation, threads):
    script = WORLD + f"os.environ['UV_THREADPOOL_SIZE'] = {threads!r} or '4'\n" + WALK
    size = threads or "4"
    walked = faultsupport.run(
        script, operation, "faults.fail_thread", "told", size, preload=faults
    )
    assert walked == f"{int(size) - 1}\n"


@pytest.mark.parametrize("kind", ["first", "next"])
def test_few_descriptors_left(kind):
    """A loop is made or not, and one that is not leaves nothing open."""
    script = """
    import os, resource, sys
    from uvtulip import uv
    if sys.argv[1] == "next":
        uv.Loop().close()
    made = []
    for left in range(13):
        pid = os.fork()
        if pid == 0:
            resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
            unused = []
            try:
                while True:
                    unused.append(os.dup(0))
            except OSError:
                pass
            for fd in unused[:left]:
                os.close(fd)
            del unused[:left]
            try:
                loop = uv.Loop()
                try:
                    loop.run()
                finally:
                    loop.close()
            except (OSError, RuntimeError):
                pass
            again = []
            try:
                while True:
                    again.append(os.dup(0))
            except OSError:
                pass
            # libuv's own pipe stays, from the first loop on.
            lost = left - len(again)
            os._exit(0 if lost in ((0, 2) if sys.argv[1] == "first" else (0,)) else 1)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert status == 0, (left, status)
    """
    assert faultsupport.run(script, kind) == ""
