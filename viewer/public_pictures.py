"""What the API says of desktops' pictures."""

from __future__ import annotations

from datetime import datetime

from pydantic import Base64Bytes, Field

from viewer.model import Frozen
from viewer.relay.answers import Picture, PictureResult


class Thumbnail(Frozen):
    """One desktop's picture, small."""

    session_id: str
    result: PictureResult = Field(
        description="`new`: `data` holds it. `same`: it is as you have it. `none`: there is none now;"
        " `detail` says why."
    )
    detail: str | None = Field(default=None, description="One sentence for a person.")
    etag: str | None = Field(
        default=None, description="Of this picture at this width; send it with the next question."
    )
    screen_width: int = Field(default=0, description="Of the screen itself, in pixels; 0 while unknown.")
    screen_height: int = 0
    changed_at: datetime | None = Field(
        default=None, description="When the screen last changed, as far as that was seen."
    )
    data: Base64Bytes | None = Field(default=None, repr=False, description="A JPEG, in base64.")


class Thumbnails(Frozen):
    """In the order of the question."""

    items: tuple[Thumbnail, ...]


def thumbnail(picture: Picture) -> Thumbnail:
    return Thumbnail(
        session_id=picture.session_id,
        result=picture.result,
        detail=_sentence(picture.detail),
        etag=picture.etag,
        screen_width=picture.screen_width,
        screen_height=picture.screen_height,
        changed_at=picture.changed_at,
        # Already read; a second look would take it for base64 again.
        data=None,
    ).model_copy(update={"data": picture.data})


def _sentence(reason: str) -> str | None:
    return f"{reason[:1].upper()}{reason[1:].rstrip('.')}." if reason else None
