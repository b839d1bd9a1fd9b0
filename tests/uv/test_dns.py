"""uv.dns: getaddrinfo and getnameinfo, with names that need no network."""

import gc
import os
import socket
import subprocess
import sys
import threading
import weakref

import pytest

import limits
from uvtulip import uv
from uvtulip.uv import dns

UV = uv.errno


def nothing(*args):
    raise AssertionError(f"called with {args}")


def status_of(call, *args, **kwargs):
    with pytest.raises(uv.error.UVError) as caught:
        call(*args, **kwargs)
    return caught.value.args[0]


@pytest.fixture(params=["sync", "callback"])
def ask(request, loop):
    """Either form, with the result of the call; errors are raised."""
    if request.param == "sync":
        def ask(function, *args, **kwargs):
            return function(loop, *args, **kwargs)
        return ask

    def ask_later(function, *args, **kwargs):
        seen = []
        request = function(loop, *args, **kwargs,
                           callback=lambda *result: seen.append(result))
        assert isinstance(request, uv.Request) and seen == []
        loop.run_checked()
        (result, error), = seen
        if error is not None:
            assert result is None
            raise uv.error.UVError(error, uv.errno.strerror(error))
        return result
    return ask_later


@pytest.mark.parametrize("host", ["127.0.0.1", b"127.0.0.1"])
@pytest.mark.parametrize("port", [80, "80", b"80"])
def test_numeric(ask, host, port):
    found = ask(dns.getaddrinfo, host, port, socket.AF_INET, socket.SOCK_STREAM)
    item, = found
    assert type(found) is list and type(item) is dns.addrinfo
    assert item == (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "",
                    ("127.0.0.1", 80))
    assert item.family == socket.AF_INET and item.socktype == socket.SOCK_STREAM
    assert item.proto == socket.IPPROTO_TCP and item.canonname == ""
    assert item.sockaddr == ("127.0.0.1", 80)


def test_ipv6(ask):
    item, = ask(dns.getaddrinfo, "::1", 5, socktype=socket.SOCK_DGRAM)
    assert item.family == socket.AF_INET6
    assert item.sockaddr == ("::1", 5, 0, 0)


@pytest.mark.parametrize("args", [("localhost",), ("localhost", None), (None, 80),
                                  ("localhost", "http"), ("LOCALHOST", 1)])
def test_as_the_socket_module_does(ask, args):
    host, port = args if len(args) == 2 else (*args, None)
    wanted = {"family": socket.AF_INET, "socktype": socket.SOCK_STREAM}
    try:
        expected = socket.getaddrinfo(host, port, *wanted.values())
    except socket.gaierror as error:
        # The system has no /etc/services, or no /etc/hosts.
        code = uv.errno.errorcode[status_of(ask, dns.getaddrinfo, *args, **wanted)]
        assert getattr(socket, code.removeprefix("UV_")) == error.errno
        return
    found = ask(dns.getaddrinfo, *args, **wanted)
    assert [tuple(item) for item in found] == expected


def test_hints(ask):
    kinds = {item.socktype for item in ask(dns.getaddrinfo, "127.0.0.1", 1)}
    assert {socket.SOCK_STREAM, socket.SOCK_DGRAM} <= kinds
    item, = ask(dns.getaddrinfo, "127.0.0.1", 1, protocol=socket.IPPROTO_UDP)
    assert item.socktype == socket.SOCK_DGRAM
    item, *_ = ask(dns.getaddrinfo, None, 1, flags=socket.AI_PASSIVE,
                   family=socket.AF_INET)
    assert item.sockaddr == ("0.0.0.0", 1)
    item, *_ = ask(dns.getaddrinfo, "127.0.0.1", 1, flags=socket.AI_CANONNAME)
    assert item.canonname == "127.0.0.1"


@pytest.mark.parametrize("args, kwargs, codes", [
    (("name.invalid", 1), {"flags": socket.AI_NUMERICHOST}, {"UV_EAI_NONAME"}),
    (("127.0.0.1", "no-such-service"), {"socktype": socket.SOCK_STREAM},
     {"UV_EAI_SERVICE", "UV_EAI_NONAME"}),
    (("127.0.0.1", 1), {"family": 9999}, {"UV_EAI_FAMILY"}),
    (("127.0.0.1", 1), {"flags": 1 << 20}, {"UV_EAI_BADFLAGS"}),
    ((None, None), {}, {"UV_EINVAL"}),
    (("x" * 300, 1), {}, {"UV_EINVAL", "UV_E2BIG", "UV_ENAMETOOLONG"}),
])
def test_errors(ask, args, kwargs, codes):
    assert status_of(ask, dns.getaddrinfo, *args, **kwargs) in {
        getattr(UV, code) for code in codes}


def test_idna(loop):
    """The name is encoded before it is looked up, and refused when it cannot be."""
    for host in ("b\xfccher.invalid", "b\xfccher.invalid.".encode("idna")):
        assert status_of(dns.getaddrinfo, loop, host, 1,
                         flags=socket.AI_NUMERICHOST) == UV.UV_EAI_NONAME
    with pytest.raises(UnicodeError):
        dns.getaddrinfo(loop, "\xfc" * 100, 1)
    with pytest.raises(UnicodeError):
        dns.getaddrinfo(loop, "\xfc..x", 1)


@pytest.mark.parametrize("args, kwargs, error", [
    ((), {}, TypeError),
    ((5, 1), {}, TypeError),
    ((bytearray(b"x"), 1), {}, TypeError),
    (("x", 1.5), {}, TypeError),
    (("x", []), {}, TypeError),
    (("x\0", 1), {}, ValueError),
    ((b"x\0", 1), {}, ValueError),
    (("x", "1\0"), {}, ValueError),
    (("x", -1), {}, OverflowError),
    (("x", 65536), {}, OverflowError),
    (("x", 1 << 80), {}, OverflowError),
    (("x", 1), {"family": "inet"}, TypeError),
    (("x", 1), {"socktype": -1}, ValueError),
    (("x", 1), {"flags": 1 << 40}, ValueError),
    (("x", 1), {"callback": 5}, TypeError),
    (("x", 1), {"proto": 5}, TypeError),
    (("x", 1, 0, 0, 0, 0, None, None), {}, TypeError),
])
def test_bad_arguments(loop, args, kwargs, error):
    with pytest.raises(error):
        dns.getaddrinfo(loop, *args, **kwargs)
    assert not loop.alive


@pytest.mark.parametrize("address, expected", [
    (("127.0.0.1", 80), ("127.0.0.1", "80")),
    (("::1", 80), ("::1", "80")),
    (("::1", 80, 0, 0), ("::1", "80")),
])
def test_getnameinfo(ask, address, expected):
    flags = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
    found = ask(dns.getnameinfo, address, flags)
    assert type(found) is dns.nameinfo and found == expected
    assert (found.host, found.service) == expected
    assert tuple(ask(dns.getnameinfo, address, flags=socket.NI_NUMERICHOST)) == (
        socket.getnameinfo(address, socket.NI_NUMERICHOST))


def test_getnameinfo_errors(ask):
    assert status_of(ask, dns.getnameinfo, ("192.0.2.1", 1), 1 << 20) == (
        UV.UV_EAI_BADFLAGS)


@pytest.mark.parametrize("args, kwargs, error", [
    ((), {}, TypeError),
    ((5,), {}, TypeError),
    (("127.0.0.1",), {}, TypeError),
    ((("localhost", 1),), {}, ValueError),
    ((("127.0.0.1", 65536),), {}, OverflowError),
    ((("127.0.0.1", 1), "x"), {}, TypeError),
    ((("127.0.0.1", 1), -1), {}, ValueError),
    ((("127.0.0.1", 1),), {"callback": 5}, TypeError),
])
def test_getnameinfo_bad_arguments(loop, args, kwargs, error):
    with pytest.raises(error):
        dns.getnameinfo(loop, *args, **kwargs)


def questions(loop):
    yield lambda callback=None: dns.getaddrinfo(loop, "127.0.0.1", 1,
                                                callback=callback)
    yield lambda callback=None: dns.getnameinfo(
        loop, ("127.0.0.1", 1), socket.NI_NUMERICHOST, callback=callback)


def test_wrong_loop(loop):
    closed = uv.Loop()
    closed.close()
    for bad, error in ((None, TypeError), (5, TypeError), (closed, RuntimeError),
                       (uv.Loop.__new__(uv.Loop), RuntimeError)):
        for call in questions(bad):
            for callback in (None, print):
                with pytest.raises(error):
                    call(callback)


def test_wrong_thread(loop):
    wrong = []

    def in_thread():
        for call in questions(loop):
            for callback in (None, print):
                try:
                    call(callback)
                except RuntimeError:
                    continue
                wrong.append(call)

    def on_timer(timer):
        thread = threading.Thread(target=in_thread)
        thread.start()
        thread.join(30)
        timer.close()

    uv.Timer(loop).start(on_timer, 0)
    loop.run_checked()
    assert wrong == []


def test_in_a_callback(loop):
    """Both forms, while the loop runs."""
    seen = []

    def on_timer(timer):
        timer.close()
        for call in questions(loop):
            seen.append(call() is not None)
            call(lambda result, error: seen.append(error))

    uv.Timer(loop).start(on_timer, 0)
    loop.run_checked()
    assert seen[:2] == [True, True] and seen[2:] == [None, None]


def test_cancel(loop):
    """With the pool full of other work."""
    import os
    begun, go = threading.Semaphore(0), threading.Event()
    size = int(os.environ.get("UV_THREADPOOL_SIZE", 4))
    for _ in range(size):
        loop.queue_work(lambda: (begun.release(), go.wait(30)))
    for _ in range(size):
        assert begun.acquire(timeout=30)
    seen = []
    requests = [call(lambda *result: seen.append(result)) for call in questions(loop)]
    kinds = [dns.GAIRequest, dns.GNIRequest]
    assert [type(request) for request in requests] == kinds
    assert [request.cancel() for request in requests] == [True, True]
    assert [request.loop for request in requests] == [loop, loop]
    go.set()
    loop.run_checked()
    assert seen == [(None, UV.UV_EAI_CANCELED)] * 2
    assert [request.cancel() for request in requests] == [False, False]
    assert all(request.done for request in requests)


def test_exception_in_the_callback(loop):
    def fail(result, error):
        raise ZeroDivisionError

    for call in questions(loop):
        call(fail)
        with pytest.raises(ZeroDivisionError):
            loop.run_checked()


def test_requests_are_released(loop):
    class Callback:
        def __call__(self, *args):
            pass

    for call in questions(loop):
        callback = Callback()
        refs = [weakref.ref(callback), weakref.ref(call(callback))]
        del callback
        gc.collect()
        assert None not in [ref() for ref in refs]
        loop.run_checked()
        gc.collect()
        assert [ref() for ref in refs] == [None, None]


def test_dropped_loop():
    def drop():
        loop = uv.Loop()
        for call in questions(loop):
            call(lambda *args: loop.stop())
        return weakref.ref(loop)

    ref = drop()
    gc.collect()
    assert ref() is None


def test_other_threads_run_meanwhile(held_names):
    """The answer comes when another thread has asked for it."""
    preload = [*os.environ.get("LD_PRELOAD", "").split(), str(held_names)]
    done = subprocess.run(
        [sys.executable, "-c", """if True:
            import os, threading
            from uvtulip import uv
            begun_r, begun_w = os.pipe()
            release_r, release_w = os.pipe()
            os.environ.update(HELD_BEGUN=str(begun_w), HELD_RELEASE=str(release_r))
            loop = uv.Loop()
            def work():
                os.read(begun_r, 1)
                os.write(release_w, b"x")
            thread = threading.Thread(target=work)
            thread.start()
            found = uv.dns.getaddrinfo(loop, "held", 1)
            thread.join()
            assert found[0].sockaddr == ("192.0.2.1", 1), found
        """],
        env={**os.environ, "LD_PRELOAD": " ".join(preload)}, timeout=limits.WAIT * 2,
        capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_requests_cannot_be_made():
    for cls in (dns.GAIRequest, dns.GNIRequest):
        with pytest.raises(TypeError):
            cls()
