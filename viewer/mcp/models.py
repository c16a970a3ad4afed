"""What the tools take and what they answer. The server's schemas and the skill's text are made from these."""

from __future__ import annotations

import base64
from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, ValidationInfo, field_validator

from viewer.document_requests import Path
from viewer.incoming import SHORTEST_TTL_SECONDS, HelpReason, Label, normal_resolution
from viewer.input_actions import MOST_ACTIONS, AnyAction
from viewer.model import DocumentType, Frozen, Status

MOST_FILE_BYTES = 1024 * 1024
"""Of one file, either way: it passes through the agent's context."""
MOST_OUTPUT_BYTES = 64 * 1024
"""Of stdout and of stderr, each; what is beyond is left out."""
LONGEST_RUN_SECONDS = 300
USUAL_PICTURE_WIDTH = 1280
"""Models make pictures that are much larger smaller themselves, and letters on a desktop are read at this."""
WIDEST_PICTURE = 3840
"""The widest screen there is."""
MOST_PICTURE_BYTES = 3 * 1024 * 1024
"""Of a file: as base64 4 MiB, below what the models' own APIs take in one picture."""

Encoding = Literal["text", "base64"]
Language = Literal["python", "javascript", "typescript", "java", "go", "bash"]


def plain_path(text: str) -> str:
    """execd would put environment variables in place of `$NAME`, so that a path would lead somewhere else."""
    if not text.startswith("/"):
        raise ValueError("is not absolute")
    if any(part == ".." for part in text.split("/")):
        raise ValueError("has a part that is ..")
    if "$" in text or any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise ValueError("has a $ or a control character")
    return text


SandboxPath = Annotated[str, StringConstraints(max_length=4000), AfterValidator(plain_path)]
_PATH_WANTED = "an absolute path in the sandbox such as /tmp/report.csv, without `..` and `$`"
_ID_WANTED = "the `sandbox_id` that create_desktop or list_sandboxes gave"
_OWN_ID_WANTED = (
    "the `sandbox_id` of the sandbox to run it in; not given, it is the one that create_desktop of this very"
    " server made last, if that still runs"
)
_SECONDS_WANTED = f"a whole number of seconds from 1 to {LONGEST_RUN_SECONDS}, after which it is ended"

_WAIT_WANTED = f"a whole number of seconds from 0 to {LONGEST_RUN_SECONDS}, to wait until it is done"

SandboxId = Annotated[Label, Field(description=_ID_WANTED)]


class CreateDesktop(Frozen):
    image: Label = Field("opensandbox/desktop:latest", description="an image of the fleet's catalogue")
    resolution: Annotated[str, AfterValidator(normal_resolution)] = Field(
        "1280x800x24", description="WIDTHxHEIGHT or WIDTHxHEIGHTx24, from 640x480 to 3840x2160"
    )
    task_id: Label | None = Field(None, description="the task it is for, 1 to 200 printable characters")
    agent_id: Label | None = Field(None, description="the agent it is for, 1 to 200 printable characters")
    ttl_seconds: int | None = Field(
        None,
        ge=SHORTEST_TTL_SECONDS,
        description="how long it lives, a whole number of seconds from 60; the fleet's own if not given",
    )
    idle_seconds: int = Field(
        1800, ge=SHORTEST_TTL_SECONDS, description="it ends when nobody used it for so many seconds"
    )
    idempotency_key: Annotated[str, StringConstraints(pattern=r"^[!-~]{1,200}$")] | None = Field(
        None,
        description="a text of your choice, 1 to 200 printable characters: the same one finds, for 24 hours,"
        " what it made first",
    )


class Desktop(Frozen):
    sandbox_id: str = Field(description="What every other tool takes.")
    vnc_endpoint: str | None = Field(
        description="The screen as a WebSocket (subprotocol `binary`, RFB 3.8), which needs your key. There"
        " is no VNC port to connect to."
    )
    novnc_url: str | None = Field(
        description="A page that shows the desktop and nothing else, for people who are signed in."
    )
    devtools_url: str | None = Field(
        description="A page for people, with Chrome DevTools of its browser; null: the image has none."
    )
    page_url: str = Field(description="Where people find it in the viewer.")
    status: Status
    expires_at: datetime | None


class GetPreviewUrl(Frozen):
    sandbox_id: SandboxId


class Preview(Frozen):
    novnc_url: str | None = Field(description="A page with the live screen; null where there is no screen.")
    vnc_endpoint: str | None = Field(description="As create_desktop gives it.")
    status: Status


class ListSandboxes(Frozen):
    pass


class Listed(Frozen):
    id: str
    status: Status
    image: str
    created_at: datetime
    expires_at: datetime | None


class SandboxList(Frozen):
    sandboxes: tuple[Listed, ...] = Field(description="Your tenant's that are not over, newest first.")
    note: str | None = Field(description="That there are more than these; null otherwise.")


class TerminateSandbox(Frozen):
    sandbox_id: SandboxId


class TerminatedSandbox(Frozen):
    sandbox_id: str
    status: Status = Field(description="`terminated`, or `error` for one that had failed: it is gone.")


class TakeScreenshot(Frozen):
    sandbox_id: SandboxId
    width: int = Field(
        USUAL_PICTURE_WIDTH,
        ge=64,
        le=WIDEST_PICTURE,
        description=f"a whole number of pixels from 64 to {WIDEST_PICTURE}, proportions kept; a screen that"
        " is narrower comes as it is",
    )
    format: Literal["jpeg", "png"] = Field("jpeg", description="jpeg, which is small, or png, which is exact")


class Screenshot(Frozen):
    """The picture itself stands beside it."""

    sandbox_id: str
    screen_width: int | None = Field(description="Of the desktop itself, in pixels; null: not known.")
    screen_height: int | None
    scale: float | None = Field(
        description="A place in the picture times this is the place on the screen, which send_input takes."
    )


class SendInput(Frozen):
    sandbox_id: SandboxId
    actions: Annotated[tuple[AnyAction, ...], Field(strict=False)] = Field(
        description="what to do, in order and as one gesture: nothing else comes in between, and nothing"
        " stays pressed",
        json_schema_extra={"minItems": 1, "maxItems": MOST_ACTIONS},
    )


class AskForPerson(Frozen):
    sandbox_id: SandboxId
    reason: HelpReason = Field(description="what a person is to do there, in 1 to 300 printable characters")
    wait_seconds: int = Field(60, ge=0, le=LONGEST_RUN_SECONDS, description=_WAIT_WANTED)


class WaitForPerson(Frozen):
    sandbox_id: SandboxId
    wait_seconds: int = Field(60, ge=0, le=LONGEST_RUN_SECONDS, description=_WAIT_WANTED)


class PersonsWord(Frozen):
    sandbox_id: str
    is_done: bool = Field(description="False: nobody has said so yet; call wait_for_person again.")
    done_by: str | None = Field(
        description="Who said that it is done; null: nobody yet, or nobody was called."
    )


class ExecuteShell(Frozen):
    command: Annotated[str, StringConstraints(min_length=1, max_length=100_000)] = Field(
        description="a command line for the sandbox's shell"
    )
    sandbox_id: Label | None = Field(None, description=_OWN_ID_WANTED)
    background: bool = Field(False, description="true to be answered when it has begun, not when it ends")
    timeout_seconds: int = Field(60, ge=1, le=LONGEST_RUN_SECONDS, description=_SECONDS_WANTED)


class Executed(Frozen):
    stdout: str
    stderr: str
    exit_code: int | None = Field(description="Null where it has none: it runs on, or was ended.")
    execution_time_ms: int
    note: str | None = Field(description="What the rest does not say: that it was ended, or output cut.")


class ExecuteCode(Frozen):
    language: Language = Field(description="python, javascript, typescript, java, go or bash")
    code: Annotated[str, StringConstraints(min_length=1, max_length=500_000)] = Field(
        description="the program's text"
    )
    timeout_seconds: int = Field(60, ge=1, le=LONGEST_RUN_SECONDS, description=_SECONDS_WANTED)
    sandbox_id: Label | None = Field(None, description=_OWN_ID_WANTED)


class ExecutedCode(Executed):
    result: str | None = Field(description="The value of the last expression, where the language has that.")


class PutADocument(Frozen):
    title: Label = Field(description="1 to 200 printable characters")
    type: DocumentType = Field(
        description="what it is shown as: markdown, text, code, image, file, or sandbox for a live desktop"
    )
    content: str = Field(
        "", description="text; of an image or a file base64; of a sandbox nothing, but give sandbox_id"
    )
    task_id: Label | None = Field(None, description="the task that it belongs to")
    sandbox_id: Label | None = Field(None, description="the sandbox that it comes from, or shows")
    path: Path | None = Field(
        None, description="where you have it: the same path of the same task takes its old content's place"
    )
    language: Label | None = Field(None, description="of code, such as python")


class DocumentPut(Frozen):
    document_id: str
    page_url: str = Field(description="Where people read it.")


class UploadFile(Frozen):
    sandbox_id: SandboxId
    path: SandboxPath = Field(description=_PATH_WANTED)
    # Before `content`, which is checked by it.
    encoding: Encoding = Field("text", description="what `content` is: text or base64")
    content: str = Field(description=f"text, or base64, of at most {MOST_FILE_BYTES} bytes")

    @field_validator("content")
    @classmethod
    def content_fits(cls, content: str, info: ValidationInfo) -> str:
        if len(_bytes_of(content, info.data.get("encoding", "text"))) > MOST_FILE_BYTES:
            raise ValueError("is too large")
        return content

    @property
    def data(self) -> bytes:
        return _bytes_of(self.content, self.encoding)


def _bytes_of(content: str, encoding: Encoding) -> bytes:
    if encoding == "text":
        return content.encode()
    try:
        return base64.b64decode(content, validate=True)
    except ValueError as error:
        raise ValueError("is not base64") from error


class Uploaded(Frozen):
    path: str
    size_bytes: int


class DownloadFile(Frozen):
    sandbox_id: SandboxId
    path: SandboxPath = Field(description=_PATH_WANTED)


class Downloaded(Frozen):
    content: str
    encoding: Encoding = Field(description="`base64` for what is not UTF-8 text.")
    size_bytes: int

    @classmethod
    def of(cls, data: bytes) -> Downloaded:
        try:
            return cls(content=data.decode(), encoding="text", size_bytes=len(data))
        except UnicodeDecodeError:
            return cls(content=base64.b64encode(data).decode(), encoding="base64", size_bytes=len(data))
