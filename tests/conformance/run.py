#!/usr/bin/env python3
"""Run the interpreter's own test.test_asyncio on uvtulip in place of its own loop.

    python tests/conformance/run.py [--loop uvtulip|asyncio] [--verbose] [MODULE...]

Each module runs in a process of its own.  A test that crashes or hangs is one
failure: the module is then started again for the tests after it.  expected.py
names the tests that are known to fail, each with its reason; the run fails when
another test fails, and also when a named one passes.
"""

import argparse
import asyncio
import collections
import faulthandler
import gc
import importlib
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import types
import unittest
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import expected

sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent))

import signaldefaults

# All that can run on another loop or need none: test_windows_* need Windows.
MODULES = [
    "test_base_events",
    "test_buffered_proto",
    "test_context",
    "test_eager_task_factory",
    "test_events",
    "test_free_threading",
    "test_futures",
    "test_futures2",
    "test_graph",
    "test_locks",
    "test_pep492",
    "test_proactor_events",
    "test_protocols",
    "test_queues",
    "test_runners",
    "test_selector_events",
    "test_sendfile",
    "test_server",
    "test_sock_lowlevel",
    "test_ssl",
    "test_sslproto",
    "test_staggered",
    "test_streams",
    "test_subprocess",
    "test_taskgroups",
    "test_tasks",
    "test_threads",
    "test_timeouts",
    "test_tools",
    "test_transports",
    "test_unix_events",
    "test_waitfor",
]

# The same tests once more, only with another selector given to the loop.
SELECTOR_VARIANTS = {"EPollEventLoopTests", "PollEventLoopTests"}

# Their tests make a BaseEventLoop, which they put mocks into.
MAKERS = {"test_base_events", "test_pep492", "test_runners"}

# What test classes call the method that returns a loop of their own choice.
FACTORY_METHOD = "create_event_loop"

TEST_LIMIT = 40.0  # seconds
MODULE_LIMIT = 300.0


class Recorder(unittest.TestResult):
    """Writes a line of JSON when a test starts and when it ends."""

    def __init__(self, path: pathlib.Path, prefix: str) -> None:
        super().__init__()
        self.file = path.open("a", encoding="utf-8")
        self.prefix = prefix
        self.outcome: tuple[str, str] | None = None

    def name(self, test: Any) -> str:
        return str(test.id()).removeprefix(self.prefix)

    def emit(self, **record: str) -> None:
        self.file.write(json.dumps(record) + "\n")
        self.file.flush()

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self.outcome = None
        faulthandler.dump_traceback_later(TEST_LIMIT, exit=True)
        self.emit(event="start", test=self.name(test))

    def stopTest(self, test: unittest.TestCase) -> None:
        faulthandler.cancel_dump_traceback_later()
        outcome, detail = self.outcome or ("passed", "")
        self.emit(event="end", test=self.name(test), outcome=outcome, detail=detail)
        super().stopTest(test)
        # What a failed test left open is not for the next one to be warned of.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            gc.collect()

    def record(self, test: Any, outcome: str, detail: str) -> None:
        if not isinstance(test, unittest.TestCase) and outcome == "failed":
            # setUpClass or setUpModule: no test of its own was started.
            self.emit(event="end", test=self.name(test), outcome=outcome, detail=detail)
        elif self.outcome is None or self.outcome[0] != "failed":
            self.outcome = (outcome, detail)

    def addError(self, test: unittest.TestCase, err: Any) -> None:
        self.record(test, "failed", self.text(err, test))

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:
        self.record(test, "failed", self.text(err, test))

    def addSubTest(
        self, test: unittest.TestCase, subtest: unittest.TestCase, err: Any
    ) -> None:
        if err is not None:
            self.record(test, "failed", self.text(err, test))

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        self.record(test, "skipped", reason)

    def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:
        self.record(test, "failed", "unexpected success")

    def text(self, err: Any, test: unittest.TestCase) -> str:
        return str(self._exc_info_to_string(err, test))  # type: ignore[attr-defined]


def install_loop() -> Callable[[], asyncio.AbstractEventLoop]:
    """Make uvtulip what asyncio calls its default, and return the factory."""
    import uvtulip

    # "No policy" means the default one, which the test modules ask for often.
    for name in ("DefaultEventLoopPolicy", "_DefaultEventLoopPolicy"):
        if name in vars(asyncio):
            setattr(asyncio, name, uvtulip.EventLoopPolicy)
    asyncio.SelectorEventLoop = uvtulip.Loop  # type: ignore[misc, assignment]
    if hasattr(asyncio, "EventLoop"):
        asyncio.EventLoop = uvtulip.Loop
    asyncio.set_event_loop_policy(uvtulip.EventLoopPolicy())
    return uvtulip.new_event_loop


def replace_factories(
    module: types.ModuleType, factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    for value in list(vars(module).values()):
        if not isinstance(value, type):
            continue
        if FACTORY_METHOD in vars(value):
            setattr(value, FACTORY_METHOD, lambda self: factory())


def cases(suite: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from cases(item)
        else:
            yield item


def child(name: str, loop: str, results: pathlib.Path, skip: set[str]) -> None:
    """Run one module's tests in this process, except those named in skip."""
    faulthandler.enable()
    signaldefaults.restore()
    factory = install_loop() if loop == "uvtulip" else None
    module = importlib.import_module(f"test.test_asyncio.{name}")
    if factory is not None:
        replace_factories(module, factory)
        if name in MAKERS:
            for owner in (asyncio, asyncio.base_events):
                owner.BaseEventLoop = asyncio.SelectorEventLoop
    prefix = "test.test_asyncio."
    suite = unittest.TestSuite(
        test
        for test in cases(unittest.defaultTestLoader.loadTestsFromModule(module))
        if type(test).__name__ not in SELECTOR_VARIANTS
        and test.id().removeprefix(prefix) not in skip
        and test.id().removeprefix(prefix).rpartition(".")[0] not in skip
    )
    recorder = Recorder(results, prefix)
    suite.run(recorder)
    recorder.emit(event="done")
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads or objects that a failed test left behind end here.
    os._exit(0)


def read_results(path: pathlib.Path) -> tuple[dict[str, tuple[str, str]], str, bool]:
    """What ended and how; the test that was running; whether all have run."""
    ended: dict[str, tuple[str, str]] = {}
    running = ""
    done = False
    for line in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if record["event"] == "start":
            running = record["test"]
        elif record["event"] == "end":
            ended[record["test"]] = (record["outcome"], record["detail"])
            running = ""
        else:
            done = True
    return ended, running, done


def run_module(name: str, loop: str, excluded: set[str]) -> dict[str, tuple[str, str]]:
    """Run a module in child processes until all its tests have an outcome."""
    outcomes: dict[str, tuple[str, str]] = {}
    while True:
        with tempfile.TemporaryDirectory() as folder:
            results = pathlib.Path(folder, "results")
            results.touch()
            skip = pathlib.Path(folder, "skip")
            skip.write_text(json.dumps(sorted(excluded | set(outcomes))))
            command = [sys.executable, __file__, "--loop", loop]
            command += ["--child", name, str(results), str(skip)]
            try:
                process = subprocess.run(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    errors="replace",
                    timeout=MODULE_LIMIT,
                    cwd=folder,
                )
                why = f"crash or hang: exit status {process.returncode}"
                output = process.stdout
            except subprocess.TimeoutExpired as error:
                why = f"the module took more than {MODULE_LIMIT:.0f} s"
                output = (error.stdout or b"").decode(errors="replace")
            ended, running, done = read_results(results)
        outcomes.update(ended)
        if done:
            return outcomes
        tail = "\n".join(output.splitlines()[-40:])
        outcomes[running or name] = ("failed", f"{tail}\n{why}")
        if not running:
            return outcomes


def judge(
    outcomes: dict[str, tuple[str, str]], known: dict[str, str]
) -> tuple[list[str], list[str], collections.Counter[str]]:
    """Split into unlisted failures and listed tests that pass; count all."""
    counts: collections.Counter[str] = collections.Counter()
    failures = []
    passes = []
    for test, (outcome, _) in outcomes.items():
        if outcome == "failed" and test in known:
            counts["failed as listed"] += 1
        else:
            counts[outcome] += 1
        if outcome == "failed" and test not in known:
            failures.append(test)
        elif outcome == "passed" and test in known:
            passes.append(test)
    return failures, passes, counts


def show(counts: collections.Counter[str]) -> str:
    order = ("passed", "skipped", "failed as listed", "excluded", "failed")
    return ", ".join(f"{counts[key]} {key}" for key in order)


def run(modules: Iterable[str], loop: str, verbose: bool) -> int:
    known = expected.failing(loop)
    excluded = expected.excluded(loop)
    total: collections.Counter[str] = collections.Counter()
    bad = 0
    for name in modules:
        if importlib.util.find_spec(f"test.test_asyncio.{name}") is None:
            print(f"{name:<22} not in this Python", flush=True)
            continue
        out = {test for test in excluded if test.split(".")[0] == name}
        outcomes = run_module(name, loop, out)
        failures, passes, counts = judge(outcomes, known)
        counts["excluded"] = len(out)
        print(f"{name:<22} {show(counts)}", flush=True)
        for test in failures:
            print(f"  FAILED {test}")
            lines = outcomes[test][1].rstrip().splitlines()
            for line in lines if verbose else lines[-1:]:
                print(f"      {line}")
        for test in passes:
            print(f"  PASSES, though listed as failing ({known[test]}): {test}")
        bad += len(failures) + len(passes)
        total += counts
    print(f"{'total':<22} {show(total)}")
    if bad:
        print(f"conformance: {bad} tests are not as tests/conformance/expected.py says")
    return 1 if bad else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="e.g. test_events")
    parser.add_argument("--loop", choices=("uvtulip", "asyncio"), default="uvtulip")
    parser.add_argument("--verbose", action="store_true", help="show whole tracebacks")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        name, results, skip = args.child
        names = set(json.loads(pathlib.Path(skip).read_text()))
        child(name, args.loop, pathlib.Path(results), names)
    if importlib.util.find_spec("test.test_asyncio") is None:
        print(
            "conformance: this Python comes without test.test_asyncio"
            " (Debian: install libpython3.X-testsuite)",
            file=sys.stderr,
        )
        return 2
    version = sys.version.split()[0]
    print(f"test.test_asyncio of CPython {version} on {args.loop}", flush=True)
    return run(args.modules or MODULES, args.loop, args.verbose)


if __name__ == "__main__":
    sys.exit(main())
