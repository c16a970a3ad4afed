"""What is asked of the documents API."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from viewer.incoming import Label, PageQuery
from viewer.model import DocumentType

MOST_TEXT_BYTES = 1024 * 1024
MOST_FILE_BYTES = 8 * 1024 * 1024
_LABEL_WANTED = "1 to 200 printable characters"
Path = Annotated[str, StringConstraints(min_length=1, max_length=1000, pattern=r"^[^\x00-\x1f\x7f]+$")]
MediaType = Annotated[
    str, StringConstraints(max_length=100, pattern=r"^[a-z0-9][a-z0-9!#$&^_.+-]*/[a-z0-9][a-z0-9!#$&^_.+-]*$")
]


class PutDocument(BaseModel):
    """What a task has brought forth. One with the same task and path takes the place of what was there."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    title: Label = Field(description=_LABEL_WANTED)
    type: DocumentType = Field(strict=False, description=f"one of {', '.join(DocumentType)}")
    content: str = Field(
        "",
        repr=False,
        description=f"text, at most {MOST_TEXT_BYTES} bytes; of an image or a file base64 of at most"
        f" {MOST_FILE_BYTES} bytes",
    )
    encoding: Literal["text", "base64"] | None = Field(
        None, description="text or base64; not given, base64 for images and files, text for all others"
    )
    task_id: Label | None = Field(None, description=_LABEL_WANTED)
    agent_id: Label | None = Field(None, description=_LABEL_WANTED)
    session_id: Label | None = Field(None, description="the id of a session of yours")
    path: Path | None = Field(None, description="1 to 1000 printable characters")
    media_type: MediaType | None = Field(None, description="a media type such as application/pdf")
    language: Label | None = Field(None, description="of code, a name that Pygments knows, such as python")


class DocumentQuery(PageQuery):
    """All given conditions hold."""

    task_id: Label | None = Field(None, description=_LABEL_WANTED)
    session_id: Label | None = Field(None, description="the id of a session")
    type: DocumentType | None = Field(None, description=f"one of {', '.join(DocumentType)}")
