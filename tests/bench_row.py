"""One row of the bench: what was measured, against what, and whether the goal was met."""

from __future__ import annotations

from pydantic import BaseModel


class BenchRow(BaseModel):
    name: str
    value: float
    unit: str
    against: str
    ratio: float | None
    goal: str
    met: bool | None
