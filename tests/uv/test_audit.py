"""Audit events of raw handles and functions: each is raised, with the arguments that
Python's own modules give, and a hook may refuse.  In a process of its own each, since a
hook stays to the end."""

import textwrap

import pytest

from aiosupport import check_script

PRELUDE = """
import os, socket, sys, tempfile
from uvtulip import uv

loop = uv.Loop()
events, refuse, on = [], None, False


def hook(event, args):
    if on and event.partition(".")[0] in WATCHED:
        events.append((event, args))
        if refuse is not None:
            raise refuse


WATCHED = ("socket", "subprocess", "os", "open", "shutil", "tempfile")
sys.addaudithook(hook)


def check(call, event, *args):
    '''The event is raised; and when a hook refuses, nothing is done.'''
    global on, refuse
    for refuse in (KeyError("refused"), None):
        events.clear()
        on = True
        try:
            call()
            assert refuse is None, event
        except KeyError as exc:
            assert exc is refuse
        finally:
            on = False
        assert events and events[0][0] == event, (event, events)
        assert events[0][1] == args, (events[0][1], args)
"""

END = """
for handle in loop.handles:
    if not handle.closed:
        handle.close()
loop.run()
loop.close()
"""

CASES = {
    "tcp": """
        tcp = uv.TCP(loop)
        address = ("127.0.0.1", 0)
        check(lambda: tcp.bind(address), "socket.bind", tcp, address)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            there = listener.getsockname()
            check(
                lambda: tcp.connect(there, lambda *_: None),
                "socket.connect", tcp, there,
            )
            loop.run()
        """,
    "pipe": """
        path = tempfile.mkdtemp() + "/socket"
        pipe, other = uv.Pipe(loop), uv.Pipe(loop)
        check(lambda: pipe.bind(path), "socket.bind", pipe, path)
        pipe.listen(lambda *_: None)
        check(
            lambda: other.connect(path, lambda *_: None), "socket.connect", other, path
        )
        """,
    "udp": """
        udp, other = uv.UDP(loop), uv.UDP(loop)
        address = ("127.0.0.1", 0)
        check(lambda: udp.bind(address), "socket.bind", udp, address)
        there = udp.getsockname()
        check(lambda: other.send(there, b"x"), "socket.sendto", other, there)
        loop.run()
        check(lambda: other.try_send(there, b"x"), "socket.sendto", other, there)
        check(lambda: other.try_send2([(there, b"x")]), "socket.sendto", other, there)
        check(lambda: other.connect(there), "socket.connect", other, there)
        """,
    "process": """
        args = [sys.executable, "-c", ""]
        check(
            lambda: uv.Process.spawn(loop, args),
            "subprocess.Popen", sys.executable, args, None, None,
        )
        check(
            lambda: uv.Process.spawn(loop, args, executable=sys.executable, cwd="/"),
            "subprocess.Popen", sys.executable, args, "/", None,
        )
        loop.run()
        check(lambda: uv.kill(os.getpid(), 0), "os.kill", os.getpid(), 0)
        """,
    "names": """
        check(
            lambda: uv.dns.getaddrinfo(loop, "127.0.0.1", 80),
            "socket.getaddrinfo", "127.0.0.1", 80, 0, 0, 0,
        )
        address = ("127.0.0.1", 80)
        check(
            lambda: uv.dns.getnameinfo(loop, address, 3), "socket.getnameinfo", address
        )
        """,
    "process-wide": """
        here = os.getcwd()
        check(lambda: uv.util.chdir(here), "os.chdir", here)
        check(lambda: uv.util.setenv("A_NAME", "x"), "os.putenv", b"A_NAME", b"x")
        check(lambda: uv.util.unsetenv("A_NAME"), "os.unsetenv", b"A_NAME")
        """,
    "files": """
        fs = uv.fs
        folder = tempfile.mkdtemp()
        a, b, sub = folder + "/a", folder + "/b", folder + "/sub"
        flags = os.O_CREAT | os.O_RDWR
        check(lambda: fs.open(None, a, flags), "open", a, None, flags)
        fd = os.open(a, os.O_RDWR)
        check(lambda: fs.chmod(None, a, 0o600), "os.chmod", a, 0o600, -1)
        check(lambda: fs.fchmod(None, fd, 0o600), "os.chmod", fd, 0o600, -1)
        check(lambda: fs.chown(None, a, -1, -1), "os.chown", a, -1, -1, -1)
        check(lambda: fs.lchown(None, a, -1, -1), "os.chown", a, -1, -1, -1)
        check(lambda: fs.fchown(None, fd, -1, -1), "os.chown", fd, -1, -1, -1)
        check(lambda: fs.ftruncate(None, fd, 3), "os.truncate", fd, 3)
        check(lambda: fs.utime(None, a, 1, 2), "os.utime", a, (1, 2), None, -1)
        check(lambda: fs.lutime(None, a, 1, 2), "os.utime", a, (1, 2), None, -1)
        check(lambda: fs.futime(None, fd, 1, 2), "os.utime", fd, (1, 2), None, -1)
        os.close(fd)
        check(lambda: fs.link(None, a, b), "os.link", a, b, -1, -1)
        check(lambda: fs.unlink(None, b), "os.remove", b, -1)
        check(lambda: fs.symlink(None, a, b), "os.symlink", a, b, -1)
        check(lambda: fs.rename(None, b, b + "2"), "os.rename", b, b + "2", -1, -1)
        check(lambda: fs.copyfile(None, a, b), "shutil.copyfile", a, b)
        check(lambda: fs.mkdir(None, sub), "os.mkdir", sub, 0o777, -1)
        check(lambda: fs.rmdir(None, sub), "os.rmdir", sub, -1)
        check(lambda: fs.mkdir(None, sub, 0o700), "os.mkdir", sub, 0o700, -1)
        check(lambda: fs.scandir(None, folder), "os.scandir", folder)
        check(lambda: fs.opendir(None, folder), "os.scandir", folder)
        new = folder + "/XXXXXX"
        check(lambda: fs.mkdtemp(None, new), "tempfile.mkdtemp", new)
        check(lambda: fs.mkstemp(None, new), "tempfile.mkstemp", new)
        # With a callback it is raised by the call, not in a thread.
        check(lambda: fs.unlink(loop, b, lambda *_: None), "os.remove", b, -1)
        loop.run()
        # What os does without an event.
        events.clear()
        on = True
        fs.stat(None, a)
        fs.access(None, a, os.F_OK)
        fs.realpath(None, a)
        on = False
        assert events == []
        """,
    "closing": """
        def closes(event, args):
            if on and event == "socket.bind":
                args[0].close()
        sys.addaudithook(closes)
        for handle, address in (
            (uv.TCP(loop), ("127.0.0.1", 0)),
            (uv.UDP(loop), ("127.0.0.1", 0)),
            (uv.Pipe(loop), "/nowhere/socket"),
        ):
            on = True
            try:
                handle.bind(address)
            except uv.error.HandleClosedError:
                on = False
            assert not on and handle.closed
        """,
}


@pytest.mark.parametrize("name", CASES)
def test_events(name):
    source = textwrap.dedent(PRELUDE) + textwrap.dedent(CASES[name]) + END
    check_script(source, "-W", "ignore::ResourceWarning")
