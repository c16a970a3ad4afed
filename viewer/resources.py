"""CPU and memory as OpenSandbox writes them (Kubernetes quantities), and as numbers to add up. Pure."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints

from viewer.model import Frozen

_CPU = re.compile(r"(\d{1,4}(?:\.\d{1,3})?)|(\d{1,7})m", re.ASCII)
_MEMORY = re.compile(r"(\d{1,15}(?:\.\d{1,3})?)(|k|M|G|T|Ki|Mi|Gi|Ti)", re.ASCII)
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12} | {
    "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40,
}  # fmt: skip
SMALLEST_CPU_MILLIS = 10
"""Docker refuses less than a hundredth of a core."""
SMALLEST_MEMORY_MIB = 6
"""Docker refuses less."""
LARGEST_MEMORY_MIB = 1 << 30
"""A PiB; what is added up of many must fit the database."""


def cpu_millis(text: str) -> int:
    """Thousandths of a core: 500 for `500m`, 2000 for `2`. ValueError for anything else, or less than 10."""
    match = _CPU.fullmatch(text)
    if match is None:
        raise ValueError("is not a number of cores such as 2, 0.5 or 500m")
    millis = math.ceil(Decimal(match[1]) * 1000) if match[1] else int(match[2])
    if millis < SMALLEST_CPU_MILLIS:
        raise ValueError("is less than a hundredth of a core")
    return millis


def memory_mib(text: str) -> int:
    """MiB, rounded up: 2048 for `2Gi`. ValueError for anything else, less than 6 MiB, or more than 1 PiB."""
    match = _MEMORY.fullmatch(text)
    if match is None:
        raise ValueError("is not a size such as 512Mi or 2Gi")
    mib = math.ceil(Decimal(match[1]) * _UNITS[match[2]] / (1 << 20))
    if mib < SMALLEST_MEMORY_MIB:
        raise ValueError("is less than 6Mi")
    if mib > LARGEST_MEMORY_MIB:
        raise ValueError("is more than 1024Ti")
    return mib


def _is_cpu(text: str) -> str:
    cpu_millis(text)
    return text


def _is_memory(text: str) -> str:
    memory_mib(text)
    return text


Cpu = Annotated[str, StringConstraints(max_length=20), AfterValidator(_is_cpu)]
"""Cores, as `2`, `0.5` or `500m`."""
Memory = Annotated[str, StringConstraints(max_length=20), AfterValidator(_is_memory)]
"""Bytes, as `512Mi` or `2Gi`."""


class Resources(Frozen):
    """What one sandbox reserves. cpu_millis: thousandths of a core; memory_mib: MiB."""

    cpu_millis: int = Field(ge=0)
    memory_mib: int = Field(ge=0)

    @property
    def cpu(self) -> str:
        return f"{self.cpu_millis}m"

    @property
    def memory(self) -> str:
        return f"{self.memory_mib}Mi"

    @classmethod
    def of(cls, cpu: str, memory: str) -> Resources:
        return cls(cpu_millis=cpu_millis(cpu), memory_mib=memory_mib(memory))


class Quota(Frozen):
    """What all live sandboxes of one tenant may take together, those that wait for a place included.

    cpu: in thousandths of a core; memory: in MiB. None: no limit of its own.
    """

    desktops: int | None = Field(default=None, ge=1)
    cpu_millis: int | None = Field(default=None, ge=1)
    memory_mib: int | None = Field(default=None, ge=1)
