"""Other projects' own test suites, on uvtulip's loop.

suites.toml names the projects.  Each one has a virtual environment of its own in
$UVTULIP_SUITES (build/suites of this tree), with the uvtulip that runs this file.
The tests come from the source distribution of the version that suites.toml names, or
from the project's repository.  A suite runs on uvtulip's loop.  What fails there runs
again, and then on asyncio's loop.  A test that fails on uvtulip's loop alone is a
failure, unless suites.toml tolerates that test with a reason.  Nothing of a project
stays in the tree.
"""

import functools
import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from typing import Any

import pytest

import uvtulip

HERE = pathlib.Path(__file__).resolve().parent
TREE = HERE.parent.parent
VERSION = "{}.{}".format(*sys.version_info)
ROOT = pathlib.Path(os.environ.get("UVTULIP_SUITES", TREE / "build" / "suites"))
SUITES: dict[str, dict[str, Any]] = tomllib.loads((HERE / "suites.toml").read_text())
# What an environment is made of: it is made again when one of these changes.
INSTALLED = ("version", "package", "extras", "requires", "hidden", "repository", "tag")
LIMIT = 1500  # seconds for one run of a suite
TRIES = 3  # so often may a test fail before it counts: these suites measure time

# In the environment of a suite: Python runs this file whenever it starts.
CUSTOMIZE = """\
import os

if os.environ.get("UVTULIP_SUITE"):
    from uvtulip.takeover import take_over

    take_over(as_uvloop=os.environ["UVTULIP_SUITE"] == "uvloop")
"""


def pip(home: pathlib.Path, *args: str) -> None:
    command = [home / "bin" / "python", "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*command, *args], check=True, stdout=subprocess.DEVNULL)


@functools.cache
def site(home: pathlib.Path) -> pathlib.Path:
    found = sysconfig.get_path("purelib", vars={"base": str(home)})
    assert found
    return pathlib.Path(found)


def prepare(name: str, suite: dict[str, Any]) -> tuple[pathlib.Path, pathlib.Path]:
    """Make the environment and the folder of the sources, or find them made."""
    folder = ROOT / f"{name}-{suite['version']}-{VERSION}"
    home, sources, done = folder / "venv", folder / "sources", folder / "done"
    wanted = repr([suite.get(key) for key in INSTALLED])
    if not done.exists() or done.read_text() != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        subprocess.run([sys.executable, "-m", "venv", home], check=True)
        requirement = f"{suite.get('package', name)}=={suite['version']}"
        extras = suite.get("extras", "")
        pip(home, "install", "-q", "pytest-timeout", *suite.get("requires", ["pytest"]))
        pip(home, "install", "-q", requirement.replace("==", f"{extras}=="))
        if "repository" in suite:
            clone(name, suite, sources)
        else:
            unpack(home, requirement, folder, sources, suite.get("hidden", []))
        done.write_text(wanted)
    # The uvtulip of this run, wherever it was installed, and the hook.
    (site(home) / "sitecustomize.py").write_text(CUSTOMIZE + suite.get("start", ""))
    package = pathlib.Path(uvtulip.__file__).parent
    shutil.rmtree(site(home) / "uvtulip", ignore_errors=True)
    shutil.copytree(package, site(home) / "uvtulip")
    return home, sources


def unpack(
    home: pathlib.Path,
    requirement: str,
    folder: pathlib.Path,
    sources: pathlib.Path,
    hidden: list[str],
) -> None:
    package = requirement.partition("==")[0]
    options = ["-q", "--no-deps", "--no-binary", package, "--dest", str(folder)]
    pip(home, "download", *options, requirement)
    [archive] = folder.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    [top] = [path.parent for path in folder.glob("*/PKG-INFO")]
    top.rename(sources)
    for path in hidden:
        shutil.rmtree(sources / path)


def clone(name: str, suite: dict[str, Any], sources: pathlib.Path) -> None:
    """For a project whose source distribution has no tests."""
    variable = f"UVTULIP_MIRROR_{name.upper()}"
    url = os.environ.get(variable, suite["repository"])
    command = ["git", "clone", "-q", "--depth", "1", "--branch", suite["tag"]]
    result = subprocess.run(
        [*command, url, sources], capture_output=True, text=True, timeout=300
    )
    if result.returncode != 0:
        pytest.skip(
            f"the sources cannot be had: {result.stderr.strip()}"
            f" (${variable} may name a copy of the repository)"
        )


def outcomes(report: pathlib.Path) -> dict[str, str]:
    """What became of each test: "passed", "skipped", or what it failed with."""
    result = {}
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        faults = [*case.iter("failure"), *case.iter("error")]
        if faults:
            result[name] = f"{faults[0].get('message')}\n{faults[0].text}"
        else:
            result[name] = "skipped" if case.find("skipped") is not None else "passed"
    return result


class Runner:
    def __init__(self, name: str, address: Callable[[], Any]) -> None:
        self.suite = SUITES[name]
        self.home, self.sources = prepare(name, self.suite)
        self.report = self.sources.parent / "report.xml"
        self.variables: dict[str, str] = dict(self.suite.get("environment", {}))
        if self.suite.get("postgres"):
            server = address()
            self.variables["PGPASSWORD"] = "tulip"
            self.variables[self.suite["postgres"]] = (
                f"host={server.folder} port={server.port} user=tulip dbname=tulip"
            )

    def run(self, loop: str, names: list[str] | None = None) -> dict[str, str]:
        """Run all tests, or those that are named, on "asyncio" or "uvtulip"."""
        suite = self.suite
        options = list(suite.get("options", []))
        variables = {**os.environ, **self.variables}
        for name in ("PYTHONPATH", "PYTEST_ADDOPTS", "UVTULIP_TLS"):
            variables.pop(name, None)
        variables["PATH"] = f"{self.home / 'bin'}:{variables['PATH']}"
        if loop == "uvtulip":
            variables["UVTULIP_SUITE"] = suite.get("as", "asyncio")
            options += suite.get("choose", [])
        self.report.unlink(missing_ok=True)
        cache = self.report.with_name("cache")
        shutil.rmtree(cache, ignore_errors=True)
        command = [self.home / "bin" / "python", "-m", "pytest", "-q", "-o", "addopts="]
        command += [f"--junitxml={self.report}", "-o", "junit_family=xunit1"]
        command += ["-o", "junit_logging=no", "-o", f"cache_dir={cache}"]
        command += ["--timeout=60", "--timeout-method=signal", *options]
        for test in suite.get("left_out", []):
            command += ["--deselect", test["test"]]
        if names is not None:
            patterns = {re.sub(r"\[.*", "", name.split("::")[-1]) for name in names}
            command += ["-k", " or ".join(sorted(patterns))]
        which = loop if names is None else f"{loop}-again"
        path = self.sources.parent / f"{which}.log"
        with path.open("w") as log:
            process = subprocess.run(
                [*command, *suite["tests"]],
                cwd=self.sources / suite.get("folder", ""),
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=LIMIT,
            )
        assert process.returncode in (0, 1), path.read_text()[-3000:]
        return outcomes(self.report)


def failed(result: dict[str, str]) -> set[str]:
    return {name for name, what in result.items() if what not in ("passed", "skipped")}


@pytest.mark.parametrize("name", SUITES)
def test_suite(name: str, request: pytest.FixtureRequest) -> None:
    runner = Runner(name, lambda: request.getfixturevalue("postgres"))
    first = runner.run("uvtulip")
    passed = sum(what == "passed" for what in first.values())
    bad = failed(first)
    details = {test: first[test] for test in bad}
    for _ in range(TRIES - 1):
        if bad:
            bad &= failed(runner.run("uvtulip", sorted(bad)))
    # What fails on asyncio's loop too, once, is the suite's own fault.
    own = bad & failed(runner.run("asyncio", sorted(bad))) if bad else set()
    worse = bad - own
    allowed = {test["test"] for test in runner.suite.get("tolerated", [])}
    print(
        f"{name} {runner.suite['version']}: {passed} passed, {len(details)} failed"
        f" at first; {len(bad)} of them again, {len(own)} of these on asyncio too,"
        f" {len(worse & allowed)} tolerated"
    )
    for test in sorted(details.keys() - bad):
        print(f"--- only at first: {test}\n{details[test][-1500:]}")
    for test in sorted(worse - allowed):
        print(f"--- {test}\n{details[test][-2500:]}")
    assert passed > runner.suite["least"]
    assert not worse - allowed
