"""Shows a roll-out to the person who waits for it: every step by name, with seconds, and that long steps
move."""

from __future__ import annotations

import os
import re
import select
import subprocess
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TextIO

from roles.report import HEADING

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")
_STEP = re.compile(r"^--> Starting operation: (?P<name>.*?)\s*$")
_RESULT = re.compile(r"^    \[(?P<host>[^]]+)\] +(?P<result>Success|No changes|Skipped|Error.*)$")
_OUTPUT = re.compile(r"^\s*\[(?P<host>[^]]+)\] ?(?P<text>.*)$")
_HERE = "@local"

_BEAT_SECONDS = 10.0
"""How often a long step is shown to move where the line cannot be rewritten."""


@dataclass
class Step:
    name: str
    started: float
    seconds: float = 0.0
    changed: bool = False
    failed: bool = False

    @property
    def role(self) -> str:
        return self.name.split(" | ")[0]


@dataclass
class Progress:
    """Reads pyinfra's lines and writes ours. `out` may be a terminal: then the running step's line is
    rewritten."""

    out: TextIO
    steps: list[Step] = field(default_factory=list)
    said: deque[str] = field(default_factory=lambda: deque(maxlen=40))
    report: list[str] = field(default_factory=list)
    """What the roll-out itself says of each host at its end."""
    _reporting: bool = False
    _beat: float = 0.0
    _last: str = ""

    def line(self, raw: str, now: float) -> None:
        """Take one line that pyinfra wrote."""
        text = _ESCAPES.sub("", raw).rstrip()
        if text == HEADING or self._reporting:
            self._reporting = True
            if text == HEADING or text.startswith("    "):
                self.report.append(text)
        elif step := _STEP.match(text):
            self._end(now)
            self.steps.append(Step(step["name"], started=now))
            self.said.clear()
            self._last, self._beat = "", now
            self.show(now)
        elif result := _RESULT.match(text):
            self._result(result["host"], result["result"], now)
        elif text.strip():
            output = _OUTPUT.match(text)
            words = _of(output["host"], output["text"]) if output else text
            self._last = words.strip() or self._last
            self.said.append(words)

    def show(self, now: float) -> None:
        """Say what runs now; called every second or so."""
        if not self._running:
            return
        step = self.steps[-1]
        seconds = now - step.started
        if self.out.isatty():
            room = max(20, os.get_terminal_size(self.out.fileno()).columns - 1)
            self.out.write("\r\x1b[K" + f"  {seconds:6.1f} s  {step.name}  {self._last}"[:room])
            self.out.flush()
        elif now - self._beat >= _BEAT_SECONDS:
            self._beat = now
            self._say(f"  {seconds:6.1f} s  … {step.name}: {self._last[:90] or 'at work'}")

    def finish(self, now: float) -> None:
        self._end(now)

    @property
    def changes(self) -> int:
        return sum(step.changed for step in self.steps)

    def table(self) -> str:
        """Seconds of each role, in the order they came."""
        seconds: dict[str, float] = {}
        for step in self.steps:
            seconds[step.role] = seconds.get(step.role, 0.0) + step.seconds
        rows = [f"  {value:6.1f} s  {role}" for role, value in seconds.items() if value >= 0.05]
        return "\n".join(["Time of each step:", *rows])

    @property
    def _running(self) -> bool:
        return bool(self.steps) and not self.steps[-1].seconds

    def _result(self, host: str, result: str, now: float) -> None:
        if not self.steps:
            return
        step = self.steps[-1]
        step.changed |= result == "Success"
        if result.startswith("Error"):
            step.failed = True
            self._end(now)
            self._say("\n".join(f"      {said}" for said in self.said))

    def _end(self, now: float) -> None:
        if not self._running:
            return
        step = self.steps[-1]
        step.seconds = max(now - step.started, 0.001)
        if self.out.isatty():
            self.out.write("\r\x1b[K")
        if step.failed or step.changed or step.seconds >= 1:
            mark = "failed" if step.failed else "done" if step.changed else "as it was"
            self._say(f"  {step.seconds:6.1f} s  {step.name}: {mark}")

    def _say(self, text: str) -> None:
        self.out.write(text + "\n")
        self.out.flush()


def _of(host: str, text: str) -> str:
    """Says whose words they are, where there is more than this machine."""
    return text if host == _HERE else f"{host}: {text}"


def follow(command: list[str], progress: Progress, *, env: dict[str, str]) -> int:
    """Run a command, showing it through `progress`; return its exit code. What it said before its first step
    and
    after its last one is shown when it failed."""
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        if process.stdout is None:
            raise RuntimeError("no pipe to the command")
        for line in _lines(process.stdout.fileno(), progress):
            progress.line(line, time.monotonic())
    progress.finish(time.monotonic())
    return process.returncode


def _lines(pipe: int, progress: Progress) -> Iterator[str]:
    """Lines as they come; while none comes, the progress is shown every half second."""
    buffered = b""
    while True:
        if select.select([pipe], [], [], 0.5)[0]:
            chunk = os.read(pipe, 65536)
            if not chunk:
                return
            *lines, buffered = (buffered + chunk).split(b"\n")
            for line in lines:
                yield line.decode(errors="replace")
        progress.show(time.monotonic())
