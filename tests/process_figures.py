"""What the kernel knows of a process: memory, threads, CPU, children."""

from __future__ import annotations

import re
import time
from pathlib import Path


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def descendants_of(pid: int) -> list[int]:
    """Children, theirs, and so on."""
    found = []
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, listed.read_text().split()):
            found += [child, *descendants_of(child)]
    return found


def rss_mib(pid: int) -> float:
    return _status(pid, "VmRSS") / 1024


def threads_of(pid: int) -> int:
    return _status(pid, "Threads")


def cpu_seconds(pid: int) -> float:
    """User and system, of all its threads, to the nanosecond: /proc counts in ticks of 10 ms."""
    # The kernel's number for the clock of another process; see clock_getcpuclockid(3).
    return time.clock_gettime((~pid << 3) | 2)


def _status(pid: int, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    if found is None:
        raise LookupError(f"process {pid} says nothing of {name}")
    return int(found[1])
