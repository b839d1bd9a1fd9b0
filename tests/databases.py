"""Servers that other people wrote: PostgreSQL and Redis, each in a folder of its own,
started once for all tests, reached over TCP and UNIX sockets."""

import os
import pathlib
import pwd
import subprocess
import tempfile
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from aiosupport import free_port
from programsupport import find

LIMIT = 60.0


class Address(NamedTuple):
    folder: pathlib.Path  # with its UNIX socket
    port: int


@pytest.fixture(scope="session")
def folder() -> Iterator[pathlib.Path]:
    # Short: the name of a UNIX socket has to fit into 108 bytes.
    with tempfile.TemporaryDirectory(prefix="uvt") as name:
        pathlib.Path(name).chmod(0o755)
        yield pathlib.Path(name)


def wait_until(ready: Any, process: subprocess.Popen[bytes], log: pathlib.Path) -> None:
    give_up = time.monotonic() + LIMIT
    while not ready():
        if process.poll() is not None or time.monotonic() > give_up:
            raise AssertionError(f"it does not start: {log.read_text()}")
        time.sleep(0.05)


@pytest.fixture(scope="session")
def postgres(folder: pathlib.Path) -> Iterator[Address]:
    """User and database are `tulip`, the password too."""
    home = folder / "pg"
    home.mkdir()
    user: dict[str, Any] = {"cwd": home}
    if os.geteuid() == 0:  # It refuses to run as root.
        account = pwd.getpwnam("postgres")
        os.chown(home, account.pw_uid, account.pw_gid)
        user |= {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    secret = folder / "secret"
    secret.write_text("tulip")
    secret.chmod(0o644)
    subprocess.run(
        [
            *(find("initdb"), "-D", home / "data", "-U", "tulip", "--no-sync"),
            *("-A", "scram-sha-256", f"--pwfile={secret}"),
        ],
        check=True,
        stdout=subprocess.DEVNULL,
        **user,
    )
    address = Address(home, free_port())
    log = folder / "pg.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                *(find("postgres"), "-D", home / "data", "-k", home, "-F"),
                *("-h", "127.0.0.1", "-p", str(address.port)),
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
            **user,
        )
    try:
        client = {**os.environ, "PGPASSWORD": "tulip", "PGHOST": "127.0.0.1"}
        base = [find("psql"), "-p", str(address.port), "-U", "tulip"]
        wait_until(
            lambda: (
                subprocess.run(
                    [*base, "-d", "postgres", "-c", "create database tulip"],
                    env=client,
                    capture_output=True,
                ).returncode
                == 0
            ),
            process,
            log,
        )
        yield address
    finally:
        process.terminate()
        process.wait(LIMIT)


@pytest.fixture(scope="session")
def redis_server(folder: pathlib.Path) -> Iterator[Address]:
    address = Address(folder / "redis", free_port())
    address.folder.mkdir()
    log = folder / "redis.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                *(find("redis-server"), "--port", str(address.port)),
                *("--bind", "127.0.0.1", "--save", "", "--appendonly", "no"),
                *("--unixsocket", str(address.folder / "socket")),
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=address.folder,
        )
    try:
        wait_until((address.folder / "socket").exists, process, log)
        yield address
    finally:
        process.terminate()
        process.wait(LIMIT)
