"""Audit hooks hear of what the loop does with sockets, and may refuse it, as with
asyncio's own loop: each case runs on both, in a process of its own, since a hook stays
to the end."""

import subprocess
import sys
import textwrap

from aiosupport import LIMIT, check_script

PRELUDE = """
import asyncio, contextlib, os, socket, sys, tempfile

events, refuse, on = [], {}, False


def plain(value):
    if isinstance(value, socket.socket):
        return f"socket {int(value.family)} {int(value.type)}"
    if isinstance(value, tuple):
        return tuple(plain(each) for each in value)
    return str(value)


def hook(event, args):
    if on and event.startswith("socket."):
        events.append((event, plain(args)))
        error = refuse.get(event)
        if error is not None:
            raise error


sys.addaudithook(hook)


@contextlib.contextmanager
def audited(**refused):
    global on
    events.clear()
    refuse.clear()
    refuse.update({f"socket.{name}": error for name, error in refused.items()})
    on = True
    try:
        yield
    finally:
        on = False


def tell(what):
    for event, args in events:
        text = repr(args)
        for port, name in ports.items():
            text = text.replace(str(port), name)
        print(what, event, text)


async def outcome(awaitable):
    try:
        made = await awaitable
    except BaseException as exc:
        return f"{type(exc).__name__}: {exc}"
    return made


ports = {}
folder = tempfile.mkdtemp()
path = folder + "/s"
"""

ENDING = """
if sys.argv[1] == "asyncio":
    factory = asyncio.SelectorEventLoop
else:
    import uvtulip
    factory = uvtulip.new_event_loop
with asyncio.Runner(loop_factory=factory) as runner:
    runner.run(main())
"""


def on_both(source):
    source = textwrap.dedent(PRELUDE) + textwrap.dedent(source) + ENDING
    told = []
    for name in ("asyncio", "uvtulip"):
        done = subprocess.run(
            [sys.executable, "-c", source, name],
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        told.append(done.stdout.splitlines())
    return told


CONNECTING = """
async def main():
    loop = asyncio.get_running_loop()
    tcp = socket.create_server(("127.0.0.1", 0))
    unix = socket.socket(socket.AF_UNIX)
    unix.bind(path)
    unix.listen()
    host, port = tcp.getsockname()
    ports[port] = "PORT"
    ports[folder] = "FOLDER"
    ways = {
        "literal": lambda: loop.create_connection(asyncio.Protocol, host, port),
        "name": lambda: loop.create_connection(
            asyncio.Protocol, "localhost", port, family=socket.AF_INET
        ),
        "local": lambda: loop.create_connection(
            asyncio.Protocol, host, port, local_addr=("127.0.0.1", 0)
        ),
        "eyeballs": lambda: loop.create_connection(
            asyncio.Protocol, host, port, happy_eyeballs_delay=1
        ),
        "unix": lambda: loop.create_unix_connection(asyncio.Protocol, path),
        "udp": lambda: loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, remote_addr=(host, port)
        ),
        "udp bound": lambda: loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
        ),
        "server": lambda: loop.create_server(asyncio.Protocol, "127.0.0.1", 0),
        "unix server": lambda: loop.create_unix_server(
            asyncio.Protocol, folder + "/other"
        ),
    }
    for what, way in ways.items():
        with audited():
            made = await outcome(way())
        tell(what)
        if isinstance(made, tuple):
            made[0].abort()
        else:
            made.close()
        for name in ("__new__", "bind", "connect"):
            for error in (PermissionError(1, "no"), RuntimeError("never")):
                if what == "eyeballs" and isinstance(error, RuntimeError):
                    continue  # asyncio raises an IndexError.
                with audited(**{name: error}):
                    made = await outcome(way())
                if isinstance(made, str):
                    print(what, name, made)
                elif isinstance(made, tuple):
                    print(what, name, "made")
                    made[0].abort()
                else:
                    print(what, name, "made")
                    made.close()
    tcp.close()
    unix.close()
    await asyncio.sleep(0.01)
"""


def test_what_is_set_up_and_refused():
    theirs, ours = (
        # Until Python 3.12 the text for bind() has no number.
        # And a server without any socket was made.
        [
            line.replace("[errno 1] ", "")
            for line in told
            if sys.version_info >= (3, 13) or not line.startswith("server __new__")
        ]
        for told in on_both(CONNECTING)
    )
    assert ours == theirs
    assert any("socket.connect" in line for line in ours)


DATAGRAMS = """
class Protocol(asyncio.DatagramProtocol):
    def error_received(self, exc):
        print("error", repr(exc))

    def connection_lost(self, exc):
        print("lost", repr(exc))


async def main():
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: print(repr(context["exception"])))
    there = socket.socket(type=socket.SOCK_DGRAM)
    there.bind(("127.0.0.1", 0))
    address = there.getsockname()
    ports[address[1]] = "PORT"
    given = socket.socket(type=socket.SOCK_DGRAM)
    given.bind(("127.0.0.1", 0))
    for what, options in (
        ("bound", {"local_addr": ("127.0.0.1", 0)}),
        ("connected", {"remote_addr": address}),
        ("fixed", {"remote_addr": address, "allow_broadcast": True}),
        ("given", {"sock": given}),
    ):
        transport, _ = await loop.create_datagram_endpoint(Protocol, **options)
        to = address if what in ("bound", "given") else None
        with audited():
            transport.sendto(b"x", to)
            await asyncio.sleep(0)
        tell(what)
        with audited(sendto=PermissionError(1, "no")):
            transport.sendto(b"y", to)
            await asyncio.sleep(0)
        with audited(sendto=RuntimeError("never")):
            transport.sendto(b"z", to)
            for _ in range(3):
                await asyncio.sleep(0)
        transport.abort()
        for _ in range(3):
            await asyncio.sleep(0)
    there.settimeout(0.1)
    with contextlib.suppress(TimeoutError):
        while True:
            print(there.recv(10))
    there.close()
"""


def test_datagrams():
    theirs, ours = on_both(DATAGRAMS)
    assert ours == theirs
    assert any("socket.sendto" in line for line in ours)


ACCEPTING = """
async def main():
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(
        lambda loop, context: print(repr(context["exception"]))
    )
    made = []

    class Protocol(asyncio.Protocol):
        def connection_made(self, transport):
            made.append(transport)

    tcp = await loop.create_server(Protocol, "127.0.0.1", 0)
    unix = await loop.create_unix_server(Protocol, path)
    for what, family, server in (
        ("tcp", socket.AF_INET, tcp), ("unix", socket.AF_UNIX, unix)
    ):
        for error in (None, PermissionError(1, "no"), RuntimeError("never")):
            client = socket.socket(family)
            client.setblocking(False)
            refused = {} if error is None else {"__new__": error}
            with audited(**refused):
                with contextlib.suppress(BlockingIOError):
                    client.connect(server.sockets[0].getsockname())
                for _ in range(20):
                    await asyncio.sleep(0.001)
            print(what, [e for e in events if "__new__" in e[0]], len(made))
            client.close()
            while made:
                made.pop().abort()
        server.close()
    os.close(os.dup(0))
    await asyncio.sleep(0.01)
"""


def test_accepted_connections():
    theirs, ours = on_both(ACCEPTING)
    assert ours == theirs
    assert any("__new__" in line for line in ours)


SOCK = """
async def main():
    loop = asyncio.get_running_loop()
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    address = listener.getsockname()
    ports[address[1]] = "PORT"
    for error in (None, PermissionError(1, "no")):
        refused = {} if error is None else {"connect": error, "sendto": error}
        sock = socket.socket()
        sock.setblocking(False)
        with audited(**refused):
            print(await outcome(loop.sock_connect(sock, address)))
        tell("sock_connect")
        if error is None:
            with audited():
                accepted, _ = await loop.sock_accept(listener)
            print([name for name, _ in events])
            accepted.close()
        sock.close()
        sock = socket.socket(type=socket.SOCK_DGRAM)
        sock.setblocking(False)
        with audited(**refused):
            print(await outcome(loop.sock_sendto(sock, b"x", address)))
        tell("sock_sendto")
        sock.close()
    for error in (None, PermissionError(1, "no")):
        refused = {} if error is None else {"getaddrinfo": error}
        with audited(**refused):
            print(type(await outcome(loop.getaddrinfo("localhost", 80))))
        tell("getaddrinfo")
        with audited(**refused):
            print(type(await outcome(loop.getaddrinfo("127.0.0.1", 80))))
        tell("getaddrinfo")
        refused = {} if error is None else {"getnameinfo": error}
        with audited(**refused):
            print(type(await outcome(loop.getnameinfo(("127.0.0.1", 80)))))
        tell("getnameinfo")
    listener.close()
"""


def test_sock_methods_and_names():
    theirs, ours = on_both(SOCK)
    assert ours == theirs


def test_no_event_without_need():
    """To look whether there is a hook is no event."""
    source = """
    import sys, uvtulip._transports as transports
    events = []
    assert not transports._audited()
    sys.addaudithook(lambda event, args: events.append(event))
    events.clear()
    assert transports._audited()
    assert events == []
    """
    check_script(source)
