"""thread: mutexes, read-write locks, semaphores, conditions, barriers."""

import errno
import gc
import threading

import pytest

from aiosupport import check_script
from uvtulip import uv
from uvtulip.uv import thread

MAKERS = [
    thread.Mutex,
    thread.RWLock,
    thread.Semaphore,
    thread.Condition,
    lambda: thread.Barrier(1),
]


def in_thread(call, *args):
    """What call() returns or raises in another thread."""
    box = []

    def run():
        try:
            box.append(call(*args))
        except Exception as exc:
            box.append(exc)

    other = threading.Thread(target=run)
    other.start()
    other.join(20)
    assert box, "still blocked"
    if isinstance(box[0], Exception):
        raise box[0]
    return box[0]


def refuses(code, call, *args):
    with pytest.raises(uv.error.ThreadError) as info:
        call(*args)
    assert info.value.args[0] == -code and info.value.errno == code


class Blocked:
    """A thread that is inside of a call that has to block for now."""

    def __init__(self, call, *args):
        self.begun = threading.Event()
        self.ended = threading.Event()

        def run():
            self.begun.set()
            self.result = call(*args)
            self.ended.set()

        self.thread = threading.Thread(target=run)
        self.thread.start()
        assert self.begun.wait(20)
        assert not self.ended.wait(0.02)

    def finish(self):
        assert self.ended.wait(20)
        self.thread.join()
        return self.result


def test_mutex():
    mutex = thread.Mutex()
    assert mutex.lock() is None
    assert mutex.trylock() is False
    assert in_thread(mutex.trylock) is False
    assert mutex.unlock() is None
    assert mutex.trylock() is True
    mutex.unlock()


def test_mutex_blocks_without_the_interpreter():
    mutex = thread.Mutex()

    def change():
        with mutex:
            pass

    with mutex as entered:
        assert entered is mutex
        blocked = Blocked(change)
    blocked.finish()
    assert mutex.trylock()
    mutex.unlock()


def test_mutex_excludes():
    mutex = thread.Mutex()
    inside = []

    def work():
        for _ in range(300):
            with mutex:
                inside.append(1)
                assert len(inside) == 1
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for other in threads:
        other.start()
    for other in threads:
        other.join()
    assert inside == [] and mutex.trylock()
    mutex.unlock()


def test_mutex_misused():
    mutex = thread.Mutex()
    refuses(errno.EPERM, mutex.unlock)
    mutex.lock()
    refuses(errno.EDEADLK, mutex.lock)
    refuses(errno.EPERM, in_thread, mutex.unlock)
    mutex.unlock()
    refuses(errno.EPERM, mutex.unlock)
    with pytest.raises(uv.error.ThreadError), mutex:
        mutex.unlock()


def test_recursive_mutex():
    mutex = thread.Mutex(True)
    assert thread.Mutex(recursive=True).trylock()
    for _ in range(3):
        mutex.lock()
    assert mutex.trylock() is True
    for _ in range(4):
        assert in_thread(mutex.trylock) is False
        mutex.unlock()
    refuses(errno.EPERM, mutex.unlock)
    mutex.lock()
    refuses(errno.EPERM, in_thread, mutex.unlock)
    mutex.unlock()


def test_rwlock():
    lock = thread.RWLock()
    lock.rdlock()
    assert in_thread(lock.tryrdlock) is True
    assert lock.trywrlock() is False
    assert in_thread(lock.trywrlock) is False
    lock.rdunlock()
    lock.rdunlock()
    assert lock.trywrlock() is True
    assert lock.tryrdlock() is False and lock.trywrlock() is False
    assert in_thread(lock.tryrdlock) is False
    lock.wrunlock()
    lock.wrlock()
    reader = Blocked(lock.rdlock)
    lock.wrunlock()
    reader.finish()
    writer = Blocked(lambda: (lock.wrlock(), lock.wrunlock()))
    lock.rdunlock()
    writer.finish()


def test_rwlock_misused():
    lock = thread.RWLock()
    for call in lock.rdunlock, lock.wrunlock:
        refuses(errno.EPERM, call)
    lock.wrlock()
    for call in lock.rdlock, lock.wrlock:
        refuses(errno.EDEADLK, call)
    refuses(errno.EPERM, lock.rdunlock)
    refuses(errno.EPERM, in_thread, lock.wrunlock)
    lock.wrunlock()
    lock.rdlock()
    refuses(errno.EPERM, lock.wrunlock)
    lock.rdunlock()
    refuses(errno.EPERM, lock.rdunlock)


def test_semaphore():
    semaphore = thread.Semaphore(2)
    semaphore.wait()
    assert semaphore.trywait() is True
    assert semaphore.trywait() is False
    waiter = Blocked(semaphore.wait)
    semaphore.post()
    waiter.finish()
    semaphore.post()
    with semaphore as entered:
        assert entered is semaphore and not semaphore.trywait()
    assert semaphore.trywait()
    assert thread.Semaphore().trywait()
    assert not thread.Semaphore(value=0).trywait()


def test_semaphore_limits():
    for bad in -1, 1 << 31:
        with pytest.raises(ValueError):
            thread.Semaphore(bad)
    semaphore = thread.Semaphore(2**31 - 1)
    refuses(errno.EOVERFLOW, semaphore.post)
    semaphore.wait()
    semaphore.post()


def test_condition():
    mutex, condition = thread.Mutex(), thread.Condition()
    ready = []

    def wait():
        with mutex:
            while not ready:
                assert condition.wait(mutex) is None
            ready.pop()

    for wake in condition.signal, condition.broadcast:
        waiter = Blocked(wait)
        with mutex:
            ready.append(1)
            assert wake() is None
        waiter.finish()
    assert ready == []


def test_condition_with_a_time():
    mutex, condition = thread.Mutex(), thread.Condition()
    with mutex:
        assert condition.timedwait(mutex, 0.001) is False
        assert condition.timedwait(mutex, 0) is False
        threading.Timer(0.01, condition.signal).start()
        while not condition.timedwait(mutex, 1e30):
            pass
    assert in_thread(mutex.trylock) is True


def test_condition_misused():
    mutex, condition = thread.Mutex(), thread.Condition()
    refuses(errno.EPERM, condition.wait, mutex)
    refuses(errno.EPERM, condition.timedwait, mutex, 1)
    mutex.lock()
    refuses(errno.EPERM, in_thread, condition.wait, mutex)
    for bad in "x", float("nan"), -1:
        with pytest.raises((TypeError, ValueError)):
            condition.timedwait(mutex, bad)
    mutex.unlock()
    for bad in None, thread.RWLock(), 5:
        with pytest.raises(TypeError):
            condition.wait(bad)
    with pytest.raises(RuntimeError):
        condition.wait(thread.Mutex.__new__(thread.Mutex))
    twice = thread.Mutex(True)
    with twice, twice:
        refuses(errno.EINVAL, condition.wait, twice)


def test_barrier():
    barrier = thread.Barrier(3)
    for _ in range(3):
        waiters = [Blocked(barrier.wait) for _ in range(2)]
        results = [barrier.wait()] + [waiter.finish() for waiter in waiters]
        assert sorted(results) == [False, False, True]
    assert thread.Barrier(1).wait() is True
    for bad in 0, -1, 1 << 31:
        with pytest.raises(ValueError):
            thread.Barrier(bad)
    with pytest.raises(TypeError):
        thread.Barrier()


@pytest.mark.parametrize("make", MAKERS)
def test_life(make):
    lock = make()
    kind = type(lock)
    with pytest.raises(RuntimeError, match="already"):
        lock.__init__(*([1] if kind is thread.Barrier else []))
    raw = kind.__new__(kind)
    mutex = thread.Mutex()
    for name in dir(kind):
        method = getattr(raw, name)
        if name.startswith("__") and name not in ("__enter__", "__exit__"):
            continue
        takes_mutex = kind is thread.Condition and "wait" in name
        args = [mutex, 1][: 1 + (name == "timedwait")] if takes_mutex else []
        with mutex, pytest.raises(RuntimeError, match="not initialised"):
            method(*args)

    class Sub(kind):
        pass

    sub = Sub(1) if kind is thread.Barrier else Sub()
    sub.note = [sub]
    del sub, raw, lock
    gc.collect()


def test_dropped_while_locked():
    check_script(
        """
        import threading
        from uvtulip.uv import thread

        for make in thread.Mutex, lambda: thread.Mutex(True):
            make().lock()
            threading.Thread(target=make().lock).start()
        thread.RWLock().rdlock()
        thread.RWLock().wrlock()
        thread.Semaphore().wait()
        """
    )


def test_many_lives():
    for _ in range(2000):
        for make in MAKERS:
            make()
