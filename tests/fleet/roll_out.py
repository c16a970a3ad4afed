"""The documented commands, typed by an operator in a checkout, and what they answer."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from tests.fleet.operator import Operator
from tests.hosts.bare_host import say
from tests.hosts.lan import Lan

SECONDS = 900


class RollOutFailed(RuntimeError):
    """It ended with another code than 0; the text ends with what it said last."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow")


class Planned(_Part):
    """One operation of a `--dry` run: the hosts that it would, or may, change."""

    name: str
    hosts_with_change: tuple[str, ...]
    hosts_with_conditional_change: tuple[str, ...]


class Operation(_Part):
    """One operation of a run, by hosts. success: those that it changed."""

    name: str
    success: tuple[str, ...]
    error: tuple[str, ...]
    no_change: tuple[str, ...]


class Totals(_Part):
    """Operations, counted once per host."""

    hosts: int
    success: int
    error: int
    no_change: int


class Results(_Part):
    operations: tuple[Operation, ...]
    totals: Totals
    failed_hosts: tuple[str, ...]


class Report(_Part):
    """What `pyinfra --json` prints."""

    plan: tuple[Planned, ...]
    results: Results | None


@dataclass(frozen=True)
class RollOut:
    """report: None where the run ended before it had one. said: stderr."""

    code: int
    report: Report | None
    said: str
    seconds: float

    @property
    def results(self) -> Results:
        if self.report is None or self.report.results is None:
            raise RollOutFailed(f"no results (code {self.code}):\n{self.said[-6000:]}")
        return self.report.results

    @property
    def changes(self) -> dict[str, set[str]]:
        """Name of the operation → hosts it changed; a role that runs in two phases has each name twice."""
        found: dict[str, set[str]] = {}
        for operation in self.results.operations:
            if operation.success:
                found.setdefault(operation.name, set()).update(operation.success)
        return found

    @property
    def changed_hosts(self) -> set[str]:
        return set().union(*self.changes.values())


@dataclass
class Running:
    """A roll-out on its way."""

    process: subprocess.Popen[str]
    out: Path
    _started: float = field(default_factory=time.monotonic)
    _said: list[str] = field(default_factory=list)

    def follow(self, until: str | None = None, *, show: bool = True) -> bool:
        """Read what it says until a line holds `until` (True), or it says no more (False)."""
        if self.process.stderr is None:
            raise RuntimeError("no pipe to pyinfra")
        for line in self.process.stderr:
            self._said.append(line)
            if show and "Starting operation: " in line:
                say(f"{time.monotonic() - self._started:6.1f} s  {line.partition(': ')[2].strip()}")
            if until is not None and until in line:
                return True
        return False

    def kill(self) -> None:
        """kill -9, as a power cut on the operator's side."""
        self.process.kill()
        self.finish(show=False)

    def finish(self, *, show: bool = True) -> RollOut:
        self.follow(show=show)
        code = self.process.wait(SECONDS)
        if self.process.stderr:
            self.process.stderr.close()
        text = self.out.read_text()
        report = Report.model_validate_json(text) if code >= 0 and text.lstrip().startswith("{") else None
        return RollOut(code, report, "".join(self._said), time.monotonic() - self._started)


@dataclass(frozen=True)
class Checkout:
    """A clone in which an operator types; his machine reaches the hosts of `lan`."""

    path: Path
    lan: Lan
    operator: Operator

    def start(self, *arguments: str, env: Mapping[str, str] | None = None) -> Running:
        """Type `pyinfra …`."""
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("DESKFLEET_")}
        path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
        out = self.operator.folder / "printed"
        with out.open("w") as stdout:
            process = subprocess.Popen(
                self.lan.operator("pyinfra", *arguments),
                cwd=self.path,
                env={**inherited, "PATH": path, **self.operator.env, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
            )
        return Running(process, out)

    def roll_out(self, *more: str, check: bool = True, show: bool = True) -> RollOut:
        """Type `pyinfra inventory deploy.py -y --json …`; raises RollOutFailed when `check` and the code
        isn't 0."""
        return self._typed("-y", *more, check=check, show=show)

    def dry(self, *more: str) -> RollOut:
        """Type `pyinfra inventory deploy.py --dry --json …`."""
        return self._typed("--dry", *more, check=True, show=False)

    def _typed(self, *arguments: str, check: bool, show: bool) -> RollOut:
        done = self.start("inventory", "deploy.py", "--json", *arguments).finish(show=show)
        if check and done.code:
            raise RollOutFailed(f"the roll-out ended with {done.code}:\n{done.said[-6000:]}")
        return done
