"""What an OpenClaw host tells of its runs: the body of its events, field by field.

Addresses in it are read and forgotten: where a desktop is seen is for us alone to say.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
)
from pydantic_core import from_json

from viewer.document_content import UnusableContent, content_of, session_of
from viewer.document_requests import PutDocument
from viewer.incoming import Label, normal_resolution
from viewer.model import DocumentType
from viewer.run_news import BroughtDocument, What, one_line

SANDBOX = "sandbox"
"""The action, and the document's type, of an event about a sandbox."""

DOCUMENT = "document"
"""The action of an event that brings one."""

LATEST_TIME = 1e15
"""Milliseconds since 1970 fit in, for some thirty thousand years."""

_MISSION = re.compile(r"mission:(.+)", re.DOTALL)
_TASK: TypeAdapter[str] = TypeAdapter(Label)


def _without_nul(text: str) -> str:
    if "\x00" in text:
        raise ValueError("has a NUL character")
    return text


Text = Annotated[str, AfterValidator(_without_nul)]


def _some_time(value: str | int | float) -> str | int | float:
    if isinstance(value, str):
        return _without_nul(value)
    if not 0 <= value <= LATEST_TIME:
        raise ValueError("is no time")
    return value


Time = Annotated[str | int | float, AfterValidator(_some_time)]
"""Nothing comes of it: events are ordered by what they say of a session, not by when they say so."""


SandboxId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
"""As OpenSandbox gives them out, and nothing that could lead elsewhere in an address."""


class SandboxContent(BaseModel):
    """What `document.content` holds, as JSON in a string."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    event: What = Field(description=f"one of {', '.join(What)}")
    sandbox_id: SandboxId = Field(description="the id that OpenSandbox gave the sandbox")
    novnc_url: Text | None = Field(None, description="any text; it is not used", repr=False)
    vnc_endpoint: Text | None = Field(None, description="any text; it is not used", repr=False)
    devtools_url: Text | None = Field(None, description="any text; it is not used", repr=False)
    image: Label | None = Field(None, description="1 to 200 printable characters")
    resolution: Annotated[str, AfterValidator(normal_resolution)] | None = Field(
        None, description="WIDTHxHEIGHT such as 1280x800, from 640x480 to 3840x2160"
    )
    error: Text | None = Field(None, description="text without NUL characters")


class OpenClawDocument(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    title: Text = Field(description="text without NUL characters")
    content: Text = Field(description="text without NUL characters; of a sandbox JSON", repr=False)
    type: Text = Field(description="text without NUL characters; of a sandbox `sandbox`")
    path: Text | None = Field(None, description="text without NUL characters")


class OpenClawEvent(BaseModel):
    """One event of a run. `action` says of what kind: `start`, `progress`, `document`, `end`, `error`,
    `sandbox`, or any other word."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    run_id: Label = Field(alias="runId", description="1 to 200 printable characters")
    action: Label = Field(description="a word such as start, end or sandbox")
    session_key: Text | None = Field(
        None, alias="sessionKey", description="text such as mission:<id of a task>"
    )
    agent_id: Label | None = Field(None, alias="agentId", description="1 to 200 printable characters")
    timestamp: Time | None = Field(None, description="a time, as text or as a number")
    error: Text | None = Field(None, description="text without NUL characters")
    prompt: Text | None = Field(None, description="text without NUL characters")
    source: Text | None = Field(None, description="text without NUL characters")
    message: Text | None = Field(None, description="text without NUL characters")
    response: Text | None = Field(None, description="text without NUL characters")
    event_type: Text | None = Field(None, alias="eventType", description="text without NUL characters")
    document: OpenClawDocument | None = Field(None, description="an object with title, content and type")


class NotNews(Exception):
    """The document says nothing of a sandbox; `field` is the one at fault."""

    def __init__(self, field: str, message: str, mend: str) -> None:
        super().__init__(message)
        self.field = field
        self.mend = mend


class NewsRefused(Exception):
    """Fields of `document.content` cannot be used; `problem` says which."""

    def __init__(self, problem: ValidationError) -> None:
        super().__init__(str(problem.title))
        self.problem = problem


def sandbox_content(event: OpenClawEvent) -> SandboxContent | None:
    """What it tells of a sandbox; None for an event about something else. Raises NotNews, NewsRefused."""
    if event.action != SANDBOX:
        return None
    if event.document is None:
        raise NotNews("document", "is missing", "give an object with title, content and type")
    if event.document.type != SANDBOX:
        raise NotNews("document.type", f"is not {SANDBOX}", f"give {SANDBOX!r}")
    try:
        value: object = from_json(event.document.content, allow_inf_nan=False)
    except ValueError as error:
        raise NotNews(
            "document.content", f"is not JSON: {error}", "give a JSON object in a string"
        ) from error
    if not isinstance(value, dict):
        raise NotNews("document.content", "is not a JSON object", "give `{…}` in a string")
    try:
        return SandboxContent.model_validate(value)
    except ValidationError as error:
        raise NewsRefused(error) from error


def document_of(event: OpenClawEvent) -> BroughtDocument | None:
    """The document that it brings; None for any other event. Raises UnusableContent."""
    told = event.document
    if event.action != DOCUMENT or told is None:
        return None
    title, path = one_line(told.title, _LONGEST_TITLE) or "Untitled", one_line(told.path, _LONGEST_PATH)
    kind = _TYPES.get(told.type.lower(), DocumentType.TEXT)
    wanted = PutDocument(title=title, type=kind, content=told.content, path=path)
    try:
        content, media_type = content_of(wanted)
    except UnusableContent:
        if kind.is_text:
            raise
        # An address, or whatever else its agent calls a picture or a file: its text says more than nothing.
        wanted = wanted.model_copy(update={"type": DocumentType.TEXT})
        content, media_type = content_of(wanted)
    return BroughtDocument(
        title=title,
        type=wanted.type,
        content=content,
        media_type=media_type,
        path=path,
        session_id=session_of(wanted),
    )


_LONGEST_TITLE, _LONGEST_PATH = 200, 1000
_TYPES = {**{kind.value: kind for kind in DocumentType}, "md": DocumentType.MARKDOWN}
"""What OpenClaw calls them; any other word is text."""


def mission_of(session_key: str | None) -> str | None:
    """The task that a session key names, whatever stands before it; None when it names none. Raises NotNews
    for what cannot be a task's id."""
    found = _MISSION.search(session_key or "")
    if found is None:
        return None
    try:
        return _TASK.validate_python(found[1])
    except ValidationError as error:
        raise NotNews(
            "sessionKey", "names no task", "give mission: and 1 to 200 printable characters"
        ) from error
