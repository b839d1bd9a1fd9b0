"""Every example runs, and serves real clients."""

import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from procsupport import EXAMPLES, LIMIT, launch, python
from tlssupport import authority, certificate, client_context

LISTENING = r"listening on ([\d.]+):(\d+)"


def address(found):
    return found[1], int(found[2])


def client(where):
    sock = socket.create_connection(where, timeout=LIMIT)
    sock.settimeout(LIMIT)
    return sock


def receive(sock, count):
    data = bytearray()
    while len(data) < count:
        piece = sock.recv(65536)
        assert piece, f"ended after {len(data)} of {count} bytes"
        data += piece
    return bytes(data)


def echo(where):
    """Text, half a closing, and more than all buffers hold."""
    with client(where) as one, client(where) as two:
        two.sendall(b"two")
        one.sendall(b"one")
        assert receive(one, 3) == b"one"
        assert receive(two, 3) == b"two"
        two.shutdown(socket.SHUT_WR)
        assert two.recv(1) == b""
    data = os.urandom(1_000_000)
    with client(where) as sock:
        for start in range(0, len(data), 50_000):
            piece = data[start : start + 50_000]
            sock.sendall(piece)
            assert receive(sock, len(piece)) == piece


ECHO_SERVERS = [
    "asyncio_echo.py",
    "mail_2013.py",
    "uv_tcp_echo.py",
    "uv_poll_echo.py",
]


@pytest.mark.parametrize("name", ECHO_SERVERS)
def test_echo_servers(name):
    with python(str(EXAMPLES / name), "--port", "0") as program:
        where = address(program.line(LISTENING))
        echo(where)
        with client(where) as reset:
            reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        echo(where)
        program.interrupt()
        status, out, err = program.finish()
    assert (status, err) == (0, "")
    assert out.endswith("stopped\n")


def test_a_client_that_never_reads():
    """uv_tcp_echo.py stops reading from it, instead of buffering all."""
    with python(str(EXAMPLES / "uv_tcp_echo.py"), "--port", "0") as program:
        where = address(program.line(LISTENING))
        with client(where) as sock:
            sock.setblocking(False)
            sent = 0
            with pytest.raises(BlockingIOError):
                for _ in range(1000):
                    sock.setblocking(True)
                    sock.settimeout(1.0)
                    try:
                        sent += sock.send(bytes(100_000))
                    except TimeoutError:
                        raise BlockingIOError from None
            sock.settimeout(LIMIT)
            assert receive(sock, sent) == bytes(sent)
        program.interrupt()
        assert program.finish()[0] == 0


def test_the_client_of_the_mail():
    script = str(EXAMPLES / "mail_2013.py")
    with python(script, "--port", "0") as program:
        host, port = address(program.line(LISTENING))
        done = subprocess.run(
            [sys.executable, script, "--port", str(port), "--send", "hello tulip"],
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
    assert (done.returncode, done.stdout, done.stderr) == (0, "hello tulip\n", "")


def test_tls_echo(tmp_path):
    """Ours and Python's client; one that nobody trusts; one that just leaves."""
    leaf, ca = tmp_path / "leaf", tmp_path / "ca"
    certificate("localhost").private_key_and_cert_chain_pem.write_to_path(leaf)
    authority().cert_pem.write_to_path(ca)
    script = str(EXAMPLES / "uv_tls_echo.py")
    with python(script, "--port", "0", "--certificate", str(leaf)) as program:
        where = address(program.line(LISTENING))
        send = ["--port", str(where[1]), "--send", "hello", "--trust", str(ca)]
        with python(script, *send) as other:
            assert other.finish() == (0, "hello (TLSv1.3)\n", "")
        with python(script, *send, "--name", "elsewhere") as other:
            status, out, err = other.finish()
        assert (status, out) == (1, "") and "Hostname mismatch" in err
        client(where).close()
        context = client_context()
        with context.wrap_socket(client(where), server_hostname="localhost") as tls:
            data = os.urandom(3_000_000)
            for start in range(0, len(data), 50_000):
                tls.sendall(data[start : start + 50_000])
                assert receive(tls, len(data[start : start + 50_000]))
            tls.unwrap().close()
        program.interrupt()
        assert program.finish() == (0, "stopped\n", "")


def test_datagrams():
    script = str(EXAMPLES / "uv_udp_echo.py")
    with python(script, "--port", "0") as program:
        _, port = address(program.line(LISTENING))
        args = ["--client", "--count", "200", "--port", str(port)]
        done = subprocess.run(
            [sys.executable, script, *args],
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("200 of 200 came back in ")
        program.interrupt()
        assert program.finish() == (0, "stopped\n", "")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_signal_stop(signum):
    with python(str(EXAMPLES / "uv_signal_stop.py"), "--port", "0") as program:
        where = address(program.line(LISTENING))
        with client(where) as sock:
            assert receive(sock, 6) == b"hello\n"
            assert sock.recv(1) == b""
        program.process.send_signal(signum)
        status, out, err = program.finish()
    assert (status, err) == (0, "")
    assert out == f"got {signum.name}\nall closed\n"


def test_timers():
    with python(str(EXAMPLES / "uv_timers.py"), "--interval", "0.02") as program:
        status, out, err = program.finish()
    assert (status, err) == (0, "")
    texts = [line.split(": ")[1] for line in out.splitlines()]
    ticks = [f"tick {n}" for n in range(1, 6)]
    assert texts == [*ticks, "alarm", "nothing left to wait for"]


def test_process():
    script = str(EXAMPLES / "uv_process.py")
    for args, expected in (
        (["tr", "a-z", "A-Z"], "HELLO\nended with status 0\n"),
        (["sh", "-c", "exit 3"], "ended with status 3\n"),
        (["sh", "-c", "kill -9 $$"], "ended by SIGKILL\n"),
    ):
        with python(script, *args) as program:
            assert program.finish() == (0, expected, "")
    with python(script, "/no/such/program") as program:
        status, out, err = program.finish()
    assert (status, out) == (1, "") and "ENOENT" in err


def test_pipe_ipc():
    script = str(EXAMPLES / "uv_pipe_ipc.py")
    with python(script, "--port", "0", "--workers", "2") as program:
        where = address(program.line(LISTENING))
        for _ in range(5):
            with client(where) as sock:
                with sock.makefile() as lines:
                    assert lines.read().startswith("process ")
        program.interrupt()
        assert program.finish() == (0, "2 workers ended, stopped\n", "")


def test_fsevent(tmp_path):
    script = str(EXAMPLES / "uv_fsevent.py")
    with python(script, str(tmp_path), "--interval", "0.05") as program:
        program.line("watching")
        (tmp_path / "new").write_text("x")
        program.line("new: renamed")
        program.line("new: changed")
        time.sleep(0.1)  # Until the clock of the file system has gone on.
        (tmp_path / "new").unlink()
        program.line("the folder itself changed")
        program.interrupt()
        status, out, err = program.finish()
    assert (status, err) == (0, "") and out.endswith("stopped\n")


def test_dns():
    script = str(EXAMPLES / "uv_dns.py")
    with python(script, "127.0.0.1", "::1") as program:
        status, out, err = program.finish()
    assert (status, err) == (0, "")
    assert sorted(out.splitlines()) == ["127.0.0.1: 127.0.0.1", "::1: ::1"]


def test_tty():
    """The keys of a terminal; and without one it says so."""
    script = str(EXAMPLES / "uv_tty.py")
    master, slave = pty.openpty()
    process = subprocess.Popen([sys.executable, script], stdin=slave)
    os.close(slave)
    out = b""
    while b"q ends\r\n" not in out:
        out += os.read(master, 1000)
    os.write(master, b"a\x03q")
    while b"bye" not in out:
        out += os.read(master, 1000)
    assert process.wait(LIMIT) == 0
    os.close(master)
    assert b"key 0x61\r" in out and b"key 0x03\r" in out
    with python(script) as program:
        status, out_text, err = program.finish()
    assert (status, out_text) == (1, "") and "no terminal" in err


def test_mixed_loop():
    script = str(EXAMPLES / "mixed_loop.py")
    with python(script, "--port", "0", "--status-port", "0") as program:
        where = address(program.line(LISTENING))
        status_where = address(program.line(r"status on ([\d.]+):(\d+)"))
        with client(where) as sock:
            sock.sendall(b"12345")
            assert receive(sock, 5) == b"12345"
        with client(status_where) as sock:
            assert receive(sock, 15) == b"5 bytes echoed\n"
            assert sock.recv(1) == b""
        program.interrupt()
        status, out, err = program.finish()
    assert (status, out, err) == (0, "stopped\n", "")


@pytest.mark.parametrize("name", ["asyncio_echo.py", "mixed_loop.py"])
def test_by_the_launcher(name):
    with launch(str(EXAMPLES / name), "--port", "0") as program:
        echo(address(program.line(LISTENING)))
        program.interrupt()
        assert program.finish()[0] == 0


def run_example(name, *options):
    with python(str(EXAMPLES / name), *options) as program:
        status, out, err = program.finish()
    assert (status, err) == (0, "")
    return out


def test_handoff():
    script = str(EXAMPLES / "uv_handoff.py")
    with python(script, "--port", "0", "--workers", "2") as program:
        where = address(program.line(LISTENING))
        with client(where) as one, client(where) as two:
            served = set()
            for sock in (one, two):
                line = sock.makefile().readline()
                served.add(re.fullmatch(r"process (\d+) listens\n", line)[1])
                sock.sendall(b"shout")
                assert receive(sock, 5) == b"SHOUT"
            assert len(served) == 2
            assert str(program.process.pid) not in served
        program.interrupt()
        status, out, err = program.finish()
    assert (status, out, err) == (0, "stopped\n", "")


def test_await():
    out = run_example("uv_await.py", "--count", "2")
    assert out == "DATAGRAM 0\nDATAGRAM 1\nfrom a pipe\n"


def test_fs(tmp_path):
    (tmp_path / "sub").mkdir()
    for size in (3000, 10, 20000):
        (tmp_path / "sub" / f"size{size}").write_bytes(bytes(size))
    lines = run_example("uv_fs.py", str(tmp_path), "--count", "2").splitlines()
    root = os.path.realpath(tmp_path)
    assert [line.split() for line in lines[:2]] == [
        ["20,000", f"{root}/sub/size20000"],
        ["3,000", f"{root}/sub/size3000"],
    ]
    assert lines[2:] == ["3 files, 0 could not be looked at"]
    with python(str(EXAMPLES / "uv_fs.py"), str(tmp_path / "missing")) as program:
        status, out, err = program.finish()
    assert (status, out) == (1, "") and "ENOENT" in err


def test_system():
    out = run_example("uv_system.py")
    assert socket.gethostname() in out and "127.0.0.1 (internal)" in out


def test_thread():
    out = run_example("uv_thread.py", "--workers", "4", "--count", "30")
    assert out.split() == [str(number**2) for number in range(30)]


def test_metrics():
    out = run_example("metrics.py", "--seconds", "0.5")
    assert "blocks() at" in out.splitlines()[-1]


def test_watchers():
    lines = run_example("uv_watchers.py", "--turns", "2").splitlines()
    assert lines[:2] == ["idle prepare check"] * 2
    assert lines[-1].endswith("woken by another thread")


def test_fspoll(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    script = str(EXAMPLES / "uv_fspoll.py")
    with python(script, str(path), "--interval", "0.02") as program:
        program.line("looking at")
        # Its first look may come after the first change.
        for size in range(6, 400):
            path.write_bytes(b"x" * size)
            time.sleep(0.05)
            if program.process.poll() is not None:
                break
        status, out, err = program.finish()
    assert (status, err) == (0, "") and "now" in out
