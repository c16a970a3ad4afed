"""What the groups of the bench work out of their measurements."""

from __future__ import annotations

from collections.abc import Sequence


def percentile(values: Sequence[float], part: int) -> float:
    """The value that `part` percent of them do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * part // 100)]
