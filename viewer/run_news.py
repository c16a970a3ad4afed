"""What outside systems tell of runs and their sandboxes, in our words. No Flask, no SQL."""

from __future__ import annotations

import re
from enum import StrEnum

from pydantic import Field

from viewer.model import DocumentType, Frozen

LONGEST_TITLE = 120
LONGEST_ERROR = 500

_NOT_PRINTABLE = re.compile(r"[\s\x00-\x1f\x7f]+")


class What(StrEnum):
    """What has become of a sandbox, by its agent's word."""

    CREATED = "created"
    RUNNING = "running"
    TERMINATED = "terminated"
    ERROR = "error"

    @property
    def is_there(self) -> bool:
        return self in (What.CREATED, What.RUNNING)


class SandboxNews(Frozen):
    """error: one line, for the session's history."""

    event: What
    sandbox_id: str
    error: str | None = None


class BroughtDocument(Frozen):
    """What a run has brought forth. session_id: of a document that shows a sandbox, what it goes by."""

    title: str
    type: DocumentType
    content: bytes = Field(repr=False)
    media_type: str
    path: str | None = None
    session_id: str | None = None


class RunNews(Frozen):
    """One event. mission: the task that its session key names; title: for a task that has none."""

    run_id: str
    mission: str | None = None
    agent: str | None = None
    title: str | None = None
    sandbox: SandboxNews | None = None
    document: BroughtDocument | None = None


def one_line(text: str | None, longest: int) -> str | None:
    """The text without its line ends and control characters, cut to `longest`; None for an empty one."""
    line = _NOT_PRINTABLE.sub(" ", text or "").strip()
    if not line:
        return None
    return line if len(line) <= longest else f"{line[: longest - 1].rstrip()}…"
