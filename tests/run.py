"""`make test`: install what the tests need, then run all of them, part by part, with a summary at the end.

What could clash with a stack brought up by `make up` (ports, bridges, Docker, paths) happens in network
namespaces and containers of the tests' own, so such a stack goes on as it is. Ends with 0 only if all passed.

Tests on real parts have deadlines, and two cores carry browsers, machines and a roll-out at once. Where only
a few of a part failed, those run once more when it is over. One that passes then is `unsteady` in the
summary, with what it said first: no failure of the run, and a fault to look for all the same.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from tests.as_root import given_back, typed_by_sudo

ROOT = Path(__file__).parent.parent
POLICY = Path("/usr/sbin/policy-rc.d")


@dataclass(frozen=True)
class Need:
    """The tests call `program`; where none is on the path, Debian's `package` brings it."""

    program: str
    package: str


NEEDS = (
    Need("dockerd", "docker.io"),
    Need("docker", "docker.io"),
    Need("containerd", "containerd"),
    Need("iptables", "iptables"),
    Need("ip", "iproute2"),
    Need("nsenter", "util-linux"),
    Need("ps", "procps"),
    Need("git", "git"),
    Need("ssh-keygen", "openssh-client"),
    Need("mmdebstrap", "mmdebstrap"),
    Need("busybox", "busybox-static"),
    Need("supervisord", "supervisor"),
    Need("Xtigervnc", "tigervnc-standalone-server"),
    Need("tigervncpasswd", "tigervnc-tools"),
    Need("chromium", "chromium"),
    Need("pg_ctlcluster", "postgresql"),
)


@dataclass(frozen=True)
class Part:
    """Tests that run together. `budget_seconds` on two cores: longer is said, not punished."""

    name: str
    markers: str
    budget_seconds: int
    verbose: bool
    spread: str | None = None
    """How xdist spreads tests that may run beside each other in one network and file system: each by itself
    (`load`), or those that share parts one after the other (`loadscope`, see conftest.py)."""
    daemon: str = "hosts"
    """Name of the dockerd that carries its hosts: parts that run at once need their own."""
    runs_again: bool = True
    """What failed; not where tests need nothing that is busy."""
    on_postgres: bool = False
    """The stores of its tests are on a PostgreSQL server, and those without a store are left out."""


FAST = "not real and not host and not browser"
REAL = "(real or browser) and not host"
FAST_TESTS = Part("fast tests", FAST, 120, verbose=False, spread="load", runs_again=False)
PARTS: tuple[tuple[Part, ...], ...] = (
    (FAST_TESTS,),
    (replace(FAST_TESTS, name="fast tests on PostgreSQL", on_postgres=True),),
    (Part("real parts and Chromium on this machine", REAL, 660, verbose=False, spread="loadscope"),),
    (
        Part("one host", "host and not fleet", 1200, verbose=True),
        Part("a fleet", "host and fleet", 1200, verbose=True, daemon="fleets"),
    ),
)
"""One after the other; those of one line at once, because they wait for packages more than they compute."""
MOST_RUN_AGAIN = 8
"""Failed tests of one part. More than that is no accident, and would take long."""
FAILED_TESTS = 1
"""pytest's exit code; above it, it was not the tests that failed."""


@dataclass(frozen=True)
class Outcome:
    part: Part
    code: int
    seconds: float
    counts: str
    longest: str
    """Where most of its time went."""
    failed: Mapping[str, str]
    """The tests, each with the first of what was wrong."""
    unsteady: Mapping[str, str]
    """The same, of tests that passed when they ran again."""


def main() -> int:
    why = "The tests start machines of their own, which takes root"
    code = typed_by_sudo("tests.run", sys.argv[1:], why=why)
    return run_all(sys.argv[1:]) if code is None else code


def run_all(more: Sequence[str]) -> int:
    """more: further arguments of pytest."""
    started = time.monotonic()
    with given_back():
        install_what_is_missing()
        outcomes = [outcome for parts in PARTS for outcome in run_at_once(parts, more)]
    print_summary(outcomes, time.monotonic() - started)
    return 1 if any(outcome.code for outcome in outcomes) else 0


# --- what the tests need ---


def install_what_is_missing(needs: Sequence[Need] = NEEDS) -> None:
    """Debian's packages for the programs that are not there; says which, and shows how it gets on."""
    packages = sorted({need.package for need in needs if not is_there(need.program)})
    if not packages:
        print("All that is needed is installed.", flush=True)
        return
    print(f"Needed, and installed from Debian now: {', '.join(packages)}", flush=True)
    with services_stay_off():
        apt_get("update", "-q")
        apt_get("install", "-q", "--yes", "--no-install-recommends", *packages)
    still_missing = [need.program for need in needs if not is_there(need.program)]
    if still_missing:
        raise SystemExit(f"still missing after the installation: {', '.join(still_missing)}")


def is_there(program: str) -> bool:
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is not None


def apt_get(*arguments: str) -> None:
    """Show apt's output line by line, so that a long download is seen to move; ends the run if apt fails."""
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    command = ["apt-get", "-o", "Dpkg::Use-Pty=0", *arguments]
    with subprocess.Popen(
        command,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if line.startswith(("Get:", "Fetched", "Setting up")):
                print(f"  {line.rstrip()[:100]}", flush=True)
    if process.returncode:
        raise SystemExit(f"apt-get {arguments[0]} failed:\n{''.join(said[-15:])}")


@contextlib.contextmanager
def services_stay_off() -> Iterator[None]:
    """Installing a package must not start its service: the machine's Docker is not for the tests to start."""
    if POLICY.exists():  # the machine has a policy already; it is left alone
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()


# --- running ---


def run_at_once(parts: Sequence[Part], more: Sequence[str]) -> list[Outcome]:
    labels = [f"[{part.name}]" if len(parts) > 1 else "" for part in parts]
    with ThreadPoolExecutor(len(parts)) as pool:
        return list(pool.map(lambda part, label: run_part(part, more, label), parts, labels))


def run_part(part: Part, more: Sequence[str], label: str) -> Outcome:
    print(f"\n=== {part.name} (budget {minutes(part.budget_seconds)})", flush=True)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        report = folder / "report.xml"
        together = ["-n", "auto", "--dist", part.spread] if part.spread else []
        code = run_pytest(part, folder, report, [*together, *more], label)
        failed: dict[str, str] = failed_in(report)
        unsteady: dict[str, str] = {}
        if code == FAILED_TESTS and part.runs_again and len(failed) <= MOST_RUN_AGAIN:
            print(f"\n=== {part.name}: once more, one by one, what failed", flush=True)
            second = folder / "second.xml"
            code = run_pytest(part, folder, second, ["--last-failed", *more], label)
            failed, unsteady = of_both_runs(failed, failed_in(second), code)
        seconds = time.monotonic() - started
        return Outcome(part, code, seconds, counts_of(report), longest_of(report), failed, unsteady)


def of_both_runs(
    first: dict[str, str], second: dict[str, str], code: int
) -> tuple[dict[str, str], dict[str, str]]:
    """Which tests failed, and which are unsteady. `first` and `second` are from `failed_in`, `code` is the
    second run's."""
    if code not in (0, FAILED_TESTS):
        return first, {}
    return second, {name: line for name, line in first.items() if name not in second}


def run_pytest(part: Part, folder: Path, report: Path, more: Sequence[str], label: str) -> int:
    """Run the part's tests; what failed is kept in `folder` for a next time."""
    # With --capture=sys what is said past sys.stderr, such as the progress of `make up`, is seen at once.
    manner = ["-v", "--capture=sys"] if part.verbose else ["-q"]
    command = [sys.executable, "-m", "pytest", "-m", part.markers, f"--junitxml={report}", "-rs",
               "--durations=5", "-o", f"cache_dir={folder / 'cache'}", *manner, *more]  # fmt: skip
    return run_shown(command, test_environment(part), label)


def run_shown(command: Sequence[str], env: dict[str, str], label: str) -> int:
    """Run `command`, its lines shown as they come; after `label`, where others show theirs in between."""
    if not label:
        return subprocess.run(command, cwd=ROOT, env=env, check=False).returncode
    with subprocess.Popen(
        command, cwd=ROOT, env=env, text=True, errors="replace",
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            print(f"{label} {line.rstrip()}", flush=True)
    return process.returncode


def test_environment(part: Part) -> dict[str, str]:
    """/usr/sbin is not on everybody's path, and dockerd and iptables lie there. What Python compiles is kept
    (see Makefile); sudo does not hand that on."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    database = {"DESKFLEET_TEST_POSTGRES": "1"} if part.on_postgres else {}
    compiled = {"PYTHONPYCACHEPREFIX": str(ROOT / ".local/pycache"), "PYTHONDONTWRITEBYTECODE": ""}
    return {**os.environ, "PATH": path, "DESKFLEET_TEST_DAEMON": part.daemon, **compiled, **database}


def counts_of(report: Path) -> str:
    """`120 passed, 1 failed, 2 skipped`, from pytest's own report."""
    if not report.exists():
        return "pytest did not run"
    suite = ElementTree.parse(report).getroot().find("testsuite")
    if suite is None:
        return "nothing was run"
    numbers = {name: int(suite.get(name, "0")) for name in ("tests", "failures", "errors", "skipped")}
    failed = numbers["failures"] + numbers["errors"]
    passed = numbers["tests"] - failed - numbers["skipped"]
    return f"{passed} passed, {failed} failed, {numbers['skipped']} skipped"


def longest_of(report: Path, most: int = 6) -> str:
    """`worker 312 s, pages 280 s`: of the folders of tests, and of the files that are in none."""
    seconds: dict[str, float] = {}
    cases = ElementTree.parse(report).iter("testcase") if report.exists() else ()
    for case in cases:
        _, name, *inside = case.get("classname", "tests.nowhere").split(".")
        scope = name if inside and inside[0].startswith("test_") else f"{name}.py"
        seconds[scope] = seconds.get(scope, 0.0) + float(case.get("time", "0"))
    longest = sorted(seconds.items(), key=lambda found: -found[1])[:most]
    return ", ".join(f"{scope} {took:.0f} s" for scope, took in longest)


def failed_in(report: Path) -> dict[str, str]:
    """Of `tests/test_store.py::test_x` what pytest says first: `assert 1 == 2`."""
    cases = ElementTree.parse(report).iter("testcase") if report.exists() else ()
    said: dict[str, str] = {}
    for case in cases:
        for trouble in (*case.iterfind("failure"), *case.iterfind("error")):
            name = f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}"
            first_line = trouble.get("message", "").partition("\n")[0]
            said.setdefault(name, first_line[:200])
    return said


def print_summary(outcomes: Sequence[Outcome], seconds: float) -> None:
    print("\n=== summary", flush=True)
    for outcome in outcomes:
        verdict = "ok    " if outcome.code == 0 else "FAILED"
        over = " (over its budget)" if outcome.seconds > outcome.part.budget_seconds else ""
        took = f"{minutes(outcome.seconds)} of {minutes(outcome.part.budget_seconds)}{over}"
        print(f"{verdict}  {outcome.part.name}: {outcome.counts}; {took}")
        print(f"          longest: {outcome.longest}")
        for name, line in outcome.failed.items():
            print(f"          failed: {name}: {line}")
        for name, line in outcome.unsteady.items():
            print(f"          unsteady, passed when it ran again: {name}: {line}")
    print(f"all together {minutes(seconds)}", flush=True)


def minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


if __name__ == "__main__":
    raise SystemExit(main())
