"""What a diagnosis says, as types: for the API and its clients."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from pydantic import Field

from viewer.model import Frozen


class StepName(StrEnum):
    ROW = "row"
    HOST = "host"
    CONTAINER = "container"
    VNC_PORT = "vnc-port"
    RELAY = "relay"
    AUTHORISATION = "authorisation"
    WEBSOCKET = "websocket"
    FIRST_FRAME = "first-frame"


class StepState(StrEnum):
    """`warn`: it works, but something is worth knowing. `skipped`: not looked at; `what` says why."""

    OK = "ok"
    WARN = "warn"
    FAILED = "failed"
    SKIPPED = "skipped"


class DiagnosisStep(Frozen):
    step: StepName
    state: StepState
    what: str = Field(description="One sentence: what was found.")
    mend: str | None = Field(default=None, description="What to do about it; null where nothing is to do.")
    took_ms: float


class Diagnosis(Frozen):
    """All steps, in the order in which a picture travels. ok: none has failed. summary: the step that
    matters, in words."""

    session_id: str
    at: datetime
    ok: bool
    summary: str
    steps: tuple[DiagnosisStep, ...]
