"""CPU and memory as a site file writes them (Kubernetes quantities), and as numbers to add up. Pure.

The control plane reads them by its own rules (viewer/resources.py); a test holds both to the same examples.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, StringConstraints

_CPU = re.compile(r"(\d{1,4}(?:\.\d{1,3})?)|(\d{1,7})m", re.ASCII)
_MEMORY = re.compile(r"(\d{1,15}(?:\.\d{1,3})?)(|k|M|G|T|Ki|Mi|Gi|Ti)", re.ASCII)
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12} | {
    "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40,
}  # fmt: skip
_SMALLEST_CPU_MILLIS, _SMALLEST_MEMORY_MIB = 10, 6
"""Docker refuses less."""
_LARGEST_MEMORY_MIB = 1 << 30
"""A PiB; what is added up of many must fit the control plane's database."""


def cpu_millis(text: str) -> int:
    """Thousandths of a core: 500 for `500m`, 2000 for `2`. ValueError for anything else, or less than 10."""
    match = _CPU.fullmatch(text)
    if match is None:
        raise ValueError("is not a number of cores such as 2, 0.5 or 500m")
    millis = math.ceil(Decimal(match[1]) * 1000) if match[1] else int(match[2])
    if millis < _SMALLEST_CPU_MILLIS:
        raise ValueError("is less than a hundredth of a core")
    return millis


def memory_mib(text: str) -> int:
    """MiB, rounded up: 2048 for `2Gi`. ValueError for anything else, less than 6 MiB, or more than 1 PiB."""
    match = _MEMORY.fullmatch(text)
    if match is None:
        raise ValueError("is not a size such as 512Mi or 2Gi")
    mib = math.ceil(Decimal(match[1]) * _UNITS[match[2]] / (1 << 20))
    if mib < _SMALLEST_MEMORY_MIB:
        raise ValueError("is less than 6Mi")
    if mib > _LARGEST_MEMORY_MIB:
        raise ValueError("is more than 1024Ti")
    return mib


def _written(value: Any) -> str:
    """YAML makes a number of `8` and of `0.5`."""
    return str(value) if isinstance(value, (str, int, float)) else ""


def _is_cpu(text: str) -> str:
    cpu_millis(text)
    return text


def _is_memory(text: str) -> str:
    memory_mib(text)
    return text


_Short = StringConstraints(max_length=20)
Cpu = Annotated[str, _Short, BeforeValidator(_written), AfterValidator(_is_cpu)]
"""Cores, as `2`, `0.5` or `500m`."""
Memory = Annotated[str, _Short, BeforeValidator(_written), AfterValidator(_is_memory)]
"""Bytes, as `512Mi` or `2Gi`."""
