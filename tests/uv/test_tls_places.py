"""uv.TLS in unusual places: over terminals, in sub-interpreters, after a fork."""

import array
import fcntl
import gc
import os
import pathlib
import ssl
import subprocess
import sys
import termios
import tty

import pytest

from forksupport import end_child, finish_child, in_child
from rawtls import End, connected, ends, run_until, stream, streams
from tlssupport import authority, certificate, client_context, server_context, tls12
from uvtulip import uv

pytestmark = pytest.mark.usefixtures("raw_tls_backend")

EOF = uv.errno.UV_EOF
CANCELED = uv.errno.UV_ECANCELED
FORKED = "belongs to the parent process.*fork"


class Other:
    """The peer: Python's own SSLObject over a descriptor, without a thread.  It does
    in each turn what can be done without waiting."""

    def __init__(self, fd, server_side=False):
        os.set_blocking(fd, False)
        self.fd = fd
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.object = (server_context() if server_side else client_context()).wrap_bio(
            self.incoming,
            self.outgoing,
            server_side=server_side,
            server_hostname=None if server_side else "localhost",
        )
        self.ready = self.ended = False
        self.data = bytearray()
        self.backlog = bytearray()

    def turn(self):
        self.receive()
        try:
            if not self.ready:
                self.object.do_handshake()
                self.ready = True
            while chunk := self.object.read(1 << 16):
                self.data += chunk
            self.ended = True
        except ssl.SSLZeroReturnError:
            self.ended = True
        except ssl.SSLWantReadError:
            pass
        self.send()
        return self

    def receive(self):
        try:
            while chunk := os.read(self.fd, 1 << 16):
                self.incoming.write(chunk)
        except BlockingIOError:
            pass
        else:
            self.incoming.write_eof()

    def send(self):
        self.backlog += self.outgoing.read()
        try:
            while self.backlog:
                del self.backlog[: os.write(self.fd, self.backlog)]
        except BlockingIOError:
            pass

    def write(self, data):
        view = memoryview(data)
        while view:
            view = view[self.object.write(view) :]
        self.send()

    def shutdown(self):
        """Ours is sent; whether the other one has come, turn() finds out."""
        try:
            self.object.unwrap()
        except ssl.SSLWantReadError:
            pass
        self.send()


def talk(loop, end, other, text):
    """There and back, after whatever has happened."""
    before = len(end.data), len(other.data)
    end.tls.write(text)
    run_until(loop, lambda: len(other.turn().data) == before[1] + len(text))
    other.write(text)
    run_until(loop, lambda: len(end.data) == before[0] + len(text))
    assert bytes(other.data[before[1] :]) == bytes(end.data[before[0] :]) == text


def part(loop, end, other):
    """close_notify from both sides, and nothing behind it."""
    end.tls.shutdown(end.done("shut"))
    run_until(loop, lambda: other.turn().ended and end.events[-1] == ("shut", None))
    other.shutdown()
    run_until(loop, lambda: end.events[-1] == ("end", EOF))


# ---- over a terminal ----


@pytest.fixture
def terminal():
    """(master, slave) of a terminal that changes no byte."""
    master, slave = os.openpty()
    tty.setraw(slave)
    yield master, slave
    for fd in (slave, master):
        os.close(fd)


@pytest.mark.parametrize("change", [tls12, lambda context: context])
def test_two_terminals(loop, terminal, change):
    handles = uv.TTY(loop, terminal[0]), uv.TTY(loop, terminal[1])
    server = End(uv.TLS(handles[0], server_context(), True))
    client = End(
        uv.TLS(handles[1], change(client_context()), server_hostname="localhost")
    )
    connected(loop, server, client)
    assert server.tls.stream is handles[0] and "TTY" in repr(server.tls)
    # All bytes that a terminal could take for something else.
    text = bytes(range(256)) * 4
    server.tls.write(text, server.done("written"))
    run_until(loop, lambda: client.data == text)
    client.tls.write(text * 400, client.done("written"))
    run_until(loop, lambda: len(server.data) == 400 * len(text))
    run_until(loop, lambda: server.events[1:] and client.events[1:])
    assert server.data == text * 400
    for end in (server, client):
        end.tls.shutdown(end.done("shut"))
    run_until(loop, lambda: len(server.events) == len(client.events) == 4)
    for end in (server, client):
        assert end.events[1] == ("written", None)
        assert sorted(end.events[2:]) == [("end", EOF), ("shut", None)]


@pytest.mark.parametrize("server_side", [False, True])
def test_terminal_against_python(loop, terminal, server_side):
    """Much more than a terminal holds, in both directions at once."""
    master, slave = terminal
    data = os.urandom(300_000)
    handle = uv.TTY(loop, slave)
    if server_side:
        tls = uv.TLS(handle, server_context(), True)
    else:
        tls = uv.TLS(handle, client_context(), server_hostname="localhost")
    end = End(tls)
    other = Other(master, not server_side)
    run_until(loop, lambda: other.turn().ready and end.events)
    other.write(data)
    tls.write(data, end.done("written"))
    run_until(loop, lambda: len(other.turn().data) + len(end.data) == 2 * len(data))
    assert other.data == end.data == data
    assert end.events == [("handshake", None), ("written", None)]
    part(loop, end, other)
    # Neither side of a terminal can be shut: only TLS has ended.
    handle.close()
    assert tls.closed


def test_terminal_that_nobody_reads(loop, terminal):
    """What the terminal does not take waits, and not as ciphertext."""
    master, slave = terminal
    end = End(uv.TLS(uv.TTY(loop, slave), server_context(), True))
    other = Other(master)
    run_until(loop, lambda: other.turn().ready and end.events)
    end.tls.write(bytes(2_000_000), end.done("written"))
    end.tls.shutdown(end.done("shut"))
    for _ in range(20):
        loop.run(uv.UV_RUN_NOWAIT)
    assert end.tls.write_queue_size > 1_500_000
    assert end.tls.stream.write_queue_size < 600_000
    with pytest.raises(uv.error.TLSError):
        end.tls.try_write(b"x")
    end.tls.close()
    loop.run_checked()
    assert end.events[1:] == [("written", CANCELED), ("shut", CANCELED)]


def test_terminal_that_hangs_up(loop):
    """It is not taken for the end of what the peer had to say."""
    master, slave = os.openpty()
    tty.setraw(slave)
    end = End(uv.TLS(uv.TTY(loop, slave), server_context(), True))
    os.close(slave)
    other = Other(master)
    run_until(loop, lambda: other.turn().ready and end.events)
    other.write(b"the last")
    run_until(loop, lambda: end.data == b"the last")
    os.close(master)
    run_until(loop, lambda: len(end.events) == 2)
    assert end.error == uv.errno.UV_EIO or isinstance(end.error, ssl.SSLEOFError)


def test_mode_of_a_terminal(loop):
    """It is set before; closing TLS gives the terminal its own mode back."""
    def flags():
        return termios.tcgetattr(slave)[3] & (termios.ICANON | termios.ECHO)

    master, slave = os.openpty()
    before = flags()
    handle = uv.TTY(loop, slave)
    handle.set_mode(uv.UV_TTY_MODE_IO)
    end = End(uv.TLS(handle, server_context(), True))
    other = Other(master)
    run_until(loop, lambda: other.turn().ready and end.events)
    with pytest.raises(RuntimeError):
        handle.set_mode(uv.UV_TTY_MODE_NORMAL)
    assert handle.mode == uv.UV_TTY_MODE_IO and not flags()
    talk(loop, end, other, bytes(range(256)))
    end.tls.close()
    assert flags() == before != 0
    os.close(master)
    os.close(slave)


# ---- in a sub-interpreter ----

own_gil = pytest.mark.skipif(
    sys.version_info < (3, 13),
    reason="the standard library is not safe there before Python 3.13",
)

# Both ends in one loop; FILES and PORTABLE come before it.
ENDS = """if True:
    import ssl
    from uvtulip import _uv, uv

    assert _uv._tls_backend(PORTABLE) == ("memory-bio" if PORTABLE else "openssl")
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(FILES[0])
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_context.load_verify_locations(FILES[1])

    class Loop(uv.Loop):
        def excepthook(self, kind, value, traceback):
            failures.append(value)
            self.stop()

    def make(kind=uv.Pipe):
        one, two = kind(loop), kind(loop)
        fds = uv.socketpair()
        one.open(fds[0])
        two.open(fds[1])
        return (uv.TLS(one, server_context, True),
                uv.TLS(two, client_context, server_hostname="localhost"))

    failures = []
    loop = Loop()
    """

# Messages there and back, then close_notify.
ECHO = ENDS + """
    seen = []

    def echo(tls, data, error):
        if data is None:
            assert error == uv.errno.UV_EOF, error
            tls.shutdown(lambda tls, error: tls.close())
        else:
            tls.write(data)

    def on_read(tls, data, error):
        if data is None:
            assert error == uv.errno.UV_EOF, error
            tls.close(seen.append)
        else:
            seen.append(data)
            if len(seen) == 300:
                tls.shutdown()
            else:
                tls.write(b"%d" % len(seen) * 1000)

    def begin(tls, error):
        assert error is None, error
        tls.start_read(on_read)
        tls.write(b"first")

    def refuse(tls, error):
        assert isinstance(error, ssl.SSLCertVerificationError), error
        tls.close(seen.append)

    server, client = make()
    server.handshake(lambda tls, error: tls.start_read(echo))
    client.handshake(begin)
    loop.run()
    assert not failures and len(seen) == 301 and seen[-1] is client, failures
    # And what goes wrong is an exception of this interpreter's ssl.
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    server, client = make()
    server.handshake(lambda tls, error: tls.close())
    client.handshake(refuse)
    loop.run()
    assert not failures and seen[-1] is client, failures
    loop.close()
    """

# The interpreter ends with connections in every state, each in a cycle.
LEAVE = ENDS + """
    new, begun, busy = make(), make(), make()
    told = []
    for tls in (*new, *begun, *busy):
        tls.me = tls
    for tls in busy:
        tls.handshake(lambda tls, error: told.append(error))
    while len(told) < 2:
        loop.run(uv.UV_RUN_ONCE)
    assert told == [None, None] and not failures
    busy[0].start_read(lambda tls, data, error: told.append(tls))
    busy[0].write(bytes(10_000_000), lambda tls, error: told.append(tls))
    busy[0].shutdown(lambda tls, error: told.append(tls))
    for tls in begun:
        tls.handshake(lambda tls, error: told.append(tls))
    begun[0].write(b"waits", lambda tls, error: told.append(tls))
    objects = [tls.ssl_object for tls in (*new, *begun, *busy)]
    """


@pytest.fixture
def preface(tmp_path, raw_tls_backend):
    """What the pieces of code above need."""
    files = str(tmp_path / "leaf"), str(tmp_path / "ca")
    certificate("localhost").private_key_and_cert_chain_pem.write_to_path(files[0])
    authority().cert_pem.write_to_path(files[1])
    return f"FILES, PORTABLE = {files!r}, {raw_tls_backend == 'memory-bio'!r}\n"


def run(code, *args):
    """The code in a process of its own, which may import what tests share."""
    path = str(pathlib.Path(__file__).parent.parent)
    child = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-W", "error", "-c", code, *args],
        capture_output=True,
        text=True,
        timeout=50,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(
            filter(None, [os.environ.get("PYTHONPATH"), path]))},
    )
    assert (child.returncode, child.stdout, child.stderr) == (0, "well\n", "")


INTERPRETERS = """if True:
    import sys
    import threading
    import _interpreters

    failures = []

    def run(*codes):
        interpreter = _interpreters.create("isolated")
        try:
            for code in codes:
                error = _interpreters.exec(interpreter, code)
                if error is not None:
                    failures.append(error.errdisplay)
        finally:
            _interpreters.destroy(interpreter)

    """


@own_gil
def test_in_subinterpreters(preface):
    """Several at the same time, beside the first one, and again after that."""
    run(INTERPRETERS + """
    echo = sys.argv[1]
    for _ in range(2):
        threads = [threading.Thread(target=run, args=(echo,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        exec(echo, {})
        for thread in threads:
            thread.join()
    print(*failures or ["well"])
    """, preface + ECHO)


@own_gil
def test_subinterpreter_that_ends_with_open_connections(preface):
    run(INTERPRETERS + """
    echo, leave = sys.argv[1:]
    for _ in range(2):
        run(leave)
        run(echo, leave)
    exec(echo, {})
    print(*failures or ["well"])
    """, preface + ECHO, preface + LEAVE)


# ---- after a fork ----


def queued(sock):
    """How many bytes wait to be read there."""
    count = array.array("i", [0])
    fcntl.ioctl(sock, termios.FIONREAD, count)
    return count[0]


def with_peer(loop, read=True):
    """A server's end and its peer, after the handshake, with nothing on the wire."""
    handle, sock = stream(loop)
    end = End(uv.TLS(handle, server_context(), True), read)
    other = Other(sock.fileno())
    run_until(loop, lambda: other.turn().ready and end.events)
    other.turn()
    assert end.events == [("handshake", None)] and queued(sock) == 0
    return end, other, sock


def test_every_use_after_a_fork(loop):
    end, other, sock = with_peer(loop)
    tls = end.tls
    mine, theirs = streams(loop)
    uses = [
        lambda: tls.handshake(print),
        lambda: tls.start_read(print),
        tls.stop_read,
        lambda: tls.write(b"x"),
        lambda: tls.writelines([b"x", b"y"], print),
        lambda: tls.try_write(b"x"),
        tls.shutdown,
        lambda: tls.shutdown(print),
        tls.close,
        tls.__enter__,
        tls.getpeercert,
        tls.cipher,
        tls.version,
        tls.selected_alpn_protocol,
        lambda: tls.readable,
        lambda: tls.writable,
        lambda: tls.write_queue_size,
        lambda: setattr(tls, "ref", False),
        tls.stream.close,
        lambda: uv.TLS(mine, server_context(), True),
    ]

    def child():
        for use in uses:
            with pytest.raises(RuntimeError, match=FORKED):
                use()
        tls.__exit__(None, None, None)
        assert not tls.active and not tls.closed and tls.loop is loop
        assert "idle" in repr(tls)
        # The SSLObject still tells what it knows, and says nothing to the peer.
        assert tls.ssl_object.version() == "TLSv1.3"
        tls.ssl_object.write(b"to nobody")

    in_child(child)
    assert queued(sock) == 0 and tls.active
    mine.close()
    theirs.close()
    talk(loop, end, other, b"still here")
    part(loop, end, other)
    sock.close()


@pytest.mark.parametrize("how", ["close", "collect", "exit"])
@pytest.mark.parametrize("state", ["new", "handshake", "open", "waiting", "shut"])
def test_fork_and_the_end_of_the_childs_copy(loop, state, how):
    """It sends nothing, and the parent goes on where it was."""
    handle, sock = stream(loop)
    tls = uv.TLS(handle, server_context(), True)
    other = Other(sock.fileno())
    end = End(tls) if state != "new" else None
    total = 3_000_000 if state == "waiting" else 0
    if state != "new":
        other.turn()
        loop.run(uv.UV_RUN_NOWAIT)          # the server's part is on the wire
        assert end.events == [] and queued(sock) > 0
    if state in ("open", "waiting", "shut"):
        run_until(loop, lambda: other.turn().ready and end.events)
        other.turn()
    if state == "waiting":
        tls.write(bytes(total), end.done("written"))
    elif state == "shut":
        tls.shutdown(end.done("shut"))      # said and not told of yet
    before = queued(sock)

    def child():
        nonlocal tls, handle, end, loop
        if how == "close":
            kept = tls.ssl_object
            loop.close()
            assert tls.closed and tls.stream.closed and "closed" in repr(tls)
            with pytest.raises(uv.error.HandleClosedError):
                tls.write(b"x")
            with pytest.raises(uv.error.HandleClosedError):
                tls.close()
            tls = handle = end = None
            gc.collect()
            kept.server_side
        elif how == "collect":
            tls = handle = end = loop = None
            gc.collect()

    uv_loop = loop
    in_child(child)
    assert queued(sock) == before
    if state == "new":
        end = End(tls)
    run_until(uv_loop, lambda: other.turn().ready and end.events)
    if state == "shut":
        run_until(uv_loop, lambda: other.turn().ended and len(end.events) == 2)
        other.write(b"one way")
        run_until(uv_loop, lambda: end.data == b"one way")
        other.shutdown()
        run_until(uv_loop, lambda: len(end.events) == 3)
        assert end.events[1:] == [("shut", None), ("end", EOF)]
    else:
        run_until(uv_loop, lambda: len(other.turn().data) == total)
        talk(uv_loop, end, other, b"goes on")
        part(uv_loop, end, other)
    sock.close()


@pytest.mark.parametrize("state", ["begun", "open"])
def test_fork_of_a_process_whose_child_ends_as_a_whole(raw_tls_backend, state):
    """The child's interpreter ends: collects all, clears modules."""
    run("""if True:
    import os, sys
    from rawtls import *
    from uv.test_tls_places import Other, part, queued, talk
    from uvtulip import _uv, uv

    class Loop(uv.Loop):
        raised = []

    state, backend = sys.argv[1:]
    assert _uv._tls_backend(backend == "memory-bio") == backend
    loop = Loop()
    handle, sock = stream(loop)
    end = End(uv.TLS(handle, server_context(), True))
    other = Other(sock.fileno())
    other.turn()
    if state == "open":
        run_until(loop, lambda: other.turn().ready and end.events)
        other.turn()
    else:
        loop.run(uv.UV_RUN_NOWAIT)
    before = queued(sock)
    pid = os.fork()
    if pid > 0:
        assert os.waitpid(pid, 0) == (pid, 0)
        assert queued(sock) == before
        run_until(loop, lambda: other.turn().ready and end.events)
        talk(loop, end, other, b"goes on")
        part(loop, end, other)
        end.tls.close()
        loop.run()
        print("well")
    sock.close()
    """, state, raw_tls_backend)


@pytest.mark.parametrize("closed", [False, True])
def test_a_child_has_its_own_after_a_fork(loop, closed):
    """With the same contexts, as a process that forks for its work has them."""
    end, other, sock = with_peer(loop)
    context = end.tls.context, client_context()

    def child():
        if closed:
            loop.close()
        mine = type(loop)()
        server, client = ends(mine, *context)
        connected(mine, server, client)
        client.tls.write(bytes(1_000_000))
        client.tls.shutdown()
        run_until(mine, lambda: server.events[1:])
        assert server.data == bytes(1_000_000) and server.error == EOF
        for each in (server, client):
            each.tls.close(each.done("closed"))
        mine.run()
        mine.close()

    in_child(child)
    assert queued(sock) == 0
    talk(loop, end, other, b"still here")
    part(loop, end, other)
    sock.close()


class Fork:
    """A callback that forks once.  The parent waits in it until the child, which
    goes on from it, has ended, and looks whether that has sent anything."""

    def __init__(self, log, sock):
        self.log = log
        self.sock = sock
        self.pid = None
        self.seen = None
        self.reading, self.writing = os.pipe()

    def __call__(self, *args):
        self.log.append("forks")
        if self.pid is None:
            before = queued(self.sock)
            self.seen = list(self.log)
            self.pid = os.fork()
            if self.pid > 0:
                os.close(self.writing)
                finish_child(self.pid, self.reading)
                assert queued(self.sock) == before

    def in_child(self, loop, function):
        """Call the function, which gets to the callback; what the child comes back
        from it with is looked at there."""
        error = None
        try:
            function()
        except BaseException as exc:
            if self.pid != 0:
                raise
            error = exc
        if self.pid == 0:
            os.close(self.reading)
            end_child(self.writing, lambda: self.check(loop, error))
        assert self.pid is not None

    def check(self, loop, error):
        with pytest.raises(RuntimeError, match=FORKED):
            raise error
        assert self.log == self.seen, "more was called in the child"
        with pytest.raises(RuntimeError, match=FORKED):
            loop.run(uv.UV_RUN_NOWAIT)
        assert loop.raised == []
        loop.close()
        gc.collect()
        assert self.log == self.seen


@pytest.mark.parametrize("kind", ["sni", "handshake"])
def test_fork_inside_of_the_handshake(loop, kind):
    """With writes that wait for its end."""
    log = []
    handle, sock = stream(loop)
    context = server_context()
    fork = Fork(log, sock)
    tls = uv.TLS(handle, context, True)
    other = Other(sock.fileno())
    if kind == "sni":
        context.sni_callback = fork
        tls.handshake(lambda tls, error: log.append(error))
    else:
        tls.handshake(fork)
    tls.start_read(lambda tls, data, error: log.append(data or error))
    tls.write(b"written", lambda tls, error: log.append("written"))
    tls.shutdown(lambda tls, error: log.append("shut"))
    other.turn()
    fork.in_child(
        loop, lambda: run_until(loop, lambda: other.turn().ended and "shut" in log)
    )
    assert other.data == b"written"
    other.shutdown()
    run_until(loop, lambda: EOF in log)
    told = [None] if kind == "sni" else []
    assert log == ["forks", *told, "written", "shut", EOF]
    sock.close()


@pytest.mark.parametrize("kind", ["read", "end", "written", "shut"])
def test_fork_inside_of_a_callback_of_tls(loop, kind):
    """While there is more to read, and more to write."""
    log = []
    end, other, sock = with_peer(loop, read=False)
    fork = Fork(log, sock)

    def callback(name):
        return fork if name == kind else lambda *args: log.append(name)

    def on_read(tls, data, error):
        sizes.append(len(data or b""))
        callback("read" if data is not None else "end")()

    sizes = []
    total = 400_000     # more than goes in one turn, in either direction
    end.tls.start_read(on_read)
    end.tls.write(bytes(total), callback("written"))
    end.tls.write(b"x", callback("second"))
    end.tls.shutdown(callback("shut"))
    other.write(bytes(total))
    other.shutdown()
    fork.in_child(
        loop,
        lambda: run_until(
            loop, lambda: other.turn().ended and len(log) == len(sizes) + 3
            and sum(sizes) == total and 0 in sizes,
        ),
    )
    assert len(other.data) == total + 1 and sizes[-1] == 0
    if kind in ("read", "end"):
        assert log.count("forks") == (len(sizes) - 1 if kind == "read" else 1)
        log = [name for name in log if name not in ("read", "end", "forks")]
    else:
        log = [name for name in log if name not in ("read", "end")]
    names = ["written", "second", "shut"]
    assert log == ["forks" if name == kind else name for name in names]
    sock.close()


TOLD = {
    "close": ["handshake", "first", "second", "shut", "closed"],
    "stream": ["handshake", "first", "second", "shut", "closed"],
    "garbage": ["handshake", "first", "second", "shut"],
}


@pytest.mark.parametrize(
    ("how", "kind"), [(how, kind) for how in TOLD for kind in TOLD[how]]
)
def test_fork_inside_of_what_is_canceled(loop, how, kind):
    """Each of the callbacks hears of it, in the parent only."""
    log = []
    handle, sock = stream(loop)
    fork = Fork(log, sock)

    def callback(name):
        return fork if name == kind else lambda *args: log.append(name)

    tls = uv.TLS(handle, server_context(), True)
    tls.handshake(callback("handshake"))
    tls.write(b"x", callback("first"))
    tls.write(b"y", callback("second"))
    tls.shutdown(callback("shut"))
    if how == "close":
        tls.close(callback("closed"))
    elif how == "stream":
        handle.close(callback("closed"))
    else:
        sock.send(b"garbage" * 100)
    names = ["forks" if name == kind else name for name in TOLD[how]]
    fork.in_child(loop, lambda: run_until(loop, lambda: len(log) == len(names)))
    assert log == names
    sock.close()


def test_loop_that_a_child_takes_over_after_a_fork(loop):
    """The connection goes on in the child; the parent only lets go of it."""
    end, other, sock = with_peer(loop)

    def child():
        loop.fork()
        talk(loop, end, other, b"from the child")
        part(loop, end, other)
        end.tls.close()
        loop.run_checked()

    in_child(child)
    end.tls.close()
    loop.run_checked()
    assert sock.recv(100) == b""
    sock.close()
