"""The content of a document as it comes in: decoded, and checked for what its type says it is. No SQL."""

from __future__ import annotations

import base64
import binascii
import io
import warnings

from PIL import Image
from pydantic import BaseModel, ConfigDict, ValidationError

from viewer.document_requests import MOST_FILE_BYTES, MOST_TEXT_BYTES, PutDocument
from viewer.incoming import Label
from viewer.model import DocumentType

MOST_PIXELS = 40_000_000
LONGEST_SIDE = 16_384

IMAGE_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "GIF": "image/gif", "WEBP": "image/webp"}
"""By Pillow's word. SVG is none: it is a document that can hold scripts."""

_MEDIA_TYPES = {
    DocumentType.SANDBOX: "application/json",
    DocumentType.TEXT: "text/plain",
    DocumentType.CODE: "text/plain",
    DocumentType.MARKDOWN: "text/markdown",
    DocumentType.FILE: "application/octet-stream",
}


class UnusableContent(Exception):
    """`field` cannot be used; the message says why, `mend` what to send instead."""

    def __init__(self, message: str, mend: str, *, field: str = "content") -> None:
        super().__init__(message)
        self.field = field
        self.mend = mend


def content_of(wanted: PutDocument) -> tuple[bytes, str]:
    """The content's bytes, and the media type that they are handed out under. Raises UnusableContent."""
    data = _decoded(wanted)
    if wanted.type.is_text:
        _check_text(data)
    elif len(data) > MOST_FILE_BYTES:
        raise UnusableContent(f"has {len(data)} bytes", f"give at most {MOST_FILE_BYTES}")
    if wanted.type is DocumentType.IMAGE:
        return data, _image_type(data)
    return data, wanted.media_type or _MEDIA_TYPES[wanted.type]


def session_of(wanted: PutDocument) -> str | None:
    """The session that it names; of the type `sandbox` its content may do so, too, as OpenClaw's does. Raises
    UnusableContent where that type names none."""
    if wanted.session_id is not None or wanted.type is not DocumentType.SANDBOX:
        return wanted.session_id
    try:
        named = _Sandbox.model_validate_json(wanted.content or "{}")
    except ValidationError as error:
        raise UnusableContent("is no JSON object that names a session", 'give {"session_id": "…"}') from error
    found = named.session_id or named.sandbox_id
    if found is None:
        raise UnusableContent("is missing", "give the session that it shows", field="session_id")
    return found


class _Sandbox(BaseModel):
    """What the content of a document of the type `sandbox` may say; all else in it is for others."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    session_id: Label | None = None
    sandbox_id: Label | None = None


def _decoded(wanted: PutDocument) -> bytes:
    encoding = wanted.encoding or ("text" if wanted.type.is_text else "base64")
    if encoding == "text":
        try:
            return wanted.content.encode()
        except UnicodeEncodeError as error:
            raise UnusableContent("has half of a surrogate pair", "give Unicode text") from error
    try:
        return base64.b64decode(wanted.content, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UnusableContent("is not base64", "give base64, or `encoding: text`") from error


def _check_text(data: bytes) -> None:
    if len(data) > MOST_TEXT_BYTES:
        raise UnusableContent(
            f"has {len(data)} bytes", f"give at most {MOST_TEXT_BYTES}, or send it with the type file"
        )
    try:
        data.decode()
    except UnicodeDecodeError as error:
        raise UnusableContent("is not UTF-8", "give UTF-8 text, or send it with the type file") from error


def _image_type(data: bytes) -> str:
    """By what it is, whatever its sender calls it. Raises UnusableContent for what no browser should have to
    decode."""
    try:
        with warnings.catch_warnings():
            # Pillow warns of a size that is checked here.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=tuple(IMAGE_TYPES)) as image:
                width, height, kind = image.width, image.height, image.format or ""
                image.verify()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnusableContent(
            "is no whole PNG, JPEG, GIF or WebP",
            "give one of these, or send it (an SVG, too) with the type file",
        ) from error
    if width * height > MOST_PIXELS or max(width, height) > LONGEST_SIDE:
        raise UnusableContent(
            f"is {width} by {height} pixels", f"give at most {LONGEST_SIDE} a side and {MOST_PIXELS} in all"
        )
    return IMAGE_TYPES[kind]
