"""python -m uvtulip: any asyncio program, on uvtulip's loop."""

import os
import pty
import re
import select
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
import zipfile

import pytest

import uvtulip
from aiosupport import free_port
from procsupport import LIMIT, launch

SHOW = """
import asyncio, sys
async def main():
    print("loop", type(asyncio.get_running_loop()).__module__)
    print("argv", sys.argv)
    print("path", sys.path[0])
    print("name", __name__, sys.modules["__main__"].__dict__ is globals())
    print("file", globals().get("__file__"))
    print("spec", __spec__ and __spec__.name)
    print("junk", sorted(name for name in globals() if not name.startswith("__")))
if __name__ == "__main__":
    asyncio.run(main())
"""


def finish(*args, cwd=None, status=0, errors=""):
    with launch(*args, cwd=cwd) as program:
        code, out, err = program.finish()
    assert (code, err) == (status, errors), err
    return out


def facts(*args, cwd=None):
    out = finish(*args, cwd=cwd)
    return dict(line.split(" ", 1) for line in out.splitlines())


def write(path, source):
    path.write_text(textwrap.dedent(source))
    return str(path)


def test_version():
    out = finish("--version")
    assert out == (
        f"uvtulip {uvtulip.__version__} (libuv {uvtulip.uv.LIBUV_VERSION}, "
        f"Python {sys.version.split()[0]})\n"
    )


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help(option):
    assert "usage: python -m uvtulip" in finish(option)


@pytest.mark.parametrize("args", [["--nonsense"], ["-m"], ["-c"]])
def test_wrong_use(args):
    with launch(*args) as program:
        code, out, err = program.finish()
    assert (code, out) == (2, "")
    assert "usage:" in err


def test_script(tmp_path):
    path = write(tmp_path / "show.py", SHOW)
    assert facts(path, "a", "--help", "-m") == {
        "loop": "uvtulip.loop",
        "argv": str([path, "a", "--help", "-m"]),
        "path": str(tmp_path),
        "name": "__main__ True",
        "file": path,
        "spec": "None",
        "junk": "['asyncio', 'main', 'sys']",
    }


def test_script_by_relative_path(tmp_path):
    write(tmp_path / "show.py", SHOW)
    shown = facts("show.py", cwd=tmp_path)
    assert shown["argv"] == "['show.py']"
    assert shown["path"] == str(tmp_path)
    assert shown["file"] == str(tmp_path / "show.py")


def test_module(tmp_path):
    path = write(tmp_path / "show.py", SHOW)
    shown = facts("-m", "show", "a", "-c", cwd=tmp_path)
    assert shown["loop"] == "uvtulip.loop"
    assert shown["argv"] == str([path, "a", "-c"])
    assert shown["path"] == str(tmp_path)
    assert shown["name"] == "__main__ True"
    assert shown["spec"] == "show"


def test_package(tmp_path):
    (tmp_path / "package").mkdir()
    write(tmp_path / "package" / "__init__.py", "")
    write(tmp_path / "package" / "__main__.py", SHOW)
    shown = facts("-m", "package", cwd=tmp_path)
    assert shown["loop"] == "uvtulip.loop"
    assert shown["spec"] == "package.__main__"


def test_folder_and_zip_file(tmp_path):
    write(tmp_path / "__main__.py", SHOW)
    shown = facts(str(tmp_path))
    assert shown["loop"] == "uvtulip.loop"
    assert shown["path"] == str(tmp_path)
    archive = tmp_path / "app.pyz"
    with zipfile.ZipFile(archive, "w") as file:
        file.write(tmp_path / "__main__.py", "__main__.py")
    shown = facts(str(archive))
    assert shown["loop"] == "uvtulip.loop"
    assert shown["argv"] == str([str(archive)])


def test_command():
    shown = facts("-c", SHOW, "x")
    assert shown["loop"] == "uvtulip.loop"
    assert shown["argv"] == "['-c', 'x']"
    assert shown["path"] == ""


@pytest.mark.parametrize(
    "how",
    [
        "asyncio.run(main())",
        "asyncio.Runner().__enter__().run(main())",
        "asyncio.new_event_loop().run_until_complete(main())",
        "asyncio.get_event_loop_policy().new_event_loop().run_until_complete(main())",
    ],
)
def test_every_way_to_a_loop(how):
    source = f"""
import asyncio, warnings
warnings.simplefilter("ignore")
async def main():
    print(type(asyncio.get_running_loop()).__module__)
{how}
"""
    assert finish("-c", source) == "uvtulip.loop\n"


@pytest.mark.skipif(sys.version_info < (3, 13), reason="came with Python 3.13")
def test_the_loop_that_suits_best():
    source = """
import asyncio
async def main():
    print(type(asyncio.get_running_loop()).__module__)
asyncio.run(main(), loop_factory=asyncio.EventLoop)
"""
    assert finish("-c", source) == "uvtulip.loop\n"


def test_no_future_of_ours_leaks_into_programs():
    """A program is compiled by its own rules, not by the launcher's imports."""
    out = finish("-c", "def f(x: 1 + 1): pass\nprint(f.__annotations__)")
    assert out == "{'x': 2}\n"


def test_missing_things(tmp_path):
    with launch("nothing.py", cwd=tmp_path) as program:
        code, _, err = program.finish()
    assert code == 2
    assert "cannot open" in err
    with launch("-m", "no_such_module") as program:
        code, _, err = program.finish()
    assert code == 1
    assert "No module named no_such_module" in err


@pytest.mark.parametrize(
    ("statement", "status", "errors"),
    [
        ("sys.exit()", 0, ""),
        ("sys.exit(3)", 3, ""),
        ("sys.exit('sorry')", 1, "sorry\n"),
        ("raise SystemExit(7)", 7, ""),
    ],
)
def test_exit_status(statement, status, errors):
    finish("-c", f"import sys; {statement}", status=status, errors=errors)
    source = f"""
import asyncio, sys
async def main():
    {statement}
asyncio.run(main())
"""
    finish("-c", source, status=status, errors=errors)


def test_exceptions_have_their_traceback(tmp_path):
    path = write(tmp_path / "fails.py", "def fails():\n    1 / 0\nfails()\n")
    with launch(path) as program:
        code, _, err = program.finish()
    assert code == 1
    assert f'File "{path}", line 2, in fails' in err
    assert err.endswith("ZeroDivisionError: division by zero\n")


SLEEPER = """
import asyncio
async def main():
    try:
        print("sleeping", flush=True)
        await asyncio.sleep(60)
    finally:
        print("cleaned up", flush=True)
asyncio.run(main())
"""


@pytest.mark.parametrize("kind", ["script", "module", "command"])
def test_ctrl_c(tmp_path, kind):
    path = write(tmp_path / "sleeper.py", SLEEPER)
    args = {
        "script": [path],
        "module": ["-m", "sleeper"],
        "command": ["-c", SLEEPER],
    }[kind]
    with launch(*args, cwd=tmp_path) as program:
        program.line("sleeping")
        program.interrupt()
        assert program.finish() == (130, "cleaned up\n", "")


def test_ctrl_c_without_asyncio():
    # A signal that comes just before time.sleep() does not shorten it.
    source = """if True:
        import time
        print('sleeping', flush=True)
        while True:
            time.sleep(0.05)
    """
    with launch("-c", source) as program:
        program.line("sleeping")
        program.interrupt()
        assert program.finish() == (130, "", "")


def test_pickling(tmp_path):
    source = """
        import pickle
        class Thing:
            pass
        copy = pickle.loads(pickle.dumps(Thing()))
        print(type(copy) is Thing, Thing.__module__)
    """
    path = write(tmp_path / "pickles.py", source)
    assert finish(path) == "True __main__\n"


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
def test_multiprocessing(tmp_path, method):
    source = f"""
        import multiprocessing, warnings
        warnings.simplefilter("ignore")
        def double(n):
            return 2 * n
        if __name__ == "__main__":
            with multiprocessing.get_context({method!r}).Pool(2) as pool:
                print(pool.map(double, range(5)))
                pool.close()
                pool.join()
    """
    path = write(tmp_path / "pool.py", source)
    assert finish(path) == "[0, 2, 4, 6, 8]\n"
    assert finish("-m", "pool", cwd=tmp_path) == "[0, 2, 4, 6, 8]\n"


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
@pytest.mark.parametrize("as_uvloop", [False, True])
def test_multiprocessing_children_have_the_loop(tmp_path, method, as_uvloop):
    source = f"""
        import asyncio, multiprocessing, sys, warnings
        warnings.simplefilter("ignore")
        async def name():
            return type(asyncio.get_running_loop()).__module__
        def child(queue):
            alias = sys.modules.get("uvloop")
            queue.put((asyncio.run(name()), alias and alias.__name__))
        if __name__ == "__main__":
            context = multiprocessing.get_context({method!r})
            queue = context.SimpleQueue()
            process = context.Process(target=child, args=(queue,))
            process.start()
            print(*queue.get())
            process.join()
    """
    path = write(tmp_path / "children.py", source)
    options = ["--as-uvloop"] if as_uvloop else []
    expected = f"uvtulip.loop {'uvtulip' if as_uvloop else None}\n"
    assert finish(*options, path) == expected


# ---- programs that ask for uvloop ----

USES_UVLOOP = """
    import asyncio, sys
    import uvloop
    import uvloop.loop
    from uvloop import Loop, new_event_loop, run, install
    async def main():
        return type(asyncio.get_running_loop())
    assert uvloop.loop.Loop is Loop and isinstance(new_event_loop(), Loop)
    assert run(main()) is uvloop.run(main()) is Loop
    print(uvloop.__version__, Loop.__module__)
    loop = uvloop.EventLoopPolicy().new_event_loop()
    print(loop.run_until_complete(main()).__name__)
    loop.close()
    install()
    print(asyncio.run(main()).__module__, sys.argv[1:])
"""


def test_as_uvloop(tmp_path):
    path = write(tmp_path / "program.py", USES_UVLOOP)
    expected = f"{uvtulip.__version__} uvtulip.loop\nLoop\nuvtulip.loop ['a']\n"
    assert finish("--as-uvloop", path, "a") == expected
    assert finish("--as-uvloop", "-m", "program", "a", cwd=tmp_path) == expected
    source = textwrap.dedent(USES_UVLOOP)
    assert finish("--as-uvloop", "-c", source, "a") == expected


def test_without_it_uvloop_is_not_touched():
    out = finish("-c", "import sys; print('uvloop' in sys.modules)")
    assert out == "False\n"


def test_as_uvloop_comes_first():
    with launch("-c", "import sys; print(sys.argv)", "--as-uvloop") as program:
        assert program.finish() == (0, "['-c', '--as-uvloop']\n", "")
    assert finish("--as-uvloop", "--version").startswith("uvtulip ")


def test_as_uvloop_in_place_of_the_word():
    """`import uvtulip as uvloop` serves programs that use uvloop's documented API."""
    source = textwrap.dedent(USES_UVLOOP).replace(
        "import uvloop\nimport uvloop.loop\nfrom uvloop import",
        "import uvtulip as uvloop\nimport uvtulip.loop\nfrom uvtulip import",
    )
    command = [sys.executable, "-c", source, "a"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("uvtulip.loop ['a']\n")


APP = """
    import asyncio
    async def app(scope, receive, send):
        assert scope["type"] == "http"
        module = type(asyncio.get_running_loop()).__module__
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": module.encode()})
"""


def fetch(url):
    """What the server there says, once it listens."""
    end = time.monotonic() + LIMIT
    while True:
        try:
            with urllib.request.urlopen(url, timeout=LIMIT) as response:
                return response.read()
        except urllib.error.URLError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


@pytest.mark.parametrize("workers", [1, 2])
def test_uvicorn_that_asks_for_uvloop(tmp_path, workers):
    write(tmp_path / "app.py", APP)
    port = free_port()
    with launch(
        *("--as-uvloop", "-m", "uvicorn", "app:app", "--loop", "uvloop"),
        *("--port", str(port), "--lifespan", "off", "--workers", str(workers)),
        cwd=tmp_path,
        merge=True,
    ) as program:
        assert fetch(f"http://127.0.0.1:{port}/") == b"uvtulip.loop"
        program.interrupt()
        program.finish()


# ---- the end ----


def test_atexit_and_threads_see_the_program(tmp_path):
    source = """
        import atexit, threading, sys, time
        value = "mine"
        def later():
            time.sleep(0.1)
            print(value, sys.modules["__main__"].value)
        threading.Thread(target=later).start()
        atexit.register(lambda: print("atexit", value))
    """
    path = write(tmp_path / "late.py", source)
    assert finish(path) == "mine mine\natexit mine\n"


# ---- the prompt ----

TYPED = """\
await asyncio.sleep(0.01, "slept")
type(asyncio.get_event_loop()).__module__
1 / 0
exit()
"""


def test_prompt_from_a_pipe():
    done = subprocess.run(
        [sys.executable, "-m", "uvtulip"],
        input=TYPED,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        env={**os.environ, "PYTHON_BASIC_REPL": "1"},
    )
    assert "'slept'" in done.stdout
    assert "'uvtulip.loop'" in done.stdout
    assert f"uvtulip {uvtulip.__version__} (libuv " in done.stdout
    assert "ZeroDivisionError" in done.stderr
    assert done.returncode == 0


class Terminal:
    """The other end of a terminal in which a program runs."""

    def __init__(self, *args):
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            args,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: take_terminal(0),
            env={**os.environ, "PYTHON_BASIC_REPL": "1", "TERM": "dumb"},
        )
        os.close(slave)
        self.shown = ""

    def type(self, text):
        os.write(self.master, text.encode())

    def until(self, pattern):
        while not re.search(pattern, self.shown):
            ready, _, _ = select.select([self.master], [], [], LIMIT)
            assert ready, f"no {pattern!r} in {self.shown!r}"
            try:
                self.shown += os.read(self.master, 65536).decode()
            except OSError:  # The other end is closed.
                assert re.search(pattern, self.shown), self.shown
        self.shown = self.shown[re.search(pattern, self.shown).end() :]

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(LIMIT)
        os.close(self.master)


def take_terminal(fd):
    import fcntl
    import termios

    fcntl.ioctl(fd, termios.TIOCSCTTY, 0)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_prompt_in_a_terminal():
    terminal = Terminal(sys.executable, "-m", "uvtulip")
    try:
        terminal.until(r">>> ")
        terminal.type("await asyncio.sleep(0.01, 'slept')\n")
        terminal.until(r"'slept'")
        terminal.type("type(asyncio.get_event_loop()).__module__\n")
        terminal.until(r"'uvtulip\.loop'")
        terminal.type("await asyncio.sleep(60)\n")
        terminal.until(r"sleep\(60\)\s")
        select.select([], [], [], 0.3)
        terminal.type("\x03")
        terminal.until(r"KeyboardInterrupt")
        terminal.type("1 + 1\n")
        terminal.until(r"\b2\b")
        terminal.type("exit()\n")
        assert terminal.process.wait(LIMIT) == 0
    finally:
        terminal.close()
