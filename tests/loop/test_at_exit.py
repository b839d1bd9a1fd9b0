"""Programs that end without closing their loop: nothing is printed, nothing hangs."""

import pytest

from aiosupport import script

PARTS = {
    "nothing": "",
    "server": """
        keep.append(await loop.create_server(Echo, "127.0.0.1", 0))""",
    "connections of a closed server": """
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        transport, protocol = await loop.create_connection(
            Client, *server.sockets[0].getsockname())
        await protocol.done
        transport.close()
        server.close()""",
    "connections": """
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        keep.append(server)
        keep.append(await loop.create_connection(
            Client, *server.sockets[0].getsockname()))
        await keep[-1][1].done""",
    "streams": """
        async def serve(reader, writer):
            keep.append((reader, writer))
        keep.append(await asyncio.start_server(serve, "127.0.0.1", 0))
        keep.append(await asyncio.open_connection(
            *keep[0].sockets[0].getsockname()))
        await asyncio.sleep(0.02)""",
    "unix": """
        path = tempfile.mktemp()
        keep.append(await loop.create_unix_server(Echo, path))
        keep.append(await loop.create_unix_connection(Client, path))
        await keep[-1][1].done
        os.unlink(path)""",
    "datagrams": """
        keep.append(await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, ("127.0.0.1", 0)))
        keep[0][0].sendto(b"x", keep[0][0].get_extra_info("sockname"))""",
    "child": """
        keep.append(await asyncio.create_subprocess_exec(
            "sleep", "0.2", stdin=-1, stdout=-1))""",
    "raw child": """
        keep.append(uv.Process.spawn(loop.uv_loop, ["sleep", "0.2"]))""",
    "pipes": """
        read, write = os.pipe()
        keep.append(await loop.connect_read_pipe(asyncio.Protocol, open(read, "rb", 0)))
        keep.append(await loop.connect_write_pipe(
            asyncio.Protocol, open(write, "wb", 0)))
        keep[-1][0].write(b"x")""",
    "signals": """
        loop.add_signal_handler(signal.SIGTERM, print)
        loop.add_signal_handler(signal.SIGINT, keep.append)""",
    "executor": """
        keep.append(loop.run_in_executor(None, time.sleep, 0.1))
        await loop.run_in_executor(None, time.sleep, 0)""",
    "names": """
        keep.append(loop.create_task(loop.getaddrinfo("localhost", 80)))
        await asyncio.sleep(0)
        keep[-1].cancel()
        await asyncio.sleep(0)""",
    "timers": """
        keep.append(loop.call_later(1000, print))
        keep.append(loop.call_later(0.001, keep.append, 1))""",
    "readers": """
        ours, theirs = socket.socketpair()
        keep.extend((ours, theirs))
        ours.setblocking(False)
        loop.add_reader(ours, print)
        keep.append(loop.add_writer(theirs, keep.append, 1))
        await asyncio.sleep(0)""",
    "futures": """
        keep.append(loop.create_future())""",
    "tls": """
        import trustme
        here = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        there = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        ca = trustme.CA()
        ca.issue_cert("localhost").configure_cert(here)
        ca.configure_trust(there)
        server = await loop.create_server(Echo, "127.0.0.1", 0, ssl=here)
        keep.append(server)
        keep.append(await loop.create_connection(
            Client, *server.sockets[0].getsockname(), ssl=there,
            server_hostname="localhost"))
        await keep[-1][1].done
        server.close()""",
    "raw handles": """
        raw = loop.uv_loop
        keep.append(uv.Timer(raw))
        keep[-1].start(print, 1000)
        keep.append(uv.Signal(raw))
        keep[-1].start(print, signal.SIGUSR1)
        keep.append(uv.FSEvent(raw))
        keep[-1].start("/tmp", 0, lambda *args: None)
        keep.append(uv.Async(raw, print))
        keep.append(raw.queue_work(lambda: time.sleep(0.1)))""",
}

SOURCE = """
import asyncio, os, signal, socket, ssl, sys, tempfile, time
import uvtulip
from uvtulip import uv

loop = uvtulip.new_event_loop()
keep = []

class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
    def data_received(self, data):
        self.transport.write(data)

class Client(asyncio.Protocol):
    def __init__(self):
        self.done = loop.create_future()
    def connection_made(self, transport):
        transport.write(b"x")
    def data_received(self, data):
        if not self.done.done():
            self.done.set_result(None)

async def main():
    pass
{part}
    print("well")

loop.run_until_complete(main())
{end}
"""

ENDS = {
    "kept": "",
    "in a cycle": "loop.myself = keep.append(keep); del loop",
    "in another module": "sys.kept = (loop, keep)",
    "in a class": "class Holder: kept = (loop, keep)\ndel loop, keep",
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("part", PARTS)
def test_silent(part: str, end: str) -> None:
    if part == "tls":
        pytest.importorskip("trustme")
    body = "\n".join(line[4:] for line in PARTS[part].splitlines())
    done = script(SOURCE.format(part=body, end=ENDS[end]))
    assert (done.returncode, done.stdout, done.stderr) == (0, "well\n", "")


# ---- classes that the collector empties before the transports go ----

EMPTIED = """
import asyncio, builtins, os, socket, sys, tempfile
import uvtulip
from uvtulip import serve, sockets
from asyncio import trsock

class Client(asyncio.Protocol):
    pass

async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Client, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    given = socket.create_server(("127.0.0.1", 0))
    other = await loop.create_server(Client, sock=given)
    path = tempfile.mktemp()
    local = await loop.create_unix_server(Client, path)
    ours, theirs = socket.socketpair()
    read, write = os.pipe()
    udp = socket.socket(type=socket.SOCK_DGRAM)
    udp.bind(("127.0.0.1", 0))
    udp.setblocking(False)
    pairs = [
        await loop.create_connection(Client, *address),
        await loop.create_connection(Client, *other.sockets[0].getsockname()),
        await loop.create_connection(Client, sock=ours),
        await loop.create_unix_connection(Client, path),
        await loop.connect_read_pipe(Client, open(read, "rb", 0)),
        await loop.connect_write_pipe(Client, open(write, "wb", 0)),
        await loop.create_datagram_endpoint(Client, ("127.0.0.1", 0)),
        await loop.create_datagram_endpoint(Client, sock=udp),
    ]
    os.unlink(path)
    keep = [theirs, server, other, local, *pairs]
    keep += [transport.get_extra_info("socket") for transport, _ in pairs]
    theirs.setblocking(False)
    waiter = loop.sock_recv(theirs, 1)
    waiter.send(None)
    keep.append(waiter)
    if {closed}:
        waiter.close()
        theirs.close()
        for transport, _ in pairs:
            transport.close()
        server.close()
        await asyncio.sleep(0.02)
    {where}.kept = keep
    print("well")

loop = uvtulip.new_event_loop()
task = loop.create_task(main())
loop.run_until_complete(task)
del task
{end}
"""

HOLDERS = (
    "sys",
    "builtins",
    "Client",
    "socket.socket",
    "trsock.TransportSocket",
    "serve.Server",
    "sockets.TransportSocket",
    "sockets.GivenSocket",
    "uvtulip.Loop",
)


@pytest.mark.parametrize("end", ["", "loop.close()"])
@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("where", HOLDERS)
def test_held_by_a_class(where: str, closed: bool, end: str) -> None:
    done = script(EMPTIED.format(where=where, closed=closed, end=end))
    assert (done.returncode, done.stdout, done.stderr) == (0, "well\n", "")
