"""uv.Pipe against real sockets, pipes and terminals; socketpair() and pipe()."""

import ctypes
import gc
import os
import pathlib
import pty
import socket
import stat
import struct
import subprocess
import sys
import threading
import weakref

import pytest

from uvtulip import uv

UV = uv.errno


@pytest.fixture
def path(tmp_path, monkeypatch):
    """A short path, whatever the folder of the test is."""
    monkeypatch.chdir(tmp_path)
    return "sock"


def nothing(*args):
    raise AssertionError(f"called with {args}")


def code_of(call, *args):
    with pytest.raises(uv.error.PipeError) as caught:
        call(*args)
    assert caught.value.args[0] < 0
    return caught.value.args[0]


def listening(loop, path, on_connection=nothing):
    server = uv.Pipe(loop)
    server.bind(path)
    server.listen(on_connection)
    return server


def echo_server(loop, path):
    """Echoes, closes a connection at its end, and itself after one of them."""
    def on_connection(server, error):
        assert error is None
        client = uv.Pipe(loop)
        server.accept(client)
        assert client.getsockname() == path
        client.start_read(on_read)
        server.close()

    def on_read(handle, data, error):
        if data is not None:
            handle.write(data)
        else:
            assert error == UV.UV_EOF
            handle.close()

    return listening(loop, path, on_connection)


def opened(loop):
    """A Pipe and a socket, connected."""
    a, b = socket.socketpair()
    b.settimeout(10)
    handle = uv.Pipe(loop)
    handle.open(a.detach())
    return handle, b


# ---- bind, connect ----


@pytest.mark.parametrize("kind", [str, os.fsencode, pathlib.Path])
def test_connect_echo_close(loop, path, kind):
    server = echo_server(loop, path)
    assert server.getsockname() == path
    client = uv.Pipe(loop)
    events = []

    def on_connect(handle, error):
        assert handle is client and error is None
        assert client.readable and client.writable
        assert client.getpeername() == path and client.getsockname() == ""
        client.start_read(on_read)
        client.write(b"hello")

    def on_read(handle, data, error):
        events.append((data, error))
        client.close(lambda h: events.append("closed"))

    assert not client.readable and not client.writable
    client.connect(kind(path), on_connect)
    assert events == []
    loop.run_checked()
    assert events == [(b"hello", None), "closed"]


@pytest.mark.parametrize("kind", [str, os.fsencode, pathlib.Path])
def test_bind_kinds_of_names(loop, path, kind):
    server = listening(loop, kind(path))
    assert stat.S_ISSOCK(os.stat(path).st_mode)
    server.close()
    loop.run_checked()
    assert not os.path.exists(path)


def test_names_that_are_no_utf8(loop, path):
    name = b"caf\xe9"
    server = listening(loop, name, lambda s, error: None)
    assert server.getsockname() == os.fsdecode(name)
    other = uv.Pipe(loop)
    seen = []
    other.connect(os.fsdecode(name), lambda h, error: seen.append(error))
    loop.run(uv.UV_RUN_NOWAIT)
    assert seen == [None]


@pytest.mark.parametrize("name, code", [
    ("nobody", UV.UV_ENOENT), ("left", UV.UV_ECONNREFUSED),
    ("left/sock", UV.UV_ENOTDIR), ("file", UV.UV_ECONNREFUSED),
])
def test_connect_fails_in_the_callback(loop, path, name, code):
    with socket.socket(socket.AF_UNIX) as left:
        left.bind("left")
    pathlib.Path("file").touch()
    handle = uv.Pipe(loop)
    seen = []
    assert handle.connect(name, lambda h, error: seen.append((h, error))) is None
    assert seen == []
    loop.run_checked()
    assert seen == [(handle, code)]
    assert not handle.readable and not handle.active
    assert not handle.closed


def test_connect_again_after_a_failure(loop, path):
    """The second one gives a stream that can be read and written."""
    handle = uv.Pipe(loop)
    seen = []
    handle.connect(path, lambda h, error: seen.append(error))
    loop.run_checked()
    echo_server(loop, path)

    def on_connect(handle, error):
        assert error is None
        assert handle.readable and handle.writable
        handle.start_read(lambda h, data, error: (seen.append(data), h.close()))
        handle.write(b"again")

    handle.connect(path, on_connect)
    loop.run_checked()
    assert seen == [UV.UV_ENOENT, b"again"]


def test_connect_of_a_bound_handle(loop, path):
    echo_server(loop, path)
    seen = []
    handle = uv.Pipe(loop)
    handle.bind("client")

    def on_connect(handle, error):
        assert error is None
        handle.start_read(lambda h, data, error: (seen.append(data), h.close()))
        handle.write(b"bound")

    handle.connect(path, on_connect)
    loop.run_checked()
    assert seen == [b"bound"]


def test_connect_in_wrong_states(loop, path):
    server = listening(loop, path, lambda s, e: None)
    assert code_of(server.connect, path, nothing) == UV.UV_EINVAL
    handle = uv.Pipe(loop)
    seen = []
    handle.connect(path, lambda h, error: seen.append(error))
    assert code_of(handle.connect, path, nothing) == UV.UV_EALREADY
    loop.run(uv.UV_RUN_NOWAIT)
    assert seen == [None]
    assert code_of(handle.connect, path, nothing) == UV.UV_EISCONN
    assert code_of(handle.bind, "other") == UV.UV_EINVAL
    pair, sock = opened(loop)
    with sock:
        assert code_of(pair.connect, path, nothing) == UV.UV_EISCONN
        assert code_of(pair.bind, "other") == UV.UV_EINVAL
    assert not os.path.exists("other")


def test_listen_while_connecting(path):
    """libuv would abort: tried in a process of its own."""
    code = """if True:
        from uvtulip import uv
        loop = uv.Loop()
        pipe = uv.Pipe(loop)
        pipe.bind("here")
        pipe.connect("nowhere", lambda handle, error: print("connect", error))
        try:
            pipe.listen(print)
        except uv.error.PipeError as error:
            print("listen", error.args[0])
        loop.run(uv.UV_RUN_NOWAIT)
        """
    child = subprocess.run([sys.executable, "-c", code], capture_output=True,
                           text=True, timeout=30)
    assert child.stderr == "" and child.returncode == 0
    assert child.stdout.split() == ["listen", str(UV.UV_EINVAL), "connect",
                                    str(UV.UV_ENOENT)]


def test_connect_cancelled_by_close(loop, path):
    listening(loop, path, lambda s, e: None).ref = False
    for target in (path, "nowhere"):
        handle = uv.Pipe(loop)
        events = []
        handle.connect(target, lambda h, error, events=events: events.append(error))
        handle.close(lambda h, events=events: events.append("closed"))
        loop.run(uv.UV_RUN_NOWAIT)
        assert events == [UV.UV_ECANCELED, "closed"]


def test_connecting_handle_stays_alive(loop, path):
    done = []
    handle = uv.Pipe(loop)
    ref = weakref.ref(handle)
    handle.connect(path, lambda h, error: done.append(error))
    del handle
    gc.collect()
    assert ref() is not None
    loop.run_checked()
    gc.collect()
    assert done == [UV.UV_ENOENT] and ref() is None


def test_callback_closes_and_raises(loop, path):
    def on_connect(handle, error):
        handle.close()
        raise ZeroDivisionError

    uv.Pipe(loop).connect(path, on_connect)
    with pytest.raises(ZeroDivisionError):
        loop.run_checked()
    loop.run_checked()


def test_bind_fails(loop, path):
    first = uv.Pipe(loop)
    first.bind(path)
    assert code_of(first.bind, "other") == UV.UV_EINVAL
    second = uv.Pipe(loop)
    assert code_of(second.bind, path) == UV.UV_EADDRINUSE
    assert code_of(second.bind, "no/such/folder") == UV.UV_EACCES
    second.bind("other")        # still usable
    assert second.getsockname() == "other"
    second.close()
    loop.run_checked()
    assert os.listdir() == [path]


def test_names_at_the_limit(loop, path):
    """Whole or not at all: never cut."""
    longest = "x" * 107
    server = echo_server(loop, longest)
    assert server.getsockname() == longest
    assert os.listdir() == [longest]
    client = uv.Pipe(loop)
    seen = []
    client.connect(longest, lambda h, error: (seen.append(error), h.close()))
    loop.run_checked()
    assert seen == [None]
    handle = uv.Pipe(loop)
    for name in ("x" * 108, "x" * 109, "y" * 5000):
        assert code_of(handle.bind, name) == UV.UV_ENAMETOOLONG
        assert code_of(handle.connect, name, nothing) == UV.UV_ENAMETOOLONG
    assert os.listdir() == []
    loop.run_checked()


def test_peer_with_a_name_that_fills_its_room(loop, path):
    """108 bytes and no NUL at the end."""
    name = "n" * 108
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        with socket.socket(socket.AF_UNIX) as client:
            # The socket module leaves room for a NUL, the kernel wants none.
            address = struct.pack("=H108s", socket.AF_UNIX, name.encode())
            bind = ctypes.CDLL(None, use_errno=True).bind
            assert bind(client.fileno(), address, len(address)) == 0
            client.connect(path)
            connection, _ = server.accept()
            handle = uv.Pipe(loop)
            handle.open(connection.detach())
            assert handle.getpeername() == name
            assert handle.getsockname() == path


@pytest.fixture
def abstract():
    return f"\0uvtulip\0test {os.getpid()}"


@pytest.mark.parametrize("kind", [str, os.fsencode])
def test_abstract_name(loop, abstract, kind):
    server = echo_server(loop, abstract)
    assert server.getsockname() == abstract
    assert not server.readable and not server.writable
    client = uv.Pipe(loop)
    events = []

    def on_connect(handle, error):
        assert handle is client and error is None
        assert handle.readable and handle.writable
        assert handle.getpeername() == abstract
        handle.start_read(on_read)
        handle.write(b"hello")

    def on_read(handle, data, error):
        events.append(data)
        handle.close()

    assert client.connect(kind(abstract), on_connect) is None
    assert events == []
    loop.run_checked()
    assert events == [b"hello"]


def test_abstract_name_with_another_program(loop, abstract):
    listening(loop, abstract, lambda server, error: None).ref = False
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(abstract)
        assert client.getpeername() == abstract.encode()


def test_abstract_large_write_in_the_connect_callback(loop, abstract):
    got = []

    def on_connection(server, error):
        client = uv.Pipe(loop)
        server.accept(client)
        client.start_read(on_read)
        server.close()

    def on_read(handle, data, error):
        if data is None:
            handle.close()
        else:
            got.append(data)

    listening(loop, abstract, on_connection)
    seen = []

    def on_connect(handle, error):
        handle.write(bytes(1 << 20), lambda h, error: (seen.append(error), h.close()))

    uv.Pipe(loop).connect(abstract, on_connect)
    loop.run_checked()
    assert seen == [None] and sum(map(len, got)) == 1 << 20


def test_abstract_connect_fails_in_the_callback(loop, abstract):
    handle = uv.Pipe(loop)
    seen = []
    assert handle.connect(abstract, lambda h, error: seen.append((h, error))) is None
    assert seen == []
    assert code_of(handle.connect, abstract, nothing) == UV.UV_EALREADY
    loop.run_checked()
    assert seen == [(handle, UV.UV_ECONNREFUSED)]
    # and again, when somebody listens
    echo_server(loop, abstract)

    def on_connect(handle, error):
        assert error is None
        handle.start_read(lambda h, data, error: (seen.append(data), h.close()))
        handle.write(b"again")

    handle.connect(abstract, on_connect)
    loop.run_checked()
    assert seen[1:] == [b"again"]


@pytest.mark.parametrize("there", [False, True])
def test_abstract_connect_cancelled_by_close(loop, abstract, there):
    if there:
        listening(loop, abstract, lambda s, error: None).ref = False
    handle = uv.Pipe(loop)
    events = []
    handle.connect(abstract, lambda h, error: events.append(error))
    handle.close(lambda h: events.append("closed"))
    loop.run(uv.UV_RUN_NOWAIT)
    assert events == [UV.UV_ECANCELED, "closed"]


def test_abstract_bind_fails(loop, abstract):
    first = uv.Pipe(loop)
    first.bind(abstract)
    assert code_of(first.bind, abstract + "x") == UV.UV_EINVAL
    assert code_of(uv.Pipe(loop).bind, abstract) == UV.UV_EADDRINUSE
    assert code_of(first.chmod, uv.UV_READABLE) < 0


def test_abstract_connect_of_a_bound_handle(loop, abstract):
    echo_server(loop, abstract)
    handle = uv.Pipe(loop)
    handle.bind(abstract + "client")
    seen = []

    def on_connect(handle, error):
        assert error is None
        handle.start_read(lambda h, data, error: (seen.append(data), h.close()))
        handle.write(b"bound")

    handle.connect(abstract, on_connect)
    loop.run_checked()
    assert seen == [b"bound"]


def test_abstract_names_at_the_limit(loop):
    longest = ("\0" + f"uvtulip {os.getpid()} " + "x" * 108)[:108]
    assert listening(loop, longest).getsockname() == longest
    handle = uv.Pipe(loop)
    assert code_of(handle.bind, longest + "x") == UV.UV_ENAMETOOLONG
    assert code_of(handle.connect, longest + "x", nothing) == UV.UV_ENAMETOOLONG


def test_abstract_peer_is_shown(loop):
    """With libuv of any version, when it comes in by open()."""
    name = f"\0uvtulip test {os.getpid()}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)
        server.listen()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(name)
            handle = uv.Pipe(loop)
            handle.open(client.detach())
            assert handle.getpeername() == name
            assert handle.getsockname() == ""


@pytest.mark.parametrize("name, error", [
    ("", ValueError), (b"", ValueError), ("a\0b", ValueError), (b"a\0", ValueError),
    (None, TypeError), (5, TypeError), (["x"], TypeError), (bytearray(b"x"), TypeError),
])
def test_bad_names(loop, name, error):
    handle = uv.Pipe(loop)
    with pytest.raises(error, match=r"Pipe\.bind"):
        handle.bind(name)
    with pytest.raises(error, match=r"Pipe\.connect"):
        handle.connect(name, nothing)
    assert code_of(handle.fileno) == UV.UV_EBADF


def test_name_that_closes_the_handle(loop):
    class Path:
        def __fspath__(self):
            if not handle.closed:
                handle.close()
            return "never"

    for call in ("bind", "connect"):
        handle = uv.Pipe(loop)
        args = (Path(),) if call == "bind" else (Path(), nothing)
        with pytest.raises(uv.error.HandleClosedError):
            getattr(handle, call)(*args)

    class Broken:
        def __fspath__(self):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        uv.Pipe(loop).bind(Broken())


def test_bad_arguments(loop, path):
    handle = uv.Pipe(loop)
    for bad in (None, 5, "callback"):
        with pytest.raises(TypeError):
            handle.connect(path, bad)
    with pytest.raises(TypeError):
        handle.connect(path)
    with pytest.raises(TypeError):
        handle.pending_instances("1")
    with pytest.raises(ValueError):
        handle.pending_instances(-1)
    with pytest.raises(TypeError):
        uv.Pipe()
    with pytest.raises(TypeError):
        uv.Pipe(5)
    with pytest.raises(TypeError):
        uv.Pipe(loop, inter_process=True)


def test_socket_with_the_number_of_one_that_is_still_watched(loop, path):
    echo_server(loop, path)
    loop.run(uv.UV_RUN_NOWAIT)
    first = socket.socket()
    fd = first.fileno()
    told = []
    poll = uv.Poll(loop, fd)
    poll.start(uv.UV_DISCONNECT, lambda h, events, error: told.append(error))
    loop.run(uv.UV_RUN_NOWAIT)
    told.clear()
    first.close()
    client = uv.Pipe(loop)
    seen = []

    def on_connect(handle, error):
        assert error is None
        handle.start_read(lambda h, data, error: (seen.append(data), h.close()))
        handle.write(b"fresh")

    client.connect(path, on_connect)
    assert client.fileno() == fd
    loop.run_checked()
    assert told == [UV.UV_EBADF] and seen == [b"fresh"]


# ---- open ----


def test_open_socket(loop):
    handle, sock = opened(loop)
    with sock:
        got = []
        handle.start_read(lambda h, data, error: (got.append(data), h.close()))
        handle.write(b"out")
        sock.send(b"in")
        loop.run_checked()
        assert got == [b"in"]
        assert sock.recv(10) == b"out"
        assert sock.recv(10) == b""


def test_open_pipe(loop):
    read, write = uv.pipe()
    reader, writer = uv.Pipe(loop), uv.Pipe(loop)
    reader.open(read)
    writer.open(write)
    assert (reader.readable, reader.writable) == (True, False)
    assert (writer.readable, writer.writable) == (False, True)
    for handle in (reader, writer):
        assert code_of(handle.getsockname) == UV.UV_ENOTSOCK
    got = []

    def on_read(handle, data, error):
        got.append((data, error))
        if error is not None:
            handle.close()

    reader.start_read(on_read)
    writer.write(b"through", lambda h, error: h.close())
    loop.run_checked()
    assert got == [(b"through", None), (None, UV.UV_EOF)]


def test_open_fifo(loop, path):
    os.mkfifo(path)
    reader, writer = uv.Pipe(loop), uv.Pipe(loop)
    reader.open(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    writer.open(os.open(path, os.O_WRONLY))
    got = []
    reader.start_read(lambda h, data, error: (got.append(data), h.close()))
    writer.write(b"fifo")
    loop.run_checked()
    assert got == [b"fifo"]


def test_open_terminal(loop):
    master, slave = pty.openpty()
    try:
        handle = uv.Pipe(loop)
        handle.open(os.dup(slave))
        got = []
        handle.start_read(lambda h, data, error: (got.append(data), h.close()))
        os.write(master, b"typed\n")
        loop.run_checked()
        assert got == [b"typed\n"]
    finally:
        os.close(master)
        os.close(slave)


def test_device_that_is_never_full(loop):
    """It cannot be waited for, but written to."""
    for flags in (os.O_WRONLY, os.O_RDWR):
        handle = uv.Pipe(loop)
        handle.open(os.open(os.devnull, flags))
        done = []
        assert handle.try_write(b"x") == 1
        handle.write(bytes(1 << 20), lambda *args, done=done: done.append(args))
        if flags == os.O_RDWR:
            assert code_of(handle.start_read, print) == UV.UV_EPERM
        loop.run_checked()
        assert done == [(handle, None)]
        # No waiting for what an empty piece at the end still needs.
        handle.write([b"x", b""], lambda *args, done=done: done.append(args))
        fd = handle.fileno()
        loop.run_checked()
        assert done[1:] == [(handle, None)]
        assert not handle.closed
        handle.close()
        loop.run_checked()
        with pytest.raises(OSError):
            os.fstat(fd)


def test_open_refuses(loop, path):
    handle = uv.Pipe(loop)
    read, write = os.pipe()
    os.close(read)
    os.close(write)
    assert code_of(handle.open, read) == UV.UV_EBADF
    with open(path, "w") as file:
        assert code_of(handle.open, file) == UV.UV_EINVAL
        file.write("still mine")
    for name in (os.devnull, "/dev/zero"):
        with open(name, "rb") as file:
            assert code_of(handle.open, file) == UV.UV_EINVAL
    for flags in (os.O_RDONLY, os.O_PATH):
        fd = os.open(".", flags)
        assert code_of(handle.open, fd) in (UV.UV_EINVAL, UV.UV_EBADF)
        os.close(fd)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        assert code_of(handle.open, sock) == UV.UV_EPROTOTYPE
    for bad in (None, "0", 1.5, object()):
        with pytest.raises(TypeError):
            handle.open(bad)
    with pytest.raises(ValueError):
        handle.open(-1)
    assert code_of(handle.fileno) == UV.UV_EBADF


def test_open_in_use_twice(loop):
    first, sock = opened(loop)
    with sock:
        for start in (False, True):
            if start:
                first.start_read(nothing)
            assert code_of(uv.Pipe(loop).open, first.fileno()) == UV.UV_EEXIST
        assert code_of(first.open, sock.fileno()) == UV.UV_EBUSY
        poll = uv.Poll(loop, sock.fileno())
        poll.start(uv.UV_READABLE, nothing)
        assert code_of(uv.Pipe(loop).open, sock.fileno()) == UV.UV_EEXIST
        poll.close()


def test_open_internet_socket(loop):
    """A stream like any other, without a name."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        handle = uv.Pipe(loop)
        handle.open(socket.create_connection(server.getsockname()).detach())
        assert handle.getsockname() == handle.getpeername() == ""


def test_pending_writes_are_cancelled_before_the_close_callback(loop):
    handle, sock = opened(loop)
    with sock:
        events = []
        for i in range(3):
            handle.write(bytes(1 << 20),
                         lambda h, error, i=i: events.append((i, error)))
        handle.close(lambda h: events.append("closed"))
        loop.run_checked()
        assert events == [(i, UV.UV_ECANCELED) for i in range(3)] + ["closed"]


def test_collected_while_reading(loop):
    handle, sock = opened(loop)
    with sock:
        got = []
        handle.start_read(lambda h, data, error: (got.append(data), h.close()))
        ref = weakref.ref(handle)
        del handle
        gc.collect()
        sock.send(b"alive")
        loop.run_checked()
        gc.collect()
        assert got == [b"alive"] and ref() is None


# ---- the rest of the methods ----


def test_chmod(loop, path):
    handle = uv.Pipe(loop)
    assert code_of(handle.chmod, uv.UV_READABLE) == UV.UV_EBADF
    handle.bind(path)
    os.chmod(path, 0)
    # Older libuv adds rights, newer replaces them.
    for flags, mode in ((uv.UV_READABLE, 0o444), (uv.UV_WRITABLE, 0o222),
                        (uv.UV_READABLE | uv.UV_WRITABLE, 0o666)):
        handle.chmod(flags)
        assert stat.S_IMODE(os.stat(path).st_mode) & mode == mode
    for bad in (0, 4, 8):
        assert code_of(handle.chmod, bad) == UV.UV_EINVAL
    with pytest.raises(TypeError):
        handle.chmod("rw")
    with pytest.raises(ValueError):
        handle.chmod(-1)
    unnamed, sock = opened(loop)
    with sock, pytest.raises(uv.error.PipeError):
        unnamed.chmod(uv.UV_READABLE)


def test_ipc_and_pending(loop):
    assert uv.Pipe(loop).ipc is False
    assert uv.Pipe(loop, True).ipc is True
    handle = uv.Pipe(loop, ipc=1)
    assert handle.ipc is True
    handle.pending_instances(3)
    assert handle.pending_count() == 0
    assert handle.pending_handle_type() == uv.UV_UNKNOWN_HANDLE


def test_buffer_sizes(loop):
    handle = uv.Pipe(loop)
    for name in ("send_buffer_size", "receive_buffer_size"):
        assert code_of(getattr, handle, name) == UV.UV_EBADF
    handle, sock = opened(loop)
    with sock:
        for name in ("send_buffer_size", "receive_buffer_size"):
            setattr(handle, name, 20000)
            assert getattr(handle, name) in (20000, 40000)
            with pytest.raises(TypeError):
                delattr(handle, name)


METHODS = [
    ("bind", "x"), ("connect", "x", print), ("open", 0), ("getsockname",),
    ("getpeername",), ("chmod", 1), ("pending_instances", 1), ("pending_count",),
    ("pending_handle_type",), ("listen", print), ("start_read", print), ("stop_read",),
    ("write", b"x"), ("try_write", b"x"), ("shutdown",), ("fileno",), ("close",),
    ("accept", uv.Pipe.__new__(uv.Pipe)), ("accept_fd",),
    ("try_write2", b"x", uv.Pipe.__new__(uv.Pipe)), ("writelines", [b"x"]),
]
PROPERTIES = ["ipc", "send_buffer_size", "receive_buffer_size", "readable", "writable"]


def each_use(handle):
    for name, *args in METHODS:
        yield name, lambda name=name, args=args: getattr(handle, name)(*args)
    for name in PROPERTIES:
        yield name, lambda name=name: getattr(handle, name)


def test_every_method_is_tried_below(loop):
    names = {name for name in vars(uv.Pipe) if not name.startswith("_")}
    assert names <= {name for name, _ in each_use(None)}


def test_closed(loop):
    handle = uv.Pipe(loop)
    handle.close()
    for name, use in each_use(handle):
        with pytest.raises(uv.error.HandleClosedError):
            use()
    loop.run_checked()
    for name, use in each_use(handle):
        with pytest.raises(uv.error.HandleClosedError):
            use()


def test_uninitialised(loop, path):
    for name, use in each_use(uv.Pipe.__new__(uv.Pipe)):
        with pytest.raises(RuntimeError):
            use()
    with pytest.raises(RuntimeError):
        listening(loop, path).accept(uv.Pipe.__new__(uv.Pipe))


def test_second_init(loop):
    handle, sock = opened(loop)
    with sock:
        with pytest.raises(RuntimeError):
            handle.__init__(loop)
        assert handle.try_write(b"x") == 1


def test_wrong_thread(loop):
    handle, sock = opened(loop)
    wrong = []

    def in_thread():
        for name, use in each_use(handle):
            try:
                use()
            except RuntimeError:
                continue
            wrong.append(name)

    def on_timer(timer):
        thread = threading.Thread(target=in_thread)
        thread.start()
        thread.join(30)
        assert not thread.is_alive()
        timer.close()

    with sock:
        uv.Timer(loop).start(on_timer, 0, 0)
        loop.run_checked()
    assert wrong == []


# ---- socketpair(), pipe() ----


def test_socketpair():
    for fds, kind in ((uv.socketpair(), socket.SOCK_STREAM),
                      (uv.socketpair(socket.SOCK_DGRAM, 0, True), socket.SOCK_DGRAM),
                      (uv.socketpair(nonblock=True), socket.SOCK_STREAM)):
        a, b = (socket.socket(fileno=fd) for fd in fds)
        with a, b:
            assert a.family == socket.AF_UNIX and a.type == kind
            assert not os.get_inheritable(a.fileno())
            a.send(b"x")
            assert b.recv(9) == b"x"
    blocking = uv.socketpair()
    free = uv.socketpair(nonblock=True)
    assert [os.get_blocking(fd) for fd in blocking + free] == [True, True, False, False]
    for fd in blocking + free:
        os.close(fd)


def test_pipe():
    read, write = uv.pipe()
    assert os.get_blocking(read) and os.get_blocking(write)
    assert not os.get_inheritable(read)
    os.write(write, b"x")
    assert os.read(read, 9) == b"x"
    free = uv.pipe(nonblock=True)
    assert [os.get_blocking(fd) for fd in free] == [False, False]
    for fd in (read, write, *free):
        os.close(fd)


def test_pairs_refuse():
    for bad in ("stream", None, 1.5):
        with pytest.raises(TypeError):
            uv.socketpair(bad)
    with pytest.raises(ValueError):
        uv.socketpair(-1)
    with pytest.raises(uv.error.UVError) as caught:
        uv.socketpair(socket.SOCK_STREAM, 250)
    assert caught.value.args[0] == UV.UV_EPROTONOSUPPORT
    with pytest.raises(TypeError):
        uv.pipe(True, True)
    with pytest.raises(TypeError):
        uv.pipe(block=True)


def test_echo_with_a_child(loop):
    """Two pipes to another program."""
    child = subprocess.Popen([sys.executable, "-S", "-c",
                              "import sys; sys.stdout.write(sys.stdin.read()[::-1])"],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with child:
        to, back = uv.Pipe(loop), uv.Pipe(loop)
        to.open(os.dup(child.stdin.fileno()))
        back.open(os.dup(child.stdout.fileno()))
        child.stdin.close()
        got = []

        def on_read(handle, data, error):
            if error is None:
                got.append(data)
            else:
                assert error == UV.UV_EOF
                handle.close()

        back.start_read(on_read)
        to.write(b"stressed", lambda h, error: h.close())
        loop.run_checked(30)
        assert b"".join(got) == b"desserts"
