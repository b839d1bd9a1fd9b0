"""uv.TCP against real sockets: binding, connecting, options, closing."""

import errno
import gc
import os
import socket
import struct
import threading
import weakref

import pytest

from network import needs_ipv6
from uvtulip import uv


def listening(loop, on_connection, host="127.0.0.1"):
    server = uv.TCP(loop)
    server.bind((host, 0))
    server.listen(on_connection)
    return server


def echo_server(loop):
    """A server that echoes, and closes each connection at its end."""
    def on_connection(server, error):
        assert error is None
        client = uv.TCP(loop)
        server.accept(client)
        client.start_read(on_read)

    def on_read(handle, data, error):
        if data is not None:
            handle.write(data)
        else:
            assert error == uv.errno.UV_EOF
            handle.close()

    return listening(loop, on_connection)


def test_connect_echo_close(loop):
    server = echo_server(loop)
    client = uv.TCP(loop)
    got = []

    def on_connect(handle, error):
        assert handle is client and error is None
        assert client.getpeername() == server.getsockname()
        client.start_read(on_read)
        client.write(b"hello")

    def on_read(handle, data, error):
        assert handle is client and error is None
        got.append(data)
        client.close(lambda handle: server.close())

    client.connect(server.getsockname(), on_connect)
    loop.run_checked()
    assert got == [b"hello"]


@needs_ipv6
def test_ipv6(loop):
    server = listening(loop, lambda s, e: None, "::1")
    assert server.family == socket.AF_INET6
    name = server.getsockname()
    assert name[0] == "::1" and len(name) == 4
    client = uv.TCP(loop)
    seen = []
    client.connect(name, lambda handle, error: (seen.append(error),
                                                client.close(),
                                                server.close()))
    loop.run_checked()
    assert seen == [None]


def test_connection_refused(loop):
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        address = sock.getsockname()
        client = uv.TCP(loop)
        seen = []
        client.connect(address, lambda handle, error: seen.append(error))
        loop.run_checked()
    assert seen == [uv.errno.UV_ECONNREFUSED]
    client.close()


def test_close_while_connecting(loop):
    server = listening(loop, lambda s, e: None)
    client = uv.TCP(loop)
    order = []
    client.connect(server.getsockname(), lambda h, error: order.append(error))
    client.close(lambda handle: order.append("closed"))
    server.close()
    loop.run_checked()
    assert order == [uv.errno.UV_ECANCELED, "closed"]


def test_second_connect(loop):
    server = listening(loop, lambda s, e: None)
    client = uv.TCP(loop)
    client.connect(server.getsockname(), lambda h, e: None)
    with pytest.raises(uv.error.TCPError) as caught:
        client.connect(server.getsockname(), lambda h, e: None)
    assert caught.value.args[0] == uv.errno.UV_EALREADY
    client.close()
    server.close()
    loop.run_checked()


@pytest.mark.parametrize("address, kind", [
    (None, TypeError), (b"", TypeError), (["127.0.0.1", 1], TypeError),
    (("127.0.0.1",), TypeError), ((1, 1), TypeError),
    (("127.0.0.1", "1"), TypeError), (("localhost", 1), ValueError),
    (("127.0.0.1", -1), OverflowError), (("127.0.0.1", 65536), OverflowError),
    (("::1", 1, 0x100000), OverflowError),
    (("::1", 1, 0, 0, 0), TypeError)])
def test_wrong_addresses(loop, address, kind):
    tcp = uv.TCP(loop)
    with pytest.raises(kind):
        tcp.bind(address)
    with pytest.raises(kind):
        tcp.connect(address, lambda h, e: None)
    with pytest.raises(uv.error.TCPError):
        tcp.fileno()


def test_bad_arguments(loop):
    tcp = uv.TCP(loop)
    for call in (tcp.bind, tcp.connect, tcp.open, tcp.listen, tcp.start_read,
                 tcp.accept, tcp.write, tcp.try_write):
        with pytest.raises(TypeError):
            call()
    for call, args in ((tcp.connect, (("127.0.0.1", 1), None)),
                       (tcp.listen, (None,)), (tcp.listen, (print, "x")),
                       (tcp.start_read, (1,)), (tcp.accept, (1,)),
                       (tcp.accept, (uv.Timer(loop),)),
                       (tcp.shutdown, (1,)), (tcp.write, (b"x", 1)),
                       (tcp.open, ("x",)), (tcp.open, (None,))):
        with pytest.raises(TypeError):
            call(*args)
    with pytest.raises(ValueError):
        tcp.listen(print, -1)
    with pytest.raises(TypeError):
        uv.TCP()
    with pytest.raises(TypeError):
        uv.TCP(loop, "inet")
    with pytest.raises((ValueError, uv.error.TCPError)):
        uv.TCP(loop, 200)


def test_no_socket_yet(loop):
    tcp = uv.TCP(loop)
    for call in (tcp.fileno, tcp.getsockname, tcp.getpeername, tcp.shutdown,
                 tcp.close_reset):
        with pytest.raises(uv.error.TCPError):
            call()
    with pytest.raises(uv.error.TCPError):
        tcp.family
    with pytest.raises(uv.error.TCPError):
        tcp.send_buffer_size
    with pytest.raises(uv.error.TCPError):
        tcp.start_read(lambda *args: None)
    with pytest.raises(uv.error.TCPError):
        tcp.write(b"x")
    with pytest.raises(uv.error.TCPError):
        tcp.write(b"x", lambda h, e: None)
    with pytest.raises(uv.error.TCPError):
        tcp.try_write(b"x")
    with pytest.raises(uv.error.TCPError):
        tcp.set_blocking(True)
    tcp.stop_read()
    assert tcp.readable is False and tcp.writable is False
    assert tcp.write_queue_size == 0


def test_closed(loop):
    tcp = uv.TCP(loop, socket.AF_INET)
    tcp.close()
    calls = [(tcp.bind, (("127.0.0.1", 0),)), (tcp.listen, (print,)),
             (tcp.connect, (("127.0.0.1", 1), print)), (tcp.open, (0,)),
             (tcp.start_read, (print,)), (tcp.stop_read, ()),
             (tcp.write, (b"x",)), (tcp.try_write, (b"x",)),
             (tcp.shutdown, ()), (tcp.getsockname, ()), (tcp.fileno, ()),
             (tcp.nodelay, (True,)), (tcp.keepalive, (True, 1)),
             (tcp.accept, (uv.TCP(loop),)), (tcp.close_reset, ())]
    for _ in range(2):
        for call, args in calls:
            with pytest.raises(uv.error.HandleClosedError):
                call(*args)
        loop.run(uv.UV_RUN_NOWAIT)


def test_address_in_use(loop):
    first = listening(loop, lambda s, e: None)
    second = uv.TCP(loop)
    second.bind(first.getsockname())
    with pytest.raises(uv.error.TCPError) as caught:
        second.listen(lambda s, e: None)
    assert caught.value.errno == errno.EADDRINUSE
    assert isinstance(caught.value, OSError)


def test_family_makes_the_socket_at_once(loop):
    tcp = uv.TCP(loop, socket.AF_INET)
    assert tcp.fileno() >= 0 and tcp.family == socket.AF_INET


def test_keepalive_ex(loop):
    tcp = uv.TCP(loop, socket.AF_INET)
    with socket.socket(fileno=os.dup(tcp.fileno())) as sock:
        def values():
            return [sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)] + [
                sock.getsockopt(socket.IPPROTO_TCP, name) for name in (
                    socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)]

        tcp.keepalive_ex(True, 30, 5, 4)
        assert values() == [1, 30, 5, 4]
        tcp.keepalive_ex(True)
        assert values() == [1, 60, 1, 10]
        tcp.keepalive_ex(False)
        assert values()[0] == 0
    for bad in (0, -1, 1 << 40):
        with pytest.raises(ValueError):
            tcp.keepalive_ex(True, bad)
    for args in ((), (True, "x"), (True, 1, 1, 1, 1)):
        with pytest.raises(TypeError):
            tcp.keepalive_ex(*args)
    with pytest.raises(uv.error.TCPError) as caught:
        uv.TCP(loop).keepalive_ex(True)
    assert caught.value.args[0] == uv.errno.UV_EBADF


def test_options(loop):
    tcp = uv.TCP(loop, socket.AF_INET)
    sock = socket.socket(fileno=os.dup(tcp.fileno()))
    with sock:
        tcp.nodelay(True)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        tcp.keepalive(True, 60)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        tcp.receive_buffer_size = 20000
        assert tcp.receive_buffer_size == 40000
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 40000
        with pytest.raises(TypeError):
            del tcp.send_buffer_size
        with pytest.raises(TypeError):
            tcp.send_buffer_size = "x"
        with pytest.raises(ValueError):
            tcp.send_buffer_size = -1


def test_open_takes_the_descriptor_over(loop):
    a, b = socket.socketpair()
    with b:
        tcp = uv.TCP(loop)
        fd = a.detach()
        tcp.open(fd)
        assert tcp.fileno() == fd
        tcp.write(b"x")
        assert b.recv(10) == b"x"
        inode = os.fstat(fd).st_ino
        tcp.close()
        loop.run_checked()
        assert b.recv(10) == b""
        try:
            assert os.fstat(fd).st_ino != inode
        except OSError as e:
            assert e.errno == errno.EBADF


def test_open_refuses(loop, tmp_path):
    tcp = uv.TCP(loop)
    with socket.socket() as sock:
        dead = sock.fileno()
    with pytest.raises(uv.error.TCPError) as caught:
        tcp.open(dead)
    assert caught.value.errno == errno.EBADF
    with pytest.raises((ValueError, OverflowError)):
        tcp.open(-1)
    with open(tmp_path / "file", "wb") as file:
        with pytest.raises(uv.error.TCPError) as caught:
            tcp.open(file.fileno())
        assert caught.value.errno == errno.ENOTSOCK
        file.write(b"still usable")


def test_open_of_a_descriptor_in_use(loop):
    a, b = socket.socketpair()
    with a, b:
        first = uv.Poll(loop, a)
        first.start(uv.UV_READABLE, lambda *args: None)
        loop.run(uv.UV_RUN_NOWAIT)
        tcp = uv.TCP(loop)
        with pytest.raises(uv.error.TCPError) as caught:
            tcp.open(a.fileno())
        assert caught.value.errno == errno.EEXIST
        first.close()
        loop.run(uv.UV_RUN_NOWAIT)


def test_open_twice(loop):
    a, b = socket.socketpair()
    c, d = socket.socketpair()
    with b, c, d:
        tcp = uv.TCP(loop)
        tcp.open(a.detach())
        with pytest.raises(uv.error.TCPError) as caught:
            tcp.open(c.fileno())
        assert caught.value.errno == errno.EBUSY
        c.send(b"x")
        assert d.recv(1) == b"x"


def test_close_reset(loop):
    server = listening(loop, lambda server, error: accepted(server))
    closed = []

    def accepted(server):
        client = uv.TCP(loop)
        server.accept(client)
        client.close_reset(closed.append)
        server.close()

    with socket.socket() as sock:
        sock.connect(server.getsockname())
        loop.run_checked()
        assert len(closed) == 1 and closed[0].closed
        with pytest.raises(ConnectionResetError):
            sock.recv(1)


def test_reset_reaches_the_reader(loop):
    seen = []

    def on_connection(server, error):
        client = uv.TCP(loop)
        server.accept(client)
        client.start_read(lambda h, data, error: (seen.append((data, error)),
                                                  h.close()))
        server.close()

    server = listening(loop, on_connection)
    with socket.socket() as sock:
        sock.connect(server.getsockname())
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                        struct.pack("ii", 1, 0))
    loop.run_checked()
    assert seen == [(None, uv.errno.UV_ECONNRESET)]


def test_accept_checks_its_client(loop):
    seen = []

    def on_connection(server, error):
        other = uv.Loop()
        with pytest.raises(ValueError, match="another loop"):
            server.accept(uv.TCP(other))
        with pytest.raises(ValueError, match="in use"):
            server.accept(uv.TCP(loop, socket.AF_INET))
        with pytest.raises(RuntimeError):
            server.accept(uv.TCP.__new__(uv.TCP))
        with pytest.raises(ValueError):
            server.accept(server)
        client = uv.TCP(loop)
        server.accept(client)
        with pytest.raises(uv.error.TCPError) as caught:
            server.accept(uv.TCP(loop))
        seen.append(caught.value.args[0])
        client.close()
        server.close()

    server = listening(loop, on_connection)
    with socket.create_connection(server.getsockname()):
        loop.run_checked()
    assert seen == [uv.errno.UV_EAGAIN]


def test_listening_server_without_a_name_stays(loop):
    address = listening(loop, lambda s, e: s.close()).getsockname()
    gc.collect()
    assert len(loop.handles) == 1
    with socket.create_connection(address):
        loop.run_checked()


def test_listening_socket_that_somebody_shuts_down(loop):
    """libuv would call accept() for ever."""
    seen = []
    server = listening(loop, lambda s, error: seen.append(error))
    loop.run(uv.UV_RUN_NOWAIT)
    with socket.socket(fileno=os.dup(server.fileno())) as sock:
        sock.shutdown(socket.SHUT_RDWR)
    loop.run_checked()
    assert seen == [uv.errno.UV_EINVAL]
    assert server.closed


def test_wrong_thread(loop):
    tcp = uv.TCP(loop, socket.AF_INET)
    errors = []

    def other():
        for call in (lambda: tcp.bind(("127.0.0.1", 0)), tcp.getsockname,
                     lambda: uv.TCP(loop)):
            try:
                call()
            except RuntimeError as e:
                errors.append(e)

    def on_timer(timer):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()

    uv.Timer(loop).start(on_timer, 0, 0)
    loop.run_checked()
    assert len(errors) == 3


def test_listen_and_connect_do_not_mix(loop):
    server = listening(loop, lambda s, e: None)
    with pytest.raises(uv.error.TCPError) as caught:
        server.connect(server.getsockname(), lambda h, e: None)
    assert caught.value.errno == errno.EINVAL
    client = uv.TCP(loop)
    client.connect(server.getsockname(), lambda h, e: None)
    assert client.readable is False
    with pytest.raises(uv.error.TCPError) as caught:
        client.listen(lambda s, e: None)
    assert caught.value.errno == errno.EINVAL


def test_start_read_of_an_opened_listener(loop):
    sock = socket.create_server(("127.0.0.1", 0))
    tcp = uv.TCP(loop)
    tcp.open(sock.detach())
    tcp.listen(lambda s, e: None)
    with pytest.raises(uv.error.TCPError) as caught:
        tcp.start_read(lambda *args: None)
    assert caught.value.errno == errno.EINVAL


def test_callbacks_of_pending_requests_are_collected_with_the_loop():
    def once():
        loop = uv.Loop()
        tcp, pipe = uv.TCP(loop), uv.Pipe(loop)
        tcp.connect(("127.0.0.1", 9), lambda h, e: loop.stop())
        pipe.connect("nowhere", lambda h, e: loop.stop())
        a, b = socket.socketpair()
        b.close()
        stream = uv.Pipe(loop)
        stream.open(a.detach())
        stream.write(b"x", lambda h, e: loop.stop())
        stream.shutdown(lambda h, e: loop.stop())
        return weakref.ref(loop)

    refs = [once() for _ in range(10)]
    gc.collect()
    assert [ref() for ref in refs] == [None] * 10
